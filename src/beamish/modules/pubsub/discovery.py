"""What a service and its nodes say about themselves (XEP-0060 §5.1 to §5.5), and which nodes are asked for (XEP-0462)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from beamish.core.clock import stamp
from beamish.core.disco import DiscoInfo, DiscoItem, DiscoNode
from beamish.core.module import Identity
from beamish.modules.pubsub import access, store
from beamish.modules.pubsub.config import MAX
from beamish.modules.pubsub.engine import Asker, Engine
from beamish.modules.pubsub.model import Host, Node
from beamish.modules.pubsub.names import META_DATA, PUBSUB, TYPE_FILTER, Affiliation, State
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.forms import Field, Form, X
from beamish.xmpp.xml import Element

COMMON: Final = (
    "config-node",
    "config-node-max",
    "create-and-configure",
    "create-nodes",
    "delete-items",
    "delete-nodes",
    "instant-nodes",
    "item-ids",
    "last-published",
    "leased-subscription",
    "manage-subscriptions",
    "member-affiliation",
    "meta-data",
    "modify-affiliations",
    "multi-items",
    "multi-subscribe",
    "outcast-affiliation",
    "persistent-items",
    "presence-notifications",
    "publish",
    "publish-node-full",
    "publish-only-affiliation",
    "publish-options",
    "publisher-affiliation",
    "purge-nodes",
    "retract-items",
    "retrieve-affiliations",
    "retrieve-default",
    "retrieve-default-sub",
    "retrieve-items",
    "retrieve-subscriptions",
    "rsm",
    "since",
    "subscribe",
    "subscription-notifications",
    "subscription-options",
)
"""Features of §10 that services and accounts have alike."""
SERVICE_FEATURES: Final = (
    PUBSUB,
    *(f"{PUBSUB}#{name}" for name in (*COMMON, "access-open", "get-pending")),
    ns.DISCO_ITEMS,
    ns.RSM,
    ns.PING,
    TYPE_FILTER,
    "http://jabber.org/protocol/commands",
)
ACCOUNT_FEATURES: Final = (
    PUBSUB,
    *(
        f"{PUBSUB}#{name}"
        for name in (
            *COMMON,
            "access-presence",
            "auto-create",
            "auto-subscribe",
            "filtered-notifications",
            "presence-subscribe",
            "pubsub-on-a-jid",
        )
    ),
)
LISTED_ITEMS: Final = 1000
"""Items that a node lists, the newest."""


def of_types(query: Element) -> Callable[[Node], bool]:
    """Which nodes a request for the list of nodes wants, by their `pubsub#type` (XEP-0462); all, if it does not say.

    Raises `StanzaError(bad-request)` for a filter that is none, or both includes and excludes.
    """
    asked = query.find(f"{{{TYPE_FILTER}}}filter")
    if asked is None:
        return lambda node: True
    x = asked.find(X)
    form = None if x is None else Form.from_xml(x)
    if form is None or form.type != "submit" or form.form_type != TYPE_FILTER:
        raise StanzaError(Condition.BAD_REQUEST, text="a filter holds a submitted form of its own type")
    included, excluded = form.get("included-types"), form.get("excluded-types")
    if included is not None and excluded is not None:
        raise StanzaError(Condition.BAD_REQUEST, text="types are either included or excluded")
    if included is not None:
        return lambda node: node.config.type in included.values
    return lambda node: excluded is None or node.config.type not in excluded.values


class Discovery:
    """Answers about nodes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def visible(self, host: Host, asker: Asker) -> list[Node]:
        """The nodes that an asker may know of, by name (XEP-0163 §6.2)."""
        shown = []
        for node in sorted(host, key=lambda n: n.name):
            if (asker.admin and not host.account) or access.visible(
                node, asker.bare, await self._engine.relation(host, node, asker.bare)
            ):
                shown.append(node)
        return shown

    async def nodes(
        self, host: Host, asker: Asker, wanted: Callable[[Node], bool] = lambda node: True
    ) -> list[DiscoItem]:
        """The nodes as items (§5.2), those that are wanted."""
        shown = await self.visible(host, asker)
        return [DiscoItem(host.jid, node.name, node.config.title) for node in shown if wanted(node)]

    async def may_know(self, host: Host, node: Node, asker: Asker) -> bool:
        """Whether a node is to be shown to the asker."""
        if asker.admin and not host.account:
            return True
        return access.visible(node, asker.bare, await self._engine.relation(host, node, asker.bare))

    def info(self, host: Host, node: Node) -> DiscoInfo:
        """What a node is, with its meta-data (§5.3, §5.4)."""
        features = (PUBSUB, f"{PUBSUB}#meta-data", ns.DISCO_ITEMS)
        return DiscoInfo((Identity("pubsub", "leaf", node.config.title),), features, (self.meta_data(host, node),))

    def meta_data(self, host: Host, node: Node) -> Element:
        """The form of §5.4."""
        config = node.config
        publishers = [jid for jid, what in node.affiliations.items() if what is Affiliation.PUBLISHER]
        subscribers = sum(s.state is State.SUBSCRIBED for s in node.subscriptions.values())
        kept = MAX if config.max_items == MAX else str(self._engine.keep(host, node))
        values: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            ("type", "text-single", (config.type,)),
            ("creator", "jid-single", (str(node.creator),)),
            ("creation_date", "text-single", (stamp(node.created),)),
            ("title", "text-single", (config.title,)),
            ("description", "text-single", (config.description,)),
            ("language", "list-single", (config.language,)),
            ("contact", "jid-multi", config.contact),
            ("access_model", "list-single", (config.access_model,)),
            ("publish_model", "list-single", (config.publish_model,)),
            ("max_items", "text-single", (kept,)),
            ("owner", "jid-multi", tuple(map(str, node.owners()))),
            ("publisher", "jid-multi", tuple(map(str, publishers))),
            ("num_subscribers", "text-single", (str(subscribers),)),
        )
        fields = (Field(f"pubsub#{name}", type_, value) for name, type_, value in values if any(value))
        return Form.of("result", META_DATA, fields).to_xml()

    async def items(self, host: Host, node: Node, asker: Asker) -> list[DiscoItem]:
        """The items of a node that the asker may retrieve (§5.5): their ids are the names."""
        engine = self._engine
        relation = await engine.relation(host, node, asker.bare)
        if not (asker.admin and not host.account):
            access.check_retrieve(node, asker.bare, relation, engine.clock.now())
        after = engine.oldest(node)
        read = engine.kernel.db.write if host.writing else engine.kernel.db.read
        ids = await read("pubsub.ids", lambda c: store.ids(c, node.id, after, LISTED_ITEMS))
        return [DiscoItem(host.jid, name=id_) for id_ in ids]

    async def of_account(self, at: JID, name: str, asker: JID) -> DiscoNode | None:
        """A node of an account for the disco module, None if there is none that the asker may know of."""
        who = Asker(asker, asker.bare)
        host = await self._engine.host(at, account=True)
        node = host.nodes.get(name)
        if node is None or not await self.may_know(host, node, who):
            return None
        try:
            items = await self.items(host, node, who)
        except StanzaError:
            items = []
        return DiscoNode(self.info(host, node), tuple(items), public=True)
