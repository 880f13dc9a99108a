"""The receiving machine of a server stream, against a peer that misbehaves or has its own ways."""

from typing import Any

import pytest
from tests.stream.s2s_driver import EXTERNAL, HEADER, STARTTLS, admitted, holds, kinds, server_header, settings

from beamish.stream.names import NameLedger
from beamish.stream.s2s import Authenticated, StreamFailed
from beamish.stream.s2s_in import KeyToVerify, Refused, S2SIn
from beamish.stream.s2s_out import S2SOut
from beamish.xmpp.errors import Condition, StreamErrorCondition


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


def test_domains_of_one_stream_are_bounded() -> None:
    machine = into(pairs_per_stream=3)
    events: list[Any] = []
    for n in range(5):
        events += machine.receive(f"<db:result from='a{n}.example' to='b.example'>k</db:result>".encode())
    assert kinds(events) == ["KeyToVerify"] * 3 + ["Refused"] * 2


def test_our_keys_are_recognised_and_others_are_not() -> None:
    machine = into()
    key = machine._settings.secret.key("a.example", "b.example", "x1")
    for given, kind in ((key, "valid"), ("0" * 64, "invalid")):
        machine.receive(f"<db:verify from='a.example' to='b.example' id='x1'>{given}</db:verify>".encode())
        assert f"type='{kind}'" in machine.data_to_send().decode()


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
