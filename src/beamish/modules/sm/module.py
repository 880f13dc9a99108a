"""XEP-0198: acknowledgements in both directions, and sessions that outlive their connection and the server.

What the server acknowledges is committed. What it has sent it keeps until the client confirms it: in memory, and messages in
the database as well. A session whose connection breaks off stays what it was for everybody else until its time is over; then
it ends, and what its client has not confirmed goes where it would have gone without the session (`elsewhere`).

Not here: `location`, and resumption within SASL2 (the stanzas' transport does not matter).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice, takewhile
from typing import Any, Final

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.events import AccountEvent, Context, PresenceChanged, SessionClosed, SessionNotes
from beamish.core.hooks import Outcome, Row
from beamish.core.kernel import new_id
from beamish.core.module import Module, ModuleConfig, Xep, command, nonza, on
from beamish.core.services import DeliveryReceipts, PresenceService, SessionKeeper
from beamish.core.sessions import Link, Session
from beamish.modules.sm.elsewhere import SINCE, Held, Parcel, bring, bring_unseen, sort_out
from beamish.modules.sm.outlet import Managed, Sent, kept, outlasts
from beamish.modules.sm.reports import Reports
from beamish.modules.sm.restart import restore
from beamish.modules.sm.store import MIGRATIONS, Journal
from beamish.storage.api import StorageError
from beamish.stream.features import Has, StreamFeature
from beamish.stream.resume import SM, read_count
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, MESSAGE, Stanza
from beamish.xmpp.xml import Element

log = structlog.get_logger(__name__)

_TIDY: Final = 0.25
"""Seconds after which confirmed messages are deleted if nothing else is written."""
_ASK_PAUSE: Final = 0.02
"""Seconds at least between two looks at which sessions are to be asked, and ..."""
_ASKED_AT_ONCE: Final = 128
"""... sessions that one of them asks: 1 ms of the loop's time."""
_DOOR: Final = 10
"""Where messages are refused that cannot be stored: before any module does something about them."""
_REFUSED: Final = frozenset((MESSAGE, IQ))


class Config(ModuleConfig):
    """Options of stream management."""

    resume_seconds: float = Field(
        600.0,
        ge=0.0,
        description="How long a session waits for a client whose connection broke off; clients may ask for less. "
        "0 allows no resumption.",
    )
    waiting_per_account: int = Field(
        8,
        ge=1,
        description="Sessions of one account that may wait for their clients; the oldest ends when there are more.",
    )
    queue_stanzas: int = Field(
        5_000, ge=10, description="Stanzas that a client may leave unconfirmed; with more its session ends."
    )
    queue_bytes: int = Field(
        4 * 1024 * 1024, ge=65_536, description="Bytes that a client may leave unconfirmed; with more its session ends."
    )
    request_after: int = Field(25, ge=1, description="Stanzas after which the client is asked to confirm at once.")
    request_seconds: float = Field(1.0, gt=0.0, description="How long other stanzas wait until the client is asked.")
    late_seconds: float = Field(
        10.0,
        gt=0.0,
        description="A client that does not answer such a request within this time may be asleep: it is woken by a push "
        "notification (module `push`), and still has its connection.",
    )
    answer_seconds: float = Field(
        60.0,
        gt=0.0,
        description="A client that does not answer such a request within this time has lost its connection.",
    )
    remember_seconds: float = Field(
        86_400.0, ge=0.0, description="How long a client can still learn how many stanzas an ended session had handled."
    )
    commit_first: bool = Field(
        True,
        description="Messages go to such clients when they are on disk, which takes a commit. Without, they may appear twice "
        "after a crash.",
    )


class StreamManagementModule(Module):
    """Stream management of client streams."""

    name = "sm"
    outermost = True
    Config = Config
    xeps = (Xep(198, "1.6.3"),)
    stream_features = (StreamFeature(f"<sm xmlns='{SM}'/>".encode(), needs=Has.AUTHENTICATED, forbids=Has.BOUND),)
    provides = (DeliveryReceipts, SessionKeeper)
    migrations = MIGRATIONS

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self.clock = kernel.clock
        self.journal = Journal(self.db, self.clock, self._refuse)
        self.queue_stanzas: int = config.queue_stanzas
        self.queue_bytes: int = config.queue_bytes
        self.request_after: int = config.request_after
        self.answer_seconds: float = config.answer_seconds
        self.late_seconds: float = config.late_seconds
        self.commit_first: bool = config.commit_first
        self._by_id: dict[str, Managed] = {}
        self._by_session: dict[Session, Managed] = {}
        self._wanting: OrderedDict[Managed, float] = OrderedDict()
        """Sessions to be looked at, and when (monotonic), in this order."""
        self._asking = self._tidying = self._refusing = False
        self._latest = 0.0
        self._now = self.clock.now
        self._awaited = 0
        self._awaiting: list[Managed] = []
        self._saving = self.kernel.hooks[events.session_saving]
        self.reports = Reports(kernel.hooks)

    # ---- requests of clients ----------------------------------------------------------------------------------------

    @nonza(f"{{{SM}}}enable", early=True)
    def enable(self, link: Link, el: Element) -> None:
        """XEP-0198 §3."""
        session = link.session
        if session is None:
            _fail(link, Condition.UNEXPECTED_REQUEST)
            return
        if session in self._by_session:
            _fail(link, Condition.UNEXPECTED_REQUEST)
            raise StreamError(StreamErrorCondition.POLICY_VIOLATION, "stream management is enabled already")
        longest = self.config.resume_seconds
        asked = el.get("max")
        if asked is not None:
            wished = read_count(asked)
            if not wished:
                _fail(link, Condition.BAD_REQUEST)
                return
            longest = min(longest, float(wished))
        resume = _true(el.get("resume")) and longest > 0.0 and not session.anonymous
        managed = Managed(
            self, session, link, key=self.journal.next_key(), id=new_id(), seconds=longest if resume else 0.0
        )
        try:
            self.journal.begin(managed)
        except StorageError as exc:
            log.warning("session_not_stored", jid=str(session.jid), error=repr(exc))
            _fail(link, Condition.RESOURCE_CONSTRAINT)
            return
        self.adopt(managed)
        more = f" id='{managed.id}' resume='true' max='{int(longest)}'" if resume else ""
        link.write(f"<enabled xmlns='{SM}'{more}/>".encode())

    @nonza(f"{{{SM}}}r")
    def request(self, link: Link, el: Element) -> None:
        """XEP-0198 §4: how many stanzas were handled?"""
        managed = self._of(link)
        if managed is None:
            _fail(link, Condition.UNEXPECTED_REQUEST)
        else:
            managed.requested()

    @nonza(f"{{{SM}}}a")
    def acknowledge(self, link: Link, el: Element) -> None:
        """XEP-0198 §4: so many were handled."""
        managed = self._of(link)
        if managed is None:
            _fail(link, Condition.UNEXPECTED_REQUEST)
            return
        h = read_count(el.get("h"))
        if h is None:
            raise StreamError(StreamErrorCondition.BAD_FORMAT, "h is not a count")
        managed.confirm(h)
        self._tidy_later()

    @nonza(f"{{{SM}}}resume", early=True)
    def resume(self, link: Link, el: Element) -> Awaitable[None] | None:
        """XEP-0198 §5."""
        user = link.user
        if link.session is not None or user is None:
            _fail(link, Condition.UNEXPECTED_REQUEST)
            return None
        h = read_count(el.get("h"))
        previous = el.get("previd")
        if h is None or not previous:
            _fail(link, Condition.BAD_REQUEST)
            return None
        managed = self._by_id.get(previous)
        if managed is None or managed.session.bare != user or not managed.resumable:
            return self._unknown(link, user, previous[:256])
        if managed.exact:
            managed.confirm(h)
        return self._resume(link, managed, h)

    @nonza(f"{{{ns.CLIENT}}}resume", early=True)
    def resume_of_nothing(self, link: Link, el: Element) -> None:
        """What QXmpp 1.5 (Kaidan 0.8) sends after a loss: no namespace, no id. A stream error would leave it offline."""
        _fail(link, Condition.ITEM_NOT_FOUND if link.session is None else Condition.UNEXPECTED_REQUEST)

    async def _unknown(self, link: Link, user: JID, id: str) -> None:
        handled = await self.journal.ended_count(id, str(user), self.clock.now())
        log.info("resumption_failed", user=str(user), known=handled is not None)
        never = handled is None and not self.config.resume_seconds
        _fail(link, Condition.FEATURE_NOT_IMPLEMENTED if never else Condition.ITEM_NOT_FOUND, handled)

    async def _resume(self, link: Link, managed: Managed, h: int) -> None:
        session = managed.session
        waited, exact = managed.link is None, managed.exact
        managed.take_over(link)
        managed.claimed = link
        if not managed.exact:
            managed.recount(h)
            await self.journal.recount(managed)
        await managed.settled()
        if managed.over or managed.claimed is not link:
            _fail(link, Condition.CONFLICT if not managed.over else Condition.ITEM_NOT_FOUND)
            return
        managed.claimed = None
        unconfirmed = len(managed.queue)
        if not managed.go_on(link):
            self.hibernate(managed, "lost")
            return
        self.journal.changed(managed)
        log.info("resumed", jid=str(session.jid), peer=link.peer, waited=waited, again=unconfirmed)
        link.carry(session)
        if managed.reported is not None:
            self.reports.reached(managed)
        if managed.restored:
            # presence on its way at a crash is lost, and other servers could not tell us theirs meanwhile
            managed.restored = False
            self.kernel.service(PresenceService).refresh(session, elsewhere=exact)

    # ---- the life of a session --------------------------------------------------------------------------------------

    def adopt(self, managed: Managed) -> None:
        """Let a session be managed: what it sends and gets goes through `managed` from now on."""
        session = managed.session
        session.carried_by(managed)
        session.handled = managed.handled
        self._by_session[session] = managed
        self._by_id[managed.id] = managed

    def hibernate(self, managed: Managed, reason: str) -> None:
        """A session has no connection any more; it waits for its client."""
        managed.expires = self.clock.now() + managed.seconds
        self.journal.changed(managed)
        self.wait(managed)
        log.info("session_waits", jid=str(managed.session.jid), reason=reason, seconds=managed.seconds)
        if reason != "shutdown":  # it is told at the start
            self.reports.missed(managed, lost=True)
        waiting = [m for s in self.kernel.sessions.of(managed.session.bare).all if (m := self._waiting(s)) is not None]
        if len(waiting) > self.config.waiting_per_account:
            oldest = min(waiting, key=lambda m: m.expires or 0.0)
            self.loop().call_soon(self._end, oldest, "too_many")

    def _waiting(self, session: Session) -> Managed | None:
        managed = self._by_session.get(session)
        return managed if managed is not None and managed.timer is not None else None

    def wait(self, managed: Managed) -> None:
        """End a session without a connection when it `expires`."""
        assert managed.expires is not None
        if managed.timer is not None:
            managed.timer.cancel()
        left = max(managed.expires - self.clock.now(), 0.0)
        managed.timer = self.clock.call_later(left, partial(self._end, managed, "expired"))

    def _end(self, managed: Managed, reason: str) -> None:
        if not managed.over:
            self.kernel.end_session(managed.session, reason)

    def overflow(self, managed: Managed) -> None:
        """A client has left more unconfirmed than is kept."""
        self.loop().call_soon(self._overflowed, managed)

    def _overflowed(self, managed: Managed) -> None:
        if managed.over:
            return
        log.warning("too_much_unconfirmed", jid=str(managed.session.jid), stanzas=len(managed.queue))
        error = StreamError(StreamErrorCondition.RESOURCE_CONSTRAINT, "too many unacknowledged stanzas")
        managed.close(error, "error:unconfirmed")

    @on(events.session_closed, at=1)  # before anybody has to be waited for: who else is there is decided now
    def session_closed(self, event: SessionClosed) -> None:
        """Nobody will resume the session; what its client has not confirmed goes elsewhere."""
        managed = self._by_session.pop(event.session, None)
        if managed is None or managed.over:
            return
        self._by_id.pop(managed.id, None)
        self._wanting.pop(managed, None)
        managed.remember = managed.resumable and event.reason != "closed"  # whoever says goodbye does not come back
        if event.reason != "replaced":  # by the same client, which gets it now
            self.reports.missed(managed)
        self._give_away(managed)

    def over_at_start(self, managed: Managed) -> None:
        """A session that was written down cannot be brought back: what it still had goes elsewhere."""
        self._by_session.pop(managed.session, None)
        self._by_id.pop(managed.id, None)
        managed.remember = managed.resumable
        self.reports.missed(managed, restored=True)
        self._give_away(managed)

    def _give_away(self, managed: Managed) -> None:
        parcels = sort_out(self, managed.session, managed.end())
        if parcels:
            self.journal.ended(managed)
            self._bring(managed.session, parcels, partial(self.forget, managed))
        else:
            self.forget(managed)

    def _bring(self, session: Session, parcels: list[Parcel], done: Callable[[], None]) -> None:
        async def now() -> None:
            if held := await bring(self, session, parcels):
                self.tasks.spawn(later(held), "unseen")
            else:
                done()

        async def later(held: Held) -> None:
            await bring_unseen(self, session, held)
            done()

        self.kernel.tasks.spawn(now(), "unconfirmed")  # the stop of the server waits for these

    def forget(self, managed: Managed) -> None:
        """An ended session has nothing left."""
        until = self.clock.now() + self.config.remember_seconds if managed.remember else 0.0
        self.journal.forget(managed, until)

    @on(events.presence_changed)
    def presence_changed(self, event: PresenceChanged) -> None:
        """Note since when a session gets messages to its account."""
        session = event.session
        if session.priority is None or session.priority < 0:
            if session.note(SINCE) is not None:
                del session.notes[SINCE]
        elif session.note(SINCE) is None:
            session.notes[SINCE] = self.now()

    @on(events.account_removed, at=95)  # its sessions have just ended: after those who took what they had left
    async def account_removed(self, event: AccountEvent) -> None:
        """Nothing stays behind of an account."""
        await self.journal.remove_account(str(event.user))

    def now(self) -> float:
        """See `SessionKeeper.now`: what came later must not look as if it had come before."""
        now = self._now()
        if now > self._latest:
            self._latest = now
        return self._latest

    def release_when(self, position: int, managed: Managed) -> None:
        """Let a session send what it holds when a position is durable. Raises `StorageBusy`.

        One tick has messages for many sessions: they wait for their position together.
        """
        if position != self._awaited or position <= self.db.durable:
            waiting: list[Managed] = [managed]
            self.db.when_durable(position, partial(self._release, waiting))
            self._awaited, self._awaiting = position, waiting  # not if it raises: nobody would release those who join
        else:
            self._awaiting.append(managed)

    def _release(self, waiting: list[Managed]) -> None:
        if waiting is self._awaiting:
            self._awaited = 0  # whoever has to wait again is none of these
        for managed in waiting:
            try:
                managed.release()
            except Exception:  # the others' messages must not wait for ever
                log.exception("release_failed", jid=str(managed.session.jid))

    def not_before(self, when: float) -> None:
        """Something happened at this time before the server started."""
        self._latest = max(self._latest, when)

    # ---- a disk that takes nothing ----------------------------------------------------------------------------------

    def _refuse(self) -> None:
        """Too many messages wait for the disk: until it takes them, others are refused before anybody has them."""
        if self._refusing:
            return
        self._refusing = True
        messages, size = self.journal.waiting
        log.error("messages_refused", waiting=messages, bytes=size)
        for point in (events.inbound, events.entering):
            self.kernel.hooks[point].add(Row(_DOOR, self.name, self._let_in, _REFUSED))

    def _let_in(self, ctx: Context) -> Outcome:
        """Hooks `inbound` and `entering`, while too much waits: what might need a row goes back to whoever sent it."""
        if self.journal.roomy:
            self._refusing = False
            for point in (events.inbound, events.entering):
                self.kernel.hooks[point].remove(self.name)
            log.info("messages_taken_again")
            return None
        stanza = ctx.stanza
        to = stanza.to
        if stanza.name == MESSAGE:
            kept = stanza.type != "error" and outlasts(stanza)
        else:  # a request that goes on to a client
            kept = stanza.name == IQ and stanza.type == "set" and to is not None and bool(to.local and to.resource)
        if kept:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="this server cannot store anything at the moment")
        return None

    # ---- asking for acknowledgements --------------------------------------------------------------------------------

    def wants_answer(self, managed: Managed) -> None:
        """Look at a session some time later: ask it, or see whether it owes an answer.

        Each has a time of its own, so that thousands who talk are neither asked nor answer all at once.
        """
        if managed in self._wanting:
            return
        self._wanting[managed] = self.clock.monotonic() + self.config.request_seconds
        if not self._asking:
            self._asking = True
            self.clock.call_later(self.config.request_seconds, self._ask)

    def _ask(self) -> None:
        wanting = self._wanting
        now = self.clock.monotonic()
        some = list(takewhile(lambda entry: entry[1] <= now, islice(wanting.items(), _ASKED_AT_ONCE)))
        for managed, _ in some:
            wanting.pop(managed, None)
            try:
                self._look_at(managed, now)
            except Exception:  # nobody else would ever be asked again
                log.exception("not_asked", jid=str(managed.session.jid))
        self._asking = bool(wanting)
        if wanting:
            self.clock.call_later(max(_ASK_PAUSE, next(iter(wanting.values())) - now), self._ask)

    def _look_at(self, managed: Managed, now: float) -> None:
        if managed.link is not None and managed.link.deaf:
            managed.wait_anew(now)
        if managed.silent(now) and managed.link is not None:
            log.info("client_does_not_answer", jid=str(managed.session.jid))
            managed.link.close(StreamError(StreamErrorCondition.CONNECTION_TIMEOUT), "timeout")
            return
        if managed.late(now):
            self.reports.missed(managed)
        managed.ask()
        if managed.expectant:
            self.wants_answer(managed)

    def _tidy_later(self) -> None:
        if not self._tidying:
            self._tidying = True
            self.clock.call_later(_TIDY, self._tidy)

    def _tidy(self) -> None:
        self._tidying = False
        self.journal.tidy()

    # ---- services ---------------------------------------------------------------------------------------------------

    def keeps(self, session: Session) -> bool:
        """See `DeliveryReceipts.keeps`."""
        managed = self._by_session.get(session)
        return managed is not None and managed.complete and not self.db.owed

    def passed(self, session: Session) -> Awaitable[bool] | None:
        """See `DeliveryReceipts.passed`."""
        managed = self._by_session.get(session)
        return None if managed is None else managed.passed()

    def managing(self, session: Session) -> Managed | None:
        """What manages a session, if it is under management."""
        return self._by_session.get(session)

    def changed(self, session: Session) -> None:
        """See `SessionKeeper.changed`."""
        managed = self._by_session.get(session)
        if managed is not None and managed.resumable:
            self.journal.changed(managed)

    def wait_longer(self, session: Session, seconds: float) -> None:
        """See `SessionKeeper.wait_longer`."""
        managed = self._waiting(session)
        until = self.clock.now() + seconds
        if managed is not None and managed.expires is not None and managed.expires < until:
            managed.expires = until
            self.journal.changed(managed)
            self.wait(managed)

    def hold(self, session: Session, data: bytes, message: Stanza) -> Sent:
        """See `SessionKeeper.hold`: a row without a number, which after a crash counts as not sent."""
        held = Sent(data, kept(message), self.now())
        managed = self._by_session.get(session)
        if managed is not None and outlasts(message):
            position = self.journal.message(managed, held, None)
            if position:
                session.stored = position
        return held

    def let_go(self, held: object) -> None:
        """See `SessionKeeper.let_go`: the row goes in the commit that brings the one with the number."""
        assert isinstance(held, Sent)
        if held.row:
            self.journal.confirmed((held.row,))
            self.journal.tidy()

    def left(self, session: Session, held: Sequence[object]) -> None:
        """See `SessionKeeper.left`."""
        messages = [one for one in held if isinstance(one, Sent)]
        managed = self._by_session.get(session)
        if managed is not None and not managed.over:  # its own end is next, and takes them along behind the others
            for one in messages:
                managed.queue.add(one, len(one.data))
        elif parcels := sort_out(self, session, messages):
            self._bring(session, parcels, lambda: None)

    def notes_of(self, session: Session) -> dict[str, Any]:
        """What modules want to have kept with a session."""
        if not self._saving.rows:
            return {}
        event = SessionNotes(session, {})
        self._saving.run(event)
        return event.notes

    def _of(self, link: Link) -> Managed | None:
        return None if link.session is None else self._by_session.get(link.session)

    # ---- the server starts and stops --------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Bring back the sessions of before."""
        await restore(self)

    async def stop(self) -> None:
        """Write down what can be resumed after the restart. Nothing else is running any more."""
        sessions = [m for m in self._by_session.values() if m.resumable and not m.over]
        for managed in sessions:
            if managed.expires is None:
                managed.expires = self.clock.now() + managed.seconds
        await self.journal.save(sessions)
        for managed in sessions:
            managed.end()
        if sessions:
            log.info("sessions_saved", sessions=len(sessions))

    # ---- commands ---------------------------------------------------------------------------------------------------

    @command("sm.count", "How many sessions are under stream management, and how many wait for their clients")
    async def command_count(self) -> dict[str, int]:
        """Sessions, those of them without a connection, and unconfirmed stanzas and bytes of all."""
        managed = self._by_session.values()
        return {
            "sessions": len(managed),
            "waiting": sum(m.link is None for m in managed),
            "unconfirmed": sum(len(m.queue) for m in managed),
            "unconfirmed_bytes": sum(m.queue.bytes for m in managed),
        }


def _fail(link: Link, condition: Condition, h: int | None = None) -> None:
    count = f" h='{h}'" if h is not None else ""
    link.write(f"<failed xmlns='{SM}'{count}><{condition.value} xmlns='{ns.STANZAS}'/></failed>".encode())


def _true(value: str | None) -> bool:
    return value is not None and value.strip() in ("true", "1")


__all__ = ["Config", "StreamManagementModule"]
