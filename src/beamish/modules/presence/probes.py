"""RFC 6121 §4.3: telling somebody what presence there is right now, and who may know (§4.3.2, §4.6.6)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING

from beamish.core.clock import stamp
from beamish.core.events import Context
from beamish.core.later import is_later, settled
from beamish.core.services import AccountsService, BlockingService, Roster, RosterService
from beamish.core.sessions import Session
from beamish.modules.presence.broadcast import SLICE, Broadcast
from beamish.modules.presence.store import PresenceStore
from beamish.modules.presence.waiting import in_order
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza
from beamish.xmpp.xml import escape_attr

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel


class Shown:
    """A session's presence as it is told to those who come later: with the time it was sent (XEP-0203)."""

    __slots__ = ("at", "stanza")

    def __init__(self, at: float) -> None:
        self.at = at
        self.stanza: Stanza | None = None


def new_id() -> str:
    """The id of a stanza that the server sends on a user's behalf."""
    return secrets.token_hex(5)


def delay(domain: str, at: float) -> bytes:
    """The `<delay/>` of XEP-0203, by the domain."""
    return f"<delay xmlns='{ns.DELAY}' from='{escape_attr(domain)}' stamp='{stamp(at)}'/>".encode()


class Probes:
    """Answers probes, and gives newly available sessions the presence of their user's contacts."""

    def __init__(
        self,
        kernel: Kernel,
        rosters: RosterService,
        accounts: AccountsService,
        store: PresenceStore,
        broadcast: Broadcast,
    ) -> None:
        self._kernel = kernel
        self._rosters = rosters
        self._accounts = accounts
        self._store = store
        self._broadcast = broadcast
        self._shown: dict[Session, Shown] = {}

    # ---- what a session shows ---------------------------------------------------------------------------------------

    def note(self, session: Session) -> None:
        """The session has sent a new available presence."""
        self._shown[session] = Shown(self._kernel.clock.now())

    def forget(self, session: Session) -> None:
        """The session is not available any more."""
        self._shown.pop(session, None)

    def current(self, session: Session) -> Stanza:
        """The last presence of an available session, with a delay stamp. Made once for all who ask."""
        assert session.presence is not None
        shown = self._shown.get(session)
        if shown is None:  # a session that was made available by somebody else (a resumed one)
            shown = self._shown[session] = Shown(self._kernel.clock.now())
        if shown.stanza is None:
            shown.stanza = session.presence.with_child(delay(session.jid.domain, shown.at))
        return shown.stanza

    # ---- at login ---------------------------------------------------------------------------------------------------

    def introduce(self, session: Session, roster: Roster) -> Awaitable[None] | None:
        """Give a newly available session the presence of its user's other sessions and contacts (RFC 6121 §4.2.2).

        Local contacts are looked up, others are probed (§4.3.1).
        """
        for other in self._kernel.sessions.of(session.bare).available:
            if other is not session:
                self._broadcast.hand_over(Context(self.current(other).replace(to=session.bare)), (session,))
        # Somebody who comes in between hears of the session, and the session of them, by their own presence.
        accounts = roster.subscriptions_among(self._kernel.sessions.by_user)
        others = roster.subscriptions_elsewhere()
        if len(accounts) > SLICE or len(others) > SLICE:
            return self._introduce_slowly(session, tuple(accounts), others)
        self.probe(session, others)
        return self._introduce(session, accounts)

    async def _introduce_slowly(self, session: Session, accounts: tuple[JID, ...], others: tuple[JID, ...]) -> None:
        for at in range(0, max(len(accounts), len(others)), SLICE):
            self.probe(session, others[at : at + SLICE])
            rest = self._introduce(session, accounts[at : at + SLICE])
            if rest is not None:
                await rest
            await asyncio.sleep(0)
            if not session.available:
                return

    def probe(self, session: Session, contacts: Iterable[JID]) -> None:
        """RFC 6121 §4.3.1; not those with whom the user has nothing to do (XEP-0191), who would learn of the login."""
        blocking = self._kernel.service_or_none(BlockingService)
        asks = blocking.asks(session) if blocking is not None else None
        for contact in filter(asks, contacts) if asks is not None else contacts:
            self._kernel.router.post(Stanza.build(PRESENCE, "probe", id=new_id(), sender=session.bare, to=contact))

    def _introduce(self, session: Session, contacts: Iterable[JID]) -> Awaitable[None] | None:
        by_user = self._kernel.sessions.by_user
        waiting: list[Awaitable[None]] = []
        for contact in contacts:
            user = by_user.get(contact)
            if user is None or not user.available:
                continue
            theirs = self._rosters.cached(contact)
            rest = self._meet(session, contact, theirs) if theirs is not None else self._meet_later(session, contact)
            if rest is not None:
                waiting.append(rest)
        return in_order(waiting)

    async def ask_elsewhere(self, session: Session, roster: Roster) -> None:
        """Probe the contacts of a session's user at other servers (§4.3.1)."""
        others = roster.subscriptions_elsewhere()
        for at in range(0, len(others), SLICE):
            self.probe(session, others[at : at + SLICE])
            await asyncio.sleep(0)

    async def name_absent(self, session: Session, roster: Roster) -> None:
        """Tell a session which of its user's local contacts are not there (§4.3.2 rule 4); the others answer probes."""
        by_user = self._kernel.sessions.by_user
        for number, contact in enumerate(roster.subscriptions(), 1):
            user = by_user.get(contact)
            if self._broadcast.is_account(contact) and (user is None or not user.available):
                rest = self._broadcast.to_session(Stanza.build(PRESENCE, "unavailable", sender=contact), session)
                if rest is not None:
                    await rest
            if number % SLICE == 0:
                await asyncio.sleep(0)

    async def _meet_later(self, session: Session, contact: JID) -> None:
        rest = self._meet(session, contact, await settled(self._rosters.roster(contact)))
        if rest is not None:
            await rest

    def _meet(self, session: Session, contact: JID, theirs: Roster) -> Awaitable[None] | None:
        """Give a session the presence of one local contact, if the contact's roster agrees."""
        item = theirs.get(session.bare)
        if item is None or not item.from_:
            # §4.3.2 rule 1: the two rosters have come apart; this sets ours right.
            self._kernel.router.post(
                Stanza.build(PRESENCE, "unsubscribed", id=new_id(), sender=contact, to=session.bare)
            )
            return None
        waiting: list[Awaitable[None]] = []
        for other in self._shown_to(contact, session.bare):
            rest = self._broadcast.to_session(self.current(other), session)
            if rest is not None:
                waiting.append(rest)
        return in_order(waiting)

    # ---- probes that arrive -----------------------------------------------------------------------------------------

    async def answer(self, ctx: Context) -> None:
        """RFC 6121 §4.3.2 and §4.6.6: answer a probe to a local account, bare or full."""
        probe = ctx.stanza
        peer, to = probe.sender, probe.to
        assert peer is not None and to is not None
        for reply in await self._replies(peer, to, probe.id):
            rest = self._kernel.router.route(Context(reply.replace(to=peer)))
            if rest is not None:
                await rest

    async def _replies(self, peer: JID, to: JID, id: str) -> list[Stanza]:
        owner = to.bare
        if peer.bare == owner or await self._subscribed(owner, peer.bare):
            return await self._to_subscriber(peer, to, id)
        mere = [
            Stanza.build(PRESENCE, sender=session.jid)
            for session in self._kernel.sessions.of(owner).all
            if (not to.resource or session.jid == to)
            and session.directed
            and (peer in session.directed or peer.bare in session.directed)
        ]
        # Whether the account exists is not for everybody to know, so both cases get the same answer.
        return mere or [Stanza.build(PRESENCE, "unsubscribed", id=id, sender=owner)]

    def _shown_to(self, owner: JID, peer: JID) -> tuple[Session, ...]:
        """The available sessions of an account, less those that hide from `peer`."""
        available = self._kernel.sessions.of(owner).available
        blocking = self._kernel.service_or_none(BlockingService)
        if blocking is None or not available or owner == peer.bare:
            return available
        return tuple(s for s in available if (shows := blocking.shows(s)) is None or shows(peer))

    async def _to_subscriber(self, peer: JID, to: JID, id: str) -> list[Stanza]:
        available = self._shown_to(to.bare, peer)
        if to.resource:
            if any(session.jid == to for session in available):
                return [Stanza.build(PRESENCE, sender=to)]
            return [Stanza.build(PRESENCE, "unavailable", id=id, sender=to)]
        if available:
            return [self.current(session) for session in available]
        if self._kernel.sessions.of(to.bare).available:
            return [Stanza.build(PRESENCE, "unavailable", id=id, sender=to)]
        seen = await self._store.last_seen(to)
        content = delay(to.domain, seen) if seen is not None else None
        return [Stanza.build(PRESENCE, "unavailable", id=id, sender=to, content=content)]

    async def _subscribed(self, owner: JID, peer: JID) -> bool:
        if owner not in self._kernel.sessions.by_user and not await settled(self._accounts.exists(owner)):
            return False
        return _hears(await settled(self._rosters.roster(owner)), peer)

    # ---- who may know -----------------------------------------------------------------------------------------------

    def may_see(self, owner: JID, peer: JID) -> bool | Awaitable[bool]:
        """See `PresenceService.may_see`."""
        bare = peer.bare
        if bare == owner:
            return True
        blocking = self._kernel.service_or_none(BlockingService)
        if blocking is not None:
            hidden = blocking.hidden(owner, peer)
            if is_later(hidden):
                return self._may_see_unless(hidden, owner, peer)
            if hidden:
                return False
        return self._may_see(owner, peer, bare)

    async def _may_see_unless(self, hidden: Awaitable[bool], owner: JID, peer: JID) -> bool:
        return not await hidden and await settled(self._may_see(owner, peer, peer.bare))

    def _may_see(self, owner: JID, peer: JID, bare: JID) -> bool | Awaitable[bool]:
        sessions = self._kernel.sessions.of(owner).all
        for session in sessions:
            directed = session.directed
            if directed and (peer in directed or bare in directed):
                return True
        roster = self._rosters.cached(owner)
        if roster is None:
            return self._may_see_later(owner, bare)
        return _hears(roster, bare) or self._met(owner, bare)

    async def _may_see_later(self, owner: JID, peer: JID) -> bool:
        return await self._subscribed(owner, peer) or self._met(owner, peer)

    def _met(self, owner: JID, peer: JID) -> bool:
        """Whether directed presence went to any resource of the peer: a room's occupants speak through the room."""
        return any(
            target.bare == peer for session in self._kernel.sessions.of(owner).all for target in session.directed or ()
        )


def _hears(roster: Roster, peer: JID) -> bool:
    item = roster.get(peer)
    return item is not None and item.from_
