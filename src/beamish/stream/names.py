"""A bound for libxml2's name dictionary.

libxml2 keeps every distinct element and attribute name it ever met in a table that all parsers of a thread share and
that is never freed. Whoever may send XML could grow the process without end. So names are counted here: a name met for
the first time is charged to whoever sent it, and a sender who invents names without end is cut with `policy-violation`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from beamish.xmpp import ns

_SEED: Final = frozenset(
    {f"{{{ns.CLIENT}}}{name}" for name in ("message", "presence", "iq", "body", "subject", "thread", "error")}
    | {f"{{{ns.CLIENT}}}{name}" for name in ("show", "status", "priority")}
    | {f"{{{ns.STREAM}}}{name}" for name in ("stream", "error", "features")}
    | {f"{{{ns.SASL}}}{name}" for name in ("auth", "response", "abort")}
    | {f"{{{ns.BIND}}}{name}" for name in ("bind", "resource", "jid")}
    | {f"{{{ns.TLS}}}starttls", f"{{{ns.SESSION}}}session", ns.XML_LANG}
    | {f"{{{ns.SERVER}}}{name}" for name in ("message", "presence", "iq")}
    | {f"{{{ns.DIALBACK}}}{name}" for name in ("result", "verify")}
    | {f"{{{ns.SASL}}}{name}" for name in ("mechanisms", "mechanism", "success", "failure", "not-authorized", "text")}
    | {f"{{{ns.TLS}}}{name}" for name in ("proceed", "failure", "required")}
    | {f"{{{ns.STREAMS}}}{name}" for name in ("text", "host-unknown", "not-authorized", "policy-violation")}
    | {"{urn:xmpp:bidi}bidi", "{urn:xmpp:features:bidi}bidi", "{urn:xmpp:features:dialback}dialback"}
    | {f"{{{ns.COMPONENT}}}handshake"}
    | {"to", "from", "id", "type", "version", "mechanism", "node", "ver", "hash", "ext", "stamp", "jid", "name", "var"}
)


class NameLedger:
    """Names known to the process, and who brought how many of them.

    `total` bounds the process (about 70 bytes a name). An account may bring `per_account` names an hour; everybody who
    is not authenticated shares `unauthenticated` names for the life of the process, because legitimate clients need
    none that are not known already.
    """

    def __init__(self, total: int = 300_000, per_account: int = 5_000, unauthenticated: int = 10_000) -> None:
        self.known: set[str] = set(_SEED)
        self._total = total
        self._per_account = per_account
        self._unauthenticated = unauthenticated
        self._spent: dict[Hashable, int] = {}

    def charge(self, name: str, account: Hashable | None) -> bool:
        """Note a name that is not in `known`. False: the sender has used up its share and must be cut."""
        if len(self.known) >= self._total:
            return False
        if account is None:
            if self._unauthenticated <= 0:
                return False
            self._unauthenticated -= 1
        else:
            spent = self._spent.get(account, 0) + 1
            if spent > self._per_account:
                return False
            self._spent[account] = spent
        self.known.add(name)
        return True

    def new_hour(self) -> None:
        """Give every account its hourly share again; called by the clock of the kernel."""
        self._spent.clear()
