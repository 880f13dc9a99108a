"""How archived messages come from the log to where readers find them, in steps that nobody has to wait for long.

A step costs hardly more for many messages of one conversation than for one, so thousands are taken out of the log at once,
and those of each account filed together. Where they belong to so many accounts and conversations that filing them would hold
up the database for long, they are sorted by account first, into rows of `mam_part`, each of which is a later step. That is
all: the log, a part or the archive, each message is in one of them at any time, whatever is interrupted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain
from operator import itemgetter
from typing import Final

from beamish.core.gather import in_pieces, places
from beamish.modules.mam import lists, store
from beamish.modules.mam.packing import Chunk, Columns, Logged, pack_part
from beamish.storage.api import Cursor

MERGE_ROWS: Final = 8_000
"""Messages taken out of the log in one transaction: 15 to 30 ms of the writer's time."""
MERGE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of stanzas above which one transaction takes no more."""
MERGE_PLACES: Final = 512
"""Accounts and conversations, each of which costs about 20 µs, to which one transaction brings messages."""
PART_PLACES: Final = 256
"""The same for what is filed in parts because it is of more; an account with more conversations is one part all the same."""
_LOG_ROWS: Final = 64
"""Rows of the log looked at together; each is bounded by what a tick takes in."""


def merge(c: Cursor, max_messages: int, max_bytes: int, owner: str = "") -> tuple[bool, list[int]]:
    """Do the next step: whether there may be more, and the accounts that now exceed their quota.

    With an `owner`, rows of a former version are only that account's, so that it need not wait for those of all others.
    """
    fresh = Columns()
    part = c.row("SELECT id, messages, head, wires FROM mam_part ORDER BY id LIMIT 1")
    if part is not None:  # these are older than all that is elsewhere
        c.run("DELETE FROM mam_part WHERE id = ?", part[0])
        fresh.add_log(*part[1:])
        return True, _file(c, fresh.of_owners(), max_messages, max_bytes)
    more = _take_old(c, fresh, owner) or (_take_log_for(c, fresh, owner) if owner else _take_log(c, fresh))
    if not fresh.numbers:
        return more, []
    c.run("UPDATE mam_state SET indexed = MAX(indexed, ?)", max(fresh.numbers))
    by_owner = fresh.of_owners()
    parts = list(_parts(by_owner))
    if len(parts) == 1:
        return more, _file(c, by_owner, max_messages, max_bytes)
    c.many(
        "INSERT INTO mam_part (id, messages, head, wires) VALUES (?, ?, ?, ?)",
        [
            (at, sum(len(columns.numbers) for columns in some.values()), *pack_part(some))
            for at, some in enumerate(parts)
        ],
    )
    return True, []


def _parts(by_owner: Mapping[str, Columns]) -> Iterator[dict[str, Columns]]:
    """The owners in groups that are filed together."""
    places_of = {owner: 1 + len(set(columns.peers)) for owner, columns in by_owner.items()}
    most = MERGE_PLACES if sum(places_of.values()) <= MERGE_PLACES else PART_PLACES
    some: dict[str, Columns] = {}
    count = 0
    for owner, columns in by_owner.items():
        own = places_of[owner]
        if some and count + own > most:
            yield some
            some, count = {}, 0
        some[owner] = columns
        count += own
    yield some


def _file(c: Cursor, by_owner: Mapping[str, Columns], max_messages: int, max_bytes: int) -> list[int]:
    """Bring messages to their places; the accounts that now exceed their quota."""
    known = store.numbered(c, "mam_account", ("jid",), [(owner,) for owner in by_owner])
    by_account = {known[owner,]: columns for owner, columns in by_owner.items()}
    late = _fill_chunks(c, by_account)
    spoken = {
        (account, peer): numbers
        for account, columns in by_account.items()
        for peer, numbers in columns.said_with().items()
    }
    chats = store.numbered(c, "mam_chat", ("account", "peer"), list(spoken))
    lists.append(c, {chats[key]: numbers for key, numbers in spoken.items()})
    for some, count in in_pieces([(chats[key], len(numbers)) for key, numbers in spoken.items()]):
        c.run(
            f"WITH fresh (num, n) AS (VALUES {places(2, count)}) "
            "UPDATE mam_chat SET messages = messages + fresh.n FROM fresh WHERE mam_chat.num = fresh.num",
            *chain.from_iterable(some),
        )
    over: list[int] = []
    counted = [(num, len(columns.numbers), sum(map(len, columns.wires))) for num, columns in by_account.items()]
    for some_, count in in_pieces(counted):
        for account, messages, size in c.rows(
            f"WITH fresh (num, n, size) AS (VALUES {places(3, count)}) "
            "UPDATE mam_account SET messages = messages + fresh.n, bytes = bytes + fresh.size FROM fresh "
            "WHERE mam_account.num = fresh.num RETURNING mam_account.num, messages, bytes",
            *chain.from_iterable(some_),
        ):
            if messages > max_messages or size > max_bytes:
                over.append(account)
    names = {account: owner for (owner,), account in known.items()}
    for account in late:
        store.enter_late(c, account, names[account], by_account[account].numbers)
    return over


def _take_old(c: Cursor, fresh: Columns, owner: str) -> bool:
    """Take the next messages that a former version stored (for one account) out of their table. True if there may be more."""
    where, of = ("owner = ? AND id", (owner,)) if owner else ("id", ())
    upto, size, count = -1, 0, 0
    for id_, length in c.rows(
        f"SELECT id, LENGTH(wire) FROM mam_message WHERE {where} > -1 ORDER BY id LIMIT ?", *of, MERGE_ROWS
    ):
        upto, size, count = id_, size + length, count + 1
        if size >= MERGE_BYTES:
            break
    if count:
        fresh.add(
            c.rows(
                f"SELECT id, salt, kind, peer, wire, owner FROM mam_message WHERE {where} <= ? ORDER BY id", *of, upto
            )
        )
        c.run(f"DELETE FROM mam_message WHERE {where} <= ?", *of, upto)
    return count == MERGE_ROWS or size >= MERGE_BYTES


def _take_log_for(c: Cursor, fresh: Columns, owner: str) -> bool:
    """As `_take_log`, for an account of which nothing is left that a former version stored.

    The messages of others, who have older ones there, must come behind those: they are put there, too.
    """
    if c.value("SELECT 1 FROM mam_message LIMIT 1") is None:
        return _take_log(c, fresh)
    taken = Columns()
    more = _take_log(c, taken)
    aside: list[Logged] = []
    for entry in zip(taken.numbers, taken.salts, taken.kinds, taken.peers, taken.wires, taken.owners, strict=True):
        if entry[5] == owner:
            fresh.add((entry,))
        else:
            aside.append(entry)
    c.many(
        "INSERT INTO mam_message (id, salt, kind, peer, wire, owner, resource, sid) VALUES (?, ?, ?, ?, ?, ?, '', '')",
        aside,
    )
    return more


def _take_log(c: Cursor, fresh: Columns) -> bool:
    """Take the next messages out of the log. True if there may be more."""
    last, size = -1, 0
    while True:
        sizes = c.rows(
            "SELECT id, messages, LENGTH(wires) FROM mam_log WHERE id > ? ORDER BY id LIMIT ?", last, _LOG_ROWS
        )
        upto, coming = last, len(fresh.numbers)
        for id_, messages, length in sizes:
            upto, coming, size = id_, coming + messages, size + length
            if coming >= MERGE_ROWS or size >= MERGE_BYTES:
                break
        for count, head, wires in c.rows(
            "SELECT messages, head, wires FROM mam_log WHERE id > ? AND id <= ? ORDER BY id", last, upto
        ):
            fresh.add_log(count, head, wires)
        last = upto
        enough = coming >= MERGE_ROWS or size >= MERGE_BYTES
        if enough or len(sizes) < _LOG_ROWS:
            c.run("DELETE FROM mam_log WHERE id <= ?", last)
            return enough


def _fill_chunks(c: Cursor, by_account: Mapping[int, Columns]) -> list[int]:
    """Put messages into rows of their accounts; the last row of an account is filled up first.

    The accounts in whose archives some of them do not come last.
    """
    came_late: list[int] = []
    there: dict[int, list[Chunk]] = {}
    for some, count in in_pieces([(account, columns.numbers[0]) for account, columns in by_account.items()]):
        for account, messages, head, wires in c.rows(
            f"WITH w (account, low) AS (VALUES {places(2, count)}) SELECT k.account, k.messages, k.head, k.wires FROM w "
            "CROSS JOIN mam_chunk k ON k.account = w.account AND k.id >= COALESCE((SELECT MAX(id) FROM mam_chunk "
            "WHERE account = w.account AND id <= w.low), 0) ORDER BY k.account, k.id",
            *chain.from_iterable(some),
        ):
            there.setdefault(account, []).append(Chunk(messages, head, wires))
    rows: list[tuple[int, int, int, bytes, bytes]] = []
    for account, columns in by_account.items():
        chunks = there.get(account, [])
        if chunks and chunks[-1].numbers[-1] > columns.numbers[0]:  # what the disk did not take at once
            rows += _filed_in(c, account, chunks, columns)
            came_late.append(account)
        else:
            rows += _filed_behind(account, chunks[-1] if chunks else None, columns)
    rows.sort(key=itemgetter(0))
    store.put_chunks(c, rows)
    return came_late


def _filed_behind(account: int, last: Chunk | None, columns: Columns) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    """Rows with messages that are newer than all of the account, whose last row may have room for some."""
    ends = list(accumulate(map(len, columns.wires)))
    count = len(ends)
    first = 0
    if last is not None:
        first = min(
            count, max(0, store.CHUNK_MESSAGES - len(last.numbers)), bisect_right(ends, store.CHUNK_BYTES - last.size)
        )
        if first:
            yield last.numbers[0], account, len(last.numbers) + first, *columns.piece(0, first, last)
    while first < count:
        before = ends[first - 1] if first else 0
        end = min(first + store.CHUNK_MESSAGES, max(first + 1, bisect_right(ends, before + store.CHUNK_BYTES)))
        end = min(end, count)
        yield columns.numbers[first], account, end - first, *columns.piece(first, end)
        first = end


def _filed_in(
    c: Cursor, account: int, chunks: Sequence[Chunk], columns: Columns
) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    """Rows with messages that belong among those there are: the disk did not take them when they came."""
    c.many("DELETE FROM mam_chunk WHERE id = ?", [(chunk.numbers[0],) for chunk in chunks])
    together = Columns()
    entries = sorted([*chain.from_iterable(chunk.entries() for chunk in chunks), *columns.entries()])
    together.add((*entry, "") for entry in entries)
    return _filed_behind(account, None, together)
