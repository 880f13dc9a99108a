"""XEP-0377: reports of abuse that come with a block, kept for the administrator. They are passed on to nobody."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from beamish.core.clock import stamp
from beamish.storage.api import Cursor
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.xml import Element

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel

REPORTING: Final = "urn:xmpp:reporting:1"
EARLIER: Final = "urn:xmpp:reporting:0"
"""Of version 0.2, where the reason is an element: Gajim 1.7 reports so, whatever a server knows, and tells that it has."""
_REPORT: Final = f"{{{REPORTING}}}report"
_TEXT: Final = f"{{{REPORTING}}}text"
_EARLIER_REPORT: Final = f"{{{EARLIER}}}report"
_STANZA_ID: Final = "{urn:xmpp:sid:0}stanza-id"
_REASON_LENGTH: Final = 256
_TEXT_LENGTH: Final = 4096
_STANZA_IDS: Final = 50
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Report:
    """One report: the reason is a URN; `stanzas` are (by, id) in an archive; the rest is what the user agreed to."""

    reason: str
    text: str = ""
    stanzas: tuple[tuple[str, str], ...] = ()
    to_origin: bool = False
    to_others: bool = False


def report_of(item: Element) -> Report | None:
    """The report in an item of a block. Raises `StanzaError(bad-request)` for one without a reason (§4)."""
    el = item.find(_REPORT)
    if el is None:
        el = item.find(_EARLIER_REPORT)
        return None if el is None else _earlier(el)
    reason = el.get("reason", "")
    if not 0 < len(reason) <= _REASON_LENGTH:
        raise StanzaError(Condition.BAD_REQUEST, text="a report has a reason")
    return Report(
        reason,
        "\n".join((text.text or "").strip() for text in el.findall(_TEXT))[:_TEXT_LENGTH],
        tuple((s.get("by", "")[:3071], s.get("id", "")[:256]) for s in el.findall(_STANZA_ID)[:_STANZA_IDS]),
        el.find(f"{{{REPORTING}}}report-origin") is not None,
        el.find(f"{{{REPORTING}}}third-party") is not None,
    )


def _earlier(el: Element) -> Report:
    """A report in the form of version 0.2, where saying why was left to the user: abuse is the wider of its two reasons."""
    spam = el.find(f"{{{EARLIER}}}spam") is not None
    texts = (text.text or "" for text in el.findall(f"{{{EARLIER}}}text"))
    return Report(
        "urn:xmpp:reporting:spam" if spam else "urn:xmpp:reporting:abuse",
        "\n".join(text.strip() for text in texts)[:_TEXT_LENGTH],
    )


class Reports:
    """Reports on disk. `kept` bounds their number, `per_day` those of one account."""

    def __init__(self, kernel: Kernel, kept: int, per_day: int) -> None:
        self._kernel = kernel
        self._kept = kept
        self._per_day = per_day

    def put(self, cursor: Cursor, reporter: JID, jid: str, report: Report) -> None:
        """Keep a report, in the transaction of the block that it comes with, unless the account made too many today."""
        now = self._kernel.clock.now()
        content = json.dumps(
            {
                "text": report.text,
                "stanzas": report.stanzas,
                "to_origin": report.to_origin,
                "to_others": report.to_others,
            },
            ensure_ascii=False,
        )

        today = cursor.value(
            "SELECT COUNT(*) FROM abuse_report WHERE reporter = ? AND at > ?", str(reporter), now - _DAY
        )
        if today >= self._per_day:
            return
        cursor.run(
            "INSERT INTO abuse_report (at, reporter, jid, reason, content) VALUES (?, ?, ?, ?, ?)",
            now,
            str(reporter),
            jid,
            report.reason,
            content,
        )
        cursor.run(
            "DELETE FROM abuse_report WHERE id NOT IN (SELECT id FROM abuse_report ORDER BY id DESC LIMIT ?)",
            self._kept,
        )

    async def list(self, limit: int) -> list[dict[str, Any]]:
        """Reports, newest first."""
        rows = await self._kernel.db.fetch(
            "SELECT id, at, reporter, jid, reason, content FROM abuse_report ORDER BY id DESC LIMIT ?", limit
        )
        return [
            {"id": id_, "at": stamp(at), "reporter": reporter, "jid": jid, "reason": reason, **json.loads(content)}
            for id_, at, reporter, jid, reason, content in rows
        ]

    async def remove(self, id: int) -> None:
        """Remove a report. Raises `StanzaError(item-not-found)`."""
        gone = await self._kernel.db.write(
            "blocking.report_remove", lambda cursor: cursor.run("DELETE FROM abuse_report WHERE id = ?", id)
        )
        if not gone:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text=f"there is no report {id}")
