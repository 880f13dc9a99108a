"""How aioxmpp logs in to a server of the tests."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from cryptography import x509

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what foreign code does at import is not ours to mend
    import aioxmpp
    import aioxmpp.security_layer


class Verifier(aioxmpp.security_layer.CertificateVerifier):
    """Looks at certificates with today's pyOpenSSL; aioxmpp's own verifier calls what it no longer has."""

    def verify_callback(self, _connection: Any, certificate: Any, _error: int, depth: int, trusted: int) -> bool:
        if not trusted or depth > 0:
            return bool(trusted)
        names = certificate.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return self.transport.get_extra_info("server_hostname") in names.get_values_for_type(x509.DNSName)

    async def post_handshake(self, transport: Any) -> None:
        pass


def security(ca: Path, password: str) -> Any:
    """TLS with the certificate of a PEM file, and one attempt with a password."""

    def context() -> Any:
        made = aioxmpp.security_layer.default_ssl_context()
        made.load_verify_locations(str(ca))
        return made

    async def provide(_jid: Any, attempt: int) -> str | None:
        return password if attempt == 0 else None

    provider = aioxmpp.security_layer.PasswordSASLProvider(provide)
    return aioxmpp.security_layer.SecurityLayer(context, Verifier, True, (provider,))
