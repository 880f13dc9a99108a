"""Lays a comparison out as Markdown: what each server used, how many times less than the better peer, what was aimed at."""

from __future__ import annotations

import re
from typing import Any

from tests.bench.plan import CELLS, OWN, PEERS

_AT_RATE = re.compile(r", [\d.]+( logins)?/s$")
_SESSIONS = re.compile(r"\d+ sessions")
NAMES = {"beamish": "Beamish", "prosody": "Prosody", "ejabberd": "ejabberd", "relay": "relay"}
MEMORY_GOALS = {"plain": 6.0, "tls": 30.0}
RELAY_GOAL = 1.5
CROWD_GOAL = 1.1

Group = dict[str, dict[str, Any]]
"""A line of the table: for each server its row."""


def groups(report: dict[str, Any]) -> dict[tuple[str, str, str], Group]:
    """Rows by cell, scenario and variant; each holds a row of every server that was measured."""
    found: dict[tuple[str, str, str], Group] = {}
    for row in report["rows"]:
        variant = _SESSIONS.sub("sessions", row["variant"]) if row["cell"] == "idle" else row["variant"]
        found.setdefault((row["cell"], row["scenario"], variant), {})[row["on"]] = row
    return found


def better(group: Group, value: str = "us_per_unit") -> float | None:
    """The smallest value of the peers, if any was measured."""
    values = [group[peer][value] for peer in PEERS if peer in group and group[peer].get(value) is not None]
    return min(values) if values else None


def ratio(group: Group, value: str = "us_per_unit") -> float | None:
    """How many times less Beamish uses than the better peer."""
    best, own = better(group, value), group.get(OWN, {}).get(value)
    return best / own if best and own else None


def markdown(report: dict[str, Any]) -> str:
    """The whole report."""
    found = groups(report)
    versions = sorted({row["server"] for row in report["rows"]})
    head = (
        f"Measured {report['at'][:10]}{' (quick form)' if report.get('quick') else ''}, {report['cores']} cores, "
        f"Python {report['python']}, in {report['seconds'] / 60:.0f} minutes: {', '.join(versions)}."
    )
    parts = [head, _full(found), _moderate(found), _floor(found), _memory(found), _state(found)]
    if report["failures"]:
        parts.append("**Failed:**\n\n" + "\n".join(f"- {failure.splitlines()[0]}" for failure in report["failures"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _cell(key: str) -> Any:
    return next(cell for cell in CELLS if cell.key == key)


def _title(key: str, scenario: str, variant: str) -> str:
    title = str(_cell(key).title)
    if key == "login":
        return f"{title}, {variant.split()[0]}"
    if key == "offline":
        return scenario
    if key == "contacts":
        return f"login, {_AT_RATE.sub('', variant).removeprefix('plain ').removesuffix(', 4 at once')}"
    if key == "archive":
        return f"{title}, {variant.removeprefix('plain ').split(',')[0]}"
    return title


def _lines(head: str, lines: list[str]) -> str:
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *lines]) if lines else ""


def _full(found: dict[tuple[str, str, str], Group]) -> str:
    counted = any(row.get("instructions") is not None for group in found.values() for row in group.values())
    lines = []
    for (key, scenario, variant), group in found.items():
        if key in ("idle", "crowd") or _AT_RATE.search(variant):
            continue
        times = ratio(group)
        goal = _cell(key).goal
        if key == "archive" and "rows" in variant:
            goal = None
        columns = [
            _title(key, scenario, variant),
            *(_number(group.get(server, {}).get("us_per_unit")) for server in (OWN, *PEERS)),
            *(
                [" / ".join(_number(group.get(server, {}).get("instructions")) for server in (OWN, *PEERS))]
                if counted
                else []
            ),
            "" if times is None else f"**{times:.1f}**",
            "" if goal is None else f"{goal:g} {_met(times is not None and times >= goal)}",
            " / ".join(_throughput(group.get(server)) for server in (OWN, *PEERS)),
        ]
        lines.append("| " + " | ".join(columns) + " |")
    instructions = " instructions B / P / e |" if counted else ""
    return _lines(
        "| full load: CPU µs per unit | Beamish | Prosody | ejabberd |"
        + instructions
        + " times less | aim | per second on one core B / P / e |",
        lines,
    )


def _moderate(found: dict[tuple[str, str, str], Group]) -> str:
    lines = []
    for (key, scenario, variant), group in found.items():
        at = _AT_RATE.search(variant)
        if not at:
            continue
        own, peer = _figure(group.get(OWN), "p99 ms"), _best_figure(group, "p99 ms")
        columns = [
            f"{_title(key, scenario, variant)}{at.group().replace(', ', ' at ')}",
            " / ".join(_number(group.get(server, {}).get("us_per_unit")) for server in (OWN, *PEERS)),
            *(f"{_ms(group.get(server), 'p50 ms')} / {_ms(group.get(server), 'p99 ms')}" for server in (OWN, *PEERS)),
            "" if own is None or peer is None else _met(own <= peer),
        ]
        lines.append("| " + " | ".join(columns) + " |")
    return _lines(
        "| moderate rate | CPU µs B / P / e | p50 / p99 ms Beamish | Prosody | ejabberd | p99 below peers |", lines
    )


def _floor(found: dict[tuple[str, str, str], Group]) -> str:
    lines = []
    for (key, scenario, variant), group in found.items():
        if "relay" not in group or OWN not in group:
            continue
        own, floor = group[OWN]["us_per_unit"], group["relay"]["us_per_unit"]
        slow = group.get("relay-asyncio", {}).get("us_per_unit")
        at = _AT_RATE.search(variant)
        goal = f"{RELAY_GOAL} {_met(own <= RELAY_GOAL * floor)}" if key == "chat" and at else ""
        title = _title(key, scenario, variant) + (at.group().replace(", ", " at ") if at else ", full load")
        lines.append(f"| {title} | {_number(own)} | {_number(floor)} | {_number(slow)} | {own / floor:.2f} | {goal} |")
    return _lines("| the floor: CPU µs | Beamish | relay on uvloop | relay on asyncio | Beamish : relay | aim |", lines)


def _memory(found: dict[tuple[str, str, str], Group]) -> str:
    lines = []
    for (key, _, variant), group in found.items():
        if key != "idle":
            continue
        own = _figure(group.get(OWN), "PSS KiB each")
        goal = MEMORY_GOALS.get(variant.split()[0])
        columns = [
            variant.split()[0],
            *(
                f"{_number(_figure(group.get(server), 'PSS KiB each'))} ({group[server]['units']:,} sessions)"
                if server in group
                else ""
                for server in (OWN, *PEERS)
            ),
            "" if goal is None or own is None else f"{goal:g} {_met(own <= goal)}",
        ]
        lines.append("| " + " | ".join(columns) + " |")
    return _lines("| memory per idle session, KiB of PSS | Beamish | Prosody | ejabberd | aim |", lines)


def _state(found: dict[tuple[str, str, str], Group]) -> str:
    lines = []
    crowd = [group[OWN] for (key, *_), group in found.items() if key == "crowd" and OWN in group]
    if len(crowd) == 2:
        few, many = (row["us_per_unit"] for row in crowd)
        counts = [row["variant"].rpartition(", ")[2] for row in crowd]
        lines.append(
            f"| chat message, {counts[0]} → {counts[1]} | {_number(few)} | {_number(many)} | {many / few:.2f} | "
            f"{CROWD_GOAL} {_met(many <= CROWD_GOAL * few)} |"
        )
    pages = [g[OWN] for (key, _, v), g in found.items() if key == "archive" and OWN in g and not _AT_RATE.search(v)]
    if len(pages) == 2:
        small, large = (row["us_per_unit"] for row in pages)
        sizes = [row["variant"].removeprefix("plain ").split(",")[0] for row in pages]
        lines.append(
            f"| archive page, {sizes[0]} → {sizes[1]} | {_number(small)} | {_number(large)} | {large / small:.2f} | |"
        )
    logins = [g[OWN] for (key, _, v), g in found.items() if key == "contacts" and OWN in g and not _AT_RATE.search(v)]
    if len(logins) == 4:
        few, many = logins[0]["us_per_unit"], logins[1]["us_per_unit"]
        lines.append(
            f"| login, 10 → 1,000 contacts of which 10 online | {_number(few)} | {_number(many)} | {many / few:.2f} | |"
        )
    return _lines("| work, not state: CPU µs of Beamish | few | many | ratio | aim |", lines)


def _met(reached: bool) -> str:
    return "✓" if reached else "✗"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _throughput(row: dict[str, Any] | None) -> str:
    if row is None or row["per_second"] is None:
        return "–"
    # Below 90 % of the core the load waited for something else: that was not the server's limit.
    return f"{row['per_second']:,.0f}" + ("" if (row["server_share"] or 0) >= 0.9 else "*")


def _figure(row: dict[str, Any] | None, name: str) -> float | None:
    return None if row is None else row["figures"].get(name)


def _best_figure(group: Group, name: str) -> float | None:
    values = [value for peer in PEERS if (value := _figure(group.get(peer), name)) is not None]
    return min(values) if values else None


def _ms(row: dict[str, Any] | None, name: str) -> str:
    value = _figure(row, name)
    return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"
