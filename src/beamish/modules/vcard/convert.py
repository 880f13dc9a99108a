"""XEP-0292 §5: vcard-temp to vCard4 and back. Pure; what the other form has no word for is left out.

Pictures and sounds inside the card stay where they are (avatars have a node of their own, XEP-0084); those that are only
pointed to are carried over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from beamish.xmpp.xml import Element, make

TEMP: Final = "vcard-temp"
V4: Final = "urn:ietf:params:xml:ns:vcard-4.0"

_GEO: Final = re.compile(r"geo:([+-]?\d+(?:\.\d*)?),([+-]?\d+(?:\.\d*)?)", re.ASCII)
"""A place as RFC 5870 writes it; height and parameters may follow."""
_TEXTS: Final = {
    "FN": ("fn", "text"),
    "NICKNAME": ("nickname", "text"),
    "BDAY": ("bday", "date"),
    "TITLE": ("title", "text"),
    "ROLE": ("role", "text"),
    "URL": ("url", "uri"),
    "NOTE": ("note", "text"),
    "TZ": ("tz", "text"),
    "UID": ("uid", "uri"),
    "REV": ("rev", "timestamp"),
    "PRODID": ("prodid", "text"),
}
"""Properties that are one text in both."""
_N: Final = {
    "FAMILY": "surname",
    "GIVEN": "given",
    "MIDDLE": "additional",
    "PREFIX": "prefix",
    "SUFFIX": "suffix",
}
_ADR: Final = {
    "POBOX": "pobox",
    "EXTADD": "ext",
    "STREET": "street",
    "LOCALITY": "locality",
    "REGION": "region",
    "PCODE": "code",
    "CTRY": "country",
}
_PLACES: Final = {"HOME": "home", "WORK": "work"}
_PHONES: Final = {
    **_PLACES,
    "VOICE": "voice",
    "FAX": "fax",
    "PAGER": "pager",
    "CELL": "cell",
    "VIDEO": "video",
    "MSG": "text",
}
_POINTED: Final = {"PHOTO": "photo", "LOGO": "logo", "SOUND": "sound"}


def to_v4(card: Element) -> Element:
    """The vCard4 that says what a vcard-temp says."""
    out = make(f"{{{V4}}}vcard")
    for child in card:
        name = _name(child)
        if name in _TEXTS:
            tag, value = _TEXTS[name]
            _put(out, _valued(tag, value, _text(child)))
        elif name == "N":
            _put(out, _structured("n", child, _N))
        elif name == "ADR":
            _put(out, _structured("adr", child, _ADR, _parameters(child, _PLACES)))
        elif name == "TEL":
            number = _text(child.find(f"{{{TEMP}}}NUMBER"))
            uri = "tel:" + "-".join(number.split()) if number else ""
            _put(out, _valued("tel", "uri", uri, _parameters(child, _PHONES)))
        elif name == "EMAIL":
            address = _text(child.find(f"{{{TEMP}}}USERID")) or _text(child)
            _put(out, _valued("email", "text", address, _parameters(child, _PLACES)))
        elif name == "JABBERID":
            text = _text(child)
            _put(out, _valued("impp", "uri", f"xmpp:{text}" if text else ""))
        elif name == "ORG":
            units = [_text(unit) for unit in child]
            _put(out, _many("org", "text", units))
        elif name == "GEO":
            lat, lon = _text(child.find(f"{{{TEMP}}}LAT")), _text(child.find(f"{{{TEMP}}}LON"))
            uri = f"geo:{lat},{lon}"
            _put(out, _valued("geo", "uri", uri if _GEO.fullmatch(uri) else ""))
        elif name == "CATEGORIES":
            _put(out, _many("categories", "text", [_text(word) for word in child]))
        elif name == "DESC":
            _put(out, _valued("note", "text", _text(child)))
        elif name == "KEY":
            _put(out, _valued("key", "text", _text(child.find(f"{{{TEMP}}}CRED"))))
        elif name in _POINTED:
            _put(out, _valued(_POINTED[name], "uri", _text(child.find(f"{{{TEMP}}}EXTVAL"))))
    return out


def to_temp(card: Element) -> Element:
    """The vcard-temp that says what a vCard4 says."""
    out = make(f"{{{TEMP}}}vCard")
    back = {tag: (name, value) for name, (tag, value) in _TEXTS.items()}
    pointed = {tag: name for name, tag in _POINTED.items()}
    for child in card:
        name = _name(child)
        texts = list(_values(child))
        first = texts[0] if texts else ""
        if name in back:
            _put(out, _temp(back[name][0], first))
        elif name == "n":
            _put(out, _unstructured("N", child, _N))
        elif name == "adr":
            _put(out, _unstructured("ADR", child, _ADR, _flags(child, _PLACES)))
        elif name == "tel":
            number = first.removeprefix("tel:")
            _put(out, _holding("TEL", "NUMBER", number, _flags(child, _PHONES)))
        elif name == "email":
            _put(out, _holding("EMAIL", "USERID", first, [*_flags(child, _PLACES), "INTERNET"]))
        elif name == "impp":
            _put(out, _temp("JABBERID", first.removeprefix("xmpp:") if first.startswith("xmpp:") else ""))
        elif name == "org" and first:
            units = [make(f"{{{TEMP}}}ORGUNIT", None, unit) for unit in texts[1:]]
            out.append(make(f"{{{TEMP}}}ORG", None, make(f"{{{TEMP}}}ORGNAME", None, first), *units))
        elif name == "geo" and (place := _GEO.match(first)) is not None:
            lat, lon = place.groups()
            out.append(
                make(f"{{{TEMP}}}GEO", None, make(f"{{{TEMP}}}LAT", None, lat), make(f"{{{TEMP}}}LON", None, lon))
            )
        elif name == "categories" and texts:
            words = [make(f"{{{TEMP}}}KEYWORD", None, word) for word in texts]
            out.append(make(f"{{{TEMP}}}CATEGORIES", None, *words))
        elif name == "key":
            _put(out, _holding("KEY", "CRED", first, []))
        elif name in pointed and not first.startswith("data:"):
            _put(out, _holding(pointed[name], "EXTVAL", first, []))
    return out


# ---- vCard4 ---------------------------------------------------------------------------------------------------------


def _put(out: Element, el: Element | None) -> None:
    if el is not None:
        out.append(el)


def _valued(tag: str, value: str, text: str, parameters: Element | None = None) -> Element | None:
    return make(f"{{{V4}}}{tag}", None, parameters, make(f"{{{V4}}}{value}", None, text)) if text else None


def _many(tag: str, value: str, texts: list[str]) -> Element | None:
    found = [make(f"{{{V4}}}{value}", None, text) for text in texts if text]
    return make(f"{{{V4}}}{tag}", None, *found) if found else None


def _structured(tag: str, el: Element, parts: dict[str, str], parameters: Element | None = None) -> Element | None:
    found = [
        make(f"{{{V4}}}{parts[_name(part)]}", None, _text(part)) for part in el if _name(part) in parts and _text(part)
    ]
    return make(f"{{{V4}}}{tag}", None, parameters, *found) if found else None


def _parameters(el: Element, names: dict[str, str]) -> Element | None:
    """`<parameters/>` for the flags of a vcard-temp property."""
    flags = [_name(part) for part in el]
    types = [make(f"{{{V4}}}text", None, names[flag]) for flag in flags if flag in names]
    inner = [make(f"{{{V4}}}type", None, *types)] if types else []
    if "PREF" in flags:
        inner.append(make(f"{{{V4}}}pref", None, make(f"{{{V4}}}integer", None, "1")))
    return make(f"{{{V4}}}parameters", None, *inner) if inner else None


def _values(el: Element) -> Iterator[str]:
    """The values of a vCard4 property, parameters aside."""
    for part in el:
        if _name(part) != "parameters":
            text = _text(part)
            if text:
                yield text


# ---- vcard-temp -----------------------------------------------------------------------------------------------------


def _temp(name: str, text: str) -> Element | None:
    return make(f"{{{TEMP}}}{name}", None, text) if text else None


def _holding(name: str, part: str, text: str, flags: list[str]) -> Element | None:
    if not text:
        return None
    marks = [make(f"{{{TEMP}}}{flag}") for flag in flags]
    return make(f"{{{TEMP}}}{name}", None, *marks, make(f"{{{TEMP}}}{part}", None, text))


def _unstructured(name: str, el: Element, parts: dict[str, str], flags: list[str] | None = None) -> Element | None:
    back = {tag: part for part, tag in parts.items()}
    found = [
        make(f"{{{TEMP}}}{back[_name(part)]}", None, _text(part)) for part in el if _name(part) in back and _text(part)
    ]
    marks = [make(f"{{{TEMP}}}{flag}") for flag in flags or ()]
    return make(f"{{{TEMP}}}{name}", None, *marks, *found) if found else None


def _flags(el: Element, names: dict[str, str]) -> list[str]:
    back = {tag: flag for flag, tag in names.items()}
    types = [_text(t) for t in el.iterfind(f"{{{V4}}}parameters/{{{V4}}}type/{{{V4}}}text")]
    flags = [back[t] for t in types if t in back]
    if el.find(f"{{{V4}}}parameters/{{{V4}}}pref") is not None:
        flags.append("PREF")
    return flags


def _name(el: Element) -> str:
    return str(el.tag).rpartition("}")[2]


def _text(el: Element | None) -> str:
    return "" if el is None else (el.text or "").strip()
