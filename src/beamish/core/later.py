"""Going on after a value that may or may not have to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, TypeVar, cast

A = TypeVar("A")
B = TypeVar("B")


_SLICE: Final = 200


async def unhurried(items: Iterable[A], slice: int = _SLICE) -> AsyncIterator[A]:
    """The items, with a turn for everybody else after every `slice` of them.

    For work on each session or account; between two turns anything may have changed.
    """
    for number, item in enumerate(items, 1):
        yield item
        if number % slice == 0:
            await asyncio.sleep(0)


def is_later(value: object) -> bool:
    """Whether a handler's answer has to be awaited."""
    return value is not None and hasattr(value, "__await__")  # a third of what inspect.isawaitable costs


def then(value: A | Awaitable[A], go_on: Callable[[A], B | Awaitable[B]]) -> B | Awaitable[B]:
    """`go_on(value)` now if the value is here, otherwise a coroutine that does so when it is."""
    if is_later(value):
        return _then(cast("Awaitable[A]", value), go_on)
    return go_on(cast("A", value))


async def _then(value: Awaitable[A], go_on: Callable[[A], B | Awaitable[B]]) -> B:
    result = go_on(await value)
    if is_later(result):
        return await cast("Awaitable[B]", result)
    return cast("B", result)
