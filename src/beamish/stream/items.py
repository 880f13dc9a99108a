"""What a stream consists of, as values: its header, its top-level elements, its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from beamish.xmpp.stanza import Stanza
from beamish.xmpp.xml import Element


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """The start tag of a stream (RFC 6120 §4.7). Attributes are as written; "" when absent."""

    to: str
    sender: str
    version: str
    lang: str
    id: str
    content_ns: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Nonza:
    """A top-level element that is no stanza: STARTTLS, SASL, stream management, client state."""

    el: Element

    @property
    def tag(self) -> str:
        """The element's name in Clark notation."""
        return str(self.el.tag)


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The peer sent `</stream:stream>`."""


@dataclass(frozen=True, slots=True)
class Unaddressable:
    """A stanza whose `to` is no JID; `reply` is the error, to its `from` if it has one, None where none may be sent.

    Between servers also one whose `from` is none, and whom nobody can answer: `claimed` is the domain of that.
    """

    reply: Stanza | None
    reason: str
    claimed: str | None = None


Item: TypeAlias = "Stanza | Nonza | StreamHeader | StreamEnd | Unaddressable"
