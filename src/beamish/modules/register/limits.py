"""How often something may happen, per network and in all, within a sliding window."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

_NETWORKS: Final = 10_000
"""Networks remembered; beyond that the one that was quiet longest is forgotten."""


class Allowance:
    """Counts events per key: at most `each` of one key and `all` of all keys within `seconds`."""

    def __init__(self, each: int, all: int, seconds: float, clock: Callable[[], float]) -> None:
        self._each = each
        self._all = all
        self._seconds = seconds
        self._clock = clock
        self._by_key: OrderedDict[str, deque[float]] = OrderedDict()
        self._together: deque[float] = deque()

    def left(self, key: str) -> bool:
        """Whether one more is allowed."""
        now = self._clock()
        _forget(self._together, now - self._seconds)
        own = self._by_key.get(key)
        if own is not None:
            _forget(own, now - self._seconds)
        return len(self._together) < self._all and (own is None or len(own) < self._each)

    def count(self, key: str) -> float:
        """One happens; the time by which `give_back` knows it."""
        now = self._clock()
        own = self._by_key.setdefault(key, deque(maxlen=self._each))
        self._by_key.move_to_end(key)
        own.append(now)
        self._together.append(now)
        if len(self._together) > self._all:
            self._together.popleft()
        if len(self._by_key) > _NETWORKS:
            self._by_key.popitem(last=False)
        return now

    def give_back(self, key: str, at: float) -> None:
        """What was counted at this time did not happen after all."""
        for times in (self._by_key.get(key), self._together):
            if times is not None and at in times:
                times.remove(at)

    def take(self, key: str) -> bool:
        """Count one if it is allowed."""
        if not self.left(key):
            return False
        self.count(key)
        return True


def _forget(times: deque[float], before: float) -> None:
    while times and times[0] <= before:
        times.popleft()
