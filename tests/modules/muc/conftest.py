"""Rooms for plays: `rooms` makes them, lets clients in and hands out what arrived."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import pytest
import pytest_asyncio

from beamish.modules.muc import MucModule
from beamish.testing.client import Client
from beamish.testing.match import mismatch, show
from beamish.testing.world import World
from beamish.xmpp.xml import Element, escape_attr, escape_text

ROOM = "cave@conference.example.org"
MUC = "http://jabber.org/protocol/muc"
USER = f"{MUC}#user"
FORGED = f"<x xmlns='{USER}'><item affiliation='owner' role='moderator'/><status code='110'/></x>"
X = "{http://jabber.org/protocol/muc#user}x"


@pytest.fixture(autouse=True)
def _strict_log(no_unexpected_errors: None) -> None:
    """See `beamish.testing.plugin`."""


def bodies(stanzas: list[Element]) -> list[str | None]:
    """The bodies of those that have one."""
    return [el.findtext("{jabber:client}body") for el in stanzas if el.find("{jabber:client}body") is not None]


def codes_of(el: Element) -> set[int]:
    """The status codes anywhere in a stanza."""
    return {int(s.get("code", "0")) for s in el.iter(f"{{{USER}}}status")}


class Rooms:
    """A stage with rooms, on one world."""

    jid = ROOM

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def module(self) -> MucModule:
        """What makes the rooms, to look at what no protocol shows."""
        return self.world.kernel.registry.module(MucModule)

    async def login(self, *names: str) -> list[Client]:
        """Logged-in clients: `romeo`, or a whole address."""
        return [await self.world.login(n if "@" in n else f"{n}@example.org/{n}", presence=True) for n in names]

    async def enter(
        self, client: Client, nick: str, *, room: str = ROOM, inner: str = "", outer: str = "", id: str = "e1"
    ) -> list[Element]:
        """Send the presence that enters; everything that came because of it."""
        client.send(
            f"<presence to='{room}/{escape_attr(nick)}' id='{id}'><x xmlns='{MUC}'>{inner}</x>{outer}</presence>"
        )
        return await self.take(client)

    async def take(self, client: Client) -> list[Element]:
        """What has arrived."""
        await self.world.settle()
        got = list(client.inbox)
        client.inbox.clear()
        return got

    async def clear(self, *clients: Client) -> None:
        """Throw away what has arrived."""
        for client in clients:
            await self.take(client)

    async def make(self, client: Client, nick: str = "Owner", *, room: str = ROOM, **config: object) -> None:
        """A configured room with its owner inside; nothing is left in the owner's inbox."""
        await self.enter(client, nick, room=room)
        await self.configure(client, room=room, **config)
        await self.clear(client)

    async def full(self, *clients: Client, room: str = ROOM, **config: object) -> None:
        """A room made by the first client, with all the others inside, named after their accounts."""
        await self.make(clients[0], clients[0].jid.local, room=room, **config)
        for client in clients[1:]:
            got = await self.enter(client, client.jid.local, room=room)
            assert got and got[0].get("type") != "error", [show(el) for el in got]
        await self.clear(*clients)

    async def configure(self, client: Client, *, room: str = ROOM, type: str = "result", **config: object) -> Element:
        """Submit the configuration form; `membersonly=True` is `muc#roomconfig_membersonly`."""
        fields = "".join(_field(name, value) for name, value in config.items())
        form_type = "" if not config else _field("FORM_TYPE", f"{MUC}#roomconfig")
        return await client.iq(
            f"<iq to='{room}' type='set' id='conf'><query xmlns='{MUC}#owner'>"
            f"<x xmlns='jabber:x:data' type='submit'>{form_type}{fields}</x></query></iq>",
            type=type,
        )

    async def admin(self, client: Client, *items: str, room: str = ROOM, type: str = "result") -> Element:
        """Change roles or affiliations; items are the attributes and perhaps a reason after `|`."""
        inner = "".join(_item(text) for text in items)
        return await client.iq(
            f"<iq to='{room}' type='set' id='adm'><query xmlns='{MUC}#admin'>{inner}</query></iq>", type=type
        )

    async def listed(
        self, client: Client, what: str, *, room: str = ROOM, type: str = "result"
    ) -> list[dict[str, str]]:
        """A list by role or affiliation: `affiliation='member'`; the attributes of its items."""
        answer = await client.iq(
            f"<iq to='{room}' type='get' id='lst'><query xmlns='{MUC}#admin'><item {what}/></query></iq>", type=type
        )
        return [dict(item.attrib) for item in answer.iter(f"{{{MUC}#admin}}item")]

    def say(self, client: Client, text: str, *, room: str = ROOM, id: str = "m1", extra: str = "") -> None:
        """Send a message to everybody."""
        client.send(
            f"<message to='{room}' type='groupchat' id='{id}'><body>{escape_text(text)}</body>{extra}</message>"
        )


def _field(name: str, value: object) -> str:
    var = name if name == "FORM_TYPE" or "#" in name else f"muc#roomconfig_{name}"
    values: Iterable[object] = value if isinstance(value, (list, tuple)) else [value]
    texts = [("1" if v else "0") if isinstance(v, bool) else str(v) for v in values]
    return f"<field var='{var}'>" + "".join(f"<value>{escape_text(t)}</value>" for t in texts) + "</field>"


def _item(text: str) -> str:
    attrs, _, reason = text.partition("|")
    inner = f"<reason>{escape_text(reason)}</reason>" if reason else ""
    return f"<item {attrs}>{inner}</item>"


@pytest_asyncio.fixture
async def rooms() -> AsyncIterator[Rooms]:
    """A world in which rooms can be made."""
    async with World() as world:
        yield Rooms(world)


@pytest.fixture
def codes() -> Codes:
    """Reads status codes."""
    return Codes()


class Codes:
    """Reads what rooms say about occupants."""

    def __call__(self, el: Element) -> set[int]:
        """The status codes in a stanza."""
        return {int(s.get("code", "0")) for s in el.findall(f"{X}/{{{USER}}}status")}

    def item(self, el: Element) -> dict[str, str]:
        """The attributes of the item in a presence."""
        item = el.find(f"{X}/{{{USER}}}item")
        assert item is not None, show(el)
        return dict(item.attrib)

    def matches(self, xml: str, el: Element) -> bool:
        """Whether a stanza matches a pattern."""
        return not mismatch(xml, el)
