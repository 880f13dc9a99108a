"""`beamish s2s`: the streams with other servers, and what an attempt to connect to one does."""

import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from beamish.cli.console import ConfigOption, JsonOption, config_file, load_or_exit, print_json, run_command, screen
from beamish.config.values import domain_name

commands = typer.Typer(help="Streams with other servers; the server must be running.", no_args_is_help=True)

_COLUMNS = ("direction", "local", "remote", "method", "tls", "peer", "in", "out", "idle")


def _domain(text: str) -> str:
    try:
        return domain_name(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from None


Domain = Annotated[str, typer.Argument(metavar="DOMAIN", parser=_domain, help="A domain that is served elsewhere.")]


@commands.command("list")
def list_streams(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the streams, and the domains that stanzas wait for."""
    streams = run_command(load_or_exit(config_file(config)), "s2s.list", {})
    if as_json:
        print_json(streams)
    elif sys.stdout.isatty():
        table = Table(*_COLUMNS, caption=f"{len(streams)} in all")
        for stream in streams:
            table.add_row(*_row(stream))
        screen().print(table)
    else:
        for stream in streams:
            print("\t".join(_row(stream)))


def _row(stream: dict[str, Any]) -> list[str]:
    """One line of the list: a stream, or a domain without one and the reason."""
    if stream["direction"] == "waiting":
        told = stream["reason"] or stream["state"]
        return ["waiting", stream["local"], stream["remote"], told, "", "", "", str(stream["queued"]), ""]
    return [str(stream.get(column) or ("0" if column in ("in", "out", "idle") else "-")) for column in _COLUMNS]


@commands.command("test")
def try_domain(
    domain: Domain,
    sender: Annotated[
        str | None, typer.Option("--from", parser=_domain, help="Which of our domains to be; the first by default.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Connect to the server of a domain and tell each step: names, addresses, TLS, certificate, authentication.

    Ends with exit code 1 if stanzas could not be exchanged.
    """
    args = {"domain": domain} | ({"sender": sender} if sender else {})
    result = run_command(load_or_exit(config_file(config)), "s2s.test", args)
    if as_json:
        print_json(result)
    else:
        for step in result["steps"]:
            print(step)
    if not result["ok"]:
        raise typer.Exit(1)
