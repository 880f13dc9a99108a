"""Where the stanzas go that a session's client has not confirmed when the session ends (XEP-0198 §4).

Messages go to the account's other resources, or to whoever keeps messages, with the time when they were sent; never back to
the sender, who was told that they are safe. Requests get an error. The rest means nothing without its session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core import events
from beamish.core.clock import stamp
from beamish.core.events import Context
from beamish.core.later import is_later
from beamish.core.services import CopiesService
from beamish.core.sessions import Session
from beamish.modules.sm.outlet import Sent
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.stanza import IQ, MESSAGE, PersonalStanza, Stanza
from beamish.xmpp.xml import escape_attr

if TYPE_CHECKING:
    from beamish.modules.sm.module import StreamManagementModule

log = structlog.get_logger(__name__)

SINCE: Final = "sm.since"
"""Note of a session: what was sent to its account after this time it has got as well."""
WHEN: Final = "sm.when"
"""Note of a context: the message was first handed to a session at this time; that is what a stamp should say."""
_LEFT_TYPES: Final = frozenset(("headline", "groupchat", "error"))
"""What means nothing later, or is in a room's archive. Unknown types are normal (RFC 6121 §5.2.2)."""
_COPY: Final = b"urn:xmpp:carbons:2"


@dataclass(frozen=True, slots=True)
class Parcel:
    """A stanza that was not confirmed, and who gets it: `others`, or whoever keeps messages if there is none."""

    sent: Sent
    stanza: Stanza
    others: tuple[Session, ...]


def sort_out(sm: StreamManagementModule, session: Session, left: list[Sent]) -> list[Parcel]:
    """What of an ended session's stanzas goes elsewhere. Decided when it ends, as long as it is known who else is there.

    The rest is done with.
    """
    account = sm.kernel.sessions.of(session.bare)
    parcels = []
    for sent in left:
        stanza = None if sent.elsewhere else _stanza(sent, session)
        if stanza is None:
            continue
        others: tuple[Session, ...] = ()
        if stanza.name == MESSAGE:
            if stanza.type in _LEFT_TYPES or _is_personal(stanza, session):
                continue
            others = tuple(other for other in account.routable if not _has(sm, other, stanza, sent.when))
            if account.routable and not others:
                continue  # every resource that is there has it
        elif stanza.name != IQ or stanza.type not in ("get", "set"):
            continue
        parcels.append(Parcel(sent, stanza, others))
    kept = {id(parcel.sent) for parcel in parcels}
    sm.journal.confirmed([sent.row for sent in left if sent.row and id(sent) not in kept])
    return parcels


def _stanza(sent: Sent, session: Session) -> Stanza | None:
    if sent.stanza is not None or sent.data.startswith(b"<presence"):
        return sent.stanza
    try:
        return Stanza.parse(sent.data)  # it comes from the store
    except ValueError as exc:
        log.error("unconfirmed_stanza_damaged", jid=str(session.jid), error=str(exc))
        return None


async def bring(sm: StreamManagementModule, session: Session, parcels: list[Parcel]) -> None:
    """Give away what an ended session's client has not confirmed, in order; each row goes in the commit of its new one."""
    for parcel in parcels:
        try:
            await _bring(sm, session, parcel)
        except Exception:
            log.exception("unconfirmed_stanza_lost", jid=str(session.jid))
        if parcel.sent.row:
            sm.journal.confirmed((parcel.sent.row,))
            sm.journal.tidy()  # now: the next message may have to wait
    log.info("unconfirmed_brought_elsewhere", jid=str(session.jid), stanzas=len(parcels))


async def _bring(sm: StreamManagementModule, session: Session, parcel: Parcel) -> None:
    stanza, when = parcel.stanza, parcel.sent.when
    router = sm.kernel.router
    if stanza.name == IQ:
        router.bounce(Context(stanza), StanzaError(Condition.SERVICE_UNAVAILABLE))
        return
    ctx = Context(_stamped(stanza, session, when))
    ctx.notes[WHEN] = when
    try:
        if parcel.others and router.hand_over(ctx, parcel.others):
            outcome = sm.kernel.hooks[events.delivered].run(ctx)  # copies, for those who lack it and are not available
            if is_later(outcome):
                await outcome
            return
        rest = router.keep(ctx)
        if rest is not None:
            await rest
    except StanzaError as error:
        log.info("unconfirmed_message_dropped", jid=str(session.jid), condition=error.condition.value)


def _has(sm: StreamManagementModule, other: Session, stanza: Stanza, when: float) -> bool:
    """Whether another resource got the message at the time when the ended session did."""
    if stanza.to is None or not stanza.to.resource:
        since = other.note(SINCE)
        if isinstance(since, (int, float)) and since < when:
            return True  # it was sent to all
    copies = sm.kernel.service_or_none(CopiesService)  # which a session may get before it is available
    return copies is not None and copies.copies(other, stanza, when)


def _is_personal(stanza: Stanza, session: Session) -> bool:
    # what comes from the store is only bytes
    return isinstance(stanza, PersonalStanza) or (_COPY in stanza.body and stanza.sender == session.bare)


def _stamped(stanza: Stanza, session: Session, when: float) -> Stanza:
    """The message, addressed to its account, with the time when it was sent first (XEP-0203)."""
    domain = session.jid.domain
    if b"urn:xmpp:delay" not in stanza.body or not any(
        child.tag == f"{{{ns.DELAY}}}delay" and child.get("from") == domain for child in stanza.el
    ):
        child = f"<delay xmlns='{ns.DELAY}' from='{escape_attr(domain)}' stamp='{stamp(when)}'/>"
        stanza = stanza.with_child(child.encode())
    return stanza
