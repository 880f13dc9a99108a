"""What every scenario is given: a running server, sessions, a stopwatch; and the ways to put load on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from tests.bench.measure import Profiled, Row, Span
from tests.bench.servers import Server
from tests.bench.wire import (
    PATIENCE,
    Account,
    BenchError,
    Client,
    Security,
    Tally,
    client_tls,
    login,
    stanza_type,
)

T = TypeVar("T")
R = TypeVar("R")

LOGINS_AT_ONCE = 20
SOURCES = 8
"""Addresses of the loopback that many sessions come from."""


@dataclass(frozen=True)
class Options:
    """What the command line chose."""

    security: Security = Security.PLAIN
    mechanism: str = "SCRAM-SHA-1"
    seconds: float = 5.0  # of one measured run
    repeat: int = 3  # runs; the report shows their median
    warmup: float = 1.0  # seconds of load before the first run
    rate: float | None = None  # pieces of load per second instead of a full pipe
    latency: float | None = None  # after the full pipe, a run at this rate on the same sessions
    pairs: int = 100
    in_flight: int = 1000
    contacts: int = 200
    occupants: int = 100
    under_way: int = 4  # presence, muc, pep: fan-outs at once; with 1 a server has nothing to join
    sessions: int = 1000
    messages: int = 3000  # archive: messages in it
    rows: int = 0  # archive: rows in it, if it is to be grown beyond what is sent
    settle: float = 20.0  # idle: seconds of rest before memory is read
    archive: bool = False
    carbons: bool = False  # chat: every session has XEP-0280 on
    sm: bool = False  # chat: every session has XEP-0198 on, and everything is acknowledged
    full: bool = False  # chat: address full JIDs
    spread: bool = False  # chat: every speaker speaks to all listeners in turn


class TooSlow(BenchError):
    """The server cannot keep up with a rate. Nothing was lost; there is only no latency to tell."""


class Bench:
    """A server under test and the sessions of the generator on it."""

    def __init__(self, server: Server, options: Options, profiler: Profiled | None = None) -> None:
        self.server = server
        self._profiler = profiler
        self.options = options
        self.context = client_tls()
        self._clients: set[Client] = set()

    async def login(self, account: Account, **changes: object) -> Client:
        """Log one account in; the session is dropped at the end of the scenario."""
        settings: dict[str, object] = {
            "security": self.options.security,
            "context": self.context,
            "mechanism": self.server.mechanism or self.options.mechanism,
        }
        client = await login(self.server.address, account, **(settings | changes))  # type: ignore[arg-type]
        self._clients.add(client)
        return client

    async def login_all(self, accounts: Sequence[Account], **changes: object) -> list[Client]:
        """Log many accounts in, a few at a time."""
        return await in_turns(accounts, lambda account: self.login(account, **changes))

    async def login_from_many(self, accounts: Sequence[Account]) -> list[Client]:
        """The same, from several addresses of the loopback, as thousands of sessions need."""
        sources = {account: f"127.0.0.{2 + number % SOURCES}" for number, account in enumerate(accounts)}
        return await in_turns(accounts, lambda account: self.login(account, source=sources[account]))

    async def close(self, client: Client) -> None:
        """Log a session out."""
        await client.close()
        self._clients.discard(client)

    async def drop_all(self) -> None:
        """Drop every session."""
        for client in self._clients:
            client.abort()
        self._clients.clear()

    def span(self) -> Span:
        """Make a stopwatch for the server; helper processes that exist now are counted."""
        return Span(self.server.pids, profiler=self._profiler)

    async def repeated(self, load: Load) -> list[tuple[int, Span]]:
        """Warm up, then run a load as often as asked; return units and cost of each run."""
        await load.run(self.options.warmup)
        load.latencies.clear()
        runs = []
        for _ in range(self.options.repeat):
            span = self.span().start()
            units = await load.run(self.options.seconds)
            runs.append((units, span.stop()))
        return runs

    async def measured(self, name: str, variant: str, how: str, unit: str, load: Load) -> list[Row]:
        """Run a load with a full pipe (`how` says how full), or at a rate, or first one and then the other.

        At the end everybody is asked whether something came that nobody sent.
        """
        options = self.options
        rows = []
        if options.rate is None:
            rows.append(Row.of(name, f"{variant}, {how}", unit, await self.repeated(load)))
        rate = options.latency if options.rate is None else options.rate
        if rate:
            load.rate = rate
            row = Row.of(name, f"{variant}, {rate:g}/s", unit, await self.repeated(load))
            rows.append(row.with_latencies(load.latencies))
            load.rate = None
        await load.finish()
        return rows


class Load:
    """A load that runs until its time is over and everything that was sent has arrived.

    With a full pipe it feeds itself: what arrives makes the scenario send more while the load is `open`. With a `rate` the
    same pieces (a message, a status change, a publication) are sent alone and evenly spaced, whatever arrives.

    A scenario writes `attach`, `fill` (the first sends) and `emit` (one piece), calls `sent` for the deliveries that became
    due and `took` for what arrived, and gives its tallies `note`, from which come the latencies.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._done: asyncio.Future[None] | None = None
        self._due = 0
        self._taken = 0
        self._pacing = False
        self._written: dict[tuple[bytes, int], float] = {}
        self.rate: float | None = None
        self.open = False
        self.latencies: list[float] = []
        for client in clients:
            client.on_failure = self.fail

    def attach(self) -> None:
        """Set the sinks of all sessions."""
        raise NotImplementedError

    def fill(self) -> None:
        """Send what fills the pipe."""
        raise NotImplementedError

    def emit(self) -> tuple[bytes, int]:
        """Send one piece; return its mark: flow and number."""
        raise NotImplementedError

    async def run(self, seconds: float) -> int:
        """Put load on for some seconds, wait until everything has arrived, return the number of deliveries.

        Raises BenchError when something is lost, doubled, out of order, or a session ends.
        """
        loop = asyncio.get_running_loop()
        for client in self._clients:
            if client.failure is not None:
                raise client.failure
        self._done = loop.create_future()
        self._taken = 0
        self._written.clear()
        self.attach()
        self._pacing = self.rate is not None
        self.open = not self._pacing
        timer = loop.call_later(seconds, self._close)
        try:
            if self._pacing:
                self._began, self._emitted = perf_counter(), 0
                self._tick()
            else:
                self.fill()
            await asyncio.wait_for(self._done, seconds + PATIENCE)
        except TimeoutError:
            raise BenchError(f"lost: {self._due} deliveries are still missing after {PATIENCE:.0f} s") from None
        finally:
            timer.cancel()
            self.open = self._pacing = False
        return self._taken

    async def finish(self) -> None:
        """Check that nobody received anything beyond what was counted: a copy, an error, a stray."""
        for client in self._clients:
            for stanza in await client.quiet():
                if stanza.startswith(b"<message") or stanza_type(stanza) == "error":
                    raise BenchError(f"{client.jid} received what nobody sent: {stanza.decode()}")

    def tally(self, tally: Tally) -> Tally:
        """Let what a tally sees be timed when the load has a rate; without one it would only cost the generator time."""
        tally.seen = None if self.rate is None else self.note
        return tally

    def note(self, flow: bytes, number: int) -> None:
        """A mark arrived somewhere: how long was it under way?"""
        if self._written:
            written = self._written.get((flow, number))
            if written is not None:
                self.latencies.append(perf_counter() - written)

    def sent(self, deliveries: int) -> None:
        """So many deliveries are due now."""
        self._due += deliveries

    def took(self, deliveries: int) -> None:
        """So many deliveries arrived."""
        self._due -= deliveries
        self._taken += deliveries
        if self._due <= 0 and not self.open and not self._pacing:
            self._finished()

    def fail(self, error: Exception) -> None:
        """End the run with an error."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def _tick(self) -> None:
        if not self._pacing or self.rate is None:
            return
        try:
            # Late timers are made up for, so the rate holds whatever the server does.
            due = int((perf_counter() - self._began) * self.rate) + 1
            while self._emitted < due:
                self._emitted += 1
                at = perf_counter()
                self._written[self.emit()] = at
        except BenchError as error:
            self.fail(error)
            return
        wait = self._began + due / self.rate - perf_counter()
        asyncio.get_running_loop().call_later(max(0.0, wait), self._tick)

    def _close(self) -> None:
        self.open = self._pacing = False
        if self._due <= 0:
            self._finished()

    def _finished(self) -> None:
        if self._due < 0:
            self.fail(BenchError(f"{-self._due} deliveries more than were due"))
        elif self._done is not None and not self._done.done():
            self._done.set_result(None)


async def at_rate(rate: float, seconds: float, work: Callable[[int], Awaitable[None]], slots: int) -> int:
    """Begin a piece of work so many times a second, evenly spaced, whether or not earlier ones have ended.

    `work` is given the number of a slot that no other piece uses at the time. Returns how many were done. Raises `TooSlow`
    when all slots are taken: the server is slower than the rate, and a latency would say nothing. What was begun is
    brought to its end first.
    """
    loop = asyncio.get_running_loop()
    free = list(range(slots))
    began = loop.time()
    count = 0

    async def piece(slot: int) -> None:
        await work(slot)
        free.append(slot)

    try:
        async with asyncio.TaskGroup() as group:
            while (due := began + count / rate) < began + seconds:
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not free:
                    break
                group.create_task(piece(free.pop(0)))
                count += 1
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    if due < began + seconds:
        raise TooSlow(f"{rate:g} a second are more than the server can do")
    return count


async def in_turns(items: Sequence[T], work: Callable[[T], Awaitable[R]], at_once: int = LOGINS_AT_ONCE) -> list[R]:
    """Do the work for every item, a bounded number at once; results in order of the items. The first error ends all."""
    results: dict[int, R] = {}
    waiting = iter(enumerate(items))

    async def worker() -> None:
        for number, item in waiting:  # shared: each item is taken by one worker
            results[number] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(items))):
                group.create_task(worker())
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    return [results[number] for number in range(len(items))]
