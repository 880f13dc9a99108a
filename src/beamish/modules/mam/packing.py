"""Archived messages in bytes: up to some dozens of them are one row of the database.

A row has two columns. `head`: for each message its number (8 bytes), salt (4), length (4) and kind (1), one kind of value
behind the other, then texts separated by NUL, which no XML has: the contact of each message (bare JID) and, in the log,
the owner of each. `wires`: the stanzas, one behind the other; a length of 0 means the stanza of the message before.
All of it is made and taken apart by a few calls for the whole row, whatever number of messages it has.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Final

from beamish.core.content import look
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

SENT: Final = 1
"""`kind` bit: the owner sent it."""
GRAVE: Final = 2
"""Retracted: a tombstone is in its place (XEP-0424 §5)."""
REMOVED: Final = 4
"""Removed by its owner (XEP-0136 §6.3): an empty message is in its place, so that ids stay where they are."""

Entry = tuple[int, int, int, str, bytes]
"""A message of one archive: number, salt, kind, contact (bare JID), stanza."""
Logged = tuple[int, int, int, str, bytes, str]
"""The same, with the owner."""

_PER_MESSAGE: Final = 17


@lru_cache(maxsize=1_024)
def _layout(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q{count}I{count}I{count}B")


@lru_cache(maxsize=256)
def _numbers(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """Numbers alone, 8 bytes each."""
    return _numbers(len(numbers)).pack(*numbers)


def numbers_of(data: bytes, count: int) -> tuple[int, ...]:
    """The numbers that a row begins with."""
    return _numbers(count).unpack_from(data)


def pack(entries: Sequence[Entry]) -> tuple[bytes, bytes]:
    """Messages as `head` and `wires`."""
    numbers, salts, kinds, peers, wires = zip(*entries, strict=True)
    fixed = _layout(len(numbers)).pack(*numbers, *salts, *map(len, wires), *kinds)
    return fixed + "\0".join(peers).encode(), b"".join(wires)


def pack_log(entries: Sequence[Logged]) -> tuple[bytes, bytes]:
    """Messages of several owners as `head` and `wires`; a stanza that the next message shares is there once."""
    numbers, salts, kinds, peers, wires, owners = zip(*entries, strict=True)
    kept: list[bytes] = []
    before = None
    for wire in wires:
        kept.append(b"" if wire is before else wire)
        before = wire
    fixed = _layout(len(numbers)).pack(*numbers, *salts, *map(len, kept), *kinds)
    return fixed + "\0".join((*peers, *owners)).encode(), b"".join(kept)


def unpack_log(head: bytes, wires: bytes, count: int) -> list[Logged]:
    """What `pack_log` packed."""
    values = _layout(count).unpack_from(head)
    texts = head[count * _PER_MESSAGE :].decode().split("\0")
    found = []
    before, at = b"", 0
    for length in values[2 * count : 3 * count]:
        if length:
            before = wires[at : at + length]
            at += length
        found.append(before)
    return list(
        zip(
            values[:count],
            values[count : 2 * count],
            values[3 * count :],
            texts[:count],
            found,
            texts[count:],
            strict=True,
        )
    )


class Chunk:
    """Messages of one archive as they are in a row of the database, in the order of their numbers."""

    __slots__ = ("_ends", "_head", "_kinds", "_lengths", "_salts", "_wires", "numbers")

    def __init__(self, count: int, head: bytes, wires: bytes) -> None:
        values = _layout(count).unpack_from(head)
        self.numbers = values[:count]
        self._salts = values[count : 2 * count]
        self._lengths = values[2 * count : 3 * count]
        self._kinds = values[3 * count :]
        self._head = head
        self._wires = wires
        self._ends = list(accumulate(self._lengths))

    def index(self, number: int) -> int | None:
        """Where a message is, None if it is not here."""
        at = bisect_left(self.numbers, number)
        return at if at < len(self.numbers) and self.numbers[at] == number else None

    def wire(self, at: int) -> bytes:
        """The stanza of a message."""
        end = self._ends[at]
        return self._wires[end - self._lengths[at] : end]

    def row(self, at: int) -> tuple[int, int, int, bytes]:
        """Number, salt, kind and stanza."""
        return self.numbers[at], self._salts[at], self._kinds[at], self.wire(at)

    def peers(self) -> list[str]:
        """The contact of each message."""
        return self._head[len(self.numbers) * _PER_MESSAGE :].decode().split("\0")

    def entries(self) -> list[Entry]:
        """All messages."""
        wires = [self.wire(at) for at in range(len(self.numbers))]
        return list(zip(self.numbers, self._salts, self._kinds, self.peers(), wires, strict=True))

    def is_full(self, messages: int, size: int) -> bool:
        """Whether it has so many messages or bytes of stanzas."""
        return len(self.numbers) >= messages or len(self._wires) >= size

    def may_hold(self, text: bytes) -> bool:
        """Whether these bytes are in any of the stanzas, which costs hardly anything to ask."""
        return text in self._wires


def words_of(wire: bytes) -> str | None:
    """The text of a message for people, to be found by its words; None if there is none."""
    return look(Stanza.thaw(wire))[1]


def resource_of(stanza: Stanza, kind: int, owner: JID) -> str:
    """The contact's resource: of the receiver if the owner sent the message, else of the sender."""
    to, sender = stanza.to, stanza.sender
    other = to if kind & SENT and to is not None and to.bare != owner else sender
    return "" if other is None else other.resource
