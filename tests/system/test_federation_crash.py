"""`kill -9` of either of two servers, or of both, while their users write to each other: what was acknowledged arrives, once.

Two processes federate over TLS. A device on each side speaks XEP-0198 like a careful client. At random moments servers are
killed or stopped and started again. After each round every acknowledged message is looked for on the other side; none may
come twice in the whole test, and none may come back, as both servers are up again in time.

`BEAMISH_CRASH_ROUNDS` sets the number of rounds, `BEAMISH_CRASH_SEED` repeats the choices of an earlier run (the moment at
which a process dies is not quite the same again).
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.system.correspondents import Correspondent
from tests.system.federated import Server, two_servers
from tests.system.resuming import Violation

ROUNDS = int(os.environ.get("BEAMISH_CRASH_ROUNDS", "6"))
SEED = int(os.environ.get("BEAMISH_CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
PASSWORD = "crash test"
PATIENCE = 60.0


class Play:
    """Both servers, both devices, and what happens to them."""

    def __init__(self, servers: tuple[Server, Server], choose: random.Random) -> None:
        self.servers = servers
        self.choose = choose
        self.romeo = Correspondent("romeo@a.example/x", "juliet@b.example", PASSWORD, servers[0].open)
        self.juliet = Correspondent("juliet@b.example/y", "romeo@a.example", PASSWORD, servers[1].open)
        self.devices = (self.romeo, self.juliet)
        self.ends = {"killed": 0, "stopped": 0, "both killed": 0, "cut": 0}
        self.rounds = 0

    async def round(self) -> None:
        """Talk while servers end, then look for everything."""
        self.rounds += 1
        loop = asyncio.get_running_loop()
        over = loop.time() + self.choose.uniform(0.3, 0.8)
        talking = [asyncio.create_task(self._talk(device, over)) for device in self.devices]
        await asyncio.sleep(self.choose.uniform(0.02, 0.5))
        await self._break()
        await asyncio.gather(*talking)
        await asyncio.wait_for(self._settle(), PATIENCE)
        await asyncio.wait_for(self._check(), PATIENCE)

    async def _break(self) -> None:
        what = self.choose.random()
        one = self.choose.choice(self.servers)
        if what < 0.55:
            self.ends["killed"] += 1
            await one.end(signal.SIGKILL)
            await one.begin()
        elif what < 0.75:
            self.ends["both killed"] += 1
            for server in self.servers:
                await server.end(signal.SIGKILL)
            for server in self.servers:
                await server.begin()
        elif what < 0.9:
            self.ends["stopped"] += 1
            await one.end(signal.SIGTERM)
            await one.begin()
        else:
            self.ends["cut"] += 1
            for device in self.devices:
                device.cut()

    async def _talk(self, device: Correspondent, until: float) -> None:
        choose = random.Random(self.choose.random())
        while asyncio.get_running_loop().time() < until:
            for _ in range(choose.randint(1, 12)):
                device.say()
            if choose.random() < 0.6:
                device.request()
            await asyncio.sleep(choose.uniform(0.0, 0.02))

    async def _settle(self) -> None:
        for device in self.devices:
            device.request()
            await device.empty.wait()

    async def _check(self) -> None:
        for sender, receiver in ((self.romeo, self.juliet), (self.juliet, self.romeo)):
            while missing := sender.acknowledged - receiver.got:
                if sender.returned:
                    raise Violation(f"{sender.jid}: came back: {sender.returned}")
                receiver.arrived.clear()
                try:
                    await asyncio.wait_for(receiver.arrived.wait(), PATIENCE / 2)
                except TimeoutError:
                    raise Violation(f"{receiver.jid}: {len(missing)} are lost: {sorted(missing)[:5]}") from None


@pytest_asyncio.fixture
async def servers(tmp_path: Path) -> AsyncIterator[tuple[Server, Server]]:
    async with two_servers(tmp_path) as made:
        yield made


@pytest.mark.slow
async def test_acknowledged_messages_arrive_once_across_servers(servers: tuple[Server, Server]) -> None:
    play = Play(servers, random.Random(SEED))
    for server, account in zip(servers, ("romeo@a.example", "juliet@b.example"), strict=True):
        await server.begin()
        await server.add(account, PASSWORD)
    running = [asyncio.create_task(device.run()) for device in play.devices]
    work: asyncio.Task[None] | None = None
    try:
        for _ in range(ROUNDS):
            work = asyncio.create_task(play.round())
            done, _ = await asyncio.wait({work, *running}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            assert work in done
    except Exception as error:
        pytest.fail(f"seed {SEED}, round {play.rounds}: {type(error).__name__} {error}")
    finally:
        for device in play.devices:
            await device.stop()
        tasks = [*running, work] if work is not None else running
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=PATIENCE)
    messages = sum(len(device.acknowledged) for device in play.devices)
    print(f"\n{play.rounds} rounds, seed {SEED}: {messages} acknowledged messages, {play.ends}")  # noqa: T201
    assert messages > 0
    assert not play.romeo.returned and not play.juliet.returned
