"""TLS between servers, done in memory over a plain socket with pyOpenSSL.

The standard library's TLS cannot take a client certificate that public authorities issue now (it lacks the client's key
usage), shows no chain, and says nothing of why a certificate does not hold. Here the handshake takes any certificate,
and `net.verify` judges it afterwards for the domain in question; what is made of that is the caller's policy.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from beamish.net.certificate import SECURITY_LEVEL, Certificate
from beamish.net.tls import XMPP_SERVER
from beamish.net.tls_connection import TlsConnection, TlsFailed, hollow

_CIPHERS: Final = f"{SECURITY_LEVEL}:ECDHE+AESGCM:ECDHE+CHACHA20".encode()
_OPTIONS: Final = SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_RENEGOTIATION
_VERSIONS: Final = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_CHUNK: Final = 65_536
_PIECE: Final = 16_384
"""Bytes of the network that are looked at at a time."""
_UNSAID: Final = 65_536
"""Bytes after which it is asked whether TLS has something to say by itself."""
_RECORD: Final = 16_384
_MAX_CHAIN: Final = 10
_KEPT_CONTEXTS: Final = 64
_ALPN: Final = XMPP_SERVER.encode()


class TlsContexts:
    """TLS contexts of server streams in both roles, one per certificate of ours.

    `certificate_for` gives the certificate in use for a domain of ours. At most 64 contexts are kept.
    """

    def __init__(self, certificate_for: Callable[[str], Certificate], minimum: Literal["1.2", "1.3"] = "1.2") -> None:
        self._certificate_for = certificate_for
        self._minimum = minimum
        self._kept: dict[tuple[int, bool], tuple[Certificate, SSL.Context]] = {}

    def server(self, domain: str) -> SSL.Context:
        """For a stream that another server opens to `domain`; SNI may choose another certificate of ours."""
        return self._context(self._certificate_for(domain), server=True)

    def client(self, domain: str) -> SSL.Context:
        """For a stream that we open in the name of `domain`: its certificate is shown if the peer asks."""
        return self._context(self._certificate_for(domain), server=False)

    def _context(self, certificate: Certificate, *, server: bool) -> SSL.Context:
        key = (id(certificate), server)
        held = self._kept.get(key)
        if held is None:
            while len(self._kept) >= _KEPT_CONTEXTS:
                del self._kept[next(iter(self._kept))]
            held = self._kept[key] = (certificate, self._make(certificate, server=server))
        return held[1]

    def _make(self, certificate: Certificate, *, server: bool) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(_VERSIONS[self._minimum])
        context.set_cipher_list(_CIPHERS)
        context.set_options(_OPTIONS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        own, *chain = x509.load_pem_x509_certificates(certificate.pem)
        context.use_certificate(own)
        for each in chain:
            context.add_extra_chain_cert(each)
        context.use_privatekey(load_pem_private_key(certificate.pem, password=None))  # type: ignore[arg-type]
        # Every certificate passes the handshake: what it proves is judged afterwards, domain by domain.
        context.set_verify(SSL.VERIFY_PEER, _accept)
        if server:
            context.set_tlsext_servername_callback(self._named)
            context.set_alpn_select_callback(_choose_protocol)
        return context

    def _named(self, connection: SSL.Connection) -> None:
        name = connection.get_servername()
        if name:
            connection.set_context(self.server(name.decode("ascii", "replace")))


def _accept(_connection: SSL.Connection, _certificate: object, _code: int, _depth: int, _ok: int) -> bool:
    return True


def _choose_protocol(_connection: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    return _ALPN if _ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


class MemoryTls:
    """One TLS connection with another server, in either role; see `TlsLayer`."""

    __slots__ = ("_connection", "_hollow", "_unasked", "ended", "established", "pending")

    def __init__(self, context: SSL.Context, *, server: bool, name: str = "", direct: bool = False) -> None:
        """`name` is the server's for SNI; `direct` announces the protocol by ALPN (XEP-0368)."""
        self._connection = connection = SSL.Connection(context, None)
        self.established = False
        """The handshake is done."""
        self.ended = False
        """The peer closed the TLS connection in order."""
        self.pending = 0
        """Not 0 while the handshake has something to say. What comes later (a change of keys) goes out with what is sent
        next, or after `_UNSAID` bytes, since it is in memory; to ask for it each time would cost more than the rest.
        """
        self._hollow = 0
        self._unasked = 0
        if server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
            if name:
                connection.set_tlsext_host_name(name.encode("ascii"))
            if direct:
                connection.set_alpn_protos([_ALPN])
            self._shake()

    def receive(self, data: bytes) -> bytes:
        """See `TlsLayer.receive`."""
        connection = self._connection
        at = 0
        plain: list[bytes] = []
        self._unasked += len(data)
        if self._unasked > _UNSAID:
            self.pending = 1
        while at < len(data):
            size = connection.bio_write(data[at : at + _PIECE])
            at += size
            before = self.established
            if not before and not self._shake():
                continue
            brought = 0
            while True:
                try:
                    plain.append(connection.recv(_CHUNK))
                    brought += len(plain[-1])
                except SSL.WantReadError:
                    break
                except SSL.ZeroReturnError:
                    self.ended = True
                    return b"".join(plain)
                except SSL.Error as error:
                    raise TlsFailed(_text(error)) from error
            if before:
                self._hollow = hollow(self._hollow, size, brought)
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def _shake(self) -> bool:
        self.pending = 1
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise TlsFailed(_text(error)) from error
        self.established = True
        return True

    def send(self, data: bytes) -> bytes:
        """See `TlsLayer.send`."""
        connection = self._connection
        try:
            for at in range(0, len(data), _RECORD):
                connection.sendall(data[at : at + _RECORD])
        except SSL.Error as error:
            raise TlsFailed(_text(error)) from error
        return self.outgoing()

    def close(self) -> None:
        """Say that nothing more follows."""
        if self.established:
            with suppress(SSL.Error):  # the end of the connection tells the peer as well
                self._connection.shutdown()

    def outgoing(self) -> bytes:
        """See `TlsLayer.outgoing`."""
        self.pending = self._unasked = 0
        parts: list[bytes] = []
        while True:
            try:
                parts.append(self._connection.bio_read(1 << 20))
            except SSL.WantReadError:
                return b"".join(parts)

    def chain(self) -> list[x509.Certificate]:
        """The peer's certificates, its own first; none if it showed none."""
        own = self._connection.get_peer_certificate(as_cryptography=True)
        if own is None:
            return []
        others = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        return [own, *(each for each in others if each != own)][:_MAX_CHAIN]

    @property
    def version(self) -> str:
        """The protocol version agreed on."""
        return self._connection.get_protocol_version_name()


def _text(error: SSL.Error) -> str:
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][-1][-1])
    return "the connection broke off" if isinstance(error, SSL.SysCallError) else type(error).__name__


class ServerConnection(TlsConnection[MemoryTls]):
    """A connection with another server, which may become encrypted at any stanza boundary."""

    __slots__ = ()

    def begin_tls(self, context: SSL.Context, *, server: bool, name: str = "", direct: bool = False) -> None:
        """From now on speak TLS; what was written before goes out in the clear first."""
        self.flush()
        self.go_on_in(MemoryTls(context, server=server, name=name, direct=direct))
