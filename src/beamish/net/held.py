"""A connection whose output can wait for the disk: what a peer has seen of us, we still know of after a crash."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING

import structlog

from beamish.net.connection import Flusher, Watched
from beamish.net.tls_memory import ServerConnection

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)


class HeldConnection(ServerConnection):
    """A `ServerConnection` that keeps its order when some of the output must be committed first.

    Bounds are the caller's business; `waiting` is how many pieces wait.
    """

    __slots__ = ("_db", "_held", "_holding")

    def __init__(self, flusher: Flusher, unsent_limit: int, kernel: Kernel, watched: Watched | None = None) -> None:
        super().__init__(flusher, unsent_limit, watched)
        self._db = kernel.db
        self._held: deque[tuple[int, bytes, int]] = deque()
        """Positions in the database queue, bytes, and the rows they are kept in, or 0."""
        self._holding = False

    @property
    def waiting(self) -> int:
        """Pieces of output that wait for a commit."""
        return len(self._held)

    def put(self, data: bytes, position: int = 0, row: int = 0) -> None:
        """Write behind all that waits, and not before a position in the database queue is durable."""
        held = self._held
        if not held and position <= self._db.durable:
            self.write(data)
            return
        held.append((position or held[-1][0], data, row))
        if not self._holding:
            self._hold()

    def held_of(self, rows: Iterable[int]) -> set[int]:
        """Which of these rows belong to something that waits here."""
        return {row for _, _, row in self._held if row}.intersection(rows)

    def withhold(self, rows: Container[int], position: int) -> None:
        """What belongs to these rows is not written, and what is behind the first of it not before `position` is durable."""
        kept: deque[tuple[int, bytes, int]] = deque()
        found = False
        for at, data, row in self._held:
            if row and row in rows:
                found = True
            else:
                kept.append((max(at, position) if found else at, data, row))
        self._held = kept

    def behind(self, then: Callable[[], None]) -> None:
        """Do something behind all that waits; perhaps on a connection that was lost meanwhile."""
        if not self._held:
            then()
            return

        def go_on() -> None:
            self._release()
            then()

        self._db.when_durable(self._held[-1][0], go_on)

    def forget_held(self) -> None:
        """The connection is gone: nothing of what waits is written any more."""
        self._held.clear()

    def released(self) -> None:
        """For subclasses: nothing waits any more."""

    def _hold(self) -> None:
        try:
            self._db.when_durable(self._held[-1][0], self._release)
            self._holding = True
        except Exception:  # too many wait already: what cannot wait must not go out either
            log.exception("output_not_held")
            self.abort()

    def _release(self) -> None:
        self._holding = False
        held = self._held
        durable = self._db.durable
        out = []
        while held and held[0][0] <= durable:
            out.append(held.popleft()[1])
        if out:
            self.write(out[0] if len(out) == 1 else b"".join(out))
        if held:
            self._hold()
        else:
            self.released()
