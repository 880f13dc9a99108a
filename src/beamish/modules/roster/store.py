"""The tables of rosters, their changes and their versions (RFC 6121 §2.6)."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

from beamish.core.services import RosterItem
from beamish.storage.api import Cursor, Migration
from beamish.xmpp.jid import JID

REMOVALS: Final = 256
"""Removals remembered of one roster; a client whose version is older than the oldest gets the whole roster."""
_ROWS: Final = 100_000  # more than any roster has

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE roster (owner TEXT NOT NULL, jid TEXT NOT NULL, name TEXT NOT NULL,"
            " group_names TEXT NOT NULL, to_ INTEGER NOT NULL, from_ INTEGER NOT NULL,"
            " pending_out INTEGER NOT NULL, pending_in INTEGER NOT NULL, approved INTEGER NOT NULL,"
            " listed INTEGER NOT NULL, ver BIGINT NOT NULL, PRIMARY KEY (owner, jid))",
            "CREATE TABLE roster_removed (owner TEXT NOT NULL, jid TEXT NOT NULL, ver BIGINT NOT NULL,"
            " PRIMARY KEY (owner, jid))",
            "CREATE TABLE roster_version (owner TEXT NOT NULL PRIMARY KEY, ver BIGINT NOT NULL, floor BIGINT NOT NULL)",
        ),
    ),
)

_COLUMNS: Final = "jid, name, group_names, to_, from_, pending_out, pending_in, approved, listed"
_SETS: Final = ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS.split(", ")[1:])
PUT_ITEM_SILENTLY: Final = (
    f"INSERT INTO roster (owner, {_COLUMNS}, ver) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    f" ON CONFLICT (owner, jid) DO UPDATE SET {_SETS}"
)
"""For changes that no client sees: they leave the item's version as it is (RFC 6121 §2.6.3, definition)."""
PUT_ITEM: Final = f"{PUT_ITEM_SILENTLY}, ver = excluded.ver"
PUT_VERSION: Final = (
    "INSERT INTO roster_version (owner, ver, floor) VALUES (?, ?, ?)"
    " ON CONFLICT (owner) DO UPDATE SET ver = excluded.ver"
)
PUT_REMOVAL: Final = (
    "INSERT INTO roster_removed (owner, jid, ver) VALUES (?, ?, ?)"
    " ON CONFLICT (owner, jid) DO UPDATE SET ver = excluded.ver"
)


def load(cursor: Cursor, user: JID) -> tuple[list[tuple[Any, ...]], tuple[Any, ...] | None]:
    """All items as rows, and version and floor if there are any."""
    owner = str(user)
    items = cursor.rows(f"SELECT {_COLUMNS} FROM roster WHERE owner = ? ORDER BY jid LIMIT {_ROWS}", owner)
    return items, cursor.row("SELECT ver, floor FROM roster_version WHERE owner = ?", owner)


def changes(cursor: Cursor, user: JID, known: int) -> list[tuple[int, str]]:
    """Version and address of every listed item changed and every item removed after a version, oldest first."""
    rows = cursor.rows(
        "SELECT ver, jid FROM roster WHERE owner = ? AND ver > ? AND listed = 1"
        f" UNION ALL SELECT ver, jid FROM roster_removed WHERE owner = ? AND ver > ? ORDER BY 1 LIMIT {_ROWS}",
        str(user),
        known,
        str(user),
        known,
    )
    return [(int(number), str(jid)) for number, jid in rows]


def trim_removals(cursor: Cursor, owner: str, floor: int) -> int:
    """Forget the older half of the removals when there are too many; the oldest version that is still known."""
    if cursor.value("SELECT count(*) FROM roster_removed WHERE owner = ?", owner) <= REMOVALS:
        return floor
    floor = cursor.value(
        "SELECT ver FROM roster_removed WHERE owner = ? ORDER BY ver DESC LIMIT 1 OFFSET ?", owner, REMOVALS // 2
    )
    cursor.run("DELETE FROM roster_removed WHERE owner = ? AND ver <= ?", owner, floor)
    cursor.run("UPDATE roster_version SET floor = ? WHERE owner = ?", floor, owner)
    return floor


def row_of(owner: str, item: RosterItem) -> tuple[object, ...]:
    """An item as parameters of `PUT_ITEM`, without the last one, its version."""
    flags = (item.to, item.from_, item.pending_out, item.pending_in, item.approved, item.listed)
    return owner, str(item.jid), item.name, groups_to_json(item.groups), *map(int, flags)


def item_of(row: tuple[Any, ...]) -> RosterItem:
    """The item in a row that `load` read."""
    jid, name, groups, to, from_, pending_out, pending_in, approved, listed = row
    # Addresses and groups are shared between all rosters that hold them, as far as their caches reach.
    return RosterItem(
        JID.parse(jid),
        name,
        groups_of_json(groups),
        bool(to),
        bool(from_),
        bool(pending_out),
        bool(pending_in),
        bool(approved),
        bool(listed),
    )


def groups_to_json(groups: tuple[str, ...]) -> str:
    """Group names for the database."""
    return json.dumps(groups, ensure_ascii=False)


@lru_cache(4096)
def groups_of_json(text: str) -> tuple[str, ...]:
    """Group names from the database; the same tuple for the same names, as long as the cache reaches."""
    return tuple(json.loads(text))
