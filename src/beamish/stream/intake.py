"""What a client sends until it has bound a resource, cut into top-level elements.

Input is held and taken one element at a time, since what follows may have to be understood differently: nothing that was
read before a TLS handshake or a stream restart is interpreted after it. Strangers' input goes through a `Gate` first;
what needs no parser at all is told by its bytes (`stream.known`).
"""

from __future__ import annotations

from beamish.stream import known
from beamish.stream.gate import WHITE_SPACE, Gate
from beamish.stream.items import Item, StreamHeader
from beamish.stream.known import KnownBind, KnownStep
from beamish.stream.names import NameLedger
from beamish.stream.parser import ParserLimits, StreamParser
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID


class Intake:
    """Holds input and gives its elements; `begin` before each stream, the first one too.

    `room` bounds the bytes that are looked at until `owner` is known, over all streams of the connection. `recognise` is
    False in tests that compare both ways.
    """

    __slots__ = (
        "_at",
        "_early",
        "_gate",
        "_held",
        "_known",
        "_ledger",
        "_limits",
        "_owner",
        "_restarted",
        "_room",
        "parser",
    )

    parser: StreamParser
    """The parser of the stream that was begun last."""

    def __init__(self, limits: ParserLimits, ledger: NameLedger, room: int, *, recognise: bool = True) -> None:
        self._limits = limits
        self._ledger = ledger
        self._room = room
        self._known = recognise and known.permits(limits)
        self._held = b""
        self._at = 0
        self._early = 0
        self._owner: JID | None = None
        self._restarted = False
        self._gate: Gate | None = None

    def begin(self, owner: JID | None, *, restarted: bool = False) -> None:
        """A new stream begins; `owner` has authenticated. White space before a `restarted` one is ignored."""
        self._owner = owner
        self._restarted = restarted
        self._gate = None
        self.parser = StreamParser(self._limits, self._ledger, owner)

    # ---- what is held -----------------------------------------------------------------------------------------------

    def add(self, data: bytes) -> None:
        """Hold more input."""
        self._held = self._held[self._at :] + data if self._at < len(self._held) else data
        self._at = 0

    def __len__(self) -> int:
        return len(self._held) - self._at

    @property
    def blank(self) -> bool:
        """Whether nothing but white space is held."""
        return not self._held[self._at :].strip(WHITE_SPACE)

    def drop(self) -> bytes:
        """Hold nothing any more; gives what was held."""
        rest, self._held, self._at = self._held[self._at :], b"", 0
        return rest

    # ---- taking it --------------------------------------------------------------------------------------------------

    def take(self) -> list[Item | KnownStep | KnownBind]:
        """Interpret what is held up to and including one tag, or one whole element. Raises `StreamError`."""
        if self._restarted:
            self.add(self.drop().lstrip(WHITE_SPACE))
            if not self._held:
                return []
            self._restarted = False
        if self._known:
            item = self._recognised() if self.parser.begun else self._opened()
            if item is not None:
                return [item]
        at = self._at
        self._at = cut = self._begun().end_of(self._held, at)
        return list(self._segment(self._held[at:cut]))

    def _opened(self) -> StreamHeader | None:
        if self._gate is not None:
            return None  # some of it was interpreted already
        found = known.header(self._held, self._at)
        if found is None or not self._took(found[1]):
            return None
        self.parser.begin(known.NSMAP, found[0].lang)
        return found[0]

    def _recognised(self) -> KnownStep | KnownBind | None:
        if not self.parser.between:
            return None
        found = known.element(self._held, self._at)
        return found[0] if found is not None and self._took(found[1]) else None

    def _took(self, end: int) -> bool:
        """Go on behind an element, unless a limit is near that the parsers know how to meet."""
        size = end - self._at
        if size > self._limits.stanza_bytes:
            return False
        if self._owner is None:
            if self._early + size > self._room:
                return False
            self._early += size
        self._at = end
        return True

    def _begun(self) -> Gate:
        """The gate of this stream, from its first use on."""
        gate = self._gate
        if gate is None:
            gate = self._gate = Gate(self._limits, self._ledger, self._owner)
            if self.parser.begun:
                gate.begin(known.NSMAP)
        return gate

    def _segment(self, segment: bytes) -> list[Item]:
        over = False
        if self._owner is None:
            room = self._room - self._early
            over = len(segment) > room
            segment = segment[:room]
            self._early += len(segment)
        items = self.parser.feed(self._begun().feed(segment, last=over))
        if over:
            raise StreamError(StreamErrorCondition.POLICY_VIOLATION, "too much data before authentication")
        return items
