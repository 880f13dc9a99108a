"""A room (XEP-0045): every occupant speaks in turn, every occupant hears everything."""

from __future__ import annotations

import re

from tests.bench.load import Bench, Load, Options
from tests.bench.measure import Row
from tests.bench.scenarios.chat import END, MARK, TEXT
from tests.bench.wire import BenchError, Client, Tally, stanza_type

SELF = re.compile(rb"<status\b[^>]*code=['\"]110['\"]")

LARGE = 200
"""Occupants of a room from which on it does not show everybody's presence."""
RATE = 20.0


def accounts(options: Options) -> int:
    """The occupants."""
    return options.occupants


class Talk(Load):
    """When all occupants have heard the oldest message under way, the next occupant speaks."""

    def __init__(self, room: str, occupants: list[Client], under_way: int) -> None:
        super().__init__(occupants)
        self._under_way = under_way
        self._occupants = occupants
        self._head = f"<message type='groupchat' to='{room}'><body>".encode()
        self._tallies = [Tally(MARK, END) for _ in occupants]
        self._spoken = 0
        self._arrived = 0

    def attach(self) -> None:
        """Every occupant counts what it hears."""
        for occupant, tally in zip(self._occupants, self._tallies, strict=True):
            self.tally(tally)
            occupant.sink = lambda data, tally=tally: self._heard(tally, data)  # type: ignore[misc]

    def fill(self) -> None:
        """The first occupants speak."""
        for _ in range(self._under_way):
            self.emit()

    def emit(self) -> tuple[bytes, int]:
        """The next occupant speaks."""
        turn, number = self._spoken % len(self._occupants), self._spoken // len(self._occupants)
        self._spoken += 1
        self.sent(len(self._occupants))
        self._occupants[turn].send(b"%b%d.%d %b</body></message>" % (self._head, turn, number, TEXT))
        return b"%d" % turn, number

    def _heard(self, tally: Tally, data: bytes) -> None:
        count = tally.feed(data)
        if count:
            self._arrived += count
            size = len(self._occupants)
            while self.open and self._spoken * size - self._arrived <= (self._under_way - 1) * size:
                self.emit()
            self.took(count)


async def join(client: Client, room: str, nick: str) -> bytes:
    """Enter a room; return one's own presence in it. Raises BenchError when the room refuses."""
    client.send(
        f"<presence to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'>"
        "<history maxstanzas='0'/></x></presence>".encode()
    )
    own = (
        await client.read_until(
            lambda s: s.startswith(b"<presence") and (SELF.search(s) is not None or stanza_type(s) == "error")
        )
    )[-1]
    if stanza_type(own) == "error":
        raise BenchError(f"cannot join {room}: {own.decode()}")
    return own


async def crowded_room(bench: Bench, occupants: list[Client]) -> str:
    """Make a room and bring everybody in; returns its address.

    In a large room only moderators' presence is shown, as such rooms are run: else a thousand who enter are a million
    presences, which nobody measures here.
    """
    room = f"bench@{bench.server.muc}"
    await join(occupants[0], room, "n0")
    fields = (
        f"<field var='muc#roomconfig_maxusers'><value>{len(occupants)}</value></field>" if len(occupants) > 200 else ""
    )
    if len(occupants) > LARGE:
        fields += "<field var='muc#roomconfig_presencebroadcast'><value>moderator</value></field>"
    form = f"<field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field>{fields}"
    # A new room may be locked until its owner accepts the defaults (XEP-0045 §10.1.2).
    await occupants[0].iq(
        "set",
        "<query xmlns='http://jabber.org/protocol/muc#owner'>"
        f"<x xmlns='jabber:x:data' type='submit'>{form if fields else ''}</x></query>",
        "configure",
        room,
    )
    for number, occupant in enumerate(occupants[1:], start=1):
        await join(occupant, room, f"n{number}")
    for occupant in occupants:
        await occupant.quiet()  # everybody's presence, the subject
    return room


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of one delivery of a room's message."""
    options = bench.options
    occupants = await bench.login_all(bench.server.accounts)
    room = await crowded_room(bench, occupants)
    variant = f"{options.security.value} {len(occupants)} occupants"
    load = Talk(room, occupants, options.under_way)
    return await bench.measured("muc", variant, f"{options.under_way} under way", "delivery", load)
