"""XEP-0016 §2: privacy lists as values, and the one function that decides by them. Pure.

A blocklist (XEP-0191) is a view of a list: its rules that deny everything to one address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntFlag
from typing import Final, TypeAlias

from beamish.core.services import RosterItem
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.xml import Element, make

PRIVACY: Final = "jabber:iq:privacy"
ITEM: Final = f"{{{PRIVACY}}}item"
SUBSCRIPTIONS: Final = frozenset(("none", "to", "from", "both"))
MAX_ORDER: Final = 4_294_967_295
"""`order` is an xs:unsignedInt."""
MAX_GROUP_LENGTH: Final = 1023
"""Characters of a group's name."""


class Kind(IntFlag):
    """What a rule is about."""

    MESSAGE = 1
    """Messages that arrive."""
    IQ = 2
    """IQs that arrive."""
    PRESENCE_IN = 4
    """Available and unavailable presence that arrives."""
    PRESENCE_OUT = 8
    """Available and unavailable presence that is sent."""
    OTHER = 16
    """Everything else, either way: only rules without restriction speak of it."""


EVERYTHING: Final = Kind(31)
_CHILDREN: Final = {
    f"{{{PRIVACY}}}message": Kind.MESSAGE,
    f"{{{PRIVACY}}}iq": Kind.IQ,
    f"{{{PRIVACY}}}presence-in": Kind.PRESENCE_IN,
    f"{{{PRIVACY}}}presence-out": Kind.PRESENCE_OUT,
}

ItemOf: TypeAlias = Callable[[], RosterItem | None]
"""Looks up what the user's roster says of the other side."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One item of a list. `type` is `jid`, `group`, `subscription` or "" (fall-through)."""

    order: int
    allow: bool
    type: str = ""
    value: str = ""
    kinds: Kind = EVERYTHING

    @property
    def blocks(self) -> bool:
        """Whether this is what the blocking command makes: everything denied to one address."""
        return self.type == "jid" and not self.allow and self.kinds == EVERYTHING

    def to_xml(self) -> Element:
        """The `<item/>`."""
        attrs = {
            "type": self.type or None,
            "value": self.value or None,
            "action": "allow" if self.allow else "deny",
            "order": str(self.order),
        }
        children = (
            [] if self.kinds == EVERYTHING else [make(tag) for tag, kind in _CHILDREN.items() if kind & self.kinds]
        )
        return make(ITEM, attrs, *children)

    @classmethod
    def from_xml(cls, el: Element) -> Rule:
        """Read an `<item/>`. Raises `StanzaError`: `bad-request`, or `jid-malformed` for an address that is none."""
        order, action, type_, value = (el.get(key, "") for key in ("order", "action", "type", "value"))
        if el.tag != ITEM or action not in ("allow", "deny"):
            raise StanzaError(Condition.BAD_REQUEST, text="an item has an action, allow or deny")
        if not (order.isascii() and order.isdigit() and len(order) <= 10 and int(order) <= MAX_ORDER):
            raise StanzaError(Condition.BAD_REQUEST, text="an item has an order, a whole number")
        if type_ == "jid":
            try:
                value = str(JID.parse(value))
            except JidMalformed as error:
                raise StanzaError(Condition.JID_MALFORMED, text=str(error)) from error
        elif type_ == "subscription":
            if value not in SUBSCRIPTIONS:
                raise StanzaError(Condition.BAD_REQUEST, text="a subscription is none, to, from or both")
        elif type_ == "group":
            if not 0 < len(value) <= MAX_GROUP_LENGTH:
                raise StanzaError(Condition.BAD_REQUEST, text="which group?")
        elif type_ or value:
            raise StanzaError(Condition.BAD_REQUEST, text="a type is jid, group or subscription")
        kinds = Kind(0)
        for child in el:
            kind = _CHILDREN.get(str(child.tag))
            if kind is None:
                raise StanzaError(Condition.BAD_REQUEST, text="no such kind of stanza")
            kinds |= kind
        return cls(int(order), action == "allow", type_, value, kinds or EVERYTHING)

    def matches(self, item: RosterItem | None) -> bool:
        """Whether a rule that is not about an address applies to a contact with this roster item (None: not there)."""
        listed = item is not None and item.listed
        if self.type == "subscription":
            return self.value == (item.subscription if item is not None and listed else "none")
        if self.type == "group":
            return item is not None and listed and self.value in item.groups
        return True


class PrivacyList:
    """Rules in their order, compiled: a run of rules about addresses is one look-up, however long it is."""

    __slots__ = ("_steps", "asks_roster", "kinds", "rules")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(sorted(rules, key=lambda rule: rule.order))
        self.asks_roster = any(rule.type in ("group", "subscription") for rule in self.rules)
        """Whether the roster is needed to decide."""
        self.kinds = Kind(0)
        """What is denied to anybody."""
        self._steps: list[Rule | dict[str, list[Rule]]] = []
        for rule in self.rules:
            if not rule.allow:
                self.kinds |= rule.kinds
            if rule.type != "jid":
                self._steps.append(rule)
                continue
            if not self._steps or not isinstance(self._steps[-1], dict):
                self._steps.append({})
            step = self._steps[-1]
            assert isinstance(step, dict)
            step.setdefault(rule.value, []).append(rule)

    def allows(self, kind: Kind, peer: JID, item: ItemOf) -> bool:
        """Whether the first rule that speaks of this kind of stanza and of `peer` allows it; True if there is none.

        An address matches its full and bare form and its domain (§2.1). `item` is only called if `asks_roster`.
        """
        if not kind & self.kinds:
            return True
        for step in self._steps:
            if isinstance(step, dict):
                found = _first(step, kind, peer)
                if found is not None:
                    return found.allow
            elif step.kinds & kind and step.matches(item() if step.type else None):
                return step.allow
        return True

    def blocked(self) -> tuple[str, ...]:
        """The addresses that a blocklist shows."""
        return tuple(rule.value for rule in self.rules if rule.blocks)


def _first(step: dict[str, list[Rule]], kind: Kind, peer: JID) -> Rule | None:
    best: Rule | None = None
    for rules in (
        step.get(peer),
        step.get(peer.bare) if peer.resource else None,
        step.get(peer.domain) if peer.local or peer.resource else None,
    ):
        for rule in rules or ():
            if rule.kinds & kind:
                if best is None or rule.order < best.order:
                    best = rule
                break
    return best


def blocking(rules: Iterable[Rule], addresses: Iterable[str]) -> tuple[Rule, ...]:
    """The rules with these addresses blocked, in front of the others (XEP-0191 §5)."""
    before = tuple(rules)
    known = {rule.value for rule in before if rule.blocks}
    new = [address for address in dict.fromkeys(addresses) if address not in known]
    start = min((rule.order for rule in before), default=len(new)) - len(new)
    if start < 0:  # no room in front
        moved = sorted(before, key=lambda rule: rule.order)
        before = tuple(
            Rule(len(new) + at, rule.allow, rule.type, rule.value, rule.kinds) for at, rule in enumerate(moved)
        )
        start = 0
    return (*(Rule(start + at, False, "jid", address) for at, address in enumerate(new)), *before)


def unblocking(rules: Iterable[Rule], addresses: Iterable[str] | None) -> tuple[Rule, ...]:
    """The rules without those that block these addresses; None: without all that a blocklist shows."""
    gone = None if addresses is None else frozenset(addresses)
    return tuple(rule for rule in rules if not (rule.blocks and (gone is None or rule.value in gone)))
