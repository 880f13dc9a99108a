"""A bound for libxml2's name dictionary.

libxml2 keeps every distinct element name, attribute name, prefix, namespace name and medium-sized blank text it ever met
in a table that all parsers of a thread share and that is never freed. Whoever may send XML could grow the process without
end. So they are counted here: one met for the first time is charged to whoever sent it, and a sender who invents names
without end is cut with `policy-violation`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final

from beamish.xmpp import ns
from beamish.xmpp.errors import StreamErrorCondition

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
    | {f"{{{ns.STREAMS}}}{name}" for name in ("text", *(condition.value for condition in StreamErrorCondition))}
    | {"{urn:xmpp:bidi}bidi", "{urn:xmpp:features:bidi}bidi", "{urn:xmpp:features:dialback}dialback"}
    | {f"{{{ns.COMPONENT}}}handshake", f"{{{ns.COMPONENT}}}message"}
    | {"{urn:beamish:unknown}unknown", "{urn:beamish:unknown}stream", "unknown"}
    | {"to", "from", "id", "type", "version", "mechanism", "node", "ver", "hash", "ext", "stamp", "jid", "name", "var"}
)
_SPACES: Final = frozenset(
    {ns.CLIENT, ns.SERVER, ns.COMPONENT, ns.STREAM, ns.SASL, ns.TLS, ns.BIND, ns.SESSION, ns.DIALBACK, ns.STREAMS}
    | {
        ns.ROSTER,
        ns.DISCO_INFO,
        ns.DISCO_ITEMS,
        ns.PING,
        ns.DELAY,
        ns.DATA,
        ns.STANZAS,
        ns.XML,
        "urn:beamish:unknown",
        "stream",
        "db",
        "xml",
        "",
    }
)


def _spaces_of(names: Iterable[str]) -> set[str]:
    """The namespaces of names in Clark notation."""
    return {name[1:].partition("}")[0] for name in names if name.startswith("{")}


class NameLedger:
    """Names known to the process, and who brought how many of them.

    `known` holds elements and attributes in Clark notation, `spaces` namespace names, prefixes and blank texts. `total`
    bounds them all together (about 70 bytes each). An account may bring `per_account` of them an hour; those who are
    not authenticated share `unauthenticated` for the life of the process, where no `Gate` keeps their names away.
    """

    def __init__(self, total: int = 300_000, per_account: int = 5_000, unauthenticated: int = 10_000) -> None:
        self.known: set[str] = set(_SEED)
        self.spaces: set[str] = {*_SPACES, *_spaces_of(_SEED)}
        self.readers: dict[Hashable, object] = {}
        """What readers keep that depends on these names, by their limits (`stream.quick`)."""
        self._lost = 0
        self._total = total
        self._per_account = per_account
        self._unauthenticated = unauthenticated
        self._spent: dict[Hashable, int] = {}

    def learn(self, names: Iterable[str]) -> None:
        """Make names known at nobody's expense, in Clark notation: what a feature expects before authentication."""
        names = frozenset(names)
        self.known |= names
        self.spaces |= _spaces_of(names)

    def charge(self, name: str, account: Hashable | None) -> bool:
        """Note an element or attribute that is not in `known`. False: the sender must be cut, its share is used up."""
        if not self._pay(1, account):
            return False
        self.known.add(name)
        return True

    def charge_space(self, text: str, account: Hashable | None) -> bool:
        """Note a namespace name, a prefix or a blank text that is not in `spaces`; otherwise as `charge`."""
        if not self._pay(1, account):
            return False
        self.spaces.add(text)
        return True

    def lose(self, count: int, account: Hashable | None) -> None:
        """Charge for names that libxml2 may have met in broken input, which nobody can tell any more."""
        if account is not None:  # what strangers send comes through a `Gate`
            self._lost += count
            self._spent[account] = self._spent.get(account, 0) + count

    def exhausted(self, account: Hashable) -> bool:
        """Whether the account has used up its share of this hour; then it should not get a parser."""
        return self._spent.get(account, 0) > self._per_account

    def _pay(self, count: int, account: Hashable | None) -> bool:
        if len(self.known) + len(self.spaces) + self._lost >= self._total:
            return False
        if account is None:
            if self._unauthenticated <= 0:
                return False
            self._unauthenticated -= count
        else:
            spent = self._spent[account] = self._spent.get(account, 0) + count
            if spent > self._per_account:
                return False
        return True

    def new_hour(self) -> None:
        """Give every account its hourly share again; called by the clock of the kernel."""
        self._spent.clear()
