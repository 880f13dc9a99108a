"""The outlet of a session under stream management: it numbers what is sent and keeps it until the client confirms it.

With a connection it writes through to it, without one it waits for the client to come back. A message goes to the client
only when it is on disk together with what its sender will be told: after a `kill -9` nobody has seen anything that the
server does not know of, so a sender who repeats what was not acknowledged doubles nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

import structlog

from beamish.core.content import chat_state_only, survey
from beamish.core.events import Context
from beamish.core.sessions import Link, Session
from beamish.storage.api import StorageError
from beamish.stream.resume import SM, WRAP, Unconfirmed, after
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.stanza import MESSAGE, PRESENCE, PersonalStanza, Stanza

if TYPE_CHECKING:
    from beamish.core.clock import Timer
    from beamish.modules.sm.module import StreamManagementModule

log = structlog.get_logger(__name__)

REQUEST: Final = f"<r xmlns='{SM}'/>".encode()
_CHAT_STATES: Final = b"http://jabber.org/protocol/chatstates"
_ARCHIVE: Final = b"urn:xmpp:mam:"
_CONTENT: Final = (b"<encrypted", b"<displayed", b"<acknowledged", b"urn:xmpp:receipts", b"<reactions", b"<retract")
"""What may come together with a chat state in a copy."""


class Sent:
    """A stanza on its way: its bytes, what is needed to send it elsewhere, when it was sent, and its row in the store.

    `stanza` is None for presence, which is not sent anywhere else. `count` is only set for what comes from the store.
    """

    __slots__ = ("__weakref__", "count", "data", "elsewhere", "position", "row", "stanza", "when")

    def __init__(self, data: bytes, stanza: Stanza | None, when: float, row: int = 0, count: int | None = None) -> None:
        self.data = data
        self.stanza = stanza
        self.when = when
        self.row = row
        self.position = 0
        """In the database queue; it goes to the client when that is durable."""
        self.count = count
        self.elsewhere = False
        """Another session of the account has it, too, and takes care of it."""


class Managed:
    """One session under stream management, and its outlet.

    `count` stanzas of the client were handled, `acknowledged` of them may be acknowledged because that is committed.
    `exact` is False after a crash until the client has told what it has seen. `seconds` is how long the session waits for
    its client, 0 if it does not.
    """

    __slots__ = (
        "_answer_due",
        "_asked",
        "_asked_at",
        "_held",
        "_idle",
        "_last_kept",
        "_passed",
        "_sm",
        "_unasked",
        "_waiting",
        "acknowledged",
        "claimed",
        "count",
        "exact",
        "expires",
        "id",
        "key",
        "left",
        "link",
        "over",
        "queue",
        "remember",
        "reported",
        "restored",
        "seconds",
        "session",
        "timer",
    )

    def __init__(
        self,
        sm: StreamManagementModule,
        session: Session,
        link: Link | None,
        *,
        key: int,
        id: str,
        seconds: float,
        count: int = 0,
        sent: int = 0,
    ) -> None:
        self._sm = sm
        self.session = session
        self.link = link
        self.key = key
        self.id = id
        self.seconds = seconds
        self.count = self.acknowledged = count
        self.queue: Unconfirmed[Sent] = Unconfirmed(sent)
        self.exact = True
        self.expires: float | None = None
        """When the session ends unless its client comes back; None while it has a connection."""
        self.timer: Timer | None = None
        self.over = False
        """The session has ended, or was written down for the next start of the server."""
        self.left: frozenset[int] = frozenset()
        """What the client had not confirmed when the session ended: `id()` of each `Sent`, for whoever holds on to some. This
        does not: the journal lets nobody acknowledge anything as long as a message that has no row is held by anybody."""
        self.remember = False
        """Whether its client may still come back and ask how much was handled."""
        self.restored = False
        """Whether the server was restarted since the client was here."""
        self.reported: int | None = None
        """The count up to which it was told that the client may not see what it was sent; None while it is believed to."""
        self.claimed: Link | None = None
        """The connection on which it is just being resumed."""
        self._answer_due: int | None = None
        self._asked = False
        self._asked_at = 0.0
        self._unasked = 0
        self._held: deque[tuple[int, bytes]] = deque()
        self._waiting = False
        self._idle: asyncio.Future[None] | None = None
        self._passed: list[tuple[int, asyncio.Future[bool]]] = []
        self._last_kept = self._kept()

    @property
    def resumable(self) -> bool:
        """Whether the session may go on after its connection is lost."""
        return self.seconds > 0.0

    @property
    def complete(self) -> bool:
        """Whether every unconfirmed message that is worth a row has one: too many may have waited for the disk."""
        return all(
            sent.row or sent.stanza is None or sent.stanza.name != MESSAGE or not outlasts(sent.stanza)
            for sent in self.queue
        )

    # ---- to the client ----------------------------------------------------------------------------------------------

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        """See `Outlet.deliver`."""
        if self.over:
            return False
        sm = self._sm
        name = stanza.name
        sent = Sent(data, None if name == PRESENCE else kept(stanza), sm.now())
        queue = self.queue
        count = queue.add(sent, len(data))
        position = 0
        if stanza.type == "set" or (name == MESSAGE and outlasts(stanza)):  # pushes, too: nobody asks for them again
            position = sm.journal.message(self, sent, count if self.exact else None)
            if position:
                self.session.stored = position
                if sm.commit_first:
                    sent.position = position
        if self.link is not None:
            self._write(data, sent.position)
            self._ask_soon()
        elif name == MESSAGE:
            sm.reports.missed(self)
        if len(queue) > sm.queue_stanzas or queue.bytes > sm.queue_bytes:
            sm.overflow(self)
        return True

    def _write(self, data: bytes, position: int) -> None:
        """Write to the connection in order, but not before a position in the database queue is durable."""
        held = self._held
        if not position and not held:
            if self.link is not None:
                self.link.write(data)
            return
        if held and position < held[-1][0]:  # it waits for the disk no more, but for its turn
            position = held[-1][0]
        held.append((position, data))
        if not self._waiting:
            self._wait()

    def _wait(self) -> None:
        self._waiting = True
        try:
            self._sm.release_when(self._held[-1][0], self)
        except StorageError:  # too many wait; then the promise has to do without this one
            self._waiting = False
            self._release_all()

    def release(self) -> None:
        """Send what is on disk by now."""
        self._waiting = False
        held, link = self._held, self.link
        if link is None:
            held.clear()
            return
        durable = self._sm.db.durable
        out = []
        while held and held[0][0] <= durable:
            out.append(held.popleft()[1])
        if out:
            link.write(out[0] if len(out) == 1 else b"".join(out))
        if held:
            self._wait()

    def _release_all(self) -> None:
        out = b"".join(data for _, data in self._held)
        self._held.clear()
        if self.link is not None:
            self.link.write(out)

    # ---- asking the client ------------------------------------------------------------------------------------------

    def _ask_soon(self) -> None:
        if self._asked:
            return
        self._unasked += 1
        if self._unasked >= self._sm.request_after:
            self.ask()
        else:
            self._sm.wants_answer(self)

    def ask(self) -> None:
        """Request an acknowledgement, unless one is under way or nothing is to be acknowledged."""
        if self._asked or self.link is None or not self.queue:
            return
        self._asked = True
        self._asked_at = self._sm.clock.monotonic()
        self._unasked = 0
        self._write(REQUEST, 0)
        self._sm.wants_answer(self)

    def wait_anew(self, now: float) -> None:
        """The client may have answered what we did not read yet: from now on it has its time to do so."""
        self._asked_at = now

    def silent(self, now: float) -> bool:
        """Whether the client owes an answer for too long."""
        return self._asked and now - self._asked_at >= self._sm.answer_seconds

    def late(self, now: float) -> bool:
        """Whether the client owes an answer for so long that it may be asleep, and that was not reported of all it was sent."""
        return self._asked and now - self._asked_at >= self._sm.late_seconds and self.reported != self.queue.sent

    @property
    def expectant(self) -> bool:
        """Whether it must be looked at again: something is to be asked for, or an answer is awaited."""
        return self.link is not None and not self.over and (self._asked or len(self.queue) > 0)

    def confirm(self, h: int) -> None:
        """The client has handled everything up to count `h`. Raises `StreamError` if so much was never sent."""
        done = self.queue.confirm(h)
        self._asked = False
        if done:
            self._sm.journal.confirmed([sent.row for sent in done if sent.row])
        if self.queue:
            self._sm.wants_answer(self)
        if self._passed:
            self._tell_passed()
        if self.reported is not None and self.link is not None:
            self._sm.reports.reached(self)

    def passed(self) -> Awaitable[bool]:
        """Wait until everything sent so far is confirmed; False: the session ended without."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self.over or not self.queue:
            future.set_result(not self.over)
        else:
            self._passed.append((self.queue.sent, future))
            self.ask()
        return future

    def _tell_passed(self) -> None:
        confirmed = self.queue.confirmed
        for entry in tuple(self._passed):
            count, future = entry
            if not after(count, confirmed):
                self._passed.remove(entry)
                if not future.done():
                    future.set_result(True)

    # ---- from the client --------------------------------------------------------------------------------------------

    def handled(self, ctx: Context | None) -> None:
        """A stanza of the client was dealt with; see `Session.handled`."""
        self.count = (self.count + 1) % WRAP
        self._wake()
        if self.over or ctx is None:
            return
        journal = self._sm.journal
        stanza = ctx.stanza
        if stanza.name == MESSAGE or stanza.type == "set" or ctx.settled > self._sm.db.durable:
            journal.handled(self)  # in the same commit as what it caused
        if self.resumable and stanza.name != MESSAGE and (kept := self._kept()) != self._last_kept:
            self._last_kept = kept
            journal.changed(self)

    def requested(self) -> None:
        """The client asks how much was handled. It is told when that is committed."""
        if self.count == self.acknowledged:
            self._answer()
        else:
            self._answer_due = self.count
            self._sm.journal.handled(self)

    def committed(self, count: int) -> None:
        """It is on disk that `count` stanzas were handled."""
        self.acknowledged = count
        self._wake()
        if self._answer_due is not None and not after(self._answer_due, count):
            self._answer_due = None
            self._answer()

    def _answer(self) -> None:
        if self.link is not None:
            self.link.write(f"<a xmlns='{SM}' h='{self.acknowledged}'/>".encode())

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def settled(self) -> None:
        """Wait until the stanza under way, if there is one, has been dealt with, and the count is committed."""
        while (self.session.busy or self.count != self.acknowledged) and not self.over:
            if not self.session.busy:
                self._sm.journal.handled(self)
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    # ---- connections come and go ------------------------------------------------------------------------------------

    def survives(self, link: Link, reason: str) -> bool:
        """See `Outlet.survives`."""
        if self.over or not self.resumable:
            return False
        if link is self.link:
            self._leave()
            self._sm.hibernate(self, reason)
        return True

    def _leave(self) -> None:
        self.link = None
        self._held.clear()
        self._asked = False
        self._answer_due = None
        self._unasked = 0

    def take_over(self, link: Link) -> None:
        """The client is back on another connection; one that still hangs is closed (XEP-0198 §5)."""
        self.session.uncover()  # XEP-0352 §5.2: a resumed stream is active
        old = self.link
        if old is not None:
            old.release()
            old.close(StreamError(StreamErrorCondition.CONFLICT, "the stream was resumed elsewhere"), "resumed")
            self._leave()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.expires = None

    def go_on(self, link: Link) -> bool:
        """Tell the client that its session goes on, and send again what it has not seen. False: it is gone already."""
        if not link.write(f"<resumed xmlns='{SM}' previd='{self.id}' h='{self.acknowledged}'/>".encode()):
            return False
        self.link = link
        session = self.session
        session.peer = link.peer
        session.secure = link.secure
        durable = self._sm.db.durable
        for sent in self.queue:
            self._write(sent.data, sent.position if sent.position > durable else 0)
        self.ask()
        return True

    def recount(self, h: int) -> None:
        """The client has seen `h` stanzas, which the server does not know since its crash: go on from there."""
        left = []
        for sent in self.queue.take_all():
            if sent.count is None or after(sent.count, h):
                left.append(sent)
            elif sent.row:
                self._sm.journal.confirmed((sent.row,))
        for sent in left:
            self.queue.add(sent, len(sent.data))
        self.queue.restart(h)
        self.exact = True

    def last_words(self, data: bytes) -> None:
        """See `Outlet.last_words`."""
        if self.link is not None:
            self.link.write(data)

    def close(self, error: StreamError | None, reason: str) -> None:
        """See `Outlet.close`. A stop of the server does not end what can be resumed."""
        if self.link is not None:
            self.link.close(error, reason)
        elif reason != "shutdown" or not self.resumable:
            self._sm.kernel.end_session(self.session, reason)

    def end(self) -> list[Sent]:
        """Nothing is sent any more; what the client has not confirmed."""
        self.over = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._held.clear()
        self._wake()
        for _, future in self._passed:
            if not future.done():
                future.set_result(False)
        self._passed.clear()
        left = self.queue.take_all()
        self.left = frozenset(map(id, left))
        return left

    def not_stored(self, exc: Exception) -> None:
        """The database refused a row of this session; it goes on without."""
        log.error("session_not_stored", jid=str(self.session.jid), error=repr(exc))

    # ---- what is written down ---------------------------------------------------------------------------------------

    def _kept(self) -> tuple[object, ...]:
        """What a request or a presence of the client may have changed of that."""
        session = self.session
        return session.presence, session.interested, len(session.directed or ()), simple_notes(session)

    def state(self) -> dict[str, Any]:
        """What the session is beside its counters, as JSON values."""
        session = self.session
        state: dict[str, Any] = {}
        if session.presence is not None and session.priority is not None:
            state["presence"] = session.presence.to_wire().decode()
            state["priority"] = session.priority
        if session.interested:
            state["interested"] = True
        if session.directed:
            state["directed"] = sorted(session.directed)
        if simple := simple_notes(session):
            state["own"] = simple
        if notes := self._sm.notes_of(session):
            state["notes"] = notes
        return state

    def row(self) -> tuple[float, float | None, str]:
        """How long it waits, until when, and its state."""
        return self.seconds, self.expires, json.dumps(self.state())


def kept(stanza: Stanza) -> Stanza:
    """The stanza as it is kept; one of a class of its own stays what it is."""
    return stanza.detached() if stanza.__class__ is Stanza else stanza


def simple_notes(session: Session) -> dict[str, object]:
    """Those of a session's notes that are plain values; they are kept without further ado."""
    return {key: value for key, value in session.notes.items() if isinstance(value, (bool, int, float, str))}


def outlasts(stanza: Stanza) -> bool:
    """Whether a message is worth a row: not events of the moment, and not a chat state alone."""
    if stanza.type == "headline":
        return False
    body = stanza.body
    personal = stanza.__class__ is not Stanza and isinstance(stanza, PersonalStanza)
    if personal and _ARCHIVE in body:
        return False  # a page of the archive, which is asked for again
    if _CHAT_STATES not in body or b"<body" in body:
        return True
    if personal:
        return any(content in body for content in _CONTENT)
    return not chat_state_only(survey(stanza))
