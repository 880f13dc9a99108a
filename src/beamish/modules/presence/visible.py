"""Who was visible when the server died: written down a little late, and put right a little after the next start.

A crash says no goodbyes. Contacts elsewhere, and those here whose sessions go on (XEP-0198), would believe in sessions that
are no more until these come back. So the database holds a row for every session that others see as available. It is
written in batches `LATE` seconds behind, which costs a login next to nothing; `PATIENCE` seconds after a start whoever has a
row but no session has gone. An orderly stop says goodbye itself, and leaves the rows of sessions that can be resumed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core.clock import Clock, Timer
from beamish.core.sessions import NOWHERE, Session
from beamish.storage.api import Cursor, Database, Migration, StorageError
from beamish.xmpp.jid import JID, JidMalformed

if TYPE_CHECKING:
    from beamish.core.sessions import SessionTable

log = structlog.get_logger(__name__)

LATE: Final = 1.0
"""Seconds until it is written that a session is visible; a session that does not live as long costs nothing."""
PATIENCE: Final = 10.0
"""Seconds after a start until the dead are declared so: other servers can be reached then, and who comes back at once did."""
PAGE: Final = 200

MIGRATION: Final = Migration(
    2,
    (
        "CREATE TABLE presence_visible (jid TEXT NOT NULL PRIMARY KEY, available INTEGER NOT NULL, "
        "directed TEXT NOT NULL)",
    ),
)

_ENTER: Final = (
    "INSERT INTO presence_visible (jid, available, directed) VALUES (?, ?, ?)"
    " ON CONFLICT (jid) DO UPDATE SET available = excluded.available, directed = excluded.directed"
)
_DELETE: Final = "DELETE FROM presence_visible WHERE jid = ?"


class Visible:
    """The book of visible sessions. `say_goodbye` is called for each session that died with the server."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        sessions: SessionTable,
        say_goodbye: Callable[[Session], Awaitable[None]],
    ) -> None:
        self._db = db
        self._clock = clock
        self._sessions = sessions
        self._say_goodbye = say_goodbye
        self._changed: dict[JID, tuple[Session | None, bool]] = {}
        """Address → session (None: gone), and whether there is no row of it yet."""
        self._timer: Timer | None = None
        self._ended: set[JID] | None = None
        """Who went in the ordinary way while the dead are looked for: a row read before that must not count."""

    def appeared(self, session: Session) -> None:
        """The session has become available."""
        if not session.anonymous:
            before = self._changed.get(session.jid)
            self._note(session.jid, session, before is None or before[1])

    def directed(self, session: Session) -> None:
        """The session has shown itself to somebody more."""
        if not session.anonymous:
            before = self._changed.get(session.jid)
            self._note(session.jid, session, before is not None and before[1])

    def gone(self, session: Session) -> None:
        """The session is not visible any more, and everybody is told."""
        if session.anonymous:
            return
        if self._ended is not None:
            self._ended.add(session.jid)
        before = self._changed.get(session.jid)
        if before is not None and before[0] not in (None, session):
            return  # a newer session has the address
        if before is not None and before[1]:
            del self._changed[session.jid]
        else:
            self._note(session.jid, None, False)

    def _note(self, jid: JID, session: Session | None, fresh: bool) -> None:
        self._changed[jid] = session, fresh
        if self._timer is None:
            self._timer = self._clock.call_later(LATE, self.write)

    def write(self) -> None:
        """Queue what has changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        enter = []
        delete = []
        for jid, (session, _) in changed.items():
            if session is None or not (session.available or session.directed):
                delete.append((str(jid),))
            else:
                enter.append((str(jid), int(session.available), json.dumps(sorted(session.directed or ()))))
        try:
            self._db.submit("presence.visible", partial(_write, enter, delete), failed=_not_written)
        except StorageError as error:
            _not_written(error)

    # ---- after a restart --------------------------------------------------------------------------------------------

    async def declare(self) -> None:
        """Say goodbye for everybody who has a row and no session; some at a time."""
        after, count = "", 0
        self._ended = set()
        try:
            while True:
                self.write()  # who has come back meanwhile has a row of its own
                page = partial(_page, after)
                rows = await self._db.write("presence.dead", page)
                for text, available, directed in rows:
                    after = text
                    session = self._dead(text, available, directed)
                    if session is None:
                        continue
                    count += 1
                    await self._say_goodbye(session)
                if len(rows) < PAGE:
                    break
        except StorageError as error:
            log.warning("goodbyes_not_said", error=repr(error))
        finally:
            self._ended = None
        if count:
            log.info("goodbyes_said", sessions=count)

    def _dead(self, text: str, available: int, directed: str) -> Session | None:
        try:
            jid = JID.parse(text)
            targets = {JID.parse(target) for target in json.loads(directed)}
        except (JidMalformed, ValueError) as error:
            log.error("visible_session_damaged", jid=text, error=str(error))
            self._note(JID.of("", text), None, False)
            return None
        if self._sessions.get(jid) is not None or (self._ended is not None and jid in self._ended):
            return None
        session = Session(jid, NOWHERE)
        if available:
            session.priority = 0
        session.directed = targets or None
        self._note(jid, None, False)
        return session


def _write(enter: list[tuple[str, int, str]], delete: list[tuple[str]], c: Cursor) -> None:
    if delete:
        c.many(_DELETE, delete)
    if enter:
        c.many(_ENTER, enter)


def _not_written(error: Exception) -> None:
    log.warning("visible_sessions_not_written", error=repr(error))


def _page(after: str, c: Cursor) -> list[tuple[str, int, str]]:
    rows = c.rows(
        "SELECT jid, available, directed FROM presence_visible WHERE jid > ? ORDER BY jid LIMIT ?", after, PAGE
    )
    return [(str(jid), int(available), str(directed)) for jid, available, directed in rows]
