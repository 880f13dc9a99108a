"""Sessions that are online and say nothing: what each costs in memory, unprotected and with TLS."""

from __future__ import annotations

import asyncio
import resource

from tests.bench.load import Bench, Options
from tests.bench.measure import Row, memory
from tests.bench.wire import BenchError, Security

WARM = 10  # few: what they leave behind is taken up by the sessions that are measured
SPARE = 500  # files that generator and server need besides
SECURITIES = (Security.PLAIN, Security.TLS)


def accounts(options: Options) -> int:
    """One per session."""
    return options.sessions


async def run(bench: Bench) -> list[Row]:
    """Measure the growth of the server's memory by its sessions."""
    options, server = bench.options, bench.server
    enough_files(options.sessions)
    # Code loaded, pools and caches filled once: not the price of a session.
    for client in await bench.login_all(server.accounts[:WARM]):
        await bench.close(client)
    await asyncio.sleep(options.settle)  # collectors run, parsers of quiet sessions are put away
    before = memory(server.pids)
    clients = await bench.login_from_many(server.accounts)
    await asyncio.sleep(options.settle)
    after = memory(server.pids)
    watch = bench.span().start()
    await asyncio.sleep(min(5.0, options.settle))
    watch.stop()
    for client in clients:
        if client.failure is not None:
            raise client.failure
    count = options.sessions
    row = Row("idle", f"{options.security.value} {count} sessions", "session", units=count)
    row.figures = {
        "PSS KiB each": (after.pss - before.pss) / 1024 / count,
        "RSS KiB each": (after.rss - before.rss) / 1024 / count,
        "PSS MiB without": before.pss / 2**20,
        "PSS MiB with": after.pss / 2**20,
        "idle CPU %": watch.server / watch.wall * 100,
    }
    return [row]


def enough_files(sessions: int) -> None:
    """Raise the limit of open files, here and for servers started later. Raises BenchError if it cannot be high enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < sessions + SPARE:
        if hard != resource.RLIM_INFINITY and hard < sessions + SPARE:
            raise BenchError(f"{sessions} sessions need {sessions + SPARE} open files, {hard} are allowed (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (sessions + SPARE, hard))
