"""Where stanzas go (RFC 6120 §8 and §10, RFC 6121 §8).

`from_session` takes what a client sent, `route` takes anything that has a `to`. Both return None when the stanza was
dealt with at once, or an awaitable when something had to be waited for; then the caller parks only the one connection
that sent it. Errors go back to the sender from here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, cast

import structlog

from beamish.core import events
from beamish.core.events import Context, Delivery
from beamish.core.hooks import STOP, Outcome
from beamish.core.later import is_later
from beamish.core.services import AccountsService, PresenceService
from beamish.core.sessions import Session
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, MESSAGE, PRESENCE, Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

Handler = Callable[[Context], Awaitable[None] | None]


class Reach(Enum):
    """How an account can be reached, the rows of the table in RFC 6121 §8.5.4."""

    __hash__ = object.__hash__  # the one of enumerations hashes the name, and this one is a key for each message

    NO_ACCOUNT = auto()
    NO_RESOURCES = auto()
    ONLY_NEGATIVE = auto()
    SOME = auto()


class Action(Enum):
    """What happens to a message, the cells of that table."""

    STORE = auto()
    """O: whoever keeps messages gets it, otherwise as BOUNCE."""
    BOUNCE = auto()
    """E: `service-unavailable` to the sender."""
    IGNORE = auto()
    """S: nothing."""
    ALL = auto()
    """A: every resource with a non-negative priority."""


_O, _E, _S, _A = Action.STORE, Action.BOUNCE, Action.IGNORE, Action.ALL

BARE_TABLE: Final[dict[Reach, dict[str, Action]]] = {
    Reach.NO_ACCOUNT: {"normal": _E, "chat": _E, "groupchat": _E, "headline": _S, "error": _S},
    Reach.NO_RESOURCES: {"normal": _O, "chat": _O, "groupchat": _E, "headline": _S, "error": _S},
    Reach.ONLY_NEGATIVE: {"normal": _O, "chat": _O, "groupchat": _E, "headline": _S, "error": _S},
    Reach.SOME: {"normal": _A, "chat": _A, "groupchat": _E, "headline": _A, "error": _S},
}
"""Messages to a bare JID (RFC 6121 §8.5.1, §8.5.2.1.1, §8.5.2.2.1)."""

FULL_TABLE: Final[dict[Reach, dict[str, Action]]] = {
    Reach.NO_ACCOUNT: {"normal": _E, "chat": _E, "groupchat": _E, "headline": _S, "error": _S},
    Reach.NO_RESOURCES: {"normal": _E, "chat": _O, "groupchat": _E, "headline": _S, "error": _S},
    Reach.ONLY_NEGATIVE: {"normal": _E, "chat": _O, "groupchat": _E, "headline": _S, "error": _S},
    Reach.SOME: {"normal": _E, "chat": _A, "groupchat": _E, "headline": _S, "error": _S},
}
"""Messages to a full JID that no resource has (RFC 6121 §8.5.3.2.1). A matching resource gets every message."""

_MESSAGE_TYPES: Final = frozenset(("normal", "chat", "groupchat", "headline", "error"))
_IQ_TYPES: Final = frozenset(("get", "set", "result", "error"))
_UNAVAILABLE: Final = StanzaError(Condition.SERVICE_UNAVAILABLE)


def _check_iq(stanza: Stanza) -> None:
    """Raises `StanzaError(bad-request)` for an IQ without what every IQ has (RFC 6120 §8.2.3), whoever sent it."""
    if stanza.type not in _IQ_TYPES or not stanza.id:
        raise StanzaError(Condition.BAD_REQUEST, text="an IQ has an id, and a type that RFC 6120 knows")


class Router:
    """Routes stanzas within one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._hosts: dict[str, Handler] = {}
        hooks = kernel.hooks
        self._inbound = hooks[events.inbound]
        self._incoming = hooks[events.incoming]
        self._incoming_iq = hooks[events.incoming_iq]
        self._delivering = hooks[events.delivering]
        self._delivered = hooks[events.delivered]
        self._undelivered = hooks[events.undelivered]
        self._remote = hooks[events.remote]
        self._server_message = hooks[events.server_message]
        self._server_presence = hooks[events.server_presence]
        self._entering = hooks[events.entering]
        self._by_full = kernel.sessions.by_full
        self._by_user = kernel.sessions.by_user
        self._accounts: AccountsService | None = None
        self._presence: PresenceService | None = None

    def connect(self) -> None:
        """Look up the services that routing needs; called once when all modules have started."""
        self._accounts = self._kernel.service(AccountsService)
        self._presence = self._kernel.service(PresenceService)

    # ---- who answers for which domain -------------------------------------------------------------------------------

    def add_domain(self, domain: str) -> None:
        """Route a domain of ours to its accounts."""
        self._hosts[domain] = self._to_account_domain

    def add_service(self, domain: str, handler: Handler) -> None:
        """Route everything for a subdomain (rooms, pubsub, a component) to one handler. Raises `ValueError` if taken."""
        if domain in self._hosts:
            raise ValueError(f"{domain} is served already")
        self._hosts[domain] = handler

    def remove_service(self, domain: str) -> None:
        """Stop routing a domain."""
        self._hosts.pop(domain, None)

    def serves(self, domain: str) -> bool:
        """Whether anything here answers for the domain."""
        return domain in self._hosts

    # ---- ways in ----------------------------------------------------------------------------------------------------

    def from_session(self, session: Session, stanza: Stanza) -> Context | Awaitable[Context]:
        """Take a stanza of a bound client; `stanza.sender` is stamped with the session's full JID already."""
        ctx = Context(stanza, session)
        try:
            rest = self._from_session(ctx)
        except StanzaError as error:
            self.bounce(ctx, error)
            return ctx
        except Exception:
            self._crashed(ctx)
            return ctx
        return ctx if rest is None else self._finish(ctx, rest)

    def _from_session(self, ctx: Context) -> Awaitable[None] | None:
        stanza = ctx.stanza
        if stanza.name == IQ:
            _check_iq(stanza)
        if self._inbound.rows:
            return self._after(self._inbound.run(ctx, stanza.name, stanza.known_tags), ctx, self._sent)
        return self._sent(ctx)

    def _sent(self, ctx: Context) -> Awaitable[None] | None:
        """A client's stanza has passed the guards."""
        stanza = ctx.stanza
        if stanza.name == PRESENCE:
            assert self._presence is not None
            return self._presence.outbound(ctx)
        if stanza.to is None:
            if stanza.name == IQ:
                return self._kernel.iq.handle(ctx)  # RFC 6120 §10.3.3: the account itself
            assert stanza.sender is not None
            ctx.stanza = stanza.replace(to=stanza.sender.bare)  # RFC 6120 §10.3.1
        return self._route(ctx)

    def route(self, ctx: Context) -> Awaitable[None] | None:
        """Bring a stanza with a `to` to where it belongs; errors go back to its sender."""
        try:
            rest = self._route(ctx)
        except StanzaError as error:
            self.bounce(ctx, error)
            return None
        except Exception:
            self._crashed(ctx)
            return None
        return None if rest is None else self._finish_quietly(ctx, rest)

    def from_elsewhere(self, ctx: Context) -> Awaitable[None] | None:
        """Take a stanza that another server or a component sent; the stream has checked who that is."""
        stanza = ctx.stanza
        iq = stanza.name == IQ
        if not (iq or self._entering.rows):
            return self.route(ctx)
        try:
            if iq:
                _check_iq(stanza)
            rest = self._after(self._entering.run(ctx), ctx, self._route)
        except StanzaError as error:
            self.bounce(ctx, error)
            return None
        except Exception:
            self._crashed(ctx)
            return None
        return None if rest is None else self._finish_quietly(ctx, rest)

    def post(self, stanza: Stanza) -> None:
        """Route a stanza of the server's own and forget it; what must be awaited runs in the kernel's background."""
        rest = self.route(Context(stanza))
        if rest is not None:
            self._kernel.tasks.spawn(_run(rest), "post")

    def answer(self, ctx: Context, reply: Stanza) -> None:
        """Send the reply to a stanza. One that came from a local session goes straight back to it."""
        origin = ctx.origin
        if origin is not None:
            if reply.to is None:
                reply = reply.replace(to=origin.jid)
            if reply.to == origin.jid:
                origin.deliver(reply.to_wire(), reply)
                if reply.name == MESSAGE and self._delivered.rows:
                    # the sender's other devices may have seen the message, so they have to hear that it failed
                    rest = self._ignore(self._delivered.run(Context(reply)))
                    if rest is not None:
                        self._kernel.tasks.spawn(_run(rest), "answer")
                return
        if reply.to is not None:
            self.post(reply)

    def bounce(self, ctx: Context, error: StanzaError) -> None:
        """Answer a stanza with an error, if it may be answered (RFC 6120 §8.3.1)."""
        reply = ctx.stanza.error(error)
        if reply is not None:
            self.answer(ctx, reply)

    # ---- the way through --------------------------------------------------------------------------------------------

    def _route(self, ctx: Context) -> Awaitable[None] | None:
        to = ctx.stanza.to
        assert to is not None
        handler = self._hosts.get(to.domain)
        if handler is not None:
            return handler(ctx)
        return self._after(self._remote.run(ctx) if self._remote.rows else None, ctx, self._nowhere)

    def _nowhere(self, ctx: Context) -> None:
        raise StanzaError(Condition.REMOTE_SERVER_NOT_FOUND, text="this server does not federate with that domain")

    def _to_account_domain(self, ctx: Context) -> Awaitable[None] | None:
        stanza = ctx.stanza
        to = stanza.to
        assert to is not None
        if to.local:
            if stanza.name == IQ:
                if self._incoming_iq.rows:
                    return self._after(self._incoming_iq.run(ctx), ctx, self._iq)
                return self._iq(ctx)
            if self._incoming.rows:
                return self._after(self._incoming.run(ctx, stanza.name, stanza.known_tags), ctx, self._to_account)
            return self._to_account(ctx)
        return self._to_server(ctx)

    def _to_server(self, ctx: Context) -> Awaitable[None] | None:
        """A stanza to a bare domain, or domain with resource (RFC 6120 §10.5.1, §10.5.2)."""
        name = ctx.stanza.name
        if name == IQ:
            return self._kernel.iq.handle(ctx)
        if name == MESSAGE:
            outcome = self._server_message.run(ctx) if self._server_message.rows else None
            return self._after(outcome, ctx, self._refuse)
        # the server itself has no presence to subscribe to
        outcome = self._server_presence.run(ctx) if self._server_presence.rows else None
        return self._ignore(outcome)

    def _refuse(self, ctx: Context) -> None:
        if ctx.stanza.type != "headline":
            raise _UNAVAILABLE

    def _to_account(self, ctx: Context) -> Awaitable[None] | None:
        if ctx.stanza.name == MESSAGE:
            return self._message(ctx)
        assert self._presence is not None
        return self._presence.inbound(ctx)

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _message(self, ctx: Context) -> Awaitable[None] | None:
        stanza = ctx.stanza
        to = stanza.to
        assert to is not None
        if to.resource:
            session = self._by_full.get(to)
            if session is not None and self.hand_over(ctx, (session,)):
                if self._delivered.rows:
                    return self._ignore(self._delivered.run(ctx, MESSAGE))
                return None
        user = self._by_user.get(to.bare)
        if user is not None:
            if user.routable:
                return self._act(ctx, Reach.SOME)
            return self._act(ctx, Reach.ONLY_NEGATIVE if user.available else Reach.NO_RESOURCES)
        assert self._accounts is not None
        exists = self._accounts.exists(to.bare)
        if exists is True:
            return self._act(ctx, Reach.NO_RESOURCES)
        if exists is False:
            return self._act(ctx, Reach.NO_ACCOUNT)
        return self._when_known(ctx, exists)

    async def _when_known(self, ctx: Context, exists: Awaitable[bool]) -> None:
        rest = self._act(ctx, Reach.NO_RESOURCES if await exists else Reach.NO_ACCOUNT)
        if rest is not None:
            await rest

    def _act(self, ctx: Context, reach: Reach) -> Awaitable[None] | None:
        stanza = ctx.stanza
        to = stanza.to
        assert to is not None
        type_ = stanza.type if stanza.type in _MESSAGE_TYPES else "normal"  # RFC 6121 §5.2.2
        action = (FULL_TABLE if to.resource else BARE_TABLE)[reach][type_]
        if action is _A:
            if self.hand_over(ctx, self._by_user[to.bare].routable):
                if self._delivered.rows:
                    return self._ignore(self._delivered.run(ctx, MESSAGE))
                return None
            action = _O if type_ in ("normal", "chat") else _S  # every one of them is just closing
        if action is _O:
            return self.keep(ctx)
        if action is _E:
            raise _UNAVAILABLE
        return None

    def keep(self, ctx: Context) -> Awaitable[None] | None:
        """Give a message that nobody could take to whoever keeps messages; otherwise it bounces."""
        return self._after(self._undelivered.run(ctx, MESSAGE) if self._undelivered.rows else None, ctx, self._unkept)

    def _unkept(self, ctx: Context) -> None:
        raise _UNAVAILABLE

    def hand_over(self, ctx: Context, sessions: tuple[Session, ...]) -> bool:
        """Deliver to local sessions, each through the `delivering` hook. True if at least one took it (or a hook did)."""
        stanza = ctx.stanza
        data = stanza.to_wire()
        taken = False
        if not self._delivering.rows:
            for session in sessions:
                if session.outlet.deliver(data, stanza):
                    taken = True
                    if session.stored > ctx.settled:
                        ctx.settled = session.stored
            return taken
        for session in sessions:
            delivery = Delivery(ctx, stanza, session)
            outcome = self._delivering.run(delivery)
            if outcome is STOP:
                taken = True
            elif outcome is not None:
                raise TypeError("handlers of `delivering` are plain functions")
            else:
                changed = delivery.stanza
                if session.outlet.deliver(data if changed is stanza else changed.to_wire(), changed):
                    taken = True
                    if session.stored > ctx.settled:
                        ctx.settled = session.stored
        return taken

    # ---- IQ ---------------------------------------------------------------------------------------------------------

    def _iq(self, ctx: Context) -> Awaitable[None] | None:
        """An IQ to an account: the server answers for a bare JID, a full JID gets it itself (RFC 6121 §8.5.2.1.3, §8.5.3)."""
        stanza = ctx.stanza
        to = stanza.to
        assert to is not None
        if not to.resource:
            assert self._accounts is not None
            exists = True if to in self._by_user else self._accounts.exists(to)
            if is_later(exists):
                return self._iq_when_known(ctx, exists)
            return self._kernel.iq.handle(ctx, account=bool(exists))
        session = self._by_full.get(to)
        if session is None:
            raise _UNAVAILABLE
        if stanza.type in ("result", "error"):
            self.hand_over(ctx, (session,))
            return None
        # RFC 6121 §8.5.3.1: a request must not reveal presence to those who may not see it
        assert self._presence is not None and stanza.sender is not None
        sender = stanza.sender
        # … which the account itself and its own server know anyway
        allowed = sender.bare == to.bare or sender == to.domain or self._presence.may_ask(to.bare, sender)
        if is_later(allowed):
            return self._iq_when_allowed(ctx, to, allowed)
        if not allowed or not self.hand_over(ctx, (session,)):
            raise _UNAVAILABLE
        return None

    async def _iq_when_known(self, ctx: Context, exists: Awaitable[bool]) -> None:
        rest = self._kernel.iq.handle(ctx, account=await exists)
        if rest is not None:
            await rest

    async def _iq_when_allowed(self, ctx: Context, to: JID, allowed: Awaitable[bool]) -> None:
        session = self._by_full.get(to) if await allowed else None
        if session is None or not self.hand_over(ctx, (session,)):
            raise _UNAVAILABLE

    # ---- sync or not ------------------------------------------------------------------------------------------------

    def _after(self, outcome: Outcome | Awaitable[Outcome], ctx: Context, go_on: Handler) -> Awaitable[None] | None:
        """Go on after a hook, unless it stopped."""
        if outcome is None:
            return go_on(ctx)
        if outcome is STOP:
            return None
        return self._after_later(outcome, ctx, go_on)

    async def _after_later(self, outcome: Awaitable[Outcome], ctx: Context, go_on: Handler) -> None:
        if await outcome is STOP:
            return
        rest = go_on(ctx)
        if rest is not None:
            await rest

    def _ignore(self, outcome: Outcome | Awaitable[Outcome]) -> Awaitable[None] | None:
        """An observer's hook ran; only wait for it."""
        if outcome is None or outcome is STOP:
            return None
        return _run(cast("Awaitable[object]", outcome))

    async def _finish(self, ctx: Context, rest: Awaitable[None]) -> Context:
        await self._finish_quietly(ctx, rest)
        return ctx

    async def _finish_quietly(self, ctx: Context, rest: Awaitable[None]) -> None:
        try:
            await rest
        except StanzaError as error:
            self.bounce(ctx, error)
        except Exception:
            self._crashed(ctx)

    def _crashed(self, ctx: Context) -> None:
        log.exception("stanza_failed", stanza=repr(ctx.stanza))
        self.bounce(ctx, StanzaError(Condition.INTERNAL_SERVER_ERROR))


async def _run(rest: Awaitable[object]) -> None:
    await rest
