from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamish.stream.sasl import FailureCondition, SaslFailure, decode_payload, encode_payload


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (None, None),
        ("", None),
        ("=", b""),
        ("AGp1bGlldAByMG0zMG15cjBtMzA=", b"\0juliet\0r0m30myr0m30"),  # RFC 6120 §6.4.2
        ("biws", b"n,,"),
    ],
)
def test_payloads(text: str | None, data: bytes | None) -> None:
    assert decode_payload(text) == data


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "\n",
        "biws\n",
        " biws",
        "bi ws",
        "biw",
        "bi",
        "b",
        "==",
        "biws=",
        "biws====",
        "bi==ws==",
        "bi-_",
        "b\xe9ws",
        "\ud800",
        "<x/>",
        "QR==",  # padding bits that are not zero (RFC 6120 §6.3.5)
        "QQ=",
    ],
)
def test_anything_else_is_incorrect_encoding(text: str) -> None:
    with pytest.raises(SaslFailure) as caught:
        decode_payload(text)
    assert caught.value.condition is FailureCondition.INCORRECT_ENCODING


def test_encoding() -> None:
    assert encode_payload(None) == ""
    assert encode_payload(b"") == "="
    assert encode_payload(b"n,,") == "biws"


@given(st.binary(max_size=50))
def test_round_trip(data: bytes) -> None:
    assert decode_payload(encode_payload(data)) == data


@given(st.one_of(st.text(max_size=12), st.text("ABab01+/= \n", max_size=12)))
def test_only_canonical_text_is_decoded(text: str) -> None:
    try:
        data = decode_payload(text)
    except SaslFailure:
        return
    assert (base64.b64encode(data).decode() if data else text) == text
    assert data or text in ("", "=")
