"""Pages of an archive: what a query asks (XEP-0313 §4), and the rows that answer it, at a cost that does not grow.

A page is found by seeking into `mam_by_account` or `mam_by_chat` (or the full-text table) and reading its rows, whatever
the archive's size. Counts come from counters where nothing but the contact is asked for; other counts stop at a bound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from beamish.storage.api import Cursor
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.payload import rsm

MAX_WORDS: Final = 20
PAGE_BYTES: Final = 1_048_576
"""A page ends with the message that makes it larger than this; a client that reads slowly is cut off at some multiple."""
_AT_ONCE: Final = 32
"""Messages read at once, so that a page of the largest ones does not fill the memory."""
COUNTED: Final = 10_000
"""A number of results above this is told only where it is known anyway."""
_TOP: Final = (1 << 63) - 1
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
    end: int = _TOP
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


_COLUMNS = "m.id, m.salt, m.kind, m.wire"


@dataclass(frozen=True, slots=True)
class _Source:
    """Where messages are found: `FROM … WHERE` without bounds, the values in it, the column that holds the number.

    All numbers are above `floor`. `count` is enough of the SQL to count by, with as many of the values.
    """

    sql: str
    values: list[Any]
    key: str
    floor: int = -1
    count: str = ""
    counted: int = 0


class _Part:
    """The part of the archive that a query names, as conditions for SQL."""

    def __init__(self, c: Cursor, query: Query) -> None:
        self._c = c
        self._query = query
        self.account = c.value("SELECT num FROM mam_account WHERE jid = ?", query.owner)
        self.indexed = int(c.value("SELECT indexed FROM mam_state"))
        self.low = query.start - 1
        self.high = query.end
        if query.after_id is not None:
            self.low = max(self.low, self.place(query.after_id))
        if query.before_id is not None:
            self.high = min(self.high, self.place(query.before_id))
        self.chat: int | None = None
        if query.with_bare and self.account is not None:
            self.chat = c.value(
                "SELECT num FROM mam_chat WHERE account = ? AND peer = ?", self.account, query.with_bare
            )
        self.match = match_of(query.text, self.account, query.with_bare, self.chat, query.with_resource)
        self.whole = self.low <= 0 and self.high == _TOP

    def place(self, id_: tuple[int, int]) -> int:
        """The number of an id, which must be in the archive (§4.1.3, §4.3.2). Raises `StanzaError(item-not-found)`."""
        number, salt = id_
        found = self._c.value(
            "SELECT 1 FROM mam_message WHERE id = ? AND salt = ? AND owner = ?", number, salt, self._query.owner
        )
        if found is None:
            raise missing()
        return number

    def sources(self) -> list[_Source]:
        """The indexed part and the rest, in order of time; `m` is the message."""
        query = self._query
        found: list[_Source] = []
        also, values = "", []
        if query.with_resource:
            also, values = " AND m.resource = ?", [query.with_resource]
        if self.match:
            # the word for the account keeps others' messages out; the owner is compared all the same
            source = "mam_text e CROSS JOIN mam_message m ON m.id = e.rowid WHERE mam_text MATCH ? AND m.owner = ?"
            number = "mam_text e WHERE mam_text MATCH ?"
            return [_Source(source, [self.match, query.owner], "e.rowid", count=number, counted=1)]
        join = "e CROSS JOIN mam_message m ON m.id = e.id WHERE"
        if query.with_resource:
            if self.chat is not None:
                known = int(self._c.value("SELECT resource_upto FROM mam_chat WHERE num = ?", self.chat))
                entry = "mam_by_resource e {}WHERE e.chat = ? AND e.resource = ?"
                found.append(
                    _Source(
                        entry.format("CROSS JOIN mam_message m ON m.id = e.id "),
                        [self.chat, query.with_resource],
                        "e.id",
                        count=entry.format(""),
                        counted=2,
                    )
                )
                found.append(_Source(f"mam_by_chat {join} e.chat = ?{also}", [self.chat, *values], "e.id", known))
        elif query.with_bare:
            if self.chat is not None:
                number = "mam_by_chat e WHERE e.chat = ?"
                found.append(_Source(f"mam_by_chat {join} e.chat = ?", [self.chat], "e.id", count=number, counted=1))
        elif self.account is not None:
            number = "mam_by_account e WHERE e.account = ?"
            found.append(
                _Source(f"mam_by_account {join} e.account = ?", [self.account], "e.id", count=number, counted=1)
            )
        peer = [query.with_bare] if query.with_bare else []
        found.append(
            _Source(
                f"mam_message m WHERE m.owner = ?{' AND m.peer = ?' * len(peer)}{also}",
                [query.owner, *peer, *values],
                "m.id",
                self.indexed,
            )
        )
        return found

    def rows(self, low: int, high: int, limit: int, *, backwards: bool, skip: int = 0) -> list[tuple[Any, ...]]:
        """Messages with low < id < high, in the order of paging."""
        found: list[tuple[Any, ...]] = []
        parts = self.sources()
        for part in reversed(parts) if backwards else parts:
            want = limit + skip - len(found)
            if want <= 0:
                break
            key = part.key
            found += self._c.rows(
                f"SELECT {_COLUMNS} FROM {part.sql} AND {key} > ? AND {key} < ? "
                f"ORDER BY {key} {'DESC' if backwards else 'ASC'} LIMIT ?",
                *part.values,
                max(low, part.floor),
                high,
                want,
            )
        return found[skip:]

    def count(self, low: int, high: int, most: int) -> int | None:
        """How many messages there are with low < id < high, None if more than `most`."""
        total = 0
        for part in self.sources():
            sql, values = (part.count, part.values[: part.counted]) if part.count else (part.sql, part.values)
            key = part.key
            total += self._c.value(
                f"SELECT COUNT(*) FROM (SELECT 1 FROM {sql} AND {key} > ? AND {key} < ? LIMIT ?)",
                *values,
                max(low, part.floor),
                high,
                most + 1 - total,
            )
            if total > most:
                return None
        return total

    def known_count(self) -> int | None:
        """The number of messages, if counters know it."""
        query = self._query
        if not self.whole or self.match or query.with_resource:
            return None
        known = 0
        if query.with_bare:
            if self.chat is not None:
                known = self._c.value("SELECT messages FROM mam_chat WHERE num = ?", self.chat)
        elif self.account is not None:
            known = self._c.value("SELECT messages FROM mam_account WHERE num = ?", self.account)
        fresh = self.sources()[-1]
        more = self._c.value(f"SELECT COUNT(*) FROM {fresh.sql} AND m.id > ?", *fresh.values, fresh.floor)
        return int(known) + int(more)


def page(c: Cursor, query: Query) -> Result:
    """The page that a query asks for. Raises `StanzaError(item-not-found)` for ids that are not in the archive."""
    if query.ids is not None:
        return _chosen(c, query)
    part = _Part(c, query)
    asked = query.page
    if asked.max == 0:
        count = part.known_count()
        return Result((), False, part.count(part.low, part.high, _TOP - 1) if count is None else count)
    count = part.known_count()
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
    found, complete = _read(part, query, low, high, size, backwards, skip)
    if backwards:
        found.reverse()
    index = None
    # COMPAT slixmpp 1.17: reading backwards it takes index + size = count for the end, so there it is left out
    if found and not backwards and count is not None and count <= COUNTED:
        index = part.count(part.low, found[0][0], COUNTED)
    return Result(tuple(_row(row) for row in found), complete, count, index)


def _read(
    part: _Part, query: Query, low: int, high: int, size: int, backwards: bool, skip: int
) -> tuple[list[tuple[Any, ...]], bool]:
    """The rows of a page in the order of paging, and whether they are all that is left."""
    found: list[tuple[Any, ...]] = []
    total = 0
    while True:
        want = min(_AT_ONCE, size + 1 - len(found))
        more = part.rows(low, high, want, backwards=backwards, skip=skip)
        skip = 0
        for row in more:
            if len(found) == size or (found and total + len(row[3]) > query.max_bytes):
                return found, False
            found.append(row)
            total += len(row[3])
        if len(more) < want:
            return found, True
        if backwards:
            high = more[-1][0]
        else:
            low = more[-1][0]


def _chosen(c: Cursor, query: Query) -> Result:
    """Messages by id (§4.1.3), in their order; all of them must be there."""
    assert query.ids is not None
    found: list[Row] = []
    total = 0
    for number, salt in sorted(set(query.ids)):
        row = c.row(
            f"SELECT {_COLUMNS} FROM mam_message m WHERE m.id = ? AND m.salt = ? AND m.owner = ?",
            number,
            salt,
            query.owner,
        )
        if row is None:
            raise missing()
        found.append(_row(row))
        total += len(row[3])
        if total > query.max_bytes and len(found) > 1:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="too much at once, ask for fewer messages")
    return Result(tuple(found), True, len(found), 0 if found else None)


def _row(row: tuple[Any, ...]) -> Row:
    return Row(int(row[0]), int(row[1]), int(row[2]), bytes(row[3]))


def ends(c: Cursor, owner: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Number and salt of the oldest and the newest message, None for an empty archive (§5)."""
    part = _Part(c, Query(owner))
    first = part.rows(0, _TOP, 1, backwards=False)
    last = part.rows(0, _TOP, 1, backwards=True)
    if not first or not last:
        return None
    return (int(first[0][0]), int(first[0][1])), (int(last[0][0]), int(last[0][1]))


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
