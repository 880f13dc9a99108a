from __future__ import annotations

import pytest

from beamish.stream.sasl import Anonymous, FailureCondition, Mechanism, Plain, SaslFailure, Scram, derive_keys

KEYS = derive_keys("pencil", "SHA-1", iterations=1)
FIRST = b"n,,n=user,r=abc"


def fresh() -> list[Mechanism]:
    return [Scram("SHA-1"), Plain(), Anonymous()]


@pytest.mark.parametrize("mechanism", fresh(), ids=lambda mechanism: mechanism.name)
def test_a_response_before_the_start_fails(mechanism: Mechanism) -> None:
    with pytest.raises(SaslFailure) as caught:
        mechanism.respond(b"x")
    assert caught.value.condition is FailureCondition.MALFORMED_REQUEST


@pytest.mark.parametrize("mechanism", fresh(), ids=lambda mechanism: mechanism.name)
def test_answers_to_what_was_not_asked_are_our_mistake(mechanism: Mechanism) -> None:
    with pytest.raises(RuntimeError):
        mechanism.keys(KEYS, True)
    with pytest.raises(RuntimeError):
        mechanism.password_checked(True)


def test_a_response_while_keys_are_looked_up_ends_the_exchange() -> None:
    scram = Scram("SHA-1")
    scram.start(FIRST)
    with pytest.raises(SaslFailure) as caught:
        scram.respond(b"hurry")
    assert caught.value.condition is FailureCondition.MALFORMED_REQUEST
    with pytest.raises(RuntimeError):
        scram.keys(KEYS, True)


def test_a_second_verdict_is_refused() -> None:
    plain = Plain()
    plain.start(b"\0tim\0wrong")
    with pytest.raises(SaslFailure):
        plain.password_checked(False)
    with pytest.raises(RuntimeError):
        plain.password_checked(True)


def test_a_failed_exchange_cannot_be_started_again() -> None:
    plain = Plain()
    with pytest.raises(SaslFailure):
        plain.start(b"nonsense")
    with pytest.raises(RuntimeError):
        plain.start(b"\0tim\0secret")
    with pytest.raises(SaslFailure):
        plain.respond(b"\0tim\0secret")


def test_an_exchange_that_succeeded_is_over() -> None:
    anonymous = Anonymous()
    anonymous.start(b"")
    with pytest.raises(SaslFailure):
        anonymous.respond(b"")


def test_keys_of_another_hash_are_our_mistake() -> None:
    scram = Scram("SHA-256")
    scram.start(FIRST)
    with pytest.raises(RuntimeError):
        scram.keys(KEYS, True)


@pytest.mark.parametrize("mechanism", fresh(), ids=lambda mechanism: mechanism.name)
def test_long_messages_are_refused(mechanism: Mechanism) -> None:
    mechanism.start(None)
    with pytest.raises(SaslFailure) as caught:
        mechanism.respond(b"n,,n=" + b"u" * 8192 + b",r=abc")
    assert caught.value.condition is FailureCondition.MALFORMED_REQUEST
