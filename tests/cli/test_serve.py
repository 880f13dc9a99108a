import importlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from beamish.cli import commands
from beamish.cli.demo import read
from beamish.config import ConfigProblems


def test_the_file_is_the_one_named_else_the_systems_else_none(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    named, system = tmp_path / "named.toml", tmp_path / "etc" / "beamish.toml"
    system.parent.mkdir()
    named.write_text("[server]\ndomains = ['named.example']")
    assert runner.invoke(commands, ["serve"]).exit_code == 0
    system.write_text("[server]\ndomains = ['system.example']")
    for args, environment in ([], {}), ([], {"BEAMISH_CONFIG": str(named)}), (["-c", str(named)], {}), (["--demo"], {}):
        assert runner.invoke(commands, ["serve", *args], env=environment).exit_code == 0
    assert [config.server.domains[0] for config in server.served] == [
        "localhost",
        "system.example",
        "named.example",
        "named.example",
        "localhost",
    ]


def test_reading_again_gives_the_file_as_it_is_now(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[limits]\ndepth = 20")
    runner.invoke(commands, ["serve", "-c", str(file)])
    assert server.reload is not None
    file.write_text("[limits]\ndepth = 30")
    assert server.reload().limits.depth == 30
    file.write_text("[limits]\ndepth = 0")
    with pytest.raises(ConfigProblems):
        server.reload()


def test_root_serves_as_the_owner_of_the_data(
    server: Any, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, int]] = []
    module = importlib.import_module("beamish.cli.serve")
    monkeypatch.setattr(module, "become_owner", lambda directory: asked.append((directory, len(server.served))))
    file = tmp_path / "b.toml"
    file.write_text("[server]\ndata_dir = 'data'")
    assert runner.invoke(commands, ["serve", "-c", str(file)]).exit_code == 0
    assert asked == [(tmp_path / "data", 0)]


def test_an_owner_that_may_not_read_the_program_is_told(
    server: Any, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's Python in /root: all goes well until something is needed that was not loaded yet."""
    monkeypatch.setattr(importlib.import_module("beamish.cli.serve"), "become_owner", lambda directory: True)
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith(str(Path(os.__file__).parent)))
    file = tmp_path / "b.toml"
    file.write_text("[server]\ndata_dir = 'data'")
    result = runner.invoke(commands, ["serve", "-c", str(file)])
    assert (result.exit_code, server.served) == (78, [])
    assert f"may not read this program in {Path(os.__file__).parent}/encodings; install it" in result.stderr


def test_a_server_that_cannot_start_says_why(server: Any, runner: CliRunner) -> None:
    server.cannot_start = OSError(98, "Address already in use")
    result = runner.invoke(commands, ["serve"])
    assert result.exit_code == 1
    assert result.stderr == "beamish: Address already in use\n"


def test_a_broken_configuration_is_not_served(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(commands, ["serve", "-c", str(tmp_path / "absent.toml")])
    assert result.exit_code == 78
    assert "absent.toml: No such file" in result.stderr
    assert not server.served


def test_the_demo_makes_two_accounts_once_and_tells_how_to_connect(
    server: Any, runner: CliRunner, tmp_path: Path
) -> None:
    first = runner.invoke(commands, ["serve", "--demo"])
    assert first.exit_code == 0
    file = tmp_path / "var" / "demo-accounts.txt"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read(file) == server.accounts
    assert sorted(server.accounts) == ["alice@localhost", "bob@localhost"]
    for told in (*server.accounts, *server.accounts.values(), "127.0.0.1:45222", "self-signed", "localhost:45222"):
        assert told in first.stdout
    second = runner.invoke(commands, ["serve", "--demo"])
    assert second.stdout == first.stdout


def test_a_demo_start_cut_short_is_completed_by_the_next(server: Any, runner: CliRunner) -> None:
    runner.invoke(commands, ["serve", "--demo"])
    kept = dict(server.accounts)
    del server.accounts["bob@localhost"]
    runner.invoke(commands, ["serve", "--demo"])
    assert server.accounts == kept


def test_the_demo_leaves_a_database_in_use_alone(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "beamish.db").touch()
    result = runner.invoke(commands, ["serve", "--demo"])
    assert "No demo accounts" in result.stdout
    assert not server.accounts
    assert not (tmp_path / "var" / "demo-accounts.txt").exists()


def test_where_it_listens_can_be_had_as_json(server: Any, runner: CliRunner) -> None:
    told = json.loads(runner.invoke(commands, ["serve", "--demo", "--json"]).stdout)
    assert told["listening"][0] == "c2s 127.0.0.1:45222 starttls"
    assert told["accounts"] == server.accounts


def test_without_demo_nothing_is_printed(server: Any, runner: CliRunner) -> None:
    assert runner.invoke(commands, ["serve"]).output == ""
