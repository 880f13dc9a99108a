"""The service as a whole: what outlives it, who may make rooms, who is no longer there, commands."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import pytest
from tests.modules.muc.conftest import MUC, ROOM, Rooms, codes_of

from beamish.core.commands import CommandError
from beamish.core.events import AccountEvent, Context, RemoteLost, remote, remote_lost
from beamish.core.hooks import STOP, Row
from beamish.core.services import AccountsService
from beamish.modules.muc.hats import Hat
from beamish.modules.muc.privileges import Role
from beamish.storage.memory import MemoryDatabase
from beamish.testing.match import condition
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, MESSAGE, PRESENCE, Stanza

BODY = "{jabber:client}body"


def with_world(rooms: Any, world: World) -> Any:
    return type(rooms)(world)


# ---- what outlives the server ---------------------------------------------------------------------------------------


async def test_a_room_outlives_the_server(rooms: Any, codes: Any) -> None:
    db = MemoryDatabase()
    async with World(database=db) as world:
        stage = with_world(rooms, world)
        romeo, juliet = await stage.login("romeo", "juliet")
        await stage.full(romeo, juliet, persistentroom=True, roomname="Cave", moderatedroom=True, maxusers="7")
        await stage.full(romeo, room="temporary@conference.example.org")
        await stage.admin(romeo, "affiliation='member' jid='juliet@example.org' nick='Jule'|why")
        await stage.admin(romeo, "affiliation='outcast' jid='example.net'")
        romeo.send(f"<message to='{ROOM}' type='groupchat'><subject>Spells</subject></message>")
        stage.say(romeo, "one")
        stage.say(romeo, "two")
        own = [el for el in await stage.take(romeo) if el.find(BODY) is not None]
        before = own[0].find("{urn:xmpp:occupant-id:0}occupant-id").get("id")
    async with World(database=db) as world:
        stage = with_world(rooms, world)
        romeo, juliet, benvolio = await stage.login("romeo", "juliet", "benvolio@example.net/b")
        await stage.enter(romeo, "romeo")
        form = await romeo.iq(f"<iq to='{ROOM}' type='get' id='f'><query xmlns='{MUC}#owner'/></iq>")
        values = {f.get("var"): f.findtext("{*}value") for f in form.iter("{jabber:x:data}field")}
        assert values["muc#roomconfig_roomname"] == "Cave"
        assert (values["muc#roomconfig_moderatedroom"], values["muc#roomconfig_maxusers"]) == ("1", "7")
        assert await stage.listed(romeo, "affiliation='member'") == [
            {"affiliation": "member", "jid": "juliet@example.org", "nick": "Jule"}
        ]
        assert condition((await stage.enter(benvolio, "b"))[0]) == "forbidden"
        assert condition((await stage.enter(benvolio, "Jule"))[0]) == "forbidden"
        got = await stage.enter(juliet, "Jule")
        assert [el.findtext(BODY) for el in got if el.find(BODY) is not None] == ["one", "two"]
        assert got[-1].findtext("{jabber:client}subject") == "Spells"
        assert got[0].find("{urn:xmpp:occupant-id:0}occupant-id").get("id") == before
        items = await romeo.iq(
            "<iq to='conference.example.org' type='get' id='i'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>"
        )
        assert [i.get("jid") for i in items[0]] == [ROOM], "nobody can be in the temporary room any more"
    await db.close()


async def test_a_temporary_room_goes_with_its_last_occupant(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet, roomname="old")
    rooms.say(romeo, "secret")
    for client, nick in ((romeo, "romeo"), (juliet, "juliet")):
        client.send(f"<presence to='{ROOM}/{nick}' type='unavailable'/>")
    await rooms.clear(romeo, juliet)
    got = await rooms.enter(juliet, "juliet")
    assert codes_of(got[0]) == {110, 170, 201}
    await rooms.configure(juliet)
    await rooms.clear(juliet)
    assert [el.findtext(BODY) for el in await rooms.enter(romeo, "romeo")] == [None] * 3, (
        "nothing is left of the old one"
    )
    rows = await rooms.world.db.fetch("SELECT count(*) FROM muc_archive")
    assert rows == [(0,)]


async def test_a_persistent_room_stays_when_it_is_empty(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, persistentroom=True)
    for n in range(25):
        rooms.say(romeo, str(n))
    romeo.send(f"<presence to='{ROOM}/romeo' type='unavailable'/>")
    await rooms.clear(romeo)
    got = await rooms.enter(juliet, "juliet", inner="<history maxstanzas='3'/>")
    assert [el.findtext(BODY) for el in got if el.find(BODY) is not None] == ["22", "23", "24"], "from the archive"


async def test_two_who_enter_an_empty_room_at_once(rooms: Any) -> None:
    """Both wait for the history; both get it, and each other."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, persistentroom=True)
    rooms.say(romeo, "x")
    romeo.send(f"<presence to='{ROOM}/romeo' type='unavailable'/>")
    await rooms.clear(romeo)
    for client in (romeo, juliet):
        client.send(f"<presence to='{ROOM}/{client.jid.local}'><x xmlns='{MUC}'/></presence>")
    for client in (romeo, juliet):
        got = await rooms.take(client)
        assert sum(el.tag.endswith("}presence") for el in got) == 2
        assert [el.findtext(BODY) for el in got if el.find(BODY) is not None] == ["x"]


async def test_results_follow_the_commit(rooms: Any) -> None:
    """An affiliation that was acknowledged is in the database, and one that is not is not."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    romeo.send(
        f"<iq to='{ROOM}' type='set' id='a'><query xmlns='{MUC}#admin'>"
        "<item affiliation='admin' jid='juliet@example.org'/></query></iq>"
    )
    assert not romeo.inbox and not juliet.inbox, "nothing happens before the commit"
    got = await rooms.take(romeo)
    assert [el.tag.rpartition("}")[2] for el in got] == ["iq", "presence"]
    rows = await rooms.world.db.fetch("SELECT jid, affiliation FROM muc_standing WHERE room = ? ORDER BY jid", ROOM)
    assert rows == [("juliet@example.org", 3), ("romeo@example.org", 4)]


async def test_orders_at_the_same_time_cannot_leave_a_room_without_an_owner(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    await rooms.admin(romeo, "affiliation='owner' jid='juliet@example.org'")
    order = (
        f"<iq to='{ROOM}' type='set' id='a'><query xmlns='{MUC}#admin'><item affiliation='none' jid='%s'/></query></iq>"
    )
    romeo.send(order % "romeo@example.org")
    juliet.send(order % "juliet@example.org")
    answers = [
        el for c in (romeo, juliet) for el in await rooms.take(c) if el.tag.endswith("}iq") and el.get("id") == "a"
    ]
    assert sorted(el.get("type") for el in answers) == ["error", "result"]


# ---- who may make rooms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "who", "expected"),
    [
        ({"create": "admins"}, "romeo", "not-allowed"),
        ({"create": "admins"}, "nurse", ""),
        ({"create": "local"}, "romeo", ""),
        ({"rooms_per_user": 1}, "romeo", "resource-constraint"),
        ({"rooms_per_user": 1}, "nurse", ""),
        ({"max_rooms": 1}, "nurse", "resource-constraint"),
    ],
)
async def test_who_may_make_rooms(rooms: Any, settings: Any, who: str, expected: str) -> None:
    tree = {"server": {"admins": ["nurse@example.org"]}, "modules": {"muc": settings}}
    async with World(settings=tree) as world:
        stage = with_world(rooms, world)
        (client,) = await stage.login(who)
        if "rooms_per_user" in settings or "max_rooms" in settings:
            await stage.enter(client, "x", room="first@conference.example.org")
        got = await stage.enter(client, "x")
        assert got[0].get("type") == ("error" if expected else None)
        if expected:
            assert condition(got[0]) == expected
        if settings.get("rooms_per_user") == 1 and expected:
            client.send("<presence to='first@conference.example.org/x' type='unavailable'/>")
            assert (await stage.enter(client, "x"))[-1].get("type") == "groupchat", "one room less, one room more"


@pytest.mark.parametrize("create", ["local", "anyone"])
async def test_guests_are_guests(rooms: Any, create: str) -> None:
    """Nobody owns a room, or a nickname in it, who cannot come back; for the rest they are as welcome as others."""
    settings = {"c2s": {"anonymous": True}, "modules": {"muc": {"create": create}}}
    async with World(settings=settings) as world:
        stage = with_world(rooms, world)
        (romeo,) = await stage.login("romeo")
        guest = await world.guest()
        got = await stage.enter(guest, "g", room="mine@conference.example.org")
        assert got[0].get("type") == ("error" if create == "local" else None)
        if create == "local":
            assert condition(got[0]) == "not-allowed"
        await stage.full(romeo)
        assert (await stage.enter(guest, "g"))[-1].get("type") == "groupchat"
        stage.say(guest, "hi")
        assert [el.get("type") for el in await stage.take(guest)] == ["groupchat"]
        field = "<field var='muc#register_roomnick'><value>g</value></field>"
        form = f"<field var='FORM_TYPE'><value>{MUC}#register</value></field>{field}"
        answer = await guest.iq(
            f"<iq type='set' to='{ROOM}' id='r'><query xmlns='jabber:iq:register'>"
            f"<x xmlns='jabber:x:data' type='submit'>{form}</x></query></iq>",
            type="error",
        )
        assert condition(answer) == "not-allowed"


async def test_strangers_make_no_rooms(rooms: Any) -> None:
    (romeo,) = await rooms.login("romeo")
    out: list[Stanza] = []
    listen(rooms.world, out)
    await from_elsewhere(
        rooms.world, f"<presence to='{ROOM}/s' from='stranger@example.com/x'><x xmlns='{MUC}'/></presence>"
    )
    assert [condition(s.el) for s in out] == ["not-allowed"]
    await rooms.full(romeo)
    await from_elsewhere(
        rooms.world, f"<presence to='{ROOM}/s' from='stranger@example.com/x'><x xmlns='{MUC}'/></presence>"
    )
    assert [s.name for s in out[1:]] == [PRESENCE, PRESENCE, MESSAGE]


async def test_rooms_without_a_lock(rooms: Any) -> None:
    async with World(
        settings={"modules": {"muc": {"lock": False, "room": {"name": "Default", "logging": False}}}}
    ) as world:
        stage = with_world(rooms, world)
        romeo, juliet = await stage.login("romeo", "juliet")
        got = await stage.enter(romeo, "romeo")
        assert codes_of(got[0]) == {110, 201}
        got = await stage.enter(juliet, "juliet")
        assert codes_of(got[1]) == {110}
        rows = await world.db.fetch("SELECT room FROM muc_room")
        assert rows == [(ROOM,)]
        info = await juliet.iq(
            f"<iq to='{ROOM}' type='get' id='i'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
        )
        assert info.find(".//{http://jabber.org/protocol/disco#info}identity").get("name") == "Default"


async def test_two_who_enter_a_new_open_room_at_once(rooms: Any) -> None:
    """It is stored before anybody hears that it is there; who comes meanwhile waits."""
    async with World(settings={"modules": {"muc": {"lock": False}}}) as world:
        stage = with_world(rooms, world)
        romeo, juliet = await stage.login("romeo", "juliet")
        for client in (romeo, juliet):
            client.send(f"<presence to='{ROOM}/{client.jid.local}'><x xmlns='{MUC}'/></presence>")
        got = await stage.take(romeo)
        assert codes_of(got[0]) == {110, 170, 201}
        got = await stage.take(juliet)
        assert [el.get("from") for el in got[:2]] == [f"{ROOM}/romeo", f"{ROOM}/juliet"]
        assert codes_of(got[1]) == {110, 170}


async def test_a_nickname_that_cannot_be_leaves_no_open_room(rooms: Any) -> None:
    async with World(settings={"modules": {"muc": {"lock": False, "room": {"persistent": True}}}}) as world:
        stage = with_world(rooms, world)
        (romeo,) = await stage.login("romeo")
        assert condition((await stage.enter(romeo, "x" * 300))[0]) == "not-acceptable"
        await world.db.flushed()
        assert await world.db.fetch("SELECT room FROM muc_room") == []
        assert codes_of((await stage.enter(romeo, "romeo"))[0]) == {110, 170, 201}


async def test_one_service_for_several_domains(rooms: Any) -> None:
    async with World(settings={"modules": {"muc": {"host": "rooms.example.com"}}}) as world:
        stage = with_world(rooms, world)
        romeo, benvolio = await stage.login("romeo", "benvolio@example.net/b")
        await stage.full(romeo, benvolio, room="cave@rooms.example.com")
        for client, domain in ((romeo, "example.org"), (benvolio, "example.net")):
            items = await client.iq(
                f"<iq to='{domain}' type='get' id='i'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>"
            )
            assert "rooms.example.com" in [i.get("jid") for i in items[0]]


# ---- elsewhere, and ghosts ------------------------------------------------------------------------------------------


def listen(world: World, out: list[Stanza]) -> None:
    def carry(ctx: Context) -> Any:
        out.append(ctx.stanza)
        return STOP

    world.kernel.hooks[remote].add(Row(1, "test", carry))


async def from_elsewhere(world: World, xml: str) -> None:
    rest = world.kernel.router.route(Context(Stanza.parse(xml.encode())))
    if rest is not None:
        await rest
    await world.settle()


async def enter_from_elsewhere(rooms: Any, out: list[Stanza]) -> None:
    listen(rooms.world, out)
    await from_elsewhere(rooms.world, f"<presence to='{ROOM}/s' from='s@example.com/x'><x xmlns='{MUC}'/></presence>")


async def test_occupants_from_other_servers(rooms: Any) -> None:
    (romeo,) = await rooms.login("romeo")
    await rooms.full(romeo)
    out: list[Stanza] = []
    await enter_from_elsewhere(rooms, out)
    assert [(s.name, str(s.sender), str(s.to)) for s in out] == [
        (PRESENCE, f"{ROOM}/romeo", "s@example.com/x"),
        (PRESENCE, f"{ROOM}/s", "s@example.com/x"),
        (MESSAGE, ROOM, "s@example.com/x"),
    ]
    out.clear()
    rooms.say(romeo, "hi")
    romeo.send(f"<message to='{ROOM}/s' type='chat'><body>psst</body></message>")
    await rooms.take(romeo)
    assert [s.text(BODY) for s in out] == ["hi", "psst"]
    await from_elsewhere(
        rooms.world, f"<message to='{ROOM}' from='s@example.com/x' type='groupchat'><body>hello</body></message>"
    )
    assert (await rooms.take(romeo))[0].findtext(BODY) == "hello"


@pytest.mark.parametrize("answer", ["result", "service-unavailable", "remote-server-not-found", "nothing"])
async def test_silent_occupants_elsewhere_are_asked_whether_they_are_there(rooms: Any, answer: str) -> None:
    """Status 333 for whoever is not; an error that a client may give is an answer (§16.1.2)."""
    async with World(settings={"modules": {"muc": {"ping_seconds": 90.0}}}) as world:
        stage = with_world(rooms, world)
        (romeo,) = await stage.login("romeo")
        await stage.full(romeo)
        out: list[Stanza] = []
        await enter_from_elsewhere(stage, out)
        await stage.clear(romeo)
        out.clear()
        await world.pass_time(130)
        pings = [s for s in out if s.name == IQ]
        assert len(pings) == 1 and str(pings[0].sender) == ROOM
        reply = pings[0].reply()
        if answer == "result":
            await from_elsewhere(world, reply.to_wire().decode())
        elif answer != "nothing":
            error = f"<error type='cancel'><{answer} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
            failed = Stanza.build(IQ, "error", id=reply.id, sender=reply.sender, to=reply.to, content=error.encode())
            await from_elsewhere(world, failed.to_wire().decode())
        await world.pass_time(31)
        got = [el for el in await stage.take(romeo) if el.tag.endswith("}presence")]
        assert [codes_of(el) for el in got] == ([] if answer in ("result", "service-unavailable") else [{333}])


async def test_a_server_that_is_gone_takes_its_users_with_it(rooms: Any) -> None:
    """Status 333: occupants of a server that died (§16.1.2)."""
    (romeo,) = await rooms.login("romeo")
    await rooms.full(romeo)
    await enter_from_elsewhere(rooms, [])
    await rooms.clear(romeo)
    rooms.world.kernel.hooks[remote_lost].run(RemoteLost("example.com", "timeout"))
    assert [codes_of(el) for el in await rooms.take(romeo)] == [{333}]


async def test_a_session_that_vanished_without_a_word_is_swept_out(rooms: Any) -> None:
    """Status 333: should nobody else say that a local session is gone."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    session = rooms.world.kernel.sessions.get(JID("juliet@example.org/juliet"))
    rooms.world.kernel.sessions.remove(session)
    await rooms.world.pass_time(61)
    got = await rooms.take(romeo)
    assert [(el.get("from"), codes_of(el)) for el in got] == [(f"{ROOM}/juliet", {333})]
    rooms.world.kernel.sessions.add(session)


def many_rooms(rooms: Any, count: int) -> None:
    """Empty rooms with names that come before all others, known to nobody but the process."""
    muc = rooms.module
    for number in range(count):
        jid = JID(f"a{number:05}@conference.example.org")
        muc._enter(muc._new_room(jid, JID("nurse@example.org")), JID("nurse@example.org"))


async def test_others_have_their_turn_while_many_rooms_are_swept(rooms: Any) -> None:
    many_rooms(rooms, 2000)
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    await rooms.world.pass_time(50)  # nobody else has anything to do in the minute's last seconds
    session = rooms.world.kernel.sessions.get(JID("juliet@example.org/juliet"))
    rooms.world.kernel.sessions.remove(session)
    rooms.world.clock.advance(11)
    await asyncio.sleep(0)  # it begins
    await asyncio.sleep(0)
    romeo.send("<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    got = await rooms.take(romeo)
    assert [(el.get("id"), codes_of(el)) for el in got] == [("p", set()), (None, {333})]
    rooms.world.kernel.sessions.add(session)


async def test_a_sweep_is_not_joined_by_another_and_none_is_the_last(rooms: Any) -> None:
    many_rooms(rooms, 2000)
    ghosts = rooms.module.ghosts
    rooms.world.clock.advance(61)
    first = ghosts._looking
    rooms.world.clock.advance(61)
    assert ghosts._looking is first and not first.done()
    await rooms.world.pass_time(61)
    assert ghosts._looking is first and first.done()
    await rooms.world.pass_time(61)
    assert ghosts._looking is not first and ghosts._looking.done()


async def test_a_removed_account_is_looked_for_in_many_rooms_with_turns_for_others(rooms: Any) -> None:
    many_rooms(rooms, 2000)
    (romeo,) = await rooms.login("romeo")
    await rooms.full(romeo, persistentroom=True)
    await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org'")
    await rooms.clear(romeo)
    seen: list[int] = []

    class Roles(OrderedDict[JID, Role]):
        def pop(self, *args: Any) -> Any:
            seen.append(len(romeo.inbox))
            return super().pop(*args)

    rooms.module.rooms[JID("a01999@conference.example.org")].roles = Roles()
    removing = asyncio.ensure_future(rooms.module.account_removed(AccountEvent(JID("juliet@example.org"))))
    await asyncio.sleep(0)
    romeo.send("<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    await removing
    answers = [el.get("id") for el in await rooms.take(romeo) if str(el.tag).endswith("}iq")]
    assert answers == ["p"] and seen == [1], "answered before the last room"
    assert await rooms.listed(romeo, "affiliation='member'") == []


async def test_a_lost_server_takes_only_its_own(rooms: Any) -> None:
    """Whoever came from it, from each room that they were in; also those who had left another one before."""
    (romeo,) = await rooms.login("romeo")
    out: list[Stanza] = []
    listen(rooms.world, out)
    two = "heath@conference.example.org"
    await rooms.full(romeo)
    await rooms.full(romeo, room=two)
    for room, who in (
        (ROOM, "a@one.example/x"),
        (two, "a@one.example/x"),
        (ROOM, "b@two.example/x"),
        (two, "c@one.example/x"),
    ):
        nick = who[0]
        await from_elsewhere(rooms.world, f"<presence to='{room}/{nick}' from='{who}'><x xmlns='{MUC}'/></presence>")
    await from_elsewhere(rooms.world, f"<presence to='{two}/c' from='c@one.example/x' type='unavailable'/>")
    await rooms.clear(romeo)
    rooms.world.kernel.hooks[remote_lost].run(RemoteLost("one.example", "timeout"))
    assert sorted(str(el.get("from")) for el in await rooms.take(romeo)) == [f"{ROOM}/a", f"{two}/a"]
    assert rooms.module.visits.from_domain("one.example") == []
    assert [seat.jid for _, seat in rooms.module.visits.from_domain("two.example")] == ["b@two.example/x"]
    rooms.world.kernel.hooks[remote_lost].run(RemoteLost("two.example", "timeout"))
    assert [el.get("from") for el in await rooms.take(romeo)] == [f"{ROOM}/b"]


async def test_of_a_large_server_some_leave_in_each_turn_of_the_loop(rooms: Any) -> None:
    """Whoever is back before its turn stays; all others leave with 333."""
    (romeo,) = await rooms.login("romeo")
    out: list[Stanza] = []
    listen(rooms.world, out)
    await rooms.full(romeo)
    for n in range(30):
        await from_elsewhere(
            rooms.world, f"<presence to='{ROOM}/u{n}' from='u{n}@one.example/x'><x xmlns='{MUC}'/></presence>"
        )
    await rooms.clear(romeo)
    rest: Any = rooms.world.kernel.hooks[remote_lost].run(RemoteLost("one.example", "timeout"))
    [room] = rooms.module.rooms.values()
    left = [o.nick for o in room.occupants.values() if o.nick != "romeo"]
    assert 0 < len(left) < 30
    back = left[-1]
    for kind, inner in ((" type='unavailable'", ""), ("", f"<x xmlns='{MUC}'/>")):
        await from_elsewhere(
            rooms.world, f"<presence to='{ROOM}/{back}' from='{back}@one.example/x'{kind}>{inner}</presence>"
        )
    await rest
    got = await rooms.take(romeo)
    gone = [str(el.get("from")) for el in got if 333 in codes_of(el)]
    assert sorted(gone) == sorted(f"{ROOM}/u{n}" for n in range(30) if f"u{n}" != back)
    assert sorted(o.nick for o in room.occupants.values()) == ["romeo", back]


async def test_the_service_stops(rooms: Any) -> None:
    """Status 332: whoever is still inside is told so (§11.2)."""
    out: list[Stanza] = []
    async with World() as world:
        stage = with_world(rooms, world)
        (romeo,) = await stage.login("romeo")
        await stage.full(romeo)
        await enter_from_elsewhere(stage, out)
        out.clear()
    last = [s for s in out if s.name == PRESENCE and s.type == "unavailable" and codes_of(s.el)]
    assert [codes_of(s.el) for s in last] == [{110, 332}]


# ---- accounts, commands ---------------------------------------------------------------------------------------------


async def test_a_removed_account_is_nobody_in_any_room(rooms: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, nurse, persistentroom=True)
    await rooms.admin(romeo, "affiliation='admin' jid='nurse@example.org'")
    await rooms.full(romeo, juliet, room="heath@conference.example.org")
    await rooms.clear(juliet, nurse)
    await rooms.world.kernel.service(AccountsService).remove(JID("romeo@example.org"))
    assert [i["jid"] for i in await rooms.listed(nurse, "affiliation='owner'")] == ["nurse@example.org"]
    got = await rooms.take(juliet)
    assert got[-1].find(f".//{{{MUC}#user}}destroy") is not None, "nobody is left to own it"


async def test_the_heir_of_a_room_is_seen_as_its_owner(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse, persistentroom=True)
    await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org'")
    await rooms.clear(juliet, nurse)
    await rooms.world.kernel.service(AccountsService).remove(JID("romeo@example.org"))
    seen = [el for el in await rooms.take(nurse) if el.get("from") == f"{ROOM}/juliet"]
    assert [(codes.item(el)["affiliation"], codes.item(el)["role"]) for el in seen] == [("owner", "moderator")]
    await rooms.configure(juliet, roomname="Mine")


async def test_a_new_account_of_an_old_name_has_nothing_of_it(rooms: Any) -> None:
    """Hats and roles, too; a room that ends while accounts are removed keeps nobody's place in another one."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet, persistentroom=True)
    muc = rooms.module
    room, user = muc.rooms[JID(ROOM)], JID("juliet@example.org")
    await muc.store.set_hat(room.jid, Hat("urn:x", "X"))
    room.hats["urn:x"] = Hat("urn:x", "X")
    await muc.store.set_wearer(room.jid, user, "urn:x", True)
    room.wearers[user] = ("urn:x",)
    await rooms.admin(romeo, "nick='juliet' role='moderator'")
    await rooms.world.kernel.service(AccountsService).remove(user)
    assert user not in room.wearers and user not in room.roles
    assert await rooms.world.db.fetch("SELECT jid FROM muc_wearer") == []


async def test_a_room_that_ends_does_not_keep_the_others_from_forgetting_an_account(rooms: Any) -> None:
    romeo, _ = await rooms.login("romeo", "juliet")
    other = "heath@conference.example.org"
    for room in (ROOM, other):
        await rooms.full(romeo, room=room)
        await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org'", room=room)
    muc = rooms.module
    first = muc.rooms[JID(ROOM)]
    async with muc.exclusive(first):
        removal = asyncio.ensure_future(rooms.world.kernel.service(AccountsService).remove(JID("juliet@example.org")))
        await rooms.world.settle()
        muc.close(first)
    await removal
    assert await rooms.listed(romeo, "affiliation='member'", room=other) == []


async def test_commands(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    run = rooms.world.kernel.commands.run
    await run("muc.create", {"room": ROOM, "owner": "romeo@example.org"})
    with pytest.raises(CommandError, match="exists already"):
        await run("muc.create", {"room": ROOM, "owner": "romeo@example.org"})
    with pytest.raises(CommandError, match="name@conference"):
        await run("muc.create", {"room": "cave@example.org", "owner": "romeo@example.org"})
    await rooms.enter(juliet, "juliet")
    assert await run("muc.list", {}) == [{"room": ROOM, "name": "", "occupants": 1, "persistent": True, "public": True}]
    await run("muc.affiliate", {"room": ROOM, "jid": "juliet@example.org", "affiliation": "admin"})
    assert codes.item((await rooms.take(juliet))[0])["role"] == "moderator"
    assert await run("muc.affiliations", {"room": ROOM, "affiliation": "admin"}) == [
        {"jid": "juliet@example.org", "affiliation": "admin", "nick": "", "reason": ""}
    ]
    with pytest.raises(CommandError, match="keep an owner"):
        await run("muc.affiliate", {"room": ROOM, "jid": "romeo@example.org", "affiliation": "none"})
    info = await run("muc.info", {"room": ROOM})
    assert info["occupants"] == [{"nick": "juliet", "jids": ["juliet@example.org/juliet"], "role": "moderator"}]
    assert "secret" not in info["config"]
    await run("muc.destroy", {"room": ROOM, "reason": "over"})
    assert (await rooms.take(juliet))[0].findtext(f".//{{{MUC}#user}}reason") == "over"
    with pytest.raises(CommandError, match="no room"):
        await run("muc.info", {"room": ROOM})
    await romeo.expect_nothing()


async def test_what_is_deleted_for_its_age_is_not_told_to_newcomers() -> None:
    """Also in a room that somebody never leaves, whose history is in memory."""
    settings = {"modules": {"muc": {"archive_days": 1}}, "c2s": {"probe_after": 10_000_000.0}}
    async with World(settings=settings) as world:
        rooms = Rooms(world)
        (romeo,) = await rooms.login("romeo")
        await rooms.full(romeo)
        rooms.say(romeo, "old")
        await rooms.clear(romeo)
        await world.pass_time(86_300.0)
        rooms.say(romeo, "new")
        await rooms.clear(romeo)
        await world.pass_time(200.0)
        (juliet,) = await rooms.login("juliet")
        got = await rooms.enter(juliet, "juliet")
        texts = [el.findtext("{jabber:client}body") for el in got]
        assert [text for text in texts if text is not None] == ["new"]
