"""A whole server in memory: the real kernel, modules, stream machines and connections over storage, clock and sockets that
tests control."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

from beamish.app import c2s_server, chosen_modules
from beamish.config import Config, build_root
from beamish.core.kernel import Kernel
from beamish.core.log import configure_events
from beamish.core.module import Module
from beamish.core.registry import discover
from beamish.core.services import AccountsService
from beamish.net.c2s import C2SConnection
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.clock import FakeClock
from beamish.xmpp.jid import JID

PASSWORD = "correct horse"
ACCOUNTS = (
    "romeo@example.org",
    "juliet@example.org",
    "mercutio@example.org",
    "nurse@example.org",
    "benvolio@example.net",
)


def log_to_handlers() -> None:
    """Events go to the loggers `beamish.…` of the standard library, where pytest and others see them, unless the process has
    said what structlog is to do; else it would print every one of them.
    """
    if not structlog.is_configured():
        configure_events([structlog.stdlib.render_to_log_kwargs], cache=False)


class MemoryTransport(asyncio.Transport):
    """A transport that carries bytes to a `Client` in the same loop.

    `stuck` makes it take nothing more, like a peer that does not read: what is written then counts as unsent.
    """

    def __init__(self, protocol: C2SConnection, client: Client) -> None:
        super().__init__({"peername": ("192.0.2.1", 4096)})
        self._protocol = protocol
        self._client = client
        self._closing = False
        self._reading = True
        self._waiting: list[bytes] = []
        self._unread = 0
        self.stuck = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See `asyncio.WriteTransport`."""

    def get_write_buffer_size(self) -> int:
        """See `asyncio.WriteTransport`."""
        return self._unread

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """See `asyncio.WriteTransport`."""
        if self._closing:
            return
        if self.stuck:
            self._unread += len(data)
            self._protocol.pause_writing()
        else:
            self._client.feed(bytes(data))

    def receive(self, data: bytes) -> None:
        """Bytes from the client arrive, when the server reads."""
        if self._closing:
            return
        if self._reading:
            self._protocol.data_received(data)
        else:
            self._waiting.append(data)

    def pause_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._reading = False

    def resume_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._reading = True
        while self._reading and self._waiting and not self._closing:
            self._protocol.data_received(self._waiting.pop(0))

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._closing

    def close(self) -> None:
        """See `asyncio.BaseTransport`."""
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._gone, None)

    def abort(self) -> None:
        """See `asyncio.WriteTransport`."""
        self.close()

    def break_off(self) -> None:
        """The network cuts the connection."""
        if not self._closing:
            self._closing = True
            self._gone(ConnectionResetError("cut"))

    def _gone(self, error: Exception | None) -> None:
        self._protocol.connection_lost(error)
        self._client.lost()


class World:
    """An async context manager: a running server without sockets.

    `settings` is merged into the default configuration (`{"limits": {"stanza_bytes": 10_000}}`); TLS is not required.
    `accounts` are made with the password `PASSWORD`. `modules` replaces the default set of modules; `extra` adds some.
    """

    def __init__(
        self,
        *,
        domains: Sequence[str] = ("example.org", "example.net"),
        accounts: Sequence[str] = ACCOUNTS,
        settings: dict[str, Any] | None = None,
        modules: Sequence[type[Module]] | None = None,
        extra: Sequence[type[Module]] = (),
        database: MemoryDatabase | None = None,
    ) -> None:
        self._domains = tuple(domains)
        self._accounts = tuple(accounts)
        self._settings = settings or {}
        self._modules = modules
        self._extra = tuple(extra)
        self._database = database
        self.clock = FakeClock()
        self.transports: dict[Client, MemoryTransport] = {}
        self.clients: list[Client] = []

    async def __aenter__(self) -> World:
        log_to_handlers()
        classes = list(dict.fromkeys([*discover(), *self._extra]))  # one may be installed, too
        tree: dict[str, Any] = {
            "server": {"domains": self._domains, "data_dir": Path("/nonexistent")},
            "c2s": {"require_tls": False, "scram_iterations": 10_000},
        }
        for section, values in self._settings.items():
            tree[section] = {**tree.get(section, {}), **values}
        self.config: Config = build_root(classes).model_validate(tree)
        self.db = self._database or MemoryDatabase()
        self.kernel = Kernel(
            domains=self.config.server.domains,
            db=self.db,
            limits=self.config.limits,
            admins=self.config.server.admins,
            clock=self.clock,
            scram_iterations=1,  # this server proves nothing about passwords; tests have no time for PBKDF2
        )
        default = self._modules if self._modules is not None else chosen_modules(self.config)
        chosen = list(dict.fromkeys([*default, *self._extra]))
        await self.kernel.start(chosen, {cls.name: self.config.modules[cls.name] for cls in chosen})
        accounts = self.kernel.service(AccountsService)
        for address in self._accounts:
            jid = JID.parse(address)
            if not await _truth(accounts.exists(jid)):
                await accounts.add(jid, PASSWORD)
        self.c2s = c2s_server(self.kernel, self.config, None)
        self.c2s.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for transport in list(self.transports.values()):
            transport.break_off()
        await self.settle()
        await self.kernel.stop(grace=0.0)
        if self._database is None:
            await self.db.close()

    # ---- clients ----------------------------------------------------------------------------------------------------

    def connect(self) -> Client:
        """A client with a fresh connection, nothing sent yet."""
        client = Client(self.settle)
        protocol = self.c2s.connection()
        transport = MemoryTransport(protocol, client)
        self.transports[client] = transport
        self.clients.append(client)
        client.connect(transport.receive, transport.break_off)
        protocol.connection_made(transport)
        return client

    async def login(
        self, address: str, *, presence: bool = False, priority: int | None = None, roster: bool = False
    ) -> Client:
        """A logged-in client; with `roster` it is interested, with `presence` (or a `priority`) available.

        What other clients get because of that waits in their inboxes.
        """
        jid = JID.parse(address)
        client = self.connect()
        await client.login(jid, PASSWORD)
        if roster:
            await client.roster()
        if presence or priority is not None:
            await client.appear(priority)
        return client

    async def guest(self, domain: str = "example.org") -> Client:
        """A client with an anonymous session, for which the settings must have `c2s.anonymous`."""
        client = self.connect()
        await client.open_stream(domain)
        client.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='ANONYMOUS'>=</auth>")
        await client.expect("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        await client.open_stream(domain)
        await client.bind()
        return client

    async def befriend(self, one: Client, other: Client) -> None:
        """Subscribe two available clients to each other through the protocol; both inboxes are empty afterwards."""
        for a, b in ((one, other), (other, one)):
            a.send(f"<presence to='{b.jid.bare}' type='subscribe'/>")
            await self.settle()
            b.send(f"<presence to='{a.jid.bare}' type='subscribed'/>")
            await self.settle()
        for client in (one, other):
            client.inbox.clear()

    async def settle(self) -> None:
        """Let the server do everything it can do without new input or the passing of time."""
        loop = asyncio.get_running_loop()
        ready = getattr(loop, "_ready", None)
        idle = 0
        for _ in range(100_000):
            await asyncio.sleep(0)
            idle = idle + 1 if not ready else 0
            if idle > 3:
                return
        raise AssertionError("the server does not come to rest")

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and everything happen that becomes due."""
        self.clock.advance(seconds)
        await self.settle()


async def _truth(value: Any) -> bool:
    return bool(value if isinstance(value, bool) else await value)
