"""What libxml2 makes of the bytes of one XML stream: elements, taken out of its tree as soon as they are complete.

Names are charged (`stream.names`), and depth, elements and attributes counted, while the elements grow. Which bytes may be
given to it, and how many at a time, is the business of `stream.parser`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from contextlib import suppress
from typing import Final, cast

from lxml import etree

from beamish.stream.gate import ParserLimits, refuse, restricted, text_between, too_complex, too_many_attributes
from beamish.stream.items import Item, Nonza, StreamEnd, StreamHeader, Unaddressable
from beamish.stream.markup import is_uri
from beamish.stream.names import NameLedger
from beamish.stream.pull import first_failure, header_of, malformed, new_pull, too_many_names
from beamish.stream.quick import QuickReader, reader_for
from beamish.xmpp import ns
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.stanza import AddressMalformed, SenderMalformed, take
from beamish.xmpp.xml import Element, escape_attr

_STANZA_TAGS: Final = {f"{{{ns.CLIENT}}}{name}": name for name in ("message", "presence", "iq")}
_BLANK: Final = " \t\r\n"
_BLANK_TEXT: Final = re.compile(rb">([ \t\n]{16,59})<")
"""Blank texts that libxml2 keeps in its dictionary: shorter ones live in the node, longer ones are copied."""


class TreeReader:
    """A stream's place in libxml2: its parser, made when something has to be parsed, and its open header."""

    __slots__ = (
        "_aliased",
        "_count",
        "_depth",
        "_fresh",
        "_ledger",
        "_limits",
        "_nsmap",
        "_owner",
        "_prefix",
        "_pull",
        "_quick",
        "_rebased",
        "_root",
        "lang",
        "taken",
    )

    def __init__(self, limits: ParserLimits, ledger: NameLedger, owner: Hashable | None = None) -> None:
        self._limits = limits
        self._ledger = ledger
        self._owner = owner
        self._depth = 0
        self._count = 0
        self._fresh = False
        """A top-level element has begun in what was pushed last."""
        self._aliased = False
        """There may be two prefixes for one namespace."""
        self._root: Element | None = None
        self._prefix: str | None = "stream"
        self._nsmap: dict[str | None, str] = {}
        self._rebased = False
        self._quick: QuickReader | None = None
        """For stanzas that need no parser, where they mean what they mean to a client."""
        self.lang = ""
        self.taken: list[Item] = []
        self._pull: etree.XMLPullParser | None = None

    @property
    def begun(self) -> bool:
        """Whether the stream's header was taken, and its end was not."""
        return self._depth > 0

    def begin(self, nsmap: dict[str | None, str], lang: str) -> None:
        """Stand behind a header that was read elsewhere: a prefixed one, with these declarations and this `xml:lang`."""
        self._depth = 1
        self._nsmap = nsmap
        self.lang = lang
        self._choose()

    @property
    def idle(self) -> bool:
        """True while no parser is held (see `park`)."""
        return self._pull is None

    def owned_by(self, owner: Hashable) -> None:
        """Charge new names to this account from now on."""
        self._owner = owner

    def discard(self) -> None:
        """Free the underlying parser now; without this it waits for the garbage collector.

        A parser, its context and its tree refer to one another until the document is finished, so it is finished here.
        """
        pull, root, self._pull, self._root = self._pull, self._root, None, None
        self.taken = []  # what was taken last holds its tree, and a tree holds the parser it came from
        if pull is None or root is None:
            return
        with suppress(etree.XMLSyntaxError):
            pull.feed(f"</{self._prefix}:stream>" if self._prefix else "</stream>")
            for _ in pull.read_events():
                pass
            pull.close()

    def rebase(self) -> None:
        """Read what follows the stream's header with `jabber:client` in the place of the header's default namespace.

        Server and component streams use another content namespace for the same stanzas (RFC 6120 §4.8.3); this way
        they come out as everywhere else. To be called when the header was taken, before anything behind it is fed.
        """
        self._rebased = True
        self._nsmap = {**self._nsmap, None: ns.CLIENT}
        self._choose()
        self._pull = None
        self._root = None

    def _unpark(self) -> etree.XMLPullParser:
        self._pull = pull = new_pull()
        if self._depth == 0:
            return pull
        prefix = f"{self._prefix}:" if self._prefix else ""
        names = "".join(
            f" xmlns{':' + p if p else ''}='{escape_attr(u)}'" for p, u in self._nsmap.items() if p != "xml"
        )
        pull.feed(f"<{prefix}stream{names}>".encode())
        for action, el in cast("Iterable[tuple[str, Element]]", pull.read_events()):
            if action == "start":
                self._root = el
        return pull

    # ---- elements ---------------------------------------------------------------------------------------------------

    def _push(self, piece: bytes, taken: list[Item]) -> int:
        """Give bytes to libxml2 and take what it made of them: how many elements began."""
        pull = self._pull or self._unpark()
        failed = False
        try:
            try:
                pull.feed(piece)
            except etree.XMLSyntaxError:
                failed = True
            starts = self._drain(pull, taken)
            if b";" in piece and pull.feed_error_log:
                # where an entity is not declared libxml2 goes deaf without saying so
                failed = failed or first_failure(pull) != 0
            if failed and not (taken and type(taken[-1]) is StreamEnd):
                raise malformed(first_failure(pull))
            return starts
        except StreamError:
            # what libxml2 has read behind the mistake was never seen by `_drain`
            self._ledger.lose(piece.count(b"=") + piece.count(b"<"), self._owner)
            raise

    def _drain(self, pull: etree.XMLPullParser, taken: list[Item]) -> int:
        known = self._ledger.known
        limits = self._limits
        depth = self._depth
        starts = 0
        for action, el in cast("Iterable[tuple[str, Element]]", pull.read_events()):
            if action == "start":
                depth += 1
                starts += 1
                if el.tag not in known:
                    self._charge(str(el.tag))
                keys = el.keys()
                if keys:
                    for key in keys:
                        if key not in known:
                            self._charge(str(key))
                    if len(keys) > limits.attributes:
                        raise too_many_attributes()
                    if self._aliased and len(set(keys)) != len(keys):
                        # two prefixes, one namespace, one name (XML Namespaces §6.3); libxml2 does not mind
                        raise refuse(StreamErrorCondition.NOT_WELL_FORMED)
                if depth > 2:
                    self._count += 1
                    if depth - 1 > limits.depth or self._count > limits.elements:
                        raise too_complex()
                elif depth == 2:
                    self._count = 1
                    self._fresh = True
                else:
                    self._depth = 1
                    taken.append(self._open(el))
            elif action == "end":
                depth -= 1
                if depth == 1:
                    self._take(el, taken)
                elif depth == 0:
                    self._depth = 0
                    taken.append(StreamEnd())
                    return starts
            elif action == "start-ns":
                self._declared(cast("tuple[str, str]", el))
            else:
                raise restricted()
        self._depth = depth
        return starts

    def _charge(self, name: str) -> None:
        if ":" in name.rpartition("}")[2]:
            # an undeclared prefix (RFC 6120 §4.9.3.13): libxml2 takes it for a part of the name
            raise refuse(StreamErrorCondition.NOT_WELL_FORMED)
        if not self._ledger.charge(name, self._owner):
            raise too_many_names()

    def _declared(self, declaration: tuple[str, str]) -> None:
        prefix, uri = declaration
        spaces = self._ledger.spaces
        if uri not in spaces:
            if not self._ledger.charge_space(uri, self._owner):
                raise too_many_names()
            if not is_uri(uri):
                # XML Namespaces §2.1; a recipient's libxml2 may be less patient than ours
                spaces.discard(uri)
                raise refuse(StreamErrorCondition.NOT_WELL_FORMED)
        if prefix:
            self._aliased = True
            if prefix not in spaces and not self._ledger.charge_space(prefix, self._owner):
                raise too_many_names()

    def _choose(self) -> None:
        """Whether stanzas may go the short way: their names must mean what they mean to a client."""
        quick = reader_for(self._limits, self._ledger)
        self._quick = quick if self._nsmap.get(None) == ns.CLIENT and quick.largest else None

    def _open(self, root: Element) -> StreamHeader:
        self._root = root
        self._prefix = root.prefix
        self._nsmap = dict(root.nsmap)
        self._choose()
        self._aliased = any(prefix not in (None, "stream", "xml") for prefix in self._nsmap)
        self.lang = root.get(ns.XML_LANG, "")
        return header_of(root)

    def _take(self, el: Element, taken: list[Item]) -> None:
        """A top-level element is complete: freeze it, then free its place in the tree."""
        root = self._root
        assert root is not None
        if root.text:
            if root.text.strip(_BLANK):
                raise text_between()
            self._blank(root.text)
            root.text = None
        name = _STANZA_TAGS.get(el.tag)
        if name is not None:
            try:
                stanza = take(el, self.lang, name)
                if _BLANK_TEXT.search(stanza.body):
                    for text in _BLANK_TEXT.findall(stanza.body):
                        self._blank(text.decode())
                taken.append(stanza)
            except AddressMalformed as exc:
                taken.append(Unaddressable(exc.reply, str(exc)))
            except SenderMalformed as exc:
                if not self._rebased:
                    raise refuse(StreamErrorCondition.INVALID_FROM, str(exc)) from exc
                taken.append(Unaddressable(None, str(exc), exc.domain))  # of one among the many users of a server
        else:
            for node in el.iter():
                self._blank(node.text or "")
                if node is not el:
                    self._blank(node.tail or "")
            taken.append(Nonza(el))
        root.remove(el)
        tail = el.tail
        if tail:
            el.tail = None
            if tail.strip(_BLANK):
                raise text_between()
            self._blank(tail)

    def _blank(self, text: str) -> None:
        """Charge for a blank text that libxml2 keeps."""
        if not 16 <= len(text) < 60 or text.strip(_BLANK) or text in self._ledger.spaces:
            return
        if not self._ledger.charge_space(text, self._owner):
            raise too_many_names()
