"""Items of rosters in XML (RFC 6121 §2.1), for all who read or write them: the roster itself, and who stands in for it."""

from __future__ import annotations

from typing import Final

from beamish.core.services import RosterItem
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.xml import Element, escape_attr, escape_text

ITEM: Final = f"{{{ns.ROSTER}}}item"


def item_bytes(item: RosterItem) -> bytes:
    """RFC 6121 §2.1.2."""
    text = f"<item jid='{escape_attr(item.jid)}'"
    if item.name:
        text += f" name='{escape_attr(item.name)}'"
    text += f" subscription='{item.subscription}'"
    if item.pending_out:
        text += " ask='subscribe'"
    if item.approved:
        text += " approved='true'"
    if not item.groups:
        return (text + "/>").encode()
    groups = "".join(f"<group>{escape_text(group)}</group>" for group in item.groups)
    return f"{text}>{groups}</item>".encode()


def only_item(query: Element) -> Element:
    """The item of a roster set (RFC 6121 §2.1.5). Raises `StanzaError`."""
    items = query.findall(ITEM)
    if len(items) != 1:
        raise StanzaError(Condition.BAD_REQUEST, text="a roster set has exactly one item")
    return items[0]


def contact_of(item: Element) -> JID:
    """The address of an item of a roster set, without a resource. Raises `StanzaError`."""
    text = item.get("jid")
    if text is None:
        raise StanzaError(Condition.BAD_REQUEST, text="an item without an address")
    try:
        return JID.parse(text).bare
    except JidMalformed as error:
        raise StanzaError(Condition.JID_MALFORMED, text=str(error)) from error
