"""The test kit, shipped with the server: for its own tests and for projects that test against it.

`World` is a whole server in memory with a clock that stands still; `LiveServer` is one on real sockets with throw-away
certificates, and `ServerThread` puts it into a thread; `Client` speaks raw XML to them; `match` compares XML.
`beamish.testing.plugin` makes fixtures of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from beamish.testing.client import Client, ClientError
    from beamish.testing.clock import FakeClock
    from beamish.testing.live import LiveServer
    from beamish.testing.match import mismatch
    from beamish.testing.thread import ServerThread
    from beamish.testing.world import World

__all__ = ["Client", "ClientError", "FakeClock", "LiveServer", "ServerThread", "World", "mismatch"]

_WHERE: Final = {
    "Client": "client",
    "ClientError": "client",
    "FakeClock": "clock",
    "LiveServer": "live",
    "ServerThread": "thread",
    "World": "world",
    "mismatch": "match",
}


def __getattr__(name: str) -> object:
    """Fetched when asked for: pytest loads the plugin, and with it this package, in projects that want none of it."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
