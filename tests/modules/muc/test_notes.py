"""What rooms remember beyond the life of the process. `after_crash` begins with what would be on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.modules.muc.conftest import ROOM
from tests.modules.muc.test_approvals import form, register, values
from tests.modules.muc.test_invitations import invite

from beamish.modules.muc import invitations
from beamish.storage.memory import MemoryDatabase
from beamish.testing.match import condition
from beamish.testing.world import World

USER = "http://jabber.org/protocol/muc#user"
DECLINE = f"<message to='{ROOM}'><x xmlns='{USER}'><decline to='romeo@example.org'/></x></message>"


@asynccontextmanager
async def after_crash(rooms: Any) -> AsyncIterator[Any]:
    assert isinstance(rooms.world.db, MemoryDatabase)
    async with rooms.world.db.copy() as left, World(database=left) as world:
        yield type(rooms)(world)


async def notes(rooms: Any) -> list[tuple[Any, ...]]:
    await rooms.world.settle()
    found: list[tuple[Any, ...]] = await rooms.world.db.fetch("SELECT kind, jid, other FROM muc_note ORDER BY id")
    return found


async def test_whose_voice_was_taken_has_none_after_a_restart(rooms: Any) -> None:
    """XEP-0045 §5.1: roles should be kept where they matter; the moderator's request is answered when it is."""
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse, persistentroom=True)
    assert isinstance(rooms.world.db, MemoryDatabase)
    await rooms.admin(romeo, "nick='juliet' role='visitor'")
    async with after_crash(rooms) as later:
        romeo, juliet, nurse = await later.login("romeo", "juliet", "nurse")
        await later.enter(romeo, "romeo")
        await later.enter(juliet, "juliet")
        await later.enter(nurse, "nurse")
        later.say(juliet, "hush")
        assert condition((await later.take(juliet))[-1]) == "forbidden"
        later.say(nurse, "speak")
        assert (await later.take(nurse))[-1].get("type") == "groupchat"
        await later.admin(romeo, "nick='juliet' role='participant'")
        await later.admin(romeo, "affiliation='member' jid='nurse@example.org'")
        assert await notes(later) == [(1, "juliet@example.org", "")]
        await later.admin(romeo, "affiliation='member' jid='juliet@example.org'")
        assert await notes(later) == [], "an affiliation says which role it is"


@pytest.mark.parametrize("member", [False, True])
async def test_nobody_gets_a_voice_back_by_registering(rooms: Any, member: bool) -> None:
    """Registering is open to all (§7.10), and makes a member; what a moderator has taken away it does not give."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet, persistentroom=True)
    if member:
        await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org'")
    await rooms.admin(romeo, "nick='juliet' role='visitor'")

    async def dumb(rooms: Any, juliet: Any) -> bool:
        rooms.say(juliet, "hear me")
        answer = (await rooms.take(juliet))[-1]
        return answer.get("type") == "error" and condition(answer) == "forbidden"

    for inner in (form("register", muc__register_roomnick="Jule"), "<remove/>"):
        assert (await juliet.iq(register(inner))).get("type") == "result"
        await rooms.clear(juliet)
        assert await dumb(rooms, juliet)
        juliet.send(f"<presence to='{ROOM}/juliet' type='unavailable'/>")
        await rooms.clear(juliet)
        await rooms.enter(juliet, "juliet")
        assert await dumb(rooms, juliet)
    assert await notes(rooms) == [(1, "juliet@example.org", "")]
    async with after_crash(rooms) as later:
        romeo, juliet = await later.login("romeo", "juliet")
        await later.enter(romeo, "romeo")
        await later.enter(juliet, "juliet")
        assert await dumb(later, juliet)
        await later.admin(romeo, "affiliation='admin' jid='juliet@example.org'")  # what others say counts
        assert not await dumb(later, juliet)


async def test_a_role_is_confirmed_when_it_is_on_disk(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet, persistentroom=True)
    db = rooms.world.db
    assert isinstance(db, MemoryDatabase)
    await rooms.world.settle()
    with db.held():
        romeo.send(
            f"<iq to='{ROOM}' type='set' id='v'><query xmlns='http://jabber.org/protocol/muc#admin'>"
            "<item nick='juliet' role='visitor'/></query></iq>"
        )
        assert [el.tag for el in await rooms.take(romeo)] == ["{jabber:client}presence"]
    assert [el.get("id") for el in await rooms.take(romeo)] == ["v"]


@pytest.mark.parametrize("granted", [False, True])
async def test_what_an_affiliation_makes_void_goes_with_its_commit(
    rooms: Any, monkeypatch: pytest.MonkeyPatch, granted: bool
) -> None:
    """A crash right behind it leaves no visitor who is a member, and no request that was granted."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, juliet, persistentroom=True)
    if granted:
        await rooms.configure(romeo, membersonly=True)
        await juliet.iq(register(form("register", muc__register_roomnick="Jule")))
    else:
        await rooms.admin(romeo, "nick='juliet' role='visitor'")
    kind = 3 if granted else 1
    assert await notes(rooms) == [(kind, "juliet@example.org", "")]
    store = rooms.module.store
    save = store.save
    left: list[Any] = []

    async def then_look(*args: Any, **kwargs: Any) -> None:
        await save(*args, **kwargs)
        async with rooms.world.db.copy() as copy:
            left.append(await copy.fetch("SELECT kind FROM muc_note"))
            left.append(await copy.fetch("SELECT jid FROM muc_standing ORDER BY jid"))

    monkeypatch.setattr(store, "save", then_look)
    if granted:
        yes = form("register", muc__register_roomnick="Jule", muc__register_allow="1")
        romeo.send(f"<message to='{ROOM}'>{yes}</message>")
        await rooms.clear(romeo)
    else:
        await rooms.admin(romeo, "affiliation='member' jid='juliet@example.org'")
    assert left == [[], [("juliet@example.org",), ("romeo@example.org",)]]


async def test_a_decline_reaches_the_inviter_long_after(rooms: Any) -> None:
    """The room is empty and the server was restarted when the invitation is read."""
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, persistentroom=True)
    romeo.send(invite("juliet@example.org"))
    await rooms.clear(juliet)
    romeo.send(f"<presence to='{ROOM}/romeo' type='unavailable'/>")
    await rooms.clear(romeo)
    async with after_crash(rooms) as later:
        romeo, juliet = await later.login("romeo", "juliet")
        juliet.send(DECLINE)
        (told,) = await later.take(romeo)
        assert told.find(f".//{{{USER}}}decline") is not None
        juliet.send(DECLINE)
        assert condition((await later.take(juliet))[0]) == "item-not-found"
        assert await notes(later) == []


async def test_open_invitations_are_bounded(rooms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invitations, "MAX_OPEN", 2)
    romeo, *_ = await rooms.login("romeo")
    await rooms.full(romeo, persistentroom=True)
    for name in ("a", "b", "c", "b"):
        romeo.send(invite(f"{name}@elsewhere.example"))
        await rooms.clear(romeo)
    assert [jid for _, jid, _ in await notes(rooms)] == ["c@elsewhere.example", "b@elsewhere.example"]
    async with after_crash(rooms) as later:
        [room] = later.module.rooms.values()
        assert [str(invitee) for invitee, _ in room.invitations] == ["c@elsewhere.example", "b@elsewhere.example"]


async def test_an_admin_answers_after_a_restart(rooms: Any) -> None:
    romeo, juliet = await rooms.login("romeo", "juliet")
    await rooms.full(romeo, membersonly=True, persistentroom=True)
    for nick in ("J", "Jule"):
        await juliet.iq(register(form("register", muc__register_roomnick=nick)))
    question = (await rooms.take(romeo))[-1]
    assert values(question)["muc#register_roomnick"] == "Jule"
    async with after_crash(rooms) as later:
        romeo, juliet = await later.login("romeo", "juliet")
        await juliet.iq(register(form("register", muc__register_roomnick="Jule")))
        assert await later.take(romeo) == [], "they have been asked"
        yes = form("register", muc__register_roomnick="Jule", muc__register_allow="1")
        romeo.send(f"<message to='{ROOM}'>{yes}</message>")
        await later.clear(romeo, juliet)
        assert await notes(later) == []
        assert (await later.enter(juliet, "Jule"))[0].get("type") is None


async def test_nothing_is_left_of_an_account_or_a_room(rooms: Any) -> None:
    romeo, juliet, nurse = await rooms.login("romeo", "juliet", "nurse")
    await rooms.full(romeo, juliet, nurse, persistentroom=True)
    await rooms.admin(romeo, "nick='nurse' role='visitor'")
    await rooms.admin(romeo, "nick='juliet' role='visitor'")
    romeo.send(invite("juliet@example.org"))
    await rooms.clear(romeo)
    assert len(await notes(rooms)) == 3
    await rooms.world.kernel.commands.run("user.remove", {"jid": "juliet@example.org"})
    assert [jid for _, jid, _ in await notes(rooms)] == ["nurse@example.org"]
    [room] = rooms.module.rooms.values()
    assert (list(room.roles), list(room.invitations)) == ([nurse.jid.bare], [])
    await rooms.world.kernel.commands.run("muc.destroy", {"room": ROOM})
    assert await notes(rooms) == []
