"""What a server stream needs of whoever made it, and of its socket."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from beamish.xmpp.stanza import Stanza

if TYPE_CHECKING:
    from beamish.core.kernel import Kernel
    from beamish.core.services import Outbox
    from beamish.core.sparing import Sparing
    from beamish.core.tasks import TaskGroup
    from beamish.net.connection import Flusher
    from beamish.net.s2s_link import Link
    from beamish.net.s2s_policy import S2SLimits
    from beamish.net.s2s_presence import RemotePresence
    from beamish.net.throttle import Bucket
    from beamish.net.wirelog import WireLog
    from beamish.stream.s2s_acks import Acks

_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 120), (socket.TCP_KEEPINTVL, 30), (socket.TCP_KEEPCNT, 4))
_USER_TIMEOUT: Final = 60_000
"""Milliseconds after which the kernel gives up a connection whose peer confirms nothing."""


def keep_alive(sock: Any) -> None:
    """Let the kernel notice a peer that has gone without a word. `sock` may be None, or of another family."""
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)


def renumbered(outbox: Outbox | None, acks: Acks, stanzas: Iterable[tuple[int, bytes, int]]) -> int:
    """Write down that stanzas (number, bytes, row) have other numbers on a stream now; the position of that."""
    position = 0
    if outbox is not None:
        for number, data, row in stanzas:
            outbox.keep(data, acks.key, number, row)
            position = outbox.position
    return position


class Hub(Protocol):
    """What a link needs of whoever made it."""

    kernel: Kernel
    limits: S2SLimits
    flusher: Flusher
    wire_log: WireLog
    tasks: TaskGroup
    links: set[Link]
    presences: RemotePresence
    sparing: Sparing

    def link_lost(self, link: Link) -> None:
        """The connection is gone."""

    def ping(self, link: Link, number: int) -> None:
        """Ask the peer of a link without stream management for a sign of life."""

    def ping_answered(self, stanza: Stanza) -> bool:
        """An IQ with such a ping's id arrived: whether it is the answer to one."""

    def buckets(self, remote: str) -> tuple[Bucket, Bucket]:
        """The rates of a remote domain: stanzas and bytes."""
