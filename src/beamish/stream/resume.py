"""XEP-0198 §4 and §5 without I/O: what was sent on a stream and not yet confirmed, and the numbers both sides count by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final, Generic, TypeVar

from beamish.xmpp.errors import StreamError, StreamErrorCondition

SM: Final = "urn:xmpp:sm:3"
WRAP: Final = 1 << 32
"""Counters wrap at 2³² (XEP-0198 §4)."""
_HALF: Final = WRAP >> 1

T = TypeVar("T")


def read_count(text: str | None) -> int | None:
    """An `h` attribute (xs:unsignedInt); None if it is missing or no such number."""
    if text is None:
        return None
    text = text.strip(" \t\r\n")
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    count = int(text)
    return count if count < WRAP else None


def after(count: int, other: int) -> bool:
    """Whether `count` is later than `other`, if they are less than 2³¹ apart."""
    return 0 < (count - other) % WRAP < _HALF


def too_high(h: int, sent: int) -> StreamError:
    """The stream error for a peer that confirms more than it was sent (XEP-0198 §6)."""
    return StreamError(
        StreamErrorCondition.UNDEFINED_CONDITION,
        f"You acknowledged {h} stanzas, but I only sent you {sent} so far.",
        app=f"<handled-count-too-high xmlns='{SM}' h='{h}' send-count='{sent}'/>".encode(),
    )


class Unconfirmed(Generic[T]):
    """Stanzas that were sent and not confirmed, oldest first.

    `sent` is the count of the last one. Each has a size, whose sum is `bytes`; bounds are the caller's business.
    """

    __slots__ = ("_items", "bytes", "sent")

    def __init__(self, sent: int = 0) -> None:
        """Nothing is under way on a stream on which `sent` stanzas were sent so far, all confirmed."""
        self.sent = sent % WRAP
        self.bytes = 0
        self._items: deque[tuple[T, int]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        for item, _ in self._items:
            yield item

    def since(self, count: int) -> list[T]:
        """What was sent behind the `count` and is not confirmed, oldest first; it costs as much as there is of it."""
        behind = (self.sent - count) % WRAP
        if behind >= len(self._items):
            return list(self)
        newest = [item for item, _ in islice(reversed(self._items), behind)]
        newest.reverse()
        return newest

    @property
    def confirmed(self) -> int:
        """The last count that was confirmed."""
        return (self.sent - len(self._items)) % WRAP

    def add(self, item: T, size: int) -> int:
        """Another stanza is sent; its count."""
        self._items.append((item, size))
        self.bytes += size
        self.sent = (self.sent + 1) % WRAP
        return self.sent

    def confirm(self, h: int) -> list[T]:
        """The peer has handled everything up to count `h`; what is thereby done with.

        Raises `StreamError` if so many were never sent, which is also how a count that goes back looks.
        """
        items = self._items
        number = (h - self.confirmed) % WRAP
        if number > len(items):
            raise too_high(h, self.sent)
        done = []
        for _ in range(number):
            item, size = items.popleft()
            self.bytes -= size
            done.append(item)
        return done

    def take_all(self) -> list[T]:
        """End: everything that was not confirmed."""
        items = [item for item, _ in self._items]
        self._items.clear()
        self.bytes = 0
        return items

    def restart(self, h: int) -> None:
        """Count anew from a peer's own count: what is still here is sent again, behind the `h` stanzas that it has seen."""
        self.sent = (h + len(self._items)) % WRAP
