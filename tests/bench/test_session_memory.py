"""What a session at rest keeps in Python's memory must not clearly exceed what it kept before.

Counted is what code of the server allocates and still holds, so the test's own clients, lxml and the C library are not in it;
`python -m tests.bench idle` measures a whole process.
"""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

from tests.bench.yardstick import quiet_world

import beamish
from beamish.testing.world import World

FEW = 10
MANY = 40
MOST = 4_150
"""Bytes for each session and its account; 3,900 to 4,000 on Python 3.11 to 3.13."""
_SERVER = Path(beamish.__file__).parent


async def held_by(world: World, first: int, count: int) -> int:
    """Bytes that the server holds when so many more sessions are there and have said nothing for a while."""
    for number in range(first, first + count):
        client = await world.login(f"u{number}@example.org/here", roster=True, presence=True)
        client.inbox.clear()
    for _ in range(10):
        await world.pass_time(30.0)  # parsers are freed, what was written late is written
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces(
        (
            tracemalloc.Filter(True, f"{_SERVER}/*"),
            tracemalloc.Filter(False, f"{_SERVER}/testing/*"),
            tracemalloc.Filter(False, f"{_SERVER}/storage/*"),  # rows on their way, of whatever is read at the time
        )
    )
    return sum(trace.size for trace in snapshot.traces)


async def test_a_session_at_rest_keeps_no_more_than_it_did() -> None:
    tracemalloc.start()
    try:
        async with quiet_world(FEW + MANY) as world:
            few = await held_by(world, 0, FEW)
            many = await held_by(world, FEW, MANY)
    finally:
        tracemalloc.stop()
    each = (many - few) / MANY
    assert each < MOST, f"{each:.0f} bytes; tracemalloc's snapshots in held_by, compared by line, tell whose they are"
