"""Two servers of this program for tests of federation: a.example with Romeo, b.example with Juliet."""

from __future__ import annotations

from typing import Any

from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory

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


def only(server: FederatedServer, direction: str) -> dict[str, Any]:
    [stream] = [s for s in server.federation.list_streams() if s["direction"] == direction]
    return stream
