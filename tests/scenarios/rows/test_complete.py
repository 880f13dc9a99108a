"""Each row of the feature table has exactly one play that is named after it, and it runs in memory and over TLS."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROWS = (*range(18, 32), 49)
TESTS = Path(__file__).parents[2]


def test_each_row_has_one_play_of_its_name() -> None:
    named: dict[int, list[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and (
                row := re.match(r"test_row_(\d+)_", node.name)
            ):
                named.setdefault(int(row[1]), []).append(f"{path.relative_to(TESTS)}::{node.name}")
                assert [each.arg for each in node.args.args][:1] == ["stage"], f"{node.name} runs in one way only"
                assert not node.decorator_list, f"{node.name} is the whole row, in both ways"
    assert sorted(named) == list(ROWS)
    assert {row: plays for row, plays in named.items() if len(plays) > 1} == {}
