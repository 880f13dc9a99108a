"""A client that speaks XEP-0198 with care, for tests that look for broken promises while connections break and servers die.

It keeps what is not acknowledged, resumes, sends again what the server has not handled, and starts a new stream when there
is nothing to resume.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from beamish.testing import Client, ClientError
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

SM = "urn:xmpp:sm:3"
BODY = "{jabber:client}body"
DELAY = "{urn:xmpp:delay}delay"
PATIENCE = 60.0

Connect = Callable[[], Awaitable[Client]]
M = TypeVar("M")


class Violation(AssertionError):
    """The server broke its promise."""


@dataclass
class Stanza(Generic[M]):
    """Something sent and not acknowledged; `message` and `accounts` (whose devices must see it) if it is a message."""

    xml: str
    message: M | None = None
    accounts: tuple[str, ...] = ()


class Resuming(ABC, Generic[M]):
    """One client over all its connections. `M` is what it calls its messages by."""

    def __init__(self, address: str, password: str, connect: Connect) -> None:
        self.jid = JID.parse(address)
        self.name = f"{self.jid.local}/{self.jid.resource}"
        self.client: Client | None = None
        self.empty = asyncio.Event()
        """Set while everything sent is acknowledged."""
        self.begun = self.resumed = 0
        self.history: deque[str] = deque(maxlen=400)
        """What happened last, for whoever looks for the cause of a violation."""
        self._password = password
        self._connect = connect
        self._id = ""
        self._received = self._sent = self._acknowledged = 0
        self._unacknowledged: deque[Stanza[M]] = deque()
        self._stopping = False

    # ---- what differs -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _greet(self) -> None:
        """A stream has begun: send what comes first."""

    @abstractmethod
    def _handle(self, el: Element) -> None:
        """A stanza has come."""

    def _done(self, stanza: Stanza[M]) -> None:
        """The server has acknowledged this message."""

    def _again(self, stanza: Stanza[M]) -> None:
        """This is sent a second time, on the same stream."""

    def _forgotten(self) -> None:
        """The server knows neither the stream that was to be resumed nor what it handled in it."""
        raise Violation(f"{self.name}: the server has forgotten the session, and what it handled in it")

    def _unsure(self) -> None:
        """What was said to a stream that the device itself forgot may have been handled, or not."""

    def _give_up(self) -> None:
        """No answers will come to what was asked so far."""

    # ---- the stream -------------------------------------------------------------------------------------------------

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
                if not self._id:
                    self._unsure()
                    await self._begin(client)
                elif not await self._resume(client):
                    await self._begin(client)
                self.client = client
                while True:
                    self._take(await client.receive(PATIENCE))
            except ClientError as error:
                if not client.disconnected and not client.closed:
                    raise Violation(f"{self.name}: {error}") from error
            finally:
                self.client = None
                client.drop()
                self._give_up()

    async def _resume(self, client: Client) -> bool:
        client.send(f"<resume xmlns='{SM}' h='{self._received}' previd='{self._id}'/>")
        got = await client.receive(PATIENCE)
        h = got.get("h")
        self.history.append(f"resume h={self._received} → {str(got.tag)[15:]} h={h}, {self._id}")
        if got.tag == f"{{{SM}}}resumed":
            assert h is not None
            self._told(int(h))
            self.resumed += 1
            for stanza in self._unacknowledged:
                client.send(stanza.xml)
                self._again(stanza)
                self.history.append(f"again {stanza.message}")
            client.send(f"<r xmlns='{SM}'/>")
            return True
        if got.find("{urn:ietf:params:xml:ns:xmpp-streams}system-shutdown") is not None:
            client.closed = True
            raise ClientError("the server stops")
        if got.tag != f"{{{SM}}}failed":
            raise Violation(f"{self.name}: {got.tag} as the answer to <resume/>")
        if h is not None:
            self._told(int(h))
        else:
            self._forgotten()
        return False

    async def _begin(self, client: Client) -> None:
        await client.bind(self.jid.resource)
        client.send(f"<enable xmlns='{SM}' resume='true'/>")
        while (got := await client.receive(PATIENCE)).tag != f"{{{SM}}}enabled":
            pass
        self._id = got.get("id") or ""
        self.history.append(f"begin {self._id}")
        again = [stanza for stanza in self._unacknowledged if stanza.message is not None]
        self._unacknowledged.clear()
        self._give_up()
        self._received = self._sent = self._acknowledged = 0
        self.begun += 1
        self.client = client
        self._greet()
        for stanza in again:
            self.send(stanza)
        self.request()

    def forget(self) -> None:
        """The app is started anew: it knows of no stream, and of nothing that it has not been told."""
        if self.client is None:
            return
        self.history.append("forget")
        self._id = ""
        self._unacknowledged.clear()
        self.cut()

    def cut(self) -> None:
        """The network breaks the connection."""
        if self.client is not None:
            self.client.drop()

    async def stop(self) -> None:
        """Come back no more."""
        self._stopping = True
        self.cut()

    # ---- stanzas ----------------------------------------------------------------------------------------------------

    def send(self, stanza: Stanza[M]) -> None:
        """Send a stanza, now or when there is a connection again."""
        self._unacknowledged.append(stanza)
        self.empty.clear()
        self._sent += 1
        if self.client is not None:
            self.client.send(stanza.xml)
        if stanza.message is not None:
            self.history.append(f"say {stanza.message} as {self._sent}, connected: {self.client is not None}")

    def request(self) -> None:
        """Ask for an acknowledgement."""
        if self.client is not None:
            self.client.send(f"<r xmlns='{SM}'/>")

    def _told(self, h: int) -> None:
        if not self._acknowledged <= h <= self._sent:
            raise Violation(f"{self.name}: h={h} after {self._acknowledged}, with {self._sent} sent")
        for _ in range(h - self._acknowledged):
            stanza = self._unacknowledged.popleft()
            if stanza.message is not None:
                self.history.append(f"acknowledged {stanza.message}")
                self._done(stanza)
        self._acknowledged = h
        if not self._unacknowledged:
            self.empty.set()

    def _take(self, el: Element) -> None:
        tag = str(el.tag)
        if not self._id:
            return  # forgotten, with the connection on which it comes
        if tag == f"{{{SM}}}r":
            if self.client is not None:
                self.client.send(f"<a xmlns='{SM}' h='{self._received}'/>")
        elif tag == f"{{{SM}}}a":
            self._told(int(el.get("h") or "-1"))
        elif tag.startswith("{jabber:client}"):
            self._received += 1
            self._handle(el)
