"""Archives of former versions: one row for each message, with trees beside them, become what they are now."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from tests.modules.mam.archives import (
    CONTACT,
    OTHER,
    OWNER,
    TOP,
    apply,
    cursor,
    entries_of,
    fresh_entry,
    look_through,
    merge_all,
    messages,
    put_old,
    sids,
    write,
)
from tests.modules.mam.play import ask

from beamish.core.tasks import TaskGroup
from beamish.modules.mam import ids, lists, merging, packing, pages, removal, store
from beamish.modules.mam.keeper import MERGE_PAUSE, Keeper
from beamish.storage.engine import SqliteCursor
from beamish.storage.memory import MemoryDatabase
from beamish.storage.migrate import migrate
from beamish.testing.clock import FakeClock
from beamish.testing.world import World
from beamish.xmpp.payload import rsm
from beamish.xmpp.stanza import Stanza

Old = tuple[int, int, str, str, str, str, int, str | None, bytes]
"""A row of `mam_message`: id, salt, owner, peer, resource, sid, kind, body, wire."""
TOMBSTONE = "<retracted xmlns='urn:xmpp:message-retract:1' id='x' stamp='2024-01-01T00:00:00Z'/>"


def old_rows(count: int, owner: str, start: float) -> list[Old]:
    """What a former version appended; some messages were retracted, some removed, some have no text."""
    made: list[Old] = []
    source = ids.IdSource()
    for n in range(count):
        number, salt = source.next(start + n)
        peer, resource = f"contact{n % 7}@example.net", "r" if n % 5 else "d"
        kind, body = 0, f"word{n} all"
        ends = f"from='{peer}/{resource}' to='{owner}/x'"
        if n % 3 == 0:
            kind, ends = packing.SENT, f"from='{owner}/x' to='{peer}/{resource}'"
        inner = f"<body>{body}</body>"
        if n % 11 == 4:
            kind, inner = kind | packing.GRAVE, TOMBSTONE
        elif n % 13 == 5:
            kind, inner = kind | packing.REMOVED, ""
        elif n % 17 == 6:
            inner = "<received xmlns='urn:xmpp:receipts' id='1'/>"
        wire = Stanza.parse(f"<message type='chat' id='m{n}' {ends}>{inner}</message>".encode()).to_wire()
        made.append((number, salt, owner, peer, resource, f"m{n}", kind, body if "<body>" in inner else None, wire))
    return made


def store_old(c: SqliteCursor, rows: list[Old]) -> None:
    c.many(
        "INSERT INTO mam_message (id, salt, owner, peer, resource, sid, kind, body, wire) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )


def index_old(c: SqliteCursor, upto: int) -> None:
    """The trees, counters and words that a former version had for messages up to a number."""
    c.run("INSERT INTO mam_account (jid) SELECT DISTINCT owner FROM mam_message WHERE id <= ?", upto)
    rows = c.rows("SELECT m.id, a.num, m.peer, m.resource, m.kind, m.body, LENGTH(m.wire) FROM mam_message m JOIN "
                  "mam_account a ON a.jid = m.owner WHERE m.id <= ? ORDER BY m.id", upto)  # fmt: skip
    for id_, account, peer, resource, kind, body, size in rows:
        c.run("INSERT INTO mam_by_account VALUES (?, ?)", account, id_)
        if not kind & packing.REMOVED:
            c.run("INSERT INTO mam_chat (account, peer, resource_upto) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                  account, peer, upto)  # fmt: skip
            chat = c.value("SELECT num FROM mam_chat WHERE account = ? AND peer = ?", account, peer)
            c.run("UPDATE mam_chat SET messages = messages + 1 WHERE num = ?", chat)
            c.run("INSERT INTO mam_by_chat VALUES (?, ?)", chat, id_)
            c.run("INSERT INTO mam_by_resource VALUES (?, ?, ?)", chat, resource, id_)
            if body is not None:
                terms = f"a{account} c{chat} r{resource.encode().hex()}"
                c.run("INSERT INTO mam_text (rowid, account, body) VALUES (?, ?, ?)", id_, terms, body)
        c.run("UPDATE mam_account SET messages = messages + 1, bytes = bytes + ?, text_upto = ?, texted = texted + 1 "
              "WHERE num = ?", size + len(body or ""), upto, account)  # fmt: skip
    c.run("UPDATE mam_state SET indexed = ?", upto)


def all_of(c: SqliteCursor, query: pages.Query) -> list[tuple[int, int, int, bytes]]:
    found: list[tuple[int, int, int, bytes]] = []
    place: Any = None
    while True:
        result = pages.page(c, replace(query, page=rsm.Request(50, "x"), page_after=place))
        found += [(row.id, row.salt, row.kind, row.wire) for row in result.rows]
        if result.complete:
            assert result.count == len(found)
            return found
        place = found[-1][:2]


@pytest.mark.parametrize("indexed", ["none", "some", "all"])
def test_everything_is_found_as_before(indexed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MERGE_ROWS", 64)
    c = cursor(1, 2)
    rows = [*old_rows(150, OTHER, 500.0), *old_rows(150, OWNER, 1_000.0)]
    assert {row[6] for row in rows} == {0, 1, 2, 3, 4, 5}
    store_old(c, rows)
    if indexed != "none":
        index_old(c, rows[200][0] if indexed == "some" else rows[-1][0])
    apply(c, 3, 4, 5)
    assert store.last_id(c) == rows[-1][0]
    later = list(messages(10, OWNER, 5_000.0))
    write(c, later)
    merge_all(c)
    look_through(c)
    assert c.rows("SELECT 1 FROM mam_message") == []
    for owner in (OWNER, OTHER):
        while store.index_text(c, owner):
            pass
        for n in range(7):
            while store.index_resources(c, owner, f"contact{n}@example.net"):
                pass
        look_through(c)
        own = [row for row in rows if row[2] == owner]
        own += [(n, salt, owner, peer, Stanza.thaw(wire).sender.resource, "", kind, f"word{i} all", wire)  # type: ignore[union-attr]
                for i, (n, salt, kind, peer, wire, who) in enumerate(later) if who == owner]  # fmt: skip

        def wanted(rows: list[Old]) -> list[tuple[int, int, int, bytes]]:
            return [(row[0], row[1], row[6], row[8]) for row in rows]

        assert all_of(c, pages.Query(owner)) == wanted(own)
        shown = [row for row in own if not row[6] & packing.REMOVED]
        assert all_of(c, pages.Query(owner, CONTACT)) == wanted([row for row in shown if row[3] == CONTACT])
        assert all_of(c, pages.Query(owner, text="all")) == wanted([row for row in own if row[7] is not None])
        for resource in "rd":
            expected = [row for row in shown if row[3] == CONTACT and row[4] == resource]
            assert expected
            assert all_of(c, pages.Query(owner, CONTACT, resource)) == wanted(expected)
            expected = [row for row in expected if row[7] is not None]
            assert all_of(c, pages.Query(owner, CONTACT, resource, text="all")) == wanted(expected)
        sample = next(row for row in own if row[6] == packing.SENT and row[3] == CONTACT)
        original = removal.find_original(c, owner, CONTACT, sample[4], sample[5], True)
        assert original == (sample[0], sample[8])
    while removal.expire(c, TOP):
        pass
    look_through(c)
    assert lists.of_account(c, 1).count(-1, TOP) == 0


def test_numbers_do_not_begin_again_where_all_messages_have_gone() -> None:
    c = cursor(1, 2)
    c.run("UPDATE mam_state SET indexed = 77")
    apply(c, 3, 4, 5)
    assert store.last_id(c) == 77


async def test_a_server_takes_up_the_archive_of_a_former_version() -> None:
    async with MemoryDatabase() as db:
        await migrate(db, "mam", store.MIGRATIONS[:2])
        rows = old_rows(40, OWNER, 1_000.0)

        def prepare(c: Any) -> None:
            store_old(c, rows)
            index_old(c, rows[20][0])

        await db.write("old", prepare)
        async with World(database=db) as world:
            juliet = await world.login(f"{OWNER}/r")
            assert [message.get("id") for message in (await ask(juliet)).messages] == [f"m{n}" for n in range(40)]
            assert await db.fetch("SELECT 1 FROM mam_message") == []
            await db.write("check", look_through)


OWNERS = (OWNER, OTHER, "romeo@example.org")


@pytest.mark.parametrize("seed", range(8))
def test_rows_are_taken_over_in_any_order_of_accounts(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """While messages come, some of them late, whoever asks finds all of theirs, in their order, as soon as theirs are done."""
    rng = random.Random(seed)
    monkeypatch.setattr(merging, "MERGE_ROWS", 7)
    monkeypatch.setattr(merging, "MERGE_PLACES", (2, 6, 100)[seed % 3])
    monkeypatch.setattr(merging, "PART_PLACES", 3)
    monkeypatch.setattr(merging, "_LOG_ROWS", 2)
    c = cursor()
    now = 0

    def some(count: int) -> list[packing.Logged]:
        nonlocal now
        made = []
        for _ in range(count):
            now += rng.randrange(1, 4)
            owner = rng.choice(OWNERS)
            made.append(fresh_entry(now, owner, f"contact{rng.randrange(3)}@example.net", sid=f"m{now}"))
        return made

    there = some(60)
    put_old(c, there)
    late: list[list[packing.Logged]] = []
    for _ in range(60):
        what = rng.randrange(5)
        if what == 0:
            assert store.last_id(c) >= max(entry[0] for entry in there)
            tick = some(rng.randrange(1, 9))
            if rng.random() < 0.2:
                late.append(tick)
            else:
                store.write_log(c, tick)
                there += tick
        elif what == 1 and late:
            tick = late.pop(0)
            store.write_log(c, tick)
            there += tick
        elif what == 2:
            merging.merge(c, TOP, TOP)
        elif what == 3:
            merging.merge(c, TOP, TOP, rng.choice(OWNERS))
        else:
            owner = rng.choice(OWNERS)
            while merging.merge(c, TOP, TOP, owner)[0]:
                pass
            wanted = sorted(entry[:5] for entry in there if entry[5] == owner)
            assert entries_of(c, owner) == wanted
            if rng.random() < 0.3:
                while store.index_text(c, owner):
                    pass
                found = all_of(c, pages.Query(owner, text="all"))
                assert [number for number, *_ in found] == [entry[0] for entry in wanted]
    merge_all(c)
    look_through(c)
    assert c.rows("SELECT 1 FROM mam_message") == c.rows("SELECT 1 FROM mam_log") == []
    for owner in OWNERS:
        assert entries_of(c, owner) == sorted(entry[:5] for entry in there if entry[5] == owner)


def test_what_others_said_meanwhile_waits_behind_what_they_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MERGE_ROWS", 4)
    c = cursor()
    old = [fresh_entry(n, OTHER) for n in range(1, 21)]
    new = [fresh_entry(n, OTHER if n < 31 else OWNER) for n in range(21, 34)]
    put_old(c, old)
    write(c, new, tick=5)
    while merging.merge(c, TOP, TOP, OWNER)[0]:
        pass
    assert entries_of(c, OWNER) == [entry[:5] for entry in new[10:]]
    assert entries_of(c, OTHER) == c.rows("SELECT 1 FROM mam_log") == []
    assert store.last_id(c) == 33
    merge_all(c)
    assert entries_of(c, OTHER) == [entry[:5] for entry in (*old, *new[:10])]
    look_through(c)


async def test_who_asks_first_does_not_wait_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for the rows of their own account, however many there are of others, and for what came since the start."""
    monkeypatch.setattr(merging, "MERGE_ROWS", 4)
    async with MemoryDatabase() as db:
        await migrate(db, "mam", store.MIGRATIONS)
        old = [fresh_entry(n, f"a{n % 40}@example.org" if n < 390 else OWNER, sid=f"m{n}") for n in range(1, 401)]
        new = [fresh_entry(n, OWNER if n % 2 else OTHER, sid=f"m{n}") for n in range(401, 411)]
        await db.write("old", lambda c: put_old(c, old))
        tasks = TaskGroup("test")
        keeper = Keeper(db, FakeClock(), tasks, lambda: None, 0, 0, 0.0)
        keeper.start()
        await db.write("new", lambda c: write(c, new))
        await keeper.merged(OWNER)
        assert await sids(db) == [f"m{n}" for n in (*range(390, 401), *range(401, 411, 2))]
        assert (await db.fetch("SELECT COUNT(*) FROM mam_message"))[0][0] > 300
        await keeper.searchable(OWNER)
        assert (await db.fetch("SELECT COUNT(*) FROM mam_message"))[0][0] > 250
        await keeper.all_merged()
        assert await db.fetch("SELECT 1 FROM mam_message") == []
        assert await sids(db, OTHER) == [f"m{n}" for n in range(402, 411, 2)]
        await db.write("check", look_through)
        keeper.stop()
        await tasks.close()


async def test_a_quota_learnt_of_by_the_first_question_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MERGE_ROWS", 4)
    async with MemoryDatabase() as db:
        await migrate(db, "mam", store.MIGRATIONS)
        await db.write("old", lambda c: put_old(c, [fresh_entry(n, OWNER, sid=f"m{n}") for n in range(1, 31)]))
        tasks = TaskGroup("test")
        clock = FakeClock()
        keeper = Keeper(db, clock, tasks, lambda: None, 5, 0, 0.0)
        keeper.start()
        await keeper.merged(OWNER)
        while len(tasks):
            clock.advance(MERGE_PAUSE)
            await tasks.drain(0.001)
        assert await sids(db) == [f"m{n}" for n in range(26, 31)]
        keeper.stop()
        await tasks.close()


async def test_a_retraction_does_not_wait_for_rows_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "MERGE_ROWS", 4)
    async with MemoryDatabase() as db:
        await migrate(db, "mam", store.MIGRATIONS)
        await db.write("old", lambda c: put_old(c, [fresh_entry(n, OWNER) for n in range(1, 31)]))
        async with World(database=db) as world:
            romeo = await world.login("romeo@example.org/r")
            to = "to='benvolio@example.net' type='chat'"
            romeo.send(f"<message {to} id='one'><body>one</body></message>")
            await world.settle()
            romeo.send(
                f"<message {to} id='two'><body/><retract xmlns='urn:xmpp:message-retract:1' id='one'/></message>"
            )
            await world.settle()
            assert len(await db.fetch("SELECT 1 FROM mam_message WHERE owner = ?", OWNER)) > 20
            kept = await db.read("kept", lambda c: entries_of(c, "romeo@example.org"))
            assert [b"<retracted" in entry[4] for entry in kept] == [True, False]
