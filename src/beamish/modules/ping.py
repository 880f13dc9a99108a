"""XEP-0199: the server answers pings, for itself and for the accounts of those who ask about their own or a contact's.

Strangers get the same answer for every account, existing or not, so that nobody can find out addresses by pinging.
Not here: pinging clients (connections do that when they fall silent), and pings to full JIDs (clients answer those).
"""

from __future__ import annotations

from collections.abc import Awaitable

from beamish.core.events import Context
from beamish.core.later import is_later
from beamish.core.module import Module, Scope, Xep, iq
from beamish.core.services import PresenceService
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.stanza import Stanza


class PingModule(Module):
    """Answers pings."""

    name = "ping"
    xeps = (Xep(199, "2.0.1"),)
    features = (ns.PING,)
    account_features = (ns.PING,)
    requires = (PresenceService,)

    async def start(self) -> None:
        """Look up who may know of an account."""
        self._presence = self.kernel.service(PresenceService)

    @iq(get=f"{{{ns.PING}}}ping", scope=Scope.SERVER)
    def ping_server(self, ctx: Context) -> Stanza:
        """The server lives, and so does the stream the ping came by (XEP-0199 §4.2, §4.3)."""
        return ctx.stanza.reply()

    @iq(get=f"{{{ns.PING}}}ping", scope=Scope.ACCOUNT)
    def ping_account(self, ctx: Context) -> Stanza | Awaitable[Stanza]:
        """The server answers for an account (XEP-0199 §4.2, RFC 6121 §8.5.2.1.3)."""
        stanza = ctx.stanza
        to, sender = stanza.to, stanza.sender
        if to is None or sender is None or sender.bare == to:
            return stanza.reply()
        allowed = self._presence.may_see(to, sender)
        if is_later(allowed):
            return self._when_allowed(stanza, allowed)
        return _answer(stanza, allowed)

    async def _when_allowed(self, stanza: Stanza, allowed: Awaitable[bool]) -> Stanza:
        return _answer(stanza, await allowed)


def _answer(stanza: Stanza, allowed: bool) -> Stanza:
    if not allowed:
        raise StanzaError(Condition.SERVICE_UNAVAILABLE)
    return stanza.reply()
