"""A socket with a joined, bounded output: the part that client and server streams share.

Writes of one loop tick are joined into one. What the peer does not read piles up here up to a limit, then the
connection is cut: nothing ever waits for a slow reader.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol, cast

import structlog

log = structlog.get_logger(__name__)

_HIGH_WATER = 131_072
"""Bytes given to the transport before it should report back (`pause_writing`)."""
AT_ONCE: Final = 50
"""Stanzas of one connection with something to wait for, after which others have a turn: what they wait for may be there."""


class Flusher:
    """Writes out, once per loop tick, every connection that has something to send."""

    __slots__ = ("_dirty", "_loop")

    def __init__(self) -> None:
        self._dirty: list[Connection] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, connection: Connection) -> None:
        """Note a connection that has something to send and is not noted yet."""
        if not self._dirty:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self.flush)
        self._dirty.append(connection)

    def flush(self) -> None:
        """Write now what is noted."""
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()


class Watched(Protocol):
    """Says whether output is to be shown; it may change at any time."""

    enabled: bool


class Connection(asyncio.Protocol):
    """One TCP or TLS connection.

    Subclasses implement `data_received`, `lost` and `too_slow`. `unsent_limit` bounds the bytes that may wait for the
    peer. `sending` is called with what goes out, by whatever way it was written, while `watched` is enabled.
    """

    __slots__ = (
        "_blocked",
        "_closing",
        "_dirty",
        "_flusher",
        "_out",
        "_out_bytes",
        "_reading",
        "_room",
        "_unsent_limit",
        "_watched",
        "peer",
        "transport",
    )

    def __init__(self, flusher: Flusher, unsent_limit: int, watched: Watched | None = None) -> None:
        self._flusher = flusher
        self._unsent_limit = unsent_limit
        self._room = unsent_limit
        """How much may wait here: the limit less what the transport holds."""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._dirty = False
        self._blocked = False
        self._closing = False
        self._watched = watched
        self._reading = True
        self.peer = ""
        self.transport: asyncio.Transport | None = None

    # ---- for subclasses ---------------------------------------------------------------------------------------------

    def lost(self, error: Exception | None) -> None:
        """The connection is gone."""

    def sending(self, data: bytes) -> None:
        """These bytes, not encrypted yet, go to the transport now; called while `watched` is enabled."""

    def too_slow(self) -> None:
        """The peer let more than `unsent_limit` bytes pile up; the connection was cut earlier in this loop tick."""

    # ---- asyncio ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.attach(cast("asyncio.Transport", transport))

    def attach(self, transport: asyncio.Transport) -> None:
        """Go on with this transport, a new one or one that wraps the old."""
        self.transport = transport
        self._blocked = False
        self._reading = True
        self._room = self._unsent_limit
        transport.set_write_buffer_limits(high=_HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._closing = True
        self._out.clear()
        self._out_bytes = 0
        self.transport = None
        self.lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: from now on output waits here, where it is counted."""
        self._blocked = True
        if self.transport is not None:
            self._room = self._unsent_limit - self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._blocked = False
        self._room = self._unsent_limit
        if self._out:
            self.flush()

    # ---- output -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Send bytes at the end of this loop tick. False: the connection is closing or was cut just now."""
        if self._closing:
            return False
        self._out.append(data)
        self._out_bytes += len(data)
        if not self._dirty:
            self._dirty = True
            self._flusher.add(self)
        if self._out_bytes > self._room:
            self._check_unsent()
            return not self._closing
        return True

    def _check_unsent(self) -> None:
        """More than the limit was queued: the peer is too slow only if it had its chance to take it."""
        self.flush()
        if self._out_bytes > self._room:
            self.cut_slow()

    def cut_slow(self) -> None:
        """Cut the connection to a peer that does not take what it is sent."""
        # not at once: we may be in the middle of a fan-out, and a session's end causes another one
        asyncio.get_running_loop().call_soon(self.too_slow)
        self.abort()

    def flush(self) -> None:
        """Give what waits to the transport, unless that has enough already."""
        self._dirty = False
        transport = self.transport
        if transport is None or self._blocked or not self._out:
            return
        out = self._out
        data = out[0] if len(out) == 1 else b"".join(out)
        if self._watched is not None and self._watched.enabled:
            self.sending(data)
        transport.write(data)
        out.clear()
        self._out_bytes = 0

    @property
    def unsent(self) -> int:
        """Bytes that the peer's side has not taken yet, as far as we know."""
        transport = self.transport
        return self._out_bytes + (transport.get_write_buffer_size() if transport is not None else 0)

    # ---- input ------------------------------------------------------------------------------------------------------

    def stop_reading(self) -> None:
        """Take no more input for now."""
        if self._reading and self.transport is not None:
            self._reading = False
            self.transport.pause_reading()

    def start_reading(self) -> None:
        """Take input again."""
        if not self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    # ---- the end ----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Send what waits, then close. No more is accepted for sending."""
        self._closing = True
        self._blocked = False
        self.flush()
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Cut the connection without sending what waits."""
        self._closing = True
        self._out.clear()
        self._out_bytes = 0
        if self.transport is not None:
            self.transport.abort()

    def info(self, name: str) -> Any:
        """Extra information of the transport; None when there is none (any more)."""
        if self.transport is None:
            return None
        try:
            return self.transport.get_extra_info(name)
        except AttributeError:  # asyncio's TLS transport after it was closed
            return None
