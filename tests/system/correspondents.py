"""Clients that speak XEP-0198 with care, write to somebody on another server, and know everything they have ever seen."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from beamish.testing import Client, ClientError
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

SM = "urn:xmpp:sm:3"
BODY = "{jabber:client}body"
DELAY = "{urn:xmpp:delay}delay"
PATIENCE = 60.0


class Violation(AssertionError):
    """The server broke its promise."""


class Correspondent:
    """Resumes its stream, sends again what was not handled, begins anew when there is nothing to resume.

    Messages are numbered. `sent` of them were given to the server, those up to `acknowledged` were acknowledged, and `got`
    has the numbers that came from the other one.
    """

    def __init__(self, address: str, to: str, password: str, connect: Callable[[], Awaitable[Client]]) -> None:
        self.jid = JID.parse(address)
        self._to = to
        self._password = password
        self._connect = connect
        self._client: Client | None = None
        self._id = ""
        self._in = self._out = self._told = 0
        self._waiting: deque[tuple[str, int]] = deque()
        """What is not acknowledged: stanzas and their numbers, 0 for what is no message."""
        self._latest = 0
        self.sent = 0
        self.acknowledged: set[int] = set()
        self.got: set[int] = set()
        self.returned: dict[str, str] = {}
        """Messages that came back as errors, and the texts of those."""
        self.begun = self.resumed = 0
        self.arrived = asyncio.Event()
        self.settled = asyncio.Event()
        """Set while everything sent is acknowledged."""
        self._stopping = False

    async def run(self) -> None:
        """Be connected whenever that is possible, until `stop`."""
        while not self._stopping:
            try:
                client = await self._connect()
            except OSError:
                continue
            try:
                await client.open_stream(self.jid.domain)
                await client.authenticate(self.jid.local, self._password)
                if not self._id or not await self._resume(client):
                    await self._begin(client)
                self._client = client
                while True:
                    self._take(await client.receive(PATIENCE))
            except ClientError as error:
                if not client.disconnected and not client.closed:
                    raise Violation(f"{self.jid}: {error}") from error
            finally:
                self._client = None
                client.drop()

    async def _resume(self, client: Client) -> bool:
        client.send(f"<resume xmlns='{SM}' h='{self._in}' previd='{self._id}'/>")
        got = await client.receive(PATIENCE)
        h = got.get("h")
        if got.tag == f"{{{SM}}}resumed":
            assert h is not None
            self._confirmed(int(h))
            self.resumed += 1
            for xml, _ in self._waiting:
                client.send(xml)
            client.send(f"<r xmlns='{SM}'/>")
            return True
        if got.tag != f"{{{SM}}}failed":
            client.closed = True
            raise ClientError("the server stops")
        if h is None:
            raise Violation(f"{self.jid}: the server has forgotten the session, and what it handled in it")
        self._confirmed(int(h))
        return False

    async def _begin(self, client: Client) -> None:
        await client.bind(self.jid.resource)
        client.send(f"<enable xmlns='{SM}' resume='true'/>")
        while (got := await client.receive(PATIENCE)).tag != f"{{{SM}}}enabled":
            pass
        self._id = got.get("id") or ""
        again = [each for each in self._waiting if each[1]]
        self._waiting.clear()
        self._in = self._out = self._told = 0
        self.begun += 1
        self._client = client
        self._send("<presence/>", 0)
        for xml, number in again:
            self._send(xml, number)
        self.request()

    def cut(self) -> None:
        """The network breaks the connection."""
        if self._client is not None:
            self._client.drop()

    async def stop(self) -> None:
        """Come back no more."""
        self._stopping = True
        self.cut()

    def _send(self, xml: str, number: int) -> None:
        self._waiting.append((xml, number))
        self.settled.clear()
        self._out += 1
        if self._client is not None:
            self._client.send(xml)

    def say(self) -> None:
        """Write one more message."""
        self.sent += 1
        xml = f"<message to='{self._to}' type='chat' id='{self.sent}'><body>{self.sent}</body></message>"
        self._send(xml, self.sent)

    def request(self) -> None:
        """Ask for an acknowledgement."""
        if self._client is not None:
            self._client.send(f"<r xmlns='{SM}'/>")

    def _confirmed(self, h: int) -> None:
        if not self._told <= h <= self._out:
            raise Violation(f"{self.jid}: h={h} after {self._told}, with {self._out} sent")
        for _ in range(h - self._told):
            number = self._waiting.popleft()[1]
            if number:
                self.acknowledged.add(number)
        self._told = h
        if not self._waiting:
            self.settled.set()

    def _take(self, el: Element) -> None:
        tag = str(el.tag)
        if tag == f"{{{SM}}}r":
            if self._client is not None:
                self._client.send(f"<a xmlns='{SM}' h='{self._in}'/>")
        elif tag == f"{{{SM}}}a":
            self._confirmed(int(el.get("h") or "-1"))
        elif tag.startswith("{jabber:client}"):
            self._in += 1
            if tag.endswith("}message"):
                self._message(el)
            elif tag.endswith("}iq") and el.get("type") in ("get", "set"):
                self._send(f"<iq type='result' id='{el.get('id')}' to='{el.get('from')}'/>", 0)

    def _message(self, el: Element) -> None:
        if el.get("type") == "error":
            self.returned[el.get("id") or ""] = el.findtext(".//{urn:ietf:params:xml:ns:xmpp-stanzas}text") or ""
            self.arrived.set()
            return
        body = el.findtext(BODY)
        if body is None:
            return
        number = int(body)
        if number in self.got:
            raise Violation(f"{self.jid}: {number} came a second time")
        self.got.add(number)
        if el.find(DELAY) is None:
            if number < self._latest:
                raise Violation(f"{self.jid}: {number} came after {self._latest}")
            self._latest = number
        self.arrived.set()
