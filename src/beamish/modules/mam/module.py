"""XEP-0313: every message of an account is archived, and found again at a cost that does not grow with the archive.

What a client sends is archived for its account when all guards have let it pass (`inbound`), what an account gets when it
arrives (`incoming`), each side on its own. Rows join the next commit, and the stanza is acknowledged after that. The copy
that goes on to the receiver carries the id of its archive (XEP-0359), ids that pretend to be ours are taken out.
With it come full-text search (XEP-0431), preferences (XEP-0441), tombstones for retracted messages (XEP-0424) and, for old
clients, the same archive by XEP-0136.

Not here: archives of rooms (module `muc`), messages for absent accounts (module `offline`, which delivers what an account
has missed, whether or not its clients know of archives; the ids on both are the same).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Final, Literal, cast

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.commands import Param
from beamish.core.content import HINTS, RETRACT, RETRACT_TAG, SID, STANZA_ID_TAG, Holds, content_of
from beamish.core.events import AccountEvent, Context
from beamish.core.gather import Gathering
from beamish.core.hooks import STOP, Outcome, Verdict
from beamish.core.later import is_later
from beamish.core.module import IqAnswer, ModuleConfig, Scope, Xep, command, iq, on
from beamish.core.services import AccountsService, Roster, RosterService
from beamish.modules.mam import ids, packing, pages, query, removal, store
from beamish.modules.mam import prefs as preferences
from beamish.modules.mam.keeper import Keeper
from beamish.modules.mam.legacy import ARCHIVE, STREAM_FEATURE, LegacyArchive
from beamish.modules.mam.prefs import Prefs
from beamish.modules.mam.query import EXTENDED, FULLTEXT, GROUPCHAT_FIELD, MAM
from beamish.modules.mam.rules import NEVER_TYPES, REFUSED, WORTH, without_forged_ids
from beamish.storage.api import Cursor, StorageBusy, StorageError
from beamish.stream.features import StreamFeature
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, PersonalStanza, Stanza

log = structlog.get_logger(__name__)

_ENTRY_TEXTS: Final = 128
"""About as many bytes as a message has in the log beside the stanza."""
_BACKLOG: Final = 5_000
"""Messages waiting for their commit above which whoever sends one waits."""
_BACKLOG_MOST: Final = 20_000
_BACKLOG_BYTES: Final = 64 * 1024 * 1024
"""Messages, and their bytes, waiting for their commit above which more are refused; only what the sender's archive has taken is
taken for the receiver, too, which is one message for each session at most."""
_PREFS_KEPT: Final = 50_000
"""Accounts whose preferences are kept in memory (about 200 bytes each, most of them the same object)."""
_COPIES_KEPT: Final = 2_000
_COPIES_SECONDS: Final = 60.0
"""How long, and for how many messages, private messages through rooms are looked at for copies of one another."""

_ID: Final = b"<stanza-id xmlns='urn:xmpp:sid:0' id='%016x%08x' by='%b'/>"
_RETRACTION: Final = int(Holds.RETRACTION)
_MUC_USER: Final = int(Holds.MUC_USER)
_RARE: Final = _MUC_USER | _RETRACTION
"""What is looked at more closely before it is archived."""
_SID: Final = SID.encode()
_DAY: Final = 86_400.0


class Config(ModuleConfig):
    """Options of the archive."""

    default: Literal["always", "roster", "never"] = Field(
        "always",
        description="Whose messages are archived for accounts that have not set it themselves: everybody's, those of "
        "contacts in the roster, or none.",
    )
    keep_days: float = Field(0.0, ge=0.0, description="Days that messages are kept; 0: until the bounds below are met.")
    max_messages: int = Field(
        1_000_000, ge=0, description="Messages kept for one account, the oldest go first; 0: no such bound."
    )
    max_bytes: int = Field(
        1_073_741_824, ge=0, description="Bytes kept for one account, the oldest messages go first; 0: no such bound."
    )
    page: int = Field(50, ge=1, le=1_000, description="Messages in a page if the client does not say how many.")
    max_page: int = Field(250, ge=1, le=1_000, description="Messages in a page at most.")
    legacy: bool = Field(True, description="Answer old clients by XEP-0136 from the same archive.")


class MamModule(LegacyArchive):
    """The archive of accounts."""

    name = "mam"
    keeps_for_accounts = True
    Config = Config
    xeps = (
        Xep(313, "1.1.3"),
        Xep(441, "0.2.0"),
        Xep(431, "0.2.0"),
        Xep(359, "0.7.0"),
        Xep(424, "0.4.2", note="tombstones; of rooms: see muc"),
        Xep(334, "1.0.0", note="storage hints"),
        Xep(297, "1.0", note="as used by archives and carbons"),
        Xep(136, "1.3.1", status="partial", note="no manual archiving, no replication"),
    )
    account_features = (
        MAM,
        EXTENDED,
        GROUPCHAT_FIELD,
        FULLTEXT,
        SID,
        HINTS,
        RETRACT,
        f"{RETRACT}#tombstone",
    )
    features: tuple[str, ...] = (RETRACT,)
    stream_features: tuple[StreamFeature, ...] = (STREAM_FEATURE,)
    requires = (AccountsService, RosterService)
    migrations = store.MIGRATIONS

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._default = Prefs(config.default)
        self._prefs: OrderedDict[str, Prefs] = OrderedDict()
        self._particular: set[str] = set()
        """Accounts that have preferences of their own; for all others nothing has to be read."""
        self._copies: OrderedDict[tuple[str, str, bytes], tuple[float, int, int]] = OrderedDict()
        self._ids = ids.IdSource()
        self._log = Gathering[packing.Logged](
            self.db, kernel.clock, "mam.log", store.write_log, _BACKLOG_MOST, _BACKLOG_BYTES, self._logged
        )
        if config.legacy:
            self.features = (*self.features, *(f"{ARCHIVE}{part}" for part in ("", ":auto", ":manage", ":pref")))
        else:
            self.stream_features = ()

    async def start(self) -> None:
        """Go on with ids where the archive ends."""
        self._accounts = self.kernel.service(AccountsService)
        self._rosters = self.kernel.service(RosterService)
        self._by_user = self.kernel.sessions.by_user
        self._by_full = self.kernel.sessions.by_full
        self._now = self.kernel.clock.now
        self._ids.last = await self.db.read("mam.last", store.last_id)
        self._particular = await self.db.read("mam.particular", preferences.owners)
        if ids.time_of(self._ids.last) > self._now() + _DAY:
            log.warning("archive_from_the_future", seconds=ids.time_of(self._ids.last) - self._now())
        config = self.config
        self._keeper = Keeper(
            self.db,
            self.kernel.clock,
            self.tasks,
            self._log.seal,
            config.max_messages,
            config.max_bytes,
            config.keep_days * _DAY,
        )
        self._keeper.start()

    async def stop(self) -> None:
        """End the timers; what the disk has refused so far gets its last chance."""
        self._keeper.stop()
        self._log.hand_over()

    # ---- archiving ------------------------------------------------------------------------------------------------------

    @on(events.inbound, at=90, only=(MESSAGE,))  # late: only what no other guard stops or changes any more
    def sent(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """Archive what a client sends, for its own account."""
        stanza = ctx.stanza
        session = ctx.origin
        if stanza.name != MESSAGE or stanza.type in NEVER_TYPES or session is None:
            return None
        owner = session.bare
        if _SID in stanza.body:
            ctx.stanza = stanza = without_forged_ids(stanza, owner)
        content = content_of(ctx)
        if not content & WORTH or content & REFUSED:
            return None
        peer = stanza.to
        # what somebody sends to themselves is archived once, where it arrives
        if peer is None or peer.bare == owner or session.anonymous or session.note("mam.auto") is False:
            return None
        if self._threads and (rule := self.thread_rule(owner, stanza)) is not None:
            return self._keep(ctx, owner, peer, True) if rule else None
        prefs = self._prefs.get(owner) if owner in self._particular else self._default
        if prefs is not None and prefs.everything and not content & _RARE:
            return self._keep_sent(ctx, owner, peer)
        return self._decide(ctx, owner, peer, prefs, sent=True)

    @on(events.incoming, at=90, only=(MESSAGE,))  # late, for the same reason
    def received(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """Archive what an account gets, and give the id to what goes on to its sessions."""
        stanza = ctx.stanza
        to = stanza.to
        if stanza.name != MESSAGE or to is None:
            return None
        owner = to.bare
        if _SID in stanza.body:
            ctx.stanza = stanza = without_forged_ids(stanza, owner)
        if stanza.type in NEVER_TYPES:
            return None
        content = content_of(ctx)
        if not content & WORTH or content & REFUSED:
            return None
        peer = stanza.sender
        if peer is None:
            return None
        here = self._by_user.get(owner)
        if here is None:
            exists = self._accounts.exists(owner)
            if is_later(exists):
                return self._if_account(ctx, owner, peer, exists)
            if not exists:
                return None
        elif here.all[0].anonymous or (to.resource and self._is_off(to)):
            return None
        if self._threads and (rule := self.thread_rule(owner, stanza)) is not None:
            return self._keep(ctx, owner, peer, False) if rule else None
        prefs = self._prefs.get(owner) if owner in self._particular else self._default
        if prefs is not None and prefs.everything and not content & _RARE:
            return self._keep_received(ctx, owner, peer)
        return self._decide(ctx, owner, peer, prefs, sent=False)

    def _is_off(self, to: JID) -> bool:
        session = self._by_full.get(to)
        return session is not None and session.note("mam.auto") is False

    async def _if_account(self, ctx: Context, owner: JID, peer: JID, exists: Awaitable[bool]) -> Outcome:
        if not await exists:
            return None
        rest = self._decide(ctx, owner, peer, None, sent=False)
        return await _outcome(rest)

    def _decide(
        self, ctx: Context, owner: JID, peer: JID, prefs: Prefs | None, *, sent: bool
    ) -> Outcome | Awaitable[Outcome]:
        """As far as preferences have to be looked at; both they and the roster may have to be read first."""
        if prefs is None:
            return self._when_known(ctx, owner, peer, sent)
        verdict = prefs.verdict(peer)
        if verdict is None:
            roster = self._rosters.roster(owner)
            if is_later(roster):
                return self._when_listed(ctx, owner, peer, roster, sent)
            verdict = _listed(roster, peer)
        return self._keep(ctx, owner, peer, sent) if verdict else None

    async def _when_known(self, ctx: Context, owner: JID, peer: JID, sent: bool) -> Outcome:
        rest = self._decide(ctx, owner, peer, await self.prefs_of(owner), sent=sent)
        return await _outcome(rest)

    async def _when_listed(self, ctx: Context, owner: JID, peer: JID, roster: Awaitable[Roster], sent: bool) -> Outcome:
        rest = self._keep(ctx, owner, peer, sent) if _listed(await roster, peer) else None
        return await _outcome(rest)

    def _keep(self, ctx: Context, owner: JID, peer: JID, sent: bool) -> Outcome | Awaitable[Outcome]:
        if content_of(ctx) & _RETRACTION:
            return self._when_merged(ctx, owner, peer, sent)
        return self._keep_now(ctx, owner, peer, sent)

    async def _when_merged(self, ctx: Context, owner: JID, peer: JID, sent: bool) -> Outcome:
        """What it retracts has to be found: its sender waits for that, in steps, instead of everybody for one transaction."""
        with suppress(StorageError):  # `_bury` does what is left
            await self._keeper.merged(owner)
        return await _outcome(self._keep_now(ctx, owner, peer, sent))

    def _keep_now(self, ctx: Context, owner: JID, peer: JID, sent: bool) -> Outcome | Awaitable[Outcome]:
        if sent:
            return self._keep_sent(ctx, owner, peer)
        first = self._copied(ctx.stanza, owner) if content_of(ctx) & _MUC_USER else None
        if first is None:
            return self._keep_received(ctx, owner, peer)
        self._mark(ctx, owner, *first)
        return None

    def _keep_sent(self, ctx: Context, owner: JID, peer: JID) -> Awaitable[Outcome] | None:
        try:
            self._put_sent(ctx, owner, peer)
        except StorageBusy:
            return self._again(ctx, owner, peer, True)
        return self._breathe() if self._log.rows > _BACKLOG else None

    def _put_sent(self, ctx: Context, owner: JID, peer: JID) -> None:
        number, salt = self._store(ctx, owner, peer, packing.SENT)
        here = self._by_user.get(owner)
        if here is not None and len(here.all) > 1:  # for the copies that go to the other devices
            ctx.notes["mam.sent"] = _ID % (number, salt, owner.wire)

    def _keep_received(self, ctx: Context, owner: JID, peer: JID) -> Awaitable[Outcome] | None:
        try:
            self._put_received(ctx, owner, peer)
        except StorageBusy:
            return self._again(ctx, owner, peer, False)
        return self._breathe() if self._log.rows > _BACKLOG else None

    def _put_received(self, ctx: Context, owner: JID, peer: JID) -> None:
        key = _copy_key(ctx.stanza, owner) if ctx.stanza.id and content_of(ctx) & _MUC_USER else None
        number, salt = self._store(ctx, owner, peer, packing.SENT if peer.bare == owner else 0)
        if key is not None:
            self._copies[key] = (self._now(), number, salt)
        self._mark(ctx, owner, number, salt)

    def _mark(self, ctx: Context, owner: JID, number: int, salt: int) -> None:
        """Say under which id the message is in the archive."""
        ctx.notes["mam.received"] = number
        ctx.stanza = ctx.stanza.with_child(_ID % (number, salt, owner.wire), STANZA_ID_TAG)

    async def _breathe(self) -> None:
        """Messages come faster than the disk takes them: their sender waits, so that others find room in the queue."""
        await self.db.flushed()

    async def _again(self, ctx: Context, owner: JID, peer: JID, sent: bool) -> Outcome:
        """The log is full: the sender waits until there is room, whoever reads on its connection. A second time is an error."""
        try:
            await self.db.flushed()
            (self._put_sent if sent else self._put_received)(ctx, owner, peer)
        except StorageError:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="the message could not be archived") from None
        return None

    def _store(self, ctx: Context, owner: JID, peer: JID, kind: int) -> tuple[int, int]:
        """Queue the row; number and salt of its id. Raises `StorageBusy`."""
        stanza = ctx.stanza
        notes = ctx.notes
        # what the sender's archive holds is what the receiver's does, as a rule
        shared = cast("tuple[Stanza, bytes] | None", notes.get("mam.wire"))
        archived = shared is not None  # by its sender: an error would say that it is nowhere
        if shared is None or shared[0] is not stanza:
            shared = stanza, stanza.to_wire()
        wire = shared[1]
        # what one tick archives has one time
        number, salt = id_ = self._ids.following() if self._log.begun else self._ids.next(self._now())
        entry = (number, salt, kind, peer.bare, wire, owner)
        position = self._log.add(entry, len(wire) + _ENTRY_TEXTS, beyond=archived)
        notes["mam.wire"] = shared
        if position > ctx.settled:
            ctx.settled = position
        if notes["content"] & _RETRACTION:  # type: ignore[operator]
            self._bury(ctx, owner, peer, kind, number)
        return id_

    def _logged(self, entries: list[packing.Logged]) -> None:
        self._keeper.appended([entry[5] for entry in entries], len(entries))

    def _copied(self, stanza: Stanza, owner: JID) -> tuple[int, int] | None:
        """The id of a private message through a room that came already: rooms send one to each client (XEP-0313 §6.1.1).

        Messages without an id of their own are never taken for copies: two may say the same.
        """
        now = self._now()
        copies = self._copies
        while copies and (len(copies) > _COPIES_KEPT or next(iter(copies.values()))[0] < now - _COPIES_SECONDS):
            copies.popitem(last=False)
        found = copies.get(_copy_key(stanza, owner)) if stanza.id else None
        return None if found is None else found[1:]

    # ---- retraction (XEP-0424) ----------------------------------------------------------------------------------------------

    def _bury(self, ctx: Context, owner: JID, peer: JID, kind: int, number: int) -> None:
        """Put a tombstone in the place of the message that this one retracts, if the same user sent that (§5, §6)."""
        stanza = ctx.stanza
        retract = stanza.child(RETRACT_TAG)
        sid = None if retract is None else retract.get("id")
        if not sid:
            return
        # through a room everybody has the room's address: then the resource tells people apart
        resource = peer.resource if content_of(ctx) & _MUC_USER else None
        when = ids.time_of(number)
        over: list[int] = []
        work = partial(
            _bury,
            merge=partial(self._keeper.merge, owner=str(owner)),
            over=over,
            owner=str(owner),
            peer=str(peer.bare),
            resource=resource,
            sid=sid,
            sent=bool(kind & packing.SENT),
            by=stanza.id,
            when=when,
        )
        try:
            position = self.db.submit("mam.retract", work, _lost)
            ctx.caused(position)
            self.db.when_durable(position, partial(self._keeper.exceeded, over))
        except StorageBusy as exc:  # the message itself is archived, which must not be done twice
            log.error("retracted_message_stays", error=repr(exc))

    # ---- who takes charge --------------------------------------------------------------------------------------------------

    @on(events.undelivered, at=90, only=(MESSAGE,))  # after offline storage, which delivers what it keeps
    def undelivered(self, ctx: Context) -> Outcome:
        """A message that nobody else keeps waits in the archive: its sender must not hear that it was lost."""
        return STOP if ctx.note("mam.received") is not None else None

    @on(events.account_removed)
    async def account_removed(self, event: AccountEvent) -> None:
        """Nothing stays behind for whoever may get the same name later."""
        await self.db.flushed()  # what the disk refuses of it waits to be tried again by then
        self._log.drop(lambda entry: entry[5] == event.user)
        await self._keeper.forget(str(event.user))
        self._particular.discard(event.user)
        self._prefs.pop(event.user, None)

    # ---- queries -----------------------------------------------------------------------------------------------------------

    @iq(get=f"{{{MAM}}}query", scope=Scope.OWN)
    def query_form(self, ctx: Context) -> IqAnswer:
        """Which fields a query may have (§4.1.5)."""
        return ctx.stanza.reply(query.form())

    @iq(set=f"{{{MAM}}}query", scope=Scope.OWN)
    async def query(self, ctx: Context) -> IqAnswer:
        """Send a page of the archive to the client that asks, then its end (§4)."""
        stanza, session = ctx.stanza, ctx.origin
        if session is None:
            raise StanzaError(Condition.FORBIDDEN)
        owner = session.bare
        asked = query.read(stanza.el[0], owner, self.config.max_page, self.config.page)
        if asked.query.text:
            await self._keeper.searchable(str(owner))
        elif asked.query.with_resource:
            await self._keeper.by_resource(str(owner), asked.query.with_bare)
        else:  # a client may ask for what comes after a message that it has only just got
            await self._keeper.merged(owner)
        result = await self.db.read("mam.query", lambda c: pages.page(c, asked.query))
        for content in query.results(asked, result.rows):
            made = PersonalStanza.build(MESSAGE, sender=owner, to=session.jid, content=content)
            session.send(made)
        return stanza.reply(query.fin(result))

    @iq(get=f"{{{MAM}}}metadata", scope=Scope.OWN)
    async def metadata(self, ctx: Context) -> IqAnswer:
        """The oldest and the newest message (§5)."""
        owner = str(_owner(ctx))
        await self._keeper.merged(owner)
        return ctx.stanza.reply(query.metadata(await self.db.read("mam.ends", lambda c: pages.ends(c, owner))))

    # ---- preferences (XEP-0441) ----------------------------------------------------------------------------------------------

    async def prefs_of(self, owner: JID) -> Prefs:
        """What an account wants archived."""
        if owner not in self._particular:
            return self._default
        known = self._prefs.get(owner)
        if known is None:
            loaded = await self.db.read("mam.prefs", lambda c: preferences.load(c, str(owner), self._default))
            known = self._prefs.setdefault(owner, loaded)  # what was set meanwhile is newer
            if len(self._prefs) > _PREFS_KEPT:
                self._prefs.popitem(last=False)
        return known

    async def set_prefs(self, owner: JID, prefs: Prefs) -> None:
        """Store what an account wants archived; holds for messages from the commit on."""
        await self.db.write("mam.set_prefs", lambda c: preferences.save(c, str(owner), prefs))
        self._prefs[owner] = prefs
        self._particular.add(owner)

    @iq(get=f"{{{MAM}}}prefs", scope=Scope.OWN)
    async def get_prefs(self, ctx: Context) -> IqAnswer:
        """The preferences in force."""
        return ctx.stanza.reply((await self.prefs_of(_owner(ctx))).to_bytes())

    @iq(set=f"{{{MAM}}}prefs", scope=Scope.OWN)
    async def change_prefs(self, ctx: Context) -> IqAnswer:
        """Replace the preferences; the answer shows what is in force now."""
        owner = _owner(ctx)
        if ctx.origin is not None and ctx.origin.anonymous:
            # nor would anybody delete this
            raise StanzaError(Condition.NOT_ALLOWED, text="anonymous users have no archive")
        async with self.choosing:
            prefs = preferences.read(ctx.stanza.el[0], await self.prefs_of(owner))
            await self.set_prefs(owner, prefs)
        return ctx.stanza.reply(prefs.to_bytes())

    # ---- commands ------------------------------------------------------------------------------------------------------------

    @command("mam.usage", "How many messages an account's archive holds, and how large they are")
    async def command_usage(self, jid: Annotated[JID, Param("Account or room")]) -> dict[str, int | str]:
        """Messages and bytes; zero for an account without an archive."""
        owner = str(jid.bare)
        await self._keeper.merged(owner)
        found = await self.db.fetch("SELECT messages, bytes FROM mam_account WHERE jid = ?", owner)
        messages, size = found[0] if found else (0, 0)
        return {"jid": owner, "messages": messages, "bytes": size}


async def _outcome(rest: Outcome | Awaitable[Outcome]) -> Outcome:
    return rest if rest is None or isinstance(rest, Verdict) else await rest


def _owner(ctx: Context) -> JID:
    sender = ctx.stanza.sender
    assert sender is not None
    return sender.bare


def _copy_key(stanza: Stanza, owner: JID) -> tuple[str, str, bytes]:
    return owner, f"{stanza.sender} {stanza.id}", stanza.body


def _listed(roster: Roster, peer: JID) -> bool:
    item = roster.get(peer.bare)
    return item is not None and item.listed


def _lost(exc: Exception) -> None:
    """Delivery went on without waiting, so there is nobody left to tell; the stanza may be missing in the archive."""
    log.error("message_not_archived", error=repr(exc))


def _bury(
    c: Cursor, merge: Callable[[Cursor], tuple[bool, list[int]]], over: list[int], owner: str, peer: str,
    resource: str | None, sid: str, sent: bool, by: str, when: float,
) -> None:  # fmt: skip
    over.clear()
    more = True
    while more:
        more, exceeding = merge(c)
        over += exceeding
    found = removal.find_original(c, owner, peer, resource, sid, sent)
    if found is not None:
        removal.replace(c, owner, found[0], packing.GRAVE, query.tombstone(found[1], by, when))
