"""Who is to be notified: registrations in memory, and one row for each on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

import structlog

from beamish.modules.push.wire import Address
from beamish.storage.api import Cursor, Database, Migration, StorageError
from beamish.xmpp.jid import JID

if TYPE_CHECKING:
    from beamish.core.clock import Timer

log = structlog.get_logger(__name__)

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE push_registration (id {pk}, owner TEXT NOT NULL, service TEXT NOT NULL, node TEXT NOT NULL, "
            "resource TEXT NOT NULL, options {bytes} NOT NULL, enabled {timestamp} NOT NULL, "
            "unread INTEGER NOT NULL DEFAULT 0, told INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0, "
            "tried {timestamp}, answer TEXT NOT NULL DEFAULT '', UNIQUE (owner, service, node))",
        ),
    ),
)
_PAGE: Final = 2_000
_LOAD: Final = (
    "SELECT id, owner, service, resource, unread, told, failures FROM push_registration "
    "WHERE id > ? ORDER BY id LIMIT ?"
)
_ENABLE: Final = (
    "INSERT INTO push_registration (owner, service, node, resource, options, enabled) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (owner, service, node) DO UPDATE SET resource = excluded.resource, options = excluded.options, "
    "enabled = excluded.enabled, unread = 0, told = 0, failures = 0 RETURNING id"
)
_NOTE: Final = "UPDATE push_registration SET unread = ?, told = ?, failures = ? WHERE id = ?"
_ANSWERED: Final = "UPDATE push_registration SET unread = ?, told = ?, failures = ?, tried = ?, answer = ? WHERE id = ?"


class Registration:
    """One device of an account, or more exactly a node of a push service; what it is to be told, and what it was told.

    `resource` is that of the session that asked for it last: as long as it is there the device is. `unread` messages are
    waiting for it, of which it was `told`. `failures` counts in a row. About 600 bytes of memory; node and options stay on
    disk.
    """

    __slots__ = (
        "account",
        "asked",
        "away",
        "body",
        "busy",
        "due",
        "failures",
        "id",
        "next",
        "queued",
        "renewed",
        "resource",
        "sender",
        "service",
        "timer",
        "told",
        "unread",
        "visits",
    )

    def __init__(self, id: int, account: JID, service: JID, resource: str) -> None:
        self.id = id
        self.account = account
        self.service = service
        self.resource = resource
        self.unread = self.told = self.failures = 0
        self.sender = self.body = ""
        """Of the newest message, as far as it is to be told."""
        self.asked = False
        """Somebody asked for the user's presence."""
        self.away = False
        """Its session is there, but its client does not answer."""
        self.due = self.busy = self.queued = False
        """There is something to tell; a notification is under way; it waits for others'."""
        self.next = 0.0
        """When the next notification may go out, by the monotonic clock."""
        self.timer: Timer | None = None
        self.visits = 0
        """Counts how often the device was there again, and ..."""
        self.renewed = 0
        """... how often it asked for notifications, to tell what is out of date."""

    def dismiss(self) -> None:
        """There is nothing to tell any more."""
        self.due = self.asked = False
        self.sender = self.body = ""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Store:
    """All registrations, by account."""

    def __init__(self, db: Database, some: Callable[[bool], None]) -> None:
        self._db = db
        self._some = some
        self.of: dict[str, tuple[Registration, ...]] = {}
        """For reading only."""
        self._services: dict[str, JID] = {}
        self._enabling: Counter[tuple[str, str, str]] = Counter()
        """Account, service and node of the registrations that are being stored."""

    async def load(self) -> list[Registration]:
        """Read all of them at the start; those that have something to be told of before."""
        last, left = 0, []
        while rows := await self._db.fetch(_LOAD, last, _PAGE):
            for id_, owner, service, resource, unread, told, failures in rows:
                last = int(id_)
                made = self._enter(last, JID.parse(owner), JID.parse(service), resource)
                made.unread, made.told, made.failures = int(unread), int(told), int(failures)
                if made.unread > made.told:
                    left.append(made)
        self._some(bool(self.of))
        return left

    def _enter(self, id: int, account: JID, service: JID, resource: str) -> Registration:
        service = self._services.setdefault(service, service) if len(self._services) < _PAGE else service
        made = Registration(id, account, service, resource)
        self.of[account] = (*self.of.get(account, ()), made)
        return made

    async def enable(
        self, account: JID, resource: str, address: Address, options: bytes, now: float, most: int
    ) -> tuple[bool, int]:
        """Store a registration; whether it was not there before, and how many others had to go for it, the oldest ones."""
        owner = str(account)
        key = account, address.service, address.node

        def txn(c: Cursor) -> tuple[int, list[int]]:
            id_ = int(c.rows(_ENABLE, owner, str(address.service), address.node, resource, options, now)[0][0])
            too_many = c.rows(
                "SELECT id FROM push_registration WHERE owner = ? AND id <> ? ORDER BY enabled DESC, id DESC "
                "LIMIT -1 OFFSET ?",
                *(owner, id_, most - 1),
            )
            for (old,) in too_many:
                c.run("DELETE FROM push_registration WHERE id = ?", old)
            return id_, [int(old) for (old,) in too_many]

        self._enabling[key] += 1
        try:
            id_, gone = await self._db.write("push.enable", txn)
        finally:
            self._enabling[key] -= 1
            self._enabling += Counter()  # without those that are at nought
        self._forget(account, gone)
        one = next((r for r in self.of.get(account, ()) if r.id == id_), None)
        new = one is None
        if one is None:
            one = self._enter(id_, account, address.service, resource)
            self._some(True)
        one.resource = resource
        one.renewed += 1
        one.unread = one.told = one.failures = 0
        one.visits += 1
        one.away = False
        one.dismiss()
        return new, len(gone)

    async def disable(self, account: JID, service: JID | None = None, node: str | None = None) -> int:
        """Remove what an account has with a service and node, or with any; how many those were."""

        def txn(c: Cursor) -> list[int]:
            where, params = "owner = ?", [str(account)]
            if service is not None:
                where, params = f"{where} AND service = ?", [*params, str(service)]
            if node is not None:
                where, params = f"{where} AND node = ?", [*params, node]
            return [int(id_) for (id_,) in c.rows(f"DELETE FROM push_registration WHERE {where} RETURNING id", *params)]

        gone = await self._db.write("push.disable", txn)
        self._forget(account, gone)
        return len(gone)

    def remove(self, one: Registration) -> None:
        """Remove a registration that its service refuses."""
        self._forget(one.account, (one.id,))
        try:
            self._db.append("push.remove", "DELETE FROM push_registration WHERE id = ?", (one.id,), lazy=True)
        except StorageError as exc:  # then it is refused once more after the next start
            log.warning("push_registration_stays", jid=str(one.account), error=repr(exc))

    def _forget(self, account: JID, gone: Collection[int]) -> None:
        left = []
        for one in self.of.get(account, ()):
            if one.id in gone:
                one.dismiss()
            else:
                left.append(one)
        if left:
            self.of[account] = tuple(left)
        elif self.of.pop(account, None) is not None and not self.of:
            self._some(False)

    def holds(self, one: Registration, node: str) -> bool:
        """Whether the registration, of this node, is still there, and not just being made anew."""
        if (one.account, one.service, node) in self._enabling:
            return False
        return one in self.of.get(one.account, ())

    async def address(self, one: Registration) -> tuple[str, bytes] | None:
        """Its node and publish options; None if it has just been removed."""
        rows = await self._db.fetch("SELECT node, options FROM push_registration WHERE id = ?", one.id)
        return (rows[0][0], bytes(rows[0][1])) if rows else None

    def note(self, one: Registration, tried: float | None = None, answer: str = "") -> None:
        """Write down what a registration was told and, with a time, what its service said. Nobody waits for it."""
        state = (one.unread, one.told, one.failures)
        try:
            if tried is None:
                self._db.append("push.note", _NOTE, (*state, one.id), lazy=True)
            else:
                self._db.append("push.note", _ANSWERED, (*state, tried, answer, one.id), lazy=True)
        except StorageError as exc:  # after a restart somebody may be told twice
            log.warning("push_state_not_stored", jid=str(one.account), error=repr(exc))

    async def listed(self, account: JID) -> list[dict[str, Any]]:
        """What the commands show of an account's registrations, the newest last."""
        await self._db.flushed()
        rows = await self._db.fetch(
            "SELECT service, node, resource, enabled, unread, told, failures, tried, answer FROM push_registration "
            "WHERE owner = ? ORDER BY enabled, id LIMIT 1000",
            str(account),
        )
        names = ("service", "node", "resource", "enabled", "unread", "told", "failures", "tried", "answer")
        return [dict(zip(names, row, strict=True)) for row in rows]
