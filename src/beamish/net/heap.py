"""Giving freed memory back to the system.

libxml2 and OpenSSL allocate from the C library's heap; after a wave of logins most of it is free but stays with the
process. glibc returns it when asked; other C libraries have no such call, and nothing is done there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import cast


def _find() -> Callable[[int], int] | None:
    try:
        return cast("Callable[[int], int]", ctypes.CDLL(None).malloc_trim)
    except (AttributeError, OSError):
        return None


_malloc_trim = _find()


def trim() -> None:
    """Return free heap pages to the system; about 0.1 ms for each MB of heap."""
    if _malloc_trim is not None:
        _malloc_trim(0)
