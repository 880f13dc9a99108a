"""Administrative commands: declared once in modules (`@command`), used by the command line and everything else."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from beamish.xmpp.errors import StanzaError

log = structlog.get_logger(__name__)


class CommandError(Exception):
    """A command could not be carried out; the text is for the administrator."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the catalogue. `run` takes keyword arguments and returns something JSON can carry."""

    name: str
    summary: str
    owner: str
    run: Callable[..., Awaitable[Any] | Any]

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Name → parameter, as declared by the method."""
        return dict(inspect.signature(self.run).parameters)


class Commands:
    """The catalogue of one kernel."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}

    def add(self, command: Command) -> None:
        """Register a command; names are unique."""
        if command.name in self._commands:
            raise ValueError(f"command {command.name} is declared twice")
        self._commands[command.name] = command

    def remove(self, owner: str) -> None:
        """Remove the commands of one owner."""
        self._commands = {n: c for n, c in self._commands.items() if c.owner != owner}

    def __iter__(self) -> Any:
        return iter(sorted(self._commands.values(), key=lambda c: c.name))

    async def run(self, name: str, arguments: dict[str, Any]) -> Any:
        """Run a command. Raises `CommandError` for an unknown one, wrong arguments, or when it fails."""
        command = self._commands.get(name)
        if command is None:
            raise CommandError(f"there is no command {name}")
        try:
            inspect.signature(command.run).bind(**arguments)
        except TypeError as exc:
            raise CommandError(f"{name}: {exc}") from exc
        try:
            result = command.run(**arguments)
            if inspect.isawaitable(result):
                result = await result
        except StanzaError as exc:
            raise CommandError(exc.text or exc.condition.value) from exc
        log.info("command_run", command=name)
        return result
