from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.storage.api import ConstraintViolated, StorageDamaged, StorageError, StorageUnavailable
from beamish.storage.commits import Row, Work
from beamish.storage.engine import NAMES_LIMIT, Engine, SqliteCursor, Timings, storage_error, widened


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, text TEXT UNIQUE)")
    yield conn
    conn.close()


@pytest.mark.parametrize(
    ("sql", "wide"),
    [
        ("INSERT INTO t VALUES (?)", ("INSERT INTO t VALUES (?), (?)", 1)),
        ("insert into t (a, b) values ( ?,? )", ("insert into t (a, b) values ( ?,? ), ( ?,? )", 2)),
        (
            "INSERT INTO t VALUES (?, ?) ON CONFLICT DO NOTHING",
            ("INSERT INTO t VALUES (?, ?), (?, ?) ON CONFLICT DO NOTHING", 2),
        ),
        ("INSERT INTO t VALUES (?, 1)", None),
        ("INSERT INTO t VALUES (?) ON CONFLICT (a) DO UPDATE SET b = ?", None),
        ("INSERT INTO t VALUES (?), (?)", None),
        ("INSERT INTO t VALUES (?) RETURNING id", None),
        ("INSERT INTO t SELECT a FROM u WHERE b = ?", None),
        ("UPDATE t SET a = ?", None),
        ("DELETE FROM t WHERE a = ?", None),
    ],
)
def test_which_statements_are_widened(sql: str, wide: tuple[str, int] | None) -> None:
    assert widened(sql, 2) == wide


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=4)), min_size=1, max_size=150))
def test_widened_inserts_store_what_single_inserts_store(rows: list[tuple[int, bytes]]) -> None:
    sql = "INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT (a) DO UPDATE SET b = excluded.b"
    stored = []
    for together in (True, False):
        conn = sqlite3.connect(":memory:", isolation_level=None)
        conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
        if together:
            assert Engine(conn).commit([Row("n", sql, row, None, 0) for row in rows]).failures == {}
        else:
            for row in rows:
                conn.execute(sql, row)
        stored.append(conn.execute("SELECT a, b FROM t ORDER BY a").fetchall())
        conn.close()
    assert stored[0] == stored[1]


def test_a_run_of_rows_takes_few_steps(conn: sqlite3.Connection) -> None:
    seen: list[str] = []
    conn.set_trace_callback(seen.append)
    rows = [Row("n", "INSERT INTO item (text) VALUES (?)", (f"{n}",), None, 0) for n in range(512 + 64 + 8 + 1)]
    assert Engine(conn).commit(rows).failures == {}
    assert sum(statement.startswith("INSERT") for statement in seen) == 4
    assert not any(statement.startswith("SAVEPOINT") for statement in seen)
    assert sum(statement.startswith("COMMIT") for statement in seen) == 1


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_a_few_rows_of_one_kind_are_one_statement(conn: sqlite3.Connection, count: int) -> None:
    seen: list[str] = []
    conn.set_trace_callback(seen.append)
    rows = [Row("n", "INSERT INTO item (text) VALUES (?)", (f"{n}",), None, 0) for n in range(count)]
    engine = Engine(conn)
    assert engine.commit(rows).failures == {}
    assert len(seen) == 1
    assert not conn.in_transaction
    assert conn.execute("SELECT count(*) FROM item").fetchone() == (count,)
    timings = Timings.read([engine.timings])
    assert (timings["n"].count, timings["(commit)"].count) == (count, 1)


def test_rows_that_give_something_back_are_committed_all_the_same(conn: sqlite3.Connection) -> None:
    seen: list[str] = []
    conn.set_trace_callback(seen.append)
    rows = [Row("n", "INSERT INTO item (text) VALUES (?) RETURNING id", ("a",), None, 0)]
    assert Engine(conn).commit(rows).failures == {}
    assert [statement.split()[0] for statement in seen] == ["BEGIN", "INSERT", "COMMIT"]


def test_only_the_bad_one_of_a_few_rows_is_missing(conn: sqlite3.Connection) -> None:
    rows = [Row("n", "INSERT INTO item (text) VALUES (?)", (text,), None, 0) for text in ("a", "b", "a", "c")]
    outcome = Engine(conn).commit(rows)
    assert {index: type(exc) for index, exc in outcome.failures.items()} == {2: ConstraintViolated}
    assert conn.execute("SELECT text FROM item ORDER BY id").fetchall() == [("a",), ("b",), ("c",)]


def test_jobs_get_savepoints_only_when_one_has_failed(conn: sqlite3.Connection) -> None:
    seen: list[str] = []
    conn.set_trace_callback(seen.append)
    runs: list[str] = []

    def store(name: str, *texts: str) -> Work:
        def fn(c: SqliteCursor) -> str:
            runs.append(name)
            for text in texts:
                c.run("INSERT INTO item (text) VALUES (?)", text)
            return f"{name} {runs.count(name)}"

        return Work(name, fn, None, None)

    good = [store("a", "1", "2"), store("b", "3")]
    assert Engine(conn).commit(good).failures == {}
    assert [statement.split()[0] for statement in seen] == ["BEGIN", "INSERT", "INSERT", "INSERT", "COMMIT"]
    runs.clear()
    jobs = [store("c", "4"), store("d", "5", "1"), store("e", "6")]
    outcome = Engine(conn).commit(jobs)
    assert {index: type(exc) for index, exc in outcome.failures.items()} == {1: ConstraintViolated}
    assert [job.result for job in jobs] == ["c 2", None, "e 1"]
    assert runs == ["c", "d", "c", "d", "e"]
    assert [text for (text,) in conn.execute("SELECT text FROM item ORDER BY text")] == ["1", "2", "3", "4", "6"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, StorageUnavailable),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StorageUnavailable),
        (sqlite3.SQLITE_IOERR_FSYNC, StorageUnavailable),
        (sqlite3.SQLITE_CORRUPT_INDEX, StorageDamaged),
        (sqlite3.SQLITE_NOTADB, StorageDamaged),
        (sqlite3.SQLITE_ERROR, StorageError),
    ],
)
def test_errors_are_told_apart_by_whose_fault_they_are(code: int, kind: type[StorageError]) -> None:
    exc = sqlite3.OperationalError("told")
    exc.sqlite_errorcode = code
    error = storage_error(exc)
    assert type(error) is kind
    assert str(error) == "told"
    assert error.__cause__ is exc


def test_what_is_not_sqlites_stays_as_it_is(conn: sqlite3.Connection) -> None:
    error = OverflowError()
    assert storage_error(error) is error
    with pytest.raises(OverflowError):
        SqliteCursor(conn).run("INSERT INTO item VALUES (?, 'x')", 2**64)


def test_a_constraint_error_is_its_own_kind(conn: sqlite3.Connection) -> None:
    cursor = SqliteCursor(conn)
    conn.execute("BEGIN")
    cursor.run("INSERT INTO item (text) VALUES ('a')")
    with pytest.raises(ConstraintViolated):
        cursor.many("INSERT INTO item (text) VALUES (?)", [("a",)])
    assert cursor.value("SELECT count(*) FROM item") == 1


def test_a_full_disk_reaches_every_job_and_keeps_what_was_stored(conn: sqlite3.Connection) -> None:
    engine = Engine(conn)
    sql = "INSERT INTO item (text) VALUES (?)"
    assert engine.commit([Row("n", sql, ("small",), None, 0)]).failures == {}
    conn.execute(f"PRAGMA max_page_count = {conn.execute('PRAGMA page_count').fetchone()[0]}")

    def large(c: SqliteCursor) -> None:
        c.run(sql, "y" * 50_000)

    jobs = [Row("n", sql, (letter * 50_000,), None, 0) for letter in "abc"]
    outcome = engine.commit([*jobs, Work("w", large, None, None), Row("n", sql, ("fits",), None, 0)])
    assert {index: type(exc) for index, exc in outcome.failures.items()} == dict.fromkeys(range(4), StorageUnavailable)
    assert not conn.in_transaction
    assert conn.execute("SELECT text FROM item").fetchall() == [("small",), ("fits",)]


@pytest.mark.parametrize("together", [True, False], ids=["statement refused", "transaction refused"])
def test_what_belongs_to_others_is_not_committed_without_them(conn: sqlite3.Connection, together: bool) -> None:
    """A count that says that a message is safe, and the message."""
    engine = Engine(conn)
    sql = "INSERT INTO item (text) VALUES (?)"
    pages = conn.execute("PRAGMA page_count").fetchone()[0]
    conn.execute(f"PRAGMA max_page_count = {pages}")

    def put(text: str, *, whole: bool) -> Work:
        def run(c: SqliteCursor) -> None:
            if together and len(text) > 1_000:
                raise StorageUnavailable("the disk is full")
            c.run(sql, text)

        return Work("put", run, None, None, whole)

    large = put("y" * 50_000, whole=False)
    outcome = engine.commit([put("before", whole=True), large, put("alone", whole=False), put("with all", whole=True)])
    assert {index: type(exc) for index, exc in outcome.failures.items()} == dict.fromkeys((1, 3), StorageUnavailable)
    assert outcome.refused
    later = engine.commit([put("later", whole=True)], refused=4)
    assert list(later.failures) == [0]
    assert engine.commit([put("next tick", whole=True), put("more", whole=False)]).failures == {}
    told, untold = put("told", whole=True), put("untold", whole=True)
    told.after, untold.after = 4, 3
    assert list(engine.commit([told, put("most", whole=False)], refused=4).failures) == []
    assert list(engine.commit([untold], refused=4).failures) == [0]
    assert [text for (text,) in conn.execute("SELECT text FROM item")] == [
        *("before", "alone", "next tick", "more", "told", "most")
    ]


def test_names_are_bounded() -> None:
    timings = Timings()
    for n in range(NAMES_LIMIT + 10):
        timings.add(f"name {n}", 1, 0.5)
    read = Timings.read([timings, timings])
    assert len(read) == NAMES_LIMIT + 1
    assert read["(other)"].count == 20
    assert read["name 0"].total == 1.0
    assert read["name 0"].max == 0.5


class Short:
    """A connection for which there is no memory where a statement says so; SQLite ends the transaction."""

    def __init__(self, conn: sqlite3.Connection, where: str) -> None:
        self._conn = conn
        self._where = where

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def execute(self, sql: str, *params: Any) -> sqlite3.Cursor:
        if sql.startswith(self._where):
            if self._conn.in_transaction:
                self._conn.execute("ROLLBACK")
            raise MemoryError
        return self._conn.execute(sql, *params)


@pytest.mark.parametrize("where", ["BEGIN", "INSERT INTO item", "COMMIT"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_lack_of_memory_is_nobodys_fault(conn: sqlite3.Connection, where: str, count: int) -> None:
    jobs = [Work("n", lambda c: c.run("INSERT INTO item (text) VALUES ('x')"), None, None) for _ in range(count)]
    failures = Engine(Short(conn, where)).commit(jobs).failures  # type: ignore[arg-type]
    assert len(failures) == count
    assert {type(exc) for exc in failures.values()} == {StorageUnavailable}
    assert conn.execute("SELECT * FROM item").fetchall() == []
