"""Which presence of remote users local recipients believe in, so that it can be taken back when their server dies.

Presence is known to the recipients only: clients, rooms, services. A remote server that vanishes can say no goodbye
for its users; then its `unavailable` is made here from what it had told (RFC 6121 §4.5).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from beamish.core import events
from beamish.core.events import RemoteLost
from beamish.core.later import is_later
from beamish.net.resting import in_slices
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

_ORDINARY: Final = 256
"""Characters of both addresses of a pair, up to which it counts as one: parts of up to 1023 bytes each may be four thousand."""

Pairs = OrderedDict[tuple[JID, JID], None]
"""Oldest first. Not a plain dict: that looks for its first entry behind all the places of those that were taken away."""


class RemotePresence:
    """Pairs of a remote full JID and a local recipient that was told it is available.

    At most `limit` pairs; those with long addresses count for several. Beyond that a pair is forgotten, which costs its
    recipient a stale contact should the server die: the oldest one of the domain that has most. So a domain that tells of
    very many loses its own and nobody else's, and whoever has no more than a fair share (the limit by the number of domains)
    loses nothing.
    """

    __slots__ = ("_by_size", "_count", "_domains", "_largest", "_limit", "_weights")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        """What all pairs count for together."""
        self._domains: dict[str, Pairs] = {}
        self._weights: dict[str, int] = {}
        """What the pairs of each domain count for."""
        self._by_size: dict[int, OrderedDict[str, None]] = {}
        """Domains by that, for finding one that has most at once."""
        self._largest = 0

    def __len__(self) -> int:
        return sum(map(len, self._domains.values()))

    def of(self, domain: str) -> int:
        """How many pairs are known of a remote domain."""
        return len(self._domains.get(domain, ()))

    def note(self, stanza: Stanza) -> None:
        """A remote presence stanza is on its way in."""
        sender, to = stanza.sender, stanza.to
        if sender is None or to is None or stanza.type not in ("", "unavailable"):
            return
        domain = sender.domain
        pairs = self._domains.get(domain)
        key = (sender, to)
        if stanza.type == "":
            if pairs is None:
                pairs = self._domains[domain] = OrderedDict()
            if key not in pairs:
                pairs[key] = None
                self._resized(domain, _weight(key))
                while self._count > self._limit:
                    self._forget_one()
        elif pairs is not None and key in pairs:
            self._drop(domain, pairs, key)

    def _drop(self, domain: str, pairs: Pairs, key: tuple[JID, JID]) -> None:
        del pairs[key]
        self._resized(domain, -_weight(key))
        if not pairs:
            del self._domains[domain]

    def _forget_one(self) -> None:
        domain = next(iter(self._by_size[self._largest]))
        pairs = self._domains[domain]
        self._drop(domain, pairs, next(iter(pairs)))

    def _resized(self, domain: str, by: int) -> None:
        before = self._weights.get(domain, 0)
        after = before + by
        self._count += by
        if before:
            same = self._by_size[before]
            del same[domain]
            if not same:
                del self._by_size[before]
        if after:
            self._weights[domain] = after
            self._by_size.setdefault(after, OrderedDict())[domain] = None
            self._largest = max(self._largest, after)
        else:
            del self._weights[domain]
        while self._largest and self._largest not in self._by_size:
            self._largest -= 1

    def lost(self, domain: str) -> Iterator[Stanza]:
        """The goodbyes that the domain's server can no longer send; from now on nothing is known of it.

        Each is made when it is asked for, which may be later: none of whoever has come back by then.
        """
        pairs = self._domains.pop(domain, Pairs())
        if pairs:
            self._resized(domain, -self._weights[domain])
        return self._goodbyes(domain, pairs)

    def _goodbyes(self, domain: str, pairs: Pairs) -> Iterator[Stanza]:
        for sender, to in pairs:
            if (sender, to) not in self._domains.get(domain, ()):
                yield Stanza.build(PRESENCE, "unavailable", sender=sender, to=to)


def _weight(pair: tuple[JID, JID]) -> int:
    """What a pair counts for, about as it takes memory."""
    return 1 + (len(pair[0]) + len(pair[1])) // _ORDINARY


def sign_off(kernel: Kernel, presences: RemotePresence, domain: str, reason: str) -> None:
    """A remote domain or a component is gone: rooms hear of it first, and say why its users leave them; then those users
    are offline to whoever saw them. Of many, some in each turn of the loop.
    """
    goodbyes = presences.lost(domain)

    def tell() -> None:
        in_slices(kernel.clock, goodbyes, kernel.router.post)

    outcome = kernel.hooks[events.remote_lost].run(RemoteLost(domain, reason))
    if is_later(outcome):
        kernel.tasks.spawn(_then(cast("Awaitable[Any]", outcome), tell), "remote_lost")
    else:
        tell()


async def _then(outcome: Awaitable[Any], tell: Any) -> None:
    await outcome
    tell()
