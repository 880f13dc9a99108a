"""One room and its rules for occupants (XEP-0045 §7): events in, effects out. Pure: no loop, no clock, no storage.

Methods change the room and return what is to be sent, in order; they raise `StanzaError` before anything was changed.
What moderators, admins and owners do to others is in `administration`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from beamish.modules.muc.config_form import RoomConfig
from beamish.modules.muc.hats import Hat, hats_bytes
from beamish.modules.muc.history import History, Kept, Subject, Wanted
from beamish.modules.muc.names import Status
from beamish.modules.muc.occupants import (
    UNAVAILABLE,
    Closed,
    Effect,
    Occupant,
    Seat,
    Tell,
    is_visible_nick,
    nick_key,
)
from beamish.modules.muc.pace import Pace
from beamish.modules.muc.privileges import Affiliation, Role, Standing, initial_role
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

_REMEMBERED_ROLES = 1000
_REMEMBERED_IDS = 200
_ADMIN_RESERVE = 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of every room; `rate` is stanzas per second of one seat in the long run, `burst` how many at once."""

    occupants: int = 5000
    nick_bytes: int = 256
    presence_bytes: int = 8192
    message_bytes: int = 65_536
    rate: float = 20.0
    burst: float = 200.0
    affiliations: int = 10_000


class Move(Enum):
    """What happened to occupants and seats, for whoever keeps books on who is where."""

    CAME = auto()
    WENT = auto()
    SAT = auto()
    ROSE = auto()
    ALTERED = auto()


_STRANGER = Standing(Affiliation.NONE)


class Room:
    """A room: configuration, affiliations, occupants, subject, history.

    `locked`: made, but not configured yet, so that only its creator is in it (§10.1). `history` is None until somebody
    needs it; the room's first newcomer waits until it has been read.
    """

    def __init__(self, jid: JID, config: RoomConfig, secret: bytes, bounds: Bounds, *, created: float = 0.0) -> None:
        self.jid = jid
        self.config = config
        self.secret = secret
        self.bounds = bounds
        self.created = created
        self.locked = False
        self.in_directory = False
        """Whether the service lists it; kept by `Directory`."""
        self.standings: dict[JID, Standing] = {}
        self.nicks: dict[str, JID] = {}
        self.occupants: dict[str, Occupant] = {}
        self.seats: dict[JID, Seat] = {}
        self.subject = Subject()
        self.history: History | None = None
        self.unlogged = 0
        """Messages that were stored for the history alone."""
        self.avatar_hashes: tuple[str, ...] = ()
        self.hats: dict[str, Hat] = {}
        self.wearers: dict[JID, tuple[str, ...]] = {}
        self.roles: OrderedDict[JID, Role] = OrderedDict()
        """Roles that were given or taken, for those who come back (§5.1: kept for moderated rooms)."""
        self.role_changes: dict[JID, Role | None] = {}
        """What has changed in `roles` since somebody looked; None is forgotten."""
        self.invitations: OrderedDict[tuple[JID, JID], None] = OrderedDict()
        """(invitee, inviter): whose decline may be passed on."""
        self.pace = Pace(bounds.rate, bounds.burst)
        self._told: deque[str] = deque(maxlen=_REMEMBERED_IDS)
        self._whispered: deque[str] = deque(maxlen=_REMEMBERED_IDS)
        self.moves: list[tuple[Move, Occupant | JID, str]] = []
        """Who came and went (an occupant and its nickname then), who sat, rose, or has another role (a real address),
        since somebody looked."""
        self._shown_roles = config.shown_roles()

    def __repr__(self) -> str:
        return f"<Room {self.jid!s} {len(self.occupants)} occupants>"

    @property
    def public(self) -> bool:
        """Whether everybody may find it."""
        return self.config.public and not self.locked

    # ---- who is who -------------------------------------------------------------------------------------------------

    def standing_of(self, jid: JID) -> Standing:
        """What is known of a user: by bare JID, else by domain (§9.2).

        A domain that entered by itself (a component) may own a room; that makes no owners of its users.
        """
        standings = self.standings
        found = standings.get(jid.bare)
        if found is None:
            found = standings.get(JID.of("", jid.domain), _STRANGER)
            if found.affiliation >= Affiliation.ADMIN:
                return _STRANGER
        return found

    def affiliation_of(self, jid: JID) -> Affiliation:
        """The affiliation of a user, `NONE` if there is none."""
        return self.standing_of(jid).affiliation

    def listed(self, affiliation: Affiliation) -> list[tuple[JID, Standing]]:
        """Everybody with this affiliation, sorted."""
        return sorted((jid, s) for jid, s in self.standings.items() if s.affiliation is affiliation)

    @property
    def owners(self) -> list[JID]:
        """The owners, sorted."""
        return [jid for jid, _ in self.listed(Affiliation.OWNER)]

    def set_standing(self, jid: JID, standing: Standing, *, own: bool = False) -> None:
        """Enter, replace or (for nothing worth keeping) delete what is known of a bare JID or a domain.

        A role that was given or taken is void then, unless it is `own`: by registering nobody gets back a voice that was taken.
        """
        before = self.standings.pop(jid, None)
        if not own:
            self.forget_role(jid)
        if before is not None and before.nick:
            self.nicks.pop(nick_key(before.nick), None)
        if standing.affiliation is Affiliation.NONE:
            return
        self.standings[jid] = standing
        if standing.nick:
            self.nicks[nick_key(standing.nick)] = jid

    def find(self, nick: str) -> Occupant | None:
        """The occupant with this nickname."""
        return self.occupants.get(nick_key(nick))

    def of_user(self, bare: JID) -> list[Occupant]:
        """The occupants that this user is."""
        return [o for o in self.occupants.values() if o.bare == bare]

    def occupant_id(self, bare: JID) -> str:
        """The stable pseudonym of a user in this room (XEP-0421 §4.1)."""
        digest = hmac.digest(self.secret, bare.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest[:24]).decode()

    def may_see_real(self, seat: Seat) -> bool:
        """Whether this session sees real addresses (§7.2.4)."""
        return self.config.non_anonymous or seat.occupant.role is Role.MODERATOR

    def moderators(self) -> list[Seat]:
        """The sessions of moderators."""
        return [s for s in self.seats.values() if s.occupant.role is Role.MODERATOR]

    def configured(self, config: RoomConfig) -> None:
        """Take another configuration; who has to leave or be shown because of it is `administration`'s business."""
        self.config = config
        self._shown_roles = config.shown_roles()

    def is_shown(self, role: Role) -> bool:
        """Whether presence of this role is broadcast."""
        return role in self._shown_roles

    # ---- entering ---------------------------------------------------------------------------------------------------

    def admit(self, who: JID, password: str | None) -> Affiliation:
        """The affiliation with which a user may enter. Raises `StanzaError` (§7.2.5 to §7.2.10)."""
        affiliation = self.affiliation_of(who)
        if affiliation is Affiliation.OUTCAST:
            raise StanzaError(Condition.FORBIDDEN, text="you are banned from this room")
        if self.locked and affiliation is not Affiliation.OWNER:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="this room is not configured yet")
        config = self.config
        if config.members_only and affiliation is Affiliation.NONE:
            raise StanzaError(Condition.REGISTRATION_REQUIRED, text="only members may enter this room")
        if config.password_protected and (
            password is None or not hmac.compare_digest(password.encode(), config.secret.encode())
        ):
            raise StanzaError(Condition.NOT_AUTHORIZED, text="entering this room takes the password")
        return affiliation

    def check_nick(self, nick: str, bare: JID) -> None:
        """Raises `StanzaError` for a nickname that this user cannot have: unusable, in use or reserved (§7.2.8)."""
        if len(nick.encode()) > self.bounds.nick_bytes or not is_visible_nick(nick):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="this nickname is too long or cannot be seen")
        key = nick_key(nick)
        holder = self.nicks.get(key)
        if holder is not None and holder != bare:
            raise StanzaError(Condition.CONFLICT, text="this nickname is registered by somebody else")
        occupant = self.occupants.get(key)
        if occupant is not None and occupant.bare != bare:
            raise StanzaError(Condition.CONFLICT, text="this nickname is in use")

    def join(
        self,
        who: JID,
        nick: str,
        shown: bytes,
        now: float,
        *,
        lang: str = "",
        password: str | None = None,
        wanted: Wanted | None = None,
        id: str = "",
        created: bool = False,
    ) -> list[Effect]:
        """A session enters, or (being inside) asks for everything again (§7.2, §15.3 rule 3). Raises `StanzaError`.

        The order of §7.1: presence of the others, own presence, history, subject.
        """
        self._check_size(shown)
        seat = self.seats.get(who)
        wanted = wanted or Wanted()
        if seat is not None:
            effects = self.presence(who, nick, shown, now, lang=lang, id=id, quiet=True)
            return effects + self._introduce(seat, wanted, now, id, ())
        affiliation = self.admit(who, password)
        bare = who.bare
        allowance = self.pace.arrive(bare, now)
        nick, assigned = self._assigned_nick(bare, nick)
        self.check_nick(nick, bare)
        occupant = self.find(nick)
        if occupant is None:
            self._check_room(affiliation)
            role = initial_role(affiliation, self.config.moderated)
            if role < Role.MODERATOR:
                role = self.roles.get(bare, role)
            occupant = self._occupy(nick, bare, affiliation, role)
            self.moves.append((Move.CAME, occupant, nick))
        elif len(self.seats) >= self.bounds.occupants + _ADMIN_RESERVE:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE, Kind.WAIT, "this room is full")
        seat = Seat(who, occupant, shown, lang, now)
        seat.allowance = allowance
        others = self._others(occupant)
        self._sit(occupant, seat)
        statuses = [Status.CREATED] * created + [Status.NICK_ASSIGNED] * assigned
        effects = self.show(occupant, among=others, leave_out=seat)
        return effects + self._introduce(seat, wanted, now, id, statuses)

    def _occupy(self, nick: str, bare: JID, affiliation: Affiliation, role: Role) -> Occupant:
        jid = self.jid.with_resource(nick)
        occupant = Occupant(jid, bare, self.occupant_id(bare), affiliation, role, self.hat_bytes(bare))
        occupant.visible = self.is_shown(role)
        self.occupants[nick_key(nick)] = occupant
        return occupant

    def _sit(self, occupant: Occupant, seat: Seat) -> None:
        occupant.sit(seat)
        self.seats[seat.jid] = seat
        self.moves.append((Move.SAT, seat.jid, ""))

    def seat_again(self, who: JID, nick: str, role: Role, shown: bytes, lang: str, now: float) -> bool:
        """A session that outlived the server takes its place again; nobody is told, as for nobody anything has changed.

        False if it may not be here any more, or somebody else has the nickname.
        """
        affiliation = self.affiliation_of(who)
        occupant = self.find(nick)
        if (
            affiliation is Affiliation.OUTCAST
            or (affiliation is Affiliation.NONE and self.config.members_only)
            or (occupant is not None and occupant.bare != who.bare)
        ):
            return False
        if occupant is None:
            role = Role.MODERATOR if affiliation >= Affiliation.ADMIN else max(role, Role.VISITOR)
            occupant = self._occupy(nick, who.bare, affiliation, role)
        seat = Seat(who, occupant, shown, lang, now)
        seat.allowance = self.bounds.burst
        self._sit(occupant, seat)
        return True

    def _check_size(self, shown: bytes) -> None:
        if len(shown) > self.bounds.presence_bytes:
            raise StanzaError(Condition.POLICY_VIOLATION, text="this presence is too large for a room")

    def _check_room(self, affiliation: Affiliation) -> None:
        """§7.2.9: admins and owners enter a full room, some of them."""
        limit = min(self.config.max_users or self.bounds.occupants, self.bounds.occupants)
        if affiliation >= Affiliation.ADMIN:
            limit += _ADMIN_RESERVE
        if len(self.occupants) >= limit:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE, Kind.WAIT, "this room is full")

    def _assigned_nick(self, bare: JID, nick: str) -> tuple[str, bool]:
        """The nickname to enter with: the registered one, where nicknames are locked down (§7.10)."""
        if self.config.registered_nicks:
            registered = self.standing_of(bare).nick
            if registered and registered != nick:
                return registered, True
        return nick, False

    def _introduce(self, seat: Seat, wanted: Wanted, now: float, id: str, statuses: Sequence[int]) -> list[Effect]:
        """What a newcomer is told (§7.1)."""
        occupant = seat.occupant
        real = self.may_see_real(seat)
        to = (seat,)
        effects: list[Effect] = [
            Tell(other.presence(real), to)
            for other in self.occupants.values()
            if other is not occupant and other.visible
        ]
        codes: list[int] = [Status.SELF]
        if self.config.non_anonymous:
            codes.append(Status.NON_ANONYMOUS)
        if self.config.logging:
            codes.append(Status.LOGGING)
        effects.append(Tell(occupant.build(real=True, statuses=(*codes, *statuses), id=id), to))
        if self.history is not None:
            limit = self.config.max_history_fetch
            effects += (Tell(m, to) for m in self.history.replay(wanted, limit, now, seat.jid))
        effects.append(Tell(self.subject.to_stanza(self.jid), to))
        return effects

    # ---- showing ----------------------------------------------------------------------------------------------------

    def _others(self, occupant: Occupant) -> list[Seat]:
        return [s for s in self.seats.values() if s.occupant is not occupant]

    def show(
        self,
        occupant: Occupant,
        *,
        note: bytes = b"",
        among: Sequence[Seat] | None = None,
        leave_out: Seat | None = None,
        id: str = "",
    ) -> list[Effect]:
        """Presence of an occupant for everybody: with the real address for those who may see it, 110 for itself.

        `note` is more XML for the item, such as the reason. `among` are the others, if they are known; `leave_out` is a seat
        of its own that will be told more. `id` is that of what the occupant sent, for itself alone.
        """
        effects: list[Effect] = []
        if occupant.visible:
            for real, seats in self._split(self._others(occupant) if among is None else among):
                effects.append(Tell(occupant.build(real=real, note=note) if note else occupant.presence(real), seats))
        own = [s for s in occupant.seats.values() if s is not leave_out]
        if own:
            effects.append(Tell(occupant.build(real=True, statuses=(Status.SELF,), note=note, id=id), own))
        return effects

    def _split(self, seats: Sequence[Seat]) -> list[tuple[bool, Sequence[Seat]]]:
        """Seats that see real addresses, and those that do not."""
        if self.config.non_anonymous:
            return [(True, seats)] if seats else []
        seeing = [s for s in seats if s.occupant.role is Role.MODERATOR]
        if not seeing:
            return [(False, seats)] if seats else []
        blind = [s for s in seats if s.occupant.role is not Role.MODERATOR]
        return [(True, seeing), (False, blind)] if blind else [(True, seeing)]

    def farewell(
        self,
        occupant: Occupant,
        *,
        statuses: Iterable[int] = (),
        note: bytes = b"",
        extra: bytes = b"",
        new_nick: str = "",
        shown: bytes | None = None,
        id: str = "",
    ) -> tuple[list[Effect], list[Effect]]:
        """Unavailable presence of an occupant: to its own sessions, and to the others (§7.14). Changes nothing.

        `id` is that of the stanza that asked for it, by which its client knows the answer.
        """
        statuses = tuple(statuses)

        def stanza(real: bool, codes: tuple[int, ...], id: str = "") -> Stanza:
            return occupant.build(
                UNAVAILABLE, real=real, statuses=codes, note=note, extra=extra, new_nick=new_nick, shown=shown, id=id
            )

        own: list[Effect] = [Tell(stanza(True, (Status.SELF, *statuses), id), tuple(occupant.seats.values()))]
        others: list[Effect] = []
        if occupant.visible:
            for real, seats in self._split(self._others(occupant)):
                others.append(Tell(stanza(real, statuses), seats))
        return own, others

    def remove(
        self,
        occupant: Occupant,
        *,
        statuses: Iterable[int] = (),
        note: bytes = b"",
        extra: bytes = b"",
        shown: bytes | None = None,
        id: str = "",
    ) -> tuple[list[Effect], list[Effect]]:
        """Take an occupant out; its own farewell and that to the others, which includes the end of an empty room."""
        own, others = self.farewell(occupant, statuses=statuses, note=note, extra=extra, shown=shown, id=id)
        del self.occupants[nick_key(occupant.nick)]
        self.moves.append((Move.WENT, occupant, occupant.nick))
        for jid in occupant.seats:
            self.pace.leave(self.seats.pop(jid))
            self.moves.append((Move.ROSE, jid, ""))
        if not self.occupants and (self.locked or not self.config.persistent):
            others.append(Closed())
        return own, others

    # ---- during the visit -------------------------------------------------------------------------------------------

    def charge(self, seat: Seat, now: float) -> None:
        """Count a stanza of a seat. Raises `StanzaError(policy-violation)`, type wait, beyond the rate."""
        self.pace.charge(seat, now)

    def presence(
        self, who: JID, nick: str, shown: bytes, now: float, *, lang: str = "", id: str = "", quiet: bool = False
    ) -> list[Effect]:
        """An occupant changes its availability, or its nickname (§7.6, §7.7). Raises `StanzaError`.

        `quiet`: its own session is told otherwise, and nothing is sent if nothing is new.
        """
        self._check_size(shown)
        seat = self.seats[who]
        occupant = seat.occupant
        self.charge(seat, now)
        renamed = nick != occupant.nick
        if renamed:
            self._check_rename(occupant, nick)
        same = shown == seat.shown
        seat.shown, seat.lang = shown, lang
        occupant.main = seat
        occupant.changed()
        if renamed:
            return self._rename(seat, nick, id)
        if quiet:
            return [] if same else self.show(occupant, leave_out=seat)
        return self.show(occupant, id=id)

    def _check_rename(self, occupant: Occupant, nick: str) -> None:
        if self.config.registered_nicks:
            registered = self.standing_of(occupant.bare).nick
            if registered and registered != nick:
                raise StanzaError(Condition.NOT_ACCEPTABLE, text="use your registered nickname in this room")
        if occupant.role is Role.VISITOR and self.config.moderated and not self.is_shown(Role.VISITOR):
            raise StanzaError(Condition.NOT_ALLOWED, text="visitors cannot change their nickname here")
        self.check_nick(nick, occupant.bare)

    def _rename(self, who: Seat, nick: str, id: str) -> list[Effect]:
        """§7.6: the old nickname goes with 303, the new one comes. All sessions of the occupant go with it."""
        occupant = who.occupant
        own, others = self.farewell(occupant, statuses=(Status.NEW_NICK,), new_nick=nick, id=id)
        del self.occupants[nick_key(occupant.nick)]
        self.moves.append((Move.WENT, occupant, occupant.nick))
        there = self.find(nick)
        if there is None:
            occupant.rename(self.jid.with_resource(nick))
            self.occupants[nick_key(nick)] = occupant
            self.moves.append((Move.CAME, occupant, nick))
            there = occupant
        for seat in tuple(occupant.seats.values()):  # or another session of the same user is there already
            self._sit(there, seat)
        there.main = who  # what is shown is the presence that came with the new nickname
        return own + others + self.show(there, id=id)

    def leave(self, who: JID, shown: bytes = b"", *, statuses: Iterable[int] = (), id: str = "") -> list[Effect]:
        """A session leaves, or is found to be gone (then with 333); nothing for one that is not inside (§15.3 rule 5)."""
        seat = self.seats.get(who)
        if seat is None:
            return []
        occupant = seat.occupant
        statuses = tuple(statuses)
        if len(shown) > self.bounds.presence_bytes:
            shown = b""
        if len(occupant.seats) == 1:
            own, others = self.remove(occupant, statuses=statuses, shown=shown, id=id)
        else:
            farewell = occupant.build(UNAVAILABLE, real=True, statuses=(Status.SELF, *statuses), shown=shown, id=id)
            was_main = occupant.main is seat
            occupant.rise(seat)
            self.pace.leave(self.seats.pop(who))
            self.moves.append((Move.ROSE, who, ""))
            own, others = [Tell(farewell, (seat,))], self.show(occupant) if was_main else []
        return own + others

    # ---- talking ----------------------------------------------------------------------------------------------------

    def voice(self, who: JID) -> Seat:
        """The seat of somebody who may speak to everybody. Raises `StanzaError` (§7.4)."""
        seat = self.inside(who)
        if seat.occupant.role < Role.PARTICIPANT:
            raise StanzaError(Condition.FORBIDDEN, text="you have no voice in this room")
        return seat

    def inside(self, who: JID) -> Seat:
        """The seat of an occupant. Raises `StanzaError(not-acceptable)` for anybody else (§7.4, §7.5)."""
        seat = self.seats.get(who)
        if seat is None:
            raise StanzaError(Condition.NOT_ACCEPTABLE, Kind.CANCEL, "you are not in this room")
        return seat

    def check_message(self, seat: Seat, size: int, has_body: bool, now: float) -> None:
        """Raises `StanzaError` for a message that is too large or too early (XEP-0500)."""
        if size > self.bounds.message_bytes:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="this message is too large for a room")
        self.charge(seat, now)
        wait = self.config.slow_mode
        if wait and has_body and seat.occupant.affiliation < Affiliation.ADMIN:
            self.pace.speak(seat.jid.bare, wait, now)

    def may_set_subject(self, occupant: Occupant) -> bool:
        """Whether an occupant may change the subject (§8.1)."""
        return occupant.role is Role.MODERATOR or (self.config.change_subject and occupant.role is Role.PARTICIPANT)

    def may_write_privately(self, occupant: Occupant) -> bool:
        """Whether an occupant may send private messages (§7.5)."""
        least = {"anyone": Role.VISITOR, "participants": Role.PARTICIPANT, "moderators": Role.MODERATOR}
        allowed = least.get(self.config.allow_pm)
        return allowed is not None and occupant.role >= allowed

    def may_invite(self, occupant: Occupant) -> bool:
        """Whether an occupant may invite (§7.8.2)."""
        if occupant.affiliation >= Affiliation.ADMIN or occupant.role is Role.MODERATOR:
            return True
        if not self.config.allow_invites:
            return False
        return occupant.affiliation is Affiliation.MEMBER or not self.config.members_only

    def said(self, stanza: Stanza, kept: Kept | None) -> list[Effect]:
        """A message for everybody, and for the history if it belongs there."""
        if kept is not None and self.history is not None:
            self.history.add(kept, self.config.max_history_fetch)
        self._told.append(stanza.id)
        return [Tell(stanza, tuple(self.seats.values()))]

    def whispered(self, id: str) -> None:
        """A private message with this stanza id goes out."""
        self._whispered.append(id)

    def told_all(self, id: str) -> bool:
        """Whether a message with this stanza id was sent to everybody lately, and none to one occupant."""
        return id in self._told and id not in self._whispered

    # ---- hats -------------------------------------------------------------------------------------------------------

    def hat_bytes(self, bare: JID) -> bytes:
        """The `<hats/>` that a user wears (XEP-0317), empty for none."""
        worn = [self.hats[uri] for uri in self.wearers.get(bare, ()) if uri in self.hats]
        return hats_bytes(worn) if worn else b""

    def remember_role(self, bare: JID, role: Role) -> None:
        """Keep a role that was given or taken for the next visit; the oldest are forgotten first."""
        self.roles[bare] = self.role_changes[bare] = role
        self.roles.move_to_end(bare)
        if len(self.roles) > _REMEMBERED_ROLES:
            self.forget_role(next(iter(self.roles)))

    def forget_role(self, bare: JID) -> None:
        """Whoever comes back gets the role of its affiliation."""
        if self.roles.pop(bare, None) is not None:
            self.role_changes[bare] = None
