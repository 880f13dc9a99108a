"""What the service and its rooms say about themselves (XEP-0045 §6), and the search for rooms (XEP-0433)."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from beamish.core.disco import DiscoInfo, DiscoItem, items_bytes
from beamish.core.events import Context
from beamish.core.later import unhurried
from beamish.core.module import Identity
from beamish.modules.muc.names import (
    HATS,
    MAM,
    MAM_EXTENDED,
    MODERATE,
    MODERATE_0,
    MUC,
    OCCUPANT_ID,
    REGISTER,
    REGISTER_FORM,
    RESERVED_NICK_NODE,
    RETRACT,
    ROOMCONFIG,
    ROOMINFO,
    ROOMS_NODE,
    SEARCH,
    SEARCH_ERROR,
    SEARCH_FORM,
    SEARCH_ORDER,
    SELF_PING,
    STABLE_ID,
    STANZA_ID,
    TOMBSTONE,
    TRAFFIC,
    VCARD,
)
from beamish.modules.muc.privileges import Affiliation
from beamish.modules.muc.room import Room
from beamish.xmpp import ns
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload import forms, rsm
from beamish.xmpp.payload.forms import Field, Form, Option, Submission
from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element, make, to_bytes

if TYPE_CHECKING:
    from beamish.modules.muc.service import MucModule

PAGE: Final = 100
"""Rooms in one answer."""
_SERVICE_FEATURES: Final = (
    ns.DISCO_ITEMS,
    ns.PING,
    ns.RSM,
    MUC,
    STABLE_ID,
    OCCUPANT_ID,
    STANZA_ID,
    VCARD,
    SEARCH,
)
_ROOM_FEATURES: Final = (
    ns.DISCO_ITEMS,
    ns.PING,
    MUC,
    f"{MUC}#request",
    REGISTER_FORM,
    ROOMCONFIG,
    ROOMINFO,
    STABLE_ID,
    SELF_PING,
    OCCUPANT_ID,
    STANZA_ID,
    RETRACT,
    TOMBSTONE,
    MODERATE,
    MODERATE_0,
    HATS,
    VCARD,
    "http://jabber.org/protocol/commands",
)


class Discovery:
    """Answers disco and search requests."""

    def __init__(self, muc: MucModule) -> None:
        self._muc = muc

    # ---- the service ------------------------------------------------------------------------------------------------

    def service_info(self, stanza: Stanza, query: Element) -> Stanza:
        """§6.2."""
        if query.get("node"):
            raise StanzaError(Condition.ITEM_NOT_FOUND)
        identity = Identity("conference", "text", self._muc.config.name)
        return stanza.reply(DiscoInfo((identity,), _SERVICE_FEATURES).to_bytes())

    def service_items(self, stanza: Stanza, query: Element) -> Stanza:
        """§6.3: the public rooms, by address, page by page."""
        assert stanza.to is not None
        if query.get("node"):
            raise StanzaError(Condition.ITEM_NOT_FOUND)
        rooms = self._muc.directory.listed(stanza.to.domain)
        asked = rsm.Request.from_xml(query)
        if not rooms:
            return stanza.reply(items_bytes(()))  # XEP-0059 §2.2: an empty list has no pages
        where, page = rsm.page(rooms, asked, PAGE)
        items = items_bytes(DiscoItem(rooms[at], "", _name(self._muc.rooms[rooms[at]])) for at in where)
        if asked is None and len(rooms) <= PAGE:
            return stanza.reply(items)
        cut = items.rindex(b"</query>")
        return stanza.reply(items[:cut] + to_bytes(page.to_xml()) + items[cut:])

    # ---- rooms ------------------------------------------------------------------------------------------------------

    def room_info(self, ctx: Context, room: Room, query: Element) -> Stanza:
        """§6.4, and the well-known nodes of §7.12 and §16.1.1."""
        stanza = ctx.stanza
        who = stanza.sender
        assert who is not None
        node = query.get("node", "")
        if node == RESERVED_NICK_NODE:
            nick = room.standing_of(who).nick
            identities = (Identity("conference", "text", nick),) if nick else ()
            return stanza.reply(_plain_info(identities, node))
        if node == TRAFFIC:
            raise StanzaError(Condition.SERVICE_UNAVAILABLE, text="everything may pass through this room")
        if node:
            raise StanzaError(Condition.ITEM_NOT_FOUND if node != ROOMS_NODE else Condition.FEATURE_NOT_IMPLEMENTED)
        if room.locked and who.bare not in room.standings:
            raise StanzaError(Condition.ITEM_NOT_FOUND, text="there is no such room")
        return stanza.reply(self.describe(room, who).to_bytes())

    def describe(self, room: Room, who: JID) -> DiscoInfo:
        """Identity, features and the form `muc#roominfo` of a room; the owners of a closed one are for those who may enter."""
        config = room.config
        features = [
            *_ROOM_FEATURES,
            "muc_public" if config.public else "muc_hidden",
            "muc_persistent" if config.persistent else "muc_temporary",
            "muc_membersonly" if config.members_only else "muc_open",
            "muc_moderated" if config.moderated else "muc_unmoderated",
            "muc_nonanonymous" if config.non_anonymous else "muc_semianonymous",
            "muc_passwordprotected" if config.password_protected else "muc_unsecured",
        ]
        if config.logging:
            features += (MAM, MAM_EXTENDED)
        if config.registration:
            features.append(REGISTER)
        is_open = not config.members_only and not config.password_protected
        fields = [
            Field("muc#roominfo_description", "text-single", (config.description,), "Description"),
            Field("muc#roominfo_occupants", "text-single", (str(len(room.occupants)),), "Number of occupants"),
            Field("muc#maxhistoryfetch", "text-single", (str(config.max_history_fetch),), "Most messages of history"),
            forms.boolean("muc#roominfo_subjectmod", config.change_subject, "Participants may change the subject"),
            forms.boolean("muc#roomconfig_changesubject", config.change_subject, "Participants may change the subject"),
            Field("muc#roominfo_contactjid", "jid-multi", tuple(room.owners), "Owners")
            if config.non_anonymous and (is_open or room.affiliation_of(who) >= Affiliation.MEMBER)
            else None,
            Field("muc#roominfo_lang", "text-single", (config.lang,), "Language") if config.lang else None,
            Field("muc#roominfo_subject", "text-single", (room.subject.text,), "Subject")
            if config.public and is_open
            else None,
            Field("muc#roomconfig_pubsub", "text-single", (config.pubsub,), "Publish-subscribe node")
            if config.pubsub
            else None,
            Field("muc#roominfo_avatarhash", "text-multi", room.avatar_hashes, "Avatar hash")
            if room.avatar_hashes
            else None,
            Field(
                "muc#roominfo_slow_mode_duration", "text-single", (str(config.slow_mode),), "Seconds between messages"
            ),
            Field("hats#hash", "text-single", (self._muc.wardrobe.hash(room),), "Hats") if room.hats else None,
        ]
        form = Form.of("result", ROOMINFO, [field for field in fields if field is not None])
        name = config.name or room.jid.local
        return DiscoInfo((Identity("conference", "text", name),), tuple(features), (form.to_xml(),))

    def room_items(self, ctx: Context, room: Room, query: Element) -> Stanza:
        """§6.5: the occupants, for occupants only."""
        stanza = ctx.stanza
        node = query.get("node", "")
        if node == "http://jabber.org/protocol/commands":
            return stanza.reply(items_bytes(self._muc.wardrobe.commands(room, stanza.sender), node))
        if node not in ("", RESERVED_NICK_NODE, TRAFFIC):
            raise StanzaError(Condition.ITEM_NOT_FOUND)
        if stanza.sender not in room.seats or node:
            return stanza.reply(items_bytes((), node))
        shown = [DiscoItem(o.jid) for o in room.occupants.values() if o.visible]
        return stanza.reply(items_bytes(shown[: PAGE * 10]))

    # ---- search -----------------------------------------------------------------------------------------------------

    async def search(self, stanza: Stanza, el: Element) -> Stanza:
        """XEP-0433 §4: the form, or a page of rooms. Looks at every public room, with turns for everybody else in between."""
        assert stanza.to is not None
        x = el.find(forms.X)
        if x is None:
            return stanza.reply(make(f"{{{SEARCH}}}search", None, _search_form()))
        submitted = Submission.from_xml(x, SEARCH_FORM)
        every = submitted.boolean("all") or False
        words = (submitted.text("q") or "").casefold().split()
        if every and words:
            raise _search_error(Condition.BAD_REQUEST, "conflicting-fields", "all rooms, or those that match?")
        if not every and "q" not in submitted:
            raise _search_error(Condition.BAD_REQUEST, "no-search-conditions", "nothing was asked for", Kind.CANCEL)
        if not every and not any(len(word) > 1 for word in words):
            raise _search_error(Condition.BAD_REQUEST, "invalid-search-terms", "words have at least two characters")
        key = submitted.text("key") or f"{{{SEARCH_ORDER}}}nusers"
        if key not in _KEYS:
            raise _search_error(Condition.FEATURE_NOT_IMPLEMENTED, "invalid-sort-key", "")
        types = submitted.texts("types")
        rooms = () if types is not None and "xep-0045" not in types else self._muc.directory.listed(stanza.to.domain)
        least = submitted.integer("min_users", 0)
        # the table of fields (§6.1) says `sinaddress`, the example of a form `sinaddr`, so that clients say either
        places = (
            submitted.boolean("sinname") is not False,
            submitted.boolean("sindescription") is not False,
            submitted.boolean("sinaddress") is not False and submitted.boolean("sinaddr") is not False,
        )
        most_first = key.endswith("nusers")
        found: dict[int, list[JID]] = {}
        """In the order of addresses, by number of users if that is what they are sorted by."""
        async for address in unhurried(tuple(rooms)):
            room = self._muc.rooms.get(address)
            if room is None or not room.public:  # gone since the search began
                continue
            users = len(room.occupants)
            if users >= (least or 0) and (every or _matches(room, words, places)):
                found.setdefault(users if most_first else 0, []).append(address)
        addresses = list(chain.from_iterable(found[users] for users in sorted(found, reverse=True)))
        where, page = rsm.page(addresses, rsm.Request.from_xml(el), PAGE)
        shown = [room for at in where if (room := self._muc.rooms.get(addresses[at])) is not None]
        result = make(f"{{{SEARCH}}}result", None, *(_search_item(room) for room in shown), page.to_xml())
        return stanza.reply(result)


_KEYS: Final = (f"{{{SEARCH_ORDER}}}nusers", f"{{{SEARCH_ORDER}}}address")


def _name(room: Room) -> str:
    return room.config.name or room.jid.local


def _plain_info(identities: tuple[Identity, ...], node: str) -> bytes:
    """An answer without features: §7.12 asks for an empty query where there is no nickname."""
    if not identities:
        return f"<query xmlns='{ns.DISCO_INFO}' node='{node}'/>".encode()
    return DiscoInfo(identities).to_bytes(node)


def _search_form() -> Element:
    fields = (
        Field("q", "text-single", (), "Search for"),
        forms.boolean("all", False, "Return all entries"),
        forms.boolean("sinname", True, "Search in name"),
        forms.boolean("sindescription", True, "Search in description"),
        forms.boolean("sinaddress", True, "Search in address"),
        Field("min_users", "text-single", ("0",), "Minimum number of users"),
        Field("types", "list-multi", ("xep-0045",), "Service types", (Option("xep-0045", "Rooms"),)),
        forms.choice(
            "key",
            _KEYS[0],
            (Option(_KEYS[0], "Number of online users"), Option(_KEYS[1], "Address")),
            "Sort results by",
        ),
    )
    return Form.of("form", SEARCH_FORM, fields).to_xml()


def _search_error(condition: Condition, app: str, text: str, kind: Kind = Kind.MODIFY) -> StanzaError:
    return StanzaError(condition, kind, text, app=make(f"{{{SEARCH_ERROR}}}{app}"))


def _matches(room: Room, words: list[str], places: tuple[bool, bool, bool]) -> bool:
    """Whether every word occurs in one of the places that are searched."""
    texts = (_name(room), room.config.description, str(room.jid))
    haystack = "\n".join(text for text, wanted in zip(texts, places, strict=True) if wanted).casefold()
    return all(word in haystack for word in words)


def _search_item(room: Room) -> Element:
    config = room.config

    def child(tag: str, text: str) -> Element | None:
        return make(f"{{{SEARCH}}}{tag}", None, text) if text else None

    is_open = not config.members_only and not config.password_protected
    return make(
        f"{{{SEARCH}}}item",
        {"address": str(room.jid)},
        child("name", _name(room)),
        child("description", config.description),
        child("language", config.lang),
        child("nusers", str(len(room.occupants))),
        child("service-type", "xep-0045"),
        make(f"{{{SEARCH}}}is-open") if is_open else None,
        child(
            "anonymity-mode",
            "{urn:xmpp:channel-search:0:anonymity}none" if config.non_anonymous else "muc_semianonymous",
        ),
    )
