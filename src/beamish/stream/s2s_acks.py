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
