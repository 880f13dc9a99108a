"""XEP-0163: what presence means to the nodes of accounts, and what other modules publish on a user's behalf.

A resource's interests are the `+notify` features that its capabilities prove. When it appears, and when its interests
become known, it gets the last items of the nodes it may see, each once for as long as it is available and interested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from beamish.core.events import CapsKnown, Context, PresenceChanged, SessionNotes, SubscriptionChanged
from beamish.core.services import SessionKeeper
from beamish.core.sessions import Session
from beamish.modules.pubsub import access, store
from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.engine import Asker, Engine
from beamish.modules.pubsub.model import Host, Node
from beamish.modules.pubsub.names import NOTIFY
from beamish.modules.pubsub.outbox import Relations
from beamish.modules.pubsub.owning import Owning
from beamish.modules.pubsub.presences import NOTHING, since_of
from beamish.modules.pubsub.publishing import Publication, Publishing
from beamish.storage.api import Cursor
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.forms import Submission

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

_SERVED: Final = "pubsub.served"
"""Note of a session: the interests that it has, whose last items it got."""
_SINCE: Final = "pubsub.since"
"""Note of a session: when its client was last here."""
_OCCUPANT: Final = "{http://jabber.org/protocol/muc#user}x"
_CAPS: Final = (b"http://jabber.org/protocol/caps", b"urn:xmpp:caps")
INTERESTS: Final = 200
"""Nodes that one resource can be interested in."""
_SLICE: Final = 400
"""Contacts asked about in one query."""
_TURN: Final = 10
"""Contacts whose last items are sent before everybody else has a turn (a node about 10 µs)."""


def interests(features: Iterable[str] | None) -> frozenset[str]:
    """The names of the nodes that these features ask for (XEP-0060 §9.2)."""
    if features is None:
        return NOTHING
    return frozenset(sorted(f.removesuffix(NOTIFY) for f in features if f.endswith(NOTIFY))[:INTERESTS])


class Personal:
    """Nodes of accounts and the presence of those who watch them."""

    def __init__(self, kernel: Kernel, engine: Engine, publishing: Publishing, owning: Owning) -> None:
        self._kernel = kernel
        self._engine = engine
        self._publishing = publishing
        self._owning = owning
        engine.access_changed = self.access_changed

    def _features(self, full: JID) -> frozenset[str] | None:
        caps = self._engine.outbox.caps
        return None if caps is None else caps.features(full)

    # ---- who appears ------------------------------------------------------------------------------------------------

    def presence_changed(self, event: PresenceChanged) -> None:
        """A local session's presence: when it becomes available, it has got nothing yet."""
        session = event.session
        if event.initial:
            session.notes[_SERVED] = NOTHING
            session.notes[_SINCE] = since_of(event.stanza, self._kernel.clock.now())
            self._serve(session, interests(self._features(session.jid)))

    def saving(self, event: SessionNotes) -> None:
        """What a session has got is kept with it through a restart of the server."""
        served = event.session.note(_SERVED)
        if isinstance(served, frozenset) and served:
            event.notes["pubsub"] = sorted(served)

    def restored(self, event: SessionNotes) -> None:
        """A session of before the restart needs no last items once more."""
        event.session.notes[_SERVED] = frozenset(event.notes.get("pubsub", ()))

    def caps_known(self, event: CapsKnown) -> None:
        """Somebody's interests became known, or more."""
        wanted = interests(event.features)
        session = self._kernel.sessions.get(event.jid)
        if session is not None and session.available:
            self._serve(session, wanted)
        for at, watcher in self._engine.presences.watched_by(event.jid):
            fresh = wanted - watcher.served
            watcher.served = wanted
            if fresh and at.local:
                self._spawn(self._serve_from(at, event.jid, fresh, None, watcher.since, self._engine.hosts.begun))

    def contact_presence(self, ctx: Context) -> None:
        """Presence arrived for an account from elsewhere, or directed to it (§9.1.3)."""
        stanza = ctx.stanza
        sender, to = stanza.sender, stanza.to
        if sender is None or to is None or sender.bare == to.bare:
            return
        presences = self._engine.presences
        if stanza.type:
            presences.gone(to.bare, sender)
            return
        if stanza.child(_OCCUPANT) is not None:
            return  # a room elsewhere says who is in it; nobody shares presence with the account by that
        if not sender.resource and not any(mark in stanza.body for mark in _CAPS):
            return  # a room that shows its picture; a gateway that wants something says what it can do
        roster = self._engine.rosters.cached(to.bare)
        entry = None if roster is None else roster.get(sender.bare)
        if entry is not None and entry.from_ and presences.is_local(sender):
            return  # a contact whose sessions the session table tells of
        watcher = presences.available(to.bare, sender, stanza)
        if watcher is not None:
            wanted = interests(self._features(sender))
            if wanted:
                watcher.served = wanted
                self._spawn(self._serve_from(to.bare, sender, wanted, None, watcher.since, self._engine.hosts.begun))

    def _serve(self, session: Session, wanted: frozenset[str]) -> None:
        served = cast("frozenset[str]", session.note(_SERVED) or NOTHING)
        if wanted == served:
            return
        session.notes[_SERVED] = wanted  # what it gives up may have changed when it asks again
        keeper = self._kernel.service_or_none(SessionKeeper)
        if keeper is not None:
            keeper.changed(session)
        fresh = wanted - served
        if fresh:
            self._spawn(self._serve_session(session, fresh, self._engine.hosts.begun))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._kernel.tasks.spawn(work, "pubsub_presence")

    async def _serve_session(self, session: Session, wanted: frozenset[str], at: int) -> None:
        """Send a local session the last items of its own account and of all local contacts; `at`: see `Hosts.last`."""
        engine = self._engine
        since = cast("float | None", session.note(_SINCE))
        await self._serve_from(session.bare, session.jid, wanted, session, since, at)
        roster = await engine.roster(session.bare)
        contacts = [jid for jid in roster.subscriptions() if engine.presences.is_local(jid)]
        names = sorted(wanted)
        for first in range(0, len(contacts), _SLICE):
            some = contacts[first : first + _SLICE]
            known = [
                jid for jid in some if (host := engine.hosts.cached(jid)) is not None and wanted & host.nodes.keys()
            ]
            unknown = [str(jid) for jid in some if engine.hosts.cached(jid) is None]
            if unknown:
                found = await self._kernel.db.read(
                    "pubsub.interesting",
                    lambda c, unknown=unknown: store.hosts_with(c, unknown, names),  # type: ignore[misc]
                )
                known += [JID.parse(text) for text in found]
            for number, jid in enumerate(known, 1):
                if not session.available:
                    return
                await self._serve_from(jid, session.jid, wanted, session, since, at)
                if number % _TURN == 0:
                    await asyncio.sleep(0)  # what is in memory has to be waited for nowhere else

    async def _serve_from(
        self, owner: JID, full: JID, wanted: Iterable[str], session: Session | None, since: float | None, at: int
    ) -> None:
        """Send one resource the last items of an account's nodes that it wants and may see."""
        engine = self._engine
        host = await engine.host(owner, account=True)
        nodes = [node for name in wanted if (node := host.nodes.get(name)) is not None]
        await self._send_last(host, [n for n in nodes if _sends_last(n)], full, session, at, since)

    async def _send_last(
        self, host: Host, nodes: list[Node], full: JID, session: Session | None, at: int, since: float | None = None
    ) -> None:
        engine = self._engine
        if not nodes:
            return
        bare = full.bare
        if bare != host.jid:
            if await engine.blocks(host, bare):
                return
            of: dict[str, Relations] = {node.name: await engine.relations(host, node) for node in nodes}
            nodes = [node for node in nodes if access.may_follow(node, bare, of[node.name](bare), engine.clock.now())]
        for node, item in await engine.hosts.fresh(host, nodes, since, at):
            if item.published > engine.oldest(node):
                engine.outbox.last_item(host, node, item, full, interested=session)

    # ---- what else changes access -----------------------------------------------------------------------------------

    async def subscription_changed(self, event: SubscriptionChanged) -> None:
        """A contact may see the user's presence now, or no longer (XEP-0163 §8.1)."""
        at = self._engine.hosts.begun
        before, after = event.before in ("from", "both"), event.after in ("from", "both")
        if before == after:
            return
        presences = self._engine.presences
        if after and presences.is_local(event.contact):
            for full, _ in tuple(presences.watchers(event.user)):
                if full.bare == event.contact:
                    presences.gone(event.user, full)  # from now on its sessions count by themselves
        host = await self._engine.host(event.user, account=True)
        if not host.nodes:
            return
        if before:
            for node in host:
                await self._owning.recheck(host, node, [event.contact])
            return
        for full, session in self._resources(event.user, event.contact):
            wanted = interests(self._features(full))
            nodes = [n for n in host if n.name in wanted and _sends_last(n)]
            await self._send_last(host, nodes, full, session, at)

    def _resources(self, user: JID, contact: JID) -> list[tuple[JID, Session | None]]:
        """The available resources of a contact that the user's server knows of."""
        presences = self._engine.presences
        if presences.is_local(contact):
            return [(session.jid, session) for session in presences.sessions(contact)]
        return [(full, None) for full, _ in presences.watchers(user) if full.bare == contact]

    async def access_changed(self, host: Host, node: Node, before: NodeConfig) -> None:
        """A node's access model changed: those who gained access get its last item (XEP-0060 §12.1)."""
        engine = self._engine
        at = engine.hosts.begun
        if not host.account or not _sends_last(node):
            return
        plan, of = await engine.plan(host, node)
        was = replace(node, config=before)
        targets = [(session.jid, session) for session in plan.sessions if session.bare != host.jid]
        for full, session in [*targets, *((jid, None) for jid in plan.others)]:
            if not access.may_follow(was, full.bare, of(full.bare), engine.clock.now()):
                await self._send_last(host, [node], full, session, at)

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
        host = await self._engine.host(user, account=True)
        submitted = Submission({f"pubsub#{name}": (value,) for name, value in (options or {}).items()})
        wanted = Publication(node, tuple(items.items()), submitted)
        owner = Asker(user, user)
        if node in host.nodes:
            await self._publishing.store(host, owner, Publication(node, wanted.items), also=also)
        else:
            await self._publishing.store(host, owner, wanted, also=also)

    async def retract(self, user: JID, node: str, items: Iterable[str]) -> None:
        """See `PepService.retract`."""
        host = await self._engine.host(user, account=True)
        found = host.nodes.get(node)
        ids = list(items)
        if found is not None and ids:
            notify = found.config.notify_retract
            await self._publishing.remove(host, found, ids, None, notify=notify, silently=True)

    async def items(self, user: JID, node: str) -> dict[str, bytes]:
        """See `PepService.items`."""
        engine = self._engine
        host = await engine.host(user, account=True)
        found = host.nodes.get(node)
        if found is None:
            return {}
        most, size = engine.limits(host).items, engine.limits(host).stored
        items, _ = await self._kernel.db.write(
            "pubsub.items", lambda c: store.latest(c, found.id, most, engine.oldest(found), size)
        )
        return {item.id: item.payload for item in items}

    async def access(self, user: JID, node: str) -> str | None:
        """See `PepService.access`."""
        found = (await self._engine.host(user, account=True)).nodes.get(node)
        return None if found is None else found.config.access_model


def _sends_last(node: Node) -> bool:
    config = node.config
    return config.send_last_published_item == "on_sub_and_presence" and config.deliver_notifications
