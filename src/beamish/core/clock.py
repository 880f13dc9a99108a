"""Time as a value that tests can hold still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Make it not happen."""


class Clock(Protocol):
    """What the server knows of time."""

    def now(self) -> float:
        """Seconds since the epoch, for stamps."""

    def monotonic(self) -> float:
        """Seconds that never go back, for rates and time-outs."""

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once, that many seconds from now, on the loop."""


class SystemClock:
    """The clock of the machine and the running loop."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """See `Clock.call_later`."""
        return asyncio.get_running_loop().call_later(seconds, call)


def stamp(seconds: float) -> str:
    """A time of day as XEP-0082 writes it, in UTC with milliseconds."""
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{micros // 1000:03d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_stamp(text: str) -> float:
    """Seconds since the epoch of an XEP-0082 date and time. Raises `ValueError`."""
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("a time without a zone")
    return when.timestamp()
