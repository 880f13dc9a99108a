"""Messages that must be stored, though the disk has refused them: their senders were told that they are safe, or archives have
them, so that an error would not be true.

They wait in memory, in order, and count as owed (`Database.owed`), so that nothing is acknowledged and no session's copy of
them is deleted before they are in the store; a crash just then finds both. Of those that sessions held unconfirmed when they
ended there are no more than that; of others, some thousands.

They are not rows of a `Gathering`: what an account has is counted when a message is queued, one may have become too many or its
account may be gone when its turn comes, and all of them stay owed while they are on their way.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from beamish.core.clock import Clock
from beamish.core.gather import RETRY_SECONDS
from beamish.storage.api import Database, StorageBusy, StorageClosed, StorageDamaged, StorageError, StorageUnavailable
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

log = structlog.get_logger(__name__)

MOST: Final = 10_000
MOST_BYTES: Final = 32 * 1024 * 1024
"""Messages, and their bytes, that may wait; beyond that only those wait that are nowhere else."""
AT_ONCE: Final = 256
"""Messages handed over before the disk has taken one of them: 6 ms of the loop's time. All of them would be a quarter of a
second in which nobody else is served."""


class Owed:
    """A message that is to be stored with its time. Its bytes are all that is kept of it."""

    __slots__ = ("archived", "number", "size", "stanza", "when", "why")

    def __init__(self, stanza: Stanza, when: float, *, archived: bool) -> None:
        # one of a class of its own stays what it is: the store goes by that
        self.stanza = stanza.detached() if stanza.__class__ is Stanza else stanza
        self.when = when
        self.archived = archived
        self.size = len(stanza.body)
        self.number = 0
        self.why: Exception | None = None
        """Why the disk did not take it the last time."""

    @property
    def hopeless(self) -> bool:
        """Whether it is not tried again: as long as it waited, nothing would be acknowledged to anybody.

        Because it can never be stored, or is better left to the archive.
        """
        if isinstance(self.why, StorageUnavailable):
            return self.archived and isinstance(self.why, StorageDamaged)
        return isinstance(self.why, StorageError) and not isinstance(self.why, (StorageBusy, StorageClosed))


class OwedMessages:
    """Those of all accounts. Belongs to the loop."""

    def __init__(self, db: Database, clock: Clock, store: Callable[[Owed, Callable[[Exception], None]], int]) -> None:
        """`store` queues a message; its position (0: nobody wants it any more). It may raise `StanzaError`."""
        self._db = db
        self._clock = clock
        self._store = store
        self._waiting: list[Owed] = []
        self._under_way = 0
        self._last = 0
        self._bytes = 0
        self._due = False
        self._told = False
        """The log says that some are left to the archive."""

    @property
    def waiting(self) -> bool:
        """Whether there are any: what comes now must go behind them."""
        return bool(self._waiting) or self._under_way > 0

    def add(self, owed: Owed, why: Exception | None = None) -> None:
        """The newest of all, and why the disk did not take it. Left to the archive if `hopeless` or one too many."""
        owed.why = why
        if owed.hopeless:
            _give_up(owed)
            return
        if owed.archived and (len(self._waiting) + self._under_way >= MOST or self._bytes > MOST_BYTES):
            if not self._told:
                self._told = True
                log.error("offline_messages_left_to_archive", waiting=len(self._waiting), bytes=self._bytes)
            return
        self._bytes += owed.size
        self._last = owed.number = self._last + 1
        self._db.owed += 1
        self._waiting.append(owed)
        self._try_later()

    def hand_over(self) -> None:
        """Try to store all of them at once; for the end, when nobody has to be served any more."""
        self._try(len(self._waiting))

    def drop(self, account: JID) -> None:
        """Forget those of an account. What is on its way to the disk is not touched: see `Database.flushed`."""
        waiting, self._waiting = self._waiting, []
        for owed in waiting:
            if owed.stanza.to is None or owed.stanza.to.bare != account:
                self._waiting.append(owed)
            else:
                self._paid(owed)

    def _paid(self, owed: Owed) -> None:
        """Nothing is to be stored any more."""
        self._db.owed -= 1
        self._bytes -= owed.size
        if not self.waiting:
            self._told = False

    def _try_later(self) -> None:
        if not self._due:
            self._due = True
            self._clock.call_later(RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._due = False
        self._try(1)
        if self._waiting:
            self._try_later()

    def _try(self, count: int) -> None:
        while self._waiting and count > 0:
            owed = self._waiting.pop(0)
            count -= 1
            owed.why = None
            try:
                position = self._store(owed, partial(_refused, owed))
            except StanzaError as error:
                if error.condition is Condition.RESOURCE_CONSTRAINT:  # the queue of the database is full
                    self._waiting.insert(0, owed)
                    self._try_later()
                    return
                log.info("unconfirmed_message_dropped", condition=error.condition.value)
                self._paid(owed)
                continue
            self._under_way += 1
            self._follow(owed, position)

    def _follow(self, owed: Owed, position: int) -> None:
        """Learn what becomes of it: as long as nobody knows, nothing is acknowledged."""
        try:
            self._db.when_durable(position, partial(self._settled, owed))
        except StorageBusy:  # so many wait for a commit that no more are told
            self._clock.call_later(RETRY_SECONDS, partial(self._follow, owed, position))

    def _settled(self, owed: Owed) -> None:
        self._under_way -= 1
        if owed.why is None:
            self._paid(owed)
            self._try(AT_ONCE - self._under_way)
        elif owed.hopeless:
            _give_up(owed)
            self._paid(owed)
            self._try(1)
        else:
            insort(self._waiting, owed, key=_number)
            self._try_later()


def _refused(owed: Owed, why: Exception) -> None:
    owed.why = why


def _give_up(owed: Owed) -> None:
    if not owed.archived:
        log.error("offline_message_lost", to=str(owed.stanza.to), error=repr(owed.why))


def _number(owed: Owed) -> int:
    return owed.number
