import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from beamish.cli import commands, dev

ROOT = Path(__file__).parents[2]


def test_documents_are_written_once_and_then_up_to_date(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    call = ["dev", "gen", "--root", str(tmp_path)]
    assert runner.invoke(commands, [*call, "--check"]).exit_code == 1
    assert not (tmp_path / "docs").exists()
    assert runner.invoke(commands, call).stdout.count("written: ") == len(dev.GENERATED)
    assert runner.invoke(commands, [*call, "--check"]).exit_code == 0
    assert runner.invoke(commands, call).stdout == ""
    (tmp_path / "docs" / "config.md").write_text("old")
    result = runner.invoke(commands, [*call, "--check"])
    assert result.exit_code == 1
    assert "docs/config.md is out of date" in result.stderr


def test_the_documents_of_the_repository_are_up_to_date() -> None:
    result = subprocess.run([sys.executable, "-m", "beamish", "dev", "gen", "--check"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
