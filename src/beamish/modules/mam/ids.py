"""Archive ids: made in memory, in the order of the messages, not to be guessed (XEP-0313 §3.1, XEP-0359 §3).

The number has the time in its upper bits (microseconds since 1970) and chance in the lower ones, so the order of ids is
the order of messages and a span of time is a span of ids. It is the key of the database. What clients see also has a salt,
which the database keeps beside it: who has seen ids cannot say the next.
"""

from __future__ import annotations

import os
from typing import Final

CHANCE_BITS: Final = 11
_CHANCE: Final = (1 << CHANCE_BITS) - 1
_POOL: Final = 8 * 512
_LENGTH: Final = 24


class IdSource:
    """Gives out ids, each larger than all before, whatever the clock does. `last` is the largest one ever given out."""

    __slots__ = ("_pool", "last")

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self._pool: list[int] = []

    def next(self, now: float) -> tuple[int, int]:
        """The number and the salt (32 bits) for a message at this time (seconds since 1970)."""
        chance = (self._pool or self._more()).pop()
        number = (int(now * 1_000_000) << CHANCE_BITS) | (chance & _CHANCE)
        if number <= self.last:  # the same microsecond, or the clock was set back
            number = self.last + 1 + (chance & 15)
        self.last = number
        return number, chance >> 32

    def following(self) -> tuple[int, int]:
        """The same for a message at about the time of the last one, which is not looked at again."""
        chance = (self._pool or self._more()).pop()
        self.last = number = self.last + 1 + (chance & 15)
        return number, chance >> 32

    def _more(self) -> list[int]:
        self._pool = memoryview(os.urandom(_POOL)).cast("Q").tolist()
        return self._pool


def text_of(number: int, salt: int) -> str:
    """The id as clients see it."""
    return f"{number:016x}{salt:08x}"


def parse(text: str) -> tuple[int, int] | None:
    """Number and salt of an id that a client names; None for what is no id of ours."""
    if len(text) != _LENGTH or not text.isascii() or not text.isalnum():
        return None
    try:
        number, salt = int(text[:16], 16), int(text[16:], 16)
    except ValueError:
        return None
    return (number, salt) if number < 1 << 63 else None


def time_of(number: int) -> float:
    """When the message was archived, seconds since 1970."""
    return (number >> CHANCE_BITS) / 1_000_000


def first_at(seconds: float) -> int:
    """The smallest number of a message whose stamp, as shown (in whole milliseconds), is not before this time."""
    micros = round(seconds * 1_000_000)
    millis = -(-micros // 1_000)
    return max(0, millis * 1_000) << CHANCE_BITS


def first_after(seconds: float) -> int:
    """The smallest number of a message whose stamp, as shown (in whole milliseconds), is after this time."""
    millis = round(seconds * 1_000_000) // 1_000 + 1
    return max(0, millis * 1_000) << CHANCE_BITS
