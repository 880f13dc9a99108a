from __future__ import annotations

from typing import Any

import pytest
from tests.modules.muc.conftest import MUC, ROOM

from beamish.testing.match import condition


def form(kind: str, **fields: str) -> str:
    inner = "".join(f"<field var='{var.replace('__', '#')}'><value>{v}</value></field>" for var, v in fields.items())
    return (
        f"<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{MUC}#{kind}</value></field>{inner}</x>"
    )


def values(el: Any) -> dict[str, str]:
    return {f.get("var"): f.findtext("{*}value") for f in el.iter("{jabber:x:data}field")}


# ---- voice ----------------------------------------------------------------------------------------------------------


async def test_voice_is_asked_for_and_granted(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse, moderatedroom=True)
    juliet.send(f"<message to='{ROOM}'>{form('request', muc__role='participant')}</message>")
    (question,) = await rooms.take(romeo)
    assert question.get("from") == ROOM
    assert values(question) == {
        "FORM_TYPE": f"{MUC}#request",
        "muc#role": "participant",
        "muc#jid": "juliet@example.org/juliet",
        "muc#roomnick": "juliet",
        "muc#request_allow": "0",
    }
    await nurse.expect_nothing()
    answer = {"muc__role": "participant", "muc__roomnick": "juliet"}
    nurse.send(f"<message to='{ROOM}'>{form('request', **answer, muc__request_allow='1')}</message>")
    assert condition((await rooms.take(nurse))[0]) == "forbidden"
    romeo.send(f"<message to='{ROOM}'>{form('request', **answer, muc__request_allow='0')}</message>")
    await juliet.expect_nothing()
    romeo.send(f"<message to='{ROOM}'>{form('request', **answer, muc__request_allow='1')}</message>")
    (own,) = await rooms.take(juliet)
    assert codes.item(own)["role"] == "participant"
    rooms.say(juliet, "thanks")
    assert (await rooms.take(nurse))[-1].findtext("{jabber:client}body") == "thanks"


async def test_an_approval_takes_nothing_away(rooms: Any, codes: Any) -> None:
    """A moderator in the meantime stays one."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet, moderatedroom=True)
    await rooms.admin(romeo, "nick='juliet' role='moderator'")
    await rooms.clear(romeo, juliet)
    romeo.send(f"<message to='{ROOM}'>{form('request', muc__roomnick='juliet', muc__request_allow='1')}</message>")
    await juliet.expect_nothing()


async def test_requests_that_make_no_sense(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    romeo.send(f"<message to='{ROOM}'>{form('request', muc__role='participant')}</message>")
    assert condition((await rooms.take(romeo))[0]) == "bad-request", "it has voice"
    juliet.send(f"<message to='{ROOM}'>{form('request', muc__role='participant')}</message>")
    assert condition((await rooms.take(juliet))[0]) == "not-acceptable"
    romeo.send(f"<message to='{ROOM}'>{form('nonsense')}</message>")
    assert condition((await rooms.take(romeo))[0]) == "bad-request"


# ---- registration ---------------------------------------------------------------------------------------------------


def register(inner: str) -> str:
    return f"<iq to='{ROOM}' type='set' id='r'><query xmlns='jabber:iq:register'>{inner}</query></iq>"


ASK = f"<iq to='{ROOM}' type='get' id='r'><query xmlns='jabber:iq:register'/></iq>"


async def test_registration_makes_a_member_with_a_nickname(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet)
    question = await juliet.iq(ASK)
    assert question.find(".//{jabber:x:data}field[@var='muc#register_roomnick']") is not None
    await juliet.iq(register(form("register", muc__register_roomnick="Jule")))
    assert codes.item((await rooms.take(juliet))[0])["affiliation"] == "member"
    answer = await juliet.iq(ASK)
    assert answer.find(".//{jabber:iq:register}registered") is not None
    assert answer.findtext(".//{jabber:iq:register}username") == "Jule"
    assert condition((await rooms.enter(nurse, "jule"))[0]) == "conflict"
    refused = await nurse.iq(register(form("register", muc__register_roomnick="JULE")), type="error")
    assert condition(refused) == "conflict"
    await juliet.iq(register("<remove/>"))
    assert codes.item((await rooms.take(juliet))[0])["affiliation"] == "none"
    assert (await rooms.enter(nurse, "jule"))[0].get("type") is None
    assert condition(await juliet.iq(register("<remove/>"), type="error")) == "registration-required"


async def test_an_owner_registers_a_nickname_and_stays_owner(rooms: Any) -> None:
    (romeo,) = await rooms.login("romeo")
    await rooms.full(romeo)
    await romeo.iq(register(form("register", muc__register_roomnick="Montague")))
    assert await rooms.listed(romeo, "affiliation='owner'") == [
        {"affiliation": "owner", "jid": "romeo@example.org", "nick": "Montague"}
    ]
    await romeo.iq(register("<remove/>"))
    assert await rooms.listed(romeo, "affiliation='owner'") == [{"affiliation": "owner", "jid": "romeo@example.org"}]


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("", "bad-request"),
        (form("register"), "bad-request"),
        (form("other", muc__register_roomnick="x"), "bad-request"),
        (form("register", muc__register_roomnick="\u200b"), "not-acceptable"),
    ],
)
async def test_forms_that_cannot_be_used(rooms: Any, inner: str, expected: str) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    assert condition(await juliet.iq(register(inner), type="error")) == expected


async def test_registration_that_is_not_wanted(rooms: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, registration=False)
    await rooms.admin(romeo, "affiliation='outcast' jid='nurse@example.org'")
    assert condition(await juliet.iq(ASK, type="error")) == "not-allowed"
    assert condition(await nurse.iq(ASK, type="error")) == "forbidden"
    missing = ASK.replace("cave@", "nowhere@")
    assert condition(await juliet.iq(missing, type="error")) == "item-not-found"


async def test_registration_with_a_room_for_members_is_approved_by_an_admin(rooms: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, membersonly=True)
    await juliet.iq(register(form("register", muc__register_roomnick="Jule")))
    assert condition((await rooms.enter(juliet, "Jule"))[0]) == "registration-required"
    (question,) = await rooms.take(romeo)
    assert values(question)["muc#register_roomnick"] == "Jule"
    yes = form("register", muc__register_roomnick="Jule", muc__register_allow="1")
    nurse.send(f"<message to='{ROOM}'>{yes}</message>")
    assert condition((await rooms.take(nurse))[0]) == "forbidden"
    romeo.send(f"<message to='{ROOM}'>{yes}</message>")
    invitation = await rooms.take(juliet)
    assert invitation[0].find(f".//{{{MUC}#user}}invite") is not None
    assert (await rooms.enter(juliet, "Jule"))[0].get("type") is None
    romeo.send(f"<message to='{ROOM}'>{yes}</message>")
    assert condition((await rooms.take(romeo))[-1]) == "item-not-found", "once is enough"


async def test_registration_that_is_turned_down(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, membersonly=True)
    await juliet.iq(register(form("register", muc__register_roomnick="Jule")))
    no = form("register", muc__register_roomnick="Jule", muc__register_allow="0")
    romeo.send(f"<message to='{ROOM}'>{no}</message>")
    await rooms.clear(romeo)
    assert condition((await rooms.enter(juliet, "Jule"))[0]) == "registration-required"


async def test_admins_are_asked_once(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, membersonly=True)
    for _ in range(3):
        await juliet.iq(register(form("register", muc__register_roomnick="Jule")))
    assert len(await rooms.take(romeo)) == 1
    await juliet.iq(register(form("register", muc__register_roomnick="Capulet")))
    assert len(await rooms.take(romeo)) == 1, "another nickname is another question"
    for nick in ("C", "D", "E"):
        await juliet.iq(register(form("register", muc__register_roomnick=nick)))
    refused = await juliet.iq(register(form("register", muc__register_roomnick="F")), type="error")
    assert condition(refused) == "policy-violation"
    assert len(await rooms.take(romeo)) == 3, "nobody floods the admins of a room"


async def test_a_request_stays_until_it_is_granted(rooms: Any, expected_errors: set[str]) -> None:
    """What was refused, by the room or by the disk, can be granted later."""
    expected_errors.add("stanza_failed")
    romeo, juliet, *_ = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, membersonly=True, persistentroom=True)
    await juliet.iq(register(form("register", muc__register_roomnick="Jule")))
    await rooms.clear(romeo)
    await rooms.admin(romeo, "affiliation='member' jid='nurse@example.org' nick='Jule'")
    yes = form("register", muc__register_roomnick="Jule", muc__register_allow="1")
    romeo.send(f"<message to='{ROOM}'>{yes}</message>")
    assert condition((await rooms.take(romeo))[-1]) == "conflict"
    await rooms.admin(romeo, "affiliation='none' jid='nurse@example.org'")
    with rooms.world.db.refusing():
        romeo.send(f"<message to='{ROOM}'>{yes}</message>")
        assert (await rooms.take(romeo))[-1].get("type") == "error"
    romeo.send(f"<message to='{ROOM}'>{yes}</message>")
    await rooms.clear(romeo, juliet)
    assert (await rooms.enter(juliet, "Jule"))[0].get("type") is None


async def test_a_late_approval_of_a_registration_takes_nothing_away(rooms: Any) -> None:
    """Whoever has become an admin in the meantime stays one, and has the nickname."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, membersonly=True, persistentroom=True)
    await juliet.iq(register(form("register", muc__register_roomnick="Jule")))
    await rooms.admin(romeo, "affiliation='admin' jid='juliet@example.org'")
    yes = form("register", muc__register_roomnick="Jule", muc__register_allow="1")
    romeo.send(f"<message to='{ROOM}'>{yes}</message>")
    await rooms.clear(romeo, juliet)
    [room] = rooms.module.rooms.values()
    standing = room.standings[juliet.jid.bare]
    assert (standing.affiliation.label, standing.nick) == ("admin", "Jule")


async def test_who_asked_for_a_room_that_is_gone_asks_the_admins_of_the_next(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, membersonly=True, persistentroom=True)
    await juliet.iq(register(form("register", muc__register_roomnick="Jule")))
    await rooms.world.kernel.commands.run("muc.destroy", {"room": ROOM})
    await rooms.clear(romeo)
    await rooms.full(romeo, membersonly=True, persistentroom=True)
    yes = form("register", muc__register_roomnick="Jule", muc__register_allow="1")
    romeo.send(f"<message to='{ROOM}'>{yes}</message>")
    assert condition((await rooms.take(romeo))[-1]) == "item-not-found", "nobody has asked for this room"
    await juliet.iq(register(form("register", muc__register_roomnick="Jule")))
    assert [values(question)["muc#register_roomnick"] for question in await rooms.take(romeo)] == ["Jule"]
