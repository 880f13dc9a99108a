"""What has to be asked for and approved: voice (XEP-0045 §7.13, §8.6) and registration (§7.10, §9.9)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from beamish.modules.muc.administration import (
    AffiliationItem,
    Change,
    RoleItem,
    actor_role,
    apply_affiliations,
    change_roles,
    plan_affiliations,
)
from beamish.modules.muc.names import REGISTER, REGISTER_FORM, REQUEST_FORM
from beamish.modules.muc.occupants import Send, is_visible_nick, nick_key
from beamish.modules.muc.privileges import Affiliation, Role, Standing
from beamish.modules.muc.room import Room
from beamish.modules.muc.store import Note, NoteKind
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID, JidMalformed, prepare_resource
from beamish.xmpp.payload import forms
from beamish.xmpp.payload.forms import Form, Submission
from beamish.xmpp.stanza import MESSAGE, Stanza
from beamish.xmpp.xml import Element, make

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

MAX_REQUESTS: Final = 1000
"""Registrations of one service that wait for an admin; the oldest are forgotten first."""
MAX_ASKED: Final = 5
"""Nicknames that one user can ask the admins of a room for, before they answer."""
_NICK: Final = "muc#register_roomnick"
_ALLOW: Final = "muc#register_allow"
_ADMINS: Final = (Affiliation.OWNER, Affiliation.ADMIN)


class Approvals:
    """Requests for voice and for membership."""

    def __init__(self, muc: MucModule) -> None:
        self._muc = muc
        self._waiting: OrderedDict[tuple[JID, JID], tuple[str, int]] = OrderedDict()
        """(room, user) → the nickname that was asked for last, and how many were."""

    def message(self, room: Room, who: JID, form: Element) -> Awaitable[None] | None:
        """A data form in a message to the room. Raises `StanzaError`."""
        submitted = Submission.from_xml(form)
        if submitted.cancelled:
            return None
        kind = Form.from_xml(form).form_type
        if kind == REQUEST_FORM:
            return self._voice(room, who, submitted)
        if kind == REGISTER_FORM:
            return self._approve(room, who, submitted)
        raise StanzaError(Condition.BAD_REQUEST, text="this form means nothing to a room")

    # ---- voice ------------------------------------------------------------------------------------------------------

    def _voice(self, room: Room, who: JID, submitted: Submission) -> Awaitable[None] | None:
        if "muc#request_allow" in submitted:
            return self._grant_voice(room, who, submitted)
        seat = room.inside(who)
        room.charge(seat, self._muc.kernel.clock.now())
        if submitted.text("muc#role") != Role.PARTICIPANT.label or seat.occupant.role is not Role.VISITOR:
            raise StanzaError(Condition.BAD_REQUEST, text="visitors ask for the role participant, others have voice")
        fields = (
            forms.choice("muc#role", "participant", ("participant",), "Requested role"),
            forms.Field("muc#jid", "jid-single", (str(who),), "User ID"),
            forms.Field("muc#roomnick", "text-single", (seat.occupant.nick,), "Room nickname"),
            forms.boolean("muc#request_allow", False, "Grant voice to this person?"),
        )
        question = Form.of("form", REQUEST_FORM, fields, title="Voice request").to_xml()
        for moderator in room.moderators():
            self._muc.kernel.router.post(Stanza.build(MESSAGE, sender=room.jid, to=moderator.jid, content=question))
        return None

    def _grant_voice(self, room: Room, who: JID, submitted: Submission) -> Awaitable[None] | None:
        if actor_role(room, who) is not Role.MODERATOR:
            raise StanzaError(Condition.FORBIDDEN, text="only moderators grant voice")
        if not submitted.boolean("muc#request_allow"):
            return None
        item = RoleItem(submitted.text("muc#roomnick") or "", Role.PARTICIPANT)
        occupant = room.find(item.nick)
        if occupant is not None and occupant.role is not Role.VISITOR:
            return None  # it has voice by now; nothing is to be taken from it
        return self._muc.carry_out(room, change_roles(room, who, [item]))

    # ---- registration -----------------------------------------------------------------------------------------------

    def registration_form(self, room: Room, who: JID) -> Element:
        """What a user is asked in order to register, or that it is registered (§7.10). Raises `StanzaError`."""
        standing = room.standing_of(who)
        self._check_allowed(room, standing)
        query = make(f"{{{REGISTER}}}query")
        if standing.nick:
            query.append(make(f"{{{REGISTER}}}registered"))
            query.append(make(f"{{{REGISTER}}}username", None, standing.nick))
            return query
        query.append(make(f"{{{REGISTER}}}instructions", None, "Choose the nickname that is to be yours in this room."))
        fields = (forms.Field(_NICK, "text-single", (), "Nickname", required=True),)
        query.append(Form.of("form", REGISTER_FORM, fields, title=f"Registration with {room.jid}").to_xml())
        return query

    def _check_allowed(self, room: Room, standing: Standing) -> None:
        if standing.affiliation is Affiliation.OUTCAST:
            raise StanzaError(Condition.FORBIDDEN, text="you are banned from this room")
        if not room.config.registration and standing.affiliation is Affiliation.NONE:
            raise StanzaError(Condition.NOT_ALLOWED, text="only admins add members to this room")

    async def register(self, room: Room, who: JID, query: Element) -> None:
        """Register a nickname; in a room for members only an admin has to approve it. Raises `StanzaError`.

        Returns after commit, or once the request was handed to the admins.
        """
        bare = who.bare
        async with self._muc.exclusive(room):
            standing = room.standings.get(bare, Standing(room.affiliation_of(bare)))
            if query.find(f"{{{REGISTER}}}remove") is not None:
                await self._unregister(room, bare, standing)
                return
            self._check_allowed(room, standing)
            x = query.find(forms.X)
            if x is None:
                raise StanzaError(Condition.BAD_REQUEST, text="the registration form is missing")
            submitted = Submission.from_xml(x, REGISTER_FORM)
            nick = _prepared(submitted.text(_NICK) or "")
            room.check_nick(nick, bare)
            if standing.affiliation is Affiliation.NONE and room.config.members_only:
                self._ask_admins(room, bare, nick)
                await self._muc.db.flushed()
                return
            await self._enter(room, bare, standing, nick)

    async def _enter(self, room: Room, bare: JID, standing: Standing, nick: str) -> None:
        """Make somebody a member with a nickname, at least."""
        if bare not in room.standings and len(room.standings) >= room.bounds.affiliations:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="this room has too many members")
        affiliation = max(standing.affiliation, Affiliation.MEMBER)
        await self._change(room, bare, standing, Standing(affiliation, nick, standing.reason))

    async def _unregister(self, room: Room, bare: JID, standing: Standing) -> None:
        """XEP-0077 §3.2: a member is none any more, others lose only the nickname."""
        if standing.affiliation < Affiliation.MEMBER or bare not in room.standings:
            raise StanzaError(Condition.REGISTRATION_REQUIRED, text="you are not registered")
        affiliation = Affiliation.NONE if standing.affiliation is Affiliation.MEMBER else standing.affiliation
        await self._change(room, bare, standing, Standing(affiliation, "", standing.reason))

    async def _change(self, room: Room, bare: JID, before: Standing, after: Standing) -> None:
        """Keep it, then tell those inside; somebody elsewhere hears it from the answer to the request."""
        await self._muc.store.save(room.jid, None, [(bare, after)], own=True)
        change = Change(bare, before, after, own=True)
        effects = [e for e in apply_affiliations(room, [change]) if not isinstance(e, Send)]
        rest = self._muc.carry_out(room, effects)
        if rest is not None:
            await rest

    def _ask_admins(self, room: Room, bare: JID, nick: str) -> None:
        asked, times = self._waiting.get((room.jid, bare), ("", 0))
        if asked == nick:
            return  # the admins have been asked
        if times >= MAX_ASKED:
            text = "the admins of this room have been asked often enough"
            raise StanzaError(Condition.POLICY_VIOLATION, Kind.WAIT, text)
        self._waiting[room.jid, bare] = (nick, times + 1)
        self._waiting.move_to_end((room.jid, bare))
        self._muc.notes.keep(room, Note(NoteKind.REQUEST, bare, number=times + 1, text=nick))
        if len(self._waiting) > MAX_REQUESTS:
            self._drop(next(iter(self._waiting)))
        fields = (
            forms.Field(_NICK, "text-single", (nick,), "Requested nickname"),
            forms.Field("muc#register_jid", "jid-single", (str(bare),), "User ID"),
            forms.boolean(_ALLOW, False, "Allow this person to register with the room?"),
        )
        question = Form.of("form", REGISTER_FORM, fields, title=f"Registration with {room.jid}").to_xml()
        for jid, standing in tuple(room.standings.items()):
            if standing.affiliation in _ADMINS:
                self._muc.kernel.router.post(Stanza.build(MESSAGE, sender=room.jid, to=jid, content=question))

    def _drop(self, key: tuple[JID, JID]) -> None:
        if self._waiting.pop(key, None) is None:
            return
        room = self._muc.rooms.get(key[0])
        if room is not None:
            self._muc.notes.erase(room, NoteKind.REQUEST, key[1])

    def restore(self, room: Room, note: Note) -> None:
        """The admins of a room may still answer what they were asked before a restart."""
        self._waiting[room.jid, note.jid] = (note.text, note.number)

    def close(self, room: Room) -> None:
        """A room is gone; in memory. The next of its name has not been asked for anything."""
        for key in [key for key in self._waiting if key[0] == room.jid]:
            del self._waiting[key]

    def forget(self, user: JID) -> None:
        """An account is gone: it wants nothing any more; in memory."""
        for key in [key for key in self._waiting if key[1] == user]:
            del self._waiting[key]

    async def _approve(self, room: Room, who: JID, submitted: Submission) -> None:
        """An admin's answer (§9.9). Only what was asked for can be approved."""
        if room.affiliation_of(who) < Affiliation.ADMIN:
            raise StanzaError(Condition.FORBIDDEN, text="only admins approve registrations")
        nick = submitted.text(_NICK) or ""
        jids = frozenset(submitted.jids("muc#register_jid") or ())
        for key, (asked, _) in tuple(self._waiting.items()):
            room_jid, bare = key
            if room_jid == room.jid and (bare in jids or (not jids and nick_key(asked) == nick_key(nick))):
                if submitted.boolean(_ALLOW):
                    await self._grant(room, who, bare)
                else:
                    self._drop(key)
                return
        raise _nobody_asked()

    async def _grant(self, room: Room, who: JID, bare: JID) -> None:
        """Give whoever asked the nickname and, unless it is one by now, make it a member. What is refused stays a request."""
        key = room.jid, bare
        async with self._muc.exclusive(room):
            if key not in self._waiting:
                raise _nobody_asked()  # another admin was quicker
            asked, _ = self._waiting[key]
            affiliation = max(room.affiliation_of(bare), Affiliation.MEMBER)
            changes = plan_affiliations(room, who, [AffiliationItem(bare, affiliation, asked)])
            await self._muc.store.save(room.jid, None, [(c.jid, c.after) for c in changes], answered=bare)
            self._drop(key)
            rest = self._muc.carry_out(room, apply_affiliations(room, changes))
        if rest is not None:
            await rest


def _nobody_asked() -> StanzaError:
    return StanzaError(Condition.ITEM_NOT_FOUND, text="nobody has asked for this")


def _prepared(nick: str) -> str:
    """A nickname as an address would have it. Raises `StanzaError(bad-request)` or `not-acceptable`."""
    if not nick:
        raise StanzaError(Condition.BAD_REQUEST, text="a nickname is needed")
    try:
        prepared = prepare_resource(nick)
    except JidMalformed as exc:
        raise StanzaError(Condition.NOT_ACCEPTABLE, text="this cannot be a nickname") from exc
    if not is_visible_nick(prepared):
        raise StanzaError(Condition.NOT_ACCEPTABLE, text="this nickname cannot be seen")
    return prepared
