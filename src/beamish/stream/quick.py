"""The short way for plain stanzas: one regular expression in the place of a parser.

Nearly everything that clients say is of one form: a stanza whose children, and at most their children, carry no
prefixes, with texts and attributes that need no second thought. `PLAIN` accepts only what is well-formed, and only what
reads the same for everybody without knowing where it stands; so the bytes can be relayed as they came. Whatever else
may be legal XML, or is a mistake, is declined and takes the long way through libxml2 (`stream.parser`), which knows all
rules and all errors. Declining is always right: it only costs time (0.7 to 2 µs, against 8 to 20 for the long way).

Names are not charged here (`stream.names`): a stanza with one that is not known yet is declined.
"""

from __future__ import annotations

import re
from typing import Final

from beamish.stream.gate import ParserLimits
from beamish.stream.items import Nonza
from beamish.stream.names import NameLedger
from beamish.stream.plain import ATTRIBUTE, NAME, PAIR, TEXT
from beamish.xmpp import ns
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.patterns import compiled
from beamish.xmpp.stanza import IQ, MESSAGE, PRESENCE, Stanza
from beamish.xmpp.xml import escape_attr, from_bytes

_ATTRIBUTES_AT_MOST: Final = 16
_DEPTH: Final = 3
"""A stanza, its children, and theirs."""
_LARGEST: Final = 16_384
"""Bytes; what is larger takes the long way, where limits are looked at while it is read."""
_CACHED: Final = 4_096
"""Start tags of children whose meaning is remembered. Peers choose them, hence the bound; they are at most 200 bytes."""
_CACHED_TAG: Final = 200

_ATTRIBUTES: Final = rb"(?:%b){0,%d}+" % (ATTRIBUTE, _ATTRIBUTES_AT_MOST)


def _element(group: bytes, content: bytes) -> bytes:
    return rb"<(?P<%b>%b)%b ?(?:/>|>%b</(?P=%b)>)" % (group, NAME, _ATTRIBUTES, content, group)


_GRANDCHILD: Final = _element(b"grandchild", TEXT)
_CHILD: Final = _element(b"child", rb"%b(?:%b%b)*+" % (TEXT, _GRANDCHILD, TEXT))
PLAIN: Final = compiled(
    rb"<(?P<name>message|presence|iq)(?P<attributes>%b) ?(?:/>|>(?P<content>(?:%b)*+)</(?P=name)>)[ \t\n\r]*+"
    % (_ATTRIBUTES, _CHILD)
)
"""A stanza that needs no parser, with the white space behind it. Every repetition is possessive: it never backtracks."""
_PAIRS: Final = re.compile(PAIR)
_FLAT: Final = compiled(rb"<((%b)(%b)) ?(?:/>|>[^<]*</\2>)" % (NAME, _ATTRIBUTES))
_EMPTY: Final = compiled(rb"<((?!message\b|presence\b|iq\b)(%b)(%b)) ?/>[ \t\n\r]*+" % (NAME, _ATTRIBUTES))
_NESTED: Final = compiled(
    rb"<((%b)(%b)) ?(?:/>|>((?:[^<]*(?:<(%b)%b ?(?:/>|>[^<]*</\5>))?)*)</\2>)" % (NAME, _ATTRIBUTES, NAME, _ATTRIBUTES)
)
_TWICE: Final = ~0b1_00001_00001_00001_00001_00001
"""Attributes of a start tag are counted in five bits each, which hold `_ATTRIBUTES_AT_MOST`; these bits show a second one."""
_OWN_LANG: Final = 1 << 15
_RESERVED: Final = frozenset((ns.CLIENT, ns.XML, "http://www.w3.org/2000/xmlns/"))
"""Not for the children of a plain stanza: the stanza's own namespace needs normalising, the others cannot be declared."""
_NAMES: Final = {b"message": MESSAGE, b"presence": PRESENCE, b"iq": IQ}
_CLIENT: Final = ns.CLIENT.encode()


class QuickReader:
    """Reads plain stanzas of one process; shared by all its streams.

    `largest` is the size in bytes that the limits allow to go this way, 0 when they are narrower than what `PLAIN` takes.
    """

    __slots__ = ("_almost", "_known", "_nonzas", "_spaces", "_tags", "largest")

    def __init__(self, limits: ParserLimits, ledger: NameLedger) -> None:
        self._known = ledger.known
        self._spaces = ledger.spaces
        self._tags: dict[bytes, str] = {}
        """Tags by start tag, where that says it all: `active xmlns='http://jabber.org/protocol/chatstates'`."""
        self._almost: dict[bytes, str] = {}
        """Tags by the start tag up to the value of its last attribute: `origin-id xmlns='urn:xmpp:sid:0' id`."""
        self._nonzas: dict[bytes, Nonza] = {}
        """Elements without content by start tag, of which `_tags` knows."""
        # no element is shorter than `<a/>`
        wide = limits.attributes >= _ATTRIBUTES_AT_MOST and limits.depth >= _DEPTH
        self.largest = min(_LARGEST, limits.stanza_bytes, 4 * limits.elements) if wide else 0

    def read(self, data: bytes, at: int, lang: str, ascii_only: bool = False) -> tuple[Stanza | Nonza, int] | None:
        """The item that begins at `at` and where the next one may begin; None where only the long way can tell.

        `lang` is the stream's language, for stanzas that name none (RFC 6120 §8.1.5). `ascii_only`: all of `data` is.
        """
        found = PLAIN.match(data, at)
        if found is None:
            return self._nonza(data, at)
        raw_name, attributes, content, grandchild = found.group(1, 2, 3, 5)  # 4 is the last child's name
        end = found.end()
        if end - at > self.largest:
            return None
        if not ascii_only and not _is_text(data[at:end]):
            return None
        seen = 0
        head = b"<" + raw_name
        type_ = id_ = own_lang = ""
        to = sender = None
        for key, single, double in _PAIRS.findall(attributes):
            # as written: neither kind of quotation holds anything that would have to be escaped but quotes
            value = single if not double else double.replace(b"'", b"&apos;")
            if key == b"to":
                seen += 1
                try:
                    to = JID.parse((single or double).decode())
                except JidMalformed:
                    return None
            elif key == b"id":
                seen += 1 << 5
                id_ = (single or double).decode()
                head += b" id='" + value + b"'"
            elif key == b"type":
                seen += 1 << 10
                type_ = (single or double).decode()
                head += b" type='" + value + b"'"
            elif key == b"xml:lang":
                seen += _OWN_LANG
                own_lang = (single or double).decode()
                head += b" xml:lang='" + value + b"'"
            elif key == b"from":
                seen += 1 << 20
                try:
                    sender = JID.parse((single or double).decode())
                except JidMalformed:
                    return None
            elif key == b"xmlns" and value == _CLIENT:
                seen += 1 << 25
            else:
                return None
        if seen & _TWICE:
            return None  # an attribute that stands there twice
        if lang and not seen & _OWN_LANG:
            own_lang = lang
            head += f" xml:lang='{escape_attr(lang)}'".encode()
        name = _NAMES[raw_name]
        if not content:
            return Stanza(name, type_, id_, sender, to, own_lang, head, b"/>", None, ()), end
        tags = self._children(content, grandchild is not None)
        if tags is None:
            return None
        return Stanza(
            name, type_, id_, sender, to, own_lang, head, b">" + content + b"</" + raw_name + b">", None, tags
        ), end

    def _nonza(self, data: bytes, at: int) -> tuple[Nonza, int] | None:
        """An empty element that is no stanza: an acknowledgement, or a request for one (XEP-0198 §4)."""
        found = _EMPTY.match(data, at)
        if found is None or found.end() - at > self.largest:
            return None
        start, name, attributes = found.groups()
        nonza = self._nonzas.get(start)
        if nonza is None:
            if not start.isascii() or self._tag(start, name, attributes, "") is None:
                return None
            nonza = Nonza(from_bytes(b"<" + start + b"/>"))
            if start in self._tags:  # nothing in it varies, and nobody changes it
                self._nonzas[start] = nonza
        return nonza, found.end()

    def _children(self, content: bytes, nested: bool) -> tuple[str, ...] | None:
        """The tags of the children in Clark notation, when every name in them is known."""
        if nested:
            return self._families(content)
        known = self._tags
        almost = self._almost
        tags = []
        for start, name, attributes in _FLAT.findall(content):
            tag = known.get(start)
            if tag is None:
                tag = almost.get(start[: start.rfind(b"='")])
                if tag is None or b'"' in start:
                    tag = self._tag(start, name, attributes, ns.CLIENT)
                    if tag is None:
                        return None
            tags.append(tag)
        return tuple(tags)

    def _families(self, content: bytes) -> tuple[str, ...] | None:
        """As `_children`, for children that may have some of their own."""
        tags = []
        for start, name, attributes, inner, _ in _NESTED.findall(content):
            tag = self._tag(start, name, attributes, ns.CLIENT)
            if tag is None:
                return None
            if b"<" in inner:
                space = tag[1 : tag.index("}")] if tag[0] == "{" else ""
                for inner_start, inner_name, inner_attributes in _FLAT.findall(inner):
                    if self._tag(inner_start, inner_name, inner_attributes, space) is None:
                        return None
            tags.append(tag)
        return tuple(tags)

    def _tag(self, start: bytes, name: bytes, attributes: bytes, space: str) -> str | None:
        """The tag of one element in a default namespace; None if one of its names is unknown, or an attribute is twofold."""
        others = 0
        last = b""
        if attributes:
            keys = set()
            pairs = _PAIRS.findall(attributes)
            for last, single, double in pairs:
                keys.add(last)
                if last == b"xmlns":
                    space = (single or double).decode()
                    if space not in self._spaces or space in _RESERVED:
                        return None
                else:
                    others += 1
                    if last != b"xml:lang" and last.decode() not in self._known:
                        return None
            if len(keys) != len(pairs):
                return None
        tag = f"{{{space}}}{name.decode()}" if space else name.decode()
        if tag not in self._known:
            return None
        # without a namespace of its own it may mean something else inside of another element
        own = attributes or space == ns.CLIENT
        if own and len(start) <= _CACHED_TAG:
            if not others:
                if len(self._tags) < _CACHED:
                    self._tags[start] = tag
            elif others == 1 and last != b"xmlns" and b'"' not in start and len(self._almost) < _CACHED:
                self._almost[start[: start.rfind(b"='")]] = tag
        return tag


def _is_text(data: bytes) -> bool:
    """Whether bytes beyond ASCII, if there are any, are characters that XML 1.0 §2.2 allows."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\xef\xbf\xbe" not in data and b"\xef\xbf\xbf" not in data


def reader_for(limits: ParserLimits, ledger: NameLedger) -> QuickReader:
    """The reader that all streams with these limits and this ledger share."""
    found = ledger.readers.get(limits)
    if not isinstance(found, QuickReader):
        found = ledger.readers[limits] = QuickReader(limits, ledger)
    return found


__all__ = ["PLAIN", "QuickReader", "reader_for"]
