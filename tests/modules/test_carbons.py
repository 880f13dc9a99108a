"""XEP-0280 through a whole server: who gets copies of what."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from beamish.core.content import survey
from beamish.core.services import CopiesService
from beamish.modules.carbons import CarbonsModule, eligible
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.world import PASSWORD, World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element

CARBONS = "urn:xmpp:carbons:2"
FORWARDED = "{urn:xmpp:forward:0}forwarded/{jabber:client}message"
HINT = "xmlns='urn:xmpp:hints'"
STATE = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
MUC = "http://jabber.org/protocol/muc#user"


async def switch(client: Client, how: str = "enable") -> None:
    await client.iq(f"<iq type='set' id='c'><{how} xmlns='{CARBONS}'/></iq>")


class Cast:
    """romeo on two devices with carbons and one without, juliet on two with."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def enter(self) -> None:
        login = self.world.login
        self.desk = await login("romeo@example.org/desk", presence=True)
        self.phone = await login("romeo@example.org/phone", presence=True)
        self.plain = await login("romeo@example.org/plain", presence=True)
        self.juliet = await login("juliet@example.org/balcony", presence=True)
        self.tablet = await login("juliet@example.org/tablet", presence=True)
        for client in (self.desk, self.phone, self.juliet, self.tablet):
            await switch(client)
        await self.quiet()

    @property
    def all(self) -> tuple[Client, ...]:
        return self.desk, self.phone, self.plain, self.juliet, self.tablet

    async def quiet(self) -> None:
        await self.world.settle()
        for client in self.all:
            client.inbox.clear()

    async def got(self) -> dict[str, list[str]]:
        """What everybody got since the last call: "x" for a message, "sent x" and "received x" for copies, by id."""
        await self.world.settle()
        found = {}
        for name in ("desk", "phone", "plain", "juliet", "tablet"):
            client: Client = getattr(self, name)
            kinds = [kind(el, client) for el in client.inbox]
            if kinds:
                found[name] = kinds
            client.inbox.clear()
        return found


def kind(el: Element, client: Client) -> str:
    for tag in ("sent", "received"):
        copy = el.find(f"{{{CARBONS}}}{tag}/{FORWARDED}")
        if copy is not None:
            assert el.get("from") == client.jid.bare
            assert el.get("to") == client.jid
            assert el.get("type") == copy.get("type")
            assert el.get("id") is None
            return f"{tag} {copy.get('id')}"
    return str(el.get("id"))


@pytest_asyncio.fixture
async def cast(world: World) -> AsyncIterator[Cast]:
    made = Cast(world)
    await made.enter()
    yield made


def chat(to: str, inner: str = "<body>x</body>", type: str = "chat", id: str = "m") -> str:
    return f"<message to='{to}' type='{type}' id='{id}'>{inner}</message>"


async def test_both_sides_of_a_conversation_on_every_device_once(cast: Cast) -> None:
    cast.desk.send(chat("juliet@example.org"))
    assert await cast.got() == {"phone": ["sent m"], "juliet": ["m"], "tablet": ["m"]}
    cast.juliet.send(chat("romeo@example.org/desk"))
    assert await cast.got() == {"desk": ["m"], "phone": ["received m"], "tablet": ["sent m"]}
    cast.juliet.send(chat("romeo@example.org"))
    assert await cast.got() == {"desk": ["m"], "phone": ["m"], "plain": ["m"], "tablet": ["sent m"]}
    cast.plain.send(chat("juliet@example.org/balcony"))
    assert await cast.got() == {
        "desk": ["sent m"],
        "phone": ["sent m"],
        "juliet": ["m"],
        "tablet": ["received m"],
    }


async def test_a_vanished_resource(cast: Cast) -> None:
    cast.juliet.send(chat("romeo@example.org/gone"))
    assert await cast.got() == {"desk": ["m"], "phone": ["m"], "plain": ["m"], "tablet": ["sent m"]}


async def test_copies_are_what_was_sent_with_the_ids_of_the_archive(cast: Cast) -> None:
    odd = "<x xmlns='urn:example' xmlns:p='urn:p'><p:y a='&lt;&quot;'>&amp;amp;</p:y> <z/></x>"
    cast.desk.send(chat("juliet@example.org/balcony", f"<body>x</body>{odd}"))
    await cast.world.settle()
    sent = cast.phone.inbox[0].find(f"{{{CARBONS}}}sent/{FORWARDED}")
    received = cast.tablet.inbox[0].find(f"{{{CARBONS}}}received/{FORWARDED}")
    assert sent is not None
    assert received is not None
    assert sent.find("{urn:example}x/{urn:p}y").text == "&amp;"  # type: ignore[union-attr]
    assert sent.get("from") == received.get("from") == "romeo@example.org/desk"
    for copy, owner in ((sent, "romeo@example.org"), (received, "juliet@example.org")):
        ids = copy.findall("{urn:xmpp:sid:0}stanza-id")
        assert [el.get("by") for el in ids] == [owner]
    live = cast.juliet.inbox[0].find("{urn:xmpp:sid:0}stanza-id")
    assert live is not None
    assert live.get("id") == received.find("{urn:xmpp:sid:0}stanza-id").get("id")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("type", "inner", "copied"),
    [
        ("chat", "", True),
        ("chat", "<body>x</body>", True),
        ("chat", STATE, True),
        ("normal", "<body>x</body>", True),
        ("", "<body>x</body>", True),
        ("normal", "", False),
        ("normal", "<odd xmlns='urn:example'/>", False),
        ("normal", "<received xmlns='urn:xmpp:receipts' id='1'/>", True),
        ("normal", "<request xmlns='urn:xmpp:receipts'/>", True),
        ("normal", "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", True),
        ("normal", STATE, True),
        ("normal", "<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>", True),
        ("normal", "<x xmlns='jabber:x:conference' jid='r@c'/>", True),
        ("normal", f"<x xmlns='{MUC}'><invite to='a@b'/></x>", True),
        ("headline", "<body>x</body>", False),
        ("headline", "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", True),
        ("headline", "<event xmlns='http://jabber.org/protocol/pubsub#event'/>", False),
        ("groupchat", "<body>x</body>", False),
        ("error", "<body>x</body>", False),
        ("chat", f"<body>x</body><private xmlns='{CARBONS}'/>", False),
        ("chat", f"<body>x</body><no-copy {HINT}/>", False),
        ("chat", f"<body>x</body><sent xmlns='{CARBONS}'/>", False),
        ("chat", f"<body>x</body><received xmlns='{CARBONS}'/>", False),
        ("chat", f"<body>x</body><no-store {HINT}/>", True),
    ],
)
def test_rules(type: str, inner: str, copied: bool) -> None:
    stanza = Stanza.parse(f"<message type='{type}'>{inner}</message>".encode())
    assert eligible(stanza.type, survey(stanza)) is copied


@pytest.mark.parametrize("mark", [f"<private xmlns='{CARBONS}'/>", f"<no-copy {HINT}/>"])
async def test_private_messages_are_copied_nowhere_and_keep_the_mark(cast: Cast, mark: str) -> None:
    cast.desk.send(chat("juliet@example.org/balcony", f"<body>x</body>{mark}"))
    await cast.world.settle()
    assert len(cast.juliet.inbox[0]) == 3  # body, mark, id
    assert await cast.got() == {"juliet": ["m"]}


async def test_errors_are_copied_to_who_saw_the_message(cast: Cast) -> None:
    cast.desk.send(chat("juliet@example.org/balcony", id="known"))
    await cast.got()
    failed = "<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
    for id in ("known", "unknown"):
        cast.juliet.send(chat("romeo@example.org/desk", failed, "error", id))
    assert await cast.got() == {"desk": ["known", "unknown"], "phone": ["received known"]}


async def test_errors_of_our_own_server_are_copied_too(cast: Cast) -> None:
    cast.desk.send(chat("nobody@example.org"))
    assert await cast.got() == {"desk": ["m"], "phone": ["sent m", "received m"]}
    cast.desk.send(chat("nobody@example.org", "<odd xmlns='urn:example'/>", "normal", "n"))
    assert await cast.got() == {"desk": ["n"]}


async def test_private_messages_of_rooms(cast: Cast) -> None:
    """What one sends is copied; what comes was sent to every client in the room, by the room."""
    room = JID.parse("room@rooms.invalid/nurse")
    note = f"<body>x</body><x xmlns='{MUC}'/>".encode()
    invitation = f"<x xmlns='{MUC}'><invite from='nurse@example.org'/></x>".encode()
    post = cast.world.kernel.router.post
    post(Stanza.build("message", "chat", id="pm", sender=room, to=cast.desk.jid, content=note))
    assert await cast.got() == {"desk": ["pm"]}
    post(Stanza.build("message", "", id="inv", sender=room.bare, to=cast.desk.jid, content=invitation))
    assert await cast.got() == {"desk": ["inv"], "phone": ["received inv"]}
    cast.desk.send(chat("juliet@example.org/balcony", f"<body>x</body><x xmlns='{MUC}'/>"))
    assert (await cast.got())["phone"] == ["sent m"]


async def test_devices_that_do_not_take_part_in_delivery(world: World) -> None:
    """Negative priority and no presence: neither gets messages to the account, both get copies."""
    negative = await world.login("romeo@example.org/negative", priority=-1)
    silent = await world.login("romeo@example.org/silent")
    for client in (negative, silent):
        await switch(client)
    await world.settle()
    negative.inbox.clear()
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    juliet.send(chat("romeo@example.org"))
    for client in (negative, silent):
        assert kind(await client.receive(), client) == "received m"
        await client.expect_nothing()
    await juliet.expect_nothing()
    desk = await world.login("romeo@example.org/desk", presence=True)
    assert any(el.get("id") == "m" for el in desk.inbox)  # stored offline as well


async def test_messages_to_oneself(cast: Cast) -> None:
    cast.desk.send(chat("romeo@example.org"))
    assert await cast.got() == {"desk": ["m"], "phone": ["m"], "plain": ["m"]}
    cast.desk.send(chat("romeo@example.org/plain"))
    assert await cast.got() == {"plain": ["m"], "phone": ["received m"]}


async def test_enabling_and_disabling_any_number_of_times(cast: Cast) -> None:
    for _ in range(2):
        await switch(cast.phone, "disable")
        cast.desk.send(chat("juliet@example.org/balcony"))
        assert "phone" not in await cast.got()
        await switch(cast.phone, "disable")
    for _ in range(2):
        await switch(cast.phone)
    cast.desk.send(chat("juliet@example.org/balcony"))
    assert (await cast.got())["phone"] == ["sent m"]
    answer = await cast.desk.iq(
        f"<iq type='set' id='c' to='juliet@example.org'><enable xmlns='{CARBONS}'/></iq>", type="error"
    )
    assert answer.find("{*}error/{*}forbidden") is not None


async def test_a_forged_copy_is_no_copy(cast: Cast) -> None:
    inner = f"<body>x</body><received xmlns='{CARBONS}'><forwarded xmlns='urn:xmpp:forward:0'/></received>"
    cast.juliet.send(chat("romeo@example.org/desk", inner))
    assert await cast.got() == {"desk": ["m"]}


async def test_closed_sessions_are_forgotten(cast: Cast) -> None:
    await cast.phone.close()
    await cast.got()
    cast.desk.send(chat("juliet@example.org/balcony"))
    assert await cast.got() == {"juliet": ["m"], "tablet": ["received m"]}
    for client in cast.all:
        if not client.closed:
            await client.close()
    module = cast.world.kernel.registry.module(CarbonsModule)
    assert not module._enabled


async def test_announced_with_all_its_rules(world: World) -> None:
    romeo = await world.login("romeo@example.org/r")
    disco = "<iq type='get' id='d' to='{}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
    for at in ("example.org", "romeo@example.org"):
        features = {el.get("var") for el in (await romeo.iq(disco.format(at)))[0]}
        assert {CARBONS, "urn:xmpp:carbons:rules:0"} <= features


async def test_others_can_ask_who_has_a_copy(cast: Cast) -> None:
    service = cast.world.kernel.service(CopiesService)
    message = Stanza.parse(chat("romeo@example.org/desk").encode())
    states = {name: cast.world.kernel.sessions.get(getattr(cast, name).jid) for name in ("desk", "phone", "plain")}
    assert {name: service.copies(s, message) for name, s in states.items() if s is not None} == {
        "desk": True,
        "phone": True,
        "plain": False,
    }
    assert states["phone"] is not None
    private = Stanza.parse(chat("romeo@example.org/desk", f"<private xmlns='{CARBONS}'/>").encode())
    assert not service.copies(states["phone"], private)


async def test_the_wish_survives_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        desk = await world.login("romeo@example.org/desk", presence=True)
        await switch(desk)
        desk.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
        enabled = await desk.expect("<enabled xmlns='urn:xmpp:sm:3' id='*'/>")
    async with World(database=database) as world:
        other = await world.login("romeo@example.org/other", presence=True)
        other.send(chat("juliet@example.org"))
        desk = world.connect()
        await desk.open_stream("example.org")
        await desk.authenticate("romeo", PASSWORD)
        desk.send(f"<resume xmlns='urn:xmpp:sm:3' h='0' previd='{enabled.get('id')}'/>")
        while (el := await desk.receive()).find(f"{{{CARBONS}}}sent") is None:
            assert el.tag != "{urn:xmpp:sm:3}failed"
    await database.close()


@pytest.mark.parametrize("archive", [True, False])
async def test_what_was_stored_is_not_given_to_who_has_a_copy(archive: bool) -> None:
    """A device that was not available yet gets a copy; the message itself is stored for whoever comes first."""
    async with World(settings={"modules": {} if archive else {"disable": ["mam"]}}) as world:
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        romeo.send("<message to='juliet@example.org' type='chat' id='1'><body>before</body></message>")
        juliet = await world.login("juliet@example.org/balcony")
        await juliet.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
        for number in (2, 3):
            romeo.send(f"<message to='juliet@example.org' type='chat' id='{number}'><body>copied</body></message>")
        await world.settle()
        assert [el.find(f"{{{CARBONS}}}received") is not None for el in juliet.inbox] == [True, True]
        juliet.inbox.clear()
        juliet.send("<presence/>")
        await world.settle()
        assert [el.findtext("{*}body") for el in juliet.inbox if el.tag == "{jabber:client}message"] == ["before"]
        for el in juliet.inbox:
            if el.tag == "{jabber:client}iq":
                juliet.send(f"<iq type='result' id='{el.get('id')}' to='{el.get('from')}'/>")
        await world.settle()
        assert await world.db.fetch("SELECT id FROM offline_message") == []


async def test_what_waits_behind_stored_messages_is_not_given_to_who_has_a_copy(world: World) -> None:
    """Another device has a copy of it; its own breaks off before it gets it, and the other one is served from the store."""
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    romeo.send("<message to='juliet@example.org' type='chat' id='1'><body>before</body></message>")
    phone = await world.login("juliet@example.org/phone")
    await switch(phone)
    desk = await world.login("juliet@example.org/desk")
    await world.settle()
    world.db.hold()  # the stored one is being read
    desk.send("<presence/>")
    await world.settle()
    romeo.send("<message to='juliet@example.org/desk' type='chat' id='2'><body>behind</body></message>")
    await world.settle()
    assert [el.find(f"{{{CARBONS}}}received") is not None for el in phone.inbox] == [True]
    phone.inbox.clear()
    desk.drop()
    await world.settle()
    world.db.release()
    await world.settle()
    phone.send("<presence/>")
    await world.settle()
    assert [el.findtext("{*}body") for el in phone.inbox if el.tag == "{jabber:client}message"] == ["before"]
