"""XEP-0016, XEP-0191 and XEP-0377: who may not communicate with a user.

Both protocols work on one store (a blocklist is a view of the default list) and one decision function, `rules`. The hooks
here ask it: `inbound` for what the user's clients send, `incoming` and `incoming_iq` for what arrives, `delivering` while
somebody uses an active list that may differ from session to session. A blocked party gets the answers of an account that
is not there. As long as nobody has lists the hooks are not even listened on; then an account without lists costs one test of
its session for what it sends, and one failed look-up in a dictionary for what it gets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, NoReturn

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.commands import Param
from beamish.core.events import AccountEvent, Context, Delivery, Exporting, Release, SessionClosed, SessionEvent
from beamish.core.hooks import STOP, Outcome, Row
from beamish.core.later import settled, then
from beamish.core.module import IqAnswer, Module, ModuleConfig, Scope, Xep, command, iq, on
from beamish.core.services import BlockingService, PresenceService, RosterService
from beamish.core.sessions import Session
from beamish.modules.blocking import store
from beamish.modules.blocking.command import BLOCKING, Command
from beamish.modules.blocking.effects import allows
from beamish.modules.blocking.owners import ACTIVE, Owners, effective
from beamish.modules.blocking.privacy import LIST, Privacy
from beamish.modules.blocking.reports import EARLIER, REPORTING, Reports
from beamish.modules.blocking.rules import PRIVACY, Kind, PrivacyList
from beamish.modules.blocking.store import Lists
from beamish.storage.api import Cursor
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.errors import Kind as ErrorKind
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, MESSAGE, PRESENCE, Stanza
from beamish.xmpp.xml import make, to_bytes

log = structlog.get_logger(__name__)

_NOTIFICATIONS: Final = ("", "unavailable")
_BOUNCED: Final = ("", "normal", "chat", "groupchat")
"""Messages that an account that is not there answers with an error (RFC 6121 §8.5.1)."""
_UNAVAILABLE: Final = StanzaError(Condition.SERVICE_UNAVAILABLE)


class Config(ModuleConfig):
    """Options of blocking and privacy lists."""

    max_lists: int = Field(20, ge=1, description="Privacy lists of one account.")
    max_items: int = Field(
        1000,
        ge=10,
        description="Items of one list, and so blocked addresses of one account. A list is read and written as a whole.",
    )
    reports_kept: int = Field(10_000, ge=0, description="Reports of abuse kept for the administrator; oldest go first.")
    reports_per_day: int = Field(
        50, ge=0, description="Reports that one account may make in a day; further ones block, but are not kept."
    )


class BlockingModule(Module):
    """Blocking, privacy lists, reports."""

    name = "blocking"
    Config = Config
    xeps = (Xep(16, "1.7"), Xep(191, "1.3"), Xep(377, "0.4.1", note="reports are kept, not passed on"))
    features = (BLOCKING, PRIVACY, REPORTING, EARLIER)
    requires = (RosterService, PresenceService)
    provides = (BlockingService,)
    migrations = store.MIGRATIONS

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._rosters = self.kernel.service(RosterService)
        self._presence = self.kernel.service(PresenceService)
        self.owners = Owners(self.kernel, self._rosters)
        self.reports = Reports(self.kernel, config.reports_kept, config.reports_per_day)
        self._privacy = Privacy(self.kernel, self.owners, config.max_lists, config.max_items)
        self._command = Command(self.kernel, self.owners, self.reports, config.max_items)
        self._command.list_changed = self._privacy.push_to_users
        self._active: set[Session] = set()
        self._listening = False
        self.owners.some = self._listen
        self._known = self.owners.known
        self._privacy.activated = self._activated
        self._privacy.changed = self._command.follow

    async def start(self) -> None:
        """Learn who has lists."""
        await self.owners.start()

    # ---- what clients ask -------------------------------------------------------------------------------------------

    @iq(get=f"{{{BLOCKING}}}blocklist", scope=Scope.OWN)
    async def _blocklist(self, ctx: Context) -> IqAnswer:
        return await self._command.fetch(_owner(ctx), ctx)

    @iq(set=f"{{{BLOCKING}}}block", scope=Scope.OWN)
    async def _block(self, ctx: Context) -> IqAnswer:
        await self._command.block(_owner(ctx), ctx)
        return None

    @iq(set=f"{{{BLOCKING}}}unblock", scope=Scope.OWN)
    async def _unblock(self, ctx: Context) -> IqAnswer:
        await self._command.unblock(_owner(ctx), ctx)
        return None

    @iq(get=f"{{{PRIVACY}}}query", scope=Scope.OWN)
    async def _get_lists(self, ctx: Context) -> IqAnswer:
        return await self._privacy.get(_owner(ctx), ctx)

    @iq(set=f"{{{PRIVACY}}}query", scope=Scope.OWN)
    async def _set_lists(self, ctx: Context) -> IqAnswer:
        await self._privacy.set(_owner(ctx), ctx)
        return None

    # ---- hooks ------------------------------------------------------------------------------------------------------

    def _listen(self, some: bool) -> None:
        """Listen on the hooks of all traffic while somebody has lists."""
        if some == self._listening:
            return
        self._listening = some
        hooks = self.kernel.hooks
        if not some:
            for point in (events.inbound, events.incoming, events.incoming_iq):
                hooks[point].remove(self.name)
            hooks[events.releasing].remove(self.name)
            return
        # before everything that would keep or copy a stanza that is not to be sent
        hooks[events.inbound].add(Row(10, self.name, self._inbound))
        # First of all (XEP-0016 §2.2 rule 4); only for those who have lists, which fan-outs know by `Session.guarded`.
        only = frozenset((MESSAGE, PRESENCE))
        hooks[events.incoming].add(Row(5, self.name, self._incoming, only, guarded=True))
        hooks[events.incoming_iq].add(Row(5, self.name, self._incoming))
        hooks[events.releasing].add(Row(10, self.name, self._releasing))  # before those who copy or answer

    # ---- what clients send ------------------------------------------------------------------------------------------

    def _inbound(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        session = ctx.origin
        if session is None or not session.guarded:
            return None
        return then(self.owners.of(session.bare), lambda lists: self._sent(ctx, session, lists))

    def _sent(self, ctx: Context, session: Session, lists: Lists) -> Outcome | Awaitable[Outcome]:
        stanza = ctx.stanza
        to = stanza.to
        if to is None or to.bare == session.bare or (stanza.name == IQ and to == session.bare.domain):
            return None
        shown = stanza.name == PRESENCE and stanza.type in _NOTIFICATIONS
        kind = Kind.PRESENCE_OUT if shown else Kind.OTHER
        rules = effective(lists, session)

        def decide(allowed: bool) -> Outcome:
            return None if allowed else _refuse()

        return then(self._allows(session.bare, rules, kind, to), decide)

    # ---- what arrives -----------------------------------------------------------------------------------------------

    def _incoming(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        to = ctx.stanza.to
        if to is None or to.bare not in self._known:
            return None
        return then(self._welcome(ctx.stanza, to), lambda welcome: None if welcome else self._drop(ctx))

    def _drop(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """What the other side gets: nothing, or what it would get from an account that is not there (XEP-0016 §2.14)."""
        stanza = ctx.stanza
        to, sender = stanza.to, stanza.sender
        if stanza.name == IQ and stanza.type in ("get", "set"):
            if to is None or to.resource or sender is None:
                raise _UNAVAILABLE
            return then(self._presence.may_see(to, sender), lambda seen: self._as_nobody(ctx, known=seen))
        if stanza.name == MESSAGE and stanza.type in _BOUNCED:
            raise _UNAVAILABLE
        return STOP

    def _as_nobody(self, ctx: Context, *, known: bool) -> Outcome | Awaitable[Outcome]:
        """A request that is not welcome. `known`: to somebody whose requests alone are not, there is nothing to hide."""
        if known:
            raise _UNAVAILABLE
        rest = self.kernel.iq.handle(ctx, account=False)
        return STOP if rest is None else _stopped(rest)

    def _welcome(self, stanza: Stanza, to: JID) -> bool | Awaitable[bool]:
        sender = stanza.sender
        user = to.bare
        if sender is None or sender.bare == user:
            return True
        return then(self.owners.of(user), lambda lists: self._judge(stanza, sender, to, lists))

    def _judge(self, stanza: Stanza, sender: JID, to: JID, lists: Lists) -> bool | Awaitable[bool]:
        """By the list of the session that is addressed, or by the default list; all sessions' lists if they may differ."""
        kind = kind_of(stanza)
        session = self.kernel.sessions.get(to) if to.resource else None
        if session is None and self._active:
            sessions = self.kernel.sessions.of(to.bare).all
            rules = {id(r): r for r in (effective(lists, s) for s in sessions)}
            if len(rules) > 1:
                # whoever may not have it is passed over at `delivering`; sessions keep the roster in memory
                return any(self._allows(to.bare, r, kind, sender) is True for r in rules.values())
            if rules:
                return self._allows(to.bare, next(iter(rules.values())), kind, sender)
        return self._allows(to.bare, effective(lists, session), kind, sender)

    def _allows(self, user: JID, rules: PrivacyList | None, kind: Kind, peer: JID) -> bool | Awaitable[bool]:
        if rules is None:
            return True
        if not rules.asks_roster:
            return allows(rules, kind, peer, None)
        found = self._rosters.roster(user)
        return then(found, lambda roster: allows(rules, kind, peer, roster))

    # ---- active lists -----------------------------------------------------------------------------------------------

    def _activated(self, session: Session) -> None:
        """A session changed its active list. Only while there are some, every delivery is looked at."""
        if session.note(ACTIVE) is not None:
            if not self._active:
                self.kernel.hooks[events.delivering].add(Row(10, self.name, self._delivering, guarded=True))
            self._active.add(session)
        else:
            self._inactive(session)

    def _inactive(self, session: Session) -> None:
        if session in self._active:
            self._active.discard(session)
            if not self._active:
                self.kernel.hooks[events.delivering].remove(self.name)

    def _delivering(self, delivery: Delivery) -> Outcome:
        session, sender = delivery.session, delivery.stanza.sender
        if not session.guarded or sender is None or sender.bare == session.bare:
            return None
        rules = effective(self.owners.peek(session.bare), session)
        roster = self._rosters.cached(session.bare)
        return None if allows(rules, kind_of(delivery.stanza), sender, roster) else STOP

    def _releasing(self, release: Release) -> None:
        """Messages were stored for the user before their sender was blocked (XEP-0191 §3.3: nothing is delivered any more)."""
        session = release.session
        rules = effective(self.owners.peek(session.bare), session) if session.guarded else None
        if rules is None or not rules.kinds & Kind.MESSAGE:
            return
        roster = self._rosters.cached(session.bare)

        def welcome(stanza: Stanza) -> bool:
            try:
                sender = stanza.sender
            except ValueError:
                return True  # damaged on disk; whoever hands it over tells
            return sender is None or sender.bare == session.bare or allows(rules, Kind.MESSAGE, sender, roster)

        release.messages = [stanza for stanza in release.messages if welcome(stanza)]

    # ---- what the server tells of a user ----------------------------------------------------------------------------

    def shows(self, session: Session) -> Callable[[JID], bool] | None:
        """See `BlockingService.shows`."""
        user = session.bare
        if user not in self.owners:
            return None
        lists = self.owners.peek(user)
        if lists is None:
            self.tasks.spawn(self.owners.bound(session), "load")
            return lambda peer: peer.bare == user  # whoever may not see it must not; the others are told a little later
        rules = effective(lists, session)
        if rules is None or not rules.kinds & Kind.PRESENCE_OUT:
            return None
        roster = self._rosters.cached(user)
        return lambda peer: peer.bare == user or allows(rules, Kind.PRESENCE_OUT, peer, roster)

    def hides(self, session: Session, peer: JID) -> bool:
        """See `BlockingService.hides`."""
        rules = effective(self.owners.peek(session.bare), session)
        return rules is not None and not rules.asks_roster and not allows(rules, Kind.PRESENCE_OUT, peer, None)

    def asks(self, session: Session) -> Callable[[JID], bool] | None:
        """See `BlockingService.asks`."""
        user = session.bare
        lists = self.owners.peek(user) if user in self.owners else None
        rules = effective(lists, session) if lists is not None else None
        if rules is None:
            return None
        roster = self._rosters.cached(user)
        return lambda peer: any(allows(rules, kind, peer, roster) for kind in (Kind.PRESENCE_IN, Kind.PRESENCE_OUT))

    def hears(self, session: Session) -> Callable[[JID], bool] | None:
        """See `BlockingService.hears`."""
        user = session.bare
        rules = effective(self.owners.peek(user), session)
        if rules is None or not rules.kinds & Kind.OTHER:
            return None
        roster = self._rosters.cached(user)
        return lambda peer: allows(rules, Kind.OTHER, peer, roster)

    def hidden(self, owner: JID, peer: JID) -> bool | Awaitable[bool]:
        """See `BlockingService.hidden`."""
        if owner not in self.owners or peer.bare == owner:
            return False
        return then(self.owners.of(owner), lambda lists: self._hidden(lists, owner, peer))

    def has_lists(self, owner: JID) -> bool:
        """See `BlockingService.has_lists`."""
        return owner in self._known

    def _hidden(self, lists: Lists, owner: JID, peer: JID) -> bool | Awaitable[bool]:
        sessions = self.kernel.sessions.of(owner).available
        if sessions:
            return not any((shows := self.shows(session)) is None or shows(peer) for session in sessions)
        shown = self._allows(owner, effective(lists, None), Kind.PRESENCE_OUT, peer)
        return then(shown, lambda allowed: not allowed)

    # ---- life -------------------------------------------------------------------------------------------------------

    @on(events.session_bound)
    def _session_bound(self, event: SessionEvent) -> Awaitable[None] | None:
        if event.session.bare not in self.owners:
            return None
        event.session.guarded = True
        if event.session.note(ACTIVE) is not None:
            self._activated(event.session)  # one of before a restart, which stream management has brought back
        return self.owners.bound(event.session)

    @on(events.session_closed, at=90)  # after the presence that this causes
    def _session_closed(self, event: SessionClosed) -> None:
        self._inactive(event.session)
        self.owners.closed(event.session)

    @on(events.account_exporting)
    async def _exporting(self, event: Exporting) -> None:
        """XEP-0227 §4.8."""
        lists = await settled(self.owners.of(event.user))
        if not lists.by_name:
            return
        query = make(f"{{{PRIVACY}}}query")
        if lists.default:
            query.append(make(f"{{{PRIVACY}}}default", {"name": lists.default}))
        for name, found in lists.by_name.items():
            query.append(make(LIST, {"name": name}, *(rule.to_xml() for rule in found.rules)))
        event.parts.append(to_bytes(query))

    @on(events.account_removed)
    async def _account_removed(self, event: AccountEvent) -> None:
        def delete(cursor: Cursor) -> None:
            store.delete(cursor, str(event.user))

        await self.db.write("blocking.delete", delete)
        self.owners.forget(event.user)

    # ---- commands ---------------------------------------------------------------------------------------------------

    @command("report.list", "Reports of abuse, newest first")
    async def list_reports(self, limit: Annotated[int, Param("How many at most")] = 100) -> list[dict[str, Any]]:
        """Reports of abuse that users made when blocking (XEP-0377)."""
        return await self.reports.list(min(max(limit, 1), 1000))

    @command("report.remove", "Remove a report of abuse")
    async def remove_report(self, id: Annotated[int, Param("Number of the report")]) -> dict[str, int]:
        """One that has been dealt with; its number is in the list."""
        await self.reports.remove(id)
        return {"id": id}


def kind_of(stanza: Stanza) -> Kind:
    """What rules call a stanza that arrives."""
    if stanza.name == MESSAGE:
        return Kind.MESSAGE
    if stanza.name == IQ:
        return Kind.IQ
    return Kind.PRESENCE_IN if stanza.type in _NOTIFICATIONS else Kind.OTHER


def _refuse() -> NoReturn:
    """XEP-0191 §3.3."""
    raise StanzaError(Condition.NOT_ACCEPTABLE, ErrorKind.CANCEL, app=make("{urn:xmpp:blocking:errors}blocked"))


async def _stopped(rest: Awaitable[None]) -> Outcome:
    await rest
    return STOP


def _owner(ctx: Context) -> Session:
    if ctx.origin is None:
        raise StanzaError(Condition.FORBIDDEN)
    if ctx.origin.anonymous:
        raise StanzaError(Condition.NOT_ALLOWED, text="anonymous users keep no lists")
    return ctx.origin
