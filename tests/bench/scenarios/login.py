"""The whole of a login: connect, secure, authenticate, bind, roster, presence, end the stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter

from tests.bench.load import LOGINS_AT_ONCE, Bench, Options, in_turns
from tests.bench.measure import Row, Span, quantile
from tests.bench.wire import Account, Security

SECURITIES = (Security.PLAIN, Security.STARTTLS)


def accounts(options: Options) -> int:
    """Enough that no two logins of one account meet."""
    return 2 * LOGINS_AT_ONCE


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of a login."""
    options = bench.options
    members = bench.server.accounts
    took: list[float] = []

    async def once(account: Account) -> None:
        began = perf_counter()
        client = await bench.login(account)
        took.append(perf_counter() - began)
        await client.close()
        bench.forget(client)

    async def until(ends: float, own: Sequence[Account]) -> None:
        while perf_counter() < ends:
            for account in own:
                await once(account)

    shares = [members[number::LOGINS_AT_ONCE] for number in range(LOGINS_AT_ONCE)]
    await in_turns(members, once)  # the generator derives its keys, the server loads its code
    took.clear()
    runs: list[tuple[int, Span]] = []
    for _ in range(options.repeat):
        before = len(took)
        span = bench.span().start()
        await in_turns(shares, partial(until, perf_counter() + options.seconds))
        runs.append((len(took) - before, span.stop()))
    row = Row.of("login", f"{options.security.value} {options.mechanism}", "login", runs)
    row.figures = {"p50 ms": quantile(took, 0.5) * 1e3, "p99 ms": quantile(took, 0.99) * 1e3}
    return [row]
