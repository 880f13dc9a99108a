"""Registrations, counts and what is still to be told outlive the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
import pytest_asyncio
from tests.modules.push.conftest import (
    BARE,
    PUSH,
    SERVICE,
    PushService,
    acknowledge,
    come_back,
    lose,
    phone,
    registrations,
)
from tests.modules.sm.conftest import say
from tests.modules.sm.play import after_crash, after_stop, first_world

from beamish.modules.push.notifier import START_SECONDS
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.errors import Condition, StanzaError

Again = Callable[..., AbstractAsyncContextManager[World]]


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with first_world() as made:
        yield made


async def nurse(world: World) -> Client:
    return await world.login("nurse@example.org/kitchen")


@pytest.mark.parametrize("again", [after_stop, after_crash])
async def test_a_registration_outlives_the_server(world: World, again: Again) -> None:
    juliet = await world.login("juliet@example.org/phone")
    await juliet.iq(f"<iq type='set' id='p'><enable xmlns='{PUSH}' jid='{SERVICE}' node='n1'/></iq>")
    async with again(world) as new:
        service = PushService(new)
        say(await nurse(new), BARE, "x")
        assert (await service.one()).node == "n1"


@pytest.mark.parametrize("again", [after_stop, after_crash])
async def test_what_a_waiting_session_was_told_of_is_not_told_again(world: World, again: Again) -> None:
    service = PushService(world)
    client, id_ = await phone(world)
    await lose(world, client)
    say(await nurse(world), BARE, "one")
    assert await service.counts() == ["1"]
    await world.pass_time(1)  # the state is on disk
    async with again(world) as new:
        service = PushService(new)
        await new.pass_time(60)
        assert await service.counts() == []
        say(await nurse(new), BARE, "two")
        assert await service.counts() == ["2"]
        client = await come_back(new, client, id_)
        assert registrations(new)[0].unread == 0


async def test_what_was_not_confirmed_at_a_crash_is_told_after_the_start(world: World) -> None:
    service = PushService(world)
    await phone(world)
    say(await nurse(world), BARE, "one")
    say(world.clients[-1], BARE, "two")
    assert await service.counts() == []
    async with after_crash(world) as new:
        service = PushService(new)
        assert await service.counts() == []  # other servers may not be reached yet
        await new.pass_time(START_SECONDS)
        assert await service.counts() == ["2"]
        await new.pass_time(60)
        assert await service.counts() == []


@pytest.mark.parametrize("again", [after_stop, after_crash])
async def test_a_session_that_expired_meanwhile_is_told_once(world: World, again: Again) -> None:
    before = PushService(world)
    await phone(world)
    say(await nurse(world), BARE, "one")
    await world.settle()
    async with again(world, later=100_000.0) as new:
        service = PushService(new)
        await new.pass_time(START_SECONDS)
        told = [one.count for one in before.told] + await service.counts()
        assert told == ["1"]


async def test_what_came_in_the_last_seconds_before_a_crash_is_told_with_the_rest(world: World) -> None:
    service = PushService(world)
    client, _ = await phone(world)
    await lose(world, client)
    say(await nurse(world), BARE, "one")
    assert await service.counts() == ["1"]
    await world.pass_time(1)
    say(world.clients[-1], BARE, "two")  # two seconds from being told
    assert await service.counts() == []
    async with after_crash(world) as new:
        service = PushService(new)
        await new.pass_time(START_SECONDS)
        assert await service.counts() == ["2"]


@pytest.mark.parametrize("again", [after_stop, after_crash])
@pytest.mark.parametrize("lost", [True, False])
async def test_a_device_is_waited_for_as_long_as_before(world: World, again: Again, lost: bool) -> None:
    client, id_ = await phone(world)
    if lost:
        await lose(world, client)
    async with again(world, later=500.0) as new:
        await new.pass_time(3_000)
        await come_back(new, client, id_)


async def test_what_failed_is_tried_again_after_the_start(world: World) -> None:
    service = PushService(world)
    service.error = StanzaError(Condition.SERVICE_UNAVAILABLE)
    client, _ = await phone(world)
    await client.close()
    say(await nurse(world), BARE, "one")
    assert await service.counts() == ["1"]
    say(world.clients[-1], BARE, "two")
    await world.settle()
    async with after_stop(world) as new:
        service = PushService(new)
        await new.pass_time(START_SECONDS)
        assert await service.counts() == ["2"]
        (one,) = registrations(new)
        assert (one.failures, one.told) == (0, 2)


async def test_a_device_that_was_back_before_the_crash_is_told_of_the_next_message(world: World) -> None:
    service = PushService(world)
    client, id_ = await phone(world)
    await lose(world, client)
    say(await nurse(world), BARE, "one")
    say(world.clients[-1], BARE, "two")
    assert await service.counts() == ["2"]
    client = await come_back(world, client, id_)
    acknowledge(world, client)
    await world.pass_time(1)
    say(world.clients[-2], BARE, "three")
    await world.settle()
    async with after_crash(world) as new:
        service = PushService(new)
        await new.pass_time(START_SECONDS)
        assert await service.counts() == ["1"]
