"""`python -m tests.bench SCENARIO…`: run load scenarios against a server and print what each unit cost.

Run it from the repository's root. docs/performance.md says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path

import uvloop
from tests.bench.load import Bench, Options
from tests.bench.measure import Row, pin
from tests.bench.scenarios import SCENARIOS
from tests.bench.servers import SERVERS
from tests.bench.wire import BenchError, Security

GENERATOR_LIMIT = 0.9


def arguments() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Load an XMPP server and measure it.")
    parser.add_argument("scenarios", nargs="+", metavar="SCENARIO", choices=[*SCENARIOS, "all"],
                        help=f"one or more of: {', '.join(SCENARIOS)}, all")  # fmt: skip
    parser.add_argument("--server", action="append", choices=SERVERS, help="may be repeated; default: beamish")
    parser.add_argument("--port", type=int, default=0, help="where the server shall listen; default: a free port")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--tls", action="store_const", dest="security", const=Security.TLS, help="TLS from the first byte")
    how.add_argument("--starttls", action="store_const", dest="security", const=Security.STARTTLS, help="STARTTLS")
    defaults = Options()
    parser.set_defaults(security=Security.PLAIN)
    parser.add_argument("--mechanism", choices=["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256"], default=defaults.mechanism)
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="length of one measured run")
    parser.add_argument("--repeat", type=int, default=defaults.repeat, help="measured runs; the median is reported")
    parser.add_argument("--warmup", type=float, default=defaults.warmup, help="seconds of load before the first run")
    parser.add_argument("--rate", type=float, help="chat: messages per second, with latencies, not a full pipe")
    parser.add_argument("--pairs", type=int, default=defaults.pairs, help="chat: pairs of users; ping: sessions")
    parser.add_argument("--in-flight", type=int, default=defaults.in_flight, help="chat: messages under way in all")
    parser.add_argument("--full", action="store_true", help="chat: address full JIDs, not bare ones")
    parser.add_argument("--spread", action="store_true", help="chat: each speaker speaks to all listeners in turn")
    parser.add_argument("--contacts", type=int, default=defaults.contacts, help="presence: subscribed contacts online")
    parser.add_argument("--under-way", type=int, default=defaults.under_way,
                        help="presence, muc, pep: fan-outs at once")  # fmt: skip
    parser.add_argument("--occupants", type=int, default=defaults.occupants, help="muc: occupants; pep: contacts")
    parser.add_argument("--sessions", type=int, default=defaults.sessions, help="idle: sessions")
    parser.add_argument("--sm", action="store_true", help="chat: with stream management (XEP-0198) on in every session")
    parser.add_argument("--carbons", action="store_true", help="chat: with carbons (XEP-0280) on in every session")
    parser.add_argument("--archive", action="store_true", help="with the message archive (XEP-0313) on")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the server's directory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    return parser


async def measure(name: str, server_name: str, chosen: argparse.Namespace, options: Options) -> list[Row]:
    """Run one scenario with each kind of connection it asks for, each time on a fresh server.

    Raises BenchError when the load did not arrive whole.
    """
    rows: list[Row] = []
    for security in getattr(SCENARIOS[name], "SECURITIES", (options.security,)):
        rows += await measure_once(name, server_name, chosen, replace(options, security=security))
    return rows


async def measure_once(name: str, server_name: str, chosen: argparse.Namespace, options: Options) -> list[Row]:
    """Start a server, run one scenario on it, stop it."""
    scenario = SCENARIOS[name]
    starting = SERVERS[server_name](
        scenario.accounts(options),
        port=chosen.port,
        core=chosen.server_core,
        archive=chosen.archive,
        keep=chosen.keep,
    )
    async with starting as server:
        version = await server.version()
        bench = Bench(server, options)
        try:
            rows: list[Row] = await scenario.run(bench)
        except BenchError as error:
            raise BenchError(f"{name} on {server_name}: {error}\n{server.log_tail()}") from error
        finally:
            await bench.drop_all()
    for row in rows:
        row.server = version
    return rows


def table(rows: list[Row]) -> str:
    """Lay rows out for a terminal."""
    head = ("scenario", "variant", "server", "CPU µs", "per", "per s", "server", "gen", "more")
    lines = [head]
    for row in rows:
        more = [f"{key} {value:,.2f}" for key, value in row.figures.items()]
        if row.generator_share is not None and row.generator_share > GENERATOR_LIMIT:
            more.append("GENERATOR AT ITS LIMIT")
        if row.runs_us:
            more.append("runs " + " ".join(f"{value:,.1f}" for value in row.runs_us))
        if row.notes:
            more.append(row.notes)
        lines.append(
            (
                row.scenario,
                row.variant,
                row.server,
                "" if row.us_per_unit is None else f"{row.us_per_unit:,.1f}",
                row.unit,
                "" if row.per_second is None else f"{row.per_second:,.0f}",
                "" if row.server_share is None else f"{row.server_share:.0%}",
                "" if row.generator_share is None else f"{row.generator_share:.0%}",
                "; ".join(more),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    right = {3, 5, 6, 7}
    return "\n".join(
        "  ".join(
            [line[n].rjust(width) if n in right else line[n].ljust(width) for n, width in enumerate(widths)]
            + [line[-1]]
        ).rstrip()
        for line in lines
    )


async def run(chosen: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Run everything that was asked for; return the rows and the failures."""
    options = Options(**{name: getattr(chosen, name) for name in Options.__dataclass_fields__})
    names = list(SCENARIOS) if "all" in chosen.scenarios else chosen.scenarios
    rows: list[Row] = []
    failures: list[str] = []
    for name in names:
        for server_name in chosen.server or ["beamish"]:
            print(f"… {name} on {server_name}", file=sys.stderr, flush=True)
            try:
                rows += await measure(name, server_name, chosen, options)
            except BenchError as error:
                failures.append(str(error))
                print(f"FAILED {error}", file=sys.stderr, flush=True)
    return rows, failures


def main() -> int:
    """Run, report, and return 1 when anything failed."""
    chosen = arguments().parse_args()
    pin(os.getpid(), chosen.generator_core)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows, failures = runner.run(run(chosen))
    if rows:
        print(table(rows))
    if chosen.json:
        report = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "python": platform.python_version(),
            "machine": platform.platform(),
            "cores": os.cpu_count(),
            "rows": [row.as_json() for row in rows],
            "failures": failures,
        }
        chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
