"""The archive of a room for its readers (XEP-0313 §6.1.2) and for its moderators (XEP-0425)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from beamish.core.clock import stamp
from beamish.core.events import Context
from beamish.core.kernel import new_id
from beamish.modules.muc.administration import actor_role
from beamish.modules.muc.archive import (
    fastened_bytes,
    fin_bytes,
    moderated_bytes,
    query_form,
    read_query,
    result_messages,
    tombstone,
)
from beamish.modules.muc.history import Kept
from beamish.modules.muc.names import FASTEN, MAM, MODERATE, MODERATE_0, RETRACT, RETRACT_0, STANZA_ID
from beamish.modules.muc.occupants import Tell
from beamish.modules.muc.privileges import Affiliation, Role
from beamish.modules.muc.room import Room
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza
from beamish.xmpp.xml import Element, escape_attr, make

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

MAX_REASON: Final = 1024


class Records:
    """Reading and moderating archives."""

    def __init__(self, muc: MucModule) -> None:
        self._muc = muc

    def form(self, ctx: Context, room: Room, query: Element) -> Stanza:
        """The fields of a query (§4.1.5)."""
        _check_reader(room, ctx)
        return ctx.stanza.reply(make(f"{{{MAM}}}query", None, query_form()))

    async def query(self, ctx: Context, room: Room, el: Element) -> None:
        """A page of the archive, to those who may enter the room."""
        who = _check_reader(room, ctx)
        query = read_query(el, room.jid)
        show_real = room.config.non_anonymous or actor_role(room, who) is Role.MODERATOR
        if query.with_real and not show_real:
            raise StanzaError(Condition.FORBIDDEN, text="you may not know who is who in this room")
        result = await self._muc.archive.query(room.jid, query)
        for message in result_messages(room.jid, who, query, result.rows, show_real):
            self._muc.fanout.send(who, message)
        self._muc.kernel.router.answer(ctx, ctx.stanza.reply(fin_bytes(result)))

    async def metadata(self, ctx: Context, room: Room, el: Element) -> Stanza:
        """The ends of the archive (§5.1)."""
        _check_reader(room, ctx)
        ends = await self._muc.archive.ends(room.jid)
        inner = ""
        if ends is not None:
            inner = "".join(
                f"<{tag} id='{escape_attr(uid)}' timestamp='{stamp(when)}'/>"
                for tag, (uid, when) in zip(("start", "end"), ends, strict=True)
            )
        return ctx.stanza.reply(f"<metadata xmlns='{MAM}'>{inner}</metadata>".encode())

    async def moderate(self, ctx: Context, room: Room, el: Element) -> None:
        """A moderator retracts somebody's message: for those here, for newcomers, and in the archive (XEP-0425 §5, §6).

        `el` is `<moderate/>`, or the `<apply-to/>` of version 0.2. Either is told to occupants in both forms.
        """
        who = ctx.stanza.sender
        assert who is not None
        if actor_role(room, who) is not Role.MODERATOR:
            raise StanzaError(Condition.FORBIDDEN, text="only moderators may moderate messages")
        uid = el.get("id", "")
        retract, said = f"{{{RETRACT}}}retract", f"{{{MODERATE}}}reason"
        if el.tag == f"{{{FASTEN}}}apply-to":
            retract = f"{{{MODERATE_0}}}moderate/{{{RETRACT_0}}}retract"
            said = f"{{{MODERATE_0}}}moderate/{{{MODERATE_0}}}reason"
        if not uid or el.find(retract) is None:
            raise StanzaError(Condition.BAD_REQUEST, text="which message is to be retracted?")
        reason = (el.findtext(said) or "")[:MAX_REASON]
        found = await self._muc.archive.find(room.jid, uid)
        if found is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such message in this room")
        seat = room.seats.get(who)
        occupant = seat.occupant if seat is not None else next(iter(room.of_user(who.bare)), None)
        by = occupant.jid if occupant is not None else room.jid
        id_bytes = occupant.id_bytes if occupant is not None else b""
        now = self._muc.kernel.clock.now()
        new = new_id()
        mark = f"<stanza-id xmlns='{STANZA_ID}' by='{escape_attr(room.jid)}' id='{new}'/>"
        told = moderated_bytes("retract", f" id='{escape_attr(uid)}'", by, id_bytes, reason)
        retraction = Stanza.build(
            MESSAGE,
            "groupchat",
            id=new_id(),
            sender=room.jid,
            content=(told + fastened_bytes(uid, by, reason) + mark).encode(),
        )
        stone = tombstone(found[0], moderated_bytes("retracted", f" stamp='{stamp(now)}'", by, id_bytes, reason))
        await self._muc.archive.bury(room.jid, uid, stone, Kept(new, now, retraction, None), room.config.logging)
        if room.history is not None:
            room.history.remove(uid)
        self._muc.kernel.router.answer(ctx, ctx.stanza.reply())
        rest = self._muc.carry_out(room, [Tell(retraction, tuple(room.seats.values()))])
        if rest is not None:
            await rest


def _check_reader(room: Room, ctx: Context) -> JID:
    """Who may enter may read (§6.1.2). Raises `StanzaError`."""
    who = ctx.stanza.sender
    assert who is not None
    affiliation = room.affiliation_of(who)
    if room.locked:
        raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such room")
    if affiliation is Affiliation.OUTCAST or (affiliation is Affiliation.NONE and room.config.members_only):
        raise StanzaError(Condition.FORBIDDEN, text="you may not enter this room")
    if room.config.password_protected and who not in room.seats and affiliation < Affiliation.MEMBER:
        raise StanzaError(Condition.FORBIDDEN, text="enter this room with its password first")
    if not room.config.logging:
        raise StanzaError(Condition.SERVICE_UNAVAILABLE, text="this room keeps no archive")
    return who
