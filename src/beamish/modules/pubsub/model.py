"""Nodes in memory: what publications, subscriptions and presences look at. Items stay in the database.

A `Host` is an address that has nodes: a service domain or an account. It is loaded whole (without items) and changed in
memory first, then by the queue of writes, which keeps the order of the calls; so whoever looks at a host and changes it
without awaiting in between loses nobody's update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.names import Affiliation, State
from beamish.modules.pubsub.options import Options
from beamish.xmpp.jid import JID


@dataclass(frozen=True, slots=True)
class Item:
    """One published item. `payload` is its XML, empty for an item without; `publisher` is a bare JID."""

    id: str
    payload: bytes
    publisher: JID
    published: float
    seq: int = 0


@dataclass(slots=True, eq=False)
class Subscription:
    """One subscription of a JID (bare or full) to a node; `subid` is unique in the server."""

    jid: JID
    subid: str
    state: State
    options: Options = field(default_factory=Options)
    bounces: int = 0
    """Notifications that came back with an error that may pass, since the server started (§12.4)."""

    warned: float = 0.0
    """The end of the lease that the subscriber was warned of."""

    @property
    def active(self) -> bool:
        """Whether it receives notifications: not pending."""
        return self.state is State.SUBSCRIBED

    def over(self, now: float) -> bool:
        """Whether its lease has ended."""
        expires = self.options.expires
        return expires is not None and expires <= now


@dataclass(slots=True, eq=False)
class Node:
    """A leaf node. `id` is its row in the database.

    `last` is the last published item; it is right only if `last_known`. `begun` is the number of the last publication, `told`
    that of the last one that was told; see `Hosts.begun`.
    """

    id: int
    name: str
    creator: JID
    created: float
    config: NodeConfig
    affiliations: dict[JID, Affiliation] = field(default_factory=dict)
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    entities: dict[JID, list[Subscription]] = field(default_factory=dict)
    """The same by bare JID; nobody waits while thousands are searched for one. `enter` and `leave` keep both."""
    last: Item | None = None
    last_known: bool = False
    begun: int = 0
    told: int = 0

    def affiliation(self, bare: JID) -> Affiliation:
        """What a bare JID is to the node."""
        return self.affiliations.get(bare, Affiliation.NONE)

    @property
    def affiliations_matter(self) -> bool:
        """Whether anybody but owners has an affiliation, so that each recipient has to be looked at."""
        return any(what is not Affiliation.OWNER for what in self.affiliations.values())

    def owners(self) -> list[JID]:
        """The owners, as bare JIDs."""
        return [jid for jid, what in self.affiliations.items() if what is Affiliation.OWNER]

    def of(self, jid: JID) -> list[Subscription]:
        """The subscriptions of exactly this JID."""
        return [s for s in self.entities.get(jid.bare, ()) if s.jid == jid]

    def of_entity(self, bare: JID) -> list[Subscription]:
        """The subscriptions of a bare JID and of its resources."""
        return list(self.entities.get(bare, ()))

    def enter(self, s: Subscription) -> None:
        """Note a subscription."""
        self.subscriptions[s.subid] = s
        self.entities.setdefault(s.jid.bare, []).append(s)

    def leave(self, s: Subscription) -> None:
        """Forget a subscription, if it is there."""
        if self.subscriptions.pop(s.subid, None) is None:
            return
        left = self.entities[s.jid.bare]
        left.remove(s)
        if not left:
            del self.entities[s.jid.bare]

    def is_subscriber(self, bare: JID, now: float) -> bool:
        """Whether an entity has a subscription that is neither pending nor over."""
        return any(s.state is not State.PENDING and not s.over(now) for s in self.of_entity(bare))


class Host:
    """An address with its nodes.

    `account` tells an account from a service. `stored` is the bytes of all items. `moved` maps names of deleted nodes to
    the addresses of their replacements. `writing` counts publications on their way to the disk.
    """

    __slots__ = ("__weakref__", "_entities", "account", "jid", "moved", "nodes", "stored", "writing")

    def __init__(self, jid: JID, account: bool) -> None:
        self.jid = jid
        self.account = account
        self.nodes: dict[str, Node] = {}
        self.moved: dict[str, str] = {}
        self.stored = 0
        self.writing = 0
        self._entities: dict[JID, dict[str, Node]] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(tuple(self.nodes.values()))

    @property
    def weight(self) -> int:
        """A rough measure of the memory this takes, in bytes."""
        weight = 1000
        for node in self.nodes.values():
            weight += 2000 + 300 * len(node.affiliations) + 700 * len(node.subscriptions)
            if node.last is not None:
                weight += len(node.last.payload)
        return weight

    def add(self, node: Node) -> None:
        """Enter a node with its subscriptions."""
        self.nodes[node.name] = node
        self.moved.pop(node.name, None)
        for subscription in node.subscriptions.values():
            self._index(node, subscription)

    def drop(self, node: Node) -> None:
        """Take a node out."""
        if self.nodes.get(node.name) is node:
            del self.nodes[node.name]
        for subscription in node.subscriptions.values():
            self._unindex(subscription)

    def subscribe(self, node: Node, subscription: Subscription) -> None:
        """Enter a subscription."""
        node.enter(subscription)
        self._index(node, subscription)

    def unsubscribe(self, node: Node, subscription: Subscription) -> None:
        """Take a subscription out."""
        node.leave(subscription)
        self._unindex(subscription)

    def subscriptions_of(self, bare: JID) -> Iterable[tuple[Node, Subscription]]:
        """All subscriptions of a bare JID and its resources, in no particular order."""
        for subid, node in tuple(self._entities.get(bare, {}).items()):
            yield node, node.subscriptions[subid]

    def count_of(self, bare: JID) -> int:
        """How many subscriptions an entity has."""
        return len(self._entities.get(bare, ()))

    def _index(self, node: Node, subscription: Subscription) -> None:
        self._entities.setdefault(subscription.jid.bare, {})[subscription.subid] = node

    def _unindex(self, subscription: Subscription) -> None:
        of = self._entities.get(subscription.jid.bare)
        if of is not None:
            of.pop(subscription.subid, None)
            if not of:
                del self._entities[subscription.jid.bare]
