"""Other servers as Debian packages them, run in a directory of their own for the length of a test.

They listen on the loopback only, find other domains through the name server of the test, and trust its authority alone.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import tempfile
import urllib.request
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from json import dumps
from pathlib import Path
from typing import ClassVar

from tests.watched import until

from beamish.testing.client import Client
from beamish.testing.federated import Authority
from beamish.testing.live import connect
from beamish.testing.names import Directory, NameServer
from beamish.xmpp.jid import JID

PASSWORD = "correct horse"
START_SECONDS = 40.0
LINES = 1_000
"""Of a log, kept to be shown when something fails."""


async def lines(output: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines of a log, without their ends; of one that is longer than the reader holds, pieces."""
    rest = b""
    while data := await output.read(65_536):
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ForeignServer(ABC):
    """One foreign server with one domain, its rooms at `conference.`, and accounts; an async context manager."""

    program: ClassVar[str]
    death: ClassVar[int] = signal.SIGKILL
    """What ends it abruptly, but with its accounts kept."""

    def __init__(
        self,
        authority: Authority,
        names: Directory,
        dns: NameServer,
        domain: str,
        users: tuple[str, ...],
        *,
        files: tuple[Path, Path] | None = None,
        secure: bool = True,
        external: bool = True,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"interop-{self.program}-"))
        self.authority = authority
        self.dns = dns
        self.domain = domain
        self.users = users
        self.certificate, self.key = files or authority.issue(domain, f"conference.{domain}", client=True)
        self.secure = secure
        self.external = external
        self.c2s_port, self.s2s_port = free_port(), free_port()
        self.names = names
        self._process: asyncio.subprocess.Process | None = None
        self._lines: deque[str] = deque(maxlen=LINES)
        self._reading: asyncio.Task[None] | None = None
        self._silent: set[int] = set()
        """Ports of which the log has not said that it listens there."""
        self._clients: list[Client] = []

    @abstractmethod
    def configure(self) -> None:
        """Write the configuration."""

    @abstractmethod
    def command(self) -> list[str]:
        """What runs it in the foreground."""

    @abstractmethod
    def listens(self, line: str) -> int:
        """The port at which it listens now, if this line of its log says so, else 0."""

    @abstractmethod
    async def forge(self, sender: str, to: str) -> None:
        """Send a message in somebody else's name."""

    def environment(self) -> dict[str, str]:
        return {}

    async def add_accounts(self) -> None:  # noqa: B027
        """Make the accounts, once it runs; nothing to do where they are files."""

    async def __aenter__(self) -> ForeignServer:
        try:
            self.configure()
            await self.start()
            await self.add_accounts()
        except BaseException:
            await self.__aexit__()
            raise
        for domain in (self.domain, f"conference.{self.domain}"):
            self.names.move(domain, self.s2s_port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def start(self) -> None:
        """Run it, and read its log until it listens at every port."""
        self._silent = self.ports()
        self._process = await asyncio.create_subprocess_exec(
            *self.command(),
            cwd=self.folder,
            env=os.environ | self.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reading = reading = asyncio.create_task(self._read(self._process.stdout))
        with suppress(TimeoutError):
            await until(lambda: not self._silent or reading.done(), START_SECONDS)
        assert not self._silent, f"{self.program} does not listen at {self._silent}: {self.log()}"

    async def _read(self, output: asyncio.StreamReader) -> None:
        """Keep the end of the log, and see what it says of ports, as long as the program runs."""
        async for line in lines(output):
            self._lines.append(line)
            if self._silent:
                self._silent.discard(self.listens(line))

    def ports(self) -> set[int]:
        """Where it will listen."""
        return {self.c2s_port, self.s2s_port}

    async def stop(self, number: int = signal.SIGTERM) -> None:
        for client in self._clients:
            client.drop()
        self._clients.clear()
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            for each in (number, signal.SIGKILL):
                try:
                    os.killpg(process.pid, each)  # it leads a session of its own
                    await asyncio.wait_for(process.wait(), 20)
                except (ProcessLookupError, TimeoutError):
                    continue
                break
        if self._reading is not None:
            self._reading.cancel()  # a process that it has started may still hold the pipe
            await asyncio.wait({self._reading})

    def log(self) -> str:
        """The end of what it said."""
        return "\n".join(self._lines)[-6000:]

    async def client(self, address: str, *, presence: bool = False) -> Client:
        jid = JID.parse(address)
        client = await connect("127.0.0.1", self.c2s_port, jid.domain)
        self._clients.append(client)
        await client.login(jid, PASSWORD)
        if presence:
            await client.roster()
            client.send("<presence/>")
            early = []
            while True:  # some send offline messages first
                got = await client.receive()
                if str(got.tag).endswith("}presence") and got.get("from") == address:
                    break
                early.append(got)
            client.inbox.extendleft(reversed(early))
        return client


FORGE = """
local st = require "util.stanza";
module:hook("message/host", function (event)
  local sender, to = event.stanza:get_child_text("body"):match("^(%S+) (%S+)$");
  local forged = st.message({ from = sender, to = to, type = "chat", id = "forged" }):text_tag("body", "Hi");
  module:fire_event("route/remote", { from_host = module.host, to_host = to:match("@([^/]+)"), stanza = forged });
  return true;
end, 10);
"""
"""A module that sends a message on the stream of its host, whatever it says who it is from."""


class Prosody(ForeignServer):
    """Prosody 0.12 or 13, with the modules that Debian enables for federation."""

    program = "prosody"

    def configure(self) -> None:
        modules = ["disco", "roster", "saslauth", "tls", "pep", "smacks", "vcard4", "vcard_legacy", "ping", "offline"]
        modules += ["blocklist", "carbons", "dialback", "s2s_bidi", "posix", "presence", "message", "iq", "forge"]
        (self.folder / "mod_forge.lua").write_text(FORGE)
        disabled = [] if self.external else ["s2s_auth_certs"]
        (self.folder / "prosody.cfg.lua").write_text(
            f"""
run_as_root = true
pidfile = "{self.folder}/prosody.pid"
data_path = "{self.folder}/data"
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {self.c2s_port} }}
c2s_direct_tls_ports = {{ }}
s2s_ports = {{ {self.s2s_port} }}
s2s_direct_tls_ports = {{ }}
c2s_require_encryption = false
s2s_require_encryption = true
s2s_secure_auth = {str(self.secure).lower()}
authentication = "internal_plain"
unbound = {{ resolvconf = false; hoststxt = false; forward = {{ "127.0.0.1@{self.dns.port}" }};
  options = {{ ["do-not-query-localhost:"] = "no" }}; }}
ssl = {{ certificate = "{self.certificate}"; key = "{self.key}"; cafile = "{self.authority.file}"; }}
log = {{ {{ levels = {{ min = "debug" }}; to = "console"; }} }}
plugin_paths = {{ "{self.folder}" }}
modules_enabled = {{ {"; ".join(f'"{module}"' for module in modules)} }}
modules_disabled = {{ {"; ".join(f'"{module}"' for module in disabled)} }}
VirtualHost "{self.domain}"
Component "conference.{self.domain}" "muc"
"""
        )
        store = self.folder / "data" / self.domain.replace(".", "%2e") / "accounts"
        store.mkdir(parents=True)
        for user in self.users:
            (store / f"{user}.dat").write_text(f'return {{ ["password"] = "{PASSWORD}"; }};\n')

    async def forge(self, sender: str, to: str) -> None:
        client = await self.client(f"{self.users[0]}@{self.domain}/forger")
        client.send(f"<message to='{self.domain}'><body>{sender} {to}</body></message>")

    def listens(self, line: str) -> int:
        found = re.search(r"Activated service '\w+' on \[127\.0\.0\.1\]:(\d+)", line)
        return int(found[1]) if found else 0

    def command(self) -> list[str]:
        return ["prosody", "-F", "--config", str(self.folder / "prosody.cfg.lua")]


class Ejabberd(ForeignServer):
    """ejabberd 23.01 or 24.12."""

    program = "ejabberd"
    death = signal.SIGTERM

    @staticmethod
    def installed() -> Path:
        """The folder of the program, which ends in its version."""
        return next(Path("/usr/lib").glob("*/ejabberd-*"))

    def configure(self) -> None:
        self._http = free_port()
        (self.folder / "both.pem").write_bytes(self.certificate.read_bytes() + self.key.read_bytes())
        (self.folder / "mnesia").mkdir()
        (self.folder / "inetrc").write_text(
            # the name server comes last: naming the files drops those named before
            '{resolv_conf, ""}.\n{hosts_file, ""}.\n{lookup, [dns]}.\n{edns, false}.\n'
            f"{{nameserver, {{127,0,0,1}}, {self.dns.port}}}.\n"
        )
        use = "required" if self.secure else "optional"
        (self.folder / "ejabberd.yml").write_text(
            f"""
loglevel: debug
hosts: ["{self.domain}", "evil.example"]
certfiles: ["{self.folder}/both.pem"]
ca_file: "{self.authority.file}"
auth_password_format: plain
disable_sasl_mechanisms: ["X-OAUTH2"]
s2s_use_starttls: {use}
s2s_max_retry_delay: 1
s2s_cafile: "{self.authority.file}"
listen:
  - {{port: {self.c2s_port}, ip: "127.0.0.1", module: ejabberd_c2s, access: all, starttls: true}}
  - {{port: {self.s2s_port}, ip: "127.0.0.1", module: ejabberd_s2s_in}}
  - {{port: {self._http}, ip: "127.0.0.1", module: ejabberd_http, request_handlers: {{/api: mod_http_api}}}}
acl:
  loopback:
    ip: ["127.0.0.0/8"]
access_rules:
  local:
    allow: all
api_permissions:
  "test":
    from: [mod_http_api]
    who: {{access: {{allow: [{{acl: loopback}}]}}}}
    what: ["register", "send_stanza"]
registration_timeout: infinity
modules:
  mod_admin_extra: {{}}
  mod_caps: {{}}
  mod_disco: {{}}
  mod_http_api: {{}}
  mod_muc:
    host: "conference.{self.domain}"
    access_create: local
  mod_offline: {{}}
  mod_ping: {{}}
  mod_pubsub:
    plugins: [flat, pep]
  mod_roster: {{}}
  mod_s2s_dialback: {{}}
  mod_stream_mgmt: {{}}
  mod_vcard:
    search: false
"""
        )

    def ports(self) -> set[int]:
        return super().ports() | {self._http}

    def listens(self, line: str) -> int:
        found = re.search(r"Start accepting TCP connections at 127\.0\.0\.1:(\d+) ", line)
        return int(found[1]) if found else 0

    def command(self) -> list[str]:
        options = ["+K", "true", "-noinput", "-kernel", "inetrc", f'"{self.folder}/inetrc"']
        return ["erl", *options, "-mnesia", "dir", f'"{self.folder}/mnesia"', "-s", "ejabberd"]

    def environment(self) -> dict[str, str]:
        return {
            "ERL_LIBS": str(self.installed().parent),
            "EJABBERD_CONFIG_PATH": f"{self.folder}/ejabberd.yml",
            "EJABBERD_LOG_PATH": f"{self.folder}/ejabberd.log",
            "ERL_CRASH_DUMP": f"{self.folder}/crash.dump",
            "HOME": str(self.folder),
        }

    async def add_accounts(self) -> None:
        for user in self.users:
            await self.ask("register", user=user, host=self.domain, password=PASSWORD)

    async def ask(self, command: str, **arguments: str) -> None:
        """Let it carry out a command of its administration."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._http}/api/{command}",
            dumps(arguments).encode(),
            {"Content-Type": "application/json"},
        )
        with await asyncio.to_thread(urllib.request.urlopen, request) as answer:
            assert answer.status == 200

    async def forge(self, sender: str, to: str) -> None:
        """It believes that it is evil.example, too; the DNS does not."""
        stanza = "<message type='chat' id='forged'><body>Hi</body></message>"
        await self.ask("send_stanza", **{"from": sender, "to": to, "stanza": stanza})
