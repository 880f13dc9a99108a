"""`beamish component`: which components are connected."""

import sys
from typing import Any, Final

import typer
from rich.table import Table

from beamish.cli.console import ConfigOption, JsonOption, config_file, load_or_exit, print_json, run_command, screen

commands = typer.Typer(help="Components; the server must be running.", no_args_is_help=True)

_COLUMNS: Final = ("domain", "state", "peer", "in", "out", "age", "idle")


@commands.callback()
def _component() -> None:
    """Components; the server must be running."""


@commands.command("list")
def list_components(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the configured components, and what went through the streams of those that are connected."""
    components = run_command(load_or_exit(config_file(config)), "component.list", {})
    if as_json:
        print_json(components)
    elif sys.stdout.isatty():
        table = Table(*_COLUMNS, caption=f"{len(components)} in all")
        for component in components:
            table.add_row(*_row(component))
        screen().print(table)
    else:
        for component in components:
            print("\t".join(_row(component)))


def _row(component: dict[str, Any]) -> list[str]:
    """One line of the list."""
    state = "connected" if component["connected"] else f"away, {n} waiting" if (n := component["queued"]) else "away"
    return [component["domain"], state, *(str(component.get(column, "-")) for column in _COLUMNS[2:])]
