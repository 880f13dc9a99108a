"""Loads: full pipes and steady rates, what is lost or too much; and the relay, which is a server that loads can run on."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.bench import load as load_module
from tests.bench.load import Bench, Load, Options, TooSlow, at_rate
from tests.bench.runs import measure, setting_for
from tests.bench.scenarios import SCENARIOS, archive, contacts, mixed
from tests.bench.servers import SERVERS
from tests.bench.servers.base import PORTS, Setting, free_port
from tests.bench.servers.prosody import Prosody
from tests.bench.servers.relay import Relay
from tests.bench.wire import BenchError, Client, Tally

MARK = re.compile(rb"<m>(\d+)\.(\d+)</m>")
SHORT = Options(seconds=0.2, repeat=1, warmup=0.05, pairs=2, in_flight=8, occupants=4)


class Echo(Load):
    """A load on nobody: each piece comes back after a turn of the loop, as often as `copies` says."""

    def __init__(self, copies: int = 1) -> None:
        super().__init__([])
        self.copies = copies
        self.number = 0
        self.counts = Tally(MARK, b">")

    def attach(self) -> None:
        self.tally(self.counts)

    def fill(self) -> None:
        for _ in range(4):
            self.emit()

    def emit(self) -> tuple[bytes, int]:
        number = self.number
        self.number += 1
        self.sent(1)
        for _ in range(self.copies):
            asyncio.get_running_loop().call_soon(self.back, number)
        return b"0", number

    def back(self, number: int) -> None:
        try:
            count = self.counts.feed(b"<m>0.%d</m>" % number)
        except BenchError as error:
            self.fail(error)
            return
        if self.open:
            self.emit()
        self.took(count)


async def test_a_full_pipe_ends_when_all_has_arrived() -> None:
    echo = Echo()
    units = await echo.run(0.05)
    assert units == echo.number > 4
    assert echo.latencies == []


async def test_a_rate_is_kept_and_timed() -> None:
    echo = Echo()
    echo.rate = 200.0
    units = await echo.run(0.25)
    assert 30 <= units <= 52
    assert len(echo.latencies) == units
    assert all(0 <= late < 1 for late in echo.latencies)


async def test_after_a_rate_the_pipe_can_be_full_again() -> None:
    echo = Echo()
    echo.rate = 200.0
    await echo.run(0.05)
    echo.rate = None
    echo.latencies.clear()
    assert await echo.run(0.05) > 4
    assert echo.latencies == []


async def test_a_copy_fails_the_run() -> None:
    with pytest.raises(BenchError, match="got number 0 where 1 was due"):
        await Echo(copies=2).run(0.05)


async def test_a_loss_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "PATIENCE", 0.05)
    with pytest.raises(BenchError, match="4 deliveries are still missing"):
        await Echo(copies=0).run(0.05)


async def test_pieces_at_a_rate_never_share_a_slot() -> None:
    busy: set[int] = set()

    async def work(slot: int) -> None:
        assert slot not in busy
        busy.add(slot)
        await asyncio.sleep(0)
        busy.discard(slot)

    assert await at_rate(200.0, 0.1, work, 3) == 20


async def test_a_server_slower_than_the_rate_is_told_apart_from_a_loss() -> None:
    done = 0

    async def slow(_slot: int) -> None:
        nonlocal done
        await asyncio.sleep(0.05)
        done += 1

    with pytest.raises(TooSlow, match="200 a second are more"):
        await at_rate(200.0, 0.5, slow, 2)
    assert done == 2  # what was begun was brought to its end


def test_flows_that_are_ignored_may_be_anything() -> None:
    tally = Tally(MARK, b">", ignored=frozenset({b"7"}))
    seen: list[tuple[bytes, int]] = []
    tally.seen = lambda flow, number: seen.append((flow, number))
    assert tally.feed(b"<m>7.9</m><m>3.0</m><m>7.1</m>") == 1
    assert seen == [(b"3", 0)]
    assert tally.next_of(b"3") == 1
    assert tally.next_of(b"7") == 0


# ---- what servers are given -------------------------------------------------------------------------------------------


def test_ports_are_not_those_of_outgoing_connections() -> None:
    assert free_port() in PORTS
    assert max(PORTS) < 32_768  # where they begin unless somebody has changed it


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    server = Relay(Setting(accounts=4, core=999))
    async with server:
        yield server


def test_rosters_go_both_ways() -> None:
    server = Relay(Setting(accounts=4, friends=[(0, [1, 2]), (1, [2])]))
    server.folder.rmdir()
    assert server.pairs() == [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])]


async def test_prosody_is_given_rosters_and_accounts() -> None:
    server = Prosody(Setting(accounts=3, friends=[(0, [1])], archive=True))
    try:
        await server.prepare()
        data = server.folder / "data/localhost"
        assert {path.name for path in (data / "accounts").iterdir()} == {"u0.dat", "u1.dat", "u2.dat"}
        assert '["u1@localhost"] = { ["subscription"] = "both"' in (data / "roster/u0.dat").read_text()
        assert '"mam"' in (server.folder / "prosody.cfg.lua").read_text()
    finally:
        await server.__aexit__()
    assert not server.folder.exists()


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_says_what_it_needs(name: str) -> None:
    setting = setting_for(name, Options(sessions=300))
    assert setting.accounts > 0
    members = {member for user, contacts in setting.friends for member in (user, *contacts)}
    assert all(member < setting.accounts for member in members)


def test_the_archive_is_on_where_it_is_read() -> None:
    assert setting_for("archive", Options()).archive
    assert not setting_for("chat", Options()).archive
    assert archive.accounts(Options()) == 2


def test_nine_of_ten_deliveries_are_presence() -> None:
    sums = dict.fromkeys(mixed.DELIVERIES, 0)
    for step in range(len(mixed.PIECES)):
        sums[mixed.PIECES[step * mixed.STRIDE % len(mixed.PIECES)]] += 1
    sums = {kind: count * mixed.DELIVERIES[kind] for kind, count in sums.items()}
    assert sums["s"] == 900
    assert sum(sums.values()) == 1000


def test_a_ring_of_contacts() -> None:
    server = Relay(Setting(accounts=mixed.accounts(Options()), friends=mixed.friends(Options())))
    server.folder.rmdir()
    assert {len(found) for _, found in server.pairs()} == {mixed.CONTACTS}
    assert len(server.pairs()) == mixed.USERS


async def test_a_contact_counts_who_comes_and_goes() -> None:
    watcher = contacts.Watcher(Client())
    stream = b"<presence from='u3@localhost/a' to='x'/><presence from=\"u3@localhost/a\" type=\"unavailable\"/>"
    for part in (stream[:20], stream[20:50], stream[50:]):
        watcher.client.sink(part)
    assert (watcher.came, watcher.went) == ({3: 1}, {3: 1})


# ---- whole scenarios on the relay, which needs nothing installed ------------------------------------------------------


@pytest.mark.parametrize("name", ["chat", "muc", "ping"])
async def test_a_scenario_runs_on_the_relay(name: str) -> None:
    rows = await measure(name, "relay", replace(SHORT, latency=50.0), core=999)
    full, paced = rows
    assert full.units > 10 and full.us_per_unit and full.server == "relay (uvloop, lxml)"
    assert paced.variant.endswith("50/s") and paced.figures["p50 ms"] > 0


async def test_a_relay_that_loses_a_message_gives_no_figure(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await relay.stop()
    program = (Path(load_module.__file__).parent / "relay.py").read_text()
    losing = program.replace("users[to].write(data)", "users[to].write(data.replace(b'0.7 ', b'0.8 '))")
    assert losing != program
    (tmp_path / "relay.py").write_text(losing)
    monkeypatch.setattr(relay, "command", lambda: [sys.executable, str(tmp_path / "relay.py"), str(relay.address.port)])
    await relay.start()
    bench = Bench(relay, SHORT)
    with pytest.raises(BenchError, match="flow 0: got number 8 where 7 was due"):
        await SCENARIOS["chat"].run(bench)
    await bench.drop_all()


async def test_what_a_server_printed_is_told_when_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Relay, "command", lambda self: [sys.executable, "-c", "print('no such option'); raise SystemExit(1)"]
    )
    with pytest.raises(BenchError, match="no such option"):
        async with Relay(Setting(accounts=1, core=999)):
            pass


def test_every_server_is_known_by_its_name() -> None:
    assert all(name == server.name for name, server in SERVERS.items())


def test_a_run_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "chat", "--server", "relay", "--seconds", "60", "--pairs", "2"]
    command += ["--server-core", "999", "--generator-core", "999"]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], env=os.environ | {"TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE
    ) as bench:
        assert bench.stderr is not None
        bench.stderr.readline()  # it has begun
        bench.terminate()
        assert bench.wait(30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
