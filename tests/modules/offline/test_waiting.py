"""What of the delivery of stored messages waits for the database, what does not, and what other modules see of it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest
from tests.modules.offline.kit import (
    ALONE,
    JULIET,
    Overheard,
    answer,
    bodies,
    insert,
    module,
    read_page,
    say,
    session_of,
    slow_reads,
    stored,
    take,
)

from beamish.core import events
from beamish.core.events import Context, Release
from beamish.core.later import is_later
from beamish.core.module import Module, on
from beamish.modules.offline import store
from beamish.modules.sm import StreamManagementModule
from beamish.storage.api import StorageBusy
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World
from beamish.xmpp.stanza import Stanza

SM: Final = "urn:xmpp:sm:3"

# ---- what waits for the database, and what does not ----------------------------------------------------------------


async def test_delivery_waits_for_no_commit_of_others(world: World, romeo: Client) -> None:
    say(romeo, "x")
    await world.settle()
    juliet = await world.login("juliet@example.org/balcony")
    with world.db.held():
        say(romeo, "y", to="nurse@example.org")
        juliet.send("<presence/>")
        await world.settle()
        messages, _ = take(juliet)
    assert bodies(messages) == ["x"]


async def test_nobody_waits_for_the_removal_and_nothing_comes_twice_before_it(world: World, romeo: Client) -> None:
    say(romeo, "stored")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    _, pings = take(juliet)
    again = await world.login("juliet@example.org/phone")
    with world.db.held():
        answer(juliet, pings[0])
        say(romeo, "live")
        await world.settle()
        assert bodies(take(juliet)[0]) == ["live"]
        again.send("<presence/>")
        await world.settle()
    await world.settle()
    assert take(again)[0] == []
    assert await stored(world) == []


async def test_what_comes_during_the_removal_stays(world: World, romeo: Client) -> None:
    say(romeo, "old")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    _, pings = take(juliet)
    with world.db.held():
        answer(juliet, pings[0])
        await world.settle()
        await juliet.close()
        say(romeo, "new")
        await world.settle()
    await world.settle()
    assert await stored(world) == ["new"]
    assert module(world).store.box(JULIET).count == 1


async def test_nothing_overtakes_what_came_while_a_page_was_read(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(romeo, "0")
    await world.settle()
    reading = slow_reads(world, monkeypatch)
    juliet = await world.login("juliet@example.org/balcony")
    juliet.send("<presence/>")
    await world.settle()
    say(romeo, "1")
    await world.settle()
    reading.set()
    await world.settle()
    say(romeo, "2")
    await world.settle()
    assert await read_page(world, juliet) == ["0"]
    assert await read_page(world, juliet) == ["1", "2"]
    assert await stored(world) == []


async def test_a_page_whose_removal_is_refused_is_not_sent_for_ever(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAGE", 2)
    for number in range(4):
        say(romeo, str(number))
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    messages, pings = take(juliet)
    assert bodies(messages) == ["0", "1"]
    world.db.fail_next()
    answer(juliet, pings[0])
    await world.settle()
    assert take(juliet) == ([], [])
    assert await stored(world) == ["0", "1", "2", "3"]
    await juliet.close()
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    seen = []
    for _ in range(2):
        seen += await read_page(world, juliet)
    assert seen == ["0", "1", "2", "3"]
    assert await stored(world) == []


async def test_who_sent_a_held_message_that_nobody_gets_is_told(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    """It was held for a session, which ended before the database refused the row."""
    expected_errors.add("offline_message_not_stored")
    monkeypatch.setattr(store, "PAGE", 1)
    say(romeo, "0")
    say(romeo, "1")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    take(juliet)
    with world.db.held():
        world.db.fail_next()
        say(romeo, "2")
        await world.settle()
        juliet.drop()
        await world.settle()
    await romeo.expect(
        "<message type='error' id='2'><error type='wait'>"
        "<resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    assert await stored(world) == ["0", "1"]


async def count_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reads of offline storage from now on, and no more time for them: they fail when there are more than wanted."""
    seen: list[str] = []
    read = world.db.read

    async def counted(name: str, fn: Any) -> Any:
        if name.startswith("offline"):
            seen.append(name)
        return await read(name, fn)

    monkeypatch.setattr(world.db, "read", counted)
    return seen


async def test_what_will_be_wanted_is_read_while_the_client_logs_in(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(romeo, "x")
    await world.settle()
    reads = await count_reads(world, monkeypatch)
    juliet = await world.login("juliet@example.org/balcony")
    await world.settle()
    assert reads == ["offline.page"]
    juliet.send("<presence/>")
    await world.settle()
    assert await read_page(world, juliet) == ["x"]
    assert (reads, await stored(world)) == (["offline.page"], [])
    await juliet.close()
    await world.login("juliet@example.org/balcony", presence=True)
    assert reads == ["offline.page"], "nothing is there, and that is known"


async def test_an_account_is_counted_while_its_first_client_logs_in() -> None:
    database = MemoryDatabase()
    async with World(settings={"modules": ALONE}, database=database) as world:
        say(await world.login("romeo@example.org/orchard"), "x")
        await world.settle()
    async with World(settings={"modules": ALONE}, database=database) as world:
        juliet = await world.login("juliet@example.org/balcony")
        await world.settle()
        box = module(world).store.box(JULIET)
        assert (box.known, box.count) == (True, 1)
        juliet.send("<presence/>")
        await world.settle()
        assert bodies(take(juliet)[0]) == ["x"]
    await database.close()


async def test_what_changes_between_login_and_presence_is_seen(world: World, romeo: Client) -> None:
    say(romeo, "one")
    await world.settle()
    phone = await world.login("juliet@example.org/phone")
    desk = await world.login("juliet@example.org/desk")
    say(romeo, "two")
    await world.settle()
    desk.send("<presence/>")
    await world.settle()
    assert await read_page(world, desk) == ["one", "two"]
    phone.send("<presence/>")
    await world.settle()
    assert take(phone) == ([], [])


async def test_only_little_is_read_ahead_and_given_up_with_the_session(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(romeo, "x" * 500)
    await world.settle()
    box = module(world).store.box(JULIET)
    juliet = await world.login("juliet@example.org/balcony")
    assert box.ahead is not None
    await juliet.close()
    await world.settle()
    assert box.ahead is None
    monkeypatch.setattr(store, "AHEAD_BYTES", 500)
    juliet = await world.login("juliet@example.org/balcony")
    assert box.ahead is None
    juliet.send("<presence/>")
    await world.settle()
    assert bodies(take(juliet)[0]) == ["x" * 500]


async def test_a_look_ahead_that_fails_costs_nothing(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(romeo, "x")
    await world.settle()

    async def busy(*_: Any) -> Any:
        raise StorageBusy("full")

    with monkeypatch.context() as during:
        during.setattr(world.db, "read", busy)
        juliet = await world.login("juliet@example.org/balcony")
    juliet.send("<presence/>")
    await world.settle()
    assert bodies(take(juliet)[0]) == ["x"]


def read_like_a_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a read be a future, as it is where a thread reads."""
    read = world.db.read

    async def by_future(name: str, fn: Any) -> Any:
        return await asyncio.ensure_future(read(name, fn))

    monkeypatch.setattr(world.db, "read", by_future)


async def test_what_was_read_ahead_goes_out_with_the_presence(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_like_a_file(world, monkeypatch)
    say(romeo, "x")
    await world.settle()
    juliet = await world.login("juliet@example.org/balcony")
    await world.settle()
    session = session_of(world, juliet)
    overheard = Overheard(session)
    done = world.kernel.router.from_session(session, Stanza.build("presence", sender=session.jid))
    if is_later(done):
        await done  # type: ignore[misc]
    assert [stanza.name for stanza in overheard.stanzas] == ["presence", "message", "iq"]


async def test_a_session_that_ends_while_it_is_given_a_page_blocks_nobody(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page was read ahead, so it is sent while the session's presence is still being handled."""
    read_like_a_file(world, monkeypatch)
    say(romeo, "x")
    await world.settle()
    juliet = await world.login("juliet@example.org/balcony")
    await world.settle()
    session = session_of(world, juliet)

    class Overflow(Overheard):
        """An outlet that ends the session at the first message, as one that keeps too much does."""

        def deliver(self, data: bytes, stanza: Stanza) -> bool:
            """See `Outlet.deliver`."""
            if stanza.name == "message":
                world.kernel.end_session(session, "error:full")
            return True

    Overflow(session)
    juliet.send("<presence/>")
    await world.settle()
    other = await world.login("juliet@example.org/other", presence=True)
    assert await read_page(world, other) == ["x"]
    assert await stored(world) == []


async def test_who_has_got_a_page_and_not_answered_has_been_looked_up(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a client that waits for that before it reads would wait for itself."""
    monkeypatch.setattr(store, "PAGE", 1)
    say(romeo, "0")
    say(romeo, "1")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    assert bodies(take(juliet)[0]) == ["0"]
    await asyncio.wait_for(module(world).looked(session_of(world, juliet)), 10)


# ---- what other modules see ----------------------------------------------------------------------------------------


class Watcher(Module):
    """Sees what is delivered and what is released, and takes out what the test does not want."""

    name = "test_watcher"

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self.delivered: list[tuple[str, bool]] = []
        self.pages: list[list[str]] = []
        self.unwanted: set[str] = set()

    @on(events.delivered)
    def handed_over(self, ctx: Context) -> None:
        """Note what the router says."""
        self.delivered.append((ctx.stanza.id, ctx.held))

    @on(events.releasing)
    def releasing(self, release: Release) -> None:
        """Note a page."""
        assert all(stanza.to_wire() in release.data for stanza in release.messages)
        self.pages.append([stanza.id for stanza in release.messages])
        release.messages = [stanza for stanza in release.messages if stanza.id not in self.unwanted]


async def test_a_held_message_says_that_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PAGE", 1)
    async with World(extra=(Watcher,), settings={"modules": ALONE}) as world:
        watcher = world.kernel.registry.module(Watcher)
        romeo = await world.login("romeo@example.org/orchard")
        say(romeo, "0")
        say(romeo, "1")
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        say(romeo, "2")
        await world.settle()
        for _ in range(3):
            answer(juliet, take(juliet)[1][0])
            await world.settle()
        say(romeo, "3")
        await world.settle()
        assert watcher.delivered == [("2", True), ("3", False)]
        assert watcher.pages == [["0"], ["1"], ["2"]]


async def test_what_is_taken_out_of_a_page_is_neither_given_nor_kept() -> None:
    async with World(extra=(Watcher,), settings={"modules": ALONE}) as world:
        watcher = world.kernel.registry.module(Watcher)
        watcher.unwanted = {"1", "3"}
        romeo = await world.login("romeo@example.org/orchard")
        for number in range(4):
            say(romeo, str(number))
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        messages, pings = take(juliet)
        assert bodies(messages) == ["0", "2"]
        assert watcher.pages == [["0", "1", "2", "3"]]
        answer(juliet, pings[0])
        await world.settle()
        assert await stored(world) == []


async def test_a_damaged_start_tag_does_not_stop_the_others(world: World, expected_errors: ExpectedErrors) -> None:
    """Its end is as it should be, so only who looks at the stanza finds out, such as an inactive client's layer."""
    expected_errors.add("offline_message_damaged")
    stamp = "<delay xmlns='urn:xmpp:delay' from='example.org' stamp='2023-11-14T22:13:20.000Z'/>"
    rows = [f"<message {tag}><body>{tag}</body>{stamp}</message>" for tag in ("id='a'", "id=b", "id='c'")]
    await insert(world.db, *(row.encode() for row in rows))
    juliet = await world.login("juliet@example.org/balcony")
    juliet.send("<inactive xmlns='urn:xmpp:csi:0'/><presence/>")
    await world.settle()
    messages, pings = take(juliet)
    assert [el.get("id") for el in messages] == ["a", "c"]
    answer(juliet, pings[0])
    await world.settle()
    assert await stored(world) == []


async def test_what_the_stream_could_not_store_stays_until_the_client_has_confirmed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise it would be in memory alone, and gone with the server."""
    async with World(settings={"modules": {"disable": ["mam"]}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        say(romeo, "x")
        juliet = await world.login("juliet@example.org/balcony")
        juliet.send(f"<enable xmlns='{SM}' resume='true'/>")
        await juliet.expect(f"<enabled xmlns='{SM}'/>")
        managing = world.kernel.registry.module(StreamManagementModule)
        monkeypatch.setattr(managing.journal, "message", lambda *_: 0)  # as if too much were waiting
        juliet.send("<presence/>")
        await juliet.expect("<presence/>")
        await juliet.expect("<message id='x'/>")
        assert await stored(world) == ["x"]
        juliet.send(f"<a xmlns='{SM}' h='2'/>")
        await world.settle()
        assert await stored(world) == []
