"""What moderators, admins and owners do (XEP-0045 §8, §9, §10): checked first, stored by the caller, then applied. Pure.

`plan_*` raise `StanzaError` and change nothing; `apply_*` change the room and return effects, with `Done` where the
request is to be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from beamish.modules.muc.config_form import Lists, RoomConfig
from beamish.modules.muc.names import MUC_USER, Status
from beamish.modules.muc.occupants import (
    UNAVAILABLE,
    Closed,
    Done,
    Effect,
    Occupant,
    Send,
    Tell,
    nick_key,
    note_bytes,
    status_message,
)
from beamish.modules.muc.privileges import (
    Affiliation,
    Role,
    Standing,
    check_affiliation_change,
    check_role_change,
    role_after,
)
from beamish.modules.muc.room import Move, Room
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza
from beamish.xmpp.xml import escape_attr, escape_text

_REFRESH_LIMIT = 10_000
"""Presences sent anew when a room becomes non-anonymous: occupants times sessions."""


@dataclass(frozen=True, slots=True)
class RoleItem:
    """One wanted change of a role, by nickname."""

    nick: str
    role: Role
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AffiliationItem:
    """One wanted change of an affiliation, by bare JID or domain. `nick` None keeps the reserved nickname, "" removes it."""

    jid: JID
    affiliation: Affiliation
    nick: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of affiliation that was found permissible; `own`: by whom it is about, which ends no role that others gave."""

    jid: JID
    before: Standing
    after: Standing
    own: bool = False


# ---- roles ----------------------------------------------------------------------------------------------------------


def actor_role(room: Room, actor: JID) -> Role:
    """The role in which somebody gives orders: as an occupant, or as an admin or owner who is elsewhere (§8)."""
    if room.affiliation_of(actor) >= Affiliation.ADMIN:
        return Role.MODERATOR
    return max((o.role for o in room.of_user(actor.bare)), default=Role.NONE)


def actor_nick(room: Room, actor: JID) -> str:
    """The nickname under which an actor is known to the room, "" if it is not inside."""
    seat = room.seats.get(actor)
    if seat is not None:
        return seat.occupant.nick
    return next((o.nick for o in room.of_user(actor.bare)), "")


def change_roles(room: Room, actor: JID, items: Sequence[RoleItem]) -> list[Effect]:
    """Kick, give and take voice, make and unmake moderators; all or nothing (§8.2 to §8.5, §9.6 to §9.8).

    Raises `StanzaError`.
    """
    role, affiliation = actor_role(room, actor), room.affiliation_of(actor)
    planned: dict[str, tuple[Occupant, RoleItem]] = {}
    for item in items:
        if role is not Role.MODERATOR:
            raise StanzaError(Condition.FORBIDDEN, text="only moderators may change roles")
        occupant = room.find(item.nick)
        if occupant is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="nobody here has this nickname")
        check_role_change(role, affiliation, occupant.role, occupant.affiliation, item.role)
        key = nick_key(occupant.nick)
        if key in planned:
            raise StanzaError(Condition.BAD_REQUEST, text="a request names each nickname once")
        planned[key] = occupant, item
    nick = actor_nick(room, actor)
    first: list[Effect] = []
    rest: list[Effect] = []
    for occupant, item in planned.values():
        note = note_bytes(item.reason, nick)
        if item.role is Role.NONE:
            if room.roles.get(occupant.bare) is Role.MODERATOR:
                room.forget_role(occupant.bare)  # whoever is thrown out does not come back as a moderator
            own, others = room.remove(occupant, statuses=(Status.KICKED,), note=note)
            first += own
            rest += others
        elif item.role is not occupant.role:
            if occupant.affiliation < Affiliation.ADMIN:
                room.remember_role(occupant.bare, item.role)
            rest += _becomes(room, occupant, occupant.affiliation, item.role, note)
    return [*first, Done(), *rest]


def _becomes(room: Room, occupant: Occupant, affiliation: Affiliation, role: Role, note: bytes = b"") -> list[Effect]:
    """An occupant who stays has another affiliation or role; also when its role is no longer, or now, one that is shown."""
    was_moderator = occupant.role is Role.MODERATOR
    was_visible = occupant.visible
    if role is not occupant.role:
        room.moves += ((Move.ALTERED, jid, "") for jid in occupant.seats)
    occupant.affiliation, occupant.role = affiliation, role
    occupant.changed()
    effects: list[Effect] = []
    shown = room.is_shown(role)
    if was_visible and not shown:
        effects += room.farewell(occupant)[1]
    occupant.visible = shown
    effects += room.show(occupant, note=note)
    if role is Role.MODERATOR and not was_moderator and not room.config.non_anonymous:
        seats = tuple(occupant.seats.values())  # §8: moderators learn real addresses by presence
        effects += (Tell(o.presence(True), seats) for o in room.occupants.values() if o is not occupant and o.visible)
    return effects


# ---- affiliations ---------------------------------------------------------------------------------------------------


def plan_affiliations(room: Room, actor: JID, items: Iterable[AffiliationItem]) -> list[Change]:
    """Check changes of affiliations, all of them before any is made (§9.2). Raises `StanzaError`."""
    affiliation = room.affiliation_of(actor)
    changes: dict[JID, Change] = {}
    nicks: dict[str, JID] = {}
    for item in items:
        jid = item.jid.bare
        before = room.standings.get(jid, Standing(Affiliation.NONE))
        check_affiliation_change(affiliation, before.affiliation, item.affiliation, oneself=jid == actor.bare)
        if not jid.local and item.affiliation >= Affiliation.ADMIN:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="a whole domain cannot be admin or owner")
        keeps_nick = item.affiliation >= Affiliation.MEMBER and jid.local
        nick = (before.nick if item.nick is None else item.nick) if keeps_nick else ""
        if nick:
            holder = nicks.setdefault(nick_key(nick), jid)
            held = room.nicks.get(nick_key(nick), jid)
            if holder != jid or held != jid:
                raise StanzaError(Condition.CONFLICT, text="this nickname is reserved for somebody else")
            if nick != before.nick:
                room.check_nick(nick, jid)
        after = Standing(item.affiliation, nick, item.reason)
        changes[jid] = Change(jid, before, after)
    _check_owner_remains(room, changes)
    added = sum(1 for c in changes.values() if c.before.affiliation is Affiliation.NONE)
    if added and len(room.standings) + added > room.bounds.affiliations:
        raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="this room has too many affiliations")
    return list(changes.values())


def plan_removal(room: Room, user: JID) -> list[Change] | None:
    """The changes when a user ceases to exist: the last owner's heir is the first admin, or member. None: there is none."""
    nobody = Standing(Affiliation.NONE)
    changes = [Change(user, room.standings.get(user, nobody), nobody)]
    if room.owners == [user]:
        heirs = [*room.listed(Affiliation.ADMIN), *room.listed(Affiliation.MEMBER)]
        heir = next(((jid, standing) for jid, standing in heirs if jid.local), None)
        if heir is None:
            return None
        jid, before = heir
        changes.append(Change(jid, before, Standing(Affiliation.OWNER, before.nick, before.reason)))
    return changes


def _check_owner_remains(room: Room, changes: dict[JID, Change]) -> None:
    """§10.4, §10.5: the last owner cannot go."""
    owners = {jid for jid, s in room.standings.items() if s.affiliation is Affiliation.OWNER}
    for change in changes.values():
        if change.after.affiliation is Affiliation.OWNER:
            owners.add(change.jid)
        else:
            owners.discard(change.jid)
    if not owners:
        raise StanzaError(Condition.CONFLICT, text="a room must keep an owner")


def apply_affiliations(room: Room, changes: Sequence[Change], actor: str = "") -> list[Effect]:
    """Make changes that `plan_affiliations` allowed; `actor` is the nickname of who asked, if it has one."""
    here: dict[JID, list[Occupant]] = {}
    for occupant in room.occupants.values():
        here.setdefault(occupant.bare, []).append(occupant)
        here.setdefault(JID.of("", occupant.bare.domain), []).append(occupant)
    for change in changes:
        room.set_standing(change.jid, change.after, own=change.own)
    first: list[Effect] = []
    rest: list[Effect] = []
    for change in changes:
        affected = here.get(change.jid, ())
        for occupant in affected:
            own, others = _reconsider(room, occupant, note_bytes(change.after.reason, actor))
            first += own
            rest += others
        if not affected:
            rest += _tell_absent(room, change)
            if len(changes) * len(room.seats) <= _REFRESH_LIMIT:
                rest += _tell_of_absent(room, change)
    return [*first, Done(), *rest]


def _reconsider(room: Room, occupant: Occupant, note: bytes) -> tuple[list[Effect], list[Effect]]:
    """An occupant after its affiliation may have changed: it stays, is banned, or may no longer be here."""
    if room.occupants.get(nick_key(occupant.nick)) is not occupant:
        return [], []
    before, after = occupant.affiliation, room.affiliation_of(occupant.bare)
    if before is after:
        return [], []
    if after is Affiliation.OUTCAST or (after is Affiliation.NONE and room.config.members_only):
        occupant.affiliation = after
        occupant.changed()
        code = Status.BANNED if after is Affiliation.OUTCAST else Status.AFFILIATION_LOST
        return room.remove(occupant, statuses=(code,), note=note)
    role = role_after(after, before, occupant.role, room.config.moderated)
    role = min(role, room.roles.get(occupant.bare, role))  # kept only where it was not changed by others
    return [], _becomes(room, occupant, after, role, note)


def _tell_absent(room: Room, change: Change) -> list[Effect]:
    """Somebody who is not in the room: an invitation for a new member of a closed room (§9.5), else 101 (§16.1 rule 2).

    Nobody is told of a ban, and nobody behind a rule for a whole domain.
    """
    jid, after = change.jid, change.after.affiliation
    if not jid.local or after is change.before.affiliation or after is Affiliation.OUTCAST:
        return []
    if change.before.affiliation is Affiliation.OUTCAST:
        return []
    if room.config.members_only and change.before.affiliation is Affiliation.NONE:
        return [Send(invitation(room, jid, room.jid, change.after.reason))]
    item = f"<item affiliation='{after.label}' jid='{escape_attr(jid)}'/>".encode()
    return [Send(status_message(room.jid, (Status.AFFILIATION_CHANGED,), jid, item))]


def _tell_of_absent(room: Room, change: Change) -> list[Effect]:
    """The occupants learn what somebody is now who is not here (§10.3, §10.6, §10.7), if they may know the address.

    Clients that encrypt for all members of a closed room have to know of new ones before these come in.
    """
    if change.after.affiliation is change.before.affiliation:
        return []
    seats = tuple(room.seats.values()) if room.config.non_anonymous else tuple(room.moderators())
    item = f"<item affiliation='{change.after.affiliation.label}' role='none' jid='{escape_attr(change.jid)}'/>"
    content = f"<x xmlns='{MUC_USER}'>{item}</x>".encode()
    return [Tell(Stanza.build(MESSAGE, sender=room.jid, content=content), seats)] if seats else []


def invitation(room: Room, invitee: JID, inviter: JID, reason: str = "", extra: bytes = b"") -> Stanza:
    """The message with which a room invites (§7.8.2), with the password if it takes one. `extra`: `<continue/>`."""
    text = f"<reason>{escape_text(reason)}</reason>" if reason else ""
    password = f"<password>{escape_text(room.config.secret)}</password>" if room.config.password_protected else ""
    content = (
        f"<x xmlns='{MUC_USER}'><invite from='{escape_attr(inviter)}'>{text}".encode()
        + extra
        + f"</invite>{password}</x>".encode()
    )
    return Stanza.build(MESSAGE, "", sender=room.jid, to=invitee, content=content)


# ---- configuration --------------------------------------------------------------------------------------------------


def plan_lists(room: Room, actor: JID, lists: Lists) -> list[Change]:
    """The changes that make the lists of owners and admins those of the form (§10.2). Raises `StanzaError`."""
    wanted: dict[JID, Affiliation] = {}
    if lists.admins is not None:
        for jid, _ in room.listed(Affiliation.ADMIN):
            wanted[jid] = Affiliation.MEMBER
        wanted.update(dict.fromkeys(lists.admins, Affiliation.ADMIN))
    if lists.owners is not None:
        for jid in room.owners:
            # §10.2: an owner who loses that becomes an admin, unless the form names the admins, too
            lower = Affiliation.ADMIN if lists.admins is None else wanted.get(jid, Affiliation.MEMBER)
            wanted[jid] = lower
        wanted.update(dict.fromkeys(lists.owners, Affiliation.OWNER))
    else:
        for jid in room.owners:
            wanted.pop(jid, None)
    items = [
        AffiliationItem(jid, affiliation)
        for jid, affiliation in wanted.items()
        if room.standings.get(jid, Standing(Affiliation.NONE)).affiliation is not affiliation
    ]
    return plan_affiliations(room, actor, items) if items else []


def apply_config(room: Room, config: RoomConfig, changes: Sequence[Change], actor: str = "") -> list[Effect]:
    """Give the room another configuration, and its owners and admins; tell and remove whom it concerns (§10.2)."""
    before = room.config
    room.locked = False
    room.configured(config)
    effects: list[Effect] = [Done()]
    codes = _config_codes(before, config)
    if changes:
        effects += (e for e in apply_affiliations(room, changes, actor) if not isinstance(e, Done))
    if config.members_only and not before.members_only:
        for occupant in [o for o in room.occupants.values() if o.affiliation is Affiliation.NONE]:
            own, others = room.remove(occupant, statuses=(Status.MEMBERS_ONLY,))
            effects += own + others
    if config.presence_broadcast != before.presence_broadcast:
        for occupant in room.occupants.values():
            if occupant.visible is not room.is_shown(occupant.role):
                effects += _becomes(room, occupant, occupant.affiliation, occupant.role)
    if codes:
        effects.append(Tell(status_message(room.jid, codes), tuple(room.seats.values())))
    if config.whois != before.whois and len(room.occupants) * len(room.seats) <= _REFRESH_LIMIT:
        for occupant in room.occupants.values():
            effects += room.show(occupant)
    return effects


def _config_codes(before: RoomConfig, after: RoomConfig) -> list[Status]:
    """§10.2.1. The first configuration counts, too: the creator asked the room what it is before it was anything.

    104 goes first, and goes along with the changes that have codes of their own: some clients look at no other code to ask
    the room again, and would not learn that they may encrypt there.
    """
    codes: list[Status] = []
    if before != after:
        codes.append(Status.CONFIGURATION)
    if before.logging != after.logging:
        codes.append(Status.LOGGING if after.logging else Status.NO_LOGGING)
    if before.whois != after.whois:
        codes.append(Status.NOW_NON_ANONYMOUS if after.non_anonymous else Status.NOW_SEMI_ANONYMOUS)
    return codes


def config_changed(room: Room) -> list[Effect]:
    """Tell the occupants that something about the room changed (104)."""
    if not room.seats:
        return []
    return [Tell(status_message(room.jid, (Status.CONFIGURATION,)), tuple(room.seats.values()))]


def destroy(room: Room, alternate: JID | None = None, reason: str = "", password: str = "") -> list[Effect]:
    """End a room: every session gets one farewell, from its own occupant (§10.9)."""
    jid = f" jid='{escape_attr(alternate)}'" if alternate is not None else ""
    inner = f"<password>{escape_text(password)}</password>" if password else ""
    inner += f"<reason>{escape_text(reason)}</reason>" if reason else ""
    extra = f"<destroy{jid}>{inner}</destroy>".encode() if inner else f"<destroy{jid}/>".encode()
    effects: list[Effect] = []
    for occupant in room.occupants.values():
        occupant.affiliation = Affiliation.NONE  # §10.9, example: nothing is left of it
        occupant.changed()
        effects += room.farewell(occupant, extra=extra)[0]
        room.moves += ((Move.ROSE, jid, "") for jid in occupant.seats)
    room.occupants.clear()
    room.seats.clear()
    return [*effects, Done(), Closed()]


def shut_down(room: Room, stays: Callable[[JID], bool]) -> list[Effect]:
    """The service stops: sessions are told so (332, §11.2), but for those that stay and will find themselves inside."""
    effects: list[Effect] = []
    for occupant in room.occupants.values():
        seats = tuple(seat for jid, seat in occupant.seats.items() if not stays(jid))
        stanza = occupant.build(UNAVAILABLE, real=True, statuses=(Status.SELF, Status.SHUTDOWN))
        effects.append(Tell(stanza, seats))
    return effects


def left_behind(room: Room, nick: str, bare: JID) -> list[Effect]:
    """Somebody who was here before the restart is not here any more (333); for those who are still, or again."""
    occupant = Occupant(
        room.jid.with_resource(nick), bare, room.occupant_id(bare), room.affiliation_of(bare), Role.NONE
    )
    stanza = occupant.build(UNAVAILABLE, real=False, statuses=(Status.TECHNICAL,))
    return [Tell(stanza, tuple(room.seats.values()))]
