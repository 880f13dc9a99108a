"""vCards on disk: the card without its photo, and the photo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from beamish.modules.vcard.photo import Photo
from beamish.storage.api import Cursor, Database, Migration
from beamish.xmpp.jid import JID

MIGRATIONS: Final = (
    Migration(
        1,
        (
            "CREATE TABLE vcard (owner TEXT NOT NULL PRIMARY KEY, card {bytes}, photo {bytes}, photo_type TEXT NOT NULL,"
            " photo_hash TEXT NOT NULL, photo_shared INTEGER NOT NULL)",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Profile:
    """What an account shows of itself. `card` is a vcard-temp without the photo, None if none was ever set.

    `shared`: the photo came with a vCard, which is for everybody; otherwise who may see it is up to the avatar's node.
    """

    card: bytes | None = None
    photo: Photo | None = None
    shared: bool = True


class Profiles:
    """The table."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, owner: JID) -> Profile:
        """The profile of an account; an empty one if there is none."""
        # through the queue of writes, behind what the client has just stored
        return await self._db.write("vcard.get", lambda cursor: read(cursor, owner))

    async def hash(self, owner: JID) -> str:
        """The hash of the photo, "" for none."""
        rows = await self._db.fetch("SELECT photo_hash FROM vcard WHERE owner = ?", str(owner))
        return str(rows[0][0]) if rows else ""

    async def change(self, owner: JID, change: Callable[[Profile], Profile]) -> tuple[Profile, Profile]:
        """Change a profile: `change` makes the new one from the old one, on the database's thread. Returns both."""

        def run(cursor: Cursor) -> tuple[Profile, Profile]:
            before = read(cursor, owner)
            after = change(before)
            if after != before:
                write(cursor, owner, after)
            return before, after

        return await self._db.write("vcard.change", run)

    async def delete(self, owner: JID) -> None:
        """Delete everything about an account."""
        await self.change(owner, lambda before: Profile())


def write(cursor: Cursor, owner: JID, profile: Profile) -> None:
    """Store the row of an account, or delete it if there is nothing in it."""
    photo = profile.photo
    if profile.card is None and photo is None:
        cursor.run("DELETE FROM vcard WHERE owner = ?", str(owner))
        return
    cursor.run(
        "INSERT INTO vcard (owner, card, photo, photo_type, photo_hash, photo_shared) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (owner) DO UPDATE SET card = excluded.card, photo = excluded.photo,"
        " photo_type = excluded.photo_type, photo_hash = excluded.photo_hash, photo_shared = excluded.photo_shared",
        str(owner),
        profile.card,
        None if photo is None else photo.data,
        "" if photo is None else photo.type,
        "" if photo is None else photo.hash,
        int(profile.shared),
    )


def read(cursor: Cursor, owner: JID) -> Profile:
    """The row of an account."""
    row = cursor.row("SELECT card, photo, photo_type, photo_hash, photo_shared FROM vcard WHERE owner = ?", str(owner))
    if row is None:
        return Profile()
    card, data, type_, hash_, shared = row
    photo = None if data is None else Photo(bytes(data), type_, hash_)
    return Profile(None if card is None else bytes(card), photo, bool(shared))
