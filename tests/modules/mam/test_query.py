"""Queries of XEP-0313: filters, pages, errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.modules.mam.play import ask, refused

from beamish.testing.client import Client
from beamish.testing.world import World

FULLTEXT = "{urn:xmpp:fulltext:0}fulltext"
TEN = [str(n) for n in range(10)]


@pytest_asyncio.fixture(params=["fresh", "indexed", "half"])
async def juliet(world: World, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """Ten messages a second apart, in turn from romeo and mercutio, not indexed, indexed, or the first half of them."""
    senders = [await world.login(f"{who}@example.org/r", presence=True) for who in ("romeo", "mercutio")]
    reader = await world.login("juliet@example.org/balcony", presence=True)
    for n in range(10):
        senders[n % 2].send(f"<message to='juliet@example.org' type='chat' id='{n}'><body>{n}</body></message>")
        await world.settle()
        if request.param == "half" and n == 4:
            await world.kernel.commands.run("mam.usage", {"jid": "juliet@example.org"})
        world.clock.advance(0.9)
        await world.settle()
    if request.param == "indexed":
        await world.kernel.commands.run("mam.usage", {"jid": "juliet@example.org"})
    reader.inbox.clear()
    yield reader


async def test_pages_forwards(juliet: Client) -> None:
    page = await ask(juliet, rsm="<max>4</max>")
    assert (page.bodies, page.complete, page.rsm("count"), page.index) == (TEN[:4], False, "10", "0")
    assert page.rsm("first") == page.ids[0]
    assert page.rsm("last") == page.ids[-1]
    page = await ask(juliet, rsm=f"<max>4</max><after>{page.ids[-1]}</after>")
    assert (page.bodies, page.complete, page.rsm("count"), page.index) == (TEN[4:8], False, "10", "4")
    page = await ask(juliet, rsm=f"<max>4</max><after>{page.ids[-1]}</after>")
    assert (page.bodies, page.complete, page.rsm("count"), page.index) == (TEN[8:], True, "10", "8")
    page = await ask(juliet, rsm=f"<max>4</max><after>{page.ids[-1]}</after>")
    assert (page.bodies, page.complete, page.rsm("count"), page.rsm("first")) == ([], True, "10", None)


async def test_pages_backwards_are_in_order_and_can_be_flipped(juliet: Client) -> None:
    page = await ask(juliet, rsm="<max>4</max><before/>")
    assert (page.bodies, page.complete, page.index) == (TEN[6:], False, None)
    page = await ask(juliet, rsm=f"<max>4</max><before>{page.ids[0]}</before>", extra="<flip-page/>")
    assert (page.bodies, page.complete, page.index) == (TEN[5:1:-1], False, None)
    assert (page.rsm("first"), page.rsm("last")) == (page.ids[-1], page.ids[0])
    page = await ask(juliet, rsm=f"<max>4</max><before>{page.rsm('first')}</before>")
    assert (page.bodies, page.complete) == (TEN[:2], True)


async def test_exactly_a_page_is_complete(juliet: Client) -> None:
    assert (await ask(juliet, rsm="<max>10</max>")).complete
    assert not (await ask(juliet, rsm="<max>9</max>")).complete
    assert (await ask(juliet, rsm="<max>10</max><before/>")).complete


async def test_count_alone_and_pages_by_number(juliet: Client) -> None:
    page = await ask(juliet, rsm="<max>0</max>")
    assert (page.ids, page.rsm("count")) == ([], "10")
    page = await ask(juliet, rsm="<max>3</max><index>5</index>")
    assert (page.bodies, page.index, page.rsm("count")) == (TEN[5:8], "5", "10")
    assert await refused(juliet, rsm="<max>3</max><index>5000000</index>") == "feature-not-implemented"


async def test_with(juliet: Client) -> None:
    page = await ask(juliet, {"with": "romeo@example.org"}, "<max>2</max>")
    assert (page.bodies, page.rsm("count"), page.complete) == (["0", "2"], "5", False)
    page = await ask(juliet, {"with": "romeo@example.org"}, f"<max>2</max><after>{page.ids[1]}</after>")
    assert (page.bodies, page.rsm("count"), page.index) == (["4", "6"], "5", "2")
    page = await ask(juliet, {"with": "mercutio@example.org/r"}, "<before/>")
    assert page.bodies == TEN[1::2]
    assert page.rsm("count") == "5"
    for nobody in ("mercutio@example.org/other", "nurse@example.org", "example.org"):
        page = await ask(juliet, {"with": nobody})
        assert (page.ids, page.complete, page.rsm("count")) == ([], True, "0")


async def test_start_and_end_include_what_they_name(juliet: Client) -> None:
    whole = await ask(juliet)
    stamps = [r.find("{*}forwarded/{*}delay").get("stamp", "") for r in whole.results]  # type: ignore[union-attr]
    page = await ask(juliet, {"start": stamps[3], "end": stamps[6]})
    assert (page.bodies, page.rsm("count")) == (TEN[3:7], "4")
    page = await ask(juliet, {"start": stamps[3], "with": "romeo@example.org"}, "<max>1</max>")
    assert (page.bodies, page.rsm("count")) == (["4"], "3")
    assert (await ask(juliet, {"end": "1999-01-01T00:00:00Z"})).ids == []
    assert (await ask(juliet, {"start": "2010-06-07T00:00:00+02:00"})).bodies == TEN
    for bad in ("yesterday", "2010-06-07T00:00:00"):
        assert await refused(juliet, {"start": bad}) == "bad-request"


async def test_before_id_and_after_id_are_bounds_of_the_result_set(juliet: Client) -> None:
    ids = (await ask(juliet)).ids
    page = await ask(juliet, {"after-id": ids[2], "before-id": ids[7]}, "<max>2</max>")
    assert (page.bodies, page.rsm("count"), page.index) == (["3", "4"], "4", "0")
    page = await ask(juliet, {"after-id": ids[2], "before-id": ids[7]}, f"<max>9</max><after>{ids[4]}</after>")
    assert (page.bodies, page.rsm("count"), page.complete) == (["5", "6"], "4", True)
    page = await ask(juliet, {"before-id": ids[7]}, "<max>2</max><before/>")
    assert page.bodies == ["5", "6"]


async def test_ids(juliet: Client) -> None:
    ids = (await ask(juliet)).ids
    page = await ask(juliet, {"ids": [ids[6], ids[1], ids[6]]})
    assert (page.bodies, page.complete) == (["1", "6"], True)
    assert await refused(juliet, {"ids": [ids[0], "nonsense"]}) == "item-not-found"


async def test_what_else_is_asked_for_holds_for_ids_as_well(juliet: Client) -> None:
    ids = (await ask(juliet)).ids
    half = [ids[n] for n in (1, 2, 5, 8)]

    async def asked(fields: dict[str, Any], rsm: str = "", extra: str = "") -> tuple[list[str], bool, str | None]:
        page = await ask(juliet, {"ids": half, **fields}, rsm, extra=extra)
        return page.bodies, page.complete, page.rsm("count")

    assert await asked({}) == (["1", "2", "5", "8"], True, "4")
    others = [await asked({"with": who}) for who in ("romeo@example.org", "mercutio@example.org", "nobody@example.org")]
    whole = [(await ask(juliet, {"with": who})).bodies for who in ("romeo@example.org", "mercutio@example.org")]
    assert [bodies for bodies, *_ in others] == [[b for b in bodies if b in "1258"] for bodies in (*whole, [])]
    assert others[0][0] != ["1", "2", "5", "8"]
    assert await asked({"after-id": ids[1], "before-id": ids[8]}) == (["2", "5"], True, "2")
    assert await asked({"end": "1999-01-01T00:00:00Z"}) == ([], True, "0")
    assert await asked({FULLTEXT: "5"}) == (["5"], True, "1")
    assert await asked({}, "<max>3</max>") == (["1", "2", "5"], False, "4")
    assert await asked({}, f"<max>3</max><after>{ids[2]}</after>") == (["5", "8"], True, "4")
    assert await asked({}, "<max>3</max><before/>", "<flip-page/>") == (["8", "5", "2"], False, "4")
    assert await asked({}, f"<before>{ids[3]}</before>") == (["1", "2"], True, "4")
    assert await asked({}, "<max>1</max><index>2</index>") == (["5"], False, "4")
    assert (await asked({}, "<max>0</max>"))[::2] == ([], "4")


async def test_ids_that_are_not_in_the_archive(world: World, juliet: Client) -> None:
    romeo = await world.login("romeo@example.org/x")
    theirs = (await ask(romeo)).ids[0]
    mine = (await ask(juliet)).ids[0]
    salted = mine[:-1] + ("0" if mine[-1] != "0" else "1")
    for unknown in (theirs, salted, "x", "0" * 24, "9" * 400):
        for var in ("before-id", "after-id", "ids"):
            assert await refused(juliet, {var: unknown}) == "item-not-found"
        for place in ("before", "after"):
            assert await refused(juliet, rsm=f"<{place}>{unknown}</{place}>") == "item-not-found"


async def test_fulltext(world: World, juliet: Client) -> None:
    romeo = await world.login("romeo@example.org/x")
    for text in ("Où est le café, Müller?", "the CAFE is closed", "caf&#233;s are open", 'say "quiet night" now'):
        romeo.send(f"<message to='juliet@example.org' type='chat'><body>{text}</body></message>")
    await world.settle()
    juliet.inbox.clear()

    async def found(text: str, **fields: str) -> list[str | None]:
        page = await ask(juliet, {FULLTEXT: text} | fields)  # type: ignore[arg-type]
        assert page.rsm("count") == str(len(page.ids))
        return page.bodies

    assert await found("cafe") == ["Où est le café, Müller?", "the CAFE is closed"]
    assert await found("muller cafe") == ["Où est le café, Müller?"]
    assert await found("closed", **{"with": "romeo@example.org"}) == ["the CAFE is closed"]
    assert await found("closed", **{"with": "mercutio@example.org"}) == []
    assert await found('"quiet night"') == ['say "quiet night" now']
    assert await found('"night quiet"') == []
    assert await found("7") == ["7"]
    for hostile in ('"', "cafe OR closed", "body : cafe", "NEAR(a b)", "a1", "cafe*", "-", "(((", "^cafe"):
        await found(hostile)
    assert await found("a1") == []  # the word that stands for an account is no word of a message
    page = await ask(juliet, {FULLTEXT: "cafe"}, "<max>1</max><before/>")
    assert (page.bodies, page.complete) == (["the CAFE is closed"], False)
    assert (await ask(romeo, {FULLTEXT: "7"})).ids == []


async def test_the_form_names_every_field_and_unknown_ones_are_refused(juliet: Client) -> None:
    answer = await juliet.iq("<iq type='get' id='f'><query xmlns='urn:xmpp:mam:2'/></iq>")
    fields = {el.get("var"): el for el in answer.iter("{jabber:x:data}field")}
    assert set(fields) == {
        "FORM_TYPE",
        "with",
        "start",
        "end",
        "before-id",
        "after-id",
        "ids",
        "include-groupchat",
        FULLTEXT,
    }
    assert fields["ids"].find("{*}validate/{*}open") is not None
    assert not any(el.find("{*}required") is not None for el in fields.values())
    assert await refused(juliet, {"colour": "red"}) == "feature-not-implemented"
    assert await refused(juliet, {"include-groupchat": "perhaps"}) == "not-acceptable"
    assert (await ask(juliet, {"include-groupchat": "false"})).bodies == TEN


async def test_metadata(world: World, juliet: Client) -> None:
    ids = (await ask(juliet)).ids
    answer = await juliet.iq("<iq type='get' id='m'><metadata xmlns='urn:xmpp:mam:2'/></iq>")
    ends = answer[0]
    assert [(el.tag, el.get("id")) for el in ends] == [
        ("{urn:xmpp:mam:2}start", ids[0]),
        ("{urn:xmpp:mam:2}end", ids[-1]),
    ]
    assert all(el.get("timestamp", "").endswith("Z") for el in ends)
    nurse = await world.login("nurse@example.org/x")
    answer = await nurse.iq("<iq type='get' id='m'><metadata xmlns='urn:xmpp:mam:2'/></iq>")
    assert len(answer[0]) == 0


async def test_pages_are_bounded(world: World) -> None:
    async with World(settings={"modules": {"mam": {"page": 3, "max_page": 5}}}) as small:
        romeo = await small.login("romeo@example.org/r")
        for n in range(8):
            romeo.send(f"<message to='juliet@example.org' type='chat'><body>{n}</body></message>")
        assert len((await ask(romeo)).ids) == 3
        assert len((await ask(romeo, rsm="<max>100</max>")).ids) == 5
