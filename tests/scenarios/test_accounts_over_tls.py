"""The same as in the plays of the modules, in short, over TLS and sockets with SQLite: registration, invitations, commands,
addressing, message processing, directory, and what the server says about itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from beamish.modules.register import RegisterModule
from beamish.testing import LiveServer
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import PASSWORD

ADMIN = "http://jabber.org/protocol/admin"
AMP = "http://jabber.org/protocol/amp"
SETTINGS: dict[str, Any] = {
    "server": {"admins": ["romeo@example.org"]},
    "modules": {
        "register": {"open": True},
        "contact": {"abuse": ["mailto:abuse@example.org"]},
        "policy": {"data_retention": "infinite"},
        "extdisco": {"services": [{"type": "turn", "host": "turn.example.org", "secret": "shh"}]},
    },
}


@pytest_asyncio.fixture
async def live() -> AsyncIterator[LiveServer]:
    async with LiveServer(settings=SETTINGS) as made:
        yield made


async def stranger(live: LiveServer, direct_tls: bool = False) -> Client:
    client = await live.connect(direct_tls=direct_tls)
    await client.open_stream("example.org")
    if not direct_tls:
        await client.start_tls("example.org")
    return client


def values(answer: Any) -> dict[str, str]:
    return {f.get("var", ""): f.findtext("{jabber:x:data}value") or "" for f in answer.iter("{jabber:x:data}field")}


@pytest.mark.parametrize("direct_tls", [False, True], ids=["starttls", "direct"])
async def test_registration_with_an_image_and_its_end(live: LiveServer, direct_tls: bool) -> None:
    client = await stranger(live, direct_tls)
    given = values(await client.iq("<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>"))
    module = live.kernel.registry.module(RegisterModule)
    (letters,) = [v.challenge.letters for v in module._visits.values() if v.challenge is not None]
    fields = {"username": "tybalt", "password": PASSWORD, "challenge": given["challenge"], "ocr": letters}
    inner = "".join(f"<field var='{var}'><value>{value}</value></field>" for var, value in fields.items())
    form = f"<x xmlns='jabber:x:data' type='submit'>{inner}</x>"
    await client.iq(f"<iq type='set' id='2'><query xmlns='jabber:iq:register'>{form}</query></iq>")
    await client.authenticate("tybalt", PASSWORD)
    await client.bind("street")
    await client.iq(
        "<iq type='set' id='3'><query xmlns='jabber:iq:register'><username>tybalt</username><password>prince of cats</password>"
        "</query></iq>"
    )
    client.send("<iq type='set' id='4'><query xmlns='jabber:iq:register'><remove/></query></iq>")
    await client.expect("<iq type='result' id='4'/>")
    await client.expect_closed("not-authorized")
    again = await stranger(live)
    with pytest.raises(AssertionError):
        await again.authenticate("tybalt", "prince of cats")


async def test_an_invitation(live: LiveServer) -> None:
    romeo = await live.client("romeo@example.org/orchard", roster=True, presence=True)
    made = values(
        await romeo.command("urn:xmpp:invite#create-account", {"username": "tybalt", "roster-subscription": "1"})
    )
    client = await stranger(live)
    token = made["uri"].rpartition("=")[2]
    await client.iq(f"<iq type='set' id='1' to='example.org'><preauth xmlns='urn:xmpp:pars:0' token='{token}'/></iq>")
    await client.iq(
        f"<iq type='set' id='2'><query xmlns='jabber:iq:register'><username>tybalt</username><password>{PASSWORD}</password>"
        "</query></iq>"
    )
    await romeo.expect("<iq type='set'><query xmlns='jabber:iq:roster'><item subscription='both'/></query></iq>")
    await client.authenticate("tybalt", PASSWORD)
    await client.bind("street")
    client.send("<presence/>")
    await romeo.expect("<presence from='tybalt@example.org/street'/>")


async def test_commands(live: LiveServer) -> None:
    romeo = await live.client("romeo@example.org/orchard")
    juliet = await live.client("juliet@example.org/balcony", presence=True)
    await romeo.command(f"{ADMIN}#announce", {"announcement": "Hear ye"})
    await juliet.expect("<message type='headline'><body>Hear ye</body></message>")
    await romeo.command(f"{ADMIN}#disable-user", {"accountjids": "juliet@example.org"})
    await juliet.expect_closed("not-authorized")
    assert values(await romeo.command(f"{ADMIN}#get-disabled-users-num"))["disabledusersnum"] == "1"


async def test_many_addressees(live: LiveServer) -> None:
    romeo = await live.client("romeo@example.org/orchard")
    juliet = await live.client("juliet@example.org/balcony", presence=True)
    nurse = await live.client("nurse@example.org/street", presence=True)
    addresses = "<address type='to' jid='juliet@example.org'/><address type='bcc' jid='nurse@example.org'/>"
    romeo.send(
        f"<message to='example.org'><addresses xmlns='http://jabber.org/protocol/address'>{addresses}</addresses>"
        "<body>hi</body></message>"
    )
    for client, seen in ((juliet, 1), (nurse, 2)):
        got = await client.expect("<message from='romeo@example.org/orchard'><body>hi</body></message>")
        assert sum(1 for _ in got.iter("{http://jabber.org/protocol/address}address")) == seen


async def test_rules_of_a_message(live: LiveServer) -> None:
    romeo = await live.client("romeo@example.org/orchard", presence=True)
    rule = "<rule condition='deliver' action='alert' value='direct'/>"
    romeo.send(
        f"<message to='romeo@example.org' id='m' type='chat'><body>x</body><amp xmlns='{AMP}'>{rule}</amp></message>"
    )
    await romeo.expect(f"<message id='m' from='example.org'><amp xmlns='{AMP}' status='alert'>{rule}</amp></message>")
    await romeo.expect_nothing()


async def test_the_directory(live: LiveServer) -> None:
    juliet = await live.client("juliet@example.org/balcony")
    await juliet.command("urn:beamish:command:directory.publish", {"nick": "JuliC"})
    found = await juliet.iq(
        "<iq type='set' id='s' to='example.org'><query xmlns='jabber:iq:search'><nick>juli</nick></query></iq>"
    )
    assert [item.get("jid") for item in found[0]] == ["juliet@example.org"]


async def test_what_the_server_says_about_itself(live: LiveServer) -> None:
    romeo = await live.client("romeo@example.org/orchard")
    info = await romeo.iq(
        "<iq type='get' id='d' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
    )
    told = values(info)
    assert told["abuse-addresses"] == "mailto:abuse@example.org" and told["data_retention"] == "infinite"
    services = await romeo.iq("<iq type='get' id='x' to='example.org'><services xmlns='urn:xmpp:extdisco:2'/></iq>")
    wanted = (
        "<iq><services xmlns='urn:xmpp:extdisco:2'><service type='turn' username='*' password='*'/></services></iq>"
    )
    assert mismatch(wanted, services) == ""
