"""What every scenario is given: a running server, sessions, a stopwatch; and the ways to put load on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tests.bench.measure import Span
from tests.bench.servers import Server
from tests.bench.wire import PATIENCE, Account, BenchError, Client, Security, client_tls, login, stanza_type

T = TypeVar("T")
R = TypeVar("R")

LOGINS_AT_ONCE = 20


@dataclass(frozen=True)
class Options:
    """What the command line chose."""

    security: Security = Security.PLAIN
    mechanism: str = "SCRAM-SHA-1"
    seconds: float = 5.0  # of one measured run
    repeat: int = 3  # runs; the report shows their median
    warmup: float = 1.0  # seconds of load before the first run
    rate: float | None = None  # chat: messages per second instead of a full pipe
    pairs: int = 100
    in_flight: int = 1000
    contacts: int = 200
    occupants: int = 100
    under_way: int = 4  # presence, muc, pep: fan-outs at once; with 1 a server has nothing to join
    sessions: int = 1000
    archive: bool = False
    carbons: bool = False  # chat: every session has XEP-0280 on
    sm: bool = False  # chat: every session has XEP-0198 on, and everything is acknowledged
    full: bool = False  # chat: address full JIDs
    spread: bool = False  # chat: every speaker speaks to all listeners in turn


class Bench:
    """A server under test and the sessions of the generator on it."""

    def __init__(self, server: Server, options: Options) -> None:
        self.server = server
        self.options = options
        self.context = client_tls()
        self._clients: list[Client] = []

    async def login(self, account: Account, **changes: object) -> Client:
        """Log one account in; the session is dropped at the end of the scenario."""
        settings: dict[str, object] = {
            "security": self.options.security,
            "context": self.context,
            "mechanism": self.options.mechanism,
        }
        client = await login(self.server.address, account, **(settings | changes))  # type: ignore[arg-type]
        self._clients.append(client)
        return client

    async def login_all(self, accounts: Sequence[Account], **changes: object) -> list[Client]:
        """Log many accounts in, a few at a time."""
        return await in_turns(accounts, lambda account: self.login(account, **changes))

    def forget(self, client: Client) -> None:
        """A session that has ended need not be dropped again."""
        self._clients.remove(client)

    async def drop_all(self) -> None:
        """Drop every session."""
        for client in self._clients:
            client.abort()
        self._clients.clear()

    def span(self) -> Span:
        """Make a stopwatch for the server; helper processes that exist now are counted."""
        return Span(self.server.pids)

    async def repeated(self, load: Load) -> list[tuple[int, Span]]:
        """Warm up, then run a load as often as asked; return units and cost of each run."""
        await load.run(self.options.warmup)
        runs = []
        for _ in range(self.options.repeat):
            span = self.span().start()
            units = await load.run(self.options.seconds)
            runs.append((units, span.stop()))
        await load.finish()
        return runs


class Load:
    """A load that feeds itself: what arrives makes the scenario send more, until the time is over and all has arrived.

    A scenario starts it with its first sends, calls `took` for what arrived, asks `open` before it sends more,
    and counts what is due with `sent`.
    """

    def __init__(self, clients: Sequence[Client], begin: Callable[[], None]) -> None:
        self._clients = clients
        self._begin = begin
        self._done: asyncio.Future[None] | None = None
        self._due = 0
        self._taken = 0
        self.open = False
        for client in clients:
            client.on_failure = self.fail

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
        self.open = True
        timer = loop.call_later(seconds, self._close)
        try:
            self._begin()
            await asyncio.wait_for(self._done, seconds + PATIENCE)
        except TimeoutError:
            raise BenchError(f"lost: {self._due} deliveries are still missing after {PATIENCE:.0f} s") from None
        finally:
            timer.cancel()
            self.open = False
        return self._taken

    async def finish(self) -> None:
        """Check that nobody received anything beyond what was counted: a copy, an error, a stray."""
        for client in self._clients:
            for stanza in await client.quiet():
                if stanza.startswith(b"<message") or stanza_type(stanza) == "error":
                    raise BenchError(f"{client.jid} received what nobody sent: {stanza.decode()}")

    def sent(self, deliveries: int) -> None:
        """So many deliveries are due now."""
        self._due += deliveries

    def took(self, deliveries: int) -> None:
        """So many deliveries arrived."""
        self._due -= deliveries
        self._taken += deliveries
        if self._due <= 0 and not self.open:
            self._finished()

    def fail(self, error: Exception) -> None:
        """End the run with an error."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def _close(self) -> None:
        self.open = False
        if self._due <= 0:
            self._finished()

    def _finished(self) -> None:
        if self._due < 0:
            self.fail(BenchError(f"{-self._due} deliveries more than were due"))
        elif self._done is not None and not self._done.done():
            self._done.set_result(None)


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
