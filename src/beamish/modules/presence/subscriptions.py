"""RFC 6121 appendix A: what a server does with subscription stanzas, as tables.

The tables are the appendix's own, seen from the local user: "outbound" is what the user sends, "inbound" is what the
contact sends to the user. Pre-approval (§3.4) is one flag beside the nine states. Pure: no rosters, no routing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from beamish.core.services import RosterItem
from beamish.xmpp.jid import JID

SUBSCRIBE: Final = "subscribe"
SUBSCRIBED: Final = "subscribed"
UNSUBSCRIBE: Final = "unsubscribe"
UNSUBSCRIBED: Final = "unsubscribed"
KINDS: Final = frozenset((SUBSCRIBE, SUBSCRIBED, UNSUBSCRIBE, UNSUBSCRIBED))
"""The presence types that manage subscriptions (RFC 6121 §4.7.1)."""


class State(Enum):
    """The nine states of appendix A.1. The value is `(to, from, pending out, pending in)`."""

    NONE = (False, False, False, False)
    NONE_OUT = (False, False, True, False)
    NONE_IN = (False, False, False, True)
    NONE_OUT_IN = (False, False, True, True)
    TO = (True, False, False, False)
    TO_IN = (True, False, False, True)
    FROM = (False, True, False, False)
    FROM_OUT = (False, True, True, False)
    BOTH = (True, True, False, False)

    @property
    def label(self) -> str:
        """The `subscription` attribute of this state."""
        to, from_ = self.value[:2]
        return ("both" if from_ else "to") if to else ("from" if from_ else "none")


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a stanza does. `passes`: it is routed (outbound) or delivered (inbound).

    `reply` is the type of the stanza the server answers with on the user's behalf, "" for none.
    """

    state: State
    approved: bool
    passes: bool
    reply: str = ""


def state_of(item: RosterItem | None) -> State:
    """The state that a roster item is in; a contact without one is in state None (A.1, implementation note)."""
    if item is None:
        return State.NONE
    # A request cannot be pending in a direction that is subscribed already.
    return State((item.to, item.from_, item.pending_out and not item.to, item.pending_in and not item.from_))


def apply(ruling: Ruling, item: RosterItem | None, contact: JID) -> RosterItem | None:
    """The roster item after a ruling; None if nothing is left to be remembered of the contact.

    An item that was not in the roster enters it with the first thing the user has done: asked, approved, pre-approved.
    A contact's request alone does not (§3.1.3, security warning).
    """
    to, from_, pending_out, pending_in = ruling.state.value
    known = item if item is not None else RosterItem(contact, listed=False)
    listed = known.listed or to or from_ or pending_out or ruling.approved
    if not listed and not pending_in:
        return None
    return known.with_(
        to=to,
        from_=from_,
        pending_out=pending_out,
        pending_in=pending_in,
        approved=ruling.approved,
        listed=listed,
    )


def outbound(kind: str, state: State, approved: bool = False) -> Ruling:
    """Appendix A.2: the user sent a stanza of this kind to the contact. `KeyError` for other types of presence."""
    passes, after = _OUTBOUND[kind][state]
    if kind == SUBSCRIBED and state in _MAY_BE_APPROVED_AHEAD:
        return Ruling(state, True, passes=False)
    # §3.4.2, implementation note: `unsubscribed` ends a pre-approval, whatever else it does.
    return Ruling(after or state, approved and kind != UNSUBSCRIBED, passes)


def inbound(kind: str, state: State, approved: bool = False) -> Ruling:
    """Appendix A.3: the contact sent a stanza of this kind to the user. `KeyError` for other types of presence."""
    passes, after = _INBOUND[kind][state]
    if kind == SUBSCRIBE:
        if approved and state in _APPROVES:  # A.3.1 [1]
            return Ruling(_APPROVES[state], approved, passes=False, reply=SUBSCRIBED)
        if state.value[1]:  # A.3.1 [2]
            return Ruling(state, approved, passes=False, reply=SUBSCRIBED)
    reply = UNSUBSCRIBED if kind == UNSUBSCRIBE and passes else ""  # A.3.2 [1]
    return Ruling(after or state, approved, passes, reply)


_Rows = dict[State, tuple[bool, State | None]]
"""State → (route or deliver, new state or None for no change)."""

_OUTBOUND: Final[dict[str, _Rows]] = {
    SUBSCRIBE: {  # table 2
        State.NONE: (True, State.NONE_OUT),
        State.NONE_OUT: (True, None),
        State.NONE_IN: (True, State.NONE_OUT_IN),
        State.NONE_OUT_IN: (True, None),
        State.TO: (True, None),
        State.TO_IN: (True, None),
        State.FROM: (True, State.FROM_OUT),
        State.FROM_OUT: (True, None),
        State.BOTH: (True, None),
    },
    UNSUBSCRIBE: {  # table 3
        State.NONE: (True, None),
        State.NONE_OUT: (True, State.NONE),
        State.NONE_IN: (True, None),
        State.NONE_OUT_IN: (True, State.NONE_IN),
        State.TO: (True, State.NONE),
        State.TO_IN: (True, State.NONE_IN),
        State.FROM: (True, None),
        State.FROM_OUT: (True, State.FROM),
        State.BOTH: (True, State.FROM),
    },
    SUBSCRIBED: {  # table 4; None, None + Pending Out and To: pre-approval
        State.NONE: (False, None),
        State.NONE_OUT: (False, None),
        State.NONE_IN: (True, State.FROM),
        State.NONE_OUT_IN: (True, State.FROM_OUT),
        State.TO: (False, None),
        State.TO_IN: (True, State.BOTH),
        State.FROM: (False, None),
        State.FROM_OUT: (False, None),
        State.BOTH: (False, None),
    },
    UNSUBSCRIBED: {  # table 5
        State.NONE: (False, None),
        State.NONE_OUT: (False, None),
        State.NONE_IN: (True, State.NONE),
        State.NONE_OUT_IN: (True, State.NONE_OUT),
        State.TO: (False, None),
        State.TO_IN: (True, State.TO),
        State.FROM: (True, State.NONE),
        State.FROM_OUT: (True, State.NONE_OUT),
        State.BOTH: (True, State.TO),
    },
}

_INBOUND: Final[dict[str, _Rows]] = {
    SUBSCRIBE: {  # table 6
        State.NONE: (True, State.NONE_IN),
        State.NONE_OUT: (True, State.NONE_OUT_IN),
        State.NONE_IN: (False, None),
        State.NONE_OUT_IN: (False, None),
        State.TO: (True, State.TO_IN),
        State.TO_IN: (False, None),
        State.FROM: (False, None),
        State.FROM_OUT: (False, None),
        State.BOTH: (False, None),
    },
    UNSUBSCRIBE: {  # table 7
        State.NONE: (False, None),
        State.NONE_OUT: (False, None),
        State.NONE_IN: (True, State.NONE),
        State.NONE_OUT_IN: (True, State.NONE_OUT),
        State.TO: (False, None),
        State.TO_IN: (True, State.TO),
        State.FROM: (True, State.NONE),
        State.FROM_OUT: (True, State.NONE_OUT),
        State.BOTH: (True, State.TO),
    },
    SUBSCRIBED: {  # table 8
        State.NONE: (False, None),
        State.NONE_OUT: (True, State.TO),
        State.NONE_IN: (False, None),
        State.NONE_OUT_IN: (True, State.TO_IN),
        State.TO: (False, None),
        State.TO_IN: (False, None),
        State.FROM: (False, None),
        State.FROM_OUT: (True, State.BOTH),
        State.BOTH: (False, None),
    },
    UNSUBSCRIBED: {  # table 9
        State.NONE: (False, None),
        State.NONE_OUT: (True, State.NONE),
        State.NONE_IN: (False, None),
        State.NONE_OUT_IN: (True, State.NONE_IN),
        State.TO: (True, State.NONE),
        State.TO_IN: (True, State.NONE_IN),
        State.FROM: (False, None),
        State.FROM_OUT: (True, State.FROM),
        State.BOTH: (True, State.FROM),
    },
}

_MAY_BE_APPROVED_AHEAD: Final = frozenset((State.NONE, State.NONE_OUT, State.TO))
_APPROVES: Final = {
    # The states in which a request may meet a pre-approval, and what the contact's approval makes of them (table 4).
    State.NONE: State.FROM,
    State.NONE_OUT: State.FROM_OUT,
    State.TO: State.BOTH,
}
