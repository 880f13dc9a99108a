"""Brings archived messages to their places in the background, and keeps archives within their bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final

import structlog

from beamish.core.clock import Clock, Timer
from beamish.core.tasks import TaskGroup
from beamish.modules.mam import ids, merging, removal, store
from beamish.storage.api import Cursor, Database, StorageError

log = structlog.get_logger(__name__)

MERGE_DELAY: Final = 10.0
"""Seconds until a message is brought to its place if few come and nobody asks for it."""
MERGE_PAUSE: Final = 0.02
"""Seconds between two steps of merging that nobody waits for, as long as it keeps up with what comes: others' commits are not
all made to wait for a step."""
EXPIRY_EVERY: Final = 3_600.0
BEHIND_EVERY: Final = 60.0
"""Seconds between looks at which archives the full-text index has fallen too far behind."""
TEXT_PAUSE: Final = 0.125
"""Seconds between two steps that bring it up in the background, so that nobody feels them."""


class Keeper:
    """Merging, quotas and expiry. `appended` is told of new messages; bounds of 0 are none."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        tasks: TaskGroup,
        hand_over: Callable[[], None],
        max_messages: int,
        max_bytes: int,
        keep_seconds: float,
    ) -> None:
        """`hand_over` makes sure that `appended` was told of everything there is."""
        top = (1 << 63) - 1
        self._db = db
        self._clock = clock
        self._tasks = tasks
        self._hand_over = hand_over
        self._max_messages = max_messages or top
        self._max_bytes = max_bytes or top
        self._keep_seconds = keep_seconds
        self._waiting = 0
        self._fresh: set[str] = set()
        """Owners of messages that came since the last round of merging began."""
        self._rounds: list[set[str]] = []
        """Owners of those that rounds under way merge."""
        self._started = False
        """Whether a round has come to its end since the start: what earlier runs left is merged."""
        self._over: set[int] = set()
        self._timer: Timer | None = None
        self._expiry: Timer | None = None
        self._running: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._next_look = 0.0

    def start(self) -> None:
        """Merge what an earlier run left, and begin to look for what is too old."""
        self._begin()
        if self._keep_seconds:
            self._expire_soon(0.0)

    def stop(self) -> None:
        """Cancel the timers; what is not merged yet is taken up at the next start."""
        for timer in (self._timer, self._expiry):
            if timer is not None:
                timer.cancel()

    def appended(self, owners: Iterable[str], count: int) -> None:
        """So many messages of these owners were queued."""
        self._fresh.update(owners)
        self._waiting += count
        if self._waiting >= merging.MERGE_ROWS:
            self._begin()
        elif self._timer is None:
            self._timer = self._clock.call_later(MERGE_DELAY, self._begin)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is None:
            self._running = self._tasks.spawn(self._merge(), "merge")
            self._running.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running = None
        # an account may have exceeded its quota when the task had just looked for such
        if (self._waiting or self._over) and self._timer is None and not task.cancelled():
            self._timer = self._clock.call_later(MERGE_DELAY, self._begin)

    async def _merge(self) -> None:
        try:
            await self._all_merged(gently=True)
            while self._over:
                account = self._over.pop()
                bounds = partial(
                    removal.trim, account=account, max_messages=self._max_messages, max_bytes=self._max_bytes
                )
                await self._repeat("mam.trim", bounds)
        except StorageError as exc:
            log.warning("archive_merge_late", error=repr(exc))
            self._waiting = max(self._waiting, 1)  # tried again after the usual time
            return
        now = self._clock.monotonic()
        if self._reading is None and now >= self._next_look:
            self._next_look = now + BEHIND_EVERY
            self._reading = self._tasks.spawn(self._read_ahead(), "read_ahead")
            self._reading.add_done_callback(self._read)

    def _read(self, _task: asyncio.Task[None]) -> None:
        self._reading = None

    async def merged(self, owner: str) -> None:
        """Return once an account's messages queued before this call are where queries find them. Raises `StorageError`."""
        self._hand_over()
        if not self._started:  # there may be rows of a former version, of all accounts together very many
            failed = await asyncio.shield(self._tasks.spawn(self._before_others(owner), "merge_first"))
            if failed is not None:
                raise failed
        elif owner in self._fresh or any(owner in owners for owners in self._rounds):
            await self.all_merged()

    async def _before_others(self, owner: str) -> StorageError | None:
        more = True
        try:
            while more:
                more, over = await self._db.write("mam.merge", partial(self.merge, owner=owner))
                self._over.update(over)
        except StorageError as exc:
            return exc
        if self._over:
            self._begin()
        return None

    async def all_merged(self) -> None:
        """Return once every message queued before this call is where queries find it. Raises `StorageError`."""
        await self._all_merged(gently=False)

    async def _all_merged(self, *, gently: bool) -> None:
        # by a task: what it learns about quotas must not be lost when the client that asked goes away
        failed = await asyncio.shield(self._tasks.spawn(self._round(gently), "merge_round"))
        if failed is not None:
            raise failed

    async def _round(self, gently: bool) -> StorageError | None:
        self._hand_over()
        owners, self._fresh = self._fresh, set()
        self._waiting = 0
        self._rounds.append(owners)
        more = True
        try:
            while more:
                more, over = await self._db.write("mam.merge", self.merge)
                self._over.update(over)
                if more and gently and self._waiting < merging.MERGE_ROWS:
                    await self._pause(MERGE_PAUSE)
        except StorageError as exc:
            return exc
        finally:
            self._rounds.remove(owners)
            if more:
                self._fresh |= owners
        self._started = True
        if self._over:
            self._begin()
        return None

    def merge(self, c: Cursor, owner: str = "") -> tuple[bool, list[int]]:
        """Bring the next messages to their places, in a transaction (`merging.merge`); `exceeded` must hear the outcome."""
        return merging.merge(c, self._max_messages, self._max_bytes, owner)

    def exceeded(self, accounts: Collection[int]) -> None:
        """These accounts have more than they may: what is too much goes, in the background."""
        self._over.update(accounts)
        if self._over:
            self._begin()

    async def _read_ahead(self) -> None:
        """Keep the full-text index of large archives so far up that a first search has not much to do."""
        try:
            for owner in await self._db.read("mam.behind", store.behind):
                while await self._db.read("mam.lags", partial(store.lags, owner=owner)):
                    if not await self._db.write("mam.index_text", partial(store.index_text, owner=owner)):
                        break
                    await self._pause(TEXT_PAUSE)
        except StorageError as exc:
            log.warning("full_text_index_late", error=repr(exc))

    async def _pause(self, seconds: float) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, lambda: None if over.done() else over.set_result(None))
        try:
            await over
        finally:
            timer.cancel()

    async def searchable(self, owner: str) -> None:
        """Return once an account's messages queued before this call can be searched for words. Raises `StorageError`."""
        await self.merged(owner)
        await self._repeat("mam.index_text", partial(store.index_text, owner=owner))

    async def by_resource(self, owner: str, peer: str) -> None:
        """Return once what was said with a contact can be found by the contact's resource. Raises `StorageError`."""
        await self.merged(owner)
        await self._repeat("mam.index_resources", partial(store.index_resources, owner=owner, peer=peer))

    # ---- age ------------------------------------------------------------------------------------------------------------

    def _expire_soon(self, seconds: float) -> None:
        def begin() -> None:
            self._tasks.spawn(self._expire(), "expire")

        self._expiry = self._clock.call_later(seconds, begin)

    async def _expire(self) -> None:
        before = ids.first_at(max(0.0, self._clock.now() - self._keep_seconds))
        try:
            await self._repeat("mam.expire", partial(removal.expire, before=before))
        except StorageError as exc:
            log.warning("archive_expiry_failed", error=repr(exc))
        self._expire_soon(EXPIRY_EVERY)

    async def forget(self, owner: str) -> None:
        """Delete an account's archive. Raises `StorageError`."""
        await self.merged(owner)
        await self._repeat("mam.remove_account", partial(removal.forget_account, owner=owner))

    async def _repeat(self, name: str, step: Callable[[Cursor], bool]) -> None:
        """Run a step as long as it says that there is more; others' writes get their turn in between."""
        while await self._db.write(name, step):
            pass
