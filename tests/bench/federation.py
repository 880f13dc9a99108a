"""CPU per message across two servers of this program: a client of one sends, a client of the other receives.

Run it with `python -m tests.bench.federation`. Both servers are processes of their own, connected over TLS with EXTERNAL and
stream management, clients over plain TCP; what is measured is what the two processes used while the messages went through.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

from beamish.testing.federated import Authority
from beamish.testing.live import connect
from beamish.xmpp.jid import JID

PASSWORD = "correct horse"
MESSAGES = 20_000
WINDOW = 1_000
_MESSAGE = "<message to='juliet@b.example/y' type='chat' id='m'><body>What light through yonder window breaks?</body></message>"
_CONFIG = """
[server]
domains = ["{domain}"]
data_dir = "{folder}"
log = {{ level = "warning" }}
[c2s]
listen = ["127.0.0.1:0"]
direct_tls = []
require_tls = false
scram_iterations = 4096
[tls]
certificate = "{certificate}"
key = "{key}"
[s2s]
listen = ["127.0.0.1:{port}"]
direct_tls = []
trust = "{trust}"
hosts = {{ "{other}" = "127.0.0.1:{other_port}" }}
stanzas_per_second = 1000000
bytes_per_second = 1000000000
[limits]
stanzas_per_second = 1000000
bytes_per_second = 1000000000
[modules]
disable = {disable}
"""


class Server:
    """One server process."""

    def __init__(self, authority: Authority, folder: Path, domain: str, port: int, other: str, other_port: int) -> None:
        folder.mkdir()
        certificate, key = authority.issue(domain)
        self.domain = domain
        self.config = folder / "beamish.toml"
        known = {path.stem for path in (Path(__file__).parents[2] / "src/beamish/modules").iterdir()}
        self.config.write_text(
            _CONFIG.format(
                domain=domain,
                folder=folder,
                certificate=certificate,
                key=key,
                port=port,
                trust=authority.file,
                other=other,
                other_port=other_port,
                disable=json.dumps(sorted(known & {"mam"})),
            )
        )
        self.process: asyncio.subprocess.Process | None = None
        self.client_port = 0

    async def beamish(self, *arguments: str, text: bytes = b"") -> None:
        """Run a command and wait for it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "beamish", *arguments, "-c", str(self.config), stdin=asyncio.subprocess.PIPE
        )
        await process.communicate(text)
        assert process.returncode == 0, arguments

    async def start(self, user: str) -> None:
        """Make the account, start the server, wait until it listens."""
        await self.beamish("user", "add", f"{user}@{self.domain}", "--password-stdin", text=PASSWORD.encode())
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "beamish", "serve", "--json", "-c", str(self.config), stdout=asyncio.subprocess.PIPE
        )
        assert self.process.stdout is not None
        told = json.loads(await self.process.stdout.readline())
        line = next(line for line in told["listening"] if line.startswith("c2s"))
        self.client_port = int(line.split()[1].rpartition(":")[2])

    def cpu(self) -> float:
        """Seconds of CPU the process has used."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main() -> None:
    """Measure and print."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="bench-federation-") as directory:
        root = Path(directory)
        authority = Authority(root)
        a = Server(authority, root / "a", "a.example", ports[0], "b.example", ports[1])
        b = Server(authority, root / "b", "b.example", ports[1], "a.example", ports[0])
        try:
            await a.start("romeo")
            await b.start("juliet")
            romeo = await connect("127.0.0.1", a.client_port, "a.example")
            await romeo.login(JID.parse("romeo@a.example/x"), PASSWORD)
            juliet = await connect("127.0.0.1", b.client_port, "b.example")
            await juliet.login(JID.parse("juliet@b.example/y"), PASSWORD)
            await juliet.appear()
            for label, count, window in (("warm", 2_000, WINDOW), ("1,000 in flight", MESSAGES, WINDOW)):
                before, began = (a.cpu(), b.cpu()), asyncio.get_running_loop().time()
                sent = got = 0
                while got < count:
                    if sent < count and sent - got <= window // 2:
                        batch = min(window // 2, count - sent)
                        romeo.send(_MESSAGE * batch)
                        sent += batch
                    el = await juliet.receive(60)
                    assert el.get("id") == "m", el.attrib
                    got += 1
                took = asyncio.get_running_loop().time() - began
                used = [(server.cpu() - start) / count * 1e6 for server, start in zip((a, b), before, strict=True)]
                print(f"{label}: sending side {used[0]:.0f} µs, receiving side {used[1]:.0f} µs, {count / took:.0f}/s")
        finally:
            for server in (a, b):
                if server.process is not None and server.process.returncode is None:
                    server.process.terminate()
                    await server.process.wait()


if __name__ == "__main__":
    asyncio.run(main())
