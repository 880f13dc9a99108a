import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beamish.config import Config, LimitsConfig, build_root, load
from beamish.config.reference import example_toml, reference_markdown, toml


def test_the_example_as_it_stands_changes_nothing(tmp_path: Path, modules: list[Any]) -> None:
    file = tmp_path / "beamish.toml"
    file.write_text(example_toml(modules), encoding="utf-8")
    assert load(file, modules) == defaults_in(tmp_path, modules)


def defaults_in(directory: Path, modules: list[Any]) -> Config:
    file = directory / "empty.toml"
    file.write_text("")
    return load(file, modules)


def test_every_option_of_the_example_is_valid_when_the_mark_is_taken_away(tmp_path: Path, modules: list[Any]) -> None:
    text = re.sub(r"^#(?=\S)", "", example_toml(modules), flags=re.MULTILINE)
    file = tmp_path / "beamish.toml"
    file.write_text(text, encoding="utf-8")
    config = load(file, modules)
    default = defaults_in(tmp_path, modules)
    assert config.limits == default.limits
    assert config.server == default.server
    assert config.c2s == default.c2s
    assert config.modules["muc"] == default.modules["muc"]
    assert list(config.tls.domains) == ["example.org"]


@pytest.mark.parametrize("make", [example_toml, reference_markdown])
def test_no_option_is_missing_or_undescribed(make: Callable[[list[Any]], str], modules: list[Any]) -> None:
    text = make(modules)
    schema = build_root(modules).model_json_schema()
    for name, model in schema["$defs"].items():
        for option, details in model["properties"].items():
            assert option in text
            if "$ref" not in details and "properties" not in details and name != "ModulesConfig":
                assert details.get("description"), f"{name}.{option} has no description"


def test_the_reference_has_a_row_per_option(modules: list[Any]) -> None:
    text = reference_markdown(modules)
    assert "| `depth` | a whole number, at least 8 and at most 250 | `64` |" in text
    assert '| `policy` | "invite" or "captcha" | – | Who may. |' in text
    assert '## `[tls.domains."example.org"]`' in text
    assert "Runs only when named in `modules.enable`." in text


def test_every_limit_has_a_reason() -> None:
    for name, field in LimitsConfig.model_fields.items():
        assert field.description, name
        assert len(field.description) > 20, name


@pytest.mark.parametrize("value", ['a "quoted" \\ text\n', "ü", True, 3, 10.0, ["a", 1], {"a b": {"c": [True]}}])
def test_values_are_written_as_toml_reads_them(value: object) -> None:
    assert tomllib.loads(f"value = {toml(value)}") == {"value": value}
