"""XEP-0163 and XEP-0060 §9: nodes of accounts, interests, and what presence does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from beamish.core.services import BlockingService, PepService, RosterItem, RosterService
from beamish.modules.pubsub import PubsubModule
from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.model import Item, Node
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

from .kit import EVENT, OWNER, PATIENT, PUBSUB, Stage, form, note

TUNE = "http://jabber.org/protocol/tune"
MOOD = "http://jabber.org/protocol/mood"
OPTIONS = f"{PUBSUB}#publish-options"


async def cast(stage: Stage) -> tuple[Client, Client, Client]:
    """Juliet, her friend Romeo, and Mercutio whom she does not know. All are interested in tunes."""
    juliet = await stage.login("juliet@example.org/balcony")
    romeo = await stage.login("romeo@example.org/orchard")
    mercutio = await stage.login("mercutio@example.org/street")
    await stage.befriend(juliet, romeo)
    for client in (juliet, romeo, mercutio):
        stage.caps.of(client.jid, TUNE)
    return juliet, romeo, mercutio


def tune(title: str, node: str = TUNE, id: str = "current") -> str:
    return f"<publish node='{node}'><item id='{id}'><tune xmlns='{TUNE}'><title>{title}</title></tune></item></publish>"


def publish(title: str, **options: str) -> str:
    if not options:
        return tune(title)
    return tune(title) + f"<publish-options>{form(OPTIONS, options)}</publish-options>"


async def titles(stage: Stage, who: Client, wanted: int = 0) -> list[str]:
    """The titles of the tunes in the notifications that have arrived; `wanted` of them are waited for.

    What is known already is sent when it has been read from the database, by which time other requests may be answered.
    """
    async with asyncio.timeout(10):
        while True:
            await stage.quiet(who)
            events = [el for el in who.inbox if el.find(f".//{{{EVENT}}}item") is not None]
            if len(events) >= wanted:
                break
    who.inbox.clear()
    return [el.findtext(f".//{{{TUNE}}}title") or "" for el in events]


async def test_163_examples_001_002_003_publish_and_notify(stages: Stage) -> None:
    juliet, romeo, mercutio = await cast(stages)
    got = await stages.set(juliet, publish("Heroes"), to="")
    assert not mismatch(f"<iq type='result'><pubsub xmlns='{PUBSUB}'><publish node='{TUNE}'/></pubsub></iq>", got)
    for client in (juliet, romeo):
        await client.expect(
            f"""<message from='juliet@example.org' to='{client.jid}' type='headline' id='*'>
            <event xmlns='{EVENT}'><items node='{TUNE}'><item id='current'><tune xmlns='{TUNE}'>
            <title>Heroes</title></tune></item></items></event>
            <addresses xmlns='http://jabber.org/protocol/address'>
            <address type='replyto' jid='juliet@example.org/balcony'/></addresses></message>"""
        )
    assert await titles(stages, mercutio) == []


async def test_163_defaults_of_a_node_that_is_made_by_publishing(stages: Stage) -> None:
    juliet, _, mercutio = await cast(stages)
    await stages.set(juliet, publish("One"), to="")
    await stages.set(juliet, tune("Two", id="second"), to="")
    got = await stages.get(juliet, f"<configure node='{TUNE}'/>", to="", ns=OWNER)
    for name, value in (
        ("access_model", "presence"),
        ("send_last_published_item", "on_sub_and_presence"),
        ("deliver_notifications", "1"),
        ("deliver_payloads", "1"),
        ("persist_items", "1"),
        ("max_items", "1"),
    ):
        assert got.findtext(f".//{{jabber:x:data}}field[@var='pubsub#{name}']/{{jabber:x:data}}value") == value
    assert await stages.items(juliet, TUNE, to="juliet@example.org") == ["second"]
    request = f"<items node='{TUNE}'/>"
    conditions = "not-authorized", "presence-subscription-required"
    await stages.refused(mercutio, "get", request, *conditions, to="juliet@example.org", kind="auth")
    await stages.refused(mercutio, "set", publish("Mine"), "forbidden", to="juliet@example.org")
    await stages.refused(mercutio, "set", "<create node='x'/>", "forbidden", to="juliet@example.org")


async def test_163_example_005_own_and_others_discovery(stages: Stage) -> None:
    juliet, romeo, mercutio = await cast(stages)
    info = "http://jabber.org/protocol/disco#info"
    got = await juliet.iq(f"<iq type='get' id='i' to='juliet@example.org'><query xmlns='{info}'/></iq>")
    said = {f.get("var") for f in got.iterfind(f".//{{{info}}}feature")}
    assert got.find(f".//{{{info}}}identity[@category='pubsub'][@type='pep']") is not None
    for name in ("auto-create", "auto-subscribe", "filtered-notifications", "publish-options", "access-presence"):
        assert f"{PUBSUB}#{name}" in said
    await stages.set(juliet, publish("x"), to="")
    await stages.create(juliet, "open-one", to="juliet@example.org", access_model="open")
    await stages.create(juliet, "private", to="juliet@example.org", access_model="whitelist")
    items = "http://jabber.org/protocol/disco#items"
    for client, expected in (
        (juliet, {TUNE, "open-one", "private"}),
        (romeo, {TUNE, "open-one"}),
        (mercutio, {"open-one"}),
    ):
        got = await client.iq(f"<iq type='get' id='d' to='juliet@example.org'><query xmlns='{items}'/></iq>")
        nodes = {i.get("node") for i in got.iterfind(f".//{{{items}}}item") if i.get("node")}
        assert nodes == expected
    got = await romeo.iq(f"<iq type='get' id='d' to='juliet@example.org'><query xmlns='{items}' node='{TUNE}'/></iq>")
    assert [i.get("name") for i in got.iterfind(f".//{{{items}}}item")] == ["current"]
    got = await romeo.iq(f"<iq type='get' id='d' to='juliet@example.org'><query xmlns='{info}' node='{TUNE}'/></iq>")
    assert got.find(f".//{{{info}}}identity[@category='pubsub'][@type='leaf']") is not None


async def test_strangers_may_ask_about_nodes_that_are_open_to_them(stages: Stage) -> None:
    juliet, _, mercutio = await cast(stages)
    await stages.set(juliet, publish("x"), to="")
    await stages.create(juliet, "open-one", to="juliet@example.org", access_model="open")
    info = "http://jabber.org/protocol/disco#info"
    question = f"<iq type='get' id='d' to='juliet@example.org'><query xmlns='{info}' node='{{}}'/></iq>"
    got = await mercutio.iq(question.format("open-one"))
    assert got.find(f".//{{{info}}}identity[@category='pubsub'][@type='leaf']") is not None
    for hidden in (TUNE, "nothing"):
        got = await mercutio.iq(question.format(hidden), "error")
        assert got.find(".//{*}service-unavailable") is not None, hidden


async def test_163_only_those_who_are_interested(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    phone = await stages.login("juliet@example.org/phone")
    stages.caps.of(phone.jid, MOOD)
    other = await stages.login("romeo@example.org/tablet")
    await stages.set(juliet, publish("Heroes"), to="")
    assert await titles(stages, romeo, 1) == ["Heroes"]
    assert await titles(stages, phone) == []
    assert await titles(stages, other) == []
    await stages.set(
        juliet, f"<publish node='{MOOD}'><item><mood xmlns='{MOOD}'><happy/></mood></item></publish>", to=""
    )
    await stages.quiet(phone)
    assert [el.find(f".//{{{EVENT}}}items").get("node") for el in phone.inbox] == [MOOD]  # type: ignore[union-attr]
    await stages.quiet(romeo)
    assert not romeo.inbox


async def test_163_examples_006_to_008_last_item_on_presence(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    await stages.set(juliet, publish("Heroes"), to="")
    await stages.quiet(romeo)
    tablet = await stages.login("romeo@example.org/tablet")
    await stages.quiet(tablet)
    tablet.inbox.clear()
    stages.caps.of(tablet.jid, TUNE)
    got = await tablet.expect(
        f"""<message from='juliet@example.org' to='romeo@example.org/tablet' type='headline'><event xmlns='{EVENT}'>
        <items node='{TUNE}'><item id='current'/></items></event><delay xmlns='urn:xmpp:delay' stamp='*'/></message>"""
    )
    assert got.findtext(f".//{{{TUNE}}}title") == "Heroes"
    stages.caps.of(tablet.jid, TUNE, MOOD)
    tablet.send("<presence><show>away</show></presence>")
    assert await titles(stages, tablet) == []


async def test_interests_known_before_the_presence_are_served_with_it(stages: Stage) -> None:
    juliet, _, _ = await cast(stages)
    await stages.set(juliet, publish("Heroes"), to="")
    stages.caps.of("romeo@example.org/tablet", TUNE)
    stages.caps.of("juliet@example.org/phone", TUNE)
    tablet = await stages.login("romeo@example.org/tablet")
    assert await titles(stages, tablet, 1) == ["Heroes"]
    phone = await stages.login("juliet@example.org/phone")
    assert await titles(stages, phone, 1) == ["Heroes"]
    tablet.send("<presence type='unavailable'/>")
    assert await titles(stages, tablet) == []
    tablet.send("<presence/>")
    assert await titles(stages, tablet, 1) == ["Heroes"]


async def test_an_interest_that_comes_back_gets_what_it_missed(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    await stages.set(juliet, publish("Heroes"), to="")
    assert await titles(stages, romeo, 1) == ["Heroes"]
    stages.caps.of(romeo.jid, MOOD)
    await stages.set(juliet, publish("Changes"), to="")
    assert await titles(stages, romeo) == []
    stages.caps.of(romeo.jid, MOOD, TUNE)
    assert await titles(stages, romeo, 1) == ["Changes"]


async def test_312_what_was_missed(stage: Stage) -> None:
    juliet, _, _ = await cast(stage)
    await stage.set(juliet, publish("Old", max_items="10"), to="")
    await stage.world.pass_time(3600)
    for title in ("One", "Two"):
        await stage.set(juliet, tune(title, id=title), to="")
    stage.caps.of("romeo@example.org/tablet", TUNE)
    for secs, expected in (("1000", ["One", "Two"]), ("9999", ["Old", "One", "Two"]), ("soon", ["Two"])):
        tablet = await stage.login("romeo@example.org/tablet", presence=False)
        tablet.send(f"<presence><ago xmlns='urn:xmpp:ago:0' secs='{secs}'/></presence>")
        assert await titles(stage, tablet) == expected
    await stage.world.pass_time(3600)
    tablet = await stage.login("romeo@example.org/tablet", presence=False)
    tablet.send("<presence><ago xmlns='urn:xmpp:ago:0' secs='60'/></presence>")
    assert await titles(stage, tablet) == []


async def test_312_what_was_missed_at_a_service(stage: Stage) -> None:
    juliet, romeo, _ = await cast(stage)
    await stage.create(juliet, "news")
    await stage.subscribe(romeo, "news")
    for id_ in ("a", "b", "c"):
        await stage.publish(juliet, "news", id_)
    tablet = await stage.login("romeo@example.org/tablet", presence=False)
    tablet.send("<presence><ago xmlns='urn:xmpp:ago:0' secs='60'/></presence>")
    assert await stage.ids(tablet) == ["a", "b", "c"]


async def test_nothing_is_sent_on_presence_where_it_is_never_sent(stages: Stage) -> None:
    juliet, _, _ = await cast(stages)
    await stages.set(juliet, publish("Heroes", send_last_published_item="never"), to="")
    stages.caps.of("romeo@example.org/tablet", TUNE)
    tablet = await stages.login("romeo@example.org/tablet")
    assert await titles(stages, tablet) == []


async def test_resources_that_are_not_available_get_nothing(stages: Stage) -> None:
    juliet, _, _ = await cast(stages)
    stages.caps.of("romeo@example.org/tablet", TUNE)
    tablet = await stages.login("romeo@example.org/tablet", presence=False)
    await stages.set(juliet, publish("Heroes"), to="")
    assert await titles(stages, tablet) == []


@pytest.mark.parametrize("model", ["presence", "roster", "whitelist", "open", "authorize"])
async def test_access_models_decide_who_is_told(stage: Stage, model: str) -> None:
    juliet, romeo, mercutio = await cast(stage)
    nurse = await stage.login("nurse@example.org/chamber")
    await stage.befriend(juliet, nurse)
    stage.caps.of(nurse.jid, TUNE)
    item = "<item jid='romeo@example.org'><group>Friends</group></item>"
    await juliet.iq(f"<iq type='set' id='r'><query xmlns='jabber:iq:roster'>{item}</query></iq>")
    options = {"access_model": model}
    if model == "roster":
        options["roster_groups_allowed"] = "Friends"
    await stage.set(juliet, publish("Heroes", **options), to="")
    expected = {"presence": "rn", "roster": "r", "whitelist": "", "open": "rn", "authorize": ""}[model]
    assert await titles(stage, romeo) == ["Heroes"] * ("r" in expected)
    assert await titles(stage, nurse) == ["Heroes"] * ("n" in expected)
    assert await titles(stage, mercutio) == []
    assert await titles(stage, juliet) == ["Heroes"]


async def test_only_the_approved_follow_a_node_whose_owner_approves(stages: Stage) -> None:
    """§9.1.2: sharing presence is no subscription to a node with access by approval, neither now nor on presence."""
    juliet, romeo, mercutio = await cast(stages)
    await stages.set(juliet, publish("One", access_model="authorize"), to="")
    stages.caps.of("romeo@example.org/tablet", TUNE)
    tablet = await stages.login("romeo@example.org/tablet")
    assert await titles(stages, tablet) == []
    assert await titles(stages, romeo) == []
    await stages.quiet(juliet)
    juliet.inbox.clear()
    await stages.set(romeo, f"<subscribe node='{TUNE}' jid='romeo@example.org'/>", to="juliet@example.org")
    asked = await juliet.expect("<message from='juliet@example.org'><x xmlns='jabber:x:data' type='form'/></message>")
    subid = asked.findtext(".//{jabber:x:data}field[@var='pubsub#subid']/{jabber:x:data}value") or ""
    decision = {"subid": subid, "node": TUNE, "subscriber_jid": "romeo@example.org", "allow": "1"}
    answer = f"<message to='juliet@example.org' id='d'>{form(f'{PUBSUB}#subscribe_authorization', decision)}</message>"
    mercutio.send(answer)
    await mercutio.expect(
        "<message type='error'><error><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    juliet.send(answer)
    await romeo.expect(note(f"<subscription node='{TUNE}' subscription='subscribed'/>"))
    await stages.quiet(juliet)
    assert not juliet.inbox  # none of this was for her to read
    await titles(stages, romeo)
    await titles(stages, tablet)
    await stages.set(juliet, publish("Two", access_model="authorize"), to="")
    assert await titles(stages, romeo, 1) == ["Two"]
    assert await titles(stages, tablet, 1) == ["Two"]
    assert await titles(stages, mercutio) == []


async def test_whitelisted_node_with_a_member(stages: Stage) -> None:
    juliet, romeo, mercutio = await cast(stages)
    await stages.set(juliet, publish("One", access_model="whitelist"), to="")
    change = f"<affiliations node='{TUNE}'><affiliation jid='romeo@example.org' affiliation='member'/></affiliations>"
    await stages.set(juliet, change, to="", ns=OWNER)
    await stages.quiet(romeo, mercutio)
    romeo.inbox.clear()
    await stages.set(juliet, publish("Two", access_model="whitelist"), to="")
    assert await titles(stages, romeo, 1) == ["Two"]
    assert await stages.items(romeo, TUNE, to="juliet@example.org") == ["current"]
    own = f"<affiliations node='{TUNE}'><affiliation jid='juliet@example.org' affiliation='none'/></affiliations>"
    await stages.iq(juliet, "set", own, to="", ns=OWNER, answer="error")


async def test_explicit_subscription_to_an_account(stages: Stage) -> None:
    juliet, romeo, mercutio = await cast(stages)
    await stages.set(juliet, publish("One", access_model="open"), to="")
    await stages.subscribe(mercutio, TUNE, to="juliet@example.org")
    assert await titles(stages, mercutio, 1) == ["One"]
    await stages.subscribe(romeo, TUNE, to="juliet@example.org")
    await titles(stages, romeo)
    await stages.set(juliet, publish("Two"), to="")
    assert await titles(stages, mercutio, 1) == ["Two"]
    assert await titles(stages, romeo, 1) == ["Two"]
    got = await stages.get(mercutio, "<subscriptions/>", to="juliet@example.org")
    assert len(got.findall(f".//{{{PUBSUB}}}subscription")) == 1


async def test_full_address_that_subscribed_is_told_once(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    await stages.set(juliet, publish("One"), to="")
    await stages.subscribe(romeo, TUNE, str(romeo.jid), to="juliet@example.org")
    await titles(stages, romeo)
    await stages.set(juliet, publish("Two"), to="")
    assert await titles(stages, romeo, 1) == ["Two"]


async def test_contact_lost_is_subscription_lost(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    await stages.set(juliet, publish("One"), to="")
    await stages.subscribe(romeo, TUNE, to="juliet@example.org")
    await stages.quiet(romeo)
    romeo.inbox.clear()
    juliet.send("<presence to='romeo@example.org' type='unsubscribed'/>")
    await stages.quiet(juliet, romeo)
    found = [el for el in romeo.inbox if el.tag == "{jabber:client}message"]
    assert not mismatch(note(f"<subscription node='{TUNE}' jid='romeo@example.org' subscription='none'/>"), found[0])
    romeo.inbox.clear()
    await stages.set(juliet, publish("Two"), to="")
    assert await titles(stages, romeo) == []


async def test_contact_gained_gets_the_last_items(stages: Stage) -> None:
    juliet, _, mercutio = await cast(stages)
    await stages.set(juliet, publish("One"), to="")
    mercutio.send("<presence to='juliet@example.org' type='subscribe'/>")
    await stages.quiet(mercutio)
    juliet.send("<presence to='mercutio@example.org' type='subscribed'/>")
    await stages.quiet(juliet)
    assert await titles(stages, mercutio, 1) == ["One"]


async def test_wider_access_sends_the_last_item(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    await stages.set(juliet, publish("One", access_model="whitelist"), to="")
    assert await titles(stages, romeo) == []
    wider = form(f"{PUBSUB}#node_config", {"access_model": "presence"})
    await stages.set(juliet, f"<configure node='{TUNE}'>{wider}</configure>", to="", ns=OWNER)
    assert await titles(stages, romeo, 1) == ["One"]
    await titles(stages, juliet)


async def test_publish_options_make_private_nodes_and_guard_them(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    private = {"persist_items": "true", "access_model": "whitelist", "max_items": "max"}
    await stages.set(juliet, publish("One", **private), to="")
    await stages.set(juliet, publish("Two", **private), to="")
    assert await titles(stages, romeo) == []
    request = publish("Three", access_model="open")
    await stages.refused(juliet, "set", request, "conflict", "precondition-not-met", to="", kind="cancel")
    request = f"<items node='{TUNE}'/>"
    await stages.refused(romeo, "get", request, "not-allowed", "closed-node", to="juliet@example.org")
    request = publish("Bad", nonsense="1").replace(TUNE, "urn:fresh")
    await stages.refused(juliet, "set", request, "bad-request", "precondition-not-met", to="")
    await stages.refused(juliet, "get", "<items node='urn:fresh'/>", "item-not-found", to="")


async def test_the_error_for_a_node_that_does_not_exist_has_its_number(stages: Stage) -> None:
    """Profanity 0.13 makes the list of its devices when it reads that, and never looks at the condition."""
    romeo = await stages.login("romeo@example.org/orchard")
    romeo.send(
        "<iq type='get' id='devices'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
        "<items node='eu.siacs.conversations.axolotl.devicelist'/></pubsub></iq>"
    )
    answer = await romeo.expect("<iq type='error' id='devices'/>")
    [error] = answer.findall("{jabber:client}error")
    assert dict(error.attrib) == {"type": "cancel", "code": "404"}
    assert error[0].tag == "{urn:ietf:params:xml:ns:xmpp-stanzas}item-not-found"


async def test_retraction_and_deletion_reach_those_who_are_interested(stages: Stage) -> None:
    juliet, romeo, _ = await cast(stages)
    await stages.set(juliet, publish("One"), to="")
    await stages.quiet(romeo)
    romeo.inbox.clear()
    await stages.set(juliet, f"<retract node='{TUNE}' notify='1'><item id='current'/></retract>", to="")
    await romeo.expect(note(f"<items node='{TUNE}'><retract id='current'/></items>", sender="juliet@example.org"))
    await stages.set(juliet, publish("Two"), to="")
    await romeo.receive()
    await stages.set(juliet, f"<purge node='{TUNE}'/>", to="", ns=OWNER)
    await romeo.expect(note(f"<purge node='{TUNE}'/>"))
    await stages.set(juliet, f"<delete node='{TUNE}'/>", to="", ns=OWNER)
    await romeo.expect(note(f"<delete node='{TUNE}'/>"))


async def test_occupants_of_rooms_elsewhere_are_told_nothing(stage: Stage) -> None:
    """Their presence comes with capabilities, but from the room, where nobody is to learn an account's address by events."""
    juliet, _, _ = await cast(stage)
    await stage.set(juliet, publish("One", access_model="open"), to="")
    sent: list[Stanza] = []
    stage.kernel.router.add_service("rooms.example", lambda ctx: sent.append(ctx.stanza))
    occupant = JID.parse("cave@rooms.example/tybalt")
    stage.caps.of(occupant, TUNE)
    inside = b"<x xmlns='http://jabber.org/protocol/muc#user'><item affiliation='none' role='participant'/></x>"
    stage.kernel.router.post(Stanza.build("presence", sender=occupant, to=juliet.jid, content=inside))
    await stage.world.settle()
    await stage.set(juliet, publish("Two"), to="")
    assert sent == []


async def test_presence_of_other_servers_counts(stage: Stage) -> None:
    juliet, _, _ = await cast(stage)
    await stage.set(juliet, publish("One", access_model="open"), to="")
    sent: list[Stanza] = []
    stage.kernel.router.add_service("far.example", lambda ctx: sent.append(ctx.stanza))
    far = JID.parse("tybalt@far.example/sword")
    stage.caps.of(far, TUNE)

    async def arrives(type: str = "", inner: bytes = b"") -> None:
        to = JID.parse("juliet@example.org")
        stage.kernel.router.post(Stanza.build("presence", type, sender=far, to=to, content=inner))
        await stage.world.settle()

    await arrives()
    (last,) = sent
    assert last.to == far
    assert b"delay" in last.body
    assert b"addresses" not in last.body
    await arrives()
    assert len(sent) == 1
    await stage.set(juliet, publish("Two"), to="")
    assert [s.to for s in sent] == [far, far]
    assert b"addresses" not in sent[1].body  # a stranger does not learn the resource
    closed = form(f"{PUBSUB}#node_config", {"access_model": "presence"})
    await stage.set(juliet, f"<configure node='{TUNE}'>{closed}</configure>", to="", ns=OWNER)
    await stage.set(juliet, publish("Three"), to="")
    assert len(sent) == 2
    far_presence = form(f"{PUBSUB}#node_config", {"access_model": "open"})
    await stage.set(juliet, f"<configure node='{TUNE}'>{far_presence}</configure>", to="", ns=OWNER)
    assert len(sent) == 3  # access regained
    stage.caps.of(far)
    await stage.set(juliet, publish("Four"), to="")
    assert len(sent) == 3
    stage.caps.of(far, TUNE)
    await stage.world.settle()
    assert b"Four" in sent[3].body  # the interest came back
    await arrives("unavailable")
    await stage.set(juliet, publish("Five"), to="")
    assert len(sent) == 4


async def test_blocking_hooks_see_notifications(stage: Stage) -> None:
    from beamish.core import events
    from beamish.core.events import Context
    from beamish.core.hooks import STOP, Row, Verdict

    juliet, romeo, _ = await cast(stage)

    def refuse(ctx: Context) -> Verdict | None:
        blocked = ctx.stanza.sender == "juliet@example.org" and ctx.stanza.to is not None
        return STOP if blocked and ctx.stanza.to.bare == "romeo@example.org" else None  # type: ignore[union-attr]

    stage.kernel.hooks[events.incoming].add(Row(50, "test", refuse, guarded=True))
    for session in stage.kernel.sessions.of(romeo.jid.bare).all:
        session.guarded = True
    await stage.set(juliet, publish("One"), to="")
    assert await titles(stage, romeo) == []
    assert await titles(stage, juliet) == ["One"]


@pytest.mark.parametrize("later", [False, True])
async def test_blocked_contacts_are_not_told(stage: Stage, later: bool) -> None:
    """XEP-0163 §4.3.3, whether what is blocked is in memory or has to be looked up first."""
    juliet, romeo, mercutio = await cast(stage)

    class Blocking:
        loaded = not later

        def shows(self, session: object) -> None:
            return None

        def asks(self, session: object) -> None:
            return None

        def has_lists(self, owner: JID) -> bool:
            return owner == "juliet@example.org"

        def hidden(self, owner: JID, peer: JID) -> bool | Awaitable[bool]:
            blocked = owner == "juliet@example.org" and peer in ("romeo@example.org", "mercutio@example.org")
            return blocked if self.loaded else self._load(blocked)

        async def _load(self, blocked: bool) -> bool:
            self.loaded = True
            return blocked

    stage.kernel.provide(BlockingService, Blocking())
    await stage.set(juliet, publish("One", access_model="open"), to="")
    await stage.subscribe(mercutio, TUNE, to="juliet@example.org")
    await titles(stage, mercutio)
    Blocking.loaded = not later
    await stage.set(juliet, publish("Two"), to="")
    assert await titles(stage, juliet) == ["One", "Two"]
    assert await titles(stage, romeo) == []
    assert await titles(stage, mercutio) == []
    stage.caps.of("romeo@example.org/tablet", TUNE)
    tablet = await stage.login("romeo@example.org/tablet")
    assert await titles(stage, tablet) == []


async def test_nodes_survive_a_restart() -> None:
    db = MemoryDatabase()
    async with World(database=db, settings=PATIENT) as world:
        stage = Stage(world)
        juliet, romeo, mercutio = await cast(stage)
        await stage.set(juliet, publish("One", access_model="open", max_items="5"), to="")
        await stage.set(juliet, tune("Two", id="second"), to="")
        await stage.subscribe(mercutio, TUNE, to="juliet@example.org", include_body="1")
        change = (
            f"<affiliations node='{TUNE}'><affiliation jid='nurse@example.org' affiliation='outcast'/></affiliations>"
        )
        await stage.set(juliet, change, to="", ns=OWNER)
    async with World(database=db, settings=PATIENT) as world:
        stage = Stage(world)
        stage.caps.of("romeo@example.org/orchard", TUNE)
        romeo = await stage.login("romeo@example.org/orchard")
        assert await titles(stage, romeo) == ["Two"]
        assert await stage.items(romeo, TUNE, to="juliet@example.org") == ["current", "second"]
        mercutio = await stage.login("mercutio@example.org/street")
        juliet = await stage.login("juliet@example.org/balcony")
        await stage.set(juliet, tune("Three", id="third"), to="")
        assert await titles(stage, mercutio) == ["Three"]
        nurse = await stage.login("nurse@example.org/chamber")
        await stage.refused(nurse, "get", f"<items node='{TUNE}'/>", "forbidden", to="juliet@example.org")
    await db.close()


async def test_limits_of_an_account() -> None:
    bounds = {"max_nodes_per_account": 2, "max_stored_per_account": 2048}
    async with World(settings={"modules": {"pubsub": bounds}}) as world:
        stage = Stage(world)
        juliet = await stage.login("juliet@example.org/balcony")
        for node in ("a", "b"):
            await stage.publish(juliet, node, "1", to="juliet@example.org")
        request = "<publish node='c'><item><x xmlns='urn:x'/></item></publish>"
        await stage.refused(juliet, "set", request, "resource-constraint", "max-nodes-exceeded", to="")
        request = f"<publish node='a'><item><x xmlns='urn:x'>{'x' * 2000}</x></item></publish>"
        await stage.refused(juliet, "set", request, "resource-constraint", to="")
        await stage.publish(juliet, "a", "2", to="juliet@example.org")


async def test_removed_accounts_leave_nothing(stage: Stage) -> None:
    from beamish.core.services import AccountsService

    juliet, romeo, _ = await cast(stage)
    await stage.set(juliet, publish("One"), to="")
    await stage.create(juliet, "hers")
    await stage.create(romeo, "his")
    await stage.subscribe(juliet, "his")
    await stage.set(romeo, tune("Two"), to="")
    await stage.subscribe(juliet, TUNE, to="romeo@example.org")
    await stage.subscribe(juliet, TUNE, str(juliet.jid), to="romeo@example.org")
    trusted = "<affiliation jid='juliet@example.org' affiliation='publisher'/>"
    await stage.set(romeo, f"<affiliations node='{TUNE}'>{trusted}</affiliations>", to="", ns=OWNER)
    await stage.kernel.service(AccountsService).remove(JID.parse("juliet@example.org"))
    assert await stage.world.db.fetch("SELECT * FROM pubsub_subscription") == []
    assert await stage.world.db.fetch("SELECT publisher FROM pubsub_item") == [("romeo@example.org",)]
    assert await stage.world.db.fetch("SELECT name FROM pubsub_node ORDER BY id") == [("his",), (TUNE,)]
    assert await stage.world.db.fetch("SELECT jid FROM pubsub_affiliation") == [("romeo@example.org",)] * 2


async def test_other_modules_publish_through_the_service(stage: Stage) -> None:
    juliet, romeo, _ = await cast(stage)
    pep = stage.kernel.service(PepService)
    user = JID.parse("juliet@example.org")
    assert await pep.access(user, TUNE) is None
    assert await pep.items(user, TUNE) == {}
    payload = f"<tune xmlns='{TUNE}'><title>Auto</title></tune>".encode()
    await pep.publish(user, TUNE, {"a": payload}, {"max_items": "max", "access_model": "open"})
    assert await titles(stage, romeo) == ["Auto"]
    assert await pep.access(user, TUNE) == "open"
    await pep.publish(user, TUNE, {"b": payload}, {"access_model": "whitelist"})
    assert await pep.access(user, TUNE) == "open"
    assert list(await pep.items(user, TUNE)) == ["a", "b"]
    await pep.retract(user, TUNE, ["a", "never"])
    assert list(await pep.items(user, TUNE)) == ["b"]
    await pep.retract(user, "urn:none", ["a"])
    await titles(stage, juliet)


async def test_omemo_devices_and_bundles(stages: Stage) -> None:
    """What two OMEMO clients do with each other's accounts (XEP-0384 §4)."""
    omemo = "urn:xmpp:omemo:2"
    juliet, romeo, mercutio = await cast(stages)
    stages.caps.of(romeo.jid, f"{omemo}:devices")
    devices = f"<devices xmlns='{omemo}'><device id='12345'/></devices>"
    listed = f"<publish node='{omemo}:devices'><item id='current'>{devices}</item></publish>"
    open_ = f"<publish-options>{form(OPTIONS, {'access_model': 'open'})}</publish-options>"
    await stages.set(juliet, listed + open_, to="")
    got = await romeo.expect(note(f"<items node='{omemo}:devices'><item id='current'/></items>"))
    assert got.find(f".//{{{omemo}}}device").get("id") == "12345"  # type: ignore[union-attr]
    bundle = f"<bundle xmlns='{omemo}'><ik>{'QUJD' * 10}</ik></bundle>"
    many = f"<publish-options>{form(OPTIONS, {'access_model': 'open', 'max_items': 'max'})}</publish-options>"
    for id_ in ("12345", "67890"):
        await stages.set(
            juliet, f"<publish node='{omemo}:bundles'><item id='{id_}'>{bundle}</item></publish>{many}", to=""
        )
    got = await stages.get(
        mercutio, f"<items node='{omemo}:bundles'><item id='67890'/></items>", to="juliet@example.org"
    )
    assert got.findtext(f".//{{{omemo}}}ik") == "QUJD" * 10
    assert await stages.items(mercutio, f"{omemo}:devices", to="juliet@example.org") == ["current"]


async def test_others_have_their_turn_while_last_items_are_sent(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of it is in memory."""
    romeo = await stage.login("romeo@example.org/orchard")
    nurse = await stage.login("nurse@example.org/house")
    rosters = stage.kernel.service(RosterService)
    (module,) = [module for module in stage.kernel.registry.modules if isinstance(module, PubsubModule)]
    for number in range(45):
        contact = JID(f"c{number}@example.org")
        await rosters.change(JID("romeo@example.org"), RosterItem(contact, to=True))
        await rosters.change(contact, RosterItem(JID("romeo@example.org"), from_=True))
        host = await module._engine.host(contact, account=True)
        host.add(Node(number + 1, TUNE, contact, 0.0, NodeConfig(access_model="presence")))
        host.nodes[TUNE].last = Item("i", b"<tune/>", contact, stage.world.clock.now())
        host.nodes[TUNE].last_known = True
    order: list[str] = []
    ping = "<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>"
    for client in (romeo, nurse):

        def feed(data: bytes, client: Client = client, feed: Callable[[bytes], None] = client.feed) -> None:
            if not order:
                asyncio.get_running_loop().call_soon(nurse.send, ping)
            order.extend([client.jid.local] * (data.count(b"<message") or 1))
            feed(data)

        monkeypatch.setattr(client, "feed", feed)
    stage.caps.of(romeo.jid, TUNE)
    await stage.quiet(romeo, nurse)
    assert order.count("romeo") == 45 and order.count("nurse") == 1
    assert order.index("nurse") <= 20
