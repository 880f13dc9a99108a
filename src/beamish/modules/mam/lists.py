"""Long lists of message numbers in the database: what was said in a conversation, or with one resource of a contact.

`Numbers` reads a list, wherever its numbers are: those of conversations are rows of `mam_list`, a hundred numbers in each;
those of a whole archive stand in the rows with its messages. Any part of a list is found by seeking; counting needs no
numbers. Rows are never empty, and their key is the first number in them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from beamish.core.gather import in_pieces, places
from beamish.modules.mam.packing import numbers_of, pack_numbers
from beamish.storage.api import Cursor

LIST_NUMBERS: Final = 100
"""Numbers in a row of a list: as many as fit into a page of the tree beside others."""
_ROWS: Final = 3
"""Rows read at once, at first."""
_ROWS_MOST: Final = 64
_COUNTED_ROWS: Final = 128
TOP: Final = (1 << 63) - 1


class Numbers:
    """One list of numbers, in order. All bounds are exclusive: low < number < high."""

    __slots__ = ("_c", "_count", "_data", "_key", "_of", "_table")

    def __init__(self, c: Cursor, table: str, of: str, key: str, count: str, data: str) -> None:
        """Rows of `table` where `of` holds; `count` is SQL for the numbers in a row, `data` the column they are in."""
        self._c = c
        self._table = table
        self._of = of
        self._key = key
        self._count = count
        self._data = data

    def between(self, low: int, high: int, limit: int, *, backwards: bool = False, skip: int = 0) -> list[int]:
        """At most so many numbers, from either end, after as many as are to be skipped; in the order of reading."""
        found: list[int] = []
        high = min(high, TOP)  # a time of the distant future
        if limit <= 0 or high <= low + 1:
            return found
        for numbers in self._rows(low, high, backwards, 2 + (limit + skip) // LIST_NUMBERS):
            inside = numbers[bisect_right(numbers, low) : bisect_left(numbers, high)]
            if skip >= len(inside):
                skip -= len(inside)
                continue
            found += (inside[::-1] if backwards else inside)[skip:]
            skip = 0
            if len(found) >= limit:
                break
        return found[:limit]

    def _rows(self, low: int, high: int, backwards: bool, at_once: int) -> Iterator[tuple[int, ...]]:
        most = min(max(at_once, _ROWS), _ROWS_MOST)
        start = self._at_or_before(low + 1)
        bounds = (low if start is None else start, high)
        columns = f"SELECT {self._key}, {self._count}, {self._data} FROM {self._table} WHERE {self._of}"
        order = "DESC" if backwards else "ASC"
        while True:
            rows = self._c.rows(
                f"{columns} AND {self._key} >= ? AND {self._key} < ? ORDER BY {self._key} {order} LIMIT ?",
                *bounds,
                most,
            )
            for _, count, data in rows:
                yield numbers_of(data, count)
            if len(rows) < most:
                return
            bounds = (bounds[0], rows[-1][0]) if backwards else (rows[-1][0] + 1, high)
            most = min(most * 2, _ROWS_MOST)

    def _at_or_before(self, number: int) -> int | None:
        """The key of the row that holds a number, if any does."""
        found = self._c.value(
            f"SELECT MAX({self._key}) FROM {self._table} WHERE {self._of} AND {self._key} <= ?", number
        )
        return None if found is None else int(found)

    def count(self, low: int, high: int, most: int = TOP) -> int | None:
        """How many numbers there are, None if more than `most`."""
        high = min(high, TOP)
        if high <= low + 1:
            return 0
        start = self._at_or_before(low + 1)
        last = self._c.row(
            f"SELECT {self._key}, {self._count}, {self._data} FROM {self._table} WHERE {self._of} AND {self._key} < ? "
            f"ORDER BY {self._key} DESC LIMIT 1",
            high,
        )
        if last is None:
            return 0
        total = _inside(last, low, high)
        if start is not None and start != last[0]:
            total += self._between_rows(start, last[0], most - total)
            first = self._c.row(
                f"SELECT {self._key}, {self._count}, {self._data} FROM {self._table} WHERE {self._of} AND {self._key} = ?",
                start,
            )
            assert first is not None
            total += _inside(first, low, high)
        elif start is None:
            total += self._between_rows(-1, last[0], most - total)
        return total if total <= most else None

    def _between_rows(self, after: int, before: int, most: int) -> int:
        """The numbers in all rows between two; it stops to count when they are more than `most`."""
        total = 0
        while total <= most:
            rows, numbers, last = self._c.row(  # type: ignore[misc]
                f"SELECT COUNT(*), COALESCE(SUM(n), 0), MAX(k) FROM (SELECT {self._key} AS k, {self._count} AS n FROM "
                f"{self._table} WHERE {self._of} AND {self._key} > ? AND {self._key} < ? ORDER BY {self._key} LIMIT ?)",
                after,
                before,
                _COUNTED_ROWS,
            )
            total += numbers
            if rows < _COUNTED_ROWS:
                break
            after = last
        return int(total)

    def first(self, low: int = -1) -> int | None:
        """The smallest number above `low`."""
        found = self.between(low, TOP, 1)
        return found[0] if found else None

    def last(self, high: int = TOP) -> int | None:
        """The largest number below `high`."""
        found = self.between(-1, high, 1, backwards=True)
        return found[0] if found else None


def _inside(row: Sequence[object], low: int, high: int) -> int:
    count, data = row[1], row[2]
    assert isinstance(count, int)
    assert isinstance(data, bytes)
    numbers = numbers_of(data, count)
    return bisect_left(numbers, high) - bisect_right(numbers, low)


def of_list(c: Cursor, list_: int) -> Numbers:
    """The list with this number in `mam_list`."""
    return Numbers(c, "mam_list", f"list = {list_:d}", "first", "LENGTH(numbers) / 8", "numbers")


def of_account(c: Cursor, account: int) -> Numbers:
    """All messages of an account, by its number."""
    return Numbers(c, "mam_chunk", f"account = {account:d}", "id", "messages", "head")


def append(c: Cursor, new: Mapping[int, Sequence[int]]) -> None:
    """Enter numbers into lists; each list's own must be in order. They are larger than all in it, as a rule."""
    ends: dict[int, list[tuple[int, ...]]] = {}
    for some, count in in_pieces([(list_, numbers[0]) for list_, numbers in new.items()]):
        for list_, data in c.rows(
            f"WITH w (list, low) AS (VALUES {places(2, count)}) SELECT w.list, l.numbers FROM w CROSS JOIN mam_list l "
            "ON l.list = w.list AND l.first >= COALESCE((SELECT MAX(first) FROM mam_list WHERE list = w.list AND "
            "first <= w.low), 0) ORDER BY l.list, l.first",
            *chain.from_iterable(some),
        ):
            ends.setdefault(list_, []).append(numbers_of(data, len(data) // 8))
    rows: list[tuple[int, int, bytes]] = []
    gone: list[tuple[int, int]] = []
    for list_, numbers in new.items():
        there = ends.get(list_, [])
        if len(there) == 1 and len(there[0]) >= LIST_NUMBERS and there[0][-1] < numbers[0]:
            there = []  # full: it stays as it is
        merged = list(chain(*there, numbers))
        if there and there[-1][-1] > numbers[0]:
            merged.sort()
        made = [merged[at : at + LIST_NUMBERS] for at in range(0, len(merged), LIST_NUMBERS)]
        rows += [(list_, part[0], pack_numbers(part)) for part in made]
        keys = {part[0] for part in made}
        gone += [(list_, part[0]) for part in there if part[0] not in keys]
    if gone:
        c.many("DELETE FROM mam_list WHERE list = ? AND first = ?", gone)
    rows.sort()
    c.many(
        "INSERT INTO mam_list (list, first, numbers) VALUES (?, ?, ?) "
        "ON CONFLICT (list, first) DO UPDATE SET numbers = excluded.numbers",
        rows,
    )


def cut(c: Cursor, list_: int, upto: int) -> None:
    """Take all numbers up to one, and it, out of a list."""
    found = c.row(
        "SELECT first, numbers FROM mam_list WHERE list = ? AND first <= ? ORDER BY first DESC LIMIT 1", list_, upto
    )
    if found is None:
        return
    c.run("DELETE FROM mam_list WHERE list = ? AND first <= ?", list_, upto)
    numbers = numbers_of(found[1], len(found[1]) // 8)
    _put(c, list_, numbers[bisect_right(numbers, upto) :])


def take_out(c: Cursor, list_: int, numbers: Collection[int]) -> None:
    """Take some numbers out of a list."""
    gone = set(numbers)
    while gone:
        found = c.row(
            "SELECT first, numbers FROM mam_list WHERE list = ? AND first <= ? ORDER BY first DESC LIMIT 1",
            list_,
            max(gone),
        )
        if found is None:
            return
        c.run("DELETE FROM mam_list WHERE list = ? AND first = ?", list_, found[0])
        _put(c, list_, [n for n in numbers_of(found[1], len(found[1]) // 8) if n not in gone])
        gone = {n for n in gone if n < found[0]}


def _put(c: Cursor, list_: int, numbers: Sequence[int]) -> None:
    if numbers:
        c.run("INSERT INTO mam_list (list, first, numbers) VALUES (?, ?, ?)", list_, numbers[0], pack_numbers(numbers))
