"""What a client with 200 contacts is sent: at login, for each change of presence, and while nobody looks at it.

Bytes are those of the streams, before TLS. The figures are in docs/modules/csi.md; `pytest -s` prints them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from beamish.core.services import RosterItem, RosterService
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.jid import JID

CONTACTS = 200
JULIET = JID.parse("juliet@example.org")
CAPS = (
    "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='https://client.example' "
    "ver='QgayPKawpkPSDYmwT/WM94uAlu0='/>"
)
CSI = "urn:xmpp:csi:0"


class Meter:
    """Counts the bytes that a client sends and gets."""

    def __init__(self, client: Client) -> None:
        self.sent = self.got = 0
        send, feed = client._write, client.feed

        def counted_send(data: bytes) -> None:
            self.sent += len(data)
            send(data)

        def counted_feed(data: bytes) -> None:
            self.got += len(data)
            feed(data)

        client._write = counted_send  # type: ignore[method-assign]
        client.feed = counted_feed  # type: ignore[method-assign]

    def take(self) -> tuple[int, int]:
        """Bytes sent and got since the last call."""
        sent, got = self.sent, self.got
        self.sent = self.got = 0
        return sent, got


@pytest_asyncio.fixture
async def crowd() -> AsyncIterator[tuple[World, list[Client]]]:
    """Juliet's contacts, all of them available."""
    names = [f"contact{n:03}@example.org" for n in range(CONTACTS)]
    async with World(accounts=[str(JULIET), *names], settings={"limits": {"connections_per_address": 1_000}}) as world:
        rosters = world.kernel.service(RosterService)
        for name in names:
            contact = JID.parse(name)
            await rosters.change(JULIET, RosterItem(contact, name=f"C {name[7:10]}", to=True, from_=True))
            await rosters.change(contact, RosterItem(JULIET, to=True, from_=True))
        contacts = []
        for name in names:
            client = await world.login(f"{name}/phone")
            client.send(f"<presence>{CAPS}</presence>")
            contacts.append(client)
        await world.settle()
        yield world, contacts


def status(client: Client, text: str) -> None:
    client.send(f"<presence><show>away</show><status>{text}</status>{CAPS}</presence>")


async def arrive(world: World, version: str) -> tuple[Client, Meter, dict[str, tuple[int, int]], str]:
    """Log in as a client does that knows a version of the roster; bytes of each part."""
    client = world.connect()
    meter = Meter(client)
    await client.login(JULIET.with_resource("phone"), "correct horse")
    parts = {"stream, SASL, bind": meter.take()}
    answer = await client.iq(f"<iq type='get' id='r'><query xmlns='jabber:iq:roster' ver='{version}'/></iq>")
    parts["roster"] = meter.take()
    query = answer.find("{jabber:iq:roster}query")
    client.send(f"<presence>{CAPS}</presence>")
    await world.settle()
    parts["presence of all contacts"] = meter.take()
    assert sum(el.tag == "{jabber:client}presence" for el in client.inbox) >= CONTACTS
    client.inbox.clear()
    return client, meter, parts, version if query is None else query.get("ver", "")


async def test_bytes(crowd: tuple[World, list[Client]]) -> None:
    world, contacts = crowd
    juliet, meter, first, version = await arrive(world, "")
    juliet.send("</stream:stream>")
    await world.settle()
    juliet, meter, again, _ = await arrive(world, version)
    for name in first:
        print(f"{name}: {first[name]}, again {again[name]}")  # noqa: T201
    assert first["roster"][1] > 60 * CONTACTS
    assert again["roster"][1] < 100  # nothing has changed, so nothing is sent (RFC 6121 §2.6)
    assert sum(got for _, got in again.values()) < 350 * CONTACTS

    # a change of presence costs each contact one stanza of about its own length
    watching = Meter(contacts[0])
    juliet.send("<presence><show>away</show><status>balcony</status></presence>")
    await world.settle()
    sent, own = meter.take()
    _, told = watching.take()
    print(f"change: {sent} sent, {told} for each contact, {own} for the client itself")  # noqa: T201
    assert told < sent + 120
    assert own < sent + 120 + len(CAPS)  # itself, it is told its capabilities, which it left out (XEP-0115 §8.4)

    # everybody changes five times
    juliet.inbox.clear()
    meter.take()
    for number in range(5):
        for contact in contacts:
            status(contact, f"active {number}")
    await world.settle()
    active = meter.take()[1]
    assert len(juliet.inbox) == 5 * CONTACTS
    juliet.inbox.clear()

    juliet.send(f"<inactive xmlns='{CSI}'/>")
    for number in range(5):
        for contact in contacts:
            status(contact, f"inactive {number}")
    for contact in contacts:
        contact.send(
            f"<message type='chat' to='{JULIET}'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>"
        )
    await world.settle()
    assert meter.take()[1] == 0
    juliet.send(f"<active xmlns='{CSI}'/>")
    await world.settle()
    inactive = meter.take()[1]
    told_of = {el.get("from"): el.findtext("{jabber:client}status") for el in juliet.inbox}
    assert len(juliet.inbox) == len(told_of) == CONTACTS
    assert set(told_of.values()) == {"inactive 4"}
    assert inactive <= active / 2  # complete ones: what was replaced may have said what the client does not know yet
    print(f"1,000 changes: {active} active, {inactive} inactive")  # noqa: T201
