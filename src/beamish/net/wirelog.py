"""The wire log: what crosses the sockets, for finding out why a client and the server do not understand each other.

It must be switched on (`[server] log = { wire = true }`), and it hides credentials: the content of SASL elements and of
passwords in registration forms never reaches it.
"""

from __future__ import annotations

import re

import structlog

from beamish.core.sessions import Session

log = structlog.get_logger(__name__)

_SECRET = re.compile(
    rb"(<(?:[\w-]+:)?(?:auth|response|challenge|success|initial-response|password|additional-data)\b[^>]*>)[^<]+", re.IGNORECASE
)
_SASL_ELEMENT = re.compile(rb"<(?:[\w-]+:)?(?:auth|response|initial-response|password)\b", re.IGNORECASE)
_MOST = 4_096


class WireLog:
    """Logs traffic, if `enabled`, with credentials masked."""

    __slots__ = ("_open", "enabled")

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._open: set[str] = set()

    def received(self, stream: str, session: Session | None, data: bytes) -> None:
        """Log input. Before a session is bound, a chunk that goes on inside a credential is left out whole."""
        if session is None:
            if stream in self._open:
                if b"<" not in data:
                    log.debug("rx", stream=stream, data="…")
                    return
                data = "…".encode() + data[data.index(b"<") :]
            self._remember(stream, data)
        log.debug("rx", stream=stream, data=mask(data).decode(errors="replace"))

    def sent(self, stream: str, session: Session | None, data: bytes) -> None:
        """Log output."""
        log.debug("tx", stream=stream, data=mask(data).decode(errors="replace"))

    def _remember(self, stream: str, data: bytes) -> None:
        """Note whether the chunk ends inside an element that carries a credential."""
        last = None
        for match in _SASL_ELEMENT.finditer(data):
            last = match
        inside = last is not None and b"</" not in data[last.start() :] and not data.rstrip().endswith(b"/>")
        if inside:
            if len(self._open) > 10_000:
                self._open.clear()
            self._open.add(stream)
        else:
            self._open.discard(stream)


def mask(data: bytes) -> bytes:
    """`data` with the text of credential-carrying elements replaced, cut to a readable length."""
    masked = _SECRET.sub(rb"\1" + "…".encode(), data)
    return masked if len(masked) <= _MOST else masked[:_MOST] + f"… ({len(masked)} bytes)".encode()
