"""Incremental parsing of one XML stream (RFC 6120 §4, §11) with lxml's pull parser.

Bytes in; stanzas, other top-level elements, the stream's header and its end out. No chunking of the input changes what
comes out. Everything that could grow without bound is limited while it grows, not when it is complete.

A tag is given to libxml2 only when it is complete, and larger input in slices: so what a peer can leave behind in its
dictionary of names (see `stream.names`) is known, or at least bounded, when the peer has to be cut.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Final

from beamish.stream.gate import (
    WHITE_SPACE,
    Gate,
    ParserLimits,
    refuse,
    restricted,
    text_between,
    too_big,
    too_many_attributes,
)
from beamish.stream.items import Item, Nonza, StreamEnd, StreamHeader, Unaddressable
from beamish.stream.markup import CDATA, LOOSE, TAG, UNFINISHED, start_of_open, tag_end
from beamish.stream.names import NameLedger
from beamish.stream.tree import TreeReader
from beamish.xmpp.errors import StreamErrorCondition

_SLICE: Final = 16_384
"""Bytes given to libxml2 at a time; it may invent that many names before we can look at them."""
_WORTH_A_CUT: Final = 1_024
"""Bytes behind an unfinished stanza that may hold others which need no parser."""
_MAY_END: Final = re.compile(rb"</(?:message|presence|iq)>")
_ATTRIBUTE: Final = re.compile(rb"=\s*(?:'[^']*'|\"[^\"]*\")")
_END: Final = b"</stream:stream>"
"""How nearly every client closes its stream; that needs no parser."""


class StreamParser(TreeReader):
    """Parses one stream, from its header to its end; a restarted stream needs a new one.

    `feed` returns complete items and raises `StreamError`; items found before the error are in `taken`, so that nothing
    that was complete is lost. `owner` is the account that new names are charged to.
    """

    __slots__ = (
        "_ampersand",
        "_held",
        "_quote",
        "_size",
        "_verbatim",
    )

    def __init__(self, limits: ParserLimits, ledger: NameLedger, owner: Hashable | None = None) -> None:
        super().__init__(limits, ledger, owner)
        self._size = 0
        """Bytes of the unfinished top-level element so far, without `_held`; 0 between two elements."""
        self._held = bytearray()
        """The beginning of a tag that is not complete yet."""
        self._quote = b""
        self._verbatim: bytes | None = None
        """The last two bytes of an unfinished CDATA section, in which tags are no tags; None outside of one."""
        self._ampersand = b""
        """The beginning of a reference that is not complete yet."""

    @property
    def between(self) -> bool:
        """Whether the stream stands between two top-level elements, with nothing of the next one seen."""
        return self._depth == 1 and self._size == 0 and not self._held

    def park(self) -> bool:
        """Give the underlying parser back (10 KiB) if the stream stands between stanzas. True if it did.

        The next `feed` makes a new one and primes it with a header that declares what the real one declared.
        """
        if self._pull is None:
            return self.begun
        if self._root is None or self._depth != 1 or self._size or self._held:
            return False
        self.discard()
        return True

    # ---- bytes ------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Item]:
        """Parse more bytes of the stream. Raises `StreamError`; see `taken` for what came before it."""
        taken: list[Item] = []
        self.taken = taken
        if self._held:
            if not self._tag_ends(data):
                self._hold(data)
                return taken
            data = bytes(self._held) + data
            self._held.clear()
        at = self._shortly(data, taken) if self._quick is not None else 0
        if at:
            data = data[at:]
        if self._size == 0 and self._depth == 1:
            data = data.lstrip(WHITE_SPACE)
            if not data:
                return taken  # a white space keep-alive needs no parser either
            if data[0] != 60:  # "<"
                raise text_between()
            if data == _END and self._prefix == "stream":
                self._depth = 0
                taken.append(StreamEnd())
                return taken
        elif self._depth == 0 and taken:
            return taken  # nothing follows the end of the stream
        last = data.rfind(b"<")
        if last >= 0 and not (data[last + 1 : last + 2] == b"/" and data.endswith(b">")):
            self._quote = b""
            if not self._tag_ends(data[last + 1 :]):
                whole, rest = data[:last], data[last:]
                if whole:
                    self._pieces(whole, taken)
                if self._depth or not taken:
                    self._hold(rest)
                return taken
        self._pieces(data, taken)
        return taken

    def _shortly(self, data: bytes, taken: list[Item]) -> int:
        """Take what needs no parser (see `stream.quick`); where that ends.

        What does need one, and has a good deal behind it, gets it only up to where its stanza may end.
        """
        quick = self._quick
        assert quick is not None
        at, end = 0, len(data)
        lang, ascii_only = self.lang, data.isascii()
        while at < end:
            if self._size == 0 and self._depth == 1:
                if data[at] in WHITE_SPACE:
                    at = len(data) - len(data[at:].lstrip(WHITE_SPACE))
                    continue
                found = quick.read(data, at, lang, ascii_only)
                if found is not None:
                    item, at = found
                    taken.append(item)
                    continue
            if end - at < _WORTH_A_CUT or self._depth == 0:
                break
            cut = _MAY_END.search(data, at)
            if cut is None or (data[at] != 60 and self._size == 0):
                break
            self._pieces(data[at : cut.end()], taken)
            at = cut.end()
        return at

    def _hold(self, data: bytes) -> None:
        self._held += data
        room = self._limits.stanza_bytes - self._size
        if self._verbatim is None:
            self._refuse_declaration(self._held, room)
        if len(self._held) > room:
            raise too_big(self._limits)

    def _refuse_declaration(self, tag: bytes | bytearray, room: int) -> None:
        """Refuse what begins like a comment, a document type or a processing instruction, as soon as that is clear."""
        if tag[1:2] == b"?" and self._depth:
            clear = 2
        elif tag[1:2] == b"!":
            clear = next((n for n in range(3, len(CDATA) + 1) if len(tag) >= n and tag[:n] != CDATA[:n]), 0)
        else:
            return
        if 0 < clear <= room:
            raise restricted()

    def _tag_ends(self, data: bytes) -> bool:
        """Whether the tag that is being held ends in `data`, or is broken by the beginning of another one."""
        end, self._quote = tag_end(data, 0, self._quote)
        return end > 0

    def _pieces(self, data: bytes, taken: list[Item]) -> None:
        """Parse bytes that end with a complete tag, or with text behind one."""
        if len(data) <= _SLICE:
            self._piece(data, taken)
            return
        at = 0
        while at < len(data):
            cut = len(data)
            if cut - at > _SLICE:
                cut = data.rfind(b"<", at + 1, at + _SLICE)
                if cut < 0:
                    cut = data.find(b"<", at + _SLICE)
                    cut = len(data) if cut < 0 else cut
                    self._check_large(data[at:cut])
            self._piece(data[at:cut], taken)
            if taken and self._depth == 0:
                return
            at = cut

    def _check_large(self, piece: bytes) -> None:
        """A single tag of that size is looked at before libxml2 learns its attributes' names."""
        tag = TAG.match(piece)
        if tag is not None and len(_ATTRIBUTE.findall(tag[0])) > 2 * self._limits.attributes:
            raise too_many_attributes()

    def _piece(self, piece: bytes, taken: list[Item]) -> None:
        size = self._size + len(piece)
        if (
            size > self._limits.stanza_bytes
            or (b"!" in piece and b"<!" in piece)
            or (b"?" in piece and b"<?" in piece)
            or self._verbatim is not None
        ):
            self._steps(piece, taken)
            return
        if (b"&" in piece or self._ampersand) and self._loose_ampersand(piece, taken):
            return
        self._fresh = False
        starts = self._push(piece, taken)
        depth = self._depth
        last = piece.rfind(b"<")
        end = piece.find(b">", last)
        if depth and (piece.count(b"<") - piece.count(b"</") != starts or end < 0 <= last):
            # A tag was broken off by another one; inside a quotation, libxml2 would wait for its end.
            self._ledger.lose(piece.count(b"=") + piece.count(b"<"), self._owner)
            raise refuse(StreamErrorCondition.NOT_WELL_FORMED)
        if depth == 1:
            self._size = 0
            if end != len(piece) - 1:
                tag = TAG.match(piece, last) if last >= 0 else None
                if piece[tag.end() if tag is not None else 0 :].strip(WHITE_SPACE):
                    raise text_between()
        elif self._fresh:
            self._size = len(piece) - start_of_open(piece, depth)
        else:
            self._size = size

    def _steps(self, piece: bytes, taken: list[Item]) -> None:
        """As `_piece`, tag by tag: exact where a limit is near, or where something may be that has no place here."""
        limit = self._limits.stanza_bytes
        at = 0
        while at < len(piece):
            between = self._depth == 1 and self._size == 0
            if between:
                at = len(piece) - len(piece[at:].lstrip(WHITE_SPACE))
                if at == len(piece):
                    return
                if piece[at] != 60:  # "<"
                    raise text_between()
            room = limit - self._size
            plain = self._verbatim is None
            cut = self._token(piece, at, room)
            token = piece[at : min(cut, at + room)]
            if cut - at > room and piece[at] == 60:
                raise too_big(self._limits)
            if plain and (b"&" in token or self._ampersand) and self._loose_ampersand(token, taken):
                return
            if token:
                self._push(token, taken)
            if cut - at > room:
                raise too_big(self._limits)
            if self._depth == 0 and taken and type(taken[-1]) is StreamEnd:
                return
            self._size = 0 if self._depth == 1 else self._size + cut - at
            at = cut

    def _loose_ampersand(self, piece: bytes, taken: list[Item]) -> bool:
        """Refuse an `&` that begins no reference: libxml2 would wait for a semicolon, deaf to everything up to there.

        True if the stream ended before it. One at the end may go on in the next piece.
        """
        text = self._ampersand + piece
        shift = len(self._ampersand)
        self._ampersand = b""
        found = LOOSE.search(text)
        if found is None:
            return False
        if UNFINISHED.fullmatch(text, found.start()):
            self._ampersand = text[found.start() :]
            return False
        at = max(found.start() - shift, 0)
        tag = piece.rfind(b"<", 0, at)
        complete = TAG.match(piece, tag) if tag >= 0 else None
        inside = tag >= 0 and (complete is None or complete.end() > at)
        before = piece[: tag if inside else at]
        starts = self._push(before, taken) if before else 0
        if taken and type(taken[-1]) is StreamEnd:
            return True
        between = self._depth == 1 and not inside and before.count(b"<") - before.count(b"</") == starts
        raise text_between() if between else refuse(StreamErrorCondition.NOT_WELL_FORMED)

    def _token(self, piece: bytes, at: int, room: int) -> int:
        """Where the tag, text, or part of a CDATA section ends that begins here.

        Raises `StreamError` for what is none, if that is clear within `room` bytes.
        """
        if self._verbatim is not None:
            rest = self._verbatim + piece[at:]
            end = rest.find(b"]]>")
            if end < 0:
                self._verbatim = rest[-2:]
                return len(piece)
            at += end + 3 - len(self._verbatim)
            self._verbatim = None
            return at
        if piece[at] != 60:
            end = piece.find(b"<", at)
            return len(piece) if end < 0 else end
        if piece.startswith(CDATA, at):
            if self._depth == 1 and room >= len(CDATA):
                raise text_between()
            self._verbatim = b""
            return at + len(CDATA)
        end = piece.find(b"<", at + 1)
        end = len(piece) if end < 0 else end
        self._refuse_declaration(piece[at : min(end, at + len(CDATA))], room)
        tag = TAG.match(piece, at)
        if tag is not None:
            return tag.end()
        if end - at <= room:
            raise refuse(StreamErrorCondition.NOT_WELL_FORMED)  # broken off by another one
        return end


__all__ = [
    "Gate",
    "Item",
    "Nonza",
    "ParserLimits",
    "StreamEnd",
    "StreamHeader",
    "StreamParser",
    "Unaddressable",
]
