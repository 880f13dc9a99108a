import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.net import throttle
from beamish.net.throttle import Bucket, LoginThrottle
from beamish.testing.clock import FakeClock


def test_a_burst_is_free_and_a_debt_is_waited_for() -> None:
    clock = FakeClock()
    bucket = Bucket(10.0, 100.0, clock.monotonic())
    assert bucket.take(100, clock.monotonic) == 0.0
    assert bucket.take(20, clock.monotonic) == pytest.approx(2.0)
    clock.advance(2.0)
    assert bucket.take(1, clock.monotonic) == pytest.approx(0.1)


def test_a_bucket_fills_no_further_than_its_burst() -> None:
    clock = FakeClock()
    bucket = Bucket(10.0, 100.0, clock.monotonic())
    bucket.take(100, clock.monotonic)
    clock.advance(10_000)
    assert bucket.take(100, clock.monotonic) == 0.0
    assert bucket.take(1, clock.monotonic) > 0.0


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), min_size=20, max_size=200))
def test_whoever_waits_as_told_keeps_the_rate(steps: list[tuple[float, int]]) -> None:
    clock = FakeClock()
    began = clock.monotonic()
    bucket = Bucket(10.0, 30.0, began)
    taken = 0
    for idle, count in steps:
        clock.advance(idle)
        pause = bucket.take(count, clock.monotonic)
        taken += count
        clock.advance(pause)
        assert taken <= 30.0 + 10.0 * (clock.monotonic() - began) + 0.01


def test_failures_count_per_address_and_per_account() -> None:
    clock = FakeClock()
    limits = LoginThrottle(3, 2, 60.0, clock.monotonic)
    limits.failed("a", "romeo")
    assert limits.allowed("a", "romeo")
    limits.failed("b", "romeo")
    assert not limits.allowed("c", "romeo")
    assert limits.allowed("a", "juliet")
    limits.failed("a", "x")
    limits.failed("a", "y")
    assert not limits.allowed("a", "juliet")
    assert limits.allowed("b", "juliet")


def test_the_window_is_counted_from_the_first_failure() -> None:
    clock = FakeClock()
    limits = LoginThrottle(100, 2, 60.0, clock.monotonic)
    limits.failed("a", "romeo")
    clock.advance(59)
    limits.failed("a", "romeo")
    assert not limits.allowed("b", "romeo")
    clock.advance(2)
    assert limits.allowed("b", "romeo")
    limits.failed("a", "romeo")
    assert limits.allowed("b", "romeo"), "a new window begins with a new count"


def test_success_forgives_the_account_but_not_the_address() -> None:
    clock = FakeClock()
    limits = LoginThrottle(3, 3, 60.0, clock.monotonic)
    for _ in range(2):
        limits.failed("a", "romeo")
    limits.succeeded("romeo")
    limits.failed("a", "romeo")
    assert limits.allowed("b", "romeo")
    assert not limits.allowed("a", "juliet")


def test_an_unknown_account_counts_for_the_address_alone() -> None:
    limits = LoginThrottle(3, 1, 60.0, FakeClock().monotonic)
    limits.failed("a", "")
    assert limits.allowed("a", "")
    assert limits.allowed("b", "romeo")


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_TRACKED", 10)
    limits = LoginThrottle(1, 1, 60.0, FakeClock().monotonic)
    for at in range(100):
        limits.failed(f"address {at}", f"account {at}")
    assert len(limits._failures) == 10
    assert not limits.allowed("address 99", "")
    assert limits.allowed("address 0", "")
