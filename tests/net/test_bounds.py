"""Every bound of `[limits]`, `[s2s]` and `[component_listener]` is what the configuration says, where it is enforced.

That each is enforced is tested with the part that does it; here it is that none is forgotten on the way there.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic.fields import FieldInfo
from tests.watched import until

from beamish.config.model import ComponentsConfig, LimitsConfig, S2sConfig
from beamish.net.component import ComponentServer
from beamish.net.s2s_link import Link
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory
from beamish.testing.world import World

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

_ELSEWHERE: Final = {
    # what is no bound: who is talked to, and how
    *("enabled", "listen", "direct_tls", "require_verified_tls", "unverified", "trust", "policy", "allow", "deny"),
    *("hosts", "dialback", "conflict"),
}
_CALLED: Final = {"domains": "routes", "dns_seconds": "seconds"}


def other(field: FieldInfo) -> Any:
    """A value that is not the default."""
    return field.default + 7 if isinstance(field.default, int) else field.default + 0.5


def others(model: Any) -> dict[str, Any]:
    return {name: other(field) for name, field in model.model_fields.items() if name not in _ELSEWHERE}


async def test_every_bound_arrives(tmp_path: Path) -> None:
    limits, s2s, listener = others(LimitsConfig), others(S2sConfig), others(ComponentsConfig)
    assert len(limits) >= 25 and len(s2s) >= 18 and len(listener) >= 12
    tree: dict[str, Any] = {
        "limits": limits,
        "s2s": s2s,
        "component_listener": {**listener, "listen": ("127.0.0.1:0",), "conflict": "refuse"},
        "components": {"c.a.example": {"secret": "s"}},
    }
    async with FederatedServer(Authority(tmp_path), Directory(), accounts=(), settings=tree) as server:
        c2s, federation, kernel = server.c2s, server.federation, server.kernel
        components = kernel.service(ComponentServer)
        places = (c2s.limits, c2s.settings, c2s.settings.limits)
        for name, value in limits.items():
            if name.startswith("xml_names"):
                continue
            found = [getattr(place, name) for place in (*places, kernel.limits) if hasattr(place, name)]
            assert found and set(found) == {value}, name
        assert (kernel.names._total, kernel.names._per_account) == (
            limits["xml_names"],
            limits["xml_names_per_account"],
        )
        for settings in (federation.settings, components.settings):
            theirs = settings.limits
            assert theirs.stanza_bytes == 2 * limits["stanza_bytes"]
            for name in ("depth", "elements", "attributes"):
                assert getattr(theirs, name) == limits[name]
        assert federation.limits.connections_per_address == limits["connections_per_address"]
        assert federation.limits.unsent_bytes == components.bounds.unsent_bytes == limits["unsent_bytes"]
        assert components.limits.unsent_bytes == limits["unsent_bytes"]
        for name, value in s2s.items():
            if name != "dns_seconds":  # the names of this test take no time
                assert getattr(federation.limits, _CALLED.get(name, name)) == value, name
        for name, value in listener.items():
            assert getattr(components.bounds, name) == value, name
        assert components.bounds.replace is False
        assert components.bounds.presences == s2s["presences"]


ROSTER: Final = {"roster_name_bytes": 6, "roster_group_bytes": 4, "roster_groups_per_item": 2}


@pytest.mark.parametrize(
    ("item", "fits"),
    [
        ("<item jid='a@b.c' name='sixsix'/>", True),
        ("<item jid='a@b.c' name='sevense'/>", False),
        ("<item jid='a@b.c' name='äöü'/>", True),
        ("<item jid='a@b.c' name='äöüx'/>", False),
        ("<item jid='a@b.c'><group>four</group><group>ääa</group></item>", False),
        ("<item jid='a@b.c'><group>four</group><group>ää</group></item>", True),
        ("<item jid='a@b.c'><group>1</group><group>2</group><group>3</group></item>", False),
    ],
)
async def test_labels_of_contacts_at_exactly_the_bound(item: str, fits: bool) -> None:
    """In bytes, as the reference says."""
    async with World(settings={"limits": ROSTER}) as world:
        romeo = await world.login("romeo@example.org/x")
        romeo.send(f"<iq type='set' id='1'><query xmlns='jabber:iq:roster'>{item}</query></iq>")
        if fits:
            await romeo.expect("<iq id='1' type='result'/>")
        else:
            await romeo.expect(
                "<iq id='1' type='error'><error><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            )


def _hello(kind: str, to: str) -> str:
    return (
        f"<stream:stream xmlns='jabber:{kind}' xmlns:stream='http://etherx.jabber.org/streams' to='{to}' version='1.0'>"
    )


HELLO: Final = {
    "c2s": _hello("client", "a.example"),
    "s2s": _hello("server", "a.example"),
    "component": _hello("component:accept", "c.a.example"),
}


async def heard(port: int, host: str, local: str, hello: str) -> tuple[bool, asyncio.StreamWriter]:
    """Whether a connection from this address is let in."""
    reader, writer = await asyncio.open_connection(host, port, local_addr=(local, 0))
    writer.write(hello.encode())
    data = b""
    async with asyncio.timeout(10):
        while (
            b"<stream:features>" not in data and b"</stream:error>" not in data and b"from='c.a.example'>" not in data
        ):
            data += await reader.read(4_096)
    return b"too many connections from your address" not in data, writer


@pytest.mark.parametrize("kind", ["c2s", "s2s", "component"])
async def test_addresses_are_told_apart_on_a_socket_of_both_protocols(tmp_path: Path, kind: str) -> None:
    """IPv4 that comes as IPv6 counts by its own address, not as one network of everybody."""
    every = ("[::]:0",)
    tree: dict[str, Any] = {
        "c2s": {"listen": every, "direct_tls": (), "require_tls": False},
        "s2s": {"listen": every, "direct_tls": (), "trust": tmp_path / "authority.pem"},
        "limits": {"connections_per_address": 2},
        "component_listener": {"listen": every, "connections_per_address": 2},
        "components": {"c.a.example": {"secret": "s"}},
    }
    writers = []
    async with FederatedServer(Authority(tmp_path), Directory(), accounts=(), settings=tree) as server:
        port = {"c2s": server.port, "s2s": server.s2s_port, "component": server.component_port}[kind]
        let_in = []
        for host, local in (
            *[("127.0.0.1", "127.0.0.1")] * 3,
            *[("127.0.0.1", "127.0.0.2")] * 3,
            *[("::1", "::1")] * 3,
        ):
            welcome, writer = await heard(port, host, local, HELLO[kind])
            let_in.append(welcome)
            writers.append(writer)
        assert let_in == [True, True, False] * 3
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("how", ["nothing", "clear", "hello", "half"])
@pytest.mark.parametrize("direct", [False, True])
async def test_a_server_that_does_not_finish_is_sent_away(tmp_path: Path, direct: bool, how: str) -> None:
    """Whatever it has begun: a connection, a stream, a handshake that it makes byte by byte."""
    ca = Authority(tmp_path)
    tree = {
        "s2s": {
            "negotiation_seconds": 0.3,
            "direct_tls": ("127.0.0.1:0",),
            "trust": ca.file,
            "listen": ("127.0.0.1:0",),
        }
    }
    async with FederatedServer(ca, Directory(), accounts=(), settings=tree) as server:
        port = server.s2s_tls_port if direct else server.s2s_port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if not direct and how != "nothing":
            writer.write(HELLO["s2s"].encode())
            await reader.readuntil(b"</stream:features>")
            if how != "clear":
                writer.write(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
                await reader.readuntil(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        if how == "hello":
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # a ClientHello whose end never comes
        elif how == "half":
            writer.write(b"\x16\x03\x01")
        links: set[Link] = server.federation.links
        await until(lambda: bool(links))
        async with asyncio.timeout(10):
            while await reader.read(4_096):
                pass
        await until(lambda: not links and not server.federation._per_network)
        writer.close()
