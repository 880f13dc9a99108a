"""Which rooms everybody may find, in the order of their addresses: kept as rooms change, so that to list some costs no look
at all the others.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from beamish.modules.muc.room import Room
from beamish.xmpp.jid import JID


class Directory:
    """The public rooms of each domain."""

    def __init__(self) -> None:
        self._listed: dict[str, list[JID]] = {}

    def note(self, room: Room) -> None:
        """A room was made, opened or configured."""
        if room.public is room.in_directory:
            return
        if not room.public:
            self.drop(room)
            return
        room.in_directory = True
        insort(self._listed.setdefault(room.jid.domain, []), room.jid)

    def drop(self, room: Room) -> None:
        """A room is gone, or hidden."""
        if not room.in_directory:
            return
        room.in_directory = False
        listed = self._listed[room.jid.domain]
        del listed[bisect_left(listed, room.jid)]

    def listed(self, domain: str) -> Sequence[JID]:
        """The addresses of a domain's public rooms, sorted; not to be kept beyond a turn of the loop."""
        return self._listed.get(domain, ())
