"""What is written down of managed sessions, so that they survive the server.

A message is on disk from the moment it is handed to a session until the client has confirmed it. Everything else
(how many stanzas of the client were handled, presence, ends) collects during a tick and joins the tick's commit as its last
part: so a stanza counts as handled in the very commit that holds what it caused.

Messages and counts go to a log first (`log`), one row for a tick. Every few seconds the log is folded: what is not confirmed by
then becomes rows of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import structlog

from beamish.core.clock import Clock, Timer
from beamish.core.gather import Gathering
from beamish.modules.sm.batch import SESSION, Batch, Job, StoredSession, load, save
from beamish.modules.sm.log import Fold, Folding, Message, write_messages
from beamish.storage.api import (
    Cursor,
    Database,
    Migration,
    StorageBusy,
    StorageClosed,
    StorageError,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from beamish.modules.sm.outlet import Managed, Sent

log = structlog.get_logger(__name__)

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE sm_session (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, jid TEXT NOT NULL, "
            "created {timestamp} NOT NULL, seconds REAL NOT NULL, expires {timestamp}, handled BIGINT NOT NULL, "
            "sent BIGINT NOT NULL, exact INTEGER NOT NULL, state TEXT NOT NULL)",
            "CREATE TABLE sm_message (id INTEGER PRIMARY KEY, session INTEGER NOT NULL, sent BIGINT, "
            "stamp {timestamp} NOT NULL, wire {bytes} NOT NULL)",
            "CREATE TABLE sm_ended (id TEXT NOT NULL PRIMARY KEY, account TEXT NOT NULL, handled BIGINT NOT NULL, "
            "forget {timestamp} NOT NULL)",
            "CREATE INDEX sm_ended_account ON sm_ended (account, forget)",
        ),
    ),
    Migration(
        2,
        (
            "CREATE TABLE sm_log (id INTEGER PRIMARY KEY, messages INTEGER NOT NULL, counts INTEGER NOT NULL, "
            "confirmed INTEGER NOT NULL, head {bytes} NOT NULL, wires {bytes} NOT NULL)",
        ),
    ),
)

_RETRY: Final = 1.0
"""Seconds until a commit that failed is tried again; acknowledgements wait that long."""
_OWED_MOST: Final = 20_000
"""Beginnings and ends of sessions that may wait for a disk that takes nothing; no other session comes under management then."""
_ENDED_PER_ACCOUNT: Final = 20
"""Ended sessions that are remembered for one account."""
_MESSAGES_MOST: Final = 50_000
_BYTES_MOST: Final = 64 * 1024 * 1024
"""Messages, and their bytes, that may wait for their commit before clients and servers that send more are refused."""
_BEYOND: Final = 2
"""How many times that may wait with those that are handed to sessions all the same, because they were on their way already or
are not from clients; what is more stays in memory."""
FOLD_ENTRIES: Final = 20_000
FOLD_BYTES: Final = 8 * 1024 * 1024
FOLD_SECONDS: Final = 10.0
"""How much of what is how old the log may hold before it is folded."""


class Journal:
    """Writes what happens to managed sessions. Belongs to the loop."""

    def __init__(self, db: Database, clock: Clock, crowded: Callable[[], None] | None = None) -> None:
        """`crowded` is called when so many messages wait for their commit that no more should come, until `roomy`."""
        self._db = db
        self._clock = clock
        self._crowded = crowded
        self._counts: dict[Managed, None] = {}
        self._states: dict[Managed, None] = {}
        self._confirmed: list[int] = []
        self._jobs: list[Job] = []
        self._begins: list[tuple[Any, ...]] = []
        """Rows of sessions that the disk did not take: they come before all that is written about these."""
        self._messages: Gathering[Message] = Gathering(
            db, clock, "sm.messages", write_messages, _MESSAGES_MOST, _BYTES_MOST, self._messages_logged, self._to_log
        )
        self._under_way = False
        self._paused: Timer | None = None
        """Nothing is written before that, as the disk owes rows which acknowledgements may depend on."""
        self._unstored: WeakKeyDictionary[Sent, tuple[Managed, int | None]] = WeakKeyDictionary()
        """Messages that are in memory alone, as long as they are: until they are confirmed, or have been brought elsewhere."""
        self._last_message = 0
        self._last_session = 0
        # what is in the log and nowhere else
        self._young: dict[int, Message] = {}
        self._young_confirmed: list[int] = []
        self._handled: dict[int, int] = {}
        self._entries = 0
        self._bytes = 0
        self._fold_due = False
        self._fold_timer: Timer | None = None
        self._fold_rests = False
        """The disk has just refused a fold, which is a large thing to try with every tick."""
        self._folding: Folding | None = None
        self._then: list[asyncio.Future[None]] = []

    # ---- rows of their own ------------------------------------------------------------------------------------------

    def next_key(self) -> int:
        """A number for a new session."""
        self._last_session += 1
        return self._last_session

    def begin(self, managed: Managed) -> None:
        """A session came under management. Raises `StorageError`, also if the disk owes too many of them already."""
        if len(self._begins) + len(self._jobs) >= _OWED_MOST:
            raise StorageBusy(f"{len(self._begins)} sessions wait to be stored")
        row = (
            *(managed.key, managed.id, str(managed.session.jid), managed.session.created, managed.seconds),
            json.dumps(managed.state()),
        )
        self._db.append("sm.begin", SESSION, row, partial(self._not_begun, managed, row))

    def _not_begun(self, managed: Managed, row: tuple[Any, ...], exc: Exception) -> None:
        """A start would drop the messages of a session that has no row, so nothing is acknowledged before that is stored."""
        if not isinstance(exc, StorageUnavailable):
            managed.not_stored(exc)
        elif not managed.over:
            self._begins.append(row)
            self._join()

    def message(self, managed: Managed, sent: Sent, count: int | None) -> int:
        """A message was handed to a session; the position in the database queue. 0: it cannot be stored.

        Then nothing is acknowledged to anybody until the client has confirmed it, or it is stored after all.
        """
        self._last_message = row = self._last_message + 1
        data = sent.data
        entry = (row, managed.key, count, sent.when, data)
        try:
            position = self._messages.add(entry, len(data))
        except StorageError as exc:  # it is delivered all the same
            position = self._add_beyond(entry, exc)
            if not position:
                self._unstored[sent] = (managed, count)
                return 0
        sent.row = row
        self._young[row] = entry
        return position

    def _add_beyond(self, entry: Message, exc: StorageError) -> int:
        waiting = self._messages
        self._tell_crowded()
        if waiting.rows < _BEYOND * waiting.most and waiting.bytes <= _BEYOND * waiting.most_bytes:
            try:
                return waiting.add(entry, len(entry[4]), beyond=True)
            except StorageError as closed:
                exc = closed
        if not self._unstored:
            log.error("unconfirmed_messages_not_stored", error=repr(exc))
        return 0

    def _tell_crowded(self) -> None:
        if self._crowded is not None and self._messages.full:
            self._crowded()

    @property
    def roomy(self) -> bool:
        """Whether so few messages wait for their commit that many more may come."""
        waiting = self._messages
        return 2 * waiting.rows <= waiting.most and 2 * waiting.bytes <= waiting.most_bytes

    @property
    def waiting(self) -> tuple[int, int]:
        """Messages, and their bytes, that wait for their commit."""
        return self._messages.rows, self._messages.bytes

    def _messages_logged(self, messages: list[Message]) -> None:
        self._tell_crowded()
        self._bytes += sum(len(message[4]) for message in messages)
        self._logged(len(messages))

    def _to_log(self, message: Message) -> bool:
        """Whether a message that the disk did not take belongs in the log: it was neither confirmed nor folded meanwhile.

        A fold that is under way while the disk owes messages will be refused, too.
        """
        row, folding = message[0], self._folding
        return row in self._young or (
            folding is not None and row in folding.fold.messages and row not in folding.confirmed
        )

    def _logged(self, entries: int) -> None:
        self._entries += entries
        if not self._fold_due and (self._entries >= FOLD_ENTRIES or self._bytes >= FOLD_BYTES):
            self._fold_due = True
            self._join()  # perhaps there is nothing else to write: not every message is caused by a managed session
        if self._fold_timer is None:
            self._fold_timer = self._clock.call_later(FOLD_SECONDS, self._fold_soon)

    def _fold_soon(self) -> None:
        self._fold_due = True
        self._join()

    # ---- what joins the commit of the tick --------------------------------------------------------------------------

    def handled(self, managed: Managed) -> None:
        """Stanzas of the client were handled; `managed.committed` is called when that is on disk."""
        self._counts[managed] = None
        self._join()

    def changed(self, managed: Managed) -> None:
        """Presence, expiry or something else of a session changed."""
        self._states[managed] = None
        self._join()

    def confirmed(self, rows: Iterable[int]) -> None:
        """Messages that need not be kept any more. They are deleted with the next commit, at the latest by `tidy`."""
        young, folding = self._young, self._folding
        refused = self._messages.refused
        for row in rows:
            if young.pop(row, None) is not None:
                if refused is None or row < refused[0]:  # else it never gets into the log (`_to_log`)
                    self._young_confirmed.append(row)
                continue
            self._confirmed.append(row)
            if folding is not None:
                folding.confirmed.add(row)

    def given_up(self, messages: Sequence[Sent]) -> None:
        """Stanzas that an ended session leaves, and that nobody needs any more."""
        if self._unstored:
            for sent in messages:
                self._unstored.pop(sent, None)
        self.confirmed([sent.row for sent in messages if sent.row])

    def in_memory_alone(self, sent: Sent) -> bool:
        """Whether a message has no row because too many waited for the disk: nothing is acknowledged before it has left."""
        return sent in self._unstored

    def tidy(self) -> None:
        """Let what is only waiting to be deleted go."""
        if self._confirmed or self._young_confirmed:
            self._join()

    def do(self, sql: str, *params: Any) -> None:
        """Any other statement, in the order of calls."""
        self._jobs.append((sql, params))
        self._join()

    def ended(self, managed: Managed) -> None:
        """The session is over; its messages are still to be brought elsewhere."""
        self._counts.pop(managed, None)
        self._states.pop(managed, None)
        self.do("UPDATE sm_session SET expires = 0 WHERE key = ?", managed.key)

    def forget(self, managed: Managed, until: float) -> None:
        """Nothing is left of an ended session but its number of handled stanzas, until a time (0: not even that)."""
        self.do("DELETE FROM sm_session WHERE key = ?", managed.key)
        if until:
            account = str(managed.session.bare)
            self.do(
                "INSERT INTO sm_ended (id, account, handled, forget) VALUES (?, ?, ?, ?)",
                *(managed.id, account, managed.count, until),
            )
            self.do(
                "DELETE FROM sm_ended WHERE account = ? AND id NOT IN "
                "(SELECT id FROM sm_ended WHERE account = ? ORDER BY forget DESC LIMIT ?)",
                *(account, account, _ENDED_PER_ACCOUNT),
            )

    def _join(self) -> None:
        if not self._under_way:
            try:
                self._db.at_tick_end(self._write)
            except StorageClosed:
                return  # the server is at its end; nothing that is not written by now is promised to anybody
            self._under_way = True

    def _pause(self) -> None:
        """Write what has collected, and what will, a second later."""
        if self._paused is None:
            self._paused = self._clock.call_later(_RETRY, self._go_on)

    def _go_on(self) -> None:
        self._paused = None
        self._under_way = False
        self._join()

    def _owing(self) -> bool:
        """Whether something that was acknowledged now might not be on disk."""
        if self._unstored and not self._db.owed and self.roomy:
            # the disk takes rows: these go in front of what is acknowledged now
            left, self._unstored = self._unstored, WeakKeyDictionary()
            for sent, (managed, count) in left.items():
                if managed.over:  # it is on its way elsewhere
                    self._unstored[sent] = (managed, count)
                else:
                    self.message(managed, sent, count)
        return bool(self._db.owed or self._unstored)

    def _write(self) -> None:
        if not self._under_way:
            return
        if (self._db.owed or self._unstored) and self._owing():
            self._pause()
            return
        self._under_way = False
        counts = [(managed, managed.count) for managed in self._counts]
        states = list(_rows(self._states))
        batch = Batch(
            [(managed.key, count) for managed, count in counts if managed.resumable],
            [(seconds, expires, state, managed.key) for managed, seconds, expires, state in states],
            self._confirmed,
            self._young_confirmed,
            self._jobs,
            self._begins,
        )
        self._counts, self._states, self._confirmed, self._young_confirmed = {}, {}, [], []
        self._jobs, self._begins = [], []
        then: list[asyncio.Future[None]] = []
        self._handled.update(batch.handled)
        # one after the other: a second would delete what the first may owe
        if self._fold_due and self._folding is None and not self._fold_rests:
            batch.fold = self._take_fold()
            then, self._then = self._then, []
        elif batch.handled or batch.young_confirmed:
            self._logged(len(batch.handled) + len(batch.young_confirmed))
        if batch.fold is None and not (
            counts or states or batch.confirmed or batch.young_confirmed or batch.jobs or batch.begins
        ):
            return
        again = partial(self._again, batch, [m for m, _ in counts], [m for m, *_ in states], then)
        try:
            position = self._db.submit("sm.journal", batch.run, failed=again, whole=True)
            if counts or batch.fold is not None:
                self._db.when_durable(position, partial(self._committed, batch, counts, then))
        except StorageBusy as exc:
            again(exc)

    def _take_fold(self) -> Fold:
        """What the log holds, which is being replaced; from now on it begins anew."""
        self._messages.seal()  # what comes now goes behind
        if self._fold_timer is not None:
            self._fold_timer.cancel()
            self._fold_timer = None
        made = Fold(self._young, self._handled)
        self._folding = Folding(made)
        self._young, self._handled = {}, {}
        self._entries = self._bytes = 0
        self._fold_due = False
        return made

    def _committed(
        self, batch: Batch, counts: list[tuple[Managed, int]], then: list[asyncio.Future[None]]
    ) -> None:  # fmt: skip
        if batch.failed:
            return
        if batch.fold is not None:
            self._folding = None
            if self._fold_due:
                self._join()
        for future in then:
            if not future.done():
                future.set_result(None)
        for managed, count in counts:
            try:
                managed.committed(count)
            except Exception:  # the others are acknowledged all the same
                log.exception("acknowledgement_failed", jid=str(managed.session.jid))

    def _again(
        self,
        batch: Batch,
        counts: list[Managed],
        states: list[Managed],
        then: list[asyncio.Future[None]],
        exc: Exception,
    ) -> None:
        if batch.failed:  # the queue took the job, but nobody can be told of its commit: it does nothing
            return
        log.error("sessions_not_stored", error=repr(exc))
        batch.failed = True
        self._confirmed += batch.confirmed
        self._young_confirmed += batch.young_confirmed
        self._jobs = batch.jobs + self._jobs
        self._begins = batch.begins + self._begins
        self._counts |= dict.fromkeys(m for m in counts if not m.over)
        self._states |= dict.fromkeys(m for m in states if not m.over)
        self._then = then + self._then
        folding = self._folding
        if batch.fold is not None and folding is not None:
            self._young = folding.left() | self._young
            self._young_confirmed += folding.confirmed
            self._handled = {**folding.fold.handled, **self._handled}
            self._folding = None
            self._fold_due = self._fold_rests = True  # acknowledgements meanwhile do without it
        self._clock.call_later(_RETRY, self._once_more)

    def _once_more(self) -> None:
        self._fold_rests = False
        self._join()

    # ---- restart ----------------------------------------------------------------------------------------------------

    async def load(self, now: float) -> list[StoredSession]:
        """Everything there is, at start."""
        found, self._last_session, self._last_message = await self._db.write("sm.load", partial(load, now))
        return found

    async def save(self, sessions: list[Managed]) -> None:
        """Write sessions down completely, at the stop of the server: counters, state, and stanzas of every kind."""
        self._write()
        await self._db.flushed()  # what is under way is on disk then, or was refused and is here again
        while self._folding is not None or (self._under_way and self._paused is None):
            self._write()
            await self._db.flushed()
        counted = []
        others = self._db.owed > self._messages.owed  # what is lost with the server; messages are written below
        for managed, seconds, expires, state in _rows(sessions):
            count = managed.acknowledged if others else managed.count
            counted.append((managed.key, count, managed.queue.sent, managed.exact, seconds, expires, state))
        messages = []
        for managed in sessions:
            count = managed.queue.confirmed
            for sent in managed.queue:
                count = (count + 1) % (1 << 32)
                if not sent.row:
                    self._last_message += 1
                    number = count if managed.exact else None
                    messages.append((self._last_message, managed.key, number, sent.when, sent.data))
        gone = [*self._confirmed, *self._young_confirmed]
        self._confirmed, self._young_confirmed = [], []
        jobs, self._jobs = self._jobs, []
        begins, self._begins = self._begins, []
        made = self._take_fold()
        self._folding = None  # there is no other one: what still waits to be tried again is in it, and need not be
        await self._db.write("sm.save", partial(save, begins, made, gone, jobs, counted, messages))

    async def recount(self, managed: Managed) -> None:
        """The messages of a session got new counts."""
        first = managed.queue.confirmed
        for at, sent in enumerate(managed.queue, 1):
            if sent.row:
                count = (first + at) % (1 << 32)
                young = self._young.get(sent.row)
                if young is None:
                    self._jobs.append(("UPDATE sm_message SET sent = ? WHERE id = ?", (count, sent.row)))
                    if self._folding is not None:
                        self._folding.counts[sent.row] = count
                else:
                    self._young[sent.row] = (*young[:2], count, *young[3:])
        await self._folded()

    async def _folded(self) -> None:
        """Write everything that waits, and return when it is on disk and the log is folded. Raises `StorageClosed`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._then.append(future)
        self._fold_soon()
        if not self._under_way:
            raise StorageClosed("the database is closed")
        await future

    async def ended_count(self, id: str, account: str, now: float) -> int | None:
        """How many stanzas an ended session of an account had handled; None if nobody knows (any more)."""
        rows = await self._db.fetch(
            "SELECT handled FROM sm_ended WHERE id = ? AND account = ? AND forget > ? LIMIT 1", id, account, now
        )
        return int(rows[0][0]) if rows else None

    async def remove_account(self, account: str) -> None:
        """Delete everything of an account."""
        await self._folded()  # so that nothing of it is in the log

        def delete(c: Cursor) -> None:
            mine = "jid >= ? AND jid < ?"
            ends = (f"{account}/", f"{account}0")  # "0" follows "/"
            c.run(f"DELETE FROM sm_message WHERE session IN (SELECT key FROM sm_session WHERE {mine})", *ends)
            c.run(f"DELETE FROM sm_session WHERE {mine}", *ends)
            c.run("DELETE FROM sm_ended WHERE account = ?", account)

        await self._db.write("sm.remove_account", delete)


def _rows(sessions: Iterable[Managed]) -> Iterator[tuple[Managed, float, float | None, str]]:
    """Sessions with their rows; one whose state cannot be told stays as it was written down last, and keeps nobody else."""
    for managed in sessions:
        try:
            yield managed, *managed.row()
        except Exception:
            log.exception("session_state_not_stored", jid=str(managed.session.jid))
