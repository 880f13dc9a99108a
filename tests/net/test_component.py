"""Components over sockets: raw, and slixmpp's as one that somebody else wrote."""

import asyncio
import hashlib
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from beamish.app import CommandFailed
from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.live import connect
from beamish.testing.names import Directory

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what foreign code does at import is not ours to mend
    from slixmpp import ComponentXMPP

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

SECRET = "between us"
HEADER = "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' xmlns:stream='{ns}' to='{to}'>"
STREAM = "http://etherx.jabber.org/streams"


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[FederatedServer]:
    settings: dict[str, Any] = {
        "components": {
            "irc.a.example": {"secret": SECRET},
            "power.a.example": {
                "secret": SECRET,
                "roster": "both",
                "message": "outgoing",
                "presence": "managed_entity",
            },
        },
        "component_listener": {"listen": ("127.0.0.1:0",), "away_seconds": 0.2},
    }
    accounts = ("romeo@a.example", "juliet@a.example")
    async with FederatedServer(Authority(tmp_path), Directory(), accounts=accounts, settings=settings) as made:
        yield made


async def component(server: FederatedServer, domain: str = "irc.a.example", secret: str = SECRET) -> Client:
    """A component that has sent its handshake."""
    client = await connect("127.0.0.1", server.component_port, domain)
    client.send(HEADER.format(ns=STREAM, to=domain))
    while client.header is None:
        client._arrived.clear()
        await asyncio.wait_for(client._arrived.wait(), 10)
    assert client.header.get("from") == domain
    proof = hashlib.sha1((client.header.get("id", "") + secret).encode()).hexdigest()
    client.send(f"<handshake>{proof}</handshake>")
    return client


async def ready(server: FederatedServer, domain: str = "irc.a.example") -> Client:
    client = await component(server, domain)
    await client.expect("<handshake xmlns='jabber:component:accept'/>")
    return client


async def test_stanzas_go_both_ways(server: FederatedServer) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    irc = await ready(server)
    romeo.send("<message to='nick@irc.a.example/r' type='chat' id='1'><body>Hi</body></message>")
    await irc.expect(
        "<message xmlns='jabber:component:accept' from='romeo@a.example/x' to='nick@irc.a.example/r' id='1'>"
        "<body>Hi</body></message>"
    )
    irc.send("<message from='nick@irc.a.example/r' to='romeo@a.example/x' type='chat' id='2'><body>Ho</body></message>")
    await romeo.expect("<message from='nick@irc.a.example/r' id='2'><body>Ho</body></message>")
    irc.send("<iq type='get' from='irc.a.example' to='a.example' id='3'><ping xmlns='urn:xmpp:ping'/></iq>")
    await irc.expect("<iq xmlns='jabber:component:accept' type='result' from='a.example' to='irc.a.example' id='3'/>")


@pytest.mark.parametrize(
    "sender", ["mallory@a.example", "a.example", "nick@other.example", "nick@sub.irc.a.example", ""]
)
async def test_a_component_speaks_for_its_own_domain_only(server: FederatedServer, sender: str) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    irc = await ready(server)
    origin = f" from='{sender}'" if sender else ""
    irc.send(f"<message{origin} to='romeo@a.example/x' type='chat'><body>I am</body></message>")
    await irc.expect_closed("invalid-from" if sender else "improper-addressing")
    await romeo.expect_nothing()


async def test_a_component_is_told_of_a_malformed_address(server: FederatedServer) -> None:
    irc = await ready(server)
    irc.send("<message from='nick@irc.a.example' to='@' id='1'/>")
    await irc.expect(
        "<message xmlns='jabber:component:accept' to='nick@irc.a.example' type='error' id='1'><error>"
        "<jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )


async def test_a_wrong_secret(server: FederatedServer) -> None:
    irc = await component(server, secret="guess")
    await irc.expect_closed("not-authorized")


async def test_an_unknown_component(server: FederatedServer) -> None:
    client = await connect("127.0.0.1", server.component_port, "nobody.a.example")
    client.send(HEADER.format(ns=STREAM, to="nobody.a.example"))
    await client.expect_closed("host-unknown")


async def test_nothing_before_the_handshake(server: FederatedServer) -> None:
    client = await connect("127.0.0.1", server.component_port, "irc.a.example")
    client.send(HEADER.format(ns=STREAM, to="irc.a.example"))
    client.send("<message from='irc.a.example' to='romeo@a.example'><body>Early</body></message>")
    await client.expect_closed("not-authorized")


async def test_what_is_for_an_absent_component_comes_back(server: FederatedServer) -> None:
    romeo = await server.client("romeo@a.example/x")
    romeo.send("<message to='nick@irc.a.example' type='chat' id='1'><body>Hi</body></message>")
    await romeo.expect(
        "<message type='error' id='1'><error type='wait'>"
        "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )


async def test_a_component_that_comes_back_at_once_gets_what_waited(server: FederatedServer) -> None:
    romeo = await server.client("romeo@a.example/x")
    irc = await ready(server)
    older = irc
    irc = await ready(server)  # the newer connection wins
    await older.expect_closed("conflict")
    romeo.send("<message to='nick@irc.a.example' type='chat' id='1'><body>Hi</body></message>")
    await irc.expect("<message xmlns='jabber:component:accept' id='1'/>")


async def test_users_of_a_component_that_died_go_offline(server: FederatedServer) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    irc = await ready(server)
    irc.send("<presence from='nick@irc.a.example/r' to='romeo@a.example/x'/>")
    await romeo.expect("<presence from='nick@irc.a.example/r' type='!'/>")
    irc.drop()
    await romeo.expect("<presence from='nick@irc.a.example/r' type='unavailable'/>")


async def test_subscriptions_with_component_users(server: FederatedServer) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    irc = await ready(server)
    romeo.send("<presence to='nick@irc.a.example' type='subscribe'/>")
    await irc.expect("<presence xmlns='jabber:component:accept' from='romeo@a.example' type='subscribe'/>")
    irc.send("<presence from='nick@irc.a.example' to='romeo@a.example' type='subscribed'/>")
    irc.send("<presence from='nick@irc.a.example/r' to='romeo@a.example'/>")
    await romeo.expect("<iq type='set'/>")
    await romeo.expect_all(
        "<iq type='set'/>",
        "<presence from='nick@irc.a.example' type='subscribed'/>",
        "<presence from='nick@irc.a.example/r' type='!'/>",
    )


async def test_service_discovery_lists_components(server: FederatedServer) -> None:
    romeo = await server.client("romeo@a.example/x")
    items = await romeo.iq(
        "<iq type='get' to='a.example' id='i'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>"
    )
    found = {item.get("jid") for item in items.iter("{http://jabber.org/protocol/disco#items}item")}
    assert {"irc.a.example", "power.a.example"} <= found


async def test_a_component_in_the_place_of_something_else(tmp_path: Path) -> None:
    settings = {"components": {"a.example": {"secret": SECRET}}}
    with pytest.raises(CommandFailed, match="a component cannot be served"):
        async with FederatedServer(Authority(tmp_path), Directory(), accounts=(), settings=settings):
            pass


async def test_slixmpp_as_a_component(server: FederatedServer) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    echo = ComponentXMPP("irc.a.example", SECRET, "127.0.0.1", server.component_port)
    started: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(message: Any) -> None:
        if message["type"] == "chat":
            message.reply(message["body"].upper()).send()

    echo.add_event_handler("session_start", lambda _event: started.set_result(None))
    echo.add_event_handler("message", answer)
    echo.connect()
    try:
        await asyncio.wait_for(started, 10)
        romeo.send("<message to='bot@irc.a.example' type='chat' id='1'><body>hear me</body></message>")
        await romeo.expect("<message from='bot@irc.a.example' type='chat'><body>HEAR ME</body></message>")
    finally:
        await echo.disconnect()


async def test_privileges_are_announced_and_work(server: FederatedServer) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    power = await ready(server, "power.a.example")
    await power.expect(
        "<message xmlns='jabber:component:accept' from='a.example' to='power.a.example'>"
        "<privilege xmlns='urn:xmpp:privilege:2'><perm access='roster' type='both' push='true'/>"
        "<perm access='message' type='outgoing'/><perm access='presence' type='managed_entity'/></privilege></message>"
    )
    await power.expect(
        "<message xmlns='jabber:component:accept' from='a.example' to='power.a.example'>"
        "<privilege xmlns='urn:xmpp:privilege:1'><perm access='roster' type='both'/>"
        "<perm access='message' type='outgoing'/><perm access='presence' type='managed_entity'/></privilege></message>"
    )
    await power.expect("<presence xmlns='jabber:component:accept' from='romeo@a.example/x' to='power.a.example'/>")
    power.send(
        "<iq type='set' id='1' from='power.a.example' to='romeo@a.example'><query xmlns='jabber:iq:roster'>"
        "<item jid='juliet@a.example' name='J'><group>Friends</group></item></query></iq>"
    )
    await power.expect_all(
        "<iq xmlns='jabber:component:accept' type='result' id='1' from='romeo@a.example'/>",
        "<iq xmlns='jabber:component:accept' type='set' from='romeo@a.example'/>",
    )
    await romeo.expect(
        "<iq type='set'><query xmlns='jabber:iq:roster'><item jid='juliet@a.example' name='J'/></query></iq>"
    )
    power.send(
        "<iq type='get' id='2' from='power.a.example' to='romeo@a.example'><query xmlns='jabber:iq:roster'/></iq>"
    )
    await power.expect(
        "<iq xmlns='jabber:component:accept' type='result' id='2'><query xmlns='jabber:iq:roster'>"
        "<item jid='juliet@a.example' name='J' subscription='none'><group>Friends</group></item></query></iq>"
    )
    juliet = await server.client("juliet@a.example/y", presence=True)
    await power.expect("<presence xmlns='jabber:component:accept' from='juliet@a.example/y'/>")
    power.send(
        "<message from='power.a.example' to='a.example' id='3'><privilege xmlns='urn:xmpp:privilege:2'>"
        "<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='romeo@a.example' "
        "to='juliet@a.example/y' type='chat'><body>As if</body></message></forwarded></privilege></message>"
    )
    await juliet.expect("<message from='romeo@a.example' type='chat'><body>As if</body></message>")
    power.send(
        "<message from='power.a.example' to='a.example' id='4'><privilege xmlns='urn:xmpp:privilege:2'>"
        "<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='x@elsewhere.example' "
        "to='juliet@a.example/y'><body>No</body></message></forwarded></privilege></message>"
    )
    await power.expect(
        "<message xmlns='jabber:component:accept' type='error' id='4'><error>"
        "<forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    romeo.send("<message to='juliet@a.example/y' type='chat' id='next'/>")
    while (got := await juliet.receive()).get("id") != "next":
        assert not str(got.tag).endswith("message")


async def test_a_component_without_privileges_has_none(server: FederatedServer) -> None:
    irc = await ready(server)
    irc.send("<iq type='get' id='1' from='irc.a.example' to='romeo@a.example'><query xmlns='jabber:iq:roster'/></iq>")
    await irc.expect("<iq xmlns='jabber:component:accept' type='error' id='1'/>")
