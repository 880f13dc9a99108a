"""Boxes, rows and pages, below the sessions and streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.modules.offline.kit import JULIET, NOW, insert

from beamish.core.tasks import TaskGroup
from beamish.modules.offline import store
from beamish.modules.offline.store import Box, Page, Store, StoredMessage
from beamish.storage.api import Database
from beamish.storage.memory import MemoryDatabase
from beamish.storage.migrate import migrate
from beamish.storage.sqlite import SqliteDatabase
from beamish.testing.plugin import ExpectedErrors
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

DELAY = b"<delay xmlns='urn:xmpp:delay' from='example.org' stamp='2023-11-14T22:13:20.250Z'/>"


@pytest_asyncio.fixture(params=["memory", "file"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    opened: Any = MemoryDatabase() if request.param == "memory" else SqliteDatabase.open(tmp_path / "x.db")
    async with opened as database:
        await migrate(database, "offline", store.MIGRATIONS)
        yield database


def made(db: Database, **limits: int) -> Store:
    given = {"max_messages": 1_000, "max_bytes": 1_000_000} | limits
    return Store(db, TaskGroup("test"), given["max_messages"], given["max_bytes"])


def message(text: str) -> Stanza:
    start = f"<message type='chat' id='{text}' from='romeo@example.org/orchard' to='{JULIET}'>"
    return Stanza.parse(f"{start}<body>{text}</body></message>".encode())


def put(kept: Store, box: Box, *texts: str) -> None:
    for text in texts:
        kept.append(box, message(text), NOW, lambda _: None)


def ids(page: Page) -> list[str]:
    return [StoredMessage(wire, page).id for wire in page.wires]


async def on_disk(db: Database) -> list[bytes]:
    await db.flushed()
    return [bytes(wire) for (wire,) in await db.fetch("SELECT wire FROM offline_message ORDER BY id LIMIT 9999")]


# ---- rows -----------------------------------------------------------------------------------------------------------


async def test_a_row_is_what_its_receiver_will_see(db: Database) -> None:
    kept = made(db)
    box = kept.box(JULIET)
    put(kept, box, "one")
    wire = message("one").to_wire()
    assert await on_disk(db) == [wire[: -len(b"</message>")] + DELAY + b"</message>"]
    page = await kept.page(box)
    assert page.wires == await on_disk(db)
    assert (page.count, page.bytes, page.more) == (1, len(page.wires[0]), False)


async def test_a_message_without_children_gets_its_stamp(db: Database) -> None:
    kept = made(db)
    kept.append(kept.box(JULIET), Stanza.build("message"), NOW, lambda _: None)
    assert await on_disk(db) == [b"<message>" + DELAY + b"</message>"]


async def test_one_that_was_handed_back_keeps_the_time_of_before(db: Database) -> None:
    kept = made(db)
    box = kept.box(JULIET)
    put(kept, box, "one")
    before = await kept.page(box)
    kept.remove(box, before, soon=True)
    kept.append(box, StoredMessage(before.wires[0], before), NOW + 60, lambda _: None)
    assert await on_disk(db) == before.wires


async def test_rows_of_before_the_stamp_was_stored_get_theirs(db: Database) -> None:
    """Their time is a column; others among them were handed back, or carry somebody else's stamp."""
    plain = b"<message type='chat' id='a'><body>a</body></message>"
    foreign = (
        b"<message id='b'><body>b</body><delay xmlns='urn:xmpp:delay' from='x.org' stamp='2001-01-01T00:00:00Z'/>"
        b"</message>"
    )
    own = (
        b"<message id='c'><delay xmlns='urn:xmpp:delay' from='example.org' stamp='2001-01-01T00:00:00Z'/>"
        b"<body>c</body></message>"
    )
    await insert(db, plain, foreign, own)
    kept = made(db)
    box = kept.box(JULIET)
    put(kept, box, "d")
    page = await kept.page(box)
    assert page.wires[:3] == [
        plain[:-10] + DELAY + plain[-10:],
        foreign[:-10] + DELAY + foreign[-10:],
        own,
    ]
    assert ids(page) == ["a", "b", "c", "d"]
    assert page.wires[3].count(b"<delay") == 1
    kept.remove(box, page, soon=True)
    assert await on_disk(db) == []
    assert (box.count, box.bytes) == (0, 0)


@pytest.mark.parametrize(
    "damage",
    [
        b"<message",
        b"",
        b"\x1e\x1e",
        b"<message><body>no XML has such a character: \x1e</body></message>",
        b"<message><body>" + DELAY + b"\x1e</body>" + DELAY + b"</message>",
    ],
)
async def test_damaged_rows_are_left_out_and_removed(
    db: Database, expected_errors: ExpectedErrors, damage: bytes
) -> None:
    expected_errors.add("offline_message_damaged")
    kept = made(db)
    box = kept.box(JULIET)
    put(kept, box, "a")
    await db.flushed()
    await insert(db, damage)
    put(kept, box, "b")
    page = await kept.page(box)
    assert (ids(page), page.count) == (["a", "b"], 3)
    kept.remove(box, page, soon=True)
    assert await on_disk(db) == []


# ---- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("under_way", [True, False])
async def test_pages_come_in_order_and_end_where_they_must(
    db: Database, monkeypatch: pytest.MonkeyPatch, known: bool, under_way: bool
) -> None:
    monkeypatch.setattr(store, "PAGE", 3)
    kept = made(db)
    box = kept.box(JULIET)
    if known:
        await kept.know(box)
    put(kept, box, *map(str, range(8)))
    if not under_way:
        await db.flushed()
    seen = []
    while True:
        page = await kept.page(box)
        seen.append((ids(page), page.more))
        kept.remove(box, page, soon=True)
        if not under_way:
            await db.flushed()
        if not page.more:
            break
    assert seen == [(["0", "1", "2"], True), (["3", "4", "5"], True), (["6", "7"], False)]
    assert (box.count, box.bytes, await on_disk(db)) == (0, 0, [])


async def test_what_is_queued_is_seen_and_nothing_waits_for_others(db: Database) -> None:
    kept = made(db)
    box, other = kept.box(JULIET), kept.box(JID.parse("nurse@example.org"))
    await kept.know(box)
    put(kept, box, "1")
    await db.flushed()
    if isinstance(db, MemoryDatabase):
        db.hold()
    put(kept, other, "x")
    page = await asyncio.wait_for(kept.page(box), 5)
    assert ids(page) == ["1"], "what waits for the disk is none of its business"
    put(kept, box, "2")
    reading = asyncio.ensure_future(kept.page(box))
    await asyncio.sleep(0)
    if isinstance(db, MemoryDatabase):
        await asyncio.sleep(0)
        assert not reading.done(), "it must see what was queued before"
        db.release()
    assert ids(await reading) == ["1", "2"]


async def test_a_removal_under_way_is_seen(db: Database) -> None:
    kept = made(db)
    box = kept.box(JULIET)
    put(kept, box, "1")
    page = await kept.page(box)
    kept.remove(box, page, soon=True)
    put(kept, box, "2")
    assert ids(await kept.page(box)) == ["2"]


async def test_what_comes_while_a_page_is_read_is_known_to_have_come(db: Database) -> None:
    kept = made(db)
    box = kept.box(JULIET)
    put(kept, box, "1")
    await kept.know(box)
    await db.flushed()
    reading = asyncio.ensure_future(kept.page(box))
    await asyncio.sleep(0)
    put(kept, box, "2")
    page = await reading
    assert box.added > page.upto
    assert ids(page) in (["1"], ["1", "2"])
    kept.remove(box, page, soon=True)
    rest = await kept.page(box)
    assert ids(page) + ids(rest) == ["1", "2"]
    assert box.added <= rest.upto


# ---- counting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("number", [0, 1, 3])
async def test_what_comes_while_the_box_is_counted_counts_once(
    db: Database, monkeypatch: pytest.MonkeyPatch, number: int, seen: bool
) -> None:
    """A reader may have seen it or not; then the count is made in the queue of writes, where that is certain."""
    first = made(db)
    put(first, first.box(JULIET), "old")
    await db.flushed()
    began, counted = asyncio.Event(), asyncio.Event()
    read = db.read

    async def slow(name: str, fn: Any) -> Any:
        began.set()
        if seen:
            await counted.wait()
        found = await read(name, fn)
        await counted.wait()
        return found

    monkeypatch.setattr(db, "read", slow)
    kept = made(db)
    box = kept.box(JULIET)
    looking = asyncio.ensure_future(kept.page(box))
    await began.wait()
    put(kept, box, *map(str, range(number)))
    if seen:
        await db.flushed()
    counted.set()
    page = await looking
    new = [str(n) for n in range(number)]
    assert box.count == 1 + number
    assert box.bytes == sum(map(len, await on_disk(db)))
    assert ids(page) + (ids(await kept.page(box))[page.count :] if box.added > page.upto else []) == ["old", *new]


async def test_a_row_that_fails_while_the_box_is_counted_counts_for_nothing(
    expected_errors: ExpectedErrors,
) -> None:
    expected_errors.add("offline_message_not_stored")
    async with MemoryDatabase() as db:
        await migrate(db, "offline", store.MIGRATIONS)
        kept = made(db)
        box = kept.box(JULIET)
        db.fail_next(OSError("full"))
        told: list[str] = []
        kept.append(box, message("1"), NOW, lambda _: told.append("1"))
        await kept.know(box)
        assert (box.known, box.count, box.bytes, told) == (True, 0, 0, ["1"])


async def test_a_box_of_which_something_is_under_way_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one for the same account would be read without waiting, and the row be missed."""
    monkeypatch.setattr(store, "REMEMBERED", 2)
    async with MemoryDatabase() as db:
        await migrate(db, "offline", store.MIGRATIONS)
        kept = made(db)
        accounts = [JID.parse(f"{name}@example.org") for name in ("a", "b", "c", "d")]
        with db.held():
            for account in accounts:
                put(kept, kept.box(account), "x")
            assert all(kept.known_box(account) is not None for account in accounts)
        await db.flushed()
        for account in accounts[2:]:
            kept.box(account)
        kept.box(JULIET)
        kept.box(JID.parse("nurse@example.org"))
        assert kept.known_box(accounts[0]) is None


async def test_a_removal_that_the_database_refuses_changes_nothing() -> None:
    async with MemoryDatabase() as db:
        await migrate(db, "offline", store.MIGRATIONS)
        kept = made(db)
        box = kept.box(JULIET)
        put(kept, box, "1", "2")
        page = await kept.page(box)
        before = box.count, box.bytes
        db.fail_next(OSError("full"))
        kept.remove(box, page, soon=True)
        assert (box.count, page.kept, page.refused) == (0, False, False)
        await db.flushed()
        assert (page.kept, page.refused, (box.count, box.bytes)) == (True, True, before)
        assert ids(await kept.page(box)) == ["1", "2"]


async def test_a_removal_goes_with_the_next_commit(tmp_path: Path) -> None:
    """Nobody waits for it, so it makes no commit of its own as long as another one comes soon."""
    async with SqliteDatabase.open(tmp_path / "x.db") as db:
        await migrate(db, "offline", store.MIGRATIONS)
        kept = made(db)
        box = kept.box(JULIET)
        put(kept, box, "1")
        page = await kept.page(box)
        commits = db.timings["(commit)"].count
        kept.remove(box, page, soon=False)
        put(kept, kept.box(JID.parse("nurse@example.org")), "x")
        assert len(await on_disk(db)) == 1
        assert db.timings["(commit)"].count == commits + 1
        rest = await kept.page(box)
        assert (ids(rest), rest.count) == ([], 0)


async def test_a_removal_alone_is_committed_before_long(tmp_path: Path) -> None:
    async with SqliteDatabase.open(tmp_path / "x.db") as db:
        await migrate(db, "offline", store.MIGRATIONS)
        kept = made(db)
        box = kept.box(JULIET)
        put(kept, box, "1")
        page = await kept.page(box)
        kept.remove(box, page, soon=False)
        done = asyncio.Event()
        db.when_durable(box.changed, done.set)
        await asyncio.wait_for(done.wait(), 10)
        assert await db.fetch("SELECT id FROM offline_message LIMIT 9") == []


async def test_limits_hold_before_anything_is_counted_from_the_disk(db: Database) -> None:
    kept = made(db, max_messages=2)
    box = kept.box(JULIET)
    put(kept, box, "1", "2")
    with pytest.raises(StanzaError, match="offline storage full"):
        put(kept, box, "3")
    await db.flushed()
    again = made(db, max_messages=2)
    box = again.box(JULIET)
    await again.know(box)
    with pytest.raises(StanzaError, match="offline storage full"):
        put(again, box, "3")


# ---- messages on their way ------------------------------------------------------------------------------------------


def test_a_stored_message_is_the_stanza_that_it_was() -> None:
    wire = (
        b"<message type='chat' id='a&amp;b' xml:lang='en' from='romeo@example.org/orchard' to='juliet@example.org'>"
        b"<body>x</body></message>"
    )
    page = Page(1, 1, wire, False)
    stanza = StoredMessage(wire, page)
    assert (stanza.name, stanza.to_wire()) == ("message", wire)
    read = Stanza.parse(wire)
    for name in ("type", "id", "lang", "sender", "to", "head", "body", "name"):
        assert getattr(stanza, name) == getattr(read, name), name
    assert StoredMessage(wire, page).text("{jabber:client}body") == "x"
    assert StoredMessage(wire, page).tags == ("{jabber:client}body",)
    assert StoredMessage(wire, page).known_tags is None
    assert StoredMessage(wire, page).detached().to_wire() == wire
    assert "a&b" in repr(StoredMessage(wire, page))
    with pytest.raises(AttributeError, match="wings"):
        _ = stanza.wings


def test_what_is_no_message_says_so_at_the_first_look() -> None:
    wire = b"<message type=chat><body>x</body></message>"
    stanza = StoredMessage(wire, Page(1, 1, wire, False))
    with pytest.raises(ValueError, match="not a stanza"):
        _ = stanza.type
