"""What a load cost: CPU and memory of the server's processes, read from the kernel, and quantiles of latencies."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from tests.bench.instructions import Counter, available


def family(pid: int) -> list[int]:
    """Return a process and all its descendants that live now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # ended between the listing and the reading
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:  # grows while it is walked
        found += children.get(member, [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of processes: user and system, all threads, ended threads too, in nanosecond resolution.

    This is the clock that clock_getcpuclockid(3) names; /proc/PID/stat would count in ticks of 10 ms, and
    /proc/PID/task/*/schedstat would forget the threads that ended.
    """
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime((~pid << 3) | 2)
        except OSError:
            continue  # that helper process ended
    return total


@dataclass(frozen=True)
class Memory:
    """Bytes in RAM: `pss` shares common pages out among their users, `rss` counts them whole.

    Pages of files are left out of `pss`: the share in a library changes when any other program that uses it comes or goes.
    """

    pss: int
    rss: int


def memory(pids: Iterable[int]) -> Memory:
    """Return the memory of processes, from smaps_rollup."""
    sums = {"Pss_Anon:": 0, "Pss_Shmem:": 0, "Rss:": 0}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            key, *rest = line.split()
            if key in sums:
                sums[key] += int(rest[0]) * 1024
    return Memory(sums["Pss_Anon:"] + sums["Pss_Shmem:"], sums["Rss:"])


def pin(pid: int, core: int) -> None:
    """Bind every thread of a process to one core; does nothing on a machine of one core."""
    if core >= (os.cpu_count() or 1):
        return
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), {core})
        except ProcessLookupError:
            continue


class Profiled(Protocol):
    """Something that looks on while a span is measured."""

    def start(self, pids: Sequence[int]) -> None:
        """The span begins."""

    def stop(self) -> None:
        """The span has ended."""


@dataclass
class Span:
    """CPU and wall-clock time between `start` and `stop`, in seconds: the server's and the generator's.

    `instructions` are the server's in user mode, None where the machine does not count them.
    """

    pids: Sequence[int]
    server: float = 0.0
    generator: float = 0.0
    wall: float = 0.0
    instructions: int | None = None
    profiler: Profiled | None = None

    def start(self) -> Span:
        """Begin to measure."""
        if self.profiler is not None:
            self.profiler.start(self.pids)
        self._counter = Counter().start(self.pids) if available() else None
        self._at = (cpu_seconds(self.pids), time.process_time(), time.perf_counter())
        return self

    def stop(self) -> Span:
        """End the measure."""
        server, generator, wall = self._at
        self.wall = time.perf_counter() - wall
        self.server = cpu_seconds(self.pids) - server
        self.generator = time.process_time() - generator
        if self._counter is not None:
            self.instructions = self._counter.stop()
        if self.profiler is not None:
            self.profiler.stop()
        return self

    def plus(self, other: Span) -> Span:
        """Add the server's share of another span; the time stays that of this one."""
        self.server += other.server
        if self.instructions is not None and other.instructions is not None:
            self.instructions += other.instructions
        return self

    def minus(self, other: Span) -> Span:
        """Take the server's share of another span off."""
        self.server -= other.server
        if self.instructions is not None and other.instructions is not None:
            self.instructions -= other.instructions
        return self


async def settled(pids: Sequence[int], *, share: float = 0.05, limit: float = 15.0) -> bool:
    """Wait until the server uses less than `share` of a core for half a second, at most `limit` seconds.

    Returns whether it did. Some servers store what they accepted in the background: that work must be counted in.
    """
    ends = time.perf_counter() + limit
    calm = 0
    while calm < 5 and time.perf_counter() < ends:
        before, at = cpu_seconds(pids), time.perf_counter()
        await asyncio.sleep(0.1)
        used = (cpu_seconds(pids) - before) / (time.perf_counter() - at)
        calm = calm + 1 if used < share else 0
    return calm >= 5


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value below which `part` of the values lie (nearest rank). Raises IndexError without values."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


@dataclass
class Row:
    """One line of the report: what one unit of a load cost on one server."""

    scenario: str
    variant: str
    unit: str
    units: int = 0
    us_per_unit: float | None = None  # CPU of the server, median over the runs
    per_second: float | None = None  # units per second of wall-clock time, median over the runs
    server_share: float | None = None  # of its core; below 0.9 the load did not saturate the server
    generator_share: float | None = None  # of its core; above 0.9 the generator was the limit of `per_second`
    instructions: float | None = None  # of the server in user mode per unit, median; None where they cannot be counted
    runs_us: list[float] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)  # latencies, memory: the key names the unit
    server: str = ""
    notes: str = ""

    @classmethod
    def of(cls, scenario: str, variant: str, unit: str, runs: Sequence[tuple[int, Span]], notes: str = "") -> Row:
        """Sum several runs of the same load up by their medians."""
        micro = [span.server * 1e6 / units for units, span in runs]
        counted = [span.instructions / units for units, span in runs if span.instructions is not None]
        return cls(
            scenario,
            variant,
            unit,
            units=sum(units for units, _ in runs),
            us_per_unit=median(micro),
            per_second=median(units / span.wall for units, span in runs),
            server_share=median(span.server / span.wall for _, span in runs),
            generator_share=median(span.generator / span.wall for _, span in runs),
            instructions=median(counted) if counted else None,
            runs_us=[round(value, 2) for value in micro],
            notes=notes,
        )

    def with_latencies(self, seconds: Sequence[float]) -> Row:
        """Add quantiles of latencies."""
        self.figures |= {
            "p50 ms": quantile(seconds, 0.5) * 1e3,
            "p99 ms": quantile(seconds, 0.99) * 1e3,
            "max ms": max(seconds) * 1e3,
        }
        return self

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON knows it."""
        return asdict(self)
