"""`kill -9` of a server with nodes: what was acknowledged is there afterwards (`BEAMISH_CRASH_ROUNDS` as in `test_crash`)."""

from __future__ import annotations

import asyncio
import os
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from beamish.testing import Client, ClientError

if TYPE_CHECKING:
    from tests.system.conftest import Daemon

ROUNDS = max(3, int(os.environ.get("BEAMISH_CRASH_ROUNDS", "20")) // 4)
SEED = int(os.environ.get("BEAMISH_CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
PUBSUB = "http://jabber.org/protocol/pubsub"
HOSTS = ("pubsub.example.org", "owner@example.org")
NODE = "urn:example:notes"
PASSWORD = "crash test"
KEPT = 50
UNDER_WAY = 8
LIMITS = """
[limits]
stanzas_per_second = 1000000
stanza_burst = 1000000
"""

Step = tuple[str, str, str, str]
"""Host, what is done to it (`publish`, `retract`, `purge`), the item, and its text."""
Nodes = dict[str, OrderedDict[str, str]]
"""By host: the texts by item, oldest first."""


async def make_nodes(owner: Client) -> None:
    for host in HOSTS:
        await owner.iq(
            f"<iq to='{host}' type='set' id='c'><pubsub xmlns='{PUBSUB}'><create node='{NODE}'/><configure>"
            "<x xmlns='jabber:x:data' type='submit'>"
            f"<field var='FORM_TYPE'><value>{PUBSUB}#node_config</value></field>"
            f"<field var='pubsub#max_items'><value>{KEPT}</value></field></x></configure></pubsub></iq>"
        )


def request(step: Step, id_: str) -> str:
    host, what, item, text = step
    if what == "purge":
        inner, namespace = f"<purge node='{NODE}'/>", f"{PUBSUB}#owner"
    elif what == "retract":
        inner, namespace = f"<retract node='{NODE}'><item id='{item}'/></retract>", PUBSUB
    else:
        note = f"<note xmlns='{NODE}'>{text}</note>"
        inner, namespace = f"<publish node='{NODE}'><item id='{item}'>{note}</item></publish>", PUBSUB
    return f"<iq to='{host}' type='set' id='{id_}'><pubsub xmlns='{namespace}'>{inner}</pubsub></iq>"


def applied(nodes: Nodes, step: Step) -> Nodes:
    """The nodes after one more step."""
    host, what, item, text = step
    after = {at: OrderedDict(items) for at, items in nodes.items()}
    items = after[host]
    if what == "purge":
        items.clear()
    else:
        items.pop(item, None)
        if what == "publish":
            items[item] = text
            while len(items) > KEPT:
                items.popitem(last=False)
    return after


def steps(choose: random.Random, numbers: Iterator[int]) -> Iterator[Step]:
    """What the owner does, without end."""
    while True:
        what = choose.choices(("publish", "retract", "purge"), (90, 9, 1))[0]
        yield choose.choice(HOSTS), what, f"i{choose.randint(0, 2 * KEPT)}", str(next(numbers))


async def change_until_cut(owner: Client, todo: Iterator[Step], nodes: Nodes) -> tuple[Nodes, list[Step]]:
    """Do one step after the other, some at a time; the nodes as they were acknowledged, and the steps under way at the end.

    A step is one to a single host, and the steps under way go to one host at a time, so that they are answered in order.
    """
    under_way: deque[tuple[str, Step]] = deque()
    number = 0

    async def hear() -> None:
        nonlocal nodes
        got = await owner.receive()
        if got.tag != "{jabber:client}iq":
            return
        id_, step = under_way.popleft()
        assert got.get("id") == id_
        if got.get("type") == "result":
            nodes = applied(nodes, step)
        else:  # there was no such item
            assert step[1] == "retract"
            assert step[2] not in nodes[step[0]]

    try:
        while True:
            step = next(todo)
            alone = step[1] != "publish" or (bool(under_way) and under_way[-1][1][0] != step[0])
            while under_way and (alone or len(under_way) >= UNDER_WAY or under_way[-1][1][1] != "publish"):
                await hear()
            under_way.append((f"s{number}", step))
            owner.send(request(step, f"s{number}"))
            number += 1
    except ClientError:
        assert owner.disconnected, "the server closed the stream"
    while owner.inbox:  # what arrived before the end
        await hear()
    return nodes, [step for _, step in under_way]


async def stored(owner: Client) -> Nodes:
    found: Nodes = {}
    for host in HOSTS:
        got = await owner.iq(
            f"<iq to='{host}' type='get' id='g'><pubsub xmlns='{PUBSUB}'><items node='{NODE}'/></pubsub></iq>"
        )
        items = got.iter(f"{{{PUBSUB}}}item")
        found[host] = OrderedDict((item.get("id") or "", item.findtext(f"{{{NODE}}}note") or "") for item in items)
    return found


@pytest.mark.slow
async def test_nodes_survive_kill_9(make_daemon: Callable[..., Daemon]) -> None:
    """The items of a service and of an account are those that were acknowledged, in order, and perhaps of more steps."""
    daemon = make_daemon(c2s="require_tls = false", rest=LIMITS)
    choose = random.Random(SEED)
    todo = steps(choose, iter(range(10**9)))
    await daemon.start()
    await daemon.add("owner@example.org", PASSWORD)
    owner = await daemon.client("owner@example.org/x", PASSWORD, tls=False)
    await make_nodes(owner)
    nodes: Nodes = {host: OrderedDict() for host in HOSTS}
    changes = 0
    for number in range(ROUNDS):
        asyncio.get_running_loop().call_later(choose.uniform(0.02, 0.3), daemon.kill)
        before = nodes
        nodes, under_way = await change_until_cut(owner, todo, nodes)
        changes += nodes != before
        await daemon.ended()
        await daemon.start()
        owner = await daemon.client("owner@example.org/x", PASSWORD, tls=False)
        allowed = [nodes]
        for step in under_way:
            allowed.append(applied(allowed[-1], step))
        nodes = await stored(owner)
        assert [list(items.items()) for items in nodes.values()] in [
            [list(items.items()) for items in each.values()] for each in allowed
        ], f"seed {SEED}, round {number}"
    assert changes
