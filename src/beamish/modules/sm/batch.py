"""What stream management does in one transaction, on the database's thread: a tick's changes, what a start reads, what a stop
writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from beamish.core.gather import in_pieces
from beamish.modules.sm.log import MESSAGE, Fold, Message, read, write_counts
from beamish.storage.api import Cursor, StorageError, StorageUnavailable

log = structlog.get_logger(__name__)

SESSION: Final = (
    "INSERT INTO sm_session (key, id, jid, created, seconds, expires, handled, sent, exact, state) "
    "VALUES (?, ?, ?, ?, ?, NULL, 0, 0, 0, ?)"
)

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


class Batch:
    """What one commit writes; run on the database's thread, so it owns everything it holds."""

    def __init__(
        self,
        handled: list[tuple[int, int]],
        states: list[tuple[float, float | None, str, int]],
        confirmed: list[int],
        young_confirmed: list[int],
        jobs: list[Job],
        begins: list[tuple[Any, ...]],
    ) -> None:
        self.begins = begins
        self.handled = handled
        self.states = states
        self.confirmed = confirmed
        self.young_confirmed = young_confirmed
        self.jobs = jobs
        self.fold: Fold | None = None
        """The log is replaced instead of continued."""
        self.failed = False

    def run(self, c: Cursor) -> None:
        """Write it all."""
        if self.failed:
            return
        run_each(c, [(SESSION, row) for row in self.begins])
        if self.fold is not None:
            self.fold.run(c)
        else:
            write_counts(c, self.handled, self.young_confirmed)
        if self.states:
            c.many("UPDATE sm_session SET seconds = ?, expires = ?, state = ? WHERE key = ?", self.states)
        for rows, places in in_pieces(self.confirmed):
            c.run(f"DELETE FROM sm_message WHERE id IN ({', '.join('?' * places)})", *rows)
        run_each(c, self.jobs)


def run_each(c: Cursor, statements: Iterable[Job]) -> None:
    """Run statements; one that the database will never take does not keep all others, and every acknowledgement, waiting."""
    for sql, params in statements:
        try:
            c.run(sql, *params)
        except StorageUnavailable:
            raise
        except StorageError as exc:
            log.error("session_statement_lost", statement=sql, error=repr(exc))


def load(now: float, c: Cursor) -> tuple[list[StoredSession], int, int]:
    """What a start finds: sessions, and the last numbers of a session and of a message."""
    read(c).run(c)
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


def save(
    begins: list[tuple[Any, ...]],
    made: Fold,
    gone: list[int],
    jobs: list[Job],
    counted: list[tuple[Any, ...]],
    messages: list[Message],
    c: Cursor,
) -> None:
    """What the stop of the server writes; of sessions `counted`: key, and how they are in `sm_session`."""
    run_each(c, [(SESSION, row) for row in begins])
    made.run(c)
    c.many("DELETE FROM sm_message WHERE id = ?", [(row,) for row in gone])
    run_each(c, jobs)
    for key, handled, sent, exact, seconds, expires, state in counted:
        c.run(
            "UPDATE sm_session SET handled = ?, sent = ?, exact = ?, seconds = ?, expires = ?, state = ? WHERE key = ?",
            *(handled, sent, int(exact), seconds, expires, state, key),
        )
    if messages:
        c.many(MESSAGE, messages)
