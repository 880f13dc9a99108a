"""XEP-0160 through a whole server: what is kept, what order it comes in, and when it may be forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from beamish.core.events import Context
from beamish.core.module import Module
from beamish.core.services import DeliveryReceipts
from beamish.core.sessions import Session
from beamish.modules import offline
from beamish.modules.offline import OfflineModule, worth_keeping
from beamish.storage.api import StorageBusy, StorageUnavailable
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element

JULIET = JID.parse("juliet@example.org")
ALONE: dict[str, Any] = {"disable": ["mam", "sm"]}
"""Modules so that rows, bytes and failures of the database are those of offline storage, and pings its only proof."""
DELAY = "{urn:xmpp:delay}delay"


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World(settings={"modules": ALONE}) as made:
        yield made


def say(client: Client, text: str, to: str = JULIET, **attributes: str) -> None:
    """Send a message whose id is its text."""
    given = {"type": "chat", "id": text} | attributes
    extra = " ".join(f"{k}='{v}'" for k, v in given.items() if v)
    client.send(f"<message to='{to}' {extra}><body>{text}</body></message>")


async def stored(world: World, account: str = JULIET) -> list[str]:
    """The bodies in the store, committed or not."""
    rows = await world.db.write(
        "test", lambda c: c.rows("SELECT wire FROM offline_message WHERE account = ? ORDER BY id", str(account))
    )
    return [Stanza.parse(bytes(wire)).text("{jabber:client}body") or "" for (wire,) in rows]


def take(client: Client) -> tuple[list[Element], list[Element]]:
    """Empty the inbox: its messages, and the pings."""
    got = list(client.inbox)
    client.inbox.clear()
    messages = [el for el in got if el.tag == "{jabber:client}message"]
    return messages, [el for el in got if el.find("{jabber:iq:version}query") is not None]


def bodies(messages: list[Element]) -> list[str | None]:
    return [el.findtext("{*}body") for el in messages]


def answer(client: Client, ping: Element, type: str = "result") -> None:
    """Answer a ping, as every client must."""
    error = "<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
    inner = error if type == "error" else ""
    client.send(f"<iq type='{type}' id='{ping.get('id')}' to='{ping.get('from')}'>{inner}</iq>")


def module(world: World) -> OfflineModule:
    return next(m for m in world.kernel.registry.modules if isinstance(m, OfflineModule))


# ---- what is kept ---------------------------------------------------------------------------------------------------


async def test_messages_wait_and_come_in_order_with_the_time_they_were_stored(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
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


async def test_nothing_comes_twice(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "one")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    answer(juliet, take(juliet)[1][0])
    juliet.send("<presence><show>away</show></presence>")
    await world.settle()
    again = await world.login("juliet@example.org/phone", presence=True)
    for client in (juliet, again):
        assert take(client) == ([], [])


@pytest.mark.parametrize("type", ["groupchat", "headline", "error"])
async def test_other_types_are_not_stored(world: World, type: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x", type=type)
    await world.settle()
    assert await stored(world) == []


CHAT_STATE = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
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
async def test_what_is_worth_keeping(world: World, content: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
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


async def test_an_earlier_stamp_stays_and_a_forged_one_goes(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
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


async def test_a_chat_to_a_resource_that_is_gone_is_stored(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x", to="juliet@example.org/gone")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    assert bodies(take(juliet)[0]) == ["x"]


async def test_no_account_no_store(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x", to="nobody@example.org")
    await romeo.expect("<message type='error' id='x'/>")
    assert await stored(world, "nobody@example.org") == []


async def test_a_session_with_a_negative_priority_waits_until_it_comes_up(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/balcony", priority=-1)
    say(romeo, "x")
    await world.settle()
    assert take(juliet) == ([], [])
    juliet.send("<presence><priority>0</priority></presence>")
    await world.settle()
    messages, pings = take(juliet)
    assert bodies(messages) == ["x"]
    answer(juliet, pings[0])
    await world.settle()
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
        messages, pings = take(juliet)
        assert bodies(messages) == ["one", "two"]
        answer(juliet, pings[0])
        await world.settle()
        await juliet.close()
        say(romeo, "four")
        say(romeo, "five")
        await world.settle()
        assert await stored(world) == ["four", "five"]
        await romeo.expect_nothing()


async def test_the_limit_counts_what_an_earlier_run_stored_and_bytes() -> None:
    database = MemoryDatabase()
    settings: dict[str, Any] = {"modules": ALONE | {"offline": {"max_bytes": 1024}}}
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
    monkeypatch.setattr(offline, "_REMEMBERED", 2)
    async with World(settings={"modules": ALONE | {"offline": {"max_messages": 2}}}) as world:
        benvolio = await world.login("benvolio@example.net/street")
        for text in ("1", "2"):
            for name in ("romeo", "juliet", "mercutio", "nurse"):
                say(benvolio, text, to=f"{name}@example.org")
        await world.settle()
        assert len(module(world)._boxes) == 2
        for name in ("romeo", "juliet", "mercutio", "nurse"):
            assert await stored(world, f"{name}@example.org") == ["1", "2"]
            say(benvolio, "3", id=name, to=f"{name}@example.org")
            await benvolio.expect(f"<message type='error' id='{name}'/>")


async def test_the_sender_is_not_acknowledged_before_the_commit(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "first")
    await world.settle()
    ctx = Context(
        Stanza.parse(
            b"<message type='chat' from='romeo@example.org/orchard' to='juliet@example.org'><body>x</body></message>"
        )
    )
    world.db.hold()
    assert world.kernel.router.route(ctx) is None, "an account whose count is known makes nobody wait"
    assert ctx.settled > world.db.durable
    world.db.release()
    await world.settle()
    assert ctx.settled <= world.db.durable
    assert await stored(world) == ["first", "x"]


async def test_a_row_that_cannot_be_committed_goes_back_to_the_sender(
    world: World, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("offline_message_not_stored")
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "kept")
    await world.settle()
    world.db.fail_next(StorageUnavailable("the disk is full"))
    say(romeo, "lost")
    await romeo.expect(
        "<message type='error' id='lost' from='juliet@example.org'><error type='wait'>"
        "<resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    assert await stored(world) == ["kept"]
    box = module(world)._boxes[JULIET]
    assert (box.count, box.known) == (1, True)


@pytest.mark.parametrize("known", [True, False])
async def test_a_busy_database_is_said_to_the_sender(
    world: World, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    if known:
        say(romeo, "kept")
        await world.settle()

    def busy(*_: Any) -> Any:
        raise StorageBusy("full")

    monkeypatch.setattr(world.db, "append" if known else "write", busy)
    say(romeo, "x")
    await romeo.expect(
        "<message type='error' id='x'><error type='wait'>"
        "<resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    monkeypatch.undo()
    say(romeo, "y")
    await world.settle()
    assert await stored(world) == (["kept", "y"] if known else ["y"])


# ---- removed only when delivered ------------------------------------------------------------------------------------


async def test_a_connection_that_breaks_before_the_answer_loses_nothing(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    assert bodies(take(juliet)[0]) == ["x"]
    juliet.drop()
    await world.settle()
    assert await stored(world) == ["x"]
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    messages, pings = take(juliet)
    assert bodies(messages) == ["x"]
    assert len(messages[0].findall(DELAY)) == 1
    answer(juliet, pings[0], "error")
    await world.settle()
    assert await stored(world) == [], "an error is an answer too"


async def test_answering_and_closing_at_once_is_an_answer(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    ping = take(juliet)[1][0]
    juliet.send(f"<iq type='result' id='{ping.get('id')}' to='{ping.get('from')}'/></stream:stream>")
    await juliet.expect_closed()
    await world.settle()
    assert await stored(world) == []


async def test_a_client_that_never_answers_but_lives_counts_as_having_read(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    take(juliet)
    for _ in range(59):
        await world.pass_time(10.0)
        juliet.send(" ")
    assert await stored(world) == ["x"]
    await world.pass_time(10.0)
    assert await stored(world) == []
    assert not juliet.disconnected


async def test_a_dead_connection_is_closed_before_it_could_count_as_alive(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    for _ in range(70):
        await world.pass_time(10.0)
        romeo.send(" ")
    assert juliet.closed
    assert await stored(world) == ["x"]


async def test_many_messages_come_in_pages_each_with_its_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "_PAGE", 4)
    async with World(settings={"modules": ALONE}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for number in range(10):
            say(romeo, str(number))
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        seen: list[str | None] = []
        for expected in (4, 4, 2):
            await world.settle()
            messages, pings = take(juliet)
            assert len(messages) == expected
            seen += bodies(messages)
            assert await stored(world) == [str(n) for n in range(len(seen) - expected, 10)]
            answer(juliet, pings[0])
        await world.settle()
        assert seen == [str(n) for n in range(10)]
        assert await stored(world) == []


async def test_a_page_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "_PAGE_BYTES", 2_500)
    async with World(settings={"modules": ALONE}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for number in (0, 1, 2, 3):
            say(romeo, "x" * (1_000 if number < 3 else 5_000), id=str(number))
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        for expected in (["0", "1"], ["2"], ["3"]):
            await world.settle()
            messages, pings = take(juliet)
            assert [el.get("id") for el in messages] == expected
            answer(juliet, pings[0])
        await world.settle()
        assert await stored(world) == []


async def test_the_session_that_left_in_the_middle_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "_PAGE", 2)
    async with World(settings={"modules": ALONE}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for number in range(4):
            say(romeo, str(number))
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        messages, pings = take(juliet)
        juliet.send("<presence type='unavailable'/>")
        answer(juliet, pings[0])
        await world.settle()
        assert bodies(messages) == ["0", "1"]
        assert await stored(world) == ["2", "3"]
        juliet.send("<presence/>")
        await world.settle()
        messages, pings = take(juliet)
        assert bodies(messages) == ["2", "3"]


async def test_receipts_of_the_stream_stand_in_for_the_ping() -> None:
    answers: dict[str, asyncio.Future[bool]] = {}

    class Receipts(Module):
        """Acknowledgements under the test's control; the phone has none."""

        name = "test_receipts"
        provides = (DeliveryReceipts,)

        def keeps(self, session: Session) -> bool:
            """See `DeliveryReceipts.keeps`."""
            return False

        def passed(self, session: Session) -> asyncio.Future[bool] | None:
            """See `DeliveryReceipts.passed`."""
            if session.jid.resource == "phone":
                return None
            return answers.setdefault(session.jid.resource, asyncio.get_running_loop().create_future())

    async with World(extra=(Receipts,), settings={"modules": ALONE}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        say(romeo, "x")
        first = await world.login("juliet@example.org/one", presence=True)
        messages, pings = take(first)
        assert (bodies(messages), pings) == (["x"], [])
        answers["one"].set_result(False)
        await world.settle()
        assert await stored(world) == ["x"]
        await first.close()
        second = await world.login("juliet@example.org/two", presence=True)
        assert bodies(take(second)[0]) == ["x"]
        answers["two"].set_result(True)
        await world.settle()
        assert await stored(world) == []
        await second.close()
        say(romeo, "y")
        phone = await world.login("juliet@example.org/phone", presence=True)
        assert len(take(phone)[1]) == 1


async def test_a_message_handed_back_by_its_stream_is_not_stored_twice(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony")
    session = world.kernel.sessions.get(juliet.jid)
    assert session is not None
    unread: list[Stanza] = []
    outlet = session.outlet

    class Recorder:
        """An outlet that remembers what it passes on."""

        def deliver(self, data: bytes, stanza: Stanza) -> bool:
            """See `Outlet.deliver`."""
            unread.append(stanza)
            return outlet.deliver(data, stanza)

        def __getattr__(self, name: str) -> Any:
            return getattr(outlet, name)

    session.outlet = Recorder()
    juliet.send("<presence/>")
    await world.settle()
    juliet.drop()
    await world.settle()
    (message,) = [stanza for stanza in unread if stanza.name == "message"]
    world.kernel.router.keep(Context(message))
    assert await stored(world) == ["x"]


# ---- order ----------------------------------------------------------------------------------------------------------


async def test_new_messages_do_not_overtake_stored_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "_PAGE", 2)
    async with World(settings={"modules": ALONE}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for number in range(3):
            say(romeo, str(number))
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        say(romeo, "3")
        say(romeo, "4", to=str(juliet.jid))
        romeo.send(f"<message to='{juliet.jid}' type='chat' id='typing'>{CHAT_STATE}</message>")
        romeo.send(f"<message to='{juliet.jid}' type='headline'><body>news</body></message>")
        await world.settle()
        seen: list[str | None] = []
        for _ in range(3):
            await world.settle()
            messages, pings = take(juliet)
            seen += bodies(messages)
            answer(juliet, pings[0])
        await world.settle()
        assert [text for text in seen if text not in (None, "news")] == ["0", "1", "2", "3", "4"]
        assert {None, "news"} <= set(seen), "what is not stored goes directly"
        assert await stored(world) == []
        say(romeo, "5")
        await juliet.expect("<message id='5'><delay xmlns='urn:xmpp:delay' absent='!'/></message>")


async def test_once_the_last_page_is_out_new_messages_go_directly(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "stored")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    say(romeo, "live")
    await world.settle()
    messages, pings = take(juliet)
    assert bodies(messages) == ["stored", "live"]
    assert [len(el.findall(DELAY)) for el in messages] == [1, 0]
    assert await stored(world) == ["stored"]
    answer(juliet, pings[0])
    await world.settle()
    assert await stored(world) == []


async def test_nobody_pays_while_nobody_receives(world: World) -> None:
    from beamish.core import events

    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    mine = [row for row in world.kernel.hooks[events.delivering].rows if row.owner == "offline"]
    assert mine == []
    await world.login("juliet@example.org/balcony", presence=True)
    mine = [row for row in world.kernel.hooks[events.delivering].rows if row.owner == "offline"]
    assert mine == []


async def test_a_held_message_that_cannot_be_stored_is_delivered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "_PAGE", 2)
    async with World(settings={"modules": ALONE | {"offline": {"max_messages": 3}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for number in range(3):
            say(romeo, str(number))
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        say(romeo, "over the limit")
        await world.settle()
        messages, pings = take(juliet)
        assert bodies(messages) == ["0", "1", "over the limit"]
        answer(juliet, pings[0])
        await world.settle()
        messages, pings = take(juliet)
        assert bodies(messages) == ["2"]
        answer(juliet, pings[0])
        await world.settle()
        await romeo.expect_nothing()


async def test_messages_whose_removal_fails_come_again(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    answer(juliet, take(juliet)[1][0])
    world.db.fail_next(StorageUnavailable("the disk is full"))
    await world.settle()
    assert await stored(world) == ["x"]
    await juliet.close()
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    messages, pings = take(juliet)
    assert bodies(messages) == ["x"]
    answer(juliet, pings[0])
    await world.settle()
    assert await stored(world) == []
    say(romeo, "y")
    await juliet.expect("<message id='y'/>")


async def test_a_held_message_whose_row_fails_is_delivered_directly(
    monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("offline_message_not_stored")
    monkeypatch.setattr(offline, "_PAGE", 1)
    async with World(settings={"modules": ALONE}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        say(romeo, "0")
        say(romeo, "1")
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        take(juliet)
        world.db.fail_next(StorageUnavailable("the disk is full"))
        say(romeo, "2")
        await world.settle()
        assert bodies(take(juliet)[0]) == ["2"]
        await romeo.expect_nothing()


# ---- several resources ----------------------------------------------------------------------------------------------


async def test_two_resources_at_once_get_each_message_once_in_all(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    await world.settle()
    one = await world.login("juliet@example.org/one")
    two = await world.login("juliet@example.org/two")
    one.send("<presence/>")
    two.send("<presence/>")
    await world.settle()
    got = take(one), take(two)
    assert sorted(len(messages) for messages, _ in got) == [0, 1]
    receiver = one if got[0][0] else two
    answer(receiver, (got[0][1] or got[1][1])[0])
    await world.settle()
    assert await stored(world) == []
    assert take(one)[0] == take(two)[0] == []


async def test_if_the_one_that_receives_breaks_off_the_other_one_gets_them(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    one = await world.login("juliet@example.org/one", presence=True)
    assert bodies(take(one)[0]) == ["x"]
    two = await world.login("juliet@example.org/two", presence=True)
    assert take(two)[0] == []
    one.drop()
    await world.settle()
    messages, pings = take(two)
    assert bodies(messages) == ["x"]
    answer(two, pings[0])
    await world.settle()
    assert await stored(world) == []


async def test_a_login_while_the_store_is_slow_gets_everything(world: World) -> None:
    """Rows in the queue, the count not known yet, and a presence in between: the delivery sees all of it."""
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/balcony")
    world.db.hold()
    say(romeo, "one")
    say(romeo, "two")
    juliet.send("<presence/>")
    say(romeo, "three")
    await world.settle()
    world.db.release()
    await world.settle()
    messages, _ = take(juliet)
    assert bodies(messages) == ["one", "two", "three"]


async def test_who_has_a_copy_and_comes_while_the_store_is_slow_gets_it_once(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/balcony")
    await juliet.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    world.db.hold()
    say(romeo, "one")
    await world.settle()
    assert [el.find("{urn:xmpp:carbons:2}received") is not None for el in juliet.inbox] == [True]
    juliet.inbox.clear()
    juliet.send("<presence/>")
    other = await world.login("juliet@example.org/other", presence=True)
    await world.settle()
    world.db.release()
    await world.settle()
    messages, questions = take(juliet)
    assert bodies(messages) == []
    for question in questions:
        answer(juliet, question)
    assert bodies(take(other)[0]) == ["one"]
    await world.settle()
    assert await stored(world) == []


# ---- accounts -------------------------------------------------------------------------------------------------------


async def test_a_removed_account_leaves_nothing(world: World) -> None:
    from beamish.core.services import AccountsService

    accounts = world.kernel.service(AccountsService)
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await accounts.remove(JULIET)
    assert await stored(world) == []
    await accounts.add(JULIET, "correct horse")
    say(romeo, "y")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    assert bodies(take(juliet)[0]) == ["y"]


async def test_the_command_counts(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, "x")
    await world.settle()
    result = await world.kernel.commands.run("offline.count", {"jid": "juliet@example.org"})
    assert (result["jid"], result["messages"]) == ("juliet@example.org", 1)
    assert result["bytes"] > 50
    assert (await world.kernel.commands.run("offline.count", {"jid": "nobody@example.org"}))["messages"] == 0


async def test_damaged_rows_do_not_stop_the_others(world: World, expected_errors: ExpectedErrors) -> None:
    expected_errors.add("offline_message_damaged")
    await world.db.write(
        "test",
        lambda c: c.many(
            "INSERT INTO offline_message (account, stamp, wire) VALUES (?, ?, ?)",
            [(str(JULIET), 1.0, b"<message"), (str(JULIET), 2.0, b"<message type='chat'><body>x</body></message>")],
        ),
    )
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    messages, pings = take(juliet)
    assert bodies(messages) == ["x"]
    answer(juliet, pings[0])
    await world.settle()
    assert await stored(world) == []
