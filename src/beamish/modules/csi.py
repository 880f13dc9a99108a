"""XEP-0352: a client that nobody looks at is left in peace (with XEP-0286 on what wakes a phone).

While a client is inactive a layer lies on its session's outlet, above stream management, so that what is dropped was never
counted as sent. Presence is held, the latest of each resource; chat states are dropped; receipts, markers, notifications
and copies of what other devices sent are held in order. Anything else is for the user's eyes or waits for an answer: it goes
out at once, and everything held goes before it, so that the order of what is sent stays the order of arrival. The held is
bounded, and goes out when the bound is met.

Held messages are no less safe than others: stream management keeps them in the database meanwhile, and if the session ends
they go where its unconfirmed messages go (module `sm`, with or without stream management on the stream).
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from beamish.core import events
from beamish.core.content import CARBONS, DISPLAYED, MUC_USER, Holds, chat_state_only, survey
from beamish.core.events import SessionClosed
from beamish.core.module import Module, ModuleConfig, Xep, nonza, on
from beamish.core.services import SessionKeeper
from beamish.core.sessions import Link, Outlet, Session
from beamish.stream.features import StreamFeature
from beamish.xmpp.errors import StreamError
from beamish.xmpp.stanza import IQ, PRESENCE, PersonalStanza, Stanza
from beamish.xmpp.xml import Element

CSI: Final = "urn:xmpp:csi:0"

_CAN_WAIT: Final = int(
    Holds.STATE
    | Holds.RECEIPT
    | Holds.MARKER
    | Holds.EVENT
    | Holds.ASIDE
    | Holds.STANZA_ID
    | Holds.NO_COPY
    | Holds.NO_STORE
    | Holds.NO_PERMANENT_STORE
    | Holds.STORE
    | Holds.PRIVATE
)
"""A message of nothing but these is held."""
_COPY: Final = int(Holds.COPY)
_EVENT: Final = int(Holds.EVENT)
_SENT_COPY: Final = f"<sent xmlns='{CARBONS}'".encode()
_DISPLAYED: Final = DISPLAYED.encode()
_MUC_USER: Final = MUC_USER.encode()
_STATES: Final = b"http://jabber.org/protocol/chatstates"


class Config(ModuleConfig):
    """Options of client state."""

    max_held: int = Field(
        500, ge=1, description="Stanzas held for one inactive client; with one more, all of them are sent."
    )
    max_held_bytes: int = Field(
        262_144, ge=1_024, description="Bytes held for one inactive client; with more, all of them are sent."
    )


class Inactive:
    """The layer on the outlet of an inactive client's session; see `core.sessions.Layer`."""

    __slots__ = ("_bytes", "_held", "_keeper", "_max_bytes", "_max_held", "_serial", "_session", "beneath")

    def __init__(self, session: Session, max_held: int, max_bytes: int, keeper: SessionKeeper | None) -> None:
        self.beneath: Outlet = session.outlet
        self._session = session
        self._max_held = max_held
        self._max_bytes = max_bytes
        self._keeper = keeper
        self._held: dict[object, tuple[bytes, Stanza, object | None]] = {}
        """What is held, and for messages what they are to the keeper."""
        self._bytes = 0
        self._serial = 0

    def deliver(self, data: bytes, stanza: Stanza) -> bool:
        """See `Outlet.deliver`: send, hold or drop."""
        name = stanza.name
        if name == IQ:
            key: object = None
        elif name == PRESENCE:
            key = self._presence_key(data, stanza)
        else:
            verdict = judge(stanza)
            if verdict is DROP:
                return True
            self._serial += 1
            key = None if verdict is SEND else self._serial
        if key is None:
            self.release()
            return self.beneath.deliver(data, stanza)
        held = self._held
        before = held.pop(key, None)  # the newer one takes its place at the end
        if before is not None:
            self._bytes -= len(before[0])
        stanza = stanza.detached()
        kept = None if name == PRESENCE or self._keeper is None else self._keeper.hold(self._session, data, stanza)
        held[key] = data, stanza, kept
        self._bytes += len(data)
        if len(held) > self._max_held or self._bytes > self._max_bytes:
            self.release()
        return True

    def _presence_key(self, data: bytes, stanza: Stanza) -> object | None:
        """Whose presence it is, so that a newer one replaces it; None for what must not wait.

        Requests to subscribe and their answers are for the user. In rooms, what concerns the client itself (status 110)
        is an answer to what it did, or ends its stay.
        """
        if stanza.type not in ("", "unavailable") or stanza.sender is None:
            return None
        if _MUC_USER in data and (b"'110'" in data or b'"110"' in data):
            return None
        self._session.renew()  # whoever shortens presences must not count on this one: a newer one may replace it
        return stanza.sender

    def release(self) -> None:
        """Send everything held, in order."""
        held, self._held, self._bytes = self._held, {}, 0
        for data, stanza, kept in held.values():
            self.beneath.deliver(data, stanza)
            if kept is not None and self._keeper is not None:
                self._keeper.let_go(kept)

    def leave(self) -> None:
        """The session has ended: messages go elsewhere, presence means nothing any more."""
        held, self._held, self._bytes = self._held, {}, 0
        if self._keeper is not None:
            left = [kept for _, _, kept in held.values() if kept is not None]
            if left:
                self._keeper.left(self._session, left)

    def last_words(self, data: bytes) -> None:
        """See `Outlet.last_words`."""
        self.beneath.last_words(data)

    def close(self, error: StreamError | None, reason: str) -> None:
        """See `Outlet.close`."""
        self.release()
        self.beneath.close(error, reason)

    def survives(self, link: Link, reason: str) -> bool:
        """See `Outlet.survives`. The session goes on as active (§5.2), so what is held goes to whoever keeps the rest."""
        survives = self.beneath.survives(link, reason)
        if survives and self._session.layer is self:
            self._session.uncover()
        return survives


SEND: Final = 0
HOLD: Final = 1
DROP: Final = 2


def judge(stanza: Stanza) -> int:
    """What happens to a message for an inactive client: `SEND`, `HOLD` or `DROP`."""
    content = survey(stanza)
    if content & _COPY and isinstance(stanza, PersonalStanza):
        if _STATES in stanza.body:
            forwarded = stanza.el.find(".//{jabber:client}message")
            if forwarded is not None and chat_state_only(_survey_of(forwarded)):
                return DROP
        return HOLD if _SENT_COPY in stanza.body else SEND
    if stanza.type == "error" or content & ~_CAN_WAIT:
        return SEND
    if content & _EVENT and _DISPLAYED in stanza.body:
        return SEND  # another device has shown a message: this one takes its notification away
    if chat_state_only(content):
        return DROP
    return HOLD


def _survey_of(message: Element) -> int:
    return survey(Stanza("message", message.get("type", ""), "", None, None, "", b"", b"", message))


class CsiModule(Module):
    """Holds back what an inactive client need not see now."""

    name = "csi"
    Config = Config
    xeps = (Xep(352, "1.0.0"), Xep(286, "0.2.0", note="as far as it concerns servers"))
    stream_features = (StreamFeature(f"<csi xmlns='{CSI}'/>".encode()),)

    @nonza(f"{{{CSI}}}inactive")
    def inactive(self, link: Link, _el: Element) -> None:
        """Nobody looks at the client any more."""
        session = link.session
        if session is not None and session.layer is None:
            keeper = self.kernel.service_or_none(SessionKeeper)
            session.cover(Inactive(session, self.config.max_held, self.config.max_held_bytes, keeper))

    @on(events.session_closed, at=0)  # before what was sent and not confirmed is taken care of: it was there first
    def session_closed(self, event: SessionClosed) -> None:
        """Nobody will be active again."""
        layer = event.session.layer
        if isinstance(layer, Inactive):
            layer.leave()
            event.session.uncover()

    @nonza(f"{{{CSI}}}active")
    def active(self, link: Link, _el: Element) -> None:
        """Somebody looks again: what was held is sent before anything that the client asks next (§5.1)."""
        session = link.session
        if session is not None:
            session.uncover()
