"""X.509 certificates of the server: read and checked before a client sees them, or made when there is none.

A certificate and its key are read once, together, and kept in memory: the bytes that were checked are the bytes
that are used, even if a renewal replaces the files a moment later or the process may no longer read them.
"""

import contextlib
import enum
import ipaddress
import itertools
import os
import ssl
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import idna
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SOON: Final = timedelta(days=14)
"""How long before its end a certificate is reported."""

SECURITY_LEVEL: Final = "@SECLEVEL=2"
"""What OpenSSL must refuse, in its own notation: RSA below 2048 bits, SHA-1 signatures (RFC 9325 §4.5)."""

_FILE_BYTES: Final = 1 << 20  # a chain with its key takes some 10 KiB; whatever is larger was named by mistake
_XMPP_ADDR: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")  # RFC 6120 §13.7.1.4
_SRV_NAME: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")  # RFC 4985
_SERVICES: Final = ("_xmpp-client.", "_xmpp-server.")

_SELF_SIGNED: Final = "self-signed.pem"
_SELF_SIGNED_LIFE: Final = timedelta(days=3650)
_SELF_SIGNED_RENEW: Final = timedelta(days=30)
_CLOCK_SKEW: Final = timedelta(days=1)  # clients whose clock is behind must not find it "not yet valid"
_NAMES_IN_FULL: Final = 100  # domains; beyond, the certificate would near the 100 KiB that OpenSSL clients accept


class Severity(enum.IntEnum):
    """How bad a `Problem` is."""

    WARNING = 1
    """Works today."""
    ERROR = 2
    """Can be served, but clients will refuse it."""
    FATAL = 3
    """Cannot be served at all."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a certificate or its key; `str()` gives the line for the operator."""

    severity: Severity
    file: Path
    domains: tuple[str, ...]
    """The domains that the file was meant for."""
    text: str

    def __str__(self) -> str:
        shown = ", ".join(self.domains[:5]) + (f" and {len(self.domains) - 5} more" if len(self.domains) > 5 else "")
        return f"{self.file}: {self.text} (for {shown})"


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """A server certificate with its chain and key, checked to fit together."""

    source: Path
    der: bytes = field(repr=False)
    """The server's own certificate as it goes over the wire (what RFC 5929 §4 hashes)."""
    names: frozenset[str]
    """What it is valid for: DNS names as A-labels in lower case (`*.` kept), IP addresses, RFC 6120 §13.7.1.2 names."""
    not_before: datetime
    not_after: datetime
    loaded_at: float
    """Unix time at which it was read."""
    _pem: bytes = field(repr=False)

    @property
    def pem(self) -> bytes:
        """Key, certificate and chain, for TLS libraries other than the `ssl` module. Never to be logged."""
        return self._pem

    def covers(self, domain: str) -> bool:
        """Whether a client that wants `domain` would accept it (RFC 6125 §6.4: a wildcard stands for one label)."""
        name = dns_name(domain)
        _, dot, parent = name.partition(".")
        return name in self.names or (bool(dot) and f"*.{parent}" in self.names)

    def serves(self, domain: str, now: datetime) -> bool:
        """Whether a client that wants `domain`, and trusts who issued this, would accept it now."""
        return self.covers(domain) and self.not_before <= now <= self.not_after

    def load_into(self, context: ssl.SSLContext) -> None:
        """Give chain and key to a context; raises `ssl.SSLError` if OpenSSL refuses them (a weak key, for example)."""
        # The ssl module reads certificates from files only; this one exists in memory, without a name.
        handle = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(handle, self._pem)
            context.load_cert_chain(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)


def dns_name(domain: str) -> str:
    """A domain as certificates and SNI write it: A-labels, lower case, no final dot, no brackets around IPv6.

    What IDNA cannot encode (an underscore, for one) comes back in lower case and is compared as it is.
    """
    name = domain.lower().rstrip(".").removeprefix("[").removesuffix("]")
    if name.isascii():
        return name
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError:
        return name


def read_certificate(
    certificate: Path, key: Path, domains: Sequence[str], now: datetime, *, hosts: Sequence[str] = ()
) -> tuple[Certificate | None, list[Problem]]:
    """Read a certificate file (the server's certificate first, then its chain) and its key, and check them.

    `domains` must be covered (else an ERROR), `hosts` should be (a WARNING). Never raises for a bad file: without
    a certificate in the answer, one of the problems is FATAL and says why.
    """
    meant_for = tuple(domains) or tuple(hosts)
    try:
        result, chain = _read_pair(certificate, key)
    except _Unusable as reason:
        return None, [Problem(Severity.FATAL, reason.file, meant_for, str(reason))]
    problems = [Problem(severity, certificate, meant_for, text) for severity, text in time_problems(result, now)]
    if _mode_of(key) & 0o007:
        text = f"every user of this machine can read the private key; chmod 640 {key}"
        problems.append(Problem(Severity.WARNING, key, meant_for, text))
    if (gap := _chain_problem(chain)) is not None:
        problems.append(Problem(Severity.WARNING, certificate, meant_for, gap))
    for wanted, severity in ((domains, Severity.ERROR), (hosts, Severity.WARNING)):
        for name in wanted:
            if not result.covers(name):
                covered = ", ".join(sorted(result.names)[:20]) or "none; a common name no longer counts"
                text = f"does not cover {name} (names it covers: {covered})"
                problems.append(Problem(severity, certificate, (name,), text))
    return result, problems


def _read_pair(certificate: Path, key: Path) -> tuple[Certificate, list[x509.Certificate]]:
    """The certificate with its key, which OpenSSL takes, and its chain. Raises `_Unusable`."""
    chain = _read_chain(certificate)
    found = chain[0]
    names = _names_of(certificate, found)
    key_pem, key_spki = _read_key(key)
    if _spki(found) != key_spki:
        if any(_spki(other) == key_spki for other in chain[1:]):
            text = "the server's own certificate must come first in the file, before its chain"
            raise _Unusable(certificate, text)
        raise _Unusable(key, f"the key does not belong to the certificate in {certificate}")
    result = Certificate(
        source=certificate,
        der=found.public_bytes(Encoding.DER),
        names=names,
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
        loaded_at=time.time(),
        _pem=key_pem + b"".join(one.public_bytes(Encoding.PEM) for one in chain),
    )
    try:
        probe = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        probe.set_ciphers(f"{SECURITY_LEVEL}:HIGH")
        result.load_into(probe)
    except ssl.SSLError as error:
        raise _Unusable(certificate, f"OpenSSL refuses it: {error.reason or error}") from None
    return result, chain


def self_signed_file(directory: Path) -> Path:
    """Where the certificate that the server made for itself is kept, with its key."""
    return directory / _SELF_SIGNED


def keep_self_signed(directory: Path, domains: Sequence[str], hosts: Sequence[str], now: datetime) -> Path:
    """The file with a self-signed certificate and its key: the one of the last start, or a new one.

    A new one is made when there is none, when it cannot be read, when other names are wanted, or when it ends within
    30 days. Certificate and key share one file (mode 0600), so that replacing it is atomic. Raises `OSError`.
    """
    path = self_signed_file(directory)
    names = _wanted_names(domains, hosts)
    found, _ = read_certificate(path, path, tuple(domains), now)
    kept = (
        found is not None
        and found.names == _read_back(names)
        and found.not_before <= now < found.not_after - _SELF_SIGNED_RENEW
    )
    if not kept:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_atomically(path, _make_self_signed(domains, names, now))
    return path


class _Unusable(Exception):
    """Why a file cannot be used, worded for the operator."""

    def __init__(self, file: Path, text: str) -> None:
        super().__init__(text)
        self.file = file


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise _Unusable(path, f"cannot be read: {error.strerror or error}") from None
    if len(data) > _FILE_BYTES:
        raise _Unusable(path, "is larger than 1 MiB, which no certificate or key is")
    return data


def _read_chain(path: Path) -> list[x509.Certificate]:
    data = _read_file(path)
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise _Unusable(path, "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    try:
        return x509.load_pem_x509_certificates(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _Unusable(path, f"holds a certificate that cannot be parsed: {error}") from None


def _read_key(path: Path) -> tuple[bytes, bytes]:
    """The key in PEM form and its public half (SubjectPublicKeyInfo)."""
    data = _read_file(path)
    if b"PRIVATE KEY-----" not in data:
        raise _Unusable(path, "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)")
    try:
        key = load_pem_private_key(data, password=None)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem, key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except TypeError:
        text = "the private key is encrypted, and nobody is there to type a password; decrypt it with `openssl pkey`"
        raise _Unusable(path, text) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        # The library's words may quote the file; a key must not reach the log.
        raise _Unusable(path, f"holds a private key that cannot be parsed ({type(error).__name__})") from None


def _spki(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def time_problems(certificate: Certificate, now: datetime) -> Iterator[tuple[Severity, str]]:
    """What clients hold against a certificate at this time, or will before long."""
    if now < certificate.not_before:
        yield Severity.ERROR, f"is not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC"
    if now >= certificate.not_after:
        yield Severity.ERROR, f"expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC"
    elif certificate.not_after - now < SOON:
        days = (certificate.not_after - now).days
        yield Severity.WARNING, f"expires on {certificate.not_after:%Y-%m-%d %H:%M} UTC, in {days} days"


def _chain_problem(chain: Sequence[x509.Certificate]) -> str | None:
    if len(chain) == 1:
        if chain[0].issuer == chain[0].subject:
            return None
        return (
            "holds no chain: clients need the intermediate certificates of "
            f"{chain[0].issuer.rfc4514_string()} as well; use the file called fullchain.pem"
        )
    for one, above in itertools.pairwise(chain):
        if one.issuer != above.subject:
            return f"the chain is not in order: {above.subject.rfc4514_string()} did not issue what stands before it"
    return None


def _names_of(path: Path, certificate: x509.Certificate) -> frozenset[str]:
    """The names of the subjectAltName extension by which an XMPP client may know a server (RFC 6120 §13.7.1.2.1)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _Unusable(path, f"holds a certificate that cannot be parsed: {error}") from None
    return _read_back(names)


def _read_back(names: Iterable[x509.GeneralName]) -> frozenset[str]:
    found: set[str] = set()
    for name in names:
        if isinstance(name, x509.DNSName):
            found.add(dns_name(name.value))
        elif isinstance(name, x509.IPAddress):
            found.add(str(name.value))
        elif isinstance(name, x509.OtherName) and name.type_id in (_XMPP_ADDR, _SRV_NAME):
            text = _text_of(name.value)
            if name.type_id == _SRV_NAME:
                service = next((one for one in _SERVICES if text.lower().startswith(one)), None)
                text = text[len(service) :] if service else ""
            if text and "@" not in text:
                found.add(dns_name(text))
    return frozenset(found)


def _text_of(der: bytes) -> str:
    """The text of a DER string, behind its tag and its length of one or more bytes."""
    if len(der) < 2:
        return ""
    start = 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
    return der[start:].decode("utf-8", "replace")


def _der_text(tag: int, text: str) -> bytes:
    data = text.encode("utf-8")
    size = len(data)
    head = bytes((size,)) if size < 0x80 else bytes((0x81, size)) if size < 0x100 else b"\x82" + size.to_bytes(2, "big")
    return bytes((tag,)) + head + data


def _wanted_names(domains: Sequence[str], hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Each domain with everything below it, the hosts beyond that, and the names made for XMPP."""
    names: list[x509.GeneralName] = []
    seen: set[str] = set()

    def add(name: str) -> None:
        if name in seen or not name.isascii():
            return
        seen.add(name)
        with contextlib.suppress(ValueError):
            names.append(x509.IPAddress(ipaddress.ip_address(name)))
            return
        names.append(x509.DNSName(name))
        if not name.startswith("*."):
            below.append(f"*.{name}")

    below: list[str] = []
    for domain in domains:
        add(dns_name(domain))
    for name in below:
        add(name)
    for host in hosts:
        name = dns_name(host)
        if f"*.{name.partition('.')[2]}" not in seen and name.isascii() and name not in seen:
            seen.add(name)
            names.append(x509.DNSName(name))
    if len(domains) <= _NAMES_IN_FULL:
        for domain in domains:
            names.append(x509.OtherName(_XMPP_ADDR, _der_text(0x0C, domain)))  # UTF8String
            ascii_name = dns_name(domain)
            if ascii_name.isascii():
                for service in _SERVICES:
                    names.append(x509.OtherName(_SRV_NAME, _der_text(0x16, service + ascii_name)))  # IA5String
    return names


def _make_self_signed(domains: Sequence[str], names: Sequence[x509.GeneralName], now: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    common_name = dns_name(domains[0])
    if not common_name.isascii() or len(common_name) > 64:  # X.520 allows no more, and no client reads it
        common_name = "XMPP server"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now - _CLOCK_SKEW + _SELF_SIGNED_LIFE)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        # Servers also present it as the client of another server (RFC 6120 §13.7.1.2).
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def _write_atomically(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600 from the start
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
