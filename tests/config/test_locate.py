import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.config.locate import Path, Position, locate

DOCUMENT = '''\
# a comment = not a key
title = "x # no comment"   # a comment
[server]
domains = [
    "one.example",   # first
    'two.example',
]
log = { level = "info", "for\\u006dat" = "text" }
a.b."c.d" = 1

[tls.domains."example.org"]
certificate = """
key = 3
[not.a.table]
"""
key = \'\'\'\'quoted\'\'\'\'

[[rules]]
name = "one"
[rules.inner]
x = 1
[[rules]]
name = "two"
nested = [[1, 2], [{ deep = true }]]
[rules.inner]
x = 2024-01-01 10:00:00
'''


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        (("title",), 2, 1),
        (("server",), 3, 1),
        (("server", "domains"), 4, 1),
        (("server", "domains", 0), 5, 5),
        (("server", "domains", 1), 6, 5),
        (("server", "log", "level"), 8, 9),
        (("server", "log", "format"), 8, 25),
        (("server", "a", "b", "c.d"), 9, 5),
        (("tls",), 11, 1),
        (("tls", "domains", "example.org"), 11, 1),
        (("tls", "domains", "example.org", "key"), 16, 1),
        (("rules", 0, "name"), 19, 1),
        (("rules", 0, "inner", "x"), 21, 1),
        (("rules", 1), 22, 1),
        (("rules", 1, "nested", 1, 0, "deep"), 24, 22),
        (("rules", 1, "inner", "x"), 26, 1),
    ],
)
def test_every_form_of_key_is_found(path: Path, line: int, column: int) -> None:
    assert locate(DOCUMENT)[path] == Position(line, column)


def test_what_looks_like_a_key_inside_a_string_or_comment_is_none() -> None:
    found = locate(DOCUMENT)
    assert ("not",) not in found
    assert ("a comment",) not in found


def paths_of(value: Any, at: Path = ()) -> set[Path]:
    """Every path of a parsed document, the way `locate` names them."""
    children: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    found = {at} if at else set()
    for key, child in children:
        found |= paths_of(child, (*at, key))
    return found


def test_the_map_holds_exactly_the_keys_of_the_document() -> None:
    assert set(locate(DOCUMENT)) == paths_of(tomllib.loads(DOCUMENT))


def written(value: Any) -> str:
    """A value as TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in value) + '"'
        case list():
            return "[ # ]\n" + ",\n".join(map(written, value)) + "\n]"
        case dict():
            return "{" + ", ".join(f"{written(k)} = {written(v)}" for k, v in value.items()) + "}"
    return str(value)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
values = st.recursive(
    st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, values, max_size=4))
def test_any_document_is_walked_whole(document: dict[str, Any]) -> None:
    text = "".join(f"{written(k)} = {written(v)}\n".replace("[ # ]\n", "[ ") for k, v in document.items())
    # Inline tables may not span lines in TOML 1.0; arrays inside them may.
    assert tomllib.loads(text) == document
    assert set(locate(text)) == paths_of(document)


@given(st.text(alphabet="ab\"'=[]{}.,#\\\n 1", max_size=40))
def test_what_the_parser_accepts_never_fails_here(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(locate(text)) == paths_of(document)
