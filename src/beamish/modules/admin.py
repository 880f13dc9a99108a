"""XEP-0133: service administration.

Together with the commands on accounts (`accounts`), announcements (`announce`) and lists of addresses (`access`) these
are all thirty that are not retracted. As part of the catalogue they work as ad-hoc commands and on the command line alike.
A user counts as active who has a resource that is available and not away (`away`, `xa`), as idle who is online without.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import structlog

from beamish import __version__
from beamish.core import events
from beamish.core.clock import stamp
from beamish.core.commands import ADMIN, Caller, Kind, Outcome, Param
from beamish.core.events import AccountEvent, SessionEvent
from beamish.core.later import is_later, unhurried
from beamish.core.module import Module, ModuleConfig, Xep, command, on
from beamish.core.services import AccountsService, RosterService
from beamish.core.sessions import Session
from beamish.storage.api import Cursor, Migration
from beamish.stream.sasl import ALGORITHMS
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza
from beamish.xmpp.xml import escape_text, make, xml_safe

log = structlog.get_logger(__name__)

Limit = Literal["25", "50", "75", "100", "150", "200", "none"]
Domain = Annotated[str | None, Param("Only this domain", console=True)]
Account = Annotated[JID, Param("Accounts", var="accountjids", each=True)]
Delay = Annotated[
    int, Param("Seconds from now", kind=Kind.NUMBER, suggested=("0", "30", "60", "90", "120", "180", "240", "300"))
]
Announcement = Annotated[str | None, Param("Tell everybody who is online", kind=Kind.LINES)]
_SEEN = "INSERT INTO admin_login (jid, at) VALUES (?, ?) ON CONFLICT (jid) DO UPDATE SET at = excluded.at"
_AWAY = frozenset(("away", "xa"))
_ANNOUNCEMENT = 10_000
"""Longest text that is said to everybody, in bytes."""


class Config(ModuleConfig):
    """Administration has no options; administrators are named in `[server] admins`."""


class AdminModule(Module):
    """The commands of XEP-0133 on users, sessions, administrators and the server itself."""

    name = "admin"
    Config = Config
    xeps = (Xep(133, "1.3.1", note="all 30 commands that are not retracted"),)
    requires = (AccountsService, RosterService)
    migrations = (
        Migration(
            1,
            (
                "CREATE TABLE admin_login (jid TEXT PRIMARY KEY, at {timestamp} NOT NULL)",
                "CREATE TABLE admin_list (jid TEXT PRIMARY KEY)",
            ),
        ),
    )

    async def start(self) -> None:
        """Add the administrators that were made by command to those of the configuration."""
        self._accounts = self.kernel.service(AccountsService)
        self._rosters = self.kernel.service(RosterService)
        self._configured = self.kernel.admins
        rows = await self.db.fetch("SELECT jid FROM admin_list")
        self.kernel.admins = self._configured | {JID.parse(jid) for (jid,) in rows}

    async def stop(self) -> None:
        """Leave the kernel as it was."""
        self.kernel.admins = self._configured

    # ---- last login -------------------------------------------------------------------------------------------------

    @on(events.session_bound)
    def session_bound(self, event: SessionEvent) -> None:
        """Keep when an account was last logged in to."""
        if not event.session.anonymous:
            self.db.append("admin.login", _SEEN, (str(event.session.bare), self.kernel.clock.now()), lazy=True)

    @on(events.account_removed)
    async def account_removed(self, event: AccountEvent) -> None:
        """Nothing stays behind, least of all the powers of an administrator for whoever gets the name next."""
        user = event.user

        def txn(c: Cursor) -> None:
            c.run("DELETE FROM admin_login WHERE jid = ?", str(user))
            c.run("DELETE FROM admin_list WHERE jid = ?", str(user))

        await self.db.write("admin.account_removed", txn)
        if user not in self._configured:
            self.kernel.admins -= {user}

    # ---- one user ---------------------------------------------------------------------------------------------------

    @command("user.kick", "End sessions of a user", node=f"{ADMIN}#end-user-session", form_type=ADMIN, live=True)
    def kick(
        self, jid: Annotated[JID, Param("Accounts, or single sessions", var="accountjids", each=True)]
    ) -> dict[str, Any]:
        """Close all sessions of an account (bare address) or one of them (full address)."""
        if jid.resource:
            found = self.kernel.sessions.get(jid)
            sessions: tuple[Session, ...] = () if found is None else (found,)
        else:
            sessions = self.kernel.sessions.of(jid).all
        if not sessions:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"{jid} is not online")
        for session in sessions:
            session.outlet.close(
                StreamError(StreamErrorCondition.POLICY_VIOLATION, "closed by an administrator"), "kicked"
            )
        return {"jid": str(jid), "sessions": len(sessions)}

    @command("user.roster", "Show a user's contacts", node=f"{ADMIN}#get-user-roster", form_type=ADMIN)
    async def roster(self, jid: Account) -> Outcome:
        """The roster of an account; XEP-0133 §4.8 puts it into the form as it is."""
        await self._known(jid)
        found = self._rosters.roster(jid)
        roster = await found if is_later(found) else found
        query = make(f"{{{ns.ROSTER}}}query")
        contacts = []
        for item in sorted((i for i in roster.items() if i.listed), key=lambda i: str(i.jid)):
            attrs = {"jid": str(item.jid), "name": item.name or None, "subscription": item.subscription}
            groups = (make(f"{{{ns.ROSTER}}}group", None, group) for group in item.groups)
            query.append(make(f"{{{ns.ROSTER}}}item", attrs, *groups))
            contacts.append({k: v for k, v in attrs.items() if v} | {"groups": list(item.groups)})
        return Outcome({"jid": str(jid), "contacts": contacts}, query)

    @command("user.lastlogin", "Show when a user last logged in", node=f"{ADMIN}#get-user-lastlogin", form_type=ADMIN)
    async def lastlogin(self, jid: Account) -> dict[str, Any]:
        """Date and time (XEP-0082), nothing for one who never did."""
        await self._known(jid)
        at = await self.db.read(
            "admin.lastlogin", lambda c: c.value("SELECT at FROM admin_login WHERE jid = ?", str(jid))
        )
        return {"jid": str(jid), "lastlogin": None if at is None else stamp(at)}

    @command("user.stats", "Show a user's sessions and figures", node=f"{ADMIN}#user-stats", form_type=ADMIN)
    async def stats(self, jid: Annotated[JID, Param("The account", var="accountjid")]) -> dict[str, Any]:
        """Addresses, resources, size of the roster."""
        await self._known(jid)
        found = self._rosters.roster(jid)
        roster = await found if is_later(found) else found
        sessions = self.kernel.sessions.of(jid).all
        return {
            "jid": str(jid),
            "ipaddresses": sorted({s.peer.rpartition(":")[0].strip("[]") for s in sessions if s.peer}),
            "rostersize": len([item for item in roster.items() if item.listed]),
            "onlineresources": [s.jid.resource for s in sessions],
        }

    async def _known(self, user: JID) -> None:
        exists = self._accounts.exists(user)
        if user.resource or not (await exists if is_later(exists) else exists):
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"there is no account {user}")

    # ---- how many, and who ------------------------------------------------------------------------------------------

    def _online(self, caller: Caller, domain: str | None) -> dict[JID, bool]:
        """Who is online, and whether they are active."""
        wanted = domain or caller.domain
        found: dict[JID, bool] = {}
        for session in self.kernel.sessions:
            if not wanted or session.bare.domain == wanted:
                found[session.bare] = found.get(session.bare, False) or _active(session)
        return found

    @command("users.count", "Count accounts", node=f"{ADMIN}#get-registered-users-num", form_type=ADMIN)
    async def registered_num(self, caller: Caller, domain: Domain = None) -> dict[str, int]:
        """How many accounts there are."""
        return {"registeredusersnum": await self._accounts.count(domain or caller.domain or None)}

    @command("users.count-disabled", "Count locked accounts", node=f"{ADMIN}#get-disabled-users-num", form_type=ADMIN)
    def disabled_num(self, caller: Caller, domain: Domain = None) -> dict[str, int]:
        """How many accounts are locked."""
        return {"disabledusersnum": len(self._accounts.disabled(domain or caller.domain or None))}

    @command(
        "users.count-online", "Count users online", node=f"{ADMIN}#get-online-users-num", form_type=ADMIN, live=True
    )
    def online_num(self, caller: Caller, domain: Domain = None) -> dict[str, int]:
        """How many users have a session."""
        return {"onlineusersnum": len(self._online(caller, domain))}

    @command(
        "users.count-active", "Count active users", node=f"{ADMIN}#get-active-users-num", form_type=ADMIN, live=True
    )
    def active_num(self, caller: Caller, domain: Domain = None) -> dict[str, int]:
        """How many users are online and not away."""
        return {"activeusersnum": sum(self._online(caller, domain).values())}

    @command("users.count-idle", "Count idle users", node=f"{ADMIN}#get-idle-users-num", form_type=ADMIN, live=True)
    def idle_num(self, caller: Caller, domain: Domain = None) -> dict[str, int]:
        """How many users are online but away."""
        online = self._online(caller, domain)
        return {"idleusersnum": len(online) - sum(online.values())}

    @command("users.registered", "List accounts by number", node=f"{ADMIN}#get-registered-users-list", form_type=ADMIN)
    async def registered(
        self, caller: Caller, max_items: Limit = "none", domain: Domain = None
    ) -> dict[str, Sequence[str]]:
        """The accounts there are."""
        most = None if max_items == "none" else int(max_items)
        listed = await self._accounts.list(domain or caller.domain or None, limit=most)
        return {"registereduserjids": [str(user) for user in listed]}

    @command("users.disabled", "List locked accounts", node=f"{ADMIN}#get-disabled-users-list", form_type=ADMIN)
    def disabled(self, caller: Caller, max_items: Limit = "none", domain: Domain = None) -> dict[str, Sequence[str]]:
        """The accounts that are locked."""
        return {"disableduserjids": _up_to(max_items, self._accounts.disabled(domain or caller.domain or None))}

    @command("users.online", "List users online", node=f"{ADMIN}#get-online-users-list", form_type=ADMIN, live=True)
    def online(self, caller: Caller, max_items: Limit = "none", domain: Domain = None) -> dict[str, Sequence[str]]:
        """The users who have a session."""
        return {"onlineuserjids": _up_to(max_items, self._online(caller, domain))}

    @command("users.active", "List active users", node=f"{ADMIN}#get-active-users", form_type=ADMIN, live=True)
    def active(self, caller: Caller, max_items: Limit = "none", domain: Domain = None) -> dict[str, Sequence[str]]:
        """The users who are online and not away."""
        online = self._online(caller, domain)
        return {"activeuserjids": _up_to(max_items, (user for user, active in online.items() if active))}

    @command("users.idle", "List idle users", node=f"{ADMIN}#get-idle-users", form_type=ADMIN, live=True)
    def idle(self, caller: Caller, max_items: Limit = "none", domain: Domain = None) -> dict[str, Sequence[str]]:
        """The users who are online but away. The field has the name that XEP-0133 §4.23 gives it."""
        online = self._online(caller, domain)
        return {"activeuserjids": _up_to(max_items, (user for user, active in online.items() if not active))}

    # ---- administrators ---------------------------------------------------------------------------------------------

    def admins_now(self, _caller: Caller) -> dict[str, Any]:
        """What the form of `admins.set` begins with."""
        return {"jids": sorted(str(jid) for jid in self.kernel.admins)}

    @command("admins.list", "List administrators")
    def admins(self) -> list[dict[str, Any]]:
        """Administrators, and whether they are so by the configuration."""
        return [{"jid": str(jid), "configured": jid in self._configured} for jid in sorted(self.kernel.admins)]

    @command(
        "admins.set", "Say who are administrators", node=f"{ADMIN}#edit-admin", form_type=ADMIN, prefill="admins_now"
    )
    async def set_admins(
        self, jids: Annotated[list[JID], Param("Administrators", var="adminjids")], caller: Caller
    ) -> dict[str, Any]:
        """Replace the list. Those of the configuration stay administrators, and nobody takes the office from themselves."""
        wanted = frozenset(jids)
        if any(jid.resource or not jid.local for jid in wanted):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="administrators are accounts, as in me@example.org")
        if not self._configured <= wanted:
            raise StanzaError(
                Condition.NOT_ALLOWED, text=f"{min(self._configured - wanted)} is an administrator by the configuration"
            )
        if caller.jid is not None and caller.jid.bare not in wanted:
            raise StanzaError(Condition.NOT_ALLOWED, text="you would be no administrator any more")

        def txn(c: Cursor) -> None:
            c.run("DELETE FROM admin_list")
            c.many(
                "INSERT INTO admin_list (jid) VALUES (?)", [(str(jid),) for jid in sorted(wanted - self._configured)]
            )

        await self.db.write("admin.set_admins", txn)
        self.kernel.admins = wanted
        log.info("admins_set", admins=sorted(str(jid) for jid in wanted))
        return {"jids": sorted(str(jid) for jid in wanted)}

    # ---- the server -------------------------------------------------------------------------------------------------

    @command("server.status", "Tell how the server is", live=True)
    async def status(self) -> dict[str, Any]:
        """Its version, since when it runs, and how many accounts it has, users who are online, and sessions of theirs.

        Sessions that wait for their clients to come back are counted too; available ones have sent presence. Mechanisms that
        are not offered, because accounts that were imported have no keys for them, are named.
        """
        sessions = self.kernel.sessions
        lacking = [
            f"{domain}: {', '.join(f'SCRAM-{each}' for each in ALGORITHMS if each not in common)}"
            for domain in self.kernel.domains
            if len(common := self._accounts.algorithms(domain)) < len(ALGORITHMS)
        ]
        return {
            "version": __version__,
            "since": stamp(self.kernel.started),
            "domains": list(self.kernel.domains),
            "accounts": await self._accounts.count(),
            "users": len(sessions.by_user),
            "sessions": len(sessions),
            "available": sum([session.available async for session in unhurried(sessions)]),
            **({"not_offered": lacking} if lacking else {}),
        }

    @command("server.restart", "Restart the server", node=f"{ADMIN}#restart", form_type=ADMIN, live=True)
    async def restart(
        self,
        delay: Delay = 0,
        announcement: Announcement = None,
    ) -> dict[str, Any]:
        """Stop in good order and start anew with the configuration as it then stands; at most a day from now."""
        return await self._stop(True, delay, announcement)

    @command("server.shutdown", "Stop the server", node=f"{ADMIN}#shutdown", form_type=ADMIN, live=True)
    async def shutdown(
        self,
        delay: Delay = 0,
        announcement: Announcement = None,
    ) -> dict[str, Any]:
        """Stop in good order; at most a day from now."""
        return await self._stop(False, delay, announcement)

    async def _stop(self, again: bool, delay: int, announcement: str | None) -> dict[str, Any]:
        ask = self.kernel.ask_to_stop
        if ask is None:
            raise StanzaError(
                Condition.FEATURE_NOT_IMPLEMENTED, text="whoever runs this server has not provided for it"
            )
        if not 0 <= delay <= 86_400:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="delay: from 0 to 86400 seconds")
        if again and (obstacle := self.kernel.obstacle()):
            raise StanzaError(Condition.CONFLICT, text=f"not restarted: {obstacle}")
        if announcement:
            if len(announcement.encode()) > _ANNOUNCEMENT:
                raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"announcement: at most {_ANNOUNCEMENT} bytes")
            body = f"<body>{escape_text(xml_safe(announcement))}</body>".encode()
            async for session in unhurried(self.kernel.sessions):
                sender = JID.of("", session.bare.domain)
                session.send(Stanza.build(MESSAGE, "headline", sender=sender, to=session.jid, content=body))
        log.warning("stop_asked_for", restart=again, seconds=delay)
        self.kernel.clock.call_later(max(delay, 0.1), lambda: ask(again))  # whoever asked shall have an answer
        return {"restart": again, "delay": delay}


def _active(session: Session) -> bool:
    presence = session.presence
    return presence is not None and presence.text("{jabber:client}show") not in _AWAY


def _up_to(most: str, users: Iterable[JID]) -> list[str]:
    listed = sorted(str(user) for user in users)
    return listed if most == "none" else listed[: int(most)]
