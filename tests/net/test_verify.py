from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from beamish.net.verify import AuthoritiesUnusable, Trust, covers
from beamish.testing.federated import Authority

XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")
SRV_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def chain(files: tuple[Path, Path]) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(files[0].read_bytes())


def other(oid: x509.ObjectIdentifier, tag: int, text: str) -> x509.OtherName:
    return x509.OtherName(oid, bytes((tag, len(text))) + text.encode())


def signed(
    ca: Authority, *names: x509.GeneralName, usage: x509.ObjectIdentifier | None = None
) -> list[x509.Certificate]:
    """A certificate with these names by the authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "b.example")]))
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return [builder.sign(ca._key, hashes.SHA256())]


def test_a_certificate_that_holds(ca: Authority) -> None:
    trust = Trust(ca.file)
    assert trust.judge(chain(ca.issue("b.example")), "b.example") == ""
    assert trust.judge(chain(ca.issue("xn--mller-kva.example")), "müller.example") == ""


@pytest.mark.parametrize(
    ("days", "reason"),
    [((-30, -1), "the certificate does not hold: it has expired on "), ((1, 30), "it is not valid yet")],
)
def test_its_time(ca: Authority, days: tuple[float, float], reason: str) -> None:
    assert reason in Trust(ca.file).judge(chain(ca.issue("b.example", days=days)), "b.example")


def test_an_authority_that_nobody_knows(ca: Authority) -> None:
    stranger = Authority.stranger(ca.directory / "stranger")
    reason = Trust(ca.file).judge(chain(stranger.issue("b.example")), "b.example")
    assert reason == "the certificate does not hold: it was issued by an unknown authority"
    assert "self-signed" in Trust(ca.file).judge([stranger.certificate], "b.example")
    assert Trust(ca.file).judge([], "b.example") == "no certificate was shown"


def test_another_name(ca: Authority) -> None:
    reason = Trust(ca.file).judge(chain(ca.issue("c.example")), "b.example")
    assert reason == "the certificate is for c.example, not for b.example"


def test_names_of_the_protocol(ca: Authority) -> None:
    trust = Trust(ca.file)
    assert trust.judge(signed(ca, other(XMPP_ADDR, 0x0C, "b.example")), "b.example") == ""
    assert trust.judge(signed(ca, other(SRV_NAME, 0x16, "_xmpp-server.b.example")), "b.example") == ""
    for names in (
        (other(XMPP_ADDR, 0x0C, "me@b.example"),),
        (other(SRV_NAME, 0x16, "_xmpp-client.b.example"),),
        (other(SRV_NAME, 0x16, "_imaps.b.example"),),
        (x509.RFC822Name("b.example"),),
        (),  # the common name alone
    ):
        assert trust.judge(signed(ca, *names), "b.example") != ""


def test_purpose(ca: Authority) -> None:
    trust = Trust(ca.file)
    name = x509.DNSName("b.example")
    for usage in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, None):
        assert trust.judge(signed(ca, name, usage=usage), "b.example") == ""
    mail = signed(ca, name, usage=ExtendedKeyUsageOID.EMAIL_PROTECTION)
    assert trust.judge(mail, "b.example") == "the certificate is not meant for servers"


def test_a_server_certificate_signs_nothing(ca: Authority) -> None:
    """One who has a certificate for a.example cannot make himself one for b.example."""
    leaf = x509.load_pem_x509_certificates(ca.issue("a.example")[0].read_bytes())[0]
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "b.example")]))
        .issuer_name(leaf.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("b.example")]), critical=False)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    assert Trust(ca.file).judge([forged, leaf], "b.example") != ""


@pytest.mark.parametrize(
    ("name", "domain", "fits"),
    [
        ("b.example", "B.example", True),
        ("*.b.example", "conference.b.example", True),
        ("*.b.example", "b.example", False),
        ("*.b.example", "x.conference.b.example", False),
        ("*.example", "b.example", False),  # a wildcard right below the top covers nothing
        ("conf*.b.example", "conference.b.example", False),
    ],
)
def test_names_and_wildcards(name: str, domain: str, fits: bool) -> None:
    assert covers(frozenset((name,)), domain) is fits


def test_authorities_that_are_none(tmp_path: Path) -> None:
    for content in (None, "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        if content is not None:
            (tmp_path / "ca.pem").write_text(content)
        with pytest.raises(AuthoritiesUnusable, match=r"ca\.pem"):
            Trust(tmp_path / "ca.pem")
