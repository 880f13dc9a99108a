"""slixmpp and aioxmpp with services and accounts' nodes, over TLS, with capabilities as they announce them."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from tests.interop.aioxmpp_security import security

from beamish.testing import LiveServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what foreign code does at import is not ours to mend
    import aioxmpp
    import aioxmpp.avatar
    import aioxmpp.bookmarks
    import aioxmpp.connector
    import aioxmpp.entitycaps
    import aioxmpp.pep
    import aioxmpp.pubsub
    import slixmpp

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:X509\.\w+ is deprecated:DeprecationWarning"),  # aioxmpp's use of pyOpenSSL
    pytest.mark.filterwarnings("ignore::DeprecationWarning:slixmpp"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:aioxmpp"),
]
PATIENCE = 20.0
SERVICE = "pubsub.example.org"
OMEMO = "eu.siacs.conversations.axolotl"


@pytest.fixture
async def server() -> AsyncIterator[LiveServer]:
    for noisy in ("slixmpp", "aioxmpp"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    async with LiveServer() as live:
        yield live


class Slix:
    """A slixmpp client with the plugins of publish-subscribe."""

    def __init__(self, server: LiveServer, address: str, *interests: str) -> None:
        self.client = client = slixmpp.ClientXMPP(address, server.password)
        client.ca_certs = server.ca
        client.enable_plaintext = False
        self._server = server
        self._interests = interests
        self.events: asyncio.Queue[Any] = asyncio.Queue(1000)
        for plugin in ("xep_0004", "xep_0030", "xep_0059", "xep_0060", "xep_0115", "xep_0163", "xep_0118", "xep_0084"):
            client.register_plugin(plugin)

    async def __aenter__(self) -> Slix:
        client = self.client
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client.add_event_handler("session_start", lambda _: started.set_result(None))
        client.add_event_handler("pubsub_publish", self.events.put_nowait)
        client.add_event_handler("pubsub_retract", self.events.put_nowait)
        client.connect(self._server.host, self._server.port)
        await asyncio.wait_for(started, PATIENCE)
        await client.get_roster()
        for node in self._interests:
            client.plugin["xep_0163"].add_interest(node)
        await client.plugin["xep_0115"].update_caps()
        client.send_presence()
        await self.ping()
        return self

    async def __aexit__(self, *_: object) -> None:
        client = self.client
        if client.is_connected():
            await asyncio.wait_for(client.disconnect(), PATIENCE)
        client.cancel_connection_attempt()
        for task in (client._run_out_filters, client._current_connection_attempt):
            if task is not None:
                task.cancel()

    async def ping(self) -> None:
        """Everything sent so far has been dealt with."""
        iq = self.client.make_iq_get(ito=self.client.boundjid.domain)
        iq.append(ET.Element("{urn:xmpp:ping}ping"))
        await iq.send(timeout=PATIENCE)

    @property
    def pubsub(self) -> Any:
        """The plugin."""
        return self.client.plugin["xep_0060"]

    async def event(self) -> Any:
        """The next notification."""
        return await asyncio.wait_for(self.events.get(), PATIENCE)


def entry(text: str) -> Any:
    el = ET.Element("{urn:test}entry")
    el.text = text
    return el


async def test_slixmpp_uses_a_service(server: LiveServer) -> None:
    async with Slix(server, "romeo@example.org/orchard") as romeo, Slix(server, "juliet@example.org/balcony") as juliet:
        form = romeo.client.plugin["xep_0004"].make_form("submit")
        form.add_field("FORM_TYPE", "hidden", value="http://jabber.org/protocol/pubsub#node_config")
        form.add_field("pubsub#title", value="Musings")
        form.add_field("pubsub#max_items", value="5")
        await romeo.pubsub.create_node(SERVICE, "musings", config=form)
        config = await romeo.pubsub.get_node_config(SERVICE, "musings")
        values = config["pubsub_owner"]["configure"]["form"].get_values()
        assert (values["pubsub#title"], values["pubsub#max_items"]) == ("Musings", "5")
        nodes = await juliet.pubsub.get_nodes(SERVICE)
        assert (SERVICE, "musings", "Musings") in nodes["disco_items"]["items"]

        got = await juliet.pubsub.subscribe(SERVICE, "musings")
        assert got["pubsub"]["subscription"]["subscription"] == "subscribed"
        await romeo.pubsub.publish(SERVICE, "musings", id="i1", payload=entry("To be"))
        event = await juliet.event()
        assert event["pubsub_event"]["items"]["item"]["id"] == "i1"
        assert event["pubsub_event"]["items"]["item"]["payload"].text == "To be"
        for number in range(2, 8):
            await romeo.pubsub.publish(SERVICE, "musings", id=f"i{number}", payload=entry(str(number)))
        items = await juliet.pubsub.get_items(SERVICE, "musings", max_items=2)
        assert [item["id"] for item in items["pubsub"]["items"]] == ["i6", "i7"]
        one = await juliet.pubsub.get_item(SERVICE, "musings", "i5")
        assert [item["id"] for item in one["pubsub"]["items"]] == ["i5"]
        ids = await juliet.pubsub.get_item_ids(SERVICE, "musings")
        assert {name for _, _, name in ids["disco_items"]["items"]} == {f"i{n}" for n in range(3, 8)}

        await romeo.pubsub.modify_affiliations(SERVICE, "musings", [("juliet@example.org", "publisher")])
        await juliet.pubsub.publish(SERVICE, "musings", id="hers", payload=entry("x"))
        subscriptions = await romeo.pubsub.get_node_subscriptions(SERVICE, "musings")
        assert [s["jid"] for s in subscriptions["pubsub_owner"]["subscriptions"]] == ["juliet@example.org"]
        mine = await juliet.pubsub.get_affiliations(SERVICE)
        assert [(a["node"], a["affiliation"]) for a in mine["pubsub"]["affiliations"]] == [("musings", "publisher")]
        await juliet.pubsub.retract(SERVICE, "musings", "hers", notify=True)
        await juliet.pubsub.unsubscribe(SERVICE, "musings")
        await romeo.pubsub.purge(SERVICE, "musings")
        items = await romeo.pubsub.get_items(SERVICE, "musings")
        assert [item["id"] for item in items["pubsub"]["items"]] == []
        with pytest.raises(slixmpp.exceptions.IqError) as caught:
            await juliet.pubsub.delete_node(SERVICE, "musings")
        assert caught.value.condition == "forbidden"
        await romeo.pubsub.delete_node(SERVICE, "musings")


async def befriend(one: Slix, other: Slix) -> None:
    for asking, asked in ((one, other), (other, one)):
        asked.client.roster.auto_authorize = True
        asked.client.roster.auto_subscribe = False
        asking.client.send_presence_subscription(asked.client.boundjid.bare)
        await asking.ping()
        await asked.ping()
        await asking.ping()


async def test_slixmpp_tunes_and_devices_reach_who_asked_for_them(server: LiveServer) -> None:
    tune = "http://jabber.org/protocol/tune"
    devices = f"{OMEMO}.devicelist"
    async with Slix(server, "juliet@example.org/balcony") as juliet:
        async with Slix(server, "romeo@example.org/orchard", tune, devices) as romeo:
            await befriend(juliet, romeo)
            await juliet.client.plugin["xep_0118"].publish_tune(artist="Bowie", title="Heroes")
            event = await romeo.event()
            assert event["from"] == "juliet@example.org"
            assert event["pubsub_event"]["items"]["item"]["tune"]["title"] == "Heroes"

            listed = ET.Element(f"{{{OMEMO}}}list")
            ET.SubElement(listed, f"{{{OMEMO}}}device", id="31415")
            await juliet.pubsub.publish(None, devices, id="current", payload=listed)
            event = await romeo.event()
            assert event["pubsub_event"]["items"]["node"] == devices
            bundle = ET.Element(f"{{{OMEMO}}}bundle")
            ET.SubElement(bundle, f"{{{OMEMO}}}identityKey").text = "QUJD"
            await juliet.pubsub.publish(None, f"{OMEMO}.bundles:31415", id="current", payload=bundle)
            got = await romeo.pubsub.get_items("juliet@example.org", f"{OMEMO}.bundles:31415", max_items=1)
            (item,) = got["pubsub"]["items"]
            assert item["payload"].findtext(f"{{{OMEMO}}}identityKey") == "QUJD"
        async with Slix(server, "romeo@example.org/phone", tune, devices) as phone:
            seen = {(await phone.event())["pubsub_event"]["items"]["node"] for _ in range(2)}
            assert seen == {tune, devices}


def aio(server: LiveServer, address: str, *services: Any) -> Any:
    """An aioxmpp client that trusts the server; `connected()` it."""

    client = aioxmpp.PresenceManagedClient(
        aioxmpp.JID.fromstr(address),
        security(server.ca, server.password),
        override_peer=[(server.host, server.port, aioxmpp.connector.STARTTLSConnector())],
        max_initial_attempts=1,
    )
    for service in services:
        client.summon(service)
    return client


class Note(aioxmpp.xso.XSO):
    TAG = ("urn:test:aio", "note")
    text = aioxmpp.xso.Text(default=None)


aioxmpp.pubsub.xso.as_payload_class(Note)


async def test_aioxmpp_uses_a_service_and_its_account(server: LiveServer) -> None:
    romeo = aio(server, "romeo@example.org/orchard", aioxmpp.PubSubClient)
    juliet = aio(server, "juliet@example.org/balcony", aioxmpp.PubSubClient)
    service = aioxmpp.JID.fromstr(SERVICE)
    async with romeo.connected(), juliet.connected():
        his, hers = romeo.summon(aioxmpp.PubSubClient), juliet.summon(aioxmpp.PubSubClient)
        features = await his.get_features(service)
        assert aioxmpp.pubsub.xso.Feature.PUBLISH in features
        await his.create(service, "notes")
        arrived: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(10)
        hers.on_item_published.connect(lambda _jid, node, item, message=None: arrived.put_nowait((node, item)) and None)
        subscription = await hers.subscribe(service, "notes")
        assert subscription.payload.subscription == "subscribed"
        note = Note()
        note.text = "O Romeo"
        assert await his.publish(service, "notes", note, id_="n1") == "n1"
        node, item = await asyncio.wait_for(arrived.get(), PATIENCE)
        assert (node, item.id_, item.registered_payload.text) == ("notes", "n1", "O Romeo")
        got = await hers.get_items_by_id(service, "notes", ["n1"])
        assert [i.id_ for i in got.payload.items] == ["n1"]
        await his.change_node_affiliations(service, "notes", [(aioxmpp.JID.fromstr("juliet@example.org"), "member")])
        await his.retract(service, "notes", "n1", notify=True)
        await hers.unsubscribe(service, "notes")
        with pytest.raises(aioxmpp.errors.XMPPAuthError):
            await hers.delete(service, "notes")
        await his.delete(service, "notes")


async def test_aioxmpp_bookmarks_are_slixmpps_bookmarks(server: LiveServer) -> None:
    """One client keeps them in private XML (XEP-0049), the other as items (XEP-0402)."""
    juliet = aio(server, "juliet@example.org/balcony", aioxmpp.BookmarkClient)
    async with juliet.connected(), Slix(server, "juliet@example.org/phone") as phone:
        room = aioxmpp.bookmarks.Conference("Play", aioxmpp.JID.fromstr("play@rooms.example"), autojoin=True, nick="JC")
        await asyncio.wait_for(juliet.summon(aioxmpp.BookmarkClient).add_bookmark(room), PATIENCE)
        items = await phone.pubsub.get_items("juliet@example.org", "urn:xmpp:bookmarks:1")
        (item,) = items["pubsub"]["items"]
        assert item["id"] == "play@rooms.example"
        assert item["payload"].get("autojoin") == "true"
        assert item["payload"].findtext("{urn:xmpp:bookmarks:1}nick") == "JC"


async def test_aioxmpp_avatar_reaches_a_friend(server: LiveServer) -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"avatar" * 50
    services = aioxmpp.AvatarService, aioxmpp.entitycaps.EntityCapsService, aioxmpp.RosterClient, aioxmpp.PresenceClient
    juliet = aio(server, "juliet@example.org/balcony", *services)
    romeo = aio(server, "romeo@example.org/orchard", *services)
    async with juliet.connected(), romeo.connected():
        for asking, asked in ((juliet, romeo), (romeo, juliet)):
            asked_roster = asked.summon(aioxmpp.RosterClient)
            requests: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            asked_roster.on_subscribe.connect(lambda stanza, f=requests: None if f.done() else f.set_result(stanza))
            asking.summon(aioxmpp.RosterClient).subscribe(asked.local_jid.bare())
            await asyncio.wait_for(requests, PATIENCE)
            asked_roster.approve(asking.local_jid.bare())
        changed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        avatars = romeo.summon(aioxmpp.AvatarService)

        def seen(jid: Any, metadata: Any) -> None:
            if jid.bare() == juliet.local_jid.bare() and metadata and not changed.done():
                changed.set_result(metadata)

        avatars.on_metadata_changed.connect(seen)
        mine = aioxmpp.avatar.AvatarSet()
        mine.add_avatar_image("image/png", image_bytes=png, width=1, height=1)
        await juliet.summon(aioxmpp.AvatarService).publish_avatar_set(mine)
        metadata = await asyncio.wait_for(changed, PATIENCE)
        descriptor = next(iter(metadata))
        assert await descriptor.get_image_bytes() == png


class Device(aioxmpp.xso.XSO):
    TAG = (OMEMO, "device")
    id_ = aioxmpp.xso.Attr("id")


@aioxmpp.pubsub.xso.as_payload_class
class DeviceList(aioxmpp.xso.XSO):
    TAG = (OMEMO, "list")
    devices = aioxmpp.xso.ChildList([Device])


class IdentityKey(aioxmpp.xso.XSO):
    TAG = (OMEMO, "identityKey")
    key = aioxmpp.xso.Text()


@aioxmpp.pubsub.xso.as_payload_class
class Bundle(aioxmpp.xso.XSO):
    TAG = (OMEMO, "bundle")
    identity_key = aioxmpp.xso.Child([IdentityKey])


async def test_slixmpp_and_aioxmpp_learn_each_others_devices_and_keys(server: LiveServer) -> None:
    """What OMEMO asks of a server (XEP-0384 §4), between two libraries: device lists are announced, bundles fetched."""
    listed, bundles = f"{OMEMO}.devicelist", f"{OMEMO}.bundles"
    services = aioxmpp.PEPClient, aioxmpp.PubSubClient, aioxmpp.entitycaps.EntityCapsService, aioxmpp.RosterClient
    romeo = aio(server, "romeo@example.org/orchard", *services)
    announced: asyncio.Queue[Any] = asyncio.Queue(10)
    claim = romeo.summon(aioxmpp.PEPClient).claim_pep_node(listed, notify=True)
    # aioxmpp's PEP service wants payloads in the namespace of their node, which device lists are not
    events = romeo.summon(aioxmpp.PubSubClient).on_item_published
    events.connect(lambda jid, _node, item, message=None: announced.put_nowait((jid, item)) and None)
    async with romeo.connected(), Slix(server, "juliet@example.org/balcony", listed) as juliet:
        roster = romeo.summon(aioxmpp.RosterClient)
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        roster.on_subscribe.connect(lambda _stanza: None if asked.done() else asked.set_result(None))
        juliet.client.roster.auto_authorize, juliet.client.roster.auto_subscribe = True, False
        hers = aioxmpp.JID.fromstr("juliet@example.org")
        roster.subscribe(hers)
        juliet.client.send_presence_subscription("romeo@example.org")
        await asyncio.wait_for(asked, PATIENCE)
        roster.approve(hers)

        payload = ET.Element(f"{{{OMEMO}}}list")
        ET.SubElement(payload, f"{{{OMEMO}}}device", id="31415")
        await juliet.pubsub.publish(None, listed, id="current", payload=payload)
        jid, item = await asyncio.wait_for(announced.get(), PATIENCE)
        assert jid.bare() == hers
        assert [device.id_ for device in item.registered_payload.devices] == ["31415"]
        payload = ET.Element(f"{{{OMEMO}}}bundle")
        ET.SubElement(payload, f"{{{OMEMO}}}identityKey").text = "QUJD"
        await juliet.pubsub.publish(None, f"{bundles}:31415", id="current", payload=payload)
        his = romeo.summon(aioxmpp.PubSubClient)
        (item,) = (await his.get_items(hers, f"{bundles}:31415", max_items=1)).payload.items
        assert item.registered_payload.identity_key.key == "QUJD"

        mine = DeviceList()
        mine.devices.append(device := Device())
        device.id_ = "27182"
        await romeo.summon(aioxmpp.PEPClient).publish(listed, mine, id_="current")
        assert (await juliet.event())["from"] == "juliet@example.org"  # her own list comes first
        event = await juliet.event()
        assert (event["from"], event["pubsub_event"]["items"]["node"]) == ("romeo@example.org", listed)
        (found,) = event["pubsub_event"]["items"]["item"]["payload"]
        assert found.get("id") == "27182"
        bundle = Bundle()
        bundle.identity_key = IdentityKey()
        bundle.identity_key.key = "REVG"
        await romeo.summon(aioxmpp.PEPClient).publish(f"{bundles}:27182", bundle, id_="current")
        got = await juliet.pubsub.get_items("romeo@example.org", f"{bundles}:27182", max_items=1)
        (item,) = got["pubsub"]["items"]
        assert item["payload"].findtext(f"{{{OMEMO}}}identityKey") == "REVG"
    claim.close()
