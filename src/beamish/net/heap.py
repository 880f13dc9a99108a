"""Giving freed memory back to the system.

libxml2 and OpenSSL allocate from the C library's heap; after a wave of logins most of it is free but stays with the
process. glibc returns it when asked; other C libraries have no such call, and nothing is done there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import cast

_M_MMAP_THRESHOLD = -3
_LARGE = 131_072


def _find(name: str) -> Callable[..., int] | None:
    try:
        return cast("Callable[..., int]", getattr(ctypes.CDLL(None), name))
    except (AttributeError, OSError):
        return None


_malloc_trim = _find("malloc_trim")
_mallopt = _find("mallopt")


def keep_large_blocks_apart() -> None:
    """Have blocks of 128 KiB and more in mappings of their own, always; called once at start.

    uvloop gives every TLS connection a buffer of 256 KiB of which it touches a few pages. glibc takes such blocks from
    the common heap once it has seen one freed, where they come with all the pages that somebody else has dirtied: an
    idle TLS session is 60 KiB then instead of 36.
    """
    if _mallopt is not None:
        _mallopt(_M_MMAP_THRESHOLD, _LARGE)


def trim() -> None:
    """Return free heap pages to the system; about 0.1 ms for each MB of heap."""
    if _malloc_trim is not None:
        _malloc_trim(0)
