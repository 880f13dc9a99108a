"""The tables of XEP-0045 §5, cell by cell."""

from __future__ import annotations

import pytest

from beamish.modules.muc.privileges import (
    Affiliation,
    Role,
    check_affiliation_change,
    check_role_change,
    initial_role,
    parse_affiliation,
    parse_role,
    role_after,
)
from beamish.xmpp.errors import StanzaError

OUTCAST, NONE, MEMBER, ADMIN, OWNER = Affiliation
GONE, VISITOR, PARTICIPANT, MODERATOR = Role


def verdict(call: object, *args: object, **kwargs: object) -> str:
    try:
        call(*args, **kwargs)  # type: ignore[operator]
    except StanzaError as error:
        return error.condition.value
    return "ok"


@pytest.mark.parametrize(
    ("affiliation", "open_room", "moderated"),
    [
        (OUTCAST, GONE, GONE),
        (NONE, PARTICIPANT, VISITOR),
        (MEMBER, PARTICIPANT, PARTICIPANT),
        (ADMIN, MODERATOR, MODERATOR),
        (OWNER, MODERATOR, MODERATOR),
    ],
)
def test_initial_roles(affiliation: Affiliation, open_room: Role, moderated: Role) -> None:
    assert initial_role(affiliation, False) is open_room
    assert initial_role(affiliation, True) is moderated


ROLE_CASES = [
    # actor (role, affiliation), target (role, affiliation), wanted, verdict
    (PARTICIPANT, MEMBER, PARTICIPANT, NONE, GONE, "forbidden"),
    (VISITOR, NONE, VISITOR, NONE, PARTICIPANT, "forbidden"),
    (GONE, NONE, PARTICIPANT, NONE, GONE, "forbidden"),
    # kick (§8.2): never upwards
    (MODERATOR, NONE, PARTICIPANT, NONE, GONE, "ok"),
    (MODERATOR, NONE, VISITOR, NONE, GONE, "ok"),
    (MODERATOR, NONE, PARTICIPANT, MEMBER, GONE, "not-allowed"),
    (MODERATOR, MEMBER, PARTICIPANT, MEMBER, GONE, "ok"),
    (MODERATOR, MEMBER, MODERATOR, ADMIN, GONE, "not-allowed"),
    (MODERATOR, MEMBER, MODERATOR, NONE, GONE, "not-allowed"),
    (MODERATOR, ADMIN, MODERATOR, NONE, GONE, "ok"),
    (MODERATOR, ADMIN, MODERATOR, ADMIN, GONE, "ok"),
    (MODERATOR, ADMIN, MODERATOR, OWNER, GONE, "not-allowed"),
    (MODERATOR, OWNER, MODERATOR, ADMIN, GONE, "ok"),
    (MODERATOR, OWNER, MODERATOR, OWNER, GONE, "ok"),
    # voice (§8.3, §8.4)
    (MODERATOR, NONE, VISITOR, NONE, PARTICIPANT, "ok"),
    (MODERATOR, NONE, PARTICIPANT, NONE, VISITOR, "ok"),
    (MODERATOR, NONE, PARTICIPANT, MEMBER, VISITOR, "not-allowed"),
    (MODERATOR, MEMBER, PARTICIPANT, MEMBER, VISITOR, "not-allowed"),
    (MODERATOR, ADMIN, PARTICIPANT, MEMBER, VISITOR, "ok"),
    (MODERATOR, OWNER, MODERATOR, ADMIN, VISITOR, "not-allowed"),
    (MODERATOR, ADMIN, MODERATOR, OWNER, VISITOR, "not-allowed"),
    (MODERATOR, OWNER, MODERATOR, OWNER, PARTICIPANT, "not-allowed"),
    # moderator status (§9.6, §9.7)
    (MODERATOR, NONE, PARTICIPANT, NONE, MODERATOR, "forbidden"),
    (MODERATOR, MEMBER, VISITOR, NONE, MODERATOR, "forbidden"),
    (MODERATOR, ADMIN, VISITOR, NONE, MODERATOR, "ok"),
    (MODERATOR, ADMIN, PARTICIPANT, MEMBER, MODERATOR, "ok"),
    (MODERATOR, ADMIN, MODERATOR, MEMBER, PARTICIPANT, "ok"),
    (MODERATOR, ADMIN, MODERATOR, NONE, VISITOR, "ok"),
    (MODERATOR, NONE, MODERATOR, NONE, PARTICIPANT, "forbidden"),
    (MODERATOR, ADMIN, MODERATOR, ADMIN, PARTICIPANT, "not-allowed"),
    # nothing to change
    (MODERATOR, NONE, PARTICIPANT, NONE, PARTICIPANT, "ok"),
]


@pytest.mark.parametrize(("role", "affiliation", "target", "target_affiliation", "wanted", "expected"), ROLE_CASES)
def test_role_changes(
    role: Role,
    affiliation: Affiliation,
    target: Role,
    target_affiliation: Affiliation,
    wanted: Role,
    expected: str,
) -> None:
    assert verdict(check_role_change, role, affiliation, target, target_affiliation, wanted) == expected


def test_every_change_of_affiliation() -> None:
    """§5.2.2: who may bring whom from where to where, all 125 cases against the table's own words."""
    for actor in Affiliation:
        for target in Affiliation:
            for wanted in Affiliation:
                if actor < ADMIN:
                    expected = "forbidden"
                elif actor is OWNER or target is wanted:
                    expected = "ok"
                elif target >= ADMIN:
                    expected = "not-allowed" if wanted is OUTCAST else "forbidden"
                else:
                    expected = "forbidden" if wanted >= ADMIN else "ok"
                assert verdict(check_affiliation_change, actor, target, wanted) == expected, (actor, target, wanted)


@pytest.mark.parametrize("affiliation", [ADMIN, OWNER])
def test_nobody_bans_oneself(affiliation: Affiliation) -> None:
    assert verdict(check_affiliation_change, affiliation, affiliation, OUTCAST, oneself=True) == "conflict"


@pytest.mark.parametrize(
    ("before", "after", "role", "moderated", "expected"),
    [
        (NONE, MEMBER, VISITOR, True, PARTICIPANT),
        (NONE, ADMIN, PARTICIPANT, False, MODERATOR),
        (MEMBER, OWNER, VISITOR, True, MODERATOR),
        (ADMIN, NONE, MODERATOR, True, VISITOR),
        (ADMIN, MEMBER, MODERATOR, True, PARTICIPANT),
        (OWNER, NONE, MODERATOR, False, PARTICIPANT),
        (OWNER, ADMIN, MODERATOR, False, MODERATOR),
        (MEMBER, NONE, PARTICIPANT, True, PARTICIPANT),
        (MEMBER, NONE, MODERATOR, False, MODERATOR),
        (NONE, OUTCAST, PARTICIPANT, False, GONE),
    ],
)
def test_roles_that_follow_affiliations(
    before: Affiliation, after: Affiliation, role: Role, moderated: bool, expected: Role
) -> None:
    assert role_after(after, before, role, moderated) is expected


def test_names() -> None:
    assert [a.label for a in Affiliation] == ["outcast", "none", "member", "admin", "owner"]
    assert [r.label for r in Role] == ["none", "visitor", "participant", "moderator"]
    assert all(parse_affiliation(a.label) is a for a in Affiliation)
    assert all(parse_role(r.label) is r for r in Role)
    assert verdict(parse_role, "king") == "bad-request"
    assert verdict(parse_affiliation, "") == "bad-request"
