"""A publish-subscribe service with an address of its own (`pubsub.{domain}`): everything that is sent to it.

Addresses below it (`news@pubsub.…`) and nodes as resources (§4.6.1) do not exist here.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core.disco import DiscoInfo, DiscoItem, items_bytes
from beamish.core.events import Context
from beamish.core.iq import check_request
from beamish.core.module import Identity
from beamish.core.sparing import Sparing
from beamish.modules.pubsub.discovery import SERVICE_FEATURES, Discovery, of_types
from beamish.modules.pubsub.engine import Asker, Engine
from beamish.modules.pubsub.model import Host, Node, Subscription
from beamish.modules.pubsub.names import COMMANDS, GET_PENDING, OWNER, PUBSUB, SUBSCRIBE_AUTHORIZATION, State, no_node
from beamish.modules.pubsub.owning import Owning
from beamish.modules.pubsub.requests import Requests
from beamish.modules.pubsub.subscribing import Subscribing
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.forms import Field, Form, Option, Submission
from beamish.xmpp.payload.rsm import Request, page
from beamish.xmpp.stanza import IQ, PRESENCE, Stanza
from beamish.xmpp.xml import Element, escape_attr, to_bytes

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

_X: Final = f"{{{ns.DATA}}}x"
_COMMAND: Final = f"{{{COMMANDS}}}command"
PAGE: Final = 500
"""Nodes or items listed at once."""
BOUNCES: Final = 10
"""So many notifications that come back, since the server started, end a subscription (§12.4)."""
_LASTING: Final = frozenset(("item-not-found", "gone"))


class Service:
    """One service domain."""

    def __init__(
        self,
        kernel: Kernel,
        engine: Engine,
        jid: JID,
        requests: Requests,
        subscribing: Subscribing,
        owning: Owning,
        discovery: Discovery,
        *,
        name: str,
    ) -> None:
        self._kernel = kernel
        self._engine = engine
        self.jid = jid
        self._requests = requests
        self._subscribing = subscribing
        self._owning = owning
        self._discovery = discovery
        self._sparing = Sparing(kernel.clock)
        # §7.1.4: said only where it is so
        more = (f"{PUBSUB}#auto-create",) if engine.settings.auto_create else ()
        info = DiscoInfo((Identity("pubsub", "service", name),), (*SERVICE_FEATURES, *more))
        self._info = info.to_bytes()

    async def host(self) -> Host:
        """The nodes of this service."""
        return await self._engine.host(self.jid, account=False)

    def handle(self, ctx: Context) -> Awaitable[None] | None:
        """Take any stanza for this domain. Raises `StanzaError`, at once or when awaited."""
        stanza = ctx.stanza
        to = stanza.to
        assert to is not None and stanza.sender is not None
        if stanza.name == IQ:
            if stanza.type in ("result", "error"):
                return self._kernel.iq.handle(ctx)
            if to.local or to.resource:
                raise StanzaError(Condition.ITEM_NOT_FOUND)
            return self._iq(ctx) if not self._publishes(ctx) else None
        if stanza.name == PRESENCE:
            return None if to.local else self._presence(ctx)
        return self._message(ctx)

    def asker(self, ctx: Context) -> Asker:
        """Who sent a stanza."""
        sender = ctx.stanza.sender
        assert sender is not None
        anonymous = ctx.origin is not None and ctx.origin.anonymous
        return Asker(sender, sender.bare, sender.bare in self._kernel.admins, anonymous)

    # ---- IQ ---------------------------------------------------------------------------------------------------------

    def _publishes(self, ctx: Context) -> bool:
        """The one request that is worth a short cut."""
        if check_request(ctx.stanza).tag != f"{{{PUBSUB}}}pubsub":
            return False
        answer = self._kernel.router.answer
        host = self._engine.hosts.cached(self.jid)
        return self._requests.now(host, self.asker(ctx), ctx, lambda reply: answer(ctx, reply))

    async def _iq(self, ctx: Context) -> None:
        stanza = ctx.stanza
        payload = check_request(stanza)
        asker, tag = self.asker(ctx), str(payload.tag)
        if tag in (f"{{{PUBSUB}}}pubsub", f"{{{OWNER}}}pubsub"):
            reply = await self._requests.answer(await self.host(), asker, stanza)
        elif stanza.type == "get" and tag == f"{{{ns.DISCO_INFO}}}query":
            reply = stanza.reply(await self._disco_info(asker, payload))
        elif stanza.type == "get" and tag == f"{{{ns.DISCO_ITEMS}}}query":
            reply = stanza.reply(await self._disco_items(asker, payload))
        elif stanza.type == "set" and tag == _COMMAND:
            reply = stanza.reply(await self._command(asker, payload))
        elif stanza.type == "get" and tag == f"{{{ns.PING}}}ping":
            reply = stanza.reply()
        else:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE)
        self._kernel.router.answer(ctx, reply)

    async def _disco_info(self, asker: Asker, query: Element) -> bytes:
        name = query.get("node", "")
        if not name:
            return self._info
        if name == GET_PENDING:
            features = (COMMANDS, ns.DATA)
            return DiscoInfo((Identity("automation", "command-node", "Pending subscriptions"),), features).to_bytes(
                name
            )
        host, node = await self._known(asker, name)
        return self._discovery.info(host, node).to_bytes(name)

    async def _known(self, asker: Asker, name: str) -> tuple[Host, Node]:
        host = await self.host()
        node = self._engine.node(host, name)
        if not await self._discovery.may_know(host, node, asker):
            raise no_node()
        return host, node

    async def _disco_items(self, asker: Asker, query: Element) -> bytes:
        name = query.get("node", "")
        if name == COMMANDS:
            return items_bytes([DiscoItem(self.jid, GET_PENDING, "Pending subscriptions")], name)
        if not name:
            items = await self._discovery.nodes(await self.host(), asker, of_types(query))
            return _paged(items, [item.node for item in items], query)
        host, node = await self._known(asker, name)
        items = await self._discovery.items(host, node, asker)
        return _paged(items, [item.name for item in items], query)

    async def _command(self, asker: Asker, command: Element) -> bytes:
        """XEP-0050: the one command there is, pending subscription requests (§8.7)."""
        if command.get("node") != GET_PENDING:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such command")
        host = await self.host()
        session = command.get("sessionid") or f"pubsub-get-pending:{secrets.token_hex(8)}"
        if command.get("action") == "cancel":
            return _command(session, "canceled", b"")
        mine = [node for node in host if asker.admin or asker.bare in node.owners()]
        form = command.find(_X)
        if form is None:
            if not mine:
                raise StanzaError(Condition.FORBIDDEN)
            waiting = [node for node in mine if _pending(node)] or mine  # a list has options (XEP-0004 §3.3)
            options = tuple(Option(node.name, node.config.title) for node in waiting)
            field = Field("pubsub#node", "list-single", (), "Node", options)
            asked = Form.of("form", SUBSCRIBE_AUTHORIZATION, [field], title="Pending subscriptions")
            actions = b"<actions execute='complete'><complete/></actions>"
            return _command(session, "executing", actions + to_bytes(asked.to_xml()))
        submitted = Submission.from_xml(form)
        if not submitted.cancelled:
            node = self._engine.owned(host, submitted.text("pubsub#node") or "", asker)
            for s in _pending(node):
                self._subscribing.ask_owners(host, node, s, [asker.bare])
        return _command(session, "completed", b"")

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _message(self, ctx: Context) -> Awaitable[None] | None:
        stanza = ctx.stanza
        if stanza.type == "error":
            return self._bounced(stanza)
        form = stanza.child(_X)
        if form is None or stanza.to != self.jid:
            if stanza.type == "headline":
                return None
            raise StanzaError(Condition.SERVICE_UNAVAILABLE)
        return self._approve(ctx, form)

    async def _approve(self, ctx: Context, form: Element) -> None:
        submitted = Submission.from_xml(form, SUBSCRIBE_AUTHORIZATION)
        await self._subscribing.decide(await self.host(), self.asker(ctx), submitted)

    async def _bounced(self, stanza: Stanza) -> None:
        """A notification came back (§12.4)."""
        sender = stanza.sender
        known = self._engine.outbox.tracked(stanza.id)
        if known is None or sender is None or known[0] != self.jid:
            return
        host = await self.host()
        node = host.nodes.get(known[1])
        if node is None:
            return
        error = stanza.child("{jabber:client}error")
        lasting = error is not None and any(str(c.tag).rpartition("}")[2] in _LASTING for c in error)
        for s in node.of(sender):
            s.bounces += 1
            if lasting or s.bounces >= BOUNCES:
                self._sparing.write(log.info, "subscription_bounced", node.name, node=node.name, subscriber=str(s.jid))
                await self._subscribing.end(host, node, s)

    # ---- presence ---------------------------------------------------------------------------------------------------

    def _presence(self, ctx: Context) -> Awaitable[None] | None:
        """§12.5: the presence of subscribers elsewhere, who share it by subscribing or directing it to the service."""
        stanza = ctx.stanza
        sender = stanza.sender
        assert sender is not None
        presences = self._engine.presences
        if stanza.type == "subscribe":
            self._kernel.router.post(Stanza.build(PRESENCE, "subscribed", sender=self.jid, to=sender.bare))
            self._kernel.router.post(Stanza.build(PRESENCE, sender=self.jid, to=sender.bare))
        elif stanza.type == "probe":
            self._kernel.router.post(Stanza.build(PRESENCE, sender=self.jid, to=sender))
        elif stanza.type == "" and sender.resource:
            watcher = presences.available(self.jid, sender, stanza)
            if watcher is not None and not presences.is_local(sender):
                return self.appeared(sender, watcher.since, self._engine.hosts.begun)
        elif (
            stanza.type in ("unavailable", "error")
            and presences.gone(self.jid, sender)
            and not presences.is_local(sender)
        ):
            return self.left(sender)
        return None

    async def appeared(self, full: JID, since: float | None, at: int) -> None:
        """A subscriber's resource became available: send it the last items (§12.1), or what it missed (XEP-0312).

        `at`: see `Hosts.last`.
        """
        host = await self.host()
        nodes: dict[str, Node] = {}
        for node, s in host.subscriptions_of(full.bare):
            config = node.config
            if (
                config.send_last_published_item == "on_sub_and_presence"
                and config.deliver_notifications
                and s.active
                and not s.options.digest
                and s.jid in (full, full.bare)
                and not s.over(self._engine.clock.now())
                and self._engine.outbox.reaches(host, node, s)
            ):
                nodes[node.name] = node
        if not nodes:
            return
        for node, item in await self._engine.hosts.fresh(host, list(nodes.values()), since, at):
            if item.published > self._engine.oldest(node):
                self._engine.outbox.last_item(host, node, item, full)

    async def left(self, full: JID) -> None:
        """A resource is gone: its temporary subscriptions end (§12.4), and items that were to go with it."""
        host = await self.host()
        bare = full.bare
        still = bool(self._engine.presences.shows(self.jid, bare))
        for node, s in host.subscriptions_of(bare):
            if s.options.temporary and (s.jid == full or (s.jid == bare and not still)):
                await self._subscribing.end(host, node, s)


def _pending(node: Node) -> list[Subscription]:
    return [s for s in node.subscriptions.values() if s.state is State.PENDING]


def _command(session: str, status: str, inner: bytes) -> bytes:
    head = f"<command xmlns='{COMMANDS}' node='{GET_PENDING}' sessionid='{escape_attr(session)}' status='{status}'"
    return head.encode() + (b">" + inner + b"</command>" if inner else b"/>")


def _paged(items: list[DiscoItem], ids: list[str], query: Element) -> bytes:
    """A list of items, one page of it if that is asked for (XEP-0059) or if it is long."""
    wanted = Request.from_xml(query)
    if not items:
        return items_bytes((), query.get("node", ""))  # XEP-0059 §2.2: an empty list has no pages
    where, told = page(ids, wanted, PAGE)
    shown = items_bytes([items[at] for at in where], query.get("node", ""))
    if wanted is None and len(where) == len(items):
        return shown
    opened = shown.removesuffix(b"</query>")
    return opened + to_bytes(told.to_xml()) + b"</query>"
