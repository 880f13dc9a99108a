"""The contract of `storage.api.Database`, on each engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from beamish.storage.api import (
    ConstraintViolated,
    Cursor,
    StorageBusy,
    StorageClosed,
    StorageError,
)

INSERT = "INSERT INTO item (text) VALUES (?)"


async def texts(db: Any) -> list[str]:
    return [text for (text,) in await db.fetch("SELECT text FROM item ORDER BY id")]


def add(text: str) -> Any:
    return lambda c: c.run(INSERT, text)


async def test_a_write_returns_its_result_and_is_seen_by_readers(db: Any) -> None:
    assert await db.write("w", lambda c: c.value("INSERT INTO item (text) VALUES (?) RETURNING id", "a")) == 1
    assert await db.fetch("SELECT id, text FROM item WHERE text = ?", "a") == [(1, "a")]
    assert await db.read("r", lambda c: c.row("SELECT id FROM item")) == (1,)


async def test_cursor_methods(db: Any) -> None:
    def everything(c: Cursor) -> None:
        c.many(INSERT, [("a",), ("b",), ("c",)])
        assert c.run("UPDATE item SET text = text || '!' WHERE id > ?", 1) == 2
        assert c.rows("SELECT text FROM item ORDER BY id") == [("a",), ("b!",), ("c!",)]
        assert c.row("SELECT id, text FROM item WHERE id = ?", 2) == (2, "b!")
        assert c.row("SELECT id FROM item WHERE id = 9") is None
        assert c.value("SELECT count(*) FROM item") == 3
        assert c.value("SELECT id FROM item WHERE id = 9") is None

    await db.write("w", everything)


async def test_a_write_that_raises_leaves_no_trace(db: Any) -> None:
    def half(c: Cursor) -> None:
        c.run(INSERT, "half")
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        await db.write("w", half)
    assert await texts(db) == []


async def test_one_failure_in_a_batch_takes_no_other_with_it(db: Any) -> None:
    def half(c: Cursor) -> None:
        c.run(INSERT, "half")
        raise LookupError

    failures: list[Exception] = []
    db.append("a", INSERT, ("one",))
    broken = asyncio.gather(db.write("w", half), db.write("w", add("two")), return_exceptions=True)
    await asyncio.sleep(0)  # lets the two writes into the queue
    for text in ("three", "one", "four"):
        db.append("a", INSERT, (text,), failures.append)
    db.append("a", INSERT, ("too", "many"), failures.append)
    db.append("a", INSERT, (object(),), failures.append)
    db.append("a", "INSERT INTO nowhere VALUES (?)", (1,), failures.append)
    await db.flushed()
    first, second = await broken
    assert isinstance(first, LookupError)
    assert second == 1
    assert await texts(db) == ["one", "two", "three", "four"]
    assert [isinstance(exc, StorageError) for exc in failures] == [True] * 4
    assert isinstance(failures[0], ConstraintViolated)


@pytest.mark.parametrize("size", [2, 7, 8, 9, 71, 72, 73, 700, 2_100])
async def test_rows_of_any_batch_size_arrive_in_order(db: Any, size: int) -> None:
    wanted = [f"text {n}" for n in range(size)]
    for text in wanted:
        db.append("a", INSERT, (text,))
    await db.flushed()
    assert await texts(db) == wanted


@pytest.mark.parametrize("bad", [0, 5, 99])
async def test_a_bad_row_in_a_long_run_is_the_only_one_missing(db: Any, bad: int) -> None:
    await db.write("w", add("taken"))
    failed: list[int] = []
    for n in range(100):
        db.append("a", INSERT, ("taken" if n == bad else f"{n}",), lambda exc, n=n: failed.append(n))
    await db.flushed()
    assert failed == [bad]
    assert await texts(db) == ["taken", *(f"{n}" for n in range(100) if n != bad)]


async def test_rows_with_unequal_widths_are_not_mixed_up(db: Any) -> None:
    await db.write("w", lambda c: c.run("CREATE TABLE pair (a, b)"))
    failed: list[int] = []
    widths = [2, 1, 3, 2, 2, 2, 2, 2]  # eight rows, sixteen parameters: right in sum, wrong one by one
    for n, width in enumerate(widths):
        db.append("a", "INSERT INTO pair VALUES (?, ?)", (n,) * width, lambda exc, n=n: failed.append(n))
    await db.flushed()
    assert failed == [1, 2]
    assert await db.fetch("SELECT a, b FROM pair ORDER BY a") == [(n, n) for n in (0, 3, 4, 5, 6, 7)]


async def test_upserts_of_the_same_key_apply_in_order(db: Any) -> None:
    await db.write("w", lambda c: c.run("CREATE TABLE last (key TEXT PRIMARY KEY, n INTEGER)"))
    sql = "INSERT INTO last (key, n) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET n = excluded.n"
    for n in range(90):
        db.append("a", sql, (f"k{n % 3}", n))
    await db.flushed()
    assert await db.fetch("SELECT key, n FROM last ORDER BY key") == [("k0", 87), ("k1", 88), ("k2", 89)]


async def test_writes_appends_and_submits_share_one_order(db: Any) -> None:
    db.append("a", INSERT, ("first",))
    seen = asyncio.ensure_future(db.write("w", lambda c: c.value("SELECT text FROM item")))
    await asyncio.sleep(0)
    db.submit("s", lambda c: c.many("UPDATE item SET text = ?", [("second",)]))
    assert await seen == "first"
    assert await db.write("w", lambda c: c.value("SELECT text FROM item")) == "second"


async def test_statements_of_other_tasks_never_slip_into_a_transaction(db: Any) -> None:
    await db.write("w", add("0"))

    def increase(c: Cursor) -> None:
        before = int(c.value("SELECT text FROM item"))
        c.run("UPDATE item SET text = ?", str(before + 1))

    await asyncio.gather(*(db.write("w", increase) for _ in range(50)))
    assert await texts(db) == ["50"]


async def test_limit_holds_under_concurrency(db: Any) -> None:
    def push(c: Cursor, text: str) -> bool:
        if c.value("SELECT count(*) FROM item") >= 5:
            return False
        c.run(INSERT, text)
        return True

    kept = await asyncio.gather(*(db.write("w", lambda c, n=n: push(c, f"{n}")) for n in range(20)))
    assert kept == [True] * 5 + [False] * 15
    assert len(await texts(db)) == 5


async def test_positions_become_durable_and_callbacks_run_in_their_order(db: Any) -> None:
    called: list[int] = []
    positions = [db.append("a", INSERT, (f"{n}",)) for n in range(4)]
    assert positions == list(range(positions[0], positions[0] + 4))
    assert db.durable < positions[0]
    for position in (positions[3], positions[0], positions[2]):
        db.when_durable(position, lambda p=position: called.append(p))
    assert called == []
    await db.flushed()
    assert called == [positions[0], positions[2], positions[3]]
    assert db.durable == positions[3]
    db.when_durable(positions[1], lambda: called.append(-1))
    assert called[-1] == -1
    with pytest.raises(ValueError, match="never given out"):
        db.when_durable(positions[3] + 1, lambda: None)


async def test_failed_is_called_before_the_position_counts_as_durable(db: Any) -> None:
    story: list[str] = []
    position = db.append("a", "INSERT INTO nowhere VALUES (1)", (), lambda exc: story.append(f"failed {db.durable}"))
    db.when_durable(position, lambda: story.append(f"durable {db.durable}"))
    await db.flushed()
    assert story == [f"failed {position - 1}", f"durable {position}"]


async def test_callbacks_that_raise_or_register_more_disturb_nobody(db: Any) -> None:
    called: list[str] = []
    first = db.append("a", INSERT, ("1",), None)
    second = db.append("a", INSERT, ("2",), None)

    def nested() -> None:
        called.append("first")
        db.when_durable(second, lambda: called.append("nested"))
        raise RuntimeError("mine")

    db.when_durable(first, nested)
    db.when_durable(second, lambda: called.append("second"))
    with capture_logs() as logs:
        await db.flushed()
    assert called == ["first", "second", "nested"]
    assert [entry["event"] for entry in logs] == ["durable_callback_failed"]


async def test_a_loss_nobody_listens_for_is_logged(db: Any) -> None:
    with capture_logs() as logs:
        db.append("archive.add", "INSERT INTO nowhere VALUES (?)", ("secret",))
        await db.flushed()
    assert [(entry["event"], entry["job"]) for entry in logs] == [("write_lost", "archive.add")]
    assert "secret" not in str(logs)


async def test_a_cancelled_caller_does_not_undo_its_write(db: Any) -> None:
    task = asyncio.ensure_future(db.write("w", add("kept")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await db.flushed()
    assert await texts(db) == ["kept"]


async def test_the_queue_is_bounded_by_jobs(db: Any) -> None:
    for n in range(3_000):
        db.append("a", INSERT, (f"{n}",))
    with pytest.raises(StorageBusy):
        db.append("a", INSERT, ("over",))
    with pytest.raises(StorageBusy):
        db.submit("s", lambda c: None)
    with pytest.raises(StorageBusy):
        await db.write("w", add("over"))
    await db.flushed()
    db.append("a", INSERT, ("after",))
    await db.flushed()
    assert (await texts(db))[-2:] == ["2999", "after"]


async def test_the_queue_is_bounded_by_bytes(db: Any) -> None:
    db.append("a", INSERT, ("a" * 900_000,))
    with pytest.raises(StorageBusy):
        db.append("a", INSERT, (b"b" * 100_001,))
    await db.flushed()
    db.append("a", INSERT, ("c" * 1_500_000,))  # larger than the limit, but alone
    with pytest.raises(StorageBusy):
        db.append("a", INSERT, ("d",))
    await db.flushed()
    assert [len(text) for text in await texts(db)] == [900_000, 1_500_000]


async def test_callbacks_are_bounded(db: Any) -> None:
    position = db.append("a", INSERT, ("1",))
    for _ in range(12_000):
        db.when_durable(position, lambda: None)
    with pytest.raises(StorageBusy):
        db.when_durable(position, lambda: None)
    await db.flushed()


async def test_readers_cannot_write(db: Any) -> None:
    with pytest.raises(StorageError, match="readonly"):
        await db.read("r", add("no"))
    with pytest.raises(StorageError, match="readonly"):
        await db.fetch("INSERT INTO item (text) VALUES ('no') RETURNING id")
    await db.write("w", add("yes"))
    assert await texts(db) == ["yes"]


async def test_what_a_read_raises_reaches_its_caller(db: Any) -> None:
    def broken(c: Cursor) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await db.read("r", broken)
    with pytest.raises(StorageError, match="nowhere"):
        await db.fetch("SELECT * FROM nowhere")


async def test_a_function_may_survive_a_violated_constraint(db: Any) -> None:
    await db.write("w", add("taken"))

    def stubborn(c: Cursor) -> str:
        try:
            c.run(INSERT, "taken")
        except ConstraintViolated:
            c.run(INSERT, "free")
            return "second choice"
        return "first choice"

    assert await db.write("w", stubborn) == "second choice"
    assert await texts(db) == ["taken", "free"]


@pytest.mark.parametrize("sql", ["COMMIT", " rollback", "BEGIN", "SAVEPOINT x", "RELEASE job", "END"])
async def test_a_function_cannot_end_the_transaction(db: Any, sql: str) -> None:
    def meddle(c: Cursor) -> None:
        c.run(INSERT, "meddler")
        c.run(sql)

    db.append("a", INSERT, ("bystander",))
    with pytest.raises(StorageError, match="transaction"):
        await db.write("w", meddle)
    assert await texts(db) == ["bystander"]


async def test_a_transaction_the_database_gave_up_is_done_again_for_the_others(db: Any) -> None:
    """`OR ROLLBACK` ends the whole transaction, as a full disk does."""
    await db.write("w", add("taken"))

    def give_up(c: Cursor) -> None:
        c.run(INSERT, "mine")
        try:
            c.run("INSERT OR ROLLBACK INTO item (text) VALUES (?)", "taken")
        except StorageError:
            c.run(INSERT, "outside of any transaction")

    failures: list[Exception] = []
    db.append("a", INSERT, ("before",))
    db.submit("s", give_up, failures.append)
    db.append("a", "INSERT OR ROLLBACK INTO item (text) VALUES (?)", ("taken",), failures.append)
    db.append("a", INSERT, ("after",))
    await db.flushed()
    assert [type(exc) for exc in failures] == [ConstraintViolated] * 2
    assert await texts(db) == ["taken", "before", "after"]


async def test_a_commit_that_fails_is_blamed_on_the_one_job(db: Any) -> None:
    """A deferred foreign key is only found wrong by COMMIT itself."""
    await db.write(
        "w",
        lambda c: c.run("CREATE TABLE child (parent INTEGER REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED)"),
    )
    failures: list[Exception] = []
    db.append("a", INSERT, ("one",), failures.append)
    db.append("a", "INSERT INTO child VALUES (?)", (99,), failures.append)
    db.append("a", INSERT, ("two",), failures.append)
    await db.flushed()
    assert [type(exc) for exc in failures] == [ConstraintViolated]
    assert await texts(db) == ["one", "two"]
    assert await db.fetch("SELECT * FROM child") == []


async def test_stop_iteration_does_not_hang_the_caller(db: Any) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await db.write("w", lambda c: next(iter(())))


async def test_close_commits_what_is_queued_and_tells_before_it_returns(db: Any) -> None:
    done: list[str] = []
    position = db.append("a", INSERT, ("last",))
    db.when_durable(position, lambda: done.append("durable"))
    waiting = asyncio.ensure_future(db.write("w", lambda c: c.value("SELECT text FROM item")))
    await asyncio.sleep(0)
    await db.close()
    assert done == ["durable"]
    assert await waiting == "last"
    await db.close()
    with pytest.raises(StorageClosed):
        db.append("a", INSERT, ("late",))
    with pytest.raises(StorageClosed):
        db.submit("s", lambda c: None)
    with pytest.raises(StorageClosed):
        await db.write("w", add("late"))
    with pytest.raises(StorageClosed):
        await db.read("r", lambda c: None)
    with pytest.raises(StorageClosed):
        await db.fetch("SELECT 1")


async def test_timings_count_each_name(db: Any) -> None:
    for n in range(10):
        db.append("archive.add", INSERT, (f"{n}",))
    await db.flushed()
    await db.write("roster.set", add("x"))
    await db.read("roster.get", lambda c: c.rows("SELECT 1"))
    await db.fetch("SELECT 1")
    timings = db.timings
    assert timings["archive.add"].count == 10
    assert timings["roster.set"].count == timings["roster.get"].count == timings["(fetch)"].count == 1
    assert timings["(commit)"].count >= 3
    assert all(0 <= timing.max <= timing.total for timing in timings.values())


async def test_lazy_rows_keep_their_place_and_arrive_by_themselves(db: Any) -> None:
    db.append("a", INSERT, ("one",), lazy=True)
    db.append("a", INSERT, ("two",), lazy=True)
    await db.write("w", add("three"))
    assert await texts(db) == ["one", "two", "three"], "the first that is in a hurry takes those before it along"
    done = asyncio.Event()
    db.when_durable(db.append("a", INSERT, ("four",), lazy=True), done.set)
    await asyncio.wait_for(done.wait(), 5)
    assert await texts(db) == ["one", "two", "three", "four"]
    db.append("a", INSERT, ("five",), lazy=True)
    await asyncio.wait_for(db.flushed(), 5)
    assert await texts(db) == ["one", "two", "three", "four", "five"]


async def test_a_lazy_row_behind_others_waits_for_nobody(db: Any) -> None:
    db.append("a", INSERT, ("one",))
    position = db.append("a", INSERT, ("two",), lazy=True)
    done = asyncio.Event()
    db.when_durable(position, done.set)
    await asyncio.wait_for(done.wait(), 5)
    assert await texts(db) == ["one", "two"]


async def test_close_takes_lazy_rows_along(db: Any) -> None:
    position = db.append("a", INSERT, ("one",), lazy=True)
    await db.close()
    assert db.durable == position
