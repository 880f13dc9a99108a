"""A connection between servers: the part that streams of both directions share.

Stanzas are handled strictly in order; one that has to wait parks only its own connection (RFC 6120 §10.1). How they are sent
and counted is in `net.s2s_carrier`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any, Final

import structlog
from cryptography import x509

from beamish.core.events import Context
from beamish.core.later import is_later
from beamish.net.address import format_peer, network_of
from beamish.net.connection import AT_ONCE
from beamish.net.s2s_carrier import PING_ID, Carrier
from beamish.net.s2s_hub import Hub, keep_alive
from beamish.net.s2s_load import Share
from beamish.net.s2s_turns import family
from beamish.net.tls_connection import OVERHEAD
from beamish.stream.parser import Nonza, Unaddressable
from beamish.stream.s2s import Event, ServerStream, Stage, StreamClosed, StreamFailed
from beamish.stream.s2s_acks import read_count
from beamish.stream.s2s_out import Cause, Unreachable, peer_error
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.stanza import MESSAGE, PRESENCE, Stanza

log = structlog.get_logger(__name__)

Wait = Awaitable[Any]

_LINGER: Final = 1.0
"""Seconds that a peer has to close its side after we closed ours, so that it can read why."""


class Link(Carrier):
    """One server stream on its socket."""

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_bucket",
        "_byte_bucket",
        "_ending",
        "_eof",
        "_log",
        "_network",
        "_parked",
        "_paying",
        "_quiet",
        "_task",
        "_throttled",
        "_timer",
        "chain",
        "heard",
        "since",
        "stanzas_in",
    )

    direction = ""

    def __init__(self, federation: Hub, machine: ServerStream) -> None:
        super().__init__(federation, machine)
        self.chain: list[x509.Certificate] = []
        self.since = federation.kernel.clock.now()
        self.heard = self.used
        self.stanzas_in = 0
        self._backlog: list[bytes] = []
        self._bucket: Any = None
        self._byte_bucket: Any = None
        self._ending = False
        """The peer has closed its stream; our last confirmation comes before our goodbye."""
        self._eof = False
        self._log: Any = log.bind(stream=self.id)
        self._network = ""
        self._parked: deque[Event] = deque()
        self._paying: asyncio.Future[None] | None = None
        self._quiet = False
        """Its end is nothing for the log."""
        self._task: asyncio.Task[None] | None = None
        self._throttled = False
        self._timer: Any = None

    # ---- the socket -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        address = self.info("peername")
        self.peer = format_peer(address)
        self._network = network_of(address)
        self._log = log.bind(stream=self.id, peer=self.peer)
        keep_alive(self.info("socket"))
        self.federation.links.add(self)
        self._timer = self.federation.kernel.clock.call_later(
            self.federation.limits.negotiation_seconds, self._negotiation_timeout
        )

    def turn_away(self) -> None:
        """Cut a connection that has just been made, without a word: to say why keeps it open for a second, and each is a
        file descriptor and two lines in the log.
        """
        self._quiet = True
        self.abort()

    def _negotiation_timeout(self) -> None:
        self._timer = None
        self.fail(
            StreamError(StreamErrorCondition.CONNECTION_TIMEOUT, "negotiation took too long"),
            Unreachable(Cause.TIMEOUT, f"{self.peer} did not finish the negotiation in time"),
        )

    def negotiated(self) -> None:
        """The stream may stay: somebody is authenticated."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def plain_received(self, data: bytes) -> None:
        """See `TlsConnection.plain_received`."""
        if self._closing:
            return
        self.heard = self.federation.kernel.clock.monotonic()
        if self.federation.wire_log.enabled:
            self.federation.wire_log.received(self.id, None, data)
        if self._task is not None:
            self._backlog.append(data)  # one read may still have been under way when reading was paused
            return
        events = self.machine.receive(data)
        if events:
            self.handle(events)
        self.answer()
        if self._byte_bucket is not None:
            self._throttle(len(data), self.machine.taken)

    def overhead(self, size: int) -> None:
        """See `TlsConnection.overhead`: it counts many times for the rate of bytes, and nobody unknown may do it."""
        if self._byte_bucket is not None:
            self._throttle(OVERHEAD * size, 0)
        else:
            self.tls_failed("too little content in too many records")

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        self._eof = True
        if self.why is None and self.machine.stage is not Stage.CLOSED and not self.machine.closed_by_us:
            self.why = Unreachable(Cause.LOST, f"{self.peer} hung up")
        if self._task is None:
            self.handle(self.machine.receive_eof())
            self.answer()
        if self._closing:
            self.finish()  # our last words are read, or never will be
        return True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        self._drain()

    def tls_failed(self, reason: str) -> None:
        """See `TlsConnection.tls_failed`."""
        self._note("s2s_tls_failed", reason=reason)
        self.why = self.why or Unreachable(Cause.TLS, f"TLS with {self.peer} failed: {reason}")
        self.abort()

    def too_slow(self) -> None:
        """See `Connection.too_slow`."""
        self._log.warning("s2s_slow_reader_cut", limit=self._unsent_limit)
        self.why = self.why or Unreachable(Cause.TIMEOUT, "the server does not take what it is sent")

    def lost(self, error: Exception | None) -> None:
        """See `Connection.lost`."""
        if self.gone:
            return
        self.gone = True
        for timer in (self._timer, self._ask_timer):
            if timer is not None:
                timer.cancel()
        if self.acks is not None:
            self._parked.clear()  # not counted as handled, so the peer knows
            self._backlog.clear()
            # its counters may be kept for a while, and with them this object
            self.machine.discard()
            self.chain = []
            self._tls = None
        self.forget_held()
        self._paid()
        self.federation.wire_log.forget(self.id)
        orderly = self.machine.stage is Stage.CLOSED and self.why is None
        if not orderly and self.why is None:
            self.why = Unreachable(Cause.LOST, f"the connection to {self.peer} broke off")
        if not self._quiet:
            self._note("s2s_disconnected", orderly=orderly, reason=None if self.why is None else str(self.why))
        self.federation.links.discard(self)
        self.federation.link_lost(self)

    def sending(self, data: bytes) -> None:
        """See `Connection.sending`."""
        self.federation.wire_log.sent(self.id, None, data)

    def answer(self) -> None:
        """Send what the machine wants sent."""
        if self._ending:
            return
        if data := self.machine.data_to_send():
            self.write(data)

    def note_claim(self, event: str, remote: str, /, **keys: object) -> None:
        """A line of the log for which a stanza or a claim in the name of a domain is enough; see `Sparing`."""
        self.federation.sparing.write(self._log.info, event, family(remote), **keys)

    def _note(self, event: str, /, **keys: object) -> None:
        """A line about the connection; of strangers' only some for each network."""
        if self._bucket is not None:  # it has said who it is, and proved it
            self._log.info(event, **keys)
        else:
            self.federation.sparing.write(self._log.info, event, self._network, **keys)

    # ---- events, in order -------------------------------------------------------------------------------------------

    def inject(self, events: list[Event]) -> None:
        """Handle events that did not come from input, behind those that wait."""
        if self._task is not None:
            self._parked.extend(events)
        else:
            self.handle(events)
            self.answer()

    def handle(self, events: list[Event]) -> None:
        """Handle events in order; parks the connection if one has to wait, and for a turn of the loop if there are many:
        one read may bring thousands, and uvloop reads up to 32 times before anybody else has a turn.
        """
        for at, event in enumerate(events):
            wait = self._stanza(event) if type(event) is Stanza else self._event(event)
            if wait is None and (at + 1) % AT_ONCE == 0 and at + 1 < len(events):
                wait = asyncio.sleep(0)
            if wait is not None:
                self._parked.extend(events[at + 1 :])
                self.stop_reading()
                self._task = self.federation.tasks.spawn(self._wait(wait), "stanza")
                return

    async def _wait(self, wait: Wait | None) -> None:
        waited = 0
        try:
            while wait is not None:
                await wait
                self.answer()
                waited += 1
                if waited % AT_ONCE == 0:
                    await asyncio.sleep(0)
                wait = self._next()
        except StreamError as error:
            self.fail(error)
        except Exception:
            self._log.exception("s2s_stream_failed")
            self.fail(StreamError(StreamErrorCondition.INTERNAL_SERVER_ERROR))
        finally:
            self._task = None
            if not self._throttled and not self.gone:
                self.start_reading()

    def _next(self) -> Wait | None:
        handled = 0
        while True:
            while self._parked:
                event = self._parked.popleft()
                wait = self._stanza(event) if type(event) is Stanza else self._event(event)
                if wait is not None:
                    return wait
                handled += 1
                if handled == AT_ONCE:
                    return asyncio.sleep(0)
            if self._backlog:
                data = b"".join(self._backlog)
                self._backlog.clear()
                self._parked.extend(self.machine.receive(data))
                if self._byte_bucket is not None:
                    self._throttle(len(data), self.machine.taken)
            elif self._eof and not self.gone:
                self._eof = False
                self._parked.extend(self.machine.receive_eof())
            else:
                self.answer()
                return None
            self.answer()

    @property
    def settled_at(self) -> int:
        """The position in the database queue up to which everything was written that stanzas of the peer caused."""
        return self._settled

    async def quiet(self) -> None:
        """Return when the stanza in hand has been handled."""
        while (task := self._task) is not None:
            await asyncio.wait((task,))

    def _event(self, event: Event) -> Wait | None:
        """Subclasses handle their own events and leave the rest to this."""
        if isinstance(event, Nonza):
            try:
                return self._sm(event)
            except StreamError as error:
                self.fail(error)
                return None
        if isinstance(event, Unaddressable):
            self._unaddressable(event)
        elif isinstance(event, StreamFailed):
            self._failed(event)
        elif isinstance(event, StreamClosed):
            self._ending = True
            self._confirm_then(self._finished)
        return None

    def _finished(self) -> None:
        self._ending = False
        self.answer()
        self.finish()

    def _failed(self, event: StreamFailed) -> None:
        error = event.error
        self._note("s2s_stream_error", by_peer=event.by_peer, error=error.condition.value, text=error.text)
        if self.why is None:
            if event.by_peer:
                self.why = peer_error(error.condition, error.text)
            else:
                self.why = Unreachable(Cause.STREAM, f"we closed the stream: {error}")
        self.answer()
        if event.by_peer:
            self.finish()  # it does not wait for more from us than our goodbye
        else:
            self._end()

    def _end(self) -> None:
        """Everything is said; give the peer a moment to read it, then cut."""
        self._blocked = False
        self.flush()
        self._closing = True
        if self.transport is not None and not self._eof:
            clock = self.federation.kernel.clock
            self.negotiated()
            self._timer = clock.call_later(_LINGER, self.abort)
        else:
            self.finish()

    def fail(self, error: StreamError, why: Unreachable | None = None) -> None:
        """Close the stream with an error of ours."""
        if self.gone or self._closing:
            return
        self.why = self.why or why
        self._failed(self.machine.fail(error))

    def close(self) -> None:
        """Close the stream in order: confirm what was handled, say goodbye, give the peer a moment to do the same."""
        if self.gone or self._closing or self.machine.closed_by_us:
            return
        self._confirm_then(self._goodbye)

    def _goodbye(self) -> None:
        if self.gone or self._closing:
            return
        self._parting = True
        self.machine.close()
        self.answer()
        self.flush()
        self.negotiated()
        self._timer = self.federation.kernel.clock.call_later(_LINGER, self.abort)

    # ---- stanzas in -------------------------------------------------------------------------------------------------

    def _stanza(self, stanza: Stanza) -> Wait | None:
        federation = self.federation
        self.stanzas_in += 1
        self.used = self.heard
        if stanza.name == PRESENCE:
            federation.presences.note(stanza)
        elif stanza.id.startswith(PING_ID) and federation.ping_answered(stanza):
            self._handled(False)
            return None
        ctx = Context(stanza)
        rest = federation.kernel.router.from_elsewhere(ctx)
        if is_later(rest):
            return self._routed(ctx, rest)
        if ctx.settled > self._settled:
            self._settled = ctx.settled
        if self.acks is not None:
            self._handled(stanza.name == MESSAGE or ctx.settled > 0)
        return None if not ctx.owed else self._pay(ctx.owed)

    def _handled(self, lasting: bool) -> None:
        """A stanza was dealt with; if it left something on disk, its count joins that commit."""
        acks = self.acks
        if acks is not None:
            acks.count_handled()
            if lasting and acks.key and self._outbox is not None:
                self._outbox.handled(acks.key, acks.handled)

    def _unaddressable(self, event: Unaddressable) -> None:
        """A stanza whose `to` is no JID: it counts as handled, like every stanza, and is answered if it may be."""
        self.note_claim("s2s_jid_malformed", next(iter(self.remotes), ""), reason=event.reason)
        self.stanzas_in += 1
        self.used = self.heard
        self._handled(False)
        if event.reply is not None:
            self.federation.kernel.router.post(event.reply)

    async def _routed(self, ctx: Context, rest: Awaitable[None]) -> None:
        await rest
        self._settled = max(self._settled, ctx.settled)
        self._handled(True)
        if ctx.owed:
            await self._pay(ctx.owed)

    async def _pay(self, owed: int) -> None:
        """Wait until the peer's rate has room for what its last stanza has cost beyond itself (`Context.charge`)."""
        clock = self.federation.kernel.clock
        pause = 0.0 if self._bucket is None or self.gone else self._bucket.take(owed, clock.monotonic)
        if pause > 0.0:
            self._paying = paying = asyncio.get_running_loop().create_future()
            timer = clock.call_later(pause, self._paid)
            await paying
            timer.cancel()
            self._listens_again()

    def _listens_again(self) -> None:
        """What was asked of the peer may have been answered while we did not read: from now on it has its time to do so."""
        if self._asked:
            self._asked = self.federation.kernel.clock.monotonic()

    def _paid(self) -> None:
        """The debt is paid, or there is nobody left to pay it."""
        paying, self._paying = self._paying, None
        if paying is not None and not paying.done():
            paying.set_result(None)

    def limit(self, remote: str) -> None:
        """From now on the rates of this remote domain apply; for what it says in the name of others, too."""
        if self._bucket is None:
            self._bucket, self._byte_bucket = self.federation.buckets(remote)

    def _throttle(self, size: int, stanzas: int) -> None:
        """Slow the peer down by not reading from it."""
        clock = self.federation.kernel.clock
        pause = max(self._byte_bucket.take(size, clock.monotonic), self._bucket.take(stanzas, clock.monotonic))
        if pause > 0.0 and not self._throttled:
            self._throttled = True
            self.stop_reading()
            clock.call_later(pause, self._unthrottle)

    def _unthrottle(self) -> None:
        self._throttled = False
        self._listens_again()
        if self._task is None and not self.gone:
            self.start_reading()

    # ---- stream management ------------------------------------------------------------------------------------------

    def _sm(self, item: Nonza) -> Wait | None:
        """An element of stream management. Raises `StreamError`."""
        name = item.tag.rpartition("}")[2]
        if name == "r":
            self._confirm_then(None)
        elif name == "a" and self.acks is not None:
            self.confirmed(self.acks, read_count(item.el.get("h")))
            self._asked = 0.0
            self._drain()
        else:
            return self._sm_negotiation(name, item)
        return None

    def _sm_negotiation(self, name: str, item: Nonza) -> Wait | None:
        self.fail(StreamError(StreamErrorCondition.UNSUPPORTED_STANZA_TYPE))
        return None

    # ---- looking after it -------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Give up a peer that does not answer; close a stream that nobody needs; free the parser of an idle one."""
        limits = self.federation.limits
        listens = not self._throttled and self._paying is None
        if self._asked and listens and now - self._asked > limits.answer_seconds:
            self.why = self.why or Unreachable(Cause.TIMEOUT, f"{self.peer} does not confirm anything any more")
            self.abort()
        elif self._timer is None and now - max(self.used, self.heard if self._throttled else 0.0) > self.idle_limit:
            self._log.info("s2s_idle_closed")
            self.close()
        elif now - self.heard > 10.0 and self._task is None:
            self.machine.park()

    @property
    def idle_limit(self) -> float:
        """Seconds without a stanza after which the stream is closed."""
        return float(self.federation.limits.idle_seconds)

    @property
    def remotes(self) -> set[str]:
        """The remote domains whose stanzas the stream carries."""
        return set()

    @property
    def share(self) -> Share:
        """Where what waits for the peer is counted."""
        share: Share = self.federation.load.of(min(self.remotes))
        return share

    def describe(self) -> dict[str, Any]:
        """What `s2s list` shows."""
        tls = self.tls
        clock = self.federation.kernel.clock
        return {
            "direction": self.direction,
            "peer": self.peer,
            "tls": tls.version if tls is not None and tls.established else None,
            "resumable": bool(self.acks and self.acks.id),
            "in": self.stanzas_in,
            "out": self.stanzas_out,
            "unconfirmed": len(self.acks.pending) if self.acks else 0,
            "age": round(clock.now() - self.since),
            "idle": round(clock.monotonic() - self.used),
        }
