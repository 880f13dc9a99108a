"""What rooms remember besides what their owners decide, beyond the life of the process: roles that moderators gave and took,
open invitations, and registrations that wait for an admin. Each is bounded where it is kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from beamish.modules.muc.privileges import Role
from beamish.modules.muc.room import Room
from beamish.modules.muc.store import Note, NoteKind, StoredRoom
from beamish.storage.api import StorageError
from beamish.xmpp.jid import JID

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

log = structlog.get_logger(__name__)


class Notes:
    """Writes notes down as they come and go. One that the disk refuses holds until the restart."""

    def __init__(self, muc: MucModule) -> None:
        self._muc = muc

    def keep(self, room: Room, note: Note) -> int:
        """Remember something; the position of that in the queue of the database, 0 if it is not stored."""
        return self._try(room, lambda: self._muc.store.note(room.jid, note))

    def erase(self, room: Room, kind: NoteKind, jid: JID, other: str = "") -> int:
        """Forget it again; the position of that, 0 if it is not stored."""
        return self._try(room, lambda: self._muc.store.erase(room.jid, kind, jid, other))

    def _try(self, room: Room, change: Callable[[], int]) -> int:
        if room.locked or self._muc.rooms.get(room.jid) is not room:
            return 0  # nothing of it is stored yet, or any more
        try:
            return change()
        except StorageError as exc:
            log.warning("muc_note_not_stored", room=str(room.jid), error=repr(exc))
            return 0

    def keep_roles(self, room: Room) -> int:
        """Store what has changed in the roles of a room since the last call; the position, 0 for nothing."""
        position = 0
        for bare, role in room.role_changes.items():
            if role is None:
                position = self.erase(room, NoteKind.ROLE, bare)
            else:
                position = self.keep(room, Note(NoteKind.ROLE, bare, number=int(role)))
        room.role_changes.clear()
        return position

    def restore(self, stored: StoredRoom) -> None:
        """A room is read from disk, with what it remembered."""
        room = self._muc.rooms[stored.jid]
        for note in stored.notes:
            if note.kind is NoteKind.ROLE:
                room.roles[note.jid] = Role(note.number)
            elif note.kind is NoteKind.INVITATION:
                room.invitations[note.jid, JID.parse(note.other)] = None
            else:
                self._muc.approvals.restore(room, note)

    def forget(self, room: Room, user: JID) -> None:
        """An account is gone; in memory."""
        room.roles.pop(user, None)
        for key in [key for key in room.invitations if user in key]:
            del room.invitations[key]
