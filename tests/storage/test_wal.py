from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from beamish.storage import sqlite, wal
from beamish.storage.sqlite import SqliteDatabase

SCHEMA = "CREATE TABLE item (id INTEGER PRIMARY KEY, text TEXT)"
INSERT = "INSERT INTO item (text) VALUES (?)"


@pytest.fixture(autouse=True)
def no_thrift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "_SPARE", 0)  # whatever the disk under the tests has left


async def test_the_log_gets_its_size_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    log = tmp_path / "x.db-wal"
    async with SqliteDatabase.open(path) as db:
        await db.write("w", lambda c: c.run(SCHEMA))
        assert log.stat().st_size < wal.STEP
        await db.reserve_log()
        size = log.stat().st_size
        assert size > 16_000_000
        for number in range(20):
            rows = [(f"{number} {k} " * 1_000,) for k in range(100)]
            await db.write("w", lambda c: c.many(INSERT, rows))  # noqa: B023
        assert log.stat().st_size <= sqlite._WAL_KEEP
        assert await db.fetch("SELECT COUNT(*) FROM item") == [(2_000,)]
        await db.reserve_log()  # a second time changes nothing
        assert log.stat().st_size >= size


async def test_what_was_committed_before_and_after_is_found_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SqliteDatabase.open(path) as db:
        await db.write("w", lambda c: c.run(SCHEMA))
        await db.write("w", lambda c: c.run(INSERT, "before"))
        await db.reserve_log()
        await db.write("w", lambda c: c.run(INSERT, "after"))
        other = tmp_path / "crashed"
        other.mkdir()
        for name in ("x.db", "x.db-wal"):  # what a disk holds when the machine stops
            shutil.copy(tmp_path / name, other / name)
    async with SqliteDatabase.open(other / "x.db") as db:
        assert await db.fetch("SELECT text FROM item ORDER BY id") == [("before",), ("after",)]
        await db.write("w", lambda c: c.run(INSERT, "later"))
        assert await db.fetch("SELECT COUNT(*) FROM item") == [(3,)]


async def test_a_log_of_nothing_but_zeros_is_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SqliteDatabase.open(path) as db:
        await db.write("w", lambda c: c.run(SCHEMA))
    (tmp_path / "x.db-wal").write_bytes(bytes(wal.STEP))  # killed between its start and its first commit
    async with SqliteDatabase.open(path) as db:
        await db.write("w", lambda c: c.run(INSERT, "first"))
        assert await db.fetch("SELECT text FROM item") == [("first",)]


async def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "_SPARE", 1 << 40)
    async with SqliteDatabase.open(tmp_path / "x.db") as db:
        await db.write("w", lambda c: c.run(SCHEMA))
        await db.reserve_log()
        assert (tmp_path / "x.db-wal").stat().st_size < wal.STEP


async def test_a_disk_that_refuses_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    async with SqliteDatabase.open(tmp_path / "x.db") as db:
        await db.write("w", lambda c: c.run(SCHEMA))
        monkeypatch.setattr(os, "pwrite", refuse)
        with capture_logs() as logs:
            await db.reserve_log()
        assert [entry["event"] for entry in logs] == ["log_not_reserved"]
        await db.write("w", lambda c: c.run(INSERT, "all the same"))


async def test_a_database_in_memory_has_none() -> None:
    async with SqliteDatabase.open(":memory:") as db:
        await db.reserve_log()
