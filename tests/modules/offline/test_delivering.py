"""What order stored messages come in through a whole server, to whom, and when they may be forgotten."""

from __future__ import annotations

import asyncio

import pytest
from tests.modules.offline.kit import (
    ALONE,
    CHAT_STATE,
    DELAY,
    Overheard,
    answer,
    bodies,
    read_page,
    say,
    session_of,
    slow_reads,
    stored,
    take,
)

from beamish.core import events
from beamish.core.events import Context
from beamish.core.module import Module
from beamish.core.services import DeliveryReceipts
from beamish.core.sessions import Session
from beamish.modules.offline import store
from beamish.testing.client import Client
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import World

# ---- removed only when delivered ------------------------------------------------------------------------------------


async def test_a_connection_that_breaks_before_the_answer_loses_nothing(world: World, romeo: Client) -> None:
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


async def test_answering_and_closing_at_once_is_an_answer(world: World, romeo: Client) -> None:
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    ping = take(juliet)[1][0]
    juliet.send(f"<iq type='result' id='{ping.get('id')}' to='{ping.get('from')}'/></stream:stream>")
    await juliet.expect_closed()
    await world.settle()
    assert await stored(world) == []


async def test_a_client_that_never_answers_but_lives_counts_as_having_read(world: World, romeo: Client) -> None:
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


async def test_a_dead_connection_is_closed_before_it_could_count_as_alive(world: World, romeo: Client) -> None:
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    for _ in range(70):
        await world.pass_time(10.0)
        romeo.send(" ")
    assert juliet.closed
    assert await stored(world) == ["x"]


async def test_many_messages_come_in_pages_each_with_its_proof(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAGE", 4)
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


async def test_a_page_is_bounded_in_bytes_too(world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PAGE_BYTES", 2_500)
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


async def test_the_session_that_left_in_the_middle_leaves_the_rest(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAGE", 2)
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


async def test_a_message_handed_back_by_its_stream_is_not_stored_twice(world: World, romeo: Client) -> None:
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony")
    overheard = Overheard(session_of(world, juliet))
    juliet.send("<presence/>")
    await world.settle()
    juliet.drop()
    await world.settle()
    (message,) = [stanza for stanza in overheard.stanzas if stanza.name == "message"]
    world.kernel.router.keep(Context(message))
    assert await stored(world) == ["x"]


# ---- order ----------------------------------------------------------------------------------------------------------


async def test_new_messages_do_not_overtake_stored_ones(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAGE", 2)
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
        seen += await read_page(world, juliet)
    assert [text for text in seen if text not in (None, "news")] == ["0", "1", "2", "3", "4"]
    assert {None, "news"} <= set(seen), "what is not stored goes directly"
    assert await stored(world) == []
    say(romeo, "5")
    await juliet.expect("<message id='5'><delay xmlns='urn:xmpp:delay' absent='!'/></message>")


async def test_once_the_last_page_is_out_new_messages_go_directly(world: World, romeo: Client) -> None:
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


async def test_nobody_pays_while_nobody_receives(world: World, romeo: Client) -> None:
    say(romeo, "x")
    mine = [row for row in world.kernel.hooks[events.delivering].rows if row.owner == "offline"]
    assert mine == []
    await world.login("juliet@example.org/balcony", presence=True)
    mine = [row for row in world.kernel.hooks[events.delivering].rows if row.owner == "offline"]
    assert mine == []


async def test_a_held_message_that_cannot_be_stored_is_delivered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PAGE", 2)
    async with World(settings={"modules": ALONE | {"offline": {"max_messages": 3}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for number in range(3):
            say(romeo, str(number))
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        say(romeo, "over the limit")
        await world.settle()
        assert await read_page(world, juliet) == ["0", "1", "over the limit"]
        assert await read_page(world, juliet) == ["2"]
        await romeo.expect_nothing()


async def test_messages_whose_removal_fails_come_again(world: World, romeo: Client) -> None:
    say(romeo, "x")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    answer(juliet, take(juliet)[1][0])
    world.db.fail_next()
    await world.settle()
    assert await stored(world) == ["x"]
    await juliet.close()
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    assert await read_page(world, juliet) == ["x"]
    assert await stored(world) == []
    say(romeo, "y")
    await juliet.expect("<message id='y'/>")


async def test_a_held_message_whose_row_fails_is_delivered_directly(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("offline_message_not_stored")
    monkeypatch.setattr(store, "PAGE", 1)
    say(romeo, "0")
    say(romeo, "1")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    take(juliet)
    world.db.fail_next()
    say(romeo, "2")
    await world.settle()
    assert bodies(take(juliet)[0]) == ["2"]
    await romeo.expect_nothing()


@pytest.mark.parametrize("away", ["<presence type='unavailable'/>", "<presence><priority>-1</priority></presence>"])
async def test_what_was_stored_while_the_receiver_was_away_is_not_overtaken(
    world: World, romeo: Client, away: str
) -> None:
    """The client has not yet proved that it read the first message when it goes away and comes back."""
    say(romeo, "0")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    messages, pings = take(juliet)
    assert bodies(messages) == ["0"]
    juliet.send(away)
    await world.settle()
    say(romeo, "1")
    await world.settle()
    juliet.send("<presence/>")
    await world.settle()
    say(romeo, "2")
    await world.settle()
    answer(juliet, pings[0])
    await world.settle()
    assert await read_page(world, juliet) == ["1", "2"]
    assert await stored(world) == []


async def test_nothing_is_held_back_from_who_comes_back_if_nothing_was_stored(world: World, romeo: Client) -> None:
    say(romeo, "0")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    juliet.send("<presence type='unavailable'/><presence/>")
    await world.settle()
    take(juliet)
    say(romeo, "1")
    await world.settle()
    assert bodies(take(juliet)[0]) == ["1"]


# ---- several resources ----------------------------------------------------------------------------------------------


async def test_two_resources_at_once_get_each_message_once_in_all(world: World, romeo: Client) -> None:
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


async def test_if_the_one_that_receives_breaks_off_the_other_one_gets_them(world: World, romeo: Client) -> None:
    say(romeo, "x")
    one = await world.login("juliet@example.org/one", presence=True)
    assert bodies(take(one)[0]) == ["x"]
    two = await world.login("juliet@example.org/two", presence=True)
    assert take(two)[0] == []
    one.drop()
    await world.settle()
    assert await read_page(world, two) == ["x"]
    assert await stored(world) == []


async def test_a_login_while_the_store_is_slow_gets_everything(world: World, romeo: Client) -> None:
    """Rows in the queue, the count not known yet, and a presence in between: the delivery sees all of it."""
    juliet = await world.login("juliet@example.org/balcony")
    with world.db.held():
        say(romeo, "one")
        say(romeo, "two")
        juliet.send("<presence/>")
        say(romeo, "three")
        await world.settle()
    await world.settle()
    messages, _ = take(juliet)
    assert bodies(messages) == ["one", "two", "three"]


async def test_who_has_a_copy_and_comes_while_the_store_is_slow_gets_it_once(
    world: World, romeo: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = slow_reads(world, monkeypatch)
    juliet = await world.login("juliet@example.org/balcony")
    await juliet.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    say(romeo, "one")
    await world.settle()
    assert [el.find("{urn:xmpp:carbons:2}received") is not None for el in juliet.inbox] == [True]
    juliet.inbox.clear()
    juliet.send("<presence/>")
    other = await world.login("juliet@example.org/other", presence=True)
    await world.settle()
    counting.set()
    await world.settle()
    messages, questions = take(juliet)
    assert bodies(messages) == []
    for question in questions:
        answer(juliet, question)
    assert bodies(take(other)[0]) == ["one"]
    await world.settle()
    assert await stored(world) == []
