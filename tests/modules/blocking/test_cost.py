"""What blocking costs those who have no lists."""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType

from beamish.testing.client import Client
from beamish.testing.world import World

from .kit import block, unblock

MESSAGE = "<message to='{}' type='chat'><body>x</body></message>"
PING = "<iq type='get' id='1' to='{}'><ping xmlns='urn:xmpp:ping'/></iq>"
NUMBER = 20


async def calls(world: World, client: Client, *stanzas: str) -> Counter[str]:
    """Functions of blocking that are called for stanzas, by name."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and "/beamish/modules/blocking/" in frame.f_code.co_filename:
            found[frame.f_code.co_name] += 1

    sys.setprofile(note)
    try:
        for stanza in stanzas:
            for _ in range(NUMBER):
                client.send(stanza)
        await world.settle()
    finally:
        sys.setprofile(None)
    return found


async def test_where_nobody_has_lists_nothing_is_called(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await world.befriend(romeo, juliet)
    messages = MESSAGE.format("juliet@example.org"), MESSAGE.format("juliet@example.org/balcony")
    assert not await calls(world, romeo, *messages)
    # and so again when the last list is gone
    await block(juliet, "nurse@example.org")
    assert await calls(world, romeo, *messages)
    await unblock(juliet)
    assert not await calls(world, romeo, *messages)


async def test_who_has_no_lists_pays_one_test_for_each_stanza(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    nurse = await world.login("nurse@example.org/street", presence=True)
    await world.befriend(romeo, juliet)
    await block(nurse, "mercutio@example.org")
    found = await calls(world, romeo, MESSAGE.format("juliet@example.org/balcony"))
    assert found == {"_inbound": NUMBER, "_incoming": NUMBER}
    found = await calls(world, romeo, "<presence><status>x</status></presence>")
    assert found["_incoming"] == 0 and found["_inbound"] == NUMBER
    # whose own stanzas are judged: those who have
    found = await calls(world, nurse, MESSAGE.format("juliet@example.org/balcony"))
    assert found["_sent"] == NUMBER


async def test_a_first_list_is_in_force_at_once_for_those_who_are_online_already(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await block(juliet, "romeo@example.org")
    romeo.send(MESSAGE.format("juliet@example.org"))
    await romeo.expect(
        "<message type='error'><error><service-unavailable/></error></message>".replace(
            "<service-unavailable/>", "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        )
    )
    romeo.send(PING.format("juliet@example.org/balcony"))
    await romeo.expect("<iq type='error' id='1'/>")
    juliet.send(MESSAGE.format("romeo@example.org"))
    await juliet.expect("<message type='error'/>")
    await romeo.expect_nothing()
