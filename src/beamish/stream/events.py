"""What the client stream machine tells its caller, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from beamish.stream.parser import Nonza, StreamHeader, Unaddressable
from beamish.xmpp.errors import StreamError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened (or restarted) a stream to one of our hosts; our header and features are ready to be sent."""

    header: StreamHeader
    domain: str


@dataclass(frozen=True, slots=True)
class StartTls:
    """`<proceed/>` is ready to be sent: flush, make the handshake, then call `tls_established`."""


@dataclass(frozen=True, slots=True)
class KeysNeeded:
    """SCRAM needs the stored keys of a user: answer with `keys`. `jid` is None when no such address can exist."""

    username: str
    jid: JID | None
    algorithm: str


@dataclass(frozen=True, slots=True)
class PasswordGiven:
    """PLAIN gave a password: answer with `password_checked`. `jid` is None when no such address can exist."""

    username: str
    jid: JID | None
    password: str

    def __repr__(self) -> str:
        return f"PasswordGiven(username={self.username!r}, password=…)"


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The peer is this user now; the stream restarts by itself."""

    jid: JID
    mechanism: str
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class AuthFailed:
    """One attempt to authenticate failed and was told so. `jid` is whom it was for, None if no such address can exist."""

    username: str
    mechanism: str
    condition: str
    jid: JID | None = None


@dataclass(frozen=True, slots=True)
class BindRequested:
    """The client wants a resource ("" lets the server choose): answer with `bound` or `bind_refused`."""

    id: str
    resource: str


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """The stream is closed with this error; header, error and closing tag are ready to be sent.

    `by_peer` tells that the error is one that the peer sent; then only the closing tag is.
    """

    error: StreamError
    by_peer: bool = False


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The peer closed the stream; our closing tag is ready to be sent if it was not sent before.

    It is not `orderly` if the peer closed only the connection beneath: then its session may go on (XEP-0198 §7).
    """

    orderly: bool = True


Event: TypeAlias = (
    Stanza
    | Nonza
    | Unaddressable
    | StreamOpened
    | StartTls
    | KeysNeeded
    | PasswordGiven
    | Authenticated
    | AuthFailed
    | BindRequested
    | StreamFailed
    | StreamClosed
)
