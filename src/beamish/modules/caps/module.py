"""XEP-0115 and XEP-0390: entity capabilities.

The server learns what clients and contacts can do by the hash in their presence, so that others (personal eventing) can
go by it: an unknown hash is asked about once, the answer is believed only if it fits, and kept for everybody who
announces the same. It announces its own capabilities in the stream features. And it leaves annotations out of presence
that only repeats them (XEP-0115 §8.4): for each session of a contact on this server that has them already. Contacts on
other servers get every annotation, because nobody here knows what their servers have lost.
"""

from __future__ import annotations

import re
from typing import Any, Final

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.disco import DiscoNode
from beamish.core.events import Context, PresenceChanged, SessionClosed, SessionNotes
from beamish.core.hooks import Outcome
from beamish.core.module import Module, ModuleConfig, Xep, on
from beamish.core.services import CapsAnnotations, CapsService, DiscoService, RosterService, Shortened
from beamish.core.sessions import Session
from beamish.modules.caps import store
from beamish.modules.caps.hashes import C2, CAPS, CAPS2, Announcement, C, OwnCaps, announcement, own_caps
from beamish.modules.caps.learning import Learning
from beamish.modules.caps.store import HashCache
from beamish.stream.features import StreamFeature
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza
from beamish.xmpp.xml import Element, from_bytes

log = structlog.get_logger(__name__)

SOFTWARE: Final = "urn:x-beamish:server"
"""Names this software in its own annotations (XEP-0115 §4)."""
_ANNOTATION_BYTES: Final = 2048
"""Longer annotations are neither repeated for a client nor left out."""
_ANNOTATION: Final = re.compile(
    rb"<c(?=\s[^<>]*\bxmlns=(?:\"http://jabber\.org/protocol/caps\"|'http://jabber\.org/protocol/caps'))[^<>]*/>"
    rb"|<c(?=\s[^<>]*\bxmlns=(?:\"urn:xmpp:caps\"|'urn:xmpp:caps'))(?:[^<>]*/>|[^<>]*>.*?</c>)",
    re.DOTALL,
)
"""An annotation as clients and our serialiser write it; found as often as there are annotations, or left alone."""


class Config(ModuleConfig):
    """Options of entity capabilities."""

    optimize: bool = Field(
        True,
        description="Leave the capabilities out of a presence for sessions on this server that have been told "
        "them before (XEP-0115 section 8.4): about 150 bytes less for each contact and change of status.",
    )
    remembered: int = Field(
        5000,
        ge=0,
        description="Sessions that are remembered, for each session, to have its capabilities; 40 bytes each. "
        "Beyond that everybody is told again.",
    )
    cached_hashes: int = Field(
        2000,
        ge=10,
        description="Verified hashes kept in memory, a few KiB each. A hash stands for one version of one client.",
    )
    stored_hashes: int = Field(
        20_000, ge=10, description="Verified hashes kept in the database; those not used for longest go first."
    )
    entities: int = Field(
        50_000,
        ge=100,
        description="Contacts on other servers whose capabilities are kept in mind; the oldest go first.",
    )
    questions: int = Field(200, ge=1, description="Unknown hashes that are being asked about at any time.")
    questions_per_hour: int = Field(
        60,
        ge=1,
        description="Unknown hashes that one account may announce in an hour. More are ignored, so that nobody fills "
        "the cache with made-up clients.",
    )


class _Told:
    """What a session's annotations mean at present, and the sessions (their epochs) that have them."""

    __slots__ = ("known", "meaning")

    def __init__(self, meaning: object) -> None:
        self.meaning = meaning
        self.known: set[int] = set()


def _meaning(annotation: Element) -> tuple[object, ...]:
    """An annotation however it is written: the same client may quote it one way now and another way then."""
    hashes = tuple((h.get("algo", ""), h.text or "") for h in annotation)
    return annotation.tag, tuple(sorted((str(key), str(value)) for key, value in annotation.items())), hashes


class CapsModule(Module):
    """Capabilities of others, learned and verified; our own, announced."""

    name = "caps"
    Config = Config
    xeps = (
        Xep(115, "1.6.0", note="the legacy format is ignored"),
        Xep(390, "0.3.2", status="partial", note="no gratuitous capabilities, no interception of queries"),
    )
    features: tuple[str, ...] = (CAPS, f"{CAPS}#optimize", CAPS2, f"{CAPS2}:optimize")
    requires = (RosterService,)
    provides = (CapsAnnotations,)
    migrations = store.MIGRATIONS

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._rosters = self.kernel.service(RosterService)
        self._cache = HashCache(self.db, config.cached_hashes, config.stored_hashes)
        self._learning = Learning(
            self.kernel,
            self.tasks,
            self._cache,
            entities=config.entities,
            questions=config.questions,
            per_hour=config.questions_per_hour,
        )
        self._own: dict[str, OwnCaps] = {}
        self.stream_features = (StreamFeature(b"", of_domain=lambda domain: self._own_caps(domain).xml),)
        if not config.optimize:
            self.features = (CAPS, CAPS2)

    async def start(self) -> None:
        """Load the hashes that were used last."""
        await self._cache.load()
        self.kernel.provide(CapsService, self._learning)

    # ---- our own ----------------------------------------------------------------------------------------------------

    def _own_caps(self, domain: str) -> OwnCaps:
        """Made at the first stream to a host, when every module runs."""
        made = self._own.get(domain)
        if made is None:
            disco = self.kernel.service_or_none(DiscoService)
            if disco is None:
                made = OwnCaps(b"", frozenset())
            else:
                made = own_caps(from_bytes(disco.server_info(domain).to_bytes()), SOFTWARE)
                if len(made.nodes) < 3:
                    log.warning("own_capabilities_not_announced", domain=domain, reason="others could not verify them")
            self._own[domain] = made
        return made

    def disco_node(self, at: JID, node: str, asker: JID) -> DiscoNode | None:
        """What our own hashes stand for (XEP-0115 §6.2)."""
        if at.local or node not in self._own_caps(at.domain).nodes:
            return None
        return DiscoNode(self.kernel.service(DiscoService).server_info(at.domain))

    # ---- presence of local sessions ---------------------------------------------------------------------------------

    @on(events.inbound, at=60, only=(PRESENCE,))  # after those who refuse a stanza
    def _take_note(self, ctx: Context) -> Outcome:
        """Keep a session's annotations, and repeat them where the client leaves them out because we optimise."""
        stanza, session = ctx.stanza, ctx.origin
        if stanza.name != PRESENCE or stanza.type or stanza.to is not None or session is None:
            return None
        if C in stanza.tags or C2 in stanza.tags:
            annotations = tuple(_ANNOTATION.findall(stanza.body))
            if not annotations or session.note("caps.annotations") != annotations:
                self._annotated(session, stanza, annotations)
        elif session.available:
            known = session.note("caps.annotations")
            if isinstance(known, tuple) and known:
                ctx.stanza = stanza.with_child(b"".join(known))
        return None

    def _annotated(self, session: Session, presence: Stanza, annotations: tuple[bytes, ...]) -> None:
        """Note what a session announces, written like this."""
        found = [child for child in presence.el if child.tag == C or child.tag == C2]
        if len(annotations) != len(found) or sum(map(len, annotations)) > _ANNOTATION_BYTES:
            annotations = ()  # written in an unusual way: left as it is
        notes = session.notes
        notes["caps.annotations"] = annotations
        notes["caps.announced"] = announcement(found)
        notes["caps.meaning"] = tuple(map(_meaning, found)) if annotations else ()

    @on(events.presence_changed, at=80)  # after personal eventing has noted that the session is there
    def _presence_changed(self, event: PresenceChanged) -> None:
        session = event.session
        if event.stanza.type:
            self._forget(session)
            return
        about = session.note("caps.announced")
        if isinstance(about, Announcement):
            self._learning.announced(session.jid, about, session.bare)

    @on(events.session_restored, at=80)  # after personal eventing knows what the session has got already
    def _session_restored(self, event: SessionNotes) -> None:
        """What a session of before a restart announced is in its presence."""
        session = event.session
        if session.presence is None or session.presence.body == b"/>":
            return
        presence = session.presence.replace()  # a copy: the kept one is to have no tree
        about = announcement(presence.el)
        if about is not None:
            self._annotated(session, presence, tuple(_ANNOTATION.findall(presence.body)))
            self._learning.announced(session.jid, about, session.bare)

    @on(events.session_closed, at=80)  # after the presence that this causes
    def _session_closed(self, event: SessionClosed) -> None:
        if self.kernel.sessions.get(event.session.jid) is None:
            self._forget(event.session)

    def _forget(self, session: Session) -> None:
        self._learning.forget(session.jid)
        for key in ("caps.annotations", "caps.announced", "caps.meaning", "caps.told"):
            session.notes.pop(key, None)

    # ---- presence of others -----------------------------------------------------------------------------------------

    @on(events.contact_presence)
    def _contact_presence(self, ctx: Context) -> None:
        stanza = ctx.stanza
        sender, to = stanza.sender, stanza.to
        if sender is None or to is None:
            return  # gateways appear without a resource
        session = self.kernel.sessions.get(sender)
        if session is not None and session.available:
            return  # what it broadcasts counts
        if stanza.type == "unavailable":
            self._learning.left(sender, to.bare)
        elif stanza.type == "" and stanza.body != b"/>":
            about = announcement(stanza.el)
            if about is not None:
                self._learning.announced(sender, about, to.bare, ask=session is not None or self._related(to, sender))

    def _related(self, user: JID, contact: JID) -> bool:
        """Whether to trouble an entity with questions: not the occupants of rooms, whom nobody here sends events to."""
        roster = self._rosters.cached(user.bare)
        item = roster.get(contact.bare) if roster is not None else None
        return item is not None and (item.to or item.from_)

    # ---- less to say ------------------------------------------------------------------------------------------------

    def shortened(self, presence: Stanza) -> Shortened | None:
        """See `CapsAnnotations.shortened`."""
        if not self.config.optimize or presence.sender is None:
            return None
        session = self.kernel.sessions.get(presence.sender)
        annotations = session.note("caps.annotations") if session is not None else None
        if session is None or not isinstance(annotations, tuple) or not annotations:
            return None
        body = presence.body
        for annotation in annotations:
            if body.count(annotation) != 1:
                return None
            body = body.replace(annotation, b"")
        told = session.note("caps.told")
        meaning = session.note("caps.meaning")
        if not isinstance(told, _Told) or told.meaning != meaning:
            told = session.notes["caps.told"] = _Told(meaning)
        elif len(told.known) > self.config.remembered:
            told.known.clear()
        p = presence
        return Shortened(Stanza(p.name, p.type, p.id, p.sender, p.to, p.lang, p.head, body), told.known)

    def given(self, sender: JID, session: Session) -> None:
        """See `CapsAnnotations.given`."""
        origin = self.kernel.sessions.get(sender)
        told = origin.note("caps.told") if origin is not None else None
        if isinstance(told, _Told):
            told.known.add(session.epoch)
