"""Sessions of before the restart: back in the table, waiting for their clients.

After an orderly stop everything is known exactly. After a crash the messages are, but not how many other stanzas the client
has seen; it tells so itself when it resumes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import structlog

from beamish.core import events
from beamish.core.events import SessionNotes
from beamish.core.later import is_later
from beamish.core.services import AccountsService
from beamish.core.sessions import NOWHERE, Session
from beamish.modules.sm.batch import StoredSession
from beamish.modules.sm.outlet import Managed, Sent
from beamish.stream.resume import WRAP
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from beamish.modules.sm.module import StreamManagementModule

log = structlog.get_logger(__name__)


async def restore(sm: StreamManagementModule) -> None:
    """Bring back what was written down; what has expired meanwhile ends like any other session."""
    now = sm.clock.now()
    stored = await sm.journal.load(now)
    accounts = sm.kernel.service(AccountsService)
    over: list[Managed] = []
    for one in stored:
        try:
            jid = JID.parse(one.jid)
            exists = accounts.exists(jid.bare) if sm.kernel.is_local_domain(jid.domain) else False
            known = await exists if not isinstance(exists, bool) else exists
        except (JidMalformed, ValueError) as exc:
            log.error("session_damaged", jid=one.jid, error=str(exc))
            known = False
        if not known:
            sm.journal.do("DELETE FROM sm_session WHERE key = ?", one.key)
            sm.journal.confirmed([row for row, *_ in one.messages])
            continue
        managed = _made(sm, one, jid, now)
        sm.adopt(managed)
        alive = managed.resumable and managed.expires is not None and managed.expires > now
        if not alive or sm.kernel.sessions.get(jid) is not None:
            over.append(managed)
            continue
        await _bring_back(sm, managed, one.state)
    _each_once(over)
    for managed in over:
        sm.over_at_start(managed)
    if stored:
        log.info("sessions_restored", sessions=len(stored) - len(over), ended=len(over))


def _each_once(over: list[Managed]) -> None:
    """Of a message that several ended sessions of an account have, only one goes elsewhere."""
    given: dict[JID, Counter[bytes]] = {}
    for managed in over:
        account = given.setdefault(managed.session.bare, Counter())
        own: Counter[bytes] = Counter()
        for sent in managed.queue:
            own[sent.data] += 1
            if own[sent.data] <= account[sent.data]:
                sent.elsewhere = True
        account |= own
        given[managed.session.bare] = account


def _made(sm: StreamManagementModule, one: StoredSession, jid: JID, now: float) -> Managed:
    session = Session(jid, NOWHERE, created=one.created)
    managed = Managed(sm, session, None, key=one.key, id=one.id, seconds=one.seconds, count=one.handled, sent=one.sent)
    managed.exact = one.exact
    managed.restored = True
    managed.expires = now + one.seconds if one.expires is None else one.expires
    messages = one.messages
    if any(count is not None for _, count, *_ in messages):
        # in the order of their counts: at an orderly stop, rows were added for what had none
        first = next(count for _, count, *_ in messages if count is not None)
        messages = sorted(messages, key=lambda m: (m[1] is None, ((m[1] or 0) - first + WRAP // 2) % WRAP, m[0]))
    for row, count, when, wire in messages:
        sm.not_before(when)
        managed.queue.add(Sent(wire, None, when, row, count), len(wire))
    managed.queue.sent = one.sent % WRAP
    return managed


async def _bring_back(sm: StreamManagementModule, managed: Managed, state: dict[str, Any]) -> None:
    session = managed.session
    if "presence" in state:
        session.presence = Stanza.parse(state["presence"].encode()).detached()
        session.priority = int(state["priority"])
    session.interested = bool(state.get("interested"))
    if state.get("directed"):
        session.directed = {JID.parse(text) for text in state["directed"]}
    session.notes.update(state.get("own") or {})
    sm.kernel.open_session(session)
    if managed.expires is not None:
        sm.wait(managed)
    hook = sm.kernel.hooks[events.session_restored]
    if hook.rows:
        outcome = hook.run(SessionNotes(session, state.get("notes") or {}))
        if is_later(outcome):
            await outcome
    sm.reports.missed(managed, restored=True)
