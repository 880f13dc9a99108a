"""XEP-0136 for old clients, answered from the archive of XEP-0313: lists, collections, removal, preferences.

Preferences are those of XEP-0441 in other words: a save mode of `false` is `never`, any other one `always`. What else
clients set (OTR modes, expiry, methods) is kept and told again, but does nothing. `<auto/>` of the scope `stream` and the
modes of single conversations (`<session thread='…'/>`) hold as long as the session.

Not here: uploads (manual archiving) and replication; without them everything in a collection came through the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

from beamish.core import events
from beamish.core.clock import parse_stamp, stamp
from beamish.core.events import Context, SessionClosed
from beamish.core.kernel import new_id
from beamish.core.module import IqAnswer, Module, Scope, iq, on
from beamish.core.sessions import Session
from beamish.modules.mam import collections, ids, packing, pages
from beamish.modules.mam.collections import Chosen, Collection
from beamish.modules.mam.keeper import Keeper
from beamish.modules.mam.prefs import Mode, Prefs
from beamish.stream.features import Has, StreamFeature
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed
from beamish.xmpp.payload import rsm
from beamish.xmpp.stanza import IQ, Stanza, content_bytes
from beamish.xmpp.xml import Element, escape_attr, escape_text, to_bytes

ARCHIVE: Final = "urn:xmpp:archive"
STREAM_FEATURE: Final = StreamFeature(
    f"<feature xmlns='{ARCHIVE}'><optional/><default/></feature>".encode(), needs=Has.AUTHENTICATED, forbids=Has.BOUND
)
MAX_THREADS: Final = 100
"""Conversations of one account with modes of their own."""
_PAGE: Final = 100
_PAGE_BYTES: Final = 131_072
"""A page is one stanza here, which clients bound."""
_TOP: Final = (1 << 63) - 1
_OTR: Final = frozenset(("approve", "concede", "forbid", "oppose", "prefer", "require"))
_SAVE: Final = frozenset(("body", "false", "message"))
_USE: Final = frozenset(("concede", "forbid", "prefer"))
_METHODS: Final = ("auto", "local", "manual")


def _tag(name: str) -> str:
    return f"{{{ARCHIVE}}}{name}"


class LegacyArchive(Module):
    """The IQs of XEP-0136; the archive itself is the subclass."""

    _keeper: Keeper

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._threads: dict[str, dict[str, str]] = {}
        """Save modes of conversations by thread, of accounts that have set some."""
        self.choosing = asyncio.Lock()
        """Held by who changes preferences: most requests change a part of what they have read, and one loses no other's."""

    async def prefs_of(self, owner: JID) -> Prefs:
        """What an account wants archived."""
        raise NotImplementedError

    async def set_prefs(self, owner: JID, prefs: Prefs) -> None:
        """Store what an account wants archived."""
        raise NotImplementedError

    def thread_rule(self, owner: JID, stanza: Stanza) -> bool | None:
        """Whether a message is archived because of its thread; None if there is no rule (§2.11)."""
        rules = self._threads.get(owner)
        if rules is None:
            return None
        save = rules.get(stanza.text(f"{{{ns.CLIENT}}}thread") or "")
        return None if save is None else save != "false"

    @on(events.session_closed)
    def _session_closed(self, event: SessionClosed) -> None:
        """Modes of conversations end with the account's last session (§2.2.4)."""
        if self._threads and not self.kernel.sessions.of(event.session.bare).all:
            self._threads.pop(event.session.bare, None)

    # ---- collections (§6) ------------------------------------------------------------------------------------------------

    @iq(get=_tag("list"), scope=Scope.OWN)
    async def legacy_list(self, ctx: Context) -> IqAnswer:
        """Collections in order of time (§6.1)."""
        owner, el = self._asked(ctx)
        chosen, low, high = _chosen(el), _time(el, "start", 0), _time(el, "end", _TOP)
        request = rsm.Request.from_xml(el) or rsm.Request()
        if request.after:
            low = max(low, _position(request.after) + 1)
        if request.before:
            high = min(high, _position(request.before))
        size = request.limit(_PAGE)
        await self._keeper.merged(owner)
        found = await self.db.read(
            "mam.collections",
            lambda c: collections.listed(
                c, owner, chosen, low, high, size, backwards=request.before is not None and request.after is None
            ),
        )
        inner = b"".join(_chat(collection) + b"/>" for collection in found)
        if found:
            inner += to_bytes(rsm.Page(f"{found[0].first:x}", f"{found[-1].first:x}").to_xml())
        return ctx.stanza.reply(f"<list xmlns='{ARCHIVE}'>".encode() + inner + b"</list>")

    @iq(get=_tag("retrieve"), scope=Scope.OWN)
    async def legacy_retrieve(self, ctx: Context) -> IqAnswer:
        """A page of a collection (§6.2)."""
        owner, el = self._asked(ctx)
        contact, start = el.get("with", ""), el.get("start", "")
        if not contact or not start:
            raise StanzaError(Condition.BAD_REQUEST, text="a collection is named by with and start")
        _jid(contact)
        when = _seconds(start)
        request = rsm.Request.from_xml(el) or rsm.Request()
        after, earlier = _uid(request.after), _uid(request.before)
        await self._keeper.merged(owner)

        def read(c: Any) -> tuple[Collection, pages.Result, int]:
            found = collections.find(c, owner, contact, when)
            if found is None:
                raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such collection")
            low, high = found.day
            asked = pages.Query(
                owner,
                found.peer,
                start=low,
                end=high,
                page=request,
                page_after=after,
                page_before=earlier,
                size=_PAGE,
                max_bytes=_PAGE_BYTES,
            )
            result = pages.page(c, asked)
            last = collections.before(c, owner, found, result.rows[0].id) if result.rows else found.first
            return found, result, last

        found, result, last = await self.db.read("mam.collection", read)
        inner = b"".join(_said(result.rows, found.first, last))
        rows = result.rows
        page = rsm.Page(
            ids.text_of(rows[0].id, rows[0].salt) if rows else None,
            ids.text_of(rows[-1].id, rows[-1].salt) if rows else None,
            result.count,
            result.index,
        )
        opening = _chat(found).replace(b"<chat", f"<chat xmlns='{ARCHIVE}'".encode(), 1)
        return ctx.stanza.reply(opening + b">" + inner + to_bytes(page.to_xml()) + b"</chat>")

    @iq(set=_tag("remove"), scope=Scope.OWN)
    async def legacy_remove(self, ctx: Context) -> IqAnswer:
        """Remove one collection, or all of some contacts and a span of time (§6.3)."""
        owner, el = self._asked(ctx)
        chosen = _chosen(el)
        low, high = _time(el, "start", 0), _time(el, "end", _TOP)
        await self._keeper.merged(owner)
        if el.get("start") and not el.get("end") and chosen.contact:
            when = _seconds(el.get("start", ""))
            found = await self.db.read("mam.collection", lambda c: collections.find(c, owner, chosen.contact, when))
            if found is None:
                raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such collection")
            chosen, (low, high) = Chosen(found.peer, exact=True), found.day
        elif el.get("open") in ("true", "1"):  # being recorded are those of today
            low = max(low, ids.first_at(self.kernel.clock.now() // 86_400 * 86_400))
        removed = 0
        while count := await self.db.write("mam.remove", collections.removing(owner, chosen, low, high)):
            removed += count
        if not removed:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such collection")
        return ctx.stanza.reply()

    # ---- preferences (§2) --------------------------------------------------------------------------------------------------

    @iq(get=_tag("pref"), scope=Scope.OWN)
    async def legacy_get_pref(self, ctx: Context) -> IqAnswer:
        """All preferences (§2.3); from now on the session is told of changes."""
        self._asked(ctx)
        session = _session(ctx)
        prefs = await self.prefs_of(session.bare)
        session.notes["mam.pref_asked"] = True
        auto = session.note("mam.auto")
        on_ = prefs.mode != "never" if auto is None else bool(auto)
        inner = f"<auto save='{'true' if on_ else 'false'}'/>" + _default(prefs)
        inner += "".join(_item(prefs, jid) for jid in sorted(prefs.always | prefs.never))
        rules = self._threads.get(session.bare, {})
        inner += "".join(f"<session thread='{escape_attr(t)}' save='{save}'/>" for t, save in rules.items())
        inner += _methods(prefs)
        return ctx.stanza.reply(f"<pref xmlns='{ARCHIVE}'>{inner}</pref>".encode())

    @iq(set=_tag("pref"), scope=Scope.OWN)
    async def legacy_set_pref(self, ctx: Context) -> IqAnswer:
        """Default modes, modes of contacts and conversations, methods (§2.4 to §2.7)."""
        _, el = self._asked(ctx)
        session = _session(ctx)
        async with self.choosing:
            told = await self._choose(session, el)
        self._tell(session.bare, f"<pref xmlns='{ARCHIVE}'>{told}</pref>")
        return ctx.stanza.reply()

    async def _choose(self, session: Session, el: Element) -> str:
        """Set what a `<pref/>` says; what others are told of it."""
        prefs = before = await self.prefs_of(session.bare)
        threads: dict[str, str] = {}
        told = ""
        for child in el:
            if child.tag == _tag("default"):
                prefs = _with_default(prefs, child)
                told += _default(prefs)
            elif child.tag == _tag("item"):
                jid = str(_jid(child.get("jid", "")))
                prefs = _with_item(prefs, jid, child)
                told += _item(prefs, jid)
            elif child.tag == _tag("session"):
                thread = _thread(child)
                threads[thread] = save = child.get("save", "")
                told += f"<session thread='{escape_attr(thread)}' save='{save}'/>"
            elif child.tag == _tag("method"):
                prefs = _with_method(prefs, child)
            elif child.tag == _tag("auto"):
                prefs = self._auto(session, child, prefs)
            else:
                raise StanzaError(Condition.BAD_REQUEST, text="no such preference")
        if any(child.tag == _tag("method") for child in el):
            told += _methods(prefs)
        if threads:
            self._rule(session.bare, threads)
        if prefs != before:
            await self.set_prefs(session.bare, prefs)
        return told

    def _rule(self, owner: JID, threads: Mapping[str, str]) -> None:
        rules = {**self._threads.get(owner, {}), **threads}
        if len(rules) > MAX_THREADS:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text=f"more than {MAX_THREADS} conversations")
        self._threads[owner] = rules

    @iq(set=_tag("itemremove"), scope=Scope.OWN)
    async def legacy_itemremove(self, ctx: Context) -> IqAnswer:
        """Forget the modes of contacts (§2.5)."""
        _, el = self._asked(ctx)
        owner = _session(ctx).bare
        gone = {str(_jid(item.get("jid", ""))) for item in el.iterfind(_tag("item"))}
        async with self.choosing:
            prefs = await self.prefs_of(owner)
            prefs = prefs.with_lists(prefs.mode, prefs.always - gone, prefs.never - gone)
            kept = {jid: value for jid, value in _legacy(prefs, "items").items() if jid not in gone}
            await self.set_prefs(owner, _with_legacy(prefs, "items", kept))
        items = "".join(f"<item jid='{escape_attr(jid)}'/>" for jid in sorted(gone))
        self._tell(owner, f"<itemremove xmlns='{ARCHIVE}'>{items}</itemremove>")
        return ctx.stanza.reply()

    @iq(set=_tag("sessionremove"), scope=Scope.OWN)
    def legacy_sessionremove(self, ctx: Context) -> IqAnswer:
        """Forget the modes of conversations (§2.6)."""
        _, el = self._asked(ctx)
        owner = _session(ctx).bare
        rules = self._threads.get(owner, {})
        for item in el.iterfind(_tag("session")):
            rules.pop(item.get("thread", ""), None)
        if not rules:
            self._threads.pop(owner, None)
        return ctx.stanza.reply()

    @iq(set=_tag("auto"), scope=Scope.OWN)
    async def legacy_auto(self, ctx: Context) -> IqAnswer:
        """Switch automatic archiving on or off, for this session or for good (§5)."""
        _, el = self._asked(ctx)
        session = _session(ctx)
        async with self.choosing:
            prefs = await self.prefs_of(session.bare)
            changed = self._auto(session, el, prefs)
            if changed != prefs:
                await self.set_prefs(session.bare, changed)
        return ctx.stanza.reply()

    def _auto(self, session: Session, el: Element, prefs: Prefs) -> Prefs:
        save = el.get("save")
        if save not in ("true", "1", "false", "0"):
            raise StanzaError(Condition.BAD_REQUEST, text="save must be true or false")
        wanted = save in ("true", "1")
        if el.get("scope", "stream") == "stream":
            session.notes["mam.auto"] = wanted
            return prefs
        session.notes.pop("mam.auto", None)
        if wanted == (prefs.mode != "never"):
            return prefs
        return prefs.with_lists("always" if wanted else "never", prefs.always, prefs.never)

    def _tell(self, owner: JID, content: str) -> None:
        """Changes are told to all sessions that have asked for preferences (§2.3)."""
        for session in self.kernel.sessions.of(owner).all:
            if session.note("mam.pref_asked"):
                session.send(Stanza.build(IQ, "set", id=new_id(), to=session.jid, content=content.encode()))

    def _asked(self, ctx: Context) -> tuple[str, Element]:
        """The owner and the request. Raises `StanzaError(service-unavailable)` if this is switched off."""
        if not self.config.legacy:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE)
        return str(_session(ctx).bare), ctx.stanza.el[0]


def _session(ctx: Context) -> Session:
    if ctx.origin is None:
        raise StanzaError(Condition.FORBIDDEN)
    if ctx.origin.anonymous:
        raise StanzaError(Condition.NOT_ALLOWED, text="anonymous users have no archive")
    return ctx.origin


# ---- requests ------------------------------------------------------------------------------------------------------------


def _jid(text: str) -> JID:
    try:
        return JID.parse(text)
    except JidMalformed as exc:
        raise StanzaError(Condition.JID_MALFORMED, text=str(exc)) from exc


def _chosen(el: Element) -> Chosen:
    contact = el.get("with", "")
    return Chosen(str(_jid(contact)) if contact else "", el.get("exactmatch") in ("true", "1"))


def _seconds(text: str) -> float:
    try:
        return parse_stamp(text)
    except (ValueError, OverflowError) as exc:
        raise StanzaError(Condition.BAD_REQUEST, text=f"{text[:64]} is not a date and time with a zone") from exc


def _time(el: Element, name: str, default: int) -> int:
    text = el.get(name)
    if not text:
        return default
    if text.startswith("0000-"):  # the examples' way to say "from the beginning"; there is no such year
        return 0
    return ids.first_at(max(0.0, _seconds(text)))


def _position(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise pages.missing() from None


def _uid(text: str | None) -> tuple[int, int] | None:
    if not text:
        return None
    found = ids.parse(text)
    if found is None:
        raise pages.missing()
    return found


def _check_modes(el: Element) -> None:
    if el.get("save", "") not in _SAVE:
        if el.get("save") == "stream":
            raise StanzaError(Condition.FEATURE_NOT_IMPLEMENTED, text="streams are not recorded, messages are")
        raise StanzaError(Condition.BAD_REQUEST, text="no such save mode")
    if el.get("otr", "concede") not in _OTR:
        raise StanzaError(Condition.BAD_REQUEST, text="no such OTR mode")
    expire = el.get("expire", "0")
    if not expire.isascii() or not expire.isdigit() or len(expire) > 12:
        raise StanzaError(Condition.BAD_REQUEST, text="expire is a number of seconds")


def _with_default(prefs: Prefs, el: Element) -> Prefs:
    _check_modes(el)
    mode: Mode = "never" if el.get("save") == "false" else "always"
    return _with_legacy(prefs.with_lists(mode, prefs.always, prefs.never), "default", _extra(el))


def _with_item(prefs: Prefs, jid: str, el: Element) -> Prefs:
    _check_modes(el)
    one = frozenset((jid,))
    if el.get("save") == "false":
        prefs = prefs.with_lists(prefs.mode, prefs.always - one, prefs.never | one)
    else:
        prefs = prefs.with_lists(prefs.mode, prefs.always | one, prefs.never - one)
    return _with_legacy(prefs, "items", {**_legacy(prefs, "items"), jid: _extra(el)})


def _thread(el: Element) -> str:
    _check_modes(el)
    thread = el.get("thread", "")
    if not thread or len(thread) > 1_000:
        raise StanzaError(Condition.BAD_REQUEST, text="a conversation is named by its thread")
    return thread


def _with_method(prefs: Prefs, el: Element) -> Prefs:
    kind, use = el.get("type", ""), el.get("use", "")
    if kind not in _METHODS or use not in _USE:
        raise StanzaError(Condition.BAD_REQUEST, text="no such method, or no such use of it")
    return _with_legacy(prefs, "methods", {**_legacy(prefs, "methods"), kind: use})


# ---- answers -------------------------------------------------------------------------------------------------------------


def _chat(found: Collection) -> bytes:
    start = stamp(ids.time_of(found.first))
    # a version counts changes from zero (§4.4); what changes a collection is a message more
    return f"<chat with='{escape_attr(found.peer)}' start='{start}' version='{found.messages - 1}'".encode()


def _said(rows: tuple[pages.Row, ...], first: int, last: int) -> list[bytes]:
    """The messages of a page; `last` is the one before it. Seconds add up to the right time (§4.6)."""
    start = ids.time_of(first)
    before = int(ids.time_of(last) - start)
    out = []
    for row in rows:
        stanza = Stanza.parse(row.wire)
        bodies = [f"<body>{escape_text(el.text or '')}</body>" for el in stanza.el.iterfind(f"{{{ns.CLIENT}}}body")]
        inner = "".join(bodies).encode() or b"".join(
            content_bytes(child) for child in stanza.el if not str(child.tag).startswith(f"{{{ns.CLIENT}}}")
        )
        if not inner:
            continue  # they must not be empty
        at = int(ids.time_of(row.id) - start)
        tag = b"to" if row.kind & packing.SENT else b"from"
        out.append(b"<%b secs='%d'>%b</%b>" % (tag, at - before, inner, tag))
        before = at
    return out


def _legacy(prefs: Prefs, key: str) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", prefs.legacy.get(key, {}))


def _with_legacy(prefs: Prefs, key: str, value: Mapping[str, Any]) -> Prefs:
    return replace(prefs, legacy={**prefs.legacy, key: dict(value)}, set_by_owner=True)


def _extra(el: Element) -> dict[str, str]:
    return {name: el.get(name, "") for name in ("otr", "expire", "save") if el.get(name)}


def _modes(extra: Mapping[str, Any], archived: bool) -> str:
    save = extra.get("save", "message")
    if not archived:
        save = "false"
    elif save == "false":  # set otherwise by XEP-0441 since
        save = "message"
    expire = f" expire='{extra['expire']}'" if extra.get("expire") and archived else ""
    return f"otr='{extra.get('otr', 'concede')}' save='{save}'{expire}"


def _default(prefs: Prefs) -> str:
    unset = "" if prefs.set_by_owner else " unset='true'"
    return f"<default {_modes(_legacy(prefs, 'default'), prefs.mode != 'never')}{unset}/>"


def _item(prefs: Prefs, jid: str) -> str:
    extra = _legacy(prefs, "items").get(jid, {})
    return f"<item jid='{escape_attr(jid)}' {_modes(extra, jid not in prefs.never)}/>"


def _methods(prefs: Prefs) -> str:
    known = {"auto": "prefer", "local": "concede", "manual": "forbid", **_legacy(prefs, "methods")}
    return "".join(f"<method type='{kind}' use='{known[kind]}'/>" for kind in _METHODS)
