"""IQ requests to the server and to accounts, and answers to requests of the server's own (RFC 6120 §8.2.3).

The only place where an exception of an IQ handler becomes XML.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import structlog

from beamish.core.events import Context
from beamish.core.later import is_later
from beamish.core.module import IqHandler, Scope
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, Stanza
from beamish.xmpp.xml import Element

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

_PENDING_LIMIT = 100_000
"""Requests of the server's own that may wait for their answers at a time."""
_ONE_CHILD = "an IQ of type get or set has exactly one child"
_ANSWERED = "iq.answered"
"""The note of a request that has its answer."""
NOBODY: Final = "iq.nobody"
"""The note of a request (`Context.notes`) that is to be answered as if the account that it is for were none."""


class IqTimeout(Exception):
    """A request of the server's own was not answered in time."""


class IqDispatch:
    """Finds the handler of a request by type and payload, and the waiter of an answer by id and sender."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._handlers: dict[tuple[str, str], list[tuple[Scope, str, IqHandler]]] = {}
        self._at_server: dict[tuple[str, str], tuple[IqHandler, bool, bool]] = {}
        self._at_account: dict[tuple[str, str], tuple[IqHandler, bool, bool]] = {}
        self._waiting: dict[tuple[str, str], asyncio.Future[Stanza]] = {}

    def add(self, type: str, tag: str, scope: Scope, owner: str, handler: IqHandler) -> None:
        """Register a handler. Raises `ValueError` if another one answers the same requests."""
        rows = self._handlers.setdefault((type, tag), [])
        for other, name, _ in rows:
            if other & scope:
                raise ValueError(f"{owner} and {name} both answer {type} of {tag}")
        rows.append((scope, owner, handler))
        self._compile()

    def remove(self, owner: str) -> None:
        """Remove the handlers of one owner."""
        for key, rows in list(self._handlers.items()):
            kept = [row for row in rows if row[1] != owner]
            if kept:
                self._handlers[key] = kept
            else:
                del self._handlers[key]
        self._compile()

    def _compile(self) -> None:
        """Look-up tables for requests: handler, only for one's own account, also where there is no account."""
        self._at_server = {}
        self._at_account = {}
        for key, rows in self._handlers.items():
            for scope, _, handler in rows:
                found = (handler, bool(scope & Scope.OWN), bool(scope & Scope.NO_ACCOUNT))
                if scope & Scope.SERVER:
                    self._at_server[key] = (handler, False, False)
                if scope & (Scope.ACCOUNT | Scope.OWN | Scope.NO_ACCOUNT):
                    self._at_account[key] = found

    # ---- requests to us ---------------------------------------------------------------------------------------------

    def handle(self, ctx: Context, *, account: bool = True) -> Awaitable[None] | None:
        """Answer a request to a domain or an account of ours, or hand an answer to whoever waits for it.

        `account` is False for a bare JID of ours that is no account, or is to look like none: `Scope.NO_ACCOUNT`, `NOBODY`.
        """
        stanza = ctx.stanza
        if stanza.type in ("result", "error"):
            self._answered(stanza)
            return None
        try:
            answer = self._call(ctx, account)
        except StanzaError as error:
            self._refuse(ctx, error)
            return None
        except Exception:
            self._crashed(ctx)
            return None
        if answer is None:
            return None
        if is_later(answer):
            return self._later(ctx, answer)
        self._kernel.router.answer(ctx, answer)
        return None

    def _call(self, ctx: Context, account: bool) -> Stanza | Awaitable[Stanza | None] | None:
        stanza = ctx.stanza
        tags = stanza.tags
        if len(tags) != 1:
            raise StanzaError(Condition.BAD_REQUEST, text=_ONE_CHILD)
        to = stanza.to
        at_account = to is None or to.local != ""
        handlers = self._at_account if at_account else self._at_server
        found = handlers.get((stanza.type, tags[0]))
        if found is None:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE)
        handler, own, without_account = found
        if own and to is not None and (stanza.sender is None or stanza.sender.bare != to.bare):
            # RFC 6121 §2.1.5: somebody else's roster and the like, whether or not there is such an account
            raise StanzaError(Condition.FORBIDDEN)
        if not account:
            if not (without_account or own):
                raise StanzaError(Condition.SERVICE_UNAVAILABLE)
            ctx.notes[NOBODY] = True
        return handler(ctx)

    async def _later(self, ctx: Context, answer: Awaitable[Stanza | None]) -> None:
        try:
            reply = await answer
        except StanzaError as error:
            self._refuse(ctx, error)
        except Exception:
            self._crashed(ctx)
        else:
            if reply is not None:
                self._kernel.router.answer(ctx, reply)

    def answer_early(self, ctx: Context, reply: Stanza) -> None:
        """Answer a request of which something remains to be done; should that fail, it is logged and not told.

        The handler returns None then.
        """
        ctx.notes[_ANSWERED] = True
        self._kernel.router.answer(ctx, reply)

    def _refuse(self, ctx: Context, error: StanzaError) -> None:
        if ctx.note(_ANSWERED):
            log.warning("iq_failed_after_answer", sender=ctx.stanza.sender, error=error.condition.value)
            return
        reply = ctx.stanza.error(error)
        if reply is not None:
            self._kernel.router.answer(ctx, reply)

    def _crashed(self, ctx: Context) -> None:
        payload = ctx.stanza.payload
        log.exception("iq_handler_failed", payload=None if payload is None else payload.tag, sender=ctx.stanza.sender)
        self._refuse(ctx, StanzaError(Condition.INTERNAL_SERVER_ERROR))

    # ---- requests of ours -------------------------------------------------------------------------------------------

    async def request(
        self,
        type: str,
        to: JID,
        content: bytes | Element,
        *,
        sender: JID | None = None,
        timeout: float = 60.0,
        post: Callable[[Stanza], object] | None = None,
    ) -> Stanza:
        """Send a request and wait for its answer: a result or an error stanza.

        `sender` defaults to the domain of `to`, if that is ours, else our first domain. `post` sends the request, by
        default the router does. Raises `IqTimeout`.
        """
        if sender is None:
            local = self._kernel.is_local_domain(to.domain)
            sender = JID.of("", to.domain if local else self._kernel.domains[0])
        id_ = secrets.token_urlsafe(9)
        key = (id_, str(to))
        if len(self._waiting) >= _PENDING_LIMIT:
            raise IqTimeout("too many requests are waiting")
        waiter: asyncio.Future[Stanza] = asyncio.get_running_loop().create_future()
        self._waiting[key] = waiter
        timer = self._kernel.clock.call_later(timeout, lambda: _give_up(waiter))
        try:
            (post or self._kernel.router.post)(Stanza.build(IQ, type, id=id_, sender=sender, to=to, content=content))
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled() and not _being_cancelled():
                raise IqTimeout(f"{to} did not answer within {timeout} s") from None
            raise
        finally:
            timer.cancel()
            self._waiting.pop(key, None)

    def _answered(self, stanza: Stanza) -> None:
        waiter = self._waiting.get((stanza.id, str(stanza.sender)))
        if waiter is not None and not waiter.done():
            waiter.set_result(stanza)


def _give_up(waiter: asyncio.Future[Stanza]) -> None:
    if not waiter.done():
        waiter.cancel()


def _being_cancelled() -> bool:
    task: asyncio.Task[Any] | None = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def check_request(stanza: Stanza) -> Element:
    """The payload of a get or set. Raises `StanzaError(bad-request)` for what RFC 6120 §8.2.3 forbids.

    The id is checked where the stanza enters the server.
    """
    el = stanza.el
    if len(el) != 1:
        raise StanzaError(Condition.BAD_REQUEST, text=_ONE_CHILD)
    return el[0]
