"""XEP-0060 §4.1 and §4.5 as tables: each affiliation, with each access model, as a stranger, a contact and a friend."""

from __future__ import annotations

import pytest

from beamish.modules.pubsub.access import (
    STRANGER,
    Relation,
    check_publish,
    check_retrieve,
    check_subscribe,
    may_receive,
    visible,
)
from beamish.modules.pubsub.config import NodeConfig
from beamish.modules.pubsub.model import Node, Subscription
from beamish.modules.pubsub.names import Affiliation, State
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID

ME = JID.parse("romeo@example.org")
OWNER = JID.parse("juliet@example.org")
CONTACT = Relation(True, frozenset(("Servants",)))
FRIEND = Relation(True, frozenset(("Friends",)))
RELATIONS = {"stranger": STRANGER, "contact": CONTACT, "friend": FRIEND}


def node(model: str, affiliation: str = "none", **config: object) -> Node:
    settings = NodeConfig(access_model=model, roster_groups_allowed=("Friends",), **config)  # type: ignore[arg-type]
    made = Node(1, "n", OWNER, 0.0, settings, {OWNER: Affiliation.OWNER})
    if affiliation != "none":
        made.affiliations[ME] = Affiliation(affiliation)
    return made


# who may subscribe: `s` at once, `p` after approval, `-` not
NOBODY = {
    "open": {"stranger": "s", "contact": "s", "friend": "s"},
    "presence": {"stranger": "-", "contact": "s", "friend": "s"},
    "roster": {"stranger": "-", "contact": "-", "friend": "s"},
    "authorize": {"stranger": "p", "contact": "p", "friend": "p"},
    "whitelist": {"stranger": "-", "contact": "-", "friend": "-"},
}


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("model", NOBODY)
def test_without_an_affiliation(model: str, relation: str) -> None:
    made, who, expected = node(model), RELATIONS[relation], NOBODY[model][relation]
    if expected == "-":
        with pytest.raises(StanzaError):
            check_subscribe(made, ME, who)
    else:
        assert check_subscribe(made, ME, who) is (State.PENDING if expected == "p" else State.SUBSCRIBED)
    if expected == "s":
        check_retrieve(made, ME, who, 0.0)
    else:
        with pytest.raises(StanzaError):
            check_retrieve(made, ME, who, 0.0)
    assert may_receive(made, ME, who) == (expected != "-")
    assert visible(made, ME, who) == (expected != "-")


# §4.1: Subscribe, Retrieve, Publish
PRIVILEGES = {
    "owner": (True, True, True),
    "publisher": (True, True, True),
    "publish-only": (False, False, True),
    "member": (True, True, False),
    "outcast": (False, False, False),
}


@pytest.mark.parametrize("model", NOBODY)
@pytest.mark.parametrize("affiliation", PRIVILEGES)
def test_privileges_of_affiliations(affiliation: str, model: str) -> None:
    made = node(model, affiliation)
    subscribes, retrieves, publishes = PRIVILEGES[affiliation]
    for allowed, check in (
        (subscribes, lambda: check_subscribe(made, ME, STRANGER)),
        (retrieves, lambda: check_retrieve(made, ME, STRANGER, 0.0)),
        (publishes, lambda: check_publish(made, ME, 0.0)),
    ):
        if allowed:
            check()
        else:
            with pytest.raises(StanzaError):
                check()
    assert may_receive(made, ME, STRANGER) == subscribes
    assert visible(made, ME, FRIEND) == (affiliation != "outcast")


def test_subscribers_of_an_authorize_node_retrieve_until_their_lease_ends() -> None:
    from beamish.modules.pubsub.options import Options

    made = node("authorize", publish_model="subscribers")
    made.enter(Subscription(JID.parse(f"{ME}/x"), "1", State.SUBSCRIBED, Options(expire=10.0)))
    check_retrieve(made, ME, STRANGER, 9.0)
    check_publish(made, ME, 9.0)
    with pytest.raises(StanzaError):
        check_retrieve(made, ME, STRANGER, 10.0)
    with pytest.raises(StanzaError):
        check_publish(made, ME, 10.0)
