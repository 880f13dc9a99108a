"""Rooms and sessions that outlive the server (XEP-0198)."""

from __future__ import annotations

from typing import Any

from tests.modules.muc.conftest import ROOM, codes_of

from beamish.storage.memory import MemoryDatabase
from beamish.testing.world import PASSWORD, World

TEMPORARY = "temporary@conference.example.org"
SM = "urn:xmpp:sm:3"
BODY = "{jabber:client}body"


def stanzas(got: list[Any]) -> list[Any]:
    return [el for el in got if el.tag.startswith("{jabber:client}")]


async def manage(stage: Any, client: Any) -> str:
    """Enable resumption; the id. Nothing was received before it as far as counting goes."""
    await stage.clear(client)
    client.send(f"<enable xmlns='{SM}' resume='true'/>")
    (enabled,) = await stage.take(client)
    return str(enabled.get("id"))


async def resume(stage: Any, world: World, jid: str, previd: str, h: int) -> tuple[Any, list[Any]]:
    """A client that resumes, and what it gets."""
    client = world.connect()
    await client.open_stream("example.org")
    await client.authenticate(jid.partition("@")[0], PASSWORD)
    client.send(f"<resume xmlns='{SM}' previd='{previd}' h='{h}'/>")
    got = await stage.take(client)
    assert got[0].tag == f"{{{SM}}}resumed", got[0].tag
    return client, stanzas(got[1:])


async def before(stage: Any) -> tuple[Any, Any, str, int]:
    """romeo, who will come back, and juliet, who will not, in two rooms."""
    romeo, juliet = await stage.login("romeo", "juliet")
    previd = await manage(stage, romeo)
    h = 0
    for room, persistent in ((ROOM, True), (TEMPORARY, False)):
        h += len(stanzas(await stage.enter(romeo, "Romeo", room=room)))
        await stage.configure(romeo, room=room, persistentroom=persistent)
        h += 1 + len(stanzas(await stage.take(romeo)))
        await stage.enter(juliet, "Juliet", room=room)
        stage.say(juliet, "before", room=room)
    h += len(stanzas(await stage.take(romeo)))
    return romeo, juliet, previd, h


async def after(stage: Any, world: World, previd: str, h: int, gone: Any) -> None:
    """In both rooms romeo still is, and knows that juliet is not."""
    (juliet,) = await stage.login("juliet")
    got = await stage.enter(juliet, "Juliet", room=TEMPORARY)
    assert [el.get("from") for el in got[:2]] == [f"{TEMPORARY}/Romeo", f"{TEMPORARY}/Juliet"]
    assert [el.findtext(BODY) for el in got if el.find(BODY) is not None] == ["before"]
    stage.say(juliet, "after", room=TEMPORARY)
    await world.settle()
    romeo, told = await resume(stage, world, "romeo@example.org", previd, h)
    told += stanzas(await stage.take(romeo))
    story = [
        (el.get("from"), el.get("type"), codes_of(el) or el.findtext(BODY))
        for el in told
        if "conference" in (el.get("from") or "")
    ]
    assert sorted(story[:2]) == [
        (f"{ROOM}/Juliet", "unavailable", gone),
        (f"{TEMPORARY}/Juliet", "unavailable", gone),
    ]
    assert [what for _, _, what in story[2:]] == [None, "after"], "she came again, and spoke"
    await romeo.iq(f"<iq to='{ROOM}/Romeo' type='get' id='self'><ping xmlns='urn:xmpp:ping'/></iq>")
    stage.say(romeo, "here", room=ROOM)
    assert [el.findtext(BODY) for el in await stage.take(romeo)] == ["here"]
    owners = await stage.listed(romeo, "role='moderator'", room=ROOM)
    assert [(i["nick"], i["affiliation"]) for i in owners] == [("Romeo", "owner")]


async def test_a_visit_outlives_an_orderly_restart(rooms: Any) -> None:
    db = MemoryDatabase()
    async with World(database=db) as world:
        _, _, previd, h = await before(type(rooms)(world))
    async with World(database=db) as world:
        await after(type(rooms)(world), world, previd, h, None)
    await db.close()


async def test_a_visit_outlives_a_crash(rooms: Any) -> None:
    """Status 333: what is committed is all there is; nobody says farewell at the end of the first server."""
    db = MemoryDatabase()
    world = World(database=db)
    await world.__aenter__()
    _, _, previd, h = await before(type(rooms)(world))
    await world.db.flushed()
    dump = await db.fetch("SELECT room, nick FROM muc_occupant ORDER BY room, nick")
    assert dump == [(r, n) for r in (ROOM, TEMPORARY) for n in ("Juliet", "Romeo")]
    world.kernel.hooks._hooks.clear()  # it hears of nothing any more
    for row in list(world.kernel.registry._running):
        await row.tasks.close()
    async with World(database=db) as second:
        await after(type(rooms)(second), second, previd, h, {333})
    await db.close()


async def test_a_role_given_during_a_visit_outlives_a_crash(rooms: Any) -> None:
    """Somebody whose voice was taken does not get it back by a restart."""
    db = MemoryDatabase()
    world = World(database=db)
    await world.__aenter__()
    stage = type(rooms)(world)
    romeo, juliet = await stage.login("romeo", "juliet")
    await stage.make(romeo, "Romeo", persistentroom=True)
    previd = await manage(stage, juliet)
    h = len(stanzas(await stage.enter(juliet, "Juliet")))
    await world.db.flushed()
    await stage.admin(romeo, "nick='Juliet' role='visitor'")
    h += len(stanzas(await stage.take(juliet)))
    await world.db.flushed()
    world.kernel.hooks._hooks.clear()  # it hears of nothing any more
    for row in list(world.kernel.registry._running):
        await row.tasks.close()
    async with World(database=db) as second:
        stage = type(rooms)(second)
        juliet, _ = await resume(stage, second, "juliet@example.org", previd, h)
        stage.say(juliet, "hush")
        (refused,) = stanzas(await stage.take(juliet))[-1:]
        assert refused.get("type") == "error"
    await db.close()


async def test_temporary_rooms_without_anybody_are_gone(rooms: Any) -> None:
    db = MemoryDatabase()
    async with World(database=db) as world:
        stage = type(rooms)(world)
        (romeo,) = await stage.login("romeo")
        await stage.full(romeo, room=TEMPORARY)
        assert await db.fetch("SELECT room FROM muc_room") == [(TEMPORARY,)]
        stage.module.store.forget = lambda room: None  # as if the process had died before it could
    async with World(database=db) as world:
        assert await world.kernel.commands.run("muc.list", {}) == []
        await world.db.flushed()
        assert await db.fetch("SELECT room FROM muc_room") == []
    await db.close()


async def test_whoever_may_not_be_there_any_more_is_told(rooms: Any) -> None:
    """Status 332: a room that is gone when the session comes back."""
    db = MemoryDatabase()
    async with World(database=db) as world:
        stage = type(rooms)(world)
        _, _, previd, h = await before(stage)
    await db.write("test", lambda c: c.run("DELETE FROM muc_standing WHERE room = ?", ROOM))
    await db.write("test", lambda c: c.run("DELETE FROM muc_room WHERE room = ?", ROOM))
    async with World(database=db) as world:
        stage = type(rooms)(world)
        _, told = await resume(stage, world, "romeo@example.org", previd, h)
        mine = [(el.get("type"), codes_of(el)) for el in told if el.get("from") == f"{ROOM}/Romeo"]
        assert mine == [("unavailable", {110, 332})]
    await db.close()
