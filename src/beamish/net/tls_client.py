"""TLS of client connections, done in memory with the standard library over the loop's plain transport.

The loops' own TLS transports keep buffers of 256 KiB for each connection, allocate as much for every read, and need a task
for STARTTLS. Here a session costs what OpenSSL needs, and the barrier between clear text and TLS is an assignment.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final, cast

from beamish.net.connection import Connection, Flusher

_PIECE: Final = 4_096
"""Bytes that go through OpenSSL's memory buffers at a time: these never shrink again."""
_RECORD: Final = 16_384
_room: Final = memoryview(bytearray(_RECORD))
"""Where decrypted bytes appear first; nothing is kept here between two calls."""


class ClientTls:
    """The server's side of one TLS connection: bytes of the network in and out, plain bytes in and out."""

    __slots__ = ("_in", "_out", "_tls", "ended", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
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
        """Take bytes of the network; the plain bytes they held. Raises `ssl.SSLError`, with `outgoing` still to be sent."""
        if len(data) <= _PIECE:
            return self._take(data)
        return b"".join([self._take(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)])

    def _take(self, data: bytes) -> bytes:
        if self.ended:
            return b""
        tls, waiting = self._tls, self._in
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
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def send(self, data: bytes) -> bytes:
        """Encrypt plain bytes for the network. Raises `ssl.SSLError`."""
        tls, out = self._tls, self._out
        if len(data) <= _PIECE:
            tls.write(data)
            return out.read()
        parts: list[bytes] = []
        at = 0
        view = memoryview(data)
        while at < len(data):
            at += tls.write(view[at : at + _PIECE])
            parts.append(out.read())
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


class ClientConnection(Connection):
    """A connection that speaks TLS from the start or from any point on.

    Subclasses implement `plain_received`, `secured` and `tls_failed` on top of what `Connection` asks for.
    """

    __slots__ = ("_tls",)

    def __init__(self, flusher: Flusher, unsent_limit: int) -> None:
        super().__init__(flusher, unsent_limit)
        self._tls: ClientTls | None = None

    def plain_received(self, data: bytes) -> None:
        """Bytes arrived, decrypted if need be."""

    def secured(self, tls: ssl.SSLObject) -> None:
        """The handshake is done."""

    def tls_failed(self, reason: str) -> None:
        """TLS failed; the connection is of no use any more."""

    @property
    def secure(self) -> bool:
        """Whether what is sent is encrypted."""
        return self._tls is not None and self._tls.established

    @property
    def shaking(self) -> bool:
        """Whether a handshake is under way, so that nothing can be said."""
        return self._tls is not None and not self._tls.established

    def begin_tls(self, context: ssl.SSLContext) -> None:
        """From now on speak TLS; what was written before goes out in the clear first."""
        self.flush()
        self._tls = ClientTls(context)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        tls = self._tls
        if tls is None:
            self.plain_received(data)
            return
        before = tls.established
        try:
            plain = tls.receive(data)
        except ssl.SSLError as error:
            self._pass_on(tls)
            self.tls_failed(error.reason or str(error))
            return
        if tls.pending:
            self._pass_on(tls)  # the handshake, or the answer to a change of keys
        if not before:
            if not tls.established:
                return
            self.secured(tls.object)
            if self._out:
                self.flush()
        if plain:
            self.plain_received(plain)
        if tls.ended and self.transport is not None and not self.eof_received():
            self.transport.close()

    def flush(self) -> None:
        """See `Connection.flush`."""
        tls = self._tls
        if tls is None:
            super().flush()
            return
        self._dirty = False
        transport = self.transport
        out = self._out
        if transport is None or self._blocked or not out or not tls.established:
            return
        try:
            data = tls.send(out[0] if len(out) == 1 else b"".join(out))
        except ssl.SSLError as error:
            out.clear()
            self._out_bytes = 0
            self.tls_failed(error.reason or str(error))
            return
        out.clear()
        self._out_bytes = 0
        transport.write(data)

    def finish(self) -> None:
        """See `Connection.finish`; TLS is closed in order as well."""
        tls = self._tls
        if tls is not None and self.transport is not None:
            self._closing = True
            self._blocked = False
            self.flush()
            tls.close()
            self._pass_on(tls)
        super().finish()

    def _pass_on(self, tls: ClientTls) -> None:
        data = tls.outgoing()
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)
