"""One-to-one chat: pairs of users, one speaks, the other listens.

Without a rate, a fixed number of messages is always under way, so the server never waits and may batch what it can.
With a rate, messages are evenly spaced and alone: nothing to batch, and latency is measured, from the write on the
sender's socket to the read on the receiver's.

With `spread`, each speaker turns from listener to listener: no two messages that arrive together are for the same
session, so nothing a server remembers from one message helps it with the next, and its writes cannot be joined as well.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from time import perf_counter

from tests.bench.load import Bench, Load, Options
from tests.bench.measure import Row, quantile
from tests.bench.wire import Client, Tally

MARK = re.compile(rb"<body>(\d+)\.(\d+) ")
END = b"</message>"
REQUEST = b"<r xmlns='urn:xmpp:sm:3'/>"
TEXT = b"But soft, what light through yonder window breaks?"


def accounts(options: Options) -> int:
    """A speaker and a listener for each pair."""
    return 2 * options.pairs


class Pair:
    """A speaker, a listener, and the messages between them."""

    def __init__(self, number: int, speaker: Client, listener: Client, *, full: bool) -> None:
        self.speaker = speaker
        self.listener = listener
        self._head = head(number, listener, full=full)
        self._middle = b"'><body>%d." % number
        self._tail = b" " + TEXT + b"</body></message>"
        self._next = 0
        self.tally = Tally(MARK, END)
        self.managed = False
        """Whether both confirm what they get, and ask for it as clients do."""

    def speak(self, count: int) -> None:
        """Write so many messages at once."""
        head, middle, tail = self._head, self._middle, self._tail
        first = self._next
        self._next = first + count
        self.speaker.send(
            b"".join([b"%b%d%b%d%b" % (head, n, middle, n, tail) for n in range(first, first + count)])
            + (REQUEST if self.managed else b"")
        )

    def heard(self, data: bytes) -> int:
        """Take what arrived for the listener; how many messages it completes."""
        count = self.tally.feed(data)
        if self.managed and REQUEST in data:
            self.listener.send(b"<a xmlns='urn:xmpp:sm:3' h='%d'/>" % self.tally.count)
        return count


class Scattered(Pair):
    """A speaker who turns from one listener to the next; its own listener is only where what it is owed is counted."""

    def __init__(self, number: int, speaker: Client, listeners: list[Client], *, full: bool) -> None:
        super().__init__(number, speaker, listeners[number], full=full)
        turned = listeners[number:] + listeners[:number]
        self._heads = [head(number, listener, full=full) for listener in turned]

    def speak(self, count: int) -> None:
        """Write so many messages at once, each to another listener, numbered for each listener on its own."""
        heads, middle, tail = self._heads, self._middle, self._tail
        size, first = len(heads), self._next
        self._next = first + count
        self.speaker.send(
            b"".join(
                [b"%b%d%b%d%b" % (heads[n % size], n, middle, n // size, tail) for n in range(first, first + count)]
            )
        )


def head(number: int, listener: Client, *, full: bool) -> bytes:
    """Begin a message of a speaker to a listener."""
    to = listener.jid if full else listener.jid.partition("/")[0]
    return f"<message type='chat' to='{to}' id='{number}-".encode()


class FullPipe(Load):
    """Each delivery lets its pair send one message more."""

    def __init__(self, pairs: list[Pair], in_flight: int) -> None:
        super().__init__([client for pair in pairs for client in (pair.speaker, pair.listener)], self._start)
        self._pairs = pairs
        self._each = max(1, in_flight // len(pairs))

    def _start(self) -> None:
        for pair in self._pairs:
            pair.listener.sink = lambda data, pair=pair: self._heard(pair, data)  # type: ignore[misc]
            self.sent(self._each)
            pair.speak(self._each)

    def _heard(self, pair: Pair, data: bytes) -> None:
        count = pair.heard(data)
        if not count:
            return
        if self.open:
            self.sent(count)
            pair.speak(count)
        self.took(count)


class Paced(Load):
    """Messages at a steady rate, each by the next pair; `latencies` in seconds of all runs but the warm-up."""

    def __init__(self, pairs: list[Pair], rate: float) -> None:
        super().__init__([client for pair in pairs for client in (pair.speaker, pair.listener)], self._start)
        self._pairs = pairs
        self._rate = rate
        self._turn = 0
        self._spoken: list[deque[float]] = [deque() for _ in pairs]  # when the messages on their way were written
        self._timer: asyncio.TimerHandle | None = None
        self.latencies: list[float] = []

    def _start(self) -> None:
        for number, pair in enumerate(self._pairs):
            pair.listener.sink = lambda data, number=number: self._heard(number, data)  # type: ignore[misc]
        self._began, self._sent_now = perf_counter(), 0
        self._tick()

    def _tick(self) -> None:
        if not self.open:
            return
        # Late timers are made up for, so the rate holds whatever the server does.
        due = int((perf_counter() - self._began) * self._rate) + 1
        while self._sent_now < due:
            number = self._turn % len(self._pairs)
            self._turn += 1
            self._sent_now += 1
            self.sent(1)
            self._spoken[number].append(perf_counter())
            self._pairs[number].speak(1)
        wait = self._began + due / self._rate - perf_counter()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, wait), self._tick)

    def _heard(self, number: int, data: bytes) -> None:
        count = self._pairs[number].heard(data)
        if count:
            at = perf_counter()
            spoken = self._spoken[number]
            self.latencies.extend(at - spoken.popleft() for _ in range(count))
            self.took(count)


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of a message from socket to socket."""
    options = bench.options
    clients = await bench.login_all(bench.server.accounts)
    if options.carbons:
        for number, client in enumerate(clients):
            await client.iq("set", "<enable xmlns='urn:xmpp:carbons:2'/>", f"carbons-{number}")
    if options.sm:
        for client in clients:
            client.send(b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
            await client.read_until(lambda s: s.startswith(b"<enabled"))
    half = options.pairs
    listeners = clients[half:]
    pairs = [
        Scattered(n, clients[n], listeners, full=options.full)
        if options.spread
        else Pair(n, clients[n], listeners[n], full=options.full)
        for n in range(half)
    ]
    variant = options.security.value + (" archive" if options.archive else "") + (" full-jid" if options.full else "")
    if options.sm:
        for pair in pairs:
            pair.managed = True
            pair.speaker.sink = lambda data: None  # acknowledgements
    variant += (
        (" sm" if options.sm else "") + (" carbons" if options.carbons else "") + (" spread" if options.spread else "")
    )
    if options.rate is None:
        runs = await bench.repeated(FullPipe(pairs, options.in_flight))
        return [Row.of("chat", f"{variant} {options.in_flight} in flight", "message", runs)]
    paced = Paced(pairs, options.rate)
    runs = await bench.repeated(paced)
    row = Row.of("chat", f"{variant} {options.rate:g}/s", "message", runs)
    late = paced.latencies[int(options.rate * options.warmup) :]
    row.figures = {
        "p50 ms": quantile(late, 0.5) * 1e3,
        "p99 ms": quantile(late, 0.99) * 1e3,
        "max ms": max(late) * 1e3,
    }
    return [row]
