"""Node configuration (XEP-0060 §8.2): the fields that this service has, their form, and preconditions (§7.1.5)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from beamish.modules.pubsub.names import NODE_CONFIG, Access, refused
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.forms import Field, Form, Option, Submission, boolean, choice, unacceptable
from beamish.xmpp.xml import Element

MAX: Final = "max"
PUBLISH_MODELS: Final = ("publishers", "subscribers", "open")
SEND_LAST: Final = ("never", "on_sub", "on_sub_and_presence")
NODE_FULL: Final = ("retract-oldest", "discard-oldest", "reject")
ITEM_REPLY: Final = ("owner", "publisher", "none")
NOTIFICATION_TYPES: Final = ("normal", "chat", "headline")
_ACCESS: Final = {model.value: model for model in Access}
_ACCESS_LABELS: Final = {
    Access.OPEN: "Anyone may subscribe and retrieve items",
    Access.PRESENCE: "Those who may see the owner's presence",
    Access.ROSTER: "Those in certain groups of the owner's roster",
    Access.AUTHORIZE: "Owners approve each subscription",
    Access.WHITELIST: "Only those on a list",
}
_MAX_TEXT: Final = 2000
_MAX_GROUPS: Final = 100


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The configuration of a node. `max_items` and `item_expire` (seconds) may be "max": the server's limit.

    `item_expire` 0 and `max_payload_size` 0 mean: no limit but the server's.
    """

    title: str = ""
    description: str = ""
    type: str = ""
    language: str = ""
    contact: tuple[str, ...] = ()
    access_model: str = "open"
    roster_groups_allowed: tuple[str, ...] = ()
    publish_model: str = "publishers"
    subscribe: bool = True
    tempsub: bool = False
    persist_items: bool = True
    max_items: int | str = 20
    item_expire: int | str = 0
    max_payload_size: int = 0
    publish_node_full: str = "retract-oldest"
    purge_offline: bool = False
    deliver_notifications: bool = True
    deliver_payloads: bool = True
    notification_type: str = "headline"
    notify_config: bool = False
    notify_delete: bool = True
    notify_retract: bool = True
    notify_sub: bool = False
    send_last_published_item: str = "on_sub_and_presence"
    presence_based_delivery: bool = False
    itemreply: str = "none"

    @property
    def access(self) -> Access:
        """The access model as a value."""
        return _ACCESS[self.access_model]

    def items_kept(self, most: int) -> int:
        """How many items are kept: 0 for a node that does not persist them."""
        if not self.persist_items:
            return 0
        return most if self.max_items == MAX else min(int(self.max_items), most)

    def to_json(self) -> str:
        """For storage: everything, so that changed defaults of the server leave nodes as they are."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> NodeConfig:
        """Read what `to_json` wrote; fields of another version are left out, missing ones get their defaults."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: v for k, v in json.loads(text).items() if k in known}
        for name in ("contact", "roster_groups_allowed"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)

    def form(self, bounds: Bounds, type: str = "form", groups: Iterable[str] = ()) -> Element:
        """The configuration form (§8.2.2). `groups` are offered as roster groups."""
        return Form.of(type, NODE_CONFIG, self.fields(bounds, groups)).to_xml()

    def fields(self, bounds: Bounds, groups: Iterable[str] = ()) -> tuple[Field, ...]:
        """The fields of the form, with the present values."""
        offered = tuple(Option(g) for g in dict.fromkeys((*groups, *self.roster_groups_allowed)))
        return (
            _text("title", self.title, "A short name for the node"),
            _text("description", self.description, "What the node is about"),
            _text("type", self.type, "The kind of data, usually the namespace of the payload"),
            _language(self.language),
            Field("pubsub#contact", "jid-multi", self.contact, "Whom to ask about the node"),
            choice("pubsub#node_type", "leaf", ("leaf",), "Kind of node"),
            choice(
                "pubsub#access_model",
                self.access_model,
                [Option(m.value, _ACCESS_LABELS[m]) for m in bounds.access_models],
                "Who may subscribe and retrieve items",
            ),
            Field(
                "pubsub#roster_groups_allowed",
                "list-multi",
                self.roster_groups_allowed,
                "Roster groups that may subscribe and retrieve items",
                offered,
                datatype="xs:string",
                open=True,
            ),
            choice("pubsub#publish_model", self.publish_model, PUBLISH_MODELS, "Who may publish"),
            boolean("pubsub#subscribe", self.subscribe, "Allow subscriptions"),
            boolean("pubsub#tempsub", self.tempsub, "Subscriptions end with the subscriber's presence"),
            boolean("pubsub#persist_items", self.persist_items, "Keep items"),
            _number(
                "max_items",
                self.max_items,
                f"How many items to keep (at most {bounds.items}, or “max”)",
                "pubsub:integer-or-max",
            ),
            _number(
                "item_expire",
                self.item_expire,
                "Seconds after which items are removed (0 or “max” for never)",
                "pubsub:integer-or-max",
            ),
            _number(
                "max_payload_size",
                self.max_payload_size or bounds.payload,
                f"Largest payload in bytes (at most {bounds.payload})",
            ),
            choice("pubsub#publish_node_full", self.publish_node_full, NODE_FULL, "What to do when the node is full"),
            boolean("pubsub#purge_offline", self.purge_offline, "Remove a publisher's items when it goes offline"),
            boolean("pubsub#deliver_notifications", self.deliver_notifications, "Send notifications"),
            boolean("pubsub#deliver_payloads", self.deliver_payloads, "Notifications carry the payload"),
            choice("pubsub#notification_type", self.notification_type, NOTIFICATION_TYPES, "Type of the messages"),
            boolean("pubsub#notify_config", self.notify_config, "Tell subscribers of new configuration"),
            boolean("pubsub#notify_delete", self.notify_delete, "Tell subscribers when the node is deleted"),
            boolean("pubsub#notify_retract", self.notify_retract, "Tell subscribers when items are removed"),
            boolean("pubsub#notify_sub", self.notify_sub, "Tell owners of subscribers that come and go"),
            choice(
                "pubsub#send_last_published_item",
                self.send_last_published_item,
                SEND_LAST,
                "When to send the last published item",
            ),
            boolean("pubsub#presence_based_delivery", self.presence_based_delivery, "Notify available users only"),
            choice("pubsub#itemreply", self.itemreply, ITEM_REPLY, "Whom items name as their publisher"),
        )


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a configuration may not exceed: items of a node, bytes of a payload, and the access models there are."""

    items: int
    payload: int
    access_models: tuple[Access, ...] = tuple(Access)


def _text(name: str, value: str, label: str) -> Field:
    return Field(f"pubsub#{name}", "text-single", (value,) if value else (), label)


def _language(value: str) -> Field:
    """Of the registered type, which clients insist on (§16.4.3); any language may be named (XEP-0122, `<open/>`)."""
    named = (value,) if value else ()
    offered = tuple(map(Option, named))
    label = "The language of the items"
    return Field("pubsub#language", "list-single", named, label, offered, datatype="xs:language", open=True)


def _number(name: str, value: object, label: str, datatype: str = "xs:integer") -> Field:
    return Field(f"pubsub#{name}", "text-single", (str(value),), label, datatype=datatype)


_BOOLEANS: Final = (
    "subscribe",
    "tempsub",
    "persist_items",
    "purge_offline",
    "deliver_notifications",
    "deliver_payloads",
    "notify_config",
    "notify_delete",
    "notify_retract",
    "notify_sub",
    "presence_based_delivery",
)
_TEXTS: Final = ("title", "description", "type", "language")
_CHOICES: Final = {
    "publish_model": PUBLISH_MODELS,
    "publish_node_full": NODE_FULL,
    "notification_type": NOTIFICATION_TYPES,
    "send_last_published_item": SEND_LAST,
    "itemreply": ITEM_REPLY,
}
FIELDS: Final = frozenset(
    f"pubsub#{name}"
    for name in (
        *_BOOLEANS,
        *_TEXTS,
        *_CHOICES,
        "access_model",
        "roster_groups_allowed",
        "contact",
        "node_type",
        "max_items",
        "item_expire",
        "max_payload_size",
    )
)
"""Every field of the form."""


def changed(config: NodeConfig, submitted: Submission, bounds: Bounds) -> NodeConfig:
    """`config` with what was submitted; fields left out keep their values (XEP-0004 §3.5).

    Unknown fields are ignored, as XEP-0004 §3.2 has it for submissions. Raises `StanzaError(not-acceptable)`.
    """
    values: dict[str, Any] = {name: submitted.boolean(f"pubsub#{name}") for name in _BOOLEANS}
    values |= {name: submitted.choice(f"pubsub#{name}", allowed) for name, allowed in _CHOICES.items()}
    for name in _TEXTS:
        values[name] = text = submitted.text(f"pubsub#{name}")
        if text is not None and len(text) > _MAX_TEXT:
            raise unacceptable(f"pubsub#{name}", f"it is longer than {_MAX_TEXT} characters")
    values["contact"] = submitted.jids("pubsub#contact")
    if values["contact"] is not None:
        values["contact"] = tuple(str(jid) for jid in values["contact"][:_MAX_GROUPS])
    if submitted.text("pubsub#node_type") not in (None, "leaf"):
        raise unsupported_collection()
    values["access_model"] = _access(submitted, bounds)
    groups = submitted.texts("pubsub#roster_groups_allowed")
    if groups is not None:
        if len(groups) > _MAX_GROUPS or any(len(group) > _MAX_TEXT for group in groups):
            raise unacceptable("pubsub#roster_groups_allowed", "these are too many groups")
        values["roster_groups_allowed"] = tuple(dict.fromkeys(group for group in groups if group))
    values["max_items"] = _or_max(submitted, "max_items", 1, bounds.items)
    values["item_expire"] = _or_max(submitted, "item_expire", 0, 10**10)
    values["max_payload_size"] = submitted.integer("pubsub#max_payload_size", 0, bounds.payload)
    return replace(config, **{k: v for k, v in values.items() if v is not None})


def unsupported_collection() -> StanzaError:
    """There are only leaf nodes here (XEP-0248 §5.1 names the error)."""
    return refused(Condition.FEATURE_NOT_IMPLEMENTED, "unsupported", feature="collections")


def _access(submitted: Submission, bounds: Bounds) -> str | None:
    name = submitted.text("pubsub#access_model")
    if name is not None and name not in [model.value for model in bounds.access_models]:
        # §8.1.2: an error of its own
        raise refused(Condition.NOT_ACCEPTABLE, "unsupported-access-model", Kind.MODIFY)
    return name


def _or_max(submitted: Submission, name: str, least: int, most: int) -> int | str | None:
    if submitted.text(f"pubsub#{name}") == MAX:
        return MAX
    return submitted.integer(f"pubsub#{name}", least, most)


def unmet(config: NodeConfig, submitted: Submission, bounds: Bounds) -> str:
    """The first precondition (§7.1.5) that the configuration does not meet, "" if it meets all.

    Raises `StanzaError(not-acceptable)` for values that no configuration could have, and `bad-request` for fields that no
    configuration has.
    """
    for var in submitted.fields:
        if var not in FIELDS:
            raise refused(Condition.BAD_REQUEST, "precondition-not-met", text=f"there is no field {var}")
    wanted = changed(config, submitted, bounds)
    for field in fields(NodeConfig):
        name = field.name
        if f"pubsub#{name}" not in submitted:
            continue
        is_, should = getattr(config, name), getattr(wanted, name)
        if name == "max_items":
            is_, should = config.items_kept(bounds.items), wanted.items_kept(bounds.items)
        elif name == "item_expire":
            is_, should = is_ or MAX, should or MAX  # both say never
        elif name == "max_payload_size":
            is_, should = is_ or bounds.payload, should or bounds.payload
        elif name in ("roster_groups_allowed", "contact"):
            is_, should = set(is_), set(should)
        if is_ != should:
            return f"pubsub#{name}"
    return ""


def jids(config: NodeConfig) -> tuple[JID, ...]:
    """The contacts as addresses."""
    return tuple(JID.parse(text) for text in config.contact)
