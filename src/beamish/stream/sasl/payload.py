"""RFC 6120 §6.3.5 and §6.4.2: the base 64 that carries SASL messages in XML."""

from __future__ import annotations

import base64
import binascii

from beamish.stream.sasl.failure import FailureCondition, SaslFailure


def decode_base64(text: str) -> bytes:
    """RFC 4648 §4 to the letter: no whitespace, full padding, padding bits zero. Raises `ValueError`."""
    data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    if base64.b64encode(data) != text.encode("ascii"):
        raise ValueError("not canonical base 64")
    return data


def decode_payload(text: str | None) -> bytes | None:
    """The character data of `<auth/>`, `<response/>` and their like: None if there is none, b"" for a single `=`.

    Raises `SaslFailure` (incorrect-encoding).
    """
    if not text:
        return None
    if text == "=":
        return b""
    try:
        return decode_base64(text)
    except ValueError:  # also what is not ASCII, and binascii's own error
        raise SaslFailure(FailureCondition.INCORRECT_ENCODING, "not base 64 as RFC 4648 section 4 has it") from None


def encode_payload(data: bytes | None) -> str:
    """The character data for a message of the server's: "" for none at all, `=` for one that is empty."""
    if data is None:
        return ""
    return base64.b64encode(data).decode("ascii") if data else "="
