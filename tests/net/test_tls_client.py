"""TLS in memory for client connections, against the standard library's client side on a transport that records."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from beamish.net.certificate import read_certificate
from beamish.net.connection import Flusher
from beamish.net.tls_client import ClientConnection, ClientTls
from beamish.net.tls_connection import TlsFailed
from beamish.testing.federated import Authority


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    certificate, _ = read_certificate(*Authority(tmp_path).issue("a.example"), ["a.example"], datetime.now(UTC))
    assert certificate is not None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.num_tickets = 0
    certificate.load_into(made)
    return made


class Peer:
    """The client: `wire` is what it wants to send over the network."""

    def __init__(self, **settings: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for name, value in settings.items():
            setattr(context, name, value)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out)

    def shake(self, data: bytes = b"") -> bytes:
        self._in.write(data)
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._out.read()

    def say(self, data: bytes) -> bytes:
        assert self.tls.write(data) == len(data)
        return self._out.read()

    def hear(self, data: bytes) -> bytes:
        """Everything that came, and at the end of the TLS connection `.` behind it."""
        self._in.write(data)
        heard = b""
        with suppress(ssl.SSLWantReadError):
            while True:
                try:
                    heard += (piece := self.tls.read(65_536))
                except ssl.SSLZeroReturnError:
                    piece = b""
                if not piece:
                    return heard + b"."
        return heard

    def end(self) -> bytes:
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        return self._out.read()


def shaken(context: ssl.SSLContext, peer: Peer) -> ClientTls:
    server = ClientTls(context)
    while not server.established:
        assert server.receive(peer.shake(server.outgoing())) == b""
    peer.shake(server.outgoing())
    return server


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
@pytest.mark.parametrize("size", [1, 4_096, 4_097, 16_384, 16_385, 300_000])
@pytest.mark.parametrize("piece", [7, 5_000, 1 << 20])
def test_bytes_go_through_whole(context: ssl.SSLContext, version: ssl.TLSVersion, size: int, piece: int) -> None:
    peer = Peer(minimum_version=version, maximum_version=version)
    server = shaken(context, peer)
    data = bytes(n % 251 for n in range(size))
    if piece * 10_000 > size:  # otherwise it takes too long and shows nothing new
        wire = b"".join(peer.say(data[at : at + 16_384]) for at in range(0, size, 16_384))
        assert b"".join(server.receive(wire[at : at + piece]) for at in range(0, len(wire), piece)) == data
    wire = server.send(data)
    assert data not in wire or size == 1
    assert peer.hear(wire) == data


@VERSIONS
def test_data_may_come_with_the_end_of_the_handshake(context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    peer = Peer(minimum_version=version, maximum_version=version)
    server = ClientTls(context)
    server.receive(peer.shake())
    last = peer.shake(server.outgoing())
    if version is ssl.TLSVersion.TLSv1_3:
        assert server.receive(last + peer.say(b"<stream>")) == b"<stream>"
    else:
        assert server.receive(last) == b""
    assert server.established


@VERSIONS
def test_either_side_may_end(context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    peer = Peer(minimum_version=version, maximum_version=version)
    server = shaken(context, peer)
    assert server.receive(peer.say(b"last") + peer.end()) == b"last"
    assert server.ended
    assert server.receive(b"more") == b""
    peer = Peer(minimum_version=version, maximum_version=version)
    server = shaken(context, peer)
    wire = server.send(b"bye")
    server.close()
    assert peer.hear(wire + server.outgoing()) == b"bye."


def test_what_is_no_tls_is_told_so(context: ssl.SSLContext) -> None:
    server = ClientTls(context)
    with pytest.raises(TlsFailed):
        server.receive(b"<?xml version='1.0'?><stream:stream xmlns='jabber:client'>")
    assert not server.established


def test_what_was_changed_on_the_way_is_an_error(context: ssl.SSLContext) -> None:
    peer = Peer()
    server = shaken(context, peer)
    wire = bytearray(peer.say(b"<message/>"))
    wire[-1] ^= 1
    with pytest.raises(TlsFailed):
        server.receive(bytes(wire))


class Wire(asyncio.Transport):
    """Keeps what is written; `close` and `abort` are told."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.end = ""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        assert not self.end
        self.sent += bytes(data)

    def take(self) -> bytes:
        data, self.sent = self.sent, b""
        return data

    def is_closing(self) -> bool:
        return bool(self.end)

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = "aborted"


class Subject(ClientConnection):
    def __init__(self) -> None:
        super().__init__(Flusher(), 1_000_000)
        self.heard: list[bytes] = []
        self.told: list[str] = []

    def plain_received(self, data: bytes) -> None:
        self.heard.append(data)

    def secured(self) -> None:
        assert self.tls is not None
        self.told.append(str(self.tls.object.version()))

    def tls_failed(self, reason: str) -> None:
        self.told.append(reason)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return False


@pytest.fixture
def subject() -> tuple[Subject, Wire]:
    connection, wire = Subject(), Wire()
    connection.connection_made(wire)
    return connection, wire


def secured(subject: tuple[Subject, Wire], context: ssl.SSLContext, peer: Peer) -> None:
    connection, wire = subject
    connection.begin_tls(context)
    assert connection.shaking
    while not connection.secure:
        connection.data_received(peer.shake(wire.take()))
    peer.shake(wire.take())
    assert not connection.shaking


async def test_from_clear_text_to_tls(subject: tuple[Subject, Wire], context: ssl.SSLContext) -> None:
    connection, wire = subject
    connection.data_received(b"<starttls/>")
    connection.write(b"<proceed/>")
    assert not connection.secure
    peer = Peer()
    connection.begin_tls(context)
    assert wire.take() == b"<proceed/>"
    assert connection.write(b"too early")
    await asyncio.sleep(0)
    assert wire.take() == b"", "nothing goes out in the clear, nor before the handshake is done"
    secured(subject, context, peer)
    connection.write(b"<a/>")
    connection.write(b"<b/>")
    await asyncio.sleep(0)
    assert peer.hear(wire.take()).endswith(b"<a/><b/>")
    connection.data_received(peer.say(b"<c/>"))
    assert connection.heard == [b"<starttls/>", b"<c/>"]
    assert connection.told == ["TLSv1.3"]


async def test_what_was_written_early_goes_out_behind_the_handshake(
    subject: tuple[Subject, Wire], context: ssl.SSLContext
) -> None:
    connection, wire = subject
    peer = Peer()
    connection.begin_tls(context)
    connection.write(b"early")
    await asyncio.sleep(0)
    assert wire.take() == b""
    while not connection.secure:
        connection.data_received(peer.shake(wire.take()))
    peer.shake()
    assert peer.hear(wire.take()) == b"early"


def test_the_end_is_said_on_every_layer(subject: tuple[Subject, Wire], context: ssl.SSLContext) -> None:
    connection, wire = subject
    peer = Peer()
    secured(subject, context, peer)
    connection._out.append(b"bye")
    connection.finish()
    assert peer.hear(wire.take()) == b"bye."
    assert wire.end == "closed"


def test_the_peers_end_is_an_end_of_input(subject: tuple[Subject, Wire], context: ssl.SSLContext) -> None:
    connection, wire = subject
    peer = Peer()
    secured(subject, context, peer)
    connection.data_received(peer.say(b"last") + peer.end())
    assert connection.heard == [b"last"]
    assert connection.told[-1] == "eof"
    assert wire.end == "closed"


@pytest.mark.parametrize("when", ["handshake", "later"])
def test_a_failure_is_told_with_its_alert(when: str, subject: tuple[Subject, Wire], context: ssl.SSLContext) -> None:
    connection, wire = subject
    peer = Peer()
    if when == "later":
        secured(subject, context, peer)
    else:
        connection.begin_tls(context)
    connection.data_received(b"<stream:stream>" * 5)
    assert "eof" not in connection.told
    assert len(connection.told) == (2 if when == "later" else 1)
    assert bool(wire.take()) is (when == "later"), "an alert, where the peer speaks TLS"
    assert connection.heard == []


async def test_sending_may_fail(subject: tuple[Subject, Wire], context: ssl.SSLContext) -> None:
    connection, wire = subject
    peer = Peer()
    secured(subject, context, peer)
    assert connection._tls is not None
    connection._tls.close()  # OpenSSL takes nothing more from here on
    connection.write(b"x")
    await asyncio.sleep(0)
    assert len(connection.told) == 2
    assert not connection._out
    assert wire.sent == b""


async def test_what_tls_says_by_itself_goes_out_at_once(subject: tuple[Subject, Wire], context: ssl.SSLContext) -> None:
    """The answer to a change of keys (RFC 8446 §4.6.3) does not wait for something of ours."""
    connection, wire = subject
    peer = Peer()
    secured(subject, context, peer)
    assert connection._tls is not None
    connection._tls._out.write(b"record")  # as OpenSSL does; the standard library's client cannot ask for it
    connection.data_received(peer.say(b"<a/>"))
    assert wire.take() == b"record"
    assert connection.heard == [b"<a/>"]
