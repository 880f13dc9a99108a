"""One server's kernel: what modules and connections hold on to."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

import structlog

from beamish.core import events
from beamish.core.clock import Clock, SystemClock
from beamish.core.commands import Commands
from beamish.core.events import SessionClosed, SessionEvent
from beamish.core.hooks import Hooks
from beamish.core.iq import IqDispatch
from beamish.core.later import is_later, settled
from beamish.core.module import Module, NonzaHandler
from beamish.core.registry import Registry
from beamish.core.router import Router
from beamish.core.sessions import Link, Session, SessionTable
from beamish.core.tasks import TaskGroup
from beamish.storage.api import Database
from beamish.stream.names import NameLedger
from beamish.xmpp.errors import Condition, StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

log = structlog.get_logger(__name__)

S = TypeVar("S")


class Limits(Protocol):
    """The bounds that the kernel and modules read; `beamish.config` has the model, with defaults and reasons."""

    @property
    def resources_per_account(self) -> int: ...  # noqa: D102
    @property
    def stanza_bytes(self) -> int: ...  # noqa: D102
    @property
    def xml_names(self) -> int: ...  # noqa: D102
    @property
    def xml_names_per_account(self) -> int: ...  # noqa: D102
    @property
    def roster_items(self) -> int: ...  # noqa: D102
    @property
    def roster_bytes(self) -> int: ...  # noqa: D102
    @property
    def roster_groups_per_item(self) -> int: ...  # noqa: D102
    @property
    def roster_name_bytes(self) -> int: ...  # noqa: D102
    @property
    def roster_group_bytes(self) -> int: ...  # noqa: D102
    @property
    def directed_presence(self) -> int: ...  # noqa: D102


def new_id() -> str:
    """An unguessable string for stream ids, stanza ids and resources (RFC 6120 §4.7.3)."""
    return secrets.token_urlsafe(12)


def new_archive_id(now: float) -> str:
    """An unguessable string for what is kept from `now` (seconds since 1970) on; later ones sort behind, to the millisecond.

    So the index by which it is found grows at its end, instead of a page of it being written anew for each row.
    """
    return f"{int(now * 1000):011x}{secrets.token_urlsafe(9)}"


class Kernel:
    """Hooks, sessions, routing, IQ dispatch, commands and modules of one server.

    `domains` are the virtual hosts with accounts, the first one speaking for the server; `admins` are bare JIDs.
    """

    def __init__(
        self,
        *,
        domains: Sequence[str],
        db: Database,
        limits: Limits,
        admins: Sequence[JID] = (),
        clock: Clock | None = None,
        scram_iterations: int = 10_000,
    ) -> None:
        self.domains = tuple(domains)
        self.admins = frozenset(admins)
        self.db = db
        self.limits = limits
        self.scram_iterations = scram_iterations
        self.clock: Clock = clock or SystemClock()
        self.names = NameLedger(limits.xml_names, limits.xml_names_per_account)
        self.hooks = Hooks()
        self.tasks = TaskGroup("kernel")
        self.sessions = SessionTable()
        self.iq = IqDispatch(self)
        self.router = Router(self)
        self.commands = Commands(self)
        self.nonzas: dict[str, NonzaHandler] = {}
        """Handlers of top-level elements that are no stanzas, by tag."""
        self.early_iqs: dict[str, Callable[[Link, Stanza], Stanza | Awaitable[Stanza | None] | None]] = {}
        """Handlers of IQs before authentication, by the payload's tag."""
        self.registry = Registry(self)
        self.ask_to_stop: Callable[[bool], None] | None = None
        """Ends the process in good order, and begins it anew if True; set by who runs the server."""
        self.obstacle: Callable[[], str] = str
        """Says why the server would not start if it were ended now, empty if nothing is known of; set likewise."""
        self.components: tuple[str, ...] = ()
        """Domains of components, which are services but no module's (XEP-0114)."""
        self.started = 0.0
        self._services: dict[type, Any] = {}
        self._session_bound = self.hooks[events.session_bound]
        self._session_closed = self.hooks[events.session_closed]
        for domain in self.domains:
            self.router.add_domain(domain)

    # ---- services ---------------------------------------------------------------------------------------------------

    def provide(self, interface: type, provider: object) -> None:
        """Make a service available under its Protocol."""
        self._services[interface] = provider

    def service(self, interface: type[S]) -> S:
        """The provider of a service. Raises `LookupError` if nothing provides it."""
        try:
            return cast("S", self._services[interface])
        except KeyError:
            raise LookupError(f"nothing provides {interface.__name__}") from None

    def service_or_none(self, interface: type[S]) -> S | None:
        """The provider of an optional service."""
        return cast("S | None", self._services.get(interface))

    def is_local_domain(self, domain: str) -> bool:
        """Whether the domain is one of our account domains."""
        return domain in self.domains

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self, modules: Sequence[type[Module]], configs: dict[str, object] | None = None) -> None:
        """Start the modules; afterwards sessions may be opened."""
        self.started = self.clock.now()
        await self.registry.start(modules, configs or {})
        self.router.connect()
        for module in self.registry.modules:
            await module.ready()
        self._hourly()

    def _hourly(self) -> None:
        self.names.new_hour()
        self._timer = self.clock.call_later(3600.0, self._hourly)

    async def stop(self, grace: float = 5.0) -> None:
        """Close what sessions are left, wait for background work, stop the modules."""
        for session in self.sessions:
            session.outlet.close(StreamError(StreamErrorCondition.SYSTEM_SHUTDOWN), "shutdown")
        await self.tasks.drain(grace)
        await self.tasks.close()
        await self.registry.stop()
        self._timer.cancel()
        await self.db.flushed()

    # ---- sessions ---------------------------------------------------------------------------------------------------

    def choose_resource(self, user: JID, asked: str) -> JID:
        """The full address for a new session, freed for it if somebody holds it (RFC 6120 §7.6, §7.7).

        The newer session wins: the older one is closed with `conflict`. Raises `StanzaError(resource-constraint)` above
        the limit of resources.
        """
        full = user.with_resource(asked or new_id())
        held = self.sessions.get(full)
        if held is not None:
            self.end_session(held, "replaced")
            held.outlet.close(
                StreamError(StreamErrorCondition.CONFLICT, "the resource was bound by a newer session"), "replaced"
            )
        elif len(self.sessions.of(user).all) >= self.limits.resources_per_account:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="too many sessions of this account")
        return full

    def open_session(self, session: Session) -> None:
        """Enter a bound session and tell the modules."""
        self.sessions.add(session)
        if self._session_bound.rows:
            outcome = self._session_bound.run(SessionEvent(session))
            if is_later(outcome):
                self.tasks.spawn(settled(outcome), "session_bound")

    def end_session(self, session: Session, reason: str) -> None:
        """Take a session out and tell the modules, exactly once; `reason` as in `SessionClosed`."""
        if not self.sessions.remove(session):
            return
        if self._session_closed.rows:
            outcome = self._session_closed.run(SessionClosed(session, reason))
            if is_later(outcome):
                self.tasks.spawn(settled(outcome), "session_closed")
