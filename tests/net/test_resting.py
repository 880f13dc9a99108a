from __future__ import annotations

from beamish.net.resting import LOOK, SLICE, TRIM_AFTER, Resting, in_slices
from beamish.testing import FakeClock, World


class Talker:
    """A connection with a parser, or one that needs none."""

    def __init__(self, parser: bool = True) -> None:
        self.parser = parser
        self.parked = 0

    def park(self) -> bool:
        self.parked += 1
        return self.parser


class Trims:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def test_each_slice_waits_for_a_turn_of_the_loop() -> None:
    clock = FakeClock()
    seen: list[int] = []
    in_slices(clock, range(2 * SLICE + 1), seen.append)
    assert len(seen) == SLICE
    clock.advance(0.0)
    assert seen == list(range(2 * SLICE + 1))
    in_slices(clock, (), seen.append)


def test_who_has_said_something_is_parked_within_two_looks_and_noted_anew() -> None:
    clock, trims = FakeClock(), Trims()
    resting = Resting(clock, trims)
    talker = Talker()
    resting.awake(talker)
    clock.advance(LOOK)
    assert talker.parked == 0
    clock.advance(LOOK)
    assert talker.parked == 1
    clock.advance(10 * LOOK)
    assert talker.parked == 1
    resting.awake(talker)
    clock.advance(2 * LOOK)
    assert talker.parked == 2
    assert trims.count == 0


def test_memory_is_given_back_when_all_are_silent_and_much_was_freed() -> None:
    clock, trims = FakeClock(), Trims()
    resting = Resting(clock, trims)
    for _ in range(TRIM_AFTER):
        resting.awake(Talker())
    clock.advance(2 * LOOK)
    assert trims.count == 0
    clock.advance(LOOK)
    assert trims.count == 1
    clock.advance(10 * LOOK)
    assert trims.count == 1
    for _ in range(TRIM_AFTER):
        resting.awake(Talker(parser=False))
    clock.advance(10 * LOOK)
    assert trims.count == 1
    for _ in range(TRIM_AFTER):  # logins free several
        resting.newcomer()
        resting.awake(Talker(parser=False))
    clock.advance(3 * LOOK)
    assert trims.count == 2


def test_while_somebody_talks_memory_is_given_back_only_for_a_great_deal_of_it() -> None:
    clock, trims = FakeClock(), Trims()
    resting = Resting(clock, trims)
    talkers = [Talker() for _ in range(TRIM_AFTER)]
    for talker in talkers:
        resting.awake(talker)
    for _ in range(2 * 15):
        clock.advance(LOOK)
        for talker in talkers:
            if talker.parked:
                talker.parked = 0
                resting.awake(talker)
    assert trims.count == 0
    clock.advance(3 * LOOK)
    assert trims.count == 1


async def test_a_session_holds_a_parser_only_for_what_is_not_plain(world: World) -> None:
    romeo = await world.login("romeo@example.org/a", presence=True)
    await romeo.iq("<iq type='get' id='p0'><ping xmlns='urn:xmpp:ping'/></iq>")  # its names are known from now on
    await world.pass_time(2)
    [connection] = world.c2s.connections
    romeo.send("<iq type='get' id='p1'><ping xmlns='urn:xmpp:ping'/></iq>")
    await romeo.expect("<iq type='result' id='p1'/>")
    assert not connection.park()
    romeo.send("<iq type='get' id='p2'><p:ping xmlns:p='urn:xmpp:ping'/></iq>")
    await romeo.expect("<iq type='result' id='p2'/>")
    assert connection.park()
    assert not connection.park()
