import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from beamish.core.commands import CommandError
from beamish.testing import ClientError, LiveServer
from beamish.testing.federated import Authority, FederatedServer
from beamish.testing.live import connect, trust
from beamish.testing.names import Directory


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    def run_on(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(coroutine, 30))

    return run_on


def test_clients_meet_over_starttls_and_direct_tls(run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    async def play() -> None:
        async with LiveServer() as server:
            romeo = await server.client("romeo@example.org/orchard", presence=True)
            benvolio = await server.client("benvolio@example.net/street", direct_tls=True, presence=True)
            romeo.send(f"<message to='{benvolio.jid}' type='chat'><body>Good morrow, cousin</body></message>")
            await benvolio.expect(f"<message from='{romeo.jid}' type='chat'><body>Good morrow, cousin</body></message>")
            benvolio.send(f"<message to='{romeo.jid}' type='chat'><body>{'O' * 200_000}</body></message>")
            answer = await romeo.expect(f"<message from='{benvolio.jid}' type='chat'/>")
            assert len(answer.findtext("{jabber:client}body") or "") == 200_000
            await romeo.close()

    run(play())


async def test_tls_is_required_and_the_password_counts(live_server: LiveServer) -> None:
    client = await live_server.connect()
    features = await client.open_stream("example.org")
    assert [str(feature.tag) for feature in features] == ["{urn:ietf:params:xml:ns:xmpp-tls}starttls"]
    await client.start_tls("example.org")
    with pytest.raises(ClientError, match="failure"):
        await client.authenticate("romeo", "not the password")


async def test_each_domain_and_no_other_is_trusted(live_server: LiveServer) -> None:
    for domain in ("example.org", "example.net"):
        await live_server.connect(domain, direct_tls=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await live_server.connect("example.com", direct_tls=True)


async def test_certificates_are_good_enough_for_clients_of_later_pythons(tmp_path: Path) -> None:
    """From 3.13 on, its default is to be strict with certificates (RFC 5280)."""
    async with (
        LiveServer(domains=["a.example"], accounts=[]) as selfmade,
        FederatedServer(Authority(tmp_path), Directory(), accounts=[]) as signed,
    ):
        for server in (selfmade, signed):
            context = trust(server.ca)
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            client = await connect(server.host, server.port, "a.example", context)
            await client.open_stream("a.example")
            await client.start_tls("a.example")
            client.drop()


async def test_data_stays_in_a_directory_that_is_given(tmp_path: Path) -> None:
    async with LiveServer(directory=tmp_path, accounts=["romeo@example.org"]) as first:
        await first.client("romeo@example.org/orchard")
        ca = first.ca.read_text()
        assert "PRIVATE" not in ca
    async with LiveServer(directory=tmp_path, accounts=[]) as second:
        await second.client("romeo@example.org/orchard")
        assert second.ca.read_text() == ca


async def test_a_client_is_not_hindered_by_settings(live_server: LiveServer) -> None:
    assert not live_server.config.c2s.anonymous
    settings = {"c2s": {"require_tls": False, "direct_tls": ()}}
    async with LiveServer(domains=["localhost"], accounts=["romeo@localhost"], settings=settings) as server:
        client = await server.connect()
        client.upgrade = None
        await client.open_stream("localhost")
        await client.authenticate("romeo", server.password)
        await client.bind("plain")


async def test_commands_of_the_administrator(live_server: LiveServer) -> None:
    await live_server.command("user.add", jid="paris@example.org", password="O woe, O woeful")
    assert "paris@example.org" in [entry["jid"] for entry in await live_server.command("user.list")]
    with pytest.raises(CommandError, match="there is no command"):
        await live_server.command("user.marry")


async def test_a_connection_is_cut_without_a_word(live_server: LiveServer) -> None:
    romeo = await live_server.client("romeo@example.org/orchard", presence=True)
    juliet = await live_server.client("juliet@example.org/balcony")
    live_server.cut("romeo@example.org/orchard")
    with pytest.raises(ClientError, match="the stream ended"):
        await romeo.receive()
    assert romeo.disconnected
    assert not romeo.closed
    await juliet.roster()  # nobody else was
    live_server.cut("juliet@example.org")
    with pytest.raises(ClientError, match="the stream ended"):
        await juliet.receive()
    with pytest.raises(LookupError, match=r"romeo@example\.org is not connected"):
        live_server.cut("romeo@example.org")


async def test_the_server_is_away_and_comes_back_as_it_was() -> None:
    async with LiveServer() as server:
        romeo = await server.client("romeo@example.org/orchard")
        romeo.send("<message to='juliet@example.org' type='chat'><body>Good night</body></message>")
        await romeo.roster()
        ports, ca = (server.port, server.tls_port), server.ca.read_text()
        async with server.away():
            for port in ports:
                with pytest.raises(ConnectionRefusedError):
                    await connect(server.host, port, "example.org")
        assert ((server.port, server.tls_port), server.ca.read_text()) == (ports, ca)
        juliet = await server.client("juliet@example.org/balcony", presence=True)
        await juliet.expect("<message from='romeo@example.org/orchard'><body>Good night</body></message>")
        data = server.config.server.data_dir
    assert not data.exists()
    async with server:  # once more, and nothing of before is there
        assert server.config.server.data_dir != data
        juliet = await server.client("juliet@example.org/balcony", presence=True)
        await juliet.expect_nothing()
