"""What one component is allowed, as `[components."…"]` has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol, TypeAlias

from beamish.xmpp.stanza import Stanza

NS: Final = "urn:xmpp:privilege:2"
OLD_NS: Final = "urn:xmpp:privilege:1"
"""Of before version 0.4: the same but for IQs. Components that know only this are still in use."""

Access: TypeAlias = Literal["none", "get", "set", "both"]


class PrivilegeOptions(Protocol):
    """The privileges of one component."""

    @property
    def domains(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def roster(self) -> Access: ...  # noqa: D102
    @property
    def roster_push(self) -> bool: ...  # noqa: D102
    @property
    def remote_roster(self) -> Literal["none", "ask", "granted"]: ...  # noqa: D102
    @property
    def message(self) -> Literal["none", "outgoing"]: ...  # noqa: D102
    @property
    def iq(self) -> Mapping[str, Access]: ...  # noqa: D102
    @property
    def presence(self) -> Literal["none", "managed_entity", "roster"]: ...  # noqa: D102


class Link(Protocol):
    """The component's connection."""

    @property
    def usable(self) -> bool:
        """Whether stanzas can still be sent."""

    def send_stanza(self, stanza: Stanza) -> object:
        """Send a stanza to the component."""


def includes(access: Access, kind: str) -> bool:
    """Whether a permission is good for requests of a type, `get` or `set`."""
    return access in (kind, "both")
