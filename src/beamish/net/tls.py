"""TLS of the listeners: one certificate per domain, chosen by SNI, exchangeable while streams are open (RFC 7590).

What is offered follows RFC 9325: TLS 1.2 or newer, only (EC)DHE key exchange with AEAD ciphers, no compression, no
renegotiation, and no session tickets. A ticket would save a full handshake (about 0.2 ms here) to the few clients
that come back, but its key lives as long as the process unless it is rotated, which the ssl module cannot do
(RFC 9325 §3.4 demands it); two tickets per login also cost a sixth of each handshake and 0.5 KB on the wire.

An SNI name that is not known gets the default certificate instead of an alert. RFC 9325 §3.7 would rather refuse, but
clients exist that ask for the host name of the SRV record, where the certificate they accept is the domain's
(RFC 6120 §13.7.2.1). What that rule guards against, a stream led astray to another protocol, is prevented by ALPN.
"""

import ssl
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

import structlog

from beamish.net.certificate import (
    SECURITY_LEVEL,
    Certificate,
    Problem,
    Severity,
    dns_name,
    keep_self_signed,
    read_certificate,
    self_signed_file,
    time_problems,
)

log = structlog.get_logger(__name__)

XMPP_CLIENT: Final = "xmpp-client"
"""ALPN name of a client's stream over direct TLS (XEP-0368)."""
XMPP_SERVER: Final = "xmpp-server"
"""ALPN name of another server's stream over direct TLS (XEP-0368)."""

_CIPHERS: Final = f"{SECURITY_LEVEL}:ECDHE+AESGCM:ECDHE+CHACHA20"  # for TLS 1.2; TLS 1.3 has only good ones
_OPTIONS: Final = ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_NO_APPLICATION_PROTOCOL: Final = 120  # the alert of RFC 7301 §3.2
_CLIENT_HELLO: Final = 1
_ALPN_EXTENSION: Final = 16

C = TypeVar("C", bound=ssl.SSLContext)


class CertificateFiles(Protocol):
    """Where one certificate is."""

    @property
    def certificate(self) -> Path:
        """PEM file with the certificate, then its chain."""

    @property
    def key(self) -> Path:
        """PEM file with the unencrypted key; may be the same file."""


class TlsOptions(Protocol):
    """What the store needs of the `[tls]` section."""

    @property
    def certificate(self) -> Path | None:
        """For every domain without an entry in `domains`; None: self-signed."""

    @property
    def key(self) -> Path | None:
        """The key of that certificate; None: it is in the same file."""

    @property
    def minimum(self) -> Literal["1.2", "1.3"]:
        """The oldest protocol version accepted."""

    @property
    def domains(self) -> Mapping[str, CertificateFiles]:
        """Certificates of single domains."""


class CertificatesUnusable(Exception):
    """No certificate could be made ready for some domain; `problems` says why, one line each in the message."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class CertificateStore:
    """The certificates of all domains, and the TLS contexts that offer them.

    Contexts that were handed out stay good over `reload()`: they look up the certificate at each handshake, so a
    listener never has to be opened anew, and a connection that is already encrypted notices nothing.
    Not thread-safe: use it on the loop's thread. Loading reads a few small files.
    """

    def __init__(
        self,
        options: TlsOptions,
        domains: Sequence[str],
        data_dir: Path,
        *,
        hosts: Iterable[str] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Every one of `domains` needs a certificate, the first is the default; `hosts` are service addresses."""
        if not domains:
            raise ValueError("a server needs at least one domain")
        self._options = options
        self._minimum = _VERSIONS[options.minimum]
        self._domains = tuple(domains)
        self._hosts = tuple(hosts)
        self._certs_dir = data_dir / "certs"
        self._clock = clock
        self._table: _Table | None = None
        self._contexts: dict[tuple[str, tuple[str, ...]], ssl.SSLContext] = {}

    def check(self) -> list[Problem]:
        """What is wrong with the files as they are now; makes and changes nothing (for `config check`)."""
        return self._read(make=False, previous=None)[1]

    def ageing(self) -> list[Problem]:
        """The certificates in use that are out of date, or will be before long, while their files have others.

        A renewed file was not followed by a reload, or was of no use when it was.
        """
        table, now = self._current(), self._clock()
        there = {certificate.der for certificate in self._files(False, now)[0].values()}
        found: list[Problem] = []
        for certificate in table.certificates:
            if certificate.der in there:
                continue  # `check` tells
            domains = tuple(domain for domain in self._domains if table.choose(dns_name(domain)) is certificate)
            for severity, text in time_problems(certificate, now):
                text = f"the certificate in use {text}; a reload takes what is there now"
                found.append(Problem(severity, certificate.source, domains, text))
        return found

    def load(self) -> list[Problem]:
        """Read (or make) the certificates at start; returns what the operator should know.

        Raises `CertificatesUnusable` with all problems if any of them is FATAL.
        """
        table, problems = self._read(make=True, previous=None)
        if table is None or any(problem.severity is Severity.FATAL for problem in problems):
            raise CertificatesUnusable(problems)
        self._take(table, problems)
        return problems

    def reload(self, options: TlsOptions | None = None) -> list[Problem]:
        """Read everything again and use it for handshakes from now on; never raises for a bad file.

        A domain whose new certificate is unusable, or would be refused by its clients while they take the one in use (it is
        out of date, or for other names), keeps that; the problem is logged and returned.
        `options` names other files, if the configuration was read again too; `minimum` stays what it was at start.
        """
        self._options = options or self._options
        table, problems = self._read(make=True, previous=self._current())
        if table is not None:
            self._take(table, problems)
        else:
            _report(problems)
        return problems

    def server_context(self, *alpn: str) -> ssl.SSLContext:
        """The context of a listener. `alpn` for direct TLS: `XMPP_CLIENT`, `XMPP_SERVER` or both, best first.

        With `alpn`, a client that offers only other protocols is refused with `no_application_protocol`
        (RFC 7301 §3.2), one that offers none is served (XEP-0368 §3: it only SHOULD). Without, ALPN is ignored.
        """
        return self._context("", alpn)

    def context_for(self, domain: str, *alpn: str) -> ssl.SSLContext:
        """The same, but a client without (known) SNI gets the certificate of `domain`: the stream's `to`.

        Contexts are shared: there are never more than domains, whatever strangers write into `to`.
        """
        return self._context(self._current().known(dns_name(domain)), alpn)

    def certificate_for(self, domain: str) -> Certificate:
        """The certificate in use for a domain or a service address below one; the default one if it is unknown."""
        return self._current().choose(dns_name(domain)) or self._current().default

    def end_point_binding(self, ssl_object: ssl.SSLObject | ssl.SSLSocket | None) -> bytes | None:
        """DER of the certificate that this connection was served, for `tls-server-end-point` (RFC 5929 §4).

        None if it is not known: not one of our connections, or a resumed TLS 1.2 session that began under the
        certificate before a reload, which the client still binds to.
        """
        context = ssl_object.context if ssl_object is not None else None
        if ssl_object is None or not isinstance(context, _CertificateContext):
            return None
        if ssl_object.session_reused:
            session = ssl_object.session
            if session is None or session.time <= context.certificate.loaded_at:
                return None
        return context.certificate.der

    def _current(self) -> "_Table":
        if self._table is None:
            raise RuntimeError("load() the certificates first")
        return self._table

    def _take(self, table: "_Table", problems: Sequence[Problem]) -> None:
        self._table = table
        _report(problems)
        for certificate in table.certificates:
            log.info("certificate_in_use", file=str(certificate.source), until=certificate.not_after.isoformat())

    def _read(self, *, make: bool, previous: "_Table | None") -> tuple["_Table | None", list[Problem]]:
        """Read the file of each domain; those that cannot be used are replaced by what `previous` has."""
        now = self._clock()
        chosen, problems = self._files(make, now)
        if previous is not None:
            for domain in self._domains:
                name = dns_name(domain)
                new, kept = chosen.get(name), previous.choose(name)
                if kept is None:
                    continue
                if new is None:
                    chosen[name] = kept
                elif kept.serves(domain, now) and not new.serves(domain, now):
                    chosen[name] = kept
                    until = f"{kept.not_after:%Y-%m-%d}"
                    text = f"not taken into use: clients would refuse it, and the one in use is good until {until}"
                    problems.append(Problem(Severity.WARNING, new.source, (domain,), text))
        if any(dns_name(domain) not in chosen for domain in self._domains):
            return None, problems
        return _Table(chosen, chosen[dns_name(self._domains[0])]), problems

    def _files(self, make: bool, now: datetime) -> tuple[dict[str, Certificate], list[Problem]]:
        """What the files have for each domain, of which some may be missing, and what is wrong with them."""
        problems: list[Problem] = []
        chosen: dict[str, Certificate] = {}
        own = {dns_name(domain): files for domain, files in self._options.domains.items()}
        shared = [domain for domain in self._domains if dns_name(domain) not in own]
        jobs = [(files.certificate, files.key, [domain], _below(domain, self._hosts)) for domain, files in own.items()]
        if shared:
            beside = [host for host in self._hosts if not any(host in job[3] for job in jobs)]
            if self._options.certificate is not None:
                pair = (self._options.certificate, self._options.key or self._options.certificate)
                jobs.append((*pair, shared, beside))
            else:
                path = self_signed_file(self._certs_dir)
                try:
                    if make:
                        path = keep_self_signed(self._certs_dir, shared, beside, now)
                    if make or path.exists():
                        jobs.append((path, path, shared, beside))
                except OSError as error:
                    reason = f"cannot make a self-signed certificate: {error.strerror or error}"
                    problems.append(Problem(Severity.FATAL, path, tuple(shared), reason))
        for certificate_file, key_file, domains, hosts in jobs:
            certificate, found = read_certificate(certificate_file, key_file, domains, now, hosts=hosts)
            if not make and certificate_file == self_signed_file(self._certs_dir):
                continue  # the server makes a better one itself when it starts
            problems.extend(found)
            if certificate is not None:
                chosen.update((dns_name(domain), certificate) for domain in domains)
        return chosen, problems

    def _context(self, default_name: str, alpn: tuple[str, ...]) -> ssl.SSLContext:
        context = self._contexts.get((default_name, alpn))
        if context is None:
            context = self._contexts[default_name, alpn] = self._listening_context(default_name, alpn)
        return context

    def _listening_context(self, default_name: str, alpn: tuple[str, ...]) -> ssl.SSLContext:
        """A context without a certificate: at each handshake, SNI exchanges it for the context that has one."""
        context = self._settings(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), alpn)
        offers = _watch_offers(context) if alpn else None
        wanted = {name.encode("ascii") for name in alpn}

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: object) -> int | None:
            # Called once per ClientHello, also without SNI.
            if offers is not None:
                offered = _offered_alpn(offers.pop(connection, b""))
                if offered and wanted.isdisjoint(offered):
                    return _NO_APPLICATION_PROTOCOL
            table = self._current()
            certificate = (table.choose(dns_name(name)) if name else None) or table.choose(default_name)
            connection.context = self._certificate_context(table, certificate or table.default, alpn)
            return None

        context.sni_callback = choose
        return context

    def _certificate_context(
        self, table: "_Table", certificate: Certificate, alpn: tuple[str, ...]
    ) -> "_CertificateContext":
        context = table.contexts.get((certificate, alpn))
        if context is None:
            context = self._settings(_CertificateContext(ssl.PROTOCOL_TLS_SERVER), alpn)
            certificate.load_into(context)
            context.certificate = certificate
            table.contexts[certificate, alpn] = context
        return context

    def _settings(self, context: C, alpn: tuple[str, ...]) -> C:
        context.minimum_version = self._minimum
        context.set_ciphers(_CIPHERS)
        context.options |= _OPTIONS
        context.num_tickets = 0
        if alpn:
            context.set_alpn_protocols(alpn)
        return context


class _CertificateContext(ssl.SSLContext):
    """A context that knows which certificate it offers, so that a connection can be asked afterwards."""

    certificate: Certificate


class _Table:
    """Which certificate belongs to which name; replaced as a whole at a reload."""

    def __init__(self, chosen: Mapping[str, Certificate], default: Certificate) -> None:
        self.default = default
        self.certificates = tuple(dict.fromkeys(chosen.values()))
        self.contexts: dict[tuple[Certificate, tuple[str, ...]], _CertificateContext] = {}
        self._exact = dict(chosen)  # what is configured for a domain wins over what other certificates also cover
        for certificate in self.certificates:
            for name in certificate.names:
                self._exact.setdefault(name, certificate)

    def choose(self, name: str) -> Certificate | None:
        """By the name itself, a wildcard, or the nearest domain above (for service addresses nobody listed)."""
        found = self._exact.get(name) or self._exact.get(f"*.{name.partition('.')[2]}")
        while found is None and "." in name:
            name = name.partition(".")[2]
            found = self._exact.get(name)
        return found

    def known(self, name: str) -> str:
        """Under which of the finitely many names here `choose` finds the same; empty if it finds nothing."""
        wildcard = f"*.{name.partition('.')[2]}"
        if name not in self._exact and wildcard in self._exact:
            return wildcard
        while name not in self._exact and "." in name:
            name = name.partition(".")[2]
        return name if name in self._exact else ""


def _below(domain: str, hosts: Iterable[str]) -> list[str]:
    return [host for host in hosts if dns_name(host).endswith(f".{dns_name(domain)}")]


def _watch_offers(
    context: ssl.SSLContext,
) -> "weakref.WeakKeyDictionary[ssl.SSLObject | ssl.SSLSocket, bytes] | None":
    """Keep each ClientHello until the certificate is chosen; None if this Python does not show it.

    The ssl module goes on without ALPN where RFC 7301 §3.2 demands an alert, and tells nobody what was offered.
    Its message callback does; the context chosen by SNI has none, so it costs nothing after the first message.
    """
    if not hasattr(context, "_msg_callback"):
        return None
    hellos: weakref.WeakKeyDictionary[ssl.SSLObject | ssl.SSLSocket, bytes] = weakref.WeakKeyDictionary()

    def seen(
        connection: ssl.SSLObject | ssl.SSLSocket, _way: str, _version: int, content: int, kind: int, data: bytes
    ) -> None:
        if content == ssl._TLSContentType.HANDSHAKE and kind == _CLIENT_HELLO:  # type: ignore[attr-defined]
            hellos[connection] = data

    context._msg_callback = seen
    return hellos


def _offered_alpn(hello: bytes) -> list[bytes]:
    """The protocols that a ClientHello offers (RFC 8446 §4.1.2, RFC 7301 §3.1); none if it is not well-formed."""

    def block(start: int, length_bytes: int) -> tuple[int, int]:
        """Where the content of a length-prefixed block begins and ends."""
        begin = start + length_bytes
        return begin, begin + int.from_bytes(hello[start:begin], "big")

    _, at = block(4 + 2 + 32, 1)  # behind message head, version and random: session id,
    _, at = block(at, 2)  # cipher suites,
    _, at = block(at, 1)  # compression methods,
    at, end = block(at, 2)  # extensions
    end = min(end, len(hello))
    while at + 4 <= end:
        kind = int.from_bytes(hello[at : at + 2], "big")
        start, at = block(at + 2, 2)
        if kind == _ALPN_EXTENSION:
            name, names_end = block(start, 2)
            offered: list[bytes] = []
            while name < min(names_end, at, end):
                begin, name = block(name, 1)
                offered.append(hello[begin:name])
            return offered
    return []


def _report(problems: Sequence[Problem]) -> None:
    for problem in problems:
        report = log.warning if problem.severity is Severity.WARNING else log.error
        report("certificate_problem", file=str(problem.file), domains=problem.domains, problem=problem.text)
