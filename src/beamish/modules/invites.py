"""XEP-0401 and XEP-0379: invitations to make an account here, or to become somebody's contact.

An invitation is a token of 120 bits in an `xmpp:` URI. One for an account is redeemed while registering (XEP-0445, module
`register`); one for a contact also by a subscription request that carries it, which is then granted at once and
answered with one in return. Not here: the page that a web browser shows; `landing` says where there is one.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from typing import Annotated, Any, Final
from urllib.parse import quote

import structlog
from pydantic import Field as Option

from beamish.core import events
from beamish.core.clock import stamp
from beamish.core.commands import Access, Caller, Param
from beamish.core.events import AccountEvent, Context
from beamish.core.hooks import SUBSCRIPTION
from beamish.core.later import is_later
from beamish.core.module import Module, ModuleConfig, Xep, command, on
from beamish.core.services import AccountsService, Invitation, InvitesService, RosterItem, RosterService
from beamish.storage.api import Cursor, Migration
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.stanza import PRESENCE, Stanza

log = structlog.get_logger(__name__)

INVITE: Final = "urn:xmpp:invite"
PARS: Final = "urn:xmpp:pars:0"
_DAY: Final = 86_400.0
_JOINS: Final = 10_000


class Config(ModuleConfig):
    """Options of invitations."""

    users: bool = Option(True, description="Whether every user may invite contacts, not administrators only.")
    register_contacts: bool = Option(
        False, description="Whether a user's invitation lets the contact also make an account here."
    )
    days: int = Option(7, ge=1, le=365, description="Days for which an invitation is good.")
    per_user: int = Option(
        20,
        ge=1,
        le=100_000,
        description="Invitations of one user that may be open at a time. Administrators have no limit.",
    )
    landing: str = Option(
        "",
        max_length=1000,
        pattern=r"^(https://[^\s]+)?$",
        description="Address of a web page for those who have no client yet; `{token}`, `{domain}` and `{uri}` are filled in.",
        examples=["https://{domain}/invite/#{token}"],
    )


class InvitesModule(Module):
    """Makes tokens and knows what they are good for."""

    name = "invites"
    Config = Config
    xeps = (Xep(401, "0.6.0"), Xep(379, "0.3.3"))
    requires = (AccountsService, RosterService)
    provides = (InvitesService,)
    migrations = (
        Migration(
            1,
            (
                "CREATE TABLE invite (token TEXT PRIMARY KEY, domain TEXT NOT NULL, username TEXT NOT NULL, "
                "inviter TEXT NOT NULL, account INTEGER NOT NULL, contact INTEGER NOT NULL, created {timestamp} NOT NULL, "
                "expires {timestamp} NOT NULL, uses INTEGER NOT NULL)",
                "CREATE INDEX invite_inviter ON invite (inviter)",
                "CREATE INDEX invite_username ON invite (domain, username)",
            ),
        ),
        # accounts that were made by invitation and are not yet a contact of who invited them
        Migration(2, ("CREATE TABLE invite_join (account TEXT PRIMARY KEY, inviter TEXT NOT NULL)",)),
    )

    async def start(self) -> None:
        """Nothing is kept in memory: tokens are rarely asked for."""
        self._accounts = self.kernel.service(AccountsService)
        self._rosters = self.kernel.service(RosterService)
        self._granting = asyncio.Lock()  # one at a time: between the look at a token and its use nobody else uses it

    async def ready(self) -> None:
        """Finish what a crash has interrupted."""
        for account, inviter in await self.db.fetch("SELECT account, inviter FROM invite_join LIMIT ?", _JOINS):
            await self._join(JID.parse(account), JID.parse(inviter))

    # ---- redeeming, for registration --------------------------------------------------------------------------------

    async def check(self, token: str, domain: str) -> Invitation | None:
        """See `InvitesService.check`."""
        rows = await self.db.fetch(
            "SELECT username, inviter, contact FROM invite WHERE token = ? AND domain = ? AND account = 1 AND uses > 0 "
            "AND expires > ?",
            token,
            domain,
            self.kernel.clock.now(),
        )
        if not rows:
            return None
        username, inviter, contact = rows[0]
        return Invitation(token, domain, username, JID.parse(inviter) if inviter and contact else None)

    def redeem(self, cursor: Cursor, invitation: Invitation, user: JID) -> None:
        """See `InvitesService.redeem`. An invitation is not too old once it has been accepted (XEP-0445 §5)."""
        if not _use(cursor, invitation.token):
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="the invitation was used in the meantime")
        if invitation.inviter is not None:
            put = (
                "INSERT INTO invite_join (account, inviter) VALUES (?, ?) "
                "ON CONFLICT (account) DO UPDATE SET inviter = excluded.inviter"
            )
            cursor.run(put, str(user), str(invitation.inviter))

    async def joined(self, invitation: Invitation, user: JID) -> None:
        """See `InvitesService.joined`."""
        if invitation.inviter is not None:
            await self._join(user, invitation.inviter)

    async def _join(self, user: JID, inviter: JID) -> None:
        """Both see each other's presence from now on (XEP-0401 §6.5)."""
        if await self._exists(user) and await self._exists(inviter):
            await self._befriend_each_other(user, inviter)
        done = "DELETE FROM invite_join WHERE account = ?"
        await self.db.write("invites.joined", lambda c: c.run(done, str(user)))

    async def _exists(self, user: JID) -> bool:
        exists = self._accounts.exists(user)
        return await exists if is_later(exists) else bool(exists)

    async def _befriend_each_other(self, user: JID, inviter: JID) -> None:
        for owner, contact in ((user, inviter), (inviter, user)):
            found = self._rosters.roster(owner)
            roster = await found if is_later(found) else found
            item = roster.get(contact) or RosterItem(contact)
            try:
                # the inviter may have given the contact a name already
                await self._rosters.change(
                    owner, item.with_(to=True, from_=True, pending_out=False, pending_in=False, listed=True)
                )
            except StanzaError as error:  # a full roster is no reason to be without an account
                log.warning("invited_contact_not_added", user=str(owner), reason=error.condition.value)

    async def reserved(self, user: JID) -> bool:
        """See `InvitesService.reserved`."""
        rows = await self.db.fetch(
            "SELECT 1 FROM invite WHERE domain = ? AND username = ? AND uses > 0 AND expires > ?",
            user.domain,
            user.local,
            self.kernel.clock.now(),
        )
        return bool(rows)

    # ---- redeeming, by a subscription request -----------------------------------------------------------------------

    # after those who refuse a stanza: a blocked contact must not use up an invitation
    @on(events.incoming, at=80, only=(SUBSCRIPTION,))
    def incoming(self, ctx: Context) -> Any:
        """A subscription request with a token of the user's (XEP-0379 §3.5) is granted before it is looked at."""
        stanza = ctx.stanza
        if stanza.type != "subscribe" or stanza.name != PRESENCE or b"urn:xmpp:pars:0" not in stanza.body:
            return None
        el = stanza.child(f"{{{PARS}}}preauth")
        token = "" if el is None else el.get("token", "")
        return self._befriend(ctx, token) if token else None

    async def _befriend(self, ctx: Context, token: str) -> None:
        stanza = ctx.stanza
        assert stanza.to is not None and stanza.sender is not None
        user, contact = stanza.to.bare, stanza.sender.bare
        if user == contact:
            return
        async with self._granting:
            asks = await self._grant(user, contact, token)
        if asks:
            # §3.5: and one in return, once this one has been answered
            ask = Stanza.build(PRESENCE, "subscribe", sender=user, to=contact)
            self.loop().call_soon(self.kernel.router.post, ask)

    async def _grant(self, user: JID, contact: JID, token: str) -> bool:
        """Approve a contact that shows a token, and then use that up; whether the user is to ask in return.

        In this order, so that a crash leaves both or a token that is still good.
        """
        rows = await self.db.fetch(
            "SELECT 1 FROM invite WHERE token = ? AND inviter = ? AND contact = 1 AND uses > 0 AND expires > ?",
            token,
            str(user),
            self.kernel.clock.now(),
        )
        if not rows:
            return False  # §4.1: as if there were no token
        found = self._rosters.roster(user)
        roster = await found if is_later(found) else found
        item = roster.get(contact) or RosterItem(contact)
        asks = not item.to
        try:
            await self._rosters.change(
                # one that has asked without a token before asks anew: an approval holds for what is to come
                user,
                item.with_(approved=True, listed=True, pending_in=False, pending_out=item.pending_out or asks),
            )
        except StanzaError as error:
            log.warning("invited_contact_not_added", user=str(user), reason=error.condition.value)
            return False
        await self.db.write("invites.use", lambda c: _use(c, token))
        log.info("invitation_redeemed", user=str(user), contact=str(contact))
        return asks

    # ---- making -----------------------------------------------------------------------------------------------------

    @command(
        "invite.contact",
        "Invite a contact",
        node=f"{INVITE}#invite",
        form_type=f"{INVITE}#invitation",
        access=lambda module: Access.USER if module.config.users else Access.ADMIN,
    )
    async def invite_contact(
        self, caller: Caller, inviter: Annotated[JID | None, Param("Whose contact it will be", console=True)] = None
    ) -> dict[str, Any]:
        """A link that makes whoever opens it a contact of the user."""
        user = caller.jid.bare if caller.jid is not None else inviter
        if user is None or not user.local or not self.kernel.is_local_domain(user.domain):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="only accounts of this server can invite contacts")
        admin = caller.jid is None or user in self.kernel.admins
        account = self.config.register_contacts
        token = await self._make(
            user.domain, "", user, account=account, contact=True, limit=None if admin else self.config.per_user
        )
        name = quote(user.local, safe="")
        uri = f"xmpp:{name}@{user.domain}?roster;preauth={token}" + (";ibr=y" if account else "")
        return self._told(uri, token, user.domain)

    @command(
        "invite.create",
        "Invite somebody to make an account",
        node=f"{INVITE}#create-account",
        form_type=f"{INVITE}#invitation",
    )
    async def invite_account(
        self,
        caller: Caller,
        username: Annotated[str, Param("User name (empty: any)")] = "",
        subscribe: Annotated[bool, Param("Make them your contact", var="roster-subscription")] = False,
        uses: Annotated[int, Param("How many accounts may be made with it", console=True)] = 1,
        domain: Annotated[str | None, Param("At this domain", console=True)] = None,
    ) -> dict[str, Any]:
        """A link with which an account can be made, of any name or of this one."""
        at = domain or caller.domain or self.kernel.domains[0]
        if not self.kernel.is_local_domain(at):
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"{at} is not a domain of this server")
        if not 1 <= uses <= 10_000 or (username and uses != 1):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="uses: 1, or up to 10000 if any name will do")
        name = username.strip()
        if name:
            user = _address(name, at)
            if await self._exists(user) or await self.reserved(user):
                raise StanzaError(Condition.CONFLICT, text=f"{user} exists already, or is promised to somebody")
            name = user.local
        inviter = caller.jid.bare if caller.jid is not None else None
        if inviter is not None and not self.kernel.is_local_domain(inviter.domain):
            inviter = None  # an administrator from elsewhere has no roster here
        token = await self._make(at, name, inviter, account=True, contact=subscribe, limit=None, uses=uses)
        address = f"{quote(name, safe='')}@{at}" if name else at
        return self._told(f"xmpp:{address}?register;preauth={token}", token, at)

    @command("invite.list", "List open invitations")
    async def invite_list(self) -> list[dict[str, Any]]:
        """Invitations that can still be used."""
        rows = await self.db.fetch(
            "SELECT token, domain, username, inviter, account, contact, expires, uses FROM invite "
            "WHERE uses > 0 AND expires > ? ORDER BY created",
            self.kernel.clock.now(),
        )
        return [
            {
                "token": token,
                "domain": domain,
                "username": username,
                "inviter": inviter,
                "account": bool(account),
                "contact": bool(contact),
                "expire": stamp(expires),
                "uses": uses,
            }
            for token, domain, username, inviter, account, contact, expires, uses in rows
        ]

    @command("invite.revoke", "Take back an invitation")
    async def invite_revoke(self, token: Annotated[str, Param("Its token")]) -> dict[str, str]:
        """Nobody can use it any more."""
        if not await self.db.write("invites.revoke", lambda c: c.run("DELETE FROM invite WHERE token = ?", token)):
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such invitation")
        return {"token": token}

    async def _make(
        self,
        domain: str,
        username: str,
        inviter: JID | None,
        *,
        account: bool,
        contact: bool,
        limit: int | None,
        uses: int = 1,
    ) -> str:
        # base 32: nothing in it needs escaping, and it survives being read aloud
        token = base64.b32encode(secrets.token_bytes(15)).decode().lower()
        now = self.kernel.clock.now()
        owner = "" if inviter is None else str(inviter)
        row = (token, domain, username, owner, int(account), int(contact), now, now + self.config.days * _DAY, uses)

        def txn(c: Cursor) -> bool:
            c.run("DELETE FROM invite WHERE expires <= ?", now)
            if (
                limit is not None
                and c.value("SELECT COUNT(*) FROM invite WHERE inviter = ? AND uses > 0", owner) >= limit
            ):
                return False
            c.run(
                "INSERT INTO invite (token, domain, username, inviter, account, contact, created, expires, uses) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *row,
            )
            return True

        if not await self.db.write("invites.make", txn):
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="too many of your invitations are open")
        log.info("invitation_made", inviter=owner, username=username, domain=domain)
        return token

    def _told(self, uri: str, token: str, domain: str) -> dict[str, Any]:
        """The result as XEP-0401 §6.1 names its fields."""
        told = {"uri": uri}
        if self.config.landing:
            page = self.config.landing.replace("{token}", token).replace("{domain}", domain)
            told["landing-url"] = page.replace("{uri}", quote(uri, safe=""))
        told["expire"] = stamp(self.kernel.clock.now() + self.config.days * _DAY)
        return told

    @on(events.account_removed)
    async def account_removed(self, event: AccountEvent) -> None:
        """The invitations of somebody who is gone are worth nothing."""
        user = str(event.user)

        def txn(c: Cursor) -> None:
            c.run("DELETE FROM invite WHERE inviter = ?", user)
            c.run("DELETE FROM invite_join WHERE account = ? OR inviter = ?", user, user)

        await self.db.write("invites.account_removed", txn)


def _use(cursor: Cursor, token: str) -> bool:
    return cursor.run("UPDATE invite SET uses = uses - 1 WHERE token = ? AND uses > 0", token) == 1


def _address(name: str, domain: str) -> JID:
    try:
        user = JID.parse(f"{name}@{domain}")
    except JidMalformed as exc:
        raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"{name!r} cannot be a name: {exc}") from exc
    if "@" in name or "/" in name or user.domain != domain:
        raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"{name!r} cannot be a name")
    return user
