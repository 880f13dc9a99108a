"""What the whole server costs in CPU for one stanza, in units of the least that must be done with it: parse it once, serialise
it once. `python -m tests.bench yardstick` prints the ratios, `--renew` saves them.

Both are measured in this process, by turns and many times, in CPU time of the thread, and the smallest of each counts: so
neither a slow machine nor a busy one changes the ratio much. The server is the real one (connections, streams, router, all
modules but the archive) on transports that carry bytes within the process, so sockets and the kernel are not in it. Where
the processor's counter of instructions can be read, that is compared instead of time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import structlog
from lxml import etree
from tests.bench.instructions import Counter, available

from beamish.testing.client import Client
from beamish.testing.world import World

SAVED = Path(__file__).with_name("yardstick.json")
LIMIT = 1.6
"""How many times the saved ratio is a clear excess."""
REPEATS = 12
USERS = 20
CONTACTS = 40
BATCH = 10  # stanzas that arrive in one read
_MUCH = 1_000_000_000
_HEADER = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"

Slice = Callable[[], Awaitable[int]]
"""A piece of work; returns how many stanzas it took in."""


class Ears:
    """Counts what a session is sent."""

    def __init__(self, client: Client, mark: bytes) -> None:
        self._mark = mark
        self.count = 0
        client.feed = self._feed  # type: ignore[method-assign]

    def _feed(self, data: bytes) -> None:
        self.count += data.count(self._mark)


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU of this thread, and instructions if they are counted, for one stanza that arrives."""

    cpu: float
    instructions: float | None


@dataclass(frozen=True)
class Ratio:
    """How many times the yardstick a stanza costs the server."""

    cpu: float
    instructions: float | None

    @classmethod
    def of(cls, server: Cost, yardstick: Cost) -> Ratio:
        """Divide."""
        counted = (
            server.instructions / yardstick.instructions
            if server.instructions is not None and yardstick.instructions
            else None
        )
        return cls(server.cpu / yardstick.cpu, counted)

    def exceeds(self, saved: Ratio, limit: float = LIMIT) -> bool:
        """Whether this is clearly more than what was saved; by instructions where both have them."""
        if self.instructions is not None and saved.instructions is not None:
            return self.instructions > limit * saved.instructions
        return self.cpu > limit * saved.cpu


class Lines:
    """A server in this process with a load on it."""

    def __init__(self, world: World, clients: list[Client], stanzas: list[list[bytes]], mark: bytes, each: int) -> None:
        self._inputs = [world.transports[client].receive for client in clients]
        self._stanzas = stanzas
        self._ears = [Ears(client, mark) for client in world.clients]
        self._each = each
        self.sample = stanzas[0][0]

    async def slice(self) -> int:
        """Let every session send its stanzas, and wait until all was delivered."""
        before = sum(ears.count for ears in self._ears)
        sent = 0
        for stanzas, receive in zip(self._stanzas, self._inputs, strict=True):
            for first in range(0, len(stanzas), BATCH):
                receive(b"".join(stanzas[first : first + BATCH]))
                sent += len(stanzas[first : first + BATCH])
            await asyncio.sleep(0)
        due = before + sent * self._each
        for _ in range(10_000):
            if sum(ears.count for ears in self._ears) >= due:
                break
            await asyncio.sleep(0)
        if sum(ears.count for ears in self._ears) != due:
            raise AssertionError(
                f"{sum(ears.count for ears in self._ears) - before} deliveries, {due - before} were due"
            )
        return sent


def parse_and_serialise(stanza: bytes, count: int) -> Slice:
    """The yardstick: the same stanza so many times through a parser, and each out again."""

    async def measured() -> int:
        parser = etree.XMLPullParser(events=("end",), tag="{jabber:client}*", resolve_entities=False)
        parser.feed(_HEADER)
        root = None
        seen = 0
        for _ in range(0, count, BATCH):
            parser.feed(stanza * BATCH)
            for _, element in cast("Any", parser.read_events()):
                parent = element.getparent()
                if root is None:
                    root = element.getroottree().getroot()
                if parent is root:
                    etree.tostring(element, encoding="utf-8", with_tail=False)
                    root.remove(element)
                    seen += 1
        if seen != count:
            raise AssertionError(f"{seen} of {count} stanzas parsed")
        return seen

    return measured


async def cost_of(work: Slice) -> Cost:
    """Measure one slice."""
    counter = Counter() if available() else None
    gc.collect()
    gc.disable()
    try:
        if counter is not None:
            counter.start()
        began = time.thread_time()
        units = await work()
        cpu = time.thread_time() - began
        counted = counter.stop() if counter is not None else None
    finally:
        gc.enable()
    return Cost(cpu / units, None if counted is None else counted / units)


def least(costs: list[Cost]) -> Cost:
    """The smallest of each."""
    counted = [cost.instructions for cost in costs if cost.instructions is not None]
    return Cost(min(cost.cpu for cost in costs), min(counted) if counted else None)


async def ratio_of(lines: Lines, repeats: int = REPEATS) -> Ratio:
    """Measure the server and the yardstick by turns."""
    yardstick = parse_and_serialise(lines.sample, 500)
    await lines.slice()
    await yardstick()
    server, floor = [], []
    for _ in range(repeats):
        floor.append(await cost_of(yardstick))
        server.append(await cost_of(lines.slice))
    return Ratio.of(least(server), least(floor))


async def measure(name: str, repeats: int = REPEATS) -> Ratio:
    """Set a server up and measure one kind of stanza."""
    make, users = LOADS[name]
    async with quiet_world(users) as world:
        return await ratio_of(await make(world), repeats)


def quiet_world(users: int) -> World:
    """A server in memory with so many accounts and no limits of rate."""
    bounds = ("stanzas_per_second", "stanza_burst", "bytes_per_second", "bytes_burst", "connections_per_address",
              "login_failures_per_address")  # fmt: skip
    return World(
        domains=("example.org",),
        accounts=[f"u{number}@example.org" for number in range(users)],
        settings={
            "limits": dict.fromkeys(bounds, _MUCH),
            "modules": {"disable": ["mam"], "muc": {"stanzas_per_second": _MUCH, "stanza_burst": _MUCH}},
        },
    )


async def _logins(world: World, users: int) -> list[Client]:
    clients = [await world.login(f"u{number}@example.org/here", presence=True) for number in range(users)]
    await world.settle()
    return clients


async def chat(world: World) -> Lines:
    """Half of the users speak to the other half."""
    clients = await _logins(world, USERS)
    half = USERS // 2
    text = "<message type='chat' to='u{}@example.org' id='m1'><body>But soft, what light breaks?</body></message>"
    stanzas = [[text.format(half + number).encode()] * 100 for number in range(half)]
    return Lines(world, clients[:half], stanzas, b"<body", 1)


async def presence(world: World) -> Lines:
    """One user with contacts who all see each change."""
    user, *contacts = await _logins(world, CONTACTS + 1)
    for contact in contacts:
        await world.befriend(contact, user)
    change = b"<presence><show>away</show><status>But soft</status></presence>"
    for client in world.clients:
        client.inbox.clear()
    # The user's own session is shown its presence, too (RFC 6121 §4.4.2).
    return Lines(world, [user], [[change] * 100], b"<status", CONTACTS + 1)


async def muc(world: World) -> Lines:
    """A room; one occupant speaks."""
    occupants = await _logins(world, CONTACTS)
    room = "balcony@conference.example.org"
    for number, occupant in enumerate(occupants):
        occupant.send(f"<presence to='{room}/n{number}'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
        await world.settle()
        if number == 0:
            form = "<x xmlns='jabber:x:data' type='submit'/>"
            await occupant.iq(
                f"<iq type='set' id='own' to='{room}'><query xmlns='http://jabber.org/protocol/muc#owner'>{form}</query></iq>"
            )
    text = f"<message type='groupchat' to='{room}' id='m1'><body>But soft, what light breaks?</body></message>".encode()
    return Lines(world, occupants[:1], [[text] * 100], b"<body", CONTACTS)


async def ping(world: World) -> Lines:
    """Everybody asks the server whether it is there."""
    clients = await _logins(world, USERS)
    question = b"<iq type='get' id='p1' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>"
    return Lines(world, clients, [[question] * 50] * USERS, b"<iq", 1)


LOADS: dict[str, tuple[Callable[[World], Awaitable[Lines]], int]] = {
    "chat": (chat, USERS),
    "presence": (presence, CONTACTS + 1),
    "muc": (muc, CONTACTS),
    "ping": (ping, USERS),
}


def saved() -> dict[str, Ratio]:
    """The ratios of the time when they were last renewed."""
    return {name: Ratio(**values) for name, values in json.loads(SAVED.read_text()).items()}


def save(ratios: dict[str, Ratio]) -> None:
    """Keep ratios for comparison; what is not among them stays as it was."""
    old = saved() if SAVED.exists() else {}
    kept = {
        name: {"cpu": round(one.cpu, 3), "instructions": one.instructions and round(one.instructions, 3)}
        for name, one in sorted((old | ratios).items())
    }
    SAVED.write_text(json.dumps(kept, indent=2) + "\n")


def main(argv: list[str]) -> int:
    """Measure, print, and save if asked to; 1 when something clearly exceeds what was saved."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench yardstick", description=__doc__)
    parser.add_argument("--renew", action="store_true", help=f"save the ratios in {SAVED.name}")
    chosen = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    ratios = {name: asyncio.run(measure(name)) for name in LOADS}
    known = saved() if SAVED.exists() else {}
    for name, one in ratios.items():
        before = f", saved {known[name].cpu:.2f}" if name in known else ""
        counted = "" if one.instructions is None else f", by instructions {one.instructions:.2f}"
        print(f"{name}: {one.cpu:.2f} times parse + serialise{counted}{before}")
    if chosen.renew:
        save(ratios)
        return 0
    return int(any(name in known and one.exceeds(known[name]) for name, one in ratios.items()))
