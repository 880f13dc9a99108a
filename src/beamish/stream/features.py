"""Stream features as values (RFC 6120 §4.3.2, order by XEP-0170).

A feature says what must be true of the stream before it is offered and what must not be; the machine offers whatever
fits, in the order of the list. Modules contribute theirs as data (`Module.stream_features`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Final

from beamish.xmpp import ns


class Has(Flag):
    """What a stream has reached."""

    NOTHING = 0
    SECURE = auto()
    AUTHENTICATED = auto()
    BOUND = auto()


@dataclass(frozen=True, slots=True)
class StreamFeature:
    """One child of `<stream:features/>`: its XML, and when it is offered.

    `of_domain` gives the XML instead, where it is not the same for every host.
    """

    xml: bytes
    needs: Has = Has.AUTHENTICATED
    forbids: Has = Has.BOUND
    of_domain: Callable[[str], bytes] | None = None

    def offered(self, have: Has) -> bool:
        """Whether a stream that `have` gets this feature offered now."""
        return self.needs in have and not (have & self.forbids)


BIND: Final = StreamFeature(f"<bind xmlns='{ns.BIND}'/>".encode())
SESSION: Final = StreamFeature(f"<session xmlns='{ns.SESSION}'><optional/></session>".encode())
"""Session establishment of RFC 3921, kept for old clients as a step that does nothing."""


def starttls(required: bool) -> bytes:
    """The STARTTLS feature (RFC 6120 §5.4.1)."""
    return f"<starttls xmlns='{ns.TLS}'>{'<required/>' if required else ''}</starttls>".encode()


def mechanisms(names: Iterable[str], bindings: Iterable[str] = ()) -> bytes:
    """The SASL feature (RFC 6120 §6.4.1), with the channel-binding types of XEP-0440 where there are any."""
    listed = "".join(f"<mechanism>{name}</mechanism>" for name in names)
    types = "".join(f"<channel-binding type='{kind}'/>" for kind in bindings)
    capability = f"<sasl-channel-binding xmlns='{ns.SASL_CB}'>{types}</sasl-channel-binding>" if types else ""
    return f"<mechanisms xmlns='{ns.SASL}'>{listed}</mechanisms>{capability}".encode()


def limits(max_bytes: int, idle_seconds: int | None) -> bytes:
    """Limits of the stream as XEP-0478 announces them."""
    idle = f"<idle-seconds>{idle_seconds}</idle-seconds>" if idle_seconds else ""
    return f"<limits xmlns='{ns.LIMITS}'><max-bytes>{max_bytes}</max-bytes>{idle}</limits>".encode()


def joined(children: Iterable[bytes | StreamFeature]) -> tuple[bytes | Callable[[str], bytes], ...]:
    """`<stream:features/>` in as few parts as possible: bytes that stay the same, and functions of the domain."""
    parts: list[bytes | Callable[[str], bytes]] = []
    text = b"<stream:features>"
    for child in children:
        if isinstance(child, bytes):
            text += child
        elif child.of_domain is None:
            text += child.xml
        else:
            parts += [text, child.of_domain]
            text = b""
    return (*parts, text + b"</stream:features>")
