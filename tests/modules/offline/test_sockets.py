"""Offline messages on real sockets and a real file: restarts, several pages, and a disk that is full."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from tests.disk import room_for, room_for_all
from tests.modules.offline.kit import JULIET, say

from beamish.testing.client import Client
from beamish.testing.live import LiveServer
from beamish.testing.plugin import ExpectedErrors

SM: Final = "urn:xmpp:sm:3"
QUESTION: Final = "{jabber:iq:version}query"
BODY: Final = "{jabber:client}body"
UNLIMITED: Final[dict[str, Any]] = {
    "stanzas_per_second": 1_000_000,
    "stanza_burst": 1_000_000,
    "bytes_per_second": 1_000_000_000,
    "bytes_burst": 1_000_000_000,
}


def settings(**modules: Any) -> dict[str, Any]:
    return {"limits": UNLIMITED, "modules": {"disable": ["mam"], **modules}}


async def refused(client: Client) -> list[str]:
    """The ids of what the server has sent back, once it has dealt with everything."""
    seen = []
    while (got := await client.receive()).get("id") != "told":
        if got.get("type") == "error":
            seen.append(got.get("id") or "")
    return seen


async def hear(client: Client, until: str) -> list[str]:
    """Take messages and answer the server's questions, until a stanza with this id has come; texts but the client's own."""
    seen = []
    while True:
        got = await client.receive()
        if got.find(QUESTION) is not None:
            client.send(f"<iq type='result' id='{got.get('id')}' to='{got.get('from')}'/>")
        text = got.findtext(BODY)
        if text is not None and got.get("from") != client.jid:
            assert got.find("{urn:xmpp:delay}delay") is not None
            seen.append(text)
        if got.get("id") == until:
            return seen


async def everything(client: Client) -> list[str]:
    """Become available, take all that is stored and prove it; what the client says to itself comes behind it."""
    client.send(f"<presence/><message to='{client.jid}' type='chat' id='last'><body>last</body></message>")
    seen = await hear(client, "last")
    for id_ in ("heard1", "heard2"):  # the server has asked, and heard the answer
        client.send(f"<iq type='get' id='{id_}'><ping xmlns='urn:xmpp:ping'/></iq>")
        seen += await hear(client, id_)
    return seen


async def test_many_come_in_order_over_pages_and_a_restart_with_new_ones_behind(tmp_path: Path) -> None:
    numbers = [str(number) for number in range(450)]
    async with LiveServer(settings=settings(), directory=tmp_path) as server:
        romeo = await server.client("romeo@example.org/orchard")
        for number in numbers[:430]:
            say(romeo, number)
        await romeo.iq("<iq type='get' id='sent'><ping xmlns='urn:xmpp:ping'/></iq>")
    async with LiveServer(settings=settings(), directory=tmp_path) as server:
        juliet = await server.client("juliet@example.org/one")
        juliet.send("<presence/>")
        seen = []
        while True:  # the first page, and no proof of it
            got = await juliet.receive()
            if got.find(QUESTION) is not None:
                break
            if (text := got.findtext(BODY)) is not None:
                seen.append(text)
        assert seen == numbers[:200]
        romeo = await server.client("romeo@example.org/orchard")
        for number in numbers[430:]:
            say(romeo, number)
        await romeo.iq("<iq type='get' id='sent'><ping xmlns='urn:xmpp:ping'/></iq>")
        juliet.drop()
        again = await server.client("juliet@example.org/two")
        assert await everything(again) == numbers
        await again.close()
        assert await everything(await server.client("juliet@example.org/three")) == []


@pytest.mark.parametrize("managed", [True, False])
async def test_a_full_disk_is_said_to_the_sender_and_what_was_not_refused_is_there(
    tmp_path: Path, expected_errors: ExpectedErrors, managed: bool
) -> None:
    """Nothing in between: of whatever no error comes back is in the store."""
    expected_errors.add("offline_message_not_stored")
    expected_errors.add("rows_not_stored_yet")  # the errors, which are messages themselves
    expected_errors.add("sessions_not_stored")  # and so nothing is acknowledged either
    disable = [] if managed else ["sm"]
    async with LiveServer(settings=settings(disable=["mam", *disable]), directory=tmp_path) as server:
        romeo = await server.client("romeo@example.org/orchard")
        if managed:
            romeo.send(f"<enable xmlns='{SM}'/>")
            await romeo.expect(f"<enabled xmlns='{SM}'/>")
        say(romeo, "first")
        db = server.kernel.db
        await db.flushed()
        await room_for(db, 8)
        sent = ["first"]
        for number in range(40):
            sent.append(f"{number} {'x' * 3_000}")
            say(romeo, sent[-1], id=str(number))
        if managed:
            romeo.send(f"<r xmlns='{SM}'/>")
        await romeo.iq("<iq type='get' id='sent'><ping xmlns='urn:xmpp:ping'/></iq>")
        await db.flushed()
        romeo.send("<iq type='get' id='told'><ping xmlns='urn:xmpp:ping'/></iq>")
        back = await refused(romeo)
        assert back, "the disk was not full"
        kept = [text for text in sent if text.split()[0] not in back]
        await room_for_all(db)
        assert await everything(await server.client("juliet@example.org/balcony")) == kept
        await db.flushed()
        result = await server.kernel.commands.run("offline.count", {"jid": str(JULIET)})
        assert result["messages"] == 0


@pytest.mark.parametrize("managed", [True, False])
async def test_a_connection_that_is_cut_while_much_is_under_way_gets_the_rest_later(managed: bool) -> None:
    """The client leaves in the middle of large messages that the sockets cannot hold; the next one gets what is left."""
    texts = [f"{number} {'y' * 20_000}" for number in range(100)]
    async with LiveServer(settings=settings(disable=["mam"] if managed else ["mam", "sm"])) as server:
        romeo = await server.client("romeo@example.org/orchard")
        for text in texts:
            say(romeo, text, id=text.split()[0])
        await romeo.iq("<iq type='get' id='sent'><ping xmlns='urn:xmpp:ping'/></iq>")
        juliet = await server.client("juliet@example.org/one")
        if managed:
            juliet.send(f"<enable xmlns='{SM}'/>")
            await juliet.expect(f"<enabled xmlns='{SM}'/>")
        juliet.send("<presence/>")
        while (await juliet.receive()).get("id") != "3":
            pass
        juliet.drop()
        await server.kernel.db.flushed()
        seen: set[str] = set()
        again = await server.client("juliet@example.org/two", presence=True)
        while len(seen) < len(texts):
            got = await again.receive()
            if got.find(QUESTION) is not None:
                again.send(f"<iq type='result' id='{got.get('id')}' to='{got.get('from')}'/>")
            if (text := got.findtext(BODY)) is not None:
                assert text not in seen
                seen.add(text)
        assert seen == set(texts)
