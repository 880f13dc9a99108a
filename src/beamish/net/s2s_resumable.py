"""Streams that other servers opened and may take up again (XEP-0198 §5): those that are up, and those that broke off.

What broke off is kept for whoever comes back, and anybody with a certificate may connect and vanish. So there is room for
so many, of which one family of domains cannot have all, and nothing is kept of a stream that was taken up elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from beamish.core.clock import Clock
from beamish.net.s2s_turns import family

if TYPE_CHECKING:
    from beamish.net.s2s_in import S2SInLink
    from beamish.net.s2s_stored import Dormant


class Resumable:
    """Streams by the id that resumes them, with the link that has their counters.

    At most `most`, and once half of that is in use, at most a tenth of it for domains of one family. Neither bound holds for
    what is there already when it breaks off, or was there before a restart.
    """

    __slots__ = ("_clock", "_families", "_links", "_most", "_of", "_timers")

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._links: dict[str, S2SInLink | Dormant] = {}
        self._of: dict[str, str] = {}
        """To which family each counts."""
        self._families: Counter[str] = Counter()
        self._timers: dict[str, Any] = {}
        """Of those that broke off."""

    def __len__(self) -> int:
        return len(self._links)

    def get(self, id: str) -> S2SInLink | Dormant | None:
        """The link that has the counters of a stream."""
        return self._links.get(id)

    def broken(self) -> Iterable[S2SInLink | Dormant]:
        """Those whose connection is gone."""
        return [link for link in self._links.values() if link.gone]

    def full(self, remote: str) -> bool:
        """Whether there is no room for another stream of a domain; the first of its domains, if it speaks for several."""
        if len(self._links) < self._most // 2:
            return False
        return len(self._links) >= self._most or self._families[family(remote)] >= max(1, self._most // 10)

    def up(self, id: str, link: S2SInLink) -> None:
        """A stream begins, or goes on, on this link."""
        self._put(id, link)

    def wait(self, id: str, link: S2SInLink | Dormant, seconds: float, over: Callable[[], None]) -> None:
        """A stream broke off; if nobody takes it up within so many seconds, `over` is called."""
        self._put(id, link)
        self._timers[id] = self._clock.call_later(seconds, over)

    def _put(self, id: str, link: S2SInLink | Dormant) -> None:
        self.forget(id)
        kin = family(min(link.remotes, default=""))
        self._links[id] = link
        self._of[id] = kin
        self._families[kin] += 1

    def forget(self, id: str) -> None:
        """A stream cannot be taken up any more."""
        if self._links.pop(id, None) is None:
            return
        kin = self._of.pop(id)
        self._families[kin] -= 1
        if not self._families[kin]:
            del self._families[kin]
        timer = self._timers.pop(id, None)
        if timer is not None:
            timer.cancel()
