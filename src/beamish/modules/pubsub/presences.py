"""Who is available, as far as notifications need to know (XEP-0060 §12.5, XEP-0163 §4.3).

Of local accounts the session table tells. Other entities are known by the presence they send: to an account (contacts of
other domains, and those who direct presence to it) or to a service. Both memories are bounded, oldest first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from beamish.core.sessions import Session
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

PER_ADDRESS: Final = 5000
"""Resources known to one account or service."""
TOTAL: Final = 200_000
"""Resources known in all."""
SKEW: Final = 300.0
"""Seconds that a client's clock may be wrong (XEP-0312 §2)."""
_AGO: Final = "urn:xmpp:ago:0"
NOTHING: Final[frozenset[str]] = frozenset()


class Watcher:
    """A resource that shares its presence with an address of ours.

    `show` is its state as `pubsub#show-values` names it; `served` are its interests, whose last items it got; `since` is
    when it was last here, if it said so.
    """

    __slots__ = ("served", "show", "since")

    def __init__(self, show: str, since: float | None) -> None:
        self.show = show
        self.since = since
        self.served: frozenset[str] = NOTHING


def show_of(presence: Stanza | None) -> str:
    """`online`, `away`, `chat`, `dnd` or `xa`."""
    if presence is None:
        return "online"
    show = (presence.text("{jabber:client}show") or "").strip()
    return show if show in ("away", "chat", "dnd", "xa") else "online"


def since_of(presence: Stanza | None, now: float) -> float | None:
    """When a resource was last here, if its initial presence says so (XEP-0312), with an allowance for its clock."""
    if presence is None or _AGO.encode() not in presence.body:
        return None
    el = presence.child(f"{{{_AGO}}}ago")
    seconds = "" if el is None else el.get("secs", "")
    if not seconds.isascii() or not seconds.isdigit() or len(seconds) > 10:
        return None
    return now - int(seconds) - SKEW


class Presences:
    """What is known of the availability of others."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._known: dict[JID, OrderedDict[JID, Watcher]] = {}
        self._by_entity: dict[JID, set[JID]] = {}
        self._total = 0
        self.changed: set[JID] = set()
        """Addresses with which somebody shares presence or does no longer, since the outbox looked."""

    # ---- what arrives -----------------------------------------------------------------------------------------------

    def available(self, at: JID, full: JID, stanza: Stanza) -> Watcher | None:
        """A resource shared available presence with `at` (bare). The watcher if it is new to us there."""
        known = self._known.get(at)
        if known is None:
            known = self._known[at] = OrderedDict()
        watcher = known.get(full)
        if watcher is not None:
            watcher.show = show_of(stanza)
            return None
        if len(known) >= PER_ADDRESS or self._total >= TOTAL:
            if not known:
                del self._known[at]
                return None
            self.gone(at, next(iter(known)))
            known = self._known.setdefault(at, OrderedDict())
        watcher = known[full] = Watcher(show_of(stanza), since_of(stanza, self._kernel.clock.now()))
        self._by_entity.setdefault(full, set()).add(at)
        self._total += 1
        self.changed.add(at)
        return watcher

    def gone(self, at: JID, full: JID) -> bool:
        """A resource is no longer available to `at`. Whether it was."""
        known = self._known.get(at)
        if known is None or known.pop(full, None) is None:
            return False
        self._total -= 1
        self.changed.add(at)
        if not known:
            del self._known[at]
        where = self._by_entity.get(full)
        if where is not None:
            where.discard(at)
            if not where:
                del self._by_entity[full]
        return True

    def forget(self, at: JID) -> None:
        """Drop everything that was shared with an address."""
        for full in tuple(self._known.get(at, ())):
            self.gone(at, full)

    # ---- what is asked ----------------------------------------------------------------------------------------------

    def watchers(self, at: JID) -> Iterator[tuple[JID, Watcher]]:
        """The resources that share presence with `at`."""
        yield from tuple(self._known.get(at, {}).items())

    def watched_by(self, full: JID) -> Iterator[tuple[JID, Watcher]]:
        """The addresses with which a resource shares its presence."""
        for at in tuple(self._by_entity.get(full, ())):
            yield at, self._known[at][full]

    def is_local(self, jid: JID) -> bool:
        """Whether the session table tells of this address."""
        return bool(jid.local) and self._kernel.is_local_domain(jid.domain)

    def sessions(self, jid: JID) -> tuple[Session, ...]:
        """The available sessions of a local account, or of one resource of it."""
        available = self._kernel.sessions.of(jid.bare).available
        return tuple(s for s in available if s.jid == jid) if jid.resource else available

    def shows(self, at: JID, jid: JID) -> list[str] | None:
        """The states of the available resources of a subscriber; None if nothing is known, for sure, of it."""
        if self.is_local(jid):
            return [show_of(session.presence) for session in self.sessions(jid)]
        shows = [w.show for full, w in self.watchers(at) if full == jid or full.bare == jid]
        return shows or None
