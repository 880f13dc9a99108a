"""slixmpp's and aioxmpp's own plugins for capabilities, profiles, blocking, private storage and the small queries."""

from __future__ import annotations

import asyncio
import hashlib
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from beamish.core import events
from beamish.core.clock import parse_stamp
from beamish.core.events import CapsKnown
from beamish.core.hooks import Row

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what foreign code does at import is not ours to mend
    import aioxmpp
    import aioxmpp.blocking
    import aioxmpp.entitycaps
    import aioxmpp.private_xml
    import aioxmpp.vcard
    import aioxmpp.version
    import slixmpp

if TYPE_CHECKING:
    from tests.interop.conftest import Login

    from beamish.testing import LiveServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:X509\.\w+ is deprecated:DeprecationWarning"),  # aioxmpp's use of pyOpenSSL
]
PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 10
ROMEO, JULIET = "romeo@example.org", "juliet@example.org"


async def befriend(one: Any, other: Any) -> None:
    """Subscribe two clients to each other."""
    for asking, asked in ((one, other), (other, one)):
        asking.presence("subscribe", to=asked.bare)
        await asked.sees(asking.bare, "subscribe")
        asked.presence("subscribed", to=asking.bare)
        await asking.sees(asked.jid, "available")


async def slix(login: Login, address: str, *plugins: str) -> Any:
    """A slixmpp client with more plugins."""
    peer = await login("slixmpp", address)
    for plugin in plugins:
        peer.client.register_plugin(plugin)
        peer.client.plugin[plugin].session_bind(peer.client.boundjid)
    return peer


def learned(server: LiveServer, jid: str) -> asyncio.Future[frozenset[str]]:
    """What the server will have learned of a client."""
    future: asyncio.Future[frozenset[str]] = asyncio.get_running_loop().create_future()

    def tell(event: CapsKnown) -> None:
        if event.jid == jid and not future.done():
            future.set_result(event.features)

    server.kernel.hooks[events.caps_known].add(Row(50, "test", tell))
    return future


async def test_capabilities_of_slixmpp_are_verified(login: Login, live_server: LiveServer) -> None:
    peer = await slix(login, f"{ROMEO}/orchard", "xep_0115")
    future = learned(live_server, peer.jid)
    await peer.client.plugin["xep_0115"].update_caps()
    await peer.sees(peer.jid, "available")
    found = await asyncio.wait_for(future, 15)
    assert {"http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/caps", "urn:xmpp:ping"} <= found


async def test_capabilities_of_aioxmpp_are_verified(login: Login, live_server: LiveServer) -> None:
    peer = await login("aioxmpp", f"{ROMEO}/orchard")
    peer.client.summon(aioxmpp.EntityCapsService)
    future = learned(live_server, peer.jid)
    await peer.becomes_available()
    found = await asyncio.wait_for(future, 15)
    assert {"http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/caps"} <= found


async def test_slixmpp_verifies_our_own_hash(login: Login, live_server: LiveServer) -> None:
    peer = await slix(login, f"{ROMEO}/orchard", "xep_0115")
    caps = peer.client.plugin["xep_0115"]
    info = await peer.client.plugin["xep_0030"].get_info(jid="example.org", local=False, timeout=15)
    ours = [f.of_domain("example.org") for f in live_server.c2s.settings.features if f.of_domain is not None]
    assert caps.generate_verstring(info["disco_info"], "sha-1").encode() in b"".join(ours)


async def test_blocking_by_slixmpp(login: Login) -> None:
    juliet = await slix(login, f"{JULIET}/balcony", "xep_0191")
    phone = await slix(login, f"{JULIET}/phone", "xep_0191")
    romeo = await login("aioxmpp", f"{ROMEO}/orchard")
    for peer in (juliet, romeo):
        await peer.becomes_available()
    await befriend(juliet, romeo)
    pushed: asyncio.Queue[str] = asyncio.Queue()
    blocking = phone.client.plugin["xep_0191"]
    assert await blocking.get_blocked_jids() == set()
    phone.client.add_event_handler("blocked", lambda iq: pushed.put_nowait(str(iq["block"].xml[0].get("jid"))))
    await juliet.client.plugin["xep_0191"].block(slixmpp.JID(ROMEO))
    await romeo.sees(juliet.jid, "unavailable")
    assert await asyncio.wait_for(pushed.get(), 15) == ROMEO
    assert await blocking.get_blocked_jids() == {slixmpp.JID(ROMEO)}
    await juliet.client.plugin["xep_0191"].unblock(slixmpp.JID(ROMEO))
    await romeo.sees(juliet.jid, "available")
    assert await blocking.get_blocked_jids() == set()


async def test_blocking_by_aioxmpp(login: Login) -> None:
    juliet = await login("aioxmpp", f"{JULIET}/balcony")
    blocking = juliet.client.summon(aioxmpp.BlockingClient)
    romeo = await login("slixmpp", f"{ROMEO}/orchard")
    await romeo.becomes_available()
    await juliet.becomes_available()
    await befriend(juliet, romeo)
    other = aioxmpp.JID.fromstr("mercutio@example.org")
    await blocking.block_jids([aioxmpp.JID.fromstr(ROMEO), other])
    await romeo.sees(juliet.jid, "unavailable")
    await blocking.unblock_jids([aioxmpp.JID.fromstr(ROMEO)])
    await romeo.sees(juliet.jid, "available")
    await blocking.unblock_all()


async def test_a_vcard_by_slixmpp_read_by_aioxmpp(login: Login) -> None:
    romeo = await slix(login, f"{ROMEO}/orchard", "xep_0054")
    benvolio = await login("aioxmpp", "benvolio@example.net/street")
    plugin = romeo.client.plugin["xep_0054"]
    card = plugin.make_vcard()
    card["FN"] = "Romeo Montague"
    card["PHOTO"]["TYPE"] = "image/png"
    card["PHOTO"]["BINVAL"] = PNG
    await plugin.publish_vcard(card)
    got = await benvolio.client.summon(aioxmpp.vcard.VCardService).get_vcard(aioxmpp.JID.fromstr(ROMEO))
    assert got.get_photo_data() == PNG
    assert [el.text for el in got.elements if el.tag == "{vcard-temp}FN"] == ["Romeo Montague"]


async def test_a_vcard_by_aioxmpp_read_by_slixmpp(login: Login) -> None:
    romeo = await login("aioxmpp", f"{ROMEO}/orchard")
    juliet = await slix(login, f"{JULIET}/balcony", "xep_0054")
    service = romeo.client.summon(aioxmpp.vcard.VCardService)
    card = await service.get_vcard()
    card.set_photo_data("image/png", PNG)
    await service.set_vcard(card)
    got = await juliet.client.plugin["xep_0054"].get_vcard(slixmpp.JID(ROMEO), local=False)
    assert got["vcard_temp"]["PHOTO"]["BINVAL"] == PNG


async def test_an_avatar_by_slixmpp_is_seen_in_presence_and_vcard(login: Login) -> None:
    romeo = await slix(login, f"{ROMEO}/orchard", "xep_0084")
    juliet = await slix(login, f"{JULIET}/balcony", "xep_0054", "xep_0153")
    updates: asyncio.Queue[Any] = asyncio.Queue()
    for peer in (romeo, juliet):
        await peer.becomes_available()
    await befriend(romeo, juliet)
    juliet.client.add_event_handler("presence", updates.put_nowait)
    avatar = romeo.client.plugin["xep_0084"]
    hash_ = hashlib.sha1(PNG).hexdigest()
    await avatar.publish_avatar(PNG)
    await avatar.publish_avatar_metadata([{"id": hash_, "type": "image/png", "bytes": str(len(PNG))}])
    seen = ""
    while seen != hash_:
        presence = await asyncio.wait_for(updates.get(), 15)
        seen = presence.xml.findtext(".//{vcard-temp:x:update}photo") or ""
    got = await juliet.client.plugin["xep_0054"].get_vcard(slixmpp.JID(ROMEO), local=False)
    assert got["vcard_temp"]["PHOTO"]["BINVAL"] == PNG


async def test_private_storage_of_both(login: Login) -> None:
    romeo = await slix(login, f"{ROMEO}/orchard", "xep_0048", "xep_0049")
    other = await login("aioxmpp", f"{ROMEO}/phone")
    marks = romeo.client.plugin["xep_0048"].stanza.Bookmarks()
    marks.add_conference("verona@conference.example.org", "romeo", name="Verona")
    await romeo.client.plugin["xep_0048"].set_bookmarks(marks, method="xep_0049")
    back = await romeo.client.plugin["xep_0048"].get_bookmarks(method="xep_0049")
    rooms = [c["jid"] for c in back["private"]["bookmarks"]["conferences"]]
    assert rooms == ["verona@conference.example.org"]
    private = other.client.summon(aioxmpp.private_xml.PrivateXMLService)
    bookmarks = other.client.summon(aioxmpp.BookmarkClient)
    assert [str(b.jid) for b in await bookmarks.get_bookmarks()] == rooms
    assert private is not None


async def test_the_small_queries_of_both(login: Login) -> None:
    romeo = await slix(login, f"{ROMEO}/orchard", "xep_0012", "xep_0092", "xep_0202")
    plugin = romeo.client.plugin
    version = await plugin["xep_0092"].get_version(slixmpp.JID("example.org"))
    assert version["software_version"]["name"] == "Beamish"
    time = await plugin["xep_0202"].get_entity_time(slixmpp.JID("example.org"))
    # the plugin cannot read what XEP-0202 wants (it adds a second "Z", and parses the offset as a date)
    assert parse_stamp(time.xml.findtext(".//{urn:xmpp:time}utc") or "") > 1_700_000_000
    assert (time.xml.findtext(".//{urn:xmpp:time}tzo") or "")[3] == ":"
    up = await plugin["xep_0012"].get_last_activity(slixmpp.JID("example.org"), local=False)
    assert 0 <= int(up["last_activity"]["seconds"]) < 600
    await romeo.becomes_available()
    last = await plugin["xep_0012"].get_last_activity(slixmpp.JID(ROMEO), local=False)
    assert int(last["last_activity"]["seconds"]) == 0
    other = await login("aioxmpp", f"{ROMEO}/phone")
    told = await aioxmpp.version.query_version(other.client, aioxmpp.JID.fromstr("example.org"))
    assert told.name == "Beamish"
