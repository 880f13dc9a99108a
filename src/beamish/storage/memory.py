"""The database in memory, without threads: for tests, and with the means to make it late or make it fail.

Jobs are committed at the next iteration of the loop, by the same code as in the file engine, so that a caller who
forgets to wait for the commit is found out here too.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from beamish.storage.api import Cursor, StorageClosed, StorageUnavailable, Timing
from beamish.storage.commits import QUEUE_BYTES, QUEUE_LIMIT, CommitQueue, Job, Outcome
from beamish.storage.engine import Engine, Timings, only_reading

T = TypeVar("T")


class MemoryConnection(sqlite3.Connection):
    """A database in memory that ends with its last reference; may be let go in any thread.

    Tests make many, most of them what a crash would leave of another one, and drop them. Python tells of every connection
    that nobody has closed (ResourceWarning, from 3.13 on), which means something for files only.
    """

    @classmethod
    def open(cls) -> MemoryConnection:
        """An empty database."""
        return sqlite3.connect(":memory:", isolation_level=None, factory=cls, check_same_thread=False)

    def __del__(self) -> None:
        """Close."""
        self.close()


class MemoryDatabase(CommitQueue):
    """`storage.api.Database` over SQLite in memory, on the loop itself. Made inside a running loop; `close` ends it."""

    def __init__(self, *, queue_limit: int = QUEUE_LIMIT, queue_bytes: int = QUEUE_BYTES) -> None:
        """An empty database."""
        super().__init__(asyncio.get_running_loop(), queue_limit, queue_bytes)
        conn = MemoryConnection.open()
        conn.execute("PRAGMA foreign_keys = ON")
        self._engine = Engine(conn)
        self._held = False
        self._fail: tuple[Exception, int] | None = None
        self._closed = False

    async def __aenter__(self) -> MemoryDatabase:
        """Nothing more to open."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    @property
    def timings(self) -> dict[str, Timing]:
        """What each name has cost so far (see `SqliteDatabase.timings`)."""
        return Timings.read([self._engine.timings])

    async def read(self, name: str, fn: Callable[[Cursor], T]) -> T:
        """Run a function on what is committed at the time of the call (see `storage.api.Database.read`)."""
        if self._closing:
            raise StorageClosed("the database is closed")
        try:
            return self._engine.read(name, lambda cursor: only_reading(cursor, fn))
        finally:
            await asyncio.sleep(0)  # a real read never returns within the same iteration

    async def fetch(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """All rows of one query (see `storage.api.Database.fetch`)."""
        return await self.read("(fetch)", lambda cursor: cursor.rows(sql, *params))

    async def close(self) -> None:
        """Commit what is queued, even if held back, and close. Later calls raise `StorageClosed`, except this one."""
        if not self._closed:
            self._end_tick()
            self._closing = self._closed = True
            self._held = False
            self._commit()
            self._engine.close()

    def copy(self) -> MemoryDatabase:
        """Another database with what is committed in this one: what a crash at this moment would leave."""
        made = MemoryDatabase(queue_limit=self._limit, queue_bytes=self._bytes_limit)
        made._engine.take_from(self._engine)
        return made

    def hold(self) -> None:
        """Make no commit until `release`, like a disk that stalls. Reads go on."""
        self._held = True

    def release(self) -> None:
        """End `hold`: what waits is committed at the next iteration."""
        self._held = False
        if self._fresh or self._at_end:
            self._called = False
            self._call()

    @contextmanager
    def held(self) -> Iterator[None]:
        """`hold`, and `release` at the end of the block, also when a test fails in it."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def fail_next(self, exc: Exception | None = None, jobs: int = 1) -> None:
        """Let the next jobs to be committed fail as if the disk had refused them: it is full, or whatever `exc` says.

        Others fail only if they are `whole` and of the same commit.
        """
        if jobs < 1:
            raise ValueError("at least one job must fail")
        self._fail = (exc or StorageUnavailable("the disk is full"), jobs)

    def fail_no_more(self) -> None:
        """End `fail_next`: the disk takes everything again."""
        self._fail = None

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """The disk is full until the end of the block, whatever comes, and takes everything behind it."""
        self.fail_next(jobs=sys.maxsize)
        try:
            yield
        finally:
            self.fail_no_more()

    def _wake(self) -> None:
        if not self._held:
            try:
                self._loop.call_soon(self._commit)
            except RuntimeError:
                raise StorageClosed("the event loop of the database is closed") from None

    def _wake_later(self) -> None:
        self._call()  # where time stands still, lazy rows are like others

    def _commit(self) -> None:
        if self._held:
            return
        jobs = self._take()
        refused = 0
        if self._fail is not None and jobs:
            if isinstance(self._fail[0], StorageUnavailable):
                refused = self.durable + 1
            jobs = self._refuse(jobs, *self._fail)
        if jobs:
            self._settle(self._engine.commit(jobs, refused=refused))

    def _refuse(self, jobs: list[Job], exc: Exception, count: int) -> list[Job]:
        """Settle the first `count` jobs as failed; the others."""
        refused, rest = jobs[:count], jobs[count:]
        self._fail = (exc, count - len(refused)) if count > len(refused) else None
        self._settle(Outcome(refused, dict.fromkeys(range(len(refused)), exc)))
        return rest
