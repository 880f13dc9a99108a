"""XEP-0045 §5: roles, affiliations, and who may change whose, as tables and two functions. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from beamish.xmpp.errors import Condition, StanzaError


class Affiliation(IntEnum):
    """The lasting relation of a bare JID (or a whole domain) to a room; a greater one includes the lesser."""

    OUTCAST = 0
    NONE = 1
    MEMBER = 2
    ADMIN = 3
    OWNER = 4

    @property
    def label(self) -> str:
        """As the protocol writes it."""
        return _AFFILIATION_LABELS[self]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the room knows lastingly about a bare JID or a domain; `nick` is reserved for it."""

    affiliation: Affiliation
    nick: str = ""
    reason: str = ""


class Role(IntEnum):
    """What an occupant may do during a visit; a greater one includes the lesser. `NONE`: not in the room."""

    NONE = 0
    VISITOR = 1
    PARTICIPANT = 2
    MODERATOR = 3

    @property
    def label(self) -> str:
        """As the protocol writes it."""
        return _ROLE_LABELS[self]


_AFFILIATION_LABELS: Final = {a: a.name.lower() for a in Affiliation}
_ROLE_LABELS: Final = {r: r.name.lower() for r in Role}
AFFILIATIONS: Final = {label: a for a, label in _AFFILIATION_LABELS.items()}
ROLES: Final = {label: r for r, label in _ROLE_LABELS.items()}


def parse_affiliation(text: str) -> Affiliation:
    """The affiliation of that name. Raises `StanzaError(bad-request)`."""
    found = AFFILIATIONS.get(text)
    if found is None:
        raise StanzaError(Condition.BAD_REQUEST, text=f"an affiliation is one of {', '.join(AFFILIATIONS)}")
    return found


def parse_role(text: str) -> Role:
    """The role of that name. Raises `StanzaError(bad-request)`."""
    found = ROLES.get(text)
    if found is None:
        raise StanzaError(Condition.BAD_REQUEST, text="there is no such role")
    return found


def initial_role(affiliation: Affiliation, moderated: bool) -> Role:
    """The role with which somebody enters (table "Initial Role Based on Affiliation"); outcasts do not enter."""
    if affiliation >= Affiliation.ADMIN:
        return Role.MODERATOR
    if affiliation is Affiliation.OUTCAST:
        return Role.NONE
    if affiliation is Affiliation.NONE and moderated:
        return Role.VISITOR
    return Role.PARTICIPANT


def role_after(affiliation: Affiliation, before: Affiliation, role: Role, moderated: bool) -> Role:
    """The role of an occupant whose affiliation changed (§5.1.3): gained ones bring theirs, a lost one takes its own."""
    if affiliation >= Affiliation.ADMIN or affiliation is Affiliation.OUTCAST:
        return initial_role(affiliation, moderated)
    if before >= Affiliation.ADMIN:
        return initial_role(affiliation, moderated)
    if affiliation > before and role < Role.PARTICIPANT:
        return Role.PARTICIPANT
    return role


def check_role_change(
    actor: Role, actor_affiliation: Affiliation, target: Role, target_affiliation: Affiliation, wanted: Role
) -> None:
    """Whether an occupant may give another one a role (§5.1.3, §8.2 to §8.5, §9.6, §9.7).

    Raises `StanzaError`: `forbidden` for somebody who may not do such a thing at all, `not-allowed` for this target.
    """
    if actor is not Role.MODERATOR:
        raise StanzaError(Condition.FORBIDDEN, text="only moderators may change roles")
    admin = actor_affiliation >= Affiliation.ADMIN
    if wanted is target:
        return
    if wanted is Role.NONE:
        # §8.2; the state chart adds that moderators are kicked by admins and owners only
        if target_affiliation > actor_affiliation or (target is Role.MODERATOR and not admin):
            raise StanzaError(Condition.NOT_ALLOWED, text="this occupant cannot be kicked by you")
        return
    if wanted is Role.MODERATOR:
        if not admin:
            raise StanzaError(Condition.FORBIDDEN, text="only admins and owners make moderators")
        return
    if target is Role.MODERATOR:
        if target_affiliation >= Affiliation.ADMIN:  # §9.7, whoever asks
            raise StanzaError(Condition.NOT_ALLOWED, text="admins and owners stay moderators")
        if not admin:
            raise StanzaError(Condition.FORBIDDEN, text="only admins and owners unmake moderators")
        return
    if wanted is Role.VISITOR and (
        target_affiliation >= Affiliation.ADMIN
        # §8.4: "at or above the moderator's level"; no affiliation is not a level, else nobody could be silenced by those
        or (target_affiliation > Affiliation.NONE and target_affiliation >= actor_affiliation)
    ):
        raise StanzaError(Condition.NOT_ALLOWED, text="voice cannot be taken from this occupant by you")


def check_affiliation_change(
    actor: Affiliation, target: Affiliation, wanted: Affiliation, *, oneself: bool = False
) -> None:
    """Whether somebody may change an affiliation (§5.2.2, §9, §10). That an owner remains is checked by the room.

    Raises `StanzaError`: `forbidden`, `not-allowed`, or `conflict` for a ban of oneself.
    """
    if actor < Affiliation.ADMIN:
        raise StanzaError(Condition.FORBIDDEN, text="only admins and owners may change affiliations")
    if oneself and wanted is Affiliation.OUTCAST:
        raise StanzaError(Condition.CONFLICT, text="you cannot ban yourself")
    if actor is Affiliation.OWNER or wanted is target:
        return
    if target >= Affiliation.ADMIN:
        if wanted is Affiliation.OUTCAST:
            raise StanzaError(Condition.NOT_ALLOWED, text="admins and owners are banned by owners only")
        raise StanzaError(Condition.FORBIDDEN, text="only owners change the lists of admins and owners")
    if wanted >= Affiliation.ADMIN:
        raise StanzaError(Condition.FORBIDDEN, text="only owners change the lists of admins and owners")
