"""Servers that go down in order or by a crash, and what the next start finds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.modules.sm.conftest import CALM

from beamish.modules.mam import merging
from beamish.modules.sm import log
from beamish.storage.memory import MemoryDatabase
from beamish.testing.world import World


@asynccontextmanager
async def after_a_crash(db: Any) -> AsyncIterator[MemoryDatabase]:
    """A copy of what is on disk, with the logs of archive and stream management brought to their places."""
    assert isinstance(db, MemoryDatabase)
    async with db.copy() as copy:
        if await copy.fetch("SELECT 1 FROM sqlite_master WHERE name = 'mam_log'"):
            while (await copy.write("merge", lambda c: merging.merge(c, 1 << 60, 1 << 60)))[0]:
                pass
        await copy.write("fold", lambda c: log.read(c).run(c))
        yield copy


async def unconfirmed(db: Any) -> list[bytes]:
    """The messages on disk that sessions have not confirmed, in the order of sending."""
    async with after_a_crash(db) as left:
        return [bytes(wire) for (wire,) in await left.fetch("SELECT wire FROM sm_message ORDER BY id")]


@asynccontextmanager
async def after_stop(world: World, *, later: float = 0.0, **more: Any) -> AsyncIterator[World]:
    """Stop the server in an orderly way and start it anew on what it left."""
    db = world.db
    assert isinstance(db, MemoryDatabase)
    await world.__aexit__(None, None, None)
    async with _again(world, db, later, more) as new:
        yield new


@asynccontextmanager
async def after_crash(world: World, *, later: float = 0.0, **more: Any) -> AsyncIterator[World]:
    """A server on what a crash at this moment would leave of another one."""
    assert isinstance(world.db, MemoryDatabase)
    async with _again(world, world.db.copy(), later, more) as new:
        yield new


@asynccontextmanager
async def _again(world: World, db: MemoryDatabase, later: float, more: dict[str, Any]) -> AsyncIterator[World]:
    new = World(database=db, settings={"c2s": CALM}, **more)
    new.clock.advance(world.clock.now() - new.clock.now() + later)
    async with new:
        yield new


@asynccontextmanager
async def first_world(**more: Any) -> AsyncIterator[World]:
    """A server whose database the test goes on with; it is stopped by `after_stop`, or left behind by `after_crash`."""
    async with MemoryDatabase() as db:
        world = World(database=db, settings={"c2s": CALM}, **more)
        await world.__aenter__()
        yield world
