"""Local accounts: who exists, and the SCRAM keys that prove it (RFC 5802, RFC 7677; storage by XEP-0438).

Passwords are never stored, only what SCRAM derives from them, with a salt of its own for each hash. Deriving keys takes
milliseconds and happens off the loop. Not here: registration by clients, and everything an account owns.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import structlog

from beamish.core import events
from beamish.core.events import AccountEvent
from beamish.core.later import is_later
from beamish.core.module import Module, ModuleConfig, Xep, command
from beamish.core.services import AccountsService
from beamish.storage.api import Cursor, Migration
from beamish.stream.sasl import ALGORITHMS, Algorithm, SaslPrepError, ScramKeys, check_password, decoy_keys, derive_keys
from beamish.xmpp.errors import Condition, StanzaError, StreamError, StreamErrorCondition
from beamish.xmpp.jid import JID, JidMalformed

log = structlog.get_logger(__name__)

_REMEMBERED = 50_000
"""Answers to "is there such an account" kept in memory."""
_PLAIN_ALGORITHM: Algorithm = "SHA-256"
"""The keys against which a password sent by PLAIN is checked."""


class Config(ModuleConfig):
    """Options of accounts; iterations are set in `[c2s]`."""


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
    )

    def __init__(self, kernel: Any, config: Config) -> None:
        super().__init__(kernel, config)
        self._known: OrderedDict[str, bool] = OrderedDict()
        self._iterations = self.kernel.scram_iterations
        self._secret = b""
        # two threads: a burst of logins by PLAIN must not fill every core
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="password")

    async def start(self) -> None:
        """Load (or make) the secret that makes decoy keys the same after every restart."""
        fresh = secrets.token_bytes(32)

        def txn(c: Cursor) -> bytes:
            c.run("INSERT INTO account_secret (id, secret) VALUES (1, ?) ON CONFLICT (id) DO NOTHING", fresh)
            return bytes(c.value("SELECT secret FROM account_secret WHERE id = 1"))

        self._secret = await self.db.write("accounts.secret", txn)

    async def stop(self) -> None:
        """Let running derivations end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- who exists -------------------------------------------------------------------------------------------------

    def exists(self, user: JID) -> bool | Awaitable[bool]:
        """See `AccountsService.exists`."""
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

    async def keys(self, user: JID, algorithm: str) -> ScramKeys | None:
        """See `AccountsService.keys`."""
        rows = await self.db.fetch(
            "SELECT salt, iterations, stored_key, server_key FROM account_key WHERE jid = ? AND algorithm = ?",
            str(user),
            algorithm,
        )
        if not rows:
            return None
        salt, iterations, stored, server = rows[0]
        return ScramKeys(cast("Algorithm", algorithm), bytes(salt), iterations, bytes(stored), bytes(server))

    def decoy(self, username: str, algorithm: str) -> ScramKeys:
        """See `AccountsService.decoy`."""
        return decoy_keys(self._secret, username, cast("Algorithm", algorithm), self._iterations)

    async def check_password(self, user: JID | None, password: str) -> bool:
        """See `AccountsService.check_password`."""
        keys = None if user is None else await self.keys(user, _PLAIN_ALGORITHM)
        against = keys or self.decoy("" if user is None else user.local, _PLAIN_ALGORITHM)
        ok = await asyncio.get_running_loop().run_in_executor(self._pool, check_password, against, password)
        return ok and keys is not None

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

    async def add(self, user: JID, password: str) -> None:
        """See `AccountsService.add`."""
        self._check_address(user)
        keys = await self._derive(password)
        created = self.kernel.clock.now()

        def txn(c: Cursor) -> bool:
            if c.value("SELECT 1 FROM account WHERE jid = ?", str(user)) is not None:
                return False
            c.run("INSERT INTO account (jid, domain, created) VALUES (?, ?, ?)", str(user), user.domain, created)
            _store_keys(c, user, keys)
            return True

        if not await self.db.write("accounts.add", txn):
            raise StanzaError(Condition.CONFLICT, text=f"{user} exists already")
        self._remember(user, True)
        log.info("account_added", user=str(user))
        await self._tell(events.account_added, user)

    async def set_password(self, user: JID, password: str) -> None:
        """See `AccountsService.set_password`."""
        keys = await self._derive(password)

        def txn(c: Cursor) -> bool:
            if c.value("SELECT 1 FROM account WHERE jid = ?", str(user)) is None:
                return False
            _store_keys(c, user, keys)
            return True

        if not await self.db.write("accounts.set_password", txn):
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"there is no account {user}")
        log.info("password_changed", user=str(user))

    async def remove(self, user: JID) -> None:
        """See `AccountsService.remove`."""
        rows = await self.db.fetch("SELECT 1 FROM account WHERE jid = ?", str(user))
        if not rows:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"there is no account {user}")
        for session in self.kernel.sessions.of(user).all:
            session.outlet.close(StreamError(StreamErrorCondition.NOT_AUTHORIZED, "the account was removed"), "removed")
        # what the modules hold goes first: should the process die in between, the account is still there to be removed
        await self._tell(events.account_removed, user)

        def txn(c: Cursor) -> None:
            c.run("DELETE FROM account_key WHERE jid = ?", str(user))
            c.run("DELETE FROM account WHERE jid = ?", str(user))

        await self.db.write("accounts.remove", txn)
        self._remember(user, False)
        log.info("account_removed", user=str(user))

    async def list(self, domain: str | None = None) -> list[JID]:
        """See `AccountsService.list`."""
        if domain is None:
            rows = await self.db.fetch("SELECT jid FROM account ORDER BY domain, jid")
        else:
            rows = await self.db.fetch("SELECT jid FROM account WHERE domain = ? ORDER BY jid", domain)
        return [JID.parse(jid) for (jid,) in rows]

    def _check_address(self, user: JID) -> None:
        if not user.local or user.resource:
            raise StanzaError(Condition.JID_MALFORMED, text="an account's address is name@domain")
        if not self.kernel.is_local_domain(user.domain):
            domains = ", ".join(self.kernel.domains)
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"{user.domain} is not a domain of this server ({domains})")

    async def _tell(self, point: Any, user: JID) -> None:
        outcome = self.kernel.hooks[point].run(AccountEvent(user))
        if is_later(outcome):
            await outcome

    # ---- commands ---------------------------------------------------------------------------------------------------

    @command("user.add", "Make an account")
    async def command_add(self, jid: str, password: str) -> dict[str, str]:
        """Make an account."""
        user = _account(jid)
        await self.add(user, password)
        return {"jid": str(user)}

    @command("user.passwd", "Change an account's password")
    async def command_passwd(self, jid: str, password: str) -> dict[str, str]:
        """Change a password."""
        user = _account(jid)
        await self.set_password(user, password)
        return {"jid": str(user)}

    @command("user.remove", "Remove an account with everything it has")
    async def command_remove(self, jid: str) -> dict[str, str]:
        """Remove an account."""
        user = _account(jid)
        await self.remove(user)
        return {"jid": str(user)}

    @command("user.list", "List accounts")
    async def command_list(self, domain: str | None = None) -> list[dict[str, str]]:
        """List accounts, of one domain or all."""
        return [{"jid": str(user)} for user in await self.list(domain)]


def _account(text: str) -> JID:
    try:
        return JID.parse(text)
    except JidMalformed as exc:
        raise StanzaError(Condition.JID_MALFORMED, text=f"{text}: {exc}") from exc


def _store_keys(c: Cursor, user: JID, keys: list[ScramKeys]) -> None:
    c.run("DELETE FROM account_key WHERE jid = ?", str(user))
    c.many(
        "INSERT INTO account_key (jid, algorithm, salt, iterations, stored_key, server_key) VALUES (?, ?, ?, ?, ?, ?)",
        [(str(user), k.algorithm, k.salt, k.iterations, k.stored_key, k.server_key) for k in keys],
    )
