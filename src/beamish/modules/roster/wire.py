"""Rosters in XML (RFC 6121 §2.1)."""

from __future__ import annotations

import re
from collections import OrderedDict
from itertools import count
from typing import Final

from beamish.core.roster_xml import item_bytes
from beamish.core.services import RosterItem
from beamish.core.sessions import Session
from beamish.modules.roster.memory import MemoryRoster
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, Stanza
from beamish.xmpp.xml import escape_attr

QUERY: Final = f"{{{ns.ROSTER}}}query"
ITEM: Final = f"{{{ns.ROSTER}}}item"
GROUP: Final = f"{{{ns.ROSTER}}}group"

_ENTRY: Final = 300
_GET: Final = re.compile(
    rb"><query xmlns=(?:'jabber:iq:roster'|\"jabber:iq:roster\")"
    rb"(?: ver=(?:'([0-9]*)'|\"([0-9]*)\"))? ?/></iq>"
)
_ids = count(1)


class WholeRosters:
    """Rosters as their owners' clients get them, for the next login: making the bytes costs more than sending them.

    Kept by account, as long as the roster's `state` is the same, within `most` bytes in all.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[JID, tuple[int, bytes]] = OrderedDict()
        self.size = 0
        """What is kept, in bytes, with a rough allowance for the table itself."""

    def items(self, user: JID, roster: MemoryRoster) -> bytes:
        """Every listed item, in the order of the roster."""
        kept = self._kept.get(user)
        if kept is not None:
            if kept[0] == roster.state:
                self._kept.move_to_end(user)
                return kept[1]
            self.drop(user)
        data = b"".join(item_bytes(item) for item in roster.items() if item.listed)
        if data:
            self._kept[user] = roster.state, data
            self.size += len(data) + _ENTRY
            while self.size > self._most:
                self.drop(next(iter(self._kept)))
        return data

    def drop(self, user: JID) -> None:
        """Keep nothing of an account."""
        kept = self._kept.pop(user, None)
        if kept is not None:
            self.size -= len(kept[1]) + _ENTRY


def query_bytes(items: bytes, number: int) -> bytes:
    """`<query/>` with a version."""
    return b"<query xmlns='jabber:iq:roster' ver='%d'>%b</query>" % (number, items)


def plain_version(request: Stanza) -> str | None:
    """The version in a roster get as nearly all clients write it, "" without one; None for whatever else it may be.

    It needs no tree, which would cost a twentieth of all that a login does.
    """
    if request.known_tags != (QUERY,):
        return None
    found = _GET.fullmatch(request.body)
    return None if found is None else (found[1] or found[2] or b"").decode()


def push_for(session: Session, item: bytes, number: int) -> Stanza:
    """A roster push (RFC 6121 §2.1.6), implicitly from the account."""
    return Stanza.build(IQ, "set", id=new_id("rp"), to=session.jid, content=query_bytes(item, number))


def push_to(session: Session, item: bytes, number: int) -> None:
    """Push to a session."""
    session.send(push_for(session, item, number))


def shown(item: RosterItem | None) -> tuple[object, ...] | None:
    """What a client sees of an item."""
    if item is None or not item.listed:
        return None
    return item.name, item.groups, item.to, item.from_, item.pending_out, item.approved


def removed_bytes(contact: str) -> bytes:
    """What a push of a removal holds (RFC 6121 §2.5.2)."""
    return f"<item jid='{escape_attr(contact)}' subscription='remove'/>".encode()


def new_id(kind: str) -> str:
    """An id for a stanza of the server's own; the number keeps it unique within the process."""
    return f"{kind}{next(_ids):x}"
