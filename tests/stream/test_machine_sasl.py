"""Authentication on a client stream (RFC 6120 §6), as tables."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Any

import pytest
from tests.stream.driver import (
    BIND,
    HEADER,
    RESPONSE,
    SASL,
    Driver,
    b64,
    driver,
    plain,
    settings,
)

from beamish.stream.machine import (
    Authenticated,
    AuthFailed,
    C2SMachine,
    State,
)
from beamish.stream.sasl import FailureCondition

# ---- SASL -------------------------------------------------------------------------------------------------------------


def failure(got: Driver) -> str:
    """The condition of the last SASL failure."""
    found = re.findall(rb"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><([a-z-]+)/>", got.out)
    return found[-1].decode() if found else ""


def auth(mechanism: str, payload: bytes | None = None) -> str:
    return f"<auth xmlns='{SASL}' mechanism='{mechanism}'>{'' if payload is None else b64(payload)}</auth>"


@pytest.mark.parametrize(
    ("changes", "sent", "condition"),
    [
        ({}, plain(password="wrong"), "not-authorized"),
        ({}, plain(user="nobody"), "not-authorized"),
        ({}, plain(user="a b"), "not-authorized"),
        ({}, plain(authzid="juliet@example.org"), "invalid-authzid"),
        ({}, plain(authzid="@"), "invalid-authzid"),
        ({}, plain(authzid="romeo@example.org/x"), "invalid-authzid"),
        ({}, f"<auth xmlns='{SASL}' mechanism='PLAIN'>no base 64!</auth>", "incorrect-encoding"),
        ({}, f"<auth xmlns='{SASL}' mechanism='PLAIN'>A</auth>", "incorrect-encoding"),
        ({}, auth("PLAIN", b"nothing"), "malformed-request"),
        ({}, f"<auth xmlns='{SASL}' mechanism='PLAIN'>=</auth>", "malformed-request"),
        ({}, auth("SCRAM-SHA-1", b"rubbish"), "malformed-request"),
        ({}, auth("X-UNKNOWN", b"x"), "invalid-mechanism"),
        ({}, f"<auth xmlns='{SASL}'/>", "invalid-mechanism"),
        ({}, auth("ANONYMOUS"), "invalid-mechanism"),
        ({}, auth("SCRAM-SHA-1-PLUS", b"p=tls-server-end-point,,n=romeo,r=x"), "invalid-mechanism"),
        ({"require_tls": True}, plain(), "encryption-required"),
        ({"require_tls": True}, auth("SCRAM-SHA-1", b"n,,n=romeo,r=x"), "encryption-required"),
        ({}, auth("PLAIN") + f"<abort xmlns='{SASL}'/>", "aborted"),
        ({}, auth("SCRAM-SHA-1", b"n,,n=romeo,r=x") + f"<abort xmlns='{SASL}'/>", "aborted"),
        ({"mechanisms": frozenset(("SCRAM-SHA-1",))}, plain(), "mechanism-too-weak"),
        ({"mechanisms": frozenset(("SCRAM-SHA-256",))}, auth("SCRAM-SHA-1", b"n,,n=romeo,r=x"), "mechanism-too-weak"),
        ({"mechanisms": frozenset(("SCRAM-SHA-1",))}, auth("SCRAM-SHA-256", b"n,,n=romeo,r=x"), "invalid-mechanism"),
    ],
)
def test_every_failure_has_its_condition_and_can_be_mended(changes: dict[str, Any], sent: str, condition: str) -> None:
    got = driver(**changes).feed(HEADER, sent)
    assert failure(got) == condition
    assert isinstance(got.events[-1], AuthFailed)
    assert got.events[-1].condition == condition
    assert got.error == ""
    if not changes:
        got.feed(plain(), HEADER, BIND)
        assert got.machine.state is State.BOUND


def test_a_failure_says_whom_it_was_for() -> None:
    got = driver().feed(HEADER, plain(user="ROMEO", password="wrong"))
    assert isinstance(got.events[-1], AuthFailed)
    assert got.events[-1].jid == "romeo@example.org", "a throttle must not be fooled by the case"


@pytest.mark.parametrize("condition", [FailureCondition.TEMPORARY_AUTH_FAILURE, FailureCondition.ACCOUNT_DISABLED])
def test_the_caller_may_refuse(condition: FailureCondition) -> None:
    machine = C2SMachine(settings())
    machine.receive((HEADER + plain()).encode())
    [failed] = machine.auth_refused(condition, "later & <more>")
    assert isinstance(failed, AuthFailed)
    out = machine.data_to_send()
    assert f"<{condition.value}/><text xml:lang='en'>later &amp; &lt;more&gt;</text>".encode() in out


def test_a_bounded_number_of_attempts() -> None:
    got = driver(sasl_attempts=3).feed(HEADER)
    for _ in range(2):
        got.feed(plain(password="wrong"))
        assert got.error == ""
    got.feed(plain(password="wrong"))
    assert got.error == "policy-violation"
    assert failure(got) == "not-authorized"


def test_a_new_auth_takes_the_place_of_one_under_way() -> None:
    """RFC 6120 §6.4.2."""
    got = driver().feed(HEADER, auth("SCRAM-SHA-1", b"n,,n=romeo,r=x"), plain())
    assert isinstance(got.events[-1], Authenticated)
    got = driver().feed(HEADER, auth("PLAIN"), auth("X"))
    assert failure(got) == "invalid-mechanism"


def test_an_empty_challenge_asks_for_the_initial_response() -> None:
    got = driver().feed(HEADER, auth("PLAIN"))
    assert got.out.endswith(f"<challenge xmlns='{SASL}'></challenge>".encode()) or got.out.endswith(
        f"<challenge xmlns='{SASL}'>=</challenge>".encode()
    )
    got.feed(f"<response xmlns='{SASL}'>{b64(RESPONSE)}</response>")
    assert isinstance(got.events[-1], Authenticated)


ABORT = f"<abort xmlns='{SASL}'/>"


def test_what_has_failed_may_be_aborted() -> None:
    """RFC 6120 §6.4.4. Gajim does so whenever a password is wrong, and it is not another attempt."""
    got = driver(sasl_attempts=3).feed(HEADER)
    for _ in range(2):
        got.feed(plain(password="wrong"))
        assert failure(got) == "not-authorized"
        before = len(got.events)
        got.feed(ABORT)
        assert (failure(got), got.error, got.events[before:]) == ("aborted", "", [])
    got.feed(plain(), HEADER, BIND)
    assert got.machine.state is State.BOUND


def test_aborts_of_nothing_are_counted() -> None:
    got = driver(sasl_attempts=3).feed(HEADER, ABORT, ABORT)
    assert (failure(got), got.error) == ("aborted", "")
    assert got.feed(ABORT).error == "policy-violation"
    got = driver(sasl_attempts=3).feed(HEADER, plain(password="wrong"), ABORT, ABORT)
    assert got.error == ""
    assert got.feed(ABORT).error == "policy-violation"
    assert got.out.count(b"<aborted/>") == 3


def test_nothing_is_aborted_after_success() -> None:
    assert driver().feed(HEADER, plain(), HEADER, ABORT).error == "not-authorized"


@pytest.mark.parametrize("sent", [f"<response xmlns='{SASL}'/>", f"<success xmlns='{SASL}'/>"])
def test_an_answer_to_nothing_is_not_authorized(sent: str) -> None:
    assert driver().feed(HEADER, sent).error == "not-authorized"


def scram(got: Driver, algorithm: str, gs2: bytes = b"n,,", binding: bytes = b"", plus: str = "") -> bytes:
    """Log in with SCRAM, as the client; returns the additional data of the success."""
    hash_ = "sha" + algorithm.removeprefix("SHA-")
    bare = b"n=romeo,r=abcdef"
    got.feed(auth(f"SCRAM-{algorithm}{plus}", gs2 + bare))
    [challenge] = re.findall(rb"<challenge [^>]*>([^<]+)<", got.out)
    first = base64.b64decode(challenge)
    fields = dict(part.split(b"=", 1) for part in first.split(b","))
    salted = hashlib.pbkdf2_hmac(hash_, b"secret", base64.b64decode(fields[b"s"]), int(fields[b"i"]))
    client = hmac.digest(salted, b"Client Key", hash_)
    final = b"c=" + base64.b64encode(gs2 + binding) + b",r=" + fields[b"r"]
    message = b",".join((bare, first, final))
    proof = bytes(
        a ^ b for a, b in zip(client, hmac.digest(hashlib.new(hash_, client).digest(), message, hash_), strict=True)
    )
    got.feed(f"<response xmlns='{SASL}'>{b64(final + b',p=' + base64.b64encode(proof))}</response>")
    server = hmac.digest(hmac.digest(salted, b"Server Key", hash_), message, hash_)
    found = re.findall(rb"<success [^>]*>([^<]+)<", got.out)
    assert not found or base64.b64decode(found[0]) == b"v=" + base64.b64encode(server)
    return found[0] if found else b""


@pytest.mark.parametrize("algorithm", ["SHA-1", "SHA-256", "SHA-512"])
def test_scram_with_and_without_channel_binding(algorithm: str) -> None:
    assert scram(driver().feed(HEADER), algorithm)
    got = driver(secure=True, binding=b"end point").feed(HEADER)
    assert scram(got, algorithm, b"p=tls-server-end-point,,", b"end point", "-PLUS")
    got = driver(secure=True, binding=b"end point").feed(HEADER)
    assert not scram(got, algorithm, b"p=tls-server-end-point,,", b"another one", "-PLUS")
    assert failure(got) == "not-authorized"


def test_anonymous_users_get_a_name() -> None:
    got = driver(anonymous=True).feed(HEADER, auth("ANONYMOUS", b"trace"), HEADER, BIND)
    [event] = [event for event in got.events if isinstance(event, Authenticated)]
    assert event.anonymous
    assert got.machine.jid == f"{event.jid.local}/orchard".replace("/", "@example.org/")


def test_who_has_used_up_its_names_does_not_get_in() -> None:
    made = settings()
    made.ledger.lose(10_000, "romeo@example.org")
    got = Driver(C2SMachine(made)).feed(HEADER, plain())
    assert failure(got) == "temporary-auth-failure"


@pytest.mark.parametrize(
    ("flags", "condition"),
    [
        ({"disabled": True}, "account-disabled"),
        ({"expired": True}, "credentials-expired"),
        ({"disabled": True, "expired": True}, "account-disabled"),
    ],
)
def test_why_a_right_password_does_not_help(flags: dict[str, bool], condition: str) -> None:
    """RFC 6120 §6.5.2, §6.5.3: told to whoever has proved to know it; a wrong one is a wrong one."""
    for ok, expected in ((True, condition), (False, "not-authorized")):
        machine = C2SMachine(settings())
        machine.receive((HEADER + plain()).encode())
        machine.password_checked(ok, **flags)
        assert f"<{expected}/>".encode() in machine.data_to_send()
    machine = C2SMachine(settings())
    machine.receive((HEADER + plain()).encode())
    machine.password_checked(True)
    assert b"<success" in machine.data_to_send()
