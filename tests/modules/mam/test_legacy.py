"""XEP-0136 for old clients, on the archive of XEP-0313."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.modules.mam.play import ask

from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.xml import Element

NS = "urn:xmpp:archive"
DAY = 86_400.0


def tag(name: str) -> str:
    return f"{{{NS}}}{name}"


async def call(client: Client, kind: str, xml: str, type: str = "result") -> Element:
    """An IQ whose payload is in the archive's namespace; its answer's payload, or its error condition."""
    name, _, rest = xml[1:].partition(" ")
    answer = await client.iq(f"<iq type='{kind}' id='a'><{name} xmlns='{NS}' {rest}</iq>", type=type)
    if type == "error":
        return answer.find("{*}error")[0]  # type: ignore[index]
    return answer[0] if len(answer) else answer


def condition(el: Element) -> str:
    return str(el.tag).rpartition("}")[2]


@pytest_asyncio.fixture
async def romeo(world: World) -> AsyncIterator[Client]:
    """Three days: with juliet on all of them (two messages and an answer each), with mercutio on the second."""
    for day in range(3):
        client = await world.login("romeo@example.org/r", presence=True)
        juliet = await world.login("juliet@example.org/b", presence=True)
        for n in (1, 2):
            client.send(f"<message to='juliet@example.org' type='chat'><body>day {day} {n}</body></message>")
            await world.pass_time(1.4)
        juliet.send(f"<message to='romeo@example.org' type='chat'><body>answer {day}</body></message>")
        await world.settle()
        if day == 1:
            client.send("<message to='mercutio@example.org/m' type='chat'><body>psst</body></message>")
            await world.settle()
        await client.close()
        await juliet.close()
        await world.pass_time(DAY)
    yield await world.login("romeo@example.org/r")


async def test_list_and_its_pages(world: World, romeo: Client) -> None:
    listed = await call(romeo, "get", "<list />")
    chats = [(el.get("with"), el.get("start", "")[:10], el.get("version")) for el in listed.iterfind(tag("chat"))]
    assert chats == [
        ("juliet@example.org", "2023-11-14", "2"),
        ("juliet@example.org", "2023-11-15", "2"),
        ("mercutio@example.org", "2023-11-15", "0"),
        ("juliet@example.org", "2023-11-16", "2"),
    ]
    seen: list[tuple[str | None, str]] = []
    after = ""
    for _ in range(4):
        page = await call(
            romeo, "get", f"<list ><set xmlns='http://jabber.org/protocol/rsm'><max>1</max>{after}</set></list>"
        )
        seen += [(el.get("with"), el.get("start", "")[:10]) for el in page.iterfind(tag("chat"))]
        after = f"<after>{page.findtext('.//{*}last')}</after>"
    assert seen == [chat[:2] for chat in chats]
    page = await call(
        romeo, "get", "<list ><set xmlns='http://jabber.org/protocol/rsm'><max>2</max><before/></set></list>"
    )
    assert [el.get("with") for el in page.iterfind(tag("chat"))] == ["mercutio@example.org", "juliet@example.org"]
    some = await call(
        romeo, "get", "<list with='juliet@example.org' start='2023-11-15T00:00:00Z' end='2023-11-16T00:00:00Z'/>"
    )
    assert [el.get("start", "")[:10] for el in some.iterfind(tag("chat"))] == ["2023-11-15"]
    assert len((await call(romeo, "get", "<list with='example.org'/>")).findall(tag("chat"))) == 4
    assert len(await call(romeo, "get", "<list with='example.org' exactmatch='true'/>")) == 0
    nurse = await world.login("nurse@example.org/n")
    assert len(await call(nurse, "get", "<list />")) == 0


async def test_retrieve(romeo: Client) -> None:
    start = (await call(romeo, "get", "<list with='juliet@example.org'/>"))[1].get("start", "")
    chat = await call(romeo, "get", f"<retrieve with='juliet@example.org' start='{start}'/>")
    said = [(condition(el), el.get("secs"), el.findtext(tag("body"))) for el in chat if el.get("secs")]
    assert said == [("to", "0", "day 1 1"), ("to", "1", "day 1 2"), ("from", "1", "answer 1")]
    assert chat.findtext(".//{*}count") == "3"
    page = "<set xmlns='http://jabber.org/protocol/rsm'><max>1</max>{}</set>"
    first = await call(
        romeo, "get", f"<retrieve with='juliet@example.org' start='{start}'>{page.format('')}</retrieve>"
    )
    last = first.findtext(".//{*}last")
    second = await call(
        romeo,
        "get",
        f"<retrieve with='juliet@example.org' start='{start}'>{page.format(f'<after>{last}</after>')}</retrieve>",
    )
    assert [(el.get("secs"), el.findtext(tag("body"))) for el in second if el.get("secs")] == [("1", "day 1 2")]
    seconds = start[:19] + "Z"  # clients that know no fractions
    again = await call(romeo, "get", f"<retrieve with='juliet@example.org/b' start='{seconds}'/>")
    assert again.get("start") == start
    for wrong in (
        "with='juliet@example.org' start='2001-01-01T00:00:00Z'",
        f"with='nurse@example.org' start='{start}'",
    ):
        assert condition(await call(romeo, "get", f"<retrieve {wrong}/>", "error")) == "item-not-found"
    assert condition(await call(romeo, "get", "<retrieve with='juliet@example.org'/>", "error")) == "bad-request"
    assert condition(await call(romeo, "get", "<retrieve with='x' start='now'/>", "error")) == "bad-request"


async def test_remove_takes_content_and_leaves_ids(romeo: Client) -> None:
    before = await ask(romeo)
    start = (await call(romeo, "get", "<list with='juliet@example.org'/>"))[0].get("start", "")
    await call(romeo, "set", f"<remove with='juliet@example.org' start='{start}'/>")
    after = await ask(romeo)
    assert after.ids == before.ids
    assert after.bodies == [None] * 3 + before.bodies[3:]
    assert len((await call(romeo, "get", "<list />")).findall(tag("chat"))) == 3
    assert (await ask(romeo, {"{urn:xmpp:fulltext:0}fulltext": "answer"})).bodies == ["answer 1", "answer 2"]
    gone = f"<remove with='juliet@example.org' start='{start}'/>"
    assert condition(await call(romeo, "set", gone, "error")) == "item-not-found"
    assert condition(await call(romeo, "set", "<remove open='true'/>", "error")) == "item-not-found"
    await call(romeo, "set", "<remove start='0000-01-01T00:00:00Z' end='2023-11-16T00:00:00Z'/>")
    assert (await ask(romeo)).bodies == [None] * 7 + before.bodies[7:]
    await call(romeo, "set", "<remove />")
    assert (await ask(romeo)).bodies == [None] * 10
    assert len(await call(romeo, "get", "<list />")) == 0


async def test_the_other_side_keeps_what_one_removes(world: World, romeo: Client) -> None:
    await call(romeo, "set", "<remove />")
    juliet = await world.login("juliet@example.org/b")
    assert None not in (await ask(juliet)).bodies


async def test_modes_are_the_preferences_of_xep_0441(world: World) -> None:
    romeo = await world.login("romeo@example.org/r")
    phone = await world.login("romeo@example.org/phone")
    pref = await call(romeo, "get", "<pref />")
    assert pref.find(tag("default")).get("unset") == "true"  # type: ignore[union-attr]
    assert pref.find(tag("auto")).get("save") == "true"  # type: ignore[union-attr]
    assert {el.get("type") for el in pref.iterfind(tag("method"))} == {"auto", "local", "manual"}
    await call(phone, "set", "<pref ><default save='false' otr='prefer'/><item jid='juliet@example.org' save='body' "
               "otr='forbid' expire='604800'/><item jid='nurse@example.org' save='false'/></pref>")  # fmt: skip
    pushed = await romeo.receive()
    assert pushed.find(f"{tag('pref')}/{tag('default')}").get("otr") == "prefer"  # type: ignore[union-attr]
    assert [el.get("jid") for el in pushed.iter(tag("item"))] == ["juliet@example.org", "nurse@example.org"]
    await phone.expect_nothing()  # it never asked
    prefs = (await romeo.iq("<iq type='get' id='p'><prefs xmlns='urn:xmpp:mam:2'/></iq>"))[0]
    assert prefs.get("default") == "never"
    assert [el.text for el in prefs.iter("{urn:xmpp:mam:2}jid")] == ["juliet@example.org", "nurse@example.org"]
    for to in ("juliet", "mercutio"):
        romeo.send(f"<message to='{to}@example.org' type='chat'><body>{to}</body></message>")
    assert (await ask(romeo)).bodies == ["juliet"]
    pref = await call(romeo, "get", "<pref />")
    items = {el.get("jid"): dict(el.items()) for el in pref.iterfind(tag("item"))}
    assert items["juliet@example.org"] == {
        "jid": "juliet@example.org",
        "otr": "forbid",
        "save": "body",
        "expire": "604800",
    }
    assert items["nurse@example.org"]["save"] == "false"
    assert pref.find(tag("default")).get("save") == "false"  # type: ignore[union-attr]
    await call(romeo, "set", "<itemremove ><item jid='juliet@example.org'/></itemremove>")
    assert [el.get("jid") for el in (await call(romeo, "get", "<pref />")).iterfind(tag("item"))] == [
        "nurse@example.org"
    ]


async def test_what_cannot_be_set_is_refused(world: World) -> None:
    romeo = await world.login("romeo@example.org/r")
    for xml, expected in (
        ("<pref ><default save='stream' otr='concede'/></pref>", "feature-not-implemented"),
        ("<pref ><default save='maybe' otr='concede'/></pref>", "bad-request"),
        ("<pref ><default save='body' otr='maybe'/></pref>", "bad-request"),
        ("<pref ><item jid='@' save='body'/></pref>", "jid-malformed"),
        ("<pref ><item jid='a@b' save='body' expire='soon'/></pref>", "bad-request"),
        ("<pref ><session save='body'/></pref>", "bad-request"),
        ("<pref ><method type='magic' use='prefer'/></pref>", "bad-request"),
        ("<pref ><other/></pref>", "bad-request"),
        ("<auto save='perhaps'/>", "bad-request"),
    ):
        assert condition(await call(romeo, "set", xml, "error")) == expected, xml


async def test_automatic_archiving_for_a_session_and_for_good(world: World) -> None:
    romeo = await world.login("romeo@example.org/r", presence=True)
    phone = await world.login("romeo@example.org/phone", presence=True)
    juliet = await world.login("juliet@example.org/b")

    async def said(text: str) -> list[str | None]:
        romeo.send(f"<message to='nurse@example.org' type='chat'><body>r {text}</body></message>")
        phone.send(f"<message to='nurse@example.org' type='chat'><body>p {text}</body></message>")
        juliet.send(f"<message to='romeo@example.org/r' type='chat'><body>j {text}</body></message>")
        await world.settle()
        bodies = (await ask(romeo)).bodies
        return [body for body in bodies if body and body.endswith(text)]

    await call(romeo, "set", "<auto save='false'/>")
    assert await said("1") == ["p 1"]
    assert (await call(romeo, "get", "<pref />")).find(tag("auto")).get("save") == "false"  # type: ignore[union-attr]
    await call(romeo, "set", "<auto save='true' scope='stream'/>")
    assert await said("2") == ["r 2", "p 2", "j 2"]
    await call(romeo, "set", "<auto save='false' scope='global'/>")
    assert await said("3") == []
    await call(romeo, "set", "<pref ><auto save='true' scope='global'/></pref>")
    assert await said("4") == ["r 4", "p 4", "j 4"]


async def test_chosen_conversations(world: World) -> None:
    romeo = await world.login("romeo@example.org/r", presence=True)
    juliet = await world.login("juliet@example.org/b", presence=True)

    async def said(text: str, thread: str) -> bool:
        inner = f"<body>{text}</body><thread>{thread}</thread>"
        romeo.send(f"<message to='juliet@example.org' type='chat'>{inner}</message>")
        juliet.send(f"<message to='romeo@example.org' type='chat'>{inner}</message>")
        await world.settle()
        count = (await ask(romeo)).bodies.count(text)
        assert count in (0, 2)
        return count == 2

    await call(romeo, "set", "<pref ><session thread='secret' save='false'/></pref>")
    assert not await said("a", "secret")
    assert await said("b", "open")
    await call(romeo, "set", "<pref ><default save='false'/><session thread='open' save='body'/></pref>")
    assert await said("c", "open")
    assert not await said("d", "other")
    threads = [el.get("thread") for el in (await call(romeo, "get", "<pref />")).iterfind(tag("session"))]
    assert threads == ["secret", "open"]
    await call(romeo, "set", "<sessionremove ><session thread='open'/></sessionremove>")
    assert not await said("e", "open")
    await romeo.close()
    romeo = await world.login("romeo@example.org/r")
    assert (await call(romeo, "get", "<pref />")).find(tag("session")) is None


async def test_it_can_be_switched_off_and_is_announced_otherwise(world: World) -> None:
    disco = "<iq type='get' id='d' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
    romeo = await world.login("romeo@example.org/r")
    assert romeo.features is not None
    assert romeo.features.find(f"{tag('feature')}/{tag('default')}") is not None
    assert f"{NS}:manage" in {el.get("var") for el in (await romeo.iq(disco))[0]}
    async with World(settings={"modules": {"mam": {"legacy": False}}}) as modern:
        romeo = await modern.login("romeo@example.org/r")
        assert romeo.features is not None
        assert romeo.features.find(tag("feature")) is None
        assert f"{NS}:manage" not in {el.get("var") for el in (await romeo.iq(disco))[0]}
        assert condition(await call(romeo, "get", "<list />", "error")) == "service-unavailable"


async def test_preferences_that_are_chosen_at_the_same_time_are_all_kept(world: World) -> None:
    phone = await world.login("romeo@example.org/phone")
    laptop = await world.login("romeo@example.org/laptop")
    third = await world.login("romeo@example.org/third")
    with world.db.held():
        for client, inner in (
            (phone, "<item jid='nurse@example.org' save='body' otr='concede'/>"),
            (laptop, "<item jid='juliet@example.org' save='false' otr='concede'/>"),
            (third, "<default save='body' otr='concede'/>"),
        ):
            client.send(f"<iq type='set' id='p'><pref xmlns='{NS}'>{inner}</pref></iq>")
        await world.settle()
    for client in (phone, laptop, third):
        await client.expect("<iq type='result' id='p'/>")
    kept = await call(phone, "get", "<pref />")
    assert {el.get("jid") for el in kept.iterfind(tag("item"))} == {"nurse@example.org", "juliet@example.org"}
    default = kept.find(tag("default"))
    assert default is not None and default.get("save") == "body"


async def test_anonymous_users_leave_no_preferences_behind() -> None:
    async with World(settings={"c2s": {"anonymous": True}}) as world:
        guest = await world.guest()
        assert condition(await call(guest, "set", "<pref ><default save='false' otr='concede'/></pref>", "error")) == (
            "not-allowed"
        )
        answer = await guest.iq("<iq type='set' id='p'><prefs xmlns='urn:xmpp:mam:2' default='never'/></iq>", "error")
        assert answer.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}not-allowed") is not None
        assert await world.db.fetch("SELECT 1 FROM mam_prefs") == []
