"""Where the stanzas go that a session's client has not confirmed when the session ends (XEP-0198 §4).

Messages go to the account's other resources, or to whoever keeps messages, with the time when they were sent; never back to
the sender, who was told that they are safe. Requests get an error. The rest means nothing without its session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from beamish.core.clock import stamp
from beamish.core.events import Context
from beamish.core.services import CopiesService
from beamish.core.sessions import Session
from beamish.modules.sm.outlet import Sent
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.stanza import IQ, MESSAGE, PersonalStanza, Stanza
from beamish.xmpp.xml import escape_attr

if TYPE_CHECKING:
    from beamish.modules.sm.module import StreamManagementModule
    from beamish.modules.sm.outlet import Managed

log = structlog.get_logger(__name__)

SINCE: Final = "sm.since"
"""Note of a session: since when it gets messages to its account."""
_KEPT_TYPES: Final = frozenset(("", "normal", "chat"))
_COPY: Final = b"urn:xmpp:carbons:2"


async def bring_elsewhere(sm: StreamManagementModule, managed: Managed, left: list[Sent]) -> None:
    """Give away what an ended session's client has not confirmed, in order; each row goes with its message's new one."""
    moved = 0
    for sent in left:
        try:
            moved += await _bring(sm, managed.session, sent)
        except Exception:
            log.exception("unconfirmed_stanza_lost", jid=str(managed.session.jid))
        if sent.row:
            sm.journal.confirmed((sent.row,))
    sm.forget(managed)
    log.info("unconfirmed_brought_elsewhere", jid=str(managed.session.jid), stanzas=len(left), messages=moved)


async def _bring(sm: StreamManagementModule, session: Session, sent: Sent) -> bool:
    """Whether it was a message that somebody took."""
    stanza = sent.stanza
    if stanza is None:
        if sent.data.startswith(b"<presence"):
            return False
        try:
            stanza = Stanza.parse(sent.data)
        except ValueError as exc:
            log.error("unconfirmed_stanza_damaged", jid=str(session.jid), error=str(exc))
            return False
    if stanza.name == IQ:
        if stanza.type in ("get", "set"):
            sm.kernel.router.bounce(Context(stanza), StanzaError(Condition.SERVICE_UNAVAILABLE))
        return False
    if stanza.name != MESSAGE or stanza.type not in _KEPT_TYPES or _is_personal(stanza, session):
        return False
    account = sm.kernel.sessions.of(session.bare)
    others = tuple(other for other in account.routable if not _has(sm, other, session, stanza, sent.when))
    if account.routable and not others:
        return False  # every resource that is there has it
    ctx = Context(_stamped(stanza, session, sent.when))
    try:
        if others and sm.kernel.router.hand_over(ctx, others):
            return True
        rest = sm.kernel.router.keep(ctx)
        if rest is not None:
            await rest
    except StanzaError as error:
        log.info("unconfirmed_message_dropped", jid=str(session.jid), condition=error.condition.value)
        return False
    return True


def _has(sm: StreamManagementModule, other: Session, session: Session, stanza: Stanza, when: float) -> bool:
    """Whether another resource got the message at the time when the ended session did."""
    since = other.note(SINCE)
    if not isinstance(since, (int, float)) or since > when:
        return False
    if stanza.to is None or not stanza.to.resource:
        return True  # it was sent to all
    copies = sm.kernel.service_or_none(CopiesService)
    return copies is not None and copies.copies(other, stanza)


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
