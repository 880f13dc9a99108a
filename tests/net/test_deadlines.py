"""Many deadlines, one timer: who is late is told once and in order, who was taken out is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamish.net.deadlines import Deadlines
from beamish.testing.clock import FakeClock


def test_who_stays_too_long_is_told() -> None:
    clock, late = FakeClock(), list[str]()
    deadlines = Deadlines[str](clock, 10.0, late.append)
    deadlines.put("a")
    clock.advance(4.0)
    deadlines.put("b")
    deadlines.put("c")
    clock.advance(5.5)
    assert late == []
    clock.advance(0.5)
    assert late == ["a"]
    deadlines.take("b")
    clock.advance(4.0)
    assert late == ["a", "c"]
    assert len(deadlines) == 0
    deadlines.put("d")
    clock.advance(10.0)
    assert late == ["a", "c", "d"]


def test_put_in_again_begins_anew() -> None:
    clock, late = FakeClock(), list[str]()
    deadlines = Deadlines[str](clock, 10.0, late.append)
    deadlines.put("a")
    clock.advance(9.0)
    deadlines.put("a")
    clock.advance(9.0)
    assert late == []
    clock.advance(1.0)
    assert late == ["a"]


def test_one_that_is_late_may_take_out_the_next() -> None:
    clock, late = FakeClock(), list[str]()

    def tell(item: str) -> None:
        late.append(item)
        deadlines.take("b")
        deadlines.put("new")

    deadlines = Deadlines[str](clock, 10.0, tell)
    deadlines.put("a")
    deadlines.put("b")
    clock.advance(10.0)
    assert late == ["a"]
    clock.advance(10.0)
    assert late == ["a", "new"]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abcd"), st.booleans()), max_size=40))
def test_nobody_is_early_late_or_forgotten(steps: list[tuple[int, str, bool]]) -> None:
    clock = FakeClock()
    told: list[tuple[float, str]] = []
    expected: list[tuple[float, str]] = []
    deadlines = Deadlines[str](clock, 7.0, lambda item: told.append((clock.monotonic(), item)))
    due: dict[str, float] = {}

    def pass_time(seconds: float) -> None:
        end = clock.monotonic() + seconds
        expected.extend(sorted((at, item) for item, at in due.items() if at <= end))
        for item in [item for item, at in due.items() if at <= end]:
            del due[item]
        clock.advance(seconds)

    for wait, item, put in steps:
        pass_time(float(wait))
        if put:
            deadlines.put(item)
            due[item] = clock.monotonic() + 7.0
        else:
            deadlines.take(item)
            due.pop(item, None)
    pass_time(8.0)
    assert sorted(told) == sorted(expected)
    assert len(deadlines) == 0
