"""Occupants of a room, what the room says about them, and the effects that its rules ask for. Pure values.

An occupant is a nickname in a room; it has one seat for each session of the user that entered with this nickname
(XEP-0045 §7.2.8). What others see of an occupant is the presence of the seat that spoke last.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from beamish.modules.muc.names import (
    HATS_TAG,
    MUC_USER,
    OCCUPANT_ID,
    OCCUPANT_ID_TAG,
    X_MUC,
    X_USER,
)
from beamish.modules.muc.privileges import Affiliation, Role
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, PRESENCE, Stanza, content_bytes
from beamish.xmpp.xml import escape_attr, escape_text

UNAVAILABLE = "unavailable"
_OWN_CHILDREN = frozenset((X_MUC, X_USER, OCCUPANT_ID_TAG, HATS_TAG))
"""What only the room may say in presence (§15.3 rule 6, XEP-0421 §4, XEP-0317)."""


# ---- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tell:
    """The same stanza for every one of these seats, whose address takes the place of its `to`."""

    stanza: Stanza
    seats: Sequence[Seat]


@dataclass(frozen=True, slots=True)
class Send:
    """A stanza for somebody who need not be in the room; it has all its addresses."""

    stanza: Stanza


@dataclass(frozen=True, slots=True)
class Done:
    """Here the request that caused all this is answered (§8.2: after the kicked one, before the others)."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The room has ceased to exist."""


Effect: TypeAlias = Tell | Send | Done | Closed


# ---- occupants ------------------------------------------------------------------------------------------------------


class Seat:
    """One session of an occupant: its real full address, and its presence as the room shows it."""

    __slots__ = ("allowance", "heard", "jid", "lang", "occupant", "shown")

    def __init__(self, jid: JID, occupant: Occupant, shown: bytes, lang: str, now: float) -> None:
        self.jid = jid
        self.occupant = occupant
        self.shown = shown
        self.lang = lang
        self.allowance = 0.0
        """Stanzas it may send at once, as of `heard`; see `Room.charge`."""
        self.heard = now

    def __repr__(self) -> str:
        return f"<Seat {self.jid!s} as {self.occupant.nick!r}>"


class Occupant:
    """A nickname in a room and who is behind it. `visible`: the room broadcasts the presence of this role."""

    __slots__ = ("_cache", "affiliation", "bare", "hats", "id", "jid", "main", "nick", "role", "seats", "visible")

    def __init__(self, jid: JID, bare: JID, id: str, affiliation: Affiliation, role: Role, hats: bytes = b"") -> None:
        self.jid = jid
        self.nick = jid.resource
        self.bare = bare
        self.id = id
        self.affiliation = affiliation
        self.role = role
        self.hats = hats
        self.visible = True
        self.seats: dict[JID, Seat] = {}
        self.main: Seat | None = None
        self._cache: dict[bool, Stanza] = {}

    def __repr__(self) -> str:
        return f"<Occupant {self.nick!r} {self.bare!s} {self.affiliation.label}/{self.role.label}>"

    @property
    def id_bytes(self) -> bytes:
        """The `<occupant-id/>` element (XEP-0421)."""
        return f"<occupant-id xmlns='{OCCUPANT_ID}' id='{self.id}'/>".encode()

    def sit(self, seat: Seat) -> None:
        """Enter a session, whose presence is shown from now on."""
        self.seats[seat.jid] = seat
        seat.occupant = self
        self.main = seat
        self._cache.clear()

    def rise(self, seat: Seat) -> None:
        """Take a session out."""
        del self.seats[seat.jid]
        if self.main is seat:
            self.main = next(reversed(self.seats.values()), None)
        self._cache.clear()

    def changed(self) -> None:
        """Something that presence shows was changed."""
        self._cache.clear()

    def rename(self, jid: JID) -> None:
        """Take another nickname."""
        self.jid = jid
        self.nick = jid.resource
        self._cache.clear()

    def presence(self, real: bool) -> Stanza:
        """What others see, with or without the real address; the same object until something changes."""
        found = self._cache.get(real)
        if found is None:
            found = self._cache[real] = self.build(real=real)
        return found

    def build(
        self,
        type: str = "",
        *,
        real: bool,
        statuses: Iterable[int] = (),
        note: bytes = b"",
        extra: bytes = b"",
        new_nick: str = "",
        shown: bytes | None = None,
        id: str = "",
    ) -> Stanza:
        """A presence stanza of this occupant (§15.3 rule 8).

        `note` goes into the item (actor, reason), `extra` into the `<x/>` (destroy); `shown` replaces the children of
        the user's own presence. An unavailable one says role `none`, unless it is for a new nickname.
        """
        seat = self.main
        gone = type == UNAVAILABLE
        role = Role.NONE if gone and not new_nick else self.role
        jid = f" jid='{escape_attr(seat.jid)}'" if real and seat is not None else ""
        nick = f" nick='{escape_attr(new_nick)}'" if new_nick else ""
        item = f"<x xmlns='{MUC_USER}'><item affiliation='{self.affiliation.label}' role='{role.label}'{jid}{nick}"
        codes = "".join(f"<status code='{int(code)}'/>" for code in statuses)
        if shown is None:
            shown = b"" if gone or seat is None else seat.shown
        content = b"".join(
            (
                shown,
                item.encode(),
                b">" + note + b"</item>" if note else b"/>",
                extra,
                codes.encode(),
                b"</x>",
                self.id_bytes,
                b"" if gone else self.hats,
            )
        )
        lang = seat.lang if seat is not None else ""
        return Stanza.build(PRESENCE, type, id=id, sender=self.jid, lang=lang, content=content)


def shown_children(stanza: Stanza) -> bytes:
    """The children of a user's presence that the room passes on; what only the room may say is left out."""
    if stanza.body == b"/>":
        return b""
    return b"".join(content_bytes(child) for child in stanza.el if child.tag not in _OWN_CHILDREN)


def nick_key(nick: str) -> str:
    """What must be unique among nicknames: case and width do not distinguish people (§17.1 on mimicry)."""
    return unicodedata.normalize("NFKC", nick).casefold().strip()


def is_visible_nick(nick: str) -> bool:
    """Whether a nickname has something to look at (§15.1: no empty or invisible ones)."""
    return any(unicodedata.category(c)[0] not in "ZC" for c in nick)


def note_bytes(reason: str = "", actor: str = "") -> bytes:
    """`<actor/>` and `<reason/>` of an item; the actor is named by nickname, which everybody may know."""
    out = f"<actor nick='{escape_attr(actor)}'/>" if actor else ""
    if reason:
        out += f"<reason>{escape_text(reason)}</reason>"
    return out.encode()


def status_message(room: JID, statuses: Iterable[int], to: JID | None = None, content: bytes = b"") -> Stanza:
    """A message of the room that carries status codes (§10.2.1)."""
    codes = "".join(f"<status code='{int(code)}'/>" for code in statuses).encode()
    x = f"<x xmlns='{MUC_USER}'>".encode() + content + codes + b"</x>"
    return Stanza.build(MESSAGE, "groupchat" if to is None else "", sender=room, to=to, content=x)
