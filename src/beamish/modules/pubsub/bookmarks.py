"""XEP-0402 §4: bookmarks as items of their own (`urn:xmpp:bookmarks:1`) and as one list (XEP-0048 in a node) are kept alike.

A change of either form is carried over to the other, which is written only if it says something else; so a change comes to
rest after one step. A node that others may read is never written to. Web addresses exist only in the list, extensions only
in the items; both survive. Rooms are told apart by their prepared addresses, however a client writes them.

Whoever changes one form gets the answer when the other one is written too. A crash in between may leave them apart, but
nothing that was acknowledged is lost by that, and the next change of either brings them together.
"""

from __future__ import annotations

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


class Bookmarks:
    """Carries changes of one form over to the other."""

    def __init__(self, pep: PepService) -> None:
        self._pep = pep

    def published(self, event: Published) -> Awaitable[None] | None:
        """An account's node changed."""
        return self._convert(event) if event.node in (NATIVE, LEGACY) else None

    async def _convert(self, event: Published) -> None:
        try:
            if event.node == NATIVE:
                await self._write_list(event.user)
            elif event.node == LEGACY and event.items:
                await self._write_items(event.user, event.items[-1][1])
        except StanzaError as error:
            # a limit of the other node; the change itself stands
            log.warning("bookmarks_not_converted", user=str(event.user), error=str(error))

    async def _write_list(self, user: JID) -> None:
        if await self._pep.access(user, LEGACY) not in _PRIVATE:
            return
        items = await self._pep.items(user, NATIVE)
        before = (await self._pep.items(user, LEGACY)).get(CURRENT)
        after = to_legacy(items, before)
        if before is None and not items:
            return
        if before is None or not same(before, after):
            await self._pep.publish(user, LEGACY, {CURRENT: after}, LEGACY_OPTIONS)

    async def _write_items(self, user: JID, storage: bytes) -> None:
        if await self._pep.access(user, NATIVE) not in _PRIVATE:
            return
        before = await self._pep.items(user, NATIVE)
        after = to_native(storage, before)
        fresh = {id_: data for id_, data in after.items() if id_ not in before or not same(before[id_], data)}
        for id_, data in fresh.items():
            await self._pep.publish(user, NATIVE, {id_: data}, NATIVE_OPTIONS)
        await self._pep.retract(user, NATIVE, gone(before, after))
