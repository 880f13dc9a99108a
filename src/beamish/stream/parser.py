"""Incremental parsing of one XML stream (RFC 6120 §4, §11) with lxml's pull parser.

Bytes in; stanzas, other top-level elements, the stream's header and its end out. No chunking of the input changes what
comes out. Everything that could grow without bound is limited while it grows, not when it is complete.
"""

from __future__ import annotations

import pyexpat
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

from lxml import etree

from beamish.stream.names import NameLedger
from beamish.xmpp import ns
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.stanza import AddressMalformed, SenderMalformed, Stanza, take
from beamish.xmpp.xml import Element, escape_attr

_STANZA_TAGS: Final = {f"{{{ns.CLIENT}}}{name}": name for name in ("message", "presence", "iq")}
_EVENTS: Final = ("start", "end", "comment", "pi")
_BOUNDARY: Final = (b"/>", b"</message>", b"</presence>", b"</iq>")


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """Bounds of what one stanza may be; bytes are those on the wire."""

    stanza_bytes: int = 262_144
    depth: int = 64
    elements: int = 2_000
    attributes: int = 256


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """The start tag of a stream (RFC 6120 §4.7). Attributes are as written; "" when absent."""

    to: str
    sender: str
    version: str
    lang: str
    id: str
    content_ns: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Nonza:
    """A top-level element that is no stanza: STARTTLS, SASL, stream management, client state."""

    el: Element

    @property
    def tag(self) -> str:
        """The element's name in Clark notation."""
        return str(self.el.tag)


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The peer sent `</stream:stream>`."""


@dataclass(frozen=True, slots=True)
class Unaddressable:
    """A stanza whose `to` is no JID; `reply` is the complete answer, None where none may be sent."""

    reply: bytes | None
    reason: str


Item: TypeAlias = "Stanza | Nonza | StreamHeader | StreamEnd | Unaddressable"


def _bad(condition: StreamErrorCondition, text: str = "") -> StreamError:
    return StreamError(condition, text)


class StreamParser:
    """Parses one stream, from its header to its end; a restarted stream needs a new one.

    `feed` returns complete items and raises `StreamError`; items found before the error are in `taken`, so that nothing
    that was complete is lost.
    """

    __slots__ = (
        "_attributes",
        "_count",
        "_depth",
        "_header_attrs",
        "_ledger",
        "_limits",
        "_nsmap",
        "_owner",
        "_pending",
        "_prefix",
        "_pull",
        "_root",
        "_tail",
        "lang",
        "taken",
    )

    def __init__(self, limits: ParserLimits, ledger: NameLedger, owner: Hashable | None = None) -> None:
        self._limits = limits
        self._ledger = ledger
        self._owner = owner
        self._depth = 0
        self._count = 0
        self._attributes = 0
        self._pending = 0
        self._root: Element | None = None
        self._prefix: str | None = "stream"
        self._nsmap: dict[str | None, str] = {}
        self._tail = b""
        self.lang = ""
        self.taken: list[Item] = []
        self._pull: etree.XMLPullParser | None = _new_pull()

    @property
    def idle(self) -> bool:
        """True while no parser is held (see `park`)."""
        return self._pull is None

    def owned_by(self, owner: Hashable) -> None:
        """Charge new names to this account from now on."""
        self._owner = owner

    def park(self) -> bool:
        """Give the underlying parser back (10 KiB) if the stream stands between stanzas. True if it did.

        The next `feed` makes a new one and primes it with a header that declares what the real one declared.
        """
        if self._pull is None:
            return True
        if self._root is None or self._depth != 1 or len(self._root) or self._pending:
            return False
        if not self._tail.endswith(_BOUNDARY):
            return False
        self._pull = None
        self._root = None
        return True

    def rebase(self) -> None:
        """Read what follows the stream's header with `jabber:client` in the place of the header's default namespace.

        Server and component streams use another content namespace for the same stanzas (RFC 6120 §4.8.3); this way
        they come out as everywhere else. To be called when the header was taken, before anything behind it is fed.
        """
        self._nsmap[None] = ns.CLIENT
        self._pull = None
        self._root = None

    def _unpark(self) -> None:
        self._pull = pull = _new_pull()
        prefix = f"{self._prefix}:" if self._prefix else ""
        names = "".join(
            f" xmlns{':' + p if p else ''}='{escape_attr(u)}'" for p, u in self._nsmap.items() if p != "xml"
        )
        pull.feed(f"<{prefix}stream{names}>".encode())
        for _, el in cast("Iterable[tuple[str, Element]]", pull.read_events()):
            self._root = el

    def feed(self, data: bytes) -> list[Item]:
        """Parse more bytes of the stream. Raises `StreamError`; see `taken` for what came before it."""
        taken: list[Item] = []
        self.taken = taken
        pull = self._pull
        if pull is None:
            if not data.strip(b" \t\r\n"):
                return taken  # a whitespace keep-alive needs no parser
            self._unpark()
            pull = self._pull
            assert pull is not None
        failure: etree.XMLSyntaxError | None = None
        before = self._pending
        try:
            pull.feed(data)
        except etree.XMLSyntaxError as exc:
            failure = exc
        self._pending += len(data)
        self._drain(pull, taken)
        if failure is not None and not (taken and type(taken[-1]) is StreamEnd):
            raise self._malformed(failure)
        if self._depth == 1:
            self._between(data, before)
        elif self._pending > self._limits.stanza_bytes + len(data):
            raise _bad(StreamErrorCondition.POLICY_VIOLATION, f"stanza larger than {self._limits.stanza_bytes} bytes")
        return taken

    def _between(self, data: bytes, before: int) -> None:
        """Between stanzas: drop white space that collected in the tree, note where the input ended."""
        root = self._root
        if root is not None and not len(root):
            if root.text:
                if root.text.strip():
                    raise _bad(StreamErrorCondition.INVALID_XML, "text between stanzas")
                root.text = None
            if data[-1:] == b">":
                self._pending = 0
                self._tail = data[-12:]
            elif not data.strip(b" \t\r\n"):
                self._pending = before  # a keep-alive, or white space inside an unfinished tag: neither begins a stanza
            else:
                self._pending = max(self._pending, 1)

    def _drain(self, pull: etree.XMLPullParser, taken: list[Item]) -> None:
        known = self._ledger.known
        limits = self._limits
        depth = self._depth
        for action, el in cast("Iterable[tuple[str, Element]]", pull.read_events()):
            if action == "start":
                depth += 1
                if el.tag not in known:
                    self._charge(str(el.tag))
                keys = el.keys()
                if keys:
                    for key in keys:
                        if key not in known:
                            self._charge(str(key))
                    if len(keys) > limits.attributes:
                        raise _bad(StreamErrorCondition.POLICY_VIOLATION, "too many attributes")
                if depth > 2:
                    self._count += 1
                    if depth > limits.depth or self._count > limits.elements:
                        raise _bad(StreamErrorCondition.POLICY_VIOLATION, "stanza too deep or too many elements")
                elif depth == 1:
                    self._depth = 1
                    taken.append(self._open(el))
                    known = self._ledger.known
                else:
                    self._count = 0
            elif action == "end":
                depth -= 1
                if depth == 1:
                    self._depth = 1
                    self._take(el, taken)
                elif depth == 0:
                    self._depth = 0
                    taken.append(StreamEnd())
                    return
            else:
                raise _bad(StreamErrorCondition.RESTRICTED_XML, f"{action} is not allowed")
        self._depth = depth

    def _charge(self, name: str) -> None:
        if not self._ledger.charge(name, self._owner):
            raise _bad(StreamErrorCondition.POLICY_VIOLATION, "too many element or attribute names not seen before")

    def _open(self, root: Element) -> StreamHeader:
        self._root = root
        self._prefix = root.prefix
        self._nsmap = dict(root.nsmap)
        if cast("Any", root.getroottree().docinfo).doctype:
            raise _bad(StreamErrorCondition.RESTRICTED_XML, "a document type is not allowed")
        self._pending = 0
        self.lang = root.get(ns.XML_LANG, "")
        header = StreamHeader(
            to=root.get("to", ""),
            sender=root.get("from", ""),
            version=root.get("version", ""),
            lang=self.lang,
            id=root.get("id", ""),
            content_ns=self._nsmap.get(None, ""),
        )
        if root.tag == f"{{{ns.STREAM}}}stream":
            return header
        if str(root.tag).endswith("}stream"):
            raise _bad(StreamErrorCondition.INVALID_NAMESPACE, f"the stream's namespace is {ns.STREAM}")
        if root.prefix is not None and root.tag == "stream":
            raise _bad(StreamErrorCondition.BAD_NAMESPACE_PREFIX)
        raise _bad(StreamErrorCondition.BAD_FORMAT, "the first element of a stream is <stream:stream>")

    def _take(self, el: Element, taken: list[Item]) -> None:
        """A top-level element is complete: freeze it, then free its place in the tree."""
        root = self._root
        assert root is not None
        if root.text or (len(root) and el.getprevious() is not None):
            self._text_between(root, el)
        name = _STANZA_TAGS.get(el.tag)
        if name is not None:
            try:
                stanza = take(el, self.lang, name)
                if len(stanza.body) > self._limits.stanza_bytes:
                    raise _bad(
                        StreamErrorCondition.POLICY_VIOLATION, f"stanza larger than {self._limits.stanza_bytes} bytes"
                    )
                if b"&" in stanza.body and _has_entity(el):
                    raise _bad(StreamErrorCondition.RESTRICTED_XML, "entity references are not allowed")
                taken.append(stanza)
            except AddressMalformed as exc:
                taken.append(Unaddressable(exc.reply, str(exc)))
            except SenderMalformed as exc:
                raise _bad(StreamErrorCondition.INVALID_FROM, str(exc)) from exc
        else:
            taken.append(Nonza(el))
        root.remove(el)
        if el.tail:
            el.tail = None
        self._pending = 0

    def _text_between(self, root: Element, el: Element) -> None:
        previous = el.getprevious()
        texts = [root.text or ""]
        while previous is not None:
            texts.append(previous.tail or "")
            previous = previous.getprevious()
        if any(text.strip() for text in texts):
            raise _bad(StreamErrorCondition.INVALID_XML, "text between stanzas")
        root.text = None

    def _malformed(self, failure: etree.XMLSyntaxError) -> StreamError:
        if self._depth == 0 and self._root is not None:
            return _bad(StreamErrorCondition.NOT_WELL_FORMED, "data after the end of the stream")
        return _stream_error_of(failure)


def _new_pull() -> etree.XMLPullParser:
    return etree.XMLPullParser(
        events=_EVENTS,
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        huge_tree=False,
        load_dtd=False,
        remove_blank_text=False,
    )


def _has_entity(el: Element) -> bool:
    return any(node.tag is etree.Entity for node in el.iter(etree.Entity))


def _stream_error_of(failure: etree.XMLSyntaxError) -> StreamError:
    codes = cast("Any", etree.ErrorTypes)
    code = cast("Any", failure).code
    if code in (codes.ERR_UNDECLARED_ENTITY, codes.WAR_UNDECLARED_ENTITY, codes.ERR_ENTITY_PE_INTERNAL):
        return _bad(StreamErrorCondition.RESTRICTED_XML, "entity references are not allowed")
    if code in (codes.NS_ERR_UNDEFINED_NAMESPACE, codes.NS_ERR_QNAME):
        return _bad(StreamErrorCondition.BAD_NAMESPACE_PREFIX)
    if code in (codes.ERR_UNSUPPORTED_ENCODING, codes.ERR_UNKNOWN_ENCODING):
        return _bad(StreamErrorCondition.UNSUPPORTED_ENCODING)
    return _bad(StreamErrorCondition.NOT_WELL_FORMED)


class Gate:
    """A second, throw-away look at everything that arrives before a session is bound.

    Expat frees its names with its parser, so what strangers invent costs nothing that lasts. It also sees document
    types, comments, processing instructions and encodings before lxml is given them, and tells where a top-level
    element ends, so that what follows `<starttls/>` or `<auth/>` can be kept apart from what precedes it.
    """

    __slots__ = ("_depth", "_error", "_ledger", "_limits", "_names", "_owner", "_parser", "_size", "ends")

    def __init__(self, limits: ParserLimits, ledger: NameLedger, owner: Hashable | None = None) -> None:
        self._limits = limits
        self._ledger = ledger
        self._owner = owner
        self._depth = 0
        self._size = 0
        self._names: set[str] = set()
        self.ends = False
        parser = pyexpat.ParserCreate("utf-8", "}")
        if hasattr(parser, "SetReparseDeferralEnabled"):
            parser.SetReparseDeferralEnabled(False)  # a token must be seen when its last byte is
        parser.buffer_text = False
        parser.ordered_attributes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = self._refuse("a document type is not allowed")
        parser.CommentHandler = self._refuse("comments are not allowed")
        parser.ProcessingInstructionHandler = self._refuse("processing instructions are not allowed")
        parser.XmlDeclHandler = self._declaration
        self._parser = parser

    def feed(self, segment: bytes) -> bool:
        """Look at bytes up to and including one `>`. True when a top-level element (or the header) ended with them.

        Raises `StreamError`.
        """
        self.ends = False
        self._size += len(segment)
        try:
            self._parser.Parse(segment, False)
        except pyexpat.ExpatError as exc:
            raise self._expat_error(exc) from exc
        if self.ends:
            self._size = 0
        elif self._size > self._limits.stanza_bytes:
            raise _bad(StreamErrorCondition.POLICY_VIOLATION, "too much data before a complete element")
        return self.ends

    def _start(self, tag: str, attributes: list[str]) -> None:
        self._depth += 1
        if self._depth > self._limits.depth:
            raise _bad(StreamErrorCondition.POLICY_VIOLATION, "stanza too deep or too many elements")
        if len(attributes) > 2 * self._limits.attributes:
            raise _bad(StreamErrorCondition.POLICY_VIOLATION, "too many attributes")
        for name in (tag, *attributes[::2]):
            clark = "{" + name if "}" in name else name
            if clark not in self._ledger.known and clark not in self._names:
                if not self._ledger.charge(clark, self._owner):
                    raise _bad(
                        StreamErrorCondition.POLICY_VIOLATION, "too many element or attribute names not seen before"
                    )
                self._names.add(clark)
        if self._depth == 1:
            self.ends = True

    def _end(self, _tag: str) -> None:
        self._depth -= 1
        if self._depth <= 1:
            self.ends = True

    def _refuse(self, text: str):  # type: ignore[no-untyped-def]
        def handler(*_: object) -> None:
            raise _bad(StreamErrorCondition.RESTRICTED_XML, text)

        return handler

    def _declaration(self, version: str, encoding: str | None, _standalone: int) -> None:
        if version != "1.0":
            raise _bad(StreamErrorCondition.NOT_WELL_FORMED, "XML 1.0 is what XMPP uses")
        if encoding is not None and encoding.lower() not in ("utf-8", "utf8"):
            raise _bad(StreamErrorCondition.UNSUPPORTED_ENCODING, "streams are UTF-8")

    def _expat_error(self, exc: pyexpat.ExpatError) -> StreamError:
        code = exc.code
        if code == 11:  # XML_ERROR_UNDEFINED_ENTITY
            return _bad(StreamErrorCondition.RESTRICTED_XML, "entity references are not allowed")
        if code == 27:  # XML_ERROR_UNBOUND_PREFIX
            return _bad(StreamErrorCondition.BAD_NAMESPACE_PREFIX)
        if code in (18, 19):  # XML_ERROR_UNKNOWN_ENCODING, XML_ERROR_INCORRECT_ENCODING
            return _bad(StreamErrorCondition.UNSUPPORTED_ENCODING, "streams are UTF-8")
        return _bad(StreamErrorCondition.NOT_WELL_FORMED)
