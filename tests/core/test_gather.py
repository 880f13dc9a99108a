"""What a tick wants stored is one job, and nothing of it is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from beamish.core.gather import RETRY_SECONDS, Gathering, in_pieces, places
from beamish.storage.api import ConstraintViolated, Cursor, StorageBusy, StorageClosed, StorageUnavailable
from beamish.storage.commits import QUEUE_LIMIT, WAITERS_PER_JOB
from beamish.storage.memory import MemoryDatabase
from beamish.storage.sqlite import SqliteDatabase
from beamish.testing.clock import FakeClock
from beamish.testing.plugin import ExpectedErrors

FULL = StorageUnavailable("the disk is full")


class Sink:
    """A gathering of numbers, and what became of them."""

    def __init__(self, db: MemoryDatabase, most: int = 1_000, most_bytes: int = 1_000_000) -> None:
        self.db = db
        self.clock = FakeClock()
        self.jobs: list[list[int]] = []
        self.told: list[list[int]] = []
        self.rows = Gathering[int](db, self.clock, "test", self.write, most, most_bytes, self.told.append)

    def write(self, c: Cursor, rows: list[int]) -> None:
        self.jobs.append(list(rows))
        c.many("INSERT INTO kept (number) VALUES (?)", [(row,) for row in rows])

    async def kept(self) -> list[int]:
        return [number for (number,) in await self.db.fetch("SELECT number FROM kept ORDER BY rowid")]


@pytest_asyncio.fixture
async def db() -> AsyncIterator[MemoryDatabase]:
    async with MemoryDatabase() as made:
        await made.write("table", lambda c: c.run("CREATE TABLE kept (number INTEGER NOT NULL UNIQUE)"))
        yield made


async def test_a_tick_is_one_job_in_the_order_of_the_calls(db: MemoryDatabase) -> None:
    sink = Sink(db)
    before = db.durable
    first = [sink.rows.add(n, 10) for n in (3, 1, 2)]
    assert set(first) == {before + 1}
    assert (sink.rows.rows, sink.rows.bytes) == (3, 30)
    between = db.submit("other", lambda c: c.many("INSERT INTO kept (number) VALUES (?)", [(99,)]))
    assert sink.rows.add(4, 10) == first[0]  # the same tick
    assert between == first[0] + 1
    await db.flushed()
    assert db.durable >= first[0]
    second = [sink.rows.add(n, 10) for n in (6, 5)]
    assert second[0] > between
    await db.flushed()
    assert sink.jobs == [[3, 1, 2, 4], [6, 5]]
    assert await sink.kept() == [3, 1, 2, 4, 99, 6, 5]
    assert (sink.rows.rows, sink.rows.bytes, sink.told) == (0, 0, [[3, 1, 2, 4], [6, 5]])


async def test_what_is_durable_has_been_stored(db: MemoryDatabase) -> None:
    sink = Sink(db)
    seen: list[int] = []
    for n in range(5):
        position = sink.rows.add(n, 1)
        db.when_durable(position, lambda: seen.append(sink.rows.rows))
        assert seen == [0] * (3 if n > 2 else 0)
        if n == 2:
            await db.flushed()
    await db.flushed()
    assert seen == [0] * 5
    assert await sink.kept() == [0, 1, 2, 3, 4]


async def test_a_disk_that_stalls_is_felt_in_rows_and_bytes(db: MemoryDatabase) -> None:
    for most, most_bytes in ((3, 1_000), (1_000, 25)):
        sink = Sink(db, most, most_bytes)
        with db.held():
            for n in range(3):
                sink.rows.add(most + n, 10)
            with pytest.raises(StorageBusy):
                sink.rows.add(100, 10)
            await asyncio.sleep(0)
            with pytest.raises(StorageBusy):
                sink.rows.add(100, 10)
        await db.flushed()
        sink.rows.add(most + 3, 10)
        await db.flushed()
        assert sink.jobs[-1][-1] == most + 3
        assert (sink.rows.rows, sink.rows.bytes) == (0, 0)


async def test_what_the_disk_refused_is_tried_again_until_it_is_taken(
    db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    """What comes meanwhile waits behind it: rows become visible in the order in which they were added."""
    expected_errors.add("rows_not_stored_yet")
    sink = Sink(db, most=5)
    for n in (1, 2):
        sink.rows.add(n, 10)
    db.fail_next()
    await db.flushed()
    assert (sink.rows.rows, sink.rows.bytes) == (2, 20)  # they count until they are stored
    assert sink.rows.add(3, 10) <= db.durable
    await db.flushed()
    await asyncio.sleep(0)
    db.fail_next()
    sink.rows.add(4, 10)
    sink.clock.advance(RETRY_SECONDS)
    await db.flushed()
    assert await sink.kept() == []
    assert (sink.rows.rows, sink.rows.bytes, sink.told) == (4, 40, [[1, 2], [3], [4]])
    sink.rows.add(5, 10)
    with pytest.raises(StorageBusy):
        sink.rows.add(6, 10)
    sink.clock.advance(RETRY_SECONDS)
    await db.flushed()
    await db.flushed()
    assert await sink.kept() == [1, 2, 3, 4, 5]
    assert sink.told[3:] == [[5], [1, 2], [3], [4], [5]]
    assert (sink.rows.rows, sink.rows.bytes, db.owed) == (0, 0, 0)
    jobs = len(sink.jobs)
    sink.clock.advance(10 * RETRY_SECONDS)
    await db.flushed()
    assert len(sink.jobs) == jobs


async def test_ticks_on_their_way_fail_with_one_that_is_refused(
    db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    """The disk would take the second: then it would be there before the first."""
    expected_errors.add("rows_not_stored_yet")
    sink = Sink(db)
    sink.rows.add(1, 10)
    sink.rows.seal()
    sink.rows.add(2, 10)
    db.fail_next()
    await db.flushed()
    assert (await sink.kept(), db.owed) == ([], 2)
    sink.clock.advance(RETRY_SECONDS)
    await db.flushed()
    await db.flushed()
    assert (sink.jobs, db.owed) == ([[1], [2]], 0)


async def test_an_episode_is_told_once(
    db: MemoryDatabase, caplog: pytest.LogCaptureFixture, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("rows_not_stored_yet")
    sink = Sink(db)

    async def episode() -> None:
        for n in range(4):
            sink.rows.add(n, 10)
            await db.flushed()
            await asyncio.sleep(0)
        db.fail_next()
        sink.clock.advance(RETRY_SECONDS)
        await db.flushed()
        sink.clock.advance(RETRY_SECONDS)
        await db.flushed()
        await db.flushed()
        assert sink.rows.rows == 0
        await db.write("empty", lambda c: c.run("DELETE FROM kept"))

    for _ in range(2):
        caplog.clear()
        db.fail_next()
        await episode()
        told = [record.getMessage() for record in caplog.records]
        assert [text for text in ("rows_not_stored_yet", "rows_stored_again") for one in told if text in one] == [
            "rows_not_stored_yet",
            "rows_stored_again",
        ]


async def test_an_episode_of_which_nothing_is_left_is_over(
    db: MemoryDatabase, caplog: pytest.LogCaptureFixture, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("rows_not_stored_yet")
    sink = Sink(db)
    for n in (1, 3):
        caplog.clear()
        db.fail_next()
        sink.rows.add(n, 10)
        await db.flushed()
        sink.rows.drop(lambda _: True)
        sink.rows.add(n + 1, 10)
        await db.flushed()
        assert [record.getMessage() for record in caplog.records] == ["rows_not_stored_yet", "rows_stored_again"]
    assert await sink.kept() == [2, 4]


async def test_what_can_no_longer_be_refused_is_taken(db: MemoryDatabase, expected_errors: ExpectedErrors) -> None:
    """Beyond the bounds, and when the queue of the database is full, too: then a second later."""
    sink = Sink(db, most=1)
    sink.rows.add(1, 10)
    with pytest.raises(StorageBusy):
        sink.rows.add(2, 10)
    sink.rows.add(2, 10, beyond=True)
    await db.flushed()
    assert await sink.kept() == [1, 2]
    with db.held():
        for _ in range(QUEUE_LIMIT):
            db.submit("other", lambda c: None)
        with pytest.raises(StorageBusy):
            sink.rows.add(3, 10)
        sink.rows.add(3, 10, beyond=True)
        sink.rows.add(4, 10, beyond=True)
        assert db.owed == 1
    await db.flushed()
    sink.clock.advance(RETRY_SECONDS)
    await db.flushed()
    assert await sink.kept() == [1, 2, 3, 4]
    assert (sink.rows.rows, db.owed, sink.rows.full) == (0, 0, False)


async def test_what_waits_can_be_forgotten(db: MemoryDatabase, expected_errors: ExpectedErrors) -> None:
    expected_errors.add("rows_not_stored_yet")
    sink = Sink(db)
    for tick in ((1, 2), (3,), (4, 5)):
        if tick == (1, 2):
            db.fail_next()
        for n in tick:
            sink.rows.add(n, 10)
        await db.flushed()
        await asyncio.sleep(0)
    sink.rows.drop(lambda n: n in (1, 3, 4))
    assert (sink.rows.rows, db.owed) == (4, 2)
    sink.clock.advance(RETRY_SECONDS)
    await db.flushed()
    await db.flushed()
    assert await sink.kept() == [2, 5]
    assert (sink.rows.rows, sink.rows.bytes, db.owed) == (0, 0, 0)


async def test_what_joins_a_tick_that_is_just_handed_over_is_not_lost(
    db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    """The timer may fire between two rows of a tick, be it that the first of them is gone."""
    expected_errors.add("rows_not_stored_yet")
    sink = Sink(db)
    db.fail_next()
    sink.rows.add(1, 10)
    await db.flushed()
    sink.rows.drop(lambda n: True)
    sink.rows.add(2, 10)
    sink.clock.advance(RETRY_SECONDS)
    sink.rows.add(3, 10)
    await db.flushed()
    await db.flushed()
    assert await sink.kept() == [2, 3]
    assert (sink.rows.rows, sink.rows.bytes, db.owed) == (0, 0, 0)


async def test_a_full_disk_is_asked_about_one_tick_at_a_time(
    db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    """Thousands of ticks may wait: all at once they would fill the queue each second, and the log with their failures."""
    expected_errors.add("rows_not_stored_yet")
    sink = Sink(db)
    db.fail_next()
    for n in range(5):
        sink.rows.add(n, 10)
        await db.flushed()
        await asyncio.sleep(0)
    assert db.owed == 5
    for _ in range(3):
        before = db.durable
        db.fail_next()
        sink.clock.advance(RETRY_SECONDS)
        await db.flushed()
        assert db.durable == before + 1
    sink.clock.advance(RETRY_SECONDS)
    await db.flushed()
    await db.flushed()
    assert await sink.kept() == [0, 1, 2, 3, 4]
    assert (sink.rows.rows, sink.rows.bytes) == (0, 0)


async def test_what_waits_can_be_handed_over_at_once(db: MemoryDatabase, expected_errors: ExpectedErrors) -> None:
    expected_errors.add("rows_not_stored_yet")
    sink = Sink(db)
    db.fail_next()
    for n in range(3):
        sink.rows.add(n, 10)
        await db.flushed()
        await asyncio.sleep(0)
    sink.rows.hand_over()
    await db.flushed()
    assert await sink.kept() == [0, 1, 2]
    sink.clock.advance(RETRY_SECONDS)
    await db.flushed()
    assert (sink.rows.rows, len(sink.jobs)) == (0, 3)


async def test_what_is_no_longer_to_be_stored_is_not_tried_again(
    db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("rows_not_stored_yet")
    gone: set[int] = set()
    clock = FakeClock()
    told: list[list[int]] = []
    rows = Gathering[int](
        db,
        clock,
        "test",
        lambda c, rows: c.many("INSERT INTO kept (number) VALUES (?)", [(row,) for row in rows]),
        *(1_000, 1_000),
        told.append,
        lambda row: row not in gone,
    )
    db.fail_next()
    for tick in ((7,), (1, 2), (3,)):
        for n in tick:
            rows.add(n, 10)
        await db.flushed()
        await asyncio.sleep(0)
    gone |= {2, 3, 7}
    clock.advance(RETRY_SECONDS)  # the first tick of which anything is left, not a second for each that is empty
    await db.flushed()
    await db.flushed()
    assert await db.fetch("SELECT number FROM kept") == [(1,)]
    assert told == [[7], [1, 2], [3], [1]]
    assert (rows.rows, rows.bytes, db.owed) == (0, 0, 0)


async def test_rows_that_can_never_be_stored_are_reported(db: MemoryDatabase, expected_errors: ExpectedErrors) -> None:
    expected_errors.add("rows_lost")
    sink = Sink(db)
    sink.rows.add(1, 10)
    await db.flushed()
    db.fail_next(ConstraintViolated("no"))
    sink.rows.add(2, 10)
    await db.flushed()
    sink.rows.add(1, 10)  # violates the table's own constraint
    await db.flushed()
    sink.clock.advance(10 * RETRY_SECONDS)
    await db.flushed()
    assert await sink.kept() == [1]
    assert (sink.rows.rows, sink.rows.bytes, sink.told) == (0, 0, [[1], [2], [1]])


async def test_a_row_that_can_never_be_stored_takes_none_of_its_tick_along(
    db: MemoryDatabase, expected_errors: ExpectedErrors, caplog: pytest.LogCaptureFixture
) -> None:
    expected_errors.add("rows_lost")
    sink = Sink(db)
    sink.rows.add(1, 10)
    await db.flushed()
    for row in (2, 1, 3):  # the second violates the table's own constraint
        sink.rows.add(row, 10)
    db.submit("other", lambda c: None)
    await db.flushed()
    assert await sink.kept() == [1, 2, 3]
    assert (sink.rows.rows, sink.rows.bytes, db.owed) == (0, 0, 0)
    assert [record.getMessage() for record in caplog.records].count("rows_lost") == 1


async def test_what_is_on_its_way_is_forgotten_if_it_is_refused(
    db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    """A removed account would get its messages back."""
    expected_errors.add("rows_not_stored_yet")
    sink = Sink(db)
    with db.held():
        for row in (1, 2):
            sink.rows.add(row, 10)
            sink.rows.seal()
        sink.rows.drop(lambda row: row in (1, 3))
        sink.rows.add(3, 10)  # a new account of the same name
        db.fail_next(jobs=3)
    await db.flushed()
    for _ in range(3):
        sink.clock.advance(RETRY_SECONDS)
        await db.flushed()
    assert await sink.kept() == [2, 3]
    assert (sink.rows.rows, sink.rows.bytes, db.owed, sink.rows._dropped) == (0, 0, 0, [])


async def test_rows_for_which_there_is_no_memory_are_tried_again(
    db: MemoryDatabase, expected_errors: ExpectedErrors
) -> None:
    """Python has an exception of its own for that; they were given up, and acknowledged."""
    expected_errors.add("rows_not_stored_yet")
    sink = Sink(db)
    write, short = sink.write, [True, True, True]

    def short_of_memory(c: Cursor, rows: list[int]) -> None:
        write(c, rows)
        if short:
            raise MemoryError

    sink.rows = Gathering[int](db, sink.clock, "test", short_of_memory, 100, 1_000)
    sink.rows.add(1, 10)
    await db.flushed()
    assert db.owed == 1
    short.clear()
    sink.clock.advance(RETRY_SECONDS)
    await db.flushed()
    assert await sink.kept() == [1]
    assert db.owed == 0


async def test_a_closed_database(db: MemoryDatabase, expected_errors: ExpectedErrors) -> None:
    expected_errors.add("rows_not_stored_yet")
    expected_errors.add("rows_lost")
    sink = Sink(db)
    db.fail_next()
    sink.rows.add(1, 10)
    await db.flushed()
    sink.rows.add(2, 10)
    await db.close()
    with pytest.raises(StorageClosed):
        sink.rows.add(3, 10)
    sink.clock.advance(RETRY_SECONDS)
    assert sink.jobs == []
    assert db.owed  # nobody may be told that these are safe


async def test_too_many_callbacks_of_others_leave_no_job_behind(expected_errors: ExpectedErrors) -> None:
    """Who cannot be told of the commit is refused as a whole, at first and when it is tried again."""
    expected_errors.add("rows_not_stored_yet")
    async with MemoryDatabase(queue_limit=4) as db:
        await db.write("table", lambda c: c.run("CREATE TABLE kept (number INTEGER NOT NULL UNIQUE)"))
        sink = Sink(db)

        def crowd() -> None:
            position = db.submit("other", lambda c: None)
            for _ in range(4 * WAITERS_PER_JOB):
                db.when_durable(position, lambda: None)
            with pytest.raises(StorageBusy):
                db.when_durable(position, lambda: None)

        crowd()
        with pytest.raises(StorageBusy):
            sink.rows.add(2, 10)
        await db.flushed()
        assert (await sink.kept(), sink.rows.rows) == ([], 0)
        db.fail_next()
        sink.rows.add(1, 10)
        await db.flushed()
        crowd()
        sink.clock.advance(RETRY_SECONDS)
        await db.flushed()
        assert (await sink.kept(), sink.rows.rows, db.owed) == ([], 1, 1)
        sink.rows.add(3, 10)
        sink.clock.advance(RETRY_SECONDS)
        await db.flushed()
        await db.flushed()
        assert await sink.kept() == [1, 3]
        assert (sink.rows.rows, sink.rows.bytes, sink.told) == (0, 0, [[1], [3], [1], [3]])


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 255, 256, 341, 1_000])
def test_pieces_are_of_few_sizes(count: int) -> None:
    pieces = list(in_pieces(range(count)))
    assert [n for piece, _ in pieces for n in piece] == list(range(count))
    assert all(len(piece) == size for piece, size in pieces)
    assert {size for _, size in pieces} <= {256, 64, 16, 4, 1}
    assert len(pieces) < 16


def test_places() -> None:
    assert places(2, 3) == "(?, ?), (?, ?), (?, ?)"
    assert places(1, 1) == "(?)"


async def test_what_the_end_of_a_tick_adds_belongs_to_that_tick(db: MemoryDatabase) -> None:
    sink = Sink(db)
    db.at_tick_end(lambda: (sink.rows.add(1, 10), None)[1])
    await db.flushed()
    await db.write("wait", lambda c: None)
    assert not sink.rows.begun
    sink.rows.add(2, 10)
    await db.flushed()
    assert sink.jobs == [[1], [2]]
    assert await sink.kept() == [1, 2]


async def test_a_real_disk_that_is_nearly_full(tmp_path: Path, expected_errors: ExpectedErrors) -> None:
    """It takes small rows and refuses large ones; ticks are many, and many are on their way at a time."""
    expected_errors.add("rows_not_stored_yet")
    async with SqliteDatabase.open(tmp_path / "db") as db:
        await db.write(
            "table", lambda c: c.run("CREATE TABLE kept (number INTEGER NOT NULL UNIQUE, text TEXT NOT NULL)")
        )
        clock = FakeClock()

        def write(c: Cursor, rows: list[int]) -> None:
            c.many(
                "INSERT INTO kept (number, text) VALUES (?, ?)",
                [(n, "x" * (20_000 if n % 7 == 3 else 1)) for n in rows],
            )

        rows = Gathering[int](db, clock, "test", write, 1_000, 1_000_000)

        async def kept() -> list[int]:
            return [number for (number,) in await db.fetch("SELECT number FROM kept ORDER BY rowid")]

        await db.write("limit", lambda c: c.run("PRAGMA max_page_count = 12"))
        last: list[int] = []
        for n in range(300):
            rows.add(n, 10)
            if n % 3 == 0:
                await asyncio.sleep(0)
            if n % 10 == 0:
                await db.flushed()
                clock.advance(RETRY_SECONDS)
                last = await kept()
                assert last == list(range(len(last)))
        assert 0 < len(last) < 20
        assert db.owed > 0
        await db.write("limit", lambda c: c.run("PRAGMA max_page_count = 100000"))
        for _ in range(3):
            clock.advance(RETRY_SECONDS)
            await db.flushed()
        assert await kept() == list(range(300))
        assert (rows.rows, rows.bytes, db.owed) == (0, 0, 0)
