"""What the plays of publish-subscribe share."""

from __future__ import annotations

from beamish.core import events
from beamish.core.events import CapsKnown
from beamish.core.kernel import Kernel
from beamish.core.services import CapsService
from beamish.testing import LiveServer
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

PUBSUB = "http://jabber.org/protocol/pubsub"
EVENT = PUBSUB + "#event"
OWNER = PUBSUB + "#owner"
SERVICE = "pubsub.example.org"
PATIENT = {"c2s": {"probe_after": 10_000_000.0}}
"""Clients that fall silent while the clock is moved on are not asked whether they are there."""
FAST = {"storage": {"synchronous": "normal"}}


class Caps:
    """Capabilities as tests say they are."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._known: dict[JID, frozenset[str]] = {}

    def features(self, full: JID) -> frozenset[str] | None:
        return self._known.get(full)

    def of(self, full: JID | str, *nodes: str) -> None:
        """From now on this resource is interested in these nodes."""
        jid = JID.parse(full)
        features = frozenset(f"{node}+notify" for node in nodes)
        previous = self._known.get(jid)
        self._known[jid] = features
        self._kernel.hooks[events.caps_known].run(CapsKnown(jid, features, previous))


class Stage:
    """A server, in memory or on sockets with TLS, and the few sentences that most plays say."""

    def __init__(self, place: World | LiveServer) -> None:
        self.place = place
        self.kernel = place.kernel
        self.caps = Caps(place.kernel)
        place.kernel.provide(CapsService, self.caps)

    @property
    def world(self) -> World:
        """The server in memory, for plays that need its clock or its settling."""
        assert isinstance(self.place, World)
        return self.place

    async def login(self, address: str, *, presence: bool = True) -> Client:
        """A client, available unless told otherwise."""
        if isinstance(self.place, World):
            return await self.place.login(address, presence=presence)
        return await self.place.client(address, presence=presence)

    async def quiet(self, *clients: Client) -> None:
        """Everything that was sent to these clients so far has arrived."""
        if isinstance(self.place, World):
            await self.place.settle()
            return
        for client in clients:
            got = await client.iq("<iq type='get' id='barrier'><ping xmlns='urn:xmpp:ping'/></iq>")
            assert got is not None

    async def befriend(self, one: Client, other: Client) -> None:
        """Subscribe two clients to each other; both inboxes are empty afterwards."""
        for a, b in ((one, other), (other, one)):
            a.send(f"<presence to='{b.jid.bare}' type='subscribe'/>")
            await self.quiet(a)
            b.send(f"<presence to='{a.jid.bare}' type='subscribed'/>")
            await self.quiet(b)
        await self.quiet(one, other)
        for client in (one, other):
            client.inbox.clear()

    async def iq(
        self, who: Client, type: str, inner: str, *, to: str = SERVICE, ns: str = PUBSUB, answer: str = "result"
    ) -> Element:
        at = f" to='{to}'" if to else ""
        return await who.iq(f"<iq type='{type}' id='q'{at}><pubsub xmlns='{ns}'>{inner}</pubsub></iq>", type=answer)

    async def set(self, who: Client, inner: str, **more: str) -> Element:
        return await self.iq(who, "set", inner, **more)

    async def get(self, who: Client, inner: str, **more: str) -> Element:
        return await self.iq(who, "get", inner, **more)

    async def refused(
        self, who: Client, type: str, inner: str, *conditions: str, kind: str = "", **more: str
    ) -> Element:
        """A request that is answered with this condition, this pubsub condition (if two), and this type of error."""
        got = await self.iq(who, type, inner, answer="error", **more)
        error = got.find("{jabber:client}error")
        assert error is not None
        names = [str(child.tag).rpartition("}")[2] for child in error if not str(child.tag).endswith("}text")]
        assert names == list(conditions), names
        if kind:
            assert error.get("type") == kind
        return error

    async def create(self, who: Client, node: str, *, to: str = SERVICE, **config: str) -> None:
        inner = f"<create node='{node}'/>"
        if config:
            inner += f"<configure>{form(f'{PUBSUB}#node_config', config)}</configure>"
        await self.set(who, inner, to=to)

    async def publish(self, who: Client, node: str, id: str = "", text: str = "x", *, to: str = SERVICE) -> str:
        at = f" id='{id}'" if id else ""
        inner = f"<publish node='{node}'><item{at}><entry xmlns='urn:test'>{text}</entry></item></publish>"
        got = await self.set(who, inner, to=to)
        item = got.find(f".//{{{PUBSUB}}}item")
        assert item is not None
        return str(item.get("id"))

    async def subscribe(self, who: Client, node: str, jid: str = "", *, to: str = SERVICE, **options: str) -> Element:
        inner = f"<subscribe node='{node}' jid='{jid or who.jid.bare}'/>"
        if options:
            inner += f"<options>{form(f'{PUBSUB}#subscribe_options', options)}</options>"
        got = await self.set(who, inner, to=to)
        found = got.find(f".//{{{PUBSUB}}}subscription")
        assert found is not None
        return found

    async def items(self, who: Client, node: str, *, to: str = SERVICE, **attrs: str) -> list[str]:
        """The ids of the items that a retrieval returns."""
        more = "".join(f" {key}='{value}'" for key, value in attrs.items())
        got = await self.get(who, f"<items node='{node}'{more}/>", to=to)
        return [str(item.get("id")) for item in got.iterfind(f".//{{{PUBSUB}}}item")]

    async def ids(self, who: Client) -> list[str]:
        """The ids of items in the notifications that have arrived; everything else is dropped."""
        await self.quiet(who)
        found = [str(i.get("id")) for m in who.inbox for i in m.iterfind(f".//{{{EVENT}}}item")]
        who.inbox.clear()
        return found


def note(inner: str, **attrs: str) -> str:
    """The pattern of a message with an event in it."""
    more = "".join(f" {key.replace('sender', 'from')}='{value}'" for key, value in attrs.items())
    return f"<message{more}><event xmlns='{EVENT}'>{inner}</event></message>"


def form(form_type: str, fields: dict[str, str], type: str = "submit") -> str:
    """A submitted form; the names get `pubsub#` in front, `_` in the place of `-` where the field has one."""
    inner = f"<field var='FORM_TYPE' type='hidden'><value>{form_type}</value></field>"
    for name, value in fields.items():
        name = name.replace("show_values", "show-values")
        values = "".join(f"<value>{part}</value>" for part in value.split(","))
        inner += f"<field var='pubsub#{name}'>{values}</field>"
    return f"<x xmlns='jabber:x:data' type='{type}'>{inner}</x>"
