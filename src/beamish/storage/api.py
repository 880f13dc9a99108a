"""What the rest of the server may ask of a database. Engines implement these protocols; modules import only this file.

SQL is written in the portable subset (`?` parameters, `INSERT … ON CONFLICT … DO UPDATE`, `RETURNING`), so that another
engine can stand behind the same calls. Nothing here knows SQLite, threads or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class StorageError(Exception):
    """The database refused: a mistake in the SQL, or one of the named reasons below."""


class ConstraintViolated(StorageError):
    """A UNIQUE, NOT NULL, CHECK or foreign key constraint stands against the statement."""


class StorageUnavailable(StorageError):
    """The disk is full, the file locked by another process, unreadable or damaged: not the statement's fault."""


class StorageDamaged(StorageUnavailable):
    """The file is no sound database any more; it stays so until whoever runs the server restores it."""


class StorageBusy(StorageError):
    """A queue of the database is at its limit. Nothing was taken; the caller should answer `resource-constraint`."""


class StorageClosed(StorageError):
    """The database is closed, or closing and no longer taking work."""


class DatabaseTooNew(StorageError):
    """The database was written by a newer version of the program and must not be touched by this one."""


class MigrationChanged(StorageError):
    """A migration that was already applied reads differently now: somebody edited it instead of adding a new one."""


@dataclass(frozen=True)
class Migration:
    """One numbered step of an owner's tables. Never edited once released: the next number puts right what is wrong.

    Statements may hold `{pk}` (an integer primary key that the database counts up and never gives twice), `{bytes}` and
    `{timestamp}` (seconds since 1970, with fraction).
    """

    version: int
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """What one name has cost: runs, seconds in all, seconds of the longest run."""

    count: int
    total: float
    max: float


class Cursor(Protocol):
    """Statements inside one transaction, on the database's own thread. Not to be kept beyond the function it was given.

    Every method raises `StorageError` or a subclass. A function may catch `ConstraintViolated` and go on; a transaction
    that the database has given up (disk full) refuses all further statements.
    """

    def run(self, sql: str, *params: Any) -> int:
        """Run a statement; the number of rows changed (-1 if it is not one that changes rows)."""
        ...

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each row of parameters."""
        ...

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """All rows of a query. The query must bound them itself (`LIMIT`)."""
        ...

    def row(self, sql: str, *params: Any) -> tuple[Any, ...] | None:
        """The first row, or None."""
        ...

    def value(self, sql: str, *params: Any) -> Any:
        """The first column of the first row, or None."""
        ...


class Database(Protocol):
    """A database. All calls are made on the event loop; functions handed in run elsewhere and touch only their cursor.

    Writes, appends and submits share one queue and take effect in the order of the calls, many to a commit. Each is
    all or nothing by itself and fails by itself. A function may be run again, if the commit it belonged to could not be
    made as it was, be it that another job failed; only its last run counts.
    """

    durable: int
    """Everything up to this position is committed, or has failed and its `failed` was called."""

    owed: int
    """How much the disk has refused that its owners keep and will hand over again: they count it here. Nothing may be
    acknowledged meanwhile, as nobody can tell whether it depends on that."""

    async def write(self, name: str, fn: Callable[[Cursor], T]) -> T:
        """Run `fn` whole in one transaction and return its result after the commit.

        What `fn` raises undoes only its own statements and is raised here. Cancelling the caller does not undo
        the write. Raises `StorageBusy`, `StorageClosed`, `StorageUnavailable`.
        """
        ...

    async def read(self, name: str, fn: Callable[[Cursor], T]) -> T:
        """Run `fn` whole on a reader, on one snapshot of what is committed. Writing raises `StorageError`."""
        ...

    async def fetch(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """All rows of one query, run on a reader. The query must bound them itself (`LIMIT`)."""
        ...

    def append(
        self,
        name: str,
        sql: str,
        params: Sequence[Any],
        failed: Callable[[Exception], None] | None = None,
        size: int = 0,
        *,
        lazy: bool = False,
    ) -> int:
        """Queue one row, without waiting; its position. `params` must not be changed afterwards.

        `size` is about how many bytes of text and data they hold; 0 has them counted.
        `failed` is called on the loop if the row could not be stored (without it, the loss is logged).
        `lazy`: nobody waits for it, so it may take a tenth of a second longer to share the way with others (in order).
        Raises `StorageBusy` beyond the queue's limits, `StorageClosed`.
        """
        ...

    def submit(
        self,
        name: str,
        fn: Callable[[Cursor], None],
        failed: Callable[[Exception], None] | None = None,
        *,
        whole: bool = False,
    ) -> int:
        """Queue a function, without waiting; its position. As `append` otherwise.

        `whole`: it means something only together with what was queued before it. Where the disk refused any of that and the
        loop had not heard of it at the time of this call, it is refused, too.
        """
        ...

    def at_tick_end(self, call: Callable[[], None]) -> None:
        """Call once at the end of this iteration of the loop, just before what it queued goes to be committed.

        What `call` queues then shares the commit, as its last part: so many small changes of one kind can become one,
        together with what caused them. It should queue something. Raises `StorageClosed`.
        """
        ...

    def when_durable(self, position: int, then: Callable[[], None]) -> None:
        """Call `then` on the loop once `durable` has reached `position`; at once if it has already.

        Callbacks run in the order of their positions. Raises `StorageBusy` if too many are waiting, and `ValueError`
        for a position that was never given out.
        """
        ...

    async def flushed(self) -> None:
        """Return once everything queued before this call is committed or has failed."""
        ...
