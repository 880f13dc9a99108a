"""The initiating server's side of a server-to-server stream (RFC 6120 §13, XEP-0178, XEP-0220, XEP-0288), without I/O.

    start → HEADER ─features→ starttls → TLS ─established→ HEADER ─features→ auth EXTERNAL ─success→ HEADER → OPEN
                                                                       └ no, or refused: db:result ─valid→ OPEN

A stream may also be opened only to ask the authoritative server about a key (`question`); then it is over with the
answer.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import Enum
from typing import Final

from beamish.stream import dialback
from beamish.stream.parser import Nonza, StreamHeader
from beamish.stream.s2s import (
    BIDI,
    BIDI_FEATURE,
    DIALBACK_FEATURE,
    SM,
    Event,
    S2SSettings,
    ServerStream,
    Stage,
    StartTls,
    fail,
    supports_version,
)
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, Kind, StanzaError, StreamErrorCondition
from beamish.xmpp.jid import JidMalformed
from beamish.xmpp.xml import Element

_FEATURES: Final = f"{{{ns.STREAM}}}features"
_PROCEED: Final = f"{{{ns.TLS}}}proceed"
_TLS_FAILURE: Final = f"{{{ns.TLS}}}failure"
_SUCCESS: Final = f"{{{ns.SASL}}}success"
_FAILURE: Final = f"{{{ns.SASL}}}failure"
_CHALLENGE: Final = f"{{{ns.SASL}}}challenge"


class Cause(Enum):
    """Why a remote domain cannot be reached; the value is the word for logs and error texts."""

    POLICY = "policy"
    NO_SUCH_DOMAIN = "no-such-domain"
    DNS = "dns"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    NETWORK = "network"
    TLS = "tls"
    CERTIFICATE = "certificate"
    AUTHENTICATION = "not-authorized"
    STREAM = "stream-error"
    LOST = "connection-lost"
    OVERLOAD = "too-many"


_CONDITIONS: Final = {
    Cause.POLICY: (Condition.FORBIDDEN, Kind.CANCEL),
    Cause.NO_SUCH_DOMAIN: (Condition.REMOTE_SERVER_NOT_FOUND, Kind.CANCEL),
    Cause.DNS: (Condition.REMOTE_SERVER_TIMEOUT, Kind.WAIT),
    Cause.REFUSED: (Condition.REMOTE_SERVER_NOT_FOUND, Kind.WAIT),
    Cause.TIMEOUT: (Condition.REMOTE_SERVER_TIMEOUT, Kind.WAIT),
    Cause.NETWORK: (Condition.REMOTE_SERVER_TIMEOUT, Kind.WAIT),
    # RFC 6120 §8.3.3.17: found, but it cannot be authenticated, is of a more permanent nature
    Cause.TLS: (Condition.REMOTE_SERVER_TIMEOUT, Kind.CANCEL),
    Cause.CERTIFICATE: (Condition.REMOTE_SERVER_TIMEOUT, Kind.CANCEL),
    Cause.AUTHENTICATION: (Condition.REMOTE_SERVER_TIMEOUT, Kind.CANCEL),
    Cause.STREAM: (Condition.REMOTE_SERVER_TIMEOUT, Kind.WAIT),
    Cause.LOST: (Condition.REMOTE_SERVER_TIMEOUT, Kind.WAIT),
    Cause.OVERLOAD: (Condition.RESOURCE_CONSTRAINT, Kind.WAIT),
}

_LASTING: Final = frozenset((Cause.POLICY, Cause.NO_SUCH_DOMAIN, Cause.CERTIFICATE, Cause.AUTHENTICATION, Cause.TLS))
_PASSING: Final = frozenset(
    (
        "remote-server-timeout",
        "remote-server-not-found",
        "remote-connection-failed",
        "resource-constraint",
        "internal-server-error",
    )
)
"""Conditions of dialback errors (XEP-0220 §2.5) that say that the peer could not find out, not that it denies."""
_LASTING_ERRORS: Final = frozenset(
    (
        StreamErrorCondition.HOST_UNKNOWN,
        StreamErrorCondition.HOST_GONE,
        StreamErrorCondition.POLICY_VIOLATION,
        StreamErrorCondition.NOT_AUTHORIZED,
        StreamErrorCondition.UNSUPPORTED_VERSION,
    )
)


class Unreachable(Exception):
    """A remote domain cannot be reached. `lasting`: trying again at once would end the same way."""

    def __init__(self, cause: Cause, text: str, *, lasting: bool | None = None) -> None:
        super().__init__(f"{cause.value}: {text}")
        self.cause = cause
        self.text = text
        self.lasting = cause in _LASTING if lasting is None else lasting
        self.told: StreamErrorCondition | None = None
        """The peer's stream error, if that is the reason."""

    def stanza_error(self) -> StanzaError:
        """What senders of stanzas that cannot be delivered are told (RFC 6120 §8.3.3.16, §8.3.3.17)."""
        condition, kind = _CONDITIONS[self.cause]
        return StanzaError(condition, kind, f"{self.cause.value}: {self.text}")


@dataclass(frozen=True, slots=True)
class Ready:
    """Stanzas may be sent. `resumption`: the peer offers stream management."""

    method: str
    bidi: bool
    resumption: bool


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """The authoritative server answered the `question`. `condition` is set when it could not say."""

    ok: bool
    condition: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The stream cannot be used; the closing tag is ready to be sent."""

    why: Unreachable


class S2SOut(ServerStream):
    """One stream that we open from `local` to `remote`.

    `question` is a stream id and a key to be verified; then the stream serves nothing else.
    """

    __slots__ = ("_asked_bidi", "_external_done", "_method", "_question", "_sm_offered", "_trusted", "local", "remote")

    def __init__(
        self,
        settings: S2SSettings,
        local: str,
        remote: str,
        *,
        question: tuple[str, str] | None = None,
        secure: bool = False,
    ) -> None:
        self.local = local
        self.remote = remote
        self._question = question
        self._trusted = False
        self._asked_bidi = False
        self._external_done = False
        self._sm_offered = False
        self._method = ""
        super().__init__(settings, secure=secure)

    @property
    def bidi(self) -> bool:
        """Whether the peer may send stanzas on this stream."""
        return bool(self.pairs)

    def start(self, *, trusted: bool = False) -> None:
        """Open the stream; `trusted` (direct TLS): the server's certificate holds for `remote`."""
        self._trusted = trusted
        self._send_header(self.local, self.remote)

    def established(self, *, trusted: bool) -> None:
        """TLS is up; `trusted`: the server's certificate holds for `remote`. The stream starts anew."""
        self.tls_established()
        self.start(trusted=trusted)

    def _owner(self) -> str | None:
        return self.remote if self._method else None

    def _send_header(self, local: str, remote: str) -> None:
        self._out.append(self._header(local or self.local, remote or self.remote, ""))
        self._header_sent = True

    def _opened(self, header: StreamHeader) -> list[Event]:
        self.stream_id = header.id
        self.stage = Stage.NEGOTIATING
        if not supports_version(header):
            return [self._denied(Unreachable(Cause.TLS, "the server does not speak XMPP 1.0, so it knows no TLS"))]
        if not header.id:
            return [self._denied(Unreachable(Cause.STREAM, "the server gave the stream no id"))]
        return []

    # ---- negotiation ------------------------------------------------------------------------------------------------

    def _negotiate(self, item: Nonza) -> list[Event]:
        tag = item.tag
        if tag == _FEATURES:
            return self._features(item.el)
        if tag == _PROCEED and not self.secure:
            if self._held.strip(b" \t\r\n"):
                raise fail(StreamErrorCondition.POLICY_VIOLATION, "data after <proceed/>")
            self._held = b""
            self.stage = Stage.TLS
            return [StartTls()]
        if tag == _TLS_FAILURE:
            return [self._denied(Unreachable(Cause.TLS, "the server refused to begin TLS"))]
        if tag == _SUCCESS and self._method == "external":
            self._external_done = True
            self._restart()
            self._send_header(self.local, self.remote)
            return []
        if tag == _CHALLENGE and self._method == "external":
            self._out.append(f"<response xmlns='{ns.SASL}'>{self._authzid()}</response>".encode())
            return []
        if tag == _FAILURE and self._method == "external":
            return self._dialback(self._failure_text(item.el))
        return self._nonza(item)

    def _nonza(self, item: Nonza) -> list[Event]:
        if item.tag == dialback.RESULT:
            return self._result(item)
        if item.tag == dialback.VERIFY and item.el.get("type"):
            return self._key_answer(item)
        if item.tag == dialback.VERIFY:
            return self._about_our_key(item)
        raise fail(StreamErrorCondition.UNSUPPORTED_STANZA_TYPE)

    def _features(self, el: Element) -> list[Event]:
        if not self.secure:
            if el.find(f"{{{ns.TLS}}}starttls") is None:
                return [self._denied(Unreachable(Cause.TLS, "the server does not offer TLS"))]
            self._out.append(f"<starttls xmlns='{ns.TLS}'/>".encode())
            return []
        self._heed_limits(el)
        if self._external_done:
            return self._ready(el.find(f"{{{SM}}}sm") is not None)
        if self._question is not None:
            self._out.append(dialback.verify(self.local, self.remote, *self._question))
            return []
        self._sm_offered = el.find(f"{{{SM}}}sm") is not None
        settings = self._settings
        if settings.bidi and self._trusted and el.find(f"{{{BIDI_FEATURE}}}bidi") is not None:
            self._out.append(b"".join((f"<bidi xmlns='{BIDI}'>".encode(), settings.own_limits(), b"</bidi>")))
            self._asked_bidi = True
        mechanisms = {node.text for node in el.iterfind(f"{{{ns.SASL}}}mechanisms/{{{ns.SASL}}}mechanism")}
        if settings.external and "EXTERNAL" in mechanisms:
            self._method = "external"
            auth = f"<auth xmlns='{ns.SASL}' mechanism='EXTERNAL'>{self._authzid()}</auth>"
            self._out.append(auth.encode())
            return []
        offered = el.find(f"{{{DIALBACK_FEATURE}}}dialback") is not None
        return self._dialback("" if offered or not mechanisms else "the server offers no way to authenticate")

    def _authzid(self) -> str:
        return base64.b64encode(self.local.encode()).decode()

    def _failure_text(self, el: Element) -> str:
        for child in el:
            name = str(child.tag).rpartition("}")[2]
            if name != "text":
                return f"EXTERNAL failed with {name}"
        return "EXTERNAL failed"

    # ---- dialback ---------------------------------------------------------------------------------------------------

    def _dialback(self, otherwise: str) -> list[Event]:
        if not self._settings.dialback:
            text = otherwise or "the server does not offer EXTERNAL, and dialback is off here"
            return [self._denied(Unreachable(Cause.AUTHENTICATION, text))]
        self._method = "dialback"
        key = self._settings.secret.key(self.remote, self.local, self.stream_id)
        self._out.append(dialback.result(self.local, self.remote, key))
        return []

    def _result(self, item: Nonza) -> list[Event]:
        try:
            answer = dialback.read(item)
        except JidMalformed as exc:
            raise fail(StreamErrorCondition.IMPROPER_ADDRESSING, str(exc)) from exc
        if not answer.type:
            # XEP-0288 lets the peer piggyback more domains here; it may open a stream of its own instead
            self._out.append(dialback.answer(answer, "error", Condition.FEATURE_NOT_IMPLEMENTED))
            return []
        if self._method != "dialback" or (answer.to, answer.sender) != (self.local, self.remote):
            raise fail(StreamErrorCondition.INVALID_FROM, "an answer that nobody asked for")
        if self.stage is Stage.OPEN:
            return []
        if answer.type == "valid":
            return self._ready(self._sm_offered)
        detail = f" ({answer.condition})" if answer.condition else ""
        passing = answer.type == "error" and answer.condition in _PASSING
        why = Unreachable(Cause.AUTHENTICATION, f"dialback: {answer.type}{detail}", lasting=not passing)
        return [self._denied(why)]

    def _key_answer(self, item: Nonza) -> list[Event]:
        try:
            answer = dialback.read(item)
        except JidMalformed as exc:
            raise fail(StreamErrorCondition.IMPROPER_ADDRESSING, str(exc)) from exc
        if self._question is None or answer.sender != self.remote or answer.to != self.local:
            raise fail(StreamErrorCondition.INVALID_FROM, "an answer that nobody asked for")
        if answer.id != self._question[0]:
            return []
        self.close()
        return [KeyAnswer(answer.type == "valid", answer.condition if answer.type == "error" else "")]

    # ---- outcome ----------------------------------------------------------------------------------------------------

    def _ready(self, resumption: bool) -> list[Event]:
        if self._asked_bidi:
            self.pairs.add((self.local, self.remote))
        self._open_up()
        return [Ready(self._method, self._asked_bidi, resumption and self._settings.resumption)]

    def _denied(self, why: Unreachable) -> Denied:
        self.close()
        self.stage = Stage.CLOSED
        return Denied(why)


def peer_error(condition: StreamErrorCondition, text: str) -> Unreachable:
    """What a stream error of the remote server means for those who wait for the stream."""
    lasting = condition in _LASTING_ERRORS
    cause = Cause.AUTHENTICATION if condition is StreamErrorCondition.NOT_AUTHORIZED else Cause.STREAM
    detail = f" ({text})" if text else ""
    why = Unreachable(cause, f"the server closed the stream with {condition.value}{detail}", lasting=lasting)
    why.told = condition
    return why
