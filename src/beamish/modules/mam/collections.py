"""The archive as XEP-0136 sees it: collections of messages, each with one contact, found in the same tables.

A collection is what was said with one contact (bare JID) on one day (UTC); it is named by the contact and the time of its
first message. Nothing more is stored for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from heapq import merge
from itertools import islice
from typing import Final

from beamish.modules.mam import ids, lists, removal
from beamish.storage.api import Cursor
from beamish.xmpp.jid import JID

DAY: Final = 86_400_000_000 << ids.CHANCE_BITS
"""The numbers of a day."""
REMOVE_ROWS: Final = 200


@dataclass(frozen=True, slots=True)
class Chosen:
    """Contacts by XEP-0136 §10.1: "" for all; a full or bare JID or a domain, with `exact` only what equals it."""

    contact: str = ""
    exact: bool = False

    def matches(self, peer: str) -> bool:
        """Whether the collections with this contact are meant; of a full JID only the bare part counts, as stored."""
        if not self.contact or peer == self.contact:
            return True
        jid = JID.parse(self.contact)
        if self.exact:
            return False
        return peer == jid.bare if jid.local else JID.parse(peer).domain == jid.domain


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection: its contact, the number of its first message, and how many messages it has."""

    peer: str
    first: int
    messages: int

    @property
    def day(self) -> tuple[int, int]:
        """The numbers of its day: from, and up to but not including."""
        start = self.first - self.first % DAY
        return start, start + DAY


def chats(c: Cursor, owner: str, chosen: Chosen) -> list[tuple[int, str]]:
    """The conversations of an account with the contacts chosen."""
    rows = c.rows("SELECT t.num, t.peer FROM mam_account a JOIN mam_chat t ON t.account = a.num WHERE a.jid = ?", owner)
    return [(int(num), str(peer)) for num, peer in rows if chosen.matches(peer)]


def listed(
    c: Cursor, owner: str, chosen: Chosen, low: int, high: int, limit: int, *, backwards: bool = False
) -> list[Collection]:
    """Collections that begin at low ≤ number < high, oldest first; the last of them if `backwards`."""
    found = chats(c, owner, chosen)
    peers = dict(found)
    walk: Callable[..., Iterator[tuple[int, int]]] = _down if backwards else _up
    order: Iterator[tuple[int, int]] = merge(*(walk(c, num, low, high) for num, _ in found), reverse=backwards)
    picked = list(islice(order, limit))
    if backwards:
        picked.reverse()
    made = []
    for first, chat in picked:
        messages = lists.of_list(c, chat).count(first - 1, first - first % DAY + DAY)
        made.append(Collection(peers[chat], first, messages or 0))
    return made


def _up(c: Cursor, chat: int, low: int, high: int) -> Iterator[tuple[int, int]]:
    at = low
    numbers = lists.of_list(c, chat)
    while True:
        first = numbers.first(at - 1)
        if first is None or first >= high:
            return
        day = first - first % DAY
        if at <= day or numbers.first(day - 1) == first:  # else it began before `low`
            yield first, chat
        at = day + DAY


def _down(c: Cursor, chat: int, low: int, high: int) -> Iterator[tuple[int, int]]:
    at = high
    numbers = lists.of_list(c, chat)
    while True:
        last = numbers.last(at)
        if last is None or last < low:
            return
        day = last - last % DAY
        first = numbers.first(day - 1)
        if first is None or first < low:
            return
        yield first, chat
        at = day


def find(c: Cursor, owner: str, contact: str, start: float) -> Collection | None:
    """The collection with a contact that begins at a time (clients may leave out fractions of the second)."""
    number = ids.first_at(start)
    day = number - number % DAY
    for found in listed(c, owner, Chosen(str(JID.parse(contact).bare), exact=True), day, day + DAY, 1):
        if abs(ids.time_of(found.first) - start) < 1.0:
            return found
    return None


def before(c: Cursor, owner: str, found: Collection, number: int) -> int:
    """The number of the message before this one in a collection; its first message itself if there is none."""
    for chat, _ in chats(c, owner, Chosen(found.peer, exact=True)):
        last = lists.of_list(c, chat).last(number)
        if last is not None and last >= found.first:
            return last
    return found.first


def remove(c: Cursor, owner: str, chosen: Chosen, low: int, high: int) -> int:
    """Take the content out of messages with low ≤ number < high (`removal.remove`), at most `REMOVE_ROWS`; how many."""
    for chat, _ in chats(c, owner, chosen):
        numbers = lists.of_list(c, chat).between(low - 1, high, REMOVE_ROWS)
        if numbers:
            removal.remove(c, owner, chat, numbers)
            return len(numbers)
    return 0


def removing(owner: str, chosen: Chosen, low: int, high: int) -> Callable[[Cursor], int]:
    """`remove` as a transaction."""
    return partial(remove, owner=owner, chosen=chosen, low=low, high=high)
