"""Lines that others cause as often as they like."""

from __future__ import annotations

from typing import Any

from beamish.core.sparing import Sparing
from beamish.testing.clock import FakeClock


class Lines:
    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **keys: Any) -> None:
        self.written.append((event, keys))


def test_a_few_are_written_and_the_rest_counted() -> None:
    clock, log = FakeClock(), Lines()
    sparing = Sparing(clock, lines=2, seconds=60.0)
    assert [sparing.write(log.info, "refused", "a", n=n) for n in range(5)] == [True, True, False, False, False]
    assert sparing.write(log.info, "refused", "b", n=5), "somebody else"
    assert sparing.write(log.info, "failed", "a", n=6), "something else"
    clock.advance(60.0)
    assert [sparing.write(log.info, "refused", who, n=7) for who in "ab"] == [True, True]
    assert [keys for _, keys in log.written] == [
        {"n": 0},
        {"n": 1},
        {"n": 5},
        {"n": 6},
        {"n": 7, "left_out": 3},
        {"n": 7},
    ]


def test_what_is_remembered_is_bounded() -> None:
    clock, log = FakeClock(), Lines()
    sparing = Sparing(clock, lines=1, known=3)
    for who in range(3):
        assert sparing.write(log.info, "refused", who)
    assert not sparing.write(log.info, "refused", 0), "and is the latest now"
    assert sparing.write(log.info, "refused", 3)
    assert not sparing.write(log.info, "refused", 0)
    assert sparing.write(log.info, "refused", 1), "forgotten"
