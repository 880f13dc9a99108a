"""What is written down of managed sessions, so that they survive the server.

A message is a row of its own from the moment it is handed to a session until the client has confirmed it. Everything else
(how many stanzas of the client were handled, presence, ends) collects during a tick and joins the tick's commit as its last
part: so a stanza counts as handled in the very commit that holds what it caused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from beamish.core.clock import Clock
from beamish.storage.api import Cursor, Database, Migration, StorageBusy, StorageClosed, StorageError

if TYPE_CHECKING:
    from beamish.modules.sm.outlet import Managed, Sent

T = TypeVar("T")

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
)

_MESSAGE: Final = "INSERT INTO sm_message (id, session, sent, stamp, wire) VALUES (?, ?, ?, ?, ?)"
_SESSION: Final = (
    "INSERT INTO sm_session (key, id, jid, created, seconds, expires, handled, sent, exact, state) "
    "VALUES (?, ?, ?, ?, ?, NULL, 0, 0, 0, ?)"
)
_COUNTS: Final = (
    "WITH fresh (handled, key) AS (VALUES {}) "
    "UPDATE sm_session SET handled = fresh.handled FROM fresh WHERE sm_session.key = fresh.key"
)
_PIECES: Final = (256, 64, 16, 4, 1)
_RETRY: Final = 1.0
"""Seconds until a commit that failed is tried again; acknowledgements wait that long."""
_ENDED_PER_ACCOUNT: Final = 20
"""Ended sessions that are remembered for one account."""

Job = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as it was written down; `expires` is None if it had a connection when the server died."""

    key: int
    id: str
    jid: str
    created: float
    seconds: float
    expires: float | None
    handled: int
    sent: int
    exact: bool
    state: dict[str, Any]
    messages: list[tuple[int, int | None, float, bytes]]
    """Row id, count on the stream (None: never sent), time, bytes."""


class Journal:
    """Writes what happens to managed sessions. Belongs to the loop."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._counts: dict[Managed, None] = {}
        self._states: dict[Managed, None] = {}
        self._confirmed: list[int] = []
        self._jobs: list[Job] = []
        self._messages: _Messages | None = None
        self._position = 0
        self._under_way = False
        self._last_message = 0
        self._last_session = 0

    # ---- rows of their own ------------------------------------------------------------------------------------------

    def next_key(self) -> int:
        """A number for a new session."""
        self._last_session += 1
        return self._last_session

    def begin(self, managed: Managed) -> None:
        """A session came under management. Raises `StorageError`."""
        row = (
            *(managed.key, managed.id, str(managed.session.jid), managed.session.created, managed.seconds),
            json.dumps(managed.state()),
        )
        self._db.append("sm.begin", _SESSION, row, managed.not_stored)

    def message(self, managed: Managed, sent: Sent, count: int | None) -> int:
        """A message was handed to a session; the position in the database queue. 0: it cannot be stored."""
        messages = self._messages
        if messages is None:
            messages = _Messages()
            try:
                self._position = self._db.submit("sm.messages", messages.run, failed=messages.failed)
                self._db.at_tick_end(self._seal)
            except StorageError as exc:
                messages.failed(exc)
                return 0
            self._messages = messages
        self._last_message = row = self._last_message + 1
        sent.row = row
        messages.rows.append((row, managed.key, count, sent.when, sent.data))
        return self._position

    def _seal(self) -> None:
        """What the database is given now must not change any more."""
        self._messages = None

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
        self._confirmed += rows

    def tidy(self) -> None:
        """Let what is only waiting to be deleted go."""
        if self._confirmed:
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

    def _write(self) -> None:
        self._under_way = False
        counts = [(managed, managed.count) for managed in self._counts]
        states = [(managed, *managed.row()) for managed in self._states]
        batch = _Batch(
            [(count, managed.key) for managed, count in counts if managed.resumable],
            [(seconds, expires, state, managed.key) for managed, seconds, expires, state in states],
            self._confirmed,
            self._jobs,
        )
        again = partial(self._again, batch, [m for m, _ in counts], [m for m, *_ in states])
        try:
            position = self._db.submit("sm.journal", batch.run, failed=again)
        except StorageBusy as exc:
            self._counts, self._states, self._confirmed, self._jobs = {}, {}, [], []
            again(exc)
            return
        self._counts, self._states, self._confirmed, self._jobs = {}, {}, [], []
        if counts:
            try:
                self._db.when_durable(position, partial(self._committed, batch, counts))
            except StorageBusy as exc:
                again(exc)  # to be written twice does no harm

    def _committed(self, batch: _Batch, counts: list[tuple[Managed, int]]) -> None:
        if not batch.failed:
            for managed, count in counts:
                managed.committed(count)

    def _again(self, batch: _Batch, counts: list[Managed], states: list[Managed], exc: Exception) -> None:
        log.error("sessions_not_stored", error=repr(exc))
        batch.failed = True
        self._confirmed += batch.confirmed
        self._jobs = batch.jobs + self._jobs
        self._counts |= dict.fromkeys(m for m in counts if not m.over)
        self._states |= dict.fromkeys(m for m in states if not m.over)
        self._clock.call_later(_RETRY, self._join)

    # ---- restart ----------------------------------------------------------------------------------------------------

    async def load(self, now: float) -> list[StoredSession]:
        """Everything there is, at start."""
        found, self._last_session, self._last_message = await self._db.write("sm.load", partial(_load, now))
        return found

    async def save(self, sessions: list[Managed]) -> None:
        """Write sessions down completely, at the stop of the server: counters, state, and stanzas of every kind."""
        counted = []
        for managed in sessions:
            seconds, expires, state = managed.row()
            counted.append((managed.key, managed.count, managed.queue.sent, managed.exact, seconds, expires, state))
        messages = []
        for managed in sessions:
            count = managed.queue.confirmed
            for sent in managed.queue:
                count = (count + 1) % (1 << 32)
                if not sent.row:
                    self._last_message += 1
                    number = count if managed.exact else None
                    messages.append((self._last_message, managed.key, number, sent.when, sent.data))
        await self._db.write("sm.save", partial(_save, counted, messages))

    async def recount(self, managed: Managed) -> None:
        """The messages of a session got new counts."""
        first = managed.queue.confirmed
        rows = [((first + at) % (1 << 32), sent.row) for at, sent in enumerate(managed.queue, 1) if sent.row]

        def renumber(c: Cursor) -> None:
            c.many("UPDATE sm_message SET sent = ? WHERE id = ?", rows)

        await self._db.write("sm.recount", renumber)

    async def ended_count(self, id: str, account: str, now: float) -> int | None:
        """How many stanzas an ended session of an account had handled; None if nobody knows (any more)."""
        rows = await self._db.fetch(
            "SELECT handled FROM sm_ended WHERE id = ? AND account = ? AND forget > ? LIMIT 1", id, account, now
        )
        return int(rows[0][0]) if rows else None

    async def remove_account(self, account: str) -> None:
        """Delete everything of an account."""

        def delete(c: Cursor) -> None:
            mine = "jid >= ? AND jid < ?"
            ends = (f"{account}/", f"{account}0")  # "0" follows "/"
            c.run(f"DELETE FROM sm_message WHERE session IN (SELECT key FROM sm_session WHERE {mine})", *ends)
            c.run(f"DELETE FROM sm_session WHERE {mine}", *ends)
            c.run("DELETE FROM sm_ended WHERE account = ?", account)

        await self._db.write("sm.remove_account", delete)


class _Messages:
    """The messages that sessions were handed during one tick."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []

    def run(self, c: Cursor) -> None:
        """Write them."""
        c.many(_MESSAGE, self.rows)

    def failed(self, exc: Exception) -> None:
        """The database refused; they are delivered all the same."""
        log.error("unconfirmed_messages_not_stored", messages=len(self.rows), error=repr(exc))


class _Batch:
    """What one commit writes; run on the database's thread, so it owns everything it holds."""

    def __init__(
        self,
        counts: list[tuple[int, int]],
        states: list[tuple[float, float | None, str, int]],
        confirmed: list[int],
        jobs: list[Job],
    ) -> None:
        self.counts = counts
        self.states = states
        self.confirmed = confirmed
        self.jobs = jobs
        self.failed = False

    def run(self, c: Cursor) -> None:
        """Write it all."""
        for some, places in _in_pieces(self.counts):
            c.run(_COUNTS.format(", ".join(["(?, ?)"] * places)), *chain.from_iterable(some))
        if self.states:
            c.many("UPDATE sm_session SET seconds = ?, expires = ?, state = ? WHERE key = ?", self.states)
        for rows, places in _in_pieces(self.confirmed):
            c.run(f"DELETE FROM sm_message WHERE id IN ({', '.join('?' * places)})", *rows)
        for sql, params in self.jobs:
            c.run(sql, *params)


def _in_pieces(items: Sequence[T]) -> Iterator[tuple[Sequence[T], int]]:
    """Pieces of few different sizes, so that each size is one prepared statement; one step does the work of many."""
    at = 0
    for size in _PIECES:
        while len(items) - at >= size:
            yield items[at : at + size], size
            at += size


def _load(now: float, c: Cursor) -> tuple[list[StoredSession], int, int]:
    c.run("DELETE FROM sm_ended WHERE forget < ?", now)
    c.run("DELETE FROM sm_message WHERE session NOT IN (SELECT key FROM sm_session)")
    messages: dict[int, list[tuple[int, int | None, float, bytes]]] = {}
    last_message = 0
    for id_, session, sent, when, wire in c.rows("SELECT id, session, sent, stamp, wire FROM sm_message ORDER BY id"):
        messages.setdefault(int(session), []).append((int(id_), sent, float(when), bytes(wire)))
        last_message = int(id_)
    found = []
    last_session = 0
    for row in c.rows(
        "SELECT key, id, jid, created, seconds, expires, handled, sent, exact, state FROM sm_session ORDER BY key"
    ):
        key, id_, jid, created, seconds, expires, handled, sent, exact, state = row
        last_session = int(key)
        own = messages.get(last_session, [])
        found.append(
            StoredSession(
                last_session, id_, jid, created, seconds, expires, handled, sent, bool(exact), json.loads(state), own
            )
        )
    c.run("UPDATE sm_session SET exact = 0")  # from now on memory is ahead of it
    return found, last_session, last_message


def _save(counted: list[tuple[Any, ...]], messages: list[tuple[Any, ...]], c: Cursor) -> None:
    for key, handled, sent, exact, seconds, expires, state in counted:
        c.run(
            "UPDATE sm_session SET handled = ?, sent = ?, exact = ?, seconds = ?, expires = ?, state = ? WHERE key = ?",
            *(handled, sent, int(exact), seconds, expires, state, key),
        )
    if messages:
        c.many(_MESSAGE, messages)
