"""XEP-0163 §4.3.3 and XEP-0312: the last items of accounts, for those who appear, come back or are let in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from beamish.core.services import RosterItem, RosterService
from beamish.modules.pubsub import PubsubModule
from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.model import Item, Node
from beamish.testing.client import Client
from beamish.xmpp.jid import JID

from .kit import EVENT, OWNER, PUBSUB, Stage, form
from .personal import MOOD, TUNE, cast, publish, titles, tune


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
