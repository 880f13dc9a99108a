"""A component for tests (XEP-0114): raw XML in its own namespace, over a socket."""

from __future__ import annotations

import asyncio
import hashlib

from beamish.testing.client import Client
from beamish.testing.federated import FederatedServer
from beamish.testing.live import _Link
from beamish.xmpp import ns

_HEADER = "<?xml version='1.0'?><stream:stream xmlns='{content}' xmlns:stream='{ns}' to='{to}'>"
_PATIENCE = 10.0


async def open_component(server: FederatedServer, domain: str) -> Client:
    """A connection that has sent a component's stream header and has the server's; it is cut before the server stops."""
    client = await _Link(server._links, None, domain).open(server.host, server.component_port, False)
    client.send(_HEADER.format(content=ns.COMPONENT, ns=ns.STREAM, to=domain))
    async with asyncio.timeout(_PATIENCE):
        while client.header is None and not client.disconnected:
            client._arrived.clear()
            await client._arrived.wait()
    return client


async def shake(server: FederatedServer, domain: str, secret: str) -> Client:
    """A component that has sent its handshake."""
    client = await open_component(server, domain)
    assert client.header is not None and client.header.get("from") == domain
    proof = hashlib.sha1((client.header.get("id", "") + secret).encode()).hexdigest()
    client.send(f"<handshake>{proof}</handshake>")
    return client


async def component(server: FederatedServer, domain: str, secret: str) -> Client:
    """A component that has been let in. Patterns of what it receives need `xmlns='jabber:component:accept'`."""
    client = await shake(server, domain, secret)
    await client.expect(f"<handshake xmlns='{ns.COMPONENT}'/>")
    return client
