"""XEP-0402 §4: bookmarks said in two ways are kept alike."""

from __future__ import annotations

import asyncio

import pytest

from beamish.core import events
from beamish.core.events import Published
from beamish.core.hooks import Outcome, Row
from beamish.testing.client import Client
from beamish.xmpp.xml import Element

from .kit import OWNER, PUBSUB, Stage, form

NATIVE = "urn:xmpp:bookmarks:1"
LEGACY = "storage:bookmarks"
READ = "urn:xmpp:mds:displayed:0"
OPTIONS = f"{PUBSUB}#publish-options"
PRIVATE = {
    "persist_items": "true",
    "max_items": "max",
    "send_last_published_item": "never",
    "access_model": "whitelist",
}


def room(jid: str, name: str) -> str:
    return (
        f"<publish node='{NATIVE}'><item id='{jid}'><conference xmlns='{NATIVE}' name='{name}' autojoin='true'>"
        f"<nick>JC</nick></conference></item></publish><publish-options>{form(OPTIONS, PRIVATE)}</publish-options>"
    )


async def legacy(stage: Stage, who: Client) -> list[tuple[str | None, str | None]]:
    got = await stage.get(who, f"<items node='{LEGACY}'/>", to="")
    return [(c.get("jid"), c.get("name")) for c in got.iter(f"{{{LEGACY}}}conference")]


async def test_bookmarks_are_seen_in_both_forms(stage: Stage) -> None:
    juliet = await stage.login("juliet@example.org/balcony")
    phone = await stage.login("juliet@example.org/phone")
    stage.caps.of(phone.jid, NATIVE)
    stage.caps.of(juliet.jid, LEGACY)
    await stage.set(juliet, room("a@rooms.example", "A"), to="")
    await stage.set(juliet, room("b@rooms.example", "B"), to="")
    assert await legacy(stage, juliet) == [("a@rooms.example", "A"), ("b@rooms.example", "B")]
    for node in (NATIVE, LEGACY):
        got = await stage.get(juliet, f"<configure node='{node}'/>", to="", ns=OWNER)
        path = ".//{jabber:x:data}field[@var='pubsub#access_model']/{jabber:x:data}value"
        assert got.findtext(path) == "whitelist"
    phone.inbox.clear()
    storage = (
        f"<publish node='{LEGACY}'><item id='current'><storage xmlns='{LEGACY}'>"
        "<conference jid='b@rooms.example' name='B' autojoin='true'><nick>JC</nick></conference>"
        "<conference jid='c@rooms.example' name='C'/><url url='http://example.org/'/></storage></item></publish>"
    )
    await stage.set(juliet, storage, to="")
    assert await stage.items(juliet, NATIVE, to="juliet@example.org") == ["b@rooms.example", "c@rooms.example"]
    await stage.quiet(phone)
    told = [
        (str(el.tag).rpartition("}")[2], el.get("id"))
        for note in phone.inbox
        for el in note.iter()
        if el.get("id") and str(el.tag).rpartition("}")[2] in ("item", "retract")
    ]
    assert sorted(told) == [("item", "c@rooms.example"), ("retract", "a@rooms.example")]  # nothing of the unchanged one
    await stage.set(juliet, f"<retract node='{NATIVE}'><item id='b@rooms.example'/></retract>", to="")
    assert await legacy(stage, juliet) == [("c@rooms.example", "C")]
    got = await stage.get(juliet, f"<items node='{LEGACY}'/>", to="")
    assert next(got.iter(f"{{{LEGACY}}}url"), None) is not None


async def test_extensions_outlive_a_change_of_the_list(stage: Stage) -> None:
    """The list has no place for them; who changes it there must not lose them."""
    juliet = await stage.login("juliet@example.org/balcony")
    more = "<extensions><state xmlns='urn:example:state' minimized='true'/></extensions>"
    await stage.set(juliet, room("a@rooms.example", "A").replace("</conference>", f"{more}</conference>"), to="")
    changed = (
        f"<publish node='{LEGACY}'><item id='current'><storage xmlns='{LEGACY}'>"
        "<conference jid='a@rooms.example' name='Another'/></storage></item></publish>"
    )
    await stage.set(juliet, changed, to="")
    got = await stage.get(juliet, f"<items node='{NATIVE}'/>", to="")
    (conference,) = got.iter(f"{{{NATIVE}}}conference")
    assert conference.get("name") == "Another"
    state = conference.find(f"{{{NATIVE}}}extensions/{{urn:example:state}}state")
    assert state is not None and state.get("minimized") == "true"


async def test_rooms_are_the_same_however_they_are_written(stage: Stage) -> None:
    juliet = await stage.login("juliet@example.org/balcony")
    more = "<extensions><state xmlns='urn:example:state' minimized='true'/></extensions>"
    await stage.set(juliet, room("Ball@Rooms.Example", "A").replace("</conference>", f"{more}</conference>"), to="")
    assert await legacy(stage, juliet) == [("ball@rooms.example", "A")]
    for jid, name in (("ball@rooms.example", "B"), ("BALL@rooms.example/juliet", "C")):
        changed = (
            f"<publish node='{LEGACY}'><item id='current'><storage xmlns='{LEGACY}'>"
            f"<conference jid='{jid}' name='{name}'/></storage></item></publish>"
        )
        await stage.set(juliet, changed, to="")
        assert await stage.items(juliet, NATIVE, to="juliet@example.org") == ["Ball@Rooms.Example"]
        got = await stage.get(juliet, f"<items node='{NATIVE}'/>", to="")
        (conference,) = got.iter(f"{{{NATIVE}}}conference")
        assert conference.get("name") == name
        assert conference.find(f"{{{NATIVE}}}extensions/{{urn:example:state}}state") is not None
    empty = f"<publish node='{LEGACY}'><item id='current'><storage xmlns='{LEGACY}'/></item></publish>"
    await stage.set(juliet, empty, to="")
    assert await stage.items(juliet, NATIVE, to="juliet@example.org") == []


async def test_what_is_no_room_is_left_alone(stage: Stage) -> None:
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.set(juliet, room("@nowhere@", "A"), to="")
    await stage.set(juliet, room("b@rooms.example", "B"), to="")
    assert await legacy(stage, juliet) == [("b@rooms.example", "B")]
    changed = (
        f"<publish node='{LEGACY}'><item id='current'><storage xmlns='{LEGACY}'>"
        "<conference jid='@' name='?'/><conference jid='c@rooms.example'/></storage></item></publish>"
    )
    await stage.set(juliet, changed, to="")
    assert await stage.items(juliet, NATIVE, to="juliet@example.org") == ["@nowhere@", "c@rooms.example"]


@pytest.mark.parametrize(
    ("node", "payload"),
    [
        ("urn:xmpp:contacts", "<vcard xmlns='urn:ietf:params:xml:ns:vcard-4.0'><fn><text>R</text></fn></vcard>"),
        (NATIVE, f"<conference xmlns='{NATIVE}' name='x'><password>cyclone</password></conference>"),
        (LEGACY, f"<storage xmlns='{LEGACY}'><conference jid='a@rooms.example'/></storage>"),
        (
            READ,
            f"<displayed xmlns='{READ}'><stanza-id xmlns='urn:xmpp:sid:0' by='juliet@example.org' id='1'/></displayed>",
        ),
    ],
)
async def test_what_is_private_by_its_name_is_so_without_being_told(stage: Stage, node: str, payload: str) -> None:
    juliet = await stage.login("juliet@example.org/balcony")
    ids = ["current"] if node == LEGACY else ["a@rooms.example", "b@rooms.example"]
    for id_ in ids:
        await stage.set(juliet, f"<publish node='{node}'><item id='{id_}'>{payload}</item></publish>", to="")
    assert await stage.items(juliet, node, to="juliet@example.org") == ids
    romeo = await stage.login("romeo@example.org/orchard")
    await stage.befriend(juliet, romeo)
    await stage.refused(romeo, "get", f"<items node='{node}'/>", "not-allowed", "closed-node", to="juliet@example.org")


@pytest.mark.parametrize("node", [NATIVE, READ])
async def test_what_is_made_without_options_is_what_clients_ask_for(stage: Stage, node: str) -> None:
    """Slidge makes the node for read marks in the user's name, and says nothing of how; slixmpp then insists on its options."""
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.set(juliet, f"<create node='{node}'/>", to="")
    entry = f"<publish node='{node}'><item id='a@rooms.example'><x xmlns='{node}'/></item></publish>"
    await stage.set(juliet, f"{entry}<publish-options>{form(OPTIONS, PRIVATE)}</publish-options>", to="")
    assert await stage.items(juliet, node, to="juliet@example.org") == ["a@rooms.example"]


async def test_bookmarks_never_go_where_others_can_read(stage: Stage) -> None:
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.create(juliet, LEGACY, to="juliet@example.org", access_model="open")
    await stage.set(juliet, room("a@rooms.example", "A"), to="")
    assert await legacy(stage, juliet) == []


def listing(*rooms: str) -> str:
    inner = "".join(f"<conference jid='{jid}' name='{jid[0].upper()}'/>" for jid in rooms)
    return f"<publish node='{LEGACY}'><item id='current'><storage xmlns='{LEGACY}'>{inner}</storage></item></publish>"


def lists(inbox: list[Element]) -> list[list[str | None]]:
    """The lists in the notifications that came."""
    found = (note.find(f".//{{{LEGACY}}}storage") for note in inbox)
    return [[c.get("jid") for c in el] for el in found if el is not None]


async def test_devices_that_write_at_the_same_time_lose_nothing(stage: Stage) -> None:
    """While one bookmark is carried over to the list, another device makes a second, and an old client writes the list."""
    juliet = await stage.login("juliet@example.org/balcony")
    phone = await stage.login("juliet@example.org/phone")
    old = await stage.login("juliet@example.org/old")
    seen = {"b@rooms.example": asyncio.Event(), "d@rooms.example": asyncio.Event()}
    said: list[str] = []

    async def meanwhile(event: Published) -> Outcome:
        told = "".join(id_ + payload.decode() for id_, payload in event.items)
        for jid, event_ in seen.items():
            if jid in told:
                event_.set()
        if event.node == LEGACY and not said:
            for client, inner, jid in (
                (phone, room("b@rooms.example", "B"), "b@rooms.example"),
                (old, listing("a@rooms.example", "d@rooms.example"), "d@rooms.example"),
            ):
                said.append(f"<iq type='set' id='{jid}'><pubsub xmlns='{PUBSUB}'>{inner}</pubsub></iq>")
                client.send(said[-1])
                await seen[jid].wait()
        return None

    stage.kernel.hooks[events.pep_published].add(Row(1, "test", meanwhile))
    await stage.set(juliet, room("a@rooms.example", "A"), to="")
    await stage.quiet(juliet, phone, old)
    rooms = ["a@rooms.example", "b@rooms.example", "d@rooms.example"]
    assert sorted(await stage.items(juliet, NATIVE, to="juliet@example.org")) == rooms
    assert sorted(str(jid) for jid, _ in await legacy(stage, juliet)) == rooms


async def test_a_list_is_not_told_again_in_pieces(stage: Stage) -> None:
    juliet = await stage.login("juliet@example.org/balcony")
    phone = await stage.login("juliet@example.org/phone")
    stage.caps.of(phone.jid, LEGACY)
    rooms = [f"{c}@rooms.example" for c in "edcba"]
    await stage.set(juliet, listing(*rooms), to="")
    await stage.quiet(phone)
    assert lists(phone.inbox) == [rooms]
    assert await stage.items(juliet, NATIVE, to="juliet@example.org") == rooms
    # the same in another order is not told by the server either
    phone.inbox.clear()
    await stage.set(juliet, listing(*reversed(rooms)), to="")
    await stage.quiet(phone)
    assert lists(phone.inbox) == [rooms[::-1]]


@pytest.mark.parametrize("private", [True, False])
async def test_what_only_the_list_has_is_not_dropped_by_the_next_item(stage: Stage, private: bool) -> None:
    """The list was ahead: here because others could read the items, elsewhere because of a crash."""
    juliet = await stage.login("juliet@example.org/balcony")
    await stage.create(juliet, NATIVE, to="juliet@example.org", access_model="open", max_items="max")
    await stage.set(juliet, listing("a@rooms.example", "b@rooms.example"), to="")
    assert await stage.items(juliet, NATIVE, to="juliet@example.org") == []
    if private:
        change = form(f"{PUBSUB}#node_config", {"access_model": "whitelist"})
        await stage.set(juliet, f"<configure node='{NATIVE}'>{change}</configure>", to="", ns=OWNER)
    publication = room("c@rooms.example", "C").partition("<publish-options>")[0]
    await stage.set(juliet, publication, to="")
    rooms = ["a@rooms.example", "b@rooms.example", "c@rooms.example"]
    assert sorted(str(jid) for jid, _ in await legacy(stage, juliet)) == rooms
    items = sorted(await stage.items(juliet, NATIVE, to="juliet@example.org"))
    assert items == (rooms if private else rooms[2:])
    await stage.set(juliet, f"<retract node='{NATIVE}'><item id='c@rooms.example'/></retract>", to="")
    assert sorted(str(jid) for jid, _ in await legacy(stage, juliet)) == rooms[:2]
    await stage.set(juliet, f"<delete node='{NATIVE}'/>", to="", ns=OWNER)
    assert await legacy(stage, juliet) == []
