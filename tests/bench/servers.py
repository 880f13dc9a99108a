"""Starts a server under test in a directory of its own, with accounts, on one core, and takes it down again.

Every server gets its packaged set of features with rate limits off, listens only on the loopback, and stores SCRAM
keys. What is installed system-wide is left alone: own configuration, ports, data. To add a server, write a subclass of
`Server` and enter it in `SERVERS`.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import hmac
import ipaddress
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from abc import ABC, abstractmethod
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.bench.measure import family
from tests.bench.wire import Account, Address, BenchError

DOMAIN = "localhost"
PASSWORD = "correct horse battery"
NO_LIMIT = 1_000_000_000
START_SECONDS = 60.0
STOP_SECONDS = 20.0


def free_port() -> int:
    """Return a TCP port of the loopback that nobody uses now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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

    `port` is where it listens for plain and STARTTLS connections; direct TLS and whatever else it needs get free ports.
    The directory is removed at the end, unless `keep`.
    """

    name: ClassVar[str]
    muc = f"conference.{DOMAIN}"

    def __init__(
        self, accounts: int, *, port: int = 0, core: int = 0, archive: bool = False, keep: bool = False
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-"))
        self.accounts = [Account(f"u{number}", DOMAIN, PASSWORD) for number in range(accounts)]
        self.address = Address(DOMAIN, port or free_port(), free_port())
        self.archive = archive
        self._core = core
        self._keep = keep
        self._process: asyncio.subprocess.Process | None = None

    @abstractmethod
    def configure(self) -> None:
        """Write the configuration, and what the server must find when it starts."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that runs the server in the foreground."""

    @abstractmethod
    async def add_accounts(self) -> None:
        """Make the accounts; the server listens already."""

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

    async def __aenter__(self) -> Server:
        try:
            self.configure()
            # Started already pinned: a runtime that sizes its pools by the cores it may use must see one.
            pinned = ["taskset", "-c", str(self._core)] if self._core < (os.cpu_count() or 1) else []
            with (self.folder / "output.log").open("wb") as output:
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
            await self._listening(self.address.port)
            await self.add_accounts()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ask the server to stop, insist after a while, and remove its directory."""
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
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        """Return the end of what the server printed."""
        try:
            return (self.folder / "output.log").read_text(errors="replace")[-2000:]
        except OSError:
            return "(no output)"

    async def _listening(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + START_SECONDS
        while loop.time() < ends:
            if self._process is None or self._process.returncode is not None:
                break
            try:
                _, writer = await asyncio.open_connection(self.address.host, port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return
        raise BenchError(f"{self.name} does not listen on port {port}: {self.log_tail()}")


class Beamish(Server):
    """The server of this repository, run from its own virtual environment."""

    name = "beamish"
    _archives = ("mam", "archive")  # whichever of them exists
    _program = Path(sys.executable).with_name("beamish")

    def configure(self) -> None:
        """Limits are raised, not removed: every check still runs."""
        bounds = (
            "stanzas_per_second",
            "stanza_burst",
            "bytes_per_second",
            "bytes_burst",
            "connections_per_address",
            "login_failures_per_address",
        )
        limits = "\n".join(f"{name} = {NO_LIMIT}" for name in bounds)
        archives = [name for name in self._archives if find_spec(f"beamish.modules.{name}")]
        if self.archive and not archives:
            raise BenchError("this Beamish has no archive module")
        disabled = "" if self.archive else ", ".join(f'"{name}"' for name in archives)
        (self.folder / "beamish.toml").write_text(
            f"""
[server]
domains = ["{DOMAIN}"]
data_dir = "{self.folder}/data"
log = {{ level = "warning", format = "text" }}

[c2s]
listen = ["127.0.0.1:{self.address.port}"]
direct_tls = ["127.0.0.1:{self.address.tls_port}"]
require_tls = false

[s2s]
enabled = false

[limits]
{limits}

[modules.muc]
stanzas_per_second = {NO_LIMIT}.0
stanza_burst = {NO_LIMIT}

[modules]
disable = [{disabled}]
"""
        )

    def command(self) -> list[str]:
        """`beamish serve`."""
        return [str(self._program), "serve", "-c", str(self.folder / "beamish.toml")]

    async def add_accounts(self) -> None:
        """Add users through the control socket: one process per user would take half a minute."""
        for account in self.accounts:
            reader, writer = await asyncio.open_unix_connection(self.folder / "data" / "control.sock")
            request = {"command": "user.add", "args": {"jid": account.bare, "password": account.password}}
            writer.write(json.dumps(request).encode() + b"\n")
            answer = json.loads(await reader.readline() or b'{"error": "no answer"}')
            writer.close()
            if "error" in answer:
                raise BenchError(f"cannot add {account.bare}: {answer['error']}")

    async def version(self) -> str:
        """Ask the command line."""
        return await output_of(str(self._program), "--version")


class Prosody(Server):
    """Prosody as Debian packages it, accounts written where mod_auth_internal_hashed reads them."""

    name = "prosody"
    _iterations = 10_000  # its default

    def configure(self) -> None:
        """Debian's list of modules, without HTTP, invitations, administration and federation."""
        certificate, key = self_signed(self.folder)
        (self.folder / "certs").mkdir()  # where it looks for certificates by host name
        archive = '"mam";' if self.archive else ""
        (self.folder / "prosody.cfg.lua").write_text(
            f"""
run_as_root = true
pidfile = "{self.folder}/prosody.pid"
data_path = "{self.folder}/data"
plugin_paths = {{ }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {self.address.port} }}
c2s_direct_tls_ports = {{ {self.address.tls_port} }}
s2s_ports = {{ }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_hashed"
ssl = {{ certificate = "{certificate}"; key = "{key}"; }}
log = {{ {{ levels = {{ min = "warn" }}; to = "console"; }} }}
default_archive_policy = true
modules_enabled = {{
  "disco"; "roster"; "saslauth"; "tls"; "blocklist"; "bookmarks"; "carbons"; "pep"; "private"; "smacks";
  "vcard4"; "vcard_legacy"; "csi_simple"; "ping"; "register"; "time"; "uptime"; "version"; "posix"; {archive}
}}
modules_disabled = {{ "s2s" }}
VirtualHost "{DOMAIN}"
Component "{self.muc}" "muc"
  muc_room_default_public = true
"""
        )
        salt = "f3c1a5e0-bench"
        salted = hashlib.pbkdf2_hmac("sha1", PASSWORD.encode(), salt.encode(), self._iterations)
        stored = hashlib.sha1(hmac.digest(salted, b"Client Key", "sha1")).hexdigest()
        server = hmac.digest(salted, b"Server Key", "sha1").hex()
        store = self.folder / "data" / DOMAIN / "accounts"
        store.mkdir(parents=True)
        for account in self.accounts:
            (store / f"{account.user}.dat").write_text(
                f'return {{ ["salt"] = "{salt}"; ["iteration_count"] = {self._iterations}; '
                f'["stored_key"] = "{stored}"; ["server_key"] = "{server}"; }};\n'
            )

    def command(self) -> list[str]:
        """In the foreground."""
        return ["prosody", "-F", "--config", str(self.folder / "prosody.cfg.lua")]

    async def add_accounts(self) -> None:
        """Nothing left to do: Prosody looks an account up when it logs in."""

    async def version(self) -> str:
        """Ask the package manager: `prosodyctl about` reads the installed server's configuration."""
        return "prosody " + await output_of("dpkg-query", "--show", "--showformat=${Version}", "prosody")


class Ejabberd(Server):
    """ejabberd as Debian packages it, accounts registered over its HTTP interface."""

    name = "ejabberd"
    _libraries = "/usr/lib/x86_64-linux-gnu"

    def __init__(
        self, accounts: int, *, port: int = 0, core: int = 0, archive: bool = False, keep: bool = False
    ) -> None:
        super().__init__(accounts, port=port, core=core, archive=archive, keep=keep)
        self._http = free_port()

    def configure(self) -> None:
        """Debian's list of modules, without federation, MQTT, TURN, web pages; no shaper, a queue for connections."""
        self._http = free_port()
        certificate, key = self_signed(self.folder)
        (self.folder / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
        (self.folder / "mnesia").mkdir()
        archive = "mod_mam:\n    default: always" if self.archive else "mod_time: {}"
        (self.folder / "ejabberd.yml").write_text(
            f"""
loglevel: warning
hosts: ["{DOMAIN}"]
certfiles: ["{self.folder}/both.pem"]
auth_password_format: scram
disable_sasl_mechanisms: ["digest-md5", "X-OAUTH2"]
listen:
  - {{port: {self.address.port}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144,
     backlog: 1024, access: all, starttls: true}}
  - {{port: {self.address.tls_port}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144,
     backlog: 1024, access: all, tls: true}}
  - {{port: {self._http}, ip: "127.0.0.1", module: ejabberd_http, request_handlers: {{/api: mod_http_api}}}}
acl:
  loopback:
    ip: ["127.0.0.0/8"]
access_rules:
  local:
    allow: all
api_permissions:
  "bench":
    from: [mod_http_api]
    who: {{access: {{allow: [{{acl: loopback}}]}}}}
    what: ["register"]
shaper_rules:
  max_user_sessions: {NO_LIMIT}
  max_user_offline_messages: {NO_LIMIT}
  c2s_shaper: none
registration_timeout: infinity
modules:
  mod_adhoc: {{}}
  mod_admin_extra: {{}}
  mod_avatar: {{}}
  mod_blocking: {{}}
  mod_caps: {{}}
  mod_carboncopy: {{}}
  mod_client_state: {{}}
  mod_disco: {{}}
  mod_http_api: {{}}
  mod_last: {{}}
  mod_muc:
    access_create: local
    max_users: 1000
    max_user_conferences: 1000
  mod_offline:
    access_max_user_messages: max_user_offline_messages
  mod_ping: {{}}
  mod_privacy: {{}}
  mod_private: {{}}
  mod_pubsub:
    plugins: [flat, pep]
  mod_push: {{}}
  mod_push_keepalive: {{}}
  mod_roster:
    versioning: true
  mod_shared_roster: {{}}
  mod_stream_mgmt:
    resend_on_timeout: if_offline
  mod_vcard:
    search: false
  mod_vcard_xupdate: {{}}
  mod_version: {{}}
  {archive}
"""
        )

    def command(self) -> list[str]:
        """The virtual machine directly, as ejabberdctl would start it, but without a node name (so no epmd)."""
        options = ["+K", "true", "+P", "250000"]
        node = ["-mnesia", "dir", f'"{self.folder}/mnesia"']
        return ["erl", "-noinput", *options, *node, "-s", "ejabberd"]

    def environment(self) -> dict[str, str]:
        """What ejabberdctl exports."""
        return {
            "ERL_LIBS": self._libraries,
            "EJABBERD_CONFIG_PATH": f"{self.folder}/ejabberd.yml",
            "EJABBERD_LOG_PATH": f"{self.folder}/ejabberd.log",
            "ERL_CRASH_DUMP": f"{self.folder}/crash.dump",
            "ERL_MAX_PORTS": "32000",
            "HOME": str(self.folder),  # for the Erlang cookie
        }

    async def add_accounts(self) -> None:
        """Register over mod_http_api."""
        await self._listening(self._http)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self._http}") as http:
            for account in self.accounts:
                body = {"user": account.user, "host": account.domain, "password": account.password}
                async with http.post("/api/register", json=body) as answer:
                    if answer.status != 200:
                        raise BenchError(f"cannot register {account.bare}: {answer.status} {await answer.text()}")

    async def version(self) -> str:
        """Ask the package manager."""
        return "ejabberd " + await output_of("dpkg-query", "--show", "--showformat=${Version}", "ejabberd")

    def log_tail(self) -> str:
        """Both logs."""
        try:
            own = (self.folder / "ejabberd.log").read_text(errors="replace")[-2000:]
        except OSError:
            own = ""
        return super().log_tail() + own


async def output_of(*command: str) -> str:
    """Return the first line a short command prints."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    return out.decode().partition("\n")[0].strip()


SERVERS: dict[str, type[Server]] = {server.name: server for server in (Beamish, Prosody, Ejabberd)}
