"""What a change of rules means for presence (XEP-0016 §2.9, §2.10, XEP-0191 §3.3, §3.4).

Whoever may not see the user any more is told that it left, whoever may again is told what it shows; and the same the
other way round.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

from beamish.core.services import BlockingService, Roster
from beamish.core.sessions import Session
from beamish.modules.blocking.rules import Kind, PrivacyList
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

_SLICE: Final = 200
"""Contacts dealt with before the loop gets its turn."""


def allows(rules: PrivacyList | None, kind: Kind, peer: JID, roster: Roster | None) -> bool:
    """Decide by a list, or by none. A roster that is not at hand counts as empty."""
    return rules is None or rules.allows(kind, peer, lambda: None if roster is None else roster.get(peer.bare))


async def settle(
    kernel: Kernel, changes: list[tuple[Session, PrivacyList | None, PrivacyList | None]], roster: Roster
) -> None:
    """Send what follows from new rules: for each session of the account the list before and after."""
    contacts = tuple(roster.items())
    probed: set[JID] = set()
    for session, before, after in changes:
        if before is after:
            continue
        _directed(kernel, session, before, after, roster)
        for at, item in enumerate(contacts):
            if at % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            if item.from_ and session.available:
                _outwards(kernel, session, item.jid, before, after, roster)
            if item.to and session.available:
                was = allows(before, Kind.PRESENCE_IN, item.jid, roster)
                now = allows(after, Kind.PRESENCE_IN, item.jid, roster)
                if was and not now:
                    _vanish(kernel, session, item.jid)
                elif now and not was and item.jid not in probed:
                    probed.add(item.jid)
                    probe = Stanza.build(PRESENCE, "probe", id=secrets.token_hex(5), sender=session.bare, to=item.jid)
                    kernel.router.post(probe)


def _outwards(
    kernel: Kernel, session: Session, to: JID, before: PrivacyList | None, after: PrivacyList | None, roster: Roster
) -> None:
    was = allows(before, Kind.PRESENCE_OUT, to, roster)
    now = allows(after, Kind.PRESENCE_OUT, to, roster)
    if was and not now:
        kernel.router.post(Stanza.build(PRESENCE, "unavailable", sender=session.jid, to=to))
    elif now and not was and session.presence is not None:
        kernel.router.post(session.presence.replace(to=to))


def _directed(
    kernel: Kernel, session: Session, before: PrivacyList | None, after: PrivacyList | None, roster: Roster
) -> None:
    for jid in tuple(session.directed or ()):
        if allows(before, Kind.PRESENCE_OUT, jid, roster) and not allows(after, Kind.PRESENCE_OUT, jid, roster):
            assert session.directed is not None
            session.directed.discard(jid)
            kernel.router.post(Stanza.build(PRESENCE, "unavailable", sender=session.jid, to=jid))


def _vanish(kernel: Kernel, session: Session, contact: JID) -> None:
    """A contact leaves, as far as one session can tell. Of other servers only the account is known."""
    gone = [contact]
    if kernel.is_local_domain(contact.domain) and contact.local:
        # what the contact hides from the user has never come, and is not to be found out by a block
        blocking = kernel.service(BlockingService)
        shown = [(other, blocking.shows(other)) for other in kernel.sessions.of(contact).available]
        gone = [other.jid for other, shows in shown if shows is None or shows(session.bare)]
    for jid in gone:
        session.send(Stanza.build(PRESENCE, "unavailable", sender=jid, to=session.bare))
