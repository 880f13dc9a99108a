"""The XML of XEP-0357: what clients ask, and what is published to a push service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.payload.forms import Field, Form, Submission
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, escape_attr, to_bytes

PUSH: Final = "urn:xmpp:push:0"
PUBSUB: Final = "http://jabber.org/protocol/pubsub"
_SUMMARY: Final = "urn:xmpp:push:summary"
_OPTIONS: Final = f"{PUBSUB}#publish-options"
_X: Final = f"{{{ns.DATA}}}x"
_NODE_BYTES: Final = 1_024


@dataclass(frozen=True, slots=True)
class Address:
    """Where notifications go: a push service, and a node there ("": none was named)."""

    service: JID
    node: str


def read_enable(el: Element, most_bytes: int) -> tuple[Address, bytes]:
    """The service of an `<enable/>`, and the form that goes with each publication, b"" if there is none.

    Raises `StanzaError`: `bad-request` without an address or with a form for something else, `jid-malformed`, `not-acceptable`
    above `most_bytes`.
    """
    forms = [_fields(x) for x in el.findall(_X)]
    if len(forms) > 1:
        raise StanzaError(Condition.BAD_REQUEST, text="one form of publish options is enough")
    options = to_bytes(Form.of("submit", _OPTIONS, forms[0]).to_xml()) if forms and forms[0] else b""
    if len(options) > most_bytes:
        raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"publish options may have {most_bytes} bytes")
    return _address(el), options


def read_disable(el: Element) -> tuple[JID, str | None]:
    """The service of a `<disable/>`, and its node, None for all of them. Raises `StanzaError` as `read_enable`."""
    address = _address(el)
    return address.service, None if el.get("node") is None else address.node


def _address(el: Element) -> Address:
    text, node = el.get("jid"), el.get("node", "")
    if not text:
        raise StanzaError(Condition.BAD_REQUEST, text="the address of the push service is missing")
    if len(node.encode()) > _NODE_BYTES:
        raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"a node may have {_NODE_BYTES} bytes")
    try:
        return Address(JID.parse(text), node)
    except JidMalformed as exc:
        raise StanzaError(Condition.JID_MALFORMED, text=str(exc)) from exc


def _fields(x: Element) -> list[Field]:
    """The fields of a form of publish options. Some clients say it is of the type `form`."""
    given = Submission.from_xml(x, _OPTIONS, returned=True)
    return [Field(var, "", values) for var, values in given.fields.items()]


def publication(node: str, options: bytes, summary: Mapping[str, str]) -> bytes:
    """The request to publish a notification (§7), `summary` being the fields of its form (§10.3.1)."""
    form = Form.of("submit", _SUMMARY, [Field(var, "", (value,)) for var, value in summary.items()])
    at = f" node='{escape_attr(node)}'" if node else ""
    rest = b"<publish-options>" + options + b"</publish-options>" if options else b""
    return b"".join(
        (
            f"<pubsub xmlns='{PUBSUB}'><publish{at}><item><notification xmlns='{PUSH}'>".encode(),
            to_bytes(form.to_xml()),
            b"</notification></item></publish>",
            rest,
            b"</pubsub>",
        )
    )


def revoked(message: Stanza, account: JID) -> str | None:
    """The node for which a push service says that it takes nothing of an account's any more (§8), if it says so."""
    pubsub = message.child(f"{{{PUBSUB}}}pubsub")
    if pubsub is None:
        return None
    for affiliation in pubsub.findall(f"{{{PUBSUB}}}affiliation"):
        if affiliation.get("affiliation") == "none" and affiliation.get("jid") == account:
            return pubsub.get("node", "")
    return None
