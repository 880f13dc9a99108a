"""slixmpp and aioxmpp lose their connections and go on (XEP-0198), over real sockets."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aioxmpp
import pytest
import slixmpp
from tests.interop.conftest import LIBRARIES, PATIENCE, AioxmppPeer, Login
from tests.watched import until

from beamish.testing import LiveServer
from beamish.xmpp.jid import JID

ROMEO = "romeo@example.org/orchard"
JULIET = "juliet@example.org/balcony"


def waiting(server: LiveServer, address: str) -> Any:
    """The session under stream management with this address."""
    session = server.kernel.sessions.get(JID.parse(address))
    assert session is not None
    return session.outlet


async def test_slixmpp_resumes(live_server: LiveServer, login: Login) -> None:
    logging.getLogger("slixmpp").setLevel(logging.CRITICAL)
    loop = asyncio.get_running_loop()
    client = slixmpp.ClientXMPP(JULIET, live_server.password)
    client.ca_certs = live_server.ca
    client.register_plugin("xep_0198")
    client.register_plugin("xep_0199")
    enabled, resumed = loop.create_future(), loop.create_future()
    heard: list[str] = []
    client.add_event_handler("sm_enabled", lambda _: enabled.done() or enabled.set_result(None))
    client.add_event_handler("session_resumed", lambda _: resumed.done() or resumed.set_result(None))
    client.add_event_handler("message", lambda message: heard.append(message["body"]))
    client.add_event_handler("session_start", lambda _: client.send_presence())
    client.connect(live_server.host, live_server.port)
    try:
        await asyncio.wait_for(enabled, PATIENCE)
        await until(lambda: live_server.kernel.sessions.of(JID.parse("juliet@example.org")).routable, PATIENCE)
        romeo = await login("aioxmpp", ROMEO)
        await romeo.becomes_available()
        romeo.say("juliet@example.org", "before")
        await until(lambda: heard == ["before"], PATIENCE)
        managed = waiting(live_server, JULIET)
        client.abort()
        await until(lambda: managed.link is None, PATIENCE)
        client.send_message(mto="romeo@example.org", mbody="from the other side", mtype="chat")
        romeo.say("juliet@example.org", "meanwhile")
        await until(lambda: len(managed.queue) > 0, PATIENCE)
        client.connect(live_server.host, live_server.port)
        await asyncio.wait_for(resumed, PATIENCE)
        await until(lambda: heard == ["before", "meanwhile"], PATIENCE)
        assert waiting(live_server, JULIET) is managed
        client.send_message(mto="romeo@example.org", mbody="after", mtype="chat")
        bodies = [(await romeo.hears()).body]
        while bodies[-1] != "after":
            bodies.append((await romeo.hears()).body)
        await until(lambda: len(managed.queue) == 0, PATIENCE)
    finally:
        if client.is_connected():
            await asyncio.wait_for(client.disconnect(), PATIENCE)
        client.cancel_connection_attempt()
        for task in (client._run_out_filters, client._current_connection_attempt):
            if task is not None:
                task.cancel()


class Faithful(AioxmppPeer):
    """aioxmpp as it is by itself: it comes back when its stream breaks off."""

    def _suspended(self, _reason: BaseException | None) -> None:
        pass


async def test_aioxmpp_resumes(live_server: LiveServer, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, "aioxmpp", Faithful)
    juliet = await login("aioxmpp", JULIET)
    romeo = await login("slixmpp", ROMEO)
    await juliet.becomes_available()
    await romeo.becomes_available()
    client: aioxmpp.Client = juliet.client
    assert client.stream.sm_enabled
    managed = waiting(live_server, JULIET)
    resumed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    client.on_stream_resumed.connect(lambda: resumed.done() or resumed.set_result(None))
    managed.link.abort()
    romeo.say("juliet@example.org", "meanwhile")
    await asyncio.wait_for(resumed, PATIENCE)
    assert (await juliet.hears()).body == "meanwhile"
    assert waiting(live_server, JULIET) is managed
    juliet.say("romeo@example.org", "after")
    assert (await romeo.hears()).body == "after"
