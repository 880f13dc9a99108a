"""A real file on a disk that gets full: SQLite's own bound on the size of a database stands for it.

Where the database is in memory, `MemoryDatabase.refusing` is the disk that takes nothing.
"""

from __future__ import annotations

from beamish.storage.api import Cursor, Database


async def room_for(db: Database, pages: int) -> None:
    """From now on the file may grow by so many pages of 4 KiB and no more. What is free inside it can be used all the same."""

    def work(c: Cursor) -> None:
        used = int(c.value("PRAGMA page_count"))
        c.value(f"PRAGMA max_page_count = {used + pages}")

    await db.write("room", work)


async def room_for_all(db: Database) -> None:
    """The disk is large again."""
    await room_for(db, 1_000_000)
