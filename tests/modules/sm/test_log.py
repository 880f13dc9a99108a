"""The log of stream management: whatever happens between two starts, a start finds what was not confirmed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.modules.sm.journal import Play

from beamish.modules.sm import log, store
from beamish.storage.api import StorageUnavailable
from beamish.storage.memory import MemoryDatabase
from beamish.storage.migrate import migrate
from beamish.testing.plugin import ExpectedErrors

messages = st.tuples(
    st.integers(1, (1 << 63) - 1),
    st.integers(1, (1 << 63) - 1),
    st.none() | st.integers(0, (1 << 32) - 1),
    st.floats(0, 4e9),
    st.binary(max_size=40),
)


@given(
    ticks=st.lists(
        st.tuples(
            st.lists(messages, max_size=5),
            st.lists(st.tuples(st.integers(1, 3), st.integers(0, (1 << 32) - 1)), max_size=3),
            st.lists(st.integers(0, 30), max_size=3),
        ),
        max_size=8,
    )
)
async def test_the_log_comes_to_what_was_not_confirmed(ticks: list[tuple[Any, Any, list[int]]]) -> None:
    async with MemoryDatabase() as db:
        await migrate(db, "sm", store.MIGRATIONS)
        expected: dict[int, log.Message] = {}
        counts: dict[int, int] = {}
        for sent, handled, places in ticks:
            if sent:
                await db.write("messages", lambda c, sent=sent: log.write_messages(c, sent))  # type: ignore[misc]
                expected |= {message[0]: message for message in sent}
            confirmed = [row for at, row in enumerate(sorted(expected)) if at in places]
            await db.write("counts", lambda c, h=handled, k=confirmed: log.write_counts(c, h, k))  # type: ignore[misc]
            counts |= dict(handled)
            # a number is never given twice, so what is confirmed does not come again
            for row in confirmed:
                expected.pop(row)
        found = await db.read("read", log.read)
        gone = {row for row in found.messages if row not in expected}
        assert gone == set()
        assert set(found.messages) <= set(expected)
        assert dict(found.handled) == counts
        for row, message in found.messages.items():
            assert message == expected[row]
        await db.write("fold", lambda c: found.run(c))
        assert await db.fetch("SELECT id FROM sm_log") == []
        assert {row for (row,) in await db.fetch("SELECT id FROM sm_message")} == set(found.messages)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("confirm"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("handle"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("tick"), st.just(0), st.just(0)),
        st.tuples(st.just("time"), st.just(0), st.just(0)),
        st.tuples(st.just("check"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(steps=steps, entries=st.sampled_from([1, 3, 10_000]))
async def test_a_crash_at_any_time_leaves_what_was_not_confirmed(
    steps: list[tuple[str, int, int]], entries: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "FOLD_ENTRIES", entries)
        async with MemoryDatabase() as db:
            await migrate(db, "sm", store.MIGRATIONS)
            play = Play(db)
            streams = [play.begin() for _ in range(3)]
            for what, which, count in steps:
                play.step(what, streams[which], count)
                if what in ("tick", "time"):
                    await play.settle()
                elif what == "check":
                    await play.check()
            await play.check()
            assert all(stream.acknowledged == stream.count for stream in streams)


async def test_the_disk_refuses_the_fold_and_takes_it_later(expected_errors: ExpectedErrors) -> None:
    expected_errors.add("sessions_not_stored")
    expected_errors.add("rows_not_stored_yet")
    async with MemoryDatabase() as db:
        await migrate(db, "sm", store.MIGRATIONS)
        play = Play(db)
        stream = play.begin()
        for number in range(5):
            play.send(stream, b"%d" % number)
        await play.settle()
        db.fail_next(jobs=2)
        play.clock.advance(store.FOLD_SECONDS)
        play.handle(stream, 3)
        with pytest.raises(StorageUnavailable):
            await play.settle()
        assert stream.acknowledged == 0
        play.confirm(stream, 2)
        play.clock.advance(2.0)
        await play.check()
        assert stream.acknowledged == 3
        play.clock.advance(2 * store.FOLD_SECONDS)
        await play.check()
        assert await db.fetch("SELECT id FROM sm_log") == []
        assert [wire for (wire,) in await db.fetch("SELECT wire FROM sm_message ORDER BY id")] == [b"2", b"3", b"4"]
