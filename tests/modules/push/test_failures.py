"""Push services that refuse, do not answer, or are slow."""

from __future__ import annotations

import pytest
from tests.modules.push.conftest import (
    BARE,
    PHONE,
    PUSH,
    SERVICE,
    PushService,
    acknowledge,
    come_back,
    lose,
    phone,
    registrations,
    settings,
)
from tests.modules.sm.conftest import say

from beamish.modules.push import PushModule
from beamish.modules.push.notifier import RETRY_SECONDS
from beamish.storage.api import StorageUnavailable
from beamish.testing.client import Client
from beamish.testing.world import World
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza


@pytest.mark.parametrize(
    "condition",
    [
        Condition.ITEM_NOT_FOUND,
        Condition.NOT_ACCEPTABLE,
        Condition.FORBIDDEN,
        Condition.NOT_AUTHORIZED,
        Condition.GONE,
        Condition.CONFLICT,
    ],
)
async def test_what_a_service_refuses_for_good_ends_the_registration(
    world: World, service: PushService, romeo: Client, condition: Condition
) -> None:
    client, _ = await phone(world)
    await lose(world, client)
    service.error = StanzaError(condition)
    say(romeo, BARE, "x")
    assert await service.counts() == ["1"]
    assert registrations(world) == []
    assert await world.kernel.commands.run("push.list", {"jid": BARE}) == []
    say(romeo, BARE, "y")
    await world.pass_time(10_000)
    assert await service.counts() == []


@pytest.mark.parametrize(
    "error",
    [
        StanzaError(Condition.RESOURCE_CONSTRAINT),
        StanzaError(Condition.SERVICE_UNAVAILABLE),
        StanzaError(Condition.RECIPIENT_UNAVAILABLE),
        StanzaError(Condition.INTERNAL_SERVER_ERROR),
        StanzaError(Condition.BAD_REQUEST, Kind.CANCEL),
    ],
)
async def test_a_failure_that_may_pass_is_tried_again_later_each_time(
    world: World, service: PushService, romeo: Client, error: StanzaError
) -> None:
    client, _ = await phone(world)
    await lose(world, client)
    service.error = error
    say(romeo, BARE, "x")
    assert await service.counts() == ["1"]
    pause = RETRY_SECONDS
    for number in range(3):
        await world.pass_time(pause - 1)
        say(romeo, BARE, "more")
        assert await service.counts() == []
        await world.pass_time(1)
        assert await service.counts() == [str(number + 2)]
        pause *= 2
    (one,) = registrations(world)
    assert (one.failures, one.told) == (4, 0)
    service.error = None
    await world.pass_time(pause)
    assert await service.counts() == ["4"]
    assert (one.failures, one.told) == (0, 4)
    await world.pass_time(10_000)
    assert await service.counts() == []


async def test_a_device_that_is_back_is_not_told_of_what_failed(
    world: World, service: PushService, romeo: Client
) -> None:
    client, id_ = await phone(world)
    await lose(world, client)
    service.error = StanzaError(Condition.SERVICE_UNAVAILABLE)
    say(romeo, BARE, "x")
    assert await service.counts() == ["1"]
    client = await come_back(world, client, id_)
    acknowledge(world, client)
    await world.pass_time(20)
    assert await service.counts() == []
    assert registrations(world)[0].failures == 1


async def test_too_many_failures_in_a_row_end_it(romeo: Client) -> None:
    async with World(settings=settings(max_failures=5)) as world:
        service = PushService(world)
        nurse = await world.login("nurse@example.org/kitchen")
        client, _ = await phone(world)
        await client.close()
        service.error = StanzaError(Condition.SERVICE_UNAVAILABLE)
        say(nurse, BARE, "x")
        for _ in range(5):
            await world.pass_time(4_000)
        assert await service.counts() == ["1"] * 5
        assert registrations(world) == []


async def test_no_answer_is_a_failure(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await client.close()
    service.silent = True
    say(romeo, BARE, "x")
    assert await service.counts() == ["1"]
    say(romeo, BARE, "y")
    await world.pass_time(59)
    assert await service.counts() == []  # one is under way
    await world.pass_time(1)
    (one,) = registrations(world)
    assert (one.failures, one.unread) == (1, 2)
    await world.pass_time(RETRY_SECONDS)
    assert await service.counts() == ["2"]


async def test_an_answer_that_comes_late_for_another_visit_says_nothing_of_this_one(
    world: World, service: PushService, romeo: Client
) -> None:
    client, id_ = await phone(world)
    await lose(world, client)
    service.silent = True
    say(romeo, BARE, "x")
    await world.settle()
    client = await come_back(world, client, id_)
    (asked,) = service.unanswered
    world.kernel.router.answer(asked, asked.stanza.reply())
    await world.settle()
    (one,) = registrations(world)
    assert (one.told, one.unread) == (0, 0)


async def test_a_slow_service_holds_up_nobody_else() -> None:
    async with World(settings=settings(under_way=3, under_way_per_service=2)) as world:
        slow, quick = PushService(world), PushService(world, "quick.example.com")
        slow.silent = True
        nurse = await world.login("nurse@example.org/kitchen")
        phones = []
        for number in range(5):
            client = await world.login(f"juliet@example.org/{number}", presence=True)
            phones.append(client)
            await client.iq(
                f"<iq type='set' id='p'><enable xmlns='urn:xmpp:push:0' jid='{SERVICE}' node='{number}'/></iq>"
            )
        romeo = await world.login("romeo@example.org/orchard", presence=True)
        await romeo.iq("<iq type='set' id='p'><enable xmlns='urn:xmpp:push:0' jid='quick.example.com' node='q'/></iq>")
        for client in (*phones, romeo):
            await client.close()
        say(nurse, BARE, "x")
        await world.settle()
        assert [told.node for told in slow.told] == ["0", "1"]
        say(nurse, "romeo@example.org", "x")
        assert await quick.counts() == ["1"]
        notifier = world.kernel.registry.module(PushModule).notifier
        assert notifier.under_way == 2
        slow.silent = False
        for asked in slow.unanswered:
            world.kernel.router.answer(asked, asked.stanza.reply())
        await world.settle()
        assert sorted(told.node or "" for told in slow.told) == ["0", "1", "2", "3", "4"]
        assert notifier.under_way == 0
        assert not notifier._lanes and not notifier._waiting


async def test_whoever_waits_for_a_place_and_comes_back_gives_it_up() -> None:
    async with World(settings=settings(under_way=1)) as world:
        service = PushService(world)
        service.silent = True
        nurse = await world.login("nurse@example.org/kitchen")
        first, _ = await phone(world)
        second, id_ = await phone(world, "juliet@example.org/tablet", "n2")
        third, _ = await phone(world, "juliet@example.org/watch", "n3")
        for client in (first, second, third):
            await lose(world, client)
        say(nurse, BARE, "x")
        await world.settle()
        assert [told.node for told in service.told] == ["n1"]
        await come_back(world, second, id_)
        service.silent = False
        (asked,) = service.unanswered
        world.kernel.router.answer(asked, asked.stanza.reply())
        await world.settle()
        assert [told.node for told in service.told] == ["n1", "n3"]


async def test_a_service_that_is_not_there(world: World, romeo: Client) -> None:
    client, _ = await phone(world)  # nobody serves that domain, and there is no federation
    await client.close()
    say(romeo, BARE, "x")
    await world.settle()
    (one,) = registrations(world)
    assert one.failures == 1
    service = PushService(world)
    await world.pass_time(RETRY_SECONDS)
    assert await service.counts() == ["1"]


async def test_a_registration_that_is_renewed_meanwhile_is_not_ended(
    world: World, service: PushService, romeo: Client
) -> None:
    client, _ = await phone(world)
    await client.close()
    service.silent = True
    say(romeo, BARE, "x")
    await world.settle()
    await phone(world)
    (asked,) = service.unanswered
    world.kernel.router.bounce(asked, StanzaError(Condition.ITEM_NOT_FOUND))
    await world.settle()
    assert len(registrations(world)) == 1


async def test_nor_one_that_is_being_renewed(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await client.close()
    service.silent = True
    say(romeo, BARE, "x")
    await world.settle()
    client = await world.login(PHONE)
    with world.db.held():
        client.send(f"<iq type='set' id='p'><enable xmlns='{PUSH}' jid='{SERVICE}' node='n1'/></iq>")
        await world.settle()
        (asked,) = service.unanswered
        world.kernel.router.bounce(asked, StanzaError(Condition.ITEM_NOT_FOUND))
        await world.settle()
    await client.expect("<iq type='result' id='p'/>")
    await world.settle()
    assert len(registrations(world)) == 1
    assert len(await world.kernel.commands.run("push.list", {"jid": BARE})) == 1


async def test_a_device_that_registers_costs_another_one_nothing(
    world: World, service: PushService, romeo: Client
) -> None:
    client, _ = await phone(world)
    await client.close()
    tablet = await world.login(f"{BARE}/tablet")
    with world.db.held():
        tablet.send(f"<iq type='set' id='p'><enable xmlns='{PUSH}' jid='{SERVICE}' node='n2'/></iq>")
        await world.settle()
        say(romeo, BARE, "x")
        await world.settle()
    await tablet.expect("<iq type='result' id='p'/>")
    await world.pass_time(5)
    assert "n1" in {one.node for one in service.told}


async def test_nor_does_it_end_its_tries(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await client.close()
    service.silent = True
    say(romeo, BARE, "x")
    await world.settle()
    service.silent = False
    service.told.clear()
    tablet = await world.login(f"{BARE}/tablet")
    with world.db.held():
        tablet.send(f"<iq type='set' id='p'><enable xmlns='{PUSH}' jid='{SERVICE}' node='n2'/></iq>")
        await world.settle()
        (asked,) = service.unanswered
        world.kernel.router.bounce(asked, StanzaError(Condition.RESOURCE_CONSTRAINT))
        await world.settle()
    await tablet.expect("<iq type='result' id='p'/>")
    await world.pass_time(RETRY_SECONDS)
    assert await service.counts() == ["1"]


async def test_a_request_to_subscribe_is_told_when_the_service_is_back(
    world: World, service: PushService, romeo: Client
) -> None:
    client, _ = await phone(world)
    await client.close()
    service.error = StanzaError(Condition.SERVICE_UNAVAILABLE)
    romeo.send(f"<presence to='{BARE}' type='subscribe'/>")
    assert (await service.one()).fields == {"pending-subscription-count": "1"}
    service.error = None
    await world.pass_time(RETRY_SECONDS)
    assert (await service.one()).fields == {"pending-subscription-count": "1"}


async def test_the_database_cannot_be_read(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await client.close()
    module = world.kernel.registry.module(PushModule)
    read, module.store.address = module.store.address, _fails  # type: ignore[method-assign]
    say(romeo, BARE, "x")
    assert await service.counts() == []
    module.store.address = read  # type: ignore[method-assign]
    await world.pass_time(RETRY_SECONDS)
    assert await service.counts() == ["1"]


async def _fails(one: object) -> None:
    raise StorageUnavailable("the file is locked")


@pytest.mark.parametrize("resource", ["", "/phone"])
async def test_a_service_that_wants_no_more(world: World, service: PushService, resource: str) -> None:
    client, _ = await phone(world)
    if not resource:
        await client.close()

    def say_so(node: str, jid: str, affiliation: str) -> None:
        content = (
            f"<pubsub xmlns='http://jabber.org/protocol/pubsub' node='{node}'>"
            f"<affiliation jid='{jid}' affiliation='{affiliation}'/></pubsub>"
        )
        to = JID.parse(BARE + resource)
        message = Stanza.build("message", sender=JID.parse(SERVICE), to=to, content=content.encode())
        world.kernel.router.post(message)

    say_so("n1", BARE, "publish-only")
    say_so("n1", "romeo@example.org", "none")
    say_so("n2", BARE, "none")
    await world.settle()
    assert len(registrations(world)) == 1
    say_so("n1", BARE, "none")
    await world.settle()
    assert registrations(world) == []
    assert await service.counts() == []
