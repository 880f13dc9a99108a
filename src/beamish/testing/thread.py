"""A `LiveServer` in a thread of its own, for tests that are not coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

import uvloop

from beamish.testing.live import LiveServer

T = TypeVar("T")
_PATIENCE = 60.0


class ServerThread:
    """A context manager: `server` (a `LiveServer()`, if none is given) runs in a thread with a loop of its own.

    Its host, ports, password and `ca` may be read from any thread. Everything that it does belongs into its loop: `run`.
    """

    def __init__(self, server: LiveServer | None = None) -> None:
        self.server = server if server is not None else LiveServer()
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._ended: Future[None] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="beamish-live-server", daemon=True)

    def __enter__(self) -> ServerThread:
        """Returns when clients can connect. Raises what kept the server from starting."""
        self._thread.start()
        self._loop = self._started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server in order. Raises what went wrong with that."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._ended.result()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = _PATIENCE) -> T:
        """Let the server's loop do something, and wait for it: `run(server.client("juliet@example.org/balcony"))`.

        Raises what it raises, and TimeoutError after `timeout` seconds.
        """
        task = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return task.result(timeout)
        finally:
            task.cancel()

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            (self._ended if self._started.done() else self._started).set_exception(error)
        else:
            self._ended.set_result(None)

    async def _serve(self) -> None:
        async with self.server:
            self._started.set_result(asyncio.get_running_loop())
            await self._stop.wait()
