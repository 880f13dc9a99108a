"""From the payload of a request to the operation that answers it (XEP-0060 §14, schemas)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from beamish.core.events import Context
from beamish.modules.pubsub.engine import Asker, Engine
from beamish.modules.pubsub.model import Host
from beamish.modules.pubsub.names import OWNER, PUBSUB, unsupported
from beamish.modules.pubsub.owning import Owning, Refusal
from beamish.modules.pubsub.publishing import Publishing
from beamish.modules.pubsub.subscribing import Subscribing
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.stanza import IQ, Stanza
from beamish.xmpp.xml import Element, local_name, namespace_of

Operation = Callable[[Host, Asker, Element], Awaitable[bytes]]

_FEATURES: Final = {"subscribe": "subscribe", "publish": "publish", "items": "retrieve-items"}
_SECOND: Final = frozenset(("configure", "publish-options"))
"""Elements that only accompany another one."""


class Requests:
    """The table of operations. An operation takes the `<pubsub/>` and returns the content of the result."""

    def __init__(self, engine: Engine, publishing: Publishing, subscribing: Subscribing, owning: Owning) -> None:
        self._engine = engine
        self._publishing = publishing
        self._table: dict[tuple[str, str, str], Operation] = {
            ("set", PUBSUB, "publish"): publishing.publish,
            ("set", PUBSUB, "retract"): publishing.retract,
            ("get", PUBSUB, "items"): publishing.items,
            ("set", OWNER, "purge"): publishing.purge,
            ("set", PUBSUB, "subscribe"): subscribing.subscribe,
            ("set", PUBSUB, "unsubscribe"): subscribing.unsubscribe,
            ("get", PUBSUB, "options"): subscribing.get_options,
            ("set", PUBSUB, "options"): subscribing.set_options,
            ("get", PUBSUB, "default"): subscribing.default_options,
            ("get", PUBSUB, "subscriptions"): subscribing.subscriptions,
            ("get", PUBSUB, "affiliations"): subscribing.affiliations,
            ("set", PUBSUB, "create"): owning.create,
            ("set", OWNER, "delete"): owning.delete,
            ("get", OWNER, "configure"): owning.get_configuration,
            ("set", OWNER, "configure"): owning.set_configuration,
            ("get", OWNER, "default"): owning.default_configuration,
            ("get", OWNER, "subscriptions"): owning.get_subscriptions,
            ("set", OWNER, "subscriptions"): owning.set_subscriptions,
            ("get", OWNER, "affiliations"): owning.get_affiliations,
            ("set", OWNER, "affiliations"): owning.set_affiliations,
        }

    def now(self, host: Host | None, asker: Asker, ctx: Context, send: Callable[[Stanza], None]) -> bool:
        """Begin a publication without parking its connection, if nothing has to be looked up for it; `send` is called
        with the answer. False: call `answer`. Raises `StanzaError`.
        """
        stanza = ctx.stanza
        pubsub = stanza.el[0]
        if host is None or not len(pubsub) or stanza.type != "set" or pubsub[0].tag != f"{{{PUBSUB}}}publish":
            return False

        def done(result: bytes | StanzaError) -> None:
            reply = stanza.reply(result) if isinstance(result, bytes) else stanza.error(result)
            if reply is not None:
                send(reply)

        return self._publishing.publish_now(host, asker, pubsub, ctx, done)

    async def answer(self, host: Host, asker: Asker, stanza: Stanza) -> Stanza:
        """The result of a request with a `<pubsub/>` payload. Raises `StanzaError`."""
        pubsub = stanza.el[0]
        if not len(pubsub):
            raise StanzaError(Condition.BAD_REQUEST, text="there is no request in it")
        name = local_name(pubsub[0])
        namespace = namespace_of(pubsub)
        operation = self._table.get((stanza.type, namespace, name))
        if operation is None or namespace_of(pubsub[0]) != namespace:
            if name in _SECOND:
                raise StanzaError(Condition.BAD_REQUEST, text=f"{name} comes second")  # §8.1.3
            if any((namespace, name) == (known[1], known[2]) for known in self._table):
                raise StanzaError(Condition.BAD_REQUEST, text="this is not requested with this type of IQ")
            raise unsupported(_FEATURES.get(name, name))
        node = host.nodes.get(pubsub[0].get("node", ""))
        if node is not None and (namespace == OWNER or name == "retract"):
            # whoever is there is told or shown; of publications it is charged who is told
            self._engine.charge(asker, len(node.subscriptions) + len(node.affiliations))
        try:
            return stanza.reply(await operation(host, asker, pubsub))
        except Refusal as error:
            content = error.content + error.to_bytes()
            return Stanza.build(IQ, "error", id=stanza.id, sender=stanza.to, to=stanza.sender, content=content)
