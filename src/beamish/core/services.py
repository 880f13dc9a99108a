"""The interfaces at which modules meet (`Module.provides`, `Module.requires`).

A module never imports another; it asks the kernel for a service by its Protocol. Methods that return `X | Awaitable[X]`
answer at once when they can (cached state), so that the hot path needs no task; `core.later.then` continues on either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from beamish.core.disco import DiscoInfo
from beamish.core.events import Context
from beamish.core.sessions import Session
from beamish.storage.api import Cursor
from beamish.stream.sasl import Algorithm, ScramKeys
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza


@runtime_checkable
class AccountsService(Protocol):
    """Local accounts and how they authenticate."""

    def exists(self, user: JID) -> bool | Awaitable[bool]:
        """Whether the bare JID is a local account."""

    def keys(self, user: JID, algorithm: str) -> ScramKeys | Awaitable[ScramKeys | None] | None:
        """The stored SCRAM keys of an account, None if there is no such account.

        Whether the answer is here or has to be awaited does not depend on the account.
        """

    def decoy(self, username: str, domain: str, algorithm: str) -> ScramKeys:
        """Keys that look like those of an account of the domain, the same at every call, for users that do not exist."""

    async def check_password(self, user: JID | None, password: str) -> bool:
        """Check a password; takes the same time for accounts that do not exist (`user` None: no such address)."""

    async def add(self, user: JID, password: str, also: Callable[[Cursor], None] | None = None) -> None:
        """Make an account. Raises `StanzaError(conflict)` if it exists, `not-acceptable` for an unusable password.

        `also` takes part in the transaction; what it raises undoes it and is raised here.
        """

    def algorithms(self, domain: str) -> frozenset[Algorithm]:
        """The hash functions for which every account of a domain has keys: only their mechanisms may be offered."""

    async def adopt(self, user: JID, keys: Sequence[ScramKeys], also: Callable[[Cursor], None] | None = None) -> None:
        """Make an account of keys that another server derived, at most one for each hash function; `also` as in `add`.

        As long as it lacks some, the mechanisms of those hash functions are not offered to its domain (`algorithms`). It
        gets them when its owner logs in by PLAIN, or the password is changed. Without any keys nobody can log in to it until
        it is given a password. Raises `StanzaError`: `conflict` if it exists, `not-acceptable` for keys that would leave the
        domain without a mechanism that all its accounts can use, or cannot be used at all.
        """

    async def set_password(self, user: JID, password: str) -> None:
        """Change a password. Raises `StanzaError(item-not-found)`."""

    async def remove(self, user: JID) -> None:
        """Remove an account with everything it has. Raises `StanzaError(item-not-found)`."""

    async def disable(self, user: JID) -> None:
        """Lock an account: its sessions are closed and nobody can log in, but it keeps all it has.

        Raises `StanzaError(item-not-found)`.
        """

    async def enable(self, user: JID) -> None:
        """Unlock an account. Raises `StanzaError(item-not-found)`."""

    def has_expired(self, user: JID) -> bool | Awaitable[bool]:
        """Whether the account's password is older than passwords may be. Only who has given it may be told."""

    def is_disabled(self, user: JID) -> bool:
        """Whether the account is locked. Only who has given its password may be told."""

    def disabled(self, domain: str | None = None) -> tuple[JID, ...]:
        """The locked accounts, or those of one domain, sorted."""

    async def list(self, domain: str | None = None, *, after: JID | None = None, limit: int | None = None) -> list[JID]:
        """All accounts, or those of one domain, sorted by domain and address.

        With `limit` at most so many, those behind `after`: whoever works on all of them takes them in pieces.
        """

    async def count(self, domain: str | None = None) -> int:
        """How many accounts there are, or how many of one domain."""


@dataclass(frozen=True, slots=True)
class RosterItem:
    """One entry of a roster (RFC 6121 §2.1.2) with the whole subscription state of appendix A.1.

    `to` and `from_` are the two directions of the subscription; `pending_out` is `ask='subscribe'`; `pending_in` is a
    request from the contact that awaits an answer (an item with nothing else is not shown in the roster: `listed`);
    `approved` is pre-approval (§3.4).
    """

    jid: JID
    name: str = ""
    groups: tuple[str, ...] = ()
    to: bool = False
    from_: bool = False
    pending_out: bool = False
    pending_in: bool = False
    approved: bool = False
    listed: bool = True
    """False for an entry that exists only because of `pending_in`."""

    @property
    def subscription(self) -> str:
        """`none`, `to`, `from` or `both`."""
        return ("both" if self.from_ else "to") if self.to else ("from" if self.from_ else "none")

    def with_(self, **changes: object) -> RosterItem:
        """A changed copy."""
        return replace(self, **changes)  # type: ignore[arg-type]


class Roster(Protocol):
    """The roster of one account, in memory."""

    version: str

    def get(self, contact: JID) -> RosterItem | None:
        """The item of a bare JID, listed or not."""

    def items(self) -> Iterable[RosterItem]:
        """All items, also those that are not listed."""

    def subscribers(self) -> tuple[JID, ...]:
        """Contacts that receive this user's presence (`from`, `both`); the same tuple until the roster changes."""

    def subscriptions(self) -> tuple[JID, ...]:
        """Contacts whose presence this user receives (`to`, `both`)."""

    def subscribers_among(self, accounts: Mapping[str, object]) -> AbstractSet[JID]:
        """The subscribers that are in a table of local accounts, as `SessionTable.by_user` is one.

        It costs as much as the smaller of the two: who is there is found without looking at everybody who is not.
        """

    def subscriptions_among(self, accounts: Mapping[str, object]) -> AbstractSet[JID]:
        """The same of the subscriptions."""

    def subscribers_elsewhere(self) -> tuple[JID, ...]:
        """Those of the subscribers that are no accounts of this server's: of other servers, services, bare domains."""

    def subscriptions_elsewhere(self) -> tuple[JID, ...]:
        """Those of the subscriptions that are no accounts of this server's."""

    def pending(self) -> tuple[RosterItem, ...]:
        """Items with a request that awaits an answer, the contact's or the user's; also those that are not listed."""


@runtime_checkable
class RosterService(Protocol):
    """Rosters of local accounts. Rosters of accounts with sessions stay in memory, others are cached with a bound."""

    def roster(self, user: JID) -> Roster | Awaitable[Roster]:
        """The roster of a local account; at once if it is in memory."""

    def cached(self, user: JID) -> Roster | None:
        """The roster if it is in memory."""

    async def change(
        self, user: JID, item: RosterItem, *, push: bool = True, first: Callable[[], None] | None = None
    ) -> None:
        """Store an item (insert or replace), then push it to interested sessions if it is listed; returns after commit.

        `first` is called after the commit and before the push (RFC 6121 §3.1.6 wants delivery before the push).

        Raises `StanzaError(resource-constraint)` above the limit of items.
        """

    async def remove(
        self, user: JID, contact: JID, *, push: bool = True, first: Callable[[], None] | None = None
    ) -> None:
        """Delete an item, then push `subscription='remove'` if it was listed; `first` as in `change`."""


@runtime_checkable
class RemoteRosterService(Protocol):
    """Optional: services that manage their own contacts in users' rosters, with the users' permission (XEP-0321)."""

    def offer(self, entity: JID, domains: Sequence[str], *, ask: bool) -> None:
        """A service may do so for the accounts of some domains; without `ask`, subscribing to it is the permission."""

    def withdraw(self, entity: JID) -> None:
        """End what `offer` began; what users said is kept."""

    def permitted(self, user: JID, entity: JID) -> bool | Awaitable[bool]:
        """Whether a service may manage its contacts in an account's roster; at once if the roster is in memory."""

    async def request(self, stanza: Stanza) -> Stanza:
        """Answer a service that asks for the permission. Raises `StanzaError`."""

    async def settle(self, stanza: Stanza) -> Stanza:
        """Answer a user who asks a service about permissions, or takes its permission away. Raises `StanzaError`."""


@runtime_checkable
class PresenceService(Protocol):
    """Presence and subscriptions."""

    def outbound(self, ctx: Context) -> Awaitable[None] | None:
        """A local session sent a presence stanza (any type, with or without `to`)."""

    def inbound(self, ctx: Context) -> Awaitable[None] | None:
        """A presence stanza arrived for a local account (bare or full JID), from a local or remote entity."""

    def may_see(self, owner: JID, peer: JID) -> bool | Awaitable[bool]:
        """Whether `peer` is allowed to know the presence of the local account `owner`.

        True for the account itself, for subscribers (`from`, `both`), and for those who got directed presence from one
        of its sessions (RFC 6121 §8.1, §8.5.3.1).
        """

    def may_ask(self, owner: JID, peer: JID) -> bool | Awaitable[bool]:
        """Whether requests of `peer` reach the clients of the local account `owner` (RFC 6121 §8.5.3.1)."""

    async def keep_request(self, user: JID, request: Stanza) -> None:
        """Enter a request to subscribe that awaits the user's answer, as one that came before (from another server's data).

        The account need not be there yet. Returns after commit. Raises `StanzaError` if there is no room for it.
        """

    def refresh(self, session: Session, *, elsewhere: bool = False) -> None:
        """The client may have missed presence: tell it again who is there and who is not, and what awaits an answer.

        `elsewhere`: only of contacts of other servers, who could not tell us.
        """


@runtime_checkable
class CapsService(Protocol):
    """Entity capabilities (XEP-0115): what the software behind a presence can do."""

    def features(self, full: JID) -> frozenset[str] | None:
        """The disco features of an entity (full JID), local or not, by a verified hash; None: not known (yet)."""


@dataclass(slots=True)
class Shortened:
    """A presence without its annotations, for sessions that have them: those whose `Session.epoch` is in `known`.

    Whoever hands the complete presence to another session adds its epoch.
    """

    stanza: Stanza
    known: set[int]


@runtime_checkable
class CapsAnnotations(Protocol):
    """Optional: leaves out of broadcast presence what the receiving client was told before (XEP-0115 §8.4)."""

    def shortened(self, presence: Stanza) -> Shortened | None:
        """The short form of a broadcast presence of a local session; None if it has none."""

    def given(self, sender: JID, session: Session) -> None:
        """A session was handed the last presence that the session `sender` broadcast, complete."""


@runtime_checkable
class BlockingService(Protocol):
    """Optional: who is not to know anything of whom (XEP-0016, XEP-0191).

    What is sent to accounts is judged at the hooks `incoming`, `incoming_iq` and `delivering`, what clients send at
    `inbound`. This is for what the server tells others in a user's name.
    """

    def shows(self, session: Session) -> Callable[[JID], bool] | None:
        """Tells of an address whether it may get the session's presence. None, which is the rule: everybody may."""

    def hides(self, session: Session, peer: JID) -> bool:
        """Whether an address does not get the session's presence, whatever the user's roster says; for when that changes."""

    def asks(self, session: Session) -> Callable[[JID], bool] | None:
        """Tells of an address whether the server may ask it something in the session's name (a probe would tell that the
        user is there): not if presence passes neither way. None, which is the rule: it may ask everybody.
        """

    def hears(self, session: Session) -> Callable[[JID], bool] | None:
        """Tells of an address whether the session is to get its requests to subscribe, also those of before the block. None,
        which is the rule: everybody's.
        """

    def hidden(self, owner: JID, peer: JID) -> bool | Awaitable[bool]:
        """Whether a local account, as a whole, does not show its presence to `peer`."""

    def has_lists(self, owner: JID) -> bool:
        """Whether there is anything to ask about a local account; without lists, which is the rule, it hides from nobody."""


@runtime_checkable
class DiscoService(Protocol):
    """What our domains say about themselves, for those who need it as a value (entity capabilities)."""

    def server_info(self, domain: str) -> DiscoInfo:
        """Identities, features and forms of one of our domains, complete; the same object at every call."""


@runtime_checkable
class DeliveryReceipts(Protocol):
    """Optional: knows when a client has confirmed what it was sent (acknowledgements of the stream)."""

    def keeps(self, session: Session) -> bool:
        """Whether the messages that were handed to the session are stored until its client confirms them.

        Then whoever stored them before may delete them at once, by a write queued after they were handed over. Should the
        session end, the unconfirmed ones come back through the hook `undelivered`.
        """

    def passed(self, session: Session) -> Awaitable[bool] | None:
        """Wait until the client has confirmed everything handed to the session before this call.

        False: the session ended without. None: this session confirms nothing, ask it some other way.
        """


@runtime_checkable
class StoredMessages(Protocol):
    """Optional: messages wait in it for accounts of which nobody is available."""

    async def looked(self, session: Session) -> None:
        """Returns once it is known what waits for the session, and that (or as much as goes out unproved) was handed to it.

        Until then a new message takes its place behind the stored ones, even if there turn out to be none.
        """

    async def put(self, user: JID, message: Stanza, when: float) -> None:
        """Store a message that came at this time (seconds since 1970), behind those that are there; returns after commit.

        The account need not be there yet. Raises `StanzaError`: `not-acceptable` for one that is not worth storing,
        `service-unavailable` if there is no room, `resource-constraint` if the disk does not take it.
        """


@runtime_checkable
class PepService(Protocol):
    """Nodes of accounts (XEP-0163), for modules that keep the same things in another form."""

    async def publish(
        self,
        user: JID,
        node: str,
        items: Mapping[str, bytes],
        options: Mapping[str, str] | None = None,
        also: Callable[[Cursor], None] | None = None,
    ) -> None:
        """Publish items (id → payload) on an account's behalf; returns after commit and after notification.

        A node that does not exist is made with `options` (names as in XEP-0060, without `pubsub#`); one that exists
        keeps its configuration. `also` takes part in the transaction; what it raises undoes it. Raises `StanzaError`.
        """

    async def retract(self, user: JID, node: str, items: Iterable[str]) -> None:
        """Remove items; what does not exist is passed over."""

    async def items(self, user: JID, node: str) -> dict[str, bytes]:
        """All items of a node, oldest first (id → payload); empty if there is no such node."""

    async def access(self, user: JID, node: str) -> str | None:
        """The access model of a node (`presence`, `whitelist`, …), None if there is no such node."""


@runtime_checkable
class SessionKeeper(Protocol):
    """Optional: keeps sessions through restarts of the server (the hooks `session_saving` and `session_restored`)."""

    def changed(self, session: Session) -> None:
        """What a module wants to have kept with the session has changed; it is written with the next commit."""

    def hold(self, session: Session, data: bytes, message: Stanza) -> object:
        """A message (or a push) is held back from the client: keep it as if it were on its way. The result stands for it below.

        As after `Outlet.deliver`, `Session.stored` says up to where the database must be durable.
        """

    def let_go(self, held: object) -> None:
        """A message that was held back is handed over in this very tick."""

    def left(self, session: Session, held: Sequence[object]) -> None:
        """A session that has just ended leaves messages that were held back: they go where undelivered ones go."""

    def wait_longer(self, session: Session, seconds: float) -> None:
        """A session that has lost its connection waits for its client so long from now on, unless it waits longer anyway."""

    def now(self) -> float:
        """The time of day by which it judges what a session has got (seconds since 1970). It never goes back."""


@runtime_checkable
class CopiesService(Protocol):
    """Optional: knows which sessions get copies of messages that are addressed to another one (XEP-0280)."""

    def copies(self, session: Session, message: Stanza, when: float | None = None) -> bool:
        """Whether the session gets a copy of a message that another session of its account receives now, or received then."""

    def had(self, session: Session, message: Stanza) -> bool:
        """Whether the session got a copy of a message that nobody took, which was left to whoever keeps messages."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A token that lets somebody make an account, or become a contact (XEP-0401).

    `username` is the name that it is for, "" for any; `inviter` is whose contact the new account becomes, if anybody's.
    """

    token: str
    domain: str
    username: str = ""
    inviter: JID | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something in a file of another server that was not taken: where it stands, whose it is ("" for nobody's), and why."""

    file: str
    line: int
    user: str
    reason: str

    def __str__(self) -> str:
        whose = f"{self.user}: " if self.user else ""
        text = f"{self.file}:{self.line}: {whose}{self.reason}"
        # one line, of a length that can be read: names in files may be anything
        return "".join(c if c.isprintable() else "\ufffd" for c in text[:1000])


@runtime_checkable
class PortableService(Protocol):
    """Accounts in the format that servers exchange (XEP-0227)."""

    async def load(
        self,
        paths: Sequence[Path],
        usable: AbstractSet[Algorithm],
        told: Callable[[Skipped], None],
        *,
        dry: bool = False,
    ) -> dict[str, int]:
        """Make the accounts that files hold; how many there were of each kind of thing.

        `usable`: the hash functions whose mechanisms the server offers. `told` hears at once of whatever is not taken. With
        `dry` nothing is stored. An account that exists is left alone; one is there only once all it has is committed. Raises
        `StorageError`.
        """

    async def save(self, path: Path, users: Sequence[JID] = ()) -> int:
        """Write accounts, all if none are named, to a file that must not be there yet, for its owner only; how many.

        Nothing is left of a file that could not be completed. Raises `StanzaError(item-not-found)` for an account that is
        not there, another one where a module cannot tell what it has, `OSError`, `StorageError`.
        """


@runtime_checkable
class InvitesService(Protocol):
    """Optional: tokens that admit those who have none yet."""

    async def check(self, token: str, domain: str) -> Invitation | None:
        """What a token is good for at this domain, if it may be used to make an account and has not expired."""

    def redeem(self, cursor: Cursor, invitation: Invitation, user: JID) -> None:
        """Use up a token, in the transaction that makes this account (on the database's thread).

        Raises `StanzaError(item-not-found)` if somebody else was faster.
        """

    async def joined(self, invitation: Invitation, user: JID) -> None:
        """The account was made: let it and the inviter be contacts. Should this not be reached, the next start does it."""

    async def reserved(self, user: JID) -> bool:
        """Whether the address is promised to somebody who holds a token."""


@dataclass(frozen=True, slots=True)
class StoredStream:
    """A server stream of before the restart that may still be taken up.

    `pairs` are our domain and the remote one, `stanzas` their numbers on the stream, times, bytes and rows, in order.
    """

    key: int
    id: str
    outgoing: bool
    pairs: tuple[tuple[str, str], ...]
    handled: int
    stanzas: list[tuple[int, float, bytes, int]]


@dataclass(frozen=True, slots=True)
class StoredOutbox:
    """What was under way to other servers when the server stopped or died: times, bytes and rows, in order.

    `doubtful` went out on streams that cannot be asked about them; `waiting` did not go out.
    """

    streams: list[StoredStream]
    doubtful: list[tuple[float, bytes, int]]
    waiting: list[tuple[float, bytes, int]]


@runtime_checkable
class Outbox(Protocol):
    """Keeps on disk what is under way to other servers, and how far their streams got (XEP-0198)."""

    position: int
    """In the database queue: where the latest change is committed."""

    refused: Callable[[Sequence[int], StanzaError], None]
    """Called with rows of new stanzas that the database has refused, before their position counts as durable. They must not
    go out; the error is for their senders. Set by whoever brings stanzas to other servers.
    """

    def keep(self, wire: bytes, stream: int | None, number: int, row: int = 0) -> int:
        """Write a stanza down, or anew where `row` says; its row.

        `stream` is None while it waits for one, 0 for one that cannot be taken up again; `number` counts on the stream.
        A new one is not safe before `position` is durable, and `refused` may tell that it never will be. Raises
        `StanzaError` if it cannot even be tried; what has a row already is then written down later.
        """

    def drop(self, rows: Iterable[int], *, soon: bool = False) -> None:
        """These stanzas need not be kept any more. They go with the next commit; `soon` brings one about."""

    def begin(self, id: str, *, outgoing: bool, pairs: Iterable[tuple[str, str]]) -> int:
        """A stream that can be taken up has begun; its key, 0 if it cannot be written down."""

    def joined(self, key: int, pairs: Iterable[tuple[str, str]]) -> None:
        """The stream serves other pairs now."""

    def handled(self, key: int, count: int, then: Callable[[], None] | None = None, after: int = 0) -> None:
        """So many stanzas of the peer were handled on a stream. It is written with this tick's commit (not with key 0).

        `then` is called when that is on disk, and everything up to the position `after`.
        """

    def ended(self, key: int) -> None:
        """The stream is not taken up any more. Its count is remembered for a day."""

    async def ended_count(self, id: str, remotes: Iterable[str]) -> int | None:
        """How many stanzas a stream with one of these domains had handled; None if nobody knows (any more)."""

    def take_stored(self) -> StoredOutbox:
        """What was found at the start; the caller takes charge of it."""
