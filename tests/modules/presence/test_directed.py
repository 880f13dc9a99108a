"""RFC 6121 §4.6, played: directed presence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beamish.testing import World

from .play import AWAY, JULIET, NURSE, ROMEO, friends, know, pair, unavailable

if TYPE_CHECKING:
    from tests.modules.presence.conftest import Remote


async def test_4_6_3_directed_presence_reaches_a_stranger_and_ends_with_the_session(world: World) -> None:
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    nurse = await world.login(f"{NURSE}/kitchen", presence=True)
    romeo.send(f"<presence to='{NURSE}/kitchen'><show>chat</show></presence>")
    await nurse.expect(f"<presence from='{ROMEO}/orchard' to='{NURSE}/kitchen'><show>chat</show></presence>")
    romeo.send("<presence><show>away</show></presence>")
    await romeo.receive()
    await nurse.expect_nothing()
    romeo.drop()
    await nurse.expect(unavailable(f"{ROMEO}/orchard"))
    await nurse.expect_nothing()


async def test_4_6_3_rule_3_directed_presence_without_initial_presence(world: World) -> None:
    await friends(world, ROMEO, JULIET)
    romeo = await world.login(f"{ROMEO}/orchard")
    juliet = await world.login(f"{JULIET}/balcony", presence=True)
    romeo.send(f"<presence to='{JULIET}'/>")
    await juliet.expect(f"<presence from='{ROMEO}/orchard' type='!'/>")
    romeo.send("<presence type='unavailable'><status>bye</status></presence>")
    await juliet.expect(unavailable(f"{ROMEO}/orchard", "<status>bye</status>"))
    romeo.drop()
    await juliet.expect_nothing()


async def test_4_6_3_rule_1_a_subscriber_hears_of_the_end_only_once(world: World) -> None:
    romeo, juliet = await pair(world)
    romeo.send(f"<presence to='{JULIET}/balcony'><show>xa</show></presence>")
    await juliet.expect(f"<presence from='{ROMEO}/orchard'><show>xa</show></presence>")
    romeo.drop()
    await juliet.expect(unavailable(f"{ROMEO}/orchard"))
    await juliet.expect_nothing()


async def test_4_6_1_who_was_told_of_the_end_is_not_told_again(wide_world: World, remote: Remote) -> None:
    romeo = await wide_world.login(f"{ROMEO}/orchard", presence=True)
    romeo.send(f"<presence to='{AWAY}/a'/><presence to='{AWAY}/b'/><presence to='{AWAY}/c'/>")
    romeo.send(f"<presence type='unavailable' to='{AWAY}/a'/>")
    await wide_world.settle()
    remote.got.clear()
    await remote.send(f"<presence type='unavailable' from='{AWAY}/b' to='{ROMEO}/orchard'/>")
    romeo.drop()
    await remote.expect(f"<presence type='unavailable' from='{ROMEO}/orchard' to='{AWAY}/c'/>")


async def test_4_6_1_a_cancelled_subscription_ends_directed_presence_too(wide_world: World, remote: Remote) -> None:
    await know(wide_world, ROMEO, AWAY, from_=True)
    romeo = await wide_world.login(f"{ROMEO}/orchard")
    romeo.send(f"<presence to='{AWAY}/a'/><presence/><presence type='unsubscribed' to='{AWAY}'/>")
    await wide_world.settle()
    assert [stanza.type for stanza in remote.got] == ["", "", "unavailable", "unsubscribed"]
    remote.got.clear()
    romeo.drop()
    await remote.expect()


async def test_the_limit_of_directed_presence() -> None:
    async with World(settings={"limits": {"directed_presence": 2}}) as small:
        romeo = await small.login(f"{ROMEO}/orchard", presence=True)
        for n in (1, 2, 2, 3):
            romeo.send(f"<presence id='{n}' to='{NURSE}/{n}'/>")
        await romeo.expect(
            "<presence id='3' type='error'><error type='wait'>"
            "<resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>"
        )
        await romeo.expect_nothing()


async def test_presence_to_our_own_domain_or_own_resource_is_no_error(world: World) -> None:
    one = await world.login(f"{ROMEO}/one", presence=True)
    two = await world.login(f"{ROMEO}/two")
    one.send("<presence to='example.org'/>")
    one.send(f"<presence to='{ROMEO}/two'><show>chat</show></presence>")
    await two.expect(f"<presence from='{ROMEO}/one'><show>chat</show></presence>")
    await one.expect_nothing()
