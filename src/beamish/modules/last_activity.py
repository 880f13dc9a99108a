"""XEP-0012: how long the server has been running, and when a user was last there.

Answers about a user are for those who may see the user's presence; everybody else gets `forbidden`, whether or not there
is such an account. Clients answer for themselves at their full address.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

import structlog

from beamish.core import events
from beamish.core.events import AccountEvent, Context, PresenceChanged
from beamish.core.hooks import Outcome
from beamish.core.later import then
from beamish.core.module import IqAnswer, Module, Scope, Xep, iq, on
from beamish.core.services import AccountsService, PresenceService
from beamish.storage.api import Cursor, Migration, StorageError
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, Stanza
from beamish.xmpp.xml import escape_text

log = structlog.get_logger(__name__)

NS: Final = "jabber:iq:last"
QUERY: Final = f"{{{NS}}}query"
_IN_BODY: Final = NS.encode()
STATUS_LENGTH: Final = 1024
"""Characters kept of the last status text."""


class LastActivityModule(Module):
    """Remembers when accounts became unavailable, and with what words."""

    name = "last_activity"
    xeps = (Xep(12, "2.0"),)
    features = (NS,)
    account_features = (NS,)
    requires = (PresenceService, AccountsService)
    migrations = (
        Migration(
            1,
            (
                "CREATE TABLE last_activity (owner TEXT NOT NULL PRIMARY KEY, seen {timestamp} NOT NULL,"
                " status TEXT NOT NULL)",
            ),
        ),
    )

    async def start(self) -> None:
        """Look up who may know of an account."""
        self._presence = self.kernel.service(PresenceService)
        self._accounts = self.kernel.service(AccountsService)

    @on(events.presence_changed)
    def _presence_changed(self, event: PresenceChanged) -> None:
        user = event.session.bare
        if event.stanza.type != "unavailable" or event.session.anonymous or self.kernel.sessions.of(user).available:
            return
        stanza = event.stanza
        status = (stanza.text("{jabber:client}status") or "") if stanza.body != b"/>" else ""
        try:
            self.db.append(
                "last_activity.seen",
                "INSERT INTO last_activity (owner, seen, status) VALUES (?, ?, ?)"
                " ON CONFLICT (owner) DO UPDATE SET seen = excluded.seen, status = excluded.status",
                (str(user), self.kernel.clock.now(), status[:STATUS_LENGTH]),
                lazy=True,
            )
        except StorageError as error:  # not worth refusing a goodbye for
            log.warning("last_activity_lost", user=str(user), reason=type(error).__name__)

    @on(events.account_removed)
    async def _account_removed(self, event: AccountEvent) -> None:
        def delete(cursor: Cursor) -> None:
            cursor.run("DELETE FROM last_activity WHERE owner = ?", str(event.user))

        await self.db.write("last_activity.delete", delete)

    @on(events.incoming_iq, at=4, only=(IQ,))  # before blocking: who is blocked gets the same answer as from nobody
    def _to_resource(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """Nobody asks a client who may not know that it is there: `forbidden` (§4), whether or not it is."""
        stanza = ctx.stanza
        if stanza.type != "get" or _IN_BODY not in stanza.body:
            return None
        to, sender, payload = stanza.to, stanza.sender, stanza.payload
        if to is None or sender is None or not to.resource or sender.bare == to.bare or sender == to.domain:
            return None
        if payload is None or payload.tag != QUERY:
            return None
        return then(self._presence.may_see(to.bare, sender), _allow)

    @iq(get=f"{{{NS}}}query", scope=Scope.SERVER)
    def _of_server(self, ctx: Context) -> Stanza:
        """Seconds since the start (§5)."""
        return _answer(ctx.stanza, self.kernel.clock.now() - self.kernel.started)

    @iq(get=f"{{{NS}}}query", scope=Scope.ACCOUNT | Scope.NO_ACCOUNT)
    def _of_account(self, ctx: Context) -> IqAnswer | Awaitable[IqAnswer]:
        """Seconds since the user left, 0 while available (§3)."""
        stanza = ctx.stanza
        sender = stanza.sender
        assert sender is not None
        user = sender.bare if stanza.to is None else stanza.to

        def answer(allowed: bool) -> IqAnswer | Awaitable[IqAnswer]:
            if not allowed:
                raise StanzaError(Condition.FORBIDDEN)
            if self.kernel.sessions.of(user).available:
                return _answer(stanza, 0)
            return self._from_memory(stanza, user)

        if sender.bare == user:
            return answer(True)
        return then(self._presence.may_see(user, sender), answer)

    async def _from_memory(self, stanza: Stanza, user: JID) -> Stanza:
        # through the queue of writes, behind a goodbye that is not committed yet
        row = await self.db.write(
            "last_activity.look", lambda c: c.row("SELECT seen, status FROM last_activity WHERE owner = ?", str(user))
        )
        if row is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="never seen")
        return _answer(stanza, self.kernel.clock.now() - row[0], row[1])


def _allow(allowed: bool) -> Outcome:
    if not allowed:
        raise StanzaError(Condition.FORBIDDEN)
    return None


def _answer(stanza: Stanza, seconds: float, status: str = "") -> Stanza:
    head = f"<query xmlns='{NS}' seconds='{max(0, int(seconds))}'"
    return stanza.reply((f"{head}>{escape_text(status)}</query>" if status else f"{head}/>").encode())
