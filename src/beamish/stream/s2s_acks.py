"""The counters of XEP-0198 on a server stream: what we sent and the peer has not confirmed, what we have handled.

They outlive their stream when it breaks off and is resumed, and the process, where they are written down; so no stanza
is lost or sent twice. On a bidirectional stream both counters move, on others one of them stays zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from beamish.stream.resume import SM, after, too_high
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from beamish.stream.s2s_out import Unreachable

WRAP: Final = 1 << 32
"""Counters wrap at 2³² (XEP-0198 §4)."""


def read_count(text: str | None) -> int:
    """The `h` of a peer. Raises `StreamError` if it is none."""
    if text is not None and text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < WRAP:
        return int(text)
    raise StreamError(StreamErrorCondition.POLICY_VIOLATION, "h is not a count")


@lru_cache(maxsize=64)
def failed_element(condition: str, h: int | None = None) -> bytes:
    """`<failed/>` of stream management (XEP-0198 §3, §5)."""
    count = "" if h is None else f" h='{h}'"
    return f"<failed xmlns='{SM}'{count}><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>".encode()


class Share(Protocol):
    """Where the bytes are counted that wait for a peer and others."""

    def add(self, size: int) -> None:
        """So many bytes more wait now, or fewer."""


class Acks:
    """Both counters of a stream. `id` is what resumes it, "" if nothing does.

    `key` is what the store knows the stream by, 0 if it does not. Every stanza has a `row`, its own key there or 0.
    """

    __slots__ = ("_stored", "blame", "bytes", "handled", "id", "key", "pending", "sent", "settled", "share")

    def __init__(self, id: str = "", key: int = 0) -> None:
        self.id = id
        self.key = key
        self.handled = 0
        """Stanzas of the peer that were handled here."""
        self.sent = 0
        """Stanzas that were sent to the peer."""
        self.pending: deque[tuple[Stanza, bytes, int]] = deque()
        """Those of them that the peer has not confirmed, oldest first; with their bytes and rows."""
        self.bytes = 0
        """Bytes in `pending`."""
        self.share: Share | None = None
        """Where these are counted as well."""
        self.settled = False
        """What became of every stanza is known, or was given up: the counters mean nothing any more."""
        self.blame: Unreachable | None = None
        """The peer ended the stream because of something that we sent: what it has not handled goes back with this."""
        self._stored: list[tuple[int, Stanza, bytes, int]] | None = None

    @classmethod
    def restored(cls, id: str, key: int, handled: int, stanzas: Iterable[tuple[int, Stanza, bytes, int]]) -> Acks:
        """Counters of before a crash; `stanzas` with their numbers on the stream, in order.

        Between them others were sent that nobody has written down. So how many were sent is only known when the peer
        has told how many it has got.
        """
        acks = cls(id, key)
        acks.handled = handled
        acks._stored = list(stanzas)
        return acks

    @property
    def exact(self) -> bool:
        """Whether `sent` and `pending` say what there is; otherwise the peer must `confirm` something first."""
        return self._stored is None

    @property
    def unconfirmed(self) -> int:
        """Stanzas that the peer has not confirmed."""
        return len(self.pending) + (0 if self._stored is None else len(self._stored))

    def _weigh(self, size: int) -> None:
        self.bytes += size
        if self.share is not None:
            self.share.add(size)

    def count_handled(self) -> None:
        """Another stanza of the peer was handled."""
        self.handled = (self.handled + 1) % WRAP

    def count_sent(self, stanza: Stanza, data: bytes, row: int = 0) -> None:
        """Another stanza was sent; it is kept until it is confirmed."""
        self.sent = (self.sent + 1) % WRAP
        self.pending.append((stanza, data, row))
        self._weigh(len(data))

    def confirm(self, h: int) -> list[int]:
        """The peer has handled `h` of our stanzas; the rows of those that this confirms.

        Raises `StreamError` if we never sent that many.
        """
        if self._stored is not None:
            return self._recount(self._stored, h)
        pending = self.pending
        confirmed = (h - (self.sent - len(pending))) % WRAP
        if confirmed > len(pending):
            raise too_high(h, self.sent)
        rows = []
        size = 0
        for _ in range(confirmed):
            _, data, row = pending.popleft()
            size += len(data)
            if row:
                rows.append(row)
        self._weigh(-size)
        return rows

    def _recount(self, stored: list[tuple[int, Stanza, bytes, int]], h: int) -> list[int]:
        self._stored = None
        self.sent = h
        rows = []
        for number, stanza, data, row in stored:
            if after(number, h):
                self.count_sent(stanza, data, row)
            else:
                rows.append(row)
        return rows

    def take_back(self) -> list[tuple[Stanza, int]]:
        """What is not confirmed is not to be sent again on this stream; it is as if it had never been sent."""
        back = [(stanza, row) for stanza, _, row in self.pending]
        self.sent = (self.sent - len(back)) % WRAP
        self.pending.clear()
        self._weigh(-self.bytes)
        return back

    def withdraw(self, rows: Container[int]) -> tuple[list[tuple[Stanza, int]], list[tuple[int, bytes, int]]]:
        """Take back stanzas with these rows, which were never sent, nor was anything that was counted after the first of them.

        They are the first result; the second one is what was counted behind them and has a row: numbers, bytes and rows.
        """
        pending = self.pending
        number = (self.sent - len(pending)) % WRAP
        kept: deque[tuple[Stanza, bytes, int]] = deque()
        taken: list[tuple[Stanza, int]] = []
        behind: list[tuple[int, bytes, int]] = []
        for stanza, data, row in pending:
            if row and row in rows:
                taken.append((stanza, row))
                self._weigh(-len(data))
                continue
            number = (number + 1) % WRAP
            kept.append((stanza, data, row))
            if row and taken:
                behind.append((number, data, row))
        if taken:
            self.pending = kept
            self.sent = number
        return taken, behind

    def take_rest(self) -> list[tuple[Stanza, int]]:
        """Give up counting: everything that is not confirmed, in order, with its rows."""
        rest = [(stanza, row) for stanza, _, row in self.pending]
        rest += [(stanza, row) for _, stanza, _, row in self._stored or ()]
        self.pending.clear()
        self._weigh(-self.bytes)
        self._stored = None
        self.settled = True
        return rest


class PingAcks:
    """What stands in for stream management with a peer that does not have it: pings, whose answers confirm what went
    before them, because stanzas of one stream are handled in order (RFC 6120 §10.1).

    Only stanzas that may be answered with an error, or that are on disk, are kept, about `limit` of them and `limit_bytes`.
    Of a peer that answers no ping nothing can be known: then only those of the last `grace` seconds are in doubt when its
    connection breaks off.
    """

    __slots__ = ("_bytes", "_grace", "_limit", "_limit_bytes", "_pending", "_pinged", "_sent", "_share", "answers")

    def __init__(
        self, limit: int = 1_000, grace: float = 5.0, *, limit_bytes: int = 4_194_304, share: Share | None = None
    ) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._share = share
        self._bytes = 0
        """Of what is kept; `share` counts them as well."""
        self._grace = grace
        self._pending: deque[tuple[int, float, Stanza, int]] = deque()
        self._sent = 0
        self._pinged = 0
        self.answers = False
        """Whether the peer has answered a ping on this stream."""

    @property
    def due(self) -> bool:
        """Whether something was sent that no ping asks about yet."""
        return bool(self._pending) and self._pending[-1][0] > self._pinged

    @property
    def room(self) -> bool:
        """Whether more may be sent before the next answer; a peer that answers none is not waited for."""
        return not self.answers or (len(self._pending) < self._limit and self._bytes < self._limit_bytes)

    def _weigh(self, size: int) -> None:
        self._bytes += size
        if self._share is not None:
            self._share.add(size)

    def _oldest(self) -> int:
        """Keep the oldest no longer; its row."""
        _, _, stanza, row = self._pending.popleft()
        self._weigh(-_size(stanza))
        return row

    def sent(self, stanza: Stanza, now: float, row: int = 0) -> list[int]:
        """A stanza was sent; the rows of those that are not waited for any longer."""
        if not row and (stanza.type == "error" or (stanza.name == "iq" and stanza.type == "result")):
            return []  # nobody can be told
        self._sent += 1
        self._pending.append((self._sent, now, stanza.detached(), row))
        self._weigh(_size(stanza))
        gone = []
        while (len(self._pending) > 1 and not self.answers) and (  # the last one is in doubt, however long it is
            len(self._pending) > self._limit
            or self._bytes > self._limit_bytes
            or self._pending[0][1] < now - self._grace
        ):
            gone.append(self._oldest())
        return [each for each in gone if each]

    def withdraw(self, rows: Container[int]) -> list[tuple[Stanza, int]]:
        """Take back stanzas with these rows, which were never sent."""
        taken = [(stanza, row) for _, _, stanza, row in self._pending if row and row in rows]
        if taken:
            self._pending = deque(each for each in self._pending if not each[3] or each[3] not in rows)
            self._weigh(-sum(_size(stanza) for stanza, _ in taken))
        return taken

    def ping(self) -> int:
        """A ping goes out now; its number."""
        self._pinged = self._sent
        return self._sent

    def answered(self, number: int) -> list[int]:
        """The ping with this number was answered; the rows of what that confirms."""
        self.answers = True
        rows = []
        while self._pending and self._pending[0][0] <= number:
            row = self._oldest()
            if row:
                rows.append(row)
        return rows

    def lost(self, now: float) -> tuple[list[tuple[Stanza, int]], list[int]]:
        """The connection broke off: what the peer may not have got, and the rows of what it is believed to have."""
        oldest = 0.0 if self.answers else now - self._grace
        doubtful = [(stanza, row) for _, when, stanza, row in self._pending if when >= oldest]
        rows = [row for _, when, _, row in self._pending if when < oldest and row]
        self._pending.clear()
        self._weigh(-self._bytes)
        return doubtful, rows

    def closed(self) -> list[int]:
        """The peer closed the stream in order, so it has handled what was sent (RFC 6120 §4.4); the rows of that."""
        rows = [row for _, _, _, row in self._pending if row]
        self._pending.clear()
        self._weigh(-self._bytes)
        return rows


def _size(stanza: Stanza) -> int:
    return len(stanza.head) + len(stanza.body)
