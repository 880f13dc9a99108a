"""The installed command as a process of its own: served, spoken to and stopped the way an administrator does it."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

pytest.importorskip("beamish.app")

CONFIG = """\
[server]
data_dir = "data"
[c2s]
listen = ["127.0.0.1:0"]
direct_tls = ["127.0.0.1:0"]
[s2s]
listen = ["127.0.0.1:0"]
direct_tls = ["127.0.0.1:0"]
"""
BEAMISH = [sys.executable, "-m", "beamish"]


def beamish(*args: str, directory: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*BEAMISH, *args, "-c", "beamish.toml"]
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, input=stdin, timeout=60)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "beamish.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def server(directory: Path) -> Iterator[subprocess.Popen[str]]:
    with open(directory / "log", "w") as log:
        command = [*BEAMISH, "serve", "--demo", "--json", "-c", "beamish.toml"]
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(stream: IO[str] | None, directory: Path) -> str:
    """The line that says the server is ready; the log if it ends without one."""
    assert stream is not None
    line = stream.readline()
    assert line, (directory / "log").read_text()
    return line


def test_a_server_is_ready_takes_commands_and_stops(server: subprocess.Popen[str], directory: Path) -> None:
    told = json.loads(line_of(server.stdout, directory))
    port = next(int(line.split()[1].rpartition(":")[2]) for line in told["listening"] if line.endswith("starttls"))
    socket.create_connection(("127.0.0.1", port), timeout=10).close()
    assert sorted(told["accounts"]) == ["alice@localhost", "bob@localhost"]

    assert beamish("user", "add", "eve@localhost", "--password-stdin", directory=directory, stdin="x\n").returncode == 0
    listed = beamish("user", "list", "--json", directory=directory)
    assert {each["jid"] for each in json.loads(listed.stdout)} == {*told["accounts"], "eve@localhost"}
    again = beamish("user", "add", "eve@localhost", "--random", directory=directory)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("beamish: ")

    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0, (directory / "log").read_text()


def test_commands_work_without_a_server(directory: Path) -> None:
    assert beamish("user", "add", "eve@localhost", "--random", directory=directory).returncode == 0
    assert beamish("user", "list", directory=directory).stdout == "eve@localhost\n"
    assert beamish("user", "passwd", "eve@localhost", "--random", directory=directory).returncode == 0
    assert beamish("user", "remove", "eve@localhost", directory=directory).returncode == 0
    assert beamish("user", "list", directory=directory).stdout == ""


def test_a_port_in_use_is_said_in_one_line(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (directory / "beamish.toml").write_text(CONFIG.replace("127.0.0.1:0", f"127.0.0.1:{port}", 1))
        result = beamish("serve", directory=directory)
    assert result.returncode == 1
    assert str(port) in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_a_defect_is_told_in_plain_lines_where_nobody_sits_at_a_terminal() -> None:
    program = (
        "import sys, beamish.cli.console as console\n"
        "console.load = lambda *_: 1 / 0\n"
        "from beamish.cli import main\n"
        "sys.argv = ['beamish', 'serve']\n"
        "main()"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ZeroDivisionError: division by zero"
