"""The server's side of a client stream, from the first byte to the bound resource (RFC 6120 §4–§7), without I/O.

Bytes go in through `receive`, events come out; answers to events go in through the method that the event names and may
release more events; `data_to_send` gives what must be written. There is no clock, loop or socket here.

    HEADER ─header→ OFFERED ─starttls→ TLS ─tls_established→ HEADER
                       │ └auth→ SASL ⇄ ASKING (for keys, a password) ─success→ HEADER (authenticated)
                       └─bind→ BINDING ─bound→ BOUND ─</stream:stream> or error→ CLOSED

What may arrive in which state is the table `_ACCEPTS`; anything else is the stream error that the table's default names.
Until a resource is bound, input is taken one top-level element at a time (`stream.intake`) and what follows waits until
that element has been dealt with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from beamish.stream.events import (
    Authenticated,
    AuthFailed,
    BindRequested,
    Event,
    KeysNeeded,
    PasswordGiven,
    StartTls,
    StreamClosed,
    StreamFailed,
    StreamOpened,
)
from beamish.stream.intake import Intake
from beamish.stream.known import KnownBind, KnownStep
from beamish.stream.opening import Opening
from beamish.stream.parser import (
    Item,
    Nonza,
    StreamEnd,
    StreamHeader,
    Unaddressable,
)
from beamish.stream.resume import SM
from beamish.stream.sasl import (
    Challenge,
    FailureCondition,
    Mechanism,
    NeedKeys,
    NeedPasswordCheck,
    SaslFailure,
    ScramKeys,
    Step,
    Success,
    decode_payload,
    encode_payload,
    negotiate,
)
from beamish.stream.settings import C2SSettings, State
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, Kind, StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID, JidMalformed, prepare_local, prepare_resource
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import escape_text

THROTTLED: Final = "too many failed logins, try again later"
"""What a client is told whose attempt is not looked at."""
_CLOSE: Final = b"</stream:stream>"
_SASL: Final = f"{{{ns.SASL}}}"
_ONE_READ: Final = 524_288
"""More bytes than a transport gives at a time."""
_PEER_ERROR: Final = f"{{{ns.STREAM}}}error"
_SM: Final = f"{{{SM}}}"
_SM_TOO_EARLY: Final = f"<failed xmlns='{SM}'><unexpected-request xmlns='{ns.STANZAS}'/></failed>".encode()
"""XEP-0198 §3: stream management before authentication has an answer of its own, which ends no stream."""
_CONDITIONS: Final = {condition.value: condition for condition in StreamErrorCondition}


def _refusal(disabled: bool, expired: bool) -> FailureCondition | None:
    if disabled:
        return FailureCondition.ACCOUNT_DISABLED
    return FailureCondition.CREDENTIALS_EXPIRED if expired else None


class C2SMachine(Opening):
    """One client stream. Feed it, handle its events in order, write what it has to send.

    `secure` tells that the transport is TLS from the start (XEP-0368).
    """

    __slots__ = (
        "_aborted",
        "_allowed",
        "_bind_id",
        "_bind_refusals",
        "_failures",
        "_intake",
        "_mechanism",
        "_mechanism_name",
        "_parser",
        "_refusal",
        "_username",
        "closed_by_us",
    )

    def __init__(self, settings: C2SSettings, *, secure: bool = False, binding: bytes | None = None) -> None:
        super().__init__(settings, secure=secure, binding=binding)
        self._failures = 0
        self._aborted = 0
        self._bind_refusals = 0
        self._intake: Intake | None = Intake(settings.limits, settings.ledger, settings.unauthenticated_bytes)
        """None once a resource is bound; what comes then goes to the parser."""
        self._mechanism: Mechanism | None = None
        self._mechanism_name = ""
        self._username = ""
        self._refusal: FailureCondition | None = None
        self._allowed: Callable[[], bool] | None = None
        """Whether a proof may be looked at; asked when it comes."""
        self._bind_id = ""
        self.closed_by_us = False
        self._begin()

    def _new_stream(self) -> None:
        self._parser.discard()
        self._begin()

    def _begin(self) -> None:
        assert self._intake is not None
        owner = self.jid.bare if self.jid is not None else None
        self.state = State.HEADER
        self._intake.begin(owner, restarted=owner is not None)
        self._parser = self._intake.parser
        self._header_sent = False
        self._peer = self._claimed = None

    # ---- bytes ------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the peer; never raises for what the peer did."""
        if self.state is State.BOUND:
            try:
                items = self._parser.feed(data)
            except StreamError as error:
                events = self._bound_items(self._parser.taken)
                return events if self.closed else [*events, self._failed(error)]
            for item in items:
                if type(item) is not Stanza:
                    return self._bound_items(items)
            return items  # type: ignore[return-value]
        intake = self._intake
        if self.state is State.CLOSED or intake is None:
            return []
        intake.add(data)
        if self.state is State.TLS:
            return [] if intake.blank else self._in_the_clear()
        events = self._advance()
        if len(intake) > self._held_limit():
            events.append(self._failed(StreamError(StreamErrorCondition.POLICY_VIOLATION, "too much data at once")))
        return events

    def _held_limit(self) -> int:
        """How much may wait while the caller looks something up; input of one read is no reason to complain."""
        return max(2 * self._settings.limits.stanza_bytes, _ONE_READ)

    def receive_eof(self) -> list[Event]:
        """The peer closed its side of the connection without closing the stream; what it sent still gets its answers."""
        if self.state is State.CLOSED:
            return []
        if self._header_sent and not self.closed_by_us:
            self._out.append(_CLOSE)
            self.closed_by_us = True
        self.state = State.CLOSED
        return [StreamClosed(orderly=False)]

    def data_to_send(self) -> bytes:
        """Everything that must be written now; drains it."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    @property
    def closed(self) -> bool:
        """Whether nothing is read from the peer any more."""
        return self.state is State.CLOSED

    def discard(self) -> None:
        """The stream is over and will be fed no more: free its parser."""
        self._parser.discard()

    @property
    def idle(self) -> bool:
        """True while no parser is held."""
        return self._parser.idle

    def park(self) -> bool:
        """Free the parser while the stream is idle between stanzas; see `StreamParser.park`."""
        return self.state is State.BOUND and self._parser.park()

    def close(self, error: StreamError | None = None) -> None:
        """Close the stream from our side, with an error or orderly (RFC 6120 §4.4)."""
        if self.state is State.CLOSED or self.closed_by_us:
            return
        if not self._header_sent:
            self._send_header()
        if error is not None:
            self._out.append(error.to_bytes())
        self._out.append(_CLOSE)
        self.closed_by_us = True
        if error is not None:
            self.state = State.CLOSED

    # ---- the part before a resource is bound ------------------------------------------------------------------------

    def _advance(self) -> list[Event]:
        """Interpret held bytes, one top-level element at a time, as far as the state allows."""
        events: list[Event] = []
        intake = self._intake
        while intake is not None and intake and self.state not in _WAITING:
            try:
                for item in intake.take():
                    events += self._item(item)
            except StreamError as error:
                events.append(self._failed(error))
            intake = self._intake
        return events

    def _item(self, item: Item | KnownStep | KnownBind) -> list[Event]:
        if isinstance(item, StreamHeader):
            return self._opened(item)
        if isinstance(item, KnownStep):
            return self._known_step(item)
        if isinstance(item, KnownBind):
            if not self._may_bind():
                raise self._unexpected()
            return self._asked_to_bind(item.id, item.resource)
        if isinstance(item, StreamEnd):
            return self._ended()
        if isinstance(item, Stanza):
            if item.name != "iq" or self.state is not State.OFFERED:
                raise self._unexpected()
            return self._iq(item)
        if isinstance(item, Unaddressable):
            raise self._unexpected()
        tag = item.tag
        if tag == _PEER_ERROR:
            return self._peer_failed(item)
        if tag in self._settings.early_nonzas and self._may_bind():
            self.state = State.BINDING  # what follows waits until it is known whose stream this is
            return [item]
        if tag in self._settings.early_nonzas and self.state is State.OFFERED and tag.startswith(_SM):
            self._out.append(_SM_TOO_EARLY)
            return []
        return self._known_step(KnownStep(tag, item.el.get("mechanism", ""), item.el.text))

    def _known_step(self, step: KnownStep) -> list[Event]:
        handler = _ACCEPTS.get((self.state, step.tag))
        if handler is None:
            raise self._unexpected()
        return handler(self, step)

    def _may_bind(self) -> bool:
        return self.state is State.OFFERED and self.authenticated

    def _unexpected(self) -> StreamError:
        # RFC 6120 §4.9.3.12: anything but negotiation before authentication or binding is not authorized
        return StreamError(StreamErrorCondition.NOT_AUTHORIZED)

    # ---- TLS --------------------------------------------------------------------------------------------------------

    def _starttls(self, _step: KnownStep) -> list[Event]:
        if not self._may_start_tls():
            return [self._tls_refused()]
        self.state = State.TLS
        if self._intake is not None and not self._intake.blank:
            return self._in_the_clear()
        self._out.append(f"<proceed xmlns='{ns.TLS}'/>".encode())
        return [StartTls()]

    def _in_the_clear(self) -> list[Event]:
        """What was sent in the clear behind `<starttls/>` must not be taken for protected (RFC 6120 §5.3.3, §5.4.3.3)."""
        return [self._failed(StreamError(StreamErrorCondition.POLICY_VIOLATION, "data after <starttls/>"))]

    def _tls_refused(self) -> StreamFailed:
        """RFC 6120 §5.4.2.2: the failure case is no stream error."""
        self._out.append(f"<failure xmlns='{ns.TLS}'/>".encode())
        self._out.append(_CLOSE)
        self.closed_by_us = True
        return self._failed(StreamError(StreamErrorCondition.POLICY_VIOLATION, "TLS is not on offer here"))

    def begin_tls(self) -> None:
        """The transport begins with a handshake (XEP-0368); `tls_established` follows, nothing is read before."""
        self.state = State.TLS

    def tls_established(
        self, binding: bytes | None, exporter: bytes | None = None, unique: bytes | None = None, version: str = ""
    ) -> None:
        """The handshake is done; with the values of `tls-server-end-point`, `tls-exporter` and `tls-unique`, or None.

        `version` is that of TLS, as in `0304`. A new stream begins.
        """
        if self._intake is None:
            return  # closed meanwhile
        self._binding = binding
        self._exporter = exporter
        self._unique = unique
        self._tls_version = version
        self.secure = True
        self._intake.drop()
        self._new_stream()

    # ---- SASL -------------------------------------------------------------------------------------------------------

    def _auth(self, step: KnownStep) -> list[Event]:
        if self.authenticated:
            raise self._unexpected()
        self._mechanism = None  # RFC 6120 §6.4.2: an exchange that is under way is dropped
        self._mechanism_name = step.mechanism
        self._username = ""
        self._refusal = self._allowed = None
        if not self.secure and self._settings.require_tls:
            return self._sasl_failed(SaslFailure(FailureCondition.ENCRYPTION_REQUIRED))
        try:
            self._mechanism = negotiate(self._mechanism_name, self._offer())
            return self._step(self._mechanism.start(decode_payload(step.text)))
        except SaslFailure as failure:
            return self._sasl_failed(failure)

    def _response(self, step: KnownStep) -> list[Event]:
        assert self._mechanism is not None
        try:
            if self._allowed is not None and not self._allowed():
                raise SaslFailure(FailureCondition.TEMPORARY_AUTH_FAILURE, THROTTLED)
            return self._step(self._mechanism.respond(decode_payload(step.text) or b""))
        except SaslFailure as failure:
            return self._sasl_failed(failure)

    def _abort(self, _step: KnownStep) -> list[Event]:
        return self._sasl_failed(SaslFailure(FailureCondition.ABORTED))

    def _abort_nothing(self, _step: KnownStep) -> list[Event]:
        """RFC 6120 §6.4.4 has one answer to it. Gajim aborts what has failed already: that is no further attempt; more is."""
        if self.authenticated:
            raise self._unexpected()
        if self._aborted >= self._failures:
            self._failures += 1
        self._aborted += 1
        self._out.append(f"<failure xmlns='{ns.SASL}'><{FailureCondition.ABORTED.value}/></failure>".encode())
        return self._tried_enough()

    def keys(
        self,
        keys: ScramKeys,
        exists: bool,
        *,
        disabled: bool = False,
        expired: bool = False,
        allowed: Callable[[], bool] | None = None,
    ) -> list[Event]:
        """Answer `KeysNeeded`. For an unknown user give decoy keys and `exists=False`.

        `disabled`, `expired`: whoever proves to know the password is told that the account is (RFC 6120 §6.5.2), or the
        password (§6.5.3), nobody else. `allowed` is asked when the proof comes, which is refused unseen if it says no: by
        then others may have guessed as often as may be.
        """
        assert self._mechanism is not None
        self._refusal = _refusal(disabled, expired)
        self._allowed = allowed
        return self._answered(lambda mechanism: mechanism.keys(keys, exists))

    def password_checked(self, ok: bool, *, disabled: bool = False, expired: bool = False) -> list[Event]:
        """Answer `PasswordGiven`; `disabled` and `expired` as in `keys`."""
        self._refusal = _refusal(disabled, expired)
        return self._answered(lambda mechanism: mechanism.password_checked(ok))

    def auth_refused(self, condition: FailureCondition, text: str = "") -> list[Event]:
        """Answer `KeysNeeded` or `PasswordGiven` with a failure of the caller's own: too many attempts, disabled account."""

        def refuse(_mechanism: Mechanism) -> Step:
            raise SaslFailure(condition, text)

        return self._answered(refuse)

    def _answered(self, answer: Callable[[Mechanism], Step]) -> list[Event]:
        if self.state is not State.ASKING or self._mechanism is None:
            return []  # the stream was closed while the caller looked things up
        self.state = State.SASL
        try:
            events = self._step(answer(self._mechanism))
        except SaslFailure as failure:
            events = self._sasl_failed(failure)
        except StreamError as error:
            events = [self._failed(error)]
        return events + self._advance()

    def _step(self, step: Step) -> list[Event]:
        self.state = State.SASL
        if isinstance(step, Challenge):
            self._out.append(f"<challenge xmlns='{ns.SASL}'>{encode_payload(step.data)}</challenge>".encode())
            return []
        if isinstance(step, NeedKeys):
            self.state = State.ASKING
            self._username = step.username
            return [KeysNeeded(step.username, self._address_of(step.username), step.algorithm)]
        if isinstance(step, NeedPasswordCheck):
            self.state = State.ASKING
            self._username = step.username
            return [PasswordGiven(step.username, self._address_of(step.username), step.password)]
        assert isinstance(step, Success)
        return self._succeeded(step)

    def _address_of(self, username: str) -> JID | None:
        try:
            return JID.of(prepare_local(username), self.domain)
        except JidMalformed:
            return None

    def _succeeded(self, step: Success) -> list[Event]:
        anonymous = self._mechanism_name == "ANONYMOUS"
        jid = self._address_of(self._settings.new_id() if anonymous else step.username)
        if jid is None:
            raise SaslFailure(FailureCondition.NOT_AUTHORIZED)
        if self._refusal is not None:
            raise SaslFailure(self._refusal)
        if step.authzid:
            # RFC 6120 §6.3.8: only acting as oneself is supported
            try:
                wanted = JID.parse(step.authzid)
            except JidMalformed as exc:
                raise SaslFailure(FailureCondition.INVALID_AUTHZID) from exc
            if wanted != jid:
                raise SaslFailure(FailureCondition.INVALID_AUTHZID)
        if self._claimed is not None and self._claimed != jid and not anonymous:
            # RFC 6120 §6.4.6
            raise StreamError(StreamErrorCondition.INVALID_FROM, "the stream header named somebody else")
        if self._settings.ledger.exhausted(jid):
            raise SaslFailure(FailureCondition.TEMPORARY_AUTH_FAILURE, "too much unusual XML, try again later")
        data = encode_payload(step.data)
        self._out.append(f"<success xmlns='{ns.SASL}'>{data}</success>".encode())
        self._mechanism = self._allowed = None
        self.jid = jid
        self.authenticated = True
        self._new_stream()
        return [Authenticated(jid, self._mechanism_name, anonymous)]

    def _sasl_failed(self, failure: SaslFailure) -> list[Event]:
        self._mechanism = self._allowed = None
        self.state = State.OFFERED
        self._failures += 1
        text = f"<text xml:lang='en'>{escape_text(failure.text)}</text>" if failure.text else ""
        self._out.append(f"<failure xmlns='{ns.SASL}'><{failure.condition.value}/>{text}</failure>".encode())
        jid = self._address_of(self._username) if self._username else None
        failed = AuthFailed(self._username, self._mechanism_name, failure.condition.value, jid)
        return [failed, *self._tried_enough()]

    def _tried_enough(self) -> list[Event]:
        """RFC 6120 §6.4.5: the number of retries is bounded."""
        if self._failures < self._settings.sasl_attempts:
            return []
        return [self._failed(StreamError(StreamErrorCondition.POLICY_VIOLATION, "too many authentication attempts"))]

    # ---- resource binding -------------------------------------------------------------------------------------------

    def _iq(self, item: Stanza) -> list[Event]:
        payload = item.payload
        if not self.authenticated:
            if payload is not None and payload.tag in self._settings.early_iqs and not self._only_tls():
                return [item]
            raise self._unexpected()
        if payload is None or payload.tag != f"{{{ns.BIND}}}bind" or item.type != "set":
            raise self._unexpected()
        # iksemel sends no id at all (RFC 6120 §8.1.3 wants one), and knows the answer, as no other is to come
        if item.el.get("id") == "" or len(item.el) != 1:
            self._bind_id = item.id
            return self._refuse_bind(StanzaError(Condition.BAD_REQUEST, text="an IQ has an id and one child"))
        return self._asked_to_bind(item.id, payload.findtext(f"{{{ns.BIND}}}resource") or "")

    def _asked_to_bind(self, id: str, asked: str) -> list[Event]:
        self._bind_id = id
        self.state = State.BINDING
        try:
            return [BindRequested(id, prepare_resource(asked) if asked else "")]
        except JidMalformed as exc:
            # RFC 6120 §7.7.2.1
            return self._refuse_bind(StanzaError(Condition.BAD_REQUEST, text=str(exc)))

    def bound(self, jid: JID) -> list[Event]:
        """Answer `BindRequested`: the resource is the client's (RFC 6120 §7.6.1)."""
        content = f"<bind xmlns='{ns.BIND}'><jid>{escape_text(jid)}</jid></bind>".encode()
        self._out.append(Stanza.build("iq", "result", id=self._bind_id, content=content).to_wire())
        return self.established(jid)

    def established(self, jid: JID) -> list[Event]:
        """The stream belongs to this full JID without further words: bound by other means, or resumed."""
        self.jid = jid
        self.state = State.BOUND
        self._parser.owned_by(jid.bare)
        intake, self._intake = self._intake, None
        rest = intake.drop() if intake is not None else b""
        return self.receive(rest) if rest else []

    def bind_refused(self, error: StanzaError) -> list[Event]:
        """Answer `BindRequested`: no (RFC 6120 §7.6.2, §7.7.2); the client may ask again, a bounded number of times."""
        return self._refuse_bind(error) + self._advance()

    def unbound(self) -> list[Event]:
        """Answer an early `Nonza` that did not lead to a bound stream; the client may go on to bind a resource."""
        return self._stay_unbound() + self._advance() if self.state is State.BINDING else []

    def _refuse_bind(self, error: StanzaError) -> list[Event]:
        self._out.append(Stanza.build("iq", "error", id=self._bind_id, content=error.to_bytes()).to_wire())
        return self._stay_unbound()

    def _stay_unbound(self) -> list[Event]:
        self.state = State.OFFERED
        self._bind_refusals += 1
        if self._bind_refusals >= self._settings.bind_attempts:
            # RFC 6120 §7.7.3
            return [
                self._failed(StreamError(StreamErrorCondition.POLICY_VIOLATION, "too many attempts to bind a resource"))
            ]
        return []

    # ---- the bound stream, and the end ------------------------------------------------------------------------------

    def _bound_items(self, items: list[Item]) -> list[Event]:
        events: list[Event] = []
        for item in items:
            if isinstance(item, StreamEnd):
                events += self._ended()
                break
            if isinstance(item, Nonza) and item.tag == _PEER_ERROR:
                events += self._peer_failed(item)
                break
            if not isinstance(item, StreamHeader):
                events.append(item)
        return events

    def _peer_failed(self, item: Nonza) -> list[Event]:
        """RFC 6120 §4.9.1.1: the peer found an error and has closed its stream; close ours, there is no answer to it."""
        found = StreamErrorCondition.UNDEFINED_CONDITION
        for child in item.el:
            found = _CONDITIONS.get(str(child.tag).removeprefix(f"{{{ns.STREAMS}}}"), found)
        text = item.el.findtext(f"{{{ns.STREAMS}}}text") or ""
        self._ended()
        return [StreamFailed(StreamError(found, text[:256]), by_peer=True)]

    def _ended(self) -> list[Event]:
        if not self.closed_by_us:
            self._out.append(_CLOSE)
            self.closed_by_us = True
        self.state = State.CLOSED
        return [StreamClosed()]

    def _failed(self, error: StreamError) -> StreamFailed:
        self.close(error)
        self.state = State.CLOSED
        self._intake = None
        return StreamFailed(error)

    def fail(self, error: StreamError) -> StreamFailed:
        """Close the stream with an error that the caller found (an address check, an unknown element)."""
        return self._failed(error)


_WAITING: Final = (State.TLS, State.ASKING, State.BINDING, State.CLOSED)
_ACCEPTS: Final[dict[tuple[State, str], Callable[[C2SMachine, KnownStep], list[Event]]]] = {
    (State.OFFERED, f"{{{ns.TLS}}}starttls"): C2SMachine._starttls,
    (State.OFFERED, f"{_SASL}auth"): C2SMachine._auth,
    (State.OFFERED, f"{_SASL}abort"): C2SMachine._abort_nothing,
    (State.SASL, f"{_SASL}auth"): C2SMachine._auth,
    (State.SASL, f"{_SASL}response"): C2SMachine._response,
    (State.SASL, f"{_SASL}abort"): C2SMachine._abort,
}
"""Every element but IQs that is understood before a resource is bound. The rest is answered with `not-authorized`."""

__all__ = [
    "THROTTLED",
    "AuthFailed",
    "Authenticated",
    "BindRequested",
    "C2SMachine",
    "C2SSettings",
    "Event",
    "KeysNeeded",
    "Kind",
    "Nonza",
    "PasswordGiven",
    "StartTls",
    "State",
    "StreamClosed",
    "StreamFailed",
    "StreamOpened",
    "Unaddressable",
]  # fmt: skip
