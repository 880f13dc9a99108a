"""The two machines of a server stream joined by byte strings."""

from random import Random

import pytest
from tests.stream.s2s_driver import HEADER, Pair, admitted, kinds, settings

from beamish.stream.names import NameLedger
from beamish.stream.parser import ParserLimits, Unaddressable
from beamish.stream.s2s import Authenticated, StreamClosed, StreamFailed
from beamish.stream.s2s_in import KeyToVerify, Refused, S2SIn
from beamish.stream.s2s_out import Ready
from beamish.xmpp.errors import StreamErrorCondition
from beamish.xmpp.stanza import Stanza


def test_external() -> None:
    pair = Pair()
    pair.open()
    assert pair.out_events[-1] == Ready("external", True, True)
    assert pair.in_events[-1] == Authenticated("b.example", "a.example", "external")
    assert pair.into.bidi


def test_dialback_where_the_certificate_does_not_hold() -> None:
    pair = Pair(certificate=False)
    pair.open()
    assert pair.out_events[-1] == Ready("dialback", True, True)
    assert kinds(pair.in_events) == ["StreamOpened", "StartTls", "StreamOpened", "KeyToVerify", "Authenticated"]
    assert b"EXTERNAL" not in pair.wire


def test_a_certificate_that_holds_needs_no_call_back() -> None:
    pair = Pair(external=False)
    pair.open()
    assert pair.out_events[-1] == Ready("dialback", True, True)
    assert not any(isinstance(event, KeyToVerify) for event in pair.in_events)


def test_no_bidi_when_the_server_could_be_anybody() -> None:
    pair = Pair(trusted=False)
    pair.open()
    assert pair.out_events[-1] == Ready("external", False, True)
    assert not pair.into.bidi


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("certificate", [True, False])
def test_chunking_does_not_matter(seed: int, certificate: bool) -> None:
    pair = Pair(certificate=certificate, crumbs=Random(seed))
    pair.open()
    pair.out.send(b"<message from='x@a.example/y' to='z@b.example' type='chat'><body>Hi</body></message>" * 3)
    pair.run()
    stanzas = [event for event in pair.in_events if isinstance(event, Stanza)]
    assert [stanza.body for stanza in stanzas] == [b"><body>Hi</body></message>"] * 3
    assert {stanza.el.tag for stanza in stanzas} == {"{jabber:client}message"}


def test_stanzas_come_out_in_the_client_namespace_however_they_name_theirs() -> None:
    pair = Pair()
    pair.open()
    inner = b"<body>Hi</body><x xmlns='urn:x'><y xmlns='jabber:client'/></x>"
    head = b"from='x@a.example/y' to='z@b.example'"
    for start in (b"<message ", b"<message xmlns='jabber:server' "):
        [stanza] = pair.into.receive(start + head + b">" + inner + b"</message>")
        assert isinstance(stanza, Stanza)
        assert stanza.text("{jabber:client}body") == "Hi"
        assert b"jabber:server" not in stanza.to_wire()


def test_the_dialback_prefix_of_the_header_stays_out_of_stanzas() -> None:
    pair = Pair()
    pair.open()
    [stanza] = pair.into.receive(b"<message from='x@a.example/y' to='z@b.example'><body>Hi</body></message>")
    assert isinstance(stanza, Stanza)
    assert stanza.to_wire() == b"<message from='x@a.example/y' to='z@b.example'><body>Hi</body></message>"


@pytest.mark.parametrize(
    ("addresses", "condition"),
    [
        ("from='x@evil.example' to='z@b.example'", StreamErrorCondition.INVALID_FROM),
        ("from='x@b.example' to='z@b.example'", StreamErrorCondition.INVALID_FROM),
        ("from='x@sub.a.example' to='z@b.example'", StreamErrorCondition.INVALID_FROM),
        ("from='x@a.example' to='z@c.example'", StreamErrorCondition.HOST_UNKNOWN),
        ("from='x@a.example' to='z@elsewhere.example'", StreamErrorCondition.HOST_UNKNOWN),
        ("from='x@a.example'", StreamErrorCondition.IMPROPER_ADDRESSING),
        ("to='z@b.example'", StreamErrorCondition.IMPROPER_ADDRESSING),
        ("from='@' to='z@b.example'", StreamErrorCondition.INVALID_FROM),
    ],
)
@pytest.mark.parametrize("namespace", ["", " xmlns='jabber:server'"])
def test_every_address_is_checked(addresses: str, condition: StreamErrorCondition, namespace: str) -> None:
    pair = Pair()
    pair.open()
    good = b"<message from='x@a.example' to='z@b.example'/>"
    events = pair.into.receive(good + f"<message{namespace} {addresses}/>".encode() + good)
    assert kinds(events) == ["Stanza", "StreamFailed"]
    assert events[1].error.condition is condition  # type: ignore[attr-defined]


@pytest.mark.parametrize("namespace", ["", " xmlns='jabber:server'"])
@pytest.mark.parametrize("address", ["room@a.example/ Bob", "room@a.example/\u0378", "a b@a.example", "a.example/"])
def test_a_sender_that_is_no_address_costs_its_stanza_only(address: str, namespace: str) -> None:
    """One occupant of a room whose nickname only its own server bears must not part two servers."""
    pair = Pair()
    pair.open()
    good = f"<message{namespace} from='x@a.example/y' to='z@b.example'/>"
    bad = f"<message{namespace} type='groupchat' from='{address}' to='z@b.example'><body>Hi</body></message>"
    [first, dropped, second] = pair.into.receive((good + bad + good).encode())
    assert isinstance(first, Stanza) and isinstance(second, Stanza)
    assert isinstance(dropped, Unaddressable) and dropped.reply is None


@pytest.mark.parametrize("namespace", ["", " xmlns='jabber:server'"])
@pytest.mark.parametrize("address", ["room@evil.example/ Bob", "a b@sub.a.example", "x@/y", "-a.example", ""])
def test_a_sender_that_is_no_address_of_the_peers_ends_the_stream(address: str, namespace: str) -> None:
    pair = Pair()
    pair.open()
    bad = f"<message{namespace} from='{address}' to='z@b.example'><body>Hi</body></message>"
    [failed] = pair.into.receive(bad.encode())
    assert isinstance(failed, StreamFailed)
    assert failed.error.condition is StreamErrorCondition.INVALID_FROM


@pytest.mark.parametrize("namespace", ["", " xmlns='jabber:server'"])
def test_a_stanza_to_nowhere_is_answered(namespace: str) -> None:
    """By our domain, because the malformed address cannot be a `from` (RFC 6120 §8.3.1)."""
    pair = Pair()
    pair.open()
    answered, silent = pair.into.receive(
        f"<message{namespace} from='x@a.example/r' to='@' id='1'/>"
        f"<message{namespace} from='x@a.example/r' to='@' type='error'/>".encode()
    )
    assert isinstance(answered, Unaddressable) and answered.reply is not None
    assert (answered.reply.sender, answered.reply.to) == ("b.example", "x@a.example/r")
    assert b"jid-malformed" in answered.reply.to_wire()
    assert isinstance(silent, Unaddressable) and silent.reply is None


@pytest.mark.parametrize(("to", "sender"), [("room@b.example", "room@b.example"), ("room@c.example", "b.example")])
def test_a_stanza_to_a_resource_that_cannot_be_is_answered_by_whoever_has_it(to: str, sender: str) -> None:
    """By the bare address, if that is ours on this stream."""
    pair = Pair()
    pair.open()
    (answered,) = pair.into.receive(f"<presence from='x@a.example/r' to='{to}/a\u200db' id='1'/>".encode())
    assert isinstance(answered, Unaddressable) and answered.reply is not None
    assert (answered.reply.sender, answered.reply.to) == (sender, "x@a.example/r")


@pytest.mark.parametrize(
    ("sender", "condition"),
    [
        (" from='x@elsewhere.example'", StreamErrorCondition.INVALID_FROM),
        ("", StreamErrorCondition.IMPROPER_ADDRESSING),
    ],
)
def test_a_forged_stanza_to_nowhere_is_not_answered(sender: str, condition: StreamErrorCondition) -> None:
    pair = Pair()
    pair.open()
    [failed] = pair.into.receive(f"<message{sender} to='@'/>".encode())
    assert failed.error.condition is condition  # type: ignore[attr-defined]


def test_more_domains_on_one_stream() -> None:
    pair = Pair()
    pair.open()
    pair.into.receive(b"<db:result from='sub.a.example' to='c.example'>key</db:result>")
    assert ("c.example", "sub.a.example") in pair.into.pairs
    assert b"<db:result from='c.example' to='sub.a.example' type='valid'/>" in pair.into.data_to_send()
    [stanza] = pair.into.receive(b"<message from='x@sub.a.example' to='z@c.example'/>")
    assert isinstance(stanza, Stanza)


def test_a_claim_for_a_domain_that_policy_refuses() -> None:
    machine = S2SIn(settings("b.example"), lambda d: "no spam" if d == "spam.example" else "", secure=True)
    machine.receive(HEADER.encode())
    machine.data_to_send()
    [event] = machine.receive(b"<db:result from='spam.example' to='b.example'>abc</db:result>")
    assert event == Refused("spam.example", "dialback", "no spam")
    assert b"policy-violation" in machine.data_to_send()


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        (("to='b.example'", "to='unknown.example'"), StreamErrorCondition.HOST_UNKNOWN),
        (("to='b.example'", ""), StreamErrorCondition.IMPROPER_ADDRESSING),
        ((" version='1.0'>", ">"), StreamErrorCondition.UNSUPPORTED_VERSION),
        (("'1.0'>", f"'{'0' * 5_000}.9'>"), StreamErrorCondition.UNSUPPORTED_VERSION),
        (("from='a.example'", "from='me@a.example'"), StreamErrorCondition.INVALID_FROM),
        (("xmlns='jabber:server'", "xmlns='jabber:client'"), StreamErrorCondition.INVALID_NAMESPACE),
    ],
)
def test_headers(change: tuple[str, str], condition: StreamErrorCondition) -> None:
    machine = S2SIn(settings("b.example"), admitted)
    [failed] = machine.receive(HEADER.replace(*change).encode())
    assert isinstance(failed, StreamFailed)
    assert failed.error.condition is condition
    sent = machine.data_to_send()
    assert sent.startswith(b"<?xml version='1.0'?><stream:stream ") and sent.endswith(b"</stream:stream>")


@pytest.mark.parametrize("cut", [1, 12, 50, 60])
def test_what_is_begun_when_a_key_has_proved_right_is_not_lost(cut: int) -> None:
    """The rest of an element that had begun comes after the answer about the first domain; prefixes of the header stay."""
    shared = settings("b.example", ledger=NameLedger(unauthenticated=0))
    machine = S2SIn(shared, admitted, secure=True)
    header = HEADER.replace("xmlns:db", "xmlns:n='urn:example:new' xmlns:db")
    machine.receive(f"{header}<db:result from='a.example' to='b.example'>key</db:result>".encode())
    more = "<db:result from='c.example' to='b.example'>another key</db:result>"
    machine.receive(more[:cut].encode())
    assert machine.verified("b.example", "a.example", ok=True) == [Authenticated("b.example", "a.example", "dialback")]
    message = "<message from='x@a.example' to='y@b.example'><n:thing/></message>"
    [asked, stanza] = machine.receive(f"{more[cut:]}{message}</stream:stream>".encode())[:2]
    assert (type(asked), asked.remote) == (KeyToVerify, "c.example")
    assert stanza.el[0].tag == "{urn:example:new}thing"


def test_a_header_whose_names_are_too_many_is_refused_when_it_counts() -> None:
    """Who has authenticated answers for the names in the header."""
    machine = S2SIn(settings("b.example", ledger=NameLedger(per_account=3)), admitted, secure=True)
    header = HEADER.replace("xmlns:db", "xmlns:n='urn:1' xmlns:m='urn:2' xmlns:db")
    machine.receive(f"{header}<db:result from='a.example' to='b.example'>key</db:result>".encode())
    [failed] = machine.verified("b.example", "a.example", ok=True)
    assert isinstance(failed, StreamFailed)
    assert failed.error.condition is StreamErrorCondition.POLICY_VIOLATION


def test_an_orderly_end() -> None:
    pair = Pair()
    pair.open()
    pair.out.close()
    pair.run()
    assert isinstance(pair.in_events[-1], StreamClosed)
    assert isinstance(pair.out_events[-1], StreamClosed)


def test_claims_that_hold_are_not_counted() -> None:
    pair = Pair(failed_claims=2)
    pair.open()
    for n in range(10):
        events = pair.into.receive(f"<db:result from='s{n}.a.example' to='b.example'>k</db:result>".encode())
        assert kinds(events) == ["Authenticated"]


def test_both_sides_say_what_they_bear() -> None:
    """XEP-0478 §3.1 in the features, §3.2 in the request for both directions."""
    pair = Pair(limits=ParserLimits(stanza_bytes=40_000), idle_seconds=1200)
    pair.open()
    assert (pair.out.peer_bytes, pair.out.peer_idle) == (40_000, 1200)
    assert (pair.into.peer_bytes, pair.into.peer_idle) == (10_000, 0)


def test_nothing_is_said_before_tls() -> None:
    machine = S2SIn(settings("b.example"), admitted)
    machine.receive(HEADER.encode())
    assert b"urn:xmpp:stream-limits:0" not in machine.data_to_send()
