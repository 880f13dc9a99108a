"""Foreign client libraries behind one small interface, so that each play runs with either in either role."""

from __future__ import annotations

import asyncio
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from tests.interop.aioxmpp_security import security

from beamish.testing import LiveServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what foreign code does at import is not ours to mend
    import aiosasl
    import aioxmpp
    import aioxmpp.connector
    import aioxmpp.disco
    import aioxmpp.dispatcher
    import aioxmpp.ping
    import slixmpp

PATIENCE = 15.0
QUEUE = 1_000


@dataclass(frozen=True)
class Received:
    """A message as a client sees it."""

    sender: str
    body: str
    delayed: bool


@dataclass(frozen=True)
class Seen:
    """A presence as a client sees it; `kind` is "available" or the type."""

    sender: str
    kind: str


class Peer(ABC):
    """A logged-in client of some library."""

    library: ClassVar[str]

    def __init__(self, server: LiveServer, address: str, direct_tls: bool) -> None:
        self.server = server
        self.address = address
        self.direct_tls = direct_tls
        self.jid = address
        self.messages: asyncio.Queue[Received] = asyncio.Queue(QUEUE)
        self.presences: asyncio.Queue[Seen] = asyncio.Queue(QUEUE)
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """The stream error with which the server ended the stream."""

    @property
    def bare(self) -> str:
        """The account."""
        return self.jid.partition("/")[0]

    @abstractmethod
    async def login(self, password: str) -> None:
        """Log in and fetch the roster; send no presence. Raises `PermissionError` if refused."""

    @abstractmethod
    def presence(self, kind: str = "", to: str = "", priority: int | None = None) -> None:
        """Send presence."""

    @abstractmethod
    def say(self, to: str, body: str) -> None:
        """Send a chat message."""

    @abstractmethod
    async def roster(self) -> dict[str, str]:
        """The roster as the library has followed it: bare JID → subscription."""

    @abstractmethod
    async def ping(self, to: str) -> None:
        """XEP-0199; raises if it is not answered with a result."""

    @abstractmethod
    async def features(self, of: str) -> set[str]:
        """XEP-0030."""

    @abstractmethod
    async def logout(self) -> None:
        """Close the stream; does nothing if it is closed."""

    async def hears(self) -> Received:
        """The next message."""
        return await asyncio.wait_for(self.messages.get(), PATIENCE)

    async def sees(self, sender: str, kind: str) -> None:
        """Wait for this presence; others before it are passed over."""
        wanted = Seen(sender, kind)
        passed: list[Seen] = []
        while True:
            try:
                seen = await asyncio.wait_for(self.presences.get(), PATIENCE)
            except TimeoutError:
                raise AssertionError(f"{self.jid} did not see {wanted}, but {passed}") from None
            if seen == wanted:
                return
            passed.append(seen)

    async def becomes_available(self, priority: int | None = None) -> None:
        """Send initial presence and see it come back."""
        self.presence(priority=priority)
        await self.sees(self.jid, "available")


class SlixmppPeer(Peer):
    """slixmpp."""

    library = "slixmpp"

    async def login(self, password: str) -> None:
        loop = asyncio.get_running_loop()
        self.client = client = slixmpp.ClientXMPP(self.address, password)
        client.ca_certs = self.server.ca
        client.enable_plaintext = False
        client.enable_starttls = not self.direct_tls
        client.enable_direct_tls = self.direct_tls
        client.roster.auto_authorize = None
        client.roster.auto_subscribe = False
        for plugin in ("xep_0030", "xep_0199", "xep_0203"):
            client.register_plugin(plugin)
        self._made(client)
        started: asyncio.Future[None] = loop.create_future()

        def resolve(outcome: BaseException | None) -> None:
            if not started.done():
                started.set_exception(outcome) if outcome else started.set_result(None)

        client.add_event_handler("session_start", lambda _: resolve(None))
        client.add_event_handler("failed_all_auth", lambda _: resolve(PermissionError()))
        client.add_event_handler("connection_failed", lambda why: resolve(ConnectionError(str(why))))
        client.add_event_handler("stream_error", self._stream_error)
        client.add_event_handler("message", self._message)
        client.add_event_handler("presence", self._presence)
        client.connect(self.server.host, self.server.tls_port if self.direct_tls else self.server.port)
        await asyncio.wait_for(started, PATIENCE)
        self.jid = str(client.boundjid)
        await client.get_roster()

    def _made(self, client: Any) -> None:
        """The client is about to connect."""

    def _stream_error(self, error: Any) -> None:
        if not self.ended.done():
            self.ended.set_result(error["condition"])

    def _message(self, message: Any) -> None:
        if message["body"]:
            delayed = message.get_plugin("delay", check=True) is not None
            self.messages.put_nowait(Received(str(message["from"]), message["body"], delayed))

    def _presence(self, presence: Any) -> None:
        kind = presence.xml.get("type", "available")
        self.presences.put_nowait(Seen(str(presence["from"]), kind))

    def presence(self, kind: str = "", to: str = "", priority: int | None = None) -> None:
        self.client.send_presence(ptype=kind or None, pto=to or None, ppriority=priority)

    def say(self, to: str, body: str) -> None:
        self.client.send_message(mto=to, mbody=body, mtype="chat")

    async def roster(self) -> dict[str, str]:
        known = self.client.client_roster
        return {jid: known[jid]["subscription"] for jid in known if jid != self.bare}

    async def ping(self, to: str) -> None:
        await self.client.plugin["xep_0199"].send_ping(slixmpp.JID(to), timeout=PATIENCE)

    async def features(self, of: str) -> set[str]:
        info = await self.client.plugin["xep_0030"].get_info(jid=of, local=False, timeout=PATIENCE)
        return set(info["disco_info"]["features"])

    async def logout(self) -> None:
        client = self.client
        if client.is_connected():
            await asyncio.wait_for(client.disconnect(), PATIENCE)
        client.cancel_connection_attempt()
        # its tasks wait for ever otherwise, and are destroyed while they do
        for task in (client._run_out_filters, client._current_connection_attempt):
            if task is not None:
                task.cancel()


class AioxmppPeer(Peer):
    """aioxmpp."""

    library = "aioxmpp"

    async def login(self, password: str) -> None:
        port = self.server.tls_port if self.direct_tls else self.server.port
        connector = (
            aioxmpp.connector.XMPPOverTLSConnector() if self.direct_tls else aioxmpp.connector.STARTTLSConnector()
        )
        # it connects anew whenever a stream ends, also by `conflict`: the log tells the first stream's end
        self.client = client = aioxmpp.Client(
            aioxmpp.JID.fromstr(self.address),
            security(self.server.ca, password),
            override_peer=[(self.server.host, port, connector)],
            max_initial_attempts=1,
        )
        self._roster = client.summon(aioxmpp.RosterClient)
        self._disco = client.summon(aioxmpp.DiscoClient)
        client.summon(aioxmpp.DiscoServer)
        client.summon(aioxmpp.PingService)
        messages = client.summon(aioxmpp.dispatcher.SimpleMessageDispatcher)
        messages.register_callback(None, None, self._message)
        client.stream.app_inbound_presence_filter.register(self._presence, 0)
        established: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def resolve(outcome: BaseException | None = None) -> None:
            if not established.done():
                established.set_exception(outcome) if outcome else established.set_result(None)

        client.on_stream_established.connect(resolve)
        client.on_failure.connect(resolve)
        client.on_stream_suspended.connect(self._suspended)
        client.start()
        try:
            await asyncio.wait_for(established, PATIENCE)
        except aiosasl.AuthenticationFailure as refused:
            raise PermissionError(str(refused)) from None
        self.jid = str(client.local_jid)

    def _suspended(self, reason: BaseException | None) -> None:
        if not self.ended.done():
            condition = getattr(reason, "condition", None)
            self.ended.set_result(condition.value[1] if condition is not None else str(reason))
            self.client.stop()  # or it would take the resource back

    def _message(self, message: Any) -> None:
        body = message.body.any() if message.body else ""
        if body:
            delayed = bool(message.xep0203_delay)
            self.messages.put_nowait(Received(str(message.from_), body, delayed))

    def _presence(self, presence: Any) -> Any:
        self.presences.put_nowait(Seen(str(presence.from_), presence.type_.value or "available"))
        return presence

    def presence(self, kind: str = "", to: str = "", priority: int | None = None) -> None:
        stanza = aioxmpp.Presence(type_=aioxmpp.PresenceType(kind or None), to=aioxmpp.JID.fromstr(to) if to else None)
        if priority is not None:
            stanza.priority = priority
        self.client.enqueue(stanza)

    def say(self, to: str, body: str) -> None:
        message = aioxmpp.Message(type_=aioxmpp.MessageType.CHAT, to=aioxmpp.JID.fromstr(to))
        message.body[None] = body
        self._enqueue(message)

    def _enqueue(self, message: Any) -> None:
        self.client.enqueue(message)

    async def roster(self) -> dict[str, str]:
        return {str(jid): item.subscription for jid, item in self._roster.items.items()}

    async def ping(self, to: str) -> None:
        await aioxmpp.ping.ping(self.client, aioxmpp.JID.fromstr(to))

    async def features(self, of: str) -> set[str]:
        info = await self._disco.query_info(aioxmpp.JID.fromstr(of))
        return set(info.features)

    async def logout(self) -> None:
        if self.client.running:
            stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def resolve(_error: object = None) -> None:
                if not stopped.done():
                    stopped.set_result(None)

            self.client.on_stopped.connect(resolve)
            self.client.on_failure.connect(resolve)
            self.client.stop()
            await asyncio.wait_for(stopped, PATIENCE)


LIBRARIES: dict[str, type[Peer]] = {each.library: each for each in (SlixmppPeer, AioxmppPeer)}

Login = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def login(live_server: LiveServer) -> AsyncIterator[Login]:
    """Logs clients in: `await login("slixmpp", "romeo@example.org/orchard", direct_tls=True)`."""
    for noisy in ("slixmpp", "aioxmpp"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    peers: list[Peer] = []

    async def make(library: str, address: str, *, direct_tls: bool = False, password: str = "") -> Peer:
        peer = LIBRARIES[library](live_server, address, direct_tls)
        peers.append(peer)
        await peer.login(password or live_server.password)
        return peer

    yield make
    for peer in peers:
        await peer.logout()
