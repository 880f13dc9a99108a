"""A TLS 1.3 client's own hand on its records: for what no library lets a client send (RFC 8446 §4.6.3, §5)."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_HANDSHAKE: Final = 22
_CONTENT: Final = 23
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {"SHA256": hashes.SHA256(), "SHA384": hashes.SHA384()}


class Records:
    """Makes the records that a client sends behind its handshake. `secret` is its first one for content, `cipher` the suite."""

    def __init__(self, secret: bytes, cipher: str) -> None:
        _, _, self._bits, _, digest = cipher.split("_")  # TLS_AES_256_GCM_SHA384
        self._hash = _HASHES[digest]
        self._secret = secret
        self._begin()

    @classmethod
    def of(cls, tls: ssl.SSLObject, keys: Path) -> Records:
        """Of a connection that has written its secrets to this file, and sent nothing behind the handshake itself."""
        [line] = [each for each in keys.read_text().splitlines() if each.startswith("CLIENT_TRAFFIC_SECRET_0")]
        cipher = tls.cipher()
        assert cipher is not None
        return cls(bytes.fromhex(line.split()[2]), cipher[0])

    def _derived(self, label: str, length: int) -> bytes:
        name = f"tls13 {label}".encode()
        info = length.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
        return HKDFExpand(self._hash, length, info).derive(self._secret)

    def _begin(self) -> None:
        self._key = AESGCM(self._derived("key", int(self._bits) // 8))
        self._iv = int.from_bytes(self._derived("iv", 12), "big")
        self._number = 0

    def content(self, data: bytes, kind: int = _CONTENT) -> bytes:
        """One record."""
        inner = data + bytes([kind])
        head = bytes([_CONTENT, 3, 3]) + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return head + self._key.encrypt(nonce, inner, head)

    def new_keys(self, *, both: bool) -> bytes:
        """A change of keys; with `both`, the other side is asked to change its own as well."""
        data = self.content(bytes([24, 0, 0, 1, int(both)]), _HANDSHAKE)
        self._secret = self._derived("traffic upd", self._hash.digest_size)
        self._begin()
        return data


def shake(
    tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, exchange: Callable[[bytes], bytes]
) -> None:
    """Make a client's handshake; `exchange` carries bytes there, and what comes back."""
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            incoming.write(exchange(outgoing.read()))
    incoming.write(exchange(outgoing.read()))
