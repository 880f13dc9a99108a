"""Plays for announcements, the message of the day and the welcome message (XEP-0133 §4.25 to §4.30)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio
from tests.modules.conftest import COURT

from beamish.core.commands import CommandError
from beamish.core.events import Context
from beamish.core.sessions import Link, Session
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.errors import StreamError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

ADMIN = "http://jabber.org/protocol/admin"


@pytest_asyncio.fixture
async def romeo(court: World) -> Client:
    return await court.login("romeo@example.org/orchard")


async def test_announce(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    away = await court.login("nurse@example.org/street")
    benvolio = await court.login("benvolio@example.net/street", presence=True)
    await romeo.command(f"{ADMIN}#announce", {"announcement": ["Down at <noon> & after.", "The Prince"]})
    await juliet.expect(
        "<message from='example.org' to='juliet@example.org/balcony' type='headline'>"
        "<body>Down at &lt;noon&gt; &amp; after.\nThe Prince</body></message>"
    )
    for client in (away, benvolio, juliet):
        await client.expect_nothing()


async def test_announce_to_those_who_are_away(court: World) -> None:
    assert await court.kernel.commands.run("announce.all", {"announcement": "Hear ye"}) == {"accounts": 5}
    benvolio = await court.login("benvolio@example.net/street", presence=True)
    await benvolio.expect("<message from='example.net'><body>Hear ye</body><delay xmlns='urn:xmpp:delay'/></message>")


async def add_accounts(court: World, number: int) -> None:
    """Accounts that nobody can log in to."""
    rows = [(f"user{each:06}@example.org", "example.org", 0.0) for each in range(number)]
    await court.db.write("test", lambda c: c.many("INSERT INTO account (jid, domain, created) VALUES (?, ?, ?)", rows))


async def turns_during(work: Awaitable[Any], count: Callable[[], int]) -> list[int]:
    """How much was counted between two turns of the loop while the work was done."""
    done = asyncio.ensure_future(work)
    seen = [count()]
    while not done.done():
        await asyncio.sleep(0)
        seen.append(count())
    await done
    return [b - a for a, b in pairwise(seen)]


async def test_an_announcement_to_very_many_neither_holds_up_the_others_nor_piles_up(
    court: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_accounts(court, 2000)
    routed, under_way, most = 0, 0, 0
    route = court.kernel.router.route

    def counted(ctx: Context) -> Awaitable[None] | None:
        nonlocal routed
        routed += 1
        rest = route(ctx)
        return None if rest is None else waited(rest)

    async def waited(rest: Awaitable[None]) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await rest
        under_way -= 1

    monkeypatch.setattr(court.kernel.router, "route", counted)
    run = court.kernel.commands.run("announce.all", {"announcement": "Hear ye", "domain": "example.org"})
    turns = await turns_during(run, lambda: routed)
    assert routed == 2004 and max(turns) <= 200 and most <= 200
    stored = await court.db.fetch("SELECT COUNT(DISTINCT account) FROM offline_message")
    assert stored == [(2004,)]


async def test_all_accounts_are_told_whatever_their_number(court: World) -> None:
    await add_accounts(court, 596)  # with the others of this domain three slices exactly
    assert await court.kernel.commands.run("announce.all", {"announcement": "x"}) == {"accounts": 601}


async def test_an_announcement_to_those_online_leaves_turns_to_others(court: World, romeo: Client) -> None:
    crowd = [Session(JID.parse(f"juliet@example.org/{each}"), _Counting()) for each in range(1000)]
    for session in crowd:
        court.kernel.sessions.add(session)
        court.kernel.sessions.presence_changed(session, 0, None)
    for name, fields in (("announce.online", {"announcement": "x"}), ("motd.set", {"motd": "x"})):
        before = _Counting.sent
        turns = await turns_during(court.kernel.commands.run(name, fields), lambda: _Counting.sent)
        assert max(turns) <= 200
        assert _Counting.sent - before == (1000 if name == "announce.online" else 1)
    court.kernel.ask_to_stop = lambda _again: None
    before = _Counting.sent
    run = court.kernel.commands.run("server.shutdown", {"delay": 60, "announcement": "Good night"})
    assert max(await turns_during(run, lambda: _Counting.sent)) <= 200
    assert _Counting.sent - before == 1000
    for session in crowd:
        court.kernel.sessions.remove(session)


class _Counting:
    """An outlet that counts."""

    sent = 0

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        _Counting.sent += 1
        return True

    def close(self, error: StreamError | None, reason: str) -> None:
        """Nothing to close."""

    def last_words(self, data: bytes) -> None:
        """Nowhere to say them."""

    def survives(self, link: Link, reason: str) -> bool:
        return False


async def test_set_motd_reaches_everybody_once(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    await romeo.command(f"{ADMIN}#set-motd", {"motd": ["Grand opening", "tomorrow"]})
    motd = "<message from='example.org' type='headline'><body>Grand opening\ntomorrow</body></message>"
    await juliet.expect(motd)
    second = await court.login("juliet@example.org/chamber", presence=True)
    await second.expect("<presence from='juliet@example.org/balcony'/>")
    await second.expect_nothing()
    nurse = await court.login("nurse@example.org/street", priority=-1)
    await nurse.expect_nothing()
    nurse = await court.login("nurse@example.org/house", priority=0)
    await nurse.expect_all(motd, "<presence from='nurse@example.org/street'/>")
    benvolio = await court.login("benvolio@example.net/street", presence=True)
    await benvolio.expect_nothing()


async def test_edit_motd_is_not_sent_again_and_delete_motd_ends_it(court: World, romeo: Client) -> None:
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    answer = await romeo.command(f"{ADMIN}#edit-motd", {"motd": "x"}, type="error")
    assert answer.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}item-not-found") is not None
    await romeo.command(f"{ADMIN}#set-motd", {"motd": ["Globe Stuff", "here"]})
    await juliet.expect("<message><body>Globe Stuff\nhere</body></message>")
    form = await romeo.command(f"{ADMIN}#edit-motd")
    field = form.find(".//{jabber:x:data}field[@var='motd']")
    assert field is not None and [v.text for v in field.findall("{jabber:x:data}value")] == ["Globe Stuff", "here"]
    await romeo.command(f"{ADMIN}#edit-motd", {"motd": "Globe Staff"})
    await juliet.expect_nothing()
    nurse = await court.login("nurse@example.org/street", presence=True)
    await nurse.expect("<message><body>Globe Staff</body></message>")
    await romeo.command(f"{ADMIN}#delete-motd")
    mercutio = await court.login("mercutio@example.org/square", presence=True)
    await mercutio.expect_nothing()


async def test_set_welcome_and_delete_welcome(court: World, romeo: Client) -> None:
    await romeo.command(f"{ADMIN}#set-welcome", {"welcome": "Hie thee in"})
    add = f"{ADMIN}#add-user"
    await romeo.command(add, {"accountjid": "tybalt@example.org", "password": "correct horse"})
    tybalt = await court.login("tybalt@example.org/street", presence=True)
    await tybalt.expect("<message from='example.org'><body>Hie thee in</body></message>")
    await tybalt.close()
    tybalt = await court.login("tybalt@example.org/street", presence=True)
    await tybalt.expect_nothing()
    await romeo.command(f"{ADMIN}#delete-welcome")
    await romeo.command(add, {"accountjid": "paris@example.org", "password": "correct horse"})
    paris = await court.login("paris@example.org/street", presence=True)
    await paris.expect_nothing()


async def test_texts_and_who_had_them_survive_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database, settings=COURT) as court:
        run = court.kernel.commands.run
        await run("motd.set", {"motd": "Today"})
        await run("welcome.set", {"welcome": "Welcome", "domain": "example.org"})
        await run("user.add", {"jid": "tybalt@example.org", "password": "correct horse"})
        juliet = await court.login("juliet@example.org/balcony", presence=True)
        await juliet.expect("<message><body>Today</body></message>")
        await juliet.close()
    async with World(database=database, settings=COURT) as court:
        juliet = await court.login("juliet@example.org/balcony", presence=True)
        await juliet.expect_nothing()
        tybalt = await court.login("tybalt@example.org/street", presence=True)
        await tybalt.expect_all("<message><body>Welcome</body></message>", "<message><body>Today</body></message>")
    await database.close()


@pytest.mark.parametrize("text", ["", "  \n", "é" * 5001])
async def test_a_text_has_a_length(court: World, text: str) -> None:
    with pytest.raises(CommandError, match="at most 10000 bytes"):
        await court.kernel.commands.run("motd.set", {"motd": text})


async def test_a_foreign_domain_has_no_message_of_the_day(court: World) -> None:
    with pytest.raises(CommandError, match="is not a domain"):
        await court.kernel.commands.run("motd.set", {"motd": "x", "domain": "elsewhere.example"})
