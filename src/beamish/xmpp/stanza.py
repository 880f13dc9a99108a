"""Stanzas: addresses as values, content as bytes (RFC 6120 §8).

A stanza is serialised once, when it is taken from the stream. From then on its start tag without addresses (`head`) and
everything after the start tag's attributes (`body`) are immutable bytes; delivery writes `from` and `to` between them.
So a forged `from` cannot survive, no two parsers can disagree about what we relay, and a copy for one more recipient
costs a concatenation. The bytes are in the stream's default namespace, which makes them valid on client and server
streams alike.

This module is the only serialiser of stanzas. It knows nothing of sessions or streams.
"""

from __future__ import annotations

import re
from typing import Final, Self, cast

from lxml import etree

from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.patterns import compiled
from beamish.xmpp.xml import Element, escape_attr, escape_text, local_name, namespace_of, to_bytes, unescape_attr

MESSAGE: Final = "message"
PRESENCE: Final = "presence"
IQ: Final = "iq"
STANZA_NAMES: Final = frozenset((MESSAGE, PRESENCE, IQ))

_tostring = etree.tostring
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, collect_ids=False)
_STREAM_PREFIX = b'xmlns:stream="http://etherx.jabber.org/streams"'
_CLIENT_AS_PREFIX = re.compile(rb' xmlns:(ns[0-9]+)="jabber:client"')
_CLIENT_PREFIX = re.compile(rb'xmlns:[^=\s]+="jabber:client"')
_STREAM_DECLARATIONS = b'xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"'


# the start tag that `to_wire` writes: ">" and "'" never stand inside an attribute value, `from` and `to` come last
_WRITTEN = compiled(
    rb"(?=<(message|presence|iq)\b)(<\w++(?: (?!(?:from|to)=)[\w:.-]++='[^'>]*+')*+)(?: from='([^'>]*+)')?(?: to='([^'>]*+)')?"
)
_WRITTEN_ATTRIBUTES = re.compile(rb" ([\w:.-]+)='([^']*)'")


class AddressMalformed(Exception):
    """The `to` of a received stanza is no JID; `reply` is the `jid-malformed` error (RFC 6120 §8.3.3.8), to the stanza's
    `from` if it has one, and with a `from` only where nothing but the resource was malformed: the bare JID.

    `reply` is None where no error may be sent: for errors and IQ results.
    """

    def __init__(self, text: str, reply: Stanza | None) -> None:
        super().__init__(text)
        self.reply = reply


class SenderMalformed(Exception):
    """The `from` of a received stanza is no JID. `domain` is its domain all the same, "" if not even that is one."""

    def __init__(self, reason: str, domain: str = "") -> None:
        super().__init__(reason)
        self.domain = domain


class Wire:
    """A stanza frozen for many recipients: everything before and after the value of `to`."""

    __slots__ = ("after", "before")

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before = before
        self.after = after

    def addressed(self, to: bytes) -> bytes:
        """The whole stanza for one recipient; `to` is `JID.wire`, already escaped."""
        return b"".join((self.before, to, self.after))


class Stanza:
    """One message, presence or IQ. Immutable by agreement: make a changed one with `replace`, `with_child` or `without`.

    `type` and `id` are "" when absent. `head` is the start tag up to the addresses (`<message type='chat' id='a'`),
    `body` is the rest from the end of the attributes on (`>…</message>` or `/>`).
    """

    __slots__ = ("_el", "_tags", "body", "head", "id", "lang", "name", "sender", "to", "type")

    def __init__(
        self,
        name: str,
        type: str,
        id: str,
        sender: JID | None,
        to: JID | None,
        lang: str,
        head: bytes,
        body: bytes,
        el: Element | None = None,
        tags: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self.id = id
        self.sender = sender
        self.to = to
        self.lang = lang
        self.head = head
        self.body = body
        self._el = el
        self._tags = tags

    def __repr__(self) -> str:
        return f"<Stanza {self.name} type={self.type!r} id={self.id!r} from={self.sender!s} to={self.to!s}>"

    # ---- making -----------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        name: str,
        type: str = "",
        *,
        id: str = "",
        sender: JID | None = None,
        to: JID | None = None,
        lang: str = "",
        content: bytes | Element | None = None,
    ) -> Stanza:
        """Make a stanza of our own. `content` is the children as bytes, or one child element in its own namespace."""
        head = f"<{name}"
        if type:
            head += f" type='{escape_attr(type)}'"
        if id:
            head += f" id='{escape_attr(id)}'"
        if lang:
            head += f" xml:lang='{escape_attr(lang)}'"
        inner = b"" if content is None else content if isinstance(content, bytes) else to_bytes(content)
        body = b">" + inner + b"</" + name.encode() + b">" if inner else b"/>"
        return cls(name, type, id, sender, to, lang, head.encode(), body)

    @classmethod
    def parse(cls, data: bytes) -> Stanza:
        """Read a stanza that `to_wire` wrote (storage, tests). Raises `ValueError` when it is damaged."""
        end = _name_end(data)
        try:
            el = etree.fromstring(data[:end] + b" " + _STREAM_DECLARATIONS + data[end:], _PARSER)
            return take(el)
        except (etree.XMLSyntaxError, AddressMalformed, SenderMalformed) as exc:
            raise ValueError(f"not a stanza: {exc}") from exc

    @classmethod
    def thaw(cls, data: bytes) -> Self:
        """Read a stanza that `to_wire` wrote, without parsing its content: for stored ones that only go out again.

        A third of the cost of `parse`, and no tree that would have to be let go. The content is trusted to be what was
        stored. Raises `ValueError` when the start tag is damaged.
        """
        cut = data.find(b">")
        if data[cut - 1 : cut] == b"/":
            cut -= 1
        found = _WRITTEN.fullmatch(data, 0, cut)
        if found is None:
            made = Stanza.parse(data)
            return cls(made.name, made.type, made.id, made.sender, made.to, made.lang, made.head, made.body)
        raw_name, head, sender, to = found.groups()
        body = data[cut:]
        if body != b"/>" and not body.endswith(b"</" + raw_name + b">"):
            raise ValueError("not a stanza: it has no end")
        type_ = id_ = lang = ""
        for key, value in _WRITTEN_ATTRIBUTES.findall(head):
            if key == b"type":
                type_ = _unescape(value)
            elif key == b"id":
                id_ = _unescape(value)
            elif key == b"xml:lang":
                lang = _unescape(value)
        try:
            return cls(
                raw_name.decode(),
                type_,
                id_,
                None if sender is None else JID.parse(_unescape(sender)),
                None if to is None else JID.parse(_unescape(to)),
                lang,
                head,
                body,
            )
        except JidMalformed as exc:
            raise ValueError(f"not a stanza: {exc}") from exc

    def replace(self, *, sender: JID | None = None, to: JID | None = None) -> Stanza:
        """The same stanza with other addresses; None keeps what is there."""
        return Stanza(
            self.name,
            self.type,
            self.id,
            sender or self.sender,
            to or self.to,
            self.lang,
            self.head,
            self.body,
            self._el,
            self._tags,
        )

    def with_child(self, child: bytes, tag: str = "") -> Stanza:
        """The stanza with one more child at its end; `child` is free-standing XML with a namespace of its own.

        With its `tag` the new stanza's `known_tags` are known if the old one's were; the child must be as plain then.
        """
        if self.body == b"/>":
            body = b">" + child + b"</" + self.name.encode() + b">"
        else:
            cut = len(self.body) - len(self.name) - 3
            body = self.body[:cut] + child + self.body[cut:]
        known = self._tags if tag and self._el is None else None
        tags = None if known is None else (*known, tag)
        return Stanza(self.name, self.type, self.id, self.sender, self.to, self.lang, self.head, body, None, tags)

    def without(self, *children: Element) -> Stanza:
        """The stanza without some of its children (forged ids, hints that end here). The elements are those of `el`."""
        if not children:
            return self
        drop = {id(child) for child in children}
        kept = [child for child in self.el if id(child) not in drop]
        inner = b"".join(content_bytes(child) for child in kept)
        body = b">" + inner + b"</" + self.name.encode() + b">" if inner else b"/>"
        return Stanza(self.name, self.type, self.id, self.sender, self.to, self.lang, self.head, body)

    def detached(self) -> Stanza:
        """The stanza without its element tree, for keeping: the tree holds on to the whole document it came from."""
        if self._el is None:
            return self
        return Stanza(self.name, self.type, self.id, self.sender, self.to, self.lang, self.head, self.body)

    # ---- reading ----------------------------------------------------------------------------------------------------

    @property
    def el(self) -> Element:
        """The stanza as a read-only element in `jabber:client`; parsed again when only the bytes were kept.

        Whether it has the addresses as attributes depends on where it comes from: ask `sender` and `to`.
        """
        if self._el is None:
            data = b"".join((self.head, b" ", _STREAM_DECLARATIONS, self.body))
            self._el = etree.fromstring(data, _PARSER)
        return self._el

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the children in Clark notation, in their order. Often known without an element tree."""
        tags = self._tags
        if tags is None:
            tags = self._tags = tuple(str(child.tag) for child in self.el)
        return tags

    @property
    def known_tags(self) -> tuple[str, ...] | None:
        """`tags` of a stanza that was read without a tree, and has none yet; otherwise None. Its body is plain: in quotation
        marks and texts nothing stands for markup, and only the five entities of XML are used (`stream.quick`)."""
        return self._tags if self._el is None else None

    @property
    def payload(self) -> Element | None:
        """The first child element that is not `<error/>`: what an IQ is about (RFC 6120 §8.2.3)."""
        for child in self.el:
            if child.tag != "{jabber:client}error":
                return child
        return None

    def child(self, tag: str) -> Element | None:
        """The first child with this tag in Clark notation, or None."""
        if self._tags is not None and tag not in self._tags:
            return None
        return self.el.find(tag)

    def text(self, tag: str) -> str | None:
        """The text of the first child with this tag ("" for an empty one), or None if there is none."""
        if self._tags is not None and tag not in self._tags:
            return None
        return self.el.findtext(tag)

    # ---- bytes ------------------------------------------------------------------------------------------------------

    def to_wire(self) -> bytes:
        """The complete stanza with the addresses it has."""
        sender, to = self.sender, self.to
        if sender is not None and to is not None:
            return b"".join((self.head, b" from='", sender.wire, b"' to='", to.wire, b"'", self.body))
        parts = [self.head]
        if sender is not None:
            parts += (b" from='", sender.wire, b"'")
        if to is not None:
            parts += (b" to='", to.wire, b"'")
        parts.append(self.body)
        return b"".join(parts)

    def freeze(self) -> Wire:
        """Prepare the stanza for many recipients; `sender` must be set."""
        assert self.sender is not None
        return Wire(b"".join((self.head, b" from='", self.sender.wire, b"' to='")), b"'" + self.body)

    # ---- answering --------------------------------------------------------------------------------------------------

    def reply(self, content: bytes | Element | None = None) -> Stanza:
        """The IQ result to this request (RFC 6120 §8.2.3): same id, addresses swapped."""
        return Stanza.build(IQ, "result", id=self.id, sender=self.to, to=self.sender, content=content)

    def error(self, error: StanzaError, by: str = "") -> Stanza | None:
        """The error answer to this stanza, or None for one that must not be answered (RFC 6120 §8.3.1 rule 3).

        Errors are never answered, and neither are IQ results.
        """
        if self.type == "error" or (self.name == IQ and self.type == "result"):
            return None
        return Stanza.build(
            self.name, "error", id=self.id, sender=self.to, to=self.sender, content=error.to_bytes(escape_attr(by))
        )


class PersonalStanza(Stanza):
    """A stanza for one session and nobody else: a page of an archive, a copy of what another device sent or got.

    If that session goes, it is neither kept nor handed to others.
    """

    __slots__ = ()


def _unescape(value: bytes) -> str:
    text = value.decode()
    return unescape_attr(text) if "&" in text else text


def _name_end(data: bytes) -> int:
    """Where the element name of a start tag ends."""
    for at in range(1, len(data)):
        if data[at] in b" />\t\r\n":
            return at
    raise ValueError("not a stanza")


def content_bytes(el: Element) -> bytes:
    """A child of a stanza as bytes in the stanza's default namespace, without the clutter of the stream's declarations."""
    raw = _tostring(el, encoding="utf-8", with_tail=False)
    cut = raw.index(b">")
    start = raw[:cut]  # only here: a forwarded stanza further inside must keep its own xmlns="jabber:client"
    start = start.replace(b' xmlns:stream="http://etherx.jabber.org/streams"', b"", 1)
    start = start.replace(b' xmlns="jabber:client"', b"", 1)
    invented = _CLIENT_AS_PREFIX.search(start)
    if invented is not None:
        if invented.group(1) + b":" in raw:
            # a stanza that was taken out of its stream: lxml made up a prefix for what is in the stanza's namespace
            return content_bytes(_without_prefix(el))
        # the stanza's default namespace, hidden by the child's own: lxml declares it once more, for nobody
        start = start.replace(invented.group(), b"", 1)
    return start + raw[cut:]


def free_standing(stanza: Stanza) -> bytes:
    """A stanza as a child of an element of whatever namespace: it says that it is in `jabber:client`."""
    wire = stanza.to_wire()
    cut = 1 + len(stanza.name)
    return wire[:cut] + f" xmlns='{ns.CLIENT}'".encode() + wire[cut:]


def insert_child(wire: bytes, name: str, child: bytes) -> bytes:
    """A complete stanza's bytes with one more child at the end (a `<delay/>` on a stored message)."""
    if wire.endswith(b"/>"):
        return wire[:-2] + b">" + child + b"</" + name.encode() + b">"
    cut = len(wire) - len(name) - 3
    return wire[:cut] + child + wire[cut:]


def take(el: Element, default_lang: str = "", name: str = "") -> Stanza:
    """Freeze a stanza element, still inside its stream's tree or just parsed.

    `name` is its local name, for who knows it already. Another content namespace (RFC 6120 §4.8.3) becomes `jabber:client`.
    `default_lang` is the stream's language, added where the stanza names none (RFC 6120 §8.1.5).
    Raises `AddressMalformed` or `SenderMalformed`.
    """
    space = namespace_of(el)
    if space != ns.CLIENT:
        el = _without_prefix(el, space)
    name = name or local_name(el)
    raw = _tostring(el, encoding="utf-8", with_tail=False)
    if el.prefix is not None or (raw.count(b'="jabber:client"') > 1 and _CLIENT_PREFIX.search(raw) is not None):
        el = _without_prefix(el)
        raw = _tostring(el, encoding="utf-8", with_tail=False)
    cut = raw.index(b">")  # safe: ">" inside attribute values comes out escaped
    start = raw[:cut]
    if raw[cut - 1] == 47:  # "/"
        cut -= 1
    type_ = id_ = ""
    lang: str | None = None
    to = sender = None
    to_text: str | None = None
    head = f"<{name}"
    for key, value in cast("list[tuple[str, str]]", el.items()):
        if key == "to":
            to_text = value
        elif key == "from":
            try:
                sender = JID.parse(value)
            except JidMalformed as exc:
                raise SenderMalformed(str(exc), _domain_of(value)) from exc
        elif key == "type":
            type_ = value
            head += f" type='{escape_attr(value)}'"
        elif key == "id":
            id_ = value
            head += f" id='{escape_attr(value)}'"
        elif key == ns.XML_LANG:
            lang = value
            head += f" xml:lang='{escape_attr(value)}'"
        elif key[0] != "{":
            head += f" {key}='{escape_attr(value)}'"
        else:
            head += _foreign_attribute(el, key, value)
    if lang is None and default_lang:
        lang = default_lang
        head += f" xml:lang='{escape_attr(default_lang)}'"
    if start.count(b"xmlns:") != 1 or _STREAM_PREFIX not in start:
        head += _declarations(el, raw)
    if to_text is not None:
        try:
            to = JID.parse(to_text)
        except JidMalformed as exc:
            raise AddressMalformed(str(exc), _malformed_reply(name, type_, id_, sender, to_text, str(exc))) from exc
    return Stanza(name, type_, id_, sender, to, lang or "", head.encode(), raw[cut:], el)


def _domain_of(address: str) -> str:
    """The domain of an address that is none on the whole; "" if there is none."""
    local, at, domain = address.partition("/")[0].partition("@")
    try:
        return JID.parse(domain if at else local).domain
    except JidMalformed:
        return ""


def _declarations(el: Element, raw: bytes) -> str:
    """Prefixes in scope on the stanza, other than those our own stream header declares.

    Those that occur nowhere in it are left out: other servers declare dialback's on the stream itself.
    """
    out = ""
    for prefix, uri in el.nsmap.items():
        if prefix is None or prefix == "xml" or (prefix == "stream" and uri == ns.STREAM):
            continue
        if raw.count(f"{prefix}:".encode()) > 0:
            out += f" xmlns:{prefix}='{escape_attr(str(uri))}'"
    return out


def _foreign_attribute(el: Element, key: str, value: str) -> str:
    """A namespaced attribute of the stanza itself, with the prefix it came with."""
    uri, _, local = key[1:].partition("}")
    for prefix, known in el.nsmap.items():
        if prefix is not None and known == uri:
            return f" {prefix}:{local}='{escape_attr(value)}'"
    return ""


def _without_prefix(el: Element, content: str = ns.CLIENT) -> Element:
    """The stanza written anew, so that no element of the content namespace carries a prefix (RFC 6120 §4.8.5).

    It comes out in `jabber:client`, with what is in its own namespace `content` below it, whatever that was.
    """
    out: list[str] = []
    _write(el, {}, out, content)
    return etree.fromstring("".join(out).encode(), _PARSER)


def _write(el: Element, scope: dict[str | None, str], out: list[str], content: str) -> None:
    uri, name = namespace_of(el), local_name(el)
    if uri == content:
        uri = ns.CLIENT
    else:
        content = ns.CLIENT  # inside of something else, like a stanza that is forwarded, it stands for itself
    prefix = None if uri in ("", ns.CLIENT) else el.prefix
    declared: dict[str | None, str] = {}
    for known, bound in el.nsmap.items():
        if known not in (None, "xml") and bound not in (ns.CLIENT, content) and scope.get(known) != bound:
            declared[known] = str(bound)
    if prefix is None and scope.get(None, "") != uri:
        declared[None] = uri
    attributes = ""
    for key, value in cast("list[tuple[str, str]]", el.items()):
        if key[0] == "{":
            space, _, local = key[1:].partition("}")
            by = "xml" if space == ns.XML else next(p for p, u in el.nsmap.items() if p is not None and u == space)
            if by != "xml" and {**scope, **declared}.get(by) != space:
                declared[by] = space  # an attribute cannot do without
            key = f"{by}:{local}"
        attributes += f" {key}='{escape_attr(value)}'"
    name = f"{prefix}:{name}" if prefix else name
    spaces = "".join(f" xmlns{':' + p if p else ''}='{escape_attr(u)}'" for p, u in declared.items())
    out.append(f"<{name}{spaces}{attributes}>{escape_text(el.text or '')}")
    inner = {**scope, **declared}
    for child in el:
        _write(child, inner, out, content)
        out.append(escape_text(child.tail or ""))
    out.append(f"</{name}>")


def _malformed_reply(name: str, type_: str, id_: str, to: JID | None, addressed: str, text: str) -> Stanza | None:
    # RFC 6120 §8.3.1 rule 2: the addresses are not swapped, as that would put the malformed one into `from`. The bare one is as
    # near as can be: clients that asked for a nickname which cannot be look for the answer of the room.
    if type_ == "error" or (name == IQ and type_ == "result"):
        return None
    bare, slash, _ = addressed.partition("/")
    sender: JID | None = None
    if slash:
        try:
            sender = JID.parse(bare)
        except JidMalformed:
            sender = None
    error = StanzaError(Condition.JID_MALFORMED, text=text)
    return Stanza.build(name, "error", id=id_, sender=sender, to=to, content=error.to_bytes())
