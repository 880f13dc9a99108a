"""Client connections: a stream machine on a socket, and the bound session's way to the client.

Stanzas of one connection are handled strictly in order. A stanza whose handling has to wait parks only its own
connection: reading pauses, what was read already waits in line (RFC 6120 §10.1).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from beamish.core.events import Context
from beamish.core.kernel import new_id
from beamish.core.later import is_later
from beamish.core.sessions import Link, Session
from beamish.net.address import format_peer, network_of
from beamish.net.throttle import Bucket
from beamish.net.tls import XMPP_CLIENT
from beamish.net.tls_client import ClientConnection
from beamish.stream.machine import (
    Authenticated,
    AuthFailed,
    BindRequested,
    C2SMachine,
    Event,
    KeysNeeded,
    Nonza,
    PasswordGiven,
    StartTls,
    State,
    StreamClosed,
    StreamFailed,
    StreamOpened,
    Unaddressable,
)
from beamish.stream.sasl import FailureCondition, ScramKeys, tls_server_end_point
from beamish.xmpp import ns
from beamish.xmpp.errors import StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import namespace_of

if TYPE_CHECKING:
    from beamish.net.c2s import C2SServer

log = structlog.get_logger(__name__)
_listened: Final = logging.getLogger(__name__).isEnabledFor

_BACKLOG: Final = 4_194_304
"""Bytes that may have arrived after reading was paused: what the transport had read or decrypted by then."""
_THROTTLED: Final = "too many failed logins, try again later"
_WITHOUT_GOODBYE: Final = frozenset(("lost", "slow", "timeout", "shutdown"))
"""Ends of a connection after which a session may go on elsewhere."""

Wait = Awaitable[Any]


@lru_cache(maxsize=64)
def _binding_of(certificate: bytes) -> bytes | None:
    return tls_server_end_point(certificate)


class C2SConnection(ClientConnection):
    """One client's connection; the `Outlet` of its session."""

    __slots__ = (
        "__weakref__",
        "_anonymous",
        "_backlog",
        "_busy",
        "_byte_bucket",
        "_direct",
        "_eof",
        "_heard",
        "_id",
        "_machine",
        "_network",
        "_parked",
        "_probed",
        "_server",
        "_silent",
        "_stanza_bucket",
        "_task",
        "_throttled",
        "session",
    )

    def __init__(self, server: C2SServer, direct_tls: bool) -> None:
        super().__init__(server.flusher, server.limits.unsent_bytes)
        self._server = server
        self._machine: C2SMachine | None = None
        self._backlog: list[bytes] = []
        self._busy = False
        self._parked: list[Event] = []
        self._task: asyncio.Task[None] | None = None
        self._direct = direct_tls
        self._network = ""
        self._eof = False
        self._heard = True
        self._silent = 0.0
        self._probed = False
        self._throttled = False
        self._byte_bucket: Bucket | None = None
        self._stanza_bucket: Bucket | None = None
        self._id = ""
        self._anonymous = False
        self.session: Session | None = None

    # ---- the socket -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`; with direct TLS the handshake begins."""
        super().connection_made(transport)
        server = self._server
        address = self.info("peername")
        self.peer = format_peer(address)
        self._network = network_of(address[0]) if isinstance(address, tuple) else "local"
        self._id = new_id()
        server.connections.add(self)
        held = server.per_network.get(self._network, 0) + 1
        server.per_network[self._network] = held
        self._machine = C2SMachine(server.settings)
        server.newcomers.put(self)
        if self._direct:
            self._machine.begin_tls()
            self._begin_tls("")
        if held > server.limits.connections_per_address:
            self._tell(logging.WARNING, "too_many_connections", network=self._network, connections=held)
            self.close(
                StreamError(StreamErrorCondition.POLICY_VIOLATION, "too many connections from your address"), "limit"
            )
        elif server.draining:
            self.close(StreamError(StreamErrorCondition.SYSTEM_SHUTDOWN), "shutdown")

    def plain_received(self, data: bytes) -> None:
        """See `ClientConnection.plain_received`."""
        self._heard = True
        if not self._busy:
            self._busy = True
            self._server.awake(self)
        machine = self._machine
        if self._closing and data.rstrip().endswith(b"stream>"):
            self.finish()  # RFC 6120 §4.4: both sides have closed the stream, so the connection may go
        if machine is None or self._closing:
            return
        if self._server.wire_log.enabled:
            self._server.wire_log.received(self._id, self.session, data)
        if self._task is not None:
            # one read may still have been under way when reading was paused
            self._backlog.append(data)
            if sum(map(len, self._backlog)) > _BACKLOG:
                self.close(StreamError(StreamErrorCondition.POLICY_VIOLATION, "too much data at once"), "error:backlog")
            return
        try:
            events = machine.receive(data)
            if events:
                self._handle(events)
            self._answer()
        except Exception:
            self._crashed()
            return
        if self._byte_bucket is not None:
            self._throttle(len(data), len(events))

    def _tell(self, level: int, event: str, **keys: object) -> None:
        if _listened(level):
            log.log(level, event, stream=self._id, peer=self.peer, **keys)

    def _crashed(self) -> None:
        """A mistake of ours costs this stream, no other."""
        log.exception("stream_failed", stream=self._id, peer=self.peer)
        self.close(StreamError(StreamErrorCondition.INTERNAL_SERVER_ERROR), "error:internal")

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. The peer sends no more, but may still read what it asked for (in TLS it cannot)."""
        self._eof = True
        stay = self._tls is None
        if self._closing:
            self.finish()  # it has read why, or never will
        elif self._task is None and self._machine is not None:
            self._handle(self._machine.receive_eof())
            self._answer()
        return stay

    def lost(self, error: Exception | None) -> None:
        """The connection is gone, with or without a closed stream."""
        server = self._server
        if self not in server.connections:
            return
        server.connections.discard(self)
        if server.draining and not server.connections:
            server.emptied.set()
        held = server.per_network.get(self._network, 1) - 1
        if held > 0:
            server.per_network[self._network] = held
        else:
            server.per_network.pop(self._network, None)
        server.newcomers.take(self)
        server.leaving.take(self)
        self._end_session("lost")
        self._parked.clear()
        self._backlog.clear()
        server.wire_log.forget(self._id)
        self._tell(logging.INFO, "disconnected", error=None if error is None else str(error))
        if self._machine is not None:
            self._machine.discard()
        self._machine = None

    def too_slow(self) -> None:
        """The client does not read; see `Connection.too_slow`."""
        self._tell(logging.WARNING, "slow_reader_cut", limit=self._unsent_limit)
        self._end_session("slow")

    def _answer(self) -> None:
        """Send what the machine wants sent."""
        machine = self._machine
        if machine is not None and (data := machine.data_to_send()):
            if self._server.wire_log.enabled:
                self._server.wire_log.sent(self._id, self.session, data)
            self.write(data)

    # ---- events, in order -------------------------------------------------------------------------------------------

    def _handle(self, events: list[Event]) -> None:
        for at, event in enumerate(events):
            wait = self._stanza(event) if type(event) is Stanza else self._dispatch(event)
            if wait is not None:
                self._parked.extend(events[at + 1 :])
                self._park(wait)
                return

    def _dispatch(self, event: Event) -> Wait | None:
        if self._closing:
            return None  # behind the end of the stream
        handler = _HANDLERS[type(event)]
        return handler(self, event)

    def _park(self, wait: Wait) -> None:
        self.stop_reading()
        self._task = self._server.kernel.tasks.spawn(self._wait(wait), "stanza")

    async def _wait(self, wait: Wait | None) -> None:
        try:
            while wait is not None:
                more = await wait
                if isinstance(more, list):
                    self._parked[:0] = more
                self._answer()
                wait = self._next()
        except Exception:
            self._crashed()
        finally:
            self._task = None
            if not self._throttled:
                self.start_reading()

    def _next(self) -> Wait | None:
        """Go on with what waited in line; something to wait for again, or None when the line is empty."""
        while True:
            while self._parked:
                event = self._parked.pop(0)
                wait = self._stanza(event) if type(event) is Stanza else self._dispatch(event)
                if wait is not None:
                    return wait
            machine = self._machine
            if machine is None or self._closing:
                self._backlog.clear()
                return None
            if self._backlog:
                data = b"".join(self._backlog)
                self._backlog.clear()
                events = machine.receive(data)
                self._parked.extend(events)
                self._answer()
                if self._byte_bucket is not None:
                    self._throttle(len(data), len(events))
            elif self._eof:
                self._eof = False
                self._parked.extend(machine.receive_eof())
                self._answer()
            else:
                self._answer()
                return None

    # ---- stanzas ----------------------------------------------------------------------------------------------------

    def _stanza(self, stanza: Stanza) -> Wait | None:
        session = self.session
        if session is None:
            # before authentication, or of a session that was replaced or has ended in the meantime
            return self._early_iq(stanza) if self.user is None and not self._closing else None
        sender = stanza.sender
        jid = session.jid
        if sender is not None and sender != jid and sender != session.bare:
            # RFC 6120 §8.1.2.1
            self._fail(StreamError(StreamErrorCondition.INVALID_FROM))
            return None
        stanza.sender = jid  # nobody else has seen it yet
        done = self._server.kernel.router.from_session(session, stanza)
        if is_later(done):
            session.busy = True
            return self._handled_later(session, cast("Awaitable[Context]", done))
        if session.handled is not None:
            session.handled(cast("Context", done))
        return None

    async def _handled_later(self, session: Session, done: Awaitable[Context]) -> None:
        ctx = await done
        session.busy = False
        if session.handled is not None:
            session.handled(ctx)

    def _early_iq(self, stanza: Stanza) -> Wait | None:
        payload = stanza.payload
        handler = None if payload is None else self._server.kernel.early_iqs.get(str(payload.tag))
        if handler is None:
            return None
        return self._early_answer(stanza, handler)

    async def _early_answer(self, stanza: Stanza, handler: Callable[[Link, Stanza], Any]) -> None:
        try:
            answer = handler(self, stanza)
            reply = await answer if is_later(answer) else answer
        except StanzaError as error:
            reply = stanza.error(error)
        if reply is not None:
            self.write(reply.to_wire())

    def _unaddressable(self, event: Unaddressable) -> None:
        session = self.session
        if session is None:
            return
        self._tell(logging.INFO, "jid_malformed", reason=event.reason)
        if event.reply is not None:
            # RFC 6120 §8.1.2.1 rule 2: the server speaks for itself, not for an address that cannot be
            session.send(event.reply.replace(sender=JID.of("", session.jid.domain), to=session.jid))
        if session.handled is not None:
            session.handled(None)

    def _nonza(self, event: Nonza) -> Wait | None:
        handler = self._server.kernel.nonzas.get(event.tag)
        if handler is None:
            # RFC 6120 §4.8.3: another content namespace is not a matter of the element's name
            other = namespace_of(event.el) in (ns.SERVER, ns.COMPONENT)
            condition = StreamErrorCondition
            self._fail(StreamError(condition.INVALID_NAMESPACE if other else condition.UNSUPPORTED_STANZA_TYPE))
            return None
        try:
            done = handler.call(self, event.el)
        except StreamError as error:
            self._fail(error)
            return None
        if done is not None:
            return self._nonza_later(done)
        if self._machine is not None and self.session is None:
            self._go_on(self._machine.unbound())
        return None

    async def _nonza_later(self, done: Awaitable[None]) -> list[Event]:
        try:
            await done
        except StreamError as error:
            self._fail(error)
        return self._machine.unbound() if self._machine is not None and self.session is None else []

    def _fail(self, error: StreamError) -> None:
        if self._machine is not None:
            self._failed(self._machine.fail(error))

    # ---- becoming somebody ------------------------------------------------------------------------------------------

    def _opened(self, event: StreamOpened) -> None:
        self._tell(logging.DEBUG, "stream_opened", domain=event.domain)

    def _starttls(self, _event: StartTls) -> None:
        machine = self._machine
        assert machine is not None
        self._answer()
        self._begin_tls(machine.domain)

    def _begin_tls(self, domain: str) -> None:
        certificates = self._server.certificates
        if certificates is None:
            self._given_up()
            return
        self._backlog.clear()  # nothing of what came in plain text may survive; from here on input is decrypted
        self.begin_tls(certificates.context_for(domain) if domain else certificates.server_context(XMPP_CLIENT))

    def secured(self, tls: ssl.SSLObject) -> None:
        """See `ClientConnection.secured`: the stream begins anew, with what the certificate binds it to."""
        machine, certificates = self._machine, self._server.certificates
        if machine is not None and certificates is not None:
            used = certificates.end_point_binding(tls)
            machine.tls_established(None if used is None else _binding_of(used))

    def tls_failed(self, reason: str) -> None:
        """See `ClientConnection.tls_failed`."""
        self._tell(logging.INFO, "tls_handshake_failed" if self.shaking else "tls_failed", reason=reason)
        self._given_up()

    def _given_up(self) -> None:
        """Nothing can be said any more."""
        self.abort()
        self.connection_lost(None)

    def _keys(self, event: KeysNeeded) -> Wait | None:
        machine, accounts = self._machine, self._server.accounts
        assert machine is not None
        if not self._server.throttle.allowed(self._network, event.jid or ""):
            self._go_on(machine.auth_refused(FailureCondition.TEMPORARY_AUTH_FAILURE, _THROTTLED))
            return None
        jid = event.jid
        if jid is None:
            self._go_on(machine.keys(accounts.decoy(event.username, event.algorithm), False))
            return None
        found, expired = accounts.keys(jid, event.algorithm), accounts.has_expired(jid)
        if is_later(found) or is_later(expired):
            return self._keys_later(event, found, expired)
        self._go_on(self._keys_found(event, cast("ScramKeys | None", found), cast("bool", expired)))
        return None

    async def _keys_later(
        self,
        event: KeysNeeded,
        found: ScramKeys | Awaitable[ScramKeys | None] | None,
        expired: bool | Awaitable[bool],
    ) -> list[Event]:
        keys = await cast("Awaitable[ScramKeys | None]", found) if is_later(found) else cast("ScramKeys | None", found)
        old = await cast("Awaitable[bool]", expired) if is_later(expired) else cast("bool", expired)
        return self._keys_found(event, keys, old)

    def _keys_found(self, event: KeysNeeded, keys: ScramKeys | None, expired: bool) -> list[Event]:
        machine, accounts = self._machine, self._server.accounts
        if machine is None or event.jid is None:
            return []
        decoy = accounts.decoy(event.username, event.algorithm)  # made for those who exist, too: it takes time
        disabled = accounts.is_disabled(event.jid)
        return machine.keys(keys or decoy, keys is not None, disabled=disabled, expired=expired)

    async def _password(self, event: PasswordGiven) -> list[Event]:
        machine = self._machine
        if machine is None:
            return []
        jid = event.jid
        if not self._server.throttle.allowed(self._network, jid or ""):
            return machine.auth_refused(FailureCondition.TEMPORARY_AUTH_FAILURE, _THROTTLED)
        accounts = self._server.accounts
        ok = await accounts.check_password(jid, event.password)
        expired = jid is not None and accounts.has_expired(jid)
        old = await cast("Awaitable[bool]", expired) if is_later(expired) else cast("bool", expired)
        return machine.password_checked(ok, disabled=jid is not None and accounts.is_disabled(jid), expired=old)

    def _auth_failed(self, event: AuthFailed) -> None:
        if event.condition == FailureCondition.NOT_AUTHORIZED.value:  # the others are no guesses
            self._server.throttle.failed(self._network, event.jid or "")
        user = str(event.jid) if event.jid is not None else event.username[:128]
        self._tell(logging.INFO, "auth_failed", mechanism=event.mechanism[:32], user=user, reason=event.condition)

    def _authenticated(self, event: Authenticated) -> None:
        self._server.throttle.succeeded(event.jid)
        self._anonymous = event.anonymous
        tls = self._tls
        self._tell(
            logging.INFO,
            "authenticated",
            user=str(event.jid),
            mechanism=event.mechanism,
            tls=None if tls is None else tls.object.version(),
        )

    def _bind(self, event: BindRequested) -> Wait | None:
        machine = self._machine
        assert machine is not None and machine.jid is not None
        kernel = self._server.kernel
        if self._server.accounts.is_disabled(machine.jid.bare):  # since it has authenticated
            self._fail(StreamError(StreamErrorCondition.NOT_AUTHORIZED, "the account is locked"))
            return None
        try:
            full = kernel.choose_resource(machine.jid.bare, event.resource)
        except StanzaError as error:
            self._tell(logging.INFO, "bind_refused", user=str(machine.jid), reason=str(error))
            self._go_on(machine.bind_refused(error))
            return None
        # what the client sent behind its request is handled after the session exists
        rest = machine.bound(full)
        self._answer()
        self._bound(full)
        self._go_on(rest)
        return None

    def _go_on(self, events: list[Event]) -> None:
        self._parked[:0] = events
        if self._task is None and self._parked:
            wait = self._next()
            if wait is not None:
                self._park(wait)

    def _bound(self, full: JID) -> None:
        server = self._server
        self._limit()
        self.session = session = Session(
            full,
            self,
            id=self._id,
            peer=self.peer,
            secure=self.secure,
            anonymous=self._anonymous,
            created=server.kernel.clock.now(),
        )
        self._tell(logging.INFO, "bound", jid=str(full))
        server.kernel.open_session(session)

    def _limit(self) -> None:
        """From here on the limits of a session hold, not those of a stranger."""
        limits = self._server.limits
        now = self._server.kernel.clock.monotonic()
        self._byte_bucket = Bucket(limits.bytes_per_second, limits.bytes_burst, now)
        self._stanza_bucket = Bucket(limits.stanzas_per_second, limits.stanza_burst, now)
        self._server.newcomers.take(self)

    def login_timeout(self) -> None:
        """Nobody has logged in within `unauthenticated_seconds`."""
        self._tell(logging.INFO, "login_timeout")
        self.close(StreamError(StreamErrorCondition.CONNECTION_TIMEOUT, "no login in time"), "timeout")

    # ---- outlet of the session --------------------------------------------------------------------------------------

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        """See `Outlet.deliver`."""
        if self._server.wire_log.enabled:
            self._server.wire_log.sent(self._id, self.session, data)
        return self.write(data)

    def last_words(self, data: bytes) -> None:
        """See `Outlet.last_words`."""
        if self._server.wire_log.enabled:
            self._server.wire_log.sent(self._id, self.session, data)
        self.write(data)

    def close(self, error: StreamError | None, reason: str) -> None:
        """Close the stream from our side and end the session; see `Outlet.close`."""
        machine = self._machine
        if machine is None or self._closing:
            return
        if self.shaking:
            self._given_up()
            return
        if reason in _WITHOUT_GOODBYE and self._parted(reason):
            # to the client the stream breaks off: a closed one would not be resumed (XEP-0198 §7)
            self._tell(logging.INFO, "stream_left_open", reason=reason)
            self._cut_later()
            self.finish()
            return
        machine.close(error)
        self._answer()
        self._end_session(reason)
        if error is not None:
            self._tell(logging.INFO, "stream_closed", error=error.condition.value, text=error.text)
        self._linger()

    def _linger(self) -> None:
        """Everything is said; give the peer a moment to read it before the socket goes."""
        self._blocked = False
        self.flush()
        self._closing = True
        self.start_reading()  # for its closing tag, and because unread bytes would make the socket forget what we said
        if self._eof:
            self.finish()
        else:
            self._cut_later()

    def _cut_later(self) -> None:
        """A peer that neither reads nor closes must not keep the connection."""
        self._server.newcomers.take(self)
        self._server.leaving.put(self)

    def _closed(self, event: StreamClosed) -> None:
        self._answer()
        self._end_session("closed" if event.orderly else "lost")
        self._cut_later()
        self.finish()

    def _failed(self, event: StreamFailed) -> None:
        condition = event.error.condition.value
        self._tell(logging.INFO, "stream_error", error=condition, text=event.error.text, by_peer=event.by_peer)
        self._answer()
        self._end_session(f"error:{condition}")
        self._linger()
        if event.by_peer:
            self.finish()

    def _end_session(self, reason: str) -> None:
        if reason in _WITHOUT_GOODBYE and self._parted(reason):
            return
        session, self.session = self.session, None
        if session is not None:
            self._server.kernel.end_session(session, reason)

    def _parted(self, reason: str) -> bool:
        """Whether the session goes on without this connection, which carries none any more then."""
        session = self.session
        if session is None or not session.outlet.survives(self, reason):
            return False
        self.session = None
        return True

    def survives(self, link: Link, reason: str) -> bool:
        """See `Outlet.survives`: a session that is nothing but its connection ends with it."""
        return False

    # ---- a link for modules -----------------------------------------------------------------------------------------

    @property
    def user(self) -> JID | None:
        """See `Link.user`."""
        machine = self._machine
        return None if machine is None or machine.jid is None else machine.jid.bare

    @property
    def domain(self) -> str:
        """See `Link.domain`."""
        return "" if self._machine is None else self._machine.domain

    @property
    def network(self) -> str:
        """See `Link.network`."""
        return self._network

    def carry(self, session: Session) -> None:
        """See `Link.carry`."""
        machine = self._machine
        if machine is None:
            return
        self._limit()
        self.session = session
        self._go_on(machine.established(session.jid))

    def release(self) -> None:
        """See `Link.release`."""
        self.session = None

    # ---- rates and silence ------------------------------------------------------------------------------------------

    def _throttle(self, size: int, stanzas: int) -> None:
        """Slow the client down by not reading from it (never by dropping)."""
        assert self._byte_bucket is not None and self._stanza_bucket is not None
        clock = self._server.kernel.clock.monotonic
        pause = max(self._byte_bucket.take(size, clock), self._stanza_bucket.take(stanzas, clock))
        if pause > 0.0 and not self._throttled:
            self._throttled = True
            self.stop_reading()
            self._server.kernel.clock.call_later(pause, self._unthrottle)

    def _unthrottle(self) -> None:
        self._throttled = False
        if self._task is None:
            self.start_reading()

    def park(self) -> None:
        """Nothing has arrived for a moment: give back the memory of the parser."""
        self._busy = False
        if self._machine is not None:
            self._machine.park()

    def sweep(self, seconds: float) -> None:
        """Look for silence: ask whether the client lives, then give it up.

        `seconds` have passed since the last look.
        """
        if self._heard or self._throttled or self._task is not None:
            self._heard = False
            self._silent = 0.0
            self._probed = False
            return
        machine, session = self._machine, self.session
        if machine is None or self._closing:
            return
        self._silent += seconds
        limits = self._server.limits
        if session is None or not limits.probe_after or machine.state is not State.BOUND:
            return
        if not self._probed and self._silent >= limits.probe_after:
            self._probed = True
            ping = Stanza.build(
                "iq",
                "get",
                id=f"probe-{new_id()}",
                sender=JID.of("", session.jid.domain),
                to=session.jid,
                content=b"<ping xmlns='urn:xmpp:ping'/>",
            )
            session.send(ping)
        elif self._probed and self._silent >= limits.probe_after + limits.probe_timeout:
            self._tell(logging.INFO, "silent_client_dropped", silent=self._silent)
            self.close(StreamError(StreamErrorCondition.CONNECTION_TIMEOUT), "timeout")


_HANDLERS: Final[dict[type, Callable[[C2SConnection, Any], Wait | None]]] = {
    StreamOpened: C2SConnection._opened,
    StartTls: C2SConnection._starttls,
    KeysNeeded: C2SConnection._keys,
    PasswordGiven: C2SConnection._password,
    AuthFailed: C2SConnection._auth_failed,
    Authenticated: C2SConnection._authenticated,
    BindRequested: C2SConnection._bind,
    Nonza: C2SConnection._nonza,
    Unaddressable: C2SConnection._unaddressable,
    StreamClosed: C2SConnection._closed,
    StreamFailed: C2SConnection._failed,
}
