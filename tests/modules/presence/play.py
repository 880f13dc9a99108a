"""Who plays in the tests of presence, and what they know of one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beamish.core.services import RosterItem, RosterService
from beamish.testing import Client, World
from beamish.xmpp.jid import JID

if TYPE_CHECKING:
    pass

ROMEO, JULIET, NURSE = "romeo@example.org", "juliet@example.org", "nurse@example.org"
AWAY = "benvolio@elsewhere.example"
BAD = "<error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"


def unavailable(sender: str, inner: str = "") -> str:
    return f"<presence type='unavailable' from='{sender}'>{inner}</presence>"


async def know(world: World, owner: str, contact: str, *, to: bool = False, from_: bool = False) -> None:
    """Write one side of a subscription."""
    rosters = world.kernel.service(RosterService)
    await rosters.change(JID.parse(owner), RosterItem(JID.parse(contact), to=to, from_=from_))


async def friends(world: World, one: str, other: str) -> None:
    await know(world, one, other, to=True, from_=True)
    await know(world, other, one, to=True, from_=True)


async def pair(world: World) -> tuple[Client, Client]:
    await friends(world, ROMEO, JULIET)
    romeo = await world.login(f"{ROMEO}/orchard", presence=True)
    juliet = await world.login(f"{JULIET}/balcony", presence=True)
    romeo.inbox.clear()
    juliet.inbox.clear()
    return romeo, juliet
