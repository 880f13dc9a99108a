"""Federation: every stream between this server and others, the policy for them, and the ways of stanzas in and out."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from beamish.core import events
from beamish.core.commands import Command, CommandError
from beamish.core.events import Context, RemoteFound
from beamish.core.hooks import STOP, Row, Verdict
from beamish.core.kernel import Kernel, new_id
from beamish.core.later import is_later, settled
from beamish.core.services import Outbox
from beamish.core.sparing import Sparing
from beamish.core.tasks import TaskGroup
from beamish.net.connection import Flusher
from beamish.net.dns import Resolver, Target
from beamish.net.resting import in_slices
from beamish.net.s2s_carrier import PING_ID
from beamish.net.s2s_in import S2SInLink
from beamish.net.s2s_link import Link
from beamish.net.s2s_load import Load
from beamish.net.s2s_opening import open_stream
from beamish.net.s2s_out import S2SOutLink
from beamish.net.s2s_policy import Policy, S2SLimits
from beamish.net.s2s_presence import RemotePresence, sign_off
from beamish.net.s2s_resumable import Resumable
from beamish.net.s2s_route import BROKEN, Route
from beamish.net.s2s_stored import Dormant, in_doubt, not_kept, restore, settle, worth_keeping
from beamish.net.s2s_turns import Routes, Turns, family
from beamish.net.throttle import Bucket
from beamish.net.tls_memory import TlsContexts
from beamish.net.verify import Trust
from beamish.net.wirelog import WireLog
from beamish.stream.s2s import Pair, S2SSettings, domain_of
from beamish.stream.s2s_acks import Acks, PingAcks
from beamish.stream.s2s_out import Cause, Unreachable
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import Stanza

log = structlog.get_logger(__name__)

OWNER: Final = "s2s"
_ANSWERS: Final = frozenset(("error", "result", "unsubscribed", "unavailable"))
_SWEEP: Final = 5.0


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
    routes: Routes = field(init=False)
    resumable: Resumable = field(init=False)
    draining: bool = False
    outbox: Outbox | None = None
    presences: RemotePresence = field(init=False)
    turns: Turns = field(init=False)
    load: Load = field(init=False)
    sparing: Sparing = field(init=False)
    """For lines that a stanza or a claim is enough for, by the registered name of the other side."""
    _buckets: OrderedDict[str, tuple[Bucket, Bucket]] = field(default_factory=OrderedDict)
    _per_network: dict[str, int] = field(default_factory=dict)
    _pinged: OrderedDict[tuple[str, str, str], tuple[Link, int]] = field(default_factory=OrderedDict)
    _streams: dict[str, set[Link]] = field(default_factory=dict)
    """Of each remote domain."""
    _verifying: Counter[str] = field(default_factory=Counter)
    _empty: asyncio.Event = field(default_factory=asyncio.Event)
    _lost: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Domains that could not be reached, or may have missed something, and have not been heard from since."""
    _sweeper: Any = None

    def __post_init__(self) -> None:
        self.routes = Routes(self.limits.routes)
        self.load = Load(self.limits.queue_bytes_in_all)
        self.presences = RemotePresence(self.limits.presences)
        self.turns = Turns(self.limits.openings, self.limits.openings_each)
        self.resumable = Resumable(self.limits.resumable, self.kernel.clock)
        self.sparing = Sparing(self.kernel.clock)

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
        self.outbox = self.kernel.service_or_none(Outbox)
        if self.outbox is not None:
            self.outbox.refused = partial(not_kept, self)
        restore(self)

    async def stop(self, grace: float = 5.0) -> None:
        """Close every stream in order; `grace` in seconds. What could not be sent waits on disk for the next start; what
        is not there goes back to its senders.
        """
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
        for left in self.resumable.broken():
            if left.acks is not None:
                self.bounce_rest(left.acks, why)
        await self.tasks.close()

    def now(self) -> float:
        """Monotonic seconds."""
        return self.kernel.clock.monotonic()

    def connection(self, *, direct_tls: bool = False) -> S2SInLink:
        """A new protocol object for an accepted connection."""
        return S2SInLink(self, direct_tls=direct_tls)

    def _sweep(self) -> None:
        now, clock = self.now(), self.kernel.clock
        in_slices(clock, tuple(self.links), lambda link: link.sweep(now) if link in self.links else None)
        in_slices(clock, tuple(self.routes.items()), self._drop)
        self._sweeper = clock.call_later(_SWEEP, self._sweep)

    def _drop(self, known: tuple[Pair, Route]) -> None:
        if known[1].forgettable and self.routes.get(known[0]) is known[1]:
            self.routes.forget(*known[0])

    # ---- policy -----------------------------------------------------------------------------------------------------

    def admits(self, domain: str) -> str:
        """Why a remote domain may not talk to us; "" if it may."""
        if self.kernel.router.serves(domain):
            return f"{domain} is served here"
        return self.policy.refusal(domain)

    def must_verify(self, domain: str) -> bool:
        """Whether the certificate of a domain must hold."""
        return self.policy.must_verify(domain)

    def welcome(self, link: Link, network: str) -> bool:
        """Count a connection from an address; False above the limit. Far above it, nobody is told why any more."""
        held = self._per_network.get(network, 0) + 1
        self._per_network[network] = held
        most = self.limits.connections_per_address
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

    def crowded(self, link: Link, remote: str) -> bool:
        """Count a stream for a domain, until it is lost; whether that domain holds too many now."""
        held = self._streams.setdefault(remote, set())
        held.add(link)
        return len(held) > self.limits.streams_per_domain

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
            self._buckets.popitem(last=False)
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
            route = self.route(pair)
        position = route.send(stanza)
        if position > ctx.settled:
            ctx.settled = position
        return STOP

    def keeps(self, stanza: Stanza) -> bool:
        """Whether a stanza is kept on disk until its server has it."""
        return worth_keeping(self.kernel, stanza)

    def route(self, pair: Pair) -> Route:
        """The way from a domain of ours to a remote one. Raises `StanzaError` if there may be none."""
        if (found := self.routes.get(pair)) is not None:
            return found
        if self.draining:
            raise StanzaError(Condition.REMOTE_SERVER_TIMEOUT, text="this server is going down")
        if reason := self.policy.refusal(pair[1]):
            self.sparing.write(log.info, "s2s_refused", family(pair[1]), local=pair[0], remote=pair[1], reason=reason)
            raise Unreachable(Cause.POLICY, reason).stanza_error()
        if self.routes.full(pair[1]):
            raise Unreachable(Cause.OVERLOAD, "too many remote domains at a time").stanza_error()
        route = Route(self, *pair)
        self.routes.add(route)
        return route

    def asks(self, stanza: Stanza) -> JID:
        """At whose wish a stanza goes to another server: an account's with a session, a room's or a service's; or that of
        whoever is answered there, who could have named any account here, and speak for any domain below one of theirs.
        """
        sender, to = stanza.sender, stanza.to
        assert sender is not None and to is not None
        if stanza.type not in _ANSWERS:
            who = sender.bare
            if not (who.local and self.kernel.is_local_domain(who.domain)) or self.kernel.sessions.of(who).all:
                return who
        return JID.of("", family(to.domain))

    def asks_too_much(self, who: JID) -> bool:
        """Whether somebody waits for so many servers already that they get no stream to yet another one."""
        if self.turns.wanted(who) < self.limits.domains_waited_for:
            return False
        return bool(who.local and self.kernel.is_local_domain(who.domain)) or not self.kernel.router.serves(who.domain)

    async def ask(self, local: str, remote: str, stream_id: str, key: str, network: str) -> bool:
        """Ask the authoritative server of `remote` whether a key is its own (XEP-0220 §2.2). Raises `Unreachable`.

        `network` is where the key came from: each has a share of the questions that may be open.
        """
        theirs, limits = self._verifying[network], self.limits
        if theirs >= limits.verifications_each or self._verifying.total() >= limits.verifications:
            raise Unreachable(Cause.OVERLOAD, "too many keys are being verified")
        self._verifying[network] += 1
        try:
            link = await open_stream(self, local, remote, question=(stream_id, key))
        finally:
            self._verifying[network] -= 1
            if not self._verifying[network]:
                del self._verifying[network]
        if link.key_error:
            gone = link.key_error == Condition.ITEM_NOT_FOUND.value
            cause = Cause.NO_SUCH_DOMAIN if gone else Cause.STREAM
            raise Unreachable(cause, f"the server of {remote} could not say whether a key is its own: {link.key_error}")
        return link.key_ok

    # ---- what links report ------------------------------------------------------------------------------------------

    def offer(self, link: S2SInLink, local: str, remote: str) -> None:
        """A bidirectional stream of the peer's may carry what we have for it (XEP-0288)."""
        if not link.usable:
            return
        try:
            route = self.route((local, remote))
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
        for route in self.routes.to(remote):
            route.failures = 0
            route.not_before = 0.0
        if remote in self._lost:
            del self._lost[remote]
            outcome = self.kernel.hooks[events.remote_found].run(RemoteFound(remote))
            if is_later(outcome):
                self.kernel.tasks.spawn(settled(outcome), "remote_found")

    def missed(self, remotes: Iterable[str]) -> None:
        """Stanzas to or from these domains may be lost: once they are heard from, presence is told and asked anew."""
        for remote in remotes:
            if self.presences.of(remote):
                self.untold(remote)

    def untold(self, remote: str) -> None:
        """A domain has not got presence of our users: when it is heard from, they show themselves, and ask, anew."""
        self._lost[remote] = None
        if len(self._lost) > self.limits.routes:
            self._lost.popitem(last=False)

    def ping(self, link: Link, number: int) -> None:
        """Send a ping (XEP-0199) behind what went out on a link; its answer confirms all of that."""
        route = next(iter(link.routes), None)
        if route is None:
            return
        local, remote = route.local, route.remote
        id_ = PING_ID + new_id()
        self._pinged[id_, remote, local] = (link, number)
        while len(self._pinged) > self.limits.routes:
            self._pinged.popitem(last=False)
        addresses = {"sender": JID.of("", local), "to": JID.of("", remote)}
        ping = Stanza.build("iq", "get", id=id_, content=b"<ping xmlns='urn:xmpp:ping'/>", **addresses)
        data = ping.to_wire()
        if link.acks is not None:
            link.acks.count_sent(ping, data)  # the peer counts it as well
        link.put(data)

    def ping_answered(self, stanza: Stanza) -> bool:
        """See `Hub.ping_answered`. An error is an answer too."""
        if stanza.type not in ("result", "error") or stanza.sender is None or stanza.to is None:
            return False
        link, number = self._pinged.pop((stanza.id, str(stanza.sender), str(stanza.to)), (None, 0))
        if link is None or link.pings is None:
            return False
        rows = link.pings.answered(number)
        if rows and self.outbox is not None:
            self.outbox.drop(rows, soon=True)
        link.released()
        return True

    def link_lost(self, link: Link) -> None:
        """A stream is gone."""
        if self.draining and not self.links:
            self._empty.set()
        for remote in link.remotes:
            if (streams := self._streams.get(remote)) is not None:
                streams.discard(link)
                if not streams:
                    del self._streams[remote]
        why, acks = link.why, link.acks
        kept = False
        if acks is not None and why is not None and why.told is not None:
            # Sent again it would only happen again: one of the stanzas may be what the peer does not bear.
            acks.blame = why
        if isinstance(link, S2SInLink):
            if acks is not None and acks.id and self.resumable.get(acks.id) is link:
                if why is not None and why.cause in BROKEN and not self.draining:
                    self.wait_for_peer(link)
                    kept = True
                else:
                    self.resumable.forget(acks.id)
            routes = [route for route in link.routes if route.link is link]
            for route in tuple(link.routes):
                kept = route.detach(link, ours=False, again=False) or kept
            if link.askable and acks is not None and acks.id and acks.unconfirmed and routes and not self.draining:
                routes[0].ask(acks, link)
                kept = True
            if why is not None and not self.draining:
                for local, remote in link.machine.pairs:
                    self._is_there(local, remote)
        elif isinstance(link, S2SOutLink):
            for route in tuple(link.routes):
                again = why is not None and (link.machine.bidi or self.presences.of(link.machine.remote) > 0)
                kept = route.detach(link, ours=True, again=again and not self.draining) or kept
        if acks is not None and not kept:
            if not self.draining or (why is None and not acks.unconfirmed):
                self.give_up_stream(acks, why)
            else:
                self.bounce_rest(acks, why)  # and after the start we go on with what is on disk
        if why is not None and why.cause in BROKEN and not kept and not self.draining:
            self.missed(link.remotes)
        if link.pings is not None:
            self._pings_lost(link.pings, why)

    def _pings_lost(self, pings: PingAcks, why: Unreachable | None) -> None:
        if why is None:
            rows = pings.closed()
        else:
            doubtful, rows = pings.lost(self.now())
            for stanza, row in doubtful:
                self.bounce(stanza, why, row)
        if rows and self.outbox is not None:
            self.outbox.drop(rows, soon=True)

    # ---- streams that are over --------------------------------------------------------------------------------------

    def wait_for_peer(self, link: S2SInLink | Dormant) -> None:
        """Give a peer time to resume its stream."""
        assert link.acks is not None
        self.resumable.wait(link.acks.id, link, self.limits.resume_seconds, lambda: self._forget(link))

    def _forget(self, link: S2SInLink | Dormant) -> None:
        """The peer did not come back for its stream: what is left on it, we ask it about ourselves."""
        acks = link.acks
        if acks is None or self.resumable.get(acks.id) is not link or not link.gone:
            return
        self.resumable.forget(acks.id)
        self.missed(link.remotes)
        for remote in {remote for (_, remote), route in self.routes.items() if route.link is not None}:
            if remote in self._lost and remote in link.remotes:
                self.heard_from(remote)  # it started anew, and was back before it was clear that the stream is over
        waiting = [route for route in self.routes.values() if route.holder is link]
        for route in waiting:
            route.holder = None
        if acks.unconfirmed and waiting:
            waiting[0].ask(acks, link if isinstance(link, S2SInLink) else None)
        else:
            self.give_up_stream(acks, link.why)
        for route in waiting:
            route.look_after()

    async def counted(self, acks: Acks, after: int) -> None:
        """Return when it is on disk how many stanzas of the peer were handled, and what they caused up to `after`."""
        done = asyncio.get_running_loop().create_future()

        def tell() -> None:
            if not done.done():
                done.set_result(None)

        if self.outbox is not None:
            self.outbox.handled(acks.key, acks.handled, tell, after)
        else:
            self.kernel.db.when_durable(after, tell)
        await done

    async def settle(self, id_: str, h: int, remotes: set[str]) -> int | None:
        """See `s2s_stored.settle`."""
        return await settle(self, id_, h, remotes)

    def settled(self, acks: Acks, h: int) -> None:
        """The peer says that it got `h` stanzas of a stream that is over: the rest goes out again, on another one."""
        rows = acks.confirm(h)
        if self.outbox is not None:
            self.outbox.drop(rows)
        if acks.blame is not None:
            self.give_up_stream(acks, acks.blame)
            return
        rest = acks.take_rest()
        self.give_up_stream(acks, None)
        if rest:
            log.info("s2s_left_over", stanzas=len(rest))
        self.again(rest)

    def again(self, stanzas: list[tuple[Stanza, int]], *, behind: bool = False) -> None:
        """Send stanzas that a stream left behind, in their order before all that waits, or `behind` it."""
        by_pair: dict[Pair, list[tuple[Stanza, int]]] = {}
        for stanza, row in stanzas:
            assert stanza.sender is not None and stanza.to is not None
            by_pair.setdefault((stanza.sender.domain, stanza.to.domain), []).append((stanza, row))
        for pair, some in by_pair.items():
            try:
                self.route(pair).again(some, behind=behind)
            except StanzaError as error:
                for stanza, row in some:
                    if not (row and self.draining):
                        self.refuse(stanza, error, row)

    def lost_count(self, acks: Acks, why: Unreachable) -> None:
        """The peer has forgotten a stream that is over, and with it whether it got the last stanzas."""
        if acks.exact:
            self.give_up_stream(acks, why)
            return
        rest = acks.take_rest()
        self.give_up_stream(acks, why)
        for stanza, row in rest:
            in_doubt(self, stanza, row, why)

    def give_up_stream(self, acks: Acks, why: Unreachable | None) -> None:
        """A stream is over for good: send back what the peer has not confirmed, remember what we have handled.

        At the end of this process it is not, if there is anything left to ask the peer about after the next start.
        """
        if acks.key and self.outbox is not None and not (self.draining and acks.unconfirmed):
            self.outbox.handled(acks.key, acks.handled)
            self.outbox.ended(acks.key)
        self.bounce_rest(acks, why)

    def _is_there(self, local: str, remote: str) -> None:
        """A stream of the peer's broke off. If anybody here sees its users online, find out whether it is alive."""
        if not self.presences.of(remote):
            return
        try:
            route = self.route((local, remote))
        except StanzaError:
            return
        route.wake()

    # ---- what cannot be delivered -----------------------------------------------------------------------------------

    def bounce(self, stanza: Stanza, why: Unreachable, row: int = 0) -> None:
        """Send a stanza back to its sender with the cause. At the end of this process, what is on disk stays there."""
        if not (row and self.draining):
            self.refuse(stanza, why.stanza_error(), row)

    def refuse(self, stanza: Stanza, error: StanzaError, row: int = 0) -> None:
        """Answer a stanza with an error, and forget it."""
        if row and self.outbox is not None:
            self.outbox.drop((row,), soon=True)  # in the commit that has the error
        reply = stanza.error(error)
        if reply is None:
            return
        to = reply.to
        if (
            to is not None
            and to.local
            and self.kernel.is_local_domain(to.domain)
            and self.kernel.sessions.get(to) is None
        ):
            kin = family(stanza.to.domain) if stanza.to is not None else ""
            self.sparing.write(log.info, "s2s_error_untold", kin, sender=to, to=stanza.to, reason=error.text)
        self.kernel.router.post(reply)

    def bounce_rest(self, acks: Acks, why: Unreachable | None) -> None:
        """Send back what the peer has not confirmed and nobody can ask it about any more."""
        reason = acks.blame or why or Unreachable(Cause.LOST, "the server closed the stream before it confirmed this")
        for stanza, row in acks.take_rest():
            self.bounce(stanza, reason, row)

    def unreachable(self, remote: str, why: Unreachable) -> None:
        """A remote domain is gone: its users are offline to whoever saw them online."""
        if any(route.link is not None for route in self.routes.to(remote)):
            return
        self.untold(remote)
        if known := self.presences.of(remote):
            log.info("s2s_presence_cleaned", remote=remote, presences=known)
        sign_off(self.kernel, self.presences, remote, why.text)

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
            link = await open_stream(self, local, remote, report=step)
        except Unreachable as why:
            step(f"failed: {why}")
            return {"domain": remote, "ok": False, "steps": steps, "cause": why.cause.value}
        step("stanzas can be exchanged")
        link.close()
        return {"domain": remote, "ok": True, "steps": steps, "cause": None}


__all__ = ["Federation", "Policy", "S2SLimits"]
