"""Single selects, through aiosqlite: one hop to its thread and back for a query without a transaction around it.

Reads of several statements need one snapshot and go to the readers of `storage.sqlite` instead.
"""

from __future__ import annotations

import sqlite3
from time import perf_counter
from typing import Any, cast

import aiosqlite

from beamish.storage.api import StorageBusy, StorageClosed
from beamish.storage.engine import Timings, storage_error


class Selects:
    """One read-only connection for `Database.fetch`. At most `limit` queries wait for it."""

    def __init__(self, connection: aiosqlite.Connection, limit: int) -> None:
        """Use `Selects.open`."""
        self._connection = connection
        self._limit = limit
        self._waiting = 0
        self._closed = False
        self.timings = Timings()

    @classmethod
    async def open(cls, path: str, *, busy_seconds: float, limit: int) -> Selects:
        """Open the file, which must exist. Raises `StorageError`."""
        connector = aiosqlite.connect(path, timeout=busy_seconds, isolation_level=None)
        # a process that ends without closing must not wait for this thread
        cast("Any", getattr(connector, "_thread", connector)).daemon = True
        try:
            connection = await connector
            await connection.execute_fetchall("PRAGMA query_only = ON")
            await connection.execute_fetchall("PRAGMA trusted_schema = OFF")
        except sqlite3.Error as exc:
            raise storage_error(exc) from exc
        return cls(connection, limit)

    async def fetch(self, sql: str, params: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """All rows of one query. Raises `StorageError`, `StorageBusy`, `StorageClosed`."""
        if self._closed:
            raise StorageClosed("the database is closed")
        if self._waiting >= self._limit:
            raise StorageBusy(f"{self._waiting} reads wait for a reader")
        self._waiting += 1
        started = perf_counter()
        try:
            return cast("list[tuple[Any, ...]]", await self._connection.execute_fetchall(sql, params))
        except sqlite3.Error as exc:
            raise storage_error(exc) from exc
        except ValueError as exc:  # what aiosqlite says of a connection that was closed meanwhile
            if self._closed:
                raise StorageClosed("the database is closed") from exc
            raise
        finally:
            self._waiting -= 1
            self.timings.add("(fetch)", 1, perf_counter() - started)

    async def close(self) -> None:
        """Answer what waits, then close the file."""
        if not self._closed:
            self._closed = True
            await self._connection.close()
