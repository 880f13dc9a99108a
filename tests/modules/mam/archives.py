"""Archives to test with: made of made-up messages, and looked through for whatever does not agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from beamish.modules.mam import ids, lists, merging, packing, removal, store
from beamish.storage.api import Cursor, Database
from beamish.storage.engine import SqliteCursor
from beamish.storage.memory import MemoryConnection
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

TOP = lists.TOP
OWNER, OTHER = "juliet@example.org", "nurse@example.org"
CONTACT = "contact3@example.net"


def cursor(*migrations: int) -> SqliteCursor:
    """A new database in memory with all tables of the archive, or those of some migrations, without a loop."""
    c = SqliteCursor(MemoryConnection.open())
    apply(c, *(migrations or (1, 2, 3, 4, 5)))
    return c


def apply(c: Cursor, *migrations: int) -> None:
    """Run migrations on a bare cursor."""
    for migration in store.MIGRATIONS:
        if migration.version in migrations:
            for statement in migration.statements:
                c.run(statement.replace("{pk}", "INTEGER PRIMARY KEY AUTOINCREMENT").replace("{bytes}", "BLOB"))


def messages(
    count: int, owner: str = OWNER, start: float = 1_000.0, source: ids.IdSource | None = None
) -> Iterator[packing.Logged]:
    """One message a second, of seven contacts in turn, each fifth from another resource, with a word of its own."""
    source = source or ids.IdSource()
    for n in range(count):
        number, salt = source.next(start + n)
        peer = f"contact{n % 7}@example.net"
        wire = (
            f"<message type='chat' id='m{n}' from='{peer}/{'r' if n % 5 else 'd'}' to='{owner}'>"
            f"<body>word{n} all</body></message>"
        )
        yield number, salt, 0, peer, wire.encode(), owner


def write(c: Cursor, entries: Sequence[packing.Logged], tick: int = 17) -> None:
    """Log messages, so many in a row."""
    for at in range(0, len(entries), tick):
        store.write_log(c, entries[at : at + tick])


async def fill(db: Database, count: int, owner: str = OWNER, start: float = 1_000.0) -> list[packing.Logged]:
    """Log messages of one account."""
    made = list(messages(count, owner, start))
    await db.write("fill", lambda c: write(c, made))
    return made


def merge_all(c: Cursor, max_messages: int = TOP, max_bytes: int = TOP) -> list[int]:
    """Merge as often as there is more; the accounts that exceed their quota."""
    over: list[int] = []
    more = True
    while more:
        more, exceeding = merging.merge(c, max_messages, max_bytes)
        over += exceeding
    return over


def put_old(c: Cursor, entries: Sequence[packing.Logged]) -> None:
    """Store messages as a former version did."""
    c.many(
        "INSERT INTO mam_message (id, salt, kind, peer, wire, owner, resource, sid) VALUES (?, ?, ?, ?, ?, ?, '', '')",
        entries,
    )


async def merge(db: Database, max_messages: int = TOP, max_bytes: int = TOP) -> list[int]:
    """`merge_all`, each step a transaction."""
    over: list[int] = []
    more = True
    while more:
        more, exceeding = await db.write("merge", lambda c: merging.merge(c, max_messages, max_bytes))
        over += exceeding
    return over


async def search(db: Database, owner: str = OWNER) -> None:
    """Bring the full-text index of an account up to date."""
    while await db.write("text", lambda c: store.index_text(c, owner)):
        pass


async def by_resource(db: Database, owner: str = OWNER) -> None:
    """Bring what finds messages by resource up to date, for one contact."""
    while await db.write("resource", lambda c: store.index_resources(c, owner, CONTACT)):
        pass


async def trim(db: Database, account: int, max_messages: int, max_bytes: int = TOP) -> None:
    """Trim as often as there is more."""
    while await db.write("trim", lambda c: removal.trim(c, account, max_messages, max_bytes)):
        pass


def entries_of(c: Cursor, owner: str) -> list[packing.Entry]:
    """All merged messages of an account, as the rows have them."""
    rows = c.rows(
        "SELECT k.messages, k.head, k.wires FROM mam_account a JOIN mam_chunk k ON k.account = a.num "
        "WHERE a.jid = ? ORDER BY k.id",
        owner,
    )
    return [entry for row in rows for entry in packing.Chunk(*row).entries()]


async def sids(db: Database, owner: str = OWNER) -> list[str]:
    """The stanza ids in an account's archive."""
    return [Stanza.thaw(entry[4]).id for entry in await db.read("entries", lambda c: entries_of(c, owner))]


async def account_of(db: Database, owner: str = OWNER) -> int:
    """The number of an account."""
    return int((await db.fetch("SELECT num FROM mam_account WHERE jid = ?", owner))[0][0])


def _lists(c: Cursor) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for list_, first, data in c.rows("SELECT list, first, numbers FROM mam_list ORDER BY list, first"):
        numbers = packing.numbers_of(data, len(data) // 8)
        assert 0 < len(numbers) <= lists.LIST_NUMBERS
        assert len(data) == 8 * len(numbers)
        assert numbers[0] == first
        found.setdefault(list_, []).extend(numbers)
    for all_ in found.values():
        assert all_ == sorted(set(all_))
    return found


def look_through(c: Cursor) -> None:
    """Rows, lists, counters and the full-text index agree with the messages, and there is nothing beside."""
    known = _lists(c)
    expected_lists: dict[int, list[int]] = {}
    terms: dict[int, set[tuple[str, str]]] = {}
    every: list[int] = []
    chunks = 0
    for account, jid, count, size, upto, texted in c.rows(
        "SELECT num, jid, messages, bytes, text_upto, texted FROM mam_account"
    ):
        own: list[int] = []
        total = 0
        chats: dict[str, list[int]] = {}
        said: list[tuple[int, str, str]] = []
        for id_, messages_, head, wires in c.rows(
            "SELECT id, messages, head, wires FROM mam_chunk WHERE account = ? ORDER BY id", account
        ):
            chunks += 1
            chunk = packing.Chunk(messages_, head, wires)
            entries = chunk.entries()
            assert 0 < len(entries) == messages_ <= store.CHUNK_MESSAGES
            assert entries[0][0] == id_
            for number, _, kind, peer, wire in entries:
                own.append(number)
                total += len(wire)
                resource = packing.resource_of(Stanza.thaw(wire), kind, JID.parse(jid))
                if not kind & packing.REMOVED:
                    chats.setdefault(peer, []).append(number)
                    said.append((number, peer, resource))
                words = packing.words_of(Stanza.thaw(wire))
                if words is not None and number <= upto:
                    chat = c.value("SELECT num FROM mam_chat WHERE account = ? AND peer = ?", account, peer)
                    account_terms = {f"a{account}", f"c{chat}", f"r{resource.encode().hex()}"}
                    terms[number] = {("account", term) for term in account_terms}
                    terms[number] |= {("body", word) for word in words.split()}
        assert own == sorted(set(own))
        assert (count, size) == (len(own), total)
        assert texted == sum(number <= upto for number in own)
        every += own
        assert {peer for (peer,) in c.rows("SELECT peer FROM mam_chat WHERE account = ?", account)} == set(chats)
        for chat, peer, count_, entered in c.rows(
            "SELECT num, peer, messages, resource_upto FROM mam_chat WHERE account = ?", account
        ):
            expected_lists[chat] = chats[peer]
            assert count_ == len(chats[peer])
            for num, resource in c.rows("SELECT num, resource FROM mam_resource WHERE chat = ?", chat):
                with_it = [n for n, p, r in said if (p, r) == (peer, resource) and n <= entered]
                if with_it:
                    expected_lists[-num] = with_it
            with_any = {n for n, p, _ in said if p == peer and n <= entered}
            resources = [num for (num,) in c.rows("SELECT num FROM mam_resource WHERE chat = ?", chat)]
            assert {n for num in resources for n in known.get(-num, [])} == with_any
    assert known == expected_lists
    assert len(every) == len(set(every))
    assert chunks == c.value("SELECT COUNT(*) FROM mam_chunk")
    for table, parent in (("mam_chat", "mam_account"), ("mam_resource", "mam_chat")):
        column = parent.removeprefix("mam_")
        assert not c.rows(f"SELECT 1 FROM {table} WHERE {column} NOT IN (SELECT num FROM {parent})")
    assert max(every, default=0) <= store.last_id(c)
    c.run("CREATE VIRTUAL TABLE IF NOT EXISTS temp.mam_vocabulary USING fts5vocab(main, mam_text, instance)")
    entered_: dict[int, set[tuple[str, str]]] = {}
    for term, number, column in c.rows("SELECT term, doc, col FROM temp.mam_vocabulary"):
        entered_.setdefault(number, set()).add((column, term))
    assert entered_ == terms
    c.run("INSERT INTO mam_text (mam_text) VALUES ('integrity-check')")


async def check(db: Database) -> None:
    """`look_through`, of a database behind a loop."""
    await db.write("check", look_through)


def fresh_entry(
    number: int, owner: str, peer: str = CONTACT, resource: str = "r", text: str = "all", sid: str = "x", kind: int = 0
) -> packing.Logged:
    """One message with this number."""
    ends = (f"{owner}/x", f"{peer}/{resource}") if kind & packing.SENT else (f"{peer}/{resource}", owner)
    wire = f"<message type='chat' id='{sid}' from='{ends[0]}' to='{ends[1]}'><body>{text}</body></message>"
    return number, number & 0xFFFF_FFFF, kind, peer, wire.encode(), owner
