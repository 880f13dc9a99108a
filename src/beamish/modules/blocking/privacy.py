"""XEP-0016 §2.3 to §2.8: privacy lists as clients read and write them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from beamish.core.events import Context
from beamish.core.later import is_later
from beamish.core.sessions import Session
from beamish.modules.blocking.owners import ACTIVE, Owners
from beamish.modules.blocking.rules import PRIVACY, PrivacyList, Rule
from beamish.modules.blocking.store import Lists
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import IQ, Stanza
from beamish.xmpp.xml import Element, make

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

LIST: Final = f"{{{PRIVACY}}}list"
USED: Final = "privacy.used"
"""The note of a session that has used this protocol."""
MAX_NAME_LENGTH: Final = 256


class Privacy:
    """Answers `jabber:iq:privacy`."""

    def __init__(self, kernel: Kernel, owners: Owners, max_lists: int, max_items: int) -> None:
        self._kernel = kernel
        self._owners = owners
        self._max_lists = max_lists
        self._max_items = max_items
        self.activated: Callable[[Session], None] = lambda session: None
        """Called when a session's active list has changed."""
        self.changed: Callable[[JID, Lists], None] = lambda user, before: None
        """Called with the lists as they were when the default list may have changed."""

    async def get(self, session: Session, ctx: Context) -> Stanza:
        """Names of all lists, or one list (§2.3)."""
        session.notes[USED] = True
        asked = list(ctx.stanza.el[0])
        known = self._owners.of(session.bare)
        lists = await known if is_later(known) else known
        if not asked:
            query = make(f"{{{PRIVACY}}}query")
            active = session.note(ACTIVE)
            if isinstance(active, str):
                query.append(make(f"{{{PRIVACY}}}active", {"name": active}))
            if lists.default:
                query.append(make(f"{{{PRIVACY}}}default", {"name": lists.default}))
            for name in lists.by_name:
                query.append(make(LIST, {"name": name}))
            return ctx.stanza.reply(query)
        if len(asked) != 1 or asked[0].tag != LIST:
            raise StanzaError(Condition.BAD_REQUEST, text="one list at a time")
        name = asked[0].get("name", "")
        found = lists.by_name.get(name)
        if found is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND)
        session.charge(len(found.rules))
        items = [rule.to_xml() for rule in found.rules]
        return ctx.stanza.reply(make(f"{{{PRIVACY}}}query", None, make(LIST, {"name": name}, *items)))

    async def set(self, session: Session, ctx: Context) -> None:
        """Choose the active or default list, or edit a list; answers by itself."""
        session.notes[USED] = True
        asked = list(ctx.stanza.el[0])
        if len(asked) != 1:
            raise StanzaError(Condition.BAD_REQUEST, text="one thing at a time")
        el = asked[0]
        if el.tag == f"{{{PRIVACY}}}active":
            await self._set_active(session, ctx, el.get("name"))
        elif el.tag == f"{{{PRIVACY}}}default":
            await self._set_default(session, ctx, el.get("name") or "")
        elif el.tag == LIST:
            await self._set_list(session, ctx, el)
        else:
            raise StanzaError(Condition.BAD_REQUEST)

    def _done(self, ctx: Context) -> None:
        self._kernel.iq.answer_early(ctx, ctx.stanza.reply())

    async def _set_active(self, session: Session, ctx: Context, name: str | None) -> None:
        await self._owners.activate(session, name, lambda: self.activated(session), lambda: self._done(ctx))

    async def _set_default(self, session: Session, ctx: Context, name: str) -> None:
        def change(lists: Lists) -> None:
            if name and name not in lists.by_name:
                raise StanzaError(Condition.ITEM_NOT_FOUND)
            if lists.default and lists.default != name and self._used_by_others(session):
                raise StanzaError(Condition.CONFLICT)
            lists.default = name

        before = await self._owners.edit(session.bare, change, lambda: self._done(ctx))
        self.changed(session.bare, before)

    async def _set_list(self, session: Session, ctx: Context, el: Element) -> None:
        name = el.get("name", "")
        if not 0 < len(name) <= MAX_NAME_LENGTH:
            raise StanzaError(Condition.BAD_REQUEST, text="a list has a name")
        rules = [Rule.from_xml(item) for item in el]
        if len({rule.order for rule in rules}) < len(rules):
            raise StanzaError(Condition.BAD_REQUEST, text="two items of the same order")
        if len(rules) > self._max_items:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text=f"at most {self._max_items} items")
        session.charge(len(rules))
        await self._check_groups(session.bare, rules)

        def change(lists: Lists) -> None:
            if rules:
                if name not in lists.by_name and len(lists.by_name) >= self._max_lists:
                    raise StanzaError(Condition.RESOURCE_CONSTRAINT, text=f"at most {self._max_lists} lists")
                lists.by_name[name] = PrivacyList(rules)
                return
            if name not in lists.by_name:
                raise StanzaError(Condition.ITEM_NOT_FOUND)
            others = [s for s in self._kernel.sessions.of(session.bare).all if s is not session]
            if any(s.note(ACTIVE) == name for s in others):
                raise StanzaError(Condition.CONFLICT)
            if lists.default == name:
                if self._used_by_others(session):
                    raise StanzaError(Condition.CONFLICT)
                lists.default = ""
            del lists.by_name[name]

        def acknowledged() -> None:
            self.activated(session)  # it may have been the active one
            self._done(ctx)
            self.push(session.bare, name)

        before = await self._owners.edit(session.bare, change, acknowledged)
        self.changed(session.bare, before)

    async def _check_groups(self, user: JID, rules: list[Rule]) -> None:
        """§2.1: a group that is not in the roster."""
        wanted = {rule.value for rule in rules if rule.type == "group"}
        if wanted:
            roster = await self._owners.roster(user)
            if wanted - {group for item in roster.items() if item.listed for group in item.groups}:
                raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such group in the roster")

    def _used_by_others(self, session: Session) -> bool:
        """Whether the default list applies to another connected session (§2.2 rule 11)."""
        return any(s is not session and s.note(ACTIVE) is None for s in self._kernel.sessions.of(session.bare).all)

    def push(self, user: JID, name: str) -> None:
        """Tell every session that a list has changed (§2.2 rule 10)."""
        self._push(name, self._kernel.sessions.of(user).all)

    def push_to_users(self, user: JID, name: str) -> None:
        """The same after the blocking command: only sessions that have used this protocol know what it means."""
        self._push(name, (s for s in self._kernel.sessions.of(user).all if s.note(USED)))

    def _push(self, name: str, sessions: Iterable[Session]) -> None:
        content = make(f"{{{PRIVACY}}}query", None, make(LIST, {"name": name}))
        for session in sessions:
            id_ = f"pl{secrets.token_hex(5)}"
            session.send(Stanza.build(IQ, "set", id=id_, to=session.jid, content=content))
