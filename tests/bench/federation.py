"""CPU per message across two servers of this program: a client of one sends, a client of the other receives.

Run it with `python -m tests.bench.federation`. Both servers are processes of their own, connected over TLS with EXTERNAL and
stream management, clients over plain TCP; what is measured is what the two processes used while the messages went through.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path

from tests.system.federated import Server, two_servers

PASSWORD = "correct horse"
MESSAGES = 20_000
WINDOW = 1_000
_MESSAGE = "<message to='juliet@b.example/y' type='chat' id='m'><body>What light through yonder window breaks?</body></message>"
_WITHOUT_ARCHIVE = '[modules]\ndisable = ["mam"]'


def cpu(server: Server) -> float:
    """Seconds of CPU that a server has used."""
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="bench-federation-") as directory:
        async with two_servers(Path(directory), level="warning", rest=_WITHOUT_ARCHIVE) as both:
            await measure(both)


async def measure(both: tuple[Server, Server]) -> None:
    """Send messages from one server to the other."""
    clients = []
    for server, address in zip(both, ("romeo@a.example", "juliet@b.example"), strict=True):
        await server.begin()
        await server.add(address, PASSWORD)
    for server, address in zip(both, ("romeo@a.example/x", "juliet@b.example/y"), strict=True):
        clients.append(await server.client(address, PASSWORD, tls=False))
    romeo, juliet = clients
    await juliet.appear()
    for label, count in (("warm", 2_000), (f"{WINDOW:,} in flight", MESSAGES)):
        before, began = [cpu(server) for server in both], asyncio.get_running_loop().time()
        sent = got = 0
        while got < count:
            if sent < count and sent - got <= WINDOW // 2:
                batch = min(WINDOW // 2, count - sent)
                romeo.send(_MESSAGE * batch)
                sent += batch
            el = await juliet.receive(60)
            assert el.get("id") == "m", el.attrib
            got += 1
        took = asyncio.get_running_loop().time() - began
        used = [(cpu(server) - start) / count * 1e6 for server, start in zip(both, before, strict=True)]
        print(f"{label}: sending side {used[0]:.0f} µs, receiving side {used[1]:.0f} µs, {count / took:.0f}/s")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.bench.federation", description=__doc__).parse_args()
    asyncio.run(main())
