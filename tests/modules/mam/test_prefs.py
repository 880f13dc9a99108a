"""XEP-0441: whose messages are archived."""

from __future__ import annotations

import pytest
from tests.modules.mam.play import ask

from beamish.modules.mam.prefs import MAX_LISTED, Prefs
from beamish.storage.memory import MemoryDatabase
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID


@pytest.mark.parametrize(
    ("mode", "always", "never", "contact", "verdict"),
    [
        ("always", "", "", "a@x/r", True),
        ("never", "", "", "a@x/r", False),
        ("roster", "", "", "a@x/r", None),
        ("always", "", "a@x", "a@x/r", False),
        ("never", "a@x", "", "a@x/r", True),
        ("roster", "a@x", "", "a@x/r", True),
        ("never", "a@x/r", "", "a@x/s", False),
        ("never", "a@x/r", "a@x", "a@x/r", True),
        ("always", "a@x", "a@x/r", "a@x/r", False),
        ("always", "a@x", "a@x", "a@x", False),
        ("always", "", "x", "a@x", True),
    ],
)
def test_verdicts(mode: str, always: str, never: str, contact: str, verdict: bool | None) -> None:
    prefs = Prefs(mode, frozenset(always.split()), frozenset(never.split()))  # type: ignore[arg-type]
    assert prefs.verdict(JID.parse(contact)) is verdict
    assert prefs.everything is (mode == "always" and not never)


def test_lists_are_bounded() -> None:
    with pytest.raises(StanzaError):
        Prefs().with_lists("always", (f"a{n}@x" for n in range(MAX_LISTED)), ("b@x",))


async def set_prefs(client: Client, default: str, always: str = "", never: str = "", type: str = "result") -> str:
    lists = "".join(
        f"<{tag}>{''.join(f'<jid>{jid}</jid>' for jid in jids.split())}</{tag}>"
        for tag, jids in (("always", always), ("never", never))
    )
    xml = f"<iq type='set' id='p'><prefs xmlns='urn:xmpp:mam:2' default='{default}'>{lists}</prefs></iq>"
    answer = await client.iq(xml, type=type)
    if type == "error":
        return str(answer.find("{*}error")[0].tag).rpartition("}")[2]  # type: ignore[index]
    return answer[0].get("default", "")


async def test_the_default_and_what_is_set() -> None:
    database = MemoryDatabase()
    async with World(database=database, settings={"modules": {"mam": {"default": "roster"}}}) as world:
        romeo = await world.login("romeo@example.org/r")
        answer = await romeo.iq("<iq type='get' id='p'><prefs xmlns='urn:xmpp:mam:2'/></iq>")
        assert answer[0].get("default") == "roster"
        assert [el.tag for el in answer[0]] == ["{urn:xmpp:mam:2}always", "{urn:xmpp:mam:2}never"]
        await set_prefs(romeo, "never", always="Juliet@Example.org nurse@example.org", never="x.example")
        assert await set_prefs(romeo, "sometimes", type="error") == "bad-request"
        assert await set_prefs(romeo, "always", never="@", type="error") == "jid-malformed"
    async with World(database=database) as world:
        romeo = await world.login("romeo@example.org/r")
        answer = await romeo.iq("<iq type='get' id='p'><prefs xmlns='urn:xmpp:mam:2'/></iq>")
        assert answer[0].get("default") == "never"
        assert [el.text for el in answer.iter("{urn:xmpp:mam:2}jid")] == [
            "juliet@example.org",
            "nurse@example.org",
            "x.example",
        ]
        # read from the database by the first message, in both directions
        romeo.send("<message to='juliet@example.org' type='chat'><body>kept</body></message>")
        romeo.send("<message to='mercutio@example.org' type='chat'><body>not kept</body></message>")
        nurse = await world.login("nurse@example.org/n")
        nurse.send("<message to='romeo@example.org' type='chat'><body>kept too</body></message>")
        await world.settle()
        assert (await ask(romeo)).bodies == ["kept", "kept too"]
        mercutio = await world.login("mercutio@example.org/m")
        assert (await ask(mercutio)).bodies == ["not kept"]
    await database.close()


async def test_roster_looks_into_the_roster_loaded_or_not(world: World) -> None:
    romeo = await world.login("romeo@example.org/r", roster=True)
    await set_prefs(romeo, "roster")
    await romeo.iq(
        "<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='juliet@example.org'/></query></iq>"
    )
    senders = [await world.login(f"{who}@example.org/x") for who in ("juliet", "mercutio")]
    for present in (True, False):
        if not present:
            await romeo.close()
        for client in senders:
            client.send(
                f"<message to='romeo@example.org' type='chat'><body>{client.jid.local} {present}</body></message>"
            )
        await world.settle()
    romeo = await world.login("romeo@example.org/r")
    romeo.send("<message to='juliet@example.org' type='chat'><body>mine</body></message>")
    romeo.send("<message to='nurse@example.org' type='chat'><body>no</body></message>")
    assert (await ask(romeo)).bodies == ["juliet True", "juliet False", "mine"]


async def test_the_other_side_archives_all_the_same(world: World) -> None:
    romeo = await world.login("romeo@example.org/r", presence=True)
    juliet = await world.login("juliet@example.org/b", presence=True)
    await set_prefs(juliet, "always", never="romeo@example.org")
    romeo.send("<message to='juliet@example.org' type='chat'><body>x</body></message>")
    live = await juliet.receive()
    assert live.find("{urn:xmpp:sid:0}stanza-id") is None
    assert (await ask(juliet)).bodies == []
    assert (await ask(romeo)).bodies == ["x"]
