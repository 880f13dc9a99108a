"""What an administrator sees of federation between two running servers."""

from __future__ import annotations

import json
from pathlib import Path

from tests.system.federated import two_servers

PASSWORD = "correct horse"


async def test_streams_are_tested_and_listed(tmp_path: Path) -> None:
    async with two_servers(tmp_path) as (a, b):
        await a.begin()
        status, out, _ = await a.command("s2s", "test", "b.example")  # it does not run yet
        assert status == 1
        assert "failed: refused: 127.0.0.1:" in out
        await b.begin()
        status, out, _ = await a.command("s2s", "test", "b.example")
        assert status == 0
        steps = [line.split(" s  ", 1)[1] for line in out.splitlines()]
        assert steps[0].startswith("servers: 127.0.0.1:")
        assert "TLS handshake" in steps
        assert "TLSv1.3 established; certificate: holds" in steps
        assert steps[-2:] == ["authenticated by external, both ways", "stanzas can be exchanged"]
        await a.add("romeo@a.example", PASSWORD)
        await b.add("juliet@b.example", PASSWORD)
        romeo = await a.client("romeo@a.example/x", PASSWORD, tls=False)
        juliet = await b.client("juliet@b.example/y", PASSWORD, tls=False)
        romeo.send("<message to='juliet@b.example/y' type='chat' id='1'><body>Hi</body></message>")
        await juliet.expect("<message from='romeo@a.example/x' id='1'/>")
        status, out, _ = await a.command("s2s", "list", "--json")
        assert status == 0
        [stream] = [entry for entry in json.loads(out) if entry["direction"] == "out" and entry["out"]]
        assert (stream["local"], stream["remote"], stream["method"]) == ("a.example", "b.example", "external")
        status, out, _ = await b.command("s2s", "list")
        assert status == 0 and "a.example" in out
