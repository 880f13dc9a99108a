"""Plays for ad-hoc commands (XEP-0050)."""

from __future__ import annotations

import asyncio

import pytest

from beamish.core.events import Context
from beamish.modules import adhoc
from beamish.testing.match import mismatch
from beamish.testing.world import World
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element

CMD = "http://jabber.org/protocol/commands"
ADMIN = "http://jabber.org/protocol/admin"
ADD = f"{ADMIN}#add-user"
ITEMS = (
    f"<iq type='get' id='i' to='example.org'><query xmlns='http://jabber.org/protocol/disco#items' node='{CMD}'/></iq>"
)


def step(inner: str = "", **attrs: str) -> str:
    given = "".join(f" {key}='{value}'" for key, value in attrs.items())
    return f"<iq type='set' id='c' to='example.org'><command xmlns='{CMD}'{given}>{inner}</command></iq>"


def refused(answer: Element, condition: str, reason: str = "") -> None:
    app = f"<{reason} xmlns='{CMD}'/>" if reason else ""
    wanted = f"<iq type='error'><error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>{app}</error></iq>"
    assert mismatch(wanted, answer) == ""


async def test_everybody_sees_the_commands_that_are_for_them(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    juliet = await court.login("juliet@example.org/balcony")
    his = {item.get("node"): item.get("name") for item in (await romeo.iq(ITEMS))[0]}
    hers = {item.get("node") for item in (await juliet.iq(ITEMS))[0]}
    assert his[ADD] == "Make an account"
    assert "urn:xmpp:invite#invite" in hers and ADD not in hers
    assert hers < his.keys()
    info = f"<iq type='get' id='i' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info' node='{ADD}'/></iq>"
    described = await romeo.iq(info)
    wanted = (
        "<iq><query xmlns='http://jabber.org/protocol/disco#info'><identity category='automation' type='command-node'/>"
        f"<feature var='{CMD}'/><feature var='jabber:x:data'/></query></iq>"
    )
    assert mismatch(wanted, described) == ""
    refused(await juliet.iq(info, "error"), "forbidden")
    support = await juliet.iq(
        "<iq type='get' id='s' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
    )
    assert any(el.get("var") == CMD for el in support[0])


async def test_an_anonymous_session_has_no_commands() -> None:
    """Least of all one that invites to make an account where nobody else may make one."""
    settings = {"c2s": {"anonymous": True}, "modules": {"invites": {"register_contacts": True}}}
    async with World(settings=settings) as world:
        guest = await world.guest()
        assert len((await guest.iq(ITEMS))[0]) == 0
        refused(await guest.iq(step(node="urn:xmpp:invite#invite"), "error"), "forbidden")
        assert await world.db.fetch("SELECT 1 FROM invite") == []


async def test_a_form_is_filled_in_and_the_command_carried_out(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    asked = await romeo.iq(step(node=ADD, action="execute"))
    wanted = (
        f"<iq><command xmlns='{CMD}' node='{ADD}' sessionid='*' status='executing'><actions execute='complete'><complete/>"
        "</actions><x xmlns='jabber:x:data' type='form'><field var='FORM_TYPE' type='hidden'>"
        f"<value>{ADMIN}</value></field><field var='accountjid' type='jid-single'><required/></field>"
        "<field var='password' type='text-private'><required/></field>"
        "<field var='password-verify' type='text-private'/></x></command></iq>"
    )
    assert mismatch(wanted, asked) == ""
    session = asked[0].get("sessionid", "")
    form = (
        "<x xmlns='jabber:x:data' type='submit'><field var='accountjid'><value>tybalt@example.org</value></field>"
        "<field var='password'><value>prince of cats</value></field><field var='surname'><value>Capulet</value></field></x>"
    )
    done = await romeo.iq(step(form, node=ADD, sessionid=session))
    assert mismatch(f"<iq><command xmlns='{CMD}' sessionid='{session}' status='completed'/></iq>", done) == ""
    tybalt = court.connect()
    await tybalt.open_stream("example.org")
    await tybalt.authenticate("tybalt", "prince of cats")
    # the form was for one use
    refused(await romeo.iq(step(form, node=ADD, sessionid=session), "error"), "not-allowed", "session-expired")


@pytest.mark.parametrize("to", ["romeo@example.org", None])
async def test_the_own_account_is_as_good_as_its_domain(court: World, to: str | None) -> None:
    """There some administration clients look for commands."""
    romeo = await court.login("romeo@example.org/orchard")

    def addressed(xml: str) -> str:
        return xml.replace("to='example.org'", f"to='{to}'" if to else "", 1)

    listed = (await romeo.iq(addressed(ITEMS)))[0]
    assert (ADD, "romeo@example.org") in {(item.get("node"), item.get("jid")) for item in listed}
    asked = (await romeo.iq(addressed(step(node=ADD))))[0]
    filled = (
        "<x xmlns='jabber:x:data' type='submit'><field var='accountjid'><value>tybalt@example.org</value></field>"
        "<field var='password'><value>prince of cats</value></field></x>"
    )
    done = await romeo.iq(addressed(step(filled, node=ADD, sessionid=asked.get("sessionid", ""))))
    assert done[0].get("status") == "completed"
    tybalt = court.connect()
    await tybalt.open_stream("example.org")
    await tybalt.authenticate("tybalt", "prince of cats")


async def test_commands_of_others_are_nobody_elses(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    for somebody in ("juliet@example.org", "nobody@example.org"):
        refused(await romeo.iq(step(node=ADD).replace("to='example.org'", f"to='{somebody}'"), "error"), "forbidden")


async def test_a_mistake_in_the_form_can_be_corrected(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    session = (await romeo.iq(step(node=ADD)))[0].get("sessionid", "")
    form = "<x xmlns='jabber:x:data' type='submit'><field var='accountjid'><value>{}</value></field>{}</x>"
    password = "<field var='password'><value>cat</value></field>"
    again = "<field var='password-verify'><value>dog</value></field>"
    strange = f"<field var='FORM_TYPE'><value>urn:x</value></field>{password}"
    for given, condition, reason in (
        (form.format("tybalt@example.org", ""), "bad-request", "bad-payload"),
        (form.format("@@@", password), "bad-request", "bad-payload"),
        (form.format("tybalt@example.org", strange), "bad-request", "bad-payload"),
        (form.format("tybalt@example.org", password).replace("submit", "form"), "bad-request", "bad-payload"),
        (form.format("tybalt@example.org", "<field/>"), "bad-request", "bad-payload"),
        (form.format("tybalt@example.org", password + again), "not-acceptable", ""),
        (form.format("juliet@example.org", password), "conflict", ""),
        (form.format("tybalt@elsewhere.example", password), "item-not-found", ""),
    ):
        answer = await romeo.iq(step(given, node=ADD, sessionid=session, action="complete"), "error")
        refused(answer, condition, reason)
    await romeo.iq(step(form.format("tybalt@example.org", password), node=ADD, sessionid=session, action="complete"))


async def test_cancelling_closes_the_form(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    session = (await romeo.iq(step(node=ADD)))[0].get("sessionid", "")
    gone = await romeo.iq(step(node=ADD, sessionid=session, action="cancel"))
    assert mismatch(f"<iq><command xmlns='{CMD}' status='canceled' sessionid='{session}'/></iq>", gone) == ""
    refused(await romeo.iq(step(node=ADD, sessionid=session), "error"), "not-allowed", "session-expired")
    refused(await romeo.iq(step(node=ADD, action="cancel"), "error"), "bad-request", "bad-sessionid")


async def test_a_cancelled_form_counts_as_a_submitted_one(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    session = (await romeo.iq(step(node=ADD)))[0].get("sessionid", "")
    form = (
        "<x xmlns='jabber:x:data' type='cancel'><field var='accountjid'><value>tybalt@example.org</value></field>"
        "<field var='password'><value>prince of cats</value></field></x>"
    )
    await romeo.iq(step(form, node=ADD, sessionid=session))
    assert await court.db.fetch("SELECT 1 FROM account WHERE jid = 'tybalt@example.org'") == [(1,)]
    empty = "<x xmlns='jabber:x:data' type='cancel'/>"
    session = (await romeo.iq(step(node=ADD)))[0].get("sessionid", "")
    refused(await romeo.iq(step(empty, node=ADD, sessionid=session), "error"), "bad-request", "bad-payload")


async def test_there_is_one_stage(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    for node in (ADD, f"{ADMIN}#get-online-users-num"):
        for action in ("next", "prev"):
            refused(await romeo.iq(step(node=node, action=action), "error"), "bad-request", "bad-action")
    session = (await romeo.iq(step(node=ADD)))[0].get("sessionid", "")
    form = (
        "<x xmlns='jabber:x:data' type='submit'><field var='accountjid'><value>tybalt@example.org</value></field>"
        "<field var='password'><value>prince of cats</value></field></x>"
    )
    for action in ("next", "prev"):
        answer = await romeo.iq(step(form, node=ADD, sessionid=session, action=action), "error")
        refused(answer, "bad-request", "bad-action")
    done = await romeo.iq(step(form, node=ADD, sessionid=session, action="execute"))  # the same as complete
    assert done[0].get("status") == "completed"


async def test_english_is_spoken(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    node = f"{ADMIN}#get-online-users-num"
    space = "http://www.w3.org/XML/1998/namespace"
    for lang in ("en", "en-US", "EN"):
        answer = await romeo.iq(step(node=node).replace("<command ", f"<command xml:lang='{lang}' "))
        assert answer[0].get(f"{{{space}}}lang") == "en"
    refused(
        await romeo.iq(step(node=node).replace("<command ", "<command xml:lang='fr-ca' "), "error"),
        "bad-request",
        "bad-locale",
    )
    # what a stanza bears may be the language of the stream: it is no demand
    answer = await romeo.iq(step(node=node).replace("<iq ", "<iq xml:lang='de' "))
    assert answer[0].get(f"{{{space}}}lang") == "en"


async def test_the_state_of_a_session_is_the_responders(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    answer = await romeo.iq(step(node=ADD, status="completed"))
    assert answer[0].get("status") == "executing"
    for made_up in ("nonsense", "a.b", "é.é", answer[0].get("sessionid", "")[:-1] + "x"):
        refused(await romeo.iq(step(node=ADD, sessionid=made_up), "error"), "bad-request", "bad-sessionid")
    other = f"{ADMIN}#change-user-password"
    session = answer[0].get("sessionid", "")
    refused(await romeo.iq(step(node=other, sessionid=session), "error"), "bad-request", "bad-sessionid")


async def test_a_form_is_not_carried_out_twice_at_once(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    module = court.kernel.registry.module(adhoc.AdhocModule)
    session = (await romeo.iq(step(node=ADD)))[0].get("sessionid", "")
    form = (
        "<x xmlns='jabber:x:data' type='submit'><field var='accountjid'><value>tybalt@example.org</value></field>"
        "<field var='password'><value>prince of cats</value></field></x>"
    )
    stanza = Stanza.parse(step(form, node=ADD, sessionid=session).encode()).replace(
        sender=romeo.jid, to=JID.parse("example.org")
    )
    outcomes = await asyncio.gather(
        *(module.command(Context(stanza)) for _ in range(2)),  # type: ignore[attr-defined]
        return_exceptions=True,
    )
    assert [isinstance(each, StanzaError) for each in outcomes] == [False, True]


async def test_what_was_done_before_a_failure_is_told(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    several = {"accountjids": ["juliet@example.org", "nobody@example.org", "nurse@example.org"]}
    answer = await romeo.command(f"{ADMIN}#disable-user", several, type="error")
    text = answer.findtext(".//{urn:ietf:params:xml:ns:xmpp-stanzas}text") or ""
    assert "nobody@example.org" in text and "done before that: 1 of 3" in text


async def test_what_is_too_much_to_show_is_not_shown(court: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adhoc, "_SHOWN", 2)
    romeo = await court.login("romeo@example.org/orchard")
    for answer in (
        await romeo.command("urn:beamish:command:user.list"),
        await romeo.command(f"{ADMIN}#get-registered-users-list", {}),
    ):
        note = answer[0].find(f"{{{CMD}}}note")
        assert note is not None and (note.get("type"), note.text) == ("warn", "2 more are not shown.")
        shown = [el.text for el in answer.iter("{jabber:x:data}value") if "@example.org" in (el.text or "")]
        assert shown == ["juliet@example.org", "mercutio@example.org"]


async def test_what_is_wrong_with_a_request_is_said(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    juliet = await court.login("juliet@example.org/balcony")
    session = (await romeo.iq(step(node=ADD)))[0].get("sessionid", "")
    refused(await romeo.iq(step(node=ADD, action="dance"), "error"), "bad-request", "malformed-action")
    refused(await romeo.iq(step(node=ADD, sessionid=session, action="prev"), "error"), "bad-request", "bad-action")
    refused(await romeo.iq(step(node=ADD, sessionid=session), "error"), "bad-request", "bad-payload")
    refused(await romeo.iq(step(node="urn:none"), "error"), "item-not-found")
    refused(await juliet.iq(step(node=ADD), "error"), "forbidden")
    other = await court.login("romeo@example.org/street")
    refused(await other.iq(step(node=ADD, sessionid=session), "error"), "bad-request", "bad-sessionid")
    await court.pass_time(901)
    refused(await romeo.iq(step(node=ADD, sessionid=session), "error"), "not-allowed", "session-expired")


async def test_open_forms_run_out(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    session = (await romeo.iq(step(node=ADD)))[0].get("sessionid", "")
    await court.pass_time(901)
    refused(await romeo.iq(step(node=ADD, sessionid=session), "error"), "not-allowed", "session-expired")


async def test_whoever_abandons_forms_still_gets_new_ones(court: World) -> None:
    """Twenty of one user are kept; the longest unused makes room."""
    romeo = await court.login("romeo@example.org/orchard")
    sessions = [(await romeo.iq(step(node=ADD)))[0].get("sessionid", "") for _ in range(21)]
    refused(await romeo.iq(step(node=ADD, sessionid=sessions[0]), "error"), "not-allowed", "session-expired")
    for session in sessions[1:]:
        refused(await romeo.iq(step(node=ADD, sessionid=session), "error"), "bad-request", "bad-payload")


async def test_open_forms_of_all_are_bounded() -> None:
    admins = ["romeo@example.org", "juliet@example.org", "nurse@example.org"]
    async with World(settings={"server": {"admins": admins}, "modules": {"adhoc": {"open_forms": 2}}}) as world:
        romeo, juliet = await world.login("romeo@example.org/o"), await world.login("juliet@example.org/b")
        sessions = [(await romeo.iq(step(node=ADD)))[0].get("sessionid", "") for _ in range(3)]
        refused(await romeo.iq(step(node=ADD, sessionid=sessions[0]), "error"), "not-allowed", "session-expired")
        hers = (await juliet.iq(step(node=ADD)))[0].get("sessionid", "")
        # whoever has most makes room, so that nobody is shut out by others
        refused(await romeo.iq(step(node=ADD, sessionid=sessions[1]), "error"), "not-allowed", "session-expired")
        await romeo.iq(step(node=ADD, sessionid=sessions[2], action="cancel"))
        sessions = [(await romeo.iq(step(node=ADD)))[0].get("sessionid", "") for _ in range(3)]
        nurse = await world.login("nurse@example.org/n")
        await nurse.iq(step(node=ADD))  # of all who have one, the oldest goes
        refused(
            await juliet.iq(step(node=ADD, sessionid=hers, action="cancel"), "error"), "not-allowed", "session-expired"
        )
        await romeo.iq(step(node=ADD, sessionid=sessions[2], action="cancel"))


async def test_results_are_forms_tables_or_notes(court: World) -> None:
    romeo = await court.login("romeo@example.org/orchard")
    number = await romeo.command(f"{ADMIN}#get-registered-users-num")
    wanted = (
        f"<iq><command xmlns='{CMD}' status='completed'><x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE'>"
        f"<value>{ADMIN}</value></field><field var='registeredusersnum'><value>4</value></field></x></command></iq>"
    )
    assert mismatch(wanted, number) == ""
    table = await romeo.command("urn:beamish:command:user.list")
    wanted = (
        f"<iq><command xmlns='{CMD}'><x xmlns='jabber:x:data' type='result'><reported><field var='jid'/></reported>"
        "<item><field var='jid'><value>juliet@example.org</value></field></item></x></command></iq>"
    )
    assert mismatch(wanted, table) == ""
    nothing = await romeo.command("urn:beamish:command:invite.list")
    assert mismatch(f"<iq><command xmlns='{CMD}' status='completed'><note type='info'/></command></iq>", nothing) == ""
