"""Components over sockets: raw, and slixmpp's as one that somebody else wrote."""

import asyncio
import hashlib
import warnings
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.watched import until

from beamish.app import CommandFailed
from beamish.net.component import ComponentServer
from beamish.net.throttle import LoginThrottle
from beamish.testing.client import Client
from beamish.testing.component import component, open_component, shake
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.live import connect
from beamish.testing.names import Directory
from beamish.xmpp import ns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what foreign code does at import is not ours to mend
    from slixmpp import ComponentXMPP

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

SECRET = "between us"
C = "xmlns='jabber:component:accept'"
ERR = "urn:ietf:params:xml:ns:xmpp-stanzas"


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


async def ready(server: FederatedServer, domain: str = "irc.a.example") -> Client:
    return await component(server, domain, SECRET)


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


async def test_stanzas_that_name_their_namespace(server: FederatedServer) -> None:
    """Libraries that write each element with its namespace."""
    romeo = await server.client("romeo@a.example/x", presence=True)
    irc = await ready(server)
    irc.send(
        f"<message {C} from='nick@irc.a.example' to='romeo@a.example/x' type='chat' id='1'><body>Ho</body>"
        "<active xmlns='http://jabber.org/protocol/chatstates'/></message>"
    )
    await romeo.expect(
        "<message from='nick@irc.a.example' id='1'><body>Ho</body><active xmlns='http://jabber.org/protocol/chatstates'/>"
        "</message>"
    )
    irc.send(
        "<c:iq xmlns:c='jabber:component:accept' type='get' from='irc.a.example' to='a.example' id='2'>"
        "<ping xmlns='urn:xmpp:ping'/></c:iq>"
    )
    await irc.expect(f"<iq {C} type='result' id='2'/>")
    irc.send(f"<presence {C} from='nick@other.example' to='romeo@a.example/x'/>")
    await irc.expect_closed("invalid-from")


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


@pytest.mark.parametrize("to", ["a.example", "romeo@a.example", "romeo@a.example/x", "other.example"])
async def test_an_iq_of_a_component_has_id_and_type(server: FederatedServer, to: str) -> None:
    """RFC 6120 §8.2.3: what lacks them is refused whoever sent it, and reaches nobody."""
    romeo = await server.client("romeo@a.example/x", presence=True)
    irc = await ready(server)
    bad = "<error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
    irc.send(f"<iq from='nick@irc.a.example' to='{to}' type='get'><ping xmlns='urn:xmpp:ping'/></iq>")
    await irc.expect(f"<iq {C} from='{to}' to='nick@irc.a.example' type='error'>{bad}</iq>")
    irc.send(f"<iq from='nick@irc.a.example' to='{to}' id='2' type='subscribe'><ping xmlns='urn:xmpp:ping'/></iq>")
    await irc.expect(f"<iq {C} from='{to}' to='nick@irc.a.example' id='2' type='error'>{bad}</iq>")
    irc.send(f"<iq from='nick@irc.a.example' to='{to}' type='result'/>")
    irc.send("<iq type='get' from='irc.a.example' to='a.example' id='3'><ping xmlns='urn:xmpp:ping'/></iq>")
    await irc.expect(f"<iq {C} type='result' id='3'/>")  # and nothing before it
    await romeo.expect_nothing()


async def test_a_wrong_secret(server: FederatedServer) -> None:
    irc = await shake(server, "irc.a.example", "guess")
    await irc.expect_closed("not-authorized")


@pytest.mark.parametrize("domain", ["nobody.a.example", "a.example", "sub.irc.a.example", "nick@irc.a.example", ""])
async def test_an_unknown_component(server: FederatedServer, domain: str) -> None:
    client = await open_component(server, domain)
    await client.expect_closed("host-unknown")
    assert client.header is not None  # the error comes in a stream (XEP-0114 §3)


@pytest.mark.parametrize(
    ("sent", "condition"),
    [
        ("<stream:stream xmlns='jabber:client' xmlns:stream='{ns}' to='irc.a.example'>", "invalid-namespace"),
        ("<stream:stream xmlns='jabber:server' xmlns:stream='{ns}' to='irc.a.example'>", "invalid-namespace"),
        (
            "<stream:stream xmlns='jabber:component:accept' xmlns:stream='wrong' to='irc.a.example'>",
            "invalid-namespace",
        ),
        ("<stream:other xmlns='jabber:component:accept' xmlns:stream='{ns}' to='irc.a.example'>", "bad-format"),
        (
            "<stream:stream xmlns='jabber:component:accept' xmlns:stream='{ns}' to='irc.a.example'></x>",
            "not-well-formed",
        ),
        ("<stream:stream xmlns='jabber:component:accept' xmlns:stream='{ns}'>", "host-unknown"),
        (
            "<stream:stream xmlns='jabber:component:accept' xmlns:stream='{ns}' to='irc.a.example'><handshake>"
            + 70_000 * "a",
            "policy-violation",
        ),
    ],
)
async def test_streams_that_are_none(server: FederatedServer, sent: str, condition: str) -> None:
    client = await connect(server.host, server.component_port, "irc.a.example")
    client.send(sent.replace("{ns}", ns.STREAM))
    await client.expect_closed(condition)
    assert client.header is not None and client.header.tag == f"{{{ns.STREAM}}}stream"


@pytest.mark.parametrize(
    "early",
    [
        "<message from='irc.a.example' to='romeo@a.example'><body>Early</body></message>",
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'/>",
        "<handshake/>",
    ],
)
async def test_nothing_before_the_handshake(server: FederatedServer, early: str) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    client = await open_component(server, "irc.a.example")
    client.send(early)
    await client.expect_closed("not-authorized")
    await romeo.expect_nothing()


async def test_the_handshake_is_in_lower_case_and_made_once(server: FederatedServer) -> None:
    loud = await open_component(server, "irc.a.example")
    assert loud.header is not None
    proof = hashlib.sha1((loud.header.get("id", "") + SECRET).encode()).hexdigest()
    loud.send(f"<handshake>{proof.upper()}</handshake>")
    await loud.expect_closed("not-authorized")
    irc = await ready(server)
    irc.send(f"<handshake>{proof}</handshake>")
    await irc.expect_closed("unsupported-stanza-type")


async def test_whoever_does_not_finish_the_handshake_is_cut_off(server: FederatedServer) -> None:
    components = server.kernel.service(ComponentServer)
    components.limits = replace(components.limits, negotiation_seconds=0.2)
    client = await open_component(server, "irc.a.example")
    await client.expect_closed("connection-timeout")


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


async def test_a_component_that_answers_no_more_is_given_up(server: FederatedServer) -> None:
    irc = await ready(server)
    ping = f"<iq {C} type='get' from='a.example' to='irc.a.example'><ping xmlns='urn:xmpp:ping'/></iq>"
    [link] = server.kernel.service(ComponentServer).links
    for kind in ("result", "error"):
        link.sweep(link.heard + 299.0)  # it was heard of late enough
        link.sweep(link.heard + 301.0)
        id_ = (await irc.expect(ping)).get("id")
        link.sweep(link.heard + 359.0)
        heard = link.heard
        irc.send(f"<iq type='{kind}' from='irc.a.example' to='a.example' id='{id_}'/>")
        await until(lambda heard=heard: link.answers and link.heard > heard)
        link.pinged = 0.0  # as time stands still, it would have answered before it was asked
        link.sweep(link.heard + 200.0)
    link.sweep(link.heard + 301.0)
    await irc.expect(ping)
    link.sweep(link.heard + 301.0 + 61.0)
    await irc.expect_closed()
    await until(lambda: link.gone)
    assert link.why is not None and link.why.cause.value == "timeout"


async def test_a_component_that_knows_no_pings_stays(server: FederatedServer) -> None:
    irc = await ready(server)
    [link] = server.kernel.service(ComponentServer).links
    now = link.heard
    for _ in range(3):
        now += 301.0
        link.sweep(now)
        link.sweep(now + 100.0)  # not asked again so soon
        await irc.expect("<iq xmlns='jabber:component:accept' type='get'><ping xmlns='urn:xmpp:ping'/></iq>")
    irc.send("<iq type='get' from='irc.a.example' to='a.example' id='3'><ping xmlns='urn:xmpp:ping'/></iq>")
    await irc.expect("<iq xmlns='jabber:component:accept' type='result' id='3'/>")
    irc.send("<iq type='result' from='irc.a.example' to='a.example' id='s2s-ack-0'/>")  # no answer to any of ours
    irc.send("<iq type='get' from='irc.a.example' to='a.example' id='4'><ping xmlns='urn:xmpp:ping'/></iq>")
    await irc.expect("<iq xmlns='jabber:component:accept' type='result' id='4'/>")
    assert link.usable


# ---- bounds -----------------------------------------------------------------------------------------------------------


async def ready_for_nothing(server: FederatedServer, components: ComponentServer) -> None:
    """The fourth is told as well; a fifth is cut without a word."""
    fourth = await connect(server.host, server.component_port, "irc.a.example")
    fifth = await connect(server.host, server.component_port, "irc.a.example")
    await until(lambda: fifth.disconnected)
    assert fifth.header is None
    await fourth.expect_closed("resource-constraint")


async def test_connections_per_address(server: FederatedServer) -> None:
    components = server.kernel.service(ComponentServer)
    components.bounds = replace(components.bounds, connections_per_address=2)
    first, second = await ready(server), await ready(server, "power.a.example")
    third = await connect(server.host, server.component_port, "irc.a.example")
    await third.expect_closed("resource-constraint")
    await ready_for_nothing(server, components)
    first.drop()
    while len(components.links) > 1:
        await second.iq(
            "<iq type='get' from='power.a.example' to='a.example' id='p'><ping xmlns='urn:xmpp:ping'/></iq>"
        )
    await ready(server)


async def test_guesses_are_limited_for_address_and_component(server: FederatedServer) -> None:
    """Then not even the right one counts until the window is over; other components at the same address go on."""
    now = 0.0
    server.kernel.service(ComponentServer)._guesses = LoginThrottle(3, 3, 60.0, lambda: now)
    for guess in ("one", "two", "three"):
        client = await shake(server, "irc.a.example", guess)
        await client.expect_closed("not-authorized")
    refused = await open_component(server, "irc.a.example")
    await refused.expect_closed("policy-violation")
    await ready(server, "power.a.example")
    now = 61.0
    await ready(server)


async def test_a_connection_that_is_there_does_not_suffer_from_guesses(server: FederatedServer) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    server.kernel.service(ComponentServer)._guesses = LoginThrottle(1, 1, 60.0, lambda: 0.0)
    irc = await ready(server)
    for condition in ("not-authorized", "policy-violation"):
        client = await open_component(server, "irc.a.example")
        client.send("<handshake>guess</handshake>")
        await client.expect_closed(condition)
    irc.send("<message from='nick@irc.a.example' to='romeo@a.example/x' id='1'><body>Still here</body></message>")
    await romeo.expect("<message from='nick@irc.a.example' id='1'/>")


async def test_the_first_connection_may_have_the_right(server: FederatedServer) -> None:
    components = server.kernel.service(ComponentServer)
    components.bounds = replace(components.bounds, replace=False)
    romeo = await server.client("romeo@a.example/x", presence=True)
    racing = await open_component(server, "irc.a.example")
    irc = await ready(server)
    second = await open_component(server, "irc.a.example")
    await second.expect_closed("conflict")
    assert racing.header is not None
    proof = hashlib.sha1((racing.header.get("id", "") + SECRET).encode()).hexdigest()
    racing.send(f"<handshake>{proof}</handshake>")
    await racing.expect_closed("conflict")
    irc.send("<message from='nick@irc.a.example' to='romeo@a.example/x' id='1'><body>Still here</body></message>")
    await romeo.expect("<message from='nick@irc.a.example' id='1'/>")
    irc.drop()
    while any(entry["connected"] for entry in components.list_components()):
        await romeo.iq("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    await ready(server)


async def gone(server: FederatedServer, client: Client, irc: Client) -> None:
    """The component loses its connection, and the server has noticed."""
    irc.drop()
    while any(entry["connected"] for entry in server.kernel.service(ComponentServer).list_components()):
        await client.iq("<iq type='get' id='gone'><ping xmlns='urn:xmpp:ping'/></iq>")


@pytest.mark.parametrize("bounds", [{"queue_stanzas": 2}, {"queue_bytes": 300}])
async def test_what_waits_for_a_component_is_bounded(server: FederatedServer, bounds: dict[str, int]) -> None:
    components = server.kernel.service(ComponentServer)
    components.bounds = replace(components.bounds, away_seconds=30.0, **bounds)  # type: ignore[arg-type]
    romeo = await server.client("romeo@a.example/x")
    await gone(server, romeo, await ready(server))
    for n in range(3):
        romeo.send(f"<message to='n@irc.a.example' type='chat' id='{n}'><body>{80 * 'x'}</body></message>")
    await romeo.expect(
        f"<message type='error' id='2'><error type='wait'><resource-constraint xmlns='{ERR}'/></error></message>"
    )
    listed = {entry["domain"]: (entry["connected"], entry["queued"]) for entry in components.list_components()}
    assert listed == {"irc.a.example": (False, 2), "power.a.example": (False, 0)}
    irc = await ready(server)
    for n in range(2):
        await irc.expect(f"<message {C} id='{n}'/>")
    await gone(server, romeo, irc)  # the count begins anew
    romeo.send(f"<message to='n@irc.a.example' type='chat' id='4'><body>{80 * 'x'}</body></message>")
    irc = await ready(server)
    await irc.expect(f"<message {C} id='4'/>")


async def test_a_component_that_stays_away_is_given_up(server: FederatedServer) -> None:
    romeo = await server.client("romeo@a.example/x")
    await gone(server, romeo, await ready(server))
    romeo.send("<message to='n@irc.a.example' type='chat' id='1'><body>Wait</body></message>")
    await romeo.expect(
        f"<message type='error' id='1'><error type='wait'><service-unavailable xmlns='{ERR}'/></error></message>"
    )


async def test_a_component_that_does_not_read_is_told_of_nothing_more(server: FederatedServer) -> None:
    """Senders hear of it."""
    romeo = await server.client("romeo@a.example/x")
    irc = await ready(server)
    [entry] = [link for link in server.kernel.service(ComponentServer).links if link.machine.domain == "irc.a.example"]
    entry._blocked = True  # as the transport says when its buffer is full
    romeo.send("<message to='n@irc.a.example' type='chat' id='1'><body>Much</body></message>")
    await romeo.expect(f"<message type='error' id='1'><error><resource-constraint xmlns='{ERR}'/></error></message>")
    entry._blocked = False
    romeo.send("<message to='n@irc.a.example' type='chat' id='2'><body>More</body></message>")
    await irc.expect(f"<message {C} id='2'/>")


async def messages(client: Client, count: int) -> list[str | None]:
    """The ids of the next messages, whatever else comes between them."""
    found: list[str | None] = []
    while len(found) < count:
        got = await client.receive()
        if str(got.tag).endswith("}message"):
            found.append(got.get("id"))
    return found


async def test_a_component_is_slowed_down_and_loses_nothing(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "components": {"irc.a.example": {"secret": SECRET}},
        "component_listener": {"stanzas_per_second": 200, "stanza_burst": 20},
    }
    made = FederatedServer(Authority(tmp_path), Directory(), accounts=("romeo@a.example",), settings=settings)
    async with made as server:
        romeo = await server.client("romeo@a.example/x", presence=True)
        irc = await ready(server)
        clock = asyncio.get_running_loop().time
        began = clock()
        stanza = "<message from='n@irc.a.example' to='romeo@a.example/x' id='{}'><body>x</body></message>"
        irc.send("".join(stanza.format(n) for n in range(120)))
        assert await messages(romeo, 120) == [str(n) for n in range(120)]
        irc.send(stanza.format("last"))
        assert await messages(romeo, 1) == ["last"]
        assert clock() - began > 0.4  # a hundred above the burst, two hundred in a second
        irc.drop()
        [bucket, _] = server.kernel.service(ComponentServer).buckets("irc.a.example")
        irc = await ready(server)
        assert (
            server.kernel.service(ComponentServer).buckets("irc.a.example")[0] is bucket
        )  # not filled by connecting anew
