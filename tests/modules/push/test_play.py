"""Whatever a device, its network and its push service do: in the end it has been told of all that waits for it, and of nothing
else."""

from __future__ import annotations

import random

import pytest
from tests.modules.push.conftest import (
    BARE,
    PHONE,
    PushService,
    acknowledge,
    come_back,
    lose,
    queue_of,
    register,
    registrations,
    settings,
)
from tests.modules.sm.conftest import enable, say

from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.errors import Condition, StanzaError

STEPS = 40


class Play:
    """Juliet's phone, and what she has not seen of what Romeo writes."""

    def __init__(self, world: World, romeo: Client, choose: random.Random) -> None:
        self.world = world
        self.romeo = romeo
        self.choose = choose
        self.service = PushService(world)
        self.phone: Client | None = None
        self.id = ""
        self.waiting = False
        """The session is there, without a connection."""
        self.unseen = 0
        self.said = 0

    async def say(self) -> None:
        self.said += 1
        self.unseen += 1
        say(self.romeo, BARE, str(self.said))
        await self.world.settle()

    async def arrive(self) -> None:
        if self.phone is not None and not self.waiting:
            return
        resumed = self.phone is not None and self.world.kernel.sessions.get(self.phone.jid) is not None
        if resumed and self.choose.random() < 0.7:
            assert self.phone is not None
            self.phone = await come_back(self.world, self.phone, self.id)
        else:
            self.phone = await self.world.login(PHONE)
            self.id = await enable(self.phone)
            await register(self.phone)
            await self.phone.appear()
        self.waiting = False
        await self.world.settle()
        await self.confirm()

    async def confirm(self) -> None:
        """What is stored comes in pages: each is confirmed."""
        if self.phone is None or self.waiting:
            return
        while queue_of(self.world, self.phone):
            acknowledge(self.world, self.phone)
            await self.world.settle()
        self.unseen = 0

    async def break_off(self) -> None:
        if self.phone is not None and not self.waiting:
            await lose(self.world, self.phone)
            self.waiting = True

    async def leave(self) -> None:
        if self.phone is not None and not self.waiting:
            await self.phone.close()
            await self.world.settle()
            self.phone = None

    async def time(self) -> None:
        """A client with a connection answers before it is cut off, sooner or later."""
        for _ in range(self.choose.choice((1, 3, 20, 45))):
            await self.world.pass_time(1)

    async def much_time(self) -> None:
        if self.phone is None or self.waiting:
            await self.world.pass_time(self.choose.choice((300, 5_000)))

    async def trouble(self) -> None:
        self.service.error = self.choose.choice((None, StanzaError(Condition.SERVICE_UNAVAILABLE)))

    async def end(self) -> None:
        """Nothing more happens, but time passes."""
        self.service.error = None
        there = self.phone is not None and not self.waiting
        if there:
            await self.confirm()
        before = len(self.service.told)
        await self.world.pass_time(3_600)
        await self.world.pass_time(60)
        (one,) = registrations(self.world)
        assert (one.unread, one.told) == (self.unseen, self.unseen)
        if there:
            assert len(self.service.told) == before
        elif self.unseen:
            assert self.service.told[-1].count == str(self.unseen)
        before = len(self.service.told)
        await self.world.pass_time(10_000)
        assert len(self.service.told) == before


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens(seed: int) -> None:
    choose = random.Random(seed)
    async with World(settings=settings()) as world:
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        play = Play(world, romeo, choose)
        await play.arrive()
        steps = [play.say] * 4 + [play.arrive, play.confirm, play.break_off, play.leave, play.time, play.trouble]
        for _ in range(STEPS):
            await choose.choice([*steps, play.much_time])()
            if play.phone is not None and not play.waiting and play.phone.disconnected:
                play.waiting = True  # it did not confirm for a minute
        await play.end()
