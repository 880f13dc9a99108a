"""Rosters for components: XEP-0356 §4 (any item), XEP-0321 (the component's own contacts, of users who subscribe to it).

A request takes the way of the user's own ones and gets the same answers. There is one difference: of contacts at the
component's own domain it may also say the subscription state, as gateways need it and other servers let them
(XEP-0321 §4.4). For all others the state follows from presence subscriptions only.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from beamish.core.events import RosterChanged
from beamish.core.kernel import new_id
from beamish.core.later import is_later
from beamish.core.roster_xml import contact_of, item_bytes, only_item
from beamish.core.services import BlockingService, RemoteRosterService, Roster, RosterItem, RosterService
from beamish.net.privilege.options import PrivilegeOptions, includes
from beamish.net.privilege.standin import ask_as, check_account
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, PRESENCE, Stanza, content_bytes
from beamish.xmpp.xml import Element, escape_attr

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

QUERY: Final = f"{{{ns.ROSTER}}}query"
GROUP: Final = f"{{{ns.ROSTER}}}group"
_QUERY: Final = f"<query xmlns='{ns.ROSTER}'/>".encode()
MANAGEMENT: Final = "urn:xmpp:tmp:roster-management:0"
MANAGEMENT_QUERY: Final = f"{{{MANAGEMENT}}}query"
_STATES: Final = {"none": (False, False), "to": (True, False), "from": (False, True), "both": (True, True)}
_SECONDS: Final = 30.0


class Rosters:
    """One component's access to rosters."""

    def __init__(self, kernel: Kernel, component: JID, options: PrivilegeOptions) -> None:
        self._kernel = kernel
        self._component = component
        self._options = options
        self._service = kernel.service(RosterService)
        self.domains = tuple(domain for domain in kernel.domains if domain in (options.domains or kernel.domains))
        """Those of the accounts that the privileges concern."""

    # ---- who may ----------------------------------------------------------------------------------------------------

    def serves(self, user: JID) -> bool:
        """Whether an account is of a domain that the component has privileges for."""
        return bool(user.local) and not user.resource and user.domain in self.domains

    def own(self, contact: JID) -> bool:
        """Whether a contact is one of the component's users, or the component itself."""
        return contact.domain == self._component.domain

    def permitted(self, user: JID) -> bool | Awaitable[bool]:
        """Whether the component may manage its own contacts in the user's roster (XEP-0321)."""
        if self._options.remote_roster == "none" or not self.serves(user):
            return False
        service = self._kernel.service_or_none(RemoteRosterService)
        return service is not None and service.permitted(user, self._component)

    # ---- requests ---------------------------------------------------------------------------------------------------

    async def request(self, stanza: Stanza, query: Element) -> Stanza:
        """Answer a get or set of an account's roster. Raises `StanzaError`."""
        user = stanza.to
        assert user is not None
        everything = self.serves(user) and includes(self._options.roster, stanza.type)
        if not everything:
            permitted = self.permitted(user)
            if not (await permitted if is_later(permitted) else permitted):
                raise StanzaError(Condition.FORBIDDEN, text="this component may not do that with rosters")
        await check_account(self._kernel, user, Condition.ITEM_NOT_FOUND)
        if stanza.type == "get" and not everything:
            items = b"".join(
                item_bytes(item) for item in (await self._roster(user)).items() if item.listed and self.own(item.jid)
            )
            return stanza.reply(b"<query xmlns='%b'>%b</query>" % (ns.ROSTER.encode(), items))
        if stanza.type == "set":
            item = only_item(query)
            contact = contact_of(item)
            if not everything and not self.own(contact):
                raise StanzaError(Condition.FORBIDDEN, text="this component may only change its own contacts")
            if self.own(contact) and item.get("subscription") in _STATES:
                await self._put(user, contact, item)
                return stanza.reply()
        # without a version: what changed since would come as pushes, of which there may be none
        content = content_bytes(query) if stanza.type == "set" else _QUERY
        answer = await ask_as(self._kernel, user, stanza.type, user, content, _SECONDS)
        return readdressed(answer, stanza)

    async def _roster(self, user: JID) -> Roster:
        roster = self._service.roster(user)
        return await roster if is_later(roster) else roster

    async def _put(self, user: JID, contact: JID, asked: Element) -> None:
        """Store one of the component's own contacts, with its subscription state, and let presence follow."""
        name, groups = self._labels(asked)
        to, from_ = _STATES[asked.get("subscription", "none")]
        roster = await self._roster(user)
        before = roster.get(contact) or RosterItem(contact)
        after = before.with_(
            name=name,
            groups=groups,
            listed=True,
            to=to,
            from_=from_,
            pending_out=before.pending_out and not to,
            pending_in=before.pending_in and not from_,
        )
        await self._service.change(user, after)
        router = self._kernel.router
        sessions = self._kernel.sessions.of(user).available
        if to and not before.to and sessions:
            router.post(Stanza.build(PRESENCE, "probe", id=new_id(), sender=user, to=contact))
        if from_ and not before.from_:
            blocking = self._kernel.service_or_none(BlockingService)
            for session in sessions:
                shows = blocking.shows(session) if blocking is not None else None
                if session.presence is not None and (shows is None or shows(contact)):
                    router.post(session.presence.replace(to=contact))

    def _labels(self, asked: Element) -> tuple[str, tuple[str, ...]]:
        """Name and groups within the limits that hold for clients. Raises `StanzaError(not-acceptable)`."""
        limits = self._kernel.limits
        name = asked.get("name", "")
        groups = tuple(dict.fromkeys("".join(map(str, group.itertext())) for group in asked.iterfind(GROUP)))
        if (
            len(name.encode()) > limits.roster_name_bytes
            or len(groups) > limits.roster_groups_per_item
            or any(not 0 < len(group.encode()) <= limits.roster_group_bytes for group in groups)
        ):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="a name or group that is too long, or too many groups")
        return name, groups

    # ---- pushes -----------------------------------------------------------------------------------------------------

    @property
    def pushes(self) -> bool:
        """Whether the component hears of every change (XEP-0356 §4.4)."""
        return self._options.roster_push and includes(self._options.roster, "get")

    @property
    def listens(self) -> bool:
        """Whether the component hears of any change."""
        return self.pushes or self._options.remote_roster != "none"

    def push(self, event: RosterChanged) -> Stanza | None:
        """What the component is told of a change, if anything. The roster is in memory, as it has just changed."""
        if not self.serves(event.user):
            return None
        if not self.pushes:
            permitted = self.permitted(event.user) if self.own(event.contact) else False
            if permitted is not True:
                return None
        removed = f"<item jid='{escape_attr(event.contact)}' subscription='remove'/>".encode()
        item = item_bytes(event.item) if event.item is not None else removed
        content = b"<query xmlns='%b'>%b</query>" % (ns.ROSTER.encode(), item)
        return Stanza.build(IQ, "set", id=new_id(), sender=event.user, to=self._component, content=content)


def is_settling(stanza: Stanza) -> bool:
    """Whether a user asks a component who may manage their roster, or takes that away (XEP-0321 §4.5)."""
    if stanza.type not in ("get", "set") or stanza.to is None or stanza.to.local:
        return False
    payload = stanza.payload
    return payload is not None and payload.tag == MANAGEMENT_QUERY and payload.get("type", "") in ("", "reject")


def readdressed(answer: Stanza, request: Stanza) -> Stanza:
    """The answer to one request as the answer to another."""
    inner = answer.body[1 : -len(b"</iq>")] if answer.body != b"/>" else None
    return Stanza.build(IQ, answer.type, id=request.id, sender=request.to, to=request.sender, content=inner)
