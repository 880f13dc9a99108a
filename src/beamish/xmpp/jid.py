"""RFC 7622: XMPP addresses. `JID` is an immutable, normalised `str`; `prepare_*` enforce one part each.

A JID *is* its normalised full text, so it hashes and compares in C and may be a key of any table, a database
parameter or an attribute value as it stands. Equality is that of RFC 7622 §3.x.3: octet for octet after preparation.
JID escaping (XEP-0106) is a matter of display and is not done here.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from functools import lru_cache
from typing import Final, Never

import idna
from precis_i18n import get_profile

from beamish.xmpp.xml import escape_attr

MAX_PART_BYTES: Final = 1023
"""RFC 7622 §3.2 to §3.4: no part is longer than this in UTF-8, after preparation."""

MAX_TEXT_BYTES: Final = 3 * MAX_PART_BYTES + 2
"""Three parts and two separators. Longer text is refused before any work is done on it."""

CACHED_JIDS: Final = 16_384
"""Parsed addresses kept. Peers choose the keys, hence the bound; one entry costs 0.3 to 0.6 KiB for usual addresses."""

CACHED_TEXT_LENGTH: Final = 256
"""Longer texts (characters) are parsed anew each time, so that nobody can fill the cache with addresses of 3 KiB."""

_username = get_profile("UsernameCaseMapped")
_opaque = get_profile("OpaqueString")

# RFC 7622 §3.3.1, on top of what the PRECIS IdentifierClass refuses (which takes care of the space).
_EXCLUDED_LOCAL = re.compile(r"""["&'/:<>@]""")
# The same two rules seen from the other side: all of printable ASCII but the space and the eight above.
_ASCII_LOCAL = re.compile(r"[!#-%(-.0-9;=?A-Z\[-~]+")
# NR-LDH labels (RFC 5890 §2.3.1): no hyphen at either end, none in the 3rd and 4th place (that would be an A-label or
# one of the reserved names; these take the long way).
_ASCII_LABEL = r"(?!..--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ASCII_DOMAIN = re.compile(rf"{_ASCII_LABEL}(?:\.{_ASCII_LABEL})*")
# Where every code point that is not assigned is kept for pictographic symbols (UTS #51, Extended_Pictographic), and some
# that are assigned.
_PICTOGRAPHS = re.compile("[\U0001f000-\U0001faff\U0001fc00-\U0001fffd]")
_STAND_INS: Final = tuple(map(chr, range(0x1F600, 0x1F650)))
_MAX_DOMAIN_LENGTH: Final = 253  # RFC 1034 §3.1 (255 octets with the length octets and the root), in A-label form


class JidMalformed(ValueError):
    """The text is no XMPP address (stanza error `jid-malformed`). `part` says which part is at fault."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason

    def __reduce__(self) -> tuple[type[JidMalformed], tuple[str, str]]:
        return JidMalformed, (self.part, self.reason)


class JID(str):
    """An XMPP address: `domain`, `local@domain`, each with or without `/resource`.

    `JID(text)` and `JID.parse(text)` are the same. `local` and `resource` are "" where there is none.
    Instances cannot be changed and can be shared freely.
    """

    __slots__ = ("_bare", "_wire", "domain", "local", "resource")

    local: str
    domain: str
    resource: str
    _bare: JID | None
    _wire: bytes | None

    def __new__(cls, text: str) -> JID:
        """Parse `text`, so that the repr of a JID evaluates to it. Raises `JidMalformed`."""
        return cls.parse(text)

    @staticmethod
    def parse(text: str) -> JID:
        """The address that `text` denotes, prepared by RFC 7622.

        Results are cached (bounded by `CACHED_JIDS`), failures are not. Raises `JidMalformed`.
        """
        if text.__class__ is JID:
            return text  # exactly a JID, so it has been through here
        if len(text) > CACHED_TEXT_LENGTH:
            return _parse(text)
        return _parse_cached(text)

    @staticmethod
    def of(local: str, domain: str, resource: str = "") -> JID:
        """An address made of prepared parts. Nothing is checked: never call it with what a peer sent."""
        text = f"{local}@{domain}" if local else domain
        if resource:
            text = f"{text}/{resource}"
        jid = str.__new__(JID, text)
        _set_local(jid, local)
        _set_domain(jid, domain)
        _set_resource(jid, resource)
        _set_bare(jid, None)
        _set_wire(jid, None)
        return jid

    def with_resource(self, resource: str) -> JID:
        """The same address with another resource, which is prepared already (`prepare_resource`); "" removes it."""
        return JID.of(self.local, self.domain, resource) if resource else self.bare

    @property
    def bare(self) -> JID:
        """The address without its resource; the object itself if it has none."""
        if not self.resource:
            return self
        bare = self._bare
        if bare is None:
            # Shared, because a room of a thousand occupants has a thousand full JIDs and one bare JID.
            bare = _shared_bare(self.local, self.domain)
            _set_bare(self, bare)
        return bare

    @property
    def wire(self) -> bytes:
        """The address as UTF-8, escaped to stand between single quotes in an XML attribute. Made once, on first use."""
        wire = self._wire
        if wire is None:
            wire = escape_attr(self).encode()
            _set_wire(self, wire)
        return wire

    def __repr__(self) -> str:
        return f"JID({str.__repr__(self)})"

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"a JID cannot be changed (attribute {name!r})")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError(f"a JID cannot be changed (attribute {name!r})")

    def __copy__(self) -> JID:
        return self

    def __deepcopy__(self, memo: object) -> JID:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return JID.of, (self.local, self.domain, self.resource)

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return self.__reduce__()


# The slots' own setters: the one way past `__setattr__`, and half the price of `object.__setattr__`.
_set_local = JID.__dict__["local"].__set__
_set_domain = JID.__dict__["domain"].__set__
_set_resource = JID.__dict__["resource"].__set__
_set_bare = JID.__dict__["_bare"].__set__
_set_wire = JID.__dict__["_wire"].__set__


def prepare_local(text: str) -> str:
    """A localpart by RFC 7622 §3.3: UsernameCaseMapped of RFC 8265, less eight characters. Raises `JidMalformed`."""
    _refuse_long_input("localpart", text)
    if text.isascii():
        # Every ASCII character is its own normal form, so nothing but its case is mapped.
        if _ASCII_LOCAL.fullmatch(text) is None:
            raise JidMalformed("localpart", "empty" if not text else "a character that is not allowed")
        prepared = text.lower()
    else:
        prepared = _prepare_local_unicode(text)
    return _checked_length("localpart", prepared)


def prepare_domain(text: str) -> str:
    """A domainpart by RFC 7622 §3.2: a host name with U-labels (IDNA2008), an IPv4 address or `[IPv6]`.

    Case and width are mapped by UTS #46 (that is RFC 5895 for what matters here), A-labels become U-labels, one
    trailing dot goes. An underscore is refused: it is in neither an NR-LDH label nor a U-label. Raises `JidMalformed`.
    """
    lowered = text.lower().removesuffix(".")
    if len(lowered) <= _MAX_DOMAIN_LENGTH and _ASCII_DOMAIN.fullmatch(lowered) is not None and text.isascii():
        return lowered
    _refuse_long_input("domainpart", text)
    return _checked_length("domainpart", _prepare_domain_unicode(text))


def prepare_resource(text: str) -> str:
    """A resourcepart by RFC 7622 §3.4: OpaqueString (RFC 8265 §4.2). Raises `JidMalformed`.

    A leading space is refused: OpaqueString alone would let it pass, example 18 of RFC 7622 §3.5 does not.
    """
    _refuse_long_input("resourcepart", text)
    if text.isascii():
        if not text.isprintable():
            raise JidMalformed("resourcepart", "a control character")
        prepared = text
    else:
        prepared = _prepare_resource_unicode(text)
    if not prepared:
        raise JidMalformed("resourcepart", "empty")
    if prepared[0] == " ":
        raise JidMalformed("resourcepart", "begins with a space")
    return _checked_length("resourcepart", prepared)


def _prepare_local_unicode(text: str) -> str:
    """The rules as written, for any text; `prepare_local` has a short cut for ASCII."""
    try:
        prepared = _username.enforce(text)
    except ValueError as error:
        raise JidMalformed("localpart", _reason(error)) from None
    if _EXCLUDED_LOCAL.search(prepared) is not None:  # after mapping: a fullwidth solidus becomes a plain one
        raise JidMalformed("localpart", "a character that is not allowed")
    return prepared


def _prepare_domain_unicode(text: str) -> str:
    """The rules as written, for any text; `prepare_domain` has a short cut for plain host names."""
    if text.startswith("["):
        return _prepare_ip_literal(text)
    try:
        # RFC 7622 §3.2: the dot is stripped before anything else. The mapping may bring one about
        # (an ideographic full stop); it is the same trailing dot and not a second one.
        mapped = idna.uts46_remap(text.removesuffix("."), std3_rules=True)
        if not text.endswith("."):
            mapped = mapped.removesuffix(".")
        labels = [idna.ulabel(label) for label in mapped.split(".")]
        ascii_length = sum(len(idna.alabel(label)) + 1 for label in labels) - 1  # raises above 63 octets
    except ValueError as error:
        raise JidMalformed("domainpart", _reason(error)) from None
    if ascii_length > _MAX_DOMAIN_LENGTH:
        raise JidMalformed("domainpart", "too long")
    return ".".join(labels)


def _prepare_ip_literal(text: str) -> str:
    """An IPv6 address in brackets, in its canonical form (RFC 5952), so that two spellings are one domain."""
    inner = text[1:-1]
    # RFC 7622 §3.2 has IP-literal of RFC 3986, which knows no zone; `ipaddress` would accept one.
    if not text.endswith("]") or "%" in inner:
        raise JidMalformed("domainpart", "no IPv6 address between brackets")
    try:
        return f"[{ipaddress.IPv6Address(inner).compressed}]"
    except ValueError:
        raise JidMalformed("domainpart", "no IPv6 address between brackets") from None


def _prepare_resource_unicode(text: str) -> str:
    """The rules as written, for any text; `prepare_resource` has a short cut for ASCII.

    Only that symbols which Unicode has in store, and newer tables than ours may know, are taken for symbols: people call
    themselves so in rooms of other servers. They are prepared as any symbol is, and one that is assigned stands in for each.
    """
    missing = {c for c in _PICTOGRAPHS.findall(text) if unicodedata.category(c) == "Cn"}
    if missing:
        free = [c for c in _STAND_INS if c not in text]
        if len(missing) > len(free):
            raise JidMalformed("resourcepart", "unassigned")
        stands_for = dict(zip(sorted(missing), free, strict=False))
        text = text.translate({ord(c): stand_in for c, stand_in in stands_for.items()})
    try:
        prepared = str(_opaque.enforce(text))
    except ValueError as error:
        raise JidMalformed("resourcepart", _reason(error)) from None
    return prepared.translate({ord(stand_in): c for c, stand_in in stands_for.items()}) if missing else prepared


def _refuse_long_input(part: str, text: str) -> None:
    """Bound the work on one part. Mapping may shorten a text, so this is not yet the limit of the result."""
    if len(text) > MAX_TEXT_BYTES:
        raise JidMalformed(part, "too long")


def _checked_length(part: str, prepared: str) -> str:
    length = len(prepared)
    if length > MAX_PART_BYTES or (not prepared.isascii() and len(prepared.encode()) > MAX_PART_BYTES):
        raise JidMalformed(part, "too long")
    return prepared


def _reason(error: ValueError) -> str:
    """What a library found, without the text it complains of: that may be long, and is a peer's."""
    if isinstance(error, UnicodeEncodeError):
        return error.reason.removeprefix("DISALLOWED/").replace("_", " ")
    return "no internationalised domain name"


def _parse(text: str) -> JID:
    """RFC 7622 §3.1 and §3.2: what follows the first slash is the resource, what precedes the first @ the localpart."""
    if len(text) > MAX_TEXT_BYTES or (not text.isascii() and _utf8_length(text) > MAX_TEXT_BYTES):
        raise JidMalformed("address", "too long")
    address, slash, resource = text.partition("/")
    local, at, domain = address.partition("@")
    if at:
        local = prepare_local(local)
    else:
        local, domain = "", local
    domain = _prepare_domain_cached(domain) if len(domain) <= CACHED_TEXT_LENGTH else prepare_domain(domain)
    return JID.of(local, domain, prepare_resource(resource) if slash else "")


def _utf8_length(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise JidMalformed("address", "a lone surrogate") from None


_parse_cached = lru_cache(CACHED_JIDS)(_parse)
# Addresses of one domain share one `domain` string.
_prepare_domain_cached = lru_cache(2048)(prepare_domain)
_shared_bare = lru_cache(4096)(JID.of)
