import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from beamish.testing import ClientError, LiveServer


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
