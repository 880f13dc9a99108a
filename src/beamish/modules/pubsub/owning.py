"""Nodes and who is what to them, seen from the owner (XEP-0060 §8)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from beamish.core.kernel import new_id
from beamish.modules.pubsub import access, config, store, wire
from beamish.modules.pubsub.engine import Asker, Engine, jid_of
from beamish.modules.pubsub.model import Host, Node, Subscription
from beamish.modules.pubsub.names import NODE_CONFIG, OWNER, PUBSUB, Affiliation, State
from beamish.modules.pubsub.subscribing import Settled, Subscribing
from beamish.storage.api import Cursor
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.forms import Submission
from beamish.xmpp.xml import Element, escape_attr, to_bytes

_X: Final = f"{{{ns.DATA}}}x"
MOVED: Final = 1000
"""Deleted nodes whose replacement is remembered, for one host."""
_URI: Final = 2000
RECHECKED: Final = 500
"""Subscriptions looked at in one turn of the loop after a change of who may have one."""


class Refusal(StanzaError):
    """An error whose answer also holds what could not be changed (§8.8.2.4, §8.9.2.4)."""

    def __init__(self, condition: Condition, content: bytes) -> None:
        super().__init__(condition, Kind.MODIFY)
        self.content = content


class Owning:
    """The operations of owners."""

    def __init__(self, engine: Engine, subscribing: Subscribing) -> None:
        self._engine = engine
        self._subscribing = subscribing

    # ---- create and delete ------------------------------------------------------------------------------------------

    async def create(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Make a node (§8.1), under a name of the service's choice if none is given."""
        engine = self._engine
        engine.check_create(host, asker)
        request = pubsub[0]
        name = request.get("node", "")
        if request.get("type", "leaf") != "leaf":
            raise config.unsupported_collection()
        wanted = engine.defaults(host, name)
        submitted = self._configuration(pubsub)
        if submitted is not None:
            wanted = config.changed(wanted, submitted, engine.bounds(host))
        node = engine.new_node(host, asker, name or new_id(), wanted)
        host.add(node)

        def txn(c: Cursor) -> None:
            node.id = store.create_node(c, str(host.jid), node)

        await engine.hosts.write(host, "create", txn)
        engine.note_purging(host)
        return wire.pubsub(f"<create node='{escape_attr(node.name)}'/>")

    def _configuration(self, pubsub: Element) -> Submission | None:
        """The configuration beside `<create/>`: it follows it and names no node (§8.1.3)."""
        if len(pubsub) < 2:
            return None
        el = pubsub[1]
        if el.tag != f"{{{PUBSUB}}}configure" or el.get("node") is not None:
            raise StanzaError(Condition.BAD_REQUEST, text="configure follows create, without a node")
        form = el.find(_X)
        if form is None:
            return None
        submitted = Submission.from_xml(form, NODE_CONFIG)
        return None if submitted.cancelled else submitted

    async def delete(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Delete a node (§8.4), remembering the address of its replacement if one is named."""
        engine = self._engine
        request = pubsub[0]
        node = engine.owned(host, request.get("node", ""), asker)
        redirect = request.find(f"{{{OWNER}}}redirect")
        uri = "" if redirect is None else redirect.get("uri", "") or (redirect.text or "").strip()
        if len(uri) > _URI:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="the redirection is too long")
        await self.destroy(host, node, uri)
        return b""

    async def destroy(self, host: Host, node: Node, uri: str = "") -> None:
        """Delete a node with everything in it, then tell its subscribers."""
        engine = self._engine
        plan, relation = await engine.plan(host, node, everybody=True)
        host.drop(node)
        if uri and len(host.moved) < MOVED:
            host.moved[node.name] = uri
        for s in node.subscriptions.values():
            engine.digests.dropped(s)

        def txn(c: Cursor) -> int:
            size = store.purge(c, node.id)
            store.delete_node(c, str(host.jid), node.name, node.id, uri, MOVED)
            return size

        host.stored -= await engine.hosts.write(host, "delete", txn)
        told: Awaitable[None] | None = None
        if node.config.notify_delete:
            inner = f"<redirect uri='{escape_attr(uri)}'/>" if uri else ""
            head = f"<delete node='{escape_attr(node.name)}'"
            event = wire.event(f"{head}>{inner}</delete>" if inner else f"{head}/>")
            told = engine.outbox.tell(host, node, plan, event, subids=False, relation=relation)
        await engine.told(told, engine.published(host, node, [], [], purged=True))

    # ---- configure --------------------------------------------------------------------------------------------------

    async def get_configuration(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """The configuration form (§8.2.1)."""
        engine = self._engine
        node = engine.owned(host, pubsub[0].get("node", ""), asker)
        groups: dict[str, None] = {}
        if host.account:
            for entry in (await engine.roster(host.jid)).items():
                groups.update(dict.fromkeys(entry.groups))
        form = node.config.form(engine.bounds(host), groups=groups)
        head = f"<configure node='{escape_attr(node.name)}'>"
        return wire.pubsub(head.encode() + to_bytes(form) + b"</configure>", OWNER)

    async def set_configuration(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """A configuration submitted (§8.2.4)."""
        engine = self._engine
        node = engine.owned(host, pubsub[0].get("node", ""), asker)
        form = pubsub[0].find(_X)
        if form is None:
            raise StanzaError(Condition.BAD_REQUEST, text="there is no form")
        submitted = Submission.from_xml(form, NODE_CONFIG)
        if not submitted.cancelled:
            await self.reconfigure(host, node, config.changed(node.config, submitted, engine.bounds(host)))
        return b""

    async def reconfigure(self, host: Host, node: Node, wanted: config.NodeConfig) -> None:
        """Give a node another configuration, with everything that follows from it."""
        engine = self._engine
        before = node.config
        node.config = wanted
        keep = engine.keep(host, node)

        def txn(c: Cursor) -> int:
            store.set_config(c, node.id, wanted)
            return store.trim(c, node.id, keep)[1] if keep else store.purge(c, node.id)

        host.stored -= await engine.hosts.write(host, "configure", txn)
        if not keep:
            node.last, node.last_known = None, False
        engine.note_purging(host)
        access_changed = (before.access_model, before.roster_groups_allowed) != (
            wanted.access_model,
            wanted.roster_groups_allowed,
        )
        if access_changed:
            await self.recheck(host, node)
        if wanted.notify_config:
            plan, relation = await engine.plan(host, node)
            form = to_bytes(wanted.form(engine.bounds(host), "result")) if wanted.deliver_payloads else b""
            head = f"<configuration node='{escape_attr(node.name)}'"
            inner = b">" + form + b"</configuration>" if form else b"/>"
            event = wire.event(head.encode() + inner)
            await engine.told(engine.outbox.tell(host, node, plan, event, subids=False, relation=relation))
        if access_changed and host.account:
            await engine.access_changed(host, node, before)

    async def recheck(self, host: Host, node: Node, only: list[JID] | None = None) -> None:
        """End the subscriptions of those who may no longer have one (XEP-0163 §8.1), all or those of some bare JIDs.

        Of very many, some in each turn of the loop; nothing goes to those whose turn is still to come, see `may_receive`.
        """
        of = await self._engine.relations(host, node)
        there = list(node.subscriptions.values()) if only is None else _of_all(node, only)
        for at in range(0, len(there), RECHECKED):
            if at:
                await asyncio.sleep(0)
            changes = [
                self._subscribing.put(host, node, s, State.NONE)
                for s in there[at : at + RECHECKED]
                if s.state is State.SUBSCRIBED
                and s.subid in node.subscriptions
                and not access.may_receive(node, s.jid.bare, of(s.jid.bare))
            ]
            await self._subscribing.settle(host, node, changes)

    async def default_configuration(self, host: Host, _asker: Asker, pubsub: Element) -> bytes:
        """The configuration that new nodes get (§8.3)."""
        engine = self._engine
        if pubsub[0].get("type", "leaf") != "leaf":
            raise config.unsupported_collection()
        form = engine.defaults(host).form(engine.bounds(host))
        return wire.pubsub(b"<default>" + to_bytes(form) + b"</default>", OWNER)

    # ---- subscriptions ----------------------------------------------------------------------------------------------

    async def get_subscriptions(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """All subscriptions of a node but the pending ones (§8.8.1)."""
        engine = self._engine
        node = engine.owned(host, pubsub[0].get("node", ""), asker)
        now = engine.clock.now()
        inner = "".join(
            wire.subscription("", s)
            for s in node.subscriptions.values()
            if s.state is not State.PENDING and not s.over(now)
        )
        return wire.pubsub(f"<subscriptions node='{escape_attr(node.name)}'>{inner}</subscriptions>", OWNER)

    async def set_subscriptions(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Subscriptions changed by an owner (§8.8.2). What is wrong is answered with what is there, the rest is done."""
        engine = self._engine
        node = engine.owned(host, pubsub[0].get("node", ""), asker)
        wrong: list[str] = []
        changes: list[Settled] = []
        for jid, el in [(jid_of(el), el) for el in pubsub[0].findall(f"{{{OWNER}}}subscription")]:
            there = [s for s in node.of(jid) if el.get("subid") in (None, "", s.subid)]
            text = el.get("subscription")
            if text is None:
                continue
            if text not in ("none", "subscribed", "pending", "unconfigured") or not self._set_one(
                host, node, jid, there, State(text)
            ):
                state = there[0].state.value if there else "none"
                wrong.append(f"<subscription jid='{escape_attr(jid)}' subscription='{state}'/>")
                continue
            changes += self._apply(host, node, jid, there, State(text))
        await self._subscribing.settle(host, node, changes)
        if wrong:
            inner = f"<subscriptions node='{escape_attr(node.name)}'>{''.join(wrong)}</subscriptions>"
            raise Refusal(Condition.NOT_ACCEPTABLE, wire.pubsub(inner, OWNER))
        return b""

    def _set_one(self, host: Host, node: Node, jid: JID, there: list[Subscription], state: State) -> bool:
        if state is State.NONE:
            return bool(there)
        if state is not State.SUBSCRIBED:
            return all(s.state is state for s in there) and bool(there)
        if node.affiliation(jid.bare) is Affiliation.OUTCAST:
            return False
        return bool(there) or len(node.subscriptions) < self._engine.limits(host).subscribers

    def _apply(self, host: Host, node: Node, jid: JID, there: list[Subscription], state: State) -> list[Settled]:
        if state is State.SUBSCRIBED and not there:
            s = Subscription(jid, new_id(), State.PENDING)
            host.subscribe(node, s)
            there = [s]
        if state not in (State.NONE, State.SUBSCRIBED):
            return []
        return [self._subscribing.put(host, node, s, state) for s in there if s.state is not state]

    # ---- affiliations -----------------------------------------------------------------------------------------------

    async def get_affiliations(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """All affiliations of a node (§8.9.1)."""
        node = self._engine.owned(host, pubsub[0].get("node", ""), asker)
        inner = "".join(
            f"<affiliation jid='{escape_attr(jid)}' affiliation='{what.value}'/>"
            for jid, what in node.affiliations.items()
        )
        return wire.pubsub(f"<affiliations node='{escape_attr(node.name)}'>{inner}</affiliations>", OWNER)

    async def set_affiliations(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Affiliations changed by an owner (§8.9.2). What is wrong is answered with what is there, the rest is done."""
        engine = self._engine
        node = engine.owned(host, pubsub[0].get("node", ""), asker)
        wrong: list[str] = []
        done: list[tuple[JID, Affiliation]] = []
        for jid, text in _wanted_affiliations(pubsub[0]).items():
            there = node.affiliation(jid)
            if not self._may_become(host, node, jid, text):
                wrong.append(f"<affiliation jid='{escape_attr(jid)}' affiliation='{there.value}'/>")
                continue
            what = Affiliation(text)
            if what is there:
                continue
            done.append((jid, what))
            if what is Affiliation.NONE:
                node.affiliations.pop(jid, None)
            else:
                node.affiliations[jid] = what
        if done:

            def txn(c: Cursor) -> None:
                for jid, what in done:
                    store.set_affiliation(c, node.id, jid, what)

            await engine.hosts.write(host, "affiliations", txn)
            await self._became(host, node, done)
        if wrong:
            inner = f"<affiliations node='{escape_attr(node.name)}'>{''.join(wrong)}</affiliations>"
            raise Refusal(Condition.NOT_ACCEPTABLE, wire.pubsub(inner, OWNER))
        return b""

    async def part(self, host: Host, node: Node, jid: JID) -> None:
        """Take away an affiliation without a word: the account is gone."""
        node.affiliations.pop(jid, None)
        await self._engine.hosts.write(host, "part", lambda c: store.set_affiliation(c, node.id, jid, Affiliation.NONE))

    def _may_become(self, host: Host, node: Node, jid: JID, text: str) -> bool:
        """§8.9.2.4: there is always an owner, and the account is always the owner of its nodes."""
        if text not in [what.value for what in Affiliation]:
            return False
        before = node.affiliation(jid)
        if before is Affiliation.OWNER and text != "owner":
            if host.account and jid == host.jid:
                return False
            return len(node.owners()) > 1
        return before is not Affiliation.NONE or len(node.affiliations) < self._engine.limits(host).affiliations

    async def _became(self, host: Host, node: Node, done: list[tuple[JID, Affiliation]]) -> None:
        """What follows from other affiliations for subscriptions (§8.7, note), and the messages about them."""
        settling = self._subscribing
        changes: list[Settled] = []
        for jid, what in done:
            for s in node.of_entity(jid):
                if what in (Affiliation.OUTCAST, Affiliation.PUBLISH_ONLY):
                    changes.append(settling.put(host, node, s, State.NONE))
                elif s.state is State.PENDING and what in (
                    Affiliation.OWNER,
                    Affiliation.PUBLISHER,
                    Affiliation.MEMBER,
                ):
                    changes.append(settling.put(host, node, s, State.SUBSCRIBED))
        await settling.settle(host, node, changes)
        await self.recheck(host, node, [jid for jid, _ in done])
        for jid, what in done:
            self._engine.outbox.affiliation_changed(host, node, jid, what)


def _of_all(node: Node, bares: list[JID]) -> list[Subscription]:
    return [s for bare in bares for s in node.of_entity(bare)]


def _wanted_affiliations(el: Element) -> dict[JID, str]:
    """As the owner wrote them. Raises `StanzaError`."""
    wanted: dict[JID, str] = {}
    for child in el.findall(f"{{{OWNER}}}affiliation"):
        jid = jid_of(child).bare
        if jid in wanted:
            raise StanzaError(Condition.BAD_REQUEST, text="an entity is named twice")
        wanted[jid] = child.get("affiliation", "")
    return wanted
