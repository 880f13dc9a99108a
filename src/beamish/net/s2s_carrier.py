"""The sending half of a connection between servers: stanzas go out when they are safe, and are counted until confirmed.

Stream management (XEP-0198) confirms only what is committed, and keeps what the peer has not confirmed; of a peer without it
pings are asked instead. What is not on disk yet, but has to be, waits (`net.held`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from beamish.core.kernel import new_id
from beamish.core.services import Outbox
from beamish.net.held import HeldConnection
from beamish.net.s2s_hub import Hub, renumbered
from beamish.stream.s2s import SM, ServerStream
from beamish.stream.s2s_acks import WRAP, Acks, PingAcks
from beamish.stream.s2s_out import Cause, Unreachable
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from beamish.net.s2s import S2SLimits
    from beamish.net.s2s_route import Route

_ASK_EVERY: Final = 50
"""Stanzas after which a confirmation is asked for at once; otherwise after `_ASK_AFTER` seconds."""
_ASK_AFTER: Final = 0.1
PING_ID: Final = "s2s-ack-"
_R: Final = f"<r xmlns='{SM}'/>".encode()


class Carrier(HeldConnection):
    """What sends stanzas on one server stream, and knows which of them have arrived."""

    __slots__ = (
        "_ask_timer",
        "_asked",
        "_asked_again",
        "_confirming",
        "_counted",
        "_outbox",
        "_parting",
        "_settled",
        "_unasked",
        "acks",
        "federation",
        "gone",
        "id",
        "machine",
        "pings",
        "routes",
        "stanzas_out",
        "used",
        "why",
    )

    def __init__(self, federation: Hub, machine: ServerStream) -> None:
        super().__init__(federation.flusher, federation.limits.unsent_bytes, federation.kernel, federation.wire_log)
        self.federation: Any = federation
        self.machine = machine
        self.id = new_id()
        self.acks: Acks | None = None
        self.pings: PingAcks | None = None
        """In the place of `acks`, for a peer without stream management, or for what was sent before it enabled that."""
        self.routes: set[Route] = set()
        """Whose stanzas leave through this stream."""
        self.gone = False
        self.why: Unreachable | None = None
        """Why the stream ended, if it did not end in order."""
        self.used = federation.kernel.clock.monotonic()
        """When the last stanza went, in either direction."""
        self.stanzas_out = 0
        self._asked = 0.0
        self._unasked = 0
        self._ask_timer: Any = None
        self._counted = 0
        """Stanzas of the peer whose handling is on disk."""
        self._outbox: Outbox | None = getattr(federation, "outbox", None)
        self._confirming = False
        """The peer has asked what was handled, and its answer waits for the disk."""
        self._asked_again = False
        self._parting = False
        """We have said goodbye: nothing may be written behind it."""
        self._settled = 0

    @property
    def usable(self) -> bool:
        """Whether stanzas may be sent through this stream now or later."""
        return not (self.gone or self._closing or self.machine.closed_by_us)

    @property
    def askable(self) -> bool:
        """Whether it makes sense to ask the peer, on another stream, what it got of this one: that was closed in order, and
        what the peer's last confirmation does not cover crossed somebody's goodbye; or with an error of either side.
        """
        return self.why is None or self.why.cause is Cause.STREAM

    @property
    def room(self) -> bool:
        """Whether the peer keeps up, so that stanzas may be sent now."""
        acks = self.acks
        limits: S2SLimits = self.federation.limits
        if self._blocked or self.waiting >= limits.queue_stanzas:
            return False
        if acks is not None:
            return len(acks.pending) < limits.queue_stanzas and acks.bytes < limits.queue_bytes
        return self.pings is None or self.pings.room

    def send_stanza(self, stanza: Stanza) -> None:
        """See `carry`, for stanzas whose senders wait for nothing."""
        self.carry(stanza)

    def carry(self, stanza: Stanza, row: int = 0) -> int:
        """Send a stanza; it goes out when it is on disk, if it is kept there (as `row`, or from now on).

        Until the peer has confirmed it, `acks` or `pings` has it. The result is the position in the database queue that
        must be durable before the sender is told that it was taken; 0 if it need not wait. Raises `StanzaError` for one
        that is larger than the peer has said it takes (XEP-0478 §4), or that cannot be kept.
        """
        data = stanza.to_wire()
        most = self.machine.peer_bytes
        if most and len(data) > most:
            text = f"the other server takes stanzas of up to {most} bytes, and this one has {len(data)}"
            raise StanzaError(Condition.POLICY_VIOLATION, text=text)
        self.stanzas_out += 1
        self.used = self.federation.kernel.clock.monotonic()
        acks = self.acks
        outbox = self._outbox
        position = 0
        if outbox is not None and (row or self.federation.keeps(stanza)):
            if acks is not None:
                row = outbox.keep(data, acks.key, (acks.sent + 1) % WRAP, row)
            else:
                row = outbox.keep(data, 0, 0, row)
            position = outbox.position
        if acks is not None:
            acks.count_sent(stanza.detached(), data, row)
        self.put(data, position, row)
        if acks is not None:
            self._unasked += 1
            if self._unasked >= _ASK_EVERY:
                self.ask()
                return position
        elif self.pings is not None:
            forgotten = self.pings.sent(stanza, self.used, row)
            if forgotten and outbox is not None:
                outbox.drop(forgotten)
            if not self.pings.due:
                return position
        else:
            return position
        if self._ask_timer is None:
            self._ask_timer = self.federation.kernel.clock.call_later(_ASK_AFTER, self._ask_due)
        return position

    def released(self) -> None:
        """See `HeldConnection.released`."""
        self._drain()

    def withdraw(self, rows: Collection[int]) -> list[tuple[Stanza, int]]:
        """The disk has refused these rows: the stanzas that wait for it here do not go out, and are the result."""
        rows = self.held_of(rows)
        if not rows:
            return []
        taken: list[tuple[Stanza, int]] = []
        position = 0
        if self.acks is not None:
            taken, behind = self.acks.withdraw(rows)
            position = renumbered(self._outbox, self.acks, behind)
        if self.pings is not None:
            taken += self.pings.withdraw(rows)
        self.withhold(rows, position)
        self.stanzas_out -= len(taken)
        return taken

    def _ask_due(self) -> None:
        self._ask_timer = None
        if self._unasked and not self.gone:
            self.ask()
        if self.pings is not None and self.pings.due and self.usable:
            self.federation.ping(self, self.pings.ping())

    def ask(self) -> None:
        """Ask the peer to confirm what it has handled."""
        self._unasked = 0
        if not self._asked:
            self._asked = self.federation.kernel.clock.monotonic()
        self.put(_R)

    def _drain(self) -> None:
        for route in tuple(self.routes):
            route.drain()

    # ---- confirmations ----------------------------------------------------------------------------------------------

    def confirmed(self, acks: Acks, h: int) -> None:
        """The peer has handled `h` of our stanzas. Raises `StreamError`."""
        rows = acks.confirm(h)
        if rows and self._outbox is not None:
            # after a crash the peer of a stream that can be resumed tells it once more
            self._outbox.drop(rows, soon=not acks.key)

    def _confirm_then(self, then: Any) -> None:
        """Confirm what was handled up to now, once that is on disk; then, behind all that waits, go on with `then`.

        Without `then`, the peer only asks: while one answer is under way, those to all further questions are one, the next.
        """
        if then is None:
            if self._confirming:
                self._asked_again = True
                return
            self._confirming = True
        acks = self.acks
        h = 0 if acks is None else acks.handled

        def confirm() -> None:
            if then is None:
                self._confirming = False
            if self.gone:
                return
            if acks is not None:
                self._counted = h
                if not self._parting:
                    self.write(f"<a xmlns='{SM}' h='{h}'/>".encode())
            if then is not None:
                self.behind(then)
            elif self._asked_again:
                self._asked_again = False
                self._confirm_then(None)

        if acks is None:
            confirm()
        elif self._outbox is not None and h != self._counted:
            self._outbox.handled(acks.key, h, confirm, self._settled)
        else:
            self.federation.kernel.db.when_durable(self._settled, confirm)

    def resend(self, *, renumber: bool = False) -> None:
        """Send again what the peer has not got, in the order it had. `renumber`: its numbers have changed."""
        acks = self.acks
        assert acks is not None
        number = acks.sent - len(acks.pending)
        for _, data, row in acks.pending:
            number += 1
            position = 0
            if row and self._outbox is not None:
                if renumber:
                    self._outbox.keep(data, acks.key, number % WRAP, row)
                # the stream may have ended while this was still on its way to the disk
                position = self._outbox.position
            self.put(data, position, row)
        if acks.pending:
            self.ask()
