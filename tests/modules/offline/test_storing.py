"""What of XEP-0160 is kept through a whole server, how much of it, and for whom."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.modules.offline.kit import (
    ALONE,
    CHAT_STATE,
    DELAY,
    JULIET,
    answer,
    bodies,
    insert,
    module,
    read_page,
    say,
    stored,
    take,
)

from beamish.core.events import Context
from beamish.modules.offline import store
from beamish.modules.offline.worth import worth_keeping
from beamish.storage.api import StorageBusy
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World
from beamish.xmpp.stanza import Stanza

# ---- what is kept ---------------------------------------------------------------------------------------------------


async def test_messages_wait_and_come_in_order_with_the_time_they_were_stored(world: World, romeo: Client) -> None:
    for text in ("one", "two", "three"):
        say(romeo, text, type="" if text == "two" else "chat")
        await world.pass_time(1.5)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    messages, pings = take(juliet)
    assert bodies(messages) == ["one", "two", "three"]
    assert [el.find(DELAY).get("stamp") for el in messages] == [  # type: ignore[union-attr]
        "2023-11-14T22:13:20.000Z",
        "2023-11-14T22:13:21.500Z",
        "2023-11-14T22:13:23.000Z",
    ]
    assert {el.find(DELAY).get("from") for el in messages} == {"example.org"}  # type: ignore[union-attr]
    assert {(el.get("from"), el.get("to")) for el in messages} == {(str(romeo.jid), "juliet@example.org")}
    assert [el.get("type") for el in messages] == ["chat", None, "chat"]
    assert len(pings) == 1
    assert await stored(world) == ["one", "two", "three"], "nothing is proved yet"
    answer(juliet, pings[0])
    await world.settle()
    assert await stored(world) == []
    assert not romeo.inbox, "nobody was told anything"


async def test_nothing_comes_twice(world: World, romeo: Client) -> None:
    say(romeo, "one")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    answer(juliet, take(juliet)[1][0])
    juliet.send("<presence><show>away</show></presence>")
    await world.settle()
    again = await world.login("juliet@example.org/phone", presence=True)
    for client in (juliet, again):
        assert take(client) == ([], [])


@pytest.mark.parametrize("type", ["groupchat", "headline", "error"])
async def test_other_types_are_not_stored(world: World, romeo: Client, type: str) -> None:
    say(romeo, "x", type=type)
    await world.settle()
    assert await stored(world) == []


WORTH = {
    "<body>x</body>": True,
    f"<body>x</body>{CHAT_STATE}<thread>t</thread>": True,
    "<subject>x</subject>": True,
    "<body>x</body><received xmlns='urn:xmpp:receipts' id='1'/>": True,
    "<body>x</body><request xmlns='urn:xmpp:receipts'/>": True,
    "<encrypted xmlns='urn:xmpp:omemo:2'/>": True,
    f"{CHAT_STATE}<store xmlns='urn:xmpp:hints'/>": True,
    "<body>x</body><no-permanent-store xmlns='urn:xmpp:hints'/>": True,
    "<body>x</body><no-store xmlns='urn:xmpp:hints'/>": False,
    "<no-store xmlns='urn:xmpp:hints'/><body>x</body><store xmlns='urn:xmpp:hints'/>": False,
    CHAT_STATE: False,
    f"{CHAT_STATE}<thread>t</thread><origin-id xmlns='urn:xmpp:sid:0' id='1'/><no-copy xmlns='urn:xmpp:hints'/>": False,
    f"<body/>{CHAT_STATE}": False,
    "<sent xmlns='urn:xmpp:carbons:2'/>": False,
    "<delay xmlns='urn:xmpp:delay' from='capulet.com' stamp='2002-09-10T23:08:25Z'/>": False,
    "": False,
}


@pytest.mark.parametrize("content", WORTH)
async def test_what_is_worth_keeping(world: World, romeo: Client, content: str) -> None:
    romeo.send(f"<message to='juliet@example.org' type='chat' id='w'>{content}</message>")
    await world.settle()
    assert len(await stored(world)) == WORTH[content]
    if WORTH[content]:
        await romeo.expect_nothing()
    else:
        await romeo.expect(
            "<message type='error' id='w' from='juliet@example.org'><error type='cancel'>"
            "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        )


@pytest.mark.parametrize("archive", [True, False])
async def test_a_receipt_is_no_message_and_its_sender_hears_only_of_one_that_nobody_has(archive: bool) -> None:
    async with World(settings={"modules": {} if archive else {"disable": ["mam"]}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        romeo.send("<message to='juliet@example.org' id='w'><received xmlns='urn:xmpp:receipts' id='1'/></message>")
        await world.settle()
        assert await stored(world) == []
        if not archive:
            await romeo.expect("<message type='error' id='w' from='juliet@example.org'/>")
        await romeo.expect_nothing()


@given(st.permutations(("<body>x</body>", CHAT_STATE, "<thread>t</thread>", "<a xmlns='urn:b'/>")))
def test_the_order_of_children_makes_no_difference(children: list[str]) -> None:
    content = "".join(children)
    stanza = Stanza.parse(f"<message>{content}</message>".encode())
    assert worth_keeping(stanza, "example.org") is stanza


async def test_an_earlier_stamp_stays_and_a_forged_one_goes(world: World, romeo: Client) -> None:
    romeo.send(
        "<message to='juliet@example.org' type='chat'><body>x</body>"
        "<delay xmlns='urn:xmpp:delay' from='romeo@example.org' stamp='2002-09-10T23:08:25Z'/>"
        "<delay xmlns='urn:xmpp:delay' from='Example.org' stamp='1999-09-10T23:08:25Z'/></message>"
    )
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    (message,) = take(juliet)[0]
    assert [(el.get("from"), el.get("stamp")) for el in message.findall(DELAY)] == [
        ("romeo@example.org", "2002-09-10T23:08:25Z"),
        ("example.org", "2023-11-14T22:13:20.000Z"),
    ]


async def test_a_chat_to_a_resource_that_is_gone_is_stored(world: World, romeo: Client) -> None:
    say(romeo, "x", to="juliet@example.org/gone")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    assert bodies(take(juliet)[0]) == ["x"]


async def test_no_account_no_store(world: World, romeo: Client) -> None:
    say(romeo, "x", to="nobody@example.org")
    await romeo.expect("<message type='error' id='x'/>")
    assert await stored(world, "nobody@example.org") == []


async def test_a_session_with_a_negative_priority_waits_until_it_comes_up(world: World, romeo: Client) -> None:
    juliet = await world.login("juliet@example.org/balcony", priority=-1)
    say(romeo, "x")
    await world.settle()
    assert take(juliet) == ([], [])
    juliet.send("<presence><priority>0</priority></presence>")
    await world.settle()
    assert await read_page(world, juliet) == ["x"]
    assert await stored(world) == []


# ---- limits ---------------------------------------------------------------------------------------------------------


async def test_a_full_store_refuses_and_recovers() -> None:
    async with World(settings={"modules": ALONE | {"offline": {"max_messages": 2}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for text in ("one", "two", "three"):
            say(romeo, text)
        refused = await romeo.expect(
            "<message type='error' id='three'><error type='cancel'>"
            "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        )
        assert refused.findtext(".//{*}text") == "offline storage full"
        say(romeo, "elsewhere", to="mercutio@example.org")
        await romeo.expect_nothing()
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        assert await read_page(world, juliet) == ["one", "two"]
        await juliet.close()
        say(romeo, "four")
        say(romeo, "five")
        await world.settle()
        assert await stored(world) == ["four", "five"]
        await romeo.expect_nothing()


async def test_the_limit_counts_what_an_earlier_run_stored_and_bytes() -> None:
    database = MemoryDatabase()
    settings: dict[str, Any] = {"modules": ALONE | {"offline": {"max_bytes": 1200}}}
    async with World(settings=settings, database=database) as world:
        romeo = await world.login("romeo@example.org/orchard")
        say(romeo, "a" * 700, id="a")
        await world.settle()
    async with World(settings=settings, database=database) as world:
        romeo = await world.login("romeo@example.org/orchard")
        say(romeo, "b" * 300, id="b")
        await romeo.expect("<message type='error' id='b'/>")
        say(romeo, "c")
        await world.settle()
        assert await stored(world) == ["a" * 700, "c"]
    await database.close()


async def test_memory_is_bounded_and_counting_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "REMEMBERED", 2)
    async with World(settings={"modules": ALONE | {"offline": {"max_messages": 2}}}) as world:
        benvolio = await world.login("benvolio@example.net/street")
        for text in ("1", "2"):
            for name in ("romeo", "juliet", "mercutio", "nurse"):
                say(benvolio, text, to=f"{name}@example.org")
        await world.settle()
        assert len(module(world).store._boxes) == 2
        for name in ("romeo", "juliet", "mercutio", "nurse"):
            assert await stored(world, f"{name}@example.org") == ["1", "2"]
            say(benvolio, "3", id=name, to=f"{name}@example.org")
            await benvolio.expect(f"<message type='error' id='{name}'/>")


async def test_the_sender_is_not_acknowledged_before_the_commit(world: World, romeo: Client) -> None:
    say(romeo, "first")
    await world.settle()
    ctx = Context(
        Stanza.parse(
            b"<message type='chat' from='romeo@example.org/orchard' to='juliet@example.org'><body>x</body></message>"
        )
    )
    with world.db.held():
        assert world.kernel.router.route(ctx) is None, "an account whose count is known makes nobody wait"
        assert ctx.settled > world.db.durable
    await world.settle()
    assert ctx.settled <= world.db.durable
    assert await stored(world) == ["first", "x"]


async def test_a_row_that_cannot_be_committed_goes_back_to_the_sender(
    world: World, romeo: Client, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("offline_message_not_stored")
    say(romeo, "kept")
    await world.settle()
    world.db.fail_next()
    say(romeo, "lost")
    await romeo.expect(
        "<message type='error' id='lost' from='juliet@example.org'><error type='wait'>"
        "<resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    assert await stored(world) == ["kept"]
    box = module(world).store._boxes[JULIET]
    assert (box.count, box.known) == (1, True)


@pytest.mark.parametrize("known", [True, False])
async def test_a_busy_database_is_said_to_the_sender(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if known:
        say(romeo, "kept")
        await world.settle()

    def busy(*_: Any) -> Any:
        raise StorageBusy("full")

    monkeypatch.setattr(world.db, "append" if known else "read", busy)
    say(romeo, "x")
    await romeo.expect(
        "<message type='error' id='x'><error type='wait'>"
        "<resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    monkeypatch.undo()
    say(romeo, "y")
    await world.settle()
    assert await stored(world) == (["kept", "y"] if known else ["y"])


# ---- accounts -------------------------------------------------------------------------------------------------------


async def test_a_removed_account_leaves_nothing(world: World, romeo: Client) -> None:
    from beamish.core.services import AccountsService

    accounts = world.kernel.service(AccountsService)
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await accounts.remove(JULIET)
    assert await stored(world) == []
    await accounts.add(JULIET, "correct horse")
    say(romeo, "y")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    assert bodies(take(juliet)[0]) == ["y"]


async def test_the_command_counts(world: World, romeo: Client) -> None:
    say(romeo, "x")
    await world.settle()
    result = await world.kernel.commands.run("offline.count", {"jid": "juliet@example.org"})
    assert (result["jid"], result["messages"]) == ("juliet@example.org", 1)
    assert result["bytes"] > 50
    assert (await world.kernel.commands.run("offline.count", {"jid": "nobody@example.org"}))["messages"] == 0


async def test_damaged_rows_do_not_stop_the_others(world: World, expected_errors: ExpectedErrors) -> None:
    expected_errors.add("offline_message_damaged")
    await insert(world.db, b"<message", b"<message type='chat'><body>x</body></message>")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    assert await read_page(world, juliet) == ["x"]
    assert await stored(world) == []
