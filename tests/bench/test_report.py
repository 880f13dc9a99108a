"""Ratios, aims, estimates and pages that are made from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.bench import compare, document, profile, report
from tests.bench.plan import CELLS, QUICK, THOROUGH, Durations, loads
from tests.bench.profile import LOOP, Samples


def row(cell: str, on: str, us: float | None, variant: str = "plain, 1000 in flight", **more: Any) -> dict[str, Any]:
    return {
        "cell": cell,
        "on": on,
        "scenario": cell,
        "variant": variant,
        "server": f"{on} 1.0",
        "us_per_unit": us,
        "instructions": None,
        "per_second": 1000.0,
        "server_share": 0.95,
        "units": 10,
        "figures": {},
    } | more


def whole(*rows: dict[str, Any], failures: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "at": "2030-01-02T03:04:05Z",
        "python": "3.11.7",
        "cores": 2,
        "seconds": 60,
        "quick": False,
        "rows": list(rows),
        "failures": list(failures),
    }


def line_of(text: str, start: str) -> list[str]:
    """The cells of the one table line that starts so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_ratio_is_to_the_better_peer() -> None:
    group = {"beamish": row("chat", "beamish", 10.0), "prosody": row("chat", "prosody", 80.0)}
    assert report.ratio(group) == 8.0
    assert report.ratio(group | {"ejabberd": row("chat", "ejabberd", 50.0)}) == 5.0
    assert report.ratio({"beamish": row("chat", "beamish", 10.0)}) is None


@pytest.mark.parametrize(("us", "times", "met"), [(10.0, "**6.0**", "6 ✓"), (12.0, "**5.0**", "6 ✗")])
def test_an_aim_is_reached_or_not(us: float, times: str, met: str) -> None:
    text = report.markdown(
        whole(row("chat", "beamish", us), row("chat", "prosody", 90.0), row("chat", "ejabberd", 60.0))
    )
    cells = line_of(text, "chat |")
    assert cells[4:6] == [times, met]


def test_throughput_below_the_limit_of_the_core_is_marked() -> None:
    text = report.markdown(whole(row("chat", "beamish", 10.0, server_share=0.5), row("chat", "ejabberd", 60.0)))
    assert line_of(text, "chat |")[6] == "1,000* / – / 1,000"


def test_latencies_stand_in_a_table_of_their_own_and_p99_must_be_below_the_best_peers() -> None:
    slow = {"p50 ms": 0.5, "p99 ms": 4.0}
    rows = [
        row("chat", "beamish", 100.0, "plain, 500/s", figures={"p50 ms": 0.2, "p99 ms": 5.0}),
        row("chat", "prosody", 300.0, "plain, 500/s", figures=slow | {"p99 ms": 9.0}),
        row("chat", "ejabberd", 200.0, "plain, 500/s", figures=slow),
        row("chat", "relay", 60.0, "plain, 500/s", figures=slow),
    ]
    text = report.markdown(whole(*rows))
    assert line_of(text, "chat at 500/s | 100 / 300 / 200")[2:] == ["0.20 / 5.00", "0.50 / 9.00", "0.50 / 4.00", "✗"]
    assert line_of(text, "chat at 500/s | 100 | 60.0")[4:] == ["1.67", "1.5 ✗"]


def test_memory_is_compared_whatever_the_number_of_sessions() -> None:
    text = report.markdown(
        whole(
            row("idle", "beamish", None, "tls 10000 sessions", figures={"PSS KiB each": 29.0}, units=10_000),
            row("idle", "prosody", None, "tls 2000 sessions", figures={"PSS KiB each": 54.0}, units=2_000),
        )
    )
    assert line_of(text, "tls") == ["tls", "29.0 (10,000 sessions)", "54.0 (2,000 sessions)", "", "30 ✓"]


@pytest.mark.parametrize(("many", "met"), [(10.9, "1.1 ✓"), (11.1, "1.1 ✗")])
def test_a_crowd_may_cost_a_tenth_more(many: float, met: str) -> None:
    text = report.markdown(
        whole(
            row("crowd", "beamish", 10.0, "plain, 1000 in flight, 200 sessions"),
            row("crowd", "beamish", many, "plain, 1000 in flight, 10000 sessions"),
        )
    )
    assert line_of(text, "chat message, 200 sessions → 10000 sessions")[-1] == met


def test_failures_are_told() -> None:
    assert "- chat on beamish: lost" in report.markdown(whole(failures=("chat on beamish: lost\nlog",)))


def test_instructions_have_a_column_where_they_were_counted() -> None:
    rows = [row("chat", "beamish", 10.0, instructions=2e4), row("chat", "ejabberd", 60.0, instructions=1e5)]
    assert "20,000 / – / 100,000" in report.markdown(whole(*rows))
    assert "instructions" not in report.markdown(whole(row("chat", "beamish", 10.0)))


# ---- the plan ---------------------------------------------------------------------------------------------------------


def test_every_cell_has_an_estimate_for_each_server() -> None:
    for cell in CELLS:
        assert len(cell.fixed) == len(cell.servers), cell.key
        assert set(cell.slow) <= set(cell.servers)


def test_what_was_measured_before_is_a_better_estimate(tmp_path: Path) -> None:
    cell = CELLS[0]
    options = cell.options("beamish", QUICK, quick=True)
    fresh = Durations(tmp_path / "durations.json")
    assert fresh.estimate(cell, "beamish", options) == loads(cell, options) + cell.fixed[0]
    fresh.took(cell, "beamish", options, loads(cell, options) + 42.0)
    assert Durations(tmp_path / "durations.json").estimate(cell, "beamish", options) == loads(cell, options) + 42.0


def test_longer_runs_are_estimated_longer() -> None:
    for cell in CELLS:
        quick, thorough = (cell.options("beamish", base, quick=False) for base in (QUICK, THOROUGH))
        assert loads(cell, quick) < loads(cell, thorough)


def test_quick_leaves_out_what_is_slow_and_peers_have_fewer_sessions() -> None:
    quick = compare.steps(compare.arguments().parse_args(["--quick"]))
    thorough = compare.steps(compare.arguments().parse_args([]))
    assert {(step.cell.key, step.server) for step in thorough} - {(step.cell.key, step.server) for step in quick} == {
        ("muc-1000", "prosody"),
        ("contacts", "prosody"),
    }
    idle = {step.server: step.options.sessions for step in quick if step.cell.key == "idle"}
    assert idle == {"beamish": 10_000, "prosody": 1_000, "ejabberd": 1_000}
    assert {step.options.sessions for step in thorough if step.cell.key == "idle"} == {10_000}


# ---- profiles ---------------------------------------------------------------------------------------------------------

STACKS = [
    "thread (7): MainThread;main (beamish/cli/__init__.py);run (asyncio/runners.py) 10",
    "thread (7): MainThread;data_received (beamish/net/c2s.py);feed (beamish/stream/parser.py) 30",
    "thread (7): MainThread;data_received (beamish/net/c2s.py);route (beamish/core/router.py);loads (json.py) 40",
    "thread (8): storage;_thread (threading.py);commit (beamish/storage/commits.py:12) 300",
]


def sampled() -> Samples:
    samples = Samples(user=3.0, system=1.0)
    samples.read(STACKS, {7: 8.0, 8: 2.0})
    return samples


def test_a_sample_counts_for_the_innermost_layer_of_ours() -> None:
    assert sampled().layers() == pytest.approx({"route": 0.4, "parse, stream, SASL": 0.3, "storage": 0.2, LOOP: 0.1})


def test_functions_by_themselves_and_with_what_they_call() -> None:
    own, cumulative = (sampled().functions(cumulative=value) for value in (False, True))
    assert own == {
        "route (core/router.py)": 0.4,
        "feed (stream/parser.py)": 0.3,
        "commit (storage/commits.py)": 0.2,
        LOOP: 0.1,
    }
    assert cumulative["data_received (net/c2s.py)"] == 0.7
    assert not any("cli" in name for name in cumulative)


def test_a_thread_counts_for_the_cpu_it_used_however_often_it_was_seen() -> None:
    assert sampled().count == 380
    assert sum(sampled().stacks.values()) == pytest.approx(10.0)


def test_the_share_of_the_kernel() -> None:
    assert sampled().kernel == 0.25
    assert profile.Samples().kernel == 0.0


# ---- the page ---------------------------------------------------------------------------------------------------------


def test_only_what_is_marked_is_replaced() -> None:
    page = "before\n<!-- a -->\nold\n<!-- /a -->\nafter <!-- b -->x<!-- /b -->"
    assert (
        document.replaced(page, "a", "new") == "before\n<!-- a -->\n\nnew\n\n<!-- /a -->\nafter <!-- b -->x<!-- /b -->"
    )
    with pytest.raises(ValueError, match="no place"):
        document.replaced(page, "c", "new")


def test_the_page_has_places_for_what_is_measured() -> None:
    text = (Path(__file__).parents[2] / "docs/performance.md").read_text()
    for name in ("measured", "profiles"):
        assert document.replaced(text, name, "") != text


def test_a_profile_becomes_a_line_and_its_functions() -> None:
    one = {
        "cell": "ping",
        "variant": "plain",
        "kernel": 0.2,
        "layers": {"route": 0.6, LOOP: 0.4},
        "self": {"f (x.py)": 0.5},
    }
    text = document.profiles({"at": "2030-01-02", "python": "3.11.7", "profiles": [one]})
    assert "| ping | 60% | 40% | 20% |" in text
    assert "- **ping**: `f (x.py)` 50%" in text


def test_a_new_profile_takes_the_place_of_the_old_one_of_its_load(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    cells = {cell.key: cell for cell in CELLS}
    profile._save(path, cells["ping"], [{"cell": "ping", "samples": 1}])
    profile._save(path, cells["chat"], [{"cell": "chat", "samples": 2}])
    profile._save(path, cells["ping"], [{"cell": "ping", "samples": 3}])
    assert profile._saved(path) == [{"cell": "chat", "samples": 2}, {"cell": "ping", "samples": 3}]
