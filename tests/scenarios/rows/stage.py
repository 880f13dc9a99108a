"""Where a play takes place: two servers that know each other, in memory or on sockets with STARTTLS, behind one surface.

`example.org` and `example.net` are a server each, with accounts on both. In memory, the clock stands still and stanzas go
from one server to the other as the bytes they would have on a stream; over TLS everything is what `beamish serve` runs:
SQLite, certificates that are checked, SCRAM, streams between the servers. A play must not see the difference.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from beamish.app import component_server
from beamish.core import events
from beamish.core.clock import SystemClock
from beamish.core.events import Context
from beamish.core.hooks import STOP, Outcome, Row
from beamish.core.kernel import Kernel
from beamish.core.module import Module
from beamish.net.component import ComponentServer
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client, ClientError
from beamish.testing.clock import FakeClock
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.live import LiveServer, connect
from beamish.testing.match import mismatch, show
from beamish.testing.names import Directory
from beamish.testing.world import PASSWORD, MemoryTransport, World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element

ORG, NET = "example.org", "example.net"
DOMAINS = (ORG, NET)
ACCOUNTS = {
    ORG: tuple(f"{name}@{ORG}" for name in ("romeo", "juliet", "mercutio", "nurse")),
    NET: tuple(f"{name}@{NET}" for name in ("benvolio", "rosaline")),
}
SERVICES = ("conference", "pubsub", "upload", "proxy")
COMPONENT = "jabber:component:accept"
SECRET = "between us"
"""Of all components."""
Settings = Mapping[str, Any]
M = TypeVar("M", bound=Module)


class Stage(ABC):
    """An async context manager: both servers run. `settings` are those of example.org, as `World` takes them."""

    kind: str

    def __init__(self, settings: Settings) -> None:
        self.settings: dict[str, dict[str, Any]] = {ORG: dict(settings), NET: {}}
        self.clients: list[Client] = []
        self.reach: dict[Client, tuple[str, ...]] = {}
        """Servers that a client can ask, where that is not both of them."""
        self._heard: dict[Client, bytearray] = {}

    @abstractmethod
    async def __aenter__(self) -> Stage: ...

    @abstractmethod
    async def __aexit__(self, *_: object) -> None: ...

    # ---- the servers ------------------------------------------------------------------------------------------------

    @abstractmethod
    def kernel(self, domain: str = ORG) -> Kernel:
        """The kernel of a domain's server, to look at what no protocol shows."""

    @abstractmethod
    async def restart(self, domain: str = ORG) -> None:
        """Stop the server in order, cutting its clients off, and start it anew on the same data."""

    @abstractmethod
    async def pass_time(self, seconds: float) -> None:
        """Make it later for both servers; what is due then happens in memory only."""

    def module(self, kind: type[M], domain: str = ORG) -> M:
        """A module, to look at what a person would see."""
        return self.kernel(domain).registry.module(kind)

    def now(self) -> float:
        """What time it is for the servers."""
        return self.kernel().clock.now()

    # ---- clients ----------------------------------------------------------------------------------------------------

    @abstractmethod
    async def _connect(self, domain: str) -> Client: ...

    async def stranger(self, domain: str = ORG) -> Client:
        """A client that has not logged in, with TLS where there is TLS."""
        client = await self._connect(domain)
        heard = self._heard[client] = bytearray()
        take = client.feed

        def feed(data: bytes) -> None:
            heard.extend(data)
            take(data)

        client.feed = feed  # type: ignore[method-assign]
        await client.open_stream(domain)
        if client.upgrade is not None:
            await client.start_tls(domain)
        return client

    async def login(
        self,
        address: str,
        *,
        presence: bool = False,
        priority: int | None = None,
        extra: str = "",
        password: str = PASSWORD,
    ) -> Client:
        """A client that has fetched its roster, with presence (and `extra` in it) if asked for.

        What others get because of that waits in their inboxes.
        """
        jid = JID.parse(address)
        client = await self.stranger(jid.domain)
        await client.authenticate(jid.local, password)
        await client.bind(jid.resource)
        await client.roster()
        if presence or extra or priority is not None:
            inner = extra + (f"<priority>{priority}</priority>" if priority is not None else "")
            client.send(f"<presence>{inner}</presence>")
            await self.seek(client, f"<presence from='{client.jid}' type='!'/>")
        self.clients.append(client)
        return client

    async def befriend(self, one: Client, other: Client) -> None:
        """Subscribe two available clients to each other; all inboxes are empty afterwards."""
        for asking, asked in ((one, other), (other, one)):
            asking.send(f"<presence to='{asked.jid.bare}' type='subscribe'/>")
            await self.seek(asked, f"<presence from='{asking.jid.bare}' type='subscribe'/>")
            asked.send(f"<presence to='{asking.jid.bare}' type='subscribed'/>")
            await self.seek(asking, f"<presence from='{asked.jid}' type='!'/>")
        await self.clear()

    async def leave(self, *clients: Client) -> None:
        """Close streams in order; the servers have told everybody afterwards."""
        for client in clients:
            await client.close()
            self.clients.remove(client)
        await self.quiet()

    async def quiet(self) -> None:
        """Both servers have done everything that clients have asked for so far, and the clients have it."""
        self.clients = [client for client in self.clients if not (client.closed or client.disconnected)]
        for _ in range(2):  # what one round causes at the other server has come back after the second
            for client in self.clients:
                for domain in self.reach.get(client, DOMAINS):
                    await self._ping(client, domain)
        for client in self.clients:
            await self._ping(client, client.jid.domain)

    async def _ping(self, client: Client, domain: str) -> None:
        try:
            await client.iq(f"<iq type='get' id='quiet' to='{domain}'><ping xmlns='urn:xmpp:ping'/></iq>")
        except ClientError:
            if not (client.closed or client.disconnected):  # the server may have ended the stream meanwhile
                raise

    async def clear(self) -> None:
        """Throw away what has arrived, and what was on its way."""
        await self.quiet()
        for client in self.clients:
            client.inbox.clear()

    async def nothing(self, *clients: Client) -> None:
        """Nothing waits for these clients, nor will."""
        for client in clients:
            got = await self.take(client)
            assert not got, f"{client.jid}: nothing was expected, got: " + "\n".join(show(el) for el in got)

    async def take(self, client: Client) -> list[Element]:
        """Everything that has arrived and was on its way.

        A question behind stored messages (XEP-0092) is no news: it is answered here, which proves them read.
        """
        await self.quiet()
        got: list[Element] = []
        for el in client.inbox:
            if el.get("type") == "get" and el.find("{jabber:iq:version}query") is not None:
                version = "<query xmlns='jabber:iq:version'><name>Play</name></query>"
                client.send(f"<iq type='result' id='{el.get('id')}' to='{el.get('from')}'>{version}</iq>")
            else:
                got.append(el)
        client.inbox.clear()
        return got

    async def seek(self, client: Client, xml: str) -> Element:
        """Wait for an element that matches; what came before it stays in the inbox."""
        passed: list[Element] = []
        try:
            while True:
                got = await client.receive()
                if not mismatch(xml, got):
                    return got
                passed.append(got)
        except ClientError as error:
            seen = "\n".join(show(el) for el in passed)
            raise ClientError(f"{client.jid}: {error}\nwaited for: {xml}\ngot: {seen}") from None
        finally:
            client.inbox.extendleft(reversed(passed))

    # ---- components -------------------------------------------------------------------------------------------------

    @abstractmethod
    async def _component(self, domain: str) -> Client: ...

    async def component(self, domain: str) -> Client:
        """A component of example.org (XEP-0114), connected; elements of it are in its own namespace."""
        client = await self._component(domain)
        client.send(
            f"<?xml version='1.0'?><stream:stream xmlns='{COMPONENT}' xmlns:stream='http://etherx.jabber.org/streams' "
            f"to='{domain}'>"
        )
        while client.header is None:
            client._arrived.clear()
            await asyncio.wait_for(client._arrived.wait(), 10)
        proof = hashlib.sha1((client.header.get("id", "") + SECRET).encode()).hexdigest()
        client.send(f"<handshake>{proof}</handshake>")
        await client.expect(f"<handshake xmlns='{COMPONENT}'/>")
        return client

    def heard(self, client: Client) -> bytes:
        """All bytes that a client has received."""
        return bytes(self._heard[client])


class MemoryStage(Stage):
    """Two `World`s, and a wire between them."""

    kind = "memory"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._databases = {domain: MemoryDatabase() for domain in DOMAINS}
        self._worlds: dict[str, World] = {}
        self._wires: list[_Wire] = []
        self._components: ComponentServer | None = None

    async def __aenter__(self) -> MemoryStage:
        for domain in DOMAINS:
            await self._start(domain, ACCOUNTS[domain], FakeClock())
        return self

    async def __aexit__(self, *_: object) -> None:
        for world in self._worlds.values():
            await world.__aexit__(None, None, None)
        for wire in self._wires:
            wire.close()
        for database in self._databases.values():
            await database.close()

    async def _start(self, domain: str, accounts: tuple[str, ...], clock: FakeClock) -> None:
        settings = {"c2s": {"probe_after": 1e6}, **self.settings[domain]}  # clients may be silent while time passes
        world = World(domains=(domain,), accounts=accounts, settings=settings, database=self._databases[domain])
        world.clock = clock
        self._worlds[domain] = await world.__aenter__()
        wire = _Wire(world.kernel, self._worlds)
        self._wires.append(wire)

    def kernel(self, domain: str = ORG) -> Kernel:
        return self._worlds[domain].kernel

    async def restart(self, domain: str = ORG) -> None:
        before = self._worlds[domain]
        await before.__aexit__(None, None, None)
        await self._start(domain, (), FakeClock(before.clock.now()))
        await self.quiet()

    async def pass_time(self, seconds: float) -> None:
        for world in self._worlds.values():
            await world.pass_time(seconds)

    async def _connect(self, domain: str) -> Client:
        return self._worlds[domain].connect()

    async def _component(self, domain: str) -> Client:
        world = self._worlds[ORG]
        if self._components is None or self._components.kernel is not world.kernel:
            self._components = component_server(world.kernel, world.config)
            self._components.start()
        client = Client(world.settle)
        protocol = self._components.connection()
        transport = MemoryTransport(protocol, client)  # type: ignore[arg-type]
        world.transports[client] = transport
        client.connect(transport.receive, transport.break_off)
        protocol.connection_made(transport)
        return client


class _Wire:
    """Carries stanzas out of one kernel into that of another world, in their order."""

    def __init__(self, kernel: Kernel, worlds: Mapping[str, World]) -> None:
        self._worlds = worlds
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._wake = asyncio.Event()
        kernel.hooks[events.remote].add(Row(50, "wire", self.carry))
        self._task = asyncio.get_running_loop().create_task(self._run())

    def carry(self, ctx: Context) -> Outcome:
        """See `events.remote`; domains that nobody serves are left to the router, which says so."""
        to = ctx.stanza.to
        assert to is not None
        for domain, world in self._worlds.items():
            if world.kernel.router.serves(to.domain):
                self._waiting.append((domain, ctx.stanza.to_wire()))
                self._wake.set()
                return STOP
        return None

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                domain, data = self._waiting.popleft()
                rest = self._worlds[domain].kernel.router.from_elsewhere(Context(Stanza.parse(data)))
                if rest is not None:
                    await rest

    def close(self) -> None:
        """Nothing is carried any more."""
        self._task.cancel()


class TlsStage(Stage):
    """Two servers on sockets; clients use STARTTLS, and streams between the servers TLS with checked certificates."""

    kind = "tls"

    def __init__(self, settings: Settings, directory: Path) -> None:
        super().__init__(settings)
        self._directory = directory
        self._authority = Authority(directory)
        self._names = Directory()
        self._servers: dict[str, _Server] = {}
        self._others: list[Client] = []
        self._clock = _Ahead()

    async def __aenter__(self) -> TlsStage:
        for domain in DOMAINS:
            await self._start(domain, ACCOUNTS[domain])
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._others:
            client.drop()
        for server in self._servers.values():
            await server.__aexit__(None, None, None)

    async def _start(self, domain: str, accounts: tuple[str, ...]) -> None:
        server = _Server(
            self._authority,
            self._names,
            domains=(domain,),
            accounts=accounts,
            settings={"c2s": {"require_tls": True}, **self.settings[domain]},
            directory=self._directory / domain,
        )
        server.clock = self._clock
        await server.__aenter__()
        self._servers[domain] = server

    def kernel(self, domain: str = ORG) -> Kernel:
        return self._servers[domain].kernel

    async def restart(self, domain: str = ORG) -> None:
        await self._servers[domain].__aexit__(None, None, None)
        await self._start(domain, ())
        await self.quiet()

    async def pass_time(self, seconds: float) -> None:
        self._clock.ahead += seconds

    async def _connect(self, domain: str) -> Client:
        return await self._servers[domain].connect(domain)

    async def _component(self, domain: str) -> Client:
        server = self._servers[ORG]
        client = await connect(server.host, server.component_port, domain)
        self._others.append(client)
        return client


class _Ahead(SystemClock):
    """The machine's clock, set ahead: what time it is, not how fast it goes."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        """See `Clock.now`."""
        return time.time() + self.ahead


class _Server(FederatedServer):
    """A server with federation whose clients use STARTTLS."""

    async def connect(self, domain: str = "", *, direct_tls: bool = False) -> Client:
        return await LiveServer.connect(self, domain, direct_tls=direct_tls)

    async def _before_clients(self) -> None:
        await super()._before_clients()
        for service in (f"{name}.{domain}" for domain in self._domains for name in SERVICES):
            self._names.move(service, self.s2s_port)
