"""Permissions to manage contacts in rosters: what is kept, for how long, and within which bounds."""

from __future__ import annotations

from typing import cast

import pytest

from beamish.core.services import AccountsService, RemoteRosterService, RosterItem, RosterService
from beamish.modules.remote_roster import MANAGEMENT, RemoteRosterModule
from beamish.storage.memory import MemoryDatabase
from beamish.testing import World
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

ROMEO = JID.parse("romeo@example.org")
GATE = JID.parse("gate.example.org")


async def permissions(world: World, *, ask: bool = True) -> RemoteRosterModule:
    """The module, with a gateway whom romeo lets see his presence."""
    world.kernel.router.add_service(GATE, lambda ctx: None)
    await world.kernel.service(RosterService).change(ROMEO, RosterItem(GATE, from_=True))
    module = cast("RemoteRosterModule", world.kernel.service(RemoteRosterService))
    module.offer(GATE, ("example.org",), ask=ask)
    return module


async def settled(value: object) -> bool:
    return bool(await value if hasattr(value, "__await__") else value)  # type: ignore[misc]


def wants(type_: str = "request", kind: str = "set") -> Stanza:
    content = f"<query xmlns='{MANAGEMENT}' type='{type_}'/>".encode()
    return Stanza.build("iq", kind, id="1", sender=GATE, to=ROMEO, content=content)


async def test_what_a_user_said_outlives_a_restart() -> None:
    db = MemoryDatabase()
    async with World(database=db) as world:
        module = await permissions(world)
        assert not await settled(module.permitted(ROMEO, GATE))
        await module._keep(ROMEO, GATE, True, "why")
        assert await settled(module.permitted(ROMEO, GATE))
    async with World(database=db) as world:
        module = cast("RemoteRosterModule", world.kernel.service(RemoteRosterService))
        assert not await settled(module.permitted(ROMEO, GATE))  # nothing of it is in force without the configuration
        module = await permissions(world)
        assert await settled(module.permitted(ROMEO, GATE))
        module.withdraw(GATE)
        assert not await settled(module.permitted(ROMEO, GATE))


async def test_only_for_the_domains_of_the_offer(world: World) -> None:
    module = await permissions(world, ask=False)
    assert await settled(module.permitted(ROMEO, GATE))
    module.offer(GATE, ("example.net",), ask=False)
    assert not await settled(module.permitted(ROMEO, GATE))


async def test_it_goes_with_the_account() -> None:
    db = MemoryDatabase()
    async with World(database=db) as world:
        module = await permissions(world)
        await module._keep(ROMEO, GATE, True, "")
        accounts = world.kernel.service(AccountsService)
        await accounts.remove(ROMEO)
        await accounts.add(ROMEO, "secret words")
        assert not module._said
        assert not await world.db.fetch("SELECT * FROM remote_roster")


async def test_questions_are_asked_again_after_a_while_and_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteRosterModule, "questions", 2)
    monkeypatch.setattr("beamish.modules.remote_roster._AGAIN", 10.0)
    module = await permissions(world)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await module.request(wants())
    await romeo.expect("<message from='example.org'><x xmlns='jabber:x:data' type='form'/></message>")
    await module.request(wants())
    await romeo.expect_nothing()
    await world.pass_time(11)
    await module.request(wants())
    await romeo.expect("<message from='example.org'/>")
    assert len(module._asked) == 1
    rosters = world.kernel.service(RosterService)
    for name in ("juliet", "benvolio", "mercutio"):
        user = JID.parse(f"{name}@example.org")
        await rosters.change(user, RosterItem(GATE, from_=True))
        await module.request(wants().replace(to=user))
    assert [question.user.local for question in module._asked.values()] == ["benvolio", "mercutio"]


@pytest.mark.parametrize(("type_", "kind"), [("request", "get"), ("allowed", "set"), ("", "set")])
async def test_a_service_can_only_ask(world: World, type_: str, kind: str) -> None:
    module = await permissions(world)
    with pytest.raises(StanzaError, match="bad-request"):
        await module.request(wants(type_, kind))


@pytest.mark.parametrize(
    "message",
    [
        "<message to='example.org'><body>yes 1234567</body></message>",
        "<message to='example.org'><body>hello</body></message>",
        "<message to='example.org'><x xmlns='jabber:x:data' type='result'/></message>",
        "<message to='example.org'><x xmlns='jabber:x:data' type='cancel'/></message>",
        "<message to='example.org'><x xmlns='jabber:x:data' type='submit'><field var='answer'><value>maybe</value></field>"
        "</x></message>",
    ],
)
async def test_messages_that_answer_nothing_are_left_to_others(world: World, message: str) -> None:
    module = await permissions(world)
    await module.request(wants())
    juliet = await world.login("juliet@example.org/balcony")
    juliet.send(message)
    await juliet.expect("<message type='error'/>")
    assert len(module._asked) == 1
