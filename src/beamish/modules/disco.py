"""XEP-0030 and XEP-0128: what our domains and accounts say about themselves, lists in pages for who wants that (XEP-0059).

Everything said comes from the heads of the running modules (`features`, `identities`, …) and from their `disco_items`,
`disco_forms` and `disco_node`. Information about accounts is for the account itself and for those who may see its
presence; everybody else gets the same answers as for an account that does not exist (XEP-0030 §8).
Not here: services with domains of their own, which answer for themselves, and clients, which get their requests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import Final

from pydantic import Field

from beamish.core.disco import DiscoInfo, DiscoItem, DiscoNode, items_bytes
from beamish.core.events import Context
from beamish.core.iq import NOBODY
from beamish.core.later import is_later, then
from beamish.core.module import Identity, IqAnswer, Module, ModuleConfig, Scope, Xep, iq
from beamish.core.services import DiscoService, PresenceService
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload import rsm
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import to_bytes

_FEATURES = (ns.DISCO_INFO, ns.DISCO_ITEMS, ns.RSM)
_PAGE: Final = 1000
"""Items in one answer; of a longer list everybody gets the first page."""


class Config(ModuleConfig):
    """Options of service discovery."""

    name: str = Field(
        "Beamish", max_length=256, description="What the server calls itself in clients' service browsers."
    )


class DiscoModule(Module):
    """Answers for our domains and accounts."""

    name = "disco"
    Config = Config
    xeps = (Xep(30, "2.5.0"), Xep(59, "1.0"), Xep(128, "1.0.1"))
    features = _FEATURES
    account_features = _FEATURES
    requires = (PresenceService,)
    provides = (DiscoService,)

    async def start(self) -> None:
        """Nothing is collected yet: other modules are still to start."""
        self._presence = self.kernel.service(PresenceService)
        self._servers: dict[str, tuple[DiscoInfo, bytes]] = {}
        self._accounts: dict[str, bytes] = {}

    def server_info(self, domain: str) -> DiscoInfo:
        """See `DiscoService.server_info`."""
        return self._server(domain)[0]

    def _server(self, domain: str) -> tuple[DiscoInfo, bytes]:
        """Made at the first request, when every module runs; nothing that is declared changes after that."""
        made = self._servers.get(domain)
        if made is None:
            modules = self.kernel.registry.modules
            info = DiscoInfo(
                (Identity("server", "im", self.config.name), *(i for m in modules for i in m.identities)),
                tuple(sorted({feature for m in modules for feature in m.features})),
                tuple(form for m in modules for form in m.disco_forms(domain)),
            )
            made = self._servers[domain] = info, info.to_bytes()
        return made

    def _account(self, user: JID) -> bytes:
        """Accounts differ only in their type: `registered`, or `anonymous` for one that goes with its session."""
        type_ = "anonymous" if any(s.anonymous for s in self.kernel.sessions.of(user).all) else "registered"
        made = self._accounts.get(type_)
        if made is None:
            running = self.kernel.registry.modules
            modules = [m for m in running if type_ == "registered" or not m.keeps_for_accounts]
            info = DiscoInfo(
                (Identity("account", type_), *(i for m in modules for i in m.account_identities)),
                tuple({feature for m in modules for feature in m.account_features}),
            )
            made = self._accounts[type_] = info.to_bytes()
        return made

    # ---- disco#info -------------------------------------------------------------------------------------------------

    @iq(get=f"{{{ns.DISCO_INFO}}}query", scope=Scope.SERVER)
    def info_of_server(self, ctx: Context) -> IqAnswer | Awaitable[IqAnswer]:
        """Information about a domain, or a node of it (§3)."""
        stanza = ctx.stanza
        at, node, asker = _question(stanza)
        if not node:
            return stanza.reply(self._server(at.domain)[1])
        return then(self._node(at, node, asker), lambda found: _node_info(stanza, node, found))

    @iq(get=f"{{{ns.DISCO_INFO}}}query", scope=Scope.ACCOUNT)
    def info_of_account(self, ctx: Context) -> IqAnswer | Awaitable[IqAnswer]:
        """Information about an account, or a node of it; `service-unavailable` for strangers (§8), but of public nodes."""
        stanza = ctx.stanza
        at, node, asker = _question(stanza)

        def answer(known: bool) -> IqAnswer | Awaitable[IqAnswer]:
            if node:
                return then(
                    self._node(at, node, asker), lambda found: _node_info(stanza, node, found, stranger=not known)
                )
            if not known:
                raise StanzaError(Condition.SERVICE_UNAVAILABLE)
            return stanza.reply(self._account(at))

        return then(self._knows(asker, at), answer)

    # ---- disco#items ------------------------------------------------------------------------------------------------

    @iq(get=f"{{{ns.DISCO_ITEMS}}}query", scope=Scope.SERVER)
    def items_of_server(self, ctx: Context) -> IqAnswer | Awaitable[IqAnswer]:
        """The services of a domain, or what a node of it holds (§4)."""
        stanza = ctx.stanza
        at, node, asker = _question(stanza)
        if not node:
            return then(self._items(at, asker), lambda items: _listed(stanza, items))
        return then(self._node(at, node, asker), lambda found: _node_items(stanza, node, found))

    @iq(get=f"{{{ns.DISCO_ITEMS}}}query", scope=Scope.ACCOUNT | Scope.NO_ACCOUNT)
    def items_of_account(self, ctx: Context) -> IqAnswer | Awaitable[IqAnswer]:
        """An account's resources and what modules keep for it; an empty list for strangers and for no account (§8)."""
        stanza = ctx.stanza
        at, node, asker = _question(stanza)
        if ctx.note(NOBODY):
            return _node_items(stanza, node, None, hide=True) if node else _listed(stanza, ())

        def answer(known: bool) -> IqAnswer | Awaitable[IqAnswer]:
            if not node:
                here = self.kernel.sessions.of(at).available if known else ()
                resources = [DiscoItem(session.jid) for session in here]
                return then(self._items(at, asker), lambda items: _listed(stanza, [*resources, *items]))
            return then(self._node(at, node, asker), lambda found: _node_items(stanza, node, found, hide=not known))

        return then(self._knows(asker, at), answer)

    # ---- what modules say -------------------------------------------------------------------------------------------

    def _knows(self, asker: JID, user: JID) -> bool | Awaitable[bool]:
        """Whether the asker may know of the account: it is their own, or they may see its presence."""
        return True if asker.bare == user else self._presence.may_see(user, asker)

    def disco_items(self, at: JID, asker: JID) -> Iterable[DiscoItem]:
        """Components: those below the domain, and with the first domain those that are below none."""
        if at != at.domain:
            return ()
        ours = self.kernel.domains

        def belongs(component: str) -> bool:
            above = [domain for domain in ours if component.endswith(f".{domain}")]
            return at.domain in above or (not above and at.domain == ours[0])

        return [DiscoItem(JID.of("", component)) for component in self.kernel.components if belongs(component)]

    def _items(self, at: JID, asker: JID) -> list[DiscoItem] | Awaitable[list[DiscoItem]]:
        modules = self.kernel.registry.modules
        found: list[DiscoItem] = []
        for index, module in enumerate(modules):
            more = module.disco_items(at, asker)
            if is_later(more):
                return self._items_later(found, more, modules[index + 1 :], at, asker)
            found.extend(more)
        return found

    async def _items_later(
        self,
        found: list[DiscoItem],
        first: Awaitable[Iterable[DiscoItem]],
        rest: tuple[Module, ...],
        at: JID,
        asker: JID,
    ) -> list[DiscoItem]:
        found.extend(await first)
        for module in rest:
            more = module.disco_items(at, asker)
            found.extend(await more if is_later(more) else more)
        return found

    def _node(self, at: JID, node: str, asker: JID) -> DiscoNode | Awaitable[DiscoNode | None] | None:
        """The first module that has the node answers for it."""
        modules = self.kernel.registry.modules
        for index, module in enumerate(modules):
            found = module.disco_node(at, node, asker)
            if is_later(found):
                return self._node_later(found, modules[index + 1 :], at, node, asker)
            if found is not None:
                return found
        return None

    async def _node_later(
        self, first: Awaitable[DiscoNode | None], rest: tuple[Module, ...], at: JID, node: str, asker: JID
    ) -> DiscoNode | None:
        found = await first
        for module in rest:
            if found is not None:
                break
            more = module.disco_node(at, node, asker)
            found = await more if is_later(more) else more
        return found


def _question(stanza: Stanza) -> tuple[JID, str, JID]:
    """Who is asked about (without a resource), which node, and by whom. No `to` means the sender's own account."""
    sender = stanza.sender
    assert sender is not None
    at = sender.bare if stanza.to is None else stanza.to.bare
    return at, stanza.el[0].get("node", ""), sender


def _node_info(stanza: Stanza, node: str, found: DiscoNode | None, *, stranger: bool = False) -> Stanza:
    """`stranger`: the account looks as if it did not exist, unless the node is public."""
    if stranger and (found is None or not found.public):
        raise StanzaError(Condition.SERVICE_UNAVAILABLE)
    if found is None:
        raise StanzaError(Condition.ITEM_NOT_FOUND)
    return stanza.reply(found.info.to_bytes(node))


def _node_items(stanza: Stanza, node: str, found: DiscoNode | None, *, hide: bool = False) -> Stanza:
    """`hide`: to a stranger a node that does not exist looks like an empty one, as do those of no account."""
    if found is None and not hide:
        raise StanzaError(Condition.ITEM_NOT_FOUND)
    return _listed(stanza, () if found is None else found.items, node)


def _listed(stanza: Stanza, items: Sequence[DiscoItem], node: str = "") -> Stanza:
    """A list of items, or the page of it that was asked for (XEP-0059)."""
    asked = rsm.Request.from_xml(stanza.el[0])
    if not items or (asked is None and len(items) <= _PAGE):
        return stanza.reply(items_bytes(items, node))
    where, page = rsm.page([f"{item.jid}?{item.node}" for item in items], asked, _PAGE)
    listed = items_bytes((items[at] for at in where), node)
    cut = listed.rindex(b"</query>")
    return stanza.reply(listed[:cut] + to_bytes(page.to_xml()) + listed[cut:])
