"""The sandbox of `config/beamish.service` leaves the server what it needs; `test_booted.py` runs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "config" / "beamish.service"

TLS_BETWEEN_SERVERS = """
import ctypes, sys
from datetime import UTC, datetime
from pathlib import Path
if sys.argv[2] == "yes" and ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, since Linux 6.3
    sys.exit("this kernel cannot say")
from beamish.net.certificate import keep_self_signed, read_certificate
from beamish.net.tls_memory import TlsContexts
now = datetime.now(UTC)
file = keep_self_signed(Path(sys.argv[1]), ["a.example"], [], now)
certificate, _ = read_certificate(file, file, ["a.example"], now)
contexts = TlsContexts(lambda domain: certificate)
contexts.client("a.example"), contexts.server("a.example")
print("made")
"""


def options() -> dict[str, str]:
    """The unit's options; of one that is there several times, the last."""
    lines = (line.partition("=") for line in UNIT.read_text().splitlines() if not line.startswith(("#", "[")))
    return {name: value for name, _, value in lines if name}


def test_tls_between_servers_is_possible_in_the_sandbox(tmp_path: Path) -> None:
    """The callbacks of pyOpenSSL are memory that is written and executed."""
    denied = options().get("MemoryDenyWriteExecute", "no")
    program = [sys.executable, "-c", TLS_BETWEEN_SERVERS, str(tmp_path), denied]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "made\n", done.stderr


def test_there_are_file_descriptors_for_the_sessions_and_time_to_stop() -> None:
    from beamish.config.model import ServerConfig

    unit = options()
    assert int(unit["LimitNOFILE"]) >= 10_000
    assert float(unit["TimeoutStopSec"]) > ServerConfig().shutdown_grace
    assert unit["ProtectSystem"] == "strict"


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    return subprocess.run([program, "--no-pager", *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def unit(tmp_path: Path) -> str:
    """The unit as it stands, but for the program, which is where it is installed here."""
    path = tmp_path / "beamish.service"
    path.write_text(UNIT.read_text().replace("/opt/beamish/bin/beamish", sys.executable))
    return str(path)


def test_systemd_finds_no_mistake_in_the_unit(unit: str) -> None:
    done = analyzed("verify", "--man=no", "--recursive-errors=no", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    Path(unit).write_text(Path(unit).read_text().replace("ProtectSystem=strict", "ProtectSystem=maybe"))
    assert "maybe" in analyzed("verify", "--man=no", "--recursive-errors=no", unit).stderr, "it does look"


def test_what_systemd_says_of_the_sandbox(unit: str) -> None:
    """1.1 of 10 with Debian 12's systemd; what remains is the network, and memory for pyOpenSSL's callbacks."""
    assert analyzed("security", "--offline=true", "--threshold=15", unit).returncode == 0
    Path(unit).write_text(Path(unit).read_text().replace("ProtectSystem=strict", "").replace("User=beamish", ""))
    assert analyzed("security", "--offline=true", "--threshold=15", unit).returncode != 0, "it does count"


def test_it_is_watched() -> None:
    """`Type=notify` and the watchdog are what `tests/system/test_serve.py` plays with a socket in systemd's place."""
    assert options()["Type"] == "notify"
    assert float(options()["WatchdogSec"]) >= 30


def test_what_cannot_get_better_by_itself_is_not_tried_again() -> None:
    from beamish.cli.console import UNSTARTABLE

    unit = options()
    assert str(UNSTARTABLE) in unit["RestartPreventExitStatus"].split()
    assert (unit["Restart"], unit["StartLimitIntervalSec"]) == ("on-failure", "0"), "everything else is"
