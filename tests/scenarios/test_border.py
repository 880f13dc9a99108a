"""What accounts have at home also holds towards users of another server: two servers of this program, over TLS."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

Two = tuple[FederatedServer, FederatedServer]
PUBSUB = "http://jabber.org/protocol/pubsub"


@pytest_asyncio.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    ca, names = Authority(tmp_path), Directory()
    async with (
        FederatedServer(ca, names, domains=("a.example",), accounts=("romeo@a.example",)) as a,
        FederatedServer(ca, names, domains=("b.example",), accounts=("juliet@b.example",)) as b,
    ):
        for service, server in (("pubsub.a.example", a), ("pubsub.b.example", b)):
            names.serve(service, server.s2s_port)
        yield a, b


async def test_blocking(two: Two) -> None:
    a, b = two
    romeo = await a.client("romeo@a.example/x", presence=True)
    juliet = await b.client("juliet@b.example/y", presence=True)
    await juliet.iq("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@a.example'/></block></iq>")
    romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>")
    await romeo.expect(
        "<message from='juliet@b.example/y' type='error' id='1'><error>"
        "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    romeo.send("<presence to='juliet@b.example/y'/>")
    error = await romeo.iq("<iq type='get' to='juliet@b.example/y' id='p'><ping xmlns='urn:xmpp:ping'/></iq>", "error")
    assert error.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}service-unavailable") is not None
    await juliet.expect_nothing()
    juliet.send("<message to='romeo@a.example/x' type='chat' id='2'><body>Go away</body></message>")
    await juliet.expect("<message from='romeo@a.example/x' type='error' id='2'/>")
    await romeo.expect_nothing()


async def test_archives_and_copies_on_both_sides(two: Two) -> None:
    a, b = two
    romeo = await a.client("romeo@a.example/x", presence=True)
    phone = await a.client("romeo@a.example/phone", presence=True)
    juliet = await b.client("juliet@b.example/y", presence=True)
    tablet = await b.client("juliet@b.example/tablet", presence=True)
    await romeo.expect("<presence from='romeo@a.example/phone'/>")
    await juliet.expect("<presence from='juliet@b.example/tablet'/>")
    for client in (phone, tablet):
        await client.expect("<presence/>")  # of the other device
        await client.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>")
    await juliet.expect("<message from='romeo@a.example/x' id='1'><body>Hi</body></message>")
    for client, bare, way in ((phone, "romeo@a.example", "sent"), (tablet, "juliet@b.example", "received")):
        copy = await client.expect(f"<message from='{bare}'><{way} xmlns='urn:xmpp:carbons:2'/></message>")
        assert copy.findtext(".//{jabber:client}body") == "Hi"
    for client, other in ((romeo, "juliet@b.example"), (juliet, "romeo@a.example")):
        client.send(
            "<iq type='set' id='m'><query xmlns='urn:xmpp:mam:2'><x xmlns='jabber:x:data' type='submit'>"
            "<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value></field>"
            f"<field var='with'><value>{other}</value></field></x></query></iq>"
        )
        kept = await client.expect("<message><result xmlns='urn:xmpp:mam:2'/></message>")
        assert kept.findtext(".//{jabber:client}body") == "Hi"
        await client.expect("<iq type='result' id='m'/>")


async def test_a_profile(two: Two) -> None:
    a, b = two
    romeo = await a.client("romeo@a.example/x")
    juliet = await b.client("juliet@b.example/y")
    await juliet.iq("<iq type='set' id='s'><vCard xmlns='vcard-temp'><FN>Juliet</FN></vCard></iq>")
    got = await romeo.iq("<iq type='get' to='juliet@b.example' id='g'><vCard xmlns='vcard-temp'/></iq>")
    assert got.findtext(".//{vcard-temp}FN") == "Juliet"
    theft = "<iq type='set' to='juliet@b.example' id='t'><vCard xmlns='vcard-temp'><FN>Romeo</FN></vCard></iq>"
    await romeo.iq(theft, "error")


async def test_a_remote_subscriber(two: Two) -> None:
    a, b = two
    romeo = await a.client("romeo@a.example/x", presence=True)
    juliet = await b.client("juliet@b.example/y", presence=True)
    service = "pubsub.b.example"

    async def ask(client: object, id_: str, content: str) -> None:
        await client.iq(f"<iq type='set' to='{service}' id='{id_}'><pubsub xmlns='{PUBSUB}'>{content}</pubsub></iq>")  # type: ignore[attr-defined]

    await ask(juliet, "1", "<create node='news'/>")
    await ask(romeo, "2", "<subscribe node='news' jid='romeo@a.example'/>")
    await ask(juliet, "3", "<publish node='news'><item id='i'><entry xmlns='urn:example'/></item></publish>")
    await romeo.expect(
        f"<message from='{service}'><event xmlns='{PUBSUB}#event'><items node='news'><item id='i'/></items></event></message>"
    )
    await ask(romeo, "4", "<unsubscribe node='news' jid='romeo@a.example'/>")
    await ask(juliet, "5", "<publish node='news'><item id='j'><entry xmlns='urn:example'/></item></publish>")
    await romeo.expect_nothing()
