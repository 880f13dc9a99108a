"""What the operations on nodes share: limits, hosts, who the asker is, and looking up what decisions need.

An operation first checks and changes memory without awaiting anything in between, then stores, then tells and answers; so
a result is never sent before its commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from beamish.core import events
from beamish.core.events import Published
from beamish.core.later import is_later
from beamish.core.services import BlockingService, Roster, RosterService
from beamish.modules.pubsub import access
from beamish.modules.pubsub.access import STRANGER, Relation
from beamish.modules.pubsub.config import Bounds, NodeConfig
from beamish.modules.pubsub.digests import Digests
from beamish.modules.pubsub.hosts import Hosts
from beamish.modules.pubsub.model import Host, Item, Node
from beamish.modules.pubsub.names import PRIVATE_NODES, Access, Affiliation, NodeMoved, forbidden, no_node, refused
from beamish.modules.pubsub.outbox import Hides, Outbox, Relations, relations
from beamish.modules.pubsub.plans import Plan
from beamish.modules.pubsub.presences import Presences
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

NAME_BYTES: Final = 1023
"""NodeIDs and ItemIDs are no longer than a resource of an address (§4.6.2)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a host may hold."""

    nodes: int
    items: int
    payload: int
    stored: int
    subscriptions: int
    subscribers: int
    affiliations: int


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: the full address, the bare one, whether a server administrator, whether an anonymous session."""

    jid: JID
    bare: JID
    admin: bool = False
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of the module that the engine reads."""

    account: Limits
    service: Limits
    page: int
    page_bytes: int
    auto_create: bool
    create: str
    longest_lease: float | None


class Engine:
    """The state that operations work on, and the questions that they ask of it."""

    def __init__(self, kernel: Kernel, settings: Settings, hosts: Hosts, outbox: Outbox, presences: Presences) -> None:
        self.kernel = kernel
        self.settings = settings
        self.hosts = hosts
        self.outbox = outbox
        self.presences = presences
        self.clock = kernel.clock
        self.digests = Digests(kernel, hosts, outbox)
        self.purging: set[JID] = set()
        """Hosts with nodes whose items go when their publisher does (`pubsub#purge_offline`)."""
        self.access_changed: Callable[[Host, Node, NodeConfig], Awaitable[None]] = _nobody_told
        self.rosters = kernel.service(RosterService)
        self._published = kernel.hooks[events.pep_published]

    # ---- what there is ----------------------------------------------------------------------------------------------

    async def host(self, jid: JID, account: bool) -> Host:
        """The host of this address."""
        found = self.hosts.get(jid, account=account)
        return await found if is_later(found) else found

    def charge(self, asker: Asker, many: int) -> None:
        """Take from the asker's rate what so many recipients cost; see `Session.charge`."""
        session = self.kernel.sessions.get(asker.jid)
        if session is not None:
            session.charge(many)

    def limits(self, host: Host) -> Limits:
        """What this host may hold."""
        return self.settings.account if host.account else self.settings.service

    def bounds(self, host: Host) -> Bounds:
        """What configurations of this host's nodes may not exceed."""
        limits = self.limits(host)
        return Bounds(limits.items, limits.payload)

    def defaults(self, host: Host, name: str = "") -> NodeConfig:
        """The configuration of a new node (XEP-0163 §5 for accounts); some are private by their name."""
        if host.account:
            if name in PRIVATE_NODES:
                items, last = PRIVATE_NODES[name]
                return NodeConfig(access_model=Access.WHITELIST.value, max_items=items, send_last_published_item=last)
            return NodeConfig(access_model=Access.PRESENCE.value, max_items=1)
        return NodeConfig()

    def node(self, host: Host, name: str) -> Node:
        """The node of this name. Raises `nodeid-required`, `item-not-found`, or `gone` with where it went."""
        if not name:
            raise refused(Condition.BAD_REQUEST, "nodeid-required")
        node = host.nodes.get(name)
        if node is None:
            if name in host.moved:
                raise NodeMoved(host.moved[name])
            raise no_node()
        return node

    def owned(self, host: Host, name: str, asker: Asker) -> Node:
        """A node that the asker owns, or may administer. Raises as `node`, and `forbidden`."""
        node = self.node(host, name)
        if not (asker.admin and not host.account):
            access.check_owner(node, asker.bare)
        return node

    def keep(self, host: Host, node: Node) -> int:
        """How many items the node keeps."""
        return node.config.items_kept(self.limits(host).items)

    def note_purging(self, host: Host) -> None:
        """Remember whether the host has nodes that empty themselves."""
        if any(node.config.purge_offline for node in host):
            self.purging.add(host.jid)
        else:
            self.purging.discard(host.jid)

    def oldest(self, node: Node) -> float:
        """Items published at or before this time are expired."""
        seconds = node.config.item_expire
        return self.clock.now() - seconds if isinstance(seconds, int) and seconds else float("-inf")

    # ---- rosters ----------------------------------------------------------------------------------------------------

    async def roster(self, user: JID) -> Roster:
        """The roster of a local account."""
        found = self.rosters.roster(user)
        return await found if is_later(found) else found

    async def relations(self, host: Host, node: Node) -> Relations:
        """What the owners' rosters say of entities; nothing where no decision could need it."""
        if not host.account and node.config.access not in (Access.PRESENCE, Access.ROSTER):
            return _strangers
        owners = [host.jid] if host.account else [jid for jid in node.owners() if self.presences.is_local(jid)]
        return relations(node, [await self.roster(owner) for owner in owners])

    async def relation(self, host: Host, node: Node, bare: JID) -> Relation:
        """What the owners' rosters say of one entity."""
        if not access.needs_relation(node, bare):
            return STRANGER
        return (await self.relations(host, node))(bare)

    async def plan(self, host: Host, node: Node, *, everybody: bool = False) -> tuple[Plan, Relations]:
        """Who is to be told of an event of a node."""
        of = await self.relations(host, node)
        if not host.account:
            return self.outbox.plan(host, node, of, everybody=everybody), of
        roster = await self.roster(host.jid)
        hides = self._hides(host)
        if is_later(hides):
            hides = await hides
        return self.outbox.plan(host, node, of, roster, hides, everybody=everybody), of

    async def blocks(self, host: Host, bare: JID) -> bool:
        """Whether an account has blocked an entity."""
        hides = self._hides(host)
        if is_later(hides):
            hides = await hides
        return hides is not None and hides(bare)

    def _hides(self, host: Host) -> Hides | Awaitable[Hides]:
        """Tells of an entity whether the account has blocked it (XEP-0163 §4.3.3); at once if its lists are in memory."""
        blocking = self.kernel.service_or_none(BlockingService)
        if blocking is None or not blocking.has_lists(host.jid):
            return None
        # The account itself is asked about only to have the lists loaded.
        loaded = blocking.hidden(host.jid, host.jid)
        if is_later(loaded):
            return self._hides_later(blocking, host.jid, loaded)
        return _Hiding(blocking, host.jid)

    async def _hides_later(self, blocking: BlockingService, owner: JID, loaded: Awaitable[bool]) -> Hides:
        await loaded
        return _Hiding(blocking, owner)

    def plan_now(self, host: Host, node: Node) -> tuple[Plan, Relations] | None:
        """As `plan`, if every roster that is needed is in memory."""
        if not host.account:
            if node.config.access in (Access.PRESENCE, Access.ROSTER):
                return None
            return self.outbox.plan(host, node, _strangers), _strangers
        roster = self.rosters.cached(host.jid)
        if roster is None:
            return None
        hides = self._hides(host)
        if is_later(hides):
            cast("Coroutine[object, object, Hides]", hides).close()
            return None
        of = relations(node, (roster,))
        return self.outbox.plan_again(host, node, of, roster, hides), of

    # ---- making nodes -----------------------------------------------------------------------------------------------

    def check_create(self, host: Host, asker: Asker) -> None:
        """Whether the asker may make a node here (§8.1.1)."""
        if host.account:
            allowed = asker.bare == host.jid and not asker.anonymous
        else:
            create = self.settings.create
            local = self.presences.is_local(asker.bare) and not asker.anonymous
            allowed = asker.admin or create == "anyone" or (create == "local" and local)
        if not allowed:
            raise forbidden()

    def new_node(self, host: Host, asker: Asker, name: str, config: NodeConfig) -> Node:
        """A node that is not stored yet. Raises `conflict`, `jid-malformed` for an unusable name, and above the limit."""
        check_name(name)
        if name in host.nodes:
            raise StanzaError(Condition.CONFLICT, text="there is such a node already")
        if len(host.nodes) >= self.limits(host).nodes:
            raise refused(Condition.RESOURCE_CONSTRAINT, "max-nodes-exceeded")
        node = Node(0, name, asker.bare, self.clock.now(), config)
        node.affiliations[host.jid if host.account else asker.bare] = Affiliation.OWNER
        node.last_known = True
        return node

    def published(
        self, host: Host, node: Node, items: list[Item], gone: list[str], *, purged: bool = False
    ) -> Awaitable[object] | None:
        """Tell other modules what became of an account's node; awaitable if one takes its time."""
        if host.account and self._published.rows:
            event = Published(host.jid, node.name, tuple((it.id, it.payload) for it in items), tuple(gone), purged)
            outcome = self._published.run(event)
            if is_later(outcome):
                return cast("Awaitable[object]", outcome)
        return None

    async def told(self, *rests: Awaitable[object] | None) -> None:
        """Wait for subscribers and other modules to be told, if there is something to wait for."""
        for rest in rests:
            if rest is not None:
                await rest


class _Hiding:
    """What an account has blocked; who cannot be looked up at once counts as blocked."""

    __slots__ = ("_blocking", "_owner")

    def __init__(self, blocking: BlockingService, owner: JID) -> None:
        self._blocking = blocking
        self._owner = owner

    def __call__(self, bare: JID) -> bool:
        found = self._blocking.hidden(self._owner, bare)
        if is_later(found):
            cast("Coroutine[object, object, bool]", found).close()
            return True
        return bool(found)


def _strangers(_bare: JID) -> Relation:
    return STRANGER


def check_name(name: str) -> None:
    """Whether a text may be the name of a node or an item."""
    if not name or len(name.encode()) > NAME_BYTES:
        raise StanzaError(Condition.NOT_ACCEPTABLE, Kind.MODIFY, f"a name has 1 to {NAME_BYTES} bytes")


def jid_of(el: Element) -> JID:
    """The `jid` attribute. Raises `bad-request` with `jid-required` or `invalid-jid` (§6.3.4.3, §6.1.3.1)."""
    text = el.get("jid")
    if not text:
        raise refused(Condition.BAD_REQUEST, "jid-required")
    try:
        return JID.parse(text)
    except ValueError:
        raise refused(Condition.BAD_REQUEST, "invalid-jid") from None


async def _nobody_told(_host: Host, _node: Node, _before: NodeConfig) -> None:
    """Services send nothing to those who gain access."""
