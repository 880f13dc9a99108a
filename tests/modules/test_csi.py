"""XEP-0352 through a whole server: what an inactive client gets, when, and in which order."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.modules.sm.play import unconfirmed

from beamish.modules.csi import DROP, HOLD, SEND, judge
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.world import PASSWORD, World
from beamish.xmpp.stanza import PersonalStanza, Stanza
from beamish.xmpp.xml import Element

CSI = "urn:xmpp:csi:0"
SM = "urn:xmpp:sm:3"
STATE = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
RECEIPT = "<received xmlns='urn:xmpp:receipts' id='1'/>"
EVENT = "<event xmlns='http://jabber.org/protocol/pubsub#event'><items node='{}'/></event>"


@pytest.mark.parametrize(
    ("inner", "type", "verdict"),
    [
        ("<body>x</body>", "chat", SEND),
        ("<body>x</body>", "groupchat", SEND),
        ("<subject>x</subject>", "groupchat", SEND),
        ("<encrypted xmlns='eu.siacs.conversations.axolotl'/>", "chat", SEND),
        ("<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>", "chat", SEND),
        ("<odd xmlns='urn:example'/>", "", SEND),
        ("<error type='cancel'/>", "error", SEND),
        (EVENT.format("urn:xmpp:mds:displayed:0"), "headline", SEND),
        (EVENT.format("urn:xmpp:avatar:metadata"), "headline", HOLD),
        (RECEIPT, "chat", HOLD),
        (f"{RECEIPT}{STATE}", "chat", HOLD),
        ("<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", "chat", HOLD),
        (STATE, "chat", DROP),
        (f"{STATE}<thread>t</thread><no-store xmlns='urn:xmpp:hints'/>", "chat", DROP),
    ],
)
def test_judgements(inner: str, type: str, verdict: int) -> None:
    assert judge(Stanza.parse(f"<message type='{type}' from='a@b/c'>{inner}</message>".encode())) == verdict


@pytest.mark.parametrize(
    ("tag", "inner", "verdict"),
    [
        ("received", "<body>x</body>", SEND),
        ("sent", "<body>x</body>", HOLD),
        ("received", STATE, DROP),
        ("sent", STATE, DROP),
        ("received", f"<body>x</body>{STATE}", SEND),
    ],
)
def test_judgements_of_copies(tag: str, inner: str, verdict: int) -> None:
    content = (
        f"<{tag} xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>"
        f"<message xmlns='jabber:client' type='chat'>{inner}</message></forwarded></{tag}>"
    )
    assert judge(PersonalStanza.build("message", "chat", content=content.encode())) == verdict
    assert judge(Stanza.build("message", "chat", content=content.encode())) == SEND  # somebody else's invention


def told(client: Client) -> list[str]:
    """What lies in the inbox, in short; acknowledgements of the stream are left out."""
    found = []
    for el in client.inbox:
        name = str(el.tag).rpartition("}")[2]
        if str(el.tag).startswith(f"{{{SM}}}"):
            continue
        if name == "presence":
            found.append(f"{el.get('from', '').partition('@')[0]} {el.findtext('{*}status') or el.get('type')}")
        else:
            found.append(f"{name} {el.get('id')}")
    client.inbox.clear()
    return found


def inactive(client: Client) -> None:
    client.send(f"<inactive xmlns='{CSI}'/>")


def active(client: Client) -> None:
    client.send(f"<active xmlns='{CSI}'/>")


@pytest_asyncio.fixture
async def friends(world: World) -> AsyncIterator[tuple[Client, Client, Client]]:
    """juliet, inactive, and her friends romeo and nurse."""
    juliet = await world.login("juliet@example.org/phone", presence=True, roster=True)
    others = []
    for who in ("romeo", "nurse"):
        other = await world.login(f"{who}@example.org/r", presence=True, roster=True)
        await world.befriend(juliet, other)
        others.append(other)
    await world.settle()
    juliet.inbox.clear()
    inactive(juliet)
    yield juliet, others[0], others[1]


def status(client: Client, text: str) -> None:
    client.send(f"<presence><status>{text}</status></presence>")


def say(client: Client, id: str, inner: str = "<body>x</body>", to: str = "juliet@example.org/phone") -> None:
    client.send(f"<message type='chat' to='{to}' id='{id}'>{inner}</message>")


async def test_presence_waits_and_only_the_latest_comes(friends: tuple[Client, Client, Client]) -> None:
    juliet, romeo, nurse = friends
    status(romeo, "one")
    status(nurse, "away")
    status(romeo, "two")
    status(romeo, "three")
    await juliet._settle()  # type: ignore[misc]
    assert told(juliet) == []
    active(juliet)
    juliet.send("<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    await juliet._settle()  # type: ignore[misc]
    assert told(juliet) == ["nurse away", "romeo three", "iq p"]
    status(romeo, "four")
    await juliet._settle()  # type: ignore[misc]
    assert told(juliet) == ["romeo four"]


async def test_what_is_important_comes_at_once_and_the_rest_before_it(
    friends: tuple[Client, Client, Client],
) -> None:
    juliet, romeo, nurse = friends
    status(romeo, "one")
    say(romeo, "state", STATE)
    say(nurse, "receipt", RECEIPT)
    status(nurse, "busy")
    await juliet._settle()  # type: ignore[misc]
    assert told(juliet) == []
    say(romeo, "hello")
    await juliet._settle()  # type: ignore[misc]
    assert told(juliet) == ["romeo one", "message receipt", "nurse busy", "message hello"]
    status(romeo, "two")
    juliet.send("<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    await juliet._settle()  # type: ignore[misc]
    assert told(juliet) == ["romeo two", "iq p"]  # still inactive, but an answer wakes the radio anyway


async def test_requests_and_errors_do_not_wait(world: World, friends: tuple[Client, Client, Client]) -> None:
    juliet, _, _ = friends
    mercutio = await world.login("mercutio@example.org/m", presence=True)
    mercutio.send("<presence type='subscribe' to='juliet@example.org'/>")
    await world.settle()
    assert told(juliet) == ["mercutio subscribe"]
    mercutio.send(
        "<presence to='juliet@example.org/phone'><x xmlns='http://jabber.org/protocol/muc#user'><status code='110'/>"
        "</x><status>mine</status></presence>"
    )
    await world.settle()
    assert told(juliet) == ["mercutio mine"]


async def test_the_held_is_bounded(world: World) -> None:
    async with World(settings={"modules": {"csi": {"max_held": 3, "max_held_bytes": 4_096}}}) as small:
        juliet = await small.login("juliet@example.org/phone", presence=True)
        romeo = await small.login("romeo@example.org/r", presence=True)
        inactive(juliet)
        for n in range(3):
            say(romeo, f"r{n}", RECEIPT)
        await small.settle()
        assert told(juliet) == []
        say(romeo, "r3", RECEIPT)
        await small.settle()
        assert told(juliet) == [f"message r{n}" for n in range(4)]
        say(romeo, "r4", RECEIPT)
        await small.settle()
        assert told(juliet) == []
        say(romeo, "large", RECEIPT + f"<thread>{'t' * 4_096}</thread>")
        await small.settle()
        assert told(juliet) == ["message r4", "message large"]


async def test_states_may_be_repeated_and_a_close_loses_nothing(
    world: World, friends: tuple[Client, Client, Client]
) -> None:
    juliet, romeo, _ = friends
    status(romeo, "one")
    inactive(juliet)
    inactive(juliet)
    await world.settle()
    session = world.kernel.sessions.get(juliet.jid)
    assert session is not None
    session.outlet.close(None, "closed")
    await world.settle()
    assert told(juliet) == ["romeo one"]
    romeo.inbox.clear()
    for _ in range(2):
        active(romeo)  # it never was anything else
    await romeo.expect_nothing()
    assert not romeo.closed


async def test_it_is_offered(world: World) -> None:
    romeo = await world.login("romeo@example.org/r")
    assert romeo.features is not None
    assert romeo.features.find(f"{{{CSI}}}csi") is not None


# ---- with stream management (XEP-0198) -----------------------------------------------------------------------------


async def manage(client: Client) -> str:
    client.send(f"<enable xmlns='{SM}' resume='true'/>")
    enabled = await client.receive()
    while enabled.tag != f"{{{SM}}}enabled":
        enabled = await client.receive()
    return str(enabled.get("id"))


async def resume(world: World, id: str, h: int) -> Client:
    client = world.connect()
    await client.open_stream("example.org")
    await client.authenticate("juliet", PASSWORD)
    client.send(f"<resume xmlns='{SM}' previd='{id}' h='{h}'/>")
    await client.expect(f"<resumed xmlns='{SM}'/>")
    return client


def stanzas(found: list[Element]) -> int:
    return sum(not str(el.tag).startswith(f"{{{SM}}}") for el in found)


@pytest.mark.parametrize("first", ["inactive", "managed"])
async def test_what_is_dropped_was_never_counted(
    world: World, friends: tuple[Client, Client, Client], first: str
) -> None:
    """Whichever came first, client state lies above stream management: the client's count is the server's."""
    juliet, romeo, _ = friends
    if first == "managed":
        active(juliet)
        id = await manage(juliet)
        inactive(juliet)
    else:
        id = await manage(juliet)
    await world.settle()
    juliet.inbox.clear()
    for n in range(3):
        say(romeo, f"s{n}", STATE)
        status(romeo, str(n))
    say(romeo, "hello")
    await world.settle()
    seen = stanzas(list(juliet.inbox))
    assert told(juliet) == ["romeo 2", "message hello"]
    juliet.send(f"<a xmlns='{SM}' h='{seen}'/>")
    juliet.drop()
    await world.settle()
    again = await resume(world, id, seen)
    await world.settle()
    assert told(again) == []


async def test_what_was_held_is_there_after_a_resumption_which_is_active(
    world: World, friends: tuple[Client, Client, Client]
) -> None:
    juliet, romeo, _ = friends
    id = await manage(juliet)
    await world.settle()
    juliet.inbox.clear()
    say(romeo, "receipt", RECEIPT)
    status(romeo, "one")
    await world.settle()
    assert told(juliet) == []
    juliet.drop()
    await world.settle()
    say(romeo, "hello")
    again = await resume(world, id, 0)
    await world.settle()
    assert told(again) == ["message receipt", "romeo one", "message hello"]
    status(romeo, "two")
    await world.settle()
    assert told(again) == ["romeo two"]


async def test_a_stream_resumed_while_the_old_one_hangs_is_active(
    world: World, friends: tuple[Client, Client, Client]
) -> None:
    juliet, romeo, _ = friends
    id = await manage(juliet)
    await world.settle()
    juliet.inbox.clear()
    say(romeo, "receipt", RECEIPT)
    await world.settle()
    again = await resume(world, id, 0)
    status(romeo, "one")
    await world.settle()
    assert told(again) == ["message receipt", "romeo one"]


def texts(client: Client) -> list[str | None]:
    return [el.get("id") for el in client.inbox if el.tag == "{jabber:client}message"]


async def crash(world: World) -> World:
    """Another server on what a crash of the first one would leave."""
    assert isinstance(world.db, MemoryDatabase)
    return World(database=world.db.copy())


MARKER = "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>"


@pytest.mark.parametrize("flushed", [False, True])
async def test_what_was_held_survives_a_crash_of_the_server_once(
    world: World, friends: tuple[Client, Client, Client], flushed: bool
) -> None:
    juliet, romeo, _ = friends
    id = await manage(juliet)
    await world.settle()
    juliet.inbox.clear()
    romeo.send(f"<enable xmlns='{SM}'/>")
    say(romeo, "one", RECEIPT)
    say(romeo, "state", STATE)
    say(romeo, "two", MARKER)
    if flushed:
        say(romeo, "hello")
    romeo.send(f"<r xmlns='{SM}'/>")
    await world.settle()
    assert romeo.inbox[-1].get("h") == ("4" if flushed else "3")  # so it must not get lost
    seen = len(told(juliet))
    assert seen == (3 if flushed else 0)
    async with await crash(world) as new:
        again = await resume(new, id, seen)
        await new.settle()
        assert texts(again) == ([] if flushed else ["one", "two"])
        again.send(f"<a xmlns='{SM}' h='{seen + len(again.inbox)}'/>")
        await new.pass_time(1.0)
        assert await unconfirmed(new.db) == []


async def test_the_sender_hears_only_of_what_is_on_disk(world: World, friends: tuple[Client, Client, Client]) -> None:
    juliet, romeo, _ = friends
    await manage(juliet)
    romeo.send(f"<enable xmlns='{SM}'/>")
    await world.settle()
    romeo.inbox.clear()
    assert isinstance(world.db, MemoryDatabase)
    with world.db.held():
        say(romeo, "one", MARKER)
        romeo.send(f"<r xmlns='{SM}'/>")
        await romeo.expect_nothing()
    await romeo.expect(f"<a xmlns='{SM}' h='1'/>")


LEAVING = ["lost", "replaced", "closed", "expired"]


@pytest.mark.parametrize("managed", [True, False])
@pytest.mark.parametrize("how", LEAVING)
async def test_what_was_held_when_the_session_ends_is_stored(
    world: World, friends: tuple[Client, Client, Client], managed: bool, how: str
) -> None:
    juliet, romeo, _ = friends
    if managed:
        await manage(juliet)
    await world.settle()
    juliet.inbox.clear()
    say(romeo, "one", MARKER)
    say(romeo, "two", MARKER, to="juliet@example.org")
    status(romeo, "away")
    await world.settle()
    assert told(juliet) == []
    again = None
    if how == "replaced":
        again = await world.login("juliet@example.org/phone", presence=True)
    elif how == "closed":
        juliet.send("</stream:stream>")
    else:
        juliet.drop()
    await world.pass_time(601.0 if how == "expired" or managed else 0.0)
    assert juliet.inbox == type(juliet.inbox)() or how == "replaced"  # nothing behind the end of the stream
    if again is None:
        again = await world.login("juliet@example.org/phone", presence=True)
    await world.settle()
    assert texts(again) == ["one", "two"]
    assert await unconfirmed(world.db) == []


async def test_what_was_held_is_not_stored_if_another_device_has_it(
    world: World, friends: tuple[Client, Client, Client]
) -> None:
    juliet, romeo, _ = friends
    desk = await world.login("juliet@example.org/desk", presence=True)
    await world.pass_time(1.0)
    desk.inbox.clear()
    say(romeo, "both", MARKER, to="juliet@example.org")
    say(romeo, "one", MARKER)
    await world.settle()
    juliet.drop()
    await world.settle()
    assert texts(desk) == ["both", "one"]
    assert await world.db.fetch("SELECT id FROM offline_message") == []


async def test_what_was_held_survives_an_orderly_restart() -> None:
    async with MemoryDatabase() as db:
        async with World(database=db) as world:
            juliet = await world.login("juliet@example.org/phone", presence=True)
            romeo = await world.login("romeo@example.org/r", presence=True)
            await world.befriend(juliet, romeo)
            id = await manage(juliet)
            inactive(juliet)
            say(romeo, "one", MARKER)
            status(romeo, "away")
            say(romeo, "two", RECEIPT)
            await world.settle()
            assert told(juliet) == []
            await world.c2s.drain(1.0)
        async with World(database=db) as new:
            again = await resume(new, id, 0)
            await new.settle()
            got = told(again)  # romeo, who had no such session, left before or after juliet was cut off
            assert [entry for entry in got if entry.startswith("message")] == ["message one", "message two"]
            assert got[-1] == "romeo unavailable"
            again.send(f"<a xmlns='{SM}' h='{len(got)}'/>")
            await new.pass_time(1.0)
            assert await unconfirmed(new.db) == []
