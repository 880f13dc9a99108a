"""Two servers of this program for tests of federation: a.example with Romeo, b.example with Juliet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.match import show
from beamish.testing.names import Directory
from beamish.xmpp.xml import Element

UNLIMITED: Final[dict[str, Any]] = {
    "limits": {"stanzas_per_second": 10**6, "stanza_burst": 10**6, "bytes_per_second": 10**9, "bytes_burst": 10**9},
    "s2s": {"stanzas_per_second": 10**6, "bytes_per_second": 10**9},
}
"""Settings under which nothing is slowed down."""

Two = tuple[FederatedServer, FederatedServer]


def pair(ca: Authority, names: Directory, **kwargs: Any) -> tuple[FederatedServer, FederatedServer]:
    """Servers a and b; keywords `a` and `b` are theirs alone."""
    ours, theirs = kwargs.pop("a", {}), kwargs.pop("b", {})
    return (
        FederatedServer(ca, names, domains=("a.example",), accounts=("romeo@a.example",), **kwargs, **ours),
        FederatedServer(ca, names, domains=("b.example",), accounts=("juliet@b.example",), **kwargs, **theirs),
    )


async def exchange(a: FederatedServer, b: FederatedServer) -> tuple[Client, Client]:
    romeo = await a.client("romeo@a.example/x", presence=True)
    juliet = await b.client("juliet@b.example/y", presence=True)
    romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>")
    await juliet.expect("<message from='romeo@a.example/x' id='1'><body>Hi</body></message>")
    juliet.send("<message to='romeo@a.example/x' type='chat' id='2'><body>Ho</body></message>")
    await romeo.expect("<message from='juliet@b.example/y' id='2'><body>Ho</body></message>")
    return romeo, juliet


async def both_ways(
    romeo: Client, juliet: Client, total: int, window: int, arrived: Callable[[], object], *, patience: float = 30
) -> None:
    """Each sends so many messages to the other, at most `window` ahead of what was received; all come, once, in order.

    `arrived` is called after each, and may do what it likes to the streams between the servers.
    """

    async def play(sender: Client, receiver: Client) -> None:
        sent, got = 0, 0
        while got < total:
            while sent < total and sent - got < window:
                sender.send(f"<message to='{receiver.jid}' type='chat' id='m{sent}'><body>{sent}</body></message>")
                sent += 1
            message = await receiver.receive(patience)
            assert message.get("id") == f"m{got}", show(message)
            got += 1
            arrived()

    async with asyncio.TaskGroup() as plays:
        plays.create_task(play(romeo, juliet))
        plays.create_task(play(juliet, romeo))
    await romeo.expect_nothing()
    await juliet.expect_nothing()


def reason(error: Element) -> str:
    """What an error says in words, or nothing."""
    return error.findtext(".//{urn:ietf:params:xml:ns:xmpp-stanzas}text") or ""


def only(server: FederatedServer, direction: str) -> dict[str, Any]:
    [stream] = [s for s in server.federation.list_streams() if s["direction"] == direction]
    return stream
