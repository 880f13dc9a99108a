"""RFC 5929 and RFC 5056: channel binding data of the server's certificate.

`tls-exporter` (RFC 9266) and `tls-unique` (RFC 5929 §3) come from the TLS connection itself and are put into the `Offer` by
whoever has them.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

TLS_SERVER_END_POINT: Final = "tls-server-end-point"
TLS_EXPORTER: Final = "tls-exporter"
TLS_UNIQUE: Final = "tls-unique"


def tls_server_end_point(cert_der: bytes) -> bytes | None:
    """RFC 5929 §4: the hash of the certificate, by the hash function of its signature, or SHA-256 for MD5 and SHA-1.

    None where the type is undefined: a signature with no hash function of its own (Ed25519, Ed448), or with one that
    is not known here. Raises `ValueError` if `cert_der` is no certificate.
    """
    try:
        algorithm = x509.load_der_x509_certificate(cert_der).signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        return hashlib.sha256(cert_der).digest()
    hasher = hashes.Hash(algorithm)
    hasher.update(cert_der)
    return hasher.finalize()
