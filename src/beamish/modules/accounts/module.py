"""Local accounts: who exists, and the SCRAM keys that prove it (RFC 5802, RFC 7677; storage by XEP-0438).

Passwords are never stored, only what SCRAM derives from them, with a salt of its own for each hash. Deriving keys takes
milliseconds and happens off the loop. Not here: registration by clients, and everything an account owns.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Final, cast

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.commands import ADMIN, Caller, Kind, Param
from beamish.core.events import AccountEvent, Exporting
from beamish.core.later import is_later
from beamish.core.module import Module, ModuleConfig, Xep, command, on
from beamish.core.services import AccountsService
from beamish.modules.accounts.keys import (
    DecoyShapes,
    KeyTable,
    Lacking,
    as_credentials,
    read_keys,
    settle_lacking,
    store_keys,
)
from beamish.storage.api import Cursor, Migration
from beamish.stream.sasl import ALGORITHMS, Algorithm, SaslPrepError, ScramKeys, check_password, decoy_keys, derive_keys
from beamish.xmpp.errors import Condition, StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID

log = structlog.get_logger(__name__)

MOST_SALT: Final = 255
"""Bytes of the longest salt there may be; ours have 16."""

_REMEMBERED = 50_000
"""Answers to "is there such an account" kept in memory."""
_PUT_CHANGED = (
    "INSERT INTO account_password (jid, changed) VALUES (?, ?)"
    " ON CONFLICT (jid) DO UPDATE SET changed = excluded.changed"
)
_PLAIN_ALGORITHMS: tuple[Algorithm, ...] = ("SHA-256", "SHA-1", "SHA-512")
"""The keys against which a password sent by PLAIN is checked: the first that all accounts of the domain have, so that it
does not depend on the account how long it takes."""


class Config(ModuleConfig):
    """Options of accounts; iterations are set in `[c2s]`."""

    keys_in_memory: int = Field(
        default=10_000,
        ge=0,
        le=10_000_000,
        description="Up to this number of accounts, the SCRAM keys of all of them are held in memory (500 bytes each), "
        "which makes logins cheaper. With more accounts none are: it must not depend on the account how long a login takes.",
    )
    password_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description="A password that was set longer ago is refused with credentials-expired, until an administrator sets "
        "a new one; sessions that are open go on. 0: passwords do not expire.",
    )


class AccountsModule(Module):
    """Keeps the accounts of all our domains."""

    name = "accounts"
    essential = True
    Config = Config
    xeps = (Xep(438, "0.2.0"),)
    provides = (AccountsService,)
    migrations = (
        Migration(
            1,
            (
                "CREATE TABLE account (jid TEXT PRIMARY KEY, domain TEXT NOT NULL, created {timestamp} NOT NULL)",
                "CREATE INDEX account_domain ON account (domain, jid)",
                "CREATE TABLE account_key (jid TEXT NOT NULL REFERENCES account (jid) ON DELETE CASCADE, "
                "algorithm TEXT NOT NULL, salt {bytes} NOT NULL, iterations INTEGER NOT NULL, "
                "stored_key {bytes} NOT NULL, server_key {bytes} NOT NULL, PRIMARY KEY (jid, algorithm))",
                "CREATE TABLE account_secret (id INTEGER PRIMARY KEY CHECK (id = 1), secret {bytes} NOT NULL)",
            ),
        ),
        Migration(2, ("CREATE TABLE account_disabled (jid TEXT PRIMARY KEY, since {timestamp} NOT NULL)",)),
        Migration(3, ("CREATE TABLE account_password (jid TEXT PRIMARY KEY, changed {timestamp} NOT NULL)",)),
        Migration(
            4,
            (
                "CREATE TABLE account_lacking (jid TEXT NOT NULL, algorithm TEXT NOT NULL, domain TEXT NOT NULL, "
                "PRIMARY KEY (jid, algorithm))",
            ),
        ),
    )

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._known: OrderedDict[str, bool] = OrderedDict()
        self._disabled: set[str] = set()
        self._leaving: set[JID] = set()
        """Accounts that are being removed: nobody logs in, and nothing is kept for them any more."""
        self._iterations = self.kernel.scram_iterations
        self._secret = b""
        self._table = KeyTable(config.keys_in_memory)
        self._decoys = {algorithm: DecoyShapes(self._iterations) for algorithm in ALGORITHMS}
        self._lacking = Lacking()
        self._completing: set[JID] = set()
        """Accounts that are just getting the keys they lack."""
        self._valid = config.password_days * 86_400.0
        # two threads: a burst of logins by PLAIN must not fill every core
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="password")

    async def start(self) -> None:
        """Load the accounts that are locked, and load (or make) the secret of the decoys: they stay the same for ever."""
        fresh = secrets.token_bytes(32)

        def txn(c: Cursor) -> bytes:
            c.run("INSERT INTO account_secret (id, secret) VALUES (1, ?) ON CONFLICT (id) DO NOTHING", fresh)
            return bytes(c.value("SELECT secret FROM account_secret WHERE id = 1"))

        self._secret = await self.db.write("accounts.secret", txn)
        self._disabled = {jid for (jid,) in await self.db.fetch("SELECT jid FROM account_disabled")}
        for algorithm, decoys in self._decoys.items():
            await decoys.load(self.db, algorithm)
        await self._table.load(self.db)
        await self._lacking.load(self.db)
        for domain, lacked, count in self._lacking:
            log.warning("scram_not_offered", domain=domain, hash=lacked, accounts_without_keys=count)

    async def stop(self) -> None:
        """Let running derivations end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- who exists -------------------------------------------------------------------------------------------------

    def exists(self, user: JID) -> bool | Awaitable[bool]:
        """See `AccountsService.exists`."""
        if user in self._leaving:
            return False
        known = self._known.get(user)
        if known is not None:
            return known
        if not self.kernel.is_local_domain(user.domain):
            return False
        if any(s.anonymous for s in self.kernel.sessions.of(user).all):
            return True
        return self._look_up(user)

    async def _look_up(self, user: JID) -> bool:
        rows = await self.db.fetch("SELECT 1 FROM account WHERE jid = ?", str(user))
        known = self._known.get(user)  # made or removed while we looked
        if known is None:
            known = self._remember(user, bool(rows))
        return known

    def _remember(self, user: JID, exists: bool) -> bool:
        self._known[user] = exists
        self._known.move_to_end(user)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return exists

    # ---- authentication ---------------------------------------------------------------------------------------------

    def keys(self, user: JID, algorithm: str) -> ScramKeys | Awaitable[ScramKeys | None] | None:
        """See `AccountsService.keys`. Those of a locked account are what they were: strangers learn nothing."""
        return self._table.get(user, algorithm) if self._table.complete else read_keys(self.db, str(user), algorithm)

    def decoy(self, username: str, domain: str, algorithm: str) -> ScramKeys:
        """See `AccountsService.decoy`."""
        address = f"{username}@{domain}"
        shape = self._decoys[cast("Algorithm", algorithm)].of(self._secret, address, domain)
        return decoy_keys(self._secret, address, cast("Algorithm", algorithm), *shape)

    def has_expired(self, user: JID) -> bool | Awaitable[bool]:
        """See `AccountsService.has_expired`."""
        return self._too_old(user) if self._valid else False

    async def _too_old(self, user: JID) -> bool:
        rows = await self.db.fetch(
            "SELECT changed FROM account_password WHERE jid = ? UNION ALL SELECT created FROM account WHERE jid = ?",
            str(user),
            str(user),
        )
        return bool(rows) and max(changed for (changed,) in rows) + self._valid < self.kernel.clock.now()

    async def check_password(self, user: JID | None, password: str) -> bool:
        """See `AccountsService.check_password`."""
        common = self.algorithms("" if user is None else user.domain)
        algorithm = next((each for each in _PLAIN_ALGORITHMS if each in common), _PLAIN_ALGORITHMS[0])
        found = None if user is None else self.keys(user, algorithm)
        keys = await found if is_later(found) else found
        name, domain = ("", "") if user is None else (user.local, user.domain)
        against = keys or self.decoy(name, domain, algorithm)
        ok = await asyncio.get_running_loop().run_in_executor(self._pool, check_password, against, password)
        if not ok or keys is None or user is None:
            return False
        if len(common) < len(ALGORITHMS) and user not in self._completing:
            self._completing.add(user)
            self.tasks.spawn(self._complete(user, keys, password), "complete")
        return True

    def algorithms(self, domain: str) -> frozenset[Algorithm]:
        """See `AccountsService.algorithms`."""
        return self._lacking.common(domain)

    async def _complete(self, user: JID, proved: ScramKeys, password: str) -> None:
        """Whoever has shown the password gets the keys that the account lacks; nobody waits for it."""
        try:
            found = [self.keys(user, algorithm) for algorithm in ALGORITHMS]
            there = [await each if is_later(each) else each for each in found]
            if None in there:
                await self._fill_up(user, proved, [keys for keys in there if keys is not None], password)
        finally:
            self._completing.discard(user)

    async def _fill_up(self, user: JID, proved: ScramKeys, there: list[ScramKeys], password: str) -> None:
        had = {keys.algorithm for keys in there}
        keys = [*there, *(each for each in await self._derive(password) if each.algorithm not in had)]
        stored = "SELECT stored_key FROM account_key WHERE jid = ? AND algorithm = ?"

        def txn(c: Cursor) -> list[str]:
            if c.value(stored, str(user), proved.algorithm) != proved.stored_key:
                return []  # the password was changed meanwhile, or the account removed
            lacked = settle_lacking(c, str(user))
            if lacked:
                store_keys(c, str(user), keys)
            return lacked

        lacked = await self.db.write("accounts.complete", txn)
        if lacked:
            self._table.put(user, keys)
            self._lacking.drop(user.domain, lacked)
            log.info("keys_completed", user=str(user), hashes=lacked)

    async def _derive(self, password: str) -> list[ScramKeys]:
        if not password:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="the password is empty")

        def work() -> list[ScramKeys]:
            return [derive_keys(password, algorithm, iterations=self._iterations) for algorithm in ALGORITHMS]

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except SaslPrepError as exc:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text=f"the password cannot be used: {exc}") from exc

    # ---- changing ---------------------------------------------------------------------------------------------------

    async def add(self, user: JID, password: str, also: Callable[[Cursor], None] | None = None) -> None:
        """See `AccountsService.add`."""
        self._check_address(user)
        keys = await self._derive(password)
        created = self.kernel.clock.now()

        def txn(c: Cursor) -> bool:
            if c.value("SELECT 1 FROM account WHERE jid = ?", str(user)) is not None:
                return False
            c.run("INSERT INTO account (jid, domain, created) VALUES (?, ?, ?)", str(user), user.domain, created)
            store_keys(c, str(user), keys)
            if also is not None:
                also(c)
            return True

        if not await self.db.write("accounts.add", txn):
            raise StanzaError(Condition.CONFLICT, text=f"{user} exists already")
        await self._added(user, keys)

    async def adopt(self, user: JID, keys: Sequence[ScramKeys], also: Callable[[Cursor], None] | None = None) -> None:
        """See `AccountsService.adopt`."""
        self._check_address(user)
        have = [each.algorithm for each in keys]
        lacked = [each for each in ALGORITHMS if each not in have] if keys else []
        if keys and not self.algorithms(user.domain) & set(have):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="no mechanism would be left that all accounts can use")
        if len(set(have)) < len(have) or any(len(each.salt) > MOST_SALT for each in keys):
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="these keys cannot be used")
        created = self.kernel.clock.now()

        def txn(c: Cursor) -> bool:
            if c.value("SELECT 1 FROM account WHERE jid = ?", str(user)) is not None:
                return False
            c.run("INSERT INTO account (jid, domain, created) VALUES (?, ?, ?)", str(user), user.domain, created)
            store_keys(c, str(user), keys)
            c.many(
                "INSERT INTO account_lacking (jid, algorithm, domain) VALUES (?, ?, ?)",
                [(str(user), algorithm, user.domain) for algorithm in lacked],
            )
            if also is not None:
                also(c)
            return True

        if not await self.db.write("accounts.adopt", txn):
            raise StanzaError(Condition.CONFLICT, text=f"{user} exists already")
        self._lacking.add(user.domain, lacked)
        await self._added(user, keys)

    async def _added(self, user: JID, keys: Sequence[ScramKeys]) -> None:
        self._table.put(user, keys)
        for each in keys:
            self._decoys[each.algorithm].added(user.domain, each.iterations, len(each.salt))
        self._remember(user, True)
        log.info("account_added", user=str(user))
        await self._tell(events.account_added, user)

    async def set_password(self, user: JID, password: str) -> None:
        """See `AccountsService.set_password`."""
        keys = await self._derive(password)
        now = self.kernel.clock.now()

        def txn(c: Cursor) -> list[str] | None:
            if c.value("SELECT 1 FROM account WHERE jid = ?", str(user)) is None:
                return None
            store_keys(c, str(user), keys)
            c.run(_PUT_CHANGED, str(user), now)
            return settle_lacking(c, str(user))

        lacked = await self.db.write("accounts.set_password", txn)
        if lacked is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"there is no account {user}")
        self._table.put(user, keys)
        self._lacking.drop(user.domain, lacked)
        log.info("password_changed", user=str(user))

    async def disable(self, user: JID) -> None:
        """See `AccountsService.disable`."""
        await self._must_exist(user)
        since = self.kernel.clock.now()
        self._disabled.add(user)  # before the first await, so that nobody slips in behind the sessions that are closed
        put = "INSERT INTO account_disabled (jid, since) VALUES (?, ?) ON CONFLICT (jid) DO NOTHING"
        await self.db.write("accounts.disable", lambda c: c.run(put, str(user), since))
        self._close_sessions(user, "the account is locked")
        log.info("account_disabled", user=str(user))

    async def enable(self, user: JID) -> None:
        """See `AccountsService.enable`."""
        await self._must_exist(user)
        await self.db.write("accounts.enable", lambda c: c.run("DELETE FROM account_disabled WHERE jid = ?", str(user)))
        self._disabled.discard(user)
        log.info("account_enabled", user=str(user))

    def is_disabled(self, user: JID) -> bool:
        """See `AccountsService.is_disabled`."""
        return user in self._disabled or user in self._leaving

    def disabled(self, domain: str | None = None) -> tuple[JID, ...]:
        """See `AccountsService.disabled`."""
        found = (JID.parse(jid) for jid in sorted(self._disabled))
        return tuple(user for user in found if domain in (None, user.domain))

    async def _must_exist(self, user: JID) -> None:
        if user.resource or not await self.db.fetch("SELECT 1 FROM account WHERE jid = ?", str(user)):
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"there is no account {user}")

    def _close_sessions(self, user: JID, text: str) -> None:
        for session in self.kernel.sessions.of(user).all:
            session.outlet.close(StreamError(StreamErrorCondition.NOT_AUTHORIZED, text), "removed")

    async def remove(self, user: JID) -> None:
        """See `AccountsService.remove`."""
        await self._must_exist(user)
        if user in self._leaving:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"{user} is being removed already")
        # or a client that comes back at once would outlive its account, and be the next owner's guest
        self._leaving.add(user)
        try:
            await self._remove(user)
        finally:
            self._leaving.discard(user)

    async def _remove(self, user: JID) -> None:
        self._close_sessions(user, "the account was removed")
        # what the modules hold goes first: should the process die in between, the account is still there to be removed
        await self._tell(events.account_removed, user)

        def txn(c: Cursor) -> list[str]:
            c.run("DELETE FROM account_key WHERE jid = ?", str(user))
            c.run("DELETE FROM account_disabled WHERE jid = ?", str(user))
            c.run("DELETE FROM account_password WHERE jid = ?", str(user))
            c.run("DELETE FROM account WHERE jid = ?", str(user))
            return settle_lacking(c, str(user))

        self._lacking.drop(user.domain, await self.db.write("accounts.remove", txn))
        self._table.remove(user)
        self._disabled.discard(user)
        self._remember(user, False)
        log.info("account_removed", user=str(user))

    async def list(self, domain: str | None = None, *, after: JID | None = None, limit: int | None = None) -> list[JID]:
        """See `AccountsService.list`."""
        where, params = ["TRUE"], list[Any]()
        if domain is not None:
            where.append("domain = ?")
            params.append(domain)
        if after is not None:
            where.append("(domain, jid) > (?, ?)")
            params += [after.domain, str(after)]
        cut = "" if limit is None else "LIMIT ?"
        rows = await self.db.fetch(
            f"SELECT jid FROM account WHERE {' AND '.join(where)} ORDER BY domain, jid {cut}",
            *params,
            *(() if limit is None else (limit,)),
        )
        return [JID.parse(jid) for (jid,) in rows]

    async def count(self, domain: str | None = None) -> int:
        """See `AccountsService.count`."""
        where, params = ("", ()) if domain is None else (" WHERE domain = ?", (domain,))
        return int((await self.db.fetch(f"SELECT COUNT(*) FROM account{where}", *params))[0][0])

    @on(events.account_exporting)
    async def _exporting(self, event: Exporting) -> None:
        """The keys; those of a locked account stay here, or it would not be locked elsewhere."""
        if self.is_disabled(event.user):
            return
        for algorithm in ALGORITHMS:
            found = self.keys(event.user, algorithm)
            keys = await found if is_later(found) else found
            if keys is not None:
                event.parts.append(as_credentials(keys))

    def _check_address(self, user: JID) -> None:
        if not user.local or user.resource:
            raise StanzaError(Condition.JID_MALFORMED, text="an account's address is name@domain")
        if not self.kernel.is_local_domain(user.domain):
            domains = ", ".join(self.kernel.domains)
            raise StanzaError(
                Condition.ITEM_NOT_FOUND, text=f"{user.domain} is not a domain of this server ({domains})"
            )

    async def _tell(self, point: Any, user: JID) -> None:
        outcome = self.kernel.hooks[point].run(AccountEvent(user))
        if is_later(outcome):
            await cast("Awaitable[Any]", outcome)

    # ---- commands ---------------------------------------------------------------------------------------------------

    @command("user.add", "Make an account", node=f"{ADMIN}#add-user", form_type=ADMIN)
    async def command_add(
        self,
        jid: Annotated[JID, Param("Address of the new account", var="accountjid")],
        password: Annotated[str, Param("Password", kind=Kind.SECRET)],
        again: Annotated[str | None, Param("Password again", var="password-verify", kind=Kind.SECRET)] = None,
    ) -> dict[str, str]:
        """Make an account."""
        if again is not None and again != password:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="the two passwords are not the same")
        await self.add(jid, password)
        return {"jid": str(jid)}

    @command("user.passwd", "Change an account's password", node=f"{ADMIN}#change-user-password", form_type=ADMIN)
    async def command_passwd(
        self,
        jid: Annotated[JID, Param("The account", var="accountjid")],
        password: Annotated[str, Param("New password", kind=Kind.SECRET)],
    ) -> dict[str, str]:
        """Change a password."""
        await self.set_password(jid, password)
        return {"jid": str(jid)}

    @command("user.remove", "Remove an account with everything it has", node=f"{ADMIN}#delete-user", form_type=ADMIN)
    async def command_remove(
        self, jid: Annotated[JID, Param("Accounts to remove", var="accountjids", each=True)]
    ) -> dict[str, str]:
        """Remove an account."""
        await self.remove(jid)
        return {"jid": str(jid)}

    @command("user.disable", "Lock an account and close its sessions", node=f"{ADMIN}#disable-user", form_type=ADMIN)
    async def command_disable(
        self, jid: Annotated[JID, Param("Accounts to lock", var="accountjids", each=True)]
    ) -> dict[str, str]:
        """Nobody can log in to it any more; everything it has stays."""
        await self.disable(jid)
        return {"jid": str(jid)}

    @command("user.enable", "Unlock an account", node=f"{ADMIN}#reenable-user", form_type=ADMIN)
    async def command_enable(
        self, jid: Annotated[JID, Param("Accounts to unlock", var="accountjids", each=True)]
    ) -> dict[str, str]:
        """Let its owner log in again."""
        await self.enable(jid)
        return {"jid": str(jid)}

    @command("user.list", "List accounts")
    async def command_list(
        self, caller: Caller, domain: Annotated[str | None, Param("Only this domain's", console=True)] = None
    ) -> Sequence[dict[str, str]]:
        """List accounts, of one domain or all."""
        users = await self.list(domain or caller.domain or None)
        if domain and not users and not self.kernel.is_local_domain(domain):  # one that was served once may have some
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"{domain} is not a domain of this server")
        return [{"jid": str(user)} for user in users]
