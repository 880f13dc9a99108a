"""TLS of client connections, done in memory with the standard library over the loop's plain transport.

The loops' own TLS transports keep buffers of 256 KiB for each connection, allocate as much for every read, and need a task
for STARTTLS. Here a session costs what OpenSSL needs, and the barrier between clear text and TLS is an assignment.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final, cast

from beamish.net.tls_connection import TlsConnection, TlsFailed, hollow

_PIECE: Final = 4_096
"""Bytes that go through OpenSSL's memory buffers at a time: these never shrink again."""
_RECORD: Final = 16_384
_room: Final = memoryview(bytearray(_RECORD))
"""Where decrypted bytes appear first; nothing is kept here between two calls."""


class ClientTls:
    """The server's side of a client's TLS connection; see `TlsLayer`."""

    __slots__ = ("_hollow", "_in", "_out", "_tls", "ended", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._hollow = 0
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self.established = False
        """The handshake is done."""
        self.ended = False
        """The peer closed the TLS connection in order."""

    @property
    def object(self) -> ssl.SSLObject:
        """The standard library's view of the connection."""
        return self._tls

    def receive(self, data: bytes) -> bytes:
        """See `TlsLayer.receive`."""
        if len(data) <= _PIECE:
            return self._take(data)
        return b"".join([self._take(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)])

    def _take(self, data: bytes) -> bytes:
        if self.ended:
            return b""
        tls, waiting, before = self._tls, self._in, self.established
        waiting.write(data)
        plain: list[bytes] = []
        try:
            if not self.established:
                tls.do_handshake()
                self.established = True
            while waiting.pending or tls.pending():
                count = cast("int", tls.read(_RECORD, _room))
                if not count:
                    self.ended = True
                    break
                plain.append(bytes(_room[:count]))
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise TlsFailed(error.reason or str(error)) from error
        got = plain[0] if len(plain) == 1 else b"".join(plain)
        if before:
            self._hollow = hollow(self._hollow, len(data), len(got))
        return got

    def send(self, data: bytes) -> bytes:
        """See `TlsLayer.send`."""
        tls, out = self._tls, self._out
        try:
            if len(data) <= _PIECE:
                tls.write(data)
                return out.read()
            parts: list[bytes] = []
            at = 0
            view = memoryview(data)
            while at < len(data):
                at += tls.write(view[at : at + _PIECE])
                parts.append(out.read())
        except ssl.SSLError as error:
            raise TlsFailed(error.reason or str(error)) from error
        return b"".join(parts)

    def close(self) -> None:
        """Say that nothing more follows."""
        if self.established:
            with suppress(ssl.SSLError):  # it would wait for the peer to say so, too
                self._tls.unwrap()

    @property
    def pending(self) -> int:
        """Bytes that `outgoing` would give."""
        return self._out.pending

    def outgoing(self) -> bytes:
        """What the handshake, or the end, wants to be sent now; drains it."""
        return self._out.read()


class ClientConnection(TlsConnection[ClientTls]):
    """A client's connection, with or without TLS."""

    __slots__ = ()

    def begin_tls(self, context: ssl.SSLContext) -> None:
        """From now on speak TLS; what was written before goes out in the clear first."""
        self.flush()
        self.go_on_in(ClientTls(context))
