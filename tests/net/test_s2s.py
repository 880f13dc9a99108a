"""Servers of this program with one another, over TLS on the loopback."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.net.federated import UNLIMITED, Two, both_ways, exchange, only, pair, reason
from tests.watched import until

from beamish.core.events import Context
from beamish.core.router import Router
from beamish.modules.presence.subscribing import Subscribing
from beamish.net.certificate import read_certificate
from beamish.net.dns import LookupFailed, Srv
from beamish.net.s2s import Policy
from beamish.net.s2s_opening import open_stream
from beamish.net.tls_memory import TlsContexts
from beamish.stream.s2s_out import Unreachable
from beamish.testing.federated import Authority, FederatedServer, Relay
from beamish.testing.names import Directory
from beamish.testing.plugin import ExpectedErrors
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")


async def test_a_message_and_its_answer(two: tuple[FederatedServer, FederatedServer]) -> None:
    a, b = two
    romeo = await a.client("romeo@a.example/x", presence=True)
    juliet = await b.client("juliet@b.example/y", presence=True)
    romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>")
    await juliet.expect(
        "<message from='romeo@a.example/x' to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>"
    )
    juliet.send("<message to='romeo@a.example/x' type='chat' id='2'><body>Ho</body></message>")
    await romeo.expect("<message from='juliet@b.example/y' id='2'><body>Ho</body></message>")
    [stream] = a.federation.list_streams()
    assert (stream["direction"], stream["method"], stream["bidi"], stream["tls"]) == (
        "out",
        "external",
        True,
        "TLSv1.3",
    )
    assert stream["resumable"]


async def test_what_goes_out_is_in_the_wire_log_once(
    ca: Authority, names: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stanzas, stream management and the rest; and a stream that is over leaves nothing there."""
    from beamish.net import wirelog

    lines: list[str] = []

    class Log:
        def debug(self, event: str, **keys: str) -> None:
            lines.append(f"{event} {keys['data']}")

    monkeypatch.setattr(wirelog, "log", Log())
    a, b = pair(ca, names)
    async with a, b:
        wire_log = a.federation.wire_log
        wire_log.enabled = True
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await b.client("juliet@b.example/y", presence=True)
        romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>")
        await juliet.receive()
        await until(lambda: any("<a " in line for line in lines if line.startswith("rx ")))
        sent = [line for line in lines if line.startswith("tx ")]
        for text in ("<starttls ", "<enable ", "<body>Hi</body>", "<r xmlns='urn:xmpp:sm:3'/>"):
            assert sum(text in line for line in sent) == 1, text
        [link] = a.federation.links
        assert any(stream == link.id for _, stream in wire_log._maskers)
    assert all(stream != link.id for _, stream in wire_log._maskers)


async def test_direct_tls(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names, direct_tls=True)
    async with a, b:
        await exchange(a, b)
        assert only(a, "out")["peer"] == f"127.0.0.1:{b.s2s_tls_port}"


async def test_one_stream_each_way_without_bidi(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names)
    async with a, b:
        b.federation.settings = replace(b.federation.settings, bidi=False)
        a.federation.settings = replace(a.federation.settings, bidi=False)
        await exchange(a, b)
        assert not only(a, "out")["bidi"]
        assert only(b, "out")["method"] == "external"
        [out] = [link for link in a.federation.links if link.direction == "out"]
        assert out._bucket is a.federation.buckets("b.example")[0], "what comes on it is bounded, though no stanza may"


async def test_dialback_with_a_certificate_that_holds(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names)
    async with a, b:
        b.federation.settings = replace(b.federation.settings, external=False)
        await exchange(a, b)
        assert only(a, "out")["method"] == "dialback"
        assert only(b, "in")["remote"] == "a.example"


async def test_dialback_vouches_for_a_domain_that_is_excepted(
    ca: Authority, names: Directory, expected_errors: ExpectedErrors
) -> None:
    """The certificate of a has expired; b asks a's server about the key, over TLS that need not be verified."""
    expected_errors.add("certificate_problem")
    expired = ca.issue("a.example", days=(-30, -1), stem="expired")
    a, b = pair(ca, names, a={"files": expired}, b={"settings": {"s2s": {"unverified": ("a.example",)}}})
    async with a, b:
        await exchange(a, b)
        assert only(a, "out")["method"] == "dialback"


async def test_an_expired_certificate_is_named_to_the_sender(
    ca: Authority, names: Directory, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("certificate_problem")
    expired = ca.issue("b.example", days=(-30, -1), stem="expired")
    a, b = pair(ca, names, b={"files": expired})
    async with a, b:
        romeo = await a.client("romeo@a.example/x")
        romeo.send("<message to='juliet@b.example' type='chat' id='1'><body>Hi</body></message>")
        error = await romeo.expect(
            "<message from='juliet@b.example' type='error' id='1'><error type='cancel'><remote-server-timeout"
            " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        )
        assert reason(error).startswith("certificate: the certificate does not hold: it has expired on ")


async def test_an_expired_certificate_cannot_speak_for_its_domain(
    ca: Authority, names: Directory, expected_errors: ExpectedErrors
) -> None:
    """The other way: it is b that must not believe a; a is told, and tells the sender."""
    expected_errors.add("certificate_problem")
    expired = ca.issue("a.example", days=(-30, -1), stem="expired")
    a, b = pair(ca, names, a={"files": expired})
    async with a, b:
        romeo = await a.client("romeo@a.example/x")
        romeo.send("<message to='juliet@b.example' type='chat' id='1'><body>Hi</body></message>")
        error = await romeo.expect("<message type='error' id='1'/>")
        assert reason(error) == "not-authorized: dialback: error (policy-violation)"
        assert not b.federation.links or not any(s["method"] for s in b.federation.list_streams())


@pytest.mark.parametrize(
    ("prepare", "condition", "text"),
    [
        ("unknown", "remote-server-not-found", "no-such-domain: b.example has no address"),
        (
            "dns",
            "remote-server-timeout",
            "dns: b.example could not be looked up: the name servers did not answer in time",
        ),
        ("refused", "remote-server-not-found", "refused: host.b.example:1 refused the connection"),
        ("none", "remote-server-not-found", "no-such-domain: b.example says that it has no XMPP server"),
        ("denied", "forbidden", "policy: this server does not talk to b.example"),
    ],
)
async def test_every_cause_is_told(ca: Authority, names: Directory, prepare: str, condition: str, text: str) -> None:
    settings: dict[str, Any] = {"retry_seconds": 0.01}
    if prepare == "refused":
        names.serve("b.example", 1)
    elif prepare == "none":
        names.records["_xmpp-server._tcp.b.example"] = [Srv(0, 0, 0, "")]
    elif prepare == "denied":
        settings["deny"] = ("b.example",)
    a, _ = pair(ca, names, settings={"s2s": settings})
    async with a:
        if prepare == "dns":
            names.broken = LookupFailed("the name servers did not answer in time")
        romeo = await a.client("romeo@a.example/x")
        romeo.send("<message to='juliet@b.example' type='chat' id='1'><body>Hi</body></message>")
        error = await romeo.expect(
            f"<message from='juliet@b.example' type='error' id='1'><error>"
            f"<{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        )
        assert reason(error) == text
        romeo.send("<presence to='juliet@b.example' type='error'/>")
        romeo.send("<iq to='juliet@b.example' type='result' id='r'/>")
        await romeo.expect_nothing()  # what may not be answered is not


async def test_a_closed_server_talks_to_nobody_it_was_not_told_about(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names, b={"settings": {"s2s": {"policy": "closed", "allow": ("c.example",)}}})
    async with a, b:
        romeo = await a.client("romeo@a.example/x")
        romeo.send("<message to='juliet@b.example' type='chat' id='1'><body>Hi</body></message>")
        error = await romeo.expect("<message type='error' id='1'/>")
        assert reason(error) == (
            "stream-error: the server closed the stream with policy-violation "
            "(this server only talks to domains it was told about)"
        )


async def test_subscription_and_presence_across_the_border(two: Two) -> None:
    a, b = two
    romeo = await a.client("romeo@a.example/x", presence=True, roster=True)
    juliet = await b.client("juliet@b.example/y", presence=True, roster=True)
    romeo.send("<presence to='juliet@b.example' type='subscribe'/>")
    await romeo.expect("<iq type='set'/>")
    await juliet.expect("<presence from='romeo@a.example' type='subscribe'/>")
    juliet.send("<presence to='romeo@a.example' type='subscribed'/>")
    await juliet.expect("<iq type='set'/>")
    await romeo.expect_all(
        "<iq type='set'/>",
        "<presence from='juliet@b.example' type='subscribed'/>",
        "<presence from='juliet@b.example/y'/>",
    )
    juliet.send("<presence><show>away</show></presence>")
    await romeo.expect("<presence from='juliet@b.example/y'><show>away</show></presence>")


async def test_users_of_a_server_that_died_go_offline(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names, settings={"s2s": {"retry_seconds": 0.2, "resume_seconds": 0.2}})
    async with a:
        romeo = await a.client("romeo@a.example/x", presence=True)
        async with b, Relay(b.s2s_port) as relay:
            names.move("b.example", relay.port)
            juliet = await b.client("juliet@b.example/y", presence=True)
            juliet.send("<presence to='romeo@a.example/x'/>")
            await romeo.expect("<presence from='juliet@b.example/y'/>")
            romeo.send("<message to='juliet@b.example/y' type='chat'><body>Hi</body></message>")
            await juliet.expect("<message from='romeo@a.example/x'/>")
            names.forget("a.example")  # what is left of b finds nobody to say goodbye to
            relay.broken = True
            for link in tuple(b.federation.links | a.federation.links):
                link.abort()
            await romeo.expect("<message from='juliet@b.example/y' type='error'/>")  # unconfirmed
            await romeo.expect("<presence from='juliet@b.example/y' type='unavailable'/>")


async def test_messages_survive_cuts_of_the_link(ca: Authority, names: Directory) -> None:
    """10,000 messages while the link is cut again and again: each arrives, once, in order; none comes back."""
    total, window = 10_000, 400
    a, b = pair(ca, names, settings=UNLIMITED)
    random = Random(7)
    async with a, b, Relay(b.s2s_port) as relay:
        names.move("b.example", relay.port)
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await b.client("juliet@b.example/y", presence=True)
        sent, got = 0, []
        cut_at = random.randint(50, 800)
        while len(got) < total:
            while sent < total and sent - len(got) < window:
                romeo.send(f"<message to='juliet@b.example/y' type='chat' id='m{sent}'><body>{sent}</body></message>")
                sent += 1
            got.append((await juliet.receive(30)).get("id"))
            if len(got) == cut_at:
                relay.cut()
                cut_at += random.randint(50, 800)
        assert got == [f"m{n}" for n in range(total)]
        assert relay.carried > 10
        await juliet.expect_nothing()
        await romeo.expect_nothing()


async def test_what_a_server_that_restarted_did_not_confirm_comes_back(
    ca: Authority, names: Directory, tmp_path: Path
) -> None:
    """Its memory of the stream is gone with it: nobody can tell whether it has the last stanzas, so they are not sent
    a second time.
    """
    settings = {"s2s": {"retry_seconds": 10}}
    a, b = pair(ca, names, settings=settings)
    async with a:
        romeo = await a.client("romeo@a.example/x", presence=True)
        async with b, Relay(b.s2s_port) as relay:
            names.move("b.example", relay.port)
            juliet = await b.client("juliet@b.example/y", presence=True)
            romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>")
            await juliet.expect("<message id='1'/>")
            relay.silent = True
            romeo.send("<message to='juliet@b.example/y' type='chat' id='2'><body>Ho</body></message>")
            await romeo.expect_nothing()
        _, again = pair(ca, names, settings=settings)
        async with again:
            for id_ in ("1", "2"):  # the first one arrived, but its confirmation did not
                error = await romeo.expect(f"<message from='juliet@b.example/y' type='error' id='{id_}'/>")
                assert reason(error).startswith("connection-lost: ")
            juliet = await again.client("juliet@b.example/y", presence=True)
            romeo.send("<message to='juliet@b.example/y' type='chat' id='3'><body>Anew</body></message>")
            await juliet.expect("<message id='3'/>")


async def test_idle_streams_close_and_come_back(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names, settings={"s2s": {"idle_seconds": 0.001}})
    async with a, b:
        romeo, juliet = await exchange(a, b)
        [link] = a.federation.links
        await until(lambda: link._timer is None)
        link.sweep(a.federation.now() + 1.0)
        await until(lambda: not a.federation.links and not b.federation.links)
        assert link.why is None
        romeo.send("<message to='juliet@b.example/y' type='chat' id='9'><body>Again</body></message>")
        await juliet.expect("<message id='9'/>")


async def test_the_commands_show_streams_and_steps(two: Two) -> None:
    a, b = two
    tested = await a.kernel.commands.run("s2s.test", {"domain": "b.example"})
    assert tested["ok"]
    steps = [step.split(" s  ", 1)[1] for step in tested["steps"]]
    assert steps[0] == f"servers: host.b.example:{b.s2s_port}"
    assert steps[-2:] == ["authenticated by external, both ways", "stanzas can be exchanged"]
    failed = await a.kernel.commands.run("s2s.test", {"domain": "nowhere.example"})
    assert (failed["ok"], failed["cause"]) == (False, "no-such-domain")
    await exchange(a, b)
    listed = await a.kernel.commands.run("s2s.list", {})
    assert [(s["local"], s["remote"]) for s in listed if s["direction"] == "out"] == [("a.example", "b.example")]


@pytest.mark.parametrize("bidi", [True, False])
async def test_both_directions_survive_cuts(ca: Authority, names: Directory, bidi: bool) -> None:
    a, b = pair(ca, names, settings=UNLIMITED)
    random = Random(11)
    async with a, b, Relay(a.s2s_port) as to_a, Relay(b.s2s_port) as to_b:
        for domain, relay in (("a.example", to_a), ("b.example", to_b)):
            names.move(domain, relay.port)
        for server in (a, b):
            server.federation.settings = replace(server.federation.settings, bidi=bidi)
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await b.client("juliet@b.example/y", presence=True)

        def cut_sometimes() -> None:
            if random.random() < 0.005:
                random.choice((to_a, to_b)).cut()

        await both_ways(romeo, juliet, 2_000, 200, cut_sometimes)
        assert to_a.carried + to_b.carried > 4


async def test_a_stop_says_goodbye_for_its_users(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names)
    async with b:
        juliet = await b.client("juliet@b.example/y", presence=True)
        async with a:
            romeo = await a.client("romeo@a.example/x", presence=True)
            romeo.send("<presence to='juliet@b.example/y'/>")
            await juliet.expect("<presence from='romeo@a.example/x' type='!'/>")
        await juliet.expect("<presence from='romeo@a.example/x' type='unavailable'/>")


async def test_a_peer_that_confirms_nothing_any_more_is_given_up(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names, settings={"s2s": {"retry_seconds": 0.01}})
    async with a, b, Relay(b.s2s_port) as relay:
        names.move("b.example", relay.port)
        romeo = await a.client("romeo@a.example/x")
        juliet = await b.client("juliet@b.example/y", presence=True)
        romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>")
        await juliet.expect("<message id='1'/>")
        [link] = a.federation.links
        await until(lambda: link.acks is not None and not link.acks.pending)
        relay.silent = relay.broken = True
        romeo.send("<message to='juliet@b.example/y' type='chat' id='2'><body>Ho</body></message>")
        await until(lambda: bool(link._asked))
        link.sweep(a.federation.now() + 61)
        error = await romeo.expect("<message from='juliet@b.example/y' type='error' id='2'/>")
        assert error.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}remote-server-timeout") is not None


async def test_the_queue_of_a_domain_is_bounded(ca: Authority, names: Directory) -> None:
    a, _ = pair(ca, names, settings={"s2s": {"queue_stanzas": 3, "retry_seconds": 30, "backoff_seconds": 1}})
    names.serve("b.example", 1)  # refused, and tried again
    async with a:
        romeo = await a.client("romeo@a.example/x")
        for n in range(5):
            romeo.send(f"<message to='juliet@b.example' type='chat' id='{n}'><body>Hi</body></message>")
        for n in (3, 4):
            await romeo.expect(
                f"<message type='error' id='{n}'><error type='wait'>"
                "<resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
            )
        [waiting] = a.federation.list_streams()
        assert (waiting["direction"], waiting["queued"], waiting["state"]) == ("waiting", 3, "connecting")


async def test_a_remote_domain_is_slowed_down_and_loses_nothing(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names, b={"settings": {"s2s": {"stanza_burst": 20, "stanzas_per_second": 400}}})
    async with a, b:
        romeo = await a.client("romeo@a.example/x")
        juliet = await b.client("juliet@b.example/y", presence=True)
        for n in range(220):
            romeo.send(f"<message to='juliet@b.example/y' type='chat' id='{n}'><body>Hi</body></message>")
        for n in range(220):
            await juliet.expect(f"<message id='{n}'/>")
        began = asyncio.get_running_loop().time()
        romeo.send("<message to='juliet@b.example/y' type='chat' id='late'><body>Hi</body></message>")
        await juliet.expect("<message id='late'/>")  # 200 above the burst at 400 a second
        assert asyncio.get_running_loop().time() - began > 0.2


async def test_a_domain_may_have_so_many_streams(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names, b={"settings": {"s2s": {"streams_per_domain": 2}}})
    async with a, b:
        links = [await open_stream(a.federation, "a.example", "b.example") for _ in range(2)]
        await until(lambda: len(b.federation.links) == 2)
        with pytest.raises(Unreachable, match="resource-constraint"):
            await open_stream(a.federation, "a.example", "b.example")
        assert all(link.usable for link in links)


async def test_only_our_own_domains_send(two: Two) -> None:
    a, _ = two
    forged = Stanza.build("message", sender=JID.parse("x@elsewhere.example"), to=JID.parse("juliet@b.example"))
    with pytest.raises(StanzaError, match="not-allowed"):
        a.federation.carry(Context(forged))


async def test_nobody_may_say_that_it_is_one_of_our_domains(two: Two) -> None:
    a, _ = two
    assert a.federation.admits("a.example") == "a.example is served here"
    assert a.federation.admits("conference.b.example") == ""


@pytest.mark.parametrize(
    ("policy", "domain", "refused"),
    [
        (Policy(), "b.example", False),
        (Policy(deny=frozenset({"b.example"})), "b.example", True),
        (Policy(deny=frozenset({"b.example"})), "conference.b.example", True),
        (Policy(deny=frozenset({"b.example"})), "xb.example", False),
        (Policy(deny=frozenset({"example"}), allow=frozenset({"b.example"})), "b.example", False),
        (Policy(deny=frozenset({"c.b.example"}), allow=frozenset({"b.example"})), "c.b.example", True),
        (Policy(deny=frozenset({"b.example"}), allow=frozenset({"b.example"})), "b.example", True),
        (Policy(open=False), "b.example", True),
        (Policy(open=False, allow=frozenset({"b.example"})), "muc.b.example", False),
    ],
)
def test_policy(policy: Policy, domain: str, refused: bool) -> None:
    assert bool(policy.refusal(domain)) is refused


def test_exceptions_from_verification() -> None:
    policy = Policy(unverified=frozenset({"old.example"}))
    assert policy.must_verify("b.example")
    assert not policy.must_verify("muc.old.example")
    assert not Policy(require_verified=False).must_verify("b.example")


async def test_a_stanza_that_the_peer_does_not_bear_comes_back_once(ca: Authority, names: Directory) -> None:
    """It ends the stream; resuming that and sending it again would do so for ever."""
    a, b = pair(ca, names, b={"settings": {"limits": {"stanza_bytes": 10_000}}})
    async with a, b:
        romeo, juliet = await exchange(a, b)
        [link] = a.federation.links
        await until(lambda: link.acks is not None and not link.acks.pending)
        link.machine.peer_bytes = 0  # as if it had not said what it bears
        romeo.send(f"<message to='juliet@b.example/y' type='chat' id='big'><body>{'x' * 50_000}</body></message>")
        error = await romeo.expect("<message from='juliet@b.example/y' type='error' id='big'/>")
        assert reason(error).startswith("stream-error: the server closed the stream with policy-violation")
        romeo.send("<message to='juliet@b.example/y' type='chat' id='small'><body>Hi</body></message>")
        await juliet.expect("<message id='small'/>")
        await romeo.expect_nothing()


async def test_a_stanza_to_nowhere_is_answered_and_counts(two: Two) -> None:
    a, b = two
    romeo, _ = await exchange(a, b)
    [link] = a.federation.links
    assert link.acks is not None
    lost = Stanza.build("message", id="9", sender=romeo.jid, to=JID.parse("juliet@b.example"))
    data = b"<message id='9' from='romeo@a.example/x' to='@'><body>Hi</body></message>"
    link.acks.count_sent(lost, data)
    link.write(data)
    link.ask()
    await romeo.expect(
        "<message from='b.example' to='romeo@a.example/x' type='error' id='9'><error>"
        "<jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    )
    await until(lambda: not link.acks.pending)


async def test_a_resumption_that_confirms_nonsense_loses_nothing(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names, settings={"s2s": {"retry_seconds": 0.01}})
    async with a, b, Relay(b.s2s_port) as relay:
        names.move("b.example", relay.port)
        romeo, _ = await exchange(a, b)
        [link], [into] = a.federation.links, b.federation.links
        await until(lambda: not link.acks.pending and not into.acks.pending)
        relay.silent = True
        romeo.send("<message to='juliet@b.example/y' type='chat' id='3'><body>Hi</body></message>")
        await until(lambda: bool(link.acks.pending))
        into.acks.handled = 5_000
        relay.silent = False
        relay.cut()
        error = await romeo.expect("<message from='juliet@b.example/y' type='error' id='3'/>")
        assert "acknowledged 5000 stanzas" in reason(error)


async def test_stanzas_are_not_entrusted_to_whoever_connects_without_a_certificate(
    ca: Authority, names: Directory
) -> None:
    """Dialback lets a's stream in, as a's own server vouches for it; what is for a goes where its certificate is."""
    stranger = Authority.stranger(ca.directory / "stranger").issue("a.example")
    a, b = pair(ca, names)
    async with a, b:
        shown, _ = read_certificate(*stranger, ["a.example"], datetime.now(UTC))
        assert shown is not None
        a.federation.contexts.client = TlsContexts(lambda _domain: shown).client  # type: ignore[method-assign]
        await exchange(a, b)
        assert only(a, "out")["method"] == "dialback"
        assert only(a, "out")["in"] == 0
        assert only(b, "out")["remote"] == "a.example"


async def test_a_peer_that_does_not_count_gets_pings(two: Two) -> None:
    """Also on a stream that it opened, so that nothing is lost on that unnoticed."""
    a, b = two
    a.federation.settings = replace(a.federation.settings, resumption=False)
    _, juliet = await exchange(a, b)
    [into] = b.federation.links
    assert into.acks is None and into.pings is not None
    await until(lambda: into.pings is not None and not into.pings._pending)
    assert into.pings.answers
    for link in tuple(a.federation.links):
        link.stop_reading()
    juliet.send("<message to='romeo@a.example/x' type='chat' id='5'><body>Hi</body></message>")
    await until(lambda: into.stanzas_out > 1 and bool(into.pings and into.pings._pending))
    into.abort()
    error = await juliet.expect("<message from='romeo@a.example/x' type='error' id='5'/>")
    assert error.find(".//{urn:ietf:params:xml:ns:xmpp-stanzas}remote-server-timeout") is not None


async def test_a_server_that_asks_much_at_once_leaves_turns_to_others(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3,500 requests to see presence come in one read; what they look up is in memory, so none of them waits."""
    a, b = two
    await exchange(a, b)
    [link] = b.federation.links
    await link.quiet()
    calls = 0
    turns: list[int] = []
    inbound = Subscribing.inbound

    async def called(self: Subscribing, ctx: Context) -> None:
        nonlocal calls
        calls += 1
        asyncio.get_running_loop().call_soon(lambda: turns.append(calls))
        await inbound(self, ctx)

    monkeypatch.setattr(Subscribing, "inbound", called)
    sender, to = JID.parse("tybalt@a.example"), JID.parse("juliet@b.example")
    link.inject([Stanza.build("presence", "unsubscribe", sender=sender, to=to)] * 400)
    await link.quiet()
    assert calls == 400
    assert max(after - before for before, after in pairwise([0, *turns])) <= 50


@pytest.mark.parametrize("first", ["nothing waits", "one waits"])
async def test_many_stanzas_of_one_read_take_several_turns(
    two: Two, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Also when none of them has to wait: ten thousand of another server were a turn of the loop of 0.9 s for everybody."""
    a, b = two
    await exchange(a, b)
    [link] = b.federation.links
    await link.quiet()
    calls = 0
    turns: list[int] = []
    from_elsewhere = Router.from_elsewhere

    def called(self: Router, ctx: Context) -> Any:
        nonlocal calls
        calls += 1
        asyncio.get_running_loop().call_soon(lambda: turns.append(calls))
        rest = from_elsewhere(self, ctx)
        return asyncio.sleep(0) if first == "one waits" and calls == 1 else rest

    monkeypatch.setattr(Router, "from_elsewhere", called)
    sender, to = JID.parse("romeo@a.example/x"), JID.parse("juliet@b.example/none")
    stanzas = [Stanza.build("message", "headline", id=str(n), sender=sender, to=to) for n in range(400)]
    link.inject(list(stanzas))
    await link.quiet()
    assert calls == 400
    assert max(after - before for before, after in pairwise([0, *turns])) <= 51
    assert link.stanzas_in >= 400


async def test_an_id_of_any_length_is_not_kept(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be in memory, and on disk for a day, for each of thousands of streams."""
    monkeypatch.setattr("beamish.net.s2s_in.new_id", lambda: "x" * 4_001)
    a, b = two
    await exchange(a, b)
    [link] = a.federation.links
    assert link.acks is not None
    assert (link.acks.id, link.acks.key) == ("", 0)
