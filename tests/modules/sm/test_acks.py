"""Enabling, and acknowledgements in both directions (XEP-0198 §3, §4, §6)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.modules.sm.conftest import CALM, SM, back, bodies, enable, handled, managed, say, settings
from tests.modules.sm.play import after_a_crash, unconfirmed

from beamish.core.gather import RETRY_SECONDS
from beamish.modules.sm import module
from beamish.modules.sm.outlet import Managed
from beamish.modules.sm.store import FOLD_SECONDS
from beamish.storage.api import StorageBusy
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import PASSWORD, World

FAILED = f"<failed xmlns='{SM}'><{{}} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
JULIET = "juliet@example.org/balcony"


async def test_the_feature_is_offered_once_authenticated(world: World) -> None:
    client = world.connect()
    features = await client.open_stream("example.org")
    assert features.find(f"{{{SM}}}sm") is None
    features = await client.authenticate("juliet", "correct horse")
    assert features.find(f"{{{SM}}}sm") is not None


@pytest.mark.parametrize(
    ("attributes", "answer"),
    [
        ("", f"<enabled xmlns='{SM}' resume='!' id='!' max='!'/>"),
        ("resume='false'", f"<enabled xmlns='{SM}' resume='!'/>"),
        ("resume='true'", f"<enabled xmlns='{SM}' resume='true' max='600'/>"),
        ("resume='1' max='30'", f"<enabled xmlns='{SM}' resume='true' max='30'/>"),
        ("resume='1' max='99999'", f"<enabled xmlns='{SM}' resume='true' max='600'/>"),
        ("resume='1' max='0'", FAILED.format("bad-request")),
        ("resume='1' max='soon'", FAILED.format("bad-request")),
    ],
)
async def test_enable(world: World, attributes: str, answer: str) -> None:
    juliet = await world.login(JULIET)
    juliet.send(f"<enable xmlns='{SM}' {attributes}/>")
    await juliet.expect(answer)


async def test_enable_before_binding_fails_and_binding_goes_on(world: World) -> None:
    client = await back(world, "juliet")
    client.send(f"<enable xmlns='{SM}'/><iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
    await client.expect(FAILED.format("unexpected-request"))
    await client.expect("<iq type='result' id='b'/>")


async def test_before_authentication_it_fails_and_authentication_goes_on(world: World) -> None:
    """XEP-0198 §3: the server returns `<failed/>` where the order is not kept."""
    client = world.connect()
    await client.open_stream("example.org")
    for sent in (f"<enable xmlns='{SM}'/>", f"<resume xmlns='{SM}' h='0' previd='x'/>"):
        client.send(sent)
        await client.expect(FAILED.format("unexpected-request"))
    await client.authenticate("juliet", PASSWORD)
    await client.bind("balcony")
    client.send(f"<enable xmlns='{SM}'/>")
    await client.expect(f"<enabled xmlns='{SM}'/>")


async def test_a_second_enable_ends_the_stream(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    juliet.send(f"<enable xmlns='{SM}'/>")
    await juliet.expect(FAILED.format("unexpected-request"))
    await juliet.expect("<stream:error xmlns:stream='http://etherx.jabber.org/streams'/>")


@pytest.mark.parametrize("element", ["<r xmlns='urn:xmpp:sm:3'/>", "<a xmlns='urn:xmpp:sm:3' h='0'/>"])
async def test_acknowledgements_without_enabling_are_unexpected(world: World, element: str) -> None:
    juliet = await world.login(JULIET)
    juliet.send(element)
    await juliet.expect(FAILED.format("unexpected-request"))


async def test_every_stanza_is_counted_and_nothing_else(world: World) -> None:
    juliet = await world.login(JULIET)
    say(juliet, "romeo@example.org", "before")
    await enable(juliet)
    assert await handled(juliet) == 0
    juliet.send("<presence/>")
    await juliet.expect("<presence/>")
    assert await handled(juliet) == 1
    say(juliet, "romeo@example.org", "x")
    juliet.send("<message to='@no jid@'><body>x</body></message>")
    await juliet.expect("<message type='error'/>")
    juliet.send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    await juliet.expect("<iq type='result' id='p'/>")
    juliet.send(" <r xmlns='urn:xmpp:sm:3'/> ")
    await juliet.expect(f"<a xmlns='{SM}' h='4'/>")


async def counts_with_the_commit(world: World, client: Client) -> None:
    """The first message of a client is acknowledged when it is stored, and not before."""
    assert isinstance(world.db, MemoryDatabase)
    with world.db.held():
        say(client, "romeo@example.org", "for later")
        client.send(f"<r xmlns='{SM}'/>")
        await client.expect_nothing()
    await client.expect(f"<a xmlns='{SM}' h='1'/>")


async def test_a_stanza_counts_when_what_it_causes_is_committed(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    await counts_with_the_commit(world, juliet)


async def test_without_resumption_it_counts_by_the_same_rule(world: World) -> None:
    juliet = await world.login(JULIET)
    await enable(juliet, "")
    await counts_with_the_commit(world, juliet)


async def test_a_message_is_on_disk_before_its_receiver_sees_it(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    assert isinstance(world.db, MemoryDatabase)
    with world.db.held():
        say(romeo, JULIET, "x")
        romeo.send(f"<iq type='get' id='v' to='{JULIET}'><query xmlns='jabber:iq:version'/></iq>")
        await world.settle()
        assert not juliet.inbox
    await juliet.expect("<message id='x'/>")


async def test_a_commit_that_fails_delays_the_acknowledgement_only(
    world: World, expected_errors: ExpectedErrors
) -> None:
    expected_errors.events |= {"sessions_not_stored"}
    juliet, _ = await managed(world, JULIET)
    assert isinstance(world.db, MemoryDatabase)
    juliet.send("<presence/>")
    await juliet.expect("<presence/>")
    world.db.fail_next()
    juliet.send(f"<r xmlns='{SM}'/>")
    await juliet.expect_nothing()
    await world.pass_time(1.0)
    await juliet.expect(f"<r xmlns='{SM}'/>")
    await juliet.expect(f"<a xmlns='{SM}' h='1'/>")


async def test_a_message_that_cannot_be_stored_is_delivered_all_the_same(
    world: World, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("rows_not_stored_yet")
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    assert isinstance(world.db, MemoryDatabase)
    world.db.fail_next()
    say(romeo, JULIET, "x")
    await juliet.expect("<message id='x'/>")
    assert await unconfirmed(world.db) == []
    await world.pass_time(RETRY_SECONDS)
    assert len(await unconfirmed(world.db)) == 1


# ---- requests of the server -----------------------------------------------------------------------------------------


async def test_the_server_asks_after_a_while(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, JULIET, "x")
    await world.settle()
    assert bodies(juliet) == ["x"]
    await world.pass_time(1.0)
    await juliet.expect(f"<r xmlns='{SM}'/>")
    await world.pass_time(10.0)
    await juliet.expect_nothing()
    juliet.send(f"<a xmlns='{SM}' h='1'/>")
    await world.pass_time(10.0)
    await juliet.expect_nothing()


async def test_each_session_is_asked_in_its_own_time(world: World) -> None:
    """Thousands that are asked at once answer at once."""
    juliet, _ = await managed(world, JULIET)
    nurse, _ = await managed(world, "nurse@example.org/kitchen")
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, JULIET, "x")
    await world.pass_time(0.6)
    say(romeo, "nurse@example.org/kitchen", "y")
    await world.settle()
    assert (bodies(juliet), bodies(nurse)) == (["x"], ["y"])
    await world.pass_time(0.4)
    await juliet.expect(f"<r xmlns='{SM}'/>")
    await nurse.expect_nothing()
    await world.pass_time(0.5)
    await nurse.expect_nothing()
    await world.pass_time(0.1)
    await nurse.expect(f"<r xmlns='{SM}'/>")


async def test_few_sessions_are_asked_in_one_turn_of_the_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASKED_AT_ONCE", 2)
    clients = [(await managed(world, f"juliet@example.org/{n}"))[0] for n in range(5)]
    romeo = await world.login("romeo@example.org/orchard")
    for n, client in enumerate(clients):
        say(romeo, f"juliet@example.org/{n}", "x")
        await world.settle()
        assert bodies(client) == ["x"]
    asked: list[int] = []
    for _ in range(3):
        await world.pass_time(module._ASK_PAUSE if asked else 1.0)
        asked.append(sum(bool(client.inbox) for client in clients))
    assert asked == [2, 4, 5]
    for client in clients:
        await client.expect(f"<r xmlns='{SM}'/>")


async def test_one_that_cannot_be_asked_keeps_no_other_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("not_asked")
    juliet, _ = await managed(world, JULIET)
    nurse, _ = await managed(world, "nurse@example.org/kitchen")
    romeo = await world.login("romeo@example.org/orchard")
    real = Managed.ask

    def ask(self: Managed) -> None:
        if self.session.bare == "juliet@example.org":
            raise RuntimeError("broken")
        real(self)

    monkeypatch.setattr(Managed, "ask", ask)
    for h in (1, 2):
        say(romeo, JULIET, "x")
        say(romeo, "nurse@example.org/kitchen", "y")
        await world.pass_time(1.0)
        assert [el.tag.rpartition("}")[2] for el in nurse.inbox] == ["message", "r"]
        nurse.inbox.clear()
        nurse.send(f"<a xmlns='{SM}' h='{h}'/>")
    assert bodies(juliet) == ["x", "x"]


async def test_the_server_asks_at_once_after_many(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard")
    for number in range(25):
        say(romeo, JULIET, str(number))
    await world.settle()
    assert juliet.inbox[-1].tag == f"{{{SM}}}r"
    assert len(bodies(juliet)) == 25


async def test_confirmed_messages_are_deleted(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, JULIET, "x")
    say(romeo, JULIET, "y")
    await world.settle()
    assert len(await unconfirmed(world.db)) == 2
    juliet.send(f"<a xmlns='{SM}' h='1'/>")
    await world.pass_time(1.0)
    (left,) = await unconfirmed(world.db)
    assert b"y" in left
    await world.pass_time(FOLD_SECONDS)
    assert await world.db.fetch("SELECT id FROM sm_log") == []
    assert await world.db.fetch("SELECT wire FROM sm_message") == [(left,)]
    juliet.send(f"<a xmlns='{SM}' h='2'/>")
    await world.pass_time(FOLD_SECONDS)
    assert await unconfirmed(world.db) == []
    assert await world.db.fetch("SELECT id FROM sm_message") == []


async def test_what_means_nothing_later_is_not_stored(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    romeo.send(
        f"<message to='{JULIET}' type='headline'><body>news</body></message>"
        f"<message to='{JULIET}' type='chat'><active xmlns='http://jabber.org/protocol/chatstates'/></message>"
        f"<presence to='{JULIET}'/>"
    )
    await world.settle()
    assert len(juliet.inbox) == 3
    assert await unconfirmed(world.db) == []


@pytest.mark.parametrize("h", ["", "x", "-1", "4294967296"])
async def test_an_h_that_is_no_count_ends_the_stream(world: World, h: str) -> None:
    juliet, _ = await managed(world, JULIET)
    juliet.send(f"<a xmlns='{SM}' h='{h}'/>")
    await juliet.expect("<stream:error xmlns:stream='http://etherx.jabber.org/streams'/>")


async def test_an_h_that_is_too_high_ends_the_stream(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    juliet.send(f"<a xmlns='{SM}' h='3'/>")
    await juliet.expect(
        "<stream:error xmlns:stream='http://etherx.jabber.org/streams'>"
        "<undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
        f"<handled-count-too-high xmlns='{SM}' h='3' send-count='0'/></stream:error>"
    )


async def test_a_client_that_does_not_answer_has_lost_its_connection(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, JULIET, "x")
    await world.pass_time(1.0)
    await world.pass_time(62.0)
    assert juliet.disconnected
    assert not juliet.closed
    session = world.kernel.sessions.get(juliet.jid)
    assert session is not None


async def test_a_client_that_is_not_read_from_is_not_blamed_for_silence(world: World) -> None:
    """What it confirms stands behind what its rate keeps us from reading."""
    juliet, _ = await managed(world, JULIET)
    romeo = await world.login("romeo@example.org/orchard")
    say(romeo, JULIET, "1")
    await juliet.expect("<message id='1'/>")
    for _ in range(80):
        juliet.send("<message to='nobody@example.org' type='headline'/>" * 200)
    juliet.send(f"<a xmlns='{SM}' h='1'/>")
    for _ in range(75):  # 16,000 at 200 a second, less a burst of 2,000
        await world.pass_time(1.0)
    assert not juliet.disconnected
    say(romeo, JULIET, "2")
    for _ in range(65):
        await world.pass_time(1.0)
    assert juliet.disconnected, "now it is listened to, and says nothing"


async def test_the_queue_is_bounded() -> None:
    async with World(settings=settings(queue_stanzas=10)) as world:
        juliet, _ = await managed(world, JULIET)
        romeo = await world.login("romeo@example.org/orchard")
        for number in range(12):
            say(romeo, JULIET, str(number))
        await world.settle()
        assert juliet.disconnected or juliet.closed
        assert world.kernel.sessions.get(juliet.jid) is None
        again = await world.login(JULIET, presence=True)
        await world.settle()
        assert bodies(again) == [str(number) for number in range(12)]


async def test_the_queue_is_bounded_in_bytes() -> None:
    async with World(settings=settings(queue_bytes=65_536)) as world:
        juliet, _ = await managed(world, JULIET)
        romeo = await world.login("romeo@example.org/orchard")
        for _ in range(3):
            say(romeo, JULIET, "x" * 30_000)
        await world.settle()
        assert world.kernel.sessions.get(juliet.jid) is None
        assert len(await world.db.fetch("SELECT id FROM offline_message")) == 3


async def test_an_answer_covers_everything_handled_before_the_request(world: World) -> None:
    juliet, _ = await managed(world, JULIET)
    assert isinstance(world.db, MemoryDatabase)
    await managed(world, "romeo@example.org/orchard")
    with world.db.held():
        say(juliet, "romeo@example.org", "x")
        await world.settle()
        juliet.send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        juliet.send(f"<r xmlns='{SM}'/>")
        await juliet.expect("<iq type='result' id='p'/>")
    await juliet.expect(f"<a xmlns='{SM}' h='2'/>")


ROOM = "hall@conference.example.org"
NO_ARCHIVE = "<no-permanent-store xmlns='urn:xmpp:hints'/>"
ARCHIVED = (
    "SELECT 1 FROM mam_chunk k JOIN mam_account a ON a.num = k.account "
    "WHERE a.jid LIKE '{}%' AND CAST(k.wires AS TEXT) LIKE '%xyz%'"
)
CAUSES = {
    "archive": (
        "<message type='chat' to='romeo@example.org/orchard'><body>xyz</body></message>",
        ARCHIVED.format("romeo"),
    ),
    "own archive": (
        "<message type='chat' to='romeo@example.org/orchard'><body>xyz</body></message>",
        ARCHIVED.format("juliet"),
    ),
    "offline": (
        f"<message type='chat' to='mercutio@example.org'><body>xyz</body>{NO_ARCHIVE}</message>",
        "SELECT 1 FROM offline_message",
    ),
    "a session that waits": (
        f"<message type='chat' to='nurse@example.org/house'><body>xyz</body>{NO_ARCHIVE}</message>",
        "SELECT 1 FROM sm_message WHERE CAST(wire AS TEXT) LIKE '%xyz%'",
    ),
    "roster": (
        "<iq type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='xyz@example.org'/></query></iq>",
        "SELECT 1 FROM roster WHERE jid = 'xyz@example.org'",
    ),
    "subscription": (
        "<presence type='subscribe' to='mercutio@example.org'/>",
        "SELECT 1 FROM presence_request WHERE owner LIKE 'mercutio%'",
    ),
    "room": (
        f"<message type='groupchat' to='{ROOM}'><body>xyz</body></message>",
        "SELECT 1 FROM muc_archive WHERE CAST(stanza AS TEXT) LIKE '%xyz%'",
    ),
    "room's affiliations": (
        f"<iq type='set' id='1' to='{ROOM}'><query xmlns='http://jabber.org/protocol/muc#admin'>"
        "<item jid='nurse@example.org' affiliation='member'/></query></iq>",
        "SELECT 1 FROM muc_standing WHERE jid LIKE 'nurse%'",
    ),
    "pubsub": (
        "<iq type='set' id='1'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='n'>"
        "<item id='i'><x xmlns='urn:x'>xyz</x></item></publish></pubsub></iq>",
        "SELECT 1 FROM pubsub_item WHERE CAST(payload AS TEXT) LIKE '%xyz%'",
    ),
    "displayed state": (
        "<message type='chat' to='romeo@example.org'><displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>"
        "<displayed xmlns='urn:xmpp:mds:displayed:0'><stanza-id xmlns='urn:xmpp:sid:0' by='a@b' id='xyz'/></displayed>"
        "</message>",
        "SELECT 1 FROM pubsub_item WHERE CAST(payload AS TEXT) LIKE '%xyz%'",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
async def test_what_a_stanza_caused_is_on_disk_when_it_is_acknowledged(cause: str) -> None:
    """At the very moment when the acknowledgement is written, a crash would leave it."""
    stanza, found = CAUSES[cause]
    async with World(settings={"c2s": CALM}) as world:
        juliet = await world.login(JULIET, presence=True)
        await world.login("romeo@example.org/orchard", presence=True)
        await managed(world, "nurse@example.org/house")
        juliet.send(f"<presence to='{ROOM}/j'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
        juliet.send(
            f"<iq type='set' id='own' to='{ROOM}'><query xmlns='http://jabber.org/protocol/muc#owner'>"
            "<x xmlns='jabber:x:data' type='submit'/></query></iq>"
        )
        await world.settle()
        await enable(juliet)
        await world.settle()
        assert isinstance(world.db, MemoryDatabase)
        db = world.db
        feed = juliet.feed
        left: list[MemoryDatabase] = []

        def acknowledged(data: bytes) -> None:
            if b"<a " in data:
                left.append(db.copy())
            feed(data)

        juliet.feed = acknowledged  # type: ignore[method-assign]
        async with after_a_crash(db) as before:
            assert await before.fetch(found) == []
        juliet.send(stanza)
        juliet.send(f"<r xmlns='{SM}'/>")
        await world.settle()
        (crashed,) = left
        async with crashed, after_a_crash(crashed) as start:
            assert await start.fetch(found) != []
            assert await start.fetch("SELECT handled FROM sm_session WHERE jid = ?", JULIET) == [(1,)]


async def test_who_cannot_wait_for_the_disk_does_not_keep_others_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many wait for their commits: a session goes without, and those that wait for the same commit are told of it."""
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    balcony, _ = await managed(world, "juliet@example.org/balcony")
    chamber, _ = await managed(world, "juliet@example.org/chamber")
    await world.settle()
    balcony.inbox.clear()
    waiting = world.db.when_durable
    refused = 0

    def when_durable(position: int, then: Callable[[], None]) -> None:
        nonlocal refused
        if not refused and getattr(getattr(then, "func", None), "__name__", "") == "_release":
            refused += 1
            raise StorageBusy("too many callbacks")
        waiting(position, then)

    monkeypatch.setattr(world.db, "when_durable", when_durable)
    say(romeo, "juliet@example.org", "both")
    for client in (balcony, chamber):
        await client.expect("<message id='both'/>")
    assert refused == 1
