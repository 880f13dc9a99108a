"""Connections that we open to other servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from beamish.net.certificate import dns_name
from beamish.net.dns import is_address
from beamish.net.s2s_link import Link, Wait
from beamish.stream.parser import Nonza
from beamish.stream.s2s import SM, Event, StartTls, StreamClosed, StreamFailed
from beamish.stream.s2s_acks import Acks, PingAcks, read_count
from beamish.stream.s2s_out import Cause, Denied, KeyAnswer, Ready, S2SOut, Unreachable
from beamish.xmpp.xml import escape_attr

if TYPE_CHECKING:
    from beamish.net.s2s import Federation
    from beamish.net.s2s_route import Route

Report = Callable[[str], None]

_MAX_ID: Final = 4_000
"""Longest id of a stream that is kept (XEP-0198 §5 names this length): it is in memory, and on disk for a day."""


class S2SOutLink(Link):
    """One stream that we open. `ready` is done when stanzas may be sent, or the key is answered; or has the reason."""

    __slots__ = ("_direct", "_method", "_report", "_resuming", "key_error", "key_ok", "ready", "route")

    direction = "out"
    machine: S2SOut

    def __init__(
        self,
        federation: Federation,
        local: str,
        remote: str,
        *,
        route: Route | None = None,
        question: tuple[str, str] | None = None,
        direct_tls: bool = False,
        report: Report | None = None,
    ) -> None:
        super().__init__(federation, S2SOut(federation.settings, local, remote, question=question))
        self.route = route
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.key_ok = False
        self.key_error = ""
        """Why the authoritative server could not say whether the key is its own."""
        self._direct = direct_tls
        self._method = ""
        self._report = report or (lambda _step: None)
        self._resuming: Acks | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._log = self._log.bind(local=self.machine.local, remote=self.machine.remote)
        self._report(f"connected to {self.peer}")
        if self._direct:
            self._begin()
        else:
            self.machine.start()
            self.answer()

    def _begin(self) -> None:
        remote = dns_name(self.machine.remote)
        context = self.federation.contexts.client(self.machine.local)
        self.begin_tls(context, server=False, name="" if is_address(remote) else remote, direct=self._direct)

    def secured(self) -> None:
        """See `TlsConnection.secured`."""
        machine, tls = self.machine, self.tls
        assert tls is not None
        self.chain = tls.chain()
        verdict = self.federation.trust.judge(self.chain, machine.remote)
        self._report(f"{tls.version} established; certificate: {verdict or 'holds'}")
        if verdict and self.federation.must_verify(machine.remote):
            self._deny(Unreachable(Cause.CERTIFICATE, verdict))
            return
        if self._direct:
            machine.secure = True
            machine.start(trusted=not verdict)
        else:
            machine.established(trusted=not verdict)
        self.answer()

    def lost(self, error: Exception | None) -> None:
        """See `Connection.lost`."""
        if self.why is None and not self.ready.done():
            reason = Unreachable(Cause.LOST, f"{self.peer} closed the connection during the negotiation")
            self.why = reason
        if self.route is not None and self.route.nearly is self:
            self.route.nearly = None
        super().lost(error)
        self._give_back()
        if self.why is not None:
            self._tell(self.why)

    @property
    def remotes(self) -> set[str]:
        """The domain that this stream goes to."""
        return {self.machine.remote}

    @property
    def to_resume(self) -> Acks | None:
        """The counters of the stream that this one shall resume, while that is not settled."""
        return self._resuming

    def _give_back(self) -> None:
        """The stream cannot be resumed here; perhaps on the next connection."""
        if self._resuming is not None and self.route is not None and not self._resuming.settled:
            self.route.held, self._resuming = self._resuming, None

    def _event(self, event: Event) -> Wait | None:
        if isinstance(event, StartTls):
            self._report("TLS handshake")
            self.answer()
            self._begin()
        elif isinstance(event, Ready):
            self._ready(event)
        elif isinstance(event, KeyAnswer):
            self.key_ok, self.key_error = event.ok, event.condition
            told = f"unknown ({event.condition})" if event.condition else "valid" if event.ok else "not valid"
            self._report(f"the key is {told}")
            if not self.ready.done():
                self.ready.set_result(None)
            self.answer()
            self._end()
        elif isinstance(event, Denied):
            self._deny(event.why)
        elif isinstance(event, StreamClosed) and not self.ready.done():
            self._deny(Unreachable(Cause.LOST, f"{self.peer} closed the stream during the negotiation"))
        else:
            return super()._event(event)
        return None

    def _deny(self, why: Unreachable) -> None:
        self.why = self.why or why
        self._report(str(why))
        self.answer()
        self._end()
        self._give_back()
        self._tell(self.why)

    def _tell(self, why: Unreachable) -> None:
        if not self.ready.done():
            self.ready.set_exception(why)
            self.ready.exception()  # whoever waited may have given up already

    def _failed(self, event: StreamFailed) -> None:
        super()._failed(event)
        self._give_back()
        if self.why is not None:
            self._tell(self.why)  # the peer may take its time to close the connection

    def _ready(self, event: Ready) -> None:
        self._method = event.method
        if not self.usable:
            return  # given up in the meantime
        self._report(f"authenticated by {event.method}{', both ways' if event.bidi else ''}")
        self.limit(self.machine.remote)
        if self.federation.crowded(self, self.machine.remote):
            self._deny(Unreachable(Cause.OVERLOAD, f"too many streams with {self.machine.remote}"))
            return
        if self.route is not None:
            self.route.nearly = self
        if not event.resumption or self.route is None:
            self._go()
            return
        held = self.route.take_held()
        if held is not None:
            self._resuming = held
            self.write(f"<resume xmlns='{SM}' previd='{escape_attr(held.id)}' h='{held.handled}'/>".encode())
        else:
            self._enable()

    def _enable(self) -> None:
        self.write(f"<enable xmlns='{SM}' resume='true'/>".encode())

    def _go(self) -> None:
        """The negotiation is over."""
        self.negotiated()
        self._log.info("s2s_connected", method=self._method, bidi=self.machine.bidi, acks=self.acks is not None)
        if not self.ready.done():
            self.ready.set_result(None)
        route = self.route
        if route is not None:
            route.nearly = None
            if self.acks is None:
                self.pings = PingAcks(limit_bytes=self.federation.limits.queue_bytes, share=self.share)
            if (held := route.take_held()) is not None:
                self._lost_count(held)  # the peer knows no stream management any more
            if route.link is None:
                route.attach(self, ours=True)
        self.federation.heard_from(self.machine.remote)

    def _sm_negotiation(self, name: str, item: Nonza) -> Wait | None:
        resuming = self._resuming  # kept here until the peer's answer is understood: `lost` gives it back to the route
        if name == "enabled" and self.acks is None and resuming is None:
            wanted = item.el.get("resume") in ("true", "1")
            id_ = item.el.get("id", "") if wanted else ""
            self.acks = Acks(id_ if len(id_) <= _MAX_ID else "")
            self.acks.share = self.share
            if self.acks.id and self._outbox is not None:
                pairs = ((self.machine.local, self.machine.remote),)
                self.acks.key = self._outbox.begin(self.acks.id, outgoing=True, pairs=pairs)
            self._report("stream management" + (", can be resumed" if self.acks.id else ""))
            self._go()
        elif name == "resumed" and resuming is not None and not resuming.settled:
            restored = not resuming.exact
            self.confirmed(resuming, read_count(item.el.get("h")))
            if resuming.blame is not None:
                for stanza, row in resuming.take_back():
                    self.federation.bounce(stanza, resuming.blame, row)
                resuming.blame = None
            self.acks, self._resuming = resuming, None
            self._log.info("s2s_resumed", unconfirmed=len(resuming.pending))
            self.resend(renumber=restored)
            self._go()
        elif name == "failed" and self.acks is None:
            if resuming is None:
                self._go()
            else:
                if not resuming.settled:
                    if (h := item.el.get("h")) is not None:
                        self.federation.settled(resuming, read_count(h))
                    else:
                        self._lost_count(resuming)
                self._resuming = None
                self._enable()
        else:
            return super()._sm_negotiation(name, item)
        return None

    @property
    def idle_limit(self) -> float:
        """See `Link.idle_limit`; earlier if the peer would close it earlier (XEP-0478)."""
        own, theirs = super().idle_limit, self.machine.peer_idle
        return min(own, 0.8 * theirs) if theirs else own

    def resuming(self, id_: str) -> Acks | None:
        """The counters of a stream, if this link is just about to resume that."""
        return self._resuming if self._resuming is not None and self._resuming.id == id_ else None

    def _lost_count(self, acks: Acks) -> None:
        """The peer has forgotten the stream that broke off: nobody can tell whether it has the last stanzas."""
        why = Unreachable(Cause.LOST, "the connection broke off before the server confirmed this")
        self.federation.lost_count(acks, why)
        self.federation.missed(self.remotes)

    def describe(self) -> dict[str, Any]:
        """See `Link.describe`."""
        machine = self.machine
        return {
            "local": machine.local,
            "remote": machine.remote,
            "method": self._method,
            "bidi": machine.bidi,
            **super().describe(),
        }
