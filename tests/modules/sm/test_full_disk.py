"""A disk that is really full, under a whole server: what is acknowledged is in the file, and order is kept."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.disk import room_for, room_for_all
from tests.modules.sm.conftest import CALM, SM, managed, say

from beamish.core.gather import RETRY_SECONDS
from beamish.modules.mam import merging
from beamish.modules.sm import log
from beamish.storage.sqlite import SqliteDatabase
from beamish.testing.client import Client
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World

JULIET, ROMEO = "juliet@example.org/balcony", "romeo@example.org/orchard"


def acknowledged(client: Client) -> int:
    return max((int(el.get("h") or 0) for el in client.inbox if el.tag == f"{{{SM}}}a"), default=0)


def committed(path: Path, copy: Path) -> None:
    """A copy of what a crash would leave of a database."""
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as there, closing(sqlite3.connect(copy)) as made:
        there.backup(made)
    copy.chmod(0o600)


async def in_file(path: Path) -> tuple[int, int]:
    """Messages that a start after a crash would find in the sender's archive, and waiting for the receiver's confirmation."""
    copy = path.with_name("copy.db")
    committed(path, copy)
    async with SqliteDatabase.open(copy) as db:
        while (await db.write("merge", lambda c: merging.merge(c, 1 << 60, 1 << 60)))[0]:
            pass
        await db.write("fold", lambda c: log.read(c).run(c))
        [(archived,)] = await db.fetch(
            "SELECT COALESCE(SUM(messages), 0) FROM mam_account WHERE jid = 'romeo@example.org'"
        )
        [(streamed,)] = await db.fetch("SELECT COUNT(*) FROM sm_message WHERE CAST(wire AS TEXT) LIKE '%<body>%'")
    return archived, streamed


@pytest.mark.parametrize("room", [2, 20])
async def test_nothing_is_acknowledged_that_a_full_disk_has_not_taken(
    tmp_path: Path, expected_errors: ExpectedErrors, room: int
) -> None:
    expected_errors.events |= {"rows_not_stored_yet", "sessions_not_stored"}
    path = tmp_path / "x.db"
    async with SqliteDatabase.open(path) as db, World(database=db, settings={"c2s": CALM}) as world:
        juliet, _ = await managed(world, JULIET)
        romeo, _ = await managed(world, ROMEO)
        await room_for(db, room)
        for number in range(60):
            say(romeo, JULIET, f"{number}" + "x" * (20_000 if number % 7 == 3 else 10))  # some would find room
            romeo.send(f"<r xmlns='{SM}'/>")
            await world.settle()
            if number % 5 == 0:
                await db.flushed()
                await world.pass_time(RETRY_SECONDS)
                await db.flushed()
                await world.settle()
                told = acknowledged(romeo)
                archived, streamed = await in_file(path)
                assert archived >= told
                assert streamed >= told
        assert acknowledged(romeo) < 60
        await room_for_all(db)
        for _ in range(6):
            await world.pass_time(RETRY_SECONDS)
            await db.flushed()
            await asyncio.sleep(0)
        await world.settle()
        assert acknowledged(romeo) == 60
        assert await in_file(path) == (60, 60)
        arrived = [el.findtext("{jabber:client}body") or "" for el in juliet.inbox if "message" in el.tag]
        assert [int(text.rstrip("x")) for text in arrived] == list(range(60))
