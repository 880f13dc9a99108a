"""Plays for external services (XEP-0215)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from pydantic import ValidationError

from beamish.core.clock import stamp
from beamish.core.events import Context
from beamish.modules.extdisco import ServiceConfig
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

NS = "urn:xmpp:extdisco:2"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
SERVICES: list[dict[str, Any]] = [
    {"type": "stun", "host": "stun.example.org", "port": 3478, "transport": "udp"},
    {"type": "turn", "host": "turn.example.org", "port": 3478, "transport": "udp", "secret": "shh", "ttl": 3600},
    {"type": "turn", "host": "turn.example.org", "port": 5349, "transport": "tcp", "secret": "shh", "ttl": 3600},
    {"type": "ftp", "host": "ftp.example.org", "username": "guest", "password": "guest", "name": "Plays & sonnets"},
]


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World(settings={"modules": {"extdisco": {"services": SERVICES}}}) as made:
        yield made


@pytest_asyncio.fixture
async def romeo(world: World) -> Client:
    return await world.login("romeo@example.org/orchard")


async def test_all_services(romeo: Client) -> None:
    got = await romeo.iq(f"<iq type='get' id='x' to='example.org'><services xmlns='{NS}'/></iq>")
    wanted = (
        f"<iq><services xmlns='{NS}'>"
        "<service type='stun' host='stun.example.org' port='3478' transport='udp' username='!' restricted='!' expires='!'/>"
        "<service type='turn' host='turn.example.org' port='3478' username='*' password='*' expires='*' restricted='true'/>"
        "<service type='turn' port='5349' transport='tcp'/>"
        "<service type='ftp' port='!' username='guest' password='guest' name='Plays &amp; sonnets' expires='!'/>"
        "</services></iq>"
    )
    assert mismatch(wanted, got) == "" and len(got[0]) == 4


async def test_services_of_a_type(romeo: Client) -> None:
    got = await romeo.iq(f"<iq type='get' id='x' to='example.org'><services xmlns='{NS}' type='stun'/></iq>")
    assert [el.get("type") for el in got[0]] == ["stun"] and got[0].get("type") == "stun"
    none = await romeo.iq(f"<iq type='get' id='x' to='example.org'><services xmlns='{NS}' type='pigeon'/></iq>")
    assert len(none[0]) == 0


async def test_credentials_are_those_that_the_relay_computes(world: World, romeo: Client) -> None:
    ask = f"<iq type='get' id='x' to='example.org'><credentials xmlns='{NS}'><service {{}}/></credentials></iq>"
    got = await romeo.iq(ask.format("host='turn.example.org' type='turn' port='3478'"))
    (service,) = got[0]
    name = service.get("username", "")
    until, _, pseudonym = name.partition(":")
    assert int(until) == int(world.clock.now()) + 3600 and service.get("expires") == stamp(int(until))
    assert pseudonym and "romeo" not in name
    # what coturn does with use-auth-secret
    assert service.get("password") == base64.b64encode(hmac.new(b"shh", name.encode(), hashlib.sha1).digest()).decode()
    juliet = await world.login("juliet@example.org/balcony")
    other = await juliet.iq(ask.format("host='turn.example.org' type='turn'"))
    assert len(other[0]) == 2 and other[0][0].get("username") != name
    await world.pass_time(60)
    later = await romeo.iq(ask.format("host='turn.example.org' type='turn' port='3478'"))
    assert later[0][0].get("username") == f"{int(until) + 60}:{pseudonym}"


@pytest.mark.parametrize(
    ("asked", "condition"),
    [
        ("<service host='turn.example.org'/>", "bad-request"),
        ("", "bad-request"),
        ("<service host='other.example.org' type='turn'/>", "item-not-found"),
        ("<service host='stun.example.org' type='stun'/>", "item-not-found"),
        ("<service host='turn.example.org' type='turn' port='1'/>", "item-not-found"),
    ],
)
async def test_credentials_that_there_are_not(romeo: Client, asked: str, condition: str) -> None:
    sent = f"<iq type='get' id='x' to='example.org'><credentials xmlns='{NS}'>{asked}</credentials></iq>"
    assert mismatch(f"<iq><error><{condition} xmlns='{STANZAS}'/></error></iq>", await romeo.iq(sent, "error")) == ""


async def test_it_is_announced_if_there_is_a_service(romeo: Client) -> None:
    info = "<iq type='get' id='d' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
    assert any(el.get("var") == NS for el in (await romeo.iq(info))[0])
    async with World() as bare:
        juliet = await bare.login("juliet@example.org/balcony")
        assert not any(el.get("var") == NS for el in (await juliet.iq(info))[0])


async def test_strangers_get_no_credentials(world: World) -> None:
    replies: list[Stanza] = []
    world.kernel.router.add_service("denmark.example", lambda ctx: replies.append(ctx.stanza))
    asked = Stanza.build(
        "iq",
        "get",
        id="x",
        sender=JID.parse("hamlet@denmark.example/x"),
        to=JID.parse("example.org"),
        content=f"<services xmlns='{NS}'/>".encode(),
    )
    world.kernel.router.route(Context(asked))
    await world.settle()
    (reply,) = replies
    assert mismatch(f"<iq type='error'><error><forbidden xmlns='{STANZAS}'/></error></iq>", reply.el) == ""


def test_a_service_has_a_secret_or_a_password() -> None:
    with pytest.raises(ValidationError, match="either a secret"):
        ServiceConfig(type="turn", host="a", secret="x", username="y")
