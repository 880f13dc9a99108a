"""XEP-0227: accounts of other servers, from the files that they write, and files for other servers.

Files are read piece by piece and accounts taken one after the other; what of them cannot be taken is told with its line. An
account that exists is left alone. One whose import was cut short is not there, and what it left is cleared away at the next
start. Not here: rooms and services (the format has none), and archives of messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import structlog

from beamish.core import events
from beamish.core.events import AccountEvent
from beamish.core.later import is_later, settled
from beamish.core.module import Module, Xep
from beamish.core.services import AccountsService, PortableService, RosterService, Skipped
from beamish.modules.portable.reader import Begin, Broken, End, Piece, read
from beamish.modules.portable.saving import save
from beamish.modules.portable.taking import BEGUN, Taking
from beamish.storage.api import Migration, StorageError
from beamish.stream.sasl import Algorithm
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID, JidMalformed

log = structlog.get_logger(__name__)

_LEFT: Final = 1_000
"""Imports that were cut short, looked at in one start: each time it was one."""


class PortableModule(Module):
    """Takes accounts from files, and writes such files."""

    name = "portable"
    xeps = (Xep(227, "1.1", status="partial", note="without archives, and what others are to nodes"),)
    requires = (AccountsService, RosterService)
    provides = (PortableService,)
    migrations = (Migration(1, (f"CREATE TABLE {BEGUN} (jid TEXT PRIMARY KEY)",)),)

    async def ready(self) -> None:
        """What an import that was cut short has left must not wait for whoever gets the name by another way."""
        for (jid,) in await self.db.fetch(f"SELECT jid FROM {BEGUN} ORDER BY jid LIMIT {_LEFT}"):
            try:
                await self._clear_left(JID.parse(jid))
            except (StorageError, StanzaError, JidMalformed) as exc:
                log.warning("import_not_cleared", user=jid, error=repr(exc))

    async def _clear_left(self, user: JID) -> None:
        if not self.kernel.is_local_domain(user.domain):
            return
        if await settled(self.kernel.service(AccountsService).exists(user)):
            await self._no_more(user)
        else:
            await self._clear(user)
            log.info("import_cleared", user=str(user))

    async def load(
        self,
        paths: Sequence[Path],
        usable: AbstractSet[Algorithm],
        told: Callable[[Skipped], None],
        *,
        dry: bool = False,
    ) -> dict[str, int]:
        """See `PortableService.load`."""
        tally: Counter[str] = Counter()
        seen: set[JID] = set()
        for path in paths:
            await self._file(path, usable, told, dry, tally, seen)
        return dict(tally)

    async def save(self, path: Path, users: Sequence[JID] = ()) -> int:
        """See `PortableService.save`."""
        return await save(self.kernel, path, users)

    async def _file(
        self,
        path: Path,
        usable: AbstractSet[Algorithm],
        told: Callable[[Skipped], None],
        dry: bool,
        tally: Counter[str],
        seen: set[JID],
    ) -> None:
        taking: Taking | None = None
        for event in read(path):
            if isinstance(event, Begin):
                user = await self._wanted(event, told, seen if dry else set())
                taking = None
                if user is not None:
                    taking = Taking(self.kernel, event, user, usable, tally, told, dry)
                    seen.add(user) if dry else await self._begin(user)
            elif isinstance(event, Piece):
                if event.within in ("server-data", "host"):
                    told(Skipped(event.place.file, event.place.line, "", f"not taken: the element {event.el.tag}"))
                elif taking is not None:
                    await taking.piece(event)
            elif isinstance(event, End):
                if taking is not None:
                    await taking.end()
                taking = None
            elif isinstance(event, Broken):
                reason = event.reason
                if taking is not None:
                    reason += "; the account is not made"
                    if not dry:
                        await self._clear(taking.user)
                told(Skipped(event.place.file, event.place.line, str(taking.user) if taking else "", reason))
                taking = None

    async def _wanted(self, begin: Begin, told: Callable[[Skipped], None], seen: AbstractSet[JID]) -> JID | None:
        """The address of an account that can be made; None, and why it is told, for others."""

        def refuse(reason: str) -> None:
            told(Skipped(begin.place.file, begin.place.line, f"{begin.name}@{begin.host}", reason))

        try:
            user = JID.parse(f"{begin.name}@{begin.host}")
        except JidMalformed as exc:
            refuse(f"no address: {exc}")
            return None
        if not begin.name or user.resource or not user.local or "@" in begin.name:
            refuse("no address of an account")
            return None
        if not self.kernel.is_local_domain(user.domain):
            refuse(f"{user.domain} is not a domain of this server ({', '.join(self.kernel.domains)})")
            return None
        if user in seen or await settled(self.kernel.service(AccountsService).exists(user)):
            refuse("exists already, and is left as it is")
            return None
        return user

    async def _begin(self, user: JID) -> None:
        """Note that an import has begun; where one was cut short, clear away what it left."""
        if await self.db.fetch(f"SELECT 1 FROM {BEGUN} WHERE jid = ? LIMIT 1", str(user)):
            await self._clear(user)
        await self.db.write(
            "portable.begin",
            lambda c: c.run(f"INSERT INTO {BEGUN} (jid) VALUES (?) ON CONFLICT (jid) DO NOTHING", str(user)),
        )

    async def _clear(self, user: JID) -> None:
        rosters = self.kernel.service(RosterService)
        for item in tuple((await settled(rosters.roster(user))).items()):
            # one by one, without the farewell to contacts that the end of an account is: they know of no change
            await rosters.remove(user, item.jid, push=False)
        outcome = self.kernel.hooks[events.account_removed].run(AccountEvent(user))
        if is_later(outcome):
            await outcome
        await self._no_more(user)

    async def _no_more(self, user: JID) -> None:
        await self.db.write("portable.clear", lambda c: c.run(f"DELETE FROM {BEGUN} WHERE jid = ?", str(user)))
