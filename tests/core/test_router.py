"""RFC 6121 §8.5 cell by cell, and RFC 6120 §8.1.2.1, §8.2.3 and §10."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from beamish.core import events
from beamish.core.events import Context
from beamish.core.hooks import STOP, Row, Verdict
from beamish.core.router import BARE_TABLE, FULL_TABLE, Action, Reach
from beamish.testing import Client, World
from beamish.testing.plugin import ExpectedErrors
from beamish.xmpp.errors import Condition, StanzaError

TYPES = ("normal", "chat", "groupchat", "headline", "error")
O, E, S, A = Action.STORE, Action.BOUNCE, Action.IGNORE, Action.ALL  # noqa: E741


def test_the_tables_are_those_of_the_rfc() -> None:
    """Every choice lies within table 1 of RFC 6121 §8.5.4; M and D mean A here, as all devices get a message."""
    allowed_bare = {
        Reach.NO_ACCOUNT: ({S, E}, {S, E}, {E, S}, {S}, {S}),
        Reach.NO_RESOURCES: ({O, E}, {O, E}, {E}, {S}, {S}),
        Reach.ONLY_NEGATIVE: ({O, E}, {O, E}, {E}, {S}, {S}),
        Reach.SOME: ({A}, {A}, {E}, {A}, {S}),
    }
    allowed_full = {
        Reach.NO_ACCOUNT: ({S, E}, {S, E}, {S, E}, {S, E}, {S}),
        Reach.NO_RESOURCES: ({S, E}, {O, E}, {S, E}, {S, E}, {S}),
        Reach.ONLY_NEGATIVE: ({S, E}, {O, E}, {S, E}, {S, E}, {S}),
        Reach.SOME: ({S, E}, {A}, {S, E}, {S, E}, {S}),
    }
    for table, allowed in ((BARE_TABLE, allowed_bare), (FULL_TABLE, allowed_full)):
        for reach in Reach:
            for type_, choices in zip(TYPES, allowed[reach], strict=True):
                assert table[reach][type_] in choices, (reach, type_)


# who is there → address → the answer for each of TYPES: who gets it ("a", "b", "ab"), O stored, E error, - nothing
CELLS = {
    ("nobody", "stranger@example.org"): "E E E - -",
    ("nobody", "stranger@example.org/x"): "E E E - -",
    ("nobody", "juliet@example.org"): "O O E - -",
    ("nobody", "juliet@example.org/x"): "E O E - -",
    ("connected", "juliet@example.org"): "O O E - -",
    ("connected", "juliet@example.org/x"): "E O E - -",
    ("connected", "juliet@example.org/a"): "a a a a a",
    ("negative", "juliet@example.org"): "O O E - -",
    ("negative", "juliet@example.org/a"): "a a a a a",
    ("negative", "juliet@example.org/x"): "E O E - -",
    ("one", "juliet@example.org"): "a a E a -",
    ("one", "juliet@example.org/a"): "a a a a a",
    ("one", "juliet@example.org/x"): "E a E - -",
    ("two", "juliet@example.org"): "ab ab E ab -",
    ("two", "juliet@example.org/a"): "a a a a a",
    ("two", "juliet@example.org/x"): "E ab E - -",
    ("one and negative", "juliet@example.org"): "a a E a -",
    ("one and negative", "juliet@example.org/b"): "b b b b b",
    ("one and negative", "juliet@example.org/x"): "E a E - -",
    ("one and connected", "juliet@example.org"): "a a E a -",
    ("one and connected", "juliet@example.org/b"): "b b b b b",
}
PRESENCES: dict[str, tuple[int | None, ...]] = {
    "nobody": (),
    "connected": (None,),
    "negative": (-1,),
    "one": (0,),
    "two": (5, 1),
    "one and negative": (0, -3),
    "one and connected": (0, None),
}


async def devices(world: World, who: str) -> dict[str, Client]:
    got = {}
    for name, priority in zip("ab", PRESENCES[who], strict=False):
        got[name] = await world.login(f"juliet@example.org/{name}", priority=priority)
    await world.settle()
    for client in got.values():
        client.inbox.clear()
    return got


@pytest.mark.parametrize(("who", "to"), CELLS)
async def test_messages(who: str, to: str) -> None:
    stored: list[str] = []

    def keep(ctx: Context) -> Verdict:
        stored.append(ctx.stanza.id)
        return STOP

    async with World() as world:
        world.kernel.hooks[events.undelivered].add(Row(0, "test", keep))
        romeo = await world.login("romeo@example.org/orchard")
        juliets = await devices(world, who)
        for type_, expected in zip(TYPES, CELLS[who, to].split(), strict=True):
            shown = "" if type_ == "normal" else f" type='{type_}'"
            romeo.send(f"<message to='{to}'{shown} id='{type_}'><body>hi</body></message>")
            await world.settle()
            if type_ != "error":
                for name, client in juliets.items():
                    if name in expected:
                        await client.expect(f"<message to='{to}' from='{romeo.jid}' id='{type_}'/>")
            else:
                for name, client in juliets.items():
                    if name in expected:
                        await client.expect(f"<message to='{to}' type='error'/>")
            if expected == "E":
                await romeo.expect(
                    f"<message type='error' from='{to}' to='{romeo.jid}' id='{type_}'><error type='cancel'>"
                    "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
                )
            assert (type_ in stored) is (expected == "O")
            for client in (romeo, *juliets.values()):
                await client.expect_nothing()


async def test_without_anybody_who_keeps_messages_they_bounce() -> None:
    from beamish.core.registry import discover

    without = [cls for cls in discover() if cls.default and cls.name not in ("offline", "mam")]
    async with World(modules=without) as world:
        romeo = await world.login("romeo@example.org/orchard")
        romeo.send("<message to='juliet@example.org' id='1'/>")
        await romeo.expect("<message type='error' id='1' from='juliet@example.org'/>")


async def test_an_unknown_type_is_normal(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/a", presence=True)
    romeo.send("<message to='juliet@example.org' type='strange' id='1'><body>x</body></message>")
    await juliet.expect("<message type='strange' id='1'/>")


async def test_a_message_without_address_is_for_oneself(world: World) -> None:
    """RFC 6120 §10.3.1."""
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    other = await world.login("romeo@example.org/phone", presence=True)
    await world.settle()
    romeo.inbox.clear()
    other.inbox.clear()
    romeo.send("<message id='1'><body>note</body></message>")
    for client in (romeo, other):
        await client.expect("<message from='romeo@example.org/orchard' to='romeo@example.org' id='1'/>")


# ---- IQs --------------------------------------------------------------------------------------------------------------

PING = "<ping xmlns='urn:xmpp:ping'/>"
UNAVAILABLE = "<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"


@pytest.mark.parametrize(
    "to", ["stranger@example.org", "stranger@example.org/x", "juliet@example.org/x", "juliet@example.org", None,
           "example.org", "example.org/x", "example.net", "juliet@example.org/a"]
)  # fmt: skip
@pytest.mark.parametrize("type_", ["get", "set"])
async def test_a_request_that_nobody_understands_is_answered(to: str | None, type_: str, world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/a", presence=True)
    address = f" to='{to}'" if to else ""
    answer = await romeo.iq(f"<iq type='{type_}' id='1'{address}><q xmlns='urn:nobody:knows'/></iq>", "error")
    assert answer.find(".//{*}service-unavailable") is not None
    assert answer.get("from") == to
    await juliet.expect_nothing()


@pytest.mark.parametrize("type_", ["result", "error"])
@pytest.mark.parametrize("to", ["stranger@example.org", "juliet@example.org/x", "juliet@example.org", None, "example.org",
                                "nowhere.example"])  # fmt: skip
async def test_answers_are_not_answered(to: str | None, type_: str, world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    address = f" to='{to}'" if to else ""
    romeo.send(f"<iq type='{type_}' id='1'{address}/>")
    await romeo.expect_nothing()


async def test_answers_reach_the_resource_that_asked(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/a")
    for type_ in ("result", "error"):
        romeo.send(f"<iq type='{type_}' id='{type_}' to='{juliet.jid}'/>")
        await juliet.expect(f"<iq type='{type_}' id='{type_}' from='{romeo.jid}'/>")


async def test_requests_reach_only_those_who_share_their_presence(world: World) -> None:
    """RFC 6121 §8.5.3.1."""
    romeo = await world.login("romeo@example.org/orchard", roster=True, presence=True)
    juliet = await world.login("juliet@example.org/a", roster=True, presence=True)
    request = f"<iq type='get' id='1' to='{juliet.jid}'><q xmlns='urn:x'/></iq>"
    await romeo.iq(request, "error")
    await juliet.expect_nothing()
    juliet.send(f"<presence to='{romeo.jid}'/>")
    await romeo.expect("<presence/>")
    romeo.send(request)
    await juliet.expect(f"<iq type='get' id='1' from='{romeo.jid}'><q xmlns='urn:x'/></iq>")
    juliet.send(f"<presence to='{romeo.jid}' type='unavailable'/>")
    await romeo.expect("<presence type='unavailable'/>")
    await romeo.iq(request.replace("'1'", "'2'"), "error")
    await world.befriend(romeo, juliet)
    romeo.send(request)
    await juliet.expect("<iq type='get' id='1'/>")
    own = await world.login("juliet@example.org/b")
    own.send(request)
    await juliet.expect(f"<iq type='get' id='1' from='{own.jid}'/>")


async def test_requests_of_strangers_reach_clients_where_that_is_wished() -> None:
    """An option; blocked strangers and addresses that nobody has get no further."""
    async with World(settings={"modules": {"presence": {"requests_from_strangers": True}}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        juliet = await world.login("juliet@example.org/balcony")
        question = "<iq to='juliet@example.org/{}' type='get' id='{}'><query xmlns='jabber:iq:version'/></iq>"
        romeo.send(question.format("balcony", 1))
        await juliet.expect("<iq from='romeo@example.org/orchard' id='1'><query xmlns='jabber:iq:version'/></iq>")
        await juliet.iq(
            "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@example.org'/></block></iq>"
        )
        for resource in ("balcony", "moon"):
            romeo.send(question.format(resource, resource))
            await romeo.expect(f"<iq type='error' id='{resource}'><error type='cancel'/></iq>")
        juliet.inbox.clear()
        await juliet.expect_nothing()


@pytest.mark.parametrize(
    "sent",
    [
        "<iq type='get'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq id='1' type='subscribe'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq id='1' type='get'/>",
        "<iq id='1' type='set'/>",
        "<iq id='1' type='get'><ping xmlns='urn:xmpp:ping'/><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq id='1' type='get' to='example.org'/>",
        "<iq id='1' type='get' to='romeo@example.org'/>",
    ],
)
async def test_an_iq_has_id_type_and_one_child(sent: str, world: World) -> None:
    """RFC 6120 §8.2.3."""
    romeo = await world.login("romeo@example.org/orchard")
    romeo.send(sent)
    await romeo.expect(
        "<iq type='error'><error><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
    )


# ---- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claimed", ["", " from='romeo@example.org'", " from='romeo@example.org/orchard'",
                                     " from='ROMEO@EXAMPLE.ORG/orchard'"])  # fmt: skip
async def test_the_server_stamps_the_sender(claimed: str, world: World) -> None:
    """RFC 6120 §8.1.2.1."""
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/a", presence=True)
    romeo.send(f"<message to='juliet@example.org/a'{claimed} id='1'/>")
    await juliet.expect("<message from='romeo@example.org/orchard' id='1'/>")


@pytest.mark.parametrize(
    "claimed", ["juliet@example.org", "romeo@example.org/other", "example.org", "romeo@example.net"]
)
async def test_a_forged_sender_ends_the_stream(claimed: str, world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/a", presence=True)
    romeo.send(
        f"<message to='{juliet.jid}' id='1'/><message to='{juliet.jid}' from='{claimed}'/><message to='{juliet.jid}'/>"
    )
    await romeo.expect_closed("invalid-from")
    await juliet.expect("<message id='1'/>")
    await juliet.expect_nothing()


@pytest.mark.parametrize("kind", ["message", "presence", "iq"])
async def test_a_malformed_address_is_an_error_from_the_server(kind: str, world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    romeo.send(f"<{kind} to='not @ a jid' id='1' type='set'><x xmlns='urn:x'/></{kind}>")
    await romeo.expect(
        f"<{kind} type='error' id='1' from='example.org' to='{romeo.jid}'><error type='modify'>"
        f"<jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></{kind}>"
    )
    romeo.send("<message to='@' type='error'/><iq to='@' type='result' id='2'/>")
    await romeo.expect_nothing()


@pytest.mark.parametrize("room", ["cave@conference.example.org", "cave@rooms.example"])
async def test_a_nickname_that_cannot_be_is_an_error_from_the_room(room: str, world: World) -> None:
    """RFC 6120 §8.3.1 rule 2: not from the malformed address, but clients find what they asked for by the bare one."""
    romeo = await world.login("romeo@example.org/orchard")
    muc = "<x xmlns='http://jabber.org/protocol/muc'/>"
    romeo.send(
        f"<presence to='{room}/heart\u2764\ufe0f' id='1'>{muc}</presence><presence to='{room}/' id='2'>{muc}</presence>"
    )
    for id_ in "12":
        await romeo.expect(
            f"<presence type='error' id='{id_}' from='{room}' to='{romeo.jid}'><error type='modify'>"
            "<jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>"
        )


async def test_where_there_is_no_federation_a_remote_domain_is_not_found() -> None:
    from beamish.core.registry import discover

    async with World(modules=[cls for cls in discover() if cls.default and cls.name != "s2s"]) as world:
        romeo = await world.login("romeo@example.org/orchard")
        for sent in ("<message to='x@elsewhere.example' id='1'/>", "<iq to='elsewhere.example' type='get' id='1'/>"):
            romeo.send(sent)
            got = await romeo.receive()
            assert got.find(".//{*}remote-server-not-found") is not None
            assert got.get("id") == "1"


async def test_a_service_gets_everything_for_its_domain(world: World) -> None:
    seen: list[str] = []

    def handler(ctx: Context) -> Awaitable[None] | None:
        seen.append(ctx.stanza.name)
        if ctx.stanza.type == "get":
            raise StanzaError(Condition.FORBIDDEN)
        return asyncio.sleep(0) if ctx.stanza.name == "presence" else None

    world.kernel.router.add_service("rooms.example.org", handler)
    with pytest.raises(ValueError, match="rooms"):
        world.kernel.router.add_service("rooms.example.org", handler)
    romeo = await world.login("romeo@example.org/orchard")
    romeo.send("<message to='rooms.example.org'/><iq type='get' id='1' to='a@rooms.example.org'><x xmlns='y'/></iq>")
    await romeo.expect("<iq type='error' id='1' from='a@rooms.example.org'><error type='auth'/></iq>")
    assert seen == ["message", "iq"]
    world.kernel.router.remove_service("rooms.example.org")
    assert not world.kernel.router.serves("rooms.example.org")


async def test_a_crashing_handler_is_an_internal_error_for_one_stanza(
    world: World, expected_errors: ExpectedErrors
) -> None:
    expected_errors.add("stanza_failed")

    def handler(ctx: Context) -> None:
        raise RuntimeError("bug")

    world.kernel.router.add_service("rooms.example.org", handler)
    romeo = await world.login("romeo@example.org/orchard")
    romeo.send("<message to='rooms.example.org' id='1'/>")
    await romeo.expect("<message type='error' id='1'><error type='cancel'/></message>")
    await romeo.iq(f"<iq type='get' id='2' to='example.org'>{PING}</iq>")


async def test_slow_and_fast_stanzas_keep_their_order(world: World) -> None:
    """RFC 6120 §10.1: a handler that waits holds up its own connection, and no other."""
    gate = asyncio.Event()

    async def slow(ctx: Context) -> None:
        if ctx.stanza.id == "slow":
            await gate.wait()

    world.kernel.hooks[events.inbound].add(Row(1, "test", slow))
    romeo = await world.login("romeo@example.org/orchard")
    nurse = await world.login("nurse@example.org/x")
    juliet = await world.login("juliet@example.org/a")
    romeo.send("".join(f"<message to='{juliet.jid}' id='{n}'/>" for n in ("before", "slow", "1", "2")))
    romeo.send(f"<message to='{juliet.jid}' id='3'/>")
    await world.settle()
    nurse.send(f"<message to='{juliet.jid}' id='hers'/>")
    await juliet.expect("<message id='before'/>")
    await juliet.expect("<message id='hers'/>")
    await juliet.expect_nothing()
    gate.set()
    for id_ in ("slow", "1", "2", "3"):
        await juliet.expect(f"<message id='{id_}'/>")


@pytest.mark.parametrize(
    "type_", ["", "unavailable", "subscribe", "subscribed", "unsubscribe", "unsubscribed", "probe"]
)
async def test_presence_to_nobody_is_not_answered(type_: str, world: World) -> None:
    """RFC 6121 §8.5.1: silently ignored; a probe may be answered with `unsubscribed`."""
    romeo = await world.login("romeo@example.org/orchard", roster=True, presence=True)
    shown = f" type='{type_}'" if type_ else ""
    romeo.send(f"<presence to='stranger@example.org'{shown}/>")
    await world.settle()
    answers = [el for el in romeo.inbox if str(el.tag).endswith("presence")]
    assert not answers or (
        type_ in ("probe", "subscribe") and answers[0].get("type") in ("unsubscribed", "unavailable")
    )
