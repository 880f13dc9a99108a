"""What the events of a client's stream mean: becoming somebody, stanzas, and the bound session's way to the client."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import structlog

from beamish.core.events import Context
from beamish.core.later import is_later
from beamish.core.sessions import Link, Session
from beamish.net.c2s_stream import C2SStream, Wait
from beamish.stream.machine import (
    THROTTLED,
    Authenticated,
    AuthFailed,
    BindRequested,
    Event,
    KeysNeeded,
    Nonza,
    PasswordGiven,
    StartTls,
    StreamClosed,
    StreamFailed,
    StreamOpened,
    Unaddressable,
)
from beamish.stream.sasl import FailureCondition, ScramKeys
from beamish.xmpp import ns
from beamish.xmpp.errors import StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import namespace_of

if TYPE_CHECKING:
    from beamish.net.c2s import C2SServer

log = structlog.get_logger(__name__)


class C2SConnection(C2SStream):
    """One client's connection; the `Outlet` of its session."""

    __slots__ = ("_anonymous",)

    def __init__(self, server: C2SServer, direct_tls: bool) -> None:
        super().__init__(server, direct_tls)
        self._anonymous = False

    def _dispatch(self, event: Event) -> Wait | None:
        if self._closing:
            return None  # behind the end of the stream
        handler = _HANDLERS[type(event)]
        return handler(self, event)

    # ---- stanzas ----------------------------------------------------------------------------------------------------

    def _stanza(self, stanza: Stanza) -> Wait | None:
        session = self.session
        if session is None:
            # before authentication, or of a session that was replaced or has ended in the meantime
            return self._early_iq(stanza) if self.user is None and not self._closing else None
        sender = stanza.sender
        jid = session.jid
        if sender is not None and sender != jid and sender != session.bare:
            # RFC 6120 §8.1.2.1
            self._fail(StreamError(StreamErrorCondition.INVALID_FROM))
            return None
        stanza.sender = jid  # nobody else has seen it yet
        done = self._server.kernel.router.from_session(session, stanza)
        if is_later(done):
            session.busy = True
            return self._handled_later(session, done)
        if session.handled is not None:
            session.handled(done)
        return None

    async def _handled_later(self, session: Session, done: Awaitable[Context]) -> None:
        ctx = await done
        session.busy = False
        if session.handled is not None:
            session.handled(ctx)

    def _early_iq(self, stanza: Stanza) -> Wait | None:
        payload = stanza.payload
        handler = None if payload is None else self._server.kernel.early_iqs.get(str(payload.tag))
        if handler is None:
            return None
        return self._early_answer(stanza, handler)

    async def _early_answer(self, stanza: Stanza, handler: Callable[[Link, Stanza], Any]) -> None:
        try:
            answer = handler(self, stanza)
            reply = await answer if is_later(answer) else answer
        except StanzaError as error:
            reply = stanza.error(error)
        if reply is not None:
            self.write(reply.to_wire())

    def _unaddressable(self, event: Unaddressable) -> None:
        session = self.session
        if session is None:
            return
        self._server.sparing.write(log.info, "jid_malformed", session.bare, stream=self._id, reason=event.reason)
        if event.reply is not None:
            # RFC 6120 §8.1.2.1 rule 2: the server speaks for itself, not for an address that cannot be
            sender = event.reply.sender or JID.of("", session.jid.domain)
            session.send(event.reply.replace(sender=sender, to=session.jid))
        if session.handled is not None:
            session.handled(None)

    def _nonza(self, event: Nonza) -> Wait | None:
        handler = self._server.kernel.nonzas.get(event.tag)
        if handler is None:
            # RFC 6120 §4.8.3: another content namespace is not a matter of the element's name
            other = namespace_of(event.el) in (ns.SERVER, ns.COMPONENT)
            condition = StreamErrorCondition
            self._fail(StreamError(condition.INVALID_NAMESPACE if other else condition.UNSUPPORTED_STANZA_TYPE))
            return None
        try:
            done = handler.call(self, event.el)
        except StreamError as error:
            self._fail(error)
            return None
        if done is not None:
            return self._nonza_later(done)
        if self._machine is not None and self.session is None:
            self._go_on(self._machine.unbound())
        return None

    async def _nonza_later(self, done: Awaitable[None]) -> list[Event]:
        try:
            await done
        except StreamError as error:
            self._fail(error)
        return self._machine.unbound() if self._machine is not None and self.session is None else []

    # ---- becoming somebody ------------------------------------------------------------------------------------------

    def _opened(self, event: StreamOpened) -> None:
        self._tell(logging.DEBUG, "stream_opened", domain=event.domain)

    def _starttls(self, _event: StartTls) -> None:
        machine = self._machine
        assert machine is not None
        self._answer()
        self._begin_tls(machine.domain)

    def _keys(self, event: KeysNeeded) -> Wait | None:
        machine, accounts = self._machine, self._server.accounts
        assert machine is not None
        if not self._may_try(event.jid):
            self._go_on(machine.auth_refused(FailureCondition.TEMPORARY_AUTH_FAILURE, THROTTLED))
            return None
        jid = event.jid
        if jid is None:
            decoy = accounts.decoy(event.username, machine.domain, event.algorithm)
            self._go_on(machine.keys(decoy, False, allowed=lambda: self._may_try(None)))
            return None
        found, expired = accounts.keys(jid, event.algorithm), accounts.has_expired(jid)
        if is_later(found) or is_later(expired):
            return self._keys_later(event, found, expired)
        self._go_on(self._keys_found(event, found, expired))
        return None

    async def _keys_later(
        self,
        event: KeysNeeded,
        found: ScramKeys | Awaitable[ScramKeys | None] | None,
        expired: bool | Awaitable[bool],
    ) -> list[Event]:
        keys = await found if is_later(found) else found
        old = await expired if is_later(expired) else expired
        return self._keys_found(event, keys, old)

    def _keys_found(self, event: KeysNeeded, keys: ScramKeys | None, expired: bool) -> list[Event]:
        machine, accounts = self._machine, self._server.accounts
        if machine is None or event.jid is None:
            return []
        # made for those who exist, too: it takes time
        decoy = accounts.decoy(event.username, event.jid.domain, event.algorithm)
        disabled = accounts.is_disabled(event.jid)
        jid = event.jid
        return machine.keys(
            keys or decoy, keys is not None, disabled=disabled, expired=expired, allowed=lambda: self._may_try(jid)
        )

    def _may_try(self, jid: JID | None) -> bool:
        """Whether there were not too many failed logins yet, from here or to this account.

        To be asked when a guess comes and again when it is judged: many may have begun at the same time.
        """
        return self._server.throttle.allowed(self._network, jid or "")

    async def _password(self, event: PasswordGiven) -> list[Event]:
        machine = self._machine
        if machine is None:
            return []
        jid = event.jid
        if not self._may_try(jid):
            return machine.auth_refused(FailureCondition.TEMPORARY_AUTH_FAILURE, THROTTLED)
        accounts = self._server.accounts
        ok = await accounts.check_password(jid, event.password)
        expired = jid is not None and accounts.has_expired(jid)
        old = await expired if is_later(expired) else expired
        if not self._may_try(jid):
            return machine.auth_refused(FailureCondition.TEMPORARY_AUTH_FAILURE, THROTTLED)
        return machine.password_checked(ok, disabled=jid is not None and accounts.is_disabled(jid), expired=old)

    def _auth_failed(self, event: AuthFailed) -> None:
        if event.condition == FailureCondition.NOT_AUTHORIZED.value:  # the others are no guesses
            self._server.throttle.failed(self._network, event.jid or "")
        user = str(event.jid) if event.jid is not None else event.username[:128]
        self._tell(logging.INFO, "auth_failed", mechanism=event.mechanism[:32], user=user, reason=event.condition)

    def _authenticated(self, event: Authenticated) -> None:
        self._server.throttle.succeeded(event.jid)
        self._anonymous = event.anonymous
        tls = self._tls
        self._tell(
            logging.INFO,
            "authenticated",
            user=str(event.jid),
            mechanism=event.mechanism,
            tls=None if tls is None else tls.object.version(),
        )
        if event.jid is not None and self._server.accounts.is_disabled(event.jid):  # since it was asked for its proof
            self._fail(StreamError(StreamErrorCondition.NOT_AUTHORIZED, "the account is locked"))

    def _bind(self, event: BindRequested) -> Wait | None:
        machine = self._machine
        assert machine is not None and machine.jid is not None
        kernel = self._server.kernel
        if self._server.accounts.is_disabled(machine.jid.bare):  # since it has authenticated
            self._fail(StreamError(StreamErrorCondition.NOT_AUTHORIZED, "the account is locked"))
            return None
        try:
            full = kernel.choose_resource(machine.jid.bare, event.resource)
        except StanzaError as error:
            self._tell(logging.INFO, "bind_refused", user=str(machine.jid), reason=str(error))
            self._go_on(machine.bind_refused(error))
            return None
        # what the client sent behind its request is handled after the session exists
        rest = machine.bound(full)
        self._answer()
        self._bound(full)
        self._go_on(rest)
        return None

    def _bound(self, full: JID) -> None:
        server = self._server
        self._limit()
        self.session = session = Session(
            full,
            self,
            peer=self.peer,
            secure=self.secure,
            anonymous=self._anonymous,
            created=server.kernel.clock.now(),
        )
        self._tell(logging.INFO, "bound", jid=str(full))
        server.kernel.open_session(session)

    def _closed(self, event: StreamClosed) -> None:
        self._answer()
        self._end_session("closed" if event.orderly else "lost")
        self._cut_later()
        self.finish()

    # ---- outlet of the session --------------------------------------------------------------------------------------

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        """See `Outlet.deliver`."""
        return self.write(data)

    def last_words(self, data: bytes) -> None:
        """See `Outlet.last_words`."""
        self.write(data)


_HANDLERS: Final[dict[type, Callable[[C2SConnection, Any], Wait | None]]] = {
    StreamOpened: C2SConnection._opened,
    StartTls: C2SConnection._starttls,
    KeysNeeded: C2SConnection._keys,
    PasswordGiven: C2SConnection._password,
    AuthFailed: C2SConnection._auth_failed,
    Authenticated: C2SConnection._authenticated,
    BindRequested: C2SConnection._bind,
    Nonza: C2SConnection._nonza,
    Unaddressable: C2SConnection._unaddressable,
    StreamClosed: C2SConnection._closed,
    StreamFailed: C2SConnection._failed,
}
