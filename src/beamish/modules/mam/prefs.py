"""What an account wants archived (XEP-0441), as a value; the preferences of XEP-0136 are kept in the same one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

from beamish.storage.api import Cursor
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.xml import Element, escape_text

MAM: Final = "urn:xmpp:mam:2"
MAX_LISTED: Final = 1_000
"""Addresses in the two lists together."""

Mode = Literal["always", "never", "roster"]
MODES: Final = ("always", "never", "roster")


@dataclass(frozen=True, slots=True)
class Prefs:
    """Preferences of one account. `set_by_owner` is False for the server's default.

    `legacy` is what clients of XEP-0136 set that the server keeps for them without acting on it, as JSON-able values.
    """

    mode: Mode = "always"
    always: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    set_by_owner: bool = False
    legacy: Mapping[str, Any] = field(default_factory=dict)

    everything: bool = field(init=False)
    """Whether there is nothing to look at: every message is archived."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "everything", self.mode == "always" and not self.never)

    def verdict(self, contact: JID) -> bool | None:
        """Whether messages with a contact are archived; None: if it is in the roster (§2.1, §2.3).

        What names the resource goes before what names the address, and never before always.
        """
        for address in (contact, contact.bare):
            if address in self.never:
                return False
            if address in self.always:
                return True
        return None if self.mode == "roster" else self.mode == "always"

    def with_lists(self, mode: Mode, always: Iterable[str], never: Iterable[str]) -> Prefs:
        """Changed preferences. Raises `StanzaError(resource-constraint)` for lists that are too long."""
        changed = replace(self, mode=mode, always=frozenset(always), never=frozenset(never), set_by_owner=True)
        if len(changed.always) + len(changed.never) > MAX_LISTED:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text=f"more than {MAX_LISTED} addresses")
        return changed

    def to_bytes(self) -> bytes:
        """The `<prefs/>` element."""
        lists = "".join(
            f"<{tag}>{''.join(f'<jid>{escape_text(jid)}</jid>' for jid in sorted(jids))}</{tag}>"
            for tag, jids in (("always", self.always), ("never", self.never))
        )
        return f"<prefs xmlns='{MAM}' default='{self.mode}'>{lists}</prefs>".encode()


def read(el: Element, current: Prefs) -> Prefs:
    """What `<prefs/>` sets. Raises `StanzaError(bad-request)`, `jid-malformed`, `resource-constraint`."""
    mode = el.get("default", current.mode)
    if mode not in MODES:
        raise StanzaError(Condition.BAD_REQUEST, text="default must be always, never or roster")
    return current.with_lists(cast("Mode", mode), _jids(el, "always"), _jids(el, "never"))


def _jids(el: Element, name: str) -> list[str]:
    try:
        found = el.iterfind(f"{{{MAM}}}{name}/{{{MAM}}}jid")
        return [str(JID.parse((jid.text or "").strip())) for jid in found]
    except JidMalformed as exc:
        raise StanzaError(Condition.JID_MALFORMED, text=str(exc)) from exc


def load(c: Cursor, owner: str, default: Prefs) -> Prefs:
    """What an account has set, or the default."""
    row = c.row("SELECT mode, always, never, legacy FROM mam_prefs WHERE owner = ?", owner)
    if row is None:
        return default
    return Prefs(row[0], frozenset(json.loads(row[1])), frozenset(json.loads(row[2])), True, json.loads(row[3]))


def owners(c: Cursor) -> set[str]:
    """Accounts that have set preferences."""
    return {str(owner) for (owner,) in c.rows("SELECT owner FROM mam_prefs")}


def save(c: Cursor, owner: str, prefs: Prefs) -> None:
    """Store preferences."""
    c.run(
        "INSERT INTO mam_prefs (owner, mode, always, never, legacy) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (owner) DO UPDATE SET mode = excluded.mode, always = excluded.always, never = excluded.never, "
        "legacy = excluded.legacy",
        owner,
        prefs.mode,
        json.dumps(sorted(prefs.always)),
        json.dumps(sorted(prefs.never)),
        json.dumps(dict(prefs.legacy)),
    )
