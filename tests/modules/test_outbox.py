"""What is under way to other servers, on disk. `copy` is what a crash would leave."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from beamish.core.services import Outbox, StoredOutbox
from beamish.modules.outbox import OutboxModule
from beamish.storage.memory import MemoryDatabase
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World
from beamish.xmpp.errors import Condition, StanzaError

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

PAIRS = (("example.org", "b.example"),)


@pytest_asyncio.fixture
async def db() -> AsyncIterator[MemoryDatabase]:
    async with MemoryDatabase() as made:
        yield made


@pytest_asyncio.fixture
async def world(db: MemoryDatabase) -> AsyncIterator[World]:
    async with World(database=db) as made:
        yield made


@pytest.fixture
def outbox(world: World) -> Outbox:
    return world.kernel.service(Outbox)


async def left(world: World) -> StoredOutbox:
    """What another server would find if this one died now."""
    assert isinstance(world.db, MemoryDatabase)
    async with World(database=world.db.copy()) as after:
        after.clock.advance(world.clock.now() - after.clock.now())
        return after.kernel.service(Outbox).take_stored()


def wires(entries: list[tuple[float, bytes, int]]) -> list[bytes]:
    return [wire for _, wire, _ in entries]


async def test_stanzas_are_there_in_order_after_a_crash(world: World, outbox: Outbox) -> None:
    key = outbox.begin("id-1", outgoing=True, pairs=PAIRS)
    outbox.keep(b"<on/>", key, 7)
    outbox.keep(b"<w1/>", None, 0)
    outbox.keep(b"<sent/>", 0, 0)
    outbox.keep(b"<w2/>", None, 0)
    await world.settle()
    stored = await left(world)
    [stream] = stored.streams
    assert (stream.id, stream.outgoing, stream.pairs, stream.handled) == ("id-1", True, PAIRS, 0)
    assert [(number, wire) for number, _, wire, _ in stream.stanzas] == [(7, b"<on/>")]
    assert wires(stored.waiting) == [b"<w1/>", b"<w2/>"]
    assert wires(stored.doubtful) == [b"<sent/>"]


async def test_a_stanza_that_waited_gets_its_place_on_a_stream(world: World, outbox: Outbox) -> None:
    first = outbox.keep(b"<w1/>", None, 0)
    outbox.keep(b"<w2/>", None, 0)
    await world.settle()
    key = outbox.begin("id-1", outgoing=True, pairs=PAIRS)
    assert outbox.keep(b"<w1/>", key, 1, first) == first
    await world.settle()
    stored = await left(world)
    assert [(number, wire) for number, _, wire, _ in stored.streams[0].stanzas] == [(1, b"<w1/>")]
    assert wires(stored.waiting) == [b"<w2/>"]


@pytest.mark.parametrize("soon", [True, False])
async def test_what_was_confirmed_goes(world: World, outbox: Outbox, soon: bool) -> None:
    rows = [outbox.keep(b"<w/>", None, 0) for _ in range(10)]
    await world.settle()
    outbox.drop([rows[0], *rows[2:7]], soon=soon)
    await world.settle()
    if not soon:
        assert len((await left(world)).waiting) == 10  # no commit for that alone, yet
        await world.pass_time(1.1)
    assert [row for *_, row in (await left(world)).waiting] == [rows[1], *rows[7:]]


async def test_what_comes_and_goes_in_one_tick_leaves_nothing(world: World, outbox: Outbox) -> None:
    outbox.drop([outbox.keep(b"<w/>", None, 0)])
    await world.settle()
    assert not (await left(world)).waiting


async def test_a_position_is_durable_when_the_row_is_there(world: World, outbox: Outbox, db: MemoryDatabase) -> None:
    with db.held():
        outbox.keep(b"<w/>", None, 0)
        position = outbox.position
        await world.settle()
        assert db.durable < position
    await world.settle()
    assert db.durable >= position
    assert len((await left(world)).waiting) == 1


async def test_counts_are_told_when_they_are_on_disk(world: World, outbox: Outbox, db: MemoryDatabase) -> None:
    key = outbox.begin("id-1", outgoing=False, pairs=PAIRS)
    await world.settle()
    with db.held():
        told: list[int] = []
        outbox.handled(key, 1, lambda: told.append(1))
        outbox.handled(key, 2)
        await world.settle()
        assert told == []
    await world.settle()
    assert told == [1]
    assert (await left(world)).streams[0].handled == 2


async def test_a_count_that_could_not_be_written_is_told_later(
    world: World, outbox: Outbox, db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("outbox_not_stored")
    key = outbox.begin("id-1", outgoing=False, pairs=PAIRS)
    await world.settle()
    told: list[int] = []
    db.fail_next()
    outbox.handled(key, 5, lambda: told.append(5))
    await world.settle()
    assert told == []
    await world.pass_time(1.1)
    assert told == [5]
    assert (await left(world)).streams[0].handled == 5


async def test_a_count_waits_for_what_the_disk_owes(world: World, outbox: Outbox, db: MemoryDatabase) -> None:
    """It would tell the peer that what was refused is safe. What comes meanwhile joins it, and the later count holds."""
    key, other = (outbox.begin(f"id-{n}", outgoing=False, pairs=PAIRS) for n in (1, 2))
    await world.settle()
    told: list[int] = []
    db.owed += 1
    outbox.handled(key, 5, lambda: told.append(5))
    await world.pass_time(1.1)
    outbox.handled(other, 7, lambda: told.append(7))
    outbox.handled(key, 6, lambda: told.append(6))
    await world.pass_time(1.1)
    assert told == []
    assert [stream.handled for stream in (await left(world)).streams] == [0, 0]
    db.owed -= 1
    await world.pass_time(1.1)
    assert told == [5, 7, 6]
    assert [stream.handled for stream in (await left(world)).streams] == [6, 7]


async def test_a_count_is_refused_with_what_it_stands_for(
    world: World, outbox: Outbox, db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    """Whatever was stored of a stanza comes before its count in the queue, though stanzas were kept before."""
    expected_errors.add("outbox_not_stored")
    key = outbox.begin("id-1", outgoing=False, pairs=PAIRS)
    await world.settle()
    told: list[int] = []
    for count in (1, 2, 3):
        outbox.handled(key, count, lambda count=count: told.append(count))  # type: ignore[misc]
        db.submit("archive", lambda c: None, lambda _: None)
        db.fail_next()
        await world.settle()
    assert told == []
    assert (await left(world)).streams[0].handled == 0
    await world.pass_time(1.1)
    assert told == [1, 2, 3]
    assert (await left(world)).streams[0].handled == 3


@pytest.mark.parametrize("rest", [1, 1_000])
async def test_a_stream_is_there_before_its_counts_and_its_end(
    world: World, outbox: Outbox, db: MemoryDatabase, expected_errors: ExpectedErrors, rest: int
) -> None:
    """The disk refuses its beginning, and takes again what comes behind it: by itself, that would change nothing."""
    expected_errors.add("outbox_not_stored")
    await world.settle()
    told: list[MemoryDatabase] = []

    db.fail_next(jobs=rest)
    keys = [outbox.begin(f"id-{n}", outgoing=False, pairs=PAIRS) for n in (1, 2)]
    await world.settle()
    db.fail_no_more()
    for key in keys:
        outbox.handled(key, 5, lambda: told.append(db.copy()))
    outbox.joined(keys[0], [*PAIRS, ("example.org", "c.example")])
    outbox.ended(keys[1])
    await world.settle()
    for _ in range(3):
        await world.pass_time(1.1)
    assert len(told) == 2
    for crashed in told:
        async with crashed:
            assert await crashed.fetch("SELECT handled FROM outbox_stream") == [(5,), (5,)]
    [stream] = (await left(world)).streams
    assert (stream.id, len(stream.pairs)) == ("id-1", 2)
    assert await outbox.ended_count("id-2", ["b.example"]) == 5


async def test_a_change_that_can_never_be_written_takes_no_other_of_its_tick_along(
    world: World, outbox: Outbox, expected_errors: ExpectedErrors, caplog: pytest.LogCaptureFixture
) -> None:
    expected_errors.add("outbox_change_lost")
    keys = [outbox.begin("id-1", outgoing=False, pairs=PAIRS)]
    outbox.begin("\ud800", outgoing=False, pairs=PAIRS)  # half of a character: no text for a database
    keys.append(outbox.begin("id-2", outgoing=True, pairs=PAIRS))
    outbox.handled(keys[0], 3)
    outbox.joined(keys[1], [*PAIRS, ("example.org", "c.example")])
    await world.settle()
    first, second = (await left(world)).streams
    assert ([first.key, second.key], first.handled, len(second.pairs)) == (keys, 3, 2)
    assert [record.getMessage() for record in caplog.records].count("outbox_change_lost") == 1


async def test_streams_that_wait_for_the_disk_are_bounded(
    world: World, outbox: Outbox, db: MemoryDatabase, expected_errors: ExpectedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_errors.add("outbox_not_stored")
    monkeypatch.setattr("beamish.modules.outbox._UNDONE", 3)
    keys = []
    with db.refusing():
        for n in range(5):
            keys.append(outbox.begin(f"id-{n}", outgoing=False, pairs=PAIRS))
            await world.settle()
        assert [bool(key) for key in keys] == [True, True, True, False, False]
        await world.pass_time(2.2)
    await world.pass_time(1.1)
    assert [stream.key for stream in (await left(world)).streams] == keys[:3]


async def test_of_counts_that_were_refused_the_later_holds(
    world: World, outbox: Outbox, db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("outbox_not_stored")
    key = outbox.begin("id-1", outgoing=False, pairs=PAIRS)
    outbox.handled(key, 0xFFFFFFFE)
    await world.settle()
    told: list[int] = []
    for count in (0xFFFFFFFF, 0):  # the count begins anew
        outbox.handled(key, count, lambda count=count: told.append(count))  # type: ignore[misc]
        world.kernel.registry.module(OutboxModule)._write_counts()
    db.fail_next(jobs=2)
    await world.settle()
    await world.pass_time(1.1)
    assert sorted(told) == [0, 0xFFFFFFFF]
    assert (await left(world)).streams[0].handled == 0


async def test_deletions_that_failed_are_made_later(
    world: World, outbox: Outbox, db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("outbox_not_stored")
    row = outbox.keep(b"<w/>", None, 0)
    await world.settle()
    db.fail_next()
    outbox.drop([row], soon=True)
    await world.settle()
    await world.pass_time(1.1)
    assert not (await left(world)).waiting


async def test_a_database_that_takes_nothing_refuses_new_stanzas(
    world: World, outbox: Outbox, db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    """What is on disk already goes on, and gets its place on a stream there later."""
    expected_errors.add("outbox_not_stored")
    key = outbox.begin("id-1", outgoing=True, pairs=PAIRS)
    known, gone = outbox.keep(b"<known/>", None, 0), outbox.keep(b"<gone/>", None, 0)
    await world.settle()
    with db.held():
        db._limit = 0
        with pytest.raises(StanzaError) as error:
            outbox.keep(b"<w/>", None, 0)
        assert error.value.condition is Condition.RESOURCE_CONSTRAINT
        assert outbox.keep(b"<known/>", key, 1, known) == known
        assert outbox.keep(b"<gone/>", key, 2, gone) == gone
        assert outbox.begin("id-2", outgoing=True, pairs=PAIRS) == 0
        db._limit = 1000
    outbox.drop([gone])
    await world.pass_time(1.1)
    stored = await left(world)
    assert [(number, wire) for number, _, wire, _ in stored.streams[0].stanzas] == [(1, b"<known/>")]
    assert not stored.waiting


async def test_refused_stanzas_are_told_before_their_position_is_durable(
    world: World, outbox: Outbox, db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("outbox_not_stored")
    known = outbox.keep(b"<known/>", None, 0)
    await world.settle()
    key = outbox.begin("id-1", outgoing=True, pairs=PAIRS)
    await world.settle()
    told: list[tuple[str, list[int]]] = []
    outbox.refused = lambda rows, error: told.append((error.condition.value, list(rows)))
    db.fail_next()
    outbox.keep(b"<known/>", key, 1, known)
    new = [outbox.keep(b"<n1/>", key, 2), outbox.keep(b"<n2/>", None, 0)]
    db.when_durable(outbox.position, lambda: told.append(("durable", [])))
    await world.settle()
    assert told == [("resource-constraint", new), ("durable", [])]
    await world.pass_time(1.1)
    stored = await left(world)
    assert [(number, wire) for number, _, wire, _ in stored.streams[0].stanzas] == [(1, b"<known/>")]
    assert not stored.waiting and not stored.doubtful


async def test_an_ended_stream_is_remembered_for_its_peer(world: World, outbox: Outbox) -> None:
    key = outbox.begin("id-1", outgoing=False, pairs=PAIRS)
    outbox.joined(key, (*PAIRS, ("example.org", "c.example")))
    outbox.handled(key, 9)
    assert await outbox.ended_count("id-1", ["b.example"]) is None  # it is not over
    outbox.ended(key)
    assert await outbox.ended_count("id-1", ["b.example"]) == 9
    assert await outbox.ended_count("id-1", ["c.example", "d.example"]) == 9
    assert await outbox.ended_count("id-1", ["evil.example"]) is None
    assert await outbox.ended_count("id-2", ["b.example"]) is None
    assert not (await left(world)).streams
    await world.pass_time(90_000)
    assert await outbox.ended_count("id-1", ["b.example"]) is None


async def test_a_stream_that_ends_after_the_server_is_no_error() -> None:
    """Its time to be resumed is over when the database has gone; an error in the log fails the test."""
    async with World() as world:
        outbox = world.kernel.service(Outbox)
        key = outbox.begin("id-1", outgoing=True, pairs=PAIRS)
        await world.settle()
    outbox.ended(key)


async def test_stanzas_of_an_ended_stream_are_doubtful(world: World, outbox: Outbox) -> None:
    key = outbox.begin("id-1", outgoing=True, pairs=PAIRS)
    outbox.keep(b"<on/>", key, 1)
    outbox.ended(key)
    await world.settle()
    assert wires((await left(world)).doubtful) == [b"<on/>"]


async def test_ended_streams_are_bounded(world: World, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beamish.modules.outbox._ENDED", 10)
    monkeypatch.setattr("beamish.modules.outbox._PRUNE", 5)
    for n in range(50):
        outbox.ended(outbox.begin(f"id-{n}", outgoing=True, pairs=PAIRS))
    await world.settle()
    [(kept,)] = await world.db.fetch("SELECT COUNT(*) FROM outbox_stream")
    assert kept <= 15


async def test_keys_are_not_given_twice_after_a_restart(world: World, outbox: Outbox) -> None:
    outbox.keep(b"<w/>", None, 0)
    outbox.begin("id-1", outgoing=True, pairs=PAIRS)
    await world.settle()
    assert isinstance(world.db, MemoryDatabase)
    async with World(database=world.db.copy()) as after:
        again = after.kernel.service(Outbox)
        again.keep(b"<x/>", None, 0)
        again.begin("id-2", outgoing=True, pairs=PAIRS)
        await after.settle()
        stored = await left(after)
        assert wires(stored.waiting) == [b"<w/>", b"<x/>"]
        assert [stream.id for stream in stored.streams] == ["id-1", "id-2"]


async def test_what_was_found_is_given_once(world: World, outbox: Outbox) -> None:
    outbox.keep(b"<w/>", None, 0)
    await world.settle()
    assert isinstance(world.db, MemoryDatabase)
    async with World(database=world.db.copy()) as after:
        again = after.kernel.service(Outbox)
        assert len(again.take_stored().waiting) == 1
        assert not again.take_stored().waiting


async def test_the_command_counts(world: World, outbox: Outbox) -> None:
    outbox.keep(b"<w/>", None, 0)
    outbox.begin("id-1", outgoing=True, pairs=PAIRS)
    assert await world.kernel.commands.run("outbox.count", {}) == {"stanzas": 1, "bytes": 4, "streams": 1}
