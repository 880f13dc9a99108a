from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamish.core.services import RosterItem
from beamish.modules.roster.memory import MemoryRoster
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


items = st.builds(RosterItem, st.sampled_from((A, B, C)), to=st.booleans(), from_=st.booleans(), listed=st.booleans())


@given(st.lists(items))
def test_counts_and_lists_agree_with_the_items(changes: list[RosterItem]) -> None:
    roster = MemoryRoster([], 0, 0)
    for item in changes:
        if roster.get(item.jid) == item:
            roster.drop(item.jid)
        else:
            roster.put(item)
        held = list(roster.items())
        assert roster.listed == sum(i.listed for i in held)
        assert set(roster.subscribers()) == {i.jid for i in held if i.from_}
        assert set(roster.subscriptions()) == {i.jid for i in held if i.to}
