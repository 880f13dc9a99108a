"""What rooms lose with time: occupants who are gone without a word (XEP-0045 §16.1), and messages that are old.

To look for them costs what there is, so it is done in the background, with turns for everybody else in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core.iq import IqTimeout
from beamish.core.later import settled, unhurried
from beamish.modules.muc.names import Status
from beamish.modules.muc.occupants import Seat
from beamish.modules.muc.room import Room
from beamish.modules.muc.talk import error_condition
from beamish.storage.api import StorageError
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import make

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

log = structlog.get_logger(__name__)

SWEEP_SECONDS: Final = 60.0
AT_ONCE: Final = 20
"""Occupants who are taken out in one turn of the loop: each costs what there is to tell of it to its room."""
PINGS_AT_ONCE: Final = 100
"""Occupants elsewhere that are asked in one sweep whether they are still there."""


class Ghosts:
    """Looks after the rooms of one service, once a minute; a sweep that takes longer is not joined by another."""

    def __init__(self, muc: MucModule) -> None:
        self._muc = muc
        self._sweeps = 0
        self._looking: asyncio.Task[None] | None = None
        self._expiring: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look for the first time in a minute."""
        self._timer = self._muc.kernel.clock.call_later(SWEEP_SECONDS, self.sweep)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def sweep(self) -> None:
        """Once a minute: occupants whose session is gone, occupants elsewhere that are silent, messages that are old."""
        self._timer = self._muc.kernel.clock.call_later(SWEEP_SECONDS, self.sweep)
        self._sweeps += 1
        if self._looking is None or self._looking.done():
            self._looking = self._muc.tasks.spawn(self._look_at_all(), "sweep")
        days = self._muc.config.archive_days
        if days and self._sweeps % 5 == 1 and (self._expiring is None or self._expiring.done()):
            before = self._muc.kernel.clock.now() - 86_400.0 * days
            self._expiring = self._muc.tasks.spawn(self._expire(before), "expire")

    async def _look_at_all(self) -> None:
        by_full = self._muc.kernel.sessions.by_full
        now, patience = self._muc.kernel.clock.now(), self._muc.config.ping_seconds
        days = self._muc.config.archive_days
        oldest = now - 86_400.0 * days if days else float("-inf")
        silent: list[tuple[Room, JID]] = []
        async for room, seat in unhurried(self._places()):
            if seat is None and room.history is not None:
                room.history.expire(oldest)
            if seat is None or room.seats.get(seat.jid) is not seat:
                continue
            if self._muc.kernel.is_local_domain(seat.jid.domain):
                if seat.jid not in by_full:
                    self.remove(room, seat.jid)
            elif patience and now - seat.heard > patience and len(silent) < PINGS_AT_ONCE:
                silent.append((room, seat.jid))
        if silent:
            self._muc.tasks.spawn(self._ping(silent), "pings")

    def _places(self) -> Iterator[tuple[Room, Seat | None]]:
        """Every seat of every room, and each room once besides: to look at an empty one is work, too."""
        for room in tuple(self._muc.rooms.values()):
            yield room, None
            for seat in tuple(room.seats.values()):
                yield room, seat

    async def _expire(self, before: float) -> None:
        try:
            await self._muc.archive.expire(before)
        except StorageError as exc:
            log.warning("archive_expiry_failed", error=repr(exc))

    def remove(self, room: Room, jid: JID) -> None:
        """Somebody is gone: say so (333)."""
        log.info("ghost_removed", room=str(room.jid), occupant=str(jid))
        rest = self._muc.carry_out(room, room.leave(jid, statuses=(Status.TECHNICAL,)))
        if rest is not None:
            self._muc.tasks.spawn(settled(rest), "farewell")

    def remove_all(self, gone: Sequence[tuple[Room, Seat]]) -> Awaitable[None] | None:
        """The same for many: some at once, the others with turns for everybody else, but for those who are back by then."""
        for room, seat in gone[:AT_ONCE]:
            self.remove(room, seat.jid)
        return self._remove_rest(gone[AT_ONCE:]) if len(gone) > AT_ONCE else None

    async def _remove_rest(self, gone: Sequence[tuple[Room, Seat]]) -> None:
        async for room, seat in unhurried(gone, AT_ONCE):
            if room.seats.get(seat.jid) is seat:
                self.remove(room, seat.jid)

    async def _ping(self, silent: list[tuple[Room, JID]]) -> None:
        await asyncio.gather(*(self._ping_one(room, jid) for room, jid in silent))

    async def _ping_one(self, room: Room, jid: JID) -> None:
        """§16.1.2: whoever does not answer, or is said not to exist, has left. Any other error is an answer."""
        seat = room.seats.get(jid)
        if seat is None:
            return
        seat.heard = self._muc.kernel.clock.now()
        try:
            answer: Stanza | None = await self._muc.kernel.iq.request(
                "get", jid, make(f"{{{ns.PING}}}ping"), sender=room.jid, timeout=30.0
            )
        except IqTimeout:
            answer = None
        if room.seats.get(jid) is not seat:
            return
        gone = answer is None or (
            answer.type == "error"
            and error_condition(answer)[1]
            in ("gone", "item-not-found", "recipient-unavailable", "remote-server-not-found", "remote-server-timeout")
        )
        if gone:
            self.remove(room, jid)
