"""`config/` under a real systemd: a machine that boots in a second from this one's `/usr`, with all else in memory.

It has a network of its own and no root file system to spoil. What `tests/system/test_serve.py` says to a socket in systemd's
place is judged here by systemd itself, within the sandbox of the unit.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import beamish

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[2] / "config"
PATIENCE = 60.0
PYTHON = f"/opt/python/bin/{Path(sys.executable).resolve().name}"
ENVIRONMENT = {
    "PATH": "/opt/beamish/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LD_LIBRARY_PATH": "/opt/python/lib",
    "PYTHONPATH": "/opt/beamish/src:/opt/beamish/lib",
    "LANG": "C.UTF-8",
}
GOOD = """\
[server]
domains = ["example.org"]
data_dir = "/var/lib/beamish"
[c2s]
scram_iterations = 4096
"""
LOGIN = """
import asyncio
from pathlib import Path
from beamish.testing.live import connect, trust
from beamish.xmpp.jid import JID

async def login() -> None:
    ca = trust(Path("/var/lib/beamish/certs/self-signed.pem"))
    client = await connect("127.0.0.1", 5222, "example.org", ca)
    await client.login(JID.parse("ada@example.org/x"), "a password")
    await client.close()
    client.drop()

asyncio.run(login())
"""


class Machine:
    """A booted system: `run` does something in it as root."""

    def __init__(self, leader: str) -> None:
        self._leader = leader
        self._cursor = ""

    def run(self, *command: str, stdin: str = "", check: bool = True) -> str:
        """Standard output and error of a command; with `check` it must succeed."""
        inside = ["nsenter", "-t", self._leader, "-m", "-u", "-i", "-n", "-p", "-C", "--", *command]
        done = subprocess.run(
            inside,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            env=ENVIRONMENT,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def show(self, *names: str) -> list[str]:
        """Properties of the service."""
        out = self.run("systemctl", "show", "beamish", *(f"-p{name}" for name in names))
        found = dict(line.split("=", 1) for line in out.splitlines())
        return [found[name] for name in names]

    def settled(self) -> str:
        """The state in which the service is when it neither starts nor reloads any more."""
        until = time.monotonic() + PATIENCE
        while (state := self.show("SubState")[0]) in ("start", "reload", "auto-restart"):
            assert time.monotonic() < until, state
        return state

    def configure(self, text: str) -> None:
        """Write the configuration."""
        self.run("sh", "-c", "cat > /etc/beamish/beamish.toml", stdin=text)

    def begin_journal(self) -> None:
        """`journal` is to give what comes from now on."""
        self.run("journalctl", "--sync")
        (last,) = self.run("journalctl", "-q", "--lines=1", "-ojson").splitlines()
        self._cursor = json.loads(last)["__CURSOR"]

    def journal(self, *arguments: str) -> list[str]:
        """What the service has logged since then, oldest first."""
        self.run("journalctl", "--sync")
        after = f"--after-cursor={self._cursor}"
        return self.run("journalctl", "-q", "--no-pager", "-ubeamish", "-ocat", after, *arguments).splitlines()

    def wait_for(self, wanted: str) -> None:
        """Wait for a line with this in the journal. Asking takes its time, so that no pause is needed between."""
        until = time.monotonic() + PATIENCE
        while not any(wanted in line for line in self.journal()):
            assert time.monotonic() < until, "\n".join(self.journal())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which the administrator has done what the installation page says, up to the configuration."""
    nspawn = shutil.which("systemd-nspawn")
    if nspawn is None or os.geteuid() != 0:
        pytest.skip("systemd-nspawn (systemd-container) is not installed, or this is not root")
    directory = tmp_path_factory.mktemp("machine")
    program = directory / "beamish"
    variables = " ".join(f"{name}={ENVIRONMENT[name]}" for name in ("LD_LIBRARY_PATH", "PYTHONPATH"))
    program.write_text(f'#!/bin/sh\nexport {variables}\nexec {PYTHON} -m beamish "$@"\n')
    program.chmod(0o755)
    hasty = directory / "hasty.conf"
    hasty.write_text("[Service]\nRestartSec=0.1\n")
    units = "/etc/systemd/system"
    binds = {
        CONFIG / "sysusers.d/beamish.conf": "/etc/sysusers.d/beamish.conf",
        CONFIG / "tmpfiles.d/beamish.conf": "/etc/tmpfiles.d/beamish.conf",
        CONFIG / "beamish.service": f"{units}/beamish.service",
        hasty: f"{units}/beamish.service.d/hasty.conf",
        program: "/opt/beamish/bin/beamish",
        Path(sys.base_prefix): "/opt/python",
        Path(sysconfig.get_path("purelib")): "/opt/beamish/lib",
        Path(beamish.__file__).parent: "/opt/beamish/src/beamish",
    }
    console = directory / "console"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, console.open("wb") as out:
        told.bind(str(directory / "notify"))
        told.settimeout(PATIENCE)
        process = subprocess.Popen(
            [
                *(nspawn, "--boot", "--directory=/", "--volatile=yes", f"--machine=beamish-test-{os.getpid()}"),
                *("--register=no", "--keep-unit", "--private-network", "--console=pipe", "--notify-ready=yes"),
                *(f"--bind-ro={source}:{target}" for source, target in binds.items()),
                "systemd.unit=basic.target",
                "systemd.mask=systemd-networkd-wait-online.service",  # the loopback is all that there is
            ],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "NOTIFY_SOCKET": str(directory / "notify")},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            leader = _booted(process, told, console)
            told.close()  # else the machine waits for us to hear what more it has to say
            yield Machine(leader)
            os.kill(int(leader), signal.SIGKILL)  # all that it has is in memory
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()


def _booted(process: subprocess.Popen[bytes], told: socket.socket, console: Path) -> str:
    """The process id of the machine's first process, when it has booted. Skips where such a machine cannot be had."""
    leader = ready = None
    until = time.monotonic() + PATIENCE
    while not (leader and ready):
        told.settimeout(0.5)
        try:
            message = told.recv(4096).decode()
        except TimeoutError:
            if process.poll() is not None or time.monotonic() > until:
                pytest.skip(f"no machine can be booted here: {console.read_text().strip()[-300:]}")
            continue
        leader = re.search(r"^X_NSPAWN_LEADER_PID=(\d+)$", message, re.M) or leader
        ready = re.search(r"^READY=1$", message, re.M) or ready
    return leader[1]


@pytest.fixture
def service(machine: Machine) -> Machine:
    """The service runs with a good configuration."""
    machine.configure(GOOD)
    machine.run("systemctl", "start", "beamish")
    return machine


def test_it_is_installed_started_and_logged_in_to(service: Machine) -> None:
    assert "beamish" in service.run("getent", "passwd", "beamish")
    assert service.run("stat", "-c%a %U %G", "/etc/beamish", "/var/lib/beamish").split("\n")[:2] == [
        "750 root beamish",
        "700 beamish beamish",
    ]
    assert service.show("ActiveState", "SubState", "StatusText") == ["active", "running", "serving example.org"]
    service.run("beamish", "user", "add", "ada@example.org", "--password-stdin", stdin="a password\n")
    service.run(PYTHON, "-c", textwrap.dedent(LOGIN))
    assert {*service.run("sh", "-c", "stat -c%U /var/lib/beamish/*").split()} == {"beamish"}, "root left files behind"
    service.run("systemctl", "stop", "beamish")
    assert service.show("Result", "ActiveState") == ["success", "inactive"]
    assert "ada@example.org" in service.run("beamish", "user", "list")


def test_a_restart_by_command_is_no_end_to_systemd(service: Machine) -> None:
    service.begin_journal()
    before = service.show("MainPID", "NRestarts")
    service.run("beamish", "server", "restart")
    service.wait_for("] ready [")
    assert service.settled() == "running"
    assert service.show("MainPID", "NRestarts") == before
    service.run("systemctl", "stop", "beamish")
    assert service.show("Result") == ["success"]


def test_it_is_started_again_after_a_crash(service: Machine) -> None:
    service.begin_journal()
    (before,) = service.show("MainPID")
    service.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "beamish")
    service.wait_for("] ready [")
    assert service.settled() == "running"
    after, restarts = service.show("MainPID", "NRestarts")
    assert restarts == "1"
    assert after != before


def test_a_mistake_in_the_configuration_is_named_and_not_tried_again(service: Machine) -> None:
    service.begin_journal()
    service.run("systemctl", "reload", "beamish")
    assert service.settled() == "running"
    service.configure(GOOD + "[oops]\n")
    assert "failed" in service.run("systemctl", "reload", "beamish", check=False)
    service.wait_for("not_reloaded")
    assert service.settled() == "running"
    assert "not reloaded" in service.show("StatusText")[0]
    assert "failed" in service.run("systemctl", "restart", "beamish", check=False)
    assert service.show("ActiveState", "SubState", "ExecMainStatus") == ["failed", "failed", "78"]
    errors = service.journal("-p3")
    assert [line for line in errors if line.startswith("/etc/beamish/beamish.toml:6: oops: ")], errors
