import asyncio
import socket
from collections import Counter
from contextlib import closing

import pytest

from beamish.net import dns
from beamish.net.dns import ConnectFailed, DnsResolver, LookupFailed, NoSuchDomain, Srv, Target, interleaved, order
from beamish.testing.names import Directory, NameServer


def test_priorities_come_first() -> None:
    records = [(Srv(20, 0, 1, "c"), False), (Srv(10, 0, 2, "b"), True), (Srv(5, 0, 3, "a"), False)]
    assert [target.host for target in order(records)] == ["a", "b", "c"]


def test_weights_are_shares() -> None:
    """One to three, and one without weight that is hardly ever first."""
    records = [(Srv(0, 10, 9, "slow"), False), (Srv(0, 30, 9, "fast"), False), (Srv(0, 0, 9, "none"), False)]
    first = Counter(order(records)[0].host for _ in range(4000))
    assert first["fast"] > first["slow"] > first["none"]
    assert 0.6 < first["fast"] / 4000 < 0.85


def test_every_record_is_tried_once_and_not_too_many() -> None:
    records = [(Srv(0, n, n, f"h{n}"), False) for n in range(30)]
    targets = order(records)
    assert len(targets) == dns.MAX_TARGETS == len(set(targets))


def test_families_take_turns() -> None:
    assert interleaved(["::1", "::2", "127.0.0.1"]) == ["::1", "127.0.0.1", "::2"]
    assert interleaved([f"10.0.0.{n}" for n in range(50)]) == [f"10.0.0.{n}" for n in range(8)]


async def test_both_services_are_one_list() -> None:
    names = Directory()
    names.serve("b.example", 5269, priority=10)
    names.serve("b.example", 5270, direct_tls=True, priority=5)
    targets = await dns.targets_of("b.example", names, {})
    assert targets == [Target("host.b.example", 5270, True), Target("host.b.example", 5269, False)]


async def test_a_domain_without_records_is_looked_up_itself() -> None:
    assert await dns.targets_of("müller.example", Directory(), {}) == [Target("xn--mller-kva.example", 5269)]
    assert await dns.targets_of("[2001:db8::1]", Directory(), {}) == [Target("2001:db8::1", 5269)]


async def test_an_override_asks_nobody() -> None:
    names = Directory()
    names.broken = LookupFailed("no")
    told = Target("192.0.2.1", 1)
    assert await dns.targets_of("b.example", names, {"b.example": told}) == [told]


async def test_a_server_that_is_decidedly_not_there() -> None:
    names = Directory()
    names.records["_xmpp-server._tcp.b.example"] = [Srv(0, 0, 0, "")]
    with pytest.raises(NoSuchDomain, match="says that it has no XMPP server"):
        await dns.targets_of("b.example", names, {})


async def test_no_fallback_when_the_answer_is_not_known() -> None:
    names = Directory()
    names.broken = LookupFailed("timeout")
    with pytest.raises(LookupFailed):
        await dns.targets_of("b.example", names, {})


async def test_real_queries() -> None:
    directory = Directory()
    directory.serve("b.example", 5269, priority=3, weight=4)
    directory.hosts["six.example"] = ["2001:db8::1", "192.0.2.1"]
    async with NameServer(directory) as server:
        resolver = DnsResolver(2.0, [("127.0.0.1", server.port)])
        assert await resolver.srv("_xmpp-server._tcp.b.example") == [Srv(3, 4, 5269, "host.b.example")]
        assert await resolver.srv("_xmpp-server._tcp.nowhere.example") == []
        assert await resolver.addresses("six.example") == ["2001:db8::1", "192.0.2.1"]
        assert await resolver.addresses("nowhere.invalid") == []
        directory.broken = LookupFailed("")
        with pytest.raises(LookupFailed, match="the name servers failed to answer"):
            await resolver.srv("_xmpp-server._tcp.c.example")


async def test_name_servers_that_are_silent() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as silent:
        silent.bind(("127.0.0.1", 0))
        resolver = DnsResolver(0.2, [silent.getsockname()])
        with pytest.raises(LookupFailed, match="did not answer in time"):
            await resolver.srv("_xmpp-server._tcp.b.example")


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


async def test_the_address_that_answers_wins() -> None:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    names = Directory()
    names.hosts["many.example"] = ["127.0.0.2", "127.0.0.1"]  # nobody listens on the first
    made = await dns.connect(Target("many.example", port), names, Greeter, 5.0, delay=0.01)
    assert made.transport.get_extra_info("peername")[0] == "127.0.0.1"
    made.transport.close()
    listener.close()


async def test_refused_and_unanswered() -> None:
    names = Directory()
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConnectFailed, match="refused") as refused:
        await dns.connect(Target("127.0.0.1", port), names, Greeter, 5.0)
    assert refused.value.refused
    with closing(socket.socket()) as full, closing(socket.socket()) as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())  # fills its queue: what comes next gets no answer
        others = [socket.socket() for _ in range(3)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        with pytest.raises(ConnectFailed, match=r"did not answer within 0\.2 seconds") as unanswered:
            await dns.connect(Target("127.0.0.1", full.getsockname()[1]), names, Greeter, 0.2)
        assert unanswered.value.timed_out
        for other in others:
            other.close()
    with pytest.raises(NoSuchDomain):
        await dns.connect(Target("nowhere.example", 1), names, Greeter, 1.0)


@pytest.mark.parametrize("failing", [True, False])
async def test_no_direct_tls_says_nothing_of_the_other_service(failing: bool) -> None:
    names = Directory()
    names.records["_xmpps-server._tcp.b.example"] = [Srv(0, 0, 0, "")]
    resolver = _Half(names, "_xmpp-server." if failing else "")
    if failing:
        with pytest.raises(LookupFailed):
            await dns.targets_of("b.example", resolver, {})
    else:
        assert await dns.targets_of("b.example", resolver, {}) == [Target("b.example", 5269)]


async def test_an_unknown_answer_about_direct_tls_leaves_hope() -> None:
    names = Directory()
    names.records["_xmpp-server._tcp.b.example"] = [Srv(0, 0, 0, "")]
    with pytest.raises(LookupFailed):
        await dns.targets_of("b.example", _Half(names, "_xmpps-server."), {})


class _Half:
    """A resolver that knows nothing of names that begin with `failing`."""

    def __init__(self, names: Directory, failing: str) -> None:
        self._names = names
        self._failing = failing

    async def srv(self, name: str) -> list[Srv]:
        if self._failing and name.startswith(self._failing):
            raise LookupFailed("silent")
        return await self._names.srv(name)

    async def addresses(self, host: str) -> list[str]:
        return await self._names.addresses(host)


async def test_an_address_that_is_silent_does_not_hold_up_the_next() -> None:
    """RFC 8305: the second is tried beside the first, which may still win if it answers earlier."""
    loop = asyncio.get_running_loop()
    with closing(socket.socket()) as full:
        for attempt in range(20):  # a port that is free at one address may be in use at the other
            listener = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            port = listener.sockets[0].getsockname()[1]
            try:
                full.bind(("127.0.0.9", port))
                break
            except OSError:
                listener.close()
                assert attempt < 19
        names = Directory()
        names.hosts["many.example"] = ["127.0.0.9", "127.0.0.1"]
        full.listen(0)
        others = [socket.socket() for _ in range(4)]
        for other in others:  # they fill its queue: what comes next gets no answer
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        began = loop.time()
        made = await dns.connect(Target("many.example", port), names, Greeter, 10.0, delay=0.05)
        assert 0.04 < loop.time() - began < 5
        assert made.transport.get_extra_info("peername")[0] == "127.0.0.1"
        made.transport.close()
        for other in others:
            other.close()
    listener.close()
