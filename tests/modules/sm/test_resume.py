"""Resumption (XEP-0198 §5), and what becomes of sessions that nobody resumes (§4, §7)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.modules.sm.conftest import CALM, SM, back, bodies, enable, handled, managed, resume, say, settings
from tests.modules.sm.play import unconfirmed

from beamish.core.events import Context, undelivered
from beamish.core.hooks import Row
from beamish.core.module import Module, Scope, iq
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.world import World

JULIET = "juliet@example.org/balcony"
BARE = "juliet@example.org"
NOT_FOUND = f"<failed xmlns='{SM}' h='{{}}'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
CLOSED = "<stream:error xmlns:stream='http://etherx.jabber.org/streams'/>"


async def lose(world: World, client: Client) -> None:
    """Cut the connection; the client has read what had arrived."""
    client.inbox.clear()
    client.drop()
    await world.settle()


async def nothing_to_resume(world: World, username: str, id: str, handled: str = "!") -> None:
    """A new connection asks for a session that is not there, and hears how much it had handled if that is known."""
    client = await back(world, username)
    client.send(f"<resume xmlns='{SM}' h='0' previd='{id}'/>")
    await client.expect(NOT_FOUND.format(handled))


async def test_a_stream_goes_on_where_it_broke_off(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    say(juliet, "romeo@example.org", "hello")
    say(romeo, BARE, "seen")
    await world.settle()
    assert bodies(juliet) == ["seen"]
    say(romeo, BARE, "on its way")
    await lose(world, juliet)
    say(romeo, BARE, "later")
    romeo.send(f"<presence to='{JULIET}'/>")
    await world.settle()
    again = await resume(world, juliet, id_, 1, expected=1)
    await again.expect("<message id='on its way'/>")
    await again.expect("<message id='later'/>")
    await again.expect("<presence from='romeo@example.org/orchard'/>")
    await again.expect(f"<r xmlns='{SM}'/>")
    again.send(f"<a xmlns='{SM}' h='4'/>")
    say(again, "romeo@example.org", "I am back")
    assert await handled(again) == 2
    assert bodies(romeo) == ["hello", "I am back"]
    say(romeo, JULIET, "good")
    await again.expect("<message id='good'/>")


async def test_nobody_notices_that_a_session_waits(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await world.befriend(juliet, romeo)
    count = 0
    for _ in range(2):
        await lose(world, juliet)
        await world.pass_time(300.0)
        await romeo.expect_nothing()
        count = world.kernel.sessions.get(juliet.jid).outlet.queue.sent  # type: ignore[union-attr]
        juliet = await resume(world, juliet, id_, count)
    juliet.send("<presence><show>away</show></presence>")
    await romeo.expect("<presence><show>away</show></presence>")


async def test_a_connection_that_still_hangs_is_closed_with_conflict(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    again = await resume(world, juliet, id_, 0)
    await juliet.expect(
        "<stream:error xmlns:stream='http://etherx.jabber.org/streams'>"
        "<conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
    )
    assert juliet.closed
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, JULIET, "x")
    await again.expect("<message id='x'/>")


async def test_a_stanza_under_way_is_counted_before_the_resumption_is_answered() -> None:
    gate = asyncio.Event()

    class Slow(Module):
        """Answers late."""

        name = "test_slow"

        @iq(set="{urn:test}slow", scope=Scope.ANY)
        async def slow(self, ctx: Context) -> Any:
            """Wait for the test."""
            await gate.wait()
            return ctx.stanza.reply()

    async with World(extra=(Slow,), settings=settings()) as world:
        juliet, id_ = await managed(world, JULIET)
        juliet.send("<iq type='set' id='s'><slow xmlns='urn:test'/></iq><presence/>")
        await world.settle()
        again = await back(world, "juliet")
        again.send(f"<resume xmlns='{SM}' h='0' previd='{id_}'/>")
        await again.expect_nothing()
        gate.set()
        # the presence behind it was never handled, so the client sends it again
        await again.expect(f"<resumed xmlns='{SM}' previd='{id_}' h='1'/>")
        await again.expect("<iq type='result' id='s'/>")


async def test_what_follows_a_resumption_at_once_is_handled_after_it(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await lose(world, juliet)
    again = await back(world, "juliet")
    again.send(
        f"<resume xmlns='{SM}' h='0' previd='{id_}'/><message to='{romeo.jid}' id='fast'><body>fast</body></message>"
        f"<r xmlns='{SM}'/>"
    )
    await again.expect(f"<resumed xmlns='{SM}' h='0'/>")
    await again.expect(f"<a xmlns='{SM}' h='1'/>")
    assert bodies(romeo) == ["fast"]


async def test_the_second_of_two_resumptions_at_once_wins(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    await lose(world, juliet)
    say(await world.login("romeo@example.org/orchard"), JULIET, "x")
    first, second = await back(world, "juliet"), await back(world, "juliet")
    for client in (first, second):
        client.send(f"<resume xmlns='{SM}' h='0' previd='{id_}'/>")
    await second.expect(f"<resumed xmlns='{SM}' h='0'/>")
    await second.expect("<message id='x'/>")
    await world.settle()
    assert first.closed or first.inbox[0].tag == f"{{{SM}}}failed"


async def test_a_resumption_can_be_repeated(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard")
    for number in range(5):
        await lose(world, juliet)
        say(romeo, JULIET, str(number))
        juliet = await resume(world, juliet, id_, number)
        await juliet.expect(f"<message id='{number}'/>")


# ---- failures -------------------------------------------------------------------------------------------------------


async def test_an_unknown_session(world: World) -> None:
    client = await back(world, "juliet")
    client.send(
        f"<resume xmlns='{SM}' h='0' previd='nothing'/>"
        "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
    )
    await client.expect(NOT_FOUND.format("!"))
    await client.expect("<iq type='result' id='b'/>")


async def test_a_request_without_a_namespace_leaves_a_resource_to_be_bound(world: World) -> None:
    """QXmpp 1.5 (Kaidan 0.8) sends it after a loss, and stays offline for good if the stream is closed then."""
    client = await back(world, "juliet")
    bind = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
    client.send(f"<resume h='12' previd=''/>{bind}")
    await client.expect(NOT_FOUND.format("!"))
    await client.expect("<iq type='result' id='b'/>")
    client.send("<resume h='12' previd=''/>")
    await client.expect(
        f"<failed xmlns='{SM}'><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
    )


async def test_somebody_elses_session(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    await lose(world, juliet)
    await nothing_to_resume(world, "romeo", id_)
    await resume(world, juliet, id_, 0)


@pytest.mark.parametrize("attributes", ["h='x' previd='{}'", "previd='{}'", "h='0'", "h='0' previd=''"])
async def test_a_malformed_request(world: World, attributes: str) -> None:
    _, id_ = await managed(world, JULIET)
    client = await back(world, "juliet")
    client.send(f"<resume xmlns='{SM}' {attributes.format(id_)}/>")
    await client.expect(f"<failed xmlns='{SM}'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>")


async def test_an_h_that_is_too_high_ends_the_new_stream_only(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    await lose(world, juliet)
    client = await back(world, "juliet")
    client.send(f"<resume xmlns='{SM}' h='8' previd='{id_}'/>")
    await client.expect(
        "<stream:error xmlns:stream='http://etherx.jabber.org/streams'>"
        "<undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
        f"<handled-count-too-high xmlns='{SM}' h='8' send-count='0'/></stream:error>"
    )
    await resume(world, juliet, id_, 0)


async def test_a_bound_stream_cannot_resume(world: World) -> None:
    _, id_ = await managed(world, JULIET)
    other = await world.login("juliet@example.org/other")
    other.send(f"<resume xmlns='{SM}' h='0' previd='{id_}'/>")
    await other.expect(
        f"<failed xmlns='{SM}'><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
    )


async def test_attempts_to_resume_are_bounded(world: World) -> None:
    client = await back(world, "juliet")
    for _ in range(world.config.limits.resources_per_account + 100):
        client.send(f"<resume xmlns='{SM}' h='0' previd='nothing'/>")
    await world.settle()
    assert client.closed


async def test_without_resumption_the_session_ends_with_its_connection(world: World) -> None:
    juliet = await world.login(JULIET, presence=True)
    await enable(juliet, "")
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, JULIET, "x")
    await lose(world, juliet)
    assert world.kernel.sessions.get(juliet.jid) is None
    assert len(await world.db.fetch("SELECT id FROM offline_message")) == 1


# ---- the end --------------------------------------------------------------------------------------------------------


async def test_an_expired_session_tells_how_much_it_had_handled(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await world.befriend(juliet, romeo)
    await lose(world, juliet)
    await world.pass_time(601.0)
    await romeo.expect(f"<presence type='unavailable' from='{JULIET}'/>")
    await nothing_to_resume(world, "juliet", id_, handled="2")
    await nothing_to_resume(world, "romeo", id_)
    await world.pass_time(86_400.0)
    await nothing_to_resume(world, "juliet", id_)


async def test_a_client_may_ask_for_less(world: World) -> None:
    juliet = await world.login(JULIET, presence=True)
    await enable(juliet, "resume='true' max='30'")
    await lose(world, juliet)
    await world.pass_time(29.0)
    assert world.kernel.sessions.get(juliet.jid) is not None
    await world.pass_time(2.0)
    assert world.kernel.sessions.get(juliet.jid) is None


@pytest.mark.parametrize("type_", ["chat", "normal"])
@pytest.mark.parametrize("to", [BARE, JULIET])
async def test_messages_of_an_expired_session_are_stored_once_with_their_time(
    world: World, to: str, type_: str
) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    say(romeo, to, "on its way", type_)
    await lose(world, juliet)
    say(romeo, to, "later", type_)
    await world.pass_time(601.0)
    await romeo.expect_nothing()
    assert await unconfirmed(world.db) == []
    assert await world.db.fetch("SELECT key FROM sm_session") == []
    again = await world.login("juliet@example.org/other", presence=True)
    for text in ("on its way", "later"):
        got = await again.expect(f"<message id='{text}'/>")
        stamps = [d.get("stamp") for d in got.iterfind("{urn:xmpp:delay}delay")]
        assert len(stamps) == 1
        assert (stamps[0] or "") < "2023-11-14T22:15"


async def test_messages_of_an_expired_session_go_to_a_resource_that_came_later(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, BARE, "on its way")
    await lose(world, juliet)
    await world.pass_time(10.0)
    other = await world.login("juliet@example.org/other", presence=True)
    other.inbox.clear()
    await world.pass_time(600.0)
    await other.expect(f"<presence type='unavailable' from='{JULIET}'/>")
    got = await other.expect("<message id='on its way'/>")
    assert got.find("{urn:xmpp:delay}delay") is not None
    assert await world.db.fetch("SELECT id FROM offline_message") == []


async def test_what_another_resource_got_at_the_time_is_not_sent_to_it_again(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    other = await world.login("juliet@example.org/other", presence=True)
    romeo = await world.login("romeo@example.org/orchard")
    await world.pass_time(1.0)
    say(romeo, BARE, "for both")
    await world.settle()
    assert bodies(other) == ["for both"]
    await lose(world, juliet)
    await world.pass_time(601.0)
    assert bodies(other) == []
    assert await world.db.fetch("SELECT id FROM offline_message") == []


async def test_two_resources_that_both_expire_leave_one_message(world: World) -> None:
    one, _ = await managed(world, JULIET)
    other, _ = await managed(world, "juliet@example.org/other")
    romeo = await world.login("romeo@example.org/orchard")
    await world.pass_time(1.0)
    say(romeo, BARE, "for both")
    await lose(world, one)
    await world.pass_time(5.0)
    await lose(world, other)
    await world.pass_time(601.0)
    assert len(await world.db.fetch("SELECT id FROM offline_message")) == 1


async def test_a_closed_stream_is_over(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await world.befriend(juliet, romeo)
    await juliet.close()
    await romeo.expect(f"<presence type='unavailable' from='{JULIET}'/>")
    assert world.kernel.sessions.get(juliet.jid) is None
    await nothing_to_resume(world, "juliet", id_)


async def test_a_new_session_of_the_same_resource_ends_the_old_one(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard")
    await lose(world, juliet)
    say(romeo, BARE, "x")
    await world.settle()
    again = await world.login(JULIET, presence=True)
    await again.expect("<message id='x'/>")


async def test_a_request_to_an_expired_session_is_answered_with_an_error(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await world.befriend(juliet, romeo)
    await lose(world, juliet)
    romeo.send(f"<iq type='get' id='v' to='{JULIET}'><query xmlns='jabber:iq:version'/></iq>")
    await romeo.expect_nothing()
    await world.pass_time(601.0)
    await romeo.expect(f"<presence type='unavailable' from='{JULIET}'/>")
    await romeo.expect(f"<iq type='error' id='v' from='{JULIET}'/>")


async def test_what_nobody_keeps_is_never_bounced(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    romeo.send(
        f"<message to='{JULIET}' type='normal'><active xmlns='http://jabber.org/protocol/chatstates'/></message>"
        f"<message to='{JULIET}' type='headline'><body>news</body></message>"
    )
    await lose(world, juliet)
    await world.pass_time(601.0)
    await romeo.expect_nothing()
    assert await world.db.fetch("SELECT id FROM offline_message") == []


async def test_waiting_sessions_of_an_account_are_bounded() -> None:
    async with World(settings=settings(waiting_per_account=2)) as world:
        for name in ("a", "b", "c"):
            client, _ = await managed(world, f"juliet@example.org/{name}")
            await lose(world, client)
            await world.pass_time(1.0)
        left = [session.jid.resource for session in world.kernel.sessions.of(client.jid.bare).all]
        assert left == ["b", "c"]


async def test_a_waiting_session_that_gets_too_much_ends() -> None:
    async with World(settings=settings(queue_stanzas=10)) as world:
        juliet, _ = await managed(world, JULIET)
        romeo = await world.login("romeo@example.org/orchard")
        await lose(world, juliet)
        for number in range(15):
            say(romeo, BARE, str(number))
        await world.settle()
        assert world.kernel.sessions.get(juliet.jid) is None
        again = await world.login(JULIET, presence=True)
        await world.settle()
        assert bodies(again) == [str(number) for number in range(15)]


async def test_a_removed_account_leaves_nothing(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    say(await world.login("romeo@example.org/orchard"), JULIET, "x")
    await lose(world, juliet)
    await world.kernel.commands.run("user.remove", {"jid": BARE})
    await world.settle()
    for table in ("sm_session", "sm_message", "sm_log", "sm_ended", "offline_message"):
        assert await world.db.fetch(f"SELECT * FROM {table}") == [], table


async def test_the_count_of_sessions(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    say(await world.login("romeo@example.org/orchard"), JULIET, "x")
    await lose(world, juliet)
    counted = await world.kernel.commands.run("sm.count", {})
    assert counted["sessions"] == counted["waiting"] == counted["unconfirmed"] == 1


# ---- with offline storage -------------------------------------------------------------------------------------------


async def test_stored_messages_change_hands_in_one_commit(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    for number in range(3):
        say(romeo, BARE, str(number))
    await world.settle()
    juliet = await world.login(JULIET)
    id_ = await enable(juliet)
    juliet.send("<presence/>")
    await world.settle()
    assert bodies(juliet) == ["0", "1", "2"]
    assert await world.db.fetch("SELECT id FROM offline_message") == []
    assert len(await unconfirmed(world.db)) == 3
    await lose(world, juliet)
    juliet = await resume(world, juliet, id_, 2)  # the presence, and one message
    await world.settle()
    assert bodies(juliet) == ["1", "2"]
    await lose(world, juliet)
    await world.pass_time(601.0)
    again = await world.login(JULIET, presence=True)
    await world.settle()
    assert bodies(again) == ["1", "2"]


async def test_messages_that_come_back_pass_the_hook_as_undelivered(world: World) -> None:
    seen: list[str] = []
    world.kernel.hooks[undelivered].add(Row(1, "test", lambda ctx: seen.append(ctx.stanza.id)))
    juliet, _ = await managed(world, JULIET)
    say(await world.login("romeo@example.org/orchard"), BARE, "x")
    await lose(world, juliet)
    assert seen == []
    await world.pass_time(601.0)
    assert seen == ["x"]


async def test_acknowledgement_to_the_sender_covers_what_waits_for_a_receiver(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo, _ = await managed(world, "romeo@example.org/orchard")
    await lose(world, juliet)
    assert isinstance(world.db, MemoryDatabase)
    with world.db.held():
        say(romeo, BARE, "x")
        romeo.send(f"<r xmlns='{SM}'/>")
        await romeo.expect_nothing()
    await romeo.expect(f"<a xmlns='{SM}' h='1'/>")
    assert len(await unconfirmed(world.db)) == 1


async def test_what_is_sent_again_is_on_disk_too(world: World) -> None:
    juliet, id_ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard")
    await lose(world, juliet)
    say(romeo, JULIET, "stored")
    await world.settle()
    again = await back(world, "juliet")
    again.send(f"<resume xmlns='{SM}' h='0' previd='{id_}'/>")
    say(romeo, JULIET, "not yet")
    assert isinstance(world.db, MemoryDatabase)
    with world.db.held():
        await again.expect(f"<resumed xmlns='{SM}'/>")
        await again.expect("<message id='stored'/>")
        await world.settle()
        assert bodies(again) == []
    await again.expect("<message id='not yet'/>")


async def test_a_server_that_resumes_nothing_says_so() -> None:
    async with World(settings=settings(resume_seconds=0)) as world:
        _, id_ = await managed(world, "juliet@example.org/balcony")
        assert id_ == ""
        client = await back(world, "juliet")
        client.send(f"<resume xmlns='{SM}' h='0' previd='x'/>")
        await client.expect(
            f"<failed xmlns='{SM}' h='!'><feature-not-implemented xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
        )
        await client.bind("balcony")


# ---- with copies for other resources ---------------------------------------------------------------------------------


async def want_copies(client: Client) -> None:
    """Enable carbons (XEP-0280)."""
    await client.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")


def take_the_copy(client: Client) -> None:
    """All that has come is one message in a carbon."""
    assert [el.find("{urn:xmpp:carbons:2}received") is not None for el in client.inbox] == [True]
    client.inbox.clear()


@pytest.mark.parametrize("to", [BARE, JULIET])
async def test_who_had_a_copy_before_being_available_does_not_get_it_again(to: str) -> None:
    async with World(settings={"c2s": CALM}) as world:
        await managed(world, JULIET)
        desk = await world.login("juliet@example.org/desk")
        await want_copies(desk)
        await world.pass_time(1.0)
        say(await world.login("romeo@example.org/orchard"), to, "x")
        await world.pass_time(1.0)
        take_the_copy(desk)
        desk.send("<presence/>")
        late = await world.login("juliet@example.org/late", presence=True)
        await world.login(JULIET)  # takes the address over
        await world.settle()
        assert bodies(desk) == []
        assert bodies(late) == ["x"]


async def test_a_copy_of_what_a_session_got_is_not_followed_by_the_message() -> None:
    """As a copy when it came, then out of the store, where it went when its receiver had ended: once is enough."""
    async with World(settings={"c2s": CALM}) as world:
        await managed(world, JULIET)
        desk = await world.login("juliet@example.org/desk")
        await want_copies(desk)
        await world.pass_time(1.0)
        say(await world.login("romeo@example.org/orchard"), BARE, "x")
        await world.pass_time(1.0)
        await world.login(JULIET)  # takes the address over
        await world.settle()
        take_the_copy(desk)
        desk.send("<presence/>")
        await world.settle()
        assert bodies(desk) == []


async def test_a_copy_of_what_a_session_leaves_is_not_followed_by_the_message() -> None:
    """First as a copy, because nobody is available, then out of the store: once is enough."""
    async with World(settings={"c2s": CALM}) as world:
        await managed(world, JULIET)
        await world.pass_time(1.0)
        say(await world.login("romeo@example.org/orchard"), BARE, "x")
        await world.pass_time(1.0)
        desk = await world.login("juliet@example.org/desk")
        await enable(desk)
        await want_copies(desk)
        await world.login(JULIET)  # takes the address over
        await world.settle()
        take_the_copy(desk)
        desk.send("<presence/>")
        await world.settle()
        assert bodies(desk) == []
        desk.send(f"<a xmlns='{SM}' h='2'/>")
        await world.pass_time(1.0)
        assert await world.db.fetch("SELECT id FROM offline_message") == []


async def test_what_goes_from_one_ended_session_to_the_next_reaches_everybody_once() -> None:
    async with World(settings={"c2s": CALM}) as world:
        await managed(world, JULIET)
        await world.pass_time(1.0)
        say(await world.login("romeo@example.org/orchard"), BARE, "x")
        await world.pass_time(1.0)
        later, _ = await managed(world, "juliet@example.org/later")
        desk = await world.login("juliet@example.org/desk")
        await want_copies(desk)
        await world.pass_time(1.0)
        await world.login(JULIET)  # takes the address over
        await world.settle()
        assert bodies(later) == ["x"]
        take_the_copy(desk)
        await world.pass_time(1.0)
        await world.login("juliet@example.org/later")
        await world.settle()
        desk.send("<presence/>")
        await world.settle()
        assert bodies(desk) == []
