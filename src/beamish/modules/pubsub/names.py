"""Names of XEP-0060: namespaces, states, and the errors with their pubsub-specific conditions."""

from __future__ import annotations

from enum import Enum
from typing import Final

from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.xml import escape_text, make

PUBSUB: Final = "http://jabber.org/protocol/pubsub"
EVENT: Final = PUBSUB + "#event"
OWNER: Final = PUBSUB + "#owner"
ERRORS: Final = PUBSUB + "#errors"
NODE_CONFIG: Final = PUBSUB + "#node_config"
PUBLISH_OPTIONS: Final = PUBSUB + "#publish-options"
SUBSCRIBE_OPTIONS: Final = PUBSUB + "#subscribe_options"
SUBSCRIBE_AUTHORIZATION: Final = PUBSUB + "#subscribe_authorization"
META_DATA: Final = PUBSUB + "#meta-data"
GET_PENDING: Final = PUBSUB + "#get-pending"

TYPE_FILTER: Final = "urn:xmpp:pubsub-filter:0"

SHIM: Final = "http://jabber.org/protocol/shim"
ADDRESS: Final = "http://jabber.org/protocol/address"
COMMANDS: Final = "http://jabber.org/protocol/commands"
NOTIFY: Final = "+notify"
PRIVATE_NODES: Final[dict[str, tuple[int | str, str]]] = {
    "urn:xmpp:contacts": ("max", "on_sub_and_presence"),
    "urn:xmpp:bookmarks:1": ("max", "never"),
    "urn:xmpp:mds:displayed:0": ("max", "never"),
    "storage:bookmarks": (1, "on_sub_and_presence"),
}
"""Nodes of accounts that are for their owner only unless said otherwise (XEP-0292 §5.2, XEP-0402 §3, XEP-0490 §9, XEP-0048 §3):
how many items these hold, and when the last is sent. A client or gateway that forgets to say so must not publish its user's
address book, the passwords of rooms or what was read when; and who asks for what these specifications say finds it so."""


class Affiliation(Enum):
    """What an entity is to a node (XEP-0060 §4.1); always of a bare JID."""

    OWNER = "owner"
    PUBLISHER = "publisher"
    PUBLISH_ONLY = "publish-only"
    MEMBER = "member"
    NONE = "none"
    OUTCAST = "outcast"


class Access(Enum):
    """Who may subscribe and retrieve (XEP-0060 §4.5)."""

    OPEN = "open"
    PRESENCE = "presence"
    ROSTER = "roster"
    AUTHORIZE = "authorize"
    WHITELIST = "whitelist"


class State(Enum):
    """The state of a subscription (XEP-0060 §4.2); `none` is never stored."""

    SUBSCRIBED = "subscribed"
    PENDING = "pending"
    UNCONFIGURED = "unconfigured"
    NONE = "none"


def refused(
    condition: Condition, reason: str, kind: Kind | None = None, *, text: str = "", feature: str = ""
) -> StanzaError:
    """An error with a pubsub-specific condition beside the general one (XEP-0060 §10)."""
    return StanzaError(condition, kind, text, app=make(f"{{{ERRORS}}}{reason}", {"feature": feature or None}))


def unsupported(feature: str) -> StanzaError:
    """`feature-not-implemented` with the feature that is missing."""
    return refused(Condition.FEATURE_NOT_IMPLEMENTED, "unsupported", feature=feature)


def no_node() -> StanzaError:
    """There is no such node, or none that the asker may know of.

    Profanity up to 0.13 makes the list of its OMEMO devices only when it reads this number (XEP-0086 §3).
    """
    return StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such node", code=404)


def forbidden() -> StanzaError:
    """The asker may not do this."""
    return StanzaError(Condition.FORBIDDEN)


class NodeMoved(StanzaError):
    """A deleted node whose owner named a replacement (XEP-0060 §6.1.3.11, §8.4.1)."""

    def __init__(self, uri: str) -> None:
        super().__init__(Condition.GONE, Kind.MODIFY)
        self.uri = uri

    def to_bytes(self, by: str = "") -> bytes:
        """The error with the address inside its condition (RFC 6120 §8.3.3.5)."""
        uri = escape_text(self.uri)
        return f"<error type='{self.kind.value}'><gone xmlns='{ns.STANZAS}'>{uri}</gone></error>".encode()
