"""Announcements, the message of the day and the welcome message (XEP-0133 §4.25 to §4.30).

All are messages of the domain. The message of the day reaches every user once, when they come online or at once; who had
it is kept across restarts. The welcome message reaches every new account at its first presence.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import structlog

from beamish.core import events
from beamish.core.commands import ADMIN, Caller, Kind, Param
from beamish.core.events import AccountEvent, Context, PresenceChanged
from beamish.core.kernel import new_id
from beamish.core.later import unhurried
from beamish.core.module import Module, ModuleConfig, command, on
from beamish.core.services import AccountsService
from beamish.core.sessions import Session
from beamish.storage.api import Cursor, Migration
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import MESSAGE, Stanza
from beamish.xmpp.xml import escape_text, xml_safe

log = structlog.get_logger(__name__)

MAX_BYTES: Final = 10_000
"""Longest text, in bytes."""
_SLICE: Final = 200
"""Users who are told before everybody else has a turn."""
MOTD: Final = "motd"
WELCOME: Final = "welcome"

Text = Annotated[str, Param("Text", kind=Kind.LINES)]
Announcement = Annotated[str, Param("Announcement", kind=Kind.LINES)]
Subject = Annotated[str, Param("Subject")]
Domain = Annotated[str | None, Param("Only this domain", console=True)]


class Config(ModuleConfig):
    """Announcements have no options."""


class AnnounceModule(Module):
    """Tells users what the administrators have to say."""

    name = "announce"
    Config = Config
    requires = (AccountsService,)
    migrations = (
        Migration(
            1,
            (
                "CREATE TABLE announce_text (domain TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, "
                "edition TEXT NOT NULL, PRIMARY KEY (domain, kind))",
                "CREATE TABLE announce_seen (jid TEXT PRIMARY KEY, edition TEXT NOT NULL)",
                "CREATE TABLE announce_new (jid TEXT PRIMARY KEY)",
            ),
        ),
    )

    async def start(self) -> None:
        """Load the texts, and who has not been welcomed yet."""
        self._accounts = self.kernel.service(AccountsService)
        rows = await self.db.fetch("SELECT domain, kind, text, edition FROM announce_text")
        self._texts: dict[tuple[str, str], tuple[str, str]] = {(d, k): (text, edition) for d, k, text, edition in rows}
        self._new: set[str] = {jid for (jid,) in await self.db.fetch("SELECT jid FROM announce_new")}

    # ---- who gets what, and when ------------------------------------------------------------------------------------

    @on(events.account_added)
    async def account_added(self, event: AccountEvent) -> None:
        """Remember to welcome the new account."""
        if (event.user.domain, WELCOME) in self._texts:
            self._new.add(event.user)
            put = "INSERT INTO announce_new (jid) VALUES (?) ON CONFLICT (jid) DO NOTHING"
            await self.db.write("announce.new", lambda c: c.run(put, str(event.user)))

    @on(events.account_removed)
    async def account_removed(self, event: AccountEvent) -> None:
        """Whoever gets the name next is a new user."""
        self._new.discard(event.user)

        def txn(c: Cursor) -> None:
            c.run("DELETE FROM announce_new WHERE jid = ?", str(event.user))
            c.run("DELETE FROM announce_seen WHERE jid = ?", str(event.user))

        await self.db.write("announce.account_removed", txn)

    @on(events.presence_changed)
    def presence_changed(self, event: PresenceChanged) -> None:
        """A resource came online that takes messages: what it has to be told, if anything."""
        session = event.session
        if not event.initial or not _listening(session):
            return
        if session.bare in self._new:
            self._new.discard(session.bare)
            self.db.append("announce.welcomed", "DELETE FROM announce_new WHERE jid = ?", (str(session.bare),))
            found = self._texts.get((session.bare.domain, WELCOME))
            if found is not None:
                session.send(_message("normal", "Welcome", found[0], session.jid))
        if (session.bare.domain, MOTD) in self._texts and not session.anonymous:
            self.tasks.spawn(self._motd(session), "motd")

    async def _motd(self, session: Session) -> None:
        """Give the message of the day to somebody who has not had it."""
        current = self._texts.get((session.bare.domain, MOTD))
        if current is None:
            return
        text, edition = current

        def txn(c: Cursor) -> bool:
            if c.value("SELECT edition FROM announce_seen WHERE jid = ?", str(session.bare)) == edition:
                return False
            _saw(c, session.bare, edition)
            return True

        if await self.db.write("announce.motd", txn):
            session.send(_message("headline", "Message of the day", text, session.jid))

    # ---- announcements ----------------------------------------------------------------------------------------------

    @command("announce.online", "Tell everybody who is online", node=f"{ADMIN}#announce", form_type=ADMIN, live=True)
    async def online(
        self,
        caller: Caller,
        announcement: Announcement,
        subject: Subject = "Announcement",
        domain: Domain = None,
    ) -> dict[str, int]:
        """A headline to every available resource."""
        checked = _checked(announcement)
        wanted = domain or caller.domain
        told = 0
        async for session in unhurried(self.kernel.sessions):
            if session.available and (not wanted or session.bare.domain == wanted):
                told += session.send(_message("headline", subject, checked, session.jid))
        return {"sessions": told}

    @command("announce.all", "Tell every user, also those who are away")
    async def everybody(
        self,
        caller: Caller,
        announcement: Announcement,
        subject: Subject = "Announcement",
        domain: Domain = None,
    ) -> dict[str, int]:
        """A message to every account, kept for those who are offline."""
        checked = _checked(announcement)
        at = domain or caller.domain or None
        told, after = 0, None
        # a slice is stored before the next one is begun: neither tasks nor rows pile up
        while users := await self._accounts.list(at, after=after, limit=_SLICE):
            await asyncio.gather(*(self._tell(_message("normal", subject, checked, user)) for user in users))
            await self.db.flushed()
            told, after = told + len(users), users[-1]
        return {"accounts": told}

    async def _tell(self, message: Stanza) -> None:
        rest = self.kernel.router.route(Context(message))
        if rest is not None:
            await rest

    # ---- message of the day -----------------------------------------------------------------------------------------

    @command("motd.set", "Set the message of the day", node=f"{ADMIN}#set-motd", form_type=ADMIN)
    async def set_motd(self, caller: Caller, motd: Text, domain: Domain = None) -> dict[str, Any]:
        """Everybody gets it: who is online at once, the others when they come."""
        domains = self._domains(caller, domain)
        await self._set(domains, MOTD, motd, new_id())
        listening = [s for s in self.kernel.sessions if s.bare.domain in domains and _listening(s) and not s.anonymous]
        for at in range(0, len(listening), _SLICE):
            await asyncio.gather(*(self._motd(session) for session in listening[at : at + _SLICE]))
        return {"domains": domains}

    def motd_now(self, caller: Caller) -> dict[str, Any]:
        """What the form of `motd.edit` begins with."""
        return self._now(caller, MOTD)

    @command("motd.edit", "Edit the message of the day", node=f"{ADMIN}#edit-motd", form_type=ADMIN, prefill="motd_now")
    async def edit_motd(self, caller: Caller, motd: Text, domain: Domain = None) -> dict[str, Any]:
        """Change its text; who has had it does not get it again."""
        domains = [d for d in self._domains(caller, domain) if (d, MOTD) in self._texts]
        if not domains:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no message of the day")
        for each in domains:
            await self._set([each], MOTD, motd, self._texts[each, MOTD][1])
        return {"domains": domains}

    @command("motd.delete", "Delete the message of the day", node=f"{ADMIN}#delete-motd", form_type=ADMIN)
    async def delete_motd(self, caller: Caller, domain: Domain = None) -> dict[str, Any]:
        """Nobody gets it any more."""
        return await self._delete(self._domains(caller, domain), MOTD)

    # ---- welcome message --------------------------------------------------------------------------------------------

    def welcome_now(self, caller: Caller) -> dict[str, Any]:
        """What the form of `welcome.set` begins with."""
        return self._now(caller, WELCOME)

    @command(
        "welcome.set", "Set the welcome message", node=f"{ADMIN}#set-welcome", form_type=ADMIN, prefill="welcome_now"
    )
    async def set_welcome(self, caller: Caller, welcome: Text, domain: Domain = None) -> dict[str, Any]:
        """Accounts made from now on get it when they first come online."""
        domains = self._domains(caller, domain)
        await self._set(domains, WELCOME, welcome, new_id())
        return {"domains": domains}

    @command("welcome.delete", "Delete the welcome message", node=f"{ADMIN}#delete-welcome", form_type=ADMIN)
    async def delete_welcome(self, caller: Caller, domain: Domain = None) -> dict[str, Any]:
        """Nobody gets it any more."""
        return await self._delete(self._domains(caller, domain), WELCOME)

    # ---- the texts --------------------------------------------------------------------------------------------------

    def _domains(self, caller: Caller, domain: str | None) -> list[str]:
        wanted = domain or caller.domain
        if wanted and not self.kernel.is_local_domain(wanted):
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"{wanted} is not a domain of this server")
        return [wanted] if wanted else list(self.kernel.domains)

    def _now(self, caller: Caller, kind: str) -> dict[str, Any]:
        texts = (self._texts.get((d, kind)) for d in self._domains(caller, None))
        return {kind: next((found[0] for found in texts if found is not None), None)}

    async def _set(self, domains: list[str], kind: str, text: str, edition: str) -> None:
        checked = _checked(text)
        put = (
            "INSERT INTO announce_text (domain, kind, text, edition) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (domain, kind) DO UPDATE SET text = excluded.text, edition = excluded.edition"
        )
        rows = [(domain, kind, checked, edition) for domain in domains]
        await self.db.write("announce.set", lambda c: c.many(put, rows))
        self._texts.update({(domain, kind): (checked, edition) for domain in domains})
        log.info("announcement_set", kind=kind, domains=domains)

    async def _delete(self, domains: list[str], kind: str) -> dict[str, Any]:
        def txn(c: Cursor) -> None:
            for domain in domains:
                c.run("DELETE FROM announce_text WHERE domain = ? AND kind = ?", domain, kind)

        await self.db.write("announce.delete", txn)
        for domain in domains:
            self._texts.pop((domain, kind), None)
        return {"domains": domains}


def _listening(session: Session) -> bool:
    return session.priority is not None and session.priority >= 0


def _checked(text: str) -> str:
    if not text.strip() or len(text.encode()) > MAX_BYTES:
        raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"a text of at most {MAX_BYTES} bytes is wanted")
    return xml_safe(text)


def _message(type_: str, subject: str, text: str, to: JID) -> Stanza:
    content = f"<subject>{escape_text(xml_safe(subject))}</subject><body>{escape_text(text)}</body>"
    return Stanza.build(MESSAGE, type_, id=new_id(), sender=JID.of("", to.domain), to=to, content=content.encode())


def _saw(c: Cursor, user: JID, edition: str) -> None:
    put = "INSERT INTO announce_seen (jid, edition) VALUES (?, ?) ON CONFLICT (jid) DO UPDATE SET edition = excluded.edition"
    c.run(put, str(user), edition)
