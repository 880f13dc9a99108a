from __future__ import annotations

from typing import Any

import pytest
from tests.modules.muc.conftest import MUC, ROOM

from beamish.testing.match import condition


def invite(to: str, inner: str = "") -> str:
    return f"<message to='{ROOM}'><x xmlns='{MUC}#user'><invite to='{to}'>{inner}</invite></x></message>"


async def test_a_mediated_invitation(rooms: Any, codes: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, passwordprotectedroom=True, roomsecret="p&w")
    romeo.send(invite("juliet@example.org", "<reason>Hey &lt;3</reason><continue thread='t1'/>"))
    (got,) = await rooms.take(juliet)
    assert codes.matches(
        f"<message from='{ROOM}' to='juliet@example.org' type='!'><x xmlns='{MUC}#user'>"
        "<invite from='romeo@example.org'><reason>Hey &lt;3</reason><continue thread='t1'/></invite>"
        "<password>p&amp;w</password></x></message>",
        got,
    )
    await romeo.expect_nothing()


async def test_declined(rooms: Any, codes: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, nurse)
    decline = (
        f"<message to='{ROOM}'><x xmlns='{MUC}#user'><decline to='%s'><reason>Too dark</reason></decline></x></message>"
    )
    juliet.send(decline % "romeo@example.org")
    assert condition((await rooms.take(juliet))[0]) == "item-not-found", "nobody has invited"
    romeo.send(invite("juliet@example.org"))
    await rooms.clear(juliet)
    juliet.send(decline % "nurse@example.org")
    assert condition((await rooms.take(juliet))[0]) == "item-not-found"
    juliet.send(decline % "romeo@example.org")
    (got,) = await rooms.take(romeo)
    assert codes.matches(
        f"<message from='{ROOM}'><x xmlns='{MUC}#user'><decline from='juliet@example.org'>"
        "<reason>Too dark</reason></decline></x></message>",
        got,
    )
    assert await rooms.take(nurse) == []


@pytest.mark.parametrize(
    ("config", "inviter", "to", "expected"),
    [
        ({"allowinvites": False}, "nurse", "juliet@example.org", "forbidden"),
        ({"allowinvites": False}, "romeo", "juliet@example.org", ""),
        ({}, "nurse", "juliet@example.org", ""),
        ({}, "mercutio", "juliet@example.org", "not-acceptable"),
        ({}, "romeo", "nobody@example.org", "item-not-found"),
        ({}, "romeo", "@", "jid-malformed"),
        ({}, "romeo", "", "jid-malformed"),
    ],
)
async def test_who_may_invite(rooms: Any, config: Any, inviter: str, to: str, expected: str) -> None:
    """Romeo is owner, nurse a participant, mercutio outside."""
    names = ("romeo", "nurse", "mercutio", "juliet")
    clients = dict(zip(names, await rooms.login(*names), strict=True))
    await rooms.full(clients["romeo"], clients["nurse"], **config)
    clients[inviter].send(invite(to))
    refused = await rooms.take(clients[inviter])
    assert [condition(el) for el in refused] == ([expected] if expected else [])
    assert len(await rooms.take(clients["juliet"])) == (0 if expected else 1)


@pytest.mark.parametrize("allowed", [True, False])
async def test_members_invite_to_a_room_for_members(rooms: Any, allowed: bool) -> None:
    """Whoever is invited becomes a member (§9.5)."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet)
    await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org'")
    await rooms.configure(romeo, membersonly=True, allowinvites=allowed)
    await rooms.clear(romeo, juliet)
    juliet.send(invite("nurse@example.org"))
    if allowed:
        assert len(await rooms.take(nurse)) == 1, "one invitation, not two"
        assert (await rooms.enter(nurse, "nurse"))[0].get("type") is None
    else:
        assert condition((await rooms.take(juliet))[0]) == "forbidden"
        assert condition((await rooms.enter(nurse, "nurse"))[0]) == "registration-required"


async def test_an_open_room_makes_nobody_a_member(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    romeo.send(invite("juliet@example.org"))
    await rooms.clear(juliet)
    assert await rooms.listed(romeo, "affiliation='member'") == []


async def test_the_banned_are_not_invited(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo)
    await rooms.admin(romeo, "affiliation='outcast' jid='juliet@example.org'")
    romeo.send(invite("juliet@example.org"))
    assert await rooms.take(juliet) == []


async def test_direct_invitations_pass_untouched(rooms: Any, codes: Any) -> None:
    """XEP-0249 is a matter of clients."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    x = f"<x xmlns='jabber:x:conference' jid='{ROOM}' reason='Hey' password='pw'/>"
    romeo.send(f"<message to='juliet@example.org'>{x}</message>")
    (got,) = await rooms.take(juliet)
    assert codes.matches(f"<message from='romeo@example.org/romeo'>{x}</message>", got)


async def test_too_many_at_once(rooms: Any) -> None:
    (romeo,) = await rooms.login("romeo")
    await rooms.full(romeo)
    many = "".join(f"<invite to='u{n}@example.org'/>" for n in range(21))
    romeo.send(f"<message to='{ROOM}'><x xmlns='{MUC}#user'>{many}</x></message>")
    assert condition((await rooms.take(romeo))[0]) == "resource-constraint"


async def test_members_do_not_make_a_whole_domain_members(rooms: Any) -> None:
    romeo, nurse = await rooms.login("romeo", "nurse")
    await rooms.full(romeo, membersonly=True)
    romeo.send(invite("example.com"))
    assert condition((await rooms.take(romeo))[0]) == "not-acceptable"
    assert await rooms.listed(romeo, "affiliation='member'") == []
    assert condition((await rooms.enter(nurse, "nurse"))[0]) == "registration-required"
