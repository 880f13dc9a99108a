"""Work in slices."""

from __future__ import annotations

import asyncio

import pytest

from beamish.core.later import unhurried


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
