"""A stream machine whose every event is answered at once."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from typing import Any

from lxml import etree

from beamish.stream.machine import (
    BindRequested,
    C2SMachine,
    C2SSettings,
    Event,
    KeysNeeded,
    Nonza,
    PasswordGiven,
    StartTls,
    State,
)
from beamish.stream.names import NameLedger
from beamish.stream.sasl import ScramKeys, decoy_keys, derive_keys
from beamish.xmpp.stanza import Stanza

STREAM = "http://etherx.jabber.org/streams"
TLS = "urn:ietf:params:xml:ns:xmpp-tls"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
HEADER = (
    f"<?xml version='1.0'?><stream:stream to='example.org' version='1.0' xmlns='jabber:client' xmlns:stream='{STREAM}'>"
)
BIND = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>orchard</resource></bind></iq>"
STARTTLS = f"<starttls xmlns='{TLS}'/>"
KEYS = {a: derive_keys("secret", a, salt=b"0123456789abcdef", iterations=4096) for a in ("SHA-1", "SHA-256", "SHA-512")}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


RESPONSE = b"\0romeo\0secret"


def plain(user: str = "romeo", password: str = "secret", authzid: str = "") -> str:
    message = "\0".join((authzid, user, password))
    return f"<auth xmlns='{SASL}' mechanism='PLAIN'>{b64(message.encode())}</auth>"


def settings(**changes: Any) -> C2SSettings:
    ids = count(1)
    made = C2SSettings(
        serves=lambda domain: domain in ("example.org", "example.net"),
        new_id=lambda: f"id{next(ids)}",
        ledger=NameLedger(),
        default_domain="example.org",
        require_tls=False,
    )
    return replace(made, **changes)


class Driver:
    """Plays the connection: answers every event at once, and remembers all of them."""

    def __init__(
        self, machine: C2SMachine, bind: Callable[[C2SMachine, BindRequested], list[Event]] | None = None
    ) -> None:
        self.machine = machine
        self.events: list[Event] = []
        self.out = b""
        self._bind = bind

    def feed(self, *pieces: str | bytes) -> Driver:
        for piece in pieces:
            self._take(self.machine.receive(piece.encode() if isinstance(piece, str) else piece))
        return self

    def eof(self) -> Driver:
        self._take(self.machine.receive_eof())
        return self

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            self.events.append(event)
            self.out += self.machine.data_to_send()
            self._take(self._answer(event))
        self.out += self.machine.data_to_send()

    def _answer(self, event: Event) -> list[Event]:
        machine = self.machine
        if isinstance(event, KeysNeeded):
            known = event.username == "romeo"
            keys: ScramKeys = (
                KEYS[event.algorithm] if known else decoy_keys(b"x", event.username, event.algorithm, 4096)
            )
            return machine.keys(keys, known)
        if isinstance(event, PasswordGiven):
            return machine.password_checked(event.username == "romeo" and event.password == "secret")
        if isinstance(event, BindRequested):
            if self._bind is not None:
                return self._bind(machine, event)
            assert machine.jid is not None
            return machine.bound(machine.jid.with_resource(event.resource or "made-up"))
        if isinstance(event, StartTls):
            machine.tls_established(b"binding")
        return []

    @property
    def error(self) -> str:
        """The condition of the stream error that was sent, "" if none was."""
        found = re.findall(rb"<stream:error><([a-z-]+) xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>", self.out)
        assert len(found) <= 1
        if found:
            assert self.out.endswith(b"</stream:error></stream:stream>")
            assert self.machine.closed
        return found[0].decode() if found else ""

    def told(self) -> list[str]:
        return [repr(e) if not isinstance(e, Stanza | Nonza) else f"{type(e).__name__} {told(e)}" for e in self.events]


def told(event: Stanza | Nonza) -> str:
    return repr(event.to_wire()) if isinstance(event, Stanza) else repr(etree.tostring(event.el, with_tail=False))


def driver(**changes: Any) -> Driver:
    secure = changes.pop("secure", False)
    binding = changes.pop("binding", None)
    return Driver(C2SMachine(settings(**changes), secure=secure, binding=binding))


def logged_in(**changes: Any) -> Driver:
    return driver(**changes).feed(HEADER, plain(), HEADER)


def bound(**changes: Any) -> Driver:
    got = logged_in(**changes).feed(BIND)
    assert got.machine.state is State.BOUND
    return got


def names(got: Driver) -> list[str]:
    return [type(event).__name__ for event in got.events]
