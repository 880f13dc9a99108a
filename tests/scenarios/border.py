"""Two servers of this program that trust one another, and what plays across their border have in common."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from beamish.core.services import RosterItem, RosterService
from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.match import mismatch
from beamish.testing.names import Directory
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

Two = tuple[FederatedServer, FederatedServer]
SERVICES = ("conference", "pubsub")


@asynccontextmanager
async def two_servers(
    directory: Path, *, settings: dict[str, Any] | None = None, contacts: Sequence[str] = ("juliet@b.example",)
) -> AsyncIterator[Two]:
    """`a.example` with romeo and `b.example` with contacts; their rooms and nodes can be reached from either."""
    ca, names = Authority(directory), Directory()
    async with (
        FederatedServer(ca, names, domains=("a.example",), accounts=("romeo@a.example",), settings=settings) as a,
        FederatedServer(ca, names, domains=("b.example",), accounts=contacts, settings=settings) as b,
    ):
        for letter, server in (("a", a), ("b", b)):
            for service in SERVICES:
                names.serve(f"{service}.{letter}.example", server.s2s_port)
        yield a, b


async def crossed(client: Client, domain: str) -> None:
    """What the client sent to a domain was handled there, and answered: an answer to what comes after it is here."""
    await client.iq(f"<iq type='get' to='{domain}' id='crossed'><ping xmlns='urn:xmpp:ping'/></iq>")


async def arrived(client: Client) -> list[Element]:
    """Everything that has reached a client; it is taken from the inbox."""
    await client.iq("<iq type='get' id='arrived'><ping xmlns='urn:xmpp:ping'/></iq>")
    found = list(client.inbox)
    client.inbox.clear()
    return found


async def until(client: Client, xml: str) -> Element:
    """Skip to the next element that matches."""
    while mismatch(xml, got := await client.receive()):
        pass
    return got


async def know_each_other(
    a: FederatedServer, b: FederatedServer, user: str = "romeo@a.example", contact: str = "juliet@b.example"
) -> None:
    """Both subscribe to one another, as if long ago."""
    for server, owner, other in ((a, user, contact), (b, contact, user)):
        rosters = server.kernel.service(RosterService)
        await rosters.change(JID.parse(owner), RosterItem(JID.parse(other), to=True, from_=True))


async def friends(two: Two) -> tuple[Client, Client]:
    """Romeo at a and Juliet at b, subscribed to one another and online, with empty inboxes."""
    a, b = two
    await know_each_other(a, b)
    romeo = await a.client("romeo@a.example/x", presence=True, roster=True)
    juliet = await b.client("juliet@b.example/y", presence=True, roster=True)
    await until(romeo, "<presence from='juliet@b.example/y' type='!'/>")
    await until(juliet, "<presence from='romeo@a.example/x' type='!'/>")
    await crossed(romeo, "b.example")
    await crossed(juliet, "a.example")
    await arrived(romeo)
    await arrived(juliet)
    return romeo, juliet


DISCO = "http://jabber.org/protocol/disco#info"


def capabilities(*features: str) -> tuple[str, str]:
    """A `<c/>` with its hash (XEP-0115 §5.1), and the `<query/>` that explains it."""
    every = sorted({DISCO, *features})
    text = "client/pc//Test<" + "".join(f"{feature}<" for feature in every)
    ver = base64.b64encode(hashlib.sha1(text.encode()).digest()).decode()
    c = f"<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:example:client' ver='{ver}'/>"
    listed = "".join(f"<feature var='{feature}'/>" for feature in every)
    query = (
        f"<query xmlns='{DISCO}' node='urn:example:client#{ver}'><identity category='client' type='pc' name='Test'/>"
    )
    return c, f"{query}{listed}</query>"


async def explain(client: Client, query: str, askers: int) -> None:
    """Answer so many questions about the client's capabilities; other stanzas are skipped."""
    while askers:
        got = await client.receive()
        if got.tag == "{jabber:client}iq" and got.get("type") == "get" and got.find(f"{{{DISCO}}}query") is not None:
            client.send(f"<iq type='result' to='{got.get('from')}' id='{got.get('id')}'>{query}</iq>")
            askers -= 1


def kinds(elements: Sequence[Element], sender: str) -> set[str]:
    """The names of stanzas from a sender, with types of errors and of unavailable presence."""
    return {
        re.sub(r".*}", "", str(el.tag)) + (f" {el.get('type')}" if el.get("type") in ("error", "unavailable") else "")
        for el in elements
        if el.get("from") == sender
    }
