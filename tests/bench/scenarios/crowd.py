"""Whether work costs more where many are connected: the same chat on a server with only these pairs, and on one with thousands
of other sessions. Both servers run at once on the same core and are loaded by turns, so that a machine whose speed changes
changes both figures."""

from __future__ import annotations

from dataclasses import replace

from tests.bench.load import Bench, Options
from tests.bench.measure import Row, Span
from tests.bench.scenarios import chat
from tests.bench.scenarios.idle import enough_files


def accounts(options: Options) -> int:
    """As many as sessions."""
    return options.sessions


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of a message with few and with many sessions, by turns."""
    options = bench.options
    speaking = 2 * options.pairs
    enough_files(options.sessions + speaking)
    setting = replace(bench.server.setting, accounts=speaking, port=0)
    async with type(bench.server)(setting) as other:
        small = Bench(other, options)
        try:
            loads = [
                await chat.conversations(side, await side.login_all(side.server.accounts[:speaking]))
                for side in (small, bench)
            ]
            await bench.login_from_many(bench.server.accounts[speaking:])
            runs: list[list[tuple[int, Span]]] = [[], []]
            for load in loads:
                await load.run(options.warmup)
            for _ in range(options.repeat):
                for side, load, own in zip((small, bench), loads, runs, strict=True):
                    span = side.span().start()
                    units = await load.run(options.seconds)
                    own.append((units, span.stop()))
            for load in loads:
                await load.finish()
        finally:
            await small.drop_all()
    title = f"{options.security.value}, {options.in_flight} in flight"
    return [
        Row.of("crowd", f"{title}, {count} sessions", "message", own)
        for count, own in zip((speaking, options.sessions), runs, strict=True)
    ]
