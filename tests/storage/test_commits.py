from __future__ import annotations

import asyncio

import pytest

from beamish.storage.commits import CommitQueue


@pytest.mark.parametrize(("jobs", "size"), [(0, 1), (1, 0)])
async def test_a_queue_without_room_is_refused(jobs: int, size: int) -> None:
    with pytest.raises(ValueError, match="room for one"):
        CommitQueue(asyncio.get_running_loop(), jobs, size)
