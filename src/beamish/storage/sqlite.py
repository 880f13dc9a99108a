"""The database in a SQLite file: one thread that writes, a few that read, WAL between them.

The writer takes all that waits and makes one commit of it, so that all share the price of a `synchronous=FULL` commit.
Readers are threads of our own, not aiosqlite: it has no public call that runs a function whole on its thread, and its
threads keep the interpreter from ending if nobody closes them.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from queue import Empty, SimpleQueue
from time import perf_counter, sleep
from types import TracebackType
from typing import Any, Literal, TypeVar, get_args

import structlog

from beamish.storage import wal
from beamish.storage.api import (
    Cursor,
    StorageBusy,
    StorageClosed,
    StorageDamaged,
    StorageError,
    StorageUnavailable,
    Timing,
)
from beamish.storage.commits import QUEUE_BYTES, QUEUE_LIMIT, CommitQueue, Job, Outcome
from beamish.storage.engine import Engine, Timings, only_reading, storage_error
from beamish.storage.selects import Selects

log = structlog.get_logger(__name__)

T = TypeVar("T")
Synchronous = Literal["normal", "full", "extra"]

BATCH = 2_048
"""Jobs per commit at most: about 15 ms of work, so that those who came first do not wait for thousands behind them."""
PACE = 0.002
"""Seconds between the beginnings of two commits under load, that is, while several jobs share one, or did so in the one
before: whoever comes in between joins, and what they cause goes out together. A lone job after a lone one never waits."""
BUSY_SECONDS = 5.0
"""How long a statement waits for another process (`beamish user add`, a backup) that holds the file."""
READS_LIMIT = 20_000
"""Reads waiting for a reader."""
_WAL_KEEP = 64 * 1024 * 1024  # a write-ahead log that once grew is cut back to this after a checkpoint
_WAL_PAGES = 4_000  # 16 MiB: what is written and deleted soon after (logs) then mostly never reaches the file itself
_WAL_BYTES = _WAL_PAGES * (4_096 + 24) + 524_288  # with the frames' headers and the commit that reaches the bound
_WRITER_CACHE = 8_000  # KiB of pages: as much as logs and ends of lists need between two merges
_STATEMENTS = 256


class SqliteDatabase(CommitQueue):
    """`storage.api.Database` over a file, or over `:memory:` (then reads, too, go through the writer's thread)."""

    def __init__(
        self,
        path: str,
        loop: asyncio.AbstractEventLoop,
        synchronous: Synchronous,
        readers: int,
        queue_limit: int,
        queue_bytes: int,
    ) -> None:
        """Use `SqliteDatabase.open`."""
        super().__init__(loop, queue_limit, queue_bytes)
        self._path = path
        self._in_memory = path == ":memory:"
        self._synchronous = synchronous
        self._inbox: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._reads: SimpleQueue[tuple[Callable[[Engine], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._reads_waiting = 0
        self._timings: list[Timings] = []
        self._threads: list[tuple[threading.Thread, asyncio.Future[None], asyncio.Future[None]]] = []
        self._start("beamish-db-writer", self._write_on)
        self._readers = 0 if self._in_memory else readers
        self._selects: Selects | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "full",
        readers: int = 2,
        queue_limit: int = QUEUE_LIMIT,
        queue_bytes: int = QUEUE_BYTES,
    ) -> Opening:
        """Open a file (created with mode 0600) or `:memory:`, by `await` or `async with`, on the running loop.

        `synchronous="normal"` survives a `kill -9` but may lose the last commits with the machine's power. Raises
        `StorageUnavailable` or `StorageError` with the path if the file cannot be used.
        """
        if synchronous not in get_args(Synchronous):
            raise ValueError(f"synchronous must be one of {', '.join(get_args(Synchronous))}, not {synchronous!r}")
        if readers < 1:
            raise ValueError("at least one reader is needed")
        name = os.fspath(path)
        return Opening(lambda: cls._opened(name, synchronous, readers, queue_limit, queue_bytes))

    @property
    def timings(self) -> dict[str, Timing]:
        """What each name has cost so far; `(fetch)` and `(commit)` stand for all fetches and all commits."""
        return Timings.read(self._timings)

    async def read(self, name: str, fn: Callable[[Cursor], T]) -> T:
        """Run a function whole on one snapshot (see `storage.api.Database.read`)."""
        if self._in_memory:
            return await self.write(name, lambda cursor: only_reading(cursor, fn))
        return await self._on_reader(lambda engine: engine.read(name, fn))

    async def fetch(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """All rows of one query (see `storage.api.Database.fetch`)."""
        if self._in_memory:
            return await self.read("(fetch)", lambda cursor: cursor.rows(sql, *params))
        if self._closing or self._selects is None:
            raise StorageClosed("the database is closed")
        try:
            return await self._selects.fetch(sql, params)
        except StorageDamaged as exc:
            self._note_damage(exc)
            raise

    async def reserve_log(self) -> None:
        """Give the write-ahead log its size, so that commits are as quick from the start as later (see `storage.wal`).

        For servers that stay: it writes 17 MB, a step at a time. Where it cannot be done nothing is lost but that.
        """
        if self._in_memory:
            return
        try:
            while await self.write("log.reserve", lambda _: wal.extend(self._path, _WAL_BYTES)):
                await asyncio.to_thread(wal.settle, self._path)
        except (StorageError, OSError) as exc:
            log.info("log_not_reserved", error=str(exc))

    async def close(self) -> None:
        """Commit what is queued, tell everybody, close the file. Later calls raise `StorageClosed`, except this one."""
        if not self._closing:
            self._end_tick()
            self._closing = True
            self._stop()
        if self._selects is not None:
            await self._selects.close()
        for thread, _, ended in self._threads:
            await asyncio.shield(ended)
            thread.join()  # it has nothing left to do but return
        for _, ready, _ in self._threads:
            if ready.done() and not ready.cancelled():
                ready.exception()  # opening reports one failure; the others are not news
        atexit.unregister(self._drain_at_exit)

    # Opening.

    @classmethod
    async def _opened(
        cls, path: str, synchronous: Synchronous, readers: int, queue_limit: int, queue_bytes: int
    ) -> SqliteDatabase:
        db = cls(path, asyncio.get_running_loop(), synchronous, readers, queue_limit, queue_bytes)
        try:
            await db._threads[0][1]  # the writer first: it makes the file and turns WAL on
            for number in range(db._readers):
                db._start(f"beamish-db-reader-{number}", db._read_on)
            for _, ready, _ in db._threads[1:]:
                await ready
            if db._readers:
                db._selects = await Selects.open(path, busy_seconds=BUSY_SECONDS, limit=READS_LIMIT)
                db._timings.append(db._selects.timings)
        except BaseException:
            await db.close()
            raise
        atexit.register(db._drain_at_exit)
        return db

    def _start(self, name: str, body: Callable[[Engine], None]) -> None:
        """Start a thread that opens a connection, works through `body` and closes it."""
        ready: asyncio.Future[None] = self._loop.create_future()
        ended: asyncio.Future[None] = self._loop.create_future()
        writer = not self._threads
        # Daemon, so that an exit without close() reaches _drain_at_exit instead of waiting for this thread for ever.
        thread = threading.Thread(target=self._thread, args=(writer, body, ready, ended), name=name, daemon=True)
        self._threads.append((thread, ready, ended))
        thread.start()

    def _thread(
        self,
        writer: bool,
        body: Callable[[Engine], None],
        ready: asyncio.Future[None],
        ended: asyncio.Future[None],
    ) -> None:
        try:
            try:
                engine = self._connect(writer)
            except (sqlite3.Error, OSError, StorageError) as exc:
                kind = type(error) if isinstance(error := storage_error(exc), StorageError) else StorageUnavailable
                failure = kind(f"{self._path}: {exc}")
                failure.__cause__ = exc
                self._on_loop(_fail, ready, failure)
                return
            self._timings.append(engine.timings)
            self._on_loop(_resolve, ready, None)
            try:
                body(engine)
            finally:
                engine.close()
        finally:
            self._on_loop(_resolve, ended, None)

    def _connect(self, writer: bool) -> Engine:
        if writer and not self._in_memory:
            _private_file(Path(self._path))
        conn = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=_STATEMENTS, uri=False
        )
        try:
            conn.execute("PRAGMA foreign_keys = ON")
            conn.execute("PRAGMA trusted_schema = OFF")
            if writer:
                (mode,) = conn.execute("PRAGMA journal_mode = WAL").fetchone()
                if mode != "wal" and not self._in_memory:
                    raise StorageError("the file system does not allow write-ahead logging; use a local disk")
                conn.execute(f"PRAGMA synchronous = {self._synchronous}")
                conn.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
                conn.execute(f"PRAGMA cache_size = -{_WRITER_CACHE}")
                conn.execute(f"PRAGMA journal_size_limit = {_WAL_KEEP}")
            else:
                conn.execute("PRAGMA query_only = ON")
            return Engine(conn)
        except BaseException:
            conn.close()
            raise

    # The writer.

    def _wake(self) -> None:
        try:  # at the end of the tick, so that what one tick stores shares one commit and one wake-up
            self._loop.call_soon(self._hand_over)
        except RuntimeError:
            raise StorageClosed("the event loop of the database is closed") from None

    def _hand_over(self) -> None:
        jobs = self._take()
        if jobs:
            self._inbox.put(jobs)

    def _write_on(self, engine: Engine) -> None:
        ending = shared = False
        # positions: of the last job, and of the last one known to have been refused or behind one that was
        done = refused = 0
        while not ending:
            jobs = self._inbox.get()
            if jobs is None:
                return
            with contextlib.suppress(Empty):
                while (more := self._inbox.get_nowait()) is not None:
                    jobs += more
                ending = True
            before, shared = shared, len(jobs) > 1
            began = perf_counter()
            for start in range(0, len(jobs), BATCH):
                outcome = self._commit(engine, jobs[start : start + BATCH], refused)
                done += len(outcome.jobs)
                if outcome.refused:
                    refused = done
                self._on_loop(self._settle, outcome)
            if (shared or before) and not ending:
                # here, not when the next job has come: who comes in between need not wake this thread
                sleep(max(0.0, began + PACE - perf_counter()))

    def _commit(self, engine: Engine, jobs: list[Job], refused: int) -> Outcome:
        try:
            return engine.commit(jobs, refused=refused)
        except Exception as exc:  # a fault of ours; those who wait must still hear of it
            log.exception("commit_failed")
            kind = StorageUnavailable if isinstance(exc, MemoryError) else StorageError
            return Outcome(jobs, {index: kind(f"commit failed: {exc}") for index in range(len(jobs))})

    # The readers.

    async def _on_reader(self, call: Callable[[Engine], T]) -> T:
        if self._closing:
            raise StorageClosed("the database is closed")
        if self._reads_waiting >= READS_LIMIT:
            raise StorageBusy(f"{self._reads_waiting} reads wait for a reader")
        future: asyncio.Future[T] = self._loop.create_future()
        self._reads_waiting += 1
        self._reads.put((call, future))
        return await future

    def _read_on(self, engine: Engine) -> None:
        while (read := self._reads.get()) is not None:
            call, future = read
            result, error = None, None
            if not future.cancelled():
                try:
                    result = call(engine)
                except BaseException as exc:
                    error = exc
            self._on_loop(self._read_done, future, result, error)

    def _read_done(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._reads_waiting -= 1
        self._note_damage(error)
        if error is None:
            _resolve(future, result)
        else:
            _fail(future, error)

    # The end.

    def _stop(self) -> None:
        self._hand_over()
        self._inbox.put(None)
        for _ in self._threads[1:]:
            self._reads.put(None)

    def _drain_at_exit(self) -> None:
        """The program ends without close(): what was queued is still committed."""
        self._end_tick()
        self._closing = True
        self._stop()
        for thread, _, _ in self._threads:
            thread.join()

    def _on_loop(self, call: Callable[..., None], *args: Any) -> None:
        # A loop that has ended has nobody left to tell; the work itself is done.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)


class Opening:
    """A database about to be opened: `await` it, or enter it with `async with` to have it closed at the end."""

    def __init__(self, start: Callable[[], Any]) -> None:
        """`start` gives the coroutine that opens."""
        self._start = start
        self._db: SqliteDatabase | None = None

    def __await__(self) -> Generator[Any, None, SqliteDatabase]:
        """Open; the caller closes."""
        opened: Generator[Any, None, SqliteDatabase] = self._start().__await__()
        return opened

    async def __aenter__(self) -> SqliteDatabase:
        """Open."""
        self._db = await self
        return self._db

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, with everything queued committed."""
        if self._db is not None:
            await self._db.close()


def _private_file(path: Path) -> None:
    """Create the file for its owner alone; take others' access away from one that exists. It holds password keys."""
    if path.is_dir():
        raise IsADirectoryError("is a directory")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        # By name, never by opening: closing a descriptor would drop the locks of other connections of this process.
        for suffix in ("", "-wal", "-shm"):
            name = Path(f"{path}{suffix}")
            with contextlib.suppress(FileNotFoundError):
                if name.stat().st_mode & 0o077:
                    log.warning("database_was_open_to_others", path=str(name))
                    name.chmod(0o600)


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
