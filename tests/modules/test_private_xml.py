"""XEP-0049 through a whole server, and bookmarks with and without personal eventing."""

from typing import Any

import pytest

from beamish.core.registry import discover
from beamish.core.services import AccountsService, PepService
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.match import condition, mismatch
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

PREFS = "<exodus xmlns='exodus:prefs'><defaultnick>Hamlet</defaultnick></exodus>"
STORAGE = (
    "<storage xmlns='storage:bookmarks'><conference jid='verona@conference.example.org' name='Verona' autojoin='true'>"
    "<nick>JC</nick></conference><url name='The play' url='https://example.org/play'/></storage>"
)
ROMEO = JID.parse("romeo@example.org")


def private(inner: str) -> str:
    """A query."""
    return f"<query xmlns='jabber:iq:private'>{inner}</query>"


async def store(client: Client, inner: str, type: str = "result", to: str = "") -> Element:
    """Set."""
    return await client.iq(f"<iq type='set' id='s'{to}>{private(inner)}</iq>", type=type)


async def fetch(client: Client, inner: str, type: str = "result") -> Element:
    """Get."""
    return await client.iq(f"<iq type='get' id='g'>{private(inner)}</iq>", type=type)


async def test_example_1_and_2_store_and_retrieve(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    await store(romeo, PREFS)
    got = await fetch(romeo, "<exodus xmlns='exodus:prefs'/>")
    assert not mismatch(f"<iq type='result'>{private(PREFS)}</iq>", got)
    await store(romeo, "<exodus xmlns='exodus:prefs'/>")
    got = await fetch(romeo, "<exodus xmlns='exodus:prefs'/>")
    assert got.find(".//{exodus:prefs}defaultnick") is None


async def test_what_was_never_stored_is_empty(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    got = await fetch(romeo, "<a xmlns='urn:example:a'/>")
    el = got.find(".//{urn:example:a}a")
    assert el is not None and len(el) == 0 and not el.text


async def test_names_and_namespaces_are_kept_apart(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    await store(romeo, "<a xmlns='urn:x'>1</a><a xmlns='urn:y'>2</a><b xmlns='urn:x'>3</b>")
    for inner, text in (("<a xmlns='urn:x'/>", "1"), ("<a xmlns='urn:y'/>", "2"), ("<b xmlns='urn:x'/>", "3")):
        got = await fetch(romeo, inner)
        query = got.find("{jabber:iq:private}query")
        assert query is not None and [el.text for el in query] == [text]


async def test_example_3_nobody_gets_at_what_is_anothers(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    for address in ("juliet@example.org", "nobody@example.org"):
        assert condition(await store(romeo, PREFS, "error", f" to='{address}'")) == "forbidden"


@pytest.mark.parametrize("inner", ["", "<a xmlns='urn:x'/><b xmlns='urn:x'/>"])
async def test_example_4_one_element_is_asked_for(world: World, inner: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    assert condition(await fetch(romeo, inner, "error")) == "bad-request"


@pytest.mark.parametrize("inner", ["", "<a/>", "<a xmlns=''/>", "<a xmlns='jabber:client'/>"])
async def test_nothing_or_something_without_a_namespace_is_not_stored(world: World, inner: str) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    assert condition(await store(romeo, inner, "error")) == "not-acceptable"


async def test_limits() -> None:
    async with World(settings={"modules": {"private_xml": {"max_bytes": 2000, "max_elements": 2}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        assert condition(await store(romeo, f"<a xmlns='urn:x'>{'x' * 2000}</a>", "error")) == "policy-violation"
        await store(romeo, "<a xmlns='urn:x'/><b xmlns='urn:x'/>")
        assert condition(await store(romeo, "<c xmlns='urn:x'/>", "error")) == "resource-constraint"
        assert (await fetch(romeo, "<c xmlns='urn:x'/>")) is not None
        await store(romeo, "<a xmlns='urn:x'>again</a>")


async def test_it_outlives_a_restart_but_not_the_account() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        await store(await world.login("romeo@example.org/orchard"), PREFS)
    async with World(database=database) as world:
        got = await fetch(await world.login("romeo@example.org/orchard"), "<exodus xmlns='exodus:prefs'/>")
        assert got.findtext(".//{exodus:prefs}defaultnick") == "Hamlet"
        await world.kernel.service(AccountsService).remove(ROMEO)
        assert await world.db.fetch("SELECT * FROM private_xml") == []
    await database.close()


# ---- bookmarks ------------------------------------------------------------------------------------------------------


async def test_bookmarks_are_those_of_personal_eventing(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    await store(romeo, STORAGE)
    assert await world.db.fetch("SELECT * FROM private_xml") == []
    pep = world.kernel.service(PepService)
    native = await pep.items(ROMEO, "urn:xmpp:bookmarks:1")
    assert list(native) == ["verona@conference.example.org"]
    assert not mismatch(
        f"<iq type='result'>{private(STORAGE)}</iq>", await fetch(romeo, "<storage xmlns='storage:bookmarks'/>")
    )
    # a newer client adds one
    conference = b"<conference xmlns='urn:xmpp:bookmarks:1' name='Mantua'/>"
    await pep.publish(ROMEO, "urn:xmpp:bookmarks:1", {"mantua@conference.example.org": conference})
    got = await fetch(romeo, "<storage xmlns='storage:bookmarks'/>")
    names = [el.get("name") for el in got.iter("{storage:bookmarks}conference")]
    assert sorted(map(str, names)) == ["Mantua", "Verona"]
    info = await romeo.iq("<iq type='get' id='i'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
    assert any(f.get("var") == "urn:xmpp:bookmarks-conversion:0" for f in info.iter())


async def test_bookmarks_from_before_are_found_until_they_are_changed() -> None:
    database = MemoryDatabase()
    without = [cls for cls in discover() if cls.name != "pubsub"]
    async with World(database=database, modules=[c for c in without if c.default]) as world:
        romeo = await world.login("romeo@example.org/orchard")
        await store(romeo, STORAGE)
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/orchard")
        got = await fetch(romeo, "<storage xmlns='storage:bookmarks'/>")
        assert not mismatch(f"<iq type='result'>{private(STORAGE)}</iq>", got)
        # they have moved, so that clients of both kinds find them
        native = await world.kernel.service(PepService).items(ROMEO, "urn:xmpp:bookmarks:1")
        assert list(native) == ["verona@conference.example.org"]
        assert await world.db.fetch("SELECT * FROM private_xml") == []
        await store(romeo, STORAGE.replace("Verona", "Padua"))
        assert await world.db.fetch("SELECT * FROM private_xml") == []
        got = await fetch(romeo, "<storage xmlns='storage:bookmarks'/>")
        assert [el.get("name") for el in got.iter("{storage:bookmarks}conference")] == ["Padua"]
    await database.close()


async def test_bookmarks_and_the_rest_of_a_request_are_stored_together_or_not_at_all() -> None:
    async with World(settings={"modules": {"private_xml": {"max_elements": 1}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        both = f"{STORAGE}<one xmlns='urn:one'/>"
        two = f"{both}<two xmlns='urn:two'/>"
        refused = await romeo.iq(f"<iq type='set' id='p'>{private(two)}</iq>", type="error")
        assert refused.find(".//{*}resource-constraint") is not None
        pep = world.kernel.service(PepService)
        assert await pep.items(ROMEO, "storage:bookmarks") == {} == await pep.items(ROMEO, "urn:xmpp:bookmarks:1")
        assert await world.db.fetch("SELECT * FROM private_xml") == []
        await romeo.iq(f"<iq type='set' id='p'>{private(both)}</iq>")
        assert list(await pep.items(ROMEO, "urn:xmpp:bookmarks:1")) == ["verona@conference.example.org"]
        assert await world.db.fetch("SELECT tag FROM private_xml") == [("{urn:one}one",)]


async def test_a_crash_loses_no_bookmark_that_was_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each of the commits of a change, what was there before or what is there now is found in both forms."""
    async with World() as world:
        romeo = await world.login("romeo@example.org/orchard")
        await store(romeo, STORAGE)
        db = world.db
        assert isinstance(db, MemoryDatabase)
        write, left = db.write, list[MemoryDatabase]()

        async def watched(name: str, fn: Any) -> Any:
            result = await write(name, fn)
            left.append(db.copy())
            return result

        with monkeypatch.context() as patch:
            patch.setattr(db, "write", watched)
            padua = STORAGE.replace("Verona", "Padua")
            await store(romeo, padua.replace("</storage>", "<conference jid='x@y.example' name='X'/></storage>"))
    assert len(left) >= 3
    for crashed in left:
        async with World(database=crashed) as world:
            romeo = await world.login("romeo@example.org/orchard")
            names = {el.get("name") for el in (await fetch(romeo, "<storage xmlns='storage:bookmarks'/>")).iter()}
            assert names & {"Verona", "Padua"}
            pep = world.kernel.service(PepService)
            assert "verona@conference.example.org" in await pep.items(ROMEO, "urn:xmpp:bookmarks:1")
            # the client, which got no answer, tries again
            await store(romeo, STORAGE.replace("Verona", "Mantua"))
            (item,) = (await pep.items(ROMEO, "urn:xmpp:bookmarks:1")).values()
            assert b"Mantua" in item
        await crashed.close()


async def test_nothing_private_goes_into_a_node_that_others_read(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    pep = world.kernel.service(PepService)
    await pep.publish(
        ROMEO, "storage:bookmarks", {"current": b"<storage xmlns='storage:bookmarks'/>"}, {"access_model": "open"}
    )
    await store(romeo, STORAGE)
    assert b"Verona" not in (await pep.items(ROMEO, "storage:bookmarks"))["current"]
    got = await fetch(romeo, "<storage xmlns='storage:bookmarks'/>")
    assert not mismatch(f"<iq type='result'>{private(STORAGE)}</iq>", got)


async def test_two_lists_of_bookmarks_in_one_request_are_refused_and_not_lost(world: World) -> None:
    """An item of a node holds one list: with two in it nobody could read it, and the answer would have been a promise."""
    romeo = await world.login("romeo@example.org/orchard")
    await store(romeo, STORAGE)
    twice = await store(romeo, "<storage xmlns='storage:bookmarks'/>" + STORAGE, "error")
    assert condition(twice) == "bad-request"
    kept = await fetch(romeo, "<storage xmlns='storage:bookmarks'/>")
    assert kept.find(".//{storage:bookmarks}conference") is not None
