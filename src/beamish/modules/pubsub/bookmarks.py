"""XEP-0402 §4: bookmarks as items of their own (`urn:xmpp:bookmarks:1`) and as one list (XEP-0048 in a node) are kept alike.

A change of either form is carried over to the other, which is written only if it says something else. What is written here is
not carried back, and an account's changes are carried over one after the other: otherwise two devices that write at the same
time would have each other's half-told lists made into items, and lose the rooms that these lack. A node that others may read
is never written to. Web addresses exist only in the list, extensions only in the items; both survive. Rooms are told apart by
their prepared addresses, however a client writes them.

Whoever changes one form gets the answer when the other one is written too. A crash in between may leave them apart; the next
change brings them together, and what only the list has by then becomes items instead of being dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

import structlog
from lxml import etree

from beamish.core.events import Published
from beamish.core.services import PepService
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element, add, from_bytes, local_name, make, to_bytes

log = structlog.get_logger(__name__)

NATIVE: Final = "urn:xmpp:bookmarks:1"
LEGACY: Final = "storage:bookmarks"
FEATURE: Final = f"{NATIVE}#compat-pep"
CURRENT: Final = "current"
"""The id of the one item of the list (XEP-0048 §3)."""
NATIVE_OPTIONS: Final = {
    "persist_items": "true",
    "max_items": "max",
    "send_last_published_item": "never",
    "access_model": "whitelist",
}
LEGACY_OPTIONS: Final = {"persist_items": "true", "access_model": "whitelist"}
_PRIVATE: Final = (None, "whitelist")
_KEPT: Final = ("nick", "password")


def to_legacy(items: dict[str, bytes], before: bytes | None) -> bytes:
    """The list that says what the items say, with the web addresses of the list that was there before."""
    storage = make(f"{{{LEGACY}}}storage")
    for room, id_ in _rooms(items).items():
        source = _parsed(items[id_])
        if source is None or source.tag != f"{{{NATIVE}}}conference":
            continue
        attrs = {"jid": room, "name": source.get("name"), "autojoin": source.get("autojoin")}
        storage.append(make(f"{{{LEGACY}}}conference", attrs, *_copied(source, NATIVE, LEGACY)))
    old = None if before is None else _parsed(before)
    if old is not None:
        for child in old:
            if isinstance(child.tag, str) and local_name(child) != "conference":
                storage.append(child)
    return to_bytes(storage)


def to_native(storage: bytes, items: dict[str, bytes]) -> dict[str, bytes]:
    """The items that say what the list says, with the ids and extensions of the items that were there before."""
    found: dict[str, bytes] = {}
    root = _parsed(storage)
    if root is None:
        return found
    known = _rooms(items)
    for source in root.iterfind(f"{{{LEGACY}}}conference"):
        room = _room(source.get("jid", ""))
        if not room:
            continue
        id_ = known.get(room, room)
        attrs = {"name": source.get("name"), "autojoin": source.get("autojoin")}
        target = make(f"{{{NATIVE}}}conference", attrs, *_copied(source, LEGACY, NATIVE))
        before = _parsed(items[id_]) if id_ in items else None
        extensions = None if before is None else before.find(f"{{{NATIVE}}}extensions")
        add(target, [extensions])
        found[id_] = to_bytes(target)
    return found


def gone(items: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """The items that are in the list no longer. What is no address of a room never was in it, and stays."""
    left = {_room(id_) for id_ in after}
    return [id_ for id_ in items if (room := _room(id_)) and room not in left]


def _room(address: str) -> str:
    """The prepared address of a room, "" for what is none."""
    try:
        return str(JID.parse(address).bare)
    except ValueError:
        return ""


def _rooms(items: dict[str, bytes]) -> dict[str, str]:
    """Room → the id of its item; the newest one if a room was written in several ways."""
    return {room: id_ for id_ in items if (room := _room(id_))}


def _copied(source: Element, from_: str, to: str) -> list[Element]:
    copies = []
    for name in _KEPT:
        text = source.findtext(f"{{{from_}}}{name}")
        if text is not None:
            copies.append(make(f"{{{to}}}{name}", None, text))
    return copies


def _parsed(data: bytes) -> Element | None:
    try:
        return from_bytes(data)
    except ValueError:
        return None


def same(one: bytes, other: bytes) -> bool:
    """Whether two payloads say the same, however they are written."""
    if one == other:
        return True
    a, b = _parsed(one), _parsed(other)
    return a is not None and b is not None and etree.tostring(a, method="c14n2") == etree.tostring(b, method="c14n2")


def same_list(one: bytes, other: bytes) -> bool:
    """Whether two lists say the same of the same rooms, in whatever order, and hold the same beside rooms."""
    return one == other or _said(one) == _said(other)


def _said(storage: bytes) -> tuple[dict[str, tuple[str | None, ...]], list[bytes]] | None:
    root = _parsed(storage)
    if root is None:
        return None
    rooms: dict[str, tuple[str | None, ...]] = {}
    rest = []
    for child in root:
        if child.tag == f"{{{LEGACY}}}conference":
            texts = (child.findtext(f"{{{LEGACY}}}{name}") for name in _KEPT)
            if room := _room(child.get("jid", "")):
                rooms[room] = (child.get("name"), child.get("autojoin"), *texts)
        elif isinstance(child.tag, str):
            rest.append(to_bytes(child))
    return rooms, rest


class _Turn:
    """Changes of one account that are yet to be carried over, and the lock behind which that is done, by the task `writer`.

    `told` counts them, `done` is up to which they were taken, `waiting` says how many have no answer yet. `storage` is the
    newest list that a client wrote; `changed` and `removed` are rooms whose items were; `emptied`: all items went at once.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.writer: asyncio.Task[object] | None = None
        self.waiting = 0
        self.told = 0
        self.done = 0
        self.storage: bytes | None = None
        self.changed: set[str] = set()
        self.removed: set[str] = set()
        self.emptied = False

    def note(self, event: Published) -> int:
        """Enter a change; its number."""
        if event.node == NATIVE:
            self.emptied = self.emptied or event.purged
            gone = {_room(id_) for id_ in event.removed}
            self.removed |= gone
            self.changed -= gone
            for id_, _ in event.items:
                self.changed.add(_room(id_))
                self.removed.discard(_room(id_))
        else:
            self.storage = event.items[-1][1]
        self.told += 1
        return self.told

    def take(self) -> _Turn:
        """What is to be carried over now; nothing of it is left here."""
        taken = _Turn()
        taken.storage, self.storage = self.storage, None
        taken.changed, self.changed = self.changed, set()
        taken.removed, self.removed = self.removed, set()
        taken.emptied, self.emptied = self.emptied, False
        self.done = self.told
        return taken


class Bookmarks:
    """Carries changes of one form over to the other."""

    def __init__(self, pep: PepService) -> None:
        self._pep = pep
        self._turns: dict[JID, _Turn] = {}

    def published(self, event: Published) -> Awaitable[None] | None:
        """An account's node changed."""
        if event.node not in (NATIVE, LEGACY) or (event.node == LEGACY and not event.items):
            return None
        turn = self._turns.setdefault(event.user, _Turn())
        if turn.writer is not None and turn.writer is asyncio.current_task():
            return None  # what is told is what was carried over
        turn.waiting += 1
        return self._carry_over(event.user, turn, turn.note(event))

    async def _carry_over(self, user: JID, turn: _Turn, number: int) -> None:
        try:
            async with turn.lock:
                if turn.done < number:  # else it went with an earlier one
                    turn.writer = asyncio.current_task()
                    await self._settle(user, turn)
        except StanzaError as error:
            # a limit of the other node; the change itself stands
            log.warning("bookmarks_not_converted", user=str(user), error=str(error))
        finally:
            if turn.writer is asyncio.current_task():
                turn.writer = None
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[user]

    async def _settle(self, user: JID, turn: _Turn) -> None:
        before = (await self._pep.items(user, LEGACY)).get(CURRENT)
        items = await self._pep.items(user, NATIVE)
        change = turn.take()  # what is in it was committed before this was read, or is told again
        if change.storage is not None:
            before = change.storage
            wanted = to_native(before, items)
            # whoever wrote the list may not have known of an item that is as new
            removed = [id_ for id_ in gone(items, wanted) if _room(id_) not in change.changed]
        else:
            listed = {} if before is None or change.emptied else to_native(before, items)
            wanted = {i: data for i, data in listed.items() if i not in items and _room(i) not in change.removed}
            removed = []
        without = frozenset(removed)
        after = {id_: data for id_, data in items.items() if id_ not in without} | wanted
        fresh = {id_: data for id_, data in wanted.items() if id_ not in items or not same(items[id_], data)}
        try:
            if (fresh or removed) and await self._pep.access(user, NATIVE) in _PRIVATE:
                for id_, data in fresh.items():  # one by one: clients look at one item of a notification
                    await self._pep.publish(user, NATIVE, {id_: data}, NATIVE_OPTIONS)
                await self._pep.retract(user, NATIVE, removed)
        finally:
            await self._write_list(user, after, before)

    async def _write_list(self, user: JID, items: dict[str, bytes], before: bytes | None) -> None:
        if (before is None and not items) or await self._pep.access(user, LEGACY) not in _PRIVATE:
            return
        after = to_legacy(items, before)
        if before is None or not same_list(before, after):
            await self._pep.publish(user, LEGACY, {CURRENT: after}, LEGACY_OPTIONS)
