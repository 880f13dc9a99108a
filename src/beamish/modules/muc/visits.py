"""Who is where, beyond the life of the process: sessions that outlive it (XEP-0198) find themselves in their rooms again.

Each session keeps its own visits, with what is needed to sit down again unnoticed. The database knows besides who is inside
each room at all, so that those who do not come back can be said to have gone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import structlog

from beamish.core.events import SessionNotes
from beamish.core.services import SessionKeeper
from beamish.modules.muc.administration import left_behind
from beamish.modules.muc.history import History
from beamish.modules.muc.names import MUC_USER, Status
from beamish.modules.muc.occupants import UNAVAILABLE, Occupant, Seat
from beamish.modules.muc.privileges import Role
from beamish.modules.muc.room import Move, Room
from beamish.storage.api import StorageBusy
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

log = structlog.get_logger(__name__)

NOTE: Final = "muc.visits"
"""Where a session carries its visits over an orderly stop, when nobody listens any more."""


class Visits:
    """Keeps books on visits and restores them."""

    def __init__(self, muc: MucModule) -> None:
        self._muc = muc
        self._rooms: dict[JID, set[JID]] = {}
        self._elsewhere: dict[str, set[JID]] = {}
        """Whoever is in a room and came from another server, by domain."""
        self._former: dict[JID, tuple[tuple[str, JID], ...]] = {}

    def note(self, room: Room) -> None:
        """Enter what has happened in a room since the last call."""
        if not room.moves:
            return
        moves, room.moves = room.moves, []
        keeper = self._muc.kernel.service_or_none(SessionKeeper)
        for move, what, nick in moves:
            if isinstance(what, Occupant):
                if not room.locked:
                    self._store(room, move, nick, what.bare)
                continue
            if move is not Move.ALTERED:
                rooms = self._rooms.setdefault(what, set())
                if move is Move.SAT:
                    if not rooms:
                        self._begins(what)
                    rooms.add(room.jid)
                else:
                    rooms.discard(room.jid)
                    if not rooms:
                        del self._rooms[what]
                        self._ends(what)
            session = self._muc.kernel.sessions.get(what)
            if keeper is not None and session is not None:
                keeper.changed(session)

    def _begins(self, who: JID) -> None:
        if not self._muc.kernel.is_local_domain(who.domain):
            self._elsewhere.setdefault(who.domain, set()).add(who)

    def _ends(self, who: JID) -> None:
        known = self._elsewhere.get(who.domain)
        if known is not None:
            known.discard(who)
            if not known:
                del self._elsewhere[who.domain]

    def from_domain(self, domain: str) -> list[tuple[Room, Seat]]:
        """The seats that users of another server have, with their rooms."""
        found = []
        for who in self._elsewhere.get(domain, ()):
            for jid in self._rooms[who]:
                room = self._muc.rooms.get(jid)
                if room is not None and who in room.seats:
                    found.append((room, room.seats[who]))
        return found

    def _store(self, room: Room, move: Move, nick: str, bare: JID) -> None:
        try:
            if move is Move.CAME:
                self._muc.store.came(room.jid, nick, bare)
            else:
                self._muc.store.went(room.jid, nick)
        except StorageBusy:  # the worst is a farewell that is missing after a crash
            log.warning("visit_not_stored", room=str(room.jid))

    def of(self, who: JID) -> list[Any]:
        """The visits of a session as JSON values."""
        found: list[Any] = []
        for jid in sorted(self._rooms.get(who, ())):
            room = self._muc.rooms.get(jid)
            seat = None if room is None else room.seats.get(who)
            if seat is not None:
                occupant = seat.occupant
                found.append([str(jid), occupant.nick, int(occupant.role), seat.lang, seat.shown.decode()])
        return found

    def stop(self) -> None:
        """The server stops in order: sessions that will be back carry their visits themselves."""
        for who in self._rooms:
            session = self._muc.kernel.sessions.get(who)
            if session is not None:
                session.notes[NOTE] = json.dumps(self.of(who))

    # ---- after a restart --------------------------------------------------------------------------------------------

    def was_inside(self, room: JID, former: tuple[tuple[str, JID], ...]) -> None:
        """Who was in a room when the server ended."""
        if former:
            self._former[room] = former

    def restored(self, event: SessionNotes) -> None:
        """A session is back: it takes its places again, or learns that it has lost them."""
        session = event.session
        carried = session.note(NOTE)
        if isinstance(carried, str):
            del session.notes[NOTE]
        visits = event.notes.get("muc") or (json.loads(carried) if isinstance(carried, str) else [])
        now = self._muc.kernel.clock.now()
        for jid, nick, role, lang, shown in visits:
            room = self._muc.rooms.get(JID.parse(jid))
            if room is not None and room.seat_again(session.jid, nick, Role(role), shown.encode(), lang, now):
                self.note(room)
                continue
            codes = "".join(f"<status code='{int(c)}'/>" for c in (Status.SELF, Status.SHUTDOWN))
            content = f"<x xmlns='{MUC_USER}'><item affiliation='none' role='none'/>{codes}</x>".encode()
            sender = JID.parse(jid).with_resource(nick)
            self._muc.fanout.send(
                session.jid, Stanza.build(PRESENCE, UNAVAILABLE, sender=sender, to=session.jid, content=content)
            )

    async def settle(self) -> None:
        """Every session that comes back is back: say farewell for the others, and close temporary rooms that are empty."""
        for jid, former in self._former.items():
            room = self._muc.rooms.get(jid)
            if room is None:
                continue
            if room.seats and room.history is None:
                kept = await self._muc.archive.history(jid, room.config.max_history_fetch)
                room.history = History(jid, kept)
            for nick, bare in former:
                occupant = room.find(nick)
                if occupant is None or occupant.nick != nick:
                    self._muc.store.went(jid, nick)
                    rest = self._muc.carry_out(room, left_behind(room, nick, bare))
                    if rest is not None:
                        await rest
        self._former.clear()
        for room in tuple(self._muc.rooms.values()):
            if not room.config.persistent and not room.seats:
                self._muc.close(room)
