"""Comparing XML the way tests mean it: what the pattern names must be there, other things may be there too."""

from __future__ import annotations

from lxml import etree

from beamish.xmpp import ns
from beamish.xmpp.xml import Element

_WRAP = f"<wrap xmlns='{ns.CLIENT}' xmlns:stream='{ns.STREAM}'>%s</wrap>"


def pattern(text: str) -> Element:
    """Parse a stanza as it would stand inside a client stream: without its `xmlns`."""
    parser = etree.XMLParser(remove_blank_text=True)
    return etree.fromstring(_WRAP % text, parser)[0]


def mismatch(expected: str | Element, actual: Element) -> str:
    """Why `actual` does not match, or "" if it does.

    Every attribute of the pattern must be equal; the value `*` asks only that there is one, `!` that there is none.
    Every child of the pattern must match a different child of the same tag, in the same order among those of its tag;
    a child with the attribute `absent='!'` must not occur. Text must be equal where the pattern has some.
    """
    want = pattern(expected) if isinstance(expected, str) else expected
    return _mismatch(want, actual, str(want.tag).rpartition("}")[2])


def _mismatch(want: Element, got: Element, path: str) -> str:
    if want.tag != got.tag:
        return f"{path}: expected {str(want.tag)!r}, got {str(got.tag)!r}"
    for key, value in want.items():
        found, name = got.get(key), str(key)
        if value == "!":
            if found is not None:
                return f"{path}: attribute {name}={found!r} should not be there"
        elif found is None or (value != "*" and found != value):
            return f"{path}: attribute {name} is {found!r}, expected {value!r}"
    text = (want.text or "").strip()
    if text and (got.text or "").strip() != text:
        return f"{path}: text is {got.text!r}, expected {text!r}"
    used: dict[str, int] = {}
    for child in want:
        tag = str(child.tag)
        name = tag.rpartition("}")[2]
        same = got.findall(tag)
        if child.get("absent") == "!":
            if same:
                return f"{path}: there should be no {tag}"
            continue
        at = used.get(tag, 0)
        problem = f"{path}: there is no {tag}" + (f" (only {at})" if at else "")
        while at < len(same):
            problem = _mismatch(child, same[at], f"{path}/{name}")
            at += 1
            if not problem:
                break
        used[tag] = at
        if problem:
            return problem
    return ""


def condition(stanza: Element) -> str:
    """The condition of a stanza error; AssertionError for any other stanza."""
    error = stanza.find("{jabber:client}error")
    assert error is not None, show(stanza)
    return str(error[0].tag).rpartition("}")[2]


def show(el: Element) -> str:
    """An element for a failure message."""
    return etree.tostring(el, encoding="unicode", pretty_print=True, with_tail=False)
