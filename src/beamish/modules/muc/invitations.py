"""Mediated invitations and what becomes of them (XEP-0045 §7.8.2). Direct ones (XEP-0249) do not pass the room."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from beamish.core.later import is_later
from beamish.core.services import AccountsService
from beamish.modules.muc.administration import Change, apply_affiliations, invitation
from beamish.modules.muc.names import MUC_USER
from beamish.modules.muc.occupants import Send
from beamish.modules.muc.privileges import Affiliation, Standing
from beamish.modules.muc.room import Room
from beamish.modules.muc.store import Note, NoteKind
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import MESSAGE, Stanza, content_bytes
from beamish.xmpp.xml import Element, escape_attr, escape_text

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

MAX_INVITEES: Final = 20
"""Invitations in one message."""
MAX_OPEN: Final = 200
"""Invitations of one room whose decline would be passed on; they are kept on disk, and in memory."""
_INVITE: Final = f"{{{MUC_USER}}}invite"
_REASON: Final = f"{{{MUC_USER}}}reason"
_CONTINUE: Final = f"{{{MUC_USER}}}continue"


class Invitations:
    """Inviting through rooms."""

    def __init__(self, muc: MucModule) -> None:
        self._muc = muc

    def invite(self, room: Room, who: JID, x: Element) -> Awaitable[None]:
        """Pass invitations on; in a room for members only the invitees become members first. Raises `StanzaError`."""
        seat = room.inside(who)
        if not room.may_invite(seat.occupant):
            raise StanzaError(Condition.FORBIDDEN, text="you may not invite to this room")
        room.charge(seat, self._muc.kernel.clock.now())
        invites = x.findall(_INVITE)
        if len(invites) > MAX_INVITEES:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="too many invitations at once")
        try:
            invitees = [(JID.parse(el.get("to", "")), el) for el in invites]
        except JidMalformed as exc:
            raise StanzaError(Condition.JID_MALFORMED, text="an invitation is to no address") from exc
        if room.config.members_only and not all(jid.local for jid, _ in invitees):
            # that would make everybody there a member, which is for admins to decide (§9.3)
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="a whole domain cannot be invited to this room")
        return self._invite(room, who, invitees)

    async def _invite(self, room: Room, who: JID, invitees: list[tuple[JID, Element]]) -> None:
        for jid, _ in invitees:
            if jid.local and self._muc.kernel.is_local_domain(jid.domain):
                exists = self._muc.kernel.service(AccountsService).exists(jid.bare)
                if not (await exists if is_later(exists) else exists):
                    raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"there is no {jid.bare}")
        if room.config.members_only:
            async with self._muc.exclusive(room):
                changes = [
                    Change(jid.bare, Standing(Affiliation.NONE), Standing(Affiliation.MEMBER))
                    for jid in dict.fromkeys(jid.bare for jid, _ in invitees)
                    if room.affiliation_of(jid) is Affiliation.NONE
                ]
                if len(room.standings) + len(changes) > room.bounds.affiliations:
                    raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="this room has too many affiliations")
                await self._muc.store.save(room.jid, None, [(c.jid, c.after) for c in changes])
                effects = [e for e in apply_affiliations(room, changes) if not isinstance(e, Send)]
            rest = self._muc.carry_out(room, effects)
            if rest is not None:
                await rest
        for jid, el in invitees:
            if room.affiliation_of(jid) is Affiliation.OUTCAST:
                continue  # §9.1: who is banned is not asked back by an occupant
            self._note(room, jid.bare, who.bare)
            extra = b"".join(content_bytes(child) for child in el if child.tag == _CONTINUE)
            message = invitation(room, jid, who.bare, el.findtext(_REASON) or "", extra)
            self._muc.kernel.router.post(message)

    def _note(self, room: Room, invitee: JID, inviter: JID) -> None:
        """Whom to tell if the invitee declines, which may be long after the inviter has left and the server was restarted."""
        room.invitations[invitee, inviter] = None
        room.invitations.move_to_end((invitee, inviter))
        self._muc.notes.keep(room, Note(NoteKind.INVITATION, invitee, str(inviter)))
        if len(room.invitations) > MAX_OPEN:
            (invitee, inviter), _ = room.invitations.popitem(last=False)
            self._muc.notes.erase(room, NoteKind.INVITATION, invitee, str(inviter))

    def decline(self, room: Room, who: JID, el: Element) -> None:
        """Tell the inviter; only for an invitation that there was, so that rooms are no way to write to strangers."""
        try:
            inviter = JID.parse(el.get("to", "")).bare
        except JidMalformed as exc:
            raise StanzaError(Condition.JID_MALFORMED, text="the decline is to no address") from exc
        if inviter == room.jid:
            occupant = room.find(JID.parse(el.get("to", "")).resource)
            if occupant is not None:
                inviter = occupant.bare
        if room.invitations.pop((who.bare, inviter), False) is False:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there was no such invitation")
        self._muc.notes.erase(room, NoteKind.INVITATION, who.bare, str(inviter))
        reason = el.findtext(_REASON) or ""
        text = f"<reason>{escape_text(reason)}</reason>" if reason else ""
        content = f"<x xmlns='{MUC_USER}'><decline from='{escape_attr(who.bare)}'>{text}</decline></x>"
        self._muc.kernel.router.post(Stanza.build(MESSAGE, sender=room.jid, to=inviter, content=content.encode()))
