"""Nobody is believed to be there for ever whose session died with the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.elsewhere import Elsewhere

from beamish.core.services import RosterItem, RosterService
from beamish.modules.presence.visible import LATE, PATIENCE
from beamish.storage.api import Cursor
from beamish.storage.memory import MemoryDatabase
from beamish.testing import Client, World
from beamish.testing.world import PASSWORD
from beamish.xmpp.jid import JID

SM = "urn:xmpp:sm:3"
ROMEO, JULIET, NURSE = "romeo@example.org", "juliet@example.org", "nurse@example.org"
AWAY = "benvolio@elsewhere.example"
CALM: dict[str, Any] = {"c2s": {"probe_after": 1_000_000}}


@asynccontextmanager
async def first_world() -> AsyncIterator[World]:
    """A server that is left behind as it is."""
    async with MemoryDatabase() as db:
        world = World(database=db, settings=CALM, extra=[Elsewhere])
        await world.__aenter__()
        yield world


@asynccontextmanager
async def after_crash(world: World, *, later: float = 0.0, seconds: float = LATE) -> AsyncIterator[World]:
    """A server on what a crash leaves of another one, when everything has been written down."""
    await world.pass_time(seconds)
    assert isinstance(world.db, MemoryDatabase)
    new = World(database=world.db.copy(), settings=CALM, extra=[Elsewhere])
    new.clock.advance(world.clock.now() - new.clock.now() + later)
    async with new:
        yield new


def elsewhere(world: World) -> list[tuple[str, str, str]]:
    """Type, sender and receiver of what was sent to other domains since the last call."""
    stanzas = Elsewhere.of(world).left
    found = [(stanza.type, str(stanza.sender), str(stanza.to)) for stanza in stanzas]
    stanzas.clear()
    return found


async def know(world: World, owner: str, contact: str) -> None:
    rosters = world.kernel.service(RosterService)
    await rosters.change(JID.parse(owner), RosterItem(JID.parse(contact), to=True, from_=True))


async def faithful(world: World, address: str, *, presence: bool = True) -> tuple[Client, str]:
    """A client whose session outlives the server, and the id for it."""
    client = await world.login(address, presence=presence)
    client.send(f"<enable xmlns='{SM}' resume='true'/>")
    return client, (await client.expect(f"<enabled xmlns='{SM}'/>")).get("id") or ""


async def resume(world: World, old: Client, id: str, count: int = 1_000) -> Client:
    """Resume a session; what it missed is in the inbox."""
    client = world.connect()
    await client.open_stream(old.jid.domain)
    await client.authenticate(old.jid.local, PASSWORD)
    client.send(f"<resume xmlns='{SM}' h='{count}' previd='{id}'/>")
    await client.expect(f"<resumed xmlns='{SM}'/>")
    return client


def gone(client: Client) -> list[str]:
    """Who is gone, as the client was told."""
    found = [el.get("from") or "" for el in client.inbox if el.get("type") == "unavailable"]
    client.inbox.clear()
    return sorted(found)


async def rows(world: World) -> list[str]:
    await world.pass_time(LATE)
    return [jid for (jid,) in await world.db.fetch("SELECT jid FROM presence_visible ORDER BY jid")]


async def test_contacts_here_and_elsewhere_hear_of_the_dead() -> None:
    async with first_world() as world:
        for one, other in ((JULIET, ROMEO), (ROMEO, JULIET), (JULIET, AWAY), (NURSE, ROMEO), (ROMEO, NURSE)):
            await know(world, one, other)
        romeo, id_ = await faithful(world, f"{ROMEO}/orchard")
        await world.login(f"{JULIET}/balcony", presence=True)
        await world.login(f"{JULIET}/garden", presence=True)
        await world.login(f"{NURSE}/house", presence=True)
        await world.login(f"{ROMEO}/dead", presence=True)
        async with after_crash(world) as new:
            again = await resume(new, romeo, id_)
            await new.settle()
            assert gone(again) == [JULIET, NURSE]  # nobody is there
            await new.login(f"{NURSE}/house", presence=True)  # is back before anybody has missed her
            await new.pass_time(PATIENCE)
            assert gone(again) == [f"{JULIET}/balcony", f"{JULIET}/garden", f"{ROMEO}/dead"]
            told = [entry for entry in elsewhere(new) if entry[0] == "unavailable"]
            assert sorted(told) == [
                ("unavailable", f"{JULIET}/balcony", AWAY),
                ("unavailable", f"{JULIET}/garden", AWAY),
            ]
            assert await rows(new) == [f"{NURSE}/house", f"{ROMEO}/orchard"]
            async with after_crash(new) as third:  # nobody dies twice
                again = await resume(third, romeo, id_)
                await third.settle()
                assert gone(again) == [JULIET, NURSE]
                await third.pass_time(PATIENCE)
                assert gone(again) == [f"{NURSE}/house"]
                assert [e for e in elsewhere(third) if e[0] == "unavailable"] == []


async def test_a_session_that_expired_while_the_server_was_down_has_gone() -> None:
    async with first_world() as world:
        await know(world, JULIET, AWAY)
        await faithful(world, f"{JULIET}/balcony")
        await world.pass_time(LATE)
        assert isinstance(world.db, MemoryDatabase)
        await world.__aexit__(None, None, None)
        new = World(database=world.db, settings=CALM, extra=[Elsewhere])
        new.clock.advance(world.clock.now() - new.clock.now() + 700.0)
        async with new:
            await new.pass_time(PATIENCE)
            assert elsewhere(new) == [("unavailable", f"{JULIET}/balcony", AWAY)]
            assert await rows(new) == []


async def test_a_session_of_before_that_nobody_resumes_goes_when_its_time_is_over() -> None:
    async with first_world() as world:
        await know(world, JULIET, AWAY)
        await faithful(world, f"{JULIET}/balcony")
        async with after_crash(world) as new:
            await new.pass_time(PATIENCE)
            assert elsewhere(new) == []
            await new.pass_time(601.0)
            assert elsewhere(new) == [("unavailable", f"{JULIET}/balcony", AWAY)]
            assert await rows(new) == []


async def test_who_got_directed_presence_hears_of_it_too() -> None:
    async with first_world() as world:
        juliet = await world.login(f"{JULIET}/balcony")
        juliet.send("<presence to='hall@rooms.elsewhere.example/juliet'/>")
        await world.pass_time(LATE)
        juliet.send("<presence to='cellar@rooms.elsewhere.example/juliet'/>")
        romeo = await world.login(f"{ROMEO}/orchard", presence=True)
        romeo.send("<presence to='hall@rooms.elsewhere.example/romeo'/>")
        async with after_crash(world) as new:
            await new.pass_time(PATIENCE)
            assert sorted(elsewhere(new)) == [
                ("unavailable", f"{JULIET}/balcony", "cellar@rooms.elsewhere.example/juliet"),
                ("unavailable", f"{JULIET}/balcony", "hall@rooms.elsewhere.example/juliet"),
                ("unavailable", f"{ROMEO}/orchard", "hall@rooms.elsewhere.example/romeo"),
            ]
            assert await rows(new) == []


async def test_from_whom_a_user_hides_hears_nothing() -> None:
    async with first_world() as world:
        await know(world, JULIET, AWAY)
        await know(world, JULIET, "tybalt@elsewhere.example")
        juliet = await world.login(f"{JULIET}/balcony", presence=True)
        await juliet.iq(
            "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='tybalt@elsewhere.example'/></block></iq>"
        )
        async with after_crash(world) as new:
            await new.pass_time(PATIENCE)
            assert elsewhere(new) == [("unavailable", f"{JULIET}/balcony", AWAY)]


async def test_nothing_is_written_for_short_visits_and_nothing_stays() -> None:
    async with first_world() as world:
        short = await world.login(f"{ROMEO}/short", presence=True)
        await short.close()
        assert world.kernel.sessions.get(short.jid) is None
        assert await rows(world) == []
        assert "presence.visible" not in world.db.timings
        juliet = await world.login(f"{JULIET}/balcony", presence=True)
        assert await rows(world) == [f"{JULIET}/balcony"]
        assert "presence.visible" in world.db.timings
        juliet.send("<presence type='unavailable'/>")
        assert await rows(world) == []
        juliet.send("<presence/>")
        assert await rows(world) == [f"{JULIET}/balcony"]
        await world.login(f"{JULIET}/balcony", presence=True)  # takes the address over
        assert await rows(world) == [f"{JULIET}/balcony"]
        await world.__aexit__(None, None, None)
        assert await world.db.fetch("SELECT jid FROM presence_visible") == []


async def test_a_damaged_row_does_not_keep_others_from_going(expected_errors: Any) -> None:
    expected_errors.events |= {"visible_session_damaged"}
    async with first_world() as world:
        await know(world, JULIET, AWAY)
        await world.login(f"{JULIET}/balcony", presence=True)
        await world.pass_time(LATE)

        def damage(c: Any) -> None:
            c.run("INSERT INTO presence_visible (jid, available, directed) VALUES ('@@', 1, '[]')")

        await world.db.write("damage", damage)
        async with after_crash(world) as new:
            await new.pass_time(PATIENCE)
            assert elsewhere(new) == [("unavailable", f"{JULIET}/balcony", AWAY)]
            assert await rows(new) == []


async def test_contacts_of_other_servers_are_asked_after_every_restart() -> None:
    async with first_world() as world:
        await know(world, JULIET, AWAY)
        await know(world, JULIET, ROMEO)
        juliet, id_ = await faithful(world, f"{JULIET}/balcony")
        await world.pass_time(LATE)
        assert isinstance(world.db, MemoryDatabase)
        await world.__aexit__(None, None, None)
        new = World(database=world.db, settings=CALM, extra=[Elsewhere])
        new.clock.advance(world.clock.now() - new.clock.now())
        async with new:
            again = await resume(new, juliet, id_, count=0)
            await new.settle()
            assert elsewhere(new) == [("probe", JULIET, AWAY)]
            assert gone(again) == []  # here nothing was missed
            again.drop()
            await new.settle()
            await resume(new, juliet, id_, count=0)
            await new.settle()
            assert elsewhere(new) == []


async def test_who_leaves_while_the_dead_are_looked_for_is_gone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(settings=CALM) as world:
        romeo = await world.login(ROMEO, presence=True)
        juliet = await world.login(JULIET, presence=True)
        await world.befriend(romeo, juliet)
        await world.pass_time(LATE)  # it is written down that they are here
        write = world.db.write
        pages = 0

        async def write_slowly(name: str, fn: Callable[[Cursor], Any]) -> Any:
            nonlocal pages
            found = await write(name, fn)
            if name == "presence.dead":
                pages += 1
                romeo.send("</stream:stream>")  # after the rows were read, before they are looked at
                await romeo.expect_closed()
            return found

        monkeypatch.setattr(world.db, "write", write_slowly)
        await world.pass_time(PATIENCE)
        assert pages == 1
        assert gone(juliet) == [romeo.jid]


async def test_rooms_of_ours_have_said_goodbye_already() -> None:
    room = "hall@conference.example.org"
    async with first_world() as world:
        romeo, id_ = await faithful(world, f"{ROMEO}/orchard")
        romeo.send(f"<presence to='{room}/romeo'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
        await romeo.iq(
            f"<iq type='set' id='own' to='{room}'><query xmlns='http://jabber.org/protocol/muc#owner'>"
            "<x xmlns='jabber:x:data' type='submit'/></query></iq>"
        )
        juliet = await world.login(f"{JULIET}/balcony")
        juliet.send(f"<presence to='{room}/juliet'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
        await world.settle()
        async with after_crash(world) as new:
            again = await resume(new, romeo, id_)
            await new.settle()
            assert gone(again) == [f"{room}/juliet"]
            await new.pass_time(PATIENCE)
            assert gone(again) == []
            assert await rows(new) == [f"{ROMEO}/orchard"]
