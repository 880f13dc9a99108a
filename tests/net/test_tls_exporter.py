"""The binding of a connection, against pyOpenSSL, which has a function for it."""

from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from OpenSSL import SSL

from beamish.net import tls_exporter as module
from beamish.net.certificate import keep_self_signed
from beamish.net.tls_exporter import tls_exporter, tls_unique, tls_version

LABEL = b"EXPORTER-Channel-Binding"


def shaken(directory: Path, most: int = SSL.TLS1_3_VERSION) -> tuple[ssl.SSLObject, SSL.Connection]:
    """A server of the standard library and a client of pyOpenSSL, in memory, their handshake done."""
    return shake(*contexts(directory, most))


def contexts(directory: Path, most: int) -> tuple[ssl.SSLContext, SSL.Context]:
    """For the two ends; the client speaks no later version of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keep_self_signed(directory, ["example.org"], (), datetime.now(UTC)))
    theirs = SSL.Context(SSL.TLS_METHOD)
    theirs.set_max_proto_version(most)
    return context, theirs


def shake(
    context: ssl.SSLContext, theirs: SSL.Context, session: SSL.Session | None = None
) -> tuple[ssl.SSLObject, SSL.Connection]:
    """A handshake of both; the client asks to take this session up again."""
    client = SSL.Connection(theirs, None)
    if session is not None:
        client.set_session(session)
    client.set_connect_state()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    for _ in range(4):
        for step in (client.do_handshake, server.do_handshake):
            with contextlib.suppress(SSL.WantReadError, ssl.SSLWantReadError):
                step()
            with contextlib.suppress(SSL.WantReadError):
                incoming.write(client.bio_read(65536))
            if outgoing.pending:
                client.bio_write(outgoing.read())
    return server, client


def test_both_ends_export_the_same(tmp_path: Path) -> None:
    """RFC 9266 §2: the label, an empty context, 32 bytes."""
    seen = set()
    for _ in range(3):
        server, client = shaken(tmp_path)
        assert server.version() == "TLSv1.3"
        exported = tls_exporter(server)
        assert exported == client.export_keying_material(LABEL, 32, b"")
        seen.add(exported)
    assert len(seen) == 3


def test_both_ends_know_the_first_finished_message(tmp_path: Path) -> None:
    """RFC 5929 §3: in a full handshake that of the client."""
    seen = set()
    for _ in range(3):
        server, client = shaken(tmp_path)
        unique = tls_unique(server)
        assert unique and unique == client.get_finished()
        seen.add(unique)
    assert len(seen) == 3
    assert tls_unique(None) is None


def test_nothing_is_exported_before_tls_1_3(tmp_path: Path) -> None:
    server, _ = shaken(tmp_path, SSL.TLS1_2_VERSION)
    assert server.version() == "TLSv1.2"
    assert tls_exporter(server) is None


def test_the_finished_message_of_a_session_taken_up_again_binds_nothing(tmp_path: Path) -> None:
    """Before TLS 1.3 the certificate is not in it then (RFC 7627 §1)."""
    for version, most in (("TLSv1.2", SSL.TLS1_2_VERSION), ("TLSv1.3", SSL.TLS1_3_VERSION)):
        context, theirs = contexts(tmp_path, most)
        server, client = shake(context, theirs)
        unique = tls_unique(server)
        assert unique and unique == client.get_finished()
        with contextlib.suppress(SSL.WantReadError):
            client.recv(1)  # the ticket of TLS 1.3 comes after the handshake
        session = client.get_session()
        again, _ = shake(context, theirs, session)
        assert again.session_reused and again.version() == version
        assert (tls_unique(again) is None) == (version == "TLSv1.2")


def test_there_is_none_where_openssl_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = shaken(tmp_path)
    monkeypatch.setattr(module, "_EXPORT", None)
    assert tls_exporter(server) is None
    assert tls_exporter(None) is None


@pytest.mark.parametrize("place", [16, 10_000])
def test_nothing_is_called_where_the_context_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Another CPython may keep things elsewhere."""
    server, _ = shaken(tmp_path)
    monkeypatch.setattr(module, "_CONTEXT", place)
    monkeypatch.setattr(module, "_EXPORT", lambda *_: pytest.fail("called"))
    assert tls_exporter(server) is None


def test_the_version_is_told_as_a_number(tmp_path: Path) -> None:
    """XEP-0515 §4.1."""
    assert tls_version(shaken(tmp_path)[0]) == "0304"
    assert tls_version(shaken(tmp_path, SSL.TLS1_2_VERSION)[0]) == "0303"
    context, _ = contexts(tmp_path, SSL.TLS1_3_VERSION)
    assert tls_version(context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)) == tls_version(None) == ""
