"""Brings the tables of one owner (a module, by its name) up to date, and refuses what it must not touch.

What was applied is recorded with a checksum. There is no way back: to return to an older program, restore the backup.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from types import MappingProxyType
from typing import Final

import structlog

from beamish.storage.api import Cursor, Database, DatabaseTooNew, Migration, MigrationChanged, StorageError

log = structlog.get_logger(__name__)

TYPES: Final = MappingProxyType(
    {
        "pk": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "bytes": "BLOB",
        "timestamp": "REAL",
    }
)
"""What the placeholders of a migration stand for in SQLite."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS beamish_schema (owner TEXT NOT NULL, version INTEGER NOT NULL, checksum TEXT NOT NULL, "
    "applied_at REAL NOT NULL, PRIMARY KEY (owner, version))"
)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def checksum(migration: Migration) -> str:
    """Of the statements as written, but not of their layout: a line may be broken elsewhere without being an edit."""
    return sha256(b"\0".join(" ".join(text.split()).encode() for text in migration.statements)).hexdigest()


async def migrate(
    db: Database, owner: str, migrations: Sequence[Migration], *, now: Callable[[], float] = time.time
) -> int:
    """Apply what the database has not seen yet, each in its own transaction; how many that were.

    All recorded versions are checked before anything is changed. Several processes may do this at once. Raises
    `MigrationChanged`, `DatabaseTooNew`, `ValueError` (numbers not 1, 2, 3…, an unknown placeholder, no statement), and
    `StorageError` naming owner and version if a statement fails; that migration then left no trace.
    """
    statements = _rendered(owner, migrations)
    sums = [checksum(migration) for migration in migrations]

    def begin(c: Cursor) -> int:
        c.run(_SCHEMA)
        return _newest(c, owner, sums)

    def step(c: Cursor, version: int) -> bool:
        if _newest(c, owner, sums) >= version:  # another process was faster
            return False
        for sql in statements[version - 1]:
            try:
                c.run(sql)
            except StorageError as exc:
                raise type(exc)(f"migration {version} of {owner!r} failed: {exc}") from exc
        c.run(
            "INSERT INTO beamish_schema (owner, version, checksum, applied_at) VALUES (?, ?, ?, ?)",
            owner,
            version,
            sums[version - 1],
            now(),
        )
        return True

    applied = 0
    found = await db.write("schema.check", begin)
    for version in range(found + 1, len(migrations) + 1):
        if await db.write("schema.migrate", partial(step, version=version)):
            applied += 1
            tell = log.info if found else log.debug  # new tables are nothing that an administrator need know of
            tell("migration_applied", owner=owner, version=version)
    return applied


def _newest(c: Cursor, owner: str, sums: Sequence[str]) -> int:
    """The newest version in the database, after comparing all that are recorded with the sums of this program's."""
    rows = c.rows("SELECT version, checksum FROM beamish_schema WHERE owner = ? ORDER BY version", owner)
    newest: int = rows[-1][0] if rows else 0
    if newest > len(sums):
        raise DatabaseTooNew(
            f"the database holds version {newest} of the tables of {owner!r}, this program knows no newer than "
            f"{len(sums)}: a newer Beamish has used it. Install that one again, or restore the backup made before."
        )
    if [version for version, _ in rows] != list(range(1, newest + 1)):
        raise StorageError(f"the record of applied migrations of {owner!r} has gaps: restore it from a backup")
    for version, seen in rows:
        if seen != sums[version - 1]:
            raise MigrationChanged(
                f"migration {version} of {owner!r} was applied to this database with another text. "
                "Put the old text back and add a new migration instead."
            )
    return newest


def _rendered(owner: str, migrations: Sequence[Migration]) -> list[list[str]]:
    """The statements of each migration with their placeholders replaced."""
    out = []
    for number, migration in enumerate(migrations, 1):
        if migration.version != number:
            raise ValueError(f"migration {number} of {owner!r} is numbered {migration.version}")
        if not migration.statements or isinstance(migration.statements, str):
            raise ValueError(f"migration {number} of {owner!r} needs a tuple of statements")
        for name in _PLACEHOLDER.findall("".join(migration.statements)):
            if name not in TYPES:
                raise ValueError(f"migration {number} of {owner!r} uses the unknown placeholder {{{name}}}")
        out.append([_PLACEHOLDER.sub(lambda match: TYPES[match[1]], sql) for sql in migration.statements])
    return out
