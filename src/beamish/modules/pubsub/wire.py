"""Answers and events of XEP-0060 as bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from beamish.core.clock import stamp
from beamish.modules.pubsub.model import Item, Subscription
from beamish.modules.pubsub.names import ADDRESS, EVENT, PUBSUB, SHIM
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element, escape_attr, escape_text, to_bytes

_PREFIX = re.compile(rb' xmlns:([^=" ]+)="[^"]*"')


def payload(el: Element) -> bytes:
    """A payload as free-standing XML, without the declarations around it that it does not use."""
    raw = to_bytes(el)
    cut = raw.index(b">")  # safe: ">" inside attribute values comes out escaped
    if b" xmlns:" not in raw[:cut]:
        return raw
    return _PREFIX.sub(lambda m: m[0] if _uses(raw, m[1]) else b"", raw[:cut]) + raw[cut:]


def _uses(raw: bytes, prefix: bytes) -> bool:
    """Whether a prefix occurs in names or, as some formats have it, in values.

    No pattern is made of it: parsers make up prefixes, and each would be compiled anew.
    """
    wanted = prefix + b":"
    at = raw.find(wanted)
    while at > 0 and (raw[at - 1 : at].isalnum() or raw[at - 1] in b"_-."):
        at = raw.find(wanted, at + 1)
    return at > 0


def attr(name: str, value: str) -> str:
    """One attribute with a space before it; nothing if the value is ""."""
    return f" {name}='{escape_attr(value)}'" if value else ""


def pubsub(inner: bytes | str, namespace: str = PUBSUB) -> bytes:
    """The `<pubsub/>` around an answer."""
    data = inner if isinstance(inner, bytes) else inner.encode()
    return f"<pubsub xmlns='{namespace}'>".encode() + data + b"</pubsub>"


def event(inner: bytes | str) -> bytes:
    """The `<event/>` around a notification."""
    data = inner if isinstance(inner, bytes) else inner.encode()
    return f"<event xmlns='{EVENT}'>".encode() + data + b"</event>"


def item(it: Item, *, payload: bool = True, publisher: str = "") -> bytes:
    """One `<item/>`, with or without its payload."""
    head = f"<item{attr('id', it.id)}{attr('publisher', publisher)}"
    if not payload or not it.payload:
        return head.encode() + b"/>"
    return head.encode() + b">" + it.payload + b"</item>"


def items(node: str, inner: Iterable[bytes]) -> bytes:
    """The `<items/>` of a node around items and retractions."""
    content = b"".join(inner)
    head = f"<items node='{escape_attr(node)}'"
    return head.encode() + (b">" + content + b"</items>" if content else b"/>")


def retractions(ids: Iterable[str]) -> bytes:
    """The `<retract/>` elements of items that are gone."""
    return "".join(f"<retract id='{escape_attr(id_)}'/>" for id_ in ids).encode()


def subscription(node: str, s: Subscription, *, state: str = "", expiry: bool = False, inner: str = "") -> str:
    """One `<subscription/>`; `state` overrides the one it is in."""
    expires = stamp(s.options.expires) if expiry and s.options.expires is not None else ""
    head = (
        f"<subscription{attr('node', node)} jid='{escape_attr(s.jid)}'{attr('subid', s.subid)}"
        f" subscription='{state or s.state.value}'{attr('expiry', expires)}"
    )
    return f"{head}>{inner}</subscription>" if inner else f"{head}/>"


def shim(subids: Iterable[str]) -> bytes:
    """The headers that say which of several subscriptions an event belongs to (§7.1.2.4)."""
    headers = "".join(f"<header name='SubID'>{escape_text(subid)}</header>" for subid in subids)
    return f"<headers xmlns='{SHIM}'>{headers}</headers>".encode()


def reply_to(publisher: JID) -> bytes:
    """The address of the publishing resource (XEP-0163 §4.3.1)."""
    address = f"<address type='replyto' jid='{escape_attr(publisher)}'/>"
    return f"<addresses xmlns='{ADDRESS}'>{address}</addresses>".encode()


def delay(at: float) -> bytes:
    """When an item that is sent again was published (XEP-0203)."""
    return f"<delay xmlns='{ns.DELAY}' stamp='{stamp(at)}'/>".encode()


def body(text: str) -> bytes:
    """A text to read (§12.7)."""
    return f"<body>{escape_text(text)}</body>".encode()
