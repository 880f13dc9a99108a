"""By the clock: leases that are over end, items that are expired go.

To look for them costs what there is in memory, so it is done with turns for everybody else in between. Nodes whose items
expire are asked about by readers, many at once, and only what is due is written, a few items at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

import structlog

from beamish.modules.pubsub import store
from beamish.modules.pubsub.engine import Engine
from beamish.modules.pubsub.model import Host, Node, Subscription
from beamish.modules.pubsub.names import State
from beamish.modules.pubsub.subscribing import Subscribing
from beamish.storage.api import Cursor, StorageError
from beamish.xmpp.errors import StanzaError

log = structlog.get_logger(__name__)

SLICE: Final = 500
"""Hosts, nodes and subscriptions looked at before everybody else has a turn (about 0.1 ms)."""
WARNING: Final = 86_400.0
"""Seconds before the end of a lease at which its subscriber is warned (§12.18)."""
ASKED: Final = 200
"""Nodes whose oldest item is looked at in one query."""
EXPIRE: Final = 256
"""Items deleted in one transaction because of their age, so that other writes are not kept waiting."""
_NEVER: Final = float("-inf")


async def sweep(engine: Engine, subscribing: Subscribing, hosts: Iterable[Host]) -> None:
    """End the leases of these hosts that are over, and delete their items that are expired."""
    expiring: list[tuple[Host, Node]] = []
    for found in _found(engine, hosts):
        if found is None:
            await asyncio.sleep(0)
            continue
        host, node, s = found
        if s is not None:
            if _holds(engine, host, node) and s.subid in node.subscriptions:
                await _look_at(engine, subscribing, host, node, s)
            continue
        expiring.append((host, node))
        if len(expiring) == ASKED:
            await _expire(engine, expiring)
            expiring = []
    if expiring:
        await _expire(engine, expiring)


def _found(engine: Engine, hosts: Iterable[Host]) -> Iterator[tuple[Host, Node, Subscription | None] | None]:
    """Leases, and nodes whose items expire (without a subscription); None after each `SLICE` hosts, nodes and subscriptions
    that were looked at.
    """
    looked = 0
    for host in hosts:
        looked += 1
        if looked >= SLICE:
            looked = 0
            yield None
        for node in host:
            looked += 1
            oldest = engine.oldest(node)
            if oldest > _NEVER:
                if node.last is not None and node.last.published <= oldest:
                    node.last, node.last_known = None, False
                yield host, node, None
            for s in tuple(node.subscriptions.values()):
                looked += 1
                if s.options.expires is not None:
                    yield host, node, s
                if looked >= SLICE:
                    looked = 0
                    yield None
            if looked >= SLICE:
                looked = 0
                yield None


def _holds(engine: Engine, host: Host, node: Node) -> bool:
    """Whether it is still what the rest of the module sees."""
    return engine.hosts.cached(host.jid) is host and host.nodes.get(node.name) is node


async def _look_at(engine: Engine, subscribing: Subscribing, host: Host, node: Node, s: Subscription) -> None:
    expires, now = s.options.expires, engine.clock.now()
    if expires is None:
        return
    if expires <= now:
        await subscribing.settle(host, node, [subscribing.put(host, node, s, State.NONE)])
    elif expires - now <= WARNING and s.warned != expires:
        s.warned = expires
        engine.outbox.lease_ends(host, node, s)


async def _expire(engine: Engine, nodes: list[tuple[Host, Node]]) -> None:
    asked = [(node.id, engine.oldest(node)) for _, node in nodes]

    def due(c: Cursor) -> set[int]:
        return {node for node, before in asked if store.overdue(c, node, before)}

    try:
        found = await engine.kernel.db.read("pubsub.overdue", due)
        for host, node in nodes:
            more = node.id in found
            while more and _holds(engine, host, node):
                step = partial(store.expire, node=node.id, before=engine.oldest(node), most=EXPIRE)
                gone, size = await engine.hosts.write(host, "expire", step)
                host.stored -= size
                more = gone == EXPIRE
    except (StanzaError, StorageError) as exc:
        log.warning("expiry_failed", error=repr(exc))  # the next sweep comes
