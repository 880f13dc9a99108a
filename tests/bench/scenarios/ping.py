"""XEP-0199 pings to the server, ten at a time on each of a hundred sessions: the price of an IQ and its answer."""

from __future__ import annotations

import re

from tests.bench.load import Bench, Load, Options
from tests.bench.measure import Row
from tests.bench.wire import BenchError, Client, Tally

PIPELINED = 10
RATE = 500.0
# Only a result has a mark: an error answer leaves a gap, which the tally reports.
MARK = re.compile(rb"<iq(?=[^>]*\stype=['\"]result['\"])[^>]*\sid=['\"]p(\d+)\.(\d+)['\"]")


def accounts(options: Options) -> int:
    """One per session."""
    return options.pairs


class Pings(Load):
    """Each answer lets its session ask once more; at a rate, the next session asks."""

    def __init__(self, clients: list[Client], domain: str) -> None:
        super().__init__(clients)
        self._sessions = clients
        self._tail = f"' to='{domain}'><ping xmlns='urn:xmpp:ping'/></iq>".encode()
        self._tallies = [Tally(MARK, b">") for _ in clients]
        self._next = [0] * len(clients)
        self._turn = 0

    def attach(self) -> None:
        """Every session counts its answers."""
        for number, client in enumerate(self._sessions):
            self.tally(self._tallies[number])
            client.sink = lambda data, number=number: self._heard(number, data)  # type: ignore[misc]

    def fill(self) -> None:
        """Some questions of every session."""
        for number in range(len(self._sessions)):
            self._ask(number, PIPELINED)

    def emit(self) -> tuple[bytes, int]:
        """The next session's next question."""
        number = self._turn % len(self._sessions)
        self._turn += 1
        return b"%d" % number, self._ask(number, 1)

    def _ask(self, number: int, count: int) -> int:
        first = self._next[number]
        self._next[number] = first + count
        self.sent(count)
        self._sessions[number].send(
            b"".join([b"<iq type='get' id='p%d.%d%b" % (number, n, self._tail) for n in range(first, first + count)])
        )
        return first

    def _heard(self, number: int, data: bytes) -> None:
        if b"error" in data:
            raise BenchError(f"a ping was refused: {data[:500].decode(errors='replace')}")
        count = self._tallies[number].feed(data)
        if count:
            if self.open:
                self._ask(number, count)
            self.took(count)


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of a ping."""
    clients = await bench.login_all(bench.server.accounts)
    load = Pings(clients, bench.server.address.domain)
    variant = f"{bench.options.security.value} {len(clients)} sessions"
    return await bench.measured("ping", variant, f"{PIPELINED} under way on each", "ping", load)
