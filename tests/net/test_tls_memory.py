from datetime import UTC, datetime
from pathlib import Path

import pytest
from OpenSSL import SSL

from beamish.net.certificate import Certificate, read_certificate
from beamish.net.tls_connection import TlsFailed
from beamish.net.tls_memory import MemoryTls, TlsContexts
from beamish.testing.federated import Authority


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def contexts(ca: Authority, *domains: str) -> TlsContexts:
    """One certificate per domain; whoever is not known gets the first."""
    table: dict[str, Certificate] = {}
    for domain in domains:
        certificate, _ = read_certificate(*ca.issue(domain), [domain], datetime.now(UTC))
        assert certificate is not None
        table[domain] = certificate
    return TlsContexts(lambda domain: table.get(domain, table[domains[0]]))


def shake(client: MemoryTls, server: MemoryTls) -> None:
    while True:
        out, back = client.outgoing(), server.outgoing()
        if not out and not back:
            return
        assert server.receive(out) == b""
        assert client.receive(back) == b""


def test_both_sides_see_each_others_certificates(ca: Authority) -> None:
    a, b = contexts(ca, "a.example"), contexts(ca, "b.example", "c.example")
    client = MemoryTls(a.client("a.example"), server=False, name="c.example", direct=True)
    server = MemoryTls(b.server("b.example"), server=True)
    shake(client, server)
    assert client.established and server.established
    assert [c.subject.rfc4514_string() for c in server.chain()] == ["CN=a.example"]
    assert [c.subject.rfc4514_string() for c in client.chain()] == ["CN=c.example"]  # chosen by SNI
    assert client.version == "TLSv1.3"


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 300_000])
@pytest.mark.parametrize("piece", [1_000, 1 << 20])
def test_bytes_go_through_whole(ca: Authority, size: int, piece: int) -> None:
    both = contexts(ca, "a.example")
    client = MemoryTls(both.client("a.example"), server=False)
    server = MemoryTls(both.server("a.example"), server=True)
    shake(client, server)
    data = bytes(n % 251 for n in range(size))
    wire = client.send(data)
    got = b"".join(server.receive(wire[at : at + piece]) for at in range(0, len(wire), piece))
    assert got == data
    assert data not in wire or size == 1


def test_an_orderly_end(ca: Authority) -> None:
    both = contexts(ca, "a.example")
    client = MemoryTls(both.client("a.example"), server=False)
    server = MemoryTls(both.server("a.example"), server=True)
    shake(client, server)
    client.close()
    assert server.receive(client.outgoing()) == b""
    assert server.ended


def test_what_is_no_tls(ca: Authority) -> None:
    server = MemoryTls(contexts(ca, "a.example").server("a.example"), server=True)
    with pytest.raises(TlsFailed, match=r"wrong version|http request|unknown protocol|packet length"):
        server.receive(b"<?xml version='1.0'?><stream:stream xmlns='jabber:server'>")


def test_old_versions_are_refused(ca: Authority) -> None:
    old = SSL.Context(SSL.TLS_METHOD)
    old.set_max_proto_version(SSL.TLS1_1_VERSION)
    old.set_cipher_list(b"ALL:@SECLEVEL=0")
    server = MemoryTls(contexts(ca, "a.example").server("a.example"), server=True)
    client = MemoryTls(old, server=False)
    with pytest.raises(TlsFailed):
        server.receive(client.outgoing())


def test_contexts_are_kept_and_bounded(ca: Authority) -> None:
    both = contexts(ca, "a.example")
    assert both.server("a.example") is both.server("unknown.example")
    assert both.server("a.example") is not both.client("a.example")
