"""XEP-0356: what a privileged component may do in the name of accounts: rosters, messages, and learning their presence.

Not done: IQs on behalf of users, roster pushes to the component (announced as off), presence of the users' contacts.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar, cast

import structlog

from beamish.core import events
from beamish.core.events import PresenceChanged
from beamish.core.hooks import Row
from beamish.core.kernel import Kernel, new_id
from beamish.core.later import is_later
from beamish.core.services import AccountsService, RosterItem, RosterService
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import IQ, MESSAGE, AddressMalformed, SenderMalformed, Stanza, take
from beamish.xmpp.xml import Element, escape_attr, escape_text

if TYPE_CHECKING:
    from beamish.net.component import ComponentLink

log = structlog.get_logger(__name__)

NS: Final = "urn:xmpp:privilege:2"
FORWARD: Final = "urn:xmpp:forward:0"
_QUERY: Final = f"{{{ns.ROSTER}}}query"
_ITEM: Final = f"{{{ns.ROSTER}}}item"
_GROUP: Final = f"{{{ns.ROSTER}}}group"
_MAX_GROUPS: Final = 32

T = TypeVar("T")


class PrivilegeOptions(Protocol):
    """The privileges of one component, as `[components."…"]` grants them."""

    @property
    def roster(self) -> Literal["none", "get", "set", "both"]: ...  # noqa: D102
    @property
    def message(self) -> Literal["none", "outgoing"]: ...  # noqa: D102
    @property
    def presence(self) -> Literal["none", "managed_entity"]: ...  # noqa: D102


class Privileges:
    """The privileges of one connected component."""

    def __init__(self, kernel: Kernel, link: ComponentLink, domain: str, options: PrivilegeOptions) -> None:
        self._kernel = kernel
        self._link = link
        self._jid = JID.of("", domain)
        self._options = options
        self._owner = f"privilege:{domain}:{new_id()}"
        if options.presence == "managed_entity":
            kernel.hooks[events.presence_changed].add(Row(50, self._owner, self._presence))

    @classmethod
    def of(cls, kernel: Kernel, link: ComponentLink, domain: str, options: PrivilegeOptions) -> Privileges | None:
        """The privileges of a component that has connected; None if it has none."""
        if (options.roster, options.message, options.presence) == ("none", "none", "none"):
            return None
        return cls(kernel, link, domain, options)

    def close(self) -> None:
        """The component is gone."""
        self._kernel.hooks.remove(self._owner)

    def announce(self) -> None:
        """Tell the component what it may do (XEP-0356 §4.2), then who is online if it may know."""
        options = self._options
        perms = "".join(
            f"<perm access='{access}' type='{kind}'{extra}/>"
            for access, kind, extra in (
                ("roster", options.roster, " push='false'"),
                ("message", options.message, ""),
                ("presence", options.presence, ""),
            )
            if kind != "none"
        )
        for domain in self._kernel.domains:
            content = f"<privilege xmlns='{NS}'>{perms}</privilege>".encode()
            server = JID.of("", domain)
            self._link.send_stanza(Stanza.build(MESSAGE, id=new_id(), sender=server, to=self._jid, content=content))
        if options.presence == "managed_entity":
            for session in self._kernel.sessions:
                if session.available and session.presence is not None:
                    self._link.send_stanza(session.presence.replace(sender=session.jid, to=self._jid))

    def _presence(self, event: PresenceChanged) -> None:
        # XEP-0356 §7.1: only becoming available and unavailable
        if (event.initial or event.stanza.type == "unavailable") and self._link.usable:
            self._link.send_stanza(event.stanza.replace(sender=event.session.jid, to=self._jid))

    def take(self, stanza: Stanza) -> Awaitable[None] | bool | None:
        """A stanza of the component: None if it is an ordinary one, otherwise it was (or will be) dealt with here."""
        to = stanza.to
        if to is None or stanza.sender is None or to.resource or not self._kernel.is_local_domain(to.domain):
            return None
        if stanza.name == IQ and stanza.type in ("get", "set") and to.local and self._options.roster != "none":
            payload = stanza.payload
            if payload is not None and payload.tag == _QUERY:
                return self._answer(stanza, payload)
        if stanza.name == MESSAGE and self._options.message == "outgoing":
            privilege = stanza.child(f"{{{NS}}}privilege")
            if privilege is not None:
                try:
                    self._forward(privilege)
                except StanzaError as error:
                    self._refuse(stanza, error)
                return True
        return None

    def _refuse(self, stanza: Stanza, error: StanzaError) -> None:
        reply = stanza.error(error)
        if reply is not None and self._link.usable:
            self._link.send_stanza(reply)

    # ---- messages (§5) ----------------------------------------------------------------------------------------------

    def _forward(self, privilege: Element) -> None:
        inner = privilege.find(f"{{{FORWARD}}}forwarded/{{{ns.CLIENT}}}message")
        if inner is None:
            raise StanzaError(Condition.BAD_REQUEST, text="no message in it")
        try:
            message = take(inner).detached()
        except (AddressMalformed, SenderMalformed) as exc:
            raise StanzaError(Condition.JID_MALFORMED, text=str(exc)) from exc
        sender = message.sender
        if sender is None or sender.resource or not self._kernel.is_local_domain(sender.domain):
            raise StanzaError(Condition.FORBIDDEN, text="'from' must be a bare address of this server")
        if message.to is None:
            raise StanzaError(Condition.BAD_REQUEST, text="no 'to'")
        self._kernel.router.post(message)

    # ---- rosters (§4) -----------------------------------------------------------------------------------------------

    async def _answer(self, stanza: Stanza, query: Element) -> None:
        try:
            reply = await self._roster(stanza, query)
        except StanzaError as error:
            self._refuse(stanza, error)
        else:
            if self._link.usable:
                self._link.send_stanza(reply)

    async def _roster(self, stanza: Stanza, query: Element) -> Stanza:
        user = stanza.to
        assert user is not None
        if self._options.roster not in (stanza.type, "both"):
            raise StanzaError(Condition.FORBIDDEN)
        if not await _now(self._kernel.service(AccountsService).exists(user)):
            raise StanzaError(Condition.ITEM_NOT_FOUND)
        service = self._kernel.service(RosterService)
        roster = await _now(service.roster(user))
        if stanza.type == "get":
            items = "".join(_item_xml(item) for item in roster.items() if item.listed)
            return stanza.reply(f"<query xmlns='{ns.ROSTER}'>{items}</query>".encode())
        asked = query.findall(_ITEM)
        if len(asked) != 1:
            raise StanzaError(Condition.BAD_REQUEST, text="a roster set has exactly one item")
        el = asked[0]
        try:
            contact = JID.parse(el.get("jid", "")).bare
        except JidMalformed as exc:
            raise StanzaError(Condition.JID_MALFORMED, text=str(exc)) from exc
        if el.get("subscription") == "remove":
            await service.remove(user, contact)
            return stanza.reply()
        groups = tuple(dict.fromkeys(node.text or "" for node in el.findall(_GROUP)))
        limits = self._kernel.limits
        name = el.get("name", "")
        if len(groups) > _MAX_GROUPS or len(name.encode()) > limits.roster_name_bytes:
            raise StanzaError(Condition.NOT_ACCEPTABLE)
        if any(not group or len(group.encode()) > limits.roster_group_bytes for group in groups):
            raise StanzaError(Condition.NOT_ACCEPTABLE)
        item = roster.get(contact) or RosterItem(contact)
        await service.change(user, item.with_(name=name, groups=groups, listed=True))
        return stanza.reply()


def _item_xml(item: RosterItem) -> str:
    attributes = f" jid='{escape_attr(item.jid)}' subscription='{item.subscription}'"
    if item.name:
        attributes += f" name='{escape_attr(item.name)}'"
    if item.pending_out:
        attributes += " ask='subscribe'"
    groups = "".join(f"<group>{escape_text(group)}</group>" for group in item.groups)
    return f"<item{attributes}>{groups}</item>"


async def _now(value: T | Awaitable[T]) -> T:
    return await cast("Awaitable[T]", value) if is_later(value) else cast("T", value)
