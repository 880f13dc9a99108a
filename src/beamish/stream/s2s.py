"""What both directions of a server-to-server stream share (RFC 6120 §4, §8.1, §13), without I/O.

Bytes go in through `receive`, events come out, `data_to_send` gives what must be written. `S2SIn` is the receiving
server's side, `S2SOut` the initiating one's. Until a domain pair is authenticated, input is cut at the end of each
top-level element, and what follows waits until that element has been dealt with; nothing from before a TLS handshake or
a stream restart is interpreted after it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias

from beamish.stream import dialback
from beamish.stream import features as feat
from beamish.stream.dialback import DialbackSecret
from beamish.stream.names import NameLedger
from beamish.stream.opening import is_one_or_more
from beamish.stream.parser import Gate, Item, Nonza, ParserLimits, StreamEnd, StreamHeader, StreamParser, Unaddressable
from beamish.stream.sasl import FailureCondition
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import AddressMalformed, SenderMalformed, Stanza, take
from beamish.xmpp.xml import Element, escape_attr

CLOSE: Final = b"</stream:stream>"
BIDI: Final = "urn:xmpp:bidi"
BIDI_FEATURE: Final = "urn:xmpp:features:bidi"
DIALBACK_FEATURE: Final = "urn:xmpp:features:dialback"
SM: Final = "urn:xmpp:sm:3"

_SM_TAGS: Final = frozenset(
    f"{{{SM}}}{name}" for name in ("r", "a", "enable", "enabled", "resume", "resumed", "failed")
)
_SERVER_STANZAS: Final = {f"{{{ns.SERVER}}}{name}": name for name in ("message", "presence", "iq")}

EARLY_NAMES: Final = frozenset(
    _SM_TAGS
    | {f"{{{SM}}}sm", f"{{{DIALBACK_FEATURE}}}errors", f"{{{ns.SASL}}}challenge", f"{{{ns.DIALBACK}}}error"}
    | {f"{{{ns.LIMITS}}}{name}" for name in ("limits", "max-bytes", "idle-seconds")}
    | {f"{{{ns.STANZAS}}}{condition.value}" for condition in Condition}
    | {f"{{{ns.STANZAS}}}remote-connection-failed"}  # of XEP-0220 §2.5 alone
    | {f"{{{ns.SASL}}}{condition.value}" for condition in FailureCondition}
)
"""What is understood before a domain is authenticated, besides what every `NameLedger` knows."""

Pair: TypeAlias = tuple[str, str]
"""Our domain and the remote one."""


class Stage(Enum):
    """Where a stream stands: expecting a header, negotiating, in a TLS handshake, carrying stanzas, over."""

    HEADER = auto()
    NEGOTIATING = auto()
    TLS = auto()
    OPEN = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class StartTls:
    """Send what waits, make the TLS handshake, then call `tls_established`."""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A domain pair may exchange stanzas now: `method` is `external` or `dialback`."""

    local: str
    remote: str
    method: str


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """The stream is over because of an error: ours (it is ready to be sent) or, `by_peer`, the other server's."""

    error: StreamError
    by_peer: bool = False


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The peer closed its stream in order; our closing tag is ready to be sent."""


Event: TypeAlias = object
"""Stanza, Nonza, Unaddressable or one of the dataclasses of the stream modules."""


@dataclass(frozen=True, slots=True)
class S2SSettings:
    """What server streams of this server offer and tolerate. One object serves all streams."""

    serves: Callable[[str], bool]
    """Whether anything here answers for a (prepared) domain."""
    new_id: Callable[[], str]
    ledger: NameLedger
    secret: DialbackSecret
    limits: ParserLimits = field(default_factory=ParserLimits)
    unauthenticated_bytes: int = 65_536
    pairs_per_stream: int = 100
    external: bool = True
    dialback: bool = True
    bidi: bool = True
    resumption: bool = True
    idle_seconds: int = 0
    """Seconds after which a stream that a peer opened is closed if nothing goes on it; 0 if it is not said."""
    failed_claims: int = 20
    """Domains that a peer may say it speaks for in vain before its stream is closed."""

    def __post_init__(self) -> None:
        """Make known what is understood before authentication; strangers' other names come to nothing."""
        self.ledger.learn(EARLY_NAMES)

    def own_limits(self) -> bytes:
        """What this server bears, as XEP-0478 announces it."""
        return feat.limits(self.limits.stanza_bytes, self.idle_seconds or None)


def fail(condition: StreamErrorCondition, text: str = "") -> StreamError:
    """A stream error of ours."""
    return StreamError(condition, text)


def domain_of(text: str) -> str:
    """A prepared domain from an attribute. Raises `JidMalformed` for anything else (also a full address)."""
    jid = JID.parse(text)
    if jid != jid.domain:
        raise JidMalformed("domainpart", "not a domain alone")
    return jid.domain


class ServerStream:
    """The common machinery; see the module. Subclasses implement `_opened`, `_negotiate` and `_nonza`."""

    __slots__ = (
        "_early_bytes",
        "_gate",
        "_head",
        "_header_sent",
        "_held",
        "_out",
        "_parser",
        "_restarting",
        "_settings",
        "_unfinished",
        "closed_by_us",
        "pairs",
        "peer_bytes",
        "peer_idle",
        "secure",
        "stage",
        "stream_id",
        "taken",
    )

    content_ns: str = ns.SERVER

    def __init__(self, settings: S2SSettings, *, secure: bool = False) -> None:
        self._settings = settings
        self._early_bytes = 0
        self._held = b""
        self._out: list[bytes] = []
        self._header_sent = False
        self._restarting = False
        self.secure = secure
        self.closed_by_us = False
        self.stream_id = ""
        self.pairs: set[Pair] = set()
        """Pairs whose remote end may send stanzas here."""
        self.peer_bytes = self.peer_idle = 0
        """Bytes of a stanza and seconds of silence that the peer bears as far as it has said so (XEP-0478), otherwise 0."""
        self.taken = 0
        """Top-level elements that the last `receive` took from an open stream, whatever became of them."""
        self._new_stream()

    def _new_stream(self) -> None:
        self.stage = Stage.HEADER
        self._head = b""
        """The peer's header as it came."""
        self._unfinished = bytearray()
        """What came of the top-level element that is not complete yet."""
        self._parser = StreamParser(self._settings.limits, self._settings.ledger, self._owner())
        self._gate: Gate | None = Gate(self._settings.limits, self._settings.ledger, self._owner())

    def _owner(self) -> Hashable | None:
        """Who pays for element names not seen before: an authenticated domain, or nobody in particular."""
        return next((remote for _, remote in self.pairs), None)

    # ---- for subclasses ---------------------------------------------------------------------------------------------

    def _opened(self, header: StreamHeader) -> list[Event]:
        raise NotImplementedError

    def _negotiate(self, item: Nonza) -> list[Event]:
        raise NotImplementedError

    def _nonza(self, item: Nonza) -> list[Event]:
        raise NotImplementedError

    # ---- bytes ------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the peer; never raises for what the peer did."""
        self.taken = 0
        if self.stage is Stage.OPEN:
            return self._receive_open(data)
        if self.stage is Stage.CLOSED:
            return []
        self._early_bytes += len(data)
        if self._early_bytes > self._settings.unauthenticated_bytes:
            return [self.fail(fail(StreamErrorCondition.POLICY_VIOLATION, "too much data before authentication"))]
        self._held += data
        return self._advance()

    def receive_eof(self) -> list[Event]:
        """The peer closed its side of the connection without closing the stream."""
        if self.stage is Stage.CLOSED:
            return []
        if self._header_sent and not self.closed_by_us:
            self._out.append(CLOSE)
            self.closed_by_us = True
        self.stage = Stage.CLOSED
        return [StreamClosed()]

    def data_to_send(self) -> bytes:
        """Everything that must be written now; drains it."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def send(self, data: bytes) -> None:
        """Put a complete element into the stream."""
        self._out.append(data)

    def park(self) -> bool:
        """Free the parser while the stream is idle; see `StreamParser.park`."""
        return self.stage is Stage.OPEN and self._parser.park()

    def discard(self) -> None:
        """The connection is gone, and nothing more will be received: free what reading took."""
        self._parser.discard()
        self._gate = None
        self._held = self._head = b""
        self._unfinished.clear()

    def close(self, error: StreamError | None = None) -> None:
        """Close the stream from our side, with an error or orderly (RFC 6120 §4.4); the peer may still finish."""
        if self.stage is Stage.CLOSED or self.closed_by_us:
            return
        if not self._header_sent:
            self._send_header("", "")
        if error is not None:
            self._out.append(error.to_bytes())
            self.stage = Stage.CLOSED
        self._out.append(CLOSE)
        self.closed_by_us = True

    def fail(self, error: StreamError) -> StreamFailed:
        """Close the stream with an error of ours."""
        self.close(error)
        self.stage = Stage.CLOSED
        self._held = b""
        return StreamFailed(error)

    def tls_established(self) -> None:
        """The handshake is done; a new stream begins."""
        self.secure = True
        self._held = b""
        self._header_sent = False
        self._new_stream()

    # ---- taking input apart -----------------------------------------------------------------------------------------

    def _receive_open(self, data: bytes) -> list[Event]:
        failed: StreamError | None = None
        try:
            items = self._parser.feed(data)
        except StreamError as error:
            items, failed = self._parser.taken, error
        self.taken = len(items)
        events: list[Event] = []
        for item in items:
            if type(item) is Stanza:
                if not self._welcome(item):
                    return [*events, self.fail(self._unwelcome(item))]
                events.append(item)
            elif isinstance(item, StreamEnd):
                return events + self._ended()
            elif isinstance(item, Nonza):
                try:
                    events += self._open_nonza(item)
                except StreamError as error:
                    return [*events, self.fail(error)]
                if self.stage is Stage.CLOSED:  # what follows in this piece of input is not looked at any more
                    return events
            elif isinstance(item, Unaddressable):
                try:
                    events.append(self._unaddressable(item))
                except StreamError as error:
                    return [*events, self.fail(error)]
        if failed is not None:
            events.append(self.fail(failed))
        return events

    def _open_nonza(self, item: Nonza) -> list[Event]:
        tag = item.tag
        if tag in _SM_TAGS:
            return [item]
        name = _SERVER_STANZAS.get(tag)
        if name is not None:
            return self._prefixed(item.el, name)
        if tag == f"{{{ns.STREAM}}}error":
            return [self._peer_failed(item.el)]
        return self._nonza(item)

    def _prefixed(self, el: Element, name: str) -> list[Event]:
        """A stanza that names the server namespace itself instead of inheriting it from the header."""
        try:
            # without its tree, which is in another namespace than the rest of the server expects
            stanza = take(el, self._parser.lang, name).detached()
        except AddressMalformed as exc:
            return [self._unaddressable(Unaddressable(exc.reply, str(exc)))]
        except SenderMalformed as exc:
            return [self._unaddressable(Unaddressable(None, str(exc), exc.domain))]
        if not self._welcome(stanza):
            raise self._unwelcome(stanza)
        return [stanza]

    def _welcome(self, stanza: Stanza) -> bool:
        """Whether the peer may send this: every address is checked on every stanza (RFC 6120 §8.1.2.2)."""
        to, sender = stanza.to, stanza.sender
        return to is not None and sender is not None and (to.domain, sender.domain) in self.pairs

    def _unaddressable(self, item: Unaddressable) -> Unaddressable:
        """A stanza whose `to` or `from` is no JID; the answer, if there may be one, says which of our domains it came to.

        A `from` that is none costs its stanza and not the stream, if it is of a domain that the peer speaks for: whom other
        servers let in, with newer or older tables of Unicode, is nothing that all their users should be cut off for.
        """
        reply, reason = item.reply, item.reason
        if item.claimed is not None and not self._talks_to(item.claimed):
            raise fail(StreamErrorCondition.INVALID_FROM, reason)
        if reply is None:
            return item
        if reply.to is None:
            raise fail(StreamErrorCondition.IMPROPER_ADDRESSING, "a stanza between servers has a 'to' and a 'from'")
        local = self._talks_to(reply.to.domain)
        if not local:
            raise fail(StreamErrorCondition.INVALID_FROM, f"this stream is not authenticated for {reply.to.domain}")
        if reply.sender is None or (reply.sender.domain, reply.to.domain) not in self.pairs:
            reply = reply.replace(sender=JID.of("", local))
        return Unaddressable(reply, reason)

    def _talks_to(self, remote: str) -> str:
        """Our domain that the peer may send to in the name of `remote`; "" if there is none."""
        return min((local for local, domain in self.pairs if domain == remote), default="")

    def _unwelcome(self, stanza: Stanza) -> StreamError:
        if stanza.to is None or stanza.sender is None:
            # RFC 6120 §8.1.1.2, §8.1.2.2
            return fail(StreamErrorCondition.IMPROPER_ADDRESSING, "a stanza between servers has a 'to' and a 'from'")
        if any(remote == stanza.sender.domain for _, remote in self.pairs):
            return fail(StreamErrorCondition.HOST_UNKNOWN, f"this stream is not for {stanza.to.domain}")
        return fail(StreamErrorCondition.INVALID_FROM, f"this stream is not authenticated for {stanza.sender.domain}")

    def _advance(self) -> list[Event]:
        """Interpret held bytes, one top-level element at a time, as far as the stage allows."""
        events: list[Event] = []
        while self._held and self.stage not in (Stage.TLS, Stage.CLOSED):
            if self.stage is Stage.OPEN:
                held, self._held = self._held, b""
                return events + self._receive_open(held)
            if self.stage is Stage.HEADER and self._restarting:
                self._held = self._held.lstrip(b" \t\r\n")
                if not self._held:
                    break
                self._restarting = False
            gate = self._gate
            assert gate is not None
            cut = gate.end_of(self._held, 0)
            segment, self._held = self._held[:cut], self._held[cut:]
            try:
                taken = gate.feed(segment)
                self._unfinished += segment
                if gate.between:
                    self._head = self._head or bytes(self._unfinished)
                    self._unfinished.clear()
                for item in self._parser.feed(taken):
                    events += self._item(item)
            except StreamError as error:
                events.append(self.fail(error))
        return events

    def _item(self, item: Item) -> list[Event]:
        if isinstance(item, StreamHeader):
            if item.content_ns not in ("", self.content_ns, ns.STREAM):
                raise fail(StreamErrorCondition.INVALID_NAMESPACE, f"the content namespace is {self.content_ns}")
            self._parser.rebase()
            return self._opened(item)
        if isinstance(item, StreamEnd):
            return self._ended()
        if isinstance(item, Nonza) and item.tag not in _SERVER_STANZAS:
            if item.tag == f"{{{ns.STREAM}}}error":
                return [self._peer_failed(item.el)]
            return self._negotiate(item)
        # RFC 6120 §4.9.3.12
        raise fail(StreamErrorCondition.NOT_AUTHORIZED, "no stanzas before authentication")

    def _heed_limits(self, el: Element) -> None:
        """Note what the peer bears, if it says so in this element (XEP-0478)."""
        found = el.find(f"{{{ns.LIMITS}}}limits")
        if found is not None:
            self.peer_bytes = _number(found.findtext(f"{{{ns.LIMITS}}}max-bytes"))
            self.peer_idle = _number(found.findtext(f"{{{ns.LIMITS}}}idle-seconds"))

    def _open_up(self) -> None:
        """Stanzas may flow: from now on input is parsed as it comes. Raises `StreamError`.

        So far the parser has seen what the gate made of the stream. The one that takes its place reads the header as it
        was, at the expense of who has authenticated, and then what was begun behind it.
        """
        self.stage = Stage.OPEN
        self._gate = None
        self._parser.discard()
        self._parser = StreamParser(self._settings.limits, self._settings.ledger, self._owner())
        self._parser.feed(self._head)
        self._parser.rebase()
        self._held = bytes(self._unfinished) + self._held
        self._unfinished.clear()
        self._head = b""

    def _restart(self) -> None:
        """The peer opens a new stream after SASL (RFC 6120 §6.4.6)."""
        self._header_sent = False
        self._new_stream()
        self._restarting = True

    def _about_our_key(self, item: Nonza) -> list[Event]:
        """Somebody got a key in the name of a domain of ours (XEP-0220 §2.3)."""
        try:
            question = dialback.read(item)
        except JidMalformed as exc:
            raise fail(StreamErrorCondition.IMPROPER_ADDRESSING, str(exc)) from exc
        if question.type:
            raise fail(StreamErrorCondition.UNSUPPORTED_STANZA_TYPE, "no answer was asked for")
        if not self._settings.serves(question.to):
            self._out.append(dialback.answer(question, "error", Condition.ITEM_NOT_FOUND))
            return []
        ok = self._settings.secret.proves(question.key, question.sender, question.to, question.id)
        self._out.append(dialback.answer(question, "valid" if ok else "invalid"))
        return []

    def _ended(self) -> list[Event]:
        if not self.closed_by_us:
            self._out.append(CLOSE)
            self.closed_by_us = True
        self.stage = Stage.CLOSED
        return [StreamClosed()]

    def _peer_failed(self, el: Element) -> StreamFailed:
        if not self.closed_by_us:
            self._out.append(CLOSE)
            self.closed_by_us = True
        self.stage = Stage.CLOSED
        self._held = b""
        return StreamFailed(read_stream_error(el), by_peer=True)

    def _send_header(self, local: str, remote: str) -> None:
        """Our header; without `local` it is the answer to a stream that could not be understood."""
        raise NotImplementedError

    def _header(self, local: str, remote: str, stream_id: str) -> bytes:
        attributes = "".join(
            f" {key}='{escape_attr(value)}'"
            for key, value in (("id", stream_id), ("from", local), ("to", remote))
            if value
        )
        return (
            f"<?xml version='1.0'?><stream:stream xmlns='{self.content_ns}' xmlns:stream='{ns.STREAM}' "
            f"xmlns:db='{ns.DIALBACK}'{attributes} version='1.0'>"
        ).encode()


def _number(text: str | None) -> int:
    """A positive number that somebody wrote; 0 for anything else."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0


def read_stream_error(el: Element) -> StreamError:
    """The error in a peer's `<stream:error/>`; conditions that RFC 6120 does not know become `undefined-condition`."""
    condition = StreamErrorCondition.UNDEFINED_CONDITION
    text = ""
    for child in el:
        tag = str(child.tag)
        if tag == f"{{{ns.STREAMS}}}text":
            text = (child.text or "")[:500]
        elif tag.startswith(f"{{{ns.STREAMS}}}"):
            name = tag[len(ns.STREAMS) + 2 :]
            condition = next((c for c in StreamErrorCondition if c.value == name), condition)
    return StreamError(condition, text)


def supports_version(header: StreamHeader) -> bool:
    """Whether the peer speaks XMPP 1.0 or newer (RFC 6120 §4.7.5)."""
    return is_one_or_more(header.version)
