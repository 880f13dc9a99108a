"""XEP-0490 §4.5: a message's own word about how far its chat was displayed goes to the sender's node, not to the recipient."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

import structlog

from beamish.core.events import Context
from beamish.core.services import PepService
from beamish.modules.pubsub.wire import payload
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.stanza import MESSAGE

log = structlog.get_logger(__name__)

NODE: Final = "urn:xmpp:mds:displayed:0"
ASSIST: Final = "urn:xmpp:mds:server-assist:0"
OPTIONS: Final = {
    "persist_items": "true",
    "max_items": "max",
    "send_last_published_item": "never",
    "access_model": "whitelist",
}
_MARK: Final = NODE.encode()


class Displayed:
    """Takes the element out and publishes it."""

    def __init__(self, pep: PepService) -> None:
        self._pep = pep

    def take(self, ctx: Context) -> Awaitable[None] | None:
        """A client sent a stanza."""
        stanza = ctx.stanza
        if stanza.name != MESSAGE or _MARK not in stanza.body:
            return None
        found = stanza.el.findall(f"{{{NODE}}}displayed")
        if not found or stanza.to is None:
            return None
        ctx.stanza = stanza.without(*found)
        return self._publish(ctx, str(stanza.to), payload(found[0]))

    async def _publish(self, ctx: Context, chat: str, payload: bytes) -> None:
        assert ctx.stanza.sender is not None
        try:
            await self._pep.publish(ctx.stanza.sender.bare, NODE, {chat: payload}, OPTIONS)
        except StanzaError as error:
            # the message is worth more than the mark
            log.warning("displayed_not_published", sender=str(ctx.stanza.sender), error=str(error))
