"""Plays for in-band registration (XEP-0077, XEP-0158, XEP-0445)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from beamish.modules.mam.packing import Columns
from beamish.modules.register import RegisterModule
from beamish.testing import LiveServer
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import PASSWORD, World
from beamish.xmpp.xml import Element

GET = "<iq type='get' id='reg1' to='example.org'><query xmlns='jabber:iq:register'/></iq>"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
QUESTIONS = [{"question": "What is the capital of Italy?", "answers": ["Rome", "Roma"]}]


@asynccontextmanager
async def server(**options: Any) -> AsyncIterator[World]:
    async with World(settings={"modules": {"register": options}, "c2s": {"probe_after": 86400}}) as made:
        yield made


async def stranger(world: World, domain: str = "example.org") -> Client:
    client = world.connect()
    await client.open_stream(domain)
    return client


def plain(username: str = "tybalt", password: str = PASSWORD, extra: str = "", id: str = "reg2") -> str:
    return (
        f"<iq type='set' id='{id}' to='example.org'><query xmlns='jabber:iq:register'><username>{username}</username>"
        f"<password>{password}</password>{extra}</query></iq>"
    )


def form(**fields: str) -> str:
    inner = "".join(f"<field var='{var}'><value>{value}</value></field>" for var, value in fields.items())
    return (
        "<iq type='set' id='reg3' to='example.org'><query xmlns='jabber:iq:register'><x xmlns='jabber:x:data' type='submit'>"
        f"<field var='FORM_TYPE'><value>jabber:iq:register</value></field>{inner}</x></query></iq>"
    )


def refused(answer: Element, condition: str) -> None:
    assert mismatch(f"<iq type='error'><error><{condition} xmlns='{STANZAS}'/></error></iq>", answer) == ""


def values(answer: Element) -> dict[str, str]:
    return {f.get("var", ""): f.findtext("{jabber:x:data}value") or "" for f in answer.iter("{jabber:x:data}field")}


def letters(world: World) -> str:
    """What the image shows that was asked for last; a person would read it."""
    module = world.kernel.registry.module(RegisterModule)
    return next(v.challenge.letters for v in reversed(list(module._visits.values())) if v.challenge is not None)


# ---- making an account ----------------------------------------------------------------------------------------------


async def test_registration_is_off_by_default(world: World) -> None:
    client = await stranger(world)
    refused(await client.iq(GET, "error"), "not-allowed")
    refused(await client.iq(plain(), "error"), "not-allowed")


async def test_an_open_server_without_captcha_takes_plain_fields() -> None:
    async with server(open=True, captcha="none") as world:
        client = await stranger(world)
        assert client.features is not None
        assert client.features.find("{http://jabber.org/features/iq-register}register") is not None
        wanted = (
            "<iq type='result' id='reg1'><query xmlns='jabber:iq:register'><instructions/><username/><password/>"
            "<x xmlns='jabber:x:data' type='form'><field var='username'><required/></field>"
            "<field var='password' type='text-private'><required/></field></x></query></iq>"
        )
        assert mismatch(wanted, await client.iq(GET)) == ""
        await client.iq(plain())
        await client.authenticate("tybalt", PASSWORD)
        await client.bind("street")
        await client.appear()


async def test_a_form_is_taken_as_well_and_the_name_is_prepared() -> None:
    async with server(open=True, captcha="none") as world:
        client = await stranger(world)
        await client.iq(form(username="TyBalt", password=PASSWORD))
        await client.authenticate("tybalt", PASSWORD)


async def test_a_form_that_comes_back_as_it_went_is_taken() -> None:
    """Psi and Psi+ leave the type `form`; a result is still none."""
    async with server(open=True, captcha="none") as world:
        client = await stranger(world)
        filled_in = form(username="tybalt", password=PASSWORD)
        assert filled_in.count("type='submit'") == 1
        refused(await client.iq(filled_in.replace("type='submit'", "type='result'"), "error"), "bad-request")
        await client.iq(filled_in.replace("type='submit'", "type='form'"))
        await client.authenticate("tybalt", PASSWORD)


async def test_an_image_must_be_read() -> None:
    async with server(open=True) as world:
        client = await stranger(world)
        asked = await client.iq(GET)
        assert mismatch("<iq><query xmlns='jabber:iq:register'><username absent='!'/></query></iq>", asked) == ""
        given = values(asked)
        uri = asked.find(".//{urn:xmpp:media-element}uri")
        data = asked.find(".//{urn:xmpp:bob}data")
        assert uri is not None and data is not None and uri.text == f"cid:{data.get('cid')}"
        again = await client.iq(
            f"<iq type='get' id='b' to='example.org'><data xmlns='urn:xmpp:bob' cid='{data.get('cid')}'/></iq>"
        )
        assert again[0].text == data.text
        refused(
            await client.iq(
                "<iq type='get' id='b' to='example.org'><data xmlns='urn:xmpp:bob' cid='other'/></iq>", "error"
            ),
            "item-not-found",
        )
        refused(await client.iq(plain(), "error"), "service-unavailable")
        given = values(await client.iq(GET))
        answer = form(username="tybalt", password=PASSWORD, challenge=given["challenge"], ocr="WRONG1")
        refused(await client.iq(answer, "error"), "not-acceptable")
        # a challenge is good for one answer
        refused(await client.iq(answer.replace("WRONG1", "ACEFHJ"), "error"), "service-unavailable")
        given = values(await client.iq(GET))
        await client.iq(
            form(
                username="tybalt",
                password=PASSWORD,
                challenge=given["challenge"],
                sid="reg1",
                ocr=letters(world).lower(),
            )
        )
        await client.authenticate("tybalt", PASSWORD)


async def test_a_challenge_runs_out() -> None:
    async with World(
        settings={"modules": {"register": {"open": True}}, "limits": {"unauthenticated_seconds": 3600}}
    ) as world:
        client = await stranger(world)
        given = values(await client.iq(GET))
        right = letters(world)
        await world.pass_time(601)
        late = form(username="tybalt", password=PASSWORD, challenge=given["challenge"], ocr=right)
        refused(await client.iq(late, "error"), "service-unavailable")


async def test_a_question_must_be_answered() -> None:
    async with server(open=True, captcha="question", questions=QUESTIONS) as world:
        client = await stranger(world)
        asked = await client.iq(GET)
        wanted = (
            "<iq><query xmlns='jabber:iq:register'><x xmlns='jabber:x:data'>"
            "<field var='qa' type='text-single' label='What is the capital of Italy?'/></x>"
            "<data xmlns='urn:xmpp:bob' absent='!'/></query></iq>"
        )
        assert mismatch(wanted, asked) == ""
        await client.iq(form(username="tybalt", password=PASSWORD, challenge=values(asked)["challenge"], qa="roma"))


async def test_either_challenge_will_do() -> None:
    async with server(open=True, captcha="either", questions=QUESTIONS) as world:
        client = await stranger(world)
        asked = values(await client.iq(GET))
        assert {"ocr", "qa"} <= asked.keys() and asked["answers"] == "1"
        await client.iq(form(username="tybalt", password=PASSWORD, challenge=asked["challenge"], qa="Rome"))


@pytest.mark.parametrize(
    ("username", "password", "condition"),
    [
        ("", PASSWORD, "not-acceptable"),
        ("tybalt", "", "not-acceptable"),
        ("tybalt", "short", "not-acceptable"),
        ("a b", PASSWORD, "not-acceptable"),
        ("a@example.net", PASSWORD, "not-acceptable"),
        ("a/b", PASSWORD, "not-acceptable"),
        ("&lt;x>", PASSWORD, "not-acceptable"),
        ("x" * 65, PASSWORD, "not-acceptable"),
        ("romeo", PASSWORD, "conflict"),
        ("Admin", PASSWORD, "conflict"),
    ],
)
async def test_what_cannot_be_registered(username: str, password: str, condition: str) -> None:
    async with server(open=True, captcha="none") as world:
        client = await stranger(world)
        refused(await client.iq(plain(username, password), "error"), condition)
        await client.iq(plain("tybalt"))


async def test_reserved_names_are_reserved_however_they_are_written() -> None:
    """Neither the configuration nor a client has to write them as addresses have them."""
    async with server(
        open=True, captcha="none", reserved=["Root", "M\N{LATIN SMALL LETTER U WITH DIAERESIS}LLER"]
    ) as world:
        for name in ("root", "ROOT", "mu\N{COMBINING DIAERESIS}ller"):
            refused(await (await stranger(world)).iq(plain(name), "error"), "conflict")


async def test_one_connection_makes_one_account_and_cannot_remove_any() -> None:
    async with server(open=True, captcha="none") as world:
        client = await stranger(world)
        remove = "<iq type='set' id='u' to='example.org'><query xmlns='jabber:iq:register'><remove/></query></iq>"
        refused(await client.iq(remove, "error"), "unexpected-request")
        await client.iq(plain())
        refused(await client.iq(plain("paris"), "error"), "not-acceptable")
        refused(await client.iq(GET, "error"), "not-acceptable")


async def test_accounts_per_address_are_limited() -> None:
    async with server(open=True, captcha="none", per_address=2) as world:
        for name in ("one", "two"):
            await (await stranger(world)).iq(plain(name))
        client = await stranger(world)
        refused(await client.iq(plain("three"), "error"), "resource-constraint")
        await world.pass_time(86_400)
        await (await stranger(world)).iq(plain("three"))


async def test_a_name_that_is_taken_costs_none_of_the_accounts_that_may_be_made() -> None:
    async with server(open=True, captcha="none", per_address=2, per_hour=2) as world:
        for name in ("romeo", "juliet", "nurse"):
            refused(await (await stranger(world)).iq(plain(name), "error"), "conflict")
        for name in ("one", "two"):
            await (await stranger(world)).iq(plain(name))
        refused(await (await stranger(world)).iq(plain("three"), "error"), "resource-constraint")


async def test_accounts_of_everybody_are_limited() -> None:
    async with server(open=True, captcha="none", per_hour=1, per_address=50) as world:
        await (await stranger(world)).iq(plain("one"))
        refused(await (await stranger(world)).iq(plain("two"), "error"), "resource-constraint")
        await world.pass_time(3600)
        await (await stranger(world)).iq(plain("two"))


async def test_tries_are_limited() -> None:
    async with server(open=True, tries_per_address=3) as world:
        for _ in range(3):
            await (await stranger(world)).iq(GET)
        refused(await (await stranger(world)).iq(GET, "error"), "resource-constraint")


async def test_those_who_come_to_the_wrong_door_are_shown_the_right_one() -> None:
    async with server(website="https://example.org/join") as world:
        client = await stranger(world)
        wanted = (
            "<iq type='result'><query xmlns='jabber:iq:register'><instructions/><username absent='!'/>"
            "<x xmlns='jabber:x:oob'><url>https://example.org/join</url></x></query></iq>"
        )
        assert mismatch(wanted, await client.iq(GET)) == ""
        refused(await client.iq(plain(), "error"), "not-allowed")


async def test_an_iq_to_somebody_else_is_not_served_before_login() -> None:
    async with server(open=True, captcha="none") as world:
        client = await stranger(world)
        refused(await client.iq(GET.replace("to='example.org'", "to='romeo@example.org'"), "error"), "not-allowed")
        refused(await client.iq(GET.replace("to='example.org'", "to='example.net'"), "error"), "not-allowed")
        await client.iq(GET.replace("to='example.org'", ""))


def test_what_cannot_be_a_name_cannot_be_reserved() -> None:
    with pytest.raises(ValidationError, match="reserved"):
        RegisterModule.Config(reserved=("ro@ot",))


def test_questions_must_be_there_to_be_asked() -> None:
    with pytest.raises(ValidationError, match="needs questions"):
        RegisterModule.Config(captcha="either")


async def test_nothing_of_it_is_possible_before_tls_where_tls_is_required() -> None:
    settings = {"modules": {"register": {"open": True, "captcha": "none"}}}
    async with LiveServer(settings=settings) as live:
        client = await live.connect()
        features = await client.open_stream("example.org")
        assert [str(el.tag) for el in features] == ["{urn:ietf:params:xml:ns:xmpp-tls}starttls"]
        client.send(GET)
        await client.expect_closed("not-authorized")
        client = await live.connect()
        await client.open_stream("example.org")
        features = await client.start_tls("example.org")
        assert features.find("{http://jabber.org/features/iq-register}register") is not None
        await client.iq(plain())
        await client.authenticate("tybalt", PASSWORD)
        await client.bind("street")


# ---- changing the password ------------------------------------------------------------------------------------------


async def test_a_user_changes_the_password(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    wanted = "<iq><query xmlns='jabber:iq:register'><registered/><username>romeo</username><password/></query></iq>"
    assert mismatch(wanted, await romeo.iq(GET)) == ""
    await romeo.iq(plain("romeo", "by any other"))
    again = await stranger(world)
    await again.authenticate("romeo", "by any other")
    await romeo.iq(plain("romeo", ""))  # an empty one changes nothing
    await romeo.iq(plain("romeo", PASSWORD).replace(" to='example.org'", ""))
    again = await stranger(world)
    await again.authenticate("romeo", PASSWORD)


async def test_a_form_may_be_used_to_change_it_and_the_old_one_be_proved(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    change = form(username="romeo", password="by any other", old_password="{old}").replace(
        "<value>jabber:iq:register</value>", "<value>jabber:iq:register:changepassword</value>"
    )
    refused(await romeo.iq(change.replace("{old}", "wrong"), "error"), "not-authorized")
    await romeo.iq(change.replace("{old}", PASSWORD))


@pytest.mark.parametrize(
    ("inner", "condition"),
    [
        ("<username>romeo</username>", "bad-request"),
        ("<password>by any other</password>", "bad-request"),
        ("<username>juliet</username><password>by any other</password>", "forbidden"),
        ("<username>romeo</username><password>short</password>", "not-acceptable"),
    ],
)
async def test_what_is_no_change_of_a_password(world: World, inner: str, condition: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    sent = f"<iq type='set' id='c' to='example.org'><query xmlns='jabber:iq:register'>{inner}</query></iq>"
    answer = await romeo.iq(sent, "error")
    refused(answer, condition)
    assert answer.find("{jabber:iq:register}query") is None  # §3.3: the password is not sent back


async def test_nobody_asks_for_another_account_or_domain(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    for to in ("juliet@example.org", "example.net"):
        refused(await romeo.iq(GET.replace("to='example.org'", f"to='{to}'"), "error"), "forbidden")


async def test_changing_and_giving_up_can_be_forbidden() -> None:
    async with server(change_password=False, cancel=False) as world:
        romeo = await world.login("romeo@example.org/orchard")
        refused(await romeo.iq(plain("romeo", "by any other"), "error"), "not-allowed")
        remove = "<iq type='set' id='u'><query xmlns='jabber:iq:register'><remove/></query></iq>"
        refused(await romeo.iq(remove, "error"), "not-allowed")


# ---- giving up the account ------------------------------------------------------------------------------------------

REMOVE = "<iq type='set' id='unreg'><query xmlns='jabber:iq:register'><remove/></query></iq>"


async def test_giving_up_an_account_tells_contacts_and_closes_every_session(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    other = await world.login("romeo@example.org/street")
    juliet = await world.login("juliet@example.org/balcony", presence=True, roster=True)
    await world.befriend(romeo, juliet)
    romeo.send(REMOVE)
    await romeo.expect("<iq type='result' id='unreg'/>")
    await romeo.expect_closed("not-authorized")
    await other.expect_closed("not-authorized")
    await juliet.expect_all(
        "<presence type='unavailable' from='romeo@example.org/orchard'/>",
        "<presence type='unsubscribe' from='romeo@example.org'/>",
        "<presence type='unsubscribed' from='romeo@example.org'/>",
        "<iq type='set'><query xmlns='jabber:iq:roster'><item jid='romeo@example.org' subscription='to'/></query></iq>",
        "<iq type='set'><query xmlns='jabber:iq:roster'><item jid='romeo@example.org' subscription='none'/></query></iq>",
    )
    again = await stranger(world)
    with pytest.raises(AssertionError):
        await again.authenticate("romeo", PASSWORD)


async def test_a_session_that_could_be_resumed_ends_with_the_account(world: World) -> None:
    """XEP-0198: neither the stream that asks nor one that is away at the moment can be taken up again."""
    away = await world.login("romeo@example.org/street", presence=True)
    away.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    id_ = (await away.expect("<enabled xmlns='urn:xmpp:sm:3' id='*'/>")).get("id", "")
    away.drop()
    await world.settle()
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    romeo.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    while not str((await romeo.receive()).tag).endswith("}enabled"):
        pass
    romeo.send(REMOVE)
    await romeo.expect("<iq type='result' id='unreg'/>")
    await romeo.expect_closed("not-authorized")
    assert world.kernel.sessions.of(romeo.jid.bare).all == ()
    await world.kernel.commands.run("user.add", {"jid": "romeo@example.org", "password": PASSWORD})
    again = await stranger(world)
    await again.authenticate("romeo", PASSWORD)
    again.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{id_}' h='0'/>")
    await again.expect("<failed xmlns='urn:xmpp:sm:3'/>")


async def test_remove_must_be_alone(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    refused(await romeo.iq(REMOVE.replace("<remove/>", "<remove/><username/>"), "error"), "bad-request")
    await romeo.iq("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")


async def test_an_administrator_does_not_go_by_accident() -> None:
    async with World(settings={"server": {"admins": ["romeo@example.org"]}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        refused(await romeo.iq(REMOVE, "error"), "not-allowed")


async def test_nothing_is_left_of_an_account(world: World) -> None:
    """Whatever the account did, no table of any module has a row of it afterwards."""
    romeo = await world.login("romeo@example.org/orchard", presence=True, roster=True)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await world.befriend(romeo, juliet)
    romeo.send("<iq type='set' id='1'><query xmlns='jabber:iq:private'><x xmlns='urn:example:notes'>a</x></query></iq>")
    romeo.send(
        "<iq type='set' id='2'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='urn:example:mood'>"
        "<item id='a'><mood xmlns='urn:example:mood'/></item></publish></pubsub></iq>"
    )
    romeo.send("<iq type='set' id='3'><vCard xmlns='vcard-temp'><FN>Romeo</FN></vCard></iq>")
    romeo.send("<iq type='set' id='4'><block xmlns='urn:xmpp:blocking'><item jid='tybalt@example.org'/></block></iq>")
    romeo.send("<message to='juliet@example.org' type='chat'><body>kept?</body></message>")
    await romeo.command("urn:beamish:command:directory.publish", {"nick": "Romeo"})
    await romeo.command("urn:xmpp:invite#invite")
    await world.settle()
    romeo.send("<presence type='unavailable'/>")
    juliet.send("<message to='romeo@example.org' type='chat'><body>wait</body></message>")
    await world.settle()
    assert await _owners_in_log(world) >= {"romeo@example.org", "juliet@example.org"}
    before = {table for table, _ in await _rows_of(world, "romeo@example.org")}
    assert {"account", "admin_login", "invite", "search_entry", "roster", "offline_message"} <= before
    romeo.send(REMOVE)
    await romeo.expect_closed("not-authorized")
    await world.db.flushed()
    left = await _rows_of(world, "romeo@example.org")
    others = {("roster", "jid"), ("mam_chat", "peer")}  # what Juliet keeps of him is hers
    assert set(left) <= others
    assert "romeo@example.org" not in await _owners_in_log(world)
    orphans = "SELECT 1 FROM mam_chunk WHERE account NOT IN (SELECT num FROM mam_account)"
    assert await world.db.fetch(orphans) == []


async def _owners_in_log(world: World) -> set[str]:
    """Of whom the archive has messages that are not at their places yet."""
    rows = await world.db.fetch("SELECT messages, head, wires FROM mam_log")
    log = Columns()
    for row in rows:
        log.add_log(*row)
    return set(log.owners)


async def _rows_of(world: World, jid: str) -> list[tuple[str, str]]:
    """Tables and columns of an account in which its address stands, or in whose rows it is the owner."""
    found = []
    tables = await world.db.fetch(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND sql NOT LIKE 'CREATE VIRTUAL%'"
    )
    for (table,) in tables:
        columns = await world.db.fetch(f"SELECT name FROM pragma_table_info('{table}')")
        for (column,) in columns:
            rows = await world.db.fetch(f'SELECT COUNT(*) FROM "{table}" WHERE CAST("{column}" AS TEXT) = ?', jid)
            if rows[0][0]:
                found.append((table, column))
    return found
