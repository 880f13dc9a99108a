"""Times of day as XEP-0082 writes them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.core.clock import SystemClock, parse_stamp, stamp


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1969-07-21T02:56:15Z", -14_159_025.0),  # the examples of §3.2
        ("1969-07-20T21:56:15-05:00", -14_159_025.0),
        ("1776-07-04T02:56:15Z", -6_106_050_225.0),
        ("2023-11-14T22:13:20.500Z", 1_700_000_000.5),
        ("2023-11-14T23:43:20+01:30", 1_700_000_000.0),
    ],
)
def test_what_others_write_is_read(text: str, seconds: float) -> None:
    assert parse_stamp(text) == seconds


@pytest.mark.parametrize("text", ["", "now", "2023-11-14", "2023-11-14T22:13:20", "2023-13-14T22:13:20Z", "22:13:20Z"])
def test_what_is_no_time_or_has_no_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (which it is, is the library's business)
        parse_stamp(text)


def test_ours_are_in_utc_with_milliseconds() -> None:
    assert stamp(1_700_000_000.0625) == "2023-11-14T22:13:20.062Z"
    assert stamp(0.0) == "1970-01-01T00:00:00.000Z"


@given(st.integers(min_value=0, max_value=253_402_300_799_000))
def test_what_we_write_we_read(milliseconds: int) -> None:
    written = stamp(milliseconds / 1000)
    assert abs(parse_stamp(written) - milliseconds / 1000) < 0.002
    assert datetime.fromisoformat(written).tzinfo == UTC


async def test_the_machines_clock_calls_back() -> None:
    clock, called = SystemClock(), asyncio.Event()
    assert abs(clock.now() - datetime.now(UTC).timestamp()) < 5
    before = clock.monotonic()
    cancelled = clock.call_later(0.0, lambda: pytest.fail("it was cancelled"))
    cancelled.cancel()
    clock.call_later(0.01, called.set)
    await asyncio.wait_for(called.wait(), 5)
    assert clock.monotonic() >= before + 0.01
