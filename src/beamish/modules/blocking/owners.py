"""Whose lists are in memory, and every change of them.

That an account has lists is known of all accounts (about 100 bytes for each that has some), so that nobody else ever pays
for the question. The lists themselves are in memory for accounts with sessions and for those asked about of late.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from beamish.core.later import is_later
from beamish.core.services import Roster, RosterService, SessionKeeper
from beamish.core.sessions import Session
from beamish.modules.blocking import store
from beamish.modules.blocking.effects import settle
from beamish.modules.blocking.rules import PrivacyList
from beamish.modules.blocking.store import Lists
from beamish.storage.api import Cursor, StorageBusy
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

OTHERS: Final = 2000
"""Accounts without sessions whose lists stay in memory."""
ACTIVE: Final = "privacy.active"
"""The note of a session that names its active list."""


class Owners:
    """The lists of all accounts."""

    def __init__(self, kernel: Kernel, rosters: RosterService) -> None:
        self._kernel = kernel
        self._rosters = rosters
        self._known: dict[str, Lists | None] = {}
        self.known = MappingProxyType(self._known)
        """Who has lists; the lists, if they are in memory. For looking up without a call."""
        self.some: Callable[[bool], None] = lambda some: None
        """Called when the first list of the server is made, and when the last one goes."""
        self._others: OrderedDict[str, None] = OrderedDict()
        self._edits = asyncio.Lock()

    def __contains__(self, user: str) -> bool:
        return user in self._known

    async def start(self) -> None:
        """Learn who has lists."""
        self._known.update(dict.fromkeys(await self._kernel.db.read("blocking.owners", store.owners)))
        self.some(bool(self._known))

    def peek(self, user: JID) -> Lists | None:
        """The lists of an account that has some, if they are in memory."""
        return self._known.get(user)

    def of(self, user: JID) -> Lists | Awaitable[Lists]:
        """The lists of an account; at once if they are in memory or there are none."""
        if user not in self._known:
            return Lists()
        lists = self._known[user]
        return self._load(user) if lists is None else lists

    async def _load(self, user: JID) -> Lists:
        lists = await self._kernel.db.read("blocking.load", lambda cursor: store.load(cursor, str(user)))
        known = self._known.get(user, lists)
        if known is not None and known is not lists:
            return known  # somebody was faster
        if user not in self._known:
            return Lists()  # removed meanwhile
        self._known[user] = lists
        self._use(user)
        return lists

    def _use(self, user: JID) -> None:
        """Lists of accounts without sessions leave memory, oldest first."""
        if user in self._kernel.sessions.by_user:
            return
        self._others[user] = None
        self._others.move_to_end(user)
        while len(self._others) > OTHERS:
            oldest, _ = self._others.popitem(last=False)
            if oldest in self._known and oldest not in self._kernel.sessions.by_user:
                self._known[oldest] = None

    async def bound(self, session: Session) -> None:
        """A session of an account with lists began: they stay in memory as long as it lasts."""
        session.guarded = True
        self._others.pop(session.bare, None)
        lists = self.of(session.bare)
        if is_later(lists):
            await lists

    def closed(self, session: Session) -> None:
        """A session ended."""
        if session.bare in self._known and session.bare not in self._kernel.sessions.by_user:
            self._use(session.bare)

    def forget(self, user: JID) -> None:
        """An account is gone."""
        self._known.pop(user, None)
        self._others.pop(user, None)
        self.some(bool(self._known))

    async def roster(self, user: JID) -> Roster:
        """The roster of a local account."""
        found = self._rosters.roster(user)
        return await found if is_later(found) else found

    # ---- changes ----------------------------------------------------------------------------------------------------

    async def edit(
        self,
        user: JID,
        change: Callable[[Lists], None],
        acknowledged: Callable[[], None],
        keep: Callable[[Cursor], None] | None = None,
    ) -> Lists:
        """Change the lists of an account: `change` works on a copy (it may raise `StanzaError`), which is then stored.

        `keep` stores in the same transaction what belongs to the change. `acknowledged` is called when the new rules are
        stored and in force, before what follows from them for presence.
        Returns the lists as they were before.
        """
        async with self._edits:  # seldom enough for one at a time
            known = self.of(user)
            before = await known if is_later(known) else known
            after = before.copy()
            change(after)

            def put(cursor: Cursor) -> None:
                store.save(cursor, str(user), before, after)
                if keep is not None:
                    keep(cursor)

            try:
                await self._kernel.db.write("blocking.save", put)
            except StorageBusy as error:
                raise StanzaError(Condition.RESOURCE_CONSTRAINT) from error
            sessions = self._kernel.sessions.of(user).all
            was = [(session, effective(before, session)) for session in sessions]
            if after.by_name:
                self._known[user] = after
            else:
                self._known.pop(user, None)
            self.some(bool(self._known))
            for session in sessions:
                session.guarded = bool(after.by_name)
                if session.note(ACTIVE) is not None and session.note(ACTIVE) not in after.by_name:
                    session.notes.pop(ACTIVE)
            acknowledged()
            changes = [(session, old, effective(after, session)) for session, old in was]
        await settle(self._kernel, changes, await self.roster(user))
        return before

    async def activate(
        self, session: Session, name: str | None, in_force: Callable[[], None], acknowledged: Callable[[], None]
    ) -> None:
        """Make a list the active one of a session, or none. Raises `StanzaError(item-not-found)`.

        `in_force` is called as soon as it applies; `acknowledged` when the choice will outlive the server, if the session does.
        """
        async with self._edits:  # else another session may be about to remove the list, and this one would count on it
            known = self.of(session.bare)
            lists = await known if is_later(known) else known
            if name is not None and name not in lists.by_name:
                raise StanzaError(Condition.ITEM_NOT_FOUND)
            before = effective(lists, session)
            if name is None:
                session.notes.pop(ACTIVE, None)
            else:
                session.notes[ACTIVE] = name
            after = effective(lists, session)
            in_force()
        # whoever removes the list from now on finds it in use; others need not wait for this commit
        keeper = self._kernel.service_or_none(SessionKeeper)
        if keeper is not None:
            keeper.changed(session)
            await self._kernel.db.write("blocking.active", lambda _: None)  # what is kept shares its commit
        acknowledged()
        await settle(self._kernel, [(session, before, after)], await self.roster(session.bare))


def effective(lists: Lists | None, session: Session | None) -> PrivacyList | None:
    """The list that applies to a session: its active one, else the default; None if none does.

    Without a session, the default list (XEP-0016 §2.2 rule 2).
    """
    if lists is None:
        return None
    active = session.note(ACTIVE) if session is not None else None
    name = active if isinstance(active, str) and active in lists.by_name else lists.default
    return lists.by_name.get(name)
