"""What is under way to other servers, on disk until they have it: what a client was told is handled survives the process.

A stanza is a row from the moment it is accepted until the other server has confirmed it. Changes of a tick are one job of
its commit: so a stanza is on disk in the very commit that lets its sender be told, and a count of handled stanzas in the one
that holds what they caused. What is put into the rows, and what is made of them after a crash, is federation's business
(`net.s2s`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog
from pydantic import Field

from beamish.core.module import Module, ModuleConfig, command
from beamish.core.services import Outbox, StoredOutbox, StoredStream
from beamish.storage.api import Cursor, Database, Migration, StorageClosed, StorageError, StorageUnavailable
from beamish.stream.resume import after as later
from beamish.xmpp.errors import Condition, StanzaError

log = structlog.get_logger(__name__)

_KEEP: Final = (
    "INSERT INTO outbox_stanza (id, stream, number, stamp, wire) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET stream = excluded.stream, number = excluded.number"
)
_TIDY: Final = 1.0
"""Seconds until rows that need not be kept are deleted if nothing else brings a commit about."""
_RETRY: Final = 1.0
"""Seconds until a commit that failed is tried again; confirmations to peers wait that long."""
_ENDED: Final = 20_000
"""Ended streams that are remembered."""
_PRUNE: Final = 500
"""Streams that end until those before them are looked through for what may be forgotten."""

_UNDONE: Final = 20_000
"""Changes of streams that may wait for a disk that takes nothing; streams that begin then are not written down."""

Then = Callable[[], None]
Job = tuple[str, tuple[Any, ...]]
StanzaRow = tuple[int, int | None, int, float, bytes]


class Config(ModuleConfig):
    """Options of the outbox."""

    remember_seconds: float = Field(
        86_400.0,
        ge=0.0,
        description="How long another server can still learn how many of its stanzas an ended stream had handled. That "
        "tells it, after it was down, which ones to send again.",
    )


class _Batch:
    """What one commit writes. It grows during its tick and is the database thread's afterwards."""

    __slots__ = ("gone", "new", "rows")

    def __init__(self) -> None:
        self.rows: dict[int, StanzaRow] = {}
        self.new: list[int] = []
        """Those of the rows that were never written before."""
        self.gone: list[int] = []

    def run(self, c: Cursor) -> None:
        """Write it all."""
        if self.rows:
            c.many(_KEEP, list(self.rows.values()))
        if self.gone:
            c.many("DELETE FROM outbox_stanza WHERE id BETWEEN ? AND ?", list(_ranges(self.gone)))


class _Streams:
    """What one commit writes about beginnings, changes and ends of streams, in order; it grows during its tick.

    It is refused together with what was refused before it, so that no change comes before the beginning of its stream.
    """

    __slots__ = ("jobs", "lost")

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.lost: list[str] = []
        """Why some of them can never be written."""

    def run(self, c: Cursor) -> None:
        """Write it all. What can never be written takes no other change along: each is one statement, of one stream."""
        self.lost = []
        for sql, params in self.jobs:
            try:
                c.run(sql, *params)
            except (StorageUnavailable, MemoryError):
                raise
            except Exception as exc:
                self.lost.append(f"{sql}: {exc!r}")


class _Counts:
    """How many stanzas were handled on which streams, and who is told when that is on disk: the last part of a tick's commit.

    What a peer is told it does not send again, so counts are written only together with what they stand for.
    """

    __slots__ = ("after", "handled", "thens", "void")

    def __init__(self) -> None:
        self.handled: dict[int, int] = {}
        self.thens: list[Then] = []
        self.after = 0
        """The position that must be durable, too."""
        self.void = False
        """They were not written, and are part of later ones."""

    def run(self, c: Cursor) -> None:
        """Write them."""
        if not self.void:
            c.many("UPDATE outbox_stream SET handled = ? WHERE key = ?", [(n, key) for key, n in self.handled.items()])

    def add(self, other: _Counts) -> None:
        """Take over what could not be written; the later count of a stream holds."""
        for key, count in other.handled.items():
            if key not in self.handled or later(count, self.handled[key]):
                self.handled[key] = count
        self.thens = other.thens + self.thens
        self.after = max(self.after, other.after)


class OutboxModule(Module):
    """Keeps what is under way to other servers."""

    name = "outbox"
    Config = Config
    provides = (Outbox,)
    migrations = (
        Migration(
            1,
            (
                "CREATE TABLE outbox_stream (key INTEGER PRIMARY KEY, id TEXT NOT NULL, outgoing INTEGER NOT NULL, "
                "pairs TEXT NOT NULL, handled BIGINT NOT NULL, ended {timestamp})",
                "CREATE INDEX outbox_stream_id ON outbox_stream (id)",
                "CREATE TABLE outbox_stanza (id INTEGER PRIMARY KEY, stream INTEGER, number BIGINT NOT NULL, "
                "stamp {timestamp} NOT NULL, wire {bytes} NOT NULL)",
            ),
        ),
    )

    def __init__(self, kernel: Any, config: Any) -> None:
        super().__init__(kernel, config)
        self._db: Database = self.db
        self._clock = kernel.clock
        self.position = 0
        self._batch: _Batch | None = None
        self._counts: _Counts | None = None
        self._streams: _Streams | None = None
        self._undone: list[Job] = []
        """Changes of streams that the disk did not take, and all that came since. No count is written before them."""
        self._gone: list[int] = []
        self._late: dict[int, StanzaRow] = {}
        """Rows of stanzas that are on disk, but could not be written anew with their places on streams."""
        self.refused: Callable[[Sequence[int], StanzaError], None] = lambda _rows, _error: None
        self._tidying = False
        self._ended = 0
        self._last_row = 0
        self._last_key = 0
        self._stored = StoredOutbox([], [], [])

    async def start(self) -> None:
        """Read what there is."""
        since = self._clock.now() - self.config.remember_seconds
        self._stored, self._last_key, self._last_row = await self._db.write("outbox.load", partial(_load, since))

    async def stop(self) -> None:
        """Delete what is only waiting to be deleted; what the disk has refused gets its last chance."""
        if self._undone:
            self._redo()
        if self._gone:
            self._tidy()
        if self._undone or self._gone or self._streams is not None or self._batch is not None:
            await self._db.flushed()

    def take_stored(self) -> StoredOutbox:
        """See `Outbox.take_stored`."""
        stored, self._stored = self._stored, StoredOutbox([], [], [])
        if stored.streams or stored.doubtful or stored.waiting:
            log.info(
                "outbox_restored",
                streams=len(stored.streams),
                stanzas=sum(len(stream.stanzas) for stream in stored.streams) + len(stored.waiting),
                doubtful=len(stored.doubtful),
            )
        return stored

    # ---- stanzas ----------------------------------------------------------------------------------------------------

    def keep(self, wire: bytes, stream: int | None, number: int, row: int = 0) -> int:
        """See `Outbox.keep`."""
        batch = self._batch or self._open()
        if batch is None:
            if not row:
                raise _not_kept()
            self._late[row] = (row, stream, number, self._clock.now(), wire)
            self._later(self._write_late)
            return row
        if not row:
            self._last_row = row = self._last_row + 1
            batch.new.append(row)
        batch.rows[row] = (row, stream, number, self._clock.now(), wire)
        return row

    def drop(self, rows: Iterable[int], *, soon: bool = False) -> None:
        """See `Outbox.drop`."""
        if self._late:
            rows = tuple(rows)
            for row in rows:
                self._late.pop(row, None)
        if self._batch is not None:
            self._batch.gone += rows
            return
        self._gone += rows
        if not self._gone:
            return
        if soon:
            self._open()
        elif not self._tidying:
            self._tidying = True
            self._clock.call_later(_TIDY, self._tidy)

    def _tidy(self) -> None:
        self._tidying = False
        if self._gone:
            self._open()

    # ---- streams ----------------------------------------------------------------------------------------------------

    def begin(self, id: str, *, outgoing: bool, pairs: Iterable[tuple[str, str]]) -> int:
        """See `Outbox.begin`."""
        self._last_key += 1
        sql = "INSERT INTO outbox_stream (key, id, outgoing, pairs, handled, ended) VALUES (?, ?, ?, ?, 0, NULL)"
        return self._last_key if self._do(sql, self._last_key, id, int(outgoing), _packed(pairs)) else 0

    def joined(self, key: int, pairs: Iterable[tuple[str, str]]) -> None:
        """See `Outbox.joined`."""
        self._change("UPDATE outbox_stream SET pairs = ? WHERE key = ?", _packed(pairs), key)

    def handled(self, key: int, count: int, then: Then | None = None, after: int = 0) -> None:
        """See `Outbox.handled`."""
        counts = self._counts
        if counts is None:
            try:
                self._db.at_tick_end(self._write_counts)
            except StorageClosed:
                return  # nobody is told
            counts = self._counts = _Counts()
        if key:
            counts.handled[key] = count
        if then is not None:
            counts.thens.append(then)
            if after > counts.after:
                counts.after = after

    def _write_counts(self) -> None:
        counts = self._counts
        if counts is None:
            return
        if self._db.owed or self._undone:
            # they may stand for what the disk has refused; what comes meanwhile joins them
            self._later(self._write_counts)
            return
        self._counts = None
        try:
            position = self._db.submit("outbox.counts", counts.run, partial(self._not_counted, counts), whole=True)
            self._db.when_durable(max(position, counts.after), partial(self._counted, counts))
        except StorageClosed:
            return
        except StorageError as exc:
            self._not_counted(counts, exc)

    def _counted(self, counts: _Counts) -> None:
        if not counts.void:
            for then in counts.thens:
                then()

    def _not_counted(self, counts: _Counts, exc: Exception) -> None:
        if counts.void:
            return
        counts.void = True
        log.error("outbox_not_stored", counts=len(counts.handled), error=repr(exc))
        if self._counts is None:
            self._counts = _Counts()
            self._later(self._write_counts)
        self._counts.add(counts)

    def ended(self, key: int) -> None:
        """See `Outbox.ended`."""
        now = self._clock.now()
        self._change("UPDATE outbox_stream SET ended = ? WHERE key = ?", now, key)
        self._ended += 1
        if self._ended % _PRUNE == 0:
            oldest = now - self.config.remember_seconds
            self._change("DELETE FROM outbox_stream WHERE ended < ? OR (key <= ? AND ended > 0)", oldest, key - _ENDED)

    async def ended_count(self, id: str, remotes: Iterable[str]) -> int | None:
        """See `Outbox.ended_count`."""
        await self._db.flushed()
        since = self._clock.now() - self.config.remember_seconds
        known = set(remotes)
        for pairs, handled in await self._db.fetch(
            "SELECT pairs, handled FROM outbox_stream WHERE id = ? AND ended > ? ORDER BY key DESC LIMIT 10", id, since
        ):
            if any(remote in known for _, remote in json.loads(pairs)):
                return int(handled)
        return None

    # ---- batches ----------------------------------------------------------------------------------------------------

    def _do(self, sql: str, *params: Any) -> bool:
        """Write a change of a stream, behind all that were asked for before. False: the database takes no more."""
        if self._undone:
            if len(self._undone) >= _UNDONE:
                return False
            self._undone.append((sql, params))
            return True
        streams = self._streams
        if streams is None:
            streams = _Streams()
            try:
                self._db.at_tick_end(self._seal)
                self.position = self._db.submit(
                    "outbox.streams", streams.run, partial(self._streams_failed, streams), whole=True
                )
            except StorageClosed:
                return True  # the server is at its end: whatever a stream comes to, nobody is told anything any more
            except StorageError as exc:
                log.error("outbox_not_stored", statement=sql, error=repr(exc))
                return False
            self._streams = streams
            with suppress(StorageError):  # then the log does not say it
                self._db.when_durable(self.position, partial(self._streams_written, streams))
        streams.jobs.append((sql, params))
        return True

    def _change(self, sql: str, *params: Any) -> None:
        """The same for a stream that has begun: there are no more of these than may wait."""
        if not self._do(sql, *params):
            self._wait_for_disk([(sql, params)])

    def _streams_written(self, streams: _Streams) -> None:
        if streams.lost:
            log.error("outbox_change_lost", changes=len(streams.lost), error=streams.lost[0])

    def _streams_failed(self, streams: _Streams, exc: Exception) -> None:
        log.error("outbox_not_stored", changes=len(streams.jobs), error=repr(exc))
        streams.lost.clear()
        if streams is self._streams:
            self._streams = None
        if isinstance(exc, StorageUnavailable):
            self._wait_for_disk(streams.jobs)

    def _wait_for_disk(self, jobs: Sequence[Job]) -> None:
        if not self._undone:
            self._later(self._redo)
        self._undone += jobs

    def _redo(self) -> None:
        undone, self._undone = self._undone, []
        self._streams = None
        for sql, params in undone:
            self._change(sql, *params)

    def _open(self) -> _Batch | None:
        """The batch of this tick, None if the database takes no more."""
        batch = _Batch()
        try:
            self._db.at_tick_end(self._seal)
            self.position = self._db.submit("outbox.write", batch.run, failed=partial(self._failed, batch))
        except StorageError as exc:
            log.error("outbox_not_stored", error=repr(exc))
            return None
        batch.gone, self._gone = self._gone, []
        self._batch = batch
        return batch

    def _seal(self) -> None:
        """What the database is given now must not change any more."""
        self._batch = self._streams = None

    def _failed(self, batch: _Batch, exc: Exception) -> None:
        """The database refused. Stanzas that are not on disk do not go out; those that are do, and their places on streams are
        written later.
        """
        log.error("outbox_not_stored", stanzas=len(batch.new), error=repr(exc))
        self._gone += batch.gone
        new = set(batch.new)
        self._late = {row: entry for row, entry in batch.rows.items() if row not in new} | self._late
        self._later(self._again)
        if new:
            self.refused(batch.new, _not_kept())

    def _write_late(self) -> None:
        if not self._late:
            return
        batch = self._batch or self._open()
        if batch is None:
            self._later(self._write_late)
            return
        batch.rows = self._late | batch.rows
        self._late = {}

    def _again(self) -> None:
        self._write_late()
        if self._gone and self._batch is None and self._open() is None:
            self._later(self._tidy)

    def _later(self, call: Then) -> None:
        self._clock.call_later(_RETRY, call)

    # ---- commands ---------------------------------------------------------------------------------------------------

    @command("outbox.count", "How many stanzas for other servers are kept, and how many streams with them")
    async def command_count(self) -> dict[str, int]:
        """Rows on disk."""
        await self._db.flushed()
        [(stanzas, size)] = await self._db.fetch("SELECT COUNT(*), COALESCE(SUM(LENGTH(wire)), 0) FROM outbox_stanza")
        [(streams,)] = await self._db.fetch("SELECT COUNT(*) FROM outbox_stream WHERE ended IS NULL")
        return {"stanzas": int(stanzas), "bytes": int(size), "streams": int(streams)}


def _not_kept() -> StanzaError:
    """For a stanza that its sender would believe to be safe."""
    return StanzaError(Condition.RESOURCE_CONSTRAINT, text="this server cannot store anything at the moment")


def _packed(pairs: Iterable[tuple[str, str]]) -> str:
    return json.dumps(sorted(pairs))


def _ranges(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Runs of numbers without a gap: mostly they are confirmed as they were sent."""
    rows.sort()
    first = last = rows[0]
    for row in rows:
        if row > last + 1:
            yield first, last
            first = row
        last = row
    yield first, last


def _load(since: float, c: Cursor) -> tuple[StoredOutbox, int, int]:
    c.run("DELETE FROM outbox_stream WHERE ended < ?", since)
    last_key = int(c.value("SELECT MAX(key) FROM outbox_stream") or 0)
    streams = {
        int(key): StoredStream(int(key), id_, bool(outgoing), tuple(map(tuple, json.loads(pairs))), int(handled), [])
        for key, id_, outgoing, pairs, handled in c.rows(
            "SELECT key, id, outgoing, pairs, handled FROM outbox_stream WHERE ended IS NULL ORDER BY key"
        )
    }
    doubtful: list[tuple[float, bytes, int]] = []
    waiting: list[tuple[float, bytes, int]] = []
    row = 0
    for id_, key, number, stamp, wire in c.rows(
        "SELECT id, stream, number, stamp, wire FROM outbox_stanza ORDER BY id"
    ):
        row, last_key = int(id_), max(last_key, key or 0)
        if key is None:
            waiting.append((float(stamp), bytes(wire), row))
        elif (stream := streams.get(int(key))) is not None:
            stream.stanzas.append((int(number), float(stamp), bytes(wire), row))
        else:
            doubtful.append((float(stamp), bytes(wire), row))
    return StoredOutbox(list(streams.values()), doubtful, waiting), last_key, row


__all__ = ["Config", "OutboxModule"]
