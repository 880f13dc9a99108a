"""Streams that we open: where to, how many, how long they are waited for, and what senders and the log learn."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from typing import Any

import pytest
from tests.net.federated import exchange, only, pair
from tests.watched import until

from beamish.net import dns
from beamish.net.dns import LookupFailed, Srv
from beamish.net.s2s_opening import open_stream
from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer, Relay
from beamish.testing.names import Directory
from beamish.testing.plugin import ExpectedErrors

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"


def message(number: int, to: str = "juliet@b.example/y") -> str:
    return f"<message to='{to}' type='chat' id='{number}'><body>{number}</body></message>"


def told(error: Any) -> str:
    """The text of an error."""
    return str(error.findtext(f".//{{{STANZAS}}}text"))


async def test_without_records_the_domain_itself_is_tried(
    ca: Authority, names: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair(ca, names)
    async with a, b:
        names.forget("b.example")
        names.hosts["b.example"] = ["127.0.0.1"]
        monkeypatch.setattr(dns, "PORT", b.s2s_port)
        await exchange(a, b)


async def test_the_next_server_is_tried_when_one_refuses(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names)
    async with a, b:
        names.forget("b.example")
        names.records["_xmpps-server._tcp.b.example"] = [Srv(0, 0, 1, "host.b.example")]
        names.records["_xmpp-server._tcp.b.example"] = [
            Srv(1, 0, 1, "host.b.example"),
            Srv(2, 0, b.s2s_port, "host.b.example"),
        ]
        await exchange(a, b)


async def test_one_stream_for_a_pair_of_domains(ca: Authority, names: Directory) -> None:
    """However many write at the same time, and one each for two domains of ours."""
    a = FederatedServer(
        ca, names, domains=("a.example", "a2.example"), accounts=("romeo@a.example", "mercutio@a2.example")
    )
    b = FederatedServer(ca, names, domains=("b.example",), accounts=("juliet@b.example",))
    async with a, b, Relay(b.s2s_port) as relay:
        names.move("b.example", relay.port)
        juliet = await b.client("juliet@b.example/y", presence=True)
        clients = [await a.client(f"romeo@a.example/{n}") for n in range(4)]
        clients.append(await a.client("mercutio@a2.example/x"))
        for n in range(5):
            for client in clients:
                client.send(message(n))
        heard: dict[str, list[str]] = {}
        for _ in range(25):
            got = await juliet.receive()
            heard.setdefault(got.get("from") or "", []).append(got.get("id") or "")
        assert heard == {str(client.jid): [str(n) for n in range(5)] for client in clients}
        assert relay.carried == 2
        pairs = [(s["local"], s["remote"]) for s in a.federation.list_streams() if s["direction"] == "out"]
        assert sorted(pairs) == [("a.example", "b.example"), ("a2.example", "b.example")]


async def test_bytes_in_the_queue_are_bounded(ca: Authority, names: Directory) -> None:
    a, _ = pair(ca, names, settings={"s2s": {"queue_bytes": 5_000, "retry_seconds": 30}})
    names.serve("b.example", 1)
    async with a:
        romeo = await a.client("romeo@a.example/x")
        for n in range(3):
            romeo.send(f"<message to='juliet@b.example' type='chat' id='{n}'><body>{'x' * 2_000}</body></message>")
        error = await romeo.expect("<message type='error' id='2'/>")
        assert told(error) == "too-many: too many stanzas wait for b.example"


async def test_stanzas_wait_for_a_server_that_comes_up_in_time(ca: Authority, names: Directory) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names.serve("b.example", port)
    a, b = pair(ca, names, b={"settings": {"s2s": {"listen": (f"127.0.0.1:{port}",)}}})
    async with a:
        romeo = await a.client("romeo@a.example/x")
        for n in range(20):
            romeo.send(message(n, "juliet@b.example"))
        await until(lambda: any(s["reason"] is None and s["queued"] == 20 for s in a.federation.list_streams()))
        async with b:
            juliet = await b.client("juliet@b.example/y", presence=True)
            for n in range(20):
                await juliet.expect(f"<message id='{n}'/>")
            await romeo.expect_nothing()


async def test_a_server_that_failed_rests_longer_each_time(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names, a={"settings": {"s2s": {"retry_seconds": 0.01, "backoff_seconds": 15}}})
    async with a:
        names.serve("b.example", 1)
        romeo = await a.client("romeo@a.example/x")
        pauses = []
        for n in range(4):
            romeo.send(message(n))
            await romeo.expect(f"<message type='error' id='{n}'/>")
            [route] = a.federation.routes.values()
            pauses.append(round(route.not_before - a.federation.now()))
            asked = len(names.asked)
            romeo.send(message(100 + n))  # at rest, nothing is tried
            error = await romeo.expect(f"<message type='error' id='{100 + n}'/>")
            assert told(error).startswith("refused: ")
            assert len(names.asked) == asked
            route.not_before = 0.0
        assert pauses == [5, 10, 15, 15]
        romeo.send(message(9))
        await romeo.expect("<message type='error' id='9'/>")
        async with b:
            juliet = await b.client("juliet@b.example/y", presence=True)
            juliet.send("<message to='romeo@a.example/x' type='chat' id='up'><body>Hi</body></message>")
            await romeo.expect("<message id='up'/>")
            romeo.send(message(10))  # whoever speaks to us is not at rest
            await juliet.expect("<message id='10'/>")


async def test_a_connection_that_is_cut_before_anything_is_confirmed(ca: Authority, names: Directory) -> None:
    """By a peer without stream management: confirmed by a ping's answer or in doubt, and then the sender is told."""
    a, b = pair(ca, names)
    async with a, b:
        for server in (a, b):
            server.federation.settings = replace(server.federation.settings, bidi=False)
        b.federation.settings = replace(b.federation.settings, resumption=False)
        romeo, juliet = await exchange(a, b)
        [link] = [each for each in a.federation.links if each.direction == "out"]
        pings = link.pings
        assert pings is not None and link.acks is None
        await until(lambda: pings.answers and not pings._pending)
        [into] = [each for each in b.federation.links if each.direction == "in"]
        into.stop_reading()
        romeo.send(message(3))
        await until(lambda: bool(pings._pending))
        link.abort()
        error = await romeo.expect(
            "<message from='juliet@b.example/y' type='error' id='3'><error type='wait'>"
            f"<remote-server-timeout xmlns='{STANZAS}'/></error></message>"
        )
        assert told(error).startswith("connection-lost: the connection to 127.0.0.1:")
        romeo.send(message(4))
        await juliet.expect("<message id='4'/>")
        await romeo.expect_nothing()  # what had been confirmed does not come back


@asynccontextmanager
async def strange(say: bytes) -> AsyncIterator[int]:
    """A server that says one thing and then nothing more; its port."""

    def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(say)

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in writers:
            writer.close()
        server.close()


HELLO = (
    b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' from='b.example' "
    b"to='a.example' id='s1' version='1.0'>"
)
STARTTLS = b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>"


@pytest.mark.parametrize(
    ("say", "condition", "cause", "text"),
    [
        (b"", "remote-server-timeout", "timeout", " did not finish the negotiation in time"),
        (HELLO, "remote-server-timeout", "timeout", " did not finish the negotiation in time"),
        (HELLO + b"<stream:features/>", "remote-server-timeout", "tls", "the server does not offer TLS"),
        (HELLO.replace(b" version='1.0'", b""), "remote-server-timeout", "tls", "does not speak XMPP 1.0"),
        (
            HELLO + STARTTLS + b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
            "remote-server-timeout",
            "tls",
            "the server refused to begin TLS",
        ),
        (
            HELLO + STARTTLS + b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
            "remote-server-timeout",
            "timeout",
            " did not finish the negotiation in time",
        ),
        (
            HELLO + b"<stream:error><host-gone xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
            "remote-server-timeout",
            "stream-error",
            "the server closed the stream with host-gone",
        ),
        (b"SSH-2.0-OpenSSH_9\r\n", "remote-server-timeout", "stream-error", "we closed the stream: "),
    ],
)
async def test_a_server_that_is_none(
    ca: Authority,
    names: Directory,
    caplog: pytest.LogCaptureFixture,
    say: bytes,
    condition: str,
    cause: str,
    text: str,
) -> None:
    """Time is limited, and the true cause goes to the sender and to the log."""
    a, _ = pair(ca, names, settings={"s2s": {"retry_seconds": 0.01, "negotiation_seconds": 0.3}})
    async with a, strange(say) as port:
        names.serve("b.example", port)
        romeo = await a.client("romeo@a.example/x")
        await refused(romeo, caplog, condition, cause, text)


async def test_who_gives_up_during_the_handshake_says_nothing_behind_it(ca: Authority, names: Directory) -> None:
    """As when the other server has just connected: a goodbye would be the first thing of a stream that has not begun."""
    certificate, key = ca.issue("b.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    shaking, given_up = asyncio.Event(), asyncio.Event()
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO + STARTTLS + b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        await reader.readuntil(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(received, sent, server_side=True)
        received.write(await reader.read(65_536))
        shaking.set()
        await given_up.wait()
        plain = b""
        with suppress(OSError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            while True:
                try:
                    plain += tls.read(65_536)
                except ssl.SSLWantReadError:
                    writer.write(sent.read())
                    more = await reader.read(65_536)
                    if not more:
                        break
                    received.write(more)
        heard.set_result(plain)
        writer.close()

    a, _ = pair(ca, names)
    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    async with a:
        names.serve("b.example", server.sockets[0].getsockname()[1])
        opening = asyncio.create_task(open_stream(a.federation, "a.example", "b.example"))
        await shaking.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        given_up.set()
        assert await heard == b""
        await until(lambda: not a.federation.links)
    server.close()


async def test_what_is_below_a_name_that_is_refused_is_some_lines(
    ca: Authority, names: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever writes to ever new names below one costs the log no more than by writing to one."""
    caplog.set_level(logging.INFO, "beamish")
    a, _ = pair(ca, names, settings={"s2s": {"deny": ["b.example"]}})
    async with a:
        romeo = await a.client("romeo@a.example/x")
        for number in range(30):
            romeo.send(message(number, f"juliet@d{number}.b.example/y"))
            await romeo.expect(f"<message from='*' type='error' id='{number}'/>")
    assert sum(record.getMessage() == "s2s_refused" for record in caplog.records) == 10


async def refused(romeo: Client, caplog: pytest.LogCaptureFixture, condition: str, cause: str, text: str) -> None:
    """Romeo's message comes back with this cause, and the log tells the same."""
    caplog.set_level(logging.INFO, "beamish")
    romeo.send(message(1))
    error = await romeo.expect("<message from='juliet@b.example/y' type='error' id='1'/>")
    assert error.find(f".//{{{STANZAS}}}{condition}") is not None
    assert told(error).startswith(f"{cause}: ")
    assert text in told(error)
    [logged] = [r for r in caplog.records if r.getMessage() in ("s2s_unreachable", "s2s_refused")]
    assert getattr(logged, "cause", "policy") == cause
    assert text in logged.reason  # type: ignore[attr-defined]
    assert logged.remote == "b.example"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("why", "condition", "cause", "text"),
    [
        ("no domain", "remote-server-not-found", "no-such-domain", "b.example has no address"),
        ("decidedly none", "remote-server-not-found", "no-such-domain", "says that it has no XMPP server"),
        ("no name server", "remote-server-timeout", "dns", "the name servers did not answer in time"),
        ("closed port", "remote-server-not-found", "refused", "refused the connection"),
        ("no answer", "remote-server-timeout", "timeout", "did not answer within 0.2 seconds"),
        ("no way", "remote-server-timeout", "network", "255.255.255.255:5269"),
        ("expired", "remote-server-timeout", "certificate", "it has expired on "),
        ("other name", "remote-server-timeout", "certificate", "is for c.example, not for b.example"),
        ("stranger", "remote-server-timeout", "certificate", "it was issued by an unknown authority"),
        ("not believed", "remote-server-timeout", "not-authorized", "dialback: error (policy-violation)"),
        ("denied", "forbidden", "policy", "this server does not talk to b.example"),
        ("closed", "forbidden", "policy", "this server only talks to domains it was told about"),
    ],
)
async def test_every_cause_is_told_to_the_sender_and_the_log(
    ca: Authority,
    names: Directory,
    caplog: pytest.LogCaptureFixture,
    expected_errors: ExpectedErrors,
    why: str,
    condition: str,
    cause: str,
    text: str,
) -> None:
    expected_errors.add("certificate_problem")
    ours: dict[str, Any] = {"retry_seconds": 0.01, "connect_seconds": 0.2}
    mine: dict[str, Any] = {"settings": {"s2s": ours}}
    theirs: dict[str, Any] = {}
    if why == "expired":
        theirs["files"] = ca.issue("b.example", days=(-30, -1), stem="expired")
    elif why == "other name":
        theirs["files"] = ca.issue("c.example")
    elif why == "stranger":
        theirs["files"] = Authority.stranger(ca.directory / "stranger").issue("b.example")
    elif why == "not believed":
        mine["files"] = ca.issue("a.example", days=(-30, -1), stem="expired")
    elif why == "denied":
        ours["deny"] = ("b.example",)
    elif why == "closed":
        ours["policy"] = "closed"
    a, b = pair(ca, names, a=mine, b=theirs)
    async with a, b:
        with closing(socket.socket()) as full:
            others = [socket.socket() for _ in range(4)]
            if why in ("no domain", "decidedly none", "closed port", "no answer", "no way"):
                names.forget("b.example")
            if why == "decidedly none":
                names.records["_xmpp-server._tcp.b.example"] = [Srv(0, 0, 0, "")]
            elif why == "no name server":
                names.broken = LookupFailed("the name servers did not answer in time")
            elif why == "closed port":
                names.serve("b.example", 1)
            elif why == "no answer":
                full.bind(("127.0.0.1", 0))
                full.listen(0)
                for other in others:  # they fill its queue
                    other.setblocking(False)
                    other.connect_ex(full.getsockname())
                names.serve("b.example", full.getsockname()[1])
            elif why == "no way":
                names.serve("b.example", 5269)
                names.hosts["host.b.example"] = ["255.255.255.255"]
                names.records["_xmpp-server._tcp.b.example"] = [Srv(0, 0, 5269, "255.255.255.255")]
            romeo = await a.client("romeo@a.example/x")
            try:
                await refused(romeo, caplog, condition, cause, text)
            finally:
                for other in others:
                    other.close()


async def test_streams_are_found_by_their_weight_and_used_both_ways(ca: Authority, names: Directory) -> None:
    """Of two servers of a domain, the one that has all the weight gets the stream."""
    a, b = pair(ca, names)
    async with a, b, Relay(b.s2s_port) as light, Relay(b.s2s_port) as heavy:
        names.forget("b.example")
        names.serve("b.example", light.port, weight=0)
        names.serve("b.example", heavy.port, weight=60_000)
        await exchange(a, b)
        assert only(a, "out")["bidi"]
        assert (light.carried, heavy.carried) in ((0, 1), (1, 0))
        assert heavy.carried == 1  # once in 60,001 runs it is the other one
