"""Who is told that a client may not see soon what it was sent, and that it is there again (hooks `unreached`, `reached`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog

from beamish.core import events
from beamish.core.events import SessionEvent, Unreached
from beamish.core.hooks import Hooks
from beamish.xmpp.stanza import MESSAGE, Stanza

if TYPE_CHECKING:
    from beamish.modules.sm.outlet import Managed, Sent

log = structlog.get_logger(__name__)


class Reports:
    """Tells of each message once. As long as nobody listens, it costs a truth test."""

    def __init__(self, hooks: Hooks) -> None:
        self._unreached = hooks[events.unreached]
        self._reached = hooks[events.reached]

    def missed(self, managed: Managed, *, lost: bool = False, restored: bool = False) -> None:
        """The client has no connection, or is late to confirm: tell of what it was sent since the last report.

        `lost`: the connection, just now; `restored` is for sessions of before a restart of the server.
        """
        if not self._unreached.rows:
            return
        queue, reported = managed.queue, managed.reported
        new = list(queue) if reported is None else queue.since(reported)
        managed.reported = queue.sent
        self._unreached.run(Unreached(managed.session, _messages(managed, new), lost, restored))

    def reached(self, managed: Managed) -> None:
        """A client of which that was told is there."""
        managed.reported = None
        if self._reached.rows:
            self._reached.run(SessionEvent(managed.session))


def _messages(managed: Managed, sent: list[Sent]) -> Iterator[Stanza]:
    """The messages among what a session was sent; what comes from the store is only bytes."""
    for one in sent:
        if one.stanza is not None:
            if one.stanza.name == MESSAGE:
                yield one.stanza
        elif one.data.startswith(b"<message"):
            try:
                yield Stanza.parse(one.data)
            except ValueError as exc:
                log.error("unconfirmed_stanza_damaged", jid=str(managed.session.jid), error=str(exc))
