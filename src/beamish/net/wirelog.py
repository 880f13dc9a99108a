"""The wire log: what crosses the sockets, for finding out why a client and the server do not understand each other.

It must be switched on (`[server] log = { wire = true }`), and it hides credentials: the content of SASL elements and of
passwords never reaches it, however the bytes are cut into reads. Before a session is bound no text at all is shown.
"""

from __future__ import annotations

import re

import structlog

from beamish.core.sessions import Session

log = structlog.get_logger(__name__)

_TOKEN = re.compile(rb"<(?:[^'\"<>]|'[^'<]*'|\"[^\"<]*\")*>|[^<]+|<")
_TAG = re.compile(rb"<(/?)(?:[^\s/>:'\"]+:)?([^\s/>:'\"]+)")
_VAR = re.compile(rb"\bvar\s*=\s*['\"][^'\"]*(?:passw|secret|token)[^'\"]*['\"]", re.IGNORECASE)
_SECRET = frozenset(
    b"auth response challenge success initial-response additional-data authenticate task-data password "
    b"digest old_password new_password handshake".split()
)
_MASK = "…".encode()
_MOST = 4_096
_STREAMS = 10_000


class Masker:
    """Hides credentials in one direction of one stream, fed in any pieces."""

    __slots__ = ("_begun", "_field", "_inside", "_rest", "_shown")

    def __init__(self) -> None:
        self._begun = False
        """A tag was seen; what comes before one may be the rest of anything."""
        self._rest = b""
        self._inside: list[bytes] = []
        """Names of the secret elements that are open."""
        self._field = False
        """Inside a form's field that holds a password."""
        self._shown = False

    def feed(self, data: bytes, all_text: bool) -> bytes:
        """What of these bytes may be shown; an unfinished tag is shown when it is complete. `all_text` hides all text."""
        data = self._rest + data
        self._rest = b""
        last = data.rfind(b"<")
        if last >= 0 and _TOKEN.match(data, last)[0] == b"<":  # type: ignore[index]
            data, self._rest = data[:last], data[last:]
            if len(self._rest) > _MOST:
                self._rest = self._rest[:_MOST]
        out: list[bytes] = []
        for match in _TOKEN.finditer(data):
            token = match[0]
            if token[0] == 60 and token[-1] == 62:  # "<", ">"
                out.append(token)
                self._tag(token)
                self._begun = True
                self._shown = False
            elif not token.strip():
                out.append(token)
            elif all_text or self._inside or self._field or not self._begun:
                if not self._shown:
                    out.append(_MASK)
                self._shown = True
            else:
                out.append(token)
        return b"".join(out)

    def _tag(self, token: bytes) -> None:
        found = _TAG.match(token)
        if found is None:
            return
        closing, name = found[1], found[2].lower()
        if name == b"field":
            self._field = not closing and not token.endswith(b"/>") and _VAR.search(token) is not None
        if name not in _SECRET:
            return
        if closing:
            while self._inside and self._inside.pop() != name:
                pass
        elif not token.endswith(b"/>") and len(self._inside) < 64:
            self._inside.append(name)


class WireLog:
    """Logs traffic, if `enabled`, with credentials masked."""

    __slots__ = ("_maskers", "enabled")

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._maskers: dict[tuple[str, str], Masker] = {}

    def received(self, stream: str, session: Session | None, data: bytes) -> None:
        """Log input."""
        self._log("rx", stream, session, data)

    def sent(self, stream: str, session: Session | None, data: bytes) -> None:
        """Log output."""
        self._log("tx", stream, session, data)

    def forget(self, stream: str) -> None:
        """The stream is gone."""
        for way in ("rx", "tx"):
            self._maskers.pop((way, stream), None)

    def _log(self, way: str, stream: str, session: Session | None, data: bytes) -> None:
        masker = self._maskers.get((way, stream))
        if masker is None:
            if len(self._maskers) >= _STREAMS:
                del self._maskers[next(iter(self._maskers))]
            masker = self._maskers[way, stream] = Masker()
        shown = masker.feed(data, session is None and way == "rx")
        if len(shown) > _MOST:
            shown = shown[:_MOST] + f"… ({len(shown)} bytes)".encode()
        if shown:
            log.debug(way, stream=stream, data=shown.decode(errors="replace"))
