"""Streams that others open, spoken to byte by byte by a peer that is no program of ours."""

import asyncio
import base64
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tests.net.federated import Two, exchange, pair
from tests.watched import until

from beamish.core.services import Outbox
from beamish.net.s2s_in import S2SInLink
from beamish.net.verify import Credentials, Trust
from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory
from beamish.testing.plugin import ExpectedErrors
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"


class Peer:
    """The initiating end of a stream to b.example."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        self._reader = reader
        self._writer = writer
        self._name = name
        self.heard = ""

    def send(self, text: str) -> None:
        self._writer.write(text.encode())

    async def hear(self, *wanted: str) -> str:
        """Read until one of these has come, which may be long; what was read and not yet looked at."""
        async with asyncio.timeout(10):
            while not any(each in self.heard for each in wanted):
                data = await self._reader.read(65_536)
                assert data, f"closed after: {self.heard}"
                self.heard += data.decode()
        heard, self.heard = self.heard, ""
        return heard

    async def closed(self) -> None:
        async with asyncio.timeout(10):
            while data := await self._reader.read(65_536):
                self.heard += data.decode()

    async def header(self, to: str = "b.example") -> str:
        self.send(
            "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'"
            f" xmlns:db='jabber:server:dialback' from='{self._name}' to='{to}' version='1.0'>"
        )
        return await self.hear("</stream:features>", "</stream:error>")

    async def external(self) -> None:
        """Authenticate by the certificate."""
        features = await self.header()
        assert "<mechanism>EXTERNAL</mechanism>" in features
        asked = base64.b64encode(self._name.encode()).decode()
        self.send(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{asked}</auth>")
        await self.hear("<success")
        await self.header()


@asynccontextmanager
async def peer(
    server: FederatedServer, name: str, files: tuple[Path, Path] | None, *, direct: bool = True
) -> AsyncIterator[Peer]:
    """A connection to a server in the name of a domain, encrypted unless `direct` is False, with a certificate or none."""
    context: ssl.SSLContext | None = None
    if direct:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if files is not None:
            context.load_cert_chain(*files)
    port = server.s2s_tls_port if direct else server.s2s_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield Peer(reader, writer, name)
    finally:
        writer.close()


async def heard_by(client: Client, sender: str, id_: str) -> None:
    await client.expect(f"<message from='{sender}' id='{id_}'><body>Hi</body></message>")


def message(sender: str, id_: str, to: str = "juliet@b.example/y") -> str:
    return f"<message from='{sender}' to='{to}' type='chat' id='{id_}'><body>Hi</body></message>"


@pytest.fixture
async def b(ca: Authority, names: Directory) -> AsyncIterator[FederatedServer]:
    async with FederatedServer(ca, names, domains=("b.example",), accounts=("juliet@b.example",)) as made:
        yield made


async def test_several_domains_on_one_stream(ca: Authority, b: FederatedServer) -> None:
    """The first by EXTERNAL, others by dialback on the same stream: one whose certificate it is, and not a stranger's."""
    juliet = await b.client("juliet@b.example/y", presence=True)
    async with peer(b, "a.example", ca.issue("a.example", "*.a.example")) as stream:
        await stream.external()
        stream.send(message("x@a.example", "1"))
        await heard_by(juliet, "x@a.example", "1")
        stream.send("<db:result from='rooms.a.example' to='b.example'>key</db:result>")
        await stream.hear("type='valid'")
        stream.send("<db:result from='evil.example' to='b.example'>key</db:result>")
        assert "type='error'" in await stream.hear("</db:result>")
        stream.send(message("room@rooms.a.example/nick", "2") + message("x@a.example", "3"))
        await heard_by(juliet, "room@rooms.a.example/nick", "2")
        await heard_by(juliet, "x@a.example", "3")
        pairs = {(s["remote"], s["method"]) for s in b.federation.list_streams()}
        assert pairs == {("a.example", "external"), ("rooms.a.example", "dialback")}
        stream.send(message("x@evil.example", "4"))
        await stream.closed()
        assert "<invalid-from" in stream.heard
        await juliet.expect_nothing()


async def test_an_iq_of_another_server_has_id_and_type(two: Two) -> None:
    """RFC 6120 §8.2.3: what lacks them is refused whoever sent it, and reaches nobody; an answer to nothing, too."""
    romeo, juliet = await exchange(*two)
    for type_, id_ in (("get", ""), ("", "5"), ("subscribe", "5")):
        for to in ("juliet@b.example/y", "b.example"):
            addresses = {"sender": JID.parse("romeo@a.example/x"), "to": JID.parse(to)}
            bad = Stanza.build("iq", type_, id=id_, content=b"<ping xmlns='urn:xmpp:ping'/>", **addresses)
            two[0].kernel.router.post(bad)
            if id_:
                await romeo.expect(
                    f"<iq type='error' from='{to}' id='{id_}'><error type='modify'>"
                    "<bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
                )
    await juliet.expect_nothing()
    await romeo.expect_nothing()


@pytest.mark.parametrize(
    "forged",
    ["x@c.example", "x@sub.a.example", "juliet@b.example", "b.example", "a.example.evil.example"],
)
async def test_a_forged_sender_ends_the_stream(ca: Authority, b: FederatedServer, forged: str) -> None:
    juliet = await b.client("juliet@b.example/y", presence=True)
    async with peer(b, "a.example", ca.issue("a.example")) as stream:
        await stream.external()
        stream.send(message("x@a.example", "1") + message(forged, "2") + message("x@a.example", "3"))
        await heard_by(juliet, "x@a.example", "1")
        await stream.closed()
        assert "<invalid-from" in stream.heard
        await juliet.expect_nothing()


async def test_a_forged_sender_between_two_servers_costs_others_nothing(two: Two) -> None:
    """The stream is made anew, and what is honest goes on; nothing of the other side comes back."""
    a, b = two
    romeo, juliet = await exchange(a, b)
    [link] = a.federation.links
    juliet.send("<message to='romeo@a.example/x' type='chat' id='4'><body>Hi</body></message>")
    await romeo.expect("<message id='4'/>")  # not confirmed yet
    link.write(message("x@c.example", "9").encode())
    await until(lambda: link not in a.federation.links)
    romeo.send("<message to='juliet@b.example/y' type='chat' id='3'><body>Hi</body></message>")
    await heard_by(juliet, "romeo@a.example/x", "3")
    await juliet.expect_nothing()
    await romeo.expect_nothing()


async def test_a_certificate_for_servers_only_is_enough_for_external(ca: Authority, b: FederatedServer) -> None:
    """What public authorities issue now says nothing of TLS clients."""
    async with peer(b, "a.example", ca.issue("a.example", client=False)) as stream:
        await stream.external()
        assert [s["method"] for s in b.federation.list_streams()] == ["external"]


@pytest.mark.parametrize("kind", ["none", "expired", "stranger", "another name"])
async def test_external_is_not_offered_without_a_certificate_that_holds(
    ca: Authority, b: FederatedServer, kind: str
) -> None:
    files: dict[str, Any] = {
        "none": lambda: None,
        "expired": lambda: ca.issue("a.example", days=(-30, -1)),
        "stranger": lambda: Authority.stranger(ca.directory / "s").issue("a.example"),
        "another name": lambda: ca.issue("c.example"),
    }
    async with peer(b, "a.example", files[kind]()) as stream:
        features = await stream.header()
        assert "EXTERNAL" not in features and "urn:xmpp:features:dialback" in features
        stream.send(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>"
            f"{base64.b64encode(b'a.example').decode()}</auth>"
        )
        assert "<not-authorized/>" in await stream.hear("</failure>")


async def test_a_key_that_the_authoritative_server_did_not_make(
    ca: Authority, names: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    """The DNS says who that is; whoever connects cannot choose it."""
    caplog.set_level(logging.INFO, "beamish")
    a, b = pair(ca, names)
    async with a, b, peer(b, "a.example", None) as stream:
        await stream.header()
        stream.send("<db:result from='a.example' to='b.example'>0123456789</db:result>")
        assert "type='invalid'" in await stream.hear("<db:result")
        stream.send(message("x@a.example", "1"))
        await stream.closed()
        assert "<not-authorized" in stream.heard
        [refused] = [r for r in caplog.records if r.getMessage() == "s2s_auth_failed"]
        assert refused.reason == "the authoritative server denies the key"  # type: ignore[attr-defined]


async def test_claims_without_end_do_not_fill_the_log(
    ca: Authority, b: FederatedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim has fewer bytes than its line; nor do connections of nobody, or addresses that are none."""
    caplog.set_level(logging.INFO, "beamish")
    async with peer(b, "a.example", ca.issue("a.example", "*.a.example")) as stream:
        await stream.external()
        for n in range(60):
            claimed = f"x{n % 30}.a.example"
            stream.send(f"<db:result from='{claimed}' to='b.example'>key</db:result>")
            assert "type='valid'" in await stream.hear("type=")
            stream.send("<message from='x@a.example' to='@b.example' type='error'/>")
        stream.send("<db:result from='x0.a.example' to='b.example'>key</db:result>")
        await stream.hear("type=")
    for _ in range(15):
        async with peer(b, "a.example", None, direct=False) as stream:
            await stream.header()
    await until(lambda: not b.federation.links)
    lines = Counter(record.getMessage() for record in caplog.records)
    assert lines["s2s_authenticated"] == lines["s2s_jid_malformed"] == 10
    assert lines["s2s_disconnected"] == 11, "those of nobody, and the one of a.example"


@pytest.mark.parametrize("known", [True, False])
async def test_the_ends_of_streams_are_told_of_all_who_are_known(
    ca: Authority, names: Directory, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    """Also if we end them, and only of these: whoever says nothing until his time is over is a stranger still."""
    caplog.set_level(logging.INFO, "beamish")
    _, b = pair(ca, names, settings={"s2s": {"negotiation_seconds": 5.0 if known else 0.01}})
    files = ca.issue("a.example")

    async def ended() -> None:
        async with peer(b, "a.example", files, direct=known) as stream:
            if known:
                await stream.external()
                stream.send("<no-such-thing/>")
            await stream.closed()

    async with b:
        await asyncio.gather(*(ended() for _ in range(12)))
    lines = Counter(record.getMessage() for record in caplog.records)
    assert (lines["s2s_stream_error"], lines["s2s_disconnected"]) == ((12, 12) if known else (10, 10))


async def test_nothing_happens_before_tls(b: FederatedServer) -> None:
    async with peer(b, "a.example", None, direct=False) as stream:
        assert "<required/>" in await stream.header()
        stream.send("<db:result from='a.example' to='b.example'>key</db:result>")
        await stream.closed()
        assert "<policy-violation" in stream.heard


async def test_connections_from_one_address_are_bounded(ca: Authority, names: Directory) -> None:
    limits = {"limits": {"connections_per_address": 2}}
    _, b = pair(ca, names, b={"settings": limits})
    async with b, peer(b, "a.example", None, direct=False) as one, peer(b, "a.example", None, direct=False) as two:
        await one.header()
        await two.header()
        async with peer(b, "a.example", None, direct=False) as three:
            await three.closed()
            assert "<resource-constraint" in three.heard
            assert "too many connections from your address" in three.heard


async def test_a_chain_is_examined_once_whatever_is_claimed_with_it(
    ca: Authority, b: FederatedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again when it has expired: a stream may stay open for long."""
    examined = 0
    examine = Trust.examine

    def counted(self: Trust, chain: Sequence[x509.Certificate]) -> Credentials:
        nonlocal examined
        examined += 1
        return examine(self, chain)

    monkeypatch.setattr(Trust, "examine", counted)
    files = ca.issue("a.example", *(f"n{n}.example" for n in range(5)))
    async with peer(b, "a.example", files) as stream:
        await stream.external()
        for n in range(5):
            stream.send(f"<db:result from='n{n}.example' to='b.example'>key</db:result>")
            assert "type='valid'" in await stream.hear("type=")
        assert examined == 1
        [link] = b.federation.links
        assert isinstance(link, S2SInLink) and link._shown is not None
        link._shown.until = 0.0
        stream.send("<db:result from='n5.example' to='elsewhere.example'>key</db:result>")
        assert "<item-not-found" in await stream.hear("type=")
        assert "is for a.example, n0.example, n1.example, not" in link._certifies("n5.example")
        assert examined == 2


async def test_connections_far_beyond_the_bound_are_cut_without_a_word(
    ca: Authority, names: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever is told why stays for a second: thousands of those were as many file descriptors, for everybody."""
    caplog.set_level(logging.INFO, "beamish")
    limits = {"limits": {"connections_per_address": 2}}
    _, b = pair(ca, names, b={"settings": limits})
    async with b, AsyncExitStack() as many:
        told = [await many.enter_async_context(peer(b, "a.example", None, direct=False)) for _ in range(4)]
        await until(lambda: len(b.federation.links) == 4)
        lines = len(caplog.records)
        for _ in range(3):
            async with peer(b, "a.example", None, direct=False) as stream:
                with suppress(ConnectionResetError):
                    await stream.closed()
                assert stream.heard == ""
        assert len(b.federation.links) == b.federation._per_network["127.0.0.1"] == 4
        assert len(caplog.records) == lines
        for stream in told[2:]:
            await stream.closed()
            assert "too many connections from your address" in stream.heard


async def test_questions_about_keys_count_for_the_rate(ca: Authority, names: Directory) -> None:
    """They are no stanzas and lead to no event, and cost what a stanza does: 28 MB of them took the server for seconds."""
    _, b = pair(ca, names, b={"settings": {"s2s": {"stanza_burst": 50, "stanzas_per_second": 1}}})
    async with b, peer(b, "a.example", ca.issue("a.example")) as stream:
        await stream.external()
        [link] = b.federation.links
        stream.send("<db:verify from='a.example' to='b.example' id='1'>00</db:verify>" * 40)
        await stream.hear("type='invalid'")
        assert not link._throttled
        stream.send("<db:verify from='a.example' to='b.example' id='2'>00</db:verify>" * 20)
        await until(lambda: link._throttled)


async def test_what_is_for_many_counts_for_as_many(ca: Authority, names: Directory) -> None:
    """Copies of an addressed message (XEP-0033) cost the other server's rate what so many messages do."""
    _, b = pair(ca, names, b={"settings": {"s2s": {"stanza_burst": 30, "stanzas_per_second": 1}}})
    async with b, peer(b, "a.example", ca.issue("a.example")) as stream:
        juliet = await b.client("juliet@b.example/y", presence=True)
        await stream.external()
        [link] = b.federation.links
        to = "".join(f"<address type='to' jid='juliet@b.example/y{n or ''}'/>" for n in range(25))
        header = f"<addresses xmlns='http://jabber.org/protocol/address'>{to}</addresses>"
        many = (
            f"<message from='x@a.example/r' to='b.example' id='many' type='headline'>{header}<body>Hi</body></message>"
        )
        stream.send(many)
        await juliet.expect("<message id='many'/>")
        assert link._paying is None
        stream.send(many + message("x@a.example", "late"))
        await juliet.expect("<message id='many'/>")
        await until(lambda: link._paying is not None)
        assert b.federation.buckets("a.example")[0]._tokens < -20
        link.abort()
        await until(lambda: link._task is None and not b.federation.links)
        await juliet.expect("<message id='late'/>")  # it had come before the end, and waited only


async def test_claims_in_vain_end_a_stream(ca: Authority, names: Directory, b: FederatedServer) -> None:
    async with peer(b, "a.example", ca.issue("a.example")) as stream:
        await stream.external()
        for n in range(30):
            stream.send(f"<db:result from='n{n}.example' to='elsewhere.example'>key</db:result>")
        await stream.closed()
        assert stream.heard.count("<item-not-found") == 20
        assert "too many domains claimed in vain" in stream.heard


@pytest.mark.parametrize(("verified", "comes"), [(True, False), (False, True)])
async def test_dialback_alone_counts_only_where_that_is_said(
    ca: Authority, names: Directory, expected_errors: ExpectedErrors, verified: bool, comes: bool
) -> None:
    """`require_verified_tls` is on unless it is turned off."""
    expected_errors.add("certificate_problem")
    expired = ca.issue("a.example", days=(-30, -1), stem="expired")
    theirs = {} if verified else {"settings": {"s2s": {"require_verified_tls": False}}}
    a, b = pair(ca, names, a={"files": expired}, b=theirs)
    async with a, b:
        romeo = await a.client("romeo@a.example/x")
        juliet = await b.client("juliet@b.example/y", presence=True)
        romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>")
        if comes:
            await heard_by(juliet, "romeo@a.example/x", "1")
        else:
            await romeo.expect("<message type='error' id='1'/>")


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        ({"deny": ("a.example",)}, "this server does not talk to a.example"),
        ({"deny": ("example",)}, "this server does not talk to a.example"),
        ({"deny": ("example",), "allow": ("a.example",)}, ""),
        ({"policy": "closed"}, "this server only talks to domains it was told about"),
        ({"policy": "closed", "allow": ("a.example",)}, ""),
    ],
)
async def test_whom_it_listens_to(ca: Authority, names: Directory, policy: dict[str, Any], refused: str) -> None:
    _, b = pair(ca, names, b={"settings": {"s2s": policy}})
    async with b, peer(b, "a.example", ca.issue("a.example")) as stream:
        heard = await stream.header()
        if refused:
            assert "<policy-violation" in heard and refused in heard
        else:
            assert "EXTERNAL" in heard


async def test_streams_to_be_resumed_are_bounded(ca: Authority, b: FederatedServer) -> None:
    """Whoever asks about streams that are none is told so, and not for ever."""
    async with peer(b, "a.example", ca.issue("a.example")) as stream:
        await stream.external()
        for n in range(15):
            stream.send(f"<resume xmlns='urn:xmpp:sm:3' previd='none-{n}' h='0'/>")
        await stream.closed()
        assert stream.heard.count("<item-not-found") == 10
        assert "too many streams to be resumed" in stream.heard


@pytest.mark.parametrize("resume", ["", " resume='true'"])
async def test_confirmations_wait_for_what_the_disk_owes_and_are_bounded(
    ca: Authority, b: FederatedServer, resume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a stream that cannot be resumed; however often the peer asks, one answer waits, and one goes behind it."""
    juliet = await b.client("juliet@b.example/y", presence=True)
    db = b.kernel.db
    counts: list[int] = []
    outbox = b.kernel.service(Outbox)
    handled = outbox.handled

    def counted(key: int, count: int, then: Any = None, after: int = 0) -> None:
        if then is not None:
            counts.append(count)
        handled(key, count, then, after)

    monkeypatch.setattr(outbox, "handled", counted)
    async with peer(b, "a.example", ca.issue("a.example")) as stream:
        await stream.external()
        stream.send(f"<enable xmlns='urn:xmpp:sm:3'{resume}/>")
        await stream.hear("<enabled")
        db.owed += 1
        for n in range(1, 6):
            stream.send(message("x@a.example", str(n)) + "<r xmlns='urn:xmpp:sm:3'/>" * 10)
            await heard_by(juliet, "x@a.example", str(n))
        await db.flushed()
        assert counts == [1]
        stream.send("<message to='juliet@b.example/y' from='x@a.example' id='6'/>")
        db.owed -= 1
        assert "<a xmlns='urn:xmpp:sm:3' h='1'/>" in await stream.hear("h='1'/>")
        assert "<a xmlns='urn:xmpp:sm:3' h='6'/>" in await stream.hear("h='6'/>")
        assert counts == [1, 6]


async def test_a_stream_of_somebody_else_is_not_told_about(ca: Authority, b: FederatedServer) -> None:
    """Not even to who knows its id: neither resumed nor counted, and it is not harmed."""
    juliet = await b.client("juliet@b.example/y", presence=True)
    async with peer(b, "a.example", ca.issue("a.example")) as mine:
        await mine.external()
        mine.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
        enabled = await mine.hear("<enabled")
        id_ = enabled.split("id='")[1].split("'")[0]
        mine.send(message("x@a.example", "1"))
        await heard_by(juliet, "x@a.example", "1")
        async with peer(b, "c.example", ca.issue("c.example")) as other:
            await other.external()
            other.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{id_}' h='0'/>")
            failed = await other.hear("</failed>")
            assert "item-not-found" in failed and "h=" not in failed
        mine.send(message("x@a.example", "2"))
        await heard_by(juliet, "x@a.example", "2")
        mine.send("</stream:stream>")
        await mine.closed()
        assert "<a xmlns='urn:xmpp:sm:3' h='2'/></stream:stream>" in mine.heard
    async with peer(b, "a.example", ca.issue("a.example")) as again:
        await again.external()
        again.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{id_}' h='0'/>")
        assert "h='2'" in await again.hear("</failed>")  # over, and this is how far it had got
