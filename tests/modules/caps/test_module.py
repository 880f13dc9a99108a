"""Capabilities through a whole server: one question per hash, nothing believed unproved, nothing told twice."""

import base64
import hashlib

from lxml import etree

from beamish.core import events
from beamish.core.events import CapsKnown, Context
from beamish.core.hooks import STOP, Row, Verdict
from beamish.core.later import settled
from beamish.core.services import CapsService, RosterItem, RosterService
from beamish.modules.caps import CapsModule
from beamish.modules.caps.hashes import announcement, verify
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, from_bytes

INFO = "http://jabber.org/protocol/disco#info"
CAPS = "http://jabber.org/protocol/caps"
VER = "QgayPKawpkPSDYmwT/WM94uAlu0="
C = f"<c xmlns='{CAPS}' hash='sha-1' node='http://exodus' ver='{VER}'/>"
NODE = f"http://exodus#{VER}"
EXODUS = (
    "<identity category='client' name='Exodus 0.9.1' type='pc'/>"
    "<feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/>"
    "<feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/>"
)
OTHER_VER = "66/0NaeaBKkwk85efJTGmU47vXI="
OTHER_C = C.replace(VER, OTHER_VER)
MUC = "http://jabber.org/protocol/muc"


async def question(client: Client, node: str = NODE) -> str:
    """The server asks a client what it can do; the id."""
    got = await client.expect(f"<iq type='get' from='{client.jid.bare}'><query xmlns='{INFO}' node='{node}'/></iq>")
    return got.get("id", "")


async def answer(world: World, client: Client, inner: str = EXODUS, node: str = NODE) -> None:
    """Be asked, and answer."""
    id_ = await question(client, node)
    client.send(
        f"<iq type='result' id='{id_}' to='{client.jid.bare}'><query xmlns='{INFO}' node='{node}'>{inner}</query></iq>"
    )
    await world.settle()


def features(world: World, jid: JID) -> frozenset[str] | None:
    """What the server knows."""
    return world.kernel.service(CapsService).features(jid)


def listen(world: World) -> list[CapsKnown]:
    """Collect what the hook tells."""
    told: list[CapsKnown] = []

    def tell(event: CapsKnown) -> None:
        told.append(event)

    world.kernel.hooks[events.caps_known].add(Row(50, "test", tell))
    return told


def has_c(stanza: Element) -> bool:
    """Whether a presence is annotated."""
    return stanza.find(f"{{{CAPS}}}c") is not None


async def test_a_hash_is_asked_about_once_and_believed_for_everybody(world: World) -> None:
    told = listen(world)
    romeo = await world.login("romeo@example.org/orchard")
    await romeo.appear(extra=C)
    assert features(world, romeo.jid) is None
    await answer(world, romeo)
    assert MUC in (features(world, romeo.jid) or ())
    juliet = await world.login("juliet@example.org/balcony")
    await juliet.appear(extra=C)
    await juliet.expect_nothing()
    assert features(world, juliet.jid) == features(world, romeo.jid)
    assert [(e.jid, e.previous) for e in told] == [(romeo.jid, None), (juliet.jid, None)]


async def test_two_with_the_same_unknown_hash_cause_one_question(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/balcony")
    await romeo.appear(extra=C)
    await juliet.appear(extra=C)
    await juliet.expect_nothing()
    await answer(world, romeo)
    assert MUC in (features(world, juliet.jid) or ())
    await juliet.expect_nothing()


async def test_a_poisoned_answer_is_not_believed_and_the_next_one_is_asked(world: World) -> None:
    mercutio = await world.login("mercutio@example.org/street")
    juliet = await world.login("juliet@example.org/balcony")
    await mercutio.appear(extra=C)
    await juliet.appear(extra=C)
    await answer(world, mercutio, EXODUS.replace("protocol/muc", "protocol/evil"))
    assert features(world, mercutio.jid) is None
    await answer(world, juliet)
    assert MUC in (features(world, juliet.jid) or ())
    assert features(world, mercutio.jid) is None


async def test_a_client_that_answers_with_an_error_or_not_at_all_is_not_known(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    await romeo.appear(extra=C)
    id_ = await question(romeo)
    romeo.send(f"<iq type='error' id='{id_}' to='romeo@example.org'><error type='cancel'/></iq>")
    await world.settle()
    assert features(world, romeo.jid) is None
    # its next presence starts anew
    await romeo.appear(extra=C)
    await question(romeo)
    await world.pass_time(61)
    assert features(world, romeo.jid) is None


async def test_legacy_annotations_are_not_asked_about(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    await romeo.appear(extra=f"<c xmlns='{CAPS}' node='http://exodus' ver='0.9' ext='a b'/>")
    await romeo.expect_nothing()
    assert features(world, romeo.jid) is None


async def test_hashes_outlive_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/orchard")
        await romeo.appear(extra=C)
        await answer(world, romeo)
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/orchard")
        await romeo.appear(extra=C)
        await romeo.expect_nothing()
        assert MUC in (features(world, romeo.jid) or ())
    await database.close()


async def test_a_hash_that_left_memory_is_found_on_disk() -> None:
    settings = {"modules": {"caps": {"cached_hashes": 10, "stored_hashes": 20}}}
    async with World(settings=settings) as world:
        romeo = await world.login("romeo@example.org/orchard")
        await romeo.appear(extra=C)
        await answer(world, romeo)
        cache = world.kernel.registry.module(CapsModule)._cache
        for number in range(30):
            await world.pass_time(1)
            cache.put(f"1:sha-1:{number}", frozenset(("a",)), world.clock.now())
        assert len(cache) == 10
        await world.db.flushed()
        assert (await world.db.fetch("SELECT COUNT(*) FROM caps_hash"))[0][0] <= 20
        assert await cache.find("1:sha-1:19", world.clock.now()) == {"a"}
        assert await cache.find(f"1:sha-1:{VER}", world.clock.now()) is None  # the one that was not used for longest


async def test_new_capabilities_replace_the_old_ones_when_they_are_proved(world: World) -> None:
    told = listen(world)
    romeo = await world.login("romeo@example.org/orchard")
    await romeo.appear(extra=C)
    await answer(world, romeo)
    before = features(world, romeo.jid)
    ver = base64.b64encode(hashlib.sha1(b"client/pc//<urn:example:new<").digest()).decode()
    await romeo.appear(extra=C.replace(VER, ver))
    assert features(world, romeo.jid) == before
    await answer(
        world,
        romeo,
        "<identity category='client' type='pc'/><feature var='urn:example:new'/>",
        NODE.replace(VER, ver),
    )
    assert features(world, romeo.jid) == {"urn:example:new"}
    assert told[-1].previous == before
    romeo.send("<presence type='unavailable'/>")
    await world.settle()
    assert features(world, romeo.jid) is None


async def test_an_account_cannot_make_the_server_ask_without_end() -> None:
    async with World(settings={"modules": {"caps": {"questions_per_hour": 2}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for number in range(4):
            ver = base64.b64encode(bytes([number]) * 20).decode()
            await show(world, romeo, C.replace(VER, ver))
        asked = [el for el in romeo.inbox if el.find(f"{{{INFO}}}query") is not None]
        assert len(asked) == 2
        await world.pass_time(1800)  # the silent session is gone after that
        romeo = await world.login("romeo@example.org/orchard")
        await show(world, romeo, OTHER_C)
        romeo.inbox.popleft()  # the reflection
        await question(romeo, NODE.replace(VER, OTHER_VER))


# ---- our own --------------------------------------------------------------------------------------------------------


async def test_the_stream_features_carry_our_hash_and_disco_answers_for_it(world: World) -> None:
    client = world.connect()
    await client.open_stream("example.org")
    offered = await client.authenticate("romeo", "correct horse")
    c = offered.find(f"{{{CAPS}}}c")
    assert c is not None and c.get("hash") == "sha-1"
    second = offered.find("{urn:xmpp:caps}c")
    assert second is not None
    await client.bind("orchard")
    nodes = [f"{c.get('node')}#{c.get('ver')}"]
    nodes += [f"urn:xmpp:caps#{h.get('algo')}.{h.text}" for h in second]
    assert len(nodes) == 3
    about = announcement([c])
    assert about is not None
    for node in nodes:
        got = await client.iq(
            f"<iq type='get' id='{hash(node)}' to='example.org'><query xmlns='{INFO}' node='{node}'/></iq>"
        )
        query = got.find(f"{{{INFO}}}query")
        assert query is not None
        found = verify(from_bytes(_alone(query)), about)
        assert {CAPS, f"{CAPS}#optimize"} <= found.features
    error = await client.iq(
        f"<iq type='get' id='no' to='example.org'><query xmlns='{INFO}' node='{nodes[0]}x'/></iq>", type="error"
    )
    assert error.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}item-not-found") is not None


def _alone(el: Element) -> bytes:
    return etree.tostring(el, encoding="utf-8", with_tail=False)


# ---- caps#optimize (§8.4) -------------------------------------------------------------------------------------------


async def show(world: World, client: Client, inner: str) -> None:
    """Broadcast presence; questions and reflections stay in the inbox."""
    client.send(f"<presence>{inner}</presence>")
    await world.settle()


async def friends(world: World) -> tuple[Client, Client]:
    """Juliet, who announces capabilities, and Romeo, who is subscribed to her."""
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await world.befriend(juliet, romeo)
    return juliet, romeo


async def seen(client: Client, sender: Client) -> Element:
    """The next presence from somebody, questions of the server aside."""
    while True:
        got = await client.receive()
        if str(got.tag).endswith("presence"):
            assert got.get("from") == str(sender.jid)
            return got


async def test_the_second_presence_with_the_same_ver_comes_without_c(world: World) -> None:
    juliet, romeo = await friends(world)
    await show(world, juliet, C)
    assert has_c(await seen(romeo, juliet))
    juliet.inbox.clear()
    await show(world, juliet, f"<show>away</show>{C}<status>gone</status>")
    second = await seen(romeo, juliet)
    assert not has_c(second)
    assert second.findtext("{jabber:client}show") == "away" and second.findtext("{jabber:client}status") == "gone"


async def test_a_change_reaches_everybody(world: World) -> None:
    juliet, romeo = await friends(world)
    await show(world, juliet, C)
    await show(world, juliet, C)
    await show(world, juliet, OTHER_C)
    await show(world, juliet, OTHER_C)
    await show(world, juliet, C)
    await world.settle()
    assert [has_c(el) for el in romeo.inbox] == [True, False, True, False, True]


async def test_the_first_presence_of_every_session_has_it(world: World) -> None:
    juliet, _ = await friends(world)
    await show(world, juliet, C)
    await show(world, juliet, C)
    later = await world.login("romeo@example.org/garden", presence=True)
    await world.settle()
    first = [el for el in later.inbox if el.get("from") == str(juliet.jid)]
    assert len(first) == 1 and has_c(first[0])  # on appearing
    later.inbox.clear()
    await show(world, juliet, C)
    assert not has_c(await seen(later, juliet))
    # a session that goes and comes back has forgotten everything
    later.send("<presence type='unavailable'/>")
    await world.settle()
    await show(world, juliet, C)
    later.inbox.clear()
    await show(world, later, "")
    assert [has_c(el) for el in later.inbox if el.get("from") == str(juliet.jid)] == [True]


async def test_a_new_presence_session_of_the_sender_starts_anew(world: World) -> None:
    juliet, romeo = await friends(world)
    await show(world, juliet, C)
    juliet.send("<presence type='unavailable'/>")
    await world.settle()
    romeo.inbox.clear()
    await show(world, juliet, C)
    assert has_c(await seen(romeo, juliet))


async def test_a_new_subscriber_gets_it(world: World) -> None:
    juliet, _ = await friends(world)
    nurse = await world.login("nurse@example.org/house", presence=True)
    await show(world, juliet, C)
    await show(world, juliet, C)
    nurse.send("<presence to='juliet@example.org' type='subscribe'/>")
    await world.settle()
    juliet.send("<presence to='nurse@example.org' type='subscribed'/>")
    await world.settle()
    got = [el for el in nurse.inbox if el.get("from") == str(juliet.jid)]
    assert [has_c(el) for el in got] == [True]


async def test_a_client_may_leave_it_out_itself(world: World) -> None:
    juliet, romeo = await friends(world)
    await show(world, juliet, C)
    await show(world, juliet, "<show>dnd</show>")
    await world.settle()
    assert [has_c(el) for el in romeo.inbox] == [True, False]
    # whoever comes later still hears of it
    later = await world.login("romeo@example.org/garden", presence=True)
    await world.settle()
    got = [el for el in later.inbox if el.get("from") == str(juliet.jid)]
    assert [has_c(el) for el in got] == [True] and got[0].findtext("{jabber:client}show") == "dnd"


async def test_contacts_elsewhere_always_get_it_also_from_a_client_that_leaves_it_out(world: World) -> None:
    sent: list[Stanza] = []

    def carry(ctx: Context) -> Verdict:
        sent.append(ctx.stanza)
        return STOP

    world.kernel.hooks[events.remote].add(Row(1, "test", carry))
    tybalt = JID.parse("tybalt@elsewhere.example")
    await world.kernel.service(RosterService).change(JID.parse("juliet@example.org"), RosterItem(tybalt, from_=True))
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    sent.clear()
    for inner in (C, f"<show>away</show>{C}", "<show>dnd</show>", OTHER_C, ""):
        await show(world, juliet, inner)
    told = [el.find(f"{{{CAPS}}}c") for el in (stanza.el for stanza in sent if stanza.name == "presence")]
    assert [None if c is None else c.get("ver") for c in told] == [VER, VER, VER, OTHER_VER, OTHER_VER]


async def test_a_contact_elsewhere_that_parts_from_one_is_still_known_to_the_others(world: World) -> None:
    """It ended one subscription, and its server says `unavailable` to that user alone (RFC 6121 §3.2.3)."""
    romeo = await world.login("romeo@example.org/orchard")
    await romeo.appear(extra=C)
    await answer(world, romeo)
    tybalt = JID.parse("tybalt@elsewhere.example/house")
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    for client in (romeo, juliet):
        item = RosterItem(tybalt.bare, to=True, from_=True)
        await world.kernel.service(RosterService).change(client.jid.bare, item)

    async def arrive(to: Client, type: str = "") -> None:
        head = f" type='{type}'" if type else ""
        stanza = Stanza.parse(
            f"<presence from='{tybalt}' to='{to.jid.bare}'{head}>{'' if type else C}</presence>".encode()
        )
        await settled(world.kernel.router.route(Context(stanza)))
        await world.settle()

    await arrive(romeo)
    await arrive(juliet)
    assert MUC in (features(world, tybalt) or ())
    await arrive(romeo, "unavailable")
    assert MUC in (features(world, tybalt) or ())
    await arrive(juliet, "unavailable")
    assert features(world, tybalt) is None


async def test_who_was_hidden_from_gets_it_afterwards(world: World) -> None:
    juliet, romeo = await friends(world)
    await show(world, juliet, C)
    await show(world, juliet, C)
    romeo.inbox.clear()
    hide = (
        "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@example.org'/></block></iq>",
        "<iq type='set' id='u'><unblock xmlns='urn:xmpp:blocking'><item jid='romeo@example.org'/></unblock></iq>",
    )
    await juliet.iq(hide[0])
    await show(world, juliet, OTHER_C)
    await juliet.iq(hide[1])
    await world.settle()
    told = [el.find(f"{{{CAPS}}}c") for el in romeo.inbox if el.get("from") == str(juliet.jid) and not el.get("type")]
    assert [None if c is None else c.get("ver") for c in told] == [OTHER_VER]


async def test_directed_presence_is_left_as_it_is(world: World) -> None:
    juliet, romeo = await friends(world)
    await show(world, juliet, C)
    await show(world, juliet, C)
    romeo.inbox.clear()
    juliet.send(f"<presence to='romeo@example.org'>{C}</presence>")
    assert has_c(await seen(romeo, juliet))
    juliet.send("<presence to='romeo@example.org'/>")
    assert not has_c(await seen(romeo, juliet))


async def test_a_session_whose_memory_is_in_doubt_is_told_again(world: World) -> None:
    juliet, romeo = await friends(world)
    await show(world, juliet, C)
    session = world.kernel.sessions.get(romeo.jid)
    assert session is not None
    session.renew()
    await show(world, juliet, C)
    await world.settle()
    assert [has_c(el) for el in romeo.inbox] == [True, True]


async def test_without_the_option_nothing_is_left_out() -> None:
    async with World(settings={"modules": {"caps": {"optimize": False}}}) as world:
        juliet, romeo = await friends(world)
        await show(world, juliet, C)
        await show(world, juliet, C)
        await world.settle()
        assert [has_c(el) for el in romeo.inbox] == [True, True]
        got = await romeo.iq(f"<iq type='get' id='d' to='example.org'><query xmlns='{INFO}'/></iq>")
        features_ = {f.get("var") for f in got.iter(f"{{{INFO}}}feature")}
        assert CAPS in features_ and f"{CAPS}#optimize" not in features_


async def test_nobody_looks_at_every_presence(world: World) -> None:
    """A handler that does would take broadcasts off the fast way, and with it the optimisation: see `Hook.everyone`."""
    for point in (events.incoming, events.delivering):
        assert "presence" not in world.kernel.hooks[point].everyone


async def test_only_so_many_are_remembered() -> None:
    async with World(settings={"modules": {"caps": {"remembered": 0}}}) as world:
        juliet, romeo = await friends(world)
        for _ in range(3):
            await show(world, juliet, C)
        await world.settle()
        assert [has_c(el) for el in romeo.inbox] == [True, True, True]
