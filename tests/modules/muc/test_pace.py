"""Rates in a room, where the clock of the machine is set back by an hour."""

from __future__ import annotations

import pytest

from beamish.modules.muc.occupants import Occupant, Seat
from beamish.modules.muc.pace import Pace
from beamish.modules.muc.privileges import Affiliation, Role
from beamish.xmpp.errors import Condition, StanzaError
from beamish.xmpp.jid import JID

ROMEO = JID.parse("romeo@example.org/orchard")
NOON = 1_700_000_000.0
ELEVEN = NOON - 3600


def seat(allowance: float) -> Seat:
    jid = JID.parse("cave@conference.example.org/R")
    made = Seat(ROMEO, Occupant(jid, ROMEO.bare, "id", Affiliation.NONE, Role.PARTICIPANT), b"", "", NOON)
    made.allowance = allowance
    return made


def test_nobody_is_silenced_by_a_clock_that_is_set_back() -> None:
    pace = Pace(rate=1.0, burst=5.0)
    one = seat(allowance=3.0)
    for _ in range(3):
        pace.charge(one, ELEVEN)
    with pytest.raises(StanzaError) as refused:
        pace.charge(one, ELEVEN)
    assert refused.value.condition is Condition.POLICY_VIOLATION
    pace.charge(one, ELEVEN + 1.0)


def test_nobody_is_kept_out_by_it() -> None:
    pace = Pace(rate=1.0, burst=5.0)
    pace.leave(seat(allowance=3.0))
    assert pace.arrive(ROMEO.bare, ELEVEN) == 2.0


def test_slow_mode_does_not_last_for_an_hour() -> None:
    pace = Pace(rate=1.0, burst=5.0)
    pace.speak(ROMEO.bare, 10, NOON)
    with pytest.raises(StanzaError):
        pace.speak(ROMEO.bare, 10, NOON + 9)
    pace.speak(ROMEO.bare, 10, ELEVEN)
    with pytest.raises(StanzaError):
        pace.speak(ROMEO.bare, 10, ELEVEN + 9)
    pace.speak(ROMEO.bare, 10, ELEVEN + 10)
