"""The two machines of a server stream joined by byte strings, and each against a peer that misbehaves."""

from random import Random
from typing import Any

import pytest

from beamish.stream.dialback import DialbackSecret
from beamish.stream.names import NameLedger
from beamish.stream.parser import ParserLimits, Unaddressable
from beamish.stream.s2s import Authenticated, S2SSettings, StartTls, StreamClosed, StreamFailed
from beamish.stream.s2s_in import KeyToVerify, Refused, S2SIn
from beamish.stream.s2s_out import Cause, Denied, KeyAnswer, Ready, S2SOut
from beamish.xmpp.errors import Condition, StreamErrorCondition
from beamish.xmpp.stanza import Stanza

LIMITS = ParserLimits(stanza_bytes=10_000)
HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' "
    "xmlns:db='jabber:server:dialback' from='a.example' to='b.example' version='1.0'>"
)
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
EXTERNAL = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>YS5leGFtcGxl</auth>"


def settings(*served: str, **changes: Any) -> S2SSettings:
    count = iter(range(1000))
    values: dict[str, Any] = {
        "serves": lambda domain: domain in served,
        "new_id": lambda: f"id-{served[0]}-{next(count)}",
        "ledger": NameLedger(unauthenticated=0),
        "secret": DialbackSecret(f"the secret of {served[0]}".encode()),
        "limits": LIMITS,
    }
    return S2SSettings(**(values | changes))


def holds(_domain: str) -> str:
    return ""


def admitted(_domain: str) -> str:
    return ""


class Pair:
    """a.example opens a stream to b.example; both sides' events are collected."""

    def __init__(
        self, *, certificate: bool = True, crumbs: Random | None = None, trusted: bool = True, **theirs: Any
    ) -> None:
        self.a_settings, self.b_settings = settings("a.example"), settings("b.example", "c.example", **theirs)
        self.out = S2SOut(self.a_settings, "a.example", "b.example")
        self.into = S2SIn(self.b_settings, admitted)
        self.certificate = certificate
        self.crumbs = crumbs
        self.trusted = trusted
        self.out_events: list[Any] = []
        self.in_events: list[Any] = []
        self.wire = b""

    def pieces(self, data: bytes) -> list[bytes]:
        if self.crumbs is None:
            return [data]
        cuts = sorted(self.crumbs.randrange(len(data) + 1) for _ in range(self.crumbs.randrange(8)))
        return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def run(self) -> None:
        """Carry bytes until both are silent; TLS and dialback are done as the network layer does them."""
        while True:
            to_b, to_a = self.out.data_to_send(), self.into.data_to_send()
            if not to_b and not to_a:
                return
            self.wire += to_b + to_a
            for piece in self.pieces(to_b):
                for event in self.into.receive(piece):
                    self.in_events.append(event)
                    if isinstance(event, KeyToVerify):
                        ok = self.a_settings.secret.proves(event.key, event.local, event.remote, event.stream_id)
                        self.in_events += self.into.verified(event.local, event.remote, ok=ok)
            for piece in self.pieces(to_a):
                for event in self.out.receive(piece):
                    self.out_events.append(event)
                    if isinstance(event, StartTls):
                        self.into.established(holds if self.certificate else lambda domain: "expired")
                        self.out.established(trusted=self.trusted)

    def open(self) -> None:
        self.out.start()
        self.run()


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


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


def into(*, certificate: bool = False, secure: bool = True, admits: Any = admitted, **changes: Any) -> S2SIn:
    """A receiving machine that has got a header."""
    made = S2SIn(
        settings("b.example", **changes), admits, secure=secure, certifies=holds if certificate else lambda d: "no"
    )
    made.receive(HEADER.encode())
    made.data_to_send()
    return made


@pytest.mark.parametrize("ok", [True, False, None])
def test_answers_of_the_authoritative_server(ok: bool | None) -> None:
    machine = into()
    [asked] = machine.receive(b"<db:result from='a.example' to='b.example'>abc</db:result>")
    assert asked == KeyToVerify("b.example", "a.example", machine.stream_id, "abc")
    failure = Condition.REMOTE_SERVER_TIMEOUT if ok is None else None
    [event] = machine.verified("b.example", "a.example", ok=bool(ok), failure=failure)
    if ok:
        assert event == Authenticated("b.example", "a.example", "dialback")
        return
    assert isinstance(event, Refused)
    kind = b"type='invalid'" if ok is False else b"type='error'"
    assert kind in machine.data_to_send()
    [failed] = machine.receive(b"<message from='x@a.example' to='z@b.example'/>")
    assert isinstance(failed, StreamFailed)
    assert failed.error.condition is StreamErrorCondition.NOT_AUTHORIZED


def test_a_claim_for_a_domain_that_policy_refuses() -> None:
    machine = S2SIn(settings("b.example"), lambda d: "no spam" if d == "spam.example" else "", secure=True)
    machine.receive(HEADER.encode())
    machine.data_to_send()
    [event] = machine.receive(b"<db:result from='spam.example' to='b.example'>abc</db:result>")
    assert event == Refused("spam.example", "dialback", "no spam")
    assert b"policy-violation" in machine.data_to_send()


def test_external_for_another_domain_than_the_header_says() -> None:
    machine = into(certificate=True)
    [event] = machine.receive(EXTERNAL.replace("YS5leGFtcGxl", "Yi5leGFtcGxl").encode())
    assert event == Refused("a.example", "external", "the identity is not the stream's 'from'")
    assert b"<invalid-authzid/>" in machine.data_to_send()


def test_external_without_a_certificate_that_holds() -> None:
    machine = into()
    [event] = machine.receive(EXTERNAL.encode())
    assert event == Refused("a.example", "external", "no")
    assert not machine.pairs


def test_the_restarted_stream_must_keep_its_name() -> None:
    machine = into(certificate=True)
    machine.receive(EXTERNAL.encode())
    events = machine.receive(HEADER.replace("from='a.example'", "from='evil.example'").encode())
    assert [event.error.condition for event in events] == [StreamErrorCondition.INVALID_FROM]  # type: ignore[attr-defined]


@pytest.mark.parametrize("early", [EXTERNAL, "<db:result from='a.example' to='b.example'>abc</db:result>"])
def test_nothing_is_authenticated_before_tls(early: str) -> None:
    machine = into(secure=False, certificate=True)
    [failed] = machine.receive(early.encode())
    assert isinstance(failed, StreamFailed)
    assert failed.error.condition is StreamErrorCondition.POLICY_VIOLATION


@pytest.mark.parametrize("name", ["enable", "resume"])
def test_stream_management_before_authentication_fails_without_ending_the_stream(name: str) -> None:
    """XEP-0198 §3, of dialback as well."""
    machine = into()
    assert machine.receive(f"<{name} xmlns='urn:xmpp:sm:3'/>".encode()) == []
    sent = machine.data_to_send()
    assert sent == (
        b"<failed xmlns='urn:xmpp:sm:3'><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
    )
    [asked] = machine.receive(b"<db:result from='a.example' to='b.example'>abc</db:result>")
    assert isinstance(asked, KeyToVerify)
    for off in (into(secure=False), into(resumption=False)):
        [failed] = off.receive(f"<{name} xmlns='urn:xmpp:sm:3'/>".encode())
        assert isinstance(failed, StreamFailed)


def test_what_follows_starttls_in_the_clear_is_refused() -> None:
    machine = into(secure=False)
    [failed] = machine.receive((STARTTLS + HEADER).encode())
    assert isinstance(failed, StreamFailed)
    assert failed.error.condition is StreamErrorCondition.POLICY_VIOLATION
    answering = S2SOut(settings("a.example"), "a.example", "b.example")
    answering.start()
    answering.receive(server_header("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"))
    [failed] = answering.receive(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><x/>")
    assert isinstance(failed, StreamFailed)


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


def test_data_without_end_before_authentication() -> None:
    machine = into(unauthenticated_bytes=20_000)
    events: list[Any] = []
    for _ in range(1_000):
        events += machine.receive(b"<db:verify from='a.example' to='b.example' id='1'>k</db:verify>")
    assert [type(event) for event in events] == [StreamFailed]
    assert events[0].error.condition is StreamErrorCondition.POLICY_VIOLATION


FEATURES = (
    "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
    "<c xmlns='urn:example:new' brandnew='1'/></stream:features>"
)


@pytest.mark.parametrize("before", [HEADER, HEADER.replace("xmlns:db", "xmlns:new='urn:example:new' xmlns:db")])
def test_names_of_strangers_cost_nothing(before: str) -> None:
    """What they name in the clear is kept by nobody, so nobody can use up what honest servers need to be understood."""
    shared = settings("b.example", ledger=NameLedger(unauthenticated=5))
    known = set(shared.ledger.known), set(shared.ledger.spaces)
    for round_ in range(20):
        machine = S2SIn(shared, admitted)
        names = "".join(f"<e{round_}-{n} a{n}='1' xmlns='urn:{n}'/>" for n in range(50))
        [_, failed] = machine.receive(f"{before}<x>{names}</x>".encode())
        assert failed.error.condition is StreamErrorCondition.POLICY_VIOLATION
    assert (shared.ledger.known, shared.ledger.spaces) == known
    ours = S2SOut(shared, "b.example", "a.example")
    ours.start()
    assert ours.receive((before.replace("from=", "id='1' from=") + FEATURES).encode()) == []
    assert b"<starttls" in ours.data_to_send()


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


def test_domains_of_one_stream_are_bounded() -> None:
    machine = into(pairs_per_stream=3)
    events: list[Any] = []
    for n in range(5):
        events += machine.receive(f"<db:result from='a{n}.example' to='b.example'>k</db:result>".encode())
    assert kinds(events) == ["KeyToVerify"] * 3 + ["Refused"] * 2


# ---- the initiating side --------------------------------------------------------------------------------------------


def server_header(features: str, version: str = " version='1.0'") -> bytes:
    return (
        "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' "
        f"xmlns:db='jabber:server:dialback' from='b.example' to='a.example' id='s1'{version}>"
        f"<stream:features>{features}</stream:features>"
    ).encode()


def secured(features: str, **changes: Any) -> tuple[S2SOut, list[Any]]:
    machine = S2SOut(settings("a.example", **changes), "a.example", "b.example", secure=True)
    machine.start(trusted=True)
    machine.data_to_send()
    return machine, machine.receive(server_header(features))


def test_a_server_without_tls() -> None:
    machine = S2SOut(settings("a.example"), "a.example", "b.example")
    machine.start()
    [denied] = machine.receive(server_header(""))
    assert isinstance(denied, Denied)
    assert denied.why.cause is Cause.TLS


def test_external_that_is_refused_falls_back_to_dialback() -> None:
    machine, _ = secured(
        "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>"
    )
    assert b"mechanism='EXTERNAL'>YS5leGFtcGxl<" in machine.data_to_send()
    machine.receive(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")
    key = settings("a.example").secret.key("b.example", "a.example", "s1")
    assert machine.data_to_send() == f"<db:result from='a.example' to='b.example'>{key}</db:result>".encode()
    [ready] = machine.receive(b"<db:result from='b.example' to='a.example' type='valid'/>")
    assert ready == Ready("dialback", False, False)


def test_stream_management_is_known_after_external_was_refused() -> None:
    """What was offered together with EXTERNAL still holds when dialback takes its place."""
    machine, _ = secured(
        "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>"
        "<sm xmlns='urn:xmpp:sm:3'/>"
    )
    machine.receive(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")
    answer = b"<db:result from='b.example' to='a.example' type='valid'/>"
    assert machine.receive(answer) == [Ready("dialback", False, True)]


def test_external_that_is_refused_where_dialback_is_off() -> None:
    machine, _ = secured(
        "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>",
        dialback=False,
    )
    [denied] = machine.receive(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")
    assert isinstance(denied, Denied)
    assert (denied.why.cause, denied.why.text) == (Cause.AUTHENTICATION, "EXTERNAL failed with not-authorized")


@pytest.mark.parametrize("sender", ["evil.example", "sub.b.example"])
def test_somebody_elses_answer_does_not_count(sender: str) -> None:
    machine, _ = secured("<dialback xmlns='urn:xmpp:features:dialback'/>")
    [failed] = machine.receive(f"<db:result from='{sender}' to='a.example' type='valid'/>".encode())
    assert isinstance(failed, StreamFailed)


def test_stanzas_on_a_stream_that_is_not_bidirectional() -> None:
    machine, _ = secured("<dialback xmlns='urn:xmpp:features:dialback'/>")
    machine.receive(b"<db:result from='b.example' to='a.example' type='valid'/>")
    [failed] = machine.receive(b"<message from='x@b.example' to='y@a.example'/>")
    assert isinstance(failed, StreamFailed)
    assert failed.error.condition is StreamErrorCondition.INVALID_FROM


def test_the_peers_stream_error_is_read() -> None:
    machine, _ = secured("<dialback xmlns='urn:xmpp:features:dialback'/>")
    [failed] = machine.receive(
        b"<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"
        b"<text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>Moved</text></stream:error></stream:stream>"
    )
    assert isinstance(failed, StreamFailed)
    assert (failed.by_peer, failed.error.condition, failed.error.text) == (
        True,
        StreamErrorCondition.HOST_UNKNOWN,
        "Moved",
    )


@pytest.mark.parametrize(("type_", "ok"), [("valid", True), ("invalid", False)])
def test_a_question_about_a_key(type_: str, ok: bool) -> None:
    machine = S2SOut(settings("b.example"), "b.example", "a.example", question=("id1", "key"), secure=True)
    machine.start(trusted=True)
    machine.receive(server_header("").replace(b"from='b.example' to='a.example'", b"from='a.example' to='b.example'"))
    assert b"<db:verify from='b.example' to='a.example' id='id1'>key</db:verify>" in machine.data_to_send()
    [answer] = machine.receive(f"<db:verify from='a.example' to='b.example' id='id1' type='{type_}'/>".encode())
    assert answer == KeyAnswer(ok, "")


def test_our_keys_are_recognised_and_others_are_not() -> None:
    machine = into()
    key = machine._settings.secret.key("a.example", "b.example", "x1")
    for given, kind in ((key, "valid"), ("0" * 64, "invalid")):
        machine.receive(f"<db:verify from='a.example' to='b.example' id='x1'>{given}</db:verify>".encode())
        assert f"type='{kind}'" in machine.data_to_send().decode()


def test_an_orderly_end() -> None:
    pair = Pair()
    pair.open()
    pair.out.close()
    pair.run()
    assert isinstance(pair.in_events[-1], StreamClosed)
    assert isinstance(pair.out_events[-1], StreamClosed)


@pytest.mark.parametrize("how", ["denied", "not found out", "not served", "refused"])
def test_domains_claimed_in_vain_are_bounded(how: str) -> None:
    """Each claim costs a look-up and a connection, and may be made in anybody's name."""
    admits = (lambda domain: "no" if domain != "a.example" else "") if how == "refused" else admitted
    machine = into(failed_claims=3, admits=admits)
    to = "elsewhere.example" if how == "not served" else "b.example"
    events: list[Any] = []
    for n in range(5):
        for event in machine.receive(f"<db:result from='a{n}.example' to='{to}'>k</db:result>".encode()):
            events.append(event)
            if isinstance(event, KeyToVerify):
                failure = Condition.REMOTE_SERVER_TIMEOUT if how == "not found out" else None
                events += machine.verified(event.local, event.remote, ok=False, failure=failure)
    assert kinds([event for event in events if not isinstance(event, KeyToVerify)]) == ["Refused"] * 3 + [
        "StreamFailed"
    ]
    assert events[-1].error.condition is StreamErrorCondition.POLICY_VIOLATION


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


@pytest.mark.parametrize("text", ["", "-5", "x", "9" * 40, "<a/>"])
def test_limits_that_are_none(text: str) -> None:
    machine, _ = secured(f"<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>{text}</max-bytes></limits>")
    assert machine.peer_bytes == 0


@pytest.mark.parametrize(
    ("condition", "lasting"),
    [
        ("remote-server-timeout", False),
        ("remote-connection-failed", False),
        ("policy-violation", True),
        ("forbidden", True),
    ],
)
def test_a_peer_that_could_not_find_out_is_asked_again(condition: str, lasting: bool) -> None:
    machine, _ = secured("<dialback xmlns='urn:xmpp:features:dialback'/>")
    [denied] = machine.receive(
        "<db:result from='b.example' to='a.example' type='error'><error type='cancel'>"
        f"<{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>".encode()
    )
    assert isinstance(denied, Denied)
    assert denied.why.lasting is lasting
    assert denied.why.text == f"dialback: error ({condition})"
