"""Queries of XEP-0313 as XML: what a client asks, and the results as bytes (stored stanzas are never parsed again)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from beamish.core.clock import parse_stamp, stamp
from beamish.core.content import RETRACT
from beamish.modules.mam import ids
from beamish.modules.mam.pages import Query, Result, Row, missing
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload import rsm
from beamish.xmpp.payload.forms import Field, Form, Submission, X
from beamish.xmpp.stanza import MESSAGE, Stanza
from beamish.xmpp.xml import Element, escape_attr, to_bytes

MAM: Final = "urn:xmpp:mam:2"
EXTENDED: Final = "urn:xmpp:mam:2#extended"
GROUPCHAT_FIELD: Final = "urn:xmpp:mam:2#groupchat-field"
FULLTEXT: Final = "urn:xmpp:fulltext:0"
FORWARD: Final = "urn:xmpp:forward:0"
MAX_IDS: Final = 250
MAX_TEXT: Final = 1_000

_FULLTEXT_FIELD: Final = f"{{{FULLTEXT}}}fulltext"
_FIELDS: Final = frozenset(
    ("with", "start", "end", "before-id", "after-id", "ids", "include-groupchat", _FULLTEXT_FIELD)
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A query and how its results are to be sent: newest first (`flip`), and with which `queryid`."""

    query: Query
    flip: bool
    query_id: str


def read(el: Element, owner: JID, most: int, usual: int) -> Asked:
    """Read `<query/>` sent to an archive; pages hold at most `most` messages, `usual` if the client does not say.

    Raises `StanzaError` (XEP-0313 §4.1).
    """
    x = el.find(X)
    form = Submission() if x is None else Submission.from_xml(x, MAM)
    for var in form.fields:
        if var not in _FIELDS:
            raise StanzaError(Condition.FEATURE_NOT_IMPLEMENTED, text=f"there is no field {var}")
    form.boolean("include-groupchat")  # either way: this archive holds no messages of rooms
    contacts = form.jids("with")
    if contacts is not None and len(contacts) > 1:
        raise StanzaError(Condition.BAD_REQUEST, text="with names one address")
    contact = contacts[0] if contacts else None
    chosen = form.texts("ids")
    if chosen is not None and len(chosen) > MAX_IDS:
        raise StanzaError(Condition.BAD_REQUEST, text=f"more than {MAX_IDS} ids")
    text = form.text(_FULLTEXT_FIELD) or ""
    if len(text) > MAX_TEXT:
        raise StanzaError(Condition.BAD_REQUEST, text="too long a text to look for")
    page = rsm.Request.from_xml(el) or rsm.Request()
    if page.max is None and not chosen:  # whoever names messages wants all of them
        page = replace(page, max=usual)
    whole = Query(owner)
    query = Query(
        str(owner),
        with_bare="" if contact is None else str(contact.bare),
        with_resource="" if contact is None else contact.resource,
        start=_time(form, "start", ids.first_at, whole.start),
        end=_time(form, "end", ids.first_after, whole.end),
        before_id=_id(form.text("before-id")),
        after_id=_id(form.text("after-id")),
        ids=None if not chosen else tuple(_known(uid) for uid in chosen),
        text=text,
        page=page,
        page_after=_id(page.after),
        page_before=_id(page.before),
        size=most,
    )
    return Asked(query, el.find(f"{{{MAM}}}flip-page") is not None, el.get("queryid", ""))


def _time(form: Submission, var: str, bound: Callable[[float], int], default: int) -> int:
    text = form.text(var)
    if not text:
        return default
    try:
        return bound(parse_stamp(text.strip()))
    except (ValueError, OverflowError) as exc:
        raise StanzaError(Condition.BAD_REQUEST, text=f"{var} is not a date and time with a zone") from exc


def _id(text: str | None) -> tuple[int, int] | None:
    return _known(text) if text else None


def _known(text: str) -> tuple[int, int]:
    id_ = ids.parse(text)
    if id_ is None:  # no id of ours: it cannot be in the archive
        raise missing()
    return id_


def form() -> bytes:
    """The fields that queries may have (§4.1.5)."""
    x = Form.of(
        "form",
        MAM,
        (
            Field("with", "jid-single"),
            Field("start", "text-single"),
            Field("end", "text-single"),
            Field("before-id", "text-single"),
            Field("after-id", "text-single"),
            Field("ids", "list-multi", datatype="xs:string", open=True),
            Field("include-groupchat", "boolean"),
            Field(_FULLTEXT_FIELD, "text-single"),
        ),
    ).to_xml()
    return b"<query xmlns='" + MAM.encode() + b"'>" + to_bytes(x) + b"</query>"


def results(asked: Asked, rows: tuple[Row, ...]) -> list[bytes]:
    """The content of one message for each row (§4.2), in the order of sending."""
    query_id = f" queryid='{escape_attr(asked.query_id)}'" if asked.query_id else ""
    opening = f"<result xmlns='{MAM}'{query_id} id='"
    return [_result(opening, row) for row in (reversed(rows) if asked.flip else rows)]


def _result(opening: str, row: Row) -> bytes:
    start = (
        f"{opening}{ids.text_of(row.id, row.salt)}'><forwarded xmlns='{FORWARD}'>"
        f"<delay xmlns='{ns.DELAY}' stamp='{stamp(ids.time_of(row.id))}'/>"
    )
    return b"".join((start.encode(), standalone(row.wire), b"</forwarded></result>"))


def standalone(wire: bytes) -> bytes:
    """A message's bytes with its namespace, to stand inside an element of another one."""
    return b"<message xmlns='jabber:client'" + wire[8:]


def fin(result: Result) -> bytes:
    """The end of a page (§4.2, §4.3)."""
    rows = result.rows
    first = ids.text_of(rows[0].id, rows[0].salt) if rows else None
    last = ids.text_of(rows[-1].id, rows[-1].salt) if rows else None
    page = rsm.Page(first, last, result.count, result.index).to_xml()
    complete = " complete='true'" if result.complete else ""
    return f"<fin xmlns='{MAM}'{complete}>".encode() + to_bytes(page) + b"</fin>"


def tombstone(wire: bytes, by: str, when: float) -> bytes:
    """What stands in the place of a retracted message (XEP-0424 §5): its addresses, type and id, and who retracted when."""
    old = Stanza.parse(wire)
    inner = f"<retracted xmlns='{RETRACT}' id='{escape_attr(by)}' stamp='{stamp(when)}'/>"
    return Stanza.build(
        MESSAGE, old.type, id=old.id, sender=old.sender, to=old.to, lang=old.lang, content=inner.encode()
    ).to_wire()


def metadata(ends: tuple[tuple[int, int], tuple[int, int]] | None) -> bytes:
    """The ends of an archive (§5)."""
    inner = ""
    if ends is not None:
        for tag, (number, salt) in zip(("start", "end"), ends, strict=True):
            inner += f"<{tag} id='{ids.text_of(number, salt)}' timestamp='{stamp(ids.time_of(number))}'/>"
    return f"<metadata xmlns='{MAM}'>{inner}</metadata>".encode()
