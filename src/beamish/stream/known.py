"""What ordinary clients send before a resource is bound, told from its bytes alone.

A login is a handful of elements that nearly every client writes in the same few ways. Two parsers look at everything a
stranger sends (see `stream.gate`); for these elements neither is needed. Only what is beyond doubt is recognised: printable
ASCII without references, known attributes, each once. Everything else, however harmless, is left to the parsers, which
would have made the same of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from beamish.stream.gate import ParserLimits
from beamish.stream.items import StreamHeader
from beamish.stream.plain import ASCII_ATTRIBUTE, ASCII_PAIR, ASCII_TEXT, SPACE
from beamish.xmpp import ns

_PAIRS: Final = re.compile(ASCII_PAIR)
_HEADER: Final = re.compile(
    rb"(?:<\?xml%b+version=(?:'1\.0'|\"1\.0\")(?:%b+encoding=(?:'[Uu][Tt][Ff]-8'|\"[Uu][Tt][Ff]-8\"))?%b*\?>%b*)?"
    rb"<stream:stream((?:%b)+)%b*>" % (SPACE, SPACE, SPACE, SPACE, ASCII_ATTRIBUTE, SPACE)
)
_STEP: Final = re.compile(
    rb"%b*<(auth|response|abort|starttls)((?:%b)+)%b*(?:/>|>([A-Za-z0-9+/=]*)</\1%b*>)"
    % (SPACE, ASCII_ATTRIBUTE, SPACE, SPACE)
)
_BIND: Final = re.compile(
    rb"%b*<iq((?:%b)+)%b*><bind((?:%b)+)%b*"
    rb"(?:/>|>(?:<resource>(%b)</resource>|<resource%b*/>)?</bind%b*>)</iq%b*>"
    % (SPACE, ASCII_ATTRIBUTE, SPACE, ASCII_ATTRIBUTE, SPACE, ASCII_TEXT, SPACE, SPACE, SPACE)
)
_OF_HEADER: Final = frozenset(("to", "from", "version", "xml:lang", "id", "xmlns", "xmlns:stream"))
_SPACE_OF: Final = {"auth": ns.SASL, "response": ns.SASL, "abort": ns.SASL, "starttls": ns.TLS}
_NEEDED: Final = ParserLimits(stanza_bytes=0, depth=3, elements=3, attributes=len(_OF_HEADER))

NSMAP: Final[dict[str | None, str]] = {None: ns.CLIENT, "stream": ns.STREAM}
"""What a header that is recognised declares."""


@dataclass(slots=True)
class KnownStep:
    """A step of STARTTLS or SASL: `tag` in Clark notation, the attribute `mechanism` ("" if absent), the text if any."""

    tag: str
    mechanism: str
    text: str | None


@dataclass(slots=True)
class KnownBind:
    """A well-formed request to bind a resource: the id of its IQ, and the resource asked for, "" for none."""

    id: str
    resource: str


def permits(limits: ParserLimits) -> bool:
    """Whether everything that is recognised is within the limits, but for its size."""
    return (
        limits.depth >= _NEEDED.depth
        and limits.elements >= _NEEDED.elements
        and limits.attributes >= _NEEDED.attributes
    )


def header(data: bytes, at: int) -> tuple[StreamHeader, int] | None:
    """The stream header that begins at an offset, with or without an XML declaration, and where it ends."""
    found = _HEADER.match(data, at)
    if found is None:
        return None
    made = _header(found[1])
    return None if made is None else (made, found.end())


@lru_cache(maxsize=256)
def _header(text: bytes) -> StreamHeader | None:
    given = _attributes(text)
    if given is None or not given.keys() <= _OF_HEADER:
        return None
    if given.get("xmlns") != ns.CLIENT or given.get("xmlns:stream") != ns.STREAM:
        return None
    return StreamHeader(
        to=given.get("to", ""),
        sender=given.get("from", ""),
        version=given.get("version", ""),
        lang=given.get("xml:lang", ""),
        id=given.get("id", ""),
        content_ns=ns.CLIENT,
    )


def element(data: bytes, at: int) -> tuple[KnownStep | KnownBind, int] | None:
    """The element that begins at an offset, with white space before it or not, and where it ends."""
    found = _STEP.match(data, at)
    if found is not None:
        name = found[1].decode()
        step = _step(name, found[2])
        if step is None:
            return None
        tag, mechanism = step
        return KnownStep(tag, mechanism, found[3].decode() if found[3] else None), found.end()
    found = _BIND.match(data, at)
    if found is None or _attributes(found[2]) != {"xmlns": ns.BIND}:
        return None
    iq = _attributes(found[1])
    if iq is None or iq.get("type") != "set" or not iq.get("id") or iq.get("xmlns", ns.CLIENT) != ns.CLIENT:
        return None
    if not iq.keys() <= {"type", "id", "xmlns"}:
        return None
    return KnownBind(iq["id"], (found[3] or b"").decode()), found.end()


@lru_cache(maxsize=256)
def _step(name: str, text: bytes) -> tuple[str, str] | None:
    """Tag and mechanism of a start tag with these attributes."""
    given = _attributes(text)
    space = _SPACE_OF[name]
    if given is None or given.pop("xmlns", "") != space:
        return None
    mechanism = given.pop("mechanism", "") if name == "auth" else ""
    return None if given else (f"{{{space}}}{name}", mechanism)


def _attributes(text: bytes) -> dict[str, str] | None:
    """Attributes by their names as written, None if one occurs twice."""
    found = _PAIRS.findall(text)
    given = {name.decode(): (single or double).decode() for name, single, double in found}
    return given if len(given) == len(found) else None
