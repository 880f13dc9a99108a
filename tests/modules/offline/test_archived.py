"""A message that the archive has does not come back because offline storage could not take it at the time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from tests.modules.offline.kit import JULIET, bodies, read_page, say, stored, take
from tests.modules.sm.conftest import CALM, SM, managed

from beamish.core.gather import RETRY_SECONDS
from beamish.modules.offline import owed
from beamish.modules.offline import store as pages
from beamish.storage.api import StorageBusy, StorageDamaged, StorageError, StorageUnavailable
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World
from beamish.xmpp.stanza import Stanza

FULL = StorageUnavailable("the disk is full")


@pytest_asyncio.fixture
async def world(expected_errors: ExpectedErrors) -> AsyncIterator[World]:
    expected_errors.events |= {"offline_message_not_stored", "rows_not_stored_yet", "sessions_not_stored"}
    async with World(settings={"c2s": CALM, "modules": {"disable": ["carbons", "csi"]}}) as made:
        yield made


@pytest_asyncio.fixture
async def romeo(world: World) -> Client:
    client, _ = await managed(world, "romeo@example.org/orchard")
    return client


def disk(world: World) -> MemoryDatabase:
    assert isinstance(world.db, MemoryDatabase)
    return world.db


def acknowledged(client: Client) -> int:
    """Ask for an acknowledgement; the last that has come."""
    client.send(f"<r xmlns='{SM}'/>")
    return max((int(el.get("h") or 0) for el in client.inbox if el.tag == f"{{{SM}}}a"), default=0)


def errors(client: Client) -> list[str | None]:
    return [el.get("id") for el in client.inbox if el.get("type") == "error"]


async def archived(world: World) -> list[tuple[Any, ...]]:
    await world.pass_time(20.0)
    return await world.db.fetch("SELECT jid, messages FROM mam_account ORDER BY jid")


async def test_it_is_stored_when_the_disk_takes_it(world: World, romeo: Client) -> None:
    disk(world).fail_next(FULL, jobs=1_000_000)
    for text in ("one", "two", "three"):
        say(romeo, text)
        await world.settle()
    await world.pass_time(5.0)
    assert acknowledged(romeo) == 0
    disk(world).fail_no_more()
    say(romeo, "four")
    for _ in range(4):
        await world.pass_time(RETRY_SECONDS)
    acknowledged(romeo)
    await world.settle()
    assert (errors(romeo), acknowledged(romeo), disk(world).owed) == ([], 4, 0)
    assert await stored(world) == ["one", "two", "three", "four"]
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    assert await read_page(world, juliet) == ["one", "two", "three", "four"]
    assert await archived(world) == [("juliet@example.org", 4), ("romeo@example.org", 4)]


async def test_it_is_stored_when_the_box_can_be_counted(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: Any) -> Any:
        raise StorageBusy("too many reads")

    monkeypatch.setattr(world.db, "read", busy)
    say(romeo, "one")
    await world.settle()
    monkeypatch.undo()
    await world.pass_time(RETRY_SECONDS)
    assert (errors(romeo), await stored(world)) == ([], ["one"])


async def test_so_many_wait_for_that(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    """The others are left to the archive, which the log tells once."""
    expected_errors.add("offline_messages_left_to_archive")
    monkeypatch.setattr(owed, "MOST", 2)
    disk(world).fail_next(FULL, jobs=1_000_000)
    for text in ("one", "two", "three", "four"):
        say(romeo, text)
        await world.settle()
    disk(world).fail_no_more()
    await world.pass_time(RETRY_SECONDS)
    say(romeo, "five")
    await world.pass_time(RETRY_SECONDS)
    assert (errors(romeo), await stored(world)) == ([], ["one", "two", "five"])
    assert await archived(world) == [("juliet@example.org", 5), ("romeo@example.org", 5)]


async def test_they_are_handed_over_some_at_a_time(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands in one turn of the loop would keep everybody else waiting."""
    monkeypatch.setattr(owed, "AT_ONCE", 2)
    texts = [str(number) for number in range(7)]
    with disk(world).refusing():
        for text in texts:
            say(romeo, text)
        await world.settle()
        assert disk(world).owed >= len(texts)
    real = world.db.append
    together: Counter[int] = Counter()

    def append(name: str, sql: str, params: Any, failed: Any = None, size: int = 0, **more: Any) -> int:
        together[disk(world).durable] += name == "offline.store"
        return real(name, sql, params, failed, size, **more)

    monkeypatch.setattr(world.db, "append", append)
    await world.pass_time(RETRY_SECONDS)
    assert (errors(romeo), await stored(world), disk(world).owed) == ([], texts, 0)
    assert max(together.values()) == 2


async def test_it_is_known_later_what_became_of_it_if_too_many_ask(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it is not, nobody gets an acknowledgement."""
    with disk(world).refusing():
        say(romeo, "one")
        await world.settle()
    real = world.db.when_durable
    refused: list[int] = []

    def when_durable(position: int, then: Callable[[], None]) -> None:
        if "OwedMessages" in repr(then) and not refused:
            refused.append(position)
            raise StorageBusy("too many callbacks")
        real(position, then)

    monkeypatch.setattr(world.db, "when_durable", when_durable)
    for _ in range(4):
        await world.pass_time(RETRY_SECONDS)
    acknowledged(romeo)
    await world.settle()
    assert refused
    assert (errors(romeo), acknowledged(romeo), disk(world).owed, await stored(world)) == ([], 1, 0, ["one"])


def test_only_the_bytes_of_what_waits_are_kept() -> None:
    """A tree, which is several times as large, would hold on to the document that it came from."""
    stanza = Stanza.parse(b"<message id='m' type='chat'><body>one</body></message>")
    assert stanza._el is not None
    kept = owed.Owed(stanza, 0.0, archived=True).stanza
    assert kept._el is None
    assert kept.to_wire() == stanza.to_wire()


DAMAGED = StorageDamaged("database disk image is malformed")


def refusing(world: World, monkeypatch: pytest.MonkeyPatch, reason: StorageError) -> list[StorageError]:
    """Offline storage takes nothing, for this reason; what is put into the list in its place holds from then on."""
    real = world.db.append
    why = [reason]

    def append(name: str, sql: str, params: Any, failed: Any = None, size: int = 0, **more: Any) -> int:
        if name != "offline.store":
            return real(name, sql, params, failed, size, **more)

        def refused(_: Any) -> None:  # perhaps twice: by itself if it failed with others
            raise why[0]

        return world.db.submit(name, refused, failed)

    monkeypatch.setattr(world.db, "append", append)
    return why


async def test_those_that_are_given_up_do_not_wait_for_each_other(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    """Nobody gets an acknowledgement before the last of them."""
    expected_errors.add("database_damaged")
    why = refusing(world, monkeypatch, FULL)
    for number in range(20):
        say(romeo, str(number))
    await world.settle()
    assert disk(world).owed >= 20
    why[0] = DAMAGED
    for _ in range(4):
        await world.pass_time(RETRY_SECONDS)
    acknowledged(romeo)
    await world.settle()
    assert (errors(romeo), acknowledged(romeo), disk(world).owed) == ([], 20, 0)


async def test_what_can_never_be_stored_keeps_no_acknowledgement(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(world, monkeypatch, StorageError("no such column"))
    say(romeo, "one")
    await world.pass_time(2 * RETRY_SECONDS)
    acknowledged(romeo)
    await world.settle()
    assert (errors(romeo), acknowledged(romeo), disk(world).owed) == ([], 1, 0)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_damaged_place_keeps_no_acknowledgement(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors, at_once: bool
) -> None:
    """Offline storage takes nothing any more, all else goes on."""
    expected_errors.add("database_damaged")
    why = refusing(world, monkeypatch, DAMAGED if at_once else FULL)
    say(romeo, "one")
    if not at_once:
        await world.settle()
        assert disk(world).owed >= 1
        why[0] = DAMAGED
    for _ in range(4):
        await world.pass_time(RETRY_SECONDS)
    acknowledged(romeo)
    await world.settle()
    assert (errors(romeo), acknowledged(romeo), disk(world).owed, await stored(world)) == ([], 1, 0, [])
    assert await archived(world) == [("juliet@example.org", 1), ("romeo@example.org", 1)]


async def test_one_that_was_held_for_a_session_which_broke_off(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("write_lost")  # when juliet was here last
    monkeypatch.setattr(pages, "PAGE", 1)
    for text in ("0", "1"):
        say(romeo, text)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    assert bodies(take(juliet)[0]) == ["0"]
    with disk(world).held():
        disk(world).fail_next(FULL, jobs=1_000_000)
        say(romeo, "2")
        await world.settle()
        juliet.drop()
        await world.settle()
    await world.settle()
    disk(world).fail_no_more()
    for _ in range(3):
        await world.pass_time(RETRY_SECONDS)
    assert (errors(romeo), await stored(world)) == ([], ["0", "1", "2"])
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    seen = []
    for _ in range(3):
        seen += await read_page(world, juliet)
    assert seen == ["0", "1", "2"]


async def test_nothing_waits_for_an_account_that_is_gone(world: World, romeo: Client) -> None:
    disk(world).fail_next(FULL, jobs=1_000_000)
    say(romeo, "one")
    await world.settle()
    disk(world).fail_no_more()
    removing = asyncio.ensure_future(world.kernel.commands.run("user.remove", {"jid": str(JULIET)}))
    for _ in range(3):
        await world.pass_time(RETRY_SECONDS)
    await removing
    assert (errors(romeo), disk(world).owed, await stored(world)) == ([], 0, [])
