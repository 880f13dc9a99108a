"""What becomes of stanzas under way when the server stops and starts again, with servers that resume streams and others.

`kill -9` of whole processes is in tests/system/test_federation_crash.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.disk import room_for, room_for_all
from tests.watched import until

from beamish.core.services import Outbox
from beamish.net.s2s_stored import worth_keeping
from beamish.storage.api import StorageBusy
from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer, Relay
from beamish.testing.names import Directory
from beamish.testing.plugin import ExpectedErrors
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

SM = "urn:xmpp:sm:3"
DELAY = "{urn:xmpp:delay}delay"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def names() -> Directory:
    return Directory()


class Pair:
    """Server a keeps its data over restarts, b is there when wanted."""

    def __init__(self, ca: Authority, names: Directory, **s2s: Any) -> None:
        self._ca = ca
        self._names = names
        self._s2s = {"retry_seconds": 20, **s2s}
        self._folder = ca.directory / "a"
        self._folder.mkdir()
        self._files = ca.issue("a.example")
        names.serve("b.example", 1)  # refused, so it is tried again

    def a(self, **s2s: Any) -> FederatedServer:
        settings = {"server": {"shutdown_grace": 0.2}, "s2s": {**self._s2s, **s2s}}
        return FederatedServer(
            self._ca,
            self._names,
            domains=("a.example",),
            accounts=("romeo@a.example",),
            settings=settings,
            directory=self._folder,
            files=self._files,
        )

    def b(self) -> FederatedServer:
        return FederatedServer(self._ca, self._names, domains=("b.example",), accounts=("juliet@b.example",))


@pytest.fixture
def pair(ca: Authority, names: Directory) -> Pair:
    return Pair(ca, names)


async def managed(server: FederatedServer, address: str) -> tuple[Client, str]:
    """A client under stream management, and what resumes it."""
    client = await server.client(address, presence=True)
    client.send(f"<enable xmlns='{SM}' resume='true'/>")
    got = await client.expect(f"<enabled xmlns='{SM}'/>")
    return client, got.get("id") or ""


async def acknowledged(client: Client, h: int) -> None:
    client.send(f"<r xmlns='{SM}'/>")
    await client.expect(f"<a xmlns='{SM}' h='{h}'/>")


async def resumed(server: FederatedServer, address: str, id_: str, h: int) -> Client:
    jid = JID.parse(address)
    client = await server.connect(jid.domain)
    await client.open_stream(jid.domain)
    await client.authenticate(jid.local, server.password)
    client.send(f"<resume xmlns='{SM}' h='{h}' previd='{id_}'/>")
    await client.expect(f"<resumed xmlns='{SM}'/>")
    client.jid = jid
    return client


async def rows(server: FederatedServer) -> int:
    [(count,)] = await server.kernel.db.fetch("SELECT COUNT(*) FROM outbox_stanza")
    return int(count)


async def test_what_waits_for_a_server_outlives_ours(pair: Pair) -> None:
    """Acknowledged, with the other server down; then this one is restarted, and the other one comes up."""
    async with pair.a() as a:
        romeo, _ = await managed(a, "romeo@a.example/x")
        for n in range(3):
            romeo.send(f"<message to='juliet@b.example' type='chat' id='{n}'><body>{n}</body></message>")
        await acknowledged(romeo, 3)
        assert await rows(a) == 3
    async with pair.b() as b, pair.a() as a:
        juliet = await b.client("juliet@b.example/y", presence=True)
        for n in range(3):
            got = await juliet.expect(f"<message from='romeo@a.example/x' id='{n}'/>")
            assert got.findtext("{jabber:client}body") == str(n)
            delay = got.find(DELAY)
            assert delay is not None and delay.get("from") == "a.example"
        [link] = a.federation.links
        await until(lambda: link.acks is not None and not link.acks.pending)
        assert a.federation.outbox is not None
        a.federation.outbox.drop((), soon=True)  # they go with the next commit, a second later at the latest
        await a.kernel.db.flushed()
        assert await rows(a) == 0


async def test_no_acknowledgement_before_the_row_is_on_disk(pair: Pair) -> None:
    """The promise waits for the disk, and so does the other server's copy."""
    async with pair.b() as b, pair.a() as a:
        juliet = await b.client("juliet@b.example/y", presence=True)
        romeo, _ = await managed(a, "romeo@a.example/x")
        romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>1</body></message>")
        await juliet.expect("<message id='1'/>")
        await acknowledged(romeo, 1)
        [link] = a.federation.links
        held: list[Callable[[], None]] = []
        db = a.kernel.db
        real = db.when_durable
        db.when_durable = lambda _position, then: held.append(then)  # type: ignore[method-assign]
        romeo.send("<message to='juliet@b.example/y' type='chat' id='2'><body>2</body></message>")
        romeo.send(f"<r xmlns='{SM}'/>")
        await until(lambda: link.waiting > 0 and len(held) >= 2)
        await juliet.expect_nothing()
        await romeo.expect_nothing()
        db.when_durable = real  # type: ignore[method-assign]
        for then in held:
            then()
        await juliet.expect("<message id='2'/>")
        await romeo.expect(f"<a xmlns='{SM}' h='2'/>")


LARGE = "x" * 150_000
"""More than there is room for in pages that are free."""


@pytest.mark.parametrize("bidi", [True, False])
@pytest.mark.parametrize("up", [True, False])
async def test_what_the_disk_does_not_take_comes_back(
    ca: Authority, names: Directory, expected_errors: ExpectedErrors, up: bool, bidi: bool
) -> None:
    """Before it is acknowledged; nothing of it goes out. What comes later is numbered as if it had never been there."""
    expected_errors.add("outbox_not_stored")
    only = {"disable": ("mam", "sm")}
    names.serve("b.example", 1)
    a, b = (
        FederatedServer(ca, names, domains=(domain,), accounts=(account,), settings=settings)
        for domain, account, settings in (
            ("a.example", "romeo@a.example", {"modules": only, "s2s": {"retry_seconds": 30}}),
            ("b.example", "juliet@b.example", {}),
        )
    )
    async with a, AsyncExitStack() as later:
        a.federation.settings = replace(a.federation.settings, bidi=bidi)
        romeo = await a.client("romeo@a.example/x", presence=True)
        to = "to='juliet@b.example' type='chat'"
        if up:
            await later.enter_async_context(b)
            juliet = await b.client("juliet@b.example/y", presence=True)
            romeo.send(f"<message {to} id='0'><body>0</body></message>")
            await juliet.expect("<message id='0'/>")
        await room_for(a.kernel.db, 0)
        for n in range(1, 4):
            romeo.send(f"<message {to} id='{n}'><body>{n} {LARGE}</body></message>")
        for n in range(1, 4):
            error = await romeo.expect(f"<message from='juliet@b.example' type='error' id='{n}'/>")
            assert error.find(f".//{{{STANZAS}}}resource-constraint") is not None
        assert await rows(a) == 0 or up
        await room_for_all(a.kernel.db)
        romeo.send(f"<message {to} id='4'><body>4 {LARGE}</body></message>")
        if not up:
            await later.enter_async_context(b)
            juliet = await b.client("juliet@b.example/y", presence=True)
        await juliet.expect("<message id='4'/>")
        romeo.send(f"<message {to} id='5'><body>5</body></message>")
        await juliet.expect("<message id='5'/>")
        await juliet.expect_nothing()
        await romeo.expect_nothing()
        [link] = [link for link in a.federation.links if link.direction == "out"]
        await until(lambda: link.acks is not None and not link.acks.pending)


async def test_what_the_disk_does_not_take_is_withdrawn_from_the_middle(
    pair: Pair, expected_errors: ExpectedErrors
) -> None:
    """What is behind it on the stream, and is safe, goes out under its new number, which a restart finds."""
    expected_errors.add("outbox_not_stored")
    async with pair.b() as b:
        juliet = await b.client("juliet@b.example/y", presence=True)
        async with pair.a() as a:
            romeo, _ = await managed(a, "romeo@a.example/x")
            romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>1</body></message>")
            await juliet.expect("<message id='1'/>")
            [link] = a.federation.links
            assert link.acks is not None and a.federation.outbox is not None
            await until(lambda: link.acks is not None and not link.acks.pending)
            sent, outbox = link.acks.sent, a.federation.outbox
            held: list[Callable[[], None]] = []
            db = a.kernel.db
            real = db.when_durable
            db.when_durable = lambda _position, then: held.append(then)  # type: ignore[method-assign]
            for n in (2, 3, 4):
                romeo.send(f"<message to='juliet@b.example/y' type='chat' id='{n}'><body>{n}</body></message>")
            await until(lambda: len(link.acks.pending if link.acks else ()) == 3)
            refused = link.acks.pending[1][2]
            outbox.refused([refused], StanzaError(Condition.RESOURCE_CONSTRAINT))
            db.when_durable = real  # type: ignore[method-assign]
            for then in held:
                then()
            error = await romeo.expect("<message from='juliet@b.example/y' type='error' id='3'/>")
            assert error.find(f".//{{{STANZAS}}}resource-constraint") is not None
            await juliet.expect("<message id='2'/>")
            await juliet.expect("<message id='4'/>")
            await juliet.expect_nothing()
            await acknowledged(romeo, 4)
            assert link.acks.sent == sent + 2
            await until(lambda: link.acks is not None and not link.acks.pending)
            romeo.send("<message to='juliet@b.example/y' type='chat' id='5'><body>5</body></message>")
            await juliet.expect("<message id='5'/>")


async def test_what_cannot_wait_for_the_disk_does_not_go_out_either(
    pair: Pair, expected_errors: ExpectedErrors
) -> None:
    """Too many wait for a commit: the stream ends, and what was on it arrives, once, on the next one."""
    expected_errors.add("output_not_held")
    async with pair.b() as b, pair.a() as a:
        juliet = await b.client("juliet@b.example/y", presence=True)
        romeo, _ = await managed(a, "romeo@a.example/x")
        romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>1</body></message>")
        await juliet.expect("<message id='1'/>")
        [link] = a.federation.links
        await until(lambda: link.acks is not None and not link.acks.pending)
        db = a.kernel.db
        real = db.when_durable

        def busy(position: int, then: Callable[[], None]) -> None:
            if getattr(then, "__self__", None) is link:
                raise StorageBusy("too many callbacks wait")
            real(position, then)

        db.when_durable = busy  # type: ignore[method-assign]
        romeo.send("<message to='juliet@b.example/y' type='chat' id='2'><body>2</body></message>")
        await until(lambda: link.gone)
        db.when_durable = real  # type: ignore[method-assign]
        await juliet.expect("<message id='2'/>")
        await juliet.expect_nothing()
        await acknowledged(romeo, 2)


async def test_the_time_is_up_after_the_restart(pair: Pair) -> None:
    """The sender is told with the true cause, once it is back."""
    async with pair.a() as a:
        romeo, id_ = await managed(a, "romeo@a.example/x")
        romeo.send("<message to='juliet@b.example' type='chat' id='1'><body>1</body></message>")
        await acknowledged(romeo, 1)
    async with pair.a(retry_seconds=0.01) as a:
        romeo = await resumed(a, "romeo@a.example/x", id_, 0)
        error = await romeo.expect("<message from='juliet@b.example' type='error' id='1'/>")
        assert error.find(f".//{{{STANZAS}}}remote-server-not-found") is not None
        assert await rows(a) == 0


async def test_an_error_for_somebody_who_is_gone_is_logged(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "beamish")
    async with pair.a() as a:
        romeo, _ = await managed(a, "romeo@a.example/x")
        romeo.send("<message to='juliet@b.example' type='chat' id='1'><body>1</body></message>")
        await acknowledged(romeo, 1)
        await romeo.close()
    async with pair.a(retry_seconds=0.01) as a:
        await until(lambda: any(r.getMessage() == "s2s_error_untold" for r in caplog.records))
        await a.kernel.db.flushed()
        assert await rows(a) == 0


@pytest.mark.parametrize("there", [True, False])
async def test_in_doubt_the_sender_decides_if_there_is_one(
    pair: Pair, ca: Authority, names: Directory, there: bool
) -> None:
    """The other server counts nothing: after our end nobody knows whether it got the last message. (It did.)"""
    async with pair.b() as b, Relay(b.s2s_port) as relay:
        b.federation.settings = replace(b.federation.settings, resumption=False, bidi=False)
        names.move("b.example", relay.port)
        juliet = await b.client("juliet@b.example/y", presence=True)
        async with pair.a() as a:
            a.federation.settings = replace(a.federation.settings, bidi=False)
            romeo, id_ = await managed(a, "romeo@a.example/x")
            romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>1</body></message>")
            await juliet.expect("<message id='1'/>")
            relay.silent = True
            await acknowledged(romeo, 1)
            if not there:
                await romeo.close()
        relay.silent = False
        relay.cut()
        async with pair.a() as a:
            if there:
                romeo = await resumed(a, "romeo@a.example/x", id_, 0)
                error = await romeo.expect("<message from='juliet@b.example/y' type='error' id='1'/>")
                text = error.findtext(f".//{{{STANZAS}}}text") or ""
                assert text == "connection-lost: this server went down before the other one confirmed this"
                await juliet.expect_nothing()
            else:
                got = await juliet.expect("<message from='romeo@a.example/x' id='1'/>")
                assert got.find(DELAY) is not None


async def test_a_damaged_row_does_not_keep_the_others(pair: Pair, expected_errors: Any) -> None:
    expected_errors.add("s2s_stored_stanza_dropped")
    async with pair.a() as a:
        outbox = a.kernel.service(Outbox)
        outbox.keep(b"\x00garbage", None, 0)
        outbox.keep(stanza("message", "chat", BODY, "x@elsewhere.example").to_wire(), None, 0)
        outbox.keep(stanza("message", "chat", BODY).to_wire(), None, 0)
        await a.kernel.db.flushed()
    async with pair.b() as b:
        juliet = await b.client("juliet@b.example/y", presence=True)
        async with pair.a():
            await juliet.expect("<message from='romeo@a.example/x'/>")
            await juliet.expect_nothing()


async def test_a_peer_that_comes_back_too_late_learns_what_was_handled(ca: Authority, names: Directory) -> None:
    """Its stream has ended here long ago; our count of it tells which of its stanzas to send again."""
    first = Pair(ca, names)
    b = FederatedServer(
        ca,
        names,
        domains=("b.example",),
        accounts=("juliet@b.example",),
        settings={"s2s": {"resume_seconds": 0.1, "retry_seconds": 0.1}},
    )
    async with b, Relay(b.s2s_port) as relay:
        names.move("b.example", relay.port)
        juliet = await b.client("juliet@b.example/y", presence=True)
        async with first.a() as a:
            romeo, _ = await managed(a, "romeo@a.example/x")
            romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>1</body></message>")
            await juliet.expect("<message id='1'/>")  # … but its confirmation does not arrive
            relay.silent = True
            romeo.send("<message to='juliet@b.example/y' type='chat' id='2'><body>2</body></message>")
            await acknowledged(romeo, 2)
        relay.cut()
        await until(lambda: not b.federation.resumable)
        relay.silent = False
        async with first.a():
            await juliet.expect("<message from='romeo@a.example/x' id='2'/>")
            await juliet.expect_nothing()


async def test_without_the_outbox_stanzas_are_in_memory_only(ca: Authority, names: Directory) -> None:
    off = {"modules": {"disable": ("outbox",)}}
    async with (
        FederatedServer(ca, names, domains=("a.example",), accounts=("romeo@a.example",), settings=off) as a,
        FederatedServer(ca, names, domains=("b.example",), accounts=("juliet@b.example",), settings=off) as b,
    ):
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await b.client("juliet@b.example/y", presence=True)
        romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>1</body></message>")
        await juliet.expect("<message id='1'/>")
        assert a.federation.outbox is None


def stanza(name: str, type_: str, content: bytes = b"", sender: str = "romeo@a.example/x") -> Stanza:
    return Stanza.build(name, type_, sender=JID.parse(sender), to=JID.parse("juliet@b.example"), content=content)


BODY = b"<body>Hi</body>"
STATE = b"<active xmlns='http://jabber.org/protocol/chatstates'/>"


@pytest.mark.parametrize(
    ("one", "kept"),
    [
        (stanza("message", "chat", BODY), True),
        (stanza("message", "", BODY), True),
        (stanza("message", "chat", STATE), False),
        (stanza("message", "chat", BODY + STATE), True),
        (stanza("message", "chat", BODY + b"<no-store xmlns='urn:xmpp:hints'/>"), False),
        (stanza("message", "chat", BODY + b"<no-permanent-store xmlns='urn:xmpp:hints'/>"), True),
        (stanza("message", "headline", BODY), False),
        (stanza("message", "error", BODY), False),
        (stanza("message", "groupchat", BODY), True),
        (stanza("message", "groupchat", BODY, "room@conference.a.example/romeo"), False),
        (stanza("message", "chat", BODY, "room@conference.a.example/romeo"), True),
        (stanza("presence", "subscribe"), True),
        (stanza("presence", "unsubscribed"), True),
        (stanza("presence", ""), False),
        (stanza("presence", "unavailable"), False),
        (stanza("presence", "probe"), False),
        (stanza("iq", "get", b"<query xmlns='x'/>"), True),
        (stanza("iq", "set", b"<query xmlns='x'/>"), True),
        (stanza("iq", "result"), False),
        (stanza("iq", "get", b"<query xmlns='x'/>", "a.example"), False),
    ],
)
def test_what_is_worth_it(one: Stanza, kept: bool) -> None:
    class Kernel:
        def is_local_domain(self, domain: str) -> bool:
            return domain == "a.example"

    assert worth_keeping(Kernel(), one) is kept  # type: ignore[arg-type]


async def test_a_stop_while_a_stream_is_to_be_resumed(pair: Pair, names: Directory) -> None:
    """What the peer has got is asked at the next start, not guessed."""
    async with pair.b() as b, Relay(b.s2s_port) as relay:
        names.move("b.example", relay.port)
        juliet = await b.client("juliet@b.example/y", presence=True)
        async with pair.a() as a:
            romeo, _ = await managed(a, "romeo@a.example/x")
            romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>1</body></message>")
            await juliet.expect("<message id='1'/>")
            relay.silent = True
            romeo.send("<message to='juliet@b.example/y' type='chat' id='2'><body>2</body></message>")
            await acknowledged(romeo, 2)
            relay.broken = True
            relay.cut()
            await until(lambda: any(route.held is not None for route in a.federation.routes.values()))
        relay.silent = relay.broken = False
        async with pair.a():
            await juliet.expect("<message from='romeo@a.example/x' id='2'/>")
            await juliet.expect_nothing()


async def test_requests_and_subscriptions_outlive_the_server_too(pair: Pair) -> None:
    """The answer reaches the session that asked, as that outlives the server itself; plain presence does not wait."""
    async with pair.a() as a:
        romeo, id_ = await managed(a, "romeo@a.example/x")
        romeo.send("<presence to='juliet@b.example' type='subscribe'/>")
        romeo.send("<presence to='juliet@b.example/y'/>")
        romeo.send("<iq type='get' to='b.example' id='who'><query xmlns='jabber:iq:version'/></iq>")
        await acknowledged(romeo, 3)
        assert await rows(a) == 2
    async with pair.b() as b:
        juliet = await b.client("juliet@b.example/y", presence=True, roster=True)
        async with pair.a() as a:
            await juliet.expect("<presence from='romeo@a.example' type='subscribe'/>")
            romeo = await resumed(a, "romeo@a.example/x", id_, 0)
            async with asyncio.timeout(10):
                while (got := await romeo.receive()).get("id") != "who":
                    pass
            assert got.get("type") == "result"


async def test_a_domain_that_is_refused_after_the_restart(pair: Pair) -> None:
    async with pair.a() as a:
        romeo, id_ = await managed(a, "romeo@a.example/x")
        romeo.send("<message to='juliet@b.example' type='chat' id='1'><body>1</body></message>")
        await acknowledged(romeo, 1)
    async with pair.a(deny=("b.example",)) as a:
        romeo = await resumed(a, "romeo@a.example/x", id_, 0)
        error = await romeo.expect("<message from='juliet@b.example' type='error' id='1'/>")
        assert error.findtext(f".//{{{STANZAS}}}text") == "policy: this server does not talk to b.example"
        await a.kernel.db.flushed()
        assert await rows(a) == 0


async def test_a_stream_of_a_domain_that_is_refused_after_the_restart(
    pair: Pair, ca: Authority, names: Directory
) -> None:
    async with pair.b() as b, Relay(b.s2s_port) as relay:
        names.move("b.example", relay.port)
        juliet = await b.client("juliet@b.example/y", presence=True)
        async with pair.a() as a:
            romeo, id_ = await managed(a, "romeo@a.example/x")
            romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>1</body></message>")
            await juliet.expect("<message id='1'/>")
            relay.silent = True
            romeo.send("<message to='juliet@b.example/y' type='chat' id='2'><body>2</body></message>")
            await acknowledged(romeo, 2)
        async with pair.a(deny=("b.example",)) as a:
            romeo = await resumed(a, "romeo@a.example/x", id_, 0)
            for n in ("1", "2"):  # of the first, nobody has told us that it arrived
                error = await romeo.expect(f"<message from='juliet@b.example/y' type='error' id='{n}'/>")
                assert error.find(f".//{{{STANZAS}}}forbidden") is not None
            await a.kernel.db.flushed()
            assert await rows(a) == 0
