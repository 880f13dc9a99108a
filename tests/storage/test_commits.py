from __future__ import annotations

import asyncio

import pytest

from beamish.storage import commits
from beamish.storage.commits import CommitQueue


@pytest.mark.parametrize(("jobs", "size"), [(0, 1), (1, 0)])
async def test_a_queue_without_room_is_refused(jobs: int, size: int) -> None:
    with pytest.raises(ValueError, match="room for one"):
        CommitQueue(asyncio.get_running_loop(), jobs, size)


class Slow(CommitQueue):
    """Counts how often it is called to work."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop(), 100, 10_000)
        self.calls = 0
        self.called = asyncio.Event()

    def _wake(self) -> None:
        self.calls += 1
        self.called.set()


async def test_lazy_rows_do_not_wake_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "LAZY_SECONDS", 3_600.0)
    queue = Slow()
    for _ in range(3):
        queue.append("a", "x", (), lazy=True)
    assert queue.calls == 0
    queue.append("a", "x", ())
    queue.append("a", "x", (), lazy=True)
    queue.append("a", "x", ())
    assert queue.calls == 1
    assert len(queue._take()) == 6
    queue.append("a", "x", ())
    assert queue.calls == 2


async def test_nor_do_they_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "LAZY_SECONDS", 0.0)
    queue = Slow()
    queue.append("a", "x", (), lazy=True)
    assert queue.calls == 0
    await asyncio.wait_for(queue.called.wait(), 5)
    assert queue.calls == 1
    queue.append("a", "x", (), lazy=True)
    assert len(queue._take()) == 2
    queue.at_tick_end(lambda: None)
    assert queue.calls == 2
