"""What must work between this server and any other; each other server's test file runs all of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from tests.interop.foreign import ForeignServer
from tests.watched import until

from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer, Relay
from beamish.testing.match import mismatch, show
from beamish.testing.names import Directory, NameServer
from beamish.testing.plugin import ExpectedErrors

STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"
DELAY = "urn:xmpp:delay"


def text_of(error: Any) -> str:
    return str(error.findtext(f".//{{{STANZAS}}}text"))


async def receive_until(client: Client, wanted: str, most: int = 30) -> Any:
    """The next element that fits, past whatever else the other server likes to send."""
    seen = []
    for _ in range(most):
        got = await client.receive(20)
        if not mismatch(wanted, got):
            return got
        seen.append(got)
    raise AssertionError(f"{wanted} did not come")


async def receive_all(client: Client, *wanted: str, most: int = 30) -> None:
    """Elements that fit each pattern, in any order, past whatever else comes."""
    missing = list(wanted)
    for _ in range(most):
        got = await client.receive(20)
        missing = [pattern for pattern in missing if mismatch(pattern, got)]
        if not missing:
            return
    raise AssertionError(f"{missing} did not come")


class Federates:
    """The plays. `server` is the foreign server's class."""

    server: ClassVar[type[ForeignServer]]
    bidi: ClassVar[bool]
    verifies: ClassVar[bool]
    """Whether it insists on a certificate that holds."""
    client_usage: ClassVar[bool]
    """Whether it believes only certificates that are also for TLS clients."""

    @pytest.fixture
    def ca(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path)

    @pytest_asyncio.fixture
    async def dns(self) -> AsyncIterator[NameServer]:
        directory = Directory()
        directory.host = "localhost"  # there are servers that ask the system for addresses, whatever DNS they are given
        async with NameServer(directory) as server:
            yield server

    def ours(self, ca: Authority, dns: NameServer, files: Any = None, **s2s: Any) -> FederatedServer:
        files = files or ca.issue("a.example", "*.a.example", client=self.client_usage)
        return FederatedServer(
            ca, dns.directory, domains=("a.example",), accounts=("romeo@a.example",), settings={"s2s": s2s}, files=files
        )

    def theirs(self, ca: Authority, dns: NameServer, **options: Any) -> ForeignServer:
        return self.server(ca, dns.directory, dns, "p.example", ("juliet",), **options)

    @pytest_asyncio.fixture
    async def both(self, ca: Authority, dns: NameServer) -> AsyncIterator[tuple[FederatedServer, ForeignServer]]:
        async with self.theirs(ca, dns) as p, self.ours(ca, dns) as a:
            yield a, p

    async def exchange(self, a: FederatedServer, p: ForeignServer) -> tuple[Client, Client]:
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await p.client("juliet@p.example/y", presence=True)
        romeo.send("<message to='juliet@p.example/y' type='chat' id='1'><body>Hi &amp; &lt;bye&gt;</body></message>")
        await juliet.expect("<message from='romeo@a.example/x' id='1'><body>Hi &amp; &lt;bye&gt;</body></message>")
        juliet.send("<message to='romeo@a.example/x' type='chat' id='2'><body>Ho</body></message>")
        await romeo.expect("<message from='juliet@p.example/y' id='2'><body>Ho</body></message>")
        return romeo, juliet

    async def test_our_first_message_and_the_answer(self, both: tuple[FederatedServer, ForeignServer]) -> None:
        a, p = both
        await self.exchange(a, p)
        [out] = [s for s in a.federation.list_streams() if s["direction"] == "out"]
        assert (out["method"], out["bidi"], out["tls"]) == ("external", self.bidi, "TLSv1.3")

    async def test_their_first_message_and_the_answer(self, both: tuple[FederatedServer, ForeignServer]) -> None:
        a, p = both
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await p.client("juliet@p.example/y", presence=True)
        juliet.send("<message to='romeo@a.example' type='chat' id='1'><body>Hi</body></message>")
        await romeo.expect("<message from='juliet@p.example/y' id='1'><body>Hi</body></message>")
        romeo.send("<message to='juliet@p.example/y' type='chat' id='2'><body>Ho</body></message>")
        await juliet.expect("<message from='romeo@a.example/x' id='2'><body>Ho</body></message>")

    async def test_dialback_both_ways(self, ca: Authority, dns: NameServer) -> None:
        """Certificates prove nothing to either side here; the servers ask one another."""
        mine, yours = Authority.stranger(ca.directory / "1"), Authority.stranger(ca.directory / "2")
        async with (
            self.theirs(ca, dns, secure=False, files=yours.issue("p.example", client=True)) as p,
            self.ours(ca, dns, files=mine.issue("a.example"), unverified=("p.example",)) as a,
        ):
            await self.exchange(a, p)
            methods = {s["method"] for s in a.federation.list_streams() if s["in"] or s["out"]}
            assert methods == {"dialback"}, a.federation.list_streams()

    async def test_subscriptions_presence_and_probes(self, both: tuple[FederatedServer, ForeignServer]) -> None:
        a, p = both
        romeo = await a.client("romeo@a.example/x", presence=True, roster=True)
        juliet = await p.client("juliet@p.example/y", presence=True)
        romeo.send("<presence to='juliet@p.example' type='subscribe'/>")
        await receive_until(juliet, "<presence from='romeo@a.example' type='subscribe'/>")
        juliet.send("<presence to='romeo@a.example' type='subscribed'/>")
        juliet.send("<presence to='romeo@a.example' type='subscribe'/>")
        await receive_all(
            romeo,
            "<presence from='juliet@p.example/y' type='!'/>",
            "<presence from='juliet@p.example' type='subscribe'/>",
        )
        romeo.send("<presence to='juliet@p.example' type='subscribed'/>")
        await receive_until(juliet, "<presence from='romeo@a.example/x' type='!'/>")
        juliet.send("<presence><show>dnd</show></presence>")
        await receive_until(romeo, "<presence from='juliet@p.example/y'><show>dnd</show></presence>")
        second = await a.client("romeo@a.example/z", presence=True)
        await receive_until(second, "<presence from='juliet@p.example/y'><show>dnd</show></presence>")
        second.drop()
        await receive_until(juliet, "<presence from='romeo@a.example/z' type='unavailable'/>")
        juliet.drop()
        await receive_until(romeo, "<presence from='juliet@p.example/y' type='unavailable'/>")

    async def test_iqs_both_ways(self, both: tuple[FederatedServer, ForeignServer]) -> None:
        a, p = both
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await p.client("juliet@p.example/y", presence=True)
        for client, domain in ((romeo, "p.example"), (juliet, "a.example")):
            await client.iq(f"<iq type='get' to='{domain}' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
            got = await client.iq(
                f"<iq type='get' to='{domain}' id='d'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
            )
            assert got.find(".//{http://jabber.org/protocol/disco#info}identity[@category='server']") is not None
        error = await romeo.iq(
            "<iq type='get' to='nobody@p.example/x' id='n'><ping xmlns='urn:xmpp:ping'/></iq>", type="error"
        )
        assert error.find(f".//{{{STANZAS}}}service-unavailable") is not None

    async def test_offline_messages_both_ways(self, both: tuple[FederatedServer, ForeignServer]) -> None:
        a, p = both
        romeo = await a.client("romeo@a.example/x", presence=True)
        romeo.send("<message to='juliet@p.example' type='chat' id='1'><body>Later</body></message>")
        romeo.send("<iq type='get' to='p.example' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        await receive_until(romeo, "<iq id='p' type='result'/>")  # in order: the message is there
        juliet = await p.client("juliet@p.example/y", presence=True)
        got = await receive_until(juliet, "<message from='romeo@a.example/x' id='1'><body>Later</body></message>")
        assert got.find(f"{{{DELAY}}}delay") is not None
        await romeo.close()
        juliet.send("<message to='romeo@a.example' type='chat' id='2'><body>Later</body></message>")
        juliet.send("<iq type='get' to='a.example' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        await receive_until(juliet, "<iq id='p' type='result'/>")
        romeo = await a.client("romeo@a.example/x", presence=True)
        got = await receive_until(romeo, "<message from='juliet@p.example/y' id='2'><body>Later</body></message>")
        assert got.find(f"{{{DELAY}}}delay") is not None

    async def test_our_user_in_their_room(self, both: tuple[FederatedServer, ForeignServer]) -> None:
        a, p = both
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await p.client("juliet@p.example/y", presence=True)
        await self.in_a_room("conference.p.example", juliet, romeo)

    async def test_their_user_in_our_room(self, both: tuple[FederatedServer, ForeignServer]) -> None:
        a, p = both
        dns: Directory = p.names
        if not a.kernel.router.serves("conference.a.example"):
            pytest.skip("this server has no rooms")
        dns.serve("conference.a.example", a.s2s_port)
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await p.client("juliet@p.example/y", presence=True)
        await self.in_a_room("conference.a.example", romeo, juliet)

    async def in_a_room(self, service: str, owner: Client, guest: Client) -> None:
        """The owner makes a room, the guest comes from the other server, they talk, the guest's connection breaks off."""
        muc = "<x xmlns='http://jabber.org/protocol/muc'/>"
        owner.send(f"<presence to='play@{service}/owner'>{muc}</presence>")
        await receive_until(owner, f"<message from='play@{service}' type='groupchat'><subject/></message>")
        form = "<x xmlns='jabber:x:data' type='submit'/>"
        await owner.iq(
            f"<iq type='set' id='c' to='play@{service}'>"
            f"<query xmlns='http://jabber.org/protocol/muc#owner'>{form}</query></iq>"
        )
        guest.send(f"<presence to='play@{service}/guest'>{muc}</presence>")
        await receive_until(owner, f"<presence from='play@{service}/guest' type='!'/>")
        await receive_until(guest, f"<presence from='play@{service}/guest' type='!'/>")
        guest.send(f"<message to='play@{service}' type='groupchat' id='g'><body>Hear</body></message>")
        await receive_until(owner, f"<message from='play@{service}/guest' type='groupchat'><body>Hear</body></message>")
        owner.send(f"<message to='play@{service}' type='groupchat' id='o'><body>See</body></message>")
        await receive_until(guest, f"<message from='play@{service}/owner' type='groupchat'><body>See</body></message>")
        guest.drop()
        await receive_until(owner, f"<presence from='play@{service}/guest' type='unavailable'/>")

    async def test_avatars_both_ways(self, both: tuple[FederatedServer, ForeignServer]) -> None:
        a, p = both
        if all(module.name != "pubsub" for module in a.kernel.registry.modules):
            pytest.skip("this server has no personal eventing")
        romeo = await a.client("romeo@a.example/x", presence=True, roster=True)
        juliet = await p.client("juliet@p.example/y", presence=True)
        romeo.send("<presence to='juliet@p.example' type='subscribe'/>")
        await receive_until(juliet, "<presence from='romeo@a.example' type='subscribe'/>")
        juliet.send("<presence to='romeo@a.example' type='subscribed'/>")
        juliet.send("<presence to='romeo@a.example' type='subscribe'/>")
        await romeo_subscribed(romeo)
        await receive_until(juliet, "<presence from='romeo@a.example/x' type='!'/>")
        for publisher, follower, bare in (
            (romeo, juliet, "romeo@a.example"),
            (juliet, romeo, "juliet@p.example"),
        ):
            await publish_avatar(publisher)
            got = await follower.iq(
                f"<iq type='get' to='{bare}' id='get'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
                "<items node='urn:xmpp:avatar:metadata'/></pubsub></iq>"
            )
            assert got.find(".//{urn:xmpp:avatar:metadata}info") is not None

    async def test_a_cut_link_heals(self, ca: Authority, dns: NameServer) -> None:
        async with self.theirs(ca, dns) as p, self.ours(ca, dns) as a, Relay(p.s2s_port) as relay:
            dns.directory.move("p.example", relay.port)
            romeo, juliet = await self.exchange(a, p)
            relay.cut()
            romeo.send("<message to='juliet@p.example/y' type='chat' id='3'><body>Still there?</body></message>")
            while (got := await romeo_or_juliet(romeo, juliet)).get("id") != "3":
                # It arrived, its confirmation did not: ours say so like this, theirs as they like.
                ours = text_of(got).startswith("connection-lost")
                assert got.get("type") == "error" and (ours or got.get("id") == "2"), show(got)
            romeo.send("<message to='juliet@p.example/y' type='chat' id='4'><body>Now</body></message>")
            await receive_until(juliet, "<message from='romeo@a.example/x' id='4'/>")

    async def test_their_restart(self, both: tuple[FederatedServer, ForeignServer]) -> None:
        a, p = both
        romeo, _ = await self.exchange(a, p)
        await p.stop(p.death)
        await p.start()
        juliet = await p.client("juliet@p.example/y", presence=True)
        romeo.send("<iq type='get' to='p.example' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        await receive_until(romeo, "<iq id='p'/>")
        romeo.send("<message to='juliet@p.example/y' type='chat' id='5'><body>Again</body></message>")
        await receive_until(juliet, "<message from='romeo@a.example/x' id='5'/>")

    async def test_our_restart(self, ca: Authority, dns: NameServer) -> None:
        async with self.theirs(ca, dns) as p:
            async with self.ours(ca, dns) as a:
                _, juliet = await self.exchange(a, p)
            async with self.ours(ca, dns) as a:
                romeo = await a.client("romeo@a.example/x", presence=True)
                romeo.send("<message to='juliet@p.example/y' type='chat' id='6'><body>Back</body></message>")
                await receive_until(juliet, "<message from='romeo@a.example/x' id='6'/>")
                juliet.send("<message to='romeo@a.example/x' type='chat' id='7'><body>Welcome</body></message>")
                got = await romeo_or_juliet(romeo, juliet)
                assert got.get("from") == "juliet@p.example/y", show(got)

    async def test_a_forged_sender(
        self, both: tuple[FederatedServer, ForeignServer], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whether they send it on a stream of their own domain, or open one in the other's name."""
        caplog.set_level("INFO", "beamish")
        a, p = both
        romeo, juliet = await self.exchange(a, p)
        await p.forge("x@evil.example", "romeo@a.example/x")
        await until(lambda: self._caught(caplog.records), 20)
        juliet.send("<message to='romeo@a.example/x' type='chat' id='9'><body>Honest</body></message>")
        while (got := await romeo.receive(20)).get("id") != "9":
            assert got.get("from") != "x@evil.example", show(got)
        await romeo.expect_nothing()

    def _caught(self, records: list[Any]) -> bool:
        """Whether the stream in the other's name was refused, or their own was ended for it, and they know."""
        events = [(record.getMessage(), record) for record in records]
        if any(event == "s2s_auth_failed" and record.remote == "evil.example" for event, record in events):
            return True
        ended = any(event == "s2s_stream_error" and str(record.error) == "invalid-from" for event, record in events)
        return ended and any(event == "s2s_disconnected" for event, _ in events)

    async def test_unreachable_domains(self, ca: Authority, dns: NameServer) -> None:
        """One that does not exist, asked for over DNS, and one whose server has just ended."""
        async with self.theirs(ca, dns) as p, self.ours(ca, dns, retry_seconds=0.5) as a:
            romeo, _ = await self.exchange(a, p)
            await p.stop()
            for domain, cause, condition in (
                ("nowhere.example", "no-such-domain: ", "remote-server-not-found"),
                ("p.example", "refused: ", "remote-server-not-found"),
            ):
                romeo.send(f"<message to='juliet@{domain}' type='chat' id='u'><body>Hi</body></message>")
                error = await receive_until(romeo, f"<message from='juliet@{domain}' type='error' id='u'/>")
                assert text_of(error).startswith(cause)
                assert error.find(f".//{{{STANZAS}}}{condition}") is not None

    async def test_their_expired_certificate(
        self, ca: Authority, dns: NameServer, expected_errors: ExpectedErrors
    ) -> None:
        expired = ca.issue("p.example", days=(-30, -1), stem="expired", client=True)
        async with self.theirs(ca, dns, files=expired) as p, self.ours(ca, dns) as a:
            romeo = await a.client("romeo@a.example/x")
            romeo.send("<message to='juliet@p.example' type='chat' id='1'><body>Hi</body></message>")
            error = await romeo.expect("<message from='juliet@p.example' type='error' id='1'/>")
            assert "it has expired on" in text_of(error)
            juliet = await p.client("juliet@p.example/y", presence=True)
            juliet.send("<message to='romeo@a.example' type='chat' id='2'><body>Hi</body></message>")
            await receive_until(juliet, "<message from='romeo@a.example' type='error' id='2'/>")

    async def test_our_expired_certificate(
        self, ca: Authority, dns: NameServer, expected_errors: ExpectedErrors
    ) -> None:
        expected_errors.add("certificate_problem")
        expired = ca.issue("a.example", days=(-30, -1), stem="expired")
        async with self.theirs(ca, dns) as p, self.ours(ca, dns, files=expired) as a:
            romeo = await a.client("romeo@a.example/x")
            juliet = await p.client("juliet@p.example/y", presence=True)
            romeo.send("<message to='juliet@p.example' type='chat' id='1'><body>Hi</body></message>")
            if not self.verifies:
                await receive_until(juliet, "<message from='romeo@a.example/x' id='1'/>")  # by dialback
                return
            error = await romeo.expect("<message from='juliet@p.example' type='error' id='1'/>")
            assert text_of(error)


async def romeo_subscribed(romeo: Client) -> None:
    """Romeo approves Juliet's request, which may have come already."""
    await receive_until(romeo, "<presence from='juliet@p.example' type='subscribe'/>")
    romeo.send("<presence to='juliet@p.example' type='subscribed'/>")


async def romeo_or_juliet(romeo: Client, juliet: Client) -> Any:
    """A message sent into a cut link arrives, or comes back as an error; it does not vanish."""
    waiting = [asyncio.ensure_future(client.receive(30)) for client in (romeo, juliet)]
    done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    return done.pop().result()


async def publish_avatar(client: Client) -> None:
    for node, payload in (
        ("urn:xmpp:avatar:data", "<data xmlns='urn:xmpp:avatar:data'>AAAA</data>"),
        (
            "urn:xmpp:avatar:metadata",
            "<metadata xmlns='urn:xmpp:avatar:metadata'><info id='1' type='image/png' bytes='3'/></metadata>",
        ),
    ):
        await client.iq(
            f"<iq type='set' id='{node}'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
            f"<publish node='{node}'><item id='1'>{payload}</item></publish></pubsub></iq>"
        )
