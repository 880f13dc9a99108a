"""Subscriptions, seen from the subscriber (XEP-0060 §6.1 to §6.4, §5.6, §5.7)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from beamish.core.kernel import new_id
from beamish.core.later import unhurried
from beamish.modules.pubsub import access, options, store, wire
from beamish.modules.pubsub.engine import Asker, Engine, jid_of
from beamish.modules.pubsub.model import Host, Node, Subscription
from beamish.modules.pubsub.names import (
    PUBSUB,
    SUBSCRIBE_AUTHORIZATION,
    SUBSCRIBE_OPTIONS,
    Affiliation,
    State,
    forbidden,
    refused,
)
from beamish.modules.pubsub.options import Options
from beamish.storage.api import Cursor
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.forms import Field, Form, Submission, boolean
from beamish.xmpp.stanza import PRESENCE, Stanza
from beamish.xmpp.xml import Element, escape_attr, to_bytes

_OPTIONS: Final = f"{{{PUBSUB}}}options"
_X: Final = f"{{{ns.DATA}}}x"
PER_ADDRESS: Final = 20
"""Subscriptions of one JID to one node."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A subscription that was put into a state, and whether it gets events only from now on."""

    subscription: Subscription
    state: State
    new: bool


class Subscribing:
    """The operations of subscribers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # ---- subscribe --------------------------------------------------------------------------------------------------

    async def subscribe(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Subscribe (§6.1), with options in the same request if there are some (§6.3.7)."""
        engine = self._engine
        request = pubsub[0]
        node = engine.node(host, request.get("node", ""))
        jid = jid_of(request)
        if jid.bare != asker.bare:
            raise refused(Condition.BAD_REQUEST, "invalid-jid")
        if asker.anonymous and not host.account:
            raise StanzaError(Condition.FORBIDDEN, Kind.CANCEL, "anonymous sessions do not subscribe")
        submitted = _submitted_with(pubsub)
        relation = await engine.relation(host, node, asker.bare)
        state = access.check_subscribe(node, asker.bare, relation)
        there = node.of(jid)
        if any(s.state is State.PENDING for s in there):
            raise refused(Condition.NOT_AUTHORIZED, "pending-subscription")
        wanted = Options(expire=options.PRESENCE) if node.config.tempsub else Options()
        if submitted is not None:
            wanted = options.changed(wanted, submitted, engine.clock.now(), engine.settings.longest_lease)
        if there and submitted is None:
            # the same again is no second subscription, but asking for other options is; it is answered as if the
            # subscription was just approved (§6.1.6), and so with the last item: clients ask for it like that
            await self.send_last(host, node, [there[0]], engine.hosts.begun)
            return self._subscribed(node, there[0], None)
        limits = engine.limits(host)
        if (
            host.count_of(asker.bare) >= limits.subscriptions
            or len(there) >= PER_ADDRESS
            or len(node.subscriptions) >= limits.subscribers
        ):
            raise refused(Condition.POLICY_VIOLATION, "too-many-subscriptions", Kind.WAIT)
        s = Subscription(jid, new_id(), state, wanted)
        host.subscribe(node, s)
        at = engine.hosts.begun
        await self._store(host, node, s)
        self._watch(host, node, s)
        if state is State.PENDING:
            self.ask_owners(host, node, s)
        else:
            engine.outbox.tell_owners(host, node, s)
            await self.send_last(host, node, [s], at)
        return self._subscribed(node, s, wanted if submitted is not None else None)

    def _subscribed(self, node: Node, s: Subscription, shown: Options | None) -> bytes:
        inner = "" if s.state is State.PENDING else "<subscribe-options/>"
        told = wire.subscription(node.name, s, inner=inner).encode()
        if shown is not None:
            told += b"<options>" + to_bytes(shown.form("result")) + b"</options>"
        return wire.pubsub(told)

    async def _store(self, host: Host, node: Node, s: Subscription) -> None:
        subid, jid, state, wanted = s.subid, s.jid, s.state, s.options
        await self._engine.hosts.write(
            host, "subscribe", lambda c: store.set_subscription(c, node.id, subid, jid, state, wanted)
        )

    def _watch(self, host: Host, node: Node, s: Subscription) -> None:
        """Ask an entity elsewhere for its presence, if notifications depend on it (§12.5)."""
        needed = s.options.watches_presence or s.options.temporary or node.config.presence_based_delivery
        if needed and not host.account and not self._engine.presences.is_local(s.jid):
            self._engine.kernel.router.post(
                Stanza.build(PRESENCE, "subscribe", id=new_id(), sender=host.jid, to=s.jid.bare)
            )

    async def send_last(self, host: Host, node: Node, subscriptions: list[Subscription], at: int) -> None:
        """Send the last published item to new subscribers (§6.1.7); `at`: see `Hosts.last`."""
        engine = self._engine
        if node.config.send_last_published_item == "never" or not node.config.deliver_notifications:
            return
        wanted = [s for s in subscriptions if s.options.deliver and s.active and s.subid in node.subscriptions]
        if not wanted or not engine.keep(host, node):
            return
        found = await engine.hosts.last(host, [node], at)
        item = found.get(node.name)
        if item is not None and item.published > engine.oldest(node):
            for s in wanted:
                engine.outbox.last_item(host, node, item, s.jid)

    # ---- approval ---------------------------------------------------------------------------------------------------

    def ask_owners(self, host: Host, node: Node, s: Subscription, owners: list[JID] | None = None) -> None:
        """Send the owners the form by which they approve a subscription (§8.6); its id names the subscription."""
        fields = (
            Field("pubsub#subid", "hidden", (s.subid,)),
            Field("pubsub#node", "text-single", (node.name,), "Node"),
            Field("pubsub#subscriber_jid", "jid-single", (str(s.jid),), "Subscriber"),
            boolean("pubsub#allow", False, "Allow this subscription?"),
        )
        form = Form.of(
            "form",
            SUBSCRIBE_AUTHORIZATION,
            fields,
            title="A subscription awaits approval",
            instructions=f"{s.jid} wants to subscribe to {node.name}.",
        )
        content = to_bytes(form.to_xml())
        for owner in owners if owners is not None else node.owners():
            self._engine.outbox.send(host, owner, content, type="normal")

    async def decide(self, host: Host, asker: Asker, submitted: Submission) -> None:
        """An owner submitted an approval form (§8.6). Raises `StanzaError`."""
        if submitted.cancelled:
            return
        node = self._engine.owned(host, submitted.text("pubsub#node") or "", asker)
        allow = submitted.boolean("pubsub#allow")
        if allow is None:
            raise StanzaError(Condition.BAD_REQUEST, text="pubsub#allow is missing")
        subid = submitted.text("pubsub#subid")
        jids = frozenset(submitted.jids("pubsub#subscriber_jid") or ())
        waiting = [s for s in node.subscriptions.values() if s.state is State.PENDING]
        chosen = [s for s in waiting if s.subid == subid] or [s for s in waiting if not subid and s.jid in jids]
        if not chosen:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="no such subscription awaits approval")
        state = State.SUBSCRIBED if allow else State.NONE
        await self.settle(host, node, [self.put(host, node, s, state) for s in chosen])

    def put(self, host: Host, node: Node, s: Subscription, state: State) -> Settled:
        """Put a subscription into a state decided by an owner (or by events), in memory; `settle` must follow."""
        before = s.state
        if state is State.NONE:
            host.unsubscribe(node, s)
        else:
            s.state = state
        return Settled(s, state, state is State.SUBSCRIBED and before is not State.SUBSCRIBED)

    async def settle(self, host: Host, node: Node, changes: list[Settled]) -> None:
        """Store what `put` has changed at once, tell the subscribers, some in each turn of the loop, and send new ones the last
        item."""
        if not changes:
            return
        engine = self._engine
        at = engine.hosts.begun
        rows = [(one.subscription, one.state, one.subscription.options) for one in changes]

        def txn(c: Cursor) -> None:
            for s, state, wanted in rows:
                store.set_subscription(c, node.id, s.subid, s.jid, state, wanted)

        await engine.hosts.write(host, "subscribe", txn)
        final = {s.subid: state for s, state, _ in rows}
        async for s, state, _ in unhurried(rows):
            if (s.state if s.subid in node.subscriptions else State.NONE) is final[s.subid]:
                engine.outbox.subscription_changed(host, node, s, state.value)
            # else it was changed again meanwhile, and whoever did that tells what counts
        await self.send_last(host, node, [one.subscription for one in changes if one.new], at)

    # ---- unsubscribe ------------------------------------------------------------------------------------------------

    async def unsubscribe(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Unsubscribe (§6.2)."""
        request = pubsub[0]
        node = self._engine.node(host, request.get("node", ""))
        jid = jid_of(request)
        if jid.bare != asker.bare and not (asker.admin and not host.account):
            raise forbidden()
        s = _chosen(node, jid, request.get("subid", ""), Kind.CANCEL)
        await self.end(host, node, s)
        self._engine.outbox.tell_owners(host, node, s, State.NONE)
        return wire.pubsub(wire.subscription(node.name, s, state="none"))

    async def end(self, host: Host, node: Node, s: Subscription) -> None:
        """End a subscription, silently."""
        host.unsubscribe(node, s)
        self._engine.digests.dropped(s)
        await self._store(host, node, replace(s, state=State.NONE))

    # ---- options ----------------------------------------------------------------------------------------------------

    async def get_options(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """The options form (§6.3.2)."""
        node, s = self._mine(host, asker, pubsub[0])
        head = f"<options node='{escape_attr(node.name)}' jid='{escape_attr(s.jid)}'{wire.attr('subid', s.subid)}>"
        return wire.pubsub(head.encode() + to_bytes(s.options.form()) + b"</options>")

    async def set_options(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Options submitted (§6.3.5)."""
        engine = self._engine
        node, s = self._mine(host, asker, pubsub[0])
        submitted = _submitted(pubsub[0])
        if submitted.cancelled:
            return b""
        s.options = options.changed(s.options, submitted, engine.clock.now(), engine.settings.longest_lease)
        if node.config.tempsub:
            s.options = replace(s.options, expire=options.PRESENCE)
        await self._store(host, node, s)
        self._watch(host, node, s)
        if not s.options.digest:
            await engine.digests.send(host, node, s)
        return b""

    def _mine(self, host: Host, asker: Asker, request: Element) -> tuple[Node, Subscription]:
        node = self._engine.node(host, request.get("node", ""))
        jid = jid_of(request)
        if jid.bare != asker.bare and not (asker.admin and not host.account):
            raise forbidden()
        return node, _chosen(node, jid, request.get("subid", ""), Kind.MODIFY)

    async def default_options(self, host: Host, _asker: Asker, pubsub: Element) -> bytes:
        """The default options, of a node or of all (§6.4)."""
        name = pubsub[0].get("node", "")
        wanted = Options()
        if name and self._engine.node(host, name).config.tempsub:
            wanted = Options(expire=options.PRESENCE)
        head = f"<default{wire.attr('node', name)}>"
        return wire.pubsub(head.encode() + to_bytes(wanted.form("result")) + b"</default>")

    # ---- what one has -----------------------------------------------------------------------------------------------

    async def subscriptions(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """The asker's subscriptions, at one node or at all (§5.6)."""
        name = pubsub[0].get("node", "")
        only = self._engine.node(host, name) if name else None
        now = self._engine.clock.now()
        mine = sorted(
            ((node, s) for node, s in host.subscriptions_of(asker.bare) if not s.over(now)),
            key=lambda found: (found[0].name, found[0].created),
        )
        inner = "".join(wire.subscription(node.name, s, expiry=True) for node, s in mine if only in (None, node))
        return wire.pubsub(f"<subscriptions{wire.attr('node', name)}>{inner}</subscriptions>")

    async def affiliations(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """What the asker is to one node or to all (§5.7)."""
        name = pubsub[0].get("node", "")
        nodes = [self._engine.node(host, name)] if name else list(host)
        inner = "".join(
            f"<affiliation node='{escape_attr(node.name)}' affiliation='{node.affiliation(asker.bare).value}'/>"
            for node in nodes
            if node.affiliation(asker.bare) is not Affiliation.NONE
        )
        return wire.pubsub(f"<affiliations{wire.attr('node', name)}>{inner}</affiliations>")


def _chosen(node: Node, jid: JID, subid: str, kind: Kind) -> Subscription:
    """The subscription that a request means (§6.2.3, §6.3.4)."""
    there = node.of(jid)
    if not there:
        raise refused(Condition.UNEXPECTED_REQUEST, "not-subscribed", kind)
    if not subid:
        if len(there) > 1:
            raise refused(Condition.BAD_REQUEST, "subid-required")
        return there[0]
    for s in there:
        if s.subid == subid:
            return s
    raise refused(Condition.NOT_ACCEPTABLE, "invalid-subid")


def _submitted(parent: Element) -> Submission:
    form = parent.find(_X)
    if form is None:
        raise refused(Condition.BAD_REQUEST, "invalid-options", text="there is no form")
    return Submission.from_xml(form, SUBSCRIBE_OPTIONS)


def _submitted_with(pubsub: Element) -> Submission | None:
    """The options beside `<subscribe/>`: they follow it, and name neither node nor JID (§6.3.7)."""
    if len(pubsub) < 2:
        return None
    el = pubsub[1]
    if el.tag != _OPTIONS or el.get("node") is not None or el.get("jid") is not None:
        raise StanzaError(Condition.BAD_REQUEST, text="options follow subscribe, without node and jid")
    return _submitted(el)
