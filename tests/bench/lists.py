"""What privacy lists cost a chat message, in one process: `python -m tests.bench.lists`.

The same messages go through whole servers in memory that differ in nothing but lists; they take turns, so that a busy machine
disturbs all of them alike, and of each the best of many rounds counts. The first one is there twice: so far apart are two
that do not differ. CPU time of the process, with the clients and their parsers.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import structlog

from beamish.testing.client import Client
from beamish.testing.world import World

ROUND = 400
"""Messages in a round."""
LIMITS = {"stanzas_per_second": 10**9, "stanza_burst": 10**9, "bytes_per_second": 10**10, "bytes_burst": 10**10}
ITEMS = 100
"""Addresses that those block who block somebody."""


@dataclass(slots=True)
class Stage:
    """A server with one pair that talks, and what the rounds have taken, in seconds."""

    name: str
    world: World
    speaker: Client
    listener: Client
    rounds: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """One round."""
        message = f"<message to='{self.listener.jid}' type='chat'><body>But soft!</body></message>"
        data = message.encode() * ROUND
        start = time.process_time()
        self.speaker.send(data)
        await self.world.settle()
        self.rounds.append(time.process_time() - start)
        if len(self.listener.inbox) != ROUND:
            raise RuntimeError(f"{self.name}: {len(self.listener.inbox)} of {ROUND} messages arrived")
        self.listener.inbox.clear()


async def stage(name: str, up: AsyncExitStack, *, module: bool = True, others: int = 0, own: bool = False) -> Stage:
    """A server; `others` accounts have lists, and with `own` so have the two that talk."""
    quiet = ["mam", "carbons", "csi", "sm", *([] if module else ["blocking"])]
    settings = {"modules": {"disable": quiet}, "c2s": {"probe_after": 1e6}, "limits": LIMITS}
    rest = [f"other{number}@example.org" for number in range(others)]
    world = World(accounts=("romeo@example.org", "juliet@example.org"), settings=settings)
    await up.enter_async_context(world)
    for address in rest:
        await world.kernel.commands.run("user.add", {"jid": address, "password": "correct horse"})
        await _block(await world.login(address))
    speaker = await world.login("romeo@example.org/orchard", presence=True)
    listener = await world.login("juliet@example.org/balcony", presence=True)
    if own:
        await _block(speaker)
        await _block(listener)
    return Stage(name, world, speaker, listener)


async def _block(client: Client) -> None:
    items = "".join(f"<item jid='blocked{number}@example.com'/>" for number in range(ITEMS))
    await client.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'>{items}</block></iq>")
    client.inbox.clear()


async def measure(rounds: int) -> list[tuple[str, float]]:
    """Microseconds a message, by what there is of lists."""
    async with AsyncExitStack() as up:
        stages = [
            await stage("module off", up, module=False),
            await stage("module off, once more", up, module=False),
            await stage("nobody has lists", up),
            await stage("20 others have lists", up, others=20),
            await stage(f"both have lists of {ITEMS}", up, own=True),
        ]
        for _ in range(rounds):
            for each in stages:
                await each.run()
        return [(each.name, min(each.rounds) / ROUND * 1e6) for each in stages]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help=f"rounds of {ROUND} messages for each")
    rounds = parser.parse_args().rounds
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    found = asyncio.run(measure(rounds))
    base = found[0][1]
    for name, cost in found:
        print(f"{name:<28}{cost:8.2f} µs a message {cost - base:+7.2f}")


if __name__ == "__main__":
    main()
