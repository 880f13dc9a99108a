"""Lists of addresses that may not, or that alone may, communicate with this server (XEP-0133 §4.11, §4.12).

They hold in both directions, for users, rooms and everything else served here. An entry is an address of any form;
like in privacy lists (XEP-0016 §2.1) `user@host/resource`, `user@host`, `host/resource` and `host` match exactly that
much. What is barred is dropped when it comes from elsewhere, and refused when it comes from a client of ours.
Not here: what a user blocks for themselves, and which domains federation talks to at all (`[s2s] policy`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import structlog

from beamish.core import events
from beamish.core.commands import ADMIN, Caller, Param
from beamish.core.events import Context
from beamish.core.hooks import STOP, Outcome, Row
from beamish.core.module import Module, ModuleConfig, Xep, command
from beamish.storage.api import Cursor, Migration
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID

log = structlog.get_logger(__name__)

MAX_ENTRIES: Final = 100_000
"""Addresses in one list."""
BLACK: Final = "black"
WHITE: Final = "white"


class Config(ModuleConfig):
    """The lists are kept in the database and edited by command."""


class AccessModule(Module):
    """Keeps the two lists and holds everybody to them."""

    name = "access"
    Config = Config
    xeps = (Xep(133, "1.3.1"),)
    migrations = (
        Migration(1, ("CREATE TABLE access_list (kind TEXT NOT NULL, jid TEXT NOT NULL, PRIMARY KEY (kind, jid))",)),
    )

    async def start(self) -> None:
        """Load the lists; as long as both are empty nothing is looked at."""
        rows = await self.db.fetch("SELECT kind, jid FROM access_list")
        self._lists: dict[str, frozenset[str]] = {
            kind: frozenset(jid for k, jid in rows if k == kind) for kind in (BLACK, WHITE)
        }
        self._hook_in()

    def _hook_in(self) -> None:
        hooks = self.kernel.hooks
        hooks.remove(self.name)
        if any(self._lists.values()):
            # first of all: nobody else is to act on what is barred
            hooks[events.inbound].add(Row(1, self.name, self._from_client))
            hooks[events.entering].add(Row(1, self.name, self._from_elsewhere))
            hooks[events.remote].add(Row(1, self.name, self._to_elsewhere))

    # ---- the decision -----------------------------------------------------------------------------------------------

    def barred(self, jid: JID) -> bool:
        """Whether this address may not communicate with the server."""
        if jid in self.kernel.admins or jid.bare in self.kernel.admins:
            return False
        forms = (jid, jid.bare, jid.domain) if not jid.resource else (jid, jid.bare, _host(jid), jid.domain)
        black, white = self._lists[BLACK], self._lists[WHITE]
        if black and any(form in black for form in forms):
            return True
        if not white or self.kernel.is_local_domain(jid.domain) or self.kernel.router.serves(jid.domain):
            return False
        return not any(form in white for form in forms)

    def _from_client(self, ctx: Context) -> Outcome:
        stanza = ctx.stanza
        assert stanza.sender is not None
        to = stanza.to
        if self.barred(stanza.sender) and to is not None and to.bare != stanza.sender.bare:
            raise StanzaError(Condition.NOT_ALLOWED, text="you may not communicate with others here")
        if to is not None and to.domain != stanza.sender.domain and self.barred(to):
            raise StanzaError(Condition.NOT_ALLOWED, text="this server does not communicate with that address")
        if to is not None and to.local and to.bare != stanza.sender.bare and self.barred(to):
            raise StanzaError(Condition.NOT_ALLOWED, text="this server does not communicate with that address")
        return None

    def _from_elsewhere(self, ctx: Context) -> Outcome:
        sender = ctx.stanza.sender
        return STOP if sender is not None and self.barred(sender) else None

    def _to_elsewhere(self, ctx: Context) -> Outcome:
        to = ctx.stanza.to
        return STOP if to is not None and self.barred(to) else None

    # ---- commands ---------------------------------------------------------------------------------------------------

    def blacklist_now(self, _caller: Caller) -> dict[str, Any]:
        """What the form of `blacklist.set` begins with."""
        return {"jids": sorted(self._lists[BLACK])}

    @command(
        "blacklist.set",
        "Say who may not communicate with this server",
        node=f"{ADMIN}#edit-blacklist",
        form_type=ADMIN,
        prefill="blacklist_now",
    )
    async def set_blacklist(
        self, jids: Annotated[list[JID] | None, Param("The blacklist", var="blacklistjids")] = None
    ) -> dict[str, Any]:
        """Replace the list; nothing empties it."""
        barred = jids or []
        if any(jid in self.kernel.domains or self.kernel.router.serves(jid) for jid in barred):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="this server cannot bar itself")
        if any(jid.bare in self.kernel.admins for jid in barred):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="an administrator cannot be barred")
        return await self._set(BLACK, barred)

    @command("blacklist.list", "Show who may not communicate with this server")
    def blacklist(self) -> dict[str, Any]:
        """The blacklist."""
        return {"jids": sorted(self._lists[BLACK])}

    def whitelist_now(self, _caller: Caller) -> dict[str, Any]:
        """What the form of `whitelist.set` begins with."""
        return {"jids": sorted(self._lists[WHITE])}

    @command(
        "whitelist.set",
        "Say who alone may communicate with this server",
        node=f"{ADMIN}#edit-whitelist",
        form_type=ADMIN,
        prefill="whitelist_now",
    )
    async def set_whitelist(
        self, jids: Annotated[list[JID] | None, Param("The whitelist", var="whitelistjids")] = None
    ) -> dict[str, Any]:
        """Replace the list; an empty one means everybody."""
        return await self._set(WHITE, jids or [])

    @command("whitelist.list", "Show who alone may communicate with this server")
    def whitelist(self) -> dict[str, Any]:
        """The whitelist; an empty one means everybody."""
        return {"jids": sorted(self._lists[WHITE])}

    async def _set(self, kind: str, jids: list[JID]) -> dict[str, Any]:
        if len(jids) > MAX_ENTRIES:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"a list has at most {MAX_ENTRIES} entries")
        entries = frozenset(str(jid) for jid in jids)

        def txn(c: Cursor) -> None:
            c.run("DELETE FROM access_list WHERE kind = ?", kind)
            c.many("INSERT INTO access_list (kind, jid) VALUES (?, ?)", [(kind, jid) for jid in sorted(entries)])

        await self.db.write("access.set", txn)
        self._lists[kind] = entries
        self._hook_in()
        log.info("access_list_set", kind=kind, entries=len(entries))
        return {"jids": sorted(entries)}


def _host(jid: JID) -> str:
    return f"{jid.domain}/{jid.resource}"
