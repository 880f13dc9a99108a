"""slixmpp's component as a gateway: its users live with ours as users of another server would."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from beamish.core.services import CapsService
from beamish.net.component import ComponentServer
from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory
from beamish.xmpp.jid import JID

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what foreign code does at import is not ours to mend
    import slixmpp
    from slixmpp import ComponentXMPP

DOMAIN = "gate.a.example"
BOT = f"bot@{DOMAIN}"
PUBSUB = "http://jabber.org/protocol/pubsub"
MUC = "http://jabber.org/protocol/muc"
ROOM = "garden@conference.a.example"
TUNE = "http://jabber.org/protocol/tune"
PATIENCE = 15.0


class Gateway:
    """A component of slixmpp's, with what it received."""

    def __init__(self, server: FederatedServer) -> None:
        self.xmpp = ComponentXMPP(DOMAIN, "between us", server.host, server.component_port)
        for plugin in ("xep_0030", "xep_0045", "xep_0054", "xep_0060", "xep_0115", "xep_0199", "xep_0297", "xep_0356"):
            self.xmpp.register_plugin(plugin)
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.presences: asyncio.Queue[Any] = asyncio.Queue()
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.granted = 0
        self.xmpp.add_event_handler("session_start", lambda _: self.started.set_result(None))
        self.xmpp.add_event_handler("privileges_advertised", self._told)
        for event in ("message", "message_error", "pubsub_publish"):
            self.xmpp.add_event_handler(event, self.messages.put_nowait)
        for kind in (
            "available",
            "away",
            "unavailable",
            "subscribe",
            "subscribed",
            "unsubscribe",
            "unsubscribed",
            "probe",
        ):
            self.xmpp.add_event_handler(f"presence_{kind}", self.presences.put_nowait)
        self.xmpp.auto_authorize = None  # the test decides

    def _told(self, _: Any) -> None:
        self.granted += 1

    async def start(self) -> None:
        """Connect; returns when the server has let it in."""
        self.xmpp.connect()
        await asyncio.wait_for(self.started, PATIENCE)

    async def sees(self, sender: str, kind: str) -> Any:
        """The next presence of this sender and type; others are skipped."""
        async with asyncio.timeout(PATIENCE):
            while True:
                got = await self.presences.get()
                if got["from"].full == sender and got["type"] == kind:
                    return got

    async def hears(self, sender: str, body: str) -> Any:
        """The next message of this sender with this body; others are skipped."""
        async with asyncio.timeout(PATIENCE):
            while True:
                got = await self.messages.get()
                if got["from"].full == sender and got["body"] == body:
                    return got

    def presence(self, to: str, kind: str | None = None, sender: str = BOT, extra: str = "") -> None:
        """Send a presence of one of its users."""
        made = self.xmpp.make_presence(pfrom=sender, pto=to, ptype=kind)
        if extra:
            made.append(slixmpp.xmlstream.ET.fromstring(extra))
        made.send()


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[FederatedServer]:
    settings: dict[str, Any] = {
        "components": {
            DOMAIN: {
                "secret": "between us",
                "roster": "both",
                "message": "outgoing",
                "iq": {PUBSUB: "both", f"{PUBSUB}#owner": "set"},
                "presence": "managed_entity",
            }
        },
        "component_listener": {"away_seconds": 0.2},
    }
    accounts = ("romeo@a.example", "juliet@a.example")
    async with FederatedServer(Authority(tmp_path), Directory(), accounts=accounts, settings=settings) as made:
        yield made


@pytest_asyncio.fixture
async def gate(server: FederatedServer) -> AsyncIterator[Gateway]:
    made = Gateway(server)
    await made.start()
    try:
        yield made
    finally:
        await made.xmpp.disconnect()


async def friends(romeo: Client, gate: Gateway) -> None:
    """Romeo and the bot subscribe to one another."""
    romeo.send(f"<presence to='{BOT}' type='subscribe'/>")
    await romeo.expect("<iq type='set'/>")
    await gate.sees("romeo@a.example", "subscribe")
    gate.presence("romeo@a.example", "subscribed")
    await romeo.expect_all(f"<presence from='{BOT}' type='subscribed'/>", "<iq type='set'/>")
    gate.presence("romeo@a.example", "subscribe")
    await romeo.expect(f"<presence from='{BOT}' type='subscribe'/>")
    romeo.send(f"<presence to='{BOT}' type='subscribed'/>")
    await romeo.expect("<iq type='set'/>")
    await gate.sees("romeo@a.example", "subscribed")
    await gate.sees("romeo@a.example/x", "available")


async def test_subscriptions_and_presence(server: FederatedServer, gate: Gateway) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    await friends(romeo, gate)
    gate.presence("romeo@a.example", sender=f"{BOT}/r")
    await romeo.expect(f"<presence from='{BOT}/r' type='!'/>")
    romeo.send("<presence><show>away</show></presence>")
    await romeo.expect("<presence from='romeo@a.example/x'/>")
    assert (await gate.sees("romeo@a.example/x", "away"))["to"].bare == BOT
    romeo.send("<presence type='unavailable'/>")
    await romeo.expect("<presence type='unavailable'/>")
    await gate.sees("romeo@a.example/x", "unavailable")
    romeo.send("<presence/>")  # the server asks for the contact's presence (RFC 6121 §4.3.1)
    await gate.sees("romeo@a.example", "probe")
    gate.presence("romeo@a.example", "unsubscribed")
    async with asyncio.timeout(PATIENCE):
        while (got := await romeo.receive()).get("type") != "unsubscribed":
            pass
    assert got.get("from") == BOT


async def test_a_probe_of_the_gateways_is_answered(server: FederatedServer, gate: Gateway) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    gate.presence("romeo@a.example", "probe")
    await gate.sees("romeo@a.example", "unsubscribed")  # strangers learn nothing
    await friends(romeo, gate)
    gate.presence("romeo@a.example", "probe")
    await gate.sees("romeo@a.example/x", "available")


async def test_discovery_both_ways(server: FederatedServer, gate: Gateway) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    disco = gate.xmpp.plugin["xep_0030"]
    disco.add_identity("gateway", "irc", name="The gate", jid=DOMAIN)
    disco.add_feature("urn:example:f", jid=DOMAIN)
    disco.add_item(jid=BOT, name="Bot", ijid=DOMAIN)
    query = "<iq type='get' to='{}' id='d'><query xmlns='http://jabber.org/protocol/disco#{}'/></iq>"
    info = await romeo.iq(query.format(DOMAIN, "info"))
    space = "{http://jabber.org/protocol/disco#info}"
    identities = {(each.get("category"), each.get("name")) for each in info.iter(f"{space}identity")}
    assert ("gateway", "The gate") in identities
    assert "urn:example:f" in {feature.get("var") for feature in info.iter(f"{space}feature")}
    items = await romeo.iq(query.format(DOMAIN, "items"))
    assert [item.get("jid") for item in items[0]] == [BOT]
    ours = await disco.get_info(jid="a.example", ifrom=DOMAIN, timeout=PATIENCE)
    assert "urn:xmpp:ping" in ours["disco_info"]["features"]
    # the client itself only to whom it shows itself
    with pytest.raises(slixmpp.exceptions.IqError):
        await gate.xmpp.plugin["xep_0199"].send_ping("romeo@a.example/x", ifrom=BOT, timeout=PATIENCE)
    romeo.send(f"<presence to='{BOT}'/>")
    await gate.sees("romeo@a.example/x", "available")
    asked = asyncio.ensure_future(disco.get_info(jid="romeo@a.example/x", ifrom=BOT, timeout=PATIENCE))
    got = await romeo.expect(f"<iq type='get' from='{BOT}'/>")
    romeo.send(
        f"<iq type='result' to='{BOT}' id='{got.get('id')}'><query xmlns='http://jabber.org/protocol/disco#info'>"
        "<identity category='client' type='pc'/></query></iq>"
    )
    assert ("client", "pc", None, None) in (await asked)["disco_info"]["identities"]


async def test_capabilities_of_its_users_and_personal_events(server: FederatedServer, gate: Gateway) -> None:
    """What its users can do is asked of them; those who want them get the events of contacts."""
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    await friends(romeo, gate)
    full = f"{BOT}/r"
    disco = gate.xmpp.plugin["xep_0030"]
    disco.add_identity("client", "bot", jid=full)
    for feature in ("http://jabber.org/protocol/disco#info", f"{TUNE}+notify"):
        disco.add_feature(feature, jid=full)
    info = await disco.get_info(jid=full, local=True)
    caps = gate.xmpp.plugin["xep_0115"]
    node = "urn:example:bot"
    ver = caps.generate_verstring(info, "sha-1")
    disco.set_info(jid=full, node=f"{node}#{ver}", info=info)
    gate.presence(
        "romeo@a.example",
        sender=full,
        extra=f"<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='{node}' ver='{ver}'/>",
    )
    await romeo.expect(f"<presence from='{full}' type='!'/>")
    known = server.kernel.service(CapsService)
    async with asyncio.timeout(PATIENCE):
        while known.features(JID.parse(full)) is None:
            await romeo.iq("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert f"{TUNE}+notify" in (known.features(JID.parse(full)) or ())
    await romeo.iq(
        f"<iq type='set' id='t'><pubsub xmlns='{PUBSUB}'><publish node='{TUNE}'><item><tune xmlns='{TUNE}'/></item>"
        "</publish></pubsub></iq>"
    )
    got = await asyncio.wait_for(gate.messages.get(), PATIENCE)
    assert (got["from"].bare, got["to"].full) == ("romeo@a.example", full)
    assert got["pubsub_event"]["items"]["node"] == TUNE


async def test_a_gateway_follows_what_was_read(server: FederatedServer, gate: Gateway) -> None:
    """As Slidge does: in the user's name it makes the node and itself a member, then appears, with no resource."""
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    read = "urn:xmpp:mds:displayed:0"
    plugin = gate.xmpp.plugin["xep_0356"]
    gate.xmpp.plugin["xep_0030"].add_identity("gateway", "irc", jid=DOMAIN)
    gate.xmpp.plugin["xep_0030"].add_feature(f"{read}+notify", jid=DOMAIN)
    await gate.xmpp.plugin["xep_0115"].update_caps(jid=slixmpp.JID(DOMAIN))
    gate.xmpp.roster[DOMAIN]["romeo@a.example"]["from"] = True  # so that it answers the probe
    item = {"name": "Gate", "subscription": "both", "groups": ["Gate"]}
    await plugin.set_roster("romeo@a.example", {DOMAIN: item}, timeout=PATIENCE)
    for space, asked in (
        (PUBSUB, f"<create node='{read}'/>"),
        (
            f"{PUBSUB}#owner",
            f"<affiliations node='{read}'><affiliation jid='{DOMAIN}' affiliation='member'/></affiliations>",
        ),
    ):
        iq = slixmpp.Iq(stype="set", sfrom="romeo@a.example", sto="romeo@a.example")
        iq.append(slixmpp.xmlstream.ET.fromstring(f"<pubsub xmlns='{space}'>{asked}</pubsub>"))
        await asyncio.wait_for(plugin.send_privileged_iq(iq), PATIENCE)
    known = server.kernel.service(CapsService)
    async with asyncio.timeout(PATIENCE):
        while f"{read}+notify" not in (known.features(JID.parse(DOMAIN)) or ()):
            await romeo.iq("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    entry = f"<displayed xmlns='{read}'><stanza-id xmlns='urn:xmpp:sid:0' by='romeo@a.example' id='1'/></displayed>"
    for time in ("first", "second"):
        await romeo.iq(
            f"<iq type='set' id='{time}'><pubsub xmlns='{PUBSUB}'><publish node='{read}'><item id='friend@{DOMAIN}'>"
            f"{entry}</item></publish></pubsub></iq>"
        )
        if time == "first":
            async with asyncio.timeout(PATIENCE):
                got = await gate.messages.get()
            assert (got["from"].bare, got["to"].full) == ("romeo@a.example", DOMAIN)
            assert got["pubsub_event"]["items"]["node"] == read
            gate.presence("romeo@a.example", "unavailable", sender=DOMAIN)
            async with asyncio.timeout(PATIENCE):
                while (await romeo.receive()).get("type") != "unavailable":
                    pass
    await gate.xmpp.plugin["xep_0199"].send_ping("a.example", ifrom=DOMAIN, timeout=PATIENCE)
    assert gate.messages.empty()  # whoever is gone is told nothing


async def test_profiles_both_ways(server: FederatedServer, gate: Gateway) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    vcard = gate.xmpp.plugin["xep_0054"].make_vcard()
    vcard["FN"] = "The bot"
    await gate.xmpp.plugin["xep_0054"].publish_vcard(jid=slixmpp.JID(BOT), vcard=vcard)
    got = await romeo.iq(f"<iq type='get' to='{BOT}' id='v'><vCard xmlns='vcard-temp'/></iq>")
    assert got.findtext(".//{vcard-temp}FN") == "The bot"
    await romeo.iq("<iq type='set' id='s'><vCard xmlns='vcard-temp'><FN>Romeo</FN></vCard></iq>")
    theirs = await gate.xmpp.plugin["xep_0054"].get_vcard(
        jid="romeo@a.example", ifrom=BOT, cached=False, timeout=PATIENCE
    )
    assert theirs["vcard_temp"]["FN"] == "Romeo"


async def test_its_users_in_our_rooms(server: FederatedServer, gate: Gateway) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    romeo.send(f"<presence to='{ROOM}/romeo'><x xmlns='{MUC}'/></presence>")
    await romeo.expect(f"<presence from='{ROOM}/romeo'/>")
    await romeo.expect(f"<message from='{ROOM}'><subject/></message>")
    await romeo.iq(
        f"<iq type='set' to='{ROOM}' id='c'><query xmlns='{MUC}#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>"
    )
    gate.presence(f"{ROOM}/bot", sender=f"{BOT}/r", extra=f"<x xmlns='{MUC}'/>")
    await romeo.expect(f"<presence from='{ROOM}/bot' type='!'/>")
    assert (await gate.sees(f"{ROOM}/romeo", "available"))["to"].full == f"{BOT}/r"
    await gate.sees(f"{ROOM}/bot", "available")
    gate.xmpp.make_message(mto=ROOM, mfrom=f"{BOT}/r", mbody="Good evening", mtype="groupchat").send()
    await romeo.expect(f"<message from='{ROOM}/bot' type='groupchat'><body>Good evening</body></message>")
    await gate.hears(f"{ROOM}/bot", "Good evening")
    romeo.send(f"<message to='{ROOM}' type='groupchat'><body>Evening</body></message>")
    await romeo.expect(f"<message from='{ROOM}/romeo'><body>Evening</body></message>")
    await gate.hears(f"{ROOM}/romeo", "Evening")
    romeo.send(f"<message to='{ROOM}/bot' type='chat'><body>Between us</body></message>")
    await gate.hears(f"{ROOM}/romeo", "Between us")
    gate.presence(f"{ROOM}/bot", "unavailable", sender=f"{BOT}/r")
    await romeo.expect(f"<presence from='{ROOM}/bot' type='unavailable'/>")
    gate.presence(f"{ROOM}/again", sender=f"{BOT}/r", extra=f"<x xmlns='{MUC}'/>")
    await romeo.expect(f"<presence from='{ROOM}/again' type='!'/>")
    for link in tuple(server.kernel.service(ComponentServer).links):
        link.abort()  # the gateway dies; its users leave the room
    gate.xmpp.abort()
    await romeo.expect(f"<presence from='{ROOM}/again' type='unavailable'/>")


async def test_blocking_and_archives(server: FederatedServer, gate: Gateway) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True)
    gate.xmpp.make_message(mto="romeo@a.example", mfrom=f"{BOT}/r", mbody="One", mtype="chat").send()
    await romeo.expect(f"<message from='{BOT}/r'><body>One</body></message>")
    await romeo.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='{DOMAIN}'/></block></iq>")
    gate.xmpp.make_message(mto="romeo@a.example/x", mfrom=f"{BOT}/r", mbody="Two", mtype="chat").send()
    async with asyncio.timeout(PATIENCE):
        while (await gate.messages.get())["type"] != "error":
            pass
    romeo.send("<iq type='set' id='m'><query xmlns='urn:xmpp:mam:2'/></iq>")
    kept = await romeo.receive()
    while kept.find("{urn:xmpp:mam:2}result") is None:  # a message that came during the login is asked about behind it
        kept = await romeo.receive()
    assert kept.findtext(".//{jabber:client}body") == "One"
    await romeo.expect("<iq type='result' id='m'/>")


async def test_offline_messages_of_its_users(server: FederatedServer, gate: Gateway) -> None:
    gate.xmpp.make_message(mto="romeo@a.example", mfrom=f"{BOT}/r", mbody="Later", mtype="chat").send()
    await gate.xmpp.plugin["xep_0199"].send_ping("a.example", ifrom=DOMAIN, timeout=PATIENCE)
    romeo = await server.client("romeo@a.example/x", presence=True)
    await romeo.expect(f"<message from='{BOT}/r'><body>Later</body><delay xmlns='urn:xmpp:delay'/></message>")


async def test_privileges_as_slixmpp_uses_them(server: FederatedServer, gate: Gateway) -> None:
    romeo = await server.client("romeo@a.example/x", presence=True, roster=True)
    await gate.sees("romeo@a.example/x", "available")
    plugin = gate.xmpp.plugin["xep_0356"]
    assert gate.granted == 1  # it knows one of the two versions
    perms = plugin.granted_privileges["a.example"]
    assert (perms.roster, perms.message, perms.presence, perms.iq[PUBSUB]) == (
        "both",
        "outgoing",
        "managed_entity",
        "both",
    )
    gate.xmpp.roster[f"friend@{DOMAIN}"]["romeo@a.example"]["from"] = True  # so that it answers the probe
    item = {"name": "Friend", "subscription": "both", "groups": ["Gate"]}
    await plugin.set_roster("romeo@a.example", {f"friend@{DOMAIN}": item}, timeout=PATIENCE)
    await romeo.expect(
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='friend@{DOMAIN}' name='Friend' subscription='both'>"
        "<group>Gate</group></item></query></iq>"
    )
    roster = await plugin.get_roster("romeo@a.example", timeout=PATIENCE)
    [(jid, found)] = roster["roster"]["items"].items()
    assert (jid.bare, found["name"], found["subscription"]) == (f"friend@{DOMAIN}", "Friend", "both")
    message = slixmpp.Message()
    message["from"], message["to"], message["type"], message["body"] = (
        "romeo@a.example",
        "juliet@a.example",
        "chat",
        "Hi",
    )
    juliet = await server.client("juliet@a.example/y", presence=True)
    plugin.send_privileged_message(message)
    await juliet.expect("<message from='romeo@a.example' type='chat'><body>Hi</body></message>")
    iq = slixmpp.Iq(stype="get", sfrom="romeo@a.example", sto="romeo@a.example")
    iq["pubsub"]["items"]["node"] = "urn:example:none"
    iq.plugins.pop(("error", None), None)
    with pytest.raises(slixmpp.exceptions.IqError) as raised:
        await plugin.send_privileged_iq(iq)
    nested = raised.value.nested_error()
    assert nested is not None and nested.condition == "item-not-found"
    await romeo.iq(
        f"<iq type='set' id='t'><pubsub xmlns='{PUBSUB}'><publish node='{TUNE}'><item id='i'><tune xmlns='{TUNE}'/></item>"
        "</publish></pubsub></iq>"
    )
    iq = slixmpp.Iq(stype="get", sfrom="romeo@a.example", sto="romeo@a.example")
    iq["pubsub"]["items"]["node"] = TUNE
    answer = await plugin.send_privileged_iq(iq)
    assert answer["pubsub"]["items"]["node"] == TUNE
