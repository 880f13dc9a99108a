"""Rooms in the database: what must outlive the process. Reading happens once, at start; every change is one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from beamish.modules.muc.config_form import RoomConfig
from beamish.modules.muc.hats import Hat
from beamish.modules.muc.history import Subject
from beamish.modules.muc.privileges import Affiliation, Standing
from beamish.storage.api import Cursor, Database, Migration
from beamish.xmpp.jid import JID

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE muc_room (room TEXT PRIMARY KEY, creator TEXT NOT NULL, created {timestamp} NOT NULL, "
            "persistent INTEGER NOT NULL, config TEXT NOT NULL, secret {bytes} NOT NULL, "
            "subject {bytes}, subject_sender TEXT, subject_occupant {bytes}, subject_stamp {timestamp}, "
            "subject_text TEXT, vcard {bytes}, avatars TEXT NOT NULL DEFAULT '')",
            "CREATE TABLE muc_standing (room TEXT NOT NULL REFERENCES muc_room (room) ON DELETE CASCADE, "
            "jid TEXT NOT NULL, affiliation INTEGER NOT NULL, nick TEXT NOT NULL, reason TEXT NOT NULL, "
            "PRIMARY KEY (room, jid))",
            "CREATE INDEX muc_standing_jid ON muc_standing (jid)",
            "CREATE TABLE muc_hat (room TEXT NOT NULL REFERENCES muc_room (room) ON DELETE CASCADE, uri TEXT NOT NULL, "
            "title TEXT NOT NULL, hue TEXT NOT NULL, PRIMARY KEY (room, uri))",
            "CREATE TABLE muc_wearer (room TEXT NOT NULL, jid TEXT NOT NULL, uri TEXT NOT NULL, "
            "PRIMARY KEY (room, jid, uri), FOREIGN KEY (room, uri) REFERENCES muc_hat (room, uri) ON DELETE CASCADE)",
            "CREATE TABLE muc_archive (id {pk}, room TEXT NOT NULL, uid TEXT NOT NULL, stamp {timestamp} NOT NULL, "
            "sender TEXT NOT NULL, bare TEXT NOT NULL, nick TEXT NOT NULL, kind INTEGER NOT NULL, "
            "logged INTEGER NOT NULL, stanza {bytes} NOT NULL)",
            "CREATE UNIQUE INDEX muc_archive_uid ON muc_archive (room, uid)",
            "CREATE INDEX muc_archive_order ON muc_archive (room, id)",
            "CREATE INDEX muc_archive_stamp ON muc_archive (room, stamp)",
        ),
    ),
    Migration(
        2,
        (
            "CREATE TABLE muc_occupant (room TEXT NOT NULL, nick TEXT NOT NULL, bare TEXT NOT NULL, "
            "PRIMARY KEY (room, nick))",
        ),
    ),
    # what is kept for the history alone is found without a look at the archive of a room that once had one
    Migration(3, ("CREATE INDEX muc_archive_unlogged ON muc_archive (room, id) WHERE logged = 0",)),
    Migration(
        4,
        (
            "CREATE TABLE muc_note (id {pk}, room TEXT NOT NULL, kind INTEGER NOT NULL, jid TEXT NOT NULL, "
            "other TEXT NOT NULL, number INTEGER NOT NULL, text TEXT NOT NULL)",
            "CREATE UNIQUE INDEX muc_note_key ON muc_note (room, kind, jid, other)",
            "CREATE INDEX muc_note_jid ON muc_note (jid)",
            "CREATE INDEX muc_note_other ON muc_note (other)",
        ),
    ),
)


class NoteKind(IntEnum):
    """What a room remembers besides what its owners decide; the numbers are stored."""

    ROLE = 1
    """`jid` has the role `number` when it comes back."""
    INVITATION = 2
    """`jid` was invited by `other`, who is told if it declines."""
    REQUEST = 3
    """`jid` wants to register the nickname `text`; the admins have been asked for it, and for others, `number` times."""


class Note(NamedTuple):
    """Something that a room remembers; there is one for each kind, `jid` and `other`."""

    kind: NoteKind
    jid: JID
    other: str = ""
    number: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class StoredRoom:
    """A room as it is in the database, without its messages."""

    jid: JID
    creator: JID
    created: float
    config: RoomConfig
    secret: bytes
    subject: Subject = field(default_factory=Subject)
    avatars: tuple[str, ...] = ()
    standings: tuple[tuple[JID, Standing], ...] = ()
    hats: tuple[Hat, ...] = ()
    wearers: tuple[tuple[JID, str], ...] = ()
    occupants: tuple[tuple[str, JID], ...] = ()
    """Who was inside when the server ended: nickname and bare JID."""
    notes: tuple[Note, ...] = ()
    """The oldest first."""


class RoomStore(Protocol):
    """Where rooms are kept."""

    async def load(self) -> list[StoredRoom]:
        """All rooms. In temporary ones there may be sessions that outlive the server."""

    async def create(self, room: StoredRoom) -> None:
        """Enter a room with its affiliations."""

    async def save(
        self,
        room: JID,
        config: RoomConfig | None,
        standings: Iterable[tuple[JID, Standing]],
        *,
        answered: JID | None = None,
        own: bool = False,
    ) -> None:
        """Store a configuration and changed affiliations, together with the end of what these make void: remembered roles.

        `answered`: whose request to register is granted by that. `own`: by those concerned, whose roles are as they were.
        """

    async def delete(self, room: JID) -> None:
        """Delete a room with everything it has."""

    def forget(self, room: JID) -> None:
        """As `delete`, without waiting: a temporary room was left by the last occupant."""

    def set_subject(self, room: JID, subject: Subject) -> int:
        """Store a subject; the position in the queue of the database."""

    def came(self, room: JID, nick: str, bare: JID) -> None:
        """Note, without waiting, that somebody is inside. Raises `StorageBusy`."""

    def went(self, room: JID, nick: str) -> None:
        """Note, without waiting, that somebody is not inside any more. Raises `StorageBusy`."""

    def note(self, room: JID, note: Note) -> int:
        """Remember something, as the newest of the room, without waiting; its position. Raises `StorageBusy`."""

    def erase(self, room: JID, kind: NoteKind, jid: JID, other: str = "") -> int:
        """Forget it again, without waiting; the position of that. Raises `StorageBusy`."""

    async def erase_user(self, user: JID) -> None:
        """Forget all that rooms remember of somebody."""

    async def set_vcard(self, room: JID, vcard: bytes, avatars: Sequence[str]) -> None:
        """Store the room's vCard and the hashes of the pictures in it."""

    async def vcard(self, room: JID) -> bytes:
        """The room's vCard, empty if there is none."""

    async def set_hat(self, room: JID, hat: Hat) -> None:
        """Make or change a hat."""

    async def remove_hat(self, room: JID, uri: str) -> None:
        """Remove a hat from the room and from everybody who wears it."""

    async def set_wearer(self, room: JID, jid: JID, uri: str, wears: bool) -> None:
        """Give a hat to a user, or take it."""


class SqlRoomStore:
    """`RoomStore` in SQL."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def load(self) -> list[StoredRoom]:
        """See `RoomStore.load`."""

        def txn(c: Cursor) -> list[StoredRoom]:
            standings: dict[str, list[tuple[JID, Standing]]] = {}
            for room, jid, affiliation, nick, reason in c.rows(
                "SELECT room, jid, affiliation, nick, reason FROM muc_standing"
            ):
                standing = Standing(Affiliation(affiliation), nick, reason)
                standings.setdefault(room, []).append((JID.parse(jid), standing))
            hats: dict[str, list[Hat]] = {}
            for room, uri, title, hue in c.rows("SELECT room, uri, title, hue FROM muc_hat ORDER BY uri"):
                hats.setdefault(room, []).append(Hat(uri, title, hue))
            wearers: dict[str, list[tuple[JID, str]]] = {}
            for room, jid, uri in c.rows("SELECT room, jid, uri FROM muc_wearer ORDER BY jid, uri"):
                wearers.setdefault(room, []).append((JID.parse(jid), uri))
            inside: dict[str, list[tuple[str, JID]]] = {}
            for room, nick, bare in c.rows("SELECT room, nick, bare FROM muc_occupant ORDER BY nick"):
                inside.setdefault(room, []).append((nick, JID.parse(bare)))
            notes: dict[str, list[Note]] = {}
            for room, kind, jid, other, number, text in c.rows(
                "SELECT room, kind, jid, other, number, text FROM muc_note ORDER BY id"
            ):
                notes.setdefault(room, []).append(Note(NoteKind(kind), JID.parse(jid), other, number, text))
            return [
                StoredRoom(
                    JID.parse(room),
                    JID.parse(creator),
                    created,
                    RoomConfig.from_json(config),
                    bytes(secret),
                    Subject()
                    if content is None
                    else Subject(bytes(content), JID.parse(sender) if sender else None, bytes(occupant), stamp, text),
                    tuple(avatars.split()),
                    tuple(standings.get(room, ())),
                    tuple(hats.get(room, ())),
                    tuple(wearers.get(room, ())),
                    tuple(inside.get(room, ())),
                    tuple(notes.get(room, ())),
                )
                for room, creator, created, config, secret, content, sender, occupant, stamp, text, avatars in c.rows(
                    "SELECT room, creator, created, config, secret, subject, subject_sender, subject_occupant, "
                    "subject_stamp, subject_text, avatars FROM muc_room"
                )
            ]

        return await self._db.write("muc.load", txn)

    async def create(self, room: StoredRoom) -> None:
        """See `RoomStore.create`."""

        def txn(c: Cursor) -> None:
            _delete(c, room.jid)  # nothing of an earlier room of this name is to be found in it
            c.run(
                "INSERT INTO muc_room (room, creator, created, persistent, config, secret) VALUES (?, ?, ?, ?, ?, ?)",
                str(room.jid),
                str(room.creator),
                room.created,
                int(room.config.persistent),
                room.config.to_json(),
                room.secret,
            )
            _store_standings(c, room.jid, room.standings)
            c.many(
                "INSERT INTO muc_occupant (room, nick, bare) VALUES (?, ?, ?)",
                [(str(room.jid), nick, str(bare)) for nick, bare in room.occupants],
            )

        await self._db.write("muc.create", txn)

    async def save(
        self,
        room: JID,
        config: RoomConfig | None,
        standings: Iterable[tuple[JID, Standing]],
        *,
        answered: JID | None = None,
        own: bool = False,
    ) -> None:
        """See `RoomStore.save`."""
        changed = list(standings)

        def txn(c: Cursor) -> None:
            if config is not None:
                c.run(
                    "UPDATE muc_room SET config = ?, persistent = ? WHERE room = ?",
                    config.to_json(),
                    int(config.persistent),
                    str(room),
                )
            _store_standings(c, room, changed)
            void = [] if own else [(str(room), int(NoteKind.ROLE), str(jid)) for jid, _ in changed]
            if answered is not None:
                void.append((str(room), int(NoteKind.REQUEST), str(answered)))
            c.many("DELETE FROM muc_note WHERE room = ? AND kind = ? AND jid = ?", void)

        await self._db.write("muc.save", txn)

    async def delete(self, room: JID) -> None:
        """See `RoomStore.delete`."""
        await self._db.write("muc.delete", lambda c: _delete(c, room))

    def forget(self, room: JID) -> None:
        """See `RoomStore.forget`."""
        self._db.submit("muc.forget", lambda c: _delete(c, room))

    def set_subject(self, room: JID, subject: Subject) -> int:
        """See `RoomStore.set_subject`."""
        return self._db.append(
            "muc.subject",
            "UPDATE muc_room SET subject = ?, subject_sender = ?, subject_occupant = ?, subject_stamp = ?, "
            "subject_text = ? WHERE room = ?",
            (
                subject.content,
                None if subject.sender is None else str(subject.sender),
                subject.occupant,
                subject.stamp,
                subject.text,
                str(room),
            ),
        )

    def came(self, room: JID, nick: str, bare: JID) -> None:
        """See `RoomStore.came`."""
        self._db.append(
            "muc.came",
            "INSERT INTO muc_occupant (room, nick, bare) VALUES (?, ?, ?) "
            "ON CONFLICT (room, nick) DO UPDATE SET bare = excluded.bare",
            (str(room), nick, str(bare)),
        )

    def went(self, room: JID, nick: str) -> None:
        """See `RoomStore.went`."""
        self._db.append("muc.went", "DELETE FROM muc_occupant WHERE room = ? AND nick = ?", (str(room), nick))

    def note(self, room: JID, note: Note) -> int:
        """See `RoomStore.note`."""
        self.erase(room, note.kind, note.jid, note.other)
        return self._db.append(
            "muc.note",
            "INSERT INTO muc_note (room, kind, jid, other, number, text) VALUES (?, ?, ?, ?, ?, ?)",
            (str(room), int(note.kind), str(note.jid), note.other, note.number, note.text),
        )

    def erase(self, room: JID, kind: NoteKind, jid: JID, other: str = "") -> int:
        """See `RoomStore.erase`."""
        return self._db.append(
            "muc.erase",
            "DELETE FROM muc_note WHERE room = ? AND kind = ? AND jid = ? AND other = ?",
            (str(room), int(kind), str(jid), other),
        )

    async def erase_user(self, user: JID) -> None:
        """See `RoomStore.erase_user`."""

        def txn(c: Cursor) -> None:
            c.run("DELETE FROM muc_note WHERE jid = ?", str(user))
            c.run("DELETE FROM muc_note WHERE other = ?", str(user))

        await self._db.write("muc.erase_user", txn)

    async def set_vcard(self, room: JID, vcard: bytes, avatars: Sequence[str]) -> None:
        """See `RoomStore.set_vcard`."""

        def txn(c: Cursor) -> None:
            c.run("UPDATE muc_room SET vcard = ?, avatars = ? WHERE room = ?", vcard, " ".join(avatars), str(room))

        await self._db.write("muc.vcard", txn)

    async def vcard(self, room: JID) -> bytes:
        """See `RoomStore.vcard`."""
        rows = await self._db.fetch("SELECT vcard FROM muc_room WHERE room = ?", str(room))
        return bytes(rows[0][0]) if rows and rows[0][0] is not None else b""

    async def set_hat(self, room: JID, hat: Hat) -> None:
        """See `RoomStore.set_hat`."""

        def txn(c: Cursor) -> None:
            c.run(
                "INSERT INTO muc_hat (room, uri, title, hue) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (room, uri) DO UPDATE SET title = excluded.title, hue = excluded.hue",
                str(room),
                hat.uri,
                hat.title,
                hat.hue,
            )

        await self._db.write("muc.hat", txn)

    async def remove_hat(self, room: JID, uri: str) -> None:
        """See `RoomStore.remove_hat`."""

        def txn(c: Cursor) -> None:
            c.run("DELETE FROM muc_wearer WHERE room = ? AND uri = ?", str(room), uri)
            c.run("DELETE FROM muc_hat WHERE room = ? AND uri = ?", str(room), uri)

        await self._db.write("muc.hat", txn)

    async def set_wearer(self, room: JID, jid: JID, uri: str, wears: bool) -> None:
        """See `RoomStore.set_wearer`."""
        sql = (
            "INSERT INTO muc_wearer (room, jid, uri) VALUES (?, ?, ?) ON CONFLICT (room, jid, uri) DO NOTHING"
            if wears
            else "DELETE FROM muc_wearer WHERE room = ? AND jid = ? AND uri = ?"
        )

        def txn(c: Cursor) -> None:
            c.run(sql, str(room), str(jid), uri)

        await self._db.write("muc.wearer", txn)


def _store_standings(c: Cursor, room: JID, standings: Iterable[tuple[JID, Standing]]) -> None:
    for jid, standing in standings:
        if standing.affiliation is Affiliation.NONE:
            c.run("DELETE FROM muc_standing WHERE room = ? AND jid = ?", str(room), str(jid))
        else:
            c.run(
                "INSERT INTO muc_standing (room, jid, affiliation, nick, reason) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (room, jid) DO UPDATE SET affiliation = excluded.affiliation, nick = excluded.nick, "
                "reason = excluded.reason",
                str(room),
                str(jid),
                int(standing.affiliation),
                standing.nick,
                standing.reason,
            )


def _delete(c: Cursor, room: JID) -> None:
    for table in ("muc_note", "muc_occupant", "muc_archive", "muc_wearer", "muc_hat", "muc_standing", "muc_room"):
        c.run(f"DELETE FROM {table} WHERE room = ?", str(room))
