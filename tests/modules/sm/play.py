"""What a crash would leave, as the next start of the server would find it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from beamish.modules.mam import store
from beamish.modules.sm import log
from beamish.storage.memory import MemoryDatabase


@asynccontextmanager
async def after_a_crash(db: Any) -> AsyncIterator[MemoryDatabase]:
    """A copy of what is on disk, with the logs of archive and stream management brought to their places."""
    assert isinstance(db, MemoryDatabase)
    async with db.copy() as copy:
        if await copy.fetch("SELECT 1 FROM sqlite_master WHERE name = 'mam_log'"):
            while (await copy.write("merge", lambda c: store.merge(c, 1 << 60, 1 << 60)))[0]:
                pass
        await copy.write("fold", lambda c: log.read(c).run(c))
        yield copy


async def unconfirmed(db: Any) -> list[bytes]:
    """The messages on disk that sessions have not confirmed, in the order of sending."""
    async with after_a_crash(db) as left:
        return [bytes(wire) for (wire,) in await left.fetch("SELECT wire FROM sm_message ORDER BY id")]
