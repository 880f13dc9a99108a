"""Who may do what with a node (XEP-0060 §4.1, §4.5, §6.1.3, §6.5.9): decisions on facts, without looking anything up.

Every function returns nothing when it is allowed and raises the `StanzaError` of the specification otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from beamish.modules.pubsub.model import Node
from beamish.modules.pubsub.names import Access, Affiliation, State, forbidden, refused, unsupported
from beamish.xmpp.errors import Condition
from beamish.xmpp.jid import JID


@dataclass(frozen=True, slots=True)
class Relation:
    """What a node's owners' rosters say of an entity: whether it may see the presence of one, and if so its groups there."""

    sees_presence: bool = False
    groups: frozenset[str] = frozenset()


STRANGER: Final = Relation()
_TRUSTED: Final = frozenset((Affiliation.OWNER, Affiliation.PUBLISHER, Affiliation.MEMBER))
"""§4.1: they subscribe and retrieve whatever the access model is."""
_PUBLISHING: Final = frozenset((Affiliation.OWNER, Affiliation.PUBLISHER, Affiliation.PUBLISH_ONLY))


def needs_relation(node: Node, entity: JID) -> bool:
    """Whether a decision about this entity (bare JID) depends on a roster."""
    return node.config.access in (Access.PRESENCE, Access.ROSTER) and node.affiliation(entity) is Affiliation.NONE


def _check_relation(node: Node, relation: Relation) -> None:
    access = node.config.access
    if access is Access.PRESENCE and not relation.sees_presence:
        raise refused(Condition.NOT_AUTHORIZED, "presence-subscription-required")
    if access is Access.ROSTER and relation.groups.isdisjoint(node.config.roster_groups_allowed):
        raise refused(
            Condition.NOT_AUTHORIZED, "not-in-roster-group"
        )  # §6.1.3.3; who may not see presence has no groups


def check_subscribe(node: Node, entity: JID, relation: Relation) -> State:
    """Whether an entity (bare JID) may subscribe; the state that the subscription begins in."""
    affiliation = node.affiliation(entity)
    if affiliation in (Affiliation.OUTCAST, Affiliation.PUBLISH_ONLY):
        raise forbidden()
    if not node.config.subscribe:
        raise unsupported("subscribe")
    if affiliation in _TRUSTED:
        return State.SUBSCRIBED
    access = node.config.access
    if access is Access.WHITELIST:
        raise refused(Condition.NOT_ALLOWED, "closed-node")
    if access is Access.AUTHORIZE:
        return State.PENDING
    _check_relation(node, relation)
    return State.SUBSCRIBED


def check_retrieve(node: Node, entity: JID, relation: Relation, now: float) -> None:
    """Whether an entity (bare JID) may retrieve items (§6.5.1)."""
    affiliation = node.affiliation(entity)
    if affiliation in (Affiliation.OUTCAST, Affiliation.PUBLISH_ONLY):
        raise forbidden()
    if affiliation in _TRUSTED:
        return
    access = node.config.access
    if access is Access.WHITELIST:
        raise refused(Condition.NOT_ALLOWED, "closed-node")
    if access is Access.AUTHORIZE and not node.is_subscriber(entity, now):
        raise refused(Condition.NOT_AUTHORIZED, "not-subscribed")
    _check_relation(node, relation)


def may_receive(node: Node, entity: JID, relation: Relation) -> bool:
    """Whether notifications may go to an entity that has a subscription."""
    affiliation = node.affiliation(entity)
    if affiliation is not Affiliation.NONE:
        return affiliation in _TRUSTED
    access = node.config.access
    if access is Access.WHITELIST:
        return False
    if access is Access.PRESENCE:
        return relation.sees_presence
    if access is Access.ROSTER:
        return relation.sees_presence and not relation.groups.isdisjoint(node.config.roster_groups_allowed)
    return True


def may_all_receive(node: Node) -> bool:
    """Whether `may_receive` says so of everybody, without a look at each of very many."""
    return node.config.access in (Access.OPEN, Access.AUTHORIZE) and not node.affiliations_matter


def may_follow(node: Node, entity: JID, relation: Relation, now: float) -> bool:
    """Whether notifications may go to an entity that only shares presence and has not subscribed (§9.1.2).

    A node whose owner approves subscriptions is followed by those only who are approved.
    """
    if not may_receive(node, entity, relation):
        return False
    if node.config.access is not Access.AUTHORIZE:
        return True
    return node.affiliation(entity) in _TRUSTED or node.is_subscriber(entity, now)


def check_publish(node: Node, entity: JID, now: float) -> None:
    """Whether an entity (bare JID) may publish (§7.1.3.1)."""
    affiliation = node.affiliation(entity)
    if affiliation in _PUBLISHING:
        return
    model = node.config.publish_model
    if affiliation is not Affiliation.OUTCAST:
        if model == "open":
            return
        if model == "subscribers" and node.is_subscriber(entity, now):
            return
    raise forbidden()


def check_owner(node: Node, entity: JID) -> None:
    """Whether an entity (bare JID) owns the node."""
    if node.affiliation(entity) is not Affiliation.OWNER:
        raise forbidden()


def visible(node: Node, entity: JID, relation: Relation) -> bool:
    """Whether a node is shown to an entity in discovery (§5.2, XEP-0163 §6.2): it may subscribe or ask to."""
    affiliation = node.affiliation(entity)
    if affiliation is Affiliation.OUTCAST:
        return False
    return affiliation is not Affiliation.NONE or may_receive(node, entity, relation)
