"""What is wrong with a configuration, said so that it can be repaired: place, key, what is allowed, what was meant."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from pydantic_core import ErrorDetails

from beamish.config.locate import Path, Position

Schema = Mapping[str, Any]
PERMISSION: Final = "this is for root or for the server's user"
"""What is said where a file may not be read."""
_SUGGESTED: Final = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `line` and `column` count from 1 and are None when the file could not be read at all."""

    file: str
    line: int | None
    column: int | None
    key: str
    message: str
    allowed: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        parts = [place, self.key, self.message] if self.key else [place, self.message]
        text = ": ".join(parts)
        if self.suggestion:
            text += f"; did you mean {self.suggestion}?"
        if self.allowed:
            text += f" ({self.allowed})"
        return text

    def as_json(self) -> dict[str, Any]:
        """The same as plain values, for `--json`."""
        return asdict(self)


class ConfigProblems(Exception):
    """A configuration that cannot be used; `problems` holds every one found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0, problem.key))
        super().__init__("\n".join(map(str, self.problems)))


def dotted(path: Path) -> str:
    """A path the way it is written in TOML: `tls.domains."example.org".key`, `server.domains[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part.isascii() and part.replace("-", "_").isidentifier()
            text += ("." if text else "") + (part if plain else '"' + part.replace('"', '\\"') + '"')
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word most like this one, or the empty text when none is near."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else ""


class Reporter:
    """Turns paths into problems for one file, by its key positions and the JSON schema of its model."""

    def __init__(self, file: str, positions: Mapping[Path, Position], schema: Schema) -> None:
        self.file = file
        self.positions = positions
        self.schema = schema

    def problem(self, path: Path, message: str, *, allowed: str = "", suggestion: str = "") -> Problem:
        """A problem at `path`, placed at its nearest ancestor that stands in the file."""
        place = next((self.positions[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.positions), None)
        line, column = (place.line, place.column) if place else (1, 1)
        return Problem(self.file, line, column, dotted(path), message, allowed, suggestion)

    def translate(self, error: ErrorDetails) -> Problem:
        """A pydantic error as a problem; values are repeated only where the choices are fixed words."""
        path: Path = error["loc"]
        if path and path[-1] == "[key]":  # pydantic's mark for "the key itself, not what it names"
            path = path[:-1]
        schema = self._schema_at(path)
        match error["type"]:
            case "extra_forbidden":
                return self._unknown_key(path, error["input"])
            case "missing":
                return self.problem(path, f"is missing: {describe(schema)}" if schema else "is missing")
            case "value_error":
                return self.problem(path, str(error["ctx"]["error"]))
            case "literal_error" | "enum" if schema and "enum" in schema:
                given = error["input"]
                near = nearest(given, map(str, schema["enum"])) if isinstance(given, str) else ""
                return self.problem(path, f"must be {describe(schema)}", suggestion=f'"{near}"' if near else "")
        if schema is None:
            return self.problem(path, error["msg"])
        return self.problem(path, f"must be {describe(schema)}", suggestion=as_toml(schema, error["input"]))

    def _unknown_key(self, path: Path, value: object) -> Problem:
        *parents, key = path
        table = self._schema_at(tuple(parents)) or {}
        known = sorted(table.get("properties", {}))
        suggestion = nearest(str(key), known)
        if not suggestion:  # the right key in the wrong table
            elsewhere = [other for other in self._every_option() if other[-1] == key]
            suggestion = " or ".join(map(dotted, elsewhere)) if len(elsewhere) <= _SUGGESTED else ""
        is_table = not parents and isinstance(value, Mapping)
        kind = "module or option" if parents == ["modules"] else "table" if is_table else "key"
        return self.problem(path, f"unknown {kind}", allowed="allowed: " + ", ".join(known), suggestion=suggestion)

    def _schema_at(self, path: Path) -> Schema | None:
        schema: Schema = self.schema
        for part in path:
            found = child(self.schema, schema, part)
            if found is None:
                return None
            schema = found
        return resolved(self.schema, schema)

    def _every_option(self, path: Path = ()) -> Iterator[Path]:
        for name, schema in (self._schema_at(path) or {}).get("properties", {}).items():
            yield (*path, name)
            if "properties" in resolved(self.schema, schema):
                yield from self._every_option((*path, name))


def resolved(root: Schema, schema: Schema) -> Schema:
    """The schema itself behind a reference or an `… | None`, keeping what is written beside it."""
    while True:
        if "$ref" in schema:
            target = root["$defs"][schema["$ref"].rpartition("/")[2]]
        elif choices := [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]:
            if len(choices) > 1:
                return schema
            target = choices[0]
        else:
            return schema
        schema = {**target, **{key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}}


def child(root: Schema, schema: Schema, part: str | int) -> Schema | None:
    """The schema of a key or element of what `schema` describes; None if it says nothing about it."""
    schema = resolved(root, schema)
    found = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)
    if found is None and isinstance(part, str):
        found = schema.get("additionalProperties")
    return found if isinstance(found, Mapping) else None


def describe(schema: Schema) -> str:
    """What a value may be, in words: `a whole number from 8 to 250`, `"full" or "normal"`, `a list of text`."""
    if "enum" in schema:
        *words, last = (f'"{word}"' if isinstance(word, str) else str(word) for word in schema["enum"])
        return f"{', '.join(words)} or {last}" if words else last
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "anyOf" in schema:
        return " or ".join(describe(choice) for choice in schema["anyOf"] if choice.get("type") != "null")
    match schema.get("type"):
        case "boolean":
            return "true or false"
        case "integer":
            return "a whole number" + _range(schema)
        case "number":
            return "a number" + _range(schema)
        case "string" if schema.get("format") == "path":
            return "a path"
        case "string" if schema.get("writeOnly"):
            return "a secret text"
        case "string":
            return "text"
        case "array":
            return _describe_list(schema)
        case "object":
            return "a table"
    return "something else"


def as_toml(schema: Schema, given: object) -> str:
    """How TOML writes what was meant, where only the punctuation is wrong; the empty text if more is. No value is repeated."""
    match schema.get("type"), given:
        case "array", str():
            return '["…"]'
        case "array", int() | float() if not isinstance(given, bool):
            return '["…"]' if schema.get("items", {}).get("type") == "string" else "[…]"
        case "string", int() | float() if not isinstance(given, bool) and "enum" not in schema:
            return '"…", in quotes'
        case "boolean", str() if given.lower() in ("true", "false"):
            return f"{given.lower()} without quotes"
        case "integer" | "number", str() if given.strip().lstrip("+-").replace(".", "", 1).isdigit():
            return "a number without quotes"
    return ""


def _describe_list(schema: Schema) -> str:
    items = schema.get("items", {})
    text = f"a list of {describe(items)}" if "enum" not in items else f"a list of words from {describe(items)}"
    bounds = [f"at least {schema['minItems']}"] if schema.get("minItems") else []
    bounds += [f"at most {schema['maxItems']}"] if "maxItems" in schema else []
    return text + (f", {' and '.join(bounds)}" if bounds else "")


def _range(schema: Schema) -> str:
    bounds = []
    if "minimum" in schema:
        bounds.append(f"at least {_number(schema['minimum'])}")
    if "exclusiveMinimum" in schema:
        bounds.append(f"above {_number(schema['exclusiveMinimum'])}")
    if schema.get("maximum", 2**53) < 2**53:  # beyond that it is no bound that anybody would meet
        bounds.append(f"at most {_number(schema['maximum'])}")
    if "exclusiveMaximum" in schema:
        bounds.append(f"below {_number(schema['exclusiveMaximum'])}")
    return f", {' and '.join(bounds)}" if bounds else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
