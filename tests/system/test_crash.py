"""`kill -9` under load: what was acknowledged is there afterwards, once and in order.

A message has no acknowledgement of its own without stream management. But a connection's stanzas are handled in order and
all writes of the server share one queue of commits, so the result of a roster change says that every message sent before it
on the same stream is committed as well. Senders put such a change behind each burst of messages and note, when its result
comes, how far they are acknowledged. Then the process is killed at a random moment.

`BEAMISH_CRASH_ROUNDS` sets the number of rounds, `BEAMISH_CRASH_SEED` repeats the choices of an earlier run (the moment at
which the process dies is not quite the same again).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from beamish.testing import Client, ClientError

if TYPE_CHECKING:
    from tests.system.conftest import Daemon

ROUNDS = int(os.environ.get("BEAMISH_CRASH_ROUNDS", "20"))
SEED = int(os.environ.get("BEAMISH_CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
SENDERS = ("s0", "s1", "s2")
RECEIVERS = ("r0", "r1", "r2")
PASSWORD = "crash test"
OUTSTANDING = 4
"""Acknowledgements a sender may still expect when it sends the next burst."""

LIMITS = """
[limits]
stanzas_per_second = 1000000
stanza_burst = 1000000
bytes_per_second = 1000000000
bytes_burst = 1000000000
[modules.offline]
max_messages = 1000000
max_bytes = 1000000000
"""

QUESTION = "{jabber:iq:version}query"
BODY = "{jabber:client}body"


@dataclass
class Told:
    """What one sender has sent and what of it was acknowledged: receiver → number of messages."""

    name: str
    sent: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    bursts: int = 0
    bursts_acknowledged: int = 0
    _marks: dict[str, tuple[int, Counter[str]]] = field(default_factory=dict)

    async def send_until_cut(self, client: Client, choose: random.Random) -> None:
        """Send bursts, each followed by a roster change, until the connection breaks."""
        try:
            while True:
                for _ in range(choose.randint(1, 30)):
                    receiver = choose.choice(RECEIVERS)
                    client.send(
                        f"<message to='{receiver}@example.org' type='chat' id='m'>"
                        f"<body>{self.name} {self.sent[receiver]}</body></message>"
                    )
                    self.sent[receiver] += 1
                self.bursts += 1
                mark = f"burst-{self.bursts}"
                self._marks[mark] = self.bursts, Counter(self.sent)
                client.send(
                    f"<iq type='set' id='{mark}'><query xmlns='jabber:iq:roster'>"
                    f"<item jid='count@example.org' name='{self.bursts}'/></query></iq>"
                )
                while len(self._marks) > OUTSTANDING:
                    await self._hear(client)
                await asyncio.sleep(0)
        except ClientError:
            assert client.disconnected, "the server closed the stream"
        while client.inbox:  # what arrived before the end
            await self._hear(client)

    async def _hear(self, client: Client) -> None:
        got = await client.receive()
        assert got.tag == "{jabber:client}iq" and got.get("type") == "result", got.get("type")
        self.bursts_acknowledged, self.acknowledged = self._marks.pop(got.get("id") or "")


async def collect(client: Client) -> list[str]:
    """Become available and take all stored messages; returns their bodies when the store is empty.

    The last message is one of our own, which the server must put behind all stored ones. The two requests after it make
    sure that the server has heard our last answer to its own question whether we have read everything.
    """
    bodies: list[str] = []

    async def hear(until: Callable[[str, str], bool]) -> None:
        while True:
            got = await client.receive()
            if got.find(QUESTION) is not None:
                client.send(f"<iq type='result' id='{got.get('id')}' to='{got.get('from')}'/>")
            body = got.findtext(BODY)
            if body is not None and not body.startswith("last"):
                assert got.find("{urn:xmpp:delay}delay") is not None
                bodies.append(body)
            if until(got.get("id") or "", body or ""):
                return

    last = f"last {client.jid}"
    client.send(f"<presence/><message to='{client.jid}' type='chat'><body>{last}</body></message>")
    await hear(lambda _id, body: body == last)
    for id_ in ("heard-1", "heard-2"):
        client.send(f"<iq type='get' id='{id_}'><ping xmlns='urn:xmpp:ping'/></iq>")
        await hear(lambda id_heard, _body, id_=id_: id_heard == id_)
    await client.close()
    return bodies


def check(receiver: str, bodies: list[str], told: list[Told]) -> int:
    """From each sender the first n messages, in order, each once, and at least those acknowledged; returns their number."""
    total = 0
    for sender in told:
        numbers = [int(number) for name, number in (body.split() for body in bodies) if name == sender.name]
        assert numbers == list(range(len(numbers))), f"{sender.name} → {receiver}: lost, doubled or out of order"
        assert sender.acknowledged[receiver] <= len(numbers) <= sender.sent[receiver], f"{sender.name} → {receiver}"
        total += len(numbers)
    assert total == len(bodies)
    return total


async def login(daemon: Daemon, name: str, resource: str) -> Client:
    return await daemon.client(f"{name}@example.org/{resource}", PASSWORD, tls=False)


async def prepare(daemon: Daemon) -> None:
    await daemon.start()
    for name in (*SENDERS, *RECEIVERS):
        await daemon.add(f"{name}@example.org", PASSWORD)


async def die_under_load(daemon: Daemon, choose: random.Random) -> list[Told]:
    """Send from all senders and kill the server some moments later."""
    told = [Told(name) for name in SENDERS]
    clients = [await login(daemon, each.name, "load") for each in told]
    sending = [
        asyncio.create_task(each.send_until_cut(client, random.Random(choose.random())))
        for each, client in zip(told, clients, strict=True)
    ]
    asyncio.get_running_loop().call_later(choose.uniform(0.01, 0.3), daemon.kill)
    await asyncio.gather(*sending)
    await daemon.ended()
    return told


@pytest.mark.slow
async def test_acknowledged_messages_survive_kill_9(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon(c2s="require_tls = false", rest=LIMITS)
    choose = random.Random(SEED)
    await prepare(daemon)
    sent = acknowledged = stored = 0
    for number in range(ROUNDS):
        told = await die_under_load(daemon, choose)
        await daemon.start()
        place = f"seed {SEED}, round {number}"
        receivers = [await login(daemon, name, "after") for name in RECEIVERS]
        for name, bodies in zip(RECEIVERS, await asyncio.gather(*map(collect, receivers)), strict=True):
            try:
                stored += check(name, bodies, told)
            except AssertionError as error:
                raise AssertionError(f"{place}: {error}") from error
        again = await login(daemon, choose.choice(RECEIVERS), "again")
        assert await collect(again) == [], f"{place}: delivered twice"
        for each in told:
            sender = await login(daemon, each.name, "look")
            items = list((await sender.roster()).iter("{jabber:iq:roster}item"))
            kept = int(items[0].get("name") or "") if items else 0
            # an item of the last round stays if this one changed nothing, with a number that says nothing then
            if each.bursts_acknowledged:
                assert each.bursts_acknowledged <= kept <= each.bursts, f"{place}: roster of {each.name}"
            await sender.iq(
                "<iq type='set' id='clean'><query xmlns='jabber:iq:roster'>"
                "<item jid='count@example.org' name='0'/></query></iq>"
            )
            await sender.close()
            sent += each.sent.total()
            acknowledged += each.acknowledged.total()
    figures = {"rounds": ROUNDS, "sent": sent, "acknowledged": acknowledged, "stored": stored}
    logging.getLogger(__name__).warning("none lost: %s", figures)  # `pytest -rP` shows it
    assert 0 < acknowledged <= stored <= sent


@pytest.mark.slow
async def test_a_kill_during_delivery_loses_nothing(make_daemon: Callable[..., Daemon]) -> None:
    """Messages leave the store only when the client has them: whoever is cut off meanwhile gets them again, in order."""
    daemon = make_daemon(c2s="require_tls = false", rest=LIMITS)
    choose = random.Random(SEED)
    await prepare(daemon)
    count = 1_000
    sender = await login(daemon, "s0", "load")
    for number in range(count):
        sender.send(f"<message to='r0@example.org' type='chat'><body>s0 {number}</body></message>")
    await sender.roster()
    await sender.iq("<iq type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='x@example.org'/></query></iq>")
    seen: set[int] = set()
    for number in range(max(3, ROUNDS // 5)):
        receiver = await login(daemon, "r0", f"cut-{number}")
        # dies in the middle of a page, when the client has read a random part of it
        wanted = choose.randint(1, 150)
        receiver.send("<presence/>")
        got: list[int] = []
        while len(got) < wanted:
            stanza = await receiver.receive()
            if stanza.find(QUESTION) is not None:
                receiver.send(f"<iq type='result' id='{stanza.get('id')}' to='{stanza.get('from')}'/>")
            body = stanza.findtext(BODY)
            if body is not None:
                got.append(int(body.split()[1]))
        daemon.kill()
        await daemon.ended()
        assert got == list(range(got[0], got[0] + len(got))), f"seed {SEED}: out of order"
        seen.update(got)
        await daemon.start()
    rest = [int(body.split()[1]) for body in await collect(await login(daemon, "r0", "rest"))]
    assert rest == list(range(rest[0], count)), f"seed {SEED}: lost or out of order"
    assert seen | set(rest) == set(range(count)), f"seed {SEED}: lost"
    assert await collect(await login(daemon, "r0", "again")) == []


@pytest.mark.slow
async def test_a_hundred_stored_messages_survive_and_the_next_one_was_refused(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(c2s="require_tls = false", rest="[modules.offline]\nmax_messages = 100")
    await prepare(daemon)
    sender = await login(daemon, "s0", "load")
    sender.send("<enable xmlns='urn:xmpp:sm:3'/>")
    await sender.expect("<enabled xmlns='urn:xmpp:sm:3'/>")
    for number in range(101):
        sender.send(f"<message to='r0@example.org' type='chat' id='{number}'><body>s0 {number}</body></message>")
    await sender.expect(
        "<message type='error' id='100' from='r0@example.org'><error type='cancel'>"
        "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    sender.send("<r xmlns='urn:xmpp:sm:3'/>")
    while (got := await sender.receive()).tag != "{urn:xmpp:sm:3}a":
        assert got.tag == "{urn:xmpp:sm:3}r"
    assert got.get("h") == "101"
    daemon.kill()
    await daemon.ended()
    await daemon.start()
    # not by `collect`: where a hundred are stored there is no room for the message that should come last
    receiver = await login(daemon, "r0", "after")
    receiver.send("<presence/>")
    bodies: list[str] = []
    while got.get("id") != "heard":
        got = await receiver.receive()
        if got.find(QUESTION) is not None:
            receiver.send(f"<iq type='result' id='{got.get('id')}' to='{got.get('from')}'/>")
        if (body := got.findtext(BODY)) is not None:
            assert got.find("{urn:xmpp:delay}delay") is not None
            bodies.append(body)
            if len(bodies) == 100:
                receiver.send("<iq type='get' id='heard'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert bodies == [f"s0 {number}" for number in range(100)]
