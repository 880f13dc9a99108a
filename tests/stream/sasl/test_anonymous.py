from __future__ import annotations

import pytest

from beamish.stream.sasl import Anonymous, Challenge, FailureCondition, SaslFailure, Success


@pytest.mark.parametrize("trace", [b"", b"sirhc", "\u2603".encode() * 255])
def test_anybody_comes_in(trace: bytes) -> None:
    assert Anonymous().start(trace) == Success("", "", None)


def test_without_initial_response() -> None:
    anonymous = Anonymous()
    assert anonymous.start(None) == Challenge(b"")
    assert anonymous.respond(b"") == Success("", "", None)


@pytest.mark.parametrize("trace", [b"\xff", b"x" * 256])
def test_refused(trace: bytes) -> None:
    with pytest.raises(SaslFailure) as caught:
        Anonymous().start(trace)
    assert caught.value.condition is FailureCondition.MALFORMED_REQUEST
