"""XEP-0321: services that manage their own contacts in users' rosters, each user permitting.

Only services that the configuration names (`remote_roster` of a component) are dealt with; `offer` brings them here. A user
permits by answering a question of the server's, or, where the administrator has decided so, by letting the service see
their presence; and takes it back with the subscription or by saying so.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from beamish.core import events
from beamish.core.events import AccountEvent, Context, SubscriptionChanged
from beamish.core.hooks import STOP, Outcome
from beamish.core.later import is_later, then
from beamish.core.module import IqAnswer, Module, Scope, Xep, iq, on
from beamish.core.services import RemoteRosterService, Roster, RosterService
from beamish.storage.api import Migration
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.forms import Field, Form, Submission, X, boolean
from beamish.xmpp.stanza import IQ, MESSAGE, Stanza
from beamish.xmpp.xml import escape_text, make, to_bytes, xml_safe

log = structlog.get_logger(__name__)

MANAGEMENT: Final = "urn:xmpp:tmp:roster-management:0"
QUERY: Final = f"{{{MANAGEMENT}}}query"
ITEM: Final = f"{{{MANAGEMENT}}}item"
_SPOKEN: Final = re.compile(r"\s*(yes|no)\s+([0-9]{7})\s*", re.IGNORECASE)
_REASON: Final = 500
"""Characters of a service's reason that are shown and kept."""
_AGAIN: Final = 3600.0
"""Seconds before a user is asked the same again."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a service may do, if the user agrees."""

    domains: frozenset[str]
    ask: bool


@dataclass(frozen=True, slots=True)
class Question:
    """A user was asked."""

    user: JID
    entity: JID
    reason: str
    at: float


class RemoteRosterModule(Module):
    """Permissions of services to manage their contacts in rosters."""

    name = "remote_roster"
    xeps = (Xep(321, "0.1.1", note="for components that the configuration names"),)
    requires = (RosterService,)
    provides = (RemoteRosterService,)
    migrations = (
        Migration(
            1,
            (
                "CREATE TABLE remote_roster (owner TEXT NOT NULL, entity TEXT NOT NULL, allowed INTEGER NOT NULL, "
                "reason TEXT NOT NULL, PRIMARY KEY (owner, entity))",
            ),
        ),
    )
    questions = 10_000
    """Questions that may wait for their answers; the oldest are forgotten, and asked again when the service does."""

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._rosters = self.kernel.service(RosterService)
        self._offers: dict[JID, Offer] = {}
        self._said: dict[tuple[str, str], tuple[bool, str]] = {}
        self._asked: OrderedDict[str, Question] = OrderedDict()

    async def start(self) -> None:
        """Learn what users have said."""
        for owner, entity, allowed, reason in await self.db.fetch(
            "SELECT owner, entity, allowed, reason FROM remote_roster"
        ):
            self._said[owner, entity] = (bool(allowed), reason)

    # ---- who may ----------------------------------------------------------------------------------------------------

    def offer(self, entity: JID, domains: Sequence[str], *, ask: bool) -> None:
        """See `RemoteRosterService.offer`."""
        self._offers[entity] = Offer(frozenset(domains), ask)

    def withdraw(self, entity: JID) -> None:
        """See `RemoteRosterService.withdraw`."""
        self._offers.pop(entity, None)

    def permitted(self, user: JID, entity: JID) -> bool | Awaitable[bool]:
        """See `RemoteRosterService.permitted`."""
        offer = self._offers.get(entity)
        if offer is None or user.domain not in offer.domains:
            return False
        said = self._said.get((user, entity))
        if not (said[0] if said is not None else not offer.ask):
            return False
        return then(self._rosters.roster(user), lambda roster: _subscribed(roster, entity))

    async def _sees(self, user: JID, entity: JID) -> bool:
        """Whether the service has a subscription to the user's presence, without which it gets nothing (§4.1)."""
        roster = self._rosters.roster(user)
        return _subscribed(await roster if is_later(roster) else roster, entity)

    # ---- the service asks (§4.1) ------------------------------------------------------------------------------------

    async def request(self, stanza: Stanza) -> Stanza:
        """See `RemoteRosterService.request`."""
        user, entity, query = stanza.to, stanza.sender, stanza.payload
        assert user is not None and entity is not None and query is not None
        if stanza.type != "set" or query.get("type") != "request":
            raise StanzaError(Condition.BAD_REQUEST, text="a service can only ask for the permission")
        if not await self._sees(user, entity):
            raise StanzaError(
                Condition.FORBIDDEN, Kind.MODIFY, "a presence subscription is needed to ask for the permission"
            )
        permitted = self.permitted(user, entity)
        if not (await permitted if is_later(permitted) else permitted):
            self._ask(user, entity, xml_safe(query.get("reason", ""))[:_REASON])
        return stanza.reply()

    def _ask(self, user: JID, entity: JID, reason: str) -> None:
        now = self.kernel.clock.now()
        for challenge, question in self._asked.items():
            if question.user == user and question.entity == entity:
                if now - question.at < _AGAIN:
                    return
                del self._asked[challenge]
                break
        challenge = str(secrets.randbelow(9_000_000) + 1_000_000)
        self._asked[challenge] = Question(user, entity, reason, now)
        if len(self._asked) > self.questions:
            self._asked.popitem(last=False)
        why = f" It says why: {reason}" if reason else ""
        text = f"{entity} wants to manage its contacts in your contact list.{why}"
        form = Form.of(
            "form",
            MANAGEMENT,
            (
                Field("challenge", "hidden", (challenge,)),
                boolean("answer", True, f"Allow {entity} to manage its contacts in your list?"),
            ),
            title="Who may manage your contact list",
            instructions=text,
        )
        spoken = f'{text} Do you allow it? Send "yes {challenge}" or "no {challenge}" back.'
        content = f"<body>{escape_text(spoken)}</body>".encode() + to_bytes(form.to_xml())
        server = JID.of("", user.domain)
        self.kernel.router.post(Stanza.build(MESSAGE, "normal", id=challenge, sender=server, to=user, content=content))

    # ---- the user answers -------------------------------------------------------------------------------------------

    @on(events.server_message)
    def _message(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """An answer to a question of ours, by form or in words."""
        stanza = ctx.stanza
        if not self._asked or stanza.sender is None or stanza.type == "error" or ctx.origin is None:
            return None
        challenge, answer = _read(stanza)
        question = self._asked.get(challenge)
        if question is None or answer is None or question.user != stanza.sender.bare:
            return None
        del self._asked[challenge]
        return self._answered(question, answer)

    async def _answered(self, question: Question, answer: bool) -> Outcome:
        await self._keep(question.user, question.entity, answer, question.reason)
        self._inform(question.user, question.entity, allowed=answer)
        return STOP

    def _inform(self, user: JID, entity: JID, *, allowed: bool) -> None:
        """Tell the service what the user said (§4.1.1)."""
        content = make(QUERY, {"type": "allowed" if allowed else "rejected"})
        id_ = secrets.token_hex(5)
        self.kernel.router.post(Stanza.build(IQ, "set", id=id_, sender=user, to=entity, content=content))

    async def _keep(self, user: JID, entity: JID, allowed: bool, reason: str) -> None:
        put = (
            "INSERT INTO remote_roster (owner, entity, allowed, reason) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (owner, entity) DO UPDATE SET allowed = excluded.allowed, reason = excluded.reason"
        )
        await self.db.write("remote_roster.keep", lambda c: c.run(put, str(user), str(entity), int(allowed), reason))
        self._said[user, entity] = (allowed, reason)
        log.info("remote_roster_permission", user=str(user), entity=str(entity), allowed=allowed)

    # ---- the user asks, or takes it back (§4.5) -----------------------------------------------------------------------

    @iq(get=QUERY, set=QUERY, scope=Scope.OWN)
    async def _own(self, ctx: Context) -> IqAnswer:
        if ctx.origin is None or ctx.origin.anonymous:
            raise StanzaError(Condition.FORBIDDEN)
        if ctx.stanza.type == "set":
            raise StanzaError(Condition.BAD_REQUEST, text="say so to the service that it is about")
        return await self._list(ctx.stanza)

    async def settle(self, stanza: Stanza) -> Stanza:
        """See `RemoteRosterService.settle`."""
        entity, sender, query = stanza.to, stanza.sender, stanza.payload
        assert entity is not None and sender is not None and query is not None
        if stanza.type == "get":
            return await self._list(stanza)
        if query.get("type") != "reject":
            raise StanzaError(Condition.BAD_REQUEST, text="a permission can only be taken away here")
        user = sender.bare
        permitted = self.permitted(user, entity.bare)
        if not (await permitted if is_later(permitted) else permitted):
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="this service has no permission")
        await self._keep(user, entity.bare, False, "")
        self._inform(user, entity.bare, allowed=False)
        return stanza.reply()

    async def _list(self, stanza: Stanza) -> Stanza:
        assert stanza.sender is not None
        user = stanza.sender.bare
        items = []
        for entity in sorted(self._offers):
            permitted = self.permitted(user, entity)
            if await permitted if is_later(permitted) else permitted:
                _, reason = self._said.get((user, entity), (True, ""))
                items.append(make(ITEM, {"jid": str(entity), "reason": reason or None}))
        return stanza.reply(make(QUERY, None, *items))

    # ---- what ends it -----------------------------------------------------------------------------------------------

    @on(events.subscription_changed)
    async def _subscription_changed(self, event: SubscriptionChanged) -> None:
        """Without the subscription there is no permission; with a new one it has to be asked for anew (§4.1.3)."""
        if event.after in ("from", "both") or event.before not in ("from", "both"):
            return
        if self._said.pop((event.user, event.contact), None) is not None:
            await self._delete("owner = ? AND entity = ?", str(event.user), str(event.contact))

    @on(events.account_removed)
    async def _account_removed(self, event: AccountEvent) -> None:
        gone = [key for key in self._said if key[0] == event.user]
        for key in gone:
            del self._said[key]
        if gone:
            await self._delete("owner = ?", str(event.user))

    async def _delete(self, where: str, *values: str) -> None:
        await self.db.write(
            "remote_roster.delete", lambda c: c.run(f"DELETE FROM remote_roster WHERE {where}", *values)
        )


def _subscribed(roster: Roster, entity: JID) -> bool:
    item = roster.get(entity)
    return item is not None and item.from_


def _read(stanza: Stanza) -> tuple[str, bool | None]:
    """The challenge and the answer that a message holds; "" and None if it is no answer."""
    x = stanza.child(X)
    try:
        if x is not None:
            form = Submission.from_xml(x, MANAGEMENT)
            return form.text("challenge") or "", form.boolean("answer") if not form.cancelled else None
    except StanzaError:
        return "", None
    found = _SPOKEN.fullmatch(stanza.text("{jabber:client}body") or "")
    return (found[2], found[1].lower() == "yes") if found is not None else ("", None)
