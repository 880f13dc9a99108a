"""A database with the tables of the archive and nothing in them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from beamish.modules.mam import store
from beamish.storage.memory import MemoryDatabase
from beamish.storage.migrate import migrate


@pytest_asyncio.fixture
async def db() -> AsyncIterator[MemoryDatabase]:
    async with MemoryDatabase() as made:
        await migrate(made, "mam", store.MIGRATIONS)
        yield made
