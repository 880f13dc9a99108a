"""Verified capabilities on disk and in memory: what each hash stands for, whoever announces it."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Final

import structlog

from beamish.storage.api import Cursor, Database, Migration, StorageError

log = structlog.get_logger(__name__)

_TOUCH: Final = 86_400.0
"""Seconds after which the use of a hash is noted again."""

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE caps_hash (hash TEXT NOT NULL PRIMARY KEY, features TEXT NOT NULL, used {timestamp} NOT NULL)",
            "CREATE INDEX caps_hash_used ON caps_hash (used)",
        ),
    ),
)


class HashCache:
    """Hash → features. `in_memory` and `on_disk` bound the number of hashes; those not used for longest go first."""

    def __init__(self, db: Database, in_memory: int, on_disk: int) -> None:
        self._db = db
        self._in_memory = in_memory
        self._on_disk = on_disk
        self._known: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._used: dict[str, float] = {}
        self._rows = 0

    def __len__(self) -> int:
        return len(self._known)

    async def load(self) -> None:
        """Read the hashes that were used last."""
        rows = await self._db.fetch(
            "SELECT hash, features, used FROM caps_hash ORDER BY used DESC LIMIT ?", self._in_memory
        )
        for key, features, used in reversed(rows):
            self._remember(key, frozenset(json.loads(features)), used)
        self._rows = int((await self._db.fetch("SELECT COUNT(*) FROM caps_hash"))[0][0])

    def get(self, key: str, now: float) -> frozenset[str] | None:
        """What is in memory."""
        features = self._known.get(key)
        if features is not None:
            self._known.move_to_end(key)
            if now - self._used[key] > _TOUCH:
                self._used[key] = now
                self._append("UPDATE caps_hash SET used = ? WHERE hash = ?", (now, key))
        return features

    async def find(self, key: str, now: float) -> frozenset[str] | None:
        """What is on disk, for a hash that is not in memory."""
        if self._rows <= len(self._known):
            return None
        rows = await self._db.fetch("SELECT features FROM caps_hash WHERE hash = ?", key)
        if not rows:
            return None
        features = frozenset(json.loads(rows[0][0]))
        self._remember(key, features, 0.0)
        return self.get(key, now)

    def put(self, key: str, features: frozenset[str], now: float) -> None:
        """Keep what was verified."""
        self._remember(key, features, now)
        self._append(
            "INSERT INTO caps_hash (hash, features, used) VALUES (?, ?, ?)"
            " ON CONFLICT (hash) DO UPDATE SET used = excluded.used",
            (key, json.dumps(sorted(features)), now),
        )
        self._rows += 1
        if self._rows > self._on_disk:
            self._trim()

    def _trim(self) -> None:
        """A tenth goes at once, so that this happens seldom."""
        keep = self._on_disk - self._on_disk // 10
        self._rows = keep

        def trim(cursor: Cursor) -> None:
            cursor.run(
                "DELETE FROM caps_hash WHERE hash NOT IN (SELECT hash FROM caps_hash ORDER BY used DESC LIMIT ?)", keep
            )

        try:
            self._db.submit("caps.trim", trim)
        except StorageError as error:
            log.warning("caps_row_lost", work="caps.trim", reason=type(error).__name__)

    def _remember(self, key: str, features: frozenset[str], used: float) -> None:
        self._known[key] = features
        self._known.move_to_end(key)
        self._used[key] = used
        if len(self._known) > self._in_memory:
            oldest, _ = self._known.popitem(last=False)
            del self._used[oldest]

    def _append(self, sql: str, params: tuple[object, ...]) -> None:
        """For rows that can be asked for again: a full queue costs the row."""
        try:
            self._db.append("caps.hash", sql, params)
        except StorageError as error:
            log.warning("caps_row_lost", work="caps.hash", reason=type(error).__name__)
