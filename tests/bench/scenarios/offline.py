"""Messages to users who are not there: what it costs to store them, and to hand them out at the next login.

The cost of handing out is what a login with messages costs more than a login without, per message. At a rate, the latency
of storing is the time until a ping sent behind the message is answered, that of handing out the time from a user's presence
to the last message that waited.
"""

from __future__ import annotations

from time import perf_counter

from tests.bench.load import Bench, Options, at_rate, in_turns
from tests.bench.measure import Row, Span, settled
from tests.bench.scenarios.chat import END, MARK, Pair
from tests.bench.wire import Account, BenchError, Client, Tally

SENDERS = 50
ABSENT = 200
EACH = 80  # messages per absent user; below every server's default limit
BATCH = 10  # messages between two pings of a sender
RATE = 100.0  # messages a second to store, and a tenth of that in logins to fetch them


def accounts(options: Options) -> int:
    """Senders, and users who are away."""
    return SENDERS + ABSENT


class Letters(Pair):
    """A pair whose listener is away."""

    def __init__(self, number: int, speaker: Client, account: Account) -> None:
        ghost = Client()
        ghost.jid = account.bare
        super().__init__(number, speaker, ghost, full=False)


class Post:
    """Who writes to whom, and what each has received."""

    def __init__(self, bench: Bench, senders: list[Client], absent: list[Account]) -> None:
        self._bench = bench
        self.absent = absent
        self.letters = [Letters(n, senders[n % len(senders)], account) for n, account in enumerate(absent)]
        self.by_sender = [[letter for letter in self.letters if letter.speaker is sender] for sender in senders]
        self._tallies = {account.bare: Tally(MARK, END) for account in absent}
        self.due = dict.fromkeys((account.bare for account in absent), 0)
        self.stored: list[float] = []
        self.fetched: list[float] = []

    async def write(self, letter: Letters, count: int) -> None:
        """Send messages to somebody who is away, and wait until the server has dealt with them."""
        began = perf_counter()
        letter.speak(count)
        self.due[letter.listener.jid] += count
        for stanza in await letter.speaker.quiet():
            raise BenchError(f"a sender received {stanza.decode()}")
        self.stored.append(perf_counter() - began)

    async def write_all(self, own: list[Letters]) -> None:
        """Send everybody's share of one sender."""
        for _ in range(0, EACH, BATCH):
            for letter in own:
                await self.write(letter, BATCH)

    async def fetch(self, account: Account) -> None:
        """Log in, take what waits, log out."""
        tally = self._tallies[account.bare]
        due, before = self.due[account.bare], tally.count
        client = await self._bench.login(account, presence=False)
        began = perf_counter()
        client.send(b"<presence/>")
        reflected = False
        while tally.count - before < due or not reflected:
            stanza = await client.read()
            if stanza.startswith(b"<message"):
                if not tally.feed(stanza):
                    raise BenchError(f"{account.bare} received {stanza.decode()}")
            elif stanza.startswith(b"<presence"):
                reflected = True
        self.fetched.append(perf_counter() - began)
        if any(stanza.startswith(b"<message") for stanza in await client.quiet()):
            raise BenchError(f"{account.bare} received more messages than were sent")
        self.due[account.bare] = 0
        await self._bench.close(client)

    async def visit(self) -> Span:
        """Everybody fetches what waits; the cost, with that of what the server does later (removing what was fetched)."""
        span = self._bench.span().start()
        await in_turns(self.absent, self.fetch)
        span.stop()
        late = self._bench.span().start()
        await _all_stored(self._bench)
        return span.plus(late.stop())


async def run(bench: Bench) -> list[Row]:
    """Measure storing and delivering, the rounds of which alternate."""
    options = bench.options
    senders = await bench.login_all(bench.server.accounts[:SENDERS])
    post = Post(bench, senders, bench.server.accounts[SENDERS:])

    await post.visit()  # the generator derives its keys, the server loads its code
    await in_turns(post.by_sender[:1], post.write_all)
    await _all_stored(bench)
    await post.visit()

    messages = ABSENT * EACH
    stores, deliveries = [], []
    for _ in range(options.repeat):
        without = await post.visit()
        span = bench.span().start()
        await in_turns(post.by_sender, post.write_all, SENDERS)
        span.stop()
        late = bench.span().start()
        await _all_stored(bench)
        stores.append((messages, span.plus(late.stop())))  # what was accepted first and stored later
        within = await post.visit()
        deliveries.append((messages, within.minus(without)))
    size = f"{options.security.value} {EACH} for each of {ABSENT}"
    rows = [
        Row.of("offline store", size, "message", stores),
        Row.of("offline deliver", size, "message", deliveries, notes="the login's own cost is taken off"),
    ]
    rate = options.latency if options.rate is None else options.rate
    return rows + await _at_rate(bench, post, rate) if rate else rows


async def _at_rate(bench: Bench, post: Post, rate: float) -> list[Row]:
    seconds = bench.options.seconds
    security = bench.options.security.value
    post.stored.clear()
    turn = iter(range(1_000_000_000))
    span = bench.span().start()

    async def one(slot: int) -> None:
        own = post.by_sender[slot]
        await post.write(own[next(turn) % len(own)], 1)

    count = await at_rate(rate, seconds, one, len(post.by_sender))
    rows = [Row.of("offline store", f"{security}, {rate:g}/s", "message", [(count, span.stop())])]
    rows[0].with_latencies(post.stored)
    await _all_stored(bench)
    logins = rate / 10
    some = [account for account in post.absent if post.due[account.bare]][: max(1, int(logins * seconds))]
    messages = sum(post.due[account.bare] for account in some)
    post.fetched.clear()
    order = iter(some)
    span = bench.span().start()
    await at_rate(logins, len(some) / logins, lambda _slot: post.fetch(next(order)), len(some))
    row = Row.of("offline deliver", f"{security}, {logins:g} logins/s", "message", [(messages, span.stop())])
    row.notes = "logins and all"
    row.with_latencies(post.fetched)
    await post.visit()
    return [*rows, row]


async def _all_stored(bench: Bench) -> None:
    if not await settled(bench.server.pids):
        raise BenchError("the server is still busy 15 s after the last message to store")
