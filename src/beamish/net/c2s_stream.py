"""The stream of a client connection: a machine on a socket, its events in strict order, its limits and its end.

An event whose handling has to wait parks only its own connection: reading pauses, what was read already waits in line
(RFC 6120 §10.1).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from beamish.core.kernel import new_id
from beamish.core.sessions import Link, Session
from beamish.net.address import format_peer, network_of
from beamish.net.connection import AT_ONCE
from beamish.net.throttle import Bucket
from beamish.net.tls import XMPP_CLIENT
from beamish.net.tls_client import ClientConnection
from beamish.net.tls_connection import OVERHEAD
from beamish.net.tls_exporter import tls_exporter, tls_unique, tls_version
from beamish.stream.machine import C2SMachine, Event, State, StreamFailed
from beamish.stream.sasl import tls_server_end_point
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from beamish.net.c2s import C2SServer

log = structlog.get_logger(__name__)
_listened: Final = logging.getLogger(__name__).isEnabledFor

_BACKLOG: Final = 4_194_304
"""Bytes that may have arrived after reading was paused: what the transport had read or decrypted by then."""
_WITHOUT_GOODBYE: Final = frozenset(("lost", "slow", "timeout", "shutdown"))
"""Ends of a connection after which a session may go on elsewhere."""

Wait = Awaitable[Any]


@lru_cache(maxsize=64)
def _binding_of(certificate: bytes) -> bytes | None:
    return tls_server_end_point(certificate)


class C2SStream(ClientConnection):
    """A stream machine on a socket. What its events mean is the business of `C2SConnection`."""

    __slots__ = (
        "__weakref__",
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
        "_paying",
        "_probed",
        "_server",
        "_silent",
        "_stanza_bucket",
        "_task",
        "_throttled",
        "session",
    )

    def __init__(self, server: C2SServer, direct_tls: bool) -> None:
        super().__init__(server.flusher, server.limits.unsent_bytes, server.wire_log)
        self._server = server
        self._machine: C2SMachine | None = None
        self._backlog: list[bytes] | None = None
        self._busy = False
        self._parked: deque[Event] | None = None
        """Events that wait for the one being handled; None mostly, since even an empty one has 600 bytes."""
        self._task: asyncio.Task[None] | None = None
        self._paying: asyncio.Future[None] | None = None
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
        server.resting.newcomer()
        if self._direct:
            self._machine.begin_tls()
            self._begin_tls("")
        most = server.limits.connections_per_address
        if held > 2 * most:
            # without a word, and a line in the log only: whoever is told why stays for a moment, and is a file descriptor
            self._given_up()
        elif held > most:
            self._tell(logging.WARNING, "too_many_connections", network=self._network, connections=held)
            self.close(
                StreamError(StreamErrorCondition.POLICY_VIOLATION, "too many connections from your address"), "limit"
            )
        elif server.draining:
            self.close(StreamError(StreamErrorCondition.SYSTEM_SHUTDOWN), "shutdown")

    def plain_received(self, data: bytes) -> None:
        """See `TlsConnection.plain_received`."""
        self._heard = True
        if not self._busy:
            self._busy = True
            self._server.resting.awake(self)
        machine = self._machine
        if self._closing and data.rstrip().endswith(b"stream>"):
            self.finish()  # RFC 6120 §4.4: both sides have closed the stream, so the connection may go
        if machine is None or self._closing:
            return
        if self._server.wire_log.enabled:
            self._server.wire_log.received(self._id, self.session, data)
        if self._task is not None:
            # one read may still have been under way when reading was paused
            backlog = self._backlog
            if backlog is None:
                backlog = self._backlog = []
            backlog.append(data)
            if sum(map(len, backlog)) > _BACKLOG:
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

    def overhead(self, size: int) -> None:
        """See `TlsConnection.overhead`: it counts many times for the rate of bytes, and nobody unknown may do it."""
        if self._byte_bucket is not None:
            self._throttle(OVERHEAD * size, 0)
        else:
            self.tls_failed("too little content in too many records")

    def _tell(self, level: int, event: str, **keys: object) -> None:
        """A line about this connection; of what strangers do, some for each network (`Sparing`), but every failed login."""
        if not _listened(level):
            return
        machine = self._machine
        if machine is None or machine.authenticated or event == "auth_failed":
            log.log(level, event, stream=self._id, peer=self.peer, **keys)
        else:
            write = partial(log.log, level)
            self._server.sparing.write(write, event, self._network, stream=self._id, peer=self.peer, **keys)

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
        self._parked = self._backlog = None
        self._pay()
        server.wire_log.forget(self._id)
        self._tell(logging.INFO, "disconnected", error=None if error is None else str(error))
        if self._machine is not None:
            self._machine.discard()
        self._machine = None

    def sending(self, data: bytes) -> None:
        """See `Connection.sending`: whoever wrote it, the wire log has it."""
        self._server.wire_log.sent(self._id, self.session, data)

    def too_slow(self) -> None:
        """The client does not read; see `Connection.too_slow`."""
        self._tell(logging.WARNING, "slow_reader_cut", limit=self._unsent_limit)
        self._end_session("slow")

    def _answer(self) -> None:
        """Send what the machine wants sent."""
        machine = self._machine
        if machine is not None and (data := machine.data_to_send()):
            self.write(data)

    # ---- events, in order -------------------------------------------------------------------------------------------

    def _handle(self, events: list[Event]) -> None:
        for at, event in enumerate(events):
            wait = self._stanza(event) if type(event) is Stanza else self._dispatch(event)
            if wait is not None:
                self._line_up(events[at + 1 :])
                self._park(wait)
                return

    def _stanza(self, stanza: Stanza) -> Wait | None:
        """Handle a stanza of the bound client, or one from before that; something to wait for, or None."""
        raise NotImplementedError

    def _dispatch(self, event: Event) -> Wait | None:
        """Handle any other event, unless the stream is closing."""
        raise NotImplementedError

    def _park(self, wait: Wait) -> None:
        self.stop_reading()
        self._task = self._server.kernel.tasks.spawn(self._wait(wait), "stanza")

    async def _wait(self, wait: Wait | None) -> None:
        waited = 0
        try:
            while wait is not None:
                more = await wait
                if isinstance(more, list):
                    self._first_of_all(more)
                self._answer()
                session = self.session
                if session is not None and session.owed:
                    await self._paid(session)
                waited += 1
                if waited % AT_ONCE == 0:
                    await asyncio.sleep(0)
                wait = self._next()
        except Exception:
            self._crashed()
        finally:
            self._task = None
            if not self._throttled:
                self.start_reading()

    async def _paid(self, session: Session) -> None:
        """Wait until the client's rate has room for what its last stanza has cost beyond itself (`Session.charge`)."""
        bucket, clock = self._stanza_bucket, self._server.kernel.clock
        if bucket is None or self._closing:
            return
        owed, session.owed = session.owed, 0
        pause = bucket.take(owed, clock.monotonic)
        if pause > 0.0:
            self._paying = paying = asyncio.get_running_loop().create_future()
            timer = clock.call_later(pause, self._pay)
            await paying
            timer.cancel()

    def _pay(self) -> None:
        """The debt is paid, or there is nothing left to pay for."""
        paying, self._paying = self._paying, None
        if paying is not None and not paying.done():
            paying.set_result(None)

    def _next(self) -> Wait | None:
        """Go on with what waited in line; something to wait for again, or None when the line is empty."""
        while True:
            while self._parked:
                event = self._parked.popleft()
                wait = self._stanza(event) if type(event) is Stanza else self._dispatch(event)
                if wait is not None:
                    return wait
            machine = self._machine
            if machine is None or self._closing:
                self._backlog = self._parked = None
                return None
            self._parked = None
            if self._backlog:
                data = b"".join(self._backlog)
                self._backlog = None
                events = machine.receive(data)
                self._line_up(events)
                self._answer()
                if self._byte_bucket is not None:
                    self._throttle(len(data), len(events))
            elif self._eof:
                self._eof = False
                self._line_up(machine.receive_eof())
                self._answer()
            else:
                self._answer()
                return None

    def _line_up(self, events: list[Event]) -> None:
        """Behind whatever waits."""
        if self._parked is not None:
            self._parked.extend(events)
        elif events:
            self._parked = deque(events)

    def _first_of_all(self, events: list[Event]) -> None:
        """Before whatever waits: it came in answer to what was handled last."""
        if self._parked is None:
            self._parked = deque(events)
        else:
            self._parked.extendleft(reversed(events))

    def _go_on(self, events: list[Event]) -> None:
        if not events and self._parked is None:
            return
        self._first_of_all(events)
        if self._task is None and self._parked:
            wait = self._next()
            if wait is not None:
                self._park(wait)

    # ---- TLS ---------------------------------------------------------------------------------------------------------

    def _begin_tls(self, domain: str) -> None:
        certificates = self._server.certificates
        if certificates is None:
            self._given_up()
            return
        self._backlog = None  # nothing of what came in plain text may survive; from here on input is decrypted
        self.begin_tls(certificates.context_for(domain) if domain else certificates.server_context(XMPP_CLIENT))

    def secured(self) -> None:
        """See `TlsConnection.secured`: the stream begins anew, with what the certificate binds it to."""
        machine, certificates, tls = self._machine, self._server.certificates, self._tls
        if machine is not None and certificates is not None and tls is not None:
            connection = tls.object
            used = certificates.end_point_binding(connection)
            machine.tls_established(
                None if used is None else _binding_of(used),
                tls_exporter(connection),
                tls_unique(connection),
                tls_version(connection),
            )

    def tls_failed(self, reason: str) -> None:
        """See `TlsConnection.tls_failed`."""
        self._tell(logging.INFO, "tls_handshake_failed" if self.shaking else "tls_failed", reason=reason)
        self._given_up()

    def _given_up(self) -> None:
        """Nothing can be said any more."""
        self.abort()
        self.connection_lost(None)

    # ---- the end -----------------------------------------------------------------------------------------------------

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

    def _fail(self, error: StreamError) -> None:
        if self._machine is not None:
            self._failed(self._machine.fail(error))

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

    def _throttle(self, size: int, stanzas: int) -> None:
        """Slow the client down by not reading from it (never by dropping)."""
        assert self._byte_bucket is not None and self._stanza_bucket is not None
        session = self.session
        if session is not None and session.owed:
            stanzas += session.owed
            session.owed = 0
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

    @property
    def deaf(self) -> bool:
        """See `Link.deaf`."""
        return self._throttled or self._task is not None

    def park(self) -> bool:
        """Nothing has arrived for a moment: give back the memory of the parser. False if there was none."""
        self._busy = False
        machine = self._machine
        return machine is not None and not machine.idle and machine.park()

    def sweep(self, seconds: float) -> None:
        """Look for silence: ask whether the client lives, then give it up.

        `seconds` have passed since the last look.
        """
        if self._heard or self.deaf:
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
