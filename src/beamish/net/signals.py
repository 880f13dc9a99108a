"""The signals that a supervisor or a person sends to the server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


class Signals:
    """SIGTERM and SIGINT ask for the stop, SIGHUP for a reload: one that is asked for during the start follows it.

    While the server stops in order, a further SIGTERM cuts nothing short (supervisors repeat it), nor does a reload, which has
    nothing left to do. A further SIGINT ends the process as ever; so do both during the start, which leaves nothing half done.
    """

    def __init__(self, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self._reload = reload
        self._early = False

    def __enter__(self) -> Signals:
        self._loop.add_signal_handler(signal.SIGHUP, self._too_early)
        return self

    def _too_early(self) -> None:
        self._early = True

    def ready(self) -> None:
        """The start is over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        if self._early:
            self._loop.call_soon(self._reload)

    def stopping(self) -> None:
        """The stop begins."""
        self._loop.remove_signal_handler(signal.SIGINT)
        self._loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def __exit__(self, *_: object) -> None:
        self.stopping()
        self._loop.remove_signal_handler(signal.SIGTERM)
