"""The least that a relay of XML stanzas in this language can do: parse, look up where to, serialise, write.

`python relay.py PORT [uvloop|asyncio]`. It believes everything: no password is looked at, `from` is what the client wrote
(nothing), nothing is stored, limited, checked, or answered with an error, and a fan-out writes the same bytes to all. It is
not a server; it is what a server on this loop and this parser can approach and not reach, measured by the same load.
It speaks just enough to be logged in to with SASL PLAIN, and knows chat, XEP-0199 pings and rooms without names.
"""

from __future__ import annotations

import asyncio
import base64
import re
import sys
from typing import Any, cast

import uvloop
from lxml import etree

_HEADER = (
    b"<?xml version='1.0'?><stream:stream id='s' from='%s' version='1.0' xmlns='jabber:client' "
    b"xmlns:stream='http://etherx.jabber.org/streams'>"
)
_MECHANISMS = (
    b"<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism>"
    b"</mechanisms></stream:features>"
)
_BIND = b"<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>"
_CLIENT = "{jabber:client}"
_TO = re.compile(rb"\sto='([^']+)'")

users: dict[str, Connection] = {}
rooms: dict[str, list[Connection]] = {}


class Connection(asyncio.Protocol):
    """One client. Before it is bound it is read stanza by stanza as well, and slowly: that is not measured."""

    def __init__(self) -> None:
        self.user = ""
        self.host = b""
        self._fresh()

    def _fresh(self) -> None:
        self.parser = etree.XMLPullParser(events=("end",), tag=(f"{_CLIENT}message", f"{_CLIENT}presence", f"{_CLIENT}iq",
                                          "{urn:ietf:params:xml:ns:xmpp-sasl}auth"))  # fmt: skip
        self.opened = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self.write = self.transport.write

    def data_received(self, data: bytes) -> None:
        """Parse, and pass on what is whole."""
        if not self.opened:
            self.opened = True
            found = _TO.search(data)
            self.host = found.group(1) if found else self.host
            self.write(_HEADER % self.host + (_BIND if self.user else _MECHANISMS))
        if data.endswith(b"</stream:stream>"):
            self.transport.close()
            return
        parser = self.parser
        parser.feed(data)
        for _, element in cast("Any", parser.read_events()):
            parent = element.getparent()
            if parent is None or parent.getparent() is not None:
                continue  # of that name, but inside a stanza
            self._stanza(element)
            element.clear()
            parent.remove(element)

    def _stanza(self, element: Any) -> None:
        tag = element.tag
        to = element.get("to")
        if tag == "{jabber:client}message":
            data = etree.tostring(element, encoding="utf-8", with_tail=False)
            if element.get("type") == "groupchat":
                for occupant in rooms[to]:
                    occupant.write(data)
            else:
                users[to].write(data)
        elif tag == "{jabber:client}presence":
            if to is None:
                self.write(f"<presence from='{self.user}/bench'/>".encode())
            else:
                rooms.setdefault(to.partition("/")[0], []).append(self)
                self.write(f"<presence from='{to}'><x xmlns='http://jabber.org/protocol/muc#user'>"
                           "<status code='110'/></x></presence>".encode())  # fmt: skip
        elif tag == "{jabber:client}iq":
            if element.get("type") in ("get", "set"):
                bound = f"<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>{self.user}/bench</jid></bind>"
                payload = bound if element.get("id") == "bind" else ""
                self.write(f"<iq type='result' id='{element.get('id')}'>{payload}</iq>".encode())
        else:
            name = base64.b64decode(element.text).split(b"\0")[1].decode()
            self.user = f"{name}@{self.host.decode()}"
            users[self.user] = self
            self.write(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
            self._fresh()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if users.get(self.user) is self:
            del users[self.user]


async def serve(port: int) -> None:
    """Relay until the process is stopped."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    factory = uvloop.new_event_loop if sys.argv[2:] != ["asyncio"] else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(int(sys.argv[1])))
