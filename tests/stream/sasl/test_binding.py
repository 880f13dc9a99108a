from __future__ import annotations

import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from beamish.stream.sasl import tls_server_end_point

EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


def certificate(key: object, algorithm: object, **how: object) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.org")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=30))
    signed = builder.public_key(key.public_key()).sign(key, algorithm, **how)  # type: ignore[attr-defined, arg-type]
    return signed.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (hashes.SHA224(), hashlib.sha224),
        (hashes.SHA256(), hashlib.sha256),
        (hashes.SHA384(), hashlib.sha384),
        (hashes.SHA512(), hashlib.sha512),
        (hashes.SHA3_256(), hashlib.sha3_256),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_hash_of_the_signature(algorithm: hashes.HashAlgorithm, expected: object) -> None:
    der = certificate(EC, algorithm)
    assert tls_server_end_point(der) == expected(der).digest()  # type: ignore[operator]


def test_pss_has_one_hash_too() -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), padding.PSS.DIGEST_LENGTH)
    der = certificate(RSA, hashes.SHA384(), rsa_padding=pss)
    assert tls_server_end_point(der) == hashlib.sha384(der).digest()


@pytest.mark.parametrize(
    ("oid_of_sha256", "oid_of_weak"),
    [
        ("06092a864886f70d01010b", "06092a864886f70d010105"),  # sha256WithRSAEncryption → sha1WithRSAEncryption
        ("06092a864886f70d01010b", "06092a864886f70d010104"),  # → md5WithRSAEncryption
    ],
    ids=["SHA-1", "MD5"],
)
def test_weak_hashes_become_sha_256(oid_of_sha256: str, oid_of_weak: str) -> None:
    # No library signs with these any more, so another certificate is relabelled; nothing here verifies signatures.
    der = certificate(RSA, hashes.SHA256())
    weak = der.replace(bytes.fromhex(oid_of_sha256), bytes.fromhex(oid_of_weak))
    assert weak != der
    assert tls_server_end_point(weak) == hashlib.sha256(weak).digest()


def test_undefined_for_ed25519() -> None:
    assert tls_server_end_point(certificate(ed25519.Ed25519PrivateKey.generate(), None)) is None


def test_undefined_for_a_signature_nobody_knows() -> None:
    der = certificate(RSA, hashes.SHA256())
    odd = der.replace(bytes.fromhex("06092a864886f70d01010b"), bytes.fromhex("06092a864886f70d01017f"))
    assert tls_server_end_point(odd) is None


def test_not_a_certificate() -> None:
    with pytest.raises(ValueError, match=r"(?i)asn\.?1|pars"):
        tls_server_end_point(b"nonsense")
