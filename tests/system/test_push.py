"""Registrations for push notifications, and who is to be told, after `kill -9`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from tests.system.conftest import PATIENCE, Daemon

if TYPE_CHECKING:
    from beamish.testing import Client

PUSH = "urn:xmpp:push:0"
JULIET = "juliet@example.org"
PASSWORD = "crash test"


async def listed(daemon: Daemon) -> list[dict[str, Any]]:
    status, out, err = await daemon.command("push", "list", JULIET, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert isinstance(found, list)
    return found


async def prepared(daemon: Daemon) -> tuple[Client, Client]:
    """Juliet's phone, under stream management, and Romeo."""
    await daemon.start()
    for name in ("juliet", "romeo"):
        await daemon.add(f"{name}@example.org", PASSWORD)
    phone = await daemon.client(f"{JULIET}/phone", PASSWORD)
    await phone.appear()
    phone.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    await phone.expect("<enabled xmlns='urn:xmpp:sm:3'/>")
    return phone, await daemon.client("romeo@example.org/orchard", PASSWORD)


async def test_what_was_answered_is_there_after_a_kill(daemon: Daemon) -> None:
    phone, _ = await prepared(daemon)
    for node in ("n1", "n2", "n3"):
        phone.send(f"<iq type='set' id='{node}'><enable xmlns='{PUSH}' jid='push.invalid' node='{node}'/></iq>")
    for node in ("n1", "n2", "n3"):
        await phone.expect(f"<iq type='result' id='{node}'/>")
    await phone.iq(f"<iq type='set' id='d'><disable xmlns='{PUSH}' jid='push.invalid' node='n2'/></iq>")
    daemon.kill()
    await daemon.ended()
    assert [row["node"] for row in await listed(daemon)] == ["n1", "n3"]  # the command opens the database itself
    await daemon.start()
    assert [row["node"] for row in await listed(daemon)] == ["n1", "n3"]


async def test_what_was_not_confirmed_before_a_kill_is_told_after_it(daemon: Daemon) -> None:
    phone, romeo = await prepared(daemon)
    await phone.iq(f"<iq type='set' id='p'><enable xmlns='{PUSH}' jid='push.invalid' node='n1'/></iq>")
    for text in ("one", "two"):
        romeo.send(f"<message to='{JULIET}' type='chat'><body>{text}</body></message>")
    for text in ("one", "two"):
        await phone.expect(f"<message><body>{text}</body></message>")
    daemon.kill()
    await daemon.ended()
    await daemon.start()
    async with asyncio.timeout(PATIENCE):
        while not (row := (await listed(daemon))[0])["tried"]:
            pass
    assert row["unread"] == 2
    # no such domain can be, as the DNS says, or nobody where there is none: it was tried, and will be again
    assert row["answer"] in ("remote-server-not-found", "remote-server-timeout")
    assert (row["failures"], row["told"]) == (1, 0)
    (told,) = daemon.events("push_service_fails")
    assert told["service"] == "push.invalid"
