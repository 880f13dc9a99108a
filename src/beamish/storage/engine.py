"""SQL on one SQLite connection: the cursor that modules see, batches of jobs in one commit, errors in our own terms.

Everything here is synchronous and belongs to the thread that owns the connection.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from time import perf_counter
from typing import Any, TypeVar

from beamish.storage.api import (
    ConstraintViolated,
    Cursor,
    StorageDamaged,
    StorageError,
    StorageUnavailable,
    Timing,
)
from beamish.storage.commits import Job, Outcome, Row, Work

T = TypeVar("T")

NAMES_LIMIT = 512
"""Names that are timed one by one; what comes later is counted under `(other)`."""
WIDE = (512, 64, 8)
"""Rows per widened INSERT, largest first; what remains of them goes in one, too. Each size is one more prepared statement
per table."""

_NOT_OUR_FAULT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_VALUES = re.compile(r"\bVALUES\s*(\(\s*\?(?:\s*,\s*\?)*\s*\))", re.IGNORECASE)
_CHANGE = re.compile(r"\s*(?:INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_CONTROL = re.compile(r"\s*(?:BEGIN|COMMIT|END|ROLLBACK|SAVEPOINT|RELEASE)\b", re.IGNORECASE)
REFUSALS = (sqlite3.Error, MemoryError)
"""How SQLite refuses: for a lack of memory Python has an exception of its own, after which the transaction is gone, too."""


def _code(exc: sqlite3.Error) -> int:
    """The primary result code: the low byte of an extended one."""
    return (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF


def storage_error(exc: Exception) -> Exception:
    """The same failure without SQLite in its type; what is not SQLite's (a value too large) stays as it is."""
    if not isinstance(exc, REFUSALS):
        return exc
    kind = StorageError
    if isinstance(exc, sqlite3.IntegrityError):
        kind = ConstraintViolated
    elif isinstance(exc, sqlite3.Error) and _code(exc) in _DAMAGE:
        kind = StorageDamaged
    elif isinstance(exc, MemoryError) or _code(exc) in _NOT_OUR_FAULT:
        kind = StorageUnavailable
    error = kind(str(exc) or "out of memory")
    error.__cause__ = exc
    return error


@lru_cache(maxsize=256)
def widened(sql: str, rows: int) -> tuple[str, int] | None:
    """`INSERT … VALUES (?, ?)` for so many rows at once, and the parameters per row; None if it is of another shape.

    `sqlite3` gives up the interpreter lock and takes it again at each step. Beside a busy event loop that costs more
    than the insert, so one step should carry many rows.
    """
    found = list(_VALUES.finditer(sql))
    if len(found) != 1 or "returning" in sql.lower():
        return None
    group, end = found[0][1], found[0].end()
    width = group.count("?")
    if sql.count("?") != width:  # parameters elsewhere too: their order would change
        return None
    return sql[:end] + f", {group}" * (rows - 1) + sql[end:], width


@lru_cache(maxsize=1024)
def _controls_transactions(sql: str) -> bool:
    return _CONTROL.match(sql) is not None


@lru_cache(maxsize=1024)
def _changes_in_one_step(sql: str) -> bool:
    """Whether a statement outside of transactions is committed when its first step is done: not before rows are fetched."""
    return _CHANGE.match(sql) is not None and "returning" not in sql.lower()


def only_reading(cursor: Cursor, fn: Callable[[Cursor], T]) -> T:
    """Run a function on a connection that could write, as on one that cannot."""
    cursor.run("PRAGMA query_only = ON")
    try:
        return fn(cursor)
    finally:
        cursor.run("PRAGMA query_only = OFF")


class Timings:
    """Counts and seconds by name. Written by one thread; `read` may be called from any."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._by_name: dict[str, list[float]] = {}

    def add(self, name: str, count: int, seconds: float) -> None:
        """Count so many runs of `name` that took so many seconds together."""
        entry = self._by_name.get(name)
        if entry is None:
            if len(self._by_name) >= NAMES_LIMIT:
                name = "(other)"
            entry = self._by_name.setdefault(name, [0, 0.0, 0.0])
        entry[0] += count
        entry[1] += seconds
        if seconds > entry[2]:
            entry[2] = seconds

    @staticmethod
    def read(several: Iterable[Timings]) -> dict[str, Timing]:
        """The sum over several threads, by name."""
        out: dict[str, Timing] = {}
        for one in several:
            for name, (count, total, longest) in list(one._by_name.items()):
                seen = out.get(name, Timing(0, 0.0, 0.0))
                out[name] = Timing(seen.count + int(count), seen.total + total, max(seen.max, longest))
        return out


def bulk(conn: sqlite3.Connection, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement for each row of parameters. Raises at the first that fails, with some of them already in."""
    done = 0
    for size in WIDE:
        if len(rows) - done < size or (wide := widened(sql, size)) is None:
            continue
        wide_sql, width = wide
        if size * width > conn.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) or any(len(row) != width for row in rows):
            continue
        while len(rows) - done >= size:
            conn.execute(wide_sql, tuple(chain.from_iterable(rows[done : done + size])))
            done += size
    if done < len(rows):
        few = _few(sql, rows[done:])
        if few is not None:
            conn.execute(*few)
        else:
            conn.executemany(sql, rows[done:])


def _few(sql: str, rows: Sequence[Sequence[Any]]) -> tuple[str, Sequence[Any]] | None:
    """One statement, with its parameters, that does what a statement does for each of up to `WIDE[-1]` rows; or None."""
    if len(rows) == 1:
        return sql, rows[0]
    if len(rows) > WIDE[-1] or (wide := widened(sql, len(rows))) is None or any(len(row) != wide[1] for row in rows):
        return None
    return wide[0], tuple(chain.from_iterable(rows))


class SqliteCursor:
    """`storage.api.Cursor` over a connection in autocommit mode (`isolation_level=None`)."""

    __slots__ = ("_conn", "gave_up")

    def __init__(self, conn: sqlite3.Connection) -> None:
        """The caller begins and ends the transaction."""
        self._conn = conn
        self.gave_up: Exception | None = None
        """Why SQLite rolled the whole transaction back by itself. Further statements would commit one by one."""

    def run(self, sql: str, *params: Any) -> int:
        """Run a statement; the number of rows changed."""
        try:
            return self._execute(sql, params).rowcount
        except REFUSALS as exc:
            raise self._refused(exc) from exc

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row of parameters."""
        if self.gave_up is not None:
            raise self.gave_up
        try:
            bulk(self._conn, sql, list(rows))
        except REFUSALS as exc:
            raise self._refused(exc) from exc

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        try:
            return self._execute(sql, params).fetchall()
        except REFUSALS as exc:
            raise self._refused(exc) from exc

    def row(self, sql: str, *params: Any) -> tuple[Any, ...] | None:
        """The first row, or None."""
        try:
            found: tuple[Any, ...] | None = self._execute(sql, params).fetchone()
        except REFUSALS as exc:
            raise self._refused(exc) from exc
        return found

    def value(self, sql: str, *params: Any) -> Any:
        """The first column of the first row, or None."""
        found = self.row(sql, *params)
        return None if found is None else found[0]

    def _execute(self, sql: str, params: tuple[Any, ...]) -> sqlite3.Cursor:
        if self.gave_up is not None:
            raise self.gave_up
        if _controls_transactions(sql):  # it would commit other callers' halves
            raise StorageError("a transaction begins and ends with its function, not by a statement")
        return self._conn.execute(sql, params)

    def _refused(self, exc: Exception) -> Exception:
        error = storage_error(exc)
        if not self._conn.in_transaction:
            self.gave_up = error
        return error


class TransactionLost(Exception):
    """Inside a batch, the transaction is no longer there: every job of it must be done again."""


class Engine:
    """Runs jobs and reads on one connection."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        """Take a connection opened with `isolation_level=None`; `close` closes it."""
        self.timings = Timings()
        self._conn = conn

    def close(self) -> None:
        """Close the connection."""
        self._conn.close()

    def take_from(self, other: Engine) -> None:
        """Become a copy of what is committed in another database."""
        other._conn.backup(self._conn)

    def read(self, name: str, fn: Callable[[Cursor], T]) -> T:
        """Run a function on one snapshot; the connection must be `query_only`. Raises what `fn` raises."""
        started = perf_counter()
        try:
            self._statement("BEGIN")
            try:
                return fn(SqliteCursor(self._conn))
            finally:
                self._rollback()
        except REFUSALS as exc:
            raise storage_error(exc) from exc
        finally:
            self.timings.add(name, 1, perf_counter() - started)

    def commit(self, jobs: Sequence[Job], *, refused: int = 0) -> Outcome:
        """Run all jobs in one commit; if that cannot be made, each in its own. Never raises for what a job does.

        `refused`: up to this position the disk has refused something; `whole` jobs that may not know of that are refused.

        A few rows of one kind are one statement, which is a transaction by itself. Otherwise all jobs are first run as if
        none could fail; only if one does, all are run again with a savepoint for each.
        """
        if refused and any(isinstance(job, Work) and job.whole and job.after < refused for job in jobs):
            return Outcome(jobs, self._one_by_one(jobs, refused))
        few = self._single(jobs)
        if few is not None:
            failures = self._at_once(jobs, *few)
        else:
            failures = self._together(jobs, guarded=False) if len(jobs) > 1 else None
        if failures is None and len(jobs) > 1:
            failures = self._together(jobs, guarded=True)
        return Outcome(jobs, self._one_by_one(jobs, 0) if failures is None else failures)

    def _single(self, jobs: Sequence[Job]) -> tuple[str, Sequence[Any]] | None:
        """The one statement that these jobs come to, with its parameters."""
        first = jobs[0]
        if len(jobs) > WIDE[-1] or not isinstance(first, Row) or not _changes_in_one_step(first.sql):
            return None
        rows = []
        for job in jobs:
            if not isinstance(job, Row) or job.sql != first.sql or job.name != first.name:
                return None
            rows.append(job.params)
        return _few(first.sql, rows)

    def _at_once(self, jobs: Sequence[Job], sql: str, params: Sequence[Any]) -> dict[int, BaseException] | None:
        """Failures by index, or None if the rows have to be run one by one to know whose fault it is."""
        started = perf_counter()
        try:
            self._conn.execute(sql, params)
        except Exception as exc:
            self._rollback()
            if isinstance(exc, sqlite3.Error) and _code(exc) == sqlite3.SQLITE_BUSY:
                return self._all_failed(jobs, 0, exc)
            return None
        self.timings.add(jobs[0].name, len(jobs), 0.0)
        self.timings.add("(commit)", 1, perf_counter() - started)
        return {}

    def _together(self, jobs: Sequence[Job], *, guarded: bool) -> dict[int, BaseException] | None:
        """Failures by index, or None if nothing was committed. Unless `guarded`, the first failure is the end of it."""
        failures: dict[int, BaseException] = {}
        lost = False  # whether the disk refused any of them so far
        try:
            self._statement("BEGIN IMMEDIATE")
        except REFUSALS as exc:
            return self._all_failed(jobs, 0, exc)
        try:
            for start, run in _runs(jobs):
                before = len(failures)
                if not guarded:
                    self._trusted(run)
                elif isinstance(run, Work):
                    if run.whole and lost:
                        failures[start] = _not_whole(run)
                    else:
                        self._guarded_work(start, run, failures)
                else:
                    self._guarded_rows(start, run, failures)
                if len(failures) > before and not lost:
                    lost = _any_refused(list(failures.values())[before:])
            self._commit()
        except (TransactionLost, *REFUSALS):
            self._rollback()
            return None
        except BaseException:
            self._rollback()
            if not guarded:
                return None
            raise
        return failures

    def _trusted(self, run: Work | Sequence[Row]) -> None:
        """Run what can be expected to succeed; what is raised is the end of the transaction."""
        started = perf_counter()
        if isinstance(run, Work):
            run.result = run.fn(SqliteCursor(self._conn))
            if not self._conn.in_transaction:
                raise TransactionLost
            self.timings.add(run.name, 1, perf_counter() - started)
        else:
            bulk(self._conn, run[0].sql, [row.params for row in run])
            self.timings.add(run[0].name, len(run), perf_counter() - started)

    def _one_by_one(self, jobs: Sequence[Job], refused: int) -> dict[int, BaseException]:
        failures: dict[int, BaseException] = {}
        lost = False
        for index, job in enumerate(jobs):
            if isinstance(job, Work) and job.whole and (lost or job.after < refused):
                failures[index] = _not_whole(job)
                lost = True
                continue
            try:
                self._statement("BEGIN IMMEDIATE")
            except REFUSALS as exc:
                # The file is locked or gone; each further job would wait as long to learn the same.
                return failures | self._all_failed(jobs, index, exc)
            started = perf_counter()
            try:
                if isinstance(job, Work):
                    cursor = SqliteCursor(self._conn)
                    job.result = job.fn(cursor)
                    if not self._conn.in_transaction:
                        raise cursor.gave_up or StorageError(f"{job.name} ended its own transaction")
                else:
                    self._conn.execute(job.sql, job.params)
                self.timings.add(job.name, 1, perf_counter() - started)
                self._commit()
            except BaseException as exc:
                self._rollback()
                failures[index] = storage_error(exc) if isinstance(exc, Exception) else exc
                lost = lost or _any_refused([exc])
        return failures

    def _all_failed(self, jobs: Sequence[Job], start: int, exc: Exception) -> dict[int, BaseException]:
        return {index: storage_error(exc) for index in range(start, len(jobs))}  # one each: they gather tracebacks

    def _guarded_work(self, index: int, job: Work, failures: dict[int, BaseException]) -> None:
        started = perf_counter()
        self._statement("SAVEPOINT job")
        try:
            job.result = job.fn(SqliteCursor(self._conn))
        except BaseException as exc:
            self._undo()
            failures[index] = exc
        else:
            if not self._conn.in_transaction:
                raise TransactionLost
            self._statement("RELEASE job")
        self.timings.add(job.name, 1, perf_counter() - started)

    def _guarded_rows(self, start: int, run: Sequence[Row], failures: dict[int, BaseException]) -> None:
        started = perf_counter()
        if len(run) == 1:
            self._row(start, run[0], failures)
        else:
            self._statement("SAVEPOINT job")
            try:
                bulk(self._conn, run[0].sql, [row.params for row in run])
            except Exception:
                self._undo()
                for offset, row in enumerate(run):
                    self._row(start + offset, row, failures)
            else:
                self._statement("RELEASE job")
        self.timings.add(run[0].name, len(run), perf_counter() - started)

    def _row(self, index: int, row: Row, failures: dict[int, BaseException]) -> None:
        try:  # a single statement undoes itself when it fails: no savepoint needed
            self._conn.execute(row.sql, row.params)
        except Exception as exc:
            if not self._conn.in_transaction:
                raise TransactionLost from exc
            failures[index] = storage_error(exc)

    def _undo(self) -> None:
        if not self._conn.in_transaction:
            raise TransactionLost
        self._statement("ROLLBACK TO job")
        self._statement("RELEASE job")

    def _commit(self) -> None:
        started = perf_counter()
        self._statement("COMMIT")
        self.timings.add("(commit)", 1, perf_counter() - started)

    def _rollback(self) -> None:
        if self._conn.in_transaction:
            self._statement("ROLLBACK")

    def _statement(self, sql: str) -> None:
        self._conn.execute(sql)


def _any_refused(failures: Iterable[BaseException]) -> bool:
    return any(isinstance(storage_error(exc), StorageUnavailable) for exc in failures if isinstance(exc, Exception))


def _not_whole(job: Work) -> StorageUnavailable:
    return StorageUnavailable(f"the disk refused what {job.name} belongs to")


def _runs(jobs: Sequence[Job]) -> Iterator[tuple[int, Work | list[Row]]]:
    """Jobs with the index of the first: a function by itself, rows of the same statement and name together."""
    run: list[Row] = []
    start = 0
    for index, job in enumerate(jobs):
        if isinstance(job, Row):
            if run and run[0].sql == job.sql and run[0].name == job.name:
                run.append(job)
                continue
            if run:
                yield start, run
            run, start = [job], index
        else:
            if run:
                yield start, run
                run = []
            yield index, job
    if run:
        yield start, run
