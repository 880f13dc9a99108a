"""The way from one of our domains to one remote domain: one stream, one bounded queue, order kept.

A stanza that cannot be delivered comes back to its sender with the true cause, always: when no connection can be made
within the patience of the configuration, when the queue is full, when the connection broke off and it cannot be found
out whether the peer has it. What is worth it is on disk (`core.services.Outbox`) before its sender is told that it was
taken, and until the peer has confirmed it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container
from typing import TYPE_CHECKING, Any, Final

import structlog

from beamish.net.s2s_opening import open_stream
from beamish.net.s2s_turns import NOBODY, Turn, family
from beamish.stream.s2s_acks import Acks
from beamish.stream.s2s_out import Cause, Unreachable
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza

if TYPE_CHECKING:
    from beamish.net.s2s import Federation
    from beamish.net.s2s_link import Link
    from beamish.net.s2s_stored import Dormant

log = structlog.get_logger(__name__)

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0
_FIRST_BACKOFF: Final = 5.0
BROKEN: Final = frozenset((Cause.LOST, Cause.TIMEOUT, Cause.NETWORK))
"""Ends of a stream after which it may be resumed."""


class _NotTried(Unreachable):
    """It was nobody's turn to look for the server: that says nothing about the server."""

    def __init__(self) -> None:
        super().__init__(Cause.OVERLOAD, "too many servers are being looked for at a time", lasting=True)


class Route:
    """Stanzas of one domain pair on their way out.

    `link` is the stream in use: one that we opened, or one that the peer opened and that is bidirectional. `held` are
    the counters of a stream that is over with stanzas on it; the next one resumes it, or at least learns from the peer
    which of them it has got. `holder` is a stream of the peer's that broke off with stanzas on it: the peer has some
    time to resume that.
    """

    __slots__ = (
        "_bytes",
        "_federation",
        "_over",
        "_queue",
        "_share",
        "_task",
        "_turn",
        "failures",
        "held",
        "holder",
        "last",
        "link",
        "local",
        "nearly",
        "not_before",
        "remote",
    )

    def __init__(self, federation: Federation, local: str, remote: str) -> None:
        self._federation = federation
        self.local = local
        self.remote = remote
        self.link: Link | None = None
        self.nearly: Link | None = None
        """A stream of ours that is authenticated and about to be attached. The peer may use it already."""
        self.held: Acks | None = None
        self.holder: Link | Dormant | None = None
        self.failures = 0
        self.not_before = 0.0
        self.last: Unreachable | None = None
        self._queue: deque[tuple[Stanza, int, int]] = deque()
        """Stanzas, their sizes, their rows on disk (0: none)."""
        self._bytes = 0
        self._share = federation.load.of(remote)
        self._over: Link | None = None
        """The stream that `held` is of; it may still be busy with what it had got."""
        self._task: asyncio.Task[Any] | None = None
        self._turn: Turn | None = None
        """Where it waits until it may open a stream, or does so."""

    def _weigh(self, size: int) -> None:
        self._bytes += size
        self._share.add(size)

    @property
    def waiting(self) -> int:
        """Stanzas in the queue."""
        return len(self._queue)

    @property
    def forgettable(self) -> bool:
        """Whether nothing is lost when this object is dropped."""
        return (
            self.link is None
            and self._task is None
            and self.held is None
            and self.holder is None
            and not self._queue
            and self._federation.now() >= self.not_before
        )

    @property
    def unused(self) -> bool:
        """Whether no stream of ours is in use, soon to be, or to be resumed."""
        return self.link is None and self.held is None and (self.nearly is None or not self.nearly.usable)

    def send(self, stanza: Stanza) -> int:
        """Send a stanza, now or when there is a stream. Raises `StanzaError` if it cannot be taken.

        The result is as of `Link.carry`.
        """
        link = self.link
        crowded = self._share.full
        if link is not None and link.usable and not self._queue and not crowded and link.room:
            return link.carry(stanza)
        if link is None and self._task is None and self.last is not None and self._federation.now() < self.not_before:
            raise self.last.stanza_error()
        size = len(stanza.head) + len(stanza.body)
        limits = self._federation.limits
        who = self._federation.asks(stanza)
        if link is None and self._task is None and self._federation.asks_too_much(who):
            if stanza.name == PRESENCE:
                self._federation.untold(self.remote)
            raise Unreachable(Cause.OVERLOAD, "you are waiting for too many servers at a time").stanza_error()
        if crowded or len(self._queue) >= limits.queue_stanzas or self._bytes + size > limits.queue_bytes:
            if stanza.name == PRESENCE and link is None:
                self._federation.untold(self.remote)
            raise Unreachable(Cause.OVERLOAD, f"too many stanzas wait for {self.remote}").stanza_error()
        outbox = self._federation.outbox
        row = position = 0
        if outbox is not None and self._federation.keeps(stanza):
            row = outbox.keep(stanza.to_wire(), None, 0)
            position = outbox.position
        self._queue.append((stanza.detached(), size, row))
        self._weigh(size)
        self.wake(who)
        return position

    def again(self, stanzas: list[tuple[Stanza, int]], *, behind: bool = False) -> None:
        """Send stanzas that a stream has left behind, with their rows; before all that waits, or `behind`. No bound applies."""
        outbox = self._federation.outbox
        entries = []
        for stanza, row in stanzas:
            if row and outbox is not None:
                outbox.keep(stanza.to_wire(), None, 0, row)
            size = len(stanza.head) + len(stanza.body)
            entries.append((stanza.detached(), size, row))
            self._weigh(size)
        if behind:
            self._queue.extend(entries)
        else:
            self._queue.extendleft(reversed(entries))
        self.drain()
        self.wake()

    def withdraw(self, rows: Container[int]) -> list[tuple[Stanza, int]]:
        """The disk has refused these rows: the stanzas that wait here do not wait any longer, and are the result."""
        kept: deque[tuple[Stanza, int, int]] = deque()
        taken: list[tuple[Stanza, int]] = []
        for stanza, size, row in self._queue:
            if row and row in rows:
                taken.append((stanza, row))
                self._weigh(-size)
            else:
                kept.append((stanza, size, row))
        self._queue = kept
        return taken

    def drain(self) -> None:
        """Send what waits, as far as the stream takes it."""
        link = self.link
        while self._queue and link is not None and link.usable and link.room:
            stanza, size, row = self._queue.popleft()
            self._weigh(-size)
            try:
                link.carry(stanza, row)
            except StanzaError as error:
                self._federation.refuse(stanza, error, row)

    # ---- getting a stream -------------------------------------------------------------------------------------------

    def wake(self, who: JID | None = None) -> None:
        """Begin to connect when it is somebody's turn, unless there is a stream, or one on its way.

        `who` asks: nobody in particular, or whoever sent what waits.
        """
        if self._task is not None:
            if who is not None and self._turn is not None:
                self._federation.turns.join(self._turn, who)
        elif self.link is None and self.holder is None and not self._federation.draining:
            self._turn = turn = Turn()
            self._federation.turns.join(turn, who or self._asking())
            self._task = self._federation.tasks.spawn(self._connect(turn), "connect")
            # also when the task is cancelled before it has begun
            self._task.add_done_callback(lambda _task: self._federation.turns.done(self._turn or turn))

    def _asking(self) -> JID:
        return self._federation.asks(self._queue[0][0]) if self._queue else NOBODY

    async def _in_turn(self, turn: Turn, seconds: float) -> None:
        """Open a stream when it is its turn, within so many seconds. Raises `Unreachable`."""
        federation = self._federation
        try:
            async with asyncio.timeout(seconds):
                await turn.granted
        except TimeoutError:
            raise _NotTried from None
        try:
            await open_stream(federation, self.local, self.remote, route=self)
        finally:
            federation.turns.done(turn)

    async def _connect(self, turn: Turn) -> None:
        await self.quiet()
        loop = asyncio.get_running_loop()
        patience = loop.time() + self._federation.limits.retry_seconds
        pause = _FIRST_PAUSE
        try:
            while self.link is None:
                try:
                    await self._in_turn(turn, max(patience - loop.time(), _FIRST_PAUSE))
                    if self.link is not None or (not self._queue and self.held is None):
                        return
                    raise Unreachable(Cause.LOST, "the connection broke off as soon as it was made")
                except Unreachable as why:
                    if why.lasting or loop.time() + pause > patience:
                        self._task = None
                        self.give_up(why)
                        return
                    about = {"local": self.local, "remote": self.remote, "reason": str(why), "pause": pause}
                    self._federation.sparing.write(log.info, "s2s_retry", family(self.remote), **about)
                    await asyncio.sleep(pause)
                    self._turn = turn = Turn()
                    self._federation.turns.join(turn, self._asking())
                    pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    async def quiet(self) -> None:
        """Before a stream is resumed, everything that had come in on it is dealt with, and on disk."""
        over, self._over = self._over, None
        if over is not None:
            await over.quiet()
        if self.held is not None:
            await self._federation.counted(self.held, 0 if over is None else over.settled_at)

    def attach(self, link: Link, *, ours: bool = False) -> None:
        """A stream is ready, `ours` if we opened it for this route: send what waits."""
        self.link = link
        link.routes.add(self)
        self.holder = None
        self.failures = 0
        self.last = None
        self.not_before = 0.0
        if self._task is not None and not ours:
            self._task.cancel()  # the peer was faster
            self._task = None
        self.drain()

    def take_held(self) -> Acks | None:
        """The counters of the stream to be resumed; they belong to the caller now."""
        held, self.held = self.held, None
        return held

    # ---- losing it --------------------------------------------------------------------------------------------------

    def detach(self, link: Link, *, ours: bool, again: bool) -> bool:
        """The stream is gone. `ours`: we opened it; `again`: look at once whether the peer is still there.

        True if its counters were kept, because it may be resumed.
        """
        link.routes.discard(self)
        if self.link is not link:
            return False
        self.link = None
        acks = link.acks
        kept = False
        if acks is not None and acks.id and not self._federation.draining:
            broken = link.why is not None and link.why.cause in BROKEN
            if ours and (broken or (link.askable and acks.unconfirmed)):
                self.held, self._over = acks, link
                kept = again = True
            elif broken and acks.unconfirmed:
                self.holder = link
                return True
        if self._queue or again:
            self.wake()
        return kept

    def ask(self, acks: Acks, over: Link | None = None) -> None:
        """Find out from the peer what it has got of a stream that is over."""
        if self.held is not None:
            self._federation.give_up_stream(self.held, self.last)
        self.held, self._over = acks, over
        self.wake()

    def look_after(self) -> None:
        """The peer did not come back for its stream: see whether it is there."""
        self.holder = None
        if self._queue or self.held is not None or self._federation.presences.of(self.remote):
            self.wake()

    def give_up(self, why: Unreachable) -> None:
        """Nothing can be delivered for now: everything that waits goes back, and for a while so does what comes."""
        federation = self._federation
        tried = not isinstance(why, _NotTried)
        if tried:
            self.last = why
            self.not_before = federation.now() + min(
                _FIRST_BACKOFF * 2**self.failures, federation.limits.backoff_seconds
            )
            self.failures = min(self.failures + 1, 16)
        queue, self._queue = self._queue, deque()
        self._weigh(-self._bytes)
        held, self.held = self.held, None
        waiting = len(queue) + (held.unconfirmed if held is not None else 0)
        about: dict[str, object] = {"local": self.local, "remote": self.remote, "stanzas": waiting}
        if federation.draining:
            log.info("s2s_left", **about)  # what is on disk goes on after the next start
        else:
            about |= {"cause": why.cause.value, "reason": why.text}
            federation.sparing.write(log.warning, "s2s_unreachable", family(self.remote), **about)
        if held is not None:
            federation.give_up_stream(held, why)
        for stanza, _, row in queue:
            federation.bounce(stanza, why, row)
        if tried:
            federation.unreachable(self.remote, why)
        else:
            federation.untold(self.remote)

    def stop(self, why: Unreachable) -> None:
        """The server stops: what waits goes back."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        holder, self.holder = self.holder, None
        if holder is not None and holder.acks is not None:
            self._federation.bounce_rest(holder.acks, why)
        if self._queue or self.held is not None:
            self.give_up(why)

    def describe(self) -> dict[str, Any]:
        """What `s2s list` shows of a route without a stream."""
        return {
            "direction": "waiting",
            "local": self.local,
            "remote": self.remote,
            "queued": len(self._queue),
            "state": "connecting" if self._task is not None else "resting",
            "reason": None if self.last is None else str(self.last),
        }
