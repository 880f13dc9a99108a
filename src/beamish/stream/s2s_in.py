"""The receiving server's side of a server-to-server stream (RFC 6120 §13, XEP-0178, XEP-0220, XEP-0288), without I/O.

    HEADER ─header→ NEGOTIATING ─starttls→ TLS ─tls_established→ HEADER
                        ├─auth EXTERNAL, certificate holds→ HEADER (restart) ─header→ OPEN
                        └─db:result, key or certificate holds→ OPEN ─</stream:stream> or error→ CLOSED

TLS always comes first: nothing is authenticated on an unencrypted stream. Further domain pairs are authenticated by
dialback while the stream is open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from beamish.stream import dialback
from beamish.stream import features as feat
from beamish.stream.parser import Nonza, StreamHeader
from beamish.stream.s2s import (
    BIDI,
    BIDI_FEATURE,
    DIALBACK_FEATURE,
    SM,
    Authenticated,
    Event,
    Pair,
    S2SSettings,
    ServerStream,
    Stage,
    StartTls,
    domain_of,
    fail,
    supports_version,
)
from beamish.stream.s2s_acks import failed_element
from beamish.stream.sasl import SaslFailure, decode_payload
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JidMalformed

_AUTH: Final = f"{{{ns.SASL}}}auth"
_ABORT: Final = f"{{{ns.SASL}}}abort"
_STARTTLS: Final = f"{{{ns.TLS}}}starttls"
_BIDI: Final = f"{{{BIDI}}}bidi"
_EARLY_SM: Final = frozenset((f"{{{SM}}}enable", f"{{{SM}}}resume"))
_MAX_FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened or restarted its stream. `remote` is "" when it did not say who it is."""

    local: str
    remote: str


@dataclass(frozen=True, slots=True)
class KeyToVerify:
    """A peer says it speaks for `remote`: ask that domain's server about the key, then call `verified`."""

    local: str
    remote: str
    stream_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A peer failed to authenticate as a domain; it was told so."""

    remote: str
    method: str
    reason: str


Certifies = Callable[[str], str]
"""Judges the peer's certificate for a domain: "" when it holds, otherwise the reason why not."""
Admits = Callable[[str], str]
"""Judges a remote domain by policy: "" when it may talk to us, otherwise the reason why not."""


def no_certificate(_domain: str) -> str:
    """The judgement of a peer that showed no certificate."""
    return "no certificate was shown"


class S2SIn(ServerStream):
    """One stream that another server opened.

    `bidi` is True once the peer asked to get stanzas on this stream too. `remote` is who the header says it is.
    """

    __slots__ = (
        "_admits",
        "_certifies",
        "_declined",
        "_external",
        "_failures",
        "_verifying",
        "bidi",
        "local",
        "methods",
        "remote",
    )

    def __init__(
        self,
        settings: S2SSettings,
        admits: Admits,
        *,
        secure: bool = False,
        certifies: Certifies = no_certificate,
    ) -> None:
        self._admits = admits
        self._certifies = certifies
        self._external = ""
        self._declined = 0
        self._failures = 0
        self._verifying: dict[Pair, dialback.DialbackElement] = {}
        self.bidi = False
        self.methods: dict[Pair, str] = {}
        """How each pair was authenticated."""
        self.local = ""
        self.remote = ""
        super().__init__(settings, secure=secure)

    def established(self, certifies: Certifies) -> None:
        """TLS is up; `certifies` judges the certificate that the peer showed."""
        self._certifies = certifies
        self.tls_established()

    # ---- the header -------------------------------------------------------------------------------------------------

    def _opened(self, header: StreamHeader) -> list[Event]:
        if not supports_version(header):
            raise fail(StreamErrorCondition.UNSUPPORTED_VERSION, "this server speaks XMPP 1.0")
        try:
            local = domain_of(header.to) if header.to else ""
        except JidMalformed as exc:
            raise fail(StreamErrorCondition.HOST_UNKNOWN) from exc
        try:
            remote = domain_of(header.sender) if header.sender else ""
        except JidMalformed as exc:
            raise fail(StreamErrorCondition.INVALID_FROM, "'from' is not a domain") from exc
        if not local:
            raise fail(StreamErrorCondition.IMPROPER_ADDRESSING, "a stream header to a server needs a 'to'")
        if not self._settings.serves(local):
            raise fail(StreamErrorCondition.HOST_UNKNOWN, f"{local} is not served here")
        if self._external and remote != self._external:
            raise fail(StreamErrorCondition.INVALID_FROM, f"this stream is authenticated for {self._external}")
        if remote and (reason := self._admits(remote)):
            raise fail(StreamErrorCondition.POLICY_VIOLATION, reason)
        self.local, self.remote = local, remote
        self._send_header(local, remote)
        self._send_features()
        self.stage = Stage.NEGOTIATING
        events: list[Event] = [StreamOpened(local, remote)]
        if self._external:
            self.pairs.add((local, remote))
            self.methods[local, remote] = "external"
            self._open_up()
            events.append(Authenticated(local, remote, "external"))
        return events

    def _send_header(self, local: str, remote: str) -> None:
        self.stream_id = self._settings.new_id()
        self._out.append(self._header(local, remote, self.stream_id))
        self._header_sent = True

    def _send_features(self) -> None:
        settings = self._settings
        out = [b"<stream:features>"]
        if not self.secure:
            out.append(feat.starttls(required=True))
        elif not self._external:
            if settings.external and self.remote and not self._certifies(self.remote):
                out.append(feat.mechanisms(("EXTERNAL",)))
            if settings.bidi:
                out.append(f"<bidi xmlns='{BIDI_FEATURE}'/>".encode())
        if self.secure:
            if settings.dialback:
                out.append(f"<dialback xmlns='{DIALBACK_FEATURE}'><errors/></dialback>".encode())
            if settings.resumption:
                out.append(f"<sm xmlns='{SM}'/>".encode())
            out.append(settings.own_limits())
        out.append(b"</stream:features>")
        self._out.append(b"".join(out))

    # ---- negotiation ------------------------------------------------------------------------------------------------

    def _negotiate(self, item: Nonza) -> list[Event]:
        tag = item.tag
        if tag == _STARTTLS:
            return self._starttls()
        if tag == dialback.VERIFY:
            return self._about_our_key(item)  # the question is about us: who asks does not matter
        if not self.secure:
            raise fail(StreamErrorCondition.POLICY_VIOLATION, "TLS comes first")
        if tag == _AUTH and self._settings.external:
            return self._auth(item)
        if tag == _ABORT:
            return self._sasl_failed("aborted", "aborted")
        if tag in _EARLY_SM and self._settings.resumption:
            self._out.append(failed_element("unexpected-request"))  # XEP-0198 §3: too early is no stream error
            return []
        return self._nonza(item)

    def _nonza(self, item: Nonza) -> list[Event]:
        if item.tag == dialback.VERIFY:
            return self._about_our_key(item)
        if item.tag == dialback.RESULT and self._settings.dialback:
            return self._claim(item)
        if item.tag == _BIDI and self._settings.bidi and self.stage is Stage.NEGOTIATING:
            self.bidi = True
            self._heed_limits(item.el)
            return []
        raise fail(StreamErrorCondition.UNSUPPORTED_STANZA_TYPE)

    def _starttls(self) -> list[Event]:
        if self.secure:
            raise fail(StreamErrorCondition.POLICY_VIOLATION, "TLS is there already")
        if self._held.strip(b" \t\r\n"):
            # what was sent in the clear must not be taken for protected (RFC 6120 §5.4.3.3)
            raise fail(StreamErrorCondition.POLICY_VIOLATION, "data after <starttls/>")
        self._held = b""
        self.stage = Stage.TLS
        self._out.append(f"<proceed xmlns='{ns.TLS}'/>".encode())
        return [StartTls()]

    # ---- SASL EXTERNAL (XEP-0178 §3) --------------------------------------------------------------------------------

    def _auth(self, item: Nonza) -> list[Event]:
        if item.el.get("mechanism") != "EXTERNAL":
            return self._sasl_failed("invalid-mechanism", "only EXTERNAL is offered")
        try:
            asked = (decode_payload(item.el.text) or b"").decode()
            claimed = domain_of(asked) if asked else self.remote
        except SaslFailure:
            return self._sasl_failed("incorrect-encoding", "not base64")
        except (UnicodeDecodeError, JidMalformed):
            return self._sasl_failed("invalid-authzid", "the identity is not a domain")
        if not claimed or claimed != self.remote:
            return self._sasl_failed("invalid-authzid", "the identity is not the stream's 'from'")
        if reason := self._certifies(claimed):
            return self._sasl_failed("not-authorized", reason)
        self._external = claimed
        self._out.append(f"<success xmlns='{ns.SASL}'/>".encode())
        self._restart()
        return []

    def _sasl_failed(self, condition: str, reason: str) -> list[Event]:
        self._failures += 1
        self._out.append(f"<failure xmlns='{ns.SASL}'><{condition}/></failure>".encode())
        events: list[Event] = [Refused(self.remote, "external", reason)]
        if self._failures >= _MAX_FAILURES:
            events.append(self.fail(fail(StreamErrorCondition.POLICY_VIOLATION, "too many authentication attempts")))
        return events

    # ---- dialback ---------------------------------------------------------------------------------------------------

    def _claim(self, item: Nonza) -> list[Event]:
        """A peer says for which domain it wants to speak (XEP-0220 §2.1.1)."""
        try:
            question = dialback.read(item)
        except JidMalformed as exc:
            raise fail(StreamErrorCondition.IMPROPER_ADDRESSING, str(exc)) from exc
        pair = (question.to, question.sender)
        if question.type:
            raise fail(StreamErrorCondition.UNSUPPORTED_STANZA_TYPE, "no answer was asked for")
        if not self._settings.serves(question.to):
            return self._decline(question, Condition.ITEM_NOT_FOUND, f"{question.to} is not served here")
        if reason := self._admits(question.sender):
            return self._decline(question, Condition.POLICY_VIOLATION, reason)
        if pair in self._verifying:
            return []
        if len(self.pairs) + len(self._verifying) >= self._settings.pairs_per_stream:
            return self._decline(question, Condition.RESOURCE_CONSTRAINT, "too many domains on one stream")
        if not question.key or len(question.key) > dialback.MAX_KEY:
            return self._decline(question, Condition.BAD_REQUEST, "a key has 1 to 1024 characters")
        self._verifying[pair] = question
        if not self._certifies(question.sender):
            return self.verified(*pair, ok=True)  # XEP-0344: the certificate says more than a key could
        return [KeyToVerify(question.to, question.sender, self.stream_id, question.key)]

    def _decline(self, question: dialback.DialbackElement, condition: Condition, reason: str) -> list[Event]:
        self._out.append(dialback.answer(question, "error", condition))
        return self._refused(question.sender, reason)

    def _refused(self, remote: str, reason: str) -> list[Event]:
        """A peer claimed a domain in vain. It may do so only so often: each time costs us a look-up and a connection."""
        self._declined += 1
        events: list[Event] = [Refused(remote, "dialback", reason)]
        if self._declined >= self._settings.failed_claims:
            events.append(self.fail(fail(StreamErrorCondition.POLICY_VIOLATION, "too many domains claimed in vain")))
        return events

    def verified(self, local: str, remote: str, *, ok: bool, failure: Condition | None = None) -> list[Event]:
        """Answer `KeyToVerify`; `failure` tells why it could not be found out (XEP-0220 §2.4)."""
        question = self._verifying.pop((local, remote), None)
        if question is None or self.stage is Stage.CLOSED:
            return []
        if failure is not None:
            return self._decline(question, failure, failure.value)
        if not ok:
            self._out.append(dialback.answer(question, "invalid"))
            return self._refused(remote, "the authoritative server denies the key")
        self._out.append(dialback.answer(question, "valid"))
        self.pairs.add((local, remote))
        self.methods[local, remote] = "dialback"
        events: list[Event] = [Authenticated(local, remote, "dialback")]
        if self.stage is not Stage.OPEN:
            try:
                self._open_up()
            except StreamError as error:
                return [self.fail(error)]
            events += self._advance()
        return events
