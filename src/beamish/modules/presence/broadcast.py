"""One presence to many (RFC 6121 §4.2.2, §4.4.2, §4.5.2): frozen once, one splice for each contact.

Local contacts are served straight from the session table, without a stanza or a task for each. The hook `incoming` of
every receiving account, and `delivering`, are honoured if anybody listens there for whom it matters. Other domains get it
from the router. Those from whom a user hides (XEP-0016) get nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Final, cast

import structlog

from beamish.core import events
from beamish.core.events import Context
from beamish.core.hooks import STOP
from beamish.core.later import is_later
from beamish.core.services import BlockingService, CapsAnnotations, Roster
from beamish.core.sessions import Session
from beamish.modules.presence.waiting import in_order
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

SLICE: Final = 500
"""Contacts served before the loop gets its turn."""


class Broadcast:
    """Sends presence to subscribers and to other lists of addresses."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._by_user = kernel.sessions.by_user
        self._incoming = kernel.hooks[events.incoming]
        self._delivering = kernel.hooks[events.delivering]

    def is_account(self, jid: JID) -> bool:
        """Whether the address is one of our accounts', by its form and domain."""
        return bool(jid.local) and self._kernel.is_local_domain(jid.domain)

    def to_subscribers(
        self, stanza: Stanza, roster: Roster, origin: Session, current: Callable[[], bool]
    ) -> Awaitable[None] | None:
        """Send a presence to all subscribers. `current` tells whether it has not been overtaken by a newer one.

        It costs as much as there are contacts with sessions, and contacts elsewhere. Awaitable only for more than `SLICE`
        of these, or if a handler of `incoming` has to be waited for.
        """
        accounts: Collection[JID] = roster.subscribers_among(self._by_user)
        others: Collection[JID] = roster.subscribers_elsewhere()
        blocking = self._kernel.service_or_none(BlockingService)
        shows = blocking.shows(origin) if blocking is not None else None
        if shows is not None:
            accounts = tuple(filter(shows, accounts))
            others = tuple(filter(shows, others))
        origin.charge(len(accounts) + len(others))
        if len(accounts) > SLICE or len(others) > SLICE:
            return self._in_slices(stanza, tuple(accounts), tuple(others), origin, current)
        self._to_others(stanza, others)
        return self.to_accounts(stanza, accounts, origin)

    async def _in_slices(
        self,
        stanza: Stanza,
        accounts: tuple[JID, ...],
        others: tuple[JID, ...],
        origin: Session,
        current: Callable[[], bool],
    ) -> None:
        for at in range(0, max(len(accounts), len(others)), SLICE):
            if at:
                await asyncio.sleep(0)
                if not current():  # whoever overtook it has told, or will tell, everybody
                    return
            self._to_others(stanza, others[at : at + SLICE])
            rest = self.to_accounts(stanza, accounts[at : at + SLICE], origin)
            if rest is not None:
                await rest

    def _to_others(self, stanza: Stanza, jids: Iterable[JID]) -> None:
        for jid in jids:
            self._kernel.router.post(stanza.replace(to=jid))

    def to_accounts(self, stanza: Stanza, accounts: Iterable[JID], origin: Session | None) -> Awaitable[None] | None:
        """Send a presence to the available sessions of local accounts (RFC 6121 §8.5.2.1.2)."""
        if PRESENCE in self._incoming.everyone or PRESENCE in self._delivering.everyone:
            return self._guarded(stanza, accounts, origin)
        by_user = self._by_user
        wire = stanza.freeze()
        leaving = stanza.type == "unavailable"
        caps = self._kernel.service_or_none(CapsAnnotations)
        short = caps.shortened(stanza) if caps is not None and stanza.type == "" else None
        short_wire = short.stanza.freeze() if short is not None else None
        waiting: list[Awaitable[None]] = []
        for jid in accounts:
            user = by_user.get(jid)
            if user is None or not user.available:
                continue
            if user.available[0].guarded:
                rest = self.to_account(stanza.replace(to=jid), origin)
                if rest is not None:
                    waiting.append(rest)
                continue
            data = wire.addressed(jid.wire)
            for session in user.available:
                if leaving and session.directed:
                    session.directed.discard(cast("JID", stanza.sender))
                if short is not None and short_wire is not None:
                    if session.epoch in short.known:
                        session.deliver(short_wire.addressed(jid.wire), short.stanza)
                        continue
                    short.known.add(session.epoch)
                session.deliver(data, stanza)
        return in_order(waiting)

    def _guarded(self, stanza: Stanza, accounts: Iterable[JID], origin: Session | None) -> Awaitable[None] | None:
        waiting: list[Awaitable[None]] = []
        for jid in accounts:
            user = self._by_user.get(jid)
            if user is not None and user.available:
                rest = self.to_account(stanza.replace(to=jid), origin)
                if rest is not None:
                    waiting.append(rest)
        return in_order(waiting)

    def to_account(self, stanza: Stanza, origin: Session | None) -> Awaitable[None] | None:
        """Send one presence to one local account's available sessions, through the hooks; nobody gets an error."""
        return self._let_in(Context(stanza, origin), None)

    async def _when_let_in(
        self, ctx: Context, sessions: tuple[Session, ...] | None, outcome: Awaitable[object]
    ) -> None:
        try:
            stopped = await outcome is STOP
        except StanzaError:
            return
        if not stopped:
            self._hand_over(ctx, sessions)

    def to_session(self, stanza: Stanza, session: Session) -> Awaitable[None] | None:
        """Send one presence of a contact to one session only, addressed to its account, through the hooks."""
        if not session.guarded and not (PRESENCE in self._incoming.everyone or PRESENCE in self._delivering.everyone):
            caps = self._kernel.service_or_none(CapsAnnotations)
            if caps is not None and stanza.sender is not None:
                caps.given(stanza.sender, session)
            session.deliver(stanza.freeze().addressed(session.bare.wire), stanza)
            return None
        ctx = Context(stanza.replace(to=session.bare))
        return self._let_in(ctx, (session,))

    def _let_in(self, ctx: Context, sessions: tuple[Session, ...] | None) -> Awaitable[None] | None:
        """Run `incoming`, then deliver: to the sessions named, or to all that are available by then."""
        if self._incoming.rows:
            try:
                outcome = self._incoming.run(ctx)
            except StanzaError:
                return None
            if outcome is STOP:
                return None
            if is_later(outcome):
                return self._when_let_in(ctx, sessions, cast("Awaitable[object]", outcome))
        self._hand_over(ctx, sessions)
        return None

    def _hand_over(self, ctx: Context, sessions: tuple[Session, ...] | None) -> None:
        stanza = ctx.stanza
        assert stanza.to is not None
        if sessions is None:
            sessions = self._kernel.sessions.of(stanza.to.bare).available
        if stanza.type == "unavailable":
            for session in sessions:
                if session.directed:
                    session.directed.discard(cast("JID", stanza.sender))
        self.hand_over(ctx, sessions)

    def hand_over(self, ctx: Context, sessions: tuple[Session, ...]) -> None:
        """Deliver to sessions through `delivering`; a handler's refusal concerns its own session only."""
        for session in sessions:
            try:
                self._kernel.router.hand_over(ctx, (session,))
            except StanzaError as error:
                log.debug("presence_refused", session=str(session.jid), condition=error.condition.value)
