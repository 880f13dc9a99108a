"""The way from one of our domains to one remote domain: one stream, one bounded queue, order kept.

A stanza that cannot be delivered comes back to its sender with the true cause, always: when no connection can be made
within the patience of the configuration, when the queue is full, when the connection broke off and it cannot be found
out whether the peer has it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import structlog

from beamish.stream.s2s_acks import Acks
from beamish.stream.s2s_out import Cause, Unreachable
from beamish.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from beamish.net.s2s import Federation
    from beamish.net.s2s_link import Link

log = structlog.get_logger(__name__)

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0
_FIRST_BACKOFF: Final = 5.0
BROKEN: Final = frozenset((Cause.LOST, Cause.TIMEOUT, Cause.NETWORK))
"""Ends of a stream after which it may be resumed."""


class Route:
    """Stanzas of one domain pair on their way out.

    `link` is the stream in use: one that we opened, or one that the peer opened and that is bidirectional. `held` are
    the counters of a stream that broke off; the next one resumes it. `holder` is a stream of the peer's that broke
    off with stanzas on it: only the peer can resume that.
    """

    __slots__ = (
        "_bytes",
        "_federation",
        "_hold_timer",
        "_queue",
        "_task",
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
        self.holder: Link | None = None
        self.failures = 0
        self.not_before = 0.0
        self.last: Unreachable | None = None
        self._queue: deque[tuple[Stanza, int]] = deque()
        self._bytes = 0
        self._task: asyncio.Task[Any] | None = None
        self._hold_timer: Any = None

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

    def send(self, stanza: Stanza) -> None:
        """Send a stanza, now or when there is a stream. Raises `StanzaError` if it cannot be taken."""
        link = self.link
        if link is not None and link.usable and not self._queue and link.room:
            link.send_stanza(stanza)
            return
        if link is None and self._task is None and self.last is not None and self._federation.now() < self.not_before:
            raise self.last.stanza_error()
        size = len(stanza.head) + len(stanza.body)
        limits = self._federation.limits
        if len(self._queue) >= limits.queue_stanzas or self._bytes + size > limits.queue_bytes:
            raise Unreachable(Cause.OVERLOAD, f"too many stanzas wait for {self.remote}").stanza_error()
        self._queue.append((stanza.detached(), size))
        self._bytes += size
        self.wake()

    def drain(self) -> None:
        """Send what waits, as far as the stream takes it."""
        link = self.link
        while self._queue and link is not None and link.usable and link.room:
            stanza, size = self._queue.popleft()
            self._bytes -= size
            link.send_stanza(stanza)

    # ---- getting a stream -------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Begin to connect, unless there is a stream, or one on its way."""
        if self.link is None and self._task is None and self.holder is None and not self._federation.draining:
            self._task = self._federation.tasks.spawn(self._connect(), "connect")

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        patience = loop.time() + self._federation.limits.retry_seconds
        pause = _FIRST_PAUSE
        try:
            while self.link is None:
                try:
                    await self._federation.open(self.local, self.remote, route=self)
                    if self.link is not None or (not self._queue and self.held is None):
                        return
                    raise Unreachable(Cause.LOST, "the connection broke off as soon as it was made")
                except Unreachable as why:
                    if why.lasting or loop.time() + pause > patience:
                        self._task = None
                        self.give_up(why)
                        return
                    log.info("s2s_retry", local=self.local, remote=self.remote, reason=str(why), pause=pause)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    def attach(self, link: Link, *, ours: bool = False) -> None:
        """A stream is ready, `ours` if we opened it for this route: send what waits."""
        self.link = link
        link.routes.add(self)
        self._release()
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
        # After a stream error it would only happen again: one of the stanzas may be what the peer does not bear.
        if acks is not None and acks.id and link.why is not None and link.why.cause in BROKEN:
            if ours:
                self.held = acks
                kept = again = True
            elif acks.pending:
                self.holder = link
                seconds = self._federation.limits.resume_seconds
                self._hold_timer = self._federation.kernel.clock.call_later(seconds, self._not_resumed)
                return True
        if self._queue or again:
            self.wake()
        return kept

    def _release(self) -> None:
        self.holder = None
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None

    def _not_resumed(self) -> None:
        """The peer did not come back for its stream."""
        holder = self.holder
        self._release()
        if holder is not None and holder.acks is not None:
            self._federation.bounce_pending(holder.acks, holder.why)
        if self._queue or self._federation.presences.of(self.remote):
            self.wake()

    def give_up(self, why: Unreachable) -> None:
        """Nothing can be delivered for now: everything that waits goes back, and for a while so does what comes."""
        federation = self._federation
        self.last = why
        self.not_before = federation.now() + min(_FIRST_BACKOFF * 2**self.failures, federation.limits.backoff_seconds)
        self.failures = min(self.failures + 1, 16)
        queue, self._queue, self._bytes = self._queue, deque(), 0
        held, self.held = self.held, None
        log.warning(
            "s2s_unreachable",
            local=self.local,
            remote=self.remote,
            cause=why.cause.value,
            reason=why.text,
            stanzas=len(queue) + (len(held.pending) if held is not None else 0),
        )
        if held is not None:
            federation.bounce_pending(held, why)
        for stanza, _ in queue:
            federation.bounce(stanza, why)
        federation.unreachable(self.remote, why)

    def stop(self, why: Unreachable) -> None:
        """The server stops: what waits goes back."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        holder = self.holder
        self._release()
        if holder is not None and holder.acks is not None:
            self._federation.bounce_pending(holder.acks, why)
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
