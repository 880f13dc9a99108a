"""A disk that takes nothing for a while: what was acknowledged is stored, and what cannot be stored is refused in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.modules.sm.conftest import CALM, SM, enable, handled, managed, resume, say, settings
from tests.modules.sm.play import after_a_crash, after_crash, unconfirmed

from beamish.core import events
from beamish.core.events import Context
from beamish.core.gather import RETRY_SECONDS
from beamish.modules.sm import store
from beamish.modules.sm.module import StreamManagementModule
from beamish.storage.api import Cursor, StorageBusy, StorageUnavailable
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

JULIET = "juliet@example.org/balcony"
ROMEO = "romeo@example.org/orchard"
FULL = StorageUnavailable("the disk is full")
REFUSED = (
    "<message type='error'><error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
    "</error></message>"
)


@pytest.fixture(autouse=True)
def announced(expected_errors: ExpectedErrors) -> None:
    expected_errors.events |= {"rows_not_stored_yet", "sessions_not_stored", "messages_refused"}


def module_of(world: World) -> StreamManagementModule:
    return world.kernel.registry.module(StreamManagementModule)


def acknowledgements(world: World, client: Client) -> list[MemoryDatabase]:
    """What a crash would leave at the moments when the client gets an acknowledgement."""
    left: list[MemoryDatabase] = []
    feed = client.feed

    def fed(data: bytes) -> None:
        if b"<a " in data:
            assert isinstance(world.db, MemoryDatabase)
            left.append(world.db.copy())
        feed(data)

    client.feed = fed  # type: ignore[method-assign]
    return left


def acknowledged(client: Client) -> list[int]:
    """What the client was told to be handled."""
    return [int(el.get("h") or "-1") for el in client.inbox if el.tag == f"{{{SM}}}a"]


def got(client: Client, type: str = "chat") -> list[str | None]:
    """The ids of the messages that have come."""
    return [el.get("id") for el in client.inbox if el.tag == "{jabber:client}message" and el.get("type") == type]


def ask(client: Client) -> None:
    client.send(f"<r xmlns='{SM}'/>")


async def recovered(world: World) -> None:
    """Time for what waited to be stored, and for what waited for that."""
    for _ in range(3):
        await world.pass_time(RETRY_SECONDS)


async def test_what_would_be_too_much_is_refused_before_anybody_has_it(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module_of(world).journal._messages, "most", 6)
    juliet, _ = await managed(world, JULIET)
    romeo, _ = await managed(world, ROMEO)
    with world.db.refusing():
        for number in range(9):
            say(romeo, JULIET, str(number))
            ask(romeo)
            await world.settle()
        assert got(juliet) == [str(number) for number in range(6)]
        assert got(romeo, "error") == ["6", "7", "8"]
        for el in romeo.inbox:
            if el.get("type") == "error":
                assert not mismatch(REFUSED, el)
        romeo.send(
            f"<message to='{JULIET}' type='headline' id='news'><body>x</body></message>"
            f"<message to='{JULIET}' type='chat' id='state'><active xmlns='http://jabber.org/protocol/chatstates'/></message>"
        )
        romeo.send(f"<iq type='set' id='push' to='{JULIET}'><x xmlns='urn:example'/></iq>")
        await world.pass_time(5.0)
        assert got(juliet, "headline") == ["news"]
        assert got(juliet)[6:] == ["state"]
        assert [el.get("type") for el in romeo.inbox if el.get("id") == "push"] == ["error"]
        assert await unconfirmed(world.db) == []
        assert acknowledged(romeo) == []
    left = acknowledgements(world, romeo)
    await recovered(world)
    assert acknowledged(romeo)[-1] == 12
    assert left
    for crashed in left:
        async with crashed:
            stored = await unconfirmed(crashed)
            assert [next(n for n in range(9) if b"id='%d'" % n in wire) for wire in stored] == list(range(9))
            assert [b"type='error'" in wire for wire in stored] == [False] * 6 + [True] * 3
    say(romeo, JULIET, "again")
    await world.settle()
    assert got(juliet)[-1] == "again"
    for point in (events.inbound, events.entering):
        assert all(row.owner != "sm" for row in world.kernel.hooks[point].rows)
    told = [record.getMessage() for record in caplog.records]
    assert (told.count("messages_refused"), told.count("messages_taken_again")) == (1, 1)


@pytest.mark.parametrize("confirmed", [False, True])
async def test_what_is_in_memory_alone_is_confirmed_or_stored_before_anything_is_acknowledged(
    world: World, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors, confirmed: bool
) -> None:
    """Far too much waits: errors for what is refused are not stored either, and a crash would take them."""
    expected_errors.add("unconfirmed_messages_not_stored")
    monkeypatch.setattr(module_of(world).journal._messages, "most", 2)
    juliet, _ = await managed(world, JULIET)
    romeo, _ = await managed(world, ROMEO)
    with world.db.refusing():
        for number in range(6):
            say(romeo, JULIET, str(number))
            ask(romeo)
            await world.settle()
        assert (got(juliet), got(romeo, "error")) == (["0", "1"], ["2", "3", "4", "5"])
        if confirmed:
            romeo.send(f"<a xmlns='{SM}' h='4'/>")
            juliet.send(f"<a xmlns='{SM}' h='2'/>")
        await recovered(world)
        assert acknowledged(romeo) == []
    left = acknowledgements(world, romeo)
    await recovered(world)
    await recovered(world)
    assert acknowledged(romeo)[-1] == 6
    for crashed in left:
        async with crashed:
            stored = await unconfirmed(crashed)
            ids = [next(n for n in range(6) if b"id='%d'" % n in wire) for wire in stored]
            assert sorted(ids) == ([] if confirmed else list(range(6)))
    assert left


async def test_what_was_in_memory_alone_of_an_ended_session_keeps_no_acknowledgement(
    world: World, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    """It is counted as long as it is on its way elsewhere, or has not been given up yet."""
    expected_errors.events |= {"unconfirmed_messages_not_stored", "write_lost"}
    monkeypatch.setattr(module_of(world).journal._messages, "most", 2)
    await managed(world, JULIET)
    romeo, _ = await managed(world, ROMEO)
    nurse, _ = await managed(world, "nurse@example.org/kitchen")
    with world.db.refusing():
        for number in range(6):
            say(romeo, JULIET, str(number))
            await world.settle()
        assert got(romeo, "error") == ["2", "3", "4", "5"]
        for session in world.kernel.sessions.of(JID.parse("romeo@example.org")).all:
            world.kernel.end_session(session, "expired")
        await world.pass_time(RETRY_SECONDS)
        nurse.send("<message to='romeo@example.org' type='chat' id='n'><body>x</body></message>")
        ask(nurse)
        await world.pass_time(RETRY_SECONDS)
        assert acknowledged(nurse) == []
    await recovered(world)
    await recovered(world)
    ask(nurse)
    await world.settle()
    assert acknowledged(nurse)[-1:] == [1]


async def test_what_is_held_for_an_inactive_client_in_memory_alone(
    monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    """It is in no queue of its stream yet."""
    expected_errors.add("unconfirmed_messages_not_stored")
    async with World(settings={"modules": {"disable": ["mam", "carbons"]}, "c2s": CALM}) as world:
        journal = module_of(world).journal
        juliet, _ = await managed(world, JULIET)
        romeo, _ = await managed(world, ROMEO)
        juliet.send("<inactive xmlns='urn:xmpp:csi:0'/>")
        await world.settle()
        monkeypatch.setattr(journal._messages, "most", 0)
        monkeypatch.setattr(module_of(world), "_let_in", lambda ctx: None)
        receipt = "<received xmlns='urn:xmpp:receipts' id='r'/><store xmlns='urn:xmpp:hints'/>"
        romeo.send(f"<message to='{JULIET}' id='held'>{receipt}</message>")
        ask(romeo)
        await world.pass_time(RETRY_SECONDS)
        assert got(juliet, "") == got(juliet) == []
        assert acknowledged(romeo) == []
        monkeypatch.setattr(journal._messages, "most", 100)
        await recovered(world)
        assert acknowledged(romeo)[-1] == 1
        assert len(await unconfirmed(world.db)) == 1


@pytest.mark.parametrize("archive", [False, True], ids=["messages alone", "with the archive"])
async def test_an_acknowledgement_waits_for_all_that_was_refused(archive: bool) -> None:
    """Counts are small and few, what they stand for may be many rows: they must not be there before."""
    async with World(settings=settings() if not archive else {"c2s": CALM}) as world:
        juliet, _ = await managed(world, JULIET)
        romeo, _ = await managed(world, ROMEO)
        await world.settle()
        with world.db.refusing():
            for number in range(4):
                say(romeo, JULIET, str(number))
                ask(romeo)
                await world.settle()
            assert got(juliet) == ["0", "1", "2", "3"]
        left = acknowledgements(world, romeo)
        await recovered(world)
        assert acknowledged(romeo)[-1] == 4
        for crashed in left:
            async with crashed, after_a_crash(crashed) as start:
                assert len(await start.fetch("SELECT id FROM sm_message")) == 4
                if archive:
                    assert await start.fetch("SELECT messages FROM mam_account") == [(4,), (4,)]
        assert left


async def test_the_archive_may_wait_longer_than_the_count(expected_errors: ExpectedErrors) -> None:
    """The disk refuses the archive alone: it is large, and nearly nothing is left."""
    async with World(settings={"c2s": CALM}) as world:
        juliet = await world.login(JULIET, presence=True)
        romeo, _ = await managed(world, ROMEO)
        await world.settle()
        assert isinstance(world.db, MemoryDatabase)
        world.db.fail_next()
        say(romeo, JULIET, "x")
        await world.settle()
        for _ in range(3):
            ask(romeo)
            world.db.fail_next()
            await world.pass_time(RETRY_SECONDS)
            assert acknowledged(romeo) == []
        await juliet.expect("<message id='x'/>")
        await recovered(world)
        assert acknowledged(romeo)[-1] == 1


async def test_a_session_whose_row_was_refused_gets_one_before_its_messages_count(world: World) -> None:
    """A start drops the messages of sessions that it does not know."""
    juliet = await world.login(JULIET, presence=True)
    romeo, _ = await managed(world, ROMEO)
    await world.settle()
    assert isinstance(world.db, MemoryDatabase)
    world.db.fail_next()
    await enable(juliet)
    say(romeo, JULIET, "x")
    await recovered(world)
    ask(romeo)
    await world.settle()
    assert acknowledged(romeo)[-1] == 1
    async with after_a_crash(world.db) as start:
        assert await start.fetch("SELECT COUNT(*) FROM sm_message JOIN sm_session ON key = session") == [(1,)]
        assert await start.fetch("SELECT jid FROM sm_session ORDER BY jid") == [(JULIET,), (ROMEO,)]


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("first", [1, 2, 1_000_000])
async def test_what_an_ended_session_leaves_is_stored_when_the_disk_takes_it(
    expected_errors: ExpectedErrors, archive: bool, first: int
) -> None:
    """Its sender was told that it is safe, so nothing comes back, and a crash at any time finds it somewhere."""
    expected_errors.events |= {"offline_message_not_stored", "write_lost"}
    disabled = {"disable": ["carbons", "csi"] if archive else ["mam", "carbons", "csi"]}
    async with MemoryDatabase() as db, World(database=db, settings={"modules": disabled, "c2s": CALM}) as world:
        await managed(world, JULIET)
        romeo, _ = await managed(world, ROMEO)
        for text in ("one", "two", "three"):
            say(romeo, JULIET, text)
        assert await handled(romeo) == 3

        async def safe() -> None:
            async with after_a_crash(db) as left:
                for text in (b"one", b"two", b"three"):
                    wires = await left.fetch("SELECT wire FROM offline_message UNION ALL SELECT wire FROM sm_message")
                    assert sum(b"id='%b'" % text in bytes(wire) for (wire,) in wires) >= 1, text  # for a moment in both

        [session] = world.kernel.sessions.of(JID.parse("juliet@example.org")).all
        db.fail_next(jobs=first)
        world.kernel.end_session(session, "expired")
        for _ in range(6):
            await world.settle()
            await safe()
            await world.pass_time(0.5)
        db.fail_no_more()
        for _ in range(10):
            await world.pass_time(0.5)
            await safe()
        assert got(romeo, "error") == []
        assert db.owed == 0
        stored = [bytes(wire) for (wire,) in await db.fetch("SELECT wire FROM offline_message ORDER BY id")]
        assert [text for wire in stored for text in (b"one", b"two", b"three") if b"id='%b'" % text in wire] == [
            b"one",
            b"two",
            b"three",
        ]
        say(romeo, "nurse@example.org", "four")
        assert await handled(romeo) == 4
        juliet = await world.login("juliet@example.org/new", presence=True)
        await world.settle()
        assert got(juliet) == ["one", "two", "three"]


@pytest.mark.parametrize("removed", [False, True])
async def test_what_an_ended_session_leaves_waits_for_a_queue_that_is_full(
    world: World, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    """And for nothing when the account is removed meanwhile."""
    await managed(world, JULIET)
    romeo, _ = await managed(world, ROMEO)
    for text in ("one", "two"):
        say(romeo, JULIET, text)
    assert await handled(romeo) == 2

    def busy(*_: Any, **__: Any) -> int:
        raise StorageBusy("full")

    [session] = world.kernel.sessions.of(JID.parse("juliet@example.org")).all
    monkeypatch.setattr(world.db, "append", busy)
    world.kernel.end_session(session, "expired")
    await world.pass_time(RETRY_SECONDS)
    assert world.db.owed == 2
    monkeypatch.undo()
    if removed:
        removing = asyncio.ensure_future(world.kernel.commands.run("user.remove", {"jid": "juliet@example.org"}))
        await world.settle()
    await recovered(world)
    if removed:
        await removing
    assert world.db.owed == 0
    assert got(romeo, "error") == []
    stored = await world.db.fetch("SELECT wire FROM offline_message ORDER BY id")
    assert len(stored) == (0 if removed else 2)


async def test_a_session_whose_row_was_refused_keeps_what_came_after_it(
    world: World, expected_errors: ExpectedErrors
) -> None:
    """Its presence and its count, though they wait for the same commit as the row, and the log is folded in that."""
    expected_errors.add("offline_message_not_stored")
    juliet = await world.login(JULIET)
    await world.settle()
    with world.db.refusing():
        id = await enable(juliet)
        juliet.send("<presence><status>here</status></presence>")
        say(juliet, ROMEO, "x")
        ask(juliet)
        await world.settle()
        module_of(world).journal._fold_due = True
        await world.pass_time(RETRY_SECONDS)
    await recovered(world)
    assert acknowledged(juliet) == [2]
    async with after_crash(world) as again:
        new = await resume(again, juliet, id, 0)
        assert new.jid is not None
        session = again.kernel.sessions.get(new.jid)
        assert session is not None
        assert session.presence is not None
        assert module_of(again)._by_id[id].acknowledged == 2


async def test_so_many_sessions_may_wait_for_their_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_OWED_MOST", 3)
    one, two, more = [await world.login(f"juliet@example.org/{name}") for name in ("one", "two", "more")]
    with world.db.refusing():
        for client in (one, two):
            await enable(client)
            await world.settle()
        two.send("</stream:stream>")
        await world.settle()
        more.send(f"<enable xmlns='{SM}' resume='true'/>")
        await more.expect(
            f"<failed xmlns='{SM}'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
        )
    await recovered(world)
    await enable(more)
    await world.settle()
    assert await world.db.fetch("SELECT jid FROM sm_session ORDER BY jid") == [
        ("juliet@example.org/more",),
        ("juliet@example.org/one",),
    ]


async def test_what_is_confirmed_before_the_disk_takes_it_leaves_no_trace(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login(ROMEO, presence=True)
    await world.settle()
    journal = module_of(world).journal
    with world.db.refusing():
        for number in range(20):
            say(romeo, JULIET, str(number))
            await world.settle()
            juliet.send(f"<a xmlns='{SM}' h='{number + 1}'/>")
            await world.settle()
        assert (journal._young, journal._young_confirmed, journal._confirmed) == ({}, [], [])
        await recovered(world)
        assert journal.waiting == (0, 0)
    say(romeo, JULIET, "last")
    await recovered(world)
    assert got(juliet) == [*map(str, range(20)), "last"]
    [wire] = await unconfirmed(world.db)
    assert b"last" in wire


async def test_what_can_never_be_written_of_a_session_keeps_nobody_else(
    world: World, expected_errors: ExpectedErrors
) -> None:
    """A database that is damaged in one place: the same key twice."""
    expected_errors.add("session_statement_lost")
    juliet, id = await managed(world, JULIET)
    romeo, _ = await managed(world, ROMEO)
    await world.settle()
    insert = "INSERT INTO sm_ended (id, account, handled, forget) VALUES (?, 'other@example.org', 0, 1e12)"
    await world.db.write("damage", lambda c: c.run(insert, id))
    juliet.drop()
    await world.pass_time(601.0)
    assert await handled(romeo) == 0
    say(romeo, "juliet@example.org", "x")
    assert await handled(romeo) == 1
    assert await world.db.fetch("SELECT jid FROM sm_session") == [(ROMEO,)]


async def test_a_session_whose_row_was_refused_may_end_before_it_gets_one(world: World) -> None:
    juliet = await world.login(JULIET, presence=True)
    assert isinstance(world.db, MemoryDatabase)
    with world.db.held():
        await enable(juliet)
        juliet.send("</stream:stream>")
        await world.settle()
        world.db.fail_next()
    await recovered(world)
    assert await world.db.fetch("SELECT jid FROM sm_session") == []


async def test_stored_messages_stay_in_the_store_until_the_stream_has_them_on_disk(world: World) -> None:
    romeo = await world.login(ROMEO, presence=True)
    for text in ("one", "two"):
        say(romeo, "juliet@example.org", text)
    nurse, _ = await managed(world, "nurse@example.org/house")
    await world.settle()
    juliet = await world.login(JULIET)
    await enable(juliet)
    await world.settle()
    assert isinstance(world.db, MemoryDatabase)
    world.db.fail_next()
    say(romeo, nurse.jid, "refused")  # what is handed over from now on waits behind it
    await world.settle()
    juliet.send("<presence/>")
    await world.settle()
    assert got(juliet) == ["one", "two"]
    async with after_a_crash(world.db) as start:
        stored = await start.fetch("SELECT wire FROM offline_message")
        assert len(stored) + len(await start.fetch("SELECT id FROM sm_message")) == 2
    await recovered(world)
    juliet.send(f"<a xmlns='{SM}' h='{len([el for el in juliet.inbox if not el.tag.startswith('{urn:xmpp:sm')])}'/>")
    await recovered(world)
    assert await world.db.fetch("SELECT wire FROM offline_message") == []


async def test_nothing_of_a_removed_account_is_stored_later(world: World) -> None:
    await managed(world, JULIET)
    romeo = await world.login(ROMEO)
    await world.settle()
    assert isinstance(world.db, MemoryDatabase)
    world.db.fail_next()
    for number in range(2):
        say(romeo, JULIET, str(number))
        await world.settle()
    removing = asyncio.ensure_future(world.kernel.commands.run("user.remove", {"jid": "juliet@example.org"}))
    await world.settle()
    await recovered(world)
    assert removing.done()
    await removing
    await recovered(world)
    for table in ("sm_session", "sm_message", "sm_log", "sm_ended", "offline_message"):
        assert await world.db.fetch(f"SELECT * FROM {table}") == [], table


async def test_who_sends_nothing_for_long_is_refused_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other servers' messages are refused like those of clients, and the first one after the end finds the door open."""
    monkeypatch.setattr(module_of(world).journal._messages, "most", 1)
    juliet, _ = await managed(world, JULIET)
    answered: list[Stanza] = []
    monkeypatch.setattr(world.kernel.router, "answer", lambda _, reply: answered.append(reply))

    def arrive(id: str) -> None:
        wire = f"<message from='a@example.net/x' to='{JULIET}' type='chat' id='{id}'><body>{id}</body></message>"
        world.kernel.router.from_elsewhere(Context(Stanza.parse(wire.encode())))

    with world.db.refusing():
        for id in ("one", "two"):
            arrive(id)
            await world.settle()
    assert got(juliet) == ["one"]
    assert [(reply.id, reply.type) for reply in answered] == [("two", "error")]
    await recovered(world)
    arrive("three")
    await world.settle()
    assert got(juliet) == ["one", "three"]


async def test_what_cannot_be_stored_at_the_stop_counts_as_not_handled(expected_errors: ExpectedErrors) -> None:
    """The archive of the server that stops is lost with it: the client must send the message once more."""
    database = MemoryDatabase()
    async with World(database=database, settings={"c2s": CALM}) as world:
        await world.login(JULIET, presence=True)
        romeo, id = await managed(world, ROMEO)
        say(romeo, JULIET, "safe")
        assert await handled(romeo) == 1
        submit = database.submit

        def refused(name: str, fn: Callable[[Cursor], None], failed: Any = None, *, whole: bool = False) -> int:
            def full(c: Cursor) -> None:
                raise FULL

            return submit(name, full if name == "mam.log" else fn, failed, whole=whole)

        database.submit = refused  # type: ignore[method-assign]
        say(romeo, JULIET, "lost")
        await world.settle()
    del database.submit  # type: ignore[method-assign]
    async with World(database=database, settings={"c2s": CALM}) as world:
        await resume(world, romeo, id, 0, expected=1)
    await database.close()


async def test_what_waits_for_the_disk_no_more_waits_for_its_turn(world: World) -> None:
    """Its position is behind those of others that are to be written first, who would be asked for again and again."""
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login(ROMEO, presence=True)
    await world.settle()
    assert isinstance(world.db, MemoryDatabase)
    outlet = module_of(world)._by_id[next(iter(module_of(world)._by_id))]
    with world.db.held():
        say(romeo, JULIET, "first")
        await world.settle()
        outlet._write(b"<message type='chat' id='second'/>", world.db.durable)
        positions = [position for position, _ in outlet._held]
        assert len(positions) == 2
        assert positions == sorted(positions)
        assert not juliet.inbox
    await world.settle()
    assert got(juliet) == ["first", "second"]


async def test_what_the_stop_has_written_is_not_written_again() -> None:
    """The time to try it again may come before the database is closed; twice there, it would keep the server from starting."""
    database = MemoryDatabase()
    async with World(database=database, settings=settings()) as world:
        juliet, id = await managed(world, JULIET)
        romeo = await world.login(ROMEO)
        database.fail_next()
        say(romeo, JULIET, "x")
        await juliet.expect("<message id='x'/>")
        clock = world.clock
    clock.advance(RETRY_SECONDS)
    await database.flushed()
    assert await database.fetch("SELECT id FROM sm_log") == []
    async with World(database=database, settings=settings()) as world:
        again = await resume(world, juliet, id, 0)
        await again.expect("<message id='x'/>")
    await database.close()
