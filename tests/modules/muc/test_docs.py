"""The page about rooms says which test shows which status code; it is made from the tests' own words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from beamish.modules.muc.names import Status

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "modules" / "muc.md"
MARKED = re.compile(r"(<!-- codes -->\n).*?(<!-- /codes -->)", re.DOTALL)


def shown() -> dict[int, list[str]]:
    """Status code → tests whose docstring begins with `Status 110, 170: …`."""
    found: dict[int, list[str]] = {}
    for source in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                match = re.match(r"Status ([\d, ]+)", ast.get_docstring(node) or "")
                for code in re.findall(r"\d+", match[1]) if match else ():
                    found.setdefault(int(code), []).append(f"`{source.stem}`: {node.name[5:].replace('_', ' ')}")
    return found


def table() -> str:
    """The table as Markdown."""
    tests = shown()
    rows = [f"| {int(s)} | {s.name.lower().replace('_', ' ')} | {'; '.join(tests.get(s, []))} |" for s in Status]
    return "\n".join(["| code | meaning | shown by |", "|---|---|---|", *rows, ""])


def test_every_status_code_is_shown_by_a_test() -> None:
    assert [int(s) for s in Status if s not in shown()] == []


def test_the_page_is_up_to_date() -> None:
    """Put what `table()` returns between the marks when this fails."""
    text = PAGE.read_text()
    assert MARKED.search(text) is not None
    assert MARKED.sub(lambda m: m[1] + table() + m[2], text) == text
