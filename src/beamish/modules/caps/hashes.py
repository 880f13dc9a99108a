"""XEP-0115 §5 and XEP-0390 §4: hashes of what an entity says about itself, and whether an answer fits its hash.

Pure values. A hash is believed only together with an answer that it was made from. The algorithm of XEP-0115 loses the
structure of its input, so that one string may stand for several answers; answers that could be another one in disguise
are refused here (`CapsMismatch`) or marked as not fit to be shared between entities (`Verified.shared`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from beamish.xmpp import ns
from beamish.xmpp.xml import Element, escape_attr

CAPS: Final = "http://jabber.org/protocol/caps"
CAPS2: Final = "urn:xmpp:caps"
HASHES: Final = "urn:xmpp:hashes:2"
C: Final = f"{{{CAPS}}}c"
C2: Final = f"{{{CAPS2}}}c"

MAX_FEATURES: Final = 2000
"""Features, identities and form values in an answer that we look at; more is refused."""
MAX_TEXT: Final = 1024
"""Characters of a node or a hash that we look at."""

_QUERY: Final = f"{{{ns.DISCO_INFO}}}query"
_IDENTITY: Final = f"{{{ns.DISCO_INFO}}}identity"
_FEATURE: Final = f"{{{ns.DISCO_INFO}}}feature"
_FORM: Final = f"{{{ns.DATA}}}x"
_FIELD: Final = f"{{{ns.DATA}}}field"
_VALUE: Final = f"{{{ns.DATA}}}value"

ALGORITHMS: Final = {
    "sha-256": "sha256",
    "sha3-256": "sha3_256",
    "sha-512": "sha512",
    "sha3-512": "sha3_512",
    "sha-384": "sha384",
    "sha-224": "sha224",
    "sha-1": "sha1",
}
"""Hash functions by their IANA name, best first. MD5 and unknown ones are not believed."""


class CapsMismatch(Exception):
    """An answer is ill-formed, ambiguous, or not what its hash says."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a presence says about capabilities. `key` names the hash among all hashes; `node` is where to ask."""

    key: str
    node: str
    algorithm: str
    hash: str
    second: bool
    """By XEP-0390."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Features that fit their hash. `shared`: they are those of every entity with this hash."""

    features: frozenset[str]
    shared: bool


def announcement(children: Iterable[Element]) -> Announcement | None:
    """The hash to go by among the children of a presence: XEP-0390's if there is one that we know, else XEP-0115's.

    None for no hash, for the legacy format (without `hash`), and for hash functions that we do not know.
    """
    first: Announcement | None = None
    for child in children:
        if child.tag == C2:
            best = _best(child)
            if best is not None:
                return best
        elif child.tag == C and first is None:
            algorithm, ver, node = child.get("hash", ""), child.get("ver", ""), child.get("node", "")
            if algorithm in ALGORITHMS and _is_hash(ver, algorithm) and 0 < len(node) <= MAX_TEXT:
                first = Announcement(f"1:{algorithm}:{ver}", f"{node}#{ver}", algorithm, ver, second=False)
    return first


def _best(c: Element) -> Announcement | None:
    offered = {h.get("algo", ""): "".join((h.text or "").split()) for h in c.findall(f"{{{HASHES}}}hash")[:16]}
    for algorithm in ALGORITHMS:
        value = offered.get(algorithm, "")
        if algorithm != "sha-1" and _is_hash(value, algorithm):  # XEP-0300 §4: SHA-1 must not be used
            node = f"{CAPS2}#{algorithm}.{value}"
            return Announcement(f"2:{algorithm}:{value}", node, algorithm, value, second=True)
    return None


def _is_hash(text: str, algorithm: str) -> bool:
    """Whether the text is Base64 of a digest of this function; anything else need not be asked about."""
    if not text or len(text) > MAX_TEXT:
        return False
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) == hashlib.new(ALGORITHMS[algorithm]).digest_size


def verify(query: Element, wanted: Announcement, lang: str = "") -> Verified:
    """The features in the answer to a question about `wanted`. Raises `CapsMismatch`.

    `lang` is the language in force around the query. XEP-0390 wants it counted, XEP-0115 does not; those who made the
    hash may not have known it, so that without is good as well.
    """
    if query.tag != _QUERY:
        raise CapsMismatch("no answer to disco#info")
    if len(query) > MAX_FEATURES:
        raise CapsMismatch("too long an answer")
    forms = False
    if wanted.second:
        inputs = {input_of_0390(query, lang), input_of_0390(query)}
    else:
        data, forms = input_of_0115(query)
        inputs = {data}
    if all(digest(data, wanted.algorithm) != wanted.hash for data in inputs):
        raise CapsMismatch("the hash is that of something else")
    features = frozenset(f.get("var", "") for f in query.iterfind(_FEATURE))
    # Forms come last in the string of XEP-0115: features at its end can be passed off as a form, and would be missing.
    return Verified(features, shared=wanted.second or not forms)


def digest(data: bytes, algorithm: str) -> str:
    """The hash as Base64."""
    return base64.b64encode(hashlib.new(ALGORITHMS[algorithm], data).digest()).decode()


# ---- XEP-0115 -------------------------------------------------------------------------------------------------------


def input_of_0115(query: Element) -> tuple[bytes, bool]:
    """The string S of XEP-0115 §5.1 for an answer, and whether forms are part of it. Raises `CapsMismatch` (§5.4)."""
    identities = [_identity(el) for el in query.iterfind(_IDENTITY)]
    features = [f.get("var", "") for f in query.iterfind(_FEATURE)]
    if len(set(identities)) < len(identities) or len(set(features)) < len(features):
        raise CapsMismatch("something is said twice")
    for category, type_, language, _ in identities:
        # "http://jabber.org/…" would pass as category "http:", no type, language "jabber.org": a feature gone
        if not category or not type_ or "/" in f"{category}{type_}{language}":
            raise CapsMismatch("an identity that is none")
    parts = ["/".join(identity) for identity in _sorted(identities)]
    parts += sorted(features, key=str.encode)
    forms = []
    for form in query.iterfind(_FORM):
        lines = _form_of_0115(form)
        if lines is not None:
            forms.append(lines)
    if len({form[0] for form in forms}) < len(forms):
        raise CapsMismatch("two forms of the same type")
    for lines in sorted(forms, key=lambda lines: lines[0].encode()):
        parts += lines
    if any("<" in part for part in parts):
        raise CapsMismatch("a text that looks like two")
    return "".join(part + "<" for part in parts).encode(), bool(forms)


def _form_of_0115(form: Element) -> list[str] | None:
    """FORM_TYPE, then each variable with its values; None for a form that does not count (§5.4 step 3.6)."""
    fields: list[tuple[str, list[str]]] = []
    type_ = None
    for field in form.iterfind(_FIELD):
        var = field.get("var", "")
        values = [v.text or "" for v in field.iterfind(_VALUE)]
        if var == "FORM_TYPE":
            if len(set(values)) > 1:
                raise CapsMismatch("a form of several types")
            if field.get("type") == "hidden" and values:
                type_ = values[0]
        else:
            fields.append((var, sorted(values, key=str.encode)))
    if type_ is None:
        return None
    lines = [type_]
    for var, values in sorted(fields, key=lambda field: (field[0].encode(), [v.encode() for v in field[1]])):
        lines.append(var)
        lines += values
    return lines


def _identity(el: Element, lang: str = "") -> tuple[str, str, str, str]:
    return el.get("category", ""), el.get("type", ""), el.get(ns.XML_LANG) or lang, el.get("name", "")


def _sorted(identities: Iterable[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    return sorted(identities, key=lambda parts: tuple(part.encode() for part in parts))


# ---- XEP-0390 -------------------------------------------------------------------------------------------------------


def input_of_0390(query: Element, lang: str = "") -> bytes:
    """The octets that XEP-0390 §4.1 hashes. Raises `CapsMismatch` where it says so."""
    features, identities, extensions = [], [], []
    lang = query.get(ns.XML_LANG) or lang
    for child in query:
        if child.tag == _FEATURE:
            features.append(child.get("var", "").encode() + b"\x1f")
        elif child.tag == _IDENTITY:
            identities.append(b"".join(part.encode() + b"\x1f" for part in _identity(child, lang)) + b"\x1e")
        elif child.tag == _FORM:
            extensions.append(_form_of_0390(child))
        else:
            raise CapsMismatch("an element that does not belong there")
    return b"".join(b"".join(sorted(part)) + b"\x1c" for part in (features, identities, extensions))


def _form_of_0390(form: Element) -> bytes:
    if any(child.tag in (f"{{{ns.DATA}}}reported", f"{{{ns.DATA}}}item") for child in form):
        raise CapsMismatch("a form with a table")
    types = [f for f in form.iterfind(_FIELD) if f.get("var") == "FORM_TYPE" and f.get("type") == "hidden"]
    if len(types) != 1 or len(types[0].findall(_VALUE)) != 1:
        raise CapsMismatch("a form without a type")
    fields = []
    for field in form.iterfind(_FIELD):
        values = sorted((v.text or "").encode() + b"\x1f" for v in field.iterfind(_VALUE))
        fields.append(field.get("var", "").encode() + b"\x1f" + b"".join(values) + b"\x1e")
    return b"".join(sorted(fields)) + b"\x1d"


# ---- our own --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OwnCaps:
    """What we announce about ourselves: the children of the stream features, and the nodes that stand for the same."""

    xml: bytes
    nodes: frozenset[str]


def own_caps(query: Element, uri: str) -> OwnCaps:
    """Both forms of announcement of a disco#info answer of ours; `uri` names the software (XEP-0115 §4).

    One that others could not verify is left out (a name with "<" in it, a form without a type).
    """
    xml, nodes = "", set()
    with suppress(CapsMismatch):
        ver = digest(input_of_0115(query)[0], "sha-1")
        xml += f"<c xmlns='{CAPS}' hash='sha-1' node='{escape_attr(uri)}' ver='{ver}'/>"
        nodes.add(f"{uri}#{ver}")
    with suppress(CapsMismatch):
        data = input_of_0390(query)
        hashes = {algorithm: digest(data, algorithm) for algorithm in ("sha-256", "sha3-256")}
        inner = "".join(f"<hash xmlns='{HASHES}' algo='{name}'>{value}</hash>" for name, value in hashes.items())
        xml += f"<c xmlns='{CAPS2}'>{inner}</c>"
        nodes |= {f"{CAPS2}#{name}.{value}" for name, value in hashes.items()}
    return OwnCaps(xml.encode(), frozenset(nodes))


__all__ = [
    "C2",
    "CAPS",
    "CAPS2",
    "Announcement",
    "C",
    "CapsMismatch",
    "OwnCaps",
    "Verified",
    "announcement",
    "own_caps",
    "verify",
]
