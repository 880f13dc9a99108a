"""RFC 6121 §4, played: initial, subsequent and unavailable presence, and the hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from beamish.core import events
from beamish.core.events import Context, Delivery, PresenceChanged, RemoteFound
from beamish.core.hooks import STOP, Outcome, Row
from beamish.core.services import PresenceService, RosterService
from beamish.testing import World
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID

from .play import AWAY, BAD, JULIET, NURSE, ROMEO, friends, know, pair, unavailable

if TYPE_CHECKING:
    from tests.modules.presence.conftest import Remote


# ---- §4.2, §4.4 ---------------------------------------------------------------------------------------------------------


async def test_4_2_2_initial_presence_reaches_subscribers_and_the_own_resources(world: World) -> None:
    await know(world, JULIET, ROMEO, from_=True)
    await know(world, JULIET, NURSE, to=True)
    await know(world, NURSE, JULIET, from_=True)
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    nurse = await world.login(f"{NURSE}/kitchen", presence=True)
    chamber = await world.login(f"{JULIET}/chamber", presence=True)
    for client in (romeo, nurse, chamber):
        await world.settle()
        client.inbox.clear()
    deaf = await world.login(f"{JULIET}/cellar")
    balcony = await world.login(f"{JULIET}/balcony", presence=True)
    await chamber.expect(f"<presence from='{JULIET}/balcony' to='{JULIET}'/>")
    await balcony.expect(f"<presence from='{JULIET}/chamber' to='{JULIET}'/>")
    await balcony.expect(f"<presence from='{NURSE}/kitchen' to='{JULIET}'/>")
    await romeo.expect(f"<presence from='{JULIET}/balcony' to='{ROMEO}'/>")
    for client in (romeo, nurse, chamber, balcony, deaf):
        await client.expect_nothing()


async def test_4_3_1_a_new_session_gets_the_presence_of_local_contacts_with_its_age(world: World) -> None:
    await friends(world, ROMEO, JULIET)
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    romeo.send("<presence id='p7'><show>away</show><c xmlns='http://jabber.org/protocol/caps' ver='v'/></presence>")
    await world.pass_time(60)
    juliet = await world.login(f"{JULIET}/balcony", presence=True)
    await juliet.expect(
        f"<presence id='p7' from='{ROMEO}/orchard' to='{JULIET}' type='!'><show>away</show>"
        "<c xmlns='http://jabber.org/protocol/caps' ver='v'/>"
        "<delay xmlns='urn:xmpp:delay' from='example.org' stamp='2023-11-14T22:13:20.000Z'/></presence>"
    )
    await juliet.expect_nothing()


async def test_4_3_1_contacts_elsewhere_are_probed_from_the_bare_address(wide_world: World, remote: Remote) -> None:
    await know(wide_world, ROMEO, AWAY, to=True, from_=True)
    romeo = await wide_world.login(f"{ROMEO}/orchard", presence=True)
    await remote.expect(
        f"<presence type='!' from='{ROMEO}/orchard' to='{AWAY}'/>",
        f"<presence type='probe' from='{ROMEO}' to='{AWAY}'/>",
    )
    romeo.send("<presence/>")
    await remote.expect(f"<presence type='!' from='{ROMEO}/orchard' to='{AWAY}'/>")


async def test_both_sides_learn_who_is_there_when_a_lost_server_comes_back(wide_world: World, remote: Remote) -> None:
    """Several that come back together are dealt with together; others, and who is blocked, hear nothing."""
    blocked = "mercutio@elsewhere.example"
    for contact in (AWAY, "tybalt@other.example", "rosaline@third.example", blocked):
        await know(wide_world, ROMEO, contact, to=True, from_=True)
    await know(wide_world, NURSE, AWAY, from_=True)
    await know(wide_world, JULIET, AWAY, to=True, from_=True)
    romeo = await wide_world.login(f"{ROMEO}/orchard", presence=True)
    await romeo.iq(f"<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='{blocked}'/></block></iq>")
    await wide_world.login(f"{ROMEO}/street")
    await wide_world.login(f"{NURSE}/kitchen", presence=True)
    await wide_world.login(f"{JULIET}/balcony")
    await wide_world.settle()
    remote.got.clear()
    found = wide_world.kernel.hooks[events.remote_found]
    for domain in ("elsewhere.example", "third.example", "elsewhere.example"):
        found.run(RemoteFound(domain))
    await remote.expect()
    await wide_world.pass_time(3)
    await remote.expect(
        f"<presence type='probe' from='{ROMEO}' to='{AWAY}'/>",
        f"<presence type='probe' from='{ROMEO}' to='rosaline@third.example'/>",
        f"<presence type='!' from='{ROMEO}/orchard' to='{AWAY}'><delay xmlns='urn:xmpp:delay'/></presence>",
        f"<presence type='!' from='{ROMEO}/orchard' to='rosaline@third.example'/>",
        f"<presence type='!' from='{NURSE}/kitchen' to='{AWAY}'/>",
    )
    found.run(RemoteFound("other.example"))
    await wide_world.pass_time(3)
    await remote.expect(
        f"<presence type='probe' from='{ROMEO}' to='tybalt@other.example'/>",
        f"<presence type='!' from='{ROMEO}/orchard' to='tybalt@other.example'/>",
    )


async def test_rosters_that_came_apart_are_set_right(world: World) -> None:
    await know(world, ROMEO, JULIET, to=True)
    await world.login(f"{JULIET}/balcony", presence=True)
    romeo = await world.login(f"{ROMEO}/orchard", roster=True, presence=True)
    await romeo.expect(f"<presence type='unsubscribed' from='{JULIET}' to='{ROMEO}'/>")
    await romeo.expect(
        f"<iq type='set'><query xmlns='jabber:iq:roster'><item jid='{JULIET}' subscription='none'/></query></iq>"
    )
    await romeo.expect_nothing()


async def test_4_4_2_later_presence_goes_out_as_it_came(world: World) -> None:
    romeo, juliet = await pair(world)
    romeo.send(
        "<presence id='x' xml:lang='en'><show>dnd</show><status>Wooing Juliet</status>"
        "<status xml:lang='cs'>Dvo\u0159\u00edm se Julii</status><priority>1</priority><x xmlns='urn:x'><y/></x></presence>"
    )
    for client in (juliet, romeo):
        got = await client.expect(
            f"<presence id='x' from='{ROMEO}/orchard'><show>dnd</show><status>Wooing Juliet</status>"
            "<status>Dvo\u0159\u00edm se Julii</status><priority>1</priority><x xmlns='urn:x'><y/></x></presence>"
        )
        assert got.get("{http://www.w3.org/XML/1998/namespace}lang") == "en"
        await client.expect_nothing()
    assert world.kernel.sessions.of(JID.parse(ROMEO)).available[0].priority == 1


@pytest.mark.parametrize("priority", ["128", "-129", "1.5", "high", "", "1 2", "0x1", "1_0", "\u0661"])
async def test_4_7_2_3_priorities_that_are_none(world: World, priority: str) -> None:
    romeo = await world.login(f"{ROMEO}/orchard")
    romeo.send(f"<presence id='p'><priority>{priority}</priority></presence>")
    await romeo.expect(f"<presence id='p' type='error'>{BAD}</presence>")
    assert not world.kernel.sessions.of(JID.parse(ROMEO)).available


@pytest.mark.parametrize(("text", "priority"), [("-128", -128), ("127", 127), ("+5", 5), (" 7\n", 7)])
async def test_4_7_2_3_priorities(world: World, text: str, priority: int) -> None:
    romeo = await world.login(f"{ROMEO}/orchard")
    romeo.send(f"<presence><priority>{text}</priority></presence>")
    await romeo.receive()
    assert world.kernel.sessions.of(JID.parse(ROMEO)).all[0].priority == priority


@pytest.mark.parametrize("to", ["", f" to='{JULIET}'", f" to='{ROMEO}/orchard'"])
async def test_4_7_1_types_that_do_not_exist(world: World, to: str) -> None:
    romeo = await world.login(f"{ROMEO}/orchard")
    romeo.send(f"<presence id='p' type='available'{to}/>")
    await romeo.expect(f"<presence id='p' type='error'>{BAD}</presence>")
    await romeo.expect_nothing()


async def test_4_7_1_types_that_do_not_exist_from_elsewhere(wide_world: World, remote: Remote) -> None:
    await remote.send(f"<presence id='p' type='invisible' from='{AWAY}' to='{ROMEO}'/>")
    await remote.expect(f"<presence id='p' type='error' to='{AWAY}'>{BAD}</presence>")


async def test_errors_and_probes_without_an_address_are_nothing(world: World) -> None:
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    romeo.send(f"<presence type='error' id='1'>{BAD}</presence><presence type='probe' id='2'/>")
    await romeo.expect_nothing()


# ---- §4.5 ---------------------------------------------------------------------------------------------------------------


async def test_4_5_2_unavailable_presence_goes_out_as_it_came_and_once(world: World) -> None:
    romeo, juliet = await pair(world)
    romeo.send("<presence type='unavailable'><status>going on vacation</status></presence>")
    for client in (romeo, juliet):
        await client.expect(unavailable(f"{ROMEO}/orchard", "<status>going on vacation</status>"))
    romeo.send("<presence type='unavailable'/>")
    romeo.drop()
    await juliet.expect_nothing()


async def test_4_5_2_a_lost_connection_is_told_to_all_once(world: World) -> None:
    romeo, juliet = await pair(world)
    study = await world.login(f"{ROMEO}/study", presence=True)
    study.inbox.clear()
    juliet.inbox.clear()
    romeo.drop()
    for client in (juliet, study):
        await client.expect(unavailable(f"{ROMEO}/orchard"))
        await client.expect_nothing()


async def test_4_5_2_presence_after_unavailable_is_initial_again(world: World) -> None:
    romeo, juliet = await pair(world)
    romeo.send("<presence type='unavailable'/><presence/>")
    await juliet.expect(unavailable(f"{ROMEO}/orchard"))
    await juliet.expect(f"<presence from='{ROMEO}/orchard' type='!'/>")
    await romeo.expect(unavailable(f"{ROMEO}/orchard"))
    await romeo.expect(f"<presence from='{ROMEO}/orchard' type='!'/>")
    await romeo.expect(f"<presence from='{JULIET}/balcony' type='!'/>")


async def test_a_session_that_was_never_available_leaves_quietly(world: World) -> None:
    _, juliet = await pair(world)
    quiet = await world.login(f"{ROMEO}/quiet")
    quiet.send("<presence type='unavailable'/>")
    quiet.drop()
    await juliet.expect_nothing()


async def test_4_5_2_contacts_elsewhere_get_unavailable_too(wide_world: World, remote: Remote) -> None:
    await know(wide_world, ROMEO, AWAY, from_=True)
    romeo = await wide_world.login(f"{ROMEO}/orchard", presence=True)
    await remote.expect(f"<presence type='!' from='{ROMEO}/orchard' to='{AWAY}'/>")
    romeo.drop()
    await remote.expect(f"<presence type='unavailable' from='{ROMEO}/orchard' to='{AWAY}'/>")


# ---- inbound, §8.5 ------------------------------------------------------------------------------------------------------


async def test_4_4_3_inbound_presence_reaches_every_available_resource(wide_world: World, remote: Remote) -> None:
    one = await wide_world.login(f"{ROMEO}/one", presence=True)
    two = await wide_world.login(f"{ROMEO}/two", priority=-1)
    three = await wide_world.login(f"{ROMEO}/three")
    one.inbox.clear()
    two.inbox.clear()
    for kind in ("<presence {}/>", "<presence type='unavailable' {}><status>x</status></presence>"):
        xml = kind.format(f"from='{AWAY}/x' to='{ROMEO}'")
        await remote.send(xml)
        await one.expect(xml)
        await two.expect(xml)
    await three.expect_nothing()


async def test_8_5_3_presence_to_a_full_address_reaches_that_resource_or_none(
    wide_world: World, remote: Remote
) -> None:
    one = await wide_world.login(f"{ROMEO}/one", presence=True)
    two = await wide_world.login(f"{ROMEO}/two")
    await remote.send(f"<presence from='{AWAY}/x' to='{ROMEO}/two'/>")
    await two.expect(f"<presence from='{AWAY}/x' to='{ROMEO}/two'/>")
    await remote.send(f"<presence from='{AWAY}/x' to='{ROMEO}/gone'/>")
    await remote.send(f"<presence from='{AWAY}/x' to='nobody@example.org'/>")
    await one.expect_nothing()
    await remote.expect()


async def test_error_presence_is_delivered_and_never_answered(wide_world: World, remote: Remote) -> None:
    one = await wide_world.login(f"{ROMEO}/one", presence=True)
    await remote.send(f"<presence type='error' id='1' from='{AWAY}' to='{ROMEO}/one'>{BAD}</presence>")
    await one.expect(f"<presence type='error' id='1' from='{AWAY}'/>")
    await remote.send(f"<presence type='error' id='2' from='{AWAY}' to='{ROMEO}'>{BAD}</presence>")
    await one.expect(f"<presence type='error' id='2' from='{AWAY}'/>")
    await remote.send(f"<presence type='error' id='3' from='{AWAY}' to='{ROMEO}/gone'>{BAD}</presence>")
    await one.expect_nothing()
    await remote.expect()


# ---- hooks, order, many ---------------------------------------------------------------------------------------------------


async def test_the_hook_tells_initial_presence_from_others(world: World) -> None:
    seen: list[tuple[str, bool, bool]] = []

    def note(event: PresenceChanged) -> None:
        seen.append((event.stanza.type, event.was, event.initial))

    world.kernel.hooks[events.presence_changed].add(Row(50, "test", note))
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    romeo.send("<presence><show>away</show></presence><presence type='unavailable'/><presence/>")
    await world.settle()
    romeo.drop()
    await world.settle()
    assert seen == [
        ("", False, True),
        ("", True, False),
        ("unavailable", True, False),
        ("", False, True),
        ("unavailable", True, False),
    ]


async def test_the_hook_for_presence_of_others_sees_what_is_not_a_local_broadcast(
    wide_world: World, remote: Remote
) -> None:
    seen: list[tuple[str, str]] = []

    async def note(ctx: Context) -> None:
        seen.append((ctx.stanza.type, str(ctx.stanza.sender)))

    wide_world.kernel.hooks[events.contact_presence].add(Row(50, "test", note))
    romeo, juliet = await pair(wide_world)
    for kind in ("", "type='unavailable'", "type='error'", "type='probe'"):
        await remote.send(f"<presence {kind} from='{AWAY}/x' to='{ROMEO}'/>")
    juliet.send(f"<presence to='{ROMEO}/orchard'/>")
    await wide_world.settle()
    assert seen == [
        ("", f"{AWAY}/x"),
        ("unavailable", f"{AWAY}/x"),
        ("error", f"{AWAY}/x"),
        ("", f"{JULIET}/balcony"),
    ]
    assert len(romeo.inbox) == 4


async def test_what_may_not_come_in_does_not(world: World) -> None:
    """`incoming` and `delivering` are asked on the short way of local broadcasts too, whether they answer at once or later."""
    romeo, juliet = await pair(world)
    blocked = True

    def stop(ctx: Context) -> Outcome:
        return STOP if blocked and ctx.stanza.to is not None and ctx.stanza.to.bare == JULIET else None

    async def stop_later(ctx: Context) -> Outcome:
        return stop(ctx)

    def crash(ctx: Context) -> Outcome:
        if stop(ctx):
            raise StanzaError(Condition.INTERNAL_SERVER_ERROR)
        return None

    def hold_back(delivery: Delivery) -> Outcome:
        return STOP if blocked and delivery.session.bare == JULIET else None

    hooks = world.kernel.hooks
    installs: tuple[Callable[[], None], ...] = (
        lambda: hooks[events.incoming].add(Row(50, "test", stop)),
        lambda: hooks[events.incoming].add(Row(50, "test", stop_later)),
        lambda: hooks[events.incoming].add(Row(50, "test", crash)),
        lambda: hooks[events.delivering].add(Row(50, "test", hold_back)),
    )
    for install in installs:
        install()
        for blocked in (True, False):
            romeo.send("<presence><show>away</show></presence><presence type='unavailable'/><presence/>")
            await world.settle()
            assert [el.get("type") for el in juliet.inbox] == ([] if blocked else [None, "unavailable", None])
            juliet.inbox.clear()
            romeo.inbox.clear()
            again = await world.login(f"{JULIET}/again")
            again.send("<presence/>")
            await world.settle()
            told = [el for el in again.inbox if el.get("from") == f"{ROMEO}/orchard"]
            assert len(told) == (0 if blocked else 1)
            again.drop()
            await world.settle()
            juliet.inbox.clear()
        hooks.remove("test")


async def test_a_long_list_is_served_in_slices_and_a_newer_presence_wins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("broadcast", "probes"):
        monkeypatch.setattr(f"beamish.modules.presence.{file}.SLICE", 1)
    for other in (JULIET, NURSE, "mercutio@example.org"):
        await friends(world, ROMEO, other)
    clients = [await world.login(f"{other}/x", presence=True) for other in (JULIET, NURSE, "mercutio@example.org")]
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    for client in clients:
        await client.expect(f"<presence from='{ROMEO}/orchard' type='!'/>")
    await romeo.expect_all(*(f"<presence from='{client.jid}'/>" for client in clients))
    romeo.send("<presence><show>away</show></presence>")
    romeo.drop()
    for client in clients:
        await world.settle()
        assert client.inbox[-1].get("type") == "unavailable"
        assert sum(el.get("type") == "unavailable" for el in client.inbox) == 1


async def test_a_session_that_closes_while_its_roster_is_read_never_appears(world: World) -> None:
    await friends(world, ROMEO, JULIET)
    juliet = await world.login(f"{JULIET}/balcony", presence=True)
    rosters = world.kernel.service(RosterService)
    rosters._forget(JID.parse(ROMEO))  # type: ignore[attr-defined]
    romeo = await world.login(f"{ROMEO}/orchard")
    romeo.send("<presence/>")
    romeo.drop()
    await juliet.expect_nothing()
    assert not world.kernel.sessions.of(JID.parse(ROMEO)).available


async def test_nothing_is_kept_of_users_who_left(world: World) -> None:
    romeo, _ = await pair(world)
    romeo.drop()
    await world.settle()
    module = world.kernel.service(PresenceService)
    assert [str(s.jid) for s in module.probes._shown] == [f"{JULIET}/balcony"]  # type: ignore[attr-defined]
