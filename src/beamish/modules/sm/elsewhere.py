"""Where the stanzas go that a session's client has not confirmed when the session ends (XEP-0198 §4).

Messages go to the account's other resources, or to whoever keeps messages, with the time when they were sent; never back to
the sender, who was told that they are safe. Requests get an error. The rest means nothing without its session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core import events
from beamish.core.clock import stamp
from beamish.core.events import Context
from beamish.core.later import is_later
from beamish.core.services import CopiesService
from beamish.core.sessions import Session
from beamish.modules.sm.outlet import Managed, Sent
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
_FORWARDED: Final = b"<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'"


Holder = tuple[Managed, Sent]
"""Who has a copy, and the copy."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A stanza that was not confirmed, and who gets it: `others`, or whoever keeps messages if there is none.

    `holders` have copies of it that they have not confirmed either (XEP-0280). As nobody takes care of a copy, it waits for
    what becomes of theirs.
    """

    sent: Sent
    stanza: Stanza
    others: tuple[Session, ...]
    holders: tuple[Holder, ...] = ()


Held = dict[tuple[Managed, ...], list[Parcel]]
"""What waits for the sessions that have copies of it."""


def sort_out(sm: StreamManagementModule, session: Session, left: list[Sent]) -> list[Parcel]:
    """What of an ended session's stanzas goes elsewhere. Decided when it ends, as long as it is known who else is there.

    The rest is done with.
    """
    account = sm.kernel.sessions.of(session.bare)
    unconfirmed = _Unconfirmed(sm)
    parcels = []
    for sent in left:
        stanza = None if sent.elsewhere else _stanza(sent, session)
        if stanza is None:
            continue
        others: tuple[Session, ...] = ()
        holders: tuple[Holder, ...] = ()
        if stanza.name == MESSAGE:
            if stanza.type in _LEFT_TYPES or _is_personal(stanza, session):
                continue
            others = tuple(other for other in account.routable if not _has(sm, session, other, stanza, sent.when))
            if account.routable and not others:  # every resource that is there has it
                holders = unconfirmed.holders(account.routable, sent.data)
                if not holders:
                    continue
                if sm.journal.in_memory_alone(sent):  # nothing is acknowledged before it is somewhere: that cannot wait
                    holders = ()
        elif stanza.name != IQ or stanza.type not in ("get", "set"):
            continue
        parcels.append(Parcel(sent, stanza, others, holders))
    kept = {id(parcel.sent) for parcel in parcels}
    sm.journal.given_up([sent for sent in left if id(sent) not in kept])
    return parcels


def _stanza(sent: Sent, session: Session) -> Stanza | None:
    if sent.stanza is not None or sent.data.startswith(b"<presence"):
        return sent.stanza
    try:
        return Stanza.parse(sent.data)  # it comes from the store
    except ValueError as exc:
        log.error("unconfirmed_stanza_damaged", jid=str(session.jid), error=str(exc))
        return None


async def bring(sm: StreamManagementModule, session: Session, parcels: list[Parcel]) -> Held:
    """Give away what an ended session's client has not confirmed, in order; each row goes in the commit of its new one.

    What has `holders` comes back, for `bring_unseen`.
    """
    held: Held = {}
    for parcel in parcels:
        if parcel.holders:
            held.setdefault(tuple(holder for holder, _ in parcel.holders), []).append(parcel)
            continue
        try:
            await _bring(sm, session, parcel)
        except Exception:
            log.exception("unconfirmed_stanza_lost", jid=str(session.jid))
        if parcel.sent.row:
            sm.journal.confirmed((parcel.sent.row,))
            sm.journal.tidy()  # now: the next message may have to wait
    log.info("unconfirmed_brought_elsewhere", jid=str(session.jid), stanzas=len(parcels) - sum(map(len, held.values())))
    return held


async def bring_unseen(sm: StreamManagementModule, session: Session, held: Held) -> None:
    """Give away what turns out not to have been seen by anybody. That may take as long as the sessions of its holders last.

    So the stop of the server does not wait for it: the rows stay, and the next start takes them up.
    """
    await asyncio.gather(*(_bring_unseen(sm, session, *one) for one in held.items()))


async def _bring_unseen(
    sm: StreamManagementModule, session: Session, holders: tuple[Managed, ...], parcels: list[Parcel]
) -> None:
    """Give away what nobody has confirmed when all sessions that have copies of it have ended."""
    unseen: list[Sent] = []
    if not await _any_passed(holders):
        unseen = [parcel.sent for parcel in parcels if all(id(copy) in holder.left for holder, copy in parcel.holders)]
    kept = {id(sent) for sent in unseen}
    sm.journal.given_up([parcel.sent for parcel in parcels if id(parcel.sent) not in kept])
    sm.journal.tidy()
    if unseen:
        await bring_unseen(sm, session, await bring(sm, session, sort_out(sm, session, unseen)))


async def _any_passed(holders: tuple[Managed, ...]) -> bool:
    """Wait until one of these sessions has confirmed what it was sent so far; False: all have ended without."""
    waiting = {asyncio.ensure_future(holder.passed()) for holder in holders}
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if any(one.result() for one in done):
            return True
    return False


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


def _has(sm: StreamManagementModule, session: Session, other: Session, stanza: Stanza, when: float) -> bool:
    """Whether another resource got the message at the time when the ended session did."""
    if stanza.to != session.jid:  # to the account, or to a resource that was not there (RFC 6121 §8.5.3.2.1)
        since = other.note(SINCE)
        if isinstance(since, (int, float)) and since < when:
            return True  # it was sent to all
    copies = sm.kernel.service_or_none(CopiesService)  # which a session may get before it is available
    return copies is not None and copies.copies(other, stanza, when)


class _Unconfirmed:
    """What other sessions have not confirmed, looked at when it is asked for."""

    def __init__(self, sm: StreamManagementModule) -> None:
        self._sm = sm
        self._found: dict[Managed, tuple[set[bytes], dict[bytes, Sent]]] = {}

    def holders(self, having: tuple[Session, ...], message: bytes) -> tuple[Holder, ...]:
        """Those who have a message, if all of them have copies and none has confirmed it; else nobody, as it is safe."""
        made = []
        for other in having:
            managed = self._sm.managing(other)
            if managed is None:
                return ()
            found = self._found.get(managed)
            if found is None:
                found = self._found[managed] = _messages_and_copies(managed.queue)
            messages, copies = found
            copy = copies.get(message)
            if copy is None or message in messages:
                return ()
            made.append((managed, copy))
        return tuple(made)


def _messages_and_copies(left: Iterable[Sent]) -> tuple[set[bytes], dict[bytes, Sent]]:
    """Messages as they are, and copies by the message in them."""
    messages: set[bytes] = set()
    copies: dict[bytes, Sent] = {}
    for sent in left:
        data = sent.data
        if _COPY in data:
            start, end = data.find(_FORWARDED), data.rfind(b"</forwarded>")
            if 0 <= start < end:
                copies[b"<message" + data[start + len(_FORWARDED) : end]] = sent
        messages.add(data)
    return messages, copies


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
