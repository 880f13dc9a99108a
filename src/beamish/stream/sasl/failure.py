"""RFC 6120 §6.5: how a SASL exchange fails."""

from __future__ import annotations

from enum import Enum


class FailureCondition(Enum):
    """The defined conditions of `<failure/>`; the value is the element's name."""

    ABORTED = "aborted"
    ACCOUNT_DISABLED = "account-disabled"
    CREDENTIALS_EXPIRED = "credentials-expired"
    ENCRYPTION_REQUIRED = "encryption-required"
    INCORRECT_ENCODING = "incorrect-encoding"
    INVALID_AUTHZID = "invalid-authzid"
    INVALID_MECHANISM = "invalid-mechanism"
    MALFORMED_REQUEST = "malformed-request"
    MECHANISM_TOO_WEAK = "mechanism-too-weak"
    NOT_AUTHORIZED = "not-authorized"
    TEMPORARY_AUTH_FAILURE = "temporary-auth-failure"


class SaslFailure(Exception):
    """The exchange is over. `condition` and `text` (English, or "") go to the client, so neither tells a secret.

    RFC 6120 §6.5.10: a wrong password and an unknown user must not differ, hence neither of them carries a text.
    """

    def __init__(self, condition: FailureCondition, text: str = "") -> None:
        super().__init__(f"{condition.value}: {text}" if text else condition.value)
        self.condition = condition
        self.text = text
