"""What a stanza costs the server must not clearly exceed what it cost before; and the measure must be able to tell."""

from __future__ import annotations

import pytest
from tests.bench import yardstick
from tests.bench.yardstick import LIMIT, LOADS, Lines, Ratio, least, measure, parse_and_serialise, quiet_world, ratio_of

ATTEMPTS = 3  # a machine that was disturbed all the time of one attempt may be so; not of three


@pytest.mark.parametrize("name", LOADS)
async def test_a_stanza_costs_no_more_than_it_did(name: str) -> None:
    saved = yardstick.saved()[name]
    seen: list[Ratio] = []
    for _ in range(ATTEMPTS):
        seen.append(await measure(name, repeats=6))
        if not seen[-1].exceeds(saved):
            return
    pytest.fail(
        f"{name} costs {min(one.cpu for one in seen):.2f} times parse + serialise, {saved.cpu:.2f} were saved. Meant so? "
        "python -m tests.bench yardstick --renew"
    )


async def test_a_server_that_became_slower_is_noticed() -> None:
    async with quiet_world(yardstick.USERS) as world:
        lines = await yardstick.chat(world)
        plain = await ratio_of(lines, repeats=3)
        wasted = parse_and_serialise(lines.sample, 1_000)
        honest = lines.slice

        async def slower() -> int:
            for _ in range(5):
                await wasted()
            return await honest()

        lines.slice = slower  # type: ignore[method-assign]
        slow = await ratio_of(lines, repeats=3)
    assert slow.exceeds(plain)
    assert not plain.exceeds(slow)


async def test_a_lost_delivery_is_no_figure() -> None:
    async with quiet_world(yardstick.USERS) as world:
        lines = await yardstick.chat(world)
        doubled = Lines(world, world.clients[:1], [[lines.sample]], b"<body", 2)
        with pytest.raises(AssertionError, match="1 deliveries, 2 were due"):
            await doubled.slice()


def test_instructions_count_where_both_have_them() -> None:
    saved = Ratio(cpu=2.0, instructions=2.0)
    assert not Ratio(cpu=9.0, instructions=2.0 * LIMIT).exceeds(saved)
    assert Ratio(cpu=2.0, instructions=2.1 * LIMIT).exceeds(saved)
    assert Ratio(cpu=9.0, instructions=None).exceeds(saved)
    assert Ratio(cpu=9.0, instructions=1.0).exceeds(Ratio(cpu=2.0, instructions=None))


def test_the_least_of_each_counts() -> None:
    costs = [yardstick.Cost(2.0, 30.0), yardstick.Cost(1.0, 40.0)]
    assert least(costs) == yardstick.Cost(1.0, 30.0)
    assert least([yardstick.Cost(2.0, None)]).instructions is None


def test_renewing_keeps_what_was_not_measured(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yardstick, "SAVED", tmp_path / "yardstick.json")  # type: ignore[operator]
    yardstick.save({"chat": Ratio(2.0, None), "ping": Ratio(3.0, 4.0)})
    yardstick.save({"chat": Ratio(1.5, 1.25)})
    assert yardstick.saved() == {"chat": Ratio(1.5, 1.25), "ping": Ratio(3.0, 4.0)}


def test_every_kind_of_stanza_has_a_saved_ratio() -> None:
    assert yardstick.saved().keys() == LOADS.keys()
