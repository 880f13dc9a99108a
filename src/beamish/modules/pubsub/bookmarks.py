"""XEP-0402 §4: bookmarks as items of their own (`urn:xmpp:bookmarks:1`) and as one list (XEP-0048 in a node) are kept alike.

A change of either form is carried over to the other, which is written only if it says something else; so a change comes to
rest after one step. A node that others may read is never written to. Web addresses exist only in the list, extensions only
in the items; both survive.
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
    for id_, payload in items.items():
        source = _parsed(payload)
        if source is None or source.tag != f"{{{NATIVE}}}conference":
            continue
        attrs = {"jid": id_, "name": source.get("name"), "autojoin": source.get("autojoin")}
        storage.append(make(f"{{{LEGACY}}}conference", attrs, *_copied(source, NATIVE, LEGACY)))
    old = None if before is None else _parsed(before)
    if old is not None:
        for child in old:
            if isinstance(child.tag, str) and local_name(child) != "conference":
                storage.append(child)
    return to_bytes(storage)


def to_native(storage: bytes, items: dict[str, bytes]) -> dict[str, bytes]:
    """The items that say what the list says, with the extensions of the items that were there before."""
    found: dict[str, bytes] = {}
    root = _parsed(storage)
    if root is None:
        return found
    for source in root.iterfind(f"{{{LEGACY}}}conference"):
        try:
            room = JID.parse(source.get("jid", "")).bare
        except ValueError:
            continue
        attrs = {"name": source.get("name"), "autojoin": source.get("autojoin")}
        target = make(f"{{{NATIVE}}}conference", attrs, *_copied(source, LEGACY, NATIVE))
        before = _parsed(items[room]) if room in items else None
        extensions = None if before is None else before.find(f"{{{NATIVE}}}extensions")
        add(target, [extensions])
        found[str(room)] = to_bytes(target)
    return found


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
        gone = [id_ for id_ in before if id_ not in after]
        for id_, data in fresh.items():
            await self._pep.publish(user, NATIVE, {id_: data}, NATIVE_OPTIONS)
        if gone:
            await self._pep.retract(user, NATIVE, gone)
