"""Work on many connections without holding up any: in slices, and the memory of those that have fallen silent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, Protocol, TypeVar

from beamish.core.clock import Clock

T = TypeVar("T")

LOOK: Final = 0.5
"""Seconds between two looks at the connections that have received something."""
SLICE: Final = 50
"""Connections dealt with in one turn of the loop: freeing a parser takes about 10 µs."""
TRIM_AFTER: Final = 64
"""Parsers freed before memory is given back to the system, at a quiet moment (about 1 ms for 10 MB); busy: 16 times that."""


def in_slices(clock: Clock, items: Iterable[T], work: Callable[[T], None]) -> None:
    """Do something for each, `SLICE` of them at once and the others after a turn of the loop for everybody else.

    Between two turns anything may have changed, so `items` must not be a collection that changes.
    """
    rest = iter(items)

    def turn() -> None:
        some = tuple(islice(rest, SLICE))
        for item in some:
            work(item)
        if len(some) == SLICE:
            clock.call_later(0.0, turn)

    turn()


class Restful(Protocol):
    """What holds memory that it needs only while it is spoken to."""

    def park(self) -> bool:
        """Free it; whether there was any."""


class Resting:
    """Parks connections that have received nothing for a moment, and gives the memory of many to the system by `trim`.

    Whoever goes on talking is parked as well, every other look: to tell would cost every stanza something, and a stream of
    plain stanzas needs no parser anyway.
    """

    __slots__ = ("_awake", "_clock", "_freed", "_looking", "_noted", "_trim")

    def __init__(self, clock: Clock, trim: Callable[[], None]) -> None:
        self._clock = clock
        self._trim = trim
        self._awake: list[Restful] = []
        self._noted: list[Restful] = []
        """Those of one look ago."""
        self._freed = 0
        self._looking = False

    def newcomer(self) -> None:
        """A connection begins: what reads its login will be freed before it is parked for the first time."""
        self._freed += 1

    def awake(self, connection: Restful) -> None:
        """Note a connection that receives something, for the first time or since it was parked."""
        self._awake.append(connection)
        self._look_later()

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._clock.call_later(LOOK, self._look)

    def _look(self) -> None:
        self._looking = False
        quiet = not self._awake and not self._noted  # nobody has said anything since the last look
        due, self._noted, self._awake = self._noted, self._awake, []
        in_slices(self._clock, due, self._park)
        if self._freed >= (TRIM_AFTER if quiet else 16 * TRIM_AFTER):
            self._freed = 0
            self._trim()  # freed parsers leave holes of ten KiB that the C library keeps
        if not quiet:
            self._look_later()

    def _park(self, connection: Restful) -> None:
        self._freed += connection.park()
