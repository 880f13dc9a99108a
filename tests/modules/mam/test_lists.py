"""Long lists of numbers, against a sorted list."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.modules.mam.archives import cursor

from beamish.modules.mam import lists
from beamish.modules.mam.packing import numbers_of
from beamish.storage.engine import SqliteCursor

NUMBER = st.integers(0, 400)
BOUND = st.one_of(st.integers(-1, 402), st.sampled_from((lists.TOP - 1, lists.TOP, lists.TOP << 9)))


class Lists(RuleBasedStateMachine):
    """Two lists, one of them of a resource, in rows of few numbers or many."""

    @initialize(size=st.sampled_from((1, 2, 3, 7, 100)), at_once=st.sampled_from((1, 2, 64)))
    def begin(self, size: int, at_once: int) -> None:
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(lists, "LIST_NUMBERS", size)
        self.patches.setattr(lists, "_ROWS", at_once)
        self.patches.setattr(lists, "_ROWS_MOST", at_once * 2)
        self.patches.setattr(lists, "_COUNTED_ROWS", at_once + 1)
        self.c = cursor()
        self.model: dict[int, list[int]] = {5: [], -5: []}

    def teardown(self) -> None:
        if hasattr(self, "patches"):
            self.patches.undo()

    @rule(new=st.dictionaries(st.sampled_from((5, -5)), st.sets(NUMBER, min_size=1, max_size=25), min_size=1))
    def append(self, new: dict[int, set[int]]) -> None:
        fresh = {list_: sorted(numbers - set(self.model[list_])) for list_, numbers in new.items()}
        lists.append(self.c, {list_: numbers for list_, numbers in fresh.items() if numbers})
        for list_, numbers in fresh.items():
            self.model[list_] = sorted([*self.model[list_], *numbers])

    @rule(list_=st.sampled_from((5, -5)), gaps=st.lists(st.integers(1, 9), min_size=1, max_size=30))
    def append_at_the_end(self, list_: int, gaps: list[int]) -> None:
        last = self.model[list_][-1] if self.model[list_] else -1
        numbers = []
        for gap in gaps:
            numbers.append(last := last + gap)
        lists.append(self.c, {list_: numbers})
        self.model[list_] += numbers

    @rule(list_=st.sampled_from((5, -5)), upto=NUMBER)
    def cut(self, list_: int, upto: int) -> None:
        lists.cut(self.c, list_, upto)
        self.model[list_] = [n for n in self.model[list_] if n > upto]

    @rule(list_=st.sampled_from((5, -5)), numbers=st.sets(NUMBER, max_size=30))
    def take_out(self, list_: int, numbers: set[int]) -> None:
        lists.take_out(self.c, list_, numbers)
        self.model[list_] = [n for n in self.model[list_] if n not in numbers]

    @rule(
        list_=st.sampled_from((5, -5)),
        low=BOUND,
        high=BOUND,
        limit=st.integers(0, 60),
        skip=st.integers(0, 40),
        backwards=st.booleans(),
    )
    def between(self, list_: int, low: int, high: int, limit: int, skip: int, backwards: bool) -> None:
        inside = [n for n in self.model[list_] if low < n < high]
        if backwards:
            inside.reverse()
        found = lists.of_list(self.c, list_).between(low, high, limit, backwards=backwards, skip=skip)
        assert found == inside[skip : skip + limit]

    @rule(list_=st.sampled_from((5, -5)), low=BOUND, high=BOUND, most=st.one_of(st.integers(0, 60), st.just(lists.TOP)))
    def count(self, list_: int, low: int, high: int, most: int) -> None:
        inside = sum(low < n < high for n in self.model[list_])
        assert lists.of_list(self.c, list_).count(low, high, most) == (None if inside > most else inside)

    @rule(list_=st.sampled_from((5, -5)), at=BOUND)
    def ends(self, list_: int, at: int) -> None:
        model, numbers = self.model[list_], lists.of_list(self.c, list_)
        above, below = model[bisect_right(model, at) :], model[: bisect_left(model, at)]
        assert numbers.first(at) == (above[0] if above else None)
        assert numbers.last(at) == (below[-1] if below else None)

    @invariant()
    def rows(self) -> None:
        if not hasattr(self, "model"):
            return
        for list_, model in self.model.items():
            rows = self.c.rows("SELECT first, numbers FROM mam_list WHERE list = ? ORDER BY first", list_)
            parts = [numbers_of(data, len(data) // 8) for _, data in rows]
            assert [first for first, _ in rows] == [part[0] for part in parts]
            assert all(len(part) <= lists.LIST_NUMBERS for part in parts)
            assert [n for part in parts for n in part] == model


Lists.TestCase.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)
TestLists = Lists.TestCase


def made(numbers: list[int]) -> SqliteCursor:
    c = cursor()
    lists.append(c, {1: numbers})
    return c


def test_rows_of_different_lengths_are_skipped_as_far_as_asked() -> None:
    """What was skipped in one row is not skipped again in the next."""
    c = made(list(range(200)))
    lists.cut(c, 1, 94)  # five are left in the first row
    lists.take_out(c, 1, range(102, 200))  # two in the second
    lists.append(c, {1: list(range(300, 500))})
    expected = [*range(95, 102), *range(300, 500)]
    numbers = lists.of_list(c, 1)
    assert numbers.between(-1, lists.TOP, 5, skip=3) == expected[3:8]
    assert numbers.between(-1, lists.TOP, 500, backwards=True, skip=203) == expected[3::-1]


@pytest.mark.parametrize(("low", "high"), [(50, 40), (50, 50), (50, 51), (lists.TOP, 0), (250, 40)])
def test_nothing_is_between_bounds_that_cross(low: int, high: int) -> None:
    numbers = lists.of_list(made(list(range(0, 300, 2))), 1)
    assert numbers.count(low, high) == 0
    assert numbers.between(low, high, 10) == []
    assert numbers.between(low, high, 10, backwards=True) == []


def test_what_comes_in_order_fills_rows_and_leaves_full_ones_alone() -> None:
    c = made([1])
    for n in range(2, 351):
        lists.append(c, {1: [n]})
    assert [first for (first,) in c.rows("SELECT first FROM mam_list")] == [1, 101, 201, 301]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(new=st.dictionaries(st.integers(-300, 300).filter(bool), st.sets(NUMBER, min_size=1, max_size=5), min_size=60))
def test_many_lists_at_once(new: dict[int, set[int]]) -> None:
    c = cursor()
    lists.append(c, {list_: sorted(numbers)[:1] for list_, numbers in new.items()})
    lists.append(c, {list_: sorted(numbers)[1:] for list_, numbers in new.items() if len(numbers) > 1})
    for list_, numbers in new.items():
        assert lists.of_list(c, list_).between(-1, lists.TOP, 99) == sorted(numbers)
