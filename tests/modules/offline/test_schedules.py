"""Whatever a client does, and whatever the disk does: each message comes, once in a session, in order."""

from __future__ import annotations

import random
from typing import Final

import pytest
from tests.modules.offline.kit import ALONE, JULIET, answer, bodies, module, say, stored, take

from beamish.modules.offline import store
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World
from beamish.xmpp.xml import Element

PRESENCES: Final = (
    "<presence/>",
    "<presence><priority>-1</priority></presence>",
    "<presence><priority>3</priority></presence>",
    "<presence type='unavailable'/>",
)


class Device:
    """A client of Juliet's, what its sessions have got, and what it has not answered yet."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.sessions: list[list[int]] = []
        self.questions: list[Element] = []

    def read(self) -> None:
        if self.client is not None:
            messages, questions = take(self.client)
            self.sessions[-1] += [int(text) for text in bodies(messages) if text]
            self.questions += questions

    def answer(self) -> None:
        if self.client is not None:
            for question in self.questions:
                answer(self.client, question)
            self.questions = []

    async def come(self, world: World) -> None:
        if self.client is None:
            self.client = await world.login(f"{JULIET}/phone")
            self.sessions.append([])
            self.questions = []
            self.client.send("<presence/>")

    async def go(self, world: World) -> None:
        await world.settle()
        self.read()
        if self.client is not None:
            self.client.drop()
            self.client = None


@pytest.mark.parametrize("refusing", [False, True])
@pytest.mark.parametrize("seed", range(20))
async def test_every_message_comes(
    monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors, seed: int, refusing: bool
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(store, "PAGE", chance.choice((1, 2, 3, 200)))
    expected_errors.events |= {"offline_message_not_stored", "write_lost"} if refusing else set()
    async with World(settings={"modules": ALONE}) as world:
        assert isinstance(world.db, MemoryDatabase)
        romeo = await world.login("romeo@example.org/orchard")
        phone = Device()
        number, slow = 0, False
        for _ in range(60):
            what = chance.choices(("say", "come", "go", "presence", "answer", "disk", "refuse"), (8, 3, 1, 3, 3, 1, 1))[
                0
            ]
            if what == "say":
                for _ in range(chance.choice((1, 1, 4))):
                    say(romeo, str(number))
                    number += 1
            elif what == "come" and not slow:
                await phone.come(world)
            elif what == "go" and not slow:
                await phone.go(world)
            elif what == "presence" and phone.client is not None:
                phone.client.send(chance.choice(PRESENCES))
            elif what == "answer":
                phone.answer()
            elif what == "disk":
                (world.db.release if slow else world.db.hold)()
                slow = not slow
            elif what == "refuse" and refusing:
                world.db.fail_next()
            if chance.random() < 0.6:
                await world.settle()
                phone.read()
        if slow:
            world.db.release()
        await phone.go(world)
        await world.settle()
        await phone.come(world)
        for _ in range(number + 1):
            await world.settle()
            phone.read()
            phone.answer()
        back = {int(el.get("id", "")) for el in romeo.inbox if el.get("type") == "error"}
        assert set().union(back, *phone.sessions) == set(range(number))
        assert refusing or not back
        for got in phone.sessions:
            assert refusing or got == sorted(set(got)), "once in each session, and in order"
        assert await stored(world) == []
        box = module(world).store.box(JULIET)
        assert (box.count, box.bytes) == (0, 0)
