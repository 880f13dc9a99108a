"""What a newcomer to a node gets is not behind what it heard of while that was looked up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from beamish.modules.pubsub.hosts import CACHED_ITEM
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client

from .kit import SERVICE, Stage

LARGE = "x" * (CACHED_ITEM + 1)
"""A payload that is not kept in memory: as a last item it is looked up."""


def published(id: str, text: str = "x", *, to: str = SERVICE) -> str:
    at = f" to='{to}'" if to else ""
    item = f"<item id='{id}'><entry xmlns='urn:test'>{text}</entry></item>"
    inner = f"<publish node='musings'>{item}</publish>"
    return f"<iq type='set' id='{id}'{at}><pubsub xmlns='http://jabber.org/protocol/pubsub'>{inner}</pubsub></iq>"


class Meanwhile:
    """Lets somebody say something each time that something is being read, a number of times."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str, who: Client, what: list[str]) -> None:
        db = stage.world.db
        assert isinstance(db, MemoryDatabase)
        self._db = db
        self._name = name
        self._who = who
        self.what = what
        self._real = db.write
        self._tasks: list[asyncio.Task[None]] = []
        monkeypatch.setattr(db, "write", self._write)

    def _write(self, name: str, fn: Any) -> Coroutine[Any, Any, Any]:
        if name == self._name and self.what:
            self._db.hold()
            self._tasks.append(asyncio.ensure_future(self._say(self.what.pop(0))))
        return self._real(name, fn)

    async def _say(self, what: str) -> None:
        waiting = len(self._db._fresh)
        self._who.send(what)
        for _ in range(100):
            if len(self._db._fresh) > waiting:
                break
            await asyncio.sleep(0)
        assert len(self._db._fresh) > waiting, "it is on its way to the disk, behind what is being read"
        self._db.release()


@pytest.mark.parametrize("later", ["x", LARGE], ids=["kept", "too large to be kept"])
async def test_a_new_subscriber(stage: Stage, monkeypatch: pytest.MonkeyPatch, later: str) -> None:
    romeo = await stage.login("romeo@example.org/orchard")
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.create(romeo, "musings")
    await stage.publish(romeo, "musings", "one", LARGE)
    Meanwhile(stage, monkeypatch, "pubsub.last", romeo, [published("two", later)])
    await stage.subscribe(juliet, "musings")
    assert await stage.ids(juliet) == ["two"]


async def test_an_interested_resource(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    romeo = await stage.login("romeo@example.org/orchard")
    await stage.publish(romeo, "musings", "one", LARGE, to="")
    Meanwhile(stage, monkeypatch, "pubsub.last", romeo, [published("two", LARGE, to="")])
    tablet = await stage.login("romeo@example.org/tablet")
    stage.caps.of(tablet.jid, "musings")
    assert await stage.ids(tablet) == ["two"]


@pytest.mark.parametrize(
    ("kept", "said", "expected"),
    [
        ("1", ["two"], ["two"]),
        ("1", ["two", "three"], ["two", "three"]),
        ("10", ["two"], ["two", "one", "two"]),
        ("10", ["two", "three"], ["two", "three", "one", "two", "three"]),
    ],
)
async def test_what_was_missed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, kept: str, said: list[str], expected: list[str]
) -> None:
    """Nothing that was missed is left out, and the last that is heard of is the last that there is."""
    romeo = await stage.login("romeo@example.org/orchard")
    tablet = await stage.login("romeo@example.org/tablet", presence=False)
    await stage.create(romeo, "musings", max_items=kept)
    await stage.subscribe(romeo, "musings")
    await stage.publish(romeo, "musings", "one")
    romeo.inbox.clear()
    Meanwhile(stage, monkeypatch, "pubsub.since", romeo, [published(id_) for id_ in said])
    tablet.send("<presence><ago xmlns='urn:xmpp:ago:0' secs='60'/></presence>")
    assert await stage.ids(tablet) == expected


async def test_what_was_missed_while_somebody_publishes_without_a_pause(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    romeo = await stage.login("romeo@example.org/orchard")
    tablet = await stage.login("romeo@example.org/tablet", presence=False)
    await stage.create(romeo, "musings", max_items="100")
    await stage.subscribe(romeo, "musings")
    await stage.publish(romeo, "musings", "one")
    meanwhile = Meanwhile(stage, monkeypatch, "pubsub.since", romeo, [published(f"n{n}") for n in range(10)])
    tablet.send("<presence><ago xmlns='urn:xmpp:ago:0' secs='60'/></presence>")
    got = await stage.ids(tablet)
    assert "one" in got
    assert len(meanwhile.what) == 7, "it is not read for ever"
