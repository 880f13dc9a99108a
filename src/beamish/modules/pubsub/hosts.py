"""Hosts kept in memory, with a bound, and the writes that change them."""

from __future__ import annotations

from asyncio import shield
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from beamish.core.tasks import TaskGroup
from beamish.modules.pubsub import store
from beamish.modules.pubsub.model import Host, Item, Node
from beamish.storage.api import Cursor, Database, StorageBusy, StorageError
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID

T = TypeVar("T")

WEIGHT: Final = 64 * 1024 * 1024
"""Bytes of accounts' nodes kept in memory, roughly; services stay in memory whole."""
HOSTS: Final = 20_000
"""Accounts kept in memory."""
CACHED_ITEM: Final = 16_384
"""Larger last items are read again each time."""

SINCE: Final = 100
"""Missed items of one node that a resource gets when it comes back."""
SINCE_BYTES: Final = 262_144
_LOOKS: Final = 3
"""How often what was missed of a node is read because something of it was told in the meantime."""


class Hosts:
    """Loads hosts and keeps those used last.

    There is never more than one object for an address: whoever holds one keeps it findable, even if it is no longer
    among those kept. Hence a host that has to be loaded has no writes under way, and a reader sees all of it.
    """

    def __init__(self, db: Database, tasks: TaskGroup) -> None:
        self._db = db
        self._tasks = tasks
        self._services: dict[JID, Host] = {}
        self._kept: OrderedDict[JID, int] = OrderedDict()
        self._strong: dict[JID, Host] = {}
        self._weight = 0
        self._alive: WeakValueDictionary[JID, Host] = WeakValueDictionary()
        self._loads: dict[JID, Any] = {}
        self._doubtful: set[JID] = set()
        self.begun = 0
        """Publications that were begun, everywhere. Whoever comes to be told of a node at some moment is a recipient of those
        with a higher number, and has to be given what the others have left there."""

    def number(self) -> int:
        """A publication begins; its number."""
        self.begun += 1
        return self.begun

    def cached(self, jid: JID) -> Host | None:
        """The host if it is in memory."""
        return self._services.get(jid) or self._alive.get(jid)

    def get(self, jid: JID, *, account: bool) -> Host | Awaitable[Host]:
        """The host of this bare address; at once if it is in memory."""
        host = self.cached(jid)
        if host is None:
            return self._load(jid, account)
        if host.account:
            self._keep(host)
        return host

    async def _load(self, jid: JID, account: bool) -> Host:
        task = self._loads.get(jid)
        if task is None:
            task = self._loads[jid] = self._tasks.spawn(self._read(jid, account), "load")
        host: Host = await shield(task)
        return host

    async def _read(self, jid: JID, account: bool) -> Host:
        host = Host(jid, account)
        try:
            if jid in self._doubtful:
                # writes of the object that was dropped may be under way still, and readers do not see them
                await self._db.flushed()
                self._doubtful.discard(jid)
            await self._db.read("pubsub.load", lambda c: store.load(c, host))
        finally:
            del self._loads[jid]
        self._alive[jid] = host
        if account:
            self._keep(host)
        else:
            self._services[jid] = host
        return host

    def _keep(self, host: Host) -> None:
        weight = host.weight
        self._weight += weight - self._kept.pop(host.jid, 0)
        self._kept[host.jid] = weight
        self._strong[host.jid] = host
        while len(self._kept) > 1 and (self._weight > WEIGHT or len(self._kept) > HOSTS):
            oldest, freed = self._kept.popitem(last=False)
            del self._strong[oldest]
            self._weight -= freed

    def accounts(self) -> list[Host]:
        """The accounts that are kept in memory; others have nothing that is due before they are read again."""
        return list(self._strong.values())

    def distrust(self, jid: JID) -> None:
        """Drop a host from memory, because the database may differ from it; it is read again behind all writes."""
        self._doubtful.add(jid)
        self.forget(jid)

    def forget(self, jid: JID) -> None:
        """Drop a host from memory."""
        self._services.pop(jid, None)
        self._alive.pop(jid, None)
        self._strong.pop(jid, None)
        self._weight -= self._kept.pop(jid, 0)

    async def write(self, host: Host, name: str, fn: Callable[[Cursor], T]) -> T:
        """Run a transaction for changes that memory has already made, or makes afterwards without looking again.

        If it fails by the database's fault, the host is read anew by whoever needs it next.
        Raises `StanzaError(resource-constraint)` when the database is overloaded, `StorageError`, and what `fn` raises.
        """
        try:
            return await self._db.write(f"pubsub.{name}", fn)
        except StorageBusy as exc:
            self.distrust(host.jid)
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="the server is overloaded") from exc
        except StorageError:
            self.distrust(host.jid)
            raise

    async def last(self, host: Host, nodes: list[Node], at: int) -> dict[str, Item]:
        """The last items of some nodes, by name of the node, for somebody who is told of them since `begun` was `at`.

        Left out are nodes without items, and those with a later publication, of which they hear anyway; if that was told while
        this was looked up, what came before it would look like the last behind it.
        """
        nodes = [node for node in nodes if node.begun <= at]
        # what is on its way to the disk is read behind it, through the queue of writes
        known = [] if host.writing else [node for node in nodes if node.last_known]
        missing = [node for node in nodes if host.writing or not node.last_known]
        read = {node.name: node.last for node in known if node.last is not None}
        if missing:
            found = await self._db.write(
                "pubsub.last", lambda c: [(node, store.last_item(c, node.id)) for node in missing]
            )
            for node, item in found:
                if not node.last_known and node.begun <= at:
                    self.remember(node, item)
                if item is not None and node.told <= at:
                    read[node.name] = item
            if host.account and self.cached(host.jid) is host:
                self._keep(host)
        return read

    async def fresh(self, host: Host, nodes: list[Node], since: float | None, at: int) -> list[tuple[Node, Item]]:
        """What a resource that appears is to get of these nodes: the last item of each (see `last`), or, if it was here
        before, what was published since (XEP-0312), oldest first and at most `SINCE` of each.

        What it missed is not left out for a later publication that it was told meanwhile. It gets that one again behind it,
        if there is more, so that the last it hears of is the last that there is.
        """
        if since is None:
            found = await self.last(host, nodes, at)
            return [(node, found[node.name]) for node in nodes if node.name in found]
        wanted = [
            node for node in nodes if host.writing or not node.last_known or (node.last and node.last.published > since)
        ]
        if not wanted:
            return []
        missed: list[tuple[Node, Item]] = []
        for _ in range(_LOOKS):
            sees = self.begun
            read = await self._db.write("pubsub.since", partial(_since, nodes=tuple(wanted), since=since))
            wanted = [node for node in wanted if node.told > sees]  # these are read once more: there is a later one
            missed += [one for one in read if one[0] not in wanted]
            if not wanted:
                break
        else:  # somebody publishes all the time: what comes next tells what is the last
            missed += [one for one in read if one[0] in wanted]
        return _without_told(missed, at)

    def remember(self, node: Node, item: Item | None) -> None:
        """Note the last item of a node, if it is not too large to be kept."""
        if item is not None and len(item.payload) > CACHED_ITEM:
            node.last, node.last_known = None, False
        else:
            node.last, node.last_known = item, True


def _since(c: Cursor, nodes: tuple[Node, ...], since: float) -> list[tuple[Node, Item]]:
    return [(node, item) for node in nodes for item in store.latest(c, node.id, SINCE, since, SINCE_BYTES)[0]]


def _without_told(found: list[tuple[Node, Item]], at: int) -> list[tuple[Node, Item]]:
    """What was missed, but not the last item alone that somebody heard of who is told since `begun` was `at`."""
    several = Counter(node.name for node, _ in found)
    return [
        (node, item)
        for node, item in found
        if several[node.name] > 1 or node.told <= at or node.last is None or node.last.id != item.id
    ]
