"""Which presence of remote users local recipients believe in, so that it can be taken back when their server dies.

Presence is known to the recipients only: clients, rooms, services. A remote server that vanishes can say no goodbye
for its users; then its `unavailable` is made here from what it had told (RFC 6121 §4.5).
"""

from __future__ import annotations

from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza


class RemotePresence:
    """Pairs of a remote full JID and a local recipient that was told it is available.

    At most `limit` pairs; beyond that the oldest are forgotten, which costs their recipients a stale contact.
    """

    __slots__ = ("_count", "_domains", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._domains: dict[str, dict[tuple[JID, JID], None]] = {}

    def __len__(self) -> int:
        return self._count

    def of(self, domain: str) -> int:
        """How many pairs are known of a remote domain."""
        return len(self._domains.get(domain, ()))

    def note(self, stanza: Stanza) -> None:
        """A remote presence stanza is on its way in."""
        sender, to = stanza.sender, stanza.to
        if sender is None or to is None or stanza.type not in ("", "unavailable"):
            return
        pairs = self._domains.get(sender.domain)
        key = (sender, to)
        if stanza.type == "":
            if pairs is None:
                pairs = self._domains[sender.domain] = {}
            if key not in pairs:
                self._count += 1
                pairs[key] = None
                if self._count > self._limit:
                    self._forget_oldest()
        elif pairs is not None and key in pairs:
            del pairs[key]
            self._count -= 1
            if not pairs:
                del self._domains[sender.domain]

    def _forget_oldest(self) -> None:
        domain, pairs = next(iter(self._domains.items()))
        del pairs[next(iter(pairs))]
        self._count -= 1
        if not pairs:
            del self._domains[domain]

    def lost(self, domain: str) -> list[Stanza]:
        """The goodbyes that the domain's server can no longer send; afterwards nothing is known of it."""
        pairs = self._domains.pop(domain, {})
        self._count -= len(pairs)
        return [Stanza.build(PRESENCE, "unavailable", sender=sender, to=to) for sender, to in pairs]
