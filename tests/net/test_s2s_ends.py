"""How streams between servers end, and what they refuse: goodbyes, limits, keys that nobody can judge."""

import asyncio
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from tests.net.federated import UNLIMITED, Two, both_ways, exchange, pair, reason
from tests.watched import until

from beamish.core.services import RosterItem, RosterService
from beamish.modules.presence import reunion
from beamish.net import dns, s2s
from beamish.stream.s2s_out import Unreachable
from beamish.testing.client import Client
from beamish.testing.federated import Authority, FederatedServer, Relay
from beamish.testing.match import mismatch
from beamish.testing.names import Directory
from beamish.testing.plugin import ExpectedErrors
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")


def posted(server: FederatedServer, sender: str, to: str, id_: str) -> None:
    """A message of a user goes out in this very tick of the loop."""
    content = b"<body>Hi</body>"
    server.kernel.router.post(
        Stanza.build("message", "chat", id=id_, sender=JID.parse(sender), to=JID.parse(to), content=content)
    )


@pytest.mark.parametrize("counting", [True, False])
@pytest.mark.parametrize("bidi", [True, False])
@pytest.mark.parametrize("closer", ["a", "b"])
async def test_a_goodbye_that_crosses_stanzas_costs_none(
    ca: Authority, names: Directory, closer: str, bidi: bool, counting: bool
) -> None:
    """Whoever closes a stream in order, and whoever opened it: what was under way arrives, once, and nothing comes back."""
    a, b = pair(ca, names)
    async with a, b:
        for server in (a, b):
            server.federation.settings = replace(server.federation.settings, bidi=bidi, resumption=counting)
        romeo, juliet = await exchange(a, b)
        mine = a if closer == "a" else b
        for n in range(8):
            for link in tuple(mine.federation.links):
                link.close()
            posted(a, "romeo@a.example/x", "juliet@b.example/y", f"a{n}")
            posted(b, "juliet@b.example/y", "romeo@a.example/x", f"b{n}")
            await juliet.expect(f"<message from='romeo@a.example/x' id='a{n}'/>")
            await romeo.expect(f"<message from='juliet@b.example/y' id='b{n}'/>")
        await romeo.expect_nothing()
        await juliet.expect_nothing()


@pytest.mark.parametrize("sender", ["romeo", "juliet"])
@pytest.mark.parametrize("waiting", [True, False])
async def test_what_is_larger_than_the_peer_takes_comes_back_and_harms_nobody(
    ca: Authority, names: Directory, sender: str, waiting: bool
) -> None:
    """Both sides of a bidirectional stream say what they bear (XEP-0478 §3.1, §3.2), also to what waited for the stream."""
    small = {"settings": {"limits": {"stanza_bytes": 10_000}}}
    a, b = pair(ca, names, **({"b": small} if sender == "romeo" else {"a": small}))
    async with a, b:
        if waiting:
            romeo = await a.client("romeo@a.example/x", presence=True)
            juliet = await b.client("juliet@b.example/y", presence=True)
        else:
            romeo, juliet = await exchange(a, b)
        mine, other = (romeo, juliet) if sender == "romeo" else (juliet, romeo)
        if waiting and sender == "juliet":
            romeo.send("<message to='juliet@b.example/y' type='chat' id='0'><body>Hi</body></message>")
            await juliet.expect("<message id='0'/>")
        mine.send(f"<message to='{other.jid}' type='chat' id='big'><body>{'x' * 50_000}</body></message>")
        mine.send(f"<message to='{other.jid}' type='chat' id='small'><body>Hi</body></message>")
        error = await mine.expect(
            f"<message from='{other.jid}' type='error' id='big'><error type='modify'>"
            "<policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
        )
        assert reason(error).startswith("the other server takes stanzas of up to 20000 bytes")
        await other.expect("<message id='small'/>")
        assert len(a.federation.links) == 1


async def test_a_stream_is_closed_before_the_peer_would_do_it(ca: Authority, names: Directory) -> None:
    a, b = pair(ca, names, b={"settings": {"s2s": {"idle_seconds": 50}}})
    async with a, b:
        await exchange(a, b)
        [link] = a.federation.links
        assert link.machine.peer_idle == 100
        assert link.idle_limit == 80.0


async def test_an_authoritative_server_that_cannot_say_is_not_taken_for_a_denial(
    ca: Authority, names: Directory, caplog: pytest.LogCaptureFixture, expected_errors: ExpectedErrors
) -> None:
    """XEP-0220 §2.5: b asks a's server about the key; that says `item-not-found`, and so a's sender learns why."""
    expected_errors.add("certificate_problem")
    caplog.set_level("INFO", "beamish")
    expired = ca.issue("a.example", days=(-30, -1), stem="expired")
    unverified = {"settings": {"s2s": {"unverified": ("a.example",), "retry_seconds": 0.01}}}
    a, b = pair(ca, names, a={"files": expired, "settings": {"s2s": {"retry_seconds": 0.01}}}, b=unverified)
    async with a, b, FederatedServer(ca, names, domains=("c.example",), accounts=()) as c:
        names.forget("a.example")
        names.serve("a.example", c.s2s_port)  # the DNS leads to a server that knows nothing of a.example
        romeo = await a.client("romeo@a.example/x")
        romeo.send("<message to='juliet@b.example' type='chat' id='1'><body>Hi</body></message>")
        error = await romeo.expect("<message type='error' id='1'/>")
        assert reason(error) == "not-authorized: dialback: error (remote-server-not-found)"
        [failed] = [r for r in caplog.records if r.getMessage() == "s2s_verify_failed"][:1]
        assert failed.remote == "a.example"  # type: ignore[attr-defined]


async def test_the_condition_of_the_authoritative_server_is_passed_on(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, b = two
    answers = iter(("item-not-found", "internal-server-error", ""))

    class Answered:
        key_ok = True

        def __init__(self) -> None:
            self.key_error = next(answers)

    async def opened(*_args: Any, **_options: Any) -> Any:
        return Answered()

    monkeypatch.setattr(s2s, "open_stream", opened)
    with pytest.raises(Unreachable, match=r"no-such-domain: .*could not say whether a key is its own: item-not-found"):
        await b.federation.ask("b.example", "a.example", "id", "key", "192.0.2.1")
    with pytest.raises(Unreachable, match=r"stream-error: .*: internal-server-error"):
        await b.federation.ask("b.example", "a.example", "id", "key", "192.0.2.1")
    assert await b.federation.ask("b.example", "a.example", "id", "key", "192.0.2.1")


@pytest.mark.parametrize("bidi", [True, False])
async def test_every_kind_of_end_at_random(ca: Authority, names: Directory, bidi: bool) -> None:
    """Goodbyes and cuts of either side, while both write: all arrives, in order, and nothing comes back."""
    random = Random(3)
    a, b = pair(ca, names, settings=UNLIMITED)
    async with a, b, Relay(a.s2s_port) as to_a, Relay(b.s2s_port) as to_b:
        for domain, relay in (("a.example", to_a), ("b.example", to_b)):
            names.move(domain, relay.port)
        for server in (a, b):
            server.federation.settings = replace(server.federation.settings, bidi=bidi)
        romeo = await a.client("romeo@a.example/x", presence=True)
        juliet = await b.client("juliet@b.example/y", presence=True)
        ends = 0

        def end_sometimes() -> None:
            nonlocal ends
            if random.random() >= 0.01:
                return
            ends += 1
            links = [link for server in (a, b) for link in server.federation.links if link.usable]
            if random.random() < 0.6:
                for link in links:
                    if random.random() < 0.7:
                        link.close()
            else:
                random.choice((to_a, to_b)).cut()

        await both_ways(romeo, juliet, 1_500, 150, end_sometimes)
        assert ends > 10


async def awaited(client: Client, xml: str) -> None:
    """Read until this has come."""
    while mismatch(xml, await client.receive()):
        pass


async def subscribed(user: Client, contact: Client) -> None:
    assert user.jid is not None and contact.jid is not None
    user.send(f"<presence to='{contact.jid.bare}' type='subscribe'/>")
    await awaited(contact, f"<presence from='{user.jid.bare}' type='subscribe'/>")
    contact.send(f"<presence to='{user.jid.bare}' type='subscribed'/>")
    await awaited(user, f"<presence from='{contact.jid}' type='!'/>")


async def test_after_a_break_both_sides_see_each_other_again(
    ca: Authority, names: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither user does anything: when the servers talk again, for whatever reason, everybody is online again."""
    monkeypatch.setattr(reunion, "SETTLING", 0.01)
    a, b = pair(ca, names, settings={"s2s": {"retry_seconds": 0.1, "resume_seconds": 0.1}})
    async with a, b, Relay(a.s2s_port) as to_a, Relay(b.s2s_port) as to_b:
        for domain, relay in (("a.example", to_a), ("b.example", to_b)):
            names.move(domain, relay.port)
        romeo = await a.client("romeo@a.example/x", presence=True, roster=True)
        juliet = await b.client("juliet@b.example/y", presence=True, roster=True)
        await subscribed(romeo, juliet)
        await subscribed(juliet, romeo)
        to_a.broken = to_b.broken = True
        for relay in (to_a, to_b):
            relay.cut()
        romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>")
        juliet.send("<message to='romeo@a.example/x' type='chat' id='1'><body>Ho</body></message>")
        await awaited(romeo, "<presence from='juliet@b.example/y' type='unavailable'/>")
        await awaited(juliet, "<presence from='romeo@a.example/x' type='unavailable'/>")
        juliet.send("<presence><show>away</show></presence>")
        await awaited(juliet, "<presence type='error'/>")
        to_a.broken = to_b.broken = False
        await a.kernel.commands.run("s2s.test", {"domain": "b.example"})
        await awaited(romeo, "<presence from='juliet@b.example/y' type='!'><show>away</show></presence>")
        await awaited(juliet, "<presence from='romeo@a.example/x' type='!'/>")


async def test_presence_that_got_lost_with_a_stream_is_asked_for(
    ca: Authority, names: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where streams cannot be resumed, what was under way when one broke off is lost, and the peer may have started anew."""
    monkeypatch.setattr(reunion, "SETTLING", 0.01)
    a, b = pair(ca, names)
    async with a, b, Relay(a.s2s_port) as to_a, Relay(b.s2s_port) as to_b:
        for domain, relay in (("a.example", to_a), ("b.example", to_b)):
            names.move(domain, relay.port)
        for server in (a, b):
            server.federation.settings = replace(server.federation.settings, resumption=False)
        romeo = await a.client("romeo@a.example/x", presence=True, roster=True)
        juliet = await b.client("juliet@b.example/y", presence=True, roster=True)
        await subscribed(romeo, juliet)
        to_a.silent = to_b.silent = True
        juliet.send("<presence><show>away</show></presence>")
        await awaited(juliet, "<presence from='juliet@b.example/y'><show>away</show></presence>")
        for relay in (to_a, to_b):
            relay.cut()
            relay.silent = False
        await awaited(romeo, "<presence from='juliet@b.example/y'><show>away</show></presence>")


async def test_presence_on_a_stream_that_the_peer_has_forgotten_is_told_again(
    ca: Authority, names: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say what arrived on it: who changed his presence then shows himself again, though nothing is resumed."""
    monkeypatch.setattr(reunion, "SETTLING", 0.01)
    a, b = pair(ca, names)
    async with a, b, Relay(b.s2s_port) as to_b:
        names.move("b.example", to_b.port)
        romeo = await a.client("romeo@a.example/x", presence=True, roster=True)
        juliet = await b.client("juliet@b.example/y", presence=True, roster=True)
        await subscribed(romeo, juliet)
        await subscribed(juliet, romeo)
        to_b.silent = True
        romeo.send("<presence><show>away</show></presence>")
        await awaited(romeo, "<presence from='romeo@a.example/x'><show>away</show></presence>")

        async def forgotten(*_: Any) -> None:
            return None

        monkeypatch.setattr(b.federation.__class__, "settle", forgotten)
        for left in b.federation.resumable.broken():
            assert left.acks is not None
            b.federation.resumable.forget(left.acks.id)
        to_b.cut()
        to_b.silent = False
        await awaited(juliet, "<presence from='romeo@a.example/x'><show>away</show></presence>")


async def test_a_server_that_started_anew_at_once_is_asked_who_is_there(
    ca: Authority, names: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It remembers neither its users' sessions nor its stream, but can be reached before that stream is given up."""
    monkeypatch.setattr(reunion, "SETTLING", 0.01)
    a, b = pair(ca, names, b={"settings": {"s2s": {"resume_seconds": 0.5}}})
    async with a, b:
        romeo = await a.client("romeo@a.example/x", presence=True, roster=True)
        juliet = await b.client("juliet@b.example/y", presence=True, roster=True)
        await subscribed(romeo, juliet)  # it opens the stream
        await subscribed(juliet, romeo)
        async with FederatedServer(ca, names, domains=("a.example",), accounts=("romeo@a.example",)) as anew:
            rosters = anew.kernel.service(RosterService)
            await rosters.change(JID.parse("romeo@a.example"), RosterItem(JID.parse("juliet@b.example"), from_=True))
            [theirs] = b.federation.links
            await until(lambda: theirs.acks is not None and not theirs.acks.pending)
            a.federation.draining = True  # it says no more
            for link in tuple(a.federation.links):
                link.abort()
            await awaited(juliet, "<presence from='romeo@a.example' type='unavailable'/>")


async def test_presence_that_found_no_room_in_the_queue_is_told_later(
    ca: Authority, names: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody logs in while there is no stream yet: whose presence did not fit shows when there is one."""
    a, b = pair(ca, names, a={"settings": {"s2s": {"queue_stanzas": 2}}})
    found, look_up = asyncio.Event(), dns.targets_of

    async def slowly(*args: Any) -> Any:
        await found.wait()
        return await look_up(*args)

    monkeypatch.setattr(dns, "targets_of", slowly)
    async with a, b:
        juliet = await b.client("juliet@b.example/y", presence=True)
        rosters = a.kernel.service(RosterService)
        for contact in ("nurse@b.example", "tybalt@b.example", "juliet@b.example"):
            await rosters.change(JID.parse("romeo@a.example"), RosterItem(JID.parse(contact), from_=True))
        romeo = await a.client("romeo@a.example/x", presence=True)
        await awaited(romeo, "<presence from='juliet@b.example' type='error'/>")
        found.set()
        # once the peer has confirmed those that fitted
        await awaited(juliet, "<presence from='romeo@a.example/x' type='!'/>")
