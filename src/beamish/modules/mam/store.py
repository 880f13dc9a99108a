"""The archive of accounts in the database: a log that costs a commit next to nothing, and what it becomes later.

What a tick archives is one row of `mam_log`, of whatever owners. Thousands of messages later, or after some seconds, or when
an owner asks, `merging` brings the log to its places: some dozens of an account's messages are one row of `mam_chunk`, and
what finds them by contact are long lists of numbers (`lists`). A row for each message and tree would cost ten times
as much.

The full-text index of an account is made when it searches for the first time and brought up to date when it searches
again (`index_text`, `mam_account.text_upto`): for the many who never search it would be a quarter of the archive's cost.
Only for large archives it is kept up in the background, `TEXT_LAG` messages behind, so that nobody waits long. What was said
with one resource of a contact is entered (`index_resources`) when somebody asks for it, which hardly anybody does.
All of it is plain SQL without triggers but for that table, `mam_text`, which is FTS5 of SQLite: another engine
brings its own.

`mam_message` has the rows of former versions, one for each message, until they are merged, too.
`mam_part` has what was taken out of the log and is filed in later steps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from beamish.core.gather import in_pieces, places
from beamish.modules.mam import lists
from beamish.modules.mam.packing import (
    REMOVED,
    Chunk,
    Logged,
    numbers_of,
    pack_log,
    resource_in,
    said,
)
from beamish.storage.api import Cursor, Migration
from beamish.xmpp.jid import JID

CHUNK_MESSAGES: Final = 32
CHUNK_BYTES: Final = 16_384
"""Messages and bytes of stanzas in a row of `mam_chunk`; a larger stanza has one for itself."""
TEXT_ROWS: Final = 1_000
"""Messages of one account entered into the full-text index in one transaction: about 7 ms of the writer's time."""
TEXT_BYTES: Final = 1024 * 1024
"""Bytes of stanzas above which one transaction enters no more."""
TEXT_LAG: Final = 50_000
"""Messages of one account that may not be in the full-text index yet: what a first search has to enter, in 0.3 s or so."""
RESOURCE_ROWS: Final = 1_000
"""Messages of one conversation entered by resource in one transaction: 10 ms, up to 25 where each is in another row."""
_CHUNKS: Final = 16
"""Rows of `mam_chunk` read at once, some 256 KiB."""

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE mam_message (id INTEGER PRIMARY KEY, salt INTEGER NOT NULL, owner TEXT NOT NULL, "
            "peer TEXT NOT NULL, resource TEXT NOT NULL, sid TEXT NOT NULL, kind INTEGER NOT NULL, body TEXT, "
            "wire {bytes} NOT NULL)",
            "CREATE TABLE mam_account (num {pk}, jid TEXT NOT NULL UNIQUE, messages INTEGER NOT NULL DEFAULT 0, "
            "bytes INTEGER NOT NULL DEFAULT 0, text_upto INTEGER NOT NULL DEFAULT 0)",
            "CREATE TABLE mam_chat (num {pk}, account INTEGER NOT NULL, peer TEXT NOT NULL, "
            "messages INTEGER NOT NULL DEFAULT 0, UNIQUE (account, peer))",
            "CREATE TABLE mam_by_account (account INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (account, id)) "
            "WITHOUT ROWID",
            "CREATE TABLE mam_by_chat (chat INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (chat, id)) WITHOUT ROWID",
            "CREATE VIRTUAL TABLE mam_text USING fts5(account, body, content='', columnsize=0, "
            "tokenize='unicode61 remove_diacritics 2')",
            "CREATE TABLE mam_state (one INTEGER PRIMARY KEY CHECK (one = 1), indexed INTEGER NOT NULL)",
            "INSERT INTO mam_state (one, indexed) VALUES (1, 0)",
            "CREATE TABLE mam_prefs (owner TEXT PRIMARY KEY, mode TEXT NOT NULL, always TEXT NOT NULL, "
            "never TEXT NOT NULL, legacy TEXT NOT NULL)",
        ),
    ),
    Migration(
        2,
        (
            # the column `account` names the conversation and the resource, too
            "DROP TABLE mam_text",
            "CREATE VIRTUAL TABLE mam_text USING fts5(account, body, content='', columnsize=0, "
            "tokenize='unicode61 remove_diacritics 2')",
            "UPDATE mam_account SET text_upto = 0",
            "ALTER TABLE mam_account ADD COLUMN texted INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE mam_chat ADD COLUMN resource_upto INTEGER NOT NULL DEFAULT 0",
            "CREATE TABLE mam_by_resource (chat INTEGER NOT NULL, resource TEXT NOT NULL, id INTEGER NOT NULL, "
            "PRIMARY KEY (chat, resource, id)) WITHOUT ROWID",
        ),
    ),
    Migration(
        3,
        (
            "CREATE TABLE mam_log (id INTEGER PRIMARY KEY, messages INTEGER NOT NULL, head {bytes} NOT NULL, "
            "wires {bytes} NOT NULL)",
            "CREATE TABLE mam_chunk (id INTEGER PRIMARY KEY, account INTEGER NOT NULL, messages INTEGER NOT NULL, "
            "head {bytes} NOT NULL, wires {bytes} NOT NULL)",
            "CREATE INDEX mam_chunk_account ON mam_chunk (account, id, messages)",
            "CREATE TABLE mam_list (list INTEGER NOT NULL, first INTEGER NOT NULL, numbers {bytes} NOT NULL, "
            "PRIMARY KEY (list, first)) WITHOUT ROWID",
            "CREATE TABLE mam_resource (num {pk}, chat INTEGER NOT NULL, resource TEXT NOT NULL, UNIQUE (chat, resource))",
            # what is in mam_message is brought into the new tables from there (`merge`), and counted again
            "DROP TABLE mam_by_account",
            "DROP TABLE mam_by_chat",
            "DROP TABLE mam_by_resource",
            "DELETE FROM mam_chat",
            "DELETE FROM mam_account",
            "UPDATE mam_state SET indexed = MAX(indexed, COALESCE((SELECT MAX(id) FROM mam_message), 0))",
            "DROP TABLE mam_text",
            "CREATE VIRTUAL TABLE mam_text USING fts5(account, body, content='', columnsize=0, "
            "tokenize='unicode61 remove_diacritics 2')",
        ),
    ),
    # whose rows are taken over first, because somebody asks for them; nothing to do where there are none
    Migration(4, ("CREATE INDEX mam_message_owner ON mam_message (owner, id)",)),
    # what was taken out of the log and is of more accounts than one step of merging files
    Migration(
        5,
        (
            "CREATE TABLE mam_part (id INTEGER PRIMARY KEY, messages INTEGER NOT NULL, head {bytes} NOT NULL, "
            "wires {bytes} NOT NULL)",
        ),
    ),
)


# ---- the log -------------------------------------------------------------------------------------------------------------


def write_log(c: Cursor, entries: Sequence[Logged]) -> None:
    """Store messages of any owners, in the order of their numbers."""
    c.run("INSERT INTO mam_log (id, messages, head, wires) VALUES (?, ?, ?, ?)", entries[0][0], len(entries),
          *pack_log(entries))  # fmt: skip


def last_id(c: Cursor) -> int:
    """The largest number that was ever given to a message."""
    largest = max(int(c.value("SELECT indexed FROM mam_state")), int(c.value("SELECT MAX(id) FROM mam_message") or 0))
    newest = c.row("SELECT messages, head FROM mam_log ORDER BY id DESC LIMIT 1")
    return largest if newest is None else max(largest, numbers_of(newest[1], newest[0])[-1])


def put_chunks(c: Cursor, rows: Sequence[tuple[int, int, int, bytes, bytes]]) -> None:
    """Write rows of `mam_chunk` (id, account, messages, head, wires), in place of those with the same ids."""
    c.many(
        "INSERT INTO mam_chunk (id, account, messages, head, wires) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) "
        "DO UPDATE SET messages = excluded.messages, head = excluded.head, wires = excluded.wires",
        rows,
    )


def numbered(
    c: Cursor, table: str, columns: tuple[str, ...], keys: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], int]:
    """The numbers of accounts or conversations; those that have none get one."""
    known = _look_up(c, table, columns, keys)
    missing = [key for key in keys if key not in known]
    if missing:
        c.many(f"INSERT INTO {table} ({', '.join(columns)}) VALUES {places(len(columns), 1)}", missing)
        known |= _look_up(c, table, columns, missing)
    return known


def _look_up(
    c: Cursor, table: str, columns: tuple[str, ...], keys: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], int]:
    known: dict[tuple[Any, ...], int] = {}
    names = ", ".join(columns)
    same = " AND ".join(f"t.{column} = w.{column}" for column in columns)
    for some, count in in_pieces(keys):
        for *key, num in c.rows(
            f"WITH w ({names}) AS (VALUES {places(len(columns), count)}) "
            f"SELECT {', '.join(f'w.{column}' for column in columns)}, t.num FROM w CROSS JOIN {table} t ON {same}",
            *chain.from_iterable(some),
        ):
            known[tuple(key)] = num
    return known


# ---- reading -------------------------------------------------------------------------------------------------------------


def located(c: Cursor, account: int, numbers: Iterable[int]) -> Iterator[tuple[Chunk, int]]:
    """The messages of an account with these numbers, as rows of the database and places in them; others are left out.

    Neighbours share a row, so numbers should come in order, forwards or backwards.
    """
    chunk: Chunk | None = None
    for number in numbers:
        if chunk is None or not chunk.numbers[0] <= number <= chunk.numbers[-1]:
            found = c.row(
                "SELECT messages, head, wires FROM mam_chunk WHERE account = ? AND id <= ? ORDER BY id DESC LIMIT 1",
                account,
                number,
            )
            if found is None:
                continue
            chunk = Chunk(*found)
        at = chunk.index(number)
        if at is not None:
            yield chunk, at


def chat_of(c: Cursor, account: int, peer: str) -> tuple[int, int] | None:
    """The number of a conversation, and up to which message it is entered by resource; None if there is none."""
    found = c.row("SELECT num, resource_upto FROM mam_chat WHERE account = ? AND peer = ?", account, peer)
    return None if found is None else (int(found[0]), int(found[1]))


# ---- words, resources ----------------------------------------------------------------------------------------------------


class Terms:
    """What stands in the column `account` of the full-text index for the messages of an account; see `pages.match_of`."""

    def __init__(self, c: Cursor, account: int, owner: JID) -> None:
        self._c = c
        self._account = account
        self._owner = owner
        self._known: dict[tuple[str, str], str] = {}

    def of(self, chunk: Chunk, at: int) -> tuple[int, str, str] | None:
        """Number, terms and words of a message; None for one without words."""
        found = list(self.of_some(chunk, at, at + 1))
        return found[0] if found else None

    def of_some(self, chunk: Chunk, first: int, end: int) -> Iterator[tuple[int, str, str]]:
        """The same for those that have words of the messages in some places of a row."""
        owner, known = self._owner, self._known
        for number, kind, peer, wire in chunk.some(first, end):
            found = said(wire, kind, owner)
            if found is None:
                continue
            words, resource = found
            terms = known.get((peer, resource))
            yield number, self._made(peer, resource) if terms is None else terms, words

    def _made(self, peer: str, resource: str) -> str:
        chat = chat_of(self._c, self._account, peer)
        terms = f"a{self._account} c{0 if chat is None else chat[0]} r{resource.encode().hex()}"
        self._known[peer, resource] = terms
        return terms


def index_text(c: Cursor, owner: str) -> bool:
    """Enter an account's next messages into the full-text index, at most `TEXT_ROWS`. True if there may be more."""
    found = c.row("SELECT num, text_upto FROM mam_account WHERE jid = ?", owner)
    if found is None:
        return False
    account, since = found
    terms = Terms(c, account, JID.parse(owner))
    rows: list[tuple[int, str, str]] = []
    count = size = 0
    more = False
    for chunk in _chunks_from(c, account, since):
        first = bisect_right(chunk.numbers, since)
        end = min(len(chunk.numbers), first + TEXT_ROWS - count)
        rows += terms.of_some(chunk, first, end)
        count += end - first
        size += chunk.size
        since = chunk.numbers[end - 1]
        more = count == TEXT_ROWS or size >= TEXT_BYTES
        if more:
            break
    if count:
        _enter_words(c, account, rows, count)
        c.run("UPDATE mam_account SET text_upto = ? WHERE num = ?", since, account)
    return more


def _chunks_from(c: Cursor, account: int, since: int) -> Iterator[Chunk]:
    """The rows of an account with messages behind a number, as many at a time as may be in memory."""
    start = c.value("SELECT MAX(id) FROM mam_chunk WHERE account = ? AND id <= ?", account, since + 1)
    after = -1 if start is None else start - 1
    while True:
        rows = c.rows(
            "SELECT id, messages, head, wires FROM mam_chunk WHERE account = ? AND id > ? ORDER BY id LIMIT ?",
            account,
            after,
            _CHUNKS,
        )
        for id_, *row in rows:
            after = id_
            chunk = Chunk(*row)
            if chunk.numbers[-1] > since:
                yield chunk
        if len(rows) < _CHUNKS:
            return


def _enter_words(c: Cursor, account: int, rows: Sequence[tuple[int, str, str]], count: int) -> None:
    """Enter the words of some of so many messages."""
    c.many("INSERT INTO mam_text (rowid, account, body) VALUES (?, ?, ?)", rows)
    c.run("UPDATE mam_account SET texted = texted + ? WHERE num = ?", count, account)


def enter_late(c: Cursor, account: int, owner: str, numbers: Sequence[int]) -> None:
    """Enter messages by word and resource up to where others are that came later but were stored before them."""
    upto = int(c.value("SELECT text_upto FROM mam_account WHERE num = ?", account))
    if passed := numbers[: bisect_right(numbers, upto)]:
        terms = Terms(c, account, JID.parse(owner))
        words = [row for chunk, at in located(c, account, passed) if (row := terms.of(chunk, at)) is not None]
        _enter_words(c, account, words, len(passed))
    by_chat: dict[str, list[tuple[Chunk, int]]] = {}
    for chunk, at in located(c, account, numbers):
        by_chat.setdefault(chunk.peers()[at], []).append((chunk, at))
    for peer, places_ in by_chat.items():
        chat = chat_of(c, account, peer)
        if chat is not None:
            _enter_resources(c, chat[0], owner, [place for place in places_ if place[0].numbers[place[1]] <= chat[1]])


def behind(c: Cursor) -> list[str]:
    """Accounts of which the full-text index lacks more than `TEXT_LAG` messages; some of them."""
    rows = c.rows("SELECT jid FROM mam_account WHERE messages - texted > ? LIMIT 100", TEXT_LAG)
    return [str(jid) for (jid,) in rows]


def lags(c: Cursor, owner: str) -> bool:
    """Whether the full-text index lacks more of an account than it may."""
    return bool(c.value("SELECT messages - texted > ? FROM mam_account WHERE jid = ?", TEXT_LAG, owner))


def index_resources(c: Cursor, owner: str, peer: str) -> bool:
    """Enter the next messages with a contact by the contact's resource, at most `RESOURCE_ROWS`. True if there may be more."""
    account = c.value("SELECT num FROM mam_account WHERE jid = ?", owner)
    found = None if account is None else chat_of(c, account, peer)
    if found is None:
        return False
    chat, since = found
    numbers = lists.of_list(c, chat).between(since, lists.TOP, RESOURCE_ROWS)
    if not numbers:
        return False
    _enter_resources(c, chat, owner, located(c, account, numbers))
    c.run("UPDATE mam_chat SET resource_upto = ? WHERE num = ?", numbers[-1], chat)
    return len(numbers) == RESOURCE_ROWS


def _enter_resources(c: Cursor, chat: int, owner: str, messages: Iterable[tuple[Chunk, int]]) -> None:
    own = JID.parse(owner)
    spoken: dict[tuple[int, str], list[int]] = {}
    for chunk, at in messages:
        number, _, kind, wire = chunk.row(at)
        if not kind & REMOVED:
            spoken.setdefault((chat, resource_in(wire, kind, own)), []).append(number)
    known = numbered(c, "mam_resource", ("chat", "resource"), list(spoken))
    lists.append(c, {by_resource(known[key]): entered for key, entered in spoken.items()})


def by_resource(num: int) -> int:
    """The list of what was said with a resource, by its number in `mam_resource`; positive ones are conversations."""
    return -num
