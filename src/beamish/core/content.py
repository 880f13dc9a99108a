"""What a message holds, looked at once: archive, copies to other devices and held-back clients decide by the same survey.

Each known payload is a bit; rules are written as masks. What is not known here is `OTHER`, and passes everywhere.
"""

from __future__ import annotations

import re
from enum import IntFlag
from typing import Final, cast

from beamish.core.events import Context
from beamish.xmpp import ns
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import unescape_attr

HINTS: Final = "urn:xmpp:hints"
CARBONS: Final = "urn:xmpp:carbons:2"
SID: Final = "urn:xmpp:sid:0"
RETRACT: Final = "urn:xmpp:message-retract:1"
DISPLAYED: Final = "urn:xmpp:mds:displayed:0"
MUC_USER: Final = "http://jabber.org/protocol/muc#user"

RETRACT_TAG: Final = f"{{{RETRACT}}}retract"
STANZA_ID_TAG: Final = f"{{{SID}}}stanza-id"
_BODY_TAG: Final = f"{{{ns.CLIENT}}}body"
_INVITES: Final = (f"{{{MUC_USER}}}invite", f"{{{MUC_USER}}}decline")


class Holds(IntFlag):
    """One kind of thing that a message may hold."""

    BODY = 1 << 0
    """A body with something in it."""
    SUBJECT = 1 << 1
    STATE = 1 << 2
    """A chat state (XEP-0085)."""
    RECEIPT_REQUEST = 1 << 3
    RECEIPT = 1 << 4
    """XEP-0184."""
    MARKABLE = 1 << 5
    MARKER = 1 << 6
    """XEP-0333: received, displayed or acknowledged."""
    ENCRYPTED = 1 << 7
    REACTION = 1 << 8
    """XEP-0444."""
    RETRACTION = 1 << 9
    """XEP-0424."""
    CALL = 1 << 10
    """Call set-up by messages (XEP-0353, XEP-0482)."""
    INVITATION = 1 << 11
    """To a room: direct (XEP-0249), or mediated by it (XEP-0045 §7.8.2)."""
    MUC_USER = 1 << 12
    """`<x xmlns='…muc#user'/>` that is no invitation: a private message through a room."""
    FILE = 1 << 13
    """A reference to a file without any text (XEP-0066, XEP-0447, XEP-0385)."""
    EVENT = 1 << 14
    """A notification of XEP-0060."""
    PRIVATE = 1 << 15
    """`<private/>` of XEP-0280."""
    COPY = 1 << 16
    """A carbon copy, or something that claims to be one."""
    NO_COPY = 1 << 17
    NO_STORE = 1 << 18
    NO_PERMANENT_STORE = 1 << 19
    STORE = 1 << 20
    """XEP-0334; in errors hints mean nothing (§4) and are not reported."""
    STANZA_ID = 1 << 21
    """XEP-0359, by whomever."""
    MDS = 1 << 22
    """A displayed state for the server to publish (XEP-0490)."""
    ARCHIVE_RESULT = 1 << 23
    ASIDE = 1 << 24
    """What accompanies content and means nothing alone: thread, origin id, stamps, fallback indications, replies."""
    OTHER = 1 << 25


H = Holds
_HINT_MASK: Final = int(H.NO_COPY | H.NO_STORE | H.NO_PERMANENT_STORE | H.STORE)


def _tags() -> dict[str, int]:
    known: dict[str, Holds] = {}

    def add(bit: Holds, namespace: str, *names: str) -> None:
        known.update((f"{{{namespace}}}{name}", bit) for name in names)

    add(H.SUBJECT, ns.CLIENT, "subject")
    add(H.ASIDE, ns.CLIENT, "thread")
    add(H.STATE, "http://jabber.org/protocol/chatstates", "active", "composing", "paused", "inactive", "gone")
    add(H.RECEIPT_REQUEST, "urn:xmpp:receipts", "request")
    add(H.RECEIPT, "urn:xmpp:receipts", "received")
    add(H.MARKABLE, "urn:xmpp:chat-markers:0", "markable")
    add(H.MARKER, "urn:xmpp:chat-markers:0", "received", "displayed", "acknowledged")
    add(H.ENCRYPTED, "eu.siacs.conversations.axolotl", "encrypted")
    add(H.ENCRYPTED, "urn:xmpp:omemo:1", "encrypted")
    add(H.ENCRYPTED, "urn:xmpp:omemo:2", "encrypted")
    add(H.ENCRYPTED, "urn:xmpp:openpgp:0", "openpgp")
    add(H.ENCRYPTED, "jabber:x:encrypted", "x")
    add(H.REACTION, "urn:xmpp:reactions:0", "reactions")
    add(H.RETRACTION, RETRACT, "retract")
    for version in ("0", "1"):
        calls = ("propose", "retract", "accept", "proceed", "reject", "ringing", "finish")
        add(H.CALL, f"urn:xmpp:jingle-message:{version}", *calls)
        add(H.CALL, f"urn:xmpp:call-invites:{version}", "invite", "retract", "accept", "reject", "left", "finish")
    add(H.INVITATION, "jabber:x:conference", "x")
    add(H.MUC_USER, MUC_USER, "x")
    add(H.FILE, "jabber:x:oob", "x")
    add(H.FILE, "urn:xmpp:sfs:0", "file-sharing", "sources")
    add(H.FILE, "urn:xmpp:reference:0", "reference")
    add(H.EVENT, "http://jabber.org/protocol/pubsub#event", "event")
    add(H.PRIVATE, CARBONS, "private")
    add(H.COPY, CARBONS, "sent", "received")
    add(H.NO_COPY, HINTS, "no-copy")
    add(H.NO_STORE, HINTS, "no-store")
    add(H.NO_PERMANENT_STORE, HINTS, "no-permanent-store")
    add(H.STORE, HINTS, "store")
    add(H.STANZA_ID, SID, "stanza-id")
    add(H.ASIDE, SID, "origin-id", "referenced-stanza")
    add(H.ASIDE, ns.DELAY, "delay")
    add(H.ASIDE, "urn:xmpp:fallback:0", "fallback")
    add(H.ASIDE, "urn:xmpp:reply:0", "reply")
    add(H.ASIDE, "urn:xmpp:eme:0", "encryption")
    add(H.ASIDE, "http://jabber.org/protocol/nick", "nick")
    add(H.MDS, DISPLAYED, "displayed")
    add(H.ARCHIVE_RESULT, "urn:xmpp:mam:2", "result")
    return {tag: int(bit) for tag, bit in known.items()}


_TAGS: Final = _tags()
_OTHER: Final = int(H.OTHER)
_BODY: Final = int(H.BODY)
_MUC_USER: Final = int(H.MUC_USER)
_INVITATION: Final = int(H.INVITATION)


_TO_BE_LOOKED_AT: Final = -1
_BITS: Final[dict[tuple[str, ...], int]] = {}
"""The bits of messages by the tags of their children, without that of the body. Peers choose the tags, hence the bounds."""
_BITS_KEPT: Final = 4_096
_FEW: Final = 16
# the name of an element inside of another one may be the same: so only where it stands there once
_BODY_TEXT: Final = re.compile(rb"<body(?: [^<>]*)?>([^<]*)</body>")
_BODY_FIRST: Final = b"><body>"
_BODY_BEGINS: Final = len(_BODY_FIRST)
_ANGLE: Final = ord("<")


def survey(stanza: Stanza) -> int:
    """The bits of `Holds` for a message, as a plain int (bit operations on flags cost ten times as much)."""
    tags = stanza.known_tags
    if tags is None:
        return _look(stanza)[0]
    bits = _BITS.get(tags)
    if bits is None:
        bits = _bits(tags)
    if bits < 0:
        return _look(stanza)[0]
    if _BODY_TAG in tags:
        raw = stanza.body
        # as nearly all that people say: no more is to be seen
        if raw.startswith(_BODY_FIRST) and raw[_BODY_BEGINS] != _ANGLE:
            bits |= _BODY
        else:
            text = _plain_body(stanza)
            if text is None:
                return _look(stanza)[0]
            if text:
                bits |= _BODY
    if stanza.type == "error":
        bits &= ~_HINT_MASK
    return bits


def words(stanza: Stanza) -> str | None:
    """The text of a message for people: all its bodies (one for each language), one below the other."""
    tags = stanza.known_tags
    if tags is not None and tags.count(_BODY_TAG) < 2:
        if _BODY_TAG not in tags:
            return None
        text = _plain_body(stanza)
        if text is not None:
            return (unescape_attr(text.decode()) if b"&" in text else text.decode()) or None
    return _look(stanza)[1]


def _bits(tags: tuple[str, ...]) -> int:
    bits = 0
    for tag in tags:
        bits |= 0 if tag == _BODY_TAG else _TAGS.get(tag, _OTHER)
    if bits & _MUC_USER or tags.count(_BODY_TAG) > 1:
        bits = _TO_BE_LOOKED_AT
    if len(_BITS) < _BITS_KEPT and len(tags) < _FEW:
        _BITS[tags] = bits
    return bits


def _plain_body(stanza: Stanza) -> bytes | None:
    """The text of the only body as it is written; None if that cannot be told from the bytes alone."""
    raw = stanza.body
    if raw.count(b"<body") > 1:
        return None
    found = _BODY_TEXT.search(raw)
    return None if found is None else found[1]


def _look(stanza: Stanza) -> tuple[int, str | None]:
    bits = 0
    text: str | None = None
    known = _TAGS.get
    for child in stanza.el:
        tag = child.tag
        if tag == _BODY_TAG:
            body = child.text
            if body:
                text = body if text is None else f"{text}\n{body}"
                bits |= _BODY
            elif len(child):
                bits |= _BODY
            continue
        bit = known(tag, _OTHER)
        if bit == _MUC_USER and any(child.find(name) is not None for name in _INVITES):
            bit = _INVITATION
        bits |= bit
    if stanza.type == "error":
        bits &= ~_HINT_MASK
    return bits, text


def content_of(ctx: Context) -> int:
    """`survey` of the stanza in a context, made once.

    Who takes something out of the stanza that has no meaning for rules may leave it alone, others call `forget`.
    """
    notes = ctx.notes
    bits = notes.get("content")
    if bits is None:
        bits = notes["content"] = survey(ctx.stanza)
    return cast("int", bits)


def forget(ctx: Context) -> None:
    """The stanza in a context holds other things now: look again."""
    ctx.notes.pop("content", None)


def chat_state_only(bits: int) -> bool:
    """Whether a message says nothing but that somebody types, or has stopped (XEP-0085)."""
    return bool(bits & int(H.STATE)) and not bits & ~_STATE_AND_ASIDES


_STATE_AND_ASIDES: Final = int(H.STATE | H.ASIDE | H.STANZA_ID | H.PRIVATE) | _HINT_MASK
