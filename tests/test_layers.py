"""The layers of docs/architecture.md hold: who may import whom, read from the sources themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "beamish"

ALLOWED: dict[str, set[str]] = {
    "xmpp": {"xmpp"},
    "stream": {"xmpp", "stream"},
    "storage": {"storage"},
    "core": {"xmpp", "stream", "storage", "core"},
    "modules": {"xmpp", "stream", "storage.api", "core"},
    "net": {"xmpp", "stream", "core", "net"},
    "config": {"xmpp", "stream", "core", "net", "config"},
    "cli": {"xmpp", "stream", "core", "net", "storage", "config", "cli", "app", "testing"},
    "testing": {"xmpp", "stream", "core", "net", "storage", "config", "app", "testing"},
}
"""Package → what of ours it may import. `app` may import everything."""

STDLIB_NOT_BELOW_NET = {"asyncio", "socket", "ssl", "time", "threading", "select", "selectors"}


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            if module == "beamish":
                yield from (f"beamish.{name.name}" for name in node.names)
            else:
                yield module


def files() -> list[Path]:
    return sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_layers(path: Path) -> None:
    parts = path.relative_to(SOURCE).parts
    package = parts[0]
    assert package in ALLOWED, f"{package}: say above and in docs/architecture.md what it may import"
    allowed = ALLOWED[package]
    for name in imports_of(path):
        if not name.startswith("beamish."):
            if package in ("xmpp", "stream"):
                assert name.partition(".")[0] not in STDLIB_NOT_BELOW_NET, f"{name}: no loop, clock or socket below net"
            continue
        target = name.removeprefix("beamish.")
        if target == "__version__":
            continue
        if package == "modules" and target.startswith("modules."):
            own = parts[1].removesuffix(".py")
            assert target.split(".")[1] == own, f"{name}: modules never import one another"
            continue
        assert any(target == one or target.startswith(one + ".") for one in allowed), f"{name} from {package}"
