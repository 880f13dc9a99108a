"""What a server has to do on an ordinary day: of a thousand stanzas delivered, nine hundred are presence.

A hundred users, each with ten contacts (its neighbours in a ring), ten rooms of ten, one publisher of personal events. A
cycle is 90 changes of status (ten deliveries each), 40 messages, 20 of these with a request for a receipt that comes back,
10 pings, 10 rosters, one message in a room (ten deliveries) and one personal event (ten deliveries). The publisher sees its
ten contacts' status as well, uncounted. Every delivery
carries a mark of its kind, its sender and its number; every session checks all of them.
"""

from __future__ import annotations

import asyncio
import re

from tests.bench.load import Bench, Load, Options
from tests.bench.measure import Row, settled
from tests.bench.scenarios.muc import join
from tests.bench.scenarios.pep import CAPS, NODE, listening_contacts, teach
from tests.bench.servers.base import DOMAIN, Friends
from tests.bench.wire import BenchError, Client, Tally

USERS = 100
REACH = 5  # contacts on either side in the ring
CONTACTS = 2 * REACH
ROOM = 10  # occupants of each room
UNDER_WAY = 400  # deliveries
RATE = 200.0  # pieces a second; each is 6.6 deliveries on average

MARK = re.compile(rb"~([a-z]\d+)\.(\d+)~")
PIECES = "s" * 90 + "c" * 20 + "r" * 20 + "p" * 10 + "o" * 10 + "m" + "e"
DELIVERIES = {"s": CONTACTS, "c": 1, "r": 2, "p": 1, "o": 1, "m": ROOM, "e": CONTACTS}
STRIDE = 61  # no common divisor with the length of PIECES: kinds alternate


def accounts(options: Options) -> int:
    """The users, a publisher, one who teaches the server what they understand."""
    return USERS + 2


def friends(options: Options) -> Friends:
    """A ring."""
    return [(n, [(n + step) % USERS for step in range(1, REACH + 1)]) for n in range(USERS)]


class Day(Load):
    """Sends the next pieces of the cycle as long as few enough deliveries are under way."""

    def __init__(self, users: list[Client], publisher: Client, rooms: list[str]) -> None:
        super().__init__([*users, publisher])
        self._users = users
        self._publisher = publisher
        self._rooms = rooms
        # A user's own status comes back to it, or does not: both are right (RFC 6121 §4.4.2).
        self._tallies = [Tally(MARK, b">", ignored=frozenset({b"s%d" % n})) for n in range(len(users))]
        self._numbers: dict[str, int] = {}
        self._piece = 0
        self._under_way = 0

    def attach(self) -> None:
        """Every session counts everything."""
        self._publisher.sink = self._published
        for number, user in enumerate(self._users):
            self.tally(self._tallies[number])
            user.sink = lambda data, number=number: self._heard(number, data)  # type: ignore[misc]

    def fill(self) -> None:
        """As many pieces as may be under way."""
        while self._under_way < UNDER_WAY:
            self.emit()

    def emit(self) -> tuple[bytes, int]:
        """The next piece of the cycle, by the next user."""
        kind = PIECES[self._piece * STRIDE % len(PIECES)]
        who = self._piece % len(self._users)
        self._piece += 1
        self._under_way += DELIVERIES[kind]
        self.sent(DELIVERIES[kind])
        flow = f"{kind}{who}" if kind != "e" else "e0"
        number = self._numbers.get(flow, 0)
        self._numbers[flow] = number + 1
        mark = f"~{flow}.{number}~"
        if kind == "e":
            item = f"<item id='current'><note xmlns='{NODE}'>{mark}</note></item>"
            self._publisher.send(
                f"<iq type='set' id='publish'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='{NODE}'>"
                f"{item}</publish></pubsub></iq>".encode()
            )
        else:
            self._users[who].send(self._stanza(kind, who, mark).encode())
        return flow.encode(), number

    def _stanza(self, kind: str, who: int, mark: str) -> str:
        neighbour = self._users[(who + 1) % len(self._users)].jid.partition("/")[0]
        if kind == "s":
            return f"<presence><show>away</show><status>{mark}</status>{CAPS}</presence>"
        if kind == "c":
            return f"<message type='chat' to='{neighbour}'><body>{mark} but soft, what light breaks?</body></message>"
        if kind == "r":
            request = "<request xmlns='urn:xmpp:receipts'/>"
            return f"<message type='chat' to='{neighbour}' id='{mark}'><body>It is the east.</body>{request}</message>"
        if kind == "p":
            return f"<iq type='get' id='{mark}' to='{DOMAIN}'><ping xmlns='urn:xmpp:ping'/></iq>"
        if kind == "o":
            return f"<iq type='get' id='{mark}'><query xmlns='jabber:iq:roster'/></iq>"
        return f"<message type='groupchat' to='{self._rooms[who // ROOM]}'><body>{mark}</body></message>"

    def _heard(self, number: int, data: bytes) -> None:
        if b"type='error'" in data or b'type="error"' in data:
            raise BenchError(f"something was refused: {data[:1000].decode(errors='replace')}")
        tally = self._tallies[number]
        count = tally.feed(data)
        if count:
            if b"urn:xmpp:receipts" in data:
                self._confirm(number)
            self._under_way -= count
            if self.open:
                self.fill()
            self.took(count)

    def _confirm(self, number: int) -> None:
        """Send receipts for all requests of the left neighbour that have arrived and are not confirmed."""
        left = (number - 1) % len(self._users)
        asked, done = self._tallies[number].next_of(b"r%d" % left), self._numbers.get(f"t{number}", 0)
        to = self._users[left].jid.partition("/")[0]
        for receipt in range(done, asked):
            self._users[number].send(
                f"<message to='{to}'><received xmlns='urn:xmpp:receipts' id='~t{number}.{receipt}~'/></message>".encode()
            )
        self._numbers[f"t{number}"] = asked

    def _published(self, data: bytes) -> None:
        if b"type='error'" in data or b'type="error"' in data:
            raise BenchError(f"a publication was refused: {data[:500].decode(errors='replace')}")


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of a delivery, whatever it is."""
    *users, publisher, teacher = await bench.login_all(bench.server.accounts)
    rooms = []
    for first in range(0, USERS, ROOM):
        room = f"room{first}@{bench.server.muc}"
        owner = users[first]
        await join(owner, room, f"n{first}")
        form = "<x xmlns='jabber:x:data' type='submit'/>"
        await owner.iq(
            "set", f"<query xmlns='http://jabber.org/protocol/muc#owner'>{form}</query>", f"own{first}", room
        )
        for number in range(first + 1, first + ROOM):
            await join(users[number], room, f"n{number}")
        rooms.append(room)
    await listening_contacts(bench, publisher, teacher, users[:CONTACTS])
    await teach(bench, teacher, users[CONTACTS:])
    await settled(bench.server.pids)
    await asyncio.gather(*(user.quiet() for user in (*users, publisher)))
    day = Day(users, publisher, rooms)
    variant = f"{bench.options.security.value} {USERS} users"
    return await bench.measured("mixed", variant, f"{UNDER_WAY} deliveries under way", "delivery", day)
