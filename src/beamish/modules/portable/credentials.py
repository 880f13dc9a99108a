"""The keys in `<scram-credentials/>` (XEP-0227 §4.3)."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from beamish.stream.sasl import ALGORITHMS, Algorithm, ScramKeys
from beamish.xmpp.xml import Element

SCRAM: Final = "{urn:xmpp:pie:0#scram}"
CREDENTIALS: Final = f"{SCRAM}scram-credentials"
MOST_ITERATIONS: Final = 1_000_000
"""Who logs in by PLAIN makes this server count through them."""
_MECHANISMS: Final[dict[str, Algorithm]] = {f"SCRAM-{algorithm}": algorithm for algorithm in ALGORITHMS}
_BYTES: Final[dict[Algorithm, int]] = {"SHA-1": 20, "SHA-256": 32, "SHA-512": 64}


def keys_of(el: Element) -> ScramKeys:
    """The keys. Raises `ValueError` for a mechanism that there is not here, and for what cannot be keys.

    ejabberd (23.01) writes the base64 of base64; the length of the keys tells.
    """
    mechanism = el.get("mechanism", "")
    algorithm = _MECHANISMS.get(mechanism)
    if algorithm is None:
        raise ValueError(f"keys for {mechanism or 'no mechanism'} cannot be used")
    count = _text(el, "iter-count")
    if not (count.isascii() and count.isdigit()) or not 1 <= int(count[:20]) <= MOST_ITERATIONS:
        raise ValueError(f"{mechanism}: {count[:20]!r} iterations (at most {MOST_ITERATIONS})")
    values = [_decoded(_text(el, name)) for name in ("salt", "stored-key", "server-key")]
    if len(values[1]) != _BYTES[algorithm]:
        values = [_decoded(value.decode("latin-1")) for value in values]
    salt, stored, server = values
    try:
        return ScramKeys(algorithm, salt, int(count), stored, server)
    except ValueError as exc:
        raise ValueError(f"{mechanism}: {exc}") from None


def _text(el: Element, name: str) -> str:
    return (el.findtext(SCRAM + name) or "").strip()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("keys that are no base64") from None
