"""A journal of stream management without sessions, and what a start after a crash must find of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from beamish.modules.sm import store
from beamish.modules.sm.outlet import Sent
from beamish.storage.memory import MemoryDatabase
from beamish.testing.clock import FakeClock
from beamish.xmpp.jid import JID


@dataclass(eq=False)
class Stream:
    """As much of a managed session as the journal looks at."""

    key: int
    count: int = 0
    acknowledged: int = 0
    resumable: bool = True
    over: bool = False
    seconds: float = 600.0
    session: Any = field(
        default_factory=lambda: SimpleNamespace(
            jid=JID.parse("juliet@example.org/balcony"), created=1.0, bare="juliet@example.org"
        )
    )

    @property
    def id(self) -> str:
        return f"id{self.key}"

    def state(self) -> dict[str, Any]:
        return {}

    def row(self) -> tuple[float, float | None, str]:
        return self.seconds, None, "{}"

    def committed(self, count: int) -> None:
        self.acknowledged = count

    def not_stored(self, exc: Exception) -> None:
        raise exc


class Play:
    """A journal that is used as sessions use it, and what a start after a crash must find."""

    def __init__(self, db: MemoryDatabase) -> None:
        self.db = db
        self.clock = FakeClock()
        self.journal: Any = store.Journal(db, self.clock)
        self.waiting: dict[Stream, list[Sent]] = {}
        self.sent = 0

    def begin(self) -> Stream:
        stream = Stream(self.journal.next_key())
        self.journal.begin(stream)
        self.waiting[stream] = []
        return stream

    def send(self, stream: Stream, data: bytes) -> None:
        sent = Sent(data, None, self.clock.now())
        assert self.journal.message(stream, sent, len(self.waiting[stream]))
        self.waiting[stream].append(sent)

    def confirm(self, stream: Stream, count: int) -> None:
        done, self.waiting[stream] = self.waiting[stream][:count], self.waiting[stream][count:]
        self.journal.confirmed([sent.row for sent in done])
        self.journal.tidy()

    def handle(self, stream: Stream, count: int) -> None:
        stream.count += count
        self.journal.handled(stream)

    def step(self, what: str, stream: Stream, count: int) -> None:
        """Do one thing of a schedule: send the next messages, confirm or handle so many, or let the time of a fold pass.

        It may name other things, which are the test's own.
        """
        if what == "send":
            for _ in range(count):
                self.sent += 1
                self.send(stream, b"%d" % self.sent)
        elif what == "confirm":
            self.confirm(stream, count)
        elif what == "handle":
            self.handle(stream, count)
        elif what == "time":
            self.clock.advance(store.FOLD_SECONDS)

    async def settle(self) -> None:
        """Let the tick end, and its commit be made."""
        await self.db.write("nothing", lambda c: None)

    async def check(self) -> None:
        await self.settle()
        acknowledged = {stream.key: stream.acknowledged for stream in self.waiting}
        async with self.db.copy() as crashed:
            found = await store.Journal(crashed, self.clock).load(self.clock.now())
            left = {one.key: [wire for *_, wire in one.messages] for one in found}
            assert left == {stream.key: [sent.data for sent in sents] for stream, sents in self.waiting.items()}
            for stream in self.waiting:
                (handled,) = [one.handled for one in found if one.key == stream.key]
                assert acknowledged[stream.key] <= handled <= stream.count
            assert await crashed.fetch("SELECT id FROM sm_log") == []
