"""Documents made from the configuration models: the reference and the commented example file.

Both are functions of the models alone, so that they cannot say anything else than the program does.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from beamish.config.model import Config, ModuleClass, build_root
from beamish.config.problems import Schema, child, describe, resolved

_EXAMPLE_DOMAIN = "example.org"


def example_toml(module_classes: Iterable[ModuleClass]) -> str:
    """A configuration file with every option, its description and its default, all commented out.

    Descriptions follow `# `, options a bare `#`: taking those away gives a valid file again.
    """
    tables = _Tables(build_root(module_classes))
    lines = [
        "# Configuration of Beamish: every option there is, with its default.",
        "# A line that starts with # and no space is an option: take the # away to change it.",
        "# Options that have no default show an example.",
        "# Relative paths count from this file. Check it with: beamish config check -c FILE",
        "# Made by `beamish dev gen` from the source; edit a copy.",
    ]
    for path, schema in tables.all():
        options = list(tables.options(schema))
        if not options and path[0] == "modules":
            continue
        mark = "#" if _EXAMPLE_DOMAIN in path else ""
        lines += ["", "", f"{mark}[{_header(path)}]", *_wrapped(tables.about(path, schema))]
        for name, option in options:
            value = option.get("default")
            if value in (None, ""):
                value = option.get("examples", [value])[0]
            lines += ["", *_wrapped(option.get("description", "")), *_wrapped(_allowed(option))]
            lines.append(f"# {name} has no default." if value is None else f"#{name} = {toml(value)}")
    return "\n".join(lines) + "\n"


def reference_markdown(module_classes: Iterable[ModuleClass]) -> str:
    """The reference of all options as Markdown: a table per section."""
    tables = _Tables(build_root(module_classes))
    lines = [
        "# Configuration reference",
        "",
        "Made by `beamish dev gen` from the source; do not edit.",
        "",
        "One TOML file, given with `-c FILE`, in the environment as `BEAMISH_CONFIG`, or found as",
        "`/etc/beamish/beamish.toml`. Every option has a default; without a file, the server serves `localhost`",
        "and keeps its data in `./var`. Relative paths count from the file. `beamish config check` names every mistake",
        "by its line. A commented example with the same content is `config/beamish.toml`.",
    ]
    for path, schema in tables.all():
        lines += ["", f"## `[{_header(path)}]`", "", tables.about(path, schema)]
        options = list(tables.options(schema))
        if not options:
            continue
        lines += ["", "| option | value | default | what it does |", "|---|---|---|---|"]
        for name, option in options:
            value = option.get("default")
            default = "–" if value is None else f"`{_cell(toml(value))}`"
            lines.append(
                f"| `{name}` | {_cell(describe(option))} | {default} | {_cell(option.get('description', ''))} |"
            )
    return "\n".join(lines) + "\n"


class _Tables:
    """The tables of a configuration model in the order of the file."""

    def __init__(self, root: type[Config]) -> None:
        self.schema: Schema = root.model_json_schema()
        self.modules: Mapping[str, bool] = root().modules.known

    def all(self) -> Iterator[tuple[tuple[str, ...], Schema]]:
        """Each table's path and schema, a table before those inside it."""
        return self._below((), self.schema)

    def _below(self, path: tuple[str, ...], schema: Schema) -> Iterator[tuple[tuple[str, ...], Schema]]:
        if path:
            yield path, schema
        for name, inner in schema.get("properties", {}).items():
            table = resolved(self.schema, inner)
            if "properties" in table:
                yield from self._below((*path, name), table)
            elif each := self._named_tables(table):
                yield from self._below((*path, name, _EXAMPLE_DOMAIN), each)

    def _named_tables(self, schema: Schema) -> Schema | None:
        """The schema of the tables in a table of tables such as `[tls.domains]`; None for any other value."""
        inner = child(self.schema, schema, "*") if schema.get("type") == "object" else None
        inner = resolved(self.schema, inner) if inner else None
        return inner if inner and "properties" in inner else None

    def options(self, schema: Schema) -> Iterator[tuple[str, Schema]]:
        """The options of a table that are no tables themselves."""
        for name, inner in schema.get("properties", {}).items():
            option = resolved(self.schema, inner)
            if "properties" not in option and not self._named_tables(option):
                yield name, option

    def about(self, path: tuple[str, ...], schema: Schema) -> str:
        """What a table is for, and which modules run by default."""
        text = " ".join(str(schema.get("description", "")).split())
        if path == ("modules",) and self.modules:
            for told, default in (("Default ones", True), ("Others", False)):
                names = ", ".join(sorted(name for name, runs in self.modules.items() if runs is default))
                text += f" {told}: {names or 'none'}."
        if len(path) == 2 and path[0] == "modules":
            runs = "Runs by default." if self.modules[path[1]] else "Runs only when named in `modules.enable`."
            text = f"{text} {runs}".strip()
        return text


def toml(value: Any) -> str:
    """A value of an option as TOML, on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    # JSON's text, numbers and truth values are written the same in TOML.
    return json.dumps(value, ensure_ascii=False)


def _header(path: tuple[str, ...]) -> str:
    return ".".join(part if part.replace("_", "").replace("-", "").isalnum() else json.dumps(part) for part in path)


def _allowed(option: Schema) -> str:
    return f"Value: {describe(option)}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _wrapped(text: str, width: int = 100) -> list[str]:
    """Comment lines. Words are never broken: a path or URL must stay whole to be copied."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + len(word) < width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"# {word}")
    return lines
