"""Who listens hears once of each message that a client may not see soon, and that the client is there again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.modules.sm.conftest import SM, managed, resume, say, settings
from tests.modules.sm.play import after_crash, after_stop, first_world

from beamish.core import events
from beamish.core.events import SessionEvent, Unreached
from beamish.core.hooks import Row
from beamish.core.module import Module, on
from beamish.core.services import SessionKeeper
from beamish.testing.client import Client
from beamish.testing.world import World

JULIET = "juliet@example.org/balcony"
BARE = "juliet@example.org"


class Ears(Module):
    """Writes down what it is told."""

    name = "ears"

    def __init__(self, kernel: object, config: object) -> None:
        super().__init__(kernel, config)  # type: ignore[arg-type]
        self.heard: list[tuple[str, list[str], bool]] = []

    @on(events.unreached)
    def unreached(self, event: Unreached) -> None:
        """Resource, ids of messages, whether the session is one of before a restart."""
        ids = [message.id for message in event.messages]
        self.heard.append((event.session.jid.resource, ids, event.restored))

    @on(events.reached)
    def reached(self, event: SessionEvent) -> None:
        """A resource, and nothing else."""
        self.heard.append((event.session.jid.resource, [], False))

    def take(self) -> list[tuple[str, list[str], bool]]:
        """What was told so far."""
        heard, self.heard = self.heard, []
        return heard


def ears(world: World) -> Ears:
    return world.kernel.registry.module(Ears)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World(settings=settings(), extra=(Ears,)) as made:
        yield made


async def romeo(world: World) -> Client:
    return await world.login("romeo@example.org/orchard", presence=True)


async def test_each_message_once_and_that_the_client_is_back(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    sender = await romeo(world)
    say(sender, BARE, "one")
    await world.settle()
    assert ears(world).take() == []
    juliet.drop()
    await world.settle()
    assert ears(world).take() == [("balcony", ["one"], False)]
    say(sender, BARE, "two")
    sender.send(f"<presence to='{JULIET}'/>")
    sender.send(f"<iq type='get' id='i' to='{JULIET}'><query xmlns='jabber:iq:version'/></iq>")
    say(sender, BARE, "three")
    await world.settle()
    assert ears(world).take() == [("balcony", ["two"], False), ("balcony", ["three"], False)]
    again = await resume(world, juliet, id_, 0)
    assert ears(world).take() == [("balcony", [], False)]
    again.drop()  # it has confirmed nothing
    await world.settle()
    assert ears(world).take() == [("balcony", ["one", "two", "three"], False)]


async def test_a_client_that_is_late_to_confirm(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    sender = await romeo(world)
    say(sender, BARE, "one")
    for _ in range(10):
        await world.pass_time(1)
    assert ears(world).take() == []
    await world.pass_time(1.5)
    assert ears(world).take() == [("balcony", ["one"], False)]
    await world.pass_time(1)
    say(sender, BARE, "two")
    await world.pass_time(1)
    assert ears(world).take() == [("balcony", ["two"], False)]
    juliet.send(f"<a xmlns='{SM}' h='1'/>")
    await world.settle()
    assert ears(world).take() == [("balcony", [], False)]
    juliet.drop()
    await world.settle()
    assert ears(world).take() == [("balcony", ["two"], False)]


async def test_a_client_that_confirms_in_time_is_no_news(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    say(await romeo(world), BARE, "one")
    await world.pass_time(5)
    juliet.send(f"<a xmlns='{SM}' h='1'/>")
    await world.pass_time(60)
    assert ears(world).take() == []


async def test_a_session_that_ends_without_having_waited(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    say(await romeo(world), BARE, "one")
    await world.settle()
    await juliet.close()
    assert ears(world).take() == [("balcony", ["one"], False)]


async def test_a_session_that_was_waited_for_in_vain_has_nothing_new(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    say(await romeo(world), BARE, "one")
    juliet.drop()
    await world.settle()
    assert ears(world).take() == [("balcony", ["one"], False)]
    await world.pass_time(700)
    assert [ids for _, ids, _ in ears(world).take()] == [[]]


async def test_whoever_replaces_a_session_is_there(world: World) -> None:
    await managed(world, JULIET)
    say(await romeo(world), BARE, "one")
    await world.settle()
    await world.login(JULIET, presence=True)
    assert ears(world).take() == []


async def test_sessions_of_before_a_restart() -> None:
    for again in (after_stop, after_crash):
        async with first_world(extra=(Ears,)) as world:
            juliet, id_ = await managed(world, JULIET)
            sender = await romeo(world)
            say(sender, BARE, "one")
            await world.settle()
            juliet.drop()
            await world.settle()
            say(sender, BARE, "two")
            await world.settle()
            async with again(world, extra=(Ears,)) as new:
                assert ears(new).take() == [("balcony", ["one", "two"], True)]
                say(await romeo(new), BARE, "three")
                await new.settle()
                assert ears(new).take() == [("balcony", ["three"], False)]
                await resume(new, juliet, id_, 0)
                assert ears(new).take() == [("balcony", [], False)]


async def test_whoever_hears_of_a_lost_connection_may_have_its_client_waited_for_longer() -> None:
    async with World(settings=settings(resume_seconds=100.0)) as world:
        keeper = world.kernel.service(SessionKeeper)
        wishes = {"balcony": 300.0, "garden": 50.0}
        heard: list[str] = []

        def listen(event: Unreached) -> None:
            if event.lost:
                heard.append(event.session.jid.resource)
                keeper.wait_longer(event.session, wishes[event.session.jid.resource])

        world.kernel.hooks[events.unreached].add(Row(50, "test", listen))
        juliet, _ = await managed(world, JULIET)
        other, _ = await managed(world, "juliet@example.org/garden")
        session = world.kernel.sessions.get(juliet.jid)
        assert session is not None
        keeper.wait_longer(session, 1.0)  # it has a connection
        juliet.drop()
        other.drop()
        await world.settle()
        say(await romeo(world), BARE, "one")
        await world.pass_time(99)
        assert sorted(heard) == ["balcony", "garden"]
        assert world.kernel.sessions.get(other.jid) is not None
        await world.pass_time(2)
        assert world.kernel.sessions.get(other.jid) is None
        await world.pass_time(198)
        assert world.kernel.sessions.get(juliet.jid) is session
        await world.pass_time(2)
        assert world.kernel.sessions.get(juliet.jid) is None


async def test_whoever_begins_to_listen_hears_of_all_that_waits() -> None:
    async with World(settings=settings()) as world:
        juliet, _ = await managed(world, JULIET)
        sender = await romeo(world)
        say(sender, BARE, "one")
        juliet.drop()
        await world.settle()
        heard: list[list[str]] = []

        def listen(event: Unreached) -> None:
            heard.append([message.id for message in event.messages])

        world.kernel.hooks[events.unreached].add(Row(50, "test", listen))
        say(sender, BARE, "two")
        await world.settle()
        assert heard == [["one", "two"]]
