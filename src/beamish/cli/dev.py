"""`beamish dev`: for those who work on the source."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from beamish.cli.console import fail
from beamish.cli.documents import commands_markdown, doap, hooks_markdown, xeps_markdown
from beamish.config import ModuleClass
from beamish.config.reference import example_toml, reference_markdown
from beamish.core.registry import shipped

commands = typer.Typer(help="For work on Beamish itself.", no_args_is_help=True)

Generator = Callable[[Sequence[ModuleClass]], str]

GENERATED: list[tuple[str, Generator]] = [
    ("docs/config.md", reference_markdown),
    ("config/beamish.toml", example_toml),
    ("docs/xeps.md", xeps_markdown),
    ("docs/commands.md", commands_markdown),
    ("docs/hooks.md", hooks_markdown),
    ("docs/beamish.doap", doap),
]
"""Documents made from the source: path in the repository, and what makes their text of all module classes."""


@commands.callback()
def dev_commands() -> None:
    """For work on Beamish itself."""


@commands.command()
def gen(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if a document is out of date.")] = False,
    root: Annotated[Path | None, typer.Option(help="The repository; found from the source if not given.")] = None,
) -> None:
    """Write the documents that are made from the source."""
    root = root or _repository()
    modules = shipped()
    stale = [(root / path, text) for path, make in GENERATED if _content(root / path) != (text := make(modules))]
    for file, text in stale:
        if check:
            print(f"{file.relative_to(root)} is out of date: run `beamish dev gen`", file=sys.stderr)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            print(f"written: {file.relative_to(root)}")
    if check and stale:
        raise typer.Exit(1)


def _repository() -> Path:
    root = Path(__file__).resolve().parents[3]
    if not (root / "pyproject.toml").is_file():
        fail("this installation has no source tree around it; say where it is with --root")
    return root


def _content(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
