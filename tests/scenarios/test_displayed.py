"""XEP-0490 from end to end: one device shows a message and says so in its marker; the others hear of it from the account."""

from __future__ import annotations

import base64
import hashlib

from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.world import World

NODE = "urn:xmpp:mds:displayed:0"
PUBSUB = "http://jabber.org/protocol/pubsub"
FEATURES = ("http://jabber.org/protocol/disco#info", f"{NODE}+notify")
ID = "<stanza-id xmlns='urn:xmpp:sid:0' by='juliet@example.org' id='{}'/>"
MARKER = "<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>"
ITEMS = f"<pubsub xmlns='{PUBSUB}'><items node='{NODE}'/></pubsub>"


async def interested(world: World, address: str) -> Client:
    """A client that wants to hear of displayed states."""
    client = await world.login(address)
    ver = base64.b64encode(hashlib.sha1("client/pc//x<{}<{}<".format(*FEATURES).encode()).digest()).decode()
    client.send(
        "<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='https://client.example' "
        f"ver='{ver}'/></presence>"
    )
    await world.settle()
    info = "".join(f"<feature var='{feature}'/>" for feature in FEATURES)
    for el in list(client.inbox):
        query = el.find("{http://jabber.org/protocol/disco#info}query")
        if query is not None:
            client.send(
                f"<iq type='result' id='{el.get('id')}' to='{el.get('from')}'>"
                f"<query xmlns='http://jabber.org/protocol/disco#info' node='{query.get('node')}'>"
                f"<identity category='client' type='pc' name='x'/>{info}</query></iq>"
            )
    await world.settle()
    client.inbox.clear()
    return client


def shown(client: Client) -> list[tuple[str, str]]:
    """Chats and ids of the displayed states that came; they are taken."""
    found = []
    for el in client.inbox:
        for item in el.iterfind(f"{{{PUBSUB}#event}}event/{{{PUBSUB}#event}}items/{{{PUBSUB}#event}}item"):
            assert el.get("from") == "juliet@example.org"
            inner = item.find(f"{{{NODE}}}displayed/{{urn:xmpp:sid:0}}stanza-id")
            assert inner is not None
            assert inner.get("by") == "juliet@example.org"
            found.append((item.get("id") or "", inner.get("id") or ""))
    client.inbox.clear()
    return found


async def items(client: Client, id: str) -> list[tuple[str, str]]:
    """What the node holds."""
    answer = await client.iq(f"<iq type='get' id='{id}'>{ITEMS}</iq>")
    found = []
    for item in answer.iter(f"{{{PUBSUB}}}item"):
        (inner,) = item.iter("{urn:xmpp:sid:0}stanza-id")
        found.append((item.get("id") or "", inner.get("id") or ""))
    return found


async def test_a_marker_tells_the_contact_and_the_own_devices() -> None:
    async with MemoryDatabase() as db:
        world = World(database=db)
        await world.__aenter__()
        phone = await interested(world, "juliet@example.org/phone")
        asleep = await interested(world, "juliet@example.org/asleep")
        romeo = await world.login("romeo@example.org/r", presence=True)
        await world.befriend(phone, romeo)
        asleep.send("<inactive xmlns='urn:xmpp:csi:0'/>")
        desk = await world.login("juliet@example.org/desk", presence=True)
        romeo.send("<message type='chat' id='m1' to='juliet@example.org'><body>hi</body></message>")
        await world.settle()
        number = next(el for el in desk.inbox if el.get("id") == "m1").find("{urn:xmpp:sid:0}stanza-id")
        assert number is not None
        id_ = number.get("id") or ""
        for client in (phone, asleep, desk, romeo):
            client.inbox.clear()
        desk.send(
            f"<message to='romeo@example.org'>{MARKER}<displayed xmlns='{NODE}'>{ID.format(id_)}</displayed></message>"
        )
        await world.settle()
        (live,) = romeo.inbox
        assert [str(el.tag).partition("}")[0] for el in live if "stanza-id" not in str(el.tag)] == [
            "{urn:xmpp:chat-markers:0"
        ]
        assert id_ not in str([el.get("id") for el in live.iter() if el is not live])
        assert shown(phone) == [("romeo@example.org", id_)]
        assert shown(asleep) == [("romeo@example.org", id_)]  # at once: it takes its notification away

        # a room is a chat like others, and the state of a chat moves
        desk.send(
            f"<message to='romeo@example.org'>{MARKER}<displayed xmlns='{NODE}'>{ID.format('later')}</displayed></message>"
            f"<message to='hall@conference.example.org' type='groupchat'>{MARKER}"
            f"<displayed xmlns='{NODE}'>{ID.format('room')}</displayed></message>"
        )
        await world.settle()
        expected = [("romeo@example.org", "later"), ("hall@conference.example.org", "room")]
        assert shown(phone) == expected
        assert sorted(await items(desk, "i1")) == sorted(expected)

        # it is nobody else's business
        romeo.inbox.clear()
        refused = await romeo.iq(f"<iq type='get' id='n' to='juliet@example.org'>{ITEMS}</iq>", type="error")
        assert refused.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}item-not-found") is not None or (
            refused.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}forbidden") is not None
            or refused.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}not-allowed") is not None
        )

        # and there after a crash; at login nothing is sent unasked
        async with World(database=db.copy()) as new:
            again = await interested(new, "juliet@example.org/phone")
            assert shown(again) == []
            assert sorted(await items(again, "i2")) == sorted(expected)
