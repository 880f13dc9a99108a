"""A clock that moves only when told."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class FakeTimer:
    """See `core.clock.Timer`."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Make it not happen."""
        self.call = None


class FakeClock:
    """A `core.clock.Clock` that stands still at `start` (seconds since the epoch) until `advance` is called."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._due: list[tuple[float, int, FakeTimer]] = []
        self._order = count()

    def now(self) -> float:
        """See `Clock.now`."""
        return self._now

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._now

    def call_later(self, seconds: float, call: Callable[[], None]) -> FakeTimer:
        """See `Clock.call_later`."""
        timer = FakeTimer(call)
        heapq.heappush(self._due, (self._now + seconds, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move on, calling what becomes due, each at its own time."""
        until = self._now + seconds
        while self._due and self._due[0][0] <= until:
            self._now, _, timer = heapq.heappop(self._due)
            call, timer.call = timer.call, None
            if call is not None:
                call()
        self._now = until
