"""Copies are nobody's to take care of: what a session leaves is not given up because others have copies that nobody saw."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.modules.sm.conftest import CALM, SM, bodies, handled, managed, resume, say
from tests.modules.sm.play import after_crash, after_stop

from beamish.modules.sm.module import StreamManagementModule
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World

BALCONY, GARDEN = "juliet@example.org/balcony", "juliet@example.org/garden"
MODULES: dict[str, Any] = {"disable": ["mam", "csi"]}


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with MemoryDatabase() as db:
        made = World(database=db, settings={"modules": MODULES, "c2s": CALM})
        await made.__aenter__()
        yield made
        if not getattr(made, "left", False):
            await made.__aexit__(None, None, None)


async def stored(world: World) -> list[str]:
    wires = await world.db.fetch("SELECT wire FROM offline_message ORDER BY id")
    return [bytes(wire).partition(b"<body>")[2].partition(b"</body>")[0].decode() for (wire,) in wires]


async def two_devices(world: World) -> tuple[Client, Client, str]:
    """Both are away when messages come to one, whose time is over first; the other one, with the id for its copies."""
    balcony, _ = await managed(world, BALCONY)
    balcony.drop()
    await world.pass_time(100.0)
    garden, id = await managed(world, GARDEN)
    await garden.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    garden.drop()
    await world.pass_time(100.0)
    romeo, _ = await managed(world, "romeo@example.org/orchard")
    for text in ("one", "two"):
        say(romeo, BALCONY, text)
    assert await handled(romeo) == 2
    romeo.send("</stream:stream>")
    await world.settle()
    return balcony, garden, id


async def test_what_nobody_saw_is_stored_when_the_last_copy_is_gone(world: World) -> None:
    await two_devices(world)
    await world.pass_time(450.0)
    assert await stored(world) == []
    assert (await world.kernel.commands.run("sm.count", {}))["sessions"] == 1
    await world.pass_time(100.0)
    assert await stored(world) == ["one", "two"]
    assert await world.db.fetch("SELECT COUNT(*) FROM sm_message") == [(0,)]
    assert await world.db.fetch("SELECT COUNT(*) FROM sm_session") == [(0,)]
    juliet = await world.login("juliet@example.org/new", presence=True)
    await world.settle()
    assert bodies(juliet) == ["one", "two"]


@pytest.mark.parametrize(("h", "left"), [(1, ["one", "two"]), (2, ["two"]), (3, []), (4, [])])
async def test_what_one_has_seen_as_a_copy_is_done_with(world: World, h: int, left: list[str]) -> None:
    """The copies are followed by the news that the other session has ended."""
    _, garden, id = await two_devices(world)
    await world.pass_time(450.0)
    again = await resume(world, garden, id, 1)
    await world.settle()
    assert [el.findtext(".//{jabber:client}body") for el in again.inbox if el.tag.endswith("message")] == ["one", "two"]
    again.send(f"<a xmlns='{SM}' h='{h}'/>")
    await world.settle()
    again.drop()
    await world.pass_time(1_000.0)
    assert await stored(world) == left
    assert await world.db.fetch("SELECT COUNT(*) FROM sm_session") == [(0,)]


async def test_the_copies_may_be_gone_first(world: World) -> None:
    balcony, _ = await managed(world, BALCONY)
    garden, _ = await managed(world, GARDEN)
    await garden.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    garden.drop()
    await world.pass_time(100.0)
    balcony.drop()
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, BALCONY, "one")
    await world.pass_time(550.0)
    assert await stored(world) == []
    await world.pass_time(100.0)
    assert await stored(world) == ["one"]


async def test_another_device_that_comes_gets_them_when_the_last_copy_is_gone(world: World) -> None:
    await two_devices(world)
    await world.pass_time(450.0)
    late = await world.login("juliet@example.org/late", presence=True)
    await world.pass_time(100.0)
    assert bodies(late) == ["one", "two"]
    assert await stored(world) == []


async def test_a_stop_does_not_wait_for_who_has_copies(world: World) -> None:
    """It waits for what is under way, and that may be ten minutes."""
    await two_devices(world)
    await world.pass_time(450.0)
    assert (await world.kernel.commands.run("sm.count", {}))["sessions"] == 1
    assert await world.db.fetch("SELECT COUNT(*) FROM sm_message") != [(0,)]
    assert len(world.kernel.tasks) == 0


async def test_what_is_in_memory_alone_does_not_wait_for_who_has_copies(
    world: World, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    """Nobody gets an acknowledgement as long as it is."""
    expected_errors.events |= {"unconfirmed_messages_not_stored", "messages_refused"}
    sm = world.kernel.registry.module(StreamManagementModule)
    with monkeypatch.context() as much:
        much.setattr(sm.journal._messages, "most", 0)
        much.setattr(sm, "_let_in", lambda ctx: None)
        balcony, _ = await managed(world, BALCONY)
        garden, _ = await managed(world, GARDEN)
        await garden.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
        for client in (balcony, garden):
            client.drop()
        romeo, _ = await managed(world, "romeo@example.org/orchard")
        say(romeo, BALCONY, "one")
        await world.settle()
        sm.kernel.end_session(world.kernel.sessions.of(balcony.jid.bare).all[0], "expired")
        await world.settle()
    assert [session.jid.resource for session in world.kernel.sessions.of(balcony.jid.bare).all] == ["garden"]
    romeo.send(f"<r xmlns='{SM}'/>")
    await world.pass_time(5.0)
    assert [el.get("h") for el in romeo.inbox if el.tag == f"{{{SM}}}a"] == ["1"]
    await world.pass_time(1_000.0)
    assert await stored(world) == ["one"]


@pytest.mark.parametrize("how", [after_stop, after_crash])
async def test_a_restart_forgets_none_of_them(world: World, how: Any) -> None:
    """One session has ended and left them, the other one waits."""
    await two_devices(world)
    await world.pass_time(450.0)
    world.left = True  # type: ignore[attr-defined]
    async with how(world, later=10.0) as new:
        await new.pass_time(1.0)
        assert await stored(new) == []
        await new.pass_time(1_000.0)
        assert await stored(new) == ["one", "two"]
        assert await new.db.fetch("SELECT COUNT(*) FROM sm_session") == [(0,)]
    if how is after_crash:
        await world.__aexit__(None, None, None)


async def test_what_was_for_a_resource_that_was_gone_is_stored_once(world: World) -> None:
    """It went to all who were there (RFC 6121 §8.5.3.2.1)."""
    for address in (BALCONY, GARDEN):
        client, _ = await managed(world, address)
        client.drop()
        await world.pass_time(100.0)
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "juliet@example.org/gone", "one")
    await world.pass_time(1_000.0)
    assert await stored(world) == ["one"]


async def test_a_clock_that_was_set_back_gives_nobody_copies(world: World) -> None:
    """Who asks for copies after a message has come has none of it."""
    await managed(world, BALCONY)
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, BALCONY, "one")
    await world.pass_time(1.0)
    world.clock._now -= 3_600.0
    garden = await world.login(GARDEN, presence=True)
    await garden.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    world.clock.advance(1.0)
    garden.inbox.clear()
    await world.login(BALCONY)  # takes the address over
    await world.settle()
    assert bodies(garden) == ["one"]
