"""Writing XEP-0227: one file, account by account; each module adds what it keeps of one (hook `account_exporting`)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from beamish.core import events
from beamish.core.events import Exporting
from beamish.core.later import is_later, settled
from beamish.core.services import AccountsService
from beamish.modules.portable.reader import PIE
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import escape_attr, from_bytes

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

_PAGE: Final = 100
"""Accounts whose names are read at a time."""
_PATIENCE: Final = 60.0
"""Seconds for what the start has begun: messages of sessions that are over go to where the offline ones are."""


async def save(kernel: Kernel, path: Path, users: Sequence[JID]) -> int:
    """See `PortableService.save`."""
    count = 0
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(made, "wb") as file:
            await kernel.tasks.drain(_PATIENCE)
            await kernel.db.flushed()
            file.write(f"<?xml version='1.0' encoding='UTF-8'?>\n<server-data xmlns='{PIE}'>\n".encode())
            domain = ""
            async for user in _named(kernel, users) if users else _all(kernel):
                if user.domain != domain:
                    file.write(b"</host>\n" if domain else b"")
                    domain = user.domain
                    file.write(f"<host jid='{escape_attr(domain)}'>\n".encode())
                file.write(await _user(kernel, user))
                count += 1
            file.write((b"</host>\n" if domain else b"") + b"</server-data>\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise
    return count


async def _named(kernel: Kernel, users: Sequence[JID]) -> AsyncIterator[JID]:
    accounts = kernel.service(AccountsService)
    for user in sorted(set(users), key=lambda each: (each.domain, each.local)):
        if not await settled(accounts.exists(user)):
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"there is no account {user}")
        yield user


async def _all(kernel: Kernel) -> AsyncIterator[JID]:
    accounts = kernel.service(AccountsService)
    after: JID | None = None
    while some := await accounts.list(after=after, limit=_PAGE):
        for user in some:
            yield user
        after = some[-1]


async def _user(kernel: Kernel, user: JID) -> bytes:
    event = Exporting(user, [])
    outcome = kernel.hooks[events.account_exporting].run(event)
    if is_later(outcome):
        await outcome
    inner = b"\n".join(event.parts)
    user_el = f"<user xmlns='{PIE}' name='{escape_attr(user.local)}'>".encode() + inner + b"</user>\n"
    try:
        from_bytes(user_el)  # what is damaged on disk must not make the whole file unreadable
    except ValueError as exc:
        raise StanzaError(Condition.INTERNAL_SERVER_ERROR, text=f"{user} cannot be written: {exc}") from None
    return user_el
