"""The rest of what slixmpp and aioxmpp have of their own for accounts and clients: every plugin that fits is used."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from beamish.modules.register import RegisterModule
from beamish.testing import LiveServer

from .test_account_features import befriend, slix

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what foreign code does at import is not ours to mend
    import aioxmpp
    import aioxmpp.adhoc
    import aioxmpp.chatstates
    import aioxmpp.errors
    import aioxmpp.forms
    import aioxmpp.mdr
    import aioxmpp.misc
    import aioxmpp.muc
    import aioxmpp.muc.xso
    import aioxmpp.private_xml
    import aioxmpp.private_xml.xso
    import aioxmpp.rsm.xso
    import aioxmpp.tracking
    import slixmpp
    import slixmpp.exceptions
    import slixmpp.plugins
    from slixmpp.plugins.xep_0059.rsm import ResultIterator
    from slixmpp.plugins.xep_0231 import BitsOfBinary

if TYPE_CHECKING:
    from tests.interop.conftest import Login

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:X509\.\w+ is deprecated:DeprecationWarning"),  # aioxmpp's use of pyOpenSSL
    pytest.mark.filterwarnings("ignore:send:DeprecationWarning"),  # and of itself
]
PATIENCE = 15.0
ROMEO, JULIET = "romeo@example.org", "juliet@example.org"
SERVER = "example.org"
PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 10
MAM = "urn:xmpp:mam:2"
CONTACT = "http://jabber.org/network/serverinfo"
SETTINGS: dict[str, Any] = {
    "server": {"admins": [ROMEO]},
    "modules": {
        "register": {"open": True, "captcha": "image"},
        "contact": {"abuse": ["mailto:abuse@example.org"], "support": ["xmpp:support@example.org?message"]},
        "policy": {"data_retention": "infinite"},
    },
}


@pytest_asyncio.fixture
async def live_server() -> AsyncIterator[LiveServer]:
    """A server that says whom to turn to, and lets those register who can read."""
    async with LiveServer(settings=SETTINGS) as made:
        yield made


async def test_privacy_lists_by_slixmpp(login: Login) -> None:
    juliet = await slix(login, f"{JULIET}/balcony", "xep_0016")
    romeo = await login("aioxmpp", f"{ROMEO}/orchard")
    for peer in (juliet, romeo):
        await peer.becomes_available()
    await befriend(juliet, romeo)
    privacy = juliet.client.plugin["xep_0016"]
    rule = {"type": "jid", "value": ROMEO, "action": "deny", "order": "1", "message": True}
    await privacy.edit_list("quiet", [rule], timeout=PATIENCE)
    listed = await privacy.get_privacy_lists(timeout=PATIENCE)
    assert [each["name"] for each in listed["privacy"]["lists"]] == ["quiet"]
    got = await privacy.get_list("quiet", timeout=PATIENCE)
    (item,) = got["privacy"]["list"]["items"]
    assert (item["type"], item["value"], item["action"], item["message"], item["iq"]) == (
        "jid",
        ROMEO,
        "deny",
        True,
        False,
    )
    await privacy.activate("quiet", timeout=PATIENCE)
    listed = await privacy.get_privacy_lists(timeout=PATIENCE)
    assert (listed["privacy"]["active"]["name"], listed["privacy"]["default"]["name"]) == ("quiet", "")
    romeo.say(juliet.jid, "Hist!")
    await romeo.ping(SERVER)
    await juliet.ping(SERVER)
    assert juliet.messages.empty()
    await privacy.make_default("quiet", timeout=PATIENCE)
    listed = await privacy.get_privacy_lists(timeout=PATIENCE)
    assert listed["privacy"]["default"]["name"] == "quiet"
    await privacy.deactivate(timeout=PATIENCE)
    await privacy.remove_default(timeout=PATIENCE)
    romeo.say(juliet.jid, "Hist again!")
    assert (await juliet.hears()).body == "Hist again!"
    await privacy.remove_list("quiet", timeout=PATIENCE)
    with pytest.raises(slixmpp.exceptions.IqError) as caught:
        await privacy.get_list("quiet", timeout=PATIENCE)
    assert caught.value.condition == "item-not-found"


async def test_a_report_by_slixmpp_is_read_by_an_administrator_of_aioxmpp(login: Login) -> None:
    juliet = await slix(login, f"{JULIET}/balcony", "xep_0191", "xep_0377")
    await juliet.client.plugin["xep_0377"].report(slixmpp.JID("iago@example.net"), "abuse", timeout=PATIENCE)
    assert await juliet.client.plugin["xep_0191"].get_blocked_jids() == {slixmpp.JID("iago@example.net")}
    romeo = await login("aioxmpp", f"{ROMEO}/orchard")
    client = romeo.client.summon(aioxmpp.AdHocClient)
    session = await client.execute(aioxmpp.JID.fromstr(SERVER), "urn:beamish:command:report.list")
    form = session.first_payload
    form.type_ = aioxmpp.forms.DataType.SUBMIT
    await session.proceed(action=aioxmpp.adhoc.ActionType.COMPLETE, payload=form)
    (report,) = session.first_payload.items
    told = {field.var: list(field.values) for field in report.fields}
    assert told["reporter"] == [JULIET] and told["jid"] == ["iago@example.net"]
    assert told["reason"] == ["urn:xmpp:reporting:abuse"]


async def test_the_directory_by_slixmpp(login: Login) -> None:
    romeo = await slix(login, f"{ROMEO}/orchard", "xep_0055", "xep_0050")
    commands = romeo.client.plugin["xep_0050"]
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def filled_in(iq: Any, session: dict[str, Any]) -> None:
        form = iq["command"]["form"]
        form["type"] = "submit"
        form.get_fields()["nick"]["value"] = "Rome"
        session["payload"] = form
        session["next"] = lambda answer, _session: done.set_result(answer["command"]["status"])
        commands.complete_command(session)

    session = {"next": filled_in, "error": lambda iq, _session: done.set_exception(AssertionError(str(iq)))}
    commands.start_command(SERVER, "urn:beamish:command:directory.publish", session)
    assert await asyncio.wait_for(done, PATIENCE) == "completed"
    ask = romeo.client.make_iq_get(ito=SERVER)
    ask.enable("search")
    fields = (await ask.send(timeout=PATIENCE))["search"]["form"].get_fields()
    assert {"first", "last", "nick", "email"} <= set(fields)
    iq = romeo.client.plugin["xep_0055"].make_search_iq(ito=SERVER)
    iq["search"]["form"].add_field(var="nick", value="ro")
    found = await iq.send(timeout=PATIENCE)
    form = found["search"]["form"]
    assert set(form.get_reported()) == {"first", "last", "nick", "email", "jid"}
    assert [item["jid"] for item in form.get_items()] == [ROMEO]


async def test_forms_in_disco_by_slixmpp(login: Login) -> None:
    romeo = await slix(login, f"{ROMEO}/orchard", "xep_0128")
    info = await romeo.client.plugin["xep_0030"].get_info(jid=SERVER, local=False, timeout=PATIENCE)
    forms = {}
    for form in info["disco_info"]["substanzas"]:
        if form.name == "x":
            values = form.get_values()
            (form_type,) = values.pop("FORM_TYPE")
            forms[form_type] = values
    assert forms[CONTACT]["abuse-addresses"] == ["mailto:abuse@example.org"]
    assert forms["urn:xmpp:data-policy:0"]["data_retention"] == "infinite"
    assert forms["urn:xmpp:dataforms:softwareinfo"]["software"] == "Beamish"


async def test_forms_in_disco_by_aioxmpp(login: Login) -> None:
    romeo = await login("aioxmpp", f"{ROMEO}/orchard")
    info = await romeo.client.summon(aioxmpp.DiscoClient).query_info(aioxmpp.JID.fromstr(SERVER))
    forms = {form.get_form_type(): {field.var: list(field.values) for field in form.fields} for form in info.exts}
    assert forms[CONTACT]["support-addresses"] == ["xmpp:support@example.org?message"]
    assert forms["urn:xmpp:data-policy:0"]["data_retention"] == ["infinite"]
    items = await romeo.client.summon(aioxmpp.DiscoClient).query_items(aioxmpp.JID.fromstr(SERVER))
    assert {"conference.example.org", "pubsub.example.org"} <= {str(item.jid) for item in items.items}


async def test_lists_in_pages_by_slixmpp(login: Login) -> None:
    romeo = await slix(login, f"{ROMEO}/orchard", "xep_0059", "xep_0045", "xep_0122", "xep_0313")
    rooms = romeo.client.plugin["xep_0045"]
    await romeo.becomes_available()
    for number in range(7):
        room = slixmpp.JID(f"room{number}@conference.example.org")
        await rooms.join_muc_wait(room, "romeo", timeout=PATIENCE)
        form = await rooms.get_room_config(room)
        form["type"] = "submit"
        await rooms.set_room_config(room, form)
    fields = (await romeo.client.plugin["xep_0313"].get_fields(timeout=PATIENCE)).get_fields()
    validate = fields["ids"]["validate"]
    assert (validate["datatype"], validate["open"]) == ("xs:string", True), (
        "any id may be asked for, they are not listed"
    )
    query = romeo.client.make_iq_get(ito="conference.example.org")
    query.enable("disco_items")
    pages = []
    async for page in ResultIterator(query, "disco_items", amount=3):
        pages.append(sorted(item[0] for item in page["disco_items"]["items"]))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [room for page in pages for room in page] == [f"room{number}@conference.example.org" for number in range(7)]


class Query(aioxmpp.xso.XSO):
    """A question to an archive: only its pages are of interest."""

    TAG = (MAM, "query")
    rsm = aioxmpp.xso.Child([aioxmpp.rsm.xso.ResultSetMetadata])


class Fin(aioxmpp.xso.XSO):
    """The answer."""

    TAG = (MAM, "fin")
    UNKNOWN_ATTR_POLICY = aioxmpp.xso.UnknownAttrPolicy.DROP
    rsm = aioxmpp.xso.Child([aioxmpp.rsm.xso.ResultSetMetadata])


aioxmpp.IQ.as_payload_class(Query)
aioxmpp.IQ.as_payload_class(Fin)


async def test_pages_of_an_archive_by_aioxmpp(login: Login) -> None:
    romeo = await login("aioxmpp", f"{ROMEO}/orchard")
    for number in range(5):
        romeo.say(JULIET, f"number {number}")
    await romeo.ping(SERVER)

    async def page(metadata: Any) -> Any:
        query = Query()
        query.rsm = metadata
        return (await romeo.client.send(aioxmpp.IQ(aioxmpp.IQType.SET, payload=query))).rsm

    first = await page(aioxmpp.rsm.xso.ResultSetMetadata.fetch_page(0, max_=2))
    second = await page(first.next_page(max_=2))
    third = await page(second.next_page(max_=2))
    back = await page(third.previous_page(max_=2))
    last = await page(aioxmpp.rsm.xso.ResultSetMetadata.last_page(max_=1))
    assert first.count == 5 and first.first.index == 0 and second.first.index == 2
    assert (back.first.value, back.last.value) == (second.first.value, second.last.value)
    assert third.first.value == third.last.value == last.last.value


@aioxmpp.private_xml.xso.Query.as_payload_class
class Preferences(aioxmpp.xso.XSO):
    """What some client might store."""

    TAG = ("urn:example:preferences", "preferences")
    colour = aioxmpp.xso.Attr("colour", default=None)


async def test_private_storage_by_aioxmpp(login: Login) -> None:
    romeo = await login("aioxmpp", f"{ROMEO}/orchard")
    storage = romeo.client.summon(aioxmpp.private_xml.PrivateXMLService)
    mine = Preferences()
    assert (await storage.get_private_xml(Preferences())).registered_payload.colour is None
    mine.colour = "green"
    await storage.set_private_xml(mine)
    assert (await storage.get_private_xml(Preferences())).registered_payload.colour == "green"


async def test_bookmarks_of_slixmpp_in_every_way(login: Login) -> None:
    """Private XML (0049), the account's node of 0048 (by 0223), and 0402: one list."""
    romeo = await slix(login, f"{ROMEO}/orchard", "xep_0048", "xep_0049", "xep_0223", "xep_0060")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        romeo.client.register_plugin("xep_0402")
    bookmarks, pubsub = romeo.client.plugin["xep_0048"], romeo.client.plugin["xep_0060"]
    marks = bookmarks.stanza.Bookmarks()
    marks.add_conference("verona@conference.example.org", "romeo", name="Verona", autojoin=True)
    await bookmarks.set_bookmarks(marks, method="xep_0223", id="current", timeout=PATIENCE)
    private = await bookmarks.get_bookmarks(method="xep_0049", timeout=PATIENCE)
    assert [c["jid"] for c in private["private"]["bookmarks"]["conferences"]] == ["verona@conference.example.org"]
    native = await pubsub.get_items(ROMEO, "urn:xmpp:bookmarks:1", timeout=PATIENCE)
    (item,) = native["pubsub"]["items"]
    assert (item["id"], item["conference"]["name"]) == ("verona@conference.example.org", "Verona")
    assert item["conference"]["autojoin"] is True and item["conference"]["nick"] == "romeo"
    conference = type(item["conference"])()
    conference["name"] = "Mantua"
    await pubsub.publish(ROMEO, "urn:xmpp:bookmarks:1", id="mantua@conference.example.org", payload=conference.xml)
    listed = await bookmarks.get_bookmarks(method="xep_0223", timeout=PATIENCE)
    rooms = {c["jid"] for c in listed["pubsub"]["items"]["item"]["bookmarks"]["conferences"]}
    assert rooms == {"verona@conference.example.org", "mantua@conference.example.org"}


async def test_profiles_of_both_kinds_by_slixmpp(login: Login) -> None:
    """0292 by its publisher, read as vcard-temp (0054); a picture set by 0153 is an avatar of 0084."""
    romeo = await slix(login, f"{ROMEO}/orchard", "xep_0292", "xep_0054", "xep_0153", "xep_0084")
    juliet = await slix(login, f"{JULIET}/balcony", "xep_0292", "xep_0054", "xep_0084", "xep_0060")
    for peer in (romeo, juliet):
        await peer.becomes_available()
    await befriend(romeo, juliet)
    options = romeo.client.plugin["xep_0004"].make_form("submit")
    options.add_field("FORM_TYPE", "hidden", value="http://jabber.org/protocol/pubsub#publish-options")
    options.add_field("pubsub#access_model", value="open")
    # the plugin's own choice of a node is not that of XEP-0292 §4
    await romeo.client.plugin["xep_0292"].publish_vcard(
        full_name="Romeo Montague", birthday=date(1580, 7, 1), node="urn:xmpp:vcard4", options=options, timeout=PATIENCE
    )
    got = await juliet.client.plugin["xep_0060"].get_item(ROMEO, "urn:xmpp:vcard4", "current", timeout=PATIENCE)
    assert got["pubsub"]["items"]["item"]["vcard"]["full_name"] == "Romeo Montague"
    temp = await juliet.client.plugin["xep_0054"].get_vcard(slixmpp.JID(ROMEO), local=False, timeout=PATIENCE)
    assert temp["vcard_temp"]["FN"] == "Romeo Montague"
    # slixmpp puts the name of the account into the presence it sends again: what counts is what it has set
    with suppress(slixmpp.exceptions.IqError):
        await romeo.client.plugin["xep_0153"].set_avatar(avatar=PNG, mtype="image/png", timeout=PATIENCE)
    metadata = await juliet.client.plugin["xep_0060"].get_items(ROMEO, "urn:xmpp:avatar:metadata", timeout=PATIENCE)
    (item,) = metadata["pubsub"]["items"]
    data = await juliet.client.plugin["xep_0084"].retrieve_avatar(ROMEO, item["id"], timeout=PATIENCE)
    assert data["pubsub"]["items"]["item"]["avatar_data"]["value"] == PNG


EVENTS = {
    "xep_0118": ("user_tune", lambda plugin: plugin.publish_tune(artist="Yes", title="Heart of the Sunrise")),
    "xep_0107": ("user_mood", lambda plugin: plugin.publish_mood("in_love", "so much")),
    "xep_0108": ("user_activity", lambda plugin: plugin.publish_activity("relaxing", "partying")),
    "xep_0080": ("user_location", lambda plugin: plugin.publish_location(country="Italy", locality="Verona")),
    "xep_0172": ("user_nick", lambda plugin: plugin.publish_nick("Rome")),
    "xep_0084": (
        "avatar_metadata",
        lambda plugin: plugin.publish_avatar_metadata([{"id": "1", "type": "image/png", "bytes": "1"}]),
    ),
}
"""Plugin → its event, and how it publishes."""


async def test_the_six_personal_events_by_slixmpp(login: Login) -> None:
    """Tune, mood, activity, location, nickname, avatar: each by its plugin, published and received (0163)."""
    romeo = await slix(login, f"{ROMEO}/orchard", *EVENTS)
    juliet = await slix(login, f"{JULIET}/balcony", *EVENTS)
    arrived: dict[str, asyncio.Future[Any]] = {}
    for plugin, (event, _) in EVENTS.items():
        arrived[plugin] = asyncio.get_running_loop().create_future()

        def note(message: Any, plugin: str = plugin) -> None:
            if message["from"].bare == ROMEO and not arrived[plugin].done():
                arrived[plugin].set_result(message)

        juliet.client.add_event_handler(f"{event}_publish", note)
    for peer in (romeo, juliet):
        await peer.client.plugin["xep_0115"].update_caps()
        await peer.becomes_available()
    await befriend(romeo, juliet)
    for plugin, (_, publish) in EVENTS.items():
        await publish(romeo.client.plugin[plugin])
        message = await asyncio.wait_for(arrived[plugin], PATIENCE)
        assert message["pubsub_event"]["items"]["item"]["payload"] is not None
    tune = (await arrived["xep_0118"])["pubsub_event"]["items"]["item"]["tune"]
    assert (tune["artist"], tune["title"]) == ("Yes", "Heart of the Sunrise")


async def test_registration_with_an_image_by_slixmpp(live_server: LiveServer) -> None:
    """0077 with the form of 0158: the picture is found by 0221 and read by 0231, the form filled in by 0004."""
    client = slixmpp.ClientXMPP("tybalt@example.org/street", "prince of cats")
    client.ca_certs = live_server.ca
    client.enable_plaintext = False
    for plugin in ("xep_0004", "xep_0077", "xep_0122", "xep_0221", "xep_0231"):
        client.register_plugin(plugin)
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    seen: list[bytes] = []

    async def fill_in(iq: Any) -> None:
        form = iq["register"]["form"]
        fields = form.get_fields()
        assert fields["username"]["required"] and fields["password"]["type"] == "text-private"
        (uri,) = fields["ocr"]["media"]["uris"]
        # the library sends nothing but registration before it has logged in; the picture has come with the form
        data = iq["register"].xml.find("{urn:xmpp:bob}data")
        bob = BitsOfBinary(xml=data)
        assert uri["value"] == f"cid:{bob['cid']}" and bob["type"] == "image/png"
        seen.append(bob["data"])
        module = live_server.kernel.registry.module(RegisterModule)
        (letters,) = [v.challenge.letters for v in module._visits.values() if v.challenge is not None]
        form["type"] = "submit"
        form.set_values({"username": "tybalt", "password": client.password, "ocr": letters})
        reply = client.make_iq_set()
        reply["register"].append(form)
        await reply.send(timeout=PATIENCE)

    client.add_event_handler("register", fill_in)
    client.add_event_handler("session_start", lambda _: started.done() or started.set_result(str(client.boundjid)))
    client.add_event_handler("failed_all_auth", lambda _: started.done() or started.set_exception(PermissionError()))
    client.connect(live_server.host, live_server.port)
    assert await asyncio.wait_for(started, PATIENCE) == "tybalt@example.org/street"
    assert seen[0].startswith(b"\x89PNG")
    client.cancel_connection_attempt()
    await asyncio.wait_for(client.disconnect(), PATIENCE)
    for task in (client._run_out_filters, client._current_connection_attempt):
        if task is not None:
            task.cancel()


async def test_states_receipts_and_rich_text_between_the_two(login: Login) -> None:
    """0085, 0184 and 0071, each by the plugin of the library."""
    romeo = await slix(login, f"{ROMEO}/orchard", "xep_0085", "xep_0184", "xep_0071")
    juliet = await login("aioxmpp", f"{JULIET}/balcony")
    receipts = juliet.client.summon(aioxmpp.mdr.DeliveryReceiptsService)
    for peer in (romeo, juliet):
        await peer.becomes_available()
    states: asyncio.Queue[str] = asyncio.Queue()
    romeo.client.add_event_handler("chatstate", lambda message: states.put_nowait(message["chat_state"]))
    for state in aioxmpp.chatstates.ChatState:
        message = aioxmpp.Message(type_=aioxmpp.MessageType.CHAT, to=aioxmpp.JID.fromstr(romeo.jid))
        message.xep0085_chatstate = state
        juliet.client.enqueue(message)
        assert await asyncio.wait_for(states.get(), PATIENCE) == state.value[1]
    # aioxmpp asks, slixmpp's plugin answers by itself
    message = aioxmpp.Message(type_=aioxmpp.MessageType.CHAT, to=aioxmpp.JID.fromstr(romeo.jid))
    message.body[None] = "Art thou there?"
    delivered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tracker = receipts.attach_tracker(message)

    def changed(state: Any, *_: object) -> None:
        if state == aioxmpp.tracking.MessageState.DELIVERED_TO_RECIPIENT and not delivered.done():
            delivered.set_result(None)

    tracker.on_state_changed.connect(changed)
    juliet.client.enqueue(message)
    await asyncio.wait_for(delivered, PATIENCE)
    # slixmpp asks, aioxmpp composes the answer
    acknowledged: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    romeo.client.add_event_handler("receipt_received", lambda m: acknowledged.set_result(m["receipt"]))
    rich = romeo.client.make_message(juliet.jid, mbody="Wow", mtype="chat")
    rich["id"] = "rich1"
    rich["html"]["body"] = "<p>I'm <em>green</em></p>"
    rich["request_receipt"] = True
    received: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    dispatcher = juliet.client.summon(aioxmpp.dispatcher.SimpleMessageDispatcher)
    dispatcher.unregister_callback(None, None)
    dispatcher.register_callback(None, None, lambda m: received.done() or received.set_result(m))
    rich.send()
    juliet.client.enqueue(aioxmpp.mdr.compose_receipt(await asyncio.wait_for(received, PATIENCE)))
    assert await asyncio.wait_for(acknowledged, PATIENCE) == "rich1"
    back = romeo.client.make_message(romeo.jid, mbody="Wow", mtype="chat")
    back["html"]["body"] = "<p>I'm <em>green</em></p>"
    own: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    romeo.client.add_event_handler("message", lambda m: own.done() or own.set_result(m))
    back.send()
    assert "<em>green</em>" in (await asyncio.wait_for(own, PATIENCE))["html"]["body"]


async def test_a_contact_by_a_token_of_aioxmpp(login: Login) -> None:
    """0379 by aioxmpp's element, with a token that slixmpp got by 0050."""
    juliet = await slix(login, f"{JULIET}/balcony", "xep_0050", "xep_0004")
    await juliet.becomes_available()
    done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    session = {
        "next": lambda iq, _session: done.set_result(iq["command"]["form"].get_values()),
        "error": lambda iq, _session: done.set_exception(AssertionError(str(iq))),
    }
    juliet.client.plugin["xep_0050"].start_command(SERVER, "urn:xmpp:invite#invite", session)
    uri = (await asyncio.wait_for(done, PATIENCE))["uri"]
    token = re.search(r"preauth=([a-z0-9]+)", uri)
    assert token is not None
    benvolio = await login("aioxmpp", "benvolio@example.net/street")
    await benvolio.becomes_available()
    request = aioxmpp.Presence(type_=aioxmpp.PresenceType.SUBSCRIBE, to=aioxmpp.JID.fromstr(JULIET))
    request.xep0379_preauth = aioxmpp.misc.Preauth()
    request.xep0379_preauth.token = token[1]
    benvolio.client.enqueue(request)
    await benvolio.sees(JULIET, "subscribed")
    await benvolio.sees(juliet.jid, "available")


async def test_forms_of_rooms_by_aioxmpp(login: Login) -> None:
    """0004 with aioxmpp's forms: a form of many fields is read, filled in and accepted."""
    romeo = await login("aioxmpp", f"{ROMEO}/orchard")
    await romeo.becomes_available()
    muc = romeo.client.summon(aioxmpp.MUCClient)
    room, entered = muc.join(aioxmpp.JID.fromstr("square@conference.example.org"), "romeo")
    await asyncio.wait_for(entered, PATIENCE)
    form = await muc.get_room_config(room.jid)
    template = aioxmpp.muc.xso.ConfigurationForm.from_xso(form)
    template.moderatedroom.value = True
    template.roomname.value = "The square"
    await muc.set_room_config(room.jid, template.render_reply())
    again = aioxmpp.muc.xso.ConfigurationForm.from_xso(await muc.get_room_config(room.jid))
    assert again.moderatedroom.value is True and again.roomname.value == "The square"


NUMBERS = """
    4 12 16 30 33 48 49 50 54 55 59 68 71 77 79 80 82 84 85 92 107 108 115 118 122 128 133 136 153 157 158 163 172 184 191
    202 215 221 222 223 231 232 292 313 377 379 390 398 401 402 411 441 445 504
"""
XEPS = frozenset(map(int, NUMBERS.split()))
"""What accounts and clients expect of their server, as far as it is a protocol."""
PARTS = {
    82: "formats of times, used by other plugins",
    222: "0060 with certain options: slixmpp's 0223, its sibling, is used",
}
"""Plugins that are no use alone."""


def test_every_plugin_that_slixmpp_has_for_these_is_used() -> None:
    """The other way round: of those without one, the plays are in tests/scenarios/rows."""
    installed = {path.name[4:8] for path in Path(slixmpp.plugins.__file__ or "").parent.glob("xep_*")}
    here = Path(__file__).parent
    sources = [*here.glob("*.py"), here.parent / "modules" / "pubsub" / "test_foreign_clients.py"]
    text = "\n".join(path.read_text() for path in sources)
    wanted = {number for number in XEPS - PARTS.keys() if f"{number:04}" in installed}
    assert {number for number in wanted if f'"xep_{number:04}"' not in text} == set()
    without = sorted(XEPS - {int(name) for name in installed if name.isdigit()})
    assert without == [68, 136, 157, 158, 215, 232, 379, 390, 398, 401, 411, 445, 504]


SERVICES = (
    *(
        "adhoc",
        "avatar",
        "blocking",
        "bookmarks",
        "chatstates",
        "disco",
        "entitycaps",
        "forms",
        "ibr",
        "mdr",
        "misc",
        "muc",
    ),
    *("pep", "ping", "private_xml", "pubsub", "roster", "rsm", "vcard", "version"),
)
"""What aioxmpp has that these need of a server."""
NAMES = {
    "blocking": "aioxmpp.BlockingClient",
    "disco": "aioxmpp.DiscoClient",
    "roster": "aioxmpp.RosterClient",
    "pep": "aioxmpp.PEPClient",
    "avatar": "aioxmpp.AvatarService",
    "bookmarks": "aioxmpp.BookmarkClient",
}


def test_every_service_that_aioxmpp_has_for_these_is_used() -> None:
    """See above."""
    folder = Path(aioxmpp.__file__).parent
    here = Path(__file__).parent
    sources = [*here.glob("*.py"), here.parent / "modules" / "pubsub" / "test_foreign_clients.py"]
    text = "\n".join(path.read_text() for path in sources)
    assert [name for name in SERVICES if not (folder / name).is_dir()] == []
    assert [name for name in SERVICES if NAMES.get(name, f"aioxmpp.{name}.") not in text] == []
    # of the rest: transports, other XEPs, and what is no protocol
    others = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("_")} - set(SERVICES)
    assert others == {"benchtest", "carbons", "e2etest", "httpupload", "ibb", "im", "presence", "shim", "xso"}
