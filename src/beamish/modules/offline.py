"""XEP-0160: messages for accounts that nobody is logged in to, kept and delivered with their time (XEP-0203).

Storing waits for nothing: the row joins the next commit, and the stanza is not acknowledged before that. Delivery
begins when a resource becomes available with a non-negative priority. Rows are removed only once the client has proved
that it read them (it answered a question sent behind them, or acknowledged them on its stream), so a connection that breaks
in between loses nothing; at worst the next login gets some messages again.

One delivery runs per account. Until the last stored message is on its way, new messages to that resource take
their place behind it in the store, so none overtakes; whatever cannot be stored goes directly, and so does what other
resources get at the same time.

Not here: the archive, push, and retrieval by the client's choice (XEP-0013).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.clock import stamp
from beamish.core.content import Holds, survey
from beamish.core.events import AccountEvent, Context, Delivery, PresenceChanged, SessionClosed, SessionNotes
from beamish.core.hooks import STOP, Outcome, Row
from beamish.core.iq import IqTimeout
from beamish.core.module import Module, ModuleConfig, Xep, command, on
from beamish.core.services import CopiesService, DeliveryReceipts
from beamish.core.sessions import Session
from beamish.storage.api import Cursor, Migration, StorageError
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import MESSAGE, Stanza, insert_child

log = structlog.get_logger(__name__)

_REMEMBERED: Final = 50_000
"""Accounts whose number of stored messages is kept in memory (about 300 bytes each)."""
_PAGE: Final = 200
_PAGE_BYTES: Final = 1_048_576
"""What is sent without a proof that the client takes it; far below the bytes that may wait for a client."""
_QUESTION: Final = b"<query xmlns='jabber:iq:version'/>"
"""What a client is asked behind its messages; any answer will do. It knows this one, or may say that it does not. A ping
(XEP-0199) would be the natural choice, but go-sendxmpp up to 0.5 (Debian 12) crashes on one."""

_HELD: Final = frozenset((MESSAGE,))
_NEVER: Final = frozenset(("groupchat", "headline", "error"))
"""Types that are not stored (XEP-0160 §3)."""
_HINTS: Final = "{urn:xmpp:hints}"
_BODY: Final = f"{{{ns.CLIENT}}}body"
_THREAD: Final = f"{{{ns.CLIENT}}}thread"
_DELAY: Final = f"{{{ns.DELAY}}}delay"
_NO_STORE: Final = _HINTS + "no-store"
_HAS_BODY: Final = int(Holds.BODY)
_STANZA_ID: Final = "{urn:xmpp:sid:0}stanza-id"
_NO_CONTENT: Final = (
    "{http://jabber.org/protocol/chatstates}",
    "{urn:xmpp:sid:0}",
    "{urn:xmpp:carbons:2}",
    _HINTS,
    f"{{{ns.DELAY}}}",
    "{urn:xmpp:receipts}received",
)
"""What accompanies content or is of use only at once, and receipts, which are no messages; as beginnings of tags."""
_RECEIPT: Final = b"urn:xmpp:receipts"

_STORE: Final = "INSERT INTO offline_message (account, stamp, wire) VALUES (?, ?, ?)"


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


class StoredMessage(Stanza):
    """A message on its way from the store to a client; `kept` as long as the store still has it."""

    __slots__ = ("kept",)

    kept: bool


class _Box:
    """What the store holds for one account, as far as memory knows.

    `count` and `bytes` are right once `known`; `epoch` tells rows counted by the load from later ones. `fresh` is set by
    every new row, so that a delivery sees whether there is more than it has read. `removed`: the account goes away.
    """

    __slots__ = (
        "account",
        "bytes",
        "count",
        "delivery",
        "epoch",
        "fresh",
        "gone",
        "known",
        "loading",
        "removed",
        "session",
    )

    def __init__(self, account: str) -> None:
        self.account = account
        self.count = 0
        self.bytes = 0
        self.epoch = 0
        self.known = False
        self.fresh = False
        self.removed = False
        self.loading: asyncio.Task[StorageError | None] | None = None
        self.delivery: asyncio.Task[bool] | None = None
        self.session: Session | None = None
        """The session that the delivery is for; `gone` once it has ended."""
        self.gone = False


_Page = tuple[list[tuple[int, float, bytes]], bool]


class OfflineModule(Module):
    """Keeps messages for absent accounts."""

    name = "offline"
    Config = Config
    xeps = (Xep(160, "1.0.1"), Xep(203, "2.0"))
    features = ("msgoffline",)
    migrations = (
        Migration(
            1,
            (
                "CREATE TABLE offline_message (id {pk}, account TEXT NOT NULL, stamp {timestamp} NOT NULL, "
                "wire {bytes} NOT NULL)",
                "CREATE INDEX offline_message_account ON offline_message (account, id)",
            ),
        ),
    )

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._boxes: OrderedDict[str, _Box] = OrderedDict()
        self._negative: set[Session] = set()
        """Available sessions with a negative priority: the next presence may make them fit for stored messages."""
        self._held_back: dict[Session, _Box] = {}
        """Sessions for which new messages go behind the stored ones."""
        self._releasing = self.kernel.hooks[events.releasing]
        self._max_messages: int = config.max_messages
        self._max_bytes: int = config.max_bytes

    def _box(self, account: JID) -> _Box:
        boxes = self._boxes
        box = boxes.get(account)
        if box is not None:
            boxes.move_to_end(account)
            return box
        box = boxes[account] = _Box(str(account))
        if len(boxes) > _REMEMBERED:
            idle = (
                key for key, old in boxes.items() if old.delivery is None and old.loading is None and old is not box
            )
            del boxes[next(idle)]
        return box

    async def _load(self, box: _Box) -> None:
        """Learn what the store holds. Raises `StorageError`."""
        if box.known:
            return
        if box.loading is None:
            box.loading = self.tasks.spawn(self._count(box), "count")
        problem = await asyncio.shield(box.loading)
        if problem is not None:
            raise problem

    async def _count(self, box: _Box) -> StorageError | None:
        box.epoch += 1
        box.count = box.bytes = 0  # rows queued so far are seen by the query, which takes its place in the same queue
        try:
            count, size = await self.db.write("offline.count", partial(_count, box.account))
        except StorageError as exc:
            return exc
        finally:
            box.loading = None
        box.count += count
        box.bytes += size
        box.known = True
        return None

    # ---- storing ----------------------------------------------------------------------------------------------------

    @on(events.undelivered)
    def keep(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """Store a message that no resource takes; one that is not worth it goes on to bounce (RFC 6121 §8.5.2.2.1)."""
        stanza = ctx.stanza
        to = stanza.to
        if to is None or stanza.type in _NEVER:
            return None
        account = to.bare
        if isinstance(stanza, StoredMessage):
            if stanza.kept:
                return STOP  # handed back by a stream that lost its client: it never left the store
        else:
            worthy = worth_keeping(stanza, to.domain)
            if worthy is None:
                return STOP if _archived_receipt(stanza, account) else None
            stanza = worthy
        for session in self.kernel.sessions.of(account).all:
            if session.anonymous:
                return None  # an address that nobody will ever have again
        box = self._box(account)
        if box.removed:
            return None
        before = ctx.note("sm.when")  # it was handed to a session then, whose client never confirmed it
        now = before if isinstance(before, float) else self.kernel.clock.now()
        if not box.known:
            return self._keep_later(ctx, stanza, box, now)
        self._store(ctx, stanza, box, now)
        return STOP

    async def _keep_later(self, ctx: Context, stanza: Stanza, box: _Box, now: float) -> Outcome:
        try:
            await self._load(box)
        except StorageError:
            raise _unable() from None
        to = stanza.to
        if to is None or box.removed:
            return None
        routable = self.kernel.sessions.of(to.bare).routable  # who came while we looked
        copies = self.kernel.service_or_none(CopiesService)
        lacking = routable if copies is None else tuple(s for s in routable if not copies.had(s, ctx.stanza))
        if lacking and self.kernel.router.hand_over(ctx, lacking):
            return STOP
        self._store(ctx, stanza, box, now)
        return STOP

    def _store(self, ctx: Context, stanza: Stanza, box: _Box, now: float) -> None:
        self._append(ctx, stanza, box, now, partial(self._not_stored, ctx))
        if box.delivery is None:
            self._serve_next(box, frozenset())  # only if its sessions broke off just now, all but one

    def _append(self, ctx: Context, stanza: Stanza, box: _Box, now: float, failed: Callable[[], None]) -> None:
        """Queue the row. Raises `StanzaError`: `service-unavailable` if the store is full (XEP-0160 §2), or `_unable`."""
        wire = stanza.to_wire()
        size = len(wire)
        if box.count >= self._max_messages or box.bytes + size > self._max_bytes:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE, text="offline storage full")
        row = (box.account, now, wire)
        try:
            position = self.db.append("offline.store", _STORE, row, partial(self._lost, box, box.epoch, size, failed))
        except StorageError:
            raise _unable() from None
        box.count += 1
        box.bytes += size
        box.fresh = True
        ctx.caused(position)

    def _lost(self, box: _Box, epoch: int, size: int, failed: Callable[[], None], exc: Exception) -> None:
        """The row was not committed; nothing has been acknowledged yet."""
        log.error("offline_message_not_stored", user=box.account, error=repr(exc))
        if box.epoch == epoch:
            box.count -= 1
            box.bytes -= size
        failed()

    def _not_stored(self, ctx: Context) -> None:
        self.kernel.router.bounce(ctx, _unable())

    # ---- when to deliver --------------------------------------------------------------------------------------------

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
            box = self._box(session.bare)
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
            self._serve(self._box(session.bare), session, frozenset())

    @on(events.session_closed)
    def session_closed(self, event: SessionClosed) -> None:
        """What the session has not confirmed stays stored; another resource that is there gets it."""
        session = event.session
        self._negative.discard(session)
        box = self._boxes.get(session.bare)
        if box is not None and box.session is session and box.delivery is not None:
            box.gone = True
            # not at once: the client may have answered with its last breath, and that answer is in the loop already
            self.loop().call_soon(box.delivery.cancel)

    @on(events.account_removed)
    async def account_removed(self, event: AccountEvent) -> None:
        """Nothing stays behind for whoever may get the same name later."""
        box = self._box(event.user)
        box.removed = True
        if box.delivery is not None:
            box.delivery.cancel()
        await self.db.write("offline.remove_account", partial(_remove_account, box.account))

    @on(events.account_added)
    def account_added(self, event: AccountEvent) -> None:
        """A new account starts with nothing."""
        self._boxes.pop(event.user, None)

    def _serve(self, box: _Box, session: Session, tried: frozenset[Session]) -> None:
        """Begin a delivery, unless one is running; its end looks after what is left."""
        if box.delivery is not None or box.removed:
            return
        box.session = session
        box.gone = False
        self._hold_back(session, box)
        box.delivery = self.tasks.spawn(self._deliver(box, session), "deliver")
        box.delivery.add_done_callback(partial(self._ended, box, session, tried))

    def _serve_next(self, box: _Box, tried: frozenset[Session]) -> None:
        for session in self.kernel.sessions.of(JID.parse(box.account)).routable:
            if session not in tried:
                self._serve(box, session, tried)
                return

    def _ended(self, box: _Box, session: Session, tried: frozenset[Session], task: asyncio.Task[bool]) -> None:
        self._let_through(session)
        box.delivery = box.session = None
        if task.cancelled() and not box.gone:
            return  # the server stops, or the account is removed
        if box.count or not box.known:
            done = not task.cancelled() and task.exception() is None and task.result()
            self._serve_next(box, frozenset() if done else tried | {session})

    # ---- order ------------------------------------------------------------------------------------------------------

    def _hold_back(self, session: Session, box: _Box) -> None:
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
        if box is None or stanza.name != MESSAGE or stanza.type in _NEVER:
            return None
        if (stanza.to is None or not stanza.to.resource) and len(
            self.kernel.sessions.of(delivery.session.bare).routable
        ) > 1:
            return None  # others get it as well: from the store it might reach one of them a second time
        worthy = worth_keeping(stanza, delivery.session.jid.domain)
        if worthy is None:
            return None
        session = delivery.session
        try:
            self._append(delivery.context, worthy, box, self.kernel.clock.now(), lambda: _ignore(session.send(worthy)))
        except StanzaError:
            return None  # full, or no storage: rather out of order than not at all
        delivery.context.notes["offline.held"] = True
        return STOP

    # ---- delivering -------------------------------------------------------------------------------------------------

    async def _deliver(self, box: _Box, session: Session) -> bool:
        """True if everything was delivered, proved and removed."""
        try:
            await self._load(box)
            return not box.count or await self._deliver_pages(box, session)
        except StorageError as exc:
            log.warning("offline_delivery_failed", jid=str(session.jid), error=repr(exc))
            return False

    async def _deliver_pages(self, box: _Box, session: Session) -> bool:
        messages = 0
        while True:
            box.fresh = False
            # through the queue of writes, so that it sees every row queued so far
            rows, more = await self.db.write("offline.page", partial(_page, box.account))
            if not self._fit(session):
                return False
            sent = [self._stored(box, session, row) for row in rows]
            for stanza in sent:
                if stanza is not None and not session.deliver(stanza.to_wire(), stanza):
                    return False
            more = more or box.fresh
            if not more:
                self._let_through(session)
            if rows:
                kept = self._kept_by_stream(session)
                if kept:  # without a wait in between: the removal is queued behind what the stream has just stored
                    await self._remove(box, rows, sent)
                if not await self._proved(session):
                    return False
                if not kept:
                    await self._remove(box, rows, sent)
                messages += len(rows)
            elif not more:
                box.count = box.bytes = 0
            if not more:
                log.info("offline_delivered", jid=str(session.jid), messages=messages)
                return True

    def _fit(self, session: Session) -> bool:
        """Whether the session may still be given messages to the account."""
        priority = session.priority
        return priority is not None and priority >= 0 and self.kernel.sessions.get(session.jid) is session

    def _stored(self, box: _Box, session: Session, row: tuple[int, float, bytes]) -> StoredMessage | None:
        """A row as the stanza to send, stamped with the time it was stored (XEP-0203 §2)."""
        id_, when, wire = row
        domain = session.jid.domain
        try:
            # one with our own stamp was delivered before, and then handed back
            if b"urn:xmpp:delay" not in wire or not any(_is_own_delay(el, domain) for el in Stanza.thaw(wire).el):
                delay = f"<delay xmlns='{ns.DELAY}' from='{domain}' stamp='{stamp(when)}'/>"
                wire = insert_child(wire, MESSAGE, delay.encode())
            stanza = StoredMessage.thaw(wire)
        except ValueError as exc:
            log.error("offline_message_damaged", user=box.account, id=id_, error=str(exc))
            return None
        if self._releasing.rows and self._releasing.run(Delivery(Context(stanza), stanza, session)) is STOP:
            return None
        stanza.kept = True
        return stanza

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
                "get", session.jid, _QUESTION, sender=session.bare, timeout=self.config.confirm_seconds
            )
        except IqTimeout:
            log.warning("offline_delivery_unconfirmed", jid=str(session.jid), seconds=self.config.confirm_seconds)
            return self.kernel.sessions.get(session.jid) is session
        # an error may also be the router's, because the session has just ended; a result is always the client's
        return answer.type == "result" or self.kernel.sessions.get(session.jid) is session

    async def _remove(self, box: _Box, rows: list[tuple[int, float, bytes]], sent: list[StoredMessage | None]) -> None:
        count, size, epoch = len(rows), sum(len(row[2]) for row in rows), box.epoch
        # counted off first: the write happens even if this delivery is cancelled while it waits
        box.count -= count
        box.bytes -= size
        for stanza in sent:
            if stanza is not None:
                stanza.kept = False
        try:
            await self.db.write("offline.remove", partial(_remove, box.account, rows[-1][0]))
        except StorageError:
            if box.epoch == epoch:
                box.count += count
                box.bytes += size
            raise

    # ---- commands ---------------------------------------------------------------------------------------------------

    @command("offline.count", "How many messages are stored for an account")
    async def command_count(self, jid: str) -> dict[str, int | str]:
        """Messages and bytes stored for an account; zero for one that does not exist."""
        try:
            account = JID.parse(jid).bare
        except JidMalformed as exc:
            raise StanzaError(Condition.JID_MALFORMED, text=f"{jid}: {exc}") from exc
        count, size = await self.db.read("offline.count", partial(_count, str(account)))
        return {"jid": str(account), "messages": count, "bytes": size}


def worth_keeping(stanza: Stanza, domain: str) -> Stanza | None:
    """The message as it is to be stored, or None for one that means nothing later (XEP-0160 §3, XEP-0334 §4).

    Worth keeping are a body, or anything else but what merely accompanies content (`_NO_CONTENT`, a thread). `no-store`
    forbids it; `no-permanent-store` is about archives and does not. Stamps that claim to be from `domain`, ours,
    are forged and taken out (XEP-0203 §5).
    """
    tags = stanza.known_tags
    if tags is not None and _DELAY not in tags:  # no tree need be made
        if not any(_means_something(tag) for tag in tags) and not survey(stanza) & _HAS_BODY:
            return None
        return None if _NO_STORE in tags else stanza
    worth = False
    forged = []
    for child in stanza.el:
        tag = child.tag
        if tag == _BODY:
            worth = worth or bool(child.text) or len(child) > 0
        elif tag == _DELAY:
            if _is_own_delay(child, domain):
                forged.append(child)
        elif tag == _NO_STORE:
            return None
        else:
            worth = worth or _means_something(tag)
    if not worth:
        return None
    return stanza.without(*forged) if forged else stanza


def _means_something(tag: str) -> bool:
    """Whether a child that is neither a body nor a stamp makes a message worth keeping."""
    return tag == _HINTS + "store" or (tag not in (_THREAD, _BODY) and not tag.startswith(_NO_CONTENT))


def _archived_receipt(stanza: Stanza, account: JID) -> bool:
    """A receipt (XEP-0184) that the account's archive has: an error would tell its sender less than the truth."""
    return _RECEIPT in stanza.body and any(
        child.tag == _STANZA_ID and child.get("by") == account for child in stanza.el
    )


def _is_own_delay(child: Any, domain: str) -> bool:
    return child.tag == _DELAY and (child.get("from") or "").lower() == domain


def _unable() -> StanzaError:
    return StanzaError(Condition.RESOURCE_CONSTRAINT, text="the message could not be stored")


def _ignore(_taken: bool) -> None:
    """Whether a closing session took a message that could not be stored either makes no difference any more."""


def _count(account: str, c: Cursor) -> tuple[int, int]:
    row = c.row("SELECT COUNT(*), COALESCE(SUM(LENGTH(wire)), 0) FROM offline_message WHERE account = ?", account)
    assert row is not None
    return int(row[0]), int(row[1])


def _page(account: str, c: Cursor) -> _Page:
    """The oldest messages, as many as are sent at once, and whether there are more."""
    sizes = c.rows(
        "SELECT id, LENGTH(wire) FROM offline_message WHERE account = ? ORDER BY id LIMIT ?", account, _PAGE + 1
    )
    last = total = taken = 0
    for id_, size in sizes[:_PAGE]:
        total += size
        if taken and total > _PAGE_BYTES:
            break
        last = id_
        taken += 1
    rows = c.rows(
        "SELECT id, stamp, wire FROM offline_message WHERE account = ? AND id <= ? ORDER BY id LIMIT ?",
        account,
        last,
        _PAGE,
    )
    return [(int(id_), float(when), bytes(wire)) for id_, when, wire in rows], taken < len(sizes)


def _remove(account: str, last: int, c: Cursor) -> None:
    c.run("DELETE FROM offline_message WHERE account = ? AND id <= ?", account, last)


def _remove_account(account: str, c: Cursor) -> None:
    c.run("DELETE FROM offline_message WHERE account = ?", account)
