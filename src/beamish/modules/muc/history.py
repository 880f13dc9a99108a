"""What a room remembers of its conversation for newcomers: the last messages and the subject (XEP-0045 §7.2.13 to §7.2.15)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from beamish.core.clock import parse_stamp, stamp
from beamish.modules.muc.names import MUC
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza
from beamish.xmpp.xml import Element, escape_attr

MAX_KEPT = 500
"""Messages kept in memory for one room, whatever its configuration says."""
MAX_KEPT_BYTES = 1_048_576
"""Bytes of them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much history a newcomer asked for; None is no limit of this kind."""

    chars: int | None = None
    stanzas: int | None = None
    seconds: int | None = None
    since: float | None = None

    @classmethod
    def from_xml(cls, x: Element | None) -> Wanted:
        """Read `<history/>` in `<x xmlns='…muc'/>`; what is no number or date counts as not there."""
        el = None if x is None else x.find(f"{{{MUC}}}history")
        if el is None:
            return cls()
        since: float | None = None
        text = el.get("since")
        if text:
            try:
                since = parse_stamp(text)
            except ValueError:
                since = None
        return cls(_number(el, "maxchars"), _number(el, "maxstanzas"), _number(el, "seconds"), since)


def _number(el: Element, name: str) -> int | None:
    text = el.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


@dataclass(frozen=True, slots=True)
class Kept:
    """A message as it was reflected (sender: the occupant), its archive id, its time, and who really sent it."""

    uid: str
    stamp: float
    stanza: Stanza
    bare: JID | None


class History:
    """The last messages of a room, oldest first, bounded in number and bytes."""

    def __init__(self, room: JID, kept: Iterable[Kept] = ()) -> None:
        self._room = room
        self._kept: deque[Kept] = deque()
        self._bytes = 0
        for message in kept:
            self.add(message, MAX_KEPT)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept)

    def add(self, message: Kept, limit: int) -> None:
        """Keep one more, at most `limit` of them."""
        self._kept.append(message)
        self._bytes += len(message.stanza.body)
        while self._kept and (len(self._kept) > min(limit, MAX_KEPT) or self._bytes > MAX_KEPT_BYTES):
            self._bytes -= len(self._kept.popleft().stanza.body)

    def expire(self, before: float) -> None:
        """Forget what is older: it is deleted from the archive, too."""
        while self._kept and self._kept[0].stamp < before:
            self._bytes -= len(self._kept.popleft().stanza.body)

    def find(self, uid: str) -> Kept | None:
        """The message with this archive id."""
        return next((kept for kept in self._kept if kept.uid == uid), None)

    def remove(self, uid: str) -> None:
        """Forget a message that was retracted (XEP-0424 §6, XEP-0425 §6)."""
        found = self.find(uid)
        if found is not None:
            self._kept.remove(found)
            self._bytes -= len(found.stanza.body)

    def replay(self, wanted: Wanted, limit: int, now: float, to: JID) -> list[Stanza]:
        """The messages for a newcomer: the newest that meet every wish and the room's limit (§7.2.14).

        `chars` counts the characters of whole stanzas as they are sent.
        """
        if wanted.stanzas is not None:
            limit = min(limit, wanted.stanzas)
        earliest = wanted.since if wanted.since is not None else float("-inf")
        if wanted.seconds is not None:
            earliest = max(earliest, now - wanted.seconds)
        left = wanted.chars
        chosen: list[Stanza] = []
        for kept in reversed(self._kept):
            if len(chosen) >= limit or kept.stamp < earliest:
                break
            stanza = delayed(kept.stanza, self._room, kept.stamp)
            if left is not None:
                left -= len(stanza.replace(to=to).to_wire().decode())
                if left < 0:
                    break
            chosen.append(stanza)
        chosen.reverse()
        return chosen


def delayed(stanza: Stanza, room: JID, when: float) -> Stanza:
    """The message with the room's delay stamp (XEP-0203)."""
    return stanza.with_child(f"<delay xmlns='{ns.DELAY}' from='{escape_attr(room)}' stamp='{stamp(when)}'/>".encode())


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a room: the `<subject/>` elements as bytes, who set it (occupant address and id), and when."""

    content: bytes = b"<subject/>"
    sender: JID | None = None
    occupant: bytes = b""
    stamp: float = 0.0
    text: str = ""

    def to_stanza(self, room: JID) -> Stanza:
        """The message that follows the history (§7.2.15); without a stamp if there never was a subject."""
        stanza = Stanza.build(MESSAGE, "groupchat", sender=self.sender or room, content=self.content + self.occupant)
        return delayed(stanza, room, self.stamp) if self.stamp else stanza
