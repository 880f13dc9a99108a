"""What entities elsewhere can do, asked once and remembered (XEP-0030)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from beamish.core.iq import IqTimeout
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import make

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

_DAY: Final = 86_400.0
_FAILED: Final = 300.0
"""Seconds after which somebody who gave no answer is asked again."""
_MAX_FEATURES: Final = 2000


class RemoteDisco:
    """Features of other entities: at most `size` of them are remembered, for a day."""

    def __init__(self, kernel: Kernel, size: int = 1000, timeout: float = 20.0) -> None:
        self._kernel = kernel
        self._size = size
        self._timeout = timeout
        self._found: OrderedDict[JID, tuple[float, frozenset[str]]] = OrderedDict()

    def known(self, at: JID) -> frozenset[str] | None:
        """The features, if they have been asked for lately; empty for who gave no answer."""
        found = self._found.get(at)
        return found[1] if found is not None and found[0] > self._kernel.clock.monotonic() else None

    async def features(self, at: JID) -> frozenset[str]:
        """The features; empty for who gives no answer, or an error."""
        known = self.known(at)
        if known is not None:
            return known
        features: frozenset[str] = frozenset()
        lasting = _FAILED
        try:
            answer = await self._kernel.iq.request("get", at, make(f"{{{ns.DISCO_INFO}}}query"), timeout=self._timeout)
        except IqTimeout:
            pass
        else:
            payload = answer.payload
            if answer.type == "result" and payload is not None:
                listed = payload.findall(f"{{{ns.DISCO_INFO}}}feature")[:_MAX_FEATURES]
                features = frozenset(el.get("var", "") for el in listed)
                lasting = _DAY
        self._found[at] = self._kernel.clock.monotonic() + lasting, features
        self._found.move_to_end(at)
        if len(self._found) > self._size:
            self._found.popitem(last=False)
        return features
