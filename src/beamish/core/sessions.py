"""Bound sessions and the table that finds them by address."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

from beamish.xmpp.errors import StreamError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from beamish.core.events import Context


_epochs = count(1)


class Outlet(Protocol):
    """Where a session's stanzas go: a connection, or what stands in for one that is gone but may come back."""

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        """Send a stanza to the client: `data` is its bytes, `stanza` what is known of it. Never blocks.

        False: the session is closing and did not take it.
        """

    def close(self, error: StreamError | None, reason: str) -> None:
        """End the session: close the stream, with an error if there is one."""

    def last_words(self, data: bytes) -> None:
        """Write to the stream of a session that has ended, past whatever keeps or holds back stanzas; `close` follows."""

    def survives(self, link: Link, reason: str) -> bool:
        """The connection beneath is gone without the stream having been closed. True: the session goes on without it.

        `reason` is `lost`, `slow` (cut for not reading), `timeout` (silent) or `shutdown`.
        """


class _Nowhere:
    """The outlet of a session that has no stream: one that is being made, or is no more."""

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        """Nobody takes it."""
        return False

    def close(self, error: StreamError | None, reason: str) -> None:
        """There is nothing to close."""

    def last_words(self, data: bytes) -> None:
        """There is nobody to hear them."""

    def survives(self, link: Link, reason: str) -> bool:
        """Without a connection none can be lost."""
        return False


NOWHERE: Final[Outlet] = _Nowhere()
"""For sessions without a stream; whoever gives them one calls `Session.carried_by`."""


class Layer(Outlet, Protocol):
    """An outlet on top of another one, that holds back or drops what should not reach the client now.

    It lies above stream management: only what it lets through is counted as sent.
    """

    beneath: Outlet

    def release(self) -> None:
        """Hand everything held to the outlet beneath, in order."""


class Link(Protocol):
    """A client connection as modules see it that speak below stanzas: resumption, registration before login."""

    session: Session | None
    """The session that the connection carries, None before binding."""
    peer: str
    """Address and port of the client's end, for the log: see `Session.peer`."""

    @property
    def user(self) -> JID | None:
        """The bare JID that has authenticated, None before that."""

    @property
    def domain(self) -> str:
        """The host that the client opened its stream to."""

    @property
    def network(self) -> str:
        """The key for limits per address (`net.address.network_of`)."""

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""

    @property
    def deaf(self) -> bool:
        """Whether nothing is read from the client for now: its rate is used up, or a stanza of its is still in hand."""

    def write(self, data: bytes) -> bool:
        """Send bytes that are no stanza of the session. False: the connection is closing."""

    def carry(self, session: Session) -> None:
        """Make an authenticated connection that has no session yet the carrier of an existing one (XEP-0198 §5).

        Its stanzas are handled as that session's from now on. The caller points the session's outlet here.
        """

    def release(self) -> None:
        """Part from the session without ending it: the connection carries none afterwards, and is closed by the caller."""

    def close(self, error: StreamError | None, reason: str) -> None:
        """Close the stream; see `Outlet.close`."""


PER_STANZA: Final = 50
"""Recipients that cost about as much as a stanza of one's own, with everything that is done for one."""


class Session:
    """One bound resource (RFC 6120 §7).

    `priority` is None while the resource is not available; `presence` is what it broadcast last, without its tree.
    `interested` is True once it asked for the roster (RFC 6121 §2.2). `directed` holds the addresses that got directed
    presence (RFC 6121 §4.6). `notes` are modules' own state of the session, keyed as in `Context.notes`.

    `stored` is the position in the database queue of the last message that the session's outlet has stored until the
    client confirms it: whoever hands over a message gives it to `Context.caused`, as the router does. `busy` is True while
    a stanza of the client is being handled that something has to be waited for.

    `owed` is what the client's requests have cost beyond themselves, in stanzas, and was not taken from its rate yet.

    `guarded`: the account has rules of its own about what reaches it, so whoever sends one stanza to many hands this one
    over through the router (`Hook.everyone`). `epoch` stands for what the client can have seen: see `renew`.
    """

    __slots__ = (
        "__weakref__",
        "_notes",
        "anonymous",
        "bare",
        "busy",
        "created",
        "directed",
        "epoch",
        "guarded",
        "handled",
        "interested",
        "jid",
        "layer",
        "outlet",
        "owed",
        "peer",
        "presence",
        "priority",
        "secure",
        "stored",
    )

    def __init__(
        self,
        jid: JID,
        outlet: Outlet,
        *,
        peer: str = "",
        secure: bool = False,
        anonymous: bool = False,
        created: float = 0.0,
    ) -> None:
        self.jid = jid
        self.bare = jid.bare
        self.outlet = outlet
        """Where stanzas are handed to. What carries the session changes by `carried_by`, never by assignment."""
        self.layer: Layer | None = None
        self.peer = peer
        """Where the client is, as far as the server sees: `192.0.2.1:5222`, `[2001:db8::1]:5222`; after a resumption the new
        place, "" in between if the server was restarted."""
        self.secure = secure
        """Whether the stream is encrypted."""
        self.anonymous = anonymous
        """Whether the account lasts as long as the session (SASL ANONYMOUS)."""
        self.created = created
        """When the resource was bound, in seconds since 1970."""
        self.priority: int | None = None
        self.presence: Stanza | None = None
        self.interested = False
        self.directed: set[JID] | None = None
        self.handled: Callable[[Context | None], None] | None = None
        """Called after each stanza of the client has been dealt with, in order (None: it was refused before routing)."""
        self.stored = 0
        self.owed = 0
        self.busy = False
        self.guarded = False
        self.epoch = next(_epochs)
        self._notes: dict[str, object] | None = None

    def __repr__(self) -> str:
        return f"<Session {self.jid!s}>"

    @property
    def available(self) -> bool:
        """Whether the resource has sent available presence (RFC 6121 §4.2)."""
        return self.priority is not None

    @property
    def notes(self) -> dict[str, object]:
        """Modules' own state of this session."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    def note(self, key: str) -> object | None:
        """A module's state of this session, or None."""
        return self._notes.get(key) if self._notes is not None else None

    def charge(self, many: int) -> None:
        """One stanza of this client was for so many recipients, or so many entries had to be gone through for it.

        From `PER_STANZA` on they count as further stanzas of its rate: a small one must not make the server work for long.
        """
        self.owed += many // PER_STANZA

    def renew(self) -> None:
        """The client may not have what it was sent: what was left out as known to it is sent anew (XEP-0115 §8.4).

        To be called when the session becomes available, and by whoever holds back a presence that may be dropped for a
        newer one.
        """
        self.epoch = next(_epochs)

    def carried_by(self, outlet: Outlet) -> None:
        """Stanzas go here from now on, still through the layer on top if there is one."""
        if self.layer is None:
            self.outlet = outlet
        else:
            self.layer.beneath = outlet

    def cover(self, layer: Layer) -> None:
        """Put a layer on top of the outlet; there must be none yet."""
        assert self.layer is None
        layer.beneath = self.outlet
        self.outlet = self.layer = layer

    def uncover(self) -> None:
        """Take the layer off, if there is one, and let out what it holds."""
        layer = self.layer
        if layer is not None:
            self.outlet, self.layer = layer.beneath, None
            layer.release()

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        """Hand a stanza to the client; see `Outlet.deliver`."""
        return self.outlet.deliver(data, stanza)

    def send(self, stanza: Stanza) -> bool:
        """Hand over a stanza with the addresses it has."""
        return self.outlet.deliver(stanza.to_wire(), stanza)


class UserSessions:
    """The sessions of one account. The tuples are made anew at every change, so they may be kept while iterating."""

    __slots__ = ("all", "available", "routable")

    def __init__(self) -> None:
        self.all: tuple[Session, ...] = ()
        self.available: tuple[Session, ...] = ()
        """Sessions that sent available presence."""
        self.routable: tuple[Session, ...] = ()
        """Available sessions with a priority that is not negative (RFC 6121 §8.5.2)."""

    def refresh(self) -> None:
        """Recompute after a presence change."""
        self.available = tuple(s for s in self.all if s.priority is not None)
        self.routable = tuple(s for s in self.available if s.priority is not None and s.priority >= 0)


_NOBODY = UserSessions()
CHANGED: Final = 1024
"""Changes of who is there that can be asked about afterwards; whoever has not looked for longer knows nothing any more."""


class SessionTable:
    """Every bound session of the server, by full and by bare address."""

    def __init__(self) -> None:
        self._full: dict[str, Session] = {}
        self._users: dict[str, UserSessions] = {}
        self.changes = 0
        """Counts sessions that came or went, or became available or no longer: while it stays the same, who is there does."""
        self.changed: deque[JID] = deque(maxlen=CHANGED)
        """Whose sessions those were (full addresses), the last of them."""

    def __len__(self) -> int:
        return len(self._full)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._full.values()))

    @property
    def by_full(self) -> dict[str, Session]:
        """Full address → session; for reading only."""
        return self._full

    @property
    def by_user(self) -> dict[str, UserSessions]:
        """Bare address → its sessions, for those who have any; for reading only."""
        return self._users

    def get(self, full: JID) -> Session | None:
        """The session with this full address."""
        return self._full.get(full)

    def of(self, bare: JID) -> UserSessions:
        """The sessions of an account; an empty value if there are none."""
        return self._users.get(bare, _NOBODY)

    def add(self, session: Session) -> None:
        """Enter a session. Whoever held the address before must have been removed."""
        if session.jid in self._full:
            raise ValueError(f"{session.jid} is bound already")
        self._full[session.jid] = session
        user = self._users.get(session.bare)
        if user is None:
            user = self._users[session.bare] = UserSessions()
        user.all = (*user.all, session)
        user.refresh()
        self._note(session)

    def remove(self, session: Session) -> bool:
        """Take a session out. False if it was not there (any more)."""
        if self._full.get(session.jid) is not session:
            return False
        del self._full[session.jid]
        self._note(session)
        user = self._users[session.bare]
        user.all = tuple(s for s in user.all if s is not session)
        if user.all:
            user.refresh()
        else:
            del self._users[session.bare]
            user.available = user.routable = ()
        return True

    def presence_changed(self, session: Session, priority: int | None, presence: Stanza | None) -> None:
        """Note a session's new availability; `priority` None means unavailable."""
        if session.available != (priority is not None):
            self._note(session)
        session.priority = priority
        session.presence = presence
        user = self._users.get(session.bare)
        if user is not None:
            user.refresh()

    def _note(self, session: Session) -> None:
        self.changes += 1
        self.changed.append(session.jid)
