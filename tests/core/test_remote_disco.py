from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from tests.elsewhere import Elsewhere

from beamish.core.events import Context
from beamish.core.remote_disco import RemoteDisco
from beamish.testing.world import World
from beamish.xmpp.jid import JID

INFO = "http://jabber.org/protocol/disco#info"


class Answering(Elsewhere):
    """Every other domain answers: those called `error…` with an error, `silent…` not at all."""

    def answered(self, ctx: Context) -> bool:
        stanza = ctx.stanza
        to = str(stanza.to)
        if to.startswith("error"):
            self.kernel.router.bounce(ctx, _unavailable())
        elif not to.startswith("silent"):
            query = f"<query xmlns='{INFO}'><feature var='urn:example:{to}'/></query>"
            self.kernel.router.post(stanza.reply(query.encode()))
        return False


def _unavailable() -> Any:
    from beamish.xmpp.errors import Condition, StanzaError

    return StanzaError(Condition.SERVICE_UNAVAILABLE)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World(extra=[Answering]) as made:
        yield made


def asked(world: World) -> list[str]:
    return [str(stanza.to) for stanza in Answering.of(world).left]


async def test_an_answer_is_remembered_for_a_day(world: World) -> None:
    disco, at = RemoteDisco(world.kernel), JID.parse("a.example")
    assert disco.known(at) is None
    for _ in range(2):
        assert await disco.features(at) == {"urn:example:a.example"}
    assert disco.known(at) == {"urn:example:a.example"} and asked(world) == ["a.example"]
    await world.pass_time(86_401)
    assert disco.known(at) is None
    await disco.features(at)
    assert len(asked(world)) == 2


async def test_an_error_means_nothing_and_is_asked_again_soon(world: World) -> None:
    disco, at = RemoteDisco(world.kernel), JID.parse("error.example")
    assert await disco.features(at) == frozenset()
    assert disco.known(at) == frozenset()
    await world.pass_time(301)
    assert disco.known(at) is None


async def test_silence_ends(world: World) -> None:
    disco, at = RemoteDisco(world.kernel, timeout=20.0), JID.parse("silent.example")
    task = world.kernel.tasks.spawn(disco.features(at), "ask")
    await world.settle()
    await world.pass_time(19)
    assert not task.done()
    await world.pass_time(2)
    assert task.done() and task.result() == frozenset()


async def test_the_number_remembered_is_bounded(world: World) -> None:
    disco = RemoteDisco(world.kernel, size=2)
    for name in ("a", "b", "c"):
        await disco.features(JID.parse(f"{name}.example"))
    assert [disco.known(JID.parse(f"{name}.example")) is None for name in ("a", "b", "c")] == [True, False, False]
