"""What the tests of several modules play with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from beamish.testing.world import World

COURT: dict[str, Any] = {"server": {"admins": ["romeo@example.org"]}, "c2s": {"probe_after": 86400}}
"""Romeo rules, and nobody is asked whether they are there while time passes."""


@pytest_asyncio.fixture
async def court() -> AsyncIterator[World]:
    async with World(settings=COURT) as made:
        yield made
