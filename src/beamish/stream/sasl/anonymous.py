"""RFC 4505: ANONYMOUS. Anyone is let in under a name of the server's choice; the trace is read and thrown away."""

from __future__ import annotations

from beamish.stream.sasl.failure import FailureCondition, SaslFailure
from beamish.stream.sasl.mechanism import Mechanism, Step, Success

MAX_TRACE_LENGTH = 255
"""Characters; RFC 4505 §2, the production `token`."""


class Anonymous(Mechanism):
    """One message, which may be empty."""

    name = "ANONYMOUS"

    def _first(self, data: bytes) -> Step:
        try:
            trace = data.decode()
        except UnicodeDecodeError:
            raise SaslFailure(FailureCondition.MALFORMED_REQUEST, "the trace is not UTF-8") from None
        if len(trace) > MAX_TRACE_LENGTH:
            raise SaslFailure(FailureCondition.MALFORMED_REQUEST, "the trace is too long")
        return Success("", "", None)
