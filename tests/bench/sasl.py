"""The client's side of SASL PLAIN (RFC 4616) and SCRAM (RFC 5802, RFC 7677), cheap enough for a load generator.

The one costly step, PBKDF2, is remembered per (hash, password, salt, iterations): a login repeated for an account
whose keys are known costs a handful of HMACs. The server's signature is checked all the same: a server that skips
it, or gets it wrong, must not look fast.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from functools import lru_cache

HASHES = {"SCRAM-SHA-1": "sha1", "SCRAM-SHA-256": "sha256"}


class SaslError(Exception):
    """The server broke SASL: a bad nonce, a bad signature, a field that is missing."""


@lru_cache(maxsize=65_536)
def client_keys(hash_name: str, password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes, bytes]:
    """Derive (ClientKey, StoredKey, ServerKey) as RFC 5802 §3 says; remembered, bounded to 65,536 accounts."""
    salted = hashlib.pbkdf2_hmac(hash_name, password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", hash_name)
    return client_key, hashlib.new(hash_name, client_key).digest(), hmac.digest(salted, b"Server Key", hash_name)


def plain(username: str, password: str) -> bytes:
    """Return the only message of PLAIN, in base64."""
    return b64encode(b"\0" + username.encode() + b"\0" + password.encode())


class Scram:
    """One SCRAM exchange without channel binding; every message goes in and out in base64."""

    def __init__(self, mechanism: str, username: str, password: str, *, nonce: str | None = None) -> None:
        self._hash = HASHES[mechanism]
        self._password = password
        self._nonce = nonce or b64encode(os.urandom(18)).decode()
        self._first_bare = f"n={username},r={self._nonce}".encode()
        self._expected = b""

    def first(self) -> bytes:
        """Return the client-first message."""
        return b64encode(b"n,," + self._first_bare)

    def final(self, challenge: bytes) -> bytes:
        """Answer the server-first message with the proof.

        Raises SaslError when the server's nonce does not continue ours or a field is missing.
        """
        server_first = b64decode(challenge)
        fields = dict(part.split("=", 1) for part in server_first.decode().split(","))
        if not {"r", "s", "i"} <= fields.keys() or not fields["r"].startswith(self._nonce):
            raise SaslError("the server-first message lacks a field or changes the nonce")
        client_key, stored_key, server_key = client_keys(
            self._hash, self._password, b64decode(fields["s"]), int(fields["i"])
        )
        without_proof = f"c=biws,r={fields['r']}".encode()
        signed = b",".join((self._first_bare, server_first, without_proof))
        signature = hmac.digest(stored_key, signed, self._hash)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._expected = b"v=" + b64encode(hmac.digest(server_key, signed, self._hash))
        return b64encode(without_proof + b",p=" + b64encode(proof))

    def check(self, success: bytes) -> None:
        """Check the server-final message. Raises SaslError when the server did not know the keys."""
        if not self._expected or not hmac.compare_digest(b64decode(success), self._expected):
            raise SaslError("the server's signature is wrong")
