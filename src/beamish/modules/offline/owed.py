"""Messages that must be stored, though the disk has refused them: their senders were told that they are safe.

They wait in memory, in order, and count as owed (`Database.owed`), so that nothing is acknowledged and no session's copy of
them is deleted before they are in the store; a crash just then finds both. There are no more of them than sessions held
unconfirmed when they ended.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from beamish.core.clock import Clock
from beamish.core.events import Context
from beamish.storage.api import Database, StorageError
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 1.0
"""Until the oldest of them is tried again; the others follow when the disk has taken it."""


class Owed:
    """A message that is to be stored with its time."""

    __slots__ = ("ctx", "number", "refused", "stanza", "when")

    def __init__(self, ctx: Context, stanza: Stanza, when: float) -> None:
        self.ctx = ctx
        self.stanza = stanza
        self.when = when
        self.number = 0
        self.refused = False
        """The disk did not take it this time."""


class OwedMessages:
    """Those of all accounts. Belongs to the loop."""

    def __init__(self, db: Database, clock: Clock, store: Callable[[Owed, Callable[[], None]], int]) -> None:
        """`store` queues a message; its position (0: nobody wants it any more). It may raise `StanzaError`."""
        self._db = db
        self._clock = clock
        self._store = store
        self._waiting: list[Owed] = []
        self._under_way = 0
        self._last = 0
        self._due = False

    @property
    def waiting(self) -> bool:
        """Whether there are any: what comes now must go behind them."""
        return bool(self._waiting) or self._under_way > 0

    def add(self, owed: Owed) -> None:
        """The newest of all."""
        self._last = owed.number = self._last + 1
        self._db.owed += 1
        self._waiting.append(owed)
        self._try_later()

    def hand_over(self) -> None:
        """Try to store all of them."""
        self._try(len(self._waiting))

    def drop(self, account: JID) -> None:
        """Forget those of an account. What is on its way to the disk is not touched: see `Database.flushed`."""
        left = [owed for owed in self._waiting if owed.stanza.to is None or owed.stanza.to.bare != account]
        self._db.owed -= len(self._waiting) - len(left)
        self._waiting = left

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
        while self._waiting and count:
            owed = self._waiting.pop(0)
            count -= 1
            owed.refused = False
            try:
                position = self._store(owed, partial(_refused, owed))
                self._under_way += 1
                self._db.when_durable(position, partial(self._settled, owed))
            except StanzaError as error:
                if error.condition is Condition.RESOURCE_CONSTRAINT:  # the queue of the database is full
                    self._waiting.insert(0, owed)
                    self._try_later()
                    return
                log.info("unconfirmed_message_dropped", condition=error.condition.value)
                self._db.owed -= 1
            except StorageError as exc:  # nobody will tell: it stays owed
                self._under_way -= 1
                log.error("offline_message_not_stored", error=repr(exc))

    def _settled(self, owed: Owed) -> None:
        self._under_way -= 1
        if owed.refused:
            insort(self._waiting, owed, key=_number)
            self._try_later()
            return
        self._db.owed -= 1
        self.hand_over()


def _refused(owed: Owed) -> None:
    owed.refused = True


def _number(owed: Owed) -> int:
    return owed.number
