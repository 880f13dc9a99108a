"""The session step of RFC 3921 §3, for old clients that insist on it. It does nothing: a bound resource is a session.

The stream feature, marked `<optional/>`, is offered by the stream machine.
"""

from __future__ import annotations

from beamish.core.events import Context
from beamish.core.module import Module, Scope, iq
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.stanza import Stanza


class SessionModule(Module):
    """Answers the session request."""

    name = "session"

    @iq(set=f"{{{ns.SESSION}}}session", scope=Scope.SERVER | Scope.OWN)
    def establish(self, ctx: Context) -> Stanza:
        """Agree. Only a client of ours can mean this: others get `service-unavailable`."""
        if ctx.origin is None:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE)
        return ctx.stanza.reply()
