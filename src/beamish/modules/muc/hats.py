"""Hats (XEP-0317): titles that a room gives to its occupants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from beamish.xmpp.xml import escape_attr


@dataclass(frozen=True, slots=True)
class Hat:
    """A title that occupants may wear."""

    uri: str
    title: str
    hue: str = ""


def hats_bytes(worn: Iterable[Hat]) -> bytes:
    """The `<hats/>` in the presence of who wears them."""
    inner = "".join(
        f"<hat uri='{escape_attr(hat.uri)}' title='{escape_attr(hat.title)}'"
        + (f" hue='{escape_attr(hat.hue)}'" if hat.hue else "")
        + "/>"
        for hat in worn
    )
    return f"<hats xmlns='urn:xmpp:hats:0'>{inner}</hats>".encode()
