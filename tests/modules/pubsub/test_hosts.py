"""Hosts in memory: what is read again is all that was written."""

from __future__ import annotations

from beamish.core.tasks import TaskGroup
from beamish.modules.pubsub import store
from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.hosts import Hosts
from beamish.modules.pubsub.model import Node
from beamish.storage.api import Cursor
from beamish.xmpp.jid import JID

from .test_store import database

JULIET = JID.parse("juliet@example.org")


async def test_a_distrusted_host_is_read_behind_the_writes_under_way() -> None:
    db, tasks = await database(), TaskGroup("test")
    hosts = Hosts(db, tasks)
    before = await hosts.get(JULIET, account=True)  # type: ignore[misc]

    def create(c: Cursor) -> None:
        store.create_node(c, str(JULIET), Node(0, "n", JULIET, 0.0, NodeConfig()))

    db.submit("t", create)
    hosts.distrust(JULIET)
    assert hosts.cached(JULIET) is None
    after = await hosts.get(JULIET, account=True)  # type: ignore[misc]
    assert after is not before
    assert list(after.nodes) == ["n"]
    await tasks.close()
    await db.close()
