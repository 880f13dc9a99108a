"""Room in the write-ahead log, made before it is needed.

SQLite lets the log grow with the commits until the first checkpoint and writes over it from then on. A file that grows costs
each commit a turn of the file system's journal, which has to wait for whatever else is written on that disk; one that is
written over does not. So after a start the log is filled up with zeros to the size that it will have anyway. For SQLite they
are no frames (§4.1 of its file format): a reader, or a recovery after a crash, ends where the checksums end.
"""

from __future__ import annotations

import os
from typing import Final

STEP: Final = 1_048_576
"""Bytes at a time: some milliseconds of a slow disk."""
_SPARE: Final = 64
"""How many times what is wanted must be free on the file system: one that is nearly full has better use for it."""


def extend(path: str, upto: int) -> bool:
    """Make the log of a database a step longer, in the file system's memory. False: it is long enough, or space is scarce.

    To be called inside of a writing transaction: nobody else may append meanwhile. The database's locks are on other files.
    Raises `OSError`.
    """
    file = os.open(f"{path}-wal", os.O_RDWR)
    try:
        size = os.fstat(file).st_size
        room = os.fstatvfs(file)
        if size >= upto or room.f_bavail * room.f_frsize < _SPARE * upto:
            return False
        os.pwrite(file, bytes(min(STEP, upto - size)), size)
        return True
    finally:
        os.close(file)


def settle(path: str) -> None:
    """Wait until the disk has what was made longer, so that no commit has to. Raises `OSError`."""
    file = os.open(f"{path}-wal", os.O_RDWR)
    try:
        os.fdatasync(file)
    finally:
        os.close(file)


__all__ = ["STEP", "extend", "settle"]
