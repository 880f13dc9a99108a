"""What an entity says about itself when asked (XEP-0030, XEP-0128): values, and their bytes.

The module `disco` answers for our domains and accounts from what other modules declare; a service with a domain of its
own (rooms, publish-subscribe) answers for itself with the same values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from beamish.core.module import Identity
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element, escape_attr, to_bytes


@dataclass(frozen=True, slots=True)
class DiscoItem:
    """One item of an entity (XEP-0030 §4): an address, or a node at an address."""

    jid: JID
    node: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class DiscoInfo:
    """Identities, features and extension forms of an entity or node.

    There should be at least one identity; the feature `disco#info` is added by `to_bytes`. `forms` are complete
    `jabber:x:data` elements of type `result` (XEP-0128).
    """

    identities: tuple[Identity, ...] = ()
    features: tuple[str, ...] = ()
    forms: tuple[Element, ...] = ()

    def to_bytes(self, node: str = "") -> bytes:
        """The `<query/>` of the answer. `node` is the one that was asked for, which the answer must repeat (§3.2)."""
        # a dict and not a set: identities keep the order of their declaration, the first one being the primary one
        identities = dict.fromkeys((i.category, i.type, i.name) for i in self.identities)
        features = sorted({*self.features, ns.DISCO_INFO})
        out = [f"<query xmlns='{ns.DISCO_INFO}'{_node(node)}>"]
        out += (f"<identity category='{c}' type='{t}'{_name(n)}/>" for c, t, n in identities)
        out += (f"<feature var='{escape_attr(feature)}'/>" for feature in features)
        return "".join(out).encode() + b"".join(to_bytes(form) for form in self.forms) + b"</query>"


@dataclass(frozen=True, slots=True)
class DiscoNode:
    """A node that a module answers for: what it is, and what it holds.

    `public`: whoever asked may know of it even as a stranger to the account; its being there is no secret.
    """

    info: DiscoInfo
    items: tuple[DiscoItem, ...] = ()
    public: bool = False


def items_bytes(items: Iterable[DiscoItem], node: str = "") -> bytes:
    """The `<query/>` that lists items (XEP-0030 §4.1), in the order given."""
    inner = "".join(f"<item jid='{escape_attr(item.jid)}'{_node(item.node)}{_name(item.name)}/>" for item in items)
    return f"<query xmlns='{ns.DISCO_ITEMS}'{_node(node)}>{inner}</query>".encode()


def _node(node: str) -> str:
    return f" node='{escape_attr(node)}'" if node else ""


def _name(name: str) -> str:
    return f" name='{escape_attr(name)}'" if name else ""
