"""Reading the archive (XEP-0313): one account's sessions turn its pages, fifty messages each, from the first to the last and
over again, each page asked for by the last id of the one before.

Every page must hold the fifty messages that are due, in order. With `--rows` the archive of the same account is then grown to
so many rows beneath the server (which only Beamish's files allow here), and pages are read from random places of it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from random import Random
from time import perf_counter

from tests.bench.load import Bench, Options, TooSlow, at_rate, in_turns
from tests.bench.measure import Row, Span, settled
from tests.bench.scenarios.chat import MARK, Pair
from tests.bench.servers.base import polled
from tests.bench.servers.beamish import Beamish
from tests.bench.wire import BenchError, Client, Tally, stanza_id, stanza_type

ARCHIVE = True
RATE = 10.0
PAGE = 50
READERS = 10
BATCH = 200
INDEX_SECONDS = 300.0
_LAST = re.compile(rb"<last[^>]*>([^<]+)</last>")


def accounts(options: Options) -> int:
    """Who reads, and who has written to it."""
    return 2


class Reader:
    """A session that turns pages."""

    def __init__(self, client: Client, messages: int) -> None:
        self._client = client
        self._pages = messages // PAGE
        self._page = 0
        self._after = ""
        self._asked = 0

    async def turn(self) -> None:
        """Read the next page; after the last comes the first."""
        page = await self.ask(f"<after>{self._after}</after>" if self._page else "")
        due = range(self._page * PAGE, (self._page + 1) * PAGE)
        if [number for _, number in marks(page)] != list(due):
            raise BenchError(f"page {self._page} holds {marks(page)}, {due} was due")
        last = _LAST.search(page[-1])
        if last is None:
            raise BenchError(f"a page without its last id: {page[-1].decode()}")
        self._after = last.group(1).decode()
        self._page = (self._page + 1) % self._pages

    async def ask(self, place: str, start: str = "") -> list[bytes]:
        """Ask for fifty messages, return them and the IQ that ends them (XEP-0313 §4)."""
        self._asked += 1
        identity = f"page{self._asked}"
        form = (
            "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value>"
            f"</field><field var='start'><value>{start}</value></field></x>"
            if start
            else ""
        )
        self._client.send(
            f"<iq type='set' id='{identity}'><query xmlns='urn:xmpp:mam:2' queryid='q'>{form}"
            f"<set xmlns='http://jabber.org/protocol/rsm'><max>{PAGE}</max>{place}</set></query></iq>".encode()
        )
        page = await self._client.read_until(lambda s: s.startswith(b"<iq") and stanza_id(s) == identity)
        if stanza_type(page[-1]) != "result":
            raise BenchError(f"the archive refused: {page[-1].decode()}")
        return page


def marks(page: list[bytes]) -> list[tuple[int, int]]:
    """Flow and number of every message in a page."""
    return [(int(flow), int(number)) for stanza in page for flow, number in MARK.findall(stanza)]


async def filled(bench: Bench) -> None:
    """Send the messages that will be read, and see them arrive, so that they are in the archive in this order."""
    reader, writer = bench.server.accounts
    listener, speaker = await bench.login(reader, resource="fill"), await bench.login(writer)
    pair = Pair(0, speaker, listener, full=False)
    pair.tally = Tally(MARK, b"</message>")
    for _ in range(0, bench.options.messages, BATCH):
        pair.speak(BATCH)
        due = pair.tally.count + BATCH
        while pair.tally.count < due:
            pair.tally.feed(await listener.read())
    await listener.quiet()
    await settled(bench.server.pids)
    await bench.close(listener)
    await bench.close(speaker)


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of a page."""
    options = bench.options
    await filled(bench)
    variant = f"{options.security.value} {options.messages} messages"
    rows = await _measured(bench, variant, [Reader(client, options.messages) for client in await _sessions(bench)])
    if options.rows and isinstance(bench.server, Beamish):
        rows += await _large(bench)
    return rows


async def _sessions(bench: Bench) -> list[Client]:
    return [await bench.login(bench.server.accounts[0], resource=f"r{n}", presence=False) for n in range(READERS)]


async def _measured(bench: Bench, variant: str, readers: Sequence[Reader | Wanderer]) -> list[Row]:
    options = bench.options
    took: list[float] = []

    async def one(reader: Reader | Wanderer) -> None:
        began = perf_counter()
        await reader.turn()
        took.append(perf_counter() - began)

    async def for_seconds(seconds: float) -> tuple[int, Span]:
        before, ends = len(took), perf_counter() + seconds
        span = bench.span().start()

        async def until(reader: Reader | Wanderer) -> None:
            while perf_counter() < ends:
                await one(reader)

        await in_turns(readers, until, len(readers))
        return len(took) - before, span.stop()

    rows = []
    if options.rate is None:
        await for_seconds(options.warmup)
        runs = [await for_seconds(options.seconds) for _ in range(options.repeat)]
        rows.append(Row.of("archive", f"{variant}, {len(readers)} at once", "page", runs))
    rate = options.latency if options.rate is None else options.rate
    if rate:
        took.clear()
        span = bench.span().start()
        try:
            count = await at_rate(rate, options.seconds * options.repeat, lambda slot: one(readers[slot]), len(readers))
        except TooSlow as error:
            if not rows:
                raise
            rows[-1].notes = str(error)
        else:
            row = Row.of("archive", f"{variant}, {rate:g}/s", "page", [(count, span.stop())])
            rows.append(row.with_latencies(took))
    return rows


class Wanderer:
    """A session that opens a large archive somewhere, reads three pages on from there, and goes elsewhere."""

    def __init__(self, client: Client, ids: list[str], seed: int) -> None:
        self._reader = Reader(client, 0)
        self._ids = ids
        self._random = Random(seed)
        self._after = ""
        self._left = 0

    async def turn(self) -> None:
        """Read a page, which must be full."""
        if not self._left:
            self._after, self._left = self._random.choice(self._ids), 3
        page = await self._reader.ask(f"<after>{self._after}</after>")
        if len(marks(page)) != PAGE:
            raise BenchError(f"a page of {len(marks(page))} messages where there are more")
        last = _LAST.search(page[-1])
        self._after = last.group(1).decode() if last else ""
        self._left -= 1


async def _large(bench: Bench) -> list[Row]:
    options, server = bench.options, bench.server
    if not isinstance(server, Beamish):
        return []
    await bench.drop_all()
    await server.stop()
    await asyncio.to_thread(server.grow_archive, server.accounts[0].bare, options.rows)
    await server.start()
    await polled(
        partial(asyncio.to_thread, server.archive_indexed), INDEX_SECONDS, "the archive's index is not complete"
    )
    await settled(server.pids)
    clients = await _sessions(bench)
    ids = await asyncio.to_thread(server.some_archive_ids, server.accounts[0].bare)
    readers = [Wanderer(client, ids, number) for number, client in enumerate(clients)]
    return await _measured(bench, f"{options.security.value} {options.rows} rows", readers)
