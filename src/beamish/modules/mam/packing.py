"""Archived messages in bytes: up to some dozens of them are one row of the database.

A row has two columns. `head`: for each message its number (8 bytes), salt (4), length (4) and kind (1), one kind of value
behind the other, then texts separated by NUL, which no XML has: the contact of each message (bare JID) and, in the log,
the owner of each. `wires`: the stanzas, one behind the other; a length of 0 means the stanza of the message before.
All of it is made and taken apart by a few calls for the whole row, whatever number of messages it has.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import Final

from beamish.core.content import words
from beamish.xmpp.jid import JID
from beamish.xmpp.patterns import compiled
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import unescape_attr

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
_ADDRESSED: Final = (
    rb"<message(?: (?!(?:from|to)=)[\w:.-]++='[^'>]*+')*+"
    rb"(?: from='([^'>&/]*+)(?:/([^'>&]*+))?')?(?: to='([^'>&/]*+)(?:/([^'>&]*+))?')?"
)
"""A start tag as `Stanza.to_wire` writes it, with nothing to unescape: sender and its resource, receiver and its resource."""
_START: Final = compiled(_ADDRESSED + rb"/?>")
_SAID: Final = compiled(_ADDRESSED + rb"><body>([^<&]*+(?:&(?!#)[^<&]*+)*+)</body>")
_FIRST_BODY: Final = compiled(rb"><body>([^<&]*+(?:&(?!#)[^<&]*+)*+)</body>")


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


class Columns:
    """Messages, one list for each of their values: thousands of them are dealt with faster than one by one."""

    __slots__ = ("kinds", "numbers", "owners", "peers", "salts", "wires")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.salts: list[int] = []
        self.kinds: list[int] = []
        self.peers: list[str] = []
        self.wires: list[bytes] = []
        self.owners: list[str] = []

    def add_log(self, count: int, head: bytes, wires: bytes) -> None:
        """Append what `pack_log` packed."""
        values = _layout(count).unpack_from(head)
        texts = head[count * _PER_MESSAGE :].decode().split("\0")
        self.numbers += values[:count]
        self.salts += values[count : 2 * count]
        self.kinds += values[3 * count :]
        self.peers += texts[:count]
        self.owners += texts[count:]
        found = self.wires
        before, at = b"", 0
        for length in values[2 * count : 3 * count]:
            if length:
                before = wires[at : at + length]
                at += length
            found.append(before)

    def add(self, entries: Iterable[Logged]) -> None:
        """Append messages one by one."""
        for number, salt, kind, peer, wire, owner in entries:
            self.numbers.append(number)
            self.salts.append(salt)
            self.kinds.append(kind)
            self.peers.append(peer)
            self.wires.append(wire)
            self.owners.append(owner)

    def of_owners(self) -> dict[str, Columns]:
        """The messages of each owner, in their order."""
        places: dict[str, list[int]] = {}
        for at, owner in enumerate(self.owners):
            if owner in places:
                places[owner].append(at)
            else:
                places[owner] = [at]
        return {owner: self._at(where) for owner, where in places.items()}

    def _at(self, places: list[int]) -> Columns:
        made = Columns()
        if len(places) == 1:
            at = places[0]
            made.numbers, made.salts, made.kinds = [self.numbers[at]], [self.salts[at]], [self.kinds[at]]
            made.peers, made.wires = [self.peers[at]], [self.wires[at]]
            return made
        take = itemgetter(*places)
        made.numbers = list(take(self.numbers))
        made.salts = list(take(self.salts))
        made.kinds = list(take(self.kinds))
        made.peers = list(take(self.peers))
        made.wires = list(take(self.wires))
        return made

    def entries(self) -> list[Entry]:
        """The messages, without owners."""
        return list(zip(self.numbers, self.salts, self.kinds, self.peers, self.wires, strict=True))

    def piece(self, first: int, end: int, behind: Chunk | None = None) -> tuple[bytes, bytes]:
        """Some of the messages as `head` and `wires`, behind those that are in a row already."""
        return _joined(
            behind,
            self.numbers[first:end],
            self.salts[first:end],
            self.kinds[first:end],
            self.peers[first:end],
            self.wires[first:end],
        )

    def said_with(self) -> dict[str, list[int]]:
        """The numbers by contact, of those that conversations show."""
        numbers, peers, kinds = self.numbers, self.peers, self.kinds
        if max(kinds) < REMOVED and peers.count(peers[0]) == len(peers):
            return {peers[0]: numbers}
        found: dict[str, list[int]] = {}
        for number, peer, kind in zip(numbers, peers, kinds, strict=True):
            if not kind & REMOVED:
                found.setdefault(peer, []).append(number)
        return found


def pack_part(by_owner: Mapping[str, Columns]) -> tuple[bytes, bytes]:
    """Messages of several owners, one owner's behind another's, in the form of `pack_log`."""
    every = Columns()
    for owner, columns in by_owner.items():
        every.numbers += columns.numbers
        every.salts += columns.salts
        every.kinds += columns.kinds
        every.peers += columns.peers
        every.wires += columns.wires
        every.owners += [owner] * len(columns.numbers)
    fixed = _layout(len(every.numbers)).pack(*every.numbers, *every.salts, *map(len, every.wires), *every.kinds)
    return fixed + "\0".join((*every.peers, *every.owners)).encode(), b"".join(every.wires)


class Chunk:
    """Messages of one archive as they are in a row of the database, in the order of their numbers."""

    __slots__ = ("_ends", "_head", "_kinds", "_lengths", "_peers", "_salts", "numbers", "wires")

    def __init__(self, count: int, head: bytes, wires: bytes) -> None:
        values = _layout(count).unpack_from(head)
        self.numbers = values[:count]
        self._salts = values[count : 2 * count]
        self._lengths = values[2 * count : 3 * count]
        self._kinds = values[3 * count :]
        self._head = head
        self.wires = wires
        self._ends: list[int] | None = None
        self._peers: list[str] | None = None

    def index(self, number: int) -> int | None:
        """Where a message is, None if it is not here."""
        at = bisect_left(self.numbers, number)
        return at if at < len(self.numbers) and self.numbers[at] == number else None

    def wire(self, at: int) -> bytes:
        """The stanza of a message."""
        if self._ends is None:
            self._ends = list(accumulate(self._lengths))
        end = self._ends[at]
        return self.wires[end - self._lengths[at] : end]

    def row(self, at: int) -> tuple[int, int, int, bytes]:
        """Number, salt, kind and stanza."""
        return self.numbers[at], self._salts[at], self._kinds[at], self.wire(at)

    def some(self, first: int, end: int) -> Iterator[tuple[int, int, str, bytes]]:
        """Number, kind, contact and stanza of the messages in some places."""
        wires, at = self.wires, sum(self._lengths[:first])
        for number, length, kind, peer in zip(
            self.numbers[first:end],
            self._lengths[first:end],
            self._kinds[first:end],
            self.peers()[first:end],
            strict=True,
        ):
            yield number, kind, peer, wires[at : at + length]
            at += length

    def peers(self) -> list[str]:
        """The contact of each message."""
        if self._peers is None:
            self._peers = self._head[len(self.numbers) * _PER_MESSAGE :].decode().split("\0")
        return self._peers

    def parts(self) -> tuple[bytes, tuple[Sequence[int], Sequence[int], Sequence[int]]]:
        """The contacts as they are packed; salts, lengths and kinds."""
        return self._head[len(self.numbers) * _PER_MESSAGE :], (self._salts, self._lengths, self._kinds)

    def entries(self) -> list[Entry]:
        """All messages."""
        wires = [self.wire(at) for at in range(len(self.numbers))]
        return list(zip(self.numbers, self._salts, self._kinds, self.peers(), wires, strict=True))

    @property
    def size(self) -> int:
        """Bytes of stanzas."""
        return len(self.wires)

    def may_hold(self, text: bytes) -> bool:
        """Whether these bytes are in any of the stanzas, which costs hardly anything to ask."""
        return text in self.wires


def _joined(
    behind: Chunk | None,
    numbers: Sequence[int],
    salts: Sequence[int],
    kinds: Sequence[int],
    peers: Sequence[str],
    wires: Sequence[bytes],
) -> tuple[bytes, bytes]:
    count = len(numbers)
    texts = "\0".join(peers)
    joined = b"".join(wires)
    if behind is None:
        return _layout(count).pack(*numbers, *salts, *map(len, wires), *kinds) + texts.encode(), joined
    head, old = behind.parts()
    count += len(behind.numbers)
    fixed = _layout(count).pack(*behind.numbers, *numbers, *old[0], *salts, *old[1], *map(len, wires), *old[2], *kinds)
    return b"".join((fixed, head, b"\0", texts.encode())), behind.wires + joined


def words_of(stanza: Stanza) -> str | None:
    """The text of a message for people, to be found by its words; None if there is none."""
    content = stanza.body
    bodies = content.count(b"<body")
    if not bodies:
        return None
    # no tree is needed for the only body where it is the first child, and so not inside another one
    found = _FIRST_BODY.match(content) if bodies == 1 else None
    if found is None:
        return words(stanza)
    text = found[1].decode()
    return (unescape_attr(text) if "&" in text else text) or None


def resource_of(stanza: Stanza, kind: int, owner: JID) -> str:
    """The contact's resource: of the receiver if the owner sent the message, else of the sender."""
    to, sender = stanza.to, stanza.sender
    other = to if kind & SENT and to is not None and to.bare != owner else sender
    return "" if other is None else other.resource


def resource_in(wire: bytes, kind: int, owner: JID) -> str:
    """`resource_of` a stanza as it is stored; it is not taken apart unless there is something unusual about it."""
    found = _START.match(wire)
    if found is None:
        return resource_of(Stanza.thaw(wire), kind, owner)
    return _resource(found[2], found[3], found[4], kind, owner)


def said(wire: bytes, kind: int, owner: JID) -> tuple[str, str] | None:
    """`words_of` a stanza as it is stored, and `resource_of` it; None where there are no words.

    Nearly all stanzas have one body, in the first place: of these a pattern tells both, for a third of the cost.
    """
    bodies = wire.count(b"<body")
    if not bodies:
        return None
    found = _SAID.match(wire) if bodies == 1 else None
    if found is None:
        stanza = Stanza.thaw(wire)
        words = words_of(stanza)
        return None if words is None else (words, resource_of(stanza, kind, owner))
    text = found[5].decode()
    if not text:
        return None
    return (
        unescape_attr(text) if "&" in text else text,
        _resource(found[2], found[3], found[4], kind, owner),
    )


def _resource(senders: bytes | None, to: bytes | None, receivers: bytes | None, kind: int, owner: JID) -> str:
    other = receivers if kind & SENT and to is not None and to != owner.wire else senders
    return other.decode() if other else ""
