"""The privileges of one connected component: announced, checked, carried out (XEP-0356).

Only what the configuration grants is announced or done; everything else is `forbidden`. Privileges belong to the component
itself, not to its users: what comes from an address with a localpart is an ordinary stanza.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core import events
from beamish.core.events import RosterChanged
from beamish.core.hooks import Row
from beamish.core.kernel import new_id
from beamish.core.services import RemoteRosterService
from beamish.core.tasks import TaskGroup
from beamish.net.privilege.iqs import PRIVILEGED_IQ, PrivilegedIqs
from beamish.net.privilege.options import NS, OLD_NS, Link, PrivilegeOptions
from beamish.net.privilege.presences import Presences
from beamish.net.privilege.roster import MANAGEMENT_QUERY, QUERY, Rosters
from beamish.net.privilege.standin import check_account, send_as
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, MESSAGE, AddressMalformed, SenderMalformed, Stanza, take
from beamish.xmpp.xml import Element, escape_attr

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

_FORWARDED: Final = f"{{urn:xmpp:forward:0}}forwarded/{{{ns.CLIENT}}}message"


class Privileges:
    """What one connected component may do beyond being a component, which may be nothing."""

    def __init__(self, kernel: Kernel, link: Link, domain: str, options: PrivilegeOptions) -> None:
        self._kernel = kernel
        self._link = link
        self._jid = JID.of("", domain)
        self._options = options
        self._owner = f"privilege:{domain}:{new_id()}"
        self._tasks = TaskGroup("privileges")
        self._rosters = Rosters(kernel, self._jid, options)
        self._iqs = PrivilegedIqs(kernel, options, self._rosters)
        self._presences = Presences(kernel, link, self._jid, options, self._rosters, self._tasks)

    def start(self) -> None:
        """Tell the component what it may do (§4.2), then what it may know; from now on tell it of changes."""
        granted = self._granted()
        for domain in self._rosters.domains if granted else ():
            for space, perms in ((NS, granted), (OLD_NS, self._granted(old=True))):
                if perms:
                    content = f"<privilege xmlns='{space}'>{perms}</privilege>".encode()
                    server = JID.of("", domain)
                    self._link.send_stanza(
                        Stanza.build(MESSAGE, id=new_id(), sender=server, to=self._jid, content=content)
                    )
        if self._rosters.listens:
            self._kernel.hooks[events.roster_changed].add(Row(50, self._owner, self._roster_changed))
        if self._options.presence != "none":
            self._presences.start(self._owner)

    def _granted(self, *, old: bool = False) -> str:
        """The `<perm/>`s; "" if there are none. Before version 0.4 there were none for IQs, and none for pushes."""
        options = self._options
        perms = ""
        if options.roster != "none":
            push = "" if old else f" push='{'true' if self._rosters.pushes else 'false'}'"
            perms += f"<perm access='roster' type='{options.roster}'{push}/>"
        if options.message != "none":
            perms += f"<perm access='message' type='{options.message}'/>"
        spaces = "".join(
            f"<namespace ns='{escape_attr(space)}' type='{access}'/>"
            for space, access in options.iq.items()
            if access != "none"
        )
        if spaces and not old:
            perms += f"<perm access='iq'>{spaces}</perm>"
        if options.presence != "none":
            perms += f"<perm access='presence' type='{options.presence}'/>"
        return perms

    def close(self) -> None:
        """The component is gone."""
        self._kernel.hooks.remove(self._owner)
        if len(self._tasks):
            self._kernel.tasks.spawn(self._tasks.close(), "privileges")

    def _roster_changed(self, event: RosterChanged) -> None:
        push = self._rosters.push(event)
        if push is not None and self._link.usable:
            self._link.send_stanza(push)

    # ---- what the component sends -----------------------------------------------------------------------------------

    def take(self, stanza: Stanza) -> Awaitable[None] | bool:
        """A stanza of the component: False if it is an ordinary one, otherwise it was (or will be) dealt with here."""
        to = stanza.to
        if to is None or stanza.sender is None:
            return False
        if stanza.name == IQ:
            if stanza.type in ("get", "set") and (payload := stanza.payload) is not None:
                return self._request(stanza, payload, to, itself=not stanza.sender.local)
        elif stanza.name == MESSAGE and stanza.type != "error" and not (to.local or to.resource or stanza.sender.local):
            for space in (NS, OLD_NS):
                privilege = stanza.child(f"{{{space}}}privilege")
                if privilege is not None and self._kernel.is_local_domain(to.domain):
                    return self._answering(stanza, self._forward(to.domain, privilege))
        return False

    def _request(self, stanza: Stanza, payload: Element, to: JID, *, itself: bool) -> Awaitable[None] | bool:
        tag = payload.tag
        if tag == PRIVILEGED_IQ:
            # beside the component's other stanzas: the answer may take its time
            work = self._iqs.carry(stanza, payload, privileged=itself)
            self._tasks.spawn(self._answering(stanza, work), "request")
            return True
        if not itself or not to.local or to.resource or not self._kernel.is_local_domain(to.domain):
            return False
        if tag == QUERY:
            return self._answering(stanza, self._rosters.request(stanza, payload))
        if tag == MANAGEMENT_QUERY and self._options.remote_roster != "none" and self._rosters.serves(to):
            service = self._kernel.service_or_none(RemoteRosterService)
            if service is not None:
                return self._answering(stanza, service.request(stanza))
        return False

    async def _answering(self, stanza: Stanza, work: Awaitable[Stanza | None]) -> None:
        """Carry out what a stanza asks for; the component gets the reply, or the error."""
        try:
            reply = await work
        except StanzaError as error:
            reply = stanza.error(error)
        except Exception:
            log.exception("privileged_request_failed", component=str(self._jid))
            reply = stanza.error(StanzaError(Condition.INTERNAL_SERVER_ERROR))
        if reply is not None and self._link.usable:
            self._link.send_stanza(reply)

    # ---- messages (§5) ----------------------------------------------------------------------------------------------

    async def _forward(self, domain: str, privilege: Element) -> None:
        """Send a message in the name of the server or of an account of the domain. Raises `StanzaError`."""
        if self._options.message != "outgoing" or domain not in self._rosters.domains:
            raise StanzaError(Condition.FORBIDDEN, text="this component may not send messages for others")
        inner = privilege.find(_FORWARDED)
        if inner is None:
            raise StanzaError(Condition.BAD_REQUEST, text="no message in it")
        try:
            message = take(inner).detached()
        except (AddressMalformed, SenderMalformed) as exc:
            raise StanzaError(Condition.JID_MALFORMED, text=str(exc)) from exc
        sender = message.sender
        if sender is None or sender.resource or sender.domain != domain:
            raise StanzaError(Condition.FORBIDDEN, text=f"'from' must be a bare address of {domain}")
        if message.to is None:
            raise StanzaError(Condition.BAD_REQUEST, text="no 'to'")
        if not sender.local:
            self._kernel.router.post(message)
            return
        await check_account(self._kernel, sender)
        await send_as(self._kernel, sender, message)
