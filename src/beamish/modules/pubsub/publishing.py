"""Publishing, removing and retrieving items (XEP-0060 §6.5, §7, §8.5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from beamish.core.events import Context
from beamish.core.kernel import new_id
from beamish.modules.pubsub import access, config, store, wire
from beamish.modules.pubsub.engine import Asker, Engine, check_name
from beamish.modules.pubsub.model import Host, Item, Node
from beamish.modules.pubsub.names import PUBLISH_OPTIONS, PUBSUB, Affiliation, forbidden, no_node, refused, unsupported
from beamish.modules.pubsub.outbox import Relations
from beamish.modules.pubsub.plans import Plan
from beamish.storage.api import Cursor, StorageBusy
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.forms import Submission
from beamish.xmpp.payload.rsm import Page, Request
from beamish.xmpp.xml import Element, namespace_of, to_bytes

log = structlog.get_logger(__name__)

_ITEM: Final = f"{{{PUBSUB}}}item"
_NO_OPTIONS: Final = Submission()
MANY: Final = 500
"""Subscriptions to a node from which on its publisher has to wait until others had their turn."""
BATCH: Final = 1000
"""Items in one request."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What a publisher wants: items as (id, payload), "" for an id that the service is to choose."""

    node: str
    items: tuple[tuple[str, bytes], ...]
    options: Submission = field(default_factory=Submission)


def read_publication(pubsub: Element) -> Publication:
    """Read a publish request (§7.1.1). Raises `StanzaError`."""
    publish = pubsub[0]
    items = [child for child in publish if child.tag == _ITEM]
    if len(items) > BATCH:
        raise refused(Condition.NOT_ALLOWED, "max-items-exceeded")
    found = []
    for item in items:
        if len(item) > 1:
            raise refused(Condition.BAD_REQUEST, "invalid-payload", text="an item has one payload")
        payload = b""
        if len(item):
            if not namespace_of(item[0]):
                raise refused(Condition.BAD_REQUEST, "invalid-payload", text="a payload has a namespace")
            payload = wire.payload(item[0])
        found.append((item.get("id", ""), payload))
    return Publication(publish.get("node", ""), tuple(found), _options(pubsub))


def _options(pubsub: Element) -> Submission:
    options = pubsub.find(f"{{{PUBSUB}}}publish-options") if len(pubsub) > 1 else None
    if options is None:
        return _NO_OPTIONS
    form = options.find(f"{{{ns.DATA}}}x")
    if form is None:
        raise StanzaError(Condition.BAD_REQUEST, text="publish-options has no form")
    return Submission.from_xml(form, PUBLISH_OPTIONS)


def answer(wanted: Publication, items: list[Item]) -> bytes:
    """The content of the result: the item, or those that the service gave an id (§7.1.2)."""
    if all(id_ for id_, _ in wanted.items):
        items = items[-1:]
    named = b"".join(wire.item(item, payload=False) for item in items)
    return wire.pubsub(f"<publish{wire.attr('node', wanted.node)}>".encode() + named + b"</publish>")


class _Change:
    """One publication between its checks and its notifications. The recipients are those of the time of the checks."""

    def __init__(
        self, engine: Engine, host: Host, node: Node, asker: Asker, items: list[Item], plan: Plan, relation: Relations
    ) -> None:
        self._engine = engine
        self._host = host
        self._node = node
        self._asker = asker
        self._plan = plan
        self._relation = relation
        self._keep = engine.keep(host, node)
        self._size = sum(len(item.payload) for item in items) if self._keep else 0
        self._at = engine.clock.now()
        self._event = engine.outbox.items_event(host, node, items)
        self._collecting = [s.subid for s in plan.digests] if node.config.deliver_notifications else []
        trusted = node.affiliation(asker.bare) in (Affiliation.OWNER, Affiliation.PUBLISHER)
        # whoever may publish only because everybody may replaces its own items: others it could not delete either (§7.2.3.1)
        self._only_of = None if trusted or (asker.admin and not host.account) else asker.bare
        self._number = 0
        self.items = items

    def begin(self) -> None:
        """It is on its way to the disk: readers must ask behind it, and its size counts."""
        self._engine.charge(self._asker, max(self._plan.size, len(self._node.subscriptions)))
        self._node.begun = self._number = self._engine.hosts.number()
        self._host.writing += 1
        self._host.stored += self._size

    def over(self) -> None:
        """It is stored, or failed."""
        self._host.writing -= 1
        self._host.stored -= self._size

    def store(self, c: Cursor, *, fresh: bool) -> tuple[list[str], int]:
        """The transaction: the items that had to go, and by how many bytes the node has grown.

        Raises `NodeFull` and `NotOwnItem`.
        """
        node = self._node
        if fresh:
            # whoever comes later in the queue finds the row number there
            node.id = store.create_node(c, str(self._host.jid), node)
        grown = 0
        gone: list[str] = []
        if self._keep:
            reject = node.config.publish_node_full == "reject"
            gone, grown = store.put_items(c, node.id, self.items, self._keep, reject=reject, only_of=self._only_of)
        if self._collecting:
            store.collect(c, self._collecting, self._at, self._event)
        return gone, grown

    def tell(self, gone: list[str], grown: int) -> Awaitable[object] | None:
        """After the commit: remember, notify, tell other modules; awaitable if one of them takes its time."""
        engine, host, node, items = self._engine, self._host, self._node, self.items
        host.stored += grown
        node.told = max(node.told, self._number)
        if self._keep and items:
            engine.hosts.remember(node, items[-1])
        settings = node.config
        told: Awaitable[None] | None = None
        if settings.deliver_notifications:
            event = self._event
            if gone and settings.publish_node_full == "retract-oldest" and settings.notify_retract and self._keep > 1:
                event = engine.outbox.items_event(host, node, items, gone)
            payload = items[-1].payload if items else b""
            told = engine.outbox.tell(
                host, node, self._plan, event, payload=payload, publisher=self._asker.jid, relation=self._relation
            )
            engine.digests.due(host, node, self._plan.digests, self._at)
        published = engine.published(host, node, items, gone)
        return published if told is None else engine.told(told, published)


class _UnderWay:
    """A publication for which nobody waits: what the database does with it, and what follows when it has."""

    __slots__ = ("_change", "_done", "_engine", "_host", "_stored", "_wanted")

    def __init__(
        self,
        engine: Engine,
        host: Host,
        change: _Change,
        wanted: Publication,
        done: Callable[[bytes | StanzaError], None],
    ) -> None:
        self._engine = engine
        self._host = host
        self._change = change
        self._wanted = wanted
        self._done = done
        self._stored: tuple[list[str], int] | None = None

    def store(self, c: Cursor) -> None:
        """The transaction."""
        self._stored = self._change.store(c, fresh=False)

    def failed(self, exc: Exception) -> None:
        """Nothing was stored; called before `over`."""
        self._stored = None
        if isinstance(exc, store.NodeFull):
            self._done(store.full())
        elif isinstance(exc, store.NotOwnItem):
            self._done(forbidden())
        else:
            log.error("publication_not_stored", host=str(self._host.jid), node=self._wanted.node, error=str(exc))
            self._engine.hosts.distrust(self._host.jid)
            self._done(StanzaError(Condition.INTERNAL_SERVER_ERROR))

    def over(self) -> None:
        """The commit was made, with it or without."""
        self._change.over()
        if self._stored is None:
            return
        rest = self._change.tell(*self._stored)
        if rest is None:
            self._done(answer(self._wanted, self._change.items))
        else:
            self._engine.kernel.tasks.spawn(self._finish(rest), "pubsub_published")

    async def _finish(self, rest: Awaitable[object]) -> None:
        await rest
        self._done(answer(self._wanted, self._change.items))


class Publishing:
    """The operations of publishers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # ---- publish ----------------------------------------------------------------------------------------------------

    async def publish(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Publish items (§7.1); the answer names those that the service gave an id."""
        wanted = read_publication(pubsub)
        return answer(wanted, await self.store(host, asker, wanted))

    def publish_now(
        self, host: Host, asker: Asker, pubsub: Element, ctx: Context, done: Callable[[bytes | StanzaError], None]
    ) -> bool:
        """Publish without waiting for anything, so that the connection goes on; `done` is called after the commit.

        False: something has to be looked up first, call `publish`. Raises `StanzaError`. Publications that are under
        way together share a commit, and their notifications share writes.
        """
        engine = self._engine
        wanted = read_publication(pubsub)
        node = host.nodes.get(wanted.node)
        if node is None or len(node.subscriptions) > MANY:
            return False
        self._check(host, node, asker, wanted)
        self._fits(host, node, wanted)
        planned = engine.plan_now(host, node)
        if planned is None:
            return False
        change = _Change(engine, host, node, asker, self._items(asker, wanted), *planned)
        under_way = _UnderWay(engine, host, change, wanted, done)
        try:
            position = engine.kernel.db.submit("pubsub.publish", under_way.store, under_way.failed)
        except StorageBusy:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="the server is overloaded") from None
        change.begin()
        ctx.caused(position)
        engine.kernel.db.when_durable(position, under_way.over)
        return True

    async def store(
        self,
        host: Host,
        asker: Asker,
        wanted: Publication,
        *,
        checked: bool = True,
        also: Callable[[Cursor], None] | None = None,
    ) -> list[Item]:
        """Store and announce items; returns after the commit. With `checked` False preconditions only make nodes.

        `also` is run in the same transaction.
        """
        engine = self._engine
        if not wanted.node:
            raise refused(Condition.BAD_REQUEST, "nodeid-required")
        node = host.nodes.get(wanted.node)
        made = node is None
        if node is None:
            node = self._make(host, asker, wanted)
        elif checked:
            self._check(host, node, asker, wanted)
        self._fits(host, node, wanted)
        planned = await engine.plan(host, node)
        there = host.nodes.get(node.name)
        if made and there is not None:
            # somebody else made it while we looked at rosters
            return await self.store(host, asker, wanted, checked=checked, also=also)
        if not made and there is not node:
            raise no_node()  # it was deleted meanwhile
        change = _Change(engine, host, node, asker, self._items(asker, wanted), *planned)
        return await self._commit(host, node, change, made, also)

    def _items(self, asker: Asker, wanted: Publication) -> list[Item]:
        now = self._engine.clock.now()
        return [Item(id_ or new_id(), payload, asker.bare, now) for id_, payload in wanted.items]

    def _make(self, host: Host, asker: Asker, wanted: Publication) -> Node:
        """A node for a publication to one that does not exist (§7.1.4); it is stored together with the items."""
        engine = self._engine
        if not (host.account or engine.settings.auto_create):
            engine.node(host, wanted.node)  # raises
        engine.check_create(host, asker)
        bounds = engine.bounds(host)
        defaults = engine.defaults(host, wanted.node)
        config.unmet(defaults, wanted.options, bounds)  # for what it raises about unknown fields
        return engine.new_node(host, asker, wanted.node, config.changed(defaults, wanted.options, bounds))

    def _check(self, host: Host, node: Node, asker: Asker, wanted: Publication) -> None:
        engine = self._engine
        if not (asker.admin and not host.account):
            access.check_publish(node, asker.bare, engine.clock.now())
        missed = config.unmet(node.config, wanted.options, engine.bounds(host)) if wanted.options.fields else ""
        if missed:
            raise refused(Condition.CONFLICT, "precondition-not-met", text=f"{missed} is something else")

    def _fits(self, host: Host, node: Node, wanted: Publication) -> None:
        """Check items against the configuration and the limits (§4.3, §7.1.3)."""
        engine = self._engine
        settings, limits = node.config, engine.limits(host)
        if not settings.persist_items and not settings.deliver_payloads:
            if wanted.items:
                raise refused(Condition.BAD_REQUEST, "item-forbidden")
            return
        if not wanted.items:
            raise refused(Condition.BAD_REQUEST, "item-required")
        if len(wanted.items) > 1 and len(wanted.items) > engine.keep(host, node) > 0:
            raise refused(Condition.NOT_ALLOWED, "max-items-exceeded")
        most = min(settings.max_payload_size or limits.payload, limits.payload)
        for id_, payload in wanted.items:
            if id_:
                check_name(id_)
            if not payload and settings.deliver_payloads:
                raise refused(Condition.BAD_REQUEST, "payload-required")
            if len(payload) > most:
                raise refused(Condition.NOT_ACCEPTABLE, "payload-too-big", text=f"more than {most} bytes")
        size = sum(len(payload) for _, payload in wanted.items)
        if settings.persist_items and host.stored + size > limits.stored:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="there is no room for more items")

    async def _commit(
        self, host: Host, node: Node, change: _Change, fresh: bool, also: Callable[[Cursor], None] | None
    ) -> list[Item]:
        engine = self._engine

        def txn(c: Cursor) -> tuple[list[str], int]:
            stored = change.store(c, fresh=fresh)
            if also is not None:
                also(c)
            return stored

        if fresh:
            host.add(node)
        change.begin()
        try:
            gone, grown = await engine.hosts.write(host, "publish", txn)
        except store.NodeFull:
            raise store.full() from None
        except store.NotOwnItem:
            raise forbidden() from None
        except BaseException:
            if fresh:
                host.drop(node)
                engine.hosts.distrust(host.jid)
            raise
        finally:
            change.over()
        if fresh:
            engine.note_purging(host)
        rest = change.tell(gone, grown)
        if rest is not None:
            await rest
        return change.items

    # ---- retract and purge ------------------------------------------------------------------------------------------

    async def retract(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Delete items (§7.2)."""
        request = pubsub[0]
        name = request.get("node", "")
        node = self._engine.node(host, name)
        ids = list(dict.fromkeys(item.get("id", "") for item in request.findall(_ITEM)))
        if not ids or not all(ids):
            raise refused(Condition.BAD_REQUEST, "item-required")
        if len(ids) > BATCH:
            raise refused(Condition.NOT_ALLOWED, "max-items-exceeded")
        affiliation = node.affiliation(asker.bare)
        only_of = None
        if affiliation is not Affiliation.OWNER and not (asker.admin and not host.account):
            access.check_publish(node, asker.bare, self._engine.clock.now())
            only_of = asker.bare
        if not self._engine.keep(host, node):
            raise unsupported("persistent-items")
        wish = request.get("notify")
        notify = node.config.notify_retract if wish is None else wish in ("1", "true")
        await self.remove(host, node, ids, only_of, notify=notify)
        return b""

    async def remove(
        self, host: Host, node: Node, ids: list[str], only_of: JID | None, *, notify: bool, silently: bool = False
    ) -> None:
        """Delete items, all or none, and announce it. With `silently`, those that do not exist are passed over."""
        engine = self._engine
        notify = notify and node.config.deliver_notifications
        plan, relation = await engine.plan(host, node) if notify else (Plan(), None)
        event = wire.event(wire.items(node.name, [wire.retractions(ids)]))
        at = engine.clock.now()
        collecting = [s.subid for s in plan.digests]
        node.last, node.last_known = None, False

        def txn(c: Cursor) -> int:
            there = [it.id for it in store.by_ids(c, node.id, ids, float("-inf"))] if silently else ids
            size = store.retract(c, node.id, there, only_of)
            if collecting:
                store.collect(c, collecting, at, event)
            return size

        try:
            host.stored -= await engine.hosts.write(host, "retract", txn)
        except store.NotOwnItem:
            raise forbidden() from None
        # a publication that was on its way before this may have been remembered meanwhile
        node.last, node.last_known = None, False
        told = engine.outbox.tell(host, node, plan, event, relation=relation)
        engine.digests.due(host, node, plan.digests, at)
        await engine.told(told, engine.published(host, node, [], ids))

    async def remove_of(self, host: Host, node: Node, publisher: JID) -> None:
        """Delete everything that one entity published (`pubsub#purge_offline`)."""
        ids = await self._engine.kernel.db.write(
            "pubsub.published_by", lambda c: store.published_by(c, node.id, publisher)
        )
        if ids:
            await self.remove(host, node, ids, None, notify=node.config.notify_retract, silently=True)

    async def purge(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Delete all items of a node (§8.5)."""
        engine = self._engine
        node = engine.owned(host, pubsub[0].get("node", ""), asker)
        if not engine.keep(host, node):
            raise unsupported("persistent-items")
        plan, relation = await engine.plan(host, node)
        node.last, node.last_known = None, False
        at = engine.clock.now()
        notify = node.config.notify_retract and node.config.deliver_notifications
        event = wire.event(f"<purge{wire.attr('node', node.name)}/>")
        collecting = [s.subid for s in plan.digests] if notify else []

        def txn(c: Cursor) -> int:
            size = store.purge(c, node.id)
            if collecting:
                store.collect(c, collecting, at, event)
            return size

        host.stored -= await engine.hosts.write(host, "purge", txn)
        node.last, node.last_known = None, False
        told: Awaitable[None] | None = None
        if notify:
            told = engine.outbox.tell(host, node, plan, event, subids=False, relation=relation)
            engine.digests.due(host, node, plan.digests, at)
        await engine.told(told, engine.published(host, node, [], [], purged=True))
        return b""

    # ---- retrieve ---------------------------------------------------------------------------------------------------

    async def items(self, host: Host, asker: Asker, pubsub: Element) -> bytes:
        """Retrieve items (§6.5): all, the last ones, by id, or a page."""
        engine = self._engine
        request = pubsub[0]
        node = engine.node(host, request.get("node", ""))
        relation = await engine.relation(host, node, asker.bare)
        if not (asker.admin and not host.account):
            access.check_retrieve(node, asker.bare, relation, engine.clock.now())
        self._check_subid(node, asker, request.get("subid"))
        if not node.config.persist_items and not node.config.deliver_payloads:
            raise unsupported("persistent-items")
        wanted = Request.from_xml(pubsub) or Request.from_xml(request)
        found, page = await self._found(host, node, request, wanted)
        inner = [wire.item(it, publisher=engine.outbox.publisher_of(node, it)) for it in found]
        told = b"" if page is None else to_bytes(page.to_xml())
        return wire.pubsub(wire.items(node.name, inner) + told)

    async def _found(
        self, host: Host, node: Node, request: Element, wanted: Request | None
    ) -> tuple[list[Item], Page | None]:
        engine = self._engine
        settings = engine.settings
        after = engine.oldest(node)
        ids = [item.get("id", "") for item in request.findall(_ITEM)]
        # what was published before this request may still be on its way
        read = engine.kernel.db.write if host.writing else engine.kernel.db.read
        if ids:
            if len(ids) > BATCH:
                raise StanzaError(Condition.NOT_ACCEPTABLE, Kind.MODIFY, "these are too many items at once")
            return await read("pubsub.items", lambda c: store.by_ids(c, node.id, ids, after)), None
        count = request.get("max_items")
        if count is not None and (not count.isascii() or not count.isdigit() or len(count) > 9 or int(count) == 0):
            raise StanzaError(Condition.BAD_REQUEST, text="max_items is not a number above 0")
        if wanted is not None:
            most = settings.page if count is None else min(settings.page, int(count))
            return await read(
                "pubsub.items", lambda c: store.page(c, node.id, wanted, most, after, settings.page_bytes)
            )
        if count is not None:
            number = min(int(count), settings.page)
            if number == 1 and node.last_known and not host.writing and after == float("-inf"):
                return [node.last] if node.last is not None else [], None
            found, _ = await read(
                "pubsub.items", lambda c: store.latest(c, node.id, number, after, settings.page_bytes)
            )
            return found, None
        found, page = await read(
            "pubsub.items", lambda c: store.page(c, node.id, Request(), settings.page, after, settings.page_bytes)
        )
        # §6.5.4: say so if these are not all
        return found, page if page.count is not None and page.count > len(found) else None

    def _check_subid(self, node: Node, asker: Asker, subid: str | None) -> None:
        """§6.5.9.1, §6.5.9.2."""
        mine = [s for s in node.of_entity(asker.bare) if s.jid in (asker.jid, asker.bare)]
        if subid:
            if mine and subid not in [s.subid for s in mine]:
                raise refused(Condition.NOT_ACCEPTABLE, "invalid-subid")
        elif len(mine) > 1:
            raise refused(Condition.BAD_REQUEST, "subid-required")
