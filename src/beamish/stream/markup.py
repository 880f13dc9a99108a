"""What tags, references and namespace names look like in bytes, for those who look before libxml2 does."""

from __future__ import annotations

import re
from typing import Final

from lxml import etree

from beamish.xmpp.xml import escape_attr

TAG: Final = re.compile(rb"<(?:[^'\"<>]|'[^'<]*'|\"[^\"<]*\")*>")
"""A complete tag; a `>` may stand inside its quotations, a `<` may not."""
_NAME: Final = rb"[A-Za-z_:\x80-\xff][\w.:\x80-\xff-]{0,63}"
LOOSE: Final = re.compile(rb"&(?!(?:" + _NAME + rb"|#[0-9]{1,63}|#x[0-9A-Fa-f]{1,63});)")
"""An ampersand that begins no reference, or none that is complete."""
UNFINISHED: Final = re.compile(rb"&(?:" + _NAME + rb"|#[0-9]{0,63}|#x[0-9A-Fa-f]{0,63})?")
"""A reference that may go on."""
CDATA: Final = b"<![CDATA["
_QUOTE_OR_END: Final = re.compile(rb"['\">]")
_STRICT: Final = etree.XMLParser(resolve_entities=False, no_network=True)


def tag_end(data: bytes, at: int, quote: bytes = b"") -> tuple[int, bytes]:
    """Where the tag ends that goes on at an offset, inside of the quotation `quote` if that is not empty.

    Gives the offset behind its `>`, or behind a `<` that breaks it off. If it goes on behind the data that is 0, and with it
    comes the quotation that is open then. Takes one look at every byte.
    """
    broken = data.find(b"<", at)
    end = len(data) if broken < 0 else broken
    while True:
        if quote:
            at = data.find(quote, at, end) + 1
            if at == 0:
                break
            quote = b""
        found = _QUOTE_OR_END.search(data, at, end)
        if found is None:
            break
        at = found.end()
        if found[0] == b">":
            return at, b""
        quote = found[0]
    return (0, quote) if broken < 0 else (broken + 1, b"")


def is_uri(text: str) -> bool:
    """Whether libxml2 takes a namespace name without complaint: then everybody who reads what we relay does."""
    try:
        etree.fromstring(f"<a xmlns='{escape_attr(text)}'/>", _STRICT)
    except etree.XMLSyntaxError:
        return False
    return True


def start_of_open(piece: bytes, depth: int) -> int:
    """Where the unfinished top-level element begins, in a piece that holds its beginning; `depth` counts the stream."""
    wanted = depth - 1
    at = len(piece)
    while wanted:
        at = piece.rfind(b"<", 0, at)
        if at < 0:
            return 0
        if piece[at + 1] == 47:  # "/"
            wanted += 1
        else:
            tag = TAG.match(piece, at)
            if tag is None or piece[tag.end() - 2] != 47:
                wanted -= 1
    return at
