"""Nodes of accounts: who plays, and what they publish."""

from __future__ import annotations

import asyncio

from beamish.testing.client import Client

from .kit import EVENT, PUBSUB, Stage, form

TUNE = "http://jabber.org/protocol/tune"
MOOD = "http://jabber.org/protocol/mood"
OPTIONS = f"{PUBSUB}#publish-options"


async def cast(stage: Stage) -> tuple[Client, Client, Client]:
    """Juliet, her friend Romeo, and Mercutio whom she does not know. All are interested in tunes."""
    juliet = await stage.login("juliet@example.org/balcony")
    romeo = await stage.login("romeo@example.org/orchard")
    mercutio = await stage.login("mercutio@example.org/street")
    await stage.befriend(juliet, romeo)
    for client in (juliet, romeo, mercutio):
        stage.caps.of(client.jid, TUNE)
    return juliet, romeo, mercutio


def tune(title: str, node: str = TUNE, id: str = "current") -> str:
    return f"<publish node='{node}'><item id='{id}'><tune xmlns='{TUNE}'><title>{title}</title></tune></item></publish>"


def publish(title: str, **options: str) -> str:
    if not options:
        return tune(title)
    return tune(title) + f"<publish-options>{form(OPTIONS, options)}</publish-options>"


async def titles(stage: Stage, who: Client, wanted: int = 0) -> list[str]:
    """The titles of the tunes in the notifications that have arrived; `wanted` of them are waited for.

    What is known already is sent when it has been read from the database, by which time other requests may be answered.
    """
    async with asyncio.timeout(10):
        while True:
            await stage.quiet(who)
            events = [el for el in who.inbox if el.find(f".//{{{EVENT}}}item") is not None]
            if len(events) >= wanted:
                break
    who.inbox.clear()
    return [el.findtext(f".//{{{TUNE}}}title") or "" for el in events]
