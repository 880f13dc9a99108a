"""Client connections: in memory, with a clock that stands still."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from tests.net.written import HEADER, SASL, STARTTLS, plain

from beamish.core import events
from beamish.core.events import Context, SessionClosed
from beamish.core.hooks import Row
from beamish.core.services import AccountsService
from beamish.modules.presence.subscribing import Subscribing
from beamish.testing import World
from beamish.testing.plugin import ExpectedErrors
from beamish.testing.world import PASSWORD
from beamish.xmpp.jid import JID


def endings(world: World) -> list[tuple[str, str]]:
    """Sessions that end, with the reason."""
    seen: list[tuple[str, str]] = []

    def note(event: SessionClosed) -> None:
        seen.append((str(event.session.jid), event.reason))

    world.kernel.hooks[events.session_closed].add(Row(1, "test", note))
    return seen


# ---- the end of a connection ------------------------------------------------------------------------------------------


async def test_an_orderly_end(world: World) -> None:
    ended = endings(world)
    romeo = await world.login("romeo@example.org/orchard")
    await romeo.close()
    await world.settle()
    assert romeo.disconnected
    assert ended == [("romeo@example.org/orchard", "closed")]
    assert not world.c2s.connections
    assert not world.c2s.per_network


async def test_a_peer_that_vanishes(world: World) -> None:
    ended = endings(world)
    romeo = await world.login("romeo@example.org/orchard")
    romeo.drop()
    await world.settle()
    assert ended == [("romeo@example.org/orchard", "lost")]
    assert not world.c2s.connections


async def test_half_a_connection_still_gets_its_answers(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    romeo.send("<iq type='get' id='1' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert world.transports[romeo]._protocol.eof_received()
    await romeo.expect("<iq type='result' id='1'/>")
    await romeo.expect_closed()
    await world.settle()
    assert romeo.disconnected


async def test_an_end_behind_a_slow_stanza_waits_for_it(world: World) -> None:
    gate = asyncio.Event()

    async def slow(ctx: Context) -> None:
        await gate.wait()

    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/a")
    world.kernel.hooks[events.inbound].add(Row(1, "test", slow))
    romeo.send(f"<message to='{juliet.jid}' id='1'/><message to='{juliet.jid}' id='2'/>")
    world.transports[romeo]._protocol.eof_received()
    await juliet.expect_nothing()
    gate.set()
    await juliet.expect("<message id='1'/>")
    await juliet.expect("<message id='2'/>")
    await romeo.expect_closed()


async def test_an_error_waits_for_the_peers_goodbye_but_not_for_ever(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/a")
    romeo.send(f"<!-- x --><message to='{juliet.jid}'/>")
    await romeo.expect_closed("restricted-xml")
    assert not romeo.disconnected
    romeo.send(f"<message to='{juliet.jid}'/>")
    await juliet.expect_nothing()
    await world.pass_time(4)
    assert romeo.disconnected


@pytest.mark.parametrize("goodbye", ["</stream:stream>", "eof"])
async def test_after_both_have_closed_the_connection_goes(goodbye: str, world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    romeo.send("<!-- x -->")
    await romeo.expect_closed("restricted-xml")
    if goodbye == "eof":
        world.transports[romeo]._protocol.eof_received()
    else:
        romeo.send(goodbye)
    await world.settle()
    assert romeo.disconnected


async def test_the_peers_error_closes_the_stream(world: World) -> None:
    ended = endings(world)
    romeo = await world.login("romeo@example.org/orchard")
    romeo.send("<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>")
    await world.settle()
    assert romeo.closed
    assert not romeo.inbox
    assert romeo.disconnected
    assert ended == [("romeo@example.org/orchard", "error:policy-violation")]


@pytest.mark.parametrize(
    ("sent", "condition"),
    [
        ("<pubsub><publish/></pubsub>", "unsupported-stanza-type"),
        ("<x xmlns='urn:x'/>", "unsupported-stanza-type"),
        ("<message xmlns='urn:x'/>", "unsupported-stanza-type"),
        ("<message xmlns='jabber:server'/>", "invalid-namespace"),
    ],
)
async def test_elements_that_are_no_stanzas(sent: str, condition: str, world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/a")
    romeo.send(f"<message to='{juliet.jid}' id='1'/>{sent}<message to='{juliet.jid}' id='2'/>")
    await romeo.expect_closed(condition)
    await juliet.expect("<message id='1'/>")
    await juliet.expect_nothing()


async def test_a_mistake_of_ours_costs_one_stream(world: World, expected_errors: ExpectedErrors) -> None:
    expected_errors.add("stream_failed")
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/a")
    [connection] = [c for c in world.c2s.connections if c.session is not None and c.session.jid == romeo.jid]
    assert connection.session is not None

    def broken(_: object) -> None:
        raise RuntimeError("bug")

    connection.session.handled = broken
    romeo.send("<message to='juliet@example.org/a'/>")
    await romeo.expect_closed("internal-server-error")
    await juliet.iq("<iq type='get' id='1' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")


# ---- becoming somebody ------------------------------------------------------------------------------------------------


async def test_everything_may_come_in_one_piece(world: World) -> None:
    bind = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>x</resource></bind></iq>"
    client = world.connect()
    client.send(HEADER)
    await client.receive()
    sent: list[bytes] = []
    # what the client's own parser would make of a restarted stream in the middle is of no interest here
    client.feed = sent.append  # type: ignore[method-assign]
    bound = asyncio.Event()
    world.kernel.hooks[events.session_bound].add(Row(1, "test", lambda _: bound.set()))
    client.send(
        plain("romeo", PASSWORD) + HEADER + bind + "<message to='juliet@example.org/none' id='m' type='normal'/>"
    )
    await bound.wait()
    await world.settle()
    text = b"".join(sent)
    order = [
        text.index(part) for part in (b"<success", b"<stream:features", b"<jid>romeo@example.org/x</jid>", b"id='m'")
    ]
    assert order == sorted(order)


async def test_the_newer_session_wins(world: World) -> None:
    ended = endings(world)
    old = await world.login("romeo@example.org/orchard")
    new = await world.login("romeo@example.org/orchard")
    await old.expect_closed("conflict")
    assert ended == [("romeo@example.org/orchard", "replaced")]
    await new.iq("<iq type='get' id='1' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
    assert len(world.kernel.sessions.of(new.jid.bare).all) == 1


async def test_resources_are_made_up_unguessably(world: World) -> None:
    client = [await world.login("romeo@example.org") for _ in range(3)]
    resources = {c.jid.resource for c in client}
    assert len(resources) == 3
    assert all(len(resource) >= 16 for resource in resources)


async def test_sessions_of_an_account_are_bounded() -> None:
    async with World(settings={"limits": {"resources_per_account": 2}}) as world:
        for name in "ab":
            await world.login(f"romeo@example.org/{name}")
        third = world.connect()
        await third.open_stream("example.org")
        await third.authenticate("romeo", PASSWORD)
        got = await third.iq("<iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>", "error")
        assert got.find(".//{*}resource-constraint") is not None
        bind = "<iq type='set' id='2'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>a</resource></bind></iq>"
        await third.iq(bind)


async def test_who_does_not_log_in_in_time_is_sent_away(world: World) -> None:
    slow = world.connect()
    await slow.open_stream("example.org")
    quick = await world.login("romeo@example.org/x")
    await world.pass_time(29)
    assert not slow.closed
    await world.pass_time(2)
    await slow.expect_closed("connection-timeout")
    assert not quick.closed


async def test_connections_of_one_address_are_bounded() -> None:
    async with World(settings={"limits": {"connections_per_address": 2}}) as world:
        first, second = world.connect(), world.connect()
        third, fourth, fifth = world.connect(), world.connect(), world.connect()
        await third.expect_closed("policy-violation")
        await fourth.expect_closed("policy-violation")
        # far beyond the bound nobody is told why any more: whoever is stays for a moment, and is a file descriptor
        await world.settle()
        assert fifth.disconnected and fifth.header is None
        await world.pass_time(4)
        first.drop()
        await world.settle()
        await world.connect().open_stream("example.org")
        await second.open_stream("example.org")


async def failed_login(world: World, user: str, password: str) -> str:
    client = world.connect()
    await client.open_stream("example.org")
    client.send(plain(user, password))
    got = await client.receive()
    client.drop()
    await world.settle()
    return str(got[0].tag).rpartition("}")[2] if len(got) else str(got.tag).rpartition("}")[2]


async def test_guessing_a_password_is_slowed_down_whatever_the_case_of_the_name() -> None:
    settings = {"limits": {"login_failures_per_account": 3, "login_failure_window": 100.0}}
    async with World(settings=settings) as world:
        for name in ("romeo", "Romeo", "ROMEO"):
            assert await failed_login(world, name, "wrong") == "not-authorized"
        assert await failed_login(world, "romeo", PASSWORD) == "temporary-auth-failure"
        assert await failed_login(world, "juliet", PASSWORD) == "success"
        await world.pass_time(101)
        assert await failed_login(world, "romeo", PASSWORD) == "success"


async def test_success_forgives_and_other_failures_are_no_guesses() -> None:
    async with World(settings={"limits": {"login_failures_per_account": 2}}) as world:
        for _ in range(5):
            assert await failed_login(world, "romeo", "wrong") == "not-authorized"
            assert await failed_login(world, "romeo", PASSWORD) == "success"
        for _ in range(5):
            client = world.connect()
            await client.open_stream("example.org")
            client.send(
                f"<auth xmlns='{SASL}' mechanism='SCRAM-SHA-1'>{base64.b64encode(b'n,,n=romeo,r=x').decode()}</auth>"
            )
            await client.receive()
            client.send(f"<abort xmlns='{SASL}'/>")
            await client.expect(f"<failure xmlns='{SASL}'><aborted/></failure>")
            client.drop()
        assert await failed_login(world, "romeo", PASSWORD) == "success"


async def test_an_address_that_guesses_is_slowed_down_over_all_accounts() -> None:
    async with World(settings={"limits": {"login_failures_per_address": 3}}) as world:
        for user in ("a", "b", "romeo"):
            assert await failed_login(world, user, "wrong") == "not-authorized"
        assert await failed_login(world, "juliet", PASSWORD) == "temporary-auth-failure"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize("user", ["romeo", "nobody", "a b"])
async def test_guesses_made_at_the_same_time_are_as_few(mechanism: str, user: str) -> None:
    limits = {"login_failures_per_account": 4, "login_failures_per_address": 6}
    async with World(settings={"limits": limits}) as world:
        clients = [world.connect() for _ in range(20)]
        for client in clients:
            await client.open_stream("example.org")
            if mechanism != "PLAIN":
                first = base64.b64encode(f"n,,n={user},r=abc".encode()).decode()
                client.send(f"<auth xmlns='{SASL}' mechanism='{mechanism}'>{first}</auth>")
        for client in clients:
            if mechanism == "PLAIN":
                client.send(plain(user, "wrong"))
                continue
            challenge = await client.expect(f"<challenge xmlns='{SASL}'/>")
            nonce = base64.b64decode(challenge.text or "").decode().partition(",")[0]
            final = base64.b64encode(f"c=biws,{nonce},p={base64.b64encode(bytes(32)).decode()}".encode()).decode()
            client.send(f"<response xmlns='{SASL}'>{final}</response>")
        answers = [str((await client.receive())[0].tag).rpartition("}")[2] for client in clients]
        judged = 6 if user == "a b" else 4
        assert sorted(answers) == ["not-authorized"] * judged + ["temporary-auth-failure"] * (20 - judged)


async def test_a_removed_account_cannot_bind_what_it_began(world: World) -> None:
    romeo = world.connect()
    await romeo.open_stream("example.org")
    await romeo.authenticate("romeo", PASSWORD)
    await world.kernel.service(AccountsService).remove(JID.parse("romeo@example.org"))
    await romeo.expect_closed("not-authorized")


async def test_a_locked_account_cannot_bind_what_it_began(world: World) -> None:
    romeo = world.connect()
    await romeo.open_stream("example.org")
    await romeo.authenticate("romeo", PASSWORD)
    await world.kernel.service(AccountsService).disable(JID.parse("romeo@example.org"))
    romeo.send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
    await romeo.expect_closed("not-authorized")
    assert not world.kernel.sessions.of(JID.parse("romeo@example.org")).all


@pytest.mark.parametrize(("password", "condition"), [(PASSWORD, "account-disabled"), ("wrong", "not-authorized")])
async def test_only_the_owner_learns_that_an_account_is_locked(world: World, password: str, condition: str) -> None:
    """RFC 6120 §6.5.2: what a stranger sees stays what it was."""
    await world.kernel.service(AccountsService).disable(JID.parse("romeo@example.org"))
    assert await failed_login(world, "romeo", password) == condition


async def test_without_certificates_starttls_ends_the_connection(world: World) -> None:
    client = world.connect()
    await client.open_stream("example.org")
    client.send(STARTTLS)
    await world.settle()
    assert client.disconnected


# ---- rates, silence, slowness -----------------------------------------------------------------------------------------


async def test_a_client_that_sends_too_much_is_read_more_slowly() -> None:
    async with World(settings={"limits": {"stanzas_per_second": 10, "stanza_burst": 20}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        juliet = await world.login("juliet@example.org/a")
        for n in range(100):
            romeo.send(f"<message to='{juliet.jid}' id='{n}'/>")
        await world.settle()
        first = len(juliet.inbox)
        assert 15 <= first <= 25
        await world.pass_time(2)
        assert first < len(juliet.inbox) <= first + 25
        await world.pass_time(20)
        assert [el.get("id") for el in juliet.inbox] == [str(n) for n in range(100)], "nothing is lost, order is kept"


async def test_bytes_count_too() -> None:
    limits = {"bytes_per_second": 1_000, "bytes_burst": 10_000}
    async with World(settings={"limits": limits}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        juliet = await world.login("juliet@example.org/a")
        for n in range(20):
            romeo.send(f"<message to='{juliet.jid}' id='{n}'><body>{'x' * 1_000}</body></message>")
        await world.settle()
        assert len(juliet.inbox) < 12
        await world.pass_time(30)
        assert [el.get("id") for el in juliet.inbox] == [str(n) for n in range(20)]


async def test_a_slow_reader_is_cut_and_nobody_else_waits() -> None:
    async with World(settings={"limits": {"unsent_bytes": 50_000}}) as world:
        ended = endings(world)
        romeo = await world.login("romeo@example.org/orchard")
        juliet = await world.login("juliet@example.org/a")
        transport = world.transports[juliet]
        connection = transport._protocol
        transport.stuck = True
        for n in range(60):
            romeo.send(f"<message to='{juliet.jid}' id='{n}' type='headline'><body>{'x' * 1_000}</body></message>")
            await world.settle()
        assert ended == [("juliet@example.org/a", "slow")]
        assert not connection._out
        await romeo.iq("<iq type='get' id='1' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")


async def test_a_silent_client_is_asked_and_then_dropped() -> None:
    async with World(settings={"c2s": {"probe_after": 240, "probe_timeout": 60}}) as world:
        ended = endings(world)
        romeo = await world.login("romeo@example.org/orchard")
        await world.pass_time(230)
        await romeo.expect_nothing()
        await world.pass_time(30)
        ping = await romeo.expect("<iq type='get' from='example.org'><ping xmlns='urn:xmpp:ping'/></iq>")
        romeo.send(f"<iq type='result' id='{ping.get('id')}' to='example.org'/>")
        await world.pass_time(230)
        assert not romeo.closed
        await world.pass_time(30)
        await romeo.expect("<iq type='get'><ping xmlns='urn:xmpp:ping'/></iq>")
        await world.pass_time(80)
        await romeo.expect_closed("connection-timeout")
        assert ended == [("romeo@example.org/orchard", "timeout")]


async def test_white_space_is_a_sign_of_life(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    for _ in range(20):
        await world.pass_time(100)
        romeo.send(" ")
    await romeo.expect_nothing()


async def test_the_parser_of_a_quiet_client_is_freed_and_nothing_is_lost(world: World) -> None:
    romeo = await world.login("romeo@example.org/orchard")
    juliet = await world.login("juliet@example.org/a")
    [connection] = [c for c in world.c2s.connections if c.session is not None and c.session.jid == romeo.jid]
    assert connection._machine is not None
    parser = connection._machine._parser
    await world.pass_time(60)
    assert parser.idle
    for piece in (" ", "<mess", f"age to='{juliet.jid}' id='/>", "'", "/>"):
        romeo.send(piece)
        await world.pass_time(60)
    await juliet.expect("<message id='/&gt;'/>")


async def test_a_shutdown_says_so_and_waits_for_goodbyes() -> None:
    async with World() as world:
        romeo = await world.login("romeo@example.org/orchard")
        stranger = world.connect()
        await stranger.open_stream("example.org")
        draining = asyncio.ensure_future(world.c2s.drain(5.0))
        await romeo.expect_closed("system-shutdown")
        await stranger.expect_closed("system-shutdown")
        late = world.connect()
        await late.expect_closed("system-shutdown")
        for client in (romeo, stranger, late):
            client.send("</stream:stream>")
        await asyncio.wait_for(draining, 1.0)
        assert not world.c2s.connections


async def test_a_shutdown_does_not_wait_for_ever() -> None:
    async with World() as world:
        romeo = await world.login("romeo@example.org/orchard")
        await world.c2s.drain(0.01)
        await world.settle()
        assert romeo.disconnected


async def test_credentials_do_not_reach_the_wire_log(monkeypatch: pytest.MonkeyPatch) -> None:
    from beamish.net import wirelog

    lines: list[str] = []

    class Log:
        def debug(self, event: str, **keys: str) -> None:
            lines.append(keys["data"])

    monkeypatch.setattr(wirelog, "log", Log())
    async with World(settings={"server": {"log": {"wire": True}}}) as world:
        client = world.connect()
        await client.open_stream("example.org")
        for byte in plain("romeo", PASSWORD).encode():
            client.send(bytes([byte]))
            await world.settle()
        await client.expect(f"<success xmlns='{SASL}'/>")
        client.drop()
        await world.settle()
        assert not world.c2s.wire_log._maskers
    text = "".join(lines)
    assert "mechanism='PLAIN'" in text
    assert base64.b64encode(f"\0romeo\0{PASSWORD}".encode()).decode()[:8] not in text


async def test_all_that_goes_out_is_in_the_wire_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes it: also answers from before the login, and stream management in the place of the stream."""
    from beamish.net import wirelog

    lines: list[str] = []

    class Log:
        def debug(self, event: str, **keys: str) -> None:
            lines.append(f"{event} {keys['data']}")

    monkeypatch.setattr(wirelog, "log", Log())
    settings = {"server": {"log": {"wire": True}}, "modules": {"register": {"open": True, "captcha": "none"}}}
    async with World(settings=settings) as world:
        stranger = world.connect()
        await stranger.open_stream("example.org")
        stranger.send("<iq type='get' id='form'><query xmlns='jabber:iq:register'/></iq>")
        await stranger.expect("<iq type='result' id='form'/>")
        romeo = await world.login("romeo@example.org/orchard")
        juliet = await world.login("juliet@example.org/balcony")
        romeo.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
        await romeo.receive()
        romeo.send("<r xmlns='urn:xmpp:sm:3'/>")
        await romeo.receive()
        juliet.send("<message to='romeo@example.org/orchard' id='m'><body>Hi</body></message>")
        assert (await romeo.receive()).get("id") == "m"
        for client in (romeo, juliet):
            await client.close()
    sent = [line for line in lines if line.startswith("tx ")]
    for text in ("id='form'", "<enabled ", "<a xmlns='urn:xmpp:sm:3' h='0'/>", "<body>Hi</body>"):
        assert sum(text in line for line in sent) == 1, text
    assert sum(line.count("</stream:stream>") for line in sent) == 2


async def test_limits_are_announced_to_those_who_have_logged_in() -> None:
    """XEP-0478 §3.1: of stanzas, and of silence until the server asks."""
    async with World(settings={"limits": {"stanza_bytes": 20_000}, "c2s": {"probe_after": 90.0}}) as world:
        romeo = world.connect()
        before = await romeo.open_stream("example.org")
        assert before.find("{urn:xmpp:stream-limits:0}limits") is None, "until then there are narrower ones"
        features = await romeo.authenticate("romeo", PASSWORD)
        limits = features.find("{urn:xmpp:stream-limits:0}limits")
        assert limits is not None
        assert [(child.tag.rpartition("}")[2], child.text) for child in limits] == [
            ("max-bytes", "20000"),
            ("idle-seconds", "90"),
        ]


async def test_invented_names_cost_the_account_its_hour() -> None:
    """What libxml2 keeps for ever is bounded by `xml_names_per_account`; others are not affected."""
    async with World(settings={"limits": {"xml_names_per_account": 50}}) as world:
        juliet = await world.login("juliet@example.org/balcony", presence=True)
        romeo = await world.login("romeo@example.org/orchard")
        names = "".join(f"<invented-{n}/>" for n in range(60))
        romeo.send(f"<message to='juliet@example.org'><x xmlns='urn:test:invented'>{names}</x></message>")
        await romeo.expect_closed("policy-violation")
        assert await failed_login(world, "romeo", PASSWORD) == "temporary-auth-failure"
        juliet.send("<message to='juliet@example.org'><body>well?</body></message>")
        await juliet.expect("<message><body>well?</body></message>")
        await world.pass_time(3_601)
        romeo = await world.login("romeo@example.org/orchard")
        romeo.send("<message to='romeo@example.org/orchard'><body>again</body></message>")
        await romeo.expect("<message><body>again</body></message>")


async def test_invented_names_are_bounded_for_all_together() -> None:
    async with World(settings={"limits": {"xml_names": 400}}) as world:
        romeo = await world.login("romeo@example.org/orchard")
        names = "".join(f"<all-{n}/>" for n in range(400))
        romeo.send(f"<message to='juliet@example.org'><x xmlns='urn:test:all'>{names}</x></message>")
        await romeo.expect_closed("policy-violation")


async def test_what_has_nothing_to_wait_for_leaves_turns_to_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request to subscribe looks into rosters, which may be read from the disk, and are in memory here."""
    romeo = await world.login("romeo@example.org/orchard")
    again = "<presence type='subscribe' to='juliet@example.org'/>"
    romeo.send(again)
    await world.settle()
    turns = counted(Subscribing, "outbound", monkeypatch)
    romeo.send(again * 400)
    await world.settle()
    assert turns[-1] == 400
    assert max(after - before for before, after in pairwise([0, *turns])) <= 50


def counted(cls: type, name: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a method was called, as of each turn of the loop."""
    calls = 0
    turns: list[int] = []
    method = getattr(cls, name)

    def called(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        asyncio.get_running_loop().call_soon(lambda: turns.append(calls))
        return method(*args)

    monkeypatch.setattr(cls, name, called)
    return turns


async def test_strangers_without_number_do_not_fill_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Every failed login is told: programs that lock addresses out count them, and they are few in themselves."""
    caplog.set_level(logging.INFO, "beamish")
    romeo = await world.login("romeo@example.org/orchard")
    for _ in range(60):
        client = world.connect()
        await client.open_stream("example.org")
        client.send(plain("romeo", "wrong"))
        await client.receive()
        client.drop()
    for _ in range(60):
        romeo.send("<message to='@' type='error'/>")
    await world.settle()
    romeo.drop()
    await world.settle()
    lines = Counter(record.getMessage() for record in caplog.records)
    assert lines["auth_failed"] == 60
    assert lines["disconnected"] == 51, "those of strangers, and Romeo's"
    assert lines["jid_malformed"] == 50
    await world.pass_time(600)
    world.connect().drop()
    await world.settle()
    assert caplog.records[-1].left_out == 10  # type: ignore[attr-defined]
