"""Clients that speak XEP-0198."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from beamish.testing.client import Client
from beamish.testing.world import PASSWORD, World

SM = "urn:xmpp:sm:3"
QUIET: dict[str, Any] = {"disable": ["mam", "carbons", "csi"]}
"""Modules without those that decide about other copies of a message."""


CALM: dict[str, Any] = {"probe_after": 1_000_000}
"""No pings to clients that are silent while time passes."""


def settings(**sm: Any) -> dict[str, Any]:
    """Settings of a world, with options of stream management."""
    return {"modules": QUIET | ({"sm": sm} if sm else {}), "c2s": CALM}


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World(settings=settings()) as made:
        yield made


async def enable(client: Client, attributes: str = "resume='true'") -> str:
    """Enable stream management; the id."""
    client.inbox.clear()
    client.send(f"<enable xmlns='{SM}' {attributes}/>")
    got = await client.expect(f"<enabled xmlns='{SM}'/>")
    return got.get("id") or ""


async def managed(world: World, address: str, *, presence: bool = True) -> tuple[Client, str]:
    """A client that can be resumed, with the id for it."""
    client = await world.login(address, presence=presence)
    return client, await enable(client)


async def back(world: World, username: str, domain: str = "example.org") -> Client:
    """A new connection of a user, authenticated, nothing bound."""
    client = world.connect()
    await client.open_stream(domain)
    await client.authenticate(username, PASSWORD)
    return client


async def resume(world: World, old: Client, id: str, h: int, expected: int | None = None) -> Client:
    """Resume a session; the new connection, which has read `<resumed/>`."""
    client = await back(world, old.jid.local, old.jid.domain)
    client.send(f"<resume xmlns='{SM}' h='{h}' previd='{id}'/>")
    more = "" if expected is None else f" h='{expected}'"
    await client.expect(f"<resumed xmlns='{SM}' previd='{id}'{more}/>")
    client.jid = old.jid
    return client


async def handled(client: Client) -> int:
    """Ask the server how many stanzas it has handled; nothing else may be on its way."""
    client.send(f"<r xmlns='{SM}'/>")
    got = await client.expect(f"<a xmlns='{SM}'/>")
    return int(got.get("h") or "-1")


def say(client: Client, to: str, text: str, type: str = "chat") -> None:
    """Send a message."""
    client.send(f"<message to='{to}' type='{type}' id='{text}'><body>{text}</body></message>")


def bodies(client: Client) -> list[str]:
    """Take everything that has arrived; the bodies in it."""
    found = [text for el in client.inbox if (text := el.findtext("{jabber:client}body")) is not None]
    client.inbox.clear()
    return found
