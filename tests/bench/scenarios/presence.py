"""Presence fan-out: one user, many subscribed contacts online, the user's status changes again and again."""

from __future__ import annotations

import re

from tests.bench.load import Bench, Load, Options
from tests.bench.measure import Row
from tests.bench.scenarios.roster import subscribe_all
from tests.bench.wire import Client, Tally

MARK = re.compile(rb"<status>(\d+)\.(\d+)</status>")
RATE = 10.0


def accounts(options: Options) -> int:
    """The user and the contacts."""
    return options.contacts + 1


class Broadcasts(Load):
    """When all contacts have seen the oldest broadcast under way, the next is sent."""

    def __init__(self, user: Client, contacts: list[Client], under_way: int) -> None:
        super().__init__([user, *contacts])
        self._under_way = under_way
        self._user = user
        self._contacts = contacts
        self._tallies = [Tally(MARK, b"</presence>") for _ in contacts]
        self._next = 0
        self._arrived = 0

    def attach(self) -> None:
        """Every contact counts what it sees."""
        self._user.sink = lambda data: None  # its own presence comes back to it: not counted
        for contact, tally in zip(self._contacts, self._tallies, strict=True):
            self.tally(tally)
            contact.sink = lambda data, tally=tally: self._seen(tally, data)  # type: ignore[misc]

    def fill(self) -> None:
        """The first changes of status."""
        for _ in range(self._under_way):
            self.emit()

    def emit(self) -> tuple[bytes, int]:
        """A change of status."""
        number = self._next
        self._next += 1
        self.sent(len(self._contacts))
        self._user.send(b"<presence><show>away</show><status>0.%d</status></presence>" % number)
        return b"0", number

    def _seen(self, tally: Tally, data: bytes) -> None:
        count = tally.feed(data)
        if count:
            self._arrived += count
            size = len(self._contacts)
            while self.open and self._next * size - self._arrived <= (self._under_way - 1) * size:
                self.emit()
            self.took(count)


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of one delivery of a presence."""
    options = bench.options
    user, *contacts = await bench.login_all(bench.server.accounts)
    await subscribe_all(contacts, user)
    load = Broadcasts(user, contacts, options.under_way)
    variant = f"{options.security.value} {len(contacts)} contacts"
    return await bench.measured("presence", variant, f"{options.under_way} under way", "delivery", load)
