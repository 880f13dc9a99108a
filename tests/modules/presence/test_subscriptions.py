"""The tables against the text of RFC 6121 appendix A, cell by cell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.core.services import RosterItem
from beamish.modules.presence.subscriptions import KINDS, Ruling, State, apply, inbound, outbound, state_of
from beamish.xmpp.jid import JID

# The rows as the RFC prints them: existing state, route or deliver, new state.
NAMES = {
    "None": State.NONE,
    "None + Pending Out": State.NONE_OUT,
    "None + Pending In": State.NONE_IN,
    "None + Pending Out+In": State.NONE_OUT_IN,
    "To": State.TO,
    "To + Pending In": State.TO_IN,
    "From": State.FROM,
    "From + Pending Out": State.FROM_OUT,
    "Both": State.BOTH,
}

TABLE_2 = """
None                  | MUST | None + Pending Out
None + Pending Out    | MUST | no state change
None + Pending In     | MUST | None + Pending Out+In
None + Pending Out+In | MUST | no state change
To                    | MUST | no state change
To + Pending In       | MUST | no state change
From                  | MUST | From + Pending Out
From + Pending Out    | MUST | no state change
Both                  | MUST | no state change
"""
TABLE_3 = """
None                  | MUST | no state change
None + Pending Out    | MUST | None
None + Pending In     | MUST | no state change
None + Pending Out+In | MUST | None + Pending In
To                    | MUST | None
To + Pending In       | MUST | None + Pending In
From                  | MUST | no state change
From + Pending Out    | MUST | From
Both                  | MUST | From
"""
TABLE_4 = """
None                  | M.N. | pre-approval
None + Pending Out    | M.N. | pre-approval
None + Pending In     | MUST | From
None + Pending Out+In | MUST | From + Pending Out
To                    | M.N. | pre-approval
To + Pending In       | MUST | Both
From                  | M.N. | no state change
From + Pending Out    | M.N. | no state change
Both                  | M.N. | no state change
"""
TABLE_5 = """
None                  | S.N. | no state change
None + Pending Out    | S.N. | no state change
None + Pending In     | MUST | None
None + Pending Out+In | MUST | None + Pending Out
To                    | S.N. | no state change
To + Pending In       | MUST | To
From                  | MUST | None
From + Pending Out    | MUST | None + Pending Out
Both                  | MUST | To
"""
TABLE_6 = """
None                  | MUST | None + Pending In
None + Pending Out    | MUST | None + Pending Out+In
None + Pending In     | S.N. | no state change
None + Pending Out+In | S.N. | no state change
To                    | MUST | To + Pending In
To + Pending In       | S.N. | no state change
From                  | S.N. reply | no state change
From + Pending Out    | S.N. reply | no state change
Both                  | S.N. reply | no state change
"""
TABLE_7 = """
None                  | S.N. | no state change
None + Pending Out    | S.N. | no state change
None + Pending In     | MUST reply | None
None + Pending Out+In | MUST reply | None + Pending Out
To                    | S.N. | no state change
To + Pending In       | MUST reply | To
From                  | MUST reply | None
From + Pending Out    | MUST reply | None + Pending Out
Both                  | MUST reply | To
"""
TABLE_8 = """
None                  | S.N. | no state change
None + Pending Out    | MUST | To
None + Pending In     | S.N. | no state change
None + Pending Out+In | MUST | To + Pending In
To                    | S.N. | no state change
To + Pending In       | S.N. | no state change
From                  | S.N. | no state change
From + Pending Out    | MUST | Both
Both                  | S.N. | no state change
"""
TABLE_9 = """
None                  | S.N. | no state change
None + Pending Out    | MUST | None
None + Pending In     | S.N. | no state change
None + Pending Out+In | MUST | None + Pending In
To                    | MUST | None
To + Pending In       | MUST | None + Pending In
From                  | S.N. | no state change
From + Pending Out    | MUST | From
Both                  | MUST | From
"""


def rows(kind: str, table: str) -> list[tuple[str, str, str, str]]:
    lines = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    assert [line[0] for line in lines] == list(NAMES)
    return [(kind, line[0], line[1], line[2]) for line in lines]


OUTBOUND = [
    *rows("subscribe", TABLE_2),
    *rows("unsubscribe", TABLE_3),
    *rows("subscribed", TABLE_4),
    *rows("unsubscribed", TABLE_5),
]
INBOUND = [
    *rows("subscribe", TABLE_6),
    *rows("unsubscribe", TABLE_7),
    *rows("subscribed", TABLE_8),
    *rows("unsubscribed", TABLE_9),
]


@pytest.mark.parametrize(("kind", "state", "passes", "after"), OUTBOUND)
def test_appendix_a_2_outbound(kind: str, state: str, passes: str, after: str) -> None:
    ruling = outbound(kind, NAMES[state])
    assert ruling.passes is (passes == "MUST")
    assert ruling.reply == ""
    assert ruling.approved is (after == "pre-approval")
    assert ruling.state is NAMES.get(after, NAMES[state])


@pytest.mark.parametrize(("kind", "state", "passes", "after"), INBOUND)
def test_appendix_a_3_inbound(kind: str, state: str, passes: str, after: str) -> None:
    ruling = inbound(kind, NAMES[state])
    must, _, replies = passes.partition(" ")
    assert ruling.passes is (must == "MUST")
    assert ruling.state is NAMES.get(after, NAMES[state])
    assert ruling.reply == ({"subscribe": "subscribed", "unsubscribe": "unsubscribed"}[kind] if replies else "")
    assert ruling.approved is False


@pytest.mark.parametrize(
    ("state", "after"), [(State.NONE, State.FROM), (State.NONE_OUT, State.FROM_OUT), (State.TO, State.BOTH)]
)
def test_a_3_1_note_1_a_pre_approved_request_is_answered_and_not_delivered(state: State, after: State) -> None:
    assert inbound("subscribe", state, approved=True) == Ruling(after, True, passes=False, reply="subscribed")


@pytest.mark.parametrize("state", State)
def test_3_4_2_unsubscribed_cancels_a_pre_approval_in_every_state(state: State) -> None:
    ruling = outbound("unsubscribed", state, approved=True)
    assert ruling.approved is False
    assert ruling.state is outbound("unsubscribed", state).state


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_that_a_contact_sends_touches_a_pre_approval(kind: str, state: State) -> None:
    assert inbound(kind, state, approved=True).approved is True
    assert inbound(kind, state, approved=False).approved is False


@pytest.mark.parametrize("direction", [outbound, inbound])
def test_other_types_are_not_in_the_tables(direction: object) -> None:
    with pytest.raises(KeyError):
        direction("probe", State.NONE)  # type: ignore[operator]


CONTACT = JID.parse("juliet@example.com")


def test_a_request_alone_does_not_enter_the_roster() -> None:
    item = apply(inbound("subscribe", State.NONE), None, CONTACT)
    assert item is not None
    assert item.pending_in
    assert not item.listed


def test_a_denied_stranger_leaves_nothing_behind() -> None:
    item = apply(inbound("subscribe", State.NONE), None, CONTACT)
    assert apply(outbound("unsubscribed", state_of(item)), item, CONTACT) is None


def test_an_unsubscribe_to_a_stranger_makes_no_item() -> None:
    assert apply(outbound("unsubscribe", State.NONE), None, CONTACT) is None


def test_name_and_groups_outlive_every_change() -> None:
    item = RosterItem(CONTACT, "Juliet", ("Lovers",), to=True, from_=True)
    after = apply(outbound("unsubscribed", state_of(item)), item, CONTACT)
    assert after == item.with_(from_=False)


@given(st.lists(st.tuples(st.sampled_from([outbound, inbound]), st.sampled_from(sorted(KINDS)))))
def test_every_sequence_stays_within_the_nine_states(steps: list[tuple[object, str]]) -> None:
    item: RosterItem | None = None
    was_listed = False
    for direction, kind in steps:
        state = state_of(item)
        item = apply(direction(kind, state, item is not None and item.approved), item, CONTACT)  # type: ignore[operator]
        after = state_of(item)
        assert (item is not None and item.subscription) in ((False,) if item is None else (after.label,))
        assert not was_listed or (item is not None and item.listed), "only the user removes an item"
        was_listed = item is not None and item.listed


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(sorted(KINDS))), max_size=30))
def test_two_servers_that_exchange_every_stanza_agree_in_the_end(steps: list[tuple[bool, str]]) -> None:
    """Both sides of a subscription are derived from one another: what one has as `to` the other has as `from`."""
    sides: list[RosterItem | None] = [None, None]

    def receive(at: int, kind: str) -> None:
        ruling = inbound(kind, state_of(sides[at]), (item := sides[at]) is not None and item.approved)
        sides[at] = apply(ruling, sides[at], CONTACT)
        if ruling.reply:
            receive(1 - at, ruling.reply)

    for first, kind in steps:
        at = 0 if first else 1
        ruling = outbound(kind, state_of(sides[at]), (item := sides[at]) is not None and item.approved)
        sides[at] = apply(ruling, sides[at], CONTACT)
        if ruling.passes:
            receive(1 - at, kind)
        one, other = state_of(sides[0]).value, state_of(sides[1]).value
        assert (one[0], one[1]) == (other[1], other[0])
