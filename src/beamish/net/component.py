"""Components on their listener (XEP-0114): streams of their own, domains of their own, users of their own.

To the rest of the server a component is a service domain; its users are remote users with local senders. A component
that has just gone has a moment to come back before what is for it is refused and its users are declared offline.

Whoever connects must prove to know the secret; how often an address may guess, and how many connections it may have, is
limited. A component speaks for its own domain only, not for subdomains: each is a component by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import structlog

from beamish.core.commands import Command
from beamish.core.events import Context
from beamish.core.kernel import Kernel, new_id
from beamish.core.services import RemoteRosterService
from beamish.core.sparing import Sparing
from beamish.core.tasks import TaskGroup
from beamish.net.connection import Flusher
from beamish.net.privilege import PrivilegeOptions, Privileges, is_settling
from beamish.net.s2s import S2SLimits
from beamish.net.s2s_carrier import PING_ID
from beamish.net.s2s_link import Link, Wait
from beamish.net.s2s_presence import RemotePresence, sign_off
from beamish.net.throttle import Bucket, LoginThrottle
from beamish.net.wirelog import WireLog
from beamish.stream.component import ComponentReady, ComponentStream, HandshakeFailed
from beamish.stream.dialback import DialbackSecret
from beamish.stream.parser import ParserLimits
from beamish.stream.s2s import Event, S2SSettings
from beamish.xmpp.errors import Condition, Kind, StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, Stanza

log = structlog.get_logger(__name__)

OWNER: Final = "components"
_SWEEP: Final = 30.0
_FOREVER: Final = 1e9


class ComponentOptions(PrivilegeOptions, Protocol):
    """What `[components."…"]` says of one."""

    @property
    def secret(self) -> str:
        """The shared secret."""


@dataclass(frozen=True, slots=True)
class ComponentLimits:
    """Bounds of components; `[component_listener]` of the configuration has them with their reasons."""

    queue_stanzas: int = 1_000
    queue_bytes: int = 4_194_304
    away_seconds: float = 5.0
    unsent_bytes: int = 8_388_608
    presences: int = 200_000
    replace: bool = True
    """Whether a second connection of a component takes the place of the first."""
    connections_per_address: int = 100
    handshake_failures: int = 10
    handshake_failure_window: float = 60.0
    stanzas_per_second: float = 2_000.0
    stanza_burst: float = 20_000.0
    bytes_per_second: float = 8_000_000.0
    bytes_burst: float = 32_000_000.0
    probe_after: float = 300.0
    probe_timeout: float = 60.0


class ComponentLink(Link):
    """One component's connection."""

    __slots__ = ("answers", "ping_id", "pinged", "privileges")

    direction = "component"
    machine: ComponentStream

    def __init__(self, server: ComponentServer) -> None:
        super().__init__(server, ComponentStream(server.settings, self._secret_of))
        self.privileges: Privileges | None = None
        """There once the component has proved who it is."""
        self.ping_id = ""
        self.pinged = 0.0
        """When, and as what, it was last asked whether it lives."""
        self.answers = False
        """Whether it has ever answered that."""

    def _secret_of(self, domain: str) -> str | None:
        secret: str | None = self.federation.secret_of(domain, self._network)
        return secret

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        if not self.federation.welcome(self, self._network):
            self.fail(StreamError(StreamErrorCondition.RESOURCE_CONSTRAINT, "too many connections from your address"))
        elif self.federation.draining:
            self.fail(StreamError(StreamErrorCondition.SYSTEM_SHUTDOWN))

    def lost(self, error: Exception | None) -> None:
        """See `Connection.lost`."""
        if not self.gone:
            self.federation.goodbye(self._network)
        super().lost(error)

    @property
    def idle_limit(self) -> float:
        """A component stays as long as it likes."""
        return _FOREVER

    def sweep(self, now: float) -> None:
        """See `Link.sweep`. A component that has been silent is asked whether it lives, and given up if it says nothing more.
        Of one that has never answered, silence tells nothing: not every component knows pings.
        """
        if self.heard > self.pinged or self._throttled or self._task is not None:
            self._asked = 0.0  # it lives, or we do not listen
        silent = now - max(self.heard, self.pinged)
        if (
            self.privileges is not None
            and self.usable
            and not self._asked
            and silent > self.federation.bounds.probe_after
        ):
            self.pinged = now
            self._asked = now if self.answers else 0.0
            self.federation.ping(self, 0)
        super().sweep(now)

    def _event(self, event: Event) -> Wait | None:
        if isinstance(event, ComponentReady):
            self.answer()
            self.negotiated()
            self._log = self._log.bind(component=event.domain)
            if self.federation.arrived(self, event.domain):
                self._log.info("component_connected")
            return None
        if isinstance(event, HandshakeFailed):
            self.federation.sparing.write(
                self._log.warning, "component_handshake_failed", self._network, component=event.domain
            )
            self.federation.refused(event.domain, self._network)
            return None
        return super()._event(event)

    def _stanza(self, stanza: Stanza) -> Wait | None:
        if self.privileges is not None:
            taken = self.privileges.take(stanza)
            if taken is not False:
                self.stanzas_in += 1
                return None if taken is True else taken
        return super()._stanza(stanza)


class Component:
    """One configured component: its stream, or what waits for it to come back."""

    __slots__ = ("away", "domain", "link", "queue", "queued")

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self.link: ComponentLink | None = None
        self.queue: deque[Stanza] = deque()
        self.queued = 0
        """Bytes in the queue."""
        self.away: Any = None
        """The timer that runs while a component that has just gone is waited for."""

    def take_queue(self) -> deque[Stanza]:
        """What waited, which waits no longer."""
        queue, self.queue, self.queued = self.queue, deque(), 0
        return queue


class ComponentServer:
    """All components of one server. `start` makes their domains served, connected or not."""

    def __init__(
        self,
        kernel: Kernel,
        components: Mapping[str, ComponentOptions],
        parser: ParserLimits,
        bounds: ComponentLimits,
        wire_log: WireLog,
    ) -> None:
        self.kernel = kernel
        self.flusher = Flusher()
        self.wire_log = wire_log
        self.tasks = TaskGroup(OWNER)
        self.links: set[Link] = set()
        self.presences = RemotePresence(bounds.presences)
        self.limits = S2SLimits(unsent_bytes=bounds.unsent_bytes, answer_seconds=bounds.probe_timeout)
        self.sparing = Sparing(kernel.clock)
        self.bounds = bounds
        self.draining = False
        self.settings = S2SSettings(
            serves=kernel.router.serves,
            new_id=new_id,
            ledger=kernel.names,
            secret=DialbackSecret(new_id().encode()),
            limits=parser,
        )
        self._options = components
        self._components = {domain: Component(domain) for domain in components}
        self._per_network: dict[str, int] = {}
        self._buckets: dict[str, tuple[Bucket, Bucket]] = {}
        self._guesses = LoginThrottle(
            bounds.handshake_failures,
            bounds.handshake_failures,
            bounds.handshake_failure_window,
            kernel.clock.monotonic,
        )
        self._empty = asyncio.Event()
        self._sweeper: Any = None

    def start(self) -> None:
        """Serve the components' domains from now on.

        Raises `ValueError` if one is taken by something else, or has privileges for a domain that is not ours.
        """
        rosters = self.kernel.service_or_none(RemoteRosterService)
        for domain, component in self._components.items():
            options = self._options[domain]
            if strange := [each for each in options.domains if not self.kernel.is_local_domain(each)]:
                raise ValueError(f"{domain} has privileges for {strange[0]}, which has no accounts here")
            if options.remote_roster != "none":
                if rosters is None:
                    raise ValueError(f"remote_roster of {domain} needs the module remote_roster")
                granted_for = options.domains or self.kernel.domains
                rosters.offer(JID.of("", domain), granted_for, ask=options.remote_roster == "ask")
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
        rosters = self.kernel.service_or_none(RemoteRosterService)
        for component in self._components.values():
            self._given_up(component)
            self.kernel.router.remove_service(component.domain)
            if rosters is not None:
                rosters.withdraw(JID.of("", component.domain))
        self.kernel.components = ()
        self.kernel.commands.remove(OWNER)
        await self.tasks.close()

    def connection(self) -> ComponentLink:
        """A new protocol object for an accepted connection."""
        return ComponentLink(self)

    def secret_of(self, domain: str, network: str) -> str | None:
        """The secret of a component, None for a domain that is none.

        Raises `StreamError` if there were too many wrong handshakes for it from an address, or if it is there already and
        cannot be replaced (XEP-0114 §3).
        """
        options = self._options.get(domain)
        if options is None:
            return None
        if not self._guesses.allowed(f"{network} {domain}", ""):
            raise StreamError(StreamErrorCondition.POLICY_VIOLATION, "too many wrong handshakes, come back later")
        self._refuse_second(domain)
        return options.secret

    def _refuse_second(self, domain: str) -> None:
        if not self.bounds.replace and self._components[domain].link is not None:
            raise StreamError(StreamErrorCondition.CONFLICT, "the component is connected already")

    def refused(self, domain: str, network: str) -> None:
        """A handshake for a component was wrong. Counted for the address alone, or it would shut the component out."""
        self._guesses.failed(f"{network} {domain}", "")

    def welcome(self, link: Link, network: str) -> bool:
        """Count a connection from an address; False above the limit. Far above it, nobody is told why any more."""
        held = self._per_network.get(network, 0) + 1
        self._per_network[network] = held
        most = self.bounds.connections_per_address
        if held > 2 * most:
            link.turn_away()
        return held <= most

    def goodbye(self, network: str) -> None:
        """A connection from an address is gone."""
        held = self._per_network.get(network, 1) - 1
        if held > 0:
            self._per_network[network] = held
        else:
            self._per_network.pop(network, None)

    def buckets(self, remote: str) -> tuple[Bucket, Bucket]:
        """See `Hub.buckets`: the rates of a component, whether or not it connects anew."""
        found = self._buckets.get(remote)
        if found is None:
            bounds, now = self.bounds, self.kernel.clock.monotonic()
            found = self._buckets[remote] = (
                Bucket(bounds.stanzas_per_second, bounds.stanza_burst, now),
                Bucket(bounds.bytes_per_second, bounds.bytes_burst, now),
            )
        return found

    def ping(self, link: Link, number: int) -> None:
        """See `Hub.ping`. A component's answer says that it lives, and confirms nothing."""
        assert isinstance(link, ComponentLink)
        link.ping_id = PING_ID + new_id()
        addresses = {"sender": JID.of("", self.kernel.domains[0]), "to": JID.of("", link.machine.domain)}
        link.send_stanza(
            Stanza.build(IQ, "get", id=link.ping_id, content=b"<ping xmlns='urn:xmpp:ping'/>", **addresses)
        )

    def ping_answered(self, stanza: Stanza) -> bool:
        """See `Hub.ping_answered`. An error is an answer too."""
        sender = stanza.sender
        component = None if sender is None else self._components.get(sender.domain)
        link = None if component is None else component.link
        if stanza.type not in ("result", "error") or link is None or stanza.id != link.ping_id:
            return False
        link.answers = True
        return True

    def _sweep(self) -> None:
        now = self.kernel.clock.monotonic()
        for link in tuple(self.links):
            link.sweep(now)
        self._sweeper = self.kernel.clock.call_later(_SWEEP, self._sweep)

    # ---- connections ------------------------------------------------------------------------------------------------

    def arrived(self, link: ComponentLink, domain: str) -> bool:
        """A component has proved who it is. An older connection of the same one makes room, or this one is refused."""
        component = self._components[domain]
        try:
            self._refuse_second(domain)  # both may have been at the handshake at the same time
        except StreamError as error:
            link.fail(error)
            return False
        older, component.link = component.link, link
        if older is not None:
            older.fail(StreamError(StreamErrorCondition.CONFLICT, "the component connected again"))
        if component.away is not None:
            component.away.cancel()
            component.away = None
        link.limit(domain)
        link.privileges = Privileges(self.kernel, link, domain, self._options[domain])
        link.privileges.start()
        for stanza in component.take_queue():
            link.send_stanza(stanza)
        return True

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
            component.away = self.kernel.clock.call_later(self.bounds.away_seconds, lambda: self._given_up(component))

    def _given_up(self, component: Component) -> None:
        """The component did not come back."""
        if component.away is not None:
            component.away.cancel()
            component.away = None
        queue = component.take_queue()
        for stanza in queue:
            reply = stanza.error(_not_connected())
            if reply is not None:
                self.kernel.router.post(reply)
        known = self.presences.of(component.domain)
        log.info("component_gone", component=component.domain, stanzas=len(queue), presences=known)
        sign_off(self.kernel, self.presences, component.domain, "the component is gone")

    # ---- stanzas ----------------------------------------------------------------------------------------------------

    def _deliver(self, component: Component, ctx: Context) -> Wait | None:
        stanza = ctx.stanza
        if (
            stanza.name == IQ
            and ctx.origin is not None
            and self._options[component.domain].remote_roster != "none"
            and is_settling(stanza)
        ):
            return self._settle(ctx)
        link = component.link
        if link is not None and link.usable:
            if not link.room:
                raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="the component does not keep up")
            link.send_stanza(stanza)
        elif component.away is not None:
            size = len(stanza.head) + len(stanza.body)
            if len(component.queue) >= self.bounds.queue_stanzas or component.queued + size > self.bounds.queue_bytes:
                raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="too much waits for the component")
            component.queued += size
            component.queue.append(stanza.detached())
        else:
            raise _not_connected()
        return None

    async def _settle(self, ctx: Context) -> None:
        """A user asks who may manage their roster, or ends that, by way of the component (XEP-0321 §4.5)."""
        self.kernel.router.answer(ctx, await self.kernel.service(RemoteRosterService).settle(ctx.stanza))

    # ---- commands ---------------------------------------------------------------------------------------------------

    def list_components(self) -> list[dict[str, Any]]:
        """Every configured component, and its stream if it has one."""
        found = []
        for domain, component in sorted(self._components.items()):
            entry: dict[str, Any] = {
                "domain": domain,
                "connected": component.link is not None,
                "queued": len(component.queue),
            }
            if component.link is not None:
                entry |= component.link.describe()
            found.append(entry)
        return found


def _not_connected() -> StanzaError:
    return StanzaError(Condition.SERVICE_UNAVAILABLE, Kind.WAIT, "the component is not connected")
