"""What takes messages out of archives, or their content: quotas, age, accounts that go, retraction, removal by the owner.

Each step is one transaction of at most `TRIM_ROWS` messages, which others must wait for. Everything that it is about must be
merged (`merging.merge`).
"""

from __future__ import annotations

import re
from typing import Final

from beamish.modules.mam import lists, store
from beamish.modules.mam.packing import REMOVED, SENT, Chunk, pack, resource_of
from beamish.storage.api import Cursor
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

TRIM_ROWS: Final = 256
"""Messages deleted in one transaction: some 10 ms of the writer's time."""
RETRACTION_REACH: Final = 10_000
"""How many messages of the conversation back a retracted message is looked for."""

_WRITTEN_DIFFERENTLY: Final = re.compile("[&<>'\"\\s]")
"""Characters of an id that may be written in several ways."""
_REFERENCE: Final = b"&#"
"""Any character may be written by its number."""
_DELETE_WORDS: Final = "INSERT INTO mam_text (mam_text, rowid, account, body) VALUES ('delete', ?, ?, ?)"


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
    for chunk, at in store.located(c, account, lists.of_account(c, account).between(-1, lists.TOP, most)):
        if messages - taken <= max_messages and size - freed <= max_bytes:
            break
        upto, taken, freed = chunk.numbers[at], taken + 1, freed + len(chunk.wire(at))
    if taken:
        _delete_upto(c, account, upto)
    return taken > 0 and (messages - taken > max_messages or size - freed > max_bytes)


def expire(c: Cursor, before: int) -> bool:
    """Delete messages with smaller numbers, of one account, at most `TRIM_ROWS`. True if more must go."""
    account = c.value("SELECT account FROM mam_chunk WHERE id < ? ORDER BY id LIMIT 1", before)
    if account is None:
        return False
    _delete_upto(c, account, lists.of_account(c, account).between(-1, before, TRIM_ROWS)[-1])
    return True


def forget_account(c: Cursor, owner: str) -> bool:
    """Delete an account's messages, at most `TRIM_ROWS`, and in the end all that names it. True if more must go."""
    account = c.value("SELECT num FROM mam_account WHERE jid = ?", owner)
    if account is not None:
        oldest = lists.of_account(c, account).between(-1, lists.TOP, TRIM_ROWS)
        if oldest:
            _delete_upto(c, account, oldest[-1])
            return True
        c.run("DELETE FROM mam_account WHERE num = ?", account)
    c.run("DELETE FROM mam_prefs WHERE owner = ?", owner)
    return False


def _delete_upto(c: Cursor, account: int, upto: int) -> None:
    """Delete the messages of an account up to a number; the caller sees to it that they are not too many."""
    owner, texted = c.row("SELECT jid, text_upto FROM mam_account WHERE num = ?", account)  # type: ignore[misc]
    chunks = [
        Chunk(*row)
        for row in c.rows(
            "SELECT messages, head, wires FROM mam_chunk WHERE account = ? AND id <= ? ORDER BY id", account, upto
        )
    ]
    terms = store.Terms(c, account, JID.parse(owner))
    spoken: dict[str, int] = {}
    words = []
    count = size = entered = 0
    for chunk in chunks:
        for at, (number, _, kind, peer, wire) in enumerate(chunk.entries()):
            if number > upto:
                break
            count += 1
            size += len(wire)
            if not kind & REMOVED:
                spoken[peer] = spoken.get(peer, 0) + 1
            if number <= texted:
                entered += 1
                if (row := terms.of(chunk, at)) is not None:
                    words.append(row)
    c.many(_DELETE_WORDS, words)
    for peer, messages in spoken.items():
        chat = store.chat_of(c, account, peer)
        if chat is not None:
            _shorten_chat(c, *chat, upto, messages)
    c.run("DELETE FROM mam_chunk WHERE account = ? AND id <= ?", account, upto)
    if chunks and (left := [entry for entry in chunks[-1].entries() if entry[0] > upto]):
        store.put_chunks(c, [(left[0][0], account, len(left), *pack(left))])
    c.run(
        "UPDATE mam_account SET messages = messages - ?, bytes = bytes - ?, texted = texted - ? WHERE num = ?",
        count,
        size,
        entered,
        account,
    )


def _shorten_chat(c: Cursor, chat: int, resource_upto: int, upto: int, messages: int) -> None:
    lists.cut(c, chat, upto)
    if resource_upto:
        for (num,) in c.rows("SELECT num FROM mam_resource WHERE chat = ?", chat):
            lists.cut(c, store.by_resource(num), upto)
    _count_off(c, chat, messages)


def _count_off(c: Cursor, chat: int, messages: int) -> None:
    """A conversation has so many messages less; one without any is no more."""
    c.run("UPDATE mam_chat SET messages = messages - ? WHERE num = ?", messages, chat)
    if c.run("DELETE FROM mam_chat WHERE num = ? AND messages <= 0", chat):
        c.run("DELETE FROM mam_resource WHERE chat = ?", chat)


def replace(c: Cursor, owner: str, number: int, kind: int, wire: bytes) -> None:
    """Put something without words in the place of an archived message; id, time and addresses stay."""
    found = c.row("SELECT num, text_upto FROM mam_account WHERE jid = ?", owner)
    if found is None:
        return
    account, texted = found
    for chunk, at in store.located(c, account, (number,)):
        if number <= texted and (row := store.Terms(c, account, JID.parse(owner)).of(chunk, at)) is not None:
            c.run(_DELETE_WORDS, *row)
        entries = chunk.entries()
        _, salt, before, peer, old = entries[at]
        entries[at] = (number, salt, before | kind, peer, wire)
        store.put_chunks(c, [(entries[0][0], account, len(entries), *pack(entries))])
        c.run("UPDATE mam_account SET bytes = bytes + ? WHERE num = ?", len(wire) - len(old), account)


def remove(c: Cursor, owner: str, chat: int, numbers: list[int]) -> None:
    """Take the content out of messages of one conversation, which does not show them any more (XEP-0136 §6.3).

    Their numbers and addresses stay, as XEP-0313 §3.2 asks.
    """
    account, resource_upto = c.row(  # type: ignore[misc]
        "SELECT account, resource_upto FROM mam_chat WHERE num = ?", chat
    )
    for chunk, at in list(store.located(c, account, numbers)):
        old = Stanza.thaw(chunk.wire(at))
        empty = Stanza.build("message", old.type, id=old.id, sender=old.sender, to=old.to).to_wire()
        replace(c, owner, chunk.numbers[at], REMOVED, empty)
    lists.take_out(c, chat, numbers)
    if resource_upto:
        for (num,) in c.rows("SELECT num FROM mam_resource WHERE chat = ?", chat):
            lists.take_out(c, store.by_resource(num), numbers)
    _count_off(c, chat, len(numbers))


def find_original(
    c: Cursor, owner: str, peer: str, resource: str | None, sid: str, sent: bool
) -> tuple[int, bytes] | None:
    """The newest message in a conversation with this stanza id, sent by the owner or not: its number and bytes.

    `resource`: only from (or to) this resource of the peer. Looks back over `RETRACTION_REACH` messages.
    """
    account = c.value("SELECT num FROM mam_account WHERE jid = ?", owner)
    chat = None if account is None else store.chat_of(c, account, peer)
    if chat is None:
        return None
    own = JID.parse(owner)
    needle = max(_WRITTEN_DIFFERENTLY.split(sid), key=len).encode()
    wanted = SENT if sent else 0
    reach = lists.of_list(c, chat[0]).between(-1, lists.TOP, RETRACTION_REACH, backwards=True)
    for chunk, at in store.located(c, account, reach):
        if not chunk.may_hold(needle) and not chunk.may_hold(_REFERENCE):
            continue
        number, _, kind, wire = chunk.row(at)
        if kind & 7 != wanted or (needle not in wire and _REFERENCE not in wire):
            continue
        stanza = Stanza.thaw(wire)
        if stanza.id == sid and (resource is None or resource_of(stanza, kind, own) == resource):
            return number, wire
    return None
