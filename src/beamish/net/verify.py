"""Whether a certificate proves that a peer is the server of a domain (RFC 6120 §13.7, RFC 6125, RFC 7590).

Two questions, answered apart so that the cause can be named: does a trusted authority vouch for the certificate now, and
is it for this domain. Names are SRV-IDs (`_xmpp-server.`), DNS-IDs with a wildcard for the whole leftmost label, and
XMPP addresses. A common name never counts.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from beamish.net.certificate import dns_name

_XMPP_ADDR: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")
_SRV_NAME: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
_SERVICE: Final = "_xmpp-server."

_REASONS: Final = {
    2: "it was issued by an unknown authority",
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    19: "it was issued by an unknown authority",
    20: "it was issued by an unknown authority",
    21: "it was issued by an unknown authority",
    23: "it was revoked",
}
"""OpenSSL's codes (X509_V_ERR_…) for what happens in practice."""

_TAGS: Final = frozenset((12, 22))  # UTF8String, IA5String


class AuthoritiesUnusable(OSError):
    """The file of authorities cannot be used; the message says why."""


class Trust:
    """The authorities whose word counts: a PEM file, or the system's own."""

    def __init__(self, authorities: Path | None = None) -> None:
        """Read the authorities. Raises `AuthoritiesUnusable`."""
        self._store = crypto.X509Store()
        if authorities is not None:
            try:
                found = x509.load_pem_x509_certificates(authorities.read_bytes())
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "no certificate in it can be read"
                raise AuthoritiesUnusable(f"{authorities}: {reason}") from error
            for certificate in found:
                self._store.add_cert(crypto.X509.from_cryptography(certificate))
            return
        paths = ssl.get_default_verify_paths()
        if paths.cafile or paths.capath:
            self._store.load_locations(paths.cafile, paths.capath)

    def judge(self, chain: Sequence[x509.Certificate], domain: str) -> str:
        """Judge a peer's chain, its own certificate first, for a domain: "" if it holds, otherwise why not."""
        return self.examine(chain).judge(domain)

    def examine(self, chain: Sequence[x509.Certificate]) -> Credentials:
        """Look at a peer's chain, its own certificate first, whatever domain it says it is: the expensive half of `judge`."""
        if not chain:
            return Credentials("no certificate was shown")
        own = chain[0]
        context = crypto.X509StoreContext(
            self._store,
            crypto.X509.from_cryptography(own),
            [crypto.X509.from_cryptography(each) for each in chain[1:]],
        )
        try:
            context.verify_certificate()
        except crypto.X509StoreContextError as error:
            return Credentials(_reason(error, chain))
        if not _for_servers(own):
            return Credentials("the certificate is not meant for servers")
        return Credentials("", names_in(own), min(each.not_valid_after_utc.timestamp() for each in chain))


class Credentials:
    """What a peer's chain proves. A stream may claim hundreds of domains with one, each of which is a look into a set.

    `until` is when the first certificate of the chain expires, in seconds since 1970: from then on it has to be examined again.
    """

    __slots__ = ("_names", "_refusal", "_shown", "until")

    def __init__(self, refusal: str, names: frozenset[str] = frozenset(), until: float = math.inf) -> None:
        self._refusal = refusal
        self._names = names
        self._shown = ", ".join(sorted(names)[:3]) or "no name"
        self.until = until

    def judge(self, domain: str) -> str:
        """Whether they are those of a domain: "" if so, otherwise why not."""
        if self._refusal or covers(self._names, domain):
            return self._refusal
        return f"the certificate is for {self._shown}, not for {domain}"


def _reason(error: crypto.X509StoreContextError, chain: Sequence[x509.Certificate]) -> str:
    code, depth = (int(part) for part in error.errors[:2])
    text = _REASONS.get(code, str(error.errors[2]))
    if code == 10 and depth < len(chain):
        text += f" on {chain[depth].not_valid_after_utc:%Y-%m-%d}"
    which = "the certificate" if depth == 0 else "a certificate above it"
    return f"{which} does not hold: {text}"


def _for_servers(certificate: x509.Certificate) -> bool:
    """Extended key usage, if there is one, must include a TLS server's or client's.

    Both: what public authorities issue now lacks the client's, and servers show the same certificate in either role.
    """
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False
    fit = (
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    )
    return any(usage in fit for usage in usages)


def names_in(certificate: x509.Certificate) -> frozenset[str]:
    """The domains a certificate is for, as A-labels in lower case: DNS names (`*.` kept), SRV names without the service,
    XMPP addresses that are domains. SRV names of other services are left out.
    """
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    names: set[str] = set()
    for name in alternative:
        if isinstance(name, x509.DNSName):
            names.add(dns_name(name.value))
        elif isinstance(name, x509.OtherName) and name.type_id in (_XMPP_ADDR, _SRV_NAME):
            text = _string(name.value)
            if text is None:
                continue
            if name.type_id == _XMPP_ADDR:
                if "@" not in text and "/" not in text:
                    names.add(dns_name(text))
            elif text.lower().startswith(_SERVICE):
                names.add(dns_name(text[len(_SERVICE) :]))
    return frozenset(names)


def _string(der: bytes) -> str | None:
    """A UTF8String or IA5String of up to 127 bytes in DER; None for anything else."""
    if len(der) < 2 or der[0] not in _TAGS or der[1] > 127 or len(der) != 2 + der[1]:
        return None
    try:
        return der[2:].decode()
    except UnicodeDecodeError:
        return None


def covers(names: frozenset[str], domain: str) -> bool:
    """Whether one of the names is the domain; a wildcard stands for exactly one whole label (RFC 6125 §6.4.3)."""
    name = dns_name(domain)
    _, dot, parent = name.partition(".")
    return name in names or (bool(dot) and "." in parent and f"*.{parent}" in names)
