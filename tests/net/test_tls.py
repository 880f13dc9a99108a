import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from structlog.testing import capture_logs

from beamish import app
from beamish.net import tls
from beamish.net.certificate import Problem, Severity, self_signed_file
from beamish.net.tls import XMPP_CLIENT, XMPP_SERVER, CertificateStore, CertificatesUnusable


@dataclass
class Files:
    certificate: Path
    key: Path


@dataclass
class Options:
    certificate: Path | None = None
    key: Path | None = None
    minimum: str = "1.2"
    domains: Mapping[str, Files] = field(default_factory=dict)


@pytest.fixture(scope="module")
def rsa_key():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def two(authority, rsa_key, tmp_path):
    """A store with the default certificate for example.org and an own one for example.net, and their DER."""
    org = authority.issue("org", "example.org", "*.example.org")
    net = authority.issue("net", "example.net", key=rsa_key)
    options = Options(org.certificate, org.key, domains={"example.net": Files(net.certificate, net.key)})
    store = CertificateStore(options, ["example.org", "example.net"], tmp_path)
    assert store.load() == []
    return store, org.der, net.der


def client(authority=None, *, check=True, **settings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is not None:
        context.load_verify_locations(authority.root_file)
    if not check:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None, session=None):
    """Both sides of a handshake in memory; raises what the client sees, with the server's error as a note."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(down, up, server_hostname=name, session=session)
    ours = server.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        failed = None
        for side in (theirs, ours):
            try:
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
            except ssl.SSLError as error:
                if side is theirs:
                    if failed:
                        error.add_note(str(failed))
                    raise
                failed = error
    return ours, theirs


def served(server, client, name=None) -> bytes:
    _, theirs = handshake(server, client, name)
    der = theirs.getpeercert(binary_form=True)
    assert der is not None
    return der


class TestChoice:
    @pytest.mark.parametrize(
        ("name", "own"),
        [
            (None, 0),
            ("example.org", 0),
            ("EXAMPLE.org", 0),
            ("conference.example.org", 0),
            ("example.net", 1),
            ("conference.example.net", 1),
            ("nowhere.invalid", 0),
        ],
    )
    def test_by_server_name(self, two, name, own):
        store, *ders = two
        assert served(store.server_context(), client(check=False), name) == ders[own]

    @pytest.mark.parametrize(
        ("to", "name", "own"),
        [
            ("example.net", None, 1),
            ("example.net", "example.net", 1),
            ("example.net", "xmpp.hoster.invalid", 1),
            ("example.net", "example.org", 0),
            ("conference.example.net", None, 1),
            ("rooms.example.org", None, 0),
            ("nowhere.invalid", None, 0),
        ],
    )
    def test_by_the_streams_to_if_sni_says_nothing(self, two, to, name, own):
        store, *ders = two
        assert served(store.context_for(to), client(check=False), name) == ders[own]

    def test_a_wildcard_certificate_of_its_own(self, authority, tmp_path):
        one, below = authority.issue("one", "example.org"), authority.issue("below", "example.net", "*.example.org")
        options = Options(one.certificate, one.key, domains={"example.net": Files(below.certificate, below.key)})
        store = CertificateStore(options, ["example.org", "example.net"], tmp_path)
        assert store.load() == []
        for to, own in (("example.org", one), ("rooms.example.org", below), ("a.b.example.org", one)):
            assert served(store.context_for(to), client(check=False)) == own.der
            assert store.certificate_for(to).der == own.der

    def test_strangers_cannot_make_contexts_without_end(self, two):
        store, *_ = two
        contexts = {store.context_for(f"{number}.{suffix}") for number in range(50) for suffix in ("example.org", "zz")}
        assert len(contexts) <= 3
        assert store.context_for("example.org", XMPP_CLIENT) is store.context_for("example.org", XMPP_CLIENT)

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    @pytest.mark.parametrize("name", ["example.org", "example.net", "rooms.example.org"])
    def test_clients_that_check_everything_are_content(self, authority, two, name, version):
        store, *_ = two
        ours, _ = handshake(store.server_context(), client(authority, maximum_version=version), name)
        assert ours.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert ours.cipher()[2] >= 128
        assert ours.compression() is None

    def test_international_domains(self, authority, tmp_path):
        pair = authority.issue("x", "xn--bcher-kva.example")
        other = authority.issue("y", "example.org")
        options = Options(other.certificate, other.key, domains={"bücher.example": Files(pair.certificate, pair.key)})
        store = CertificateStore(options, ["example.org", "bücher.example"], tmp_path)
        assert store.load() == []
        assert served(store.server_context(), client(authority), "bücher.example") == pair.der
        assert store.certificate_for("BÜCHER.example").der == pair.der


class TestProtocol:
    def test_old_versions_are_refused(self, two):
        store, *_ = two
        old = client(check=False)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            handshake(store.server_context(), old, "example.org")

    def test_only_tls_1_3_if_so_configured(self, authority, tmp_path):
        pair = authority.issue("x", "example.org")
        store = CertificateStore(Options(pair.certificate, pair.key, "1.3"), ["example.org"], tmp_path)
        store.load()
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            handshake(store.server_context(), client(authority, maximum_version=ssl.TLSVersion.TLSv1_2), "example.org")
        assert handshake(store.server_context(), client(authority), "example.org")[0].version() == "TLSv1.3"

    @pytest.mark.parametrize("ciphers", ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA256", "DHE+AESGCM"])
    def test_weak_ciphers_are_refused(self, two, ciphers):
        store, *_ = two
        weak = client(check=False, maximum_version=ssl.TLSVersion.TLSv1_2)
        weak.set_ciphers(ciphers)
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            handshake(store.server_context(), weak, "example.net")

    def test_no_tickets_and_no_renegotiation(self, authority, two):
        store, *_ = two
        ours, theirs = handshake(store.server_context(), client(authority), "example.org")
        with pytest.raises(ssl.SSLWantReadError):
            theirs.read(1)  # a ticket would arrive here
        assert theirs.session is None or not theirs.session.has_ticket
        for context in (store.server_context(), ours.context):
            assert context.options & ssl.OP_NO_RENEGOTIATION
            assert context.options & ssl.OP_NO_TICKET
            assert context.num_tickets == 0

    @pytest.mark.parametrize(
        ("ours", "theirs", "chosen"),
        [
            ((XMPP_CLIENT,), (XMPP_CLIENT,), XMPP_CLIENT),
            ((XMPP_CLIENT,), ("h2", XMPP_CLIENT), XMPP_CLIENT),
            ((XMPP_CLIENT,), (), None),
            ((XMPP_CLIENT, XMPP_SERVER), (XMPP_SERVER,), XMPP_SERVER),
            ((), ("h2",), None),
        ],
    )
    @pytest.mark.parametrize("name", ["example.net", None])
    def test_alpn(self, two, ours, theirs, chosen, name):
        store, *_ = two
        context = client(check=False)
        if theirs:
            context.set_alpn_protocols(theirs)
        server, peer = handshake(store.server_context(*ours), context, name)
        assert server.selected_alpn_protocol() == peer.selected_alpn_protocol() == chosen

    @pytest.mark.parametrize("offer", [("h2", "http/1.1"), (XMPP_SERVER,), ("x" * 255,)])
    @pytest.mark.parametrize("name", ["example.org", None])
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_other_protocols_are_refused(self, two, offer, name, version):
        store, *_ = two
        context = client(check=False, maximum_version=version)
        context.set_alpn_protocols(offer)
        with pytest.raises(ssl.SSLError, match=r"(?i)alert no.application.protocol"):
            handshake(store.server_context(XMPP_CLIENT), context, name)

    def test_a_hello_retry_is_served_too(self, authority, two):
        store, org, _ = two
        context = client(authority)
        context.set_alpn_protocols([XMPP_CLIENT])
        server = store.server_context(XMPP_CLIENT)
        context.set_ecdh_curve("secp521r1")
        ours, theirs = handshake(server, context, "example.org")
        assert theirs.getpeercert(binary_form=True) == org
        assert store.end_point_binding(ours) == org


@given(st.binary(max_size=300))
def test_any_hello_can_be_searched(hello):
    assert isinstance(tls._offered_alpn(hello), list)


@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO < (3, 5), reason="this Python's OpenSSL knows no such exchange of keys")
def test_keys_are_exchanged_in_a_way_that_holds_against_quantum_computers(two):
    store, *_ = two
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = store.server_context().wrap_bio(up, down, server_side=True)
    theirs = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    theirs.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        theirs.do_handshake()
    up.write(theirs.bio_read(65_536))
    with contextlib.suppress(ssl.SSLWantReadError):
        ours.do_handshake()
    theirs.bio_write(down.read())
    theirs.do_handshake()
    assert theirs.get_group_name() == "X25519MLKEM768"


class TestBinding:
    @pytest.mark.parametrize("name", ["example.org", "example.net", None])
    def test_is_the_certificate_that_was_served(self, two, name):
        store, *_ = two
        ours, theirs = handshake(store.server_context(), client(check=False), name)
        assert store.end_point_binding(ours) == theirs.getpeercert(binary_form=True)

    def test_unknown_connections_have_none(self, two):
        store, *_ = two
        _, theirs = handshake(store.server_context(), client(check=False))
        assert store.end_point_binding(None) is None
        assert store.end_point_binding(theirs) is None

    def test_stays_what_it_was_over_a_reload(self, authority, two):
        store, org, _ = two
        ours, _ = handshake(store.server_context(), client(authority), "example.org")
        new = authority.issue("org", "example.org")
        assert store.reload() == []
        assert store.end_point_binding(ours) == org
        again, _ = handshake(store.server_context(), client(authority), "example.org")
        assert store.end_point_binding(again) == new.der

    def test_is_withheld_for_a_session_older_than_the_certificate(self, authority, two):
        store, org, _ = two
        context = client(authority, maximum_version=ssl.TLSVersion.TLSv1_2)
        first, theirs = handshake(store.server_context(), context, "example.org")
        resumed, _ = handshake(store.server_context(), context, "example.org", session=theirs.session)
        assert resumed.session_reused
        certificate = resumed.context.certificate
        resumed.context.certificate = dataclasses.replace(certificate, loaded_at=theirs.session.time - 1)
        assert store.end_point_binding(resumed) == org
        resumed.context.certificate = dataclasses.replace(certificate, loaded_at=theirs.session.time + 1)
        assert store.end_point_binding(resumed) is None
        assert first.session_reused is False


class TestProblems:
    def test_a_broken_certificate_stops_the_start(self, authority, tmp_path):
        good, bad = authority.issue("good", "example.org"), authority.issue("bad", "example.net")
        bad.key.write_bytes(good.key.read_bytes())
        options = Options(good.certificate, good.key, domains={"example.net": Files(bad.certificate, bad.key)})
        store = CertificateStore(options, ["example.org", "example.net"], tmp_path)
        with pytest.raises(CertificatesUnusable, match=r"bad\.key: the key does not belong.*example\.net") as caught:
            store.load()
        assert [problem.severity for problem in caught.value.problems] == [Severity.FATAL]
        assert store.check() == list(caught.value.problems)
        with pytest.raises(RuntimeError):
            store.certificate_for("example.org")

    def test_an_expired_one_is_served_and_reported(self, authority, tmp_path, expected_errors):
        expected_errors.add("certificate_problem")
        pair = authority.issue("x", "example.org", days=(-9, -1))
        store = CertificateStore(Options(pair.certificate, pair.key), ["example.org"], tmp_path)
        [problem] = store.load()
        assert problem.severity is Severity.ERROR
        assert served(store.server_context(), client(check=False), "example.org") == pair.der
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            handshake(store.server_context(), client(authority), "example.org")

    def test_each_domain_of_the_shared_certificate_is_checked(self, authority, tmp_path):
        pair = authority.issue("x", "example.org", "*.example.org")
        hosts = ["conference.example.org", "conference.example.net"]
        store = CertificateStore(
            Options(pair.certificate, pair.key), ["example.org", "example.net"], tmp_path, hosts=hosts
        )
        found = [(problem.severity, problem.domains) for problem in store.check()]
        assert found == [(Severity.ERROR, ("example.net",)), (Severity.WARNING, ("conference.example.net",))]

    def test_nothing_to_serve(self, tmp_path):
        with pytest.raises(ValueError, match="at least one domain"):
            CertificateStore(Options(), [], tmp_path)


class TestSelfSigned:
    def store(self, data_dir, domains=("example.org", "localhost"), **more):
        store = CertificateStore(Options(), domains, data_dir, **more)
        assert store.load() == []
        return store

    def test_is_made_and_found_again(self, tmp_path):
        first = self.store(tmp_path).certificate_for("example.org")
        assert self.store(tmp_path).certificate_for("localhost").der == first.der
        assert first.source == self_signed_file(tmp_path / "certs")
        assert self.store(tmp_path, domains=["example.org"]).certificate_for("example.org").der != first.der

    @pytest.mark.parametrize("name", ["example.org", "localhost", "conference.example.org"])
    @pytest.mark.parametrize("strict", [ssl.VERIFY_DEFAULT, ssl.VERIFY_X509_STRICT])
    def test_satisfies_a_client_that_trusts_it(self, tmp_path, name, strict):
        store = self.store(tmp_path)
        context = client()
        context.verify_flags |= strict
        context.load_verify_locations(store.certificate_for(name).source)
        handshake(store.server_context(), context, name)

    def test_a_check_makes_nothing(self, tmp_path):
        data_dir = tmp_path / "data"
        assert CertificateStore(Options(), ["example.org"], data_dir).check() == []
        assert not data_dir.exists()
        self.store(data_dir)
        assert CertificateStore(Options(), ["example.org"], data_dir).check() == []

    def test_is_renewed_by_a_reload_in_time(self, tmp_path):
        now = datetime.now(UTC)
        store = self.store(tmp_path, clock=lambda: now)
        first = store.certificate_for("example.org")
        now += timedelta(days=3640)
        assert store.reload() == []
        assert store.certificate_for("example.org").der != first.der

    def test_cannot_be_made(self, tmp_path):
        (tmp_path / "certs").write_text("in the way")
        store = CertificateStore(Options(), ["example.org"], tmp_path)
        with pytest.raises(CertificatesUnusable, match="cannot make a self-signed certificate: "):
            store.load()

    def test_serves_the_domains_that_have_no_own(self, authority, tmp_path):
        pair = authority.issue("net", "example.net")
        options = Options(domains={"example.net": Files(pair.certificate, pair.key)})
        store = CertificateStore(options, ["example.org", "example.net"], tmp_path, hosts=["rooms.example.net"])
        [problem] = store.load()
        assert problem.domains == ("rooms.example.net",)
        assert store.certificate_for("example.net").der == pair.der
        parsed = x509.load_der_x509_certificate(store.certificate_for("example.org").der)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["example.org", "*.example.org"]


class TestReload:
    def test_a_broken_file_keeps_the_old_certificate(self, authority, two, expected_errors):
        expected_errors.add("certificate_problem")
        store, org, net = two
        (authority.directory / "net.pem").write_text("oops")
        new = authority.issue("org", "example.org")
        [problem] = store.reload()
        assert problem.severity is Severity.FATAL
        assert problem.domains == ("example.net",)
        assert served(store.server_context(), client(authority), "example.org") == new.der != org
        assert served(store.server_context(), client(authority), "example.net") == net

    def test_everything_broken_keeps_everything(self, authority, two, expected_errors):
        expected_errors.add("certificate_problem")
        store, org, net = two
        for stem in ("org", "net"):
            (authority.directory / f"{stem}.key").unlink()
        assert len(store.reload()) == 2
        assert served(store.server_context(), client(authority), "example.org") == org
        assert served(store.server_context(), client(authority), "example.net") == net

    @pytest.mark.parametrize(
        ("names", "days"),
        [(("example.org", "*.example.org"), (-9, -1)), (("example.org",), (1, 90)), (("other.example",), (-1, 90))],
        ids=["expired", "not yet valid", "other names"],
    )
    def test_a_worse_certificate_does_not_replace_a_good_one(self, authority, two, expected_errors, names, days):
        expected_errors.add("certificate_problem")
        store, org, net = two
        worse = authority.issue("org", *names, days=days)
        problems = store.reload()
        assert [p.text.partition(":")[0] for p in problems if p.severity is Severity.WARNING] == ["not taken into use"]
        assert any(p.severity is Severity.ERROR for p in problems)
        assert served(store.server_context(), client(authority), "example.org") == org
        assert served(store.server_context(), client(authority), "example.net") == net
        better = authority.issue("org", "example.org")
        assert store.reload() == []
        assert served(store.server_context(), client(authority), "example.org") == better.der != worse.der

    def test_what_is_in_use_is_told_of_before_it_is_out_of_date(self, authority, tmp_path, expected_errors):
        """Whether its file was renewed without a reload, or had nothing better when there was one."""
        expected_errors.add("certificate_problem")
        now = datetime.now(UTC)
        pair = authority.issue("x", "example.org", days=(-1, 60))
        options = Options(pair.certificate, pair.key)
        store = CertificateStore(options, ["example.org", "chat.example.org"], tmp_path, clock=lambda: now)
        store.load()
        authority.issue("x", "example.org", "chat.example.org", days=(1, 90))
        assert store.reload()[-1].text.startswith("not taken into use")
        now += timedelta(days=2)
        assert store.ageing() == []
        now += timedelta(days=50)
        assert store.check() == []
        [problem] = store.ageing()
        assert problem.severity is Severity.WARNING and problem.domains == ("example.org",)
        assert problem.text.startswith("the certificate in use expires on ")
        now += timedelta(days=9)
        assert [problem.severity for problem in store.ageing()] == [Severity.ERROR]
        store.reload()
        assert store.ageing() == []

    def test_the_daily_look_is_at_the_files_and_at_what_is_in_use(self, authority, two, run, monkeypatch):
        store, *_ = two

        async def scenario():
            looked = asyncio.Event()

            def ageing():
                looked.set()
                return [Problem(Severity.ERROR, Path("x.pem"), ("example.org",), "the certificate in use expired")]

            monkeypatch.setattr(CertificateStore, "ageing", lambda _store: ageing())
            monkeypatch.setattr(app, "_DAY", 0.0)
            with capture_logs() as told:
                watching = asyncio.ensure_future(app._watch_certificates(store))
                await looked.wait()
                watching.cancel()
            assert told[0]["problem"] == "x.pem: the certificate in use expired (for example.org)"

        run(scenario())

    def test_of_two_that_are_out_of_date_the_new_one_is_taken(self, authority, tmp_path, expected_errors):
        expected_errors.add("certificate_problem")
        pair = authority.issue("x", "example.org", days=(-9, -2))
        store = CertificateStore(Options(pair.certificate, pair.key), ["example.org"], tmp_path)
        store.load()
        new = authority.issue("x", "example.org", days=(-9, -1))
        store.reload()
        assert store.certificate_for("example.org").der == new.der != pair.der

    def test_other_files(self, authority, two):
        store, *_ = two
        moved = authority.issue("moved", "example.org", "example.net")
        assert store.reload(Options(moved.certificate, moved.key)) == []
        for name in ("example.org", "example.net"):
            assert served(store.server_context(), client(authority), name) == moved.der

    def test_open_connections_go_on(self, authority, two, run):
        store, old, _ = two

        async def scenario():
            seen = []

            async def echo(reader, writer):
                seen.append(store.end_point_binding(writer.get_extra_info("ssl_object")))
                while line := await reader.readline():
                    writer.write(line)
                writer.close()

            server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=store.server_context(XMPP_CLIENT))
            port = server.sockets[0].getsockname()[1]

            async def connect():
                context = client(authority)
                context.set_alpn_protocols([XMPP_CLIENT])
                return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="example.org")

            async def said(connection, text):
                connection[1].write(text)
                return await connection[0].readline()

            first = await connect()
            assert await said(first, b"before\n") == b"before\n"
            new = authority.issue("org", "example.org")
            assert store.reload() == []
            assert await said(first, b"after\n") == b"after\n"
            second = await connect()
            assert await said(second, b"second\n") == b"second\n"
            assert first[1].get_extra_info("ssl_object").getpeercert(binary_form=True) == old
            assert second[1].get_extra_info("ssl_object").getpeercert(binary_form=True) == new.der
            assert seen == [old, new.der]
            for _, writer in (first, second):
                writer.close()
                await writer.wait_closed()
            server.close()
            await server.wait_closed()

        run(scenario())

    def test_starttls_with_the_streams_to(self, authority, two, run):
        store, _, net = two

        async def scenario():
            done = asyncio.get_running_loop().create_future()

            async def upgrade(reader, writer):
                await reader.readline()
                writer.write(b"proceed\n")
                await writer.drain()
                await writer.start_tls(store.context_for("example.net"))
                done.set_result(store.end_point_binding(writer.get_extra_info("ssl_object")))
                writer.write(b"encrypted\n")
                await writer.drain()
                await reader.read()
                writer.close()

            server = await asyncio.start_server(upgrade, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
            writer.write(b"starttls\n")
            assert await reader.readline() == b"proceed\n"
            context = client(authority)
            context.check_hostname = False
            await writer.start_tls(context)  # without SNI
            assert writer.get_extra_info("ssl_object").getpeercert(binary_form=True) == net
            assert await reader.readline() == b"encrypted\n"
            assert await done == net
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

        run(scenario())
