"""Doing something in an account's name: through the same doors as its clients, so that the same rules hold.

What a component may do, the account must be able to do itself (XEP-0356 §10 rule 4). So its requests and messages take
the way of a session's (blocking, archive, copies for the account's devices), from a session that is in no table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from beamish.core.events import Context
from beamish.core.later import is_later, settled
from beamish.core.services import AccountsService
from beamish.core.sessions import Session
from beamish.xmpp.errors import Condition, StanzaError, StreamError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, Stanza

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from beamish.core.kernel import Kernel
    from beamish.core.sessions import Link
    from beamish.xmpp.xml import Element


class _Answers:
    """Where the answers of a stand-in go: to whoever waits for them. Everything else is not for anybody."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        """See `Outlet.deliver`."""
        if stanza.name == IQ and stanza.type in ("result", "error"):
            self._kernel.iq.handle(Context(stanza))
        return True

    def last_words(self, data: bytes) -> None:
        """See `Outlet.last_words`."""
        self.deliver(data, Stanza.thaw(data))

    def close(self, error: StreamError | None, reason: str) -> None:
        """See `Outlet.close`."""

    def survives(self, link: Link, reason: str) -> bool:
        """See `Outlet.survives`."""
        return False


def stand_in(kernel: Kernel, user: JID) -> Session:
    """A session of an account with its bare address, that nobody can find."""
    session = Session(user, _Answers(kernel), secure=True, created=kernel.clock.now())
    session.guarded = True  # it may have rules; nobody was told of the session who would find out
    return session


async def send_as(kernel: Kernel, user: JID, stanza: Stanza) -> None:
    """Send what `user` is the sender of. What goes wrong is told to nobody: errors go to the account."""
    outcome = kernel.router.from_session(stand_in(kernel, user), stanza)
    if is_later(outcome):
        await cast("Awaitable[Any]", outcome)


async def ask_as(kernel: Kernel, user: JID, kind: str, to: JID, content: bytes | Element, timeout: float) -> Stanza:
    """Send a request in an account's name; its answer, a result or an error. Raises `IqTimeout`."""

    def post(request: Stanza) -> None:
        outcome = kernel.router.from_session(stand_in(kernel, user), request)
        if is_later(outcome):
            kernel.tasks.spawn(settled(cast("Awaitable[Any]", outcome)), "privileged_iq")

    return await kernel.iq.request(kind, to, content, sender=user, timeout=timeout, post=post)


async def check_account(kernel: Kernel, user: JID, missing: Condition = Condition.FORBIDDEN) -> None:
    """Raises `StanzaError` for what is no account (`missing`), or a locked one (`forbidden`)."""
    accounts = kernel.service(AccountsService)
    exists = accounts.exists(user)
    if not (await exists if is_later(exists) else exists):
        raise StanzaError(missing, text="no such account")
    if accounts.is_disabled(user):
        raise StanzaError(Condition.FORBIDDEN, text="the account is locked")
