"""XEP-0490: what one device of an account has shown, the others need not show again; with the server's assistance.

A client puts `<displayed xmlns='urn:xmpp:mds:displayed:0'/>` into the marker that it sends to its contact. It is taken out
before anybody else sees the message, archives and copies included, and published to the account's own node (§4.4).

Not here: the node itself, which is personal eventing (module `pubsub`); clients may as well publish to it themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

import structlog

from beamish.core import events
from beamish.core.content import DISPLAYED, SID, forget
from beamish.core.events import Context
from beamish.core.hooks import Outcome
from beamish.core.module import Module, ModuleConfig, Xep, on
from beamish.core.services import PepService
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE
from beamish.xmpp.xml import Element, escape_attr

log = structlog.get_logger(__name__)

_ASSIST: Final = "urn:xmpp:mds:server-assist:0"
_MARK: Final = DISPLAYED.encode()
_TAG: Final = f"{{{DISPLAYED}}}displayed"
_OPTIONS: Final = {
    "persist_items": "true",
    "max_items": "max",
    "send_last_published_item": "never",
    "access_model": "whitelist",
}
"""For a node that the first publication makes: for the owner's eyes only (§9)."""


class MdsModule(Module):
    """Publishes displayed states that come inside messages."""

    name = "mds"
    keeps_for_accounts = True
    Config = ModuleConfig
    xeps = (Xep(490, "1.0.1"),)

    @property
    def account_features(self) -> tuple[str, ...]:  # type: ignore[override]
        """The assistance is offered only where there is a node to publish to."""
        return (_ASSIST,) if self.kernel.service_or_none(PepService) is not None else ()

    @on(events.inbound, at=40, only=(MESSAGE,), about=(_TAG,))  # before the archive and the copies (§6.2)
    def sent(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """Take the displayed state out of a message and publish it; the message goes on."""
        stanza = ctx.stanza
        if _MARK not in stanza.body or stanza.name != MESSAGE or stanza.type == "error":
            return None
        found = stanza.el.findall(_TAG)
        if not found:
            return None
        ctx.stanza = stanza.without(*found)
        forget(ctx)
        pep = self.kernel.service_or_none(PepService)
        to, origin = stanza.to, ctx.origin
        payload = _payload(found[0])
        if pep is None or to is None or origin is None or origin.anonymous or payload is None:
            return None
        return self._publish(pep, origin.bare, to, payload)

    async def _publish(self, pep: PepService, user: JID, chat: JID, payload: bytes) -> Outcome:
        """The item's id is the message's `to` as the client wrote it, for which it must be the bare JID (§6.1)."""
        try:
            await pep.publish(user, DISPLAYED, {str(chat): payload}, _OPTIONS)
        except StanzaError as exc:
            log.info("displayed_state_not_published", user=str(user), condition=exc.condition.value)
        return None


def _payload(el: Element) -> bytes | None:
    """The item: exactly one `<stanza-id/>` (§4.1), written anew."""
    ids = el.findall(f"{{{SID}}}stanza-id")
    if len(ids) != 1:
        return None
    by, id_ = ids[0].get("by"), ids[0].get("id")
    if not by or not id_:
        return None
    inner = f"<stanza-id xmlns='{SID}' by='{escape_attr(by)}' id='{escape_attr(id_)}'/>"
    return f"<displayed xmlns='{DISPLAYED}'>{inner}</displayed>".encode()
