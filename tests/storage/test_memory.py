from __future__ import annotations

import asyncio

import pytest

from beamish.storage.api import StorageUnavailable
from beamish.storage.memory import MemoryDatabase

INSERT = "INSERT INTO item (text) VALUES (?)"


async def prepared() -> MemoryDatabase:
    db = MemoryDatabase()
    await db.write("test.schema", lambda c: c.run("CREATE TABLE item (id INTEGER PRIMARY KEY, text TEXT UNIQUE)"))
    return db


async def test_nothing_is_committed_within_the_same_iteration() -> None:
    async with await prepared() as db:
        position = db.append("a", INSERT, ("a",))
        assert await db.fetch("SELECT text FROM item") == []
        await db.flushed()
        assert db.durable == position
        assert await db.fetch("SELECT text FROM item") == [("a",)]


async def test_hold_keeps_commits_back_until_release() -> None:
    async with await prepared() as db:
        before = db.append("a", INSERT, ("before",))
        with db.held():
            position = db.append("a", INSERT, ("a",))
            write = asyncio.ensure_future(db.write("w", lambda c: c.run(INSERT, "b")))
            for _ in range(10):
                await asyncio.sleep(0)
            assert db.durable < before
            assert not write.done()
            assert await db.fetch("SELECT text FROM item") == []
        assert db.durable < position
        assert await write == 1
        assert await db.fetch("SELECT text FROM item ORDER BY id") == [("before",), ("a",), ("b",)]


async def test_close_ends_a_hold() -> None:
    db = await prepared()
    called: list[str] = []
    db.hold()
    db.when_durable(db.append("a", INSERT, ("a",)), lambda: called.append("durable"))
    await db.close()
    assert called == ["durable"]


async def test_a_disk_that_refuses_takes_everything_again_behind_the_block() -> None:
    async with await prepared() as db:
        with db.refusing():
            for _ in range(3):
                with pytest.raises(StorageUnavailable, match="the disk is full"):
                    await db.write("w", lambda c: c.run(INSERT, "a"))
        await db.write("w", lambda c: c.run(INSERT, "b"))
        assert await db.fetch("SELECT text FROM item") == [("b",)]


async def test_fail_next_fails_so_many_jobs_and_no_others() -> None:
    async with await prepared() as db:
        failures: list[tuple[str, Exception]] = []
        full = OSError("disk full")
        db.fail_next(full, jobs=3)
        for text in ("a", "b"):
            db.append("a", INSERT, (text,), lambda exc, text=text: failures.append((text, exc)))
        await db.flushed()
        with pytest.raises(OSError, match="disk full"):
            await db.write("w", lambda c: c.run(INSERT, "c"))
        await db.write("w", lambda c: c.run(INSERT, "d"))
        assert failures == [("a", full), ("b", full)]
        assert await db.fetch("SELECT text FROM item") == [("d",)]
        with pytest.raises(ValueError, match="at least one"):
            db.fail_next(full, jobs=0)
