"""The configuration of a room: its values, and the form with which owners read and change them (XEP-0045 §10.1, §10.2)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import Field

from beamish.core.module import ModuleConfig
from beamish.modules.muc.names import ROOMCONFIG
from beamish.modules.muc.privileges import ROLES, Role
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload import forms
from beamish.xmpp.payload.forms import Form, Option, Submission

RoleName = Literal["moderator", "participant", "visitor"]
_ALL_ROLES: Final[tuple[RoleName, ...]] = ("moderator", "participant", "visitor")
_ALLOW_PM: Final = ("anyone", "participants", "moderators", "none")
_MAX_USERS: Final = (10, 20, 30, 50, 100, 200, 500, 1000)
MAX_SLOW_MODE: Final = 86_400


class RoomConfig(ModuleConfig):
    """What every new room starts with. Owners change it for their room with the configuration form."""

    name: str = Field("", max_length=256, description="Name of the room for people.")
    description: str = Field("", max_length=2048, description="What the room is for.")
    lang: str = Field("", max_length=64, description="Language of the discussions (`en`).")
    persistent: bool = Field(False, description="The room stays when the last occupant leaves.")
    public: bool = Field(True, description="The room is listed and can be found by search.")
    moderated: bool = Field(False, description="Newcomers without an affiliation have no voice.")
    members_only: bool = Field(False, description="Only members, admins and owners may enter.")
    password_protected: bool = Field(False, description="Entering takes the password.")
    secret: str = Field("", max_length=256, description="The password for rooms that need one.")
    whois: Literal["moderators", "anyone"] = Field(
        "moderators", description="Who sees the real addresses of occupants: `anyone` makes the room non-anonymous."
    )
    allow_invites: bool = Field(
        True, description="Occupants may invite others; in rooms for members only this makes them members."
    )
    change_subject: bool = Field(False, description="Participants may change the subject, not only moderators.")
    logging: bool = Field(
        True, description="Messages can be read later from the room's archive by everybody who may enter (XEP-0313)."
    )
    allow_pm: Literal["anyone", "participants", "moderators", "none"] = Field(
        "anyone", description="Who may send private messages through the room."
    )
    max_users: int = Field(0, ge=0, description="Most occupants, 0 for as many as the service allows.")
    presence_broadcast: tuple[RoleName, ...] = Field(
        _ALL_ROLES, description="Roles whose presence is shown to the room; fewer saves traffic in large rooms."
    )
    get_member_list: tuple[RoleName, ...] = Field(
        _ALL_ROLES,
        description="Roles that may fetch the list of members; in semi-anonymous rooms only moderators of them may.",
    )
    max_history_fetch: int = Field(20, ge=0, le=500, description="Most messages of history sent on entering.")
    pubsub: str = Field("", max_length=1024, description="XMPP URI of a publish-subscribe node of the room.")
    slow_mode: int = Field(
        0, ge=0, le=MAX_SLOW_MODE, description="Seconds between two messages of one participant (XEP-0500), 0 for none."
    )
    registration: bool = Field(True, description="People may register a nickname and become members by that.")
    registered_nicks: bool = Field(False, description="Members enter with their registered nickname and no other.")

    @property
    def non_anonymous(self) -> bool:
        """Whether every occupant sees real addresses."""
        return self.whois == "anyone"

    def shown_roles(self) -> frozenset[Role]:
        """Roles whose presence is broadcast."""
        return frozenset(ROLES[name] for name in self.presence_broadcast)

    def to_json(self) -> str:
        """For the database."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> RoomConfig:
        """From the database; what a newer or older version called otherwise is left at its default."""
        stored = json.loads(text)
        return cls.model_validate({key: stored[key] for key in cls.model_fields if key in stored})

    def changed(self, **values: Any) -> RoomConfig:
        """A changed copy, validated. Raises `StanzaError(not-acceptable)`."""
        try:
            return RoomConfig.model_validate({**self.model_dump(), **values})
        except ValueError as exc:
            raise StanzaError(Condition.NOT_ACCEPTABLE, text="a value is out of its bounds") from exc


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists of owners and admins as the form has them; None where it was silent."""

    owners: tuple[JID, ...] | None = None
    admins: tuple[JID, ...] | None = None


_BOOLEANS: Final = (
    ("muc#roomconfig_persistentroom", "persistent", "Keep the room when everybody has left"),
    ("muc#roomconfig_publicroom", "public", "Let everybody find the room"),
    ("muc#roomconfig_moderatedroom", "moderated", "Newcomers have to be given voice"),
    ("muc#roomconfig_membersonly", "members_only", "Only members may enter"),
    ("muc#roomconfig_allowinvites", "allow_invites", "Occupants may invite others"),
    ("muc#roomconfig_changesubject", "change_subject", "Occupants may change the subject"),
    ("muc#roomconfig_enablelogging", "logging", "Keep an archive of the conversations"),
    ("muc#roomconfig_passwordprotectedroom", "password_protected", "A password is needed to enter"),
    ("muc#roomconfig_registration", "registration", "People may register nicknames and become members"),
    ("muc#roomconfig_registerednicks", "registered_nicks", "Members use their registered nickname"),
)
_TEXTS: Final = (
    ("muc#roomconfig_roomname", "name", "Name of the room"),
    ("muc#roomconfig_roomdesc", "description", "Description of the room"),
    ("muc#roomconfig_lang", "lang", "Language of the discussions"),
    ("muc#roomconfig_pubsub", "pubsub", "XMPP URI of the room's publish-subscribe node"),
)
_ROLE_OPTIONS: Final = tuple(Option(role, role.capitalize()) for role in _ALL_ROLES)
_ROLE_LISTS: Final = (
    ("muc#roomconfig_presencebroadcast", "presence_broadcast", "Roles whose presence is shown"),
    ("muc#roomconfig_getmemberlist", "get_member_list", "Roles that may fetch the list of members"),
)


def to_form(config: RoomConfig, title: str, owners: Iterable[JID], admins: Iterable[JID]) -> Form:
    """The configuration form, filled in with the room's present values (§10.1.3, §10.2)."""
    users = str(config.max_users) if config.max_users else "none"
    offered = sorted({*_MAX_USERS, *([config.max_users] if config.max_users else [])})
    fields = [forms.Field(var, "text-single", (getattr(config, key),), label) for var, key, label in _TEXTS]
    fields += [forms.boolean(var, getattr(config, key), label) for var, key, label in _BOOLEANS]
    fields += [
        forms.Field("muc#roomconfig_roomsecret", "text-private", (config.secret,), "The password"),
        forms.choice(
            "muc#roomconfig_whois",
            config.whois,
            (Option("moderators", "Moderators only"), Option("anyone", "Anyone")),
            "Who sees the real addresses of occupants",
        ),
        forms.choice(
            "muc#roomconfig_allowpm",
            config.allow_pm,
            (
                Option("anyone", "Anyone"),
                Option("participants", "Anyone with voice"),
                Option("moderators", "Moderators only"),
                Option("none", "Nobody"),
            ),
            "Who may send private messages",
        ),
        forms.choice(
            "muc#roomconfig_maxusers",
            users,
            (*(Option(str(n)) for n in offered), Option("none", "None")),
            "Most occupants",
        ),
    ]
    fields += [
        forms.Field(var, "list-multi", getattr(config, key), label, _ROLE_OPTIONS) for var, key, label in _ROLE_LISTS
    ]
    fields += [
        forms.Field(
            "muc#maxhistoryfetch",
            "text-single",
            (str(config.max_history_fetch),),
            "Most messages of history sent on entering",
            datatype="xs:integer",
            range=("0", "500"),
        ),
        forms.Field(
            "muc#roomconfig_slow_mode_duration",
            "text-single",
            (str(config.slow_mode),),
            "Seconds between two messages of one participant",
            desc="0 for no limit",
            datatype="xs:integer",
            range=("0", str(MAX_SLOW_MODE)),
        ),
        forms.Field("muc#roomconfig_roomadmins", "jid-multi", tuple(admins), "Admins of the room"),
        forms.Field("muc#roomconfig_roomowners", "jid-multi", tuple(owners), "Owners of the room"),
    ]
    return Form.of("form", ROOMCONFIG, fields, title=title)


def from_submission(config: RoomConfig, submitted: Submission) -> tuple[RoomConfig, Lists]:
    """The configuration after a submitted form; fields that are missing keep their values.

    A new password in a form that does not say whether it is needed is needed: else the room would be open, unnoticed.
    Raises `StanzaError(not-acceptable)` for values that cannot be used, such as a blank password (§10.1.3).
    """
    values: dict[str, Any] = {}

    def note(key: str, value: object) -> None:
        if value is not None:
            values[key] = value

    for var, key, _ in _TEXTS:
        note(key, submitted.text(var))
    for var, key, _ in _BOOLEANS:
        note(key, submitted.boolean(var))
    note("secret", submitted.text("muc#roomconfig_roomsecret"))
    if values.get("secret", config.secret) not in ("", config.secret):
        values.setdefault("password_protected", True)
    note("whois", submitted.choice("muc#roomconfig_whois", ("moderators", "anyone")))
    note("allow_pm", submitted.choice("muc#roomconfig_allowpm", _ALLOW_PM))
    if submitted.text("muc#roomconfig_maxusers") in ("none", ""):
        values["max_users"] = 0
    else:
        note("max_users", submitted.integer("muc#roomconfig_maxusers", 0, 1_000_000))
    for var, key, _ in _ROLE_LISTS:
        chosen = submitted.texts(var)
        if chosen is not None:
            for role in chosen:
                if role not in _ALL_ROLES:
                    raise forms.unacceptable(var, "there is no such role")
            values[key] = tuple(dict.fromkeys(chosen))
    note("max_history_fetch", submitted.integer("muc#roomconfig_historylength", 0, 500))
    note("max_history_fetch", submitted.integer("muc#maxhistoryfetch", 0, 500))
    note("slow_mode", submitted.integer("muc#roomconfig_slow_mode_duration", 0, MAX_SLOW_MODE))
    changed = config.changed(**values)
    if changed.password_protected and not changed.secret:
        raise forms.unacceptable("muc#roomconfig_roomsecret", "a room with a password needs one")
    lists = Lists(_bare(submitted, "muc#roomconfig_roomowners"), _bare(submitted, "muc#roomconfig_roomadmins"))
    return changed, lists


def _bare(submitted: Submission, var: str) -> tuple[JID, ...] | None:
    jids = submitted.jids(var)
    return None if jids is None else tuple(dict.fromkeys(jid.bare for jid in jids))
