"""Lines of the log that others cause as often as they like: the first few are written, the rest counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from beamish.core.clock import Clock


class Sparing:
    """Writes at most `lines` lines of an event about somebody in `seconds`; the next one that is written says `left_out`, how
    many were not. Of at most `known` events and parties it is remembered; the one that was quiet longest is forgotten.

    For whatever a peer can cause with fewer bytes than a line has. What each attempt has to be seen of (failed logins)
    is bounded by other means.
    """

    __slots__ = ("_clock", "_known", "_lines", "_seconds", "_seen")

    def __init__(self, clock: Clock, lines: int = 10, seconds: float = 600.0, known: int = 1_000) -> None:
        self._clock = clock
        self._lines = lines
        self._seconds = seconds
        self._known = known
        self._seen: OrderedDict[tuple[str, Hashable], tuple[float, int]] = OrderedDict()
        """When the count began, and how many there were since."""

    def write(self, log: Callable[..., object], event: str, about: Hashable, /, **keys: Any) -> bool:
        """Write a line with `log` (a bound logger's `info`), unless there were too many; whether it was written."""
        now = self._clock.monotonic()
        key = (event, about)
        since, count = self._seen.pop(key, (now, 0))
        if now - since >= self._seconds:
            left_out = count - self._lines
            if left_out > 0:
                keys["left_out"] = left_out
            since, count = now, 0
        self._seen[key] = since, count + 1
        if len(self._seen) > self._known:
            self._seen.popitem(last=False)
        if count >= self._lines:
            return False
        log(event, **keys)
        return True
