"""What a store of rooms must do, whatever it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from beamish.modules.muc.archive import OLD, SUBJECT_CHANGE, TALK, TRIM, Archive, Query
from beamish.modules.muc.config_form import RoomConfig
from beamish.modules.muc.hats import Hat
from beamish.modules.muc.history import Kept, Subject
from beamish.modules.muc.privileges import Affiliation, Standing
from beamish.modules.muc.store import MIGRATIONS, SqlRoomStore, StoredRoom
from beamish.storage.memory import MemoryDatabase
from beamish.storage.migrate import migrate
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.rsm import Request
from beamish.xmpp.stanza import MESSAGE, Stanza

ROOM, OTHER = JID("cave@c.example.org"), JID("heath@c.example.org")
ANN, BOB = JID("ann@example.org"), JID("bob@example.org")


@pytest_asyncio.fixture
async def db() -> AsyncIterator[MemoryDatabase]:
    made = MemoryDatabase()
    await migrate(made, "muc", MIGRATIONS)
    yield made
    await made.close()


def stored(jid: JID = ROOM, *, persistent: bool = True) -> StoredRoom:
    standings = ((ANN, Standing(Affiliation.OWNER)),)
    return StoredRoom(jid, ANN, 12.5, RoomConfig(persistent=persistent, name="N"), b"\x00secret", standings=standings)


def kept(uid: str, when: float = 1.0) -> Kept:
    content = f"<body>{uid}</body>".encode()
    return Kept(uid, when, Stanza.build(MESSAGE, "groupchat", sender=ROOM.with_resource("n"), content=content), ANN)


async def test_a_room_is_read_as_it_was_written(db: MemoryDatabase) -> None:
    store = SqlRoomStore(db)
    await store.create(stored())
    await store.save(
        ROOM,
        RoomConfig(persistent=True, name="M"),
        [(BOB, Standing(Affiliation.MEMBER, "b", "why")), (JID("bad.example"), Standing(Affiliation.OUTCAST))],
    )
    store.set_subject(ROOM, Subject(b"<subject>S</subject>", ROOM.with_resource("n"), b"<o/>", 7.0, "S"))
    await store.set_vcard(ROOM, b"<v/>", ["h1", "h2"])
    await store.set_hat(ROOM, Hat("u:1", "Host", "3"))
    await store.set_hat(ROOM, Hat("u:1", "Guest"))
    await store.set_wearer(ROOM, BOB, "u:1", True)
    await store.set_wearer(ROOM, BOB, "u:1", True)
    store.came(ROOM, "b", BOB)
    store.came(ROOM, "a", ANN)
    store.went(ROOM, "a")
    await db.flushed()
    (room,) = await store.load()
    assert (room.jid, room.creator, room.created, room.secret) == (ROOM, ANN, 12.5, b"\x00secret")
    assert room.config.name == "M"
    assert dict(room.standings) == {
        ANN: Standing(Affiliation.OWNER),
        BOB: Standing(Affiliation.MEMBER, "b", "why"),
        JID("bad.example"): Standing(Affiliation.OUTCAST),
    }
    assert room.subject == Subject(b"<subject>S</subject>", ROOM.with_resource("n"), b"<o/>", 7.0, "S")
    assert (room.avatars, room.hats, room.wearers) == (("h1", "h2"), (Hat("u:1", "Guest"),), ((BOB, "u:1"),))
    assert room.occupants == (("b", BOB),)
    assert await store.vcard(ROOM) == b"<v/>"
    assert await store.vcard(OTHER) == b""


async def test_deleted_is_deleted(db: MemoryDatabase) -> None:
    store, archive = SqlRoomStore(db), Archive(db)
    for jid in (ROOM, OTHER):
        await store.create(stored(jid))
        archive.append(jid, kept("u1"), ANN, TALK, True)
        await store.set_hat(jid, Hat("u:1", "Host"))
        await store.set_wearer(jid, BOB, "u:1", True)
    await store.delete(ROOM)
    assert [room.jid for room in await store.load()] == [OTHER]
    for table in ("muc_archive", "muc_hat", "muc_wearer", "muc_standing"):
        assert {row[0] for row in await db.fetch(f"SELECT room FROM {table}")} == {OTHER}, table
    store.forget(OTHER)
    await db.flushed()
    assert await store.load() == []


async def test_a_new_room_has_nothing_of_an_old_one(db: MemoryDatabase) -> None:
    store = SqlRoomStore(db)
    await store.create(stored())
    await store.save(ROOM, None, [(BOB, Standing(Affiliation.ADMIN))])
    await store.create(stored())
    (room,) = await store.load()
    assert dict(room.standings) == {ANN: Standing(Affiliation.OWNER)}


async def test_history_is_the_last_talk_including_what_is_on_its_way(db: MemoryDatabase) -> None:
    archive = Archive(db)
    for n in range(5):
        archive.append(ROOM, kept(f"u{n}", n), ANN, TALK, True)
    archive.append(ROOM, kept("s"), ANN, SUBJECT_CHANGE, True)
    archive.append(OTHER, kept("u9"), ANN, TALK, True)
    got = await archive.history(ROOM, 3)
    assert [k.uid for k in got] == ["u2", "u3", "u4"]
    assert got[0].stanza.sender == ROOM.with_resource("n") and got[0].bare == ANN


async def test_trim_and_expire(db: MemoryDatabase) -> None:
    await SqlRoomStore(db).create(stored())
    archive = Archive(db)
    for n in range(6):
        archive.append(ROOM, kept(f"u{n}", float(n)), ANN, TALK, n < 2)
    archive.trim(ROOM, 2)
    await db.flushed()
    uids = [row[0] for row in await db.fetch("SELECT uid FROM muc_archive ORDER BY id")]
    assert uids == ["u0", "u1", "u4", "u5"], "what is archived stays, whatever the history needs"
    await archive.expire(4.5)
    assert [row[0] for row in await db.fetch("SELECT uid FROM muc_archive")] == ["u5"]


async def test_what_is_kept_for_history_alone_is_trimmed_without_a_look_at_the_archive(db: MemoryDatabase) -> None:
    """A room of a million archived messages whose owner ends that must not be read through for every fifty."""
    plan = [row[3] for row in await db.fetch(f"EXPLAIN QUERY PLAN {TRIM}", str(ROOM), str(ROOM), TALK, 2)]
    assert plan[0].startswith("SEARCH muc_archive USING") and "INDEX muc_archive_unlogged (room=?)" in plan[0], plan
    assert not any(step.startswith("SCAN") or "TEMP B-TREE" in step for step in plan), plan


async def test_old_messages_are_deleted_with_the_index_and_a_few_at_a_time(
    db: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await SqlRoomStore(db).create(stored())
    archive = Archive(db)
    for n in range(5):
        archive.append(ROOM, kept(f"u{n}", float(n)), ANN, TALK, True)
    await SqlRoomStore(db).create(replace(stored(), jid=OTHER))
    archive.append(OTHER, kept("o0", 0.0), ANN, TALK, True)
    archive.append(OTHER, kept("o9", 9.0), ANN, TALK, True)
    monkeypatch.setattr("beamish.modules.muc.archive.EXPIRE_AT_ONCE", 3)
    monkeypatch.setattr("beamish.modules.muc.archive.EXPIRE_ROOMS", 1)
    deleted: list[int] = []
    write = db.write

    async def counted(name: str, fn: Any) -> Any:
        before = len(await db.fetch("SELECT id FROM muc_archive"))
        result = await write(name, fn)
        deleted.append(before - len(await db.fetch("SELECT id FROM muc_archive")))
        return result

    monkeypatch.setattr(db, "write", counted)
    await archive.expire(9.0)
    assert deleted == [3, 2, 1], "a few in each transaction, and none where nothing is old"
    assert [row[0] for row in await db.fetch("SELECT uid FROM muc_archive")] == ["o9"]
    await archive.expire(9.0)
    assert len(deleted) == 3
    plan = await db.fetch(f"EXPLAIN QUERY PLAN {OLD}", "", 500, 9.0, 3)
    steps = [row[3] for row in plan]
    assert any("muc_archive_stamp" in step for step in steps) and "SCAN a" not in steps, steps


async def test_what_is_kept_for_history_alone_is_not_in_the_archive(db: MemoryDatabase) -> None:
    archive = Archive(db)
    archive.append(ROOM, kept("u0"), ANN, TALK, False)
    archive.append(ROOM, kept("u1"), ANN, TALK, True)
    result = await archive.query(ROOM, Query())
    assert [row.uid for row in result.rows] == ["u1"] and result.complete
    assert await archive.ends(ROOM) == (("u1", 1.0), ("u1", 1.0))
    assert await archive.ends(OTHER) is None


async def test_a_page_is_bounded_in_bytes(db: MemoryDatabase) -> None:
    archive = Archive(db)
    for n in range(5):
        content = b"<body>" + b"x" * 400_000 + b"</body>"
        big = Kept(
            f"u{n}", 1.0, Stanza.build(MESSAGE, "groupchat", sender=ROOM.with_resource("n"), content=content), ANN
        )
        archive.append(ROOM, big, ANN, TALK, True)
    first = await archive.query(ROOM, Query())
    assert [row.uid for row in first.rows] == ["u0", "u1"] and not first.complete
    last = await archive.query(ROOM, Query(page=Request(before="")))
    assert [row.uid for row in last.rows] == ["u3", "u4"] and not last.complete


async def test_only_the_author_retracts(db: MemoryDatabase) -> None:
    archive = Archive(db)
    archive.append(ROOM, kept("u0"), ANN, TALK, True)
    archive.retract(ROOM, "u0", BOB, "r", 1.0)
    assert b"<body>" in (await archive.query(ROOM, Query())).rows[0].stanza
    archive.retract(ROOM, "u0", ANN, "r", 1.0)
    row = (await archive.query(ROOM, Query())).rows[0]
    assert b"<body>" not in row.stanza and b"<retracted" in row.stanza
    assert await archive.history(ROOM, 10) == []
