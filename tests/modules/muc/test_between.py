from __future__ import annotations

from typing import Any

import pytest
from tests.modules.muc.conftest import ROOM

from beamish.testing.match import condition, show

PUBSUB = "http://jabber.org/protocol/pubsub"


async def test_a_request_and_its_answer(rooms: Any) -> None:
    """§15.4 rule 3: neither side learns a real address, and any id will do."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    romeo.send(f"<iq to='{ROOM}/juliet' type='get' id='same'><query xmlns='jabber:iq:version'/></iq>")
    (asked,) = await rooms.take(juliet)
    assert (asked.get("from"), asked.get("to"), asked.get("type")) == (
        f"{ROOM}/romeo",
        "juliet@example.org/juliet",
        "get",
    )
    assert "romeo@" not in show(asked)
    juliet.send(
        f"<iq to='{ROOM}/romeo' type='result' id='{asked.get('id')}'>"
        "<query xmlns='jabber:iq:version'><name>x</name></query></iq>"
    )
    (answer,) = await rooms.take(romeo)
    assert (answer.get("from"), answer.get("id"), answer.get("type")) == (f"{ROOM}/juliet", "same", "result")
    assert answer.findtext(".//{jabber:iq:version}name") == "x"
    assert "juliet@" not in show(answer)


async def test_rpc_passes(rooms: Any) -> None:
    """Other data in rooms: a remote procedure call (XEP-0009)."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    call = "<query xmlns='jabber:iq:rpc'><methodCall><methodName>f</methodName></methodCall></query>"
    romeo.send(f"<iq to='{ROOM}/juliet' type='set' id='c'>{call}</iq>")
    (asked,) = await rooms.take(juliet)
    assert asked.findtext(".//{jabber:iq:rpc}methodName") == "f"


async def test_an_error_names_nobody(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    romeo.send(f"<iq to='{ROOM}/juliet' type='get' id='e'><query xmlns='jabber:iq:version'/></iq>")
    (asked,) = await rooms.take(juliet)
    juliet.send(
        f"<iq to='{ROOM}/romeo' type='error' id='{asked.get('id')}'><error type='wait' by='juliet@example.org'>"
        "<policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>juliet@example.org says no</text></error></iq>"
    )
    (answer,) = await rooms.take(romeo)
    assert (condition(answer), answer.get("id")) == ("policy-violation", "e")
    assert "juliet@" not in show(answer)


async def test_nobody_else_can_answer(rooms: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    romeo.send(f"<iq to='{ROOM}/juliet' type='get' id='e'><query xmlns='jabber:iq:version'/></iq>")
    (asked,) = await rooms.take(juliet)
    nurse.send(f"<iq to='{ROOM}/romeo' type='result' id='{asked.get('id')}'/>")
    await romeo.expect_nothing()
    juliet.send(f"<iq to='{ROOM}/romeo' type='result' id='{asked.get('id')}'/>")
    assert len(await rooms.take(romeo)) == 1
    juliet.send(f"<iq to='{ROOM}/romeo' type='result' id='{asked.get('id')}'/>")
    await romeo.expect_nothing()


async def test_a_card_is_asked_of_the_account(rooms: Any) -> None:
    """The answer, whatever it is, comes from the occupant's address."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    romeo.send(f"<iq to='{ROOM}/juliet' type='get' id='v'><vCard xmlns='vcard-temp'/></iq>")
    (answer,) = await rooms.take(romeo)
    assert (answer.get("from"), answer.get("id")) == (f"{ROOM}/juliet", "v")
    assert answer.get("type") in ("result", "error")
    await juliet.expect_nothing()


async def test_an_avatar_is_asked_of_the_account(rooms: Any) -> None:
    """What everybody may see, and nothing in it says whose it is."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    info = "<metadata xmlns='urn:xmpp:avatar:metadata'><info bytes='3' id='ab' type='image/png'/></metadata>"
    options = "".join(
        f"<field var='pubsub#{name}'><value>{value}</value></field>"
        for name, value in {"access_model": "open", "itemreply": "publisher"}.items()
    )
    await juliet.iq(
        f"<iq type='set' id='p'><pubsub xmlns='{PUBSUB}'><publish node='urn:xmpp:avatar:metadata'><item id='ab'>{info}</item>"
        "</publish><publish-options><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>"
        f"<value>{PUBSUB}#publish-options</value></field>{options}</x></publish-options></pubsub></iq>"
    )
    await rooms.clear(romeo, juliet)
    asking = f"<pubsub xmlns='{PUBSUB}'><items node='urn:xmpp:avatar:metadata'/></pubsub>"
    shown = await romeo.iq(f"<iq to='juliet@example.org' type='get' id='a'>{asking}</iq>")
    assert "publisher='juliet@example.org'" in show(shown).replace('"', "'")
    answer = await romeo.iq(f"<iq to='{ROOM}/juliet' type='get' id='a'>{asking}</iq>")
    assert answer.get("from") == f"{ROOM}/juliet"
    assert answer.find(".//{urn:xmpp:avatar:metadata}info") is not None
    assert "juliet@" not in show(answer)
    await juliet.expect_nothing()


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        ("get", "<items node='eu.siacs.conversations.axolotl.devicelist'/>"),
        ("get", "<items/>"),
        ("get", "<affiliations/>"),
        ("set", "<publish node='urn:xmpp:avatar:metadata'><item/></publish>"),
    ],
)
async def test_what_else_is_published_is_not(rooms: Any, type_: str, payload: str) -> None:
    """Keys tell whose they are; the client is asked, as for anything else."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    romeo.send(f"<iq to='{ROOM}/juliet' type='{type_}' id='k'><pubsub xmlns='{PUBSUB}'>{payload}</pubsub></iq>")
    (asked,) = await rooms.take(juliet)
    assert (asked.get("from"), asked.get("type")) == (f"{ROOM}/romeo", type_)


async def test_a_ping_of_oneself_does_not_reach_the_client(rooms: Any) -> None:
    """XEP-0410 §3.3."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    (second,) = await rooms.login("romeo@example.org/second")
    await rooms.full(romeo, juliet)
    ping = f"<iq to='{ROOM}/romeo' type='get' id='s'><ping xmlns='urn:xmpp:ping'/></iq>"
    await romeo.iq(ping)
    refused = await second.iq(ping, type="error")
    assert condition(refused) == "not-acceptable", "this session is not inside"
    assert refused.find("{jabber:client}error").get("type") == "cancel"
    juliet.send(ping)
    assert len(await rooms.take(romeo)) == 1, "somebody else's ping does"


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("<query xmlns='http://jabber.org/protocol/disco#info'/>", "bad-request"),
        ("<query xmlns='jabber:iq:version'/>", "not-acceptable"),
    ],
)
async def test_from_outside(rooms: Any, payload: str, expected: str) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    answer = await juliet.iq(f"<iq to='{ROOM}/romeo' type='get' id='d'>{payload}</iq>", type="error")
    assert condition(answer) == expected
    nowhere = await juliet.iq(
        f"<iq to='no@conference.example.org/romeo' type='get' id='d'>{payload}</iq>", type="error"
    )
    assert condition(nowhere) == expected, "whether there is a room is nobody's business here"


async def test_nobody_of_that_name(rooms: Any) -> None:
    (romeo,) = await rooms.login("romeo")
    await rooms.full(romeo)
    answer = await romeo.iq(f"<iq to='{ROOM}/x' type='get' id='d'><ping xmlns='urn:xmpp:ping'/></iq>", type="error")
    assert condition(answer) == "item-not-found"


async def test_pending_requests_are_bounded(rooms: Any) -> None:
    from beamish.modules.muc.between import Between

    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    module = rooms.module
    module.between = Between(module, limit=2)
    for n in range(3):
        romeo.send(f"<iq to='{ROOM}/juliet' type='get' id='p{n}'><query xmlns='jabber:iq:version'/></iq>")
    for asked in await rooms.take(juliet):
        juliet.send(f"<iq to='{ROOM}/romeo' type='result' id='{asked.get('id')}'/>")
    assert [el.get("id") for el in await rooms.take(romeo)] == ["p1", "p2"]


async def test_whom_one_blocks_asks_nothing_through_the_room_either(rooms: Any) -> None:
    """XEP-0191 §3.3; others ask as before, also of a user who blocks somebody."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    await juliet.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='{ROOM}/romeo'/></block></iq>")
    await rooms.clear(romeo, juliet, nurse)
    for client in (romeo, nurse):
        client.send(f"<iq type='get' id='v' to='{ROOM}/juliet'><query xmlns='jabber:iq:version'/></iq>")
    (asked,) = await rooms.take(juliet)
    assert asked.get("from") == f"{ROOM}/nurse"
    (answer,) = await rooms.take(romeo)
    assert (answer.get("from"), answer.get("type"), answer.get("id")) == (f"{ROOM}/juliet", "error", "v")
    assert answer.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}service-unavailable") is not None
    assert "juliet@" not in show(answer)
