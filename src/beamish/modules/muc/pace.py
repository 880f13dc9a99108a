"""How fast users may act in one room: a rate for every session that outlasts the visit, and slow mode (XEP-0500). Pure.

`now` is the time of day, which may be set back: then no time has passed.
"""

from __future__ import annotations

from collections import OrderedDict

from beamish.modules.muc.occupants import Seat
from beamish.xmpp.errors import Condition, Kind, StanzaError
from beamish.xmpp.jid import JID

_REMEMBERED_SPEAKERS = 10_000
_REMEMBERED_VISITORS = 500


class Pace:
    """What everybody may still send: `burst` stanzas at once, `rate` a second in the long run.

    Kept by account for those who left, so that going and coming back is no way around it; the oldest are forgotten first.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left: OrderedDict[JID, tuple[float, float]] = OrderedDict()
        self._spoke: OrderedDict[JID, float] = OrderedDict()

    def arrive(self, bare: JID, now: float) -> float:
        """What somebody who enters may send at once. Raises `StanzaError(policy-violation)`, type wait, if nothing."""
        allowance, heard = self._left.get(bare, (self._burst, now))
        allowance = min(self._burst, allowance + max(0.0, now - heard) * self._rate)
        if allowance < 1.0:
            raise StanzaError(Condition.POLICY_VIOLATION, Kind.WAIT, "you are coming and going too fast for this room")
        return allowance

    def leave(self, seat: Seat) -> None:
        """A session is out. The visit itself counts as one stanza."""
        bare = seat.jid.bare
        self._left[bare] = (seat.allowance - 1.0, seat.heard)
        self._left.move_to_end(bare)
        if len(self._left) > _REMEMBERED_VISITORS:
            self._left.popitem(last=False)

    def charge(self, seat: Seat, now: float) -> None:
        """Count a stanza of a session. Raises `StanzaError(policy-violation)`, type wait, beyond the rate."""
        allowance = min(self._burst, seat.allowance + max(0.0, now - seat.heard) * self._rate)
        seat.heard = now
        if allowance < 1.0:
            seat.allowance = allowance
            raise StanzaError(Condition.POLICY_VIOLATION, Kind.WAIT, "you are sending too fast for this room")
        seat.allowance = allowance - 1.0

    def speak(self, bare: JID, wait: int, now: float) -> None:
        """Somebody says something where `wait` seconds are to lie between two messages (XEP-0500 §8: of one account).

        Raises `StanzaError(policy-violation)`, type wait.
        """
        spoke = self._spoke.get(bare)
        if spoke is not None and spoke <= now < spoke + wait:
            text = f"in this room you have to wait {wait} seconds between messages"
            raise StanzaError(Condition.POLICY_VIOLATION, Kind.WAIT, text)
        self._spoke[bare] = now
        self._spoke.move_to_end(bare)
        if len(self._spoke) > _REMEMBERED_SPEAKERS:
            self._spoke.popitem(last=False)
