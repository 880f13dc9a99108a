from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamish.core.roster_xml import item_bytes
from beamish.core.services import RosterItem
from beamish.modules.roster.memory import MemoryRoster
from beamish.modules.roster.wire import WholeRosters
from beamish.xmpp.jid import JID

A, B, C = (JID.parse(f"{name}@example.org") for name in "abc")


def test_the_tuple_of_subscribers_is_the_same_until_one_comes_or_goes() -> None:
    roster = MemoryRoster([RosterItem(A, from_=True), RosterItem(B, to=True)], 1, 1)
    before = roster.subscribers()
    assert before == (A,)
    roster.put(RosterItem(A, name="renamed", from_=True))
    roster.put(RosterItem(C))
    assert roster.subscribers() is before
    roster.put(RosterItem(C, from_=True))
    assert roster.subscribers() == (A, C)
    roster.drop(A)
    assert roster.subscribers() == (C,)
    assert roster.subscriptions() == (B,)


AWAY = tuple(map(JID.parse, ("a@elsewhere.example", "example.org", "room@conference.example.org")))
flags = {name: st.booleans() for name in ("to", "from_", "pending_in", "pending_out", "listed")}
items = st.builds(RosterItem, st.sampled_from((A, B, C, *AWAY)), name=st.sampled_from(("", "x")), **flags)


@given(st.lists(items), st.sets(st.sampled_from((A, B, C, *AWAY[:1], JID.parse("d@example.org")))))
def test_counts_and_lists_agree_with_the_items(changes: list[RosterItem], online: set[JID]) -> None:
    roster = MemoryRoster([], 0, 0, frozenset(["example.org"]))
    accounts = dict.fromkeys(online - set(AWAY))
    states = {roster.state}
    for item in changes:
        if roster.get(item.jid) == item:
            roster.drop(item.jid)
        else:
            roster.put(item)
        assert roster.state not in states
        states.add(roster.state)
        held = list(roster.items())
        assert roster.listed == sum(i.listed for i in held)
        assert set(roster.subscribers()) == {i.jid for i in held if i.from_}
        assert set(roster.subscriptions()) == {i.jid for i in held if i.to}
        assert roster.subscribers_among(accounts) == {i.jid for i in held if i.from_ and i.jid in accounts}
        assert roster.subscriptions_among(accounts) == {i.jid for i in held if i.to and i.jid in accounts}
        assert set(roster.subscribers_elsewhere()) == {i.jid for i in held if i.from_ and i.jid in AWAY}
        assert set(roster.subscriptions_elsewhere()) == {i.jid for i in held if i.to and i.jid in AWAY}
        assert list(roster.pending()) == [i for i in held if i.pending_in or i.pending_out]


@given(st.lists(st.tuples(st.sampled_from((A, B)), items)))
def test_whole_rosters_are_as_if_made_each_time_and_within_their_bound(changes: list[tuple[JID, RosterItem]]) -> None:
    whole = WholeRosters(800)
    rosters = {user: MemoryRoster([], 0, 0) for user in (A, B)}
    for user, item in changes:
        roster = rosters[user]
        if roster.get(item.jid) == item:
            rosters[user] = roster = MemoryRoster([], 0, 0)  # read anew, or another account's of the same name
        else:
            roster.put(item)
        for owner, held in rosters.items():
            due = b"".join(item_bytes(i) for i in held.items() if i.listed)
            assert whole.items(owner, held) == whole.items(owner, held) == due
            assert 0 <= whole.size <= 800
    for user in rosters:
        whole.drop(user)
    assert whole.size == 0


def test_whole_rosters_are_made_once_and_the_least_used_go_first() -> None:
    rosters = {user: MemoryRoster([RosterItem(user)], 1, 1) for user in (A, B, C)}
    whole = WholeRosters(800)
    made = {user: whole.items(user, rosters[user]) for user in (A, B)}
    assert whole.items(A, rosters[A]) is made[A]
    whole.items(C, rosters[C])  # there is room for two
    assert whole.items(A, rosters[A]) is made[A]
    assert whole.items(B, rosters[B]) is not made[B]
