"""Looks by the clock hold up nobody, and end what is over wherever it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from beamish.modules.pubsub import PubsubModule, due
from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.model import Host, Node, Subscription
from beamish.modules.pubsub.names import State
from beamish.modules.pubsub.options import Options
from beamish.storage.api import StorageUnavailable
from beamish.xmpp.jid import JID

from .kit import EVENT, SERVICE, Stage
from .test_publisher import cast


def module_of(stage: Stage) -> Any:
    (module,) = [module for module in stage.kernel.registry.modules if isinstance(module, PubsubModule)]
    return module


async def service_of(stage: Stage) -> Host:
    host: Host = await module_of(stage)._engine.host(JID(SERVICE), account=False)
    return host


def in_front(host: Host, count: int) -> None:
    """Nodes in memory with a subscription each, before all others of a service."""
    others = list(host)
    host.nodes.clear()
    for number in range(count):
        node = Node(10_000 + number, f"n{number}", JID("a@b"), 0.0, NodeConfig())
        host.add(node)
        host.subscribe(node, Subscription(JID("a@b"), f"s{number}", State.SUBSCRIBED, Options(expire=1e12)))
    for node in others:
        host.nodes[node.name] = node


async def test_others_have_their_turn_while_many_nodes_are_looked_at(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, juliet = await cast(stage)
    await stage.subscribe(juliet, "musings", str(juliet.jid), expire="2023-11-14T23:00:00Z")
    in_front(await service_of(stage), 1000)
    await stage.world.pass_time(50)  # nobody else has anything to do when the sweep comes
    juliet.inbox.clear()
    answered: list[int] = []
    look_at = due._look_at

    async def noted(engine: Any, subscribing: Any, host: Host, node: Node, s: Subscription) -> None:
        if node.name == "musings":
            answered.append(len(juliet.inbox))
        await look_at(engine, subscribing, host, node, s)

    monkeypatch.setattr(due, "_look_at", noted)
    stage.world.clock.advance(560)
    sweeping = module_of(stage)._sweeping
    await asyncio.sleep(0)  # it begins
    await asyncio.sleep(0)
    juliet.send("<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    stage.world.clock.advance(600)
    assert module_of(stage)._sweeping is sweeping, "it is not joined by another"
    await stage.quiet(juliet)
    assert juliet.inbox[0].get("id") == "p" and answered == [1]
    await stage.world.pass_time(6000)
    assert [s.get("subscription") for el in juliet.inbox for s in el.iter(f"{{{EVENT}}}subscription")][-1] == "none"
    assert module_of(stage)._sweeping is not sweeping


async def test_expired_items_of_many_nodes_go(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of services and accounts; nodes are asked about together, and what is not due is not written."""
    monkeypatch.setattr(due, "ASKED", 2)
    monkeypatch.setattr(due, "EXPIRE", 3)
    romeo, _ = await cast(stage)
    for name in ("a", "b", "c"):
        await stage.create(romeo, name, item_expire="3600", max_items="20")
    await stage.create(romeo, "p", to="romeo@example.org", item_expire="3600", max_items="20")
    for name, to, count in (
        ("a", SERVICE, 7),
        ("c", SERVICE, 1),
        ("p", "romeo@example.org", 2),
        ("musings", SERVICE, 1),
    ):
        for number in range(count):
            await stage.publish(romeo, name, f"{name}{number}", to=to)
    await stage.world.pass_time(3000)
    await stage.publish(romeo, "a", "new")
    await stage.publish(romeo, "b", "new")
    written: list[tuple[int, int]] = []
    expire = due.store.expire

    def counted(c: Any, *args: Any, **more: Any) -> tuple[int, int]:
        written.append(expire(c, *args, **more))
        return written[-1]

    monkeypatch.setattr(due.store, "expire", counted)
    await stage.world.pass_time(1300)
    rows = await stage.world.db.fetch("SELECT item FROM pubsub_item ORDER BY item")
    assert [item for (item,) in rows] == ["musings0", "new", "new"]
    assert sorted(count for count, _ in written) == [1, 1, 2, 3, 3]
    host = await service_of(stage)
    size = await stage.world.db.fetch("SELECT sum(length(i.payload)) FROM pubsub_item i")
    assert host.stored == size[0][0]
    assert (await module_of(stage)._engine.host(JID("romeo@example.org"), account=True)).stored == 0


async def test_what_the_disk_refuses_is_tried_by_the_next_sweep(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    romeo, _ = await cast(stage, item_expire="3600")
    await stage.publish(romeo, "musings", "old")
    write = stage.world.db.write

    async def refused(name: str, fn: Any) -> Any:
        if name == "pubsub.expire":
            raise StorageUnavailable("the disk is full")
        return await write(name, fn)

    monkeypatch.setattr(stage.world.db, "write", refused)
    await stage.world.pass_time(4300)
    assert len(await stage.world.db.fetch("SELECT item FROM pubsub_item")) == 1
    monkeypatch.undo()
    await stage.world.pass_time(601)
    assert await stage.world.db.fetch("SELECT item FROM pubsub_item") == []
    assert (await service_of(stage)).stored == 0
