"""Rules of one room that plays do not reach: bounds, and what several sessions make of them."""

from __future__ import annotations

import pytest

from beamish.modules.muc.administration import AffiliationItem, RoleItem, change_roles, plan_affiliations
from beamish.modules.muc.config_form import RoomConfig
from beamish.modules.muc.history import History
from beamish.modules.muc.occupants import Closed, Tell, is_visible_nick, nick_key
from beamish.modules.muc.privileges import Affiliation, Role, Standing
from beamish.modules.muc.room import Bounds, Room
from beamish.xmpp.errors import Kind, StanzaError
from beamish.xmpp.jid import JID

OWNER = JID("owner@example.org/x")


def user(n: int, resource: str = "r") -> JID:
    return JID(f"u{n}@example.org/{resource}")


def room(config: RoomConfig | None = None, **bounds: object) -> Room:
    made = Room(JID("r@c.example.org"), config or RoomConfig(), b"s", Bounds(**bounds))  # type: ignore[arg-type]
    made.set_standing(OWNER.bare, Standing(Affiliation.OWNER))
    made.history = History(made.jid)
    return made


def condition(caught: pytest.ExceptionInfo[StanzaError]) -> str:
    return caught.value.condition.value


def test_a_full_room_has_some_places_for_admins() -> None:
    made = room(occupants=3)
    for n in range(3):
        made.join(user(n), f"n{n}", b"", 0.0)
    with pytest.raises(StanzaError) as caught:
        made.join(user(3), "n3", b"", 0.0)
    assert condition(caught) == "service-unavailable"
    assert caught.value.kind is Kind.WAIT, "§7.2.9, example"
    for n in range(10, 40):
        made.set_standing(user(n).bare, Standing(Affiliation.ADMIN))
    for n in range(10, 30):
        made.join(user(n), f"n{n}", b"", 0.0)
    with pytest.raises(StanzaError):  # a reserve, and not without end
        made.join(user(30), "n30", b"", 0.0)


def test_sessions_under_one_nickname_are_bounded_too() -> None:
    made = room(occupants=3)
    for n in range(23):
        made.join(user(0, f"r{n}"), "n", b"", 0.0)
    with pytest.raises(StanzaError) as caught:
        made.join(user(0, "more"), "n", b"", 0.0)
    assert condition(caught) == "service-unavailable"


def test_the_rate_of_a_seat() -> None:
    made = room(rate=2.0, burst=3.0)
    made.join(OWNER, "o", b"", 0.0)
    seat = made.seats[OWNER]
    for _ in range(3):
        made.charge(seat, 0.0)
    with pytest.raises(StanzaError) as caught:
        made.charge(seat, 0.4)
    assert condition(caught) == "policy-violation"
    made.charge(seat, 0.5)
    made.charge(seat, 100.0)
    made.charge(seat, 100.0)
    made.charge(seat, 100.0)
    with pytest.raises(StanzaError):
        made.charge(seat, 100.0)


def test_coming_back_is_no_way_around_the_rate() -> None:
    made = room(rate=2.0, burst=3.0)
    made.join(OWNER, "o", b"", 0.0)
    made.join(user(0), "n", b"", 0.0)
    for _ in range(3):
        made.charge(made.seats[user(0)], 0.0)
    made.leave(user(0))
    with pytest.raises(StanzaError) as caught:
        made.join(user(0, "another"), "n", b"", 0.5)
    assert condition(caught) == "policy-violation"
    assert made.find("n") is None
    made.join(user(0), "n", b"", 1.0)  # the visit before cost one, too
    made.charge(made.seats[user(0)], 1.0)
    with pytest.raises(StanzaError):
        made.charge(made.seats[user(0)], 1.0)
    for _ in range(3):  # visits alone
        made.join(user(1), "m", b"", 1.0)
        made.leave(user(1))
    with pytest.raises(StanzaError):
        made.join(user(1), "m", b"", 1.0)
    made.join(user(1), "m", b"", 100.0)


def test_a_domain_that_owns_a_room_makes_no_owners_of_its_users() -> None:
    made = Room(JID("r@c.example.org"), RoomConfig(members_only=True), b"s", Bounds())
    made.set_standing(JID("gateway.example"), Standing(Affiliation.OWNER))
    assert made.affiliation_of(JID("gateway.example/x")) is Affiliation.OWNER
    assert made.affiliation_of(JID("anybody@gateway.example")) is Affiliation.NONE
    made.set_standing(JID("gateway.example"), Standing(Affiliation.MEMBER))
    assert made.affiliation_of(JID("anybody@gateway.example")) is Affiliation.MEMBER


def test_affiliations_are_bounded() -> None:
    made = room(affiliations=3)
    items = [AffiliationItem(user(n).bare, Affiliation.MEMBER) for n in range(3)]
    with pytest.raises(StanzaError) as caught:
        plan_affiliations(made, OWNER, items)
    assert condition(caught) == "resource-constraint"
    assert len(plan_affiliations(made, OWNER, items[:2])) == 2


def test_remembered_roles_are_bounded() -> None:
    made = room(RoomConfig(moderated=True))
    for n in range(1100):
        made.remember_role(user(n).bare, Role.PARTICIPANT)
    assert len(made.roles) == 1000
    made.join(user(5), "old", b"", 0.0)
    made.join(user(1099), "new", b"", 0.0)
    assert [made.seats[user(n)].occupant.role for n in (5, 1099)] == [Role.VISITOR, Role.PARTICIPANT]


def test_one_request_names_a_nickname_once() -> None:
    made = room()
    made.join(OWNER, "o", b"", 0.0)
    made.join(user(1), "n", b"", 0.0)
    with pytest.raises(StanzaError) as caught:
        change_roles(made, OWNER, [RoleItem("n", Role.MODERATOR), RoleItem("N", Role.NONE)])
    assert condition(caught) == "bad-request"
    assert made.seats[user(1)].occupant.role is Role.PARTICIPANT


def test_an_owner_elsewhere_gives_orders() -> None:
    made = room()
    made.join(user(1), "n", b"", 0.0)
    effects = change_roles(made, OWNER, [RoleItem("n", Role.NONE)])
    assert isinstance(effects[-1], Closed), "the last one is out of a temporary room"
    assert isinstance(effects[0], Tell) and effects[0].seats[0].jid == user(1)


def test_a_new_ban_of_a_domain_does_not_hit_members_of_it() -> None:
    made = room()
    made.set_standing(user(1).bare, Standing(Affiliation.MEMBER))
    made.set_standing(JID("example.org"), Standing(Affiliation.OUTCAST))
    assert made.affiliation_of(user(1)) is Affiliation.MEMBER
    assert made.affiliation_of(user(2)) is Affiliation.OUTCAST


def test_pseudonyms() -> None:
    one, other = room(), Room(JID("other@c.example.org"), RoomConfig(), b"t", Bounds())
    assert one.occupant_id(user(1).bare) == one.occupant_id(JID("u1@example.org"))
    assert len({one.occupant_id(user(1).bare), one.occupant_id(user(2).bare), other.occupant_id(user(1).bare)}) == 3
    assert len(one.occupant_id(user(1).bare)) == 32


@pytest.mark.parametrize(("one", "other"), [("Romeo", "ROMEO"), ("ﬁ", "fi"), ("Straße", "STRASSE"), ("a ", "a")])
def test_nicknames_that_are_the_same(one: str, other: str) -> None:
    assert nick_key(one) == nick_key(other)


@pytest.mark.parametrize(
    ("nick", "visible"), [("a", True), ("👍", True), ("\u200b", False), ("\u2003", False), ("", False)]
)
def test_nicknames_that_can_be_seen(nick: str, visible: bool) -> None:
    assert is_visible_nick(nick) is visible


def test_the_seat_of_a_session_that_comes_back() -> None:
    made = room(RoomConfig(moderated=True))
    assert made.seat_again(user(1), "n", Role.PARTICIPANT, b"<show>away</show>", "en", 0.0)
    occupant = made.find("n")
    assert occupant is not None and occupant.role is Role.PARTICIPANT
    assert made.seat_again(OWNER, "o", Role.VISITOR, b"", "", 0.0)
    assert made.seats[OWNER].occupant.role is Role.MODERATOR, "an owner is a moderator whatever was noted"
    assert not made.seat_again(user(2), "N", Role.PARTICIPANT, b"", "", 0.0), "somebody else's nickname"
    made.set_standing(user(3).bare, Standing(Affiliation.OUTCAST))
    assert not made.seat_again(user(3), "x", Role.PARTICIPANT, b"", "", 0.0)
