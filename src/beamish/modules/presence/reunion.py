"""What users of two servers have missed of one another while the servers could not reach each other.

Whoever cannot be reached is offline to those who saw him (`remote_lost`), and what presence was sent meanwhile came back. So
when the server is there again, its users are probed (RFC 6121 §4.3.1), and told who is there here. Nobody has to log in anew.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from beamish.core.services import BlockingService, RosterService
from beamish.core.sessions import UserSessions
from beamish.modules.presence.broadcast import SLICE
from beamish.modules.presence.probes import Probes

if TYPE_CHECKING:
    from beamish.core.clock import Timer
    from beamish.core.kernel import Kernel

SETTLING: Final = 2.0
"""Seconds for the streams to be ready, and for other domains to come back in: one look at all rosters serves them all."""

PAUSE: Final = 0.25
"""Seconds after each `SLICE` of stanzas: all may be for one domain, whose queue is bounded, and it has to keep up."""


class Reunion:
    """Brings the presence of both sides together again. At most one look at all who are there goes on at a time.

    A look costs 1.2 µs for each account with sessions, however many domains it is for, and not more than `SLICE` of them in one
    turn of the loop; the next begins `SETTLING` seconds after it. So servers that come and go all the time cost 1 % of a core
    where 20,000 are online, and no table of who has contacts where has to be kept for them.
    """

    def __init__(self, kernel: Kernel, rosters: RosterService, probes: Probes) -> None:
        self._kernel = kernel
        self._rosters = rosters
        self._probes = probes
        self._found: set[str] = set()
        self._timer: Timer | None = None
        self._over = False

    def found(self, domain: str) -> None:
        """The server of a domain that was lost is there again."""
        self._found.add(domain)
        if self._timer is None and not self._over:
            self._timer = self._kernel.clock.call_later(SETTLING, self._begin)

    def stop(self) -> None:
        """Begin nothing any more, nor after a look that is going on and will be cancelled."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        self._kernel.tasks.spawn(self._meet(), "reunion")

    async def _meet(self) -> None:
        domains, self._found = self._found, set()
        try:
            told = 0
            for number, user in enumerate(tuple(self._kernel.sessions.by_user.values()), 1):
                told += self._introduce(user, domains)
                if told >= SLICE:
                    told = 0
                    await asyncio.sleep(PAUSE)
                elif number % SLICE == 0:
                    await asyncio.sleep(0)
        finally:
            self._timer = None
            if self._found and not self._over:
                self._timer = self._kernel.clock.call_later(SETTLING, self._begin)

    def _introduce(self, user: UserSessions, domains: set[str]) -> int:
        """Probe an account's contacts in these domains and tell them who of it is available; to how many addresses."""
        if not user.available:
            return 0
        roster = self._rosters.cached(user.available[0].bare)
        if roster is None:
            return 0
        asked = [contact for contact in roster.subscriptions_elsewhere() if contact.domain in domains]
        told = [contact for contact in roster.subscribers_elsewhere() if contact.domain in domains]
        if asked:
            self._probes.probe(user.available[0], asked)
        blocking = self._kernel.service_or_none(BlockingService)
        for session in user.available if told else ():
            shows = blocking.shows(session) if blocking is not None else None
            current = self._probes.current(session)
            for contact in told:
                if shows is None or shows(contact):
                    self._kernel.router.post(current.replace(to=contact))
        return len(asked) + len(told) * len(user.available)
