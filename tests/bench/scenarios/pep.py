"""Personal events (XEP-0163): one user publishes, contacts whose capabilities ask for the node are notified."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode

from tests.bench.load import Bench, Load, Options
from tests.bench.measure import Row, settled
from tests.bench.scenarios.roster import subscribe_all, subscribe_back
from tests.bench.wire import BenchError, Client, Tally, sender_of, stanza_id, stanza_type

RATE = 20.0
NODE = "urn:example:bench"
MARK = re.compile(rb">(\d+)\.(\d+)</note>")
SOFTWARE = "https://example.org/bench"
FEATURES = ("http://jabber.org/protocol/caps", "http://jabber.org/protocol/disco#info", f"{NODE}+notify")
VERSION = b64encode(
    hashlib.sha1(("client/bot//bench<" + "".join(f"{feature}<" for feature in sorted(FEATURES))).encode()).digest()
).decode()
CAPS = f"<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='{SOFTWARE}' ver='{VERSION}'/>"


def accounts(options: Options) -> int:
    """The publisher, one who teaches the server our capabilities, and the contacts."""
    return options.occupants + 2


class Publications(Load):
    """When all contacts were notified of the oldest publication under way, the next is published."""

    def __init__(self, publisher: Client, contacts: list[Client], under_way: int) -> None:
        super().__init__([publisher, *contacts])
        self._under_way = under_way
        self._publisher = publisher
        self._contacts = contacts
        self._tallies = [Tally(MARK, b"</message>") for _ in contacts]
        self._published = 0
        self._arrived = 0

    def attach(self) -> None:
        """Every contact counts what it is notified of."""
        self._publisher.sink = self._answered
        for contact, tally in zip(self._contacts, self._tallies, strict=True):
            self.tally(tally)
            contact.sink = lambda data, tally=tally: self._notified(tally, data)  # type: ignore[misc]

    def fill(self) -> None:
        """The first publications."""
        for _ in range(self._under_way):
            self.emit()

    def emit(self) -> tuple[bytes, int]:
        """A publication."""
        number = self._published
        self._published += 1
        self.sent(len(self._contacts))
        self._publisher.send(f"<iq type='set' id='publish{number}'>{publication(f'0.{number}')}</iq>".encode())
        return b"0", number

    def _answered(self, data: bytes) -> None:
        if b"error" in data:
            raise BenchError(f"a publication was refused: {data[:500].decode(errors='replace')}")

    def _notified(self, tally: Tally, data: bytes) -> None:
        count = tally.feed(data)
        if count:
            self._arrived += count
            size = len(self._contacts)
            while self.open and self._published * size - self._arrived <= (self._under_way - 1) * size:
                self.emit()
            self.took(count)


def publication(text: str) -> str:
    """Return what an IQ that publishes a note holds."""
    return (
        f"<pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='{NODE}'>"
        f"<item id='current'><note xmlns='{NODE}'>{text}</note></item></publish></pubsub>"
    )


async def answer_questions(contact: Client) -> None:
    """Answer what the server asked about our capabilities so far (XEP-0115 §6.2); each server asks in its own time."""
    for stanza in await contact.quiet():
        if stanza.startswith(b"<iq") and stanza_type(stanza) == "get" and b"disco#info" in stanza:
            features = "".join(f"<feature var='{feature}'/>" for feature in FEATURES)
            asker = sender_of(stanza)
            to = f" to='{asker}'" if asker else ""
            contact.send(
                f"<iq type='result' id='{stanza_id(stanza)}'{to}><query xmlns='http://jabber.org/protocol/disco#info' "
                f"node='{SOFTWARE}#{VERSION}'><identity category='client' type='bot' name='bench'/>{features}"
                "</query></iq>".encode()
            )


async def listening_contacts(bench: Bench, publisher: Client, teacher: Client, contacts: list[Client]) -> None:
    """Make contacts mutual, let the server learn that they want the node, make the node."""
    await subscribe_all(contacts, publisher)
    await subscribe_back(publisher, contacts)
    await teach(bench, teacher, contacts)
    # The first publication makes the node, and may be sent twice: to its subscribers, and as their last item.
    await publisher.iq("set", publication("the node is here"), "first")
    await settled(bench.server.pids)
    for contact in contacts:
        await contact.quiet()
    await publisher.quiet()


async def teach(bench: Bench, teacher: Client, contacts: list[Client]) -> None:
    """Let contacts announce capabilities that ask for the node, and answer what the server asks about these."""
    # Prosody 0.12 notifies a contact twice that answered a question of its own account; one who has no contacts
    # answers first, and the server knows the hash when the contacts show it.
    for group in ([teacher], contacts):
        for client in group:
            client.send(f"<presence>{CAPS}</presence>".encode())
        for _ in range(2):  # an answer may make the server ask once more
            await settled(bench.server.pids)
            for client in group:
                await answer_questions(client)


async def run(bench: Bench) -> list[Row]:
    """Measure the cost of one notification."""
    options = bench.options
    publisher, teacher, *contacts = await bench.login_all(bench.server.accounts)
    await listening_contacts(bench, publisher, teacher, contacts)
    load = Publications(publisher, contacts, options.under_way)
    variant = f"{options.security.value} {len(contacts)} contacts"
    return await bench.measured("pep", variant, f"{options.under_way} under way", "notification", load)
