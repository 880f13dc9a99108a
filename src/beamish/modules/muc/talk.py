"""Presence and messages that arrive at rooms (XEP-0045 §7): from stanzas to the rules of `room`, and back to bytes."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from beamish.core.events import Context
from beamish.core.kernel import new_archive_id
from beamish.modules.muc.archive import ASIDE, SUBJECT_CHANGE, TALK
from beamish.modules.muc.history import Kept, Subject, Wanted
from beamish.modules.muc.names import (
    BODY,
    DELAY_TAG,
    HINTS,
    MUC,
    MUC_USER,
    OCCUPANT_ID_TAG,
    RETRACT_TAG,
    RETRACTED_TAG,
    STANZA_ID,
    STANZA_ID_TAG,
    SUBJECT,
    THREAD,
    X_DATA,
    X_MUC,
    X_USER,
    Status,
)
from beamish.modules.muc.occupants import UNAVAILABLE, Seat, shown_children
from beamish.modules.muc.privileges import Affiliation
from beamish.modules.muc.room import Room
from beamish.storage.api import StorageBusy
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import PRESENCE, Stanza, content_bytes
from beamish.xmpp.xml import Element, escape_attr

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

_GONE: Final = frozenset(
    ("gone", "item-not-found", "recipient-unavailable", "redirect", "remote-server-not-found", "remote-server-timeout")
)
"""Errors that say that an occupant is not there any more (§16.1.2)."""
_NO_STORE: Final = (f"{{{HINTS}}}no-store", f"{{{HINTS}}}no-permanent-store")
_TALK: Final = frozenset(
    (
        BODY,
        RETRACT_TAG,
        "{eu.siacs.conversations.axolotl}encrypted",
        "{urn:xmpp:omemo:2}encrypted",
        "{urn:xmpp:openpgp:0}openpgp",
    )
)
"""What newcomers are told: the last messages there are to read, which no number of markers is to push out."""
_KEPT: Final = frozenset(
    (
        *_TALK,
        f"{{{HINTS}}}store",
        "{urn:xmpp:reactions:0}reactions",
        "{urn:xmpp:fasten:0}apply-to",
        "{urn:xmpp:chat-markers:0}displayed",
        "{urn:xmpp:receipts}received",
    )
)
"""What makes a message worth keeping (XEP-0313 §6.1.2 names bodies; the rest belongs to them)."""
_TRIM_EVERY: Final = 50


def error_condition(stanza: Stanza) -> tuple[str, str]:
    """Type and condition of an error stanza, `("cancel", "undefined-condition")` where it does not say."""
    error = stanza.child(f"{{{ns.CLIENT}}}error")
    if error is not None:
        for child in error:
            tag = str(child.tag)
            if tag.startswith(f"{{{ns.STANZAS}}}") and not tag.endswith("}text"):
                name = tag.rpartition("}")[2]
                if name in {c.value for c in Condition}:
                    return error.get("type", "cancel"), name
    return "cancel", Condition.UNDEFINED_CONDITION.value


def bare_error(stanza: Stanza, sender: JID, to: JID, id: str) -> Stanza:
    """An error passed on between occupants: its condition and nothing that could name a real address."""
    type_, condition = error_condition(stanza)
    inner = f"<error type='{escape_attr(type_)}'><{condition} xmlns='{ns.STANZAS}'/></error>"
    return Stanza.build(stanza.name, "error", id=id, sender=sender, to=to, content=inner.encode())


class Talk:
    """Presence and messages, for one service."""

    def __init__(self, muc: MucModule) -> None:
        self._muc = muc
        self._clock = muc.kernel.clock

    # ---- presence ---------------------------------------------------------------------------------------------------

    def presence(self, ctx: Context) -> Awaitable[None] | None:
        """Presence to a room or an occupant. Raises `StanzaError`, but answers a request to enter itself."""
        try:
            rest = self._presence(ctx)
        except StanzaError as error:
            self._refuse(ctx, error)
            return None
        return None if rest is None else self._enter_later(ctx, rest)

    async def _enter_later(self, ctx: Context, rest: Awaitable[None]) -> None:
        try:
            await rest
        except StanzaError as error:
            self._refuse(ctx, error)

    def _refuse(self, ctx: Context, error: StanzaError) -> None:
        """The error says by `<x/>` that it is one of rooms, and by whom it was found (§7.2); no password goes back."""
        stanza = ctx.stanza
        if stanza.type or stanza.child(X_MUC) is None:
            raise error
        assert stanza.to is not None
        content = f"<x xmlns='{MUC}'/>".encode() + error.to_bytes(escape_attr(stanza.to.bare))
        reply = Stanza.build(PRESENCE, "error", id=stanza.id, sender=stanza.to, to=stanza.sender, content=content)
        self._muc.kernel.router.answer(ctx, reply)

    def _presence(self, ctx: Context) -> Awaitable[None] | None:
        stanza = ctx.stanza
        to, who = stanza.to, stanza.sender
        assert to is not None and who is not None
        room = self._muc.rooms.get(to.bare)
        kind = stanza.type
        if kind == UNAVAILABLE:
            if room is None or who not in room.seats:
                return None
            return self._muc.carry_out(room, room.leave(who, shown_children(stanza), id=stanza.id))
        if kind == "error":
            if room is not None:
                return self._lost(room, who, stanza)
            return None
        if kind:
            return None  # §15.3: probes and subscriptions neither enter nor leave
        if not to.resource:
            raise StanzaError(Condition.JID_MALFORMED, text="a room is entered with a nickname")
        x = stanza.child(X_MUC)
        if x is None:
            if room is None or who not in room.seats:
                self._out_of_sync(stanza, to, who)
                return None
            effects = room.presence(
                who, to.resource, shown_children(stanza), self._clock.now(), lang=stanza.lang, id=stanza.id
            )
            return self._muc.carry_out(room, effects)
        if self._muc.over:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE, Kind.WAIT, "this service is going down")
        if room is None:
            return self._muc.create_room(ctx)
        opening = self._muc.opening.get(room)
        if opening is not None:
            return self._muc.when_open(ctx, opening)
        if room.history is None:
            return self._muc.with_history(room, ctx, self.presence)
        return self.enter(room, stanza, x)

    def enter(self, room: Room, stanza: Stanza, x: Element, *, created: bool = False) -> Awaitable[None] | None:
        """A join, or a request to be told everything again (§7.2). Raises `StanzaError`."""
        to, who = stanza.to, stanza.sender
        assert to is not None and who is not None
        try:
            effects = room.join(
                who,
                to.resource,
                shown_children(stanza),
                self._clock.now(),
                lang=stanza.lang,
                password=x.findtext(f"{{{MUC}}}password"),
                wanted=Wanted.from_xml(x),
                id=stanza.id,
                created=created,
            )
        except StanzaError:
            self._muc.settle(room)
            raise
        return self._muc.carry_out(room, effects)

    def _out_of_sync(self, stanza: Stanza, to: JID, who: JID) -> None:
        """§7.2.17: somebody believes to be inside. An explicit farewell makes the client enter again."""
        codes = "".join(f"<status code='{int(c)}'/>" for c in (Status.SELF, Status.KICKED, Status.TECHNICAL))
        content = f"<x xmlns='{MUC_USER}'><item affiliation='none' role='none'/>{codes}</x>".encode()
        self._muc.kernel.router.post(
            Stanza.build(PRESENCE, UNAVAILABLE, id=stanza.id, sender=to, to=who, content=content)
        )

    def _lost(self, room: Room, who: JID, stanza: Stanza) -> Awaitable[None] | None:
        """A presence comes back: whom it was for sees another room than there is, and leaves with 333 unless that passes."""
        type_, condition = error_condition(stanza)
        if type_ == "wait" and condition not in _GONE:
            return None
        return self._muc.carry_out(room, room.leave(who, statuses=(Status.TECHNICAL,)))

    def _failed(self, room: Room, who: JID, stanza: Stanza, *, about_room: bool) -> Awaitable[None] | None:
        """An occupant's error: if it says that nobody is there, the occupant leaves with 333 (§11.1, §16.1.2)."""
        condition = error_condition(stanza)[1]
        if condition in _GONE or (about_room and condition == "service-unavailable"):
            return self._muc.carry_out(room, room.leave(who, statuses=(Status.TECHNICAL,)))
        return None

    # ---- messages ---------------------------------------------------------------------------------------------------

    def message(self, ctx: Context) -> Awaitable[None] | None:
        """A message to a room or an occupant. Raises `StanzaError`."""
        stanza = ctx.stanza
        to, who = stanza.to, stanza.sender
        assert to is not None and who is not None
        room = self._muc.rooms.get(to.bare)
        if stanza.type == "error":
            return None if room is None else self._error(room, who, to, stanza)
        if room is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such room")
        if room.locked:
            rest = self._before_configured(ctx, room, who, to)
            if rest is not None:
                return rest
        if to.resource:
            return self._private(ctx, room, who, to)
        if stanza.type == "groupchat":
            return self._to_all(ctx, room, who)
        x = stanza.child(X_USER)
        if x is not None:
            if x.find(f"{{{MUC_USER}}}invite") is not None:
                return self._muc.invitations.invite(room, who, x)
            decline = x.find(f"{{{MUC_USER}}}decline")
            if decline is not None:
                self._muc.invitations.decline(room, who, decline)
                return None
        form = stanza.child(X_DATA)
        if form is not None:
            return self._muc.approvals.message(room, who, form)
        if stanza.type == "headline":
            return None
        raise StanzaError(Condition.BAD_REQUEST, text="messages to a room are of type groupchat")

    def _before_configured(self, ctx: Context, room: Room, who: JID, to: JID) -> Awaitable[None] | None:
        """A message while a room waits for its configuration (§10.1): words, a subject and an invitation accept it as it is.

        BitlBee sends no form at all: it invites as soon as it is in. Some clients send a chat state then: that passes, and
        accepts nothing. Raises `StanzaError` for everything else, and for everybody who is no owner.
        """
        stanza = ctx.stanza
        if not to.resource and who in room.seats and room.affiliation_of(who) is Affiliation.OWNER:
            if stanza.type == "groupchat":
                if stanza.child(BODY) is None and stanza.child(SUBJECT) is None:
                    return None
                return self._accept(ctx, room, who)
            x = stanza.child(X_USER)
            if x is not None and x.find(f"{{{MUC_USER}}}invite") is not None:
                return self._accept(ctx, room, who)
        raise StanzaError(Condition.ITEM_NOT_FOUND, text="this room is not configured yet")

    async def _accept(self, ctx: Context, room: Room, who: JID) -> None:
        await self._muc.requests.accept(room, who)
        rest = self.message(ctx)
        if rest is not None:
            await rest

    def _to_all(self, ctx: Context, room: Room, who: JID) -> Awaitable[None] | None:
        """§7.4, and §8.1 for a new subject."""
        stanza = ctx.stanza
        parts = _Parts(stanza, room.jid)
        subject = parts.new_subject
        if subject:
            seat = room.inside(who)
            if not room.may_set_subject(seat.occupant):
                raise StanzaError(Condition.FORBIDDEN, text="you may not change the subject of this room")
        else:
            seat = room.voice(who)
        now = self._clock.now()
        room.check_message(seat, len(stanza.body), parts.body, now)
        occupant = seat.occupant
        uid = new_archive_id(now)
        filed = (subject or parts.kept) and not parts.no_store and not room.locked
        mark = occupant.id_bytes
        if filed:  # only then: clients go on after the last one that they saw, and the archive has to know it
            mark += f"<stanza-id xmlns='{STANZA_ID}' by='{escape_attr(room.jid)}' id='{uid}'/>".encode()
        reflected = stanza.without(*parts.forged) if parts.forged else stanza
        reflected = reflected.with_child(mark).replace(sender=occupant.jid)
        kept: Kept | None = None
        if filed:
            kept = Kept(uid, now, reflected, occupant.bare)
            self._store(ctx, room, kept, who, SUBJECT_CHANGE if subject else TALK if parts.talk else ASIDE)
        if subject:
            content = b"".join(content_bytes(el) for el in subject)
            room.subject = Subject(content, occupant.jid, occupant.id_bytes, now, subject[0].text or "")
            ctx.caused(self._muc.store.set_subject(room.jid, room.subject))
        if subject or not parts.talk:
            kept = None
        if parts.retract is not None:
            self._retract(ctx, room, seat, parts.retract.get("id", ""), stanza.id, now)
        return self._muc.carry_out(room, room.said(reflected, kept), cause=ctx)

    def _store(self, ctx: Context, room: Room, kept: Kept, who: JID, kind: int) -> None:
        logged = room.config.logging
        if not logged and kind != TALK:
            return  # what is kept for the history alone is what belongs there
        try:
            ctx.caused(self._muc.archive.append(room.jid, kept, who, kind, logged))
        except StorageBusy as exc:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, Kind.WAIT, "the archive is busy, try again") from exc
        if not logged:
            room.unlogged += 1
            if room.unlogged % _TRIM_EVERY == 0:
                self._muc.archive.trim(room.jid, room.config.max_history_fetch)

    def _retract(self, ctx: Context, room: Room, seat: Seat, uid: str, id: str, now: float) -> None:
        """XEP-0424 §6: what its author took back is not handed out any more."""
        if not uid:
            return
        bare = seat.jid.bare
        if room.history is not None:
            found = room.history.find(uid)
            if found is not None and found.bare == bare:
                room.history.remove(uid)
        ctx.caused(self._muc.archive.retract(room.jid, uid, bare, id, now))

    def _private(self, ctx: Context, room: Room, who: JID, to: JID) -> Awaitable[None] | None:
        """§7.5: to every session of the recipient."""
        stanza = ctx.stanza
        if stanza.type == "groupchat":
            raise StanzaError(Condition.BAD_REQUEST, text="a private message is not of type groupchat")
        seat = room.inside(who)
        occupant = seat.occupant
        if not room.may_write_privately(occupant):
            raise StanzaError(Condition.FORBIDDEN, text="you may not send private messages in this room")
        recipient = room.find(to.resource)
        if recipient is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="nobody here has this nickname")
        room.check_message(seat, len(stanza.body), False, self._clock.now())
        drop = [c for c in stanza.el if _is_forged(c.tag, c, room.jid)]
        passed = stanza.without(*drop).with_child(f"<x xmlns='{MUC_USER}'/>".encode() + occupant.id_bytes)
        room.whispered(stanza.id)
        waiting: list[tuple[Context, Awaitable[None]]] = []
        for target in tuple(recipient.seats):
            inner = Context(passed.replace(sender=occupant.jid, to=target))
            rest = self._muc.kernel.router.route(inner)
            if rest is None:
                ctx.caused(inner.settled)
            else:
                waiting.append((inner, rest))
        return _settle(ctx, waiting) if waiting else None

    def _error(self, room: Room, who: JID, to: JID, stanza: Stanza) -> Awaitable[None] | None:
        """An error about something that the room passed on: to its author, if that was one occupant."""
        about_room = not to.resource or room.told_all(stanza.id)
        seat = room.seats.get(who)
        if seat is not None:
            try:
                room.charge(seat, self._clock.now())
            except StanzaError:
                return None  # nobody answers an error
        author = room.find(to.resource) if to.resource and not about_room else None
        origin = seat.occupant.jid if seat is not None else _occupant_of(room, who)
        if author is not None and origin is not None:  # nobody outside speaks in the room's name
            for target in tuple(author.seats):
                self._muc.fanout.send(target, bare_error(stanza, origin, target, stanza.id))
        if seat is None:
            return None
        return self._failed(room, who, stanza, about_room=about_room)


async def _settle(ctx: Context, waiting: list[tuple[Context, Awaitable[None]]]) -> None:
    """Wait for what a message caused elsewhere before it is acknowledged."""
    for inner, rest in waiting:
        await rest
        ctx.caused(inner.settled)


def _occupant_of(room: Room, who: JID) -> JID | None:
    """The occupant address of a user whose server answered in its place."""
    return next((o.jid for o in room.of_user(who.bare)), None)


class _Parts:
    """What is in a message to everybody, as far as a room makes a difference: one look at each child."""

    __slots__ = ("body", "forged", "kept", "no_store", "retract", "subject", "talk", "thread")

    def __init__(self, stanza: Stanza, room: JID) -> None:
        self.body = self.kept = self.talk = self.thread = self.no_store = False
        self.subject: list[Element] = []
        self.forged: list[Element] = []
        self.retract: Element | None = None
        for child in stanza.el:
            tag = child.tag
            if tag in _KEPT:
                self.kept = True
                self.talk = self.talk or tag in _TALK
                if tag == BODY:
                    self.body = True
                elif tag == RETRACT_TAG:
                    self.retract = child
            elif tag == SUBJECT:
                self.subject.append(child)
            elif tag == THREAD:
                self.thread = True
            elif tag in _NO_STORE:
                self.no_store = True
            elif _is_forged(tag, child, room):
                self.forged.append(child)

    @property
    def new_subject(self) -> list[Element]:
        """The subjects in their languages, if that is what the message is about (§8.1); else nothing."""
        return [] if self.body or self.thread else self.subject


def _is_forged(tag: object, child: Element, room: JID) -> bool:
    """Elements in a message that only the room may make (XEP-0359 §5 rule 2, XEP-0421 §4, XEP-0313 §9.3).

    Among them `<retracted/>`, the tombstone of its archive, which may say who moderated the message (XEP-0425 §6).
    """
    if tag in (X_USER, OCCUPANT_ID_TAG, RETRACTED_TAG):
        return True
    if tag == STANZA_ID_TAG:
        return _names(child.get("by"), room)
    if tag == DELAY_TAG:
        return _names(child.get("from"), room)
    return False


def _names(address: str | None, room: JID) -> bool:
    """Whether an address is that of a room, however it is written."""
    if not address or address == room:
        return bool(address)
    try:
        return JID.parse(address).bare == room
    except JidMalformed:
        return False
