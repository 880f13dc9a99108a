from __future__ import annotations

import asyncio
from typing import Any

from tests.modules.muc.conftest import ROOM

from beamish.core.events import Delivery, delivering, incoming
from beamish.core.hooks import STOP, Row
from beamish.testing.plugin import ExpectedErrors
from beamish.xmpp.errors import Condition, StanzaError

BODY = "{jabber:client}body"


async def test_large_rooms_are_served_in_slices_and_in_order(rooms: Any) -> None:
    """Everybody sees one order, though the loop gets its turn in between."""
    names = ("romeo", "juliet", "nurse", "mercutio")
    clients = await rooms.login(*names)
    rooms.module.fanout._slice = 2
    await rooms.full(*clients)
    for n in range(6):
        rooms.say(clients[n % 4], str(n))
    clients[1].send(f"<presence to='{ROOM}/jj'/>")
    rooms.say(clients[2], "last")
    orders = []
    for client in clients:
        orders.append([el.findtext(BODY) or el.get("from").rpartition("/")[2] for el in await rooms.take(client)])
    assert all(order == orders[0] for order in orders)
    assert sorted(orders[0]) == sorted([*"012345", "juliet", "jj", "last"])


async def test_a_sender_waits_until_everybody_has_it(rooms: Any) -> None:
    """The flood is slowed down where it comes from; others are served meanwhile."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    rooms.module.fanout._slice = 1
    await rooms.full(romeo, juliet)
    rooms.say(romeo, "one")
    rooms.say(romeo, "two")
    nurse.send("<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert len(nurse.inbox) == 0 or nurse.inbox[0].get("id") == "p"
    seen = len(juliet.inbox) + len(romeo.inbox)
    assert seen < 4, "not everything went out at once"
    assert [el.findtext(BODY) for el in await rooms.take(juliet)] == ["one", "two"]


async def test_handlers_of_delivering_may_keep_and_change(rooms: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)

    def meddle(event: Delivery) -> Any:
        if event.session.jid.local == "juliet":
            return STOP
        if event.session.jid.local == "nurse":
            event.stanza = event.stanza.with_child(b"<extra xmlns='urn:x'/>")
        return None

    rooms.world.kernel.hooks[delivering].add(Row(50, "test", meddle))
    rooms.say(romeo, "hi")
    assert await rooms.take(juliet) == []
    (got,) = await rooms.take(nurse)
    assert got.find("{urn:x}extra") is not None and got.get("to") == "nurse@example.org/nurse"
    assert (await rooms.take(romeo))[0].find("{urn:x}extra") is None


async def test_what_an_account_refuses_is_nobodys_error(rooms: Any) -> None:
    """Somebody who blocks an occupant stays in the room."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)

    def block(ctx: Any) -> None:
        if ctx.stanza.sender is not None and ctx.stanza.sender == f"{ROOM}/romeo":
            raise StanzaError(Condition.SERVICE_UNAVAILABLE)

    rooms.world.kernel.hooks[incoming].add(Row(50, "test", block, guarded=True))
    for session in rooms.world.kernel.sessions:
        session.guarded = session.jid.local == "juliet"
    rooms.say(romeo, "hi")
    rooms.say(nurse, "ho")
    assert [el.findtext(BODY) for el in await rooms.take(juliet)] == ["ho"]
    assert [el.findtext(BODY) for el in await rooms.take(romeo)] == ["hi", "ho"]


async def test_a_step_that_fails_keeps_nobody_waiting(rooms: Any, expected_errors: ExpectedErrors) -> None:
    """What the room says next goes out, and whoever waits for it goes on."""
    expected_errors.add("fan_out_step_failed")
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    fanout = rooms.module.fanout
    fanout._slice = 1
    tell = fanout.tell
    fanout.tell = lambda stanza, *more: 1 / 0 if b"broken" in stanza.body else tell(stanza, *more)
    rooms.say(romeo, "broken")
    rooms.say(romeo, "whole")
    assert [el.findtext(BODY) for el in await rooms.take(juliet)] == ["whole"]
    assert [el.findtext(BODY) for el in await rooms.take(romeo)] == ["whole"]


async def test_a_flood_of_small_messages_leaves_turns_to_others(rooms: Any) -> None:
    """However many messages arrive in one piece, what goes out in one turn of the loop is bounded."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    fanout = rooms.module.fanout
    fanout._slice = 6
    loop = asyncio.get_running_loop()
    turns = [0]

    def turn() -> None:
        turns.append(0)
        if len(turns) < 200:  # else the server never comes to rest
            loop.call_soon(turn)

    tell = fanout.tell

    def counted(stanza: Any, seats: Any, *more: Any) -> None:
        turns[-1] += len(seats)
        tell(stanza, seats, *more)

    fanout.tell = counted
    loop.call_soon(turn)
    flood = "".join(f"<message to='{ROOM}' type='groupchat'><body>{n}</body></message>" for n in range(20))
    romeo.send(flood)
    assert [el.findtext(BODY) for el in await rooms.take(juliet)] == [str(n) for n in range(20)]
    assert max(turns) <= 2 * fanout._slice, "a slice at once, and one of what waits"
