"""The `beamish` command: serve, config, user, s2s, component, dev."""

import sys
from typing import Annotated

import typer

from beamish import __version__
from beamish.cli import catalogue, check, component, dev, s2s, transfer, user
from beamish.cli.serve import serve

# Never with local variables in a traceback: passwords are among them.
commands = typer.Typer(
    name="beamish",
    help="An XMPP server.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    pretty_exceptions_enable=sys.stderr.isatty(),  # no frames drawn into the journal
)
commands.command()(serve)
commands.add_typer(check.commands, name="config")
transfer.add_to(user.commands)
commands.add_typer(user.commands, name="user")
commands.add_typer(s2s.commands, name="s2s")
commands.add_typer(component.commands, name="component")
commands.add_typer(dev.commands, name="dev")
catalogue.add_to(commands, {"user": user.commands})


def _version(wanted: bool) -> None:
    if wanted:
        print(f"beamish {__version__}")
        raise typer.Exit


@commands.callback()
def beamish(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """An XMPP server."""


def main() -> None:
    """Entry point of the console script."""
    commands()
