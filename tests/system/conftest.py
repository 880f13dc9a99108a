"""The installed command as a process, run and spoken to the way an administrator and clients do it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from tests.processes import run_to_end

from beamish.net.control import call
from beamish.testing import Client
from beamish.testing.live import connect, trust
from beamish.xmpp.jid import JID

BEAMISH = Path(sys.executable).with_name("beamish")
PATIENCE = 30.0

CONFIG = """\
[server]
domains = ["example.org", "example.net"]
data_dir = "data"
shutdown_grace = 5
{server}
[c2s]
listen = ["127.0.0.1:0"]
direct_tls = ["127.0.0.1:0"]
scram_iterations = 4096
{c2s}
[s2s]
listen = ["127.0.0.1:0"]
direct_tls = ["127.0.0.1:0"]
{rest}
"""


class Daemon:
    """`beamish serve` in a directory of its own; an async context manager that kills what is still running at its end.

    `config` is written when the server starts. `events` are the objects of the log, which is in JSON. `ca` is what clients
    trust: the certificate that the server makes for itself.
    """

    def __init__(self, directory: Path, *, server: str = "", c2s: str = "", rest: str = "") -> None:
        self.directory = directory
        if "log =" not in server:
            server += '\nlog = { level = "info", format = "json" }'
        self.config = CONFIG.format(server=server, c2s=c2s, rest=rest)
        self.log = directory / "log"
        self.ca = directory / "data" / "certs" / "self-signed.pem"
        self.port = self.tls_port = 0
        self.ports: dict[str, int] = {}
        """Of each listener, by what it is for: `s2s direct-tls`, `component plain`."""
        self.process: asyncio.subprocess.Process | None = None
        self._clients: list[Client] = []

    async def __aenter__(self) -> Daemon:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.drop()
        self.kill()
        await self.ended()

    def write_config(self) -> None:
        """Put the configuration file where the server and commands look for it."""
        (self.directory / "beamish.toml").write_text(self.config)

    async def start(self, **environment: str) -> None:
        """Run the server until it says that it is ready."""
        self.write_config()
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                BEAMISH,
                *("serve", "--json", "-c", "beamish.toml"),
                cwd=self.directory,
                env={**os.environ, **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)
        assert line, f"the server did not start:\n{self.log.read_text()}"
        for listener in json.loads(line)["listening"]:
            protocol, address, kind = listener.split()
            port = int(address.rpartition(":")[2])
            self.ports[f"{protocol} {kind}"] = port
            if (protocol, kind) == ("c2s", "starttls"):
                self.port = port
            elif protocol == "c2s":
                self.tls_port = port

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """`kill -9`, if it still runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    async def ended(self) -> int | None:
        """Wait until the process is gone; its exit status, None if it never ran."""
        if self.process is None:
            return None
        assert self.process.stdout is not None
        await asyncio.wait_for(self.process.stdout.read(), PATIENCE)  # up to its end: nobody holds the pipe any more
        return await asyncio.wait_for(self.process.wait(), PATIENCE)

    async def stop(self) -> int | None:
        """The clients leave without a word, then SIGTERM; the exit status."""
        for client in self._clients:
            client.drop()
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def command(self, *args: str, stdin: str = "") -> tuple[int, str, str]:
        """Run `beamish <args>` on the same configuration: exit status, standard output, standard error."""
        self.write_config()
        words = (BEAMISH, *args, "-c", "beamish.toml")
        ended = await run_to_end(*words, cwd=self.directory, seconds=PATIENCE, text=stdin)
        return ended.status, ended.out, ended.err

    async def add(self, address: str, password: str) -> None:
        """Make an account in the running server, through its control socket as `beamish user add` does."""
        await call(self.directory / "data" / "control.sock", "user.add", {"jid": address, "password": password})

    async def connect(self, domain: str = "example.org", *, tls: bool = True, direct_tls: bool = False) -> Client:
        """A client on a fresh connection; it is dropped at the end."""
        port = self.tls_port if direct_tls else self.port
        client = await connect("127.0.0.1", port, domain, trust(self.ca) if tls else None, direct_tls=direct_tls)
        self._clients.append(client)
        return client

    async def client(self, address: str, password: str, *, tls: bool = True) -> Client:
        """A logged-in client."""
        jid = JID.parse(address)
        client = await self.connect(jid.domain, tls=tls)
        await client.login(jid, password)
        return client

    def events(self, name: str) -> list[dict[str, Any]]:
        """What was logged under a name, oldest first."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A server that is not started yet."""
    async with Daemon(tmp_path) as made:
        yield made


@pytest.fixture
async def make_daemon(tmp_path: Path) -> AsyncIterator[Callable[..., Daemon]]:
    """Makes the test's server with further configuration: keys of `[server]`, of `[c2s]`, and whole sections."""
    made: list[Daemon] = []

    def make(**texts: str) -> Daemon:
        assert not made
        made.append(Daemon(tmp_path, **texts))
        return made[0]

    yield make
    for each in made:
        await each.__aexit__(None, None, None)


class NotifySocket:
    """What a service manager listens on (sd_notify)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))

    async def until(self, assignment: str) -> list[str]:
        """Read messages until one has this line (`READY=1`); all lines read."""
        lines: list[str] = []
        while assignment not in lines:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._socket, 65_536), PATIENCE)
            lines += data.decode().splitlines()
        return lines

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


@pytest.fixture
def notify_socket(tmp_path: Path) -> Iterator[NotifySocket]:
    """A service manager's socket; give the server its path as `NOTIFY_SOCKET`."""
    made = NotifySocket(tmp_path / "notify")
    yield made
    made.close()
