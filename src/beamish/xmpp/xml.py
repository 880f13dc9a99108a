"""Small XML vocabulary on top of lxml: building payloads, escaping, and turning an element into bytes.

Everything that leaves the server is either bytes spliced by `xmpp.stanza` or bytes made here, so these are the only
places where text becomes markup. Elements that came from a stream are read-only for everybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from lxml import etree

Element: TypeAlias = etree._Element
"""An lxml element; tags are in Clark notation, `{namespace}name`."""

_ATTR_UNSAFE = re.compile("[&<>'\"\t\n\r]")
_TEXT_UNSAFE = re.compile("[&<>\r]")
_ATTR = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "'": "&apos;",
    '"': "&quot;",
    "\t": "&#9;",
    "\n": "&#10;",
    "\r": "&#13;",
}
_TEXT = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape_attr(text: str) -> str:
    """`text` for use inside a quoted attribute value, either kind of quote."""
    if _ATTR_UNSAFE.search(text) is None:
        return text
    return _ATTR_UNSAFE.sub(lambda m: _ATTR[m.group()], text)


_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "apos": "'", "quot": '"', "#9": "\t", "#10": "\n", "#13": "\r"}
_ENTITY = re.compile("&(amp|lt|gt|apos|quot|#9|#10|#13);")


def unescape_attr(text: str) -> str:
    """What `escape_attr` was given."""
    return _ENTITY.sub(lambda found: _ENTITIES[found[1]], text)


def escape_text(text: str) -> str:
    """`text` for use as character data."""
    if _TEXT_UNSAFE.search(text) is None:
        return text
    return _TEXT_UNSAFE.sub(lambda m: _TEXT[m.group()], text)


def xml_safe(text: str) -> str:
    """`text` without the characters that XML 1.0 cannot carry, for texts that did not come from XML (logs, configuration)."""
    return _ILLEGAL.sub("\ufffd", text)


def make(
    tag: str,
    attrs: Mapping[str, str | None] | None = None,
    *children: Element | str | None,
) -> Element:
    """Build an element: `make("{ns}name", {"a": "1"}, child, "text")`.

    The tag's namespace becomes the default namespace, so that the output needs no prefixes. Attributes and children
    that are None are left out; strings become text.
    """
    namespace = etree.QName(tag).namespace
    el = etree.Element(tag, nsmap={None: namespace} if namespace else None)  # type: ignore[dict-item]
    for key, value in (attrs or {}).items():
        if value is not None:
            el.set(key, value)
    add(el, children)
    return el


def add(el: Element, children: Iterable[Element | str | None]) -> None:
    """Append elements and texts to `el` in order; None is skipped."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            if len(el):
                el[-1].tail = (el[-1].tail or "") + child
            else:
                el.text = (el.text or "") + child
        else:
            el.append(child)


def to_bytes(el: Element) -> bytes:
    """`el` as UTF-8 without an XML declaration and without its tail.

    The element must be free-standing or carry its own namespace declarations: payloads built with `make` and children
    that a client sent in a namespace of their own are; use `xmpp.stanza` for whole stanzas.
    """
    return etree.tostring(el, encoding="utf-8", with_tail=False)


_STRICT = etree.XMLParser(
    resolve_entities=False,
    no_network=True,
    huge_tree=False,
    collect_ids=False,
    remove_comments=True,
    remove_pis=True,
)


def from_bytes(data: bytes) -> Element:
    """Parse bytes that this server made itself (storage, splices). Raises `ValueError` if they are not well-formed."""
    try:
        return etree.fromstring(data, _STRICT)
    except etree.XMLSyntaxError as exc:
        raise ValueError(f"stored XML is damaged: {exc}") from exc


def namespace_of(el: Element) -> str:
    """The namespace of an element's tag, "" if it has none."""
    tag = str(el.tag)
    return tag[1 : tag.index("}")] if tag.startswith("{") else ""


def local_name(el: Element) -> str:
    """The tag without its namespace."""
    tag = str(el.tag)
    return tag[tag.index("}") + 1 :] if tag.startswith("{") else tag
