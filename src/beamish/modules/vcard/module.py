"""XEP-0054, XEP-0153, XEP-0292 and XEP-0398: profiles and pictures of users.

A vCard is set by its owner and read by anybody. Where personal eventing is there, it is the same profile as the vCard4 and
the same picture as the avatar in the account's nodes, whichever of them a client uses. The hash of the picture is put into
presence, so that clients need not know their own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from pydantic import Field

from beamish.core import events
from beamish.core.events import AccountEvent, Context, Exporting, Published
from beamish.core.hooks import Outcome
from beamish.core.later import is_later
from beamish.core.module import IqAnswer, Module, ModuleConfig, Scope, Xep, iq, on
from beamish.core.services import PepService, PresenceService
from beamish.modules.vcard import store
from beamish.modules.vcard.convert import TEMP, V4, to_temp, to_v4
from beamish.modules.vcard.photo import DATA, METADATA, Photo, announce, decode, from_vcard, info_of, replace
from beamish.modules.vcard.store import Profile, Profiles
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.stanza import PRESENCE, Stanza, content_bytes
from beamish.xmpp.xml import Element, from_bytes, to_bytes

log = structlog.get_logger(__name__)

VCARD: Final = f"{{{TEMP}}}vCard"
VCARD4_NODE: Final = "urn:xmpp:vcard4"
CONVERSION: Final = "urn:xmpp:pep-vcard-conversion:0"
_CURRENT: Final = "current"
_OPEN: Final = {"access_model": "open", "persist_items": "true"}
_HASHES: Final = 50_000
"""Hashes of photos kept in memory, about 150 bytes each."""
_EMPTY: Final = b"<vCard xmlns='vcard-temp'/>"
_SERVER: Final = b"<vCard xmlns='vcard-temp'><FN>%b</FN><JABBERID>%b</JABBERID><DESC>XMPP server</DESC></vCard>"


class Config(ModuleConfig):
    """Options of profiles."""

    max_bytes: int = Field(
        196_608,
        ge=4096,
        description="Largest vCard, photo included; larger ones get `policy-violation`. Larger avatars are not "
        "converted. Should stay below `limits.stanza_bytes`.",
    )
    convert: bool = Field(
        True, description="Keep vCards, vCard4 and avatars in personal eventing alike (XEP-0292, XEP-0398)."
    )


class VcardModule(Module):
    """Keeps profiles, converts them, announces photos."""

    name = "vcard"
    keeps_for_accounts = True
    Config = Config
    xeps = (
        Xep(54, "1.3.0"),
        Xep(153, "1.1.1"),
        Xep(292, "0.12.0", note="with the pubsub module"),
        Xep(398, "1.0.0", note="with the pubsub module"),
    )
    features: tuple[str, ...] = (TEMP,)
    account_features: tuple[str, ...] = (TEMP,)
    requires = (PresenceService,)
    migrations = store.MIGRATIONS

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._presence = self.kernel.service(PresenceService)
        self._profiles = Profiles(self.db)
        self._hashes: OrderedDict[JID, str] = OrderedDict()
        self._pep: PepService | None = None

    async def ready(self) -> None:
        """Convert if there is something to convert to."""
        if self.config.convert:
            self._pep = self.kernel.service_or_none(PepService)
        if self._pep is not None:
            self.features = (TEMP, V4)
            self.account_features = (TEMP, V4, CONVERSION)

    @on(events.account_removed)
    async def _account_removed(self, event: AccountEvent) -> None:
        await self._profiles.delete(event.user)
        self._hashes.pop(event.user, None)

    @on(events.account_exporting)
    async def _exporting(self, event: Exporting) -> None:
        """With the photo that came with it; one that came by a node is in that."""
        profile = await self._profiles.get(event.user)
        if profile.card is not None or (profile.photo is not None and profile.shared):
            card = profile.card or _EMPTY
            event.parts.append(_with_photo(card, profile.photo) if profile.photo and profile.shared else card)

    # ---- vcard-temp -------------------------------------------------------------------------------------------------

    @iq(get=VCARD, scope=Scope.ACCOUNT)
    async def _get(self, ctx: Context) -> IqAnswer:
        """XEP-0054 §3.1 and §3.3: no vCard and no account look the same to others.

        To the owner, who fills in what is there, no vCard is an empty one: libraries take an error for the end of it.
        """
        stanza = ctx.stanza
        sender = stanza.sender
        assert sender is not None
        owner = sender.bare if stanza.to is None else stanza.to
        profile = await self._profiles.get(owner)
        mine = sender.bare == owner
        photo = profile.photo if mine or await self._may_see(owner, sender, profile) else None
        if profile.card is None and photo is None and not mine:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE)
        card = profile.card or _EMPTY
        if photo is not None:
            card = _with_photo(card, photo)
        return stanza.reply(card)

    @iq(get=VCARD, scope=Scope.SERVER)
    def _get_of_server(self, ctx: Context) -> IqAnswer:
        """The domain lists `vcard-temp` among its features, so it has one, too; clients show it as the service's profile."""
        to = ctx.stanza.to
        assert to is not None
        name = to.domain.encode()
        return ctx.stanza.reply(_SERVER % (name, name))

    async def _may_see(self, owner: JID, peer: JID, profile: Profile) -> bool:
        """Whether somebody may see a photo that came from an avatar: whoever may see that (XEP-0398 §8)."""
        if profile.photo is None or profile.shared:
            return True
        access = await self._pep.access(owner, DATA) if self._pep is not None else None
        if access == "open":
            return True
        if access != "presence":
            return False
        allowed = self._presence.may_see(owner, peer)
        return await allowed if is_later(allowed) else bool(allowed)

    @iq(set=VCARD, scope=Scope.OWN)
    async def _set(self, ctx: Context) -> IqAnswer:
        """XEP-0054 §3.2; answered after the commit, then converted."""
        session = ctx.origin
        if session is None:
            raise StanzaError(Condition.FORBIDDEN)
        if session.anonymous:
            raise StanzaError(Condition.NOT_ALLOWED, text="anonymous users have no profile")
        given = content_bytes(ctx.stanza.el[0])
        if len(given) > self.config.max_bytes:
            raise StanzaError(Condition.POLICY_VIOLATION, text=f"at most {self.config.max_bytes} bytes")
        card = from_bytes(given)
        photo, place = from_vcard(card)
        if place is not None:
            card.remove(place)
        stored = to_bytes(card)
        user = session.bare

        def change(old: Profile) -> Profile:
            # a client that fetches the card, changes a line and sends it back has not shown its avatar to everybody by that
            same = photo is not None and old.photo is not None and photo.hash == old.photo.hash
            return Profile(stored, photo, old.shared if same else True)

        before, after = await self._change(user, change)
        self.kernel.iq.answer_early(ctx, ctx.stanza.reply())
        if self._pep is not None:
            try:
                await self._publish(self._pep, user, before, after, card)
            except StanzaError as error:  # a full or locked node must not cost the profile
                log.info("vcard_not_converted", user=str(user), reason=str(error))
            except Exception:
                log.exception("vcard_not_converted", user=str(user))
        await self._announce_change(user, before, after)
        return None

    async def _change(self, user: JID, change: Callable[[Profile], Profile]) -> tuple[Profile, Profile]:
        before, after = await self._profiles.change(user, change)
        self._remember(user, "" if after.photo is None else after.photo.hash)
        return before, after

    # ---- to and from personal eventing ------------------------------------------------------------------------------

    async def _publish(self, pep: PepService, user: JID, before: Profile, after: Profile, card: Element) -> None:
        """XEP-0398 §3.2 and XEP-0292: what a vCard says, in the account's nodes."""
        if after.card != before.card:
            await pep.publish(user, VCARD4_NODE, {_CURRENT: to_bytes(to_v4(card))}, _OPEN)
        old = None if before.photo is None else before.photo.hash
        if after.photo is not None and after.photo.hash != old:
            await pep.publish(user, DATA, {after.photo.hash: after.photo.to_data()}, _OPEN)
            await pep.publish(user, METADATA, {after.photo.hash: after.photo.to_metadata()}, _OPEN)
        elif after.photo is None and old is not None:
            # XEP-0084 §4.2.3: no avatar any more
            await pep.publish(user, METADATA, {_CURRENT: f"<metadata xmlns='{METADATA}'/>".encode()}, _OPEN)

    @on(events.pep_published)
    def _published(self, event: Published) -> Awaitable[None] | None:
        if self._pep is None or event.node not in (METADATA, VCARD4_NODE):
            return None  # without a task: most publications are about something else
        return self._take_over(self._pep, event)

    async def _take_over(self, pep: PepService, event: Published) -> None:
        user = event.user
        payload = event.items[-1][1] if event.items else b""
        if event.node == METADATA:
            if payload:
                await self._avatar_published(pep, user, from_bytes(payload))
            elif event.purged or event.removed:
                await self._avatar_gone(pep, user)
        elif payload:
            if await pep.access(user, VCARD4_NODE) == "open":
                await self._vcard4_published(user, from_bytes(payload))
        elif event.purged or event.removed:
            await self._vcard4_gone(pep, user)

    async def _avatar_published(self, pep: PepService, user: JID, metadata: Element) -> None:
        """XEP-0398 §3.1."""
        found = info_of(metadata)
        if found is None:
            if len(metadata) == 0:
                await self._set_photo(user, None)
            return
        hash_, type_ = found
        before = await self._profiles.get(user)
        if before.photo is not None and before.photo.hash == hash_.lower():
            return
        payload = (await pep.items(user, DATA)).get(hash_)
        data = decode(from_bytes(payload).text or "") if payload is not None else None
        if data is None:
            log.debug("avatar_not_converted", user=str(user), reason="no data")
            return
        photo = Photo.of(data, type_)
        if photo.hash != hash_.lower():
            log.debug("avatar_not_converted", user=str(user), reason="the id is not the hash")
            return
        if len(data) > self.config.max_bytes:
            log.debug("avatar_not_converted", user=str(user), reason="too large")
            await self._set_photo(user, None)  # better none than the one that the user has replaced
            return
        await self._set_photo(user, photo)

    async def _avatar_gone(self, pep: PepService, user: JID) -> None:
        """Items of the metadata node were removed: is there one left?"""
        left = await pep.items(user, METADATA)
        if not left:
            await self._set_photo(user, None)

    async def _set_photo(self, user: JID, photo: Photo | None) -> None:
        def change(old: Profile) -> Profile:
            return old if photo is None and old.photo is None else Profile(old.card, photo, shared=False)

        before, after = await self._change(user, change)
        await self._announce_change(user, before, after)

    async def _vcard4_published(self, user: JID, card: Element) -> None:
        """XEP-0292 §5 backwards. The photo has its own ways."""
        if card.tag != f"{{{V4}}}vcard":
            return
        converted = to_bytes(to_temp(card))
        if len(converted) > self.config.max_bytes:
            return

        def change(old: Profile) -> Profile:
            # a card of which this is the other form may say more: it stays
            same = old.card is not None and to_bytes(to_temp(to_v4(from_bytes(old.card)))) == converted
            return old if same else Profile(converted, old.photo, old.shared)

        await self._profiles.change(user, change)

    async def _vcard4_gone(self, pep: PepService, user: JID) -> None:
        """Whoever takes the vCard4 away does not want it read in the other form."""
        if await pep.access(user, VCARD4_NODE) in ("open", None) and not await pep.items(user, VCARD4_NODE):
            await self._profiles.change(user, lambda old: Profile(None, old.photo, old.shared))

    # ---- photos in presence -----------------------------------------------------------------------------------------

    @on(events.inbound, at=65, only=(PRESENCE,))  # after those who refuse a stanza
    def _inbound(self, ctx: Context) -> Outcome | Awaitable[Outcome]:
        """XEP-0398 §4: the hash in every available presence, directed ones as well."""
        stanza, session = ctx.stanza, ctx.origin
        if stanza.name != PRESENCE or stanza.type or session is None or session.anonymous:
            return None
        known = self._hashes.get(session.bare)
        if known is None:
            return self._look_up(ctx, session.bare)
        if known:
            ctx.stanza = announce(stanza, known)
        return None

    async def _look_up(self, ctx: Context, user: JID) -> Outcome:
        found = await self._profiles.hash(user)
        known = self._hashes.get(user)  # set while we looked
        if known is None:
            known = self._remember(user, found)
        if known:
            ctx.stanza = announce(ctx.stanza, known)
        return None

    def _remember(self, user: JID, hash: str) -> str:
        self._hashes[user] = hash
        self._hashes.move_to_end(user)
        if len(self._hashes) > _HASHES:
            self._hashes.popitem(last=False)
        return hash

    async def _announce_change(self, user: JID, before: Profile, after: Profile) -> None:
        """Broadcast the presence of each session again, with the new hash."""
        old = "" if before.photo is None else before.photo.hash
        new = "" if after.photo is None else after.photo.hash
        if old == new:
            return
        for session in self.kernel.sessions.of(user).available:
            changed: Stanza | None = None if session.presence is None else replace(session.presence, new)
            if changed is not None and session.available:
                rest = self._presence.outbound(Context(changed, session))
                if rest is not None:
                    await rest


def _with_photo(card: bytes, photo: Photo) -> bytes:
    el = from_bytes(card)
    el.append(photo.to_vcard())
    return to_bytes(el)
