"""XEP-0160: messages for accounts that nobody is logged in to, kept and delivered with their time (XEP-0203).

Storing waits for nothing: the row joins the next commit, and the stanza is not acknowledged before that. Delivery
begins when a resource becomes available with a non-negative priority. Rows are removed only once the client has proved
that it read them (it answered a question sent behind them, or acknowledged them on its stream), so a connection that breaks
in between loses nothing; at worst the next login gets some messages again.

One delivery runs per account. Until the last stored message is on its way, new messages to that resource take
their place behind it in the store, so none overtakes; whatever cannot be stored goes directly, and so does what other
resources get at the same time.

Not here: the archive, notifications, and retrieval by the client's choice (XEP-0013).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final, cast

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.commands import Param
from beamish.core.events import (
    AccountEvent,
    Context,
    Delivery,
    Exporting,
    PresenceChanged,
    Release,
    SessionClosed,
    SessionEvent,
    SessionNotes,
)
from beamish.core.hooks import STOP, Outcome, Row
from beamish.core.iq import IqTimeout
from beamish.core.later import Begun, settled
from beamish.core.module import Module, ModuleConfig, Xep, command, on
from beamish.core.services import CopiesService, DeliveryReceipts, StoredMessages
from beamish.core.sessions import Session
from beamish.modules.offline.owed import Owed, OwedMessages
from beamish.modules.offline.store import MIGRATIONS, Box, Page, Store, StoredMessage, unable
from beamish.modules.offline.worth import NEVER, archived_receipt, worth_keeping
from beamish.storage.api import StorageError
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza, free_standing

log = structlog.get_logger(__name__)

_QUESTION: Final = b"<query xmlns='jabber:iq:version'/>"
"""What a client is asked behind its messages; any answer will do. It knows this one, or may say that it does not. A ping
(XEP-0199) would be the natural choice, but go-sendxmpp up to 0.5 (Debian 12) crashes on one."""

WHEN: Final = "sm.when"
"""Note of a context: the message was handed to a session at this time, and its sender was told that it is safe."""
ARCHIVED: Final = "mam.received"
"""Note of a context: the account's archive has the message, or will have it, so an error would not be true."""
_HELD: Final = frozenset((MESSAGE,))


class Config(ModuleConfig):
    """Options of offline messages."""

    max_messages: int = Field(1_000, ge=1, description="Messages kept for one account; more are refused.")
    max_bytes: int = Field(10 * 1024 * 1024, ge=1_024, description="Bytes kept for one account; more are refused.")
    confirm_seconds: float = Field(
        600.0,
        gt=0.0,
        description="How long a client may take to confirm stored messages. One that stays connected that long without "
        "confirming counts as having read them. Keep it well above `probe_after` + `probe_timeout` of [c2s]: by then a "
        "dead connection has been closed.",
    )


class OfflineModule(Module):
    """Keeps messages for absent accounts."""

    name = "offline"
    Config = Config
    xeps = (Xep(160, "1.0.1"), Xep(203, "2.0"))
    features = ("msgoffline",)
    provides = (StoredMessages,)
    migrations = MIGRATIONS

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self.store = Store(self.db, self.tasks, config.max_messages, config.max_bytes)
        self._owed = OwedMessages(self.db, kernel.clock, self._store_owed)
        self._negative: set[Session] = set()
        """Available sessions with a negative priority: the next presence may make them fit for stored messages."""
        self._held_back: dict[Session, Box] = {}
        """Sessions for which new messages go behind the stored ones."""
        self._looked: dict[Session, asyncio.Event] = {}
        """Sessions that have not been handed a first page yet; see `looked`."""
        self._releasing = self.kernel.hooks[events.releasing]

    # ---- storing ----------------------------------------------------------------------------------------------------

    @on(events.undelivered)
    def keep(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """Store a message that no resource takes; one that is not worth it goes on to bounce (RFC 6121 §8.5.2.2.1)."""
        stanza = ctx.stanza
        to = stanza.to
        if to is None or stanza.type in NEVER:
            return None
        account = to.bare
        if isinstance(stanza, StoredMessage):
            if stanza.page.kept:
                return STOP  # handed back by a stream that lost its client: it never left the store
        else:
            worthy = worth_keeping(stanza, to.domain)
            if worthy is None:
                return STOP if archived_receipt(stanza, account) else None
            stanza = worthy
        for session in self.kernel.sessions.of(account).all:
            if session.anonymous:
                return None  # an address that nobody will ever have again
        box = self.store.box(account)
        if box.removed:
            return None
        before = ctx.note(WHEN)  # it was handed to a session then, whose client never confirmed it
        now = before if isinstance(before, float) else self.kernel.clock.now()
        if not box.known:
            return self._keep_later(ctx, stanza, box, now)
        self._store(ctx, stanza, box, now)
        return STOP

    async def _keep_later(self, ctx: Context, stanza: Stanza, box: Box, now: float) -> Outcome:
        to = stanza.to
        assert to is not None
        while not box.known:
            try:
                await self.store.know(box)
            except StorageError as exc:
                if not _safe(ctx):
                    raise unable() from None
                self._refused(ctx, stanza, now, exc)
                return STOP
            box = self.store.box(to.bare)  # it may have been forgotten meanwhile
        if box.removed:
            return None
        routable = self.kernel.sessions.of(to.bare).routable  # who came while we looked
        copies = self.kernel.service_or_none(CopiesService)
        lacking = routable if copies is None else tuple(s for s in routable if not copies.had(s, ctx.stanza))
        if lacking and self.kernel.router.hand_over(ctx, lacking):
            return STOP
        self._store(ctx, stanza, box, now)
        return STOP

    def _store(self, ctx: Context, stanza: Stanza, box: Box, now: float) -> None:
        safe = _safe(ctx)
        if safe and self._owed.waiting:
            self._refused(ctx, stanza, now, None)  # behind the others
            return
        refused = partial(self._refused, ctx, stanza, now) if safe else partial(self._not_stored, ctx)
        try:
            ctx.caused(self.store.append(box, stanza, now, refused))
        except StanzaError as error:
            if not safe or error.condition is not Condition.RESOURCE_CONSTRAINT:
                raise
            refused(error)
            return
        self._stored(box)

    def _stored(self, box: Box) -> None:
        if box.session is None:
            self._serve_next(box, frozenset())  # only if its sessions broke off just now, all but one

    def _refused(self, ctx: Context, stanza: Stanza, now: float, why: Exception | None) -> None:
        """The sender was told that the message is safe, or it is archived: it is stored as soon as the disk takes it."""
        self._owed.add(Owed(stanza, now, archived=ctx.note(ARCHIVED) is not None), why)

    def _store_owed(self, owed: Owed, refused: Callable[[Exception], None]) -> int:
        """Try once more to store what was refused; the position. Raises `StanzaError`."""
        to = owed.stanza.to
        assert to is not None
        box = self.store.box(to.bare)
        if box.removed:
            return 0
        position = self.store.append(box, owed.stanza, owed.when, refused)
        self._stored(box)
        return position

    def _not_stored(self, ctx: Context, _why: Exception) -> None:
        self.kernel.router.bounce(ctx, unable())

    async def stop(self) -> None:
        """What the disk has refused gets its last chance."""
        self._owed.hand_over()

    # ---- when to deliver --------------------------------------------------------------------------------------------

    @on(events.session_bound)
    def session_bound(self, event: SessionEvent) -> None:
        """Most who have bound a resource become available next."""
        session = event.session
        if not session.anonymous:
            box = self.store.box(session.bare)
            if box.session is None and not box.removed:
                self.store.look_ahead(box)

    @on(events.presence_changed)
    def presence_changed(self, event: PresenceChanged) -> None:
        """A resource that became available, or came up from a negative priority, gets what is stored (RFC 6121 §4.2)."""
        session = event.session
        priority = session.priority
        if priority is None:
            self._negative.discard(session)
        elif priority < 0:
            self._negative.add(session)
        elif event.initial or session in self._negative:
            self._negative.discard(session)
            box = self.store.box(session.bare)
            if box.count or not box.known:
                self._serve(box, session, frozenset())

    @on(events.session_restored)
    def session_restored(self, event: SessionNotes) -> None:
        """A session of before a restart gets what is stored, as if it had just become available."""
        session = event.session
        if session.priority is None:
            return
        if session.priority < 0:
            self._negative.add(session)
        else:
            self._serve(self.store.box(session.bare), session, frozenset())

    @on(events.session_closed)
    def session_closed(self, event: SessionClosed) -> None:
        """What the session has not confirmed stays stored; another resource that is there gets it."""
        session = event.session
        self._negative.discard(session)
        box = self.store.known_box(session.bare)
        if box is None:
            return
        box.ahead = None
        if box.session is session:
            box.gone = True
            if box.delivery is not None:
                self._cancel(box.delivery)

    @on(events.account_exporting)
    async def _exporting(self, event: Exporting) -> None:
        """XEP-0227 §4.5: with the time at which they came, oldest first."""
        found = [free_standing(message) for message in await self.store.all(event.user)]
        if found:
            event.parts.append(b"<offline-messages xmlns='urn:xmpp:pie:0'>" + b"".join(found) + b"</offline-messages>")

    @on(events.account_removed)
    async def account_removed(self, event: AccountEvent) -> None:
        """Nothing stays behind for whoever may get the same name later."""
        box = self.store.box(event.user)
        box.removed = True
        if box.delivery is not None:
            box.delivery.cancel()
        await self.store.remove_account(box)
        self._owed.drop(event.user)

    @on(events.account_added)
    def account_added(self, event: AccountEvent) -> None:
        """A new account starts with nothing."""
        self.store.forget(event.user)

    def _serve(self, box: Box, session: Session, tried: frozenset[Session]) -> None:
        """Begin a delivery, unless one is running; its end looks after what is left."""
        if box.removed:
            return
        if box.session is not None:
            if box.session is session:  # it was not fit for a while, and is again
                box.again = True
                if box.added > box.given:
                    self._hold_back(session, box)  # what was stored meanwhile comes first
            return
        box.session = session
        box.gone = box.again = False
        self._hold_back(session, box)
        self._looked[session] = asyncio.Event()
        begun = Begun(self._deliver(box, session))  # if the page is here already, it is on its way now
        box.delivery = self.tasks.spawn(settled(begun), "deliver")
        box.delivery.add_done_callback(partial(self._ended, box, session, tried))
        if box.gone:
            self._cancel(box.delivery)

    def _cancel(self, delivery: asyncio.Task[bool]) -> None:
        # not at once: the client may have answered with its last breath, and that answer is in the loop already
        self.loop().call_soon(delivery.cancel)

    def _serve_next(self, box: Box, tried: frozenset[Session]) -> None:
        for session in self.kernel.sessions.of(JID.parse(box.account)).routable:
            if session not in tried:
                self._serve(box, session, tried)
                return

    def _ended(self, box: Box, session: Session, tried: frozenset[Session], task: asyncio.Task[bool]) -> None:
        self._let_through(session)
        self._looked_up(session)
        box.delivery = box.session = None
        if task.cancelled() and not box.gone:
            return  # the server stops, or the account is removed
        if box.count or not box.known:
            done = not task.cancelled() and task.exception() is None and task.result()
            self._serve_next(box, frozenset() if done or box.again else tried | {session})

    async def looked(self, session: Session) -> None:
        """See `StoredMessages.looked`."""
        looked = self._looked.get(session)
        if looked is not None:
            await looked.wait()

    async def put(self, user: JID, message: Stanza, when: float) -> None:
        """See `StoredMessages.put`."""
        worthy = None if message.type in NEVER else worth_keeping(message, user.domain)
        if worthy is None:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="nothing that is kept for later")
        box = self.store.box(user)
        if box.removed:
            self.store.forget(user)
            box = self.store.box(user)
        while not box.known:
            await self.store.know(box)
            box = self.store.box(user)
        failed: list[Exception] = []
        self.store.append(box, worthy, when, failed.append)
        await self.db.flushed()
        if failed:
            raise unable() from failed[0]
        self._stored(box)

    def _looked_up(self, session: Session) -> None:
        looked = self._looked.pop(session, None)
        if looked is not None:
            looked.set()

    # ---- order ------------------------------------------------------------------------------------------------------

    def _hold_back(self, session: Session, box: Box) -> None:
        if not self._held_back:  # at the end: a message that a guard stops, or a copy replaces, must not get here
            self.kernel.hooks[events.delivering].add(Row(90, self.name, self._hold, _HELD))
        self._held_back[session] = box

    def _let_through(self, session: Session) -> None:
        if self._held_back.pop(session, None) is not None and not self._held_back:
            self.kernel.hooks[events.delivering].remove(self.name)

    def _hold(self, delivery: Delivery) -> Outcome:
        """Hook `delivering`, while anybody gets stored messages: a new one to the same session goes behind them."""
        box = self._held_back.get(delivery.session)
        stanza = delivery.stanza
        if box is None or stanza.name != MESSAGE or stanza.type in NEVER:
            return None
        if (stanza.to is None or not stanza.to.resource) and len(
            self.kernel.sessions.of(delivery.session.bare).routable
        ) > 1:
            return None  # others get it as well: from the store it might reach one of them a second time
        worthy = worth_keeping(stanza, delivery.session.jid.domain)
        if worthy is None:
            return None
        ctx = delivery.context
        failed = partial(self._give_directly, ctx, worthy, delivery.session)
        try:
            ctx.caused(self.store.append(box, worthy, self.kernel.clock.now(), failed))
        except StanzaError:
            return None  # full, or no storage: rather out of order than not at all
        ctx.held = True
        return STOP

    def _give_directly(self, ctx: Context, stanza: Stanza, session: Session, why: Exception) -> None:
        """The database refused to keep a message for a session that gets others: it gets it out of order."""
        if session.send(stanza):
            return
        if _safe(ctx):
            self._refused(ctx, stanza, self.kernel.clock.now(), why)
        else:
            self._not_stored(ctx, why)

    # ---- delivering -------------------------------------------------------------------------------------------------

    async def _deliver(self, box: Box, session: Session) -> bool:
        """True if everything was delivered, proved and removed, as far as can be told."""
        try:
            return await self._deliver_pages(box, session, await self.store.page(box))
        except StorageError as exc:
            log.warning("offline_delivery_failed", jid=str(session.jid), error=repr(exc))
            return False

    async def _deliver_pages(self, box: Box, session: Session, page: Page) -> bool:
        messages = 0
        while True:
            if not self._fit(session) or not self._send(session, page):
                return False
            box.given = page.upto
            more = page.more or box.added > page.upto
            if not more:
                self._let_through(session)
            self._looked_up(session)
            if page.count:
                kept = self._kept_by_stream(session)
                if kept:  # without a wait in between: the removal is queued behind what the stream has just stored
                    self.store.remove(box, page, soon=True)
                if not await self._proved(session):
                    return False
                if not kept:
                    self.store.remove(box, page, soon=more)
                messages += page.count
            elif not more:
                box.count = box.bytes = 0
            if not more:
                if messages:
                    log.info("offline_delivered", jid=str(session.jid), messages=messages)
                return not page.refused
            before, page = page, await self.store.page(box)
            if before.refused:
                return False  # it is this one once more

    def _send(self, session: Session, page: Page) -> bool:
        """Hand a page to the session. False: it is closing."""
        messages: list[Stanza] = [StoredMessage(wire, page) for wire in page.wires]
        if self._releasing.rows and messages:
            release = Release(session, messages, page.joined)
            self._releasing.run(release)
            messages = release.messages
        for message in cast("list[StoredMessage]", messages):
            try:
                if not session.deliver(message.wire, message):
                    return False
            except ValueError as exc:  # whoever keeps it looked at it
                log.error("offline_message_damaged", user=str(session.bare), error=str(exc))
        return True

    def _fit(self, session: Session) -> bool:
        """Whether the session may still be given messages to the account."""
        priority = session.priority
        return priority is not None and priority >= 0 and self.kernel.sessions.get(session.jid) is session

    def _kept_by_stream(self, session: Session) -> bool:
        receipts = self.kernel.service_or_none(DeliveryReceipts)
        return receipts is not None and receipts.keeps(session)

    async def _proved(self, session: Session) -> bool:
        """Whether the client has read everything sent so far; waits for that.

        A client that answers nothing, as it must (RFC 6120 §8.2.3), but is still connected when the time is over has
        been heard from since (a silent one is closed earlier), so its connection was alive after the messages
        went out. Keeping them for ever for its sake would fill its store with what it has seen already.
        """
        receipts = self.kernel.service_or_none(DeliveryReceipts)
        passed = receipts.passed(session) if receipts is not None else None
        if passed is not None:
            return await passed
        try:
            # from the account itself: to anybody else the router would answer in place of the client
            answer = await self.kernel.iq.request(
                "get",
                session.jid,
                _QUESTION,
                sender=session.bare,
                timeout=self.config.confirm_seconds,
                post=session.send,
            )
        except IqTimeout:
            log.warning("offline_delivery_unconfirmed", jid=str(session.jid), seconds=self.config.confirm_seconds)
            return self.kernel.sessions.get(session.jid) is session
        # an error may also be the router's, because the session has just ended; a result is always the client's
        return answer.type == "result" or self.kernel.sessions.get(session.jid) is session

    # ---- commands ---------------------------------------------------------------------------------------------------

    @command("offline.count", "How many messages are stored for an account")
    async def command_count(self, jid: Annotated[JID, Param("Account")]) -> dict[str, int | str]:
        """Messages and bytes stored for an account; zero for one that does not exist."""
        account = jid.bare
        count, size = await self.store.count(account)
        return {"jid": str(account), "messages": count, "bytes": size}


def _safe(ctx: Context) -> bool:
    """Whether a message is in safety somewhere else, so that nobody must hear that it was not stored."""
    return ctx.note(WHEN) is not None or ctx.note(ARCHIVED) is not None
