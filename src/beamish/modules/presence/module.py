"""RFC 6121 §4: presence of local users, and the door for every presence stanza (§3 is in `subscribing`).

Sessions become available, change and leave; everybody who may know is told, and nobody else. As long as rosters are in
memory, which those of users with sessions are, all of it happens without a task.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from pydantic import Field

from beamish.core import events
from beamish.core.clock import Timer
from beamish.core.events import (
    AccountEvent,
    Context,
    Exporting,
    PresenceChanged,
    RemoteFound,
    SessionClosed,
    SubscriptionChanged,
)
from beamish.core.hooks import Hook
from beamish.core.later import is_later, settled
from beamish.core.module import Module, ModuleConfig, on
from beamish.core.services import AccountsService, BlockingService, PresenceService, Roster, RosterService
from beamish.core.sessions import Session
from beamish.modules.presence import store
from beamish.modules.presence.broadcast import Broadcast
from beamish.modules.presence.probes import Probes, new_id
from beamish.modules.presence.reunion import Reunion
from beamish.modules.presence.store import PresenceStore
from beamish.modules.presence.subscribing import Subscribing
from beamish.modules.presence.subscriptions import KINDS, SUBSCRIBE
from beamish.modules.presence.visible import MIGRATION, PATIENCE, Visible
from beamish.modules.presence.waiting import in_order
from beamish.stream.features import Has, StreamFeature
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza, free_standing

E = TypeVar("E")

PRIORITY: Final = f"{{{ns.CLIENT}}}priority"
UNAVAILABLE: Final = "unavailable"
_INTEGER = re.compile(r"[+-]?[0-9]{1,4}")


def priority_of(stanza: Stanza) -> int:
    """The priority of an available presence, 0 if it names none (RFC 6121 §4.7.2.3). Raises `StanzaError`."""
    if stanza.body == b"/>":
        return 0
    text = stanza.text(PRIORITY)
    if text is None:
        return 0
    text = text.strip(" \t\r\n")
    if _INTEGER.fullmatch(text) is None or not -128 <= int(text) <= 127:
        raise StanzaError(Condition.BAD_REQUEST, text="a priority is an integer from -128 to 127")
    return int(text)


class Config(ModuleConfig):
    """Options of presence."""

    requests_from_strangers: bool = Field(
        False,
        description="Let anybody who knows the full address of a client ask it something. Off, only those may who may see "
        "its presence (RFC 6121 section 8.5.3.1); others are told the same as if it were not there. Switch it on for bots "
        "and devices that talk to one another without subscriptions, as other servers let them.",
    )


class PresenceModule(Module):
    """Presence and subscriptions of local accounts."""

    name = "presence"
    Config = Config
    essential = True
    requires = (RosterService, AccountsService)
    provides = (PresenceService,)
    stream_features = (
        StreamFeature(f"<sub xmlns='{ns.PRE_APPROVAL}'/>".encode(), needs=Has.AUTHENTICATED, forbids=Has.BOUND),
    )
    migrations = (*store.MIGRATIONS, MIGRATION)

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self.rosters = self.kernel.service(RosterService)
        accounts = self.kernel.service(AccountsService)
        self.store = PresenceStore(self.db)
        self.broadcast = Broadcast(self.kernel)
        self.probes = Probes(self.kernel, self.rosters, accounts, self.store, self.broadcast)
        self.reunion = Reunion(self.kernel, self.rosters, self.probes)
        self.subscribing = Subscribing(self.kernel, self.rosters, accounts, self.store, self.broadcast)
        self.visible = Visible(self.db, self.kernel.clock, self.kernel.sessions, self._died)
        self._changed = self.kernel.hooks[events.presence_changed]
        self._contact_presence = self.kernel.hooks[events.contact_presence]

    # ---- from local sessions ----------------------------------------------------------------------------------------

    def outbound(self, ctx: Context) -> Awaitable[None] | None:
        """A local session sent a presence stanza. Raises `StanzaError`, at once or when awaited."""
        session, stanza = ctx.origin, ctx.stanza
        assert session is not None
        kind = stanza.type
        if kind == "" or kind == UNAVAILABLE:
            if stanza.to is not None:
                return self._directed(ctx, session, stanza, stanza.to)
            return self._available(session, stanza) if kind == "" else self._gone(session, stanza)
        if kind == "probe" or kind == "error":
            # §4.3: a client should not probe, but is not to be punished for it. An error is never answered.
            return self.kernel.router.route(ctx) if stanza.to is not None else None
        if kind in KINDS and stanza.to is not None:
            return self.subscribing.outbound(session, stanza)
        raise StanzaError(
            Condition.BAD_REQUEST, text="no such type of presence" if stanza.to is not None else "to whom?"
        )

    def _available(self, session: Session, stanza: Stanza) -> Awaitable[None] | None:
        """RFC 6121 §4.2.2 and §4.4.2."""
        priority = priority_of(stanza)
        roster = self.rosters.cached(session.bare)
        if roster is None:
            return self._available_later(session, stanza, priority)
        return self._appear(session, stanza, priority, roster)

    async def _available_later(self, session: Session, stanza: Stanza, priority: int) -> None:
        roster = await settled(self.rosters.roster(session.bare))
        if self.kernel.sessions.get(session.jid) is session:  # it may have closed meanwhile
            rest = self._appear(session, stanza, priority, roster)
            if rest is not None:
                await rest

    def _appear(self, session: Session, stanza: Stanza, priority: int, roster: Roster) -> Awaitable[None] | None:
        user = session.bare
        was = session.available
        kept = stanza.detached()
        sessions = self.kernel.sessions
        sessions.presence_changed(session, priority, kept)
        self.probes.note(session)
        if not was:
            session.renew()
            self.visible.appeared(session)
        self._to_own(stanza, session, sessions.of(user).available)
        waiting: list[Awaitable[None]] = []
        _add(
            waiting,
            self.broadcast.to_subscribers(stanza, roster, session, lambda: session.presence is kept),
        )
        if not was:
            _add(waiting, self.probes.introduce(session, roster))
            _add(waiting, self._requests(session, roster))
        return self._then_tell(waiting, PresenceChanged(session, stanza, was, initial=not was))

    def _requests(self, session: Session, roster: Roster) -> Awaitable[None] | None:
        """What has been waiting for an available resource: requests to the user, and unanswered ones by the user."""
        pending: list[JID] = []
        blocking = self.kernel.service_or_none(BlockingService)
        asks = blocking.asks(session) if blocking is not None else None
        for item in roster.pending():
            if item.pending_in:
                pending.append(item.jid)
            if item.pending_out and (asks is None or asks(item.jid)):
                # §3.1.2: once more, in case the first one got lost on its way to another domain, or the server died
                # between the commits at its two ends; who has it already does not hear of it again (§3.1.3)
                self.kernel.router.post(
                    Stanza.build(PRESENCE, SUBSCRIBE, id=new_id(), sender=session.bare, to=item.jid)
                )
        return self.subscribing.remind(session, pending) if pending else None

    def _to_own(self, stanza: Stanza, session: Session, targets: tuple[Session, ...]) -> None:
        """A user is subscribed to its own presence (RFC 6121 §4.2.2): all available resources, the sender included."""
        self.broadcast.hand_over(Context(stanza.replace(to=session.bare), session), targets)

    def _gone(self, session: Session, stanza: Stanza) -> Awaitable[None] | None:
        """RFC 6121 §4.5.2, whether the client said so or not. Does nothing the second time."""
        was, directed = session.available, session.directed
        user = session.bare
        session.directed = None
        if was or directed:
            self.visible.gone(session)
        if not was:
            self._to_directed(stanza, directed, None)
            return None
        own = self.kernel.sessions.of(user).available
        self.kernel.sessions.presence_changed(session, None, None)
        self.probes.forget(session)
        self._to_own(stanza, session, own)
        left = self.kernel.sessions.of(user)
        if not left.available and not session.anonymous:
            self.store.seen(user, self.kernel.clock.now())
        roster = self.rosters.cached(user)
        if roster is None:
            return self._gone_later(session, stanza, directed)
        return self._leave(session, stanza, directed, roster)

    async def _gone_later(self, session: Session, stanza: Stanza, directed: set[JID] | None) -> None:
        rest = self._leave(session, stanza, directed, await settled(self.rosters.roster(session.bare)))
        if rest is not None:
            await rest

    def _leave(
        self, session: Session, stanza: Stanza, directed: set[JID] | None, roster: Roster
    ) -> Awaitable[None] | None:
        waiting: list[Awaitable[None]] = []
        full = self.kernel.sessions.by_full
        _add(
            waiting,
            self.broadcast.to_subscribers(
                stanza,
                roster,
                session,
                # a newer session with the same address may have become available; it has told everybody
                lambda: (now := full.get(session.jid)) is None or not now.available,
            ),
        )
        self._to_directed(stanza, directed, roster)
        return self._then_tell(waiting, PresenceChanged(session, stanza, was=True, initial=False))

    def _to_directed(self, stanza: Stanza, directed: set[JID] | None, roster: Roster | None) -> None:
        """RFC 6121 §4.6.3 rule 2: those who got directed presence. `roster`: of a user whose subscribers were told."""
        assert stanza.sender is not None
        for jid in directed or ():
            if roster is None or not (jid.bare == stanza.sender.bare or _subscribes(roster, jid.bare)):
                self.kernel.router.post(stanza.replace(to=jid))

    def _directed(self, ctx: Context, session: Session, stanza: Stanza, to: JID) -> Awaitable[None] | None:
        """RFC 6121 §4.6.3."""
        if stanza.type == UNAVAILABLE:
            if session.directed:
                session.directed.discard(to)
        elif not self._told_anyway(session, to.bare):
            directed = session.directed
            if directed is None:
                directed = session.directed = set()
            if to not in directed:
                if len(directed) >= self.kernel.limits.directed_presence:
                    raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="directed presence to too many addresses")
                directed.add(to)
                self.visible.directed(session)
        return self.kernel.router.route(ctx)

    def _told_anyway(self, session: Session, to: JID) -> bool:
        """Whether the addressee will hear of the session's end by broadcast."""
        if not session.available:
            return False
        if to == session.bare:
            return True
        roster = self.rosters.cached(session.bare)
        return roster is not None and _subscribes(roster, to)

    def _then_tell(self, waiting: list[Awaitable[None]], event: PresenceChanged) -> Awaitable[None] | None:
        """Run the hook, after what has to be waited for."""
        rest = in_order(waiting)
        if rest is not None:
            return self._tell_later(rest, event)
        return _run(self._changed, event)

    async def _tell_later(self, rest: Awaitable[None], event: PresenceChanged) -> None:
        await rest
        if event.stanza.type == "" and not event.session.available:
            return  # it left meanwhile; whoever hands things over at login must not do so now
        if self._changed.rows:
            await settled(self._changed.run(event))

    # ---- for local accounts -----------------------------------------------------------------------------------------

    def inbound(self, ctx: Context) -> Awaitable[None] | None:
        """A presence stanza arrived for a local account, bare or full. Raises `StanzaError`, at once or when awaited."""
        stanza = ctx.stanza
        to, kind = stanza.to, stanza.type
        assert to is not None
        if kind == "" or kind == UNAVAILABLE or kind == "error":
            self._deliver(ctx, to, kind)
            return _run(self._contact_presence, ctx)
        if kind in KINDS:
            return self.subscribing.inbound(ctx)
        if kind == "probe":
            return self.probes.answer(ctx)
        raise StanzaError(Condition.BAD_REQUEST, text="no such type of presence")

    def _deliver(self, ctx: Context, to: JID, kind: str) -> None:
        """RFC 6121 §4.2.3, §4.4.3, §4.5.3, §8.5.2.1.2, §8.5.3: to the resource named, or all that are available."""
        if to.resource:
            session = self.kernel.sessions.get(to)
            targets: tuple[Session, ...] = (session,) if session is not None else ()
        else:
            user = self.kernel.sessions.of(to)
            # Errors to the account are answers to subscription stanzas (§3.1.2), which go out in its name.
            targets = user.available if kind != "error" else tuple(s for s in user.all if s.available or s.interested)
        if kind == UNAVAILABLE:
            for session in targets:
                if session.directed and ctx.stanza.sender is not None:  # §4.6.1: no need to tell it any more
                    session.directed.discard(ctx.stanza.sender)
        if targets:
            self.kernel.router.hand_over(ctx, targets)

    def may_see(self, owner: JID, peer: JID) -> bool | Awaitable[bool]:
        """See `PresenceService.may_see`."""
        return self.probes.may_see(owner, peer)

    def may_ask(self, owner: JID, peer: JID) -> bool | Awaitable[bool]:
        """See `PresenceService.may_ask`."""
        return self.config.requests_from_strangers or self.probes.may_see(owner, peer)

    async def keep_request(self, user: JID, request: Stanza) -> None:
        """See `PresenceService.keep_request`."""
        await self.subscribing.keep(user, request)

    # ---- beyond the life of the process -------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Look later who did not come back."""
        self._declaring: Timer = self.kernel.clock.call_later(PATIENCE, self._declare)

    def _declare(self) -> None:
        self.tasks.spawn(self.visible.declare(), "declare")

    async def _died(self, session: Session) -> None:
        """A session of before a crash is no more."""
        blocking = self.kernel.service_or_none(BlockingService)
        if blocking is not None:  # from whom the user hides must be known, which of somebody absent it is not
            await settled(blocking.hidden(session.bare, JID.parse(session.jid.domain)))
        if self.kernel.sessions.get(session.jid) is None:
            rest = self._gone(session, Stanza.build(PRESENCE, UNAVAILABLE, sender=session.jid))
            if rest is not None:
                await rest

    async def stop(self) -> None:
        """Write down who is visible beyond this."""
        self._declaring.cancel()
        self.reunion.stop()
        self.visible.write()

    # ---- what happens elsewhere -------------------------------------------------------------------------------------

    def refresh(self, session: Session, *, elsewhere: bool = False) -> None:
        """See `PresenceService.refresh`."""
        if session.available:
            self.tasks.spawn(self._refresh(session, elsewhere), "refresh")

    async def _refresh(self, session: Session, elsewhere: bool) -> None:
        roster = await settled(self.rosters.roster(session.bare))
        if not session.available or self.kernel.sessions.get(session.jid) is not session:
            return
        if elsewhere:
            await self.probes.ask_elsewhere(session, roster)
            return
        for rest in (
            self.probes.introduce(session, roster),
            self.probes.name_absent(session, roster),
            self._requests(session, roster),
        ):
            if rest is not None:
                await rest

    @on(events.session_closed)
    def _session_closed(self, event: SessionClosed) -> Awaitable[None] | None:
        """It may have ended without saying so (RFC 6121 §4.5.2)."""
        return self._gone(event.session, Stanza.build(PRESENCE, UNAVAILABLE, sender=event.session.jid))

    @on(events.subscription_changed)
    async def _subscription_changed(self, event: SubscriptionChanged) -> None:
        await self.subscribing.changed(event)

    @on(events.remote_found)
    def _remote_found(self, event: RemoteFound) -> None:
        self.reunion.found(event.domain)

    @on(events.account_exporting)
    async def _exporting(self, event: Exporting) -> None:
        """XEP-0227 §4.9: requests that await an answer."""
        roster = await settled(self.rosters.roster(event.user))
        kept = await self.store.requests(event.user)
        for item in roster.pending():
            if item.pending_in:
                request = kept.get(str(item.jid)) or Stanza.build(PRESENCE, "subscribe", sender=item.jid, to=event.user)
                event.parts.append(free_standing(request))

    @on(events.account_removed)
    async def _account_removed(self, event: AccountEvent) -> None:
        await self.store.delete(event.user)


def _subscribes(roster: Roster, contact: JID) -> bool:
    item = roster.get(contact)
    return item is not None and item.from_


def _add(waiting: list[Awaitable[None]], rest: Awaitable[None] | None) -> None:
    if rest is not None:
        waiting.append(rest)


def _run(hook: Hook[E], event: E) -> Awaitable[None] | None:
    """Run an observers' hook; awaitable only if one of them is."""
    if not hook.rows:
        return None
    outcome = hook.run(event)
    return _waited(outcome) if is_later(outcome) else None


async def _waited(outcome: Awaitable[object]) -> None:
    await outcome
