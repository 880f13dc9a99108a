"""Presence fan-out: one user, many subscribed contacts online, the user's status changes again and again."""

from __future__ import annotations

import re

from tests.bench.load import Bench, Load, Options
from tests.bench.measure import Row
from tests.bench.scenarios.roster import subscribe_all
from tests.bench.wire import Client, Tally

MARK = re.compile(rb"<status>(\d+)\.(\d+)</status>")


def accounts(options: Options) -> int:
    """The user and the contacts."""
    return options.contacts + 1


class Broadcasts(Load):
    """When all contacts have seen the oldest broadcast under way, the next is sent."""

    def __init__(self, user: Client, contacts: list[Client], under_way: int) -> None:
        super().__init__([user, *contacts], self._start)
        self._under_way = under_way
        self._user = user
        self._contacts = contacts
        self._tallies = [Tally(MARK, b"</presence>") for _ in contacts]
        self._next = 0
        self._arrived = 0

    def _start(self) -> None:
        self._user.sink = lambda data: None  # its own presence comes back to it: not counted
        for contact, tally in zip(self._contacts, self._tallies, strict=True):
            contact.sink = lambda data, tally=tally: self._seen(tally, data)  # type: ignore[misc]
        for _ in range(self._under_way):
            self._broadcast()

    def _broadcast(self) -> None:
        self.sent(len(self._contacts))
        self._user.send(b"<presence><show>away</show><status>0.%d</status></presence>" % self._next)
        self._next += 1

    def _seen(self, tally: Tally, data: bytes) -> None:
        count = tally.feed(data)
        if count:
            self._arrived += count
            while self.open and self._next * len(self._contacts) - self._arrived <= (self._under_way - 1) * len(
                self._contacts
            ):
                self._broadcast()
            self.took(count)


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of one delivery of a presence."""
    user, *contacts = await bench.login_all(bench.server.accounts)
    await subscribe_all(contacts, user)
    runs = await bench.repeated(Broadcasts(user, contacts, bench.options.under_way))
    variant = f"{bench.options.security.value} {len(contacts)} contacts, {bench.options.under_way} under way"
    return [Row.of("presence", variant, "delivery", runs)]
