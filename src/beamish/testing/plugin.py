"""A pytest plugin: `world` (a whole server in memory), `live_server` (one on sockets), and a check that nothing logged an
error unannounced.

Installed with the package, so that projects which embed or test against a server have it too. The fixtures do nothing
for tests that do not ask for them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import structlog

from beamish.core.log import configure_events

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


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    """A server in memory with the accounts romeo, juliet, mercutio and nurse at example.org, and benvolio at example.net."""
    from beamish.testing.world import World

    async with World() as made:
        yield made


@pytest_asyncio.fixture
async def live_server() -> AsyncIterator[LiveServer]:
    """A server on free ports of the loopback, with TLS and the accounts of `world`."""
    from beamish.testing.live import LiveServer

    async with LiveServer() as made:
        yield made
