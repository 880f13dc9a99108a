from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.modules.muc.conftest import MUC, ROOM

from beamish.storage.memory import MemoryDatabase
from beamish.testing.match import condition
from beamish.testing.world import World
from beamish.xmpp.jid import JID

INFO = "http://jabber.org/protocol/disco#info"
ITEMS = "http://jabber.org/protocol/disco#items"
SEARCH = "urn:xmpp:channel-search:0:search"


async def ask(client: Any, to: str, namespace: str, node: str = "", inner: str = "", type: str = "result") -> Any:
    at = f" node='{node}'" if node else ""
    return await client.iq(
        f"<iq to='{to}' type='get' id='d'><query xmlns='{namespace}'{at}>{inner}</query></iq>", type=type
    )


def features(answer: Any) -> set[str]:
    return {f.get("var") for f in answer.iter(f"{{{INFO}}}feature")}


def fields(answer: Any) -> dict[str, str]:
    return {f.get("var"): f.findtext("{*}value") for f in answer.iter("{jabber:x:data}field")}


async def test_the_service_is_found_and_says_what_it_is(rooms: Any) -> None:
    (romeo,) = await rooms.login("romeo")
    items = await ask(romeo, "example.org", ITEMS)
    assert "conference.example.org" in [i.get("jid") for i in items[0]]
    items = await ask(romeo, "example.net", ITEMS)
    assert "conference.example.net" in [i.get("jid") for i in items[0]]
    info = await ask(romeo, "conference.example.org", INFO)
    identity = info.find(f".//{{{INFO}}}identity")
    assert (identity.get("category"), identity.get("type"), identity.get("name")) == ("conference", "text", "Rooms")
    assert features(info) >= {MUC, f"{MUC}#stable_id", "urn:xmpp:occupant-id:0", "vcard-temp", SEARCH, INFO, ITEMS}
    assert condition(await ask(romeo, "conference.example.org", INFO, "x", type="error")) == "item-not-found"


async def test_a_room_says_what_it_is(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, lang="en", roomdesc="A <dark> place", roomname="Cave", pubsub="xmpp:p?;node=n")
    romeo.send(f"<message to='{ROOM}' type='groupchat'><subject>Spells</subject></message>")
    await rooms.clear(romeo)
    info = await ask(juliet, ROOM, INFO)
    assert info.find(f".//{{{INFO}}}identity").get("name") == "Cave"
    assert features(info) >= {
        "muc_public", "muc_temporary", "muc_open", "muc_unmoderated", "muc_semianonymous", "muc_unsecured",
        "urn:xmpp:mam:2", "urn:xmpp:sid:0", "urn:xmpp:message-moderate:1", "urn:xmpp:message-retract:1#tombstone",
        "urn:xmpp:message-moderate:0",
        f"{MUC}#self-ping-optimization", "jabber:iq:register", "urn:xmpp:hats:0", f"{MUC}#stable_id",
    }  # fmt: skip
    assert {
        "FORM_TYPE": f"{MUC}#roominfo",
        "muc#roominfo_description": "A <dark> place",
        "muc#roominfo_lang": "en",
        "muc#roominfo_subject": "Spells",
        "muc#roominfo_occupants": "1",
        "muc#maxhistoryfetch": "20",
        "muc#roominfo_subjectmod": "0",
        "muc#roomconfig_pubsub": "xmpp:p?;node=n",
        "muc#roominfo_slow_mode_duration": "0",
    }.items() <= fields(info).items()
    assert "muc#roominfo_contactjid" not in fields(info), "that would be a real address"


async def test_another_room_says_otherwise(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(
        romeo,
        publicroom=False,
        persistentroom=True,
        membersonly=True,
        moderatedroom=True,
        whois="anyone",
        passwordprotectedroom=True,
        roomsecret="pw",
        enablelogging=False,
        registration=False,
    )
    info = await ask(juliet, ROOM, INFO)
    got = features(info)
    assert got >= {
        "muc_hidden", "muc_persistent", "muc_membersonly", "muc_moderated", "muc_nonanonymous", "muc_passwordprotected",
    }  # fmt: skip
    assert not got & {"urn:xmpp:mam:2", "jabber:iq:register", "muc_open", "muc_public"}
    assert not fields(info).keys() & {"muc#roominfo_subject", "muc#roominfo_contactjid"}, "neither is for strangers"
    assert fields(await ask(romeo, ROOM, INFO))["muc#roominfo_contactjid"] == "romeo@example.org"
    await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org'")
    assert fields(await ask(juliet, ROOM, INFO))["muc#roominfo_contactjid"] == "romeo@example.org"


async def test_the_owners_of_an_open_room_can_be_written_to(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, whois="anyone")
    assert fields(await ask(juliet, ROOM, INFO))["muc#roominfo_contactjid"] == "romeo@example.org"


async def test_nodes(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org' nick='Jule'")
    await rooms.clear(juliet)
    info = await ask(juliet, ROOM, INFO, "x-roomuser-item")
    assert info.find(f".//{{{INFO}}}identity").get("name") == "Jule"
    assert len((await ask(romeo, ROOM, INFO, "x-roomuser-item"))[0]) == 0
    assert condition(await ask(romeo, ROOM, INFO, f"{MUC}#traffic", type="error")) == "service-unavailable"
    assert condition(await ask(romeo, ROOM, INFO, "x", type="error")) == "item-not-found"


async def test_locked_rooms_and_none(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.enter(romeo, "romeo")
    assert condition(await ask(juliet, ROOM, INFO, type="error")) == "item-not-found"
    assert condition(await ask(juliet, "no@conference.example.org", INFO, type="error")) == "item-not-found"
    assert len((await ask(juliet, "conference.example.org", ITEMS))[0]) == 0
    await ask(romeo, ROOM, INFO)


async def test_occupants_are_listed_for_occupants(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    assert [i.get("jid") for i in (await ask(romeo, ROOM, ITEMS))[0]] == [f"{ROOM}/romeo"]
    assert len((await ask(juliet, ROOM, ITEMS))[0]) == 0


async def test_rooms_are_listed_page_by_page(rooms: Any) -> None:
    (romeo,) = await rooms.login("romeo")
    for name in "dbcae":
        await rooms.make(romeo, room=f"{name}@conference.example.org", publicroom=name != "e", roomname=f"Room {name}")
    items = [(i.get("jid"), i.get("name")) for i in (await ask(romeo, "conference.example.org", ITEMS))[0]]
    assert items == [(f"{n}@conference.example.org", f"Room {n}") for n in "abcd"]
    rsm = "<set xmlns='http://jabber.org/protocol/rsm'><max>2</max>%s</set>"
    page = (await ask(romeo, "conference.example.org", ITEMS, inner=rsm % ""))[0]
    assert [i.get("jid")[0] for i in page.findall(f"{{{ITEMS}}}item")] == ["a", "b"]
    last = page.findtext(".//{http://jabber.org/protocol/rsm}last")
    page = (await ask(romeo, "conference.example.org", ITEMS, inner=rsm % f"<after>{last}</after>"))[0]
    assert [i.get("jid")[0] for i in page.findall(f"{{{ITEMS}}}item")] == ["c", "d"]
    assert page.findtext(".//{http://jabber.org/protocol/rsm}count") == "4"
    assert len((await ask(romeo, "conference.example.net", ITEMS))[0]) == 0


async def listed(client: Any) -> list[str]:
    return [i.get("jid").partition("@")[0] for i in (await ask(client, "conference.example.org", ITEMS))[0]]


async def test_the_list_follows_every_change(rooms: Any) -> None:
    """Made, opened, hidden, shown, left by the last, destroyed, and read again after a restart."""
    db = MemoryDatabase()
    async with World(database=db) as world:
        stage = type(rooms)(world)
        (romeo,) = await stage.login("romeo")
        await stage.enter(romeo, "romeo")
        assert await listed(romeo) == [], "it is locked"
        await stage.configure(romeo, persistentroom=True)
        await stage.make(romeo, room="heath@conference.example.org")
        await stage.make(romeo, room="abbey@conference.example.org", persistentroom=True)
        await stage.make(romeo, room="moor@conference.example.org", persistentroom=True, publicroom=False)
        assert await listed(romeo) == ["abbey", "cave", "heath"]
        await stage.configure(romeo, publicroom=False, persistentroom=True)
        assert await listed(romeo) == ["abbey", "heath"]
        await stage.configure(romeo, publicroom=True, persistentroom=True)
        romeo.send("<presence to='heath@conference.example.org/x' type='unavailable'/>")
        assert await listed(romeo) == ["abbey", "cave"]
        query = f"<query xmlns='{MUC}#owner'><destroy/></query>"
        await romeo.iq(f"<iq to='abbey@conference.example.org' type='set' id='d'>{query}</iq>")
        assert await listed(romeo) == ["cave"]
        await stage.make(romeo, room="abbey@conference.example.org", persistentroom=True)
    async with World(database=db) as world:
        (romeo,) = await type(rooms)(world).login("romeo")
        assert await listed(romeo) == ["abbey", "cave"]
    async with World(settings={"modules": {"muc": {"lock": False}}}) as world:
        stage = type(rooms)(world)
        (romeo,) = await stage.login("romeo")
        await stage.enter(romeo, "romeo")
        assert await listed(romeo) == ["cave"]
        await world.kernel.commands.run("muc.destroy", {"room": ROOM})
        assert await listed(romeo) == []
    await db.close()


async def test_others_have_their_turn_while_many_rooms_are_searched(
    rooms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a room that ends meanwhile is not found."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    muc = rooms.module
    for number in range(2000):
        jid = JID(f"a{number:05}@conference.example.org")
        muc._enter(muc._new_room(jid, JID("nurse@example.org")), JID("nurse@example.org"))
    await rooms.full(romeo)
    order: list[str] = []
    for client in (romeo, juliet):

        def feed(data: bytes, client: Any = client, feed: Any = client.feed) -> None:
            order.append(client.jid.local)
            feed(data)

        monkeypatch.setattr(client, "feed", feed)
    romeo.send(search(q="CAVE", key="{urn:xmpp:channel-search:0:order}address"))
    romeo.send(search(all="1", min_users="1"))
    await asyncio.sleep(0)  # it begins
    await asyncio.sleep(0)
    juliet.send("<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    one, two = await rooms.take(romeo)
    assert order == ["juliet", "romeo", "romeo"]
    assert [i.get("address") for i in one.iter(f"{{{SEARCH}}}item")] == [ROOM]
    assert [i.get("address") for i in two.iter(f"{{{SEARCH}}}item")] == [ROOM]
    romeo.send(search(q="cave"))
    romeo.send(f"<presence to='{ROOM}/romeo' type='unavailable'/>")
    juliet.send("<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    muc.close(muc.rooms[JID(ROOM)])
    (answer, *_) = await rooms.take(romeo)
    assert answer.get("type") == "result" and not [*answer.iter(f"{{{SEARCH}}}item")]


# ---- search ---------------------------------------------------------------------------------------------------------


def search(**values: str) -> str:
    inner = "".join(f"<field var='{var}'><value>{v}</value></field>" for var, v in values.items())
    return (
        f"<iq to='conference.example.org' type='get' id='s'><search xmlns='{SEARCH}'><x xmlns='jabber:x:data' type='submit'>"
        f"<field var='FORM_TYPE'><value>{SEARCH}-params</value></field>{inner}</x></search></iq>"
    )


async def found(client: Any, **values: str) -> list[str]:
    answer = await client.iq(search(**values))
    return [i.get("address").partition("@")[0] for i in answer.iter(f"{{{SEARCH}}}item")]


async def test_search(rooms: Any) -> None:
    """XEP-0433."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(
        romeo, room="heath@conference.example.org", roomname="Blasted Heath", roomdesc="When shall we meet"
    )
    await rooms.full(romeo, juliet, roomname="Dark Cave", roomdesc="We three", lang="en")
    await rooms.full(romeo, room="secret@conference.example.org", roomname="Dark Secret", publicroom=False)
    form = await juliet.iq(f"<iq to='conference.example.org' type='get' id='s'><search xmlns='{SEARCH}'/></iq>")
    assert {"q", "all", "sinname", "sindescription", "sinaddress", "key", "min_users", "types"} <= set(fields(form))
    assert await found(juliet, q="dark") == ["cave"]
    assert await found(juliet, q="WE", sinaddress="0") == ["cave", "heath"], "the larger one first"
    assert await found(juliet, q="conference") == ["cave", "heath"]
    for var in ("sinaddress", "sinaddr"):  # the table of fields has the one, the example of a form the other
        assert await found(juliet, q="conference", **{var: "0"}) == []
    assert await found(juliet, q="we", key="{urn:xmpp:channel-search:0:order}address") == ["cave", "heath"]
    assert await found(juliet, q="we", sindescription="0") == []
    assert await found(juliet, q="shall heath") == ["heath"]
    assert await found(juliet, all="1") == ["cave", "heath"]
    assert await found(juliet, all="1", min_users="2") == ["cave"]
    assert await found(juliet, all="1", types="xep-0369") == []
    answer = await juliet.iq(search(q="dark"))
    item = next(answer.iter(f"{{{SEARCH}}}item"))
    assert {el.tag.rpartition("}")[2]: el.text for el in item} == {
        "name": "Dark Cave",
        "description": "We three",
        "language": "en",
        "nusers": "2",
        "service-type": "xep-0045",
        "is-open": None,
        "anonymity-mode": "muc_semianonymous",
    }


@pytest.mark.parametrize(
    ("values", "kind", "expected", "app"),
    [
        ({}, "cancel", "bad-request", "no-search-conditions"),
        ({"q": "x"}, "modify", "bad-request", "invalid-search-terms"),
        ({"q": ""}, "modify", "bad-request", "invalid-search-terms"),
        ({"q": "xx", "all": "1"}, "modify", "bad-request", "conflicting-fields"),
        ({"q": "xx", "key": "size"}, "modify", "feature-not-implemented", "invalid-sort-key"),
    ],
)
async def test_searches_that_cannot_be_done(
    rooms: Any, values: dict[str, str], kind: str, expected: str, app: str
) -> None:
    """XEP-0433 §4.2.2."""
    (romeo,) = await rooms.login("romeo")
    answer = await romeo.iq(search(**values), type="error")
    assert condition(answer) == expected
    error = answer.find("{*}error")
    assert error is not None and error.get("type") == kind
    assert answer.find(f".//{{urn:xmpp:channel-search:0:error}}{app}") is not None
