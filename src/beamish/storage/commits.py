"""The loop's side of group commit: jobs, positions, limits, and who is told what after a commit.

An engine inherits `CommitQueue` and gives it `_wake`, which carries `_take()` to wherever statements run and brings the
outcome back to `_settle`. No SQL is run here.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from beamish.storage.api import Cursor, StorageBusy, StorageClosed, StorageDamaged, StorageUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")
Failed = Callable[[Exception], None]

QUEUE_LIMIT = 20_000
"""Jobs waiting for a commit: an eighth of a second of work at 6 µs a row. A disk that stalls longer must be felt."""
QUEUE_BYTES = 64 * 1024 * 1024
"""Text and bytes held by rows waiting for a commit: 20,000 stanzas of the largest size would not fit into memory."""
LAZY_SECONDS = 0.1
"""How long a lazy row waits for others to share the way to the writer with. Waking its thread costs more than the row."""
DAMAGE_EVERY = 60.0
"""Seconds after which a damage of the file is told again, as long as somebody meets it."""
WAITERS_PER_JOB = 4
"""Callbacks waiting for a position, per job that may wait."""


class Row:
    """One statement with its parameters."""

    __slots__ = ("failed", "name", "params", "size", "sql")

    def __init__(self, name: str, sql: str, params: Sequence[Any], failed: Failed | None, size: int) -> None:
        self.name = name
        self.sql = sql
        self.params = params
        self.failed = failed
        self.size = size


class Work:
    """One function to be run on a cursor; `result` is what its last run returned.

    `whole`: it must not be committed if the disk refused anything before it that its owner could not know of, which is
    anything behind position `after`.
    """

    __slots__ = ("after", "failed", "fn", "future", "name", "result", "whole")

    size = 0

    def __init__(
        self,
        name: str,
        fn: Callable[[Cursor], Any],
        failed: Failed | None,
        future: asyncio.Future[Any] | None,
        whole: bool = False,
        after: int = 0,
    ) -> None:
        self.name = name
        self.fn = fn
        self.failed = failed
        self.future = future
        self.whole = whole
        self.after = after
        self.result: Any = None


Job = Row | Work


@dataclass(slots=True)
class Outcome:
    """What became of a batch of jobs: the jobs in order, and the exceptions of those that failed, by index."""

    jobs: Sequence[Job]
    failures: dict[int, BaseException]

    @property
    def refused(self) -> bool:
        """Whether the disk refused any of it."""
        return bool(self.failures) and any(isinstance(exc, StorageUnavailable) for exc in self.failures.values())


class CommitQueue:
    """Takes jobs in call order, and tells their owners after the commit. Every method belongs to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, queue_limit: int, queue_bytes: int) -> None:
        """`queue_limit` jobs and `queue_bytes` bytes of row parameters may wait for their commit."""
        if queue_limit < 1 or queue_bytes < 1:
            raise ValueError("the queue needs room for one job at least")
        self.durable = 0
        self.owed = 0
        self._loop = loop
        self._limit = queue_limit
        self._bytes_limit = queue_bytes
        self._position = 0
        self._bytes = 0
        self._fresh: list[Job] = []
        self._at_end: list[Callable[[], None]] = []
        self._waiters: list[tuple[int, int, Callable[[], None]]] = []  # a heap by position, then by registration
        self._registered = 0
        self._settling = False
        self._closing = False
        self._called = False
        """`_wake` was called since the last `_take`."""
        self._lazy: asyncio.TimerHandle | None = None
        self._damage_told = -DAMAGE_EVERY

    # What modules call; contracts in storage.api.Database.

    def append(
        self,
        name: str,
        sql: str,
        params: Sequence[Any],
        failed: Failed | None = None,
        size: int = 0,
        *,
        lazy: bool = False,
    ) -> int:
        """Queue one row (see `storage.api.Database.append`)."""
        if not size:
            for value in params:
                if value.__class__ is bytes or value.__class__ is str:
                    size += len(value)
        if self._bytes + size > self._bytes_limit and self._bytes:  # one row larger than the limit may pass alone
            raise StorageBusy(f"{self._bytes} bytes wait to be stored")
        position = self._enqueue(Row(name, sql, params, failed, size), lazy)
        self._bytes += size
        return position

    def submit(
        self, name: str, fn: Callable[[Cursor], None], failed: Failed | None = None, *, whole: bool = False
    ) -> int:
        """Queue a function (see `storage.api.Database.submit`)."""
        return self._enqueue(Work(name, fn, failed, None, whole, self.durable))

    async def write(self, name: str, fn: Callable[[Cursor], T]) -> T:
        """Run a function and wait for its commit (see `storage.api.Database.write`)."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._enqueue(Work(name, fn, None, future))
        return await future

    def at_tick_end(self, call: Callable[[], None]) -> None:
        """Call before what this tick queued is handed over (see `storage.api.Database.at_tick_end`)."""
        if self._closing:
            raise StorageClosed("the database is closed")
        self._call()
        self._at_end.append(call)

    def when_durable(self, position: int, then: Callable[[], None]) -> None:
        """Call `then` when a position is committed (see `storage.api.Database.when_durable`)."""
        if position > self._position:
            raise ValueError(f"position {position} was never given out (the last is {self._position})")
        if position <= self.durable and not self._settling:
            then()
            return
        if len(self._waiters) >= self._limit * WAITERS_PER_JOB:
            raise StorageBusy(f"{len(self._waiters)} callbacks wait for a commit")
        self._wait_for(position, then)

    async def flushed(self) -> None:
        """Return once everything queued before is committed or has failed."""
        if self._position > self.durable:
            if self._fresh:
                self._call()
            future: asyncio.Future[None] = self._loop.create_future()
            # Not counted against the limit of callbacks: each stands for a task that waits, and those are bounded.
            self._wait_for(self._position, lambda: None if future.done() else future.set_result(None))
            await future

    # What engines need.

    def _wake(self) -> None:
        """The first job since the last `_take` has come: see to it that `_take` is called. Raises `StorageClosed`."""
        raise NotImplementedError

    def _wake_later(self) -> None:
        """The first job has come, a lazy one: see to it that `_take` is called, sooner or later."""
        if self._lazy is None:
            self._lazy = self._loop.call_later(LAZY_SECONDS, self._lazy_is_due)

    def _lazy_is_due(self) -> None:
        self._lazy = None
        if self._fresh and not self._closing:
            self._call()

    def _call(self) -> None:
        if not self._called:
            self._wake()
            self._called = True

    def _take(self) -> list[Job]:
        """All jobs that came since the last call, in order."""
        self._called = True  # those who come now need not call
        self._end_tick()
        taken, self._fresh = self._fresh, []
        self._called = False
        return taken

    def _end_tick(self) -> None:
        """Let those queue their jobs who wanted to be the last."""
        while self._at_end:  # a call may ask for another one: it belongs to the same tick
            calls, self._at_end = self._at_end, []
            for call in calls:
                try:
                    call()
                except Exception:
                    log.exception("tick_end_callback_failed")

    def _settle(self, outcome: Outcome) -> None:
        """Tell everybody about a batch. Batches must come in the order in which they were taken."""
        jobs, failures = outcome.jobs, outcome.failures
        size = 0
        for index, job in enumerate(jobs):
            size += job.size
            if failures and (exc := failures.get(index)) is not None:
                self._tell_failed(job, exc)
            elif isinstance(job, Work) and job.future is not None and not job.future.done():
                job.future.set_result(job.result)
        self._bytes -= size
        self.durable += len(jobs)
        waiters = self._waiters
        self._settling = True  # a callback registered by a callback waits for its turn among the others
        try:
            while waiters and waiters[0][0] <= self.durable:
                then = heapq.heappop(waiters)[2]
                try:
                    then()
                except Exception:
                    log.exception("durable_callback_failed")
        finally:
            self._settling = False

    def _enqueue(self, job: Job, lazy: bool = False) -> int:
        if self._closing:
            raise StorageClosed("the database is closed")
        if self._position - self.durable >= self._limit:
            raise StorageBusy(f"{self._limit} jobs wait to be stored")
        if not self._called:
            if lazy:
                self._wake_later()
            else:
                self._call()
        self._fresh.append(job)
        self._position = position = self._position + 1
        return position

    def _wait_for(self, position: int, then: Callable[[], None]) -> None:
        self._registered += 1
        heapq.heappush(self._waiters, (position, self._registered, then))

    def _note_damage(self, exc: BaseException | None) -> None:
        """Tell whoever runs the server that the file is damaged, which nothing here can mend, and what to do."""
        if isinstance(exc, StorageDamaged) and self._loop.time() >= self._damage_told + DAMAGE_EVERY:
            self._damage_told = self._loop.time()
            log.error(
                "database_damaged",
                error=str(exc),
                advice="stop the server, keep a copy of the files, and restore a backup or what sqlite3's .recover finds "
                "(docs/ops/install.md); until then what is refused may be lost, and acknowledgements may wait for it",
            )

    def _tell_failed(self, job: Job, exc: BaseException) -> None:
        self._note_damage(exc)
        if isinstance(job, Work) and job.future is not None:
            if job.future.done():
                log.warning("write_failed_unseen", job=job.name, error=repr(exc))  # the caller was cancelled
            elif isinstance(exc, StopIteration):  # a future cannot carry it
                stopped = RuntimeError(f"{job.name} raised StopIteration")
                stopped.__cause__ = exc
                job.future.set_exception(stopped)
            else:
                job.future.set_exception(exc)
            return
        if job.failed is None:
            log.error("write_lost", job=job.name, error=repr(exc))
            return
        if not isinstance(exc, Exception):
            wrapped = RuntimeError(f"{job.name} raised {exc!r}")
            wrapped.__cause__ = exc
            exc = wrapped
        try:
            job.failed(exc)
        except Exception:
            log.exception("failure_callback_failed", job=job.name)
