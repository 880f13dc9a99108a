"""The archive in the database: merging, what a page costs, and what is found by words and resources."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
from tests.modules.mam.archives import (
    CONTACT,
    OTHER,
    OWNER,
    TOP,
    by_resource,
    check,
    cursor,
    entries_of,
    fill,
    fresh_entry,
    look_through,
    merge,
    merge_all,
    messages,
    search,
    write,
)

from beamish.modules.mam import ids, lists, merging, pages, removal, store
from beamish.storage.api import Cursor
from beamish.storage.memory import MemoryDatabase
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.payload import rsm

# ---- merging ---------------------------------------------------------------------------------------------------------


async def test_merge_in_steps(db: MemoryDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MERGE_ROWS", 30)
    monkeypatch.setattr(merging, "_LOG_ROWS", 2)
    first = await fill(db, 100)
    steps: list[bool] = []
    while not steps or steps[-1]:
        steps.append((await db.write("merge", lambda c: merging.merge(c, TOP, TOP)))[0])
        await check(db)
    assert steps == [True, True, True, False]  # two rows of the log, with 17 messages each, in a step
    await fill(db, 25, OTHER, start=5_000.0)
    await merge(db)
    await check(db)
    assert await db.read("entries", lambda c: entries_of(c, OWNER)) == [entry[:5] for entry in first]
    monkeypatch.setattr(store, "TEXT_ROWS", 40)
    await search(db)
    await check(db)
    found = "SELECT COUNT(*) FROM mam_text WHERE mam_text MATCH 'all'"
    assert (await db.fetch(found))[0][0] == 100
    await search(db)
    await search(db, OTHER)
    await search(db, "nobody@example.org")
    await check(db)
    assert (await db.fetch(found))[0][0] == 125
    assert await db.write("merge", lambda c: merging.merge(c, TOP, TOP)) == (False, [])
    assert await db.fetch("SELECT 1 FROM mam_log") == []


def test_a_step_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MERGE_BYTES", 1_000)
    c = cursor()
    write(c, [fresh_entry(n, OWNER, text="x" * 600) for n in range(1, 10)], tick=1)
    taken: list[tuple[bool, int]] = []
    while not taken or taken[-1][0]:
        more, _ = merging.merge(c, TOP, TOP)
        taken.append((more, len(entries_of(c, OWNER))))
    assert taken == [(True, 2), (True, 4), (True, 6), (True, 8), (False, 9)]
    look_through(c)


def test_a_step_is_bounded_in_accounts_and_conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to many of them is sorted first, then filed part by part; nothing is forgotten or out of order meanwhile."""
    monkeypatch.setattr(merging, "MERGE_PLACES", 12)
    monkeypatch.setattr(merging, "PART_PLACES", 6)
    monkeypatch.setattr(merging, "MERGE_ROWS", 100)
    c = cursor()
    owners = [f"a{n}@example.org" for n in range(5)]
    there = [fresh_entry(n, owners[n % 5], f"contact{n % 3}@example.net", sid=f"m{n}") for n in range(1, 91)]
    write(c, there[:60])
    filed: list[int] = []
    while True:
        more, over = merging.merge(c, 12, TOP)
        look_through(c)
        assert store.last_id(c) == (60 if len(filed) < 2 else 90)
        filed.append(sum(len(entries_of(c, owner)) for owner in owners))
        if not more:
            break
        if len(filed) == 2:  # an account with three contacts takes four places, so each is filed by itself
            write(c, there[60:])
        if filed[-1] in (12, 24, 36, 48, 60):
            assert [bool(entries_of(c, owner)) for owner in owners].count(True) == filed[-1] // 12
        assert bool(over) == (filed[-1] > 60)
    assert filed == [0, 12, 24, 36, 48, 60, 60, 66, 72, 78, 84, 90, 90]
    for owner in owners:
        assert entries_of(c, owner) == [entry[:5] for entry in there if entry[5] == owner]
    for table in ("mam_log", "mam_part"):
        assert c.rows(f"SELECT 1 FROM {table}") == []


def test_a_step_of_the_full_text_is_bounded_in_bytes_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "TEXT_BYTES", 40_000)
    monkeypatch.setattr(store, "TEXT_ROWS", 5)
    monkeypatch.setattr(store, "_CHUNKS", 2)
    c = cursor()
    write(c, [fresh_entry(n, OWNER, text="x" * 15_000 if n < 10 else "few") for n in range(1, 31)])
    merge_all(c)
    taken: list[tuple[bool, int]] = []
    while not taken or taken[-1][0]:
        more = store.index_text(c, OWNER)
        taken.append((more, c.value("SELECT texted FROM mam_account WHERE jid = ?", OWNER)))
    assert taken == [(True, 3), (True, 6), (True, 11), (True, 16), (True, 21), (True, 26), (False, 30)]
    look_through(c)
    assert not store.index_text(c, OWNER)


def test_rows_are_filled_up_to_their_bounds() -> None:
    c = cursor()
    for n in range(1, 101):
        write(c, [fresh_entry(n, OWNER)])
        merge_all(c)
    assert [n for (n,) in c.rows("SELECT messages FROM mam_chunk ORDER BY id")] == [32, 32, 32, 4]
    write(
        c, [fresh_entry(n, OWNER, text="x" * size) for n, size in ((101, 9_000), (102, 9_000), (103, 90_000), (104, 1))]
    )
    merge_all(c)
    assert [n for (n,) in c.rows("SELECT messages FROM mam_chunk ORDER BY id")] == [32, 32, 32, 5, 1, 1, 1]
    look_through(c)


@pytest.mark.parametrize("upto", ["nothing", "words", "resources", "both"])
@pytest.mark.parametrize("merged_before", [False, True])
def test_what_the_disk_took_late_is_found_like_all_else(upto: str, merged_before: bool) -> None:
    """Messages of a tick that was tried again come behind younger ones, which may be indexed already."""
    c = cursor()
    numbers = list(range(10, 2_010, 10))
    late = [n for n in numbers if n % 70 == 0] if merged_before else [n for n in numbers if n <= 300]
    soon = [n for n in numbers if n not in late]
    entry = {n: fresh_entry(n, OWNER, resource="d" if n % 3 else "r", sid=str(n), text=f"word{n} all") for n in numbers}
    write(c, [entry[n] for n in soon])
    merge_all(c)
    for _ in range(2):
        if upto in ("words", "both"):
            store.index_text(c, OWNER)
        if upto in ("resources", "both"):
            store.index_resources(c, OWNER, CONTACT)
        look_through(c)
        write(c, [entry[n] for n in late], tick=3)
        merge_all(c)
        look_through(c)
        assert [e[0] for e in entries_of(c, OWNER)] == numbers
        late = []
    store.index_text(c, OWNER)
    store.index_resources(c, OWNER, CONTACT)
    look_through(c)
    for number in (numbers[0], 70, numbers[-1]):
        found = pages.page(c, pages.Query(OWNER, text=f"word{number}"))
        assert [row.id for row in found.rows] == [number]
    for resource, expected in (("d", [n for n in numbers if n % 3]), ("r", [n for n in numbers if not n % 3])):
        result = pages.page(c, pages.Query(OWNER, CONTACT, resource, page=rsm.Request(250), size=250))
        assert [row.id for row in result.rows] == expected
    removal.trim(c, c.value("SELECT num FROM mam_account"), 50, TOP)
    look_through(c)


def test_numbers_go_on_where_they_ended() -> None:
    c = cursor()
    assert store.last_id(c) == 0
    write(c, [fresh_entry(n, OWNER) for n in range(1, 20)], tick=6)
    assert store.last_id(c) == 19
    merge_all(c)
    assert store.last_id(c) == 19
    removal.expire(c, TOP)
    assert entries_of(c, OWNER) == []
    assert store.last_id(c) == 19  # though nothing with it is left
    look_through(c)


def test_accounts_above_their_quota_are_told() -> None:
    c = cursor()
    made = list(messages(50))
    size = sum(len(entry[4]) for entry in made)
    write(c, made)
    assert merge_all(c, 50, size) == []
    more = [(entry[0] + (1 << 50), *entry[1:]) for entry in messages(2)]
    write(c, more[:1])
    assert merge_all(c, 50, TOP) == [1]
    write(c, [*more[1:], *messages(1, OTHER)])
    assert merge_all(c, TOP, size) == [1]


# ---- pages -----------------------------------------------------------------------------------------------------------


QUERIES = {
    "first": pages.Query(OWNER, page=rsm.Request(50)),
    "last": pages.Query(OWNER, page=rsm.Request(50, before="")),
    "middle": pages.Query(OWNER, page=rsm.Request(50), start=ids.first_at(30_000.0)),
    "contact": pages.Query(OWNER, CONTACT, page=rsm.Request(50, before="")),
    "contact_at": pages.Query(OWNER, CONTACT, end=ids.first_at(30_000.0), page=rsm.Request(50, before="")),
    "word": pages.Query(OWNER, text="word77", page=rsm.Request(50)),
    "words": pages.Query(OWNER, text="all", page=rsm.Request(50, before="")),
    "resource": pages.Query(OWNER, CONTACT, "r", page=rsm.Request(50, before="")),
    "resource_at": pages.Query(OWNER, CONTACT, "d", end=ids.first_at(30_000.0), page=rsm.Request(50, before="")),
    "words_with": pages.Query(OWNER, CONTACT, text="all", page=rsm.Request(50, before="")),
    "words_with_resource": pages.Query(OWNER, CONTACT, "r", text="all", page=rsm.Request(50)),
}


@pytest.mark.parametrize("name", QUERIES)
async def test_pages_are_found_by_seeking(db: MemoryDatabase, name: str) -> None:
    """No query reads a table or sorts: its plan has searches alone."""
    await fill(db, 200)
    await merge(db)
    await search(db)
    await by_resource(db)
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

    result = await db.read("page", lambda c: pages.page(Watching(c), query))  # type: ignore[arg-type]
    assert result.rows or name == "middle"
    assert len(seen) > 3
    for sql, params in seen:
        for *_, step in await db.fetch(f"EXPLAIN QUERY PLAN {sql}", *params):
            # of a part of a list, the rows of which are counted, or of words
            assert step.startswith(("SEARCH", "CO-ROUTINE", "SCAN e VIRTUAL TABLE INDEX", "SCAN (subquery")), (
                step,
                sql,
            )


@pytest.mark.parametrize("step", ["merge", "text", "resources", "trim", "expire", "remove"])
async def test_upkeep_seeks_too(db: MemoryDatabase, step: str) -> None:
    """What keeps an archive in order reads no table but the log, and none as a whole."""
    await fill(db, 400)
    await merge(db)
    await search(db)
    await by_resource(db)
    await fill(db, 100, start=5_000.0)
    if step != "merge":
        await merge(db)
    seen: list[str] = []

    def run(c: Cursor) -> None:
        watched: Any = _Statements(c, seen)
        account = c.value("SELECT num FROM mam_account")
        chat = c.value("SELECT num FROM mam_chat WHERE peer = ?", CONTACT)
        numbers = lists.of_list(c, chat).between(-1, TOP, 5)
        steps: dict[str, Callable[[], object]] = {
            "merge": lambda: merging.merge(watched, TOP, TOP),
            "text": lambda: store.index_text(watched, OWNER),
            "resources": lambda: store.index_resources(watched, OWNER, CONTACT),
            "trim": lambda: removal.trim(watched, account, 300, TOP),
            "expire": lambda: removal.expire(watched, ids.first_at(1_100.0)),
            "remove": lambda: removal.remove(watched, OWNER, chat, numbers),
        }
        steps[step]()

    await db.write("step", run)
    assert len(seen) > 3
    for sql in set(seen):
        if sql.startswith("INSERT"):
            continue
        for *_, plan in await db.write(
            "plan",
            lambda c, sql=sql: c.rows(f"EXPLAIN QUERY PLAN {sql}", *([0] * sql.count("?"))),  # type: ignore[misc]
        ):
            allowed = ("SEARCH", "CO-ROUTINE", "MATERIALIZE", "CORRELATED", "SCALAR", "SCAN w", "SCAN fresh")
            constant = ("SCAN CONSTANT", "SCAN 2 CONST", "SCAN 4 CONST", "COMPOUND", "LEFT-MOST", "UNION ALL")
            one_row = plan == "SCAN mam_state"
            first_rows = (
                plan in ("SCAN mam_message", "SCAN mam_chunk", "SCAN mam_part") and "LIMIT" in sql
            )  # in the order of the table
            sorts_few = plan == "USE TEMP B-TREE FOR ORDER BY" and "WITH w" in sql
            assert (
                plan.startswith((*allowed, *constant)) or "CONSTANT ROW" in plan or one_row or first_rows or sorts_few
            ), (
                plan,
                sql,
            )


class _Statements:
    """A cursor that notes what it is asked to run."""

    def __init__(self, cursor: Cursor, seen: list[str]) -> None:
        self._cursor = cursor
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        def call(sql: str, *params: Any) -> Any:
            self._seen.append(sql)
            return getattr(self._cursor, name)(sql, *params)

        return call


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
    await merge(db)
    await search(db)
    await by_resource(db)
    small = {name: await fastest(query) for name, query in QUERIES.items() if name != "middle"}
    await fill(db, 60_000, start=100_000.0)
    await merge(db)
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
    await merge(db)
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
    await merge(db)
    await fill(db, 40, start=9_000.0)
    await merge(db)
    seen: list[int] = []
    place: tuple[int, int] | None = None
    for _ in range(101):
        page = rsm.Request(size, None if backwards else "x", "x" if backwards else None)
        at: dict[str, Any] = {"page_before" if backwards else "page_after": place}
        query = pages.Query(OWNER, page=page, **at)
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
    await merge(db)
    one = len(next(messages(1))[4])
    for backwards in (False, True):
        page = rsm.Request(40, before="" if backwards else None)
        for max_bytes, expected in ((1, 1), (one * 5, 4 if backwards else 5)):
            query = pages.Query(OWNER, page=page, max_bytes=max_bytes)
            result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
            assert (len(result.rows), result.complete) == (expected, False)
    entries = await db.read("entries", lambda c: entries_of(c, OWNER))
    chosen = tuple((entry[0], entry[1]) for entry in entries)
    with pytest.raises(StanzaError):
        await db.read("page", lambda c: pages.page(c, pages.Query(OWNER, ids=chosen, max_bytes=one * 5)))


async def test_words_find_nothing_of_other_accounts(db: MemoryDatabase) -> None:
    await fill(db, 20)
    await fill(db, 20, OTHER, start=9_000.0)
    await merge(db)
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


async def test_what_was_said_with_a_resource_in_steps(db: MemoryDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entered by resource in several steps, of several rounds."""
    monkeypatch.setattr(store, "RESOURCE_ROWS", 4)
    for start in (1_000.0, 5_000.0, 9_000.0):
        await fill(db, 105, start=start)
        await merge(db)
        await by_resource(db)
        await check(db)
    found: list[str] = []
    for resource, backwards in (("d", False), ("d", True)):
        page = rsm.Request(100, before="" if backwards else None)
        query = pages.Query(OWNER, CONTACT, resource, page=page)
        result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
        numbers = [row.id for row in result.rows]
        assert numbers == sorted(numbers)
        assert (len(numbers), result.count, result.complete) == (9, 9, True)
        assert all(f"{CONTACT}/{resource}".encode() in row.wire for row in result.rows)
        found.append(str(numbers))
    assert found[0] == found[1]
    nobody = pages.Query(OWNER, CONTACT, "garden", page=rsm.Request(100))
    assert (await db.read("page", lambda c: pages.page(c, nobody))).rows == ()


async def test_words_with_a_contact_and_a_resource(db: MemoryDatabase) -> None:
    await fill(db, 105)
    await fill(db, 105, OTHER, start=5_000.0)
    await merge(db)
    await search(db)
    await search(db, OTHER)
    for resource, number in (("", 15), ("d", 3), ("r", 12), ("garden", 0)):
        query = pages.Query(OWNER, CONTACT, resource, text="all", page=rsm.Request(100))
        result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
        assert (len(result.rows), result.count) == (number, number)
        assert all(OWNER.encode() in row.wire for row in result.rows)
    stranger = pages.Query(OWNER, "nobody@example.net", text="all", page=rsm.Request(100))
    assert (await db.read("page", lambda c: pages.page(c, stranger))).rows == ()


async def test_bounds_that_cross_have_nothing_between_them(db: MemoryDatabase) -> None:
    await fill(db, 100)
    await merge(db)
    await search(db)
    for text in ("", "all"):
        for contact in ("", CONTACT):
            query = pages.Query(OWNER, contact, start=ids.first_at(1_060.0), end=ids.first_at(1_020.0), text=text)
            result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
            assert (result.rows, result.complete, result.count) == ((), True, 0)


async def test_pages_by_number_count_all_rows(db: MemoryDatabase) -> None:
    """Rows are of different lengths where the oldest messages went, or where stanzas are large."""
    made = await fill(db, 150)
    await merge(db)
    await db.write("trim", lambda c: removal.trim(c, 1, 123, TOP))
    left = [entry[0] for entry in made[-123:]]
    for at in range(0, 123, 3):
        query = pages.Query(OWNER, page=rsm.Request(5, index=at))
        result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
        assert [row.id for row in result.rows] == left[at : at + 5]
        assert (result.count, result.index) == (123, at)


async def test_ids_must_all_be_there_with_their_salts(db: MemoryDatabase) -> None:
    made = await fill(db, 80)
    await fill(db, 3, OTHER, start=5_000.0)
    await merge(db)
    known = [(entry[0], entry[1]) for entry in made]
    chosen = (known[70], known[2], known[2], known[33])
    result = await db.read("page", lambda c: pages.page(c, pages.Query(OWNER, ids=chosen)))
    assert [(row.id, row.salt) for row in result.rows] == [known[2], known[33], known[70]]
    for wrong in ((known[5][0], known[5][1] ^ 1), (known[5][0] + 1, known[5][1]), (0, 0), (TOP, 0)):
        with pytest.raises(StanzaError):
            await db.read("page", lambda c, w=wrong: pages.page(c, pages.Query(OWNER, ids=(known[5], w))))  # type: ignore[misc]
        for name in ("before_id", "after_id", "page_before", "page_after"):
            with pytest.raises(StanzaError):
                await db.read("page", lambda c, w=wrong, n=name: pages.page(c, pages.Query(OWNER, **{n: w})))  # type: ignore[misc]
    with pytest.raises(StanzaError):
        await db.read("page", lambda c: pages.page(c, pages.Query(OTHER, ids=(known[5],))))
