"""When a device is notified, and of what."""

from __future__ import annotations

import pytest
from tests.modules.push.conftest import (
    BARE,
    PHONE,
    SERVICE,
    PushService,
    acknowledge,
    come_back,
    lose,
    phone,
    register,
    registrations,
    settings,
)
from tests.modules.sm.conftest import SM, enable, managed, say

from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

STATE = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"
DESKTOP = "juliet@example.org/desktop"


async def away(world: World) -> None:
    """A phone that registered, and left for good."""
    client, _ = await phone(world)
    await client.close()
    await world.settle()


async def test_a_message_to_somebody_away_is_told(world: World, service: PushService, romeo: Client) -> None:
    await away(world)
    say(romeo, BARE, "Wherefore")
    told = await service.one()
    assert told.stanza.sender == BARE
    assert told.stanza.type == "set"
    assert told.node == "n1"
    assert told.fields == {"message-count": "1", "last-message-body": "New Message!"}
    assert told.rest == []


async def test_somebody_who_is_there_is_not_told(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    say(romeo, BARE, "one")
    await world.settle()
    acknowledge(world, client)
    await world.pass_time(100)
    assert await service.counts() == []


async def test_what_was_not_confirmed_is_told_when_the_connection_is_lost(
    world: World, service: PushService, romeo: Client
) -> None:
    client, _ = await phone(world)
    say(romeo, BARE, "one")
    say(romeo, BARE, "two")
    assert await service.counts() == []
    await lose(world, client)
    assert await service.counts() == ["2"]


async def test_a_lost_connection_alone_is_nothing(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    say(romeo, BARE, "one")
    await world.settle()
    acknowledge(world, client)
    await lose(world, client)
    await world.pass_time(60)
    assert await service.counts() == []


async def test_what_comes_while_the_session_waits_is_told(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await lose(world, client)
    say(romeo, BARE, "one")
    assert await service.counts() == ["1"]
    say(romeo, PHONE, "two")
    assert await service.counts() == []
    await world.pass_time(3)
    assert await service.counts() == ["2"]


async def test_a_client_that_does_not_confirm_in_time_is_asleep(
    world: World, service: PushService, romeo: Client
) -> None:
    client, _ = await phone(world)
    say(romeo, BARE, "one")
    await world.pass_time(1)
    assert any(el.tag == f"{{{SM}}}r" for el in client.inbox)
    for _ in range(9):
        await world.pass_time(1)
    assert await service.counts() == []
    await world.pass_time(1.5)
    assert await service.counts() == ["1"]
    say(romeo, BARE, "two")
    await world.pass_time(3)
    assert await service.counts() == ["2"]
    await world.pass_time(3)
    assert await service.counts() == []
    acknowledge(world, client)  # it wakes up
    say(romeo, BARE, "three")
    await world.settle()
    acknowledge(world, client)
    await world.pass_time(30)
    assert await service.counts() == []
    assert world.transports[client].is_closing() is False
    assert registrations(world)[0].unread == 0


async def test_a_silent_client_is_told_once_although_its_connection_is_cut_later(
    world: World, service: PushService, romeo: Client
) -> None:
    client, _ = await phone(world)
    say(romeo, BARE, "one")
    for _ in range(70):
        await world.pass_time(1)
    assert client.disconnected
    assert await service.counts() == ["1"]


async def test_the_count_begins_anew_when_the_device_is_back(world: World, service: PushService, romeo: Client) -> None:
    client, id_ = await phone(world)
    await lose(world, client)
    say(romeo, BARE, "one")
    say(romeo, BARE, "two")
    assert await service.counts() == ["2"]
    client = await come_back(world, client, id_)
    acknowledge(world, client)
    await world.pass_time(10)
    assert await service.counts() == []
    await lose(world, client)
    say(romeo, BARE, "three")
    assert await service.counts() == ["1"]


async def test_what_a_resumed_client_never_confirms_is_told_again(
    world: World, service: PushService, romeo: Client
) -> None:
    client, id_ = await phone(world)
    await lose(world, client)
    say(romeo, BARE, "one")
    assert await service.counts() == ["1"]
    sent = registrations(world)[0]
    assert sent.told == 1
    client = await come_back(world, client, id_)
    await lose(world, client)
    await world.pass_time(3)
    assert await service.counts() == ["1"]


async def test_an_expired_session_is_not_told_once_more(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await lose(world, client)
    say(romeo, BARE, "one")
    assert await service.counts() == ["1"]
    await world.pass_time(4_000)  # the message goes to offline storage
    assert await service.counts() == []
    say(romeo, BARE, "two")
    assert await service.counts() == ["2"]


async def test_a_client_that_leaves_without_confirming_is_told(
    world: World, service: PushService, romeo: Client
) -> None:
    client, _ = await phone(world)
    say(romeo, BARE, "one")
    await world.settle()
    await client.close()
    assert await service.counts() == ["1"]


async def test_a_new_session_of_the_same_resource_is_the_device(
    world: World, service: PushService, romeo: Client
) -> None:
    await away(world)
    say(romeo, BARE, "one")
    assert await service.counts() == ["1"]
    client = await world.login(PHONE, presence=True)  # registers nothing
    say(romeo, BARE, "two")
    await world.pass_time(10)
    assert await service.counts() == []
    await client.close()
    say(romeo, BARE, "three")
    assert await service.counts() == ["1"]


async def test_a_device_that_is_away_is_told_although_another_one_is_there(
    world: World, service: PushService, romeo: Client
) -> None:
    await away(world)
    desktop = await world.login(DESKTOP, presence=True)
    say(romeo, BARE, "one")
    assert await service.counts() == ["1"]
    await world.pass_time(3)
    say(romeo, DESKTOP, "to the desktop")
    assert await service.counts() == ["2"]
    await world.pass_time(3)
    romeo.send(f"<message to='{DESKTOP}' type='chat'><body>x</body><private xmlns='urn:xmpp:carbons:2'/></message>")
    romeo.send(f"<message to='{DESKTOP}' type='groupchat'><body>x</body></message>")
    desktop.send(f"<message to='{BARE}' type='chat'><body>a note to myself</body></message>")
    await world.pass_time(10)
    assert await service.counts() == []


async def test_what_is_not_archived_wakes_nobody_who_could_not_find_it(
    world: World, service: PushService, romeo: Client
) -> None:
    await away(world)
    desktop = await world.login(DESKTOP, presence=True)
    await desktop.iq(
        "<iq type='set' id='p'><prefs xmlns='urn:xmpp:mam:2' default='never'><always/><never/></prefs></iq>"
    )
    say(romeo, BARE, "for the desktop")
    await world.pass_time(10)
    assert await service.counts() == []
    await desktop.close()
    say(romeo, BARE, "stored")
    assert await service.counts() == ["1"]


async def test_each_device_by_itself(world: World, service: PushService, romeo: Client) -> None:
    first, _ = await phone(world)
    second, _ = await phone(world, "juliet@example.org/tablet", "n2")
    await lose(world, first)
    say(romeo, BARE, "one")
    told = await service.one()
    assert (told.node, told.count) == ("n1", "1")
    await lose(world, second)
    told = await service.one()
    assert (told.node, told.count) == ("n2", "1")


async def test_copies(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world, carbons=True)
    desktop = await world.login(DESKTOP, presence=True)
    await lose(world, client)
    desktop.send(f"<message to='{romeo.jid}' type='chat'><body>I say this myself</body></message>")
    assert await service.counts() == []
    say(romeo, DESKTOP, "for both")
    assert await service.counts() == ["1"]
    romeo.send(f"<message to='{DESKTOP}' type='chat'>{STATE}</message>")
    await world.pass_time(10)
    assert await service.counts() == []


async def test_an_inactive_client_that_confirms_is_left_alone(
    world: World, service: PushService, romeo: Client
) -> None:
    client, _ = await phone(world)
    client.send("<inactive xmlns='urn:xmpp:csi:0'/>")
    await world.settle()
    client.inbox.clear()
    romeo.send(f"<message to='{BARE}' type='chat'><received xmlns='urn:xmpp:receipts' id='1'/></message>")
    await world.pass_time(100)
    assert await service.counts() == []
    say(romeo, BARE, "one")
    await world.settle()
    acknowledge(world, client)
    await world.pass_time(60)
    assert await service.counts() == []
    say(romeo, BARE, "two")
    await lose(world, client)
    assert await service.counts() == ["1"]  # not the receipt


async def test_rooms_reach_the_waiting_session(world: World, service: PushService, romeo: Client) -> None:
    room = "balcony@conference.example.org"
    romeo.send(f"<presence to='{room}/Romeo'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
    await world.settle()
    say(romeo, room, "before you came", "groupchat")
    client, _ = await phone(world)
    client.send(f"<presence to='{room}/Juliet'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
    await world.settle()
    await lose(world, client)  # it has confirmed nothing of what it was sent on entering
    assert await service.counts() == []
    romeo.send(f"<message to='{room}' type='groupchat'><subject>new subject</subject></message>")
    assert await service.counts() == []
    say(romeo, room, "Juliet?", "groupchat")
    assert await service.counts() == ["1"]


async def test_a_device_that_can_be_woken_is_waited_for_longer_and_stays_in_its_rooms(
    world: World, service: PushService, romeo: Client
) -> None:
    room = "balcony@conference.example.org"
    client, _ = await phone(world)
    romeo.send(f"<presence to='{room}/Romeo'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
    await world.settle()
    say(romeo, room, "Juliet?", "groupchat")
    await world.settle()
    client.send(f"<presence to='{room}/Juliet'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
    other, _ = await managed(world, "nurse@example.org/kitchen")
    say(romeo, BARE, "not confirmed")
    for _ in range(70):  # first it is late, then it is cut off
        await world.pass_time(1)
    assert client.disconnected
    await lose(world, other)
    await world.settle()
    service.told.clear()
    for _ in range(5):
        await world.pass_time(650)
        say(romeo, room, "Juliet?", "groupchat")
        assert len(await service.counts()) == 1
    assert world.kernel.sessions.get(other.jid) is None
    await world.pass_time(650)
    assert world.kernel.sessions.get(client.jid) is None
    say(romeo, room, "she is not here any more", "groupchat")
    assert await service.counts() == []


async def test_or_not_if_the_administrator_does_not_want_it() -> None:
    async with World(settings=settings(wait_seconds=0.0)) as world:
        client, _ = await phone(world)
        await lose(world, client)
        await world.pass_time(599)
        assert world.kernel.sessions.get(client.jid) is not None
        await world.pass_time(2)
        assert world.kernel.sessions.get(client.jid) is None


async def test_what_the_device_said_in_a_room_is_no_news(world: World, service: PushService) -> None:
    room = "balcony@conference.example.org"
    client, _ = await phone(world)
    client.send(f"<presence to='{room}/Juliet'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
    await world.settle()
    say(client, room, "anybody there?", "groupchat")
    await world.settle()
    await lose(world, client)
    await world.pass_time(10)
    assert await service.counts() == []


async def test_blocked_people_are_not_heard(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await client.iq(
        "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@example.org'/></block></iq>"
    )
    await world.settle()
    acknowledge(world, client)
    await lose(world, client)
    say(romeo, BARE, "while the session waits")
    await world.pass_time(10)
    assert await service.counts() == []
    await world.pass_time(4_000)
    say(romeo, BARE, "when it is over")
    romeo.send(f"<presence to='{BARE}' type='subscribe'/>")
    await world.pass_time(10)
    assert await service.counts() == []
    nurse = await world.login("nurse@example.org/kitchen")
    say(nurse, BARE, "supper")
    assert await service.counts() == ["1"]


async def test_requests_to_subscribe(world: World, service: PushService, romeo: Client) -> None:
    await away(world)
    romeo.send(f"<presence to='{BARE}' type='subscribe'/>")
    told = await service.one()
    assert told.fields == {"pending-subscription-count": "1"}
    romeo.send(f"<presence to='{BARE}' type='subscribe'/>")  # the same once more
    await world.pass_time(10)
    assert await service.counts() == []
    say(romeo, BARE, "please")
    assert (await service.one()).fields["message-count"] == "1"
    nurse = await world.login("nurse@example.org/kitchen")
    await world.pass_time(10)
    nurse.send(f"<presence to='{BARE}' type='subscribe'/>")
    told = await service.one()
    assert told.fields["pending-subscription-count"] == "2"


async def test_a_request_to_a_device_that_is_there_is_not_told_but_to_a_waiting_one(
    world: World, service: PushService, romeo: Client
) -> None:
    client, _ = await phone(world)
    romeo.send(f"<presence to='{BARE}' type='subscribe'/>")
    assert await service.counts() == []
    await lose(world, client)
    nurse = await world.login("nurse@example.org/kitchen")
    nurse.send(f"<presence to='{BARE}' type='subscribe'/>")
    assert (await service.one()).fields == {"pending-subscription-count": "2"}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        "<received xmlns='urn:xmpp:receipts' id='1'/>",
        "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
        "<body>x</body><no-store xmlns='urn:xmpp:hints'/>",
        "<odd xmlns='urn:example'/>",
    ],
)
@pytest.mark.parametrize("session", [False, True])
async def test_what_is_not_worth_it(
    world: World, service: PushService, romeo: Client, content: str, session: bool
) -> None:
    client, _ = await phone(world)
    await (lose(world, client) if session else client.close())
    romeo.send(f"<message to='{BARE}' type='chat'>{content}</message>")
    await world.pass_time(10)
    assert await service.counts() == []


async def test_headlines_and_errors_are_not_told(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await lose(world, client)
    for type_ in ("headline", "error"):
        say(romeo, PHONE, "x", type_)
    await world.pass_time(10)
    assert await service.counts() == []


async def test_a_call_rings(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await lose(world, client)
    call = "<{0} xmlns='urn:xmpp:jingle-message:0' id='1'/><store xmlns='urn:xmpp:hints'/>"
    romeo.send(f"<message to='{BARE}' type='chat'>{call.format('propose')}</message>")
    assert (await service.one()).fields["last-message-body"] == "New Message!"
    romeo.send(f"<message to='{BARE}' type='chat'>{call.format('retract')}</message>")
    await world.pass_time(10)
    assert await service.counts() == []


async def test_what_a_service_says_itself_starts_no_loop(world: World, romeo: Client) -> None:
    """A node of ours whose notifications come back as messages with a body."""
    service = PushService(world)
    await away(world)
    own = Stanza.build("message", "chat", sender=JID.parse(SERVICE), to=JID.parse(BARE), content=b"<body>told</body>")
    world.kernel.router.post(own)
    await world.pass_time(10)
    assert await service.counts() == []


async def test_sender_and_body_if_the_administrator_wants_it() -> None:
    async with World(settings=settings(include_sender=True, include_body=True, body_length=5)) as world:
        service = PushService(world)
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        client, _ = await phone(world)
        await lose(world, client)
        romeo.send(f"<message to='{BARE}' type='chat'><body>&lt;Wherefore</body></message>")
        assert (await service.one()).fields == {
            "message-count": "1",
            "last-message-sender": "romeo@example.org/orchard",
            "last-message-body": "<Wher",
        }
        romeo.send(
            f"<message to='{BARE}' type='chat'><encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='1'/>"
            "<payload>x</payload></encrypted></message>"
        )
        await world.pass_time(3)
        assert (await service.one()).fields["last-message-body"] == "New Message!"


async def test_nothing_but_a_count_and_in_the_name_of_the_server() -> None:
    async with World(settings=settings(important_body="", publish_as="server")) as world:
        service = PushService(world)
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        client, _ = await phone(world)
        await lose(world, client)
        say(romeo, BARE, "x")
        told = await service.one()
        assert told.fields == {"message-count": "1"}
        assert told.stanza.sender == "example.org"
        assert registrations(world)[0].told == 1  # the answer found its way


async def test_without_offline_storage_and_archive_absent_devices_are_told_as_well() -> None:
    async with World(settings=settings(disable=("offline",))) as world:
        service = PushService(world)
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        await away(world)
        say(romeo, BARE, "in the archive")
        assert await service.counts() == ["1"]


async def test_one_that_is_there_but_not_available_is_told(world: World, service: PushService, romeo: Client) -> None:
    client = await world.login(PHONE)
    await enable(client)
    await register(client)
    say(romeo, BARE, "stored")
    assert await service.counts() == ["1"]


async def test_a_room_of_many_messages_is_one_notification_every_few_seconds(
    world: World, service: PushService, romeo: Client
) -> None:
    client, _ = await phone(world)
    await lose(world, client)
    for number in range(50):
        say(romeo, BARE, str(number))
        await world.pass_time(0.1)
    assert await service.counts() == ["1", "31"]
    await world.pass_time(3)
    assert await service.counts() == ["50"]
    await world.pass_time(60)
    assert await service.counts() == []
