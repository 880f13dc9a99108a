"""Plays for advanced message processing (XEP-0079), in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.elsewhere import Elsewhere

from beamish.core.clock import stamp
from beamish.core.events import Context
from beamish.testing.client import Client
from beamish.testing.match import mismatch
from beamish.testing.world import World
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

AMP = "http://jabber.org/protocol/amp"
STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas"


def rule(condition: str, action: str, value: str) -> str:
    return f"<rule condition='{condition}' action='{action}' value='{value}'/>"


def letter(to: str, *rules: str, type: str = "chat", id: str = "m1", attrs: str = "") -> str:
    return (
        f"<message to='{to}' type='{type}' id='{id}'><body>letter</body><amp xmlns='{AMP}'{attrs}>{''.join(rules)}</amp>"
        "</message>"
    )


def answer(status: str, rule_: str, to: str, sender: str = "romeo@example.org/orchard", by: str = "example.org") -> str:
    """What an alert, error or notification looks like (§3.4)."""
    about = f"<amp xmlns='{AMP}' status='{status}' from='{sender}' to='{to}'>{rule_}</amp><body absent='!'/>"
    if status != "error":
        return f"<message from='{by}' to='{sender}' id='m1' type='!'>{about}</message>"
    failed = f"<failed-rules xmlns='{AMP}#errors'>{rule_}</failed-rules>"
    error = f"<error type='modify'><undefined-condition xmlns='{STANZAS}'/>{failed}</error>"
    return f"<message from='{by}' to='{sender}' id='m1' type='error'>{about}{error}</message>"


@pytest_asyncio.fixture
async def romeo(world: World) -> Client:
    """Romeo is a friend of Juliet's, who is away."""
    romeo = await world.login("romeo@example.org/orchard", presence=True)
    juliet = await world.login("juliet@example.org/once", presence=True)
    await world.befriend(romeo, juliet)
    await juliet.close()
    await world.settle()
    romeo.inbox.clear()
    return romeo


async def juliet_is(world: World, romeo: Client, *resources: str) -> list[Client]:
    clients = [await world.login(f"juliet@example.org/{r}", presence=True) for r in resources]
    for client in clients:
        client.inbox.clear()
    romeo.inbox.clear()
    return clients


# ---- discovery ------------------------------------------------------------------------------------------------------


async def test_what_is_supported_can_be_found_out(romeo: Client) -> None:
    assert romeo.features is not None and romeo.features.find("{http://jabber.org/features/amp}amp") is not None
    disco = "<iq type='get' id='d' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info'{}/></iq>"
    general = await romeo.iq(disco.format(""))
    assert any(el.get("var") == AMP for el in general[0])
    node = await romeo.iq(disco.format(f" node='{AMP}'"))
    assert {el.get("var", "").removeprefix(AMP) for el in node[0] if el.get("var", "").startswith(f"{AMP}?")} == {
        *(f"?action={name}" for name in ("alert", "drop", "error", "notify")),
        *(f"?condition={name}" for name in ("deliver", "expire-at", "match-resource")),
    }


# ---- deliver: every value with every action -------------------------------------------------------------------------

ACTIONS = ("alert", "drop", "error", "notify")


@pytest.mark.parametrize("action", ACTIONS)
async def test_deliver_direct(world: World, romeo: Client, action: str) -> None:
    (juliet,) = await juliet_is(world, romeo, "balcony")
    wanted = rule("deliver", action, "direct")
    romeo.send(letter("juliet@example.org", wanted))
    if action != "drop":
        await romeo.expect(answer(action, wanted, "juliet@example.org"))
    await romeo.expect_nothing()
    if action == "notify":
        await juliet.expect("<message><body>letter</body></message>")
    await juliet.expect_nothing()


@pytest.mark.parametrize("action", ACTIONS)
async def test_deliver_stored(world: World, romeo: Client, action: str) -> None:
    wanted = rule("deliver", action, "stored")
    romeo.send(letter("juliet@example.org", wanted))
    if action != "drop":
        await romeo.expect(answer(action, wanted, "juliet@example.org"))
    await romeo.expect_nothing()
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    if action == "notify":
        await juliet.expect_all(
            "<message><body>letter</body></message>", "<presence from='romeo@example.org/orchard'/>"
        )
    else:
        await juliet.expect("<presence from='romeo@example.org/orchard'/>")
        await juliet.expect_nothing()


@pytest.mark.parametrize("action", ACTIONS)
async def test_deliver_none(romeo: Client, action: str) -> None:
    # a headline is neither kept nor bounced (RFC 6121 §8.5.2.2.1)
    wanted = rule("deliver", action, "none")
    romeo.send(letter("juliet@example.org", wanted, type="headline"))
    if action != "drop":
        await romeo.expect(answer(action, wanted, "juliet@example.org"))
    await romeo.expect_nothing()


@pytest.mark.parametrize("value", ["forward", "gateway", "none", "stored"])
async def test_a_rule_that_is_not_met_changes_nothing(world: World, romeo: Client, value: str) -> None:
    (juliet,) = await juliet_is(world, romeo, "balcony")
    romeo.send(letter("juliet@example.org", rule("deliver", "error", value)))
    await juliet.expect(f"<message><body>letter</body><amp xmlns='{AMP}'/></message>")
    await romeo.expect_nothing()


async def test_the_first_rule_that_is_met_is_followed(world: World, romeo: Client) -> None:
    (juliet,) = await juliet_is(world, romeo, "balcony")
    first, second = rule("match-resource", "alert", "any"), rule("deliver", "error", "direct")
    romeo.send(letter("juliet@example.org", rule("deliver", "drop", "stored"), first, second))
    await romeo.expect(answer("alert", first, "juliet@example.org"))
    await romeo.expect_nothing()
    await juliet.expect_nothing()


async def test_what_is_passed_on_says_whose_message_it_was(world: World, romeo: Client) -> None:
    (juliet,) = await juliet_is(world, romeo, "balcony")
    romeo.send(letter("juliet@example.org", rule("deliver", "drop", "stored"), attrs=" from='iago@x' to='y@z'"))
    await juliet.expect(
        f"<message><amp xmlns='{AMP}' from='romeo@example.org/orchard' to='juliet@example.org'><rule/></amp></message>"
    )


# ---- match-resource -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "online", "value", "met"),
    [
        ("juliet@example.org/balcony", ["balcony"], "exact", True),
        ("juliet@example.org/balcony", ["balcony"], "any", True),
        ("juliet@example.org/balcony", ["balcony"], "other", False),
        ("juliet@example.org/balcony", ["chamber"], "exact", False),
        ("juliet@example.org/balcony", ["chamber"], "any", True),
        ("juliet@example.org/balcony", ["chamber"], "other", True),
        ("juliet@example.org/balcony", [], "any", False),
        ("juliet@example.org/balcony", [], "other", False),
        ("juliet@example.org", ["chamber"], "exact", False),
        ("juliet@example.org", ["chamber"], "other", True),
        ("juliet@example.org", ["chamber"], "any", True),
        ("juliet@example.org", [], "exact", True),
        ("juliet@example.org", [], "other", False),
    ],
)
async def test_match_resource(world: World, romeo: Client, to: str, online: list[str], value: str, met: bool) -> None:
    clients = await juliet_is(world, romeo, *online)
    wanted = rule("match-resource", "error", value)
    romeo.send(letter(to, wanted))
    if met:
        await romeo.expect(answer("error", wanted, to))
    await romeo.expect_nothing()
    for client in clients:
        if not met:
            await client.expect("<message><body>letter</body></message>")
        await client.expect_nothing()


# ---- expire-at ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_message_that_is_too_late_already(world: World, romeo: Client, action: str) -> None:
    (juliet,) = await juliet_is(world, romeo, "balcony")
    wanted = rule("expire-at", action, stamp(world.clock.now()))
    romeo.send(letter("juliet@example.org", wanted))
    if action != "drop":
        await romeo.expect(answer(action, wanted, "juliet@example.org"))
    await romeo.expect_nothing()
    if action == "notify":
        await juliet.expect("<message><body>letter</body></message>")
    await juliet.expect_nothing()


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_kept_message_that_is_too_late_when_it_could_be_delivered(
    world: World, romeo: Client, action: str
) -> None:
    wanted = rule("expire-at", action, stamp(world.clock.now() + 60))
    romeo.send(letter("juliet@example.org", wanted))
    romeo.send(letter("juliet@example.org", rule("expire-at", "drop", stamp(world.clock.now() + 3600)), id="m2"))
    await romeo.expect_nothing()
    await world.pass_time(61)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await world.settle()
    letters = [el.get("id") for el in juliet.inbox if str(el.tag).endswith("message")]
    assert letters == (["m1", "m2"] if action == "notify" else ["m2"])
    told = [el for el in romeo.inbox if str(el.tag).endswith("message")]
    if action == "drop":
        assert told == []
    else:
        assert len(told) == 1 and mismatch(answer(action, wanted, "juliet@example.org"), told[0]) == ""


async def test_what_has_expired_is_not_kept_any_longer(world: World, romeo: Client) -> None:
    romeo.send(letter("juliet@example.org", rule("expire-at", "drop", stamp(world.clock.now() + 60))))
    await world.settle()
    count = await world.kernel.commands.run("offline.count", {"jid": "juliet@example.org"})
    assert count["messages"] == 1
    await world.pass_time(61)
    juliet = await world.login("juliet@example.org/balcony", presence=True)
    await juliet.iq("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    await world.settle()
    for el in list(juliet.inbox):
        if str(el.tag).endswith("iq") and el.get("type") == "get":
            juliet.send(f"<iq type='result' id='{el.get('id')}' to='{el.get('from')}'/>")
    await world.settle()
    count = await world.kernel.commands.run("offline.count", {"jid": "juliet@example.org"})
    assert count["messages"] == 0


# ---- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "condition", "app"),
    [
        (rule("deliver", "sing", "direct"), "bad-request", "unsupported-actions"),
        (rule("weather", "drop", "rain"), "bad-request", "unsupported-conditions"),
        (rule("deliver", "drop", "by-pigeon"), "not-acceptable", "invalid-rules"),
        (rule("match-resource", "drop", "some"), "not-acceptable", "invalid-rules"),
        (rule("expire-at", "drop", "tomorrow"), "not-acceptable", "invalid-rules"),
        (rule("expire-at", "drop", "2030-01-01T00:00:00+02:00"), "not-acceptable", "invalid-rules"),
        (rule("expire-at", "drop", "2030-01-01T00:00:00"), "not-acceptable", "invalid-rules"),
        (rule("deliver", "drop", ""), "not-acceptable", "invalid-rules"),
    ],
)
async def test_rules_that_cannot_be_followed(romeo: Client, wrong: str, condition: str, app: str) -> None:
    right = rule("deliver", "drop", "stored")
    romeo.send(letter("juliet@example.org", right, wrong))
    await romeo.expect(
        f"<message type='error' id='m1' from='example.org'><amp xmlns='{AMP}'>{right}{wrong}</amp>"
        f"<error type='modify'><{condition} xmlns='{STANZAS}'/><{app} xmlns='{AMP}'>{wrong}</{app}></error></message>"
    )
    await romeo.expect_nothing()


@pytest.mark.parametrize(
    "sent",
    [
        letter("juliet@example.org", rule("deliver", "drop", "stored"), id=""),
        letter("juliet@example.org"),
        letter("juliet@example.org", *[rule("deliver", "drop", "stored")] * 21),
        letter("juliet@example.org", rule("deliver", "drop", "stored"), attrs=" per-hop='perhaps'"),
    ],
)
async def test_messages_that_break_the_protocol(romeo: Client, sent: str) -> None:
    romeo.send(sent)
    await romeo.expect(f"<message type='error'><error><bad-request xmlns='{STANZAS}'/></error></message>")


@pytest.mark.parametrize("user", ["nurse@example.org", "nobody@example.org"])
@pytest.mark.parametrize("action", ["alert", "error", "notify"])
async def test_a_stranger_learns_nothing_from_rules(world: World, romeo: Client, user: str, action: str) -> None:
    await world.login("nurse@example.org/street", presence=True)
    wanted = rule("deliver", action, "stored")
    romeo.send(letter(user, rule("expire-at", "drop", "2100-01-01T00:00:00Z"), wanted))
    await romeo.expect(
        f"<message type='error' from='example.org'><error><not-acceptable xmlns='{STANZAS}'/>"
        f"<invalid-rules xmlns='{AMP}'>{wanted}</invalid-rules></error></message>"
    )


async def test_a_stranger_may_have_a_message_dropped(world: World, romeo: Client) -> None:
    nurse = await world.login("nurse@example.org/street", presence=True)
    romeo.send(letter("nurse@example.org", rule("deliver", "drop", "direct")))
    await romeo.expect_nothing()
    await nurse.expect_nothing()


async def test_answers_about_rules_are_no_rules(world: World, romeo: Client) -> None:
    (juliet,) = await juliet_is(world, romeo, "balcony")
    romeo.send(letter("juliet@example.org", rule("deliver", "drop", "direct"), attrs=" status='notify'"))
    await juliet.expect(f"<message><amp xmlns='{AMP}' status='notify'/></message>")


# ---- other servers --------------------------------------------------------------------------------------------------


class Denmark(Elsewhere):
    """denmark.example knows message processing, any other domain does not."""

    def answered(self, ctx: Context) -> bool:
        stanza = ctx.stanza
        if stanza.name == "iq" and stanza.type == "get":
            inner = f"<feature var='{AMP}'/>" if stanza.to == "denmark.example" else ""
            query = f"<query xmlns='http://jabber.org/protocol/disco#info'>{inner}</query>"
            self.kernel.router.post(stanza.reply(query.encode()))
        return stanza.name == "iq"


@pytest_asyncio.fixture
async def federated() -> AsyncIterator[World]:
    async with World(extra=[Denmark]) as made:
        yield made


async def test_a_message_for_a_server_that_knows_rules(federated: World) -> None:
    romeo = await federated.login("romeo@example.org/orchard", presence=True)
    romeo.send(
        letter("hamlet@denmark.example", rule("deliver", "drop", "stored"), rule("match-resource", "drop", "any"))
    )
    await romeo.expect_nothing()
    (left,) = Denmark.of(federated).left
    amp = left.child(f"{{{AMP}}}amp")
    assert amp is not None and amp.get("from") == "romeo@example.org/orchard" and len(amp) == 2


async def test_a_message_for_a_server_that_does_not(federated: World) -> None:
    romeo = await federated.login("romeo@example.org/orchard", presence=True)
    romeo.send(letter("iago@venice.example", rule("deliver", "drop", "stored")))
    await romeo.expect(
        f"<message type='error' id='m1'><amp xmlns='{AMP}'><rule/></amp><error type='cancel'>"
        f"<service-unavailable xmlns='{STANZAS}'/></error></message>"
    )
    assert Denmark.of(federated).left == []


async def test_a_message_for_elsewhere_that_is_too_late(federated: World) -> None:
    romeo = await federated.login("romeo@example.org/orchard", presence=True)
    wanted = rule("expire-at", "error", "2001-01-01T00:00:00Z")
    romeo.send(letter("hamlet@denmark.example", wanted))
    await romeo.expect(answer("error", wanted, "hamlet@denmark.example"))
    assert Denmark.of(federated).left == []


async def test_a_message_from_elsewhere(federated: World) -> None:
    juliet = await federated.login("juliet@example.org/balcony", presence=True)
    hamlet = JID.parse("hamlet@denmark.example/x")

    def comes(rules: str) -> Stanza:
        content = f"<body>letter</body><amp xmlns='{AMP}' from='{hamlet}' to='{juliet.jid.bare}'>{rules}</amp>".encode()
        return Stanza.build("message", "chat", id="m1", sender=hamlet, to=juliet.jid.bare, content=content)

    for sent in (
        rule("deliver", "drop", "direct"),
        rule("deliver", "sing", "direct"),
        rule("deliver", "alert", "direct"),
    ):
        federated.kernel.router.post(comes(sent))
        await federated.settle()
    await juliet.expect_nothing()
    refused = [s.el.find("{jabber:client}error")[0].tag for s in Denmark.of(federated).left if s.type == "error"]  # type: ignore[index]
    assert refused == [f"{{{STANZAS}}}bad-request", f"{{{STANZAS}}}not-acceptable"]
    federated.kernel.router.post(comes(rule("deliver", "drop", "stored")))
    await juliet.expect("<message><body>letter</body></message>")


async def test_rules_of_a_message_to_oneself_are_looked_at_too(world: World) -> None:
    """Without an address, as RFC 6120 §10.3.1 has it."""
    romeo = await world.login("romeo@example.org/orchard", presence=True)

    def note(id_: str, value: str) -> str:
        made = letter("", rule("expire-at", "drop", value), id=id_)
        return made.replace("to='' ", "")

    romeo.send(note("n1", "tomorrow"))
    await romeo.expect(
        f"<message type='error' id='n1'><error><not-acceptable xmlns='{STANZAS}'/><invalid-rules xmlns='{AMP}'/></error>"
        "</message>"
    )
    romeo.send(note("n2", "2001-01-01T00:00:00Z"))
    await romeo.expect_nothing()
    romeo.send(note("n3", "2999-01-01T00:00:00Z"))
    await romeo.expect("<message id='n3'><body>letter</body></message>")
