"""Messages of rooms in the database: the history that newcomers get, and the archive of XEP-0313 for rooms (§6.1.2).

Every message is stored once, as the room reflected it, in the order of the database's queue. Messages of rooms without
an archive are stored as well, for the history alone, and only the last of them are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from beamish.core.clock import parse_stamp, stamp
from beamish.modules.muc.history import MAX_KEPT, Kept
from beamish.modules.muc.names import FASTEN, FORWARD, MAM, MODERATE, MODERATE_0, MUC_USER, RETRACT, RETRACT_0
from beamish.storage.api import Cursor, Database
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload import forms, rsm
from beamish.xmpp.payload.forms import Form, Submission
from beamish.xmpp.stanza import MESSAGE, Stanza, insert_child
from beamish.xmpp.xml import Element, escape_attr, escape_text, to_bytes

PAGE: Final = 50
"""Messages in a page when the request names no number."""
MAX_PAGE: Final = 250
MAX_PAGE_BYTES: Final = 1_048_576
"""Bytes of messages in a page, so that a reader cannot ask for more than a connection may hold."""
MAX_IDS: Final = 250
EXPIRE_AT_ONCE: Final = 256
"""Messages deleted in one transaction because of their age, so that other writes are not kept waiting (about 3 ms)."""
EXPIRE_ROOMS: Final = 500
"""Rooms looked at in one query for what is too old."""
TRIM: Final = (
    "DELETE FROM muc_archive WHERE room = ? AND logged = 0 AND id NOT IN "
    "(SELECT id FROM muc_archive WHERE room = ? AND kind = ? ORDER BY id DESC LIMIT ?)"
)
OLD: Final = (
    "SELECT a.id FROM (SELECT room FROM muc_room WHERE room > ? ORDER BY room LIMIT ?) AS r "
    "CROSS JOIN muc_archive AS a WHERE a.room = r.room AND a.stamp < ? LIMIT ?"
)

TALK: Final = 0
"""An archived message that is part of the history, too."""
SUBJECT_CHANGE: Final = 1

_APPEND: Final = (
    "INSERT INTO muc_archive (room, uid, stamp, sender, bare, nick, kind, logged, stanza) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One archived message: position, archive id, time, who really sent it ("" for the room), and its bytes."""

    id: int
    uid: str
    stamp: float
    sender: str
    stanza: bytes


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of an archive. `with_real` or `with_nick` is the sender; ids are archive ids."""

    start: float | None = None
    end: float | None = None
    with_real: str = ""
    with_nick: str = ""
    before_id: str = ""
    after_id: str = ""
    ids: tuple[str, ...] = ()
    page: rsm.Request | None = None
    flip: bool = False
    query_id: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A page of an archive, oldest first. `count` is known only where nothing but the number was asked for."""

    rows: tuple[Row, ...]
    complete: bool
    count: int | None = None


def read_query(el: Element, room: JID) -> Query:
    """Read `<query xmlns='urn:xmpp:mam:2'/>` sent to a room. Raises `StanzaError` (XEP-0313 §4.1).

    `with` names a sender by occupant address, or by real address (whoever may not know those is refused by the caller).
    """
    x = el.find(forms.X)
    submitted = Submission() if x is None else Submission.from_xml(x, MAM)
    for var in submitted.fields:
        if var not in _FIELDS and not var.startswith("{"):
            raise StanzaError(Condition.FEATURE_NOT_IMPLEMENTED, text=f"there is no field {var}")
    with_ = submitted.jids("with")
    with_real = with_nick = ""
    if with_:
        if with_[0].bare == room:
            with_nick = with_[0].resource
        else:
            with_real = str(with_[0])
    ids = submitted.texts("ids") or ()
    if len(ids) > MAX_IDS:
        raise StanzaError(Condition.BAD_REQUEST, text="too many ids")
    return Query(
        _time(submitted, "start"),
        _time(submitted, "end"),
        with_real,
        with_nick,
        submitted.text("before-id") or "",
        submitted.text("after-id") or "",
        tuple(ids),
        rsm.Request.from_xml(el),
        el.find(f"{{{MAM}}}flip-page") is not None,
        el.get("queryid", ""),
    )


_FIELDS: Final = ("with", "start", "end", "before-id", "after-id", "ids", "include-groupchat")


def _time(submitted: Submission, var: str) -> float | None:
    text = submitted.text(var)
    if not text:
        return None
    try:
        return parse_stamp(text)
    except ValueError as exc:
        raise StanzaError(Condition.BAD_REQUEST, text=f"{var} is not a date and time") from exc


def query_form() -> Element:
    """The fields that a query may have (XEP-0313 §4.1.5)."""
    fields = (
        forms.Field("with", "jid-single"),
        forms.Field("start", "text-single"),
        forms.Field("end", "text-single"),
        forms.Field("before-id", "text-single"),
        forms.Field("after-id", "text-single"),
        forms.Field("ids", "list-multi", datatype="xs:string", open=True),
    )
    return Form.of("form", MAM, fields).to_xml()


class Archive:
    """The archive of all rooms."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def append(self, room: JID, kept: Kept, sender: JID | None, kind: int, logged: bool) -> int:
        """Queue a message; its position in the database's queue. Raises `StorageBusy`."""
        stanza = kept.stanza
        return self._db.append(
            "muc.archive",
            _APPEND,
            (
                str(room),
                kept.uid,
                kept.stamp,
                "" if sender is None else str(sender),
                "" if kept.bare is None else str(kept.bare),
                "" if stanza.sender is None else stanza.sender.resource,
                kind,
                int(logged),
                archived_bytes(stanza),
            ),
        )

    async def history(self, room: JID, limit: int) -> list[Kept]:
        """The last messages of a room's talk, oldest first, including everything queued before."""
        await self._db.flushed()
        rows = await self._db.fetch(
            "SELECT uid, stamp, bare, stanza FROM muc_archive WHERE room = ? AND kind = ? ORDER BY id DESC LIMIT ?",
            str(room),
            TALK,
            min(limit, MAX_KEPT),
        )
        return [
            Kept(uid, when, Stanza.parse(bytes(data)).detached(), JID.parse(bare) if bare else None)
            for uid, when, bare, data in reversed(rows)
        ]

    async def query(self, room: JID, query: Query) -> Result:
        """A page of a room's archive. Raises `StanzaError(item-not-found)` for ids that are not in it (§4.2.2, §4.1.3)."""
        await self._db.flushed()
        return await self._db.read("muc.query", lambda c: _query(c, room, query))

    async def ends(self, room: JID) -> tuple[tuple[str, float], tuple[str, float]] | None:
        """Archive id and time of the oldest and the newest message, None for an empty archive (§5.1)."""
        await self._db.flushed()

        def read(c: Cursor) -> tuple[tuple[str, float], tuple[str, float]] | None:
            sql = "SELECT uid, stamp FROM muc_archive WHERE room = ? AND logged = 1 ORDER BY id"
            first = c.row(f"{sql} LIMIT 1", str(room))
            last = c.row(f"{sql} DESC LIMIT 1", str(room))
            return None if first is None or last is None else ((first[0], first[1]), (last[0], last[1]))

        return await self._db.read("muc.ends", read)

    async def find(self, room: JID, uid: str) -> tuple[bytes, str] | None:
        """The bytes and the sender's bare JID of an archived message."""
        await self._db.flushed()
        rows = await self._db.fetch("SELECT stanza, bare FROM muc_archive WHERE room = ? AND uid = ?", str(room), uid)
        return (bytes(rows[0][0]), rows[0][1]) if rows else None

    async def bury(self, room: JID, uid: str, tombstone: bytes, moved: Kept, logged: bool) -> None:
        """Replace a moderated message by its tombstone and store the message that retracts it, together (XEP-0425 §6)."""

        def txn(c: Cursor) -> None:
            c.run(
                "UPDATE muc_archive SET stanza = ?, kind = ? WHERE room = ? AND uid = ?",
                tombstone,
                _GRAVE,
                str(room),
                uid,
            )
            c.run(
                _APPEND,
                str(room),
                moved.uid,
                moved.stamp,
                "",
                "",
                "",
                _GRAVE,
                int(logged),
                archived_bytes(moved.stanza),
            )

        await self._db.write("muc.moderate", txn)

    def retract(self, room: JID, uid: str, bare: JID, retraction_id: str, when: float) -> int:
        """Replace a message by a tombstone if this user sent it (XEP-0424 §5); its position in the queue."""

        def txn(c: Cursor) -> None:
            row = c.row(
                "SELECT stanza FROM muc_archive WHERE room = ? AND uid = ? AND bare = ? AND kind IN (?, ?)",
                str(room),
                uid,
                str(bare),
                TALK,
                ASIDE,
            )
            if row is not None:
                inner = f"<retracted xmlns='{RETRACT}' id='{escape_attr(retraction_id)}' stamp='{stamp(when)}'/>"
                c.run(
                    "UPDATE muc_archive SET stanza = ?, kind = ? WHERE room = ? AND uid = ?",
                    tombstone(bytes(row[0]), inner),
                    _GRAVE,
                    str(room),
                    uid,
                )

        return self._db.submit("muc.retract", txn)

    def trim(self, room: JID, keep: int) -> None:
        """Of messages that are stored for the history alone, keep only the last ones."""

        def txn(c: Cursor) -> None:
            c.run(TRIM, str(room), str(room), TALK, keep)

        self._db.submit("muc.trim", txn)

    async def expire(self, before: float) -> None:
        """Delete what is older, room by room, a few at a time; where nothing is, nothing is written. Raises `StorageError`."""
        after = ""
        while True:
            old, last = await self._db.read("muc.old", partial(_old, before=before, after=after))
            if old:
                await self._db.write(
                    "muc.expire",
                    lambda c, old=old: c.many("DELETE FROM muc_archive WHERE id = ?", old),  # type: ignore[misc]
                )
            if len(old) == EXPIRE_AT_ONCE:
                continue
            if not last:
                return
            after = last


def _old(c: Cursor, before: float, after: str) -> tuple[list[tuple[int]], str]:
    """Rows that are too old in the rooms after one, and up to which of them was looked; "" for all."""
    old = [(int(id_),) for (id_,) in c.rows(OLD, after, EXPIRE_ROOMS, before, EXPIRE_AT_ONCE)]
    last = c.value("SELECT room FROM muc_room WHERE room > ? ORDER BY room LIMIT 1 OFFSET ?", after, EXPIRE_ROOMS - 1)
    return old, last or ""


_GRAVE: Final = 2
"""A tombstone, or a moderator's retraction: in the archive, not in the history."""
ASIDE: Final = 3
"""Reactions, markers and the like: in the archive, not in the history."""


def archived_bytes(stanza: Stanza) -> bytes:
    """The stanza with its sender and without a recipient (XEP-0313 §6.1.2: no `to`)."""
    assert stanza.sender is not None
    return b"".join((stanza.head, b" from='", stanza.sender.wire, b"'", stanza.body))


def tombstone(stored: bytes, retracted: str) -> bytes:
    """What is left of a stored message: its head, the author's occupant id, and that it was retracted."""
    original = Stanza.parse(stored)
    kept = b""
    occupant = original.child("{urn:xmpp:occupant-id:0}occupant-id")
    if occupant is not None:
        kept = f"<occupant-id xmlns='urn:xmpp:occupant-id:0' id='{escape_attr(occupant.get('id', ''))}'/>".encode()
    rest = Stanza.build(
        MESSAGE, original.type, id=original.id, sender=original.sender, content=kept + retracted.encode()
    )
    return archived_bytes(rest)


def moderated_bytes(tag: str, attrs: str, by: JID | None, occupant: bytes, reason: str) -> str:
    """`<retract/>` or `<retracted/>` with the `<moderated/>` of XEP-0425 §5.1 and §6."""
    by_ = f" by='{escape_attr(by)}'" if by is not None else ""
    text = f"<reason>{escape_text(reason)}</reason>" if reason else ""
    moderated = f"<moderated xmlns='{MODERATE}'{by_}>{occupant.decode()}</moderated>"
    return f"<{tag} xmlns='{RETRACT}'{attrs}>{moderated}{text}</{tag}>"


def fastened_bytes(uid: str, by: JID, reason: str) -> str:
    """The same retraction as XEP-0425 0.2 has it, for clients that know no later version: it goes into the same message."""
    text = f"<reason>{escape_text(reason)}</reason>" if reason else ""
    moderated = (
        f"<moderated xmlns='{MODERATE_0}' by='{escape_attr(by)}'><retract xmlns='{RETRACT_0}'/>{text}</moderated>"
    )
    return f"<apply-to xmlns='{FASTEN}' id='{escape_attr(uid)}'>{moderated}</apply-to>"


class _Where:
    """Conditions on the messages of a room. An id that is not in its archive is `StanzaError(item-not-found)`."""

    def __init__(self, c: Cursor, room: JID) -> None:
        self._c = c
        self._room = room
        self._conditions = ["room = ?", "logged = 1"]
        self.values: list[object] = [str(room)]

    def __str__(self) -> str:
        return " AND ".join(self._conditions)

    def also(self, condition: str, *values: object) -> None:
        self._conditions.append(condition)
        self.values.extend(values)

    def between(self, after: str | None, before: str | None) -> None:
        """After and before the messages with these ids, if there are any."""
        if after:
            self.also("id > ?", _position(self._c, self._room, after))
        if before:
            self.also("id < ?", _position(self._c, self._room, before))


def _wanted(c: Cursor, room: JID, query: Query) -> _Where:
    where = _Where(c, room)
    if query.start is not None:
        where.also("stamp >= ?", query.start)
    if query.end is not None:
        where.also("stamp <= ?", query.end)
    if query.with_nick:
        where.also("nick = ?", query.with_nick)
    if query.with_real:
        where.also("sender = ?" if "/" in query.with_real else "bare = ?", query.with_real)
    where.between(query.after_id, query.before_id)
    if query.ids:
        for uid in query.ids:
            _position(c, room, uid)
        where.also(f"uid IN ({', '.join('?' * len(query.ids))})", *query.ids)
    return where


def _query(c: Cursor, room: JID, query: Query) -> Result:
    where = _wanted(c, room, query)
    page = query.page or rsm.Request()
    if page.max == 0:  # XEP-0059 §2.7: only the number
        count = c.value(f"SELECT count(*) FROM muc_archive WHERE {where}", *where.values)
        return Result((), False, int(count))
    backwards = page.before is not None and page.after is None
    where.between(page.after, page.before)
    size = min(page.max or PAGE, MAX_PAGE)
    rows = c.rows(
        f"SELECT id, uid, stamp, sender, stanza FROM muc_archive WHERE {where} "
        f"ORDER BY id {'DESC' if backwards else 'ASC'} LIMIT ?",
        *where.values,
        size + 1,
    )
    fits = _fitting(rows[:size])
    complete = len(rows) <= size and fits == len(rows)
    rows = rows[:fits]
    if backwards:
        rows.reverse()
    return Result(tuple(Row(i, uid, when, sender, bytes(data)) for i, uid, when, sender, data in rows), complete)


def _fitting(rows: list[tuple[Any, ...]]) -> int:
    """How many of the rows go into one page by their size; at least one."""
    total = 0
    for at, row in enumerate(rows):
        total += len(row[4])
        if total > MAX_PAGE_BYTES and at:
            return at
    return len(rows)


def _position(c: Cursor, room: JID, uid: str) -> int:
    found = c.value("SELECT id FROM muc_archive WHERE room = ? AND uid = ? AND logged = 1", str(room), uid)
    if found is None:
        raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such message in the archive")
    return int(found)


def result_messages(room: JID, to: JID, query: Query, rows: Sequence[Row], show_real: bool) -> list[Stanza]:
    """The messages that carry a page to its reader (§4.2), with real addresses for those who may know them (§6.1.2)."""
    query_id = f" queryid='{escape_attr(query.query_id)}'" if query.query_id else ""
    ordered = reversed(rows) if query.flip else rows
    out: list[Stanza] = []
    for row in ordered:
        data = row.stanza.replace(b"<message", b"<message xmlns='jabber:client'", 1)
        if show_real and row.sender:
            item = f"<x xmlns='{MUC_USER}'><item jid='{escape_attr(row.sender)}'/></x>"
            data = insert_child(data, MESSAGE, item.encode())
        content = b"".join(
            (
                f"<result xmlns='{MAM}'{query_id} id='{escape_attr(row.uid)}'><forwarded xmlns='{FORWARD}'>"
                f"<delay xmlns='{ns.DELAY}' stamp='{stamp(row.stamp)}'/>".encode(),
                data,
                b"</forwarded></result>",
            )
        )
        out.append(Stanza.build(MESSAGE, sender=room, to=to, content=content))
    return out


def fin_bytes(result: Result) -> bytes:
    """The end of a page (§4.2.1): ids of its ends, and whether there is more in its direction."""
    rows = result.rows
    page = rsm.Page(rows[0].uid if rows else None, rows[-1].uid if rows else None, result.count)
    complete = " complete='true'" if result.complete else ""
    return f"<fin xmlns='{MAM}'{complete}>".encode() + to_bytes(page.to_xml()) + b"</fin>"
