"""Messages to users who are not there: what it costs to store them, and to hand them out at the next login.

The cost of handing out is what a login with messages costs more than a login without, per message.
"""

from __future__ import annotations

from tests.bench.load import Bench, Options, in_turns
from tests.bench.measure import Row, Span, settled
from tests.bench.scenarios.chat import END, MARK, Pair
from tests.bench.wire import Account, BenchError, Client, Tally

SENDERS = 50
ABSENT = 200
EACH = 80  # messages per absent user; below every server's default limit
BATCH = 10  # messages between two pings of a sender


def accounts(options: Options) -> int:
    """Senders, and users who are away."""
    return SENDERS + ABSENT


class Letters(Pair):
    """A pair whose listener is away."""

    def __init__(self, number: int, speaker: Client, account: Account) -> None:
        ghost = Client()
        ghost.jid = account.bare
        super().__init__(number, speaker, ghost, full=False)


async def run(bench: Bench) -> list[Row]:
    """Measure storing and delivering, the rounds of which alternate."""
    options = bench.options
    security = options.security.value
    senders = await bench.login_all(bench.server.accounts[:SENDERS])
    absent = bench.server.accounts[SENDERS:]
    letters = [Letters(n, senders[n % SENDERS], account) for n, account in enumerate(absent)]
    by_sender = [[letter for letter in letters if letter.speaker is sender] for sender in senders]
    tallies = {account.bare: Tally(MARK, END) for account in absent}

    async def write(own: list[Letters]) -> None:
        for _ in range(0, EACH, BATCH):
            for letter in own:
                letter.speak(BATCH)
            for stanza in await own[0].speaker.quiet():
                raise BenchError(f"a sender received {stanza.decode()}")

    async def fetch(account: Account, due: int) -> None:
        tally = tallies[account.bare]
        before = tally.count
        client = await bench.login(account, presence=False)
        client.send(b"<presence/>")
        reflected = False
        while tally.count - before < due or not reflected:
            stanza = await client.read()
            if stanza.startswith(b"<message"):
                if not tally.feed(stanza):
                    raise BenchError(f"{account.bare} received {stanza.decode()}")
            elif stanza.startswith(b"<presence"):
                reflected = True
        if any(stanza.startswith(b"<message") for stanza in await client.quiet()):
            raise BenchError(f"{account.bare} received more messages than were sent")
        await client.close()
        bench.forget(client)

    async def visit(due: int) -> Span:
        span = bench.span().start()
        await in_turns(absent, lambda account: fetch(account, due))
        return span.stop()

    await visit(0)  # the generator derives its keys, the server loads its code
    await in_turns(by_sender[:1], write)
    await _all_stored(bench)
    for letter in by_sender[0]:
        await fetch(absent[letters.index(letter)], EACH)

    messages = ABSENT * EACH
    stores, deliveries = [], []
    for _ in range(options.repeat):
        without = await visit(0)
        span = bench.span().start()
        await in_turns(by_sender, write, len(by_sender))
        span.stop()
        late = bench.span().start()
        await _all_stored(bench)
        span.server += late.stop().server  # what was accepted first and stored later
        stores.append((messages, span))
        within = await visit(EACH)
        within.server -= without.server
        deliveries.append((messages, within))
    size = f"{security} {EACH} for each of {ABSENT}"
    return [
        Row.of("offline store", size, "message", stores),
        Row.of("offline deliver", size, "message", deliveries, notes="the login's own cost is taken off"),
    ]


async def _all_stored(bench: Bench) -> None:
    if not await settled(bench.server.pids):
        raise BenchError("the server is still busy 15 s after the last message to store")
