"""From a TOML file to a frozen `Config`, or to the list of everything that is wrong with the file."""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from beamish.config.locate import Path as KeyPath
from beamish.config.locate import locate
from beamish.config.model import Config, ModuleClass, ModulesConfig, build_root
from beamish.config.problems import PERMISSION, ConfigProblems, Problem, Reporter, dotted, nearest
from beamish.config.values import domain_name

AnySection = TypeVar("AnySection", bound=BaseModel)

_AT_LINE: Final = re.compile(r"\s*\(at line (\d+), column (\d+)\)\Z")
_UNQUOTED: Final = ("Invalid value", "Expected newline or end of document after a statement")
"""What the parser says of text without quotes, and of `yes` or `True`."""
_AT_END: Final = re.compile(r"\s*\(at end of document\)\Z")


def load(path: str | os.PathLike[str] | None, module_classes: Iterable[ModuleClass]) -> Config:
    """Read a configuration file; None gives the defaults (domain `localhost`, data in ./var).

    Relative paths in it become absolute, counted from the file's directory (without a file: the current one).
    Raises `ConfigProblems` with all that is wrong; no value of the file is repeated there except fixed words, domains
    and addresses. Files that the configuration names are not opened.
    """
    root = build_root(module_classes)
    if path is None:
        return _anchored_root(root(), Path.cwd())
    file = Path(path)
    text = _read(file)
    data = _parse(file, text)
    reporter = Reporter(str(file), locate(text), root.model_json_schema())
    problems = list(_across(data, reporter, root().modules))
    try:
        # JSON mode is strict about types ("30" is no number) and takes a list for a tuple, as TOML has only lists.
        config = root.model_validate_json(json.dumps(data, default=_no_json), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A list whose only element is wrong is also "too short" to pydantic; the element's own error says it better.
        inner = {each["loc"][:-1] for each in found if each["loc"]}
        problems += [
            reporter.translate(each) for each in found if each["type"] != "too_short" or each["loc"] not in inner
        ]
        raise ConfigProblems(problems) from None
    config = _anchored_root(config, file.absolute().parent)
    if problems:
        raise ConfigProblems(problems)
    return config


def _no_json(value: object) -> object:
    """TOML's dates and times: no option takes one, so they become what no option accepts."""
    return {"date": str(value)}


def _read(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except OSError as error:
        text = error.strerror or "cannot be read"
        text += f"; {PERMISSION}" if isinstance(error, PermissionError) else ""
        raise ConfigProblems([Problem(str(file), None, None, "", text)]) from None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigProblems([Problem(str(file), line, None, "", "is not UTF-8 text, which TOML requires")]) from None


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        line, column = text.rstrip().count("\n") + 1, None
        if place := _AT_LINE.search(message):
            line, column = int(place[1]), int(place[2])
        message = _AT_END.sub(" (at the end of the file)", _AT_LINE.sub("", message))
        if message.startswith(_UNQUOTED):
            message += '; text stands in quotes ("…"), and true and false are written small'
        raise ConfigProblems([Problem(str(file), line, column, "", f"not valid TOML: {message}")]) from None
    except RecursionError:
        raise ConfigProblems([Problem(str(file), 1, None, "", "brackets are nested too deeply")]) from None


# -- rules that span several keys: checked on the raw tables, so that they are reported beside the errors in types -----


def _table(data: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        found = data.get(key)
        data = found if isinstance(found, dict) else {}
    return data


def _texts(data: Mapping[str, Any], key: str) -> list[tuple[int, str]]:
    """The text elements of a list with their indices; what is no text is the model's to complain about."""
    found = data.get(key)
    return [(n, each) for n, each in enumerate(found) if isinstance(each, str)] if isinstance(found, list) else []


def _across(data: Mapping[str, Any], at: Reporter, modules: ModulesConfig) -> Iterator[Problem]:
    yield from _same_domains(data, at)
    yield from _same_addresses(data, at)
    yield from _half_certificate(data, at)
    yield from _module_lists(data, at, modules)
    yield from _small_burst(data, at)


def _same_domains(data: Mapping[str, Any], at: Reporter) -> Iterator[Problem]:
    listed: list[tuple[KeyPath, str]] = [
        (("server", "domains", index), text) for index, text in _texts(_table(data, "server"), "domains")
    ]
    certified: list[tuple[KeyPath, str]] = [(("tls", "domains", text), text) for text in _table(data, "tls", "domains")]
    for group in (listed, certified):
        seen: dict[str, KeyPath] = {}
        for path, text in group:
            try:
                domain = domain_name(text)
            except ValueError:
                continue  # the model says so
            if domain in seen:
                yield at.problem(path, f"the same domain as {dotted(seen[domain])}")
            seen.setdefault(domain, path)


def _same_addresses(data: Mapping[str, Any], at: Reporter) -> Iterator[Problem]:
    seen: dict[str, KeyPath] = {}
    for key in ("listen", "direct_tls"):
        for index, text in _texts(_table(data, "c2s"), key):
            path: KeyPath = ("c2s", key, index)
            if text in seen and not text.endswith(":0"):
                yield at.problem(path, f"the same address as {dotted(seen[text])}")
            seen.setdefault(text, path)


def _half_certificate(data: Mapping[str, Any], at: Reporter) -> Iterator[Problem]:
    tls = _table(data, "tls")
    for given, absent in (("certificate", "key"), ("key", "certificate")):
        if given in tls and absent not in tls:
            yield at.problem(("tls", given), f"needs tls.{absent} beside it: both or none")


def _module_lists(data: Mapping[str, Any], at: Reporter, modules: ModulesConfig) -> Iterator[Problem]:
    table = _table(data, "modules")
    disabled = {name for _, name in _texts(table, "disable")}
    for key in ("enable", "disable"):
        for index, name in _texts(table, key):
            path = ("modules", key, index)
            if name not in modules.known:
                allowed = "modules: " + (", ".join(sorted(modules.known)) or "none")
                suggestion = nearest(name, modules.known)
                yield at.problem(path, f"there is no module {name!r}", allowed=allowed, suggestion=suggestion)
            elif key == "disable" and name in modules.essential:
                yield at.problem(path, f"the server cannot do without module {name!r}")
            elif key == "enable" and name in disabled:
                yield at.problem(path, f"module {name!r} is both enabled and disabled")


def _small_burst(data: Mapping[str, Any], at: Reporter) -> Iterator[Problem]:
    limits = _table(data, "limits")
    defaults = at.schema["$defs"]["LimitsConfig"]["properties"]

    def value(key: str) -> int:
        given = limits.get(key, defaults[key]["default"])
        return given if type(given) is int else defaults[key]["default"]

    if value("bytes_burst") < value("stanza_bytes"):
        key = "bytes_burst" if "bytes_burst" in limits else "stanza_bytes"
        message = f"bytes_burst ({value('bytes_burst')}) must not be below stanza_bytes ({value('stanza_bytes')})"
        yield at.problem(("limits", key), message + ", or the largest stanza could never pass")


# -- paths -------------------------------------------------------------------------------------------------------------


def _anchored_root(config: Config, base: Path) -> Config:
    config = _anchored(config, base)
    if config.storage.url and not config.database.is_absolute():
        storage = config.storage.model_copy(update={"url": "sqlite://" + quote(str(base / config.database))})
        config = config.model_copy(update={"storage": storage})
    return config


def _anchored(section: AnySection, base: Path) -> AnySection:
    """The same options with every relative path counted from `base`, in module sections too."""
    changed = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        moved = _moved(value, base)
        if moved is not value:
            changed[name] = moved
    return section.model_copy(update=changed) if changed else section


def _moved(value: Any, base: Path) -> Any:
    match value:
        case Path() if not value.is_absolute():
            return base / value
        case BaseModel():
            return _anchored(value, base)
        case dict():
            return {key: _moved(each, base) for key, each in value.items()}
        case tuple() | list():
            return type(value)(_moved(each, base) for each in value)
    return value
