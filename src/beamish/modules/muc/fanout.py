"""Carrying out what rooms decided: the one place where effects become bytes on their way.

A stanza for many is frozen once; each copy is a splice. What is for more recipients than one slice, or comes when this
turn of the loop has had its slice already, goes out slice by slice, with the loop in between, and whatever the same room
says later waits its turn behind it, so that every occupant sees one order. The sender is parked as long as that takes: a
flooded room slows down those who flood it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import structlog

from beamish.core import events
from beamish.core.events import Context
from beamish.core.hooks import STOP
from beamish.core.later import is_later
from beamish.core.sessions import Session
from beamish.core.tasks import TaskGroup
from beamish.modules.muc.occupants import Done, Effect, Seat, Send, Tell
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

SLICE: Final = 500
"""Deliveries before the loop gets its turn; about a millisecond."""

_Step: TypeAlias = "Tell | Send | Callable[[], None]"
_Queue: TypeAlias = "deque[tuple[_Step, Context | None]]"


class FanOut:
    """Sends what rooms say, keeping the order within each room."""

    def __init__(self, kernel: Kernel, tasks: TaskGroup) -> None:
        self._kernel = kernel
        self._tasks = tasks
        self._slice = SLICE
        self._by_full = kernel.sessions.by_full
        self._incoming = kernel.hooks[events.incoming]
        self._delivering = kernel.hooks[events.delivering]
        self._queues: dict[JID, _Queue] = {}
        self._spent = 0
        """Deliveries that were made at once in this turn of the loop, whichever rooms they were for."""

    def run(
        self,
        room: JID,
        effects: Sequence[Effect],
        *,
        done: Callable[[], None] | None = None,
        cause: Context | None = None,
    ) -> Awaitable[None] | None:
        """Carry out effects in order; `done` is called where `Done` stands, `cause` is as in `tell`.

        Returns None if everything is out, else an awaitable that is ready when it is.
        """
        queue = self._queues.get(room)
        steps: list[_Step] = []
        for effect in effects:
            if isinstance(effect, Tell):
                if effect.seats:
                    steps.append(effect)
            elif isinstance(effect, Send):
                steps.append(effect)
            elif isinstance(effect, Done) and done is not None:
                steps.append(done)
        if queue is None:
            if not self._spent and steps:
                asyncio.get_running_loop().call_soon(self._renew)
            for at, step in enumerate(steps):
                cost = len(step.seats) if isinstance(step, Tell) else 1
                if cost > self._slice - self._spent:
                    queue = self._queues[room] = deque()
                    steps = steps[at:]
                    self._tasks.spawn(self._drain(room, queue), "fan_out")
                    break
                self._spent += cost
                self._step(step, cause)
            else:
                return None
        finished = asyncio.get_running_loop().create_future()
        queue.extend((step, cause) for step in steps)
        queue.append((lambda: _ready(finished), None))
        return finished

    def _renew(self) -> None:
        self._spent = 0

    def _step(self, step: _Step, cause: Context | None) -> None:
        if isinstance(step, Tell):
            self.tell(step.stanza, step.seats, cause)
        elif isinstance(step, Send):
            self._kernel.router.post(step.stanza)
        else:
            step()

    async def _drain(self, room: JID, queue: _Queue) -> None:
        left = self._slice
        try:
            while queue:
                step, cause = queue.popleft()
                try:
                    left = await self._slowly(step, cause, left)
                except Exception:  # what waits behind it, and whoever waits for that, is not to be lost with it
                    log.exception("fan_out_step_failed", room=str(room))
                    left = 0
        finally:
            if self._queues.get(room) is queue:
                del self._queues[room]

    async def _slowly(self, step: _Step, cause: Context | None, left: int) -> int:
        """Do a step, letting others have the loop after so many stanzas; how many of this slice are left then."""
        if not isinstance(step, Tell):
            self._step(step, cause)
            return left - 1
        at = 0
        while at < len(step.seats):
            if left <= 0:
                await asyncio.sleep(0)
                left = self._slice
            part = step.seats[at : at + left]
            at += len(part)
            left -= len(part)
            self.tell(step.stanza, part, cause)
        return left

    def tell(self, stanza: Stanza, seats: Sequence[Seat], cause: Context | None = None) -> None:
        """Send one stanza to seats: at once to local sessions, through the router to others.

        `cause` is the message behind it, which may be acknowledged only when what was stored of it is durable. A local
        session that is gone is passed over; its farewell is on its way, or the next sweep finds it.
        """
        addressed = stanza.freeze().addressed
        by_full = self._by_full
        hooked = stanza.name in self._delivering.everyone
        stored = 0
        for seat in seats:
            jid = seat.jid
            session = by_full.get(jid)
            if session is not None:
                if hooked or session.guarded:
                    self._let_in(Context(stanza.replace(to=jid)), session)
                else:
                    session.outlet.deliver(addressed(jid.wire), stanza)
                if session.stored > stored:
                    stored = session.stored
            elif not self._kernel.is_local_domain(jid.domain):
                self._kernel.router.post(stanza.replace(to=jid))
        if cause is not None:
            cause.caused(stored)

    def _let_in(self, ctx: Context, session: Session) -> None:
        """Through the hooks of the receiving account. What they refuse is nobody's error: the room has many occupants."""
        if session.guarded and self._incoming.rows:
            try:
                outcome = self._incoming.run(ctx)
            except StanzaError:
                return
            if outcome is STOP:
                return
            if is_later(outcome):
                self._tasks.spawn(self._when_let_in(ctx, session, cast("Awaitable[object]", outcome)), "let_in")
                return
        self._hand_over(ctx, session)

    async def _when_let_in(self, ctx: Context, session: Session, outcome: Awaitable[object]) -> None:
        try:
            stopped = await outcome is STOP
        except StanzaError:
            return
        if not stopped:
            self._hand_over(ctx, session)

    def _hand_over(self, ctx: Context, session: Session) -> None:
        try:
            self._kernel.router.hand_over(ctx, (session,))
        except StanzaError as error:
            log.debug("room_stanza_refused", session=str(session.jid), condition=error.condition.value)

    def send(self, to: JID, stanza: Stanza) -> None:
        """One stanza to a real address: at once if it is a local session, else through the router.

        For IQs between occupants: the router would ask whether the sender may know of the session, and it may. What the
        receiving account refuses of them (it blocks the occupant) is answered.
        """
        stanza = stanza.replace(to=to)
        session = self._by_full.get(to)
        if session is None:
            self._kernel.router.post(stanza)
        elif session.guarded and stanza.name == IQ and stanza.type in ("get", "set"):
            self._tasks.spawn(self._request(Context(stanza), session), "request")
        else:
            self._hand_over(Context(stanza), session)

    async def _request(self, ctx: Context, session: Session) -> None:
        try:
            outcome: object = self._incoming.run(ctx)
            if is_later(outcome):
                outcome = await cast("Awaitable[object]", outcome)
        except StanzaError as error:
            reply = ctx.stanza.error(error)
            assert reply is not None
            self._kernel.router.post(reply)
        else:
            if outcome is not STOP:
                self._hand_over(ctx, session)


def _ready(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
