"""A connection that does TLS in memory over the loop's plain transport: the part that clients' and servers' streams share.

What does the cryptography is the standard library for clients (`net.tls_client`) and pyOpenSSL between servers
(`net.tls_memory`), each for what the other one cannot do; decisions/0004 and 0006 have the reasons.
"""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

from beamish.net.connection import Connection, Flusher, Watched

RECORD: Final = 20_000
"""Bytes of the network that may be without content for now: a record that is not whole yet has up to 16,645 (RFC 8446 §5.2)."""
_HOLLOW: Final = 32
"""A byte of content makes up for so many of the network: the smallest record, of one byte, has 23 to 30."""
OVERHEAD: Final = 16
"""What a byte of the network that brings nothing counts for, in bytes of content: its cost in processor time."""
_LEAN: Final = 3
"""Beyond so many for a byte of content, the way costs us more than what comes on it."""


class TlsFailed(Exception):
    """The TLS connection cannot be made or went wrong; the text is OpenSSL's."""


def hollow(before: int, size: int, plain: int) -> int:
    """How many bytes have come since the last content, with `size` more of the network that held `plain`.

    Raises `TlsFailed` above `RECORD`: changes of keys (RFC 8446 §4.6.3) cost hundreds of times what their few bytes cost the
    peer, and no limit of a stream ever sees them.
    """
    more = before + size - _HOLLOW * plain
    if more > RECORD:
        raise TlsFailed("too much without content")
    return more if more > 0 else 0


class TlsLayer(Protocol):
    """One TLS connection without a socket: bytes of the network in and out, plain bytes in and out."""

    established: bool
    """The handshake is done."""
    ended: bool
    """The peer closed the TLS connection in order."""

    @property
    def pending(self) -> int:
        """Something other than 0 if `outgoing` has something that does not wait for what we send."""

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the network; the plain bytes they held. Raises `TlsFailed`, with `outgoing` still to be sent."""

    def send(self, data: bytes) -> bytes:
        """Encrypt plain bytes for the network. Raises `TlsFailed`."""

    def close(self) -> None:
        """Say that nothing more follows."""

    def outgoing(self) -> bytes:
        """What TLS wants to be sent now by itself; drains it."""


Layer = TypeVar("Layer", bound=TlsLayer)


class TlsConnection(Connection, Generic[Layer]):
    """A connection that speaks TLS from the start or from any point on, on the same socket and with the same object.

    Subclasses implement `plain_received`, `overhead`, `secured` and `tls_failed` on top of what `Connection` asks for.
    """

    __slots__ = ("_lean", "_tls")

    def __init__(self, flusher: Flusher, unsent_limit: int, watched: Watched | None = None) -> None:
        super().__init__(flusher, unsent_limit, watched)
        self._tls: Layer | None = None
        self._lean = 0
        """Bytes of the network that brought too little, as far as they are not told by `overhead` yet."""

    def plain_received(self, data: bytes) -> None:
        """Bytes arrived, decrypted if need be."""

    def overhead(self, size: int) -> None:
        """So many bytes of the network brought too little content: the peer cuts it into tiny records."""

    def secured(self) -> None:
        """The handshake is done."""

    def tls_failed(self, reason: str) -> None:
        """TLS failed; the connection is of no use any more."""

    @property
    def tls(self) -> Layer | None:
        """The TLS layer, once there is one."""
        return self._tls

    @property
    def secure(self) -> bool:
        """Whether what is sent is encrypted."""
        return self._tls is not None and self._tls.established

    @property
    def shaking(self) -> bool:
        """Whether a handshake is under way, so that nothing can be said."""
        return self._tls is not None and not self._tls.established

    def go_on_in(self, tls: Layer) -> None:
        """From now on speak TLS; what was written before has gone out in the clear. The layer's first words, if any, follow."""
        self._tls = tls
        self._pass_on(tls)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        tls = self._tls
        if tls is None:
            self.plain_received(data)
            return
        before = tls.established
        try:
            plain = tls.receive(data)
        except TlsFailed as failure:
            self._pass_on(tls)
            self.tls_failed(str(failure))
            return
        if tls.pending:
            self._pass_on(tls)  # the handshake, or the answer to a change of keys
        if not before:
            if not tls.established:
                return
            self.secured()
            if self._out:
                self.flush()
        elif (lean := self._lean + len(data) - _LEAN * len(plain)) > 0:
            self._lean = lean if lean < RECORD else RECORD
            if lean > RECORD:
                self.overhead(lean - RECORD)
        else:
            self._lean = 0
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
        data = out[0] if len(out) == 1 else b"".join(out)
        if self._watched is not None and self._watched.enabled:
            self.sending(data)
        try:
            data = tls.send(data)
        except TlsFailed as failure:
            out.clear()
            self._out_bytes = 0
            self.tls_failed(str(failure))
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

    def _pass_on(self, tls: Layer) -> None:
        data = tls.outgoing()
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)
            if (
                self.transport.get_write_buffer_size() > self._unsent_limit
            ):  # the peer makes TLS talk, and does not read
                self.cut_slow()
