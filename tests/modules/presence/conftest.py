from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.elsewhere import Elsewhere

from beamish.testing import World
from beamish.testing.match import mismatch, pattern
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import from_bytes


class Remote:
    """The other end of federation."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.got = Elsewhere.of(world).left

    async def send(self, xml: str) -> None:
        """A stanza arrives from another server."""
        self.world.kernel.router.post(Stanza.parse(xml.encode()))
        await self.world.settle()

    async def expect(self, *xmls: str) -> None:
        """Exactly these stanzas have been sent to other domains since the last time, in this order."""
        await self.world.settle()
        got, self.got[:] = list(self.got), []
        assert [s.type for s in got] == [(pattern(xml).get("type") or "").strip("!") for xml in xmls], got
        for xml, stanza in zip(xmls, got, strict=True):
            wire = stanza.to_wire().replace(b"<presence", b"<presence xmlns='jabber:client'", 1)
            assert mismatch(xml, from_bytes(wire)) == ""


@pytest.fixture
async def wide_world() -> AsyncIterator[World]:
    """A world in which other domains can be reached."""
    async with World(extra=[Elsewhere]) as world:
        yield world


@pytest.fixture
async def remote(wide_world: World) -> Remote:
    """What happens at other domains."""
    return Remote(wide_world)
