"""Client connections on real sockets, with both event loops."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from tests.net.written import HEADER, SASL, STARTTLS, plain
from tests.stream.sasl.test_scram import Client as ScramClient

from beamish.core import events
from beamish.core.hooks import Row
from beamish.net.c2s import C2SConnection
from beamish.testing import Client
from beamish.testing.live import LiveServer, connect, trust
from beamish.testing.world import PASSWORD
from beamish.xmpp.jid import JID

Run = Callable[[Coroutine[Any, Any, Any]], Any]

# ---- real sockets -----------------------------------------------------------------------------------------------------


async def opened(server: LiveServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(HEADER.encode())
    await reader.readuntil(b"</stream:features>")
    return reader, writer


class Watched(set[C2SConnection]):
    """The server's connections, for those who wait until there are none."""

    def __init__(self, connections: set[C2SConnection]) -> None:
        super().__init__(connections)
        self.empty = asyncio.Event()

    def discard(self, connection: C2SConnection) -> None:
        super().discard(connection)
        if not self:
            self.empty.set()


async def gone(server: LiveServer) -> None:
    """Wait until the server holds no connection any more."""
    if server.c2s.connections:
        server.c2s.connections = watched = Watched(server.c2s.connections)
        await asyncio.wait_for(watched.empty.wait(), 5)
    assert not server.c2s.per_network


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize("direct", [False, True], ids=["starttls", "direct"])
def test_over_tls(direct: bool, run: Run) -> None:
    async def play() -> None:
        async with LiveServer() as server:
            romeo = await server.client("romeo@example.org/orchard", direct_tls=direct)
            juliet = await server.client("juliet@example.org/a", direct_tls=not direct)
            romeo.send(f"<message to='{juliet.jid}' id='1'><body>{'x' * 100_000}</body></message>")
            await juliet.expect("<message id='1'/>")
            romeo.send("</stream:stream>")
            await romeo.expect_closed()

    run(play())


@pytest.mark.parametrize("behind", [b"<iq/>", HEADER.encode(), b"\x16\x03\x01"], ids=["stanza", "header", "hello"])
def test_bytes_behind_starttls_are_an_error(behind: bytes, run: Run) -> None:
    async def play() -> None:
        async with LiveServer() as server:
            reader, writer = await opened(server)
            writer.write(STARTTLS.encode() + behind)
            answer = await reader.readuntil(b"</stream:stream>")
            assert b"<policy-violation " in answer
            assert b"<proceed" not in answer
            await closed(writer)
            await gone(server)

    run(play())


def test_bytes_injected_into_the_handshake_are_not_heard(run: Run) -> None:
    async def play() -> None:
        async with LiveServer() as server:
            reader, writer = await opened(server)
            writer.write(STARTTLS.encode())
            await reader.readuntil(b"/>")
            writer.write(HEADER.encode() + plain("romeo", PASSWORD).encode())
            rest = await reader.read()
            assert b"success" not in rest
            assert b"stream:features" not in rest
            await closed(writer)
            await gone(server)

    run(play())


@pytest.mark.parametrize("way", ["garbage", "vanish", "half"])
def test_a_handshake_that_fails_leaves_nothing_behind(way: str, run: Run) -> None:
    async def play() -> None:
        async with LiveServer() as server:
            reader, writer = await opened(server)
            writer.write(STARTTLS.encode())
            await reader.readuntil(b"/>")
            if way == "garbage":
                writer.write(b"\x00" * 100)
                await reader.read()
            elif way == "half":
                writer.write(b"\x16\x03\x01\x02\x00")
                writer.write_eof()
            await closed(writer)
            await gone(server)

    run(play())


def test_a_stranger_in_the_handshake_is_sent_away_in_time(run: Run) -> None:
    async def play() -> None:
        async with LiveServer(settings={"limits": {"unauthenticated_seconds": 0.2}}) as server:
            reader, writer = await opened(server)
            writer.write(STARTTLS.encode())
            await reader.readuntil(b"/>")
            rest = await reader.read()
            assert b"stream:error" not in rest, "nothing in the clear goes into a handshake"
            await closed(writer)
            await gone(server)

    run(play())


def test_garbage_instead_of_direct_tls(run: Run) -> None:
    async def play() -> None:
        async with LiveServer() as server:
            reader, writer = await asyncio.open_connection(server.host, server.tls_port)
            writer.write(b"<stream:stream>" * 10)
            await reader.read()
            await closed(writer)
            await gone(server)

    run(play())


def test_half_a_connection_over_tcp(run: Run) -> None:
    async def play() -> None:
        async with LiveServer(settings={"c2s": {"require_tls": False}}) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(HEADER.encode() + plain("romeo", PASSWORD).encode())
            await reader.readuntil(b"<success")
            bind = b"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
            ping = b"<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>"
            writer.write(HEADER.encode() + bind + ping)
            writer.write_eof()
            answer = await reader.read()  # to the end: the server closes too
            assert b"id='p'" in answer
            assert answer.endswith(b"</stream:stream>")
            await closed(writer)
            await gone(server)

    run(play())


def test_a_reset_in_the_middle_of_a_session(run: Run) -> None:
    async def play() -> None:
        async with LiveServer() as server:
            romeo = await server.client("romeo@example.org/orchard")
            romeo.send("<message to='juliet@exa")
            romeo.drop()
            await gone(server)
            assert not len(server.kernel.sessions)

    run(play())


def test_a_reader_that_stops_is_cut_over_tcp(run: Run) -> None:
    async def play() -> None:
        limits = {"unsent_bytes": 300_000, "stanza_bytes": 100_000}
        async with LiveServer(settings={"limits": limits, "c2s": {"require_tls": False}}) as server:
            plug = socket.socket()
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            plug.setblocking(False)
            await asyncio.get_running_loop().sock_connect(plug, (server.host, server.port))
            reader, writer = await asyncio.open_connection(sock=plug, limit=1_024)
            writer.write(HEADER.encode() + plain("juliet", PASSWORD).encode())
            await reader.readuntil(b"<success")
            bind = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>a</resource></bind></iq>"
            bound = asyncio.Event()
            server.kernel.hooks[events.session_bound].add(Row(1, "test", lambda _: bound.set()))
            writer.write((HEADER + bind).encode())
            await bound.wait()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            romeo = await server.client("romeo@example.org/orchard")
            async with asyncio.timeout(8):
                n = 0
                while server.kernel.sessions.of(JID.parse("juliet@example.org")).all:
                    romeo.send(
                        f"<message to='juliet@example.org/a' type='headline'><body>{'x' * 50_000}</body></message>"
                    )
                    n += 1
                    await romeo.iq(f"<iq type='get' id='{n}' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
            writer.transport.abort()

    run(play())


def test_alpn_and_the_version_of_tls(run: Run) -> None:
    async def play() -> None:
        async with LiveServer() as server:
            context = trust(server.ca)
            reader, writer = await asyncio.open_connection(
                server.host, server.tls_port, ssl=context, server_hostname="example.org"
            )
            session: ssl.SSLObject = writer.get_extra_info("ssl_object")
            assert session.selected_alpn_protocol() == "xmpp-client"
            assert session.version() in ("TLSv1.2", "TLSv1.3")
            writer.write(HEADER.encode())
            features = await reader.readuntil(b"</stream:features>")
            assert b"SCRAM-SHA-256-PLUS" in features
            assert b"<starttls" not in features
            await closed(writer)
            await gone(server)

    run(play())


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_channel_binding_of_old_clients(run: Run, version: ssl.TLSVersion, right: bool) -> None:
    """With gloox and slixmpp 1.8 it is tls-unique alone, with TLS 1.3 in the latter, too; nobody in between has the same."""

    async def play() -> None:
        async with LiveServer() as server:
            await (await server.client("romeo@example.org/orchard")).close()  # makes the account
            context = trust(server.ca)
            context.maximum_version = version
            reader, writer = await asyncio.open_connection(
                server.host, server.tls_port, ssl=context, server_hostname="example.org"
            )
            session: ssl.SSLObject = writer.get_extra_info("ssl_object")
            assert session.version() == version.name.replace("_", ".")
            unique = session.get_channel_binding("tls-unique")
            assert unique is not None
            client = ScramClient(
                "SHA-256", server.password, "romeo", "p=tls-unique,,", unique if right else unique[::-1]
            )
            first = base64.b64encode(client.first()).decode()
            writer.write(f"{HEADER}<auth xmlns='{SASL}' mechanism='SCRAM-SHA-256-PLUS'>{first}</auth>".encode())
            challenge = (await reader.readuntil(b"</challenge>")).rpartition(b"</")[0].rpartition(b">")[2]
            final = base64.b64encode(client.final(base64.b64decode(challenge))).decode()
            writer.write(f"<response xmlns='{SASL}'>{final}</response>".encode())
            await reader.readuntil(b"</success>" if right else b"</failure>")
            await closed(writer)
            await gone(server)

    run(play())


def test_clients_of_the_kit_are_real(run: Run) -> None:
    async def play() -> None:
        async with LiveServer() as server:
            client: Client = await server.connect()
            features = await client.open_stream("example.org")
            assert [str(el.tag).rpartition("}")[2] for el in features] == ["starttls"]
            client.send("<message/>")
            await client.expect_closed("not-authorized")

    run(play())


@pytest.mark.parametrize("direct_tls", [False, True], ids=["starttls", "direct"])
async def test_both_types_of_channel_binding_are_offered(direct_tls: bool) -> None:
    """XEP-0440; clients that do not read it take tls-exporter for granted (RFC 9266 §3)."""
    async with LiveServer() as server:
        client = await server.connect("example.org", direct_tls=direct_tls)
        features = await client.open_stream("example.org")
        if not direct_tls:
            features = await client.start_tls("example.org")
        types = [el.get("type") for el in features.iter("{urn:xmpp:sasl-cb:0}channel-binding")]
        assert types == ["tls-exporter", "tls-server-end-point"]


@pytest.mark.parametrize(("most", "told"), [(ssl.TLSVersion.TLSv1_2, "0303"), (ssl.TLSVersion.TLSv1_3, "0304")])
async def test_the_version_of_tls_is_told_under_the_servers_signature(most: ssl.TLSVersion, told: str) -> None:
    """XEP-0515."""
    async with LiveServer() as server:
        context = trust(server.ca)
        context.maximum_version = most
        client = await connect(server.host, server.tls_port, "example.org", context, direct_tls=True)
        await client.open_stream("example.org")
        first = base64.b64encode(b"n,,n=romeo,r=abcdef").decode()
        client.send(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>{first}</auth>")
        challenge = await client.expect("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        assert base64.b64decode(challenge.text or "").decode().rpartition(",")[2] == f"t={told}"
        client.drop()
    async with LiveServer(settings={"c2s": {"require_tls": False}}) as server:
        plain = await connect(server.host, server.port, "example.org")
        await plain.open_stream("example.org")
        plain.send(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>{first}</auth>")
        challenge = await plain.expect("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        assert b",t=" not in base64.b64decode(challenge.text or "")
        plain.drop()
