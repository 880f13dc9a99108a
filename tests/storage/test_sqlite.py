from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from stat import S_IMODE

import pytest
from structlog.testing import capture_logs

from beamish.storage import commits, sqlite
from beamish.storage.api import Cursor, StorageBusy, StorageDamaged, StorageError, StorageUnavailable
from beamish.storage.sqlite import SqliteDatabase

INSERT = "INSERT INTO item (text) VALUES (?)"
SCHEMA = "CREATE TABLE item (id INTEGER PRIMARY KEY, text TEXT UNIQUE)"


def modes(folder: Path) -> dict[str, int]:
    return {file.name: S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def test_the_file_is_private_durable_and_in_wal_mode(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SqliteDatabase.open(path) as db:
        await db.write("w", lambda c: c.run(SCHEMA))
        settings = await db.write(
            "w", lambda c: [c.value(f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "foreign_keys")]
        )
        assert settings == ["wal", 2, 1]
        assert modes(tmp_path) == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}
    assert modes(tmp_path) == {"x.db": 0o600}  # the log is folded in and gone


async def test_a_file_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.touch(mode=0o644)
    path.chmod(0o644)
    with capture_logs() as logs:
        async with SqliteDatabase.open(path):
            assert S_IMODE(path.stat().st_mode) == 0o600
    assert [entry["event"] for entry in logs] == ["database_was_open_to_others"]


def left_of(threads: set[threading.Thread]) -> list[threading.Thread]:
    """Those that do not end: one says that it has closed its connection just before it does."""
    for thread in threads:
        thread.join(10)
    return [thread for thread in threads if thread.is_alive()]


@pytest.mark.parametrize("kind", ["directory", "missing-folder", "not-a-database"])
async def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, kind: str) -> None:
    path = {"directory": tmp_path, "missing-folder": tmp_path / "a" / "b"}.get(kind, tmp_path / "x.db")
    if kind == "not-a-database":
        path.write_bytes(b"no database at all" * 100)
    before = set(threading.enumerate())
    with pytest.raises(StorageUnavailable, match=str(path)):
        await SqliteDatabase.open(path)
    assert not left_of(set(threading.enumerate()) - before)


async def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="synchronous"):
        SqliteDatabase.open(tmp_path / "x.db", synchronous="off")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reader"):
        SqliteDatabase.open(tmp_path / "x.db", readers=0)


async def test_close_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())  # some of which may be about to end
    db = await SqliteDatabase.open(tmp_path / "x.db", readers=3)
    own = set(threading.enumerate()) - before
    assert len(own) == 5  # the writer, three readers, one for single selects
    await asyncio.gather(db.close(), db.close())
    assert not left_of(own)


async def test_a_read_sees_one_snapshot(tmp_path: Path) -> None:
    async with SqliteDatabase.open(tmp_path / "x.db") as db:
        await db.write("w", lambda c: c.run(SCHEMA))
        looked, written = threading.Event(), threading.Event()

        def twice(c: Cursor) -> tuple[int, int]:
            before = c.value("SELECT count(*) FROM item")
            looked.set()
            assert written.wait(10)
            return before, c.value("SELECT count(*) FROM item")

        reading = asyncio.ensure_future(db.read("r", twice))
        await asyncio.to_thread(looked.wait, 10)
        await db.write("w", lambda c: c.run(INSERT, "a"))
        written.set()
        assert await reading == (0, 0)
        assert await db.fetch("SELECT count(*) FROM item") == [(1,)]


async def test_jobs_that_wait_share_a_commit(tmp_path: Path) -> None:
    async with SqliteDatabase.open(tmp_path / "x.db") as db:
        await db.write("w", lambda c: c.run(SCHEMA))
        before = db.timings["(commit)"].count
        await asyncio.gather(*(db.write("w", lambda c, n=n: c.run(INSERT, f"{n}")) for n in range(100)))
        assert db.timings["(commit)"].count == before + 1


async def test_commits_under_load_keep_a_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows on a commit that several shared waits for others, and the next one, too; then lone jobs do not."""
    waits: list[float] = []
    monkeypatch.setattr(sqlite, "PACE", 60.0)
    monkeypatch.setattr(sqlite, "sleep", waits.append)
    async with SqliteDatabase.open(tmp_path / "db") as db:
        await db.write("make", lambda c: c.run("CREATE TABLE item (text TEXT)"))
        for text in "abc":
            db.append("put", "INSERT INTO item VALUES (?)", (text,))
            await db.flushed()
        assert waits == []
        for text in "de":
            db.append("put", "INSERT INTO item VALUES (?)", (text,))
        await db.flushed()
        for text, waited in (("f", (1, 2)), ("g", (2,)), ("h", (2,)), ("i", (2,))):  # it waits when all have been told
            db.append("put", "INSERT INTO item VALUES (?)", (text,))
            await db.flushed()
            assert len(waits) in waited
        assert all(0 < wait <= 60.0 for wait in waits)
        assert len(await db.fetch("SELECT text FROM item")) == 9


async def test_a_file_locked_by_another_process_fails_every_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beamish.storage.sqlite.BUSY_SECONDS", 0.05)
    path = tmp_path / "x.db"
    async with SqliteDatabase.open(path) as db:
        await db.write("w", lambda c: c.run(SCHEMA))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        failures: list[Exception] = []
        for n in range(100):
            db.append("a", INSERT, (f"{n}",), failures.append)
        with pytest.raises(StorageUnavailable, match="locked"):
            await db.write("w", lambda c: c.run(INSERT, "x"))
        assert [type(exc) for exc in failures] == [StorageUnavailable] * 100
        other.execute("ROLLBACK")
        other.close()
        assert await db.write("w", lambda c: c.run(INSERT, "x")) == 1


async def test_reads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beamish.storage.sqlite.READS_LIMIT", 3)
    async with SqliteDatabase.open(tmp_path / "x.db") as db:
        results = await asyncio.gather(*(db.fetch("SELECT 1") for _ in range(5)), return_exceptions=True)
        assert results[:3] == [[(1,)]] * 3
        assert [type(result) for result in results[3:]] == [StorageBusy] * 2
        assert await db.fetch("SELECT 1") == [(1,)]


async def test_a_fault_of_the_engine_reaches_those_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteDatabase.open(tmp_path / "x.db") as db:

        def broken(*_: object, **_options: object) -> None:
            raise AssertionError("a fault")

        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr("beamish.storage.engine.Engine.commit", broken)
            with pytest.raises(StorageError, match="a fault"):
                await db.write("w", lambda c: None)
        assert [entry["event"] for entry in logs] == ["commit_failed"]
        assert await db.write("w", lambda c: c.value("SELECT 1")) == 1


def run_python(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 40, 200])
async def test_kill_9_loses_nothing_that_was_durable(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "x.db"
    child = run_python(
        """
        import asyncio, sys
        import uvloop
        from beamish.storage.sqlite import SqliteDatabase

        async def main():
            db = await SqliteDatabase.open(sys.argv[1])
            await db.write("w", lambda c: c.run("CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER)"))
            n = 0
            while True:
                for _ in range(n % 70 + 1):
                    n += 1
                    position = db.append("a", "INSERT INTO item (n) VALUES (?)", (n,))
                db.when_durable(position, lambda n=n: print(n, flush=True))
                await (asyncio.sleep(0) if n % 3 else db.flushed())

        uvloop.run(main())
        """,
        str(path),
    )
    assert child.stdout is not None
    printed = [child.stdout.readline() for _ in range(lines)]
    child.kill()
    printed += child.stdout.read().split()  # what it still said before it died
    child.stdout.close()
    assert child.wait() == -9
    promised = int(printed[-1])
    async with SqliteDatabase.open(path) as db:
        stored = [n for (n,) in await db.fetch("SELECT n FROM item ORDER BY id")]
        assert await db.fetch("PRAGMA integrity_check") == [("ok",)]
    assert stored == list(range(1, len(stored) + 1))  # in order, without gaps
    assert len(stored) >= promised


@pytest.mark.slow
def test_a_program_that_ends_without_close_still_commits(tmp_path: Path) -> None:
    child = run_python(
        """
        import asyncio, sys
        from beamish.storage.api import StorageClosed
        from beamish.storage.sqlite import SqliteDatabase

        async def main():
            global db
            db = await SqliteDatabase.open(sys.argv[1])
            await db.write("w", lambda c: c.run("CREATE TABLE item (n INTEGER)"))
            for n in range(5000):
                db.append("a", "INSERT INTO item VALUES (?)", (n,))

        asyncio.run(main())
        try:
            db.append("a", "INSERT INTO item VALUES (?)", (-1,))
        except StorageClosed:
            print("closed")
        """,
        str(tmp_path / "x.db"),
    )
    out, _ = child.communicate(timeout=30)
    assert (child.returncode, out.split()) == (0, ["closed"])
    conn = sqlite3.connect(tmp_path / "x.db")
    assert conn.execute("SELECT count(*), min(n) FROM item").fetchone() == (5000, 0)
    conn.close()


async def test_what_belongs_to_what_the_loop_has_not_heard_of_is_refused_with_it(tmp_path: Path) -> None:
    """A later tick may be on its way already when the disk refuses something; whoever has heard of that knows what to do."""
    async with SqliteDatabase.open(tmp_path / "x.db") as db:
        await db.write("w", lambda c: c.run(SCHEMA))
        refused: list[str] = []
        going, go = threading.Event(), threading.Event()

        def full(c: Cursor) -> None:
            going.set()
            assert go.wait(10)
            raise StorageUnavailable("the disk is full")

        def put(text: str, *, whole: bool) -> int:
            return db.submit(
                "put", lambda c: (c.run(INSERT, text), None)[1], lambda _: refused.append(text), whole=whole
            )

        db.submit("full", full, lambda _: refused.append("full"))
        await asyncio.to_thread(going.wait, 10)
        for text in ("one", "two"):  # a commit of their own
            put(text, whole=True)
        put("alone", whole=False)
        await asyncio.sleep(0)
        go.set()
        await db.flushed()
        assert refused == ["full", "one", "two"]
        put("heard", whole=True)
        await db.flushed()
        assert refused == ["full", "one", "two"]
        assert await db.fetch("SELECT text FROM item ORDER BY id") == [("alone",), ("heard",)]


async def test_damage_is_told_as_long_as_somebody_meets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a minute, with what to do; what is sound goes on."""
    path = tmp_path / "x.db"
    async with SqliteDatabase.open(path) as db:
        await db.write("w", lambda c: c.run(SCHEMA))
        await db.write("w", lambda c: c.run("CREATE TABLE other (id INTEGER PRIMARY KEY)"))
        await db.write("w", lambda c: c.many(INSERT, [(str(n) * 500,) for n in range(500)]))
        root = await db.write("w", lambda c: c.value("SELECT rootpage FROM sqlite_master WHERE name = 'item'"))
        page = await db.write("w", lambda c: c.value("PRAGMA page_size"))
    with path.open("r+b") as file:
        file.seek((root - 1) * page)
        file.write(b"\xff" * page)
    refused: list[Exception] = []
    with capture_logs() as logs:
        async with SqliteDatabase.open(path) as db:
            for attempt in ("append", "submit", "write", "read", "fetch", "later"):
                if attempt == "append":
                    db.append("t", INSERT, ("x",), refused.append)
                elif attempt == "submit":
                    db.submit("t", lambda c: c.many(INSERT, [("y",)]), refused.append)
                elif attempt == "fetch":
                    with pytest.raises(StorageDamaged):
                        await db.fetch("SELECT COUNT(text) FROM item NOT INDEXED")
                else:
                    if attempt == "later":
                        monkeypatch.setattr(commits, "DAMAGE_EVERY", 0.0)
                    call = db.read if attempt == "read" else db.write
                    with pytest.raises(StorageDamaged):
                        await call("t", lambda c: c.value("SELECT COUNT(text) FROM item NOT INDEXED"))
                await db.flushed()
                assert [entry["event"] for entry in logs] == ["database_damaged"] * (2 if attempt == "later" else 1)
            await db.write("w", lambda c: c.run("INSERT INTO other VALUES (1)"))
    assert [type(exc) for exc in refused] == [StorageDamaged, StorageDamaged]
    assert "restore a backup" in logs[0]["advice"]
