"""XEP-0280: every device of an account sees what the others send and get.

Rules of eligibility are those of §6.1 in full. Sent messages are copied when all guards have let them pass (`inbound`),
received ones after delivery (`delivered`, `undelivered`), to the sessions with carbons on that did not get the message
itself. Copies go straight to the sessions, past every hook, so a copy is never copied, archived or bounced to a sender
(§10.3). An account whose only session with carbons is the one that speaks costs a look into a table.

Not here: the archive, whose ids are on the copies if the module `mam` runs.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from beamish.core import events
from beamish.core.content import CARBONS, STANZA_ID_TAG, Holds, content_of, survey
from beamish.core.events import Context, Release, SessionClosed, SessionEvent
from beamish.core.module import IqAnswer, Module, ModuleConfig, Scope, Xep, iq, on
from beamish.core.services import CopiesService, SessionKeeper
from beamish.core.sessions import Session
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, PersonalStanza, Stanza, Wire

_RULES: Final = "urn:xmpp:carbons:rules:0"
_NOTE: Final = "carbons.enabled"
_HAD: Final = "carbons.had"
"""Note of a session: messages that nobody took, of which it has copies; one in each line."""
_HAD_KEPT: Final = 1_000
_SENT_KEPT: Final = 10_000
"""Messages whose error answers would be copied, too (§6.1); about 300 bytes each."""

_REFUSED: Final = int(Holds.PRIVATE | Holds.NO_COPY | Holds.COPY | Holds.ARCHIVE_RESULT)
_IM: Final = int(
    Holds.STATE
    | Holds.RECEIPT_REQUEST
    | Holds.RECEIPT
    | Holds.MARKABLE
    | Holds.MARKER
    | Holds.ENCRYPTED
    | Holds.REACTION
    | Holds.RETRACTION
    | Holds.CALL
    | Holds.INVITATION
    | Holds.FILE
)
"""Payloads of instant messaging, which make messages of any type but `groupchat` and `error` eligible."""
_BODY: Final = int(Holds.BODY)
_MUC_USER: Final = int(Holds.MUC_USER)


class CarbonsModule(Module):
    """Copies messages to the other devices of their sender and of their receiver."""

    name = "carbons"
    Config = ModuleConfig
    provides = (CopiesService,)
    xeps = (Xep(280, "1.0.1"),)
    features = (CARBONS, _RULES)
    account_features = (CARBONS, _RULES)

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._enabled: dict[JID, tuple[Session, ...]] = {}
        """Sessions with carbons on, by account."""
        self._sent: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        """Sender (full JID), receiver and id of eligible messages of accounts with several devices."""

    # ---- who wants copies (§4, §5, §9.1) --------------------------------------------------------------------------------

    @iq(set=f"{{{CARBONS}}}enable", scope=Scope.OWN)
    def enable(self, ctx: Context) -> IqAnswer:
        """Copies for this session from now on; asking twice is no error."""
        session = ctx.origin
        assert session is not None
        if not session.note(_NOTE):
            keeper = self.kernel.service_or_none(SessionKeeper)
            session.notes[_NOTE] = self.kernel.clock.now() if keeper is None else keeper.now()
        self._enter(session)
        return ctx.stanza.reply()

    @iq(set=f"{{{CARBONS}}}disable", scope=Scope.OWN)
    def disable(self, ctx: Context) -> IqAnswer:
        """No more copies for this session."""
        session = ctx.origin
        assert session is not None
        session.notes.pop(_NOTE, None)
        self._leave(session)
        return ctx.stanza.reply()

    @on(events.session_bound)
    def session_bound(self, event: SessionEvent) -> None:
        """A session that goes on after a restart of the server brings its wish along."""
        if event.session.note(_NOTE):
            self._enter(event.session)

    @on(events.session_closed)
    def session_closed(self, event: SessionClosed) -> None:
        """The wish ends with the session."""
        if event.session.note(_NOTE):
            self._leave(event.session)

    def _enter(self, session: Session) -> None:
        there = self._enabled.get(session.bare, ())
        if session not in there:
            self._enabled[session.bare] = (*there, session)

    def _leave(self, session: Session) -> None:
        left = tuple(s for s in self._enabled.get(session.bare, ()) if s is not session)
        if left:
            self._enabled[session.bare] = left
        else:
            self._enabled.pop(session.bare, None)

    def copies(self, session: Session, message: Stanza, when: float | None = None) -> bool:
        """See `CopiesService.copies`."""
        if when is not None and self.had(session, message):
            return True
        if session not in self._enabled.get(session.bare, ()) or (when is not None and _since(session) >= when):
            return False
        content = survey(message)
        return eligible(message.type, content) and not (content & _MUC_USER and _from_occupant(message))

    # ---- copies ---------------------------------------------------------------------------------------------------------

    @on(events.inbound, at=95, only=(MESSAGE,))  # after the archive: the copy carries the archive's id
    def sent(self, ctx: Context) -> None:
        """What a client sends goes to the account's other devices (§8)."""
        stanza, origin = ctx.stanza, ctx.origin
        if stanza.name != MESSAGE or origin is None:
            return
        copied = self._enabled.get(origin.bare)
        if copied is None or (len(copied) == 1 and copied[0] is origin):
            return
        if not eligible(stanza.type, content_of(ctx)):
            return
        to = stanza.to
        if to is not None and to.bare == origin.bare:
            return  # it is on its way to this account anyway, and copied when it arrives (§7)
        if stanza.id and to is not None:
            sent = self._sent
            sent[origin.jid, to, stanza.id] = None
            if len(sent) > _SENT_KEPT:
                sent.popitem(last=False)
        archived = ctx.note("mam.sent")
        if isinstance(archived, bytes):
            stanza = stanza.with_child(archived)
        self._copy(ctx, stanza, "sent", copied, (origin,))

    @on(events.delivered)
    def delivered(self, ctx: Context) -> None:
        """What was handed to some sessions goes to the others (§7)."""
        stanza = ctx.stanza
        to = stanza.to
        if stanza.name != MESSAGE or to is None:
            return
        copied = self._enabled.get(to.bare)
        if copied is None:
            return
        sessions = self.kernel.sessions
        before = ctx.note("sm.when")
        if isinstance(before, float):  # an ended session has left it: whoever is available has it or has just got it
            self._received(ctx, stanza, copied, (*sessions.of(to.bare).routable, *_since_then(copied, before)))
            return
        direct = sessions.get(to) if to.resource else None
        served = (direct,) if direct is not None else sessions.of(to.bare).routable
        lacking = self._received(ctx, stanza, copied, served)
        if lacking and ctx.held:  # it may come to any of them from the store, should its receiver break off
            for session in lacking:
                self._has_had(session, stanza)

    @on(events.undelivered, at=10, only=(MESSAGE,))  # before whoever keeps it, and says STOP
    def undelivered(self, ctx: Context) -> None:
        """Nobody got it as such, but a device with carbons may be there that is unavailable or of negative priority."""
        stanza = ctx.stanza
        to = stanza.to
        if to is None:
            return
        copied = self._enabled.get(to.bare)
        if copied is None:
            return
        # one that an ended session has left was copied when it came, to those who had asked for that by then
        before = ctx.note("sm.when")
        served = _since_then(copied, before) if isinstance(before, float) else ()
        for session in (*self._received(ctx, stanza, copied, served), *served):
            if self.copies(session, stanza):
                self._has_had(session, stanza)

    def _has_had(self, session: Session, stanza: Stanza) -> None:
        """Note that a session has a copy of what may be stored for the account; it may be the one that gets the stored one."""
        name = _name_of(stanza, session)
        if name is None:
            return
        had = session.note(_HAD)
        names = had.split("\n")[1 - _HAD_KEPT :] if isinstance(had, str) else []
        session.notes[_HAD] = "\n".join((*names, name))
        keeper = self.kernel.service_or_none(SessionKeeper)
        if keeper is not None:
            keeper.changed(session)

    @on(events.releasing)
    def releasing(self, release: Release) -> None:
        """What was stored is not given to a session that got a copy at the time: it was seen."""
        session = release.session
        had = session.note(_HAD)
        if isinstance(had, str):
            names = frozenset(had.split("\n"))
            release.messages = [stanza for stanza in release.messages if _name_of(stanza, session) not in names]

    def had(self, session: Session, message: Stanza) -> bool:
        """See `CopiesService.had`."""
        had = session.note(_HAD)
        return isinstance(had, str) and _name_of(message, session) in had.split("\n")

    def _received(
        self, ctx: Context, stanza: Stanza, copied: tuple[Session, ...], served: tuple[Session, ...]
    ) -> tuple[Session, ...]:
        """Copy a message to those who did not get it; who they are."""
        for session in copied:  # in the hot path: nobody is left but the one that got it
            if session not in served:
                break
        else:
            return ()
        content = content_of(ctx)
        if stanza.type == "error":
            if not self._answers_eligible(stanza):
                return ()
        elif not eligible(stanza.type, content) or (content & _MUC_USER and _from_occupant(stanza)):
            # a room sends private messages to every client that is in it (§6.1)
            return ()
        origin = ctx.origin
        if origin is not None and origin.bare == (stanza.to.bare if stanza.to is not None else None):
            served = (*served, origin)  # of what a device sends to its own account the device knows
        self._copy(ctx, stanza, "received", copied, served)
        return tuple(session for session in copied if session not in served)

    def _answers_eligible(self, stanza: Stanza) -> bool:
        """Whether an error answers a message that was copied when it was sent."""
        return (stanza.to, stanza.sender, stanza.id) in self._sent

    def _copy(
        self, ctx: Context, stanza: Stanza, tag: str, copied: tuple[Session, ...], served: tuple[Session, ...]
    ) -> None:
        wire: Wire | None = None
        outer: PersonalStanza | None = None
        for session in copied:
            if session in served:
                continue
            if wire is None or outer is None:
                outer = _wrap(stanza, tag, session.bare)
                wire = outer.freeze()
            one = PersonalStanza(MESSAGE, outer.type, "", outer.sender, session.jid, "", outer.head, outer.body)
            if session.deliver(wire.addressed(session.jid.wire), one):
                ctx.caused(session.stored)


def eligible(type_: str, content: int) -> bool:
    """Whether a message is copied, as far as itself goes (§6.1). `content` is `core.content.survey`.

    Errors, and private messages from rooms to their receiver, need more than a look at the message.
    """
    if content & _REFUSED or type_ == "groupchat" or type_ == "error":
        return False
    if type_ == "chat":
        return True
    return bool(content & (_IM if type_ == "headline" else _IM | _BODY))


def _since_then(copied: tuple[Session, ...], when: float) -> tuple[Session, ...]:
    return tuple(session for session in copied if _since(session) < when)


def _name_of(stanza: Stanza, session: Session) -> str | None:
    """What tells a message from all others to the account: its id in the archive, or that of its sender."""
    for child in stanza.el.iterfind(STANZA_ID_TAG):
        if child.get("by") == session.bare:
            return child.get("id")
    return f"{stanza.sender} {stanza.id}".replace("\n", " ") if stanza.id else None


def _since(session: Session) -> float:
    """When a session asked for copies; long ago for one of which that is not known."""
    since = session.note(_NOTE)
    return float(since) if isinstance(since, (int, float)) and not isinstance(since, bool) else 0.0


def _from_occupant(stanza: Stanza) -> bool:
    return stanza.sender is not None and stanza.sender.resource != ""


def _wrap(stanza: Stanza, tag: str, account: JID) -> PersonalStanza:
    """The copy around a message (§7, §8), from the account, of the same type."""
    inner = b"<message xmlns='jabber:client'" + stanza.to_wire()[8:]
    content = b"".join(
        (
            f"<{tag} xmlns='{CARBONS}'><forwarded xmlns='urn:xmpp:forward:0'>".encode(),
            inner,
            f"</forwarded></{tag}>".encode(),
        )
    )
    made = PersonalStanza.build(MESSAGE, stanza.type, sender=account, content=content)
    assert isinstance(made, PersonalStanza)
    return made
