"""The hook catalogue, in the order in which a session and its stanzas meet the hooks.

Every entry says when it runs, what STOP means and who usually listens; `docs/hooks.md` is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from beamish.core.hooks import HookKind, HookPoint
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from beamish.core.services import RosterItem
    from beamish.core.sessions import Session


class Context:
    """One stanza on its way, with what was found out about it.

    `origin` is the local session that sent it, None for stanzas from elsewhere or from the server itself. `notes` holds
    what modules want to tell one another; each key is owned by the module whose name it starts with (`"mam.id"`).
    `settled` is the position in the database queue up to which everything that this stanza caused must be committed
    before it may be acknowledged; modules raise it with `caused`.

    `owed` are further stanzas that it counts for in the rate of the server that sent it (`charge`).

    `held` says that the message was stopped at `delivering` to be kept for its receiver, who gets others first. If that
    session ends before its turn comes, another one of the account gets it.
    """

    __slots__ = ("_notes", "held", "origin", "owed", "settled", "stanza")

    def __init__(self, stanza: Stanza, origin: Session | None = None) -> None:
        self.stanza = stanza
        self.origin = origin
        self.settled = 0
        self.owed = 0
        self.held = False
        self._notes: dict[str, object] | None = None

    @property
    def notes(self) -> dict[str, object]:
        """Notes of modules on this stanza."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    def note(self, key: str) -> object | None:
        """The note under this key, or None."""
        return self._notes.get(key) if self._notes is not None else None

    def charge(self, stanzas: int) -> None:
        """This stanza costs as much as so many more would: whoever sent it, a client or a server, waits for that."""
        if self.origin is not None:
            self.origin.owed += stanzas
        else:
            self.owed += stanzas

    def caused(self, position: int) -> None:
        """This stanza may be acknowledged only when the database is durable up to `position`."""
        if position > self.settled:
            self.settled = position


class Delivery:
    """A stanza about to reach one local session. Handlers may put another stanza in its place."""

    __slots__ = ("context", "session", "stanza")

    def __init__(self, context: Context, stanza: Stanza, session: Session) -> None:
        self.context = context
        self.stanza = stanza
        self.session = session


class Release:
    """Messages that were kept for an absent user, in order, and the session that is about to get them.

    Handlers take out of `messages` what is not to be given. `data` holds the bytes of all of them, so that one search tells
    whether any has what a handler looks for.
    """

    __slots__ = ("data", "messages", "session")

    def __init__(self, session: Session, messages: list[Stanza], data: bytes) -> None:
        self.session = session
        self.messages = messages
        self.data = data


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something happened to a session."""

    session: Session


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """A session ended. `reason` is for the log: `closed`, `lost`, `replaced`, `error:…`."""

    session: Session
    reason: str


@dataclass(frozen=True, slots=True)
class SessionNotes:
    """What modules want to have kept with a session that may outlive the server: JSON values, by module name.

    Values of `Session.notes` that are numbers, strings or booleans are kept without this. While `session_saving` runs,
    each puts in what it needs; while `session_restored` runs, each finds it there.
    """

    session: Session
    notes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unreached:
    """Messages for a session may not be seen soon: it has no connection, or its client is late to confirm them.

    `messages` are those that were not reported before, oldest first, read from the queue while one iterates over it; there may
    be none. `lost`: it has no connection since just now; `restored`: since before a restart, so they may have been reported
    then.
    """

    session: Session
    messages: Iterable[Stanza]
    lost: bool = False
    restored: bool = False


@dataclass(frozen=True, slots=True)
class SubscriptionAsked:
    """A contact asked for the presence of a local account, whose answer is awaited from now on."""

    user: JID
    contact: JID


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """A session's own presence changed: `stanza` is what it broadcast; `was` is whether it was available before.

    `initial` is True when the session became available with this stanza (RFC 6121 §4.2).
    """

    session: Session
    stanza: Stanza
    was: bool
    initial: bool


@dataclass(frozen=True, slots=True)
class SubscriptionChanged:
    """The roster state between a local user and a contact changed; states are `none`, `to`, `from`, `both`."""

    user: JID
    contact: JID
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """An item of a local roster changed as its owner sees it; `item` is None if it is gone."""

    user: JID
    contact: JID
    item: RosterItem | None


@dataclass(frozen=True, slots=True)
class RemoteLost:
    """A remote domain cannot be reached any more; `reason` is for the log."""

    domain: str
    reason: str


@dataclass(frozen=True, slots=True)
class RemoteFound:
    """A remote domain that was lost can be reached again."""

    domain: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """The server stops in order."""


@dataclass(frozen=True, slots=True)
class AccountEvent:
    """An account was made or is being removed."""

    user: JID


@dataclass(frozen=True, slots=True)
class Exporting:
    """An account is written to a file (XEP-0227 §4.2): handlers add what they keep of it, children of its `<user/>`.

    Each is free-standing XML with a namespace of its own. `limits` of the modules bound what there can be of each.
    """

    user: JID
    parts: list[bytes]


@dataclass(frozen=True, slots=True)
class CapsKnown:
    """The features of an entity became known, or changed (XEP-0115). `previous` is None if none were known before."""

    jid: JID
    features: frozenset[str]
    previous: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Published:
    """Items of an account's node (XEP-0163) were published or removed, after commit.

    `items` are (id, payload as XML); `removed` are ids; `purged` is True if everything went, with or without the node.
    """

    user: JID
    node: str
    items: tuple[tuple[str, bytes], ...]
    removed: tuple[str, ...]
    purged: bool = False


session_bound: Final = HookPoint[SessionEvent](
    "session_bound",
    HookKind.OBSERVER,
    "A resource was bound (or resumed elsewhere); the session can be delivered to. Usually nobody stops it.",
)
inbound: Final = HookPoint[Context](
    "inbound",
    HookKind.GUARD,
    "A bound client sent a stanza; `from` is stamped. STOP: swallowed or answered. Blocking, archive, message processing.",
)
entering: Final = HookPoint[Context](
    "entering",
    HookKind.GUARD,
    "Another server or a component sent a stanza, to anything that is served here. STOP: swallowed. Lists of addresses "
    "that may not communicate with this server.",
)
incoming: Final = HookPoint[Context](
    "incoming",
    HookKind.GUARD,
    "A message or presence arrives at a local account (bare or full JID), from anywhere, before any resource is chosen. "
    "STOP: not delivered, not stored. Blocking, archive.",
)
incoming_iq: Final = HookPoint[Context](
    "incoming_iq",
    HookKind.GUARD,
    "An IQ, request or answer, arrives at a local account (bare or full JID), from anywhere, before it is known who takes "
    "it. STOP: swallowed. Blocking.",
)
delivering: Final = HookPoint[Delivery](
    "delivering",
    HookKind.GUARD,
    "A stanza is about to reach one local session. STOP: not delivered to this one. Privacy lists, client state, carbons.",
)
delivered: Final = HookPoint[Context](
    "delivered",
    HookKind.OBSERVER,
    "A message was handed to the sessions that RFC 6121 §8.5 names. Carbons, push.",
)
undelivered: Final = HookPoint[Context](
    "undelivered",
    HookKind.GUARD,
    "No resource took a message that may be kept (RFC 6121 §8.5.4, column O). STOP: somebody took charge of it; otherwise "
    "the sender gets `service-unavailable`. Offline storage.",
)
releasing: Final = HookPoint[Release](
    "releasing",
    HookKind.OBSERVER,
    "Messages that were kept for an absent user are about to be given to a session. Plain functions only. What a handler "
    "takes out is not given, and is kept no longer. Message processing (expiry), carbons.",
)
presence_changed: Final = HookPoint[PresenceChanged](
    "presence_changed",
    HookKind.OBSERVER,
    "A session's broadcast presence was accepted and sent out. Offline delivery, capabilities, personal eventing.",
)
caps_known: Final = HookPoint[CapsKnown](
    "caps_known",
    HookKind.OBSERVER,
    "The features of an available entity (full JID, local or remote) became known by a verified hash, or changed; those of "
    "a local session not before its `presence_changed`. Personal eventing.",
)
subscription_asked: Final = HookPoint[SubscriptionAsked](
    "subscription_asked",
    HookKind.OBSERVER,
    "A contact's request to subscribe was stored, after commit; asking again is none. Plain functions only. Push.",
)
subscription_changed: Final = HookPoint[SubscriptionChanged](
    "subscription_changed",
    HookKind.OBSERVER,
    "A subscription state in a local roster changed, after commit. Presence access, personal eventing.",
)
roster_changed: Final = HookPoint[RosterChanged](
    "roster_changed",
    HookKind.OBSERVER,
    "What a roster push told a user's own clients, after commit. Plain functions only. Components with the privilege.",
)
unreached: Final = HookPoint[Unreached](
    "unreached",
    HookKind.OBSERVER,
    "The client of a session under stream management lost its connection, is late to confirm messages, or was sent another one "
    "since; or the session ended without that. Each message once, until `reached`. Plain functions only. Push.",
)
reached: Final = HookPoint[SessionEvent](
    "reached",
    HookKind.OBSERVER,
    "A session that was `unreached` was resumed, or its client has confirmed something. Plain functions only. Push.",
)
session_saving: Final = HookPoint[SessionNotes](
    "session_saving",
    HookKind.OBSERVER,
    "A session's state is about to be written down, so that it can be resumed after a restart of the server. Plain functions "
    "only. Whoever keeps state in `Session.notes` that the client relies on; `SessionKeeper.changed` brings it about.",
)
session_restored: Final = HookPoint[SessionNotes](
    "session_restored",
    HookKind.OBSERVER,
    "A session of before the restart is back, bound and as available as it was, without a connection for now; nobody was "
    "told that it had gone. After `session_bound`. Whoever listens on `session_saving` or `presence_changed`.",
)
session_closed: Final = HookPoint[SessionClosed](
    "session_closed",
    HookKind.OBSERVER,
    "A session ended for good and is no longer in the session table. Presence (unavailable), rooms, stream management.",
)
account_added: Final = HookPoint[AccountEvent](
    "account_added", HookKind.OBSERVER, "An account was made, after commit. Defaults for new accounts."
)
account_removed: Final = HookPoint[AccountEvent](
    "account_removed",
    HookKind.OBSERVER,
    "An account is being removed; its sessions are closed already. Every module deletes what it holds of it.",
)
account_exporting: Final = HookPoint[Exporting](
    "account_exporting",
    HookKind.GUARD,
    "An account is written to a file, while the server is stopped. Every module adds what it holds of it; where one fails, "
    "nothing is written of the account.",
)
contact_presence: Final = HookPoint[Context](
    "contact_presence",
    HookKind.OBSERVER,
    "A presence stanza (available, unavailable or error) reached a local account from somewhere else, or was directed to "
    "it; not what local contacts broadcast. Personal eventing.",
)
pep_published: Final = HookPoint[Published](
    "pep_published",
    HookKind.OBSERVER,
    "An account's node changed, before the publisher gets its answer, which waits for the handlers. Conversions between "
    "old and new ways to store the same thing.",
)
remote: Final = HookPoint[Context](
    "remote",
    HookKind.GUARD,
    "A stanza is for a domain that is not ours. STOP: somebody carries it there. Federation.",
)
remote_lost: Final = HookPoint[RemoteLost](
    "remote_lost",
    HookKind.OBSERVER,
    "The server of a remote domain (or a component) is gone. Unavailable presence of its users is routed behind this. "
    "Whoever keeps state of remote entities. Rooms.",
)
remote_found: Final = HookPoint[RemoteFound](
    "remote_found",
    HookKind.OBSERVER,
    "The server of a remote domain that was lost is there again; what was sent to it or from it meanwhile is lost. Presence.",
)
stopping: Final = HookPoint[Stopping](
    "stopping",
    HookKind.OBSERVER,
    "The server stops; its clients are disconnected, streams with other servers and components still stand. What these are to "
    "hear has to be sent now. Rooms.",
)
server_presence: Final = HookPoint[Context](
    "server_presence",
    HookKind.GUARD,
    "A presence stanza to one of our bare domains, which has no presence of its own. STOP: taken. Extended addressing.",
)
server_message: Final = HookPoint[Context](
    "server_message",
    HookKind.GUARD,
    "A message to one of our bare domains. STOP: taken. Announcements.",
)

CATALOGUE: Final = (
    session_bound,
    inbound,
    entering,
    incoming,
    incoming_iq,
    delivering,
    delivered,
    undelivered,
    releasing,
    presence_changed,
    caps_known,
    subscription_asked,
    subscription_changed,
    roster_changed,
    unreached,
    reached,
    session_saving,
    session_restored,
    session_closed,
    account_added,
    account_removed,
    account_exporting,
    contact_presence,
    pep_published,
    remote,
    remote_lost,
    remote_found,
    stopping,
    server_message,
    server_presence,
)
