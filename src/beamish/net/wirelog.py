"""The wire log: what crosses the sockets, for finding out why a client and the server do not understand each other.

It must be switched on (`[server] log = { wire = true }`), and it hides credentials: the content of SASL elements, of
passwords and of the fields of forms that hold some, and attributes with passwords and tokens (TURN credentials, invitations,
FAST) never reach it, however the bytes are cut into reads. Before a session is bound no text at all is shown.
"""

from __future__ import annotations

import re

import structlog

from beamish.core.sessions import Session

log = structlog.get_logger(__name__)

_TAG = re.compile(rb"<(?:[^'\"<>]|'[^'<]*'|\"[^\"<]*\")*>")
_CDATA = b"<![CDATA["
_NAME = re.compile(rb"<(/?)(?:[^\s/>:'\"]+:)?([^\s/>:'\"]+)")
_QUOTED = rb"\s*=\s*(?:'[^']*'|\"[^\"]*\")"
_FIELD = re.compile(
    # by its name (`uri` and `landing-url` of an invitation hold its token), a name with references in it, or by its type
    rb"\bvar\s*=\s*['\"][^'\"]*(?:passw|secret|token|&|\buri\b|landing)[^'\"]*['\"]|\btype\s*=\s*['\"]text-private['\"]",
    re.IGNORECASE,
)
_ATTRIBUTE = re.compile(rb"([\s:](?:[\w.-]*(?:password|secret|token)[\w.-]*|preauth))" + _QUOTED, re.IGNORECASE)
_AUTHORIZATION = re.compile(rb"\bname\s*=\s*['\"](?:authorization|cookie)['\"]", re.IGNORECASE)
_SECRET = frozenset(
    b"auth response challenge success initial-response additional-data authenticate task-data password "
    b"digest old_password new_password handshake secret token".split()
)
_MASK = "…".encode()
_MOST = 4_096
_STREAMS = 10_000


class Masker:
    """Hides credentials in one direction of one stream, fed in any pieces."""

    __slots__ = ("_begun", "_cdata", "_cut", "_field", "_hidden", "_inside", "_rest")

    def __init__(self) -> None:
        self._begun = False
        """A tag was seen; what comes before one may be the rest of anything."""
        self._rest = b""
        self._inside: list[bytes] = []
        """Names of the secret elements that are open."""
        self._field = False
        """Inside a form's field that holds a password."""
        self._cdata = False
        self._cut = False
        """Of the tag that `_rest` begins, a part was thrown away."""
        self._hidden = False
        """The mask was written since the last tag."""

    def feed(self, data: bytes, all_text: bool) -> bytes:
        """What of these bytes may be shown; an unfinished tag is shown when it is complete. `all_text` hides all text."""
        data = self._rest + data
        self._rest = b""
        out: list[bytes] = []
        at = 0
        while at < len(data):
            if self._cdata:
                at = self._skip_cdata(data, at)
            elif data[at] != 60:  # "<"
                end = data.find(b"<", at)
                end = len(data) if end < 0 else end
                self._text(data[at:end], all_text, out)
                at = end
            elif _CDATA.startswith(data[at : at + len(_CDATA)]):
                if len(data) - at < len(_CDATA):
                    self._rest = data[at:]
                    break
                self._cdata = True
                self._hide(out)
                at += len(_CDATA)
            else:
                match = _TAG.match(data, at)
                end = match.end() if match is not None else data.find(b"<", at + 1)
                if end < 0:
                    self._cut = self._cut or len(data) - at > _MOST
                    self._rest = data[at : at + _MOST]
                    break
                if match is None:
                    self._hide(out)
                else:
                    self._tag(data[at:end])
                    out.append(_shown(data[at:end], self._cut))
                self._cut = False
                at = end
        return b"".join(out)

    def _skip_cdata(self, data: bytes, at: int) -> int:
        end = data.find(b"]]>", at)
        if end >= 0:
            self._cdata = False
            return end + 3
        self._rest = data[max(at, len(data) - 2) :]
        return len(data)

    def _text(self, text: bytes, all_text: bool, out: list[bytes]) -> None:
        if text.strip() and (all_text or self._inside or self._field or not self._begun):
            self._hide(out)
        else:
            out.append(text)

    def _hide(self, out: list[bytes]) -> None:
        if not self._hidden:
            out.append(_MASK)
        self._hidden = True

    def _tag(self, token: bytes) -> None:
        self._begun = True
        self._hidden = False
        found = _NAME.match(token)
        if found is None:
            return
        closing, name = found[1], found[2].lower()
        if name == b"field":
            self._field = not closing and not token.endswith(b"/>") and _FIELD.search(token) is not None
        elif name == b"header":
            self._field = not closing and not token.endswith(b"/>") and _AUTHORIZATION.search(token) is not None
        if name not in _SECRET:
            return
        if closing:
            while self._inside and self._inside.pop() != name:
                pass
        elif not token.endswith(b"/>") and len(self._inside) < 64:
            self._inside.append(name)


def _shown(tag: bytes, cut: bool) -> bytes:
    """A tag without credentials in its attributes; of one that lost a part, only the name."""
    if cut:
        found = _NAME.match(tag)
        return b"<" + (found[1] + found[2] if found is not None else b"") + b" " + _MASK + b">"
    return _ATTRIBUTE.sub(rb"\1='" + _MASK + b"'", tag)


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
