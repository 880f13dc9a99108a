"""SCRAM keys in the database and in memory, and what decoys are made like.

The keys of all accounts are held in memory, packed, as long as there are not too many accounts: a login then needs no
thread. It is all or none, because nobody may learn from the time an answer takes who has an account.
"""

from __future__ import annotations

import hmac
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from beamish.storage.api import Cursor, Database
from beamish.stream.sasl import ALGORITHMS, Algorithm, ScramKeys

_HEAD: Final = struct.Struct(">BIBBB")
"""Index of the algorithm, iterations, and the lengths of salt, stored key and server key, which follow."""
_COUNTED: Final = 100_000
"""Accounts looked at for what iterations they have."""
_ITERATIONS: Final = (
    "SELECT iterations, COUNT(*) FROM (SELECT iterations FROM account_key WHERE algorithm = ?"
    f" LIMIT {_COUNTED}) AS counted GROUP BY iterations LIMIT 1000"
)


def store_keys(c: Cursor, user: str, keys: Iterable[ScramKeys]) -> None:
    """Put keys in the place of those that the account has."""
    c.run("DELETE FROM account_key WHERE jid = ?", user)
    c.many(
        "INSERT INTO account_key (jid, algorithm, salt, iterations, stored_key, server_key) VALUES (?, ?, ?, ?, ?, ?)",
        [(user, k.algorithm, k.salt, k.iterations, k.stored_key, k.server_key) for k in keys],
    )


async def read_keys(db: Database, user: str, algorithm: str) -> ScramKeys | None:
    """The keys of one account."""
    rows = await db.fetch(
        "SELECT algorithm, salt, iterations, stored_key, server_key FROM account_key WHERE jid = ? AND algorithm = ?",
        user,
        algorithm,
    )
    return _keys(rows[0]) if rows else None


def _keys(row: Sequence[Any]) -> ScramKeys:
    algorithm, salt, iterations, stored, server = row
    return ScramKeys(cast("Algorithm", algorithm), bytes(salt), iterations, bytes(stored), bytes(server))


class KeyTable:
    """The keys of all accounts, about 500 bytes each, for at most `most` accounts.

    `complete` tells whether it can be asked; once there are too many accounts it is empty for good.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._packed: dict[str, bytes] = {}
        self._sample = b""
        self.complete = False

    async def load(self, db: Database) -> None:
        """Read them all, unless there are too many."""
        [(count,)] = await db.fetch("SELECT COUNT(*) FROM (SELECT 1 FROM account LIMIT ?) AS counted", self._most + 1)
        self.complete = 0 < self._most >= count
        if not self.complete:
            return
        rows = await db.fetch(
            "SELECT jid, algorithm, salt, iterations, stored_key, server_key FROM account_key ORDER BY jid LIMIT ?",
            (self._most + 1) * len(ALGORITHMS),
        )
        found: dict[str, list[ScramKeys]] = {}
        for jid, *row in rows:
            found.setdefault(jid, []).append(_keys(row))
        for jid, keys in found.items():
            self.put(jid, keys)

    def put(self, user: str, keys: Iterable[ScramKeys]) -> None:
        """Take the keys of a new account, or the new ones of an account."""
        if not self.complete:
            return
        if user not in self._packed and len(self._packed) >= self._most:
            self.complete = False
            self._packed = {}
            return
        self._packed[user] = self._sample = b"".join(
            _HEAD.pack(ALGORITHMS.index(k.algorithm), k.iterations, len(k.salt), len(k.stored_key), len(k.server_key))
            + k.salt
            + k.stored_key
            + k.server_key
            for k in keys
            if len(k.salt) < 256
        )

    def remove(self, user: str) -> None:
        """Forget an account."""
        self._packed.pop(user, None)

    def get(self, user: str, algorithm: str) -> ScramKeys | None:
        """The keys of one account, None if it has none for this algorithm or there is no such account.

        For nobody somebody else's are unpacked and thrown away, so that both take the same time.
        """
        packed = self._packed.get(user)
        found = unpack(self._sample if packed is None else packed, algorithm)
        return None if packed is None else found


def unpack(packed: bytes, algorithm: str) -> ScramKeys | None:
    """The keys for one algorithm among those that were packed together."""
    at = 0
    while at < len(packed):
        number, iterations, salt, stored, server = _HEAD.unpack_from(packed, at)
        at += _HEAD.size
        end = at + salt + stored + server
        if ALGORITHMS[number] == algorithm:
            middle = at + salt
            return ScramKeys(
                ALGORITHMS[number],
                packed[at:middle],
                iterations,
                packed[middle : middle + stored],
                packed[middle + stored : end],
            )
        at = end
    return None


class DecoyIterations:
    """How many iterations a user who does not exist seems to have: spread as they are over those who do exist.

    Otherwise a change of `scram_iterations` would tell old accounts from none. As accounts move on to the present number,
    so do decoys, and none of them back.
    """

    def __init__(self, present: int) -> None:
        self._present = present
        self._counts: Counter[int] = Counter()

    async def load(self, db: Database, algorithm: Algorithm) -> None:
        """Count what the accounts have."""
        self._counts = Counter({int(number): int(count) for number, count in await db.fetch(_ITERATIONS, algorithm)})

    def added(self) -> None:
        """An account got new keys."""
        self._counts[self._present] += 1

    def of(self, secret: bytes, username: str) -> int:
        """The iterations of a decoy, the same for the same name while the accounts stay the same."""
        total = sum(self._counts.values())
        name = hmac.digest(secret, b"iterations\0" + username.encode("utf-8", "surrogatepass"), "sha256")
        at = int.from_bytes(name[:4], "big") * total >> 32
        for number in sorted(self._counts, key=lambda each: (each != self._present, -each)):
            at -= self._counts[number]
            if at < 0:
                return number
        return self._present
