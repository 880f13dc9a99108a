from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog

from beamish.storage.api import DatabaseTooNew, Migration, MigrationChanged, StorageError
from beamish.storage.migrate import checksum, migrate
from beamish.storage.sqlite import SqliteDatabase

ONE = Migration(1, ("CREATE TABLE note (id {pk}, at {timestamp} NOT NULL, wire {bytes} NOT NULL DEFAULT '{}')",))
TWO = Migration(2, ("ALTER TABLE note ADD COLUMN read INTEGER", "CREATE INDEX note_at ON note (at)"))


async def test_migrations_are_applied_once_and_recorded(db: Any) -> None:
    assert await migrate(db, "notes", [ONE], now=lambda: 5.0) == 1
    assert await migrate(db, "notes", [ONE], now=lambda: 6.0) == 0
    assert await migrate(db, "notes", [ONE, TWO], now=lambda: 7.0) == 1
    assert await db.fetch("SELECT owner, version, checksum, applied_at FROM beamish_schema ORDER BY version") == [
        ("notes", 1, checksum(ONE), 5.0),
        ("notes", 2, checksum(TWO), 7.0),
    ]
    types = await db.fetch("SELECT name, type FROM pragma_table_info('note')")
    assert types == [("id", "INTEGER"), ("at", "REAL"), ("wire", "BLOB"), ("read", "INTEGER")]
    await db.write("w", lambda c: c.run("INSERT INTO note (at) VALUES (1.5)"))
    assert await db.fetch("SELECT wire FROM note") == [("{}",)]


async def test_keys_are_never_given_twice(db: Any) -> None:
    await migrate(db, "notes", [ONE])
    insert = "INSERT INTO note (at) VALUES (0) RETURNING id"
    first = await db.write("w", lambda c: c.value(insert))
    await db.write("w", lambda c: c.run("DELETE FROM note"))
    assert await db.write("w", lambda c: c.value(insert)) == first + 1


async def test_owners_do_not_meet(db: Any) -> None:
    await migrate(db, "notes", [ONE, TWO])
    assert await migrate(db, "other", [Migration(1, ("CREATE TABLE other (id {pk})",))]) == 1
    assert await migrate(db, "notes", [ONE, TWO]) == 0


async def test_an_edited_migration_is_refused_but_not_a_new_layout(db: Any) -> None:
    await migrate(db, "notes", [ONE])
    assert await migrate(db, "notes", [Migration(1, (ONE.statements[0].replace(", ", ",\n    "),))]) == 0
    edited = Migration(1, (ONE.statements[0].replace("NOT NULL", ""),))
    with pytest.raises(MigrationChanged, match="migration 1 of 'notes'"):
        await migrate(db, "notes", [edited, TWO])
    assert await db.fetch("SELECT version FROM beamish_schema") == [(1,)]


async def test_a_newer_database_is_refused_untouched(db: Any) -> None:
    await migrate(db, "notes", [ONE, TWO])
    with pytest.raises(DatabaseTooNew, match=r"version 2 .*'notes'.* newer than 1.*Install .*backup"):
        await migrate(db, "notes", [ONE])
    assert await migrate(db, "notes", [ONE, TWO]) == 0


async def test_a_failing_migration_leaves_no_trace(db: Any) -> None:
    broken = Migration(2, ("CREATE TABLE half (id {pk})", "CREATE TABLE half (id {pk})"))
    with pytest.raises(StorageError, match="migration 2 of 'notes' failed"):
        await migrate(db, "notes", [ONE, broken])
    assert await db.fetch("SELECT version FROM beamish_schema") == [(1,)]
    assert await db.fetch("SELECT name FROM sqlite_master WHERE name = 'half'") == []
    assert await migrate(db, "notes", [ONE, TWO]) == 1


async def test_a_gap_in_the_record_is_refused(db: Any) -> None:
    await migrate(db, "notes", [ONE, TWO])
    await db.write("w", lambda c: c.run("DELETE FROM beamish_schema WHERE version = 1"))
    with pytest.raises(StorageError, match="gaps"):
        await migrate(db, "notes", [ONE, TWO])


@pytest.mark.parametrize(
    ("migrations", "complaint"),
    [
        ([TWO], "migration 1 of 'notes' is numbered 2"),
        ([ONE, ONE], "migration 2 of 'notes' is numbered 1"),
        ([Migration(1, ())], "needs a tuple of statements"),
        ([Migration(1, "CREATE TABLE x (a)")], "needs a tuple of statements"),
        ([Migration(1, ("CREATE TABLE x (a {text})",))], r"unknown placeholder \{text\}"),
    ],
)
async def test_mistakes_of_the_author_are_found_before_anything_is_done(
    db: Any, migrations: list[Migration], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        await migrate(db, "notes", migrations)
    assert await db.fetch("SELECT name FROM sqlite_master WHERE name = 'beamish_schema'") == []


async def test_two_programs_may_migrate_at_once(tmp_path: Path) -> None:
    async with SqliteDatabase.open(tmp_path / "x.db") as one, SqliteDatabase.open(tmp_path / "x.db") as two:
        applied = await asyncio.gather(migrate(one, "notes", [ONE, TWO]), migrate(two, "notes", [ONE, TWO]))
        assert sum(applied) == 2
        assert len(await two.fetch("SELECT version FROM beamish_schema")) == 2


async def test_new_tables_are_no_news_and_changed_ones_are(db: Any) -> None:
    with structlog.testing.capture_logs() as told:
        await migrate(db, "notes", [ONE])
        await migrate(db, "notes", [ONE, TWO])
    assert [(event["version"], event["log_level"]) for event in told] == [(1, "debug"), (2, "info")]
