"""XEP-0060 and XEP-0163: the module that holds services and accounts' nodes together.

Not here: collections (XEP-0248), chaining of nodes, and payment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Literal

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.disco import DiscoItem, DiscoNode
from beamish.core.events import (
    AccountEvent,
    CapsKnown,
    Context,
    Exporting,
    PresenceChanged,
    SessionClosed,
    SessionNotes,
    SubscriptionChanged,
)
from beamish.core.hooks import STOP, Outcome
from beamish.core.module import Identity, IqAnswer, Module, ModuleConfig, Scope, Xep, iq, on
from beamish.core.services import CapsService, PepService, RosterService
from beamish.core.sessions import Session
from beamish.modules.pubsub import due, store, wire
from beamish.modules.pubsub.bookmarks import FEATURE as BOOKMARKS_FEATURE
from beamish.modules.pubsub.bookmarks import Bookmarks
from beamish.modules.pubsub.discovery import ACCOUNT_FEATURES, Discovery
from beamish.modules.pubsub.engine import Asker, Engine, Limits, Settings
from beamish.modules.pubsub.hosts import Hosts
from beamish.modules.pubsub.model import Host, Item
from beamish.modules.pubsub.names import OWNER, PUBSUB, SUBSCRIBE_AUTHORIZATION
from beamish.modules.pubsub.outbox import Outbox
from beamish.modules.pubsub.owning import Owning
from beamish.modules.pubsub.personal import Personal
from beamish.modules.pubsub.presences import Presences, since_of
from beamish.modules.pubsub.publishing import Publishing
from beamish.modules.pubsub.requests import Requests
from beamish.modules.pubsub.service import Service
from beamish.modules.pubsub.subscribing import Subscribing
from beamish.storage.api import Cursor
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.forms import Submission, X
from beamish.xmpp.stanza import MESSAGE, Stanza
from beamish.xmpp.xml import Element, escape_attr, to_bytes

log = structlog.get_logger(__name__)

_DECISION: Final = SUBSCRIBE_AUTHORIZATION.encode()
SWEEP: Final = 600.0
"""Seconds between looks for leases that are over and items that are expired."""


class Config(ModuleConfig):
    """Options of publish-subscribe."""

    host: str = Field(
        "pubsub.{domain}",
        pattern=r"^[^@/\s]*$",
        description="Address of the service of each domain; empty for none, then only accounts have nodes.",
    )
    name: str = Field("Publish-Subscribe", max_length=200, description="What the service calls itself.")
    create: Literal["local", "anyone", "admins"] = Field(
        "local", description="Who may make nodes at the service: users of this server, anyone, or administrators only."
    )
    auto_create: bool = Field(
        False, description="Whether the service makes a node when somebody publishes to one that does not exist."
    )
    max_nodes: int = Field(20_000, ge=1, description="Nodes of a service; all are kept in memory, about 3 KiB each.")
    max_nodes_per_account: int = Field(1000, ge=1, description="Nodes of an account.")
    max_items: int = Field(10_000, ge=1, description="Items that a node keeps at most: the meaning of “max”.")
    max_payload: int = Field(
        131_072, ge=1024, description="Bytes of an item's payload; avatars are the largest that are usual."
    )
    max_stored: int = Field(2_147_483_648, ge=1024, description="Bytes of all items of a service.")
    max_stored_per_account: int = Field(67_108_864, ge=1024, description="Bytes of all items of an account.")
    max_subscriptions: int = Field(1000, ge=1, description="Subscriptions of one entity at a service or an account.")
    max_subscribers: int = Field(20_000, ge=1, description="Subscriptions to a node.")
    max_affiliations: int = Field(5000, ge=1, description="Entities with an affiliation to a node.")
    max_lease: float | None = Field(
        None, gt=0, description="Days that a subscription with an end may last at most; longer ones are cut."
    )
    page: int = Field(1000, ge=1, le=10_000, description="Items in one answer; more are to be paged.")
    page_bytes: int = Field(1_048_576, ge=1024, description="Bytes of items in one answer; more are to be paged.")

    def limits(self, *, account: bool) -> Limits:
        """What a host may hold."""
        return Limits(
            self.max_nodes_per_account if account else self.max_nodes,
            self.max_items,
            self.max_payload,
            self.max_stored_per_account if account else self.max_stored,
            self.max_subscriptions,
            self.max_subscribers,
            self.max_affiliations,
        )


class PubsubModule(Module):
    """Services at subdomains, and nodes of accounts."""

    name = "pubsub"
    keeps_for_accounts = True
    Config = Config
    requires = (RosterService,)
    provides = (PepService,)
    migrations = store.MIGRATIONS
    xeps = (
        Xep(60, "1.30.0", note="no collections, no payment, nodes are not addressed by resource"),
        Xep(163, "1.2.2"),
        Xep(222, "1.0"),
        Xep(223, "1.1.1"),
        Xep(84, "1.1.4"),
        Xep(107, "1.2.2"),
        Xep(108, "1.3"),
        Xep(118, "1.3.0"),
        Xep(80, "1.10.0"),
        Xep(172, "1.1"),
        Xep(384, "0.9.1", note="what it needs of a server"),
        Xep(
            402,
            "1.2.0",
            note="unified with the node of XEP-0048 and, with the private_xml module, with private storage",
        ),
        Xep(472, "0.2.1", note="what it needs of a server"),
        Xep(277, "0.6.5", note="what it needs of a server"),
        Xep(312, "0.3"),
        Xep(462, "0.1.1", note="at the service"),
        Xep(4, "2.13.2"),
        Xep(59, "1.0"),
        Xep(68, "1.3.0"),
    )
    account_features = (*ACCOUNT_FEATURES, BOOKMARKS_FEATURE)
    identities = account_identities = (Identity("pubsub", "pep"),)
    """The domain bears it, too: Psi asks nobody else (XEP-0163 had it so once), and greys out moods and avatars without."""

    async def start(self) -> None:
        """Make the services; what a crash left of temporary subscriptions goes."""
        config: Config = self.config
        self._presences = Presences(self.kernel)
        self._outbox = Outbox(self.kernel, self._presences)
        self._hosts = Hosts(self.db, self.tasks)
        settings = Settings(
            config.limits(account=True),
            config.limits(account=False),
            config.page,
            config.page_bytes,
            config.auto_create,
            config.create,
            None if config.max_lease is None else config.max_lease * 86_400,
        )
        self._engine = engine = Engine(self.kernel, settings, self._hosts, self._outbox, self._presences)
        self._publishing = Publishing(engine)
        self._subscribing = Subscribing(engine)
        self._owning = Owning(engine, self._subscribing)
        self._discovery = Discovery(engine)
        self._requests = Requests(engine, self._publishing, self._subscribing, self._owning)
        self._personal = Personal(self.kernel, engine, self._publishing, self._owning)
        self._bookmarks = Bookmarks(self._personal)
        await self.db.write("pubsub.start", store.forget_temporary)
        engine.purging = {JID.parse(text) for text in await self.db.read("pubsub.purging", store.purging_hosts)}
        self._services: dict[JID, Service] = {}
        for domain in self.kernel.domains if config.host else ():
            self._serve(JID.parse(config.host.replace("{domain}", domain)))
        await engine.digests.restore()
        self._sweeping: asyncio.Task[None] | None = None
        self._timer = self.kernel.clock.call_later(SWEEP, self._sweep)

    def _serve(self, jid: JID) -> None:
        if jid in self._services:
            return  # one service for several domains
        self._services[jid] = service = Service(
            self.kernel,
            self._engine,
            jid,
            self._requests,
            self._subscribing,
            self._owning,
            self._discovery,
            name=self.config.name,
        )
        self.kernel.router.add_service(jid.domain, service.handle)

    async def stop(self) -> None:
        """Leave the router; digests wait in the database."""
        for jid in self._services:
            self.kernel.router.remove_service(jid.domain)
        self._engine.digests.stop()
        self._timer.cancel()

    # ---- accounts ---------------------------------------------------------------------------------------------------

    @iq(get=f"{{{PUBSUB}}}pubsub", set=f"{{{PUBSUB}}}pubsub", scope=Scope.ACCOUNT)
    def account_request(self, ctx: Context) -> IqAnswer | Awaitable[IqAnswer]:
        """A request to an account's nodes, the sender's own if there is no `to`."""
        stanza = ctx.stanza
        sender = stanza.sender
        assert sender is not None
        at = sender.bare if stanza.to is None else stanza.to
        anonymous = ctx.origin is not None and ctx.origin.anonymous
        asker = Asker(sender, sender.bare, anonymous=anonymous)
        answer = self.kernel.router.answer
        if self._requests.now(self._hosts.cached(at), asker, ctx, lambda reply: answer(ctx, reply)):
            return None
        return self._account_request(at, asker, stanza)

    async def _account_request(self, at: JID, asker: Asker, stanza: Stanza) -> IqAnswer:
        return await self._requests.answer(await self._engine.host(at, account=True), asker, stanza)

    @iq(get=f"{{{OWNER}}}pubsub", set=f"{{{OWNER}}}pubsub", scope=Scope.ACCOUNT)
    def account_owner_request(self, ctx: Context) -> IqAnswer | Awaitable[IqAnswer]:
        """A request of an owner of an account's node."""
        return self.account_request(ctx)

    def disco_items(self, at: JID, asker: JID) -> Iterable[DiscoItem] | Awaitable[Iterable[DiscoItem]]:
        """The service of a domain, or the nodes of an account that the asker may know of."""
        if not at.local:
            return [
                DiscoItem(jid, name=self.config.name)
                for jid in self._services
                if self.config.host.replace("{domain}", at.domain) == jid
            ]
        return self._account_items(at, asker)

    async def _account_items(self, at: JID, asker: JID) -> Iterable[DiscoItem]:
        host = await self._engine.host(at, account=True)
        return await self._discovery.nodes(host, Asker(asker, asker.bare)) if host.nodes else ()

    def disco_node(self, at: JID, node: str, asker: JID) -> DiscoNode | Awaitable[DiscoNode | None] | None:
        """A node of an account."""
        return self._discovery.of_account(at, node, asker) if at.local else None

    @on(events.incoming, at=20, only=(MESSAGE,), about=(X,))  # after blocking, before what keeps messages
    def decision(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """What an owner of an account's node decided about a subscription (§8.6); other messages go on."""
        stanza = ctx.stanza
        if _DECISION not in stanza.body or stanza.type == "error" or stanza.to is None or stanza.to.resource:
            return None
        form = stanza.child(X)
        if form is None or form.get("type") not in ("submit", "cancel"):
            return None
        return self._decide(ctx, form)

    async def _decide(self, ctx: Context, form: Element) -> Outcome:
        stanza = ctx.stanza
        assert stanza.sender is not None and stanza.to is not None
        try:
            submitted = Submission.from_xml(form, SUBSCRIBE_AUTHORIZATION)
            host = await self._engine.host(stanza.to, account=True)
            await self._subscribing.decide(host, Asker(stanza.sender, stanza.sender.bare), submitted)
        except StanzaError as error:
            reply = stanza.error(error)
            if reply is not None:
                self.kernel.router.answer(ctx, reply)
        return STOP

    # ---- presence and accounts come and go --------------------------------------------------------------------------

    def _caps(self) -> None:
        if self._outbox.caps is None:
            self._outbox.caps = self.kernel.service_or_none(CapsService)
            self._outbox.plans.clear()

    @on(events.presence_changed)
    def _presence_changed(self, event: PresenceChanged) -> None:
        self._caps()
        self._personal.presence_changed(event)
        session = event.session
        if event.initial:
            since = since_of(event.stanza, self.kernel.clock.now())
            for service in self._services.values():
                host = self._hosts.cached(service.jid)
                if host is None or host.count_of(session.bare):
                    self.tasks.spawn(service.appeared(session.jid, since, self._hosts.begun), "appeared")
        elif event.was and not session.available:
            self._left(session)

    @on(events.session_closed, at=60)  # after presence, which takes the session out of what is available
    def _session_closed(self, event: SessionClosed) -> None:
        self._left(event.session)

    def _left(self, session: Session) -> None:
        self._outbox.plans.catch_up()
        for service in self._services.values():
            host = self._hosts.cached(service.jid)
            if host is None or host.count_of(session.bare):
                self.tasks.spawn(service.left(session.jid), "left")
        if self._engine.purging and not self.kernel.sessions.of(session.bare).available:
            self.tasks.spawn(self._purge(session.bare), "purge")

    async def _purge(self, publisher: JID) -> None:
        """`pubsub#purge_offline`: a publisher is gone, and its items with it."""
        for address in tuple(self._engine.purging):
            if address.local and address != publisher:
                continue
            host = await self._engine.host(address, account=bool(address.local))
            for node in host:
                if node.config.purge_offline:
                    await self._publishing.remove_of(host, node, publisher)

    @on(events.session_saving)
    def _session_saving(self, event: SessionNotes) -> None:
        self._personal.saving(event)

    @on(events.session_restored)
    def _session_restored(self, event: SessionNotes) -> None:
        self._personal.restored(event)

    @on(events.caps_known)
    def _caps_known(self, event: CapsKnown) -> None:
        self._caps()
        self._outbox.plans.concerned((event.jid,))
        self._personal.caps_known(event)

    @on(events.contact_presence)
    def _contact_presence(self, ctx: Context) -> None:
        self._caps()
        self._personal.contact_presence(ctx)

    @on(events.subscription_changed)
    async def _subscription_changed(self, event: SubscriptionChanged) -> None:
        self._outbox.plans.forget(event.user)
        await self._personal.subscription_changed(event)

    @on(events.pep_published)
    def _pep_published(self, event: events.Published) -> Awaitable[None] | None:
        return self._bookmarks.published(event)

    @on(events.account_exporting)
    async def _exporting(self, event: Exporting) -> None:
        """XEP-0227 §4.10: configurations, then items; not who else has subscribed, or is what to a node."""
        host = await self._engine.host(event.user, account=True)
        bounds = self._engine.bounds(host)
        configured, filled = b"", b""
        for node in host:
            form = to_bytes(node.config.form(bounds, "submit"))
            configured += f"<configure node='{escape_attr(node.name)}'>".encode() + form + b"</configure>"
            found = await self._personal.items(event.user, node.name)
            filled += wire.items(
                node.name, (wire.item(Item(name, each, event.user, 0.0)) for name, each in found.items())
            )
        if configured:
            event.parts.append(wire.pubsub(configured, OWNER))
            event.parts.append(wire.pubsub(filled))

    @on(events.account_removed)
    async def _account_removed(self, event: AccountEvent) -> None:
        """Everything an account has goes, and what it is to nodes of services."""
        user = event.user
        self._presences.forget(user)
        self._outbox.plans.forget(user)
        host = await self._engine.host(user, account=True)
        for node in host:
            await self._owning.destroy(host, node)
        await self.db.write("pubsub.account_removed", lambda c: store.delete_host(c, str(user)))
        self._hosts.forget(user)
        self._engine.purging.discard(user)
        # also from other accounts: who gets the name next must not find what was entrusted to this one
        for text in await self.db.write("pubsub.known", lambda c: store.hosts_that_know(c, str(user))):
            address = JID.parse(text)
            await self._part(await self._engine.host(address, account=bool(address.local)), user)

    async def _part(self, host: Host, user: JID) -> None:
        """A removed account leaves a service or another account: its subscriptions and affiliations there go, and a node
        without owners.
        """
        for node, s in host.subscriptions_of(user):
            await self._subscribing.end(host, node, s)
        for node in host:
            if user not in node.affiliations:
                continue
            if node.owners() == [user]:
                await self._owning.destroy(host, node)
                continue
            await self._owning.part(host, node, user)

    # ---- by the clock -----------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        self._timer = self.kernel.clock.call_later(SWEEP, self._sweep)
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = self.tasks.spawn(self._sweep_all(), "sweep")

    async def _sweep_all(self) -> None:
        services = [await service.host() for service in self._services.values()]
        await due.sweep(self._engine, self._subscribing, (*services, *self._hosts.accounts()))

    # ---- for other modules ------------------------------------------------------------------------------------------

    async def publish(
        self,
        user: JID,
        node: str,
        items: Mapping[str, bytes],
        options: Mapping[str, str] | None = None,
        also: Callable[[Cursor], None] | None = None,
    ) -> None:
        """See `PepService.publish`."""
        await self._personal.publish(user, node, items, options, also)

    async def retract(self, user: JID, node: str, items: Iterable[str]) -> None:
        """See `PepService.retract`."""
        await self._personal.retract(user, node, items)

    async def items(self, user: JID, node: str) -> dict[str, bytes]:
        """See `PepService.items`."""
        return await self._personal.items(user, node)

    async def access(self, user: JID, node: str) -> str | None:
        """See `PepService.access`."""
        return await self._personal.access(user, node)
