"""Server dialback (XEP-0220) with keys by XEP-0185: what is said and how keys are made. No I/O.

A key needs no memory: the authoritative server makes it anew from its secret and the attributes of the question.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from beamish.stream.parser import Nonza
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.xml import Element, escape_attr, escape_text

RESULT: Final = f"{{{ns.DIALBACK}}}result"
VERIFY: Final = f"{{{ns.DIALBACK}}}verify"

MAX_KEY: Final = 1_024
"""Characters of a key that are still answered; XEP-0185 makes 64."""


class DialbackSecret:
    """The secret of one authoritative server; never leaves the process."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError("a dialback secret needs 16 bytes or more")
        self._secret = hashlib.sha256(secret).hexdigest().encode()

    def key(self, receiving: str, originating: str, stream_id: str) -> str:
        """The key for a stream from `originating` (our domain) to `receiving` with that id (XEP-0185 §3)."""
        message = f"{receiving} {originating} {stream_id}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()

    def proves(self, key: str, receiving: str, originating: str, stream_id: str) -> bool:
        """Whether a key is ours; takes the same time for right and wrong ones."""
        return hmac.compare_digest(key.encode(), self.key(receiving, originating, stream_id).encode())


@dataclass(frozen=True, slots=True)
class DialbackElement:
    """A `<db:result/>` or `<db:verify/>`: a question if `type` is "", otherwise the answer."""

    verify: bool
    sender: str
    to: str
    id: str
    type: str
    key: str
    condition: str = ""
    """The stanza error condition of an answer of type `error`."""


def read(item: Nonza) -> DialbackElement:
    """Read a dialback element. Raises `JidMalformed` when an address is missing or is no domain."""
    el = item.el
    sender, to = _domain(el, "from"), _domain(el, "to")
    condition = ""
    for node in el.iter():
        tag = str(node.tag)
        if tag.startswith(f"{{{ns.STANZAS}}}") and not tag.endswith("}text"):
            condition = tag.rpartition("}")[2]
            break
    key = (el.text or "").strip()
    return DialbackElement(
        item.tag == VERIFY, sender, to, el.get("id", ""), el.get("type", ""), key[: MAX_KEY + 1], condition
    )


def _domain(el: Element, attribute: str) -> str:
    jid = JID.parse(el.get(attribute, ""))
    if jid != jid.domain:
        raise JidMalformed("domainpart", f"'{attribute}' is not a domain alone")
    return jid.domain


def result(sender: str, to: str, key: str) -> bytes:
    """Ask for authorization: "this key comes from `sender`" (XEP-0220 §2.1.1)."""
    return _element("result", sender, to, key=key)


def verify(sender: str, to: str, stream_id: str, key: str) -> bytes:
    """Ask the authoritative server about a key (XEP-0220 §2.2.1)."""
    return _element("verify", sender, to, id=stream_id, key=key)


def answer(question: DialbackElement, type: str, condition: Condition | None = None) -> bytes:
    """The answer to a question: `valid`, `invalid`, or `error` with a condition (XEP-0220 §2.4)."""
    error = ""
    if condition is not None:
        error = f"<error type='cancel'><{condition.value} xmlns='{ns.STANZAS}'/></error>"
    name = "verify" if question.verify else "result"
    return _element(name, question.to, question.sender, id=question.id, type=type, content=error)


def _element(
    name: str, sender: str, to: str, *, id: str = "", type: str = "", key: str = "", content: str = ""
) -> bytes:
    attributes = "".join(
        f" {n}='{escape_attr(v)}'" for n, v in (("from", sender), ("to", to), ("id", id), ("type", type)) if v
    )
    inner = escape_text(key) + content
    return f"<db:{name}{attributes}>{inner}</db:{name}>".encode() if inner else f"<db:{name}{attributes}/>".encode()
