"""Digests (XEP-0060 §6.3, `pubsub#digest`): notifications collected in the database and sent together.

A digest is dropped from the database after it was sent, so a crash may repeat one but loses none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core.clock import Timer
from beamish.modules.pubsub import store
from beamish.modules.pubsub.hosts import Hosts
from beamish.modules.pubsub.model import Host, Node, Subscription
from beamish.modules.pubsub.names import EVENT
from beamish.modules.pubsub.outbox import Outbox
from beamish.modules.pubsub.plans import Plan
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element, from_bytes, make, to_bytes

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

_ITEMS: Final = f"{{{EVENT}}}items"
MESSAGE_BYTES: Final = 65_536
"""A digest that is larger is sent in several messages."""


class Digests:
    """Sends digests when they are due; `due` is called after each event that was collected."""

    def __init__(self, kernel: Kernel, hosts: Hosts, outbox: Outbox) -> None:
        self._kernel = kernel
        self._hosts = hosts
        self._outbox = outbox
        self._timers: dict[str, Timer] = {}

    async def restore(self) -> None:
        """Set the timers of digests that were collected before a restart."""
        for address, subid, since in await self._kernel.db.read("pubsub.digests", store.waiting_digests):
            jid = JID.parse(address)
            account = bool(jid.local)
            found = self._hosts.get(jid, account=account)
            host = found if isinstance(found, Host) else await found
            for node in host:
                s = node.subscriptions.get(subid)
                if s is not None:
                    self.due(host, node, (s,), since)

    def due(self, host: Host, node: Node, subscriptions: Iterable[Subscription], since: float) -> None:
        """Something was collected at `since` for these subscriptions."""
        for s in subscriptions:
            if s.subid not in self._timers:
                wait = max(0.0, since + s.options.frequency / 1000 - self._kernel.clock.now())
                self._set(host.jid, node.name, s.subid, wait)

    def _set(self, jid: JID, name: str, subid: str, wait: float) -> None:
        self._timers[subid] = self._kernel.clock.call_later(wait, lambda: self._ring(jid, name, subid))

    def _ring(self, jid: JID, name: str, subid: str) -> None:
        self._timers.pop(subid, None)
        self._kernel.tasks.spawn(self._send_later(jid, name, subid), "pubsub_digest")

    async def _send_later(self, jid: JID, name: str, subid: str) -> None:
        found = self._hosts.get(jid, account=bool(jid.local))
        host = found if isinstance(found, Host) else await found
        node = host.nodes.get(name)
        s = None if node is None else node.subscriptions.get(subid)
        if node is None or s is None:
            return
        if not self._outbox.reaches(host, node, s):
            self._set(jid, name, subid, s.options.frequency / 1000)  # not now: perhaps at the next time
            return
        await self.send(host, node, s)

    async def send(self, host: Host, node: Node, s: Subscription) -> None:
        """Send what was collected for a subscription, now."""
        events, upto = await self._kernel.db.write("pubsub.digest", lambda c: store.digest(c, s.subid))
        if not events:
            return
        for event in joined(events):
            rest = self._outbox.tell(host, node, Plan(direct={s.jid: [s]}), event)
            if rest is not None:
                await rest
        await self._kernel.db.write("pubsub.digested", lambda c: store.drop_digest(c, s.subid, upto))

    def dropped(self, s: Subscription) -> None:
        """The subscription ended."""
        timer = self._timers.pop(s.subid, None)
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        """Cancel all timers; what was collected stays in the database."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


def joined(events: Iterable[bytes]) -> Iterator[bytes]:
    """Collected `<event/>` elements, with the items of neighbours in one, none much above `MESSAGE_BYTES`."""
    open_: Element | None = None
    size = 0
    for data in events:
        event = from_bytes(data)
        items = event[0] if len(event) else None
        if items is None or items.tag != _ITEMS or size + len(data) > MESSAGE_BYTES:
            if open_ is not None:
                yield to_bytes(open_)
            open_, size = None, 0
        if items is None or items.tag != _ITEMS:
            yield data
        elif open_ is None:
            open_, size = make(f"{{{EVENT}}}event", None, items), len(data)
        else:
            open_[0].extend(list(items))
            size += len(data)
    if open_ is not None:
        yield to_bytes(open_)
