"""XEP-0012 through a whole server."""

from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.jid import JID

LAST = "{jabber:iq:last}query"


async def last(client: Client, to: str) -> tuple[int, str]:
    """Seconds and status."""
    at = f" to='{to}'" if to else ""
    got = await client.iq(f"<iq type='get' id='l'{at}><query xmlns='jabber:iq:last'/></iq>")
    query = got.find(LAST)
    assert query is not None
    return int(query.get("seconds", "")), query.text or ""


async def condition(client: Client, to: str) -> str:
    """The error one gets."""
    got = await client.iq(f"<iq type='get' id='l' to='{to}'><query xmlns='jabber:iq:last'/></iq>", type="error")
    error = got.find("{jabber:client}error")
    assert error is not None
    return str(error[0].tag).rpartition("}")[2]


async def test_the_server_tells_how_long_it_has_been_up(world: World) -> None:
    await world.pass_time(100)
    romeo = await world.login("romeo@example.org/orchard")
    assert await last(romeo, "example.org") == (100, "")


async def test_example_of_section_3_a_user_who_left_with_words(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    await world.befriend(juliet, romeo)
    assert await last(romeo, "juliet@example.org") == (0, "")
    juliet.send("<presence type='unavailable'><status>Heading Home</status></presence>")
    await world.pass_time(90)
    assert await last(romeo, "juliet@example.org") == (90, "Heading Home")
    assert await last(juliet, "") == (90, "Heading Home")


async def test_the_last_of_several_sessions_counts(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    phone = await world.login("juliet@example.org/phone", presence=True)
    phone.send("<presence type='unavailable'><status>low battery</status></presence>")
    await world.pass_time(30)
    assert await last(juliet, "") == (0, "")
    juliet.drop()
    await world.pass_time(20)
    assert await last(phone, "juliet@example.org") == (20, "")


async def test_strangers_learn_nothing(world: World) -> None:
    await world.login("juliet@example.org/balcony", presence=True)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    assert await condition(romeo, "juliet@example.org") == "forbidden"
    assert await condition(romeo, "nobody@example.org") == "forbidden"


async def test_nobody_asks_a_client_who_may_not_know_of_it(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    for there_or_not in ("juliet@example.org/balcony", "juliet@example.org/garden", "nobody@example.org/x"):
        assert await condition(romeo, there_or_not) == "forbidden"
    await juliet.expect_nothing()
    await world.befriend(juliet, romeo)
    romeo.send("<iq type='get' id='l' to='juliet@example.org/balcony'><query xmlns='jabber:iq:last'/></iq>")
    await juliet.expect("<iq type='get' id='l' from='romeo@example.org/orchard'><query xmlns='jabber:iq:last'/></iq>")
    assert await condition(romeo, "juliet@example.org/garden") == "service-unavailable"
    phone = await world.login("juliet@example.org/phone")
    phone.send("<iq type='get' id='l' to='juliet@example.org/balcony'><query xmlns='jabber:iq:last'/></iq>")
    await juliet.expect("<iq type='get' id='l' from='juliet@example.org/phone'/>")


async def test_it_outlives_a_restart_but_not_the_account() -> None:
    database = MemoryDatabase()
    async with World(database=database) as world:
        await world.login("juliet@example.org/balcony", presence=True)
    async with World(database=database) as world:
        juliet = await world.login("juliet@example.org/balcony")
        seconds, _ = await last(juliet, "")
        assert seconds >= 0
        from beamish.core.services import AccountsService

        await world.kernel.service(AccountsService).remove(JID.parse("juliet@example.org"))
        assert await world.db.fetch("SELECT * FROM last_activity WHERE owner = 'juliet@example.org'") == []
    await database.close()


async def test_somebody_who_was_never_there(world: World) -> None:
    juliet = await world.login("juliet@example.org/balcony")
    assert await condition(juliet, "juliet@example.org") == "item-not-found"
