"""What a peer can do with TLS alone, which no limit of a stream sees: on both layers, on connections, and on real servers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.net.tls_records import Records, shake
from tests.watched import until

from beamish.net.certificate import read_certificate
from beamish.net.connection import Flusher
from beamish.net.s2s_in import S2SInLink
from beamish.net.throttle import Bucket
from beamish.net.tls_client import ClientConnection, ClientTls
from beamish.net.tls_connection import OVERHEAD, RECORD, TlsConnection, TlsFailed, TlsLayer
from beamish.net.tls_memory import MemoryTls, ServerConnection, TlsContexts
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory

Made = Callable[[], TlsLayer]


class Stranger:
    """A TLS client that makes its records itself."""

    def __init__(self, directory: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._keys = directory / "keys"
        self._keys.unlink(missing_ok=True)
        context.keylog_filename = str(self._keys)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)

    def shake(self, server: TlsLayer) -> Records:
        def exchange(data: bytes) -> bytes:
            assert server.receive(data) == b""
            return server.outgoing()

        shake(self.tls, self.incoming, self.outgoing, exchange)
        assert server.established
        return Records.of(self.tls, self._keys)

    def hear(self, data: bytes) -> bytes:
        self.incoming.write(data)
        heard = b""
        try:
            while piece := self.tls.read(65_536):
                heard += piece
        except ssl.SSLWantReadError:
            pass
        return heard


@pytest.fixture(params=["client", "server"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """The server's end: of clients' connections, and of other servers'."""
    certificate, _ = read_certificate(*Authority(tmp_path).issue("a.example"), ["a.example"], datetime.now(UTC))
    assert certificate is not None
    if request.param == "server":
        contexts = TlsContexts(lambda _domain: certificate)
        return lambda: MemoryTls(contexts.server("a.example"), server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_into(context)
    return lambda: ClientTls(context)


@pytest.mark.parametrize("both", [False, True])
def test_changes_of_keys_without_end(made: Made, tmp_path: Path, both: bool) -> None:
    """They are cut off before they cost more than a handshake does."""
    server = made()
    records = Stranger(tmp_path).shake(server)
    for _ in range(RECORD // 27 // 50):
        assert server.receive(b"".join(records.new_keys(both=both) for _ in range(50))) == b""
    with pytest.raises(TlsFailed, match="too much without content"):
        server.receive(b"".join(records.new_keys(both=both) for _ in range(50)))


def test_changes_of_keys_between_content(made: Made, tmp_path: Path) -> None:
    """Of those who have something to say they may be as many as they like."""
    server = made()
    records = Stranger(tmp_path).shake(server)
    for n in range(2_000):
        assert server.receive(records.new_keys(both=False) + records.content(b"<r/>")) == b"<r/>", n


def test_signs_of_life_are_content(made: Made, tmp_path: Path) -> None:
    server = made()
    records = Stranger(tmp_path).shake(server)
    for _ in range(3_000):
        assert server.receive(records.content(b" ")) == b" "


@pytest.mark.parametrize("piece", [1, 1_448])
def test_a_record_may_come_in_pieces(made: Made, tmp_path: Path, piece: int) -> None:
    server = made()
    records = Stranger(tmp_path).shake(server)
    for data in (b"a" * 16_384, b"b" * 16_384):
        wire = records.content(data)
        assert b"".join(server.receive(wire[at : at + piece]) for at in range(0, len(wire), piece)) == data


def test_what_tls_answers_does_not_pile_up(made: Made, tmp_path: Path) -> None:
    """Whoever is asked to change keys says so, though it has nothing else to say: what is unsaid is in memory."""
    server, peer = made(), Stranger(tmp_path)
    records = peer.shake(server)
    answered = 0
    for _ in range(5_000):
        server.receive(records.new_keys(both=True) + records.content(b" " * 50))
        if server.pending:
            answered += len(data := server.outgoing())
            peer.hear(data)
    unsaid = server.outgoing()
    assert len(unsaid) < 27 * 1_000
    assert 27 * 4_999 <= answered + len(unsaid) <= 27 * 5_000  # the last answer comes with the next record
    peer.hear(unsaid)
    assert peer.hear(server.send(b"after all")) == b"after all"


class Wire(asyncio.Transport):
    """A socket whose peer does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.end = ""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return len(self.sent)

    def write(self, data: Any) -> None:
        assert not self.end
        self.sent += bytes(data)

    def is_closing(self) -> bool:
        return bool(self.end)

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = "aborted"


class _Told:
    """What a connection was told."""

    def __init__(self) -> None:
        super().__init__(Flusher(), 10_000)  # type: ignore[call-arg]
        self.heard = 0
        self.lean = 0
        self.slow = 0

    def plain_received(self, data: bytes) -> None:
        self.heard += len(data)

    def overhead(self, size: int) -> None:
        self.lean += size

    def too_slow(self) -> None:
        self.slow += 1


class FromClient(_Told, ClientConnection): ...


class FromServer(_Told, ServerConnection): ...


def connected(made: Made, tmp_path: Path) -> tuple[FromClient | FromServer, Wire, Records]:
    layer = made()
    connection: Any = FromClient() if isinstance(layer, ClientTls) else FromServer()
    assert isinstance(connection, TlsConnection)
    wire = Wire()
    connection.connection_made(wire)
    connection.go_on_in(layer)
    peer = Stranger(tmp_path)

    def exchange(data: bytes) -> bytes:
        connection.data_received(data)
        said, wire.sent = wire.sent, b""
        return said

    shake(peer.tls, peer.incoming, peer.outgoing, exchange)
    return connection, wire, Records.of(peer.tls, peer._keys)


def test_tiny_records_are_told_of(made: Made, tmp_path: Path) -> None:
    """Each costs what a stanza's worth of content does; now and then one is free."""
    connection, _, records = connected(made, tmp_path)
    for _ in range(1_000):
        connection.data_received(records.content(b" "))
    assert connection.lean == 0
    for _ in range(1_000):
        connection.data_received(records.content(b" "))
    assert connection.lean == 2_000 * (23 - 3) - RECORD
    connection.data_received(records.content(b"x" * 16_000))
    for _ in range(1_000):
        connection.data_received(records.content(b" "))
    assert connection.lean == 2_000 * (23 - 3) - RECORD
    assert connection.heard == 2_000 + 16_000 + 1_000


@pytest.mark.parametrize("size", [40, 400, 16_384])
@pytest.mark.parametrize("piece", [100, 1_448, 1 << 20])
def test_ordinary_content_costs_nothing_more(made: Made, tmp_path: Path, size: int, piece: int) -> None:
    connection, _, records = connected(made, tmp_path)
    wire = b"".join(records.content(b"x" * size) for _ in range(200_000 // size))
    for at in range(0, len(wire), piece):
        connection.data_received(wire[at : at + piece])
    assert connection.heard == 200_000 // size * size
    assert connection.lean == 0


async def test_who_makes_tls_talk_and_does_not_read_is_cut(made: Made, tmp_path: Path) -> None:
    connection, wire, records = connected(made, tmp_path)
    for _ in range(100):
        if wire.end:
            break
        connection.data_received(b"".join(records.new_keys(both=True) + records.content(b"x" * 50) for _ in range(600)))
    assert wire.end == "aborted"
    assert len(wire.sent) < 10_000 + 65_536
    await asyncio.sleep(0)
    assert connection.slow == 1


# ---- on real servers --------------------------------------------------------------------------------------------------


class OnSocket:
    """A stranger's connection to a port that speaks TLS from the first byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, records: Records) -> None:
        self.reader, self.writer, self.records = reader, writer, records

    @classmethod
    async def open(cls, port: int, directory: Path) -> OnSocket:
        peer = Stranger(directory)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            try:
                peer.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(peer.outgoing.read())
                peer.incoming.write(await reader.read(65_536))
        writer.write(peer.outgoing.read())
        return cls(reader, writer, Records.of(peer.tls, peer._keys))

    async def closed(self) -> None:
        async with asyncio.timeout(10):
            try:
                while await self.reader.read(65_536):
                    pass
            except ConnectionResetError:
                pass
        self.writer.close()


@pytest.fixture
async def server(tmp_path: Path) -> Any:
    ca = Authority(tmp_path)
    tree = {"c2s": {"listen": ("127.0.0.1:0",), "direct_tls": ("127.0.0.1:0",), "require_tls": False}}
    async with FederatedServer(ca, Directory(), accounts=("romeo@a.example",), settings=tree) as made:
        yield made


@pytest.mark.parametrize("kind", ["c2s", "s2s"])
@pytest.mark.parametrize("how", ["keys", "tiny"])
async def test_strangers_are_sent_away(server: FederatedServer, tmp_path: Path, kind: str, how: str) -> None:
    """Before a login no bucket slows anybody down."""
    port = server.tls_port if kind == "c2s" else server.s2s_tls_port
    stranger = await OnSocket.open(port, tmp_path)
    records = stranger.records
    await until(lambda: any(link.secure for link in (*server.c2s.connections, *server.federation.links)))
    for _ in range(3_000):
        stranger.writer.write(records.new_keys(both=True) if how == "keys" else records.content(b" "))
    await stranger.closed()
    await until(lambda: not server.c2s.connections and not server.federation.links)


@pytest.mark.parametrize("kind", ["c2s", "s2s"])
async def test_tiny_records_use_up_the_rate(
    server: FederatedServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is known is read more slowly, by what the records have cost, and loses nothing."""
    romeo = await server.client("romeo@a.example/x")
    link: Any
    if kind == "c2s":
        [link] = server.c2s.connections
    else:
        link = S2SInLink(server.federation)
        link.limit("b.example")
        link.abort()
    taken: list[float] = []
    monkeypatch.setattr(Bucket, "take", lambda _self, count, _clock: taken.append(count) or 0.5)
    link.overhead(5_000)
    assert taken == [OVERHEAD * 5_000, 0]
    assert link._throttled
    monkeypatch.undo()
    romeo.send("<iq type='get' id='1' to='a.example'><ping xmlns='urn:xmpp:ping'/></iq>")
    await romeo.expect("<iq type='result' id='1'/>")
