"""The joined, bounded output of a connection, on a transport that records."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from beamish.net.connection import Connection, Flusher


class Recorder(asyncio.Transport):
    """Takes writes; from `full` on it keeps them and asks for a pause, as a socket does whose peer does not read."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.kept = 0
        self.full = False
        self.ended = ""
        self.reading: list[bool] = []
        self._protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return self.kept

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))
        if self.full:
            self.kept += len(data)
            self._protocol.pause_writing()

    def drain(self) -> None:
        self.full, self.kept = False, 0
        self._protocol.resume_writing()

    def pause_reading(self) -> None:
        self.reading.append(False)

    def resume_reading(self) -> None:
        self.reading.append(True)

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Subject(Connection):
    def __init__(self, flusher: Flusher, limit: int) -> None:
        super().__init__(flusher, limit)
        self.slow = 0
        self.gone: list[Exception | None] = []

    def too_slow(self) -> None:
        self.slow += 1

    def lost(self, error: Exception | None) -> None:
        self.gone.append(error)


@pytest.fixture
async def pair() -> tuple[Subject, Recorder]:
    connection = Subject(Flusher(), 100)
    transport = Recorder(connection)
    connection.connection_made(transport)
    return connection, transport


async def test_writes_of_one_tick_are_joined(pair: tuple[Subject, Recorder]) -> None:
    connection, transport = pair
    for part in (b"a", b"b", b"c"):
        assert connection.write(part)
    assert transport.writes == []
    await asyncio.sleep(0)
    assert transport.writes == [b"abc"]
    connection.write(b"d")
    await asyncio.sleep(0)
    assert transport.writes == [b"abc", b"d"]


async def test_a_burst_that_the_peer_takes_is_no_slow_reader(pair: tuple[Subject, Recorder]) -> None:
    connection, transport = pair
    for _ in range(50):
        assert connection.write(b"x" * 30)
    await asyncio.sleep(0)
    assert sum(map(len, transport.writes)) == 1_500
    assert not connection.slow


@pytest.mark.parametrize("in_transport", [0, 40, 99])
async def test_a_slow_reader_is_cut_at_the_limit_wherever_its_bytes_are(
    in_transport: int, pair: tuple[Subject, Recorder]
) -> None:
    connection, transport = pair
    transport.full = True
    if in_transport:
        connection.write(b"x" * in_transport)
        await asyncio.sleep(0)
    else:
        connection.pause_writing()
    assert connection.write(b"y" * (100 - in_transport))
    assert connection.unsent == 100
    assert not connection.write(b"z")
    assert transport.ended == "aborted"
    assert connection.slow == 0, "not in the middle of a fan-out"
    await asyncio.sleep(0)
    assert connection.slow == 1
    assert not connection._out, "its memory is free"
    assert not connection.write(b"more")


async def test_a_reader_that_catches_up_gets_everything_in_order(pair: tuple[Subject, Recorder]) -> None:
    connection, transport = pair
    transport.full = True
    connection.write(b"1" * 50)
    await asyncio.sleep(0)
    connection.write(b"2" * 20)
    await asyncio.sleep(0)
    assert transport.writes == [b"1" * 50]
    transport.drain()
    assert transport.writes == [b"1" * 50, b"2" * 20]
    assert connection.write(b"3" * 90), "the whole limit is free again"


async def test_finish_sends_what_waits_and_takes_no_more(pair: tuple[Subject, Recorder]) -> None:
    connection, transport = pair
    connection.write(b"last")
    connection.finish()
    assert transport.writes == [b"last"]
    assert transport.ended == "closed"
    assert not connection.write(b"more")


async def test_abort_sends_nothing(pair: tuple[Subject, Recorder]) -> None:
    connection, transport = pair
    connection.write(b"last")
    connection.abort()
    await asyncio.sleep(0)
    assert transport.writes == []
    assert transport.ended == "aborted"


async def test_a_lost_connection_is_told_once_and_forgets(pair: tuple[Subject, Recorder]) -> None:
    connection, _ = pair
    connection.write(b"x")
    error = ConnectionResetError()
    connection.connection_lost(error)
    assert connection.gone == [error]
    assert connection.unsent == 0
    assert not connection.write(b"y")
    assert connection.info("peername") is None
    await asyncio.sleep(0)


async def test_reading_is_paused_and_resumed_once(pair: tuple[Subject, Recorder]) -> None:
    connection, transport = pair
    connection.start_reading()
    connection.stop_reading()
    connection.stop_reading()
    connection.start_reading()
    assert transport.reading == [False, True]
    connection.stop_reading()
    transport.close()
    connection.start_reading()
    assert transport.reading == [False, True, False]


async def test_a_new_transport_begins_anew(pair: tuple[Subject, Recorder]) -> None:
    connection, transport = pair
    transport.full = True
    connection.write(b"x" * 60)
    await asyncio.sleep(0)
    other = Recorder(connection)
    connection.attach(other)
    connection.write(b"y" * 90)
    await asyncio.sleep(0)
    assert other.writes == [b"y" * 90]
