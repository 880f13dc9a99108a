"""The archive in the database: cost of a page, quotas, expiry, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from time import perf_counter
from typing import Any

import pytest
import pytest_asyncio
from tests.modules.mam.play import ask

from beamish.modules.mam import collections, ids, pages, store
from beamish.modules.mam.keeper import BEHIND_EVERY, INDEX_DELAY, TEXT_PAUSE
from beamish.storage.api import Cursor, Database
from beamish.storage.memory import MemoryDatabase
from beamish.storage.migrate import migrate
from beamish.testing.world import World
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.payload import rsm

TOP = (1 << 63) - 1
OWNER, OTHER = "juliet@example.org", "nurse@example.org"


@pytest_asyncio.fixture
async def db() -> AsyncIterator[MemoryDatabase]:
    async with MemoryDatabase() as made:
        await migrate(made, "mam", store.MIGRATIONS)
        yield made


def rows(count: int, owner: str = OWNER, start: float = 1_000.0) -> Iterator[tuple[Any, ...]]:
    source = ids.IdSource()
    for n in range(count):
        number, salt = source.next(start + n)
        peer = f"contact{n % 7}@example.net"
        resource = "r" if n % 5 else "d"
        wire = (
            f"<message type='chat' from='{peer}/{resource}' to='{owner}' id='m{n}'><body>word{n} all</body></message>"
        )
        yield number, salt, owner, peer, resource, f"m{n}", 0, f"word{n} all", wire.encode()


async def fill(db: Database, count: int, owner: str = OWNER, start: float = 1_000.0) -> None:
    made = list(rows(count, owner, start))
    await db.write("fill", lambda c: c.many(store.APPEND, made))


async def index(db: Database, max_messages: int = TOP, max_bytes: int = TOP) -> list[int]:
    over: list[int] = []
    while True:
        count, more = await db.write("index", lambda c: store.index(c, max_messages, max_bytes))
        over += more
        if count < store.INDEX_ROWS:
            return over


async def search(db: Database, owner: str = OWNER) -> None:
    """Bring the full-text index of an account up to date."""
    while await db.write("text", lambda c: store.index_text(c, owner)):
        pass


async def by_resource(db: Database, owner: str = OWNER) -> None:
    """Bring what finds messages by resource up to date, for one contact."""
    while await db.write("resource", lambda c: store.index_resources(c, owner, "contact3@example.net")):
        pass


async def check(db: Database) -> None:
    """Tables, counters and the full-text index agree with the messages."""

    def look(c: Cursor) -> None:
        assert c.rows("SELECT account, id FROM mam_by_account ORDER BY 2") == c.rows(
            "SELECT a.num, m.id FROM mam_message m JOIN mam_account a ON a.jid = m.owner ORDER BY 2"
        )
        assert c.rows(
            "SELECT t.account, t.peer, e.id FROM mam_by_chat e JOIN mam_chat t ON t.num = e.chat ORDER BY 3"
        ) == (c.rows("SELECT a.num, m.peer, m.id FROM mam_message m JOIN mam_account a ON a.jid = m.owner ORDER BY 3"))
        for num, jid, messages, size, upto in c.rows("SELECT num, jid, messages, bytes, text_upto FROM mam_account"):
            assert (messages, size) == c.row(
                "SELECT COUNT(*), COALESCE(SUM(LENGTH(wire) + COALESCE(LENGTH(body), 0)), 0) FROM mam_message "
                "WHERE owner = ?",
                jid,
            )
            found = c.rows("SELECT rowid FROM mam_text WHERE mam_text MATCH ? ORDER BY 1", f'account : "a{num}"')
            assert found == c.rows(
                "SELECT id FROM mam_message WHERE owner = ? AND body IS NOT NULL AND id <= ? ORDER BY 1", jid, upto
            )
            assert c.value("SELECT texted FROM mam_account WHERE num = ?", num) == c.value(
                "SELECT COUNT(*) FROM mam_message WHERE owner = ? AND id <= ?", jid, upto
            )
        assert c.rows("SELECT chat, resource, id FROM mam_by_resource ORDER BY id") == c.rows(
            "SELECT e.chat, m.resource, e.id FROM mam_by_chat e JOIN mam_message m ON m.id = e.id "
            "JOIN mam_chat t ON t.num = e.chat AND e.id <= t.resource_upto ORDER BY e.id"
        )
        for num, messages in c.rows("SELECT num, messages FROM mam_chat"):
            assert messages == c.value("SELECT COUNT(*) FROM mam_by_chat WHERE chat = ?", num) > 0
        c.run("INSERT INTO mam_text (mam_text) VALUES ('integrity-check')")

    await db.write("check", look)


async def test_index_in_steps(db: MemoryDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "INDEX_ROWS", 30)
    await fill(db, 100)
    await index(db)
    await check(db)
    await fill(db, 25, OTHER, start=5_000.0)
    await index(db)
    await check(db)
    monkeypatch.setattr(store, "TEXT_ROWS", 40)
    await search(db)
    await check(db)
    assert (await db.fetch("SELECT COUNT(*) FROM mam_text WHERE mam_text MATCH 'all'"))[0][0] == 100
    await search(db)
    await search(db, OTHER)
    await search(db, "nobody@example.org")
    await check(db)
    assert (await db.fetch("SELECT COUNT(*) FROM mam_text WHERE mam_text MATCH 'all'"))[0][0] == 125
    assert await index(db) == []


@pytest.mark.parametrize("bound", ["messages", "bytes"])
async def test_a_quota_takes_the_oldest(db: MemoryDatabase, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(store, "TRIM_ROWS", 7)
    await fill(db, 10, OTHER, start=1.0)
    await fill(db, 50)
    await index(db)
    await search(db)
    await by_resource(db)
    assert await db.fetch("SELECT 1 FROM mam_by_resource WHERE resource = 'd'")
    size = (await db.fetch("SELECT bytes FROM mam_account WHERE jid = ?", OWNER))[0][0]
    limits = (20, TOP) if bound == "messages" else (TOP, size * 2 // 5)
    await fill(db, 1, start=2_000.0)
    (account,) = await index(db, *limits)
    while await db.write("trim", lambda c: store.trim(c, account, *limits)):
        pass
    await check(db)
    left = await db.fetch("SELECT sid FROM mam_message WHERE owner = ? ORDER BY id", OWNER)
    expected = [f"m{n}" for n in range(31 if bound == "messages" else 0, 50)] + ["m0"]
    assert [sid for (sid,) in left] == expected[-len(left) :]
    assert 18 <= len(left) <= 21
    assert len(await db.fetch("SELECT 1 FROM mam_message WHERE owner = ?", OTHER)) == 10
    assert not await db.write("trim", lambda c: store.trim(c, account, *limits))


async def test_expiry_takes_what_is_older_of_everybody(db: MemoryDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "TRIM_ROWS", 7)
    before = ids.first_at(1_010.0)
    await fill(db, 30, OTHER, start=500.0)
    assert not await db.write("expire", lambda c: store.expire(c, before))  # not before it is indexed
    await fill(db, 15)
    await index(db)
    await search(db)
    await by_resource(db)
    await fill(db, 15, start=1_015.0)  # not searched for words yet
    await index(db)
    while await db.write("expire", lambda c: store.expire(c, before)):
        pass
    await check(db)
    assert [sid for (sid,) in await db.fetch("SELECT sid FROM mam_message ORDER BY id")] == [
        *(f"m{n}" for n in range(10, 15)),
        *(f"m{n}" for n in range(15)),
    ]


async def test_replaced_messages_are_no_longer_found_by_words(db: MemoryDatabase) -> None:
    await fill(db, 10)
    await index(db)
    await search(db)
    number = (await db.fetch("SELECT id FROM mam_message WHERE sid = 'm3'"))[0][0]
    await db.write("replace", lambda c: store.replace(c, OWNER, number, store.GRAVE, b"<message/>"))
    await check(db)
    assert (
        await db.write("find", lambda c: store.find_original(c, OWNER, "contact3@example.net", None, "m3", False))
        is None
    )
    found = await db.write("find", lambda c: store.find_original(c, OWNER, "contact4@example.net", "r", "m4", False))
    assert found is not None
    assert b"id='m4'" in found[1]
    for args in (
        (OWNER, "contact4@example.net", "other", "m4", False),
        (OWNER, "contact4@example.net", None, "m4", True),
        (OTHER, "contact4@example.net", None, "m4", False),
    ):
        assert await db.write("find", lambda c, args=args: store.find_original(c, *args)) is None  # type: ignore[misc]


QUERIES = {
    "first": pages.Query(OWNER, page=rsm.Request(50)),
    "last": pages.Query(OWNER, page=rsm.Request(50, before="")),
    "middle": pages.Query(OWNER, page=rsm.Request(50), start=ids.first_at(30_000.0)),
    "contact": pages.Query(OWNER, "contact3@example.net", page=rsm.Request(50, before="")),
    "contact_at": pages.Query(
        OWNER, "contact3@example.net", end=ids.first_at(30_000.0), page=rsm.Request(50, before="")
    ),
    "word": pages.Query(OWNER, text="word77", page=rsm.Request(50)),
    "words": pages.Query(OWNER, text="all", page=rsm.Request(50, before="")),
    "resource": pages.Query(OWNER, "contact3@example.net", "r", page=rsm.Request(50, before="")),
    "resource_at": pages.Query(
        OWNER, "contact3@example.net", "d", end=ids.first_at(30_000.0), page=rsm.Request(50, before="")
    ),
    "words_with": pages.Query(OWNER, "contact3@example.net", text="all", page=rsm.Request(50, before="")),
    "words_with_resource": pages.Query(OWNER, "contact3@example.net", "r", text="all", page=rsm.Request(50)),
}


@pytest.mark.parametrize("name", QUERIES)
async def test_pages_are_found_by_seeking(db: MemoryDatabase, name: str) -> None:
    """No query reads a table or sorts: its plan has searches alone."""
    await fill(db, 200)
    await index(db)
    await search(db)
    query = QUERIES[name]
    seen: list[tuple[str, tuple[Any, ...]]] = []

    class Watching:
        def __init__(self, cursor: Cursor) -> None:
            self.rows_of = cursor.rows

        def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
            seen.append((sql, params))
            return self.rows_of(sql, *params)

        def row(self, sql: str, *params: Any) -> tuple[Any, ...] | None:
            found = self.rows(sql, *params)
            return found[0] if found else None

        def value(self, sql: str, *params: Any) -> Any:
            found = self.row(sql, *params)
            return None if found is None else found[0]

    await db.read("page", lambda c: pages.page(Watching(c), query))  # type: ignore[arg-type]
    assert len(seen) > 3
    for sql, params in seen:
        if "mam_state" in sql:
            continue  # one row
        for *_, step in await db.fetch(f"EXPLAIN QUERY PLAN {sql}", *params):
            assert step.startswith(("SEARCH", "CO-ROUTINE", "SCAN e VIRTUAL TABLE INDEX", "SCAN (subquery")), (
                step,
                sql,
            )


async def test_a_page_costs_the_same_from_a_small_and_a_large_archive(db: MemoryDatabase) -> None:
    async def fastest(query: pages.Query) -> float:
        times = []
        for _ in range(5):
            began = perf_counter()
            result = await db.read("page", lambda c: pages.page(c, query))
            times.append(perf_counter() - began)
            assert result.rows
        return min(times)

    await fill(db, 2_000)
    await index(db)
    await search(db)
    await by_resource(db)
    small = {name: await fastest(query) for name, query in QUERIES.items() if name != "middle"}
    await fill(db, 60_000, start=100_000.0)
    await index(db)
    await search(db)
    await by_resource(db)
    for name, before in small.items():
        assert await fastest(QUERIES[name]) < 0.020, name
        if not name.startswith("words"):  # their count stops at a bound, which the small archive does not reach
            assert await fastest(QUERIES[name]) < 3 * before + 0.002, name


async def test_counts_stop_at_a_bound_where_no_counter_knows_them(
    db: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COUNTED", 100)
    await fill(db, 300)
    await index(db)
    await search(db)

    async def count(**changes: Any) -> tuple[int | None, int | None]:
        query = pages.Query(OWNER, **({"page": rsm.Request(5)} | changes))
        result = await db.read("page", lambda c: pages.page(c, query))
        return result.count, result.index

    assert await count() == (300, None)
    assert await count(with_bare="contact1@example.net") == (43, 0)
    assert await count(start=ids.first_at(1_100.0)) == (None, None)
    assert await count(start=ids.first_at(1_250.0)) == (50, 0)
    assert await count(text="all") == (None, None)
    assert await count(start=ids.first_at(1_100.0), page=rsm.Request(0)) == (200, None)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 90, 100, 101, 500])
async def test_pages_of_any_size_join_without_a_gap(db: MemoryDatabase, size: int, backwards: bool) -> None:
    await fill(db, 60)
    await index(db)
    await fill(db, 40, start=9_000.0)
    seen: list[int] = []
    place: tuple[int, int] | None = None
    for _ in range(101):
        page = rsm.Request(size, None if backwards else "x", "x" if backwards else None)
        query = pages.Query(OWNER, page=page, **({"page_before" if backwards else "page_after": place}))
        result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
        assert result.complete is (len(seen) + len(result.rows) == 100)
        rows_ = [(row.id, row.salt) for row in result.rows]
        seen = [id_ for id_, _ in rows_] + seen if backwards else seen + [id_ for id_, _ in rows_]
        if result.complete:
            break
        place = rows_[0 if backwards else -1]
    assert len(seen) == 100
    assert seen == sorted(set(seen))


async def test_pages_are_bounded_in_bytes(db: MemoryDatabase) -> None:
    await fill(db, 50)
    await index(db)
    one = len(next(rows(1))[8])
    for backwards in (False, True):
        page = rsm.Request(40, before="" if backwards else None)
        for max_bytes, expected in ((1, 1), (one * 5, 4 if backwards else 5)):
            query = pages.Query(OWNER, page=page, max_bytes=max_bytes)
            result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
            assert (len(result.rows), result.complete) == (expected, False)
    chosen = tuple((row[0], row[1]) for row in await db.fetch("SELECT id, salt FROM mam_message"))
    with pytest.raises(StanzaError):
        await db.read("page", lambda c: pages.page(c, pages.Query(OWNER, ids=chosen, max_bytes=one * 5)))


async def test_words_find_nothing_of_other_accounts(db: MemoryDatabase) -> None:
    await fill(db, 20)
    await fill(db, 20, OTHER, start=9_000.0)
    await index(db)
    await search(db)
    await search(db, OTHER)
    for owner in (OWNER, OTHER):
        found = await db.read("page", lambda c, owner=owner: pages.page(c, pages.Query(owner, text="word5")))  # type: ignore[misc]
        assert len(found.rows) == 1
        assert owner.encode() in found.rows[0].wire


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("one two", 'account : "a7" AND body : ("one" AND "two")'),
        ('say "in one go"', 'account : "a7" AND body : ("say" AND "in one go")'),
        ("'; DROP", 'account : "a7" AND body : ("DROP")'),
        ('"', 'account : "nobody"'),
        ("*** ---", 'account : "nobody"'),
    ],
)
def test_expressions(text: str, expected: str) -> None:
    assert pages.match_of(text, 7) == expected


def test_expressions_with_a_contact() -> None:
    assert pages.match_of("one", 7, "a@b", 12) == 'account : "c12" AND body : ("one")'
    assert pages.match_of("one", 7, "a@b", 12, "\u00e9") == 'account : ("c12" AND "rc3a9") AND body : ("one")'
    assert pages.match_of("one", 7, "a@b", None) == 'account : "c0" AND body : ("one")'  # there is no such number


async def test_what_was_said_with_a_resource_before_and_after_it_was_entered(db: MemoryDatabase) -> None:
    """Three sources, in order: entered by resource, by contact only, and not at all yet."""
    await fill(db, 105)
    await index(db)
    await by_resource(db)
    await fill(db, 105, start=5_000.0)
    await index(db)
    await fill(db, 105, start=9_000.0)
    found: list[str] = []
    for resource, backwards in (("d", False), ("d", True)):
        page = rsm.Request(100, before="" if backwards else None)
        query = pages.Query(OWNER, "contact3@example.net", resource, page=page)
        result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
        numbers = [row.id for row in result.rows]
        assert numbers == sorted(numbers)
        assert (len(numbers), result.count, result.complete) == (9, 9, True)
        assert all(f"contact3@example.net/{resource}".encode() in row.wire for row in result.rows)
        found.append(str(numbers))
    assert found[0] == found[1]
    nobody = pages.Query(OWNER, "contact3@example.net", "garden", page=rsm.Request(100))
    assert (await db.read("page", lambda c: pages.page(c, nobody))).rows == ()


async def test_words_with_a_contact_and_a_resource(db: MemoryDatabase) -> None:
    await fill(db, 105)
    await fill(db, 105, OTHER, start=5_000.0)
    await index(db)
    await search(db)
    await search(db, OTHER)
    for resource, number in (("", 15), ("d", 3), ("r", 12), ("garden", 0)):
        query = pages.Query(OWNER, "contact3@example.net", resource, text="all", page=rsm.Request(100))
        result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
        assert (len(result.rows), result.count) == (number, number)
        assert all(OWNER.encode() in row.wire for row in result.rows)
    stranger = pages.Query(OWNER, "nobody@example.net", text="all", page=rsm.Request(100))
    assert (await db.read("page", lambda c: pages.page(c, stranger))).rows == ()


# ---- in a server -----------------------------------------------------------------------------------------------------


async def test_indexing_begins_by_itself_and_bounds_hold() -> None:
    settings = {"modules": {"mam": {"max_messages": 3, "keep_days": 1.0}}}
    async with World(settings=settings) as world:
        romeo = await world.login("romeo@example.org/r")
        for n in range(5):
            romeo.send(f"<message to='benvolio@example.net' type='chat'><body>{n}</body></message>")
        await world.settle()
        assert (await ask(romeo)).bodies == ["0", "1", "2", "3", "4"]
        await world.pass_time(INDEX_DELAY + 1)
        page = await ask(romeo)
        assert (page.bodies, page.rsm("count")) == (["2", "3", "4"], "3")
        await world.pass_time(86_400)
        romeo = await world.login("romeo@example.org/again")  # the first one was silent for too long
        romeo.send("<message to='benvolio@example.net' type='chat'><body>new</body></message>")
        await world.pass_time(INDEX_DELAY + 1)
        await world.pass_time(3_600)
        romeo = await world.login("romeo@example.org/later")
        assert (await ask(romeo)).bodies == ["new"]


async def test_the_full_text_of_a_large_archive_is_entered_before_anybody_searches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "TEXT_LAG", 10)
    monkeypatch.setattr(store, "TEXT_ROWS", 4)

    async with MemoryDatabase() as db:

        async def texted() -> list[tuple[str, int]]:
            return await db.fetch("SELECT jid, texted FROM mam_account ORDER BY jid")

        async with World(database=db):
            await fill(db, 30)
            await fill(db, 10, OTHER, start=5_000.0)
        async with World(database=db) as world:
            for _ in range(3):
                await world.settle()
                await world.pass_time(TEXT_PAUSE)
            assert await texted() == [(OWNER, 16), (OTHER, 0)]  # a step now and then
            for _ in range(10):
                await world.pass_time(TEXT_PAUSE)
            assert await texted() == [(OWNER, 20), (OTHER, 0)]  # not more than needed
            juliet = await world.login(f"{OWNER}/r")
            found = await ask(juliet, {"{urn:xmpp:fulltext:0}fulltext": "all"})
            assert len(found.bodies) == 30
            assert await texted() == [(OWNER, 30), (OTHER, 0)]
            for n in range(12):
                juliet.send(f"<message to='{OTHER}' type='chat' id='n{n}'><body>new</body></message>")
            await world.pass_time(INDEX_DELAY + 1)
            await world.pass_time(BEHIND_EVERY)
            juliet = await world.login(f"{OWNER}/again")
            juliet.send(f"<message to='{OTHER}' type='chat' id='last'><body>new</body></message>")
            await world.pass_time(INDEX_DELAY + 1)
            for _ in range(10):
                await world.pass_time(TEXT_PAUSE)
            assert await texted() == [(OWNER, 34), (OTHER, 16)]
            await check(db)


async def test_removed_messages_are_not_found_by_resource_either(db: MemoryDatabase) -> None:
    await fill(db, 105)
    await index(db)
    await search(db)
    await by_resource(db)
    chosen = collections.Chosen("contact3@example.net", exact=True)
    removed = await db.write(
        "remove", collections.removing(OWNER, chosen, ids.first_at(1_000.0), ids.first_at(1_050.0))
    )
    assert removed == 7
    for resource, number in (("", 8), ("d", 1), ("r", 7)):
        for text in ("", "all"):
            query = pages.Query(OWNER, "contact3@example.net", resource, text=text, page=rsm.Request(100))
            result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
            assert (len(result.rows), result.count) == (number, number)
    orphans = (
        "SELECT 1 FROM mam_by_resource r WHERE NOT EXISTS "
        "(SELECT 1 FROM mam_by_chat e WHERE e.chat = r.chat AND e.id = r.id)"
    )
    assert await db.fetch(orphans) == []
    (account,) = (await db.fetch("SELECT num FROM mam_account WHERE jid = ?", OWNER))[0]
    while await db.write("trim", lambda c: store.trim(c, account, 10, TOP)):
        pass
    assert await db.fetch(orphans) == []
    assert (await db.fetch("SELECT COUNT(*) FROM mam_message"))[0][0] == 10
    await db.write("check", lambda c: c.run("INSERT INTO mam_text (mam_text) VALUES ('integrity-check')"))
