"""RFC 6121 §3: what a subscription stanza does to rosters, and whom it is told.

The decision is the table's (`subscriptions`); here it is stored, and then the stanza goes on, the server's own answers
go out, and presence begins or ends to flow. Nothing leaves before the state that it follows from is committed.
Between the look into a roster and the change of it nothing is awaited, so two stanzas cannot decide on one state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from beamish.core import events
from beamish.core.events import Context, SubscriptionAsked, SubscriptionChanged
from beamish.core.later import settled
from beamish.core.services import AccountsService, BlockingService, RosterItem, RosterService
from beamish.core.sessions import Session
from beamish.core.sparing import Sparing
from beamish.modules.presence import subscriptions
from beamish.modules.presence.broadcast import Broadcast
from beamish.modules.presence.store import REQUEST_BYTES, PresenceStore
from beamish.modules.presence.subscriptions import SUBSCRIBE, SUBSCRIBED, Ruling
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)


class Subscribing:
    """Handles subscribe, subscribed, unsubscribe and unsubscribed, both ways."""

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
        self._sparing = Sparing(kernel.clock, lines=1, seconds=3600.0)
        self._asked = kernel.hooks[events.subscription_asked]

    # ---- sent by a local user ---------------------------------------------------------------------------------------

    async def outbound(self, session: Session, stanza: Stanza) -> None:
        """RFC 6121 §3.1.2, §3.1.5, §3.2.2, §3.3.2, §3.4.2. Raises `StanzaError`."""
        assert stanza.to is not None
        user, contact = session.bare, stanza.to.bare
        if session.anonymous or contact == user:
            raise StanzaError(Condition.NOT_ALLOWED)
        if stanza.type == SUBSCRIBE and len(stanza.body) > REQUEST_BYTES:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="the request is too long to be kept")
        stamped = stanza.replace(sender=user, to=contact)
        roster = await settled(self._rosters.roster(user))
        item = roster.get(contact)
        ruling = subscriptions.outbound(stanza.type, subscriptions.state_of(item), item is not None and item.approved)
        began = await self._settle(user, contact, item, ruling)
        if ruling.passes:
            await self._route(stamped, session)
        if began:
            await self._show(user, contact)

    # ---- received for a local user ----------------------------------------------------------------------------------

    async def inbound(self, ctx: Context) -> None:
        """RFC 6121 §3.1.3, §3.1.6, §3.2.3, §3.3.3. Raises `StanzaError` only for what is wrong with the stanza itself."""
        stanza = ctx.stanza
        assert stanza.sender is not None and stanza.to is not None
        contact, user, kind = stanza.sender.bare, stanza.to.bare, stanza.type
        stamped = stanza.replace(sender=contact, to=user)
        if kind == SUBSCRIBE and len(stanza.body) > REQUEST_BYTES:
            return  # an answer that whom it blocks does not get (XEP-0191 §3.3) would tell these that they are blocked
        if contact == user:
            return
        if stanza.to.resource and kind != SUBSCRIBE and self._kernel.sessions.get(stanza.to) is None:
            return  # RFC 6121 §8.5.3.2.2
        if not await settled(self._accounts.exists(user)):
            return  # RFC 6121 §8.5.1
        if any(session.anonymous for session in self._kernel.sessions.of(user).all):
            return  # nothing is kept of those who will never be back
        roster = await settled(self._rosters.roster(user))
        item = roster.get(contact)
        ruling = subscriptions.inbound(kind, subscriptions.state_of(item), item is not None and item.approved)
        try:
            began = await self._settle(user, contact, item, ruling, Context(stamped, ctx.origin))
        except StanzaError as error:
            # The user's roster has no room. Saying so would tell a stranger that the account exists.
            self._store.forget(user, contact)
            self._tell(user, kind, error)
            return
        if ruling.reply:
            await self._route(Stanza.build(PRESENCE, ruling.reply, id=stanza.id, sender=user, to=contact))
        if began or ruling.reply == SUBSCRIBED:
            await self._show(user, contact)

    async def keep(self, user: JID, request: Stanza) -> None:
        """See `PresenceService.keep_request`."""
        if request.sender is None or request.type != SUBSCRIBE or request.sender.bare == user:
            raise StanzaError(Condition.BAD_REQUEST, text="no request to subscribe")
        if len(request.body) > REQUEST_BYTES:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="the request is too long to be kept")
        stamped = request.replace(sender=request.sender.bare, to=user)
        assert stamped.sender is not None
        roster = await settled(self._rosters.roster(user))
        item = roster.get(stamped.sender)
        if item is not None and item.from_:
            return  # it was answered
        self._store.keep(user, stamped)
        entry = item if item is not None else RosterItem(stamped.sender, listed=False)
        await self._rosters.change(user, entry.with_(pending_in=True), push=False)

    # ---- what both have in common -----------------------------------------------------------------------------------

    def _tell(self, user: JID, kind: str, error: StanzaError) -> None:
        """One line for an account and hour: strangers may ask 500 times a second, and a line is longer than what they send."""
        reason = error.condition.value
        self._sparing.write(log.info, "subscription_stanza_dropped", user, user=str(user), kind=kind, reason=reason)

    async def _settle(
        self, user: JID, contact: JID, item: RosterItem | None, ruling: Ruling, arrived: Context | None = None
    ) -> bool:
        """Store what a stanza changed; True if the contact begins to receive the user's presence.

        `arrived` is the inbound stanza; it is delivered between the commit and the push.
        """
        after = subscriptions.apply(ruling, item, contact)
        deliver = None
        if arrived is not None and ruling.passes:
            stanza = arrived.stanza
            deliver = lambda: self._deliver(arrived)  # noqa: E731
            if stanza.type == SUBSCRIBE:
                self._store.keep(user, stanza)
        if after == item:
            if deliver is not None:
                deliver()
            return False
        if after is None:
            await self._rosters.remove(user, contact, first=deliver)
        else:
            await self._rosters.change(user, after, push=_seen_differently(item, after), first=deliver)
        if item is not None and item.pending_in and not (after is not None and after.pending_in):
            self._store.forget(user, contact)
        if self._asked.rows and after is not None and after.pending_in and not (item is not None and item.pending_in):
            self._asked.run(SubscriptionAsked(user, contact))
        return after is not None and after.from_ and not (item is not None and item.from_)

    def _deliver(self, ctx: Context) -> None:
        """Hand an inbound subscription stanza to the user's sessions.

        Requests go to available resources (§3.1.3), the others to interested ones (§3.1.6 and so on); available ones
        that did not ask for the roster get these too, as they would know of the change from nowhere else.
        """
        assert ctx.stanza.to is not None
        user = self._kernel.sessions.of(ctx.stanza.to)
        if ctx.stanza.type == SUBSCRIBE:
            self._broadcast.hand_over(ctx, user.available)
        else:
            self._broadcast.hand_over(ctx, tuple(s for s in user.all if s.interested or s.available))

    async def _route(self, stanza: Stanza, origin: Session | None = None) -> None:
        rest = self._kernel.router.route(Context(stanza, origin))
        if rest is not None:
            await rest

    async def _show(self, user: JID, contact: JID) -> None:
        """Send the presence of each available resource to a new subscriber (RFC 6121 §3.1.5)."""
        blocking = self._kernel.service_or_none(BlockingService)
        for session in self._kernel.sessions.of(user).available:
            shows = blocking.shows(session) if blocking is not None else None
            if session.presence is not None and (shows is None or shows(contact)):
                await self._route(session.presence.replace(to=contact), session)

    # ---- afterwards -------------------------------------------------------------------------------------------------

    async def changed(self, event: SubscriptionChanged) -> None:
        """A roster changed, for whatever reason: if a subscription to the user ended, so does what it showed.

        RFC 6121 §3.2.2 and §3.3.3 step 3 (and §2.5.2, by way of §3.2.2): unavailable from each available resource.
        """
        if event.before not in ("from", "both") or event.after in ("from", "both"):
            return
        blocking = self._kernel.service_or_none(BlockingService)
        for session in self._kernel.sessions.of(event.user).available:
            if session.directed:
                session.directed -= {jid for jid in session.directed if jid.bare == event.contact}
            if blocking is not None and blocking.hides(session, event.contact):
                continue  # a resource that was never shown does not leave
            await self._route(Stanza.build(PRESENCE, "unavailable", sender=session.jid, to=event.contact), session)

    async def remind(self, session: Session, contacts: list[JID]) -> None:
        """Give a newly available session the requests that await an answer (RFC 6121 §3.1.3 rule 4)."""
        user = session.bare
        kept = await self._store.requests(user)
        roster = await settled(self._rosters.roster(user))
        blocking = self._kernel.service_or_none(BlockingService)
        hears = blocking.hears(session) if blocking is not None else None
        for contact in contacts:
            item = roster.get(contact)
            if item is None or not item.pending_in or not session.available:
                continue  # answered, or gone, while the database was asked
            if hears is not None and not hears(contact):
                continue  # blocked since: it waits until that ends (XEP-0191 §3.3)
            request = kept.get(contact) or Stanza.build(PRESENCE, SUBSCRIBE, sender=contact, to=user)
            self._broadcast.hand_over(Context(request), (session,))


def _seen_differently(before: RosterItem | None, after: RosterItem) -> bool:
    """Whether a client sees a difference; requests of contacts are not shown in the roster (appendix A.1, state 3)."""
    if not after.listed:
        return False
    return before is None or before.with_(pending_in=after.pending_in) != after
