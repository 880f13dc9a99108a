"""A pytest plugin: `world` (a whole server in memory), `live_server` (one on sockets), and a check that nothing logged an
error unannounced.

Installed with the package, so that projects which embed or test against a server have it too. pytest loads it wherever the
package is installed, so it imports nothing of the server, and not pytest-asyncio if that is not there, before a test asks.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

try:
    import pytest_asyncio
except ImportError:
    pytest_asyncio = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from beamish.testing.live import LiveServer
    from beamish.testing.world import World


class ExpectedErrors:
    """Errors that a test means to cause: `expected_errors.add("event_name")`."""

    def __init__(self) -> None:
        self.events: set[str] = set()

    def add(self, event: str) -> None:
        """Announce an event that may be logged as an error."""
        self.events.add(event)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def expected_errors() -> ExpectedErrors:
    """Where a test announces the errors it means to cause."""
    return ExpectedErrors()


@pytest.fixture
def no_unexpected_errors(expected_errors: ExpectedErrors) -> Iterator[None]:
    """Fails the test if the server logged an error that was not announced. Use it with `autouse` in a conftest."""
    import structlog

    from beamish.core.log import configure_events

    configure_events([structlog.stdlib.render_to_log_kwargs], cache=False)
    collector = _Collector()
    logger = logging.getLogger("beamish")
    level = logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
    bad = [r for r in collector.records if r.getMessage() not in expected_errors.events]
    assert not bad, "unexpected errors: " + "; ".join(_told(record) for record in bad)


def _told(record: logging.LogRecord) -> str:
    known = {"event", "logger", "level", "timestamp", "exception"}
    extra = {
        k: v for k, v in record.__dict__.items() if k not in logging.LogRecord("", 0, "", 0, "", (), None).__dict__
    }
    return f"{record.getMessage()} { ({k: v for k, v in extra.items() if k not in known - {'exception'}}) }"


def _asynchronous(function: Callable[[], AsyncIterator[Any]]) -> Any:
    """A fixture of pytest-asyncio; without it, one that says what is missing."""
    if pytest_asyncio is not None:
        return pytest_asyncio.fixture(function)

    def missing() -> None:
        pytest.fail(
            f"the fixture {function.__name__!r} needs pytest-asyncio: pip install pytest-asyncio", pytrace=False
        )

    missing.__doc__ = function.__doc__
    return pytest.fixture(name=function.__name__)(missing)


@_asynchronous
async def world() -> AsyncIterator[World]:
    """A server in memory with the accounts romeo, juliet, mercutio and nurse at example.org, and benvolio at example.net."""
    from beamish.testing.world import World

    async with World() as made:
        yield made


@_asynchronous
async def live_server() -> AsyncIterator[LiveServer]:
    """A server on free ports of the loopback, with TLS and the accounts of `world`."""
    from beamish.testing.live import LiveServer

    async with LiveServer() as made:
        yield made
