"""A server with components of different privileges, and two of its accounts."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from beamish.testing.client import Client
from beamish.testing.component import component
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory

SECRET = "between us"
PUBSUB = "http://jabber.org/protocol/pubsub"
COMPONENTS: dict[str, dict[str, Any]] = {
    "none.a.example": {},
    "get.a.example": {"roster": "get", "roster_push": False},
    "set.a.example": {"roster": "set"},
    "both.a.example": {"roster": "both"},
    "say.a.example": {"message": "outgoing"},
    "iq.a.example": {
        "iq": {PUBSUB: "both", "jabber:iq:private": "set", "urn:xmpp:ping": "get", "urn:xmpp:carbons:2": "both"}
    },
    "see.a.example": {"presence": "managed_entity"},
    "all.a.example": {"roster": "get", "presence": "roster"},
    "ask.a.example": {"remote_roster": "ask"},
    "gate.a.example": {"remote_roster": "granted"},
    "half.a.example": {
        "roster": "both",
        "message": "outgoing",
        "iq": {PUBSUB: "both"},
        "presence": "managed_entity",
        "domains": ("a.example",),
    },
}
Ready = Callable[[str], Awaitable[Client]]


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[FederatedServer]:
    settings: dict[str, Any] = {
        "components": {domain: {"secret": SECRET, **options} for domain, options in COMPONENTS.items()},
        "component_listener": {"away_seconds": 0.2},
    }
    accounts = ("romeo@a.example", "juliet@a.example", "benvolio@c.example")
    made = FederatedServer(
        Authority(tmp_path), Directory(), domains=("a.example", "c.example"), accounts=accounts, settings=settings
    )
    async with made:
        yield made


@pytest.fixture
def ready(server: FederatedServer) -> Ready:
    """Connects a component that was told its privileges for all domains, if it has any."""

    async def connected(name: str) -> Client:
        domain = f"{name}.a.example"
        client = await component(server, domain, SECRET)
        options = COMPONENTS[domain]
        granted = [key for key in ("roster", "message", "iq", "presence") if key in options]
        # without permissions for IQs alone, each domain announces them twice, in both versions
        for _ in range((1 if name == "half" else 2) * (0 if not granted else 1 if granted == ["iq"] else 2)):
            await client.expect("<message xmlns='jabber:component:accept'/>")
        return client

    return connected
