"""XEP-0033: one message or presence for many addressees.

Our domains are the multicast service. Each addressee gets the stanza as if the sender had sent it to them alone, so
blocking, archives and directed presence hold for every copy, and each counts for the sender's rate. A server elsewhere that
is known to do the same gets one stanza for all of its addressees; what it can do is found out in the background, until then
it gets single copies. Others may have us deliver to our own users, but not relay. Not here: addresses that are no JIDs
(`uri`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import structlog
from pydantic import Field as Option

from beamish.core import events
from beamish.core.events import Context
from beamish.core.hooks import STOP, Outcome
from beamish.core.iq import IqTimeout
from beamish.core.later import is_later
from beamish.core.module import Module, ModuleConfig, Xep, on
from beamish.core.remote_disco import RemoteDisco
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import IQ, MESSAGE, PRESENCE, Stanza
from beamish.xmpp.xml import Element, make, to_bytes

log = structlog.get_logger(__name__)

ADDRESS: Final = "http://jabber.org/protocol/address"
_ADDRESSES: Final = f"{{{ADDRESS}}}addresses"
_TYPES: Final = frozenset(("to", "cc", "bcc", "replyto", "replyroom", "noreply", "ofrom"))
_SENT_TO: Final = frozenset(("to", "cc", "bcc"))
_KNOWN: Final = 1000
"""Domains whose abilities are remembered."""
_DAY: Final = 86_400.0
"""§2.3: no longer than this."""
_PER_STANZA: Final = 5_000
"""Bytes of the copies beyond the first that count as another stanza, which is how the limits of a session have it."""
_ITEMS: Final = 20
"""Services of another domain that are asked."""


class Config(ModuleConfig):
    """Options of extended addressing."""

    addresses: int = Option(
        50, ge=1, le=1000, description="Addressees of one stanza; XEP-0033 §9 asks for more than 20 and less than 100."
    )


@dataclass(frozen=True, slots=True)
class _To:
    """One addressee, and where it stands in the header."""

    jid: JID
    kind: str
    el: Element


class AddressingModule(Module):
    """Takes stanzas apart that are addressed to many."""

    name = "addressing"
    Config = Config
    xeps = (Xep(33, "1.2.1", note="without `uri`"),)
    features = (ADDRESS,)

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._services: OrderedDict[str, tuple[float, JID | None]] = OrderedDict()
        """Multicast services of other domains, None for those without; with the time until which that is believed."""
        self._asking: set[str] = set()
        self._remote = RemoteDisco(self.kernel)

    # ---- ways in ----------------------------------------------------------------------------------------------------

    @on(events.server_message)
    def message(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """A message from elsewhere to one of our domains that names addressees."""
        return self._take(ctx)

    @on(events.server_presence)
    def presence(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """The same for presence from elsewhere."""
        return self._take(ctx)

    # before the archive, which is to keep the copies, and before presence takes it for one to the domain itself
    @on(events.inbound, at=20, only=(MESSAGE, PRESENCE), about=(_ADDRESSES,))
    def outbound(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """A stanza of a client of ours; its own session remembers whom it told of its presence (§7.1)."""
        stanza = ctx.stanza
        to = stanza.to
        if stanza.name == IQ or to is None or to.local or not self.kernel.is_local_domain(to.domain):
            return None
        return self._take(ctx)

    def _take(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        stanza = ctx.stanza
        if ADDRESS.encode() not in stanza.body or stanza.type == "error" or (stanza.to and stanza.to.resource):
            return None
        header = stanza.child(_ADDRESSES)
        if header is None:
            return None
        addressees = self._read(header)
        if not addressees:
            return None
        if ctx.origin is None and not all(self.kernel.is_local_domain(a.jid.domain) for a in addressees):
            # §2.2: nobody at all gets it then
            raise StanzaError(Condition.FORBIDDEN, text="this server does not relay for others")
        copies = len(addressees) - 1
        ctx.charge(max(copies, copies * len(stanza.body) // _PER_STANZA))
        waiting = self._send(ctx, header, addressees)
        return _all(waiting) if waiting or copies else STOP

    def _read(self, header: Element) -> list[_To]:
        """Who is to get the stanza and has not got it yet. Raises `StanzaError` for a header that is wrong (§4)."""
        found: dict[JID, _To] = {}
        count = 0
        for el in header.iterfind(f"{{{ADDRESS}}}address"):
            kind = el.get("type", "")
            if kind not in _TYPES:
                raise StanzaError(Condition.BAD_REQUEST, text="there is no such type of address")
            if el.get("uri") is not None:
                raise StanzaError(Condition.JID_MALFORMED, text="addresses other than JIDs are not understood")
            jid = el.get("jid")
            if kind in _SENT_TO and jid is None:
                raise StanzaError(Condition.BAD_REQUEST, text="an addressee has no address")
            if jid is None:
                continue
            try:
                address = JID.parse(jid)
            except JidMalformed as exc:
                raise StanzaError(Condition.JID_MALFORMED, text=f"{jid}: {exc}") from exc
            if kind in _SENT_TO and el.get("delivered") != "true":
                count += 1
                found.setdefault(address, _To(address, kind, el))  # each gets one copy
        if count > self.config.addresses:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"at most {self.config.addresses} addressees")
        if any(address in self.kernel.domains for address in found):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="this service cannot address itself")
        return list(found.values())

    # ---- ways out ---------------------------------------------------------------------------------------------------

    def _send(self, ctx: Context, header: Element, addressees: list[_To]) -> list[Awaitable[Any]]:
        """§8 steps 6 to 11."""
        bare = ctx.stanza.without(header)
        services: dict[JID, list[_To]] = {}
        waiting: list[Awaitable[Any]] = []
        public = bare.with_child(_header(header, ()))
        for addressee in addressees:
            service = self._service_of(addressee.jid.domain)
            # directed presence is remembered per address, which a copy for a whole server would not be
            if service is not None and ctx.stanza.name == MESSAGE:
                services.setdefault(service, []).append(addressee)
                continue
            copy = public if addressee.kind != "bcc" else bare.with_child(_header(header, (addressee,)))
            self._pass_on(ctx, copy.replace(to=addressee.jid), waiting)
        for service, theirs in services.items():
            if len(theirs) == 1 and theirs[0].kind != "bcc":
                self._pass_on(ctx, public.replace(to=theirs[0].jid), waiting)
            else:
                self._pass_on(
                    ctx, bare.with_child(_header(header, theirs, undelivered=True)).replace(to=service), waiting
                )
        return waiting

    def _pass_on(self, ctx: Context, stanza: Stanza, waiting: list[Awaitable[Any]]) -> None:
        if ctx.origin is not None:
            rest: Any = self.kernel.router.from_session(ctx.origin, stanza)
            if is_later(rest):
                rest = self._settled(ctx, rest)
            else:
                ctx.caused(rest.settled)
                return
        else:
            copy = Context(stanza)
            rest = self.kernel.router.route(copy)
            ctx.caused(copy.settled)
        if rest is not None:
            waiting.append(rest)

    async def _settled(self, ctx: Context, rest: Awaitable[Context]) -> None:
        ctx.caused((await rest).settled)

    # ---- what other servers can do ----------------------------------------------------------------------------------

    def _service_of(self, domain: str) -> JID | None:
        """Where a domain takes stanzas for many, if that is known; if not, it is asked for the next time."""
        if self.kernel.is_local_domain(domain) or self.kernel.router.serves(domain):
            return None
        now = self.kernel.clock.monotonic()
        known = self._services.get(domain)
        if known is not None and known[0] > now:
            return known[1]
        if domain not in self._asking and len(self._asking) < 20:
            self._asking.add(domain)
            self.tasks.spawn(self._ask(domain), "ask")
        return None

    async def _ask(self, domain: str) -> None:
        """§2.2: the domain itself, or else one of its services."""
        found: JID | None = None
        try:
            host = JID.of("", domain)
            if ADDRESS in await self._remote.features(host):
                found = host
            else:
                items = await self.kernel.iq.request("get", host, make(f"{{{ns.DISCO_ITEMS}}}query"), timeout=30.0)
                listed = [] if items.payload is None else [el.get("jid", "") for el in items.payload][:_ITEMS]
                for text in listed:
                    at = JID.parse(text)
                    if at.domain.endswith(f".{domain}") and not at.local and ADDRESS in await self._remote.features(at):
                        found = at
                        break
        except (IqTimeout, JidMalformed):
            pass
        finally:
            self._asking.discard(domain)
        self._services[domain] = self.kernel.clock.monotonic() + _DAY, found
        self._services.move_to_end(domain)
        if len(self._services) > _KNOWN:
            self._services.popitem(last=False)
        log.debug("multicast_support_known", domain=domain, service=None if found is None else str(found))


def _header(header: Element, shown: tuple[_To, ...] | list[_To], *, undelivered: bool = False) -> bytes:
    """The header for one copy: everybody is marked as delivered, and of the blind copies only `shown` are left.

    With `undelivered`, `shown` are those whom the next server is to deliver to.
    """
    els = {id(addressee.el) for addressee in shown}
    made = make(_ADDRESSES)
    for el in header:
        if el.tag == f"{{{ADDRESS}}}address":
            if el.get("type") == "bcc" and id(el) not in els:
                continue
            copy = deepcopy(el)
            copy.tail = None
            if el.get("type") in ("to", "cc") and not (undelivered and id(el) in els):
                copy.set("delivered", "true")
            made.append(copy)
    return to_bytes(made)


async def _all(waiting: list[Awaitable[Any]]) -> Outcome:
    await asyncio.sleep(0)  # the copies took as long as so many stanzas: others get their turn
    await asyncio.gather(*waiting)
    return STOP
