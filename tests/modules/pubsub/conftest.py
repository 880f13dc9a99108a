from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from beamish.testing import LiveServer
from beamish.testing.world import ACCOUNTS, World

from .kit import FAST, PATIENT, Stage


@pytest.fixture(autouse=True)
def _quiet(no_unexpected_errors: None) -> None:
    """Every play fails if the server logs an error that was not announced."""


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    """A server in memory."""
    async with World(settings=PATIENT) as world:
        yield Stage(world)


@pytest_asyncio.fixture(params=["memory", "tls"])
async def stages(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """A server in memory, then one on sockets that are spoken to in TLS."""
    if request.param == "memory":
        async with World() as world:
            yield Stage(world)
    else:
        async with LiveServer(accounts=ACCOUNTS[:4], settings=FAST) as server:
            yield Stage(server)
