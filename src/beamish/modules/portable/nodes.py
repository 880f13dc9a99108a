"""Nodes of an account in XEP-0227 (§4.10), as requests by which their owner would make and fill them (XEP-0060)."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final

from beamish.modules.portable.reader import Place
from beamish.xmpp.xml import Element, make

PUBSUB: Final = "http://jabber.org/protocol/pubsub"
OWNER: Final = f"{PUBSUB}#owner"
BATCH: Final = 50
"""Items published by one request."""
_DATA: Final = "{jabber:x:data}"
_NODE_CONFIG: Final = f"{PUBSUB}#node_config"
_ACCESS: Final = "pubsub#access_model"
_PERSIST: Final = "pubsub#persist_items"


@dataclass(slots=True)
class Node:
    """What a file says of one node. `fields` is its configuration without what has no value."""

    name: str
    place: Place
    fields: dict[str, list[str]] = field(default_factory=dict)
    items: list[Element] = field(default_factory=list)

    @property
    def transient(self) -> bool:
        """Whether there is nothing to take: it keeps no items (as Prosody's stand-in for old bookmarks does)."""
        return not self.items and self.fields.get(_PERSIST, ["1"])[0] in ("0", "false")


class Nodes:
    """The nodes of one account, by name, in the order of the file."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def _node(self, el: Element, place: Place) -> Node:
        name = el.get("node", "")
        return self._nodes.setdefault(name, Node(name, place))

    def configured(self, pubsub: Element, place: Place, owner: str) -> Iterator[str]:
        """Read the `<pubsub/>` of the owner's namespace; what of it is not taken, one text each."""
        for el in pubsub:
            if el.tag == f"{{{OWNER}}}configure":
                form = el.find(f"{_DATA}x")
                if form is not None:
                    self._node(el, place).fields = _fields(form)
            elif el.tag == f"{{{OWNER}}}affiliations":
                if any(each.get("jid") != owner and each.get("affiliation") != "none" for each in el):
                    yield f"affiliations of others with the node {el.get('node')!r}"
            elif el.tag == f"{{{OWNER}}}subscriptions":
                if len(el):
                    yield f"subscriptions to the node {el.get('node')!r}"
            else:
                yield f"the element {el.tag}"

    def filled(self, pubsub: Element, place: Place) -> None:
        """Read the `<pubsub/>` with items. They are copied: the file goes on."""
        for el in pubsub.iterfind(f"{{{PUBSUB}}}items"):
            self._node(el, place).items += [deepcopy(item) for item in el.iterfind(f"{{{PUBSUB}}}item")]


def _fields(form: Element) -> dict[str, list[str]]:
    found = {}
    for each in form.iterfind(f"{_DATA}field"):
        values = [value.text or "" for value in each.iterfind(f"{_DATA}value")]
        if values and each.get("var", "").startswith("pubsub#"):
            found[each.get("var", "")] = values
    return found


def cautious(fields: dict[str, list[str]]) -> dict[str, list[str]]:
    """Only what protects the node, in a form that every service here takes: who may see it, and that it keeps all it can."""
    access = fields.get(_ACCESS, ["whitelist"])[0]
    known = access in ("open", "presence", "roster", "authorize", "whitelist")
    kept = {_ACCESS: [access if known else "whitelist"], "pubsub#max_items": ["max"]}
    if access == "roster" and "pubsub#roster_groups_allowed" in fields:
        kept["pubsub#roster_groups_allowed"] = fields["pubsub#roster_groups_allowed"]
    if _PERSIST in fields:
        kept[_PERSIST] = fields[_PERSIST]
    return kept


def _form(fields: dict[str, list[str]]) -> Element:
    rows = {"FORM_TYPE": [_NODE_CONFIG], **fields}
    return make(
        f"{_DATA}x",
        {"type": "submit"},
        *(
            make(f"{_DATA}field", {"var": var}, *(make(f"{_DATA}value", None, value) for value in values))
            for var, values in rows.items()
        ),
    )


def creation(name: str, fields: dict[str, list[str]]) -> Element:
    """XEP-0060 §8.1.3."""
    create = make(f"{{{PUBSUB}}}create", {"node": name})
    if not fields:
        return make(f"{{{PUBSUB}}}pubsub", None, create)
    return make(f"{{{PUBSUB}}}pubsub", None, create, make(f"{{{PUBSUB}}}configure", None, _form(fields)))


def configuration(name: str, fields: dict[str, list[str]]) -> Element:
    """XEP-0060 §8.2.4."""
    return make(f"{{{OWNER}}}pubsub", None, make(f"{{{OWNER}}}configure", {"node": name}, _form(fields)))


def publications(node: Node) -> Iterator[tuple[int, Element]]:
    """XEP-0060 §7.1: requests with some items each, and how many."""
    for first in range(0, len(node.items), BATCH):
        some = node.items[first : first + BATCH]
        yield len(some), publication(node.name, some)


def publication(name: str, items: list[Element]) -> Element:
    """A request that publishes items; they are copied."""
    publish = make(f"{{{PUBSUB}}}publish", {"node": name}, *(deepcopy(item) for item in items))
    return make(f"{{{PUBSUB}}}pubsub", None, publish)
