from __future__ import annotations

from beamish.modules.register.limits import Allowance


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_key_has_its_own_and_all_share_one() -> None:
    clock = Clock()
    allowance = Allowance(2, 3, 60.0, clock)
    assert [allowance.take("a") for _ in range(3)] == [True, True, False]
    assert allowance.take("b")
    assert not allowance.take("c")
    clock.now = 60.0
    assert allowance.left("a") and allowance.take("c")


def test_the_window_slides() -> None:
    clock = Clock()
    allowance = Allowance(2, 100, 60.0, clock)
    for now, allowed in ((0.0, True), (30.0, True), (59.0, False), (61.0, True), (62.0, False), (91.0, True)):
        clock.now = now
        assert allowance.take("a") is allowed


def test_a_refusal_costs_nothing() -> None:
    clock = Clock()
    allowance = Allowance(1, 100, 60.0, clock)
    assert allowance.take("a")
    for clock.now in range(1, 60):
        assert not allowance.take("a")
    clock.now = 60.0
    assert allowance.take("a")


def test_keys_are_forgotten_beyond_a_number() -> None:
    allowance = Allowance(1, 1_000_000, 60.0, Clock())
    for number in range(10_001):
        assert allowance.take(str(number))
    assert allowance.left("0")
    assert not allowance.left("1")


def test_what_did_not_happen_is_given_back() -> None:
    clock = Clock()
    allowance = Allowance(2, 2, 60.0, clock)
    first = allowance.count("a")
    clock.now = 1.0
    allowance.count("a")
    assert not allowance.left("a") and not allowance.left("b")
    allowance.give_back("a", first)
    assert allowance.left("a") and allowance.left("b")
    clock.now = 60.5  # the one that stayed is the later one
    assert allowance.take("a") and not allowance.left("a")
    allowance.give_back("a", 17.0)
    allowance.give_back("nobody", 17.0)
    assert not allowance.left("a")
