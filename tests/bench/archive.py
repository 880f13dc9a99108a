"""`python -m tests.bench.archive`: what a page of a large archive costs, and what keeps archives within their bounds.

An archive of as many messages as are asked for (`--messages`, a million by default; 500 bytes each on disk), two thirds with
one contact, the rest with five hundred others, lies among the messages of other accounts. Each kind of query asks for its
page of 50 a number of times on the file engine that the server uses, from request to the bytes of the results. The same is
done for a small archive, which shows what grows. Then the steps of merging, indexing, trimming and expiry: each is
a transaction, which others must wait for.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import uvloop

from beamish.modules.mam import ids, lists, merging, pages, query, removal, store
from beamish.modules.mam.packing import Logged
from beamish.storage.api import Cursor, Database
from beamish.storage.migrate import migrate
from beamish.storage.sqlite import SqliteDatabase
from beamish.xmpp.payload import rsm

OWNER, OTHERS = "juliet@example.org", "nurse@example.org"
FRIEND = "romeo@example.net"
RARE = "friar@example.net"
START = 1_600_000_000.0
TOP = lists.TOP
TICK = 100
"""Messages in a row of the log."""
WORDS = tuple(f"w{number:04d}" for number in range(5_000))
CHUNK = 20_000


def messages(count: int, choose: random.Random) -> Iterator[Logged]:
    """Messages of the archive, oldest first: one in five is somebody else's."""
    source = ids.IdSource()
    for n in range(count * 5 // 4):
        number, salt = source.next(START + n)
        owner = OTHERS if n % 5 == 4 else OWNER
        peer = FRIEND if n % 3 else f"contact{choose.randrange(500)}@example.net"
        resource = "phone"
        if n % 100_003 == 1:
            peer = RARE
        if n % 10_007 == 2:
            resource = "desk"
        words = " ".join(choose.choice(WORDS) for _ in range(8)) + (" everywhere" if n % 2 else "")
        if n % 50_021 == 3:
            words += " needle"
        wire = (
            f"<message type='chat' id='m{n}' from='{peer}/{resource}' to='{owner}'><body>{words}</body>"
            f"<origin-id xmlns='urn:xmpp:sid:0' id='{number:016x}'/><request xmlns='urn:xmpp:receipts'/>"
            "<markable xmlns='urn:xmpp:chat-markers:0'/></message>"
        )
        yield number, salt, 0, peer, wire.encode(), owner


async def fill(db: Database, count: int) -> list[float]:
    """Make the archive, brought to its places as a running server does it; what each step of that took."""
    made: list[Logged] = []
    took: list[float] = []

    def log(c: Cursor) -> None:
        for at in range(0, len(made), TICK):
            store.write_log(c, made[at : at + TICK])

    async def flush() -> None:
        await db.write("fill", log)
        made.clear()
        took.extend(await steps(lambda c: merging.merge(c, TOP, TOP)[0], db, "merge"))

    for row in messages(count, random.Random(1)):
        made.append(row)
        if len(made) == CHUNK:
            await flush()
    await flush()
    return took


async def steps(step: Callable[[Cursor], bool], db: Database, name: str) -> list[float]:
    """Run a step until it says that nothing is left; milliseconds of each."""
    took = []
    while True:
        began = perf_counter()
        more = await db.write(name, step)
        took.append((perf_counter() - began) * 1_000)
        if not more:
            return took


async def queries(db: Database, count: int) -> dict[str, query.Asked]:
    """Every kind of page, by name."""
    middle = START + count * 5 // 8
    some = await db.read("page", lambda c: pages.page(c, pages.Query(OWNER, start=ids.first_at(middle), size=1)))
    place = (some.rows[0].id, some.rows[0].salt)
    first, last = rsm.Request(50), rsm.Request(50, before="")
    ask = partial(pages.Query, OWNER)
    found = {
        "the newest": ask(page=last),
        "the oldest": ask(page=first),
        "after an id in the middle": ask(page=rsm.Request(50, after="x"), page_after=place),
        "before an id in the middle": ask(page=rsm.Request(50, before="x"), page_before=place),
        "start in the middle": ask(start=ids.first_at(middle), page=first),
        "end in the middle, the newest": ask(end=ids.first_at(middle), page=last),
        "before-id, the newest": ask(before_id=place, page=last),
        "after-id, the oldest": ask(after_id=place, page=first),
        "with, the newest": ask(FRIEND, page=last),
        "with and start": ask(FRIEND, start=ids.first_at(middle), page=first),
        "with and before-id, the newest": ask(FRIEND, before_id=place, page=last),
        "with, hardly any": ask(RARE, page=last),
        "with a resource": ask(FRIEND, "phone", page=last),
        "with a resource, hardly any": ask(FRIEND, "desk", page=last),
        "with a resource, start": ask(FRIEND, "desk", start=ids.first_at(middle), page=first),
        "with a resource, none": ask(FRIEND, "garden", page=last),
        "by number (9,000)": ask(page=rsm.Request(50, index=9_000)),
        "only the count": ask(page=rsm.Request(0)),
        "only the count, with and start": ask(FRIEND, start=ids.first_at(middle), page=rsm.Request(0)),
        "a word, hardly any": ask(text="needle", page=last),
        "a word in every second": ask(text="everywhere", page=last),
        "two words": ask(text="everywhere w0001", page=first),
        "a word with a contact": ask(FRIEND, text="everywhere", page=last),
        "a word with another contact": ask(RARE, text="everywhere", page=last),
        "a word with a resource": ask(FRIEND, "desk", text="everywhere", page=last),
        "a word and start": ask(text="everywhere", start=ids.first_at(middle), page=first),
    }
    asked = {name: query.Asked(q, False, "q") for name, q in found.items()}
    asked["the newest, flipped"] = query.Asked(ask(page=last), True, "q")
    return asked


async def page(db: Database, asked: query.Asked) -> int:
    """One page as bytes; how many messages it has."""
    result = await db.read("page", lambda c: pages.page(c, asked.query))
    return len(query.results(asked, result.rows)) + (not query.fin(result))


async def measure(db: Database, count: int, repeat: int) -> dict[str, tuple[float, float, int]]:
    """Median and slowest, in ms, of each kind of page, and how many messages are on it."""
    figures = {}
    for name, asked in (await queries(db, count)).items():
        took = []
        number = 0
        for _ in range(repeat):
            began = perf_counter()
            number = await page(db, asked)
            took.append((perf_counter() - began) * 1_000)
        figures[name] = (statistics.median(took), max(took), number)
    return figures


async def archive(directory: Path, count: int, repeat: int) -> dict[str, Any]:
    """Fill, measure, bound and delete an archive."""
    async with SqliteDatabase.open(directory / f"archive-{count}.db", synchronous="normal") as db:
        await migrate(db, "mam", store.MIGRATIONS)
        began = perf_counter()
        upkeep = {"brought to its place": await fill(db, count)}
        filled = perf_counter() - began
        pages_used = (await db.fetch("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"))[0][0]

        async def note(name: str, took: Awaitable[list[float]]) -> None:
            upkeep[name] = await took

        await note("the full text, from nothing", steps(lambda c: store.index_text(c, OWNER), db, "text"))
        await note(
            "by resource, from nothing", steps(lambda c: store.index_resources(c, OWNER, FRIEND), db, "resource")
        )
        figures = await measure(db, count, repeat)
        account = (await db.fetch("SELECT num FROM mam_account WHERE jid = ?", OWNER))[0][0]
        tenth = count // 10
        await note(
            "a quota that takes a tenth", steps(lambda c: removal.trim(c, account, count - tenth, TOP), db, "trim")
        )
        await note(
            "an age that takes another tenth",
            steps(lambda c: removal.expire(c, ids.first_at(START + tenth * 2 * 5 / 4)), db, "expire"),
        )
    each = pages_used / (count * 5 // 4)
    return {
        "fill": filled,
        "bytes_each": each,
        "pages": figures,
        "upkeep": {name: _steps(took) for name, took in upkeep.items()},
    }


def _steps(took: list[float]) -> dict[str, float]:
    return {"steps": len(took), "median": statistics.median(took), "slowest": max(took), "seconds": sum(took) / 1_000}


def show(small: dict[str, Any], large: dict[str, Any], counts: tuple[int, int]) -> None:
    """Print both side by side."""
    print(f"{'page of 50':34}{f'{counts[0]:,}':>14}{f'{counts[1]:,}':>14}   messages, ms (median, slowest)")
    for name, (median, slowest, number) in large["pages"].items():
        before = small["pages"][name][0]
        print(f"{name:34}{before:14.2f}{median:14.2f}{slowest:10.2f}{number:5}")
    print(f"{'bytes of a message on disk':34}{small['bytes_each']:14.0f}{large['bytes_each']:14.0f}")
    print(f"{'upkeep':34}{'steps':>8}{'ms each':>14}{'at most':>14}{'s in all':>14}")
    for name in large["upkeep"]:
        for made in (small, large):
            each = made["upkeep"][name]
            print(f"{name:34}{each['steps']:8}{each['median']:14.2f}{each['slowest']:14.2f}{each['seconds']:14.2f}")


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.archive", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=10_000, help="the archive to compare with")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--directory", type=Path, help="where the databases go; default: a temporary one")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        directory = args.directory or Path(made)
        small = await archive(directory, args.small, args.repeat)
        large = await archive(directory, args.messages, args.repeat)
    show(small, large, (args.small, args.messages))
    if args.json is not None:
        args.json.write_text(json.dumps({"small": small, "large": large}, indent=1))


if __name__ == "__main__":
    uvloop.run(main())
