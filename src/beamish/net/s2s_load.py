"""How much waits for other servers in all, so that many who take nothing cannot fill the memory together.

Each domain may let some megabytes wait, and whoever has a wildcard certificate has thousands of domains: they ask for what is
long, and confirm none of it. So there is a bound for all, and a share for the domains of one family, once half of that is used.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakValueDictionary

from beamish.net.s2s_turns import family

_ALWAYS: Final = 65_536
"""Bytes that a family may let wait, whatever others do."""


class Share:
    """What waits for one family of domains. It is known for as long as somebody counts by it."""

    __slots__ = ("__weakref__", "_load", "bytes")

    def __init__(self, load: Load) -> None:
        self._load = load
        self.bytes = 0

    def add(self, size: int) -> None:
        """So many bytes more wait now, or fewer."""
        self.bytes += size
        self._load.bytes += size

    def __del__(self) -> None:
        # nobody counts by it any more: what was not taken back cannot be meant any longer
        self._load.bytes -= self.bytes

    @property
    def full(self) -> bool:
        """Whether no more should wait for this family now."""
        load = self._load
        if load.bytes < load.half or self.bytes < _ALWAYS:
            return False
        return load.bytes >= load.most or self.bytes >= load.most // 10


class Load:
    """All that waits: at most `most` bytes, and once half of that is used, a tenth of it for one family of domains.

    What comes on top of that is one stanza for each of those who have not reached it, and 64 KiB for each family.
    """

    __slots__ = ("_shares", "bytes", "half", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.half = most // 2
        self.bytes = 0
        self._shares: WeakValueDictionary[str, Share] = WeakValueDictionary()

    def of(self, remote: str) -> Share:
        """The share that a domain counts for."""
        kin = family(remote)
        share = self._shares.get(kin)
        if share is None:
            share = self._shares[kin] = Share(self)
        return share
