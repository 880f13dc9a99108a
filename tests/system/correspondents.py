"""Clients that write to somebody on another server, and know everything they have ever seen."""

from __future__ import annotations

import asyncio

from tests.system.resuming import BODY, DELAY, Connect, Resuming, Stanza, Violation

from beamish.xmpp.xml import Element


class Correspondent(Resuming[int]):
    """Its messages are numbered, from 1. `sent` of them were given to the server; `acknowledged` has the numbers that were
    acknowledged, and `got` those that came from the other one.
    """

    def __init__(self, address: str, to: str, password: str, connect: Connect) -> None:
        super().__init__(address, password, connect)
        self._to = to
        self._latest = 0
        self.sent = 0
        self.acknowledged: set[int] = set()
        self.got: set[int] = set()
        self.returned: dict[str, str] = {}
        """Messages that came back as errors, and the texts of those."""
        self.arrived = asyncio.Event()

    def _greet(self) -> None:
        self.send(Stanza("<presence/>"))

    def say(self) -> None:
        """Write one more message."""
        self.sent += 1
        xml = f"<message to='{self._to}' type='chat' id='{self.sent}'><body>{self.sent}</body></message>"
        self.send(Stanza(xml, self.sent))

    def _done(self, stanza: Stanza[int]) -> None:
        assert stanza.message is not None
        self.acknowledged.add(stanza.message)

    def _handle(self, el: Element) -> None:
        tag = str(el.tag)
        if tag.endswith("}message"):
            self._message(el)
        elif tag.endswith("}iq") and el.get("type") in ("get", "set"):
            self.send(Stanza(f"<iq type='result' id='{el.get('id')}' to='{el.get('from')}'/>"))

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
