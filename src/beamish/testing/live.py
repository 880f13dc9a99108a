"""A server on real sockets, in the process and loop of the test that asks for it.

Everything is what `beamish serve` runs: configuration, SQLite, modules, TLS, listeners. Only signals are left to the
test, and logging: events go to the loggers `beamish.…`.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from beamish.app import c2s_server, listen, open_kernel
from beamish.config import Config, build_root
from beamish.core.clock import Clock
from beamish.core.registry import discover
from beamish.core.services import AccountsService, StoredMessages
from beamish.net.certificate import self_signed_file
from beamish.net.tls import XMPP_CLIENT, CertificateStore
from beamish.testing.client import Client
from beamish.testing.world import ACCOUNTS, PASSWORD, log_to_handlers
from beamish.xmpp.jid import JID

_LOOPBACK = "127.0.0.1"
_GOODBYE_SECONDS = 10.0


def trust(ca: Path) -> ssl.SSLContext:
    """The context of an XMPP client that trusts the certificates in this PEM file and nothing else; names are checked.

    It looks at certificates as closely as Python's own from 3.13 on (RFC 5280), whichever Python this is.
    """
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols([XMPP_CLIENT])  # of no meaning in STARTTLS
    return context


async def connect(
    host: str, port: int, domain: str, context: ssl.SSLContext | None = None, *, direct_tls: bool = False
) -> Client:
    """A client on a TCP connection to any server, nothing sent yet; whoever asks for it must `drop` it in the end.

    Without a `context` it cannot do TLS. `domain` is whose certificate the server must show.
    """
    return await _Link(set(), context, domain).open(host, port, direct_tls)


class LiveServer:
    """An async context manager: a running server on free ports of the loopback, with a self-signed certificate.

    `settings` is merged into the configuration, section by section, as in `World`; TLS is required unless they say otherwise.
    `accounts` are made with the password `PASSWORD`. Works on asyncio's loop and on uvloop. With `directory`, data is kept
    there: a second server on it goes on where the first one stopped; without, a temporary directory is used and removed.
    """

    port: int
    """Of the listener that starts in plain text (STARTTLS)."""
    tls_port: int
    """Of the listener that speaks TLS from the first byte."""
    ca: Path
    """PEM file for clients to trust. It holds no key."""

    def __init__(
        self,
        *,
        domains: Sequence[str] = ("example.org", "example.net"),
        accounts: Sequence[str] = ACCOUNTS,
        settings: dict[str, Any] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.host = _LOOPBACK
        self.password = PASSWORD
        self._domains = tuple(domains)
        self._accounts = tuple(accounts)
        self._settings = settings or {}
        self._directory = directory
        self.clock: Clock | None = None
        """Another clock than the machine's, if set before the start."""
        self._up = AsyncExitStack()
        self._kept = AsyncExitStack()
        self._listens: dict[str, tuple[str, ...]] = {}
        self._links: set[_Link] = set()

    async def __aenter__(self) -> LiveServer:
        log_to_handlers()
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        try:
            await self._up.aclose()
        finally:
            await self._kept.aclose()

    async def _start(self) -> None:
        directory = self._directory
        if directory is None:
            self._directory = directory = Path(tempfile.mkdtemp(prefix="beamish-live-"))
            self._kept.callback(self._forget, directory)
        config = _configuration(self._domains, directory, self._settings)
        self.config = config.model_copy(update={"c2s": config.c2s.model_copy(update=self._listens)})
        self.kernel = await self._up.enter_async_context(open_kernel(self.config, clock=self.clock))
        accounts = self.kernel.service(AccountsService)
        present = set(await accounts.list())
        wanted = [jid for jid in map(JID.parse, self._accounts) if jid not in present]
        await asyncio.gather(*(accounts.add(jid, PASSWORD) for jid in wanted))
        self.certificates = CertificateStore(self.config.tls, self.config.server.domains, directory)
        self.certificates.load()
        self.ca = _certificate_alone(self.config, directory)
        await self._before_clients()
        self.c2s = c2s_server(self.kernel, self.config, self.certificates)
        addresses: dict[str, list[str]] = {"starttls": [], "direct-tls": []}
        for line in await listen(self.c2s, self.config, self.certificates, self._up):
            _, address, kind = line.split()
            addresses[kind].append(address)
            port = int(address.rpartition(":")[2])
            if kind == "starttls":
                self.port = port
            else:
                self.tls_port = port
        self._listens = {"listen": tuple(addresses["starttls"]), "direct_tls": tuple(addresses["direct-tls"])}
        self.c2s.start()
        self._up.push_async_callback(self._leave)

    def _forget(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        self._directory = None
        self._listens = {}

    async def _before_clients(self) -> None:
        """For subclasses: start what clients' last words must still reach when the server stops."""

    async def _leave(self) -> None:
        """Cut what clients are left, so that the server does not wait for their goodbye."""
        for link in tuple(self._links):
            link.drop()
        for link in tuple(self._links):
            await asyncio.wait_for(link.gone.wait(), _GOODBYE_SECONDS)

    # ---- administration, and what goes wrong ------------------------------------------------------------------------

    async def command(self, name: str, **arguments: Any) -> Any:
        """Run an administrative command of docs/commands.md: `command("user.add", jid="nurse@example.org", password="…")`.

        Returns what it prints with `--json`. Raises `beamish.core.commands.CommandError`.
        """
        return await self.kernel.commands.run(name, arguments)

    def cut(self, address: str) -> None:
        """Break off the connections of an account, or of one full address, without a word, as networks do.

        Raises LookupError when there is none.
        """
        jid = JID.parse(address)
        found = [
            c for c in self.c2s.connections if c.session is not None and jid in (c.session.jid, c.session.jid.bare)
        ]
        if not found:
            raise LookupError(f"{jid} is not connected")
        for connection in found:
            connection.abort()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Stop the server in order; behind the block it is back, on the same ports and data, with another `kernel`.

        Clients that it made itself are cut off, others are told (`system-shutdown`).
        """
        await self._up.aclose()
        yield
        await self._start()

    # ---- clients ----------------------------------------------------------------------------------------------------

    async def connect(self, domain: str = "", *, direct_tls: bool = False) -> Client:
        """A client on a fresh TCP connection, nothing sent yet; `domain` (default: the first) is whose certificate it wants."""
        port = self.tls_port if direct_tls else self.port
        link = _Link(self._links, trust(self.ca), domain or self._domains[0])
        return await link.open(self.host, port, direct_tls)

    async def client(
        self,
        address: str,
        *,
        direct_tls: bool = False,
        presence: bool = False,
        priority: int | None = None,
        roster: bool = False,
    ) -> Client:
        """A logged-in client over STARTTLS or direct TLS; the rest as in `World.login`. It is closed with the server.

        One that is available gets messages from now on as they come: what is stored for it was looked up.
        """
        jid = JID.parse(address)
        client = await self.connect(jid.domain, direct_tls=direct_tls)
        await client.login(jid, PASSWORD)
        if roster:
            await client.roster()
        if presence or priority is not None:
            await client.appear(priority)
            await self._caught_up(client)
        return client

    async def _caught_up(self, client: Client) -> None:
        session = self.kernel.sessions.get(client.jid)
        stored = self.kernel.service_or_none(StoredMessages)
        if stored is not None and session is not None:
            await stored.looked(session)


class _Link(asyncio.Protocol):
    """Carries bytes between a socket and a `Client`."""

    def __init__(self, links: set[_Link], context: ssl.SSLContext | None, name: str) -> None:
        self.client = Client()
        self.gone = asyncio.Event()
        self._links = links
        self._context = context
        self._name = name
        self._transport: asyncio.Transport | None = None

    async def open(self, host: str, port: int, direct_tls: bool) -> Client:
        """Connect; the client that talks over this link."""
        loop = asyncio.get_running_loop()
        if direct_tls:
            await loop.create_connection(lambda: self, host, port, ssl=self._context, server_hostname=self._name)
        else:
            await loop.create_connection(lambda: self, host, port)
            if self._context is not None:
                self.client.upgrade = self.upgrade
        return self.client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._attach(cast("asyncio.Transport", transport))
        self._links.add(self)

    def _attach(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.client.connect(transport.write, self.drop)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.client.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        self._links.discard(self)
        self.gone.set()
        self.client.lost()

    async def upgrade(self) -> None:
        """Go on in TLS; the server has said `<proceed/>`."""
        assert self._transport is not None and self._context is not None
        loop = asyncio.get_running_loop()
        encrypted = await loop.start_tls(self._transport, self, self._context, server_hostname=self._name)
        assert encrypted is not None
        self._attach(encrypted)

    def drop(self) -> None:
        """Cut the connection without a word."""
        if self._transport is not None:
            self._transport.abort()


def _configuration(domains: Sequence[str], directory: Path, settings: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {
        "server": {"domains": domains, "data_dir": directory},
        # RFC 5802 §5.1's least number of iterations: clients refuse fewer
        "c2s": {"listen": (f"{_LOOPBACK}:0",), "direct_tls": (f"{_LOOPBACK}:0",), "scram_iterations": 4096},
        # a test's data need not survive a power cut
        "storage": {"synchronous": "normal"},
    }
    for section, values in settings.items():
        tree[section] = {**tree.get(section, {}), **values}
    return build_root(discover()).model_validate(tree)


def _certificate_alone(config: Config, directory: Path) -> Path:
    """A file with the first domain's certificate, without its key."""
    pem = (config.tls.certificate or self_signed_file(directory / "certs")).read_text()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    path = directory / "ca.pem"
    path.write_text(pem[pem.index(begin) : pem.rindex(end) + len(end)] + "\n")
    return path
