"""Clients from the distribution: sendxmpp, go-sendxmpp; profanity, mcabber on terminals. Skipped where they are missing."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import shutil
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from beamish.testing import LiveServer

pytestmark = pytest.mark.slow
PATIENCE = 30.0


def program(name: str) -> str:
    """The path of a program. Skips the test if it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (apt-get install {name})")
    return path


# ---- go-sendxmpp -----------------------------------------------------------------------------------------------------


class GoSendxmpp:
    """Runs go-sendxmpp, which trusts the server's certificate and no other."""

    def __init__(self, server: LiveServer, directory: Path) -> None:
        self.path = program("go-sendxmpp")
        self.server = server
        self.environment = {
            "HOME": str(directory),
            "PATH": os.environ["PATH"],
            "SSL_CERT_FILE": str(server.ca),
            "SSL_CERT_DIR": str(directory),
        }

    async def start(self, account: str, *args: str, direct_tls: bool = False) -> asyncio.subprocess.Process:
        port = self.server.tls_port if direct_tls else self.server.port
        login = ("-u", account, "-p", self.server.password, "-j", f"{self.server.host}:{port}")
        return await asyncio.create_subprocess_exec(
            self.path,
            *(*login, *(["-t"] if direct_tls else []), *args),
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )


@pytest.mark.parametrize("direct_tls", [False, True], ids=["starttls", "direct"])
async def test_go_sendxmpp_sends(live_server: LiveServer, tmp_path: Path, direct_tls: bool) -> None:
    sender = GoSendxmpp(live_server, tmp_path)
    juliet = await live_server.client("juliet@example.org/balcony", presence=True)
    process = await sender.start("romeo@example.org", "juliet@example.org", direct_tls=direct_tls)
    out, _ = await asyncio.wait_for(process.communicate(b"Lady, by yonder blessed moon & stars\n"), PATIENCE)
    assert process.returncode == 0, out.decode()
    got = await juliet.receive()
    assert (got.get("from") or "").startswith("romeo@example.org/")
    assert (got.findtext("{jabber:client}body") or "").strip() == "Lady, by yonder blessed moon & stars"


async def test_go_sendxmpp_receives_what_waited_and_what_comes(live_server: LiveServer, tmp_path: Path) -> None:
    receiver = GoSendxmpp(live_server, tmp_path)
    juliet = await live_server.client("juliet@example.org/balcony", presence=True)
    juliet.send("<message to='romeo@example.org' type='chat'><body>while you were away</body></message>")
    await juliet.expect_nothing()
    process = await receiver.start("romeo@example.org", "-l")
    assert process.stdout is not None
    try:
        lines = await until(process.stdout, "while you were away")
        juliet.send("<message to='romeo@example.org' type='chat'><body>now</body></message>")
        lines += await until(process.stdout, "now")
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.communicate(), PATIENCE)
    assert all("juliet@example.org" in line for line in lines[-1:])


async def until(stream: asyncio.StreamReader, text: str) -> list[str]:
    """The lines up to the one that ends with a text."""
    lines: list[str] = []
    while not lines or not lines[-1].rstrip().endswith(text):
        line = await asyncio.wait_for(stream.readline(), PATIENCE)
        assert line, f"ended without {text!r}: {lines}"
        lines.append(line.decode())
    return lines


# ---- sendxmpp --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct_tls", [False, True], ids=["starttls", "direct"])
async def test_sendxmpp_sends(live_server: LiveServer, tmp_path: Path, direct_tls: bool) -> None:
    """The one of Perl: its stream headers name the machine that it runs on."""
    path = program("sendxmpp")
    juliet = await live_server.client("juliet@example.org/balcony", presence=True)
    await (await live_server.client("romeo@example.org/orchard")).close()  # makes the account
    port = live_server.tls_port if direct_tls else live_server.port
    login = ("-u", "romeo", "-p", live_server.password, "-j", f"{live_server.host}:{port}", "-o", "example.org")
    process = await asyncio.create_subprocess_exec(
        path,
        *(*login, "--tls-ca-path", str(live_server.ca), "-e" if direct_tls else "-t", "juliet@example.org"),
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(b"It is the east\n"), PATIENCE)
    assert process.returncode == 0, out.decode()
    got = await juliet.receive()
    assert got.get("from") == "romeo@example.org/sendxmpp"
    assert (got.findtext("{jabber:client}body") or "").strip() == "It is the east"


# ---- profanity -------------------------------------------------------------------------------------------------------

ACCOUNT = """\
[romeo]
enabled=true
jid=romeo@example.org
resource=profanity
server={host}
port={port}
tls.policy={policy}
password={password}
presence.last=online
presence.login=online
"""
PREFERENCES = """\
[notifications]
message=off
[ui]
splash=false
[connection]
account=
[encryption]
encryption.warn=false
"""
_ESCAPES = re.compile(rb"\x1b(?:\[[0-9;?>=]*[A-Za-z]|[()][A-Z0-9]|[=>]|\][^\x07]*\x07)")


class Terminal:
    """A program on a pseudo terminal, 200 columns wide so that lines stay whole."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self.shown = b""
        self._master = master
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    @classmethod
    async def run(cls, *command: str, environment: dict[str, str]) -> Terminal:
        """Start a program."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        process = await asyncio.create_subprocess_exec(
            *command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        return cls(process, master)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # the program has ended
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self.shown = (self.shown + data)[-1_000_000:]
        self._more.set()

    def type(self, line: str) -> None:
        """Type a line and press enter."""
        os.write(self._master, line.encode() + b"\r")

    async def shows(self, text: str) -> None:
        """Wait until the text was written to the terminal; forgets what came before it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while True:
            plain = _ESCAPES.sub(b"", self.shown)
            if text.encode() in plain:
                self.shown = b""
                return
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), deadline - loop.time())
            except TimeoutError:
                raise AssertionError(f"{text!r} was not shown, but:\n{plain.decode(errors='replace')}") from None

    async def close(self) -> None:
        """End the program and the terminal."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        loop = asyncio.get_running_loop()
        with suppress(ValueError):
            loop.remove_reader(self._master)
        os.close(self._master)


@pytest.fixture
async def profanity(live_server: LiveServer, tmp_path: Path) -> AsyncIterator[Callable[[bool], Awaitable[Terminal]]]:
    """Starts profanity, logged in as romeo."""
    path = program("profanity")
    terminals: list[Terminal] = []

    async def start(direct_tls: bool) -> Terminal:
        port = live_server.tls_port if direct_tls else live_server.port
        policy = direct_policy(path) if direct_tls else "trust"
        account = ACCOUNT.format(host=live_server.host, port=port, policy=policy, password=live_server.password)
        for file, text in (("data/profanity/accounts", account), ("config/profanity/profrc", PREFERENCES)):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        environment = {
            "HOME": str(tmp_path),
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "PATH": os.environ["PATH"],
            "TERM": "xterm",
            "LANG": "C.UTF-8",
        }
        terminals.append(await Terminal.run(path, "-a", "romeo", environment=environment))
        return terminals[-1]

    yield start
    for terminal in terminals:
        await terminal.close()


def direct_policy(path: str) -> str:
    """What this version of profanity calls TLS from the first byte, as its help says (0.15 still: "legacy")."""
    return "legacy" if b"<account> tls legacy" in Path(path).read_bytes() else "direct"


@pytest.mark.parametrize("direct_tls", [False, True], ids=["starttls", "direct"])
async def test_profanity_talks(
    live_server: LiveServer, profanity: Callable[[bool], Awaitable[Terminal]], direct_tls: bool
) -> None:
    juliet = await live_server.client("juliet@example.org/balcony", presence=True)
    juliet.send("<message to='romeo@example.org' type='chat'><body>ere-you-came</body></message>")
    await juliet.expect_nothing()
    terminal = await profanity(direct_tls)
    if direct_tls:
        await terminal.shows("Use '/tls allow' to accept this certificate.")
        terminal.type("/tls allow")
    await terminal.shows("logged in successfully")
    terminal.type("/msg juliet@example.org by-yonder-moon")
    got = await juliet.receive()
    while got.findtext("{jabber:client}body") is None:  # chat states and the like
        got = await juliet.receive()
    assert got.get("from") == "romeo@example.org/profanity"
    assert got.findtext("{jabber:client}body") == "by-yonder-moon"
    await terminal.shows("ere-you-came")
    juliet.send("<message to='romeo@example.org' type='chat'><body>swear-not-by-it</body></message>")
    await terminal.shows("swear-not-by-it")
    terminal.type("/quit")
    assert await asyncio.wait_for(terminal.process.wait(), PATIENCE) == 0


# ---- mcabber ---------------------------------------------------------------------------------------------------------

MCABBER = """\
set jid = romeo@example.org
set password = {password}
set resource = mcabber
set server = {host}
set port = {port}
set tls = 1
set ssl_fingerprint =
set ssl_ignore_checks = 1
set nick = romeo
set muc_print_status = 3
"""


async def test_mcabber_makes_a_room(live_server: LiveServer, tmp_path: Path) -> None:
    """It unlocks the room, speaks in it, kicks and is told of everything."""
    path = program("mcabber")
    juliet = await live_server.client("juliet@example.org/balcony", presence=True)
    await (await live_server.client("romeo@example.org/orchard")).close()  # makes the account
    rc = tmp_path / "mcabberrc"
    rc.write_text(MCABBER.format(password=live_server.password, host=live_server.host, port=live_server.port))
    rc.chmod(0o600)
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "TERM": "xterm", "LANG": "C.UTF-8"}
    terminal = await Terminal.run(path, "-f", str(rc), environment=environment)
    try:
        await terminal.shows("Connection established.")
        terminal.type("/room join cave@conference.example.org romeo")
        await terminal.shows('You have joined cave@conference.example.org as "romeo"')
        terminal.type("/roster search cave")
        await terminal.shows("Room: cave@conference.example.org")
        terminal.type("")  # from the list of contacts into the room's window
        terminal.type("/room unlock")
        items = "<query xmlns='http://jabber.org/protocol/disco#items'/>"
        async with asyncio.timeout(PATIENCE):  # a room is listed when it is configured, which the program says nowhere
            while not len((await juliet.iq(f"<iq type='get' id='i' to='conference.example.org'>{items}</iq>"))[0]):
                pass
        juliet.send(
            "<presence to='cave@conference.example.org/juliet'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
        )
        await terminal.shows("juliet has joined")
        terminal.type("by-yonder-moon")
        got = await juliet.receive()
        while got.findtext("{jabber:client}body") is None:  # presence, the subject
            got = await juliet.receive()
        assert got.findtext("{jabber:client}body") == "by-yonder-moon"
        terminal.type("/room kick juliet inconstant")
        await terminal.shows("juliet has been kicked")
        got = await juliet.receive()
        assert (got.get("type"), got.get("from")) == ("unavailable", "cave@conference.example.org/juliet")
        terminal.type("/quit")
        assert await asyncio.wait_for(terminal.process.wait(), PATIENCE) == 0
    finally:
        await terminal.close()
