"""What clients may ask, what is kept of it, and the commands."""

from __future__ import annotations

from typing import Any

import pytest
from tests.modules.push.conftest import (
    BARE,
    PHONE,
    PUBSUB,
    PUSH,
    SERVICE,
    PushService,
    fields,
    phone,
    register,
    registrations,
    settings,
)
from tests.modules.sm.conftest import say

from beamish.core import events
from beamish.core.commands import CommandError
from beamish.modules.push import PushModule
from beamish.testing.client import Client
from beamish.testing.match import condition
from beamish.testing.world import World
from beamish.xmpp.jid import JID

OPTIONS = "http://jabber.org/protocol/pubsub#publish-options"
FORM = (
    "<x xmlns='jabber:x:data' type='{}'><field var='FORM_TYPE'><value>{}</value></field>"
    "<field var='secret' type='text-private' label='Secret'><value>eruio &lt;234</value></field>"
    "<field var='pushModule'><value>a</value><value>b</value></field></x>"
)


async def ask(client: Client, inner: str, type: str = "result", to: str = "") -> Any:
    at = f" to='{to}'" if to else ""
    return await client.iq(f"<iq type='set' id='q'{at}>{inner}</iq>", type)


async def listed(world: World, jid: str = BARE) -> list[dict[str, Any]]:
    found = await world.kernel.commands.run("push.list", {"jid": jid})
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("tag", ["enable", "disable"])
@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ("", "bad-request"),
        ("node='n'", "bad-request"),
        ("jid=''", "bad-request"),
        ("jid='a@@b' node='n'", "jid-malformed"),
        (f"jid='{SERVICE}' node='{'n' * 1025}'", "not-acceptable"),
    ],
)
async def test_requests_that_name_no_service(world: World, tag: str, attributes: str, error: str) -> None:
    juliet = await world.login(PHONE)
    got = await ask(juliet, f"<{tag} xmlns='{PUSH}' {attributes}/>", "error")
    assert condition(got) == error
    assert registrations(world) == []


@pytest.mark.parametrize(
    ("form", "error"),
    [
        (FORM.format("submit", "urn:xmpp:push:summary"), "bad-request"),
        (FORM.format("result", OPTIONS), "bad-request"),
        (FORM.format("submit", OPTIONS) * 2, "bad-request"),
        (FORM.format("submit", OPTIONS).replace("eruio", "e" * 5000), "not-acceptable"),
    ],
)
async def test_forms_that_are_no_publish_options(world: World, form: str, error: str) -> None:
    juliet = await world.login(PHONE)
    got = await ask(juliet, f"<enable xmlns='{PUSH}' jid='{SERVICE}' node='n'>{form}</enable>", "error")
    assert condition(got) == error
    assert await listed(world) == []


async def test_only_for_oneself(world: World) -> None:
    juliet = await world.login(PHONE)
    enable = f"<enable xmlns='{PUSH}' jid='{SERVICE}' node='n'/>"
    assert condition(await ask(juliet, enable, "error", "romeo@example.org")) == "forbidden"
    assert condition(await ask(juliet, enable, "error", "example.org")) == "service-unavailable"
    await ask(juliet, enable, to=BARE)
    assert condition(await ask(juliet, f"<disable xmlns='{PUSH}' jid='{SERVICE}'/>", "error", "romeo@example.org")) == (
        "forbidden"
    )
    assert len(registrations(world)) == 1


async def test_an_account_is_not_its_own_service(world: World) -> None:
    juliet = await world.login(PHONE)
    for jid in (BARE, "juliet@example.org/bot"):
        got = await ask(juliet, f"<enable xmlns='{PUSH}' jid='{jid}' node='n'/>", "error")
        assert condition(got) == "not-acceptable"


async def test_guests_have_none() -> None:
    async with World(settings=settings() | {"c2s": {"anonymous": True}}) as world:
        guest = await world.guest()
        got = await ask(guest, f"<enable xmlns='{PUSH}' jid='{SERVICE}' node='n'/>", "error")
        assert condition(got) == "not-allowed"
        info = await guest.iq(
            f"<iq type='get' id='i' to='{guest.jid.bare}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
        )
        assert PUSH not in {el.get("var") for el in info[0]}


async def test_accounts_announce_it_and_the_server_does_not(world: World) -> None:
    juliet = await world.login(PHONE)
    for at, there in ((BARE, True), ("example.org", False)):
        info = await juliet.iq(
            f"<iq type='get' id='i' to='{at}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
        )
        assert (PUSH in {el.get("var") for el in info[0]}) is there


@pytest.mark.parametrize("type", ["submit", "form"])
async def test_publish_options_go_with_each_notification(
    world: World, service: PushService, romeo: Client, type: str
) -> None:
    juliet = await world.login(PHONE)
    await register(juliet, inner=FORM.format(type, OPTIONS))
    await juliet.close()
    say(romeo, BARE, "x")
    told = await service.one()
    (options,) = told.rest
    assert options.tag == f"{{{PUBSUB}}}publish-options"
    (form,) = options
    assert form.get("type") == "submit"
    assert fields(form) == {"FORM_TYPE": OPTIONS, "secret": "eruio <234", "pushModule": "a"}
    assert [v.text for v in form[2]] == ["a", "b"]


async def test_the_latest_request_counts(world: World, service: PushService, romeo: Client) -> None:
    juliet = await world.login(PHONE)
    await register(juliet, inner=FORM.format("submit", OPTIONS))
    await register(juliet)
    assert len(registrations(world)) == 1
    await juliet.close()
    say(romeo, BARE, "x")
    assert (await service.one()).rest == []


async def test_a_service_without_a_node(world: World, service: PushService, romeo: Client) -> None:
    juliet = await world.login(PHONE)
    await ask(juliet, f"<enable xmlns='{PUSH}' jid='{SERVICE}'/>")
    await juliet.close()
    say(romeo, BARE, "x")
    assert (await service.one()).node is None


async def test_disabling_one_node_and_all(world: World, service: PushService, romeo: Client) -> None:
    juliet = await world.login(PHONE)
    for node in ("n1", "n2", "n3"):
        await register(juliet, node)
    await register(juliet, "n1", service="other.example.com")
    await ask(juliet, f"<disable xmlns='{PUSH}' jid='{SERVICE}' node='n2'/>")
    assert [(row["service"], row["node"]) for row in await listed(world)] == [
        (SERVICE, "n1"),
        (SERVICE, "n3"),
        ("other.example.com", "n1"),
    ]
    await ask(juliet, f"<disable xmlns='{PUSH}' jid='{SERVICE}'/>")
    assert [row["service"] for row in await listed(world)] == ["other.example.com"]
    await ask(juliet, f"<disable xmlns='{PUSH}' jid='{SERVICE}'/>")  # there is nothing left of it, as was asked for
    await juliet.close()
    say(romeo, BARE, "x")
    assert await service.counts() == []


async def test_nobody_listens_while_nobody_has_registered(world: World) -> None:
    points = (
        events.delivered,
        events.undelivered,
        events.unreached,
        events.reached,
        events.presence_changed,
        events.subscription_asked,
    )

    def listening() -> list[bool]:
        return [any(row.owner == "push" for row in world.kernel.hooks[point].rows) for point in points]

    assert not any(listening())
    juliet = await world.login(PHONE)
    await register(juliet)
    assert all(listening())
    await ask(juliet, f"<disable xmlns='{PUSH}' jid='{SERVICE}'/>")
    assert not any(listening())


async def test_a_result_is_a_commit(world: World) -> None:
    juliet = await world.login(PHONE)
    with world.db.held():
        juliet.send(f"<iq type='set' id='p'><enable xmlns='{PUSH}' jid='{SERVICE}' node='n'/></iq>")
        await juliet.expect_nothing()
    await juliet.expect("<iq type='result' id='p'/>")
    with world.db.held():
        juliet.send(f"<iq type='set' id='d'><disable xmlns='{PUSH}' jid='{SERVICE}'/></iq>")
        await juliet.expect_nothing()
    await juliet.expect("<iq type='result' id='d'/>")


async def test_a_full_disk_is_told(world: World, expected_errors: set[str]) -> None:
    juliet = await world.login(PHONE)
    expected_errors.add("iq_handler_failed")
    with world.db.refusing():
        await ask(juliet, f"<enable xmlns='{PUSH}' jid='{SERVICE}' node='n'/>", "error")
    assert registrations(world) == []


async def test_the_oldest_device_goes_when_there_are_too_many() -> None:
    async with World(settings=settings(registrations_per_account=2)) as world:
        juliet = await world.login(PHONE)
        for node in ("n1", "n2", "n1", "n3"):
            await world.pass_time(1)
            await register(juliet, node)
        assert [row["node"] for row in await listed(world)] == ["n1", "n3"]
        assert len(registrations(world)) == 2


async def test_nothing_stays_of_an_account(world: World, service: PushService, romeo: Client) -> None:
    await phone(world)
    say(romeo, BARE, "not confirmed")
    await world.settle()
    await world.kernel.commands.run("user.remove", {"jid": BARE})
    await world.settle()
    assert registrations(world) == []
    assert await listed(world) == []
    await world.pass_time(10)
    assert await service.counts() == []
    await world.kernel.commands.run("user.add", {"jid": BARE, "password": "x"})
    say(romeo, BARE, "to the next of the name")
    assert await service.counts() == []


async def test_a_locked_account_is_not_notified(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await client.close()
    await world.kernel.commands.run("user.disable", {"jid": BARE})
    await world.settle()
    service.told.clear()
    say(romeo, BARE, "x")
    await world.pass_time(10)
    assert await service.counts() == []
    await world.kernel.commands.run("user.enable", {"jid": BARE})
    say(romeo, BARE, "y")
    assert len(await service.counts()) == 1


# ---- commands -----------------------------------------------------------------------------------------------------------


async def test_what_the_list_shows(world: World, service: PushService, romeo: Client) -> None:
    client, _ = await phone(world)
    await client.close()
    (row,) = await listed(world)
    assert row | {"enabled": ""} == {
        "service": SERVICE,
        "node": "n1",
        "resource": "phone",
        "enabled": "",
        "unread": 0,
        "told": 0,
        "failures": 0,
        "tried": "",
        "answer": "",
    }
    say(romeo, BARE, "x")
    await world.settle()
    (row,) = await listed(world)
    assert (row["unread"], row["told"], row["answer"]) == (1, 1, "ok")
    assert row["tried"].endswith("Z")
    assert await listed(world, "romeo@example.org") == []


async def test_an_administrator_removes_some_or_all(world: World) -> None:
    juliet = await world.login(PHONE)
    for service, node in ((SERVICE, "n1"), (SERVICE, "n2"), ("other.example.com", "n1")):
        await register(juliet, node, service=service)
    run = world.kernel.commands.run
    assert (await run("push.remove", {"jid": BARE, "service": SERVICE, "node": "n2"}))["removed"] == 1
    assert len(registrations(world)) == 2
    with pytest.raises(CommandError):
        await run("push.remove", {"jid": BARE, "service": "a@@b"})
    assert (await run("push.remove", {"jid": BARE}))["removed"] == 2
    assert registrations(world) == []


async def test_an_administrator_tries_it(world: World, service: PushService) -> None:
    await phone(world)
    found = await world.kernel.commands.run("push.test", {"jid": BARE})
    assert found == [{"service": SERVICE, "node": "n1", "answer": "ok"}]
    assert (await service.one()).count == "1"
    (one,) = registrations(world)
    assert (one.unread, one.told) == (0, 0)


async def test_registrations_are_found_again(world: World) -> None:
    await phone(world)
    again = PushModule(world.kernel, PushModule.Config())
    await again.start()
    (one,) = again.store.of[JID.parse(BARE)]
    assert (one.service, one.resource) == (SERVICE, "phone")
    again._listen(False)
