"""Subscriptions and presence between users of two servers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from beamish.core.services import RosterItem, RosterService
from beamish.modules.presence.subscriptions import KINDS, State, inbound, outbound, state_of
from beamish.testing.federated import Relay
from beamish.xmpp.jid import JID

from .border import Two, arrived, crossed, friends, kinds, know_each_other, two_servers, until

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

ROMEO, JULIET = "romeo@a.example", "juliet@b.example"


@pytest_asyncio.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with two_servers(tmp_path, contacts=(JULIET, "nurse@b.example")) as made:
        yield made


async def roster_of(two: Two, owner: JID) -> dict[JID, RosterItem]:
    server = two[0] if owner.domain == "a.example" else two[1]
    roster = server.kernel.service(RosterService).roster(owner)
    found = await roster if hasattr(roster, "__await__") else roster
    return {item.jid: item for item in found.items()}


def item(jid: JID, state: State) -> RosterItem:
    """A contact in one of the nine states."""
    to, from_, out, in_ = state.value
    return RosterItem(jid, to=to, from_=from_, pending_out=out, pending_in=in_, listed=state is not State.NONE_IN)


def mirror(state: State) -> State:
    """What the other side has it as, when both agree."""
    to, from_, out, in_ = state.value
    return State((from_, to, in_, out))


async def test_every_stanza_in_every_state_leaves_both_rosters_as_the_tables_say(tmp_path: Path) -> None:
    """RFC 6121 appendix A: nine states, four stanzas, each with a contact of its own."""
    cases = [(state, kind) for state in State for kind in KINDS]
    contacts = [JID.parse(f"c{n}@b.example") for n in range(len(cases))]
    romeo = JID.parse(ROMEO)
    async with two_servers(tmp_path, contacts=[*contacts, "nurse@b.example"]) as two:
        a, b = two
        ours, theirs = (server.kernel.service(RosterService) for server in two)
        for (state, _), contact in zip(cases, contacts, strict=True):
            await ours.change(romeo, item(contact, state))
            await theirs.change(contact, item(romeo, mirror(state)))
        client = await a.client(f"{ROMEO}/x", roster=True)
        nurse = await b.client("nurse@b.example/n")
        for (_, kind), contact in zip(cases, contacts, strict=True):
            client.send(f"<presence type='{kind}' to='{contact}'/>")
        for _ in range(2):  # there, back, and what follows from that
            await crossed(client, "b.example")
            await crossed(nurse, "a.example")
        our_roster = await roster_of(two, romeo)
        for (state, kind), contact in zip(cases, contacts, strict=True):
            sent = outbound(kind, state)
            expected_ours, expected_theirs = sent.state, mirror(state)
            if sent.passes:
                got = inbound(kind, mirror(state))
                expected_theirs = got.state
                if got.reply:
                    expected_ours = inbound(got.reply, expected_ours).state
            found = state_of(our_roster.get(contact)), state_of((await roster_of(two, contact)).get(romeo))
            assert found == (expected_ours, expected_theirs), f"{kind} in {state}"


async def test_from_strangers_to_friends_and_back(two: Two) -> None:
    """What both clients see, from the first request to the last farewell."""
    a, b = two
    romeo = await a.client(f"{ROMEO}/x", presence=True, roster=True)
    juliet = await b.client(f"{JULIET}/y", presence=True, roster=True)
    romeo.send(f"<presence to='{JULIET}' type='subscribe' id='s1'><status>Let me</status></presence>")
    asking = f"<item jid='{JULIET}' subscription='none' ask='subscribe'/>"
    await romeo.expect(f"<iq type='set'><query xmlns='jabber:iq:roster'>{asking}</query></iq>")
    await juliet.expect(f"<presence from='{ROMEO}' to='{JULIET}' type='subscribe'><status>Let me</status></presence>")
    juliet.send(f"<presence to='{ROMEO}' type='subscribed'/>")
    await juliet.expect(
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{ROMEO}' subscription='from'/></query></iq>"
    )
    await romeo.expect_all(
        f"<presence from='{JULIET}' type='subscribed'/>",
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{JULIET}' subscription='to'/></query></iq>",
        f"<presence from='{JULIET}/y' type='!'/>",
    )
    juliet.send(f"<presence to='{ROMEO}' type='subscribe'/>")
    await juliet.expect(
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{ROMEO}' subscription='from' ask='subscribe'/></query></iq>"
    )
    await romeo.expect(f"<presence from='{JULIET}' type='subscribe'/>")
    romeo.send(f"<presence to='{JULIET}' type='subscribed'/>")
    await romeo.expect(
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{JULIET}' subscription='both'/></query></iq>"
    )
    await juliet.expect_all(
        f"<presence from='{ROMEO}' type='subscribed'/>",
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{ROMEO}' subscription='both'/></query></iq>",
        f"<presence from='{ROMEO}/x' type='!'/>",
    )
    romeo.send(f"<presence to='{JULIET}' type='unsubscribe'/>")
    await romeo.expect_all(
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{JULIET}' subscription='from'/></query></iq>",
        f"<presence from='{JULIET}/y' type='unavailable'/>",
    )
    await juliet.expect_all(
        f"<presence from='{ROMEO}' type='unsubscribe'/>",
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{ROMEO}' subscription='to'/></query></iq>",
    )
    romeo.send(f"<presence to='{JULIET}' type='unsubscribed'/>")
    await romeo.expect(
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{JULIET}' subscription='none'/></query></iq>"
    )
    await juliet.expect_all(
        f"<presence from='{ROMEO}/x' type='unavailable'/>",
        f"<presence from='{ROMEO}' type='unsubscribed'/>",
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{ROMEO}' subscription='none'/></query></iq>",
    )
    romeo.send("<presence/>")
    juliet.send("<presence/>")
    await crossed(romeo, "b.example")
    await crossed(juliet, "a.example")
    assert kinds(await arrived(romeo), f"{JULIET}/y") == kinds(await arrived(juliet), f"{ROMEO}/x") == set()


async def test_a_request_is_refused_waits_and_is_withdrawn(two: Two) -> None:
    a, b = two
    romeo = await a.client(f"{ROMEO}/x", presence=True, roster=True)
    romeo.send(f"<presence to='{JULIET}' type='subscribe'/>")
    await romeo.expect("<iq type='set'/>")
    await crossed(romeo, "b.example")
    juliet = await b.client(f"{JULIET}/y", presence=True, roster=True)  # it waited for her
    await until(juliet, f"<presence from='{ROMEO}' type='subscribe'/>")
    juliet.send(f"<presence to='{ROMEO}' type='unsubscribed'/>")
    await romeo.expect_all(
        f"<presence from='{JULIET}' type='unsubscribed'/>",
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{JULIET}' subscription='none' ask='!'/></query></iq>",
    )
    romeo.send(f"<presence to='{JULIET}' type='subscribe'/>")
    await juliet.expect(f"<presence from='{ROMEO}' type='subscribe'/>")
    romeo.send(f"<presence to='{JULIET}' type='unsubscribe'/>")
    await crossed(romeo, "b.example")
    again = await b.client(f"{JULIET}/z", presence=True, roster=True)
    assert not [el for el in await arrived(again) if el.get("type") == "subscribe"]


async def test_removing_a_contact_ends_it_on_both_sides(two: Two) -> None:
    romeo, juliet = await friends(two)
    await romeo.iq(
        f"<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='{JULIET}' subscription='remove'/></query></iq>"
    )
    seen = [await juliet.receive() for _ in range(5)]
    assert sorted(str(el.get("type")) for el in seen) == ["set", "set", "unavailable", "unsubscribe", "unsubscribed"]
    await crossed(romeo, "b.example")
    assert state_of((await roster_of(two, JID.parse(JULIET)))[JID.parse(ROMEO)]) is State.NONE
    assert JID.parse(JULIET) not in await roster_of(two, JID.parse(ROMEO))
    await until(romeo, f"<presence from='{JULIET}/y' type='unavailable'/>")


async def test_pre_approval_saves_the_question(two: Two) -> None:
    a, b = two
    juliet = await b.client(f"{JULIET}/y", presence=True, roster=True)
    juliet.send(f"<presence to='{ROMEO}' type='subscribed'/>")
    await juliet.expect("<iq type='set'><query xmlns='jabber:iq:roster'><item approved='true'/></query></iq>")
    romeo = await a.client(f"{ROMEO}/x", presence=True, roster=True)
    romeo.send(f"<presence to='{JULIET}' type='subscribe'/>")
    await until(romeo, f"<presence from='{JULIET}/y' type='!'/>")
    assert not [el for el in await arrived(juliet) if el.tag.endswith("presence")]


async def test_everything_shown_is_seen_and_the_end_too(two: Two) -> None:
    romeo, juliet = await friends(two)
    juliet.send("<presence xml:lang='en'><show>dnd</show><status>Busy</status><priority>3</priority></presence>")
    await romeo.expect(
        f"<presence from='{JULIET}/y' to='{ROMEO}' xml:lang='en' type='!'><show>dnd</show><status>Busy</status>"
        "<priority>3</priority></presence>"
    )
    juliet.send("<presence type='unavailable'><status>Bye</status></presence>")
    await romeo.expect(f"<presence from='{JULIET}/y' type='unavailable'><status>Bye</status></presence>")
    juliet.send("<presence/>")
    await romeo.expect(f"<presence from='{JULIET}/y' type='!'/>")
    tablet = await two[1].client(f"{JULIET}/tablet", presence=True)
    await romeo.expect(f"<presence from='{JULIET}/tablet' type='!'/>")
    await tablet.close()
    await romeo.expect(f"<presence from='{JULIET}/tablet' type='unavailable'/>")
    juliet.drop()  # without a word
    await romeo.expect(f"<presence from='{JULIET}/y' type='unavailable'/>")


async def test_who_comes_later_is_told_by_probes(two: Two) -> None:
    a, b = two
    await know_each_other(a, b)
    await b.client("nurse@b.example/z", presence=True)
    juliet = await b.client(f"{JULIET}/y", roster=True)
    juliet.send("<presence><show>away</show></presence>")
    await juliet.expect("<presence/>")
    await crossed(juliet, "a.example")
    romeo = await a.client(f"{ROMEO}/x", presence=True)
    await romeo.expect(
        f"<presence from='{JULIET}/y' type='!'><show>away</show><delay xmlns='urn:xmpp:delay' from='b.example'/></presence>"
    )
    await until(juliet, f"<presence from='{ROMEO}/x' type='!'/>")
    # by hand: of one device, of somebody who left, of a stranger
    romeo.send(f"<presence type='probe' to='{JULIET}/y'/>")
    await romeo.expect(f"<presence from='{JULIET}/y' type='!'/>")
    await juliet.close()
    await romeo.expect(f"<presence from='{JULIET}/y' type='unavailable'/>")
    romeo.send(f"<presence type='probe' to='{JULIET}'/>")
    await romeo.expect(f"<presence from='{JULIET}' type='unavailable'><delay xmlns='urn:xmpp:delay'/></presence>")
    romeo.send("<presence type='probe' to='nurse@b.example'/>")
    await crossed(romeo, "b.example")
    assert kinds(await arrived(romeo), "nurse@b.example/z") == set()


async def test_rosters_that_came_apart_are_set_right(two: Two) -> None:
    a, _ = two
    await a.kernel.service(RosterService).change(JID.parse(ROMEO), RosterItem(JID.parse(JULIET), to=True))
    romeo = await a.client(f"{ROMEO}/x", presence=True, roster=True)
    await until(romeo, f"<presence from='{JULIET}' type='unsubscribed'/>")
    assert state_of((await roster_of(two, JID.parse(ROMEO)))[JID.parse(JULIET)]) is State.NONE


async def test_directed_presence(two: Two) -> None:
    """To a stranger: it opens the way for requests, follows nothing else, and ends with the session."""
    a, b = two
    romeo = await a.client(f"{ROMEO}/x", presence=True)
    juliet = await b.client(f"{JULIET}/y", presence=True)
    ping = "<ping xmlns='urn:xmpp:ping'/>"
    await romeo.iq(f"<iq type='get' to='{JULIET}/y' id='p'>{ping}</iq>", "error")
    juliet.send(f"<presence to='{ROMEO}/x'><show>chat</show></presence>")
    await romeo.expect(f"<presence from='{JULIET}/y' to='{ROMEO}/x' type='!'><show>chat</show></presence>")
    romeo.send(f"<iq type='get' to='{JULIET}/y' id='q'>{ping}</iq>")
    asked = await juliet.expect(f"<iq type='get' from='{ROMEO}/x'/>")
    juliet.send(f"<iq type='result' to='{ROMEO}/x' id='{asked.get('id')}'/>")
    await romeo.expect(f"<iq type='result' id='q' from='{JULIET}/y'/>")
    romeo.send(f"<presence type='probe' to='{JULIET}/y'/>")  # RFC 6121 §4.6.6
    await romeo.expect(f"<presence from='{JULIET}/y' type='!'/>")
    juliet.send("<presence><show>away</show></presence>")
    await crossed(juliet, "a.example")
    assert kinds(await arrived(romeo), f"{JULIET}/y") == set()
    juliet.drop()
    await romeo.expect(f"<presence from='{JULIET}/y' type='unavailable'/>")


async def test_directed_presence_is_taken_back_by_hand(two: Two) -> None:
    a, b = two
    romeo = await a.client(f"{ROMEO}/x", presence=True)
    juliet = await b.client(f"{JULIET}/y", presence=True)
    juliet.send(f"<presence to='{ROMEO}'/>")
    await romeo.expect(f"<presence from='{JULIET}/y' type='!'/>")
    juliet.send(f"<presence to='{ROMEO}' type='unavailable'/>")
    await romeo.expect(f"<presence from='{JULIET}/y' type='unavailable'/>")
    await juliet.close()
    await crossed(romeo, "b.example")
    assert kinds(await arrived(romeo), f"{JULIET}/y") == set()


@pytest.mark.parametrize("silent", [True, False])
async def test_a_server_that_dies_is_noticed_and_its_users_are_gone(tmp_path: Path, silent: bool) -> None:
    """To contacts, to those who got directed presence, and in rooms; whether it breaks off or falls silent."""
    settings = {
        "s2s": {"retry_seconds": 0.3, "resume_seconds": 0.3, "connect_seconds": 0.3, "negotiation_seconds": 1.0}
    }
    async with two_servers(tmp_path, settings=settings) as two:
        a, b = two
        names = a._names
        async with Relay(b.s2s_port) as there, Relay(a.s2s_port) as here:
            for domain in ("b.example", "conference.b.example"):
                names.move(domain, there.port)
            for domain in ("a.example", "conference.a.example"):
                names.move(domain, here.port)
            romeo, juliet = await friends(two)
            muc = "<x xmlns='http://jabber.org/protocol/muc'/>"
            romeo.send(f"<presence to='hall@conference.a.example/romeo'>{muc}</presence>")
            await until(romeo, "<message from='hall@conference.a.example'><subject/></message>")
            await romeo.iq(
                "<iq type='set' to='hall@conference.a.example' id='o'><query xmlns='http://jabber.org/protocol/muc#owner'>"
                "<x xmlns='jabber:x:data' type='submit'/></query></iq>"
            )
            juliet.send(f"<presence to='hall@conference.a.example/juliet'>{muc}</presence>")
            await until(romeo, "<presence from='hall@conference.a.example/juliet' type='!'/>")
            await until(juliet, "<message from='hall@conference.a.example'><subject/></message>")
            assert a.federation.presences.of("b.example")
            for relay in (there, here):
                relay.silent, relay.broken = silent, not silent
            if silent:  # nobody says that the connection is gone; the pings tell
                a.federation.limits = replace(a.federation.limits, answer_seconds=0.2)
                romeo.send(f"<message to='{JULIET}/y' type='chat' id='m'><body>Are you there?</body></message>")
            else:
                for relay in (there, here):
                    relay.cut()
            async with asyncio.timeout(30):
                left = {f"{JULIET}/y", "hall@conference.a.example/juliet"}
                while left:
                    if silent:
                        a.federation._sweep()
                    for el in await arrived(romeo):
                        if el.get("type") == "unavailable":
                            left.discard(str(el.get("from")))
            assert not a.federation.presences.of("b.example")
