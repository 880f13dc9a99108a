"""What a change for very many subscribers is to everybody else."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from beamish.modules.pubsub.model import Host, Node, Subscription
from beamish.modules.pubsub.outbox import Outbox
from beamish.testing.world import World
from beamish.xmpp.jid import JID

from .kit import OWNER, PUBSUB, SERVICE, Stage


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
