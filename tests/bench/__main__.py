"""`python -m tests.bench SCENARIO…`: run load scenarios against a server and print what each unit cost.

`python -m tests.bench compare` runs all of them against all servers, `profile` says what the time goes to.
Run it from the repository's root. docs/performance.md says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from tests.bench import compare, document, profile, yardstick
from tests.bench.load import Options
from tests.bench.measure import Row, pin
from tests.bench.runs import about, drive, measure, securities, table
from tests.bench.scenarios import SCENARIOS
from tests.bench.servers import SERVERS
from tests.bench.wire import BenchError, Security

COMMANDS = {"compare": compare.main, "profile": profile.main, "document": document.main, "yardstick": yardstick.main}


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
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument("--rate", type=float, help="so many pieces of load per second, with latencies, not a full pipe")
    rates.add_argument("--latency", action="store_true",
                       help="after the full pipe, latencies at the scenario's own moderate rate")  # fmt: skip
    parser.add_argument("--pairs", type=int, default=defaults.pairs, help="chat: pairs of users; ping: sessions")
    parser.add_argument("--in-flight", type=int, default=defaults.in_flight, help="chat: messages under way in all")
    parser.add_argument("--full", action="store_true", help="chat: address full JIDs, not bare ones")
    parser.add_argument("--spread", action="store_true", help="chat: each speaker speaks to all listeners in turn")
    parser.add_argument("--contacts", type=int, default=defaults.contacts, help="presence: subscribed contacts online")
    parser.add_argument("--under-way", type=int, default=defaults.under_way,
                        help="presence, muc, pep: fan-outs at once")  # fmt: skip
    parser.add_argument("--occupants", type=int, default=defaults.occupants, help="muc: occupants; pep: contacts")
    parser.add_argument("--sessions", type=int, default=defaults.sessions, help="idle, crowd: sessions")
    parser.add_argument("--settle", type=float, default=defaults.settle, help="idle: seconds before memory is read")
    parser.add_argument("--messages", type=int, default=defaults.messages, help="archive: messages in it")
    parser.add_argument(
        "--rows", type=int, default=defaults.rows, help="archive of Beamish: then grown to so many rows"
    )
    parser.add_argument("--sm", action="store_true", help="chat: with stream management (XEP-0198) on in every session")
    parser.add_argument("--carbons", action="store_true", help="chat: with carbons (XEP-0280) on in every session")
    parser.add_argument("--archive", action="store_true", help="with the message archive (XEP-0313) on")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the server's directory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    return parser


async def run(chosen: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Run everything that was asked for; return the rows and the failures."""
    names = set(Options.__dataclass_fields__) - {"latency"}
    options = Options(**{name: getattr(chosen, name) for name in names})
    wanted = list(SCENARIOS) if "all" in chosen.scenarios else chosen.scenarios
    rows: list[Row] = []
    failures: list[str] = []
    for name in wanted:
        for server_name in chosen.server or ["beamish"]:
            print(f"… {name} on {server_name}", file=sys.stderr, flush=True)
            try:
                for with_security in securities(name, options):
                    if chosen.latency:
                        with_security = replace(with_security, latency=getattr(SCENARIOS[name], "RATE", None))
                    rows += await measure(name, server_name, with_security, port=chosen.port,
                                          core=chosen.server_core, keep=chosen.keep)  # fmt: skip
            except BenchError as error:
                failures.append(str(error))
                print(f"FAILED {error}", file=sys.stderr, flush=True)
    return rows, failures


def main() -> int:
    """Run, report, and return 1 when anything failed."""
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        return COMMANDS[sys.argv[1]](sys.argv[2:])
    chosen = arguments().parse_args()
    pin(os.getpid(), chosen.generator_core)
    rows, failures = drive(run(chosen))
    if rows:
        print(table(rows))
    if chosen.json:
        report = about() | {"rows": [row.as_json() for row in rows], "failures": failures}
        chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
