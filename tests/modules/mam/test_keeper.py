"""The upkeep of archives in a server: when it is done, by itself or because somebody asks."""

from __future__ import annotations

import asyncio

import pytest
from tests.modules.mam.archives import (
    OTHER,
    OWNER,
    check,
    fill,
    fresh_entry,
    sids,
)
from tests.modules.mam.play import ask

from beamish.modules.mam import merging, store
from beamish.modules.mam.keeper import BEHIND_EVERY, MERGE_DELAY, MERGE_PAUSE, TEXT_PAUSE, Keeper
from beamish.modules.mam.module import MamModule
from beamish.storage.api import Cursor
from beamish.storage.memory import MemoryDatabase
from beamish.testing.world import World


async def test_merging_begins_by_itself_and_bounds_hold() -> None:
    settings = {"modules": {"mam": {"max_messages": 3, "keep_days": 1.0}}}
    async with World(settings=settings) as world:
        romeo = await world.login("romeo@example.org/r")
        for n in range(5):
            romeo.send(f"<message to='benvolio@example.net' type='chat'><body>{n}</body></message>")
        await world.settle()
        assert (await ask(romeo)).bodies == ["0", "1", "2", "3", "4"]
        await world.pass_time(MERGE_DELAY + 1)
        page = await ask(romeo)
        assert (page.bodies, page.rsm("count")) == (["2", "3", "4"], "3")
        await world.pass_time(86_400)
        romeo = await world.login("romeo@example.org/again")  # the first one was silent for too long
        romeo.send("<message to='benvolio@example.net' type='chat'><body>new</body></message>")
        await world.pass_time(MERGE_DELAY + 1)
        await world.pass_time(3_600)
        romeo = await world.login("romeo@example.org/later")
        assert (await ask(romeo)).bodies == ["new"]


@pytest.mark.parametrize("asked", [False, True])
async def test_steps_that_nobody_waits_for_leave_time_between_them(
    monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    monkeypatch.setattr(merging, "MERGE_PLACES", 2)
    monkeypatch.setattr(merging, "PART_PLACES", 2)
    async with World() as world:
        owners = [await world.login(f"{name}@example.org/r") for name in ("romeo", "juliet", "nurse", "mercutio")]

        async def filed() -> int:
            return len(await world.db.fetch("SELECT 1 FROM mam_account"))

        for owner in owners:
            owner.send("<message to='benvolio@example.net' type='chat'><body>x</body></message>")
        await world.settle()
        await world.pass_time(MERGE_DELAY)
        assert await filed() == 0  # they are sorted first
        if asked:
            assert (await ask(owners[3])).bodies == ["x"]
            assert await filed() == 5
        else:
            for count in (1, 2, 3, 4, 5):
                await world.pass_time(MERGE_PAUSE)
                assert await filed() == count
        await check(world.db)


async def test_a_retraction_files_in_steps_what_came_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever retracts waits for that; the transaction with the tombstone has nothing but its own message to file."""
    monkeypatch.setattr(merging, "MERGE_PLACES", 2)
    monkeypatch.setattr(merging, "PART_PLACES", 2)
    left: list[tuple[int, int]] = []
    merge = Keeper.merge

    def watched(keeper: Keeper, c: Cursor, owner: str = "") -> tuple[bool, list[int]]:
        if owner:
            messages = c.value("SELECT COALESCE(SUM(messages), 0) FROM mam_log")
            left.append((messages, c.value("SELECT COUNT(*) FROM mam_part")))
        return merge(keeper, c, owner)

    monkeypatch.setattr(Keeper, "merge", watched)
    async with World() as world:
        names = ("romeo", "juliet", "nurse", "mercutio")
        owners = [await world.login(f"{name}@example.org/r") for name in names]
        for owner in owners:
            owner.send("<message to='iago@elsewhere.example' type='chat' id='one'><body>x</body></message>")
        await world.settle()
        left.clear()
        owners[0].send(
            "<message to='iago@elsewhere.example' type='chat' id='two'><body/>"
            "<retract xmlns='urn:xmpp:message-retract:1' id='one'/></message>"
        )
        await world.settle()
        assert left[0] == (1, 0)
        messages = (await ask(owners[0])).messages
        assert [message.find("{urn:xmpp:message-retract:1}retracted") is not None for message in messages] == [
            True,
            False,
        ]
        await check(world.db)


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
            (_, some), (_, none) = await texted()
            assert (0 < some < 20, none) == (True, 0)  # a step now and then
            for _ in range(10):
                await world.pass_time(TEXT_PAUSE)
            assert await texted() == [(OWNER, 20), (OTHER, 0)]  # not more than needed
            juliet = await world.login(f"{OWNER}/r")
            found = await ask(juliet, {"{urn:xmpp:fulltext:0}fulltext": "all"})
            assert len(found.bodies) == 30
            assert await texted() == [(OWNER, 30), (OTHER, 0)]
            for n in range(12):
                juliet.send(f"<message to='{OTHER}' type='chat' id='n{n}'><body>new</body></message>")
            await world.settle()
            await world.pass_time(MERGE_DELAY + 1)
            await world.pass_time(BEHIND_EVERY)
            juliet = await world.login(f"{OWNER}/again")
            juliet.send(f"<message to='{OTHER}' type='chat' id='last'><body>new</body></message>")
            await world.settle()
            await world.pass_time(MERGE_DELAY + 1)
            for _ in range(10):
                await world.pass_time(TEXT_PAUSE)
            assert await texted() == [(OWNER, 34), (OTHER, 16)]
            await check(db)


async def test_the_rest_of_the_log_is_found_behind_rows_of_a_former_version() -> None:
    """The first question after a start waits for all that was there."""
    async with MemoryDatabase() as db:
        async with World(database=db):
            pass
        old = [fresh_entry(n, OWNER, sid=f"old{n}") for n in range(1, 4)]
        await db.write(
            "old",
            lambda c: c.many(
                "INSERT INTO mam_message (id, salt, kind, peer, wire, owner, resource, sid) VALUES (?, ?, ?, ?, ?, ?, '', '')",
                old,
            ),
        )
        await fill(db, 5)
        async with World(database=db) as world:
            juliet = await world.login(f"{OWNER}/r")
            assert len((await ask(juliet)).bodies) == 8
        assert await sids(db) == ["old1", "old2", "old3", "m0", "m1", "m2", "m3", "m4"]


async def test_a_quota_holds_for_who_retracts_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retractions bring messages to their places, too; what is too much goes all the same."""
    async with World(settings={"modules": {"mam": {"max_messages": 3}}}) as world:
        romeo = await world.login("romeo@example.org/r")
        for n in range(9):
            romeo.send(
                f"<message to='benvolio@example.net' type='chat' id='{n}'><body>{n}</body>"
                "<retract xmlns='urn:xmpp:message-retract:1' id='none'/></message>"
            )
            await world.settle()
        await world.settle()
        rows = await world.db.fetch("SELECT messages FROM mam_account")
        assert set(rows) == {(3,)}
        assert (await ask(romeo)).bodies == ["6", "7", "8"]


async def test_a_quota_holds_for_who_goes_away_while_asking() -> None:
    """What a round of merging learns is not lost with the query that began it."""
    async with World(settings={"modules": {"mam": {"max_messages": 3}}}) as world:
        mam = world.kernel.registry.module(MamModule)
        romeo = await world.login("romeo@example.org/r")
        for n in range(9):
            romeo.send(f"<message to='benvolio@example.net' type='chat'><body>{n}</body></message>")
        await world.settle()
        assert await world.db.fetch("SELECT 1 FROM mam_chunk") == []
        asking = asyncio.ensure_future(mam._keeper.merged("romeo@example.org"))
        with world.db.held():
            for _ in range(5):
                await asyncio.sleep(0)
            assert mam._keeper._rounds
            asking.cancel()
            await asyncio.sleep(0)
        await world.settle()
        assert asking.cancelled()
        assert set(await world.db.fetch("SELECT messages FROM mam_account")) == {(3,)}
