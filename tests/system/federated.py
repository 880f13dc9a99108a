"""Two server processes that federate with each other: a.example and b.example."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path

from tests.system.conftest import Daemon

from beamish.testing import Client
from beamish.testing.federated import Authority
from beamish.testing.live import connect

CONFIG = """\
[server]
domains = ["{domain}"]
data_dir = "data"
shutdown_grace = 5
log = {{ level = "{level}", format = "json" }}
[c2s]
listen = ["127.0.0.1:0"]
direct_tls = []
require_tls = false
scram_iterations = 4096
[tls]
certificate = "{certificate}"
key = "{key}"
[s2s]
listen = ["127.0.0.1:{port}"]
direct_tls = []
trust = "{trust}"
retry_seconds = 60
resume_seconds = 20
hosts = {{ "{other}" = "127.0.0.1:{other_port}" }}
stanzas_per_second = 1000000
bytes_per_second = 1000000000
[limits]
stanzas_per_second = 1000000
stanza_burst = 1000000
bytes_per_second = 1000000000
bytes_burst = 1000000000
connections_per_address = 10000
{rest}
"""


def free_ports(number: int) -> list[int]:
    """Different ones: the probes are open together."""
    ports = []
    with ExitStack() as probes:
        for _ in range(number):
            probe = probes.enter_context(closing(socket.socket()))
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
    return ports


class Server(Daemon):
    """One of the two. `rest` is more configuration, from the table that it names on."""

    def __init__(
        self,
        root: Path,
        authority: Authority,
        domain: str,
        port: int,
        other: str,
        other_port: int,
        *,
        level: str = "info",
        rest: str = "",
    ) -> None:
        directory = root / domain
        directory.mkdir()
        super().__init__(directory)
        certificate, key = authority.issue(domain)
        self.domain = domain
        self.up = asyncio.Event()
        self.config = CONFIG.format(
            domain=domain,
            certificate=certificate,
            key=key,
            port=port,
            trust=authority.file,
            other=other,
            other_port=other_port,
            level=level,
            rest=rest,
        )

    async def open(self) -> Client:
        """A connection, as soon as the server runs."""
        await self.up.wait()
        return await connect("127.0.0.1", self.port, self.domain)

    async def begin(self) -> None:
        """Start it, and let clients come."""
        await self.start()
        self.up.set()

    async def end(self, number: signal.Signals) -> None:
        """End it by a signal."""
        self.up.clear()
        self.signal(number)
        await self.ended()


@asynccontextmanager
async def two_servers(directory: Path, *, level: str = "info", rest: str = "") -> AsyncIterator[tuple[Server, Server]]:
    """Neither is started yet; both are killed in the end."""
    authority = Authority(directory)
    ports = free_ports(2)
    async with (
        Server(directory, authority, "a.example", ports[0], "b.example", ports[1], level=level, rest=rest) as a,
        Server(directory, authority, "b.example", ports[1], "a.example", ports[0], level=level, rest=rest) as b,
    ):
        assert isinstance(a, Server) and isinstance(b, Server)
        yield a, b
