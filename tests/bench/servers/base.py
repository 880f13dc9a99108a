"""A server under test: started in a directory of its own, with accounts and rosters, on one core, and taken down again."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import shutil
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import shuffle
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.bench.measure import family
from tests.bench.wire import Account, Address, BenchError

DOMAIN = "localhost"
PASSWORD = "correct horse battery"
NO_LIMIT = 1_000_000_000
PORTS = range(20_000, 32_000)
"""Below those that Linux by default gives to outgoing connections, which the load makes by the thousand."""
START_SECONDS = 60.0
STOP_SECONDS = 20.0

Friends = Sequence[tuple[int, Sequence[int]]]
"""Whose rosters hold whom, by number: each user with its contacts; every subscription goes both ways."""


@dataclass(frozen=True)
class Setting:
    """What a server under test must be like; the same for every server of a comparison."""

    accounts: int
    friends: Friends = ()
    archive: bool = False
    port: int = 0
    core: int = 0
    keep: bool = False


async def polled(check: Callable[[], Awaitable[bool]], seconds: float, late: str) -> None:
    """Ask again and again whether another process has done something; raises BenchError (`late`) after so many seconds.

    The servers that are compared log nothing of what they do, so that it costs them nothing; there is no event to wait for.
    Asked every 50 ms, a start is seen 25 ms late on average, before anything is measured. The time allowed is about ten
    times what the slowest of them takes on an idle machine, as this is to fail only where nothing is to be hoped for.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while not await check():
        if loop.time() > ends:
            raise BenchError(f"{late} after {seconds:.0f} s")
        await asyncio.sleep(0.05)


def free_port() -> int:
    """Return a TCP port of the loopback that nobody uses now, and that no connection will be given as its own."""
    ports = list(PORTS)
    shuffle(ports)
    for port in ports:
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError("no port is free")


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write an ECDSA P-256 certificate for the domain under test; return (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DOMAIN)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(DOMAIN), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "cert.pem", folder / "key.pem"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_path, key_path


class Server(ABC):
    """A server process under test, an asynchronous context manager.

    `setting.port` is where it listens for plain and STARTTLS connections; direct TLS and whatever else it needs get free
    ports. The directory is removed at the end, unless `setting.keep`.
    """

    name: ClassVar[str]
    muc = f"conference.{DOMAIN}"
    mechanism: ClassVar[str] = ""
    """The SASL mechanism to log in with, whatever the command line says; empty: what that says."""
    features: ClassVar[frozenset[str]] = frozenset()
    """What only this server can be asked for, by name; see the scenarios."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.folder = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-"))
        self.accounts = [Account(f"u{number}", DOMAIN, PASSWORD) for number in range(setting.accounts)]
        self.address = Address(DOMAIN, setting.port or free_port(), free_port())
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    def missing(cls) -> str:
        """What must be installed before this server can run; empty when it is there."""
        return ""

    @abstractmethod
    async def prepare(self) -> None:
        """Write the configuration, and what the server must find when it starts."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that runs the server in the foreground."""

    async def ready(self) -> None:  # noqa: B027 - nothing to do is the usual answer
        """What is left to do when the server listens, before the load."""

    def environment(self) -> dict[str, str]:
        """Environment variables on top of our own."""
        return {}

    async def version(self) -> str:
        """Return the server's name and version."""
        return self.name

    @property
    def pids(self) -> list[int]:
        """The server's processes that live now."""
        if self._process is None or self._process.returncode is not None:
            raise BenchError(f"{self.name} is not running; {self.log_tail()}")
        return family(self._process.pid)

    @property
    def pid(self) -> int:
        """The server's own process."""
        return self.pids[0]

    async def __aenter__(self) -> Server:
        try:
            await self.prepare()
            await self.start()
        except BaseException:
            await self.stop()
            self._remove()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()
        self._remove()

    async def start(self) -> None:
        """Run the server and wait until it listens and has everything."""
        # Started already pinned: a runtime that sizes its pools by the cores it may use must see one.
        core = self.setting.core
        pinned = ["taskset", "-c", str(core)] if core < (os.cpu_count() or 1) else []
        with (self.folder / "output.log").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *pinned,
                *self.command(),
                cwd=self.folder,
                env=os.environ | self.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        await self.listening(self.address.port)
        await self.ready()

    async def stop(self) -> None:
        """Ask the server to stop, insist after a while."""
        process = self._process
        if process is not None and process.returncode is None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)  # it leads a session of its own, made by us
                    await asyncio.wait_for(process.wait(), STOP_SECONDS)
                except (ProcessLookupError, TimeoutError):
                    continue
                else:
                    break

    def _remove(self) -> None:
        if not self.setting.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        """Return the end of what the server printed."""
        try:
            return (self.folder / "output.log").read_text(errors="replace")[-800:]
        except OSError:
            return "(no output)"

    async def listening(self, port: int) -> None:
        """Wait until the server accepts connections at a port."""

        async def listens() -> bool:
            if self._process is None or self._process.returncode is not None:
                raise BenchError(f"{self.name} has ended: {self.log_tail()}")
            try:
                _, writer = await asyncio.open_connection(self.address.host, port)
            except OSError:
                return False
            writer.close()
            return True

        await polled(listens, START_SECONDS, f"{self.name} does not listen on port {port}")

    def pairs(self) -> list[tuple[int, list[int]]]:
        """Every roster that is not empty: whose, and who is in it."""
        rosters: dict[int, set[int]] = {}
        for user, contacts in self.setting.friends:
            rosters.setdefault(user, set()).update(contacts)
            for contact in contacts:
                rosters.setdefault(contact, set()).add(user)
        return [(user, sorted(contacts)) for user, contacts in sorted(rosters.items())]


async def run(*command: str, text: bytes = b"", quietly: bool = True) -> str:
    """Run a short command with this input and return the first line it prints. Raises BenchError when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL if quietly else None,
    )
    out, _ = await process.communicate(text)
    if process.returncode:
        raise BenchError(f"{command[0]} failed: {out.decode(errors='replace')[-500:]}")
    return out.decode().partition("\n")[0].strip()
