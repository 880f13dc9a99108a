"""What takes messages out of archives, and that nothing is left behind."""

from __future__ import annotations

import pytest
from tests.modules.mam.archives import (
    CONTACT,
    OTHER,
    OWNER,
    TOP,
    account_of,
    by_resource,
    check,
    cursor,
    entries_of,
    fill,
    fresh_entry,
    look_through,
    merge,
    merge_all,
    search,
    sids,
    trim,
    write,
)

from beamish.modules.mam import collections, ids, packing, pages, removal
from beamish.storage.memory import MemoryDatabase
from beamish.xmpp.payload import rsm
from beamish.xmpp.stanza import Stanza

# ---- quotas, age, accounts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["messages", "bytes"])
async def test_a_quota_takes_the_oldest(db: MemoryDatabase, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(removal, "TRIM_ROWS", 7)
    await fill(db, 10, OTHER, start=1.0)
    await fill(db, 50)
    await merge(db)
    await search(db)
    await by_resource(db)
    assert await db.fetch("SELECT 1 FROM mam_resource WHERE resource = 'd'")
    size = (await db.fetch("SELECT bytes FROM mam_account WHERE jid = ?", OWNER))[0][0]
    limits = (20, TOP) if bound == "messages" else (TOP, size * 2 // 5)
    await fill(db, 1, start=2_000.0)
    (account,) = await merge(db, *limits)
    await trim(db, account, *limits)
    await check(db)
    left = await sids(db)
    expected = [f"m{n}" for n in range(31 if bound == "messages" else 0, 50)] + ["m0"]
    assert left == expected[-len(left) :]
    assert 18 <= len(left) <= 21
    assert len(await sids(db, OTHER)) == 10
    assert not await db.write("trim", lambda c: removal.trim(c, account, *limits))


async def test_no_step_takes_more_than_its_part(db: MemoryDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "TRIM_ROWS", 7)
    await fill(db, 50)
    await merge(db)
    account = await account_of(db)
    assert await db.write("trim", lambda c: removal.trim(c, account, 10, TOP))
    assert len(await sids(db)) == 43
    assert await db.write("expire", lambda c: removal.expire(c, TOP))
    assert len(await sids(db)) == 36
    assert await db.write("forget", lambda c: removal.forget_account(c, OWNER))
    assert len(await sids(db)) == 29
    await check(db)


async def test_expiry_takes_what_is_older_of_everybody(db: MemoryDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "TRIM_ROWS", 7)
    before = ids.first_at(1_010.0)
    await fill(db, 30, OTHER, start=500.0)
    assert not await db.write("expire", lambda c: removal.expire(c, before))  # not before it is merged
    await fill(db, 15)
    await merge(db)
    await search(db)
    await by_resource(db)
    await fill(db, 15, start=1_015.0)  # not searched for words yet
    await merge(db)
    while await db.write("expire", lambda c: removal.expire(c, before)):
        pass
    await check(db)
    assert await sids(db, OTHER) == []
    assert await sids(db) == [*(f"m{n}" for n in range(10, 15)), *(f"m{n}" for n in range(15))]


async def test_nothing_of_a_removed_account_stays(db: MemoryDatabase) -> None:
    for start in (1_000.0, 5_000.0):
        await fill(db, 300, start=start)
        await merge(db)
        await search(db)
        await by_resource(db)
    await db.write("prefs", lambda c: c.run("INSERT INTO mam_prefs VALUES (?, 'never', '', '', '')", OWNER))
    for table in ("mam_account", "mam_chat", "mam_resource", "mam_list", "mam_chunk"):
        assert await db.fetch(f"SELECT 1 FROM {table}")
    while await db.write("forget", lambda c: removal.forget_account(c, OWNER)):
        await check(db)
    for table in (
        "mam_account",
        "mam_chat",
        "mam_resource",
        "mam_list",
        "mam_chunk",
        "mam_log",
        "mam_part",
        "mam_prefs",
    ):
        assert await db.fetch(f"SELECT * FROM {table}") == [], table
    await check(db)
    await fill(db, 5, start=9_000.0)  # whoever gets the name later finds nothing of it
    await merge(db)
    await search(db)
    assert len(await sids(db)) == 5
    result = await db.read("page", lambda c: pages.page(c, pages.Query(OWNER, CONTACT, text="all")))
    assert len(result.rows) == 1
    await check(db)


# ---- replaced, removed -----------------------------------------------------------------------------------------------


async def test_replaced_messages_are_no_longer_found_by_words(db: MemoryDatabase) -> None:
    made = await fill(db, 10)
    await merge(db)
    await search(db)
    number = made[3][0]
    tomb = b"<message id='m3'/>"
    await db.write("replace", lambda c: removal.replace(c, OWNER, number, packing.GRAVE, tomb))
    await check(db)
    entries = await db.read("entries", lambda c: entries_of(c, OWNER))
    assert entries[3] == (number, made[3][1], packing.GRAVE, made[3][3], tomb)
    assert [entry[:5] for n, entry in enumerate(made) if n != 3] == [e for n, e in enumerate(entries) if n != 3]
    assert await db.read("find", lambda c: removal.find_original(c, OWNER, CONTACT, None, "m3", False)) is None
    assert (await db.read("page", lambda c: pages.page(c, pages.Query(OWNER, text="word3")))).rows == ()
    for owner, other in ((OTHER, number), (OWNER, number + 1), (OWNER, 0)):  # not there: nothing happens
        await db.write("replace", lambda c, o=owner, n=other: removal.replace(c, o, n, packing.GRAVE, tomb))  # type: ignore[misc]
    await check(db)
    assert entries == await db.read("entries", lambda c: entries_of(c, OWNER))


async def test_removed_messages_are_not_found_by_resource_either(db: MemoryDatabase) -> None:
    await fill(db, 105)
    await merge(db)
    await search(db)
    await by_resource(db)
    chosen = collections.Chosen(CONTACT, exact=True)
    removed = await db.write(
        "remove", collections.removing(OWNER, chosen, ids.first_at(1_000.0), ids.first_at(1_050.0))
    )
    assert removed == 7
    await check(db)
    for resource, number in (("", 8), ("d", 1), ("r", 7)):
        for text in ("", "all"):
            query = pages.Query(OWNER, CONTACT, resource, text=text, page=rsm.Request(100))
            result = await db.read("page", lambda c, query=query: pages.page(c, query))  # type: ignore[misc]
            assert (len(result.rows), result.count) == (number, number)
    assert len(await sids(db)) == 105  # ids stay
    await trim(db, await account_of(db), 10)
    await check(db)
    assert len(await sids(db)) == 10


async def test_a_conversation_of_which_all_is_removed(db: MemoryDatabase) -> None:
    """It is no more; what is said with the contact later begins a new one."""
    await fill(db, 30)
    await merge(db)
    await search(db)
    await by_resource(db)
    chosen = collections.Chosen(CONTACT, exact=True)
    assert await db.write("remove", collections.removing(OWNER, chosen, 0, TOP)) == 4
    assert await db.write("remove", collections.removing(OWNER, chosen, 0, TOP)) == 0
    await check(db)
    await fill(db, 30, start=9_000.0)
    await merge(db)
    await search(db)
    await check(db)
    result = await db.read("page", lambda c: pages.page(c, pages.Query(OWNER, CONTACT, text="all")))
    assert (len(result.rows), result.count) == (4, 4)
    await trim(db, await account_of(db), 20)
    await check(db)


# ---- what a retraction is about --------------------------------------------------------------------------------------


async def test_the_original_of_a_retraction(db: MemoryDatabase) -> None:
    await fill(db, 10)
    await merge(db)
    contact = "contact4@example.net"
    found = await db.read("find", lambda c: removal.find_original(c, OWNER, contact, "r", "m4", False))
    assert found is not None
    assert b"id='m4'" in found[1]
    for args in (
        (OWNER, contact, "other", "m4", False),
        (OWNER, contact, None, "m4", True),
        (OTHER, contact, None, "m4", False),
        (OWNER, CONTACT, None, "m4", False),
        (OWNER, contact, None, "M4", False),
        (OWNER, contact, None, "", False),
    ):
        assert await db.read("find", lambda c, args=args: removal.find_original(c, *args)) is None  # type: ignore[misc]


@pytest.mark.parametrize(
    ("written", "sid"),
    [
        ("a&amp;b", "a&b"),
        ("a&#38;b", "a&b"),
        ("a&#x26;b", "a&b"),
        ("&lt;", "<"),
        ("&apos;a&quot;", "'a\""),
        ("&#39;a&#34;", "'a\""),
        ("a>b", "a>b"),
        ("a&gt;b", "a>b"),
        ("&#97;bc", "abc"),
        ("\u00e9", "\u00e9"),
        ("&#233;", "\u00e9"),
        ("a&#10;b", "a\nb"),
    ],
)
def test_ids_may_be_written_in_several_ways(written: str, sid: str) -> None:
    c = cursor()
    entries = [fresh_entry(n, OWNER, sid="m") for n in range(1, 100)]
    wire = Stanza.parse(entries[50][4].replace(b"id='m'", f"id='{written}'".encode())).to_wire()
    entries[50] = (*entries[50][:4], wire, OWNER)
    assert Stanza.thaw(wire).id == sid
    write(c, entries)
    merge_all(c)
    assert removal.find_original(c, OWNER, CONTACT, None, sid, False) == (51, wire)
    assert removal.find_original(c, OWNER, CONTACT, None, f"{sid}x", False) is None


def test_the_newest_with_an_id_is_meant_and_only_among_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    c = cursor()
    write(c, [fresh_entry(n, OWNER, sid="same" if n in (20, 60) else f"m{n}") for n in range(1, 101)])
    merge_all(c)

    def find(sid: str) -> int | None:
        found = removal.find_original(c, OWNER, CONTACT, None, sid, False)
        return None if found is None else found[0]

    assert find("same") == 60
    removal.replace(c, OWNER, 60, packing.GRAVE, b"<message id='same'/>")
    assert find("same") == 20
    monkeypatch.setattr(removal, "RETRACTION_REACH", 80)
    assert find("m21") == 21
    assert find("same") is None
    look_through(c)


def test_who_sent_it_counts() -> None:
    c = cursor()
    write(c, [fresh_entry(1, OWNER, sid="x", kind=packing.SENT), fresh_entry(2, OWNER, sid="y")])
    merge_all(c)
    for sid, sent, expected in (("x", True, 1), ("x", False, None), ("y", False, 2), ("y", True, None)):
        found = removal.find_original(c, OWNER, CONTACT, "r", sid, sent)
        assert (None if found is None else found[0]) == expected
