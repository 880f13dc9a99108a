"""What strangers may send: a second look, with expat, at everything that arrives before a session is bound.

Expat frees its names with its parser, libxml2 does not (see `stream.names`). So as long as nobody has authenticated, the
real parser is not given the peer's bytes at all but what this gate makes of them: elements and attributes that the server
knows, everything else replaced or left out. The gate also sees what lxml tells late or not at all: document types,
comments, processing instructions, encodings and XML versions (RFC 6120 §11).
"""

from __future__ import annotations

import codecs
import pyexpat
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from beamish.stream.markup import CDATA, tag_end
from beamish.stream.names import NameLedger
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.xml import escape_attr, escape_text

WHITE_SPACE: Final = b" \t\r\n"
_UNKNOWN: Final = "urn:beamish:unknown"
"""The namespace of what a stranger named and the server does not know."""
_BLANKS_KEPT: Final = 15
"""libxml2 keeps no copy of blank texts up to this length in its dictionary."""
_NO_NAME: Final = re.compile(rb"[^\w.:\x80-\xff#-]")
"""What ends the name of an entity."""
_NO_TAG: Final = re.compile(rb"[^A-Za-z_:/\x80-\xff]")
"""What cannot follow the `<` of a tag."""
_TOO_BIG: Final = b"<stanza-too-big xmlns='urn:xmpp:errors'/>"
_UNDEFINED_ENTITY: Final = 11
_MISPLACED_DECLARATION: Final = 17
_ENCODING: Final = (18, 19)
"""Numbers of expat's errors: XML_ERROR_UNDEFINED_ENTITY and so on."""


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """Bounds of a top-level element.

    `stanza_bytes` counts the bytes on the wire from its first `<` to its last `>` (RFC 6120 §13.12); `depth` and
    `elements` count the stanza itself; `attributes` is for each element.
    """

    stanza_bytes: int = 262_144
    depth: int = 64
    elements: int = 2_000
    attributes: int = 256


def refuse(condition: StreamErrorCondition, text: str = "") -> StreamError:
    """The stream error for input that cannot be taken."""
    return StreamError(condition, text)


def too_big(limits: ParserLimits) -> StreamError:
    """The error for a top-level element above `stanza_bytes` (RFC 6120 §4.9.3.14)."""
    text = f"stanza larger than {limits.stanza_bytes} bytes"
    return StreamError(StreamErrorCondition.POLICY_VIOLATION, text, app=_TOO_BIG)


def too_complex() -> StreamError:
    """The error for a top-level element above `depth` or `elements`."""
    return refuse(StreamErrorCondition.POLICY_VIOLATION, "stanza too deep or too many elements")


def too_many_attributes() -> StreamError:
    """The error for an element above `attributes`."""
    return refuse(StreamErrorCondition.POLICY_VIOLATION, "too many attributes")


def text_between() -> StreamError:
    """The error for character data on the top level of the stream."""
    return refuse(StreamErrorCondition.INVALID_XML, "text between stanzas")


def restricted() -> StreamError:
    """The error for XML that XMPP does not use (RFC 6120 §11.1)."""
    text = "comments, processing instructions, document types and entity references are not allowed"
    return refuse(StreamErrorCondition.RESTRICTED_XML, text)


def encoding_error() -> StreamError:
    """The error for anything that is not UTF-8 (RFC 6120 §4.9.3.22, §11.6)."""
    return refuse(StreamErrorCondition.UNSUPPORTED_ENCODING, "streams are UTF-8")


class Gate:
    """Looks at one stream from its header on, until the session is bound.

    `feed` gives what the parser may be given. With an `owner`, who has authenticated and answers for the names, that is
    what came; without one it holds nothing but known names. No chunking changes what comes out in the end.
    """

    __slots__ = (
        "_begun",
        "_count",
        "_default",
        "_depth",
        "_kept",
        "_known",
        "_limits",
        "_out",
        "_parser",
        "_quote",
        "_raw",
        "_size",
        "_text",
        "_utf8",
        "_verbatim",
    )

    def __init__(self, limits: ParserLimits, ledger: NameLedger, owner: Hashable | None = None) -> None:
        self._limits = limits
        self._known = ledger.known
        self._raw = owner is not None
        self._depth = 0
        self._count = 0
        self._size = 0
        self._begun = False
        self._default = ""
        self._out: list[str] = []
        self._text: list[str] = []
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._kept = bytearray()
        """The unfinished token at the end of what came: a tag, mostly. Expat is given whole ones only. It would begin anew
        with each piece, the square of what a peer sends; and since 2.6 (earlier where a distribution has taken that over) it
        puts off what has failed once, until there is twice as much, which on some Pythons cannot be switched off."""
        self._quote = b""
        """The quotation that is open at the end of that, if it is a tag."""
        self._verbatim = False
        """Whether expat stands in a CDATA section."""
        parser = pyexpat.ParserCreate("utf-8", "}")
        if hasattr(parser, "SetReparseDeferralEnabled"):
            parser.SetReparseDeferralEnabled(False)  # where it can be
        parser.ordered_attributes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartNamespaceDeclHandler = self._namespace
        parser.StartDoctypeDeclHandler = self._restricted
        parser.CommentHandler = self._restricted
        parser.ProcessingInstructionHandler = self._restricted
        parser.XmlDeclHandler = self._declaration
        parser.StartCdataSectionHandler = self._cdata
        parser.EndCdataSectionHandler = self._cdata_end
        self._parser = parser

    def begin(self, nsmap: dict[str | None, str]) -> None:
        """Stand behind a header that was read elsewhere, with these declarations."""
        spaces = "".join(f" xmlns{':' + p if p else ''}='{escape_attr(uri)}'" for p, uri in nsmap.items())
        self._begun = True
        self._expat(f"<stream:stream{spaces}>".encode())
        self._out.clear()

    @property
    def between(self) -> bool:
        """Whether the header was seen, and nothing is begun behind it or behind the last element."""
        return self._depth == 1 and self._size == 0

    def end_of(self, held: bytes, at: int) -> int:
        """Where the segment should end that begins at an offset: behind the next tag, or with the data.

        It may end sooner, never later; so what stands behind a top-level element is in another one.
        """
        start = bytes(self._kept[:2])
        if self._verbatim and not start:
            end = held.find(b"]]>", at)
            return end + 3 if end >= 0 else len(held)
        if not start:
            at = held.find(b"<", at)
            if at < 0:
                return len(held)
            start = held[at : at + 2]
            at += 1
        if start == b"<?":
            if held[at : at + 1] == b">" and self._kept.endswith(b"?"):
                return at + 1
            end = held.find(b"?>", at)
            return end + 2 if end >= 0 else len(held)
        if start[:1] != b"<" or start in (b"<", b"<!"):
            return held.find(b">", at) + 1 or len(held)
        return tag_end(held, at, self._quote if self._kept else b"")[0] or len(held)

    def feed(self, segment: bytes, *, last: bool = False) -> bytes:
        """Look at bytes that end no later than `end_of` says. Returns what the parser is to be given; raises `StreamError`.

        With `last` nothing will follow, so what is wrong with an unfinished tag is told now.
        """
        if not self._begun:
            self._begin(segment)
        if self._size == 0:
            # what stands between two elements is no part of either
            blank = len(segment) - len(segment.lstrip(WHITE_SPACE))
        else:
            blank = 0
        room = self._limits.stanza_bytes - self._size + blank
        self._parse(segment[:room])
        if last or len(segment) > room:
            self._settle()
        if len(segment) > room:
            raise too_big(self._limits)
        if self._depth <= 1 and segment.endswith(b">") and not self._kept:
            self._size = 0
        else:
            self._size += len(segment) - blank
        if self._raw:
            return segment
        out = "".join(self._out)
        self._out.clear()
        return out.encode()

    def _begin(self, segment: bytes) -> None:
        """RFC 6120 §11.6: neither another encoding nor a byte order mark begins a stream."""
        first = segment.lstrip(WHITE_SPACE)[:1]
        if not first:
            return
        self._begun = True
        if first in (b"\xff", b"\xfe", b"\x00"):
            raise encoding_error()
        if first == b"\x16":
            # a TLS record with a ClientHello (RFC 8446 §5.1); for the log, since the peer expects no XML
            raise refuse(
                StreamErrorCondition.NOT_WELL_FORMED, "TLS does not begin at once on this port, but with STARTTLS"
            )
        if first != b"<":
            raise refuse(StreamErrorCondition.NOT_WELL_FORMED)

    def _parse(self, segment: bytes) -> None:
        try:
            self._utf8.decode(segment)
        except UnicodeDecodeError as exc:
            # what stands before the broken character may be wrong in a way of its own
            self._settle(segment[: max(exc.start, 0)] if exc.object == segment else b"")
            raise encoding_error() from None
        if self._depth == 0 and b"\0" in segment:
            # UTF-16, in which every second byte of a header is zero
            self._settle(segment[: segment.index(b"\0")])
            raise encoding_error()
        if self._kept and not self._may_end(segment):
            self._kept += segment
            return
        rest = bytes(self._kept) + segment
        self._kept.clear()
        while rest and (end := self._whole(rest)):
            self._expat(rest[:end])
            rest = rest[end:]
        self._kept += rest

    def _may_end(self, segment: bytes) -> bool:
        """Whether the unfinished token may end in this segment; each byte is looked at once, but for a few at the beginning."""
        kept = self._kept
        start = kept[:2]
        if start == b"<?":
            return b"?>" in kept[-1:] + segment
        if start[:1] == b"&":
            return _NO_NAME.search(bytes(kept[-2:]) + segment) is not None
        if len(kept) < 2 or start[:1] != b"<" or start == b"<!":
            return True  # it is a few bytes long
        end, self._quote = tag_end(segment, 0, self._quote)
        return end > 0

    def _whole(self, data: bytes) -> int:
        """How many bytes at the beginning are whole, as far as the next tag and with it; 0: none, or a token that goes on."""
        length = len(data)
        if self._verbatim:
            end = data.find(b"]]>")
            return end + 3 if end >= 0 else length - self._tail(data)
        at = data.find(b"<")
        if at > 0:
            return at + _broken_off(data, at)
        if at < 0:
            end = length - self._tail(data)
            reference = _open_reference(data, end)
            return end if reference < 0 else reference + _broken_off(data, reference)
        if length == 1:
            return 0
        if data[1:2] == b"?":
            return data.find(b"?>", 2) + 2 if b"?>" in data[2:] else 0
        if data[1:2] == b"!":
            if data.startswith(CDATA):
                return len(CDATA)
            if CDATA.startswith(data):
                return 0
            if data.startswith(b"<!-") or not self._depth:  # a comment, or a document type
                raise restricted()
            return length
        if _NO_TAG.match(data, 1):
            return length
        end, self._quote = tag_end(data, 1)
        return end

    def _tail(self, text: bytes) -> int:
        """How many bytes at the end of a text mean something together with the next one."""
        if text.endswith((b"]", b"\r")):
            return 2 if text.endswith(b"]]") else 1
        return len(self._utf8.getstate()[0])

    def _settle(self, segment: bytes = b"") -> None:
        """Give expat what it was not given yet: nothing will follow."""
        segment = bytes(self._kept) + segment
        self._kept.clear()
        self._expat(segment)

    def _expat(self, segment: bytes) -> None:
        try:
            self._parser.Parse(segment, False)
        except pyexpat.ExpatError as exc:
            if exc.code == _UNDEFINED_ENTITY:
                raise restricted() from None
            if exc.code == _MISPLACED_DECLARATION and self._depth:
                raise restricted() from None
            if exc.code in _ENCODING:
                raise encoding_error() from None
            # RFC 6120 §4.9.3.13: a prefix that is not declared is no different
            raise refuse(StreamErrorCondition.NOT_WELL_FORMED) from None

    # ---- what expat saw ---------------------------------------------------------------------------------------------

    def _namespace(self, prefix: str | None, uri: str | None) -> None:
        if self._depth == 0 and prefix is None:
            self._default = uri or ""

    def _start(self, tag: str, attributes: list[str]) -> None:
        self._depth += 1
        limits = self._limits
        if len(attributes) > 2 * limits.attributes:
            raise too_many_attributes()
        if self._depth > 1:
            self._count = 1 if self._depth == 2 else self._count + 1
            if self._depth - 1 > limits.depth or self._count > limits.elements:
                raise too_complex()
        if not self._raw:
            self._copy(tag, attributes)

    def _copy(self, tag: str, attributes: list[str]) -> None:
        """Write the start tag as far as the server knows what it says."""
        self._flush()
        uri, _, local = tag.rpartition("}")
        known = ("{" + tag if uri else tag) in self._known
        out = self._out
        if self._depth > 1:
            out.append(f"<{local} xmlns='{escape_attr(uri)}'" if known else f"<unknown xmlns='{_UNKNOWN}'")
        elif known:
            # the header: its default namespace is the content namespace, which the stream machine wants to see
            default = self._default if f"{{{self._default}}}message" in self._known else _UNKNOWN
            content = f" xmlns='{escape_attr(default)}'" if self._default else ""
            if self._default == uri:
                out.append(f"<{local} xmlns='{escape_attr(uri)}'")
            else:
                out.append(f"<stream:{local}{content} xmlns:stream='{escape_attr(uri)}'")
        elif local == "stream" and uri:
            out.append(f"<stream xmlns='{_UNKNOWN}'")
        else:
            out.append("<unknown")
        for name, value in zip(attributes[::2], attributes[1::2], strict=True):
            if name == "http://www.w3.org/XML/1998/namespace}lang":
                name = "xml:lang"
            elif "}" in name or name not in self._known:
                continue
            out.append(f" {name}='{escape_attr(value)}'")
        out.append(">")

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if self._raw:
            return
        self._flush()
        uri, _, local = tag.rpartition("}")
        if self._depth == 0:
            self._out.append(f"</{local}>" if self._default == uri else f"</stream:{local}>")
        else:
            known = ("{" + tag if uri else tag) in self._known
            self._out.append(f"</{local}>" if known else "</unknown>")

    def _characters(self, text: str) -> None:
        if self._depth <= 1:
            if text.strip(" \t\r\n"):
                raise text_between()
        elif not self._raw:
            self._text.append(text)

    def _flush(self) -> None:
        if not self._text:
            return
        text = "".join(self._text)
        self._text.clear()
        if len(text) <= _BLANKS_KEPT or text.strip(" \t\r\n"):
            self._out.append(escape_text(text))

    def _cdata(self) -> None:
        self._verbatim = True

    def _cdata_end(self) -> None:
        self._verbatim = False

    def _restricted(self, *_: object) -> None:
        raise restricted()

    def _declaration(self, version: str, encoding: str | None, _standalone: int) -> None:
        if version != "1.0":
            # RFC 6120 §11.8
            raise refuse(StreamErrorCondition.NOT_WELL_FORMED, "streams are XML 1.0")
        if encoding is not None and encoding.lower() not in ("utf-8", "utf8"):
            raise encoding_error()


def _open_reference(data: bytes, end: int) -> int:
    """Where the reference begins that goes on at an offset, -1 if none does."""
    at = data.rfind(b"&", 0, end)
    return at if at >= 0 and _NO_NAME.search(data, at + 1, end) is None else -1


def _broken_off(data: bytes, at: int) -> bool:
    """Whether the `<` or `&` at an offset breaks off a reference: expat says so when it sees that, too."""
    return _open_reference(data, at) >= 0
