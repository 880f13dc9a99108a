"""Nothing acknowledged is lost, nothing is seen twice in one stream, order is kept: while connections break, the server is
killed with -9, and is restarted, at random.

Several devices of several accounts talk to each other, to single devices, to whole accounts and in a room, and change their
rosters. After each round everybody comes back and every acknowledged message is looked for on every device of its receiver and
of its sender (which get copies), and of everybody in the room, with the help of the archives on those that could not go on with
their stream. Archives and what comes live are in the same order, and every device believes in the same roster.

`BEAMISH_CHAOS_ROUNDS` sets the number of rounds, `BEAMISH_CHAOS_SEED` repeats the choices of an earlier run (moments are
not quite the same again). `BEAMISH_CHAOS_ARCHIVE=0` goes without the archive.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from tests.scenarios.devices import ROOM, Device, Ledger, Message
from tests.system.conftest import Daemon
from tests.system.resuming import Violation
from tests.watched import until

from beamish.testing import Client
from beamish.testing.live import connect

ROUNDS = int(os.environ.get("BEAMISH_CHAOS_ROUNDS", "8"))
SEED = int(os.environ.get("BEAMISH_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
ARCHIVE = os.environ.get("BEAMISH_CHAOS_ARCHIVE", "1") == "1"
ACCOUNTS = ("ada", "ben", "cyd")
DEVICES = ("phone", "desk")
PASSWORD = "chaos test"
PATIENCE = 30.0

LIMITS = """
[limits]
stanzas_per_second = 1000000
stanza_burst = 1000000
bytes_per_second = 1000000000
bytes_burst = 1000000000
connections_per_address = 10000
[modules.offline]
max_messages = 1000000
max_bytes = 1000000000
[modules.sm]
waiting_per_account = 20
"""


class Network:
    """The way to a server that comes and goes."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.up = asyncio.Event()

    async def connect(self) -> Client:
        """A connection, as soon as there is a server."""
        await self.up.wait()
        return await connect("127.0.0.1", self._daemon.port, "example.org")

    async def start(self) -> None:
        """Start the server."""
        await self._daemon.start()
        self.up.set()

    async def restart(self, number: signal.Signals) -> None:
        """End the server by a signal and start it again."""
        self.up.clear()
        self._daemon.signal(number)
        await self._daemon.ended()
        await self.start()


class Chaos:
    """The devices, and what happens to them."""

    def __init__(self, daemon: Daemon, choose: random.Random) -> None:
        self.network = Network(daemon)
        self.choose = choose
        self.ledger = Ledger()
        self.devices = [
            Device(f"{account}@example.org/{name}", PASSWORD, self.network.connect, self.ledger)
            for account in ACCOUNTS
            for name in DEVICES
        ]
        self.messages = 0
        self.names = 0
        self.ends = {"cuts": 0, "forgotten": 0, "killed": 0, "stopped": 0}

    async def round(self, number: int) -> None:
        """Talk while things break, then come together and check."""
        began = datetime.now(UTC) - timedelta(seconds=2)
        over = asyncio.get_running_loop().time() + self.choose.uniform(0.2, 0.7)
        talking = [asyncio.create_task(self._talk(device, over)) for device in self.devices]
        breaking = asyncio.create_task(self._break(over))
        end = self.choose.random()
        if end < 0.35:
            await asyncio.sleep(self.choose.uniform(0.05, 0.4))
            self.ends["killed"] += 1
            await self.network.restart(signal.SIGKILL)
        elif end < 0.6:
            await asyncio.sleep(self.choose.uniform(0.05, 0.4))
            self.ends["stopped"] += 1
            await self.network.restart(signal.SIGTERM)
        await asyncio.gather(breaking, *talking)
        await asyncio.wait_for(self._settle(), PATIENCE)
        await asyncio.wait_for(self._check(f"{began:%Y-%m-%dT%H:%M:%SZ}"), PATIENCE)

    async def _talk(self, device: Device, until: float) -> None:
        choose = random.Random(self.choose.random())
        while asyncio.get_running_loop().time() < until:
            for _ in range(choose.randint(1, 6)):
                to = f"{choose.choice(ACCOUNTS)}@example.org"
                place = choose.random()
                device.say(ROOM if place < 0.2 else f"{to}/{choose.choice(DEVICES)}" if place < 0.5 else to)
            if choose.random() < 0.25:
                self.names += 1
                device.name_contact(f"c{choose.randrange(5)}@example.org", f"name {self.names}")
            if choose.random() < 0.5:
                device.request()
            await asyncio.sleep(choose.uniform(0.0, 0.03))

    async def _break(self, until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(self.choose.uniform(0.0, 0.15))
            device = self.choose.choice(self.devices)
            if self.choose.random() < 0.15:
                self.ends["forgotten"] += 1
                device.forget()
            else:
                self.ends["cuts"] += 1
                device.cut()

    async def _settle(self) -> None:
        """Everybody is connected, everything sent is acknowledged."""
        for device in self.devices:
            device.request()
            await device.empty.wait()

    async def _ping(self, device: Device) -> None:
        """Wait for a ping's answer; if the connection breaks meanwhile, for the next one."""
        ping = asyncio.ensure_future(device.ping())
        await asyncio.wait({ping})
        if ping.cancelled():
            await until(lambda: device.client is not None, PATIENCE)

    async def _check(self, since: str) -> None:
        expected = self.ledger.acknowledged
        reader = self.choose.choice(self.devices)  # at least one archive is read each time, needed or not
        while True:
            for device in self.devices:
                device.look()
                await self._ping(device)
            for device in self.devices:
                if ARCHIVE and (device.fresh or device is reader):
                    await self._catch_up(device, since, "")
                    await self._catch_up(device, since, ROOM)
            try:
                self._compare(expected)
            except Violation as violation:
                # what comes from an ended session's queue may still be on its way
                last = violation
                if not await self._again():
                    raise last from None
            else:
                break
        self.messages += sum(map(len, expected.values()))
        expected.clear()
        self._tries = 0
        for device in self.devices:
            device.checked()

    _tries = 0

    async def _again(self) -> bool:
        self._tries += 1
        return self._tries < 20

    async def _catch_up(self, device: Device, since: str, archive: str) -> None:
        """Read an archive, from the beginning if the connection breaks meanwhile."""
        while True:
            reading = asyncio.ensure_future(device.catch_up(since, archive))
            await asyncio.wait({reading})
            if not reading.cancelled():
                return reading.result()
            await self._ping(device)

    def _compare(self, expected: dict[str, list[Message]]) -> None:
        for device in self.devices:
            device.check_roster()
            for archive, readers in (
                (ROOM, self.devices),
                ("", [d for d in self.devices if d.account == device.account]),
            ):
                order = next((found for reader in readers if (found := reader.archived.get(archive))), [])
                device.check_order(archive, order)
        for account, messages in expected.items():
            for device in self.devices:
                if account in (device.account, ROOM):
                    device.check_archive("" if account == device.account else ROOM, messages)
            own = [device for device in self.devices if account in (device.account, ROOM)]
            for device in own:
                device.check(messages, archive=ARCHIVE)
            together = set().union(*(device.seen for device in own))
            missing = [message for message in messages if message not in together]
            if missing:
                raise Violation(f"{account}: {len(missing)} acknowledged messages are lost: {missing[:5]}")


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A server that is not started yet."""
    async with Daemon(tmp_path, c2s="require_tls = false", rest=LIMITS) as made:
        yield made


async def open_room(daemon: Daemon) -> None:
    """Make a room that stays."""
    owner = await daemon.client(f"{ACCOUNTS[0]}@example.org/owner", PASSWORD, tls=False)
    owner.send(f"<presence to='{ROOM}/owner'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
    await owner.iq(
        f"<iq type='set' id='own' to='{ROOM}'><query xmlns='http://jabber.org/protocol/muc#owner'>"
        "<x xmlns='jabber:x:data' type='submit'>"
        "<field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field>"
        "<field var='muc#roomconfig_persistentroom'><value>1</value></field>"
        "<field var='muc#roomconfig_maxusers'><value>100</value></field></x></query></iq>"
    )
    await owner.close()


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_or_doubled(daemon: Daemon, tmp_path: Path) -> None:
    chaos = Chaos(daemon, random.Random(SEED))
    await chaos.network.start()
    for account in ACCOUNTS:
        await daemon.add(f"{account}@example.org", PASSWORD)
    await open_room(daemon)
    running = [asyncio.create_task(device.run()) for device in chaos.devices]
    number = 0
    work: asyncio.Task[None] | None = None
    try:
        for number in range(ROUNDS):
            work = asyncio.create_task(chaos.round(number))
            done, _ = await asyncio.wait({work, *running}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            assert work in done
    except Exception as error:
        for device in chaos.devices:
            (tmp_path / f"{device.name.replace('/', '-')}.history").write_text("\n".join(device.history))
        pytest.fail(f"seed {SEED}, round {number}: {type(error).__name__} {error}")
    finally:
        for device in chaos.devices:
            await device.stop()
        tasks = [*running, work] if work is not None else running
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=PATIENCE)
    ledger = chaos.ledger
    resumed, begun = (sum(each) for each in zip(*((d.resumed, d.begun) for d in chaos.devices), strict=True))
    print(  # noqa: T201
        f"\n{ROUNDS} rounds, seed {SEED}: {chaos.messages} acknowledged messages, {chaos.ends}, "
        f"{resumed} resumed, {begun} begun, {ledger.repeated} repeated, {len(ledger.uncertain)} uncertain"
    )
    assert chaos.messages > 0
