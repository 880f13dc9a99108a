"""The command catalogue on the command line: `beamish GROUP VERB …` for every `group.verb` that a module declares.

Made from the modules' declarations alone; what a command does happens in the server, or on its data if none runs.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from beamish.cli.console import (
    ConfigOption,
    JsonOption,
    config_file,
    load_or_exit,
    print_json,
    run_command,
    screen,
)
from beamish.core.commands import Command, CommandMark, Kind, Parameter
from beamish.core.registry import ModuleError, discover, shipped

_ABOUT = {
    "admins": "Administrators.",
    "announce": "Announcements.",
    "blacklist": "Who may not communicate with this server.",
    "directory": "The user directory.",
    "invite": "Invitations. Without a verb: make one for an account of any name.",
    "mam": "Message archives.",
    "motd": "The message of the day.",
    "muc": "Rooms.",
    "offline": "Messages stored for those who are away.",
    "outbox": "What is kept for other servers until they have confirmed it.",
    "push": "Push notifications.",
    "report": "Reports of abuse.",
    "server": "The running server.",
    "sm": "Stream management: sessions that wait for their clients.",
    "users": "Counts and lists of users.",
    "welcome": "The message for new accounts.",
    "whitelist": "Who alone may communicate with this server.",
}


def declared(modules: Sequence[Any]) -> list[Command]:
    """The commands that module classes declare, by name."""
    found = []
    for module in modules:
        for name in dir(module):
            method = getattr(module, name)
            for mark in getattr(method, "__beamish__", ()):
                if isinstance(mark, CommandMark):
                    found.append(Command.of(mark, module.name, method))
    return sorted(found, key=lambda command: command.name)


def add_to(root: typer.Typer, groups: Mapping[str, typer.Typer]) -> None:
    """Add every declared command; into `groups` where one has the name already, and not over what is there."""
    known = dict(groups)
    try:
        modules = discover()
    except ModuleError:  # of another package: whoever needs the configuration is told
        modules = shipped()
    for command in declared(modules):
        group, _, verb = command.name.partition(".")
        into = known.get(group)
        if into is None:
            into = known[group] = typer.Typer(help=_ABOUT.get(group, f"Commands of {command.owner}."))
            into.callback(invoke_without_command=group == "invite")(_only_group if group != "invite" else _invite)
            root.add_typer(into, name=group, no_args_is_help=group != "invite")
        taken = {info.name or getattr(info.callback, "__name__", "") for info in into.registered_commands}
        if verb not in taken and verb.replace("-", "_") not in taken:
            into.command(verb, help=_help(command))(_runner(command))


def _only_group() -> None:
    """A group of commands."""


def _invite(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Without a verb: an invitation to make an account, of any name."""
    if context.invoked_subcommand is None:
        tell(run_command(load_or_exit(config_file(config)), "invite.create", {}), as_json)


def _help(command: Command) -> str:
    about = inspect.cleandoc(command.run.__doc__ or "")
    lines = (
        [f"{command.summary}.", "", about]
        if about and about.rstrip(".") != command.summary
        else [f"{command.summary}."]
    )
    return "\n".join([*lines, "", "Needs a running server."] if command.live else lines)


def _runner(command: Command) -> Callable[..., None]:
    """A function with the signature from which typer makes the command's arguments and options."""

    def run(**given: Any) -> None:
        config, as_json = given.pop("config"), given.pop("as_json")
        arguments = {name: value for name, value in given.items() if value not in (None, [])}
        tell(run_command(load_or_exit(config_file(config)), command.name, arguments), as_json)

    own = [_parameter(parameter) for parameter in command.parameters]
    shared = [
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption),
        inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption),
    ]
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
    run.__name__ = command.name.replace(".", "_").replace("-", "_")
    return run


def _parameter(parameter: Parameter) -> inspect.Parameter:
    """Required ones and lists are arguments, a password is asked for, everything else is an option."""
    about = parameter.label + (f": {', '.join(parameter.options)}" if parameter.options else "")
    several = parameter.many or parameter.each
    type_: Any = {Kind.NUMBER: int, Kind.BOOLEAN: bool}.get(parameter.kind, str)
    default: Any = inspect.Parameter.empty if parameter.required else parameter.default
    if several:
        type_ = list[str]
        default = [] if parameter.many and not parameter.required else default
    shown: Any
    if parameter.kind is Kind.SECRET:
        shown = typer.Option(help=about, prompt=parameter.required, hide_input=True)
    elif parameter.required or several:
        shown = typer.Argument(help=about, metavar=parameter.name.upper() + ("…" if several else ""))
    else:
        shown = typer.Option(f"--{parameter.name.replace('_', '-')}", help=about)
        type_ = type_ | None if default is None else type_
    return inspect.Parameter(
        parameter.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type_, shown]
    )


def tell(result: Any, as_json: bool) -> None:
    """Show a result: JSON for programs, tables and lines for people."""
    if as_json:
        print_json(result)
    elif isinstance(result, list) and result and all(isinstance(row, dict) for row in result):
        _table(result)
    elif isinstance(result, dict):
        for key, value in result.items():
            _line(key, value, alone=len(result) == 1)
    elif isinstance(result, list):
        for value in result:
            print(_cell(value))
    elif result is not None:
        print(result)


def _line(key: str, value: Any, *, alone: bool) -> None:
    if isinstance(value, list) and all(not isinstance(each, dict | list) for each in value):
        for each in value if alone else [", ".join(map(_cell, value))]:
            print(each if alone else f"{key}: {each}")
    elif isinstance(value, list):
        print(f"{key}:")
        for each in value:
            print(f"  {_cell(each)}")
    else:
        print(_cell(value) if alone else f"{key}: {_cell(value)}")


def _table(rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(_cell(row.get(column)) for column in columns))
        return
    table = Table(*columns, caption=f"{len(rows)} in all")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    screen().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return " ".join(f"{key}={_cell(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value)
