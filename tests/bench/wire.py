"""An XMPP client of raw bytes: no XML tree, no parser, so that one core of generator can saturate one core of server.

Two ways to read: `Splitter` cuts a stream into whole stanzas (negotiation, set-up, where microseconds do not matter);
`Tally` looks only for the marks of a measured load and proves that every flow arrives whole, once, and in order.
Certificates are not verified: the servers under test sign their own.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from tests.bench.sasl import HASHES, Scram, plain

PATIENCE = 60.0  # seconds to wait for any single answer before the run is called failed

_TAG = re.compile(rb"<(?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
_MECHANISM = re.compile(rb"<mechanism[^>]*>([^<]+)</mechanism>")
_TEXT = re.compile(rb">([^<]*)<")
_JID = re.compile(rb"<jid[^>]*>([^<]+)</jid>")
_ID = re.compile(rb"^<[^>]*?\sid=(?:'([^']*)'|\"([^\"]*)\")")
_FROM = re.compile(rb"^<[^>]*?\sfrom=(?:'([^']*)'|\"([^\"]*)\")")
_TYPE = re.compile(rb"^<[^>]*?\stype=(?:'([^']*)'|\"([^\"]*)\")")


class BenchError(Exception):
    """The server answered something else than it should, or not at all: the figures would be worthless."""


class Security(StrEnum):
    """How a connection is protected."""

    PLAIN = "plain"
    STARTTLS = "starttls"
    TLS = "tls"  # from the first byte, XEP-0368


class Splitter:
    """Cuts the bytes of one XML stream into its top-level elements; the stream's own tags are not elements.

    Knows what servers send: tags, text, an XML declaration. Comments and CDATA are not XMPP (RFC 6120 §11.1).
    """

    def __init__(self) -> None:
        self._rest = b""
        self._scanned = 0  # everything before this is whole tags and text already counted
        self._depth = 0
        self._start = 0  # where the top-level element that is being read begins
        self.closed = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take a chunk and return the elements it completes."""
        self._rest += data
        whole: list[bytes] = []
        kept = 0
        for found in _TAG.finditer(self._rest, self._scanned):
            tag = found.group()
            self._scanned = found.end()
            if tag.startswith((b"<?", b"<!")):
                continue
            if tag.startswith(b"</"):
                self._depth -= 1
                if self._depth == 0:
                    self.closed = True
            else:
                if self._depth == 1:
                    self._start = found.start()
                if not tag.endswith(b"/>"):
                    self._depth += 1
                    continue
            if self._depth == 1:
                whole.append(self._rest[self._start : self._scanned])
                kept = self._scanned
        if kept:
            self._rest = self._rest[kept:]
            self._scanned -= kept
            self._start -= kept  # of an element that has only begun; of no meaning otherwise
        return whole


class Tally:
    """Counts the marks of a load in the bytes one session receives.

    `mark` has two groups, the number of the flow (its sender) and the sequence number in it; `end` is the end of every
    stanza that carries a mark. Flows that are `ignored` may come or not. A mark that is missing, doubled or out of order
    raises BenchError at once.
    """

    def __init__(self, mark: re.Pattern[bytes], end: bytes, ignored: frozenset[bytes] = frozenset()) -> None:
        self._ignored = ignored
        self._mark = mark
        self._end = end
        self._rest = b""
        self._next: dict[bytes, int] = {}
        self.count = 0
        self.seen: Callable[[bytes, int], None] | None = None
        """Called for every mark with its flow and number, if somebody wants to know."""

    def feed(self, data: bytes) -> int:
        """Take a chunk; return how many new deliveries it completes."""
        if self._rest:
            data = self._rest + data
        cut = data.rfind(self._end)
        if cut < 0:
            self._rest = data
            return 0
        cut += len(self._end)
        self._rest = data[cut:]
        marks = self._mark.findall(data, 0, cut)
        if self._ignored:
            marks = [mark for mark in marks if mark[0] not in self._ignored]
        expected = self._next
        for flow, number in marks:
            due = expected.get(flow, 0)
            if int(number) != due:
                raise BenchError(f"flow {flow.decode()}: got number {number.decode()} where {due} was due")
            expected[flow] = due + 1
            if self.seen is not None:
                self.seen(flow, due)
        self.count += len(marks)
        return len(marks)

    def next_of(self, flow: bytes) -> int:
        """The number that is due next in a flow."""
        return self._next.get(flow, 0)

    @property
    def partial(self) -> bytes:
        """Bytes of a stanza that is not complete yet."""
        return self._rest


@dataclass(frozen=True)
class Account:
    """Who logs in, and where."""

    user: str
    domain: str
    password: str

    @property
    def bare(self) -> str:
        """The bare JID."""
        return f"{self.user}@{self.domain}"


@dataclass(frozen=True)
class Address:
    """Where a server listens on the loopback."""

    domain: str
    port: int  # plain and STARTTLS
    tls_port: int  # TLS from the first byte
    host: str = "127.0.0.1"


def client_tls() -> ssl.SSLContext:
    """Make a TLS context that trusts everybody, as every session of a run shares it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_PROOFS = (b"'urn:xmpp:ping'", b'"urn:xmpp:ping"', b"'jabber:iq:version'", b'"jabber:iq:version"')
"""Requests by which servers find out that a client lives and has read what came before."""


class Client(asyncio.Protocol):
    """One connection. `sink` is what takes the bytes that arrive; by default they are cut into stanzas for `read`."""

    def __init__(self) -> None:
        self.jid = ""
        self.roster = b""
        self.failure: Exception | None = None
        self.sink: Callable[[bytes], object] = self._collect
        self._splitter = Splitter()
        self._stanzas: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.get_running_loop().create_future()
        self.on_failure: Callable[[Exception], None] | None = None

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; called again when TLS is put on top."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand the bytes to the sink; a sink that raises ends the run, not only this connection."""
        try:
            self.sink(data)
        except Exception as error:  # kept and raised where the scenario waits
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever reads."""
        if not self._lost.done():
            self._lost.set_result(None)
        self._fail(BenchError(f"the connection of {self.jid or 'a client'} ended: {exc or 'closed by the server'}"))

    # --- sending and reading

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        if self._transport is None or self._transport.is_closing():
            raise self.failure or BenchError("the connection is closed")
        self._transport.write(data)

    async def read(self, patience: float = PATIENCE) -> bytes:
        """Return the next whole element. Raises BenchError when the connection ends or nothing comes in time."""
        while not self._stanzas:
            if self.failure is not None:
                raise self.failure
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._waiter, patience)
            except TimeoutError:
                raise BenchError(f"{self.jid or 'a client'}: no answer in {patience:.0f} s") from None
            finally:
                self._waiter = None
        return self._stanzas.popleft()

    async def read_until(self, wanted: Callable[[bytes], bool], patience: float = PATIENCE) -> list[bytes]:
        """Read until an element is the wanted one; return all that were read, the wanted one last."""
        seen = []
        while True:
            seen.append(await self.read(patience))
            if wanted(seen[-1]):
                return seen

    async def iq(self, kind: str, payload: str, identity: str, to: str = "", patience: float = PATIENCE) -> bytes:
        """Send an IQ and return its answer, dropping what came before it. Raises BenchError on an error answer."""
        answer = (await self._iq(kind, payload, identity, to, patience))[-1]
        if stanza_type(answer) != "result":
            raise BenchError(f"{self.jid}: refused: {answer.decode()}")
        return answer

    async def quiet(self) -> list[bytes]:
        """Return every element that came before now: what the server had in hand is there when a ping is answered.

        Any answer will do: a server without XEP-0199 refuses in the same order.
        """
        self.sink = self._collect
        domain = self.jid.partition("@")[2].partition("/")[0]
        return (await self._iq("get", "<ping xmlns='urn:xmpp:ping'/>", "quiet", domain))[:-1]

    async def _iq(self, kind: str, payload: str, identity: str, to: str, patience: float = PATIENCE) -> list[bytes]:
        target = f" to='{to}'" if to else ""
        self.send(f"<iq type='{kind}' id='{identity}'{target}>{payload}</iq>".encode())
        return await self.read_until(lambda s: s.startswith(b"<iq") and stanza_id(s) == identity, patience)

    def abort(self) -> None:
        """Drop the connection without a word."""
        self.on_failure = None
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """End the stream as RFC 6120 §4.4 says and wait until the server has ended its side."""
        self.on_failure = None
        self.send(b"<presence type='unavailable'/></stream:stream>")
        try:
            await asyncio.wait_for(asyncio.shield(self._lost), PATIENCE)
        except TimeoutError:
            raise BenchError(f"{self.jid}: the server did not close the stream") from None
        finally:
            self.abort()

    # --- negotiation

    async def open(self, domain: str) -> bytes:
        """Open a stream (or restart it) and return the server's features."""
        self._splitter = Splitter()
        self.send(
            f"<?xml version='1.0'?><stream:stream to='{domain}' version='1.0' xmlns='jabber:client' "
            "xmlns:stream='http://etherx.jabber.org/streams'>".encode()
        )
        features = await self.read()
        if not features.startswith(b"<stream:features"):
            raise BenchError(f"expected stream features, got {features.decode()}")
        return features

    async def start_tls(self, context: ssl.SSLContext, domain: str) -> None:
        """Negotiate STARTTLS (RFC 6120 §5) on a stream that was just opened."""
        self.send(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        answer = await self.read()
        if not answer.startswith(b"<proceed"):
            raise BenchError(f"STARTTLS refused: {answer.decode()}")
        if self._transport is None:
            raise BenchError("the connection is closed")
        loop = asyncio.get_running_loop()
        secured = await loop.start_tls(self._transport, self, context, server_hostname=domain)
        if secured is None:
            raise BenchError("the TLS handshake failed")
        self._transport = secured

    async def authenticate(self, account: Account, features: bytes, mechanism: str) -> None:
        """Authenticate with SASL. Raises BenchError when the mechanism is not offered or the server refuses."""
        offered = [name.decode() for name in _MECHANISM.findall(features)]
        if mechanism not in offered:
            raise BenchError(f"{mechanism} is not offered, only {', '.join(offered) or 'nothing'}")
        scram = Scram(mechanism, account.user, account.password) if mechanism in HASHES else None
        initial = scram.first() if scram else plain(account.user, account.password)
        xmlns = b"xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
        self.send(b"<auth %b mechanism='%b'>%b</auth>" % (xmlns, mechanism.encode(), initial))
        answer = await self.read()
        if scram and answer.startswith(b"<challenge"):
            self.send(b"<response %b>%b</response>" % (xmlns, scram.final(text_of(answer))))
            answer = await self.read()
        if not answer.startswith(b"<success"):
            raise BenchError(f"{account.bare}: not authenticated: {answer.decode()}")
        if scram:
            scram.check(text_of(answer))

    async def bind(self, resource: str) -> None:
        """Bind a resource (RFC 6120 §7)."""
        answer = await self.iq(
            "set", f"<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{resource}</resource></bind>", "bind"
        )
        found = _JID.search(answer)
        if found is None:
            raise BenchError(f"bound to nothing: {answer.decode()}")
        self.jid = found.group(1).decode()

    async def available(self, payload: str = "") -> None:
        """Send initial presence and wait until the server reflects it (RFC 6121 §4.2.2)."""
        self.send(f"<presence>{payload}</presence>".encode() if payload else b"<presence/>")
        needle = self.jid.encode()
        await self.read_until(lambda s: s.startswith(b"<presence") and needle in s[: s.index(b">")])

    def _collect(self, data: bytes) -> None:
        stanzas = self._splitter.feed(data)
        for stanza in stanzas:
            if stanza.startswith(b"<stream:error"):
                raise BenchError(f"{self.jid or 'a client'}: {stanza.decode()}")
            if stanza.startswith(b"<iq") and stanza_type(stanza) == "get" and any(q in stanza for q in _PROOFS):
                # As any client must (RFC 6120 §8.2.3): some servers want to know that stored messages were read.
                asker = attribute(_FROM, stanza)
                to = f" to='{asker}'" if asker else ""
                self.send(f"<iq type='result' id='{stanza_id(stanza)}'{to}/>".encode())
            else:
                self._stanzas.append(stanza)
        if stanzas and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self.on_failure is not None:
            self.on_failure(self.failure)


def attribute(pattern: re.Pattern[bytes], stanza: bytes) -> str:
    """Return what a pattern with one group per kind of quote finds, or the empty string."""
    found = pattern.search(stanza)
    return (found.group(1) or found.group(2) or b"").decode() if found else ""


def stanza_id(stanza: bytes) -> str:
    """Return the `id` of a stanza's own start tag."""
    return attribute(_ID, stanza)


def stanza_type(stanza: bytes) -> str:
    """Return the `type` of a stanza's own start tag."""
    return attribute(_TYPE, stanza)


def sender_of(stanza: bytes) -> str:
    """Return the `from` of a stanza's own start tag."""
    return attribute(_FROM, stanza)


def text_of(element: bytes) -> bytes:
    """Return the text between an element's tags."""
    found = _TEXT.search(element)
    return found.group(1) if found else b""


async def connect(
    address: Address, security: Security, context: ssl.SSLContext, source: str = ""
) -> tuple[Client, bytes]:
    """Connect, secure the stream, and return the client with the features offered then.

    `source` is the address to connect from: one address has some 28,000 ports for one server.
    """
    loop = asyncio.get_running_loop()
    direct = security is Security.TLS
    try:
        _, client = await asyncio.wait_for(
            loop.create_connection(
                Client,
                address.host,
                address.tls_port if direct else address.port,
                ssl=context if direct else None,
                server_hostname=address.domain if direct else None,
                local_addr=(source, 0) if source else None,
            ),
            PATIENCE,
        )
    except (OSError, TimeoutError) as error:
        raise BenchError(f"cannot connect to {address}: {error or 'timed out'}") from error
    try:
        features = await client.open(address.domain)
        if security is Security.STARTTLS:
            await client.start_tls(context, address.domain)
            features = await client.open(address.domain)
    except BaseException:
        client.abort()
        raise
    return client, features


async def login(
    address: Address,
    account: Account,
    *,
    security: Security,
    context: ssl.SSLContext,
    mechanism: str = "SCRAM-SHA-1",
    resource: str = "bench",
    roster: bool = True,
    presence: bool = True,
    presence_payload: str = "",
    source: str = "",
    roster_version: str | None = None,
) -> Client:
    """Do all a chat client does at login: secure, authenticate, bind, get the roster, become available.

    With a `roster_version` the client has the roster already and asks what has changed (RFC 6121 §2.6); with the empty
    one it asks for all of it and for its version. The answer is kept in `client.roster`.
    """
    client, features = await connect(address, security, context, source)
    try:
        await client.authenticate(account, features, mechanism)
        await client.open(address.domain)
        await client.bind(resource)
        if roster:
            known = "" if roster_version is None else f" ver='{roster_version}'"
            client.roster = await client.iq("get", f"<query xmlns='jabber:iq:roster'{known}/>", "roster")
        if presence:
            await client.available(presence_payload)
    except BaseException:
        client.abort()
        raise
    return client
