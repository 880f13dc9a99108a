"""Who is told of what an account publishes: by access, subscription, presence and blocking."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest

from beamish.core.services import BlockingService
from beamish.testing.match import mismatch
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

from .kit import OWNER, PUBSUB, Stage, form, note
from .personal import TUNE, cast, publish, titles


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
