"""Who is told of an event, and the telling (XEP-0060 §7.1.2, §9, §12; XEP-0163 §4.3).

An event is serialised once; a recipient costs a splice. Recipients are chosen before the change is stored, so that what is
collected for digests goes to the disk with it; they are told after the commit, very many of them some in each turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core import events
from beamish.core.kernel import new_id
from beamish.core.later import unhurried
from beamish.core.sessions import Session
from beamish.modules.pubsub import wire
from beamish.modules.pubsub.access import STRANGER, Relation, may_all_receive, may_follow, may_receive
from beamish.modules.pubsub.model import Host, Item, Node, Subscription
from beamish.modules.pubsub.names import NOTIFY, Affiliation, State
from beamish.modules.pubsub.plans import Plan, Plans
from beamish.modules.pubsub.presences import Presences
from beamish.modules.pubsub.summary import summary
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel
    from beamish.core.services import CapsService, Roster

log = structlog.get_logger(__name__)

SLICE: Final = 200
"""Subscribers of a node that are told in one turn of the loop: one takes up to 20 µs."""
TRACKED: Final = 20_000
"""Notifications whose errors can be told to a node."""

Relations = Callable[[JID], Relation]
Hides = Callable[[JID], bool] | None


def relations(node: Node, rosters: Iterable[Roster]) -> Relations:
    """What the rosters of a node's owners say of entities (bare JIDs)."""
    known = tuple(rosters)

    def of(bare: JID) -> Relation:
        sees, groups = False, set[str]()
        for roster in known:
            entry = roster.get(bare)
            if entry is not None and entry.from_:
                sees = True
                groups.update(entry.groups)
        return Relation(sees, frozenset(groups)) if sees else STRANGER

    return of


class Outbox:
    """Sends notifications of one server's hosts."""

    def __init__(self, kernel: Kernel, presences: Presences) -> None:
        self._kernel = kernel
        self._presences = presences
        self._delivering = kernel.hooks[events.delivering]
        self._tracked: OrderedDict[str, tuple[JID, str]] = OrderedDict()
        self._plans = Plans(kernel, presences)
        self._rounds: dict[Node, deque[tuple[Iterator[Stanza], asyncio.Future[None]]]] = {}
        """What is still to be told to the subscribers of nodes that have very many, in the order of the events."""
        self.caps: CapsService | None = None

    # ---- choosing ---------------------------------------------------------------------------------------------------

    def plan(
        self,
        host: Host,
        node: Node,
        relation: Relations,
        roster: Roster | None = None,
        hides: Hides = None,
        *,
        everybody: bool = False,
    ) -> Plan:
        """The recipients of an event of a node.

        `roster` is that of the account that `host` is; `hides` tells whom it has blocked. `everybody` includes pending
        subscriptions and those that want nothing now (for the end of a node).
        """
        plan = Plan()
        if host.account:
            self._interested(plan, host, node, relation, roster)
            if hides is not None:
                plan.sessions = [s for s in plan.sessions if s.bare == host.jid or not hides(s.bare)]
                plan.others = [jid for jid in plan.others if not hides(jid.bare)]
        if not node.subscriptions:
            return plan
        now = self._kernel.clock.now()
        covered = {session.bare for session in plan.sessions} | {jid.bare for jid in plan.others}
        named: set[JID] = set()
        all_may = may_all_receive(node)
        for s in node.subscriptions.values():
            if hides is not None and hides(s.jid.bare):
                continue
            if everybody:
                plan.direct.setdefault(s.jid, []).append(s)
                continue
            if s.state is not State.SUBSCRIBED or s.over(now):
                continue
            if not all_may and not may_receive(node, s.jid.bare, relation(s.jid.bare)):
                continue
            if not self.reaches(host, node, s):
                continue
            if s.jid.resource:
                named.add(s.jid)
            elif s.jid in covered and not s.options.digest:
                continue  # XEP-0163 §4.3.2: its interested resources get it, each once
            if s.options.digest:
                plan.digests.append(s)
            else:
                plan.direct.setdefault(s.jid, []).append(s)
        if named:
            plan.sessions = [session for session in plan.sessions if session.jid not in named]
            plan.others = [jid for jid in plan.others if jid not in named]
        return plan

    def plan_again(self, host: Host, node: Node, relation: Relations, roster: Roster, hides: Hides = None) -> Plan:
        """As `plan` for a node of an account, from memory as long as it would come out the same.

        Remembered are nodes that everybody who sees the presence of the account may follow, without subscriptions or
        affiliations but its owner's, of accounts that have blocked nobody.
        """
        config = node.config
        if (
            hides is not None
            or node.subscriptions
            or config.access_model not in ("open", "presence")
            or len(node.affiliations) > 1
        ):
            return self.plan(host, node, relation, roster, hides)
        known = self._plans.get(host.jid, node, roster)
        if known is not None:
            return known
        plan = self.plan(host, node, relation, roster)
        self._plans.put(host.jid, node, roster, plan)
        return plan

    @property
    def plans(self) -> Plans:
        """Who is told, as it is remembered."""
        return self._plans

    def reaches(self, host: Host, node: Node, s: Subscription) -> bool:
        """Whether the options of a subscription, and the presence they ask for, let a notification through now."""
        options = s.options
        if not options.deliver or options.type != "items":
            return False
        needs_presence = node.config.presence_based_delivery or options.temporary
        if not options.watches_presence and not needs_presence:
            return True
        shows = self._presences.shows(host.jid, s.jid)
        if needs_presence and not shows:
            return False
        return options.wants(shows)

    def _interested(self, plan: Plan, host: Host, node: Node, relation: Relations, roster: Roster | None) -> None:
        """The resources that asked for this node by their capabilities (§9.2), the account's own ones included."""
        caps = self.caps
        if caps is None:
            return
        wanted = node.name + NOTIFY
        features_of = caps.features
        by_user = self._kernel.sessions.by_user
        add = plan.sessions.append
        now = self._kernel.clock.now()

        def look_at(bare: JID) -> None:
            user = by_user.get(bare)
            if user is not None:
                for session in user.available:
                    features = features_of(session.jid)
                    if features is not None and wanted in features:
                        add(session)

        look_at(host.jid)
        open_to_contacts = node.config.access_model in ("open", "presence") and not node.affiliations_matter
        for bare in () if roster is None else roster.subscribers_among(by_user):
            if open_to_contacts or may_follow(node, bare, relation(bare), now):
                look_at(bare)
        there = set(plan.sessions)
        for full, _ in self._presences.watchers(host.jid):
            features = features_of(full)
            bare = full.bare
            if features is None or wanted not in features or not may_follow(node, bare, relation(bare), now):
                continue
            session = self._kernel.sessions.get(full)
            if session is None:
                plan.others.append(full)
            elif session not in there:
                there.add(session)
                add(session)
                if not relation(bare).sees_presence:
                    plan.strangers.add(full)

    # ---- telling ----------------------------------------------------------------------------------------------------

    def message(self, host: Host, node: Node | None, content: bytes, *, type: str = "") -> Stanza:
        """A message of a host, without an addressee."""
        kind = type or (node.config.notification_type if node is not None else "")
        id_ = new_id()
        if node is not None and not host.account:
            self._tracked[id_] = (host.jid, node.name)
            if len(self._tracked) > TRACKED:
                self._tracked.popitem(last=False)
        return Stanza.build(MESSAGE, "" if kind == "normal" else kind, id=id_, sender=host.jid, content=content)

    def tracked(self, id_: str) -> tuple[JID, str] | None:
        """Which host's node sent the notification with this id, if that is still known."""
        return self._tracked.get(id_)

    def tell(
        self,
        host: Host,
        node: Node,
        plan: Plan,
        event: bytes,
        *,
        extra: bytes = b"",
        payload: bytes = b"",
        publisher: JID | None = None,
        subids: bool = True,
        relation: Relations | None = None,
    ) -> Awaitable[None] | None:
        """Send an event to those of the plan who collect no digests; awaitable if they are too many for one turn of the loop.

        `event` is the complete `<event/>`; `extra` what follows it (delay). `payload` is what a text to read is made
        from. `publisher` is the resource that contacts of an account are told to reply to.
        """
        if plan.sessions or plan.others:
            self._tell_interested(host, node, plan, event + extra, publisher, relation)
        if not plan.direct:
            return None
        stanzas = self._to_subscribers(host, node, plan, event, extra, payload, subids)
        waiting = self._rounds.get(node)
        if waiting is None:
            if len(plan.direct) <= SLICE:
                post = self._kernel.router.post
                for stanza in stanzas:
                    post(stanza)
                return None
            waiting = self._rounds[node] = deque()
            self._kernel.tasks.spawn(self._go_round(node, waiting), "pubsub_round")
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((stanzas, told))
        return told

    def _to_subscribers(
        self, host: Host, node: Node, plan: Plan, event: bytes, extra: bytes, payload: bytes, subids: bool
    ) -> Iterator[Stanza]:
        plain = self.message(host, node, event + extra)
        text = b""
        if payload and any(s.options.include_body for of in plan.direct.values() for s in of):
            words = summary(payload)
            text = wire.body(words) if words else b""
        for jid, of in plan.direct.items():
            stanza = plain
            if text and any(s.options.include_body for s in of):
                stanza = self.message(host, node, text + event + extra)
            if subids and len(of) > 1:
                stanza = stanza.with_child(wire.shim(s.subid for s in of))
            yield stanza.replace(to=jid)

    async def _go_round(self, node: Node, waiting: deque[tuple[Iterator[Stanza], asyncio.Future[None]]]) -> None:
        """Tell the subscribers of a node what waits for them, one event after the other, with the loop in between."""
        post = self._kernel.router.post
        try:
            while waiting:
                stanzas, told = waiting[0]
                try:
                    async for stanza in unhurried(stanzas, SLICE):
                        post(stanza)
                except Exception:  # what waits behind it, and whoever waits for that, is not to be lost with it
                    log.exception("event_not_told", node=node.name)
                waiting.popleft()
                _over(told)
                await asyncio.sleep(0)
        finally:
            del self._rounds[node]
            for _, told in waiting:
                _over(told)

    def _tell_interested(
        self, host: Host, node: Node, plan: Plan, content: bytes, publisher: JID | None, relation: Relations | None
    ) -> None:
        stanza = self.message(host, node, content)
        full = stanza
        if publisher is not None and publisher.resource and publisher.bare == host.jid:
            full = stanza.with_child(wire.reply_to(publisher))
        for jid in plan.others:
            # XEP-0163 §4.3.1: the resource is shown only to those who see its presence
            knows = relation is not None and relation(jid.bare).sees_presence
            self._kernel.router.post((full if knows else stanza).replace(to=jid))
        strangers = plan.strangers
        if strangers:
            self.to_sessions(stanza, [session for session in plan.sessions if session.jid in strangers])
            self.to_sessions(full, [session for session in plan.sessions if session.jid not in strangers])
        else:
            self.to_sessions(full, plan.sessions)

    def to_sessions(self, stanza: Stanza, sessions: Iterable[Session]) -> None:
        """Send to local sessions.

        Headlines go straight to those whose accounts have no rules of their own: neither archive nor offline storage
        take them. Everything else goes through the router and its hooks.
        """
        post = self._kernel.router.post
        if stanza.type != "headline" or MESSAGE in self._delivering.everyone:
            for session in sessions:
                post(stanza.replace(to=session.jid))
            return
        frozen = stanza.freeze()
        before, after = frozen.before, frozen.after
        for session in sessions:
            if session.guarded:
                post(stanza.replace(to=session.jid))
            else:
                session.outlet.deliver(b"".join((before, session.jid.wire, after)), stanza)

    # ---- single addressees ------------------------------------------------------------------------------------------

    def send(self, host: Host, to: JID, content: bytes, type: str) -> None:
        """Send a message that is about no node in particular to one address."""
        self._kernel.router.post(self.message(host, None, content, type=type).replace(to=to))

    def last_item(self, host: Host, node: Node, item: Item, to: JID, *, interested: Session | None = None) -> None:
        """Send the last published item to one address (§6.1.7, XEP-0163 §4.3.4)."""
        content = self.items_event(host, node, [item]) + wire.delay(item.published)
        stanza = self.message(host, node, content)
        if interested is not None:
            self.to_sessions(stanza, (interested,))
        else:
            self._kernel.router.post(stanza.replace(to=to))

    def items_event(self, host: Host, node: Node, items: Iterable[Item], gone: Iterable[str] = ()) -> bytes:
        """The event of published items, followed by those that had to go."""
        payloads = node.config.deliver_payloads
        inner = [wire.item(it, payload=payloads, publisher=self.publisher_of(node, it)) for it in items]
        retracted = wire.retractions(gone)
        return wire.event(wire.items(node.name, [*inner, retracted]))

    def publisher_of(self, node: Node, item: Item) -> str:
        """The `publisher` attribute of an item, "" if the node shows none (§12.16)."""
        reply = node.config.itemreply
        if reply == "publisher":
            return str(item.publisher)
        if reply == "owner":
            owners = node.owners()
            return str(owners[0]) if owners else ""
        return ""

    def subscription_changed(self, host: Host, node: Node, s: Subscription, state: str = "") -> None:
        """Tell a subscriber of the state its subscription is in now (§12.14)."""
        self.send(host, s.jid, wire.event(wire.subscription(node.name, s, state=state)), type="headline")

    def lease_ends(self, host: Host, node: Node, s: Subscription) -> None:
        """Tell a subscriber when its lease ends (§12.18)."""
        self.send(host, s.jid, wire.event(wire.subscription(node.name, s, expiry=True)), type="headline")

    def tell_owners(self, host: Host, node: Node, s: Subscription, state: State | None = None) -> None:
        """Tell owners of a subscriber that came or went, if the node is so configured (`pubsub#notify_sub`)."""
        if node.config.notify_sub:
            for owner in node.owners():
                change = wire.subscription(node.name, s, state=(state or s.state).value)
                self.send(host, owner, wire.event(change), type="headline")

    def affiliation_changed(self, host: Host, node: Node, jid: JID, affiliation: Affiliation) -> None:
        """Tell an entity what it is to the node now (§8.9.4)."""
        one = f"<affiliation jid='{jid.wire.decode()}' affiliation='{affiliation.value}'/>"
        inner = f"<affiliations{wire.attr('node', node.name)}>{one}</affiliations>"
        self.send(host, jid, wire.pubsub(inner), type="headline")


def _over(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)
