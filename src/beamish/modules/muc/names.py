"""Namespaces and tags of rooms; the numbers behind the names of status codes are those of XEP-0045 §17.4."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from beamish.xmpp import ns

MUC: Final = "http://jabber.org/protocol/muc"
MUC_USER: Final = "http://jabber.org/protocol/muc#user"
MUC_ADMIN: Final = "http://jabber.org/protocol/muc#admin"
MUC_OWNER: Final = "http://jabber.org/protocol/muc#owner"
ROOMCONFIG: Final = "http://jabber.org/protocol/muc#roomconfig"
ROOMINFO: Final = "http://jabber.org/protocol/muc#roominfo"
REGISTER_FORM: Final = "http://jabber.org/protocol/muc#register"
REQUEST_FORM: Final = "http://jabber.org/protocol/muc#request"
STABLE_ID: Final = "http://jabber.org/protocol/muc#stable_id"
SELF_PING: Final = "http://jabber.org/protocol/muc#self-ping-optimization"
TRAFFIC: Final = "http://jabber.org/protocol/muc#traffic"
ROOMS_NODE: Final = "http://jabber.org/protocol/muc#rooms"
RESERVED_NICK_NODE: Final = "x-roomuser-item"

REGISTER: Final = "jabber:iq:register"
OCCUPANT_ID: Final = "urn:xmpp:occupant-id:0"
STANZA_ID: Final = "urn:xmpp:sid:0"
MAM: Final = "urn:xmpp:mam:2"
MAM_EXTENDED: Final = "urn:xmpp:mam:2#extended"
FORWARD: Final = "urn:xmpp:forward:0"
RETRACT: Final = "urn:xmpp:message-retract:1"
TOMBSTONE: Final = "urn:xmpp:message-retract:1#tombstone"
MODERATE: Final = "urn:xmpp:message-moderate:1"
MODERATE_0: Final = "urn:xmpp:message-moderate:0"
"""Of version 0.2, in XEP-0422's wrapper: Gajim 1.7 and others know no later one."""
RETRACT_0: Final = "urn:xmpp:message-retract:0"
FASTEN: Final = "urn:xmpp:fasten:0"
HATS: Final = "urn:xmpp:hats:0"
HINTS: Final = "urn:xmpp:hints"
VCARD: Final = "vcard-temp"
COMMANDS: Final = "http://jabber.org/protocol/commands"
SEARCH: Final = "urn:xmpp:channel-search:0:search"
SEARCH_FORM: Final = "urn:xmpp:channel-search:0:search-params"
SEARCH_ERROR: Final = "urn:xmpp:channel-search:0:error"
SEARCH_ORDER: Final = "urn:xmpp:channel-search:0:order"

X_MUC: Final = f"{{{MUC}}}x"
X_USER: Final = f"{{{MUC_USER}}}x"
X_DATA: Final = f"{{{ns.DATA}}}x"
BODY: Final = f"{{{ns.CLIENT}}}body"
SUBJECT: Final = f"{{{ns.CLIENT}}}subject"
THREAD: Final = f"{{{ns.CLIENT}}}thread"
DELAY_TAG: Final = f"{{{ns.DELAY}}}delay"
OCCUPANT_ID_TAG: Final = f"{{{OCCUPANT_ID}}}occupant-id"
STANZA_ID_TAG: Final = f"{{{STANZA_ID}}}stanza-id"
RETRACT_TAG: Final = f"{{{RETRACT}}}retract"
RETRACTED_TAG: Final = f"{{{RETRACT}}}retracted"
HATS_TAG: Final = f"{{{HATS}}}hats"


class Status(IntEnum):
    """Status codes that rooms send (XEP-0045 §17.4)."""

    NON_ANONYMOUS = 100
    AFFILIATION_CHANGED = 101
    CONFIGURATION = 104
    SELF = 110
    LOGGING = 170
    NO_LOGGING = 171
    NOW_NON_ANONYMOUS = 172
    NOW_SEMI_ANONYMOUS = 173
    CREATED = 201
    NICK_ASSIGNED = 210
    BANNED = 301
    NEW_NICK = 303
    KICKED = 307
    AFFILIATION_LOST = 321
    MEMBERS_ONLY = 322
    SHUTDOWN = 332
    TECHNICAL = 333
