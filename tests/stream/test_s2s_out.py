"""The initiating machine of a server stream, against a peer that misbehaves or has its own ways."""

from typing import Any

import pytest
from tests.stream.s2s_driver import server_header, settings

from beamish.stream.s2s import StreamFailed
from beamish.stream.s2s_out import Cause, Denied, KeyAnswer, Ready, S2SOut
from beamish.xmpp.errors import StreamErrorCondition


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
