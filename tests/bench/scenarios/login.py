"""The whole of a login: connect, secure, authenticate, bind, roster, presence, end the stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter

from tests.bench.load import LOGINS_AT_ONCE, Bench, Options, at_rate, in_turns
from tests.bench.measure import Row, Span
from tests.bench.wire import Account, Security

SECURITIES = (Security.PLAIN, Security.STARTTLS)
RATE = 20.0


def accounts(options: Options) -> int:
    """Enough that no two logins of one account meet."""
    return 2 * LOGINS_AT_ONCE


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of a login, twenty at a time, or so many a second."""
    options = bench.options
    members = bench.server.accounts
    took: list[float] = []

    async def once(account: Account) -> None:
        began = perf_counter()
        client = await bench.login(account)
        took.append(perf_counter() - began)
        await bench.close(client)

    async def until(ends: float, own: Sequence[Account]) -> None:
        while perf_counter() < ends:
            for account in own:
                await once(account)

    shares = [members[number::LOGINS_AT_ONCE] for number in range(LOGINS_AT_ONCE)]
    await in_turns(members, once)  # the generator derives its keys, the server loads its code
    variant = f"{options.security.value} {options.mechanism}"
    rows = []
    if options.rate is None:
        runs: list[tuple[int, Span]] = []
        for _ in range(options.repeat):
            before = len(took)
            span = bench.span().start()
            await in_turns(shares, partial(until, perf_counter() + options.seconds))
            runs.append((len(took) - before, span.stop()))
        rows.append(Row.of("login", f"{variant}, {LOGINS_AT_ONCE} at once", "login", runs))
    rate = options.latency if options.rate is None else options.rate
    if rate:
        took.clear()
        runs = []
        for _ in range(options.repeat):
            span = bench.span().start()
            count = await at_rate(rate, options.seconds, lambda slot: once(members[slot]), len(members))
            runs.append((count, span.stop()))
        rows.append(Row.of("login", f"{variant}, {rate:g}/s", "login", runs).with_latencies(took))
    return rows
