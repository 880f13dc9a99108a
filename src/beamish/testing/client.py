"""A client for tests: raw XML in, elements out, over anything that carries bytes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from lxml import etree

from beamish.testing.match import mismatch, pattern, show
from beamish.xmpp import ns
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element, escape_attr, escape_text

_HEADER = "<?xml version='1.0'?><stream:stream to='{to}' version='1.0' xml:lang='en' xmlns='jabber:client' xmlns:stream='{ns}'>"
_PATIENCE = 30.0


class ClientError(AssertionError):
    """The server did something else than the test expected."""


@lru_cache(maxsize=256)
def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)


class Client:
    """One client connection.

    `write` is set by whoever connects it. Received top-level elements wait in `inbox`; those of the negotiation are
    consumed by `login`. Not for hot loops.
    """

    def __init__(self, settle: Callable[[], Awaitable[None]] | None = None) -> None:
        self.inbox: deque[Element] = deque()
        self.jid: JID = JID.of("", "invalid")
        self.header: Element | None = None
        self.closed = False
        """The server closed its stream."""
        self.disconnected = False
        """The connection is gone."""
        self.features: Element | None = None
        self.upgrade: Callable[[], Awaitable[None]] | None = None
        self._settle = settle
        self._write: Callable[[bytes], None] = lambda _data: None
        self._drop: Callable[[], None] = lambda: None
        self._arrived = asyncio.Event()
        self._root: Element | None = None
        self._new_parser()

    # ---- wiring -----------------------------------------------------------------------------------------------------

    def connect(self, write: Callable[[bytes], None], drop: Callable[[], None]) -> None:
        """Attach the way to the server: a function that sends bytes, and one that cuts the connection."""
        self._write = write
        self._drop = drop

    def _new_parser(self) -> None:
        self._parser = etree.XMLPullParser(events=("start", "end"), resolve_entities=False)
        self._root = None
        self.header = None

    def feed(self, data: bytes) -> None:
        """Take bytes from the server."""
        self._parser.feed(data)
        for action, el in cast("Any", self._parser.read_events()):
            if self._root is None:
                self._root = self.header = el
            elif action == "end" and el.getparent() is self._root:
                self.inbox.append(el)
            elif action == "end" and el is self._root:
                self.closed = True
        self._arrived.set()

    def lost(self) -> None:
        """The connection is gone."""
        self.disconnected = True
        self._arrived.set()

    # ---- talking ----------------------------------------------------------------------------------------------------

    def send(self, xml: str | bytes) -> None:
        """Send XML as it stands."""
        self._write(xml if isinstance(xml, bytes) else xml.encode())

    async def receive(self, timeout: float = _PATIENCE) -> Element:
        """The next top-level element. Raises `ClientError` if none comes."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not self.inbox:
            if self.closed or self.disconnected:
                raise ClientError(f"{self.jid}: the stream ended while something was expected")
            if self._settle is not None:
                await self._settle()
                if self.inbox:
                    break
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), deadline - asyncio.get_running_loop().time())
            except TimeoutError:
                raise ClientError(f"{self.jid}: nothing arrived") from None
        return self.inbox.popleft()

    async def expect(self, xml: str) -> Element:
        """The next element, which must match the pattern (see `match.mismatch`)."""
        got = await self.receive()
        problem = mismatch(xml, got)
        if problem:
            raise ClientError(f"{self.jid}: {problem}\nexpected: {xml}\ngot: {show(got)}")
        return got

    async def expect_all(self, *xmls: str) -> list[Element]:
        """The next elements, as many as there are patterns, matching them in any order; returned in the patterns' order."""
        got = [await self.receive() for _ in xmls]
        found: list[Element] = []
        for xml in xmls:
            for el in got:
                if not mismatch(xml, el) and not any(el is other for other in found):
                    found.append(el)
                    break
            else:
                raise ClientError(f"{self.jid}: nothing matches {xml}\ngot: " + "\n".join(show(el) for el in got))
        return found

    async def expect_nothing(self) -> None:
        """Nothing has arrived, and nothing will without further cause. Over sockets a ping is the proof."""
        if self._settle is not None:
            await self._settle()
        else:
            id_ = secrets.token_hex(8)
            self.send(f"<iq type='get' id='{id_}'><ping xmlns='urn:xmpp:ping'/></iq>")
            got = await self.receive()
            if got.get("id") == id_:
                return
            self.inbox.append(got)
        if self.inbox:
            raise ClientError(f"{self.jid}: nothing was expected, got: " + "\n".join(show(el) for el in self.inbox))

    async def expect_closed(self, condition: str = "") -> None:
        """The server closes the stream, with this stream error if one is named; other elements before it are skipped."""
        wanted = f"<stream:error><{condition} xmlns='{ns.STREAMS}'/></stream:error>" if condition else ""
        found = not wanted
        last = ""
        while True:
            try:
                got = await self.receive()
            except ClientError:
                if not (self.closed or self.disconnected):
                    raise
                break
            if not found and got.tag == f"{{{ns.STREAM}}}error":
                last = mismatch(wanted, got)
                found = not last
        if not found:
            raise ClientError(f"{self.jid}: the stream ended without {condition} {last}")

    async def iq(self, xml: str, type: str = "result") -> Element:
        """Send an IQ and return its answer, which must have this type; other stanzas stay in the inbox."""
        id_ = pattern(xml).get("id")
        self.send(xml)
        skipped: list[Element] = []
        while True:
            got = await self.receive()
            if str(got.tag).endswith("}iq") and got.get("id") == id_ and got.get("type") in ("result", "error"):
                break
            skipped.append(got)
        self.inbox.extendleft(reversed(skipped))
        if got.get("type") != type:
            raise ClientError(f"{self.jid}: expected an IQ {type}, got: {show(got)}")
        return got

    async def command(
        self, node: str, fields: Mapping[str, str | Sequence[str]] | None = None, *, at: str = "", type: str = "result"
    ) -> Element:
        """Run an ad-hoc command (XEP-0050) of one stage and return the answer's IQ, which must have this type.

        A form that comes is answered with `fields` (name → value or values); `at` defaults to the client's own domain.
        """
        to, id_ = at or self.jid.domain, secrets.token_hex(4)
        space = "http://jabber.org/protocol/commands"
        head = f"<iq type='set' id='{id_}' to='{to}'><command xmlns='{space}' node='{escape_attr(node)}'"
        answer = await self.iq(f"{head} action='execute'/></iq>", type if fields is None else "result")
        if fields is None:
            return answer
        session = answer[0].get("sessionid", "")
        inner = ""
        for var, given in fields.items():
            values = (given,) if isinstance(given, str) else given
            inner += f"<field var='{var}'>" + "".join(f"<value>{escape_text(v)}</value>" for v in values) + "</field>"
        form = f"<x xmlns='{ns.DATA}' type='submit'>{inner}</x>"
        return await self.iq(f"{head} sessionid='{session}' action='complete'>{form}</command></iq>", type)

    # ---- the session ------------------------------------------------------------------------------------------------

    async def open_stream(self, domain: str) -> Element:
        """Send a stream header; returns the features offered."""
        self._new_parser()
        self.send(_HEADER.format(to=domain, ns=ns.STREAM))
        self.features = await self.receive()
        if self.features.tag != f"{{{ns.STREAM}}}features":
            raise ClientError(f"expected stream features, got {show(self.features)}")
        return self.features

    async def start_tls(self, domain: str) -> Element:
        """Negotiate STARTTLS (needs `upgrade`), then open the stream anew; returns the features."""
        assert self.upgrade is not None
        self.send(f"<starttls xmlns='{ns.TLS}'/>")
        await self.expect(f"<proceed xmlns='{ns.TLS}'/>")
        await self.upgrade()
        return await self.open_stream(domain)

    async def authenticate(self, username: str, password: str) -> Element:
        """SCRAM-SHA-256, then the restarted stream's features. Raises `ClientError` on failure."""
        nonce = secrets.token_urlsafe(12)
        name = username.replace("=", "=3D").replace(",", "=2C")
        first = f"n={name},r={nonce}"
        self.send(
            f"<auth xmlns='{ns.SASL}' mechanism='SCRAM-SHA-256'>{base64.b64encode(f'n,,{first}'.encode()).decode()}</auth>"
        )
        challenge = await self.expect(f"<challenge xmlns='{ns.SASL}'/>")
        server_first = base64.b64decode(challenge.text or "").decode()
        fields = dict(part.split("=", 1) for part in server_first.split(","))
        salted = _salted(password, base64.b64decode(fields["s"]), int(fields["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        final = f"c=biws,r={fields['r']}"
        signature = hmac.digest(
            hashlib.sha256(client_key).digest(), f"{first},{server_first},{final}".encode(), "sha256"
        )
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        final += f",p={base64.b64encode(proof).decode()}"
        self.send(f"<response xmlns='{ns.SASL}'>{base64.b64encode(final.encode()).decode()}</response>")
        await self.expect(f"<success xmlns='{ns.SASL}'/>")
        self.jid = JID.parse(f"{username}@{self.header.get('from')}" if self.header is not None else username)
        return await self.open_stream(self.jid.domain)

    async def bind(self, resource: str = "") -> JID:
        """Bind a resource, chosen by the server if "" is asked for."""
        inner = f"<resource>{resource}</resource>" if resource else ""
        answer = await self.iq(f"<iq type='set' id='bind'><bind xmlns='{ns.BIND}'>{inner}</bind></iq>")
        self.jid = JID.parse(answer.findtext(f".//{{{ns.BIND}}}jid") or "")
        return self.jid

    async def login(self, jid: JID, password: str) -> None:
        """From a fresh connection to a bound resource; STARTTLS if it is required."""
        features = await self.open_stream(jid.domain)
        if features.find(f"{{{ns.TLS}}}starttls") is not None and self.upgrade is not None:
            await self.start_tls(jid.domain)
        await self.authenticate(jid.local, password)
        await self.bind(jid.resource)

    async def roster(self) -> Element:
        """Fetch the roster, which makes the session an interested resource."""
        return await self.iq(f"<iq type='get' id='roster'><query xmlns='{ns.ROSTER}'/></iq>")

    async def appear(self, priority: int | None = None, *, extra: str = "") -> None:
        """Send initial presence and take the reflection of it."""
        inner = extra + (f"<priority>{priority}</priority>" if priority is not None else "")
        self.send(f"<presence>{inner}</presence>")
        await self.expect(f"<presence from='{self.jid}' type='!'/>")

    async def close(self) -> None:
        """Close the stream orderly."""
        self.send("</stream:stream>")
        await self.expect_closed()

    def drop(self) -> None:
        """Cut the connection without a word."""
        self._drop()
