"""What `compare` measures, on which servers, what is aimed at, and how long it takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.bench.load import Options
from tests.bench.runs import securities
from tests.bench.scenarios import SCENARIOS
from tests.bench.wire import Security

PEERS = ("prosody", "ejabberd")
OWN = "beamish"
FLOORS = ("relay", "relay-asyncio")


@dataclass(frozen=True)
class Cell:
    """One scenario with its settings, measured on several servers.

    `goal`: how many times less CPU per unit than the better peer. `peers` changes options for servers other than Beamish in
    a quick run, which leaves the `slow` ones out. `fixed` are seconds that a server takes beside the load (start,
    accounts, logins, set-up), as measured on two cores; the estimate of an earlier run on this machine is preferred.
    """

    key: str
    title: str
    scenario: str
    changes: dict[str, Any] = field(default_factory=dict)
    servers: tuple[str, ...] = (OWN, *PEERS)
    goal: float | None = None
    rate: float | None = None
    peers: dict[str, Any] = field(default_factory=dict)
    slow: tuple[str, ...] = ()
    fixed: tuple[float, ...] = ()

    def options(self, server: str, base: Options, *, quick: bool) -> Options:
        """What this server is measured with."""
        rate = self.rate or getattr(SCENARIOS[self.scenario], "RATE", None)
        changes = self.changes | (self.peers if quick and server != OWN else {})
        return replace(base, latency=rate, **changes)


CELLS = (
    Cell("chat", "chat", "chat", servers=(OWN, *PEERS, *FLOORS), goal=6, fixed=(4, 2, 4, 1, 1)),
    Cell("chat-archive", "chat with archive, SM, carbons", "chat", {"archive": True, "sm": True, "carbons": True},
         goal=25, rate=100, fixed=(5, 6, 5)),
    Cell("chat-tls", "chat over TLS", "chat", {"security": Security.TLS}, goal=6, fixed=(5, 3, 6)),
    Cell("muc", "room of 100", "muc", servers=(OWN, *PEERS, "relay"), goal=6, fixed=(6, 6, 6, 1)),
    Cell("muc-1000", "room of 1,000", "muc", {"occupants": 1000}, servers=(OWN, *PEERS, "relay"), goal=6, rate=2,
         slow=("prosody",), fixed=(8, 90, 10, 2)),
    Cell("presence", "presence, 200 contacts", "presence", goal=6, fixed=(6, 5, 5)),
    Cell("pep", "personal events, 100 contacts", "pep", goal=6, fixed=(9, 8, 8)),
    Cell("ping", "ping", "ping", servers=(OWN, *PEERS, "relay"), goal=4, fixed=(4, 2, 5, 1)),
    Cell("login", "login", "login", goal=1.5, fixed=(6, 2, 9)),
    Cell("contacts", "login with contacts", "contacts", slow=("prosody",), fixed=(11, 25, 16)),
    Cell("offline", "offline", "offline", goal=4, fixed=(14, 20, 25)),
    Cell("archive", "archive, pages of 50", "archive", {"rows": 1_000_000}, goal=4, fixed=(26, 8, 25)),
    Cell("mixed", "mixed, 90 % presence", "mixed", fixed=(10, 8, 13)),
    Cell("idle", "idle sessions", "idle", {"sessions": 10_000}, peers={"sessions": 1_000}, fixed=(70, 10, 14)),
    Cell("crowd", "chat in a crowd", "crowd", {"sessions": 10_000, "pairs": 50, "repeat": 4}, servers=(OWN,), fixed=(25,)),
)  # fmt: skip

THOROUGH = Options(seconds=4.0, repeat=3, warmup=1.0, settle=20.0)
QUICK = Options(seconds=1.0, repeat=2, warmup=0.3, settle=3.0, messages=2_000)


class Durations:
    """How long cells took on this machine, so that the next run can say beforehand how long it will take."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fixed: dict[str, float] = json.loads(path.read_text())
        except (OSError, ValueError):
            self._fixed = {}

    def estimate(self, cell: Cell, server: str, options: Options) -> float:
        """Seconds that a cell will take on a server."""
        known = self._fixed.get(self._key(cell, server, options))
        return loads(cell, options) + (cell.fixed[cell.servers.index(server)] if known is None else known)

    def took(self, cell: Cell, server: str, options: Options, seconds: float) -> None:
        """Remember."""
        self._fixed[self._key(cell, server, options)] = round(max(0.0, seconds - loads(cell, options)), 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._fixed, indent=1, sort_keys=True) + "\n")

    @staticmethod
    def _key(cell: Cell, server: str, options: Options) -> str:
        return f"{cell.key} {server} {options.sessions}"


def loads(cell: Cell, options: Options) -> float:
    """Seconds of measured load, warm-up and rest in a cell on one server."""
    once = options.warmup + options.repeat * options.seconds
    return len(securities(cell.scenario, options)) * {
        "idle": 2 * options.settle + min(5.0, options.settle),
        "crowd": 2 * once,
        "contacts": 4 * (once + options.seconds),
        "offline": options.seconds + 2.0,
        "archive": (2 if options.rows else 1) * (once + options.repeat * options.seconds),
    }.get(cell.scenario, 2 * once)
