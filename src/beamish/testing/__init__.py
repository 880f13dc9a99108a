"""The test kit, shipped with the server: for its own tests and for projects that test against it.

`World` is a whole server in memory with a clock that stands still; `LiveServer` is one on real sockets with throw-away
certificates; `Client` speaks raw XML to either; `match` compares XML. `beamish.testing.plugin` makes fixtures of them.
"""

from beamish.testing.client import Client, ClientError
from beamish.testing.clock import FakeClock
from beamish.testing.live import LiveServer
from beamish.testing.match import mismatch
from beamish.testing.world import World

__all__ = ["Client", "ClientError", "FakeClock", "LiveServer", "World", "mismatch"]
