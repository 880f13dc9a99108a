"""What plays about offline messages have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from beamish.core.sessions import Session
from beamish.modules.offline import OfflineModule
from beamish.storage.api import Database
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element

JULIET: Final = JID.parse("juliet@example.org")
ALONE: Final[dict[str, Any]] = {"disable": ["mam", "sm"]}
"""Modules so that rows, bytes and failures of the database are those of offline storage, and pings its only proof."""
DELAY: Final = "{urn:xmpp:delay}delay"
NOW: Final = 1_700_000_000.25
CHAT_STATE: Final = "<composing xmlns='http://jabber.org/protocol/chatstates'/>"


def say(client: Client, text: str, to: str = JULIET, **attributes: str) -> None:
    """Send a message whose id is its text."""
    given = {"type": "chat", "id": text} | attributes
    extra = " ".join(f"{k}='{v}'" for k, v in given.items() if v)
    client.send(f"<message to='{to}' {extra}><body>{text}</body></message>")


async def stored(world: World, account: str = JULIET) -> list[str]:
    """The bodies in the store, committed or not."""
    rows = await world.db.write(
        "test", lambda c: c.rows("SELECT wire FROM offline_message WHERE account = ? ORDER BY id", str(account))
    )
    return [Stanza.parse(bytes(wire)).text("{jabber:client}body") or "" for (wire,) in rows]


def take(client: Client) -> tuple[list[Element], list[Element]]:
    """Empty the inbox: its messages, and the pings."""
    got = list(client.inbox)
    client.inbox.clear()
    messages = [el for el in got if el.tag == "{jabber:client}message"]
    return messages, [el for el in got if el.find("{jabber:iq:version}query") is not None]


def bodies(messages: list[Element]) -> list[str | None]:
    return [el.findtext("{*}body") for el in messages]


async def read_page(world: World, client: Client) -> list[str | None]:
    """Read what has come, and answer its ping; the bodies. The server has done all that follows from the answer."""
    messages, pings = take(client)
    answer(client, pings[0])
    await world.settle()
    return bodies(messages)


def answer(client: Client, ping: Element, type: str = "result") -> None:
    """Answer a ping, as every client must."""
    error = "<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
    inner = error if type == "error" else ""
    client.send(f"<iq type='{type}' id='{ping.get('id')}' to='{ping.get('from')}'>{inner}</iq>")


def slow_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let no read of offline storage end until the event is set."""
    done = asyncio.Event()

    def slow(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def read(first: str, *rest: Any) -> Any:
            found = await real(first, *rest)
            if "offline" in first:  # the name of a read, or the statement
                await done.wait()
            return found

        return read

    monkeypatch.setattr(world.db, "read", slow(world.db.read))
    monkeypatch.setattr(world.db, "fetch", slow(world.db.fetch))
    return done


async def insert(db: Database, *wires: bytes) -> None:
    """Rows as somebody else might have written them."""
    rows = [(str(JULIET), NOW, wire) for wire in wires]
    await db.write(
        "test", lambda c: c.many("INSERT INTO offline_message (account, stamp, wire) VALUES (?, ?, ?)", rows)
    )


def session_of(world: World, client: Client) -> Session:
    """What the server knows a client by."""
    session = world.kernel.sessions.get(client.jid)
    assert session is not None
    return session


class Overheard:
    """Takes the place of a session's outlet, and keeps what it passes on."""

    def __init__(self, session: Session) -> None:
        self.stanzas: list[Stanza] = []
        self._outlet = session.outlet
        session.outlet = self

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        """See `Outlet.deliver`."""
        self.stanzas.append(stanza)
        return self._outlet.deliver(data, stanza)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outlet, name)


def module(world: World) -> OfflineModule:
    return world.kernel.registry.module(OfflineModule)
