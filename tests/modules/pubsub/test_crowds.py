"""What a change for very many subscribers is to everybody else."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from beamish.core.sessions import Session
from beamish.modules.pubsub import PubsubModule
from beamish.modules.pubsub.model import Host, Node, Subscription
from beamish.modules.pubsub.names import State
from beamish.modules.pubsub.outbox import Outbox
from beamish.modules.pubsub.subscribing import Settled, Subscribing
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

from .kit import OWNER, PUBSUB, SERVICE, Stage, form


async def test_many_who_are_told_leave_turns_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """And who unsubscribes before its turn has come is not told afterwards that it is subscribed."""
    async with World() as world:
        stage = Stage(world)
        romeo = await stage.login("romeo@example.org/orchard")
        juliet = await stage.login("juliet@example.org/balcony")
        await stage.create(romeo, "musings")
        told: list[JID] = []
        turns: list[int] = []
        """How many were told before each turn of the loop."""
        tell = Outbox.subscription_changed

        def counted(self: Outbox, host: Host, node: Node, s: Subscription, state: str = "") -> None:
            if not told:
                juliet.send(
                    f"<iq type='set' id='u' to='{SERVICE}'><pubsub xmlns='{PUBSUB}'>"
                    f"<unsubscribe node='musings' jid='{juliet.jid.bare}'/></pubsub></iq>"
                )
            told.append(s.jid)
            asyncio.get_running_loop().call_soon(lambda: turns.append(len(told)))
            tell(self, host, node, s, state)

        monkeypatch.setattr(Outbox, "subscription_changed", counted)
        many = [f"u{n}@example.net" for n in range(1_200)]
        inner = "".join(f"<subscription jid='{jid}' subscription='subscribed'/>" for jid in [*many, juliet.jid.bare])
        await stage.set(romeo, f"<subscriptions node='musings'>{inner}</subscriptions>", ns=OWNER)
        assert max(after - before for before, after in pairwise([0, *turns])) <= 200
        assert [str(jid) for jid in told] == many
        assert [el.get("id") for el in juliet.inbox] == ["u"]


async def crowd(stage: Stage, many: int) -> None:
    """Subscribers of `musings` elsewhere."""
    module = stage.kernel.registry.module(PubsubModule)
    host = await module._engine.host(JID.parse(SERVICE), account=False)
    for n in range(many):
        host.subscribe(host.nodes["musings"], Subscription(JID.parse(f"u{n}@example.net"), f"s{n}", State.SUBSCRIBED))


@pytest.mark.parametrize(
    ("ns", "request_"),
    [
        (PUBSUB, "<publish node='musings'><item id='2'><entry xmlns='urn:test'/></item></publish>"),
        (PUBSUB, "<retract node='musings' notify='true'><item id='1'/></retract>"),
        (OWNER, "<purge node='musings'/>"),
        (OWNER, "<delete node='musings'/>"),
        (OWNER, f"<configure node='musings'>{form(f'{PUBSUB}#node_config', {'title': 'Musings'})}</configure>"),
    ],
)
async def test_an_event_for_many_leaves_turns_to_others(
    monkeypatch: pytest.MonkeyPatch, ns: str, request_: str
) -> None:
    """Whoever has caused it is answered when all have been told; what others do to the node meanwhile is told after it."""
    async with World() as world:
        stage = Stage(world)
        romeo = await stage.login("romeo@example.org/orchard")
        juliet = await stage.login("juliet@example.org/balcony")
        config = {"publish_model": "open", "notify_config": "1", "notify_retract": "1", "notify_delete": "1"}
        await stage.create(romeo, "musings", **config)
        await stage.publish(romeo, "musings", "1")
        await crowd(stage, 1_200)
        await stage.subscribe(juliet, "musings")
        await stage.quiet(juliet)
        juliet.inbox.clear()
        told: list[JID] = []
        turns: list[int] = []
        answered_after: list[int] = []
        post = world.kernel.router.post

        def counted(stanza: Stanza) -> None:
            if stanza.sender == SERVICE:
                if not told:
                    juliet.send(
                        f"<iq type='set' id='p' to='{SERVICE}'><pubsub xmlns='{PUBSUB}'><publish node='musings'>"
                        "<item id='3'><entry xmlns='urn:test'/></item></publish></pubsub></iq>"
                    )
                assert stanza.to is not None
                told.append(stanza.to)
                asyncio.get_running_loop().call_soon(lambda: turns.append(len(told)))
                answered_after[:] = [len(told)]
            post(stanza)

        monkeypatch.setattr(world.kernel.router, "post", counted)
        await stage.set(romeo, request_, ns=ns)
        assert answered_after[0] >= 1_201
        await world.settle()
        assert max(after - before for before, after in pairwise([0, *turns])) <= 200
        first, second = told[:1_201], told[1_201:]
        assert str(first[-1]) == "juliet@example.org"
        deleted = "<delete" in request_
        assert second == ([] if deleted else first)
        events = [el for el in juliet.inbox if el.tag == "{jabber:client}message"]
        assert [el.find(".//{*}item[@id='3']") is not None for el in events] == ([False] if deleted else [False, True])


async def test_another_access_model_for_many_leaves_turns_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """XEP-0163 §8.1: who may not be subscribed any more is so no longer when the owner is answered."""
    async with World() as world:
        stage = Stage(world)
        romeo = await stage.login("romeo@example.org/orchard")
        await stage.create(romeo, "musings")
        await crowd(stage, 1_200)
        ended: list[JID] = []
        turns: list[int] = []
        put = Subscribing.put

        def counted(self: Subscribing, host: Host, node: Node, s: Subscription, state: State) -> Settled:
            ended.append(s.jid)
            asyncio.get_running_loop().call_soon(lambda: turns.append(len(ended)))
            return put(self, host, node, s, state)

        monkeypatch.setattr(Subscribing, "put", counted)
        whitelist = form(f"{PUBSUB}#node_config", {"access_model": "whitelist"})
        await stage.set(romeo, f"<configure node='musings'>{whitelist}</configure>", ns=OWNER)
        assert len(ended) == 1_200
        assert max(after - before for before, after in pairwise([0, *turns])) <= 500
        got = await stage.get(romeo, "<subscriptions node='musings'/>", ns=OWNER)
        assert got.findall(".//{*}subscription") == []


async def test_resources_that_only_direct_presence_are_not_compared_with_one_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands may do that (`PER_ADDRESS`); each of them was looked for among all before it."""
    async with World() as world:
        stage = Stage(world)
        romeo = await stage.login("romeo@example.org/orchard")
        await stage.create(romeo, "urn:mood", to="", access_model="open")
        nurses = [await stage.login(f"nurse@example.org/{n}") for n in range(8)]
        for nurse in nurses:
            stage.caps.of(nurse.jid, "urn:mood")
            nurse.send("<presence to='romeo@example.org'/>")
            await stage.quiet(nurse)
            nurse.inbox.clear()
        compared: list[object] = []

        def same(self: Session, other: object) -> bool:
            compared.append(other)
            return self is other

        monkeypatch.setattr(Session, "__eq__", same)
        await stage.publish(romeo, "urn:mood", "1", to="")
        for nurse in nurses:
            assert await stage.ids(nurse) == ["1"]
        assert compared == []
