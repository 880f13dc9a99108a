"""RFC 5802 §3: what a server keeps of a password, and what it pretends to keep for users it does not have.

`derive_keys` and `check_password` run PBKDF2, some milliseconds for 10,000 iterations: call them in a thread, never on
the event loop (the standard library releases the GIL meanwhile).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from beamish.stream.sasl.prep import SaslPrepError, saslprep

Algorithm: TypeAlias = Literal["SHA-1", "SHA-256", "SHA-512"]
"""Hash functions by the names that SCRAM mechanisms carry (RFC 5802 §4)."""

ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)
DEFAULT_ITERATIONS: Final = 10_000
SALT_BYTES: Final = 16
_UUID_BYTES: Final = 36
"""Salts of this length are UUIDs as text: Prosody's."""
MAX_PASSWORD_BYTES: Final = 1023
"""Longer passwords are refused. RFC 4616 §2 asks for 255 at the least."""

_DIGEST: Final[dict[Algorithm, str]] = {"SHA-1": "sha1", "SHA-256": "sha256", "SHA-512": "sha512"}
_HASH: Final = {"SHA-1": hashlib.sha1, "SHA-256": hashlib.sha256, "SHA-512": hashlib.sha512}
_DIGEST_BYTES: Final[dict[Algorithm, int]] = {"SHA-1": 20, "SHA-256": 32, "SHA-512": 64}


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """The stored form of a password for one hash function. It verifies a password but cannot be used to log in.

    Raises `ValueError` if the keys have not the length of the hash or there is no salt or iteration.
    """

    algorithm: Algorithm
    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what no exchange could be run with."""
        size = _DIGEST_BYTES[self.algorithm]
        if len(self.stored_key) != size or len(self.server_key) != size:
            raise ValueError(f"keys for {self.algorithm} have {size} bytes")
        if not self.salt or self.iterations < 1:
            raise ValueError("no salt or no iterations")


def digest(algorithm: Algorithm, data: bytes) -> bytes:
    """H of RFC 5802 §2.2."""
    return _HASH[algorithm](data).digest()


def mac(algorithm: Algorithm, key: bytes, data: bytes) -> bytes:
    """HMAC of RFC 5802 §2.2."""
    return hmac.digest(key, data, _DIGEST[algorithm])


def derive_keys(
    password: str, algorithm: Algorithm, *, salt: bytes | None = None, iterations: int = DEFAULT_ITERATIONS
) -> ScramKeys:
    """The keys to store for `password`, with a fresh random salt unless one is given. Blocks (PBKDF2).

    Raises `SaslPrepError` (a ValueError) for a password that is empty, too long or holds prohibited characters.
    """
    prepared = _prepared_password(password, stored=True)
    if salt is None:
        salt = secrets.token_bytes(SALT_BYTES)
    return _derive(prepared, algorithm, salt, iterations)


def check_password(keys: ScramKeys, password: str) -> bool:
    """Whether `password` is the one that `keys` were derived from. Blocks (PBKDF2); compares in constant time."""
    try:
        prepared = _prepared_password(password, stored=False)
    except SaslPrepError:
        return False
    derived = _derive(prepared, keys.algorithm, keys.salt, keys.iterations)
    return hmac.compare_digest(derived.stored_key, keys.stored_key)


def decoy_keys(
    secret: bytes,
    username: str,
    algorithm: Algorithm,
    iterations: int = DEFAULT_ITERATIONS,
    salt_bytes: int = SALT_BYTES,
) -> ScramKeys:
    """Keys for a user who does not exist: the same each time, so that salts do not tell who has an account.

    `secret` belongs to the server and must outlive a restart. `username` is prepared, since for a real account every
    spelling leads to one salt, and has the domain with it, since accounts of one name at two domains have two. As with real
    accounts, other `iterations` or `salt_bytes` have another salt. It looks as those of its length do.
    """

    def part(label: bytes, size: int) -> bytes:
        looks = f"{algorithm}\0{iterations}\0{salt_bytes}\0".encode()
        message = label + b"\0" + looks + username.encode("utf-8", "surrogatepass")
        return hmac.digest(secret, message, "sha512")[:size]

    size = _DIGEST_BYTES[algorithm]
    salt = part(b"salt", SALT_BYTES)
    if salt_bytes == _UUID_BYTES:
        salt = str(uuid.UUID(bytes=salt, version=4)).encode()
    elif salt_bytes != SALT_BYTES:
        salt = hashlib.shake_256(salt).digest(salt_bytes)
    return ScramKeys(algorithm, salt, iterations, part(b"stored", size), part(b"server", size))


def _prepared_password(password: str, *, stored: bool) -> bytes:
    if len(password) > MAX_PASSWORD_BYTES:
        raise SaslPrepError("too long")
    prepared = saslprep(password, stored=stored).encode()
    if len(prepared) > MAX_PASSWORD_BYTES:
        raise SaslPrepError("too long")
    return prepared


def _derive(prepared: bytes, algorithm: Algorithm, salt: bytes, iterations: int) -> ScramKeys:
    salted = hashlib.pbkdf2_hmac(_DIGEST[algorithm], prepared, salt, iterations)
    client_key = mac(algorithm, salted, b"Client Key")
    return ScramKeys(algorithm, salt, iterations, digest(algorithm, client_key), mac(algorithm, salted, b"Server Key"))
