"""Federation: every stream between this server and others, the policy for them, and the ways of stanzas in and out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from beamish.core import events
from beamish.core.commands import Command, CommandError
from beamish.core.events import Context, RemoteLost
from beamish.core.hooks import STOP, Row, Verdict
from beamish.core.kernel import Kernel, new_id
from beamish.core.later import is_later
from beamish.core.tasks import TaskGroup
from beamish.net import dns
from beamish.net.connection import Flusher
from beamish.net.dns import ConnectFailed, LookupFailed, NoSuchDomain, Resolver, Target
from beamish.net.s2s_in import S2SInLink
from beamish.net.s2s_link import PING_ID, Link
from beamish.net.s2s_out import Report, S2SOutLink
from beamish.net.s2s_presence import RemotePresence
from beamish.net.s2s_route import BROKEN, Route
from beamish.net.throttle import Bucket
from beamish.net.tls_memory import TlsContexts
from beamish.net.verify import Trust
from beamish.net.wirelog import WireLog
from beamish.stream.s2s import Pair, S2SSettings, domain_of
from beamish.stream.s2s_acks import Acks
from beamish.stream.s2s_out import Cause, Unreachable
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import Stanza

log = structlog.get_logger(__name__)

OWNER: Final = "s2s"
_SWEEP: Final = 5.0
_WORST: Final = (Cause.CERTIFICATE, Cause.AUTHENTICATION, Cause.TLS, Cause.STREAM)
"""Of several servers of one domain that all failed, these causes tell more than a connection refused."""


@dataclass(frozen=True, slots=True)
class S2SLimits:
    """Bounds of server streams; `[s2s]` of the configuration has them with their reasons."""

    connect_seconds: float = 10.0
    negotiation_seconds: float = 30.0
    retry_seconds: float = 20.0
    backoff_seconds: float = 60.0
    answer_seconds: float = 60.0
    idle_seconds: float = 600.0
    resume_seconds: float = 60.0
    queue_stanzas: int = 2_000
    queue_bytes: int = 4_194_304
    routes: int = 10_000
    resumable: int = 1_000
    verifications: int = 200
    streams_per_domain: int = 20
    connections_per_address: int = 200
    stanzas_per_second: float = 500.0
    stanza_burst: float = 10_000.0
    bytes_per_second: float = 4_000_000.0
    bytes_burst: float = 16_000_000.0
    unsent_bytes: int = 16_777_216
    presences: int = 200_000


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may talk to us. A domain in a list stands for its subdomains too; the longest entry that fits decides."""

    open: bool = True
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    require_verified: bool = True
    unverified: frozenset[str] = frozenset()
    """Domains whose certificates need not hold; dialback vouches for them."""

    def refusal(self, domain: str) -> str:
        """Why a domain may not talk to us; "" if it may."""
        allowed, denied = _fit(domain, self.allow), _fit(domain, self.deny)
        if denied > allowed or (denied and denied == allowed):
            return f"this server does not talk to {domain}"
        if not self.open and not allowed:
            return "this server only talks to domains it was told about"
        return ""

    def must_verify(self, domain: str) -> bool:
        """Whether the certificate of a domain must hold."""
        return self.require_verified and not _fit(domain, self.unverified)


def _fit(domain: str, entries: Iterable[str]) -> int:
    """The length of the longest entry that is the domain or one above it; 0 if there is none."""
    return max((len(entry) for entry in entries if domain == entry or domain.endswith(f".{entry}")), default=0)


@dataclass(slots=True)
class Federation:
    """What all server streams share, and the ways of remote domains. It hooks itself into the kernel with `start`."""

    kernel: Kernel
    settings: S2SSettings
    limits: S2SLimits
    policy: Policy
    contexts: TlsContexts
    trust: Trust
    resolver: Resolver
    wire_log: WireLog
    hosts: Mapping[str, Target] = field(default_factory=dict)
    flusher: Flusher = field(default_factory=Flusher)
    tasks: TaskGroup = field(default_factory=lambda: TaskGroup(OWNER))
    links: set[Link] = field(default_factory=set)
    routes: dict[Pair, Route] = field(default_factory=dict)
    resumable: dict[str, S2SInLink] = field(default_factory=dict)
    draining: bool = False
    presences: RemotePresence = field(init=False)
    _buckets: dict[str, tuple[Bucket, Bucket]] = field(default_factory=dict)
    _per_network: dict[str, int] = field(default_factory=dict)
    _pinged: dict[tuple[str, str, str], tuple[Link, int]] = field(default_factory=dict)
    _verifying: int = 0
    _empty: asyncio.Event = field(default_factory=asyncio.Event)
    _sweeper: Any = None

    def __post_init__(self) -> None:
        self.presences = RemotePresence(self.limits.presences)

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take stanzas for remote domains from now on, and look after the streams."""
        self.kernel.hooks[events.remote].add(Row(50, OWNER, self.carry))
        for name, summary, run in (
            ("s2s.list", "Show the streams with other servers", self.list_streams),
            ("s2s.test", "Connect to the server of a domain and tell each step", self.test),
        ):
            self.kernel.commands.add(Command(name, summary, OWNER, run))
        self._sweeper = self.kernel.clock.call_later(_SWEEP, self._sweep)

    async def stop(self, grace: float = 5.0) -> None:
        """Close every stream in order; what could not be sent goes back to its senders. `grace` in seconds."""
        self.draining = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for link in tuple(self.links):
            link.close()
        if self.links:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._empty.wait()
        self.kernel.hooks.remove(OWNER)
        self.kernel.commands.remove(OWNER)
        for link in tuple(self.links):
            link.abort()
            link.lost(None)
        why = Unreachable(Cause.LOST, "this server is going down")
        for route in tuple(self.routes.values()):
            route.stop(why)
        for link in self.resumable.values():
            if link.acks is not None:
                self.bounce_pending(link.acks, why)
        await self.tasks.close()

    def now(self) -> float:
        """Monotonic seconds."""
        return self.kernel.clock.monotonic()

    def connection(self, *, direct_tls: bool = False) -> S2SInLink:
        """A new protocol object for an accepted connection."""
        return S2SInLink(self, direct_tls=direct_tls)

    def _sweep(self) -> None:
        now = self.now()
        for link in tuple(self.links):
            link.sweep(now)
        for pair in [pair for pair, route in self.routes.items() if route.forgettable]:
            del self.routes[pair]
        self._sweeper = self.kernel.clock.call_later(_SWEEP, self._sweep)

    # ---- policy -----------------------------------------------------------------------------------------------------

    def admits(self, domain: str) -> str:
        """Why a remote domain may not talk to us; "" if it may."""
        if self.kernel.router.serves(domain):
            return f"{domain} is served here"
        return self.policy.refusal(domain)

    def must_verify(self, domain: str) -> bool:
        """Whether the certificate of a domain must hold."""
        return self.policy.must_verify(domain)

    def welcome(self, _link: Link, network: str) -> bool:
        """Count a connection from an address; False above the limit."""
        held = self._per_network.get(network, 0) + 1
        self._per_network[network] = held
        return held <= self.limits.connections_per_address

    def goodbye(self, _link: Link, network: str) -> None:
        """A connection from an address is gone."""
        held = self._per_network.get(network, 1) - 1
        if held > 0:
            self._per_network[network] = held
        else:
            self._per_network.pop(network, None)

    def crowded(self, remote: str) -> bool:
        """Whether a domain holds too many streams."""
        held = 0
        for link in self.links:
            if isinstance(link, S2SInLink):
                held += any(domain == remote for _, domain in link.machine.pairs)
            elif isinstance(link, S2SOutLink):
                held += link.machine.remote == remote
        return held > self.limits.streams_per_domain

    def buckets(self, remote: str) -> tuple[Bucket, Bucket]:
        """The rates of a remote domain, shared by its streams: stanzas and bytes."""
        held = self._buckets.pop(remote, None)
        if held is None:
            limits, now = self.limits, self.now()
            held = (
                Bucket(limits.stanzas_per_second, limits.stanza_burst, now),
                Bucket(limits.bytes_per_second, limits.bytes_burst, now),
            )
        self._buckets[remote] = held  # the most recent last
        while len(self._buckets) > self.limits.routes:
            del self._buckets[next(iter(self._buckets))]
        return held

    # ---- out --------------------------------------------------------------------------------------------------------

    def carry(self, ctx: Context) -> Verdict:
        """Handler of `remote`: bring a stanza to another server. Raises `StanzaError` when that cannot be tried."""
        stanza = ctx.stanza
        sender, to = stanza.sender, stanza.to
        assert to is not None
        if sender is None or not self.kernel.router.serves(sender.domain):
            raise StanzaError(Condition.NOT_ALLOWED, text="this server sends only for its own domains")
        pair = (sender.domain, to.domain)
        route = self.routes.get(pair)
        if route is None:
            route = self._route(pair)
        route.send(stanza)
        return STOP

    def _route(self, pair: Pair) -> Route:
        if self.draining:
            raise StanzaError(Condition.REMOTE_SERVER_TIMEOUT, text="this server is going down")
        if reason := self.policy.refusal(pair[1]):
            log.info("s2s_refused", local=pair[0], remote=pair[1], reason=reason)
            raise Unreachable(Cause.POLICY, reason).stanza_error()
        if len(self.routes) >= self.limits.routes:
            raise Unreachable(Cause.OVERLOAD, "too many remote domains at a time").stanza_error()
        route = self.routes[pair] = Route(self, *pair)
        return route

    async def open(
        self,
        local: str,
        remote: str,
        *,
        route: Route | None = None,
        question: tuple[str, str] | None = None,
        report: Report | None = None,
    ) -> S2SOutLink:
        """Open a stream and bring it to where it can be used. Raises `Unreachable`."""
        if reason := self.policy.refusal(remote):
            raise Unreachable(Cause.POLICY, reason)
        say = report or (lambda _step: None)
        try:
            targets = await dns.targets_of(remote, self.resolver, self.hosts)
        except NoSuchDomain as exc:
            raise Unreachable(Cause.NO_SUCH_DOMAIN, str(exc)) from exc
        except LookupFailed as exc:
            raise Unreachable(Cause.DNS, f"{remote} could not be looked up: {exc}") from exc
        say("servers: " + ", ".join(map(str, targets)))
        failures: list[Unreachable] = []
        for target in targets:
            try:
                return await self._try(target, local, remote, route, question, say)
            except Unreachable as why:
                say(f"{target}: {why}")
                failures.append(why)
        raise next((why for cause in _WORST for why in failures if why.cause is cause), failures[-1])

    async def _try(
        self,
        target: Target,
        local: str,
        remote: str,
        route: Route | None,
        question: tuple[str, str] | None,
        report: Report,
    ) -> S2SOutLink:
        def make() -> S2SOutLink:
            return S2SOutLink(
                self, local, remote, route=route, question=question, direct_tls=target.direct_tls, report=report
            )

        try:
            link = await dns.connect(target, self.resolver, make, self.limits.connect_seconds)
        except NoSuchDomain as exc:
            raise Unreachable(Cause.NO_SUCH_DOMAIN, str(exc)) from exc
        except LookupFailed as exc:
            raise Unreachable(Cause.DNS, f"{target.host} could not be looked up: {exc}") from exc
        except ConnectFailed as exc:
            cause = Cause.REFUSED if exc.refused else Cause.TIMEOUT if exc.timed_out else Cause.NETWORK
            raise Unreachable(cause, str(exc)) from exc
        try:
            async with asyncio.timeout(self.limits.negotiation_seconds):
                await asyncio.shield(link.ready)
        except TimeoutError:
            link.abort()
            raise Unreachable(Cause.TIMEOUT, f"{target} did not finish the negotiation in time") from None
        except asyncio.CancelledError:
            link.close()
            raise
        return link

    async def ask(self, local: str, remote: str, stream_id: str, key: str) -> bool:
        """Ask the authoritative server of `remote` whether a key is its own (XEP-0220 §2.2). Raises `Unreachable`."""
        if self._verifying >= self.limits.verifications:
            raise Unreachable(Cause.OVERLOAD, "too many keys are being verified")
        self._verifying += 1
        try:
            link = await self.open(local, remote, question=(stream_id, key))
        finally:
            self._verifying -= 1
        return link.key_ok

    # ---- what links report ------------------------------------------------------------------------------------------

    def offer(self, link: S2SInLink, local: str, remote: str) -> None:
        """A bidirectional stream of the peer's may carry what we have for it (XEP-0288)."""
        if not link.usable:
            return
        route = self.routes.get((local, remote))
        if route is None:
            try:
                route = self._route((local, remote))
            except StanzaError:
                return
        if (route.unused and route.holder in (None, link)) or self._resumed(route, link):
            route.attach(link)

    def _resumed(self, route: Route, link: S2SInLink) -> bool:
        """Whether the link goes on with what the route's holder has left behind."""
        holder = route.holder
        return route.link is None and holder is not None and holder.acks is None and link.acks is not None

    def heard_from(self, remote: str) -> None:
        """A remote domain is alive: forget that it could not be reached."""
        for (_, domain), route in self.routes.items():
            if domain == remote:
                route.failures = 0
                route.not_before = 0.0

    def keep(self, _link: S2SInLink) -> bool:
        """Whether one more stream may be made resumable."""
        return len(self.resumable) < self.limits.resumable

    def ping(self, link: Link, number: int) -> None:
        """Send a ping (XEP-0199) behind what went out on a link; its answer confirms all of that."""
        route = next(iter(link.routes), None)
        if route is None:
            return
        local, remote = route.local, route.remote
        id_ = PING_ID + new_id()
        self._pinged[id_, remote, local] = (link, number)
        while len(self._pinged) > self.limits.routes:
            del self._pinged[next(iter(self._pinged))]
        addresses = {"sender": JID.of("", local), "to": JID.of("", remote)}
        ping = Stanza.build("iq", "get", id=id_, content=b"<ping xmlns='urn:xmpp:ping'/>", **addresses)
        data = ping.to_wire()
        if link.acks is not None:
            link.acks.count_sent(ping, data)  # the peer counts it as well
        link.write(data)

    def ping_answered(self, stanza: Stanza) -> bool:
        """See `Hub.ping_answered`. An error is an answer too."""
        if stanza.type not in ("result", "error") or stanza.sender is None or stanza.to is None:
            return False
        link, number = self._pinged.pop((stanza.id, str(stanza.sender), str(stanza.to)), (None, 0))
        if link is None or link.pings is None:
            return False
        link.pings.answered(number)
        return True

    def link_lost(self, link: Link) -> None:
        """A stream is gone."""
        if self.draining and not self.links:
            self._empty.set()
        abnormal = link.why is not None
        acks = link.acks
        kept = False
        if isinstance(link, S2SInLink):
            if acks is not None and acks.id and self.resumable.get(acks.id) is link:
                if link.why is not None and not self.draining:
                    self.kernel.clock.call_later(self.limits.resume_seconds, lambda: self._forget(link))
                    kept = link.why.cause in BROKEN
                else:
                    self.resumable.pop(acks.id, None)
            for route in tuple(link.routes):
                kept = route.detach(link, ours=False, again=False) or kept
            if abnormal and not self.draining:
                for local, remote in link.machine.pairs:
                    self._is_there(local, remote)
        elif isinstance(link, S2SOutLink):
            for route in tuple(link.routes):
                again = abnormal and (link.machine.bidi or self.presences.of(link.machine.remote) > 0)
                kept = route.detach(link, ours=True, again=again and not self.draining) or kept
        if acks is not None and acks.pending and not kept:
            self.resumable.pop(acks.id, None)  # without what goes back now there is nothing to go on with
            self.bounce_pending(acks, link.why)
        if link.pings is not None and link.why is not None:
            for stanza in link.pings.lost(self.now()):
                self.bounce(stanza, link.why)

    def _forget(self, link: S2SInLink) -> None:
        """The peer did not come back for its stream."""
        if link.acks is not None and self.resumable.get(link.acks.id) is link:
            del self.resumable[link.acks.id]
            self.bounce_pending(link.acks, link.why)

    def _is_there(self, local: str, remote: str) -> None:
        """A stream of the peer's broke off. If anybody here sees its users online, find out whether it is alive."""
        if not self.presences.of(remote):
            return
        route = self.routes.get((local, remote))
        if route is None:
            try:
                route = self._route((local, remote))
            except StanzaError:
                return
        route.wake()

    # ---- what cannot be delivered -----------------------------------------------------------------------------------

    def bounce(self, stanza: Stanza, why: Unreachable) -> None:
        """Send a stanza back to its sender with the cause."""
        reply = stanza.error(why.stanza_error())
        if reply is not None:
            self.kernel.router.post(reply)

    def bounce_pending(self, acks: Acks, why: Unreachable | None) -> None:
        """Send back what the peer has not confirmed and nobody can ask it about any more."""
        reason = why or Unreachable(Cause.LOST, "the server closed the stream before it confirmed this")
        pending = [stanza for stanza, _ in acks.pending]
        acks.pending.clear()
        acks.bytes = 0
        for stanza in pending:
            self.bounce(stanza, reason)

    def unreachable(self, remote: str, why: Unreachable) -> None:
        """A remote domain is gone: its users are offline to whoever saw them online."""
        if any(domain == remote and route.link is not None for (_, domain), route in self.routes.items()):
            return
        goodbyes = self.presences.lost(remote)
        for stanza in goodbyes:
            self.kernel.router.post(stanza)
        if goodbyes:
            log.info("s2s_presence_cleaned", remote=remote, presences=len(goodbyes))
        outcome = self.kernel.hooks[events.remote_lost].run(RemoteLost(remote, why.text))
        if is_later(outcome):
            self.kernel.tasks.spawn(_wait(outcome), "remote_lost")

    # ---- commands ---------------------------------------------------------------------------------------------------

    def list_streams(self) -> list[dict[str, Any]]:
        """Every stream, and every way that waits for one."""
        found: list[dict[str, Any]] = []
        for link in self.links:
            entry = link.describe()
            if isinstance(link, S2SInLink):
                machine = link.machine
                pairs = sorted(machine.pairs) or [(machine.local, machine.remote)]
                for local, remote in pairs:
                    method = machine.methods.get((local, remote), "")
                    found.append(entry | {"local": local, "remote": remote, "bidi": machine.bidi, "method": method})
            else:
                found.append(entry)
        found += [route.describe() for route in self.routes.values() if route.link is None]
        return sorted(found, key=lambda e: (e["remote"], e["local"], e["direction"]))

    async def test(self, domain: str, sender: str = "") -> dict[str, Any]:
        """Connect to the server of a domain, as one of our domains (the first by default), and tell each step."""
        try:
            remote, local = domain_of(domain), domain_of(sender or self.kernel.domains[0])
        except JidMalformed as exc:
            raise CommandError(f"not a domain: {exc}") from exc
        if not self.kernel.router.serves(local):
            raise CommandError(f"{local} is not served here")
        loop = asyncio.get_running_loop()
        began = loop.time()
        steps: list[str] = []

        def step(text: str) -> None:
            steps.append(f"{loop.time() - began:7.3f} s  {text}")

        try:
            link = await self.open(local, remote, report=step)
        except Unreachable as why:
            step(f"failed: {why}")
            return {"domain": remote, "ok": False, "steps": steps, "cause": why.cause.value}
        step("stanzas can be exchanged")
        link.close()
        return {"domain": remote, "ok": True, "steps": steps, "cause": None}


async def _wait(outcome: Any) -> None:
    await outcome
