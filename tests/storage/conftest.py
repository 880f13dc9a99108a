from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from beamish.storage.memory import MemoryDatabase
from beamish.storage.sqlite import SqliteDatabase

AnyDatabase = MemoryDatabase | SqliteDatabase


@pytest.fixture(params=["memory", "sqlite-file", "sqlite-memory"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyDatabase]:
    """An open database with one table, on each engine."""
    if request.param == "memory":
        opening = MemoryDatabase(queue_limit=3_000, queue_bytes=1_000_000)
    else:
        path = ":memory:" if request.param == "sqlite-memory" else tmp_path / "test.db"
        opening = SqliteDatabase.open(path, queue_limit=3_000, queue_bytes=1_000_000)
    async with opening as opened:
        await opened.write(
            "test.schema", lambda c: c.run("CREATE TABLE item (id INTEGER PRIMARY KEY, text TEXT UNIQUE)")
        )
        yield opened
