"""Who is told of the events of accounts' nodes, remembered from one publication to the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from beamish.core.sessions import CHANGED, Session
from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.model import Node, Subscription
from beamish.modules.pubsub.presences import Presences
from beamish.xmpp.jid import JID

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel
    from beamish.core.services import Roster

PLANS: Final = 256
"""Nodes whose recipients are remembered."""


@dataclass(slots=True)
class Plan:
    """Who is to be told of one event.

    `direct` maps addresses of explicit subscribers to their subscriptions there; `digests` are subscriptions that
    collect; `sessions` and `others` are interested resources without a subscription, local and elsewhere. `strangers` are
    those of the sessions that do not see the presence of the account.
    """

    direct: dict[JID, list[Subscription]] = field(default_factory=dict)
    digests: list[Subscription] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    others: list[JID] = field(default_factory=list)
    strangers: set[JID] = field(default_factory=set)

    @property
    def size(self) -> int:
        """How many are told, or have something kept for them."""
        return len(self.direct) + len(self.digests) + len(self.sessions) + len(self.others)

    def __bool__(self) -> bool:
        return bool(self.direct or self.digests or self.sessions or self.others)


class _Account:
    """The plans of an account's nodes, each made for one configuration, all for the same contacts."""

    __slots__ = ("contacts", "plans", "roster")

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self.contacts = roster.subscribers()
        self.plans: dict[Node, tuple[NodeConfig, Plan]] = {}


class Plans:
    """Plans for nodes that everybody who sees the presence of the account may follow, and nobody has subscribed to.

    Few things can change such a plan. That the contacts (another tuple) or the configuration (another value) are others is
    seen when it is asked for. Whoever comes, goes, or has other interests concerns the accounts that show them their
    presence, and those with which they share theirs: their plans are forgotten, the others stay. Who came and went is read
    from what the session table and `Presences` note of each change, so none is missed, whatever caused it.
    """

    def __init__(self, kernel: Kernel, presences: Presences) -> None:
        self._sessions = kernel.sessions
        self._presences = presences
        self._accounts: dict[JID, _Account] = {}
        self._count = 0
        self._seen = kernel.sessions.changes

    def __len__(self) -> int:
        return self._count

    def get(self, owner: JID, node: Node, roster: Roster) -> Plan | None:
        """The plan for a node, if it would come out the same now."""
        self.catch_up()
        account = self._accounts.get(owner)
        if account is None:
            return None
        if account.roster is not roster or account.contacts is not roster.subscribers():
            self.forget(owner)
            return None
        known = account.plans.get(node)
        return known[1] if known is not None and known[0] is node.config else None

    def put(self, owner: JID, node: Node, roster: Roster, plan: Plan) -> None:
        """Remember a plan that was made just now, after `get` found none."""
        while self._count >= PLANS:
            self.forget(next(iter(self._accounts)))
        account = self._accounts.get(owner)
        if account is None:
            account = self._accounts[owner] = _Account(roster)
        self._count += node not in account.plans
        account.plans[node] = node.config, plan

    def catch_up(self) -> None:
        """Forget what does not hold any more because somebody came or went: also so that nothing holds on to sessions."""
        missed = self._sessions.changes - self._seen
        if missed:
            self._seen = self._sessions.changes
            if missed > CHANGED:
                self.clear()
            elif self._accounts:
                self.concerned(set(islice(reversed(self._sessions.changed), missed)))
        if self._presences.changed:
            for owner in self._presences.changed:
                self.forget(owner)
            self._presences.changed.clear()

    def concerned(self, entities: Iterable[JID]) -> None:
        """Forget the plans in which these entities (full addresses) are, or could be now."""
        for full in entities:
            for at, _ in self._presences.watched_by(full):
                self.forget(at)
        for bare in {full.bare for full in entities}:
            for owner in [owner for owner, account in self._accounts.items() if _sees(account.roster, owner, bare)]:
                self.forget(owner)

    def forget(self, owner: JID) -> None:
        """Forget the plans of one account."""
        account = self._accounts.pop(owner, None)
        if account is not None:
            self._count -= len(account.plans)

    def clear(self) -> None:
        """Forget everything."""
        self._accounts.clear()
        self._count = 0


def _sees(roster: Roster, owner: JID, bare: JID) -> bool:
    """Whether an account shows an entity its presence, or is that entity itself."""
    item = roster.get(bare)
    return (item is not None and item.from_) or bare == owner
