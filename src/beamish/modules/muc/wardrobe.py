"""XEP-0317: hats: titles that a room's owners and admins make and give, shown in presence.

The commands of the XEP are one step each: asked for without a form they answer with it, with a form they are done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from beamish.core.disco import DiscoItem
from beamish.core.events import Context
from beamish.core.kernel import new_id
from beamish.modules.muc.administration import config_changed
from beamish.modules.muc.hats import Hat
from beamish.modules.muc.names import COMMANDS
from beamish.modules.muc.occupants import Effect
from beamish.modules.muc.privileges import Affiliation
from beamish.modules.muc.room import Room
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload import forms
from beamish.xmpp.payload.forms import Field, Form, Option, Submission
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, make

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

MAX_HATS: Final = 100
"""Hats of one room."""
MAX_WORN: Final = 10
"""Hats of one user in a room."""
MAX_WEARERS: Final = 10_000
_FORM: Final = "urn:xmpp:hats:commands"
_PREFIX: Final = "urn:xmpp:hats:commands:"
_TITLES: Final = {
    "create": "Create a hat",
    "destroy": "Destroy a hat",
    "list": "List hats",
    "assign": "Give a hat",
    "unassign": "Take a hat",
    "list-assigned": "List who wears which hat",
}
_Action = Callable[[Room, Submission], Awaitable[list[Effect]]]


class Wardrobe:
    """Hats and the commands that manage them."""

    def __init__(self, muc: MucModule) -> None:
        self._muc = muc
        self._actions: dict[str, _Action] = {
            "create": self._create,
            "destroy": self._destroy,
            "assign": self._assign,
            "unassign": self._unassign,
        }

    def hash(self, room: Room) -> str:
        """A value that changes whenever the list of hats does (§3)."""
        text = "\n".join(f"{hat.uri} {hat.title} {hat.hue}" for _, hat in sorted(room.hats.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    def commands(self, room: Room, who: JID | None) -> list[DiscoItem]:
        """The commands that somebody may run."""
        if who is None or room.affiliation_of(who) < Affiliation.ADMIN:
            return []
        return [DiscoItem(room.jid, _PREFIX + name, title) for name, title in _TITLES.items()]

    def command(self, ctx: Context, room: Room, el: Element) -> Stanza | Awaitable[Stanza | None]:
        """Run a command (§4.2 to §4.7), for admins and owners. Raises `StanzaError`."""
        node = el.get("node", "")
        name = node.removeprefix(_PREFIX)
        who = ctx.stanza.sender
        assert who is not None
        if name == node or name not in _TITLES:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such command")
        if room.affiliation_of(who) < Affiliation.ADMIN:
            raise StanzaError(Condition.FORBIDDEN, text="only admins and owners manage hats")
        if room.locked:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such room")
        if el.get("action") == "cancel":
            return _answer(ctx, node, el.get("sessionid") or new_id(), "canceled", None)
        if name == "list":
            return _answer(ctx, node, new_id(), "completed", _table(("title", "uri", "hue"), _rows(room)))
        if name == "list-assigned":
            rows = _worn_rows(room)
            return _answer(ctx, node, new_id(), "completed", _table(("jid", "uri", "title", "hue"), rows))
        x = el.find(forms.X)
        if x is None:
            if name != "create" and not room.hats:
                raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no hat yet")
            return _answer(ctx, node, new_id(), "executing", _form(name, room))
        return self._run(ctx, room, node, name, Submission.from_xml(x, _FORM), el.get("sessionid") or new_id())

    async def _run(
        self, ctx: Context, room: Room, node: str, name: str, submitted: Submission, session: str
    ) -> Stanza | None:
        if submitted.cancelled:
            return _answer(ctx, node, session, "canceled", None)
        async with self._muc.exclusive(room):
            effects = await self._actions[name](room, submitted)
        self._muc.kernel.router.answer(ctx, _answer(ctx, node, session, "completed", None))
        rest = self._muc.carry_out(room, effects)
        if rest is not None:
            await rest
        return None

    async def _create(self, room: Room, submitted: Submission) -> list[Effect]:
        uri, title = submitted.text("hats#uri") or "", submitted.text("hats#title") or ""
        hue = submitted.text("hats#hue") or ""
        if not uri or not title or max(len(uri), len(title), len(hue)) > 1024:
            raise StanzaError(Condition.BAD_REQUEST, text="a hat has a URI and a title, of moderate length")
        if uri not in room.hats and len(room.hats) >= MAX_HATS:
            raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="this room has too many hats")
        hat = Hat(uri, title, hue)
        await self._muc.store.set_hat(room.jid, hat)
        room.hats[uri] = hat
        wearers = {jid for jid, uris in room.wearers.items() if uri in uris}
        return [*_refresh(room, wearers), *config_changed(room)]

    async def _destroy(self, room: Room, submitted: Submission) -> list[Effect]:
        uri = self._known(room, submitted)
        await self._muc.store.remove_hat(room.jid, uri)
        wearers = {jid for jid, uris in room.wearers.items() if uri in uris}
        for jid in wearers:
            _wear(room, jid, tuple(u for u in room.wearers[jid] if u != uri))
        del room.hats[uri]
        return [*_refresh(room, wearers), *config_changed(room)]

    async def _assign(self, room: Room, submitted: Submission) -> list[Effect]:
        uri, jid = self._known(room, submitted), _wearer(submitted)
        worn = room.wearers.get(jid, ())
        if uri not in worn:
            if len(worn) >= MAX_WORN or (not worn and len(room.wearers) >= MAX_WEARERS):
                raise StanzaError(Condition.RESOURCE_CONSTRAINT, text="too many hats are worn")
            await self._muc.store.set_wearer(room.jid, jid, uri, True)
            _wear(room, jid, (*worn, uri))
        return _refresh(room, {jid})

    async def _unassign(self, room: Room, submitted: Submission) -> list[Effect]:
        uri, jid = self._known(room, submitted), _wearer(submitted)
        worn = room.wearers.get(jid, ())
        if uri not in worn:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="this hat is not worn by this user")
        await self._muc.store.set_wearer(room.jid, jid, uri, False)
        _wear(room, jid, tuple(u for u in worn if u != uri))
        return _refresh(room, {jid})

    def _known(self, room: Room, submitted: Submission) -> str:
        uri = submitted.text("hats#uri") or submitted.text("hat") or ""
        if uri not in room.hats:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such hat")
        return uri


def _wearer(submitted: Submission) -> JID:
    jids = submitted.jids("hats#jid")
    if not jids:
        raise StanzaError(Condition.BAD_REQUEST, text="whose hat?")
    return jids[0].bare


def _wear(room: Room, jid: JID, uris: tuple[str, ...]) -> None:
    if uris:
        room.wearers[jid] = uris
    else:
        room.wearers.pop(jid, None)


def _refresh(room: Room, users: set[JID]) -> list[Effect]:
    """Presence of those whose hats changed (§4.1)."""
    effects: list[Effect] = []
    for occupant in room.occupants.values():
        if occupant.bare in users:
            occupant.hats = room.hat_bytes(occupant.bare)
            occupant.changed()
            effects += room.show(occupant)
    return effects


def _answer(ctx: Context, node: str, session: str, status: str, x: Element | None) -> Stanza:
    attrs = {"node": node, "sessionid": session, "status": status}
    return ctx.stanza.reply(make(f"{{{COMMANDS}}}command", attrs, x))


def _form(name: str, room: Room) -> Element:
    hats = tuple(Option(hat.uri, hat.title) for hat in room.hats.values())
    which = Field("hats#uri", "list-single", (), "Hat", hats, required=True)
    whose = Field("hats#jid", "jid-single", (), "User", required=True)
    fields = {
        "create": (
            Field("hats#title", "text-single", (), "Title", required=True),
            Field("hats#uri", "text-single", (), "URI", required=True),
            Field("hats#hue", "text-single", (), "Hue"),
        ),
        "destroy": (which,),
        "assign": (whose, which),
        "unassign": (whose, which),
    }[name]
    return Form.of("form", _FORM, fields, title=_TITLES[name]).to_xml()


_COLUMNS: Final = {
    "jid": Field("hats#jid", "jid-single", (), "User"),
    "title": Field("hats#title", "text-single", (), "Title"),
    "uri": Field("hats#uri", "text-single", (), "URI"),
    "hue": Field("hats#hue", "text-single", (), "Hue"),
}


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Element:
    reported = tuple(_COLUMNS[name] for name in columns)
    items = tuple(tuple(Field(c.var, "", (v,)) for c, v in zip(reported, row, strict=True)) for row in rows)
    return Form("result", reported=reported, items=items).to_xml()


def _rows(room: Room) -> list[tuple[str, ...]]:
    return [(hat.title, hat.uri, hat.hue) for hat in room.hats.values()]


def _worn_rows(room: Room) -> list[tuple[str, ...]]:
    return [
        (str(jid), uri, room.hats[uri].title, room.hats[uri].hue)
        for jid, uris in sorted(room.wearers.items())[:1000]
        for uri in uris
    ]
