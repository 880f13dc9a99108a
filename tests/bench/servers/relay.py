"""The relay under a server's process control: the floor that chat, ping and rooms are compared with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from tests.bench.servers.base import Server

_PROGRAM = Path(__file__).parents[1] / "relay.py"


class Relay(Server):
    """The relay on uvloop, which is what Beamish runs on."""

    name = "relay"
    mechanism = "PLAIN"
    _loop: ClassVar[str] = "uvloop"

    async def prepare(self) -> None:
        """It has no configuration."""

    def command(self) -> list[str]:
        """A program of one file."""
        return [sys.executable, str(_PROGRAM), str(self.address.port), self._loop]

    async def version(self) -> str:
        """Name the loop."""
        return f"relay ({self._loop}, lxml)"


class RelayAsyncio(Relay):
    """The relay on the standard library's own loop."""

    name = "relay-asyncio"
    _loop = "asyncio"
