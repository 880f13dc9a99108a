"""RFC 6121 §2: the roster, its versions (§2.6) and its pushes.

Holds what a user knows of contacts, including the subscription state of appendix A.1; what subscription stanzas do to
that state is decided by `modules.presence`, which stores its decisions here through `RosterService`.

A change is made in memory at once and written by a queue that keeps the order of the calls, so whoever reads an item
and changes it without awaiting in between cannot lose anybody's update. Answers and pushes wait for the commit.
"""

from __future__ import annotations

from asyncio import shield
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

import structlog

from beamish.core import events
from beamish.core.events import (
    AccountEvent,
    Context,
    Exporting,
    RosterChanged,
    SessionClosed,
    SessionEvent,
    SubscriptionChanged,
)
from beamish.core.later import is_later
from beamish.core.module import IqAnswer, Module, Scope, Xep, iq, on
from beamish.core.roster_xml import contact_of, item_bytes, only_item
from beamish.core.services import RosterItem, RosterService, SessionKeeper
from beamish.core.sessions import Session
from beamish.modules.roster import store
from beamish.modules.roster.memory import MemoryRoster, weight_of
from beamish.modules.roster.wire import (
    GROUP,
    ITEM,
    QUERY,
    WholeRosters,
    new_id,
    plain_version,
    push_for,
    push_to,
    query_bytes,
    removed_bytes,
    shown,
)
from beamish.storage.api import Cursor, StorageBusy
from beamish.stream.features import Has, StreamFeature
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza
from beamish.xmpp.xml import Element

log = structlog.get_logger(__name__)

T = TypeVar("T")

Push = tuple[Session, Stanza, object]
"""Whom a push is for, the push, and what it is to stream management until the change is committed."""

OTHERS: Final = 1000
"""Rosters kept in memory for accounts without sessions."""
OTHERS_ITEMS: Final = 100_000
"""Items in those rosters together, about 30 MB at most."""
WHOLE_BYTES: Final = 8 << 20
"""Whole rosters as bytes that are kept for the next login."""
REQUESTS: Final = 500
"""Requests of strangers kept for one account (RFC 6121 §3.1.3, security warning); they do not use up its contacts."""
FEW_PUSHES: Final = 8
"""Up to so many changes a known version is answered with pushes, even if the whole roster would be shorter."""
_VERSION_DIGITS: Final = 18


class RosterModule(Module):
    """Rosters of local accounts, for their owners (`jabber:iq:roster`) and for other modules (`RosterService`)."""

    name = "roster"
    essential = True
    provides = (RosterService,)
    xeps = (Xep(237, "1.3", note="as RFC 6121 §2.6 has it"),)
    stream_features = (
        StreamFeature(f"<ver xmlns='{ns.ROSTER_VER}'/>".encode(), needs=Has.AUTHENTICATED, forbids=Has.BOUND),
    )
    migrations = store.MIGRATIONS

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._domains = frozenset(self.kernel.domains)
        self._pinned: dict[JID, MemoryRoster] = {}
        self._others: OrderedDict[JID, MemoryRoster] = OrderedDict()
        self._others_items = 0
        self._whole_rosters = WholeRosters(WHOLE_BYTES)
        self._loads: dict[JID, Any] = {}
        self._in_flight: Counter[JID] = Counter()
        self._changed = self.kernel.hooks[events.roster_changed]

    # ---- in memory --------------------------------------------------------------------------------------------------

    def roster(self, user: JID) -> MemoryRoster | Awaitable[MemoryRoster]:
        """The roster of a local account (bare JID); at once if it is in memory."""
        return self.cached(user) or self._load(user)

    def cached(self, user: JID) -> MemoryRoster | None:
        """The roster if it is in memory."""
        roster = self._pinned.get(user)
        if roster is None:
            roster = self._others.get(user)
            if roster is not None:
                self._others.move_to_end(user)
        return roster

    async def _load(self, user: JID) -> MemoryRoster:
        """Read a roster; all who ask meanwhile wait for the same reading."""
        roster = self.cached(user)
        while roster is None:
            task = self._loads.get(user)
            if task is None:
                task = self._loads[user] = self.tasks.spawn(self._read(user), "load")
            await shield(task)
            roster = self.cached(user)
        return roster

    async def _read(self, user: JID) -> None:
        try:
            # Readers see what is committed; the queue of writes also sees what is still on its way.
            through = self.db.write if self._in_flight[user] else self.db.read
            items, version = await through("roster.load", lambda cursor: store.load(cursor, user))
        finally:
            del self._loads[user]
        number, floor = version or (0, 0)
        self._keep(user, MemoryRoster(map(store.item_of, items), number, floor, self._domains))

    def _keep(self, user: JID, roster: MemoryRoster) -> None:
        if user in self.kernel.sessions.by_user:
            self._pinned[user] = roster
            return
        self._others[user] = roster
        self._others_items += roster.size
        # The one just entered stays, however large: somebody is about to use it.
        while len(self._others) > 1 and (len(self._others) > OTHERS or self._others_items > OTHERS_ITEMS):
            _, evicted = self._others.popitem(last=False)
            self._others_items -= evicted.size

    def _forget(self, user: JID) -> None:
        """Drop what memory holds, because the database may differ from it."""
        self._pinned.pop(user, None)
        self._whole_rosters.drop(user)
        other = self._others.pop(user, None)
        if other is not None:
            self._others_items -= other.size

    @on(events.session_bound)
    def _session_bound(self, event: SessionEvent) -> None:
        user = event.session.bare
        roster = self._others.pop(user, None)
        if roster is not None:
            self._others_items -= roster.size
            self._pinned[user] = roster

    @on(events.session_closed, at=90)  # after those who still want to read the roster of the session that ended
    def _session_closed(self, event: SessionClosed) -> None:
        user = event.session.bare
        if user not in self.kernel.sessions.by_user:
            roster = self._pinned.pop(user, None)
            if roster is not None:
                self._keep(user, roster)

    @on(events.account_removed)
    async def _account_removed(self, event: AccountEvent) -> None:
        """Part from every contact as if each had been removed by hand (RFC 6121 §2.5.2), then delete the roster."""
        user = event.user
        roster = await self._load(user)
        for item in tuple(roster.items()):
            await self._farewell(user, item)

        def delete(cursor: Cursor) -> None:
            for table in ("roster", "roster_removed", "roster_version"):
                cursor.run(f"DELETE FROM {table} WHERE owner = ?", str(user))

        self._forget(user)
        await self._commit(user, "roster.delete", delete)
        self._forget(user)

    @on(events.account_exporting)
    async def _exporting(self, event: Exporting) -> None:
        """RFC 6121 §2.1.3, without a version: it is this server's."""
        items = [item_bytes(item) for item in (await self._load(event.user)).items() if item.listed]
        event.parts.append(f"<query xmlns='{ns.ROSTER}'>".encode() + b"".join(items) + b"</query>")

    # ---- changes ----------------------------------------------------------------------------------------------------

    async def change(
        self, user: JID, item: RosterItem, *, push: bool = True, first: Callable[[], None] | None = None
    ) -> None:
        """Store an item (insert or replace), then push it to interested sessions if it is listed; returns after commit.

        The item is in the roster before the first await, if the roster is in memory. `first` is called after the commit
        and before the push. Raises `StanzaError(resource-constraint)` above the limits of items and bytes.
        """
        roster = self.cached(user) or await self._load(user)
        before = roster.get(item.jid)
        self._check_room(roster, before, item)
        push = push and item.listed
        news = push or shown(before) != shown(item)
        roster.put(item)
        self._count(user, roster, before, item)
        if news:
            self._advance(roster)
        number, floor, owner = roster.number, roster.floor, str(user)
        row = store.row_of(owner, item)

        def put(cursor: Cursor) -> None:
            if news:
                cursor.run(store.PUT_VERSION, owner, number, floor)
                cursor.run("DELETE FROM roster_removed WHERE owner = ? AND jid = ?", owner, str(item.jid))
                cursor.run(store.PUT_ITEM, *row, number)
            else:
                cursor.run(store.PUT_ITEM_SILENTLY, *row, number)

        pushes = self._pushes(user, item_bytes(item), number) if push else []
        await self._commit(user, "roster.change", put, pushes)
        if first is not None:
            first()
        if push:
            self._push(pushes)
            if self._changed.rows:
                self._changed.run(RosterChanged(user, item.jid, item))
        await self._tell(user, item.jid, before, item)

    async def remove(
        self, user: JID, contact: JID, *, push: bool = True, first: Callable[[], None] | None = None
    ) -> None:
        """Delete an item, then push `subscription='remove'` if it was listed. Nothing happens if there is none.

        `first` as in `change`. Nothing is sent to the contact.
        """
        roster = self.cached(user) or await self._load(user)
        before = roster.get(contact)
        if before is None:
            if first is not None:
                first()
            return
        roster.drop(contact)
        self._count(user, roster, before, None)
        if before.listed:
            self._advance(roster)
        number, floor, owner = roster.number, roster.floor, str(user)

        def delete(cursor: Cursor) -> int:
            cursor.run("DELETE FROM roster WHERE owner = ? AND jid = ?", owner, str(contact))
            if not before.listed:
                return floor
            cursor.run(store.PUT_VERSION, owner, number, floor)
            cursor.run(store.PUT_REMOVAL, owner, str(contact), number)
            return store.trim_removals(cursor, owner, floor)

        pushes = self._pushes(user, removed_bytes(contact), number) if push and before.listed else []
        kept = await self._commit(user, "roster.remove", delete, pushes)
        roster.floor = max(roster.floor, kept)
        if first is not None:
            first()
        if push and before.listed:
            self._push(pushes)
            if self._changed.rows:
                self._changed.run(RosterChanged(user, contact, None))
        await self._tell(user, contact, before, None)

    def _check_room(self, roster: MemoryRoster, before: RosterItem | None, item: RosterItem) -> None:
        if item.listed:
            if (before is None or not before.listed) and roster.listed >= self.kernel.limits.roster_items:
                raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="the roster is full")
            more = weight_of(item) - weight_of(before)
            if more > 0 and roster.weight + more > self.kernel.limits.roster_bytes:
                raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="the roster is full")
        elif before is None and roster.size - roster.listed >= REQUESTS:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT)

    def _count(self, user: JID, roster: MemoryRoster, before: RosterItem | None, after: RosterItem | None) -> None:
        if self._others.get(user) is roster:
            self._others_items += (after is not None) - (before is not None)

    def _advance(self, roster: MemoryRoster) -> None:
        """Count the version up. The first one is the time, so that an account that takes the place of a deleted one
        does not give out the same versions again."""
        if roster.number == 0:
            roster.number = roster.floor = max(1, int(self.kernel.clock.now()))
        else:
            roster.number += 1

    async def _commit(self, user: JID, name: str, work: Callable[[Cursor], T], pushes: Sequence[Push] = ()) -> T:
        """Write, and forget the roster and the pushes if that fails: memory was changed already."""
        self._in_flight[user] += 1
        try:
            return await self.db.write(name, work)
        except StorageBusy as error:
            self._forget(user)
            self._let_go(pushes)
            raise StanzaError(Condition.RESOURCE_CONSTRAINT) from error
        except Exception:
            self._forget(user)
            self._let_go(pushes)
            raise
        finally:
            self._in_flight[user] -= 1
            if not self._in_flight[user]:
                del self._in_flight[user]

    async def _tell(self, user: JID, contact: JID, before: RosterItem | None, after: RosterItem | None) -> None:
        was = before.subscription if before is not None else "none"
        now = after.subscription if after is not None else "none"
        hook = self.kernel.hooks[events.subscription_changed]
        if was != now and hook.rows:
            outcome = hook.run(SubscriptionChanged(user, contact, was, now))
            if is_later(outcome):
                await cast("Awaitable[object]", outcome)

    def _pushes(self, user: JID, item: bytes, number: int) -> list[Push]:
        """RFC 6121 §2.1.6: a push for every interested session.

        Where stream management keeps them they join the commit of the change: no crash comes between the two.
        """
        keeper = self.kernel.service_or_none(SessionKeeper)
        pushes: list[Push] = []
        for session in self.kernel.sessions.of(user).all:
            if session.interested:
                stanza = push_for(session, item, number)
                pushes.append((session, stanza, keeper and keeper.hold(session, stanza.to_wire(), stanza)))
        return pushes

    def _push(self, pushes: list[Push]) -> None:
        for session, stanza, _ in pushes:
            session.send(stanza)
        self._let_go(pushes)

    def _let_go(self, pushes: Sequence[Push]) -> None:
        keeper = self.kernel.service_or_none(SessionKeeper)
        for *_, held in pushes:
            if held is not None and keeper is not None:
                keeper.let_go(held)

    async def _farewell(self, user: JID, item: RosterItem) -> None:
        """RFC 6121 §2.5.2: end what subscriptions and requests there were with a contact that is no longer listed."""
        for kind, due in (
            ("unsubscribe", item.to or item.pending_out),
            ("unsubscribed", item.from_ or item.pending_in),
        ):
            if due:
                stanza = Stanza.build(PRESENCE, kind, id=new_id("rf"), sender=user, to=item.jid)
                rest = self.kernel.router.route(Context(stanza))
                if rest is not None:
                    await rest

    # ---- what the owner asks ----------------------------------------------------------------------------------------

    @iq(get=QUERY, scope=Scope.OWN)
    def _get(self, ctx: Context) -> IqAnswer | Awaitable[IqAnswer]:
        """RFC 6121 §2.1.3, §2.2, §2.6.2."""
        session = _asker(ctx)
        ver = plain_version(ctx.stanza)
        if ver is None:
            query = _query(ctx)
            if query.find(ITEM) is not None:  # other elements are extensions: QXmpp asks for those of MIX (XEP-0405 §6)
                raise StanzaError(Condition.BAD_REQUEST, text="a roster get has no items")
            ver = query.get("ver")
        roster = self.cached(session.bare)
        if roster is None or session.bare in self._in_flight:
            return self._get_later(ctx, session, ver)
        return self._answer(ctx, session, roster, ver)

    async def _get_later(self, ctx: Context, session: Session, ver: str | None) -> IqAnswer:
        # A version must not be told before it is committed: after a crash it would be given to another change.
        for _ in range(5):
            if session.bare not in self._in_flight:
                break
            await self.db.write("roster.settle", lambda cursor: None)
        answer = self._answer(ctx, session, self.cached(session.bare) or await self._load(session.bare), ver)
        return await answer if is_later(answer) else answer

    def _answer(
        self, ctx: Context, session: Session, roster: MemoryRoster, ver: str | None
    ) -> IqAnswer | Awaitable[IqAnswer]:
        if ver and ver.isascii() and ver.isdigit() and len(ver) <= _VERSION_DIGITS:
            known = int(ver)
            if known == roster.number:
                session.interested = True
                return ctx.stanza.reply()
            if roster.floor <= known < roster.number:
                return self._changes_since(ctx, session, known)
        return self._whole(ctx, session, roster)

    def _whole(self, ctx: Context, session: Session, roster: MemoryRoster) -> Stanza:
        session.interested = True
        session.charge(roster.listed)
        return ctx.stanza.reply(query_bytes(self._whole_rosters.items(session.bare, roster), roster.number))

    async def _changes_since(self, ctx: Context, session: Session, known: int) -> IqAnswer:
        """RFC 6121 §2.6.3: an empty result, then one push for each item changed since, in the order of the changes."""
        user = session.bare
        roster = self.cached(user) or await self._load(user)
        for _ in range(3):
            seen = roster.number
            rows = await self.db.write("roster.changes", lambda cursor: store.changes(cursor, user, known))
            roster = self.cached(user) or await self._load(user)
            if roster.number == seen:
                break
        else:  # it changes faster than it can be read
            rows = []
        changed = [(number, roster.get(JID.parse(jid)), jid) for number, jid in rows]
        if not changed or len(changed) > max(FEW_PUSHES, roster.listed):
            return self._whole(ctx, session, roster)
        session.interested = True
        self.kernel.iq.answer_early(ctx, ctx.stanza.reply())
        for number, item, jid in changed:
            if item is not None and item.listed:
                push_to(session, item_bytes(item), number)
            else:
                push_to(session, removed_bytes(jid), number)
        return None

    @iq(set=QUERY, scope=Scope.OWN)
    async def _set(self, ctx: Context) -> IqAnswer:
        """RFC 6121 §2.1.5, §2.3 to §2.5."""
        session, query = _asker(ctx), _query(ctx)
        if session.anonymous:
            raise StanzaError(Condition.NOT_ALLOWED, text="anonymous users keep no roster")
        asked, user = only_item(query), session.bare
        contact = contact_of(asked)
        if contact == user:
            raise StanzaError(Condition.NOT_ALLOWED, text="this is your own address")

        def done() -> None:
            self.kernel.iq.answer_early(ctx, ctx.stanza.reply())

        removing = asked.get("subscription") == "remove"
        name, groups = ("", ()) if removing else self._labels(asked)
        roster = self.cached(user) or await self._load(user)
        item = roster.get(contact)
        if not removing:
            base = item if item is not None else RosterItem(contact)
            await self.change(user, replace(base, name=name, groups=groups, listed=True), first=done)
            return None
        if item is None or not item.listed:
            raise StanzaError(Condition.ITEM_NOT_FOUND, Kind.MODIFY)  # the type of the example in §2.5.3
        # the answer comes last (§2.5.2): whoever has it finds the item gone from the client, too, and the contact told
        await self.remove(user, contact)
        await self._farewell(user, item)
        return ctx.stanza.reply()

    def _labels(self, asked: Element) -> tuple[str, tuple[str, ...]]:
        """Name and groups as asked for, within the limits (RFC 6121 §2.3.3)."""
        limits = self.kernel.limits
        name = asked.get("name", "")
        if len(name.encode()) > limits.roster_name_bytes:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="the name is too long")
        groups = tuple("".join(map(str, group.itertext())) for group in asked.iterfind(GROUP))
        if len(groups) > limits.roster_groups_per_item:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="too many groups")
        if len(set(groups)) < len(groups):
            raise StanzaError(Condition.BAD_REQUEST, text="a group appears twice")
        for group in groups:
            if not group:
                raise StanzaError(Condition.NOT_ACCEPTABLE, text="a group without a name")
            if len(group.encode()) > limits.roster_group_bytes:
                raise StanzaError(Condition.NOT_ACCEPTABLE, text="the name of a group is too long")
        return name, groups and store.groups_of_json(store.groups_to_json(groups))


def _asker(ctx: Context) -> Session:
    """Who asks. Others than the owner's sessions are refused (RFC 6121 §2.3.3)."""
    if ctx.origin is None or (ctx.stanza.to is not None and ctx.stanza.to.bare != ctx.origin.bare):
        raise StanzaError(Condition.FORBIDDEN)
    return ctx.origin


def _query(ctx: Context) -> Element:
    """The `<query/>`."""
    query = ctx.stanza.payload
    if query is None:
        raise StanzaError(Condition.BAD_REQUEST)
    return query
