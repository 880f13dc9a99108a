"""XEP-0059: result set management: what page a peer asks for, and what page it gets.

`page` serves result sets that are held in memory; stores that page in SQL read the same `Request` and answer with the
same `Page`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.xml import Element, make

SET: Final = f"{{{ns.RSM}}}set"
_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Request:
    """A page that was asked for (XEP-0059 §2).

    `max` is None if no limit was named. `after` and `before` are ids of items; `before` is "" for the last page.
    `index` asks by position (§2.6).
    """

    max: int | None = None
    after: str | None = None
    before: str | None = None
    index: int | None = None

    @classmethod
    def from_xml(cls, parent: Element) -> Request | None:
        """The request among the children of `parent`, None if there is none. Raises `StanzaError(bad-request)`."""
        el = parent.find(SET)
        if el is None:
            return None
        after = el.find(f"{{{ns.RSM}}}after")
        before = el.find(f"{{{ns.RSM}}}before")
        if after is not None and before is not None and before.text:
            raise StanzaError(Condition.BAD_REQUEST, text="a page is after or before an item, not both")
        return cls(
            _number(el, "max"),
            after.text or "" if after is not None else None,
            before.text or "" if before is not None else None,
            _number(el, "index"),
        )

    def limit(self, most: int) -> int:
        """The size of the page: what was asked for, at most `most`."""
        return most if self.max is None else min(self.max, most)


def _number(el: Element, name: str) -> int | None:
    text = el.findtext(f"{{{ns.RSM}}}{name}")
    if text is None:
        return None
    text = text.strip()
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS:
        raise StanzaError(Condition.BAD_REQUEST, text=f"{name} is not a number")
    return int(text)


@dataclass(frozen=True, slots=True)
class Page:
    """What tells the peer which page it got. `first` and `last` are None for an empty page; unknown numbers are None."""

    first: str | None = None
    last: str | None = None
    count: int | None = None
    index: int | None = None

    def to_xml(self) -> Element:
        """The `<set/>` element."""
        el = make(SET)
        if self.first is not None and self.last is not None:
            index = None if self.index is None else str(self.index)
            el.append(make(f"{{{ns.RSM}}}first", {"index": index}, self.first))
            el.append(make(f"{{{ns.RSM}}}last", None, self.last))
        if self.count is not None:
            el.append(make(f"{{{ns.RSM}}}count", None, str(self.count)))
        return el


def page(ids: Sequence[str], request: Request | None, most: int) -> tuple[range, Page]:
    """Which positions of a result set belong to the page asked for, at most `most` of them.

    `ids` are all items in their order, each once. Without a request it is the first `most`.
    Raises `StanzaError(item-not-found)` if `after` or `before` names nothing in the set (XEP-0059 §2.4).
    """
    total = len(ids)
    request = request or Request()
    size = request.limit(most)
    start, stop = 0, total
    if request.index is not None:
        start = min(request.index, total)
    if request.after is not None:
        start = _position(ids, request.after) + 1
    if request.before:
        stop = _position(ids, request.before)
    if request.before is not None and request.after is None:
        start = max(start, stop - size)
    where = range(start, max(start, min(stop, start + size)))
    if not where:
        return where, Page(count=total)
    return where, Page(ids[where[0]], ids[where[-1]], total, where[0])


def _position(ids: Sequence[str], wanted: str) -> int:
    try:
        return ids.index(wanted)
    except ValueError:
        raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such item to page from") from None
