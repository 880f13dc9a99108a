"""Plays for the user directory (XEP-0055)."""

from __future__ import annotations

import pytest
import pytest_asyncio

from beamish.core.events import Context
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element

PUBLISH = "urn:beamish:command:directory.publish"
WITHDRAW = "urn:beamish:command:directory.withdraw"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"


def question(**fields: str) -> str:
    inner = "".join(f"<{var}>{value}</{var}>" for var, value in fields.items())
    return f"<iq type='set' id='s' to='example.org'><query xmlns='jabber:iq:search'>{inner}</query></iq>"


async def found(client: Client, **fields: str) -> list[str]:
    answer = await client.iq(question(**fields))
    return [item.get("jid", "") for item in answer[0]]


@pytest_asyncio.fixture
async def romeo(world: World) -> Client:
    juliet = await world.login("juliet@example.org/balcony")
    await juliet.command(PUBLISH, {"first": "Juliet", "last": "Capulet", "nick": "JuliC", "email": ""})
    nurse = await world.login("nurse@example.org/street")
    await nurse.command(PUBLISH, {"first": "Angelica", "last": "Capulet", "nick": "100%_\\", "email": ""})
    return await world.login("romeo@example.org/orchard")


async def test_the_fields_are_told(world: World, romeo: Client) -> None:
    asked = await romeo.iq("<iq type='get' id='s' to='example.org'><query xmlns='jabber:iq:search'/></iq>")
    wanted = (
        "<iq><query xmlns='jabber:iq:search'><instructions/><first/><last/><nick/><email/>"
        "<x xmlns='jabber:x:data' type='form'><field var='FORM_TYPE'><value>jabber:iq:search</value></field>"
        "<field var='first'/><field var='email'/></x></query></iq>"
    )
    assert mismatch(wanted, asked) == ""


async def test_who_put_themselves_there_is_found(romeo: Client) -> None:
    assert await found(romeo, last="capulet") == ["juliet@example.org", "nurse@example.org"]
    assert await found(romeo, first="JUL") == ["juliet@example.org"]
    assert await found(romeo, first="Juliet", last="Montague") == []
    assert await found(romeo, first="*elica") == ["nurse@example.org"]
    assert await found(romeo, nick="100%_\\") == ["nurse@example.org"]
    assert await found(romeo, nick="%") == []
    assert await found(romeo, first="romeo") == []


async def test_a_form_is_answered_by_a_form(romeo: Client) -> None:
    form = (
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>jabber:iq:search</value></field>"
        "<field var='nick'><value>julic</value></field></x>"
    )
    answer = await romeo.iq(
        f"<iq type='set' id='s' to='example.org'><query xmlns='jabber:iq:search'>{form}</query></iq>"
    )
    wanted = (
        "<iq><query xmlns='jabber:iq:search'><x xmlns='jabber:x:data' type='result'><reported><field var='first'/>"
        "<field var='jid' type='jid-single'/></reported><item><field var='first'><value>Juliet</value></field>"
        "<field var='jid'><value>juliet@example.org</value></field></item></x></query></iq>"
    )
    assert mismatch(wanted, answer) == ""


async def test_plain_results_hold_all_fields(romeo: Client) -> None:
    answer = await romeo.iq(question(first="juliet"))
    wanted = (
        "<iq><query xmlns='jabber:iq:search'><item jid='juliet@example.org'><first>Juliet</first><last>Capulet</last>"
        "<nick>JuliC</nick><email/></item></query></iq>"
    )
    assert mismatch(wanted, answer) == ""


@pytest.mark.parametrize("fields", [{}, {"first": " "}, {"first": "*"}, {"first": "x" * 201}])
async def test_searches_for_everybody_are_refused(romeo: Client, fields: dict[str, str]) -> None:
    answer = await romeo.iq(question(**fields), "error")
    assert mismatch(f"<iq><error><not-acceptable xmlns='{STANZAS}'/></error></iq>", answer) == ""


async def test_who_leaves_is_found_no_more(world: World, romeo: Client) -> None:
    juliet = await world.login("juliet@example.org/chamber")
    await juliet.command(PUBLISH, {"first": "Giulietta", "last": "", "nick": "", "email": ""})
    assert await found(romeo, last="capulet") == ["nurse@example.org"]
    assert await found(romeo, first="giul") == ["juliet@example.org"]
    await juliet.command(WITHDRAW)
    assert await found(romeo, first="giul") == []
    await world.kernel.commands.run("user.remove", {"jid": "nurse@example.org"})
    assert await found(romeo, last="capulet") == []


async def test_domains_have_directories_of_their_own(world: World, romeo: Client) -> None:
    benvolio = await world.login("benvolio@example.net/street")
    answer = await benvolio.iq(question(last="capulet").replace("example.org", "example.net"))
    assert len(answer[0]) == 0


async def test_strangers_may_not_search_unless_they_may(world: World, romeo: Client) -> None:
    asked = Stanza.build(
        "iq",
        "get",
        id="s",
        sender=JID.parse("hamlet@denmark.example/x"),
        to=JID.parse("example.org"),
        content=b"<query xmlns='jabber:iq:search'/>",
    )
    replies: list[Stanza] = []
    world.kernel.router.add_service("denmark.example", lambda ctx: replies.append(ctx.stanza))
    world.kernel.router.route(Context(asked))
    await world.settle()
    assert [r.type for r in replies] == ["error"]


async def paged(client: Client, rsm: str, *, form: bool = False) -> tuple[list[str], Element | None]:
    """Addresses, and what the answer says of the page."""
    wanted = "<nick>friend</nick>"
    if form:
        value = "<value>jabber:iq:search</value>"
        wanted = (
            f"<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'>{value}</field>"
            "<field var='nick'><value>friend</value></field></x>"
        )
    answer = await client.iq(
        f"<iq type='set' id='s' to='example.org'><query xmlns='jabber:iq:search'>{wanted}"
        f"<set xmlns='http://jabber.org/protocol/rsm'>{rsm}</set></query></iq>"
    )
    jids = [el.get("jid", "") for el in answer.iter("{jabber:iq:search}item")]
    jids += [el.findtext("{*}value") or "" for el in answer.iter("{jabber:x:data}field") if el.get("var") == "jid"]
    return [jid for jid in jids if jid], answer.find("{*}query/{*}set")


@pytest.mark.parametrize("form", [False, True])
async def test_results_come_in_pages_forwards_backwards_and_by_index(world: World, romeo: Client, form: bool) -> None:
    everybody = [f"friend{number}@example.org" for number in range(7)]
    for jid in everybody:
        await world.kernel.commands.run("directory.publish", {"jid": jid, "nick": "friend"})

    async def page(rsm: str) -> tuple[list[str], str]:
        jids, told = await paged(romeo, rsm, form=form)
        assert told is not None and told.findtext("{*}count") == "7"
        first, last = told.find("{*}first"), told.findtext("{*}last")
        if not jids:
            assert first is None and last is None
            return jids, ""
        assert first is not None and (first.text, last) == (jids[0], jids[-1])
        return jids, first.get("index", "")

    assert await page("<max>3</max>") == (everybody[:3], "0")
    assert await page(f"<max>3</max><after>{everybody[2]}</after>") == (everybody[3:6], "3")
    assert await page(f"<max>3</max><after>{everybody[5]}</after>") == (everybody[6:], "6")
    assert await page("<max>3</max><before/>") == (everybody[4:], "4")
    assert await page(f"<max>3</max><before>{everybody[4]}</before>") == (everybody[1:4], "1")
    assert await page("<max>2</max><index>5</index>") == (everybody[5:], "5")
    assert await page("<max>2</max><index>7</index>") == ([], "")
    assert await page("<max>0</max>") == ([], "")
    # one that is gone keeps its place
    await world.kernel.commands.run("directory.publish", {"jid": "friend3.5@example.org", "nick": "friend"})
    await world.kernel.commands.run("directory.withdraw", {"jid": everybody[2]})
    assert (await page(f"<max>1</max><after>{everybody[2]}</after>"))[0] == ["friend3.5@example.org"]


async def test_a_page_of_nothing_is_an_empty_answer(romeo: Client) -> None:
    assert await paged(romeo, "<max>3</max>") == ([], None)
