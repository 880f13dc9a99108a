"""What people show of themselves and to whom: profiles, privacy lists, blocking, personal events."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.xmpp.xml import Element

from .kit import archive, capabilities, condition, copies, features, kind, tell
from .stage import ORG, Stage

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 10
PUBSUB = "http://jabber.org/protocol/pubsub"
UPDATE = "{vcard-temp:x:update}"


async def test_row_20_vcard(stage: Stage) -> None:
    """Set, read as contact from another domain, restart, read again; size limit answers `policy-violation`."""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    phone = await stage.login("romeo@example.org/phone", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await stage.befriend(romeo, benvolio)
    photo = f"<PHOTO><TYPE>image/png</TYPE><BINVAL>{base64.b64encode(PNG).decode()}</BINVAL></PHOTO>"
    card = f"<vCard xmlns='vcard-temp'><FN>Romeo Montague</FN><NICKNAME>Rome</NICKNAME>{photo}</vCard>"
    wanted = f"<iq from='romeo@example.org'>{card}</iq>"
    get = "<iq type='get' id='g' to='romeo@example.org'><vCard xmlns='vcard-temp'/></iq>"
    assert "vcard-temp" in await features(benvolio, "romeo@example.org")
    assert condition(await benvolio.iq(get, "error")) == "service-unavailable", (
        "nothing yet, and nobody else learns more"
    )
    mine = "<iq type='get' id='m'><vCard xmlns='vcard-temp'/></iq>"
    assert not mismatch("<iq type='result'><vCard xmlns='vcard-temp'/></iq>", empty := await romeo.iq(mine))
    assert len(empty[0]) == 0

    await romeo.iq(f"<iq type='set' id='s'>{card}</iq>")
    assert mismatch(wanted, await benvolio.iq(get)) == ""
    hash_ = hashlib.sha1(PNG).hexdigest()
    for sender in (romeo, phone):  # the picture is in everybody's presence
        seen = await stage.seek(
            benvolio,
            f"<presence from='{sender.jid}'><x xmlns='vcard-temp:x:update'><photo>{hash_}</photo></x></presence>",
        )
        assert seen.get("type") is None
    theft = f"<iq type='set' id='t' to='romeo@example.org'>{card}</iq>"
    assert condition(await benvolio.iq(theft, "error")) == "forbidden"

    await stage.restart()
    benvolio_again = await stage.login("benvolio@example.net/square", presence=True)
    assert mismatch(wanted, await benvolio_again.iq(get)) == ""
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    assert mismatch(f"<iq>{card}</iq>", await romeo.iq(mine)) == ""

    large = f"<vCard xmlns='vcard-temp'><NOTE>{'x' * 200_000}</NOTE></vCard>"
    assert condition(await romeo.iq(f"<iq type='set' id='l'>{large}</iq>", "error")) == "policy-violation"
    assert mismatch(wanted, await benvolio.iq(get)) == "", "what was there stays"


async def privacy(client: Client, inner: str, type: str = "set", answer: str = "result") -> Element:
    return await client.iq(f"<iq type='{type}' id='pl'><query xmlns='jabber:iq:privacy'>{inner}</query></iq>", answer)


KINDS = ("message", "iq", "presence-in", "presence-out")


async def passes(stage: Stage, juliet: Client, other: Client) -> set[str]:
    """Which kinds of stanzas get through between Juliet and somebody: what the rules of privacy lists are about."""
    await stage.clear()
    other.send(f"<message to='{juliet.jid}' id='through' type='chat'><body>hi</body></message>")
    other.send(f"<iq type='get' id='through' to='{juliet.jid}'><ping xmlns='urn:xmpp:ping'/></iq>")
    other.send("<presence><status>through</status></presence>")
    await stage.quiet()
    juliet.send("<presence><status>through</status></presence>")
    got = set()
    for el in await stage.take(juliet):
        if el.get("from") == other.jid:
            through = el.get("id") == "through" or el.findtext("{jabber:client}status") == "through"
            got |= {{"presence": "presence-in"}.get(kind(el), kind(el))} if through else set()
    for el in await stage.take(other):
        if kind(el) == "presence" and el.get("from") == juliet.jid and el.get("type") is None:
            got.add("presence-out")
    return got


async def test_row_21_privacy_lists(stage: Stage) -> None:
    """Active/default lists; deny rules by jid, group, subscription, domain for message / iq / presence-in / presence-out;
    push on edit."""
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    tablet = await stage.login("juliet@example.org/tablet", priority=-1)
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await stage.befriend(juliet, romeo)
    await stage.befriend(juliet, benvolio)
    item = "<item jid='romeo@example.org'><group>Montagues</group></item>"
    await juliet.iq(f"<iq type='set' id='r'><query xmlns='jabber:iq:roster'>{item}</query></iq>")
    stage.reach[juliet] = stage.reach[tablet] = (ORG,)  # the other domain will be denied to answer her
    both = {romeo: set(KINDS), benvolio: set(KINDS)}
    assert {other: await passes(stage, juliet, other) for other in both} == both

    push = "<iq type='set' id='*'><query xmlns='jabber:iq:privacy'><list name='play'/></query></iq>"
    rules: list[tuple[str, Callable[[Client], bool]]] = [
        ("type='jid' value='romeo@example.org'", lambda other: other is romeo),
        ("type='jid' value='romeo@example.org/orchard'", lambda other: other is romeo),
        ("type='jid' value='example.net'", lambda other: other is benvolio),
        ("type='group' value='Montagues'", lambda other: other is romeo),
        ("type='subscription' value='both'", lambda _: True),
        ("type='subscription' value='none'", lambda _: False),
        ("", lambda _: True),
    ]
    used = False
    for about, concerns in rules:
        for denied in KINDS:
            entry = f"<item {about} action='deny' order='1'><{denied}/></item>"
            await privacy(juliet, f"<list name='play'>{entry}</list>")
            for device in (juliet, tablet):
                await stage.seek(device, push)
            if not used:
                await privacy(juliet, "<active name='play'/>")
                used = True
            for other in (romeo, benvolio):
                # presence is broadcast to bare addresses: a rule about one resource does not hide the user from it
                hidden = concerns(other) and not (denied == "presence-out" and "/orchard" in about)
                wanted = set(KINDS) - ({denied} if hidden else set())
                assert await passes(stage, juliet, other) == wanted, (about, denied, other.jid)

    # in order, the first rule that fits; allowed before denied
    allow = "<item type='jid' value='romeo@example.org' action='allow' order='1'/><item action='deny' order='2'/>"
    await privacy(juliet, f"<list name='play'>{allow}</list>")
    assert await passes(stage, juliet, romeo) == set(KINDS) and await passes(stage, juliet, benvolio) == set()
    # an active list is its session's alone, the default one is everybody's who has none
    assert (
        mismatch(
            "<iq><query xmlns='jabber:iq:privacy'><active name='play'/></query></iq>", await privacy(juliet, "", "get")
        )
        == ""
    )
    other_device = await privacy(tablet, "", "get")
    assert other_device.find(".//{jabber:iq:privacy}active") is None
    deny = "<item type='jid' value='romeo@example.org' action='deny' order='1'/>"
    await privacy(juliet, f"<list name='shared'>{deny}</list>")
    await privacy(juliet, "<active/>")
    await privacy(juliet, "<default name='shared'/>")
    assert await passes(stage, juliet, romeo) == set() and await passes(stage, juliet, benvolio) == set(KINDS)
    await stage.restart()
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    stage.reach[juliet] = (ORG,)
    listed = await privacy(juliet, "", "get")
    names = [(kind(el), el.get("name")) for el in listed[0]]
    assert names == [("default", "shared"), ("list", "play"), ("list", "shared")]
    assert await passes(stage, juliet, romeo) == set()
    # who is shut out finds out no more than of somebody who is not there
    romeo.send(f"<message to='{juliet.jid}' id='shut' type='chat'><body>hi</body></message>")
    assert condition(await stage.seek(romeo, "<message id='shut' type='error'/>")) == "service-unavailable"
    await privacy(juliet, "<default/>")
    assert await passes(stage, juliet, romeo) == set(KINDS)


async def test_row_22_blocking_command(stage: Stage) -> None:
    """Block a domain: no stanza in or out, contact sees offline; second device gets the push; unblock restores presence;
    shares one store with row 21."""
    blocking = "urn:xmpp:blocking"
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    phone = await stage.login("juliet@example.org/phone", presence=True)
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    await copies(phone)
    await stage.befriend(juliet, benvolio)
    await stage.befriend(juliet, romeo)
    assert blocking in await features(juliet, "example.org")
    for device in (juliet, phone):
        await device.iq(f"<iq type='get' id='list'><blocklist xmlns='{blocking}'/></iq>")

    item = "<item jid='example.net'/>"
    stage.reach[juliet] = stage.reach[phone] = (ORG,)
    await juliet.iq(f"<iq type='set' id='b'><block xmlns='{blocking}'>{item}</block></iq>")
    for device in (juliet, phone):
        await stage.seek(device, f"<iq type='set' from='!' id='*'><block xmlns='{blocking}'>{item}</block></iq>")
    for device in (juliet, phone):
        await stage.seek(benvolio, f"<presence from='{device.jid}' type='unavailable'/>")
    await stage.clear()

    async def nothing_passes() -> None:
        # nothing in
        benvolio.send("<message to='juliet@example.org' id='in' type='chat'><body>hi</body></message>")
        assert condition(await benvolio.expect("<message id='in' type='error'/>")) == "service-unavailable"
        for to in (juliet.jid, "juliet@example.org"):
            ping = f"<iq type='get' id='in' to='{to}'><ping xmlns='urn:xmpp:ping'/></iq>"
            assert condition(await benvolio.iq(ping, "error")) == "service-unavailable"
        benvolio.send("<presence><show>away</show></presence>")
        benvolio.send(f"<presence to='{juliet.jid}'/>")
        benvolio.send("<presence to='juliet@example.org' type='probe'/>")
        benvolio.send("<presence to='juliet@example.org' type='subscribe'/>")
        # nothing out
        juliet.send("<presence><show>dnd</show></presence>")
        for name, attributes in (("message", "type='chat'"), ("iq", "type='get'")):
            payload = "<body>hi</body>" if name == "message" else "<ping xmlns='urn:xmpp:ping'/>"
            juliet.send(f"<{name} to='{benvolio.jid}' id='out' {attributes}>{payload}</{name}>")
            refused = await stage.seek(
                juliet, f"<{name} id='out' type='error'><error><blocked xmlns='{blocking}:errors'/></error></{name}>"
            )
            assert condition(refused) == "not-acceptable"
        seen = [
            el
            for el in await stage.take(benvolio)
            if el.get("from", "").startswith("juliet") and el.get("type") != "unavailable"
        ]
        assert seen == []
        heard = [
            el for device in (juliet, phone) for el in await stage.take(device) if "example.net" in el.get("from", "")
        ]
        assert heard == []

    await nothing_passes()
    romeo.send("<message to='juliet@example.org' id='r' type='chat'><body>hi</body></message>")
    for device in (juliet, phone):
        await stage.seek(device, "<message id='r'/>")

    # the same store as privacy lists
    lists = await privacy(juliet, "", "get")
    (default,) = [el.get("name") for el in lists[0] if kind(el) == "default"]
    shown = await privacy(juliet, f"<list name='{default}'/>", "get")
    assert (
        mismatch(
            "<iq><query xmlns='jabber:iq:privacy'><list><item type='jid' value='example.net' action='deny'/></list></query>"
            "</iq>",
            shown,
        )
        == ""
    )

    await stage.restart()
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    phone = await stage.login("juliet@example.org/phone", presence=True)
    stage.reach[juliet] = stage.reach[phone] = (ORG,)
    for device in (juliet, phone):
        listed = await device.iq(f"<iq type='get' id='list'><blocklist xmlns='{blocking}'/></iq>")
        assert [el.get("jid") for el in listed[0]] == ["example.net"]
    await stage.clear()
    assert await seen_of(stage, benvolio, "juliet@example.org") == set(), "the contact sees her offline"
    await nothing_passes()

    # edited as a privacy list, pushed as a block
    deny = "<item type='jid' value='{}' action='deny' order='{}'/>"
    more = deny.format("example.net", 1) + deny.format("iago@example.com", 2)
    await privacy(phone, f"<list name='{default}'>{more}</list>")
    for device in (juliet, phone):
        await stage.seek(
            device, f"<iq type='set'><block xmlns='{blocking}'><item jid='iago@example.com'/></block></iq>"
        )
    await phone.iq(f"<iq type='set' id='u'><unblock xmlns='{blocking}'>{item}</unblock></iq>")
    for device in (juliet, phone):
        await stage.seek(device, f"<iq type='set'><unblock xmlns='{blocking}'>{item}</unblock></iq>")
        await stage.seek(benvolio, f"<presence from='{device.jid}' type='!'/>")
        await stage.seek(device, f"<presence from='{benvolio.jid}' type='!'><show>away</show></presence>")
    del stage.reach[juliet], stage.reach[phone]
    await stage.clear()
    benvolio.send("<message to='juliet@example.org' id='again' type='chat'><body>hi</body></message>")
    await stage.seek(juliet, "<message id='again'/>")
    juliet.send(f"<message to='{benvolio.jid}' id='back' type='chat'><body>hi</body></message>")
    await stage.seek(benvolio, "<message id='back'/>")
    found, _ = await archive(juliet, fields={"with": "benvolio@example.net"})
    assert len(found) == 2, "what was blocked is not in the archive"


async def seen_of(stage: Stage, client: Client, whom: str) -> set[str]:
    """Who of an account answers a presence probe made by appearing anew."""
    client.send("<presence type='unavailable'/>")
    await stage.clear()
    client.send("<presence/>")
    return {
        el.get("from", "")
        for el in await stage.take(client)
        if kind(el) == "presence" and el.get("type") is None and el.get("from", "").startswith(f"{whom}/")
    }


PAYLOADS = {
    "http://jabber.org/protocol/tune": "<tune xmlns='http://jabber.org/protocol/tune'><artist>Yes</artist></tune>",
    "http://jabber.org/protocol/geoloc": "<geoloc xmlns='http://jabber.org/protocol/geoloc'><lat>45.44</lat></geoloc>",
    "http://jabber.org/protocol/activity": "<activity xmlns='http://jabber.org/protocol/activity'><relaxing/></activity>",
    "http://jabber.org/protocol/mood": "<mood xmlns='http://jabber.org/protocol/mood'><in_love/></mood>",
    "http://jabber.org/protocol/nick": "<nick xmlns='http://jabber.org/protocol/nick'>Rome</nick>",
}
AVATAR = "urn:xmpp:avatar:metadata"


async def test_row_49_personal_events(stage: Stage) -> None:
    """Tune, location, activity, mood, nick, avatar published and received; avatar also visible to vCard-only clients (0398)."""
    c, node, answer = capabilities(*(f"{each}+notify" for each in (*PAYLOADS, AVATAR)))
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    juliet = await stage.login("juliet@example.org/balcony", presence=True)
    benvolio = await stage.login("benvolio@example.net/street", presence=True)
    nurse = await stage.login("nurse@example.org/house", presence=True)
    for friend in (juliet, benvolio, nurse):
        await stage.befriend(romeo, friend)
    rosaline = await stage.login("rosaline@example.net/feast", presence=True)
    for interested in (juliet, benvolio):
        interested.send(f"<presence>{c}</presence>")
        await tell(stage, interested, node, answer)
    await stage.clear()

    async def publish(node: str, payload: str, id: str = "current") -> None:
        inner = f"<publish node='{node}'><item id='{id}'>{payload}</item></publish>"
        await romeo.iq(f"<iq type='set' id='p'><pubsub xmlns='{PUBSUB}'>{inner}</pubsub></iq>")

    hash_ = hashlib.sha1(PNG).hexdigest()
    info = f"<metadata xmlns='{AVATAR}'><info id='{hash_}' type='image/png' bytes='{len(PNG)}'/></metadata>"
    data = f"<data xmlns='urn:xmpp:avatar:data'>{base64.b64encode(PNG).decode()}</data>"
    for name, payload in PAYLOADS.items():
        await publish(name, payload)
    await publish("urn:xmpp:avatar:data", data, hash_)
    await publish(AVATAR, info, hash_)

    def event(name: str, payload: str) -> str:
        inner = f"<items node='{name}'><item>{payload}</item></items>"
        return f"<message from='romeo@example.org'><event xmlns='{PUBSUB}#event'>{inner}</event></message>"

    for interested in (juliet, benvolio):
        for name, payload in (*PAYLOADS.items(), (AVATAR, info)):
            await stage.seek(interested, event(name, payload))
    # who has not asked for them gets no events, but sees the picture: its hash in presence, and in the vCard
    for plain in (nurse, benvolio):
        hashed = f"<presence from='{romeo.jid}'><x xmlns='vcard-temp:x:update'><photo>{hash_}</photo></x></presence>"
        await stage.seek(plain, hashed)
        card = await plain.iq("<iq type='get' id='v' to='romeo@example.org'><vCard xmlns='vcard-temp'/></iq>")
        assert base64.b64decode(card.findtext(".//{vcard-temp}BINVAL") or "") == PNG
    for quiet in (nurse, rosaline):
        assert not [el for el in await stage.take(quiet) if el.find(f"{{{PUBSUB}#event}}event") is not None]

    # who comes later gets the last of each, also after a restart, and from the other server
    await stage.leave(juliet, benvolio)
    await stage.restart()
    later = [await stage.login(each, extra=c) for each in ("juliet@example.org/garden", "benvolio@example.net/square")]
    for client in later:
        for name, payload in (*PAYLOADS.items(), (AVATAR, info)):
            await stage.seek(client, event(name, payload))
        fetched = await client.iq(
            "<iq type='get' id='i' to='romeo@example.org'>"
            f"<pubsub xmlns='{PUBSUB}'><items node='urn:xmpp:avatar:data'/></pubsub></iq>"
        )
        assert (
            mismatch(
                f"<iq><pubsub xmlns='{PUBSUB}'><items><item id='{hash_}'>{data}</item></items></pubsub></iq>", fetched
            )
            == ""
        )
    stranger = await rosaline.iq(
        f"<iq type='get' id='i' to='romeo@example.org'><pubsub xmlns='{PUBSUB}'><items node='{AVATAR}'/></pubsub></iq>",
        "error",
    )
    assert condition(stranger) in ("not-authorized", "forbidden", "service-unavailable", "item-not-found")

    # and back: a picture that is set in the vCard becomes an avatar
    romeo = await stage.login("romeo@example.org/orchard", presence=True)
    other = b"GIF89a" + b"picture"
    photo = f"<PHOTO><TYPE>image/gif</TYPE><BINVAL>{base64.b64encode(other).decode()}</BINVAL></PHOTO>"
    await stage.clear()
    await romeo.iq(f"<iq type='set' id='s'><vCard xmlns='vcard-temp'>{photo}</vCard></iq>")
    id_ = hashlib.sha1(other).hexdigest()
    inner = f"<metadata xmlns='{AVATAR}'><info id='{id_}' type='image/gif'/></metadata>"
    for client in later:
        await stage.seek(client, event(AVATAR, inner))
