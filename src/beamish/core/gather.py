"""What one turn of the loop wants stored, together: one job of the database instead of one for each row.

A row by itself costs the queue of the database, the statement and the news of its commit; a tick of a busy server has
hundreds of the same kind. `Gathering` collects them until the tick ends and hands them over as one list. `in_pieces` is for
the other side: statements for many rows at once.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

import structlog

from beamish.core.clock import Clock
from beamish.storage.api import Cursor, Database, StorageBusy, StorageClosed, StorageError, StorageUnavailable

T = TypeVar("T")

log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 1.0
"""Until rows that the disk did not take (full, locked) are handed over again."""
_PIECES: Final = (256, 64, 16, 4, 1)


class Gathering(Generic[T]):
    """Rows of one kind, collected during a tick and written by one job. Belongs to the loop.

    Rows that the disk does not take are tried again until it does, and count as waiting meanwhile: beyond `most` rows or
    `most_bytes`, more are refused, so a sender hears of a disk that is full. `rows` and `bytes` say how many wait. What comes
    while any are to be tried again waits behind them: rows are committed in the order in which they were added. Each tick that
    waits is owed (`Database.owed`), so nothing is acknowledged until the disk has it.
    """

    __slots__ = (
        "_again",
        "_begun",
        "_clock",
        "_db",
        "_dropped",
        "_due",
        "_name",
        "_open",
        "_refused",
        "_still",
        "_told",
        "_write",
        "bytes",
        "most",
        "most_bytes",
        "rows",
    )

    def __init__(
        self,
        db: Database,
        clock: Clock,
        name: str,
        write: Callable[[Cursor, list[T]], None],
        most: int,
        most_bytes: int,
        told: Callable[[list[T]], None] | None = None,
        still: Callable[[T], bool] | None = None,
    ) -> None:
        """`write` stores rows in the order in which they were added; it runs inside a transaction, on the database's thread,
        and leaves nothing of them if it raises: it is one statement. Then each row is tried by itself, and those that can
        never be stored are lost, which the log tells.

        `told` is called on the loop with the rows of a tick when they have been handed over, and once more if the disk took
        them only later. `still` says of a row that the disk did not take whether it is to be stored at all when it is
        tried again; without, each is.
        """
        self._db = db
        self._clock = clock
        self._name = name
        self._write = write
        self._told = told
        self._still = still
        self._open: _Tick[T] | None = None
        self._begun = 0
        self._again: list[_Tick[T]] = []
        """What the disk did not take, and what came meanwhile, in order."""
        self._dropped: list[tuple[int, Callable[[T], bool]]] = []
        """Of ticks before a number that may still be on their way, such rows are not to be tried again."""
        self._refused = False
        """The log says that the disk refuses rows, and not yet that it takes them again."""
        self._due = False
        """`_again` will be looked at."""
        self.most = most
        self.most_bytes = most_bytes
        self.rows = 0
        self.bytes = 0

    def add(self, row: T, size: int, *, beyond: bool = False) -> int:
        """Store a row of about so many bytes with this tick; its position in the queue of the database.

        A row that has to wait for others which the disk refused has the last position that is done with: its turn in the
        queue comes later. `beyond`: it is taken however much waits, since it is too late to refuse what it stands for; the
        caller sees to it that there are few of those. Raises `StorageBusy` if too much is waiting, `StorageClosed`.
        """
        if not beyond and (self.rows >= self.most or self.bytes > self.most_bytes):
            raise StorageBusy(f"{self.rows} rows ({self.bytes} bytes) of {self._name} wait to be stored")
        tick = self._open
        if tick is None:
            tick = self._begin(beyond)
        tick.rows.append(row)
        tick.count += 1
        tick.size += size
        self.rows += 1
        self.bytes += size
        return tick.position

    @property
    def begun(self) -> bool:
        """Whether this tick has rows already."""
        return self._open is not None

    @property
    def full(self) -> bool:
        """Whether no more is taken."""
        return self.rows >= self.most or self.bytes > self.most_bytes

    @property
    def refused(self) -> T | None:
        """The oldest row that waits to be handed over again: neither it nor any later one is on disk, or on its way there."""
        return self._again[0].rows[0] if self._again and self._again[0].rows else None

    @property
    def owed(self) -> int:
        """How many ticks wait to be handed over again; they are part of `Database.owed`."""
        return len(self._again)

    def _begin(self, beyond: bool) -> _Tick[T]:
        tick: _Tick[T] = _Tick(self._begun)
        self._begun += 1
        if self._again:
            self._db.at_tick_end(self.seal)
            self._wait(tick)
        else:
            try:
                self._submit(tick)
            except StorageBusy:
                if not beyond:
                    raise
                self._wait(tick)
            self._db.at_tick_end(self.seal)
        self._open = tick
        return tick

    def _wait(self, tick: _Tick[T]) -> None:
        """The newest tick of all is to be handed over when those before it are stored."""
        tick.late = True
        tick.attempt = None
        tick.position = self._db.durable
        self._again.append(tick)
        self._db.owed += 1
        self._try_later()

    def _submit(self, tick: _Tick[T]) -> None:
        tick.attempt = attempt = object()
        tick.position = self._db.submit(  # whole: no tick is stored before another one that the disk has refused
            self._name, partial(self._run, tick, attempt), partial(self._failed, tick, attempt), whole=True
        )
        try:
            self._db.when_durable(tick.position, partial(self._settled, tick))
        except StorageBusy:
            tick.attempt = None  # the job that was queued must do nothing
            raise

    def _run(self, tick: _Tick[T], attempt: object, c: Cursor) -> None:
        if tick.attempt is not attempt:
            return
        tick.lost = 0
        try:
            self._write(c, tick.rows)
        except (StorageUnavailable, MemoryError):
            raise
        except Exception:  # one row is to blame, which has nothing to do with those of others
            if len(tick.rows) == 1:
                raise
            for row in tick.rows:
                try:
                    self._write(c, [row])
                except (StorageUnavailable, MemoryError):
                    raise
                except Exception as exc:
                    tick.lost += 1
                    tick.why = exc

    def seal(self) -> None:
        """What is added from now on goes to another job, behind all that was queued so far."""
        tick, self._open = self._open, None
        if tick is not None and self._told is not None:
            self._told(tick.rows)

    def _settled(self, tick: _Tick[T]) -> None:
        if tick.waits:
            tick.waits = False
            return
        self._count_off(tick)
        if self._dropped and not self._again:
            self._dropped = [(before, gone) for before, gone in self._dropped if before > tick.number + 1]
        if tick.lost:
            log.error("rows_lost", kind=self._name, rows=tick.lost, error=repr(tick.why))
        if tick.late and self._told is not None and tick.rows:
            self._told(tick.rows)
        if self._again:
            if tick.late:
                self.hand_over()  # the disk takes rows again
        elif self._refused:
            self._refused = False
            log.info("rows_stored_again", kind=self._name)

    def _pay(self, tick: _Tick[T]) -> None:
        """Nothing is left to be stored of a tick that waited."""
        self._db.owed -= 1
        self._count_off(tick)

    def _count_off(self, tick: _Tick[T]) -> None:
        self.rows -= tick.count
        self.bytes -= tick.size

    def _failed(self, tick: _Tick[T], attempt: object, exc: Exception) -> None:
        if tick.attempt is not attempt:
            return
        if not isinstance(exc, StorageUnavailable):
            log.error("rows_lost", kind=self._name, rows=len(tick.rows), error=repr(exc))
            tick.late = False
            return
        if not self._refused:  # once: each second that the disk goes on like this would be no news
            self._refused = True
            log.error("rows_not_stored_yet", kind=self._name, rows=self.rows, error=repr(exc))
        for before, gone in self._dropped:
            if tick.number < before:
                tick.rows = [row for row in tick.rows if not gone(row)]
        tick.waits = tick.late = True
        insort(self._again, tick, key=_number)
        self._db.owed += 1
        self._try_later()

    def _try_later(self) -> None:
        if not self._due:
            self._due = True
            self._clock.call_later(RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._due = False
        self._hand_over(1)  # if the disk takes it, the others follow: they would only fill the queue and the log
        if self._again:
            self._try_later()

    def hand_over(self) -> None:
        """Try everything again that the disk did not take, at once: there may be no later."""
        self._hand_over(len(self._again))

    def drop(self, gone: Callable[[T], bool]) -> None:
        """Forget rows that the disk has not taken, or will not take: what is on its way and accepted is stored nevertheless."""
        if self.rows:
            self._dropped.append((self._begun, gone))
        if self._open is not None and self._open.attempt is None:
            self.seal()
        left = []
        for tick in self._again:
            tick.rows = [row for row in tick.rows if not gone(row)]
            if tick.rows:
                left.append(tick)
            else:
                self._pay(tick)
        self._again = left

    def _hand_over(self, count: int) -> None:
        """Try so many ticks again, as far as anything of them is still to be stored."""
        if self._open is not None and self._open.attempt is None:
            self.seal()  # what is added from now on goes behind
        waiting, self._again = self._again, []
        for at, tick in enumerate(waiting):
            if self._still is not None:  # a list of its own: a job that failed may still hold the old one
                tick.rows = [row for row in tick.rows if self._still(row)]
            if tick.rows:
                if not count:
                    self._again = waiting[at:]
                    return
                count -= 1
                try:
                    self._submit(tick)
                except StorageClosed:  # they stay owed: nobody is told that they are safe
                    lost = sum(len(t.rows) for t in waiting[at:])
                    log.error("rows_lost", kind=self._name, rows=lost, error="closed")
                    return
                except StorageError:  # the queue is full
                    self._again = waiting[at:]
                    self._try_later()
                    return
                self._db.owed -= 1
            else:
                self._pay(tick)


class _Tick(Generic[T]):
    __slots__ = ("attempt", "count", "late", "lost", "number", "position", "rows", "size", "waits", "why")

    def __init__(self, number: int) -> None:
        self.number = number
        self.rows: list[T] = []
        self.count = 0
        """Rows that count as waiting; some of them may not be stored any more."""
        self.position = 0
        """Where in the queue the rows are."""
        self.attempt: object = None
        """Stands for the job that is to write the rows; None: there is none."""
        self.size = 0
        self.lost = 0
        """How many rows can never be stored, as far as is known."""
        self.why: Exception | None = None
        self.waits = False
        """The disk did not take the rows; they are to be tried again."""
        self.late = False
        """Who adds the rows was told of them before the disk took them."""


def _number(tick: _Tick[T]) -> int:
    return tick.number


def in_pieces(items: Sequence[T]) -> Iterator[tuple[Sequence[T], int]]:
    """Pieces of few different sizes, so that each size is one prepared statement; one step does the work of many."""
    at = 0
    for size in _PIECES:
        while len(items) - at >= size:
            yield items[at : at + size], size
            at += size


def places(width: int, count: int) -> str:
    """`(?, ?), (?, ?)`: the places of so many rows of so many values."""
    row = "(" + ", ".join("?" * width) + ")"
    return ", ".join([row] * count)
