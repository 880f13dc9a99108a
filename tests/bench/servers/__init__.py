"""The servers under test, one file each.

Every server gets its packaged set of features with rate limits off, listens only on the loopback, and stores SCRAM
keys. What is installed system-wide is left alone: own configuration, ports, data. To add a server, write a subclass of
`Server` and enter it in `SERVERS`. `relay` is no XMPP server but the floor under one: see `tests/bench/relay.py`.
"""

from __future__ import annotations

from tests.bench.servers.base import Server, Setting
from tests.bench.servers.beamish import Beamish
from tests.bench.servers.ejabberd import Ejabberd
from tests.bench.servers.prosody import Prosody
from tests.bench.servers.relay import Relay, RelayAsyncio

__all__ = ["SERVERS", "Server", "Setting"]

SERVERS: dict[str, type[Server]] = {server.name: server for server in (Beamish, Prosody, Ejabberd, Relay, RelayAsyncio)}
