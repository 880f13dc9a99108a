"""Servers on real sockets that find each other: `LiveServer` with federation and components, and an authority for them.

Every test makes its own `Authority`; nothing it signs is worth anything outside of the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from beamish.app import listen_services
from beamish.net.s2s import Federation
from beamish.testing.client import Client
from beamish.testing.live import LiveServer, _Link
from beamish.testing.names import Directory
from beamish.testing.world import ACCOUNTS

USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
"""What a key may be for, as a certificate says it (RFC 5280 §4.2.1.3)."""


class Authority:
    """A certificate authority; `file` is what its believers trust."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of a test")])
        self._name = name
        use = dict.fromkeys(USES, False) | {"key_cert_sign": True}  # Python 3.13 believes no authority without
        self.certificate = (
            self._builder(name, self._key.public_key(), (-1, 30), ca=True)
            .add_extension(x509.KeyUsage(**use), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    @classmethod
    def stranger(cls, directory: Path) -> Authority:
        """Another authority, that nobody believes."""
        directory.mkdir()
        return cls(directory)

    def issue(
        self, *domains: str, days: tuple[float, float] = (-1, 30), stem: str = "", client: bool = False
    ) -> tuple[Path, Path]:
        """Certificate and key files for domains, as public authorities issue them: for servers only, unless `client`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domains[0])])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else [])]
        certificate = (
            self._builder(subject, key.public_key(), days, ca=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(d) for d in domains]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        stem = stem or domains[0]
        files = self.directory / f"{stem}.crt", self.directory / f"{stem}.key"
        files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        files[1].touch(mode=0o600)
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: tuple[float, float], *, ca: bool
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


class FederatedServer(LiveServer):
    """A `LiveServer` that exchanges stanzas with other servers and has components.

    Its certificate for `domains` and their subdomains is `authority`'s, whom it trusts; other servers of the test find it
    through the shared `names`. `files` is another certificate to show.
    """

    s2s_port: int
    s2s_tls_port: int
    component_port: int = 0

    def __init__(
        self,
        authority: Authority,
        names: Directory,
        *,
        domains: Sequence[str] = ("a.example",),
        accounts: Sequence[str] = ACCOUNTS,
        settings: dict[str, Any] | None = None,
        directory: Path | None = None,
        files: tuple[Path, Path] | None = None,
        direct_tls: bool = False,
    ) -> None:
        certificate, key = files or authority.issue(*domains, *(f"*.{domain}" for domain in domains))
        tree: dict[str, Any] = {
            "c2s": {"listen": ("127.0.0.1:0",), "direct_tls": (), "require_tls": False, "scram_iterations": 4096},
            "tls": {"certificate": certificate, "key": key},
            "s2s": {"listen": ("127.0.0.1:0",), "direct_tls": ("127.0.0.1:0",), "trust": authority.file},
            "component_listener": {"listen": ("127.0.0.1:0",)},
        }
        for section, values in (settings or {}).items():
            tree[section] = {**tree.get(section, {}), **values}
        super().__init__(domains=domains, accounts=accounts, settings=tree, directory=directory)
        self._authority = authority
        self._names = names
        self._by_direct_tls = direct_tls

    async def connect(self, domain: str = "", *, direct_tls: bool = False) -> Client:
        """See `LiveServer.connect`; without TLS, as the certificate may be one that no client believes."""
        return await _Link(self._links, None, domain or self._domains[0]).open(self.host, self.port, False)

    @property
    def federation(self) -> Federation:
        """The server's side that faces others."""
        return self.kernel.service(Federation)

    async def _before_clients(self) -> None:
        self.ca = self._authority.file
        for line in await listen_services(self.kernel, self.config, self.certificates, self._up, resolver=self._names):
            kind, address, how = line.split()
            port = int(address.rpartition(":")[2])
            if kind == "component":
                self.component_port = port
            elif how == "starttls":
                self.s2s_port = port
            else:
                self.s2s_tls_port = port
        for domain in self._domains:
            self._names.forget(domain)
            port = self.s2s_tls_port if self._by_direct_tls else self.s2s_port
            self._names.serve(domain, port, direct_tls=self._by_direct_tls)


class Relay:
    """A stretch of network between two servers, that a test can cut: everything on it at once, or for a while."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._pairs: set[_Half] = set()
        self._server: asyncio.Server | None = None
        self.broken = False
        """While set, connections are accepted and cut at once."""
        self.silent = False
        """While set, nothing passes, and nothing tells so."""
        self.carried = 0
        """Connections that were accepted."""
        self.port = 0

    async def __aenter__(self) -> Relay:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Half(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection off, with whatever is under way on it."""
        for half in tuple(self._pairs):
            half.cut()


class _Half(asyncio.Protocol):
    """One side of a relayed connection."""

    def __init__(self, relay: Relay, other: _Half | None = None) -> None:
        self._relay = relay
        self._other = other
        self._early: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        if self._other is None:
            self._relay.carried += 1
            if self._relay.broken:
                self._transport.abort()
                return
            self._relay._pairs.add(self)
            self._task = asyncio.get_running_loop().create_task(self._reach())

    async def _reach(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, other = await loop.create_connection(lambda: _Half(self._relay, self), "127.0.0.1", self._relay._to)
        except OSError:
            self.cut()
            return
        self._other = other
        if self._transport is None or self._transport.is_closing():
            other.cut()
            return
        for data in self._early:
            other.write(data)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._relay.silent:
            return
        if self._other is None:
            self._early.append(data)
        else:
            self._other.write(data)

    def write(self, data: bytes) -> None:
        """Send on this side what came in on the other."""
        if self._transport is not None:
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        self._relay._pairs.discard(self)
        if self._other is not None and self._other._transport is not None:
            self._other._transport.close()

    def cut(self) -> None:
        """Break off, both sides."""
        for half in (self, self._other):
            if half is not None and half._transport is not None:
                half._transport.abort()
