"""What federation keeps on disk, and what it makes of that after a restart (docs/decisions/0005-stanzas-under-way.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog

from beamish.core.clock import stamp
from beamish.core.kernel import Kernel
from beamish.core.services import StoredStream
from beamish.net.s2s_hub import renumbered
from beamish.net.s2s_out import S2SOutLink
from beamish.stream.s2s import Pair
from beamish.stream.s2s_acks import Acks
from beamish.stream.s2s_out import Cause, Unreachable
from beamish.xmpp import ns
from beamish.xmpp.errors import StanzaError
from beamish.xmpp.stanza import IQ, MESSAGE, Stanza

if TYPE_CHECKING:
    from beamish.net.s2s import Federation

log = structlog.get_logger(__name__)

_SUBSCRIBING: Final = frozenset(("subscribe", "subscribed", "unsubscribe", "unsubscribed"))
_FLEETING: Final = frozenset(("error", "headline"))
_HINTS: Final = b"urn:xmpp:hints"
_CHAT_STATES: Final = b"http://jabber.org/protocol/chatstates"
_CONTENT: Final = (b"<body", b"<encrypted", b"<received")
"""What may come together with a chat state."""
_DELAY: Final = ns.DELAY.encode()
_CRASHED: Final = Unreachable(Cause.LOST, "this server went down before the other one confirmed this")


def worth_keeping(kernel: Kernel, stanza: Stanza) -> bool:
    """Whether a stanza for another server outlives this process.

    Messages do, except errors, headlines, chat states alone, what `no-store` (XEP-0334) excludes, and what a room sends
    to its occupants, who have to join again; presence about subscriptions; and requests of accounts, whose answers would
    never come. Other presence is told anew.
    """
    name = stanza.name
    if name == MESSAGE:
        type_ = stanza.type
        if type_ in _FLEETING:
            return False
        sender = stanza.sender
        if type_ == "groupchat" and (sender is None or not kernel.is_local_domain(sender.domain)):
            return False
        body = stanza.body
        if _HINTS in body and b"<no-store" in body:
            return False
        return _CHAT_STATES not in body or any(content in body for content in _CONTENT)
    if name == IQ:
        sender = stanza.sender
        return stanza.type in ("get", "set") and sender is not None and bool(sender.resource) and bool(sender.local)
    return stanza.type in _SUBSCRIBING


class Dormant:
    """A stream of a peer's from before the restart; the peer may resume it. It is asked like a link that was lost."""

    __slots__ = ("acks", "pairs", "why")

    gone = True
    settled_at = 0

    def __init__(self, acks: Acks, pairs: tuple[Pair, ...]) -> None:
        self.acks: Acks | None = acks
        self.pairs = pairs
        self.why: Unreachable | None = _CRASHED

    @property
    def remotes(self) -> set[str]:
        """The domains that the stream was authenticated for."""
        return {remote for _, remote in self.pairs}

    async def quiet(self) -> None:
        """See `Link.quiet`: it has nothing in hand."""

    def abort(self) -> None:
        """See `Connection.abort`: there is no connection."""

    def lost(self, _error: Exception | None) -> None:
        """See `Link.lost`."""


def restore(federation: Federation) -> None:
    """Take charge of what was under way before the restart: streams wait to be resumed or are, the rest goes out."""
    if federation.outbox is None:
        return
    stored = federation.outbox.take_stored()
    for stream in stored.streams:
        _restore_stream(federation, stream)
    for since, wire, row in stored.doubtful:
        if (stanza := _thawed(federation, since, wire, row)) is not None:
            in_doubt(federation, stanza, row, _CRASHED)
    for since, wire, row in stored.waiting:
        if (stanza := _thawed(federation, since, wire, row)) is not None:
            federation.again([(stanza, row)], behind=True)


def _restore_stream(federation: Federation, stream: StoredStream) -> None:
    stanzas = []
    for number, since, wire, row in stream.stanzas:
        if (stanza := _thawed(federation, since, wire, row)) is not None:
            stanzas.append((number, stanza, stanza.to_wire(), row))
    acks = Acks.restored(stream.id, stream.key, stream.handled, stanzas)
    if stream.pairs:
        acks.share = federation.load.of(min(remote for _, remote in stream.pairs))
    try:
        if stream.outgoing:
            [pair] = stream.pairs
            federation.route(pair).ask(acks)  # also without stanzas: the peer may have some for us
        else:
            dormant = Dormant(acks, stream.pairs)
            for pair in {
                (s.sender.domain, s.to.domain) for _, s, *_ in stanzas if s.sender is not None and s.to is not None
            }:
                federation.route(pair).holder = dormant
            federation.wait_for_peer(dormant)
    except StanzaError as error:
        for stanza, row in acks.take_rest():
            federation.refuse(stanza, error, row)
        federation.give_up_stream(acks, None)


def _thawed(federation: Federation, since: float, wire: bytes, row: int) -> Stanza | None:
    """A stanza as it is sent now, with the time since when it has been under way (XEP-0203)."""
    try:
        stanza = Stanza.thaw(wire)
        if stanza.sender is None or stanza.to is None or not federation.kernel.router.serves(stanza.sender.domain):
            raise ValueError("nobody here may send it")
    except ValueError as exc:
        log.error("s2s_stored_stanza_dropped", reason=str(exc), row=row)
        if federation.outbox is not None:
            federation.outbox.drop((row,))
        return None
    if stanza.name != MESSAGE or _DELAY in stanza.body:
        return stanza
    delay = f"<delay xmlns='{ns.DELAY}' from='{stanza.sender.domain}' stamp='{stamp(since)}'/>"
    return stanza.with_child(delay.encode())


def not_kept(federation: Federation, rows: Sequence[int], error: StanzaError) -> None:
    """The disk has refused new stanzas, wherever they wait: they go back to their senders, who are told before anything
    counts as handled.
    """
    refused = set(rows)
    taken: list[tuple[Stanza, int]] = []
    for link in federation.links:
        taken += link.withdraw(refused)
    over: dict[int, Acks] = {}
    for route in federation.routes.values():
        taken += route.withdraw(refused)
        for acks in (route.held, None if route.holder is None else route.holder.acks):
            if acks is not None:
                over[id(acks)] = acks
    for left in federation.resumable.broken():
        if left.acks is not None:
            over[id(left.acks)] = left.acks
    for link in federation.links:
        if isinstance(link, S2SOutLink) and (resuming := link.to_resume) is not None:
            over[id(resuming)] = resuming
        over.pop(id(link.acks), None)  # these have been asked
    for acks in over.values():
        some, behind = acks.withdraw(refused)
        renumbered(federation.outbox, acks, behind)
        taken += some
    for stanza, row in sorted(taken, key=lambda each: each[1]):
        federation.refuse(stanza, error, row)


def in_doubt(federation: Federation, stanza: Stanza, row: int, why: Unreachable) -> None:
    """Nobody can say whether the peer got a stanza before the restart: its sender is told, if it is still there. If not,
    the stanza goes out once more: what comes twice can be told by its id, what is lost cannot.
    """
    sender = stanza.sender
    if sender is None or federation.kernel.sessions.get(sender) is not None or stanza.name != MESSAGE:
        federation.bounce(stanza, why, row)
    else:
        log.info("s2s_sent_again", to=stanza.to, row=row)
        federation.again([(stanza, row)], behind=True)


async def settle(federation: Federation, id_: str, h: int, remotes: set[str]) -> int | None:
    """A peer asks about a stream that it has given up, and says how many of our stanzas it has got: `h`.

    What it has not got is sent again; the result is how many of its stanzas were handled here, None if nobody knows.
    Raises `StreamError` if `h` cannot be.
    """
    for link in tuple(federation.links):
        if isinstance(link, S2SOutLink) and link.machine.remote in remotes:
            if link.acks is not None and link.acks.id == id_:
                link.why = link.why or Unreachable(Cause.LOST, "the server gave the stream up")
                link.abort()
                link.lost(None)
                await link.quiet()
            elif (acks := link.resuming(id_)) is not None and not acks.settled:
                federation.settled(acks, h)
                return acks.handled
    for route in tuple(federation.routes.values()):
        held = route.held
        if held is not None and held.id == id_ and route.remote in remotes:
            await route.quiet()
            if route.held is held:
                federation.settled(held, h)
                route.held = None
                return held.handled
    return None if federation.outbox is None else await federation.outbox.ended_count(id_, remotes)
