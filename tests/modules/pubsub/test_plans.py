"""Who is told is remembered from one publication to the next; whatever changes it must be seen by the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beamish.modules.pubsub import PubsubModule
from beamish.modules.pubsub.outbox import PLANS, Outbox
from beamish.testing.client import Client

from .kit import OWNER, Stage
from .test_personal import TUNE, cast, publish, titles, tune


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nodes whose recipients were looked up, in order."""
    made: list[str] = []
    plan = Outbox.plan

    def counted(self: Outbox, host: Any, node: Any, *rest: Any, **more: Any) -> Any:
        made.append(node.name)
        return plan(self, host, node, *rest, **more)

    monkeypatch.setattr(Outbox, "plan", counted)
    return made


def outbox_of(stage: Stage) -> Outbox:
    module = stage.kernel.registry.module(PubsubModule)
    return module._outbox


async def remembered(stage: Stage, *clients: Client, plans: list[str], **options: str) -> None:
    """Juliet has published a few times, and the recipients were looked up once too often to be looked up again."""
    juliet = clients[0]
    await stage.set(juliet, publish("One", **options), to="")
    await stage.set(juliet, publish("Two"), to="")
    plans.clear()
    await stage.set(juliet, publish("Three"), to="")
    assert plans == []
    for client in clients:
        await titles(stage, client)


async def configure(stage: Stage, juliet: Client, field: str, value: str) -> None:
    form = (
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>"
        "<value>http://jabber.org/protocol/pubsub#node_config</value></field>"
        f"<field var='pubsub#{field}'><value>{value}</value></field></x>"
    )
    await stage.set(juliet, f"<configure node='{TUNE}'>{form}</configure>", to="", ns=OWNER)


async def cancel(stage: Stage, juliet: Client, romeo: Client) -> None:
    juliet.send("<presence to='romeo@example.org' type='unsubscribed'/>")
    await stage.quiet(juliet)


async def leave_roster(stage: Stage, juliet: Client, romeo: Client) -> None:
    query = "<query xmlns='jabber:iq:roster'><item jid='romeo@example.org' subscription='remove'/></query>"
    await juliet.iq(f"<iq type='set' id='r'>{query}</iq>")


async def block(stage: Stage, juliet: Client, romeo: Client) -> None:
    await juliet.iq(
        "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@example.org'/></block></iq>"
    )


async def lose_interest(stage: Stage, juliet: Client, romeo: Client) -> None:
    stage.caps.of(romeo.jid, "urn:other")


async def be_outcast(stage: Stage, juliet: Client, romeo: Client) -> None:
    outcast = "<affiliation jid='romeo@example.org' affiliation='outcast'/>"
    await stage.set(juliet, f"<affiliations node='{TUNE}'>{outcast}</affiliations>", to="", ns=OWNER)


async def close_node(stage: Stage, juliet: Client, romeo: Client) -> None:
    await configure(stage, juliet, "access_model", "whitelist")


async def go_offline(stage: Stage, juliet: Client, romeo: Client) -> None:
    romeo.send("<presence type='unavailable'/>")
    await stage.quiet(romeo)


@pytest.mark.parametrize(
    "change", [cancel, leave_roster, block, lose_interest, be_outcast, close_node, go_offline], ids=lambda f: f.__name__
)
async def test_who_may_no_longer_is_not_told(
    stage: Stage, plans: list[str], change: Callable[[Stage, Client, Client], Awaitable[None]]
) -> None:
    juliet, romeo, _ = await cast(stage)
    await remembered(stage, juliet, romeo, plans=plans)
    await change(stage, juliet, romeo)
    await titles(stage, romeo)
    await titles(stage, juliet)
    await stage.set(juliet, publish("Four"), to="")
    assert await titles(stage, romeo) == []
    assert await titles(stage, juliet) == ["Four"]


async def befriended(stage: Stage, juliet: Client, mercutio: Client) -> None:
    await stage.befriend(juliet, mercutio)


async def interested(stage: Stage, juliet: Client, mercutio: Client) -> None:
    await stage.befriend(juliet, mercutio)
    stage.caps.of(mercutio.jid, "urn:other")
    await stage.set(juliet, publish("unheard"), to="")
    await stage.set(juliet, publish("unheard"), to="")
    assert await titles(stage, mercutio) == []
    stage.caps.of(mercutio.jid, TUNE)


async def open_node(stage: Stage, juliet: Client, mercutio: Client) -> None:
    """Strangers who direct presence to an account get what is open to all."""
    mercutio.send("<presence to='juliet@example.org'/>")
    await stage.set(juliet, publish("unheard"), to="")
    await configure(stage, juliet, "access_model", "open")


async def directed(stage: Stage, juliet: Client, mercutio: Client) -> None:
    await configure(stage, juliet, "access_model", "open")
    for _ in range(2):
        await stage.set(juliet, publish("unheard"), to="")
    assert await titles(stage, mercutio) == []
    mercutio.send("<presence to='juliet@example.org'/>")


async def subscribed(stage: Stage, juliet: Client, mercutio: Client) -> None:
    stage.caps.of(mercutio.jid)
    await configure(stage, juliet, "access_model", "open")
    await stage.set(juliet, publish("unheard"), to="")
    await stage.subscribe(mercutio, TUNE, to="juliet@example.org")


async def member(stage: Stage, juliet: Client, mercutio: Client) -> None:
    """A member without contact who directs presence to the account."""
    mercutio.send("<presence to='juliet@example.org'/>")
    await stage.set(juliet, publish("unheard"), to="")
    assert await titles(stage, mercutio) == []
    what = "<affiliation jid='mercutio@example.org' affiliation='member'/>"
    await stage.set(juliet, f"<affiliations node='{TUNE}'>{what}</affiliations>", to="", ns=OWNER)


@pytest.mark.parametrize(
    "change", [befriended, interested, open_node, directed, subscribed, member], ids=lambda f: f.__name__
)
async def test_who_may_now_is_told(
    stage: Stage, plans: list[str], change: Callable[[Stage, Client, Client], Awaitable[None]]
) -> None:
    juliet, _, mercutio = await cast(stage)
    await remembered(stage, juliet, mercutio, plans=plans)
    await change(stage, juliet, mercutio)
    await titles(stage, mercutio)
    await stage.set(juliet, publish("Four"), to="")
    assert await titles(stage, mercutio) == ["Four"]


async def test_another_device_is_told_and_one_that_left_is_not(stage: Stage, plans: list[str]) -> None:
    juliet, romeo, _ = await cast(stage)
    await remembered(stage, juliet, romeo, plans=plans)
    stage.caps.of("romeo@example.org/tablet", TUNE)
    await stage.set(juliet, publish("Three"), to="")
    await titles(stage, romeo)
    tablet = await stage.login("romeo@example.org/tablet")
    assert await titles(stage, tablet, 1) == ["Three"]
    await stage.set(juliet, publish("Four"), to="")
    await stage.set(juliet, publish("Five"), to="")
    assert await titles(stage, tablet) == await titles(stage, romeo) == ["Four", "Five"]
    await tablet.close()
    await stage.quiet(romeo)
    outbox = outbox_of(stage)
    assert not outbox._plans  # nothing holds on to the session
    await stage.set(juliet, publish("Six"), to="")
    assert await titles(stage, romeo) == ["Six"]


async def test_a_stranger_who_takes_presence_back_hears_no_more(stage: Stage, plans: list[str]) -> None:
    juliet, _, mercutio = await cast(stage)
    mercutio.send("<presence to='juliet@example.org'/>")
    await remembered(stage, juliet, mercutio, plans=plans, access_model="open")
    await stage.set(juliet, publish("Four"), to="")
    assert await titles(stage, mercutio) == ["Four"]
    mercutio.send("<presence to='juliet@example.org' type='unavailable'/>")
    await stage.quiet(mercutio)
    await stage.set(juliet, publish("Five"), to="")
    assert await titles(stage, mercutio) == []


async def test_nodes_are_remembered_each_by_itself_and_not_all(stage: Stage, plans: list[str]) -> None:
    juliet, romeo, _ = await cast(stage)
    await remembered(stage, juliet, romeo, plans=plans)
    for number in range(PLANS):
        await stage.set(juliet, tune("x", f"urn:node:{number}"), to="")
        await stage.set(juliet, tune("y", f"urn:node:{number}"), to="")
    outbox = outbox_of(stage)
    assert 0 < len(outbox._plans) <= PLANS
    assert await titles(stage, romeo) == []  # of those he wants none
    await stage.set(juliet, publish("Four"), to="")
    assert await titles(stage, romeo) == ["Four"]
