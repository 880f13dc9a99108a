"""XEP-0045 §8, §9, §10: what moderators, admins and owners do, as plays."""

from __future__ import annotations

from typing import Any

import pytest
from tests.modules.muc.conftest import MUC, ROOM

from beamish.testing.match import condition

ACTOR = f"{{{MUC}#user}}actor"
REASON = f"{{{MUC}#user}}reason"


def told(stanzas: list[Any]) -> list[tuple[str, str | None]]:
    return [(el.get("from").rpartition("/")[2], el.get("type")) for el in stanzas]


# ---- making rooms ---------------------------------------------------------------------------------------------------


async def test_a_new_room(rooms: Any, codes: Any) -> None:
    """Status 201: made, and locked until it is configured (§10.1.1)."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    got = await rooms.enter(romeo, "romeo")
    assert codes(got[0]) == {110, 170, 201}
    assert codes.item(got[0]) == {"affiliation": "owner", "role": "moderator", "jid": "romeo@example.org/romeo"}
    assert condition((await rooms.enter(juliet, "juliet"))[0]) == "item-not-found"
    await rooms.configure(romeo)
    got = await rooms.enter(juliet, "juliet")
    assert codes(got[1]) == {110, 170}


async def test_a_reserved_room(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.enter(romeo, "romeo")
    form = await romeo.iq(f"<iq to='{ROOM}' type='get' id='f'><query xmlns='{MUC}#owner'/></iq>")
    fields = {f.get("var"): [v.text for v in f.findall("{*}value")] for f in form.iter("{jabber:x:data}field")}
    assert fields["FORM_TYPE"] == [f"{MUC}#roomconfig"]
    assert fields["muc#roomconfig_roomowners"] == ["romeo@example.org"]
    assert fields["muc#roomconfig_membersonly"] == ["0"]
    await rooms.configure(romeo, membersonly=True, roomname="Cave")
    assert condition((await rooms.enter(juliet, "juliet"))[0]) == "registration-required"


async def test_a_configuration_that_cannot_be(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.enter(romeo, "romeo")
    answer = await rooms.configure(romeo, passwordprotectedroom=True, roomsecret="", type="error")
    assert condition(answer) == "not-acceptable"
    answer = await rooms.configure(romeo, maxusers="100000", type="error")
    assert condition(answer) == "not-acceptable"
    assert condition((await rooms.enter(juliet, "juliet"))[0]) == "item-not-found", "still locked"


async def test_the_creator_hears_what_the_room_has_become(rooms: Any, codes: Any) -> None:
    """Clients ask a room what it is before they make it, and again only on 104, some only if it is the first code."""
    (romeo,) = await rooms.login("romeo")
    await rooms.enter(romeo, "romeo")
    await rooms.configure(romeo, membersonly=True, whois="anyone")
    (told,) = [el for el in await rooms.take(romeo) if el.tag.endswith("}message")]
    assert (told.get("type"), told.get("from")) == ("groupchat", ROOM)
    assert [el.get("code") for el in told.iter(f"{{{MUC}#user}}status")] == ["104", "172"]


async def test_a_room_that_stays_as_it_was_made_says_nothing(rooms: Any) -> None:
    (romeo,) = await rooms.login("romeo")
    await rooms.enter(romeo, "romeo")
    await rooms.configure(romeo)
    assert await rooms.take(romeo) == []


async def test_a_new_password_is_needed(rooms: Any) -> None:
    """Also if the form does not say that entering takes one; the password that it has already decides nothing."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.enter(romeo, "romeo")
    await rooms.configure(romeo, roomsecret="pw")
    assert condition((await rooms.enter(juliet, "juliet"))[0]) == "not-authorized"
    await rooms.configure(romeo, roomsecret="other", passwordprotectedroom=False)
    await rooms.configure(romeo, roomsecret="other")
    assert (await rooms.enter(juliet, "juliet"))[0].get("type") is None


async def test_a_cancelled_room_is_none(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.enter(romeo, "romeo")
    await romeo.iq(
        f"<iq to='{ROOM}' type='set' id='c'><query xmlns='{MUC}#owner'><x xmlns='jabber:x:data' type='cancel'/></query></iq>"
    )
    (farewell,) = await rooms.take(romeo)
    assert farewell.get("type") == "unavailable"
    assert farewell.find(f".//{{{MUC}#user}}destroy") is not None
    assert (await rooms.enter(juliet, "juliet"))[0].get("type") is None, "the name is free again"


async def test_a_creator_who_leaves_before_configuring(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.enter(romeo, "romeo")
    romeo.send(f"<presence to='{ROOM}/romeo' type='unavailable'/>")
    (farewell,) = await rooms.take(romeo)
    assert farewell.find(f".//{{{MUC}#user}}destroy") is None, (
        "nobody destroyed it: it ends with whoever could configure it"
    )
    await rooms.full(juliet)


async def test_another_session_of_the_creator_may_leave_before_configuring(rooms: Any) -> None:
    romeo, other, juliet = await rooms.login("romeo", "romeo@example.org/other", "juliet")
    await rooms.enter(romeo, "romeo")
    await rooms.enter(other, "romeo")
    other.send(f"<presence to='{ROOM}/romeo' type='unavailable'/>")
    await rooms.take(other)
    await rooms.configure(romeo, roomname="Cave")
    assert (await rooms.enter(juliet, "juliet"))[0].get("type") is None


async def test_a_cancelled_change_changes_nothing(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet, roomname="Cave")
    await romeo.iq(
        f"<iq to='{ROOM}' type='set' id='c'><query xmlns='{MUC}#owner'><x xmlns='jabber:x:data' type='cancel'/></query></iq>"
    )
    await juliet.expect_nothing()


async def test_the_form_is_for_owners(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    await rooms.admin(romeo, "affiliation='admin' jid='juliet@example.org'")
    answer = await juliet.iq(f"<iq to='{ROOM}' type='get' id='f'><query xmlns='{MUC}#owner'/></iq>", type="error")
    assert condition(answer) == "forbidden"
    assert condition(await rooms.configure(juliet, type="error")) == "forbidden"


# ---- kick, voice, moderators ----------------------------------------------------------------------------------------


async def test_kick(rooms: Any, codes: Any) -> None:
    """Status 307: first the one who is kicked, then the answer, then the others (§8.2)."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    await rooms.admin(romeo, "nick='juliet' role='none'|Avaunt, <you>!")
    (own,) = await rooms.take(juliet)
    assert codes(own) == {110, 307}
    assert codes.item(own) == {"affiliation": "none", "role": "none", "jid": "juliet@example.org/juliet"}
    assert own.find(f".//{ACTOR}").get("nick") == "romeo"
    assert own.findtext(f".//{REASON}") == "Avaunt, <you>!"
    (seen,) = await rooms.take(nurse)
    assert (codes(seen), told([seen])) == ({307}, [("juliet", "unavailable")])
    assert told(await rooms.take(romeo)) == [("juliet", "unavailable")]
    assert (await rooms.enter(juliet, "juliet"))[0].get("type") is None, "a kick is no ban"


async def test_the_answer_to_a_kick_comes_before_its_news(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    romeo.send(
        f"<iq to='{ROOM}' type='set' id='k'><query xmlns='{MUC}#admin'><item nick='juliet' role='none'/></query></iq>"
    )
    assert [el.tag.rpartition("}")[2] for el in await rooms.take(romeo)] == ["iq", "presence"]


@pytest.mark.parametrize(
    ("actor", "item", "expected"),
    [
        ("nurse", "nick='romeo' role='none'", "forbidden"),
        ("juliet", "nick='romeo' role='none'", "not-allowed"),
        ("romeo", "nick='nobody' role='none'", "item-not-found"),
        ("romeo", "nick='juliet' role='participant'", "not-allowed"),
        ("romeo", "nick='juliet' role='visitor'", "not-allowed"),
        ("romeo", "nick='nurse' role='king'", "bad-request"),
        ("romeo", "nick='nurse'", "bad-request"),
        ("romeo", "nick='nurse' role='none' affiliation='member' jid='nurse@example.org'", "bad-request"),
        ("juliet", "affiliation='outcast' jid='romeo@example.org'", "not-allowed"),
        ("juliet", "affiliation='outcast' jid='juliet@example.org'", "conflict"),
        ("juliet", "affiliation='admin' jid='nurse@example.org'", "forbidden"),
        ("juliet", "affiliation='none' jid='romeo@example.org'", "forbidden"),
        ("nurse", "affiliation='member' jid='nurse@example.org'", "forbidden"),
        ("romeo", "affiliation='none' jid='romeo@example.org'", "conflict"),
        ("romeo", "affiliation='outcast' jid='@'", "jid-malformed"),
        ("romeo", "affiliation='friend' jid='nurse@example.org'", "bad-request"),
        ("romeo", "affiliation='owner' jid='example.org'", "not-acceptable"),
        ("romeo", "affiliation='member'", "bad-request"),
    ],
)
async def test_orders_that_are_refused(rooms: Any, actor: str, item: str, expected: str) -> None:
    """Romeo is owner, juliet admin, nurse nobody."""
    clients = dict(zip(("romeo", "juliet", "nurse"), await rooms.login("romeo", "juliet", "nurse"), strict=True))
    await rooms.full(*clients.values())
    await rooms.admin(clients["romeo"], "affiliation='admin' jid='juliet@example.org'")
    await rooms.clear(*clients.values())
    assert condition(await rooms.admin(clients[actor], item, type="error")) == expected
    for client in clients.values():
        assert await rooms.take(client) == []


async def test_a_request_is_carried_out_whole_or_not_at_all(rooms: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    await rooms.admin(romeo, "affiliation='admin' jid='juliet@example.org'")
    await rooms.clear(romeo, juliet, nurse)
    answer = await rooms.admin(
        juliet,
        "affiliation='outcast' jid='nurse@example.org'",
        "affiliation='outcast' jid='romeo@example.org'",
        type="error",
    )
    assert condition(answer) == "not-allowed"
    assert condition(await rooms.admin(juliet, "nick='nurse' role='none'", "nick='romeo' role='none'", type="error"))
    assert await rooms.take(nurse) == []
    assert await rooms.listed(romeo, "affiliation='outcast'") == []


async def test_voice(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet, moderatedroom=True)
    assert [i["nick"] for i in await rooms.listed(romeo, "role='visitor'")] == ["juliet"]
    await rooms.admin(romeo, "nick='juliet' role='participant'|A worthy witch!")
    (own,) = await rooms.take(juliet)
    assert (codes.item(own)["role"], codes(own)) == ("participant", {110})
    assert own.findtext(f".//{REASON}") == "A worthy witch!"
    assert await rooms.listed(romeo, "role='participant'") == [
        {"nick": "juliet", "role": "participant", "affiliation": "none", "jid": "juliet@example.org/juliet"}
    ]
    await rooms.admin(romeo, "nick='juliet' role='visitor'")
    (own,) = await rooms.take(juliet)
    assert codes.item(own)["role"] == "visitor"
    assert condition(await rooms.admin(juliet, "nick='juliet' role='participant'", type="error")) == "forbidden"


async def test_voice_is_kept_for_the_next_visit(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet, moderatedroom=True)
    await rooms.admin(romeo, "nick='juliet' role='participant'")
    juliet.send(f"<presence to='{ROOM}/juliet' type='unavailable'/>")
    await rooms.clear(juliet)
    assert codes.item((await rooms.enter(juliet, "juliet"))[1])["role"] == "participant"


async def test_a_moderator_who_was_kicked_comes_back_as_what_it_was_before(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    await rooms.admin(romeo, "nick='juliet' role='moderator'")
    await rooms.admin(romeo, "nick='juliet' role='none'")
    await rooms.clear(juliet)
    assert codes.item((await rooms.enter(juliet, "juliet"))[1])["role"] == "participant"


async def test_moderators_see_who_is_who(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    await rooms.admin(romeo, "nick='juliet' role='moderator'")
    got = await rooms.take(juliet)
    assert codes.item(got[0])["role"] == "moderator"
    assert {el.get("from").rpartition("/")[2]: codes.item(el).get("jid") for el in got[1:]} == {
        "romeo": "romeo@example.org/romeo",
        "nurse": "nurse@example.org/nurse",
    }
    assert [i["nick"] for i in await rooms.listed(juliet, "role='moderator'")] == ["romeo", "juliet"]
    await rooms.admin(romeo, "nick='juliet' role='participant'")
    assert condition(await _listed_error(rooms, juliet, "role='moderator'")) == "forbidden"


async def _listed_error(rooms: Any, client: Any, what: str) -> Any:
    return await client.iq(
        f"<iq to='{ROOM}' type='get' id='l'><query xmlns='{MUC}#admin'><item {what}/></query></iq>", type="error"
    )


# ---- affiliations ---------------------------------------------------------------------------------------------------


async def test_ban(rooms: Any, codes: Any) -> None:
    """Status 301: out, on the list, and not in again (§9.1)."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    await rooms.admin(romeo, "affiliation='outcast' jid='juliet@example.org/juliet'|Treason")
    (own,) = await rooms.take(juliet)
    assert codes(own) == {110, 301}
    assert codes.item(own)["affiliation"] == "outcast"
    assert own.findtext(f".//{REASON}") == "Treason"
    (seen,) = await rooms.take(nurse)
    assert codes(seen) == {301}
    assert await rooms.listed(romeo, "affiliation='outcast'") == [
        {"affiliation": "outcast", "jid": "juliet@example.org"}
    ]
    assert condition((await rooms.enter(juliet, "other"))[0]) == "forbidden"
    await rooms.admin(romeo, "affiliation='none' jid='juliet@example.org'")
    assert (await rooms.enter(juliet, "juliet"))[0].get("type") is None


async def test_a_whole_domain_is_banned(rooms: Any, codes: Any) -> None:
    romeo, juliet, benvolio = await rooms.login("romeo", "juliet", "benvolio@example.net/b")
    await rooms.full(romeo, juliet, benvolio)
    await rooms.admin(romeo, "affiliation='outcast' jid='example.net'")
    (own,) = await rooms.take(benvolio)
    assert codes(own) == {110, 301}
    assert condition((await rooms.enter(benvolio, "b"))[0]) == "forbidden"
    await rooms.admin(romeo, "affiliation='member' jid='benvolio@example.net'")
    assert (await rooms.enter(benvolio, "b"))[0].get("type") is None, "the address goes before the domain"


async def test_membership_comes_and_goes(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org' nick='juliet'")
    assert codes.item((await rooms.take(juliet))[0]) == {
        "affiliation": "member", "role": "participant", "jid": "juliet@example.org/juliet",
    }  # fmt: skip
    assert await rooms.listed(romeo, "affiliation='member'") == [
        {"affiliation": "member", "jid": "juliet@example.org", "nick": "juliet"}
    ]
    await rooms.admin(romeo, "affiliation='none' jid='juliet@example.org'")
    assert codes.item((await rooms.take(juliet))[0])["affiliation"] == "none"


async def test_lost_membership_of_a_closed_room(rooms: Any, codes: Any) -> None:
    """Status 321: out at once, with one presence and not two (§9.4)."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    await rooms.admin(
        romeo, "affiliation='member' jid='juliet@example.org'", "affiliation='member' jid='nurse@example.org'"
    )
    await rooms.configure(romeo, membersonly=True)
    await rooms.clear(romeo, juliet, nurse)
    await rooms.admin(romeo, "affiliation='none' jid='juliet@example.org'")
    (own,) = await rooms.take(juliet)
    (seen,) = await rooms.take(nurse)
    assert (codes(own), codes(seen)) == ({110, 321}, {321})
    assert own.get("type") == "unavailable"
    assert condition((await rooms.enter(juliet, "juliet"))[0]) == "registration-required"


async def test_a_change_while_one_is_elsewhere(rooms: Any, codes: Any) -> None:
    """Status 101: a message from the room (§16.1)."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    await rooms.admin(romeo, "affiliation='admin' jid='juliet@example.org'")
    (got,) = await rooms.take(juliet)
    assert (got.get("from"), got.get("type"), codes(got)) == (ROOM, None, {101})
    assert codes.item(got) == {"affiliation": "admin", "jid": "juliet@example.org"}


@pytest.mark.parametrize(("whois", "told"), [("anyone", ["romeo", "nurse"]), ("moderators", ["romeo"])])
async def test_occupants_learn_what_somebody_is_who_is_elsewhere(
    rooms: Any, codes: Any, whois: str, told: list[str]
) -> None:
    """§10.3, §10.6, for those who may know the address: who encrypts for all members has to know of new ones."""
    romeo, nurse = await rooms.login("romeo", "nurse")
    await rooms.full(romeo, nurse, whois=whois)
    for affiliation in ("member", "none"):
        await rooms.admin(romeo, f"affiliation='{affiliation}' jid='tybalt@example.org'")
        for client in (romeo, nurse):
            got = [el for el in await rooms.take(client) if str(el.tag).endswith("}message")]
            assert [(el.get("from"), el.get("type")) for el in got] == [(ROOM, None)] * (client.jid.local in told)
            for el in got:
                assert codes.item(el) == {"affiliation": affiliation, "role": "none", "jid": "tybalt@example.org"}
                assert codes(el) == set()
    await rooms.admin(romeo, "affiliation='none' jid='tybalt@example.org'")
    assert await rooms.take(romeo) == [], "nothing has changed"


async def test_a_new_member_of_a_closed_room_is_invited(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, membersonly=True, passwordprotectedroom=True, roomsecret="pw")
    await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org'")
    (got,) = await rooms.take(juliet)
    assert got.find(f".//{{{MUC}#user}}invite").get("from") == ROOM
    assert got.findtext(f".//{{{MUC}#user}}password") == "pw"


async def test_admins_and_owners_come_and_go(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    steps = (("admin", "moderator"), ("owner", "moderator"), ("member", "participant"), ("none", "participant"))
    for affiliation, role in steps:
        await rooms.admin(romeo, f"affiliation='{affiliation}' jid='juliet@example.org'")
        seen = codes.item((await rooms.take(romeo))[0])
        assert (seen["affiliation"], seen["role"]) == (affiliation, role)
    await rooms.admin(romeo, "affiliation='owner' jid='juliet@example.org'")
    await rooms.admin(juliet, "affiliation='none' jid='romeo@example.org'")
    assert [i["jid"] for i in await rooms.listed(juliet, "affiliation='owner'")] == ["juliet@example.org"]
    assert (
        condition(await rooms.admin(juliet, "affiliation='admin' jid='juliet@example.org'", type="error")) == "conflict"
    )


async def test_reserved_nicknames(rooms: Any) -> None:
    romeo, nurse = await rooms.login("romeo", "nurse")
    await rooms.full(romeo, nurse)
    await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org' nick='Jule'")
    assert condition((await rooms.enter(nurse, "jule"))[0]) == "conflict"
    refused = await rooms.admin(romeo, "affiliation='member' jid='nurse@example.org' nick='JULE'", type="error")
    assert condition(refused) == "conflict"
    await rooms.admin(romeo, "affiliation='outcast' jid='juliet@example.org'")
    await rooms.admin(romeo, "affiliation='member' jid='nurse@example.org' nick='Jule'")
    await rooms.admin(romeo, "affiliation='member' jid='nurse@example.org' nick=''")
    never = await rooms.admin(romeo, "affiliation='member' jid='nurse@example.org' nick='a&#x2028;b'", type="error")
    assert condition(never) == "not-acceptable", "no address could have this"
    assert await rooms.listed(romeo, "affiliation='member'") == [{"affiliation": "member", "jid": "nurse@example.org"}]


@pytest.mark.parametrize(
    ("config", "who", "list_", "may"),
    [
        ({}, "nurse", "member", False),
        ({"whois": "anyone"}, "nurse", "member", True),
        ({"whois": "anyone"}, "nurse", "owner", True),
        ({"whois": "anyone"}, "nurse", "outcast", False),
        ({"whois": "anyone", "getmemberlist": ["moderator"]}, "nurse", "member", False),
        ({"whois": "anyone", "getmemberlist": []}, "juliet", "member", True),
        ({}, "juliet", "member", True),
        ({}, "juliet", "outcast", True),
        ({}, "juliet", "owner", False),
        ({}, "romeo", "owner", True),
        ({}, "mercutio", "member", False),
        ({"whois": "anyone"}, "mercutio", "member", False),
    ],
)
async def test_who_may_see_lists(rooms: Any, config: Any, who: str, list_: str, may: bool) -> None:
    """Romeo is owner, juliet admin, nurse a participant, mercutio outside."""
    names = ("romeo", "juliet", "nurse", "mercutio")
    clients = dict(zip(names, await rooms.login(*names), strict=True))
    await rooms.full(clients["romeo"], clients["juliet"], clients["nurse"], **config)
    await rooms.admin(clients["romeo"], "affiliation='admin' jid='juliet@example.org'")
    answer = await clients[who].iq(
        f"<iq to='{ROOM}' type='get' id='l'><query xmlns='{MUC}#admin'><item affiliation='{list_}'/></query></iq>",
        type="result" if may else "error",
    )
    assert may or condition(answer) == "forbidden"


# ---- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"enablelogging": False}, {104, 171}),
        ({"whois": "anyone"}, {104, 172}),
        ({"roomdesc": "dark"}, {104}),
        ({"roomdesc": "dark", "whois": "anyone", "enablelogging": False}, {104, 171, 172}),
        ({}, set()),
        ({"roomname": ""}, set()),
    ],
)
async def test_what_a_change_is_called(rooms: Any, codes: Any, config: Any, expected: set[int]) -> None:
    """Status 104, 171, 172: what matters for privacy has numbers of its own (§10.2.1); 104 goes with them all."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    await rooms.configure(romeo, **config)
    messages = [el for el in await rooms.take(juliet) if el.tag.endswith("}message")]
    assert [codes(el) for el in messages] == ([expected] if expected else [])
    assert all((el.get("type"), el.get("from")) == ("groupchat", ROOM) for el in messages)


async def test_back_again(rooms: Any, codes: Any) -> None:
    """Status 170, 173: logging again, semi-anonymous again; real addresses appear in presence, and disappear."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    await rooms.configure(romeo, enablelogging=False, whois="anyone")
    seen = {el.get("from").rpartition("/")[2]: el for el in await rooms.take(juliet) if el.tag.endswith("}presence")}
    assert codes.item(seen["nurse"])["jid"] == "nurse@example.org/nurse"
    await rooms.configure(romeo, enablelogging=True, whois="moderators")
    got = await rooms.take(juliet)
    assert codes(got[0]) == {104, 170, 173}
    seen = {el.get("from").rpartition("/")[2]: el for el in got[1:]}
    assert "jid" not in codes.item(seen["nurse"])


async def test_a_room_becomes_one_for_members(rooms: Any, codes: Any) -> None:
    """Status 322: whoever is no member has to leave (§10.2)."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    await rooms.admin(romeo, "affiliation='member' jid='nurse@example.org'")
    await rooms.clear(romeo, juliet, nurse)
    await rooms.configure(romeo, membersonly=True)
    (own,) = await rooms.take(juliet)
    assert (own.get("type"), codes(own)) == ("unavailable", {110, 322})
    got = await rooms.take(nurse)
    assert [codes(el) for el in got] == [{322}, {104}]


async def test_lists_of_owners_and_admins_in_the_form(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    await rooms.configure(
        romeo, roomadmins=["nurse@example.org"], roomowners=["romeo@example.org", "juliet@example.org"]
    )
    seen = {el.get("from").rpartition("/")[2]: codes.item(el) for el in await rooms.take(romeo)}
    assert {n: i["affiliation"] for n, i in seen.items()} == {"juliet": "owner", "nurse": "admin"}
    assert condition(await rooms.configure(romeo, roomowners=[], type="error")) == "conflict"
    await rooms.configure(juliet, roomadmins=[], roomowners=["juliet@example.org"])
    assert {i["jid"] for i in await rooms.listed(juliet, "affiliation='member'")} == {
        "romeo@example.org",
        "nurse@example.org",
    }
    assert [i["jid"] for i in await rooms.listed(juliet, "affiliation='owner'")] == ["juliet@example.org"]


async def test_presence_of_some_roles_only(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, moderatedroom=True, presencebroadcast=["moderator", "participant"])
    got = await rooms.enter(nurse, "nurse")
    assert told(got) == [("romeo", None), ("nurse", None), (ROOM, "groupchat")], "no other visitors, but oneself"
    assert await rooms.take(romeo) == []
    await rooms.admin(romeo, "nick='nurse' role='participant'")
    assert told(await rooms.take(juliet)) == [("nurse", None)], "comes into view"
    await rooms.admin(romeo, "nick='nurse' role='visitor'")
    assert told(await rooms.take(juliet)) == [("nurse", "unavailable")], "goes out of view"
    await rooms.clear(nurse)
    nurse.send(f"<presence to='{ROOM}/nurse' type='unavailable'/>")
    assert len(await rooms.take(nurse)) == 1
    assert await rooms.take(juliet) == []


async def test_destroy(rooms: Any, codes: Any) -> None:
    """§10.9: one farewell for each session, from its own occupant."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet, persistentroom=True)
    refused = await juliet.iq(
        f"<iq to='{ROOM}' type='set' id='d'><query xmlns='{MUC}#owner'><destroy/></query></iq>", type="error"
    )
    assert condition(refused) == "forbidden"
    await romeo.iq(
        f"<iq to='{ROOM}' type='set' id='d'><query xmlns='{MUC}#owner'><destroy jid='heath@conference.example.org'>"
        "<reason>Macbeth &lt;cometh</reason><password>pw</password></destroy></query></iq>"
    )
    (got,) = await rooms.take(juliet)
    assert codes.matches(
        f"<presence type='unavailable' from='{ROOM}/juliet'><x xmlns='{MUC}#user'>"
        "<item affiliation='none' role='none'/><destroy jid='heath@conference.example.org'>"
        "<reason>Macbeth &lt;cometh</reason><password>pw</password></destroy></x></presence>",
        got,
    )
    rooms.say(juliet, "anyone?")
    assert condition((await rooms.take(juliet))[0]) == "item-not-found"


# ---- vCard ----------------------------------------------------------------------------------------------------------


async def test_the_picture_of_a_room(rooms: Any, codes: Any) -> None:
    """XEP-0486: set by owners, announced by hash and 104."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    vcard = "<vCard xmlns='vcard-temp'><PHOTO><TYPE>image/png</TYPE><BINVAL>%s</BINVAL></PHOTO></vCard>"
    refused = await juliet.iq(f"<iq to='{ROOM}' type='set' id='v'>{vcard % 'eA=='}</iq>", type="error")
    assert condition(refused) == "forbidden"
    refused = await romeo.iq(f"<iq to='{ROOM}' type='set' id='v'>{vcard % '*'}</iq>", type="error")
    assert condition(refused) == "bad-request"
    refused = await romeo.iq(f"<iq to='{ROOM}' type='set' id='v'>{vcard % ('A' * 140_000)}</iq>", type="error")
    assert condition(refused) == "policy-violation"
    await romeo.iq(f"<iq to='{ROOM}' type='set' id='v'>{vcard % 'eA=='}</iq>")
    assert codes((await rooms.take(juliet))[0]) == {104}
    answer = await juliet.iq(f"<iq to='{ROOM}' type='get' id='v'><vCard xmlns='vcard-temp'/></iq>")
    assert answer.findtext(".//{vcard-temp}BINVAL") == "eA=="
    info = await juliet.iq(
        f"<iq to='{ROOM}' type='get' id='i'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
    )
    field = info.find(".//{jabber:x:data}field[@var='muc#roominfo_avatarhash']")
    assert field[0].text == "11f6ad8ec52a2984abaafd7c3b516503785c2072"
    await romeo.iq(f"<iq to='{ROOM}' type='set' id='v'><vCard xmlns='vcard-temp'/></iq>")
    answer = await juliet.iq(f"<iq to='{ROOM}' type='get' id='v'><vCard xmlns='vcard-temp'/></iq>")
    assert len(answer[0]) == 0


async def test_what_rooms_do_not_answer(rooms: Any) -> None:
    (romeo,) = await rooms.login("romeo")
    await rooms.full(romeo)
    for to, payload, expected in (
        (ROOM, "<query xmlns='jabber:iq:version'/>", "service-unavailable"),
        ("nowhere@conference.example.org", "<vCard xmlns='vcard-temp'/>", "item-not-found"),
        ("conference.example.org", "<vCard xmlns='vcard-temp'/>", "service-unavailable"),
    ):
        answer = await romeo.iq(f"<iq to='{to}' type='get' id='q'>{payload}</iq>", type="error")
        assert condition(answer) == expected
    await romeo.iq(f"<iq to='{ROOM}' type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    await romeo.iq("<iq to='conference.example.org' type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
