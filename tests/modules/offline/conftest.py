"""A server whose messages for absent accounts have nothing but offline storage."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.modules.offline.kit import ALONE

from beamish.testing.client import Client
from beamish.testing.world import World


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World(settings={"modules": ALONE}) as made:
        yield made


@pytest_asyncio.fixture
async def romeo(world: World) -> Client:
    """Who writes while nobody is there."""
    return await world.login("romeo@example.org/orchard")
