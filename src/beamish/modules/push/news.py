"""Which messages are worth waking a device for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from beamish.core.content import Holds, survey
from beamish.xmpp import ns
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import MESSAGE, Stanza

_BODY: Final = int(Holds.BODY)
_ENCRYPTED: Final = int(Holds.ENCRYPTED)
_CALL: Final = int(Holds.CALL)
_COPY: Final = int(Holds.COPY)
_NO_STORE: Final = int(Holds.NO_STORE)
_TALK: Final = int(Holds.BODY | Holds.ENCRYPTED | Holds.FILE)
_NEWS: Final = _TALK | int(Holds.CALL | Holds.INVITATION)
_NEVER: Final = int(Holds.EVENT | Holds.ARCHIVE_RESULT | Holds.RETRACTION)
"""Notifications of nodes, pages of archives, and what takes something back; with or without a body for old clients."""
_ONLY_FOR_ONE: Final = int(Holds.MUC_USER | Holds.PRIVATE | Holds.NO_COPY)
_TYPES: Final = frozenset(("error", "headline"))
_RINGS: Final = frozenset(
    f"{{{namespace}:{version}}}{name}"
    for namespace, name in (("urn:xmpp:jingle-message", "propose"), ("urn:xmpp:call-invites", "invite"))
    for version in (0, 1)
)
_DELAY: Final = f"{{{ns.DELAY}}}delay"
_OMEMO: Final = frozenset(
    f"{{{namespace}}}encrypted"
    for namespace in ("eu.siacs.conversations.axolotl", "urn:xmpp:omemo:1", "urn:xmpp:omemo:2")
)
_OPENPGP: Final = frozenset(("{urn:xmpp:openpgp:0}openpgp", "{jabber:x:encrypted}x"))
_RECEIVED: Final = "{urn:xmpp:carbons:2}received/{urn:xmpp:forward:0}forwarded/{jabber:client}message"


def news(stanza: Stanza, account: JID, rooms: Collection[JID] = ()) -> Stanza | None:
    """The message that a device of `account` should be woken for: the stanza, the message in a copy (XEP-0280), or None.

    `rooms` are the addresses at which the device is in rooms: what rooms send from there is its own.
    """
    sender = stanza.sender
    if stanza.type in _TYPES or sender is None:
        return None
    bits = survey(stanza)
    if sender.bare == account:
        return _copied(stanza, account) if bits & _COPY and sender == account else None
    if stanza.type == "groupchat" and sender in rooms:
        return None
    return stanza if is_news(stanza, bits) else None


def is_news(stanza: Stanza, bits: int) -> bool:
    """Whether a message of somebody else is worth a notification; `bits` are its `core.content.survey`.

    That is what people say, encrypted or not, files, invitations, and calls that begin. Not worth it are chat states, receipts,
    markers, reactions, retractions, keys without a message, the history of a room, and whatever is
    not to be stored, except for calls.
    """
    if not bits & _NEWS or bits & _NEVER or stanza.type in _TYPES:
        return False
    if bits & _CALL:
        return any(tag in _RINGS for tag in stanza.tags)
    if bits & _NO_STORE:
        return False
    if stanza.type == "groupchat" and (not bits & _TALK or _DELAY in stanza.tags):
        return False
    return not (bits & _ENCRYPTED and not bits & _BODY) or _has_payload(stanza)


def concerns_all(stanza: Stanza, bits: int) -> bool:
    """Whether a message that some devices got is of concern to the absent ones: not if it was for one of them alone."""
    if stanza.type == "groupchat":
        return False
    to = stanza.to
    return to is None or not to.resource or not bits & _ONLY_FOR_ONE


def _copied(stanza: Stanza, account: JID) -> Stanza | None:
    """The message in a copy of what another device received; what that device sent is no news."""
    inner = stanza.el.find(_RECEIVED)
    if inner is None:
        return None
    try:
        sender = JID.parse(inner.get("from", ""))
    except JidMalformed:
        return None
    message = Stanza(MESSAGE, inner.get("type", ""), "", sender, None, "", b"", b"", inner)
    return message if sender.bare != account and is_news(message, survey(message)) else None


def _has_payload(stanza: Stanza) -> bool:
    """Whether something encrypted has content; clients of OMEMO also send keys alone."""
    for child in stanza.el:
        tag = str(child.tag)
        if tag in _OPENPGP or (tag in _OMEMO and child.find(tag.partition("}")[0] + "}payload") is not None):
            return True
    return False
