"""Connections that other servers open to us."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from beamish.core.kernel import new_id
from beamish.net.s2s_link import Link, Wait
from beamish.net.s2s_turns import family
from beamish.net.verify import Credentials
from beamish.stream.parser import Nonza
from beamish.stream.s2s import SM, Authenticated, Event, Pair, StartTls
from beamish.stream.s2s_acks import Acks, PingAcks, failed_element, read_count
from beamish.stream.s2s_in import KeyToVerify, Refused, S2SIn, StreamOpened
from beamish.stream.s2s_out import Cause, Unreachable
from beamish.xmpp.errors import Condition, StreamError, StreamErrorCondition
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import escape_attr

if TYPE_CHECKING:
    from beamish.net.s2s import Federation

_MAX_RESUMPTIONS: Final = 10
_SM_WAIT: Final = 5.0
"""Seconds that a peer has for enabling stream management before its bidirectional stream is used without."""


class S2SInLink(Link):
    """One stream that another server opened."""

    __slots__ = ("_both_ways", "_direct", "_offer_timer", "_resumptions", "_shown")

    direction = "in"
    machine: S2SIn

    def __init__(self, federation: Federation, *, direct_tls: bool = False) -> None:
        super().__init__(federation, S2SIn(federation.settings, federation.admits))
        self._direct = direct_tls
        self._shown: Credentials | None = None
        """What the peer's certificates prove, once somebody asks."""
        self._both_ways: list[Pair] = []
        """What is authenticated, but does not use the stream in our direction yet."""
        self._offer_timer: Any = None
        self._resumptions = 0
        """Streams it wanted to go on with."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        if not self.federation.welcome(self, self._network):
            self.fail(StreamError(StreamErrorCondition.RESOURCE_CONSTRAINT, "too many connections from your address"))
        elif self.federation.draining:
            self.fail(StreamError(StreamErrorCondition.SYSTEM_SHUTDOWN))
        elif self._direct:
            self.begin_tls(self.federation.contexts.server(self.federation.kernel.domains[0]), server=True)

    def lost(self, error: Exception | None) -> None:
        """See `Connection.lost`."""
        if not self.gone:
            self.federation.goodbye(self._network)
            self._cancel_offer()
        super().lost(error)

    @property
    def remotes(self) -> set[str]:
        """The domains that this stream is authenticated for."""
        return {remote for _, remote in self.machine.pairs}

    @property
    def idle_limit(self) -> float:
        """See `Link.idle_limit`: the side that opened a stream is the one to close it first."""
        return float(self.federation.limits.idle_seconds) * 2

    def secured(self) -> None:
        """See `TlsConnection.secured`."""
        assert self.tls is not None
        self.chain = self.tls.chain()
        self._shown = None
        self.machine.established(self._certifies)

    def _certifies(self, domain: str) -> str:
        federation, shown = self.federation, self._shown
        if shown is None or federation.kernel.clock.now() > shown.until:
            shown = self._shown = federation.trust.examine(self.chain)
        return shown.judge(domain)

    def _event(self, event: Event) -> Wait | None:
        if isinstance(event, StreamOpened):
            self._log = self._log.bind(local=event.local, remote=event.remote)
        elif isinstance(event, StartTls):
            self.answer()
            self.begin_tls(self.federation.contexts.server(self.machine.local), server=True)
        elif isinstance(event, Authenticated):
            self._authenticated(event)
        elif isinstance(event, KeyToVerify):
            self.federation.tasks.spawn(self._verify(event), "verify")
        elif isinstance(event, Refused):
            self.note_claim(
                "s2s_auth_failed", event.remote, remote=event.remote, method=event.method, reason=event.reason
            )
        else:
            return super()._event(event)
        return None

    def _authenticated(self, event: Authenticated) -> None:
        federation = self.federation
        verdict = self._certifies(event.remote)
        self.note_claim(
            "s2s_authenticated",
            event.remote,
            local=event.local,
            remote=event.remote,
            method=event.method,
            certificate=verdict or "holds",
        )
        if federation.crowded(self, event.remote):
            self.fail(StreamError(StreamErrorCondition.RESOURCE_CONSTRAINT, "too many streams from your domain"))
            return
        self.negotiated()
        self.limit(event.remote)
        if self.acks is not None and self.acks.key and self._outbox is not None:
            self._outbox.joined(self.acks.key, self.machine.pairs)
        federation.heard_from(event.remote)
        if self.machine.bidi and not (verdict and federation.must_verify(event.remote)):
            # Dialback may vouch for what they send; what we send needs a certificate that holds, whoever connected.
            self._both_ways.append((event.local, event.remote))
            if self.acks is not None or not federation.settings.resumption:
                self._offer()
            elif self._offer_timer is None:
                self._offer_timer = federation.kernel.clock.call_later(_SM_WAIT, self._offer)

    def _offer(self) -> None:
        """Use the stream for stanzas of ours too. Before it is known whether the peer counts them, they were unprotected."""
        self._cancel_offer()
        if self.gone or not self._both_ways:
            return
        if self.acks is None and self.pings is None:
            self.pings = PingAcks(limit_bytes=self.federation.limits.queue_bytes, share=self.share)
        self.answer()  # they are told that they are who they say before they get anything
        pairs, self._both_ways = self._both_ways, []
        for local, remote in pairs:
            self.federation.offer(self, local, remote)

    def _cancel_offer(self) -> None:
        if self._offer_timer is not None:
            self._offer_timer.cancel()
            self._offer_timer = None

    def _stanza(self, stanza: Stanza) -> Wait | None:
        if self._offer_timer is not None:
            self._offer()  # a peer that begins with stanzas does not count
        return super()._stanza(stanza)

    async def _verify(self, asked: KeyToVerify) -> None:
        failure: Condition | None = None
        ok = False
        try:
            ok = await self.federation.ask(asked.local, asked.remote, asked.stream_id, asked.key, self._network)
        except Unreachable as why:
            about = {"remote": asked.remote, "cause": why.cause.value, "reason": why.text}
            self.federation.sparing.write(self._log.warning, "s2s_verify_failed", family(asked.remote), **about)
            lost = why.cause in (Cause.NO_SUCH_DOMAIN, Cause.REFUSED) or why.told is StreamErrorCondition.HOST_UNKNOWN
            failure = Condition.REMOTE_SERVER_NOT_FOUND if lost else Condition.REMOTE_SERVER_TIMEOUT
            if why.cause is Cause.CERTIFICATE:
                failure = Condition.POLICY_VIOLATION
        if not self.gone:
            self.inject(self.machine.verified(asked.local, asked.remote, ok=ok, failure=failure))

    # ---- stream management ------------------------------------------------------------------------------------------

    def _sm_negotiation(self, name: str, item: Nonza) -> Wait | None:
        if not self.federation.settings.resumption or name not in ("enable", "resume"):
            return super()._sm_negotiation(name, item)
        if self.acks is not None:
            self.write(failed_element("unexpected-request"))
            return None
        if name == "resume":
            self._resumptions += 1
            if self._resumptions > _MAX_RESUMPTIONS:  # each is a look into the database
                raise StreamError(StreamErrorCondition.POLICY_VIOLATION, "too many streams to be resumed")
            return self._resume(item)
        wanted = item.el.get("resume") in ("true", "1")
        keep = wanted and not self.federation.resumable.full(min(self.remotes))
        self.acks = Acks(new_id() if keep else "")
        self.acks.share = self.share
        resume = ""
        position = 0
        if self.acks.id:
            self.federation.resumable.up(self.acks.id, self)
            if self._outbox is not None:
                self.acks.key = self._outbox.begin(self.acks.id, outgoing=False, pairs=self.machine.pairs)
                position = self._outbox.position
            seconds = int(self.federation.limits.resume_seconds)
            resume = f" id='{self.acks.id}' resume='true' max='{seconds}'"
        self.put(f"<enabled xmlns='{SM}'{resume}/>".encode(), position)
        self._offer()
        return None

    async def _resume(self, item: Nonza) -> None:
        federation = self.federation
        h = read_count(item.el.get("h"))
        id_ = item.el.get("previd", "")
        old = federation.resumable.get(id_)
        if old is None or old is self or old.acks is None or not (old.remotes & self.remotes):
            # Over for us. The peer's count tells what it has got of it, ours tells the peer the same.
            handled = await federation.settle(id_, h, self.remotes)
            if not self.gone:
                self.write(failed_element("item-not-found", handled))
            return
        if not old.gone:
            old.why = Unreachable(Cause.LOST, "the peer came back on another connection")
            old.abort()
            old.lost(None)
        await old.quiet()
        if old.acks is not None:
            await federation.counted(old.acks, old.settled_at)
        if self.gone:
            return
        # From here on without a pause: what is sent in between would be counted, and then sent again.
        if (acks := old.acks) is None:  # taken up by yet another stream
            self.write(failed_element("item-not-found"))
            return
        restored = not acks.exact
        self.confirmed(acks, h)
        self.acks, old.acks = acks, None
        federation.resumable.up(id_, self)
        self._settled = max(self._settled, old.settled_at)
        self._counted = acks.handled
        self.write(f"<resumed xmlns='{SM}' previd='{escape_attr(id_)}' h='{acks.handled}'/>".encode())
        self._log.info("s2s_resumed", unconfirmed=len(acks.pending))
        self.resend(renumber=restored)
        self._offer()
