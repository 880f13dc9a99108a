"""Components on their listener (XEP-0114): streams of their own, domains of their own, users of their own.

To the rest of the server a component is a service domain; its users are remote users with local senders. A component
that has just gone has a moment to come back before what is for it is refused and its users are declared offline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

import structlog

from beamish.core import events
from beamish.core.commands import Command
from beamish.core.events import Context, RemoteLost
from beamish.core.kernel import Kernel, new_id
from beamish.core.later import is_later
from beamish.core.tasks import TaskGroup
from beamish.net.connection import Flusher
from beamish.net.privilege import PrivilegeOptions, Privileges
from beamish.net.s2s import S2SLimits
from beamish.net.s2s_link import Link, Wait
from beamish.net.s2s_presence import RemotePresence
from beamish.net.throttle import Bucket
from beamish.net.wirelog import WireLog
from beamish.stream.component import ComponentReady, ComponentStream
from beamish.stream.dialback import DialbackSecret
from beamish.stream.parser import ParserLimits
from beamish.stream.s2s import Event, S2SSettings
from beamish.xmpp.errors import Condition, Kind, StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.stanza import Stanza

log = structlog.get_logger(__name__)

OWNER: Final = "components"
_SWEEP: Final = 30.0
_FOREVER: Final = 1e9


class ComponentOptions(PrivilegeOptions, Protocol):
    """What `[components."…"]` says of one."""

    @property
    def secret(self) -> str:
        """The shared secret."""


class ComponentLink(Link):
    """One component's connection."""

    __slots__ = ("privileges",)

    direction = "component"
    machine: ComponentStream

    def __init__(self, server: ComponentServer) -> None:
        super().__init__(server, ComponentStream(server.settings, server.secret_of))
        self.privileges: Privileges | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        if self.federation.draining:
            self.fail(StreamError(StreamErrorCondition.SYSTEM_SHUTDOWN))

    @property
    def idle_limit(self) -> float:
        """A component stays as long as it likes."""
        return _FOREVER

    def _event(self, event: Event) -> Wait | None:
        if isinstance(event, ComponentReady):
            self.answer()
            self.negotiated()
            self._log = self._log.bind(component=event.domain)
            self._log.info("component_connected")
            self.federation.arrived(self, event.domain)
            return None
        return super()._event(event)

    def _stanza(self, stanza: Stanza) -> Wait | None:
        if self.privileges is not None:
            taken = self.privileges.take(stanza)
            if taken is not None:
                return taken if is_later(taken) else None  # type: ignore[return-value]
        return super()._stanza(stanza)


class Component:
    """One configured component: its stream, or what waits for it to come back."""

    __slots__ = ("away", "domain", "link", "queue")

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self.link: ComponentLink | None = None
        self.queue: deque[Stanza] = deque()
        self.away: Any = None
        """The timer that runs while a component that has just gone is waited for."""


class ComponentServer:
    """All components of one server. `start` makes their domains served, connected or not."""

    def __init__(
        self,
        kernel: Kernel,
        components: Mapping[str, ComponentOptions],
        limits: ParserLimits,
        wire_log: WireLog,
        *,
        queue_stanzas: int = 1_000,
        away_seconds: float = 5.0,
        unsent_bytes: int = 8_388_608,
        presences: int = 200_000,
    ) -> None:
        self.kernel = kernel
        self.flusher = Flusher()
        self.wire_log = wire_log
        self.tasks = TaskGroup(OWNER)
        self.links: set[Link] = set()
        self.presences = RemotePresence(presences)
        self.limits = S2SLimits(queue_stanzas=queue_stanzas, unsent_bytes=unsent_bytes)
        self.draining = False
        self.settings = S2SSettings(
            serves=kernel.router.serves,
            new_id=new_id,
            ledger=kernel.names,
            secret=DialbackSecret(new_id().encode()),
            limits=limits,
        )
        self._options = components
        self._away_seconds = away_seconds
        self._components = {domain: Component(domain) for domain in components}
        self._empty = asyncio.Event()
        self._sweeper: Any = None

    def start(self) -> None:
        """Serve the components' domains from now on. Raises `ValueError` if one is taken by something else."""
        for domain, component in self._components.items():
            self.kernel.router.add_service(domain, partial(self._deliver, component))
        self.kernel.components = tuple(sorted(self._components))
        self.kernel.commands.add(Command("component.list", "Show the components", OWNER, self.list_components))
        self._sweeper = self.kernel.clock.call_later(_SWEEP, self._sweep)

    async def stop(self, grace: float = 5.0) -> None:
        """Close every stream; what waits for a component goes back. `grace` in seconds."""
        self.draining = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for link in tuple(self.links):
            link.fail(StreamError(StreamErrorCondition.SYSTEM_SHUTDOWN))
        if self.links:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._empty.wait()
        for link in tuple(self.links):
            link.abort()
            link.lost(None)
        for component in self._components.values():
            self._given_up(component)
            self.kernel.router.remove_service(component.domain)
        self.kernel.components = ()
        self.kernel.commands.remove(OWNER)
        await self.tasks.close()

    def connection(self) -> ComponentLink:
        """A new protocol object for an accepted connection."""
        return ComponentLink(self)

    def secret_of(self, domain: str) -> str | None:
        """The secret of a component, None for a domain that is none."""
        options = self._options.get(domain)
        return None if options is None else options.secret

    def buckets(self, remote: str) -> tuple[Bucket, Bucket]:
        """See `Hub.buckets`; a component is trusted with its rate."""
        raise NotImplementedError

    def ping(self, link: Link, number: int) -> None:
        """See `Hub.ping`; components are not asked."""
        raise NotImplementedError

    def ping_answered(self, stanza: Stanza) -> bool:
        """See `Hub.ping_answered`."""
        return False

    def _sweep(self) -> None:
        now = self.kernel.clock.monotonic()
        for link in tuple(self.links):
            link.sweep(now)
        self._sweeper = self.kernel.clock.call_later(_SWEEP, self._sweep)

    # ---- connections ------------------------------------------------------------------------------------------------

    def arrived(self, link: ComponentLink, domain: str) -> None:
        """A component has proved who it is. An older connection of the same one makes room."""
        component = self._components[domain]
        older, component.link = component.link, link
        if older is not None:
            older.fail(StreamError(StreamErrorCondition.CONFLICT, "the component connected again"))
        if component.away is not None:
            component.away.cancel()
            component.away = None
        link.privileges = Privileges.of(self.kernel, link, domain, self._options[domain])
        if link.privileges is not None:
            link.privileges.announce()
        queue, component.queue = component.queue, deque()
        for stanza in queue:
            link.send_stanza(stanza)

    def link_lost(self, link: Link) -> None:
        """See `Hub.link_lost`."""
        if self.draining and not self.links:
            self._empty.set()
        assert isinstance(link, ComponentLink)
        if link.privileges is not None:
            link.privileges.close()
        component = self._components.get(link.machine.domain)
        if component is None or component.link is not link:
            return
        component.link = None
        if self.draining:
            self._given_up(component)
        else:
            component.away = self.kernel.clock.call_later(self._away_seconds, lambda: self._given_up(component))

    def _given_up(self, component: Component) -> None:
        """The component did not come back."""
        if component.away is not None:
            component.away.cancel()
            component.away = None
        queue, component.queue = component.queue, deque()
        for stanza in queue:
            reply = stanza.error(_not_connected())
            if reply is not None:
                self.kernel.router.post(reply)
        goodbyes = self.presences.lost(component.domain)
        for stanza in goodbyes:
            self.kernel.router.post(stanza)
        log.info("component_gone", component=component.domain, stanzas=len(queue), presences=len(goodbyes))
        outcome = self.kernel.hooks[events.remote_lost].run(RemoteLost(component.domain, "the component is gone"))
        if is_later(outcome):
            self.kernel.tasks.spawn(_wait(outcome), "remote_lost")

    # ---- stanzas ----------------------------------------------------------------------------------------------------

    def _deliver(self, component: Component, ctx: Context) -> None:
        stanza = ctx.stanza
        link = component.link
        if link is not None and link.usable:
            if not link.room:
                raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="the component does not keep up")
            link.send_stanza(stanza)
        elif component.away is not None and len(component.queue) < self.limits.queue_stanzas:
            component.queue.append(stanza.detached())
        else:
            raise _not_connected()

    # ---- commands ---------------------------------------------------------------------------------------------------

    def list_components(self) -> list[dict[str, Any]]:
        """Every configured component, and its stream if it has one."""
        found = []
        for domain, component in sorted(self._components.items()):
            entry: dict[str, Any] = {"domain": domain, "connected": component.link is not None}
            if component.link is not None:
                entry |= component.link.describe()
            found.append(entry)
        return found


def _not_connected() -> StanzaError:
    return StanzaError(Condition.SERVICE_UNAVAILABLE, Kind.WAIT, "the component is not connected")


async def _wait(outcome: Any) -> None:
    await outcome
