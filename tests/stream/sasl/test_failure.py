from __future__ import annotations

from beamish.stream.sasl import FailureCondition, SaslFailure


def test_the_conditions_are_those_of_rfc_6120() -> None:
    assert {condition.value for condition in FailureCondition} == {
        "aborted",
        "account-disabled",
        "credentials-expired",
        "encryption-required",
        "incorrect-encoding",
        "invalid-authzid",
        "invalid-mechanism",
        "malformed-request",
        "mechanism-too-weak",
        "not-authorized",
        "temporary-auth-failure",
    }


def test_a_failure_says_what_and_why() -> None:
    failure = SaslFailure(FailureCondition.ABORTED, "why")
    assert (failure.condition, failure.text, str(failure)) == (FailureCondition.ABORTED, "why", "aborted: why")
    assert str(SaslFailure(FailureCondition.ABORTED)) == "aborted"
