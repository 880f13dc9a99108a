"""Runs scenarios on servers, and lays the figures out."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import uvloop
from tests.bench.load import Bench, Options
from tests.bench.measure import Profiled, Row
from tests.bench.scenarios import SCENARIOS
from tests.bench.servers import SERVERS, Setting
from tests.bench.wire import BenchError

T = TypeVar("T")

GENERATOR_LIMIT = 0.9


def setting_for(name: str, options: Options, *, port: int = 0, core: int = 0, keep: bool = False) -> Setting:
    """What a server must be like for a scenario."""
    scenario = SCENARIOS[name]
    return Setting(
        accounts=scenario.accounts(options),
        friends=scenario.friends(options) if hasattr(scenario, "friends") else (),
        archive=options.archive or getattr(scenario, "ARCHIVE", False),
        port=port,
        core=core,
        keep=keep,
    )


async def measure(name: str, server_name: str, options: Options, *, port: int = 0, core: int = 0, keep: bool = False,
                  profiler: Profiled | None = None) -> list[Row]:  # fmt: skip
    """Start a server, run one scenario on it, stop it. Raises BenchError when the load did not arrive whole."""
    async with SERVERS[server_name](setting_for(name, options, port=port, core=core, keep=keep)) as server:
        version = await server.version()
        bench = Bench(server, options, profiler)
        try:
            rows: list[Row] = await SCENARIOS[name].run(bench)
        except BenchError as error:
            raise BenchError(f"{name} on {server_name}: {error}\n{server.log_tail()}") from error
        finally:
            await bench.drop_all()
    for row in rows:
        row.server = version
    return rows


def securities(name: str, options: Options) -> list[Options]:
    """The options with each kind of connection that a scenario asks for."""
    kinds = getattr(SCENARIOS[name], "SECURITIES", (options.security,))
    return [replace(options, security=kind) for kind in kinds]


def table(rows: list[Row]) -> str:
    """Lay rows out for a terminal."""
    counted = any(row.instructions is not None for row in rows)
    head = [
        "scenario",
        "variant",
        "server",
        "CPU µs",
        *(["instr."] if counted else []),
        "per",
        "per s",
        "server",
        "gen",
    ]
    lines: list[list[str]] = [[*head, "more"]]
    for row in rows:
        more = [f"{key} {value:,.2f}" for key, value in row.figures.items()]
        if row.generator_share is not None and row.generator_share > GENERATOR_LIMIT:
            more.append("GENERATOR AT ITS LIMIT")
        if row.runs_us:
            more.append("runs " + " ".join(f"{value:,.1f}" for value in row.runs_us))
        if row.notes:
            more.append(row.notes)
        lines.append(
            [
                row.scenario,
                row.variant,
                row.server,
                "" if row.us_per_unit is None else f"{row.us_per_unit:,.1f}",
                *(["" if row.instructions is None else f"{row.instructions:,.0f}"] if counted else []),
                row.unit,
                "" if row.per_second is None else f"{row.per_second:,.0f}",
                "" if row.server_share is None else f"{row.server_share:.0%}",
                "" if row.generator_share is None else f"{row.generator_share:.0%}",
                "; ".join(more),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    right = {number for number, title in enumerate(head) if title in ("CPU µs", "instr.", "per s", "server", "gen")} - {
        2
    }
    return "\n".join(
        "  ".join(
            [line[n].rjust(width) if n in right else line[n].ljust(width) for n, width in enumerate(widths)]
            + [line[-1]]
        ).rstrip()
        for line in lines
    )


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own; SIGTERM cancels it, so that no server and no directory is left behind."""

    async def until_stopped() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(until_stopped())
        except asyncio.CancelledError:
            raise SystemExit(128 + signal.SIGTERM) from None


def about() -> dict[str, Any]:
    """When and where something was measured."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
    }
