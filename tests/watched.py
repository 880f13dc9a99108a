"""The loop of the tests, which can wait for anything that happens in the process, also where nobody is told of it.

Within one process, what a test can see changes only while the loop runs callbacks. So it is enough to look each time when
all that were ready have run, before the loop would rest: no time is lost, and none has to be guessed.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

Condition = Callable[[], object]


class WatchedSelector(selectors.DefaultSelector):
    """A selector that looks at conditions before it waits; asyncio asks it once in each of its rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.conditions: dict[asyncio.Future[None], Condition] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors.BaseSelector.select`; does not wait if a condition has come true."""
        if self.conditions and self._look():
            timeout = 0
        return super().select(timeout)

    def _look(self) -> bool:
        found = False
        for future, condition in tuple(self.conditions.items()):
            if future.done():
                continue
            try:
                if not condition():
                    continue
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)
            found = True
        return found


class WatchedLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop on Unix, with `until`."""

    def __init__(self) -> None:
        self._watched = WatchedSelector()
        super().__init__(self._watched)

    async def until(self, condition: Condition, seconds: float) -> None:
        """See the function of this name."""
        future = self.create_future()
        self._watched.conditions[future] = condition
        try:
            await asyncio.wait_for(future, seconds)
        finally:
            del self._watched.conditions[future]


async def until(condition: Condition, seconds: float = 10.0) -> None:
    """Wait until a condition on this process is true; it is called often, and must change nothing.

    Raises TimeoutError when it is not within so many seconds, and what the condition raises.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, WatchedLoop), "the loop is not the one that tests/conftest.py gives to tests"
    await loop.until(condition, seconds)
