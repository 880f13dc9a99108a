"""One timer for many connections that all have the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from beamish.core.clock import Clock

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Calls `late` with everything that was not taken out within `seconds` of being put in.

    Who comes later is due later, so the order of coming is the order of being due: putting in and taking out is a step in a
    dictionary, and a timer runs only for the one that is due next.
    """

    __slots__ = ("_clock", "_due", "_late", "_running", "_seconds")

    def __init__(self, clock: Clock, seconds: float, late: Callable[[T], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._late = late
        self._due: dict[T, float] = {}
        self._running = False

    def __len__(self) -> int:
        return len(self._due)

    def put(self, item: T) -> None:
        """Give it the whole time, from now on."""
        self._due.pop(item, None)
        self._due[item] = self._clock.monotonic() + self._seconds
        if not self._running:
            self._running = True
            self._clock.call_later(self._seconds, self._look)

    def take(self, item: T) -> None:
        """It is not late any more, whether it was put in or not."""
        self._due.pop(item, None)

    def _look(self) -> None:
        self._running = False
        now = self._clock.monotonic()
        late = []
        for item, due in self._due.items():
            if due > now:
                self._running = True
                self._clock.call_later(due - now, self._look)
                break
            late.append(item)
        for item in late:
            if self._due.pop(item, None) is not None:  # nobody before it has taken it out
                self._late(item)
