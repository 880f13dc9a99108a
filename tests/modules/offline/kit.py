"""What plays about offline messages have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from beamish.modules.offline import OfflineModule
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element

JULIET: Final = JID.parse("juliet@example.org")
ALONE: Final[dict[str, Any]] = {"disable": ["mam", "sm"]}
"""Modules so that rows, bytes and failures of the database are those of offline storage, and pings its only proof."""
DELAY: Final = "{urn:xmpp:delay}delay"
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


def module(world: World) -> OfflineModule:
    return next(m for m in world.kernel.registry.modules if isinstance(m, OfflineModule))
