"""IQs between occupants, with the addresses rewritten so that nobody learns a real one (XEP-0045 §15.4), and self-pings.

A request gets an id of ours while it is on its way, so that its answer finds back whoever asked, whatever ids clients use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from beamish.core.events import Context
from beamish.core.iq import check_request
from beamish.core.kernel import new_id
from beamish.modules.muc.names import VCARD
from beamish.modules.muc.occupants import Occupant
from beamish.modules.muc.talk import bare_error
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, Stanza, content_bytes
from beamish.xmpp.xml import Element

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

PENDING_LIMIT: Final = 20_000
"""Requests on their way in one service; the oldest are forgotten first, and their answers dropped."""

_PING: Final = f"{{{ns.PING}}}ping"
_DISCO: Final = (f"{{{ns.DISCO_INFO}}}query", f"{{{ns.DISCO_ITEMS}}}query")
_CARD: Final = f"{{{VCARD}}}vCard"
_PUBSUB: Final = "http://jabber.org/protocol/pubsub"
_ITEMS: Final = f"{{{_PUBSUB}}}pubsub/{{{_PUBSUB}}}items/{{{_PUBSUB}}}item"
_PROFILE: Final = frozenset({"urn:xmpp:avatar:metadata", "urn:xmpp:avatar:data", "urn:xmpp:vcard4"})
"""Nodes of an account that occupants may ask for. Others, such as keys, would tell who is behind a nickname."""


@dataclass(frozen=True, slots=True)
class _Pending:
    asker: JID
    id: str
    asked: JID
    """The occupant address that was asked."""
    target: JID
    """The real address the request went to."""


class Between:
    """IQs to occupant addresses."""

    def __init__(self, muc: MucModule, limit: int = PENDING_LIMIT) -> None:
        self._muc = muc
        self._limit = limit
        self._pending: OrderedDict[str, _Pending] = OrderedDict()

    def iq(self, ctx: Context) -> Awaitable[None] | None:
        """An IQ to an occupant. Raises `StanzaError`."""
        stanza = ctx.stanza
        to, who = stanza.to, stanza.sender
        assert to is not None and who is not None
        if stanza.type in ("result", "error"):
            self._answer(stanza, who)
            return None
        payload = check_request(stanza)
        room = self._muc.rooms.get(to.bare)
        seat = None if room is None else room.seats.get(who)
        if room is None or seat is None:
            if payload.tag in _DISCO:
                raise StanzaError(Condition.BAD_REQUEST, text="you are not in this room")  # §6.6
            raise StanzaError(Condition.NOT_ACCEPTABLE, Kind.CANCEL, "you are not in this room")
        room.charge(seat, self._muc.kernel.clock.now())
        asked = room.find(to.resource)
        if asked is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="nobody here has this nickname")
        if asked is seat.occupant and payload.tag == _PING:
            self._muc.kernel.router.answer(ctx, stanza.reply())  # XEP-0410 §3.3
            return None
        self._ask(stanza, who, seat.occupant, asked, _is_of_account(stanza.type, payload))
        return None

    def _ask(self, stanza: Stanza, who: JID, asker: Occupant, asked: Occupant, of_account: bool) -> None:
        main = asked.main
        assert main is not None
        target = asked.bare if of_account else main.jid
        id_ = new_id()
        self._pending[id_] = _Pending(who, stanza.id, asked.jid, target)
        if len(self._pending) > self._limit:
            self._pending.popitem(last=False)
        content = b"".join(content_bytes(child) for child in stanza.el)
        passed = Stanza.build(IQ, stanza.type, id=id_, sender=asker.jid, to=target, lang=stanza.lang, content=content)
        self._muc.fanout.send(target, passed)

    def _answer(self, stanza: Stanza, who: JID) -> None:
        """Whoever was asked has answered; anybody else's answer is dropped."""
        pending = self._pending.get(stanza.id)
        if pending is None or pending.target != who:
            return
        del self._pending[stanza.id]
        if stanza.type == "error":
            passed = bare_error(stanza, pending.asked, pending.asker, pending.id)
        else:
            payload = stanza.el if pending.target.resource else _without_publishers(stanza.el)
            content = b"".join(content_bytes(child) for child in payload)
            passed = Stanza.build(
                IQ, "result", id=pending.id, sender=pending.asked, to=pending.asker, lang=stanza.lang, content=content
            )
        self._muc.fanout.send(pending.asker, passed)


def _is_of_account(type_: str, payload: Element) -> bool:
    """Whether the server of the asked one answers in its place, so that the request goes to the bare JID."""
    if payload.tag == _CARD:
        return True
    if type_ != "get" or payload.tag != f"{{{_PUBSUB}}}pubsub":
        return False
    items = payload.find(f"{{{_PUBSUB}}}items")
    return items is not None and items.get("node") in _PROFILE


def _without_publishers(el: Element) -> Element:
    """An answer in which items do not name who published them: that is a real address."""
    if el.find(f"{_ITEMS}[@publisher]") is None:
        return el
    el = deepcopy(el)
    for item in el.iterfind(_ITEMS):
        if "publisher" in item.attrib:
            del item.attrib["publisher"]
    return el
