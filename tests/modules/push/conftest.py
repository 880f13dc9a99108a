"""A push service within the world, and clients that use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest_asyncio
from tests.modules.sm.conftest import CALM, SM, enable, resume

from beamish.core.events import Context
from beamish.modules.push import PushModule
from beamish.modules.push.store import Registration
from beamish.modules.sm import StreamManagementModule
from beamish.modules.sm.outlet import Sent
from beamish.stream.resume import Unconfirmed
from beamish.testing.client import Client
from beamish.testing.forms import form_problems, forms_in
from beamish.testing.world import World
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element

PUSH = "urn:xmpp:push:0"
PUBSUB = "http://jabber.org/protocol/pubsub"
SERVICE = "push.example.com"
PHONE = "juliet@example.org/phone"
BARE = "juliet@example.org"
DATA = "{jabber:x:data}"
Settings = dict[str, Any]


def settings(*, disable: tuple[str, ...] = (), sm: Settings | None = None, **push: Any) -> Settings:
    """Settings of a world, with options of push notifications."""
    modules: Settings = {"disable": disable, "push": push}
    if sm is not None:
        modules["sm"] = sm
    return {"modules": modules, "c2s": CALM}


class Told:
    """One notification as it was published."""

    def __init__(self, stanza: Stanza) -> None:
        self.stanza = stanza
        pubsub = stanza.el[0]
        assert pubsub.tag == f"{{{PUBSUB}}}pubsub"
        self.publish, *self.rest = list(pubsub)
        ((self.notification,),) = self.publish
        assert self.notification.tag == f"{{{PUSH}}}notification"
        self.node = self.publish.get("node")
        (form,) = self.notification
        self.fields = fields(form)
        assert self.fields.pop("FORM_TYPE") == "urn:xmpp:push:summary"
        for found in forms_in(stanza.el):
            assert not form_problems(found)

    @property
    def count(self) -> str | None:
        """`message-count`."""
        return self.fields.get("message-count")


def fields(form: Element) -> dict[str, str]:
    """A form's fields with one value each."""
    return {f.get("var", ""): f.findtext(f"{DATA}value") or "" for f in form.iterfind(f"{DATA}field")}


class PushService:
    """An app server: what was published to it, and what it answers."""

    def __init__(self, world: World, domain: str = SERVICE) -> None:
        self.world = world
        self.told: list[Told] = []
        self.error: StanzaError | None = None
        self.silent = False
        self.unanswered: list[Context] = []
        world.kernel.router.add_service(domain, self._take)

    def _take(self, ctx: Context) -> Awaitable[None] | None:
        self.told.append(Told(ctx.stanza))
        if self.silent:
            self.unanswered.append(ctx)
        elif self.error is not None:
            self.world.kernel.router.bounce(ctx, self.error)
        else:
            self.world.kernel.router.answer(ctx, ctx.stanza.reply())
        return None

    async def counts(self) -> list[str | None]:
        """What has arrived by now, as counts; taken."""
        await self.world.settle()
        found = [one.count for one in self.told]
        self.told.clear()
        return found

    async def one(self) -> Told:
        """The only notification that has arrived; taken."""
        await self.world.settle()
        (found,) = self.told
        self.told.clear()
        return found


async def register(client: Client, node: str = "n1", *, service: str = SERVICE, inner: str = "") -> None:
    """Ask for notifications."""
    await client.iq(
        f"<iq type='set' id='push'><enable xmlns='{PUSH}' jid='{service}' node='{node}'>{inner}</enable></iq>"
    )


async def phone(world: World, address: str = PHONE, node: str = "n1", *, carbons: bool = False) -> tuple[Client, str]:
    """A device that is available, can be resumed, and has asked for notifications; its session's id."""
    client = await world.login(address, presence=True)
    id_ = await enable(client)
    await register(client, node)
    if carbons:
        await client.iq("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    await world.settle()
    acknowledge(world, client)
    await world.settle()
    client.inbox.clear()
    return client, id_


def queue_of(world: World, client: Client) -> Unconfirmed[Sent]:
    """What a client was sent and has not confirmed."""
    session = world.kernel.sessions.get(client.jid)
    assert session is not None
    managed = world.kernel.registry.module(StreamManagementModule).managing(session)
    assert managed is not None
    return managed.queue


def acknowledge(world: World, client: Client) -> None:
    """Confirm everything that the client was sent."""
    client.send(f"<a xmlns='{SM}' h='{queue_of(world, client).sent}'/>")


async def come_back(world: World, client: Client, id: str) -> Client:
    """Resume the session on another connection, having seen what was confirmed before."""
    return await resume(world, client, id, queue_of(world, client).confirmed)


async def lose(world: World, client: Client) -> None:
    """Cut the connection."""
    client.drop()
    await world.settle()


def registrations(world: World, account: str = BARE) -> list[Registration]:
    """What is registered of an account, in memory."""
    return list(world.kernel.registry.module(PushModule).store.of.get(JID.parse(account), ()))


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World(settings=settings()) as made:
        yield made


@pytest_asyncio.fixture
async def service(world: World) -> PushService:
    return PushService(world)


@pytest_asyncio.fixture
async def romeo(world: World) -> Client:
    return await world.login("romeo@example.org/orchard", presence=True)
