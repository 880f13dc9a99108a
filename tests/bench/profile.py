"""`python -m tests.bench profile SCENARIO…`: what Beamish's time goes to while a load runs, by py-spy from outside.

A sample counts for the layer of the innermost function of ours; what the loop, the sockets and the kernel under it do is
`loop and sockets`. How much of all is the kernel's comes from its own accounts, not from samples.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.bench.load import Options
from tests.bench.measure import Row, pin
from tests.bench.plan import CELLS, OWN, Cell
from tests.bench.runs import about, drive, measure, securities
from tests.bench.wire import BenchError

FOLDER = Path("var/bench")
PER_SECOND = 100
"""The server is stopped for each sample, and every stop costs its threads a little. A stack read while it goes on changing is
mostly lost: so taken, samples of the busiest functions were missing and waiting seemed to be half of the work."""
TOP = 8
LAYERS = {
    "beamish/stream/": "parse, stream, SASL",
    "beamish/xmpp/": "stanzas: serialise, addresses",
    "beamish/core/": "route",
    "beamish/modules/": "modules",
    "beamish/net/": "connections: read, join, write",
    "beamish/storage/": "storage",
}
LOOP = "loop and sockets"
_OUTSIDE = re.compile(r"beamish/(cli/|app\.py|__main__\.py)")
"""What only starts the loop."""
_THREAD = re.compile(r"thread \((\d+)\)")
_FRAME = re.compile(r"^(?P<name>.*?) \((?P<file>[^()]*?)(?::\d+)?\)$")


@dataclass
class Samples:
    """Stacks, and the seconds of CPU that were spent in each."""

    stacks: dict[tuple[str, ...], float] = field(default_factory=dict)
    count: int = 0
    user: float = 0.0
    system: float = 0.0

    def read(self, lines: Iterable[str], cpu: Mapping[int, float]) -> None:
        """Take py-spy's raw format: thread and frames from the outermost in, joined by semicolons, then the count.

        `cpu` has the seconds each thread used; its samples share these out. By their number alone a thread that waits for
        the disk would seem to work.
        """
        seen: dict[int, dict[tuple[str, ...], int]] = {}
        for line in lines:
            text, _, count = line.rstrip("\n").rpartition(" ")
            first, *frames = text.split(";")
            thread = _THREAD.match(first)
            if thread and frames and count.isdigit():
                own = seen.setdefault(int(thread.group(1)), {})
                own[tuple(frames)] = own.get(tuple(frames), 0) + int(count)
        for number, own in seen.items():
            total = sum(own.values())
            self.count += total
            for stack, times_seen in own.items():
                self.stacks[stack] = self.stacks.get(stack, 0.0) + cpu.get(number, 0.0) * times_seen / total

    def layers(self) -> dict[str, float]:
        """The share of each layer."""
        sums: dict[str, float] = {}
        for stack, count in self.stacks.items():
            layer = layer_of(stack)
            sums[layer] = sums.get(layer, 0.0) + count
        total = sum(sums.values()) or 1.0
        return {layer: sums[layer] / total for layer in sorted(sums, key=sums.__getitem__, reverse=True)}

    def functions(self, *, cumulative: bool) -> dict[str, float]:
        """The share of each function of ours: of itself and what has no Python frame below it, or of all below it."""
        sums: dict[str, float] = {}
        for stack, count in self.stacks.items():
            names = [name for frame in stack if (name := ours(frame))]
            if cumulative:
                counted = set(names)
            else:
                counted = {names[-1] if names and innermost(stack) else LOOP}
            for name in counted:
                sums[name] = sums.get(name, 0.0) + count
        total = sum(self.stacks.values()) or 1.0
        return {name: sums[name] / total for name in sorted(sums, key=sums.__getitem__, reverse=True)[:TOP]}

    @property
    def kernel(self) -> float:
        """The kernel's share of the CPU time."""
        return self.system / (self.user + self.system) if self.user + self.system else 0.0


def ours(frame: str) -> str:
    """The name of a function of Beamish, with its file; empty for others."""
    found = _FRAME.match(frame)
    if not found or "beamish/" not in found["file"] or _OUTSIDE.search(found["file"]):
        return ""
    return f"{found['name']} ({found['file'].rpartition('beamish/')[2]})"


def innermost(stack: Sequence[str]) -> str:
    """The file of the innermost frame of ours, if nothing but library code runs below it; the loop's own turn is not ours."""
    for frame in reversed(stack):
        found = _FRAME.match(frame)
        if found and "beamish/" in found["file"]:
            file = "beamish/" + found["file"].rpartition("beamish/")[2]
            return "" if _OUTSIDE.search(file) else file
    return ""


def layer_of(stack: Sequence[str]) -> str:
    """The layer that a stack counts for."""
    file = innermost(stack)
    return next((layer for start, layer in LAYERS.items() if file.startswith(start)), LOOP)


class Profiler:
    """Runs py-spy beside every measured span of a scenario."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._before = (0.0, 0.0)
        self._threads: dict[int, float] = {}
        self.samples = Samples()

    def start(self, pids: Sequence[int]) -> None:
        """Attach to the server's own process."""
        self._number += 1
        self._pid = pids[0]
        self._before = times(self._pid)
        self._threads = thread_seconds(self._pid)
        self._process = subprocess.Popen(
            [self._program, "record", "-p", str(self._pid), "-d", "3600", "-r", str(PER_SECOND), "-f", "raw", "-F", "-t",
             "-o", str(self._folder / f"{self._number}.raw")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        """Detach and read what was seen."""
        if self._process is None:
            return
        user, system = times(self._pid)
        self.samples.user += user - self._before[0]
        self.samples.system += system - self._before[1]
        cpu = {thread: at - self._threads.get(thread, 0.0) for thread, at in thread_seconds(self._pid).items()}
        self._process.send_signal(signal.SIGINT)  # it writes its file then
        self._process.wait(30)
        self._process = None
        raw = self._folder / f"{self._number}.raw"
        if raw.exists():
            with raw.open() as lines:
                self.samples.read(lines, cpu)


def thread_seconds(pid: int) -> dict[int, float]:
    """Seconds of CPU that each thread of a process has used."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except OSError:
            continue  # it ended in the meantime
    return found


def times(pid: int) -> tuple[float, float]:
    """Seconds of user and of system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def arguments() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench profile", description=__doc__)
    profiled = [cell.key for cell in CELLS if cell.scenario not in ("idle", "crowd")]
    parser.add_argument("cells", nargs="+", choices=[*profiled, "all"], metavar="CELL",
                        help=f"one or more of: {', '.join(profiled)}, all")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=4.0, help="of load that is sampled")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where profile.json is written")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    return parser


async def profile(cell: Cell, options: Options, program: str, core: int) -> dict[str, Any]:
    """Run one load with py-spy attached; what was seen."""
    with tempfile.TemporaryDirectory(prefix="bench-profile-") as folder:
        profiler = Profiler(program, Path(folder))
        rows: list[Row] = await measure(cell.scenario, OWN, options, core=core, profiler=profiler)
    seen = profiler.samples
    if not seen.count:
        raise BenchError(f"py-spy saw nothing of {cell.title}: may it attach to other processes?")
    return {
        "cell": cell.key,
        "variant": options.security.value,
        "samples": seen.count,
        "us_per_unit": rows[0].us_per_unit,
        "unit": rows[0].unit,
        "kernel": seen.kernel,
        "layers": seen.layers(),
        "self": seen.functions(cumulative=False),
        "cumulative": seen.functions(cumulative=True),
    }


def main(argv: list[str]) -> int:
    """Profile, print, save."""
    chosen = arguments().parse_args(argv)
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        print("py-spy is missing: pip install '.[bench]'", file=sys.stderr)
        return 2
    pin(os.getpid(), chosen.generator_core)
    base = Options(seconds=chosen.seconds, repeat=1, warmup=1.0)
    path = chosen.folder / "profile.json"
    failed = False
    for cell in CELLS:
        if cell.scenario in ("idle", "crowd") or not {cell.key, "all"} & set(chosen.cells):
            continue
        changes = {**cell.changes, "rows": 0} if "rows" in cell.changes else cell.changes
        found: list[dict[str, Any]] = []
        for options in securities(cell.scenario, replace(base, **changes)):
            print(f"… {cell.title}, {options.security.value}", file=sys.stderr, flush=True)
            try:
                found.append(drive(profile(cell, options, program, chosen.server_core)))
            except BenchError as error:
                print(f"FAILED {error}", file=sys.stderr, flush=True)
                failed = True
            else:
                print(text_of(found[-1]), flush=True)
        if found:
            _save(path, cell, found)
    return int(failed)


def _save(path: Path, cell: Cell, found: list[dict[str, Any]]) -> None:
    """Put profiles of a cell in the place of older ones; those of other cells stay."""
    order = [cell.key for cell in CELLS]
    kept = [old for old in _saved(path) if old["cell"] != cell.key]
    profiles = sorted(kept + found, key=lambda one: order.index(one["cell"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about() | {"profiles": profiles}, indent=1) + "\n")


def _saved(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text())["profiles"])
    except (OSError, ValueError, KeyError):
        return []


def text_of(one: dict[str, Any]) -> str:
    """A profile for a terminal."""
    lines = [
        f"{one['cell']} {one['variant']}: {one['samples']} samples, {one['kernel']:.0%} of the CPU time in the kernel"
    ]
    for title in ("layers", "self", "cumulative"):
        lines.append(f"  {title}")
        lines += [f"    {share:6.1%}  {name}" for name, share in one[title].items()]
    return "\n".join(lines)
