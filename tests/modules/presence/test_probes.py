"""RFC 6121 §4.3.2 and §4.6.6, played: probes, and who may see whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from beamish.core.services import PresenceService
from beamish.testing import World
from beamish.xmpp.jid import JID

from .play import AWAY, JULIET, NURSE, ROMEO, know, pair

if TYPE_CHECKING:
    from tests.modules.presence.conftest import Remote


def probe(to: str, sender: str = AWAY) -> str:
    return f"<presence type='probe' id='xv291f38' from='{sender}' to='{to}'/>"


@pytest.mark.parametrize("to", [ROMEO, f"{ROMEO}/orchard", "nobody@example.org"])
async def test_4_3_2_rule_1_strangers_learn_nothing_not_even_of_accounts(
    wide_world: World, remote: Remote, to: str
) -> None:
    await wide_world.login(f"{ROMEO}/orchard", presence=True)
    await remote.send(probe(to))
    bare = to.partition("/")[0]
    await remote.expect(f"<presence type='unsubscribed' id='xv291f38' from='{bare}' to='{AWAY}'/>")


async def test_4_3_2_rule_1_a_pre_approval_outlives_a_probe(wide_world: World, remote: Remote) -> None:
    romeo = await wide_world.login(f"{ROMEO}/orchard", presence=True)
    romeo.send(f"<presence type='subscribed' to='{AWAY}'/>")
    await wide_world.settle()
    await remote.send(probe(ROMEO))
    await remote.expect(f"<presence type='unsubscribed' from='{ROMEO}' to='{AWAY}'/>")
    assert await wide_world.db.fetch("SELECT approved FROM roster") == [(1,)]


async def test_4_3_2_rule_3_an_absent_contact_and_since_when(wide_world: World, remote: Remote) -> None:
    await know(wide_world, ROMEO, AWAY, from_=True)
    await remote.send(probe(ROMEO))
    await remote.expect(f"<presence type='unavailable' id='xv291f38' from='{ROMEO}' to='{AWAY}'/>")
    romeo = await wide_world.login(f"{ROMEO}/orchard", presence=True)
    romeo.drop()
    await wide_world.pass_time(60)
    remote.got.clear()
    await remote.send(probe(ROMEO))
    await remote.expect(
        f"<presence type='unavailable' id='xv291f38' from='{ROMEO}'>"
        "<delay xmlns='urn:xmpp:delay' stamp='2023-11-14T22:13:20.000Z'/></presence>"
    )


async def test_4_3_2_rule_4_every_resource_with_its_own_presence_and_id(wide_world: World, remote: Remote) -> None:
    await know(wide_world, ROMEO, AWAY, from_=True)
    foo = await wide_world.login(f"{ROMEO}/foo")
    foo.send("<presence id='hzf1v27k'/>")
    bar = await wide_world.login(f"{ROMEO}/bar")
    bar.send("<presence id='ps6t1fu3'><show>away</show></presence>")
    await wide_world.settle()
    remote.got.clear()
    await remote.send(probe(ROMEO))
    await remote.expect(
        f"<presence type='!' id='hzf1v27k' from='{ROMEO}/foo' to='{AWAY}'/>",
        f"<presence type='!' id='ps6t1fu3' from='{ROMEO}/bar' to='{AWAY}'><show>away</show></presence>",
    )


async def test_4_3_2_a_probe_of_one_resource_tells_only_that_it_is_there(wide_world: World, remote: Remote) -> None:
    await know(wide_world, ROMEO, AWAY, from_=True)
    bar = await wide_world.login(f"{ROMEO}/bar")
    bar.send("<presence id='p'><show>away</show></presence>")
    await wide_world.settle()
    remote.got.clear()
    await remote.send(probe(f"{ROMEO}/bar"))
    await remote.expect(f"<presence type='!' id='!' from='{ROMEO}/bar'><show absent='!'/></presence>")
    await remote.send(probe(f"{ROMEO}/other"))
    await remote.expect(f"<presence type='unavailable' from='{ROMEO}/other'/>")


async def test_4_6_6_who_got_directed_presence_may_ask_for_that_resource(wide_world: World, remote: Remote) -> None:
    romeo = await wide_world.login(f"{ROMEO}/orchard")
    await wide_world.login(f"{ROMEO}/study", presence=True)
    romeo.send("<presence to='room@elsewhere.example/Ro'><show>away</show></presence>")
    await wide_world.settle()
    remote.got.clear()
    await remote.send(probe(f"{ROMEO}/orchard", "room@elsewhere.example/Ro"))
    await remote.expect(f"<presence type='!' from='{ROMEO}/orchard' to='room@elsewhere.example/Ro'/>")
    await remote.send(probe(f"{ROMEO}/study", "room@elsewhere.example/Ro"))
    await remote.expect(f"<presence type='unsubscribed' from='{ROMEO}'/>")


async def test_4_3_a_client_that_probes_gets_its_answer(world: World) -> None:
    romeo, juliet = await pair(world)
    juliet.send(f"<presence type='probe' to='{ROMEO}'/>")
    await juliet.expect(f"<presence type='!' from='{ROMEO}/orchard' to='{JULIET}/balcony'/>")
    await romeo.expect_nothing()


async def test_may_see(world: World) -> None:
    await know(world, ROMEO, JULIET, from_=True)
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    romeo.send("<presence to='room@conference.example.org/Ro'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
    await world.settle()
    service = world.kernel.service(PresenceService)
    owner = JID.parse(ROMEO)
    for peer, may in (
        (f"{ROMEO}/x", True),
        (f"{JULIET}/x", True),
        (NURSE, False),
        ("room@conference.example.org/Ro", True),
        ("room@conference.example.org/Other", True),
        ("other@conference.example.org/Ro", False),
    ):
        assert service.may_see(owner, JID.parse(peer)) is may, peer
    romeo.drop()
    await world.settle()
    later = service.may_see(JID.parse(NURSE), JID.parse(JULIET))
    assert not isinstance(later, bool)
    assert await later is False
