"""`python -m tests.bench compare`: everything on every server in one run, with a table of ratios. What `make bench` calls."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench.load import Options
from tests.bench.measure import Row, pin
from tests.bench.plan import CELLS, OWN, QUICK, THOROUGH, Cell, Durations
from tests.bench.report import markdown
from tests.bench.runs import about, drive, measure, securities
from tests.bench.scenarios.idle import enough_files
from tests.bench.servers import SERVERS
from tests.bench.wire import BenchError

FOLDER = Path("var/bench")


@dataclass(frozen=True)
class Step:
    """One cell on one server."""

    cell: Cell
    server: str
    options: Options


def arguments() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, fewer idle sessions of peers")
    parser.add_argument("--only", action="append", choices=[cell.key for cell in CELLS], metavar="CELL",
                        help="one cell; may be repeated: " + ", ".join(cell.key for cell in CELLS))  # fmt: skip
    parser.add_argument("--server", action="append", choices=list(SERVERS), help="one server; may be repeated")
    parser.add_argument("--seconds", type=float, help="length of one measured run")
    parser.add_argument("--repeat", type=int, help="measured runs of each load")
    parser.add_argument("--sessions", type=int, help="idle and crowd: sessions, instead of 10,000")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where bench.json and bench.md are written")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    return parser


def steps(chosen: argparse.Namespace) -> list[Step]:
    """Everything that will be measured, in this order: one cell on all its servers, then the next."""
    base = QUICK if chosen.quick else THOROUGH
    base = replace(base, seconds=chosen.seconds or base.seconds)
    planned = []
    for cell in CELLS:
        if chosen.only and cell.key not in chosen.only:
            continue
        for server in cell.servers:
            if (chosen.server and server not in chosen.server) or (chosen.quick and server in cell.slow):
                continue
            options = cell.options(server, replace(base, repeat=chosen.repeat or base.repeat), quick=chosen.quick)
            if chosen.sessions and "sessions" in cell.changes:
                options = replace(options, sessions=chosen.sessions)
            planned.append(Step(cell, server, options))
    return planned


async def run(planned: list[Step], durations: Durations, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure; rows are kept with the cell and server they belong to. What fails is told and left out."""
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    for number, step in enumerate(planned, start=1):
        print(f"[{number}/{len(planned)}] {step.cell.title} on {step.server}", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            for options in securities(step.cell.scenario, step.options):
                for row in await measure(step.cell.scenario, step.server, options, core=chosen.server_core):
                    results.append({"cell": step.cell.key, "on": step.server, **row.as_json()})
        except BenchError as error:
            failures.append(str(error))
            print(f"FAILED {error}", file=sys.stderr, flush=True)
        else:
            durations.took(step.cell, step.server, step.options, time.monotonic() - began)
    return {"rows": results, "failures": failures}


def main(argv: list[str]) -> int:
    """Measure, print and save; 1 when anything was lost or failed, 2 when a server is missing."""
    chosen = arguments().parse_args(argv)
    planned = steps(chosen)
    missing = {SERVERS[step.server].missing() for step in planned} - {""}
    if missing:
        print(f"not installed: {' '.join(sorted(missing))} (see `make bench`)", file=sys.stderr)
        return 2
    try:
        enough_files(max((step.options.sessions for step in planned), default=0))
    except BenchError as error:
        print(f"{error}; fewer with --sessions", file=sys.stderr)
        return 2
    durations = Durations(chosen.folder / "durations.json")
    seconds = sum(durations.estimate(step.cell, step.server, step.options) for step in planned)
    print(
        f"{len(planned)} measurements, about {seconds / 60:.0f} minutes; leave the machine alone meanwhile.", flush=True
    )
    pin(os.getpid(), chosen.generator_core)
    began = time.monotonic()
    result = drive(run(planned, durations, chosen))
    took = time.monotonic() - began
    report = about() | {"quick": chosen.quick, "seconds": round(took), "estimated": round(seconds)} | result
    chosen.folder.mkdir(parents=True, exist_ok=True)
    (chosen.folder / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    text = markdown(report)
    (chosen.folder / "bench.md").write_text(text)
    print(text)
    print(f"{took / 60:.1f} minutes; {chosen.folder}/bench.json, {chosen.folder}/bench.md")
    for failure in result["failures"]:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if result["failures"] else 0


def rows_of(report: dict[str, Any]) -> list[tuple[str, str, Row]]:
    """The rows of a saved report: cell, server, row."""
    fields = Row.__dataclass_fields__
    return [(row["cell"], row["on"], Row(**{k: v for k, v in row.items() if k in fields})) for row in report["rows"]]


__all__ = ["OWN", "main", "rows_of"]
