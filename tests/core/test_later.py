"""Work in slices, and work that begins before it is awaited."""

from __future__ import annotations

import asyncio

import pytest

from beamish.core.later import Begun, unhurried


@pytest.mark.parametrize("number", [0, 1, 9, 10, 25])
async def test_everybody_has_a_turn_after_each_slice(number: int) -> None:
    seen: list[int] = []
    lengths: list[int] = []

    async def watch() -> None:
        while True:
            lengths.append(len(seen))
            await asyncio.sleep(0)

    watcher = asyncio.ensure_future(watch())
    async for item in unhurried(range(number), 10):
        seen.append(item)
    watcher.cancel()
    assert seen == list(range(number))
    assert lengths == [10 * at for at in range(1, number // 10 + 1)]


async def test_what_is_begun_runs_until_it_waits_and_goes_on_when_awaited() -> None:
    seen: list[str] = []
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> str:
        seen.append("first")
        word = await gate
        seen.append(word)
        await asyncio.sleep(0)
        return word * 2

    begun = Begun(work())
    assert seen == ["first"], "no task was needed for that"
    gate.set_result("then")
    await asyncio.sleep(0)
    assert seen == ["first"]
    assert await begun == "thenthen"
    assert seen == ["first", "then"]


@pytest.mark.parametrize("waits", [True, False])
async def test_what_something_begun_raises_is_raised_where_it_is_awaited(waits: bool) -> None:
    async def work() -> None:
        if waits:
            await asyncio.sleep(0)
        raise KeyError("x")

    begun = Begun(work())
    with pytest.raises(KeyError):
        await begun


async def test_what_is_begun_may_be_done_at_once() -> None:
    async def work() -> int:
        return 3

    assert await Begun(work()) == 3


async def test_cancelling_who_awaits_something_begun_cancels_it() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def wait(begun: Begun[None]) -> None:
        await begun

    task = asyncio.ensure_future(wait(Begun(work())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


async def test_something_begun_that_nobody_awaits_is_closed() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append("closed")

    begun = Begun(work())
    del begun
    assert seen == ["closed"]
