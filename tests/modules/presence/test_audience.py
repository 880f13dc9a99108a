"""Who is told at the beginning and end of a session, and of whom: by the rosters as they are at that moment, in any order of
events. What is counted out here contact by contact is what RFC 6121 §4.2 to §4.5 say; the server finds it in other ways.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from tests.elsewhere import Elsewhere
from tests.modules.presence.conftest import Remote

from beamish.core.services import RosterItem, RosterService
from beamish.testing import Client, World
from beamish.xmpp.jid import JID

USERS = (
    "romeo@example.org",
    "juliet@example.org",
    "mercutio@example.org",
    "nurse@example.org",
    "benvolio@example.net",
)
AWAY = ("rosaline@elsewhere.example", "gateway.example", "romeo@other.example")

Heard = Counter[tuple[str, str, str]]
"""Who heard, of whom, which type of presence."""


class Town:
    """Users who come, change and leave while their rosters and blocklists change, and what each has to hear."""

    def __init__(self, world: World, remote: Remote, seed: int) -> None:
        self.world = world
        self.remote = remote
        self.random = random.Random(seed)
        self.online: dict[str, list[Client]] = {}
        self.says: dict[str, tuple[bool, bool]] = {}
        """`owner contact` → the owner's side of the subscription: to, from."""
        self.blocked: set[tuple[str, str]] = set()

    async def relate(self, one: str, other: str) -> None:
        """Any subscription between two, on both sides alike; none removes the items, or leaves them without one."""
        to, from_ = self.random.choice((True, False)), self.random.choice((True, False))
        for owner, contact, side in ((one, other, (to, from_)), (other, one, (from_, to))):
            if owner not in USERS:
                continue
            rosters = self.world.kernel.service(RosterService)
            self.says[f"{owner} {contact}"] = side
            if not any(side) and self.random.random() < 0.5:
                await rosters.remove(JID(owner), JID(contact))
            else:
                await rosters.change(JID(owner), RosterItem(JID(contact), to=side[0], from_=side[1]))

    async def block(self, user: str, contact: str) -> None:
        """Block a contact, or no longer; only a session can."""
        if not self.online.get(user):
            return
        change = "unblock" if (user, contact) in self.blocked else "block"
        self.blocked ^= {(user, contact)}
        await self.online[user][0].iq(
            f"<iq type='set' id='b'><{change} xmlns='urn:xmpp:blocking'><item jid='{contact}'/></{change}></iq>"
        )

    async def come(self, user: str) -> Heard:
        """A new session becomes available; what has to be heard of it."""
        client = await self.world.login(f"{user}/{self.random.randrange(10**6)}")
        due = self._announced(user, str(client.jid), "")
        own = self.online.setdefault(user, [])
        for other in own:
            due[str(client.jid), str(other.jid), ""] += 1
            due[str(other.jid), str(client.jid), ""] += 1
        for contact in (*USERS, *AWAY):
            to = self.says.get(f"{user} {contact}", (False, False))[0]
            if not to or (contact, user) in self.blocked:
                continue
            if contact in AWAY:
                due[contact, user, "probe"] += (user, contact) not in self.blocked
            elif (user, contact) not in self.blocked:
                for other in self.online.get(contact, ()):
                    due[str(client.jid), str(other.jid), ""] += 1
        own.append(client)
        client.send("<presence/>")
        due[str(client.jid), str(client.jid), ""] += 1
        return due

    async def change(self, user: str) -> Heard:
        """A session says something new."""
        client = self.random.choice(self.online[user])
        client.send("<presence><show>away</show></presence>")
        due = self._announced(user, str(client.jid), "")
        for other in self.online[user]:
            due[str(other.jid), str(client.jid), ""] += 1
        return due

    async def go(self, user: str) -> Heard:
        """A session ends: its connection breaks."""
        client = self.online[user].pop(self.random.randrange(len(self.online[user])))
        client.drop()
        due = self._announced(user, str(client.jid), "unavailable")
        for other in self.online[user]:
            due[str(other.jid), str(client.jid), "unavailable"] += 1
        return due

    def _announced(self, user: str, full: str, kind: str) -> Heard:
        due: Heard = Counter()
        for contact in (*USERS, *AWAY):
            from_ = self.says.get(f"{user} {contact}", (False, False))[1]
            if not from_ or (user, contact) in self.blocked or (contact, user) in self.blocked:
                continue
            if contact in AWAY:
                due[contact, full, kind] += 1
            else:
                for other in self.online.get(contact, ()):
                    due[str(other.jid), full, kind] += 1
        return due

    async def heard(self) -> Heard:
        """What everybody has heard since the last time."""
        await self.world.settle()
        heard: Heard = Counter()
        for clients in self.online.values():
            for client in clients:
                for el in client.inbox:
                    assert el.tag == "{jabber:client}presence", el.tag
                    heard[str(client.jid), el.get("from", ""), el.get("type", "")] += 1
                client.inbox.clear()
        for stanza in self.remote.got:
            heard[str(stanza.to), str(stanza.sender), stanza.type] += 1
        self.remote.got.clear()
        return heard


@pytest.mark.parametrize("slice", [500, 1], ids=["at once", "in slices"])
@pytest.mark.parametrize("seed", range(4))
async def test_everybody_hears_what_the_rosters_of_the_moment_say(
    wide_world: World, remote: Remote, seed: int, slice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("broadcast", "probes"):
        monkeypatch.setattr(f"beamish.modules.presence.{file}.SLICE", slice)
    town = Town(wide_world, remote, seed)
    some = town.random
    for _ in range(120):
        user = some.choice(USERS)
        act = some.choice(("relate", "relate", "block", "come", "come", "change", "go"))
        if act == "relate":
            await town.relate(user, some.choice([other for other in (*USERS, *AWAY) if other != user]))
            await town.heard()
        elif act == "block":
            await town.block(user, some.choice([other for other in (*USERS, *AWAY) if other != user]))
            await town.heard()
        elif act == "come" or town.online.get(user):
            due = await getattr(town, act)(user)
            assert await town.heard() == +due, (act, user)

    async with World(extra=[Elsewhere], database=wide_world.db) as second:  # as after a crash
        again = Town(second, Remote(second), seed)
        again.says, again.blocked = town.says, town.blocked
        for user in USERS:
            due = await again.come(user)
            assert await again.heard() == +due, user


async def test_a_contact_who_comes_while_a_login_is_served_is_seen_and_sees(
    wide_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = wide_world
    for file in ("broadcast", "probes"):
        monkeypatch.setattr(f"beamish.modules.presence.{file}.SLICE", 1)
    rosters = world.kernel.service(RosterService)
    romeo, *others = USERS
    for other in others:
        for one, two in ((romeo, other), (other, romeo)):
            await rosters.change(JID(one), RosterItem(JID(two), to=True, from_=True))
    first, second = [await world.login(f"{user}/x", presence=True) for user in others[:2]]
    late, later = [await world.login(f"{user}/x") for user in others[2:]]
    for client in (first, second):
        client.inbox.clear()
    coming = await world.login(f"{romeo}/x")
    coming.send("<presence/>")  # handled as far as the first slice when this returns
    late.send("<presence/>")
    first.send("<presence type='unavailable'/>")
    await world.settle()
    later.send("<presence/>")
    await world.settle()
    for client in (late, later):
        assert sum(el.get("from") == f"{romeo}/x" for el in client.inbox) >= 1
        assert sum(el.get("from") == str(client.jid) for el in coming.inbox) >= 1
    assert [el.get("type") for el in coming.inbox if el.get("from") == str(first.jid)][-1:] in ([], ["unavailable"])
    assert [el.get("from") for el in second.inbox].count(f"{romeo}/x") == 1
