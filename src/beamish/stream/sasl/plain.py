"""RFC 4616: PLAIN. The password itself crosses the stream; offered under TLS, or where the operator asked for it."""

from __future__ import annotations

from beamish.stream.sasl.failure import FailureCondition, SaslFailure
from beamish.stream.sasl.mechanism import Mechanism, Step, Success
from beamish.stream.sasl.prep import SaslPrepError, saslprep


class Plain(Mechanism):
    """One message, `[authzid] NUL authcid NUL password`."""

    name = "PLAIN"

    def __init__(self) -> None:
        self._username = ""
        self._authzid = ""

    def _first(self, data: bytes) -> Step:
        try:
            authzid, authcid, password = data.decode().split("\0")
        except ValueError:  # of the decoding or of the unpacking
            raise SaslFailure(FailureCondition.MALFORMED_REQUEST, "not a PLAIN message") from None
        if not authcid or not password:
            raise SaslFailure(FailureCondition.MALFORMED_REQUEST, "no user name or no password")
        try:
            self._username = saslprep(authcid, stored=False)
        except SaslPrepError:
            # RFC 4616 §2: if preparation fails, verification fails.
            raise SaslFailure(FailureCondition.NOT_AUTHORIZED) from None
        self._authzid = authzid
        return self._ask_for_verdict(self._username, password)

    def _verdict(self, ok: bool) -> Step:
        if not ok:
            raise SaslFailure(FailureCondition.NOT_AUTHORIZED)
        return Success(self._username, self._authzid, None)
