"""The server's side of a component's stream (XEP-0114, `jabber:component:accept`), without I/O.

    HEADER ─header for a component we know→ NEGOTIATING ─handshake, hash is right→ OPEN ─end or error→ CLOSED

There is no TLS and no SASL in this protocol; the shared secret is proved by a hash over the stream's id.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from beamish.stream.parser import Nonza, StreamHeader
from beamish.stream.s2s import Event, S2SSettings, ServerStream, Stage, domain_of, fail
from beamish.xmpp import ns
from beamish.xmpp.errors import StreamError, StreamErrorCondition
from beamish.xmpp.jid import JidMalformed
from beamish.xmpp.stanza import STANZA_NAMES, Stanza
from beamish.xmpp.xml import escape_attr

HANDSHAKE: Final = f"{{{ns.COMPONENT}}}handshake"
_HANDSHAKE_REBASED: Final = f"{{{ns.CLIENT}}}handshake"


_STANZAS: Final = {f"{{{ns.COMPONENT}}}{name}": name for name in STANZA_NAMES}
"""Stanzas that name their namespace themselves, as some libraries write each one."""


@dataclass(frozen=True, slots=True)
class ComponentReady:
    """The component has proved that it knows the secret."""

    domain: str


@dataclass(frozen=True, slots=True)
class HandshakeFailed:
    """Somebody did not prove to be a component; the stream fails for it."""

    domain: str


class ComponentStream(ServerStream):
    """One component's stream.

    `secret_of` gives the secret of a component's domain, None for a domain that is none. It may raise `StreamError` for
    one that is not to be let in now.
    """

    __slots__ = ("_secret", "_secret_of", "domain")

    content_ns = ns.COMPONENT

    def __init__(self, settings: S2SSettings, secret_of: Callable[[str], str | None]) -> None:
        self._secret_of = secret_of
        self._secret = ""
        self.domain = ""
        super().__init__(settings)

    def _owner(self) -> str | None:
        return self.domain if self._secret and self.stage is Stage.OPEN else None

    def _opened(self, header: StreamHeader) -> list[Event]:
        try:
            domain = domain_of(header.to)
        except JidMalformed as exc:
            raise fail(StreamErrorCondition.HOST_UNKNOWN) from exc
        secret = self._secret_of(domain)
        if secret is None:
            raise fail(StreamErrorCondition.HOST_UNKNOWN, f"{domain} is no component of this server")
        self.domain, self._secret = domain, secret
        self._send_header(domain, "")
        self.stage = Stage.NEGOTIATING
        return []

    def _send_header(self, local: str, remote: str) -> None:
        self.stream_id = self._settings.new_id()
        attributes = f" from='{escape_attr(local)}'" if local else ""
        self._out.append(
            f"<?xml version='1.0'?><stream:stream xmlns='{ns.COMPONENT}' xmlns:stream='{ns.STREAM}'"
            f" id='{self.stream_id}'{attributes}>".encode()
        )
        self._header_sent = True

    def _negotiate(self, item: Nonza) -> list[Event]:
        if item.tag not in (HANDSHAKE, _HANDSHAKE_REBASED):
            raise fail(StreamErrorCondition.NOT_AUTHORIZED)
        if not hmac.compare_digest((item.el.text or "").strip().encode(), proof(self.stream_id, self._secret).encode()):
            failed = fail(StreamErrorCondition.NOT_AUTHORIZED, "the handshake does not fit the secret")
            return [HandshakeFailed(self.domain), self.fail(failed)]
        self._out.append(b"<handshake/>")
        self._open_up()
        return [ComponentReady(self.domain)]

    def _nonza(self, item: Nonza) -> list[Event]:
        name = _STANZAS.get(item.tag)
        if name is not None:
            return self._prefixed(item.el, name)
        raise fail(StreamErrorCondition.UNSUPPORTED_STANZA_TYPE)

    def _welcome(self, stanza: Stanza) -> bool:
        return stanza.to is not None and stanza.sender is not None and stanza.sender.domain == self.domain

    def _talks_to(self, remote: str) -> str:
        return self.domain if remote == self.domain else ""

    def _unwelcome(self, stanza: Stanza) -> StreamError:
        if stanza.to is None or stanza.sender is None:
            return fail(StreamErrorCondition.IMPROPER_ADDRESSING, "a component's stanza has a 'to' and a 'from'")
        return fail(StreamErrorCondition.INVALID_FROM, f"this component speaks for {self.domain}")


def proof(stream_id: str, secret: str) -> str:
    """What a component that knows the secret sends (XEP-0114 §3): the hash of id and secret, in hexadecimal."""
    return hashlib.sha1((stream_id + secret).encode(), usedforsecurity=False).hexdigest()
