"""Plays for invitations (XEP-0401, XEP-0445, XEP-0379)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_asyncio

from beamish.core import events
from beamish.core.commands import CommandError
from beamish.storage.api import Cursor, Database
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import PASSWORD, World
from beamish.xmpp.xml import Element

INVITE = "urn:xmpp:invite#invite"
CREATE = "urn:xmpp:invite#create-account"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
DAY = 86_400


@pytest_asyncio.fixture
async def court() -> AsyncIterator[World]:
    async with World(settings=_settings()) as made:
        yield made


def _settings(**invites: Any) -> dict[str, Any]:
    return {
        "server": {"admins": ["romeo@example.org"]},
        "c2s": {"probe_after": 10_000_000},
        "limits": {"unauthenticated_seconds": 10_000_000},
        "modules": {"invites": invites},
    }


def told(answer: Element) -> dict[str, str]:
    return {f.get("var", ""): f.findtext("{jabber:x:data}value") or "" for f in answer.iter("{jabber:x:data}field")}


def token_of(uri: str) -> str:
    found = re.search(r"preauth=([a-z2-7]{24})(;|$)", uri)
    assert found is not None, uri
    return found[1]


async def shows(world: World, token: str, type: str = "result", domain: str = "example.org") -> Client:
    client = world.connect()
    await client.open_stream(domain)
    await client.iq(
        f"<iq type='set' id='pa1' to='{domain}'><preauth xmlns='urn:xmpp:pars:0' token='{token}'/></iq>", type
    )
    return client


def registers(username: str, password: str = PASSWORD) -> str:
    return (
        f"<iq type='set' id='reg'><query xmlns='jabber:iq:register'><username>{username}</username>"
        f"<password>{password}</password></query></iq>"
    )


def refused(answer: Element, condition: str) -> None:
    assert mismatch(f"<iq type='error'><error><{condition} xmlns='{STANZAS}'/></error></iq>", answer) == ""


async def test_an_account_invitation_makes_an_account_where_registration_is_closed(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    result = told(await romeo.command(CREATE, {"username": "", "roster-subscription": "0"}))
    assert result["FORM_TYPE"] == "urn:xmpp:invite#invitation" and result["expire"].endswith("Z")
    assert re.fullmatch(r"xmpp:example\.org\?register;preauth=[a-z2-7]{24}", result["uri"])
    client = await shows(court, token_of(result["uri"]))
    form = await client.iq("<iq type='get' id='g'><query xmlns='jabber:iq:register'/></iq>")
    assert mismatch("<iq><query xmlns='jabber:iq:register'><username/><password/></query></iq>", form) == ""
    await client.iq(registers("tybalt"))
    await client.authenticate("tybalt", PASSWORD)
    await shows(court, token_of(result["uri"]), "error")


async def test_the_feature_is_offered(court: World) -> None:
    client = court.connect()
    features = await client.open_stream("example.org")
    assert features.find("{urn:xmpp:ibr-token:0}register") is not None


async def test_an_invitation_for_a_name_is_for_that_name_alone_and_reserves_it() -> None:
    settings = _settings()
    settings["modules"]["register"] = {"open": True, "captcha": "none"}
    async with World(settings=settings) as court:
        romeo = await court.login("romeo@example.org/orchard")
        uri = told(await romeo.command(CREATE, {"username": "Tybalt"}))["uri"]
        assert uri.startswith("xmpp:tybalt@example.org?register;preauth=")
        refused(await romeo.command(CREATE, {"username": "tybalt"}, type="error"), "conflict")
        other = court.connect()
        await other.open_stream("example.org")
        refused(await other.iq(registers("tybalt"), "error"), "conflict")
        client = await shows(court, token_of(uri))
        form = await client.iq("<iq type='get' id='g'><query xmlns='jabber:iq:register'/></iq>")
        assert mismatch("<iq><query xmlns='jabber:iq:register'><username>tybalt</username></query></iq>", form) == ""
        refused(await client.iq(registers("paris"), "error"), "not-allowed")
        await client.iq(registers("tybalt"))


async def test_whom_one_invites_becomes_a_contact_at_once(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard", roster=True, presence=True)
    uri = told(await romeo.command(CREATE, {"username": "tybalt", "roster-subscription": "true"}))["uri"]
    client = await shows(court, token_of(uri))
    await client.iq(registers("tybalt"))
    await romeo.expect(
        "<iq type='set'><query xmlns='jabber:iq:roster'><item jid='tybalt@example.org' subscription='both'/></query></iq>"
    )
    tybalt = await court.login("tybalt@example.org/street", roster=True)
    tybalt.send("<presence/>")
    await tybalt.expect_all(
        "<presence from='tybalt@example.org/street'/>", "<presence from='romeo@example.org/orchard'/>"
    )
    await romeo.expect("<presence from='tybalt@example.org/street'/>")


async def test_whom_one_invites_keeps_the_name_that_one_gave(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard", roster=True, presence=True)
    item = "<item jid='tybalt@example.org' name='Cousin'><group>Enemies</group></item>"
    await romeo.iq(f"<iq type='set' id='r'><query xmlns='jabber:iq:roster'>{item}</query></iq>")
    await romeo.expect("<iq type='set'><query xmlns='jabber:iq:roster'><item subscription='none'/></query></iq>")
    uri = told(await romeo.command(CREATE, {"username": "tybalt", "roster-subscription": "true"}))["uri"]
    client = await shows(court, token_of(uri))
    await client.iq(registers("tybalt"))
    await romeo.expect(
        "<iq type='set'><query xmlns='jabber:iq:roster'><item jid='tybalt@example.org' subscription='both' name='Cousin'>"
        "<group>Enemies</group></item></query></iq>"
    )


async def test_a_token_is_good_for_one_account_even_if_two_come_at_once(court: World) -> None:
    uri = (await court.kernel.commands.run("invite.create", {}))["uri"]
    one, two = await shows(court, token_of(uri)), await shows(court, token_of(uri))
    one.send(registers("one"))
    two.send(registers("two"))
    answers = [await one.receive(), await two.receive()]
    assert sorted(a.get("type", "") for a in answers) == ["error", "result"]
    refused(next(a for a in answers if a.get("type") == "error"), "item-not-found")


async def test_a_failed_registration_does_not_use_it_up(court: World) -> None:
    uri = (await court.kernel.commands.run("invite.create", {}))["uri"]
    client = await shows(court, token_of(uri))
    refused(await client.iq(registers("juliet"), "error"), "conflict")
    await client.iq(registers("tybalt"))


@contextmanager
def crashes_at_every_commit(db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, MemoryDatabase]]:
    """What a crash after each of the commits would leave, by number and name."""
    assert isinstance(db, MemoryDatabase)
    left: dict[str, MemoryDatabase] = {}
    write = db.write

    async def watched(name: str, fn: Callable[[Cursor], Any]) -> Any:
        result = await write(name, fn)
        left[f"{len(left)} {name}"] = db.copy()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(db, "write", watched)
        yield left


async def test_a_crash_at_any_moment_leaves_the_token_or_the_account_with_its_contact(
    court: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    uri = told(await romeo.command(CREATE, {"roster-subscription": "true"}))["uri"]
    client = await shows(court, token_of(uri))
    with crashes_at_every_commit(court.db, monkeypatch) as crashes:
        await client.iq(registers("tybalt"))
    assert {name.partition(" ")[2] for name in crashes} >= {"accounts.add", "invites.joined"}
    for left in crashes.values():
        async with World(database=left, settings=_settings()) as again:
            made = await again.db.fetch("SELECT 1 FROM account WHERE jid = 'tybalt@example.org'")
            if not made:
                await (await shows(again, token_of(uri))).iq(registers("tybalt"))
            else:
                await shows(again, token_of(uri), "error")
            for one, other in (("romeo", "tybalt"), ("tybalt", "romeo")):
                roster = await (await again.login(f"{one}@example.org/x")).roster()
                wanted = f"<item jid='{other}@example.org' subscription='both'/>"
                assert mismatch(f"<iq><query xmlns='jabber:iq:roster'>{wanted}</query></iq>", roster) == ""
            assert await again.db.fetch("SELECT account FROM invite_join") == []
        await left.close()


async def test_a_crash_at_any_moment_leaves_the_token_or_the_contact(
    court: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    uri = told(await romeo.command(INVITE))["uri"]
    juliet = await court.login("juliet@example.org/balcony", presence=True)
    shown = f"<preauth xmlns='urn:xmpp:pars:0' token='{token_of(uri)}'/>"
    ask = f"<presence type='subscribe' to='romeo@example.org'>{shown}</presence>"
    with crashes_at_every_commit(court.db, monkeypatch) as crashes:
        juliet.send(ask)
        await court.settle()
    assert "invites.use" in {name.partition(" ")[2] for name in crashes}
    for left in crashes.values():
        async with World(database=left, settings=_settings()) as again:
            her = await again.login("juliet@example.org/balcony", presence=True, roster=True)
            her.send("<presence type='subscribed' to='romeo@example.org'/>")
            her.send(ask)
            await again.settle()
            item = (await her.roster()).find(".//{*}item[@jid='romeo@example.org']")
            # what may be lost is the request in return
            assert item is not None and item.get("subscription") in ("to", "both")
        await left.close()


async def test_who_has_asked_without_the_token_before_is_granted_with_it(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard", presence=True)
    token = token_of(told(await romeo.command(INVITE))["uri"])
    juliet = await court.login("juliet@example.org/balcony", roster=True, presence=True)
    juliet.send("<presence type='subscribe' to='romeo@example.org'/>")
    await romeo.expect("<presence type='subscribe' from='juliet@example.org'/>")
    juliet.send(
        f"<presence type='subscribe' to='romeo@example.org'><preauth xmlns='urn:xmpp:pars:0' token='{token}'/></presence>"
    )
    await court.settle()
    item = "<item jid='romeo@example.org' subscription='to'/>"
    assert mismatch(f"<iq><query xmlns='jabber:iq:roster'>{item}</query></iq>", await juliet.roster()) == ""


@pytest.mark.parametrize("gone", ["romeo@example.org", "tybalt@example.org"])
async def test_nobody_becomes_a_contact_of_who_is_gone(gone: str) -> None:
    async with MemoryDatabase() as db:
        async with World(database=db, settings=_settings()) as court:
            await court.kernel.commands.run("user.add", {"jid": "tybalt@example.org", "password": PASSWORD})
            put = "INSERT INTO invite_join (account, inviter) VALUES ('tybalt@example.org', 'romeo@example.org')"
            await db.write("test", lambda c: c.run(put))
            await db.write("test", lambda c: c.run("DELETE FROM account WHERE jid = ?", gone))
        async with World(database=db, settings=_settings(), accounts=()) as court:
            assert await db.fetch("SELECT account FROM invite_join") == []
            assert await db.fetch("SELECT 1 FROM roster") == []


async def test_a_token_may_be_for_several_accounts(court: World) -> None:
    uri = (await court.kernel.commands.run("invite.create", {"uses": 2}))["uri"]
    for name in ("one", "two"):
        await (await shows(court, token_of(uri))).iq(registers(name))
    await shows(court, token_of(uri), "error")


async def test_a_token_runs_out_but_not_under_the_hands_of_who_has_shown_it(court: World) -> None:
    uri = (await court.kernel.commands.run("invite.create", {}))["uri"]
    early = await shows(court, token_of(uri))
    await court.pass_time(7 * DAY + 1)
    await shows(court, token_of(uri), "error")
    await early.iq(registers("tybalt"))


@pytest.mark.parametrize("token", ["", "nonsense", "x" * 5000])
async def test_an_unknown_token(court: World, token: str) -> None:
    client = await shows(court, token, "error")
    refused(await client.iq(registers("tybalt"), "error"), "not-allowed")


async def test_a_token_is_for_one_domain_and_can_be_taken_back(court: World) -> None:
    run = court.kernel.commands.run
    token = token_of((await run("invite.create", {"domain": "example.net"}))["uri"])
    await shows(court, token, "error")
    await shows(court, token, domain="example.net")
    assert [i["token"] for i in await run("invite.list", {})] == [token]
    await run("invite.revoke", {"token": token})
    await shows(court, token, "error", domain="example.net")
    with pytest.raises(CommandError, match="no such invitation"):
        await run("invite.revoke", {"token": token})


async def test_invitations_survive_a_restart() -> None:
    database = MemoryDatabase()
    async with World(database=database, settings=_settings()) as court:
        token = token_of((await court.kernel.commands.run("invite.create", {}))["uri"])
    async with World(database=database, settings=_settings()) as court:
        await (await shows(court, token)).iq(registers("tybalt"))
    await database.close()


@pytest.mark.parametrize(
    "arguments", [{"username": "juliet"}, {"username": "a/b"}, {"username": "a@b"}, {"domain": "b.c"}, {"uses": 0}]
)
async def test_what_nobody_can_be_invited_to(court: World, arguments: dict[str, Any]) -> None:
    with pytest.raises(CommandError):
        await court.kernel.commands.run("invite.create", arguments)


# ---- contacts -------------------------------------------------------------------------------------------------------


async def test_a_contact_invitation_is_redeemed_by_a_subscription_request(court: World) -> None:
    juliet = await court.login("juliet@example.org/balcony", roster=True, presence=True)
    result = told(await juliet.command(INVITE))
    assert re.fullmatch(r"xmpp:juliet@example\.org\?roster;preauth=[a-z2-7]{24}", result["uri"])
    nurse = await court.login("nurse@example.org/street", roster=True, presence=True)
    request = (
        "<presence to='juliet@example.org' type='subscribe'>"
        f"<preauth xmlns='urn:xmpp:pars:0' token='{token_of(result['uri'])}'/></presence>"
    )
    nurse.send("<presence to='juliet@example.org' type='subscribed'/>")  # §3.4: pre-approval
    nurse.send(request)
    await court.settle()
    for client, other in ((juliet, "nurse@example.org"), (nurse, "juliet@example.org")):
        roster = await client.roster()
        item = f"<iq><query xmlns='jabber:iq:roster'><item jid='{other}' subscription='both'/></query></iq>"
        assert mismatch(item, roster) == ""
    seen = [el for el in nurse.inbox if el.get("from") == "juliet@example.org/balcony"]
    assert len(seen) == 1 and str(seen[0].tag).endswith("presence")
    # used up: for the next one it is as if there were no token
    mercutio = await court.login("mercutio@example.org/square", presence=True)
    juliet.inbox.clear()
    mercutio.send(request)
    await juliet.expect("<presence from='mercutio@example.org' type='subscribe'/>")


@pytest.mark.parametrize("late", [False, True])
async def test_a_wrong_or_late_token_leaves_the_request_to_the_user(court: World, late: bool) -> None:
    juliet = await court.login("juliet@example.org/balcony", roster=True, presence=True)
    token = token_of(told(await juliet.command(INVITE))["uri"])
    if late:
        await court.pass_time(7 * DAY + 1)
    else:
        token = token[::-1]
    nurse = await court.login("nurse@example.org/street", roster=True, presence=True)
    nurse.send(
        f"<presence to='juliet@example.org' type='subscribe'><preauth xmlns='urn:xmpp:pars:0' token='{token}'/></presence>"
    )
    await juliet.expect("<presence from='nurse@example.org' type='subscribe'/>")
    await juliet.expect_nothing()


async def test_broadcast_presence_does_not_pass_by_the_invitations(court: World) -> None:
    assert "presence" not in court.kernel.hooks[events.incoming].everyone


async def test_somebody_elses_token_is_none(court: World) -> None:
    juliet = await court.login("juliet@example.org/balcony", roster=True, presence=True)
    mercutio = await court.login("mercutio@example.org/square")
    token = token_of(told(await mercutio.command(INVITE))["uri"])
    nurse = await court.login("nurse@example.org/street", presence=True)
    nurse.send(
        f"<presence to='juliet@example.org' type='subscribe'><preauth xmlns='urn:xmpp:pars:0' token='{token}'/></presence>"
    )
    await juliet.expect("<presence from='nurse@example.org' type='subscribe'/>")


async def test_a_contact_may_make_an_account_if_that_is_allowed() -> None:
    async with World(settings=_settings(register_contacts=True, landing="https://{domain}/i/#{token}")) as court:
        juliet = await court.login("juliet@example.org/balcony", roster=True, presence=True)
        result = told(await juliet.command(INVITE))
        token = token_of(result["uri"])
        assert result["uri"].endswith(";ibr=y") and result["landing-url"] == f"https://example.org/i/#{token}"
        client = await shows(court, token)
        await client.iq(registers("tybalt"))
        await juliet.expect(
            "<iq type='set'><query xmlns='jabber:iq:roster'><item jid='tybalt@example.org' subscription='both'/></query></iq>"
        )


async def test_a_contact_invitation_is_no_account_invitation_otherwise(court: World) -> None:
    juliet = await court.login("juliet@example.org/balcony")
    await shows(court, token_of(told(await juliet.command(INVITE))["uri"]), "error")


async def test_invitations_of_a_user_are_limited_and_go_with_the_account() -> None:
    async with World(settings=_settings(per_user=2)) as court:
        juliet = await court.login("juliet@example.org/balcony")
        for _ in range(2):
            await juliet.command(INVITE)
        refused(await juliet.command(INVITE, type="error"), "resource-constraint")
        await court.kernel.commands.run("user.remove", {"jid": "juliet@example.org"})
        assert await court.kernel.commands.run("invite.list", {}) == []


async def test_users_can_be_kept_from_inviting() -> None:
    async with World(settings=_settings(users=False)) as court:
        juliet = await court.login("juliet@example.org/balcony")
        refused(await juliet.command(INVITE, type="error"), "forbidden")
        refused(await juliet.command(CREATE, type="error"), "forbidden")
        romeo = await court.login("romeo@example.org/orchard")
        await romeo.command(INVITE)
