import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from beamish import __version__
from beamish.cli import commands


def run(*args: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "beamish", *args], capture_output=True, text=True, cwd=directory)


def test_the_version_is_printed(tmp_path: Path) -> None:
    result = run("--version", directory=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"beamish {__version__}\n")


@pytest.mark.parametrize("args", [[], ["--nonsense"], ["nonsense"], ["config"], ["user"]])
def test_a_wrong_call_ends_with_2(runner: CliRunner, args: list[str]) -> None:
    assert runner.invoke(commands, args).exit_code == 2


@pytest.mark.parametrize(
    "args", [["--help"], ["serve", "--help"], ["config", "check", "--help"], ["user", "add", "--help"]]
)
def test_help_is_no_error(runner: CliRunner, args: list[str]) -> None:
    result = runner.invoke(commands, args)
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_a_configuration_is_checked_by_the_installed_program(tmp_path: Path) -> None:
    file = tmp_path / "beamish.toml"
    file.write_text("[server]\ndomains = ['a.example']\ndomain = 1\n")
    result = run("config", "check", "-c", "beamish.toml", directory=tmp_path)
    assert result.returncode == 1
    assert result.stdout.startswith("beamish.toml:3: server.domain: unknown key")
