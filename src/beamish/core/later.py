"""Going on after a value that may or may not have to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

if TYPE_CHECKING:
    from typing_extensions import TypeIs

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


def is_later(value: object) -> TypeIs[Awaitable[Any]]:
    """Whether a handler's answer has to be awaited."""
    return value is not None and hasattr(value, "__await__")  # a third of what inspect.isawaitable costs


async def settled(value: A | Awaitable[A]) -> A:
    """The value, whether it is here or has to be waited for; also the coroutine that a task for an awaitable needs."""
    return await value if is_later(value) else value


def then(value: A | Awaitable[A], go_on: Callable[[A], B | Awaitable[B]]) -> B | Awaitable[B]:
    """`go_on(value)` now if the value is here, otherwise a coroutine that does so when it is."""
    if is_later(value):
        return _then(cast("Awaitable[A]", value), go_on)
    return go_on(value)


async def _then(value: Awaitable[A], go_on: Callable[[A], B | Awaitable[B]]) -> B:
    result = go_on(await value)
    if is_later(result):
        return await cast("Awaitable[B]", result)
    return result


class Begun(Generic[A]):
    """A coroutine that runs now until it has to wait for the first time, and goes on when it is awaited, once.

    A task would begin it with the next iteration of the loop, and what it asks a thread for would come as much later. If
    what it waited for has come when it is awaited, it goes on at once. What it raises is raised where it is awaited. Until
    its first wait it must not ask for the current task.
    """

    __slots__ = ("_coroutine", "_error", "_result", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, A]) -> None:
        self._coroutine: Coroutine[Any, Any, A] | None = coroutine
        self._waits_for: Any = None
        self._result: Any = None
        self._error: Exception | None = None
        try:
            self._waits_for = coroutine.send(None)
        except StopIteration as done:
            self._coroutine, self._result = None, done.value
        except Exception as error:
            self._coroutine, self._error = None, error

    def __await__(self) -> Generator[Any, Any, A]:
        """Go on."""
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is None:
            if self._error is not None:
                raise self._error
            return cast("A", self._result)
        waits_for = self._waits_for
        try:
            if asyncio.isfuture(waits_for) and waits_for.done():
                waits_for = coroutine.send(None)
            while True:
                try:
                    value = yield waits_for
                except BaseException as error:
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(value)
        except StopIteration as done:
            return cast("A", done.value)
