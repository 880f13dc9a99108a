"""The log of stream management on a disk that is slow and refuses some jobs while it takes others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.modules.sm.journal import Play, Stream

from beamish.modules.sm import store
from beamish.modules.sm.outlet import Sent
from beamish.storage.api import StorageBusy, StorageUnavailable
from beamish.storage.commits import Job, Outcome, Work
from beamish.storage.memory import MemoryDatabase
from beamish.storage.migrate import migrate
from beamish.testing.plugin import ExpectedErrors

BEGIN, MESSAGES, JOURNAL = "sm.begin", "sm.messages", "sm.journal"
REFUSED = ((), (MESSAGES,), (JOURNAL,), (MESSAGES, JOURNAL), (BEGIN,), (BEGIN, JOURNAL))


class Disk(MemoryDatabase):
    """Commits when told to, a tick at a time, and may refuse jobs by their names, with what is `whole` behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = False
        self.refused = 0
        """The last position up to which something was refused."""
        self.inbox: deque[list[Job]] = deque()

    def _commit(self) -> None:
        if not self.slow:
            super()._commit()
        elif jobs := self._take():
            self.inbox.append(jobs)

    def commit(self, refused: Collection[str] = ()) -> None:
        """Make the next commit."""
        if not self.inbox:
            return
        jobs = self.inbox.popleft()
        full = StorageUnavailable("the disk is full")
        outcome: dict[int, BaseException] = {}
        for at, job in enumerate(jobs):
            whole = isinstance(job, Work) and job.whole and (bool(outcome) or job.after < self.refused)
            if whole or job.name in refused:
                outcome[at] = full
            else:
                assert not self._engine.commit([job]).failures
        self._settle(Outcome(jobs, outcome))
        if outcome:
            self.refused = self.durable


async def turn() -> None:
    """Let the tick end."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class Queue(list[Sent]):
    """What a session has sent and its client has not confirmed."""

    confirmed = 0

    @property
    def sent(self) -> int:
        return len(self)


class Stopped:
    """A session as the end of the server finds it."""

    exact = True

    def __init__(self, stream: Stream, sent: list[Sent]) -> None:
        self.key, self.count, self.row = stream.key, stream.count, stream.row
        self.queue = Queue(sent)


class Journey(Play):
    """What was on disk once stays there until it is confirmed, and what was confirmed does not come back."""

    def __init__(self, db: Disk) -> None:
        super().__init__(db)
        self.disk = db
        self.kept: set[bytes] = set()
        self.done: set[bytes] = set()
        self.gone: set[bytes] = set()
        self.promised: list[tuple[Stream, int, set[bytes]]] = []
        """What was sent before a stanza of a stream was handled: it may be what that stanza caused."""

    def handle(self, stream: Stream, count: int) -> None:
        super().handle(stream, count)
        sent = {one.data for waiting in self.waiting.values() for one in waiting}
        self.promised.append((stream, stream.count, sent))

    def confirm(self, stream: Stream, count: int) -> None:
        self.done |= {sent.data for sent in self.waiting[stream][:count]}
        super().confirm(stream, count)

    async def crash(self) -> None:
        async with self.db.copy() as crashed:
            found = await store.Journal(crashed, self.clock).load(self.clock.now())
        there = [wire for one in found for *_, wire in one.messages]
        assert len(set(there)) == len(there)
        assert self.kept - self.done <= set(there)
        assert not self.gone & set(there)
        for stream, count, sent in self.promised:
            if count <= stream.acknowledged:
                assert sent - self.done <= set(there), "acknowledged, and not on disk"
        self.kept |= set(there)
        self.gone |= (self.kept & self.done) - set(there)
        assert {stream.key for stream in self.waiting if stream.acknowledged} <= {one.key for one in found}
        for one in found:
            assert [wire for *_, wire in one.messages] == sorted((wire for *_, wire in one.messages), key=int)
            (stream,) = [stream for stream in self.waiting if stream.key == one.key]
            assert stream.acknowledged <= one.handled <= stream.count

    async def stop(self, refused: list[int]) -> None:
        """An orderly stop, while the disk refuses this and that, but not the last job of all."""
        saved = [Stopped(stream, sent) for stream, sent in self.waiting.items()]
        saving = asyncio.ensure_future(self.journal.save(saved))
        for which in [*refused, *([0] * 50)]:
            await turn()
            self.disk.commit(REFUSED[which])
            await turn()
        assert saving.done()
        await saving
        async with self.db.copy() as next_start:
            found = await store.Journal(next_start, self.clock).load(self.clock.now())
        left = {one.key: [wire for *_, wire in one.messages] for one in found}
        assert left == {stream.key: [sent.data for sent in sents] for stream, sents in self.waiting.items()}
        assert {one.key: one.handled for one in found} == {stream.key: stream.count for stream in self.waiting}

    async def recover(self) -> None:
        """The disk takes everything again."""
        for _ in range(6):
            await turn()
            while self.disk.inbox:
                self.disk.commit()
                await turn()
            self.clock.advance(store.FOLD_SECONDS)
        await turn()
        self.disk.slow = False
        while self.disk.inbox:
            self.disk.commit()
        await self.settle()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("confirm"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("handle"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("turn"), st.just(0), st.just(0)),
        st.tuples(st.just("commit"), st.just(0), st.integers(0, 5)),
        st.tuples(st.just("time"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, entries=st.sampled_from([1, 3, 10_000]), stop=st.none() | st.lists(st.integers(0, 3), max_size=3))
async def test_whatever_the_disk_refuses(
    expected_errors: ExpectedErrors, steps: list[tuple[str, int, int]], entries: int, stop: list[int] | None
) -> None:
    """In the end the disk recovers, or the server stops while it refuses some things still."""
    expected_errors.add("sessions_not_stored")
    expected_errors.add("rows_not_stored_yet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "FOLD_ENTRIES", entries)
        async with Disk() as db:
            assert isinstance(db, Disk)
            await migrate(db, "sm", store.MIGRATIONS)
            journey = Journey(db)
            streams = [journey.begin()]
            await journey.settle()
            db.slow = True
            streams.append(journey.begin())  # its row may be refused
            for what, which, count in steps:
                journey.step(what, streams[which], count)
                if what == "turn":
                    await turn()
                elif what == "commit":
                    await turn()
                    db.commit(REFUSED[count])
                    await journey.crash()
            if stop is None:
                await journey.recover()
                await journey.check()
                assert all(stream.acknowledged == stream.count for stream in streams)
            else:
                await journey.stop(stop)


@pytest_asyncio.fixture
async def journey(expected_errors: ExpectedErrors) -> AsyncIterator[Journey]:
    expected_errors.add("sessions_not_stored")
    expected_errors.add("rows_not_stored_yet")
    async with Disk() as db:
        assert isinstance(db, Disk)
        await migrate(db, "sm", store.MIGRATIONS)
        yield Journey(db)


async def test_what_was_refused_and_folded_meanwhile_does_not_come_again(journey: Journey) -> None:
    """Twice in the tables, it would keep the server from starting; once confirmed, it would come back."""
    stream = journey.begin()
    await journey.settle()
    journey.disk.slow = True
    journey.send(stream, b"1")
    await turn()
    journey.disk.commit([MESSAGES])
    journey.journal._fold_due = True
    journey.handle(stream, 1)
    await turn()
    journey.disk.commit()
    journey.clock.advance(1.0)
    await turn()
    journey.disk.commit()
    await journey.crash()
    journey.confirm(stream, 1)
    await turn()
    journey.disk.commit()
    await journey.crash()
    assert journey.gone == {b"1"}


async def test_what_was_confirmed_while_a_fold_was_refused_is_confirmed(journey: Journey) -> None:
    stream = journey.begin()
    await journey.settle()
    journey.disk.slow = True
    journey.send(stream, b"1")
    journey.send(stream, b"2")
    await turn()
    journey.disk.commit()
    journey.clock.advance(store.FOLD_SECONDS)
    await turn()
    journey.confirm(stream, 1)
    await turn()
    journey.disk.commit([JOURNAL])  # the fold, and not the confirmation behind it
    journey.disk.commit()
    await journey.recover()
    await journey.check()


async def test_a_fold_that_is_refused_takes_no_message_with_it(journey: Journey) -> None:
    """A second one behind it would delete the log, with what only the first one has."""
    stream = journey.begin()
    await journey.settle()
    journey.disk.slow = True
    journey.send(stream, b"1")
    await turn()
    journey.disk.commit()
    for _ in range(2):
        journey.clock.advance(store.FOLD_SECONDS)
        journey.journal._fold_soon()
        journey.handle(stream, 1)
        await turn()
    journey.disk.commit([JOURNAL])
    await journey.crash()
    journey.disk.commit()
    assert journey.kept == {b"1"}
    await journey.crash()


async def test_who_cannot_be_told_of_a_commit_writes_once(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most statements may run twice, but not all: a session's end would then be refused for ever, and with it what follows."""
    stream = journey.begin()
    other = journey.begin()
    journey.send(other, b"1")
    await journey.settle()
    journey.journal._fold_due = True
    journey.handle(other, 1)
    journey.journal.forget(stream, journey.clock.now() + 60.0)
    with monkeypatch.context() as patch:

        def crowded(*_: object) -> None:
            raise StorageBusy("too many callbacks")

        patch.setattr(journey.db, "when_durable", crowded)
        await turn()
    del journey.waiting[stream]
    assert other.acknowledged == 0
    journey.clock.advance(1.0)
    await journey.check()
    assert other.acknowledged == 1
    assert [id for (id,) in await journey.db.fetch("SELECT id FROM sm_ended")] == [stream.id]


async def test_a_fold_that_is_refused_does_not_keep_acknowledgements(journey: Journey) -> None:
    """Nor is it tried again with each of them: it may be large."""
    stream = journey.begin()
    journey.send(stream, b"1")
    await journey.settle()
    journey.clock.advance(store.FOLD_SECONDS)
    journey.disk.slow = True
    await turn()
    journey.disk.commit([JOURNAL])
    for count in (1, 2):
        journey.handle(stream, 1)
        await turn()
        journey.disk.commit()
        assert stream.acknowledged == count
        assert await journey.db.fetch("SELECT id FROM sm_message") == []
    await journey.recover()
    assert await journey.db.fetch("SELECT wire FROM sm_message") == [(b"1",)]
    await journey.check()


async def test_messages_alone_make_the_log_fold(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from elsewhere, to clients that confirm nothing, must not fill the memory until a timer is due."""
    monkeypatch.setattr(store, "FOLD_BYTES", 5)
    stream = journey.begin()
    for number in range(1, 10):
        journey.send(stream, b"%d" % number)
        await journey.settle()
    assert await journey.db.fetch("SELECT wire FROM sm_message ORDER BY id") == [(b"%d" % n,) for n in range(1, 6)]
    await journey.check()


async def test_a_session_whose_state_cannot_be_told_keeps_nobody_else(
    journey: Journey, expected_errors: ExpectedErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_errors.add("session_state_not_stored")
    expected_errors.add("acknowledgement_failed")
    first, second = journey.begin(), journey.begin()
    await journey.settle()

    def broken(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(first, "row", broken)
    monkeypatch.setattr(first, "committed", broken)
    journey.journal.changed(first)
    for stream in (first, second):
        journey.handle(stream, 1)
    await journey.settle()
    assert second.acknowledged == 1
    assert await journey.db.fetch("SELECT handled FROM sm_session") == [(0,), (0,)]
    first.acknowledged = 0
    await journey.check()


async def test_nothing_is_acknowledged_while_messages_wait(journey: Journey) -> None:
    """The disk refuses a message and takes what is small: counts, which would say that the message is safe."""
    stream = journey.begin()
    await journey.settle()
    journey.disk.slow = True
    journey.send(stream, b"1")
    journey.handle(stream, 1)
    await turn()
    journey.disk.commit([MESSAGES])
    await journey.crash()
    journey.send(stream, b"2")
    journey.handle(stream, 1)
    for _ in range(3):
        await turn()
        journey.disk.commit([MESSAGES])
        await journey.crash()
        assert stream.acknowledged == 0
        journey.clock.advance(1.0)
    await journey.recover()
    await journey.check()
    assert stream.acknowledged == 2
