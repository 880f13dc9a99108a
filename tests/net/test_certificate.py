import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from beamish.net import certificate
from beamish.net.certificate import Problem, Severity, keep_self_signed, read_certificate, self_signed_file

NOW = datetime.now(UTC)


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


def test_a_good_certificate_has_no_problems(authority):
    pair = authority.issue("good", "example.org", "*.example.org")
    found, problems = read_certificate(
        pair.certificate, pair.key, ["example.org"], NOW, hosts=["conference.example.org"]
    )
    assert problems == []
    assert found is not None
    assert found.der == pair.der
    assert found.names == {"example.org", "*.example.org"}
    assert pair.key.read_text() not in repr(found)


@pytest.mark.parametrize(
    ("make", "severity", "culprit", "words"),
    [
        (lambda a: a.issue("x", "example.org", days=(-90, -1)), Severity.ERROR, "certificate", "expired on 20"),
        (lambda a: a.issue("x", "example.org", days=(1, 90)), Severity.ERROR, "certificate", "not valid before 20"),
        (lambda a: a.issue("x", "example.org", days=(-1, 13.5)), Severity.WARNING, "certificate", "in 13 days"),
        (lambda a: a.issue("x", "example.org", chain=False), Severity.WARNING, "certificate", "holds no chain"),
        (
            lambda a: a.issue("x", "other.example", "*.example.org"),
            Severity.ERROR,
            "certificate",
            "does not cover example.org (names it covers: *.example.org, other.example)",
        ),
        (
            lambda a: a.issue("x", common_name="example.org"),
            Severity.ERROR,
            "certificate",
            "does not cover example.org (names it covers: none; a common name",
        ),
        (
            lambda a: a.issue("x", "example.org", password=b"secret"),
            Severity.FATAL,
            "key",
            "the private key is encrypted",
        ),
        (
            lambda a: a.issue("x", "example.org", key=rsa.generate_private_key(65537, 1024)),
            Severity.FATAL,
            "certificate",
            "OpenSSL refuses it: EE_KEY_TOO_SMALL",
        ),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said(authority, make, severity, culprit, words):
    pair = make(authority)
    found, problems = read_certificate(pair.certificate, pair.key, ["example.org"], NOW)
    problem = only(problems)
    assert problem.severity is severity
    assert problem.file == getattr(pair, culprit)
    assert words in str(problem)
    assert str(problem).startswith(f"{getattr(pair, culprit)}: ")
    assert "example.org" in problem.domains
    assert (found is None) == (severity is Severity.FATAL)


def broken_file(text: bytes):
    return lambda path: path.write_bytes(text)


@pytest.mark.parametrize("culprit", ["certificate", "key"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "cannot be read: No such file or directory"),
        (broken_file(b""), "in PEM form"),
        (broken_file(b"\x30\x82\x01\x00"), "in PEM form"),
        (broken_file(b"-" * ((1 << 20) + 1)), "larger than 1 MiB"),
        (
            broken_file(
                b"".join(
                    b"-----BEGIN %s-----\nAAAA\n-----END %s-----\n" % (w, w) for w in (b"CERTIFICATE", b"PRIVATE KEY")
                )
            ),
            "cannot be parsed",
        ),
    ],
)
def test_an_unusable_file_is_named(authority, culprit, spoil, words):
    pair = authority.issue("x", "example.org")
    spoil(getattr(pair, culprit))
    found, problems = read_certificate(pair.certificate, pair.key, ["example.org"], NOW)
    assert found is None
    assert only(problems).file == getattr(pair, culprit)
    assert only(problems).severity is Severity.FATAL
    assert words in only(problems).text


def test_a_directory_in_place_of_a_file(authority, tmp_path):
    pair = authority.issue("x", "example.org")
    _, problems = read_certificate(tmp_path, pair.key, ["example.org"], NOW)
    assert "Is a directory" in only(problems).text


def test_the_key_of_another_certificate(authority):
    one, other = authority.issue("one", "example.org"), authority.issue("other", "example.org")
    found, problems = read_certificate(one.certificate, other.key, ["example.org"], NOW)
    assert found is None
    assert only(problems).file == other.key
    assert f"does not belong to the certificate in {one.certificate}" in only(problems).text


def test_the_chain_before_the_certificate(authority):
    pair = authority.issue("x", "example.org")
    leaf, middle = pair.certificate.read_bytes().split(b"-----END CERTIFICATE-----\n")[:2]
    pair.certificate.write_bytes(b"-----END CERTIFICATE-----\n".join([middle, leaf, b""]))
    found, problems = read_certificate(pair.certificate, pair.key, ["example.org"], NOW)
    assert found is None
    assert "must come first" in only(problems).text


def test_a_chain_of_somebody_else(authority):
    pair = authority.issue("x", "example.org", chain=False)
    pair.certificate.write_bytes(pair.certificate.read_bytes() + authority.root_file.read_bytes())
    _, problems = read_certificate(pair.certificate, pair.key, ["example.org"], NOW)
    assert "not in order" in only(problems).text


def test_a_key_that_everybody_can_read(authority):
    pair = authority.issue("x", "example.org")
    pair.key.chmod(0o644)
    found, problems = read_certificate(pair.certificate, pair.key, ["example.org"], NOW)
    assert found is not None
    assert only(problems).severity is Severity.WARNING
    assert only(problems).file == pair.key
    pair.key.chmod(0o640)
    assert read_certificate(pair.certificate, pair.key, ["example.org"], NOW)[1] == []


def test_a_service_address_that_is_not_covered_is_only_a_warning(authority):
    pair = authority.issue("x", "example.org")
    _, problems = read_certificate(pair.certificate, pair.key, ["example.org"], NOW, hosts=["conference.example.org"])
    assert only(problems).severity is Severity.WARNING
    assert only(problems).domains == ("conference.example.org",)


def test_certificate_and_key_in_one_file(authority):
    pair = authority.issue("x", "example.org")
    pair.certificate.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    pair.certificate.chmod(0o600)
    found, problems = read_certificate(pair.certificate, pair.certificate, ["example.org"], NOW)
    assert found is not None
    assert problems == []


def test_what_was_read_is_used_even_if_the_files_change(authority):
    pair = authority.issue("x", "example.org")
    found, _ = read_certificate(pair.certificate, pair.key, ["example.org"], NOW)
    assert found is not None
    pair.certificate.unlink()
    pair.key.unlink()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    descriptors = len(os.listdir("/proc/self/fd"))
    found.load_into(context)
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize(
    ("name", "domain", "covered"),
    [
        ("example.org", "example.org", True),
        ("Example.ORG", "example.org", True),
        ("example.org", "EXAMPLE.org.", True),
        ("example.org", "conference.example.org", False),
        ("*.example.org", "conference.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "a.b.example.org", False),
        ("xn--bcher-kva.example", "bücher.example", True),
        ("localhost", "localhost", True),
        (x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5"), b"\x0c\x0bexample.org"), "example.org", True),
        (
            x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x16\x18_xmpp-client.example.org"),
            "example.org",
            True,
        ),
        (
            x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x16\x11_imap.example.org"),
            "example.org",
            False,
        ),
        (x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5"), b"\x0c\x0da@example.org"), "example.org", False),
        (x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5"), b"\x05\x00"), "example.org", False),
    ],
)
def test_which_domains_a_certificate_covers(authority, name, domain, covered):
    pair = authority.issue("x", name)
    found, _ = read_certificate(pair.certificate, pair.key, [domain], NOW)
    assert found is not None
    assert found.covers(domain) is covered


class TestSelfSigned:
    DOMAINS = ("example.org", "bücher.example", "127.0.0.1", "my_host")

    def make(self, directory, domains=DOMAINS, hosts=(), now=NOW):
        path = keep_self_signed(directory, domains, hosts, now)
        found, problems = read_certificate(path, path, domains, now, hosts=hosts)
        assert found is not None
        assert problems == []
        return found

    def test_covers_all_names_in_all_forms(self, tmp_path):
        found = self.make(tmp_path / "certs", hosts=("conference.example.org", "rooms.example.net"))
        parsed = x509.load_der_x509_certificate(found.der)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert set(names.get_values_for_type(x509.DNSName)) == {
            "example.org", "*.example.org", "xn--bcher-kva.example", "*.xn--bcher-kva.example", "my_host", "*.my_host",
            "rooms.example.net",
        }  # fmt: skip
        assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
        others = [(name.type_id.dotted_string, name.value) for name in names.get_values_for_type(x509.OtherName)]
        assert ("1.3.6.1.5.5.7.8.5", b"\x0c\x0f" + "bücher.example".encode()) in others
        assert ("1.3.6.1.5.5.7.8.7", b"\x16\x18_xmpp-client.example.org") in others
        assert ("1.3.6.1.5.5.7.8.7", b"\x16\x18_xmpp-server.example.org") in others

    def test_nobody_else_can_read_it(self, tmp_path):
        path = keep_self_signed(tmp_path / "certs", ["example.org"], (), NOW)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert [found.name for found in path.parent.iterdir()] == [path.name]

    def test_it_is_found_again(self, tmp_path):
        hosts = ("conference.example.org", "rooms.example.net")
        first = self.make(tmp_path, hosts=hosts)
        assert self.make(tmp_path, hosts=hosts).der == first.der
        assert self.make(tmp_path, hosts=hosts, now=NOW + timedelta(days=3600)).der == first.der

    def test_a_very_long_domain(self, tmp_path):
        domain = ".".join(["a" * 60] * 4)
        first = self.make(tmp_path, domains=(domain,))
        assert self.make(tmp_path, domains=(domain,)).der == first.der

    @pytest.mark.parametrize("domains", [("example.org",), ("example.org", "new.example")])
    def test_other_domains_make_a_new_one(self, tmp_path, domains):
        first = self.make(tmp_path)
        assert self.make(tmp_path, domains=domains).der != first.der

    def test_it_is_renewed_before_it_ends(self, tmp_path):
        first = self.make(tmp_path)
        assert self.make(tmp_path, now=NOW + timedelta(days=3630)).der != first.der

    def test_a_damaged_one_is_replaced(self, tmp_path):
        self.make(tmp_path)
        self_signed_file(tmp_path).write_bytes(b"-----BEGIN CERTIFICATE-----\n")
        self.make(tmp_path)

    def test_a_thousand_domains_still_fit_a_handshake(self, tmp_path):
        domains = [f"a-rather-long-name-{number}.example.org" for number in range(1000)]
        assert len(self.make(tmp_path, domains=domains).der) < 100 * 1024

    def test_a_failed_write_leaves_the_old_one(self, tmp_path, monkeypatch):
        first = self.make(tmp_path)

        def full_disk(_descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(certificate.os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            keep_self_signed(tmp_path, ["new.example"], (), NOW)
        monkeypatch.undo()
        assert [found.name for found in tmp_path.iterdir()] == [self_signed_file(tmp_path).name]
        assert self.make(tmp_path).der == first.der
