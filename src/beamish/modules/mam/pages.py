"""Pages of an archive: what a query asks (XEP-0313 §4), and the messages that answer it, at a cost that does not grow.

A page is found by seeking into a list of numbers (`lists`, or the full-text table) and reading the rows with these messages,
whatever the archive's size. Counts come from counters where nothing but the contact is asked for; other counts stop at
a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from beamish.modules.mam import lists
from beamish.modules.mam.store import by_resource, chat_of, located
from beamish.storage.api import Cursor
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.payload import rsm

MAX_WORDS: Final = 20
PAGE_BYTES: Final = 1_048_576
"""A page ends with the message that makes it larger than this; a client that reads slowly is cut off at some multiple."""
COUNTED: Final = 10_000
"""A number of results above this is told only where it is known anyway."""
_TERM = re.compile(r'"([^"]*)"|(\w+)')


_ANY_PAGE: Final = rsm.Request()


@dataclass(frozen=True, slots=True)
class Query:
    """A part of one account's archive, and a page of it.

    `start` and `end` are numbers (`ids.first_at`, `ids.first_after`): start ≤ id < end. `with_bare` and `with_resource`
    name the contact. `before_id`, `after_id` and `ids` are (number, salt). `page` is what XEP-0059 asks for.
    """

    owner: str
    with_bare: str = ""
    with_resource: str = ""
    start: int = 0
    end: int = lists.TOP
    before_id: tuple[int, int] | None = None
    after_id: tuple[int, int] | None = None
    ids: tuple[tuple[int, int], ...] | None = None
    text: str = ""
    page: rsm.Request = _ANY_PAGE
    page_after: tuple[int, int] | None = None
    page_before: tuple[int, int] | None = None
    size: int = 50
    max_bytes: int = PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Row:
    """One archived message."""

    id: int
    salt: int
    kind: int
    wire: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """A page, oldest first. `count` is the number of messages in the part asked for, None if there are too many to count."""

    rows: tuple[Row, ...]
    complete: bool
    count: int | None
    index: int | None = None


class _Part:
    """The part of the archive that a query names: its numbers, and the messages to them."""

    def __init__(self, c: Cursor, query: Query) -> None:
        self._c = c
        self.account: int | None = c.value("SELECT num FROM mam_account WHERE jid = ?", query.owner)
        self.low = min(query.start, lists.TOP) - 1  # times of the distant future have no numbers
        self.high = min(query.end, lists.TOP)
        if query.after_id is not None:
            self.low = max(self.low, self.place(query.after_id))
        if query.before_id is not None:
            self.high = min(self.high, self.place(query.before_id))
        self.chat: int | None = None
        if query.with_bare and self.account is not None:
            found = chat_of(c, self.account, query.with_bare)
            self.chat = None if found is None else found[0]
        self.match = match_of(query.text, self.account, query.with_bare, self.chat, query.with_resource)
        self.whole = self.low <= 0 and self.high == lists.TOP
        self._list = self._found(query)
        self._counted = not (query.with_resource or self.match)
        self._with = bool(query.with_bare)

    def _found(self, query: Query) -> lists.Numbers | None:
        """Where the numbers are; None if there are none, or if words are to be found."""
        if self.account is None or self.match or (query.with_bare and self.chat is None):
            return None
        if not query.with_bare:
            return lists.of_account(self._c, self.account)
        assert self.chat is not None
        if not query.with_resource:
            return lists.of_list(self._c, self.chat)
        num = self._c.value(
            "SELECT num FROM mam_resource WHERE chat = ? AND resource = ?", self.chat, query.with_resource
        )
        return None if num is None else lists.of_list(self._c, by_resource(num))

    def place(self, id_: tuple[int, int]) -> int:
        """The number of an id, which must be in the archive (§4.1.3, §4.3.2). Raises `StanzaError(item-not-found)`."""
        if not any(row.salt == id_[1] for row in self.rows((id_[0],))):
            raise missing()
        return id_[0]

    def rows(self, numbers: Iterable[int]) -> Iterator[Row]:
        """The messages with these numbers."""
        if self.account is not None:
            for chunk, at in located(self._c, self.account, numbers):
                yield Row(*chunk.row(at))

    def numbers(self, low: int, high: int, limit: int, *, backwards: bool = False, skip: int = 0) -> list[int]:
        """The numbers of messages with low < number < high, in the order of paging."""
        if self._list is not None:
            return self._list.between(low, high, limit, backwards=backwards, skip=skip)
        if not self.match:
            return []
        found = self._c.rows(
            "SELECT rowid FROM mam_text e WHERE mam_text MATCH ? AND rowid > ? AND rowid < ? "
            f"ORDER BY rowid {'DESC' if backwards else 'ASC'} LIMIT ? OFFSET ?",
            *(self.match, low, high, limit, skip),
        )
        return [int(number) for (number,) in found]

    def count(self, low: int, high: int, most: int) -> int | None:
        """How many messages there are with low < number < high, None if more than `most`."""
        if self._list is not None:
            return self._list.count(low, high, most)
        if not self.match:
            return 0
        found = self._c.value(
            "SELECT COUNT(*) FROM (SELECT 1 FROM mam_text e WHERE mam_text MATCH ? AND rowid > ? AND rowid < ? LIMIT ?)",
            *(self.match, low, high, most + 1),
        )
        return None if found > most else int(found)

    def known_count(self) -> int | None:
        """The number of messages, if counters know it."""
        if not self.whole or not self._counted:
            return None
        if self._list is None:
            return 0
        if self._with:
            return int(self._c.value("SELECT messages FROM mam_chat WHERE num = ?", self.chat))
        return int(self._c.value("SELECT messages FROM mam_account WHERE num = ?", self.account))


def page(c: Cursor, query: Query) -> Result:
    """The page that a query asks for. Raises `StanzaError(item-not-found)` for ids that are not in the archive.

    What it is about must be merged (`merging.merge`), and indexed by words or resource if it asks for such.
    """
    if query.ids is not None:
        return _chosen(c, query)
    part = _Part(c, query)
    asked = query.page
    count = part.known_count()
    if asked.max == 0:
        return Result((), False, part.count(part.low, part.high, lists.TOP - 1) if count is None else count)
    if count is None:
        count = part.count(part.low, part.high, COUNTED)
    low, high, skip = part.low, part.high, 0
    if query.page_after is not None:
        low = max(low, part.place(query.page_after))
    if query.page_before is not None:
        high = min(high, part.place(query.page_before))
    backwards = asked.before is not None
    if asked.index is not None and not backwards and asked.after is None:
        if asked.index > COUNTED:
            raise StanzaError(Condition.FEATURE_NOT_IMPLEMENTED, text="pages by number end at ten thousand")
        skip = asked.index
    size = asked.limit(query.size)
    numbers = part.numbers(low, high, size + 1, backwards=backwards, skip=skip)
    found, complete = _within(part.rows(numbers), size, query.max_bytes)
    if backwards:
        found.reverse()
    index = None
    # COMPAT slixmpp 1.17: reading backwards it takes index + size = count for the end, so there it is left out
    if found and not backwards and count is not None and count <= COUNTED:
        index = part.count(part.low, found[0].id, COUNTED)
    return Result(tuple(found), complete, count, index)


def _within(rows: Iterator[Row], size: int, max_bytes: int) -> tuple[list[Row], bool]:
    """As many messages as a page may have, and whether they are all."""
    found: list[Row] = []
    total = 0
    for row in rows:
        total += len(row.wire)
        if len(found) == size or (found and total > max_bytes):
            return found, False
        found.append(row)
    return found, True


def _chosen(c: Cursor, query: Query) -> Result:
    """Messages by id (§4.1.3), in their order; all of them must be there. What else is asked for holds for them, too (§4.1)."""
    assert query.ids is not None
    part = _Part(c, query)
    wanted = sorted(set(query.ids))
    found: list[Row] = []
    total = 0
    for row in part.rows([number for number, _ in wanted]):
        if (row.id, row.salt) != wanted[len(found)]:
            raise missing()
        found.append(row)
        total += len(row.wire)
        if total > query.max_bytes and len(found) > 1:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="too much at once, ask for fewer messages")
    if len(found) < len(wanted):
        raise missing()
    found = [row for row in found if part.low < row.id < part.high]
    if query.with_bare or part.match:
        found = [row for row in found if part.numbers(row.id - 1, row.id + 1, 1)]
    low = part.place(query.page_after) if query.page_after is not None else -1
    high = part.place(query.page_before) if query.page_before is not None else lists.TOP
    asked = query.page
    there = [at for at, row in enumerate(found) if low < row.id < high]
    size = len(found) if asked.max is None else asked.max
    if asked.before is not None:
        where = there[max(0, len(there) - size) :]
    else:
        skip = asked.index or 0 if asked.after is None else 0
        there = there[skip:]
        where = there[:size]
    complete = len(where) == len(there)
    return Result(tuple(found[at] for at in where), complete, len(found), where[0] if where else None)


def ends(c: Cursor, owner: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Number and salt of the oldest and the newest message, None for an empty archive (§5)."""
    part = _Part(c, Query(owner))
    first = part.numbers(-1, lists.TOP, 1)
    last = part.numbers(-1, lists.TOP, 1, backwards=True)
    found = [(row.id, row.salt) for row in part.rows((*first, *last))]
    return (found[0], found[1]) if len(found) == 2 else None


def match_of(text: str, account: int | None, contact: str = "", chat: int | None = None, resource: str = "") -> str:
    """An FTS5 expression: all words of a text, and what stands in double quotes as it stands, in one account; "" for none.

    With a `contact`, only what was said with it: `chat` is its number, if it has one, `resource` one of its resources.

    Nothing of the text reaches FTS5 as syntax. Words are compared without case and accents.
    """
    if not text:
        return ""
    words = [(phrase or word).replace('"', " ").strip() for phrase, word in _TERM.findall(text)]
    words = [word for word in words if any(ch.isalnum() for ch in word)][:MAX_WORDS]
    if not words:
        return 'account : "nobody"'  # nothing that could be found was asked for: no results (XEP-0431 leaves it open)
    terms = " AND ".join(f'"{word}"' for word in words)
    where = f'"c{chat or 0}"' if contact else f'"a{account or 0}"'  # a conversation has one account
    if resource:
        where = f'({where} AND "r{resource.encode().hex()}")'
    return f"account : {where} AND body : ({terms})"


def missing() -> StanzaError:
    """The error for an id that is not in the archive."""
    return StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such message in the archive")
