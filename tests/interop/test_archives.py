"""slixmpp's and aioxmpp's own plugins for archives, carbons and client state, over real sockets."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what foreign code does at import is not ours to mend
    import aioxmpp
    import aioxmpp.carbons
    import aioxmpp.carbons.xso
    import slixmpp

if TYPE_CHECKING:
    from tests.interop.conftest import Login

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:X509\.\w+ is deprecated:DeprecationWarning"),  # aioxmpp's use of pyOpenSSL
]
ROMEO, JULIET = "romeo@example.org", "juliet@example.org"
PATIENCE = 15.0


async def slix(login: Login, address: str, *plugins: str) -> Any:
    """A slixmpp client with more plugins."""
    peer = await login("slixmpp", address)
    for plugin in plugins:
        peer.client.register_plugin(plugin)
    return peer


def forwarded(found: Any) -> Any:
    return found["mam_result"]["forwarded"]["stanza"]


async def test_slixmpp_reads_its_archive(login: Login) -> None:
    romeo = await slix(login, f"{ROMEO}/r", "xep_0313", "xep_0441", "xep_0059")
    juliet = await login("aioxmpp", f"{JULIET}/b")
    await juliet.becomes_available()
    for n in range(25):
        romeo.say(JULIET, f"number {n}")
        assert (await juliet.hears()).body == f"number {n}"
    mam = romeo.client.plugin["xep_0313"]
    first = await mam.retrieve(with_jid=slixmpp.JID(JULIET), rsm={"max": 10})
    assert [forwarded(m)["body"] for m in first["mam"]["results"]] == [f"number {n}" for n in range(10)]
    assert first["mam_fin"]["rsm"]["count"] == "25"
    every = [forwarded(m)["body"] async for m in mam.iterate(rsm={"max": 7})]
    assert every == [f"number {n}" for n in range(25)]
    last = [forwarded(m)["body"] async for m in mam.iterate(rsm={"max": 7}, reverse=True, total=10)]
    assert last == [f"number {n}" for n in range(24, 14, -1)]
    fields = {field["var"] for field in (await mam.get_fields())["fields"]}
    assert {"with", "start", "end", "before-id", "after-id", "ids", "{urn:xmpp:fulltext:0}fulltext"} <= fields
    metadata = (await mam.get_archive_metadata())["mam_metadata"]
    assert metadata["start"]["id"] == first["mam"]["results"][0]["mam_result"]["id"]
    assert metadata["end"]["timestamp"] >= metadata["start"]["timestamp"]
    prefs = romeo.client.plugin["xep_0441"]
    await prefs.set_preferences("never", always=[slixmpp.JID(JULIET)], never=[])
    default, always, never = await prefs.get_preferences()
    assert (default, {str(j) for j in always}, set(never)) == ("never", {JULIET}, set())


async def test_slixmpp_retracts(login: Login) -> None:
    romeo = await slix(login, f"{ROMEO}/r", "xep_0313", "xep_0424")
    romeo.client.send_message(mto=JULIET, mbody="regretted", mtype="chat")
    mam = romeo.client.plugin["xep_0313"]
    (before,) = (await mam.retrieve())["mam"]["results"]
    romeo.client.plugin["xep_0424"].send_retraction(slixmpp.JID(JULIET), forwarded(before)["id"])
    tombstone, _ = (await mam.retrieve())["mam"]["results"]
    assert tombstone["mam_result"]["id"] == before["mam_result"]["id"]
    assert forwarded(tombstone)["body"] == ""
    assert forwarded(tombstone).xml.find("{urn:xmpp:message-retract:1}retracted") is not None


async def test_carbons_in_both_libraries(login: Login) -> None:
    desk = await slix(login, f"{ROMEO}/desk", "xep_0280")
    phone = await login("aioxmpp", f"{ROMEO}/phone")
    juliet = await login("slixmpp", f"{JULIET}/b")
    for peer in (desk, phone, juliet):
        await peer.becomes_available()
    seen: asyncio.Queue[tuple[str, str]] = asyncio.Queue(100)
    for kind in ("sent", "received"):

        def note(message: Any, kind: str = kind) -> None:
            seen.put_nowait((f"desk {kind}", message[f"carbon_{kind}"]["body"]))

        desk.client.add_event_handler(f"carbon_{kind}", note)
    await desk.client.plugin["xep_0280"].enable()

    def filtered(message: Any) -> Any:
        for kind in ("sent", "received"):
            copy = getattr(message, f"xep0280_{kind}")
            if copy is not None:
                seen.put_nowait((f"phone {kind}", copy.stanza.body.any()))
        return message

    phone.client.stream.app_inbound_message_filter.register(filtered, 0)
    await phone.client.summon(aioxmpp.CarbonsClient).enable()

    async def next_copies(count: int) -> set[tuple[str, str]]:
        return {await asyncio.wait_for(seen.get(), PATIENCE) for _ in range(count)}

    desk.say(f"{JULIET}/b", "from the desk")
    assert await next_copies(1) == {("phone sent", "from the desk")}
    phone.say(f"{JULIET}/b", "from the phone")
    assert await next_copies(1) == {("desk sent", "from the phone")}
    juliet.say(f"{ROMEO}/desk", "to the desk")
    juliet.say(f"{ROMEO}/phone", "to the phone")
    assert await next_copies(2) == {("phone received", "to the desk"), ("desk received", "to the phone")}
    await desk.client.plugin["xep_0280"].disable()
    phone.say(f"{JULIET}/b", "unseen")
    juliet.say(f"{ROMEO}/desk", "end")
    assert await next_copies(1) == {("phone received", "end")}


async def test_slixmpp_is_left_in_peace_while_inactive(login: Login) -> None:
    phone = await slix(login, f"{JULIET}/phone", "xep_0352")
    romeo = await login("aioxmpp", f"{ROMEO}/r")
    for peer in (phone, romeo):
        await peer.becomes_available()
    for asking, asked in ((romeo, phone), (phone, romeo)):
        asking.presence("subscribe", to=asked.bare)
        await asked.sees(asking.bare, "subscribe")
        asked.presence("subscribed", to=asking.bare)
        await asking.sees(asked.jid, "available")
    order: asyncio.Queue[str] = asyncio.Queue(100)
    phone.client.add_event_handler("presence", lambda p: order.put_nowait(f"presence {p['priority']}"))
    phone.client.add_event_handler("message", lambda m: order.put_nowait(f"message {m['body']}"))
    csi = phone.client.plugin["xep_0352"]
    csi.enabled = True  # the plugin came after the stream's features
    csi.send_inactive()
    await phone.ping("example.org")
    for priority in (1, 2, 3):
        romeo.presence(priority=priority)
    await romeo.ping("example.org")
    assert order.empty()
    romeo.say(f"{JULIET}/phone", "wake up")
    found = [await asyncio.wait_for(order.get(), PATIENCE) for _ in range(2)]
    assert found == ["presence 3", "message wake up"]
    romeo.presence(priority=4)
    await romeo.ping("example.org")
    csi.send_active()
    assert await asyncio.wait_for(order.get(), PATIENCE) == "presence 4"
