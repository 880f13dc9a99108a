"""What the log says about clients, and what it never says."""

from __future__ import annotations

import asyncio
import base64
import random
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from beamish.testing import Client

if TYPE_CHECKING:
    from tests.system.conftest import Daemon, NotifySocket

PASSWORD = "Tr0ub4dor&3-correct-horse"
WRONG = "n0t-the-passw0rd-at-all"
OPENING = "xmlns:stream='http://etherx.jabber.org/streams' version='1.0'"
STREAMS = {
    "c2s starttls": "jabber:client",
    "s2s starttls": "jabber:server",
    "component plain": "jabber:component:accept",
}
WIRE = 'log = { level = "debug", format = "json", wire = true }'


async def plain_login(client: Client, password: str, pieces: Callable[[bytes], list[bytes]]) -> str:
    """SASL PLAIN over TLS, the element sent in pieces that arrive one by one; what it was answered with."""
    await client.open_stream("example.org")
    await client.start_tls("example.org")
    payload = base64.b64encode(f"\0romeo\0{password}".encode()).decode()
    element = f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{payload}</auth>".encode()
    for piece in pieces(element):
        client.send(piece)  # a TLS record each, so that the server reads each by itself
    answer = await client.receive()
    return str(answer.tag).rpartition("}")[2]


async def test_who_came_and_who_failed_is_logged(daemon: Daemon) -> None:
    await daemon.start()
    await daemon.add("romeo@example.org", PASSWORD)
    romeo = await daemon.client("romeo@example.org/orchard", PASSWORD)
    assert await plain_login(await daemon.connect(), WRONG, lambda data: [data]) == "failure"
    await romeo.close()
    assert await daemon.stop() == 0

    (authenticated,) = daemon.events("authenticated")
    assert authenticated["user"] == "romeo@example.org"
    assert authenticated["mechanism"] == "SCRAM-SHA-256"
    assert authenticated["tls"] == "TLSv1.3"
    assert authenticated["peer"].startswith("127.0.0.1:")
    (bound,) = daemon.events("bound")
    assert (bound["jid"], bound["stream"]) == ("romeo@example.org/orchard", authenticated["stream"])
    (failed,) = daemon.events("auth_failed")
    assert (failed["user"], failed["mechanism"]) == ("romeo@example.org", "PLAIN")
    assert failed["peer"].startswith("127.0.0.1:")
    assert {authenticated["stream"], failed["stream"]} <= {each["stream"] for each in daemon.events("disconnected")}
    (added,) = daemon.events("account_added")
    assert added["user"] == "romeo@example.org"


async def test_the_wire_log_is_switched_on_and_off_for_every_kind_of_stream(
    make_daemon: Callable[..., Daemon], notify_socket: NotifySocket
) -> None:
    quiet, wire = 'log = { level = "debug", format = "json" }', WIRE
    sections = '[component_listener]\nlisten = ["127.0.0.1:0"]\n[components."bot.example.org"]\nsecret = "x"'
    daemon = make_daemon(server=quiet, rest=sections)
    await daemon.start(NOTIFY_SOCKET=str(notify_socket.path))
    await notify_socket.until("READY=1")

    async def seen() -> set[str]:
        """The namespaces of the streams that are in the log, of three that are opened and answered."""
        before = len(daemon.events("rx"))
        for kind, namespace in STREAMS.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", daemon.ports[kind])
            to = "bot.example.org" if kind.startswith("component") else "example.org"
            writer.write(f"<stream:stream xmlns='{namespace}' {OPENING} to='{to}'>".encode())
            await asyncio.wait_for(reader.readuntil(b"<stream:stream"), 30)
            writer.close()
        text = "".join(each["data"] for each in daemon.events("rx")[before:])
        return {namespace for namespace in STREAMS.values() if namespace in text}

    assert await seen() == set()
    for settings, expected in ((wire, set(STREAMS.values())), (quiet, set())):
        (daemon.directory / "beamish.toml").write_text(daemon.config.replace(quiet, settings))
        daemon.signal(signal.SIGHUP)
        await notify_socket.until("READY=1")
        assert await seen() == expected


@pytest.mark.parametrize("server", ['log = { level = "debug", format = "json" }', WIRE], ids=["debug", "wire"])
async def test_no_password_is_ever_logged(make_daemon: Callable[..., Daemon], server: str) -> None:
    daemon = make_daemon(server=server)
    await daemon.start()
    await daemon.add("romeo@example.org", PASSWORD)
    romeo = await daemon.client("romeo@example.org/orchard", PASSWORD)
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)

    def crumbs(data: bytes) -> list[bytes]:
        cuts = sorted(random_.sample(range(1, len(data)), 3))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    for password, outcome in ((PASSWORD, "success"), (WRONG, "failure")):
        assert await plain_login(await daemon.connect(), password, lambda data: [data]) == outcome
        # the start tag cut in its name: neither piece looks like a credential by itself
        assert await plain_login(await daemon.connect(), password, lambda data: [data[:3], data[3:]]) == outcome
        assert await plain_login(await daemon.connect(), password, crumbs) == outcome
        as_cdata = await daemon.connect()
        assert await plain_login(as_cdata, password, in_cdata) == outcome
    secret = PASSWORD.replace("&", "&amp;")
    form = f"<query xmlns='jabber:iq:register'><username>romeo</username><password>{secret}</password></query>"
    for pieces in ([form], [form[: form.index(secret)], form[form.index(secret) :]]):
        romeo.send("<iq type='set' id='change'>")
        for piece in pieces:
            romeo.send(piece)
        romeo.send("</iq>")
        await romeo.receive()
    await romeo.close()
    assert await daemon.stop() == 0

    text = daemon.log.read_text()
    assert len(daemon.events("authenticated")) == 5, seed
    if server == WIRE:
        assert "mechanism='PLAIN'" in text, "the wire log does not show what it should"
        assert "jabber:iq:register" in text
    for password in (PASSWORD, WRONG):
        for form in (
            password,
            base64.b64encode(f"\0romeo\0{password}".encode()).decode(),
            password.replace("&", "&amp;"),
        ):
            # any ten characters in a row would be too many
            for start in range(len(form) - 9):
                assert form[start : start + 10] not in text, f"seed {seed}: part of {form} is in the log"


def in_cdata(element: bytes) -> list[bytes]:
    """The same element to a parser, with the payload in a CDATA section."""
    start, payload = element.split(b">", 1)
    payload = payload.removesuffix(b"</auth>")
    return [start + b"><![CDATA[" + payload[:9], payload[9:] + b"]]></auth>"]
