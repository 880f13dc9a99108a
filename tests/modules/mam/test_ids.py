"""Ids are in order, not to be guessed, and spans of time are spans of ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamish.core.clock import parse_stamp, stamp
from beamish.modules.mam import ids

TIMES = st.floats(min_value=0, max_value=4_000_000_000, allow_nan=False)


@given(st.lists(TIMES, min_size=2, max_size=50))
def test_ids_grow_whatever_the_clock_does(times: list[float]) -> None:
    source = ids.IdSource()
    given_out = [source.next(now)[0] for now in times]
    assert given_out == sorted(set(given_out))
    assert source.last == given_out[-1] < 1 << 63


def test_ids_go_on_where_an_earlier_run_ended() -> None:
    source = ids.IdSource(last=1 << 60)
    assert source.next(1_000.0)[0] > 1 << 60


@given(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 32) - 1))
def test_text_and_back(number: int, salt: int) -> None:
    assert ids.parse(ids.text_of(number, salt)) == (number, salt)


@given(st.text(max_size=30))
def test_foreign_ids_are_no_ids(text: str) -> None:
    found = ids.parse(text)
    assert found is None or ids.text_of(*found) == text.lower()


@given(TIMES)
def test_a_span_includes_what_is_shown_with_its_bounds(now: float) -> None:
    number, _ = ids.IdSource().next(now)
    shown = parse_stamp(stamp(ids.time_of(number)))
    assert ids.first_at(shown) <= number < ids.first_after(shown)
    assert number < ids.first_at(shown + 0.001)
    assert number >= ids.first_after(shown - 0.001)


def test_salts_are_not_repeated_within_a_pool() -> None:
    source = ids.IdSource()
    salts = {source.next(1.0)[1] for _ in range(2_000)}
    assert len(salts) > 1_990
