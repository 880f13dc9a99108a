"""XEP-0356 §7: a component learns when accounts come and go, and with `roster` what their contacts show."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core import events
from beamish.core.events import Context, PresenceChanged
from beamish.core.hooks import Row
from beamish.core.kernel import new_id
from beamish.core.later import is_later
from beamish.core.services import AccountsService, Roster, RosterService
from beamish.core.tasks import TaskGroup
from beamish.net.privilege.options import Link, PrivilegeOptions
from beamish.net.privilege.roster import Rosters
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

_DELAY_NS: Final = ns.DELAY.encode()
_DELAY: Final = re.compile(rb"<delay xmlns=[\"']%b[\"'][^>]*(?:/>|>[^<]*</delay>)" % _DELAY_NS)
_SLICE: Final = 100
"""Contacts probed before the loop gets its turn, and `_PAUSE` seconds pass."""
_PAUSE: Final = 0.1


class Presences:
    """What one component hears of presence. `told` addresses are remembered, so that nothing is told twice (§8 rule 2)."""

    def __init__(
        self,
        kernel: Kernel,
        link: Link,
        component: JID,
        options: PrivilegeOptions,
        rosters: Rosters,
        tasks: TaskGroup,
        *,
        told: int = 50_000,
    ) -> None:
        self._kernel = kernel
        self._link = link
        self._component = component
        self._contacts = options.presence == "roster"
        self._rosters = rosters
        self._limit = told
        self._told: OrderedDict[bytes, bytes] = OrderedDict()
        """Digests of addresses, and of what they show: a contact elsewhere says how long both are, and how many there are."""
        self._forgot = False
        """Whether some of it had to be forgotten, so that ends are told of addresses that seem unknown."""
        self._service = kernel.service(RosterService)
        self._tasks = tasks

    def start(self, owner: str) -> None:
        """Listen from now on, and tell what there is already (§8 rule 1)."""
        hooks = self._kernel.hooks
        hooks[events.presence_changed].add(Row(50, owner, self._changed))
        for session in self._kernel.sessions:
            if session.available and session.presence is not None and self._concerns(session.bare, initial=True):
                self._tell(session.presence.replace(sender=session.jid))
        if self._contacts:
            hooks[events.contact_presence].add(Row(50, owner, self._arrived))
            self._tasks.spawn(self._probe(), "probe")

    # ---- accounts ---------------------------------------------------------------------------------------------------

    def _changed(self, event: PresenceChanged) -> None:
        passing = event.initial or event.stanza.type == "unavailable"
        if self._concerns(event.session.bare, initial=passing):
            self._tell(event.stanza.replace(sender=event.session.jid))

    def _concerns(self, user: JID, *, initial: bool) -> bool:
        """Whether the component hears of it: of accounts only when they come and go (§7.1), of contacts everything."""
        roster = self._service.cached(user)
        if roster is not None:
            item = roster.get(self._component)
            if item is not None and item.from_:
                return False  # it is a subscriber, and hears of it as such
        if initial and self._rosters.serves(user):
            return True
        return self._contacts and roster is not None and any(map(self._rosters.serves, roster.subscribers()))

    # ---- contacts (§7.4) --------------------------------------------------------------------------------------------

    def _arrived(self, ctx: Context) -> Awaitable[None] | None:
        """Presence of somebody reached an account, whether or not it is there."""
        stanza = ctx.stanza
        if stanza.sender is None or stanza.to is None or stanza.type not in ("", "unavailable"):
            return None
        if self._rosters.own(stanza.sender) or not self._rosters.serves(stanza.to.bare):
            return None
        roster = self._service.roster(stanza.to.bare)
        if is_later(roster):
            return self._arrived_later(stanza.detached(), roster)
        self._from_contact(stanza, roster)
        return None

    async def _arrived_later(self, stanza: Stanza, roster: Awaitable[Roster]) -> None:
        self._from_contact(stanza, await roster)

    def _from_contact(self, stanza: Stanza, roster: Roster) -> None:
        assert stanza.sender is not None
        item = roster.get(stanza.sender.bare)
        if item is not None and item.to:
            self._tell(stanza)

    async def _probe(self) -> None:
        """Ask for the presence of everybody elsewhere whom an account has subscribed to; the answers come as any."""
        asked: set[JID] = set()
        for domain in self._rosters.domains:
            for user in await self._kernel.service(AccountsService).list(domain):
                found = self._service.roster(user)
                roster = await found if is_later(found) else found
                for contact in roster.subscriptions():
                    if contact in asked or self._rosters.own(contact) or self._kernel.is_local_domain(contact.domain):
                        continue
                    asked.add(contact)
                    self._kernel.router.post(Stanza.build(PRESENCE, "probe", id=new_id(), sender=user, to=contact))
                    if len(asked) % _SLICE == 0:
                        await asyncio.sleep(_PAUSE)

    # ---- to the component -------------------------------------------------------------------------------------------

    def _tell(self, stanza: Stanza) -> None:
        sender = stanza.sender
        assert sender is not None
        if not self._link.usable:
            return
        address = _digest(sender.wire)
        if stanza.type == "unavailable":
            if self._told.pop(address, None) is None and not self._forgot:
                return  # of whom nothing was told, or of whose end somebody else's copy has told already
        else:
            shown = _shown(stanza)
            if self._told.get(address) == shown:
                return
            self._told[address] = shown
            self._told.move_to_end(address)
            if len(self._told) > self._limit:
                self._told.popitem(last=False)
                self._forgot = True
        self._link.send_stanza(stanza.replace(to=self._component))


def _shown(stanza: Stanza) -> bytes:
    """The digest of what a presence says, without the age that the answer to a probe has."""
    if _DELAY_NS not in stanza.body:
        return _digest(stanza.body)
    shown = _DELAY.sub(b"", stanza.body)
    return _digest(b"/>" if shown == b"></presence>" else shown)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
