"""Awaiting several things, none of which may keep the others from being awaited."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

log = structlog.get_logger(__name__)


def in_order(waiting: list[Awaitable[None]]) -> Awaitable[None] | None:
    """One awaitable for several, awaited one after the other; None for none."""
    if not waiting:
        return None
    return waiting[0] if len(waiting) == 1 else _in_order(waiting)


async def _in_order(waiting: list[Awaitable[None]]) -> None:
    for at, rest in enumerate(waiting):
        try:
            await rest
        except Exception:
            # One that fails must not keep the others from being awaited: they concern other people.
            log.exception("presence_failed", part=at)
