"""What other modules rely on in `RosterService`: loads, changes and caches, whatever comes together."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from beamish.core import events
from beamish.core.events import RosterChanged
from beamish.core.hooks import Row
from beamish.core.services import RosterItem, RosterService
from beamish.modules.roster import RosterModule
from beamish.storage.api import StorageBusy
from beamish.testing import World
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID

ROMEO = JID.parse("romeo@example.org")


def contact(n: int) -> JID:
    return JID.parse(f"c{n}@elsewhere.example")


@pytest.fixture
def rosters(world: World) -> RosterModule:
    return cast("RosterModule", world.kernel.service(RosterService))


async def test_many_who_ask_at_once_share_one_reading(world: World, rosters: RosterModule) -> None:
    before = world.db.timings.get("roster.load")
    loads = [rosters.roster(ROMEO) for _ in range(5)]
    found = [await load for load in loads]  # type: ignore[misc]
    assert len({id(roster) for roster in found}) == 1
    assert world.db.timings["roster.load"].count - (before.count if before else 0) == 1
    assert rosters.roster(ROMEO) is found[0]


async def test_a_change_during_a_load_is_not_lost(rosters: RosterModule) -> None:
    await rosters.change(ROMEO, RosterItem(contact(0)))
    rosters._forget(ROMEO)
    load = asyncio.ensure_future(rosters._load(ROMEO))
    await asyncio.gather(*(rosters.change(ROMEO, RosterItem(contact(n))) for n in range(1, 4)), load)
    rosters._forget(ROMEO)
    roster = await rosters._load(ROMEO)
    assert {item.jid for item in roster.items()} == {contact(n) for n in range(4)}
    assert load.result().version == roster.version


async def test_a_load_sees_changes_that_are_still_being_written(world: World, rosters: RosterModule) -> None:
    await rosters._load(ROMEO)
    with world.db.held():
        change = asyncio.ensure_future(rosters.change(ROMEO, RosterItem(contact(1))))
        await asyncio.sleep(0)
        rosters._forget(ROMEO)
        load = asyncio.ensure_future(rosters._load(ROMEO))
        await asyncio.sleep(0)
    assert (await load).get(contact(1)) is not None
    await change


async def test_changes_of_one_item_at_once_all_count(rosters: RosterModule) -> None:
    roster = await rosters._load(ROMEO)
    await rosters.change(ROMEO, RosterItem(contact(1)))

    async def turn(**flags: bool) -> None:
        item = roster.get(contact(1))
        assert item is not None
        await rosters.change(ROMEO, item.with_(**flags))

    await asyncio.gather(turn(to=True), turn(from_=True), turn(approved=True))
    rosters._forget(ROMEO)
    stored = (await rosters._load(ROMEO)).get(contact(1))
    assert stored == RosterItem(contact(1), to=True, from_=True, approved=True)


async def test_what_could_not_be_written_is_forgotten(world: World, rosters: RosterModule) -> None:
    await rosters.change(ROMEO, RosterItem(contact(1), name="kept"))
    world.db.fail_next(StorageBusy("full"))
    with pytest.raises(StanzaError) as caught:
        await rosters.change(ROMEO, RosterItem(contact(1), name="lost"))
    assert caught.value.condition is Condition.RESOURCE_CONSTRAINT
    item = (await rosters._load(ROMEO)).get(contact(1))
    assert item is not None
    assert item.name == "kept"
    assert not rosters._in_flight


async def test_the_callback_comes_after_the_commit_and_before_the_push(world: World, rosters: RosterModule) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    at_callback: list[tuple[int, int]] = []

    def first() -> None:
        rows = world.db._engine._conn.execute("SELECT count(*) FROM roster").fetchone()
        at_callback.append((rows[0], len(romeo.inbox)))

    await rosters.change(ROMEO, RosterItem(contact(1)), first=first)
    await romeo.expect("<iq type='set'/>")
    assert at_callback == [(1, 0)]


async def test_a_request_of_a_stranger_is_neither_pushed_nor_a_new_version(world: World, rosters: RosterModule) -> None:
    romeo = await world.login("romeo@example.org/a", roster=True)
    before = (await rosters._load(ROMEO)).version
    await rosters.change(ROMEO, RosterItem(contact(1), pending_in=True, listed=False))
    await rosters.remove(ROMEO, contact(1))
    assert (await rosters._load(ROMEO)).version == before
    await romeo.expect_nothing()


async def test_versions_that_were_forgotten_stay_forgotten(
    world: World, rosters: RosterModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beamish.modules.roster.store.REMOVALS", 4)
    for n in range(8):
        await rosters.change(ROMEO, RosterItem(contact(n)))
    await asyncio.gather(*(rosters.remove(ROMEO, contact(n)) for n in range(8)))
    floor = (await rosters._load(ROMEO)).floor
    rosters._forget(ROMEO)
    again = await rosters._load(ROMEO)
    assert again.floor == floor
    oldest = (await world.db.fetch("SELECT min(ver) FROM roster_removed"))[0][0]
    assert again.floor == oldest - 1


async def test_memory_for_accounts_without_sessions_is_bounded(
    world: World, rosters: RosterModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beamish.modules.roster.module.OTHERS", 3)
    users = [JID.parse(f"u{n}@example.org") for n in range(6)]
    for user in users:
        await rosters._load(user)
    assert [user for user in users if rosters.cached(user) is not None] == users[3:]
    monkeypatch.setattr("beamish.modules.roster.module.OTHERS_ITEMS", 10)
    for n in range(11):
        await rosters.change(users[5], RosterItem(contact(n)))
    await rosters._load(users[0])
    assert rosters._others_items == sum(roster.size for roster in rosters._others.values()) <= 10


async def test_rosters_of_accounts_with_sessions_stay(
    world: World, rosters: RosterModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beamish.modules.roster.module.OTHERS", 1)
    romeo = await world.login("romeo@example.org/a", roster=True)
    await rosters._load(JID.parse("a@example.org"))
    await rosters._load(JID.parse("b@example.org"))
    assert rosters.cached(ROMEO) is not None
    romeo.drop()
    await world.settle()
    assert list(rosters._others) == [ROMEO]
    assert not rosters._pinned


async def test_the_hook_sees_what_the_owners_clients_are_told(world: World, rosters: RosterModule) -> None:
    seen: list[RosterChanged] = []
    world.kernel.hooks[events.roster_changed].add(Row(50, "test", seen.append))
    item = RosterItem(contact(1), name="One")
    await rosters.change(ROMEO, item)
    await rosters.change(ROMEO, RosterItem(contact(2), pending_in=True, listed=False))  # a request is no contact
    await rosters.change(ROMEO, item.with_(pending_in=True), push=False)
    await rosters.remove(ROMEO, contact(2))
    await rosters.remove(ROMEO, contact(1))
    assert seen == [RosterChanged(ROMEO, contact(1), item), RosterChanged(ROMEO, contact(1), None)]
