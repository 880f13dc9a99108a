"""What presence keeps on disk: requests that await an answer (RFC 6121 §3.1.3), and when accounts were last seen.

That a request is pending is part of the roster's state (`RosterItem.pending_in`); here is the stanza itself. A row
without that state is a leftover and means nothing, a state without a row is delivered as a plain request.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import structlog

from beamish.storage.api import Cursor, Database, Migration, StorageError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

log = structlog.get_logger(__name__)

REQUEST_BYTES: Final = 16_384
"""Largest request that is kept; `not-acceptable` above."""
_ROWS: Final = 10_000  # more requests than a roster keeps
_LATELY: Final = 4_096
"""Accounts seen last whose time is in memory: its row takes its time to the disk."""

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE presence_request (owner TEXT NOT NULL, contact TEXT NOT NULL, stanza {bytes} NOT NULL,"
            " PRIMARY KEY (owner, contact))",
            "CREATE TABLE presence_last (owner TEXT NOT NULL PRIMARY KEY, seen {timestamp} NOT NULL)",
        ),
    ),
)


class PresenceStore:
    """The tables of the presence module."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lately: OrderedDict[JID, float] = OrderedDict()

    def keep(self, owner: JID, request: Stanza) -> None:
        """Queue a request for storage, in front of the change of the roster that refers to it. Raises `StorageBusy`."""
        assert request.sender is not None
        self._db.append(
            "presence.keep",
            "INSERT INTO presence_request (owner, contact, stanza) VALUES (?, ?, ?)"
            " ON CONFLICT (owner, contact) DO UPDATE SET stanza = excluded.stanza",
            (str(owner), str(request.sender), request.to_wire()),
        )

    def forget(self, owner: JID, contact: JID) -> None:
        """Delete a request that was answered or withdrawn."""
        self._append(
            "presence.forget",
            "DELETE FROM presence_request WHERE owner = ? AND contact = ?",
            (str(owner), str(contact)),
        )

    async def requests(self, owner: JID) -> dict[str, Stanza]:
        """Every kept request of an account, by contact."""
        rows = await self._db.fetch(
            f"SELECT contact, stanza FROM presence_request WHERE owner = ? LIMIT {_ROWS}", str(owner)
        )
        return {str(contact): Stanza.parse(bytes(wire)) for contact, wire in rows}

    def seen(self, owner: JID, at: float) -> None:
        """Note when the last session of an account became unavailable."""
        self._lately[owner] = at
        self._lately.move_to_end(owner)
        if len(self._lately) > _LATELY:
            self._lately.popitem(last=False)
        self._append(
            "presence.seen",
            "INSERT INTO presence_last (owner, seen) VALUES (?, ?)"
            " ON CONFLICT (owner) DO UPDATE SET seen = excluded.seen",
            (str(owner), at),
            lazy=True,
        )

    async def last_seen(self, owner: JID) -> float | None:
        """When the account was last available, in seconds since 1970; None if it never was."""
        lately = self._lately.get(owner)
        if lately is not None:
            return lately
        rows = await self._db.fetch("SELECT seen FROM presence_last WHERE owner = ? LIMIT 1", str(owner))
        return float(rows[0][0]) if rows else None

    async def delete(self, owner: JID) -> None:
        """Delete everything about an account."""

        def delete(cursor: Cursor) -> None:
            cursor.run("DELETE FROM presence_request WHERE owner = ?", str(owner))
            cursor.run("DELETE FROM presence_last WHERE owner = ?", str(owner))

        self._lately.pop(owner, None)
        await self._db.write("presence.delete", delete)

    def _append(self, name: str, sql: str, params: tuple[object, ...], *, lazy: bool = False) -> None:
        """For rows that nothing depends on: a full queue costs the row, not the stanza."""
        try:
            self._db.append(name, sql, params, lazy=lazy)
        except StorageError as error:
            log.warning("presence_row_lost", work=name, reason=type(error).__name__)
