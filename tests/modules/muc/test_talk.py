"""XEP-0045 §7: entering, talking, leaving, as plays."""

from __future__ import annotations

from typing import Any

import pytest
from tests.modules.muc.conftest import FORGED, MUC, ROOM, bodies

from beamish.testing.match import condition, show
from beamish.testing.world import World
from beamish.xmpp.jid import JID

# ---- messages -------------------------------------------------------------------------------------------------------


async def test_messages_reach_everybody_unchanged(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    html = "<html xmlns='http://jabber.org/protocol/xhtml-im'><body xmlns='http://www.w3.org/1999/xhtml'><p>h<b>i</b></p></body></html>"
    geo = "<geoloc xmlns='http://jabber.org/protocol/geoloc'><lat>1</lat></geoloc>"
    juliet.send(
        f"<message to='{ROOM}' type='groupchat' id='c&apos;1' xml:lang='it'><body>ciao &lt;&amp;</body>"
        f"<thread>t1</thread>{html}{geo}<origin-id xmlns='urn:xmpp:sid:0' id='o1'/></message>"
    )
    for client in (romeo, juliet, nurse):
        (got,) = await rooms.take(client)
        assert codes.matches(
            f"<message type='groupchat' id=\"c'1\" xml:lang='it' from='{ROOM}/juliet' to='{client.jid}'>"
            f"<body>ciao &lt;&amp;</body><thread>t1</thread>{html}{geo}<origin-id xmlns='urn:xmpp:sid:0' id='o1'/>"
            f"<stanza-id xmlns='urn:xmpp:sid:0' by='{ROOM}' id='*'/>"
            "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='*'/></message>",
            got,
        )


async def test_what_only_rooms_say_is_taken_out_of_messages(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    rooms.say(
        juliet,
        "hi",
        extra=f"{FORGED}<stanza-id xmlns='urn:xmpp:sid:0' by='{ROOM}' id='forged'/>"
        "<stanza-id xmlns='urn:xmpp:sid:0' by='elsewhere' id='kept'/>"
        "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='forged'/>"
        "<retracted xmlns='urn:xmpp:message-retract:1' id='forged' stamp='2001-01-01T00:00:00Z'>"
        f"<moderated xmlns='urn:xmpp:message-moderate:1' by='{ROOM}/romeo'/><reason>none</reason></retracted>"
        f"<delay xmlns='urn:xmpp:delay' from='{ROOM}' stamp='2001-01-01T00:00:00Z'/>"
        "<delay xmlns='urn:xmpp:delay' from='juliet@example.org' stamp='2002-01-01T00:00:00Z'/>",
    )
    (got,) = await rooms.take(romeo)
    assert b"forged" not in show(got).encode()
    assert got.find(f"{{{MUC}#user}}x") is None
    assert {el.get("by") for el in got.findall("{urn:xmpp:sid:0}stanza-id")} == {ROOM, "elsewhere"}
    assert [el.get("from") for el in got.findall("{urn:xmpp:delay}delay")] == ["juliet@example.org"]


async def test_the_pseudonym_of_an_occupant_is_the_same_in_everything_and_another_in_another_room(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    other = "heath@conference.example.org"
    await rooms.full(romeo, juliet)
    await rooms.full(romeo, juliet, room=other)
    tag = "{urn:xmpp:occupant-id:0}occupant-id"
    ids: dict[str, set[str]] = {ROOM: set(), other: set()}
    for room in (ROOM, other):
        rooms.say(juliet, "a", room=room)
        juliet.send(f"<presence to='{room}/jj'/>")
        juliet.send(f"<message to='{room}/romeo' type='chat'><body>pm</body></message>")
        juliet.send(f"<presence to='{room}/jj' type='unavailable'/>")
        got = await rooms.take(romeo)
        assert len(got) == 5
        for el in got:
            assert len(el.findall(tag)) == 1, show(el)
            ids[room].add(el.find(tag).get("id"))
    assert len(ids[ROOM]) == len(ids[other]) == 1
    assert ids[ROOM] != ids[other]
    assert len(ids[ROOM].pop()) <= 128


async def test_who_may_speak(rooms: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, moderatedroom=True)
    rooms.say(juliet, "hi", id="v1")
    (got,) = await rooms.take(juliet)
    assert (condition(got), got.get("id"), got.get("from")) == ("forbidden", "v1", ROOM)
    rooms.say(nurse, "hi")
    assert condition((await rooms.take(nurse))[0]) == "not-acceptable"
    rooms.say(nurse, "hi", room="nowhere@conference.example.org")
    assert condition((await rooms.take(nurse))[0]) == "item-not-found"
    assert await rooms.take(romeo) == []


@pytest.mark.parametrize("type_", ["", " type='chat'"])
async def test_messages_of_another_type_are_refused(rooms: Any, type_: str) -> None:
    (romeo,) = await rooms.login("romeo")
    await rooms.full(romeo)
    romeo.send(f"<message to='{ROOM}'{type_}><body>hi</body></message>")
    assert condition((await rooms.take(romeo))[0]) == "bad-request"


async def test_what_passes_in_a_room_before_it_is_configured(rooms: Any) -> None:
    """Poezio sends a chat state as soon as it is in a room, and shows the error. That accepts nothing, nor does the rest."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.enter(romeo, "romeo")
    romeo.send(
        f"<message to='{ROOM}' type='groupchat'><active xmlns='http://jabber.org/protocol/chatstates'/></message>"
    )
    await romeo.expect(f"<message type='groupchat' from='{ROOM}/romeo'><body absent='!'/></message>")
    refused = (
        (romeo, "/romeo", "type='chat'", "<body>To myself</body>"),
        (romeo, "", "", f"<x xmlns='{MUC}#user'><decline to='juliet@example.org'/></x>"),
        (romeo, "", "", "<body>Not to everybody</body>"),
        (juliet, "", "type='groupchat'", "<body>Hello?</body>"),
        (juliet, "", "", f"<x xmlns='{MUC}#user'><invite to='juliet@example.org'/></x>"),
    )
    for client, place, type_, content in refused:
        client.send(f"<message to='{ROOM}{place}' {type_}>{content}</message>")
        got = (await rooms.take(client))[-1]
        assert condition(got) == "item-not-found", content
        assert got.findtext(".//{*}text") == "this room is not configured yet"
    assert condition((await rooms.enter(juliet, "juliet"))[0]) == "item-not-found", "still locked"
    await rooms.configure(romeo, publicroom=True)
    assert not [each for each in await rooms.enter(juliet, "juliet") if each.findtext("{*}body")], "no history"


@pytest.mark.parametrize(
    ("type_", "content"),
    [
        ("groupchat", "<body>Anybody?</body>"),
        ("groupchat", "<subject>Caves</subject>"),
        ("normal", f"<x xmlns='{MUC}#user'><invite to='juliet@example.org'/></x>"),
    ],
)
async def test_whoever_speaks_in_a_new_room_accepts_it(rooms: Any, type_: str, content: str) -> None:
    """BitlBee invites as soon as it has made a room, and sends no form: nobody whom it invited could enter.

    What is on disk then is the room with what was said.
    """
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.enter(romeo, "romeo")
    romeo.send(f"<message to='{ROOM}' type='{type_}' id='1'>{content}</message>")
    told = await rooms.take(romeo)
    assert [el.get("type") for el in told] == (["groupchat"] if type_ == "groupchat" else [])
    got = await rooms.enter(juliet, "juliet")
    heard = [el for el in got if el.tag == "{jabber:client}message" or (el.get("from") == f"{ROOM}/juliet")]
    if type_ == "normal":
        assert heard[0].find(f".//{{{MUC}#user}}invite") is not None
        heard.pop(0)
    assert heard[0].get("type") is None, "she is in"
    if content.startswith("<body"):
        assert bodies(heard) == ["Anybody?"]
    if content.startswith("<subject"):
        assert heard[-1].findtext("{jabber:client}subject") == "Caves"
    (stored,) = await rooms.module.store.load()
    assert (stored.jid, stored.subject.text) == (ROOM, "Caves" if content.startswith("<subject") else "")


async def test_words_for_a_room_that_was_given_up(rooms: Any) -> None:
    """The creator leaves while the room is being stored: the words come back, and nothing is left of it."""
    (romeo,) = await rooms.login("romeo")
    await rooms.enter(romeo, "romeo")
    held = rooms.module.exclusive(rooms.module.rooms[JID.parse(ROOM)])
    await held.__aenter__()
    rooms.say(romeo, "Anybody?")
    await rooms.world.settle()
    rooms.module.close(rooms.module.rooms[JID.parse(ROOM)])
    await held.__aexit__(None, None, None)
    assert condition((await rooms.take(romeo))[-1]) == "item-not-found"
    assert await rooms.module.store.load() == []


async def test_the_subject(rooms: Any) -> None:
    """§8.1: moderators, and participants where the room says so; never visitors."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    change = f"<message to='{ROOM}' type='groupchat' id='s'><subject>%s</subject></message>"
    juliet.send(change % "Mine")
    assert condition((await rooms.take(juliet))[0]) == "forbidden"
    romeo.send(change % "Ours")
    for client in (romeo, juliet):
        (got,) = await rooms.take(client)
        assert (got.findtext("{jabber:client}subject"), got.get("from")) == ("Ours", f"{ROOM}/romeo")
    await rooms.configure(romeo, changesubject=True)
    await rooms.clear(romeo, juliet)
    juliet.send(change % "Mine")
    assert (await rooms.take(romeo))[0].findtext("{jabber:client}subject") == "Mine"
    await rooms.admin(romeo, "nick='juliet' role='visitor'")
    await rooms.clear(romeo, juliet)
    juliet.send(change % "Again")
    assert condition((await rooms.take(juliet))[0]) == "forbidden"
    romeo.send(f"<message to='{ROOM}' type='groupchat'><subject/></message>")
    await rooms.clear(romeo, juliet)
    (nurse,) = await rooms.login("nurse")
    last = (await rooms.enter(nurse, "nurse"))[-1]
    assert last.find("{jabber:client}subject").text is None
    assert last.find("{urn:xmpp:delay}delay") is not None, "it was cleared by somebody"


async def test_a_subject_with_a_body_is_a_message(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    juliet.send(f"<message to='{ROOM}' type='groupchat'><subject>Re</subject><body>text</body></message>")
    assert bodies(await rooms.take(romeo)) == ["text"]
    (nurse,) = await rooms.login("nurse")
    assert (await rooms.enter(nurse, "nurse"))[-1].find("{jabber:client}subject").text is None


# ---- private messages -----------------------------------------------------------------------------------------------


async def test_private_messages(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse)
    juliet.send(f"<message to='{ROOM}/nurse' type='chat' id='p1'><body>psst</body>{FORGED}</message>")
    (got,) = await rooms.take(nurse)
    assert codes.matches(
        f"<message type='chat' id='p1' from='{ROOM}/juliet' to='nurse@example.org/nurse'><body>psst</body>"
        f"<x xmlns='{MUC}#user'><item absent='!'/><status absent='!'/></x></message>",
        got,
    )
    assert len(got.findall(f"{{{MUC}#user}}x")) == 1
    await romeo.expect_nothing()
    await juliet.expect_nothing()


@pytest.mark.parametrize(
    ("to", "type_", "expected"),
    [("nurse", "groupchat", "bad-request"), ("nobody", "chat", "item-not-found")],
)
async def test_private_messages_refused(rooms: Any, to: str, type_: str, expected: str) -> None:
    romeo, nurse = await rooms.login("romeo", "nurse")
    await rooms.full(romeo, nurse)
    romeo.send(f"<message to='{ROOM}/{to}' type='{type_}'><body>psst</body></message>")
    assert condition((await rooms.take(romeo))[0]) == expected
    assert await rooms.take(nurse) == []


async def test_private_messages_from_outside(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    juliet.send(f"<message to='{ROOM}/romeo' type='chat'><body>psst</body></message>")
    assert condition((await rooms.take(juliet))[0]) == "not-acceptable"


@pytest.mark.parametrize(
    ("allowed", "moderator", "participant", "visitor"),
    [
        ("anyone", True, True, True),
        ("participants", True, True, False),
        ("moderators", True, False, False),
        ("none", False, False, False),
    ],
)
async def test_allowpm(rooms: Any, allowed: str, moderator: bool, participant: bool, visitor: bool) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse, allowpm=allowed)
    await rooms.admin(romeo, "nick='nurse' role='visitor'")
    await rooms.clear(romeo, juliet, nurse)
    for client, to, may in ((romeo, "juliet", moderator), (juliet, "romeo", participant), (nurse, "romeo", visitor)):
        client.send(f"<message to='{ROOM}/{to}' type='chat'><body>x</body></message>")
        refused = await rooms.take(client)
        assert [condition(el) for el in refused] == ([] if may else ["forbidden"])
        await rooms.clear(romeo, juliet)


# ---- errors and ghosts ----------------------------------------------------------------------------------------------


async def test_an_error_for_what_the_room_sent_ends_the_visit(rooms: Any, codes: Any) -> None:
    """Status 333: somebody's server says that nobody is there (§11.1)."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    juliet.send(
        f"<message to='{ROOM}/romeo' type='error' id='m1'><error type='cancel'>"
        "<recipient-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    got = await rooms.take(romeo)
    assert (got[-1].get("from"), got[-1].get("type"), codes(got[-1])) == (f"{ROOM}/juliet", "unavailable", {333})


@pytest.mark.parametrize(
    ("error", "removed"),
    [
        ("", True),
        ("<error type='cancel'><feature-not-implemented xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", True),
        ("<error type='wait'><remote-server-timeout xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", True),
        ("<error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", False),
    ],
    ids=["none", "cancel", "gone", "wait"],
)
async def test_a_presence_that_comes_back_ends_the_visit_unless_that_passes(
    rooms: Any, codes: Any, error: str, removed: bool
) -> None:
    """Whoever takes no presence of the room sees another room than there is: 333 makes the client enter again."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    juliet.send(f"<presence to='{ROOM}/juliet' type='error'>{error}</presence>")
    for client, expected in ((romeo, {333}), (juliet, {110, 333})):
        got = [(el.get("from"), el.get("type"), codes(el)) for el in await rooms.take(client)]
        assert got == ([(f"{ROOM}/juliet", "unavailable", expected)] if removed else [])


@pytest.mark.parametrize(("id_", "removed"), [("h1", True), ("other", False)])
async def test_service_unavailable_counts_only_for_what_went_to_all(rooms: Any, id_: str, removed: bool) -> None:
    """A client may answer a private message like that; whoever blocks somebody is still there."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    rooms.say(romeo, "hi", id="h1")
    await rooms.clear(romeo, juliet)
    juliet.send(
        f"<message to='{ROOM}/romeo' type='error' id='{id_}'><error type='cancel'>"
        "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    got = await rooms.take(romeo)
    if removed:
        assert [el.get("type") for el in got] == ["unavailable"]
    else:
        (error,) = got
        assert (error.get("from"), condition(error)) == (f"{ROOM}/juliet", "service-unavailable")
        assert "juliet@" not in show(error)


async def test_nobody_is_thrown_out_by_those_whom_it_blocks(rooms: Any) -> None:
    """The error for a private message says nothing about the message to all that had the same id."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    await juliet.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='{ROOM}/romeo'/></block></iq>")
    rooms.say(romeo, "hi", id="h1")
    await rooms.clear(romeo, juliet)
    romeo.send(f"<message to='{ROOM}/juliet' type='chat' id='h1'><body>psst</body></message>")
    (error,) = await rooms.take(romeo)
    assert (error.get("from"), condition(error)) == (f"{ROOM}/juliet", "service-unavailable")


@pytest.mark.parametrize("id_", ["id='c1'", ""])
async def test_a_marker_that_comes_back_ends_a_visit_like_other_messages(rooms: Any, id_: str) -> None:
    """What is neither archived nor history comes back from whoever is gone all the same."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    romeo.send(
        f"<message to='{ROOM}' type='groupchat' {id_}><composing xmlns='http://jabber.org/protocol/chatstates'/>"
        "</message>"
    )
    await rooms.clear(romeo, juliet)
    juliet.send(
        f"<message to='{ROOM}/romeo' type='error' {id_}><error type='cancel'>"
        "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    assert [el.get("type") for el in await rooms.take(romeo)] == ["unavailable"]


async def test_errors_count_against_the_rate() -> None:
    """Nobody floods an occupant with them either."""
    async with World(settings={"modules": {"muc": {"stanza_burst": 5, "stanzas_per_second": 0.1}}}) as world:
        romeo = await world.login("romeo@example.org/r", presence=True)
        juliet = await world.login("juliet@example.org/j", presence=True)
        for client, nick in ((romeo, "r"), (juliet, "j")):
            client.send(f"<presence to='{ROOM}/{nick}'><x xmlns='{MUC}'/></presence>")
            await world.settle()
            if client is romeo:
                form = "<x xmlns='jabber:x:data' type='submit'/>"
                await romeo.iq(f"<iq to='{ROOM}' type='set' id='c'><query xmlns='{MUC}#owner'>{form}</query></iq>")
        romeo.inbox.clear()
        for _ in range(9):
            juliet.send(
                f"<message to='{ROOM}/r' type='error' id='x'><error type='cancel'>"
                "<not-allowed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
            )
        await world.settle()
        assert len(romeo.inbox) == 5


@pytest.mark.parametrize("logging", [True, False])
async def test_markers_do_not_push_talk_out_of_the_history(rooms: Any, logging: bool) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, persistentroom=True, enablelogging=logging)
    rooms.say(romeo, "one")
    for n in range(60):
        romeo.send(
            f"<message to='{ROOM}' type='groupchat' id='d{n}'><displayed xmlns='urn:xmpp:chat-markers:0' id='x'/>"
            "</message>"
        )
    rooms.say(romeo, "two")
    assert bodies(await rooms.enter(juliet, "juliet")) == ["one", "two"]
    for client in (juliet, romeo):  # the same when it is read from the database
        client.send(f"<presence to='{ROOM}/x' type='unavailable'/>")
    await rooms.clear(juliet, romeo)
    assert bodies(await rooms.enter(juliet, "juliet")) == ["one", "two"]


@pytest.mark.parametrize("to", ["", "/romeo"])
async def test_nobody_speaks_for_the_room_in_other_letters(rooms: Any, to: str) -> None:
    """Ids and delays of the room are the room's, in what goes to all and to one; those of others pass."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    marks = "".join(
        f"<stanza-id xmlns='urn:xmpp:sid:0' by='{by}' id='forged'/><delay xmlns='urn:xmpp:delay' from='{by}' stamp='s'/>"
        for by in (ROOM, ROOM.upper(), "a@b.example", "@")
    )
    kind = "chat" if to else "groupchat"
    juliet.send(f"<message to='{ROOM}{to}' type='{kind}' id='f'><body>x</body>{marks}</message>")
    (got,) = await rooms.take(romeo)
    said = [el.get("by") for el in got.iter("{urn:xmpp:sid:0}stanza-id") if el.get("id") == "forged"]
    assert said == [el.get("from") for el in got.iter("{urn:xmpp:delay}delay")] == ["a@b.example", "@"]


async def test_nobody_outside_sends_errors_in_the_name_of_the_room(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    juliet.send(
        f"<message to='{ROOM}/romeo' type='error' id='x'><error type='cancel'>"
        "<not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    assert await rooms.take(romeo) == []


# ---- limits ---------------------------------------------------------------------------------------------------------


async def test_slow_mode(rooms: Any) -> None:
    """XEP-0500: of the account, with all its sessions; not for admins."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    (second,) = await rooms.login("juliet@example.org/garden")
    await rooms.full(romeo, juliet, slow_mode_duration="20")
    await rooms.enter(second, "jule")
    await rooms.clear(romeo, juliet, second)
    rooms.say(juliet, "one")
    rooms.say(second, "two", id="no")
    got = [el for el in await rooms.take(second) if el.get("type") == "error"]
    assert [condition(el) for el in got] == ["policy-violation"]
    assert got[0].find("{jabber:client}error").get("type") == "wait"
    second.send(
        f"<message to='{ROOM}' type='groupchat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>"
    )
    await rooms.world.pass_time(20)
    rooms.say(second, "three")
    rooms.say(romeo, "a")
    rooms.say(romeo, "b")
    assert bodies(await rooms.take(romeo)) == ["one", "three", "a", "b"]


async def test_limits_of_size_and_rate() -> None:
    settings = {
        "modules": {"muc": {"message_bytes": 1024, "presence_bytes": 512, "stanzas_per_second": 1.0, "stanza_burst": 3}}
    }
    async with World(settings=settings) as world:
        romeo = await world.login("romeo@example.org/x", presence=True)
        romeo.send(f"<presence to='{ROOM}/r'><x xmlns='{MUC}'/></presence>")
        await romeo.iq(
            f"<iq to='{ROOM}' type='set' id='c'><query xmlns='{MUC}#owner'>"
            "<x xmlns='jabber:x:data' type='submit'/></query></iq>"
        )
        await world.settle()
        romeo.inbox.clear()

        async def answers(xml: str) -> list[str]:
            romeo.send(xml)
            await world.settle()
            got = [condition(el) if el.get("type") == "error" else "ok" for el in romeo.inbox]
            romeo.inbox.clear()
            return got

        message = f"<message to='{ROOM}' type='groupchat'><body>%s</body></message>"
        assert await answers(message % ("x" * 1100)) == ["not-acceptable"]
        assert await answers(f"<presence to='{ROOM}/r'><status>{'x' * 600}</status></presence>") == ["policy-violation"]
        assert [await answers(message % n) for n in "abcd"] == [["ok"], ["ok"], ["ok"], ["policy-violation"]]
        await world.pass_time(1.5)
        assert [await answers(message % n) for n in "ef"] == [["ok"], ["policy-violation"]]


async def test_what_the_room_takes_out_leaves_the_rest_without_prefixes(rooms: Any) -> None:
    """A message that needs the parser (its payload is deep), with the `<x/>` that §7.5 asks of clients."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet)
    deep = "<e xmlns='urn:example:e'><a><b><c/></b></a></e>"
    juliet.send(
        f"<message to='{ROOM}/romeo' type='chat' id='p'><body>psst</body>{deep}<x xmlns='{MUC}#user'/></message>"
        f"<message to='{ROOM}' type='groupchat' id='g'><body>oh</body>{deep}<x xmlns='{MUC}#user'/></message>"
        f"<presence to='{ROOM}/juliet'><show>away</show>{deep}<x xmlns='{MUC}#user'/></presence>"
    )
    got = await rooms.take(romeo)
    assert len(got) == 3
    for stanza in got:
        assert [child.prefix for child in stanza.iter("{jabber:client}*")] == [stanza.prefix] * 2
