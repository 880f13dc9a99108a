"""Client libraries in other languages than Python: @xmpp/client (JavaScript) and mellium (Go), each a program that plays."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.processes import run_to_end

from beamish.testing import LiveServer

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SUITES = Path(sys.prefix) / "suites"
PATIENCE = 40.0


@pytest_asyncio.fixture
async def server() -> AsyncIterator[LiveServer]:
    """Its domain is a name that everybody can look up."""
    settings = {"modules": {"presence": {"requests_from_strangers": True}}}
    async with LiveServer(
        domains=("localhost",), accounts=("romeo@localhost", "juliet@localhost"), settings=settings
    ) as made:
        yield made


async def output(server: LiveServer, *command: str | Path) -> list[str]:
    """What a program says, which ends well."""
    ca = str(server.ca)
    env = {**os.environ, "NODE_EXTRA_CA_CERTS": ca, "SSL_CERT_FILE": ca}
    ended = await run_to_end(*command, seconds=PATIENCE, env=env, together=True)
    assert ended.status == 0, ended.out
    return ended.out.splitlines()


@pytest.mark.parametrize("direct_tls", [False, True], ids=["starttls", "direct"])
async def test_a_client_in_javascript(server: LiveServer, direct_tls: bool) -> None:
    """Friends, messages, a room, and a session that goes on after the connection broke."""
    modules, node = SUITES / "node" / "node_modules", shutil.which("node")
    if node is None or not (modules / "@xmpp" / "client").is_dir():
        pytest.skip("@xmpp/client is not installed (sh tests/interop/suites.sh, which needs npm)")
    service = f"xmpps://localhost:{server.tls_port}" if direct_tls else f"xmpp://localhost:{server.port}"
    said = await output(server, node, HERE / "xmppjs_client.mjs", modules, service, "localhost", server.password)
    assert said == [
        "online romeo@localhost/js",
        "online juliet@localhost/js",
        "roster 0",
        "heard <&> \N{WATCH}",
        "room hall@conference.localhost/romeo",
        "resumed",
        "heard again",
        "stopped",
    ]


async def test_a_client_in_go(server: LiveServer) -> None:
    """Channel binding by tls-exporter, discovery, roster, blocking, messages, a room and its form, the archive."""
    program = SUITES / "mellium" / "play"
    if not program.exists():
        pytest.skip("the program with mellium is not built (sh tests/interop/suites.sh, which needs Go)")
    said = await output(server, program, str(server.port), str(server.tls_port), server.password)
    assert not [line for line in said if line.startswith(("failed", "decode"))]
    assert [line for line in said if line.startswith(("contact", "blocked", "item"))] == [
        "item conference.localhost",
        "item pubsub.localhost",
        "contact {nurse@localhost Nurse none [Old]}",
        "blocked x@y.example",
    ]
    heard = [line.partition(" chat ")[2] or line for line in said if line.startswith("heard")]
    assert heard == ["h\xe9 <&> \U0001d11e", *["heard hall@conference.localhost/romeo groupchat to all"] * 2]
    assert said.count("ok close") == 2
