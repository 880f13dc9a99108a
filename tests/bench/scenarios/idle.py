"""Sessions that are online and say nothing: what each costs in memory, unprotected and with TLS."""

from __future__ import annotations

import asyncio

from tests.bench.load import Bench, Options
from tests.bench.measure import Row, memory
from tests.bench.wire import Security

SETTLE_SECONDS = 20.0  # collectors run, parsers of quiet sessions are put away
WARM = 10  # few: what they leave behind is taken up by the sessions that are measured
SECURITIES = (Security.PLAIN, Security.TLS)


def accounts(options: Options) -> int:
    """One per session."""
    return options.sessions


async def run(bench: Bench) -> list[Row]:
    """Measure the growth of the server's memory by its sessions."""
    options, server = bench.options, bench.server
    # Code loaded, pools and caches filled once: not the price of a session.
    warm = await bench.login_all(server.accounts[:WARM])
    for client in warm:
        await client.close()
        bench.forget(client)
    await asyncio.sleep(SETTLE_SECONDS)
    before = memory(server.pids)
    await bench.login_all(server.accounts)
    await asyncio.sleep(SETTLE_SECONDS)
    after = memory(server.pids)
    watch = bench.span().start()
    await asyncio.sleep(5.0)
    watch.stop()
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
