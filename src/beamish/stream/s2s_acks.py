"""The counters of XEP-0198 on a server stream: what we sent and the peer has not confirmed, what we have handled.

They outlive their stream when it breaks off and is resumed, so that no stanza is lost or sent twice. On a bidirectional
stream both counters move, on others one of them stays zero.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.stanza import Stanza

WRAP: Final = 1 << 32
"""Counters wrap at 2³² (XEP-0198 §4)."""


def read_count(text: str | None) -> int:
    """The `h` of a peer. Raises `StreamError` if it is none."""
    if text is not None and text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < WRAP:
        return int(text)
    raise StreamError(StreamErrorCondition.POLICY_VIOLATION, "h is not a count")


class Acks:
    """Both counters of a stream. `id` is what resumes it, "" if nothing does."""

    __slots__ = ("bytes", "handled", "id", "pending", "sent")

    def __init__(self, id: str = "") -> None:
        self.id = id
        self.handled = 0
        """Stanzas of the peer that were handled here."""
        self.sent = 0
        """Stanzas that were sent to the peer."""
        self.pending: deque[tuple[Stanza, bytes]] = deque()
        """Those of them that the peer has not confirmed, oldest first."""
        self.bytes = 0
        """Bytes in `pending`."""

    def count_handled(self) -> None:
        """Another stanza of the peer was handled."""
        self.handled = (self.handled + 1) % WRAP

    def count_sent(self, stanza: Stanza, data: bytes) -> None:
        """Another stanza was sent; it is kept until it is confirmed."""
        self.sent = (self.sent + 1) % WRAP
        self.pending.append((stanza, data))
        self.bytes += len(data)

    def confirm(self, h: int) -> None:
        """The peer has handled `h` of our stanzas. Raises `StreamError` if we never sent that many."""
        confirmed = (h - (self.sent - len(self.pending))) % WRAP
        if confirmed > len(self.pending):
            raise StreamError(
                StreamErrorCondition.UNDEFINED_CONDITION, f"{h} stanzas confirmed, but {self.sent} were sent"
            )
        for _ in range(confirmed):
            self.bytes -= len(self.pending.popleft()[1])


class PingAcks:
    """What stands in for stream management with a peer that does not have it: pings, whose answers confirm what went
    before them, because stanzas of one stream are handled in order (RFC 6120 §10.1).

    Only stanzas that may be answered with an error are kept, at most `limit`. Of a peer that answers no ping nothing can
    be known: then only those of the last `grace` seconds are in doubt when its connection breaks off.
    """

    __slots__ = ("_grace", "_limit", "_pending", "_pinged", "_sent", "answers")

    def __init__(self, limit: int = 1_000, grace: float = 5.0) -> None:
        self._limit = limit
        self._grace = grace
        self._pending: deque[tuple[int, float, Stanza]] = deque()
        self._sent = 0
        self._pinged = 0
        self.answers = False
        """Whether the peer has answered a ping on this stream."""

    @property
    def due(self) -> bool:
        """Whether something was sent that no ping asks about yet."""
        return bool(self._pending) and self._pending[-1][0] > self._pinged

    def sent(self, stanza: Stanza, now: float) -> None:
        """A stanza was sent."""
        if stanza.type == "error" or (stanza.name == "iq" and stanza.type == "result"):
            return  # nobody can be told
        self._sent += 1
        self._pending.append((self._sent, now, stanza.detached()))
        while len(self._pending) > self._limit or (not self.answers and self._pending[0][1] < now - self._grace):
            self._pending.popleft()

    def ping(self) -> int:
        """A ping goes out now; its number."""
        self._pinged = self._sent
        return self._sent

    def answered(self, number: int) -> None:
        """The ping with this number was answered."""
        self.answers = True
        while self._pending and self._pending[0][0] <= number:
            self._pending.popleft()

    def lost(self, now: float) -> list[Stanza]:
        """The connection broke off: what the peer may not have got."""
        oldest = 0.0 if self.answers else now - self._grace
        return [stanza for _, when, stanza in self._pending if when >= oldest]
