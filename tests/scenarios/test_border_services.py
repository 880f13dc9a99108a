"""Discovery, profiles, rooms, nodes, personal events and archives for users of another server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from beamish.core.services import CapsService
from beamish.testing.client import Client
from beamish.testing.component import component
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory
from beamish.xmpp.jid import JID

from .border import (
    Two,
    arrived,
    capabilities,
    crossed,
    explain,
    friends,
    kinds,
    know_each_other,
    two_servers,
    until,
)

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

ROMEO, JULIET = "romeo@a.example", "juliet@b.example"
ERR = "urn:ietf:params:xml:ns:xmpp-stanzas"
MUC = "http://jabber.org/protocol/muc"
PUBSUB = "http://jabber.org/protocol/pubsub"
TUNE = "http://jabber.org/protocol/tune"
HALL = "hall@conference.a.example"


@pytest_asyncio.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with two_servers(tmp_path, contacts=(JULIET, "nurse@b.example")) as made:
        yield made


def info(to: str) -> str:
    return f"<iq type='get' to='{to}' id='d'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"


# ---- discovery, profiles ------------------------------------------------------------------------------------------------


async def test_discovery(two: Two) -> None:
    """Servers and services for everybody; accounts for those who may see their presence; clients answer themselves."""
    a, b = two
    romeo = await a.client(f"{ROMEO}/x", presence=True)
    stranger = await b.client("nurse@b.example/z", presence=True)
    for to, category in (
        ("b.example", "server"),
        ("conference.b.example", "conference"),
        ("pubsub.b.example", "pubsub"),
    ):
        got = await romeo.iq(info(to))
        assert category in {
            identity.get("category") for identity in got.iter("{http://jabber.org/protocol/disco#info}identity")
        }
    items = await romeo.iq(
        "<iq type='get' to='b.example' id='i'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>"
    )
    assert {"conference.b.example", "pubsub.b.example"} <= {item.get("jid") for item in items[0]}
    for to in (JULIET, "nobody@b.example", "nurse@b.example/z"):
        error = await romeo.iq(info(to), "error")
        assert error.find(f".//{{{ERR}}}service-unavailable") is not None
    await stranger.expect_nothing()
    await know_each_other(a, b)
    got = await romeo.iq(info(JULIET))
    assert "account" in {
        identity.get("category") for identity in got.iter("{http://jabber.org/protocol/disco#info}identity")
    }


async def test_a_client_is_asked_directly(two: Two) -> None:
    romeo, juliet = await friends(two)
    romeo.send(info(f"{JULIET}/y"))
    asked = await juliet.expect(f"<iq type='get' from='{ROMEO}/x' to='{JULIET}/y'/>")
    juliet.send(
        f"<iq type='result' to='{ROMEO}/x' id='{asked.get('id')}'><query xmlns='http://jabber.org/protocol/disco#info'>"
        "<identity category='client' type='phone'/></query></iq>"
    )
    await romeo.expect(
        f"<iq type='result' id='d' from='{JULIET}/y'><query xmlns='http://jabber.org/protocol/disco#info'>"
        "<identity category='client' type='phone'/></query></iq>"
    )


async def test_profiles_old_and_new(two: Two) -> None:
    romeo, juliet = await friends(two)
    await juliet.iq("<iq type='set' id='s'><vCard xmlns='vcard-temp'><FN>Juliet</FN></vCard></iq>")
    got = await romeo.iq(f"<iq type='get' to='{JULIET}' id='g'><vCard xmlns='vcard-temp'/></iq>")
    assert got.findtext(".//{vcard-temp}FN") == "Juliet"
    got = await romeo.iq(
        f"<iq type='get' to='{JULIET}' id='h'><pubsub xmlns='{PUBSUB}'><items node='urn:xmpp:vcard4'/></pubsub></iq>"
    )
    assert got.findtext(".//{urn:ietf:params:xml:ns:vcard-4.0}fn/{urn:ietf:params:xml:ns:vcard-4.0}text") == "Juliet"
    for to in ("nobody@b.example", JULIET):
        error = await romeo.iq(
            f"<iq type='set' to='{to}' id='t'><vCard xmlns='vcard-temp'><FN>Romeo</FN></vCard></iq>", "error"
        )
        assert error.find(f".//{{{ERR}}}forbidden") is not None


# ---- rooms --------------------------------------------------------------------------------------------------------------


async def hall(romeo: Client, juliet: Client) -> None:
    """Romeo opens a room at his server, and Juliet comes in."""
    x = f"<x xmlns='{MUC}'/>"
    romeo.send(f"<presence to='{HALL}/romeo'>{x}</presence>")
    await until(romeo, f"<message from='{HALL}'><subject/></message>")
    await romeo.iq(
        f"<iq type='set' to='{HALL}' id='o'><query xmlns='{MUC}#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>"
    )
    juliet.send(f"<presence to='{HALL}/juliet'>{x}</presence>")
    await until(juliet, f"<presence from='{HALL}/romeo' type='!'/>")
    await until(juliet, f"<presence from='{HALL}/juliet'><x xmlns='{MUC}#user'><status code='110'/></x></presence>")
    await until(juliet, f"<message from='{HALL}'><subject/></message>")
    await until(romeo, f"<presence from='{HALL}/juliet' type='!'/>")


async def test_a_room_with_an_occupant_from_elsewhere(two: Two) -> None:
    a, b = two
    romeo = await a.client(f"{ROMEO}/x", presence=True)
    juliet = await b.client(f"{JULIET}/y", presence=True)
    await hall(romeo, juliet)
    juliet.send(f"<message to='{HALL}' type='groupchat' id='1'><body>Hear me</body></message>")
    for client in (romeo, juliet):
        await client.expect(f"<message from='{HALL}/juliet' type='groupchat' id='1'><body>Hear me</body></message>")
    romeo.send(f"<message to='{HALL}/juliet' type='chat' id='2'><body>You alone</body></message>")
    await juliet.expect(f"<message from='{HALL}/romeo' to='{JULIET}/y' type='chat'><body>You alone</body></message>")
    juliet.send(f"<message to='{HALL}/romeo' type='chat' id='3'><body>And you</body></message>")
    await romeo.expect(f"<message from='{HALL}/juliet' type='chat'><body>And you</body></message>")
    juliet.send(f"<presence to='{HALL}/juliet'><show>away</show></presence>")
    for client in (romeo, juliet):
        await client.expect(f"<presence from='{HALL}/juliet'><show>away</show></presence>")
    juliet.send(f"<presence to='{HALL}/capulet'/>")
    for client in (romeo, juliet):
        await client.expect(f"<presence from='{HALL}/juliet' type='unavailable'/>")
        await client.expect(f"<presence from='{HALL}/capulet' type='!'/>")
    romeo.send(f"<iq type='get' to='{HALL}/capulet' id='4'><query xmlns='jabber:iq:version'/></iq>")
    asked = await juliet.expect(f"<iq type='get' from='{HALL}/romeo'/>")
    version = "<query xmlns='jabber:iq:version'><name>J</name></query>"
    juliet.send(f"<iq type='result' to='{HALL}/romeo' id='{asked.get('id')}'>{version}</iq>")
    await romeo.expect(f"<iq type='result' id='4' from='{HALL}/capulet'/>")
    romeo.send(f"<message to='{HALL}' type='groupchat'><subject>Feast</subject></message>")
    for client in (romeo, juliet):
        await client.expect(f"<message from='{HALL}/romeo'><subject>Feast</subject></message>")
    juliet.drop()  # her own server tells the room
    await romeo.expect(f"<presence from='{HALL}/capulet' type='unavailable'/>")


async def test_administration_reaches_across(two: Two) -> None:
    """An affiliation of a user of another server, a kick, a ban, an invitation."""
    a, b = two
    romeo = await a.client(f"{ROMEO}/x", presence=True)
    juliet = await b.client(f"{JULIET}/y", presence=True)
    await hall(romeo, juliet)
    admin = f"<iq type='set' to='{HALL}' id='a'><query xmlns='{MUC}#admin'><item {{}}/></query></iq>"
    await romeo.iq(admin.format(f"jid='{JULIET}' affiliation='admin'"))
    await until(
        juliet, f"<presence from='{HALL}/juliet'><x xmlns='{MUC}#user'><item affiliation='admin'/></x></presence>"
    )
    await juliet.iq(admin.format("jid='nurse@b.example' affiliation='member'"))
    got = await juliet.iq(
        f"<iq type='get' to='{HALL}' id='l'><query xmlns='{MUC}#admin'><item affiliation='member'/></query></iq>"
    )
    assert [item.get("jid") for item in got.iter(f"{{{MUC}#admin}}item")] == ["nurse@b.example"]
    await romeo.iq(admin.format(f"jid='{JULIET}' affiliation='none'"))
    await romeo.iq(admin.format("nick='juliet' role='none'"))
    await until(
        juliet,
        f"<presence from='{HALL}/juliet' type='unavailable'><x xmlns='{MUC}#user'><status code='307'/></x></presence>",
    )
    romeo.send(f"<message to='{HALL}'><x xmlns='{MUC}#user'><invite to='nurse@b.example'/></x></message>")
    nurse = await b.client("nurse@b.example/z", presence=True)
    await until(nurse, f"<message from='{HALL}'><x xmlns='{MUC}#user'><invite from='{ROMEO}'/></x></message>")
    await romeo.iq(admin.format("jid='b.example' affiliation='outcast'"))
    refused = f"<error><forbidden xmlns='{ERR}'/></error>"
    juliet.send(f"<presence to='{HALL}/juliet'><x xmlns='{MUC}'/></presence>")
    await until(juliet, f"<presence from='{HALL}/juliet' type='error'>{refused}</presence>")
    nurse.send(f"<presence to='{HALL}/nurse'><x xmlns='{MUC}'/></presence>")  # she is a member by name
    await until(romeo, f"<presence from='{HALL}/nurse' type='!'/>")
    await romeo.iq(admin.format("jid='nurse@b.example' affiliation='outcast'"))
    await until(
        nurse,
        f"<presence from='{HALL}/nurse' type='unavailable'><x xmlns='{MUC}#user'><status code='301'/></x></presence>",
    )
    nurse.send(f"<presence to='{HALL}/nurse'><x xmlns='{MUC}'/></presence>")
    await until(nurse, f"<presence from='{HALL}/nurse' type='error'>{refused}</presence>")


async def test_the_archive_of_a_room(two: Two) -> None:
    a, b = two
    romeo = await a.client(f"{ROMEO}/x", presence=True)
    juliet = await b.client(f"{JULIET}/y", presence=True)
    await hall(romeo, juliet)
    juliet.send(f"<message to='{HALL}' type='groupchat'><body>For the record</body></message>")
    await juliet.expect(f"<message from='{HALL}/juliet'/>")
    juliet.send(f"<iq type='set' to='{HALL}' id='m'><query xmlns='urn:xmpp:mam:2'/></iq>")
    kept = await juliet.expect(f"<message from='{HALL}'><result xmlns='urn:xmpp:mam:2'/></message>")
    assert kept.findtext(".//{jabber:client}body") == "For the record"
    await juliet.expect(f"<iq type='result' id='m' from='{HALL}'/>")
    # her account's own archive is hers alone
    error = await romeo.iq(f"<iq type='set' to='{JULIET}' id='n'><query xmlns='urn:xmpp:mam:2'/></iq>", "error")
    assert error.find(f".//{{{ERR}}}forbidden") is not None


# ---- nodes ----------------------------------------------------------------------------------------------------------------


async def ask(client: Client, to: str, content: str, kind: str = "set", owner: bool = False) -> object:
    space = PUBSUB + ("#owner" if owner else "")
    return await client.iq(f"<iq type='{kind}' to='{to}' id='ps'><pubsub xmlns='{space}'>{content}</pubsub></iq>")


async def test_a_node_of_another_server(two: Two) -> None:
    """Only its own users make nodes at a server; but Juliet gives hers to Romeo, and he has it like at home."""
    a, b = two
    romeo = await a.client(f"{ROMEO}/x", presence=True)
    juliet = await b.client(f"{JULIET}/y", presence=True)
    service = "pubsub.b.example"
    create = f"<pubsub xmlns='{PUBSUB}'><create node='plans'/></pubsub>"
    await romeo.iq(f"<iq type='set' to='{service}' id='c'>{create}</iq>", "error")
    await juliet.iq(f"<iq type='set' to='{service}' id='c'>{create}</iq>")
    shared = f"<affiliation jid='{ROMEO}' affiliation='owner'/>"
    await ask(juliet, service, f"<affiliations node='plans'>{shared}</affiliations>", owner=True)
    await arrived(romeo)
    await ask(
        romeo,
        service,
        f"<affiliations node='plans'><affiliation jid='{JULIET}' affiliation='publisher'/></affiliations>",
        owner=True,
    )
    await until(juliet, f"<message from='{service}'/>")
    await ask(romeo, service, f"<subscribe node='plans' jid='{ROMEO}'/>")
    await ask(juliet, service, f"<subscribe node='plans' jid='{JULIET}'/>")
    for publisher, name in ((romeo, "1"), (juliet, "2")):
        await ask(
            publisher, service, f"<publish node='plans'><item id='{name}'><plan xmlns='urn:example'/></item></publish>"
        )
        published = f"<items node='plans'><item id='{name}'/></items>"
        for client in (romeo, juliet):
            await until(
                client, f"<message from='{service}'><event xmlns='{PUBSUB}#event'>{published}</event></message>"
            )
    got = await romeo.iq(
        f"<iq type='get' to='{service}' id='i'><pubsub xmlns='{PUBSUB}'><items node='plans'/></pubsub></iq>"
    )
    assert {item.get("id") for item in got.iter(f"{{{PUBSUB}}}item")} == {"1", "2"}
    await ask(romeo, service, "<retract node='plans' notify='true'><item id='1'/></retract>")
    retracted = f"<event xmlns='{PUBSUB}#event'><items node='plans'><retract id='1'/></items></event>"
    await until(juliet, f"<message from='{service}'>{retracted}</message>")
    await ask(romeo, service, "<delete node='plans'/>", owner=True)
    await until(
        juliet, f"<message from='{service}'><event xmlns='{PUBSUB}#event'><delete node='plans'/></event></message>"
    )


async def shows_interest(two: Two, romeo: Client, juliet: Client) -> None:
    """Juliet's client says that it wants tunes; Romeo's server asks what that hash means."""
    c, query = capabilities(f"{TUNE}+notify")
    juliet.send(f"<presence>{c}</presence>")
    known = two[0].kernel.service(CapsService)
    await explain(juliet, query, askers=2)  # her own server, and his
    while known.features(JID.parse(f"{JULIET}/y")) is None:
        await crossed(juliet, "a.example")
    await until(romeo, f"<presence from='{JULIET}/y'/>")


def tune(title: str) -> str:
    return f"<publish node='{TUNE}'><item id='t'><tune xmlns='{TUNE}'><title>{title}</title></tune></item></publish>"


async def test_personal_events_for_contacts_elsewhere(two: Two) -> None:
    """Wanted by capabilities: at once, on coming online, and no more without a subscription or an interest."""
    romeo, juliet = await friends(two)
    await shows_interest(two, romeo, juliet)
    me = f"<iq type='set' id='t'><pubsub xmlns='{PUBSUB}'>{{}}</pubsub></iq>"
    items = f"<event xmlns='{PUBSUB}#event'><items node='{TUNE}'><item id='t'/></items></event>"
    event = f"<message from='{ROMEO}' to='{JULIET}/y'>{items}</message>"
    await romeo.iq(me.format(tune("One")))
    await until(juliet, event)
    c, _ = capabilities(f"{TUNE}+notify")
    later = await two[1].client(f"{JULIET}/later")
    later.send(f"<presence>{c}</presence>")  # the hash is known by now
    await until(
        later,
        f"<message from='{ROMEO}'><event xmlns='{PUBSUB}#event'><items node='{TUNE}'><item/></items></event></message>",
    )
    got = await juliet.iq(
        f"<iq type='get' to='{ROMEO}' id='g'><pubsub xmlns='{PUBSUB}'><items node='{TUNE}'/></pubsub></iq>"
    )
    assert got.findtext(f".//{{{TUNE}}}title") == "One"
    await later.close()
    await arrived(juliet)
    juliet.send(f"<presence to='{ROMEO}' type='unsubscribe'/>")
    await until(romeo, f"<presence from='{JULIET}' type='unsubscribe'/>")
    await romeo.iq(me.format(tune("Two")))
    await crossed(romeo, "b.example")
    assert ROMEO not in {el.get("from") for el in await arrived(juliet) if el.tag.endswith("message")}
    error = await juliet.iq(
        f"<iq type='get' to='{ROMEO}' id='g'><pubsub xmlns='{PUBSUB}'><items node='{TUNE}'/></pubsub></iq>", "error"
    )
    assert error.find(f".//{{{ERR}}}not-authorized") is not None or error.find(f".//{{{ERR}}}forbidden") is not None


async def test_an_explicit_subscription_to_a_personal_node(two: Two) -> None:
    romeo, juliet = await friends(two)
    await romeo.iq(f"<iq type='set' id='t'><pubsub xmlns='{PUBSUB}'>{tune('One')}</pubsub></iq>")
    await ask(juliet, ROMEO, f"<subscribe node='{TUNE}' jid='{JULIET}'/>")
    await romeo.iq(f"<iq type='set' id='t'><pubsub xmlns='{PUBSUB}'>{tune('Two')}</pubsub></iq>")
    while (got := await juliet.receive()).findtext(f".//{{{TUNE}}}title") != "Two":
        pass
    assert got.get("from") == ROMEO


# ---- components -----------------------------------------------------------------------------------------------------------


async def test_users_of_a_component_and_users_of_another_server(tmp_path: Path) -> None:
    """A gateway at one server serves users of the other; when it dies, they see its users go."""
    ca, names = Authority(tmp_path), Directory()
    settings = {"components": {"gate.a.example": {"secret": "s"}}, "component_listener": {"away_seconds": 0.2}}
    async with (
        FederatedServer(ca, names, domains=("a.example",), accounts=(ROMEO,), settings=settings) as a,
        FederatedServer(ca, names, domains=("b.example",), accounts=(JULIET,)) as b,
    ):
        names.serve("gate.a.example", a.s2s_port)
        gate = await component(a, "gate.a.example", "s")
        juliet = await b.client(f"{JULIET}/y", presence=True, roster=True)
        c = "xmlns='jabber:component:accept'"
        juliet.send("<presence to='bot@gate.a.example' type='subscribe'/>")
        await gate.expect(f"<presence {c} from='{JULIET}' to='bot@gate.a.example' type='subscribe'/>")
        gate.send(f"<presence from='bot@gate.a.example' to='{JULIET}' type='subscribed'/>")
        gate.send(f"<presence from='bot@gate.a.example/r' to='{JULIET}'/>")
        await until(juliet, "<presence from='bot@gate.a.example/r' type='!'/>")
        juliet.send("<message to='bot@gate.a.example/r' type='chat' id='1'><body>Hi</body></message>")
        await gate.expect(f"<message {c} from='{JULIET}/y' id='1'><body>Hi</body></message>")
        gate.send(f"<message from='bot@gate.a.example/r' to='{JULIET}/y' type='chat' id='2'><body>Ho</body></message>")
        await until(juliet, "<message from='bot@gate.a.example/r' id='2'><body>Ho</body></message>")
        gate.send("<iq type='get' from='gate.a.example' to='b.example' id='3'><ping xmlns='urn:xmpp:ping'/></iq>")
        await gate.expect(f"<iq {c} type='result' from='b.example' id='3'/>")
        gate.send("<message from='bot@gate.a.example' to='x@nowhere.example' id='4'><body>Hello?</body></message>")
        await gate.expect(
            f"<message {c} type='error' id='4' from='x@nowhere.example'><error><remote-server-not-found xmlns='{ERR}'/>"
            "</error></message>"
        )
        gate.drop()
        await until(juliet, "<presence from='bot@gate.a.example/r' type='unavailable'/>")


# ---- messages ---------------------------------------------------------------------------------------------------------------


async def test_offline_messages(two: Two) -> None:
    a, b = two
    romeo = await a.client(f"{ROMEO}/x", presence=True)
    for n in range(3):
        romeo.send(f"<message to='{JULIET}' type='chat' id='{n}'><body>{n}</body></message>")
    romeo.send("<message to='nobody@b.example' type='chat' id='no'><body>Hello?</body></message>")
    await romeo.expect(
        f"<message from='nobody@b.example' type='error' id='no'><error><service-unavailable xmlns='{ERR}'/></error></message>"
    )
    await crossed(romeo, "b.example")
    juliet = await b.client(f"{JULIET}/y", presence=True)
    for n in range(3):
        await until(
            juliet, f"<message from='{ROMEO}/x' id='{n}'><body>{n}</body><delay xmlns='urn:xmpp:delay'/></message>"
        )


async def test_copies_of_both_directions_and_of_errors(two: Two) -> None:
    romeo, juliet = await friends(two)
    phone = await two[0].client(f"{ROMEO}/phone", presence=True)
    await phone.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    await arrived(phone)
    romeo.send(f"<message to='{JULIET}/y' type='chat' id='1'><body>There</body></message>")
    await until(phone, f"<message from='{ROMEO}'><sent xmlns='urn:xmpp:carbons:2'/></message>")
    juliet.send(f"<message to='{ROMEO}/x' type='chat' id='2'><body>Back</body></message>")
    copy = await until(phone, f"<message from='{ROMEO}'><received xmlns='urn:xmpp:carbons:2'/></message>")
    assert copy.findtext(".//{jabber:client}body") == "Back"
    romeo.send("<message to='nobody@b.example' type='chat' id='3'><body>Nobody</body></message>")
    await until(phone, f"<message from='{ROMEO}'><sent xmlns='urn:xmpp:carbons:2'/></message>")
    await until(phone, f"<message from='{ROMEO}'><received xmlns='urn:xmpp:carbons:2'/></message>")
    juliet.send(
        f"<message to='{ROMEO}/x' type='chat' id='4'><body>Psst</body><private xmlns='urn:xmpp:carbons:2'/></message>"
    )
    await until(romeo, "<message id='4'/>")
    await crossed(phone, "b.example")
    assert kinds(await arrived(phone), ROMEO) == set()


async def test_archives_name_the_other_side(two: Two) -> None:
    """Each server keeps its own user's side, with ids of its own; one can be read without the other."""
    romeo, juliet = await friends(two)
    romeo.send(f"<message to='{JULIET}/y' type='chat' id='1'><body>One</body></message>")
    got = await until(juliet, f"<message from='{ROMEO}/x'/>")
    stamped = got.find("{urn:xmpp:sid:0}stanza-id")
    assert stamped is not None and stamped.get("by") == JULIET
    juliet.send(f"<message to='{ROMEO}' type='chat' id='2'><body>Two</body></message>")
    await until(romeo, f"<message from='{JULIET}/y'/>")
    for client, other in ((romeo, JULIET), (juliet, ROMEO)):
        client.send(
            "<iq type='set' id='m'><query xmlns='urn:xmpp:mam:2'><x xmlns='jabber:x:data' type='submit'>"
            "<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value></field>"
            f"<field var='with'><value>{other}</value></field></x></query></iq>"
        )
        for body in ("One", "Two"):
            kept = await until(client, "<message><result xmlns='urn:xmpp:mam:2'/></message>")
            assert kept.findtext(".//{jabber:client}body") == body
        await client.expect("<iq type='result' id='m'/>")
