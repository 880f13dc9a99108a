"""SCRAM keys in the database and in memory, and what decoys are made like.

The keys of all accounts are held in memory, packed, as long as there are not too many accounts: a login then needs no
thread. It is all or none, because nobody may learn from the time an answer takes who has an account.
"""

from __future__ import annotations

import hmac
import struct
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

from beamish.storage.api import Cursor, Database
from beamish.stream.sasl import ALGORITHMS, SALT_BYTES, Algorithm, ScramKeys

_HEAD: Final = struct.Struct(">BIBBB")
"""Index of the algorithm, iterations, and the lengths of salt, stored key and server key, which follow."""
_ALL: Final[frozenset[Algorithm]] = frozenset(ALGORITHMS)
_COUNTED: Final = 100_000
"""Accounts looked at for what iterations and salts they have."""
_SHAPES: Final = (
    "SELECT domain, iterations, salt, COUNT(*) FROM (SELECT a.domain, k.iterations, LENGTH(k.salt) AS salt "
    f"FROM account_key k JOIN account a ON a.jid = k.jid WHERE k.algorithm = ? LIMIT {_COUNTED}) AS counted "
    "GROUP BY domain, iterations, salt LIMIT 10000"
)


class Shape(NamedTuple):
    """What strangers see of an account's keys."""

    iterations: int
    salt_bytes: int


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
        packed = self._packed[user] = b"".join(
            _HEAD.pack(ALGORITHMS.index(k.algorithm), k.iterations, len(k.salt), len(k.stored_key), len(k.server_key))
            + k.salt
            + k.stored_key
            + k.server_key
            for k in keys
            if len(k.salt) < 256
        )
        self._sample = packed or self._sample  # an account without keys is no measure

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


class Lacking:
    """Which hash functions accounts have no keys for: those that another server derived, which nobody can derive anew
    without the password. Accounts without any keys, whom nobody can log in to, do not count.

    As long as one account of a domain lacks keys, the mechanisms of that hash are not offered there: clients take the
    strongest that they see, and would fail.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    async def load(self, db: Database) -> None:
        """Count what the database has of them."""
        rows = await db.fetch(
            "SELECT domain, algorithm, COUNT(*) FROM account_lacking GROUP BY domain, algorithm LIMIT 10000"
        )
        self._counts = Counter({(domain, algorithm): int(count) for domain, algorithm, count in rows})

    def add(self, domain: str, algorithms: Iterable[str]) -> None:
        """An account lacks keys for these."""
        self._counts.update((domain, algorithm) for algorithm in algorithms)

    def drop(self, domain: str, algorithms: Iterable[str]) -> None:
        """An account that lacked keys for these has them, or is gone."""
        for algorithm in algorithms:
            self._counts[domain, algorithm] -= 1
            if self._counts[domain, algorithm] <= 0:
                del self._counts[domain, algorithm]

    def __iter__(self) -> Iterator[tuple[str, str, int]]:
        """Domain, hash function, and how many accounts of the domain lack keys for it."""
        return iter(sorted((*key, count) for key, count in self._counts.items()))

    def common(self, domain: str) -> frozenset[Algorithm]:
        """The hash functions that every account of a domain has keys for."""
        if not self._counts:
            return _ALL
        return frozenset(each for each in ALGORITHMS if (domain, each) not in self._counts)


def as_credentials(keys: ScramKeys) -> bytes:
    """XEP-0227 §4.3."""
    salt, server, stored = (b64encode(part).decode() for part in (keys.salt, keys.server_key, keys.stored_key))
    return (
        f"<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-{keys.algorithm}'>"
        f"<iter-count>{keys.iterations}</iter-count><salt>{salt}</salt><server-key>{server}</server-key>"
        f"<stored-key>{stored}</stored-key></scram-credentials>"
    ).encode()


def settle_lacking(c: Cursor, user: str) -> list[str]:
    """Forget, in a transaction, what an account lacked; which hash functions those were."""
    rows = c.rows("SELECT algorithm FROM account_lacking WHERE jid = ? LIMIT 10", user)
    if rows:
        c.run("DELETE FROM account_lacking WHERE jid = ?", user)
    return [algorithm for (algorithm,) in rows]


class DecoyShapes:
    """How many iterations, and how long a salt, a user who does not exist seems to have: spread as those are over the accounts
    of the same domain.

    Otherwise a change of `scram_iterations`, or keys that another server has derived, would tell who exists. As accounts move
    on to what is made at present, so do decoys, and none of them back.
    """

    def __init__(self, present: int) -> None:
        self._present = Shape(present, SALT_BYTES)
        self._counts: dict[str, Counter[Shape]] = {}

    async def load(self, db: Database, algorithm: Algorithm) -> None:
        """Count what the accounts have."""
        self._counts = {}
        for domain, iterations, salt, count in await db.fetch(_SHAPES, algorithm):
            self._counts.setdefault(domain, Counter())[Shape(int(iterations), int(salt))] = int(count)

    def added(self, domain: str, iterations: int, salt_bytes: int) -> None:
        """An account got keys, its own or those that another server derived."""
        self._counts.setdefault(domain, Counter())[Shape(iterations, salt_bytes)] += 1

    def of(self, secret: bytes, username: str, domain: str) -> Shape:
        """What a decoy has, the same for the same name while the accounts stay the same."""
        counts = self._counts.get(domain)
        if counts is None:
            return self._present
        total = sum(counts.values())
        name = hmac.digest(secret, b"iterations\0" + username.encode("utf-8", "surrogatepass"), "sha256")
        at = int.from_bytes(name[:4], "big") * total >> 32
        for shape in sorted(counts, key=lambda each: (each != self._present, -each.iterations, each.salt_bytes)):
            at -= counts[shape]
            if at < 0:
                return shape
        return self._present
