"""slixmpp and aioxmpp lose their connections and go on (XEP-0198), over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from tests.interop.conftest import LIBRARIES, PATIENCE, Login
from tests.interop.returning import RETURNING
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


async def test_slixmpp_resumes(live_server: LiveServer, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, "slixmpp", RETURNING["slixmpp"])
    juliet = await login("slixmpp", JULIET)
    romeo = await login("aioxmpp", ROMEO)
    await juliet.becomes_available()
    await romeo.becomes_available()
    romeo.say("juliet@example.org", "before")
    assert (await juliet.hears()).body == "before"
    managed = waiting(live_server, JULIET)
    juliet.client.abort()
    await until(lambda: managed.link is None, PATIENCE)
    juliet.say("romeo@example.org", "from the other side")
    romeo.say("juliet@example.org", "meanwhile")
    await until(lambda: len(managed.queue) > 0, PATIENCE)
    await juliet.come_back()
    await until(lambda: juliet.resumed == 1, PATIENCE)
    assert (await juliet.hears()).body == "meanwhile"
    assert waiting(live_server, JULIET) is managed
    juliet.say("romeo@example.org", "after")
    assert (await romeo.hears()).body == "from the other side"
    assert (await romeo.hears()).body == "after"
    await until(lambda: len(managed.queue) == 0, PATIENCE)
    assert juliet.begun == 1


async def test_aioxmpp_resumes(live_server: LiveServer, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, "aioxmpp", RETURNING["aioxmpp"])
    juliet = await login("aioxmpp", JULIET)
    romeo = await login("slixmpp", ROMEO)
    await juliet.becomes_available()
    await romeo.becomes_available()
    managed = waiting(live_server, JULIET)
    managed.link.abort()
    romeo.say("juliet@example.org", "meanwhile")
    await until(lambda: juliet.resumed == 1, PATIENCE)
    assert (await juliet.hears()).body == "meanwhile"
    assert waiting(live_server, JULIET) is managed
    juliet.say("romeo@example.org", "after")
    assert (await romeo.hears()).body == "after"
    assert juliet.begun == 1
