"""slixmpp's component as the push service of an app, at another server: notified over a stream that is made for that."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from beamish.modules.push import PushModule
from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory
from beamish.xmpp.jid import JID

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what foreign code does at import is not ours to mend
    from slixmpp import ComponentXMPP
    from slixmpp.xmlstream.handler import Callback
    from slixmpp.xmlstream.matcher import StanzaPath

PUSH = "urn:xmpp:push:0"
PUBSUB = "http://jabber.org/protocol/pubsub"
SM = "urn:xmpp:sm:3"
_DATA = "{jabber:x:data}"
_X = f"{_DATA}x"
DOMAIN = "push.b.example"
JULIET = "juliet@a.example"
FORM = (
    "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options"
    "</value></field><field var='secret'><value>eruio234vzxc2kla-91</value></field></x>"
)
PATIENCE = 15.0


def _values(form: Any) -> dict[str, str]:
    """The fields of a form, with their first values."""
    return {field.get("var"): field.findtext(f"{_DATA}value") for field in form.findall(f"{_DATA}field")}


class AppServer:
    """A push service that knows one secret; what it was told, as node, sender and summary."""

    def __init__(self, server: FederatedServer) -> None:
        self.xmpp = ComponentXMPP(DOMAIN, "between us", server.host, server.component_port)
        for plugin in ("xep_0030", "xep_0004", "xep_0060"):
            self.xmpp.register_plugin(plugin)
        self.xmpp.plugin["xep_0030"].add_identity(category="pubsub", itype="push")
        self.xmpp.plugin["xep_0030"].add_feature(PUSH)
        self.told: asyncio.Queue[tuple[str, str, dict[str, str]]] = asyncio.Queue()
        self.secret = "eruio234vzxc2kla-91"
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.xmpp.add_event_handler("session_start", lambda _: self.started.set_result(None))
        self.xmpp.register_handler(Callback("push", StanzaPath("iq@type=set/pubsub/publish"), self._published))

    def _published(self, iq: Any) -> None:
        options = _values(iq.xml.find(f".//{{{PUBSUB}}}publish-options/{_X}"))
        if options.get("secret") != self.secret:
            refusal = iq.reply()
            refusal["error"]["type"] = "auth"
            refusal["error"]["condition"] = "forbidden"
            refusal.send()
            return
        summary = _values(iq.xml.find(f".//{{{PUSH}}}notification/{_X}"))
        assert summary.pop("FORM_TYPE") == "urn:xmpp:push:summary"
        self.told.put_nowait((iq["pubsub"]["publish"]["node"], iq["from"].full, summary))
        iq.reply().send()

    async def hears(self) -> tuple[str, str, dict[str, str]]:
        """The next notification."""
        return await asyncio.wait_for(self.told.get(), PATIENCE)


@pytest_asyncio.fixture
async def servers(tmp_path: Path) -> AsyncIterator[tuple[FederatedServer, FederatedServer]]:
    authority, names = Authority(tmp_path), Directory()
    modules = {"modules": {"push": {"pause_seconds": 0.1}}}
    users = FederatedServer(
        authority, names, accounts=(JULIET, "romeo@a.example"), settings=modules, directory=tmp_path / "a"
    )
    other = FederatedServer(
        authority,
        names,
        domains=("b.example",),
        accounts=(),
        settings={"components": {DOMAIN: {"secret": "between us"}}},
        directory=tmp_path / "b",
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with users, other:
        names.serve(DOMAIN, other.s2s_port)
        yield users, other


@pytest_asyncio.fixture
async def app(servers: tuple[FederatedServer, FederatedServer]) -> AsyncIterator[AppServer]:
    made = AppServer(servers[1])
    made.xmpp.connect()
    await asyncio.wait_for(made.started, PATIENCE)
    try:
        yield made
    finally:
        await made.xmpp.disconnect()


async def phone(
    server: FederatedServer, service: str = DOMAIN, node: str = "yxs32uqsflafdk3iuqo"
) -> tuple[Client, str]:
    """Juliet's phone, which can be resumed by the id, and has asked for notifications."""
    client = await server.client(f"{JULIET}/phone", presence=True)
    client.send(f"<enable xmlns='{SM}' resume='true'/>")
    enabled = await client.expect(f"<enabled xmlns='{SM}' resume='true'/>")
    await client.iq(
        f"<iq type='set' id='push'><enable xmlns='{PUSH}' jid='{service}' node='{node}'>{FORM}</enable></iq>"
    )
    return client, enabled.get("id") or ""


def say(client: Client, text: str) -> None:
    client.send(f"<message to='{JULIET}' type='chat' id='{text}'><body>{text}</body></message>")


async def test_a_phone_that_is_cut_off_and_comes_back(
    servers: tuple[FederatedServer, FederatedServer], app: AppServer
) -> None:
    server, _ = servers
    client, id_ = await phone(server)
    romeo = await server.client("romeo@a.example/orchard")
    say(romeo, "one")
    await client.expect("<message id='one'/>")
    server.cut(f"{JULIET}/phone")
    assert await app.hears() == (
        "yxs32uqsflafdk3iuqo",
        JULIET,
        {"message-count": "1", "last-message-body": "New Message!"},
    )
    say(romeo, "two")
    assert (await app.hears())[2]["message-count"] == "2"
    again = await server.connect()
    await again.open_stream("a.example")
    await again.authenticate("juliet", server.password)
    again.send(f"<resume xmlns='{SM}' h='1' previd='{id_}'/>")
    await again.expect(f"<resumed xmlns='{SM}'/>")
    await again.expect_all("<message id='one'/>", "<message id='two'/>")
    again.send(f"<a xmlns='{SM}' h='3'/>")
    async with server.away():
        pass
    romeo = await server.client("romeo@a.example/orchard")
    say(romeo, "three")
    assert (await app.hears())[2]["message-count"] == "1"


async def test_a_secret_that_is_not_the_right_one_any_more(
    servers: tuple[FederatedServer, FederatedServer], app: AppServer
) -> None:
    server, _ = servers
    client, _ = await phone(server)
    app.secret = "another one"
    await client.close()
    romeo = await server.client("romeo@a.example/orchard")
    say(romeo, "one")
    store = server.kernel.registry.module(PushModule).store
    async with asyncio.timeout(PATIENCE):
        while JID.parse(JULIET) in store.of:
            await romeo.iq("<iq type='get' id='p' to='a.example'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert await server.command("push.list", jid=JULIET) == []


async def test_nodes_of_the_same_server_are_push_services_too(
    servers: tuple[FederatedServer, FederatedServer],
) -> None:
    server, _ = servers
    service = "pubsub.a.example"
    romeo = await server.client("romeo@a.example/orchard", presence=True)
    client = await server.client(f"{JULIET}/phone", presence=True)
    await client.iq(f"<iq type='set' id='c' to='{service}'><pubsub xmlns='{PUBSUB}'><create node='n'/></pubsub></iq>")
    await romeo.iq(
        f"<iq type='set' id='s' to='{service}'><pubsub xmlns='{PUBSUB}'>"
        "<subscribe node='n' jid='romeo@a.example'/></pubsub></iq>"
    )
    await client.iq(f"<iq type='set' id='p'><enable xmlns='{PUSH}' jid='{service}' node='n'/></iq>")
    await client.close()
    say(romeo, "one")
    got = await romeo.expect(f"<message from='{service}'><event xmlns='{PUBSUB}#event'/></message>")
    assert got.find(f".//{{{PUSH}}}notification") is not None
    assert (await server.command("push.list", jid=JULIET))[0]["answer"] == "ok"
