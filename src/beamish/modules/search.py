"""XEP-0055: a directory of those users who want to be found.

Nobody is in it who has not put themselves there, with the command "Put me in the directory" (XEP-0050). It is asked at
our domains, with plain fields or a form; results come in pages (XEP-0059). Not here: entries from profiles.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field as Option

from beamish.core import events
from beamish.core.commands import Access, Caller, Param
from beamish.core.events import AccountEvent, Context
from beamish.core.module import Identity, Module, ModuleConfig, Scope, Xep, command, iq, on
from beamish.storage.api import Cursor, Migration
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload import forms
from beamish.xmpp.payload.forms import Field, Form, Submission
from beamish.xmpp.payload.rsm import Page, Request
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, make, xml_safe

SEARCH: Final = "jabber:iq:search"
QUERY: Final = f"{{{SEARCH}}}query"
_FIELDS: Final = {"first": "Given name", "last": "Family name", "nick": "Nickname", "email": "E-mail"}
_MAX_BYTES: Final = 200
"""Length of one entry's field, and of what is searched for."""
_HELP: Final = "Fill in one or more fields. * stands for anything; without one, the beginning is enough."


class Config(ModuleConfig):
    """Options of the user directory."""

    results: int = Option(50, ge=1, le=1000, description="Entries in one answer.")
    strangers: bool = Option(False, description="Whether users of other servers may search.")


class SearchModule(Module):
    """Keeps the directory and answers searches."""

    name = "search"
    Config = Config
    xeps = (Xep(55, "1.3"),)
    features = (SEARCH, ns.RSM)
    identities = (Identity("directory", "user", "User directory"),)
    migrations = (
        Migration(
            1,
            (
                "CREATE TABLE search_entry (jid TEXT PRIMARY KEY, domain TEXT NOT NULL, first TEXT NOT NULL, "
                "last TEXT NOT NULL, nick TEXT NOT NULL, email TEXT NOT NULL, find_first TEXT NOT NULL, "
                "find_last TEXT NOT NULL, find_nick TEXT NOT NULL, find_email TEXT NOT NULL)",
                "CREATE INDEX search_domain ON search_entry (domain)",
            ),
        ),
    )

    # ---- searching --------------------------------------------------------------------------------------------------

    @iq(get=QUERY, scope=Scope.SERVER)
    def fields(self, ctx: Context) -> Stanza:
        """What can be searched for (§2.1)."""
        self._check(ctx)
        wanted = tuple(Field(var, "text-single", (), label) for var, label in _FIELDS.items())
        form = Form.of("form", SEARCH, wanted, title="User directory", instructions=_HELP)
        plain = (make(f"{{{SEARCH}}}{var}") for var in _FIELDS)
        return ctx.stanza.reply(
            make(QUERY, None, make(f"{{{SEARCH}}}instructions", None, _HELP), *plain, form.to_xml())
        )

    @iq(set=QUERY, scope=Scope.SERVER)
    async def search(self, ctx: Context) -> Stanza:
        """Who is in the directory and matches all that was filled in."""
        self._check(ctx)
        assert ctx.stanza.to is not None
        query = ctx.stanza.el[0]
        submitted = query.find(forms.X)
        if submitted is None:
            given = {var: query.findtext(f"{{{SEARCH}}}{var}") or "" for var in _FIELDS}
        else:
            submission = Submission.from_xml(submitted, SEARCH)
            given = {var: submission.text(var) or "" for var in _FIELDS}
        wanted = {var: text.strip().casefold() for var, text in given.items() if text.strip()}
        if not wanted or all(not text.strip("*") for text in wanted.values()):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="at least one field is to be filled in")
        if any(len(text.encode()) > _MAX_BYTES for text in wanted.values()):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"a field has at most {_MAX_BYTES} bytes")
        asked = Request.from_xml(query)
        rows, page = await self._find(ctx.stanza.to.domain, wanted, asked or Request())
        result = _plain(rows) if submitted is None else _form(rows)
        if asked is not None and page.count:
            result.append(page.to_xml())
        return ctx.stanza.reply(result)

    def _check(self, ctx: Context) -> None:
        sender = ctx.stanza.sender
        assert sender is not None
        if not self.config.strangers and not self.kernel.is_local_domain(sender.domain):
            raise StanzaError(Condition.FORBIDDEN)

    async def _find(self, domain: str, wanted: dict[str, str], asked: Request) -> tuple[list[tuple[Any, ...]], Page]:
        """A page of the entries that match, by address; the address is what pages are told by."""
        condition, params = "domain = ?", [domain]
        for var, text in wanted.items():  # the names are ours, the texts are parameters
            pattern = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")
            condition += f" AND find_{var} LIKE ? ESCAPE '\\'"
            params.append(pattern if "*" in text else f"{pattern}%")
        most = asked.limit(self.config.results)
        after, before = asked.after or "", asked.before or ""
        backwards = asked.before is not None and asked.after is None
        where = f"{condition} AND jid > ?" + (" AND jid < ?" if before else "")
        order = "DESC" if backwards else "ASC"

        def txn(c: Cursor) -> tuple[list[tuple[Any, ...]], Page]:
            rows = c.rows(
                f"SELECT jid, first, last, nick, email FROM search_entry WHERE {where} ORDER BY jid {order} LIMIT ? OFFSET ?",
                *(*params, after, *((before,) if before else ()), most, 0 if backwards else asked.index or 0),
            )
            if backwards:
                rows.reverse()
            counted = f"SELECT COUNT(*) FROM search_entry WHERE {condition}"
            count = c.value(counted, *params)
            if not rows:
                return rows, Page(count=count)
            index = c.value(f"{counted} AND jid < ?", *params, rows[0][0])
            return rows, Page(rows[0][0], rows[-1][0], count, index)

        return await self.db.read("search.find", txn)

    # ---- being found ------------------------------------------------------------------------------------------------

    @command("directory.publish", "Put me in the directory", access=Access.USER)
    async def publish(
        self,
        caller: Caller,
        first: Annotated[str, Param(_FIELDS["first"])] = "",
        last: Annotated[str, Param(_FIELDS["last"])] = "",
        nick: Annotated[str, Param(_FIELDS["nick"])] = "",
        email: Annotated[str, Param(_FIELDS["email"])] = "",
        jid: Annotated[JID | None, Param("Whose entry", console=True)] = None,
    ) -> dict[str, str]:
        """Whoever may search sees this, and the address."""
        user = self._user(caller, jid)
        values = [xml_safe(value.strip()) for value in (first, last, nick, email)]
        if not any(values) or any(len(value.encode()) > _MAX_BYTES for value in values):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"something, and at most {_MAX_BYTES} bytes a field")
        folded = [value.casefold() for value in values]
        put = (
            "INSERT INTO search_entry (jid, domain, first, last, nick, email, find_first, find_last, find_nick, find_email) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (jid) DO UPDATE SET first = excluded.first, "
            "last = excluded.last, nick = excluded.nick, email = excluded.email, find_first = excluded.find_first, "
            "find_last = excluded.find_last, find_nick = excluded.find_nick, find_email = excluded.find_email"
        )
        await self.db.write("search.publish", lambda c: c.run(put, str(user), user.domain, *values, *folded))
        return {"jid": str(user)}

    @command("directory.withdraw", "Take me out of the directory", access=Access.USER)
    async def withdraw(
        self, caller: Caller, jid: Annotated[JID | None, Param("Whose entry", console=True)] = None
    ) -> dict[str, str]:
        """Nobody finds the user any more."""
        user = self._user(caller, jid)
        await self.db.write("search.withdraw", lambda c: _delete(c, user))
        return {"jid": str(user)}

    def _user(self, caller: Caller, jid: JID | None) -> JID:
        user = jid if caller.jid is None else caller.jid.bare
        if user is None or not user.local or user.resource or not self.kernel.is_local_domain(user.domain):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="only accounts of this server can be in the directory")
        if any(session.anonymous for session in self.kernel.sessions.of(user).all):
            raise StanzaError(Condition.NOT_ALLOWED)
        return user

    @on(events.account_removed)
    async def account_removed(self, event: AccountEvent) -> None:
        """Whoever is gone is not to be found."""
        await self.db.write("search.account_removed", lambda c: _delete(c, event.user))


def _delete(c: Cursor, user: JID) -> None:
    c.run("DELETE FROM search_entry WHERE jid = ?", str(user))


def _plain(rows: list[tuple[Any, ...]]) -> Element:
    query = make(QUERY)
    for jid, *values in rows:
        known = (make(f"{{{SEARCH}}}{var}", None, value) for var, value in zip(_FIELDS, values, strict=True))
        query.append(make(f"{{{SEARCH}}}item", {"jid": jid}, *known))
    return query


def _form(rows: list[tuple[Any, ...]]) -> Element:
    reported = (
        *(Field(var, "text-single", (), label) for var, label in _FIELDS.items()),
        Field("jid", "jid-single", (), "Address"),
    )
    items = tuple(
        (*(Field(var, "", (value,)) for var, value in zip(_FIELDS, values, strict=True)), Field("jid", "", (jid,)))
        for jid, *values in rows
    )
    return make(QUERY, None, Form("result", reported=reported, items=items).to_xml())
