"""Whoever names very many other domains waits behind themselves, and nobody else does."""

import asyncio
from collections import OrderedDict

import pytest

from beamish.net.dns import Srv
from beamish.net.s2s_presence import RemotePresence
from beamish.net.s2s_turns import NOBODY, Turn, Turns, family
from beamish.net.throttle import LoginThrottle
from beamish.stream.s2s_out import Unreachable
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.names import Directory
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import Stanza

EVE, JOE = JID.parse("eve@a.example"), JID.parse("joe@a.example")


def joined(turns: Turns, who: JID, number: int = 1) -> list[Turn]:
    made = [Turn() for _ in range(number)]
    for turn in made:
        turns.join(turn, who)
    return made


def granted(some: list[Turn]) -> list[bool]:
    return [turn.by is not None for turn in some]


async def test_one_has_a_share() -> None:
    turns = Turns(4, 2)
    eves = joined(turns, EVE, 5)
    [joes] = joined(turns, JOE)
    assert granted(eves) == [True, True, False, False, False] and joes.granted.done()
    assert (turns.opening, turns.wanted(EVE), turns.wanted(JOE)) == (3, 5, 1)
    turns.done(eves[0])
    turns.done(eves[0])
    assert granted(eves[1:]) == [True, True, False, False]
    turns.done(eves[3])  # given up while it waits
    assert (turns.opening, turns.wanted(EVE)) == (3, 3)


async def test_all_take_turns() -> None:
    turns = Turns(1, 1)
    eves = joined(turns, EVE, 3)
    joes = joined(turns, JOE, 2)
    order = []
    while running := [turn for turn in (*eves, *joes) if turn.by is not None and not turn.over]:
        [turn] = running
        order.append(turn.by)
        turns.done(turn)
    assert order == [EVE, JOE, EVE, JOE, EVE] and turns.opening == turns.wanted(EVE) == turns.wanted(JOE) == 0


async def test_a_domain_that_another_asks_for_too_comes_in_their_turn() -> None:
    turns = Turns(4, 1)
    eves = joined(turns, EVE, 3)
    turns.join(eves[2], JOE)
    assert granted(eves) == [True, False, True] and eves[2].by == JOE
    assert (turns.wanted(EVE), turns.wanted(JOE)) == (2, 1)
    turns.join(eves[1], JOE)
    turns.done(eves[1])
    assert (turns.wanted(EVE), turns.wanted(JOE)) == (1, 1)


async def test_what_nobody_asks_for_has_no_share_but_the_whole() -> None:
    turns = Turns(3, 1)
    assert granted(joined(turns, NOBODY, 4)) == [True, True, True, False]


class Slow(Directory):
    """Its answers come when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.now = asyncio.Event()
        self.under_way = 0
        self.most = 0

    async def srv(self, name: str) -> list[Srv]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if name.endswith(".eve.example"):
            await self.now.wait()
        self.under_way -= 1
        return await super().srv(name)


async def test_who_writes_to_invented_domains(ca: Authority) -> None:
    names = Slow()
    settings = {"s2s": {"domains_waited_for": 50}}
    server = FederatedServer(ca, names, accounts=(str(EVE), str(JOE)), settings=settings)
    async with server:
        eve, joe = await server.client("eve@a.example/x"), await server.client("joe@a.example/x")
        for n in range(60):
            eve.send(f"<message to='x@x{n}.eve.example' type='chat' id='{n}'><body>?</body></message>")
        for n in range(50, 60):  # those that are too many come back at once
            error = await eve.receive()
            assert error.get("id") == str(n) and error.find("{*}error/{*}resource-constraint") is not None
        joe.send("<message to='x@joe.example' type='chat' id='1'><body>?</body></message>")
        error = await joe.receive()
        assert error.find("{*}error/{*}remote-server-not-found") is not None
        # a domain that the other asked for first, and that would be their last
        joe.send("<message to='x@x49.eve.example' type='chat' id='2'><body>?</body></message>")
        eve.send("<message to='x@joe.example' type='chat' id='61'><body>?</body></message>")
        error = await eve.receive()
        assert error.get("id") == "61"  # told at once, as Joe was
        limits = server.federation.limits
        assert names.most <= 2 * (limits.openings_each + 1)  # two questions for each
        assert server.federation.turns.wanted(JOE) == 1 and server.federation.turns.wanted(EVE) == 49
        names.now.set()
        ids = {(await eve.receive()).get("id") for _ in range(50)}
        assert ids == {str(n) for n in range(50)}
        assert (await joe.receive()).get("id") == "2"
        assert server.federation.turns.opening == 0


async def test_who_is_answered_asks_for_the_answer(ca: Authority) -> None:
    """Whoever writes from many domains below their own to many accounts, or to one, uses up nobody's share but theirs."""
    server = FederatedServer(ca, Slow(), accounts=(str(EVE), str(JOE)))
    async with server:
        await server.client("joe@a.example/x")
        asks = server.federation.asks

        def sent(kind: str, sender: str, to: str, name: str = "message") -> Stanza:
            return Stanza.build(name, kind, sender=JID.parse(sender), to=JID.parse(to))

        flood = JID.of("", "evil.example")
        assert asks(sent("chat", "joe@a.example/x", "x@x1.evil.example")) == JOE
        assert asks(sent("error", "joe@a.example/x", "x@x1.evil.example")) == flood
        assert asks(sent("result", "joe@a.example", "x@x2.evil.example", "iq")) == flood
        assert asks(sent("unsubscribed", "joe@a.example", "x@y.x3.evil.example", "presence")) == flood
        assert asks(sent("chat", "nobody@a.example", "x@evil.example")) == flood
        assert asks(sent("", "r@conference.a.example/n", "x@evil.example")) == JID.parse("r@conference.a.example")
        assert asks(sent("", "pubsub.a.example", "x@evil.example")) == JID.parse("pubsub.a.example")


@pytest.mark.parametrize(
    ("domain", "registered"),
    [
        ("example.org", "example.org"),
        ("x1.y.example.org", "example.org"),
        ("xmpp.example.co.uk", "example.co.uk"),
        ("a.b.example.com.au", "example.com.au"),
        ("x.example.ne.jp", "example.ne.jp"),
        ("x.example.ne.de", "ne.de"),
        ("x.co.example", "co.example"),
        ("x1.duckdns.org", "duckdns.org"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
        ("192.0.2.7", "192.0.2.7"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("x.müller.example", "müller.example"),
    ],
)
def test_whose_domain_it_is(domain: str, registered: str) -> None:
    """Two firms below `co.uk` are no relations; neither are two machines named by their addresses."""
    assert family(domain) == registered


async def test_domains_of_one_family_leave_room_for_others(ca: Authority) -> None:
    server = FederatedServer(ca, Slow(), accounts=(), settings={"s2s": {"domains": 40}})
    async with server:
        routes, route = server.federation.routes, server.federation.route
        for n in range(20):  # as long as half of it is free
            route(("a.example", f"x{n}.evil.example"))
        with pytest.raises(StanzaError, match="too many remote domains"):
            route(("a.example", "x20.evil.example"))
        assert route(("a.example", "x0.evil.example")) in routes.values()  # it is there already
        for n in range(20):
            route(("a.example", f"b{n}.example"))
        with pytest.raises(StanzaError):
            route(("a.example", "c.example"))
        for n in range(17):
            routes.forget("a.example", f"x{n}.evil.example")
        assert not routes.full("x20.evil.example") and len(routes) == 23
        assert list(routes.to("b1.example")) == [routes["a.example", "b1.example"]] and not routes.to("x1.evil.example")


async def test_whose_turn_does_not_come_is_told_and_may_try_again(ca: Authority) -> None:
    """Nothing is held against a domain that was not even looked for."""
    names = Slow()
    settings = {"s2s": {"retry_seconds": 0.1}}
    server = FederatedServer(ca, names, accounts=(str(EVE), str(JOE)), settings=settings)
    async with server:
        eve = await server.client("eve@a.example/x")
        each = server.federation.limits.openings_each
        for n in range(each + 1):
            eve.send(f"<message to='x@x{n}.eve.example' type='chat' id='{n}'><body>?</body></message>")
        error = await eve.receive()
        assert error.get("id") == str(each) and "too many servers are being looked for" in (
            error.findtext("{*}error/{*}text") or ""
        )
        names.now.set()
        for _ in range(each):
            await eve.receive()
        eve.send(f"<message to='x@x{each}.eve.example' type='chat' id='again'><body>?</body></message>")
        error = await eve.receive()
        assert error.get("id") == "again" and "no-such-domain" in (error.findtext("{*}error/{*}text") or "")


async def test_keys_from_one_address_leave_room_for_those_of_others(ca: Authority) -> None:
    names = Slow()
    server = FederatedServer(ca, names, accounts=())
    async with server:
        federation = server.federation
        each = federation.limits.verifications_each

        def asked(n: int, network: str) -> asyncio.Task[bool]:
            return asyncio.create_task(federation.ask("a.example", f"x{n}.eve.example", "id", "key", network))

        theirs = [asked(n, "192.0.2.1") for n in range(each)]
        await asyncio.sleep(0)
        with pytest.raises(Unreachable, match="too many keys"):
            await asked(each, "192.0.2.1")
        other = asked(each, "192.0.2.2")
        names.now.set()
        for task in (*theirs, other):
            with pytest.raises(Unreachable, match="no-such-domain"):
                await task
        with pytest.raises(Unreachable, match="no-such-domain"):
            await asked(each, "192.0.2.1")


def test_the_oldest_of_very_many_is_found_without_a_search() -> None:
    """A plain dict, emptied from its front, looks behind all the places of those that were taken away: 20 µs each, and more
    with every one, when 200,000 are known.
    """
    book = RemotePresence(2)
    for n in range(3):
        sender = JID.parse(f"u{n}@b.example/x")
        book.note(Stanza.build("presence", "", sender=sender, to=JOE))
    throttle = LoginThrottle(1, 1, 1.0, lambda: 0.0)
    throttle.failed("address", "account")
    for table in (*book._domains.values(), *book._by_size.values(), throttle._failures):
        assert isinstance(table, OrderedDict) and table
