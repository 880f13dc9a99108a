"""The client side of a server: its limits, its connections, and the way they all end.

The connections themselves are in `net.c2s_connection`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from beamish.core.events import AccountEvent, account_removed
from beamish.core.hooks import Row
from beamish.core.kernel import Kernel
from beamish.core.services import AccountsService
from beamish.core.sparing import Sparing
from beamish.net.c2s_connection import C2SConnection
from beamish.net.c2s_stream import C2SStream
from beamish.net.connection import Flusher
from beamish.net.deadlines import Deadlines
from beamish.net.heap import trim
from beamish.net.resting import Resting, in_slices
from beamish.net.throttle import LoginThrottle
from beamish.net.tls import CertificateStore
from beamish.net.wirelog import WireLog
from beamish.stream.machine import C2SSettings
from beamish.xmpp.errors import StreamError, StreamErrorCondition

_SWEEP: Final = 10.0
"""Seconds between two looks at all connections for silent ones."""
_LINES: Final = 50
"""Lines of a kind about strangers from one network in ten minutes."""
_LINGER: Final = 3.0
"""Seconds that a peer has to close its side after we closed ours, so that it can read why."""


@dataclass(frozen=True, slots=True)
class C2SLimits:
    """Bounds of client connections; `[limits]` of the configuration has them with their reasons."""

    unauthenticated_seconds: float = 30.0
    stanzas_per_second: float = 200.0
    stanza_burst: float = 2_000.0
    bytes_per_second: float = 1_000_000.0
    bytes_burst: float = 4_000_000.0
    connections_per_address: int = 200
    login_failures_per_address: int = 30
    login_failures_per_account: int = 20
    login_failure_window: float = 300.0
    unsent_bytes: int = 8_388_608
    probe_after: float = 240.0
    probe_timeout: float = 60.0


@dataclass(slots=True)
class C2SServer:
    """What all client connections share."""

    kernel: Kernel
    settings: C2SSettings
    limits: C2SLimits
    certificates: CertificateStore | None
    """None only where TLS is impossible (tests without sockets); then STARTTLS fails."""
    wire_log: WireLog
    flusher: Flusher = field(default_factory=Flusher)
    connections: set[C2SStream] = field(default_factory=set)
    per_network: dict[str, int] = field(default_factory=dict)
    draining: bool = False
    emptied: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while draining, when the last connection has gone."""
    throttle: LoginThrottle = field(init=False)
    accounts: AccountsService = field(init=False)
    newcomers: Deadlines[C2SStream] = field(init=False)
    """Connections without a session, which must have one in time."""
    leaving: Deadlines[C2SStream] = field(init=False)
    """Connections that are closed on our side."""
    resting: Resting = field(init=False)
    sparing: Sparing = field(init=False)
    """For lines that strangers cause; a connection costs them less than its line."""
    _sweeper: Any = None

    def __post_init__(self) -> None:
        limits = self.limits
        self.throttle = LoginThrottle(
            limits.login_failures_per_address,
            limits.login_failures_per_account,
            limits.login_failure_window,
            self.kernel.clock.monotonic,
        )
        self.newcomers = Deadlines(self.kernel.clock, limits.unauthenticated_seconds, C2SStream.login_timeout)
        self.leaving = Deadlines(self.kernel.clock, _LINGER, C2SStream.abort)
        self.resting = Resting(self.kernel.clock, trim)
        self.sparing = Sparing(self.kernel.clock, _LINES)
        self.accounts = self.kernel.service(AccountsService)
        self.kernel.hooks[account_removed].add(Row(50, "c2s", self._account_removed))

    def _account_removed(self, event: AccountEvent) -> None:
        """Who has logged in but bound no resource yet has no session that the account's removal would close."""
        for connection in tuple(self.connections):
            if connection.session is None and connection.user == event.user:
                connection.close(StreamError(StreamErrorCondition.NOT_AUTHORIZED, "the account was removed"), "removed")

    def start(self) -> None:
        """Begin to look after silent connections."""
        self._sweeper = self.kernel.clock.call_later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        in_slices(self.kernel.clock, tuple(self.connections), lambda connection: connection.sweep(_SWEEP))
        self._sweeper = self.kernel.clock.call_later(_SWEEP, self._sweep)

    def connection(self, direct_tls: bool = False) -> C2SConnection:
        """A new protocol object for an accepted connection."""
        return C2SConnection(self, direct_tls)

    async def drain(self, grace: float) -> None:
        """Close every stream with `system-shutdown`; return when all are gone or `grace` seconds have passed."""
        self.draining = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self.connections):
            connection.close(StreamError(StreamErrorCondition.SYSTEM_SHUTDOWN), "shutdown")
        if self.connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.emptied.wait(), grace)
        for connection in tuple(self.connections):
            connection.abort()


__all__ = ["C2SConnection", "C2SLimits", "C2SServer"]
