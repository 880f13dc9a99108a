"""A roster in memory: what every presence looks at."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from itertools import count
from typing import NamedTuple

from beamish.core.services import RosterItem
from beamish.xmpp.jid import JID

_states = count(1)


class Side(NamedTuple):
    """One direction of the subscriptions."""

    elsewhere: tuple[JID, ...]
    """Who has it and is no account of this server's."""
    apart: frozenset[JID]
    """Contacts that are in the roster and do not have it; mostly none."""


class MemoryRoster:
    """The roster of one account in memory; see `core.services.Roster`. Only `RosterModule` changes it.

    `number` is the version as the database counts it, 0 before the first change. Versions down to `floor` are known.
    `state` is another number after every change, and no other roster ever has it. `domains` are those with accounts.
    `weight` is the sum of the items' weights (`weight_of`).
    """

    __slots__ = (
        "_domains",
        "_from",
        "_items",
        "_pending",
        "_subscribers",
        "_subscriptions",
        "_to",
        "floor",
        "listed",
        "number",
        "state",
        "weight",
    )

    def __init__(
        self, items: Iterable[RosterItem], number: int, floor: int, domains: Container[str] = frozenset()
    ) -> None:
        self._items = {item.jid: item for item in items}
        self._domains = domains
        self.state = next(_states)
        self.listed = sum(item.listed for item in self._items.values())
        self.weight = sum(map(weight_of, self._items.values()))
        self.number = number
        self.floor = floor
        self._subscribers: tuple[JID, ...] | None = None
        self._subscriptions: tuple[JID, ...] | None = None
        self._from: Side | None = None
        self._to: Side | None = None
        self._pending: tuple[RosterItem, ...] | None = None

    @property
    def size(self) -> int:
        """How many items there are. Not `__len__`: an empty roster must not be taken for none."""
        return len(self._items)

    @property
    def version(self) -> str:
        """The `ver` attribute of RFC 6121 §2.1.1."""
        return str(self.number)

    @version.setter
    def version(self, value: str) -> None:
        self.number = int(value)

    def get(self, contact: JID) -> RosterItem | None:
        """The item of a bare JID, listed or not."""
        return self._items.get(contact)

    def items(self) -> Iterable[RosterItem]:
        """All items, also those that are not listed."""
        return self._items.values()

    def subscribers(self) -> tuple[JID, ...]:
        """Contacts that receive this user's presence; the same tuple until one comes or goes."""
        if self._subscribers is None:
            self._subscribers = tuple(item.jid for item in self._items.values() if item.from_)
        return self._subscribers

    def subscriptions(self) -> tuple[JID, ...]:
        """Contacts whose presence this user receives."""
        if self._subscriptions is None:
            self._subscriptions = tuple(item.jid for item in self._items.values() if item.to)
        return self._subscriptions

    def subscribers_among(self, accounts: Mapping[str, object]) -> set[JID]:
        """The subscribers that are in a table of local accounts. Costs as much as the smaller of the two."""
        here = self._items.keys() & accounts.keys()
        apart = self._subscriber_side().apart
        return here - apart if apart else here

    def subscriptions_among(self, accounts: Mapping[str, object]) -> set[JID]:
        """The subscriptions to those in a table of local accounts. Costs as much as the smaller of the two."""
        here = self._items.keys() & accounts.keys()
        apart = self._subscription_side().apart
        return here - apart if apart else here

    def subscribers_elsewhere(self) -> tuple[JID, ...]:
        """The subscribers that are no accounts of this server's."""
        return self._subscriber_side().elsewhere

    def subscriptions_elsewhere(self) -> tuple[JID, ...]:
        """The subscriptions to those who are no accounts of this server's."""
        return self._subscription_side().elsewhere

    def _subscriber_side(self) -> Side:
        if self._from is None:
            self._from = Side(
                tuple(jid for jid, item in self._items.items() if item.from_ and not self._is_here(jid)),
                frozenset(jid for jid, item in self._items.items() if not item.from_),
            )
        return self._from

    def _subscription_side(self) -> Side:
        if self._to is None:
            self._to = Side(
                tuple(jid for jid, item in self._items.items() if item.to and not self._is_here(jid)),
                frozenset(jid for jid, item in self._items.items() if not item.to),
            )
        return self._to

    def _is_here(self, jid: JID) -> bool:
        return bool(jid.local) and jid.domain in self._domains

    def pending(self) -> tuple[RosterItem, ...]:
        """Items with a request that awaits an answer, the contact's or the user's."""
        if self._pending is None:
            self._pending = tuple(item for item in self._items.values() if item.pending_in or item.pending_out)
        return self._pending

    def put(self, item: RosterItem) -> None:
        """Insert or replace an item."""
        before = self._items.get(item.jid)
        self._items[item.jid] = item
        self.listed += item.listed - (before is not None and before.listed)
        self.weight += weight_of(item) - weight_of(before)
        self._turned(before, item)

    def drop(self, contact: JID) -> None:
        """Delete an item."""
        before = self._items.pop(contact)
        self.listed -= before.listed
        self.weight -= weight_of(before)
        self._turned(before, None)

    def _turned(self, before: RosterItem | None, after: RosterItem | None) -> None:
        self.state = next(_states)
        came_or_went = before is None or after is None
        if (before is not None and before.from_) != (after is not None and after.from_):
            self._subscribers = self._from = None
        elif came_or_went:
            self._from = None
        if (before is not None and before.to) != (after is not None and after.to):
            self._subscriptions = self._to = None
        elif came_or_went:
            self._to = None
        if _waits(before) or _waits(after):
            self._pending = None


def weight_of(item: RosterItem | None) -> int:
    """Bytes of what is shown of a contact: address, name and groups; 0 for none and for one that is not listed."""
    if item is None or not item.listed:
        return 0
    return len(item.jid.wire) + len(item.name.encode()) + sum(len(group.encode()) for group in item.groups)


def _waits(item: RosterItem | None) -> bool:
    return item is not None and (item.pending_in or item.pending_out)
