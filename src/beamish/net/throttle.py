"""Rates: token buckets for what a session sends, and counts of failed logins."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_TRACKED = 100_000
"""Addresses and accounts remembered at a time; the oldest are forgotten first."""


class Bucket:
    """A token bucket that looks at the clock only when it is empty.

    `take` returns how many seconds to wait before the next tokens may be taken, 0.0 mostly. Tokens may go below zero by
    what was taken last: the taker is slowed down afterwards, nothing is refused.
    """

    __slots__ = ("_burst", "_filled", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled = now

    def take(self, count: float, clock: Callable[[], float]) -> float:
        """Take tokens; the seconds to wait until the bucket is not in debt any more."""
        self._tokens -= count
        if self._tokens >= 0:
            return 0.0
        now = clock()
        self._tokens = min(self._burst - count, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        return -self._tokens / self._rate if self._tokens < 0 else 0.0


@dataclass(slots=True)
class _Failures:
    count: int
    until: float


class LoginThrottle:
    """Counts failed logins per address and per account within a window of `window` seconds.

    Above a limit, attempts are refused with `temporary-auth-failure` until the window has passed since the first.
    """

    def __init__(self, per_address: int, per_account: int, window: float, clock: Callable[[], float]) -> None:
        self._limits = {"address": per_address, "account": per_account}
        self._window = window
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()  # the oldest is found at once

    def allowed(self, address: str, account: str) -> bool:
        """Whether another attempt may be made."""
        now = self._clock()
        for kind, key in (("address", address), ("account", account)):
            entry = self._failures.get((kind, key))
            if entry is not None and entry.until > now and entry.count >= self._limits[kind]:
                return False
        return True

    def failed(self, address: str, account: str) -> None:
        """Note a failed attempt."""
        now = self._clock()
        for key in (("address", address), ("account", account)):
            if not key[1]:
                continue
            entry = self._failures.pop(key, None)
            if entry is None or entry.until <= now:
                entry = _Failures(0, now + self._window)
            entry.count += 1
            self._failures[key] = entry
        while len(self._failures) > _TRACKED:
            self._failures.popitem(last=False)

    def succeeded(self, account: str) -> None:
        """A login to the account succeeded: its own count starts anew. The address keeps its count."""
        self._failures.pop(("account", account), None)
