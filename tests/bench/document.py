"""`python -m tests.bench document`: writes what was measured last (`compare`, `profile`) into docs/performance.md.

What stands between a `<!-- name -->` and the next `<!-- /name -->` is replaced; all else is left as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tests.bench.plan import CELLS
from tests.bench.report import markdown

FOLDER = Path("var/bench")
PAGE = Path("docs/performance.md")
FEW = 5  # functions named for each load


def main(argv: list[str]) -> int:
    """Rewrite the page; 1 when there is nothing to write, or no place for it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench document", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where bench.json and profile.json are")
    parser.add_argument("--page", type=Path, default=PAGE)
    chosen = parser.parse_args(argv)
    text = chosen.page.read_text()
    for name, file, lay_out in (("measured", "bench.json", markdown), ("profiles", "profile.json", profiles)):
        path = chosen.folder / file
        if not path.exists():
            print(f"{path} is missing: that part is left as it is", file=sys.stderr)
            continue
        try:
            text = replaced(text, name, lay_out(json.loads(path.read_text())))
        except ValueError as error:
            print(f"{chosen.page}: {error}", file=sys.stderr)
            return 1
    chosen.page.write_text(text)
    return 0


def replaced(text: str, name: str, new: str) -> str:
    """Put new text between the marks of a part. Raises ValueError when there are no such marks."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no place marked {begin} … {end}")
    return f"{before}{begin}\n\n{new.strip()}\n\n{end}{after}"


def profiles(report: dict[str, Any]) -> str:
    """A table of layers, and the functions that take most."""
    titles = {cell.key: cell.title for cell in CELLS}
    layers: list[str] = []
    for one in report["profiles"]:
        layers += [layer for layer in one["layers"] if layer not in layers]
    head = "| load | " + " | ".join(layers) + " | of all, kernel |"
    lines = [head, "|" + "---|" * (len(layers) + 2)]
    details = []
    for one in report["profiles"]:
        title = titles[one["cell"]] + (f", {one['variant']}" if one["cell"] == "login" else "")
        shares = " | ".join(_percent(one["layers"].get(layer)) for layer in layers)
        lines.append(f"| {title} | {shares} | {_percent(one['kernel'])} |")
        most = ", ".join(f"`{name}` {share:.0%}" for name, share in list(one["self"].items())[:FEW])
        details.append(f"- **{title}**: {most}")
    when = (
        f"Sampled {report['at'][:10]}, Python {report['python']}; a function's share includes the C code that it calls."
    )
    return "\n".join([when, "", *lines, "", *details])


def _percent(share: float | None) -> str:
    return "" if not share or share < 0.005 else f"{share:.0%}"
