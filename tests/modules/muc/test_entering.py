"""Coming into a room, what its occupants then see of one another, and leaving (XEP-0045 §7.1 to §7.3, §7.6, §7.7, §7.14)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.modules.muc.conftest import FORGED, MUC, ROOM, bodies

from beamish.testing.match import condition

# ---- entering -------------------------------------------------------------------------------------------------------


async def test_order_of_entering(rooms: Any, codes: Any) -> None:
    """Status 110, 170: others, oneself, history, subject, then what is new (§7.1)."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet)
    rooms.say(romeo, "one", id="h1")
    romeo.send(f"<message to='{ROOM}' type='groupchat'><subject>Spells</subject></message>")
    await rooms.world.pass_time(60)
    got = await rooms.enter(nurse, "nurse", id="n13")
    assert [el.tag.rpartition("}")[2] for el in got] == ["presence", "presence", "presence", "message", "message"]
    assert [el.get("from") for el in got[:3]] == [f"{ROOM}/romeo", f"{ROOM}/juliet", f"{ROOM}/nurse"]
    assert [codes(el) for el in got[:2]] == [set(), set()]
    assert codes(got[2]) == {110, 170}
    assert got[2].get("id") == "n13"
    assert codes.matches(
        f"<message type='groupchat' id='h1' from='{ROOM}/romeo' to='nurse@example.org/nurse'><body>one</body>"
        f"<delay xmlns='urn:xmpp:delay' from='{ROOM}' stamp='2023-11-14T22:13:20.000Z'/>"
        "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='*'/><stanza-id xmlns='urn:xmpp:sid:0' id='*'/></message>",
        got[3],
    )
    assert codes.matches(
        f"<message type='groupchat' from='{ROOM}/romeo'><subject>Spells</subject><body absent='!'/>"
        f"<delay xmlns='urn:xmpp:delay' from='{ROOM}'/></message>",
        got[4],
    )
    rooms.say(juliet, "two")
    live = await rooms.take(nurse)
    assert codes.matches("<message><body>two</body><delay xmlns='urn:xmpp:delay' absent='!'/></message>", live[0])


async def test_a_room_that_never_had_a_subject(rooms: Any) -> None:
    (romeo,) = await rooms.login("romeo")
    got = await rooms.enter(romeo, "romeo")
    assert got[-1].find("{jabber:client}subject").text is None
    assert got[-1].find("{urn:xmpp:delay}delay") is None
    assert got[-1].get("from") == ROOM


async def test_non_anonymous_rooms_say_so(rooms: Any, codes: Any) -> None:
    """Status 100: real addresses are shown to everybody (§7.2.3)."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, whois="anyone")
    got = await rooms.enter(nurse, "nurse")
    assert codes(got[2]) == {100, 110, 170}
    assert codes.item(got[1])["jid"] == "juliet@example.org/juliet"
    seen = await rooms.take(juliet)
    assert codes.item(seen[0]) == {"affiliation": "none", "role": "participant", "jid": "nurse@example.org/nurse"}
    assert codes(seen[0]) == set()


async def test_semi_anonymous_rooms_show_real_addresses_to_moderators_only(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet)
    got = await rooms.enter(nurse, "nurse")
    assert "jid" not in codes.item(got[0]) and "jid" not in codes.item(got[1])
    assert codes.item((await rooms.take(romeo))[0])["jid"] == "nurse@example.org/nurse"
    assert "jid" not in codes.item((await rooms.take(juliet))[0])
    nurse.send(f"<presence to='{ROOM}/nurse' type='unavailable'/>")
    assert "jid" not in codes.item((await rooms.take(juliet))[0])


@pytest.mark.parametrize(
    ("config", "inner", "expected"),
    [
        ({"passwordprotectedroom": True, "roomsecret": "pw"}, "", "not-authorized"),
        ({"passwordprotectedroom": True, "roomsecret": "pw"}, "<password>pW</password>", "not-authorized"),
        ({"membersonly": True}, "", "registration-required"),
        ({"maxusers": "1"}, "", "service-unavailable"),
    ],
)
async def test_refused(rooms: Any, config: Any, inner: str, expected: str) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, **config)
    (got,) = await rooms.enter(juliet, "juliet", inner=inner, id="x1")
    assert (got.get("type"), got.get("from"), got.get("id")) == ("error", f"{ROOM}/juliet", "x1")
    assert condition(got) == expected
    assert got.find("{jabber:client}error").get("by") == ROOM
    x = got.find(f"{{{MUC}}}x")
    assert x is not None and len(x) == 0, "no password comes back"
    assert await rooms.take(romeo) == []


async def test_the_password_opens(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, passwordprotectedroom=True, roomsecret="p<w")
    got = await rooms.enter(juliet, "juliet", inner="<password>p&lt;w</password>")
    assert got[0].get("type") is None


async def test_who_renames_or_leaves_knows_the_answer_by_its_id(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    juliet.send(f"<presence to='{ROOM}/Capulet' id='other-name'/>")
    old, new = await rooms.take(juliet)
    assert (old.get("id"), codes(old), new.get("id"), codes(new)) == ("other-name", {110, 303}, "other-name", {110})
    juliet.send(f"<presence to='{ROOM}/Capulet' type='unavailable' id='farewell'/>")
    (gone,) = await rooms.take(juliet)
    assert (gone.get("type"), gone.get("id"), codes(gone)) == ("unavailable", "farewell", {110})
    assert [el.get("id") for el in await rooms.take(romeo)] == [None, None, None], "that is for nobody else"


async def test_one_of_two_devices_leaves_and_knows_it_by_the_id(rooms: Any, codes: Any) -> None:
    romeo, phone = await rooms.login("romeo", "romeo@example.org/phone")
    await rooms.full(romeo)
    await rooms.enter(phone, "romeo")
    await rooms.clear(romeo)
    phone.send(f"<presence to='{ROOM}/romeo' type='unavailable' id='farewell'/>")
    (gone,) = await rooms.take(phone)
    assert (gone.get("type"), gone.get("id"), codes(gone)) == ("unavailable", "farewell", {110})


async def test_no_nickname(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    juliet.send(f"<presence to='{ROOM}'><x xmlns='{MUC}'/></presence>")
    assert condition((await rooms.take(juliet))[0]) == "jid-malformed"


@pytest.mark.parametrize("nick", ["\u200b\u200d", "n" * 257])
async def test_nicknames_that_nobody_can_see_or_read(rooms: Any, nick: str) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    (got,) = await rooms.enter(juliet, nick)
    assert condition(got) in ("not-acceptable", "jid-malformed")


async def test_admins_enter_a_full_room(rooms: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, maxusers="2")
    await rooms.admin(romeo, "affiliation='admin' jid='nurse@example.org'")
    assert (await rooms.enter(nurse, "nurse"))[-1].get("type") == "groupchat"


async def test_the_banned_stay_outside(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    await rooms.admin(romeo, "affiliation='outcast' jid='juliet@example.org'")
    assert condition((await rooms.enter(juliet, "juliet"))[0]) == "forbidden"


@pytest.mark.parametrize("nick", ["romeo", "ROMEO", "\uff32omeo"])
async def test_a_nickname_belongs_to_one_user(rooms: Any, nick: str) -> None:
    """Not even one that looks like it is given to another user (§17.1)."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    assert condition((await rooms.enter(juliet, nick))[0]) == "conflict"


async def test_several_sessions_under_one_nickname(rooms: Any, codes: Any) -> None:
    """§7.2.8: both get and send everything; the nickname leaves with the last of them."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    (second,) = await rooms.login("juliet@example.org/garden")
    await rooms.full(romeo, juliet)
    got = await rooms.enter(second, "juliet")
    assert [codes(el) for el in got if el.tag.endswith("}presence")][-1] == {110, 170}
    seen = await rooms.take(romeo)
    assert [el.get("from") for el in seen] == [f"{ROOM}/juliet"]
    await rooms.clear(juliet)
    rooms.say(second, "hi")
    assert bodies(await rooms.take(juliet)) == ["hi"]
    await rooms.clear(romeo, second)
    romeo.send(f"<message to='{ROOM}/juliet' type='chat'><body>psst</body></message>")
    assert bodies(await rooms.take(juliet)) == bodies(await rooms.take(second)) == ["psst"]
    second.send(f"<presence to='{ROOM}/juliet' type='unavailable'/>")
    (farewell,) = await rooms.take(second)
    assert (farewell.get("type"), codes(farewell)) == ("unavailable", {110})
    assert [el.get("type") for el in await rooms.take(romeo)] == [None], "the other session's presence"
    juliet.send(f"<presence to='{ROOM}/juliet' type='unavailable'/>")
    assert [el.get("type") for el in await rooms.take(romeo)] == ["unavailable"]


@pytest.mark.parametrize("nick", ["jule", "capulet"])
async def test_another_nickname_shows_the_session_that_took_it(rooms: Any, codes: Any, nick: str) -> None:
    """Whether the nickname is new or that of further sessions of the user."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    second, third = await rooms.login("juliet@example.org/garden", "juliet@example.org/balcony")
    await rooms.full(romeo, juliet)
    await rooms.enter(second, "juliet")
    await rooms.enter(third, "capulet")
    await rooms.clear(romeo, juliet, second, third)
    juliet.send(f"<presence to='{ROOM}/{nick}'><show>dnd</show></presence>")
    *_, shown = await rooms.take(romeo)
    assert (shown.get("from"), shown.findtext("{jabber:client}show")) == (f"{ROOM}/{nick}", "dnd")
    assert codes.item(shown)["jid"] == "juliet@example.org/juliet"


async def test_whoever_is_not_inside_is_told_so(rooms: Any, codes: Any) -> None:
    """Status 307, 333: presence without a request to enter, from somebody who is not inside (§7.2.17)."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    juliet.send(f"<presence to='{ROOM}/juliet'/>")
    (got,) = await rooms.take(juliet)
    assert (got.get("type"), got.get("from"), codes(got)) == ("unavailable", f"{ROOM}/juliet", {110, 307, 333})
    assert await rooms.take(romeo) == []


async def test_entering_again_is_a_full_synchronisation(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    rooms.say(romeo, "one")
    await rooms.clear(romeo, juliet)
    got = await rooms.enter(juliet, "juliet")
    assert [el.get("from") for el in got] == [f"{ROOM}/romeo", f"{ROOM}/juliet", f"{ROOM}/romeo", ROOM]
    assert codes(got[1]) == {110, 170}
    assert bodies(got) == ["one"]
    assert await rooms.take(romeo) == [], "nothing about it is new to others"
    await rooms.enter(juliet, "juliet", outer="<show>away</show>")
    assert (await rooms.take(romeo))[0].findtext("{jabber:client}show") == "away"


async def test_the_service_assigns_the_registered_nickname(rooms: Any, codes: Any) -> None:
    """Status 210: where nicknames are locked down (§7.2.2, §7.10); another one is not acceptable."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, registerednicks=True)
    await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org' nick='Jule'")
    await rooms.clear(juliet)
    got = await rooms.enter(juliet, "whatever")
    own = got[1]
    assert (own.get("from"), codes(own)) == (f"{ROOM}/Jule", {110, 170, 210})
    juliet.send(f"<presence to='{ROOM}/other'/>")
    assert condition((await rooms.take(juliet))[0]) == "not-acceptable"


async def test_presence_is_passed_on_without_what_only_rooms_say(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    outer = (
        f"<show>dnd</show><c xmlns='http://jabber.org/protocol/caps' ver='v'/>{FORGED}"
        "<hats xmlns='urn:xmpp:hats:0'><hat uri='u' title='King'/></hats>"
        "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='forged'/>"
    )
    await rooms.enter(juliet, "juliet", outer=outer)
    (got,) = await rooms.take(romeo)
    assert len(got.findall(f"{{{MUC}#user}}x")) == 1
    assert codes(got) == set()
    assert got.find(f"{{{MUC}}}x") is None, "that would be the password"
    assert got.findtext("{jabber:client}show") == "dnd"
    assert got.find("{http://jabber.org/protocol/caps}c") is not None
    assert got.find("{urn:xmpp:hats:0}hats") is None
    ids = [el.get("id") for el in got.findall("{urn:xmpp:occupant-id:0}occupant-id")]
    assert len(ids) == 1 and ids != ["forged"]


# ---- nicknames, availability, leaving -------------------------------------------------------------------------------


async def test_another_nickname(rooms: Any, codes: Any) -> None:
    """Status 303: unavailable for the old one, then available as the new one (§7.6)."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    juliet.send(f"<presence to='{ROOM}/capulet'/>")
    for client, own in ((romeo, set()), (juliet, {110})):
        old, new = await rooms.take(client)
        assert (old.get("from"), old.get("type"), codes(old)) == (f"{ROOM}/juliet", "unavailable", {303} | own)
        assert codes.item(old)["nick"] == "capulet"
        assert (new.get("from"), new.get("type"), codes(new)) == (f"{ROOM}/capulet", None, own)


async def test_another_nickname_that_is_taken(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    juliet.send(f"<presence to='{ROOM}/romeo' id='nn'/>")
    (got,) = await rooms.take(juliet)
    assert (condition(got), got.get("id"), got.get("from")) == ("conflict", "nn", f"{ROOM}/romeo")
    assert await rooms.take(romeo) == []


async def test_the_same_nickname_in_capitals_is_ones_own(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    juliet.send(f"<presence to='{ROOM}/JULIET'/>")
    assert [el.get("from") for el in await rooms.take(romeo)] == [f"{ROOM}/juliet", f"{ROOM}/JULIET"]


async def test_availability(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    juliet.send(f"<presence to='{ROOM}/juliet'><show>xa</show><status>gone</status></presence>")
    (seen,) = await rooms.take(romeo)
    assert (seen.findtext("{jabber:client}show"), seen.findtext("{jabber:client}status")) == ("xa", "gone")
    (own,) = await rooms.take(juliet)
    assert codes(own) == {110}


async def test_leaving(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    juliet.send(f"<presence to='{ROOM}/juliet' type='unavailable'><status>bye</status></presence>")
    (own,) = await rooms.take(juliet)
    (seen,) = await rooms.take(romeo)
    assert (codes(own), codes(seen)) == ({110}, set())
    assert seen.findtext("{jabber:client}status") == "bye"
    assert codes.item(seen)["role"] == codes.item(own)["role"] == "none"
    juliet.send(f"<presence to='{ROOM}/juliet' type='unavailable'/>")
    await juliet.expect_nothing()
    await romeo.expect_nothing()


@pytest.mark.parametrize("way", ["cut", "close", "unavailable"])
async def test_leaving_with_the_session(rooms: Any, way: str) -> None:
    """The user's server sends the farewell (RFC 6121 §4.6.3), exactly one."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    if way == "cut":
        juliet.drop()
    elif way == "close":
        await juliet.close()
    else:
        juliet.send("<presence type='unavailable'/>")
    assert [(el.get("from"), el.get("type")) for el in await rooms.take(romeo)] == [(f"{ROOM}/juliet", "unavailable")]


async def test_probes_and_subscriptions_neither_enter_nor_leave(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    for kind in ("probe", "subscribe", "unsubscribed"):
        juliet.send(f"<presence to='{ROOM}/juliet' type='{kind}'/>")
    await romeo.expect_nothing()
    rooms.say(romeo, "still?")
    assert bodies(await rooms.take(juliet)) == ["still?"]
