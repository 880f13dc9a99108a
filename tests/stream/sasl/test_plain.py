from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.stream.sasl import Challenge, FailureCondition, NeedPasswordCheck, Plain, SaslFailure, Success


def test_message_of_rfc_4616() -> None:
    plain = Plain()
    step = plain.start(b"\0tim\0tanstaaftanstaaf")
    assert step == NeedPasswordCheck("tim", "tanstaaftanstaaf")
    assert plain.password_checked(True) == Success("tim", "", None)


def test_authzid_is_handed_on() -> None:
    plain = Plain()
    assert plain.start(b"Ursel\0Kurt\0xipj3plmq") == NeedPasswordCheck("Kurt", "xipj3plmq")
    assert plain.password_checked(True) == Success("Kurt", "Ursel", None)


def test_without_initial_response() -> None:
    plain = Plain()
    assert plain.start(None) == Challenge(b"")
    assert plain.respond(b"\0tim\0secret") == NeedPasswordCheck("tim", "secret")


def test_user_names_are_prepared() -> None:
    assert Plain().start("\0\uff54im\0p\xe9".encode()) == NeedPasswordCheck("tim", "p\xe9")


def test_wrong_password() -> None:
    plain = Plain()
    plain.start(b"\0tim\0wrong")
    with pytest.raises(SaslFailure) as caught:
        plain.password_checked(False)
    assert caught.value.condition is FailureCondition.NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (b"", FailureCondition.MALFORMED_REQUEST),
        (b"tim\0secret", FailureCondition.MALFORMED_REQUEST),
        (b"\0tim\0sec\0ret", FailureCondition.MALFORMED_REQUEST),
        (b"\0\0secret", FailureCondition.MALFORMED_REQUEST),
        (b"\0tim\0", FailureCondition.MALFORMED_REQUEST),
        (b"\0tim\0\xff", FailureCondition.MALFORMED_REQUEST),
        (b"\0tim\0" + b"x" * 8192, FailureCondition.MALFORMED_REQUEST),
        (b"\0t\x07im\0secret", FailureCondition.NOT_AUTHORIZED),
    ],
)
def test_refused(data: bytes, condition: FailureCondition) -> None:
    with pytest.raises(SaslFailure) as caught:
        Plain().start(data)
    assert caught.value.condition is condition
    assert "secret" not in str(caught.value)


def test_password_is_not_in_the_repr() -> None:
    assert "secret" not in repr(Plain().start(b"\0tim\0secret"))


@given(st.one_of(st.binary(max_size=40), st.lists(st.binary(max_size=6), max_size=5).map(b"\0".join)))
def test_garbage_is_a_failure_and_nothing_else(data: bytes) -> None:
    try:
        step = Plain().start(data)
    except SaslFailure:
        return
    assert isinstance(step, NeedPasswordCheck)
    assert step.username
