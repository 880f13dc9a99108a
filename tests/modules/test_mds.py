"""XEP-0490 with the server's assistance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from beamish.core.module import Module
from beamish.core.services import PepService
from beamish.modules.mds import MdsModule
from beamish.testing.world import World
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID

NODE = "urn:xmpp:mds:displayed:0"
ID = "<stanza-id xmlns='urn:xmpp:sid:0' by='juliet@example.org' id='abc'/>"
MARKER = "<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>"
DISCO = "<iq type='get' id='d' to='juliet@example.org'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"


class Pep(Module):
    """Remembers what is published; refuses what is for mercutio."""

    name = "test_pep"
    provides = (PepService,)

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self.published: list[tuple[str, str, dict[str, bytes], dict[str, str]]] = []

    async def publish(
        self, user: JID, node: str, items: Mapping[str, bytes], options: Mapping[str, str] | None = None
    ) -> None:
        """See `PepService.publish`."""
        if "mercutio@example.org" in items:
            raise StanzaError(Condition.CONFLICT)
        self.published.append((str(user), node, dict(items), dict(options or {})))

    async def retract(self, user: JID, node: str, items: Iterable[str]) -> None:
        """See `PepService.retract`."""

    async def items(self, user: JID, node: str) -> dict[str, bytes]:
        """See `PepService.items`."""
        return {}

    async def access(self, user: JID, node: str) -> str | None:
        """See `PepService.access`."""
        return None


def world_with(*extra: type[Module]) -> World:
    return World(extra=extra, settings={"modules": {"disable": ["pubsub", "vcard", "private_xml"]}})


def message(to: str, inner: str) -> str:
    return f"<message to='{to}' type='chat' id='m'>{MARKER}{inner}</message>"


async def test_it_is_published_and_nobody_else_sees_it() -> None:
    async with world_with(Pep) as world:
        juliet = await world.login("juliet@example.org/b", presence=True)
        romeo = await world.login("romeo@example.org/r", presence=True)
        tablet = await world.login("juliet@example.org/t", presence=True)
        await tablet.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
        await world.settle()
        for client in (juliet, romeo, tablet):
            client.inbox.clear()
        juliet.send(message("romeo@example.org", f"<displayed xmlns='{NODE}'>{ID}<junk xmlns='x'/></displayed>"))
        live = await romeo.receive()
        copy = await tablet.receive()
        juliet.send("<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>")
        archived = await juliet.receive()
        for el in (live, copy, archived):
            assert el.find(f".//{{{NODE}}}displayed") is None
            assert el.find(".//{urn:xmpp:chat-markers:0}displayed") is not None
        pep = world.kernel.registry.module(Pep)
        ((user, node, items, options),) = pep.published
        assert (user, node) == ("juliet@example.org", NODE)
        assert items == {"romeo@example.org": f"<displayed xmlns='{NODE}'>{ID}</displayed>".encode()}
        assert options["access_model"] == "whitelist"
        assert options["send_last_published_item"] == "never"


@pytest.mark.parametrize(
    ("to", "inner"),
    [
        ("romeo@example.org", f"<displayed xmlns='{NODE}'/>"),
        ("romeo@example.org", f"<displayed xmlns='{NODE}'>{ID}{ID}</displayed>"),
        ("romeo@example.org", f"<displayed xmlns='{NODE}'><stanza-id xmlns='urn:xmpp:sid:0' id='x'/></displayed>"),
        ("mercutio@example.org", f"<displayed xmlns='{NODE}'>{ID}</displayed>"),
    ],
)
async def test_what_cannot_be_published_is_taken_out_all_the_same(to: str, inner: str) -> None:
    async with world_with(Pep) as world:
        juliet = await world.login("juliet@example.org/b", presence=True)
        other = await world.login(f"{to}/r", presence=True)
        juliet.send(message(to, inner))
        live = await other.receive()
        assert live.find(f"{{{NODE}}}displayed") is None
        assert live.find("{urn:xmpp:chat-markers:0}displayed") is not None
        pep = world.kernel.registry.module(Pep)
        assert pep.published == []


@pytest.mark.parametrize("there", [True, False])
async def test_it_is_offered_where_there_is_a_node(there: bool) -> None:
    async with world_with(*([Pep] if there else [])) as world:
        assert any(isinstance(m, MdsModule) for m in world.kernel.registry.modules)
        juliet = await world.login("juliet@example.org/b", presence=True)
        features = {el.get("var") for el in (await juliet.iq(DISCO))[0]}
        assert ("urn:xmpp:mds:server-assist:0" in features) is there
        romeo = await world.login("romeo@example.org/r", presence=True)
        juliet.send(message("romeo@example.org", f"<displayed xmlns='{NODE}'>{ID}</displayed>"))
        assert (await romeo.receive()).find(f"{{{NODE}}}displayed") is None
