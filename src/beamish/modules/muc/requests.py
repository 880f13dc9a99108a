"""IQs to rooms: configuration, affiliations and roles, and the smaller things rooms answer (XEP-0045 §8 to §10).

What changes a room for good is done one at a time for each room: checked, committed, applied, answered.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from beamish.core.events import Context
from beamish.core.iq import check_request
from beamish.core.later import is_later
from beamish.modules.muc.administration import (
    AffiliationItem,
    RoleItem,
    actor_nick,
    actor_role,
    apply_affiliations,
    apply_config,
    change_roles,
    config_changed,
    destroy,
    plan_affiliations,
    plan_lists,
)
from beamish.modules.muc.config_form import Lists, from_submission, to_form
from beamish.modules.muc.names import (
    FASTEN,
    MAM,
    MODERATE,
    MUC_ADMIN,
    MUC_OWNER,
    REGISTER,
    ROOMCONFIG,
    VCARD,
)
from beamish.modules.muc.occupants import Effect
from beamish.modules.muc.privileges import Affiliation, Role, parse_affiliation, parse_role
from beamish.modules.muc.room import Room
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID, JidMalformed, prepare_resource
from beamish.xmpp.payload import forms
from beamish.xmpp.payload.forms import Submission
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, escape_attr, escape_text, make, to_bytes

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

MAX_ITEMS: Final = 1000
"""Changes in one request."""
MAX_REASON: Final = 1024
_ITEM: Final = f"{{{MUC_ADMIN}}}item"
_REASON: Final = f"{{{MUC_ADMIN}}}reason"

Answer = Stanza | None
_Handler = Callable[[Context, Room, Element], Answer | Awaitable[Answer]]


class Requests:
    """Answers IQs to the bare address of a room. Handlers return the reply, or None if they sent it themselves."""

    def __init__(self, muc: MucModule) -> None:
        self._muc = muc
        self._handlers: dict[tuple[str, str], _Handler] = {
            ("get", f"{{{MUC_OWNER}}}query"): self.owner_get,
            ("set", f"{{{MUC_OWNER}}}query"): self.owner_set,
            ("get", f"{{{MUC_ADMIN}}}query"): self.admin_get,
            ("set", f"{{{MUC_ADMIN}}}query"): self.admin_set,
            ("get", f"{{{REGISTER}}}query"): self.register_get,
            ("set", f"{{{REGISTER}}}query"): self.register_set,
            ("get", f"{{{VCARD}}}vCard"): self.vcard_get,
            ("set", f"{{{VCARD}}}vCard"): self.vcard_set,
            ("get", f"{{{ns.PING}}}ping"): self.ping,
            ("get", f"{{{ns.DISCO_INFO}}}query"): muc.discovery.room_info,
            ("get", f"{{{ns.DISCO_ITEMS}}}query"): muc.discovery.room_items,
            ("get", f"{{{MAM}}}query"): muc.records.form,
            ("set", f"{{{MAM}}}query"): muc.records.query,
            ("get", f"{{{MAM}}}metadata"): muc.records.metadata,
            ("set", f"{{{MODERATE}}}moderate"): muc.records.moderate,
            ("set", f"{{{FASTEN}}}apply-to"): muc.records.moderate,
            ("set", "{http://jabber.org/protocol/commands}command"): muc.wardrobe.command,
        }

    def iq(self, ctx: Context) -> Awaitable[None] | None:
        """An IQ to a room. Raises `StanzaError`."""
        stanza = ctx.stanza
        assert stanza.to is not None
        if stanza.type in ("result", "error"):
            return self._muc.kernel.iq.handle(ctx)  # an answer to a ping of ours
        payload = check_request(stanza)
        handler = self._handlers.get((stanza.type, str(payload.tag)))
        if handler is None:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE)
        room = self._muc.rooms.get(stanza.to.bare)
        if room is None:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such room")
        answer = handler(ctx, room, payload)
        if is_later(answer):
            return self._later(ctx, answer)
        if isinstance(answer, Stanza):
            self._muc.kernel.router.answer(ctx, answer)
        return None

    async def _later(self, ctx: Context, answer: Awaitable[Answer]) -> None:
        reply = await answer
        if reply is not None:
            self._muc.kernel.router.answer(ctx, reply)

    def ping(self, ctx: Context, room: Room, payload: Element) -> Answer:
        """XEP-0199 to the room itself."""
        return ctx.stanza.reply()

    # ---- owners -----------------------------------------------------------------------------------------------------

    def owner_get(self, ctx: Context, room: Room, query: Element) -> Answer:
        """The configuration form (§10.1.3, §10.2)."""
        _require_owner(ctx, room)
        admins = [jid for jid, _ in room.listed(Affiliation.ADMIN)]
        form = to_form(room.config, f"Configuration of {room.jid}", room.owners, admins).to_xml()
        return ctx.stanza.reply(make(f"{{{MUC_OWNER}}}query", None, form))

    def owner_set(self, ctx: Context, room: Room, query: Element) -> Awaitable[Answer]:
        """A configuration, its cancellation, or the end of the room (§10.1, §10.2, §10.9)."""
        _require_owner(ctx, room)
        end = query.find(f"{{{MUC_OWNER}}}destroy")
        if end is not None:
            return self._destroy(ctx, room, end)
        x = query.find(forms.X)
        if x is None:
            raise StanzaError(Condition.BAD_REQUEST, text="the form is missing")
        return self._configure(ctx, room, Submission.from_xml(x, ROOMCONFIG))

    async def _configure(self, ctx: Context, room: Room, submitted: Submission) -> Answer:
        actor = _sender(ctx)
        async with self._muc.exclusive(room):
            _require_owner(ctx, room)
            if submitted.cancelled:
                if room.locked:
                    await self._carry_out(ctx, room, destroy(room))
                    return None
                return ctx.stanza.reply()
            config, lists = (room.config, Lists()) if not submitted.fields else from_submission(room.config, submitted)
            if config.max_users > self._muc.config.max_occupants:
                raise forms.unacceptable("muc#roomconfig_maxusers", f"at most {self._muc.config.max_occupants}")
            changes = plan_lists(room, actor, lists)
            if room.locked:
                # what the creator configured is stored as one, so that a crash leaves either no room or this one
                await self._muc.store_new(room, config, [(c.jid, c.after) for c in changes])
            elif config != room.config or changes:
                await self._muc.store.save(
                    room.jid, config if config != room.config else None, [(c.jid, c.after) for c in changes]
                )
            await self._carry_out(ctx, room, apply_config(room, config, changes, actor_nick(room, actor)))
        return None

    async def accept(self, room: Room, actor: JID) -> None:
        """An owner takes a new room as it is, without a form (§10.1.2). Raises `StanzaError(item-not-found)` if it is gone."""
        async with self._muc.exclusive(room):
            if not room.locked:
                return
            await self._muc.store_new(room, room.config, ())
            rest = self._muc.carry_out(room, apply_config(room, room.config, (), actor_nick(room, actor)))
        if rest is not None:
            await rest

    async def _destroy(self, ctx: Context, room: Room, end: Element) -> Answer:
        try:
            alternate = JID.parse(end.get("jid", "")) if end.get("jid") else None
        except JidMalformed as exc:
            raise StanzaError(Condition.JID_MALFORMED, text="the alternate venue is no address") from exc
        reason = (end.findtext(f"{{{MUC_OWNER}}}reason") or "")[:MAX_REASON]
        password = (end.findtext(f"{{{MUC_OWNER}}}password") or "")[:MAX_REASON]
        async with self._muc.exclusive(room):
            _require_owner(ctx, room)
            await self._muc.store.delete(room.jid)
            await self._carry_out(ctx, room, destroy(room, alternate, reason, password))
        return None

    async def _carry_out(self, ctx: Context, room: Room, effects: Sequence[Effect]) -> None:
        """Carry out what was committed; the request is answered where the rules say so."""
        rest = self._muc.carry_out(room, effects, ctx)
        if rest is not None:
            await rest

    # ---- admins and moderators --------------------------------------------------------------------------------------

    def admin_get(self, ctx: Context, room: Room, query: Element) -> Answer:
        """Lists by role or by affiliation (§8.5, §9.2, §9.5, §9.8, §10.5, §10.8)."""
        item = query.find(_ITEM)
        if item is None or ("role" in item.attrib) == ("affiliation" in item.attrib):
            raise StanzaError(Condition.BAD_REQUEST, text="ask for one role or one affiliation")
        who = _sender(ctx)
        if "role" in item.attrib:
            return ctx.stanza.reply(self._by_role(room, who, parse_role(item.get("role", ""))))
        return ctx.stanza.reply(self._by_affiliation(room, who, parse_affiliation(item.get("affiliation", ""))))

    def _by_role(self, room: Room, who: JID, role: Role) -> bytes:
        if actor_role(room, who) is not Role.MODERATOR:
            raise StanzaError(Condition.FORBIDDEN, text="only moderators see these lists")
        items = "".join(
            f"<item nick='{escape_attr(o.nick)}' role='{o.role.label}' affiliation='{o.affiliation.label}'"
            + (f" jid='{escape_attr(o.main.jid)}'/>" if o.main is not None else "/>")
            for o in room.occupants.values()
            if o.role is role
        )
        return f"<query xmlns='{MUC_ADMIN}'>{items}</query>".encode()

    def _by_affiliation(self, room: Room, who: JID, affiliation: Affiliation) -> bytes:
        if not _may_list(room, who, affiliation):
            raise StanzaError(Condition.FORBIDDEN, text="you may not see this list")
        items = []
        for jid, standing in room.listed(affiliation):
            nick = f" nick='{escape_attr(standing.nick)}'" if standing.nick else ""
            reason = f"<reason>{escape_text(standing.reason)}</reason>" if standing.reason else ""
            items.append(
                f"<item affiliation='{affiliation.label}' jid='{escape_attr(jid)}'{nick}"
                + (f">{reason}</item>" if reason else "/>")
            )
        return f"<query xmlns='{MUC_ADMIN}'>{''.join(items)}</query>".encode()

    def admin_set(self, ctx: Context, room: Room, query: Element) -> Awaitable[Answer] | Answer:
        """Changes of roles or of affiliations; all or nothing."""
        items = query.findall(_ITEM)
        if not items or len(items) > MAX_ITEMS:
            raise StanzaError(Condition.BAD_REQUEST, text=f"a request has from 1 to {MAX_ITEMS} items")
        with_role = sum("role" in item.attrib for item in items)
        with_affiliation = sum("affiliation" in item.attrib for item in items)
        if with_role and with_affiliation:
            raise StanzaError(Condition.BAD_REQUEST, text="change roles or affiliations, not both at once")  # §15.4
        if with_role == len(items):
            roles = [RoleItem(item.get("nick", ""), parse_role(item.get("role", "")), _reason(item)) for item in items]
            return self._roles(ctx, room, roles)
        if with_affiliation != len(items):
            raise StanzaError(Condition.BAD_REQUEST, text="an item has neither role nor affiliation")
        return self._affiliations(ctx, room, [_affiliation_item(room, item) for item in items])

    def _roles(self, ctx: Context, room: Room, items: list[RoleItem]) -> Awaitable[Answer] | Answer:
        rest = self._muc.carry_out(room, change_roles(room, _sender(ctx), items), ctx)
        return None if rest is None else _nothing(rest)

    async def _affiliations(self, ctx: Context, room: Room, items: list[AffiliationItem]) -> Answer:
        actor = _sender(ctx)
        async with self._muc.exclusive(room):
            changes = plan_affiliations(room, actor, items)
            if not room.locked:
                await self._muc.store.save(room.jid, None, [(c.jid, c.after) for c in changes])
            await self._carry_out(ctx, room, apply_affiliations(room, changes, actor_nick(room, actor)))
        return None

    # ---- registration, vCard ----------------------------------------------------------------------------------------

    def register_get(self, ctx: Context, room: Room, query: Element) -> Answer:
        """§7.10."""
        return ctx.stanza.reply(self._muc.approvals.registration_form(_unlocked(room), _sender(ctx)))

    async def register_set(self, ctx: Context, room: Room, query: Element) -> Answer:
        """§7.10. Nothing is kept of those who will never be back."""
        if ctx.origin is not None and ctx.origin.anonymous:
            raise StanzaError(Condition.NOT_ALLOWED, text="a nickname is kept for those who have an account")
        await self._muc.approvals.register(_unlocked(room), _sender(ctx), query)
        return ctx.stanza.reply()

    async def vcard_get(self, ctx: Context, room: Room, vcard: Element) -> Answer:
        """The room's vCard with its picture (XEP-0486 §4.3)."""
        stored = await self._muc.store.vcard(room.jid)
        return ctx.stanza.reply(stored or make(f"{{{VCARD}}}vCard"))

    async def vcard_set(self, ctx: Context, room: Room, vcard: Element) -> Answer:
        """Owners set the room's picture (XEP-0486 §4.2)."""
        _require_owner(ctx, room)
        data = to_bytes(vcard) if len(vcard) else b""
        if len(data) > self._muc.config.vcard_bytes:
            raise StanzaError(Condition.POLICY_VIOLATION, text="this vCard is too large")
        hashes = _picture_hashes(vcard)
        async with self._muc.exclusive(_unlocked(room)):
            await self._muc.store.set_vcard(room.jid, data, hashes)
            room.avatar_hashes = hashes
        self._muc.kernel.router.answer(ctx, ctx.stanza.reply())
        rest = self._muc.carry_out(room, config_changed(room))
        if rest is not None:
            await rest
        return None


async def _nothing(rest: Awaitable[None]) -> Answer:
    await rest
    return None


def _sender(ctx: Context) -> JID:
    assert ctx.stanza.sender is not None
    return ctx.stanza.sender


def _unlocked(room: Room) -> Room:
    if room.locked:
        raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such room")
    return room


def _require_owner(ctx: Context, room: Room) -> None:
    if room.affiliation_of(_sender(ctx)) is not Affiliation.OWNER:
        raise StanzaError(Condition.FORBIDDEN, text="only owners may do this")


def _reason(item: Element) -> str:
    return (item.findtext(_REASON) or "")[:MAX_REASON]


def _affiliation_item(room: Room, item: Element) -> AffiliationItem:
    """An item of a request: by address; by nickname for the clients that have nothing else."""
    text = item.get("jid")
    nick = item.get("nick")
    if text is None:
        occupant = room.find(nick or "")
        if occupant is None:
            raise StanzaError(Condition.BAD_REQUEST, text="an affiliation belongs to an address")
        jid, nick = occupant.bare, None
    else:
        try:
            jid = JID.parse(text).bare  # §10.3: a full JID means its bare one
        except JidMalformed as exc:
            raise StanzaError(Condition.JID_MALFORMED, text="an item has no proper address") from exc
        if nick:
            try:
                nick = prepare_resource(nick)
            except JidMalformed as exc:
                raise StanzaError(Condition.NOT_ACCEPTABLE, text="this cannot be a nickname") from exc
    return AffiliationItem(jid, parse_affiliation(item.get("affiliation", "")), nick, _reason(item))


def _may_list(room: Room, who: JID, affiliation: Affiliation) -> bool:
    """§9.2, §9.5, §10.5: admins see all lists; of others see those of a non-anonymous room who may, by configuration."""
    own = room.affiliation_of(who)
    if own >= Affiliation.ADMIN:
        if affiliation >= Affiliation.ADMIN and own is not Affiliation.OWNER:
            return room.config.non_anonymous
        return True
    if affiliation is Affiliation.OUTCAST or own is Affiliation.OUTCAST:
        return False
    roles = {o.role for o in room.of_user(who.bare)}
    if any(role.label in room.config.get_member_list for role in roles):
        return room.config.non_anonymous or (Role.MODERATOR in roles and affiliation is Affiliation.MEMBER)
    return own is Affiliation.MEMBER and room.config.non_anonymous and not roles


def _picture_hashes(vcard: Element) -> tuple[str, ...]:
    """SHA-1 of every picture (XEP-0153 §4.1, XEP-0486 §6.1). Raises `StanzaError(bad-request)` for broken base64."""
    hashes = []
    for el in vcard.iterfind(f"{{{VCARD}}}PHOTO/{{{VCARD}}}BINVAL"):
        try:
            data = base64.b64decode("".join((el.text or "").split()), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise StanzaError(Condition.BAD_REQUEST, text="a picture is not base64") from exc
        if data:
            hashes.append(hashlib.sha1(data, usedforsecurity=False).hexdigest())
    return tuple(hashes)
