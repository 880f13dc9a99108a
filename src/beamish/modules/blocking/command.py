"""XEP-0191: the blocking command, a view of the default privacy list (§5), with reports (XEP-0377)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core.events import Context
from beamish.core.later import is_later
from beamish.core.sessions import Session
from beamish.modules.blocking.owners import Owners
from beamish.modules.blocking.reports import Reports, report_of
from beamish.modules.blocking.rules import PrivacyList, blocking, unblocking
from beamish.modules.blocking.store import Lists
from beamish.storage.api import Cursor
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import IQ, Stanza
from beamish.xmpp.xml import Element, make

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

log = structlog.get_logger(__name__)

BLOCKING: Final = "urn:xmpp:blocking"
ITEM: Final = f"{{{BLOCKING}}}item"
INTERESTED: Final = "blocking.interested"
"""The note of a session that has asked for the blocklist."""
LIST_NAME: Final = "blocked"
"""The default list that the first block makes."""


class Command:
    """Answers `urn:xmpp:blocking`."""

    def __init__(self, kernel: Kernel, owners: Owners, reports: Reports, max_items: int) -> None:
        self._kernel = kernel
        self._owners = owners
        self._reports = reports
        self._max_items = max_items
        self.list_changed: Callable[[JID, str], None] = lambda user, name: None
        """Called with the name of the default list when it has changed."""

    async def fetch(self, session: Session, ctx: Context) -> Stanza:
        """The blocklist (§3.2); from now on the session gets pushes."""
        known = self._owners.of(session.bare)
        lists = await known if is_later(known) else known
        session.notes[INTERESTED] = True
        return ctx.stanza.reply(_items("blocklist", blocklist(lists)))

    async def block(self, session: Session, ctx: Context) -> None:
        """Block addresses (§3.3); answers by itself, after the commit."""
        user = session.bare
        items = list(ctx.stanza.el[0])
        addresses = _addresses(items)
        if not addresses:
            raise StanzaError(Condition.BAD_REQUEST, text="block whom?")
        if str(user) in addresses:
            raise StanzaError(Condition.NOT_ALLOWED, text="this is your own address")
        given = ((address, report_of(item)) for address, item in zip(addresses, items, strict=True))
        reports = [(address, report) for address, report in given if report is not None]

        def change(lists: Lists) -> None:
            if not lists.default:
                lists.default = _free_name(lists)
                lists.by_name[lists.default] = PrivacyList(())
            rules = blocking(lists.by_name[lists.default].rules, addresses)
            if len(rules) > self._max_items:
                raise StanzaError(Condition.RESOURCE_CONSTRAINT, text=f"at most {self._max_items} addresses")
            lists.by_name[lists.default] = PrivacyList(rules)

        def acknowledged() -> None:
            self._kernel.iq.answer_early(ctx, ctx.stanza.reply())
            self._push(user, _items("block", dict.fromkeys(addresses)))

        def keep(cursor: Cursor) -> None:
            for address, report in reports:
                self._reports.put(cursor, user, address, report)

        await self._owners.edit(user, change, acknowledged, keep)
        for address, report in reports:
            log.info("abuse_reported", reporter=str(user), jid=address, reason=report.reason)
        self._tell_list_changed(user)

    async def unblock(self, session: Session, ctx: Context) -> None:
        """Unblock addresses, or all (§3.4, §3.5); answers by itself, after the commit."""
        user = session.bare
        addresses = _addresses(ctx.stanza.el[0])

        def change(lists: Lists) -> None:
            if lists.default:
                rules = unblocking(lists.by_name[lists.default].rules, addresses or None)
                if rules:
                    lists.by_name[lists.default] = PrivacyList(rules)
                else:
                    del lists.by_name[lists.default]
                    lists.default = ""

        def acknowledged() -> None:
            self._kernel.iq.answer_early(ctx, ctx.stanza.reply())
            self._push(user, _items("unblock", dict.fromkeys(addresses)))

        await self._owners.edit(user, change, acknowledged)
        self._tell_list_changed(user)

    def follow(self, user: JID, before: Lists) -> None:
        """The lists were edited by the other protocol: tell what that changed in the blocklist (§5)."""
        was, now = set(blocklist(before)), set(blocklist(self._owners.peek(user) or Lists()))
        if now - was:
            self._push(user, _items("block", sorted(now - was)))
        if was - now:
            self._push(user, _items("unblock", sorted(was - now)))

    def _push(self, user: JID, content: Element) -> None:
        for session in self._kernel.sessions.of(user).all:
            if session.note(INTERESTED):
                id_ = f"bl{secrets.token_hex(5)}"
                session.send(Stanza.build(IQ, "set", id=id_, to=session.jid, content=content))

    def _tell_list_changed(self, user: JID) -> None:
        self.list_changed(user, (self._owners.peek(user) or Lists()).default or LIST_NAME)


def blocklist(lists: Lists) -> tuple[str, ...]:
    """The blocked addresses of an account."""
    return lists.by_name[lists.default].blocked() if lists.default else ()


def _free_name(lists: Lists) -> str:
    name, number = LIST_NAME, 1
    while name in lists.by_name:
        number += 1
        name = f"{LIST_NAME} {number}"
    return name


def _items(name: str, addresses: Iterable[str]) -> Element:
    return make(f"{{{BLOCKING}}}{name}", None, *(make(ITEM, {"jid": address}) for address in addresses))


def _addresses(items: Iterable[Element]) -> list[str]:
    found = []
    for item in items:
        if item.tag != ITEM:
            raise StanzaError(Condition.BAD_REQUEST)
        try:
            found.append(str(JID.parse(item.get("jid", ""))))
        except JidMalformed as error:
            raise StanzaError(Condition.JID_MALFORMED, text=str(error)) from error
    return found
