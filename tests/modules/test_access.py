"""Plays for the blacklist and the whitelist (XEP-0133 §4.11, §4.12)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.elsewhere import Elsewhere

from beamish.core import events
from beamish.core.commands import CommandError
from beamish.core.events import Context
from beamish.modules.access import AccessModule
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

ADMIN = "http://jabber.org/protocol/admin"
COURT: dict[str, Any] = {"server": {"admins": ["romeo@example.org"]}}
DENIED = "<message type='error'><error><not-allowed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"


@pytest_asyncio.fixture
async def court() -> AsyncIterator[World]:
    async with World(settings=COURT, extra=[Elsewhere]) as made:
        yield made


@pytest_asyncio.fixture
async def romeo(court: World) -> Client:
    return await court.login("romeo@example.org/orchard", presence=True)


async def arrives(court: World, sender: str, to: str) -> None:
    """A chat message comes in from another server."""
    made = Stanza.build(
        "message", "chat", id="m", sender=JID.parse(sender), to=JID.parse(to), content=b"<body>psst</body>"
    )
    rest = court.kernel.router.from_elsewhere(Context(made))
    if rest is not None:
        await rest
    await court.settle()


async def test_edit_blacklist(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    node = f"{ADMIN}#edit-blacklist"
    await romeo.command(node, {"blacklistjids": ["denmark.example", "iago@venice.example"]})
    form = await romeo.command(node)
    field = form.find(".//{jabber:x:data}field[@var='blacklistjids']")
    assert field is not None
    assert [v.text for v in field] == ["denmark.example", "iago@venice.example"]
    await arrives(court, "hamlet@denmark.example/x", "juliet@example.org")
    await arrives(court, "iago@venice.example/x", "juliet@example.org/balcony")
    await juliet.expect_nothing()
    await arrives(court, "othello@venice.example/x", "juliet@example.org")
    await juliet.expect("<message from='othello@venice.example/x'/>")
    juliet.send("<message to='hamlet@denmark.example' type='chat' id='1'><body>?</body></message>")
    await juliet.expect(DENIED)
    juliet.send("<message to='othello@venice.example' type='chat' id='1'><body>!</body></message>")
    await juliet.expect_nothing()
    assert [str(s.to) for s in Elsewhere.of(court).left] == ["othello@venice.example"]
    await romeo.command(node, {"blacklistjids": []})
    await arrives(court, "hamlet@denmark.example/x", "juliet@example.org")
    await juliet.expect("<message from='hamlet@denmark.example/x'/>")


async def test_what_the_server_itself_says_does_not_go_there_either(court: World, romeo: Client) -> None:
    await court.kernel.commands.run("blacklist.set", {"jids": ["denmark.example"]})
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    juliet.send("<message to='example.org' type='chat'><body>x</body></message>")
    await juliet.receive()
    court.kernel.router.post(
        Stanza.build(
            "presence", sender=JID.parse("room@conference.example.org/a"), to=JID.parse("hamlet@denmark.example/x")
        )
    )
    assert Elsewhere.of(court).left == []


async def test_edit_blacklist_bars_a_user_here(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    nurse = await court.login("nurse@example.org/house", presence=True)
    await romeo.command(f"{ADMIN}#edit-blacklist", {"blacklistjids": ["nurse@example.org"]})
    nurse.send("<message to='juliet@example.org' type='chat' id='1'><body>Madam!</body></message>")
    await nurse.expect(DENIED)
    juliet.send("<message to='nurse@example.org' type='chat' id='1'><body>?</body></message>")
    await juliet.expect(DENIED)
    nurse.send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
    await nurse.expect("<iq type='result' id='r'/>")


async def test_edit_whitelist(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    await romeo.command(f"{ADMIN}#edit-whitelist", {"whitelistjids": ["capulet.example", "paris@montague.example"]})
    for sender in ("tybalt@capulet.example/x", "paris@montague.example/x"):
        await arrives(court, sender, "juliet@example.org")
        await juliet.expect(f"<message from='{sender}'/>")
    await arrives(court, "abram@montague.example/x", "juliet@example.org")
    await juliet.expect_nothing()
    juliet.send("<message to='abram@montague.example' type='chat' id='1'><body>?</body></message>")
    await juliet.expect(DENIED)
    romeo.send("<message to='juliet@example.org' type='chat' id='1'><body>!</body></message>")
    await juliet.expect("<message from='romeo@example.org/orchard'/>")


@pytest.mark.parametrize(
    "form", ["iago@venice.example/street", "iago@venice.example", "venice.example/street", "venice.example"]
)
async def test_an_entry_may_be_an_address_of_any_form(court: World, form: str) -> None:
    await court.kernel.commands.run("blacklist.set", {"jids": [form]})
    access = court.kernel.registry.module(AccessModule)
    assert access.barred(JID.parse("iago@venice.example/street"))
    assert access.barred(JID.parse("iago@venice.example/house")) is ("/" not in form)
    assert not access.barred(JID.parse("iago@sub.venice.example/street"))


@pytest.mark.parametrize("wrong", ["example.org", "conference.example.org", "romeo@example.org", "romeo@example.org/x"])
async def test_what_cannot_be_barred(court: World, wrong: str) -> None:
    with pytest.raises(CommandError) as caught:
        await court.kernel.commands.run("blacklist.set", {"jids": [wrong]})
    assert caught.value.condition is not None and caught.value.condition.value == "not-acceptable"


async def test_the_lists_survive_a_restart_and_nothing_is_looked_at_without_them() -> None:
    database = MemoryDatabase()
    async with World(database=database, settings=COURT) as court:
        assert not court.kernel.hooks[events.entering].rows
        await court.kernel.commands.run("blacklist.set", {"jids": ["denmark.example"]})
    async with World(database=database, settings=COURT) as court:
        assert await court.kernel.commands.run("blacklist.list", {}) == {"jids": ["denmark.example"]}
        assert court.kernel.hooks[events.entering].rows
        await court.kernel.commands.run("blacklist.set", {})
        assert not court.kernel.hooks[events.entering].rows
        assert await court.kernel.commands.run("whitelist.list", {}) == {"jids": []}
    await database.close()


async def test_only_administrators_may(court: World) -> None:
    juliet = await court.login("juliet@example.org/balcony")
    answer = await juliet.command(f"{ADMIN}#edit-blacklist", type="error")
    wanted = "<iq><error><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
    assert mismatch(wanted, answer) == ""
