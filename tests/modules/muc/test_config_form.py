from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.modules.muc.config_form import Lists, RoomConfig, from_submission, to_form
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.jid import JID
from beamish.xmpp.payload.forms import Form, Submission

OWNER, ADMIN = JID("owner@example.org"), JID("admin@example.org")


DEFAULT = RoomConfig()


def submit(config: RoomConfig = DEFAULT, **fields: str | tuple[str, ...]) -> tuple[RoomConfig, Lists]:
    values = {
        (name if name.startswith("muc#") else f"muc#roomconfig_{name}"): (v,) if isinstance(v, str) else v
        for name, v in fields.items()
    }
    return from_submission(config, Submission(values))


def returned(form: Form) -> Submission:
    """The form, sent back as it came."""
    return Submission({f.var: f.values for f in form.fields if f.var != "FORM_TYPE"})


def test_all_options_are_in_the_form() -> None:
    form = to_form(RoomConfig(), "t", [OWNER], [ADMIN])
    named = {f.var.removeprefix("muc#roomconfig_") for f in form.fields}
    assert named >= {
        "allowinvites", "changesubject", "enablelogging", "getmemberlist", "lang", "maxusers", "membersonly",
        "persistentroom", "presencebroadcast", "publicroom", "roomadmins", "roomdesc", "roomname", "roomowners", "whois",
        "moderatedroom", "passwordprotectedroom", "roomsecret", "allowpm", "pubsub", "muc#maxhistoryfetch",
        "slow_mode_duration",
    }  # fmt: skip
    assert form.form_type == "http://jabber.org/protocol/muc#roomconfig"
    owners = form.get("muc#roomconfig_roomowners")
    assert owners is not None and owners.values == ("owner@example.org",)


def test_the_duration_of_slow_mode_is_a_number_within_bounds() -> None:
    """XEP-0500 §3: its datatype and range are for clients to check."""
    el = to_form(RoomConfig(), "t", [OWNER], []).to_xml()
    (field,) = el.findall("{jabber:x:data}field[@var='muc#roomconfig_slow_mode_duration']")
    (limits,) = field.iter("{http://jabber.org/protocol/xdata-validate}range")
    assert field.get("type") == "text-single"
    assert limits.getparent().get("datatype") == "xs:integer"
    assert dict(limits.attrib) == {"min": "0", "max": "86400"}


configs = st.builds(
    RoomConfig,
    name=st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=20),
    persistent=st.booleans(),
    public=st.booleans(),
    moderated=st.booleans(),
    members_only=st.booleans(),
    secret=st.sampled_from(["", "pw"]),
    whois=st.sampled_from(["moderators", "anyone"]),
    allow_pm=st.sampled_from(["anyone", "participants", "moderators", "none"]),
    max_users=st.integers(0, 5000),
    presence_broadcast=st.lists(st.sampled_from(["moderator", "participant", "visitor"]), unique=True, max_size=3).map(
        tuple
    ),
    max_history_fetch=st.integers(0, 500),
    slow_mode=st.integers(0, 86_400),
)


@given(configs)
def test_a_form_sent_back_unchanged_changes_nothing(config: RoomConfig) -> None:
    same, lists = from_submission(config, returned(to_form(config, "t", [OWNER], [ADMIN])))
    assert same == config
    assert lists == Lists((OWNER,), (ADMIN,))


@given(configs)
def test_stored_and_read_again(config: RoomConfig) -> None:
    assert RoomConfig.from_json(config.to_json()) == config


def test_what_another_version_stored_does_not_matter() -> None:
    assert RoomConfig.from_json('{"name": "A", "unknown": 1}') == RoomConfig(name="A")


def test_missing_fields_keep_their_values() -> None:
    before = RoomConfig(name="A", members_only=True, max_users=7)
    after, lists = submit(before, roomname="B")
    assert after == RoomConfig(name="B", members_only=True, max_users=7)
    assert lists == Lists(None, None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"maxusers": "none"}, {"max_users": 0}),
        ({"maxusers": "30"}, {"max_users": 30}),
        ({"historylength": "5"}, {"max_history_fetch": 5}),
        ({"historylength": "5", "muc#maxhistoryfetch": "6"}, {"max_history_fetch": 6}),
        ({"presencebroadcast": ("moderator",)}, {"presence_broadcast": ("moderator",)}),
        ({"presencebroadcast": ()}, {"presence_broadcast": ()}),
        ({"passwordprotectedroom": "1", "roomsecret": "pw"}, {"password_protected": True, "secret": "pw"}),
        ({"roomdesc": ("two", "lines")}, {"description": "two\nlines"}),
    ],
)
def test_values(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert submit(**fields)[0] == RoomConfig(**expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"passwordprotectedroom": "1"},
        {"passwordprotectedroom": "1", "roomsecret": ""},
        {"maxusers": "many"},
        {"maxusers": "-1"},
        {"whois": "none"},
        {"allowpm": "friends"},
        {"presencebroadcast": ("king",)},
        {"membersonly": "perhaps"},
        {"muc#maxhistoryfetch": "501"},
        {"slow_mode_duration": "-1"},
        {"roomowners": ("@@",)},
        {"roomname": "x" * 257},
    ],
)
def test_values_that_cannot_be_used(fields: dict[str, Any]) -> None:
    with pytest.raises(StanzaError) as caught:
        submit(**fields)
    assert caught.value.condition.value == "not-acceptable"


def test_lists_are_bare_and_each_once() -> None:
    _, lists = submit(roomadmins=("a@b/x", "a@b/y", "", "c@d"))
    assert lists == Lists(None, (JID("a@b"), JID("c@d")))
