"""Stanza and stream errors as exceptions (RFC 6120 §4.9 and §8.3).

Code that meets bad input raises; one place each (`core.iq`, `core.router`, the stream machines) turns the exception into
XML. `text` is shown to the peer, so it never holds anything about the server's inside.
"""

from __future__ import annotations

from enum import Enum

from beamish.xmpp import ns
from beamish.xmpp.xml import Element, escape_text, to_bytes


class Kind(Enum):
    """What the sender may do about a stanza error (RFC 6120 §8.3.2)."""

    AUTH = "auth"
    CANCEL = "cancel"
    CONTINUE = "continue"
    MODIFY = "modify"
    WAIT = "wait"


class Condition(Enum):
    """The stanza error conditions of RFC 6120 §8.3.3."""

    BAD_REQUEST = "bad-request"
    CONFLICT = "conflict"
    FEATURE_NOT_IMPLEMENTED = "feature-not-implemented"
    FORBIDDEN = "forbidden"
    GONE = "gone"
    INTERNAL_SERVER_ERROR = "internal-server-error"
    ITEM_NOT_FOUND = "item-not-found"
    JID_MALFORMED = "jid-malformed"
    NOT_ACCEPTABLE = "not-acceptable"
    NOT_ALLOWED = "not-allowed"
    NOT_AUTHORIZED = "not-authorized"
    POLICY_VIOLATION = "policy-violation"
    RECIPIENT_UNAVAILABLE = "recipient-unavailable"
    REDIRECT = "redirect"
    REGISTRATION_REQUIRED = "registration-required"
    REMOTE_SERVER_NOT_FOUND = "remote-server-not-found"
    REMOTE_SERVER_TIMEOUT = "remote-server-timeout"
    RESOURCE_CONSTRAINT = "resource-constraint"
    SERVICE_UNAVAILABLE = "service-unavailable"
    SUBSCRIPTION_REQUIRED = "subscription-required"
    UNDEFINED_CONDITION = "undefined-condition"
    UNEXPECTED_REQUEST = "unexpected-request"


DEFAULT_KIND: dict[Condition, Kind] = {
    Condition.BAD_REQUEST: Kind.MODIFY,
    Condition.CONFLICT: Kind.CANCEL,
    Condition.FEATURE_NOT_IMPLEMENTED: Kind.CANCEL,
    Condition.FORBIDDEN: Kind.AUTH,
    Condition.GONE: Kind.CANCEL,
    Condition.INTERNAL_SERVER_ERROR: Kind.CANCEL,
    Condition.ITEM_NOT_FOUND: Kind.CANCEL,
    Condition.JID_MALFORMED: Kind.MODIFY,
    Condition.NOT_ACCEPTABLE: Kind.MODIFY,
    Condition.NOT_ALLOWED: Kind.CANCEL,
    Condition.NOT_AUTHORIZED: Kind.AUTH,
    Condition.POLICY_VIOLATION: Kind.MODIFY,
    Condition.RECIPIENT_UNAVAILABLE: Kind.WAIT,
    Condition.REDIRECT: Kind.MODIFY,
    Condition.REGISTRATION_REQUIRED: Kind.AUTH,
    Condition.REMOTE_SERVER_NOT_FOUND: Kind.CANCEL,
    Condition.REMOTE_SERVER_TIMEOUT: Kind.WAIT,
    Condition.RESOURCE_CONSTRAINT: Kind.WAIT,
    Condition.SERVICE_UNAVAILABLE: Kind.CANCEL,
    Condition.SUBSCRIPTION_REQUIRED: Kind.AUTH,
    Condition.UNDEFINED_CONDITION: Kind.CANCEL,
    Condition.UNEXPECTED_REQUEST: Kind.WAIT,
}
"""The error type that RFC 6120 §8.3.3 associates with each condition."""


class StanzaError(Exception):
    """A stanza cannot be handled; the sender gets an error stanza.

    `kind` defaults to what the RFC names for the condition. `app` is an application-specific condition element
    (RFC 6120 §8.3.4), free-standing. `by` names the entity that found the error, when it is not the addressee. `code` is
    the number that stood for the condition in RFC 3920 (RFC 6120 §8.3.2), where a client in use knows nothing else.
    """

    def __init__(
        self,
        condition: Condition,
        kind: Kind | None = None,
        text: str = "",
        *,
        app: Element | None = None,
        code: int = 0,
    ) -> None:
        super().__init__(f"{condition.value}: {text}" if text else condition.value)
        self.condition = condition
        self.kind = kind or DEFAULT_KIND[condition]
        self.text = text
        self.app = app
        self.code = code

    def to_bytes(self, by: str = "") -> bytes:
        """The `<error/>` child (RFC 6120 §8.3.1), in the stanza's default namespace."""
        by_attr = (f" code='{self.code}'" if self.code else "") + (f" by='{by}'" if by else "")
        text = f"<text xmlns='{ns.STANZAS}' xml:lang='en'>{escape_text(self.text)}</text>" if self.text else ""
        head = f"<error type='{self.kind.value}'{by_attr}><{self.condition.value} xmlns='{ns.STANZAS}'/>{text}"
        app = to_bytes(self.app) if self.app is not None else b""
        return head.encode() + app + b"</error>"


class StreamErrorCondition(Enum):
    """The stream error conditions of RFC 6120 §4.9.3."""

    BAD_FORMAT = "bad-format"
    BAD_NAMESPACE_PREFIX = "bad-namespace-prefix"
    CONFLICT = "conflict"
    CONNECTION_TIMEOUT = "connection-timeout"
    HOST_GONE = "host-gone"
    HOST_UNKNOWN = "host-unknown"
    IMPROPER_ADDRESSING = "improper-addressing"
    INTERNAL_SERVER_ERROR = "internal-server-error"
    INVALID_FROM = "invalid-from"
    INVALID_NAMESPACE = "invalid-namespace"
    INVALID_XML = "invalid-xml"
    NOT_AUTHORIZED = "not-authorized"
    NOT_WELL_FORMED = "not-well-formed"
    POLICY_VIOLATION = "policy-violation"
    REMOTE_CONNECTION_FAILED = "remote-connection-failed"
    RESET = "reset"
    RESOURCE_CONSTRAINT = "resource-constraint"
    RESTRICTED_XML = "restricted-xml"
    SEE_OTHER_HOST = "see-other-host"
    SYSTEM_SHUTDOWN = "system-shutdown"
    UNDEFINED_CONDITION = "undefined-condition"
    UNSUPPORTED_ENCODING = "unsupported-encoding"
    UNSUPPORTED_FEATURE = "unsupported-feature"
    UNSUPPORTED_STANZA_TYPE = "unsupported-stanza-type"
    UNSUPPORTED_VERSION = "unsupported-version"


class StreamError(Exception):
    """The stream must be closed with a stream error (RFC 6120 §4.9)."""

    def __init__(self, condition: StreamErrorCondition, text: str = "", *, app: bytes = b"") -> None:
        super().__init__(f"{condition.value}: {text}" if text else condition.value)
        self.condition = condition
        self.text = text
        self.app = app

    def to_bytes(self) -> bytes:
        """The `<stream:error/>` element; the `stream` prefix is the one of our own stream header."""
        text = f"<text xmlns='{ns.STREAMS}' xml:lang='en'>{escape_text(self.text)}</text>" if self.text else ""
        head = f"<stream:error><{self.condition.value} xmlns='{ns.STREAMS}'/>{text}"
        return head.encode() + self.app + b"</stream:error>"
