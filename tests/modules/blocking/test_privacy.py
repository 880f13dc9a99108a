"""XEP-0016 through a whole server."""

import pytest
from tests.modules.sm.conftest import managed, resume

from beamish.core import events
from beamish.modules.blocking.owners import ACTIVE
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.match import condition, mismatch
from beamish.testing.world import World
from beamish.xmpp.jid import JID

from .kit import block, friends, privacy

ROMEO = "<item type='jid' value='romeo@example.org' action='deny' order='3'>{}</item>"


async def use(client: Client, items: str, *, active: bool = False, name: str = "test") -> None:
    """Define a list and use it; pushes are taken."""
    await privacy(client, f"<list name='{name}'>{items}</list>")
    push = f"<iq type='set'><query xmlns='jabber:iq:privacy'><list name='{name}'/></query></iq>"
    client.inbox.remove(next(el for el in client.inbox if not mismatch(push, el)))
    await privacy(client, f"<{'active' if active else 'default'} name='{name}'/>")


async def names(client: Client) -> list[tuple[str, str | None]]:
    """What there is, with active and default."""
    got = await privacy(client, "", type="get")
    query = got.find("{jabber:iq:privacy}query")
    assert query is not None
    return [(str(el.tag).rpartition("}")[2], el.get("name")) for el in query]


async def test_examples_of_section_2_3_retrieving(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    assert await names(romeo) == []
    await use(
        romeo,
        "<item type='jid' value='tybalt@example.com' action='deny' order='1'/><item action='allow' order='2'/>",
        name="public",
    )
    await use(
        romeo,
        "<item type='subscription' value='both' action='allow' order='10'/><item action='deny' order='15'><iq/></item>",
        name="private",
        active=True,
    )
    assert await names(romeo) == [("active", "private"), ("default", "public"), ("list", "public"), ("list", "private")]
    got = await privacy(romeo, "<list name='private'/>", type="get")
    items = [
        (i.get("type"), i.get("value"), i.get("action"), i.get("order"), len(i))
        for i in got.iter("{jabber:iq:privacy}item")
    ]
    assert items == [("subscription", "both", "allow", "10", 0), (None, None, "deny", "15", 1)]
    error = await privacy(romeo, "<list name='The Empty Set'/>", type="get", answer="error")
    assert condition(error) == "item-not-found"
    error = await privacy(romeo, "<list name='public'/><list name='private'/>", type="get", answer="error")
    assert condition(error) == "bad-request"


@pytest.mark.parametrize("what", ["active", "default"])
async def test_examples_of_section_2_4_and_2_5_choosing(world: World, what: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    error = await privacy(romeo, f"<{what} name='The Empty Set'/>", answer="error")
    assert condition(error) == "item-not-found"
    await use(romeo, "<item action='deny' order='1'><iq/></item>", active=what == "active")
    assert (what, "test") in await names(romeo)
    await privacy(romeo, f"<{what}/>")
    assert await names(romeo) == [("list", "test")]


async def test_conflicts(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    other = await world.login("romeo@example.org/home")
    await use(romeo, "<item action='deny' order='1'><iq/></item>", name="one")
    await privacy(romeo, "<list name='two'><item action='deny' order='1'/></list>")
    other.inbox.clear()
    for inner in ("<default name='two'/>", "<default/>", "<list name='one'/>"):
        assert condition(await privacy(romeo, inner, answer="error")) == "conflict"
    await privacy(romeo, "<default name='one'/>")  # no change
    await privacy(other, "<active name='two'/>")
    assert condition(await privacy(romeo, "<list name='two'/>", answer="error")) == "conflict"
    await privacy(romeo, "<default/>")  # the other session does not use it any more
    await privacy(romeo, "<list name='one'/>")
    await privacy(other, "<list name='two'/>")  # its own
    assert await names(other) == []


async def test_pushes_on_editing_and_removing_go_to_all_sessions(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    other = await world.login("romeo@example.org/home")
    push = "<iq type='set' id='*'><query xmlns='jabber:iq:privacy'><list name='public'/></query></iq>"
    for items in ("<item action='allow' order='68'/>", "<item action='deny' order='1'/>", ""):
        await privacy(romeo, f"<list name='public'>{items}</list>")
        await romeo.expect(push)
        await other.expect(push)
    error = await privacy(romeo, "<list name='public'/>", answer="error")
    assert condition(error) == "item-not-found"


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("", "bad-request"),
        ("<active name='a'/><default name='a'/>", "bad-request"),
        ("<colour/>", "bad-request"),
        ("<list><item action='deny' order='1'/></list>", "bad-request"),
        ("<list name='a'><item action='deny' order='1'/><item action='allow' order='1'/></list>", "bad-request"),
        ("<list name='a'><item type='jid' value='@' action='deny' order='1'/></list>", "jid-malformed"),
        ("<list name='a'><item type='group' value='None' action='deny' order='1'/></list>", "item-not-found"),
    ],
)
async def test_errors(world: World, inner: str, expected: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    assert condition(await privacy(romeo, inner, answer="error")) == expected


async def test_limits() -> None:
    async with World(settings={"modules": {"blocking": {"max_lists": 2, "max_items": 10}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        item = "<item action='deny' order='{}'/>"
        for name in "ab":
            await privacy(romeo, f"<list name='{name}'>{item.format(1)}</list>")
        error = await privacy(romeo, f"<list name='c'>{item.format(1)}</list>", answer="error")
        assert condition(error) == "resource-constraint"
        items = "".join(item.format(number) for number in range(11))
        assert (
            condition(await privacy(romeo, f"<list name='a'>{items}</list>", answer="error")) == "resource-constraint"
        )


# ---- kinds of stanzas (§2.9 to §2.13) -------------------------------------------------------------------------------


async def arrives(world: World, juliet: Client, romeo: Client) -> set[str]:
    """Which kinds get through from Romeo to Juliet."""
    juliet.inbox.clear()
    romeo.send("<message to='juliet@example.org/balcony'><body>hi</body></message>")
    romeo.send("<iq type='get' id='q' to='juliet@example.org/balcony'><ping xmlns='urn:xmpp:ping'/></iq>")
    romeo.send("<presence><show>away</show></presence>")
    await world.settle()
    romeo.inbox.clear()
    return {str(el.tag).rpartition("}")[2] for el in juliet.inbox if el.get("from") == str(romeo.jid)}


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("<message/>", {"iq", "presence"}),
        ("<iq/>", {"message", "presence"}),
        ("<presence-in/>", {"message", "iq"}),
        ("<presence-out/>", {"message", "iq", "presence"}),
        ("<message/><presence-in/>", {"iq"}),
        ("", set()),
    ],
)
async def test_kinds_of_stanzas(world: World, kind: str, left: set[str], active: bool) -> None:
    juliet, romeo = await friends(world)
    assert await arrives(world, juliet, romeo) == {"message", "iq", "presence"}
    await use(juliet, ROMEO.format(kind), active=active)
    if kind == "<presence-out/>":
        left = left - {"iq"}  # whom one hides from may not find out by asking the full address
    assert await arrives(world, juliet, romeo) == left


@pytest.mark.parametrize("active", [True, False])
async def test_hiding_from_one_person(world: World, active: bool) -> None:
    juliet, romeo = await friends(world)
    nurse = await world.login("nurse@example.org/house", presence=True)
    await world.befriend(juliet, nurse)
    await use(juliet, ROMEO.format("<presence-out/>"), active=active)
    await romeo.expect("<presence type='unavailable' from='juliet@example.org/balcony'/>")
    await nurse.expect_nothing()
    juliet.send("<presence><show>dnd</show></presence>")
    await nurse.expect("<presence><show>dnd</show></presence>")
    await romeo.expect_nothing()
    # neither by a probe, nor when he comes back, nor by asking for the last activity
    romeo.send("<presence to='juliet@example.org' type='probe'/>")
    await romeo.expect("<presence type='unavailable'/>")
    later = await world.login("romeo@example.org/later", presence=True)
    await world.settle()
    assert all(el.get("from") != str(juliet.jid) for el in later.inbox)
    romeo.inbox.clear()
    error = await romeo.iq(
        "<iq type='get' id='l' to='juliet@example.org'><query xmlns='jabber:iq:last'/></iq>", type="error"
    )
    assert condition(error) == "forbidden"
    # he may still write, and she may answer
    romeo.send("<message to='juliet@example.org'><body>O</body></message>")
    juliet.inbox.clear()
    await juliet.expect("<message><body>O</body></message>")
    juliet.send("<message to='romeo@example.org/later'><body>me</body></message>")
    await world.settle()
    assert later.inbox[-1].findtext("{jabber:client}body") == "me"
    # and when it ends, he sees her again
    romeo.inbox.clear()
    await privacy(juliet, f"<{'active' if active else 'default'}/>")
    await romeo.expect("<presence from='juliet@example.org/balcony' type='!'><show>dnd</show></presence>")


async def test_ignoring_one_person_and_a_domain(world: World) -> None:
    juliet, romeo = await friends(world)
    benvolio = await world.login("benvolio@example.net/street", presence=True)
    await use(
        juliet,
        "<item type='jid' value='benvolio@example.net/street' action='allow' order='1'/>"
        "<item type='jid' value='example.net' action='deny' order='2'/>" + ROMEO.format("<message/>"),
    )
    juliet.inbox.clear()
    for client, heard in ((romeo, False), (benvolio, True)):
        client.send("<message to='juliet@example.org'><body>hi</body></message>")
        await world.settle()
        assert bool([el for el in juliet.inbox if el.get("from") == str(client.jid)]) is heard
    # the list is edited, and the new one counts at once
    await use(juliet, "<item type='jid' value='example.net' action='deny' order='2'/>")
    benvolio.send("<message to='juliet@example.org' id='m'><body>hi</body></message>")
    assert condition(await benvolio.expect("<message type='error' id='m'/>")) == "service-unavailable"


async def test_by_group_and_by_subscription_following_the_roster(world: World) -> None:
    juliet, romeo = await friends(world)
    nurse = await world.login("nurse@example.org/house", presence=True)
    item = "<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='romeo@example.org'>{}</item></query></iq>"
    await juliet.iq(item.format("<group>Enemies</group>"))
    await use(
        juliet,
        "<item type='group' value='Enemies' action='deny' order='1'/>"
        "<item type='subscription' value='none' action='deny' order='2'><message/></item>",
    )

    async def heard(client: Client) -> bool:
        juliet.inbox.clear()
        client.send("<message to='juliet@example.org'><body>hi</body></message>")
        await world.settle()
        client.inbox.clear()
        return any(el.get("from") == str(client.jid) for el in juliet.inbox)

    assert not await heard(romeo) and not await heard(nurse)
    await juliet.iq(item.format("<group>Lovers</group>"))
    assert await heard(romeo)
    await world.befriend(juliet, nurse)
    assert await heard(nurse)
    # nobody is there, and the roster has left memory: the default list still decides
    await juliet.close()
    mercutio = await world.login("mercutio@example.org/street")
    mercutio.send("<message to='juliet@example.org' id='m' type='chat'><body>hi</body></message>")
    await mercutio.expect("<message type='error' id='m'/>")
    romeo.inbox.clear()
    romeo.send("<message to='juliet@example.org' id='m' type='chat'><body>hi</body></message>")
    await romeo.expect_nothing()


async def test_a_fall_through_rule_keeps_everybody_out_but_oneself(world: World) -> None:
    juliet, romeo = await friends(world)
    phone = await world.login("juliet@example.org/phone", presence=True)
    await use(juliet, "<item action='deny' order='7'/>", active=True)
    await world.settle()
    for client in (juliet, romeo, phone):
        client.inbox.clear()
    await juliet.iq("<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    phone.send("<message to='juliet@example.org/balcony'><body>me</body></message>")
    await juliet.expect("<message><body>me</body></message>")
    romeo.send("<message to='juliet@example.org/balcony' id='m'><body>you</body></message>")
    await romeo.expect("<message type='error' id='m'/>")
    await juliet.expect_nothing()


async def test_an_active_list_is_of_one_session(world: World) -> None:
    juliet, romeo = await friends(world)
    phone = await world.login("juliet@example.org/phone", presence=True)
    await world.settle()
    await use(juliet, ROMEO.format(""), active=True)
    await world.settle()
    for client in (juliet, romeo, phone):
        client.inbox.clear()
    romeo.send("<message to='juliet@example.org' type='chat'><body>both</body></message>")
    await phone.expect("<message><body>both</body></message>")
    romeo.send("<message to='juliet@example.org/phone' type='chat'><body>phone</body></message>")
    await phone.expect("<message><body>phone</body></message>")
    romeo.send("<message to='juliet@example.org/balcony' type='chat' id='m'><body>balcony</body></message>")
    await romeo.expect("<message type='error' id='m'/>")
    romeo.send("<presence><show>xa</show></presence>")
    await phone.expect("<presence><show>xa</show></presence>")
    await juliet.expect_nothing()
    # nothing is looked at any more when the last one is gone
    hook = world.kernel.hooks[events.delivering]
    assert any(row.owner == "blocking" for row in hook.rows)
    await juliet.close()
    assert not any(row.owner == "blocking" for row in hook.rows)


async def test_an_active_list_takes_the_place_of_the_default_list(world: World) -> None:
    juliet, romeo = await friends(world)
    await use(juliet, ROMEO.format(""), name="strict")
    await use(juliet, "<item action='allow' order='1'/>", name="open", active=True)
    juliet.inbox.clear()
    romeo.send("<message to='juliet@example.org' type='chat'><body>hi</body></message>")
    await juliet.expect("<message><body>hi</body></message>")


async def test_blocking_incoming_presence_makes_the_contact_leave(world: World) -> None:
    juliet, _ = await friends(world)
    await use(juliet, ROMEO.format("<presence-in/>"))
    await juliet.expect("<presence type='unavailable' from='romeo@example.org/orchard'/>")
    await privacy(juliet, "<default/>")
    await juliet.expect("<presence from='romeo@example.org/orchard' type='!'/>")


async def test_lists_outlive_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        juliet, _ = await friends(world)
        await use(juliet, ROMEO.format("<message/>"))
    async with World(database=database) as world:
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        await world.settle()
        assert await arrives(world, juliet, romeo) == {"iq", "presence"}
        assert await names(juliet) == [("default", "test"), ("list", "test")]
    await database.close()


@pytest.mark.parametrize("orderly", [True, False])
async def test_an_active_list_goes_on_with_its_session_after_a_restart(orderly: bool) -> None:
    calm = {"c2s": {"probe_after": 86_400}}
    async with MemoryDatabase() as db:
        first = World(database=db, settings=calm)
        await first.__aenter__()
        juliet, id_ = await managed(first, "juliet@example.org/balcony")
        await use(juliet, ROMEO.format("<message/>"), active=True)
        await first.settle()
        count = 3  # a push and two answers
        if orderly:
            await first.__aexit__(None, None, None)
        async with World(database=db if orderly else db.copy(), settings=calm) as again:
            juliet = await resume(again, juliet, id_, count)
            juliet.inbox.clear()
            chamber = await again.login("juliet@example.org/chamber", presence=True)
            romeo = await again.login("romeo@example.org/orchard")
            juliet.inbox.clear()
            chamber.inbox.clear()
            romeo.send("<message to='juliet@example.org' type='headline'><body>1</body></message>")
            await chamber.expect("<message><body>1</body></message>")
            await juliet.expect_nothing()
            assert ("active", "test") in await names(juliet)
            await privacy(juliet, "<active/>")
            romeo.send("<message to='juliet@example.org' type='headline'><body>2</body></message>")
            await juliet.expect("<message><body>2</body></message>")


async def test_an_active_list_is_acknowledged_when_it_will_outlive_the_server(world: World) -> None:
    juliet, _ = await managed(world, "juliet@example.org/balcony")
    romeo = await world.login("romeo@example.org/orchard")
    await privacy(juliet, f"<list name='test'>{ROMEO.format('<message/>')}</list>")
    await world.settle()
    juliet.inbox.clear()
    assert isinstance(world.db, MemoryDatabase)
    with world.db.held():
        juliet.send("<iq type='set' id='a'><query xmlns='jabber:iq:privacy'><active name='test'/></query></iq>")
        await world.settle()
        romeo.send("<message to='juliet@example.org/balcony' type='headline'><body>x</body></message>")
        await juliet.expect_nothing()  # in force, and not acknowledged
    await juliet.expect("<iq type='result' id='a'/>")
    (state,) = await world.db.fetch("SELECT state FROM sm_session")
    assert '"privacy.active": "test"' in state[0]


async def test_rooms_respect_a_block(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    room = "verona@conference.example.org"
    for client in (juliet, romeo):
        client.send(f"<presence to='{room}/{client.jid.local}'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
        await world.settle()
    owner = "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query>"
    await juliet.iq(f"<iq type='set' id='o' to='{room}'>{owner}</iq>")
    await block(romeo, room)
    await world.settle()
    romeo.inbox.clear()
    juliet.send(f"<message to='{room}' type='groupchat'><body>hi</body></message>")
    await world.settle()
    assert not [el for el in romeo.inbox if str(el.get("from", "")).startswith(room)]


async def test_a_block_does_not_find_out_who_hides(world: World) -> None:
    """Whoever hides from somebody by `presence-out` does not leave, for that one, when that one blocks it in turn."""
    juliet, romeo = await friends(world)
    await use(juliet, "<item type='jid' value='romeo@example.org' action='deny' order='1'><presence-out/></item>")
    await world.login("juliet@example.org/hidden", presence=True)
    await world.settle()
    romeo.inbox.clear()
    await block(romeo, "juliet@example.org")
    await romeo.expect_nothing()


async def test_a_list_that_is_being_removed_is_not_made_the_active_one(world: World) -> None:
    """Who was told that a list is active counts on it: the removal is the earlier of the two, or refused."""
    phone = await world.login("juliet@example.org/phone")
    laptop = await world.login("juliet@example.org/laptop")
    await privacy(phone, f"<list name='test'>{ROMEO.format('')}</list>")
    await world.settle()
    laptop.inbox.clear()
    with world.db.held():
        phone.send("<iq type='set' id='r'><query xmlns='jabber:iq:privacy'><list name='test'/></query></iq>")
        laptop.send("<iq type='set' id='a'><query xmlns='jabber:iq:privacy'><active name='test'/></query></iq>")
        await world.settle()
    await world.settle()
    answer = next(el for el in laptop.inbox if el.get("id") == "a")
    assert answer.get("type") == "error" and condition(answer) == "item-not-found"
    assert await names(laptop) == []


async def test_a_contact_that_the_roster_alone_let_in_hears_that_it_is_over(world: World) -> None:
    """The list keeps out whoever is not in the roster: by the time that it does, the contact has seen the user."""
    juliet, romeo = await friends(world)
    await use(juliet, "<item type='subscription' value='none' action='deny' order='1'><presence-out/></item>")
    await romeo.expect_nothing()
    item = "<item jid='romeo@example.org' subscription='remove'/>"
    await juliet.iq(f"<iq type='set' id='rm'><query xmlns='jabber:iq:roster'>{item}</query></iq>")
    await world.settle()
    assert [
        el for el in romeo.inbox if not mismatch("<presence type='unavailable' from='juliet@example.org/balcony'/>", el)
    ]


async def test_choosing_a_list_waits_for_no_commit_of_others(world: World) -> None:
    """Thousands who come back after a restart choose theirs at the same time."""
    clients = [await world.login(f"{name}@example.org/r") for name in ("juliet", "nurse")]
    for client in clients:
        await privacy(client, f"<list name='test'>{ROMEO.format('')}</list>")
    await world.settle()
    with world.db.held():
        for client in clients:
            client.send("<iq type='set' id='a'><query xmlns='jabber:iq:privacy'><active name='test'/></query></iq>")
        await world.settle()
        sessions = [world.kernel.sessions.of(JID.parse(f"{name}@example.org")).all[0] for name in ("juliet", "nurse")]
        assert [session.note(ACTIVE) for session in sessions] == ["test", "test"]
    await world.settle()
    for client in clients:
        assert next(el for el in client.inbox if el.get("id") == "a").get("type") == "result"
