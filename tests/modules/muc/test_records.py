"""XEP-0313 for rooms, XEP-0424 and XEP-0425, as plays."""

from __future__ import annotations

from typing import Any

import pytest
from tests.modules.muc.conftest import MUC, ROOM

from beamish.testing.match import condition

BODY = ".//{jabber:client}body"


class Reader:
    """Asks a room's archive."""

    def __init__(self, rooms: Any, client: Any) -> None:
        self.rooms, self.client = rooms, client

    async def ask(self, rsm: str = "", type: str = "result", attrs: str = "", extra: str = "", **fields: Any) -> Any:
        """The result messages and the `<fin/>`; or the error."""
        inner = "".join(
            f"<field var='{var.replace('_', '-')}'>"
            + "".join(f"<value>{v}</value>" for v in (value if isinstance(value, list) else [value]))
            + "</field>"
            for var, value in fields.items()
        )
        form = (
            "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>urn:xmpp:mam:2</value></field>"
            f"{inner}</x>"
        )
        set_ = f"<set xmlns='http://jabber.org/protocol/rsm'>{rsm}</set>" if rsm else ""
        answer = await self.client.iq(
            f"<iq to='{ROOM}' type='set' id='q'><query xmlns='urn:xmpp:mam:2'{attrs}>{form}{set_}{extra}</query></iq>",
            type=type,
        )
        if type == "error":
            return answer
        got = await self.rooms.take(self.client)
        return [el for el in got if el.find("{urn:xmpp:mam:2}result") is not None], answer[0]

    async def bodies(self, rsm: str = "", **fields: Any) -> list[str]:
        got, _ = await self.ask(rsm, **fields)
        return [el.findtext(BODY) for el in got]


async def talk(rooms: Any, *clients: Any, count: int = 6) -> list[str]:
    """Messages 0, 1, 2 … a minute apart; their archive ids."""
    uids = []
    for n in range(count):
        rooms.say(clients[n % len(clients)], str(n), id=f"m{n}")
        got = await rooms.take(clients[0])
        uids.append(got[-1].find("{urn:xmpp:sid:0}stanza-id").get("id"))
        await rooms.world.pass_time(60)
    await rooms.clear(*clients)
    return uids


@pytest.mark.parametrize(
    "inner",
    [
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
        "<body>secret</body><no-store xmlns='urn:xmpp:hints'/>",
        "",
    ],
)
async def test_what_is_not_archived_has_no_id_in_the_archive(rooms: Any, inner: str) -> None:
    """XEP-0313 §3.5: whoever goes on after the last id that it saw gets what came since."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    uids = await talk(rooms, romeo, count=2)
    await rooms.clear(juliet)
    romeo.send(f"<message to='{ROOM}' type='groupchat' id='u'>{inner}</message>")
    (seen,) = await rooms.take(juliet)
    uids += [el.get("id") for el in seen.iter("{urn:xmpp:sid:0}stanza-id")]
    rooms.say(romeo, "later")
    await rooms.clear(romeo, juliet)
    assert await Reader(rooms, juliet).bodies(f"<after>{uids[-1]}</after>") == ["later"]


async def test_a_result(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    uids = await talk(rooms, romeo, count=1)
    got, fin = await Reader(rooms, juliet).ask(attrs=" queryid='g27'")
    assert codes.matches(
        f"<message from='{ROOM}' to='juliet@example.org/juliet'>"
        f"<result xmlns='urn:xmpp:mam:2' queryid='g27' id='{uids[0]}'><forwarded xmlns='urn:xmpp:forward:0'>"
        "<delay xmlns='urn:xmpp:delay' stamp='2023-11-14T22:13:20.000Z'/>"
        f"<message xmlns='jabber:client' from='{ROOM}/romeo' to='!' type='groupchat' id='m0'><body>0</body>"
        f"<occupant-id xmlns='urn:xmpp:occupant-id:0' id='*'/><x xmlns='{MUC}#user' absent='!'/></message>"
        "</forwarded></result></message>",
        got[0],
    )
    assert fin.get("complete") == "true"
    assert fin.findtext(".//{http://jabber.org/protocol/rsm}first") == uids[0]


async def test_filters_and_pages(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    uids = await talk(rooms, romeo, juliet)
    reader = Reader(rooms, juliet)
    assert await reader.bodies() == list("012345")
    assert await reader.bodies("<max>2</max>") == ["0", "1"]
    assert await reader.bodies(f"<max>2</max><after>{uids[1]}</after>") == ["2", "3"]
    assert await reader.bodies("<max>2</max><before/>") == ["4", "5"]
    assert await reader.bodies(f"<max>2</max><before>{uids[4]}</before>") == ["2", "3"]
    assert await reader.bodies(start="2023-11-14T22:15:20Z", end="2023-11-14T22:16:20Z") == ["2", "3"]
    assert await reader.bodies(after_id=uids[1], before_id=uids[4]) == ["2", "3"]
    assert await reader.bodies(ids=[uids[5], uids[0]]) == ["0", "5"]
    assert await reader.bodies(**{"with": f"{ROOM}/juliet"}) == ["1", "3", "5"]
    got, fin = await reader.ask("<max>0</max>")
    assert (got, fin.findtext(".//{http://jabber.org/protocol/rsm}count")) == ([], "6")
    got, fin = await reader.ask("<max>4</max>")
    assert fin.get("complete") is None
    got, fin = await reader.ask(extra="<flip-page/>")
    assert [el.findtext(BODY) for el in got] == list("543210")
    assert fin.findtext(".//{http://jabber.org/protocol/rsm}first") == uids[0]


@pytest.mark.parametrize(
    ("rsm", "fields", "expected"),
    [
        ("<after>nothing</after>", {}, "item-not-found"),
        ("<before>nothing</before>", {}, "item-not-found"),
        ("", {"after_id": "nothing"}, "item-not-found"),
        ("", {"ids": ["nothing"]}, "item-not-found"),
        ("", {"start": "yesterday"}, "bad-request"),
        ("", {"with": "juliet@example.org"}, "forbidden"),
        ("", {"nonsense": "1"}, "feature-not-implemented"),
        ("<max>x</max>", {}, "bad-request"),
    ],
)
async def test_questions_without_an_answer(rooms: Any, rsm: str, fields: Any, expected: str) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    assert condition(await Reader(rooms, juliet).ask(rsm, type="error", **fields)) == expected


async def test_who_sees_real_addresses(rooms: Any) -> None:
    """§6.1.2: moderators always, everybody in non-anonymous rooms; asked at the time of the query."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    await talk(rooms, juliet, count=1)

    async def seen(client: Any) -> Any:
        got, _ = await Reader(rooms, client).ask()
        item = got[0].find(f".//{{{MUC}#user}}item")
        return None if item is None else item.get("jid")

    assert await seen(romeo) == "juliet@example.org/juliet"
    assert await seen(juliet) is None
    assert await Reader(rooms, romeo).bodies(**{"with": "juliet@example.org"}) == ["0"]
    assert await Reader(rooms, romeo).bodies(**{"with": "juliet@example.org/other"}) == []
    await rooms.configure(romeo, whois="anyone")
    await rooms.clear(juliet)
    assert await seen(juliet) == "juliet@example.org/juliet"


@pytest.mark.parametrize(
    ("config", "order", "expected"),
    [
        ({}, "", ""),
        ({}, "affiliation='outcast' jid='nurse@example.org'", "forbidden"),
        ({"membersonly": True}, "", "forbidden"),
        ({"membersonly": True}, "affiliation='member' jid='nurse@example.org'", ""),
        ({"passwordprotectedroom": True, "roomsecret": "pw"}, "", "forbidden"),
        ({"enablelogging": False}, "", "service-unavailable"),
    ],
)
async def test_who_may_enter_may_read(rooms: Any, config: Any, order: str, expected: str) -> None:
    romeo, nurse = await rooms.login("romeo", "nurse")
    await rooms.full(romeo, **config)
    await talk(rooms, romeo, count=1)
    if order:
        await rooms.admin(romeo, order)
    await rooms.clear(nurse)
    if expected:
        assert condition(await Reader(rooms, nurse).ask(type="error")) == expected
    else:
        assert await Reader(rooms, nurse).bodies() == ["0"]


async def test_what_is_archived(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    for inner in (
        "<body>yes</body>",
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
        "<body>not</body><no-store xmlns='urn:xmpp:hints'/>",
        "<no-store xmlns='urn:xmpp:hints'/><body>nor this</body>",
        "<subject>nor that</subject><no-store xmlns='urn:xmpp:hints'/>",
        "<encrypted xmlns='urn:xmpp:omemo:2'/>",
        "<reactions xmlns='urn:xmpp:reactions:0' id='x'/>",
        "<subject>topic</subject>",
        "<displayed xmlns='urn:xmpp:chat-markers:0' id='x'/>",
    ):
        romeo.send(f"<message to='{ROOM}' type='groupchat'>{inner}</message>")
    romeo.send(f"<message to='{ROOM}/juliet' type='chat'><body>private</body></message>")
    await rooms.clear(romeo, juliet)
    got, _ = await Reader(rooms, juliet).ask()
    kinds = [el.find(".//{jabber:client}message")[0].tag.rpartition("}")[2] for el in got]
    assert kinds == ["body", "encrypted", "reactions", "subject", "displayed"]


async def test_without_an_archive_there_is_still_history(rooms: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, enablelogging=False)
    await talk(rooms, romeo, count=3)
    got = await rooms.enter(nurse, "nurse")
    assert [el.findtext(BODY) for el in got if el.find(BODY) is not None] == list("012")
    await rooms.configure(romeo, enablelogging=True)
    await rooms.clear(romeo, juliet)
    assert await Reader(rooms, juliet).bodies() == [], "what was said before was not said for the archive"


async def test_form_and_ends(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    form = await juliet.iq(f"<iq to='{ROOM}' type='get' id='f'><query xmlns='urn:xmpp:mam:2'/></iq>")
    assert {f.get("var") for f in form.iter("{jabber:x:data}field")} == {
        "FORM_TYPE", "with", "start", "end", "before-id", "after-id", "ids",
    }  # fmt: skip
    ask = f"<iq to='{ROOM}' type='get' id='f'><metadata xmlns='urn:xmpp:mam:2'/></iq>"
    assert len((await juliet.iq(ask))[0]) == 0
    uids = await talk(rooms, romeo, count=3)
    await rooms.clear(juliet)
    ends = (await juliet.iq(ask))[0]
    assert [(el.get("id"), el.get("timestamp")) for el in ends] == [
        (uids[0], "2023-11-14T22:13:20.000Z"),
        (uids[2], "2023-11-14T22:15:20.000Z"),
    ]


# ---- retraction -----------------------------------------------------------------------------------------------------


def moderate(uid: str, reason: str = "Spam") -> str:
    return (
        f"<iq to='{ROOM}' type='set' id='mod'><moderate id='{uid}' xmlns='urn:xmpp:message-moderate:1'>"
        f"<retract xmlns='urn:xmpp:message-retract:1'/><reason>{reason}</reason></moderate></iq>"
    )


async def test_moderation(rooms: Any, codes: Any) -> None:
    """XEP-0425: told to everybody, gone from the history, a tombstone in the archive."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet)
    uids = await talk(rooms, juliet, romeo, count=2)
    assert condition(await juliet.iq(moderate(uids[0]), type="error")) == "forbidden"
    assert condition(await romeo.iq(moderate("nothing"), type="error")) == "item-not-found"
    await romeo.iq(moderate(uids[0]))
    (told,) = await rooms.take(juliet)
    assert codes.matches(
        f"<message type='groupchat' from='{ROOM}' id='*'><retract id='{uids[0]}' xmlns='urn:xmpp:message-retract:1'>"
        f"<moderated by='{ROOM}/romeo' xmlns='urn:xmpp:message-moderate:1'>"
        "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='*'/></moderated><reason>Spam</reason></retract>"
        f"<apply-to id='{uids[0]}' xmlns='urn:xmpp:fasten:0'><moderated by='{ROOM}/romeo' xmlns='urn:xmpp:message-moderate:0'>"
        "<retract xmlns='urn:xmpp:message-retract:0'/><reason>Spam</reason></moderated></apply-to>"
        "<stanza-id xmlns='urn:xmpp:sid:0' id='*'/></message>",
        told,
    )
    got = await rooms.enter(nurse, "nurse")
    assert [el.findtext(BODY) for el in got if el.find(BODY) is not None] == ["1"]
    await rooms.clear(juliet)
    messages, _ = await Reader(rooms, juliet).ask()
    assert [el.findtext(BODY) for el in messages] == [None, "1", None]
    assert codes.matches(
        f"<message xmlns='jabber:client' type='groupchat' from='{ROOM}/juliet' id='m0'>"
        "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='*'/>"
        "<retracted xmlns='urn:xmpp:message-retract:1' stamp='*'><moderated xmlns='urn:xmpp:message-moderate:1' "
        f"by='{ROOM}/romeo'/><reason>Spam</reason></retracted></message>",
        messages[0].find(".//{jabber:client}message"),
    )
    assert messages[2].find(".//{urn:xmpp:message-retract:1}retract") is not None


async def test_moderation_as_version_0_2_asks_for_it(rooms: Any) -> None:
    """What Gajim 1.7 sends, with and without a reason; occupants are told in both forms."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    uids = await talk(rooms, juliet, romeo, count=2)

    def ask(uid: str, inside: str) -> str:
        moderate = f"<moderate xmlns='urn:xmpp:message-moderate:0'>{inside}</moderate>"
        return f"<iq to='{ROOM}' type='set' id='mod'><apply-to xmlns='urn:xmpp:fasten:0' id='{uid}'>{moderate}</apply-to></iq>"

    retract = "<retract xmlns='urn:xmpp:message-retract:0'/>"
    assert condition(await juliet.iq(ask(uids[0], retract), type="error")) == "forbidden"
    assert condition(await romeo.iq(ask(uids[0], ""), type="error")) == "bad-request"
    assert condition(await romeo.iq(ask("nothing", retract), type="error")) == "item-not-found"
    for uid, inside, reason in ((uids[0], retract, None), (uids[1], f"{retract}<reason>Spam</reason>", "Spam")):
        await romeo.iq(ask(uid, inside))
        (told,) = await rooms.take(juliet)
        new, old = told.find("{urn:xmpp:message-retract:1}retract"), told.find("{urn:xmpp:fasten:0}apply-to")
        assert new.get("id") == old.get("id") == uid
        assert new.findtext("{urn:xmpp:message-retract:1}reason") == reason
        assert old.findtext(".//{urn:xmpp:message-moderate:0}reason") == reason
        assert old[0].get("by") == f"{ROOM}/romeo"
        await rooms.clear(romeo)
    messages, _ = await Reader(rooms, juliet).ask()
    assert [el.findtext(BODY) for el in messages] == [None] * 4


async def test_an_author_takes_a_message_back(rooms: Any) -> None:
    """XEP-0424: passed on and archived; what it names is gone, if it is the author's own."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet)
    uids = await talk(rooms, juliet, romeo, count=2)
    for uid in uids:
        juliet.send(
            f"<message to='{ROOM}' type='groupchat' id='r-{uid}'>"
            f"<retract id='{uid}' xmlns='urn:xmpp:message-retract:1'/></message>"
        )
    assert len(await rooms.take(romeo)) == 2
    await rooms.clear(juliet)
    got = await rooms.enter(nurse, "nurse")
    assert [el.findtext(BODY) for el in got if el.find(BODY) is not None] == ["1"], "somebody else's stays"
    messages, _ = await Reader(rooms, romeo).ask()
    assert [el.findtext(BODY) for el in messages if el.find(".//{urn:xmpp:mam:2}result") is not None][:2] == [None, "1"]
    stone = next(el for el in messages if el.find(".//{urn:xmpp:message-retract:1}retracted") is not None)
    assert stone.find(".//{urn:xmpp:message-retract:1}retracted").get("id") == f"r-{uids[0]}"
