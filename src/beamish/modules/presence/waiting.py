"""Awaiting what may or may not have to be awaited, one or several of it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar, cast

import structlog

from beamish.core.later import is_later

log = structlog.get_logger(__name__)

T = TypeVar("T")


async def settled(value: T | Awaitable[T]) -> T:
    """The value, whether it is here or has to be waited for."""
    if is_later(value):
        return await cast("Awaitable[T]", value)
    return value


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
