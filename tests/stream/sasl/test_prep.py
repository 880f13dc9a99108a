from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.stream.sasl import SaslPrepError, saslprep


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        # RFC 4013 §3
        ("I\xadX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\xaa", "a"),
        ("\u2168", "IX"),
        # RFC 5802 §3 recommends these two
        ("\xbd", "1\u20442"),
        ("a\xb4", "a \u0301"),
        ("a\xa0b\u3000c", "a b c"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("\u06271\u0628", "\u06271\u0628"),
        (" pencil ", " pencil "),
    ],
)
def test_prepared(text: str, prepared: str) -> None:
    assert saslprep(text, stored=True) == saslprep(text, stored=False) == prepared


@pytest.mark.parametrize(
    "text",
    [
        "\x07",  # RFC 4013 §3
        "\u06271",  # RFC 4013 §3
        "",
        "\xad",
        "a\x7f",
        "a\x80",
        "\ue000",
        "\ufdd0",
        "\ud800",
        "\ufff9",
        "\u2ff0",
        "\u202ea",
        "\U000e0041",
        "a\u0627",
        "\u0627a\u0627",
        "1\u0627",
    ],
)
def test_refused(text: str) -> None:
    for stored in (True, False):
        with pytest.raises(SaslPrepError):
            saslprep(text, stored=stored)


def test_unassigned_characters_are_for_queries_only() -> None:
    assert saslprep("\U0001f600", stored=False) == "\U0001f600"
    with pytest.raises(SaslPrepError):
        saslprep("\U0001f600", stored=True)


@given(st.text(max_size=20))
def test_idempotent(text: str) -> None:
    try:
        prepared = saslprep(text, stored=True)
    except SaslPrepError:
        return
    assert saslprep(prepared, stored=True) == prepared


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1))
def test_printable_ascii_is_left_alone(text: str) -> None:
    assert saslprep(text, stored=True) == text
    # The long way round, forced by a character that maps to nothing, comes to the same.
    assert saslprep(text + "\xad", stored=True) == text
