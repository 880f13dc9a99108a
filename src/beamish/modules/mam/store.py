"""The archive of accounts in the database: one row for each message and owner, and what finds it again.

Messages are appended in the order of their ids and nowhere else, which costs a commit hardly anything. Everything that
finds them by owner, contact or word is brought up to date later, thousands of rows at a time (`index`): a row here and
there in large trees would cost ten times as much if done for each commit. `mam_state.indexed` says how far that
has come; readers take what lies behind it from the messages themselves, which are few.

The full-text index of an account is made when it searches for the first time and brought up to date when it searches
again (`index_text`, `mam_account.text_upto`): for the many who never search it would be a quarter of the archive's cost.
Only for large archives it is kept up in the background, `TEXT_LAG` messages behind, so that nobody waits long. What was said
with one resource of a contact is entered (`index_resources`) when somebody asks for it, which hardly anybody does.
All of it is plain SQL without triggers but for that table, `mam_text`, which is FTS5 of SQLite: another engine
brings its own.
"""

from __future__ import annotations

from typing import Final

from beamish.storage.api import Cursor, Migration

SENT: Final = 1
"""`kind` bit: the owner sent it."""
GRAVE: Final = 2
"""Retracted: a tombstone is in its place (XEP-0424 §5)."""
REMOVED: Final = 4
"""Removed by its owner (XEP-0136 §6.3): an empty message is in its place, so that ids stay where they are."""

INDEX_ROWS: Final = 8_000
"""Messages indexed in one transaction: about 40 ms of the writer's time."""
TEXT_ROWS: Final = 2_000
"""Messages of one account entered into the full-text index in one transaction."""
TEXT_LAG: Final = 50_000
"""Messages of one account that may not be in the full-text index yet: what a first search has to enter, in 0.3 s or so."""
RESOURCE_ROWS: Final = 4_000
"""Messages of one conversation entered by resource in one transaction."""
TRIM_ROWS: Final = 200
"""Messages deleted in one transaction: some 10 ms of the writer's time."""
RETRACTION_REACH: Final = 10_000
"""How many messages of the conversation back a retracted message is looked for."""

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
)

_COLUMNS = "id, salt, owner, peer, resource, sid, kind, body, wire"
APPEND: Final = f"INSERT INTO mam_message ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

_SIZE = "LENGTH(wire) + COALESCE(LENGTH(body), 0)"
_TERMS = "'a' || t.account || ' c' || t.num || ' r' || HEX(m.resource)"
"""What stands in the column `account` of the full-text index; see `pages.match_of`."""


def last_id(c: Cursor) -> int:
    """The largest id in the archive."""
    return int(c.value("SELECT MAX(id) FROM mam_message") or 0)


def index(c: Cursor, max_messages: int, max_bytes: int) -> tuple[int, list[int]]:
    """Enter the next messages into what finds them: how many, and the accounts that thereby exceed their quota."""
    since = c.value("SELECT indexed FROM mam_state")
    count, upto = c.row(  # type: ignore[misc]
        "SELECT COUNT(*), MAX(id) FROM (SELECT id FROM mam_message WHERE id > ? ORDER BY id LIMIT ?)", since, INDEX_ROWS
    )
    if not count:
        return 0, []
    span = (since, upto)
    # the numbers of account and conversation are looked up once for each message, then only numbers are dealt with
    c.run(
        "CREATE TEMPORARY TABLE IF NOT EXISTS mam_new (id INTEGER PRIMARY KEY, account INTEGER NOT NULL, "
        "peer TEXT NOT NULL, size INTEGER NOT NULL)"
    )
    c.run("CREATE TEMPORARY TABLE IF NOT EXISTS mam_new_chat (id INTEGER PRIMARY KEY, chat INTEGER NOT NULL)")
    c.run("DELETE FROM mam_new")
    c.run("DELETE FROM mam_new_chat")
    c.run(
        "INSERT INTO mam_account (jid) SELECT DISTINCT owner FROM mam_message WHERE id > ? AND id <= ? "
        "ON CONFLICT (jid) DO NOTHING",
        *span,
    )
    c.run(
        f"INSERT INTO mam_new (id, account, peer, size) SELECT m.id, a.num, m.peer, {_SIZE} FROM mam_message m "
        "CROSS JOIN mam_account a ON a.jid = m.owner WHERE m.id > ? AND m.id <= ?",
        *span,
    )
    c.run(
        "INSERT INTO mam_chat (account, peer) SELECT DISTINCT account, peer FROM mam_new WHERE true "
        "ON CONFLICT (account, peer) DO NOTHING"
    )
    c.run(
        "INSERT INTO mam_new_chat (id, chat) SELECT n.id, t.num FROM mam_new n "
        "CROSS JOIN mam_chat t ON t.account = n.account AND t.peer = n.peer"
    )
    c.run("INSERT INTO mam_by_account (account, id) SELECT account, id FROM mam_new ORDER BY 1, 2")
    c.run("INSERT INTO mam_by_chat (chat, id) SELECT chat, id FROM mam_new_chat ORDER BY 1, 2")
    c.run(
        "UPDATE mam_account SET messages = messages + new.n, bytes = bytes + new.size FROM "
        "(SELECT account, COUNT(*) AS n, SUM(size) AS size FROM mam_new GROUP BY account) AS new WHERE num = new.account"
    )
    c.run(
        "UPDATE mam_chat SET messages = messages + new.n FROM "
        "(SELECT chat, COUNT(*) AS n FROM mam_new_chat GROUP BY chat) AS new WHERE num = new.chat"
    )
    c.run("UPDATE mam_state SET indexed = ?", upto)
    over = c.rows(
        "SELECT num FROM mam_account WHERE num IN (SELECT account FROM mam_new) AND (messages > ? OR bytes > ?)",
        max_messages,
        max_bytes,
    )
    return int(count), [int(num) for (num,) in over]


def index_text(c: Cursor, owner: str) -> bool:
    """Enter an account's next messages into the full-text index, at most `TEXT_ROWS`. True if there may be more."""
    found = c.row("SELECT num, text_upto FROM mam_account WHERE jid = ?", owner)
    if found is None:
        return False
    account, since = found
    count, upto = c.row(  # type: ignore[misc]
        "SELECT COUNT(*), MAX(id) FROM (SELECT id FROM mam_by_account WHERE account = ? AND id > ? ORDER BY id LIMIT ?)",
        account,
        since,
        TEXT_ROWS,
    )
    if not count:
        return False
    c.run(
        f"INSERT INTO mam_text (rowid, account, body) SELECT m.id, {_TERMS}, m.body FROM mam_by_account e "
        "CROSS JOIN mam_message m ON m.id = e.id CROSS JOIN mam_chat t ON t.account = e.account AND t.peer = m.peer "
        "WHERE e.account = ? AND e.id > ? AND e.id <= ? AND m.body IS NOT NULL ORDER BY e.id",
        account,
        since,
        upto,
    )
    c.run("UPDATE mam_account SET text_upto = ?, texted = texted + ? WHERE num = ?", upto, count, account)
    return bool(count == TEXT_ROWS)


def behind(c: Cursor) -> list[str]:
    """Accounts of which the full-text index lacks more than `TEXT_LAG` messages; some of them."""
    rows = c.rows("SELECT jid FROM mam_account WHERE messages - texted > ? LIMIT 100", TEXT_LAG)
    return [str(jid) for (jid,) in rows]


def lags(c: Cursor, owner: str) -> bool:
    """Whether the full-text index lacks more of an account than it may."""
    return bool(c.value("SELECT messages - texted > ? FROM mam_account WHERE jid = ?", TEXT_LAG, owner))


def index_resources(c: Cursor, owner: str, peer: str) -> bool:
    """Enter the next messages with a contact by the contact's resource, at most `RESOURCE_ROWS`. True if there may be more."""
    found = c.row(
        "SELECT t.num, t.resource_upto FROM mam_account a JOIN mam_chat t ON t.account = a.num AND t.peer = ? "
        "WHERE a.jid = ?",
        peer,
        owner,
    )
    if found is None:
        return False
    chat, since = found
    count, upto = c.row(  # type: ignore[misc]
        "SELECT COUNT(*), MAX(id) FROM (SELECT id FROM mam_by_chat WHERE chat = ? AND id > ? ORDER BY id LIMIT ?)",
        chat,
        since,
        RESOURCE_ROWS,
    )
    if not count:
        return False
    c.run(
        "INSERT INTO mam_by_resource (chat, resource, id) SELECT e.chat, m.resource, m.id FROM mam_by_chat e "
        "CROSS JOIN mam_message m ON m.id = e.id WHERE e.chat = ? AND e.id > ? AND e.id <= ?",
        chat,
        since,
        upto,
    )
    c.run("UPDATE mam_chat SET resource_upto = ? WHERE num = ?", upto, chat)
    return bool(count == RESOURCE_ROWS)


# ---- deleting ---------------------------------------------------------------------------------------------------------


def trim(c: Cursor, account: int, max_messages: int, max_bytes: int) -> bool:
    """Delete the oldest messages of an account above its quota, at most `TRIM_ROWS`. True if more must go."""
    usage = c.row("SELECT messages, bytes FROM mam_account WHERE num = ?", account)
    if usage is None:
        return False
    messages, size = usage
    most = min(TRIM_ROWS, messages - max_messages) if size <= max_bytes else TRIM_ROWS
    if most <= 0:
        return False
    upto = freed = taken = 0
    for id_, length in c.rows(
        f"SELECT m.id, {_SIZE} FROM mam_by_account e CROSS JOIN mam_message m ON m.id = e.id WHERE e.account = ? "
        "ORDER BY e.id LIMIT ?",
        account,
        most,
    ):
        if messages - taken <= max_messages and size - freed <= max_bytes:
            break
        upto, taken, freed = id_, taken + 1, freed + length
    if taken:
        _delete_upto(c, account, upto)
    return taken > 0 and (messages - taken > max_messages or size - freed > max_bytes)


def expire(c: Cursor, before: int) -> bool:
    """Delete messages with smaller ids, of one account, at most `TRIM_ROWS`. True if more must go."""
    found = c.row("SELECT id, owner FROM mam_message WHERE id < ? ORDER BY id LIMIT 1", before)
    if found is None:
        return False
    account = c.value("SELECT num FROM mam_account WHERE jid = ?", found[1])
    upto = c.value(
        "SELECT MAX(id) FROM (SELECT id FROM mam_by_account WHERE account = ? AND id < ? ORDER BY id LIMIT ?)",
        account,
        before,
        TRIM_ROWS,
    )
    if upto is None:
        return False  # not indexed yet: its turn comes
    _delete_upto(c, account, upto)
    return True


def forget_account(c: Cursor, owner: str) -> bool:
    """Delete an account's messages, at most `TRIM_ROWS`, and in the end all that names it. True if more must go.

    Everything of the account must be indexed.
    """
    account = c.value("SELECT num FROM mam_account WHERE jid = ?", owner)
    if account is not None:
        upto = c.value(
            "SELECT MAX(id) FROM (SELECT id FROM mam_by_account WHERE account = ? ORDER BY id LIMIT ?)",
            account,
            TRIM_ROWS,
        )
        if upto is not None:
            _delete_upto(c, account, upto)
            return True
        c.run("DELETE FROM mam_account WHERE num = ?", account)
    c.run("DELETE FROM mam_prefs WHERE owner = ?", owner)
    return False


def _delete_upto(c: Cursor, account: int, upto: int) -> None:
    """Delete the messages of an account up to a number; the caller sees to it that they are not too many."""
    texted = c.value("SELECT text_upto FROM mam_account WHERE num = ?", account)
    c.run(
        f"INSERT INTO mam_text (mam_text, rowid, account, body) SELECT 'delete', m.id, {_TERMS}, m.body "
        "FROM mam_by_account e CROSS JOIN mam_message m ON m.id = e.id "
        "CROSS JOIN mam_chat t ON t.account = e.account AND t.peer = m.peer "
        "WHERE e.account = ? AND e.id <= ? AND m.body IS NOT NULL",
        account,
        min(upto, texted),
    )
    rows = c.rows(
        f"SELECT m.id, {_SIZE}, m.kind & ?, t.num, t.resource_upto, m.resource FROM mam_by_account e "
        "CROSS JOIN mam_message m ON m.id = e.id LEFT JOIN mam_chat t ON t.account = e.account AND t.peer = m.peer "
        "WHERE e.account = ? AND e.id <= ?",
        REMOVED,
        account,
        upto,
    )
    spoken: dict[int, int] = {}
    entries, resources = [], []
    for id_, _, removed, chat, resource_upto, resource in rows:
        if removed or chat is None:
            continue  # conversations do not show it any more
        spoken[chat] = spoken.get(chat, 0) + 1
        entries.append((chat, id_))
        if id_ <= resource_upto:
            resources.append((chat, resource, id_))
    c.many("DELETE FROM mam_by_chat WHERE chat = ? AND id = ?", entries)
    if resources:
        c.many("DELETE FROM mam_by_resource WHERE chat = ? AND resource = ? AND id = ?", resources)
    c.many("UPDATE mam_chat SET messages = messages - ? WHERE num = ?", [(n, chat) for chat, n in spoken.items()])
    c.many("DELETE FROM mam_chat WHERE num = ? AND messages <= 0", [(chat,) for chat in spoken])
    c.many("DELETE FROM mam_message WHERE id = ?", [(row[0],) for row in rows])
    c.run("DELETE FROM mam_by_account WHERE account = ? AND id <= ?", account, upto)
    c.run(
        "UPDATE mam_account SET messages = messages - ?, bytes = bytes - ?, texted = texted - ? WHERE num = ?",
        len(rows),
        sum(row[1] for row in rows),
        sum(row[0] <= texted for row in rows),
        account,
    )


def replace(c: Cursor, owner: str, id_: int, kind: int, wire: bytes) -> None:
    """Put something without content in the place of an archived message; id, time and addresses stay."""
    old = c.row(f"SELECT body, {_SIZE} FROM mam_message WHERE id = ? AND owner = ?", id_, owner)
    if old is None:
        return
    if id_ <= c.value("SELECT indexed FROM mam_state"):
        account, text_upto = c.row("SELECT num, text_upto FROM mam_account WHERE jid = ?", owner)  # type: ignore[misc]
        if old[0] is not None and id_ <= text_upto:
            c.run(
                f"INSERT INTO mam_text (mam_text, rowid, account, body) SELECT 'delete', m.id, {_TERMS}, m.body "
                "FROM mam_message m CROSS JOIN mam_chat t ON t.account = ? AND t.peer = m.peer WHERE m.id = ?",
                account,
                id_,
            )
        c.run("UPDATE mam_account SET bytes = bytes + ? WHERE num = ?", len(wire) - old[1], account)
    c.run("UPDATE mam_message SET kind = kind | ?, body = NULL, wire = ? WHERE id = ?", kind, wire, id_)


def find_original(
    c: Cursor, owner: str, peer: str, resource: str | None, sid: str, sent: bool
) -> tuple[int, bytes] | None:
    """The newest message in a conversation with this stanza id, sent by the owner or not: its id and bytes.

    `resource`: only from (or to) this resource of the peer. Looks back over `RETRACTION_REACH` messages.
    """
    indexed = c.value("SELECT indexed FROM mam_state")
    matches = "sid = ? AND kind & 7 = ? AND (? IS NULL OR resource = ?)"
    wanted = (sid, SENT if sent else 0, resource, resource)
    found = c.row(
        f"SELECT id, wire FROM mam_message WHERE id > ? AND owner = ? AND peer = ? AND {matches} ORDER BY id DESC LIMIT 1",
        indexed,
        owner,
        peer,
        *wanted,
    )
    if found is None:
        found = c.row(
            "SELECT id, wire FROM (SELECT m.* FROM mam_account a JOIN mam_chat t ON t.account = a.num AND t.peer = ? "
            "CROSS JOIN mam_by_chat e ON e.chat = t.num CROSS JOIN mam_message m ON m.id = e.id WHERE a.jid = ? "
            f"ORDER BY e.id DESC LIMIT ?) WHERE {matches} LIMIT 1",
            peer,
            owner,
            RETRACTION_REACH,
            *wanted,
        )
    return None if found is None else (int(found[0]), bytes(found[1]))
