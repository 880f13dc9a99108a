import errno
import json
import os
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from beamish.cli import commands, console


def test_a_password_comes_from_standard_input(server: Any, runner: CliRunner) -> None:
    result = runner.invoke(commands, ["user", "add", "Ada@localhost", "--password-stdin"], input=" se cret \r\nmore\n")
    assert (result.exit_code, result.stdout) == (0, "")
    assert server.accounts == {"ada@localhost": " se cret "}
    assert "se cret" not in result.output


def test_a_password_is_asked_for_twice(server: Any, runner: CliRunner) -> None:
    result = runner.invoke(commands, ["user", "add", "ada@localhost"], input="one\ntwo\nthree\nthree\n")
    assert result.exit_code == 0
    assert server.accounts == {"ada@localhost": "three"}
    assert "one" not in result.output


@pytest.mark.parametrize("extra", [["--password-stdin"], []])
def test_an_empty_password_is_refused(server: Any, runner: CliRunner, extra: list[str]) -> None:
    result = runner.invoke(commands, ["user", "add", "ada@localhost", *extra], input="\n\n")
    assert result.exit_code == 2
    assert not server.accounts


def test_a_random_password_is_printed_and_nothing_else(server: Any, runner: CliRunner) -> None:
    result = runner.invoke(commands, ["user", "add", "ada@localhost", "--random"])
    assert result.stdout == server.accounts["ada@localhost"] + "\n"
    again = runner.invoke(commands, ["user", "passwd", "ada@localhost", "--random", "--json"])
    assert json.loads(again.stdout) == {"jid": "ada@localhost", "password": server.accounts["ada@localhost"]}
    assert again.stdout != result.stdout


def test_the_password_is_changed(server: Any, runner: CliRunner) -> None:
    server.accounts["ada@localhost"] = "old"
    result = runner.invoke(commands, ["user", "passwd", "ada@localhost", "--password-stdin"], input="new")
    assert result.exit_code == 0
    assert server.accounts["ada@localhost"] == "new"


@pytest.mark.parametrize(
    "args",
    [
        ["add", "localhost", "--random"],
        ["add", "a@b/c", "--random"],
        ["add", "@b", "--random"],
        ["add"],
        ["add", "a@b", "--random", "--password-stdin"],
        ["list", "a@b"],
        ["remove"],
        ["frobnicate"],
    ],
)
def test_a_wrong_call_ends_with_2_and_does_nothing(server: Any, runner: CliRunner, args: list[str]) -> None:
    assert runner.invoke(commands, ["user", *args]).exit_code == 2
    assert not server.accounts


def test_a_failure_ends_with_1_and_its_reason(server: Any, runner: CliRunner) -> None:
    server.accounts["ada@localhost"] = "x"
    result = runner.invoke(commands, ["user", "add", "ada@localhost", "--random"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "ada@localhost exists already" in result.stderr


def test_accounts_are_listed_one_per_line_or_as_json(server: Any, runner: CliRunner) -> None:
    server.accounts = {"a@localhost": "x", "b@example.org": "y"}
    assert runner.invoke(commands, ["user", "list"]).stdout == "a@localhost\nb@example.org\n"
    assert runner.invoke(commands, ["user", "list", "Example.org"]).stdout == "b@example.org\n"
    assert json.loads(runner.invoke(commands, ["user", "list", "--json"]).stdout) == [
        {"jid": "a@localhost"},
        {"jid": "b@example.org"},
    ]


def test_an_account_is_removed(server: Any, runner: CliRunner) -> None:
    server.accounts = {"a@localhost": "x"}
    assert runner.invoke(commands, ["user", "remove", "a@localhost"]).exit_code == 0
    assert not server.accounts
    assert runner.invoke(commands, ["user", "remove", "a@localhost"]).exit_code == 1


def test_a_broken_configuration_stops_every_command(server: Any, runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[server]\nx = 1\n")
    result = runner.invoke(commands, ["user", "list", "-c", str(file)])
    assert result.exit_code == 1
    assert f"{file}:2: server.x: unknown key" in result.stderr


def test_a_configuration_in_a_closed_directory_is_not_for_everybody(
    server: Any, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/etc/beamish` may be read by root and the server's user: that others ask happens every day."""

    class Closed(type(tmp_path)):  # type: ignore[misc]
        def exists(self, **_: object) -> bool:
            raise PermissionError(13, "Permission denied", str(self))

        def read_bytes(self) -> bytes:
            raise PermissionError(13, "Permission denied", str(self))

    file = Closed(tmp_path / "etc" / "beamish.toml")
    monkeypatch.setattr("beamish.cli.console.SYSTEM_CONFIG", file)
    monkeypatch.setattr(sys.modules["beamish.config.load"], "Path", Closed)
    said = f"{file}: Permission denied; this is for root or for the server's user\n"
    for command in (["user", "list"], ["serve"]):
        result = runner.invoke(commands, command)
        assert (result.exit_code != 0, result.stderr) == (True, said)
    result = runner.invoke(commands, ["config", "check"])
    assert (result.exit_code, result.stdout) == (1, said)


def test_data_of_somebody_else_is_not_for_everybody(
    server: Any, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_command(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/var/lib/beamish/beamish.lock")

    monkeypatch.setattr(server, "run_command", run_command)
    result = runner.invoke(commands, ["user", "list"])
    assert result.exit_code == 1
    told = "beamish: /var/lib/beamish/beamish.lock: Permission denied; this is for root or for the server's user"
    assert result.stderr.splitlines()[-1] == told


def test_that_the_defaults_apply_is_told_before_there_is_any_data(
    server: Any, runner: CliRunner, tmp_path: Path
) -> None:
    first = runner.invoke(commands, ["user", "list"])
    assert (first.exit_code, "the defaults apply, domain localhost, data in" in first.stderr) == (0, True)
    assert str(tmp_path / "var") in first.stderr
    assert runner.invoke(commands, ["user", "list"]).stderr == ""  # the data is there now
    (tmp_path / "b.toml").write_text("[server]\ndata_dir = 'elsewhere'")
    assert runner.invoke(commands, ["user", "list", "-c", str(tmp_path / "b.toml")]).stderr == ""


class Owned(type(Path())):  # type: ignore[misc]
    """A directory of the user 123 and the group 456."""

    group = 456

    def stat(self, **_: object) -> object:
        class Result:
            st_uid, st_gid = 123, self.group

        return Result


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """What the process asked to be; it is root's, and the user 123 is one without a name."""
    calls: list[tuple[str, object]] = []
    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(f"os.{name}", lambda value, name=name: calls.append((name, value)))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    return calls


def test_root_goes_on_as_the_owner_of_the_data(
    monkeypatch: pytest.MonkeyPatch, became: list[tuple[str, object]], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for nothing in ("absent", "file/below"):
        console.become_owner(tmp_path / nothing)
    with monkeypatch.context() as context:
        context.setattr("os.geteuid", lambda: 1000)
        console.become_owner(Owned(tmp_path))
    assert became == []
    console.become_owner(Owned(tmp_path))
    assert became == [("setgroups", []), ("setgid", 456), ("setuid", 123)]


@pytest.mark.parametrize(("group", "goes_on_with"), [(456, 456), (0, 120)])
def test_the_owner_has_the_groups_that_it_has_in_the_system(
    monkeypatch: pytest.MonkeyPatch,
    became: list[tuple[str, object]],
    tmp_path: Path,
    group: int,
    goes_on_with: int,
) -> None:
    """A key may be for one of these (Debian's ssl-cert); and the check would find a fault where the service has none."""
    beamish = pwd.struct_passwd(("beamish", "x", 123, 120, "", "/", "/bin/false"))
    monkeypatch.setattr("pwd.getpwuid", {123: beamish}.__getitem__)
    monkeypatch.setattr("os.getgrouplist", lambda name, gid: {("beamish", 120): [120, 789]}[name, gid])
    monkeypatch.setattr(Owned, "group", group)
    console.become_owner(Owned(tmp_path))
    assert became == [("setgroups", [120, 789]), ("setgid", goes_on_with), ("setuid", 123)]


def test_root_that_may_not_act_as_the_owner_says_so(
    monkeypatch: pytest.MonkeyPatch,
    became: list[tuple[str, object]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.setgroups", refuse)
    with pytest.raises(typer.Exit) as ended:
        console.become_owner(Owned(tmp_path))
    assert (ended.value.exit_code, became) == (1, [])
    told = f"beamish: cannot act as the owner of {tmp_path}, the user 123: Operation not permitted\n"
    assert capsys.readouterr().err == told
