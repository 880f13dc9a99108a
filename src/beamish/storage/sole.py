"""One process at a time on a data directory: a lock that is taken before the database is opened.

SQLite keeps two writers apart, but not two servers: what the modules read at their start, and what they keep in memory, is
theirs alone. The lock (flock) ends with the process, however that ends; the file stays, and holds the number of the process.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from beamish.storage.api import StorageError

LOCK: Final = "beamish.lock"
"""Name of the file in the data directory."""
_AGAIN_SECONDS: Final = 0.05


class DirectoryInUse(StorageError):
    """Another process works on the data directory."""


@asynccontextmanager
async def sole_user(directory: Path, patience: float = 0.0) -> AsyncIterator[None]:
    """Hold the lock of `directory` (which exists) for the block; waits up to `patience` seconds for another to let go.

    Raises `DirectoryInUse` with the number of the process that has it, and `OSError` if the file cannot be opened.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    file = _open(directory)
    try:
        while not _taken(file):
            if loop.time() >= until:
                holder = os.pread(file, 20, 0).decode("ascii", "replace").strip()
                raise DirectoryInUse(f"{directory} is in use by another server or command (process {holder or '?'})")
            await asyncio.sleep(_AGAIN_SECONDS)
        os.ftruncate(file, 0)
        os.pwrite(file, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(file)


def _open(directory: Path) -> int:
    file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:  # or the server could not open it, once root has run one by hand
        owner = directory.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
    return file


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True
