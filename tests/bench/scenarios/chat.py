"""One-to-one chat: pairs of users, one speaks, the other listens.

A fixed number of messages is always under way, so the server never waits and may batch what it can.

With `spread`, each speaker turns from listener to listener: no two messages that arrive together are for the same
session, so nothing a server remembers from one message helps it with the next, and its writes cannot be joined as well.
"""

from __future__ import annotations

import re

from tests.bench.load import Bench, Load, Options
from tests.bench.measure import Row
from tests.bench.wire import Client, Tally

MARK = re.compile(rb"<body>(\d+)\.(\d+) ")
END = b"</message>"
REQUEST = b"<r xmlns='urn:xmpp:sm:3'/>"
RATE = 500.0
TEXT = b"But soft, what light through yonder window breaks?"


def accounts(options: Options) -> int:
    """A speaker and a listener for each pair."""
    return 2 * options.pairs


class Pair:
    """A speaker, a listener, and the messages between them."""

    def __init__(self, number: int, speaker: Client, listener: Client, *, full: bool) -> None:
        self.speaker = speaker
        self.listener = listener
        self.flow = b"%d" % number
        self._head = head(number, listener, full=full)
        self._middle = b"'><body>%d." % number
        self._tail = b" " + TEXT + b"</body></message>"
        self._next = 0
        self.tally = Tally(MARK, END)
        self.managed = False
        """Whether both confirm what they get, and ask for it as clients do."""

    def speak(self, count: int) -> int:
        """Write so many messages at once; return the number of the first."""
        head, middle, tail = self._head, self._middle, self._tail
        first = self._next
        self._next = first + count
        self.speaker.send(
            b"".join([b"%b%d%b%d%b" % (head, n, middle, n, tail) for n in range(first, first + count)])
            + (REQUEST if self.managed else b"")
        )
        return first

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

    def speak(self, count: int) -> int:
        """Write so many messages at once, each to another listener, numbered for each listener on its own."""
        heads, middle, tail = self._heads, self._middle, self._tail
        size, first = len(heads), self._next
        self._next = first + count
        self.speaker.send(
            b"".join(
                [b"%b%d%b%d%b" % (heads[n % size], n, middle, n // size, tail) for n in range(first, first + count)]
            )
        )
        return first // size


def head(number: int, listener: Client, *, full: bool) -> bytes:
    """Begin a message of a speaker to a listener."""
    to = listener.jid if full else listener.jid.partition("/")[0]
    return f"<message type='chat' to='{to}' id='{number}-".encode()


class Chat(Load):
    """Each delivery lets its pair send one message more; at a rate, each message is the next pair's."""

    def __init__(self, pairs: list[Pair], in_flight: int) -> None:
        super().__init__([client for pair in pairs for client in (pair.speaker, pair.listener)])
        self._pairs = pairs
        self._each = max(1, in_flight // len(pairs))
        self._turn = 0

    def attach(self) -> None:
        """Every listener counts its messages."""
        for pair in self._pairs:
            self.tally(pair.tally)
            pair.listener.sink = lambda data, pair=pair: self._heard(pair, data)  # type: ignore[misc]

    def fill(self) -> None:
        """So many messages by each pair."""
        for pair in self._pairs:
            self.sent(self._each)
            pair.speak(self._each)

    def emit(self) -> tuple[bytes, int]:
        """The next pair's next message."""
        pair = self._pairs[self._turn % len(self._pairs)]
        self._turn += 1
        self.sent(1)
        return pair.flow, pair.speak(1)

    def _heard(self, pair: Pair, data: bytes) -> None:
        count = pair.heard(data)
        if not count:
            return
        if self.open:
            self.sent(count)
            pair.speak(count)
        self.took(count)


async def conversations(bench: Bench, clients: list[Client]) -> Chat:
    """Pair sessions off, the first half with the second, with everything on that was asked for."""
    options = bench.options
    if options.carbons:
        for number, client in enumerate(clients):
            await client.iq("set", "<enable xmlns='urn:xmpp:carbons:2'/>", f"carbons-{number}")
    if options.sm:
        for client in clients:
            client.send(b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
            await client.read_until(lambda s: s.startswith(b"<enabled"))
    half = len(clients) // 2
    listeners = clients[half:]
    pairs = [
        Scattered(n, clients[n], listeners, full=options.full)
        if options.spread
        else Pair(n, clients[n], listeners[n], full=options.full)
        for n in range(half)
    ]
    if options.sm:
        for pair in pairs:
            pair.managed = True
            pair.speaker.sink = lambda data: None  # acknowledgements
    return Chat(pairs, options.in_flight)


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of a message from socket to socket."""
    options = bench.options
    load = await conversations(bench, await bench.login_all(bench.server.accounts))
    switches = {
        "archive": options.archive,
        "sm": options.sm,
        "carbons": options.carbons,
        "full-jid": options.full,
        "spread": options.spread,
    }
    variant = " ".join([options.security.value, *(name for name, on in switches.items() if on)])
    return await bench.measured("chat", variant, f"{options.in_flight} in flight", "message", load)
