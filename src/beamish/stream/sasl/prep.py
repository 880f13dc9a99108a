"""RFC 4013: SASLprep, the preparation of simple user names and of passwords before they are hashed.

It is bound to Unicode 3.2 by its definition; the standard library keeps those tables for this very purpose.
"""

from __future__ import annotations

import stringprep
from unicodedata import ucd_3_2_0

# RFC 4013 §2.3
_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class SaslPrepError(ValueError):
    """The text holds what SASLprep prohibits, or nothing of it remains. The message never quotes the text."""


def saslprep(text: str, *, stored: bool) -> str:
    """`text` as RFC 4013 prepares it.

    `stored` says which of the two kinds of RFC 3454 §7 it is: True for what will be kept (unassigned characters are
    refused), False for a query. Raises `SaslPrepError`.
    """
    if text.isascii() and text.isprintable():
        if not text:
            raise SaslPrepError("empty")
        return text  # nothing in printable ASCII is mapped, prohibited or unassigned
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = ucd_3_2_0.normalize("NFKC", mapped)
    if not prepared:
        raise SaslPrepError("empty after preparation")
    for character in prepared:
        if any(table(character) for table in _PROHIBITED):
            raise SaslPrepError("a character that SASLprep prohibits")
        if stored and stringprep.in_table_a1(character):
            raise SaslPrepError("a character that Unicode 3.2 does not know")
    _check_direction(prepared)
    return prepared


def _check_direction(prepared: str) -> None:
    """RFC 3454 §6: text from right to left stands alone, and at both ends."""
    if not any(map(stringprep.in_table_d1, prepared)):
        return
    if any(map(stringprep.in_table_d2, prepared)):
        raise SaslPrepError("characters of both directions")
    if not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])):
        raise SaslPrepError("right-to-left text must begin and end with such characters")
