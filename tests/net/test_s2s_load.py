"""What waits for other servers in all: bounded, shared, and counted right whatever becomes of it."""

import base64
import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.net.test_s2s_incoming import Peer, message, peer
from tests.watched import until

from beamish.net.s2s_load import Load
from beamish.stream.s2s_acks import Acks, PingAcks
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

pytestmark = pytest.mark.usefixtures("no_unexpected_errors")

KIB = 1024


def test_one_family_has_half_and_then_a_tenth() -> None:
    load = Load(1000 * KIB)
    evil, other, third = load.of("d1.evil.example"), load.of("other.example"), load.of("third.example")
    assert load.of("d2.evil.example") is evil
    evil.add(499 * KIB)
    assert not evil.full
    evil.add(1 * KIB)
    assert evil.full and not other.full
    other.add(99 * KIB)
    assert not other.full
    other.add(1 * KIB)
    assert other.full and not third.full
    evil.add(-400 * KIB)
    assert not other.full and not evil.full


def test_everybody_may_always_have_a_little() -> None:
    load = Load(100 * KIB)
    load.of("evil.example").add(100 * KIB)
    late = load.of("late.example")
    late.add(63 * KIB)
    assert not late.full
    late.add(1 * KIB)
    assert late.full


def test_what_nobody_counts_by_any_more_is_forgotten() -> None:
    load = Load(100 * KIB)
    share = load.of("a.example")
    share.add(90 * KIB)
    load.of("b.example").add(1 * KIB)
    del share
    gc.collect()
    assert load.bytes == 0
    assert load.of("a.example").bytes == 0


def stanza(number: int) -> Stanza:
    sender, to = JID.parse("a@a.example"), JID.parse("b@b.example")
    return Stanza.build(
        "message", "chat", id=str(number), sender=sender, to=to, content=b"<body>%b</body>" % (b"x" * number)
    )


STEPS = st.lists(st.tuples(st.sampled_from("sscwtr"), st.integers(0, 6)), max_size=40)


@given(STEPS)
def test_counters_and_their_share_agree(steps: list[tuple[str, int]]) -> None:
    """Whatever is sent, confirmed, withdrawn, taken back or left over."""
    load = Load(KIB)
    acks = Acks()
    acks.share = share = load.of("b.example")
    for row, (step, number) in enumerate(steps, 1):
        if step == "s":
            acks.count_sent(stanza(number), stanza(number).to_wire(), row)
        elif step == "c":
            acks.confirm(acks.sent - len(acks.pending) + min(number, len(acks.pending)))
        elif step == "w":
            acks.withdraw({each[2] for each in list(acks.pending)[:number]})
        elif step == "t":
            acks.take_back()
        elif number > 4:
            acks.take_rest()
        assert share.bytes == load.bytes == acks.bytes == sum(len(data) for _, data, _ in acks.pending)


@given(STEPS, st.booleans())
def test_pings_and_their_share_agree(steps: list[tuple[str, int]], answers: bool) -> None:
    load = Load(KIB)
    share = load.of("b.example")
    pings = PingAcks(5, 3.0, limit_bytes=600, share=share)
    for row, (step, number) in enumerate(steps, 1):
        if step == "s":
            pings.sent(stanza(number), float(row), row)
        elif step == "c" and answers:
            pings.answered(number)
        elif step == "w":
            pings.withdraw({each[3] for each in list(pings._pending)[:number]})
        elif step == "t":
            pings.lost(float(row))
        elif number > 4:
            pings.closed()
        assert share.bytes == load.bytes == pings._bytes
        assert pings._bytes == sum(len(each.head) + len(each.body) for _, _, each, _ in pings._pending)


def test_pings_are_waited_for_when_it_is_many_bytes() -> None:
    pings = PingAcks(limit_bytes=1_000)
    pings.sent(stanza(600), 1.0, 1)
    pings.answered(1)
    pings.sent(stanza(500), 1.0, 2)
    assert pings.room
    pings.sent(stanza(500), 1.0, 3)
    assert not pings.room
    pings.answered(2)
    assert pings.room


async def takes_nothing(stream: Peer, name: str) -> None:
    """A bidirectional stream on which nothing is confirmed."""
    await stream.header()
    asked = base64.b64encode(name.encode()).decode()
    stream.send("<bidi xmlns='urn:xmpp:bidi'/>")
    stream.send(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{asked}</auth>")
    await stream.hear("<success")
    await stream.header()
    stream.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    await stream.hear("<enabled")


async def test_who_asks_for_much_and_confirms_nothing_fills_no_memory(ca: Authority, names: Directory) -> None:
    """190 streams from one address, each of its own domain, were 2.4 GB of profiles that nobody took."""
    most = 1000 * KIB
    settings = {"s2s": {"queue_bytes_in_all": most}}
    wild = ca.issue("evil.example", "*.evil.example"), ca.issue("a.example")
    async with FederatedServer(
        ca, names, domains=("b.example",), accounts=("juliet@b.example",), settings=settings
    ) as b:
        juliet = await b.client("juliet@b.example/y")
        photo = f"<PHOTO><TYPE>image/png</TYPE><BINVAL>{base64.b64encode(bytes(60_000)).decode()}</BINVAL></PHOTO>"
        juliet.send(f"<iq type='set' id='v'><vCard xmlns='vcard-temp'><FN>J</FN>{photo}</vCard></iq>")
        await juliet.expect("<iq id='v' type='result'/>")
        load = b.federation.load
        for name in ("d1.evil.example", "d2.evil.example", "d3.evil.example"):
            async with peer(b, name, wild[0]) as stream:
                await takes_nothing(stream, name)
                ask = f"<iq type='get' id='1' from='x@{name}/r' to='juliet@b.example'><vCard xmlns='vcard-temp'/></iq>"
                stream.send(ask * 20 + message(f"x@{name}", name))
                await juliet.expect(f"<message id='{name}'/>")
                assert load.bytes <= most // 2 + 100_000
        assert load.bytes > most // 2
        async with peer(b, "a.example", wild[1]) as stream:
            await takes_nothing(stream, "a.example")
            juliet.send("<message to='x@a.example' type='chat' id='1'><body>Hi</body></message>")
            assert "<body>Hi</body>" in await stream.hear("</message>")


async def test_who_is_not_listened_to_is_not_blamed_for_silence(ca: Authority, names: Directory) -> None:
    """What it confirms stands behind what its rate keeps us from reading, some minutes of it in the buffers of the system."""
    settings = {"s2s": {"stanzas_per_second": 1, "stanza_burst": 3}}
    async with (
        FederatedServer(ca, names, domains=("b.example",), accounts=("juliet@b.example",), settings=settings) as b,
        peer(b, "a.example", ca.issue("a.example")) as stream,
    ):
        juliet = await b.client("juliet@b.example/y")
        await takes_nothing(stream, "a.example")
        juliet.send("<message to='x@a.example' type='chat' id='1'><body>Hi</body></message>")
        await stream.hear("<r xmlns='urn:xmpp:sm:3'/>")
        [link] = b.federation.links
        stream.send(message("x@a.example", "2") * 10)
        await until(lambda: link._throttled)
        stream.send("<a xmlns='urn:xmpp:sm:3' h='1'/>")
        link.sweep(b.federation.now() + 61)
        assert link.usable
        link._unthrottle()
        link.sweep(b.federation.now() + 59)
        await until(lambda: link.acks is not None and not link.acks.pending)
        assert link.usable and not link._asked
        juliet.send("<message to='x@a.example' type='chat' id='3'><body>Hi</body></message>")
        await stream.hear("<r xmlns='urn:xmpp:sm:3'/>")
        await until(lambda: not link._throttled)
        link.sweep(b.federation.now() + 61)
        assert not link.usable
