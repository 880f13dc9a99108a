"""A roster in memory: what every presence looks at."""

from __future__ import annotations

from collections.abc import Iterable

from beamish.core.services import RosterItem
from beamish.xmpp.jid import JID


class MemoryRoster:
    """The roster of one account in memory; see `core.services.Roster`. Only `RosterModule` changes it.

    `number` is the version as the database counts it, 0 before the first change. Versions down to `floor` are known.
    """

    __slots__ = ("_items", "_subscribers", "_subscriptions", "floor", "listed", "number")

    def __init__(self, items: Iterable[RosterItem], number: int, floor: int) -> None:
        self._items = {item.jid: item for item in items}
        self.listed = sum(item.listed for item in self._items.values())
        self.number = number
        self.floor = floor
        self._subscribers: tuple[JID, ...] | None = None
        self._subscriptions: tuple[JID, ...] | None = None

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

    def put(self, item: RosterItem) -> None:
        """Insert or replace an item."""
        before = self._items.get(item.jid)
        self._items[item.jid] = item
        self.listed += item.listed - (before is not None and before.listed)
        self._turned(before, item)

    def drop(self, contact: JID) -> None:
        """Delete an item."""
        before = self._items.pop(contact)
        self.listed -= before.listed
        self._turned(before, None)

    def _turned(self, before: RosterItem | None, after: RosterItem | None) -> None:
        if (before is not None and before.from_) != (after is not None and after.from_):
            self._subscribers = None
        if (before is not None and before.to) != (after is not None and after.to):
            self._subscriptions = None
